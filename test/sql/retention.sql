-- Retention, stickiness, lifecycle, cohorts.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';

-- ClickHouse's documentation of retention(): 5, 10 and 15 people on three days.
CREATE TEMP TABLE visits AS
SELECT '2020-01-01'::date + d AS day, uid FROM generate_series(0, 2) d, generate_series(0, 4 + 5 * d) uid;
SELECT r, count(*), min(uid), max(uid) FROM (
    SELECT uid, cdi_retention_conditions(day = '2020-01-01', day = '2020-01-02', day = '2020-01-03') AS r FROM visits GROUP BY uid) v
GROUP BY r ORDER BY r DESC;
SELECT cdi_retention_conditions(c, NOT c) AS no_rows, (SELECT cdi_retention_conditions(NULL, true)) AS first_not_met,
       (SELECT cdi_retention_conditions(VARIADIC ARRAY[true, NULL, true])) AS "array"
FROM (SELECT true WHERE false) v (c);

-- One person at a time, over rows of one's own: what comes back for brackets.
CREATE FUNCTION pg_temp.retained(events text, options jsonb) RETURNS text LANGUAGE sql AS $$
-- events: start|return|both followed by a time, separated by commas
SELECT string_agg(r.period_from || CASE WHEN r.period_to > r.period_from THEN '-' || r.period_to ELSE '' END || ':'
                  || r.people || '/' || r.eligible || '/' || coalesce(r.retained::text, '-'), ' ' ORDER BY r.period_from)
FROM unnest((
    SELECT cdi_retention_counts(h, '{"as_of": "2026-03-20 00:00:00Z"}' || options) FROM (
        SELECT cdi_history(split_part(e, '@', 2)::timestamptz, split_part(e, '@', 1) IN ('s', 'b'), split_part(e, '@', 1) IN ('r', 'b')) AS h
        FROM string_to_table(events, ', ') e) p)) r
WHERE r.cohort IS NULL
$$;
CREATE TEMP VIEW modes AS SELECT * FROM (VALUES (1, 'on'), (2, 'on_or_after'), (3, 'on_or_before'), (4, 'streak')) m (n, mode);
-- Days 1, 2 and 5 after the start.
SELECT mode, pg_temp.retained('b@2026-03-01 12:00, b@2026-03-02 09:00, b@2026-03-03 23:00, b@2026-03-06 00:00',
                              jsonb_build_object('mode', mode, 'periods', 6)) AS "people/eligible/retained"
FROM modes ORDER BY n;
-- The same in brackets.
SELECT mode, pg_temp.retained('b@2026-03-01 12:00, b@2026-03-02 09:00, b@2026-03-03 23:00, b@2026-03-06 00:00',
                              jsonb_build_object('mode', mode, 'brackets', '0, 1-3, 4 - 7,8-14')) AS "people/eligible/retained"
FROM modes ORDER BY n;
-- 23:30 and 00:30: another day by the calendar, the same 24 hours; from the
-- beginning of the hour the last quarter of an hour belongs to the next window.
SELECT w.windows, pg_temp.retained('s@2026-03-01 23:30, r@2026-03-02 00:30, r@2026-03-03 23:15', jsonb_build_object('windows', w.windows, 'periods', 2))
FROM (VALUES (1, 'calendar'), (2, 'rolling'), (3, 'hour_floored')) w (n, windows) ORDER BY n;
-- Windows are closed at the beginning and open at the end, to the microsecond.
SELECT w.windows, pg_temp.retained('s@2026-03-01 23:30, r@' || r.at, jsonb_build_object('windows', w.windows, 'periods', 2)), r.at
FROM (VALUES (1, 'calendar', '2026-03-01 23:59:59.999999'), (2, 'calendar', '2026-03-02 00:00'),
             (3, 'rolling', '2026-03-02 23:29:59.999999'), (4, 'rolling', '2026-03-02 23:30'),
             (5, 'hour_floored', '2026-03-02 22:59:59.999999'), (6, 'hour_floored', '2026-03-02 23:00')) w (n, windows, at),
     LATERAL (VALUES (w.at)) r (at) ORDER BY n;
