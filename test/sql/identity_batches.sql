-- Folding depends on the order of the links and on nothing else: in whatever
-- batches, by whichever way of writing the map, links that come late or not.
-- The expected map is computed in plain SQL by label propagation.
-- A database of its own, because positions are set by hand here.
CREATE DATABASE identity_batches ENCODING 'UTF8' TEMPLATE template0;
\c identity_batches
SET client_min_messages = warning;
CREATE EXTENSION cdi;
BEGIN;
SELECT cdi_init();
ALTER DATABASE identity_batches SET cdi.enabled = off;
COMMIT;
CREATE SCHEMA batches;

-- 3,000 links of one to four identifiers; arrival is the order in which they
-- become visible, up to 200 links later than their position says.
CREATE FUNCTION batches.draw(seed text, sides int) RETURNS int
LANGUAGE sql IMMUTABLE AS $$ SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % sides $$;

CREATE TABLE batches.links AS
SELECT n AS position,
       n + CASE batches.draw('late ' || n, 10) WHEN 0 THEN batches.draw('by ' || n, 200) ELSE 0 END AS arrival,
       (SELECT array_agg(md5('identifier ' || batches.draw('pick ' || n || ' ' || k, 4000))::uuid ORDER BY k)
        FROM generate_series(0, batches.draw('size ' || n, 4)) k) AS identifiers
FROM generate_series(1, 3000) n;

CREATE TABLE batches.maps (way text, identifier uuid, person_id uuid, fold bigint, position bigint);
CREATE TABLE batches.merges (way text, fold bigint, survivor uuid, absorbed uuid, position bigint);

