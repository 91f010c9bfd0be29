-- Retention, cohorts, stickiness and lifecycle (src/behaviour).

CREATE OR REPLACE FUNCTION cdi_event_matches(step jsonb, type text, event text, properties jsonb)
RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_event_matches(jsonb, text, text, jsonb) IS
'Whether an event is one that a step names: the name of a tracked event as a JSON string, or an object with the members event (name or array of names; reports take virtual events, too), type (type of call or array; track where an event is named, else page, screen and track), filter (object of properties: a value that must be equal, an array of which one must be, or an object of comparisons =, !=, <, <=, >, >=, exists), name (a label). {} is any page, screen or track. Values of different JSON types are neither equal nor ordered; strings are ordered by their bytes. Never null; false without a step. Raises 22023 for anything else in a step.';

-- A step of a report as a condition on event e of cdi.events.  Data: no text of
-- the caller becomes SQL.
CREATE OR REPLACE FUNCTION cdi._step_condition(step jsonb)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given jsonb := CASE jsonb_typeof(step) WHEN 'string' THEN jsonb_build_object('event', step) ELSE step END;
    events text[];
    types text[];
BEGIN
    PERFORM @extschema@.cdi_event_matches(coalesce(step, 'null'), NULL, NULL, NULL);     -- raises what is wrong with it
    SELECT array_agg(v.value) INTO events
    FROM jsonb_array_elements_text(CASE jsonb_typeof(given -> 'event') WHEN 'array' THEN given -> 'event' ELSE jsonb_build_array(given -> 'event') END) v
    WHERE given ? 'event';
    SELECT array_agg(v.value) INTO types
    FROM jsonb_array_elements_text(CASE jsonb_typeof(given -> 'type') WHEN 'array' THEN given -> 'type' ELSE jsonb_build_array(given -> 'type') END) v
    WHERE given ? 'type';
    RETURN format('(%s%s)',
                  CASE WHEN events IS NULL THEN format('e.type = ANY (%L::text[])', coalesce(types, '{page,screen,track}'))
                       WHEN types IS NULL THEN (SELECT '(' || string_agg(@extschema@.cdi_event_predicate(n.name, 'e'), ' OR ') || ')' FROM unnest(events) n (name))
                       ELSE format('e.type = ANY (%L::text[]) AND e.event = ANY (%L::text[])', types, events) END,
                  ' AND @extschema@.cdi_event_matches(' || quote_literal('{"filter": ' || (given ->> 'filter') || '}')
                  || '::jsonb, ''track'', NULL, e.properties)');
END
$$;
COMMENT ON FUNCTION cdi._step_condition(jsonb) IS 'Internal: a step of a report as a condition on event e: cdi_event_matches(), and an event without a type may be a virtual one.';

CREATE OR REPLACE FUNCTION cdi._people_events()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '(SELECT coalesce(m.person_id, v.subject) AS person_id, v.* FROM cdi.events v LEFT JOIN cdi.identity_map m ON m.identifier = v.subject WHERE v.subject IS NOT NULL)';
COMMENT ON FUNCTION cdi._people_events() IS 'Internal: the events that are somebody''s, with whose, as the relation that a report reads.';

CREATE OR REPLACE FUNCTION cdi._retention_conditions_transition(state bigint, VARIADIC conditions "any")
RETURNS bigint
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_conditions_transition';
COMMENT ON FUNCTION cdi._retention_conditions_transition(bigint, VARIADIC "any") IS 'Internal: transition of cdi_retention_conditions().';

