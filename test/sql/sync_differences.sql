-- A run of a sync looks only at rows which sums of hashes say may differ.  Here
-- generated changes show that it finds what a comparison of everything finds.
SET TimeZone = 'UTC';
SET IntervalStyle = 'iso_8601';
SET client_min_messages = warning;
SELECT setseed(0.2026);

-- Sums of two sets of rows are the same where the sets are: by key, value and how
-- often, whatever the order.  Row n is of the first set, of the second, or both.
WITH drawn AS MATERIALIZED (
  SELECT c, side, cdi._row_hash('00010203-0405-0607-0809-0a0b0c0d0e0f', key, value, other) AS hash, key, (key, value, other)::text AS line, random() AS place
  FROM (SELECT c, n, 'k' || (random() * 3)::int AS key, nullif((random() * 2)::int, 0) AS value, nullif((random() * 2)::int, 0) AS other, (random() * 8)::int AS kind
        FROM generate_series(1, 20000) c, generate_series(1, 6) n) r
  CROSS JOIN LATERAL (VALUES ('a', kind <> 0), ('b', kind <> 1)) s (side, there) WHERE there),
-- the sums alone, without the 20 bytes that count rows
compared AS (
  SELECT c, substr(cdi._bucket_sums(64, key, hash ORDER BY place) FILTER (WHERE side = 'a'), 21)
         IS NOT DISTINCT FROM substr(cdi._bucket_sums(64, key, hash ORDER BY place) FILTER (WHERE side = 'b'), 21) AS same_sums,
         array_agg(line ORDER BY line) FILTER (WHERE side = 'a') IS NOT DISTINCT FROM array_agg(line ORDER BY line) FILTER (WHERE side = 'b') AS same_rows
  FROM drawn GROUP BY c)
SELECT count(*) > 19000 AS many, count(*) FILTER (WHERE same_rows) > 1000 AS same, count(*) FILTER (WHERE NOT same_rows) > 1000 AS other,
       count(*) FILTER (WHERE same_sums <> same_rows) AS wrong
FROM compared;

-- An integer has the bucket of its text.
SELECT cdi._bucket_sums(65536, n, hash) = cdi._bucket_sums(65536, n::text, hash) AS big,
       cdi._bucket_sums(65536, n::integer, hash) FILTER (WHERE abs(n) < 2e9) = cdi._bucket_sums(65536, n::text, hash) FILTER (WHERE abs(n) < 2e9) AS normal,
       cdi._bucket_sums(65536, n::smallint, hash) FILTER (WHERE abs(n) < 3e4) = cdi._bucket_sums(65536, n::text, hash) FILTER (WHERE abs(n) < 3e4) AS small,
       count(*) FILTER (WHERE cdi._in_buckets(n, map) <> cdi._in_buckets(n::text, map)) AS wrong, count(*) FILTER (WHERE cdi._in_buckets(n, map)) BETWEEN 50 AND 150 AS some
FROM (SELECT (m * sign)::bigint AS n, gen_random_uuid() AS hash, sha256('map') || sha512('map') AS map
      FROM (SELECT generate_series(0, 83)::numeric UNION ALL SELECT 10::numeric ^ generate_series(3, 18)) m (m), (VALUES (-1), (1)) s (sign)) r;
SELECT cdi._in_buckets(1.5, '\x00');

CREATE TYPE differ_plan AS ENUM ('free', 'pro');
CREATE TABLE differ_rows (id text, flag boolean, small smallint, big bigint, ratio double precision, amount numeric, name text,
  code char(4), doc jsonb, raw bytea, day date, at timestamptz, span interval, tags text[], plan differ_plan, unused text);
