-- Sessions, touchpoints, conversions and credit.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT cdi_create_source('attribution') IS NOT NULL AS created;

-- A visit of page views, one per (minutes after noon, campaign, referrer).
CREATE FUNCTION pg_temp.page(who text, at timestamptz, query text DEFAULT '', referrer text DEFAULT '')
RETURNS jsonb LANGUAGE sql AS $$
SELECT jsonb_build_object('type', 'page', 'userId', who, 'timestamp', at, 'messageId', gen_random_uuid(),
    'context', jsonb_build_object('page', jsonb_build_object('url', 'https://shop.example/p' || query,
        'path', '/p', 'referrer', referrer)))
$$;
CREATE FUNCTION pg_temp.track(who text, at timestamptz, event text, properties jsonb DEFAULT '{}')
RETURNS jsonb LANGUAGE sql AS $$
SELECT jsonb_build_object('type', 'track', 'userId', who, 'timestamp', at, 'messageId', gen_random_uuid(),
    'event', event, 'properties', properties)
$$;
CREATE FUNCTION pg_temp.send(VARIADIC events jsonb[]) RETURNS bigint LANGUAGE sql AS $$
SELECT stored FROM cdi_ingest(to_jsonb(events), 'attribution')
$$;
-- Views of the tests' own people only.
CREATE TEMP VIEW subjects AS
SELECT DISTINCT coalesce(m.person_id, e.subject) AS person_id, e.user_id AS who
FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
WHERE e.source_id = (SELECT source_id FROM cdi.sources WHERE name = 'attribution') AND e.user_id IS NOT NULL;
CREATE TEMP VIEW visits AS
SELECT who, to_char(started_at, 'MM-DD HH24:MI:SS.US') AS started, to_char(ended_at - started_at, 'HH24:MI:SS.US') AS length,
       events, page_views, channel, campaign_name AS campaign
FROM cdi.sessions JOIN subjects USING (person_id);

-- Exactly 30 minutes belong to the session, a microsecond more does not.
SELECT pg_temp.send(
    pg_temp.page('gap', '2026-03-01 12:00:00'),
    pg_temp.page('gap', '2026-03-01 12:30:00'),
    pg_temp.page('gap', '2026-03-01 13:00:00.000001'),
    pg_temp.page('gap', '2026-03-01 13:30:00'));
SELECT * FROM visits WHERE who = 'gap' ORDER BY started;

-- Another campaign begins a session, the same one or none does not; a session
-- that began without one ends where one begins.
SELECT pg_temp.send(
    pg_temp.page('campaign', '2026-03-01 12:00:00'),
    pg_temp.page('campaign', '2026-03-01 12:01:00', '?utm_source=google&utm_medium=cpc&utm_campaign=a', 'https://www.google.com/'),
    pg_temp.page('campaign', '2026-03-01 12:02:00', '', 'https://shop.example/p'),
    pg_temp.page('campaign', '2026-03-01 12:03:00', '?utm_source=google&utm_medium=cpc&utm_campaign=a'),
    pg_temp.page('campaign', '2026-03-01 12:04:00', '?utm_source=google&utm_medium=cpc&utm_campaign=b'),
    pg_temp.page('campaign', '2026-03-01 12:05:00', '?utm_source=google&utm_medium=cpc&utm_campaign=b&utm_content=x'),
    pg_temp.page('campaign', '2026-03-01 12:06:00', '?gclid=1'),
    pg_temp.page('campaign', '2026-03-01 12:50:00', '?gclid=2'));
SELECT * FROM visits WHERE who = 'campaign' ORDER BY started;

-- The channel is that of the first event that came from somewhere; identify,
-- group and alias neither begin nor prolong a session.
SELECT pg_temp.send(
    pg_temp.track('channel', '2026-03-01 12:00:00', 'Consent Given'),
    pg_temp.page('channel', '2026-03-01 12:01:00', '', 'https://shop.example/'),
    pg_temp.page('channel', '2026-03-01 12:02:00', '', 'https://www.google.com/'),
    pg_temp.page('channel', '2026-03-01 12:03:00', '', 'https://t.co/'),
    '{"type": "identify", "userId": "channel", "timestamp": "2026-03-01T12:20:00Z", "traits": {"plan": "pro"}}',
    '{"type": "group", "userId": "channel", "groupId": "g", "timestamp": "2026-03-01T12:25:00Z"}',
    '{"type": "screen", "userId": "channel", "name": "Start", "timestamp": "2026-03-01T12:40:00Z"}');
