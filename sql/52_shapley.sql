-- Shapley values of the channels of paths (src/attribution/shapley*.c).

CREATE OR REPLACE FUNCTION cdi._shapley_final(state internal)
RETURNS cdi.path_credit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_shapley_final';
COMMENT ON FUNCTION cdi._shapley_final(internal) IS 'Internal: result of cdi_shapley().';

CREATE OR REPLACE FUNCTION cdi._shapley_ordered_final(state internal)
RETURNS cdi.ordered_credit[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_shapley_ordered_final';
COMMENT ON FUNCTION cdi._shapley_ordered_final(internal) IS 'Internal: result of cdi_shapley_ordered().';

CREATE OR REPLACE AGGREGATE cdi_shapley(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._shapley_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_shapley(text[], double precision, double precision, double precision) IS
'Shapley value of each channel of paths, over the additive game: a set of channels is worth the conversions of paths within it, so a path''s conversions and value are shared equally by its distinct channels. One element per channel, and unattributed for paths without touches; credits sum to conversions and value. conversions, value and nulls say how often a path led to a conversion, with what value in all, and how often to nothing; null counts as 0. Cost: one pass over the paths.';

CREATE OR REPLACE AGGREGATE cdi_shapley(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._shapley_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_shapley(text[], double precision, double precision, double precision, jsonb) IS
'The same with options: game ("additive", or "rate": a set of channels is worth the conversion rate of the paths within it; effect is then the Shapley value as a rate, and credit may be negative), permutations (20000), error (0.001) and seed (1) for sampling the rate game of more than 20 channels, whose low and high are 95 % bounds; bootstrap (0 replicates) and confidence (0.95) for intervals. Raises 22023 for options that do not exist. docs/shapley.md has the formulas, sources and costs.';

CREATE OR REPLACE AGGREGATE cdi_shapley_ordered(path text[], conversions double precision, value double precision, nulls double precision) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._shapley_ordered_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_shapley_ordered(text[], double precision, double precision, double precision) IS
'Ordered Shapley values: what cdi_shapley() gives a channel, split by the channel''s position among the distinct channels of a path, in order of their first touches. One element per channel and position, in that order; positions of a channel sum to its cdi_shapley() credit. Paths without touches give unattributed with position null.';

CREATE OR REPLACE AGGREGATE cdi_shapley_ordered(path text[], conversions double precision, value double precision, nulls double precision, options jsonb) (
    SFUNC = cdi._paths_transition,
    STYPE = internal,
    SSPACE = 8192,
    FINALFUNC = cdi._shapley_ordered_final,
    FINALFUNC_MODIFY = SHAREABLE,
    COMBINEFUNC = cdi._paths_combine,
    SERIALFUNC = cdi._paths_serialise,
    DESERIALFUNC = cdi._paths_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_shapley_ordered(text[], double precision, double precision, double precision, jsonb) IS
'The same with options: bootstrap (0 replicates), confidence (0.95) and seed (1) for intervals. docs/shapley.md has the formulas, sources and costs.';
