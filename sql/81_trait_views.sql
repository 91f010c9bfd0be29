-- Traits of persons: state of identifiers, combined over those that a person
-- has.  Called by cdi._create_views().  Conditions on person_id reach the
-- indexes, which cdi_person_traits() relies on (src/identity/person_traits.c).
CREATE OR REPLACE FUNCTION cdi._create_trait_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE OR REPLACE VIEW cdi.person_traits AS
    SELECT w.person_id, w.trait, w.value, w.policy, w.set_at, s.name AS source, l.event_id, w.position,
           l.types[array_position(l.identifiers, w.identifier)] AS identifier_type,
           l."values"[array_position(l.identifiers, w.identifier)] AS identifier_value,
           w.truncated
    FROM (
        (SELECT DISTINCT ON (m.person_id, t.trait)
             m.person_id, t.trait, t.value, coalesce(p.policy, 'latest') AS policy, t.set_at, t.source_id, t.position, t.identifier, t.truncated
         FROM cdi.identity_map m
         JOIN cdi.identifier_traits t ON t.identifier = m.identifier
         LEFT JOIN cdi.trait_policies p ON p.trait = t.trait
         WHERE p.policy IS DISTINCT FROM 'union'
         -- constant within a trait but for what its policy goes by
         ORDER BY m.person_id, t.trait,
                  CASE p.policy WHEN 'source_priority' THEN coalesce(array_position(p.sources, t.source_id), 2147483647) END,
                  CASE p.policy WHEN 'max' THEN t.value END DESC,
                  CASE p.policy WHEN 'min' THEN t.value END,
                  CASE WHEN p.policy IN ('first', 'max', 'min') THEN t.set_at END,
                  CASE WHEN p.policy IN ('first', 'max', 'min') THEN t.position END,
                  t.set_at DESC, t.position DESC)
        UNION ALL
        SELECT m.person_id, t.trait, coalesce(jsonb_agg(DISTINCT v.value) FILTER (WHERE v.value IS NOT NULL), '[]'), 'union', max(t.set_at),
               @extschema@.cdi_last(t.source_id, t.set_at, t.position), @extschema@.cdi_last(t.position, t.set_at, t.position),
               @extschema@.cdi_last(t.identifier, t.set_at, t.position), bool_or(t.truncated)
        FROM cdi.identity_map m
        JOIN cdi.identifier_traits t ON t.identifier = m.identifier
        JOIN cdi.trait_policies p ON p.trait = t.trait AND p.policy = 'union'
        LEFT JOIN LATERAL jsonb_array_elements(t.value) AS v (value) ON true
        GROUP BY m.person_id, t.trait) w
    LEFT JOIN cdi.identity_links l ON l.position = w.position
    LEFT JOIN cdi.sources s ON s.source_id = w.source_id;
    COMMENT ON VIEW cdi.person_traits IS 'Traits that calls set, one row per person and trait, by the trait''s policy, and where the value comes from. As of the last cdi_resolve().';
    COMMENT ON COLUMN cdi.person_traits.person_id IS 'Id of the person, as in cdi.persons; also of accounts and households.';
    COMMENT ON COLUMN cdi.person_traits.policy IS 'latest, or what cdi_set_trait_policy() says.';
    COMMENT ON COLUMN cdi.person_traits.set_at IS 'When the event happened that set the value; of a union, like the columns that follow, the newest of those that added to it.';
    COMMENT ON COLUMN cdi.person_traits.source IS 'Its source; null where that was deleted.';
    COMMENT ON COLUMN cdi.person_traits.event_id IS 'The event.';
    COMMENT ON COLUMN cdi.person_traits.position IS 'Its link: cdi.identity_links.';
    COMMENT ON COLUMN cdi.person_traits.identifier_type IS 'Kind of the identifier that the event set it for, its first.';
    COMMENT ON COLUMN cdi.person_traits.identifier_value IS 'That identifier.';
    COMMENT ON COLUMN cdi.person_traits.truncated IS 'Of a union: whether there were more, or larger, values than are kept.';

    CREATE OR REPLACE VIEW cdi.person_computed_traits AS
    SELECT x.person_id, c.name AS trait, x.value, c.aggregate, x.events, x.skipped
    FROM (
        SELECT v.person_id, v.trait_id,
               CASE v.aggregate
                   WHEN 'count' THEN to_jsonb(sum(v.events))
                   WHEN 'sum' THEN to_jsonb(sum(v.number))
                   WHEN 'min' THEN to_jsonb(min(v.number))
                   WHEN 'max' THEN to_jsonb(max(v.number))
                   WHEN 'first' THEN @extschema@.cdi_first(v.value, v.at, v.position)
                   WHEN 'last' THEN @extschema@.cdi_last(v.value, v.at, v.position)
               END AS value,
               sum(v.events)::bigint AS events, sum(v.skipped)::bigint AS skipped
        FROM (SELECT m.person_id, t.* FROM cdi.identity_map m JOIN cdi.computed_trait_values t ON t.subject = m.identifier
              UNION ALL
              SELECT t.subject, t.* FROM cdi.computed_trait_values t
              WHERE NOT EXISTS (SELECT FROM cdi.identity_map m WHERE m.identifier = t.subject)) v
        GROUP BY v.person_id, v.trait_id, v.aggregate
        UNION ALL
        (SELECT DISTINCT ON (f.person_id, f.trait_id) f.person_id, f.trait_id, nullif(f.value, 'null'), f.events, f.skipped
        FROM (SELECT v.person_id, v.trait_id, v.value, sum(v.events) AS times, max(v.at) AS at, max(v.position) AS position,
                     coalesce(sum(sum(v.events)) FILTER (WHERE v.value <> 'null') OVER w, 0)::bigint AS events,
                     coalesce(sum(sum(v.events)) FILTER (WHERE v.value = 'null') OVER w, 0)::bigint AS skipped
              FROM (SELECT m.person_id, t.* FROM cdi.identity_map m JOIN cdi.computed_trait_counts t ON t.subject = m.identifier
                    UNION ALL
                    SELECT t.subject, t.* FROM cdi.computed_trait_counts t
                    WHERE NOT EXISTS (SELECT FROM cdi.identity_map m WHERE m.identifier = t.subject)) v
              GROUP BY v.person_id, v.trait_id, v.value
              WINDOW w AS (PARTITION BY v.person_id, v.trait_id)) f
        ORDER BY f.person_id, f.trait_id, f.value = 'null', f.times DESC, f.at DESC, f.position DESC)) x
    JOIN cdi.computed_traits c ON c.trait_id = x.trait_id
    JOIN cdi.computed_trait_backfills b ON b.trait_id = x.trait_id AND b.finished_at IS NOT NULL;
    COMMENT ON VIEW cdi.person_computed_traits IS 'Computed traits, one row per person and trait that at least one event counts for, as of the last cdi_resolve(). Traits whose history is still being counted are missing.';
    COMMENT ON COLUMN cdi.person_computed_traits.person_id IS 'Id of the person. Anonymous identifiers that no link has named are persons, too.';
    COMMENT ON COLUMN cdi.person_computed_traits.value IS 'Over all the person''s identifiers; null where every event was skipped.';
    COMMENT ON COLUMN cdi.person_computed_traits.events IS 'Events that count.';
    COMMENT ON COLUMN cdi.person_computed_traits.skipped IS 'Events with something in that place which the aggregate cannot use, such as text for a sum.';
END
$$;
COMMENT ON FUNCTION cdi._create_trait_views() IS 'Internal: views of schema cdi over traits.';
