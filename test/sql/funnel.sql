-- Funnels: the worked examples of the vendors, and what is refused.
-- Everything that can be generated is compared in test/integration/funnel.
SET timezone = 'UTC';
SET DateStyle = 'ISO, YMD';
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE funnel_visits (person text, at timestamptz, event text, item text, position integer GENERATED ALWAYS AS IDENTITY);

-- Mixpanel, "Conversion Window": the window of the first A is not begun anew.
INSERT INTO funnel_visits (person, at, event) VALUES
    ('window', '2026-01-01 13:00', 'A'), ('window', '2026-01-01 13:30', 'A'),
    ('window', '2026-01-01 13:45', 'B'), ('window', '2026-01-01 14:15', 'C');
SELECT cdi_window_funnel(interval '1 hour', at, event = 'A', event = 'B', event = 'C') AS clickhouse,
       cdi_window_funnel('mixpanel', interval '1 hour', at, event = 'A', event = 'B', event = 'C') AS mixpanel,
       cdi_window_funnel('mixpanel, optimized_reentry', interval '1 hour', at, event = 'A', event = 'B', event = 'C') AS optimized,
       cdi_window_funnel('amplitude', interval '1 hour', at, event = 'A', event = 'B', event = 'C') AS amplitude
FROM funnel_visits WHERE person = 'window';

-- Mixpanel, "Optimized Re-entry", scenarios 1 and 2: level of every path.
INSERT INTO funnel_visits (person, at, event) VALUES
    ('scenario 1', '2026-01-01 10:00', 'A'), ('scenario 1', '2026-01-01 11:30', 'A'), ('scenario 1', '2026-01-01 11:45', 'B'),
    ('scenario 2', '2026-01-01 10:00', 'A'), ('scenario 2', '2026-01-01 10:30', 'A'), ('scenario 2', '2026-01-01 11:15', 'B'),
    ('several', '2026-01-01 10:00', 'A'), ('several', '2026-01-01 10:10', 'A'), ('several', '2026-01-01 10:20', 'A'), ('several', '2026-01-01 10:30', 'B');
SELECT person, cdi_window_funnel('mixpanel', '1 hour', at, event = 'A', event = 'B') AS by_default,
       cdi_window_funnel('mixpanel optimized_reentry', '1 hour', at, event = 'A', event = 'B') AS optimized,
       (cdi_funnel('{"mode": "mixpanel optimized_reentry", "window": "1 hour"}', at, event = 'A', event = 'B')).reached_at[1]::time AS entered,
       (SELECT array_agg(level) FROM unnest(cdi_funnel_paths('{"mode": "mixpanel optimized_reentry", "window": "1 hour"}', at, event = 'A', event = 'B'))) AS totals
FROM funnel_visits WHERE person IN ('scenario 1', 'scenario 2', 'several') GROUP BY person ORDER BY person;

-- Mixpanel, "Specific Order": 5, 5, 5 and 3 steps.
INSERT INTO funnel_visits (person, at, event)
SELECT 'order ' || n, timestamptz '2026-01-01' + place * interval '1 minute', event
FROM (VALUES (1, 'ABCDE'), (2, 'ABFCDE'), (3, 'ABDCDE'), (4, 'ABCE')) AS o (n, events),
     LATERAL regexp_split_to_table(events, '') WITH ORDINALITY AS e (event, place);
SELECT person, cdi_window_funnel('mixpanel', '7 days', at, event = 'A', event = 'B', event = 'C', event = 'D', event = 'E') AS level
FROM funnel_visits WHERE person LIKE 'order %' GROUP BY person ORDER BY person;

-- Mixpanel, "Exclusion Steps": two entries and one conversion.
INSERT INTO funnel_visits (person, at, event) VALUES
    ('exclusion', '2026-01-01 10:00', 'A'), ('exclusion', '2026-01-01 10:10', 'A'), ('exclusion', '2026-01-01 10:20', 'A'), ('exclusion', '2026-01-01 10:30', 'B');
SELECT p.* FROM (SELECT cdi_funnel_paths('{"mode": "mixpanel", "window": "7 days", "exclusions": [{"after": 1, "before": 2}]}',
        at, event = 'A', event = 'B', event = 'A') AS paths FROM funnel_visits WHERE person = 'exclusion') f, unnest(paths) p;

-- Mixpanel, "simultaneous events": two seconds, and no more.
INSERT INTO funnel_visits (person, at, event) VALUES
    ('grace 2', '2026-01-01 10:00:00', 'B'), ('grace 2', '2026-01-01 10:00:02', 'A'),
    ('grace 3', '2026-01-01 10:00:00', 'B'), ('grace 3', '2026-01-01 10:00:02.000001', 'A');
