-- Reach and frequency, against count(DISTINCT) and inclusion and exclusion.
SET client_min_messages = warning;
SET TimeZone = 'America/New_York';
\set SHOW_CONTEXT never
SELECT setseed(0.3);
CREATE TABLE reach_touches AS
SELECT md5((floor(power(random(), 2) * 400))::text)::uuid AS person, (ARRAY['tv', 'radio', 'print', 'web', 'mail'])[1 + floor(power(random(), 3) * 5)] AS channel,
       timestamptz '2026-03-01' + interval '1 hour' * floor(random() * 240) AS at
FROM generate_series(1, 5000);
INSERT INTO reach_touches VALUES (NULL, 'tv', '2026-03-01'), (md5('x')::uuid, NULL, '2026-03-01');
ANALYZE reach_touches;

-- Every combination, its people and touches
CREATE TEMP TABLE combinations AS
SELECT c.* FROM unnest((SELECT cdi_reach(person, channel) FROM reach_touches)) WITH ORDINALITY c (channels, people, touches, place);
CREATE TEMP VIEW wanted AS
SELECT channels, count(*) AS people, sum(touches)::bigint AS touches
FROM (SELECT person, array_agg(DISTINCT channel COLLATE "C" ORDER BY channel COLLATE "C") AS channels, count(*) AS touches
      FROM reach_touches WHERE person IS NOT NULL AND channel IS NOT NULL GROUP BY person) p GROUP BY channels;
SELECT count(*) > 10 AS combinations,
       (SELECT count(*) FROM (SELECT channels, people, touches FROM combinations EXCEPT ALL SELECT * FROM wanted) d) AS surplus,
       (SELECT count(*) FROM (SELECT * FROM wanted EXCEPT ALL SELECT channels, people, touches FROM combinations) d) AS missing,
       bool_and(place = rank) AS in_order
FROM (SELECT *, row_number() OVER (ORDER BY people DESC, (SELECT string_agg(CASE WHEN n = ANY (channels) THEN '0' ELSE '1' END, '' ORDER BY n COLLATE "C") FROM unnest('{tv,radio,print,web,mail}'::text[]) n)) AS rank FROM combinations) c;
-- The union by inclusion and exclusion over the reach of all intersections
SELECT sum(CASE WHEN cardinality(s.channels) % 2 = 1 THEN r.people ELSE -r.people END) = (SELECT sum(people) FROM combinations) AS inclusion_exclusion,
       (SELECT sum(people) FROM combinations) = (SELECT count(DISTINCT person) FROM reach_touches WHERE channel IS NOT NULL) AS counted
FROM (SELECT (SELECT array_agg(n) FROM unnest('{tv,radio,print,web,mail}'::text[]) WITH ORDINALITY u (n, i) WHERE mask >> (i::integer - 1) & 1 = 1) AS channels
      FROM generate_series(1, 31) mask) s,
     LATERAL (SELECT count(*) AS people FROM (SELECT person FROM reach_touches WHERE channel = ANY (s.channels) AND person IS NOT NULL
                                              GROUP BY person HAVING count(DISTINCT channel) = cardinality(s.channels)) x) r;
-- What each adds in an order
SELECT i.*, i.reach = (SELECT count(DISTINCT person) FROM reach_touches WHERE channel = i.channel) AS reach_counted,
       i.cumulative_reach = (SELECT count(DISTINCT person) FROM reach_touches WHERE channel = ANY (('{radio,tv,pigeon,radio,web}'::text[])[:i.place::integer])) AS cumulative_counted
FROM cdi_reach_increments((SELECT cdi_reach(person, channel) FROM reach_touches), '{radio,tv,pigeon,radio,web}') i;
SELECT array_agg(channel ORDER BY place) = (SELECT array_agg(channel ORDER BY n DESC, channel) FROM (SELECT channel, count(DISTINCT person) AS n FROM reach_touches WHERE channel IS NOT NULL AND person IS NOT NULL GROUP BY 1) r) AS by_reach,
       max(cumulative_reach) = (SELECT sum(people) FROM combinations) AS all_people
FROM cdi_reach_increments((SELECT cdi_reach(person, channel) FROM reach_touches));
-- Frequency
SELECT channel, cdi_frequency(person, 1, 4) = (
           SELECT array_agg((SELECT count(*) FROM (SELECT count(*) AS n FROM reach_touches t WHERE t.channel = r.channel AND person IS NOT NULL GROUP BY person) f
                             WHERE CASE WHEN k < 4 THEN n = k ELSE n >= 4 END) ORDER BY k) FROM generate_series(1, 4) k) AS counted
FROM reach_touches r WHERE channel IS NOT NULL GROUP BY channel ORDER BY channel;
SELECT cdi_frequency(person, touches, 3) AS weighted
FROM (VALUES (md5('a')::uuid, 2::bigint), (md5('a')::uuid, 1), (md5('b')::uuid, 1), (md5('c')::uuid, 0), (NULL, 5), (md5('d')::uuid, NULL), (md5('e')::uuid, 9223372036854775807)) v (person, touches);

