-- Path transforms, aggregates over paths, and the Markov model (src/attribution/path*.c, markov*.c).

CREATE OR REPLACE FUNCTION cdi_path_transform(path text[], transform text, VARIADIC arguments text[] DEFAULT '{}')
RETURNS text[]
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_path_transform(text[], text, text[]) IS
'A path as a model is to see it: exposure (repeats in a row become one touch), first (each channel once, where it came first), frequency (the same, with how often it came in brackets), unique (as it is), remove_if_not_all and remove_if_last_and_not_all (without a channel, or without it at the end, unless nothing would be left; several channels one after the other), trim (the last N touches). The names and meanings are those of Fractribution and Snowplow; docs/markov.md.
cdi_path_transform(path, ''exposure''), cdi_path_transform(path, ''remove_if_last_and_not_all'', ''direct''), cdi_path_transform(path, ''trim'', ''10''). Null where path or transform is; raises 22023 for an unknown transform or other arguments than it takes, 22004 for a null touch.';

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

CREATE OR REPLACE FUNCTION cdi._markov_final(state internal)
RETURNS cdi.path_credit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_markov_final';
COMMENT ON FUNCTION cdi._markov_final(internal) IS 'Internal: result of cdi_markov().';

CREATE OR REPLACE AGGREGATE cdi_markov(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov(text[], double precision, double precision, double precision) IS
'Credit by removal effects of a Markov chain of order 1 over paths: cdi_markov() with default options.';

CREATE OR REPLACE AGGREGATE cdi_markov(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov(text[], double precision, double precision, double precision, jsonb) IS
'Credit by removal effects of a Markov chain over paths of touches, exact: one element per channel, in order of the channels'' bytes. A row is a path with the conversions it led to, their value, and how often it led to nothing; equal paths are summed, null counts are 0, a null path has no touches.
Options: order (1 to 32, default 1): touches that a state remembers. bootstrap (default 0): replicates for percentile intervals at confidence (0.95), drawn from seed (1). simulate (default 0): so many random walks in place of the exact solution, as a check of it, drawn from seed; low and high are then 95 % bounds of their error.
effect is the part of conversions lost when every state with the channel is a dead end. Credits sum to conversions and value; conversions without touches are those of channel unattributed. SELECT c.* FROM (SELECT cdi_markov(path, conversions, value, nulls) AS credits FROM paths) p, unnest(p.credits) c. Formulas, sources and cost: docs/markov.md.';

CREATE OR REPLACE FUNCTION cdi._markov_transitions_final(state internal)
RETURNS cdi.path_transition[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_markov_transitions_final';
COMMENT ON FUNCTION cdi._markov_transitions_final(internal) IS 'Internal: result of cdi_markov_transitions().';

CREATE OR REPLACE AGGREGATE cdi_markov_transitions(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_transitions_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov_transitions(text[], double precision, double precision, double precision) IS
'Transitions of the Markov chain of order 1 over paths: cdi_markov_transitions() with default options.';

CREATE OR REPLACE AGGREGATE cdi_markov_transitions(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_transitions_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov_transitions(text[], double precision, double precision, double precision, jsonb) IS
'Transitions of the Markov chain that cdi_markov() makes of the same paths: from and to state, how often, and the chance. States are touches joined by " > ", and (start), (conversion), (null); repeats are transitions of a state to itself. Option: order (1 to 32, default 1). For Sankey diagrams and heat maps; docs/markov.md.';

CREATE OR REPLACE FUNCTION cdi._markov_order_final(state internal)
RETURNS cdi.markov_fit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_markov_order_final';
COMMENT ON FUNCTION cdi._markov_order_final(internal) IS 'Internal: result of cdi_markov_order().';

CREATE OR REPLACE AGGREGATE cdi_markov_order(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_order_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov_order(text[], double precision, double precision, double precision) IS
'Which order of a Markov chain fits paths: cdi_markov_order() with default options, orders 1 to 5.';

CREATE OR REPLACE AGGREGATE cdi_markov_order(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = cdi._markov_order_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_markov_order(text[], double precision, double precision, double precision, jsonb) IS
'Which order of a Markov chain fits paths: one element per order up to option max_order (1 to 32, default 5) with its states and free parameters, the log-likelihood of the paths, AIC and BIC (lowest is best), the area under the ROC curve of conversion by the last state, and the mean log-likelihood of each end foretold from the other paths (highest is best). Needs whole counts. Formulas: docs/markov.md.';
