-- Every model against plain SQL over random journeys, and published examples.  Journeys are tables of our own, which the function reads by name.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
CREATE SCHEMA attribution_models;
CREATE TABLE attribution_models.touches (person_id uuid, touched_at timestamptz, "position" bigint, session_id uuid, channel text, campaign_name text, touch_type text);
CREATE TABLE attribution_models.conversions (event_id uuid, conversion text, person_id uuid, converted_at timestamptz, "position" bigint, value numeric);
CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5(n::text)::uuid $$;
CREATE FUNCTION pg_temp.parameters(more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
SELECT '{"touchpoints": "attribution_models.touches", "conversion_events": "attribution_models.conversions"}'::jsonb || more
$$;

-- Published examples.  One person per length of path: 1, 2, 3, 5 touches a day
-- apart, the last one a day before the conversion, worth 100.
INSERT INTO attribution_models.touches
SELECT pg_temp.id(n), timestamptz '2026-03-31' - (n + 1 - i) * interval '1 day', i, pg_temp.id(1000 * n + i), 'channel ' || i
FROM unnest('{1,2,3,5}'::int[]) n, generate_series(1, n) i;
INSERT INTO attribution_models.conversions SELECT pg_temp.id(100 + n), 'sale', pg_temp.id(n), '2026-03-31', 0, 100 FROM unnest('{1,2,3,5}'::int[]) n;
CREATE FUNCTION pg_temp.shares(model text, more jsonb DEFAULT '{}', lookback interval DEFAULT '90 days')
RETURNS TABLE (touches int, shares text) LANGUAGE sql AS $$
SELECT touches, string_agg(round(credited_value, 4)::text, ' ' ORDER BY touch)
FROM cdi_attribution(model, 'sale', lookback => lookback, parameters => pg_temp.parameters(more))
GROUP BY conversion_event_id, touches ORDER BY touches
$$;
SELECT m.name, s.* FROM unnest('{first_touch,last_touch,linear,u_shaped,j_shaped,inverse_j,position_based}'::text[]) m (name), pg_temp.shares(m.name) s;
-- Two touches: Snowplow's halves, Mixpanel's proportion, MAM's half of the middle for each.
SELECT p.two, s.* FROM unnest('{snowplow,mixpanel,mam}'::text[]) p (two), pg_temp.shares('j_shaped', jsonb_build_object('two_touch', p.two)) s WHERE s.touches = 2;
SELECT * FROM pg_temp.shares('u_shaped', '{"two_touch": [1, 3]}') WHERE touches = 2;
SELECT * FROM pg_temp.shares('position_based', '{"first": 0.5, "last": 0.25, "middle": 0.25}');
-- A half-life of a day: each touch has half of the next.
SELECT * FROM pg_temp.shares('time_decay', '{"half_life": "1 day"}');
SELECT * FROM pg_temp.shares('time_decay', '{"half_life": "1 microsecond"}');
-- Weights of one's own, from either end; those beyond them have none.
SELECT * FROM pg_temp.shares('custom', '{"weights": [3, 1]}');
SELECT * FROM pg_temp.shares('custom', '{"weights": [3, 1], "from": "last"}');
SELECT * FROM pg_temp.shares('custom', '{"weights": [0, 0, 0, 1], "from": "first"}');

-- Milestones: the lead came after the second touch, the opportunity after the
-- third (W: 30 first, lead, last, 10 the others; Z: 22.5 each and 10).
INSERT INTO attribution_models.conversions VALUES
    (pg_temp.id(201), 'lead', pg_temp.id(5), timestamptz '2026-03-31' - interval '3 days 12 hours', 0, NULL),
    (pg_temp.id(202), 'opportunity', pg_temp.id(5), timestamptz '2026-03-31' - interval '2 days 12 hours', 0, NULL);
SELECT touches, touch, credit, credited_value, weight, reason FROM cdi_attribution('w_shaped', 'sale', lookback => '90 days', parameters => pg_temp.parameters('{"lead": "lead"}')) WHERE touches = 5 ORDER BY touch;
SELECT touches, touch, credit, credited_value, weight, reason FROM cdi_attribution('z_shaped', 'sale', lookback => '90 days', parameters => pg_temp.parameters('{"lead": "lead", "opportunity": "opportunity"}')) WHERE touches = 5 ORDER BY touch;
-- What people without a conversion reached, read before and after, changes nothing.
CREATE TABLE attribution_models.with_strangers AS
SELECT event_id, conversion, person_id, converted_at, "position", value FROM (
    SELECT 1 + n % 2 * 2 AS place, pg_temp.id(9000 + n) AS event_id, 'lead' AS conversion, pg_temp.id(9000 + n) AS person_id,
           timestamptz '2026-03-28' AS converted_at, 0 AS "position", NULL::numeric AS value FROM generate_series(1, 150) n
    UNION ALL SELECT 2, * FROM attribution_models.conversions) u ORDER BY place;
SELECT count(*) AS rows, count(*) FILTER (WHERE a.reason IS DISTINCT FROM b.reason OR a.credit IS DISTINCT FROM b.credit) AS differing
FROM cdi_attribution('w_shaped', 'sale', lookback => '90 days', parameters => pg_temp.parameters('{"lead": "lead", "conversion_events": "attribution_models.with_strangers"}')) a
FULL JOIN cdi_attribution('w_shaped', 'sale', lookback => '90 days', parameters => pg_temp.parameters('{"lead": "lead"}')) b USING (conversion_event_id, touch);
-- No lead: its share goes to the others in proportion.
SELECT * FROM pg_temp.shares('w_shaped', '{"lead": "lead"}') WHERE touches < 5;
-- A milestone after the conversion or before the window is none.
SELECT * FROM pg_temp.shares('w_shaped', '{"lead": "lead"}', '3 days');

-- Direct: the last touch that is not, or the last of all.
UPDATE attribution_models.touches SET channel = 'direct' WHERE (session_id) IN (pg_temp.id(1001), pg_temp.id(2002), pg_temp.id(5005), pg_temp.id(5004));
SELECT touches, touch, channel FROM cdi_attribution('last_non_direct', 'sale', lookback => '90 days', parameters => pg_temp.parameters()) ORDER BY touches;
-- Without direct touches; a path of nothing else is no path.
SELECT touches, touch, channel, credit FROM cdi_attribution('linear', 'sale', lookback => '90 days', parameters => pg_temp.parameters('{"exclude_channels": "direct"}')) ORDER BY touches, touch;
-- With transforms: removed unless all are, exposure, first, trimmed; in their order.
SELECT p.transform, string_agg(s.channels, ' | ' ORDER BY s.touches, s.channels) AS paths
FROM unnest(ARRAY['[]', '"exposure"', '"first"', '"unique"', '{"trim": 2}', '{"remove_if_not_all": "direct"}', '{"remove_if_last_and_not_all": ["direct"]}',
                  '[{"trim": 2}, {"remove_if_not_all": ["direct"]}]', '[{"remove_if_not_all": ["direct"]}, {"trim": 2}]']::jsonb[]) WITH ORDINALITY p (transform, number),
LATERAL (SELECT touches, string_agg(replace(channel, 'channel ', ''), ',' ORDER BY touch) AS channels
         FROM cdi_attribution('linear', 'sale', lookback => '90 days', parameters => pg_temp.parameters(jsonb_build_object('transform', p.transform)))
         GROUP BY conversion_event_id, touches) s
GROUP BY p.number, p.transform ORDER BY p.number;

-- The same as cdi_path_transform() says of the labels.
SELECT t.name, t.arguments, count(*) FILTER (WHERE string_to_array(a.path, ',') <> cdi_path_transform(p.path, t.name, VARIADIC t.arguments)) AS differing
FROM (VALUES ('exposure', '[]'::jsonb, '{}'::text[]), ('first', '[]', '{}'), ('unique', '[]', '{}'), ('trim', '2', '{2}'),
             ('remove_if_not_all', '["direct", "channel 1"]', '{direct,"channel 1"}'), ('remove_if_last_and_not_all', '["channel 3", "direct"]', '{"channel 3",direct}')) t (name, argument, arguments)
CROSS JOIN LATERAL (SELECT conversion_event_id, string_agg(channel, ',' ORDER BY touch) AS path
    FROM cdi_attribution('linear', 'sale', lookback => '90 days', parameters => pg_temp.parameters(jsonb_build_object('transform',
        CASE t.argument WHEN '[]' THEN to_jsonb(t.name) ELSE jsonb_build_object(t.name, t.argument) END))) GROUP BY 1) a
JOIN (SELECT conversion_event_id, array_agg(channel ORDER BY touch) AS path FROM cdi_attribution('linear', 'sale', lookback => '90 days', parameters => pg_temp.parameters()) GROUP BY 1) p USING (conversion_event_id)
GROUP BY t.name, t.arguments ORDER BY t.name;

-- Parameters that are none, or cannot be.
CREATE FUNCTION pg_temp.message(model text, parameters jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; h text; s text;
BEGIN
    PERFORM * FROM cdi_attribution(model, parameters => parameters);
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, h = PG_EXCEPTION_HINT, s = RETURNED_SQLSTATE;
    RETURN s || ': ' || m || ' / ' || h;
END
$$;
SELECT pg_temp.message(v.model, v.parameters::jsonb) AS message FROM (VALUES
    ('linear', '[]'), ('linear', '{"half_life": "7 days"}'), ('linear', '{"touch_types": 1}'), ('linear', '{"transform": "frequency"}'),
    ('linear', '{"transform": {"trim": 0}}'), ('linear', '{"transform": {"trim": 1, "exposure": 2}}'), ('linear', '{"label": "nonsense"}'),
    ('linear', '{"bootstrap": 1.5}'), ('linear', '{"bootstrap": 100001}'), ('linear', '{"confidence": 1}'), ('linear', '{"seed": -1}'), ('linear', '{"bootstrap": 10}'),
    ('linear', '{"touchpoints": "touches"}'), ('linear', '{"touchpoints": "cdi.nowhere"}'), ('linear', '{"touchpoints": "cdi.sources"}'),
    ('time_decay', '{"half_life": "0"}'), ('time_decay', '{"half_life": 7}'), ('time_decay', '{"half_life": "a while"}'), ('time_decay', '{"halflife": "1 day"}'),
    ('position_based', '{"first": -1}'), ('position_based', '{"first": 0, "last": 0, "middle": 0}'), ('position_based', '{"two_touch": "half"}'), ('position_based', '{"two_touch": [0, 0]}'),
    ('w_shaped', '{}'), ('w_shaped', '{"lead": "no such"}'), ('w_shaped', '{"lead": "order", "first": 1}'), ('z_shaped', '{"lead": "order"}'),
    ('custom', '{}'), ('custom', '{"weights": []}'), ('custom', '{"weights": [0]}'), ('custom', '{"weights": [1, "a"]}'), ('custom', '{"weights": [1], "from": "middle"}'), ('markov', '{"order": 0}'), ('markov', '{"game": "rate"}'), ('shapley', '{"game": "chess"}'), ('logistic', '{"ridge": -1}'),
    ('linear', '{"linear": 1}'), ('slow', '{"slow": {"half_life": "1 day"}}'), ('slow', '{"slow": {"model": "time_decay", "touchpoints": "cdi.touchpoints"}}'),
    ('slow', '{"slow": {"model": "time_decay", "half_life": "30 days"}}')) v (model, parameters);

-- Random journeys: up to 40 touches and 6 conversions per person, touches at
-- the same instant, values null, negative, of many digits.
TRUNCATE attribution_models.touches, attribution_models.conversions;
SELECT setseed(0.5);
INSERT INTO attribution_models.touches
SELECT pg_temp.id((random() * 300)::int), timestamptz '2026-01-01' + (random() * 2000)::int * interval '1 hour', i, pg_temp.id(100000 + i),
       (ARRAY['direct', 'email', 'paid_search', 'display', 'referral'])[1 + (random() * 4)::int], 'campaign ' || (random() * 9)::int,
       (ARRAY['session', 'impression', 'offline', NULL])[1 + (random() * 3)::int]
FROM generate_series(1, 4000) i;
INSERT INTO attribution_models.conversions
SELECT pg_temp.id(200000 + i), (ARRAY['a', 'a', 'b', 'lead', 'opportunity'])[1 + (random() * 4)::int],
       CASE WHEN i % 50 > 0 THEN pg_temp.id((random() * 320)::int) END, timestamptz '2026-01-01' + (random() * 2000)::int * interval '1 hour', i,
       CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN -round((random() * 100)::numeric, 2) WHEN 2 THEN round(random()::numeric, 10) / 7 WHEN 3 THEN 1e20 + i ELSE round((random() * 1000)::numeric, 2) END
FROM generate_series(1, 1200) i;

-- What the models say, by joins and window functions.  d: days, one path per
-- conversion; weights not normalised.
CREATE TEMP TABLE path AS
SELECT c.event_id, c.conversion, c.value, t.session_id, t.channel, t.campaign_name, t.touch_type, c.converted_at, t.touched_at, t."position",
       row_number() OVER w AS i, count(t.session_id) OVER (PARTITION BY c.event_id) AS n,
       extract(epoch FROM c.converted_at - t.touched_at) / 86400 AS days,
       (SELECT min(l.converted_at) FROM attribution_models.conversions l WHERE l.conversion = 'lead' AND l.person_id = c.person_id
            AND l.converted_at BETWEEN c.converted_at - interval '20 days' AND c.converted_at) AS lead_at,
       (SELECT min(l.converted_at) FROM attribution_models.conversions l WHERE l.conversion = 'opportunity' AND l.person_id = c.person_id
            AND l.converted_at BETWEEN c.converted_at - interval '20 days' AND c.converted_at) AS opportunity_at
FROM attribution_models.conversions c
LEFT JOIN attribution_models.touches t ON t.person_id = c.person_id AND t.touched_at BETWEEN c.converted_at - interval '20 days' AND c.converted_at
WINDOW w AS (PARTITION BY c.event_id ORDER BY t.touched_at, t."position");
CREATE TEMP TABLE marked AS
SELECT *, max(i) FILTER (WHERE touched_at <= lead_at) OVER (PARTITION BY event_id) AS lead,
       max(i) FILTER (WHERE touched_at <= opportunity_at) OVER (PARTITION BY event_id) AS opportunity,
       max(i) FILTER (WHERE channel <> 'direct') OVER (PARTITION BY event_id) AS foreign_touch,
       row_number() OVER (PARTITION BY event_id, channel ORDER BY touched_at, "position") AS of_channel
FROM path;
CREATE TEMP TABLE roles AS
SELECT *, n - cardinality(ARRAY(SELECT DISTINCT r FROM unnest(ARRAY[1, n]) r)) AS middle2,
       n - cardinality(ARRAY(SELECT DISTINCT r FROM unnest(ARRAY[1, n, lead]) r WHERE r IS NOT NULL)) AS middle3,
       n - cardinality(ARRAY(SELECT DISTINCT r FROM unnest(ARRAY[1, n, lead, opportunity]) r WHERE r IS NOT NULL)) AS middle4
FROM marked WHERE n > 0;
CREATE TEMP TABLE weights AS
SELECT m.model, r.*, CASE m.model
    WHEN 'first_touch' THEN (i = 1)::int
    WHEN 'last_touch' THEN (i = n)::int
    WHEN 'last_non_direct' THEN (i = coalesce(foreign_touch, n))::int
    WHEN 'linear' THEN 1
    WHEN 'time_decay' THEN 2 ^ (-days / 3.0)
    WHEN 'u_shaped' THEN CASE WHEN n <= 2 THEN 1 ELSE CASE WHEN i IN (1, n) THEN 0.4 ELSE 0.2 / (n - 2) END END
    WHEN 'j_shaped' THEN CASE WHEN n = 1 THEN 1 WHEN n = 2 THEN CASE i WHEN 1 THEN 0.25 ELSE 0.75 END ELSE CASE i WHEN 1 THEN 0.2 WHEN n THEN 0.6 ELSE 0.2 / (n - 2) END END
    WHEN 'inverse_j' THEN CASE WHEN n = 1 THEN 1 WHEN n = 2 THEN CASE i WHEN 1 THEN 0.75 ELSE 0.25 END ELSE CASE i WHEN 1 THEN 0.6 WHEN n THEN 0.2 ELSE 0.2 / (n - 2) END END
    WHEN 'w_shaped' THEN 0.3 * ((i = 1)::int + (i = n)::int + coalesce((i = lead)::int, 0))
        + CASE WHEN i NOT IN (1, n, coalesce(lead, 1)) THEN 0.1 / middle3 ELSE 0 END
    WHEN 'z_shaped' THEN 0.225 * ((i = 1)::int + (i = n)::int + coalesce((i = lead)::int, 0) + coalesce((i = opportunity)::int, 0))
        + CASE WHEN i NOT IN (1, n, coalesce(lead, 1), coalesce(opportunity, 1)) THEN 0.1 / middle4 ELSE 0 END
    WHEN 'participation' THEN (of_channel = 1)::int
    WHEN 'custom' THEN CASE WHEN i <= 3 THEN 4 - i ELSE 0 END
    END::double precision AS weight
FROM roles r CROSS JOIN unnest('{first_touch,last_touch,last_non_direct,linear,time_decay,u_shaped,j_shaped,inverse_j,w_shaped,z_shaped,participation,custom}'::text[]) m (model);
CREATE TEMP TABLE plain AS
SELECT model, event_id, session_id, channel, campaign_name, i, n, value, converted_at,
       CASE model WHEN 'participation' THEN weight ELSE weight / sum(weight) OVER (PARTITION BY model, event_id) END AS credit
FROM weights;

CREATE FUNCTION pg_temp.own(model text) RETURNS jsonb LANGUAGE sql AS $$
SELECT CASE model WHEN 'time_decay' THEN '{"half_life": "3 days"}' WHEN 'w_shaped' THEN '{"lead": "lead"}'
    WHEN 'z_shaped' THEN '{"lead": "lead", "opportunity": "opportunity"}' WHEN 'custom' THEN '{"weights": [3, 2, 1]}' ELSE '{}' END::jsonb
$$;
CREATE TEMP TABLE credit AS
SELECT m.model, a.* FROM (SELECT DISTINCT model FROM plain) m
CROSS JOIN LATERAL cdi_attribution(m.model, lookback => '20 days', parameters => pg_temp.parameters(pg_temp.own(m.model))) a;
SELECT c.model, count(*) > 400 AS many, max(c.touches) > 8 AS long_paths,
       count(*) FILTER (WHERE c.touches > 0 AND (p.model IS NULL OR p.i <> c.touch OR p.n <> c.touches OR p.channel <> c.channel
           OR abs(p.credit - c.credit) > 1e-9 OR (p.value IS NULL) <> (c.credited_value IS NULL)
           OR abs(p.value * p.credit::numeric - c.credited_value) > 1e-9 * greatest(1, abs(p.value) * 1e-6))) AS differing
FROM credit c LEFT JOIN plain p ON p.model = c.model AND p.event_id = c.conversion_event_id AND p.session_id = c.session_id
GROUP BY c.model ORDER BY c.model;
SELECT count(*) AS missing FROM plain p WHERE p.credit > 0 AND NOT EXISTS (
    SELECT FROM credit c WHERE c.model = p.model AND c.conversion_event_id = p.event_id AND c.session_id = p.session_id);
-- Credits sum to one and values to the value, to the last digit; of
-- participation every label of the path gets all of it.
SELECT model, count(*) AS wrong FROM (
    SELECT model, sum(credit ORDER BY touch) AS credit, sum(credited_value) AS credited, min(value) AS value, count(DISTINCT channel) AS labels
    FROM credit GROUP BY model, conversion_event_id) s
WHERE CASE model WHEN 'participation' THEN credit <> labels OR credited <> value * labels ELSE credit <> 1 OR credited <> value END
GROUP BY model;
SELECT count(*) FILTER (WHERE touches = 0) AS without_touch, count(*) FILTER (WHERE person_id IS NULL) AS of_nobody,
       bool_and(channel = 'unattributed' AND credit = 1 AND session_id IS NULL) FILTER (WHERE touches = 0) AS whole
FROM credit WHERE model = 'linear';

-- The window function says the same of rows that a query brings together.
SELECT m.model, count(*) FILTER (WHERE abs(t.credit - p.credit) > 1e-12) AS differing
FROM unnest('{first_touch,last_touch,last_non_direct,linear,time_decay,u_shaped,j_shaped,inverse_j,participation,custom}'::text[]) m (model)
CROSS JOIN LATERAL (SELECT event_id, session_id, cdi_touch_credit(m.model, touched_at, converted_at, channel, pg_temp.own(m.model)) OVER (PARTITION BY event_id ORDER BY touched_at, "position") AS credit
                    FROM path WHERE session_id IS NOT NULL) t
JOIN plain p ON p.model = m.model AND p.event_id = t.event_id AND p.session_id = t.session_id
GROUP BY m.model ORDER BY m.model;
SELECT cdi_touch_credit('linear', at) OVER (ORDER BY at DESC) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('time_decay', at) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('linear', at, parameters => '{"transform": "first"}') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('markov', at) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('linear', at, timestamptz '2026-01-01 12:00Z') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01Z'), ('2026-01-02Z')) v (at);
SELECT cdi_touch_credit('linear', at, timestamptz '2026-01-02Z') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01Z'), ('2026-01-02Z')) v (at);
SELECT cdi_touch_credit('last_non_direct', at) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('participation', at, label => channel) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01', 'a'), ('2026-01-02', NULL)) v (at, channel);
SELECT cdi_touch_credit('telepathy', at) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit(NULL, at) OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01')) v (at);
-- Times as far from each other as there are, and at infinity; shares whose sum is none.
SELECT cdi_touch_credit('time_decay', at, '294276-12-31 23:00Z', parameters => '{"half_life": "1 day"}') OVER (ORDER BY at) FROM (VALUES (timestamptz '4713-01-02 BC'), ('2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('time_decay', at, '2027-01-01Z', parameters => '{"half_life": "1 microsecond"}') OVER (ORDER BY at) FROM (VALUES (timestamptz '-infinity'), ('2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('position_based', at, parameters => '{"first": 1e100, "last": 1e100, "middle": 1e100}') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02'), ('2026-01-03'), ('2026-01-04')) v (at);
SELECT cdi_touch_credit('position_based', at, parameters => '{"two_touch": [1e308, 1e308]}') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);
SELECT cdi_touch_credit('position_based', at, parameters => '{"middle": 1e307}') OVER (ORDER BY at) FROM (VALUES (timestamptz '2026-01-01'), ('2026-01-02')) v (at);

-- Sums are those of the rows: all models in one pass, by day and campaign.
SELECT count(*) > 100 AS many, count(*) FILTER (WHERE s.model IS NULL OR c.model IS NULL OR abs(s.conversions - c.conversions) > 1e-9 OR s.value <> c.value OR abs(s.unvalued - c.unvalued) > 1e-9) AS differing
FROM (SELECT model, conversion, to_char(converted_at, 'YYYY-MM-DD') AS day, channel, campaign_name, sum(credit) AS conversions, coalesce(sum(credited_value), 0) AS value,
             coalesce(sum(credit) FILTER (WHERE value IS NULL), 0) AS unvalued
      FROM (SELECT c.model, c.conversion, c.converted_at, c.channel, c.credit, c.credited_value, c.value, t.campaign_name
            FROM credit c LEFT JOIN attribution_models.touches t USING (session_id)) r GROUP BY 1, 2, 3, 4, 5) c
FULL JOIN (SELECT model, conversion, dimensions[1] AS day, dimensions[2] AS channel, dimensions[3] AS campaign_name, conversions, value, unvalued
      FROM cdi._attribution_sums((SELECT array_agg(DISTINCT model) FROM plain), '{day,channel,campaign_name}', NULL, NULL, NULL, '20 days',
          pg_temp.parameters((SELECT jsonb_object_agg(model, pg_temp.own(model)) FROM (SELECT DISTINCT model FROM plain) m)))) s
USING (model, conversion, day, channel) WHERE c.campaign_name IS NOT DISTINCT FROM s.campaign_name;
SELECT s.model, s.total = (SELECT sum(value) FROM attribution_models.conversions) AS value_kept, s.conversions = 1200 AS conversions_kept
FROM (SELECT model, sum(value) AS total, sum(conversions) AS conversions
      FROM cdi._attribution_sums('{linear,time_decay,u_shaped}', '{}', NULL, NULL, NULL, '20 days', pg_temp.parameters()) GROUP BY model) s ORDER BY model;
-- Neither the order of rows nor how much fits into memory changes anything.
CREATE TABLE attribution_models.shuffled AS SELECT * FROM attribution_models.touches ORDER BY md5(session_id::text || 'x');
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*) AS differing FROM (
    (SELECT * FROM cdi_attribution('time_decay', lookback => '20 days', parameters => pg_temp.parameters('{"half_life": "3 days", "touchpoints": "attribution_models.shuffled"}'))
     EXCEPT ALL SELECT conversion_event_id, conversion, person_id, converted_at, value, session_id, touched_at, channel, campaign_source, campaign_medium, campaign_name, touch, touches, credit, credited_value, touch_type, days_before, weight, reason FROM credit WHERE model = 'time_decay')) d;
SELECT count(*) AS differing FROM (
    SELECT * FROM cdi._attribution_sums('{linear,time_decay}', '{channel}', NULL, NULL, NULL, '20 days', pg_temp.parameters('{"touchpoints": "attribution_models.shuffled"}'))) a
FULL JOIN (SELECT * FROM cdi._attribution_sums('{linear,time_decay}', '{channel}', NULL, NULL, NULL, '20 days', pg_temp.parameters())) b
USING (model, conversion, dimensions) WHERE a.conversions IS DISTINCT FROM b.conversions OR a.value IS DISTINCT FROM b.value;
RESET work_mem;
RESET hash_mem_multiplier;
-- Nor who reads them: workers alone, each of which numbers types and labels for
-- itself, and leaves a file; one partition of a table each.
CREATE TABLE attribution_models.parts (LIKE attribution_models.touches) PARTITION BY HASH (session_id);
SELECT format('CREATE TABLE attribution_models.parts_%s PARTITION OF attribution_models.parts FOR VALUES WITH (MODULUS 3, REMAINDER %s)', n, n) FROM generate_series(0, 2) n \gexec
INSERT INTO attribution_models.parts SELECT * FROM attribution_models.shuffled;
ANALYZE attribution_models.shuffled, attribution_models.parts;
SET max_parallel_workers_per_gather = 0;
CREATE TEMP TABLE one_process AS SELECT * FROM cdi_attribution('time_decay', lookback => '20 days', parameters => pg_temp.parameters('{"half_life": "3 days"}'));
CREATE TEMP TABLE sums_of_one_process AS SELECT * FROM cdi._attribution_sums('{linear,participation,u_shaped}', '{touch_type,campaign_name,channel,day}', NULL, NULL, NULL, '20 days', pg_temp.parameters());
RESET max_parallel_workers_per_gather;
CREATE FUNCTION pg_temp.by_workers(relation text) RETURNS TABLE (all_rows boolean, differing bigint, sums bigint, differing_sums bigint) LANGUAGE sql AS $$
WITH one AS (SELECT * FROM cdi_attribution('time_decay', lookback => '20 days', parameters => pg_temp.parameters(jsonb_build_object('half_life', '3 days', 'touchpoints', relation)))),
sums AS (SELECT * FROM cdi._attribution_sums('{linear,participation,u_shaped}', '{touch_type,campaign_name,channel,day}', NULL, NULL, NULL, '20 days', pg_temp.parameters(jsonb_build_object('touchpoints', relation))))
SELECT (SELECT count(*) FROM one) = (SELECT count(*) FROM one_process), (SELECT count(*) FROM (SELECT * FROM one EXCEPT ALL SELECT * FROM one_process) d), (SELECT count(*) FROM sums),
       (SELECT count(*) FROM sums s FULL JOIN sums_of_one_process o USING (model, conversion, dimensions) WHERE s.conversions IS DISTINCT FROM o.conversions OR s.value IS DISTINCT FROM o.value)
$$;
SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off;
SELECT pg_stat_force_next_flush();
SELECT temp_files AS files FROM pg_stat_database WHERE datname = current_database() \gset
SELECT * FROM pg_temp.by_workers('attribution_models.shuffled');
SELECT pg_stat_force_next_flush();
SELECT temp_files > :files AS by_workers FROM pg_stat_database WHERE datname = current_database();
SET enable_partitionwise_aggregate = on;
SELECT * FROM pg_temp.by_workers('attribution_models.parts');
-- A view that has windows by person computes nothing for those who do not convert.
CREATE TABLE attribution_models.strangers AS SELECT * FROM attribution_models.touches UNION ALL SELECT pg_temp.id(-n), '2026-01-10', n, pg_temp.id(-n), 'stranger', NULL, NULL FROM generate_series(1, 10) n;
ANALYZE attribution_models.strangers;
CREATE VIEW attribution_models.fragile AS
SELECT person_id, touched_at, "position" + 0 * sum(1 / (channel <> 'stranger')::int) OVER (PARTITION BY person_id) AS "position", session_id, channel, campaign_name, touch_type FROM attribution_models.strangers;
SELECT max("position") FROM attribution_models.fragile;
SELECT * FROM pg_temp.by_workers('attribution_models.fragile');
-- As far as workers may go.
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT * FROM pg_temp.by_workers('attribution_models.shuffled');
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SET max_parallel_workers_per_gather = 0;
SELECT * FROM pg_temp.by_workers('attribution_models.parts');
RESET parallel_setup_cost; RESET min_parallel_table_scan_size; RESET parallel_leader_participation; RESET enable_partitionwise_aggregate; RESET max_parallel_workers_per_gather;
-- What reads touches is of no use to anybody else.
SELECT cdi._journey_touches(1, pg_temp.id(1), '2026-01-01', 0, '', NULL, ''::text);
SELECT cdi._journey_converts(1, pg_temp.id(1));
-- Crowds go to files by neighbours, and hundreds of labels may begin and end alike.
CREATE TABLE attribution_models.crowd AS
SELECT pg_temp.id(p) AS person_id, timestamptz '2026-01-01' + (p * 7 + i * 41) % 60 * interval '1 day' AS touched_at, i AS "position",
       'campaign ' || (p * 31 + i * 17) % 700 || ' of the year' AS channel
FROM generate_series(1, 20000) p, generate_series(1, 1 + p % 4) i ORDER BY md5(p || ' ' || i);
CREATE TABLE attribution_models.crowd_conversions AS
SELECT pg_temp.id(-p) AS event_id, 'c' AS conversion, nullif(pg_temp.id(p + 50), pg_temp.id(77)) AS person_id,
       timestamptz '2026-01-20' + p % 40 * interval '1 day' AS converted_at, p AS "position", p % 991 / 100.0 AS value
FROM generate_series(1, 20000) p ORDER BY md5('c' || p);
CREATE FUNCTION pg_temp.crowd() RETURNS TABLE (channel text, conversions float8, value numeric) LANGUAGE sql AS $$
SELECT dimensions[1], conversions, value FROM cdi._attribution_sums('{linear}', '{channel}', NULL, NULL, NULL, '20 days',
    '{"touchpoints": "attribution_models.crowd", "conversion_events": "attribution_models.crowd_conversions"}')
$$;
CREATE TEMP TABLE crowd_credit AS SELECT * FROM pg_temp.crowd();
SELECT count(*) AS channels, count(*) FILTER (WHERE c.channel IS NULL OR p.channel IS NULL OR abs(c.conversions - p.conversions) > 1e-9 OR abs(c.value - p.value) > 1e-9) AS differing
FROM crowd_credit c FULL JOIN (
    SELECT coalesce(channel, 'unattributed') AS channel, sum(1.0 / n) AS conversions, sum(value / n) AS value
    FROM (SELECT t.channel, c.value, count(*) OVER (PARTITION BY c.event_id) AS n
          FROM attribution_models.crowd_conversions c
          LEFT JOIN attribution_models.crowd t ON t.person_id = c.person_id AND t.touched_at BETWEEN c.converted_at - interval '20 days' AND c.converted_at) path
    GROUP BY 1) p USING (channel);
SET work_mem = '64kB'; SET hash_mem_multiplier = 1;
SELECT count(*) AS channels, count(*) FILTER (WHERE c.conversions IS DISTINCT FROM s.conversions OR c.value IS DISTINCT FROM s.value) AS differing
FROM crowd_credit c FULL JOIN pg_temp.crowd() s USING (channel);
-- Few people with many touches leave most parts empty.
CREATE TABLE attribution_models.few AS
SELECT pg_temp.id(1 + i % 3) AS person_id, timestamptz '2026-01-01' + i * interval '1 minute' AS touched_at, i AS "position", 'c' || i % 7 AS channel FROM generate_series(1, 9000) i;
CREATE TABLE attribution_models.few_conversions AS SELECT 'c' AS conversion, pg_temp.id(p) AS person_id, timestamptz '2026-01-10' AS converted_at, 210 AS value FROM generate_series(1, 3) p;
SELECT model, dimensions[1] AS channel, round(conversions::numeric, 9) AS conversions, round(value, 6) AS value
FROM cdi._attribution_sums('{linear}', '{channel}', NULL, NULL, NULL, '20 days', '{"touchpoints": "attribution_models.few", "conversion_events": "attribution_models.few_conversions"}') ORDER BY 2;
SELECT channel, round(sum(1 / 3000.0), 9) AS conversions, round(sum(210 / 3000.0), 6) AS value FROM attribution_models.few GROUP BY 1 ORDER BY 1;
RESET work_mem; RESET hash_mem_multiplier;
-- Nor does it where touches of one instant have no position: the channel decides.
CREATE TABLE attribution_models.days AS
SELECT md5(p::text)::uuid AS person_id, timestamptz '2026-01-01' AS touched_at, channel, 'c' || c AS campaign_name FROM generate_series(1, 30) p, unnest('{email,direct,display}'::text[]) channel, generate_series(1, 2) c ORDER BY md5(p || channel || c);
CREATE TABLE attribution_models.days_conversions AS SELECT md5(p::text)::uuid AS person_id, timestamptz '2026-01-02' AS converted_at, 'c' AS conversion FROM generate_series(1, 30) p;
SELECT model, channel, campaign_name, sum(credit) FROM unnest('{first_touch,last_touch}'::text[]) model,
    cdi_attribution(model, lookback => '7 days', parameters => '{"touchpoints": "attribution_models.days", "conversion_events": "attribution_models.days_conversions"}') GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

SELECT count(*), count(conversion_event_id) AS with_event FROM cdi_attribution('linear', lookback => '7 days', parameters => '{"touchpoints": "attribution_models.days", "conversion_events": "attribution_models.days_conversions"}');

-- Path models: what they credit each label with, summed over conversions, is
-- what the aggregate says over the same paths, those that led to nothing
-- included: runs of touches in no window, split at one that is in one and at
-- pauses longer than the window.
CREATE TEMP TABLE null_runs AS
WITH names AS (SELECT DISTINCT conversion FROM attribution_models.conversions),
open AS (
    SELECT n.conversion, t.*, EXISTS (SELECT FROM attribution_models.conversions c WHERE c.conversion = n.conversion AND c.person_id = t.person_id
               AND t.touched_at BETWEEN c.converted_at - interval '20 days' AND c.converted_at) AS led
    FROM names n CROSS JOIN attribution_models.touches t
), runs AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY conversion, person_id ORDER BY touched_at, "position") AS run
    FROM (SELECT *, led OR coalesce(lag(led) OVER w, true) OR touched_at - lag(touched_at) OVER w > interval '20 days' AS begins FROM open
          WINDOW w AS (PARTITION BY conversion, person_id ORDER BY touched_at, "position")) b
)
SELECT conversion, array_agg(channel ORDER BY touched_at, "position") AS path,
       array_agg(least((SELECT max(at) FROM (SELECT touched_at FROM attribution_models.touches UNION ALL SELECT converted_at FROM attribution_models.conversions) s (at)),
                       last_at + interval '20 days') - touched_at ORDER BY touched_at, "position") AS ages
