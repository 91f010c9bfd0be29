-- Views for BI tools, schema cdi_bi.
CREATE OR REPLACE FUNCTION cdi._create_bi_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
END
$$;
COMMENT ON FUNCTION cdi._create_bi_views() IS 'Internal: views of schema cdi_bi.';
