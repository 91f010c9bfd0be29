-- How many identifiers of a type one person may have: what would exceed it is
-- set aside and logged, and never a merged stranger.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;
CREATE VIEW pg_temp.refused AS
SELECT type, value, reason, detail FROM cdi.identity_refusals WHERE value LIKE 'lim-%' ORDER BY position, value;
CREATE FUNCTION pg_temp.same(type_a text, value_a text, type_b text, value_b text) RETURNS boolean
LANGUAGE sql AS 'SELECT cdi_person(type_a, value_a) = cdi_person(type_b, value_b)';

-- The defaults: one user id for ever, five of the others within a time.
SELECT name, priority, max_per_person, limit_window FROM cdi.identifier_types
WHERE name IN ('user_id', 'email', 'anonymous_id') ORDER BY priority;

-- A shared device: it stays with who had it first.
SELECT cdi_track('lim-ann', 'Logged In', anonymous_id => 'lim-tablet') IS NOT NULL AS tracked;
SELECT cdi_track('lim-bob', 'Logged In', anonymous_id => 'lim-tablet') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT pg_temp.same('user_id', 'lim-ann', 'anonymous_id', 'lim-tablet') AS anns,
       pg_temp.same('user_id', 'lim-bob', 'anonymous_id', 'lim-tablet') AS bobs;
SELECT * FROM pg_temp.refused;
-- Bob's event is Bob's: its subject is the user id.
SELECT cdi_person_of(subject) = cdi_person('user_id', 'lim-bob') AS bobs FROM cdi.events WHERE user_id = 'lim-bob';

-- Of several identifiers only the one in the way is set aside.
SELECT cdi_identify('lim-bob', '{"email": "lim-bob@x.example"}', anonymous_id => 'lim-tablet') IS NOT NULL AS identified;
SELECT cdi_resolve();
SELECT pg_temp.same('user_id', 'lim-bob', 'email', 'lim-bob@x.example') AS email,
       pg_temp.same('user_id', 'lim-bob', 'anonymous_id', 'lim-tablet') AS device;

-- An alias says itself that the two are one: limits do not stop it.
SELECT cdi_alias('lim-carla', 'lim-carl') IS NOT NULL AS aliased;
SELECT cdi_resolve();
SELECT pg_temp.same('user_id', 'lim-carl', 'user_id', 'lim-carla') AS aliased;
-- Nor does an old excess keep anybody from other identifiers.
SELECT cdi_track('lim-carla', 'Seen', anonymous_id => 'lim-phone') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT pg_temp.same('user_id', 'lim-carl', 'anonymous_id', 'lim-phone') AS joined;

-- A window: the sixth device within seven days is set aside, one of later is not.
SELECT count(cdi_track('lim-dora', 'Seen', anonymous_id => 'lim-d' || day, "timestamp" => timestamptz '2026-03-01' + day * interval '1 day'))
FROM generate_series(1, 6) day;
SELECT cdi_track('lim-dora', 'Seen', anonymous_id => 'lim-d9', "timestamp" => timestamptz '2026-03-10 12:00') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT array_agg(value ORDER BY value) FROM cdi.person_identifiers
WHERE person_id = cdi_person('user_id', 'lim-dora') AND type = 'anonymous_id';
SELECT * FROM pg_temp.refused WHERE value = 'lim-d6';

-- Of devices that one link named, too, no more than the limit count: the two
-- newest of Fay's are the one of February and one of those that came together.
UPDATE cdi.identifier_types SET max_per_person = 2 WHERE name = 'anonymous_id';
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT nextval('cdi.event_position'), (SELECT min(event_id::text)::uuid FROM cdi.events WHERE user_id = 'lim-dora'), linked_at, rule,
       (SELECT array_agg(cdi_identifier(t, v) ORDER BY i) FROM unnest(types, "values") WITH ORDINALITY u (t, v, i)), types, "values"
FROM (VALUES (1, timestamptz '2026-03-20', 'track', '{anonymous_id,anonymous_id}'::text[], '{lim-fay1,lim-fay2}'::text[]),
             (2, '2026-02-01', 'track', '{user_id,anonymous_id}', '{lim-fay,lim-fay3}'),
             (3, '2026-03-20', 'alias', '{user_id,anonymous_id}', '{lim-fay,lim-fay1}'),
             (4, '2026-03-21', 'track', '{user_id,anonymous_id}', '{lim-fay,lim-fay4}')) l (n, linked_at, rule, types, "values")
