-- Conversions and spend (src/attribution).

CREATE OR REPLACE FUNCTION cdi_property_number(properties jsonb, property text)
RETURNS numeric
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_property_number(jsonb, text) IS
'Value of a property that is a JSON number or a string with a decimal number, exactly; null where it is missing or anything else.';

-- Events come from anybody, and one of 1e131071 would fail every sum.
CREATE OR REPLACE FUNCTION cdi._usable_value(value numeric)
RETURNS numeric
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_usable_value';
COMMENT ON FUNCTION cdi._usable_value(numeric) IS 'Internal: the value of a conversion, to 100 digits before and after the point; null where it is larger, NaN or infinite.';

CREATE OR REPLACE FUNCTION cdi._require_value_expression(expression text)
RETURNS void
LANGUAGE C STRICT
AS 'MODULE_PATHNAME', 'cdi_require_value_expression';
COMMENT ON FUNCTION cdi._require_value_expression(text) IS 'Internal: raises ZC303 unless the caller could have this as the value of a conversion.';

CREATE OR REPLACE FUNCTION cdi._conversion_values(conversion text)
RETURNS TABLE (event_id uuid, subject uuid, "timestamp" timestamptz, "position" bigint, source_id integer, properties jsonb, value numeric)
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 10000
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'cdi_conversion_values';
COMMENT ON FUNCTION cdi._conversion_values(text) IS 'Internal: events of a conversion whose value is an expression, which runs as the role that declared it.';

CREATE OR REPLACE FUNCTION cdi._first_within("timestamp" timestamptz, within interval)
RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME', 'cdi_first_within';
COMMENT ON FUNCTION cdi._first_within(timestamptz, interval) IS 'Internal: window function; whether a row lies further behind the last one that was true. Null: only the first is.';

