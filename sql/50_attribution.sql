-- Attribution (src/attribution).

CREATE OR REPLACE FUNCTION cdi._journey_touches_add(
    state internal, reading bigint,
    person_id uuid, touched_at timestamptz, "position" bigint, touch_type text, session_id uuid, VARIADIC dimensions "any")
RETURNS internal
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_touches_add';
COMMENT ON FUNCTION cdi._journey_touches_add(internal, bigint, uuid, timestamptz, bigint, text, uuid, "any") IS 'Internal: a touch for an attribution that runs.';

CREATE OR REPLACE FUNCTION cdi._journey_touches_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_touches_combine';
COMMENT ON FUNCTION cdi._journey_touches_combine(internal, internal) IS 'Internal: the touches of all processes are those of the leader.';

CREATE OR REPLACE FUNCTION cdi._journey_touches_serialise(state internal)
RETURNS bytea
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_touches_serialise';
COMMENT ON FUNCTION cdi._journey_touches_serialise(internal) IS 'Internal: where a parallel worker has left its touches.';

CREATE OR REPLACE FUNCTION cdi._journey_touches_deserialise(bytes bytea, state internal)
RETURNS internal
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_touches_deserialise';
COMMENT ON FUNCTION cdi._journey_touches_deserialise(bytea, internal) IS 'Internal: the leader takes the touches of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._journey_touches_end(state internal)
RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_touches_end';
COMMENT ON FUNCTION cdi._journey_touches_end(internal) IS 'Internal: whether there was a touch.';

