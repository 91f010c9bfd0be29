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
Costs a pass over the rows and 16 bytes per row that meets a condition; parallel plans are used, and a node of cdi''s own (docs/funnels.md). Rows without a timestamp are left out. Raises 22023 for a window of months or not longer than zero, 42804 for a condition that is not boolean, 54000 beyond 32 conditions or 67 million rows in a group.';

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

-- Reports over cdi.events.  Their statement is put together of quoted data: no
-- text of the caller becomes SQL.

CREATE OR REPLACE FUNCTION cdi._funnel_query(
    steps jsonb, "window" interval, mode text, from_time timestamptz, to_time timestamptz,
    counting text, breakdown text, options jsonb)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    exclusions jsonb := coalesce(nullif(options -> 'exclusions', 'null'), '[]');
    held jsonb := coalesce(nullif(options -> 'hold', 'null'), '[]');
    conditions text[];
    any_step text;
    of_steps text;
    met text;
    funnel jsonb;
    hold text;
    value text;
    unknown text;
    keys text := 'e.person_id';
BEGIN
    IF steps IS NULL OR jsonb_typeof(steps) <> 'array' OR jsonb_array_length(steps) = 0 THEN
        RAISE EXCEPTION 'steps of a funnel must be an array with at least one event'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example ''["Product Viewed", "Order Completed"]''.';
    END IF;
    IF mode IS NULL OR "window" IS NULL OR counting IS NULL OR options IS NULL THEN
        RAISE EXCEPTION 'mode, window, counting and options of a funnel cannot be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF counting NOT IN ('uniques', 'totals', 'sessions') THEN
        RAISE EXCEPTION 'a funnel cannot count "%"', counting
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It counts uniques, totals or sessions.';
    END IF;
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'options of a funnel must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(options) k WHERE k NOT IN ('exclusions', 'step_windows', 'anchors', 'hold') LIMIT 1;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'options of a funnel have no member "%"', unknown
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Their members: exclusions, step_windows, anchors, hold.';
    END IF;
    IF jsonb_typeof(exclusions) <> 'array' THEN
        RAISE EXCEPTION '"exclusions" of a funnel must be an array of events' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(held) <> 'array' OR jsonb_array_length(held) > 3
       OR EXISTS (SELECT FROM jsonb_array_elements(CASE jsonb_typeof(held) WHEN 'array' THEN held ELSE '[]' END) h WHERE jsonb_typeof(h) <> 'string') THEN
        RAISE EXCEPTION '"hold" of a funnel must be an array of up to three names of properties' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT array_agg(cdi._step_condition(s) ORDER BY n) INTO conditions
    FROM jsonb_array_elements(steps) WITH ORDINALITY s(s, n);
    any_step := array_to_string(conditions, ' OR ');
    of_steps := 'array_agg(%s ORDER BY e."timestamp", e.position) FILTER (WHERE ' || replace(any_step, '%', '%%') || ')';
    met := format('ARRAY[%s IS TRUE]', array_to_string(conditions, ' IS TRUE, '));
    -- Who enters from to_time on is not asked for; later steps may come later.
    IF to_time IS NOT NULL AND (mode !~ '\many_order\M' OR options -> 'anchors' @> '1') THEN
        conditions[1] := format('(%s AND e."timestamp" < %L::timestamptz)', conditions[1], to_time);
    END IF;
    conditions := conditions || ARRAY(SELECT cdi._step_condition(CASE jsonb_typeof(x) WHEN 'object' THEN x - '{after,before}'::text[] ELSE x END)
                                      FROM jsonb_array_elements(exclusions) WITH ORDINALITY x(x, n) ORDER BY n);

    funnel := jsonb_build_object('mode', mode, 'window', "window"::text);
    IF jsonb_array_length(exclusions) > 0 THEN
        funnel := funnel || jsonb_build_object('exclusions', (
            SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('after', x -> 'after', 'before', x -> 'before')) ORDER BY n)
            FROM jsonb_array_elements(exclusions) WITH ORDINALITY x(x, n)));
    END IF;
    funnel := funnel || jsonb_strip_nulls(jsonb_build_object('step_windows', options -> 'step_windows', 'anchors', options -> 'anchors'));

    -- The same errors whether there are events or not
    PERFORM @extschema@.cdi_funnel(funnel, now(), VARIADIC array_fill(true, ARRAY[cardinality(conditions)]));

    SELECT CASE count(*) WHEN 0 THEN NULL WHEN 1 THEN min('e.properties ->> ' || quote_literal(h))
           ELSE format('CASE WHEN %s THEN jsonb_build_array(%s)::text END',
                       string_agg(format('e.properties ->> %L IS NOT NULL', h), ' AND ' ORDER BY n),
                       string_agg(format('e.properties ->> %L', h), ', ' ORDER BY n)) END
    INTO hold FROM jsonb_array_elements_text(held) WITH ORDINALITY h(h, n);
    value := CASE WHEN breakdown IN ('campaign_source', 'campaign_medium', 'campaign_name', 'click_id_type', 'referrer_host', 'page_host')
                  THEN format('e.%I', breakdown) ELSE format('e.properties ->> %L', breakdown) END;
    IF counting = 'sessions' THEN
        keys := keys || ', e.session_id';
    END IF;
    IF hold IS NOT NULL AND counting = 'uniques' AND mode ~ '\mamplitude\M' THEN
        keys := keys || ', ' || hold;   -- Amplitude counts pairs of user and value
    END IF;

    RETURN format('SELECT p.person_id, %s AS breakdown, (p.path).level, (p.path).reached_at'
        ' FROM (SELECT g.person_id, g.at, g.met, g.value, %s AS path'
        ' FROM (SELECT e.person_id, %s AS at, %s AS met, %s AS value, @extschema@.%I(%L, e."timestamp"%s, %s) AS found'
        ' FROM %s e WHERE %s%s%s%s GROUP BY %s) g) p WHERE (p.path).level > 0%s',
        -- of the event that entered: others may have happened at that instant
        CASE WHEN breakdown IS NULL THEN 'NULL::text'
             ELSE 'p.value[(SELECT min(n) FROM generate_subscripts(p.at, 1) n WHERE p.at[n] = (p.path).reached_at[1]'
                  ' AND p.met[n][(p.path).steps[1]])]' END,
        CASE counting WHEN 'totals' THEN 'unnest(g.found)' ELSE 'g.found' END,
        CASE WHEN breakdown IS NULL THEN 'NULL' ELSE format(of_steps, 'e."timestamp"') END,
        CASE WHEN breakdown IS NULL THEN 'NULL' ELSE format(of_steps, met) END,
        CASE WHEN breakdown IS NULL THEN 'NULL' ELSE format(of_steps, value) END,
        CASE counting WHEN 'totals' THEN 'cdi_funnel_paths' ELSE 'cdi_funnel' END,
        funnel, ', ' || hold,
        array_to_string(conditions, ', '),
        CASE counting WHEN 'sessions' THEN 'cdi.session_events'
            ELSE cdi._people_events() END,
        CASE WHEN mode ~ '\m(strict_order|exact_order)\M' THEN '(e.type IN (''track'', ''page'', ''screen'') OR ' ELSE '(' END
            || array_to_string(conditions, ' OR ') || ')',
        ' AND e."timestamp" >= ' || quote_literal(from_time) || '::timestamptz',
        ' AND e."timestamp" < ' || quote_literal(to_time + CASE WHEN mode ~ '\mamplitude\M' THEN "window" + interval '1 second' ELSE "window" + interval '1 microsecond' END) || '::timestamptz',
        CASE WHEN to_time IS NOT NULL AND mode ~ '\many_order\M' AND NOT coalesce(options -> 'anchors' @> '1', false)
             THEN format(' AND e."timestamp" < %L::timestamptz', to_time) END,
        keys,
        NULL);