CREATE VIEW differ_model AS SELECT id, flag, small, big, ratio, amount, name, code, doc, raw, day, at, span, tags, plan FROM differ_rows;
-- values that are easily taken for one another
CREATE FUNCTION differ_row(key text) RETURNS differ_rows LANGUAGE sql VOLATILE AS $$
  SELECT ROW(key, ('{t,f,NULL}'::boolean[])[1 + floor(random() * 3)], ('{0,-1,NULL}'::smallint[])[1 + floor(random() * 3)], ('{0,4294967296,NULL}'::bigint[])[1 + floor(random() * 3)],
    ('{0,-0,NULL}'::double precision[])[1 + floor(random() * 3)], ('{1.0,1.00,NULL}'::numeric[])[1 + floor(random() * 3)], ('{"",a,NULL}'::text[])[1 + floor(random() * 3)], ('{"",a,NULL}'::char(4)[])[1 + floor(random() * 3)],
    ('{"{}",null,NULL}'::jsonb[])[1 + floor(random() * 3)], ('{"","\\x00",NULL}'::bytea[])[1 + floor(random() * 3)], ('{2026-01-01,infinity,NULL}'::date[])[1 + floor(random() * 3)],
    ('{2026-01-01,-infinity,NULL}'::timestamptz[])[1 + floor(random() * 3)], ('{1 day,24 hours,NULL}'::interval[])[1 + floor(random() * 3)],
    CASE floor(random() * 3) WHEN 1 THEN '{}'::text[] WHEN 2 THEN '{a,NULL}' END, ('{free,pro,NULL}'::differ_plan[])[1 + floor(random() * 3)], NULL)::differ_rows$$;
SELECT cdi_create_destination('differ', settings => '{"url": "https://differ.example/rows"}') > 0 AS created;
SELECT cdi_create_sync('differ', 'differ', 'SELECT * FROM differ_model', 'id') > 0 AS created;
ALTER TABLE differ_rows SET (parallel_workers = 2);

-- What the destination has once all that is queued has arrived
CREATE TABLE differ_state (id text PRIMARY KEY, payload text);
CREATE TABLE differ_found (round integer, found text, expected text);
CREATE FUNCTION differ_change() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  a tid := (SELECT ctid FROM differ_rows ORDER BY random() LIMIT 1);
  b tid := (SELECT ctid FROM differ_rows ORDER BY random() LIMIT 1);
BEGIN
  CASE floor(random() * 9)::int
    WHEN 0 THEN INSERT INTO differ_rows SELECT * FROM differ_row('key ' || floor(random() * 1000));
    WHEN 1, 2 THEN DELETE FROM differ_rows WHERE ctid = a;
    WHEN 3 THEN INSERT INTO differ_rows SELECT r.* FROM differ_rows d, differ_row(d.id) r WHERE d.ctid = a; DELETE FROM differ_rows WHERE ctid = a;
    WHEN 4, 5 THEN EXECUTE (SELECT format('UPDATE differ_rows SET %1$I = (SELECT r.%1$I FROM differ_row(NULL) r) WHERE ctid = $1', attname)
      FROM pg_attribute WHERE attrelid = 'differ_model'::regclass AND attnum > 1 ORDER BY random() LIMIT 1) USING a;
    WHEN 6 THEN INSERT INTO differ_rows SELECT * FROM differ_rows WHERE ctid = a OR random() < 0.001;
    WHEN 7 THEN UPDATE differ_rows d SET id = (SELECT o.id FROM differ_rows o WHERE o.ctid IN (a, b) AND o.ctid <> d.ctid) WHERE ctid IN (a, b) AND a <> b;
    WHEN 8 THEN UPDATE differ_rows SET unused = random()::text WHERE ctid = a; UPDATE differ_rows SET id = NULL WHERE ctid = b AND random() < 0.2;
  END CASE;
