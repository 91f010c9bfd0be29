-- A run that would hold more than maintenance_work_mem folds through sorts on
-- disk: the map, the merges and the refusals are those of a run in memory.
-- What a run in memory makes of links is what identity_batches.sql is about.
-- A database of its own, because positions are set by hand here.
CREATE DATABASE identity_spill ENCODING 'UTF8' TEMPLATE template0;
\c identity_spill
SET client_min_messages = warning;
CREATE EXTENSION cdi;
BEGIN;
SELECT cdi_init();
ALTER DATABASE identity_spill SET cdi.enabled = off;
COMMIT;
CREATE SCHEMA spill;
-- Of which not all keep to their limits below.
UPDATE cdi.identifier_types SET max_per_person = 1, limit_window = NULL WHERE name = 'user_id';
UPDATE cdi.identifier_types SET max_per_person = 2, limit_window = '6 hours' WHERE name = 'anonymous_id';

-- 50,000 links of 12,000 people, who have a user id, an e-mail address and
-- three devices.  One in ten comes from somebody else's device, so that a
-- third of all identifiers hang together.
CREATE FUNCTION spill.draw(seed text, sides int) RETURNS int
LANGUAGE sql IMMUTABLE AS $$ SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % sides $$;

CREATE TABLE spill.links AS
SELECT n AS position, CASE spill.draw('alias ' || n, 30) WHEN 0 THEN 'alias' ELSE 'track' END AS rule,
       CASE WHEN kind < 5 THEN ARRAY['user_id', 'anonymous_id'] WHEN kind < 7 THEN ARRAY['user_id', 'email', 'anonymous_id']
            WHEN kind < 9 THEN ARRAY['email', 'anonymous_id'] ELSE ARRAY['anonymous_id'] END AS types,
       CASE WHEN kind < 5 THEN ARRAY[u, d] WHEN kind < 7 THEN ARRAY[u, e, d] WHEN kind < 9 THEN ARRAY[e, d] ELSE ARRAY[d] END AS identifiers
FROM (SELECT n, spill.draw('kind ' || n, 10) AS kind, md5('user ' || person)::uuid AS u, md5('email ' || person)::uuid AS e,
             md5('device ' || CASE spill.draw('foreign ' || n, 10) WHEN 0 THEN spill.draw('owner ' || n, 12000) ELSE person END
                 || ' ' || spill.draw('device ' || n, 3))::uuid AS d
      FROM (SELECT n, spill.draw('person ' || n, 12000) AS person FROM generate_series(1, 50000) n) drawn) named;

CREATE TABLE spill.maps (way text, identifier uuid, person_id uuid, fold bigint, position bigint, type_id smallint);
CREATE TABLE spill.merges (way text, merge_id bigint, fold bigint, survivor uuid, absorbed uuid, position bigint, identifier uuid, merged_at timestamptz);
CREATE TABLE spill.refusals (way text, refused_at timestamptz, position bigint, event_id uuid, type text, identifier uuid, detail text);

CREATE PROCEDURE spill.start()
LANGUAGE sql AS $$
    TRUNCATE cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_rules,
        cdi.identity_merge_log, cdi.identity_refusals, cdi.identifier_traits;
    UPDATE cdi.watermark SET position = 0;
$$;

CREATE PROCEDURE spill.arrive(first int, last int)
LANGUAGE sql AS $$
    INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
    SELECT position, md5(position::text)::uuid, timestamptz '2026-01-01' + position * interval '1 second', rule, identifiers, types, '{}'
    FROM spill.links WHERE position BETWEEN first AND last;
    SELECT setval('cdi.event_position', last);
$$;

CREATE PROCEDURE spill.keep(way text)
LANGUAGE sql AS $$
    INSERT INTO spill.maps SELECT way, identifier, person_id, fold, position, type_id FROM cdi.identity_map;
    INSERT INTO spill.merges SELECT way, merge_id, fold, survivor, absorbed, position, identifier, merged_at FROM cdi.identity_merge_log;
    INSERT INTO spill.refusals SELECT way, refused_at, position, event_id, type, identifier, detail FROM cdi.identity_refusals;
$$;

SET cdi.identity_bulk_threshold = 1;
SET maintenance_work_mem = '64MB';
CALL spill.start();
CALL spill.arrive(1, 50000);
SELECT cdi_resolve();
SELECT run, links, bulk, spilled FROM cdi.identity_runs ORDER BY run;
SELECT memory AS memory_of_all FROM cdi.identity_runs \gset
CALL spill.keep('in memory');
SELECT count(*) > 16384 AS more_than_a_megabyte, count(DISTINCT person_id) > 10000 AS people FROM cdi.identity_map;
SELECT count(*) > 500 AS merges FROM cdi.identity_merge_log;
SELECT count(*) FILTER (WHERE detail LIKE '% user_id %') > 500 AS user_ids, count(*) FILTER (WHERE detail LIKE '% anonymous_id %') > 500 AS devices
FROM cdi.identity_refusals;