END
$$;
COMMENT ON FUNCTION cdi._funnel_query(jsonb, interval, text, timestamptz, timestamptz, text, text, jsonb) IS 'Internal: the statement that gives a row per path of a report on a funnel.';

CREATE OR REPLACE FUNCTION cdi_funnel_report(
    steps jsonb,
    "window" interval DEFAULT '7 days',
    mode text DEFAULT 'mixpanel',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    counting text DEFAULT 'uniques',
    breakdown text DEFAULT NULL,
    options jsonb DEFAULT '{}')
RETURNS TABLE (
    segment text,
    step integer,
    name text,
    entered bigint,
    reached bigint,
    dropped bigint,
    rate_from_previous double precision,
    rate_from_first double precision,
    avg_seconds double precision,
    median_seconds double precision,
    p90_seconds double precision)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED COST 1000000
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    query text := cdi._funnel_query(steps, "window", mode, from_time, to_time, counting, breakdown, options);
BEGIN
    -- A row for each step also where nobody entered
    RETURN QUERY EXECUTE format('WITH paths AS (%s), counted AS ('
        ' SELECT p.breakdown, s.n::integer AS step, count(*) FILTER (WHERE p.level >= s.n) AS reached,'
        ' count(*) FILTER (WHERE p.level = s.n AND s.n < $2) AS dropped, count(p.person_id) AS entered,'
        ' avg(t.seconds) AS avg_seconds, percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY t.seconds) AS percentiles'
        ' FROM generate_series(1, $2) s(n) LEFT JOIN paths p ON true'
        ' CROSS JOIN LATERAL (SELECT extract(epoch FROM p.reached_at[s.n] - p.reached_at[s.n - 1])::double precision AS seconds) t'
        ' GROUP BY p.breakdown, s.n)'
        ' SELECT c.breakdown, c.step, CASE WHEN $3 THEN NULL ELSE CASE jsonb_typeof(d.s) WHEN ''string'' THEN d.s #>> ''{}'''
        ' ELSE coalesce(d.s ->> ''name'', d.s ->> ''event'', d.s ->> ''type'', d.s::text) END END,'
        ' c.entered, c.reached, c.dropped,'
        ' c.reached::double precision / nullif(coalesce(lag(c.reached) OVER w, c.entered), 0),'
        ' c.reached::double precision / nullif(c.entered, 0), c.avg_seconds, c.percentiles[1], c.percentiles[2]'
        ' FROM counted c JOIN jsonb_array_elements($1) WITH ORDINALITY d(s, n) ON d.n = c.step'
        ' WINDOW w AS (PARTITION BY c.breakdown ORDER BY c.step) ORDER BY c.breakdown NULLS FIRST, c.step', query)
        USING steps, jsonb_array_length(steps), mode ~ '\many_order\M';
