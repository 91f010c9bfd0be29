-- Input that means harm: refused with a reason, kept, and no neighbour lost.
SET client_min_messages = warning;
SELECT cdi_create_source('hostile') IS NOT NULL AS created;
-- Bodies as bytes, without HTTP: cdi_replay() over failed events.
CREATE FUNCTION pg_temp.post(body bytea, OUT stored bigint, OUT failed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    id bigint;
BEGIN
    INSERT INTO cdi.failed_events (received_at, source_id, stage, sqlstate, message, payload)
    SELECT now(), source_id, 'test', '00000', 'test', body FROM cdi.sources WHERE name = 'hostile'
    RETURNING failed_id INTO id;
    INSERT INTO cdi.pipeline_deltas (source_id, hour, received, failed)
    SELECT source_id, now(), 1, 1 FROM cdi.sources WHERE name = 'hostile';
    SELECT r.stored, r.failed INTO stored, failed FROM cdi_replay(ARRAY[id]) r;
END $$;
CREATE FUNCTION pg_temp.post(body text, OUT stored bigint, OUT failed bigint)
LANGUAGE sql AS $$SELECT * FROM pg_temp.post(convert_to(body, 'UTF8'))$$;

-- What a message quotes is cut between characters: text that can be dumped and restored.
SELECT failed FROM cdi_ingest(jsonb_build_object('userId', 'u', 'type', repeat('a', 63) || 'éé'), 'hostile');
SELECT failed FROM cdi_ingest(jsonb_build_object('userId', 'u', 'type', 'page', 'timestamp', repeat('a', 63) || 'éé'), 'hostile');
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "timestamp": "' || repeat('a', 62) || '€€"}');
SELECT * FROM pg_temp.post('\x7b2273656e744174223a22ff00fe222c226261746368223a5b7b2274797065223a2270616765222c22757365724964223a2275227d5d7d'::bytea);
SELECT convert_from(convert_to(detail, 'UTF8'), 'UTF8') AS detail, envelope, sqlstate
FROM cdi.failed_events JOIN cdi.sources USING (source_id) WHERE name = 'hostile' ORDER BY failed_id;

-- An envelope's members are parsed like everything else; without them its calls would mean something else.
SELECT * FROM pg_temp.post('{"context": [1], "batch": [{"type": "page", "userId": "u"}]}');
SELECT * FROM pg_temp.post('{"context": {"a": nonsense}, "batch": [{"type": "page", "userId": "u"}]}');
SELECT * FROM pg_temp.post('{"context": null, "sentAt": null, "batch": [{"type": "page", "userId": "u"}]}');
SELECT * FROM pg_temp.post('{"sentAt": "2026-01-01T00:00:01\u005a", "batch": [{"type": "page", "name": "escaped", "userId": "u", "timestamp": "2026-01-01T00:00:00Z"}]}');
SELECT sent_at AT TIME ZONE 'UTC' AS sent_at FROM cdi.events WHERE event = 'escaped';

-- More elements than calls fit into the body are not split.
SELECT * FROM pg_temp.post('[' || repeat('1,', 999) || '1]');
SELECT * FROM pg_temp.post('[' || repeat('1,', 100000) || '1]');
SELECT * FROM pg_temp.post('[' || repeat('{"type": "page", "userId": "u"},', 2000) || '1]');

-- Nesting, at every door.
SELECT * FROM pg_temp.post(format('{"type": "page", "userId": "u", "properties": {"a": %s}}', repeat('[', 998) || repeat(']', 998)));
SELECT * FROM pg_temp.post(format('{"type": "page", "userId": "u", "properties": {"a": %s}}', repeat('[', 999) || repeat(']', 999)));
SELECT * FROM pg_temp.post(format('{"type": "page", "userId": "u", "a": %s}', repeat('[', 10000) || repeat(']', 10000)));
SELECT * FROM pg_temp.post(format('{"type": "page", "userId": "u", "a": %s}', repeat('[', 100000) || repeat(']', 100000)));
SELECT * FROM pg_temp.post(format('{"context": {"a": %s}, "batch": [{"type": "page", "userId": "u"}]}', repeat('[', 10000) || repeat(']', 10000)));
SELECT stored, failed FROM cdi_ingest(format('{"type": "page", "userId": "u", "a": %s}', repeat('{"a":', 5000) || '1' || repeat('}', 5000))::jsonb, 'hostile');
SELECT cdi_page('u', properties => (repeat('{"a":', 5000) || '1' || repeat('}', 5000))::jsonb, source => 'hostile');
SELECT cdi_page('u', context => (repeat('{"a":', 5000) || '1' || repeat('}', 5000))::jsonb, source => 'hostile');

