-- Storage of traits: see 20_init.sql for what storage is, src/identity/traits.h
-- for who writes it.  Nothing here knows of persons: all is per identifier.

CREATE OR REPLACE FUNCTION cdi._create_storage_2_traits()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE TABLE cdi.identifier_traits (
        identifier uuid NOT NULL,
        trait text NOT NULL,
        source_id integer NOT NULL,
        value jsonb NOT NULL,
        set_at timestamptz NOT NULL,
        position bigint NOT NULL,
        truncated boolean NOT NULL DEFAULT false,
        PRIMARY KEY (identifier, trait, source_id)
    );
    COMMENT ON TABLE cdi.identifier_traits IS 'What each source has said of a trait of an identifier, reduced by the trait''s policy; kept by cdi_resolve(). Read cdi.person_traits.';
    COMMENT ON COLUMN cdi.identifier_traits.value IS 'The newest value (latest, source_priority), the oldest (first), the greatest (max), the smallest (min), or an array of all (union).';
    COMMENT ON COLUMN cdi.identifier_traits.set_at IS 'When the event happened that brought it; of a union, the newest.';
    COMMENT ON COLUMN cdi.identifier_traits.position IS 'Link of that event.';
    COMMENT ON COLUMN cdi.identifier_traits.truncated IS 'Of a union: whether there were more, or larger, values than are kept.';

    CREATE TABLE cdi.computed_trait_deltas (
        position bigint NOT NULL,
        trait_id integer NOT NULL,
        subject uuid NOT NULL,
        at timestamptz NOT NULL,
        number numeric,
        value jsonb
    );
    CREATE INDEX computed_trait_deltas_position ON cdi.computed_trait_deltas (position);
    COMMENT ON TABLE cdi.computed_trait_deltas IS 'What stored events add to computed traits, until cdi_resolve() folds it.';
    COMMENT ON COLUMN cdi.computed_trait_deltas.position IS 'The event''s.';
    COMMENT ON COLUMN cdi.computed_trait_deltas.at IS 'When the event happened.';
    COMMENT ON COLUMN cdi.computed_trait_deltas.number IS 'Of count 1, of sum, min and max the number. Neither number nor value: what the event has there cannot be used.';

    CREATE TABLE cdi.computed_trait_cursor (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        position bigint NOT NULL
    ) WITH (fillfactor = 10);
    INSERT INTO cdi.computed_trait_cursor (position) VALUES (0);
    COMMENT ON TABLE cdi.computed_trait_cursor IS 'Position up to which nothing is left to fold: where the next run begins to look.';

    CREATE TABLE cdi.computed_trait_backfills (
        trait_id integer PRIMARY KEY,
        until bigint NOT NULL,
        counted bigint NOT NULL DEFAULT 0,
        finished_at timestamptz
    );
    COMMENT ON TABLE cdi.computed_trait_backfills IS 'How far computed traits are with the events from before their declaration. A trait has values once it has finished.';
    COMMENT ON COLUMN cdi.computed_trait_backfills.until IS 'Events up to this position are counted from cdi.events, once the watermark has reached it; those above as they are stored.';
    COMMENT ON COLUMN cdi.computed_trait_backfills.counted IS 'Position up to which that is done.';

    CREATE TABLE cdi.computed_trait_values (
        subject uuid NOT NULL,
        trait_id integer NOT NULL,
        aggregate text NOT NULL,
        events bigint NOT NULL,
        skipped bigint NOT NULL,
        number numeric,
        value jsonb,
        at timestamptz,
        position bigint,
        PRIMARY KEY (subject, trait_id)
    ) WITH (fillfactor = 80);
    COMMENT ON TABLE cdi.computed_trait_values IS 'State of every computed trait but those of most_frequent per identifier, kept by cdi_resolve(). Read cdi.person_computed_traits.';
    COMMENT ON COLUMN cdi.computed_trait_values.subject IS 'The events'' subject.';
    COMMENT ON COLUMN cdi.computed_trait_values.events IS 'Events that count.';
    COMMENT ON COLUMN cdi.computed_trait_values.skipped IS 'Events with something there that is no number.';
    COMMENT ON COLUMN cdi.computed_trait_values.number IS 'Of sum, min and max.';
    COMMENT ON COLUMN cdi.computed_trait_values.value IS 'Of first and last, with time and position of its event.';

    CREATE TABLE cdi.computed_trait_counts (
        subject uuid NOT NULL,
        trait_id integer NOT NULL,
        value jsonb NOT NULL,
        events bigint NOT NULL,
        at timestamptz NOT NULL,
        position bigint NOT NULL,
        PRIMARY KEY (subject, trait_id, value)
    ) WITH (fillfactor = 80);
    COMMENT ON TABLE cdi.computed_trait_counts IS 'State of computed traits of most_frequent per identifier: how often each value came, and when last.';
    COMMENT ON COLUMN cdi.computed_trait_counts.value IS 'The value. A JSON null, which is none, counts the events that were skipped.';
END
$$;
COMMENT ON FUNCTION cdi._create_storage_2_traits() IS 'Internal: what storage version 2 adds for traits.';
