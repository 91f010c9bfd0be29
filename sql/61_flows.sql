-- Flows: where people go from an event, and how they got there (src/behaviour/flow*.c).

CREATE OR REPLACE FUNCTION cdi._flow_path_transition(state internal, node text, "timestamp" timestamptz, "position" bigint,
    direction text, anchor text, steps integer, "collapse" boolean)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_flow_path_transition';
COMMENT ON FUNCTION cdi._flow_path_transition(internal, text, timestamptz, bigint, text, text, integer, boolean) IS 'Internal: transition of cdi_flow_path().';

CREATE OR REPLACE FUNCTION cdi._flow_path_combine(internal, internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_flow_path_combine';
COMMENT ON FUNCTION cdi._flow_path_combine(internal, internal) IS 'Internal: adds one state of cdi_flow_path() to another.';

CREATE OR REPLACE FUNCTION cdi._flow_path_serial(internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_flow_path_serial';
COMMENT ON FUNCTION cdi._flow_path_serial(internal) IS 'Internal: state of cdi_flow_path() as bytes.';

CREATE OR REPLACE FUNCTION cdi._flow_path_deserial(bytea, internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_flow_path_deserial';
COMMENT ON FUNCTION cdi._flow_path_deserial(bytea, internal) IS 'Internal: state of cdi_flow_path() from bytes.';

CREATE OR REPLACE FUNCTION cdi._flow_path_final(internal)
RETURNS text[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_flow_path_final';
COMMENT ON FUNCTION cdi._flow_path_final(internal) IS 'Internal: result of cdi_flow_path().';

CREATE OR REPLACE AGGREGATE cdi_flow_path(node text, "timestamp" timestamptz, "position" bigint,
    direction text, anchor text, steps integer, "collapse" boolean) (
    SFUNC = cdi._flow_path_transition,
    STYPE = internal,
    SSPACE = 1024,
    FINALFUNC = cdi._flow_path_final,
    COMBINEFUNC = cdi._flow_path_combine,
    SERIALFUNC = cdi._flow_path_serial,
    DESERIALFUNC = cdi._flow_path_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_flow_path(text, timestamptz, bigint, text, text, integer, boolean) IS
'The path through the rows of a group (a session, a person): the anchor''s first occurrence and up to steps nodes after it (direction from) or before it (to), in order of timestamp and position, whatever the order of the rows. Begins with (start) or ends with (end) where the rows do; anchor null: the path from the first row, or to the last. With collapse, repeats of a node are one. Null where the anchor does not occur. Rows with a null node, timestamp or position do not count. Keeps the group''s rows in memory, 24 bytes and each distinct node; runs in parallel plans. Raises 22023 and 22004 for options that are wrong.';

CREATE OR REPLACE FUNCTION cdi_flows(
    direction text DEFAULT 'from',
    anchor text DEFAULT NULL,
    steps integer DEFAULT 5,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    within interval DEFAULT NULL,
    node text DEFAULT 'all',
    "collapse" boolean DEFAULT true,
    exclude text[] DEFAULT NULL,
    occurrence text DEFAULT 'first',
    top integer DEFAULT 10)
RETURNS TABLE (step integer, source text, target text, people bigint, occurrences bigint, median_seconds double precision)
LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000000 ROWS 500
SET search_path = pg_catalog, pg_temp
SET jit = off
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_flows(text, text, integer, timestamptz, timestamptz, interval, text, boolean, text[], text, integer) IS
'Flows from an event or to one, as links of a Sankey diagram: from node source at a step to node target at the next. The anchor (a virtual event, or a node: the name of a tracked event or screen, the path of a page) is at step 0, steps before it are negative; null is where sessions begin (direction from) or end (to). A path is of a session, or of the time within of the anchor, and begins at the anchor''s first occurrence or, with occurrence every, at each; the anchor lies from from_time to before to_time.
node says what counts: event, page, screen or all. exclude leaves out nodes and virtual events, collapse takes repeats as one, top is the number of nodes per step that are shown, the rest is (other). (end) and (start) are where events end or begin within the steps, so that at each node but those of the last step as much comes in as goes out.
people are counted once per link, across devices; occurrences are paths; median_seconds lies between the two events, null beside (start) and (end). Reads cdi.events and the identity map with the caller''s privileges, sorts them, and keeps the paths in memory: 12 bytes per step. Raises 22023 and 22004 for options that are wrong.';

CREATE OR REPLACE FUNCTION cdi_top_paths(
    direction text DEFAULT 'from',
    anchor text DEFAULT NULL,
    steps integer DEFAULT 5,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    within interval DEFAULT NULL,
    node text DEFAULT 'all',
    "collapse" boolean DEFAULT true,
    exclude text[] DEFAULT NULL,
    occurrence text DEFAULT 'first',
    top integer DEFAULT 20)
RETURNS TABLE (path text[], people bigint, occurrences bigint, share double precision, median_seconds double precision)
LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000000 ROWS 20
SET search_path = pg_catalog, pg_temp
SET jit = off
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_top_paths(text, text, integer, timestamptz, timestamptz, interval, text, boolean, text[], text, integer) IS
'The most frequent paths from an anchor or to it, whole and in order of time, with the same arguments as cdi_flows(); top is the number of paths. share is that of all paths, median_seconds from the first to the last event. Cost and errors as cdi_flows().';

CREATE OR REPLACE FUNCTION cdi_flows_mermaid(
    direction text DEFAULT 'from',
    anchor text DEFAULT NULL,
    steps integer DEFAULT 5,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    within interval DEFAULT NULL,
    node text DEFAULT 'all',
    "collapse" boolean DEFAULT true,
    exclude text[] DEFAULT NULL,
    occurrence text DEFAULT 'first',
    top integer DEFAULT 10)
RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
SELECT E'sankey-beta\n\n' || coalesce(string_agg(
    -- CSV; the step keeps the graph free of cycles
    format('"%s %s","%s %s",%s', f.step, replace(f.source, '"', '""'), f.step + 1, replace(f.target, '"', '""'), f.occurrences),
    E'\n' ORDER BY f.step, f.occurrences DESC, f.source COLLATE "C", f.target COLLATE "C"), '')
FROM @extschema@.cdi_flows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) f
$$;
COMMENT ON FUNCTION cdi_flows_mermaid(text, text, integer, timestamptz, timestamptz, interval, text, boolean, text[], text, integer) IS
'cdi_flows() as the text of a Mermaid Sankey diagram (sankey-beta), which GitHub, GitLab, Notion and mermaid.live draw. Each node carries its step.';
