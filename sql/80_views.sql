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

    CREATE OR REPLACE VIEW cdi.persons AS
    SELECT m.identifier AS person_id, l.linked_at AS named_at, i.identifiers, coalesce(t.traits, '{}') AS traits
    FROM cdi.identity_map m
    JOIN cdi.identity_links l USING (position)
    JOIN (SELECT person_id, count(*) AS identifiers FROM cdi.identity_map GROUP BY person_id) i
        ON i.person_id = m.identifier
    LEFT JOIN (SELECT person_id, jsonb_object_agg(trait, value) AS traits
               FROM (SELECT DISTINCT ON (n.person_id, v.trait) n.person_id, v.trait, v.value
                     FROM cdi.identifier_traits v JOIN cdi.identity_map n USING (identifier)
                     ORDER BY n.person_id, v.trait, v.set_at DESC, v.position DESC) latest
               GROUP BY person_id) t
        ON t.person_id = m.identifier
    WHERE m.person_id = m.identifier;
    COMMENT ON VIEW cdi.persons IS 'People, as of the last cdi_resolve(): one row per person that an identify call or a link between identifiers has named. An identifier seen only by itself is a person without a row here.';
    COMMENT ON COLUMN cdi.persons.person_id IS 'Id of the person: the key of its first identifier. It outlives merges with younger persons.';
    COMMENT ON COLUMN cdi.persons.named_at IS 'When the event happened that first named the person.';
    COMMENT ON COLUMN cdi.persons.identifiers IS 'How many identifiers are known to be this person''s.';
    COMMENT ON COLUMN cdi.persons.traits IS 'Latest value of every trait over all the person''s identifiers.';

    CREATE OR REPLACE VIEW cdi.person_identifiers AS
    SELECT m.person_id, k.type, k.value, l.linked_at AS first_linked_at, m.identifier
    FROM cdi.identity_map m
    JOIN cdi.identity_links l USING (position)
    JOIN LATERAL (SELECT u.type, u.value
                  FROM unnest(l.identifiers, l.types, l."values") AS u (identifier, type, value)
                  WHERE u.identifier = m.identifier LIMIT 1) k ON true;
    COMMENT ON VIEW cdi.person_identifiers IS 'Identifiers of every person, as of the last cdi_resolve().';
    COMMENT ON COLUMN cdi.person_identifiers.person_id IS 'Id of the person, as in cdi.persons.';
    COMMENT ON COLUMN cdi.person_identifiers.type IS 'Kind of identifier: user_id, email, anonymous_id, ...';
    COMMENT ON COLUMN cdi.person_identifiers.value IS 'The identifier, normalised.';
    COMMENT ON COLUMN cdi.person_identifiers.first_linked_at IS 'When the event happened that first named the identifier.';
    COMMENT ON COLUMN cdi.person_identifiers.identifier IS 'Its key: what cdi.events.subject holds.';
END
$$;
COMMENT ON FUNCTION cdi._create_views() IS 'Internal: views of schema cdi over the data.';
