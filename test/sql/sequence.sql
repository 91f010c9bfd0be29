-- Sequences of events: patterns, counts, times, the next event.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

-- ClickHouse's own cases (tests/queries/0_stateless/00222_sequence_aggregate_function_family.sql),
-- with a second for each unit: the pattern, and what sequenceMatch and sequenceCount say.
CREATE TEMP TABLE sequence_test AS
SELECT to_timestamp(time) AS at, data
FROM (VALUES (0,0),(1,0),(2,0),(3,0),(4,1),(5,2),(6,0),(7,0),(8,0),(9,0),(10,1),(11,1)) v (time, data);
CREATE TEMP TABLE patterns (pattern text, matches boolean, count bigint);
INSERT INTO patterns VALUES
    ('', true, 12), ('.', true, 12), ('.*', true, 12), ('(?1)', true, 8), ('(?2)', true, 3), ('(?3)', true, 1), ('(?4)', false, 0),
    ('(?1)(?1)', true, 4), ('(?1)(?1)(?1)', true, 2), ('(?1)(?1)(?1)(?1)', true, 2), ('(?1)(?1)(?1)(?1)(?1)', false, 0),
    ('(?1)(?1)(?1)(?1)(?2)', true, 2), ('(?1)(?t>10)(?2)', true, 1), ('(?1)(?t>11)(?2)', false, 0), ('(?1)(?t<11)(?2)', true, 2),
    ('(?1)(?t<3)(?3)', true, 1), ('(?1)(?t<=2)(?3)', true, 1), ('(?1)(?t<2)(?3)', false, 0), ('(?2)(?t>=7)(?2)', true, 1),
    ('(?2)(?t>7)(?2)', false, 0), ('(?2)(?3)(?1)', true, 1);
SELECT p.pattern, cdi_sequence_match(p.pattern, t.at, t.data = 0, t.data = 1, t.data = 2, t.data = 3),
       cdi_sequence_count(p.pattern, t.at, t.data = 0, t.data = 1, t.data = 2, t.data = 3)
FROM patterns p, sequence_test t
GROUP BY p.pattern, p.matches, p.count
HAVING (p.matches, p.count) IS DISTINCT FROM
       (cdi_sequence_match(p.pattern, t.at, t.data = 0, t.data = 1, t.data = 2, t.data = 3),
        cdi_sequence_count(p.pattern, t.at, t.data = 0, t.data = 1, t.data = 2, t.data = 3));

-- The examples of ClickHouse's documentation: an event that meets no condition
-- is not there, one that does stands between.
WITH t (time, number) AS (VALUES (1, 1), (2, 3), (3, 2))
SELECT cdi_sequence_match('(?1)(?2)', to_timestamp(time), number = 1, number = 2) AS not_there,
       cdi_sequence_match('(?1)(?2)', to_timestamp(time), number = 1, number = 2, number = 3) AS between,
       cdi_sequence_match('(?1)(?2)', to_timestamp(time), number = 1, number = 2, number = 4) AS another
FROM t;
WITH t (time, number) AS (VALUES (1, 1), (2, 3), (3, 2), (4, 1), (5, 3), (6, 2))
SELECT cdi_sequence_count('(?1).*(?2)', to_timestamp(time), number = 1, number = 2) AS count,
       cdi_sequence_events('(?1).*(?2).*(?1)(?3)', to_timestamp(time), number = 1, number = 2, number = 3) AS events
FROM t;

-- What ClickHouse gets wrong: a trailing .* reads past the pattern there; an
-- attempt that was given up is reported.
WITH t (time, number) AS (VALUES (1, 1), (2, 2), (3, 1), (4, 3))
SELECT cdi_sequence_match('(?1)(?3).*', to_timestamp(time), number = 1, number = 2, number = 3) AS trailing,
       cdi_sequence_count('(?1).*.*', to_timestamp(time), number = 1, number = 2, number = 3) AS trailing_count,
       cdi_sequence_events('(?1)(?2)(?3)', to_timestamp(time), number = 1, number = 2, number = 3) AS no_match,
       cdi_sequence_events('(?1)(?3)', to_timestamp(time), number = 1, number = 2, number = 3) AS second_attempt,
       cdi_sequence_events('(?1).(?1).', to_timestamp(time), number = 1, number = 2, number = 3) AS conditions_only
FROM t;