SELECT * FROM visits WHERE who = 'channel' ORDER BY started;
SELECT referrer_host, landing_host, landing_page FROM cdi.sessions JOIN subjects USING (person_id) WHERE who = 'channel' ORDER BY started_at;

-- Touchpoints are the sessions.
SELECT count(*) AS differing FROM (
    SELECT session_id, person_id, started_at, position, channel, campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content FROM cdi.sessions
    EXCEPT ALL
    SELECT session_id, person_id, touched_at, position, channel, campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content FROM cdi.touchpoints) d;
SELECT (SELECT count(*) FROM cdi.sessions) = (SELECT count(*) FROM cdi.touchpoints) AS same_number;

-- Declaring conversions
SELECT cdi_create_conversion('order_test', 'Attribution Order');
SELECT cdi_create_conversion('order_test', 'Attribution Order');
SELECT cdi_create_conversion('', 'x');
SELECT cdi_create_conversion('x', 'x', lookback => '0');
SELECT cdi_drop_conversion('no such');
SELECT * FROM cdi_attribution('telepathy');
SELECT * FROM cdi_attribution(conversion => 'no such');
SELECT * FROM cdi_attribution(lookback => '-1 day');
SELECT * FROM cdi_attribution(NULL);

-- Amounts come as numbers or as strings, exactly; what is no number is none.
SELECT v, cdi_property_number(jsonb_build_object('revenue', v), 'revenue') AS number
FROM unnest(ARRAY['19.99', '"19.99"', '" 42 "', '"1e3"', '-5', '"+.5"', '12345678901234567890.123456789', '1e30',
                  '"12 EUR"', '"NaN"', '"Infinity"', '""', '"."', '"1e"', '"1e99999"', 'true', 'null', '[1]', '{"a": 1}']::jsonb[]) v;
SELECT cdi_property_number('{"revenue": 1e400}', 'revenue') = 1e400 AS large;
SELECT cdi_property_number('[1]', 'revenue'), cdi_property_number('5', 'revenue'), cdi_property_number('{}', 'revenue'), cdi_property_number('{"revenue": 1}', NULL);

-- Credit: a touch exactly at the edge of the window counts, a microsecond
-- before it does not; the session of the conversion itself counts.
SELECT pg_temp.send(
    pg_temp.page('credit', '2026-03-01 11:59:59.999999', '?utm_source=early&utm_medium=email&utm_campaign=1'),
    pg_temp.page('credit', '2026-03-01 12:00:00', '?utm_source=edge&utm_medium=email&utm_campaign=2'),
    pg_temp.page('credit', '2026-03-10 12:00:00', '', 'https://www.google.com/'),
    pg_temp.page('credit', '2026-03-31 11:50:00', '?utm_source=adgrid&utm_medium=display'),
    pg_temp.track('credit', '2026-03-31 12:00:00', 'Attribution Order', '{"revenue": 100}'),
    pg_temp.page('credit', '2026-03-31 12:00:00.000001', '?utm_source=late&utm_medium=email'));
CREATE FUNCTION pg_temp.credit(who text, model text, lookback interval DEFAULT NULL)
RETURNS TABLE (at text, touch int, touches int, channel text, source text, credit float8, value numeric) LANGUAGE sql AS $$
SELECT to_char(a.converted_at, 'MM-DD HH24:MI'), a.touch, a.touches, a.channel, a.campaign_source, a.credit, a.credited_value
FROM cdi_attribution(model, 'order_test', lookback => lookback) a JOIN subjects s USING (person_id)
WHERE s.who = credit.who ORDER BY a.converted_at, a.touch
$$;
SELECT * FROM pg_temp.credit('credit', 'first_touch');
SELECT * FROM pg_temp.credit('credit', 'last_touch');
SELECT * FROM pg_temp.credit('credit', 'linear');
SELECT * FROM pg_temp.credit('credit', 'linear', interval '30 days 1 microsecond');
-- A window too short for any touch: the conversion keeps its one credit.
SELECT * FROM pg_temp.credit('credit', 'linear', interval '1 minute');

-- A touch at the very instant of the conversion counts, in either order of arrival.
SELECT pg_temp.send(
    pg_temp.track('instant', '2026-03-01 12:00:00', 'Attribution Order', '{"revenue": 5}'),
    pg_temp.page('instant', '2026-03-01 12:00:00', '?utm_source=news&utm_medium=email'));
SELECT * FROM pg_temp.credit('instant', 'linear');

