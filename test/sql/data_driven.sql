-- Shapley, logistic and additive-hazard models: results that can be checked by
-- hand, and input that no model likes.  test/integration/data_driven compares
-- with definitions and other implementations.
CREATE TEMP TABLE paths (path text[], conversions double precision, value double precision, nulls double precision);
INSERT INTO paths VALUES ('{a}', 2, 20, 8), ('{b}', 1, 10, 19), ('{a,b}', 3, 60, 3), ('{b,a,b}', 0, 0, 4);
CREATE FUNCTION pg_temp.show(cdi.path_credit[]) RETURNS TABLE (channel text, conversions numeric, low numeric, high numeric, value numeric, effect numeric)
LANGUAGE sql AS $$
SELECT channel, round(conversions::numeric, 6), round(conversions_low::numeric, 6), round(conversions_high::numeric, 6), round(value::numeric, 6), round(effect::numeric, 6)
FROM unnest($1)
$$;

-- a: 2 + 3/2; b: 1 + 3/2
SELECT s.* FROM (SELECT cdi_shapley(path, conversions, value, nulls) AS r FROM paths) x, pg_temp.show(r) s;
-- v(a) = 2/10, v(b) = 1/20, v(ab) = 6/40: a has (0.2 + 0.15 - 0.05) / 2 = 0.15, of 40 paths 6; b has 0
SELECT s.* FROM (SELECT cdi_shapley(path, conversions, value, nulls, '{"game": "rate"}') AS r FROM paths) x, pg_temp.show(r) s;
SELECT s.* FROM (SELECT cdi_shapley_ordered(path, conversions, value, nulls) AS r FROM paths) x, unnest(r) s;
-- One channel: p is as observed with and without, ln((3/10)/(7/10)) - ln((1/20)/(19/20))
SELECT s.*, round(ln(3.0 / 7) - ln(1.0 / 19), 6) AS expected
FROM (SELECT cdi_logistic(path, conversions, 0, nulls, '{"ridge": 0}') AS r FROM (VALUES ('{a}'::text[], 3, 7), ('{}', 1, 19)) p(path, conversions, nulls)) x, pg_temp.show(r) s;
-- At the maximum a touch's strength is the conversions over all touches as far as their hazard has passed
SELECT channel, round(conversions::numeric, 6) AS conversions, value, effect BETWEEN 0.2 AND 0.3 AS in_range,
       abs(effect - 5 / (5 * (1 - exp(-86400 / extract(epoch FROM lag))) + 15)) < 1e-5 AS is_maximum
FROM (SELECT cdi_hazard(path, ages, conversions, value, nulls) AS r FROM (VALUES
    ('{a}'::text[], '{1 day}'::interval[], 5, 50, 0), ('{a}', '{1000 days}', 0, 0, 15)) p(path, ages, conversions, value, nulls)) x, unnest(r);
-- Of two touches the later one of a fast channel is the likelier cause; an hour's age of both is shared as strength and rate say.
SELECT channel, conversions > 9.9 AS all_of_it
FROM (SELECT cdi_hazard(path, ages, conversions, 0, nulls) AS r FROM (VALUES
    ('{slow,fast}'::text[], '{20 days,1 hour}'::interval[], 10, 0), ('{fast}', '{1 hour}', 10, 0), ('{fast}', '{90 days}', 0, 5),
    ('{slow}', '{90 days}', 0, 500)) p(path, ages, conversions, nulls)) x, unnest(r) WHERE channel = 'slow' OR conversions > 0;

