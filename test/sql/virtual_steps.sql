-- A virtual event is a step, an event of a report and a conversion, wherever a
-- tracked one is.  The virtual event here holds for exactly the events that are
-- tracked as "Step Bought" as well, so every answer must be the same for both.
SELECT cdi_create_source('virtual steps') IS NOT NULL AS created;
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(jsonb_build_object('type', type, 'event', event, 'userId', who, 'timestamp', at, 'messageId', 'step-' || n,
                     'traits', CASE type WHEN 'identify' THEN '{"plan": "pro"}'::jsonb END,
                     'properties', jsonb_build_object('revenue', n, 'path', '/' || coalesce(event, 'pricing')), 'context', '{"page": {"path": "/pricing"}}'::jsonb))
    FROM (SELECT n, (ARRAY['track', 'track', 'page', 'track', 'identify'])[1 + n % 5] AS type,
                 (ARRAY['Step Bought', 'Step Viewed', NULL, 'Step Bought', NULL])[1 + n % 5] AS event,
                 'step-' || n % 7 AS who, timestamptz '2026-05-01' + n * interval '7 hours' AS at
          FROM generate_series(1, 200) n) e), 'virtual steps');
SELECT cdi_create_virtual_event('Step Virtual', $$event = 'Step Bought'$$), cdi_create_virtual_event('Step Plan', $$type = 'identify' AND traits ->> 'plan' = 'pro'$$);

CREATE TEMP TABLE answers (what text, step text, answer text);
DO $$
DECLARE
    step text;
    report record;
    answer text;
BEGIN
    FOREACH step IN ARRAY '{"\"Step Bought\"","\"Step Virtual\"","{\"event\": \"Step Virtual\"}","{\"event\": [\"Step Virtual\", \"Not There\"]}"}'::text[] LOOP
        FOR report IN SELECT * FROM (VALUES
            ('funnel', $q$SELECT array_agg((step, entered, reached, dropped, median_seconds)::text ORDER BY step)::text FROM cdi_funnel_report(jsonb_build_array('Step Viewed', $1), '3 days')$q$),
            ('strict', $q$SELECT array_agg((step, reached)::text ORDER BY step)::text FROM cdi_funnel_report(jsonb_build_array('Step Viewed', $1), '3 days', 'strict_order')$q$),
            ('sessions', $q$SELECT array_agg((step, reached)::text ORDER BY step)::text FROM cdi_funnel_report(jsonb_build_array($1, $1), '3 days', counting => 'sessions')$q$),
            ('filtered', $q$SELECT array_agg((step, reached)::text ORDER BY step)::text FROM cdi_funnel_report(jsonb_build_array('Step Viewed',
                CASE jsonb_typeof($1) WHEN 'string' THEN jsonb_build_object('event', $1) ELSE $1 END || '{"filter": {"revenue": {">": 100}}}'), '3 days')$q$),
            ('excluded', $q$SELECT array_agg((step, reached)::text ORDER BY step)::text FROM cdi_funnel_report('["Step Viewed", {"type": "page"}]', '5 days', options => jsonb_build_object('exclusions', jsonb_build_array($1)))$q$),
            ('people', $q$SELECT array_agg(p.reached_at ORDER BY 1)::text FROM cdi_funnel_people(jsonb_build_array('Step Viewed', $1), 2, '3 days') p$q$),
            ('retention', $q$SELECT array_agg((r.*)::text ORDER BY r.cohort, r.period_from)::text FROM cdi_retention('"Step Viewed"', $1, as_of => '2026-08-01') r$q$),
            ('cohorts', $q$SELECT array_agg(c.started_at ORDER BY 1)::text FROM cdi_cohorts($1) c$q$),
            ('behavioural', $q$SELECT array_agg((c.reached_at, c.events)::text ORDER BY 1)::text FROM cdi_behavioural_cohort($1, 2, '10 days') c$q$),
            ('stickiness', $q$SELECT array_agg((s.*)::text ORDER BY s.day)::text FROM cdi_stickiness($1, '2026-05-01', '2026-05-20', as_of => '2026-08-01') s$q$),
            ('lifecycle', $q$SELECT array_agg((l.*)::text)::text FROM cdi_lifecycle($1, '2026-05-01', '2026-06-20', as_of => '2026-08-01') l$q$)) r (name, query)
        LOOP
            EXECUTE report.query INTO answer USING step::jsonb;
            INSERT INTO answers VALUES (report.name, step, answer);
        END LOOP;
    END LOOP;
END
$$;
SELECT what, count(*) AS steps, count(DISTINCT answer) AS answers, min(length(answer)) > 10 AS with_rows FROM answers GROUP BY what ORDER BY what;