-- Several conversions of a person; direct only; no value; a refund.
SELECT pg_temp.send(
    pg_temp.page('several', '2026-03-01 12:00:00', '', 'https://t.co/'),
    pg_temp.track('several', '2026-03-01 12:10:00', 'Attribution Order', '{"revenue": "10.00"}'),
    pg_temp.track('several', '2026-03-01 12:20:00', 'Attribution Order', '{}'),
    pg_temp.page('several', '2026-03-05 12:00:00', '?utm_source=dealhive&utm_medium=affiliate'),
    pg_temp.track('several', '2026-03-05 12:05:00', 'Attribution Order', '{"revenue": -3.335}'),
    pg_temp.track('direct', '2026-03-05 12:05:00', 'Attribution Order', '{"revenue": 7}'));
SELECT * FROM pg_temp.credit('several', 'linear');
SELECT * FROM pg_temp.credit('direct', 'first_touch');

-- A late event comes between: it is a touch like any other.
SELECT pg_temp.send(pg_temp.page('several', '2026-03-03 12:00:00', '', 'https://www.google.com/'));
SELECT * FROM pg_temp.credit('several', 'linear') WHERE at LIKE '03-05%';

-- Merging two identifiers changes who gets the credit, not the events.
SELECT cdi_ingest(jsonb_build_array(
    pg_temp.page(NULL, '2026-03-01 12:00:00', '?utm_source=phone&utm_medium=sms') || '{"anonymousId": "attribution-phone"}',
    pg_temp.track('merge', '2026-03-02 12:00:00', 'Attribution Order', '{"revenue": 8}')), 'attribution');
SELECT cdi_resolve() IS NOT NULL AS resolved;
SELECT * FROM pg_temp.credit('merge', 'first_touch');
SELECT cdi_ingest('{"type": "identify", "userId": "merge", "anonymousId": "attribution-phone", "timestamp": "2026-03-03T12:00:00Z"}', 'attribution');
SELECT cdi_resolve() IS NOT NULL AS resolved;
SELECT * FROM pg_temp.credit('merge', 'first_touch');

-- Bounds of time: from included, to excluded.
SELECT count(*) FROM cdi_attribution('last_touch', 'order_test', from_time => '2026-03-31 12:00:00', to_time => '2026-03-31 12:00:00.000001');
SELECT count(*) FROM cdi_attribution('last_touch', 'order_test', from_time => '2026-03-31 12:00:00.000001');
SELECT count(*) FROM cdi_attribution('last_touch', 'order_test', to_time => '2026-01-01');
-- A window longer than time is holds all touches.
SELECT count(*) AS differing FROM (
    SELECT conversion_event_id, touched_at, credit FROM cdi_attribution('linear', 'order_test', lookback => '200000000 days')
    EXCEPT ALL
    SELECT conversion_event_id, touched_at, credit FROM cdi_attribution('linear', 'order_test', lookback => '1000 years')) d;

-- Random traffic against plain SQL: sessions by lag over two passes, channels
-- of their first foreign event, paths by join, shares by window.
SELECT cdi_create_conversion('random_test', 'Random Order', lookback => '10 days');
SELECT setseed(0.25);
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(CASE
        WHEN kind < 0.1 THEN pg_temp.track('r' || who, at, 'Random Order', jsonb_build_object('revenue', round((value * 100)::numeric, 2)))
        WHEN kind < 0.25 THEN pg_temp.page('r' || who, at, '?utm_source=' || (ARRAY['google', 'facebook', 'news'])[1 + i % 3] || '&utm_medium=' || (ARRAY['cpc', 'email'])[1 + i % 2])
        WHEN kind < 0.4 THEN pg_temp.page('r' || who, at, '', (ARRAY['https://www.google.com/', 'https://t.co/x', 'https://blog.example/'])[1 + i % 3])
        ELSE pg_temp.page('r' || who, at, '', 'https://shop.example/') END)
    FROM (SELECT i, (random() * 40)::int AS who, random() AS kind, random() AS value,
                 timestamptz '2026-04-01' + (random() * 12000)::int * interval '5 minutes' AS at
          FROM generate_series(1, 6000) i) e), 'attribution');