-- Times to the microsecond, several of them, and blanks.
WITH t (at, event) AS (VALUES ('2026-01-01 00:00:00'::timestamptz, 'a'), ('2026-01-01 00:00:01.5', 'b'), ('2026-01-01 00:00:03', 'b'))
SELECT cdi_sequence_match('(?1)(?t<1.5)(?2)', at, event = 'a', event = 'b') AS less,
       cdi_sequence_match('(?1)(?t<=1.5)(?2)', at, event = 'a', event = 'b') AS at_most,
       cdi_sequence_match('(?1)(?t==1.500001)(?2)', at, event = 'a', event = 'b') AS microsecond,
       cdi_sequence_events('(?1) (?t > 1.5) (?t <= 3) (?2)', at, event = 'a', event = 'b') AS between,
       cdi_sequence_match('(?1)(?t>=10000000000000000000000)(?2)', at, event = 'a', event = 'b') AS for_ever
FROM t;

-- Simultaneous events: the lower-numbered condition first, in whatever order
-- rows come. An event that meets several conditions is still one event.
SELECT bool_and(ab AND NOT ba AND both_conditions AND NOT twice) AS deterministic
FROM (
    SELECT cdi_sequence_match('(?1)(?2)', at, e = 'a', e = 'b' ORDER BY r) AS ab,
           cdi_sequence_match('(?2)(?1)', at, e = 'a', e = 'b' ORDER BY r) AS ba,
           cdi_sequence_match('(?1).*(?2)', at, e = 'a', e IN ('a', 'b') ORDER BY r) AS both_conditions,
           cdi_sequence_match('(?1)(?2)', at, e = 'a', e = 'a' ORDER BY r) AS twice
    FROM generate_series(1, 20) n, LATERAL (
        SELECT e, '2026-01-01'::timestamptz AS at, random() + n AS r FROM unnest(ARRAY['a', 'b', 'c']) e) t
    GROUP BY n
) s;

-- Nothing: no rows, no times, no conditions met.
SELECT cdi_sequence_match('(?1)', at, c) AS match, cdi_sequence_count('(?1)', at, c) AS count, cdi_sequence_events('(?1)', at, c) AS events
FROM (SELECT NULL::timestamptz, true WHERE false) t (at, c)
UNION ALL
SELECT cdi_sequence_match('(?1)', at, c), cdi_sequence_count('(?1)', at, c), cdi_sequence_events('(?1)', at, c)
FROM (VALUES (NULL::timestamptz, true), ('2026-01-01', NULL), ('2026-01-01', false)) t (at, c);
SELECT cdi_sequence_match('.', now(), NULL) AS untyped_null, cdi_sequence_match('(?2)', now(), VARIADIC ARRAY[false, true]) AS "array";

-- Patterns that cannot be read: where, and what to do.
CREATE FUNCTION pg_temp.complaint(pattern text, statement text DEFAULT 'SELECT cdi_sequence_match(%L, now(), true, true)')
RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(statement, pattern);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END
$$;
\x on
SELECT p.pattern, c.*
FROM unnest(ARRAY['(?3)', '(?0)', '(?)', '(?1', '(?1)x', 'é(?1)', '(?t<=1)(?1)', '(?1)(?t<=1)', '(?1).*(?t<=1)(?2)', '(?1)(?t<=1).*(?2)',
                  '(?1)(?t~1)(?2)', '(?1)(?t<)(?2)', '(?1)(?t<-5)(?2)', '(?1)(?t<1.1234567)(?2)', '(?1)(?t<1(?2)', '(?99999999999)', repeat('.', 65)]) p (pattern),
     pg_temp.complaint(p.pattern) c;
SELECT s.n, c.* FROM (VALUES
    (1, 'SELECT cdi_sequence_match(NULL, now(), true)'),
    (2, 'SELECT cdi_sequence_match(''.'', ''infinity'', true)'),
    (3, 'SELECT cdi_sequence_match(''.'', ''200000-01-01'', true)'),
    (4, 'SELECT cdi_sequence_match(''.'', now(), 1)'),
    (5, 'SELECT cdi_sequence_match(''.'', now(), ' || repeat('true, ', 32) || 'true)'),
    (6, 'SELECT cdi_sequence_match(''.'', now(), VARIADIC array_fill(true, ARRAY[33]))'),
    (7, 'SELECT cdi_sequence_match(p, now(), true) FROM (VALUES (''.''), (''..'')) v (p)'),
    (8, 'SELECT cdi_sequence_next_node(''up'', ''head'', now(), ''a'', true, true)'),
    (9, 'SELECT cdi_sequence_next_node(''forward'', ''middle'', now(), ''a'', true, true)'),
    (10, 'SELECT cdi_sequence_next_node(''backward'', ''head'', now(), ''a'', true, true)')) s (n, statement),
    pg_temp.complaint('', s.statement) c;
\x off