-- A time zone: 23:30 UTC is the next day in Berlin; the night of 29 March has 23 hours.
SELECT pg_temp.retained('s@2026-03-01 22:30Z, r@2026-03-01 23:30Z', '{"periods": 1}') AS utc,
       pg_temp.retained('s@2026-03-01 22:30Z, r@2026-03-01 23:30Z', '{"periods": 1, "time_zone": "Europe/Berlin"}') AS berlin,
       pg_temp.retained('s@2026-03-28 22:30Z, r@2026-03-29 21:59:59Z', '{"periods": 2, "time_zone": "Europe/Berlin", "as_of": "2026-04-20"}') AS sunday,
       pg_temp.retained('s@2026-03-28 22:30Z, r@2026-03-29 22:00Z', '{"periods": 2, "time_zone": "Europe/Berlin", "as_of": "2026-04-20"}') AS monday;
-- Weeks begin on Monday (2026-03-01 is a Sunday), months on the first.
SELECT pg_temp.retained('s@2026-03-01 12:00, r@2026-03-02 00:00, r@2026-03-09 00:00', '{"period": "week", "periods": 3}') AS weeks,
       pg_temp.retained('s@2025-12-31 12:00, r@2026-01-01 00:00, r@2026-02-28 23:59:59', '{"period": "month", "periods": 3}') AS months,
       pg_temp.retained('s@2026-03-01 12:00, r@2026-03-08 11:59:59, r@2026-03-15 12:00', '{"period": "week", "windows": "rolling", "periods": 2}') AS rolling_weeks;
-- Not over yet: a period counts when its last moment has passed.
SELECT pg_temp.retained('s@2026-03-18 12:00, r@2026-03-19 13:00', '{"periods": 3}') AS midnight,
       pg_temp.retained('s@2026-03-18 12:00, r@2026-03-19 13:00', '{"periods": 3, "as_of": "2026-03-19 23:59:59.999999Z"}') AS just_before,
       pg_temp.retained('s@2026-03-18 12:00, r@2026-03-19 11:00', '{"periods": 1, "windows": "rolling", "as_of": "2026-03-19 12:00Z"}') AS rolling,
       pg_temp.retained('s@2026-03-18 12:00, r@2026-03-19 11:00', '{"periods": 1, "windows": "rolling", "as_of": "2026-03-19 11:59Z"}') AS rolling_before,
       pg_temp.retained('s@2026-03-21 12:00', '{"periods": 1}') AS starts_later;
-- The start is no return; another event at its instant is. Returns before the start are none.
SELECT pg_temp.retained('b@2026-03-01 12:00', '{"periods": 0}') AS itself, pg_temp.retained('s@2026-03-01 12:00, r@2026-03-01 12:00', '{"periods": 0}') AS another,
       pg_temp.retained('b@2026-03-01 12:00, r@2026-03-01 12:00', '{"periods": 0}') AS beside_both, pg_temp.retained('r@2026-03-01 11:00, s@2026-03-01 12:00', '{"periods": 0, "mode": "on_or_before"}') AS before;
-- Entries: the first ever, the first in the range, one per cohort.
SELECT entry, pg_temp.retained('b@2026-03-01 12:00, b@2026-03-02 12:00, b@2026-03-02 13:00, b@2026-03-04 12:00',
                               jsonb_build_object('entry', entry, 'periods', 2, 'from_time', '2026-03-02Z', 'to_time', '2026-03-05Z'))
FROM (VALUES (1, 'first'), (2, 'first_in_range'), (3, 'every')) e (n, entry) ORDER BY n;