SELECT person, (cdi_funnel('{"mode": "mixpanel", "window": "1 hour"}', at, event = 'A', event = 'B')).*
FROM funnel_visits WHERE person LIKE 'grace%' GROUP BY person ORDER BY person;

-- Mixpanel, "User Count in Breakdown": shirt and shoes, and jeans beside them where the item is held constant.
INSERT INTO funnel_visits (person, at, event, item) VALUES
    ('item', '2026-01-01 10:00', 'browse', 'shirt'), ('item', '2026-01-01 10:05', 'browse', 'jeans'),
    ('item', '2026-01-01 10:10', 'add', 'jeans'), ('item', '2026-01-01 10:20', 'add', NULL), ('item', '2026-01-01 10:30', 'browse', 'shoes');
SELECT (cdi_funnel('{"mode": "mixpanel", "window": "1 hour"}', at, item, event = 'browse', event = 'add')).*
FROM funnel_visits WHERE person = 'item';
SELECT p.level, p.hold FROM (SELECT cdi_funnel_paths('{"mode": "mixpanel", "window": "1 hour"}', at, item, event = 'browse', event = 'add') AS paths
    FROM funnel_visits WHERE person = 'item') f, unnest(paths) p;

-- Amplitude, "How Amplitude computes funnels": each event in one path; four searches, one conversion.
INSERT INTO funnel_visits (person, at, event)
SELECT 'search', timestamptz '2026-01-01' + place * interval '1 minute', event
FROM unnest('{search,search,search,search,add}'::text[]) WITH ORDINALITY AS e (event, place);
SELECT cdi_window_funnel('amplitude', '1 day', at, event = 'search', event = 'add') AS this_order,
       cdi_window_funnel('amplitude exact_order', '1 day', at, event = 'search', event = 'add') AS exact_order,
       cdi_window_funnel('amplitude exact_order', '1 day', at, event = 'search', event = 'search', event = 'add') AS repeated,
       cdi_window_funnel('amplitude any_order', '1 day', at, event = 'add', event = 'search') AS any_order,
       (SELECT array_agg(level) FROM unnest(cdi_funnel_paths('{"mode": "amplitude", "window": "1 day"}', at, event = 'search', event = 'add'))) AS totals
FROM funnel_visits WHERE person = 'search';
-- The steps in the order in which they were done.
SELECT (cdi_funnel('{"mode": "mixpanel any_order", "window": "1 day"}', at, event = 'C', event = 'A', event = 'B')).steps
FROM funnel_visits WHERE person = 'window';

-- ClickHouse: strict_order ends at the D; allow_reentry needs it.
INSERT INTO funnel_visits (person, at, event)
SELECT 'strict', timestamptz '2026-01-01' + place * interval '1 minute', event FROM regexp_split_to_table('ABDC', '') WITH ORDINALITY AS e (event, place);
SELECT cdi_window_funnel(interval '1 day', at, event = 'A', event = 'B', event = 'C') AS by_default,
       cdi_window_funnel('strict_order', '1 day', at, event = 'A', event = 'B', event = 'C') AS strict_order,
       cdi_window_funnel('clickhouse strict_order', '1 day', at, event = 'A', event = 'B', event = 'C') FILTER (WHERE event <> 'D') AS without_d
FROM funnel_visits WHERE person = 'strict';
-- c1@0, c1@1, c2@1: ClickHouse forgets the first c1 and says 1.
SELECT cdi_window_funnel('strict_increase', '1 day', at, c = 1, c = 2)
FROM (VALUES (timestamptz '2026-01-01 00:00:00', 1), ('2026-01-01 00:00:01', 1), ('2026-01-01 00:00:01', 2)) AS v (at, c);

-- Nothing, rows without a time, conditions that are null, an array of conditions, a window function.
SELECT cdi_window_funnel(interval '1 day', at, event = 'A') AS nobody, cdi_funnel('{"window": "1 day"}', at, event = 'A') AS no_path,
       cdi_funnel_paths('{"mode": "mixpanel", "window": "1 day"}', at, event = 'A') AS no_paths FROM funnel_visits WHERE false;
SELECT cdi_window_funnel(interval '1 day', at, a, b, NULL) FROM (VALUES (NULL::timestamptz, true, true), ('2026-01-01', true, NULL)) AS v (at, a, b);
SELECT cdi_window_funnel(interval '1 day', at, VARIADIC ARRAY[event = 'A', event = 'B', NULL]) FROM funnel_visits WHERE person = 'strict';
SELECT event, cdi_window_funnel(interval '1 day', at, event = 'A', event = 'B', event = 'C') OVER (ORDER BY at DESC)
FROM funnel_visits WHERE person = 'strict' ORDER BY at DESC;

