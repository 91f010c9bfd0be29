-- Funnels (src/behaviour/funnel*.c).

CREATE OR REPLACE FUNCTION cdi._window_funnel_transition(state internal, "window" interval, "timestamp" timestamptz, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_window_funnel_transition';
COMMENT ON FUNCTION cdi._window_funnel_transition(internal, interval, timestamptz, VARIADIC "any") IS 'Internal: transition of cdi_window_funnel().';

CREATE OR REPLACE FUNCTION cdi._window_funnel_transition(state internal, mode text, "window" interval, "timestamp" timestamptz, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_window_funnel_mode_transition';
COMMENT ON FUNCTION cdi._window_funnel_transition(internal, text, interval, timestamptz, VARIADIC "any") IS 'Internal: transition of cdi_window_funnel() with a mode.';

CREATE OR REPLACE FUNCTION cdi._funnel_transition(state internal, options jsonb, "timestamp" timestamptz, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_transition';
COMMENT ON FUNCTION cdi._funnel_transition(internal, jsonb, timestamptz, VARIADIC "any") IS 'Internal: transition of cdi_funnel() and cdi_funnel_paths().';

CREATE OR REPLACE FUNCTION cdi._funnel_transition(state internal, options jsonb, "timestamp" timestamptz, hold text, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_hold_transition';
COMMENT ON FUNCTION cdi._funnel_transition(internal, jsonb, timestamptz, text, VARIADIC "any") IS 'Internal: transition of cdi_funnel() and cdi_funnel_paths() that hold a property constant.';

CREATE OR REPLACE FUNCTION cdi._funnel_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_combine';
COMMENT ON FUNCTION cdi._funnel_combine(internal, internal) IS 'Internal: unites states of a funnel.';

CREATE OR REPLACE FUNCTION cdi._funnel_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_serial';
COMMENT ON FUNCTION cdi._funnel_serial(internal) IS 'Internal: a state of a funnel for another process.';

CREATE OR REPLACE FUNCTION cdi._funnel_deserial(state bytea, unused internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_deserial';
COMMENT ON FUNCTION cdi._funnel_deserial(bytea, internal) IS 'Internal: a state of a funnel from another process.';

CREATE OR REPLACE FUNCTION cdi._window_funnel_final(state internal)
RETURNS integer
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_window_funnel_final';
COMMENT ON FUNCTION cdi._window_funnel_final(internal) IS 'Internal: result of cdi_window_funnel().';

CREATE OR REPLACE FUNCTION cdi._funnel_final(state internal)
RETURNS cdi.funnel_path
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_final';
COMMENT ON FUNCTION cdi._funnel_final(internal) IS 'Internal: result of cdi_funnel().';

CREATE OR REPLACE FUNCTION cdi._funnel_paths_final(state internal)
RETURNS cdi.funnel_path[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_funnel_paths_final';
COMMENT ON FUNCTION cdi._funnel_paths_final(internal) IS 'Internal: result of cdi_funnel_paths().';

-- SSPACE: a header of 32 bytes, 16 for each event, and the allocator's share.
CREATE OR REPLACE AGGREGATE cdi_window_funnel("window" interval, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._window_funnel_transition,
    STYPE = internal,
    SSPACE = 256,
    FINALFUNC = cdi._window_funnel_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_window_funnel(interval, timestamptz, VARIADIC "any") IS
'How many steps of a funnel the events of a group get through, in order and within the window from the first step, as ClickHouse''s windowFunnel(window)(timestamp, conditions...): 0 to the number of conditions. Each condition is a boolean; a row may meet several. Rows may come in any order. Up to 32 conditions; a day of the window has 24 hours. GROUP BY the person.
Costs a pass over the rows and 16 bytes per row that meets a condition; parallel plans are used. Rows without a timestamp are left out. Raises 22023 for a window of months or not longer than zero, 42804 for a condition that is not boolean, 54000 beyond 32 conditions or 67 million rows in a group.';

CREATE OR REPLACE AGGREGATE cdi_window_funnel(mode text, "window" interval, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._window_funnel_transition,
    STYPE = internal,
    SSPACE = 256,
    FINALFUNC = cdi._window_funnel_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_window_funnel(text, interval, timestamptz, VARIADIC "any") IS
'The same with a mode: words with blanks or commas between. clickhouse (the default) with strict_order, strict_deduplication, strict_increase, strict_once, allow_reentry; mixpanel with any_order, optimized_reentry; amplitude with any_order or exact_order. docs/funnels.md says what each means. Raises 22023 for any other word.';

CREATE OR REPLACE AGGREGATE cdi_funnel(options jsonb, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._funnel_transition,
    STYPE = internal,
    SSPACE = 256,
    FINALFUNC = cdi._funnel_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_funnel(jsonb, timestamptz, VARIADIC "any") IS
'The path that the events of a group take through a funnel, as cdi.funnel_path: level, the steps in the order reached, when, and the exclusion that ended it. Members of options: mode (as in cdi_window_funnel()), window (text, required), step_windows (array: longest time from each step to the next, or null), exclusions (array of {"after": step, "before": step}; their conditions follow those of the steps), anchors (steps that keep their place in any_order).
Raises 22023 for what the dialect does not have, otherwise as cdi_window_funnel().';

CREATE OR REPLACE AGGREGATE cdi_funnel(options jsonb, "timestamp" timestamptz, hold text, VARIADIC conditions "any") (
    SFUNC = cdi._funnel_transition,
    STYPE = internal,
    SSPACE = 384,
    FINALFUNC = cdi._funnel_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_funnel(jsonb, timestamptz, text, VARIADIC "any") IS
'The same along one value of a property: all steps of a path have the same value of hold, and rows where it is null are left out.';

CREATE OR REPLACE AGGREGATE cdi_funnel_paths(options jsonb, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._funnel_transition,
    STYPE = internal,
    SSPACE = 256,
    FINALFUNC = cdi._funnel_paths_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_funnel_paths(jsonb, timestamptz, VARIADIC "any") IS
'Every path that the events of a group take through a funnel (totals), where persons may enter again after they converted, ran out of time or were excluded: an array of cdi.funnel_path in order of entry, empty without one. Dialects mixpanel and amplitude; otherwise as cdi_funnel().';

CREATE OR REPLACE AGGREGATE cdi_funnel_paths(options jsonb, "timestamp" timestamptz, hold text, VARIADIC conditions "any") (
    SFUNC = cdi._funnel_transition,
    STYPE = internal,
    SSPACE = 384,
    FINALFUNC = cdi._funnel_paths_final,
    COMBINEFUNC = cdi._funnel_combine,
    SERIALFUNC = cdi._funnel_serial,
    DESERIALFUNC = cdi._funnel_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_funnel_paths(jsonb, timestamptz, text, VARIADIC "any") IS
'The same along one value of a property: a person may be in the funnel with several values at a time.';
