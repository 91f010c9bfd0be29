-- Channels and sessions (src/attribution, src/behaviour).

CREATE OR REPLACE FUNCTION cdi_channel(
    campaign_source text,
    campaign_medium text,
    click_id_type text,
    referrer_host text,
    page_host text)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_channel(text, text, text, text, text) IS
'Marketing channel by the rules of the GA4 default channel group, as far as source, medium, click id and referrer decide it: paid_search, paid_social, paid_shopping, paid_video, paid_other, display, organic_search, organic_social, organic_shopping, organic_video, referral, email, affiliate, audio, sms, push, direct, or unassigned where source or medium fit no rule. A referrer on the page''s own host or its subdomains counts as none. Never null. docs/attribution.md has the rules with their sources.';

CREATE OR REPLACE FUNCTION cdi_campaign_key(
    campaign_source text, campaign_medium text, campaign_name text,
    campaign_term text, campaign_content text, click_id_type text)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_campaign_key(text, text, text, text, text, text) IS
'What tells one campaign from another, for cdi_session_id(): its fields as in a query string. Null where the event carries none.';

CREATE OR REPLACE FUNCTION cdi_session_id(
    event_id uuid,
    "timestamp" timestamptz,
    campaign text,
    gap interval DEFAULT '30 minutes')
RETURNS uuid
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_session_id(uuid, timestamptz, text, interval) IS
'Window function: session of each event, OVER (PARTITION BY person ORDER BY timestamp, position). The id is that of the session''s first event. A session begins after more than the gap without an event, and with an event whose campaign is not null and differs from the session''s. One pass, constant memory per partition.';

CREATE OR REPLACE FUNCTION cdi_session_channel(
    event_id uuid,
    "timestamp" timestamptz,
    campaign text,
    gap interval,
    channel text)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_session_channel(uuid, timestamptz, text, interval, text) IS
'Window function beside cdi_session_id(), with the same arguments and the channel of each event: for the first event of a session the first channel in it that is not direct, or direct; null for other events.';

CREATE OR REPLACE FUNCTION cdi._first_transition(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_transition';
COMMENT ON FUNCTION cdi._first_transition(internal, anyelement, timestamptz, bigint) IS 'Internal: transition of cdi_first().';

CREATE OR REPLACE FUNCTION cdi._first_final(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS anyelement
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_final';
COMMENT ON FUNCTION cdi._first_final(internal, anyelement, timestamptz, bigint) IS 'Internal: result of cdi_first() and cdi_last().';

CREATE OR REPLACE FUNCTION cdi._last_transition(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_last_transition';
COMMENT ON FUNCTION cdi._last_transition(internal, anyelement, timestamptz, bigint) IS 'Internal: transition of cdi_last().';

CREATE OR REPLACE AGGREGATE cdi_first(value anyelement, "timestamp" timestamptz, "position" bigint) (
    SFUNC = cdi._first_transition,
    STYPE = internal,
    SSPACE = 128,
    FINALFUNC = cdi._first_final,
    FINALFUNC_EXTRA,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_first(anyelement, timestamptz, bigint) IS
'The value with the earliest timestamp, of equal ones the one with the lowest position. Needs no sorted input and keeps one value per group. Nulls count; leave them out with FILTER.';

CREATE OR REPLACE AGGREGATE cdi_last(value anyelement, "timestamp" timestamptz, "position" bigint) (
    SFUNC = cdi._last_transition,
    STYPE = internal,
    SSPACE = 128,
    FINALFUNC = cdi._first_final,
    FINALFUNC_EXTRA,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_last(anyelement, timestamptz, bigint) IS
'The value with the latest timestamp, of equal ones the one with the highest position; otherwise as cdi_first().';