END $$;
-- Everything compared; then the state is as if it had arrived.
CREATE FUNCTION differ_expected() RETURNS text LANGUAGE sql AS $$
  WITH m AS MATERIALIZED (SELECT id, to_jsonb(d)::text AS payload, count(*) OVER (PARTITION BY id) AS times FROM differ_model d),
  valid AS (SELECT id, payload FROM m WHERE id IS NOT NULL AND times = 1),
  compared AS MATERIALIZED (
    SELECT coalesce(v.id, s.id) AS id, coalesce(v.payload, s.payload) AS payload,
           CASE WHEN s.id IS NULL THEN 'insert' WHEN v.payload <> s.payload THEN 'update' WHEN v.id IS NULL THEN 'delete' END AS operation
    FROM valid v FULL JOIN differ_state s ON s.id = v.id
    WHERE v.id IS NOT NULL OR s.id NOT IN (SELECT m.id FROM m WHERE m.id IS NOT NULL)),
  gone AS (DELETE FROM differ_state s USING compared c WHERE c.operation = 'delete' AND s.id = c.id),
  kept AS (INSERT INTO differ_state SELECT id, payload FROM compared WHERE operation IN ('insert', 'update')
           ON CONFLICT (id) DO UPDATE SET payload = excluded.payload)
  SELECT concat_ws(' ', count(*) FILTER (WHERE operation = 'insert'), count(*) FILTER (WHERE operation = 'update'),
                   count(*) FILTER (WHERE operation = 'delete'), count(*) FILTER (WHERE operation IS NULL),
                   (SELECT count(*) FROM m) - (SELECT count(*) FROM valid),
                   string_agg(operation || ' ' || id || ' ' || payload, E'\n' ORDER BY id) FILTER (WHERE operation IS NOT NULL))
  FROM compared $$;
CREATE FUNCTION differ_found(run bigint) RETURNS text LANGUAGE sql AS $$
  SELECT concat_ws(' ', r.added, r.changed, r.removed, r.unchanged, r.invalid,
                   (SELECT string_agg(o.operation || ' ' || o.primary_key || ' ' || o.payload::text, E'\n' ORDER BY o.primary_key) FROM cdi.outbox o WHERE o.run_id = r.run_id))
         || CASE WHEN r.queried <> r.added + r.changed + r.removed + r.unchanged + r.invalid THEN ' does not add up' ELSE '' END
  FROM cdi.sync_runs r WHERE r.run_id = run $$;
-- All that is queued is accepted up to a position, as the push worker does it.
CREATE FUNCTION differ_accept(until bigint) RETURNS void LANGUAGE sql AS $$
  WITH latest AS (SELECT DISTINCT ON (o.primary_key) o.* FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) LEFT JOIN cdi.push_cursor c USING (sync_id)
                  WHERE s.name = 'differ' AND o.position > coalesce(c.position, 0) AND o.position <= until ORDER BY o.primary_key, o.position DESC),
  gone AS (DELETE FROM cdi.sync_rows r USING latest l WHERE l.operation = 'delete' AND r.sync_id = l.sync_id AND r.primary_key = l.primary_key),
  kept AS (INSERT INTO cdi.sync_rows SELECT sync_id, primary_key, hash, payload, now(), row_hash FROM latest WHERE operation <> 'delete'
           ON CONFLICT (sync_id, primary_key) DO UPDATE SET hash = excluded.hash, payload = excluded.payload, row_hash = excluded.row_hash)
  INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM latest GROUP BY sync_id
  ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position $$;

INSERT INTO differ_rows SELECT r.* FROM generate_series(1, 200) n, differ_row('key ' || n) r;
DO $$
DECLARE
  run bigint;
  found text;
  expected text;
BEGIN
  FOR round IN 1..250 LOOP
    -- some with workers
    PERFORM set_config('parallel_setup_cost', CASE WHEN round % 20 = 0 THEN '0' ELSE '1000' END, true),
            set_config('parallel_tuple_cost', CASE WHEN round % 20 = 0 THEN '0' ELSE '0.1' END, true),
            set_config('min_parallel_table_scan_size', CASE WHEN round % 20 = 0 THEN '0' ELSE '8MB' END, true),
            -- of 1 MB each process has a part: as many buckets as rows or some, and memory for all that differ, some or none
            set_config('maintenance_work_mem', '1MB', true),
            set_config('max_parallel_workers_per_gather', ('{2,128,256,512,1024}'::text[])[1 + floor(random() * 5)], true);
    PERFORM differ_change() FROM generate_series(1, floor(random() * 20)::int);
    run := cdi_sync_run('differ');
    found := differ_found(run);
    expected := differ_expected();
    INSERT INTO differ_found VALUES (round, found, expected);
    -- all of it arrives, or a part, or nothing yet
    IF random() < 0.8 THEN
      PERFORM differ_accept((SELECT max(position) - floor(greatest(0, random() * 20 - 10))::bigint FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'differ'));
    END IF;
  END LOOP;
