-- Path transforms, and the Markov model over paths.
-- test/integration/markov compares it with its definition on generated cases.
SET client_min_messages = warning;

-- The example of Fractribution for each transform.
SELECT transform, cdi_path_transform('{D,A,B,B,C,D,C,C}', transform)
FROM unnest('{exposure,first,frequency,unique}'::text[]) AS transform;
SELECT cdi_path_transform('{D,A,B,B,C,D,C,C}', 'remove_if_not_all', 'C') AS without_c,
       cdi_path_transform('{C,C}', 'remove_if_not_all', 'C') AS only_c,
       cdi_path_transform('{D,A,B,B,C,D,C,C}', 'remove_if_last_and_not_all', 'C') AS without_last_c,
       cdi_path_transform('{C,C}', 'remove_if_last_and_not_all', 'C') AS only_last_c,
       cdi_path_transform('{A,D,C}', 'remove_if_last_and_not_all', 'C', 'D') AS one_after_the_other,
       cdi_path_transform('{D,C}', 'remove_if_not_all', 'C', 'D') AS last_of_both;
SELECT cdi_path_transform('{A,B,C}', 'trim', '2') AS two, cdi_path_transform('{A,B,C}', 'trim', '3') AS three,
       cdi_path_transform('{A,B,C}', 'trim', '99') AS ninety_nine;
SELECT transform, cdi_path_transform('{}', transform) AS empty, cdi_path_transform(NULL, transform) AS none
FROM unnest('{exposure,first,frequency,unique}'::text[]) AS transform;
SELECT cdi_path_transform('{}', 'remove_if_not_all', 'C') AS removed, cdi_path_transform('{}', 'trim', '1') AS trimmed;
SELECT cdi_path_transform('{Straße,"a b","",Straße}', 'frequency') AS any_text;
SELECT cardinality(cdi_path_transform(array_agg((i % 1000)::text), 'frequency')) AS of_a_hundred_thousand FROM generate_series(1, 100000) AS i;
SELECT cdi_path_transform('{A}', 'last');
SELECT cdi_path_transform('{A}', 'exposure', 'A');
SELECT cdi_path_transform('{A}', 'remove_if_not_all');
SELECT cdi_path_transform('{A}', 'remove_if_not_all', NULL);
SELECT cdi_path_transform('{A}', 'trim', '0');
SELECT cdi_path_transform('{A}', 'trim', 'two');
SELECT cdi_path_transform('{A,NULL}', 'first');
SELECT cdi_path_transform('{{A},{B}}', 'first');

-- What a model says, rounded to the accuracy that the integration test is for.
CREATE TABLE markov_paths (name text, path text[], conversions float8, value float8, nulls float8);
CREATE FUNCTION markov_credit(of text, options jsonb DEFAULT '{}')
RETURNS TABLE (channel text, conversions numeric, value numeric, effect numeric) LANGUAGE sql AS $$
SELECT c.channel, round(c.conversions::numeric, 10), round(c.value::numeric, 10), round(c.effect::numeric, 10)
FROM (SELECT cdi_markov(path, conversions, value, nulls, options) AS credits FROM markov_paths WHERE name = of) m, unnest(m.credits) c
$$;

-- Published: 0.2, 0.4 and 0.4 conversions, as C1's removal leaves half of them
-- (analyzecore.com/2016/08/03/attribution-model-r-part-1).
INSERT INTO markov_paths VALUES ('c', '{C1,C2,C3}', 1, 10, 0), ('c', '{C1}', 0, 0, 1), ('c', '{C2,C3}', 0, 0, 1);
SELECT * FROM markov_credit('c');
-- By hand: without google 1/5 of the walks convert instead of 4/5, without mailing
-- 4/5 * 2/4; credit is 4 * 0.75 / 1.25 and 4 * 0.5 / 1.25.
INSERT INTO markov_paths VALUES ('g', '{google}', 2, 20, 1), ('g', '{mailing}', 1, 10, 0), ('g', '{google,mailing}', 1, 10, 0);
SELECT * FROM markov_credit('g');

