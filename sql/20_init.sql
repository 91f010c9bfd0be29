-- Storage: everything that holds customer data or grows.  It is made by
-- cdi_init() after CREATE EXTENSION and is therefore no member of the
-- extension: dumps carry it, DROP EXTENSION refuses while it exists.

-- Storage version that this version of cdi writes.  The library accepts
-- events into this version and the one before (src/ingest/store.c).
CREATE OR REPLACE FUNCTION cdi._storage_version()
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS 'SELECT 2';

COMMENT ON FUNCTION cdi._storage_version() IS 'Internal: storage version that this version of cdi writes.';

-- Version 1: the spine.  Later versions only add to it, each in a function of
-- its own, and a fresh installation runs them all: so old and new end alike.
CREATE OR REPLACE FUNCTION cdi._create_storage_1()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    slot integer;
BEGIN
    CREATE TABLE cdi.storage (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        version integer NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    );
    COMMENT ON TABLE cdi.storage IS 'Version of the storage that cdi_init() made.';

    CREATE SEQUENCE cdi.event_position;
    COMMENT ON SEQUENCE cdi.event_position IS 'Positions of events and outbox rows. Advanced only by cdi, under the lock that cdi_watermark() rests on.';

    CREATE TABLE cdi.watermark (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        position bigint NOT NULL,
        advanced_at timestamptz NOT NULL
    ) WITH (fillfactor = 10);
    INSERT INTO cdi.watermark (position, advanced_at) VALUES (0, now());
    COMMENT ON TABLE cdi.watermark IS 'No event at or below this position can still appear. Read it through cdi_watermark().';

    CREATE TABLE cdi.events (
        received_at timestamptz NOT NULL,
        "timestamp" timestamptz NOT NULL,
        original_timestamp timestamptz,
        sent_at timestamptz,
        position bigint NOT NULL,
        event_id uuid NOT NULL,
        subject uuid,
        source_id integer NOT NULL,
        type text NOT NULL,
        event text,
        category text,
        message_id text NOT NULL,
        user_id text,
        anonymous_id text,
        group_id text,
        previous_id text,
        campaign_source text,
        campaign_medium text,
        campaign_name text,
        campaign_term text,
        campaign_content text,
        click_id_type text,
        referrer_host text,
        properties jsonb,
        traits jsonb,
        context jsonb,
        extra jsonb
    ) PARTITION BY RANGE (received_at);
    CREATE INDEX events_brin ON cdi.events USING brin ("timestamp", position) WITH (pages_per_range = 32);
    COMMENT ON TABLE cdi.events IS 'Every stored event, once per source and message id. Rows never change.';
    COMMENT ON COLUMN cdi.events.received_at IS 'When cdi received the event; the partition key.';
    COMMENT ON COLUMN cdi.events."timestamp" IS 'When it happened: received_at - (sent_at - original_timestamp), which removes the error of the device''s clock.';
    COMMENT ON COLUMN cdi.events.original_timestamp IS 'When it happened by the device''s clock.';
    COMMENT ON COLUMN cdi.events.sent_at IS 'When the SDK sent it, by the device''s clock.';
    COMMENT ON COLUMN cdi.events.position IS 'Order of arrival, with gaps. Incremental readers go up to cdi_watermark().';
    COMMENT ON COLUMN cdi.events.event_id IS '128-bit key of (source, message id).';
    COMMENT ON COLUMN cdi.events.subject IS 'Key of the event''s first usable identifier; cdi.identity_map leads from it to the person.';
    COMMENT ON COLUMN cdi.events.type IS 'track, identify, page, screen, group or alias.';
    COMMENT ON COLUMN cdi.events.event IS 'Name of a tracked event, page or screen.';
    COMMENT ON COLUMN cdi.events.click_id_type IS 'Name of the advertising click id in the page''s address: gclid, fbclid, msclkid, ...';
    COMMENT ON COLUMN cdi.events.extra IS 'Top-level members of the call that have no column of their own.';

    CREATE TABLE cdi.events_default PARTITION OF cdi.events DEFAULT;
    COMMENT ON TABLE cdi.events_default IS 'A trap: rows whose month had no partition yet. They move when it is made.';

    -- Dedupe: four generations of message keys, the current one written, all read.
    CREATE TABLE cdi.message_generations (
        slot integer PRIMARY KEY,
        current boolean NOT NULL,
        since timestamptz NOT NULL
    );
    CREATE UNIQUE INDEX message_generations_current ON cdi.message_generations (current) WHERE current;
    COMMENT ON TABLE cdi.message_generations IS 'Generations of message keys; writers of events lock this table, so that a rotation sees them all.';
    FOR slot IN 0..3 LOOP
        EXECUTE format('CREATE TABLE cdi.message_keys_%s (key uuid NOT NULL PRIMARY KEY)', slot);
        EXECUTE format('COMMENT ON TABLE cdi.message_keys_%s IS %L', slot,
            '128-bit keys of (source, message id) stored within the dedupe window.');
        INSERT INTO cdi.message_generations (slot, current, since) VALUES (slot, slot = 0, now());
    END LOOP;

    CREATE TABLE cdi.failed_events (
        failed_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        received_at timestamptz NOT NULL,
        source_id integer NOT NULL,
        stage text NOT NULL,
        sqlstate text NOT NULL,
        message text NOT NULL,
        detail text,
        hint text,
        attempts integer NOT NULL DEFAULT 1,
        payload bytea NOT NULL,
        envelope jsonb
    );
    COMMENT ON TABLE cdi.failed_events IS 'Events that could not be stored, with the stage and reason and their bytes as they came. cdi_replay() tries them again.';

    CREATE TABLE cdi.pipeline_deltas (
        source_id integer NOT NULL,
        hour timestamptz NOT NULL,
        received bigint NOT NULL DEFAULT 0,
        stored bigint NOT NULL DEFAULT 0,
        duplicate bigint NOT NULL DEFAULT 0,
        failed bigint NOT NULL DEFAULT 0,
        withheld bigint NOT NULL DEFAULT 0
    );
    COMMENT ON TABLE cdi.pipeline_deltas IS 'Insert-only changes of the pipeline''s counters. Read cdi.pipeline_counts.';

    -- Identity
    CREATE TABLE cdi.identity_links (
        position bigint PRIMARY KEY,
        event_id uuid NOT NULL,
        linked_at timestamptz NOT NULL,
        rule text NOT NULL,
        identifiers uuid[] NOT NULL,
        types text[] NOT NULL,
        "values" text[] NOT NULL,
        traits jsonb
    );
    COMMENT ON TABLE cdi.identity_links IS 'Evidence: the identifiers that one event carried, in order of priority, with the traits it set. A link of one identifier names a person, a link of several unites them.';
    COMMENT ON COLUMN cdi.identity_links.rule IS 'What produced the link: the type of the call.';