CREATE OR REPLACE AGGREGATE cdi._journey_touches(
    reading bigint,
    person_id uuid, touched_at timestamptz, "position" bigint, touch_type text, session_id uuid, VARIADIC dimensions "any") (
    SFUNC = cdi._journey_touches_add,
    STYPE = internal,
    SSPACE = 1048576,
    FINALFUNC = cdi._journey_touches_end,
    COMBINEFUNC = cdi._journey_touches_combine,
    SERIALFUNC = cdi._journey_touches_serialise,
    DESERIALFUNC = cdi._journey_touches_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi._journey_touches(bigint, uuid, timestamptz, bigint, text, uuid, VARIADIC "any") IS 'Internal: gives touches to an attribution that runs; see src/attribution/journeys_parallel.c.';

CREATE OR REPLACE FUNCTION cdi._journey_converts(reading bigint, person_id uuid)
RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_journey_converts';
COMMENT ON FUNCTION cdi._journey_converts(bigint, uuid) IS 'Internal: whether a person has a conversion in an attribution that runs.';

CREATE OR REPLACE FUNCTION cdi._attribution_sums(
    models text[],
    dimensions text[],
    conversion text,
    from_time timestamptz,
    to_time timestamptz,
    lookback interval,
    parameters jsonb,
    by_conversion boolean DEFAULT true)
RETURNS TABLE (
    model text,
    conversion text,
    dimensions text[],
    conversions double precision,
    conversions_low double precision,
    conversions_high double precision,
    value numeric,
    value_low numeric,
    value_high numeric,
    unvalued double precision)
LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000000 ROWS 1000
SET search_path = pg_catalog, pg_temp
SET jit = off
AS 'MODULE_PATHNAME', 'cdi_attribution_sums';
COMMENT ON FUNCTION cdi._attribution_sums(text[], text[], text, timestamptz, timestamptz, interval, jsonb, boolean) IS 'Internal: credit by model, conversion (unless by_conversion is false) and dimensions, of which day is that of the conversion.';

CREATE OR REPLACE FUNCTION cdi_attribution(
    model text DEFAULT 'last_touch',
    conversion text DEFAULT NULL,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    lookback interval DEFAULT NULL,
    parameters jsonb DEFAULT '{}')
RETURNS TABLE (
    conversion_event_id uuid,
    conversion text,
    person_id uuid,
    converted_at timestamptz,
    value numeric,
    session_id uuid,
    touched_at timestamptz,
    channel text,
    campaign_source text,
    campaign_medium text,
    campaign_name text,
    touch integer,
    touches integer,
    credit double precision,
    credited_value numeric,
    touch_type text,
    days_before double precision,
    weight double precision,
    reason text)
LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000000 ROWS 100000
SET search_path = pg_catalog, pg_temp
SET jit = off
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_attribution(text, text, timestamptz, timestamptz, interval, jsonb) IS
'Who gets the credit: one row per conversion and touchpoint with credit under a model: first_touch, last_touch, last_non_direct, linear, time_decay, position_based, u_shaped, j_shaped, inverse_j, w_shaped, z_shaped (full_path), participation, custom, and of all paths markov, shapley, shapley_ordered, logistic, additive_hazard. docs/attribution.md has their formulas and parameters. Touchpoints of the person count from lookback before the conversion up to its own instant, both included; touch is the number within that path of touches. Conversions from from_time to before to_time, of one name or all.
Credits of a conversion sum to 1 (of participation: to the number of channels) and credited values to its value, exactly: shares are rounded to 12 digits (or the value''s own) and the last takes the remainder. A conversion without a touchpoint has one row with channel unattributed and credit 1. value is null where the event has none.
touch_type, days_before (the conversion), weight and reason say why a touch got what it got.
Raises ZC301 for an unknown model, ZC302 for an unknown conversion, 22023 for an unknown parameter. Reads cdi.touchpoints and cdi.conversion_events, or relations that parameters name, with the caller''s privileges; cost is one pass over each.';

CREATE OR REPLACE FUNCTION cdi_attribution_report(
    models text[] DEFAULT '{last_touch}',
    conversion text DEFAULT NULL,
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    dimensions text[] DEFAULT '{channel}',
    lookback interval DEFAULT NULL,
    parameters jsonb DEFAULT '{}',
    currency text DEFAULT NULL)
RETURNS TABLE (
    model text,
    dimension text[],
    conversions double precision,
    value numeric,
    unvalued double precision,
    spend numeric,
    impressions bigint,
    clicks bigint,
    cpa double precision,
    roas double precision,
    conversions_difference double precision,
    value_difference numeric,
    conversions_low double precision,
    conversions_high double precision,
    value_low numeric,
    value_high numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    spend_dimensions CONSTANT text[] := '{day,channel,campaign_source,campaign_medium,campaign_name}';
    has_spend CONSTANT boolean := cdi_attribution_report.dimensions <@ spend_dimensions;
    target text := cdi_attribution_report.currency;
    currencies text[];
BEGIN
    IF models IS NULL OR cdi_attribution_report.dimensions IS NULL THEN
        RAISE EXCEPTION 'models and dimensions of a report cannot be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF cardinality(models) = 0 THEN
        RAISE EXCEPTION 'a report needs at least one model' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_agg(DISTINCT coalesce(c.reporting_currency, c.currency)) INTO currencies
    FROM cdi.conversions c WHERE (cdi_attribution_report.conversion IS NULL OR c.name = cdi_attribution_report.conversion)
                             AND coalesce(c.reporting_currency, c.currency) IS NOT NULL;
    IF cardinality(currencies) > 1 OR currencies[1] <> target THEN
        RAISE EXCEPTION 'values of conversions are in %', array_to_string(currencies, ' and ')
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Amounts in several currencies have no sum and no ratio.',
                  HINT = CASE WHEN cardinality(currencies) > 1 THEN 'Name one conversion, or declare the same reporting_currency for all.'
                              ELSE format('Declare reporting_currency => %L for the conversion, or leave out the currency of the report.', target) END;
    END IF;
    IF has_spend AND target IS NULL THEN
        IF currencies IS NULL THEN
            SELECT array_agg(DISTINCT s.currency) INTO currencies FROM cdi.spend s;
        END IF;
        IF cardinality(currencies) > 1 THEN
            RAISE EXCEPTION 'spend is in several currencies: %', array_to_string(currencies, ', ')
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Name the currency of the report, as in currency => ''EUR'', or declare the reporting currency of the conversion.';
        END IF;
        target := currencies[1];
    END IF;
    RETURN QUERY
    WITH credit AS (
        SELECT s.*
        FROM cdi._attribution_sums(models, cdi_attribution_report.dimensions, cdi_attribution_report.conversion,
                 from_time, to_time, lookback, parameters, false) s
    ), cost AS (
        SELECT k.dimensions,
               -- one amount without a rate leaves nothing that could be called the sum
               CASE WHEN count(*) = count(c.amount) THEN sum(c.amount) END AS amount,
               sum(c.impressions)::bigint AS impressions, sum(c.clicks)::bigint AS clicks
        FROM (
            SELECT s.*, CASE WHEN s.currency = target THEN s.amount
                             ELSE s.amount * (SELECT r.rate FROM cdi.exchange_rates r
                                              WHERE r.currency = s.currency AND r.reporting_currency = target AND r.day BETWEEN s.day - 7 AND s.day
                                              ORDER BY r.day DESC LIMIT 1) END AS converted
            FROM cdi.spend s
            WHERE has_spend AND (from_time IS NULL OR s.day::timestamp AT TIME ZONE 'UTC' >= from_time)
              AND (to_time IS NULL OR s.day::timestamp AT TIME ZONE 'UTC' < to_time)
        ) s
        CROSS JOIN LATERAL (SELECT s.converted AS amount, s.impressions, s.clicks) c
        CROSS JOIN LATERAL (
            SELECT coalesce(array_agg(nullif(CASE d.name WHEN 'day' THEN to_char(s.day, 'YYYY-MM-DD') WHEN 'channel' THEN s.channel
                                WHEN 'campaign_source' THEN s.campaign_source WHEN 'campaign_medium' THEN s.campaign_medium
                                WHEN 'campaign_name' THEN s.campaign_name END, '') ORDER BY d.number), '{}') AS dimensions
            FROM unnest(cdi_attribution_report.dimensions) WITH ORDINALITY d (name, number)
        ) k
        GROUP BY k.dimensions
    ), rows AS (
        SELECT m.number, m.name AS model, k.dimensions,
               coalesce(c.conversions, 0) AS conversions, coalesce(c.value, 0) AS value, coalesce(c.unvalued, 0) AS unvalued,
               c.conversions_low, c.conversions_high, c.value_low, c.value_high,
               s.amount, s.impressions, s.clicks
        FROM (SELECT c.dimensions FROM credit c UNION SELECT s.dimensions FROM cost s) k
        CROSS JOIN unnest(models) WITH ORDINALITY m (name, number)
        LEFT JOIN credit c ON c.dimensions = k.dimensions AND c.model = m.name
        LEFT JOIN cost s ON s.dimensions = k.dimensions
    )
    SELECT r.model, r.dimensions, r.conversions, r.value, r.unvalued, r.amount, r.impressions, r.clicks,
           (r.amount / nullif(r.conversions, 0)::numeric)::double precision,
           (r.value / nullif(r.amount, 0))::double precision,
           r.conversions - b.conversions, r.value - b.value,
           r.conversions_low, r.conversions_high, r.value_low, r.value_high
    FROM rows r
    JOIN rows b ON b.dimensions = r.dimensions AND b.number = 1
    ORDER BY r.dimensions, r.number;
END
$$;
COMMENT ON FUNCTION cdi_attribution_report(text[], text, timestamptz, timestamptz, text[], interval, jsonb, text) IS
'Credit under several models side by side, summed by dimensions of the touches (channel, campaign_source, campaign_medium, campaign_name, any other column of cdi.touchpoints, and day, that of the conversion), with cdi.spend: cost per conversion (cpa), value per cost (roas), and the difference to the first model. dimension has their values in the order asked for.
spend, cpa and roas are null where there is no spend, where a rate is missing, and where spend is not known by a dimension; none is ever NaN. unvalued counts conversions without a value. The parameters bootstrap (0 replicates), confidence (0.95) and seed (1) give the bounds of intervals: percentiles over conversions, for models of all paths also paths that led to none, drawn with replacement. Takes parameters like cdi_attribution(); an object with a model''s name has those of that model alone. One pass over conversions and touches for all models.';

CREATE OR REPLACE FUNCTION cdi_touch_credit(
    model text,
    touched_at timestamptz,
    converted_at timestamptz DEFAULT NULL,
    label text DEFAULT NULL,
    parameters jsonb DEFAULT '{}')
RETURNS double precision
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_touch_credit(text, timestamptz, timestamptz, text, jsonb) IS
'Window function: credit of each touch of a path under a rule model, OVER (PARTITION BY conversion ORDER BY touched_at), with the code of cdi_attribution(). Credits of a partition sum to 1 (participation: each label has 1). time_decay needs converted_at; last_non_direct and participation need label, the channel. Raises 42P20 where touches are not in order of time, 22023 for a touch after converted_at and for parameters, 22004 where no touch has the label that a model needs, ZC301 for an unknown model.';