-- What is refused, and what to do.
SELECT cdi_window_funnel(interval '0', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '-1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 month', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '200 years' - interval '100 years', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '36501 days', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(NULL::interval, at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day' * position, at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('strict', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('heap', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('mixpanel strict_order', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('mixpanel amplitude', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('allow_reentry', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel('amplitude any_order exact_order', '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(NULL::text, '1 day', at, event = 'A') FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day', at, event) FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day', at, VARIADIC '{}'::boolean[]) FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day', at, VARIADIC array_fill(event = 'A', ARRAY[33])) FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day', at, VARIADIC array_fill(true, ARRAY[position])) FROM funnel_visits;
SELECT cdi_window_funnel(interval '1 day', timestamptz '-infinity', event = 'A') FROM funnel_visits;
SELECT cdi_funnel('[]', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel"}', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"window": 7}', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"window": "a week"}', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"window": "7 days", "steps": 3}', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"window": "7 days", "exclusions": []}', at, event = 'A') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel", "window": "7 days", "exclusions": [{}]}', at, event = 'A', event = 'B') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel", "window": "7 days", "exclusions": [{"after": 2}]}', at, event = 'A', event = 'B', event = 'C') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel", "window": "7 days", "exclusions": [{"after": 1.5}]}', at, event = 'A', event = 'B', event = 'C') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "amplitude exact_order", "window": "7 days", "exclusions": [{}]}', at, event = 'A', event = 'B', event = 'C') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel", "window": "7 days", "step_windows": ["1 day"]}', at, event = 'A', event = 'B', event = 'C') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel any_order", "window": "7 days", "step_windows": ["1 day"]}', at, event = 'A', event = 'B') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel", "window": "7 days", "anchors": [1]}', at, event = 'A', event = 'B') FROM funnel_visits;
SELECT cdi_funnel('{"mode": "mixpanel any_order", "window": "7 days", "anchors": [3]}', at, event = 'A', event = 'B') FROM funnel_visits;
SELECT cdi_funnel('{"window": "7 days"}', at, item, event = 'A', event = 'B') FROM funnel_visits;
SELECT cdi_funnel_paths('{"window": "7 days"}', at, event = 'A', event = 'B') FROM funnel_visits;
DROP TABLE funnel_visits;

-- Reports: three people look, two add, one orders; one adds the other thing and one comes too late.
SELECT sum(stored) FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'userId', who, 'event', 'Funnel ' || event, 'messageId', 'funnel ' || who || n,
        'timestamp', timestamptz '2026-01-01 UTC' + minute * interval '1 minute', 'properties', jsonb_build_object('item', item, 'plan', plan)))
    FROM (VALUES (1, 'funnel-a', 'View', 0, 'x', 'pro'), (2, 'funnel-a', 'Add', 2, 'x', NULL), (3, 'funnel-a', 'Order', 6, 'x', NULL),
                 (1, 'funnel-b', 'View', 10, 'x', 'free'), (2, 'funnel-b', 'Cancel', 11, 'x', NULL), (3, 'funnel-b', 'Add', 14, 'y', NULL),
                 (1, 'funnel-c', 'View', 20, 'x', 'pro'), (1, 'funnel-d', 'View', 30, 'y', 'pro'), (2, 'funnel-d', 'Add', 100, 'y', NULL),
                 (1, 'funnel-e', 'Add', 20, 'x', 'pro')) v (n, who, event, minute, item, plan)));
SELECT * FROM cdi_funnel_report('["Funnel View", "Funnel Add", {"event": "Funnel Order", "name": "Bought"}]', '1 hour');
SELECT segment, step, reached, dropped FROM cdi_funnel_report('["Funnel View", "Funnel Add", "Funnel Order"]', '1 hour', 'amplitude', breakdown => 'plan');
SELECT step, reached FROM cdi_funnel_report('["Funnel View", "Funnel Add"]', '1 hour', options => '{"exclusions": [{"event": "Funnel Cancel"}]}');
SELECT step, reached FROM cdi_funnel_report('["Funnel View", "Funnel Add"]', '1 hour', options => '{"hold": ["item"]}');
SELECT step, reached FROM cdi_funnel_report('["Funnel View", {"event": "Funnel Add", "filter": {"item": "y"}}]', '2 hours', counting => 'totals');
SELECT step, reached FROM cdi_funnel_report('["Funnel View", "Funnel Add"]', '1 hour', counting => 'sessions');
SELECT step, reached FROM cdi_funnel_report('["Funnel View", "Funnel Add"]', '1 hour', from_time => '2026-01-01 00:10+00', to_time => '2026-01-01 00:12+00');
SELECT person_id = cdi_person('user_id', 'funnel-b') AS is_b, entered_at, reached_at FROM cdi_funnel_people('["Funnel View", "Funnel Add", "Funnel Order"]', 2, '1 hour');
SELECT * FROM cdi_funnel_report('["Nothing", "Funnel View"]');
-- The segment is that of the event that enters, not of another at its instant.
SELECT stored FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'userId', 'funnel-f', 'event', 'Funnel At Once ' || event, 'messageId', 'funnel f' || n,
        'timestamp', timestamptz '2026-01-01 UTC' + minute * interval '1 minute', 'properties', jsonb_build_object('plan', plan)))
    FROM (VALUES (1, 'Add', 0, 'other'), (2, 'View', 0, 'entered'), (3, 'Add', 5, 'later')) v (n, event, minute, plan)));
