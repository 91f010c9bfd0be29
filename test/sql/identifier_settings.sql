-- Kinds of identifier as an administrator sets them.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;

-- One of one's own, of which a person has one; then one setting of it.
SELECT cdi_set_identifier_type('ty_crm', '{"paths": ["traits.crm"], "max_per_person": 1, "limit_window": "ever"}');
SELECT cdi_set_identifier_type('ty_crm', '{"priority": 4}');
SELECT priority, paths, normaliser, max_per_person FROM cdi.identifier_types WHERE name = 'ty_crm';
SELECT cdi_identify(traits => '{"crm": "a"}', anonymous_id => 'ty-one') IS NOT NULL AS one;
SELECT cdi_identify(traits => '{"crm": "b"}', anonymous_id => 'ty-two') IS NOT NULL AS two;
SELECT cdi_identify(traits => '{"crm": "a"}', anonymous_id => 'ty-two') IS NOT NULL AS refused;
SELECT cdi_resolve();

-- It stays while somebody has it: by its limit they are two, whatever is rebuilt.
SELECT cdi_drop_identifier_type('ty_crm');
SELECT cdi_rebuild_identity() > 0 AS rebuilt;
SELECT cdi_person('anonymous_id', 'ty-one') = cdi_person('anonymous_id', 'ty-two') AS same;
SELECT * FROM cdi_identity_check();
SELECT cdi_erase_person(cdi_person('ty_crm', v)) FROM unnest('{a,b}'::text[]) AS v;
SELECT cdi_drop_identifier_type('ty_crm');

-- A dry run writes nothing, and uses up no number of a type.
SELECT last_value FROM cdi.identifier_types_type_id_seq \gset
SELECT * FROM cdi_identity_dry_run('{"ty_none": {}}');
SELECT * FROM cdi_identity_dry_run('[]');
SELECT last_value = :last_value AS unchanged FROM cdi.identifier_types_type_id_seq;

-- A parallel worker finds keys, too.
BEGIN;
-- Its name since PostgreSQL 16 is another.
SELECT set_config(name, 'on', true) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(DISTINCT cdi_person('email', relname || '@ty.example')) > 0 AS found FROM pg_class;
ROLLBACK;

-- There are 255 numbers.  Those of types that were dropped are given again once
-- all were given, and never one that is a type's.
SELECT last_value FROM cdi.identifier_types_type_id_seq \gset
BEGIN;
SELECT setval('cdi.identifier_types_type_id_seq', 254);
SELECT cdi_set_identifier_type('ty_last');
SELECT type_id FROM cdi.identifier_types WHERE name = 'ty_last';
SELECT count(cdi_set_identifier_type('ty_' || n)) AS more FROM generate_series(1, 254 - (SELECT count(*) FROM cdi.identifier_types WHERE name <> 'ty_last')) n;
SELECT count(*), count(DISTINCT type_id), min(type_id), max(type_id) FROM cdi.identifier_types;
SAVEPOINT s;
SELECT cdi_set_identifier_type('ty_more');
ROLLBACK TO s;
SELECT type_id AS dropped FROM cdi.identifier_types WHERE name = 'ty_3' \gset
SELECT cdi_drop_identifier_type('ty_3'), cdi_set_identifier_type('ty_more');
SELECT type_id = :dropped AS again FROM cdi.identifier_types WHERE name = 'ty_more';
ROLLBACK;
SELECT setval('cdi.identifier_types_type_id_seq', :last_value) = :last_value AS restored;
