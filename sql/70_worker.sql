-- Workers: see src/worker.
CREATE OR REPLACE FUNCTION cdi._workers_wake()
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_workers_wake';
COMMENT ON FUNCTION cdi._workers_wake() IS 'Internal: let the launcher look again which databases want workers, at commit.';

CREATE OR REPLACE FUNCTION cdi._workers_stop()
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_workers_stop';
COMMENT ON FUNCTION cdi._workers_stop() IS 'Internal: stop the workers of this database and keep them stopped until the transaction ends.';

CREATE OR REPLACE FUNCTION cdi._workers(
    OUT kind text, OUT number integer, OUT state text, OUT pid integer, OUT database name, OUT started_at timestamptz,
    OUT failures integer, OUT retry_at timestamptz, OUT last_error text)
RETURNS SETOF record
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_workers';
COMMENT ON FUNCTION cdi._workers() IS 'Internal: the launcher and the workers of this database. No rows where cdi is not in shared_preload_libraries.';

-- See src/activate/push_flight.c.
CREATE OR REPLACE FUNCTION cdi._push_in_flight(OUT destination_id integer, OUT requests bigint, OUT rows bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_push_in_flight';
COMMENT ON FUNCTION cdi._push_in_flight() IS 'Internal: destinations of this database that have requests in flight.';

-- See src/collect/limit.c.
CREATE OR REPLACE FUNCTION cdi._source_activity(
    OUT source_id integer, OUT requests bigint, OUT body_bytes bigint, OUT accepted bigint, OUT refused bigint,
    OUT rate_limited bigint, OUT too_large bigint, OUT unavailable bigint, OUT last_request_at timestamptz, OUT since timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_source_activity';
COMMENT ON FUNCTION cdi._source_activity() IS 'Internal: what the collectors have counted, per source of this database that has had a request since the server started.';
