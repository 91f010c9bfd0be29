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
END
$$;
COMMENT ON FUNCTION cdi._create_views() IS 'Internal: views of schema cdi over the data.';