-- The graph is put out in the middle of a run.
SET maintenance_work_mem = '1MB';
CALL spill.start();
CALL spill.arrive(1, 50000);
SELECT cdi_resolve();
SELECT run, links, bulk, spilled, memory < :memory_of_all AS less FROM cdi.identity_runs ORDER BY run;
CALL spill.keep('at once');
-- Merges are recorded in the order of the links, and the map is written in that of people.
SELECT bool_and(merge_id > before) AS merges_in_order FROM (SELECT merge_id, lag(merge_id, 1, 0::bigint) OVER (ORDER BY ctid) AS before FROM cdi.identity_merge_log) m;
SELECT bool_and(person_id >= before) AS people_in_order FROM (SELECT person_id, lag(person_id) OVER (ORDER BY ctid) AS before FROM cdi.identity_map) p;

-- The stored map is too large from the start.
CALL spill.start();
CALL spill.arrive(1, 20000);
SELECT cdi_resolve();
CALL spill.arrive(20001, 50000);
SELECT cdi_resolve();
SELECT run, links, bulk, spilled, memory < :memory_of_all AS less FROM cdi.identity_runs ORDER BY run;
CALL spill.keep('in two runs');

-- The map is in use: its rows are changed in place.
CALL spill.start();
CALL spill.arrive(1, 20000);
SELECT cdi_resolve();
CALL spill.arrive(20001, 50000);
BEGIN;
DECLARE reader CURSOR FOR SELECT FROM cdi.identity_map;
SELECT cdi_resolve();
COMMIT;
SELECT run, links, bulk, spilled, memory < :memory_of_all AS less FROM cdi.identity_runs ORDER BY run;
CALL spill.keep('in place');

-- A rebuild does the same.
SELECT cdi_rebuild_identity() = count(*) AS complete FROM spill.maps WHERE way = 'in memory';
CALL spill.keep('rebuilt');
UPDATE cdi.identity_map SET person_id = identifier;
BEGIN;
DECLARE reader CURSOR FOR SELECT FROM cdi.identity_map;
SELECT cdi_rebuild_identity() = count(*) AS complete FROM spill.maps WHERE way = 'in memory';
COMMIT;
CALL spill.keep('rebuilt in place');

SELECT way, count(*) = (SELECT count(*) FROM spill.maps WHERE way = 'in memory') AS all,
       (SELECT count(*) FROM spill.maps b WHERE b.way = m.way AND NOT EXISTS (
            SELECT FROM spill.maps a WHERE a.way = 'in memory' AND a.identifier = b.identifier AND (a.person_id, a.fold, a.position, a.type_id) = (b.person_id, b.fold, b.position, b.type_id))) AS different
FROM spill.maps m GROUP BY way ORDER BY way;
SELECT count(DISTINCT way) AS ways, count(DISTINCT merges) AS records
FROM (SELECT way, md5(string_agg(m::text, ' ' ORDER BY merge_id)) AS merges
      FROM (SELECT way, (merge_id, fold, survivor, absorbed, position, identifier, merged_at) AS m, merge_id FROM spill.merges) m GROUP BY way) r;
SELECT count(DISTINCT way) AS ways, count(DISTINCT refusals) AS records
FROM (SELECT way, md5(string_agg(r::text, ' ' ORDER BY position, identifier)) AS refusals
      FROM (SELECT way, (refused_at, position, event_id, type, identifier, detail) AS r, position, identifier FROM spill.refusals) r GROUP BY way) s;

-- A person without a row of its own is found before anything is folded into it.
CALL spill.start();
CALL spill.arrive(1, 20000);
SELECT cdi_resolve();
DELETE FROM cdi.identity_map WHERE identifier = (SELECT person_id FROM cdi.identity_map GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1);
CALL spill.arrive(20001, 50000);
\set VERBOSITY sqlstate
SELECT cdi_resolve();
\set VERBOSITY default

-- Temporary files count against temp_file_limit.
CALL spill.start();
CALL spill.arrive(1, 50000);
SET temp_file_limit = '1MB';
SELECT cdi_resolve();
RESET temp_file_limit;
SELECT count(*) AS files_left FROM pg_ls_tmpdir();

\c regression
DROP DATABASE identity_spill;