END $$;
SELECT count(*) AS rounds, sum(split_part(found, ' ', 1)::int) > 300 AS many_added, sum(split_part(found, ' ', 2)::int) > 500 AS many_changed,
       sum(split_part(found, ' ', 3)::int) > 100 AS many_removed, sum(split_part(found, ' ', 4)::int) > 10000 AS many_unchanged,
       sum(split_part(found, ' ', 5)::int) > 500 AS many_invalid,
       count(*) FILTER (WHERE found IS DISTINCT FROM expected) AS wrong FROM differ_found;
SELECT round, found, expected FROM differ_found WHERE found IS DISTINCT FROM expected ORDER BY round LIMIT 1;
-- What a run removes goes before what it adds: both may have one order key.
SELECT count(*) > 50 AS runs_of_both, count(*) FILTER (WHERE last_deleted > first_other) AS wrong
FROM (SELECT max(position) FILTER (WHERE operation = 'delete') AS last_deleted, min(position) FILTER (WHERE operation <> 'delete') AS first_other
      FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'differ' GROUP BY run_id) r
WHERE last_deleted IS NOT NULL AND first_other IS NOT NULL;
DROP FUNCTION differ_row, differ_change, differ_expected, differ_found, differ_accept;
DROP VIEW differ_model;
DROP TABLE differ_rows, differ_state, differ_found;
DROP TYPE differ_plan;

-- What is looked at closely is found to be another here: the hash of what was
-- acknowledged is of nothing, and row_hash alone says that a row is as it was.
CREATE TABLE near AS SELECT n AS id, 'Customer ' || n AS name FROM generate_series(1, 20000) n;
ALTER TABLE near SET (parallel_workers = 2);
SELECT cdi_create_sync('near', 'differ', 'SELECT * FROM near', 'id') > 0 AS created;
SELECT cdi_sync_run('near') > 0 AS ran;
INSERT INTO cdi.sync_rows SELECT sync_id, o.primary_key, gen_random_uuid(), payload, now(), row_hash FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'near';
INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM cdi.outbox JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'near' GROUP BY 1;
-- of each hundred one is changed; of each thousand one is gone, and four are there
-- twice or more: both as it was, as another after that or before, and all of it
UPDATE near SET name = 'changed' WHERE id % 100 = 50;
DELETE FROM near WHERE id % 1000 = 7;
INSERT INTO near SELECT * FROM near WHERE id % 1000 = 11;
INSERT INTO near SELECT id, 'another' FROM near WHERE id % 1000 = 12;
INSERT INTO near SELECT id, 'another' FROM near WHERE id % 1000 = 13;
UPDATE near SET name = name WHERE id % 1000 = 13 AND name <> 'another';
INSERT INTO near SELECT id, n FROM near, LATERAL (VALUES ('another'), (name)) v (n) WHERE id % 1000 = 14;
INSERT INTO near VALUES (20001, 'new'), (20002, 'new and twice'), (20002, 'new and twice'), (NULL, 'nobody');
CREATE FUNCTION near_run(OUT queried bigint, OUT added bigint, OUT changed bigint, OUT removed bigint, OUT unchanged bigint, OUT invalid bigint, OUT queued bigint, OUT adds_up boolean) LANGUAGE plpgsql AS $$
DECLARE
  run bigint := cdi_sync_run('near');
