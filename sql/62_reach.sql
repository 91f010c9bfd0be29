-- Reach and frequency (src/behaviour/reach.c).

CREATE OR REPLACE FUNCTION cdi._reach_transition(state internal, person uuid, channel text)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_reach_transition';
COMMENT ON FUNCTION cdi._reach_transition(internal, uuid, text) IS 'Internal: transition of cdi_reach().';

CREATE OR REPLACE FUNCTION cdi._frequency_transition(state internal, person uuid, touches bigint, frequencies integer)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_frequency_transition';
COMMENT ON FUNCTION cdi._frequency_transition(internal, uuid, bigint, integer) IS 'Internal: transition of cdi_frequency().';

CREATE OR REPLACE FUNCTION cdi._reach_combine(internal, internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_reach_combine';
COMMENT ON FUNCTION cdi._reach_combine(internal, internal) IS 'Internal: adds one state of cdi_reach() or cdi_frequency() to another.';

CREATE OR REPLACE FUNCTION cdi._reach_serial(internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_reach_serial';
COMMENT ON FUNCTION cdi._reach_serial(internal) IS 'Internal: state of cdi_reach() or cdi_frequency() as bytes.';

CREATE OR REPLACE FUNCTION cdi._reach_deserial(bytea, internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_reach_deserial';
COMMENT ON FUNCTION cdi._reach_deserial(bytea, internal) IS 'Internal: state of cdi_reach() or cdi_frequency() from bytes.';

CREATE OR REPLACE FUNCTION cdi._reach_final(internal)
RETURNS cdi.reach_combination[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_reach_final';
COMMENT ON FUNCTION cdi._reach_final(internal) IS 'Internal: result of cdi_reach().';

CREATE OR REPLACE FUNCTION cdi._frequency_final(internal)
RETURNS bigint[]
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_frequency_final';
COMMENT ON FUNCTION cdi._frequency_final(internal) IS 'Internal: result of cdi_frequency().';

CREATE OR REPLACE AGGREGATE cdi_reach(person uuid, channel text) (
    SFUNC = cdi._reach_transition,
    STYPE = internal,
    SSPACE = 4096,
    FINALFUNC = cdi._reach_final,
    COMBINEFUNC = cdi._reach_combine,
    SERIALFUNC = cdi._reach_serial,
    DESERIALFUNC = cdi._reach_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_reach(uuid, text) IS
'How many people each combination of channels reached: an array of (channels, people, touches), every person in the one element that has exactly its channels, those with most people first. A row is a touch; rows with a null person or channel do not count. Exact, up to 64 channels (54000 beyond); keeps 40 bytes per person in a hash table, needs no order, runs in parallel plans. Null without rows.';

CREATE OR REPLACE AGGREGATE cdi_frequency(person uuid, touches bigint, frequencies integer) (
    SFUNC = cdi._frequency_transition,
    STYPE = internal,
    SSPACE = 4096,
    FINALFUNC = cdi._frequency_final,
    COMBINEFUNC = cdi._reach_combine,
    SERIALFUNC = cdi._reach_serial,
    DESERIALFUNC = cdi._reach_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_frequency(uuid, bigint, integer) IS
'How often people were reached: an array with the number of people who had 1, 2, ... touches, the last element being those with that many or more. touches is the number of touches of the row, 1 where each row is one; rows with a null person or of no touches do not count. frequencies is the length of the array, 1 to 10000. Exact; memory and plans as cdi_reach(). Raises 22023 for negative touches.';

CREATE OR REPLACE FUNCTION cdi_reach_increments(combinations cdi.reach_combination[], channels text[] DEFAULT NULL)
RETURNS TABLE (place bigint, channel text, reach bigint, incremental_reach bigint, cumulative_reach bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
WITH c AS (SELECT u.channels AS reached_by, u.people FROM unnest($1) u),
asked AS (
    SELECT coalesce($2, (SELECT array_agg(r.channel ORDER BY r.people DESC, r.channel COLLATE "C")
                         FROM (SELECT n.channel, sum(c.people) AS people FROM c, unnest(c.reached_by) n (channel) GROUP BY n.channel) r)) AS channels)
SELECT o.place, o.channel,
       coalesce(sum(c.people) FILTER (WHERE o.channel = ANY (c.reached_by)), 0)::bigint,
       coalesce(sum(c.people) FILTER (WHERE o.channel = ANY (c.reached_by) AND NOT c.reached_by && a.channels[:o.place::integer - 1]), 0)::bigint,
       coalesce(sum(c.people) FILTER (WHERE c.reached_by && a.channels[:o.place::integer]), 0)::bigint
FROM asked a CROSS JOIN unnest(a.channels) WITH ORDINALITY o (channel, place) LEFT JOIN c ON true
GROUP BY o.place, o.channel ORDER BY o.place
$$;
COMMENT ON FUNCTION cdi_reach_increments(cdi.reach_combination[], text[]) IS
'What each channel adds, in an order of yours, to the people whom those before it reached; takes what cdi_reach() returned. Without an order the channel that reached most people comes first. cumulative_reach of the last place is the deduplicated reach of all that are listed. A channel that reached nobody, or stands in the order again, adds 0.';

-- The touches of a report: period, person, value of the dimension.
CREATE OR REPLACE FUNCTION cdi._reach_touches(dimension text, period text, touch_types text[])
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF dimension IS NULL OR dimension NOT IN ('channel', 'campaign_source', 'campaign_medium', 'campaign_name', 'campaign_term', 'campaign_content') THEN
        RAISE EXCEPTION 'dimension % does not exist', coalesce(quote_ident(dimension), 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It is channel, campaign_source, campaign_medium, campaign_name, campaign_term or campaign_content. Anything else: cdi_reach() and cdi_frequency() over rows of your own.';
    END IF;
    IF period NOT IN ('hour', 'day', 'week', 'month', 'quarter', 'year') THEN
        RAISE EXCEPTION 'period % does not exist', quote_ident(period)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is hour, day, week, month, quarter or year, in UTC.';
    END IF;
    RETURN format('SELECT %s AS period_start, t.person_id, coalesce(t.%I, ''(none)'') AS value FROM cdi.touchpoints t'
                  ' WHERE t.person_id IS NOT NULL AND ($1 IS NULL OR t.touched_at >= $1) AND ($2 IS NULL OR t.touched_at < $2)%s',
                  CASE WHEN period IS NULL THEN 'NULL::timestamptz' ELSE format('date_trunc(%L, t.touched_at, ''UTC'')', period) END,
                  dimension, CASE WHEN touch_types IS NOT NULL THEN ' AND t.touch_type = ANY ($3)' END);
END
$$;
COMMENT ON FUNCTION cdi._reach_touches(text, text, text[]) IS 'Internal: the query for the touches of a report on reach.';

CREATE OR REPLACE FUNCTION cdi_channel_reach(
    dimension text DEFAULT 'channel',
    period text DEFAULT NULL,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    touch_types text[] DEFAULT NULL,
    frequencies integer DEFAULT 10)
RETURNS TABLE (period_start timestamptz, value text, reach bigint, touches bigint, average_frequency double precision,
    exclusive_reach bigint, people_by_frequency bigint[])
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE 'WITH t AS MATERIALIZED (' || cdi._reach_touches(dimension, period, touch_types) || '),
exclusive AS (
    SELECT o.period_start, o.value, count(*) AS people
    FROM (SELECT t.period_start, min(t.value COLLATE "C") AS value FROM t
          GROUP BY t.period_start, t.person_id HAVING min(t.value COLLATE "C") = max(t.value COLLATE "C")) o
    GROUP BY o.period_start, o.value),
counted AS (
    SELECT t.period_start, t.value, grouping(t.value) AS total, count(*) AS touches, @extschema@.cdi_frequency(t.person_id, 1, $4) AS people
    FROM t GROUP BY GROUPING SETS ((t.period_start, t.value), (t.period_start)) HAVING count(*) > 0)
SELECT c.period_start, c.value, r.reach, c.touches, c.touches::double precision / r.reach,
       CASE WHEN c.total = 1 THEN r.reach ELSE coalesce(e.people, 0) END, c.people
FROM counted c
CROSS JOIN LATERAL (SELECT sum(n)::bigint AS reach FROM unnest(c.people) n) r
LEFT JOIN exclusive e ON c.total = 0 AND e.period_start IS NOT DISTINCT FROM c.period_start AND e.value = c.value
ORDER BY c.period_start, c.total DESC, r.reach DESC, c.value COLLATE "C"'
    USING from_time, to_time, touch_types, frequencies;
END
$$;
COMMENT ON FUNCTION cdi_channel_reach(text, text, timestamptz, timestamptz, text[], integer) IS
'Reach and frequency per channel (or campaign_source, _medium, _name, _term, _content) and period (hour, day, week, month, quarter, year in UTC; null: all as one), over cdi.touchpoints from from_time to before to_time, of all touch types or those given. People are counted once, across devices; a value of null is the row of all channels together, in which people are counted once across channels, too. exclusive_reach: people whom in the period no other value reached. people_by_frequency: people with 1, 2, ... touches, the last element with that many or more (frequencies). With the caller''s privileges; keeps the touches of the period and 40 bytes per person and value. Raises 22023.';

CREATE OR REPLACE FUNCTION cdi_reach_overlap(
    dimension text DEFAULT 'channel',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    touch_types text[] DEFAULT NULL)
RETURNS TABLE (channels text[], people bigint, touches bigint, share double precision)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT c.channels, c.people, c.touches, c.people::double precision / sum(c.people) OVER ()
FROM unnest((SELECT @extschema@.cdi_reach(t.person_id, t.value) FROM (' || cdi._reach_touches(dimension, NULL, touch_types) || ') t)) c'
    USING from_time, to_time, touch_types;
END
$$;
COMMENT ON FUNCTION cdi_reach_overlap(text, timestamptz, timestamptz, text[]) IS
'Which combinations of channels reached how many people: each person in the row that has exactly its channels, those with most people first; share is that of all people reached. Arguments as cdi_channel_reach(); at most 64 channels (54000).';

CREATE OR REPLACE FUNCTION cdi_incremental_reach(
    channels text[] DEFAULT NULL,
    dimension text DEFAULT 'channel',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    touch_types text[] DEFAULT NULL)
RETURNS TABLE (place bigint, channel text, reach bigint, incremental_reach bigint, cumulative_reach bigint)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT i.* FROM @extschema@.cdi_reach_increments(
(SELECT @extschema@.cdi_reach(t.person_id, t.value) FROM (' || cdi._reach_touches(dimension, NULL, touch_types) || ') t), $4) i'
    USING from_time, to_time, touch_types, channels;
END
$$;
COMMENT ON FUNCTION cdi_incremental_reach(text[], text, timestamptz, timestamptz, text[]) IS
'What each channel adds, in the given order, to the people whom those before it reached, over cdi.touchpoints; arguments as cdi_channel_reach(), at most 64 channels (54000). Without an order the channel that reached most people comes first.';

-- A touch may claim any time: one of the year 1 shall not make a row for each hour since.
CREATE OR REPLACE FUNCTION cdi._reach_periods(first timestamptz, last timestamptz, step interval)
RETURNS SETOF timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF extract(epoch FROM last - first) / extract(epoch FROM step) > 40000 THEN
        RAISE EXCEPTION 'from % to % are more than 40000 periods', first, last
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ask for a shorter time with from_time and to_time, or for longer periods.';
    END IF;
    RETURN QUERY SELECT generate_series(first, last, step);
END
$$;
COMMENT ON FUNCTION cdi._reach_periods(timestamptz, timestamptz, interval) IS 'Internal: the periods of a curve; raises where they are too many.';

CREATE OR REPLACE FUNCTION cdi_reach_curve(
    dimension text DEFAULT 'channel',
    period text DEFAULT 'day',
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    touch_types text[] DEFAULT NULL)
RETURNS TABLE (period_start timestamptz, value text, new_people bigint, cumulative_reach bigint)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $$
BEGIN
    IF period IS NULL THEN
        RAISE EXCEPTION 'the period of a curve cannot be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RETURN QUERY EXECUTE 'WITH t AS MATERIALIZED (' || cdi._reach_touches(dimension, period, touch_types) || '),
firsts AS (
    SELECT f.value, f.period_start, count(*) AS people
    FROM (SELECT t.value, t.person_id, min(t.period_start) AS period_start FROM t GROUP BY GROUPING SETS ((t.value, t.person_id), (t.person_id))) f
    GROUP BY f.value, f.period_start),
periods AS (
    SELECT p.period_start FROM (SELECT min(t.period_start) AS first, max(t.period_start) AS last FROM t) b,
         cdi._reach_periods(b.first, b.last, $4) p (period_start)),
named AS (SELECT DISTINCT f.value FROM firsts f)
SELECT p.period_start, n.value, coalesce(f.people, 0),
       (sum(coalesce(f.people, 0)) OVER (PARTITION BY n.value ORDER BY p.period_start))::bigint
FROM periods p CROSS JOIN named n
LEFT JOIN firsts f ON f.period_start = p.period_start AND f.value IS NOT DISTINCT FROM n.value
ORDER BY n.value COLLATE "C" NULLS FIRST, p.period_start'
    USING from_time, to_time, touch_types, CASE period WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || period)::interval END;
END
$$;
COMMENT ON FUNCTION cdi_reach_curve(text, text, timestamptz, timestamptz, text[]) IS
'How reach grows: per period, from the first to the last with a touch, people who are reached for the first time since from_time and all who have been, per channel (or campaign field) and, where value is null, all together. Arguments as cdi_channel_reach().';