-- Order 2: A>B and B>A are states; all conversions pass both channels.
INSERT INTO markov_paths VALUES ('two', '{A,B}', 1, NULL, 1), ('two', '{B,A}', 3, NULL, 1), ('two', '{A,C}', NULL, NULL, 4);
SELECT * FROM markov_credit('two', '{"order": 2}');
-- Order 1 mixes them, and walks go round.  By hand: of 10 walks 6 start in A and 4
-- in B; A leads to B with 2/10 and converts with 3/10, B leads to A with 4/6 and
-- converts with 1/6.  4/10 convert; without A 4/10 * 1/6, without B 6/10 * 3/10.
SELECT * FROM markov_credit('two');
-- An order beyond the longest path: each path is a state of its own, and the
-- effect of a channel is the part of conversions whose path has it.
INSERT INTO markov_paths VALUES ('long', '{A,B,A}', 6, 60, 1), ('long', '{B}', 3, 3, 5), ('long', '{C,A}', 1, 7, 0);
SELECT * FROM markov_credit('long', '{"order": 32}');

-- The default is order 1, and equal paths are one.
SELECT cdi_markov(path, conversions, value, nulls) = cdi_markov(path, conversions, value, nulls, '{"order": 1}') AS same FROM markov_paths WHERE name = 'g';
SELECT m.credits = s.credits AS same
FROM (SELECT cdi_markov(path, conversions, value, nulls) AS credits FROM markov_paths WHERE name = 'g') m,
     (SELECT cdi_markov(path, 1, 10, 0) AS credits FROM unnest('{google,google,mailing}'::text[]) AS t(channel), LATERAL (SELECT ARRAY[channel] AS path) p) r,
     (SELECT cdi_markov(path, c, v, n) AS credits FROM (VALUES ('{google}'::text[], 1, 5, 0), ('{google}', 1, 15, 1), ('{mailing}', 1, 10, 0), ('{google,mailing}', 1, 10, 0)) x(path, c, v, n)) s;

-- One channel, repeats of it, and a hundred channels in a row.
INSERT INTO markov_paths VALUES ('one', '{A}', 3, 30, 7), ('again', '{A,A,A,A}', 3, 30, 7), ('again', '{A,A}', 0, 0, 5);
SELECT * FROM markov_credit('one');
SELECT * FROM markov_credit('again');
SELECT * FROM markov_credit('again', '{"order": 3}');
INSERT INTO markov_paths SELECT 'row', array_agg('c' || i ORDER BY i), 100, 1000, 50 FROM generate_series(1, 100) AS i;
SELECT count(*), min(conversions), max(conversions), min(effect), max(effect) FROM markov_credit('row');
-- Repeats change nothing at order 1, which forgets how long it stayed.
SELECT (SELECT array_agg(c.conversions) FROM markov_credit('two') c) =
       (SELECT array_agg(round(c.conversions::numeric, 10)) FROM (SELECT cdi_markov(array_cat(path[1:1], path), conversions, value, nulls) AS credits FROM markov_paths WHERE name = 'two') m, unnest(m.credits) c) AS same;

-- No touches: conversions belong to nobody, and the sum is still theirs.
INSERT INTO markov_paths VALUES ('none', NULL, 2, 20, 1), ('none', '{}', 1, 5, 1), ('none', '{A}', 3, 30, 0);
SELECT * FROM markov_credit('none');
SELECT cdi_markov(NULL, 2, 20, 0) AS only_such;
INSERT INTO markov_paths VALUES ('named', '{unattributed}', 1, 1, 1), ('named', '{}', 2, 2, 0);
SELECT * FROM markov_credit('named');
-- No conversions, no counts, no rows.
INSERT INTO markov_paths VALUES ('null', '{A,B}', 0, 0, 4), ('null', '{B}', NULL, NULL, NULL);
SELECT * FROM markov_credit('null');
SELECT * FROM markov_credit('nothing');
-- Refunds: gains and losses are shared out each on its own.  The gain comes from
-- A alone; of the loss A's removal saves 2/3, B's all, so it is 16 and 24.
INSERT INTO markov_paths VALUES ('refund', '{A}', 1, 100, 0), ('refund', '{B}', 1, -40, 0), ('refund', '{A,B}', 1, 0, 1);
SELECT * FROM markov_credit('refund');

