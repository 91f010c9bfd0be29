-- Conversions as declared rows: values by expression, currencies, which events
-- are the same one again; spend and reports.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SELECT cdi_create_source('conversions') IS NOT NULL AS created;
CREATE FUNCTION pg_temp.track(who text, at timestamptz, event text, properties jsonb DEFAULT '{}')
RETURNS jsonb LANGUAGE sql AS $$
SELECT jsonb_build_object('type', 'track', 'userId', who, 'timestamp', at, 'messageId', gen_random_uuid(), 'event', event, 'properties', properties)
$$;
CREATE FUNCTION pg_temp.send(VARIADIC events jsonb[]) RETURNS bigint LANGUAGE sql AS $$
SELECT stored FROM cdi_ingest(to_jsonb(events), 'conversions')
$$;
CREATE TEMP VIEW counted AS
SELECT c.conversion, e.user_id AS who, to_char(c.converted_at, 'MM-DD HH24:MI') AS at, c.value, c.original_value, c.currency
FROM cdi.conversion_events c JOIN cdi.events e USING (event_id);

-- Of one order id the first event counts; without an id every one does.
SELECT cdi_create_conversion('unique_order', 'Bought', unique_property => 'order_id');
SELECT cdi_create_conversion('unique_own', 'Bought', unique_property => 'order_id', unique_scope => 'person');
SELECT cdi_create_conversion('unique_once', 'Bought', unique_scope => 'person');
SELECT cdi_create_conversion('unique_hourly', 'Bought', unique_within => '1 hour');
SELECT cdi_create_conversion('all_orders', 'Bought');
SELECT pg_temp.send(
    pg_temp.track('u1', '2026-05-01 12:00', 'Bought', '{"order_id": "A", "revenue": 1}'),
    pg_temp.track('u2', '2026-05-01 11:00', 'Bought', '{"order_id": "A", "revenue": 2}'),
    pg_temp.track('u1', '2026-05-01 12:30', 'Bought', '{"order_id": "A", "revenue": 3}'),
    pg_temp.track('u1', '2026-05-01 13:00', 'Bought', '{"order_id": "B", "revenue": 4}'),
    pg_temp.track('u1', '2026-05-01 13:00:00.000001', 'Bought', '{"revenue": 5}'),
    pg_temp.track('u1', '2026-05-01 13:50', 'Bought', '{"order_id": null, "revenue": 6}'),
    pg_temp.track('u1', '2026-05-01 14:01', 'Bought', '{"order_id": 7, "revenue": 7}'));
SELECT conversion, string_agg(value::text, ' ' ORDER BY value) AS values FROM counted WHERE conversion IN ('unique_order', 'unique_own', 'unique_once', 'unique_hourly', 'all_orders') GROUP BY conversion ORDER BY conversion;
-- What was left out is there to be seen.
SELECT conversion, count(*) AS candidates FROM cdi.conversion_candidates WHERE conversion LIKE 'unique%' GROUP BY conversion ORDER BY conversion;
-- A late event that is earlier takes the place of the one that counted.
SELECT pg_temp.send(pg_temp.track('u3', '2026-05-01 10:00', 'Bought', '{"order_id": "A", "revenue": 0.5}'));
SELECT string_agg(value::text, ' ' ORDER BY value) AS values FROM counted WHERE conversion = 'unique_order';

-- Currencies: the property's, else the declaration's; the rate of the day or of
-- the latest day of the week before; none: no value, and to be seen.
INSERT INTO cdi.exchange_rates (day, currency, reporting_currency, rate) VALUES
    ('2026-05-01', 'USD', 'EUR', 0.9), ('2026-05-04', 'USD', 'EUR', 0.8), ('2026-05-04', 'JPY', 'EUR', 0.00613);
