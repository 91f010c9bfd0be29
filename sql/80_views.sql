-- Views over the data.  They are no members of the extension either: cdi_init()
-- makes them, an upgrade's first script drops them.
CREATE OR REPLACE FUNCTION cdi._create_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE OR REPLACE VIEW cdi.pipeline_counts AS
    SELECT s.name AS source,
           coalesce(sum(d.received), 0)::bigint AS received,
           coalesce(sum(d.stored), 0)::bigint AS stored,
           coalesce(sum(d.duplicate), 0)::bigint AS duplicate,
           coalesce(sum(d.failed), 0)::bigint AS failed,
           coalesce(sum(d.withheld), 0)::bigint AS withheld
    FROM cdi.sources s LEFT JOIN cdi.pipeline_deltas d USING (source_id)
    GROUP BY s.source_id, s.name;
    COMMENT ON VIEW cdi.pipeline_counts IS 'What became of every event, per source: received = stored + duplicate + failed + withheld at every commit.';

    CREATE OR REPLACE VIEW cdi.stat_sources AS
    SELECT p.source, p.received, p.stored, p.duplicate, p.failed, p.withheld,
           coalesce(a.requests, 0) AS requests,
           coalesce(a.body_bytes, 0) AS body_bytes,
           coalesce(a.accepted, 0) AS accepted,
           coalesce(a.refused, 0) AS refused,
           coalesce(a.rate_limited, 0) AS rate_limited,
           coalesce(a.too_large, 0) AS too_large,
           coalesce(a.unavailable, 0) AS unavailable,
           a.last_request_at, a.since
    FROM cdi.pipeline_counts p
    JOIN cdi.sources s ON s.name = p.source
    LEFT JOIN cdi._source_activity() a USING (source_id);
    COMMENT ON VIEW cdi.stat_sources IS 'What every source sent. Up to withheld: events, whichever way they came, as counted in the transactions that stored them. From requests on: HTTP requests that named the source by its write key, over all collectors, counted in memory since the time in column since. requests = accepted + refused + rate_limited + too_large + unavailable.';
    COMMENT ON COLUMN cdi.stat_sources.source IS 'Name of the source.';
    COMMENT ON COLUMN cdi.stat_sources.received IS 'Events received: stored + duplicate + failed + withheld.';
    COMMENT ON COLUMN cdi.stat_sources.stored IS 'Events that are in cdi.events, or were.';
    COMMENT ON COLUMN cdi.stat_sources.duplicate IS 'Events whose message id was stored before.';
    COMMENT ON COLUMN cdi.stat_sources.failed IS 'Events in cdi.failed_events.';
    COMMENT ON COLUMN cdi.stat_sources.withheld IS 'Events that consent or the plan withheld.';
    COMMENT ON COLUMN cdi.stat_sources.requests IS 'HTTP requests that were answered.';
    COMMENT ON COLUMN cdi.stat_sources.body_bytes IS 'Bytes of their bodies, as sent.';
    COMMENT ON COLUMN cdi.stat_sources.accepted IS 'Requests answered 2xx, or 3xx where the protocol redirects.';
    COMMENT ON COLUMN cdi.stat_sources.refused IS 'Requests answered 4xx, other than those below.';
    COMMENT ON COLUMN cdi.stat_sources.rate_limited IS 'Requests answered 429: above rate_limit (cdi_alter_source).';
    COMMENT ON COLUMN cdi.stat_sources.too_large IS 'Requests answered 413: body above max_body or cdi.collector_max_body.';
    COMMENT ON COLUMN cdi.stat_sources.unavailable IS 'Requests answered 503, which the client shall send again.';
    COMMENT ON COLUMN cdi.stat_sources.last_request_at IS 'When the last of these answers was given.';
    COMMENT ON COLUMN cdi.stat_sources.since IS 'Since when requests are counted: the last start of the server. Null where none has come.';

    CREATE OR REPLACE VIEW cdi.stat_event_streams WITH (security_invoker = true) AS
    SELECT s.name AS stream, d.name AS destination, s.enabled AND d.enabled AS enabled,
           coalesce(c.matched + c.withheld + c.sampled_out + c.skipped, 0) AS seen,
           coalesce(c.matched, 0) AS matched, coalesce(c.withheld, 0) AS withheld,
           coalesce(c.sampled_out, 0) AS sampled_out, coalesce(c.skipped, 0) AS skipped,
           coalesce(c.ok, 0) AS ok, coalesce(c.rejected, 0) AS rejected, coalesce(c.retryable, 0) AS retryable,
           (SELECT count(*) FROM cdi.failed_deliveries f WHERE f.sync_id = s.sync_id) AS dead_letters,
           p.position, greatest(w.position - p.position, 0) AS lag_positions,
           coalesce((SELECT extract(epoch FROM clock_timestamp() - e.received_at) FROM cdi.events e
                     WHERE e.position > p.position AND e.position <= w.position ORDER BY e.position LIMIT 1), 0)::double precision AS lag_seconds
    FROM cdi.syncs s
    JOIN cdi.destinations d USING (destination_id)
    JOIN cdi.push_cursor p USING (sync_id)
    CROSS JOIN cdi.watermark w
    LEFT JOIN cdi.event_stream_counts c USING (sync_id)
    WHERE s.kind = 'events';
    COMMENT ON VIEW cdi.stat_event_streams IS 'One row per event stream: what became of the events up to its position, and how far it is behind. seen = matched + withheld + sampled_out + skipped.';
    COMMENT ON COLUMN cdi.stat_event_streams.seen IS 'Events of the sources, types and names that the rules ask for.';
    COMMENT ON COLUMN cdi.stat_event_streams.matched IS 'Those that were sent, or could not be: each was accepted or is a dead letter.';
    COMMENT ON COLUMN cdi.stat_event_streams.withheld IS 'Those that consent, or Global Privacy Control, withheld.';
    COMMENT ON COLUMN cdi.stat_event_streams.sampled_out IS 'Those of people who are not in the sample.';
    COMMENT ON COLUMN cdi.stat_event_streams.skipped IS 'Those for which the rules'' condition, or that of every action, does not hold.';
    COMMENT ON COLUMN cdi.stat_event_streams.ok IS 'Events that were accepted, each time that they were.';
    COMMENT ON COLUMN cdi.stat_event_streams.rejected IS 'Events that were sent and became dead letters.';
    COMMENT ON COLUMN cdi.stat_event_streams.retryable IS 'Attempts after which an event was sent again.';
    COMMENT ON COLUMN cdi.stat_event_streams.dead_letters IS 'Events in cdi.failed_deliveries.';
    COMMENT ON COLUMN cdi.stat_event_streams.position IS 'Every event up to here has ended.';
    COMMENT ON COLUMN cdi.stat_event_streams.lag_positions IS 'Positions between that and the watermark.';
    COMMENT ON COLUMN cdi.stat_event_streams.lag_seconds IS 'Age of the first event between the two; 0 where there is none.';

    CREATE OR REPLACE VIEW cdi.import_failures WITH (security_invoker = true) AS
    SELECT i.name AS import, (f.envelope -> 'line')::bigint AS line, f.failed_id, f.stage, f.sqlstate, f.message, f.detail, f.hint,
           f.attempts, cdi._payload_text(f.payload) AS payload, (f.envelope -> 'import')::bigint AS import_id
    FROM cdi.failed_events f LEFT JOIN cdi.imports i ON i.import_id = (f.envelope -> 'import')::bigint
    WHERE f.envelope ? 'import';
    COMMENT ON VIEW cdi.import_failures IS 'Failed events of bulk imports with the number of their line, from 1. They leave when cdi_replay() stores them.';
    COMMENT ON COLUMN cdi.import_failures.payload IS 'The line, or the one call of several on it; null where it is no valid text (the bytes are in cdi.failed_events).';

    CREATE OR REPLACE VIEW cdi.stat_progress_import AS
    SELECT p.pid, d.datname, p.param11 AS import_id, i.name AS import, s.name AS source,
           CASE p.param13 WHEN 1 THEN 'COPY' WHEN 2 THEN 'INSERT' WHEN 3 THEN 'CALL' END AS command,
           p.param1 AS bytes_processed, p.param2 AS bytes_total, p.param14 AS lines_processed, p.param15 AS lines_skipped,
           p.param16 AS stored, p.param17 AS duplicate, p.param18 AS failed, p.param19 AS withheld
    FROM pg_stat_get_progress_info('COPY') p
    LEFT JOIN pg_database d ON d.oid = p.datid
    LEFT JOIN cdi.imports i ON i.import_id = p.param11
    LEFT JOIN cdi.sources s ON s.source_id = p.param12
    WHERE p.param11 > 0 AND d.datname = current_database();
    COMMENT ON VIEW cdi.stat_progress_import IS 'Bulk imports that run now, as of their last batch. Counts are those of the running command.';
    COMMENT ON COLUMN cdi.stat_progress_import.bytes_processed IS 'Of the file or stream, compressed where it is.';
    COMMENT ON COLUMN cdi.stat_progress_import.bytes_total IS 'Size of the file; 0 for a stream.';
    COMMENT ON COLUMN cdi.stat_progress_import.lines_skipped IS 'Lines that an earlier run of the import had done.';

    PERFORM cdi._create_trait_views();

    CREATE OR REPLACE VIEW cdi.persons AS
    SELECT m.identifier AS person_id, l.linked_at AS named_at, i.identifiers, coalesce(t.traits, '{}') AS traits
    FROM cdi.identity_map m
    LEFT JOIN cdi.identifier_types k USING (type_id)
    LEFT JOIN cdi.identity_links l USING (position)
    JOIN (SELECT person_id, count(*) AS identifiers FROM cdi.identity_map GROUP BY person_id) i
        ON i.person_id = m.identifier
    LEFT JOIN (SELECT person_id, jsonb_object_agg(trait, value) AS traits FROM cdi.person_traits GROUP BY person_id) t
        ON t.person_id = m.identifier
    WHERE m.person_id = m.identifier AND coalesce(k.graph, 'person') = 'person';
    COMMENT ON VIEW cdi.persons IS 'People, as of the last cdi_resolve(): one row per person that an identify call or a link between identifiers has named. An identifier seen only by itself is a person without a row here.';
    COMMENT ON COLUMN cdi.persons.person_id IS 'Id of the person: the key of its first identifier. It outlives merges with younger persons.';
    COMMENT ON COLUMN cdi.persons.named_at IS 'When the event happened that first named the person.';
    COMMENT ON COLUMN cdi.persons.identifiers IS 'How many identifiers are known to be this person''s.';
    COMMENT ON COLUMN cdi.persons.traits IS 'Every trait that calls have set, by its policy over all the person''s identifiers: cdi.person_traits as one object.';

    CREATE OR REPLACE VIEW cdi.person_identifiers AS
    SELECT m.person_id, k.type, k.value, l.linked_at AS first_linked_at, m.identifier
    FROM cdi.identity_map m
    JOIN cdi.identity_links l USING (position)
    JOIN LATERAL (SELECT u.type, u.value
                  FROM unnest(l.identifiers, l.types, l."values") AS u (identifier, type, value)
                  WHERE u.identifier = m.identifier LIMIT 1) k ON true;
    COMMENT ON VIEW cdi.person_identifiers IS 'Identifiers of every person, account and household, as of the last cdi_resolve().';
    COMMENT ON COLUMN cdi.person_identifiers.person_id IS 'Id of the person, as in cdi.persons; of the account or household, as in cdi.accounts and cdi.households.';
    COMMENT ON COLUMN cdi.person_identifiers.type IS 'Kind of identifier: user_id, email, anonymous_id, ...';
    COMMENT ON COLUMN cdi.person_identifiers.value IS 'The identifier, normalised.';
    COMMENT ON COLUMN cdi.person_identifiers.first_linked_at IS 'When the event happened that first named the identifier.';
    COMMENT ON COLUMN cdi.person_identifiers.identifier IS 'Its key: what cdi.events.subject holds.';

    -- Accounts and households
    CREATE OR REPLACE VIEW cdi.accounts AS
    SELECT m.identifier AS account_id, l.linked_at AS named_at, i.identifiers, coalesce(t.traits, '{}') AS traits
    FROM cdi.identity_map m
    JOIN cdi.identifier_types k USING (type_id)
    LEFT JOIN cdi.identity_links l USING (position)
    JOIN (SELECT person_id, count(*) AS identifiers FROM cdi.identity_map GROUP BY person_id) i
        ON i.person_id = m.identifier
    LEFT JOIN (SELECT person_id, jsonb_object_agg(trait, value) AS traits FROM cdi.person_traits GROUP BY person_id) t
        ON t.person_id = m.identifier
    WHERE m.person_id = m.identifier AND k.graph = 'account';
    COMMENT ON VIEW cdi.accounts IS 'Accounts, as of the last cdi_resolve(): one row per account that a group call has named.';
    COMMENT ON COLUMN cdi.accounts.account_id IS 'Id of the account: the key of its first identifier. cdi_person() finds it by any of its identifiers.';
    COMMENT ON COLUMN cdi.accounts.named_at IS 'When the event happened that first named it.';
    COMMENT ON COLUMN cdi.accounts.identifiers IS 'How many identifiers are known to be its own.';
    COMMENT ON COLUMN cdi.accounts.traits IS 'Every trait that group calls have set, by its policy over all its identifiers.';

    CREATE OR REPLACE VIEW cdi.account_members AS
    SELECT coalesce(a.person_id, g.group_identifier) AS account_id, coalesce(p.person_id, g.member) AS person_id,
           min(g.first_at) AS first_at, max(g.last_at) AS last_at
    FROM cdi.group_members g
    JOIN cdi.identity_map a ON a.identifier = g.group_identifier
    JOIN cdi.identifier_types k ON k.type_id = a.type_id AND k.graph = 'account'
    LEFT JOIN cdi.identity_map p ON p.identifier = g.member
    GROUP BY 1, 2;
    COMMENT ON VIEW cdi.account_members IS 'Which people an event has shown to belong to which account, as of the last cdi_resolve().';
    COMMENT ON COLUMN cdi.account_members.account_id IS 'Id of the account, as in cdi.accounts.';
    COMMENT ON COLUMN cdi.account_members.person_id IS 'Id of the person. One that no link has named has no row in cdi.persons.';
    COMMENT ON COLUMN cdi.account_members.first_at IS 'When the first event that says so happened.';
    COMMENT ON COLUMN cdi.account_members.last_at IS 'When the last one did.';

    CREATE OR REPLACE VIEW cdi.households AS
    SELECT m.identifier AS household_id, l.linked_at AS named_at, i.identifiers, coalesce(t.traits, '{}') AS traits
    FROM cdi.identity_map m
    JOIN cdi.identifier_types k USING (type_id)
    LEFT JOIN cdi.identity_links l USING (position)
    JOIN (SELECT person_id, count(*) AS identifiers FROM cdi.identity_map GROUP BY person_id) i
        ON i.person_id = m.identifier
    LEFT JOIN (SELECT person_id, jsonb_object_agg(trait, value) AS traits FROM cdi.person_traits GROUP BY person_id) t
        ON t.person_id = m.identifier
    WHERE m.person_id = m.identifier AND k.graph = 'household';
    COMMENT ON VIEW cdi.households IS 'Households, as of the last cdi_resolve(): one row per household that an event has named.';
    COMMENT ON COLUMN cdi.households.household_id IS 'Id of the household: the key of its first identifier. cdi_person() finds it by any of its identifiers.';
    COMMENT ON COLUMN cdi.households.named_at IS 'When the event happened that first named it.';
    COMMENT ON COLUMN cdi.households.identifiers IS 'How many identifiers are known to be its own.';
    COMMENT ON COLUMN cdi.households.traits IS 'Empty: what events say of traits is said of people and accounts.';

    CREATE OR REPLACE VIEW cdi.household_members AS
    SELECT coalesce(a.person_id, g.group_identifier) AS household_id, coalesce(p.person_id, g.member) AS person_id,
           min(g.first_at) AS first_at, max(g.last_at) AS last_at
    FROM cdi.group_members g
    JOIN cdi.identity_map a ON a.identifier = g.group_identifier
    JOIN cdi.identifier_types k ON k.type_id = a.type_id AND k.graph = 'household'
    LEFT JOIN cdi.identity_map p ON p.identifier = g.member
    GROUP BY 1, 2;
    COMMENT ON VIEW cdi.household_members IS 'Which people an event has shown to belong to which household, as of the last cdi_resolve().';
    COMMENT ON COLUMN cdi.household_members.household_id IS 'Id of the household, as in cdi.households.';
    COMMENT ON COLUMN cdi.household_members.person_id IS 'Id of the person. One that no link has named has no row in cdi.persons.';
    COMMENT ON COLUMN cdi.household_members.first_at IS 'When the first event that says so happened.';
    COMMENT ON COLUMN cdi.household_members.last_at IS 'When the last one did.';

    -- Sessions, touchpoints and conversions
    CREATE OR REPLACE VIEW cdi.session_events WITH (security_invoker = true) AS
    SELECT b.session_id, b.person_id, b.event_id, b."timestamp", b.position, b.received_at,
           b.source_id, b.type, b.event,
           @extschema@.cdi_channel(b.campaign_source, b.campaign_medium, b.click_id_type, b.referrer_host, b.page_host, b.campaign_name, b.campaign_term, b.campaign_content) AS channel,
           b.session_channel,
           b.campaign_source, b.campaign_medium, b.campaign_name, b.campaign_term, b.campaign_content,
           b.click_id_type, b.referrer_host, b.page_host, b.properties, b.context,
           b.subject, b.user_id, b.anonymous_id, b.group_id, b.traits
    FROM (
        SELECT coalesce(m.person_id, e.subject) AS person_id,
               @extschema@.cdi_session_id(e.event_id, e."timestamp",
                   @extschema@.cdi_campaign_key(e.campaign_source, e.campaign_medium, e.campaign_name,
                       e.campaign_term, e.campaign_content, e.click_id_type),
                   (SELECT s.gap FROM cdi.session_settings s), (SELECT s.midnight FROM cdi.session_settings s),
                   e.event = ANY ((SELECT s.cut_events FROM cdi.session_settings s)::text[])) OVER w AS session_id,
               @extschema@.cdi_session_channel(e.event_id, e."timestamp",
                   @extschema@.cdi_campaign_key(e.campaign_source, e.campaign_medium, e.campaign_name,
                       e.campaign_term, e.campaign_content, e.click_id_type),
                   (SELECT s.gap FROM cdi.session_settings s),
                   @extschema@.cdi_channel(e.campaign_source, e.campaign_medium, e.click_id_type, e.referrer_host, e.page_host,
                       e.campaign_name, e.campaign_term, e.campaign_content),
                   (SELECT s.midnight FROM cdi.session_settings s),
                   e.event = ANY ((SELECT s.cut_events FROM cdi.session_settings s)::text[])) OVER w AS session_channel,
               e.event_id, e."timestamp", e.position, e.received_at, e.source_id, e.type, e.event,
               e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content,
               e.click_id_type, e.referrer_host, e.page_host, e.properties, e.context,
               e.subject, e.user_id, e.anonymous_id, e.group_id, e.traits
        FROM cdi.events e
        LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
        WHERE e.type IN ('page', 'screen', 'track') AND e.subject IS NOT NULL
          -- touches that are no sessions, and notifications, which come without anybody being there
          AND (e.type = 'track' AND e.event = ANY ((SELECT array_agg(k.event) || '{Push Notification Received,Push Notification Bounced}' FROM cdi.touch_types k)::text[])) IS NOT TRUE
        WINDOW w AS (PARTITION BY coalesce(m.person_id, e.subject) ORDER BY e."timestamp", e.position)
    ) b;
    COMMENT ON VIEW cdi.session_events IS 'Browsing events (page, screen, track) with the session and person they belong to. identify, group and alias neither begin nor prolong a session, nor do notifications that were received or bounced; an event without a subject has no person and is in none.';
    COMMENT ON COLUMN cdi.session_events.session_id IS 'Id of the session''s first event.';
    COMMENT ON COLUMN cdi.session_events.channel IS 'Channel of this event by cdi_channel().';
    COMMENT ON COLUMN cdi.session_events.session_channel IS 'On the first event of a session: the channel that led to it. Otherwise null.';

    CREATE OR REPLACE VIEW cdi.touchpoints WITH (security_invoker = true) AS
    -- The order in which the window brings them, said so that the planner keeps it.
    (SELECT s.event_id AS session_id, s.person_id, s."timestamp" AS touched_at, s.position, s.session_channel AS channel,
           s.campaign_source, s.campaign_medium, s.campaign_name, s.campaign_term, s.campaign_content,
           'session' AS touch_type
    FROM cdi.session_events s
    WHERE s.session_channel IS NOT NULL
    ORDER BY s.person_id, s."timestamp", s.position)
    UNION ALL
    SELECT t.event_id, t.person_id, t."timestamp", t.position,
           coalesce(t.channel, @extschema@.cdi_channel(t.campaign_source, t.campaign_medium, t.click_id_type, NULL, NULL,
               t.campaign_name, t.campaign_term, t.campaign_content)),
           t.campaign_source, t.campaign_medium, t.campaign_name, t.campaign_term, t.campaign_content,
           t.kind
    FROM (
        SELECT e.event_id, coalesce(m.person_id, e.subject) AS person_id, e."timestamp", e.position,
               coalesce(k.channel, nullif(e.properties ->> (k.properties ->> 'channel'), '')) AS channel,
               coalesce(e.campaign_source, e.properties ->> (k.properties ->> 'campaign_source')) AS campaign_source,
               coalesce(e.campaign_medium, e.properties ->> (k.properties ->> 'campaign_medium')) AS campaign_medium,
               coalesce(e.campaign_name, e.properties ->> (k.properties ->> 'campaign_name')) AS campaign_name,
               coalesce(e.campaign_term, e.properties ->> (k.properties ->> 'campaign_term')) AS campaign_term,
               coalesce(e.campaign_content, e.properties ->> (k.properties ->> 'campaign_content')) AS campaign_content,
               e.click_id_type, k.kind
        FROM cdi.touch_types k
        JOIN cdi.events e ON e.type = 'track' AND e.event = k.event
        LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
        WHERE e.subject IS NOT NULL
          AND (SELECT count(*) FROM cdi.touch_types) > 0    -- known before the events are read
    ) t;
    COMMENT ON VIEW cdi.touchpoints IS 'What led a person to us, in the form that cdi_attribution() reads: each session with its start, its channel and its campaign, and each event that is declared as a touchpoint of its own (cdi_create_touch_type).';
    COMMENT ON COLUMN cdi.touchpoints.session_id IS 'Id of the session, which is that of its first event; of another touch the id of the event.';
    COMMENT ON COLUMN cdi.touchpoints.touch_type IS 'session, or of an event that is declared as a touchpoint: click, impression or offline.';
    COMMENT ON COLUMN cdi.touchpoints.channel IS 'Channel of the session''s first event that came from anywhere but the site itself; direct where there is none.';
    COMMENT ON COLUMN cdi.touchpoints.campaign_source IS 'Campaign of the first event: an event with another campaign begins a session.';

    CREATE OR REPLACE VIEW cdi.sessions WITH (security_invoker = true) AS
    SELECT s.session_id, s.person_id,
           min(s."timestamp") AS started_at,
           max(s."timestamp") AS ended_at,
           count(*) AS events,
           count(*) FILTER (WHERE s.type IN ('page', 'screen')) AS page_views,
           count(*) FILTER (WHERE s.type = 'track' AND s.event IN (SELECT c.event FROM cdi.conversions c)) AS conversions,
           max(s.session_channel) AS channel,
           max(s.campaign_source) FILTER (WHERE s.event_id = s.session_id) AS campaign_source,
           max(s.campaign_medium) FILTER (WHERE s.event_id = s.session_id) AS campaign_medium,
           max(s.campaign_name) FILTER (WHERE s.event_id = s.session_id) AS campaign_name,
           max(s.campaign_term) FILTER (WHERE s.event_id = s.session_id) AS campaign_term,
           max(s.campaign_content) FILTER (WHERE s.event_id = s.session_id) AS campaign_content,
           max(s.click_id_type) FILTER (WHERE s.event_id = s.session_id) AS click_id_type,
           @extschema@.cdi_first(s.referrer_host, s."timestamp", s.position) FILTER (WHERE s.channel <> 'direct') AS referrer_host,
           @extschema@.cdi_first(s.page_host, s."timestamp", s.position) FILTER (WHERE s.type = 'page') AS landing_host,
           @extschema@.cdi_first(coalesce(s.context #>> '{page,path}', s.event), s."timestamp", s.position)
               FILTER (WHERE s.type IN ('page', 'screen')) AS landing_page,
           min(s.position) FILTER (WHERE s.event_id = s.session_id) AS position,
           max(s.position) AS last_position
    FROM cdi.session_events s
    GROUP BY s.person_id, s.session_id;
    COMMENT ON VIEW cdi.sessions IS 'A person''s visits: browsing events without a longer pause and under one campaign, across all devices (cdi_set_sessions). The id is that of the first event, so a late event that precedes it gives the session another id.';
    COMMENT ON COLUMN cdi.sessions.channel IS 'Channel of the first event that came from anywhere but the site itself; direct where there is none.';
    COMMENT ON COLUMN cdi.sessions.campaign_source IS 'Campaign of the first event: an event with another campaign begins a session.';
    COMMENT ON COLUMN cdi.sessions.conversions IS 'Number of tracked events that are declared as a conversion.';
    COMMENT ON COLUMN cdi.sessions.referrer_host IS 'Host that referred to the first event that did not come from the site itself.';
    COMMENT ON COLUMN cdi.sessions.landing_page IS 'Path of the first page, or name of the first screen.';
    COMMENT ON COLUMN cdi.sessions.position IS 'Position of the first event.';
    COMMENT ON COLUMN cdi.sessions.last_position IS 'Highest position of the session''s events.';

    CREATE OR REPLACE VIEW cdi.conversion_candidates WITH (security_invoker = true) AS
    SELECT e.event_id, e.conversion, coalesce(m.person_id, e.subject) AS person_id, e."timestamp" AS converted_at,
           cdi._usable_value(e.value) AS original_value,
           coalesce(nullif(upper(btrim(e.properties ->> e.currency_property)), ''), e.currency) AS currency,
           e.properties ->> e.unique_property AS unique_value,
           e.unique_property, e.unique_scope, e.unique_within, e.reporting_currency, e.position, e.source_id
    FROM (
        SELECT v.event_id, c.name AS conversion, v.subject, v."timestamp", v.properties,
               @extschema@.cdi_property_number(v.properties, c.value_property) AS value,
               c.currency, c.currency_property, c.reporting_currency, c.unique_property, c.unique_scope, c.unique_within,
               v.position, v.source_id
        FROM cdi.conversions c
        JOIN cdi.events v ON v.type = 'track' AND v.event = c.event
        WHERE c.value_expression IS NULL AND NOT EXISTS (SELECT FROM cdi.virtual_events w WHERE w.name = c.event)
        UNION ALL
        SELECT v.event_id, v.conversion, v.subject, v."timestamp", v.properties,
               @extschema@.cdi_property_number(v.properties, v.value_property),
               v.currency, v.currency_property, v.reporting_currency, v.unique_property, v.unique_scope, v.unique_within,
               v.position, v.source_id
        FROM cdi.virtual_event_conversions v
        UNION ALL
        SELECT v.event_id, c.name, v.subject, v."timestamp", v.properties, v.value,
               c.currency, c.currency_property, c.reporting_currency, c.unique_property, c.unique_scope, c.unique_within,
               v.position, v.source_id
        FROM cdi.conversions c
        CROSS JOIN LATERAL cdi._conversion_values(c.name) v
        WHERE c.value_expression IS NOT NULL
    ) e
    LEFT JOIN cdi.identity_map m ON m.identifier = e.subject;
    COMMENT ON VIEW cdi.conversion_candidates IS 'Events that are declared as conversions, once per declaration, before any is left out as the same one again.';
    COMMENT ON COLUMN cdi.conversion_candidates.original_value IS 'Value as the event has it, in its own currency.';
    COMMENT ON COLUMN cdi.conversion_candidates.unique_value IS 'What the event has in the property by which conversions are told apart.';

    CREATE OR REPLACE VIEW cdi.conversion_events WITH (security_invoker = true) AS
    SELECT e.event_id, e.conversion, e.person_id, e.converted_at,
           CASE WHEN e.reporting_currency IS NULL OR e.reporting_currency = e.currency THEN e.original_value
                ELSE e.original_value * (SELECT r.rate FROM cdi.exchange_rates r
                                         WHERE r.currency = e.currency AND r.reporting_currency = e.reporting_currency
                                           AND r.day BETWEEN (e.converted_at AT TIME ZONE 'UTC')::date - 7 AND (e.converted_at AT TIME ZONE 'UTC')::date
                                         ORDER BY r.day DESC LIMIT 1)
           END AS value,
           e.position, e.source_id, e.original_value, e.currency, coalesce(e.reporting_currency, e.currency) AS value_currency
    FROM (
        SELECT c.event_id, c.conversion, c.person_id, c.converted_at, c.original_value, c.currency, c.reporting_currency, c.position, c.source_id
        FROM cdi.conversion_candidates c
        WHERE c.unique_scope IS NULL
        UNION ALL
        SELECT u.event_id, u.conversion, u.person_id, u.converted_at, u.original_value, u.currency, u.reporting_currency, u.position, u.source_id
        FROM (
            SELECT c.*,
                   -- without the property or the person nothing says that it is the same one
                   c.unique_property IS NOT NULL AND c.unique_value IS NULL OR c.unique_scope = 'person' AND c.person_id IS NULL
                   OR cdi._first_within(c.converted_at, c.unique_within) OVER (
                       PARTITION BY c.conversion, CASE c.unique_scope WHEN 'person' THEN c.person_id END, c.unique_value
                       ORDER BY c.converted_at, c.position) AS counts
            FROM cdi.conversion_candidates c
            WHERE c.unique_scope IS NOT NULL
        ) u
        WHERE u.counts
    ) e;
    COMMENT ON VIEW cdi.conversion_events IS 'Conversions: events that are declared as one, once per declaration, without those that are the same one again, with their value.';
    COMMENT ON COLUMN cdi.conversion_events.value IS 'In the reporting currency, where the declaration names one. Null where the event has no value, or original_value is there and no rate.';
    COMMENT ON COLUMN cdi.conversion_events.original_value IS 'Value as the event has it.';
    COMMENT ON COLUMN cdi.conversion_events.currency IS 'Currency of original_value; null: nothing says.';
    COMMENT ON COLUMN cdi.conversion_events.value_currency IS 'Currency of value, the same for all events of a conversion; null: nothing says.';

    CREATE OR REPLACE VIEW cdi.stat_destinations AS
    SELECT d.name AS destination, d.enabled,
           coalesce(r.requests, 0) AS requests,
           coalesce(r.rows, 0) AS rows,
           coalesce(r.ok, 0) AS ok,
           coalesce(r.rejected, 0) AS rejected,
           coalesce(r.rows, 0) - coalesce(r.ok, 0) - coalesce(r.rejected, 0) AS retryable,
           r.median_milliseconds,
           coalesce(w.waiting, 0)::bigint AS waiting,
           w.oldest_waiting_at,
           coalesce(n.requests, 0) AS in_flight_requests,
           coalesce(n.rows, 0) AS in_flight_rows,
           coalesce(f.dead_letters, 0) AS dead_letters,
           CASE WHEN p.failures = 0 THEN p.reason END AS paused_reason,
           CASE WHEN p.failures > 0 THEN p.since END AS open_since,
           CASE WHEN p.failures > 0 THEN p.reason END AS open_reason,
           p.next_try_at
    FROM cdi.destinations d
    LEFT JOIN (
        SELECT v.destination_id, count(*) FILTER (WHERE v.kind = 'request') AS requests, sum(v.rows) AS rows, sum(v.accepted) AS ok,
               count(*) FILTER (WHERE v.kind = 'record' AND v.class IN ('rejected', 'split')) AS rejected,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY v.milliseconds) FILTER (WHERE v.kind = 'request') AS median_milliseconds
        FROM cdi.deliveries v WHERE v.sent_at > now() - interval '1 hour'
        GROUP BY v.destination_id
    ) r ON r.destination_id = d.destination_id
    LEFT JOIN (
        SELECT s.destination_id, sum(o.waiting) AS waiting, min(o.oldest) AS oldest_waiting_at
        FROM cdi.syncs s
        LEFT JOIN cdi.push_cursor c ON c.sync_id = s.sync_id
        CROSS JOIN LATERAL (
            SELECT count(*) AS waiting, min(q.queued_at) AS oldest
            FROM cdi.outbox q WHERE q.sync_id = s.sync_id AND q.position > coalesce(c.position, 0)
        ) o
        GROUP BY s.destination_id
    ) w ON w.destination_id = d.destination_id
    LEFT JOIN (
        SELECT s.destination_id, count(*) AS dead_letters FROM cdi.failed_deliveries l JOIN cdi.syncs s USING (sync_id)
        GROUP BY s.destination_id
    ) f ON f.destination_id = d.destination_id
    LEFT JOIN cdi._push_in_flight() n ON n.destination_id = d.destination_id
    LEFT JOIN cdi.destination_pauses p ON p.destination_id = d.destination_id;
    COMMENT ON VIEW cdi.stat_destinations IS 'How each destination is doing: requests and rows of the last hour, what waits, what is in flight, and whether it is held back.';
    COMMENT ON COLUMN cdi.stat_destinations.requests IS 'Requests sent in the last hour, with rows rows; of those ok were accepted, rejected were refused for good, and retryable are sent again while they have attempts left.';
    COMMENT ON COLUMN cdi.stat_destinations.waiting IS 'Rows queued beyond the position up to which the push worker is done with their sync, those in flight among them.';
    COMMENT ON COLUMN cdi.stat_destinations.in_flight_requests IS 'Requests that were sent, with in_flight_rows rows, and are not answered yet.';
    COMMENT ON COLUMN cdi.stat_destinations.dead_letters IS 'Rows in cdi.failed_deliveries.';
    COMMENT ON COLUMN cdi.stat_destinations.paused_reason IS 'What is wrong with its settings or credentials; null: nothing that is known.';
    COMMENT ON COLUMN cdi.stat_destinations.open_since IS 'When its circuit opened: five requests in a row had failed, and now it gets one at a time, later and later.';
    COMMENT ON COLUMN cdi.stat_destinations.open_reason IS 'How the last of them failed.';
    COMMENT ON COLUMN cdi.stat_destinations.next_try_at IS 'When a destination that is paused or open is tried again.';

    CREATE OR REPLACE VIEW cdi.workers AS
    SELECT kind, number, state, pid, database, started_at, failures, retry_at, last_error
    FROM cdi._workers();
    COMMENT ON VIEW cdi.workers IS 'The launcher and the workers of this database. Empty where cdi is not in shared_preload_libraries.';
    COMMENT ON COLUMN cdi.workers.kind IS 'launcher, collector (HTTP), keeper (watermark, identities, partitions) or push (outbox).';
    COMMENT ON COLUMN cdi.workers.number IS 'Of a collector: its number, from 1 to cdi.collector_workers.';
    COMMENT ON COLUMN cdi.workers.state IS 'off (not wanted, or nothing to do), waiting (for its start, at retry_at), starting, running or stopping.';
    COMMENT ON COLUMN cdi.workers.failures IS 'How often in a row it ended by itself; the wait before the next start doubles with each.';
    COMMENT ON COLUMN cdi.workers.last_error IS 'The last error that it wrote to the server''s log.';
END
$$;
COMMENT ON FUNCTION cdi._create_views() IS 'Internal: views of schema cdi over the data.';