FROM (SELECT *, max(touched_at) OVER (PARTITION BY conversion, person_id, run) AS last_at FROM runs WHERE NOT led) r GROUP BY conversion, person_id, run;
CREATE TEMP TABLE corpus AS
SELECT conversion, coalesce(array_agg(channel ORDER BY i) FILTER (WHERE session_id IS NOT NULL), '{}') AS path,
       coalesce(array_agg(converted_at - touched_at ORDER BY i) FILTER (WHERE session_id IS NOT NULL), '{}') AS ages, 1 AS conversions, 0 AS nulls FROM path GROUP BY event_id, conversion
UNION ALL SELECT conversion, path, ages, 0, 1 FROM null_runs;
SELECT sum(nulls) > 300 AS many_nulls, sum(conversions) AS conversions FROM corpus;
CREATE TEMP TABLE path_credit AS
SELECT m.name, m.parameters, a.* FROM (VALUES ('markov', '{}'), ('markov', '{"order": 2}'), ('shapley', '{}'), ('shapley', '{"game": "rate"}'), ('shapley_ordered', '{}'), ('logistic', '{}'), ('additive_hazard', '{}')) m (name, parameters)
CROSS JOIN LATERAL cdi_attribution(m.name, lookback => '20 days', parameters => pg_temp.parameters(m.parameters::jsonb)) a;
CREATE TEMP TABLE wanted AS
SELECT 'markov' AS name, '{}' AS parameters, conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_markov(path, conversions, 0, nulls) AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r
UNION ALL SELECT 'markov', '{"order": 2}', conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_markov(path, conversions, 0, nulls, '{"order": 2}') AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r
UNION ALL SELECT 'shapley', '{}', conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_shapley(path, conversions, 0, nulls) AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r
UNION ALL SELECT 'shapley_ordered', '{}', conversion, r.channel, sum(r.conversions) FROM (SELECT conversion, cdi_shapley_ordered(path, conversions, 0, nulls) AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r GROUP BY conversion, r.channel
UNION ALL SELECT 'shapley', '{"game": "rate"}', conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_shapley(path, conversions, 0, nulls, '{"game": "rate"}') AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r
UNION ALL SELECT 'logistic', '{}', conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_logistic(path, conversions, 0, nulls) AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r
UNION ALL SELECT 'additive_hazard', '{}', conversion, r.channel, r.conversions FROM (SELECT conversion, cdi_hazard(path, ages, conversions, 0, nulls) AS r FROM corpus GROUP BY conversion) m CROSS JOIN LATERAL unnest(m.r) r;
-- Values below zero, which the game of rates can have, are no shares: those are left out.
SELECT name, parameters, count(*) AS totals, count(*) FILTER (WHERE abs(c.credit - w.conversions) > 1e-6 * w.conversions) AS differing
FROM (SELECT name, parameters, conversion, channel, sum(credit) AS credit FROM path_credit GROUP BY 1, 2, 3, 4) c
JOIN wanted w USING (name, parameters, conversion, channel)
WHERE w.channel <> 'unattributed' AND NOT EXISTS (SELECT FROM wanted n WHERE n.name = w.name AND n.parameters = w.parameters AND n.conversion = w.conversion AND n.conversions < 0)
GROUP BY name, parameters ORDER BY name, parameters;
SELECT count(*) AS wrong FROM (
    SELECT sum(credit ORDER BY touch) AS credit, sum(credited_value) AS credited_value, min(value) AS value
    FROM path_credit GROUP BY name, parameters, conversion_event_id) s
WHERE credit <> 1 OR credited_value <> value;
-- In the order of a path a label stands where it comes first.
SELECT count(*) AS elsewhere FROM path_credit c JOIN marked m ON m.event_id = c.conversion_event_id AND m.session_id = c.session_id
WHERE c.name = 'shapley_ordered' AND m.of_channel > 1;

-- Intervals of sums: the same for a seed, whatever the order of rows, the plan
-- and the memory; of one model the same beside others.
CREATE TABLE attribution_models.shuffled_conversions AS SELECT * FROM attribution_models.conversions ORDER BY md5(event_id::text || 'x');
CREATE FUNCTION pg_temp.bounds(models text[], more jsonb, dimensions text[] DEFAULT '{channel}') RETURNS TABLE (model text, dimension text[], conversions float8, value numeric, bounds text) LANGUAGE sql AS $$
SELECT model, dimension, conversions, value, concat_ws(' ', conversions_low, conversions_high, value_low, value_high)
FROM cdi_attribution_report(models, lookback => '20 days', dimensions => dimensions, parameters => pg_temp.parameters('{"bootstrap": 20}' || more))
$$;
CREATE TEMP TABLE interval AS SELECT * FROM pg_temp.bounds('{linear,time_decay,participation,shapley_ordered,markov,rate,logistic,hazard}', '{"hazard": {"model": "additive_hazard"}, "rate": {"model": "shapley", "game": "rate"}}');
SELECT count(*) AS rows, count(*) FILTER (WHERE bounds LIKE '% % % %') AS bounded FROM interval;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET work_mem = '64kB'; SET hash_mem_multiplier = 1;
SELECT count(*) AS differing FROM interval i FULL JOIN pg_temp.bounds('{hazard,logistic,rate,markov,shapley_ordered,participation,time_decay,linear}',
    '{"hazard": {"model": "additive_hazard"}, "rate": {"model": "shapley", "game": "rate"}, "touchpoints": "attribution_models.shuffled", "conversion_events": "attribution_models.shuffled_conversions"}') s USING (model, dimension) WHERE i.bounds IS DISTINCT FROM s.bounds;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET work_mem; RESET hash_mem_multiplier;
SELECT count(*) AS differing FROM pg_temp.bounds('{markov}', '{}') s JOIN interval i USING (model, dimension) WHERE i.bounds <> s.bounds;
SELECT count(*) > 0 AS other_seed FROM pg_temp.bounds('{markov}', '{"seed": 2}') s JOIN interval i USING (model, dimension) WHERE i.bounds <> s.bounds;
SELECT bool_and(conversions_low < conversions AND conversions < conversions_high AND value_low < value AND value < value_high) AS around, count(*)
FROM cdi_attribution_report('{linear,markov,additive_hazard}', lookback => '20 days', dimensions => '{channel}', parameters => pg_temp.parameters('{"bootstrap": 200, "confidence": 0.999}'));
-- Sums by day and campaign have theirs; without bootstrap there are none.
SELECT count(*) > 100 AS many, bool_and(array_length(string_to_array(bounds, ' '), 1) = 4) AS bounded FROM pg_temp.bounds('{linear}', '{}', '{day,campaign_name}') WHERE conversions > 0;
SELECT DISTINCT bounds FROM pg_temp.bounds('{linear,markov}', '{"bootstrap": 0}');

-- Types of touch: only some, and windows of their own.
SELECT cdi_create_conversion('a', 'A', touch_lookbacks => '{"impression": "1 day"}', lookback => '20 days');
SELECT count(*) > 100 AS many, max(days_before) FILTER (WHERE touch_type = 'impression') BETWEEN 0.5 AND 1 AS short, max(days_before) FILTER (WHERE touch_type IS DISTINCT FROM 'impression') > 15 AS long
FROM cdi_attribution('linear', 'a', parameters => pg_temp.parameters());
SELECT count(*) AS differing FROM (
    SELECT conversion_event_id, touch, session_id FROM cdi_attribution('linear', 'a', parameters => pg_temp.parameters('{"touch_types": ["impression", "session"]}')) WHERE touches > 0
    EXCEPT SELECT event_id, row_number() OVER (PARTITION BY event_id ORDER BY touched_at, "position"), session_id FROM path
    WHERE conversion = 'a' AND (touch_type = 'session' OR touch_type = 'impression' AND days <= 1)) d;
SELECT cdi_drop_conversion('a');

-- What is at the edges: nobody's touches, time without end, a thousand channels,
-- a path of a hundred thousand touches.
TRUNCATE attribution_models.touches, attribution_models.conversions;
SELECT count(*) FROM cdi_attribution('linear', lookback => '20 days', parameters => pg_temp.parameters());
INSERT INTO attribution_models.touches VALUES (pg_temp.id(1), '-infinity', 1, NULL, 'a'), (pg_temp.id(1), '2026-01-01', 2, NULL, NULL), (pg_temp.id(1), 'infinity', 3, NULL, 'c'), (NULL, '2026-01-01', 4, NULL, 'd'), (pg_temp.id(1), NULL, 5, NULL, 'e');
INSERT INTO attribution_models.conversions VALUES (pg_temp.id(1), 'a', pg_temp.id(1), '-infinity', 1, 'NaN'), (pg_temp.id(2), 'a', pg_temp.id(1), '2026-01-02', 1, 'Infinity'), (pg_temp.id(3), 'a', pg_temp.id(1), 'infinity', 1, 3), (pg_temp.id(4), 'a', pg_temp.id(1), NULL, 1, 3), (pg_temp.id(5), NULL, pg_temp.id(1), '2026-01-02', 1, 3), (pg_temp.id(6), 'a', pg_temp.id(1), '2025-01-01', 1, 0);
SELECT converted_at, value, touched_at, channel, touch, touches, credit, credited_value, days_before FROM cdi_attribution('time_decay', lookback => '20 days', parameters => pg_temp.parameters()) ORDER BY converted_at;
SELECT converted_at, channel, touches FROM cdi_attribution('time_decay', lookback => '178000000 years', parameters => pg_temp.parameters()) ORDER BY converted_at;
SELECT dimensions, conversions, value, unvalued FROM cdi._attribution_sums('{linear}', '{day,channel}', NULL, NULL, NULL, '20 days', pg_temp.parameters()) ORDER BY dimensions;
INSERT INTO attribution_models.touches SELECT pg_temp.id(7), timestamptz '2026-01-01' + i * interval '1 second', i, NULL, 'channel ' || i % 1000 FROM generate_series(1, 100000) i;
INSERT INTO attribution_models.conversions SELECT pg_temp.id(100 + i), 'long', pg_temp.id(7), timestamptz '2026-01-03', i, 1 FROM generate_series(1, 3) i;
SELECT m.model, count(*) AS channels, sum(s.conversions) AS conversions, sum(s.value) AS value
FROM unnest('{linear,time_decay,u_shaped,participation}'::text[]) m (model), cdi._attribution_sums(ARRAY[m.model], '{channel}', 'long', NULL, NULL, '20 days', pg_temp.parameters()) s GROUP BY m.model ORDER BY m.model;
SELECT count(*), max(touches), sum(credit), sum(credited_value) FROM cdi_attribution('linear', 'long', lookback => '20 days', parameters => pg_temp.parameters('{"transform": "first"}'));

-- Intervals by closed forms.  Conversions of one touch: of 100 drawn, those of a
-- channel that has 30 are binomial, 21 to 39; the other has what is left of 100.
TRUNCATE attribution_models.touches, attribution_models.conversions;
INSERT INTO attribution_models.touches SELECT pg_temp.id(i), '2026-01-01', 1, NULL, CASE WHEN i <= 30 THEN 'a' ELSE 'b' END FROM generate_series(1, 100) i;
INSERT INTO attribution_models.conversions SELECT pg_temp.id(i), 'sale', pg_temp.id(i), '2026-01-02', 1, 2 FROM generate_series(1, 100) i;
SELECT model, dimension, conversions_low, conversions_high, value_low, value_high
FROM cdi_attribution_report('{linear,shapley}', lookback => '20 days', parameters => pg_temp.parameters('{"bootstrap": 20000}'));
-- To a model of all paths, those that led to nothing are drawn, too: of 200 paths
-- of which 20 led to a conversion 12 to 29 do, were they all of one channel.
INSERT INTO attribution_models.touches SELECT pg_temp.id(i), '2026-01-01', 1, NULL, 'a' FROM generate_series(101, 280) i;
UPDATE attribution_models.touches SET channel = 'a';
DELETE FROM attribution_models.conversions WHERE "position" = 1 AND event_id NOT IN (SELECT pg_temp.id(i) FROM generate_series(1, 20) i);
DELETE FROM attribution_models.touches WHERE person_id IN (SELECT pg_temp.id(i) FROM generate_series(21, 100) i);
SELECT model, conversions_low, conversions_high, value_low, value_high
FROM cdi_attribution_report('{linear,markov,logistic,additive_hazard}', lookback => '20 days', parameters => pg_temp.parameters('{"bootstrap": 5000}'));

-- Sums beyond any amount, and shares of very small ones.
TRUNCATE attribution_models.touches, attribution_models.conversions;
INSERT INTO attribution_models.touches SELECT pg_temp.id(1), timestamptz '2026-01-01' + i * interval '1 hour', i, NULL, 'channel ' || i FROM generate_series(1, 3) i;
INSERT INTO attribution_models.conversions SELECT pg_temp.id(i), 'large', pg_temp.id(1), '2026-01-02', i, v FROM unnest(ARRAY[999999999999999999.999999999999, 1e30, -1e30, 0.0000000000001, 1e-30]) WITH ORDINALITY u (v, i);
SELECT value, string_agg(credited_value::text, ' ' ORDER BY touch) FROM cdi_attribution('linear', lookback => '20 days', parameters => pg_temp.parameters()) GROUP BY conversion_event_id, value ORDER BY value;
SELECT sum(value) = (SELECT sum(value) FROM attribution_models.conversions) AS kept FROM cdi._attribution_sums('{linear}', '{channel}', NULL, NULL, NULL, '20 days', pg_temp.parameters());
-- Of any size: a third of the value to 12 digits, or of one that is larger or has more to 15 in all.
INSERT INTO attribution_models.conversions
SELECT pg_temp.id(1000 * k + f), 'sized', pg_temp.id(1), '2026-01-02', f, (ARRAY[1, -7.25, 9999.9999, 123456789.123456789, -0.3])[f] * ('1e' || k)::numeric FROM generate_series(-30, 40) k, generate_series(1, 5) f;
SELECT count(*), count(*) FILTER (WHERE abs(credited_value - round(value / 3::numeric(100, 60), greatest(12, scale(value)))) > CASE WHEN abs(value) < 1e18 AND scale(value) <= 12 THEN 0 ELSE abs(value) * 1e-15 END) AS differing
FROM cdi_attribution('linear', 'sized', lookback => '20 days', parameters => pg_temp.parameters()) WHERE touch < 3;
-- The largest value there is, is credited exactly by models of all paths, too; one that is larger is none.
INSERT INTO attribution_models.conversions VALUES (pg_temp.id(9), 'huge', pg_temp.id(1), '2026-01-02', 9, 9e99), (pg_temp.id(10), 'huge', pg_temp.id(1), '2026-01-02', 10, 1e100);
SELECT m.model, sum(a.credited_value) = 9e99 AS kept FROM unnest('{linear,markov,additive_hazard}'::text[]) m (model), cdi_attribution(m.model, 'huge', lookback => '20 days', parameters => pg_temp.parameters()) a GROUP BY m.model ORDER BY m.model;
SELECT model, sum(value) = 9e99 AS kept, bool_and(value_low <= value AND value <= value_high AND value_high <= 18e99) AS bounded
FROM cdi._attribution_sums('{linear,markov}', '{channel}', 'huge', NULL, NULL, '20 days', pg_temp.parameters('{"bootstrap": 100}')) GROUP BY model ORDER BY model;

-- Touches that differ in their session alone, read forward and backward: the same one is first.
CREATE TABLE attribution_models.twins AS SELECT pg_temp.id(1) AS person_id, timestamptz '2026-01-01' AS touched_at, 'a' AS channel, pg_temp.id(n) AS session_id FROM generate_series(1, 9) n;
CREATE VIEW attribution_models.forward AS SELECT * FROM attribution_models.twins ORDER BY session_id;
CREATE VIEW attribution_models.backward AS SELECT * FROM attribution_models.twins ORDER BY session_id DESC;
SELECT count(DISTINCT a.session_id) AS sessions, count(*) FROM unnest('{forward,backward}'::text[]) relation,
    cdi_attribution('first_touch', 'large', lookback => '20 days', parameters => pg_temp.parameters() || jsonb_build_object('touchpoints', 'attribution_models.' || relation)) a WHERE a.value = 1e30;

DROP SCHEMA attribution_models CASCADE;
