-- Touchpoints beside sessions: clicks and impressions that a platform reports, and offline touches.
SET client_min_messages = warning;
SELECT cdi_create_source('touchpoints') IS NOT NULL AS made;
SELECT stored FROM cdi_ingest('[
    {"type": "page", "anonymousId": "tp-phone", "messageId": "tp1", "timestamp": "2026-02-01T10:00:00Z", "context": {"page": {"url": "https://shop.example/?utm_source=news&utm_medium=email"}}},
    {"type": "track", "event": "Ad Viewed", "anonymousId": "tp-phone", "messageId": "tp2", "timestamp": "2026-02-01T10:20:00Z", "properties": {"network": "adgrid", "format": "banner", "ad": "spring"}},
    {"type": "page", "anonymousId": "tp-phone", "messageId": "tp3", "timestamp": "2026-02-01T10:45:00Z"},
    {"type": "track", "event": "Ad Viewed", "userId": "tp", "messageId": "tp4", "timestamp": "2026-02-02T10:00:00Z", "properties": {}, "context": {"campaign": {"source": "google", "medium": "cpc", "name": "brand"}}},
    {"type": "track", "event": "Store Visited", "userId": "tp", "messageId": "tp5", "timestamp": "2026-02-03T10:00:00Z", "properties": {"branch": "Berlin"}},
    {"type": "track", "event": "Call Received", "userId": "tp", "messageId": "tp6", "timestamp": "2026-02-03T10:00:00Z", "properties": {"line": "partner_line"}},
    {"type": "track", "event": "Call Received", "userId": "tp", "messageId": "tp7", "timestamp": "2026-02-04T10:00:00Z", "properties": {"line": ""}},
    {"type": "page", "name": "Store Visited", "userId": "tp", "messageId": "tp8", "timestamp": "2026-02-05T10:00:00Z"},
    {"type": "identify", "userId": "tp", "anonymousId": "tp-phone", "messageId": "tp9", "timestamp": "2026-02-05T11:00:00Z"}]', 'touchpoints');
SELECT cdi_resolve() IS NOT NULL AS resolved;
CREATE FUNCTION pg_temp.touches() RETURNS TABLE (touched_at timestamptz, touch_type text, channel text, source text, medium text, name text) LANGUAGE sql AS $$
SELECT touched_at, touch_type, channel, campaign_source, campaign_medium, campaign_name
FROM cdi.touchpoints WHERE person_id = cdi_person('user_id', 'tp') ORDER BY person_id, touched_at, position
$$;
SET TimeZone = 'UTC';
-- Nothing declared: every tracked event counts in sessions.
SELECT * FROM pg_temp.touches();
SELECT cdi_create_channel('visit');
SELECT cdi_create_touch_type('ad', 'Ad Viewed', 'impression', properties => '{"campaign_source": "network", "campaign_medium": "format", "campaign_name": "ad"}');
SELECT cdi_create_touch_type('visit', 'Store Visited', 'offline', channel => 'visit');
SELECT cdi_create_touch_type('call', 'Call Received', 'offline', properties => '{"channel": "line"}');
-- A device without a name and a person who logged in later are one.  Events
-- that are touches of their own neither begin nor prolong a session.
SELECT * FROM pg_temp.touches();
SELECT event, count(*) FROM cdi.session_events WHERE person_id = cdi_person('user_id', 'tp') GROUP BY event ORDER BY event;
SELECT count(*) = count(DISTINCT (session_id, touch_type)) AS unique_ids, count(*) FILTER (WHERE person_id IS NULL) AS without_person FROM cdi.touchpoints;
-- Every touch is there once: sessions as cdi.sessions has them, the others as their events.
SELECT (SELECT count(*) FROM cdi.touchpoints WHERE touch_type = 'session') = (SELECT count(*) FROM cdi.sessions) AS sessions,
       (SELECT count(*) FROM cdi.touchpoints WHERE touch_type <> 'session')
       = (SELECT count(*) FROM cdi.events e JOIN cdi.touch_types t ON t.event = e.event WHERE e.type = 'track') AS events;

-- Sorted by person and time without a sort of the sessions, as attribution reads them.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET max_parallel_workers_per_gather = 0;
CREATE FUNCTION pg_temp.nodes(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF line ~ '^(Merge Append|Sort|  ->  (Subquery Scan|Sort|WindowAgg)| +One-Time Filter)' THEN
            RETURN NEXT regexp_replace(line, '( on )\S+|\$\d+|\(InitPlan \d+\)\.col1', '\1');
        END IF;
    END LOOP;
END
$$;
SELECT pg_temp.nodes('SELECT * FROM cdi.touchpoints ORDER BY person_id, touched_at, position');
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET max_parallel_workers_per_gather;

-- Taken back, they count in sessions again.
SELECT cdi_drop_touch_type('ad'), cdi_drop_touch_type('visit'), cdi_drop_touch_type('call');
SELECT count(*) FROM pg_temp.touches();
SELECT count(*) AS touch_types FROM cdi.touch_types;

-- What is refused.
SELECT cdi_create_touch_type('', 'x', 'offline');
SELECT cdi_create_touch_type('x', NULL, 'offline');
SELECT cdi_create_touch_type('x', 'x', 'view');
SELECT cdi_create_touch_type('x', 'x', 'offline', properties => '[]');
SELECT cdi_create_touch_type('x', 'x', 'offline', properties => '{"source": "a"}');
SELECT cdi_create_touch_type('x', 'x', 'offline', properties => '{"channel": 1}');
SELECT cdi_create_touch_type('x', 'x', 'offline');
SELECT cdi_create_touch_type('x', 'y', 'click');
SELECT cdi_create_touch_type('y', 'x', 'click');
\set VERBOSITY sqlstate
SELECT cdi_create_touch_type('y', 'y', 'offline', channel => 'no_channel');
SELECT cdi_drop_touch_type('no such');
\set VERBOSITY default
SELECT cdi_drop_touch_type('x');