SELECT cdi_create_conversion('abroad', 'Bought Abroad', currency => 'USD', currency_property => 'currency', reporting_currency => 'EUR');
SELECT pg_temp.send(
    pg_temp.track('c1', '2026-05-01 00:00', 'Bought Abroad', '{"revenue": 100}'),
    pg_temp.track('c2', '2026-05-03 23:59:59.999999', 'Bought Abroad', '{"revenue": 100, "currency": "USD"}'),
    pg_temp.track('c3', '2026-05-11 23:59', 'Bought Abroad', '{"revenue": "1000", "currency": "JPY"}'),
    pg_temp.track('c4', '2026-05-12 00:00', 'Bought Abroad', '{"revenue": "1000", "currency": "JPY"}'),
    pg_temp.track('c5', '2026-04-30 12:00', 'Bought Abroad', '{"revenue": 100}'),
    pg_temp.track('c6', '2026-05-01 12:00', 'Bought Abroad', '{"revenue": -12.34, "currency": "EUR"}'),
    pg_temp.track('c7', '2026-05-01 12:00', 'Bought Abroad', '{"revenue": 5, "currency": "doubloon"}'),
    pg_temp.track('c8', '2026-05-01 12:00', 'Bought Abroad', '{}'),
    pg_temp.track('c9', '2026-05-01 12:00', 'Bought Abroad', '{"revenue": 10, "currency": " usd "}'),
    pg_temp.track('c9', '2026-05-01 12:01', 'Bought Abroad', '{"revenue": 20, "currency": ""}'),
    pg_temp.track('c9', '2026-05-01 12:02', 'Bought Abroad', '{"revenue": 30, "currency": 978}'));
SELECT who, value, original_value, currency FROM counted WHERE conversion = 'abroad' ORDER BY who, original_value;
SELECT conversions, value, unvalued FROM cdi_attribution_report('{linear}', 'abroad', dimensions => '{}');
-- Euros and dollars have no sum: what could be in both says in which one it is
-- reported, and a person's conversions that are in both have no value together.
SELECT cdi_create_conversion('x', 'X', currency_property => 'currency');
SELECT cdi_create_conversion('x', 'X', currency => 'USD', currency_property => 'currency');
\set VERBOSITY terse
INSERT INTO cdi.conversions (name, event, currency_property) VALUES ('x', 'X', 'currency');
\set VERBOSITY default
SELECT cdi_create_conversion('abroad_in_yen', 'Bought Abroad', currency => 'JPY');
SELECT conversion, value_currency, count(*) FROM cdi.conversion_events WHERE conversion LIKE 'abroad%' GROUP BY conversion, value_currency ORDER BY conversion;
SELECT p.user_id, p.conversions, p.conversion_value FROM cdi_bi.people p WHERE p.user_id ~ '^c[1-8]$' ORDER BY p.user_id;
SELECT * FROM cdi_attribution_report('{linear}');
SELECT cdi_drop_conversion('abroad_in_yen');

-- What cannot be declared.
SELECT cdi_create_conversion('x', 'X', currency => 'euro');
SELECT cdi_create_conversion('x', 'X', reporting_currency => 'EUR');
SELECT cdi_create_conversion('x', 'X', unique_scope => 'all');
SELECT cdi_create_conversion('x', 'X', unique_scope => 'session');
SELECT cdi_create_conversion('x', 'X', unique_within => '-1 day');
SELECT cdi_create_conversion('x', 'X', touch_lookbacks => '{"impression": "soon"}');
SELECT cdi_create_conversion('x', 'X', touch_lookbacks => '["1 day"]');
SELECT cdi_create_conversion('x', 'X', value_property => 'amount', value_expression => '1');

-- What can be no value, by its digits.
SELECT count(*) AS values, count(u) AS usable, count(*) FILTER (WHERE u IS DISTINCT FROM w OR scale(u) IS DISTINCT FROM scale(w)) AS differing
FROM (SELECT f * ('1e' || k)::numeric FROM generate_series(-130, 130) k, unnest(ARRAY[1, -1, 9.99, -9.99, 123456789.987654321, 0]) f
      UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,0,0.00}'::numeric[]) UNION ALL SELECT 1e100 - 1 UNION ALL SELECT 1 - 1e100 UNION ALL SELECT 1e100 - 1e-101) v (v)
