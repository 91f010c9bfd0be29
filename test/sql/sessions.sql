-- What ends a session: gap, campaign, midnight and cuts, against a computation
-- in plain SQL (a recursion over each person's events) over random traffic.
SET client_min_messages = warning;
SELECT setseed(0.5);
CREATE TEMP TABLE traffic AS
SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid AS event_id, i AS position, (random() * 30)::int AS person,
       timestamptz '2026-03-20 00:00:00+00' + (random() * 2000)::int * interval '10 minutes' AS at,
       CASE WHEN random() < 0.15 THEN (ARRAY['a', 'b', 'c'])[1 + (random() * 2)::int] END AS campaign,
       CASE WHEN random() < 0.1 THEN true WHEN random() < 0.5 THEN false END AS cut,
       (ARRAY['direct', 'direct', 'direct', 'email', 'paid_search'])[1 + (random() * 4)::int] AS channel
FROM generate_series(1, 6000) i;
-- Every midnight once more, to the microsecond.
INSERT INTO traffic
SELECT ('00000000-0000-0000-0001-' || lpad((i * 3 + d + 1)::text, 12, '0'))::uuid, 10000 + i * 3 + d, i % 30,
       (date '2026-03-20' + i)::timestamp AT TIME ZONE 'Europe/Berlin' + d * interval '1 microsecond', NULL, NULL, 'direct'
FROM generate_series(0, 13) i, generate_series(-1, 1) d;

CREATE FUNCTION pg_temp.plain(gap interval, zone text, use_cut boolean)
RETURNS TABLE (event_id uuid, session_id uuid, channel text) LANGUAGE sql AS $$
WITH RECURSIVE numbered AS (
    SELECT t.*, row_number() OVER (PARTITION BY person ORDER BY at, position) AS n FROM traffic t
), walk AS (
    SELECT n.*, n.event_id AS session_id, n.campaign AS session_campaign FROM numbered n WHERE n = 1
    UNION ALL
    SELECT e.*, CASE WHEN b.begins THEN e.event_id ELSE w.session_id END, CASE WHEN b.begins THEN e.campaign ELSE w.session_campaign END
    FROM walk w JOIN numbered e ON e.person = w.person AND e.n = w.n + 1
    CROSS JOIN LATERAL (SELECT e.at - w.at > gap
        OR (e.campaign IS NOT NULL AND e.campaign IS DISTINCT FROM w.session_campaign)
        OR (zone IS NOT NULL AND (e.at AT TIME ZONE zone)::date <> (w.at AT TIME ZONE zone)::date)
        OR (use_cut AND coalesce(e.cut, false)) AS begins) b
)
SELECT event_id, session_id, CASE WHEN event_id = session_id THEN
       coalesce((array_agg(channel) FILTER (WHERE channel <> 'direct') OVER s)[1], 'direct') END
FROM walk WINDOW s AS (PARTITION BY session_id ORDER BY at, position ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
$$;
CREATE FUNCTION pg_temp.ours(gap interval, zone text, use_cut boolean)
RETURNS TABLE (event_id uuid, session_id uuid, channel text) LANGUAGE sql AS $$
SELECT event_id, cdi_session_id(event_id, at, campaign, gap, zone, use_cut AND cut) OVER w,
       cdi_session_channel(event_id, at, campaign, gap, channel, zone, use_cut AND cut) OVER w
FROM traffic WINDOW w AS (PARTITION BY person ORDER BY at, position)
$$;
-- Berlin goes to summer time on 29 March, Sydney back from it on 5 April; Kathmandu has 5:45.
SELECT gap, zone, cut, (SELECT count(DISTINCT session_id) FROM pg_temp.plain(gap, zone, cut)) > 500 AS many,
       (SELECT count(*) FROM (SELECT * FROM pg_temp.ours(gap, zone, cut) EXCEPT SELECT * FROM pg_temp.plain(gap, zone, cut)) d) AS differing
FROM unnest('{30 minutes,6 hours}'::interval[]) gap, unnest('{NULL,UTC,Europe/Berlin,Asia/Kathmandu,Australia/Sydney}'::text[]) zone, unnest('{f,t}'::boolean[]) cut
ORDER BY 1, 2 NULLS FIRST, 3;

-- Calls as they were before: no midnight, no cuts.
SELECT count(*) AS differing FROM (
    SELECT event_id, cdi_session_id(event_id, at, campaign) OVER w, cdi_session_channel(event_id, at, campaign, '30 minutes', channel) OVER w
    FROM traffic WINDOW w AS (PARTITION BY person ORDER BY at, position)
    EXCEPT SELECT * FROM pg_temp.plain('30 minutes', NULL, false)) d;
-- Midnight itself begins the day; infinite times have none.
SELECT at, cdi_session_id(('00000000-0000-0000-0000-00000000000' || i)::uuid, at, NULL, '1 day', 'Europe/Berlin') OVER (ORDER BY i) AS session
FROM (VALUES (1, timestamptz '-infinity'), (2, '-infinity'), (3, '2026-03-28 22:59:59.999999+00'), (4, '2026-03-28 23:00:00+00'), (5, '2026-03-29 21:59:59.999999+00'),
             (6, '2026-03-29 22:00:00+00'), (7, 'infinity')) v (i, at);
SELECT cdi_session_id(gen_random_uuid(), now(), NULL, '30 minutes', 'Mars/Olympus') OVER ();
SELECT cdi_session_id(gen_random_uuid(), now(), NULL, '30 minutes', '') OVER ();

-- The declared default, which the views use.
SELECT cdi_create_source('sessions') IS NOT NULL AS made;
SELECT stored FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Session ' || event, 'userId', 'sessions', 'messageId', 'sessions-' || i, 'timestamp', at))
    FROM (VALUES (1, 'Opened', '2026-01-01T23:40:00Z'), (2, 'Seen', '2026-01-01T23:50:00Z'), (3, 'Seen', '2026-01-02T00:10:00Z'), (4, 'Opened', '2026-01-02T00:15:00Z'),
                 (5, 'Seen', '2026-01-02T00:55:00Z')) v (i, event, at)), 'sessions');
CREATE FUNCTION pg_temp.sessions() RETURNS text LANGUAGE sql AS $$
SELECT string_agg(events::text, ' ' ORDER BY started_at) FROM cdi.sessions WHERE person_id = cdi_person('user_id', 'sessions')
$$;
SELECT pg_temp.sessions();
SELECT cdi_set_sessions(midnight => 'UTC');
SELECT pg_temp.sessions();
SELECT cdi_set_sessions(gap => '1 hour', cut_events => '{Session Opened}');
SELECT pg_temp.sessions();
SELECT cdi_set_sessions('5 minutes', 'UTC', '{Session Opened,Session Seen}');
SELECT pg_temp.sessions(), (SELECT count(*) FROM cdi.touchpoints WHERE person_id = cdi_person('user_id', 'sessions')) AS touchpoints;
SELECT gap, midnight, cut_events FROM cdi.session_settings;
SELECT cdi_set_sessions(midnight => 'Mars/Olympus');
SELECT cdi_set_sessions(gap => '1 month');
SELECT cdi_set_sessions(gap => NULL);
SELECT cdi_set_sessions(cut_events => '{a,NULL}');
SELECT cdi_set_sessions();
SELECT gap, midnight, cut_events FROM cdi.session_settings;
SELECT pg_temp.sessions();
