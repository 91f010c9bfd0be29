-- Touches and conversions as tables: a person's path is spread over the table.
CREATE SCHEMA bench;
CREATE UNLOGGED TABLE bench.touches AS
SELECT md5('p' || (n * 2654435761 % (:touches / 10 + 3)))::uuid AS person_id,
       timestamptz '2026-01-01' + ((n * 40503::bigint) % 7776000) * interval '1 second' AS touched_at,
       n AS "position",
       (ARRAY['paid_search','email','direct','organic_search','display','paid_social','referral','affiliate','organic_social','sms'])[1 + (n * 7919 % 9973) % 10] AS channel
FROM generate_series(1::bigint, :touches) n;
CREATE UNLOGGED TABLE bench.conversions AS
SELECT md5('c' || n)::uuid AS event_id, 'order'::text AS conversion, md5('p' || (n * 2654435761 % (:touches / 10 + 3)))::uuid AS person_id,
       timestamptz '2026-01-15' + ((n * 69061::bigint) % 6566400) * interval '1 second' AS converted_at, n AS "position",
       round((n * 37 % 20000)::numeric / 100, 2) AS value
FROM generate_series(1::bigint, :touches / 10) n;
