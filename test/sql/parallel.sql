-- Aggregates in parallel plans: every one can be divided over workers, and says the same then.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT p.oid::regprocedure AS cannot FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid AND e.extname = 'cdi'
WHERE a.aggcombinefn = 0 OR p.proparallel <> 's' OR a.aggtranstype = 'internal'::regtype AND (a.aggserialfn = 0 OR a.aggdeserialfn = 0)
   OR EXISTS (SELECT FROM pg_proc f WHERE f.oid IN (a.aggtransfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn) AND f.proparallel <> 's');

-- Many rows of few times and positions, so that most of them are ties.
CREATE TABLE parallel_rows AS
SELECT n % 7 AS person, md5((n % 60)::text)::uuid AS id, timestamptz '2026-01-01' + ('x' || left(md5(n::text), 6))::bit(24)::integer % 5000 * interval '10 minutes' AS at,
       timestamptz '2026-01-01' + n % 3 * interval '1 second' AS few, (n % 5)::bigint AS "position",
       (ARRAY['A', 'B', 'C', 'D'])[1 + ('x' || right(md5(n::text), 6))::bit(24)::integer % 4] AS event, md5(n::text) AS word,
       (ARRAY[NULL, '{A}', '{B,A}', '{A,B,C}', '{C,A,C}', '{B}'])[1 + n % 6]::text[] AS path, n % 11 / 4 AS conversions, n % 11 % 4 AS nulls
FROM generate_series(1, 6000) n;
CREATE TABLE parallel_histories AS SELECT h.history FROM (SELECT id, person, cdi_history(at, event = 'A', event <> 'C') AS history FROM parallel_rows GROUP BY id, person) h, generate_series(1, 20);
ANALYZE parallel_rows, parallel_histories;
CREATE FUNCTION parallel_plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP plan := plan || line; END LOOP;
    RETURN plan;
END $$;
CREATE FUNCTION parallel_differs(call text, relation text) RETURNS TABLE (partial boolean, differ bigint) LANGUAGE plpgsql AS $$
DECLARE query text := format('SELECT (%s)::text AS result FROM %s', call, relation);
BEGIN
    SET LOCAL max_parallel_workers_per_gather = 0;
    EXECUTE 'CREATE TEMP TABLE wanted AS ' || query;
    SET LOCAL max_parallel_workers_per_gather = 3;
    SET LOCAL parallel_leader_participation = off;
    partial := parallel_plan(query) ~ 'Finalize.*Gather.*Partial';
    EXECUTE 'CREATE TEMP TABLE got AS ' || query;
    SELECT count(*) INTO differ FROM ((TABLE got EXCEPT ALL TABLE wanted) UNION ALL (TABLE wanted EXCEPT ALL TABLE got)) d;
    DROP TABLE got, wanted;
    RETURN NEXT;
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET cdi.enable_people_scan = off;
CREATE TEMP TABLE calls (call text, relation text DEFAULT 'parallel_rows GROUP BY person');
INSERT INTO calls (call) VALUES
    ('cdi_first(word, few, position)'), ('cdi_last(word, few, position)'), ('cdi_first(nullif(event, ''A''), few, 1)'), ('cdi_last(NULL::text, few, 1)'),
    ('cdi_first(position - 2, at, 1)'), ('cdi_last(id, few, position)'), ('cdi_last(path, few, 1)'), ('cdi_first(ROW(word, path, 1.5), few, 1)'),
    ('cdi_last(repeat(word, 3000), few, 1)'), ('cdi_first(-conversions::numeric, few, position)'), ('cdi_last(at, few, position)'), ('cdi_first(event, NULL, 1)'),
    ('cdi_window_funnel(interval ''1 day'', at, event = ''A'', event = ''B'', event = ''C'')'), ('cdi_window_funnel(''strict_order'', ''1 day'', at, event = ''A'', event = ''B'')'),
    ('cdi_funnel(''{"mode": "mixpanel", "window": "2 days"}'', at, event = ''A'', event = ''B'')'), ('cdi_funnel(''{"mode": "amplitude", "window": "2 days"}'', at, word, event = ''A'', event = ''B'')'),
    ('cdi_funnel_paths(''{"mode": "mixpanel", "window": "2 days"}'', at, event = ''A'', event = ''B'')'), ('cdi_funnel_paths(''{"mode": "amplitude", "window": "2 days"}'', at, left(word, 1), event = ''A'', event = ''B'')'),
    ('cdi_sequence_match(''(?1)(?2)(?1)(?2)'', at, event = ''A'', event = ''B'')'), ('cdi_sequence_count(''(?1).*(?2)'', at, event = ''A'', event = ''B'')'), ('cdi_sequence_events(''(?1)(?t>3600)(?2)'', at, event = ''A'', event = ''B'')'),
    ('cdi_sequence_next_node(''forward'', ''first_match'', at, event, true, event = ''A'')'), ('cdi_retention_conditions(event = ''A'', conversions > 1, nulls > 1)'),
    ('cdi_history(at)'), ('cdi_history(at, event = ''A'', event = ''B'')'), ('cdi_flow_path(event, at, position, ''from'', ''B'', 5, true)'),
    ('cdi_reach(id, event)'), ('cdi_frequency(id, 1, 200)'),
    ('cdi_markov(path, conversions, conversions * 1.25, nulls)'), ('cdi_markov(path, conversions, conversions * 1.25, nulls, ''{"order": 2, "bootstrap": 20}'')'),
    ('cdi_markov_transitions(path, conversions, 0, nulls)'), ('cdi_markov_transitions(path, conversions, 0, nulls, ''{"order": 2}'')'), ('cdi_markov_order(path, conversions, 0, nulls)'), ('cdi_markov_order(path, conversions, 0, nulls, ''{"max_order": 2}'')'),
    ('cdi_shapley(path, conversions, conversions * 0.1, nulls)'), ('cdi_shapley(path, conversions, conversions * 0.1, nulls, ''{"game": "rate"}'')'), ('cdi_shapley_ordered(path, conversions, conversions * 0.1, nulls)'), ('cdi_shapley_ordered(path, conversions, conversions * 0.1, nulls, ''{"bootstrap": 20}'')'),
    ('cdi_logistic(path, conversions, conversions * 0.1, nulls)'), ('cdi_logistic(path, conversions, conversions * 0.1, nulls, ''{"counts": true}'')'),
    ('cdi_hazard(path, array_fill(at - ''2025-12-01'', ARRAY[coalesce(cardinality(path), 0)]), conversions, conversions * 0.1, nulls)'), ('cdi_hazard(path, array_fill(at - ''2025-12-01'', ARRAY[coalesce(cardinality(path), 0)]), conversions, conversions * 0.1, nulls, ''{"iterations": 30}'')'),
    ('cdi._bucket_sums(16, word, id)');
