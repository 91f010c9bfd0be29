-- Models that are fitted to paths: logistic regression, additive hazard (src/attribution/logistic.c, hazard*.c).

CREATE OR REPLACE FUNCTION cdi._logistic_final(state internal)
RETURNS cdi.path_credit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_logistic_final';
COMMENT ON FUNCTION cdi._logistic_final(internal) IS 'Internal: result of cdi_logistic().';

CREATE OR REPLACE FUNCTION cdi._hazard_transition(state internal, path text[], ages interval[], conversions double precision, value double precision, nulls double precision)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_transition';
COMMENT ON FUNCTION cdi._hazard_transition(internal, text[], interval[], double precision, double precision, double precision) IS 'Internal: transition of cdi_hazard().';

CREATE OR REPLACE FUNCTION cdi._hazard_transition(state internal, path text[], ages interval[], conversions double precision, value double precision, nulls double precision, options jsonb)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_transition';
COMMENT ON FUNCTION cdi._hazard_transition(internal, text[], interval[], double precision, double precision, double precision, jsonb) IS 'Internal: transition of cdi_hazard() with options.';

CREATE OR REPLACE FUNCTION cdi._hazard_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_combine';
COMMENT ON FUNCTION cdi._hazard_combine(internal, internal) IS 'Internal: adds the paths of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._hazard_serialise(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_serialise';
COMMENT ON FUNCTION cdi._hazard_serialise(internal) IS 'Internal: paths with ages as bytes, for the leader of a parallel plan.';

CREATE OR REPLACE FUNCTION cdi._hazard_deserialise(bytes bytea, state internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_deserialise';
COMMENT ON FUNCTION cdi._hazard_deserialise(bytea, internal) IS 'Internal: paths with ages from the bytes of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._hazard_final(state internal)
RETURNS cdi.hazard_credit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_hazard_final';
COMMENT ON FUNCTION cdi._hazard_final(internal) IS 'Internal: result of cdi_hazard().';

CREATE OR REPLACE AGGREGATE cdi_logistic(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._logistic_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_logistic(text[], double precision, double precision, double precision) IS
'Credit by a logistic regression of the outcome on which channels a path touches, with a ridge penalty of 1: a conversion is shared by the channels of its path in proportion to max(0, p - p without the channel), equally where no channel raises p. effect is the coefficient (log-odds). Arguments and result as for cdi_shapley(). Raises ZC320 where all paths led to a conversion.';

CREATE OR REPLACE AGGREGATE cdi_logistic(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._logistic_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_logistic(text[], double precision, double precision, double precision, jsonb) IS
'The same with options: ridge (1; 0 is maximum likelihood), counts (false; true: the number of touches decides, not their presence), bootstrap, confidence and seed. Raises ZC320 where the likelihood has no maximum, 22023 for options that do not exist. docs/shapley.md has the formulas, sources and costs.';

CREATE OR REPLACE AGGREGATE cdi_hazard(path text[], ages interval[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._hazard_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._hazard_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._hazard_combine,
    SERIALFUNC = cdi._hazard_serialise,
    DESERIALFUNC = cdi._hazard_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_hazard(text[], interval[], double precision, double precision, double precision) IS
'Credit by an additive hazard of conversion that every touch adds to and that decays with a rate of its channel: a conversion is shared by the touches of its path as their parts of the hazard at that time. ages are the times from each touch to the conversion, or to the end of what was seen of a path that led to nothing. effect is the number of conversions that a touch leads to in the end, lag the mean time until then. conversions, value and nulls are weights of the row as for cdi_shapley(). Raises 22023 for a negative age, 2202E where path and ages differ in length.';

CREATE OR REPLACE AGGREGATE cdi_hazard(path text[], ages interval[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._hazard_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._hazard_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._hazard_combine,
    SERIALFUNC = cdi._hazard_serialise,
    DESERIALFUNC = cdi._hazard_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_hazard(text[], interval[], double precision, double precision, double precision, jsonb) IS
'The same with options: iterations (1000) and tolerance (1e-10) of the fit, bootstrap, confidence and seed. docs/shapley.md has the formulas, sources and costs.';