-- What rounding takes from a sum is not lost, in whatever order rows come.
SELECT c.value FROM unnest((SELECT cdi_markov('{A}', 1, v, 0) FROM (VALUES (1e16), (1), (-1e16)) x(v))) c;
-- Walks that go round ten thousand times, and a path of 100,000 touches: A and B
-- are on the way to every conversion.
INSERT INTO markov_paths SELECT 'round', array_agg(CASE WHEN i % 2 = 0 THEN 'A' ELSE 'B' END ORDER BY i), 1, 1, 0 FROM generate_series(0, 99999) AS i;
SELECT * FROM markov_credit('round');
SELECT * FROM markov_credit('round', '{"order": 4}');
-- A thousand channels in a ring, of which none differs from another.
INSERT INTO markov_paths SELECT 'thousand', ARRAY['c' || i], 1, 1, 0 FROM generate_series(0, 999) AS i;
INSERT INTO markov_paths SELECT 'thousand', ARRAY['c' || i, 'c' || (i + 1) % 1000], 0, 0, 1 FROM generate_series(0, 999) AS i;
SELECT count(*), sum(conversions), max(conversions) - min(conversions) AS spread FROM markov_credit('thousand');

-- Intervals: of a single channel the conversions are binomial.
SELECT c.channel, c.conversions, abs(c.conversions_low - (300 - 1.96 * sqrt(210))) < 1.5 AS low, abs(c.conversions_high - (300 + 1.96 * sqrt(210))) < 1.5 AS high,
       c.value_low = 2 * c.conversions_low AS value_low, c.value_high = 2 * c.conversions_high AS value_high
FROM unnest((SELECT cdi_markov('{A}', 300, 600, 700, '{"bootstrap": 20000}'))) c;
-- Of 20 with the chance 1/10: the quantiles of the binomial distribution are 0 and 5.
SELECT c.conversions_low, c.conversions_high FROM unnest((SELECT cdi_markov('{A}', 2, 0, 18, '{"bootstrap": 20000}'))) c;
SELECT a = b AS same_seed, a = c AS other_seed
FROM (SELECT cdi_markov(path, conversions, value, nulls, '{"bootstrap": 50, "seed": 3}') AS a, cdi_markov(path, conversions, value, nulls, '{"bootstrap": 50, "seed": 3}') AS b,
             cdi_markov(path, conversions, value, nulls, '{"bootstrap": 50, "seed": 4}') AS c FROM markov_paths WHERE name = 'g') m;
SELECT bool_and(c.conversions_low <= c.conversions AND c.conversions <= c.conversions_high AND c.conversions_low < c.conversions_high) AS around
FROM unnest((SELECT cdi_markov(path, 100 * conversions, value, 100 * nulls, '{"bootstrap": 200, "confidence": 0.9}') FROM markov_paths WHERE name = 'g')) c;

-- Simulated: a walk through A and B in two converts; every walk earns its mean, so
-- that of one channel, or of channels that each converting walk meets, has no error.
SELECT c.channel, c.conversions, c.conversions_low, c.conversions_high, c.value, c.value_low, c.value_high, c.effect FROM unnest((SELECT cdi_markov('{A,B}', 3, 12, 5, '{"simulate": 100}'))) c;
SELECT a = b AS same_seed, a = c AS other_seed, (SELECT sum(conversions) FROM unnest(a)) = (SELECT sum(conversions) FROM unnest(exact)) AS conversions_kept
FROM (SELECT cdi_markov(path, conversions, value, nulls, '{"simulate": 1000, "seed": 3}') AS a, cdi_markov(path, conversions, value, nulls, '{"simulate": 1000, "seed": 3}') AS b,
             cdi_markov(path, conversions, value, nulls, '{"simulate": 1000, "seed": 4}') AS c, cdi_markov(path, conversions, value, nulls) AS exact FROM markov_paths WHERE name = 'g') m;