CROSS JOIN LATERAL (SELECT cdi._usable_value(v), CASE WHEN v > -1e100 AND v < 1e100 THEN round(v, least(scale(v), 100)) END) c (u, w);
-- Values by expression: over columns and properties, exactly; NaN is no value.
SELECT cdi_create_conversion('margin', 'Sold', value_expression => $$cdi_property_number(properties, 'revenue') - coalesce(cdi_property_number(e.properties, 'cost'), 0)$$);
SELECT cdi_create_conversion('flag', 'Sold', value_expression => 'CASE WHEN user_id = ''v1'' THEN ''NaN''::float8 ELSE 2.5 END -- a comment', unique_property => 'order_id');
SELECT pg_temp.send(
    pg_temp.track('v1', '2026-05-01 12:00', 'Sold', '{"revenue": 10.10, "cost": 3, "order_id": 1}'),
    pg_temp.track('v2', '2026-05-01 12:00', 'Sold', '{"revenue": "7", "order_id": 1}'),
    pg_temp.track('v3', '2026-05-01 12:00', 'Sold', '{"cost": 3}'));
SELECT conversion, who, value FROM counted WHERE conversion IN ('margin', 'flag') ORDER BY conversion, who;
SELECT c.touches, c.credit, c.credited_value FROM cdi_attribution('linear', 'margin') c ORDER BY c.value;
-- One expression, of one number, that can be planned.
SELECT cdi_create_conversion('x', 'X', value_expression => '1) FROM cdi.events; DELETE FROM cdi.events; SELECT (1');
SELECT cdi_create_conversion('x', 'X', value_expression => '1) FROM (SELECT 1) AS x (y');
SELECT cdi_create_conversion('x', 'X', value_expression => 'no_such_column');
SELECT cdi_create_conversion('x', 'X', value_expression => 'count(*)');
SELECT cdi_create_conversion('x', 'X', value_expression => 'e."timestamp"');
SELECT cdi_create_conversion('x', 'X', value_expression => '');
SELECT cdi_create_conversion('x', 'X', value_expression => '1)::text || (2');
SELECT cdi_create_conversion('x', 'X', value_expression => 'row_number() OVER ()');
-- An error of the expression names the conversion, and concerns it alone.
SELECT cdi_create_conversion('broken', 'Sold', value_expression => '(properties ->> ''revenue'')::numeric / (properties ->> ''cost'')::numeric * 0 / 0');
SELECT count(*) FROM cdi_attribution('linear', 'broken');
SELECT count(*) FROM cdi_attribution('linear', 'margin');
SELECT cdi_drop_conversion('broken');
SELECT cdi_create_conversion('several', 'Sold', value_expression => 'generate_series(1, 2)');
SELECT count(*) FROM cdi_attribution('linear', 'several');
SELECT cdi_drop_conversion('several');
-- More than a batch.
SELECT cdi_create_conversion('many', 'Sold Often', value_expression => $$(properties ->> 'n')::int * 2$$);
SELECT stored FROM cdi_ingest((SELECT jsonb_agg(pg_temp.track('m' || i % 7, timestamptz '2026-05-02' + i * interval '1 second', 'Sold Often', jsonb_build_object('n', i))) FROM generate_series(1, 2500) i), 'conversions');
SELECT count(*), sum(value) = 2500 * 2501 AS complete FROM cdi.conversion_events WHERE conversion = 'many';
-- A set that has two values for half of the events and none for the others, and
-- a row by hand, whose text gives other columns than those that were asked for.
SELECT cdi_create_conversion('halves', 'Sold Often', value_expression => $$generate_series(1, (properties ->> 'n')::int % 2 * 2)$$);
SELECT sum(value) FROM cdi.conversion_events WHERE conversion = 'halves';
INSERT INTO cdi.conversions (name, event, value_expression) VALUES ('by_hand', 'Sold Often', '0)::numeric, 5000000000, (SELECT 1');
SELECT sum(value) FROM cdi.conversion_events WHERE conversion = 'by_hand';
SELECT cdi_drop_conversion('halves'), cdi_drop_conversion('by_hand');

