-- Credit per channel under three models: what cdi says from the events it
-- stored, and what plain SQL says from the simulation's own truth (its orders
-- and sessions), in euros.
CREATE TEMP TABLE truth AS
WITH path AS (
    SELECT c.message_id, c.value, t.channel,
           row_number() OVER (PARTITION BY c.message_id ORDER BY t.started_at) AS touch,
           count(*) OVER (PARTITION BY c.message_id) AS touches
    FROM cdi_simulate_conversions(:persons, :seed, :'start_at') c
    JOIN cdi_simulate_touchpoints(:persons, :seed, :'start_at') t
      ON t.person = c.person
     AND t.started_at BETWEEN c.converted_at - interval '30 days' AND c.converted_at
)
SELECT channel,
       coalesce(sum(value) FILTER (WHERE touch = 1), 0) AS first_touch,
       coalesce(sum(value) FILTER (WHERE touch = touches), 0) AS last_touch,
       sum(value / touches) AS linear
FROM path GROUP BY channel;

CREATE TEMP TABLE credit AS
SELECT model, channel, sum(credited_value) AS value
FROM (VALUES ('first_touch'), ('last_touch'), ('linear')) m(model)
CROSS JOIN LATERAL cdi_attribution(model => m.model, conversion => 'order')
GROUP BY model, channel;

CREATE TEMP TABLE compared AS
SELECT coalesce(c.channel, t.channel) AS channel,
       coalesce(c.first_touch, 0) AS first_touch, coalesce(t.first_touch, 0) AS true_first,
       coalesce(c.last_touch, 0) AS last_touch, coalesce(t.last_touch, 0) AS true_last,
       coalesce(c.linear, 0) AS linear, coalesce(t.linear, 0) AS true_linear
FROM (SELECT channel,
             sum(value) FILTER (WHERE model = 'first_touch') AS first_touch,
             sum(value) FILTER (WHERE model = 'last_touch') AS last_touch,
             sum(value) FILTER (WHERE model = 'linear') AS linear
      FROM credit GROUP BY channel) c
FULL JOIN truth t ON t.channel = c.channel;

SELECT channel, round(first_touch, 2) AS "first touch", round(true_first, 2) AS "truth",
       round(last_touch, 2) AS "last touch", round(true_last, 2) AS "truth",
       round(linear, 2) AS "linear", round(true_linear, 2) AS "truth"
FROM compared ORDER BY linear DESC;

-- A share is rounded to 12 digits, a sum of shares a little more.
SELECT coalesce(string_agg(channel, ', '), '') AS differing
FROM compared
WHERE abs(first_touch - true_first) > 0.000001 OR abs(last_touch - true_last) > 0.000001 OR abs(linear - true_linear) > 0.000001 \gset
