-- The SQL doors of the pipeline: what is stored, what is refused, and the accounts.
SET client_min_messages = warning;
SELECT cdi_create_source('ingest') ~ '^cdi_[0-9a-f]{40}$' AS write_key_shown_once;

-- A verb returns the event's id; every parameter has a name and a default.
SELECT cdi_track('u1', 'Order Completed', '{"revenue": 42}') IS NOT NULL AS id;
SELECT cdi_track(user_id => 'u1', event => 'Named', message_id => 'named-1', source => 'ingest')
     = cdi_track(user_id => 'u1', event => 'Named', message_id => 'named-1', source => 'ingest') AS same_message_same_id;
SELECT count(*) FROM cdi.events WHERE message_id = 'named-1';
SELECT cdi_identify('u1', '{"email": "U1@Example.com"}', anonymous_id => 'a1', source => 'ingest') IS NOT NULL AS id;
SELECT cdi_page('u1', 'Home', '{"url": "https://shop.example/?utm_source=news&utm_medium=email"}', source => 'ingest') IS NOT NULL AS id;
SELECT cdi_screen(anonymous_id => 'a1', name => 'Start', source => 'ingest') IS NOT NULL AS id;
SELECT cdi_group('u1', 'acme', '{"plan": "pro"}', source => 'ingest') IS NOT NULL AS id;
SELECT cdi_alias('u1', 'a0', source => 'ingest') IS NOT NULL AS id;
SELECT type, event, user_id, anonymous_id, group_id, previous_id, campaign_source, campaign_medium, properties, traits
FROM cdi.events WHERE source_id = (SELECT source_id FROM cdi.sources WHERE name = 'ingest') ORDER BY position;

-- A verb raises what is wrong, with SQLSTATE, detail and hint.
SELECT cdi_track('u1');
\echo :SQLSTATE
SELECT cdi_track(event => 'Nobody');
\echo :SQLSTATE
SELECT cdi_track('u1', 'x', '[1]');
\echo :SQLSTATE
SELECT cdi_track('u1', 'x', source => 'no such source');
\echo :SQLSTATE
SELECT cdi_track('u1', 'x', "timestamp" => 'infinity');
\echo :SQLSTATE
SELECT cdi_alias('u1');
\echo :SQLSTATE
SELECT cdi_ingest('42');
\echo :SQLSTATE

-- It is part of the transaction.
BEGIN;
SELECT cdi_track('u1', 'Rolled back', message_id => 'rolled-back') IS NOT NULL AS id;
ROLLBACK;
SELECT count(*) FROM cdi.events WHERE message_id = 'rolled-back';
SELECT count(*) FROM (SELECT cdi_track('u1', 'Rolled back', message_id => 'rolled-back')) again;
SELECT count(*) FROM cdi.events WHERE message_id = 'rolled-back';

-- cdi_ingest takes one call, an array or a batch, and bad events cost their neighbours nothing.
SELECT cdi_create_source('bulk') IS NOT NULL AS created;
SELECT * FROM cdi_ingest('{"type": "track", "event": "One", "userId": "u2", "messageId": "b1"}', 'bulk');
SELECT * FROM cdi_ingest('[{"type": "track", "event": "One", "userId": "u2", "messageId": "b1"},
                          {"type": "track", "event": "Two", "userId": "u2", "messageId": "b2"},
                          {"type": "track", "event": "Two again", "userId": "u2", "messageId": "b2"}]', 'bulk');
SELECT * FROM cdi_ingest('{"sentAt": "2026-01-02T00:00:10Z", "context": {"library": {"name": "envelope"}}, "batch": [
    {"type": "track", "userId": "u2", "messageId": "b3"},
    {"type": "dance", "userId": "u2"},
    {"type": "track", "event": "x"},
    {"type": "track", "event": {"a": 1}, "userId": "u2"},
    {"type": "track", "event": "x", "userId": "u2", "timestamp": "yesterday"},
    {"type": "track", "event": "x", "userId": "u2", "timestamp": "2026-02-30T00:00:00Z"},
    {"type": "track", "event": "x", "userId": "u2", "timestamp": 17},
    {"type": "track", "event": "x", "userId": "u2", "properties": []},
    {"type": "group", "userId": "u2"},
    17, null, "text", [],
    {"type": "track", "event": "Good", "userId": "u2", "messageId": "b4", "timestamp": "2026-01-02T00:00:00Z",
     "context": {"ip": "203.0.113.7"}}]}', 'bulk');