CREATE OR REPLACE FUNCTION cdi._retention_conditions_final(state bigint)
RETURNS boolean[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_conditions_final';
COMMENT ON FUNCTION cdi._retention_conditions_final(bigint) IS 'Internal: result of cdi_retention_conditions().';

CREATE OR REPLACE AGGREGATE cdi_retention_conditions(VARIADIC conditions "any") (
    SFUNC = cdi._retention_conditions_transition,
    STYPE = bigint,
    INITCOND = '0',
    FINALFUNC = cdi._retention_conditions_final,
    COMBINEFUNC = pg_catalog.int8or,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_retention_conditions(VARIADIC "any") IS
'ClickHouse''s retention(): for conditions c1 to cn an array of n booleans; the first says whether a row met c1, each other one whether a row met c1 and a row met that condition. Up to 32 conditions, null counts as false; an empty array without rows. Raises 42804 for other types, 54023 for more conditions.';

CREATE OR REPLACE FUNCTION cdi._history_transition(state internal, "timestamp" timestamptz)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_transition';
COMMENT ON FUNCTION cdi._history_transition(internal, timestamptz) IS 'Internal: transition of cdi_history().';

CREATE OR REPLACE FUNCTION cdi._history_transition(state internal, "timestamp" timestamptz, is_start boolean, is_return boolean)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_transition';
COMMENT ON FUNCTION cdi._history_transition(internal, timestamptz, boolean, boolean) IS 'Internal: transition of cdi_history().';

CREATE OR REPLACE FUNCTION cdi._history_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_combine';
COMMENT ON FUNCTION cdi._history_combine(internal, internal) IS 'Internal: two states of cdi_history() as one.';

CREATE OR REPLACE FUNCTION cdi._history_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_serial';
COMMENT ON FUNCTION cdi._history_serial(internal) IS 'Internal: a state of cdi_history() as bytes.';

CREATE OR REPLACE FUNCTION cdi._history_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_deserial';
COMMENT ON FUNCTION cdi._history_deserial(bytea, internal) IS 'Internal: a state of cdi_history() from bytes.';

CREATE OR REPLACE FUNCTION cdi._history_final(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_history_final';
COMMENT ON FUNCTION cdi._history_final(internal) IS 'Internal: result of cdi_history().';

CREATE OR REPLACE AGGREGATE cdi_history("timestamp" timestamptz) (
    SFUNC = cdi._history_transition,
    STYPE = internal,
    SSPACE = 160,
    FINALFUNC = cdi._history_final,
    COMBINEFUNC = cdi._history_combine,
    SERIALFUNC = cdi._history_serial,
    DESERIALFUNC = cdi._history_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_history(timestamptz) IS
'The times of a person''s events, for cdi_stickiness_counts() and cdi_lifecycle_counts() of the same statement; not for storage. Needs no sorted input; 8 bytes per distinct time. Rows without a time are left out, null without any. Raises 22008 for infinite times.';

CREATE OR REPLACE AGGREGATE cdi_history("timestamp" timestamptz, is_start boolean, is_return boolean) (
    SFUNC = cdi._history_transition,
    STYPE = internal,
    SSPACE = 160,
    FINALFUNC = cdi._history_final,
    COMBINEFUNC = cdi._history_combine,
    SERIALFUNC = cdi._history_serial,
    DESERIALFUNC = cdi._history_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_history(timestamptz, boolean, boolean) IS
'The times of a person''s start and return events, for cdi_retention_counts() of the same statement. One event may be both; rows that are neither are left out. Otherwise as cdi_history(timestamp).';

CREATE OR REPLACE FUNCTION cdi._retention_counts_transition(state internal, history bytea, options jsonb)
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_counts_transition';
COMMENT ON FUNCTION cdi._retention_counts_transition(internal, bytea, jsonb) IS 'Internal: transition of cdi_retention_counts().';

CREATE OR REPLACE FUNCTION cdi._retention_counts_final(state internal)
RETURNS cdi.retention_count[]
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_counts_final';
COMMENT ON FUNCTION cdi._retention_counts_final(internal) IS 'Internal: result of cdi_retention_counts().';

CREATE OR REPLACE FUNCTION cdi._retention_counts_combine(state internal, other internal)
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_counts_combine';
COMMENT ON FUNCTION cdi._retention_counts_combine(internal, internal) IS 'Internal: two states of cdi_retention_counts() as one.';

CREATE OR REPLACE FUNCTION cdi._retention_counts_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_counts_serial';
COMMENT ON FUNCTION cdi._retention_counts_serial(internal) IS 'Internal: a state of cdi_retention_counts() as bytes.';

CREATE OR REPLACE FUNCTION cdi._retention_counts_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_retention_counts_deserial';
COMMENT ON FUNCTION cdi._retention_counts_deserial(bytea, internal) IS 'Internal: a state of cdi_retention_counts() from bytes.';

CREATE OR REPLACE AGGREGATE cdi_retention_counts(history bytea, options jsonb) (
    SFUNC = cdi._retention_counts_transition,
    STYPE = internal,
    SSPACE = 65536,
    FINALFUNC = cdi._retention_counts_final,
    COMBINEFUNC = cdi._retention_counts_combine,
    SERIALFUNC = cdi._retention_counts_serial,
    DESERIALFUNC = cdi._retention_counts_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_retention_counts(bytea, jsonb) IS
'Retention over people''s histories, one row of input per person: SELECT r.* FROM unnest((SELECT cdi_retention_counts(h, options) FROM (SELECT cdi_history(at, is_start, is_return) AS h FROM events GROUP BY person) p)) r. Rows are those of cdi_retention(), and members of options its parameters by name (mode, period, periods, brackets, windows, entry, cohort, time_zone, from_time, to_time, as_of); ''{}'' takes all defaults. Null without people. Raises 22023 for unknown or invalid options.';

CREATE OR REPLACE FUNCTION cdi._stickiness_counts_transition(state internal, history bytea, options jsonb)
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_stickiness_counts_transition';
COMMENT ON FUNCTION cdi._stickiness_counts_transition(internal, bytea, jsonb) IS 'Internal: transition of cdi_stickiness_counts().';

CREATE OR REPLACE FUNCTION cdi._stickiness_counts_final(state internal)
RETURNS cdi.stickiness_count[]
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_stickiness_counts_final';
COMMENT ON FUNCTION cdi._stickiness_counts_final(internal) IS 'Internal: result of cdi_stickiness_counts().';

CREATE OR REPLACE FUNCTION cdi._activity_combine(state internal, other internal)
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_activity_combine';
COMMENT ON FUNCTION cdi._activity_combine(internal, internal) IS 'Internal: two states of cdi_stickiness_counts() or cdi_lifecycle_counts() as one.';

CREATE OR REPLACE FUNCTION cdi._activity_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_activity_serial';
COMMENT ON FUNCTION cdi._activity_serial(internal) IS 'Internal: a state of cdi_stickiness_counts() or cdi_lifecycle_counts() as bytes.';

CREATE OR REPLACE FUNCTION cdi._activity_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_activity_deserial';
COMMENT ON FUNCTION cdi._activity_deserial(bytea, internal) IS 'Internal: a state of cdi_stickiness_counts() or cdi_lifecycle_counts() from bytes.';

CREATE OR REPLACE AGGREGATE cdi_stickiness_counts(history bytea, options jsonb) (
    SFUNC = cdi._stickiness_counts_transition,
    STYPE = internal,
    SSPACE = 65536,
    FINALFUNC = cdi._stickiness_counts_final,
    COMBINEFUNC = cdi._activity_combine,
    SERIALFUNC = cdi._activity_serial,
    DESERIALFUNC = cdi._activity_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_stickiness_counts(bytea, jsonb) IS
'How many people were active on n of the last w days, for every day, w and n from 1 to w, over histories of cdi_history(timestamp). Members of options: from_day and to_day (both included; the day of as_of, and 28 days earlier), windows (lengths in days, default "1, 7, 28", up to 8 of up to 400), time_zone (UTC), as_of (now). Costs the active days of a person per window, whatever the number of days reported. Raises 22023 for unknown or invalid options.';

CREATE OR REPLACE FUNCTION cdi._lifecycle_counts_transition(state internal, history bytea, options jsonb)
RETURNS internal
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_lifecycle_counts_transition';
COMMENT ON FUNCTION cdi._lifecycle_counts_transition(internal, bytea, jsonb) IS 'Internal: transition of cdi_lifecycle_counts().';

CREATE OR REPLACE FUNCTION cdi._lifecycle_counts_final(state internal)
RETURNS cdi.lifecycle_count[]
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_lifecycle_counts_final';
COMMENT ON FUNCTION cdi._lifecycle_counts_final(internal) IS 'Internal: result of cdi_lifecycle_counts().';

CREATE OR REPLACE AGGREGATE cdi_lifecycle_counts(history bytea, options jsonb) (
    SFUNC = cdi._lifecycle_counts_transition,
    STYPE = internal,
    SSPACE = 65536,
    FINALFUNC = cdi._lifecycle_counts_final,
    COMBINEFUNC = cdi._activity_combine,
    SERIALFUNC = cdi._activity_serial,
    DESERIALFUNC = cdi._activity_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_lifecycle_counts(bytea, jsonb) IS
'New, retained, resurrected and dormant people per period, over histories of cdi_history(timestamp) that begin with each person''s first event ever. Members of options: from_day and to_day (the periods that hold them, both included; the day of as_of, and 12 periods earlier), period (day, week from Monday, month; default week), time_zone (UTC), as_of (now). Raises 22023 for unknown or invalid options.';

CREATE OR REPLACE FUNCTION cdi_retention(
    start_event jsonb,
    return_event jsonb DEFAULT '{}',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    mode text DEFAULT 'on',
    period text DEFAULT 'day',
    periods integer DEFAULT 14,
    brackets text DEFAULT NULL,
    windows text DEFAULT 'calendar',
    entry text DEFAULT 'first',
    cohort text DEFAULT 'day',
    time_zone text DEFAULT 'UTC',
    as_of timestamptz DEFAULT NULL)
RETURNS SETOF cdi.retention_count
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF start_event IS NULL OR return_event IS NULL THEN
        RAISE EXCEPTION 'start_event and return_event must not be null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = '{"event": "Signed Up"} is a tracked event, {} any page, screen or track.';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT r.* FROM unnest(('
        ' SELECT @extschema@.cdi_retention_counts(p.history, $1)'
        ' FROM (SELECT @extschema@.cdi_history(e."timestamp", e.is_start, e.is_return) AS history'
        ' FROM (SELECT e.person_id, e."timestamp", %s IS TRUE AS is_start, %s IS TRUE AS is_return FROM %s e) e'
        ' WHERE (e.is_start OR e.is_return) AND e."timestamp" < $2 GROUP BY e.person_id'
        ' UNION ALL SELECT NULL) p)) r',    -- parameters are checked without events, too
        cdi._step_condition(start_event), cdi._step_condition(return_event), cdi._people_events())
    USING jsonb_build_object(
        'mode', cdi_retention.mode, 'period', cdi_retention.period, 'periods', cdi_retention.periods,
        'brackets', cdi_retention.brackets, 'windows', cdi_retention.windows, 'entry', cdi_retention.entry,
        'cohort', cdi_retention.cohort, 'time_zone', cdi_retention.time_zone,
        'from_time', cdi_retention.from_time, 'to_time', cdi_retention.to_time,
        'as_of', coalesce(cdi_retention.as_of, now())), coalesce(cdi_retention.as_of, now());
END
$$;
COMMENT ON FUNCTION cdi_retention(jsonb, jsonb, timestamptz, timestamptz, text, text, integer, text, text, text, text, text, timestamptz) IS
'Of the people who did start_event from from_time to before to_time, how many did return_event how much later: one row per cohort (by day, week, month of the start, or all) and period, and one per period for all cohorts together (cohort null). eligible are those whose period has ended by as_of (now), of whom retained came back; both are null, or 0, where nobody''s has.
mode: on (in the period), on_or_after, on_or_before, streak (in this and all periods before). period: day, week, month; periods 0 to the number given, or brackets such as ''0, 1-3, 4-7''. windows: calendar, rolling (24 hours from the start), hour_floored (from the beginning of its hour). entry: first (the first start ever), first_in_range, every (once per cohort). A step is as in cdi_event_matches(); an event without a type may be a virtual one. Reads cdi.events with the caller''s privileges; one pass over the events, 8 bytes per event of the two steps. Raises 22023 for anything invalid, with what is valid.';

CREATE OR REPLACE FUNCTION cdi_stickiness(
    event jsonb DEFAULT '{}',
    from_day date DEFAULT NULL,
    to_day date DEFAULT NULL,
    week_days integer DEFAULT 7,
    month_days integer DEFAULT 28,
    time_zone text DEFAULT 'UTC',
    as_of timestamptz DEFAULT NULL)
RETURNS TABLE (
    day date,
    daily bigint,
    weekly bigint,
    monthly bigint,
    daily_of_weekly double precision,
    daily_of_monthly double precision,
    weekly_of_monthly double precision,
    complete boolean)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT c.day, c.daily, c.weekly, c.monthly,
           c.daily::double precision / nullif(c.weekly, 0), c.daily::double precision / nullif(c.monthly, 0),
           c.weekly::double precision / nullif(c.monthly, 0), c.complete
    FROM (
        SELECT s.day, s.complete,
               sum(s.people) FILTER (WHERE s.window_days = 1)::bigint AS daily,
               sum(s.people) FILTER (WHERE s.window_days = week_days)::bigint AS weekly,
               sum(s.people) FILTER (WHERE s.window_days = month_days)::bigint AS monthly
        FROM cdi._stickiness(event, from_day, to_day,
                 concat_ws(', ', 1, nullif(week_days, 1), nullif(nullif(month_days, 1), week_days)), time_zone, as_of) s
        GROUP BY s.day, s.complete
    ) c
    ORDER BY c.day;
END
$$;
COMMENT ON FUNCTION cdi_stickiness(jsonb, date, date, integer, integer, text, timestamptz) IS
'Distinct people who did an event on a day (daily), in the week_days and in the month_days that end with it, and the ratios of the three (null where nobody did), for every day from from_day to to_day (today, and 28 days before to_day), both included. complete: the day has ended by as_of (now). A step is as in cdi_event_matches(); an event without a type may be a virtual one. Exact; costs one pass over the events and the active days of a person. Raises 22023 for invalid parameters.';

CREATE OR REPLACE FUNCTION cdi_stickiness_distribution(
    event jsonb DEFAULT '{}',
    from_day date DEFAULT NULL,
    to_day date DEFAULT NULL,
    days integer DEFAULT 7,
    time_zone text DEFAULT 'UTC',
    as_of timestamptz DEFAULT NULL)
RETURNS SETOF cdi.stickiness_count
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT s.* FROM cdi._stickiness(event, from_day, to_day, days::text, time_zone, as_of) s;
END
$$;
COMMENT ON FUNCTION cdi_stickiness_distribution(jsonb, date, date, integer, text, timestamptz) IS
'How many people did an event on exactly n of the last so many days, for each n from 1 and every day from from_day to to_day; parameters as in cdi_stickiness().';

CREATE OR REPLACE FUNCTION cdi._activity_query(aggregate name, step jsonb)
RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
SELECT format(
    'SELECT c.* FROM unnest((SELECT @extschema@.%I(p.history, $1)'
    ' FROM (SELECT @extschema@.cdi_history(e."timestamp") AS history FROM %s e WHERE e."timestamp" < $2 AND (%s) GROUP BY e.person_id'
    ' UNION ALL SELECT NULL) p)) c',    -- parameters are checked without events, too
    aggregate, cdi._people_events(), cdi._step_condition(coalesce(step, '{}')))
$$;
COMMENT ON FUNCTION cdi._activity_query(name, jsonb) IS 'Internal: statement of a report that counts the histories of people who did a step, with options $1, of which $2 is as_of.';

CREATE OR REPLACE FUNCTION cdi._stickiness(
    step jsonb, from_day date, to_day date, windows text, time_zone text, as_of timestamptz)
RETURNS SETOF cdi.stickiness_count
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE cdi._activity_query('cdi_stickiness_counts', step)
    USING jsonb_build_object(
        'from_day', from_day, 'to_day', to_day, 'windows', windows, 'time_zone', time_zone,
        'as_of', coalesce(as_of, now())), coalesce(as_of, now());
END
$$;
COMMENT ON FUNCTION cdi._stickiness(jsonb, date, date, text, text, timestamptz) IS 'Internal: what both reports of stickiness read.';

CREATE OR REPLACE FUNCTION cdi_lifecycle(
    event jsonb DEFAULT '{}',
    from_day date DEFAULT NULL,
    to_day date DEFAULT NULL,
    period text DEFAULT 'week',
    time_zone text DEFAULT 'UTC',
    as_of timestamptz DEFAULT NULL)
RETURNS SETOF cdi.lifecycle_count
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE cdi._activity_query('cdi_lifecycle_counts', cdi_lifecycle.event)
    USING jsonb_build_object(
        'from_day', from_day, 'to_day', to_day, 'period', cdi_lifecycle.period, 'time_zone', time_zone,
        'as_of', coalesce(as_of, now())), coalesce(as_of, now());
END
$$;
COMMENT ON FUNCTION cdi_lifecycle(jsonb, date, date, text, text, timestamptz) IS
'People per period by what they did before: new (their first event ever lies in it), retained (active in the period before, too), resurrected (active earlier, and not in the period before), and dormant (active in the period before, and not in this one). active = new + retained + resurrected; dormant = active of the period before - retained. Periods are days, weeks from Monday (ISO) or months of the time zone, from the one of from_day (12 periods earlier) to that of to_day (today). complete: the period has ended by as_of (now); before that, dormant counts people who may still come. A step is as in cdi_event_matches(); an event without a type may be a virtual one. Raises 22023 for invalid parameters.';

CREATE OR REPLACE FUNCTION cdi_cohorts(
    event jsonb DEFAULT '{}',
    period text DEFAULT 'week',
    time_zone text DEFAULT 'UTC',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL)
RETURNS TABLE (person_id uuid, cohort date, started_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF cdi_cohorts.period IS NULL OR cdi_cohorts.period NOT IN ('day', 'week', 'month') THEN
        RAISE EXCEPTION 'unknown period "%"', cdi_cohorts.period
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is one of day, week, month.';
    END IF;
    IF from_time > to_time THEN
        RAISE EXCEPTION 'from_time is after to_time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM now() AT TIME ZONE time_zone;   -- raises without events, too
    RETURN QUERY EXECUTE format(
        'SELECT f.person_id, date_trunc($1, f.started_at AT TIME ZONE $2)::date, f.started_at'
        ' FROM (SELECT e.person_id, min(e."timestamp") AS started_at FROM %s e WHERE %s GROUP BY 1) f'
        ' WHERE ($3 IS NULL OR f.started_at >= $3) AND ($4 IS NULL OR f.started_at < $4)',
        cdi._people_events(), cdi._step_condition(coalesce(cdi_cohorts.event, '{}')))
    USING cdi_cohorts.period, time_zone, from_time, to_time;
END
$$;
COMMENT ON FUNCTION cdi_cohorts(jsonb, text, text, timestamptz, timestamptz) IS
'Acquisition cohorts: each person with the first time he did the event, ever, and the first day of the day, week (from Monday) or month of the time zone in which that lies; people whose first time is from from_time to before to_time. A step is as in cdi_event_matches(); an event without a type may be a virtual one. Raises 22023 for invalid parameters.';

CREATE OR REPLACE FUNCTION cdi_behavioural_cohort(
    event jsonb,
    times integer DEFAULT 1,
    within interval DEFAULT NULL,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL)
RETURNS TABLE (person_id uuid, reached_at timestamptz, events bigint)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF times IS NULL OR times < 1 THEN
        RAISE EXCEPTION 'times must be 1 or more' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF within < interval '0' OR extract(year FROM within) <> 0 OR extract(month FROM within) <> 0 THEN
        RAISE EXCEPTION 'within must be a length in days or less, and not negative'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A month has no fixed length; say interval ''30 days''.';
    END IF;
    IF from_time > to_time THEN
        RAISE EXCEPTION 'from_time is after to_time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT o.person_id, min(o."timestamp") FILTER (WHERE o.reached), count(*)'
        ' FROM (SELECT e.person_id, e."timestamp", e.begins IS NOT NULL AND ($1 IS NULL'
        ' OR extract(epoch FROM e."timestamp" - e.begins) <= extract(epoch FROM $1)) AS reached'
        ' FROM (SELECT p.person_id, p."timestamp", lag(p."timestamp", $2 - 1) OVER (PARTITION BY p.person_id ORDER BY p."timestamp") AS begins'
        ' FROM (SELECT e.person_id, e."timestamp" FROM %s e WHERE %s'
        ' AND ($3 IS NULL OR e."timestamp" >= $3) AND ($4 IS NULL OR e."timestamp" < $4)) p) e) o'
        ' GROUP BY o.person_id HAVING bool_or(o.reached)',
        cdi._people_events(), cdi._step_condition(coalesce(cdi_behavioural_cohort.event, 'null')))
    USING within, times, from_time, to_time;
END
$$;
COMMENT ON FUNCTION cdi_behavioural_cohort(jsonb, integer, interval, timestamptz, timestamptz) IS
'People who did an event at least so many times within so long (any such window; null: ever), from from_time to before to_time: with the time at which they had, and the number of times in all. For joins: ... JOIN cdi_behavioural_cohort(...) USING (person_id). A day has 24 hours. A step is as in cdi_event_matches(); an event without a type may be a virtual one. Raises 22023 for invalid parameters.';
