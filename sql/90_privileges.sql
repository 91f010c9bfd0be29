-- The one place where privileges are set.
CREATE OR REPLACE FUNCTION cdi._grant_storage()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
END
$$;
COMMENT ON FUNCTION cdi._grant_storage() IS 'Internal: privileges on the data.';