-- In a parallel plan, and in another order
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL max_parallel_workers_per_gather = 4;
EXPLAIN (COSTS OFF) SELECT cdi_reach(person, channel), cdi_frequency(person, 1, 20) FROM reach_touches;
CREATE TEMP TABLE parallel AS SELECT cdi_reach(person, channel) AS reach, cdi_frequency(person, 1, 20) AS frequency FROM reach_touches;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT p.reach = s.reach AND p.frequency = s.frequency AS same
FROM parallel p, (SELECT cdi_reach(person, channel ORDER BY at, person) AS reach, cdi_frequency(person, 1, 20 ORDER BY at DESC) AS frequency FROM reach_touches) s;
-- States that know different channels are united by the channels' names.
CREATE TEMP TABLE split (person uuid, channel text) PARTITION BY LIST (channel);
CREATE TEMP TABLE split_1 PARTITION OF split FOR VALUES IN ('web', 'mail');
CREATE TEMP TABLE split_2 PARTITION OF split FOR VALUES IN ('tv', 'radio');
CREATE TEMP TABLE split_3 PARTITION OF split FOR VALUES IN ('print');
INSERT INTO split SELECT person, channel FROM reach_touches WHERE channel IS NOT NULL;
ANALYZE split;
SET LOCAL enable_partitionwise_aggregate = on;
EXPLAIN (COSTS OFF) SELECT cdi_reach(person, channel) FROM split;
SELECT p.reach = (SELECT cdi_reach(person, channel) FROM split) AS same FROM parallel p;
COMMIT;
DROP TABLE reach_touches CASCADE;

-- Reports over touchpoints, people across two devices
SELECT cdi_create_source('reach') IS NOT NULL AS created;
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('type', 'page', 'messageId', 'reach' || n, 'timestamp', timestamptz '2012-03-01 00:30+00' + interval '37 minutes' * n,
        'userId', CASE WHEN n % 3 = 0 THEN 'reach-u' || who END, 'anonymousId', CASE WHEN n % 3 <> 0 OR n % 6 = 0 THEN 'reach-a' || who END,
        'context', jsonb_build_object('campaign', CASE WHEN channel > 0 THEN jsonb_build_object('source', (ARRAY['google', 'newsletter', 'partner'])[channel], 'medium', (ARRAY['cpc', 'email', 'affiliate'])[channel], 'name', 'c' || n % 5) END))) ORDER BY n)
    FROM (SELECT n, floor(power(random(), 2) * 150) AS who, floor(random() * 4)::integer AS channel FROM generate_series(1, 700) n) v), 'reach');
SELECT cdi_resolve() >= 0 AS resolved;
CREATE TEMP TABLE march AS SELECT * FROM cdi.touchpoints WHERE touched_at >= '2012-03-01+00' AND touched_at < '2012-04-01+00';
SELECT count(DISTINCT person_id) AS people, count(*) AS touches FROM march;
CREATE TEMP VIEW per_value AS
SELECT d.dimension, p.period, CASE WHEN p.period IS NOT NULL THEN date_trunc(p.period, m.touched_at, 'UTC') END AS period_start, m.person_id,
       coalesce(CASE d.dimension WHEN 'channel' THEN m.channel ELSE m.campaign_name END, '(none)') AS value
FROM march m, (VALUES ('channel'), ('campaign_name')) d (dimension), (VALUES (NULL), ('day'), ('week'), ('quarter')) p (period);
CREATE TEMP TABLE got AS
SELECT d.dimension, p.period, r.*
FROM (VALUES ('channel'), ('campaign_name')) d (dimension), (VALUES (NULL), ('day'), ('week'), ('quarter')) p (period),
     cdi_channel_reach(d.dimension, p.period, '2012-03-01+00', '2012-04-01+00', frequencies => 3) r;
SELECT count(*) > 50 AS rows, count(*) FILTER (WHERE w IS NULL OR g IS NULL OR g.reach <> w.reach OR g.touches <> w.touches OR g.average_frequency <> w.touches::double precision / w.reach
       OR g.exclusive_reach <> CASE WHEN g.value IS NULL THEN w.reach ELSE w.exclusive END OR g.people_by_frequency <> ARRAY[w.once, w.twice, w.more]) AS differing
FROM got g FULL JOIN (
    SELECT v.dimension, v.period, v.period_start, v.value, count(*) AS reach, sum(v.n)::bigint AS touches, count(*) FILTER (WHERE v.others = 1) AS exclusive,
           count(*) FILTER (WHERE v.n = 1) AS once, count(*) FILTER (WHERE v.n = 2) AS twice, count(*) FILTER (WHERE v.n > 2) AS more
    FROM (SELECT dimension, period, period_start, value, person_id, count(*) AS n,
                 count(*) OVER (PARTITION BY dimension, period, period_start, person_id) AS others
          FROM per_value GROUP BY dimension, period, period_start, value, person_id
          UNION ALL SELECT dimension, period, period_start, NULL, person_id, count(*), 1 FROM per_value GROUP BY 1, 2, 3, 5) v
    GROUP BY 1, 2, 3, 4) w
