-- Forgetting identifiers, and that they do not come back.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;
CREATE FUNCTION pg_temp.people(pattern text) RETURNS TABLE (identifiers text)
LANGUAGE sql AS $$
    SELECT string_agg(value, ' ' ORDER BY value) FROM cdi.person_identifiers WHERE value LIKE pattern GROUP BY person_id ORDER BY 1
$$;
-- Everything that could still say the value
CREATE FUNCTION pg_temp.mentions(text) RETURNS TABLE (place text, rows bigint)
LANGUAGE plpgsql AS $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['identity_links', 'identifier_traits', 'identity_refusals', 'identity_merge_log', 'identity_revocations', 'identity_splits', 'identity_tombstones'] LOOP
        RETURN QUERY EXECUTE format('SELECT %L, count(*) FROM cdi.%I x WHERE x::text ILIKE %L HAVING count(*) > 0', t, t, '%' || $1 || '%');
    END LOOP;
END $$;

SELECT cdi_identify('er-ann', '{"email": "Er-Ann@x.example", "contact": "er-ann@X.example", "city": "Ulm"}', anonymous_id => 'er-phone', "timestamp" => '2026-06-01') IS NOT NULL AS first;
SELECT cdi_identify(traits => '{"email": "er-ann@x.example", "plan": "pro"}', anonymous_id => 'er-tablet', "timestamp" => '2026-06-02') IS NOT NULL AS second;
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('er-%');
SELECT cdi_identifier('email', 'er-ann@x.example') AS key, cdi_person('user_id', 'er-ann') AS person \gset
SELECT place FROM pg_temp.mentions('er-ann@x.example');

-- The e-mail address goes: what it held together comes apart, the rest stays.
SELECT cdi_erase_identifier('email', ' ER-ann@x.example');
SELECT * FROM pg_temp.people('er-%');
SELECT * FROM pg_temp.mentions('er-ann@x.example');
SELECT count(*) AS keys FROM cdi.identity_map WHERE identifier = :'key';
SELECT traits FROM cdi.persons WHERE person_id = cdi_person('user_id', 'er-ann');
SELECT count(*) AS tombstones, bool_and(octet_length(tombstone) = 32) AS hashed, bool_or(position(uuid_send(:'key') IN tombstone) > 0) AS says_the_key FROM cdi.identity_tombstones;
SELECT * FROM cdi_identity_check();

-- It does not come back: not with an event, not from another session's snapshot, not by a rebuild.
SELECT cdi_identify('er-eve', '{"email": "er-ann@x.example"}', message_id => 'er-again') IS NOT NULL AS stored;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdi_identify('er-eve', '{"email": "er-ann@x.example"}') IS NOT NULL AS stored;
COMMIT;
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('er-%');
SELECT type, value, identifier, reason, sum(occurrences) FROM cdi.identity_refusals WHERE reason = 'erased' GROUP BY 1, 2, 3, 4;
SELECT cdi_rebuild_identity() > 0 AS rebuilt;
SELECT * FROM pg_temp.people('er-%');
-- Erasing it again is no error: it is known to be gone.
SELECT cdi_erase_identifier('email', 'er-ann@x.example');
SELECT count(*) AS tombstones FROM cdi.identity_tombstones;

-- A person with all identifiers.
SELECT cdi_erase_person(:'person');
SELECT * FROM pg_temp.people('er-%');
SELECT count(*) AS rows_of_the_person FROM cdi.persons WHERE person_id = :'person';
SELECT count(*) AS traces FROM cdi.identity_merge_log WHERE survivor = :'person' OR absorbed = :'person';
-- One that was never linked is its own person; who was never seen is none.
SELECT count(*) AS tombstones FROM cdi.identity_tombstones \gset
\set VERBOSITY sqlstate
SELECT cdi_erase_person(cdi_identifier('anonymous_id', 'er-stranger'));
\set VERBOSITY default
SELECT count(*) = :tombstones AS no_tombstone FROM cdi.identity_tombstones;
SELECT cdi_track(anonymous_id => 'er-stranger', event => 'Seen') IS NOT NULL AS stored;
SELECT cdi_erase_person(cdi_identifier('anonymous_id', 'er-stranger'));
SELECT cdi_track('er-eve', 'Seen', anonymous_id => 'er-stranger') IS NOT NULL AS stored;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT * FROM pg_temp.people('er-%');
SELECT * FROM cdi_identity_check();

-- An erasure that is rolled back has not happened.
SELECT cdi_track('er-fay', 'Seen', anonymous_id => 'er-desk') IS NOT NULL AS stored;
BEGIN;
SELECT cdi_erase_identifier('anonymous_id', 'er-desk');
ROLLBACK;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT * FROM pg_temp.people('er-%') WHERE identifiers LIKE '%fay%';
SELECT cdi_track('er-fay', 'Seen', anonymous_id => 'er-desk2') IS NOT NULL AS stored;
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('er-%') WHERE identifiers LIKE '%fay%';

