-- What BI tools see: plain views, types they all read, everything described.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT table_name, count(*) AS columns FROM information_schema.columns WHERE table_schema = 'cdi_bi' GROUP BY table_name ORDER BY table_name;

-- No row in any of these.
SELECT relname, relkind FROM pg_class WHERE relnamespace = 'cdi_bi'::regnamespace AND relkind <> 'v';
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'cdi_bi' AND data_type NOT IN ('text', 'boolean', 'bigint', 'numeric', 'double precision', 'date', 'timestamp with time zone', 'uuid');
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0
WHERE c.relnamespace = 'cdi_bi'::regnamespace AND coalesce(col_description(c.oid, a.attnum), '') = '';
SELECT relname FROM pg_class WHERE relnamespace = 'cdi_bi'::regnamespace AND coalesce(obj_description(oid, 'pg_class'), '') = '';
SELECT relname FROM pg_class WHERE relnamespace = 'cdi_bi'::regnamespace AND NOT coalesce('security_invoker=true' = ANY (reloptions), false);
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'cdi_bi'::regnamespace AND (a.attname !~ '^[a-z][a-z0-9_]*$' OR length(a.attname) > 62
      OR a.attname ~ '(duration|interval|elapsed)$');

-- A person of two devices, received lately. The views look back from today, so
-- what happened did so last month, and is shown by how long after its first day.
SELECT date_trunc('month', now()) - interval '1 month' AS first \gset
SELECT cdi_create_source('bi') IS NOT NULL AS created;
SELECT cdi_create_conversion('bi_order', 'BI Order');
SELECT * FROM cdi_ingest(replace('[
  {"type": "page", "anonymousId": "bi-phone", "messageId": "bi1", "timestamp": "2026-05-01T10:00:00Z", "context": {"page": {"url": "https://shop.example/a?utm_source=news&utm_medium=email", "path": "/a"}}},
  {"type": "identify", "anonymousId": "bi-phone", "userId": "bi-1", "messageId": "bi2", "timestamp": "2026-05-01T10:01:00Z", "traits": {"email": "BI@example.com"}},
  {"type": "page", "userId": "bi-1", "messageId": "bi3", "timestamp": "2026-05-02T10:00:00Z", "context": {"page": {"url": "https://shop.example/b", "path": "/b", "referrer": "https://www.google.com/"}}},
  {"type": "track", "userId": "bi-1", "event": "BI Order", "messageId": "bi4", "timestamp": "2026-05-02T10:05:00Z", "properties": {"revenue": 30.1}},
  {"type": "page", "anonymousId": "bi-2", "messageId": "bi5", "timestamp": "2026-05-02T11:00:00Z"},
  {"type": "nonsense", "userId": "bi-1", "messageId": "bi6"},
  {"type": "track", "userId": "bi-1", "event": "BI Order", "messageId": "bi4"}
]', '2026-05', to_char(:'first'::timestamptz, 'YYYY-MM'))::jsonb, 'bi');
SELECT cdi_resolve() > 0 AS resolved;

SELECT p.user_id, p.email, p.identified, p.identifiers, p.first_seen_at - :'first' AS first_seen_at, p.last_seen_at - :'first' AS last_seen_at, p.events, p.page_views, p.sessions, p.first_channel, p.last_channel, p.conversions, p.conversion_value
FROM cdi_bi.people p WHERE p.person_id IN (cdi_person('user_id', 'bi-1'), cdi_person('anonymous_id', 'bi-2')) ORDER BY p.user_id;
SELECT started_at - :'first' AS started_at, started_on - :'first'::date AS started_on, duration_seconds, session_number, events, page_views, conversions, converted, bounced, channel, campaign_source, referrer_host, landing_host, landing_page
FROM cdi_bi.sessions WHERE person_id = cdi_person('user_id', 'bi-1') ORDER BY started_at;
SELECT day - :'first'::date AS day, type, event, events, people FROM cdi_bi.events_daily WHERE source = 'bi' ORDER BY 1, 2, 3;
SELECT day - :'first'::date AS day, channel, first_touch_conversions, first_touch_value, last_touch_conversions, last_touch_value, linear_conversions, linear_value
FROM cdi_bi.channel_performance WHERE conversion = 'bi_order' ORDER BY 1, 2;
SELECT received, stored, duplicate, failed, withheld, received_last_day, last_active_hour IS NOT NULL AS active, latest_failure FROM cdi_bi.pipeline_health WHERE source = 'bi';

-- Sums agree with what they summarise.
SELECT (SELECT sum(events) FROM cdi_bi.people) = (SELECT count(*) FROM cdi.events WHERE subject IS NOT NULL) AS people,
       (SELECT sum(sessions) FROM cdi_bi.people) = (SELECT count(*) FROM cdi_bi.sessions) AS sessions,
       (SELECT sum(sessions) FROM cdi_bi.channels_daily) = (SELECT count(*) FROM cdi_bi.sessions) AS channels,
       (SELECT sum(events) FROM cdi_bi.events_daily) = (SELECT count(*) FROM cdi.events WHERE received_at >= date_trunc('month', now()) - interval '13 months') AS events,
       (SELECT sum(received) FROM cdi_bi.pipeline_health) = (SELECT sum(received) FROM cdi.pipeline_counts) AS pipeline;
SELECT sum(first_touch_value) = sum(last_touch_value) AS first_and_last, sum(last_touch_value) = sum(linear_value) AS last_and_linear,
       round(sum(linear_conversions)::numeric, 6) = (SELECT count(*) FROM cdi.conversion_events WHERE converted_at >= date_trunc('month', now()) - interval '13 months') AS conversions
FROM cdi_bi.channel_performance;

-- Syncs: three rows queued, one behind the cursor; one dead letter; one failed
-- request; another sync has not run yet.
BEGIN;
INSERT INTO cdi.destinations (destination_id, name, spec_name, spec_version) VALUES (-1, 'bi destination', 'webhook', '1');
INSERT INTO cdi.syncs (sync_id, name, destination_id, action, model, primary_key, run_as, search_path) VALUES
    (-1, 'bi sync', -1, 'upsert', 'SELECT 1 AS id', 'id', 'nobody', 'public'),
    (-2, 'bi sync that never ran', -1, 'upsert', 'SELECT 1 AS id', 'id', 'nobody', 'public');
INSERT INTO cdi.sync_runs (sync_id, started_at, finished_at, queried, added, queued) VALUES (-1, now() - interval '1 hour', now() - interval '59 minutes', 1, 1, 1), (-1, now() - interval '90 seconds', now() - interval '88.5 seconds', 3, 2, 2);
INSERT INTO cdi.sync_rows (sync_id, primary_key, hash, payload, acknowledged_at) VALUES (-1, 'a', gen_random_uuid(), '{}', now());
INSERT INTO cdi.push_cursor (sync_id, position) VALUES (-1, 10), (-3, 1000);
INSERT INTO cdi.outbox (position, queued_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload)
    SELECT 10 + i, now() - interval '30 seconds', -1, 1, 'insert', i::text, gen_random_uuid(), gen_random_uuid(), '{}' FROM generate_series(0, 2) i;
INSERT INTO cdi.failed_deliveries (position, failed_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload, class, attempts)
    VALUES (-1, now(), -1, 1, 'insert', 'x', gen_random_uuid(), gen_random_uuid(), '{}', 'rejected', 1);
INSERT INTO cdi.deliveries (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys, class, error, milliseconds, idempotency_key) VALUES
    (now() - interval '2 days', -1, -1, 1, 9, 9, '{}', 'ok', 'too old', 1, 'k'),
    (now() - interval '1 hour', -1, -1, 1, 2, 0, '{}', 'retryable', 'refused', 100, 'k'),
    (now() - interval '30 minutes', -1, -1, 2, 2, 1, '{}', 'ok', NULL, 300, 'k');
SELECT sync, destination, action, enabled, last_run_seconds, last_run_queried, last_run_added, last_run_queued, acknowledged, waiting, oldest_waiting_seconds, dead_letters,
       requests_last_day, rows_sent_last_day, rows_accepted_last_day, median_request_seconds_last_day, latest_error_last_day
FROM cdi_bi.sync_health WHERE sync LIKE 'bi sync%' ORDER BY sync;
ROLLBACK;

-- The 14 months are those of UTC, whoever reads: one event half an hour before
-- they begin, and one half an hour after.
SELECT cdi_create_conversion('bi_edge', 'BI Edge', value_property => NULL);
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(jsonb_build_object('type', 'track', 'userId', 'bi-3', 'event', 'BI Edge', 'messageId', 'bi-edge ' || distance,
        'timestamp', (date_trunc('month', now()) - interval '13 months' + distance)))
    FROM unnest('{-30 minutes,30 minutes}'::interval[]) distance), 'bi', history => true);