-- By type it is the tracked event that is meant; calls other than page, screen and track have virtual events, too
SELECT count(*) FILTER (WHERE n > 0) AS virtual_by_type FROM (SELECT count(*) AS n FROM cdi_cohorts('{"event": "Step Virtual", "type": "track"}')) c;
SELECT step, reached FROM cdi_funnel_report('["Step Plan", "Step Virtual"]', '7 days') ORDER BY step;

-- Conversions: with a property's value and with an expression's
SELECT cdi_create_conversion('step_tracked', 'Step Bought'), cdi_create_conversion('step_virtual', 'Step Virtual'),
       cdi_create_conversion('step_tracked_half', 'Step Bought', value_expression => $$cdi_property_number(properties, 'revenue') / 2$$),
       cdi_create_conversion('step_virtual_half', 'Step Virtual', value_expression => $$cdi_property_number(properties, 'revenue') / 2$$),
       cdi_create_conversion('step_once', 'Step Virtual', unique_scope => 'person');
SELECT conversion, count(*), sum(value) FROM cdi.conversion_events WHERE conversion LIKE 'step%' GROUP BY conversion ORDER BY conversion;
SELECT (SELECT sum(credit) FROM cdi_attribution('linear', 'step_virtual'))::numeric(20, 6) = (SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'step_virtual') AS credits_sum,
       (SELECT sum(credited_value) FROM cdi_attribution('linear', 'step_virtual')) = (SELECT sum(value) FROM cdi.conversion_events WHERE conversion = 'step_tracked') AS values_sum;

-- What is asked for a period reads its events: the times reach the predicate, whose other occurrences do not come up
CREATE FUNCTION pg_temp.occurrences_read(period text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT json, TIMING off) SELECT * FROM cdi.conversion_events WHERE conversion = $1' || period INTO plan USING 'step_virtual';
    RETURN (SELECT sum((n ->> 'Actual Rows')::numeric * (n ->> 'Actual Loops')::numeric)
            FROM jsonb_path_query(plan::jsonb, 'strict $.**') n
            WHERE jsonb_typeof(n) = 'object' AND (n ->> 'Node Type' IN ('Function Scan', 'ProjectSet') OR n ->> 'Relation Name' LIKE 'events%'));
END
$$;
SELECT pg_temp.occurrences_read('') >= (SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'step_virtual') AS all_of_them,
       pg_temp.occurrences_read(format(' AND converted_at >= %L AND converted_at < %L', at, at + interval '1 second')) < 5 AS of_one_second
FROM (SELECT min(converted_at) FROM cdi.conversion_events WHERE conversion = 'step_virtual') m (at);

-- A reader needs no more than cdi_grant_reader() gives
CREATE ROLE cdi_test_steps_reader;
SELECT cdi_grant_reader('cdi_test_steps_reader');
SET ROLE cdi_test_steps_reader;
SELECT (SELECT count(*) FROM cdi_funnel_report('["Step Viewed", "Step Virtual"]')) AS funnel, (SELECT count(*) FROM cdi_retention('"Step Virtual"', periods => 1, cohort => 'all', as_of => '2026-08-01')) AS retention,
       (SELECT count(*) FROM cdi_stickiness('"Step Virtual"', '2026-05-01', '2026-05-03')) AS stickiness, (SELECT count(*) FROM cdi_lifecycle('"Step Virtual"', '2026-05-01', '2026-05-01')) AS lifecycle,
       (SELECT count(*) FROM cdi_cohorts('"Step Virtual"')) AS cohorts, (SELECT count(*) FROM cdi_behavioural_cohort('"Step Virtual"')) AS behavioural,
       (SELECT count(*) FROM cdi.conversion_events WHERE conversion LIKE 'step%') AS conversions;
RESET ROLE;
DROP OWNED BY cdi_test_steps_reader;
DROP ROLE cdi_test_steps_reader;

-- A virtual event with the name of a tracked one goes first
SELECT cdi_create_virtual_event('Step Viewed', $$event IN ('Step Viewed', 'Step Bought')$$);
SELECT count(*) = (SELECT count(DISTINCT subject) FROM cdi.events WHERE event IN ('Step Viewed', 'Step Bought')) AS virtual_first FROM cdi_cohorts('"Step Viewed"');
SELECT cdi_drop_virtual_event('Step Virtual');
SELECT cdi_drop_conversion(name) FROM cdi.conversions WHERE name LIKE 'step%';
SELECT cdi_drop_virtual_event('Step Virtual'), cdi_drop_virtual_event('Step Viewed'), cdi_drop_virtual_event('Step Plan');
