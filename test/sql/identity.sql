-- Who is who: naming, uniting, and what cdi_resolve() promises.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;

-- Traffic of a single identifier is its own person and writes nothing.
SELECT cdi_track(anonymous_id => 'id-visitor', event => 'Seen') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT cdi_person('anonymous_id', 'id-visitor') = subject AS own_person
FROM cdi.events WHERE anonymous_id = 'id-visitor';
SELECT count(*) FROM cdi.person_identifiers WHERE value = 'id-visitor';

-- Two identifiers on one event are one person, as of the next cdi_resolve().
SELECT cdi_track('id-ann', 'Logged In', anonymous_id => 'id-visitor') IS NOT NULL AS tracked;
SELECT cdi_person('user_id', 'id-ann') = cdi_person('anonymous_id', 'id-visitor') AS before;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-ann') = cdi_person('anonymous_id', 'id-visitor') AS after;
SELECT cdi_resolve() AS nothing_new;
SELECT type, value FROM cdi.person_identifiers
WHERE person_id = cdi_person('user_id', 'id-ann') ORDER BY type;
-- The events of before are hers without having changed.
SELECT event, cdi_person_of(subject) = cdi_person('user_id', 'id-ann') AS hers
FROM cdi.events WHERE anonymous_id = 'id-visitor' ORDER BY position;

-- Identify names a person even with a single identifier; the latest time wins
-- per trait, a JSON null sets nothing.
SELECT cdi_identify('id-bob', '{"name": "Bob", "plan": "free"}', "timestamp" => '2026-02-01') IS NOT NULL AS identified;
SELECT cdi_identify('id-bob', '{"plan": "pro", "seats": 3}', "timestamp" => '2026-03-01') IS NOT NULL AS identified;
SELECT cdi_resolve();
SELECT cdi_identify('id-bob', '{"plan": "trial", "name": null, "city": "Ulm"}', "timestamp" => '2026-01-01') IS NOT NULL AS late;
SELECT cdi_resolve();
SELECT identifiers, named_at::date, traits FROM cdi.persons WHERE person_id = cdi_person('user_id', 'id-bob');

-- E-mail addresses are compared in lower case.
SELECT cdi_identify('id-bob', '{"email": " Bob@Example.com"}', "timestamp" => '2026-03-02') IS NOT NULL AS identified;
SELECT cdi_resolve();
SELECT cdi_person('email', 'BOB@example.COM ') = cdi_person('user_id', 'id-bob') AS same;

-- The older person survives a merge; the id of the other one still leads there.
-- (Two user ids are one person's only where the limit allows it: identity_limits.)
UPDATE cdi.identifier_types SET max_per_person = NULL WHERE name = 'user_id';
SELECT cdi_identify('id-old', '{"age": "older"}', "timestamp" => '2026-02-01') IS NOT NULL AS first;
SELECT cdi_identify('id-young', '{"age": "younger", "pet": "cat"}', "timestamp" => '2026-01-01') IS NOT NULL AS second;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-old') AS old_person, cdi_person('user_id', 'id-young') AS young_person \gset
SELECT cdi_track('id-young', 'Logged In', anonymous_id => 'id-shared') IS NOT NULL AS tracked;
SELECT cdi_track('id-old', 'Logged In', anonymous_id => 'id-shared') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-young') = :'old_person' AS merged,
       cdi_person('anonymous_id', 'id-shared') = :'old_person' AS device,
       cdi_person_of(:'young_person') = :'old_person' AS absorbed_id_resolves;
SELECT m.survivor = :'old_person' AS survivor, m.absorbed = :'young_person' AS absorbed,
       l.rule, l.types FROM cdi.identity_merges m JOIN cdi.identity_links l USING (position)
WHERE m.absorbed = :'young_person';
SELECT identifiers, traits FROM cdi.persons WHERE person_id = :'old_person';
SELECT count(*) AS rows_of_the_absorbed FROM cdi.persons WHERE person_id = :'young_person';

-- What identifies nobody: blocked, empty, malformed values.
SELECT cdi_track('null', 'Blocked', anonymous_id => 'id-nobody') IS NOT NULL AS tracked;
SELECT cdi_track('id-carl', 'Blocked', anonymous_id => '00000000-0000-0000-0000-000000000000') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'NULL') AS blocked, cdi_person('user_id', ' ') AS empty, cdi_person('email', 'no address') AS malformed;
SELECT cdi_person('shoe_size', '42');
SELECT cdi_person(NULL, 'x') IS NULL AS strict;