-- A pattern of its own for each group, and 32 conditions.
SELECT string_agg(g || ' ' || m, ', ' ORDER BY g) AS by_group FROM (
    SELECT g, cdi_sequence_match(repeat('(?1)', g), now() + n * interval '1 s', true) AS m
    FROM generate_series(1, 5) g, generate_series(1, 3) n GROUP BY g) s;
SELECT cdi_sequence_match('(?32)', now(), false, false, false, false, false, false, false, false, false, false, false, false, false, false, false, false,
    false, false, false, false, false, false, false, false, false, false, false, false, false, false, false, true) AS thirty_two;

-- No blow-up: a backtracking matcher tries about 5,000^10 ways here.
SET statement_timeout = '300s';
SELECT cdi_sequence_match(repeat('(?1).*', 10) || repeat('(?1)(?t<=0)', 10) || '(?2)', to_timestamp(n), true, n < 0) AS match,
       cdi_sequence_count('(?1).*(?1).*(?1)(?t>=3)(?t<=7)(?1)', to_timestamp(n), true, n < 0) AS count
FROM generate_series(1, 50000) n;
RESET statement_timeout;

-- The next event (ClickHouse's documentation of sequenceNextNode).
CREATE TEMP TABLE flows (number integer, at timestamptz, id integer, action text);
INSERT INTO flows VALUES
    (1, '1970-01-01 09:00:01', 1, 'Home'), (1, '1970-01-01 09:00:02', 1, 'Gift'), (1, '1970-01-01 09:00:03', 1, 'Exit'),
    (1, '1970-01-01 09:00:01', 2, 'Home'), (1, '1970-01-01 09:00:02', 2, 'Home'), (1, '1970-01-01 09:00:03', 2, 'Gift'), (1, '1970-01-01 09:00:04', 2, 'Basket'),
    (1, '1970-01-01 09:00:01', 3, 'Gift'), (1, '1970-01-01 09:00:02', 3, 'Home'), (1, '1970-01-01 09:00:03', 3, 'Gift'), (1, '1970-01-01 09:00:04', 3, 'Basket');
SELECT id, cdi_sequence_next_node('forward', 'head', at, action, action = 'Home', action = 'Home', action = 'Gift') AS head,
       cdi_sequence_next_node('backward', 'tail', at, action, action = 'Basket', action = 'Basket', action = 'Gift') AS tail,
       cdi_sequence_next_node('forward', 'first_match', at, action, action = 'Gift', action = 'Gift') AS first_match,
       cdi_sequence_next_node('backward', 'last_match', at, action, action = 'Gift', action = 'Gift') AS last_match
FROM flows GROUP BY id ORDER BY id;
SELECT cdi_sequence_next_node('forward', 'head', at, action, true, true) AS nothing, cdi_sequence_next_node('forward', 'head', NULL, action, true, true) AS no_times
FROM flows WHERE id = 0;

-- Parallel plans, and the same with and without. The data are pseudo-random,
-- so that other tests' use of random() does not matter.
CREATE TABLE sequence_events AS
SELECT abs(hashint4(n)) % 500 AS person, to_timestamp(abs(hashint4(n + 1000000)) % 100000) AS at, abs(hashint4(n + 2000000)) % 4 AS kind
FROM generate_series(1, 20000) n;
ANALYZE sequence_events;
CREATE FUNCTION pg_temp.answer() RETURNS text LANGUAGE sql AS $$
SELECT md5(string_agg(s::text, ',' ORDER BY person)) FROM (
    SELECT person, cdi_sequence_match('(?1)(?t<=600)(?2).*(?3)', at, kind = 0, kind = 1, kind = 2),
           cdi_sequence_count('(?1)(?t<=3600)(?2)', at, kind = 0, kind = 1, kind = 2),
           cdi_sequence_events('(?1)(?2)(?3)', at, kind = 0, kind = 1, kind = 2),
           cdi_sequence_next_node('forward', 'first_match', at, kind::text, true, kind = 1)
    FROM sequence_events GROUP BY person) s
$$;
SET max_parallel_workers_per_gather = 0;
CREATE TEMP TABLE answers AS SELECT pg_temp.answer() AS serial;
SET max_parallel_workers_per_gather = 4;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET cdi.enable_people_scan = off;	-- people_scan has the node
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
EXPLAIN (COSTS OFF) SELECT person, cdi_sequence_match('(?1)(?t<=600)(?2).*(?3)', at, kind = 0, kind = 1, kind = 2) FROM sequence_events GROUP BY person;
SELECT pg_temp.answer() = serial AS parallel_is_serial FROM answers;
RESET ALL;
DROP TABLE sequence_events;