-- Let links arrive in batches of the given size and fold each batch.  Before
-- every fold the watermark stands below the first link still to come.
CREATE FUNCTION batches.fold(way text, size int, late boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    this int;
    waiting bigint;
    folded bigint := 0;
BEGIN
    TRUNCATE cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead,
        cdi.identity_merge_log, cdi.identifier_traits;
    UPDATE cdi.watermark SET position = 0;
    CREATE TEMP TABLE arriving AS
    SELECT *, (row_number() OVER (ORDER BY CASE WHEN late THEN arrival ELSE position END, position) - 1) / size AS batch
    FROM batches.links;
    CREATE INDEX ON arriving (batch);
    FOR this, waiting IN
        SELECT batch, min(min(position)) OVER (ORDER BY batch ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
        FROM arriving GROUP BY batch ORDER BY batch
    LOOP
        INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
        SELECT position, md5(position::text)::uuid, '2026-01-01', 'test', identifiers, '{}', '{}'
        FROM arriving WHERE batch = this;
        PERFORM setval('cdi.event_position', greatest(coalesce(waiting - 1, 3000), 1), coalesce(waiting, 2) > 1);
        folded := folded + cdi_resolve();
    END LOOP;
    DROP TABLE arriving;
    INSERT INTO batches.maps SELECT way, identifier, person_id, fold, position FROM cdi.identity_map;
    INSERT INTO batches.merges SELECT way, fold, survivor, absorbed, position FROM cdi.identity_merges;
    RETURN folded;
END $$;

-- The map that an order of links must give.
CREATE FUNCTION batches.expect(way text, size int, late boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE ordered AS
    SELECT *, row_number() OVER (ORDER BY rank / size, position) AS fold
    FROM (SELECT *, row_number() OVER (ORDER BY CASE WHEN late THEN arrival ELSE position END, position) - 1 AS rank
          FROM batches.links) l;
    CREATE TEMP TABLE edges AS SELECT DISTINCT fold, position, unnest(identifiers) AS identifier FROM ordered;
    CREATE TEMP TABLE labels AS SELECT identifier, min(fold) AS label FROM edges GROUP BY identifier;
    LOOP
        UPDATE labels l SET label = lower.label
        FROM (SELECT e.identifier, min(least_of.label) AS label
              FROM edges e
              JOIN (SELECT e2.fold, min(l2.label) AS label FROM edges e2 JOIN labels l2 USING (identifier) GROUP BY e2.fold) least_of
                  USING (fold)
              GROUP BY e.identifier) lower
        WHERE lower.identifier = l.identifier AND lower.label < l.label;
        EXIT WHEN NOT FOUND;
    END LOOP;
    INSERT INTO batches.maps
    SELECT way, l.identifier, o.identifiers[1], first.fold, first.position
    FROM labels l
    JOIN ordered o ON o.fold = l.label
    JOIN (SELECT DISTINCT ON (identifier) identifier, fold, position FROM edges ORDER BY identifier, fold) first
        ON first.identifier = l.identifier;
    DROP TABLE ordered, edges, labels;
END $$;

CREATE FUNCTION batches.same(a text, b text) RETURNS boolean
LANGUAGE sql AS $$
    SELECT count(*) > 1000 AND count(*) FILTER (WHERE ways <> 2) = 0
    FROM (SELECT count(*) AS ways FROM batches.maps WHERE way IN (a, b)
          GROUP BY identifier, person_id, fold, position) m
$$;

-- Without late links the batches do not matter.
SET cdi.identity_bulk_threshold = 1000000;
SELECT batches.expect('expected', 3000, false);
SELECT batches.fold('one by one', 1);
SELECT batches.same('expected', 'one by one');
SELECT batches.fold('sevens', 7);
SELECT batches.same('expected', 'sevens');
SELECT batches.fold('thousands', 1000);
SELECT batches.same('expected', 'thousands');
SELECT batches.fold('at once', 3000);
SELECT batches.same('expected', 'at once');
SELECT bool_or(bulk) AS any_bulk FROM cdi.identity_runs;

-- Nor does it matter how the map is written.
SET cdi.identity_bulk_threshold = 1;
SELECT batches.fold('bulk at once', 3000);
SELECT batches.same('expected', 'bulk at once');
SELECT batches.fold('bulk in halves', 1500);
SELECT batches.same('expected', 'bulk in halves');
SELECT bool_and(bulk) AS all_bulk FROM cdi.identity_runs;
-- A new map is in memory already when it is first read.
CREATE FUNCTION batches.pages_read(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Shared Read Blocks';
END $$;
SELECT batches.pages_read('SELECT count(fold) FROM cdi.identity_map');
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT batches.pages_read('SELECT count(fold) FROM cdi.identity_map WHERE identifier > md5(''a'')::uuid');
SELECT batches.pages_read('SELECT count(fold) FROM cdi.identity_map WHERE person_id > md5(''a'')::uuid');
RESET enable_seqscan;
RESET enable_bitmapscan;

-- Nor who looks on: every index has every row, also one that somebody added,
-- and a trigger sees each.
SET cdi.identity_bulk_threshold = 1000000;
CREATE EXTENSION amcheck;
CREATE INDEX identity_map_extra ON cdi.identity_map (reverse(person_id::text)) WHERE fold % 2 = 0;
SELECT batches.fold('with an index', 1000);
SELECT batches.same('expected', 'with an index');
SELECT indexrelid::regclass AS index, bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'cdi.identity_map'::regclass ORDER BY indexrelid::regclass::text;
SET enable_seqscan = off;
SELECT count(*) = (SELECT count(*) FROM batches.maps WHERE way = 'expected' AND fold % 2 = 0) AS all_are_found
FROM cdi.identity_map WHERE fold % 2 = 0 AND reverse(person_id::text) > '';
RESET enable_seqscan;
DROP INDEX cdi.identity_map_extra;
CREATE TABLE batches.seen AS SELECT identifier FROM cdi.identity_map WHERE false;
CREATE FUNCTION batches.see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO batches.seen VALUES (NEW.identifier); RETURN NULL; END';
GRANT USAGE ON SCHEMA batches TO PUBLIC;
GRANT INSERT ON batches.seen TO PUBLIC;
CREATE TRIGGER see AFTER INSERT ON cdi.identity_map FOR EACH ROW EXECUTE FUNCTION batches.see();
SELECT batches.fold('with a trigger', 1000);
SELECT batches.same('expected', 'with a trigger');
SELECT count(*) = (SELECT count(*) FROM cdi.identity_map) AS all_were_seen FROM batches.seen;
DROP TRIGGER see ON cdi.identity_map;
DELETE FROM batches.merges WHERE way LIKE 'with %';

-- The record of merges is the same too.
SELECT count(DISTINCT way) AS ways, count(DISTINCT merges) AS records
FROM (SELECT way, array_agg((fold, survivor, absorbed, position)::text ORDER BY fold, absorbed) AS merges
      FROM batches.merges GROUP BY way) m;
-- Every merge makes one person of two.
SELECT (SELECT count(DISTINCT person_id) FROM batches.maps WHERE way = 'expected')
     + (SELECT count(*) FROM batches.merges WHERE way = 'sevens')
     = (SELECT count(DISTINCT position) FROM batches.maps m WHERE way = 'expected'
        AND NOT EXISTS (SELECT FROM batches.links l, unnest(l.identifiers) AS i, batches.maps o
                        WHERE l.position = m.position AND o.way = 'expected' AND o.identifier = i AND o.fold < m.fold)) AS balanced;

-- Links that come late are folded late, once, and a rebuild knows it.
SET cdi.identity_bulk_threshold = 1000000;
SELECT batches.expect('expected late', 50, true);
SELECT batches.fold('late', 50, true);
SELECT batches.same('expected late', 'late');
SELECT count(*) > 100 AS some_were_folded_ahead FROM cdi.identity_ahead;
SELECT cdi_resolve() AS nothing_is_left;
SELECT cdi_rebuild_identity() = count(*) AS complete FROM cdi.identity_map;
INSERT INTO batches.maps SELECT 'rebuilt', identifier, person_id, fold, position FROM cdi.identity_map;
SELECT batches.same('expected late', 'rebuilt');
SET cdi.identity_bulk_threshold = 1;
SELECT batches.fold('late in bulk', 50, true);
SELECT batches.same('expected late', 'late in bulk');

-- Every person has a row of its own.
SELECT count(*) AS homeless FROM cdi.identity_map m
WHERE NOT EXISTS (SELECT FROM cdi.identity_map p WHERE p.identifier = m.person_id AND p.person_id = p.identifier);

-- How many links there are is guessed from the first batch, also where two
-- writers have filled pages in turn: of 36,000 links here the first half and the
-- second take turns, a thousand at a time.
TRUNCATE cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_merge_log, cdi.identifier_traits;
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT p + CASE n / 1000 % 2 WHEN 0 THEN 0 ELSE 18000 END, md5(n::text)::uuid, '2026-01-01', 'test', ARRAY[md5('a' || n)::uuid, md5('b' || n)::uuid], '{}', '{}'
FROM (SELECT n, n / 2000 * 1000 + n % 1000 + 1 AS p FROM generate_series(0, 35999) n) page ORDER BY n;
SELECT setval('cdi.event_position', 36000);
SET cdi.identity_bulk_threshold = 27000;
SELECT cdi_resolve();
SELECT bulk FROM cdi.identity_runs ORDER BY run DESC LIMIT 1;

-- A person with many devices, of whom a limit counts the newest 100 within
-- seven days: 200 devices, one a minute, and then one more at a time when all of
-- the newest 100 count, when one is just too old, and long after.
TRUNCATE cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_merge_log, cdi.identity_rules, cdi.identifier_traits;
SET cdi.identity_bulk_threshold = 1000000;
UPDATE cdi.identifier_types SET max_per_person = NULL, limit_window = NULL WHERE name = 'anonymous_id';
CREATE FUNCTION batches.link_whale(at bigint, device text, linked timestamptz) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
    VALUES (at, md5(device)::uuid, linked, 'test', ARRAY[md5('whale')::uuid, md5(device)::uuid], '{user_id,anonymous_id}', ARRAY['whale', device]);
    SELECT setval('cdi.event_position', at)
$$;
SELECT count(batches.link_whale(40000 + n, 'w' || n, timestamptz '2026-01-01Z' + n * interval '1 minute')) FROM generate_series(1, 200) n;
SELECT cdi_resolve();
UPDATE cdi.identifier_types SET max_per_person = 100, limit_window = '7 days' WHERE name = 'anonymous_id';
SELECT batches.link_whale(41001, 'all count', '2026-01-08 01:40:59Z') > 0 AS linked;
SELECT cdi_resolve();
SELECT detail FROM cdi.identity_refusals WHERE value = 'all count';
SELECT batches.link_whale(41002, 'one is too old', '2026-01-08 01:41:00Z') > 0 AS linked;
SELECT cdi_resolve();
SELECT batches.link_whale(41003, 'all are too old', '2026-03-01Z') > 0 AS linked;
BEGIN;
SELECT pg_stat_get_xact_numscans('cdi.identity_links_pkey'::regclass) AS scans \gset
SELECT cdi_resolve();
-- Nobody looks up when each of them was named.
SELECT pg_stat_get_xact_numscans('cdi.identity_links_pkey'::regclass) - :scans < 20 AS few_looked_up;
COMMIT;
SELECT value FROM cdi.person_identifiers WHERE person_id = md5('whale')::uuid AND value LIKE '% %' ORDER BY value;

-- Where all have been one person so far, the planner believes that everybody
-- is: merges of others, and an erasure, look up their own rows all the same.
UPDATE cdi.identifier_types SET max_per_person = NULL, limit_window = NULL;
TRUNCATE cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_merge_log, cdi.identity_rules, cdi.identifier_traits;
SELECT count(cdi_identify('one' || n, '{"size": 1}')) FROM generate_series(1, 4000) n;
SELECT cdi_resolve();
SELECT count(cdi_identify('one' || n, '{"email": "one@x.example"}')) FROM generate_series(1, 4000) n;
SELECT cdi_resolve();
ANALYZE cdi.identity_map, cdi.identity_merge_log;
SELECT count(cdi_track('pair' || n, 'Seen', anonymous_id => 'pair-a' || n)) FROM generate_series(1, 200) n;
SELECT cdi_resolve();
SELECT count(cdi_alias('pair' || n, 'pair' || n + 1)) FROM generate_series(1, 199, 2) n;
BEGIN;
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_map_person'::regclass) AS entries \gset
SELECT cdi_resolve();
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_map_person'::regclass) - :entries < 1000 AS own_rows_alone;
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_merge_log_survivor'::regclass) AS entries \gset
SELECT cdi_erase_person(cdi_person('user_id', 'pair1'));
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_merge_log_survivor'::regclass) - :entries < 100 AS own_rows_alone;
COMMIT;

-- The growth alarm looks up what came, and not whom it came to: 5 people to one
-- of 4,000.  It says what a comparison with the map of before says.
UPDATE cdi.identity_runs SET resolved_at = resolved_at - interval '2 hours';
CREATE TABLE before AS SELECT identifier, person_id FROM cdi.identity_map;
CREATE VIEW gained AS
SELECT m.person_id, count(*) AS gained FROM cdi.identity_map m LEFT JOIN before b USING (identifier)
WHERE b.person_id IS DISTINCT FROM m.person_id GROUP BY m.person_id HAVING count(*) >= 20;
SELECT count(cdi_alias('one1', 'pair' || n)) FROM generate_series(11, 19, 2) n;
SELECT cdi_resolve();
BEGIN;
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_links_identifiers'::regclass) AS entries \gset
SELECT h.value = g.gained AS same, person_id = cdi_person('user_id', 'one1') AS hers
FROM cdi.identity_health h FULL JOIN gained g USING (person_id) WHERE h.section = 'growth';
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_links_identifiers'::regclass) - :entries < 1000 AS what_came_alone;
COMMIT;
-- And where limits set aside what an alias unites later, and is taken back.
UPDATE cdi.identifier_types SET max_per_person = 8 WHERE name = 'anonymous_id';
SELECT count(cdi_track('grow' || n % 37, 'Seen', anonymous_id => 'grow-a' || n * n % 401)) FROM generate_series(1, 700) n;
SELECT cdi_resolve();
SELECT count(*) > 0 AS set_aside FROM cdi.identity_refusals WHERE reason = 'limit';
UPDATE cdi.identity_runs SET resolved_at = resolved_at - interval '2 hours';
TRUNCATE before;
INSERT INTO before SELECT identifier, person_id FROM cdi.identity_map;
SELECT count(cdi_alias('grow' || n % 5, 'grow' || n)) FROM generate_series(5, 36) n;
SELECT count(cdi_track('grow' || n % 40, 'Seen', anonymous_id => 'grown-a' || n)) FROM generate_series(1, 200) n;
SELECT cdi_resolve();
SELECT count(*) > 0 AS taken_back FROM cdi_unmerge('user_id', 'grow17');
SELECT count(*) > 3 AS several, bool_and(h.value IS NOT DISTINCT FROM g.gained) AS same
FROM gained g FULL JOIN (SELECT * FROM cdi.identity_health WHERE section = 'growth') h USING (person_id);
-- What waits to be sorted into the index on links is not compared with every
-- identifier of a large person.
CREATE EXTENSION pgstattuple;
SELECT count(cdi_track('wait' || n, 'Seen', anonymous_id => 'wait-a' || n)) FROM generate_series(1, 20) n;
SELECT pending_tuples > 0 AS wait FROM pgstatginindex('cdi.identity_links_identifiers');
BEGIN READ ONLY;
SELECT count(*) AS steps FROM cdi_explain_identity('user_id', 'one3', 'user_id', 'one4') WHERE status = 'linked';
COMMIT;
SELECT pending_tuples > 0 AS wait FROM pgstatginindex('cdi.identity_links_identifiers');
-- Of the runs it reads the last week's.
INSERT INTO cdi.identity_runs (run, first_fold, links, watermark, resolved_at, bulk, identifiers, merges, memory, unite_ms, total_ms)
SELECT -n, 0, 0, 0, now() - interval '30 days' - n * interval '1 second', false, 0, 0, 0, 0, 0 FROM generate_series(1, 40000) n;
VACUUM ANALYZE cdi.identity_runs;
BEGIN;
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_runs'::regclass) AS rows \gset
SELECT count(*) > 0 AS hours FROM cdi.identity_health WHERE section = 'merges per hour';
SELECT pg_stat_get_xact_tuples_returned('cdi.identity_runs'::regclass) - :rows < 20000 AS some_rows;
COMMIT;

\c regression
DROP DATABASE identity_batches;