BEGIN
  SELECT r.queried, r.added, r.changed, r.removed, r.unchanged, r.invalid, r.queued, r.queried = r.added + r.changed + r.removed + r.unchanged + r.invalid
  INTO near_run.queried, near_run.added, near_run.changed, near_run.removed, near_run.unchanged, near_run.invalid, near_run.queued, near_run.adds_up
  FROM cdi.sync_runs r WHERE run_id = run;
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
-- what is to be found
WITH m AS (SELECT id, min(name) AS name, count(*) AS n FROM near GROUP BY id)
SELECT count(*) FILTER (WHERE id = 20001) AS added, count(*) FILTER (WHERE n = 1 AND name = 'changed') AS changed, (SELECT count(*) FROM generate_series(1, 20000) i WHERE i NOT IN (SELECT id FROM m WHERE id IS NOT NULL)) AS removed,
       count(*) FILTER (WHERE n = 1 AND name LIKE 'Customer %') AS unchanged, sum(n) FILTER (WHERE n > 1 OR id IS NULL) AS invalid FROM m;
BEGIN;
SELECT * FROM near_run();
ROLLBACK;
-- several rows in each bucket, as with millions of rows
SET maintenance_work_mem = '1MB';
SET max_parallel_workers_per_gather = 8;
BEGIN;
SELECT * FROM near_run();
SELECT operation, count(*) FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'near' AND run_id = (SELECT max(run_id) FROM cdi.sync_runs) GROUP BY 1 ORDER BY 1;
ROLLBACK;
-- With less memory nearly all rows are looked at, and all where the model's role may not call what compares them quickly.
SET max_parallel_workers_per_gather = 1024;
BEGIN;
SELECT queried, added, changed > 19000 AS changed, removed, changed + unchanged AS here, invalid, adds_up FROM near_run();
ROLLBACK;
RESET maintenance_work_mem;
RESET max_parallel_workers_per_gather;
CREATE ROLE cdi_test_near;
GRANT SELECT ON near TO cdi_test_near;
GRANT USAGE ON SCHEMA public, cdi TO cdi_test_near;
GRANT EXECUTE ON FUNCTION cdi._row_hash, cdi._bucket_sums, cdi._in_buckets TO cdi_test_near;
UPDATE cdi.syncs SET run_as = 'cdi_test_near' WHERE name = 'near';
BEGIN;
SELECT * FROM near_run();
ROLLBACK;
BEGIN;
GRANT EXECUTE ON FUNCTION cdi._is_known TO cdi_test_near;
SELECT * FROM near_run();
ROLLBACK;
-- A model that never answers the same twice: what is counted adds up.
BEGIN;
CREATE FUNCTION near_random() RETURNS double precision LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT random()';
SELECT cdi_alter_sync('near', model => 'SELECT id, CASE WHEN near_random() < 0.9 THEN name ELSE ''another'' END AS name FROM near WHERE near_random() < 0.9');
SELECT adds_up, queued = added + changed + removed AS all_queued, unchanged > 10000 AS many_unchanged FROM near_run();
SELECT adds_up, queued = added + changed + removed AS all_queued FROM near_run();
ROLLBACK;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
-- A model that runs twice has its time once.
\set VERBOSITY terse
BEGIN;
SELECT cdi_alter_sync('near', model => 'WITH slow AS MATERIALIZED (SELECT pg_sleep(0.6)) SELECT near.* FROM near, slow');
SET LOCAL cdi.activate_model_timeout = '1s';
SELECT cdi_sync_run('near');
ROLLBACK;
\set VERBOSITY default
SELECT cdi_drop_sync('near');
REVOKE ALL ON SCHEMA public, cdi FROM cdi_test_near;
REVOKE ALL ON FUNCTION cdi._row_hash, cdi._bucket_sums, cdi._in_buckets FROM cdi_test_near;
DROP FUNCTION near_run;
DROP TABLE near;
DROP ROLE cdi_test_near;