-- Anybody may send an event: one of 1e400 is no value, and what others have in
-- common with it can still be summed and compared with spend.
SELECT cdi_create_conversion('huge', 'Sold Huge');
SELECT stored FROM cdi_ingest(jsonb_build_array(
    pg_temp.track('h1', '2026-05-02', 'Sold Huge', '{"revenue": 1e400}'), pg_temp.track('h2', '2026-05-02', 'Sold Huge', '{"revenue": -9e131071}'),
    pg_temp.track('h3', '2026-05-02', 'Sold Huge', '{"revenue": "999999999999999999999999999999.5"}'), pg_temp.track('h4', '2026-05-02', 'Sold Huge', '{"revenue": 1e-400}'),
    pg_temp.track('h5', '2026-05-02', 'Sold Huge', '{"revenue": 1.50}')), 'conversions');
SELECT who, value, value = 0 AS rounded FROM counted WHERE conversion = 'huge' ORDER BY who;
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-02', 'direct', 'EUR', 0.01);
SELECT model, dimension, conversions, value, unvalued, roas FROM cdi_attribution_report('{linear,markov}', 'huge');
DELETE FROM cdi.spend;
SELECT cdi_drop_conversion('huge');

-- An expression runs as who declared it, over rows that the caller reads, and
-- can write nothing.
CREATE ROLE cdi_test_declarer;
CREATE ROLE cdi_test_reporter;
SELECT cdi_grant_admin('cdi_test_declarer');
SELECT cdi_grant_reader('cdi_test_reporter');
CREATE SCHEMA conversions_test;
CREATE TABLE conversions_test.secret AS SELECT 42 AS value;
CREATE TABLE conversions_test.written (at timestamptz);
GRANT USAGE ON SCHEMA conversions_test TO cdi_test_declarer, cdi_test_reporter;
GRANT INSERT ON conversions_test.written TO cdi_test_declarer, cdi_test_reporter;
CREATE FUNCTION conversions_test.who() RETURNS numeric LANGUAGE sql STABLE AS $$ SELECT CASE current_user WHEN 'cdi_test_declarer' THEN 1 ELSE 0 END $$;
CREATE FUNCTION conversions_test.writes() RETURNS numeric LANGUAGE sql VOLATILE AS $$ INSERT INTO conversions_test.written VALUES (now()); SELECT 1::numeric $$;
CREATE FUNCTION conversions_test.becomes() RETURNS numeric LANGUAGE plpgsql VOLATILE AS $$ BEGIN SET ROLE postgres; RETURN 1; END $$;
SET ROLE cdi_test_declarer;
SELECT cdi_create_conversion('by_who', 'Sold', value_expression => 'conversions_test.who()');
SELECT cdi_create_conversion('by_secret', 'Sold', value_expression => '(SELECT value FROM conversions_test.secret)');
SELECT cdi_create_conversion('by_writing', 'Sold', value_expression => 'conversions_test.writes()');
SELECT cdi_create_conversion('by_becoming', 'Sold', value_expression => 'conversions_test.becomes()');
SELECT cdi_create_conversion('by_waiting', 'Sold', value_expression => 'CASE WHEN pg_sleep(100) IS NULL THEN 1 END');
INSERT INTO cdi.conversions (name, event, value_expression, value_role) VALUES ('as_other', 'Sold', '1', 'postgres');
UPDATE cdi.conversions SET value_role = 'postgres' WHERE name = 'by_who';
INSERT INTO cdi.conversions (name, event, value_expression) VALUES ('as_self', 'Sold', '1') RETURNING value_role;
UPDATE cdi.conversions SET lookback = '1 day', value_expression = '2' WHERE name = 'margin';
RESET ROLE;
SET ROLE cdi_test_reporter;
SELECT conversion, min(value), max(value) FROM cdi.conversion_events WHERE conversion = 'by_who' GROUP BY conversion;
SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'by_writing';
SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'by_becoming';
RESET ROLE;
SET cdi.attribution_value_timeout = 100;
SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'by_waiting';
RESET cdi.attribution_value_timeout;
SELECT count(*) AS written FROM conversions_test.written;
-- Who declares for another needs to be a superuser; who is gone runs nothing.
UPDATE cdi.conversions SET value_role = 'cdi_test_nobody_at_all' WHERE name = 'by_who';
SELECT count(*) FROM cdi.conversion_events WHERE conversion = 'by_who';
SELECT cdi_drop_conversion(name) FROM cdi.conversions WHERE name LIKE 'by%' OR name = 'as_self';

