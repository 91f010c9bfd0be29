-- Workers: see src/worker.
CREATE OR REPLACE FUNCTION cdi._workers_wake()
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_workers_wake';
COMMENT ON FUNCTION cdi._workers_wake() IS 'Internal: let the launcher look again which databases want workers, at commit.';