-- Who declares an expression is the role it runs as; a restore says which.
CREATE OR REPLACE FUNCTION cdi._conversion_check()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member record;
BEGIN
    IF NEW.value_expression IS NULL THEN
        NEW.value_role := NULL;
    ELSIF NEW.value_role IS NULL THEN
        NEW.value_role := current_user;
    ELSIF NEW.value_role <> current_user
          AND NOT (TG_OP = 'UPDATE' AND (OLD.value_expression, OLD.value_role) IS NOT DISTINCT FROM (NEW.value_expression, NEW.value_role))
          AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'only a superuser can declare a value expression for another role'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Leave value_role null.';
    END IF;
    FOR member IN SELECT w.key, w.value FROM jsonb_each(NEW.touch_lookbacks) w LOOP
        BEGIN
            IF jsonb_typeof(member.value) = 'string' AND (member.value #>> '{}')::interval > interval '0' THEN
                CONTINUE;
            END IF;
        EXCEPTION WHEN data_exception THEN
            NULL;
        END;
        RAISE EXCEPTION 'the lookback window of touch type "%" is not valid', member.key
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It must be an interval longer than zero, as in {"impression": "1 day"}.';
    END LOOP;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION cdi._conversion_check() IS 'Internal: who a value expression runs as, and windows of touch types.';

CREATE OR REPLACE TRIGGER checked BEFORE INSERT OR UPDATE ON cdi.conversions
    FOR EACH ROW EXECUTE FUNCTION cdi._conversion_check();

CREATE OR REPLACE FUNCTION cdi_create_conversion(
    name text,
    event text,
    value_property text DEFAULT 'revenue',
    lookback interval DEFAULT '30 days',
    value_expression text DEFAULT NULL,
    currency text DEFAULT NULL,
    currency_property text DEFAULT NULL,
    reporting_currency text DEFAULT NULL,
    unique_property text DEFAULT NULL,
    unique_scope text DEFAULT NULL,
    unique_within interval DEFAULT NULL,
    touch_lookbacks jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    code text;
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
    IF cdi_create_conversion.unique_within <= interval '0' THEN
        RAISE EXCEPTION 'unique_within must be longer than zero'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out where an event never counts again.';
    END IF;
    FOREACH code IN ARRAY ARRAY[cdi_create_conversion.currency, cdi_create_conversion.reporting_currency] LOOP
        IF code !~ '^[A-Z]{3}$' THEN
            RAISE EXCEPTION 'currency "%" is not valid', code
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the three capital letters of ISO 4217, such as EUR.';
        END IF;
    END LOOP;
    IF reporting_currency IS NOT NULL AND cdi_create_conversion.currency IS NULL AND currency_property IS NULL THEN
        RAISE EXCEPTION 'nothing says which currency the values are in'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give currency, currency_property, or both.';
    END IF;
    IF reporting_currency IS NULL AND currency_property IS NOT NULL THEN
        RAISE EXCEPTION 'values in several currencies have no sum'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Each event names the currency of its value.',
                  HINT = format('Say in which one they are reported, as in reporting_currency => %L, and fill cdi.exchange_rates.', coalesce(cdi_create_conversion.currency, 'EUR'));
    END IF;
    IF jsonb_typeof(touch_lookbacks) <> 'object' THEN
        RAISE EXCEPTION 'touch_lookbacks must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'As in {"impression": "1 day"}.';
    END IF;
    IF value_expression IS NOT NULL THEN
        PERFORM cdi._require_value_expression(cdi_create_conversion.value_expression);
        IF value_property <> 'revenue' THEN
            RAISE EXCEPTION 'a conversion has a value_property or a value_expression'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of them out.';
        END IF;
    END IF;
    unique_scope := coalesce(unique_scope, CASE WHEN unique_property IS NOT NULL THEN 'all' WHEN unique_within IS NOT NULL THEN 'person' END);
    IF unique_scope NOT IN ('person', 'all') OR (unique_scope = 'all' AND unique_property IS NULL) THEN
        RAISE EXCEPTION 'unique_scope "%" is not possible here', unique_scope
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It is person, or all together with unique_property.';
    END IF;
    INSERT INTO cdi.conversions AS c (name, event, value_property, lookback, value_expression, currency, currency_property,
                                      reporting_currency, unique_property, unique_scope, unique_within, touch_lookbacks)
    VALUES (cdi_create_conversion.name, cdi_create_conversion.event,
            CASE WHEN cdi_create_conversion.value_expression IS NULL THEN cdi_create_conversion.value_property END,
            cdi_create_conversion.lookback, cdi_create_conversion.value_expression, cdi_create_conversion.currency,
            cdi_create_conversion.currency_property, cdi_create_conversion.reporting_currency, cdi_create_conversion.unique_property,
            cdi_create_conversion.unique_scope, cdi_create_conversion.unique_within, cdi_create_conversion.touch_lookbacks)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'conversion "%" exists already', cdi_create_conversion.name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Remove it with cdi_drop_conversion() to declare it anew; events are not touched.';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_create_conversion(text, text, text, interval, text, text, text, text, text, text, interval, jsonb) IS
'Declares that an event, tracked or virtual, is a conversion, for events of the past as well. Touchpoints count when they lie at most lookback before it; touch_lookbacks gives types of touch a window of their own.
Its value is in value_property (null: it has none), or value_expression computes it from the columns of cdi.events, running as the role that declares it. With reporting_currency, which currency_property needs, values are converted from the currency that the property names, or currency; without a rate the value is null.
Of events with equal unique_property the first counts, among those of all or of one person (unique_scope); with unique_scope person and no property, once per person; with unique_within, again after that time.
Raises 42710 where the name is taken, ZC303 where the expression cannot be used.';

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

-- What conversions, spend and their currencies read; made by cdi_init().  Numbers
-- are bounded like values of conversions, so that no ratio of them can overflow.
CREATE OR REPLACE FUNCTION cdi._create_storage_2_spend()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE TABLE cdi.exchange_rates (
        day date NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        reporting_currency text NOT NULL CHECK (reporting_currency ~ '^[A-Z]{3}$'),
        rate numeric NOT NULL CHECK (rate > 1e-30 AND rate < 1e30),
        PRIMARY KEY (currency, reporting_currency, day)
    );
    COMMENT ON TABLE cdi.exchange_rates IS 'What one unit of a currency was worth in another, day by day. A day without a rate has that of the latest day before it, at most a week back.';
    COMMENT ON COLUMN cdi.exchange_rates.rate IS 'Units of reporting_currency per unit of currency.';

    CREATE TABLE cdi.spend (
        day date NOT NULL CHECK (isfinite(day)),
        channel text NOT NULL,
        campaign_source text NOT NULL DEFAULT '',
        campaign_medium text NOT NULL DEFAULT '',
        campaign_name text NOT NULL DEFAULT '',
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        amount numeric NOT NULL CHECK (amount > -1e100 AND amount < 1e100 AND scale(amount) <= 100),
        impressions bigint NOT NULL DEFAULT 0,
        clicks bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (day, channel, campaign_source, campaign_medium, campaign_name, currency)
    );
    COMMENT ON TABLE cdi.spend IS 'What advertising cost, per day (UTC), channel and campaign. Loading the same day again replaces its rows where the statement says ON CONFLICT; docs/attribution.md has it.';
    COMMENT ON COLUMN cdi.spend.channel IS 'Channel, as touchpoints have it.';
    COMMENT ON COLUMN cdi.spend.campaign_source IS 'Source, medium and name of the campaign, as touchpoints have them; empty where the cost is not known by them.';
    COMMENT ON COLUMN cdi.spend.amount IS 'Cost in the currency; a credit note is negative.';
END
$$;
COMMENT ON FUNCTION cdi._create_storage_2_spend() IS 'Internal: tables for spend and exchange rates.';