INSERT INTO calls VALUES
    ('cdi_retention_counts(history, ''{"as_of": "2026-02-01Z", "entry": "every"}'')', 'parallel_histories'), ('cdi_retention_counts(history, ''{"as_of": "2026-01-20Z", "brackets": "0, 1-3", "cohort": "week", "mode": "streak", "windows": "rolling"}'')', 'parallel_histories'),
    ('cdi_retention_counts(NULL, ''{"as_of": "2026-02-01Z"}'')', 'parallel_histories'), ('cdi_stickiness_counts(history, ''{"as_of": "2026-02-01Z", "windows": "1, 3, 20"}'')', 'parallel_histories'),
    ('cdi_lifecycle_counts(history, ''{"as_of": "2026-02-01Z", "period": "day"}'')', 'parallel_histories'), ('cdi_first(word, few, position)', 'parallel_rows'), ('cdi_last(word, few, position) FILTER (WHERE position = 9)', 'parallel_rows');
SELECT c.call, d.* FROM calls c, parallel_differs(c.call, c.relation) d WHERE NOT d.partial OR d.differ > 0;
-- Nothing is missing above; internal ones are for the tests of who uses them.
SELECT p.oid::regprocedure AS missing FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE NOT EXISTS (SELECT FROM calls c WHERE c.call ~ ('\m' || p.proname || '\(')) AND (SELECT e.extname FROM pg_extension e WHERE e.oid = d.refobjid) = 'cdi' AND p.proname !~ '^_';

-- The earliest and the latest, of equal times and positions by the value, as sorted; null never before a value.
SELECT count(*) AS groups,
       count(*) FILTER (WHERE (f.a, f.b, f.c) IS DISTINCT FROM (w.a, w.b, w.c)) AS first_differs, count(*) FILTER (WHERE (f.d, f.e, f.f) IS DISTINCT FROM (w.d, w.e, w.f)) AS last_differs
FROM (SELECT person, cdi_first(word, few, position) AS a, cdi_first(nullif(event, 'A'), few, 1) AS b, cdi_first(-position, few, 1) AS c,
             cdi_last(word, few, position) AS d, cdi_last(nullif(event, 'D'), few, 1) AS e, cdi_last(2 - position, few, 1) AS f FROM parallel_rows GROUP BY person) f
JOIN (SELECT person, (array_agg(word ORDER BY few, position, word COLLATE "C"))[1] AS a, (array_agg(nullif(event, 'A') ORDER BY few, nullif(event, 'A')))[1] AS b, (array_agg(-position ORDER BY few, -position))[1] AS c,
             (array_agg(word ORDER BY few DESC, position DESC, word COLLATE "C" DESC))[1] AS d, (array_agg(nullif(event, 'D') ORDER BY few DESC, nullif(event, 'D') DESC NULLS LAST))[1] AS e, (array_agg(2 - position ORDER BY few DESC, 2 - position DESC))[1] AS f
      FROM parallel_rows GROUP BY person) w USING (person);
DROP TABLE parallel_rows, parallel_histories;
DROP FUNCTION parallel_differs, parallel_plan;
