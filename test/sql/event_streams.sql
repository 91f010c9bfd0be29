-- Streams of events: what they let through, what would be sent, what is refused.
-- Nothing is sent here: cdi_sync_preview() shows the requests.
SELECT cdi_create_destination('es-hook', settings => '{"url": "https://events.example/hook", "batch_size": 2}') > 0 AS created;
SELECT cdi_install_destination_spec('{
  "$schema": "cdi-dest-1", "name": "es-crm", "version": "1",
  "actions": {
    "event": {"ops": ["insert"], "when": {"eq": ["$.type", "track"]}, "map": {"name": {"@path": "$.event"}, "who": {"@path": "$.userId"}}, "require": ["who"],
              "request": {"method": "POST", "url": "https://crm.example/events", "body": {"format": "json", "template": {"@item": true}}}},
    "profile": {"ops": ["insert"], "when": {"eq": ["$.type", "identify"]}, "map": {"@path": "$.traits"},
                "request": {"method": "PUT", "url": "https://crm.example/people", "body": {"format": "json", "template": {"@item": true}}}},
    "gone": {"ops": ["delete"], "map": {"@path": "$"}, "request": {"method": "POST", "url": "https://crm.example/gone"}}}}');
SELECT cdi_create_destination('es-crm', 'es-crm') > 0 AS created;
SELECT cdi_create_source('es') IS NOT NULL AS created;
SELECT count(cdi_ingest(e, 'es')) FROM unnest(ARRAY[
  '{"type": "track", "event": "Order Completed", "userId": "es-1", "messageId": "es-a", "properties": {"revenue": 12345678901234567890, "tax": 19.90, "none": null}}',
  '{"type": "track", "event": "Order 100% off", "anonymousId": "es-2", "messageId": "es-b"}',
  '{"type": "identify", "userId": "es-1", "messageId": "es-c", "traits": {"email": "ada@events.example"}}',
  '{"type": "page", "name": "Order_Page", "userId": "es-3", "messageId": "es-d", "context": {"consent": {"categoryPreferences": {}}}}',
  '{"type": "track", "event": "Order Completed", "userId": "es-4", "messageId": "es-e", "context": {"consent": {"categoryPreferences": {"ads": true, "crm": false}}}}']::jsonb[]) e;

-- Where no action is named each event goes to the one that is for it; what is for none is not sent.
SELECT cdi_create_event_stream('es-routed', 'es-crm', rules => '{"sources": ["es"]}') > 0 AS created;
SELECT request, method, url, body, error FROM cdi_sync_preview('es-routed', 10);
-- The shape of an event, and its numbers
SELECT cdi_create_event_stream('es-all', 'es-hook', rules => '{"events": ["Order Completed"], "sources": ["es"]}', mapping => '{"@merge": [{"@path": "$"}, {"receivedAt": "then", "timestamp": "then", "personId": "who"}]}') > 0 AS created;
SELECT (body::jsonb -> 0 -> 'row') AS event FROM cdi_sync_preview('es-all', 2);
-- A name is a name but for *.
CREATE FUNCTION es_sent(rules jsonb) RETURNS text LANGUAGE sql AS $$
  SELECT cdi_alter_event_stream('es-all', rules => '{"sources": ["es"]}' || rules);
  SELECT string_agg(r -> 'row' ->> 'messageId', ' ' ORDER BY p.request, n) FROM cdi_sync_preview('es-all', 100) p, jsonb_array_elements(p.body::jsonb) WITH ORDINALITY AS t(r, n);
$$;
SELECT es_sent('{"events": ["Order *"]}') AS "Order *", es_sent('{"events": ["Order_*"]}') AS "Order_*", es_sent('{"events": ["* 100% *"]}') AS "* 100% *", es_sent('{"types": ["identify", "page"]}') AS types, es_sent('{"sources": ["nowhere"]}') AS sources;
-- Segment's table of consent, but that silence is no consent: every category must be true.
SELECT es_sent('{"consent": ["ads"]}') AS ads, es_sent('{"consent": ["ads", "crm"]}') AS both, es_sent('{"consent": ["else"]}') AS else;
SELECT es_sent('{"sample": 0}') AS nobody, es_sent('{"sample": 1}') AS everybody, es_sent('{"when": {"gt": ["$.properties.revenue", 5]}}') AS large;

-- What cannot be used
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"event": ["Order"]}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"types": ["order"]}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"sample": 2}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"order": "time"}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"events": "Order"}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', rules => '{"when": {"equals": [1, 2]}}');
SELECT cdi_create_event_stream('es-bad', 'es-hook', mapping => '{"a": {"@nothing": 1}}');
SELECT cdi_create_event_stream('es-bad', 'es-crm', 'gone');
-- What has a condition is for events.
SELECT cdi_create_sync('es-bad', 'es-crm', 'SELECT 1 AS id', 'id', 'event');
SELECT cdi_create_event_stream('es-bad', 'es-crm', 'nothing');
SELECT cdi_create_event_stream('es-bad', 'es-hook', start => 'yesteryear');
SELECT cdi_create_event_stream('es-bad', 'nowhere');
SELECT cdi_create_event_stream('es-all', 'es-hook');
-- What is for syncs of rows
SELECT cdi_sync_run('es-all');
SELECT cdi_sync_test_row('es-all', '1');
SELECT cdi_sync_schedule('es-all', every => '1 hour');
SELECT cdi_alter_sync('es-all', mode => 'full');
SELECT cdi_alter_event_stream('nobody''s', rules => '{}');

-- Where a stream begins, and that it stays countable
SELECT cdi_create_event_stream('es-old', 'es-hook', start => 'beginning') > 0, cdi_create_event_stream('es-late', 'es-hook', start => '2100-01-01') > 0,
       cdi_create_event_stream('es-since', 'es-hook', start => (SELECT received_at::text FROM cdi.events WHERE message_id = 'es-c')) > 0;
SELECT s.name, c.position < (SELECT min(position) FROM cdi.events) AS at_the_beginning,
       c.position = (SELECT position FROM cdi.events WHERE message_id = 'es-c') - 1 AS before_c, c.position >= (SELECT max(position) FROM cdi.events) AS at_the_end
FROM cdi.push_cursor c JOIN cdi.syncs s USING (sync_id) WHERE name LIKE 'es-%' ORDER BY 1;
SELECT cdi_sync_reset('es-old');
SELECT c.position >= (SELECT max(position) FROM cdi.events) AS at_the_end FROM cdi.push_cursor c JOIN cdi.syncs s USING (sync_id) WHERE name = 'es-old';

-- Only who may read events can have them sent.
CREATE ROLE es_limited;
GRANT USAGE ON SCHEMA cdi TO es_limited;
GRANT EXECUTE ON FUNCTION cdi_create_event_stream(text, text, text, jsonb, jsonb, text) TO es_limited;
SET ROLE es_limited;
SELECT cdi_create_event_stream('es-stolen', 'es-hook');
RESET ROLE;
DROP OWNED BY es_limited;
DROP ROLE es_limited;

SELECT count(cdi_drop_sync(name)) FROM cdi.syncs WHERE name LIKE 'es-%';
SELECT cdi_drop_destination('es-hook'), cdi_drop_destination('es-crm');
DROP FUNCTION es_sent;
