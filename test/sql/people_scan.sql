-- The planner's node for aggregates over the events of people: the plans it is in, and the same results as the server's aggregation.
SET timezone = 'UTC';
SET client_min_messages = warning;
CREATE TABLE scan_visits AS
SELECT n % 700 AS person, (n % 700)::bigint * 1000003 AS big, md5((n % 700)::text)::uuid AS id, CASE WHEN n % 700 > 3 THEN repeat('p', n % 50) || n % 700 END AS name,
       CASE WHEN n % 97 > 0 THEN timestamptz '2026-01-01' + ('x' || left(md5(n::text), 7))::bit(28)::integer % 100000 * interval '1 second' END AS at,
       (ARRAY['A', 'B', 'C', 'D', NULL])[1 + ('x' || right(md5(n::text), 7))::bit(28)::integer % 5] AS event, (n % 3)::numeric AS amount
FROM generate_series(1, 20000) n;
INSERT INTO scan_visits SELECT -1, -1, NULL, repeat('long', 5000), '2026-01-01', repeat(event, 3000) FROM unnest('{A,B}'::text[]) event;
ANALYZE scan_visits;
SET max_parallel_workers_per_gather = 0;
EXPLAIN (COSTS OFF) SELECT id, cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B', event = 'C') AS level FROM scan_visits
    GROUP BY id HAVING cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B', event = 'C') > 1;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT level, count(*) FROM (SELECT person, cdi_window_funnel('mixpanel', '1 hour', at, event = 'A', event = 'B') AS level FROM scan_visits GROUP BY person) f GROUP BY level;
EXPLAIN (COSTS OFF) SELECT id, cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B') FROM scan_visits GROUP BY id;