ORDER BY n;
SELECT cdi_resolve();
SELECT pg_temp.same('user_id', 'lim-fay', 'anonymous_id', 'lim-fay4') AS joined;
UPDATE cdi.identifier_types SET max_per_person = 5 WHERE name = 'anonymous_id';

-- Two persons of whom the union would have too many stay two.
SELECT count(cdi_identify(traits => jsonb_build_object('email', 'lim-e' || i || '@x.example'), anonymous_id => 'lim-one', "timestamp" => '2026-04-01'))
FROM generate_series(1, 3) i;
SELECT count(cdi_identify(traits => jsonb_build_object('email', 'lim-f' || i || '@x.example'), anonymous_id => 'lim-two', "timestamp" => '2026-04-01'))
FROM generate_series(1, 3) i;
SELECT cdi_identify(traits => '{"email": "lim-e1@x.example"}', anonymous_id => 'lim-two', "timestamp" => '2026-04-02') IS NOT NULL AS identified;
SELECT cdi_resolve();
SELECT pg_temp.same('anonymous_id', 'lim-one', 'anonymous_id', 'lim-two') AS united;
SELECT * FROM pg_temp.refused WHERE value IN ('lim-one', 'lim-two');

-- Limits that are lowered below what there is take nothing away, but let
-- nothing more come; a rebuild goes by the limits of the time.
UPDATE cdi.identifier_types SET max_per_person = 2 WHERE name = 'email';
SELECT cdi_identify(traits => '{"email": "lim-e4@x.example"}', anonymous_id => 'lim-one', "timestamp" => '2026-04-03') IS NOT NULL AS identified;
SELECT cdi_resolve();
SELECT count(*) FROM cdi.person_identifiers WHERE person_id = cdi_person('anonymous_id', 'lim-one') AND type = 'email';
SELECT * FROM pg_temp.refused WHERE value = 'lim-one';
SELECT cdi_rebuild_identity() > 0 AS rebuilt;
SELECT count(*) FROM cdi.person_identifiers WHERE person_id = cdi_person('anonymous_id', 'lim-one') AND type = 'email';
SELECT * FROM cdi_identity_check();

-- What today's rules would make of all of history, and doing it.
SELECT change, parts, identifiers FROM cdi_identity_dry_run('{}')
WHERE person_id = cdi_person('anonymous_id', 'lim-one');
SELECT cdi_rebuild_identity(true) > 0 AS rebuilt;
SELECT count(*) FROM cdi.person_identifiers WHERE person_id = cdi_person('anonymous_id', 'lim-one') AND type = 'email';
SELECT * FROM cdi_identity_check();
UPDATE cdi.identifier_types SET max_per_person = 5 WHERE name = 'email';
SELECT change, parts, identifiers FROM cdi_identity_dry_run('{}')
WHERE person_id = cdi_person('anonymous_id', 'lim-one');
SELECT cdi_rebuild_identity(true) > 0 AS rebuilt;
SELECT count(*) FROM cdi.person_identifiers WHERE person_id = cdi_person('anonymous_id', 'lim-one') AND type = 'email';

-- Identifiers of one person that go another way together are a person who was
-- none before: a split, and no merge.
SELECT count(cdi_track('lim-split', 'Seen', context => '{"traits": {"email": "lim-split@x.example"}}')) FROM generate_series(1, 2);
SELECT count(cdi_identify(traits => '{"email": "lim-split@x.example"}', anonymous_id => 'lim-split' || i)) FROM generate_series(1, 2) i;
SELECT cdi_resolve();
SELECT r.change, i.value, r.parts, r.identifiers
FROM cdi_identity_dry_run('{"user_id": {"blocked": ["lim-split"]}}') r JOIN cdi.person_identifiers i ON i.identifier = r.person_id
WHERE i.value LIKE 'lim-split%';

-- An identifier that was blocked too late.
UPDATE cdi.identifier_types SET blocked = blocked || '{lim-tablet}' WHERE name = 'anonymous_id';
SELECT change, parts, identifiers FROM cdi_identity_dry_run('{}') WHERE person_id = cdi_person('user_id', 'lim-ann');
SELECT cdi_rebuild_identity(true) > 0 AS rebuilt;
SELECT array_agg(value) FROM cdi.person_identifiers WHERE person_id = cdi_person('user_id', 'lim-ann');
SELECT kind, reason FROM cdi.identity_revocations WHERE identifier = (SELECT identifier FROM cdi.person_identifiers WHERE value = 'lim-tablet');
SELECT * FROM cdi_identity_check();
UPDATE cdi.identifier_types SET blocked = array_remove(blocked, 'lim-tablet') WHERE name = 'anonymous_id';
