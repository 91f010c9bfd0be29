-- The doors of the pipeline and its accounts (src/ingest).

CREATE OR REPLACE FUNCTION cdi._random_bytes(length integer)
RETURNS bytea
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'cdi_random_bytes';
COMMENT ON FUNCTION cdi._random_bytes(integer) IS 'Internal: bytes from the server''s cryptographic random source.';

CREATE OR REPLACE FUNCTION cdi._batch_events()
RETURNS TABLE (received_at timestamptz, "timestamp" timestamptz, original_timestamp timestamptz, sent_at timestamptz,
    "position" bigint, event_id uuid, subject uuid, source_id integer, type text, event text, category text, message_id text,
    user_id text, anonymous_id text, group_id text, previous_id text,
    campaign_source text, campaign_medium text, campaign_name text, campaign_term text, campaign_content text,
    click_id_type text, referrer_host text,
    properties jsonb, traits jsonb, context jsonb, extra jsonb, page_host text)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_batch_events';
COMMENT ON FUNCTION cdi._batch_events() IS 'Internal: rows of cdi.events that the running batch stores.';

CREATE OR REPLACE FUNCTION cdi._batch_links()
RETURNS TABLE ("position" bigint, event_id uuid, linked_at timestamptz, rule text, identifiers uuid[], types text[], "values" text[], traits jsonb, source_id integer, member uuid)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_batch_links';
COMMENT ON FUNCTION cdi._batch_links() IS 'Internal: rows of cdi.identity_links that the running batch stores.';

CREATE OR REPLACE FUNCTION cdi._batch_failures()
RETURNS TABLE (received_at timestamptz, source_id integer, stage text, sqlstate text, message text, detail text, hint text, attempts integer, payload bytea, envelope jsonb)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_batch_failures';
COMMENT ON FUNCTION cdi._batch_failures() IS 'Internal: rows of cdi.failed_events that the running batch records.';