END
$$;
COMMENT ON FUNCTION cdi_funnel_report(jsonb, interval, text, timestamptz, timestamptz, text, text, jsonb) IS
'A funnel over cdi.events, one row per step and segment (value of breakdown): entered (reached the first step), reached, dropped (got here and no further), rates from the previous and from the first step (0 to 1), and the average, median and 90th percentile of seconds since the previous step. steps is an array of steps as in cdi_event_matches(), where an event may be a virtual one. People enter from from_time to before to_time; later steps may come within the window.
counting: uniques (people), totals (every path), sessions. breakdown: a property of the event that enters, or campaign_source, campaign_medium, campaign_name, click_id_type, referrer_host, page_host. options: exclusions (steps with after and before), step_windows, anchors, hold (up to three properties). Modes: docs/funnels.md.
Reads cdi.events and the identity map with the caller''s privileges; costs one pass over the events of the period. Raises 22023 for what it cannot read.';

CREATE OR REPLACE FUNCTION cdi_funnel_people(
    steps jsonb,
    step integer,
    "window" interval DEFAULT '7 days',
    mode text DEFAULT 'mixpanel',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    counting text DEFAULT 'uniques',
    breakdown text DEFAULT NULL,
    options jsonb DEFAULT '{}')
RETURNS TABLE (
    person_id uuid,
    segment text,
    entered_at timestamptz,
    reached_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED COST 1000000
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    query text := cdi._funnel_query(steps, "window", mode, from_time, to_time, counting, breakdown, options);
BEGIN
    IF $2 IS NULL OR $2 < 1 OR $2 > jsonb_array_length(steps) THEN
        RAISE EXCEPTION 'step must be a step from 1 to %', jsonb_array_length(steps)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY EXECUTE format('SELECT p.person_id, p.breakdown, p.reached_at[1], p.reached_at[p.level] FROM (%s) p WHERE p.level = $1'
        ' ORDER BY 3, 1', query) USING $2;
END
$$;
COMMENT ON FUNCTION cdi_funnel_people(jsonb, integer, interval, text, timestamptz, timestamptz, text, text, jsonb) IS
'Who got as far as a step of a funnel and no further: a row per path of cdi_funnel_report() with these arguments, when it entered and when it reached the step. With the last step: who converted.';