-- What no text of the server can hold
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "properties": {"a": "\u0000"}}');
SELECT * FROM pg_temp.post('\x7b2274797065223a2270616765222c22757365724964223a2275ff227d'::bytea);
SELECT * FROM pg_temp.post('\x7b2274797065223a2270616765222c22757365724964223a227500227d'::bytea);
SELECT * FROM pg_temp.post('\x'::bytea);
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "properties": {"a": 1e200000}}');
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "timestamp": "2026-01-01T00:00:00Z", "sentAt": "9999-12-31T23:59:59-15:59"}');
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "timestamp": "0001-01-01T00:00:00Z", "sentAt": "9999-12-31T23:59:59Z"}');
SELECT * FROM pg_temp.post(format('{"type": "page", "userId": "u", "messageId": "%s"}', repeat('m', 513)));
SELECT * FROM pg_temp.post('{"type": "page", "userId": "u", "userId": "v", "messageId": "duplicate keys"}');
SELECT user_id FROM cdi.events WHERE message_id = 'duplicate keys';
SELECT sqlstate, min(message) AS message, count(*) FROM cdi.failed_events JOIN cdi.sources USING (source_id)
WHERE name = 'hostile' GROUP BY sqlstate, message ORDER BY sqlstate, message COLLATE "C";

-- Nothing is received in the future.
SELECT stored FROM cdi_ingest('[{"type": "page", "userId": "u", "messageId": "ahead", "receivedAt": "9999-01-01T00:00:00Z"},
                               {"type": "page", "userId": "u", "messageId": "ahead too", "timestamp": "2999-01-01T00:00:00Z"}]', 'hostile', history => true);
SELECT count(*) AS received_ahead FROM cdi.events WHERE received_at > now() + interval '1 minute';
SELECT count(*) AS partitions_ahead FROM pg_inherits WHERE inhrelid::regclass::text ~ 'events_(2999|9999)';

-- Internal functions with arguments that SQL never gives them
SELECT cdi._replay_rows(NULL, NULL, NULL, NULL, NULL);
SELECT cdi._replay_rows('{1}', '{}', '{}', '{}', '{}');
SELECT cdi._replay_rows('{1}', ARRAY[now()], '{NULL}', ARRAY[NULL::jsonb], '{1}');

-- A cache filled in an old snapshot, or in a transaction that is rolled back
SELECT cdi_track('u', 'Warm', source => 'hostile') IS NOT NULL AS tracked;
BEGIN;
SELECT cdi_disable_source('hostile');
SAVEPOINT disabled;
SELECT cdi_track('u', 'Disabled', source => 'hostile');
ROLLBACK TO disabled;
ROLLBACK;
SELECT cdi_track('u', 'Enabled', source => 'hostile') IS NOT NULL AS tracked;

-- The accounts are even and agree with the rows.
SELECT received = stored + duplicate + failed + withheld AS balanced,
       stored = (SELECT count(*) FROM cdi.events WHERE source_id = s.source_id) AS stored_is_rows,
       failed = (SELECT count(*) FROM cdi.failed_events WHERE source_id = s.source_id) AS failed_is_rows
FROM cdi.pipeline_counts c JOIN cdi.sources s ON s.name = c.source WHERE source = 'hostile';

-- A key whose cdi_init() was rolled back: in a database of its own.
CREATE DATABASE cdi_hostile TEMPLATE template0 ENCODING 'UTF8';
\c cdi_hostile
SET client_min_messages = warning;
CREATE EXTENSION cdi;
BEGIN;
SELECT cdi_init();
SELECT cdi_track('u', 'First', message_id => 'm') IS NOT NULL AS tracked;
ROLLBACK;
SELECT cdi_init();
SELECT cdi_track('u', 'First', message_id => 'm') IS NOT NULL AS tracked;
\c
SELECT cdi_track('u', 'First', message_id => 'm') IS NOT NULL AS tracked;
SELECT count(*) FROM cdi.events;
-- Storage that is dropped and made again in the transaction that writes
BEGIN;
SELECT cdi_track('u', 'Before') IS NOT NULL AS tracked;
SELECT cdi_drop_data('cdi_hostile');
SELECT cdi_init();
SELECT cdi_track('u', 'After') IS NOT NULL AS tracked;
COMMIT;
SELECT event FROM cdi.events;
\c regression
DROP DATABASE cdi_hostile WITH (FORCE);