SET TimeZone = 'Pacific/Kiritimati';
SELECT (SELECT sum(events) FROM cdi_bi.events_daily WHERE event = 'BI Edge') AS events, (SELECT sum(linear_conversions) FROM cdi_bi.channel_performance WHERE conversion = 'bi_edge') AS conversions;
SET TimeZone = 'Pacific/Pago_Pago';
SELECT (SELECT sum(events) FROM cdi_bi.events_daily WHERE event = 'BI Edge') AS events, (SELECT sum(linear_conversions) FROM cdi_bi.channel_performance WHERE conversion = 'bi_edge') AS conversions;
SET TimeZone = 'Europe/Berlin';
SELECT (SELECT sum(events) FROM cdi_bi.events_daily WHERE event = 'BI Edge') AS events, (SELECT sum(linear_conversions) FROM cdi_bi.channel_performance WHERE conversion = 'bi_edge') AS conversions;
SET TimeZone = 'UTC';
SELECT cdi_drop_conversion('bi_edge');

-- Old partitions are not read for the daily events.
SELECT stored FROM cdi_ingest('{"type": "track", "userId": "bi-1", "event": "Old", "messageId": "bi7", "timestamp": "2001-02-03T04:05:06Z", "receivedAt": "2001-02-03T04:05:06Z"}', 'bi', history => true);
SELECT count(*) FROM cdi_bi.events_daily WHERE event = 'Old';
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query; END $$;
SELECT count(*) AS old_partitions_read FROM pg_temp.plan('SELECT * FROM cdi_bi.events_daily') line WHERE line LIKE '%events_2001_02%';

-- A reader sees them all, under the rules for rows that hold for the data.
CREATE ROLE cdi_test_bi;
SELECT cdi_grant_reader('cdi_test_bi');
SET ROLE cdi_test_bi;
SELECT (SELECT count(*) > 0 FROM cdi_bi.people) AS people, (SELECT count(*) > 0 FROM cdi_bi.sessions) AS sessions, (SELECT count(*) > 0 FROM cdi_bi.events_daily) AS events,
       (SELECT count(*) > 0 FROM cdi_bi.channels_daily) AS channels, (SELECT count(*) > 0 FROM cdi_bi.channel_performance) AS performance,
       (SELECT count(*) > 0 FROM cdi_bi.pipeline_health) AS pipeline, (SELECT count(*) >= 0 FROM cdi_bi.sync_health) AS syncs;
RESET ROLE;
BEGIN;
ALTER TABLE cdi.events ENABLE ROW LEVEL SECURITY;
SET LOCAL ROLE cdi_test_bi;
SELECT count(*) FROM cdi_bi.people;
SELECT count(*) FROM cdi_attribution();
ROLLBACK;
SELECT cdi_drop_conversion('bi_order');
