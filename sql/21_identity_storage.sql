-- Storage of identities: see 20_init.sql for what storage is, src/identity for
-- who writes it.

CREATE OR REPLACE FUNCTION cdi._create_storage_2_identity()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER TABLE cdi.identity_links ADD COLUMN source_id integer, ADD COLUMN member uuid;
    COMMENT ON COLUMN cdi.identity_links.position IS 'Order in which links are folded. Of a link between persons'' identifiers: the event''s own position.';
    COMMENT ON COLUMN cdi.identity_links.source_id IS 'Source of the event.';
    COMMENT ON COLUMN cdi.identity_links.member IS 'Of a link between identifiers of an account or household: the subject of the event, who belongs to it.';
    -- Which links mention an identifier: what an unmerge, an erasure and an
    -- explanation start from.
    CREATE INDEX identity_links_identifiers ON cdi.identity_links USING gin (identifiers) WITH (gin_pending_list_limit = 64);

    CREATE INDEX identity_links_member ON cdi.identity_links (member) WHERE member IS NOT NULL;

    CREATE TABLE cdi.identity_map (
        identifier uuid NOT NULL,
        person_id uuid NOT NULL,
        fold bigint NOT NULL,
        position bigint NOT NULL,
        type_id smallint NOT NULL
    );
    -- Keys come in no order, which leaves pages 69 % full: in an index that was
    -- built fuller, new rows would soon split all pages at about the same time.
    ALTER TABLE cdi.identity_map ADD PRIMARY KEY (identifier) WITH (fillfactor = 70);
    CREATE INDEX identity_map_person ON cdi.identity_map (person_id, type_id, fold) WITH (fillfactor = 70);
    COMMENT ON TABLE cdi.identity_map IS 'Person of every identifier that was linked or named (account or household of those that identify one). A person''s id is the key of its first identifier; an identifier that is missing here is its own person.';
    COMMENT ON COLUMN cdi.identity_map.fold IS 'Number of the fold that first named the identifier. The person whose own identifier has the smallest fold survives a merge.';
    COMMENT ON COLUMN cdi.identity_map.position IS 'Link that first named the identifier: cdi.identity_links has its value there.';
    COMMENT ON COLUMN cdi.identity_map.type_id IS 'Type of the identifier: cdi.identifier_types.type_id; 0 where the link did not say.';

    CREATE TABLE cdi.identity_runs (
        run bigint PRIMARY KEY,
        first_fold bigint NOT NULL,
        links bigint NOT NULL,
        watermark bigint NOT NULL,
        resolved_at timestamptz NOT NULL,
        bulk boolean NOT NULL,
        identifiers bigint NOT NULL,
        merges bigint NOT NULL,
        memory bigint NOT NULL,
        unite_ms double precision NOT NULL,
        total_ms double precision NOT NULL,
        refused bigint NOT NULL DEFAULT 0,
        spilled boolean NOT NULL DEFAULT false
    );
    CREATE INDEX identity_runs_watermark ON cdi.identity_runs (watermark, run);
    CREATE INDEX identity_runs_brin ON cdi.identity_runs USING brin (resolved_at);
    COMMENT ON TABLE cdi.identity_runs IS 'Runs of cdi_resolve(). A run folds, in order of position, the visible links above the watermark of the run before that no earlier run folded ahead. One of no links: an unmerge, an erasure or a rebuild.';
    COMMENT ON COLUMN cdi.identity_runs.bulk IS 'Whether the run wrote a new map instead of changing the old one.';
    COMMENT ON COLUMN cdi.identity_runs.identifiers IS 'Identifiers that the run read or made.';
    COMMENT ON COLUMN cdi.identity_runs.memory IS 'Most bytes that the graph of the run took; of a spilled run, besides its sorts.';
    COMMENT ON COLUMN cdi.identity_runs.spilled IS 'Whether the run went through sorts on disk, because its graph would have taken more than maintenance_work_mem.';
    COMMENT ON COLUMN cdi.identity_runs.unite_ms IS 'Part of total_ms that went into finding keys and uniting components, reading and writing apart.';
    COMMENT ON COLUMN cdi.identity_runs.refused IS 'Identifiers that a limit set aside.';

    CREATE TABLE cdi.identity_ahead (
        position bigint PRIMARY KEY,
        run bigint NOT NULL
    );
    COMMENT ON TABLE cdi.identity_ahead IS 'Links that a run folded above its own watermark.';

    CREATE TABLE cdi.identity_rules (
        first_run bigint PRIMARY KEY,
        limits jsonb NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMENT ON TABLE cdi.identity_rules IS 'Limits of identifier types as they were from a run on: a rebuild goes by those of the time.';
    COMMENT ON COLUMN cdi.identity_rules.limits IS 'Per type_id: [max_per_person, limit_window in seconds or null].';

    CREATE TABLE cdi.identity_merge_log (
        merge_id bigint PRIMARY KEY,
        fold bigint,
        survivor uuid NOT NULL,
        absorbed uuid NOT NULL,
        position bigint NOT NULL,
        identifier uuid,
        merged_at timestamptz NOT NULL
    );
    CREATE INDEX identity_merge_log_absorbed ON cdi.identity_merge_log (absorbed);
    CREATE INDEX identity_merge_log_survivor ON cdi.identity_merge_log (survivor);
    CREATE INDEX identity_merge_log_position ON cdi.identity_merge_log (position);
    COMMENT ON TABLE cdi.identity_merge_log IS 'Which person was absorbed by which, in which fold and by the link at which position. Read cdi.identity_merges.';
    COMMENT ON COLUMN cdi.identity_merge_log.fold IS 'Number of the fold; null of a merge that came about by an unmerge or an erasure, whose merge_id is below zero.';
    COMMENT ON COLUMN cdi.identity_merge_log.identifier IS 'Identifier of the link that joined what the identifiers before it name; null: it was erased.';

    CREATE TABLE cdi.identity_refusals (
        refused_at timestamptz NOT NULL,
        position bigint,
        event_id uuid NOT NULL,
        type text NOT NULL,
        value text NOT NULL,
        identifier uuid,
        reason text NOT NULL,
        detail text,
        occurrences bigint NOT NULL DEFAULT 1
    );
    CREATE INDEX identity_refusals_brin ON cdi.identity_refusals USING brin (refused_at);
    CREATE INDEX identity_refusals_identifier ON cdi.identity_refusals (identifier) WHERE identifier IS NOT NULL;
    CREATE INDEX identity_refusals_value ON cdi.identity_refusals (lower(value));
    COMMENT ON TABLE cdi.identity_refusals IS 'Identifiers that were set aside instead of identifying or uniting anyone, and why.';
    COMMENT ON COLUMN cdi.identity_refusals.refused_at IS 'When the event happened.';
    COMMENT ON COLUMN cdi.identity_refusals.position IS 'Link that had it, where there is one.';
    COMMENT ON COLUMN cdi.identity_refusals.event_id IS 'Event that carried it; of several, the first.';
    COMMENT ON COLUMN cdi.identity_refusals.value IS 'The value, its first 64 bytes; empty of what was erased, and where there is none.';
    COMMENT ON COLUMN cdi.identity_refusals.identifier IS 'Its key, where it is a usable identifier.';
    COMMENT ON COLUMN cdi.identity_refusals.reason IS 'limit (a person would have too many of its type), blocked, malformed, too_long, too_many (identifiers on one event), unknown_type, normaliser_failed or erased.';
    COMMENT ON COLUMN cdi.identity_refusals.occurrences IS 'How many events of one batch the row stands for.';

    CREATE TABLE cdi.identity_revocations (
        revocation_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('link', 'event', 'merge', 'identifier', 'blocked')),
        position bigint,
        identifier uuid,
        until_run bigint,
        revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        revoked_by name NOT NULL,
        reason text,
        CHECK (position IS NOT NULL OR identifier IS NOT NULL AND until_run IS NOT NULL)
    );
    CREATE INDEX identity_revocations_position ON cdi.identity_revocations (position) WHERE position IS NOT NULL;
    CREATE INDEX identity_revocations_identifier ON cdi.identity_revocations (identifier) WHERE position IS NULL;
    COMMENT ON TABLE cdi.identity_revocations IS 'Evidence that counts no more (cdi_unmerge). What it says, for a position: the whole link, or one identifier of it. Without a position: the identifier, in every link folded up to until_run.';

    CREATE TABLE cdi.identity_splits (
        split_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        revocation_id bigint,
        split_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        person_id uuid NOT NULL,
        became uuid NOT NULL,
        identifiers bigint NOT NULL
    );
    CREATE INDEX identity_splits_person ON cdi.identity_splits (person_id);
    CREATE INDEX identity_splits_became ON cdi.identity_splits (became);
    COMMENT ON TABLE cdi.identity_splits IS 'Identifiers that an unmerge or an erasure moved to another person.';
    COMMENT ON COLUMN cdi.identity_splits.revocation_id IS 'The unmerge (cdi.identity_revocations); null for an erasure.';
    COMMENT ON COLUMN cdi.identity_splits.person_id IS 'Person that they belonged to.';
    COMMENT ON COLUMN cdi.identity_splits.became IS 'Person that they belong to since.';

    CREATE TABLE cdi.identity_tombstones (
        tombstone bytea PRIMARY KEY,
        erased_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMENT ON TABLE cdi.identity_tombstones IS 'Erased identifiers, as salted hashes: an event that brings one again identifies nobody by it.';
    COMMENT ON COLUMN cdi.identity_tombstones.tombstone IS 'HMAC-SHA-256 of the identifier''s key under a salt of its own, drawn from the installation''s key.';

    CREATE TABLE cdi.group_members (
        group_identifier uuid NOT NULL,
        member uuid NOT NULL,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        PRIMARY KEY (group_identifier, member)
    );
    CREATE INDEX group_members_member ON cdi.group_members (member);
    COMMENT ON TABLE cdi.group_members IS 'Which subject an event linked with which identifier of an account or household, kept by cdi_resolve(). Read cdi.account_members and cdi.household_members.';

    PERFORM cdi._create_storage_2_traits();
END
$$;
COMMENT ON FUNCTION cdi._create_storage_2_identity() IS 'Internal: what storage version 2 adds for identities.';