CREATE TEMP TABLE plain_sessions AS
WITH event AS (
    SELECT coalesce(m.person_id, e.subject) AS person_id, e.*,
           CASE WHEN num_nonnulls(campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content, click_id_type) > 0
                THEN (campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content, click_id_type)::text END AS campaign,
           cdi_channel(campaign_source, campaign_medium, click_id_type, referrer_host, page_host) AS event_channel
    FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
    WHERE e.type IN ('page', 'screen', 'track') AND e.subject IS NOT NULL
), gaps AS (
    SELECT *, coalesce("timestamp" - lag("timestamp") OVER w > interval '30 minutes', true) AS after_gap
    FROM event WINDOW w AS (PARTITION BY person_id ORDER BY "timestamp", position)
), stretches AS (
    SELECT *, count(*) FILTER (WHERE after_gap) OVER (PARTITION BY person_id ORDER BY "timestamp", position) AS stretch FROM gaps
), changes AS (
    SELECT *, after_gap OR (campaign IS NOT NULL AND campaign IS DISTINCT FROM
        lag(campaign) OVER (PARTITION BY person_id, stretch, campaign IS NOT NULL ORDER BY "timestamp", position)) AS begins
    FROM stretches
), numbered AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY person_id ORDER BY "timestamp", position) AS number FROM changes
)
SELECT person_id, number, min("timestamp") AS started_at, max("timestamp") AS ended_at, count(*) AS events,
       (array_agg(event_id ORDER BY "timestamp", position))[1] AS session_id,
       coalesce((array_agg(event_channel ORDER BY "timestamp", position) FILTER (WHERE event_channel <> 'direct'))[1], 'direct') AS channel
FROM numbered GROUP BY person_id, number;
SELECT count(*) > 1000 AS many FROM plain_sessions;
SELECT count(*) AS differing FROM (
    (TABLE plain_sessions EXCEPT ALL SELECT person_id, row_number() OVER (PARTITION BY person_id ORDER BY started_at, position), started_at, ended_at, events, session_id, channel FROM cdi.sessions)
    UNION ALL
    (SELECT person_id, row_number() OVER (PARTITION BY person_id ORDER BY started_at, position), started_at, ended_at, events, session_id, channel FROM cdi.sessions EXCEPT ALL TABLE plain_sessions)) d;

CREATE TEMP TABLE plain_credit AS
WITH conversion AS (
    SELECT e.event_id, c.name AS conversion, coalesce(m.person_id, e.subject) AS person_id, e."timestamp" AS at,
           CASE WHEN e.properties->>'revenue' ~ '^-?[0-9.]+$' THEN (e.properties->>'revenue')::numeric END AS value, c.lookback
    FROM cdi.conversions c JOIN cdi.events e ON e.event = c.event AND e.type = 'track'
    LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
    WHERE c.name LIKE '%\_test'
), path AS (
    SELECT c.event_id, c.conversion, c.value, s.session_id, s.channel,
           row_number() OVER (PARTITION BY c.event_id, c.conversion ORDER BY s.started_at, s.number) AS touch,
           count(s.session_id) OVER (PARTITION BY c.event_id, c.conversion) AS touches
    FROM conversion c LEFT JOIN plain_sessions s ON s.person_id = c.person_id
        AND s.started_at BETWEEN c.at - c.lookback AND c.at
)
SELECT model, event_id, conversion, session_id, coalesce(channel, 'unattributed') AS channel, touch, touches,
       CASE model WHEN 'linear' THEN 1.0 / greatest(touches, 1) ELSE 1 END AS credit,
       CASE model WHEN 'linear' THEN value / greatest(touches, 1) ELSE value END AS credited_value
FROM path CROSS JOIN (VALUES ('first_touch'), ('last_touch'), ('linear')) m(model)
WHERE touches = 0 OR model = 'linear' OR (model = 'first_touch' AND touch = 1) OR (model = 'last_touch' AND touch = touches);
CREATE TEMP TABLE credit AS
SELECT m.model, a.* FROM (VALUES ('first_touch'), ('last_touch'), ('linear')) m(model) CROSS JOIN LATERAL cdi_attribution(m.model) a
WHERE a.conversion LIKE '%\_test';

-- No row: the same touches get the same credit and value.
SELECT count(*) AS differing FROM credit c FULL JOIN plain_credit p
    ON p.model = c.model AND p.event_id = c.conversion_event_id AND p.conversion = c.conversion AND p.session_id IS NOT DISTINCT FROM c.session_id
WHERE p.model IS NULL OR c.model IS NULL OR p.channel <> c.channel OR p.touches <> c.touches
   OR (c.touch IS NOT NULL AND p.touch <> c.touch)
   OR abs(p.credit - c.credit) > 1e-12 OR (p.credited_value IS NULL) <> (c.credited_value IS NULL)
   OR abs(p.credited_value - c.credited_value) > 1e-9;
SELECT model, count(*) FILTER (WHERE conversion = 'random_test') > 500 AS many, max(touches) > 10 AS long_paths FROM credit GROUP BY model ORDER BY model;