-- Paths without a touch belong to nobody; no row, no path, no conversion
SELECT s.* FROM (SELECT cdi_shapley(path, 2, 30, 1) AS r FROM (VALUES (NULL::text[]), ('{}'), ('{x}')) p(path)) x, pg_temp.show(r) s;
SELECT cdi_shapley(path, 1, 1, 1) AS shapley, cdi_shapley_ordered(path, 1, 1, 1) AS ordered, cdi_logistic(path, 1, 1, 1) AS logistic FROM paths WHERE false;
SELECT cdi_hazard(path, NULL, 1, 1, 1) FROM paths WHERE false;
SELECT cdi_shapley(path, 0, 0, 5, '{"game": "rate"}') AS shapley, cdi_logistic(path, 0, 0, 5) AS logistic FROM paths;
SELECT cdi_hazard(path, '{1 day}', 0, 0, 5) FROM (VALUES ('{a}'::text[])) p(path);
-- One channel, touched often; null counts are 0; values may be negative
SELECT s.* FROM (SELECT cdi_shapley('{a,a,a}', 1, -5, NULL, '{"game": "rate"}') AS r) x, pg_temp.show(r) s;
SELECT s.* FROM (SELECT cdi_logistic('{a,a,a}', 1, -5, 3, '{"counts": true, "ridge": 1}') AS r) x, pg_temp.show(r) s;
SELECT channel, conversions, value FROM (SELECT cdi_hazard('{a,a}', '{0,0}', 1, -5, NULL) AS r) x, unnest(r);
-- However many rows have no touch, their conversions are one sum
SELECT channel, conversions, value FROM (SELECT cdi_hazard(path, '{}', conversions, 6, 1) AS r
    FROM (VALUES (NULL::text[], 3), ('{}', 4), ('{}', 4)) p(path, conversions)) x, unnest(r);
-- A channel that lowers the rate has a negative credit, and the sum is what it is
SELECT s.* FROM (SELECT cdi_shapley(path, conversions, 0, nulls, '{"game": "rate"}') AS r FROM (VALUES ('{good}'::text[], 5, 5), ('{good,bad}', 1, 9)) p(path, conversions, nulls)) x, pg_temp.show(r) s;
-- No channel makes a conversion likelier: equal shares
SELECT s.* FROM (SELECT cdi_logistic(path, conversions, 0, nulls) AS r FROM (VALUES ('{a,b}'::text[], 1, 9), ('{}', 9, 1)) p(path, conversions, nulls)) x, pg_temp.show(r) s;

-- Collinear: two channels always together; with a penalty both have the same coefficient
SELECT cdi_logistic(path, 1, 0, 1, '{"ridge": 0}') FROM (VALUES ('{a,b}'::text[]), ('{c}'), ('{c,a,b}'), ('{}')) p(path);
SELECT s.channel, s.conversions FROM (SELECT cdi_logistic(path, c, 0, 1) AS r FROM (VALUES ('{a,b}'::text[], 5), ('{c}', 1), ('{c,a,b}', 3), ('{}', 1)) p(path, c)) x, pg_temp.show(r) s;
-- Every path has the channel: it cannot be told from the constant
SELECT cdi_logistic('{a}', 1, 0, 1, '{"ridge": 0}');
-- Perfect and half separation
SELECT cdi_logistic(path, c, 0, n, '{"ridge": 0}') FROM (VALUES ('{a}'::text[], 5, 0), ('{b}', 0, 5), ('{}', 0, 3)) p(path, c, n);
SELECT cdi_logistic(path, c, 0, n, '{"ridge": 0}') FROM (VALUES ('{a}'::text[], 5, 5), ('{a,b}', 0, 5), ('{}', 1, 3)) p(path, c, n);
SELECT s.channel, s.conversions, s.effect > 0 AS positive FROM (SELECT cdi_logistic(path, c, 0, n, '{"ridge": 1e-6}') AS r FROM (VALUES ('{a}'::text[], 5, 0), ('{b}', 0, 5), ('{}', 0, 3)) p(path, c, n)) x, pg_temp.show(r) s;
SELECT cdi_logistic(path, 2, 0, 0) FROM paths;

-- Refused
SELECT cdi_shapley('{a}', -1, 0, 0);
SELECT cdi_shapley('{a}', 1, 'NaN', 0);
SELECT cdi_shapley('{a,NULL}', 1, 0, 0);
SELECT cdi_shapley('{{a},{b}}', 1, 0, 0);
SELECT cdi_shapley('{a}', 1, 0, 0, '{"game": "chess"}');
SELECT cdi_shapley('{a}', 1, 0, 0, '{"games": "rate"}');
SELECT cdi_shapley('{a}', 1, 0, 0, '{"permutations": 1.5}');
SELECT cdi_shapley(path, 1, v, 1) FROM (VALUES ('{a}'::text[], 1.7e308), ('{a,b}', 1.7e308)) p(path, v);
SELECT cdi_logistic('{a}', 1, 0, 0, '{"ridge": -1}');
SELECT cdi_logistic('{a}', 1, 0, 0, '{"counts": 1}');
SELECT cdi_hazard('{a}', '{-1 second}', 1, 0, 0);
SELECT cdi_hazard('{a}', '{1 day,2 days}', 1, 0, 0);
SELECT cdi_hazard('{a}', '{NULL}', 1, 0, 0);
SELECT cdi_hazard('{a}', '{1 day}', -1, 0, 0);
SELECT cdi_hazard('{a}', '{1 day}', 1, 0, 0, '{"iterations": 0}');