-- Spend: loading a day again replaces it; a report sets it beside the credit.
CREATE TEMP TABLE loaded (LIKE cdi.spend INCLUDING DEFAULTS);
COPY loaded (day, channel, campaign_name, currency, amount, impressions, clicks) FROM stdin;
2026-05-01	paid_search	spring	EUR	100	1000	50
2026-05-02	paid_search	spring	EUR	50	500	20
2026-05-01	display	banner	USD	20	9000	3
2026-05-01	audio	jingle	EUR	5	0	0
2026-05-01	sms	free	EUR	0	0	0
\.
INSERT INTO cdi.spend SELECT * FROM loaded ON CONFLICT ON CONSTRAINT spend_pkey DO UPDATE SET amount = excluded.amount, impressions = excluded.impressions, clicks = excluded.clicks;
UPDATE loaded SET amount = 60 WHERE day = '2026-05-02';
INSERT INTO cdi.spend SELECT * FROM loaded ON CONFLICT ON CONSTRAINT spend_pkey DO UPDATE SET amount = excluded.amount, impressions = excluded.impressions, clicks = excluded.clicks;
SELECT day, channel, amount FROM cdi.spend ORDER BY day, channel;
SELECT cdi_create_conversion('sale', 'Sale', currency => 'EUR');
CREATE SCHEMA IF NOT EXISTS conversions_test;
CREATE TABLE conversions_test.touches (person_id uuid, touched_at timestamptz, channel text, campaign_source text, campaign_medium text, campaign_name text, creative text);
CREATE TABLE conversions_test.conversions (event_id uuid, conversion text, person_id uuid, converted_at timestamptz, value numeric);
INSERT INTO conversions_test.touches
SELECT md5(p)::uuid, at, channel, NULL, NULL, campaign, creative FROM (VALUES
    ('1', timestamptz '2026-05-01 10:00', 'paid_search', 'spring', 'blue'), ('1', '2026-05-01 11:00', 'display', 'banner', 'blue'),
    ('2', '2026-05-02 10:00', 'paid_search', 'spring', 'red'), ('2', '2026-05-02 11:00', 'email', 'news', NULL), ('3', '2026-05-02 12:00', 'sms', 'free', NULL)) v (p, at, channel, campaign, creative);
INSERT INTO conversions_test.conversions VALUES
    (md5('a')::uuid, 'sale', md5('1')::uuid, '2026-05-01 12:00', 90), (md5('b')::uuid, 'sale', md5('2')::uuid, '2026-05-02 12:00', 30),
    (md5('c')::uuid, 'sale', md5('2')::uuid, '2026-05-02 13:00', NULL), (md5('d')::uuid, 'sale', md5('4')::uuid, '2026-05-02 13:00', 8), (md5('e')::uuid, 'sale', md5('3')::uuid, '2026-05-02 13:00', -2);
CREATE FUNCTION pg_temp.report(models text[], dimensions text[], more jsonb DEFAULT '{}', currency text DEFAULT NULL, from_time timestamptz DEFAULT NULL)
RETURNS SETOF record LANGUAGE sql AS $$
SELECT model, dimension, conversions, value, unvalued, spend, impressions, clicks, cpa, roas, conversions_difference, value_difference
FROM cdi_attribution_report(models, 'sale', dimensions => dimensions, currency => currency, from_time => from_time,
    parameters => '{"touchpoints": "conversions_test.touches", "conversion_events": "conversions_test.conversions"}' || more)