CREATE OR REPLACE FUNCTION cdi_track(
    user_id text DEFAULT NULL, event text DEFAULT NULL, properties jsonb DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_track(text, text, jsonb, text, jsonb, timestamptz, text, text) IS
'Stores one tracked event and returns its id. It is part of the caller''s transaction; a message id that is known already returns the same id and stores nothing.';

CREATE OR REPLACE FUNCTION cdi_identify(
    user_id text DEFAULT NULL, traits jsonb DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_identify(text, jsonb, text, jsonb, timestamptz, text, text) IS
'Says who somebody is: links the identifiers it is given (user id, anonymous id, traits.email) and sets traits. Returns the event''s id.';

CREATE OR REPLACE FUNCTION cdi_page(
    user_id text DEFAULT NULL, name text DEFAULT NULL, properties jsonb DEFAULT NULL, category text DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_page(text, text, jsonb, text, text, jsonb, timestamptz, text, text) IS
'Stores one view of a web page and returns the event''s id.';

CREATE OR REPLACE FUNCTION cdi_screen(
    user_id text DEFAULT NULL, name text DEFAULT NULL, properties jsonb DEFAULT NULL, category text DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_screen(text, text, jsonb, text, text, jsonb, timestamptz, text, text) IS
'Stores one view of an app''s screen and returns the event''s id.';

CREATE OR REPLACE FUNCTION cdi_group(
    user_id text DEFAULT NULL, group_id text DEFAULT NULL, traits jsonb DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_group(text, text, jsonb, text, jsonb, timestamptz, text, text) IS
'Says that somebody belongs to a group (company, account) and sets the group''s traits. Returns the event''s id.';

CREATE OR REPLACE FUNCTION cdi_alias(
    user_id text DEFAULT NULL, previous_id text DEFAULT NULL,
    anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL,
    message_id text DEFAULT NULL, source text DEFAULT 'sql')
RETURNS uuid
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_alias(text, text, text, jsonb, timestamptz, text, text) IS
'Says that a previous user id or anonymous id and a user id are the same person. Returns the event''s id.';

CREATE OR REPLACE FUNCTION cdi_ingest(events jsonb, source text DEFAULT 'sql', history boolean DEFAULT false,
    OUT stored bigint, OUT duplicate bigint, OUT failed bigint, OUT withheld bigint)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_ingest(jsonb, text, boolean) IS
'Takes one Segment-shaped call, an array of them or {"batch": [...]} and returns what became of them. Bad events go to cdi.failed_events and cost their neighbours nothing. With history, receivedAt (or timestamp) of the events says when they were received.';

CREATE OR REPLACE FUNCTION cdi._replay_rows(source_ids integer[], received_at timestamptz[], payloads bytea[], envelopes jsonb[], attempts integer[],
    OUT stored bigint, OUT duplicate bigint, OUT failed bigint, OUT withheld bigint)
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'cdi_replay_rows';
COMMENT ON FUNCTION cdi._replay_rows(integer[], timestamptz[], bytea[], jsonb[], integer[]) IS 'Internal: failed events through the pipeline again.';

CREATE OR REPLACE FUNCTION cdi_replay(failed_ids bigint[] DEFAULT NULL, source text DEFAULT NULL, stage text DEFAULT NULL, max_events integer DEFAULT 10000,
    OUT stored bigint, OUT duplicate bigint, OUT failed bigint, OUT withheld bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken record;
BEGIN
    stored := 0; duplicate := 0; failed := 0; withheld := 0;
    IF source IS NOT NULL THEN
        PERFORM cdi._require_source(source);
    END IF;
    -- The rows leave with the units they stand for and come in again.
    WITH chosen AS (
        SELECT f.failed_id, sum(length(f.payload)) OVER (ORDER BY f.failed_id) AS bytes FROM (
        SELECT f.* FROM cdi.failed_events f
        WHERE (failed_ids IS NULL OR f.failed_id = ANY (failed_ids))
          AND (cdi_replay.source IS NULL OR f.source_id = (SELECT s.source_id FROM cdi.sources s WHERE s.name = cdi_replay.source))
          AND (cdi_replay.stage IS NULL OR f.stage = cdi_replay.stage)
        ORDER BY f.failed_id
        LIMIT max_events
        FOR UPDATE SKIP LOCKED) f
    ), removed AS (
        -- what does not fit into memory stays for the next call
        DELETE FROM cdi.failed_events f USING chosen c
        WHERE f.failed_id = c.failed_id AND (c.bytes <= 100000000 OR c.bytes = length(f.payload))
        RETURNING f.*
    ), counted AS (
        INSERT INTO cdi.pipeline_deltas (source_id, hour, received, failed)
        SELECT r.source_id, date_trunc('hour', clock_timestamp(), 'UTC'), -count(*), -count(*)
        FROM removed r GROUP BY r.source_id
    )
    SELECT array_agg(r.source_id ORDER BY r.failed_id) AS source_ids,
           array_agg(r.received_at ORDER BY r.failed_id) AS received_at,
           array_agg(r.payload ORDER BY r.failed_id) AS payloads,
           array_agg(r.envelope ORDER BY r.failed_id) AS envelopes,
           array_agg(r.attempts ORDER BY r.failed_id) AS attempts
    INTO taken FROM removed r;
    IF taken.source_ids IS NOT NULL THEN
        SELECT * INTO stored, duplicate, failed, withheld
        FROM cdi._replay_rows(taken.source_ids, taken.received_at, taken.payloads, taken.envelopes, taken.attempts);
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_replay(bigint[], text, text, integer) IS
'Sends failed events through the pipeline again, all of them or those chosen by id, source or stage. What fails again is a failed event again, with one attempt more.';

CREATE OR REPLACE FUNCTION cdi_watermark()
RETURNS bigint
LANGUAGE C STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_watermark() IS
'Position up to which cdi.events is complete for this snapshot: no row at or below it can still appear. Incremental readers go up to it.';

CREATE OR REPLACE FUNCTION cdi_advance_watermark()
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_advance_watermark() IS
'Moves the watermark as far as transactions in progress allow and returns it. The keeper worker does this after every commit; without workers call it before incremental reads.';
