-- Ingest: see src/ingest.
CREATE OR REPLACE FUNCTION cdi._random_bytes(length integer)
RETURNS bytea
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'cdi_random_bytes';
COMMENT ON FUNCTION cdi._random_bytes(integer) IS 'Internal: bytes from the server''s cryptographic random source.';