-- A value in another form, deep inside a trait, and among the refusals
SELECT cdi_identify('er-gil', '{"phone": "+49 (170) 1234567", "contact": {"mail": ["x", "ER-gil@x.example"]}, "call": "0049 170 1234567", "nothing": null, "plan": "pro"}') IS NOT NULL AS stored;
SELECT cdi_identify('er-gil', '{"email": "er-gil@x.example"}') IS NOT NULL AS stored;
SELECT cdi_resolve();
SELECT cdi_erase_identifier('phone', '+491701234567') AS phone, cdi_erase_identifier('email', 'er-gil@x.example') AS email;
SELECT traits FROM cdi.identity_links WHERE 'er-gil' = ANY ("values") ORDER BY position;
SELECT traits FROM cdi.persons WHERE person_id = cdi_person('user_id', 'er-gil');

-- What joined two other persons leaves their merge on record, and nothing of itself there.
SELECT cdi_identify(anonymous_id => 'er-hat', traits => '{"size": 1}') IS NOT NULL AS hat, cdi_identify('er-hal', '{"email": "er-hal@x.example"}') IS NOT NULL AS hal;
SELECT cdi_resolve();
SELECT cdi_identify(traits => '{"email": "er-hal@x.example"}', anonymous_id => 'er-hat') IS NOT NULL AS joined;
SELECT cdi_resolve();
SELECT cdi_identifier('email', 'er-hal@x.example') AS key, cdi_identifier('user_id', 'er-hal') AS hal, cdi_identifier('anonymous_id', 'er-hat') AS hat \gset
SELECT survivor = :'hat' AS hat_absorbs, identifier = :'key' AS by_the_address, type FROM cdi.identity_merges WHERE absorbed = :'hal';
BEGIN;
CREATE TEMP TABLE scans ON COMMIT DROP AS SELECT relid, seq_scan FROM pg_stat_xact_all_tables WHERE schemaname = 'cdi';
SELECT cdi_erase_identifier('email', 'er-hal@x.example');
-- Each look went by an index, however few rows there are.
SELECT relname, t.seq_scan - s.seq_scan AS scans FROM pg_stat_xact_all_tables t JOIN scans s USING (relid)
WHERE t.seq_scan > s.seq_scan AND relname = ANY ('{identity_links,identity_map,identity_merge_log,identity_refusals,identity_splits,identifier_traits,group_members,computed_trait_values,computed_trait_counts}') ORDER BY relname;
COMMIT;
SELECT survivor = :'hat' AS hat_absorbs, identifier, type, value FROM cdi.identity_merges WHERE absorbed = :'hal';
SELECT * FROM pg_temp.mentions(:'key');
SELECT * FROM pg_temp.people('er-ha%');

-- Many at once, with links and refusals of others between them
SELECT count(cdi_track('er-ivy', 'Seen', anonymous_id => 'er-ivy' || n, "timestamp" => timestamptz '2026-01-01' + n * interval '8 days')) FROM generate_series(1, 200) n;
SELECT count(cdi_identify('er-jim' || n % 3, '{"seen": "er-ivy7", "city": "Ulm"}', anonymous_id => 'er-ivy' || n, "timestamp" => timestamptz '2026-01-01' + n * interval '8 days')) FROM generate_series(1, 200) n;
SELECT cdi_resolve();
SELECT cdi_erase_person(cdi_person('user_id', 'er-ivy'));
SELECT place FROM pg_temp.mentions('er-ivy');
SELECT "values", traits, count(*) FROM cdi.identity_links WHERE "values"::text LIKE '%er-jim%' GROUP BY 1, 2 ORDER BY 1;
SELECT traits FROM cdi.persons WHERE person_id = cdi_person('user_id', 'er-jim0');
SELECT * FROM cdi_identity_check();

-- Computed traits: what was counted goes, what waits for a fold goes, and the
-- history that a later trait counts has nothing of it.
SELECT cdi_create_computed_trait('er_now', 'count', 'er Order');
SELECT cdi_resolve() >= 0 AS resolved;
SELECT count(cdi_track(who, 'er Order', '{"kind": "x", "price": 2}')) FROM unnest('{er-kim,er-lea}'::text[]) who;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT count(cdi_track(who, 'er Order', '{"kind": "y", "price": 3}')) FROM unnest('{er-kim,er-lea}'::text[]) who;
SELECT cdi_erase_person(cdi_identifier('user_id', 'er-kim'));
SELECT cdi_create_computed_trait('er_later', 'sum', 'er Order', '{price}'), cdi_create_computed_trait('er_often', 'most_frequent', 'er Order', '{kind}');
SELECT cdi_resolve() >= 0 AS resolved;
SELECT cdi_track('er-kim', 'er Order', '{"kind": "z", "price": 4}') IS NOT NULL AS again;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT person_id = cdi_identifier('user_id', 'er-lea') AS leas, trait, value, events FROM cdi.person_computed_traits WHERE trait LIKE 'er\_%' ORDER BY 2, 1;
SELECT count(cdi_drop_computed_trait(name)) FROM cdi.computed_traits WHERE name LIKE 'er\_%';

-- Errors
SELECT cdi_erase_identifier('email', 'undefined');
SELECT cdi_erase_identifier('shoe_size', '42');
BEGIN READ ONLY;
SELECT cdi_erase_person('00000000-0000-0000-0000-000000000000');
ROLLBACK;