-- The report: cohorts, filters of steps, people across identifiers.
SELECT cdi_create_source('retention') IS NOT NULL AS created;
CREATE TEMP TABLE story (who text, at timestamptz, type text, event text, properties jsonb);
INSERT INTO story VALUES
    ('r1', '2026-01-05 10:00Z', 'track', 'Retention Signed Up', '{"plan": "pro", "seats": 3}'),
    ('r2', '2026-01-05 11:00Z', 'track', 'Retention Signed Up', '{"plan": "free"}'),
    ('r3', '2026-01-06 10:00Z', 'track', 'Retention Signed Up', '{"plan": "pro", "seats": 10}'),
    ('r1', '2026-01-06 10:00Z', 'track', 'Retention Used', NULL),
    ('r2', '2026-01-07 10:00Z', 'track', 'Retention Used', '{"deep": true}'),
    ('r3', '2026-01-07 10:00Z', 'track', 'Retention Used', NULL),
    ('r1', '2026-01-12 10:00Z', 'track', 'Retention Used', NULL),
    ('r1', '2026-01-12 11:00Z', 'track', 'Retention Used', NULL),
    ('r3', '2026-01-21 10:00Z', 'track', 'Retention Used', '{"deep": true}');
SELECT stored FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', type, 'userId', who, 'timestamp', at, 'messageId', gen_random_uuid(),
                                                                 'event', event, 'properties', coalesce(properties, '{}'))) FROM story), 'retention');
SELECT * FROM cdi_retention('{"event": "Retention Signed Up"}', '{"event": "Retention Used"}', periods => 2, as_of => '2026-01-08 12:00Z');
SELECT * FROM cdi_retention('{"event": "Retention Signed Up", "filter": {"plan": "pro"}}', '{"event": "Retention Used"}', brackets => '0-6, 7-13', cohort => 'all', as_of => '2026-02-01Z');
-- A merge applies to all of history.
SELECT stored FROM cdi_ingest('[{"type": "alias", "userId": "r1", "previousId": "r2", "messageId": "retention-merge"}]', 'retention');
SELECT cdi_resolve() >= 0 AS resolved;
SELECT * FROM cdi_retention('{"event": "Retention Signed Up"}', '{"event": "Retention Used"}', cohort => 'all', periods => 1, as_of => '2026-01-08 12:00Z');

-- Steps
SELECT s.step, string_agg(t.who || ' ' || to_char(t.at, 'DD'), ', ' ORDER BY t.at, t.who) AS events
FROM (VALUES (1, '{}'), (2, '{"event": ["Retention Signed Up", "x"]}'), (3, '{"event": "Retention Signed Up", "filter": {"plan": ["pro", "team"]}}'),
             (4, '{"filter": {"seats": {">": 3, "<=": 10}}}'), (5, '{"filter": {"seats": {"!=": 3}, "deep": {"exists": false}}}'), (6, '{"filter": {"seats": "3"}}'),
             (7, '{"type": "page"}'), (8, '{"filter": {"deep": true}}'), (9, '{"filter": {"plan": {">=": "pro"}}}'), (10, NULL), (12, '"Retention Signed Up"'), (11, '{"filter": {"plan": []}}')) s (n, step)
LEFT JOIN story t ON cdi_event_matches(s.step::jsonb, t.type, t.event, t.properties)
GROUP BY s.n, s.step ORDER BY s.n;

-- Stickiness. a is active on days 1 to 7, b on 1 and 8, c on 9.
CREATE TEMP TABLE activity AS
SELECT p.who, ('2026-02-0' || d || ' 12:00Z')::timestamptz AS at
FROM (VALUES ('a', '{1,2,3,4,5,6,7}'::int[]), ('b', '{1,8}'), ('c', '{9}')) p (who, days), unnest(p.days) d, generate_series(1, 2);
SELECT s.day, s.window_days, string_agg(s.active_days || ': ' || s.people, ', ' ORDER BY s.active_days) AS "active days: people"
FROM unnest((SELECT cdi_stickiness_counts(h, '{"from_day": "2026-02-05", "to_day": "2026-02-16", "windows": "1, 7"}')
             FROM (SELECT cdi_history(at) AS h FROM activity GROUP BY who) p)) s