-- Each walk passes A and earns 1/2, and p = 1/2 of them pass B: credit is 2/3 and 1/3,
-- the error that of a ratio, sqrt(p (1 - p) / n) / (1 + p)^2 times the 4 conversions.
SELECT c.channel, abs(c.conversions - 4 * CASE c.channel WHEN 'A' THEN 2.0 / 3 ELSE 1.0 / 3 END) < 5 * s.error AS close, round(((c.conversions_high - c.conversions_low) / 2 / 1.959964 / s.error)::numeric, 1) AS error
FROM (SELECT cdi_markov(path, 2, 2, 2, '{"simulate": 40000}') AS r FROM (VALUES ('{A}'::text[]), ('{A,B}')) v (path)) m, unnest(m.r) c, LATERAL (SELECT 4 * sqrt(0.25 / 40000) / 2.25 AS error) s;
SELECT cdi_markov(path, conversions, conversions, nulls, '{"simulate": 10}') FROM (VALUES ('{A}'::text[], 0, 1000000000), ('{B}', 1, 0)) v (path, conversions, nulls);

-- The chain itself, and how well orders of it fit.  A coin: two heads of four;
-- ln L = 4 ln 1/2, each end foretold from the three others and their rate.
SELECT t.* FROM unnest((SELECT cdi_markov_transitions(path, conversions, value, nulls) FROM markov_paths WHERE name = 'two')) t;
SELECT t.* FROM unnest((SELECT cdi_markov_transitions('{A,A,A,B}', 1, 0, 3, '{"order": 2}'))) t;
SELECT f."order", f.states, f.parameters, f.log_likelihood = 4 * ln(0.5::float8) AS log_likelihood, f.aic = 2 - 8 * ln(0.5::float8) AS aic,
       round(f.bic::numeric, 10) = round((ln(8::float8) - 8 * ln(0.5::float8))::numeric, 10) AS bic, f.auc,
       round(f.left_out::numeric, 10) = round(ln((1 + 1::float8 / 3) / 4)::numeric, 10) AS left_out
FROM unnest((SELECT cdi_markov_order('{A}', 2, 0, 2, '{"max_order": 1}'))) f;
-- The last channel tells all, or nothing.
SELECT f.auc FROM unnest((SELECT cdi_markov_order(path, c, 0, n, '{"max_order": 1}') FROM (VALUES ('{A}'::text[], 5, 0), ('{B}', 0, 7)) v(path, c, n))) f;
SELECT f.auc FROM unnest((SELECT cdi_markov_order(path, c, 0, n, '{"max_order": 1}') FROM (VALUES ('{A}'::text[], 5, 10), ('{B}', 20, 40)) v(path, c, n))) f;
SELECT f.auc, f.left_out FROM unnest((SELECT cdi_markov_order('{A}', 5, 0, 0, '{"max_order": 1}'))) f;
SELECT cdi_markov_order(NULL, 1, 0, 1) AS fits, cdi_markov_transitions(NULL, 1, 0, 1) AS transitions;

-- What is refused.
SELECT cdi_markov_order('{A}', 0.5, 0, 1);
SELECT cdi_markov_order('{A}', 1, 0, 1, '{"order": 2}');
SELECT cdi_markov_transitions('{A}', 1, 0, 1, '{"order": 33}');
SELECT cdi_markov('{A,NULL}', 1, 1, 0);
SELECT cdi_markov('{{A},{B}}', 1, 1, 0);
SELECT cdi_markov('{A}', -1, 1, 0);
SELECT cdi_markov('{A}', 1, 1, -1);
SELECT cdi_markov('{A}', 'NaN', 1, 0);
SELECT cdi_markov('{A}', 1, 'Infinity', 0);
SELECT cdi_markov('{A}', 1e308, 1, 0) FROM generate_series(1, 2);
SELECT cdi_markov('{A}', 0, 5, 1);
SELECT cdi_markov('{A}', 1.5, 5, 1, '{"bootstrap": 10}');
SELECT cdi_markov('{A}', 1, 5, 1, '{"order": 0}');
SELECT cdi_markov('{A}', 1, 5, 1, '{"order": 1.5}');
SELECT cdi_markov('{A}', 1, 5, 1, '{"order": "1"}');
SELECT cdi_markov('{A}', 1, 5, 1, '{"orders": 1}');
SELECT cdi_markov('{A}', 1, 5, 1, '[1]');
SELECT cdi_markov('{A}', 1, 5, 1, jsonb_build_object('order', i)) FROM generate_series(1, 2) AS i;
DROP FUNCTION markov_credit;
DROP TABLE markov_paths;