SELECT stage, sqlstate, message, detail, convert_from(payload, 'UTF8') AS payload
FROM cdi.failed_events JOIN cdi.sources USING (source_id) WHERE name = 'bulk' ORDER BY failed_id;
-- timestamp = received_at - (sent_at - original_timestamp); the envelope's members apply
SELECT event, received_at - "timestamp" AS delay, context FROM cdi.events WHERE message_id = 'b4';
SELECT source, received, stored, duplicate, failed, withheld, received = stored + duplicate + failed + withheld AS balanced
FROM cdi.pipeline_counts WHERE source IN ('bulk', 'ingest') ORDER BY source;

-- An event that could not be stored, because of the data's owner: bisected, alone in failed_events, replayed when mended.
ALTER TABLE cdi.events ADD CONSTRAINT no_cursed CHECK (event <> 'Cursed');
SELECT * FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'userId', 'u3', 'messageId', 'c' || i,
    'event', CASE WHEN i % 333 = 7 THEN 'Cursed' ELSE 'Fine' END)) FROM generate_series(1, 1000) i), 'bulk');
SELECT count(*), min(stage) AS stage, min(sqlstate) AS sqlstate FROM cdi.failed_events WHERE message LIKE '%no_cursed%';
SELECT count(*) AS links_of_failed FROM cdi.identity_links l WHERE NOT EXISTS (SELECT FROM cdi.events e WHERE e.event_id = l.event_id);
ALTER TABLE cdi.events DROP CONSTRAINT no_cursed;
SELECT * FROM cdi_replay(source => 'bulk', stage => 'store');
SELECT * FROM cdi_replay(source => 'bulk');
SELECT max(attempts) FROM cdi.failed_events JOIN cdi.sources USING (source_id) WHERE name = 'bulk';
SELECT source, received, stored, duplicate, failed, withheld, received = stored + duplicate + failed + withheld AS balanced
FROM cdi.pipeline_counts WHERE source = 'bulk';
SELECT stored = (SELECT count(*) FROM cdi.events JOIN cdi.sources USING (source_id) WHERE name = 'bulk') AS stored_is_rows,
       failed = (SELECT count(*) FROM cdi.failed_events JOIN cdi.sources USING (source_id) WHERE name = 'bulk') AS failed_is_rows
FROM cdi.pipeline_counts WHERE source = 'bulk';

-- Numbers stay what they were.
SELECT cdi_track('n', 'Numbers', '{"a": 19.99, "b": 0.1, "c": 12345678901234567890, "d": 1e400, "e": 1.50}', message_id => 'numbers') IS NOT NULL AS id;
SELECT properties->>'a' AS a, properties->>'b' AS b, properties->>'c' AS c, (properties->>'d')::numeric = 1e400 AS d, properties->>'e' AS e
FROM cdi.events WHERE message_id = 'numbers';
SELECT * FROM cdi_ingest('{"type": "track", "event": "Numbers", "userId": 12345678901234567890, "messageId": "numbers-2", "properties": {"a": 19.99, "b": 0.1, "d": 1e400}}', 'bulk');
SELECT user_id, properties->>'a' AS a, properties->>'b' AS b, (properties->>'d')::numeric = 1e400 AS d FROM cdi.events WHERE message_id = 'numbers-2';

-- Members without a column of their own are kept, the write key is not.
SELECT * FROM cdi_ingest('{"type": "track", "event": "Extra", "userId": "u4", "messageId": "extra", "writeKey": "secret", "integrations": {"All": true}, "_metadata": {"n": 1}}', 'bulk');
SELECT extra FROM cdi.events WHERE message_id = 'extra';

-- History brings its own time of receipt, and its partition.
SELECT * FROM cdi_ingest('[{"type": "track", "event": "Old", "userId": "u5", "messageId": "old-1", "receivedAt": "2019-03-04T05:06:07Z", "timestamp": "2019-03-04T05:06:00Z"},
                          {"type": "track", "event": "Old", "userId": "u5", "messageId": "old-2", "timestamp": "2019-05-04T05:06:00Z"}]', 'bulk', history => true);
SELECT tableoid::regclass, received_at AT TIME ZONE 'UTC' AS received_at FROM cdi.events WHERE message_id IN ('old-1', 'old-2') ORDER BY received_at;
SELECT count(*) AS in_default FROM cdi.events_default;

-- Whoever else keeps a cache of relations in this process has a callback left, of the ten that there are.
SELECT cdi_channel(NULL, 'email', NULL, NULL, NULL) AS channel, pg_filenode_relation(0, pg_relation_filenode('cdi.events_default')) AS relation;