WHERE s.people > 0 GROUP BY s.day, s.window_days ORDER BY s.window_days, s.day;

-- Lifecycle, by day, over the same.
SELECT l.* FROM unnest((SELECT cdi_lifecycle_counts(h, '{"from_day": "2026-01-31", "to_day": "2026-02-11", "period": "day", "as_of": "2026-02-11 12:00Z"}')
                        FROM (SELECT cdi_history(at) AS h FROM activity GROUP BY who) p)) l;

-- The reports over events.
SELECT * FROM cdi_stickiness('{"event": "Retention Used"}', '2026-01-06', '2026-01-13', as_of => '2026-01-13 12:00Z');
SELECT * FROM cdi_stickiness_distribution('{"event": "Retention Used"}', '2026-01-12', '2026-01-12', 7) WHERE people > 0;
SELECT * FROM cdi_lifecycle('{"event": "Retention Used"}', '2025-12-29', '2026-02-08', as_of => '2026-02-03Z');
SELECT count(*), bool_and(new = 0 AND active = 0 AND dormant = 0) AS nobody FROM cdi_lifecycle('{"event": "never"}');
SELECT cohort, started_at, count(*) FROM cdi_cohorts('{"event": "Retention Signed Up"}', 'week') GROUP BY 1, 2;
SELECT cohort, started_at FROM cdi_cohorts('{"event": "Retention Signed Up"}', 'month', 'Pacific/Kiritimati', '2026-01-06Z', '2026-01-07Z');
SELECT times, within, reached_at, events
FROM (VALUES (1, NULL::interval), (2, '1 hour'), (2, '59 minutes'), (3, '6 days 1 hour'), (3, '6 days 59 minutes'), (9, NULL)) p (times, within),
     cdi_behavioural_cohort('{"event": "Retention Used"}', times, within) ORDER BY times, within, reached_at;

-- No events: cohorts have no row, the total has zeros.
SELECT * FROM cdi_retention('{"event": "never"}', periods => 1);

-- What cannot be answered says why.
CREATE FUNCTION pg_temp.complaint(statement text) RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END
$$;
\x on
SELECT a.arguments, c.* FROM unnest(ARRAY[
    'mode => ''off''', 'period => ''hour''', 'windows => ''24h''', 'entry => ''last''', 'cohort => ''year''', 'time_zone => ''Mars/Olympus''',
    'brackets => ''''', 'brackets => ''1,,2''', 'brackets => ''0-3, 3-5''', 'brackets => ''4, 1''', 'brackets => ''5-1''', 'brackets => ''x''', 'brackets => ''99999999''',
    'periods => -1', 'from_time => ''2026-02-01'', to_time => ''2026-01-01''', 'as_of => ''infinity''', 'period => ''month'', windows => ''rolling''',
    'return_event => NULL', 'return_event => ''[]''', 'return_event => ''1''', 'return_event => ''{"events": "a"}''', 'return_event => ''{"filter": {"a": {"like": 1}}}''', 'return_event => ''{"event": []}''']) a (arguments),
    pg_temp.complaint('SELECT * FROM cdi_retention(''{}'', ' || a.arguments || ')') c;
SELECT s.statement, c.* FROM unnest(ARRAY[
    'SELECT cdi_retention_counts(cdi_h, ''{"perods": 1}'') FROM (SELECT cdi_history(now()) AS cdi_h) h',
    'SELECT cdi_retention_counts(''\x00'', ''{}'')',
    'SELECT cdi_retention_counts(NULL, NULL)',
    'SELECT cdi_history(''-infinity'')',
    'SELECT cdi_stickiness_counts(NULL, ''{"windows": "0"}'')',
    'SELECT cdi_stickiness_counts(NULL, ''{"windows": "7, 7"}'')',
    'SELECT cdi_stickiness_counts(NULL, ''{"from_day": "2026-01-02", "to_day": "2026-01-01"}'')',
    'SELECT cdi_stickiness_counts(NULL, ''{"from_day": "1500-01-01"}'')',
    'SELECT cdi_lifecycle_counts(NULL, ''{"to_day": "infinity"}'')',
    'SELECT * FROM cdi_lifecycle(period => ''year'')',
    'SELECT * FROM cdi_cohorts(period => ''year'')',
    'SELECT * FROM cdi_behavioural_cohort(''{}'', 0)',
    'SELECT * FROM cdi_behavioural_cohort(''{}'', 1, interval ''1 month'')']) s (statement),
    pg_temp.complaint(s.statement) c;
