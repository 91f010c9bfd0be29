-- Sequences of events (src/behaviour/sequence*.c).

CREATE OR REPLACE FUNCTION cdi._sequence_transition(state internal, pattern text, "timestamp" timestamptz, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_transition';
COMMENT ON FUNCTION cdi._sequence_transition(internal, text, timestamptz, VARIADIC "any") IS 'Internal: transition of cdi_sequence_match(), cdi_sequence_count() and cdi_sequence_events().';

CREATE OR REPLACE FUNCTION cdi._sequence_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_combine';
COMMENT ON FUNCTION cdi._sequence_combine(internal, internal) IS 'Internal: two states of a sequence as one.';

CREATE OR REPLACE FUNCTION cdi._sequence_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_serial';
COMMENT ON FUNCTION cdi._sequence_serial(internal) IS 'Internal: a state of a sequence as bytes.';

CREATE OR REPLACE FUNCTION cdi._sequence_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_deserial';
COMMENT ON FUNCTION cdi._sequence_deserial(bytea, internal) IS 'Internal: a state of a sequence from bytes.';

CREATE OR REPLACE FUNCTION cdi._sequence_match_final(state internal)
RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_match_final';
COMMENT ON FUNCTION cdi._sequence_match_final(internal) IS 'Internal: result of cdi_sequence_match().';

CREATE OR REPLACE FUNCTION cdi._sequence_count_final(state internal)
RETURNS bigint
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_count_final';
COMMENT ON FUNCTION cdi._sequence_count_final(internal) IS 'Internal: result of cdi_sequence_count().';

CREATE OR REPLACE FUNCTION cdi._sequence_events_final(state internal)
RETURNS timestamptz[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_events_final';
COMMENT ON FUNCTION cdi._sequence_events_final(internal) IS 'Internal: result of cdi_sequence_events().';

CREATE OR REPLACE AGGREGATE cdi_sequence_match(pattern text, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._sequence_transition,
    STYPE = internal,
    SSPACE = 192,
    FINALFUNC = cdi._sequence_match_final,
    COMBINEFUNC = cdi._sequence_combine,
    SERIALFUNC = cdi._sequence_serial,
    DESERIALFUNC = cdi._sequence_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_sequence_match(text, timestamptz, VARIADIC "any") IS
'Whether the events of a group contain a pattern, as ClickHouse''s sequenceMatch: (?N) an event that meets condition N, . any event, .* any number of events, (?t<=S) before an event: at most S seconds after the one before it (also <, >=, >, ==; other events may lie between). Events that meet no condition are left out, so . and neighbourhood know only those that do. Rows may come in any order; of simultaneous events the one that meets the lower-numbered condition comes first. False without events.
Linear in the events, whatever the pattern: nothing is tried twice. 16 bytes per event that meets a condition. Up to 32 conditions and 64 events in a pattern. Raises 42601 with the position for a pattern that cannot be read, 22008 for infinite times, 54023 for more conditions.';

CREATE OR REPLACE AGGREGATE cdi_sequence_count(pattern text, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._sequence_transition,
    STYPE = internal,
    SSPACE = 192,
    FINALFUNC = cdi._sequence_count_final,
    COMBINEFUNC = cdi._sequence_combine,
    SERIALFUNC = cdi._sequence_serial,
    DESERIALFUNC = cdi._sequence_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_sequence_count(text, timestamptz, VARIADIC "any") IS
'How often the events of a group contain a pattern, without overlap: each next match begins after the last event of the one before. Of several matches the one whose first event is earliest is taken, of these the one whose second event is, and so on. Pattern, order, limits and errors as in cdi_sequence_match(). 0 without a match.';

CREATE OR REPLACE AGGREGATE cdi_sequence_events(pattern text, "timestamp" timestamptz, VARIADIC conditions "any") (
    SFUNC = cdi._sequence_transition,
    STYPE = internal,
    SSPACE = 192,
    FINALFUNC = cdi._sequence_events_final,
    COMBINEFUNC = cdi._sequence_combine,
    SERIALFUNC = cdi._sequence_serial,
    DESERIALFUNC = cdi._sequence_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_sequence_events(text, timestamptz, VARIADIC "any") IS
'The times of the conditions (?N) of the first match, in order of the pattern, chosen as in cdi_sequence_count(); an empty array where there is no match, never a part of one. Otherwise as cdi_sequence_match().';

CREATE OR REPLACE FUNCTION cdi._sequence_next_transition(state internal, direction text, base text, "timestamp" timestamptz, value text, base_condition boolean, VARIADIC conditions "any")
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_next_transition';
COMMENT ON FUNCTION cdi._sequence_next_transition(internal, text, text, timestamptz, text, boolean, VARIADIC "any") IS 'Internal: transition of cdi_sequence_next_node().';

CREATE OR REPLACE FUNCTION cdi._sequence_next_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_next_combine';
COMMENT ON FUNCTION cdi._sequence_next_combine(internal, internal) IS 'Internal: two states of cdi_sequence_next_node() as one.';

CREATE OR REPLACE FUNCTION cdi._sequence_next_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_next_serial';
COMMENT ON FUNCTION cdi._sequence_next_serial(internal) IS 'Internal: a state of cdi_sequence_next_node() as bytes.';

CREATE OR REPLACE FUNCTION cdi._sequence_next_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_next_deserial';
COMMENT ON FUNCTION cdi._sequence_next_deserial(bytea, internal) IS 'Internal: a state of cdi_sequence_next_node() from bytes.';

CREATE OR REPLACE FUNCTION cdi._sequence_next_final(state internal)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_sequence_next_final';
COMMENT ON FUNCTION cdi._sequence_next_final(internal) IS 'Internal: result of cdi_sequence_next_node().';

CREATE OR REPLACE AGGREGATE cdi_sequence_next_node(direction text, base text, "timestamp" timestamptz, value text, base_condition boolean, VARIADIC conditions "any") (
    SFUNC = cdi._sequence_next_transition,
    STYPE = internal,
    SSPACE = 512,
    FINALFUNC = cdi._sequence_next_final,
    COMBINEFUNC = cdi._sequence_next_combine,
    SERIALFUNC = cdi._sequence_next_serial,
    DESERIALFUNC = cdi._sequence_next_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_sequence_next_node(text, text, timestamptz, text, boolean, VARIADIC "any") IS
'The value of the event next to a chain of events that follow each other without a gap, as ClickHouse''s sequenceNextNode. direction: forward or backward in time. base: where the chain begins: head (first event; forward only), tail (last event; backward only), first_match or last_match (first or last event that meets condition 1 and base_condition). The event there must meet base_condition, it and the following ones condition 1, condition 2, ...; null where one does not or nothing follows. All rows with a time count, also those that meet no condition. Of simultaneous rows the one that meets the lower-numbered condition comes first, then the one that can be the base, then the smaller value by its bytes.
Costs a sort of the group''s rows, 40 bytes each and the value. Raises 22023 for an unknown direction or base, 22008 for infinite times, 54023 for more than 32 conditions.';