-- Read your writes: a transaction that wrote links folds them itself ...
BEGIN;
SELECT cdi_track('id-dora', 'Logged In', anonymous_id => 'id-phone') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-dora') = cdi_person('anonymous_id', 'id-phone') AS same;
SAVEPOINT a;
SELECT cdi_track('id-dora', 'Logged In', anonymous_id => 'id-tablet') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-dora') = cdi_person('anonymous_id', 'id-tablet') AS same;
ROLLBACK TO a;
SELECT cdi_person('user_id', 'id-dora') = cdi_person('anonymous_id', 'id-tablet') AS same_after_rollback;
SELECT cdi_resolve();
ROLLBACK;
-- ... and a rollback takes it all back.
SELECT cdi_person('user_id', 'id-dora') = cdi_person('anonymous_id', 'id-phone') AS same_after_rollback;
SELECT cdi_resolve();
BEGIN;
SELECT cdi_track('id-dora', 'Logged In', anonymous_id => 'id-phone') IS NOT NULL AS tracked;
SELECT cdi_resolve();
COMMIT;
-- Folded above the watermark, it is not folded again below it.
SELECT cdi_track('id-dora', 'Logged In', anonymous_id => 'id-tablet') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT array_agg(value ORDER BY value) FROM cdi.person_identifiers WHERE person_id = cdi_person('user_id', 'id-dora');

-- Whoever may call it needs no rights on the tables.
CREATE ROLE cdi_test_resolver;
SET ROLE cdi_test_resolver;
SELECT cdi_resolve();
RESET ROLE;
SELECT cdi_track('id-emil', 'Logged In', anonymous_id => 'id-laptop') IS NOT NULL AS tracked;
GRANT EXECUTE ON FUNCTION cdi_resolve(), cdi_person(text, text) TO cdi_test_resolver;
SET ROLE cdi_test_resolver;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'id-emil') = cdi_person('anonymous_id', 'id-laptop') AS same;
SELECT count(*) FROM cdi.identity_map;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION cdi_resolve(), cdi_person(text, text) FROM cdi_test_resolver;
DROP ROLE cdi_test_resolver;

-- A rebuild from the links gives the same map.
CREATE TEMP TABLE kept AS SELECT * FROM cdi.identity_map;
SELECT cdi_rebuild_identity() = (SELECT count(*) FROM kept) AS complete;
SELECT count(*) AS differences FROM
    ((TABLE kept EXCEPT TABLE cdi.identity_map) UNION ALL (TABLE cdi.identity_map EXCEPT TABLE kept)) d;
-- It repairs what was broken by hand.
DELETE FROM cdi.identity_map WHERE identifier = person_id AND person_id = cdi_person('user_id', 'id-ann');
SELECT cdi_track('id-anna', 'Logged In', anonymous_id => 'id-visitor') IS NOT NULL AS tracked;
\set VERBOSITY terse
SELECT cdi_resolve();
\set VERBOSITY default
SELECT cdi_rebuild_identity() = (SELECT count(*) FROM kept) AS complete;
SELECT cdi_resolve();
SELECT array_agg(value ORDER BY value) FROM cdi.person_identifiers WHERE person_id = cdi_person('user_id', 'id-ann');

-- A map that is in use cannot be replaced; its rows are then changed in place.
BEGIN;
DECLARE reading CURSOR FOR SELECT * FROM cdi.identity_map;
FETCH 1 FROM reading \g /dev/null
SELECT cdi_rebuild_identity() = (SELECT count(*) + 1 FROM kept) AS complete;
COMMIT;

-- Where it cannot work it says so.
BEGIN READ ONLY;
SELECT cdi_resolve();
ROLLBACK;
UPDATE cdi.identifier_types SET max_per_person = 1 WHERE name = 'user_id';