SELECT mode, segment, step, reached FROM unnest('{clickhouse,mixpanel,amplitude}'::text[]) mode,
    cdi_funnel_report('["Funnel At Once View", "Funnel At Once Add"]', '1 hour', mode, breakdown => 'plan', counting => CASE mode WHEN 'amplitude' THEN 'totals' ELSE 'uniques' END) ORDER BY 1, 2, 3;
SELECT * FROM cdi_funnel_report('[]');
SELECT * FROM cdi_funnel_report('[{"event": 3}]');
SELECT * FROM cdi_funnel_report('[{"event": "x", "where": "1 = 1"}]');
SELECT * FROM cdi_funnel_report('["x''; DROP TABLE y; --"]');
SELECT * FROM cdi_funnel_report('["x"]', counting => 'persons');
SELECT * FROM cdi_funnel_report('["x"]', options => '{"window": "1 day"}');
SELECT * FROM cdi_funnel_report('["Nothing"]', mode => 'heap');
SELECT * FROM cdi_funnel_people('["x"]', 2);

-- As many steps as there may be, done in order a minute after each other, by
-- few rows and by enough for an index of them: every mode gets to the last.
SELECT mode, repeated, cdi_window_funnel(mode, '1 day', timestamptz '2026-01-01' + g * interval '1 minute', VARIADIC array_fill(false, ARRAY[g - 1]) || true || array_fill(false, ARRAY[32 - g])) AS level
FROM unnest('{strict_order,"strict_once strict_increase",mixpanel,"mixpanel optimized_reentry","mixpanel any_order",amplitude,"amplitude exact_order","amplitude any_order"}'::text[]) mode,
     unnest('{1,2,3}'::integer[]) repeated, generate_series(1, 32) g, generate_series(1, repeated) again
WHERE mode !~ 'strict_order|exact_order' OR repeated = 1
GROUP BY mode, repeated HAVING cdi_window_funnel(mode, '1 day', timestamptz '2026-01-01' + g * interval '1 minute', VARIADIC array_fill(false, ARRAY[g - 1]) || true || array_fill(false, ARRAY[32 - g])) <> 32 ORDER BY 1, 2;
-- The 32nd as an exclusion, before all steps: it ends nothing.
SELECT (cdi_funnel('{"mode": "mixpanel any_order", "window": "1 day", "exclusions": [{}]}', timestamptz '2026-01-01' + g * interval '1 minute', VARIADIC array_fill(false, ARRAY[32 - g]) || true || array_fill(false, ARRAY[g - 1]))).level AS level
FROM generate_series(1, 32) g;
-- Time ends before the window does.
SELECT mode, (cdi_funnel(jsonb_build_object('mode', mode, 'window', '36500 days', 'step_windows', CASE WHEN mode !~ 'clickhouse|any_order' THEN '["36500 days"]'::jsonb END), at, event = 'A', event = 'B')).level
FROM unnest('{clickhouse,mixpanel,mixpanel any_order,mixpanel optimized_reentry,amplitude,amplitude any_order,amplitude exact_order}'::text[]) mode, (VALUES ('294276-12-30'::timestamptz, 'A'), ('294276-12-31', 'B')) v (at, event) GROUP BY mode ORDER BY mode;

-- A person with very many events of which most enter: each path takes an event
-- that none has taken, without walking over all that are taken.
SET statement_timeout = '30s';
SELECT cardinality(paths) = 100000 AS all_enter,
       (SELECT count(*) FROM unnest(paths) p WHERE p.level = 2) = (SELECT count(*) FROM generate_series(22, 300000, 21)) AS each_taken_once
FROM (SELECT cdi_funnel_paths('{"mode": "amplitude", "window": "30 days"}', timestamptz '2026-01-01' + g * interval '1 second', g % 3 = 0, g % 21 = 1) AS paths
      FROM generate_series(3, 300000) g) f;
RESET statement_timeout;