END
$$;
COMMENT ON FUNCTION cdi._create_storage_1() IS 'Internal: tables of the spine.';

-- Version 2: people, activation, and the page's own host, which tells a
-- referrer within the site from one outside.
CREATE OR REPLACE FUNCTION cdi._create_storage_2()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    slot integer;
BEGIN
    COMMENT ON SEQUENCE cdi.event_position IS 'Positions of events. Advanced only by cdi, under the lock that cdi_watermark() rests on.';
    -- Before cdi.events: writers lock in this order.  A generation that is the
    -- current one has no filter, or keys that are added would be missed.
    ALTER TABLE cdi.message_generations
        ADD COLUMN filter_pages integer,
        ADD COLUMN key_pages integer,
        ADD CONSTRAINT message_generations_filter CHECK (NOT (current AND filter_pages IS NOT NULL));
    COMMENT ON COLUMN cdi.message_generations.filter_pages IS 'Pages of cdi.message_filter_SLOT; null where the generation has no filter.';
    COMMENT ON COLUMN cdi.message_generations.key_pages IS 'Pages that cdi.message_keys_SLOT had when the filter was made: with another size it is not used.';
    FOR slot IN 0..3 LOOP
        EXECUTE format('CREATE TABLE cdi.message_filter_%s (page integer NOT NULL, bits bytea NOT NULL)', slot);
        EXECUTE format('ALTER TABLE cdi.message_filter_%s ALTER COLUMN bits SET STORAGE PLAIN', slot);
        EXECUTE format('COMMENT ON TABLE cdi.message_filter_%s IS %L', slot,
            format('Bloom filter over cdi.message_keys_%s, made when the generation ended. It only saves look-ups: empty, it is made anew.', slot));
    END LOOP;

    ALTER TABLE cdi.events ADD COLUMN page_host text;
    COMMENT ON COLUMN cdi.events.page_host IS 'Host of the page''s own address.';
    CREATE INDEX events_position ON cdi.events (position);

    CREATE TABLE cdi.original_requests (
        received_at timestamptz NOT NULL,
        source_id integer NOT NULL,
        method text NOT NULL,
        path text NOT NULL,
        query text,
        content_type text,
        content_encoding text,
        body bytea NOT NULL,
        event_ids uuid[] NOT NULL
    ) PARTITION BY RANGE (received_at);
    CREATE TABLE cdi.original_requests_default PARTITION OF cdi.original_requests DEFAULT;
    COMMENT ON TABLE cdi.original_requests IS 'Requests as they came, of the sources that keep_original was set for (cdi_alter_source). They have whatever the client sent, its write key included.';
    COMMENT ON COLUMN cdi.original_requests.query IS 'What followed the question mark, as sent.';
    COMMENT ON COLUMN cdi.original_requests.body IS 'The bytes as sent, not decompressed.';
    COMMENT ON COLUMN cdi.original_requests.event_ids IS 'Events of the request that were stored or known already, in their order: cdi.events.event_id.';

    INSERT INTO cdi.conversions (name, event, value_property) VALUES ('order', 'Order Completed', 'revenue') ON CONFLICT DO NOTHING;

    CREATE TABLE cdi.imports (
        import_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        name text UNIQUE,
        source_id integer NOT NULL,
        history boolean NOT NULL,
        lines bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0,
        stored bigint NOT NULL DEFAULT 0,
        duplicate bigint NOT NULL DEFAULT 0,
        failed bigint NOT NULL DEFAULT 0,
        withheld bigint NOT NULL DEFAULT 0,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        is_file boolean NOT NULL,
        file text,
        file_offset bigint NOT NULL DEFAULT 0,
        file_crc bigint NOT NULL DEFAULT 0,
        finished_at timestamptz
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE cdi.imports IS 'Bulk imports and how far they are. Lines up to "lines" are done and are skipped when they come again.';
    COMMENT ON COLUMN cdi.imports.name IS 'Name by which it is resumed; null for an import that cannot be.';
    COMMENT ON COLUMN cdi.imports.lines IS 'Lines done, blank ones included.';
    COMMENT ON COLUMN cdi.imports.bytes IS 'Bytes of these lines, decompressed, with one for each line''s end.';
    COMMENT ON COLUMN cdi.imports.is_file IS 'Whether cdi_import() reads it from a file of the server.';
    COMMENT ON COLUMN cdi.imports.file_offset IS 'Where in the file, decompressed, the next line begins.';
    COMMENT ON COLUMN cdi.imports.file_crc IS 'CRC-32C of the file''s content before file_offset: a file that differs is not read on.';
    COMMENT ON COLUMN cdi.imports.finished_at IS 'When the end of the file was reached. Of a stream nobody knows its end.';

    PERFORM cdi._create_storage_2_identity();
    PERFORM cdi._create_storage_2_spend();

    -- Activation
    CREATE SEQUENCE cdi.outbox_position;
    COMMENT ON SEQUENCE cdi.outbox_position IS 'Positions of outbox rows. Those of one sync are taken under its lock, so they become visible in their order.';

    CREATE TABLE cdi.outbox (
        position bigint NOT NULL,
        queued_at timestamptz NOT NULL,
        sync_id integer NOT NULL,
        run_id bigint NOT NULL,
        operation text NOT NULL,
        primary_key text NOT NULL,
        hash uuid NOT NULL,
        idempotency_key uuid NOT NULL,
        payload jsonb NOT NULL,
        row_hash uuid
    ) PARTITION BY RANGE (queued_at);
    CREATE INDEX outbox_sync ON cdi.outbox (sync_id, position);
    CREATE TABLE cdi.outbox_default PARTITION OF cdi.outbox DEFAULT;
    COMMENT ON TABLE cdi.outbox IS 'Rows to push, insert-only. The push worker reads those of each sync by position.';
    COMMENT ON COLUMN cdi.outbox.operation IS 'insert, update or delete; a delete carries the last payload.';
    COMMENT ON COLUMN cdi.outbox.hash IS 'SHA-256 over the columns, cut to 128 bits.';
    COMMENT ON COLUMN cdi.outbox.idempotency_key IS 'Hash of sync, primary key, operation, payload and the position at which the row was queued first. It stays the same however often the row is sent, and differs when the row comes back to a former state.';

    CREATE TABLE cdi.push_cursor (
        sync_id integer PRIMARY KEY,
        position bigint NOT NULL
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE cdi.push_cursor IS 'Position up to which every outbox row of a sync has ended: acknowledged or recorded as failed. Of an event stream, a position of cdi.events.';

    CREATE TABLE cdi.push_waits (
        sync_id integer PRIMARY KEY,
        since timestamptz NOT NULL,
        reason text NOT NULL
    );
    COMMENT ON TABLE cdi.push_waits IS 'Syncs that the push worker holds up because another transaction has changed rows that it must write, and stays open. Written by the push worker alone; a row goes when its sync goes on.';

    CREATE TABLE cdi.event_stream_counts (
        sync_id integer PRIMARY KEY,
        matched bigint NOT NULL DEFAULT 0,
        withheld bigint NOT NULL DEFAULT 0,
        sampled_out bigint NOT NULL DEFAULT 0,
        skipped bigint NOT NULL DEFAULT 0,
        ok bigint NOT NULL DEFAULT 0,
        rejected bigint NOT NULL DEFAULT 0,
        retryable bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE cdi.event_stream_counts IS 'What became of the events of each stream up to its cursor, counted in the transactions that move it. Read cdi.stat_event_streams.';

    CREATE TABLE cdi.sync_runs (
        run_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        sync_id integer NOT NULL,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        queried bigint NOT NULL DEFAULT 0,
        added bigint NOT NULL DEFAULT 0,
        changed bigint NOT NULL DEFAULT 0,
        removed bigint NOT NULL DEFAULT 0,
        unchanged bigint NOT NULL DEFAULT 0,
        invalid bigint NOT NULL DEFAULT 0,
        queued bigint NOT NULL DEFAULT 0,
        attempted bigint NOT NULL DEFAULT 0,
        ok bigint NOT NULL DEFAULT 0,
        rejected bigint NOT NULL DEFAULT 0,
        retryable bigint NOT NULL DEFAULT 0,
        error text
    );
    CREATE INDEX sync_runs_sync ON cdi.sync_runs (sync_id, run_id);
    COMMENT ON TABLE cdi.sync_runs IS 'One row per run of a sync: queried = added + changed + removed + unchanged + invalid, and attempted = ok + rejected + retryable.';
    COMMENT ON COLUMN cdi.sync_runs.error IS 'Why a scheduled run could not happen; it has queued nothing.';
    COMMENT ON COLUMN cdi.sync_runs.queried IS 'Rows that the model returned, and those that it no longer returns.';
    COMMENT ON COLUMN cdi.sync_runs.attempted IS 'Rows of this run that were sent, each time that they were: ok were accepted, rejected were not and will not be sent again, retryable will.';
    COMMENT ON COLUMN cdi.sync_runs.invalid IS 'Rows whose primary key is null, longer than 512 bytes, or shared with another row. They are never sent.';
    COMMENT ON COLUMN cdi.sync_runs.queued IS 'Rows put into the outbox: added, changed and removed, as far as the action serves them.';

    CREATE TABLE cdi.sync_rows (
        sync_id integer NOT NULL,
        primary_key text NOT NULL,
        hash uuid NOT NULL,
        payload jsonb NOT NULL,
        acknowledged_at timestamptz NOT NULL,
        row_hash uuid,
        PRIMARY KEY (sync_id, primary_key)
    );
    COMMENT ON COLUMN cdi.sync_rows.row_hash IS 'Keyed hash over the columns of the model''s row from which the payload was made; null where it is not known.';
    COMMENT ON TABLE cdi.sync_rows IS 'What each destination has acknowledged: the state that syncs diff against.';

    CREATE TABLE cdi.deliveries (
        delivery_id bigint GENERATED BY DEFAULT AS IDENTITY,
        sent_at timestamptz NOT NULL,
        sync_id integer NOT NULL,
        destination_id integer NOT NULL,
        attempt integer NOT NULL,
        rows integer NOT NULL,
        accepted integer NOT NULL,
        primary_keys text[] NOT NULL,
        status integer,
        class text NOT NULL,
        error text,
        milliseconds double precision,
        idempotency_key text NOT NULL,
        kind text NOT NULL DEFAULT 'request' CHECK (kind IN ('request', 'record'))
    ) PARTITION BY RANGE (sent_at);
    CREATE TABLE cdi.deliveries_default PARTITION OF cdi.deliveries DEFAULT;
    CREATE INDEX deliveries_brin ON cdi.deliveries USING brin (sent_at);
    COMMENT ON TABLE cdi.deliveries IS 'One row per request that was sent to a destination, with its keys and its outcome, and one per record of it that was not accepted.';
    COMMENT ON COLUMN cdi.deliveries.kind IS 'request, or record: one row that was not accepted, whose "rows" and "accepted" are 0 because its request counts it.';
    COMMENT ON COLUMN cdi.deliveries.class IS 'ok; rejected; split (too large, or one row of several is bad: sent again in halves); retryable; throttled; auth (the destination''s settings are at fault: it pauses, no row loses an attempt).';
    COMMENT ON COLUMN cdi.deliveries.status IS 'HTTP status; null where there was no answer.';

    CREATE TABLE cdi.destination_pauses (
        destination_id integer PRIMARY KEY,
        since timestamptz NOT NULL,
        reason text NOT NULL,
        failures integer NOT NULL DEFAULT 0,
        next_try_at timestamptz
    );
    COMMENT ON TABLE cdi.destination_pauses IS 'Destinations that the push worker holds back, and why: their settings are at fault, or they have failed several times in a row. They are tried again at next_try_at, and at once after cdi_alter_destination(); the row goes when something is accepted.';
    COMMENT ON COLUMN cdi.destination_pauses.failures IS 'Requests that failed in a row, for no fault of the settings. From the fifth on the circuit is open: one request at a time.';

    CREATE TABLE cdi.failed_deliveries (
        position bigint NOT NULL,
        failed_at timestamptz NOT NULL,
        sync_id integer NOT NULL,
        run_id bigint NOT NULL,
        operation text NOT NULL,
        primary_key text NOT NULL,
        hash uuid NOT NULL,
        idempotency_key uuid NOT NULL,
        payload jsonb NOT NULL,
        class text NOT NULL,
        status integer,
        error text,
        attempts integer NOT NULL,
        replay boolean NOT NULL DEFAULT false,
        row_hash uuid,
        PRIMARY KEY (position, sync_id),
        UNIQUE (sync_id, primary_key)
    );
    CREATE INDEX failed_deliveries_replay ON cdi.failed_deliveries (sync_id) WHERE replay;
    COMMENT ON COLUMN cdi.failed_deliveries.position IS 'Of the outbox; of an event stream, the event''s.';
    COMMENT ON COLUMN cdi.failed_deliveries.replay IS 'Of an event: it is to be sent once more, and leaves when it is accepted.';
    COMMENT ON TABLE cdi.failed_deliveries IS 'Dead letters: rows that a destination rejected, that ran out of retries, or that could not be mapped; at most one per sync and primary key. A row leaves when a later one of its key is delivered.';
    COMMENT ON COLUMN cdi.failed_deliveries.class IS 'rejected, retryable or throttled (ran out of attempts), or invalid (the mapping found no value that the destination requires).';

    CREATE TABLE cdi.armed (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        armed boolean NOT NULL,
        system_identifier bigint NOT NULL,
        database_oid oid NOT NULL,
        control_file text NOT NULL,
        armed_at timestamptz NOT NULL,
        armed_by name NOT NULL
    );
    COMMENT ON TABLE cdi.armed IS 'The installation that may push. A copy of the database differs in one of the three and stays silent until cdi_arm().';
    COMMENT ON COLUMN cdi.armed.control_file IS 'Inode and time of birth of the cluster''s control file: a copy of the files has others.';
END
$$;
COMMENT ON FUNCTION cdi._create_storage_2() IS 'Internal: what storage version 2 adds.';

-- Make the partition that holds the given time, and move the rows there that
-- the default partition caught.  What is dropped when it is old has one per day
-- (UTC), other tables one per month.  Returns false where a lock could not be had
-- soon; the caller tries again later.
CREATE OR REPLACE FUNCTION cdi._ensure_partition(parent text, at timestamptz)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
SET TimeZone = 'UTC'
AS $$
DECLARE
    daily boolean := parent IN ('outbox', 'deliveries');
    lower_bound timestamptz := date_trunc(CASE WHEN daily THEN 'day' ELSE 'month' END, at);
    upper_bound timestamptz := lower_bound + CASE WHEN daily THEN interval '1 day' ELSE interval '1 month' END;
    partition_name text := parent || to_char(at, CASE WHEN daily THEN '_YYYY_MM_DD' ELSE '_YYYY_MM' END);
    key_column text := CASE WHEN parent IN ('events', 'original_requests') THEN 'received_at' WHEN parent = 'outbox' THEN 'queued_at' ELSE 'sent_at' END;
BEGIN
    IF to_regclass(format('cdi.%I', partition_name)) IS NOT NULL THEN
        RETURN true;
    END IF;
    BEGIN
        EXECUTE format('CREATE TABLE cdi.%I (LIKE cdi.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', partition_name, parent);
        EXECUTE format('ALTER TABLE cdi.%I ADD CONSTRAINT range CHECK (%I >= %L AND %I < %L)',
            partition_name, key_column, lower_bound, key_column, upper_bound);
        -- Locks in the order in which a reader takes them: parent, then default.
        EXECUTE format('LOCK TABLE ONLY cdi.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
        EXECUTE format('LOCK TABLE cdi.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
        EXECUTE format('WITH moved AS (DELETE FROM cdi.%I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO cdi.%I SELECT * FROM moved',
            parent || '_default', key_column, lower_bound, key_column, upper_bound, partition_name);
        EXECUTE format('ALTER TABLE cdi.%I ATTACH PARTITION cdi.%I FOR VALUES FROM (%L) TO (%L)',
            parent, partition_name, lower_bound, upper_bound);
        EXECUTE format('ALTER TABLE cdi.%I DROP CONSTRAINT range', partition_name);
    EXCEPTION
        WHEN lock_not_available OR object_in_use THEN
            RETURN false;
        WHEN duplicate_table THEN
            RETURN true;
    END;
    RETURN true;
END
$$;
COMMENT ON FUNCTION cdi._ensure_partition(text, timestamptz) IS 'Internal: make the partition that holds a time: a month of cdi.events or cdi.original_requests, a day of cdi.outbox or cdi.deliveries.';

-- Partitions for now and 30 days ahead, three where they are daily, and for what
-- the default partitions caught.
CREATE OR REPLACE FUNCTION cdi._ensure_partitions()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    parent text;
    at timestamptz;
    done boolean := true;
BEGIN
    FOREACH parent IN ARRAY ARRAY['events', 'original_requests'] LOOP
        done := cdi._ensure_partition(parent, now()) AND done;
        done := cdi._ensure_partition(parent, now() + interval '30 days') AND done;
    END LOOP;
    FOREACH parent IN ARRAY ARRAY['outbox', 'deliveries'] LOOP
        FOR at IN SELECT now() + n * interval '1 day' FROM generate_series(0, 3) n LOOP
            done := cdi._ensure_partition(parent, at) AND done;
        END LOOP;
    END LOOP;
    FOR at IN SELECT DISTINCT date_trunc('day', queued_at) FROM cdi.outbox_default LOOP
        done := cdi._ensure_partition('outbox', at) AND done;
    END LOOP;
    FOR at IN SELECT DISTINCT date_trunc('day', sent_at) FROM cdi.deliveries_default LOOP
        done := cdi._ensure_partition('deliveries', at) AND done;
    END LOOP;
    FOR at IN SELECT DISTINCT date_trunc('month', received_at) FROM cdi.events_default LOOP
        done := cdi._ensure_partition('events', at) AND done;
    END LOOP;
    RETURN done;
END
$$;
COMMENT ON FUNCTION cdi._ensure_partitions() IS 'Internal: partitions for the time to come and for rows in default partitions.';

-- Drop one daily partition that is too old, unless the push worker still needs a
-- row of it.  Returns false where a lock could not be had soon.
CREATE OR REPLACE FUNCTION cdi._drop_partition(parent text, name text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
    needed boolean := false;
    -- Dead letters have all that a replay needs in a table of their own.
    waiting text := format('SELECT EXISTS (SELECT FROM cdi.syncs s LEFT JOIN cdi.push_cursor c USING (sync_id)'
        ' WHERE EXISTS (SELECT FROM cdi.%I o WHERE o.sync_id = s.sync_id AND o.position > coalesce(c.position, 0)))', name);
BEGIN
    IF parent = 'outbox' THEN
        EXECUTE waiting INTO needed;
    END IF;
    IF needed THEN
        RETURN true;
    END IF;
    BEGIN
        -- In the order in which a reader takes them.
        EXECUTE format('LOCK TABLE ONLY cdi.%I IN ACCESS EXCLUSIVE MODE', parent);
        EXECUTE format('LOCK TABLE cdi.%I IN ACCESS EXCLUSIVE MODE', name);
        -- A transaction that began long ago may have queued some meanwhile.
        IF parent = 'outbox' THEN
            EXECUTE waiting INTO needed;
        END IF;
        IF NOT needed THEN
            EXECUTE format('DROP TABLE cdi.%I', name);
        END IF;
    EXCEPTION
        WHEN lock_not_available OR object_in_use THEN
            RETURN false;
    END;
    RETURN true;
END
$$;
COMMENT ON FUNCTION cdi._drop_partition(text, text) IS 'Internal: drop an old partition of cdi.outbox or cdi.deliveries, unless rows of it have not ended.';

-- What cdi.activate_outbox_retention and cdi.activate_deliveries_retention say.
CREATE OR REPLACE FUNCTION cdi._drop_expired()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    outbox_until timestamptz := now() - nullif(current_setting('cdi.activate_outbox_retention'), '-1')::interval;
    deliveries_until timestamptz := now() - nullif(current_setting('cdi.activate_deliveries_retention'), '-1')::interval;
    parent text;
    until timestamptz;
    name text;
    done boolean := true;
BEGIN
    FOR parent, until IN VALUES ('outbox', outbox_until), ('deliveries', deliveries_until) LOOP
        FOR name IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = format('cdi.%I', parent)::regclass
              AND c.relname ~ ('^' || parent || '_[0-9]{4,}_[0-9]{2}_[0-9]{2}$')
              AND to_date(substr(c.relname, length(parent) + 2), 'YYYY_MM_DD') + 1 <= until
            ORDER BY 1
        LOOP
            done := cdi._drop_partition(parent, name) AND done;
        END LOOP;
    END LOOP;
    -- The newest of each sync stays, and those of which rows are under way or dead.
    DELETE FROM cdi.sync_runs r
    WHERE r.started_at < deliveries_until
      AND r.run_id < (SELECT max(n.run_id) FROM cdi.sync_runs n WHERE n.sync_id = r.sync_id)
      AND r.started_at < coalesce((SELECT o.queued_at FROM cdi.outbox o LEFT JOIN cdi.push_cursor c USING (sync_id)
                                   WHERE o.sync_id = r.sync_id AND o.position > coalesce(c.position, 0)
                                   ORDER BY o.position LIMIT 1) - interval '1 day', now())
      AND NOT EXISTS (SELECT FROM cdi.failed_deliveries f WHERE f.run_id = r.run_id);
    RETURN done;
END
$$;
COMMENT ON FUNCTION cdi._drop_expired() IS 'Internal: drop partitions of cdi.outbox and cdi.deliveries that are past their retention, and delete old runs.';

CREATE OR REPLACE FUNCTION cdi_init()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    highest bigint;
    last bigint;
    version integer;
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'cdi needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = format('Encoding of this database is %s.', current_setting('server_encoding')),
                  HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    -- One initialisation at a time.
    PERFORM pg_advisory_xact_lock(x'cd10'::int, 0);

    IF to_regclass('cdi.storage') IS NULL THEN
        version := 0;
    ELSE
        SELECT s.version INTO version FROM cdi.storage s;
    END IF;
    IF version > cdi._storage_version() THEN
        RAISE EXCEPTION 'storage has version %, this cdi knows up to version %', version, cdi._storage_version()
            USING ERRCODE = 'ZC002', HINT = 'Install the newer package and run ALTER EXTENSION cdi UPDATE.';
    END IF;
    FOR version IN version + 1 .. cdi._storage_version() LOOP
        EXECUTE format('SELECT cdi._create_storage_%s()', version);
    END LOOP;
    INSERT INTO cdi.storage (version) VALUES (cdi._storage_version())
        ON CONFLICT (only_row) DO UPDATE SET version = excluded.version WHERE storage.version <> excluded.version;

    INSERT INTO cdi.identity_key (key) SELECT cdi._random_bytes(32)
        WHERE NOT EXISTS (SELECT FROM cdi.identity_key);
    INSERT INTO cdi.sources (name) SELECT 'sql'
        WHERE NOT EXISTS (SELECT FROM cdi.sources WHERE name = 'sql');
    PERFORM cdi._add_identifier_types();
    PERFORM cdi._add_channels();
    INSERT INTO cdi.session_settings DEFAULT VALUES ON CONFLICT DO NOTHING;

    -- A restore may bring rows beyond the sequence's own state.
    SELECT last_value - (NOT is_called)::integer INTO last FROM cdi.event_position;
    SELECT greatest((SELECT max(position) FROM cdi.events WHERE position > last),   -- few blocks, by the BRIN index
                    (SELECT max(position) FROM cdi.identity_links), (SELECT max(watermark) FROM cdi.identity_runs),
                    (SELECT position FROM cdi.watermark), (SELECT position FROM cdi.computed_trait_cursor)) INTO highest;
    -- Writers draw from it meanwhile, and it must not go back behind them: what
    -- they wrote is above the value read first, but not above that of now.
    IF highest > (SELECT last_value - (NOT is_called)::integer FROM cdi.event_position) THEN
        PERFORM setval('cdi.event_position', highest);
    END IF;

    PERFORM cdi._ensure_partitions();
    PERFORM cdi._create_virtual_event_view();
    PERFORM cdi._create_views();
    PERFORM cdi._create_identity_views();
    PERFORM cdi._create_bi_views();
    PERFORM cdi._grant_storage();
    IF current_setting('cdi.enabled', true) IS DISTINCT FROM 'on' THEN
        EXECUTE format('ALTER DATABASE %I SET cdi.enabled = on', current_database());
        PERFORM set_config('cdi.enabled', 'on', false);
    END IF;
    PERFORM cdi._workers_wake();
END
$$;
COMMENT ON FUNCTION cdi_init() IS 'Creates or migrates the storage of cdi in this database, its partitions and views, and lets the workers start. Safe to run again at any time.';

CREATE OR REPLACE FUNCTION cdi_drop_data(confirm text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation record;
BEGIN
    IF confirm IS DISTINCT FROM current_database() THEN
        RAISE EXCEPTION 'cdi_drop_data() removes every event, person and delivery of this database'
            USING ERRCODE = 'ZC003',
                  HINT = format('If that is what you want: SELECT cdi_drop_data(%L).', current_database());
    END IF;
    -- They would lock the same tables in another order.
    PERFORM cdi._workers_stop();
    EXECUTE format('ALTER DATABASE %I RESET cdi.enabled', current_database());
    PERFORM set_config('cdi.enabled', 'off', false);
    PERFORM cdi._workers_wake();
    -- Whatever lives in the two schemas and is no member of the extension.
    FOR relation IN
        SELECT c.oid::regclass::text AS name,
               CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
        FROM pg_class c
        WHERE c.relnamespace IN ('cdi'::regnamespace, 'cdi_bi'::regnamespace)
          AND c.relkind IN ('v', 'r', 'p', 'S') AND NOT c.relispartition
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                          AND (d.deptype = 'e' OR (c.relkind = 'S' AND d.deptype IN ('i', 'a'))))
        ORDER BY c.relkind = 'v' DESC, c.oid DESC
    LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', relation.kind, relation.name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdi_drop_data(text) IS 'Removes all data of cdi from this database; configuration stays. Asks for the database''s name as confirmation.';
