-- Views over the identity graph's own records.

CREATE OR REPLACE FUNCTION cdi._create_identity_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE OR REPLACE VIEW cdi.identity_merges AS
    SELECT m.merge_id, m.merged_at, m.survivor, m.absorbed, l.event_id, l.rule, k.type, k.value, m.position, m.fold, m.identifier,
           (SELECT min(v.revoked_at) FROM cdi.identity_revocations v WHERE v.position = m.position) AS undone_at
    FROM cdi.identity_merge_log m
    LEFT JOIN cdi.identity_links l USING (position)
    LEFT JOIN LATERAL (SELECT u.type, u.value
                       FROM unnest(l.identifiers, l.types, l."values") AS u (identifier, type, value)
                       WHERE u.identifier = m.identifier LIMIT 1) k ON true;
    COMMENT ON VIEW cdi.identity_merges IS 'Which person was absorbed by which, when, by which event and rule.';
    COMMENT ON COLUMN cdi.identity_merges.merge_id IS 'Number of the merge, for cdi_unmerge().';
    COMMENT ON COLUMN cdi.identity_merges.merged_at IS 'When the event happened.';
    COMMENT ON COLUMN cdi.identity_merges.survivor IS 'The older person, whose id goes on.';
    COMMENT ON COLUMN cdi.identity_merges.absorbed IS 'The younger one, whose id leads to the survivor since.';
    COMMENT ON COLUMN cdi.identity_merges.event_id IS 'Event that linked the two.';
    COMMENT ON COLUMN cdi.identity_merges.rule IS 'What produced the link: the type of the call.';
    COMMENT ON COLUMN cdi.identity_merges.type IS 'Type of the identifier that joined what those before it name.';
    COMMENT ON COLUMN cdi.identity_merges.value IS 'Its value.';
    COMMENT ON COLUMN cdi.identity_merges.position IS 'Position of the link.';
    COMMENT ON COLUMN cdi.identity_merges.fold IS 'Number of the fold; null of a merge that came about when something was unmerged or erased, by a link that had been refused before or had united others.';
    COMMENT ON COLUMN cdi.identity_merges.identifier IS 'Key of the identifier; null, as type and value are: it was erased.';
    COMMENT ON COLUMN cdi.identity_merges.undone_at IS 'When the link was unmerged; null: it counts.';

    CREATE OR REPLACE VIEW cdi.identity_health AS
    WITH runs AS MATERIALIZED (
        SELECT run, first_fold, resolved_at, merges, refused FROM cdi.identity_runs WHERE resolved_at > now() - interval '7 days'
    ), recent AS MATERIALIZED (
        SELECT r.run, r.first_fold AS fold,
               coalesce((SELECT b.watermark FROM cdi.identity_runs b WHERE b.run < r.run ORDER BY b.run DESC LIMIT 1), 0) AS position
        FROM runs r WHERE r.resolved_at >= now() - interval '1 hour' ORDER BY r.run LIMIT 1
    ), sizes AS MATERIALIZED (
        SELECT person_id, count(*) AS identifiers, count(*) FILTER (WHERE fold >= (SELECT r.fold FROM recent r)) AS born
        FROM cdi.identity_map GROUP BY person_id
    ), largest AS MATERIALIZED (
        SELECT person_id, identifiers FROM sizes WHERE identifiers > 1 ORDER BY identifiers DESC, person_id LIMIT 10
    ), hours AS (
        SELECT date_trunc('hour', resolved_at) AS hour, sum(merges)::bigint AS merges, sum(refused)::bigint AS refused
        FROM runs GROUP BY 1
    ), usual AS (
        SELECT coalesce(sum(merges), 0) / (7 * 24 - 1) AS merges, coalesce(sum(refused), 0) / (7 * 24 - 1) AS refused
        FROM hours WHERE hour < date_trunc('hour', now())
    ), absorbed AS (
        -- of people who may have gained 20, persons of before that others took in
        SELECT array_agg(m.identifier) AS keys
        FROM recent r
        JOIN cdi.identity_merge_log g ON g.position > r.position
        JOIN cdi.identity_map m ON m.identifier = g.absorbed AND m.person_id <> m.identifier AND m.fold < r.fold
        JOIN sizes s ON s.person_id = m.person_id AND s.identifiers > 20
    ), brought AS (
        SELECT m.person_id, sum(b.identifiers)::bigint AS identifiers
        FROM recent r
        CROSS JOIN absorbed a
        CROSS JOIN LATERAL cdi._people_before(a.keys, r.run) b
        JOIN cdi.identity_map m ON m.identifier = b.person_id AND m.person_id <> m.identifier
        GROUP BY m.person_id
    ), grown AS (
        SELECT person_id, s.born + coalesce(b.identifiers, 0) AS gained
        FROM sizes s LEFT JOIN brought b USING (person_id)
        WHERE s.born + coalesce(b.identifiers, 0) >= 20 ORDER BY gained DESC, person_id LIMIT 10
    )
    SELECT 'size'::text AS section,
           CASE WHEN bucket = 0 THEN '1' ELSE format('%s-%s', 1 << bucket, (1 << (bucket + 1)) - 1) END AS item,
           sum(people)::bigint AS value, NULL::uuid AS person_id, false AS alarm,
           'people with so many identifiers'::text AS detail
    FROM (SELECT floor(log(2, identifiers))::integer AS bucket, people
          FROM (SELECT identifiers, count(*) AS people FROM sizes GROUP BY identifiers) s) b
    GROUP BY bucket
    UNION ALL
    SELECT 'largest', person_id::text, identifiers, person_id, false, 'identifiers of the person' FROM largest
    UNION ALL
    SELECT 'bridge', b.link::text, b.splits_off, l.person_id, false,
           format('identifiers that would leave the person without the link between %s', array_to_string(b.identifiers, ', '))
    FROM largest l CROSS JOIN LATERAL (SELECT * FROM @extschema@.cdi_identity_bridges(l.person_id, 2) LIMIT 5) b
    UNION ALL
    SELECT 'merges per hour', to_char(h.hour, 'YYYY-MM-DD HH24:00TZ'), h.merges, NULL,
           h.merges > 100 AND h.merges > 10 * u.merges,
           format('people absorbed; usual: %s', round(u.merges, 1))
    FROM hours h CROSS JOIN usual u WHERE h.hour > now() - interval '24 hours'
    UNION ALL
    SELECT 'refusals per hour', to_char(h.hour, 'YYYY-MM-DD HH24:00TZ'), h.refused, NULL,
           h.refused > 100 AND h.refused > 10 * u.refused,
           format('identifiers set aside by a limit; usual: %s', round(u.refused, 1))
    FROM hours h CROSS JOIN usual u WHERE h.hour > now() - interval '24 hours'
    UNION ALL
    SELECT 'growth', g.person_id::text, g.gained, g.person_id, true, 'identifiers that the person gained within the last hour, new ones and those of people it absorbed'
    FROM grown g;
    COMMENT ON VIEW cdi.identity_health IS 'How the identity graph is doing: people by size, the ten largest, links that alone hold one of these together (bridge), what was merged and refused per hour of the last day, and people that grew by 20 identifiers or more within an hour. Reads the whole map.';
    COMMENT ON COLUMN cdi.identity_health.section IS 'size, largest, bridge, merges per hour, refusals per hour or growth.';
    COMMENT ON COLUMN cdi.identity_health.item IS 'Of size: a range of numbers of identifiers; of largest and growth: the person; of a bridge: the position of the link, for cdi_unmerge(link => ...); otherwise the hour.';
    COMMENT ON COLUMN cdi.identity_health.value IS 'The number; detail says of what.';
    COMMENT ON COLUMN cdi.identity_health.person_id IS 'Person that the row is about.';
    COMMENT ON COLUMN cdi.identity_health.alarm IS 'Whether someone should look: growth within an hour, or more than 100 and ten times the usual (the average hour of the last seven days).';
    COMMENT ON COLUMN cdi.identity_health.detail IS 'What value counts.';
END
$$;
COMMENT ON FUNCTION cdi._create_identity_views() IS 'Internal: views over the identity graph.';
