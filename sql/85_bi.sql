-- Views for BI tools, schema cdi_bi: plain views of one grain each, with types
-- that every tool reads and a comment on every column.  They read with the
-- privileges of whoever queries them, so row level security on the data holds.
CREATE OR REPLACE FUNCTION cdi._create_bi_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE OR REPLACE VIEW cdi_bi.people WITH (security_invoker = true) AS
    SELECT a.person_id,
           a.user_id,
           p.traits ->> 'email' AS email,
           a.user_id IS NOT NULL OR p.traits ? 'email' AS identified,
           coalesce(p.identifiers, 1)::bigint AS identifiers,
           a.first_seen_at,
           a.last_seen_at,
           a.events,
           a.page_views,
           coalesce(s.sessions, 0) AS sessions,
           s.first_channel,
           s.last_channel,
           coalesce(c.conversions, 0) AS conversions,
           CASE WHEN c.first_currency <> c.last_currency THEN NULL ELSE coalesce(c.conversion_value, 0) END AS conversion_value
    FROM (
        SELECT coalesce(m.person_id, e.subject) AS person_id,
               @extschema@.cdi_last(e.user_id, e."timestamp", e.position) FILTER (WHERE e.user_id IS NOT NULL) AS user_id,
               min(e."timestamp") AS first_seen_at,
               max(e."timestamp") AS last_seen_at,
               count(*) AS events,
               count(*) FILTER (WHERE e.type IN ('page', 'screen')) AS page_views
        FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
        WHERE e.subject IS NOT NULL
        GROUP BY coalesce(m.person_id, e.subject)
    ) a
    LEFT JOIN (
        SELECT t.person_id, count(*) AS sessions,
               @extschema@.cdi_first(t.channel, t.touched_at, t.position) AS first_channel,
               @extschema@.cdi_last(t.channel, t.touched_at, t.position) AS last_channel
        FROM cdi.touchpoints t WHERE t.touch_type = 'session' GROUP BY t.person_id
    ) s ON s.person_id = a.person_id
    LEFT JOIN (
        SELECT v.person_id, count(*) AS conversions, sum(v.value) AS conversion_value,
               min(v.value_currency) FILTER (WHERE v.value IS NOT NULL) AS first_currency,
               max(v.value_currency) FILTER (WHERE v.value IS NOT NULL) AS last_currency
        FROM cdi.conversion_events v GROUP BY v.person_id
    ) c ON c.person_id = a.person_id
    LEFT JOIN cdi.persons p ON p.person_id = a.person_id;
    COMMENT ON VIEW cdi_bi.people IS 'One row per person who was ever seen, as of the last identity resolution.';
    COMMENT ON COLUMN cdi_bi.people.person_id IS 'Person; joins with sessions.';
    COMMENT ON COLUMN cdi_bi.people.user_id IS 'User id of the person''s latest event that had one.';
    COMMENT ON COLUMN cdi_bi.people.email IS 'Trait email.';
    COMMENT ON COLUMN cdi_bi.people.identified IS 'Whether a user id or an e-mail address is known.';
    COMMENT ON COLUMN cdi_bi.people.identifiers IS 'Number of identifiers known to be this person''s.';
    COMMENT ON COLUMN cdi_bi.people.first_seen_at IS 'Time of the first event.';
    COMMENT ON COLUMN cdi_bi.people.last_seen_at IS 'Time of the latest event.';
    COMMENT ON COLUMN cdi_bi.people.events IS 'Number of events of any kind.';
    COMMENT ON COLUMN cdi_bi.people.page_views IS 'Number of pages and screens viewed.';
    COMMENT ON COLUMN cdi_bi.people.sessions IS 'Number of sessions.';
    COMMENT ON COLUMN cdi_bi.people.first_channel IS 'Channel of the first session.';
    COMMENT ON COLUMN cdi_bi.people.last_channel IS 'Channel of the latest session.';
    COMMENT ON COLUMN cdi_bi.people.conversions IS 'Number of conversions of all kinds.';
    COMMENT ON COLUMN cdi_bi.people.conversion_value IS 'Sum of the values of those conversions; null where they are in several currencies.';

    CREATE OR REPLACE VIEW cdi_bi.sessions WITH (security_invoker = true) AS
    SELECT s.session_id,
           s.person_id,
           s.started_at,
           s.ended_at,
           (s.started_at AT TIME ZONE 'UTC')::date AS started_on,
           extract(epoch FROM s.ended_at - s.started_at)::double precision AS duration_seconds,
           row_number() OVER (PARTITION BY s.person_id ORDER BY s.started_at, s.position) AS session_number,
           s.events,
           s.page_views,
           s.conversions,
           s.conversions > 0 AS converted,
           s.events = 1 AS bounced,
           s.channel,
           s.campaign_source,
           s.campaign_medium,
           s.campaign_name,
           s.campaign_term,
           s.campaign_content,
           s.click_id_type,
           s.referrer_host,
           s.landing_host,
           s.landing_page
    FROM cdi.sessions s;
    COMMENT ON VIEW cdi_bi.sessions IS 'One row per session: the pages, screens and tracked events of a person without a longer pause than cdi_set_sessions() has declared (30 minutes), under one campaign.';
    COMMENT ON COLUMN cdi_bi.sessions.session_id IS 'Session: the id of its first event.';
    COMMENT ON COLUMN cdi_bi.sessions.person_id IS 'Person; joins with people.';
    COMMENT ON COLUMN cdi_bi.sessions.started_at IS 'Time of the first event.';
    COMMENT ON COLUMN cdi_bi.sessions.ended_at IS 'Time of the last event.';
    COMMENT ON COLUMN cdi_bi.sessions.started_on IS 'Day of the first event, UTC.';
    COMMENT ON COLUMN cdi_bi.sessions.duration_seconds IS 'Seconds from the first event to the last.';
    COMMENT ON COLUMN cdi_bi.sessions.session_number IS 'Number of the session among the person''s, from 1.';
    COMMENT ON COLUMN cdi_bi.sessions.events IS 'Number of events.';
    COMMENT ON COLUMN cdi_bi.sessions.page_views IS 'Number of pages and screens viewed.';
    COMMENT ON COLUMN cdi_bi.sessions.conversions IS 'Number of events that are declared as a conversion.';
    COMMENT ON COLUMN cdi_bi.sessions.converted IS 'Whether there is one.';
    COMMENT ON COLUMN cdi_bi.sessions.bounced IS 'Whether the session is a single event.';
    COMMENT ON COLUMN cdi_bi.sessions.channel IS 'Marketing channel that led to the session; direct where none is known.';
    COMMENT ON COLUMN cdi_bi.sessions.campaign_source IS 'Source of the campaign (utm_source).';
    COMMENT ON COLUMN cdi_bi.sessions.campaign_medium IS 'Medium of the campaign (utm_medium).';
    COMMENT ON COLUMN cdi_bi.sessions.campaign_name IS 'Name of the campaign (utm_campaign).';
    COMMENT ON COLUMN cdi_bi.sessions.campaign_term IS 'Term of the campaign (utm_term).';
    COMMENT ON COLUMN cdi_bi.sessions.campaign_content IS 'Content of the campaign (utm_content).';
    COMMENT ON COLUMN cdi_bi.sessions.click_id_type IS 'Name of the advertising click id that the session came with.';
    COMMENT ON COLUMN cdi_bi.sessions.referrer_host IS 'Host that referred to the session from outside the site.';
    COMMENT ON COLUMN cdi_bi.sessions.landing_host IS 'Host of the first page.';
    COMMENT ON COLUMN cdi_bi.sessions.landing_page IS 'Path of the first page, or name of the first screen.';

    -- received_at is the partition key: older partitions are not read.
    CREATE OR REPLACE VIEW cdi_bi.events_daily WITH (security_invoker = true) AS
    SELECT (e."timestamp" AT TIME ZONE 'UTC')::date AS day,
           s.name AS source,
           e.type,
           e.event,
           count(*) AS events,
           count(DISTINCT coalesce(m.person_id, e.subject)) AS people
    FROM cdi.events e
    JOIN cdi.sources s ON s.source_id = e.source_id
    LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
    WHERE e.received_at >= (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '13 months') AT TIME ZONE 'UTC'
    GROUP BY 1, 2, 3, 4;
    COMMENT ON VIEW cdi_bi.events_daily IS 'One row per day, source, kind and name of event, over the events received in this month and the 13 months before it.';
    COMMENT ON COLUMN cdi_bi.events_daily.day IS 'Day on which the events happened, UTC.';
    COMMENT ON COLUMN cdi_bi.events_daily.source IS 'Source that sent them.';
    COMMENT ON COLUMN cdi_bi.events_daily.type IS 'track, identify, page, screen, group or alias.';
    COMMENT ON COLUMN cdi_bi.events_daily.event IS 'Name of the tracked event, page or screen.';
    COMMENT ON COLUMN cdi_bi.events_daily.events IS 'Number of events.';
    COMMENT ON COLUMN cdi_bi.events_daily.people IS 'Number of different people; cannot be added up over rows.';

    CREATE OR REPLACE VIEW cdi_bi.channels_daily WITH (security_invoker = true) AS
    SELECT (t.touched_at AT TIME ZONE 'UTC')::date AS day,
           t.channel,
           count(*) AS sessions,
           count(DISTINCT t.person_id) AS people
    FROM cdi.touchpoints t
    WHERE t.touch_type = 'session'
    GROUP BY 1, 2;
    COMMENT ON VIEW cdi_bi.channels_daily IS 'One row per day and marketing channel: how many sessions it led to.';
    COMMENT ON COLUMN cdi_bi.channels_daily.day IS 'Day on which the sessions began, UTC.';
    COMMENT ON COLUMN cdi_bi.channels_daily.channel IS 'Marketing channel that led to the sessions.';
    COMMENT ON COLUMN cdi_bi.channels_daily.sessions IS 'Number of sessions.';
    COMMENT ON COLUMN cdi_bi.channels_daily.people IS 'Number of different people; cannot be added up over rows.';

    CREATE OR REPLACE VIEW cdi_bi.channel_performance WITH (security_invoker = true) AS
    SELECT a.dimensions[1]::date AS day,
           a.conversion,
           a.dimensions[2] AS channel,
           coalesce(sum(a.conversions) FILTER (WHERE a.model = 'first_touch'), 0) AS first_touch_conversions,
           coalesce(sum(a.value) FILTER (WHERE a.model = 'first_touch'), 0) AS first_touch_value,
           coalesce(sum(a.conversions) FILTER (WHERE a.model = 'last_touch'), 0) AS last_touch_conversions,
           coalesce(sum(a.value) FILTER (WHERE a.model = 'last_touch'), 0) AS last_touch_value,
           coalesce(sum(a.conversions) FILTER (WHERE a.model = 'linear'), 0) AS linear_conversions,
           coalesce(sum(a.value) FILTER (WHERE a.model = 'linear'), 0) AS linear_value
    FROM cdi._attribution_sums('{first_touch,last_touch,linear}', '{day,channel}', NULL, (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '13 months') AT TIME ZONE 'UTC', NULL, NULL, '{}') AS a
    GROUP BY 1, 2, 3;
    COMMENT ON VIEW cdi_bi.channel_performance IS 'One row per day, conversion and marketing channel, with the credit that the channel gets under three models side by side, over the conversions of this month and the 13 months before it. Under each model the rows of a day and conversion add up to that day''s conversions.';
    COMMENT ON COLUMN cdi_bi.channel_performance.day IS 'Day of the conversions, UTC.';
    COMMENT ON COLUMN cdi_bi.channel_performance.conversion IS 'Name of the conversion.';
    COMMENT ON COLUMN cdi_bi.channel_performance.channel IS 'Marketing channel; unattributed where no touchpoint lies within the lookback window.';
    COMMENT ON COLUMN cdi_bi.channel_performance.first_touch_conversions IS 'Conversions whose first touchpoint was of the channel.';
    COMMENT ON COLUMN cdi_bi.channel_performance.first_touch_value IS 'Value of those conversions.';
    COMMENT ON COLUMN cdi_bi.channel_performance.last_touch_conversions IS 'Conversions whose last touchpoint was of the channel.';
    COMMENT ON COLUMN cdi_bi.channel_performance.last_touch_value IS 'Value of those conversions.';
    COMMENT ON COLUMN cdi_bi.channel_performance.linear_conversions IS 'The channel''s shares of conversions, each divided equally over its touchpoints.';
    COMMENT ON COLUMN cdi_bi.channel_performance.linear_value IS 'The channel''s shares of their value.';

    CREATE OR REPLACE VIEW cdi_bi.pipeline_health WITH (security_invoker = true) AS
    SELECT s.name AS source,
           s.enabled,
           coalesce(d.received, 0)::bigint AS received,
           coalesce(d.stored, 0)::bigint AS stored,
           coalesce(d.duplicate, 0)::bigint AS duplicate,
           coalesce(d.failed, 0)::bigint AS failed,
           coalesce(d.withheld, 0)::bigint AS withheld,
           coalesce(d.received_last_day, 0)::bigint AS received_last_day,
           d.last_active_hour,
           f.oldest_failed_at,
           f.latest_failed_at,
           f.latest_failure,
           (SELECT w.position FROM cdi.watermark w) AS watermark,
           (SELECT w.advanced_at FROM cdi.watermark w) AS watermark_advanced_at
    FROM cdi.sources s
    LEFT JOIN (
        SELECT p.source_id, sum(p.received) AS received, sum(p.stored) AS stored, sum(p.duplicate) AS duplicate,
               sum(p.failed) AS failed, sum(p.withheld) AS withheld,
               sum(p.received) FILTER (WHERE p.hour > now() - interval '24 hours') AS received_last_day,
               max(p.hour) FILTER (WHERE p.received > 0) AS last_active_hour
        FROM cdi.pipeline_deltas p GROUP BY p.source_id
    ) d ON d.source_id = s.source_id
    LEFT JOIN (
        SELECT e.source_id, min(e.received_at) AS oldest_failed_at, max(e.received_at) AS latest_failed_at,
               @extschema@.cdi_last(e.stage || ': ' || e.message, e.received_at, e.failed_id) AS latest_failure
        FROM cdi.failed_events e GROUP BY e.source_id
    ) f ON f.source_id = s.source_id;
    COMMENT ON VIEW cdi_bi.pipeline_health IS 'One row per source: what became of its events. received = stored + duplicate + failed + withheld.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.source IS 'Name of the source.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.enabled IS 'Whether the source may send events.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.received IS 'Events received.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.stored IS 'Events stored.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.duplicate IS 'Events that had been stored before.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.failed IS 'Events that wait among the failed ones, to be replayed.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.withheld IS 'Events that consent or the tracking plan kept out.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.received_last_day IS 'Events received in the last 24 hours, by the hour.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.last_active_hour IS 'Beginning of the last hour in which events were received.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.oldest_failed_at IS 'When the oldest of the failed events was received.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.latest_failed_at IS 'When the latest of the failed events was received.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.latest_failure IS 'Stage and reason of the latest failure.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.watermark IS 'Position up to which the events of all sources are complete; the same in every row.';
    COMMENT ON COLUMN cdi_bi.pipeline_health.watermark_advanced_at IS 'When the watermark last moved; the same in every row.';

    CREATE OR REPLACE VIEW cdi_bi.sync_health WITH (security_invoker = true) AS
    SELECT s.name AS sync,
           d.name AS destination,
           s.action,
           s.enabled AND d.enabled AS enabled,
           coalesce(s.paused_reason, CASE WHEN NOT d.enabled THEN 'the destination is disabled' END, u.reason, v.reason) AS paused_reason,
           r.started_at AS last_run_at,
           extract(epoch FROM r.finished_at - r.started_at)::double precision AS last_run_seconds,
           r.queried AS last_run_queried,
           r.added AS last_run_added,
           r.changed AS last_run_changed,
           r.removed AS last_run_removed,
           r.unchanged AS last_run_unchanged,
           r.invalid AS last_run_invalid,
           r.queued AS last_run_queued,
           r.attempted AS last_run_attempted,
           r.ok AS last_run_ok,
           r.rejected AS last_run_rejected,
           r.retryable AS last_run_retryable,
           r.error AS last_run_error,
           coalesce(a.acknowledged, 0) AS acknowledged,
           coalesce(w.waiting, 0) AS waiting,
           coalesce(extract(epoch FROM now() - w.oldest), 0)::double precision AS oldest_waiting_seconds,
           coalesce(f.dead_letters, 0) AS dead_letters,
           f.latest_dead_letter_at,
           coalesce(q.requests, 0) AS requests_last_day,
           coalesce(q.rows_sent, 0)::bigint AS rows_sent_last_day,
           coalesce(q.rows_accepted, 0)::bigint AS rows_accepted_last_day,
           q.median_request_seconds AS median_request_seconds_last_day,
           q.latest_error AS latest_error_last_day
    FROM cdi.syncs s
    JOIN cdi.destinations d ON d.destination_id = s.destination_id
    LEFT JOIN LATERAL (
        SELECT u.* FROM cdi.sync_runs u WHERE u.sync_id = s.sync_id ORDER BY u.run_id DESC LIMIT 1
    ) r ON true
    LEFT JOIN (
        SELECT y.sync_id, count(*) AS acknowledged FROM cdi.sync_rows y GROUP BY y.sync_id
    ) a ON a.sync_id = s.sync_id
    LEFT JOIN cdi.destination_pauses u ON u.destination_id = s.destination_id
    LEFT JOIN cdi.push_waits v ON v.sync_id = s.sync_id
    LEFT JOIN cdi.push_cursor c ON c.sync_id = s.sync_id
    LEFT JOIN LATERAL (
        SELECT count(*) AS waiting, min(o.queued_at) AS oldest
        FROM cdi.outbox o WHERE o.sync_id = s.sync_id AND o.position > coalesce(c.position, 0)
    ) w ON true
    LEFT JOIN (
        SELECT l.sync_id, count(*) AS dead_letters, max(l.failed_at) AS latest_dead_letter_at
        FROM cdi.failed_deliveries l GROUP BY l.sync_id
    ) f ON f.sync_id = s.sync_id
    LEFT JOIN (
        SELECT v.sync_id, count(*) FILTER (WHERE v.kind = 'request') AS requests, sum(v.rows) AS rows_sent, sum(v.accepted) AS rows_accepted,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY v.milliseconds) FILTER (WHERE v.kind = 'request') / 1000 AS median_request_seconds,
               @extschema@.cdi_last(v.error, v.sent_at, v.delivery_id) FILTER (WHERE v.error IS NOT NULL) AS latest_error
        FROM cdi.deliveries v WHERE v.sent_at > now() - interval '24 hours'
        GROUP BY v.sync_id
    ) q ON q.sync_id = s.sync_id
    WHERE s.kind = 'rows';
    COMMENT ON VIEW cdi_bi.sync_health IS 'One row per sync of rows: its last run, what its destination has, and what is on the way.';
    COMMENT ON COLUMN cdi_bi.sync_health.sync IS 'Name of the sync.';
    COMMENT ON COLUMN cdi_bi.sync_health.destination IS 'Name of its destination.';
    COMMENT ON COLUMN cdi_bi.sync_health.action IS 'What the destination does with the rows.';
    COMMENT ON COLUMN cdi_bi.sync_health.enabled IS 'Whether sync and destination are enabled.';
    COMMENT ON COLUMN cdi_bi.sync_health.paused_reason IS 'Why nothing is sent, in words; null while rows go out.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_at IS 'When the last run started.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_seconds IS 'Seconds that the last run took; null while it runs.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_queried IS 'Rows that the model returned in the last run, and those that it no longer returns.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_added IS 'Rows that the destination did not have.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_changed IS 'Rows that differ from what it has.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_removed IS 'Rows that it has and the model no longer returns.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_unchanged IS 'Rows that it has as they are.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_invalid IS 'Rows that cannot be sent: without a primary key of their own.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_queued IS 'Rows that the last run queued to be sent.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_attempted IS 'Rows of the last run that were sent, each time that they were: last_run_ok, last_run_rejected and last_run_retryable together.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_ok IS 'Of those, how many were accepted.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_rejected IS 'Of those, how many were not and will not be sent again.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_retryable IS 'Of those, how many were not and are sent again.';
    COMMENT ON COLUMN cdi_bi.sync_health.last_run_error IS 'Why the last scheduled run could not happen; null where it did.';
    COMMENT ON COLUMN cdi_bi.sync_health.acknowledged IS 'Rows that the destination has acknowledged and holds now.';
    COMMENT ON COLUMN cdi_bi.sync_health.waiting IS 'Rows queued beyond the position up to which the push worker is done with the sync.';
    COMMENT ON COLUMN cdi_bi.sync_health.oldest_waiting_seconds IS 'Seconds since the oldest of them was queued.';
    COMMENT ON COLUMN cdi_bi.sync_health.dead_letters IS 'Rows that were rejected or ran out of retries.';
    COMMENT ON COLUMN cdi_bi.sync_health.latest_dead_letter_at IS 'When the latest of them failed.';
    COMMENT ON COLUMN cdi_bi.sync_health.requests_last_day IS 'Requests sent in the last 24 hours.';
    COMMENT ON COLUMN cdi_bi.sync_health.rows_sent_last_day IS 'Rows in those requests, repeated ones included.';
    COMMENT ON COLUMN cdi_bi.sync_health.rows_accepted_last_day IS 'Rows that the destination accepted in the last 24 hours.';
    COMMENT ON COLUMN cdi_bi.sync_health.median_request_seconds_last_day IS 'Median duration of a request in the last 24 hours.';
    COMMENT ON COLUMN cdi_bi.sync_health.latest_error_last_day IS 'Latest error of a request in the last 24 hours.';
END
$$;
COMMENT ON FUNCTION cdi._create_bi_views() IS 'Internal: views of schema cdi_bi.';