\x off

-- Many events of one person stay small where times repeat, and order does not matter.
SELECT length(cdi_history(to_timestamp(n % 1000))) AS bytes,
       cdi_history(to_timestamp(n % 1000), n % 2 = 0, n % 3 = 0) = cdi_history(to_timestamp(n % 1000), n % 2 = 0, n % 3 = 0 ORDER BY n % 7, -n) AS same
FROM generate_series(1, 100000) n;

-- Parallel plans, and the same with and without.
CREATE TABLE retention_events AS
SELECT abs(hashint4(n)) % 500 AS person, '2026-01-01Z'::timestamptz + abs(hashint4(n + 1000000)) % 5000000 * interval '1 s' AS at, abs(hashint4(n + 2000000)) % 3 AS kind
FROM generate_series(1, 20000) n;
ANALYZE retention_events;
CREATE FUNCTION pg_temp.answer() RETURNS text LANGUAGE sql AS $$
SELECT md5(cdi_retention_counts(h, '{"as_of": "2026-03-01Z", "entry": "every"}')::text || cdi_stickiness_counts(h, '{"to_day": "2026-03-01"}')::text
           || cdi_lifecycle_counts(h, '{"to_day": "2026-03-01"}')::text || string_agg(c::text, '' ORDER BY person))
FROM (SELECT person, cdi_history(at, kind = 0, kind = 1) AS h, cdi_retention_conditions(kind = 0, kind = 1) AS c FROM retention_events GROUP BY person) p
$$;
SET max_parallel_workers_per_gather = 0;
CREATE TEMP TABLE answers AS SELECT pg_temp.answer() AS serial;
SET max_parallel_workers_per_gather = 4;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET cdi.enable_people_scan = off;	-- people_scan has the node
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT cdi_retention_counts(h, '{}') FROM (SELECT cdi_history(at, kind = 0, kind = 1) AS h FROM retention_events GROUP BY person) p;
SELECT pg_temp.answer() = serial AS parallel_is_serial FROM answers;
RESET ALL;
DROP TABLE retention_events;

-- In Newfoundland clocks went from 00:01 of 7 November back to 23:01 of the 6th: who came at 00:00:30 and then at 23:05 came on both days.
CREATE TEMP TABLE twice AS SELECT cdi_history(at, s, NOT s) AS history, cdi_history(at) AS times FROM (VALUES (timestamptz '2010-11-05 12:00Z', true), ('2010-11-07 02:30:30Z', false), ('2010-11-07 02:35Z', false)) v (at, s);
SELECT r.period_from, r.retained FROM unnest((SELECT cdi_retention_counts(history, '{"time_zone": "America/St_Johns", "periods": 3, "cohort": "all", "as_of": "2010-11-20Z"}') FROM twice)) r;
SELECT s.day, s.people FROM unnest((SELECT cdi_stickiness_counts(times, '{"time_zone": "America/St_Johns", "windows": "1", "from_day": "2010-11-04", "to_day": "2010-11-08", "as_of": "2010-11-20Z"}') FROM twice)) s WHERE s.active_days = 1;
SELECT l.period, l.new, l.retained, l.dormant FROM unnest((SELECT cdi_lifecycle_counts(times, '{"time_zone": "America/St_Johns", "period": "day", "from_day": "2010-11-05", "to_day": "2010-11-08", "as_of": "2010-11-20Z"}') FROM twice)) l;