-- 1,000 channels; a path of 100,000 touches
CREATE TEMP TABLE many AS
SELECT ARRAY['c' || n % 1000, 'c' || n * 7 % 1000, 'c' || n * n % 1000] AS path, array_fill(interval '1 day' * (1 + n % 5), ARRAY[3]) AS ages, n % 3 AS conversions, n % 3 * 9.5 AS value, 1 + n % 4 AS nulls
FROM generate_series(0, 2999) n;
SELECT count(*), round(sum(s.conversions)) AS conversions, round(sum(s.value)) AS value, (SELECT sum(conversions) FROM many) AS expected, (SELECT sum(value) FROM many) AS expected_value
FROM (SELECT cdi_shapley(path, conversions, value, nulls) AS r FROM many) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)) AS conversions, round(sum(s.value)) AS value, count(*) FILTER (WHERE s.conversions BETWEEN s.conversions_low AND s.conversions_high)
FROM (SELECT cdi_shapley(path, conversions, value, nulls, '{"game": "rate", "permutations": 200}') AS r FROM many) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)) AS conversions, round(sum(s.value)) AS value FROM (SELECT cdi_logistic(path, conversions, value, nulls) AS r FROM many) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)) AS conversions, round(sum(s.value)) AS value FROM (SELECT cdi_hazard(path, ages, conversions, value, nulls, '{"iterations": 50}') AS r FROM many) x, unnest(r) s;
CREATE TEMP TABLE long AS
SELECT array_agg('c' || n % 40 ORDER BY n) AS path, array_agg(interval '1 minute' * (100000 - n) ORDER BY n) AS ages FROM generate_series(1, 100000) n;
SELECT count(*), round(sum(s.conversions)::numeric, 9) AS conversions FROM (SELECT cdi_shapley(path, 1, 2, 3, '{"game": "rate"}') AS r FROM long) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)::numeric, 9) AS conversions FROM (SELECT cdi_shapley_ordered(path, 1, 2, 3) AS r FROM long) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)::numeric, 9) AS conversions FROM (SELECT cdi_logistic(path, 1, 2, 3, '{"counts": true}') AS r FROM long) x, unnest(r) s;
SELECT count(*), round(sum(s.conversions)::numeric, 9) AS conversions FROM (SELECT cdi_hazard(path, ages, 1, 2, 3) AS r FROM long) x, unnest(r) s;

-- Intervals of all by the same code
SELECT model, bool_and(s.conversions_low <= s.conversions AND s.conversions <= s.conversions_high AND s.value_low <= s.value_high) AS inside
FROM (SELECT 'shapley' AS model, cdi_shapley(path, 20 * conversions, 20 * value, 20 * nulls, '{"game": "rate", "bootstrap": 200}') AS r FROM paths
      UNION ALL SELECT 'additive', cdi_shapley(path, 20 * conversions, 20 * value, 20 * nulls, '{"bootstrap": 200}') FROM paths
      UNION ALL SELECT 'logistic', cdi_logistic(path, 20 * conversions, 20 * value, 20 * nulls, '{"bootstrap": 200}') FROM paths) x, unnest(r) s GROUP BY model;
SELECT channel, conversions_low < conversions AND conversions < conversions_high AND value_low < value_high AS inside
FROM (SELECT cdi_hazard(path, ages, conversions, value, nulls, '{"bootstrap": 100, "confidence": 0.9}') AS r FROM (VALUES
    ('{a,b}'::text[], '{2 days,1 day}'::interval[], 20, 200, 30), ('{b}', '{3 hours}', 30, 900, 40), ('{a}', '{5 hours}', 30, 100, 70)) p(path, ages, conversions, value, nulls)) x, unnest(r);