$$;
\set columns '(model text, dimension text[], conversions float8, value numeric, unvalued float8, spend numeric, impressions bigint, clicks bigint, cpa float8, roas float8, conversions_difference float8, value_difference numeric)'
SELECT * FROM pg_temp.report('{last_touch,linear,first_touch}', '{channel}') r :columns;
SELECT * FROM pg_temp.report('{linear}', '{day,channel,campaign_name}') r :columns;
SELECT * FROM pg_temp.report('{linear}', '{creative}') r :columns;
SELECT * FROM pg_temp.report('{linear}', '{}') r :columns;
-- Values in euros have no ratio to dollars, and no sum with values in dollars.
SELECT dimension, spend, cpa, roas FROM pg_temp.report('{linear}', '{channel}', '{}', 'USD') r :columns;
SELECT count(*) = 6 AS the_same FROM (SELECT * FROM pg_temp.report('{linear}', '{channel}', '{}', 'EUR') r :columns INTERSECT SELECT * FROM pg_temp.report('{linear}', '{channel}') r :columns) s;
SELECT cdi_create_conversion('sale_in_dollars', 'Sale', currency => 'USD');
SELECT * FROM cdi_attribution_report('{linear}', dimensions => '{touch_type}');
SELECT cdi_drop_conversion('sale_in_dollars');
SELECT dimension, spend FROM pg_temp.report('{linear}', '{channel}', '{}', NULL, '2026-05-02') r :columns;
-- Two half-lives side by side.
SELECT model, dimension, round(conversions::numeric, 6) AS conversions FROM pg_temp.report('{fast,slow}', '{channel}', '{"fast": {"model": "time_decay", "half_life": "1 hour"}, "slow": {"model": "time_decay", "half_life": "1000 days"}}') r :columns WHERE dimension = '{paid_search}';
SELECT * FROM cdi_attribution_report('{}');
SELECT * FROM cdi_attribution_report(NULL);
SELECT * FROM cdi_attribution_report('{linear,linear}');
SELECT * FROM cdi_attribution_report('{linear}', dimensions => '{nothing}', conversion => 'sale');
SELECT * FROM cdi_attribution_report('{linear}', dimensions => '{channel,channel}', conversion => 'sale');
-- Amounts and rates of which ratios could overflow are none; the smallest and the largest are ratios still.
\set VERBOSITY terse
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-01', 'tiny', 'EUR', 1e-101);
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-01', 'huge', 'EUR', 1e100);
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-01', 'none', 'EUR', 'NaN');
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('infinity', 'never', 'EUR', 1);
INSERT INTO cdi.exchange_rates (day, currency, reporting_currency, rate) VALUES ('2026-05-01', 'XXX', 'EUR', 1e-300);
\set VERBOSITY default
INSERT INTO conversions_test.touches SELECT md5(c)::uuid, '2026-05-03 10:00', c FROM unnest('{tiny,huge}'::text[]) c;
INSERT INTO conversions_test.conversions SELECT md5(c || 's')::uuid, 'sale', md5(c)::uuid, '2026-05-03 12:00', 9e99 FROM unnest('{tiny,huge}'::text[]) c;
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-03', 'tiny', 'EUR', 1e-100), ('2026-05-03', 'huge', 'EUR', 9e99);
SELECT dimension, cpa, roas FROM pg_temp.report('{linear}', '{channel}', '{}', NULL, '2026-05-03') r :columns ORDER BY dimension;
DELETE FROM conversions_test.touches WHERE channel IN ('tiny', 'huge');
DELETE FROM conversions_test.conversions WHERE value = 9e99;
DELETE FROM cdi.spend WHERE channel IN ('tiny', 'huge');
UPDATE cdi.conversions SET currency = NULL WHERE name = 'sale';
SELECT * FROM cdi_attribution_report('{linear}', 'sale');

-- A reader reports; nobody else.
SET ROLE cdi_test_reporter;
SELECT count(*) > 0 AS reported FROM cdi_attribution_report('{linear,last_touch}', 'all_orders', currency => 'EUR');
INSERT INTO cdi.spend (day, channel, currency, amount) VALUES ('2026-05-05', 'x', 'EUR', 1);
RESET ROLE;
TRUNCATE cdi.spend, cdi.exchange_rates;
SELECT cdi_drop_conversion(name) FROM cdi.conversions WHERE name <> 'order' ORDER BY name;
DROP SCHEMA conversions_test CASCADE;
DROP OWNED BY cdi_test_declarer, cdi_test_reporter;
DROP ROLE cdi_test_declarer;
DROP ROLE cdi_test_reporter;
