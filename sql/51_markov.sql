-- Aggregates over paths, and the Markov model (src/attribution/paths*.c, markov*.c).

CREATE OR REPLACE FUNCTION cdi._paths_transition(state internal, path text[], conversions double precision, value double precision, nulls double precision)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_paths_transition';
COMMENT ON FUNCTION cdi._paths_transition(internal, text[], double precision, double precision, double precision) IS 'Internal: transition of the aggregates over paths.';

CREATE OR REPLACE FUNCTION cdi._paths_transition(state internal, path text[], conversions double precision, value double precision, nulls double precision, options jsonb)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_paths_transition';
COMMENT ON FUNCTION cdi._paths_transition(internal, text[], double precision, double precision, double precision, jsonb) IS 'Internal: transition of the aggregates over paths with options.';

CREATE OR REPLACE FUNCTION cdi._paths_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_paths_combine';
COMMENT ON FUNCTION cdi._paths_combine(internal, internal) IS 'Internal: adds the paths of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._paths_serialise(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_paths_serialise';
COMMENT ON FUNCTION cdi._paths_serialise(internal) IS 'Internal: paths as bytes, for the leader of a parallel plan.';

CREATE OR REPLACE FUNCTION cdi._paths_deserialise(bytes bytea, state internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_paths_deserialise';
COMMENT ON FUNCTION cdi._paths_deserialise(bytea, internal) IS 'Internal: paths from the bytes of a parallel worker.';