-- What is the server's: another aggregate, settings or a filter of the row, keys whose equal values differ, DISTINCT, no GROUP BY, a property held constant.
CREATE FUNCTION scan_is_used(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE line text; used boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP used := used OR line ~ 'Custom Scan \(cdi people\)'; END LOOP;
    RETURN used;
END $$;
CREATE FUNCTION scan_in_files(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE line text; files boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE) ' || query LOOP files := files OR line ~ 'Disk Usage: [1-9]'; END LOOP;
    RETURN files;
END $$;
SELECT what, scan_is_used('SELECT ' || query) FROM (VALUES
    ('one key', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY id'),
    ('an expression', 'person / 2 + 1, cdi_window_funnel(interval ''1 hour'', at, event = ''A'') + 1 FROM scan_visits GROUP BY person / 2'),
    ('several keys', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY id, name'),
    ('another aggregate', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A''), count(*) FROM scan_visits GROUP BY id'),
    ('two funnels', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A''), cdi_window_funnel(interval ''2 hours'', at, event = ''A'') FROM scan_visits GROUP BY id'),
    ('funnel and retention', 'id, cdi_window_funnel(interval ''1 hour'', at, event = ''A'', event = ''B''), cdi_history(at, event = ''A'', event = ''B'') FROM scan_visits GROUP BY id, person'),
    ('17 aggregates', (SELECT string_agg(format('cdi_sequence_match(''(?1)(?t<%s)(?1)'', at, event = ''A'')', n), ', ') FROM generate_series(1, 17) n) || ' FROM scan_visits GROUP BY id'),
    ('several keys, one numeric', 'cdi_history(at) FROM scan_visits GROUP BY id, amount'),
    ('a column beside the keys', 'cdi_history(at), max(name) FROM scan_visits GROUP BY id, person'),
    ('window of the row', 'cdi_window_funnel(interval ''1 hour'' * (person + 2), at, event = ''A'') FROM scan_visits GROUP BY person'),
    ('numeric', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY amount'),
    ('character', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY name::bpchar'),
    ('length of an array', 'cdi_sequence_match(''(?1)'', at, VARIADIC array_fill(true, ARRAY[2 + person % 2])) FROM scan_visits GROUP BY id'),
    ('random filter', 'cdi_history(at) FILTER (WHERE random() < 0.5) FROM scan_visits GROUP BY id'),
    ('DISTINCT', 'cdi_window_funnel(DISTINCT interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY id'),
    ('grouping sets', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits GROUP BY CUBE (id)'),
    ('results that nobody reads', 'count(*) FROM (SELECT cdi_history(at) FROM scan_visits GROUP BY name) people'),
    ('no key', 'cdi_window_funnel(interval ''1 hour'', at, event = ''A'') FROM scan_visits'),
    ('held', 'cdi_funnel(''{"mode": "mixpanel", "window": "1 hour"}'', at, name, event = ''A'') FROM scan_visits GROUP BY id')) v (what, query);

-- The same as the server's aggregation: rows that differ, of kinds of keys and calls, in one process and in several, in memory and in files.
-- Some filters keep out rows whose conditions cannot be computed.
CREATE FUNCTION scan_differs(columns text, keys text) RETURNS TABLE (plan text, people bigint, differ bigint, as_meant boolean) LANGUAGE plpgsql AS $$
DECLARE query text := format('SELECT %s FROM scan_visits GROUP BY %s', columns, keys);
BEGIN
    SET LOCAL cdi.enable_people_scan = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
    EXECUTE 'CREATE TEMP TABLE wanted AS ' || query;
    SET LOCAL cdi.enable_people_scan = on;
    FOREACH plan IN ARRAY '{one process,workers,without leader,files,files of workers,files without leader}'::text[] LOOP
        PERFORM set_config('max_parallel_workers_per_gather', CASE WHEN plan IN ('one process', 'files') THEN '0' ELSE '2' END, true),
                set_config('parallel_leader_participation', CASE WHEN plan ~ 'without leader' THEN 'off' ELSE 'on' END, true),
                set_config('work_mem', CASE WHEN plan ~ 'files' THEN '64kB' ELSE '4MB' END, true);
        as_meant := scan_is_used(query) AND scan_in_files(query) = (plan ~ 'files');
        EXECUTE 'CREATE TEMP TABLE got AS ' || query;
        SELECT count(*) INTO people FROM got;
        SELECT count(*) INTO differ FROM ((TABLE got EXCEPT ALL TABLE wanted) UNION ALL (TABLE wanted EXCEPT ALL TABLE got)) d;
        DROP TABLE got;
        RETURN NEXT;
    END LOOP;
    DROP TABLE wanted;
END $$;
SET work_mem = '4MB';
SELECT key, m AS call, count(*) AS plans, min(people) AS people, sum(differ) AS differ, bool_and(as_meant) AS as_meant
FROM unnest('{person,big,id,name,person::smallint,person::text::varchar}'::text[]) WITH ORDINALITY k (key, n),
     (VALUES (1, 'cdi_window_funnel(interval ''90 minutes'', at, event = ''A'', event = ''B'', event = ''C'')'),
             (2, 'cdi_window_funnel(''strict_order'', ''1 day'', at, VARIADIC ARRAY[event = ''A'', event = ''B'', ''C'' = event])'),
             (3, 'cdi_window_funnel(''amplitude exact_order'', ''1 day'', at, event = ''A'', event = ''B'', 1 / (person % 3) > 0) FILTER (WHERE person % 3 > 0)'),
             (4, '(cdi_funnel(''{"mode": "mixpanel", "window": "1 day"}'', at, event = ''A'', event = ''B'', NULL)).reached_at'),
             (5, '(cdi_funnel_paths(''{"mode": "amplitude", "window": "2 hours"}'', at, event = ''A'', event = repeat(''B'', 3000)))::text'),
             (6, 'cdi_sequence_match(''(?1)(?t<=3600)(?2).*(?1)'', at, event = ''A'', event = ''B'')'),
             (7, 'cdi_sequence_count(''(?1)(?2)'', at, VARIADIC ARRAY[event = ''A'', event = ''B''])'),
             (8, 'cdi_sequence_events(''(?1).*(?3)'', at, event = ''A'', event = ''B'', 1 / (person % 3) > 0) FILTER (WHERE person % 3 > 0)'),
             (9, 'cdi_history(at)'), (10, 'cdi_history(at, event = ''A'', amount > 1)')) c (m, call),
     scan_differs(format('%s AS key, %s AS result', key, call), key)
GROUP BY key, n, m ORDER BY n, m;
-- Several aggregates, of which two have their state in common and others count few rows or none; and several keys, with nulls among them.
SELECT keys, m AS calls, count(*) AS plans, min(people) AS people, sum(differ) AS differ, bool_and(as_meant) AS as_meant
FROM unnest('{person,"name, id","person::smallint, at::date, big","name, event","id, name, amount > 0, person::text::varchar"}'::text[]) WITH ORDINALITY k (keys, n),
     (VALUES (1, 'cdi_window_funnel(interval ''90 minutes'', at, event = ''A'', event = ''B'') AS a, cdi_history(at, event = ''A'', event = ''B'') AS b'),
             (2, 'cdi_history(at) AS a'),
             (3, 'cdi_sequence_count(''(?1).*(?2)'', at, event = ''A'', event = ''B'') AS a, cdi_sequence_match(''(?1).*(?2)'', at, event = ''A'', event = ''B'') AS b,'
                 'cdi_window_funnel(''amplitude exact_order'', ''1 day'', at, VARIADIC ARRAY[event = ''A'', event = ''B'']) AS c,'
                 'cdi_window_funnel(''2 days'', at - interval ''1 day'', event = ''A'', event = ''B'', 1 / (person % 3) > 0) FILTER (WHERE person % 3 > 0) AS d,'
                 '(cdi_funnel_paths(''{"mode": "amplitude", "window": "2 hours"}'', at, event = ''A'', event = ''B'') FILTER (WHERE person = 5))::text AS e,'
                 '(cdi_funnel(''{"mode": "amplitude", "window": "2 hours"}'', at, event = ''A'', event = ''B'') FILTER (WHERE person = 5)).level AS f,'
                 'cdi_history(at) FILTER (WHERE false) AS g')) c (m, call),
     scan_differs((SELECT string_agg(format('%s AS k%s', k, i), ', ') FROM unnest(string_to_array(keys, ', ')) WITH ORDINALITY u (k, i)) || ', ' || call, keys)
GROUP BY keys, n, m ORDER BY n, m;

-- People whose results nobody reads are counted as well, those without a name too.
SELECT count(*), (SELECT count(DISTINCT name) + 1 FROM scan_visits) AS people FROM (SELECT cdi_history(at) FROM scan_visits GROUP BY name) p;

-- Beside partitions that the server aggregates each for itself, in workers
CREATE TABLE scan_parts (LIKE scan_visits) PARTITION BY HASH (person);
CREATE TABLE scan_part0 PARTITION OF scan_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE scan_part1 PARTITION OF scan_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO scan_parts SELECT * FROM scan_visits;
ANALYZE scan_parts;
SET enable_partitionwise_aggregate = on;
EXPLAIN (COSTS OFF) SELECT person, cdi_history(at) FROM scan_parts GROUP BY person;
SET enable_hashagg = off;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT person, cdi_history(at) FROM scan_parts GROUP BY person;
SELECT count(*) FROM ((SELECT person, cdi_history(at) FROM scan_parts GROUP BY person) EXCEPT (SELECT person, cdi_history(at) FROM scan_visits GROUP BY person)) d;
RESET enable_sort;
RESET enable_hashagg;
RESET enable_partitionwise_aggregate;
DROP TABLE scan_parts;

-- A cursor, a plan with parameters, again for each row of another table, and nobody.
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
DECLARE levels CURSOR FOR SELECT person, cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B') FROM scan_visits GROUP BY person;
SELECT scan_is_used('SELECT person, cdi_window_funnel(interval ''1 hour'', at, event = ''A'', event = ''B'') FROM scan_visits GROUP BY person');
CREATE TEMP TABLE fetched (person integer, level integer) ON COMMIT DROP;
DO $$
DECLARE c refcursor := 'levels'; row record;
BEGIN
    LOOP FETCH c INTO row; EXIT WHEN NOT FOUND; INSERT INTO fetched VALUES (row.person, row.cdi_window_funnel); END LOOP;
END $$;
SELECT count(*), count(DISTINCT person) FROM fetched;
COMMIT;
PREPARE levels(text, interval, text) AS SELECT sum(level) FROM (SELECT cdi_window_funnel($1, $2, at, event = $3, event = 'B') AS level FROM scan_visits GROUP BY id) f;
SET plan_cache_mode = force_generic_plan;
SELECT scan_is_used('EXECUTE levels(''clickhouse'', ''1 hour'', ''A'')');
EXECUTE levels('clickhouse', '1 hour', 'A');
SELECT sum(level) FROM (SELECT cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B') AS level, count(*) FROM scan_visits GROUP BY id) f;
-- One process, with a parameter; and workers, who begin anew each time.
SET enable_sort = off;
SET enable_hashagg = off;
SET enable_material = off;
EXPLAIN (COSTS OFF) SELECT d, (SELECT sum(level) FROM (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B') AS level FROM scan_visits WHERE at::date = d GROUP BY person) f)
FROM (VALUES (date '2026-01-01'), ('2026-01-02'), ('2026-01-03')) v (d);
SELECT d, (SELECT sum(level) FROM (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B') AS level FROM scan_visits WHERE at::date = d GROUP BY person) f) AS scanned,
       (SELECT sum(level) FROM (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B') AS level, count(*) FROM scan_visits WHERE at::date = d GROUP BY person) f) AS aggregated
FROM (VALUES (date '2026-01-01'), ('2026-01-02'), ('2026-01-03')) v (d);
SET work_mem = '64kB';
EXPLAIN (COSTS OFF) SELECT n, level FROM generate_series(1, 2) n LEFT JOIN (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B', event = 'C') AS level FROM scan_visits GROUP BY person) f ON level > n;
SELECT count(*) FILTER (WHERE n = 1), count(*) FILTER (WHERE n = 2) FROM
    (SELECT n, level FROM generate_series(1, 2) n LEFT JOIN (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B', event = 'C') AS level FROM scan_visits GROUP BY person) f ON level > n OFFSET 0) x;
RESET enable_sort;
RESET enable_hashagg;
RESET enable_material;
RESET work_mem;
SELECT count(*) FILTER (WHERE level > 1), count(*) FILTER (WHERE level > 2) FROM
    (SELECT cdi_window_funnel(interval '90 minutes', at, event = 'A', event = 'B', event = 'C') AS level, count(*) FROM scan_visits GROUP BY person) f;

-- Retention in one statement: histories of people, and counts over them.
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT cdi_retention_counts(h, '{"as_of": "2026-02-01"}') FROM (SELECT cdi_history(at, event = 'A', event = 'B') AS h FROM scan_visits GROUP BY id) p;

-- What is refused, as by the aggregate; who says it first, a worker or not, differs.
\set SHOW_CONTEXT never
SELECT cdi_window_funnel(interval '-1 day', at, event = 'A') FROM scan_visits GROUP BY id;
SELECT cdi_window_funnel(NULL::interval, at, event = 'A') FROM scan_visits GROUP BY id;
SELECT cdi_window_funnel(interval '1 day', at, event) FROM scan_visits GROUP BY id;
SELECT cdi_window_funnel(interval '1 day', timestamptz 'infinity', event = 'A') FROM scan_visits GROUP BY id;
SELECT cdi_sequence_match('(?3)', at, event = 'A', event = 'B') FROM scan_visits GROUP BY id;
SELECT cdi_sequence_match(NULL, at, event = 'A') FROM scan_visits GROUP BY id;
SELECT cdi_window_funnel(interval '1 day', at, a || b = 'A') FROM (SELECT id, at, event COLLATE "C" AS a, name COLLATE "POSIX" AS b FROM scan_visits) v GROUP BY id;
SELECT cdi_history(timestamptz '-infinity') FROM scan_visits GROUP BY id;
SELECT count(*) FROM (SELECT cdi_window_funnel(interval '-1 day', at, event = 'A') FILTER (WHERE false) FROM scan_visits GROUP BY id) f;
CREATE ROLE scan_nobody;
GRANT SELECT ON scan_visits TO scan_nobody;
SET ROLE scan_nobody;
SELECT cdi_window_funnel(interval '1 day', at, event = 'A') FROM scan_visits GROUP BY id;
RESET ROLE;
DROP TABLE scan_visits;
DROP FUNCTION scan_is_used, scan_in_files, scan_differs;
DROP ROLE scan_nobody;