-- With a change column a run costs by what changed, and not by what there is.
-- As with millions of rows of one sync: those are not read by bitmaps.
TRUNCATE cdi.outbox;
SET enable_bitmapscan = off;
CREATE TABLE large AS SELECT n AS id, 'Customer ' || n AS name, n AS version FROM generate_series(1, 30000) n;
ALTER TABLE large ADD PRIMARY KEY (id);
CREATE INDEX ON large (version);
SELECT cdi_create_sync('large', 'differ', 'SELECT * FROM large', 'id', change_column => 'version') > 0 AS created;
SELECT cdi_sync_run('large') > 0 AS ran;
INSERT INTO cdi.sync_rows SELECT sync_id, o.primary_key, hash, payload, now(), row_hash FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'large';
INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM cdi.outbox JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'large' GROUP BY 1;
ANALYZE large, cdi.sync_rows, cdi.outbox;
-- tuples of tables that were read, by whatever way
CREATE FUNCTION large_read() RETURNS numeric LANGUAGE sql AS $$
  SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables WHERE relname ~ '^(large|sync_rows|outbox.*)$' $$;
BEGIN;
SELECT large_read() AS read \gset before_
SELECT cdi_sync_run('large') AS run \gset
SELECT queried, added, changed, removed, unchanged, invalid FROM cdi.sync_runs WHERE run_id = :run;
SELECT large_read() - :before_read < 20 AS few_are_read;
COMMIT;
UPDATE large SET name = 'changed', version = 30000 + id WHERE id <= 100;
BEGIN;
SELECT large_read() AS read \gset before_
SELECT cdi_sync_run('large') AS run \gset
SELECT queried, added, changed, removed, unchanged, invalid FROM cdi.sync_runs WHERE run_id = :run;
SELECT large_read() - :before_read < 1000 AS few_are_read;
COMMIT;
-- What it does not see: rows that are gone, without a value, or below the highest.
DELETE FROM large WHERE id = 30000;
UPDATE large SET name = 'not seen', version = NULL WHERE id = 29999;
UPDATE large SET name = 'not seen', version = 1 WHERE id = 29998;
SELECT cdi_sync_run('large') AS run \gset
SELECT changed, removed FROM cdi.sync_runs WHERE run_id = :run;
SELECT cdi_sync_run('large', everything => true) AS run \gset
SELECT added, changed, removed FROM cdi.sync_runs WHERE run_id = :run;
-- A sync that is newer than the statistics has no rows to the planner, which must not compare each with each.
SELECT cdi_create_sync('newer', 'differ', 'SELECT * FROM large', 'id') > 0 AS created;
SELECT cdi_sync_run('newer') > 0 AS ran;
INSERT INTO cdi.sync_rows SELECT sync_id, o.primary_key, hash, payload, now() FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'newer';
INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM cdi.outbox JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'newer' GROUP BY 1;
SET statement_timeout = '30s';
SELECT cdi_sync_run('newer') AS run \gset
RESET statement_timeout;
SELECT queried, added, changed, removed, unchanged FROM cdi.sync_runs WHERE run_id = :run;
SELECT count(*) FILTER (WHERE row_hash IS NULL) AS without_hash FROM cdi.sync_rows JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'newer';
-- Where nothing differs the model is read once.
SET max_parallel_workers_per_gather = 0;
BEGIN;
SELECT seq_tup_read AS before FROM pg_stat_xact_all_tables WHERE relname = 'large' \gset
SELECT cdi_sync_run('newer') AS run \gset
SELECT queried, unchanged, queued FROM cdi.sync_runs WHERE run_id = :run;
SELECT seq_tup_read - :before AS seq_tup_read FROM pg_stat_xact_all_tables WHERE relname = 'large';
COMMIT;
RESET max_parallel_workers_per_gather;
SELECT cdi_drop_sync('newer');
SELECT cdi_drop_sync('large');
RESET enable_bitmapscan;
DROP FUNCTION large_read;
DROP TABLE large;