ON g.dimension = w.dimension AND g.period IS NOT DISTINCT FROM w.period AND g.period_start IS NOT DISTINCT FROM w.period_start AND g.value IS NOT DISTINCT FROM w.value;
SELECT value, reach, touches, round(average_frequency::numeric, 3) AS frequency, exclusive_reach, people_by_frequency FROM cdi_channel_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00', frequencies => 5);
SELECT sum(people) = (SELECT count(DISTINCT person_id) FROM march) AS everybody, sum(touches) = (SELECT count(*) FROM march) AS touches, round(sum(share)::numeric, 12) AS share
FROM cdi_reach_overlap(from_time => '2012-03-01+00', to_time => '2012-04-01+00');
SELECT channel, reach, incremental_reach, cumulative_reach, cumulative_reach = (SELECT count(DISTINCT person_id) FROM march m WHERE m.channel = ANY (('{email,direct,paid_search}'::text[])[:place::integer])) AS counted
FROM cdi_incremental_reach('{email,direct,paid_search}', from_time => '2012-03-01+00', to_time => '2012-04-01+00');
SELECT count(*) AS rows, count(DISTINCT period_start) AS days, count(*) FILTER (WHERE cumulative_reach <> (
           SELECT count(DISTINCT person_id) FROM march m WHERE (c.value IS NULL OR m.channel = c.value) AND m.touched_at < c.period_start + interval '24 hours')) AS differing,
       sum(new_people) FILTER (WHERE value IS NULL) = max(cumulative_reach) AS sums
FROM cdi_reach_curve(from_time => '2012-03-01+00', to_time => '2012-04-01+00') c;

-- Impressions and other touches that are no sessions
BEGIN;
SELECT cdi_create_touch_type('reach_ad', 'Reach Ad', 'impression', channel => 'display');
SELECT stored FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Reach Ad', 'messageId', 'reach-ad' || n, 'timestamp', '2012-03-05T12:00:00Z', 'userId', 'reach-ad' || n % 4))
                               FROM generate_series(1, 10) n), 'reach');
SELECT value, reach, touches, exclusive_reach, people_by_frequency FROM cdi_channel_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00', touch_types => '{impression}', frequencies => 3);
SELECT value, reach, touches FROM cdi_channel_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00') WHERE value IS NULL OR value = 'display';
SELECT channels, people FROM cdi_reach_overlap('channel', '2012-03-01+00', '2012-04-01+00', '{impression,offline}');
SELECT sum(reach) FROM cdi_channel_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00', touch_types => '{session}') WHERE value = 'display';
ROLLBACK;

-- Bad input and none
SELECT * FROM cdi_channel_reach(from_time => '1999-01-01', to_time => '1999-01-02');
SELECT * FROM cdi_reach_overlap(from_time => '1999-01-01', to_time => '1999-01-02');
SELECT * FROM cdi_incremental_reach(from_time => '1999-01-01', to_time => '1999-01-02');
SELECT * FROM cdi_incremental_reach('{}');
SELECT * FROM cdi_reach_curve(from_time => '1999-01-01', to_time => '1999-01-02');
SELECT cdi_reach(NULL, 'a') IS NULL AS nobody, cdi_frequency(NULL, 1, 2) AS frequency;
SELECT * FROM cdi_channel_reach('colour');
SELECT * FROM cdi_channel_reach(NULL);
SELECT * FROM cdi_channel_reach(period => 'fortnight');
SELECT * FROM cdi_channel_reach(frequencies => 0);
SELECT * FROM cdi_reach_curve(period => NULL);
-- One touch that claims to be of the year 1
BEGIN;
SELECT stored FROM cdi_ingest('[{"type": "page", "userId": "reach-old", "timestamp": "0001-01-01T00:00:00Z", "messageId": "reach-old"}]', 'reach');
SAVEPOINT old;
SELECT count(*) FROM cdi_reach_curve(to_time => '2012-04-01+00');
ROLLBACK TO old;
SELECT count(*) AS years FROM cdi_reach_curve(period => 'year', to_time => '2012-04-01+00') WHERE value IS NULL;
ROLLBACK;
SELECT cdi_frequency(md5('a')::uuid, -1, 2);
SELECT cdi_frequency(md5('a')::uuid, 1, NULL);
SELECT cdi_frequency(md5('a')::uuid, 9223372036854775807, 2) FROM generate_series(1, 2);
SELECT count(*) AS sixty_four FROM unnest((SELECT cdi_reach(md5((n % 7)::text)::uuid, n::text) FROM generate_series(1, 64) n));
SELECT cdi_reach(md5('a')::uuid, n::text) FROM generate_series(1, 65) n;

CREATE ROLE cdi_test_reach;
SET ROLE cdi_test_reach;
SELECT * FROM cdi_channel_reach();
RESET ROLE;
SELECT cdi_grant_reader('cdi_test_reach');
SET ROLE cdi_test_reach;
SELECT count(*) > 0 AS reads FROM cdi_channel_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00');
SELECT count(*) > 0 AS reads FROM cdi_incremental_reach(from_time => '2012-03-01+00', to_time => '2012-04-01+00');
RESET ROLE;
DROP OWNED BY cdi_test_reach;
DROP ROLE cdi_test_reach;