-- Of a channel's only position the interval is that of the channel; of 20 drawn, what is one path in two is binomial, 6 to 14
SELECT o.channel, o."position", o.conversions_low, o.conversions_high, o.value_low, o.value_high, o.conversions_low = s.conversions_low AND o.value_high = s.value_high AS as_unordered
FROM (SELECT cdi_shapley_ordered(path, 10, 20, 0, '{"bootstrap": 20000, "seed": 7}') AS ordered, cdi_shapley(path, 10, 20, 0, '{"bootstrap": 20000, "seed": 7}') AS plain FROM (VALUES ('{a}'::text[]), ('{b}')) p(path)) x,
     unnest(x.ordered) o JOIN unnest(x.plain) s USING (channel);
SELECT cdi_shapley_ordered(path, conversions, value, nulls, '{"game": "rate"}') FROM paths;

-- Among the replicates are some where by chance no path led to nothing; a channel called unattributed has no bounds that leave the others out; a value of no conversion stays
SELECT s.channel, s.conversions_low <= s.conversions AND s.conversions <= s.conversions_high AS inside FROM unnest((SELECT cdi_logistic(path, c, c, n, '{"bootstrap": 50}') FROM (VALUES ('{a}'::text[], 5, 1), ('{b}', 2, 0)) p(path, c, n))) s;
SELECT s.* FROM unnest((SELECT cdi_shapley(path, 3, 6, 1, '{"bootstrap": 20}') FROM (VALUES ('{unattributed}'::text[]), ('{}')) p(path))) s;
SELECT s.* FROM unnest((SELECT cdi_shapley('{a}', 0, 5, 1, '{"bootstrap": 20}'))) s;
-- Sums beyond double precision are refused, by models that would otherwise lose them, too
SELECT cdi_markov(path, 1e308, 1, 0) FROM (VALUES ('{a}'::text[]), ('{b}')) p(path);
SELECT cdi_hazard(path, '{1 day}', 1, 1e308, 0) FROM (VALUES ('{a}'::text[]), ('{b}')) p(path);
SELECT cdi_markov(path, n, 0, 0) FROM (VALUES ('{a}'::text[], 1e308), ('{b}', 7e307)) p(path, n);
SELECT cdi_markov(path, 1e-320, 0, 1e10) FROM (VALUES ('{a}'::text[]), ('{b}')) p(path);

-- With a penalty there is a maximum, however little it is beside the paths.  Where one channel decides alone, its effect b is ln 6 - 2 ln(b ridge / paths);
-- two channels that always come together share what one would get, ln(2/4) - ln(1/3).
SELECT ridge, scale, abs(e.effect - (ln(6::float8) - 2 * ln(e.effect * ridge / scale))) < 1e-8 AS separated
FROM (VALUES (1e-12::float8, 1::float8), (1e-15, 1), (1, 1e12), (1, 1e14)) v(ridge, scale),
     LATERAL unnest((SELECT cdi_logistic(path, c * scale, 0, n * scale, jsonb_build_object('ridge', ridge)) FROM (VALUES ('{a}'::text[], 2, 0), ('{}', 0, 3)) p(path, c, n))) e;
SELECT ridge, scale, bool_and(abs(2 * e.effect - ln(1.5::float8)) < 1e-6) FILTER (WHERE e.effect IS NOT NULL) AS together
FROM (VALUES (1e-8::float8, 1::float8), (1e-12, 1), (1, 1e12)) v(ridge, scale),
     LATERAL unnest((SELECT cdi_logistic(path, c * scale, 0, n * scale, jsonb_build_object('ridge', ridge)) FROM (VALUES ('{a,b}'::text[], 2, 4), ('{}', 1, 3)) p(path, c, n))) e GROUP BY ridge, scale ORDER BY ridge;

-- One state serves several aggregates of the same paths
SELECT cdi_shapley(path, conversions, value, nulls) IS NOT NULL AND cdi_shapley_ordered(path, conversions, value, nulls) IS NOT NULL AND cdi_logistic(path, conversions, value, nulls) IS NOT NULL AS all_three FROM paths;
-- Not as window functions: the result makes the state final
SELECT cdi_shapley(path, conversions, value, nulls) OVER (ORDER BY path) FROM paths;