-- Credits of every conversion sum to 1 and values to its value, to the last digit.
SELECT count(*) AS wrong FROM (
    SELECT sum(credit ORDER BY touch) AS credit, sum(credited_value) AS credited_value, min(value) AS value
    FROM credit GROUP BY model, conversion, conversion_event_id) s
WHERE credit <> 1 OR credited_value <> value;
SELECT sum(credited_value) = (SELECT sum(value) FROM cdi.conversion_events WHERE conversion LIKE '%\_test') AS total_is_kept FROM credit WHERE model = 'linear';

-- One event may be two conversions, each with its own window.
SELECT cdi_create_conversion('random_short', 'Random Order', value_property => NULL, lookback => '1 day');
SELECT conversion, count(DISTINCT conversion_event_id) = (SELECT count(*) FROM cdi.events WHERE event = 'Random Order') AS all_of_them,
       count(credited_value) > 0 AS valued, max(converted_at - touched_at) <= interval '10 days' AS in_window, max(converted_at - touched_at) > interval '1 day' AS beyond_a_day
FROM cdi_attribution('linear') WHERE conversion LIKE 'random%' GROUP BY conversion ORDER BY conversion;

-- Different campaigns never have the same key.
SELECT cdi_campaign_key('a', 'b', NULL, NULL, NULL, 'gclid'), cdi_campaign_key('a&medium=b', NULL, NULL, NULL, NULL, NULL), cdi_campaign_key('', NULL, '50%', '%25', NULL, NULL), cdi_campaign_key(NULL, NULL, NULL, NULL, NULL, NULL);

-- The window functions on rows of their own.
SELECT i, at, campaign, cdi_session_id(('00000000-0000-0000-0000-00000000000' || i)::uuid, at, campaign, interval '1 hour') OVER w AS session,
       cdi_session_channel(('00000000-0000-0000-0000-00000000000' || i)::uuid, at, campaign, interval '1 hour', channel) OVER w AS channel
FROM (VALUES (1, timestamptz '2026-01-01 00:00', NULL, 'direct'), (2, '2026-01-01 01:00', NULL, NULL), (3, '2026-01-01 01:30', NULL, 'email'),
             (4, '2026-01-01 01:40', 'a', 'display'), (5, '2026-01-01 01:50', '', 'email'), (6, NULL, 'b', 'sms'), (7, 'infinity', NULL, 'direct')) v (i, at, campaign, channel)
WINDOW w AS (ORDER BY i) ORDER BY i;
SELECT cdi_session_id(gen_random_uuid(), at, NULL) OVER (ORDER BY at DESC) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_session_id(gen_random_uuid(), now(), NULL, interval '1 month') OVER ();
SELECT cdi_session_id(gen_random_uuid(), now(), NULL, interval '0') OVER ();
SELECT cdi_session_id(gen_random_uuid(), now(), NULL, NULL) OVER ();

-- cdi_first(): earliest, then lowest position; nulls count unless left out.
SELECT g, cdi_first(v, at, p), cdi_last(v, at, p), cdi_first(v, at, p) FILTER (WHERE v IS NOT NULL) AS known, cdi_first(p, at, p) AS of_integers
FROM (VALUES (1, 'b', timestamptz '2026-01-02', 1), (1, 'a', '2026-01-01', 9), (1, 'c', '2026-01-01', 8), (2, NULL, '2026-01-01', 1), (2, 'd', '2026-01-03', 2), (3, 'x', NULL, 1)) v (g, v, at, p)
GROUP BY g ORDER BY g;

-- A reader needs no more than cdi_grant_reader().
CREATE ROLE cdi_test_analyst;
SELECT cdi_grant_reader('cdi_test_analyst');
SET ROLE cdi_test_analyst;
SELECT count(*) > 0 AS credited FROM cdi_attribution('linear', 'order_test');
SELECT count(*) > 0 AS sessions FROM cdi.sessions;
SELECT cdi_create_conversion('mine', 'Mine');
RESET ROLE;
CREATE ROLE cdi_test_nobody;
GRANT EXECUTE ON FUNCTION cdi_attribution TO cdi_test_nobody;
SET ROLE cdi_test_nobody;
SELECT count(*) FROM cdi_attribution();
RESET ROLE;
REVOKE EXECUTE ON FUNCTION cdi_attribution FROM cdi_test_nobody;
DROP ROLE cdi_test_nobody;

SELECT cdi_drop_conversion(name) FROM unnest('{order_test,random_test,random_short}'::text[]) AS name;
