-- Cookieless ids: of a day, made of address and user agent, for a source that asks for it.
SELECT cdi_create_source('daily') IS NOT NULL AS created, cdi_create_source('daily always') IS NOT NULL AS created,
       cdi_create_source('daily off') IS NOT NULL AS created;
SELECT name, cookieless FROM cdi.sources WHERE name LIKE 'daily%' ORDER BY name;
SELECT cdi_alter_source('daily', '{"cookieless": "missing"}'), cdi_alter_source('daily always', '{"cookieless": "always"}');
SELECT name, cookieless FROM cdi.sources WHERE name LIKE 'daily%' ORDER BY name;

-- Days end at midnight UTC; begin early enough for all that follows.
SELECT pg_sleep_for(left_today) FROM (SELECT interval '1 day' - (now() AT TIME ZONE 'UTC')::time) d(left_today)
WHERE left_today < '60 seconds' \g /dev/null

CREATE FUNCTION pg_temp.visit(source text, message_id text, context jsonb, anonymous_id text DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    id uuid := cdi_track(visit.user_id, 'Visited', anonymous_id => visit.anonymous_id, context => visit.context,
                         message_id => visit.message_id, source => visit.source);
BEGIN
    RETURN (SELECT e.anonymous_id FROM cdi.events e WHERE e.event_id = id);
END
$$;

-- Of the same client the same id, in whatever form the address is written; of
-- another client, source or user agent another.
CREATE TEMP TABLE made AS
SELECT v.*, pg_temp.visit(source, 'day-' || n, jsonb_build_object('ip', ip, 'userAgent', agent)) AS id
FROM (VALUES (1, 'daily', '203.0.113.7', 'Agent/1', 'the first'),
             (2, 'daily', '203.0.113.7', 'Agent/1', 'the same'),
             (3, 'daily', '::ffff:203.0.113.7', 'Agent/1', 'the same, mapped'),
             (4, 'daily', '::FFFF:cb00:7107', 'Agent/1', 'the same, mapped in hexadecimal'),
             (5, 'daily', '203.0.113.8', 'Agent/1', 'another address'),
             (6, 'daily', '203.0.113.7', 'Agent/2', 'another user agent'),
             (7, 'daily always', '203.0.113.7', 'Agent/1', 'another source'),
             (8, 'daily', '2001:db8::1', 'Agent/1', 'IPv6'),
             (9, 'daily', '2001:0DB8:0:0:0:0:0:1', 'Agent/1', 'the same IPv6'),
             (10, 'daily', '::203.0.113.7', 'Agent/1', 'IPv4-compatible is no IPv4'),
             (11, 'daily', '203.0.113.7', repeat('x', 1000000), 'a user agent of a megabyte'),
             (12, 'daily', '203.0.113.7', repeat('x', 999999) || 'y', 'which counts to its end')) v(n, source, ip, agent, client);
SELECT n, client, dense_rank() OVER (ORDER BY (SELECT min(n) FROM made f WHERE f.id = made.id)) AS visitor,
       id ~ '^cookieless:[0-9a-f]{32}$' AS well_formed
FROM made ORDER BY n;

-- No address is stored, not even a client's own.
SELECT count(*) AS addresses FROM cdi.events WHERE message_id LIKE 'day-%' AND (context ? 'ip' OR context::text ~ '203.0.113|2001');

-- "missing" leaves a client's own id; "always" replaces it.  With a user id
-- there is none, and zeros and PostHog's word are no ids.
SELECT n, source, coalesce(sent, '-') AS sent, coalesce("user", '-') AS "user",
       CASE WHEN id LIKE 'cookieless:%' THEN 'an id of the day' ELSE coalesce(id, '-') END AS stored,
       id = (SELECT m.id FROM made m WHERE m.ip = '203.0.113.7' AND m.agent = 'Agent/1' AND m.source = v.source ORDER BY n LIMIT 1) AS the_same_visitor
FROM (SELECT *, pg_temp.visit(source, 'own-' || n, '{"ip": "203.0.113.7", "userAgent": "Agent/1"}', sent, "user") AS id
      FROM (VALUES (1, 'daily', 'device-1', NULL), (2, 'daily always', 'device-1', NULL),
                   (3, 'daily', NULL, 'day-user'), (4, 'daily always', 'device-1', 'day-user'), (5, 'daily', 'device-1', 'day-user'),
                   (6, 'daily', '00000000-0000-0000-0000-000000000000', NULL), (7, 'daily', '$posthog_cookieless', NULL),
                   (8, 'daily always', NULL, '$posthog_cookieless'), (9, 'daily off', 'device-1', NULL)) w(n, source, sent, "user")) v
ORDER BY n;
SELECT count(*) AS devices FROM cdi.events WHERE source_id = (SELECT source_id FROM cdi.sources WHERE name = 'daily always') AND to_jsonb(events)::text ~ 'device-1';
SELECT context FROM cdi.events WHERE message_id = 'own-9';
-- Nor does "always" keep what else tells the device apart.
SELECT pg_temp.visit(source, 'device-' || source, '{"ip": "203.0.113.7", "userAgent": "Agent/1", "device": {"id": "device-4", "model": "Pixel 8", "advertisingId": "ad-4"}}') IS NOT NULL AS stored,
       source FROM (VALUES ('daily'), ('daily always')) v(source);
SELECT message_id, context FROM cdi.events WHERE message_id LIKE 'device-daily%' ORDER BY 1;

-- Either alone is many people's: no id then, and who has no other fails.
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.refused(source text, context jsonb, anonymous_id text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    RETURN pg_temp.visit(source, NULL, context, anonymous_id);
EXCEPTION WHEN SQLSTATE 'ZC204' THEN
    GET STACKED DIAGNOSTICS said = PG_EXCEPTION_DETAIL;
    RETURN said;
END
$$;
SELECT source, context, refused FROM (VALUES
    ('daily', NULL::jsonb), ('daily', '{}'), ('daily', '{"userAgent": "Agent/1"}'), ('daily', '{"ip": "203.0.113.7"}'),
    ('daily', '{"ip": "203.0.113.7", "userAgent": ""}'), ('daily', '{"ip": "0.0.0.0", "userAgent": "Agent/1"}'),
    ('daily', '{"ip": "::", "userAgent": "Agent/1"}'), ('daily', '{"ip": "::ffff:0.0.0.0", "userAgent": "Agent/1"}'),
    ('daily', '{"ip": "203.0.113.7, 10.0.0.1", "userAgent": "Agent/1"}'), ('daily', '{"ip": "unknown", "userAgent": "Agent/1"}'),
    ('daily', '{"ip": 17, "userAgent": "Agent/1"}'), ('daily', '{"ip": "203.0.113.7", "userAgent": ["Agent/1"]}')) v(source, context),
    LATERAL pg_temp.refused(source, context) r(refused);
SELECT pg_temp.refused('daily always', '{"userAgent": "Agent/1"}', 'device-2');
SELECT cdi_track(event => 'Visited', source => 'daily');
-- An id that is nobody's stays that, as everywhere.
SELECT pg_temp.refused('daily always', '{"userAgent": "Agent/1"}', '00000000-0000-0000-0000-000000000000') AS nobody;

-- It is never evidence: not with an e-mail address or traits, not as what an
-- alias names, and not where somebody sends one as an id of his own.
SELECT id AS day FROM made WHERE n = 1 \gset
SELECT stored, failed FROM cdi_ingest(jsonb_build_array(
    jsonb_build_object('type', 'identify', 'messageId', 'ev-1', 'traits', '{"email": "Day@Daily.Example"}'::jsonb, 'context', '{"ip": "203.0.113.7", "userAgent": "Agent/1"}'::jsonb),
    jsonb_build_object('type', 'identify', 'messageId', 'ev-2', 'traits', '{"plan": "pro"}'::jsonb, 'context', '{"ip": "203.0.113.7", "userAgent": "Agent/1"}'::jsonb),
    jsonb_build_object('type', 'alias', 'messageId', 'ev-3', 'userId', 'day-user', 'previousId', :'day')), 'daily');
SELECT cdi_identify('day-user', '{"email": "Day2@Daily.Example"}', anonymous_id => :'day', message_id => 'ev-4', source => 'daily off') IS NOT NULL AS stored;
SELECT e.message_id, e.anonymous_id = :'day' AS has_it, e.subject = k.subject AS its_person, l.types, l."values"
FROM cdi.events e LEFT JOIN cdi.identity_links l USING (event_id), (SELECT subject FROM cdi.events WHERE message_id = 'day-1') k
WHERE e.message_id LIKE 'ev-%' ORDER BY 1;
-- Nor where a normaliser takes its mark away.
CREATE FUNCTION public.day_unmarked(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(replace($1, ':', '-'));
SELECT cdi_set_identifier_type('anonymous_id', '{"normaliser": "function:public.day_unmarked"}');
SELECT cdi_identify('day-user', '{"email": "Day3@Daily.Example"}', anonymous_id => :'day', message_id => 'un-1', source => 'daily off') IS NOT NULL AS stored,
       cdi_identify(anonymous_id => :'day', traits => '{"plan": "pro"}', message_id => 'un-2', source => 'daily off') IS NOT NULL AS stored;
SELECT cdi_set_identifier_type('anonymous_id', '{"normaliser": null}');
DROP FUNCTION public.day_unmarked(text);
SELECT e.message_id, e.anonymous_id, l.types, l."values" FROM cdi.events e LEFT JOIN cdi.identity_links l USING (event_id) WHERE e.message_id LIKE 'un-%' AND e.anonymous_id IS NULL;
SELECT count(*) AS evidence FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.message_id LIKE 'un-%' AND l."values"::text ILIKE '%cookieless%';
SELECT cdi_resolve() >= 0 AS resolved;
SELECT count(*) AS evidence FROM cdi.identity_links WHERE "values"::text LIKE '%cookieless:%';
SELECT count(*) AS in_the_map FROM cdi.identity_map JOIN cdi.events ON identifier = subject WHERE anonymous_id LIKE 'cookieless:%';
SELECT count(DISTINCT cdi_person('anonymous_id', id)) AS people, count(DISTINCT id) AS ids FROM made;

-- What fails keeps its id and loses the address, so that it can be replayed on
-- any day; what was received on another day gets none of today.
SELECT failed FROM cdi_ingest('[{"type": "track", "event": "Repaired", "messageId": "re-1", "timestamp": "noon", "context": {"ip": "203.0.113.7", "userAgent": "Agent/1", "n": 1.50}},
    {"type": "track", "event": "Repaired", "messageId": "re-2", "timestamp": "noon", "userId": "day-user", "anonymousId": "device-3", "context": {"ip": "203.0.113.7", "userAgent": "Agent/1"}}]', 'daily');
SELECT failed FROM cdi_ingest('{"type": "track", "event": "Repaired", "messageId": "re-3", "timestamp": "noon", "anonymousId": "device-3", "context": {"device": {"id": "device-3"}, "ip": "203.0.113.7", "userAgent": "Agent/1"}}', 'daily always');
SELECT convert_from(payload, 'UTF8') AS payload, envelope - 'cookielessId' AS envelope, envelope->>'cookielessId' LIKE 'cookieless:%' AS has_id
FROM cdi.failed_events JOIN cdi.sources s USING (source_id) WHERE s.name LIKE 'daily%' ORDER BY failed_id;
UPDATE cdi.failed_events SET received_at = received_at - interval '3 days',
    payload = convert_to(replace(convert_from(payload, 'UTF8'), '"noon"', '"2026-01-05T12:00:00Z"'), 'UTF8')
WHERE source_id IN (SELECT source_id FROM cdi.sources WHERE name LIKE 'daily%');
SELECT * FROM cdi_replay(source => 'daily');
SELECT * FROM cdi_replay(source => 'daily always');
SELECT message_id, coalesce(anonymous_id IN (SELECT id FROM made), false) AS the_same_visitor, anonymous_id LIKE 'device%' AS own, context
FROM cdi.events WHERE message_id LIKE 're-%' ORDER BY 1;
SELECT stored, failed FROM cdi_ingest(jsonb_build_array(
    jsonb_build_object('type', 'track', 'event', 'Old', 'messageId', 'past-1', 'receivedAt', now() - interval '1 day', 'context', '{"ip": "203.0.113.7", "userAgent": "Agent/1"}'::jsonb),
    jsonb_build_object('type', 'track', 'event', 'Old', 'messageId', 'past-2', 'receivedAt', now() - interval '1 day', 'anonymousId', :'day'),
    jsonb_build_object('type', 'track', 'event', 'Old', 'messageId', 'past-3', 'receivedAt', now(), 'context', '{"ip": "203.0.113.7", "userAgent": "Agent/1"}'::jsonb)), 'daily always', history => true);
SELECT message_id, anonymous_id = :'day' AS exported, anonymous_id = (SELECT id FROM made WHERE n = 7) AS of_today FROM cdi.events WHERE message_id LIKE 'past-%' ORDER BY 1;
SELECT message, detail, hint, convert_from(payload, 'UTF8') LIKE '%203.0%' AS address FROM cdi.failed_events JOIN cdi.sources s USING (source_id) WHERE s.name = 'daily always';
DELETE FROM cdi.failed_events WHERE source_id IN (SELECT source_id FROM cdi.sources WHERE name LIKE 'daily%');

-- Requests as they came have the address, so the two exclude each other.
SELECT cdi_alter_source('daily', '{"keep_original": true}');
SELECT cdi_alter_source('daily off', '{"keep_original": true, "cookieless": "always"}');
SELECT cdi_alter_source('daily off', '{"cookieless": "sometimes"}');
SELECT cdi_alter_source('daily', '{"cookieless": null}'), cdi_alter_source('daily always', '{"cookieless": "off"}');
SELECT name, cookieless FROM cdi.sources WHERE name LIKE 'daily%' ORDER BY name;
