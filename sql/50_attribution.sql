-- Conversions and attribution (src/attribution).

CREATE OR REPLACE FUNCTION cdi_property_number(properties jsonb, property text)
RETURNS numeric
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_property_number(jsonb, text) IS
'Value of a property that is a JSON number or a string with a decimal number, exactly; null where it is missing or anything else.';

CREATE OR REPLACE FUNCTION cdi_create_conversion(
    name text,
    event text,
    value_property text DEFAULT 'revenue',
    lookback interval DEFAULT '30 days')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(cdi_create_conversion.name, '') = '' OR coalesce(cdi_create_conversion.event, '') = '' THEN
        RAISE EXCEPTION 'a conversion needs a name and an event'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'SELECT cdi_create_conversion(''signup'', ''Signed Up'', value_property => NULL);';
    END IF;
    IF cdi_create_conversion.lookback IS NULL OR cdi_create_conversion.lookback <= interval '0' THEN
        RAISE EXCEPTION 'the lookback window must be longer than zero'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO cdi.conversions AS c (name, event, value_property, lookback)
    VALUES (cdi_create_conversion.name, cdi_create_conversion.event,
            cdi_create_conversion.value_property, cdi_create_conversion.lookback)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'conversion "%" exists already', cdi_create_conversion.name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Remove it with cdi_drop_conversion() to declare it anew; events are not touched.';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_create_conversion(text, text, text, interval) IS
'Declares that a tracked event is a conversion. value_property names the property that holds its value (null: it has none); touchpoints count when they lie at most lookback before it. Applies to events of the past as well. Raises 42710 where the name is taken.';

CREATE OR REPLACE FUNCTION cdi_drop_conversion(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.conversions c WHERE c.name = cdi_drop_conversion.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'conversion "%" does not exist', cdi_drop_conversion.name
            USING ERRCODE = 'ZC302',
                  HINT = coalesce('Conversions are ' || (SELECT string_agg(c.name, ', ' ORDER BY c.name) FROM cdi.conversions c) || '.',
                                  'There are none.');
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_drop_conversion(text) IS
'Removes the declaration of a conversion; events are not touched. Raises ZC302 where there is none of that name.';

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
'Who gets the credit: one row per conversion and touchpoint with credit under a model (first_touch, last_touch, linear). Touchpoints of the person count from lookback before the conversion up to its own instant, both included; touch is the number within that path of touches. Conversions from from_time to before to_time, of one name or all.
Credits of a conversion sum to 1 and credited values to its value, exactly: shares are rounded to 12 digits (or the value''s own) and the last takes the remainder. A conversion without a touchpoint has one row with channel unattributed and credit 1. value is null where the event has none.
Raises ZC301 for an unknown model, ZC302 for an unknown conversion. Reads cdi.touchpoints and cdi.conversion_events with the caller''s privileges; cost is one pass over the browsing events and a sort.';
