-- Flows and paths, against a plain SQL computation over generated traffic.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT cdi_create_source('flows') IS NOT NULL AS created;

-- 60 people with up to two devices, pages and events in bursts, equal times among them.
SELECT setseed(0.42);
CREATE TEMP TABLE traffic AS
SELECT n, 'flow-u' || (n * 7919 % 60) AS who, CASE WHEN random() < 0.5 THEN 'flow-a' || (n * 7919 % 60) END AS device,
       timestamptz '2011-05-01' + interval '1 second' * (floor(random() * 40) * 3600 + floor(random() * 200) * 20) AS at,
       (ARRAY['page', 'track', 'track', 'screen'])[1 + floor(random() * 4)] AS type,
       (ARRAY['Alpha', 'Beta', 'Gamma', 'Delta', '(end)'])[1 + floor(power(random(), 2) * 5)] AS name
FROM generate_series(1, 2500) n;
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('type', type, 'messageId', 'flow' || n, 'timestamp', at,
        'userId', CASE WHEN device IS NULL OR n % 5 = 0 THEN who END, 'anonymousId', device,
        CASE type WHEN 'track' THEN 'event' ELSE 'name' END, name,
        'context', CASE WHEN type = 'page' THEN jsonb_build_object('page', jsonb_build_object('path', '/' || name)) END)) ORDER BY n)
    FROM traffic), 'flows');
SELECT cdi_resolve() > 0 AS resolved;

-- Only this file's traffic: it is alone in May 2011.
CREATE TEMP VIEW may AS
SELECT s.*, CASE s.type WHEN 'page' THEN coalesce(s.context #>> '{page,path}', s.event) ELSE s.event END AS node
FROM cdi.session_events s WHERE s."timestamp" >= '2011-05-01' AND s."timestamp" < '2011-06-01';
SELECT count(*) AS events, count(DISTINCT person_id) AS people, count(DISTINCT session_id) AS sessions FROM may;

-- The same by window functions and self-joins.
CREATE FUNCTION pg_temp.paths(direction text, anchor text, steps integer, within interval, collapse boolean, exclude text[], occurrence text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (path bigint, person_id uuid, k integer, node text, at timestamptz, genuine boolean) LANGUAGE sql AS $$
WITH e AS (
    SELECT m.person_id, CASE WHEN within IS NULL THEN m.session_id END AS session, m."timestamp", m.position, m.node,
           lag(m.node) OVER (PARTITION BY m.person_id, CASE WHEN within IS NULL THEN m.session_id END ORDER BY m."timestamp", m.position) AS before
    FROM may m WHERE m.node IS NOT NULL AND m.node <> ALL (coalesce(exclude, '{}'))
      AND (within IS NULL OR CASE direction WHEN 'from' THEN m."timestamp" >= from_time AND m."timestamp" < to_time + within
                                            ELSE m."timestamp" >= from_time - within AND m."timestamp" < to_time END)),
numbered AS (
    SELECT e.*, row_number() OVER w AS rn, count(*) OVER (PARTITION BY e.person_id, e.session) AS n
    FROM e WHERE NOT collapse OR before IS DISTINCT FROM e.node
    WINDOW w AS (PARTITION BY e.person_id, e.session ORDER BY e."timestamp", e.position)),
found AS (
    SELECT x.*, row_number() OVER (PARTITION BY x.person_id, x.session ORDER BY x.rn) AS occurs FROM numbered x
    WHERE CASE WHEN anchor IS NOT NULL THEN x.node = anchor WHEN direction = 'from' THEN x.rn = 1 ELSE x.rn = x.n END
          AND x."timestamp" >= from_time AND x."timestamp" < to_time),
anchors AS (
    SELECT row_number() OVER () AS path, f.* FROM found f WHERE occurrence = 'every' OR f.occurs = 1),
steps_taken AS (
    SELECT a.path, a.person_id, g.k, x.node, coalesce(x."timestamp", a."timestamp") AS at, x.rn IS NOT NULL AS genuine
    FROM anchors a
    CROSS JOIN generate_series(CASE WHEN anchor IS NULL THEN 1 ELSE 0 END, steps) g (k)
    LEFT JOIN numbered x ON x.person_id = a.person_id AND x.session IS NOT DISTINCT FROM a.session
         AND x.rn = a.rn + (g.k - CASE WHEN anchor IS NULL THEN 1 ELSE 0 END) * CASE direction WHEN 'from' THEN 1 ELSE -1 END
         AND (within IS NULL OR x."timestamp" BETWEEN a."timestamp" - within AND a."timestamp" + within)),
gone AS (SELECT t.path, min(t.k) AS k FROM steps_taken t WHERE NOT t.genuine GROUP BY t.path)
SELECT t.path, t.person_id, t.k, t.node, t.at, true FROM steps_taken t LEFT JOIN gone g USING (path) WHERE t.k < coalesce(g.k, steps + 1)
UNION ALL SELECT a.path, a.person_id, g.k, CASE direction WHEN 'from' THEN '(end)' ELSE '(start)' END, a."timestamp", false
FROM gone g JOIN anchors a USING (path)
UNION ALL SELECT a.path, a.person_id, 0, CASE direction WHEN 'from' THEN '(start)' ELSE '(end)' END, a."timestamp", false
FROM anchors a WHERE anchor IS NULL
$$;
CREATE FUNCTION pg_temp.links(direction text, anchor text, steps integer, within interval, collapse boolean, exclude text[], occurrence text, top integer, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (step integer, source text, target text, people bigint, occurrences bigint, median_seconds double precision) LANGUAGE sql AS $$
WITH p AS MATERIALIZED (SELECT * FROM pg_temp.paths(direction, anchor, steps, within, collapse, exclude, occurrence, from_time, to_time)),
ranked AS (
    SELECT p.k, p.node, row_number() OVER (PARTITION BY p.k ORDER BY count(*) DESC, p.node COLLATE "C") AS rank
    FROM p WHERE p.genuine GROUP BY p.k, p.node),
shown AS (
    SELECT p.path, p.person_id, p.k, p.at, p.genuine,
           CASE WHEN NOT p.genuine THEN p.node WHEN r.rank > top THEN '(other)' WHEN p.node = '(end)' THEN '"(end)"' ELSE p.node END AS node
    FROM p LEFT JOIN ranked r ON p.genuine AND r.k = p.k AND r.node = p.node)
SELECT CASE direction WHEN 'from' THEN a.k ELSE -b.k END,
       CASE direction WHEN 'from' THEN a.node ELSE b.node END, CASE direction WHEN 'from' THEN b.node ELSE a.node END,
       count(DISTINCT a.person_id), count(*),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM CASE direction WHEN 'from' THEN b.at - a.at ELSE a.at - b.at END)::double precision)
           FILTER (WHERE a.genuine AND b.genuine)
FROM shown a JOIN shown b ON b.path = a.path AND b.k = a.k + 1
GROUP BY 1, 2, 3
$$;

-- Combinations of the arguments (every 29th of 1536, which has each value of each).
-- Nothing differs, and something is there.
CREATE TEMP TABLE asked AS
SELECT row_number() OVER () AS n, d.direction, a.anchor, s.steps, w.within, c.collapse, e.exclude, o.occurrence, t.top, p.from_time, p.to_time
FROM (VALUES ('from'), ('to')) d (direction),
     (VALUES (NULL), ('Beta'), ('/Alpha'), ('(end)')) a (anchor),
     (VALUES (1), (4)) s (steps),
     (VALUES (NULL::interval), ('10 minutes'), ('2 days')) w (within),
     (VALUES (true), (false)) c (collapse),
     (VALUES (NULL::text[]), ('{Alpha,/Gamma}')) e (exclude),
     (VALUES ('first'), ('every')) o (occurrence),
     (VALUES (2), (100)) t (top),
     (VALUES (timestamptz '2011-05-01', timestamptz '2011-06-01'), ('2011-05-01 10:05', '2011-05-02 06:55')) p (from_time, to_time);
DELETE FROM asked WHERE n % 29 <> 0;
CREATE TEMP TABLE got AS
SELECT a.n, f.step, f.source, f.target, f.people, f.occurrences, round(f.median_seconds::numeric, 6) AS median
FROM asked a, cdi_flows(a.direction, a.anchor, a.steps, a.from_time, a.to_time, a.within, 'all', a.collapse, a.exclude, a.occurrence, a.top) f;
CREATE TEMP TABLE wanted AS
SELECT a.n, f.step, f.source, f.target, f.people, f.occurrences, round(f.median_seconds::numeric, 6) AS median
FROM asked a, pg_temp.links(a.direction, a.anchor, a.steps, a.within, a.collapse, a.exclude, a.occurrence, a.top, a.from_time, a.to_time) f;
SELECT count(*) AS combinations, count(*) FILTER (WHERE n NOT IN (SELECT n FROM got)) AS empty,
       (SELECT count(*) FROM (SELECT * FROM wanted EXCEPT ALL SELECT * FROM got) d) AS missing,
       (SELECT count(*) FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM wanted) d) AS surplus
FROM asked;
-- What comes into a node leaves it, at every step but the last (or first).
SELECT count(*) > 50 AS nodes, count(*) FILTER (WHERE arrives IS DISTINCT FROM leaves) AS unbalanced
FROM (SELECT n, step + 1 AS step, target AS node, sum(occurrences) AS arrives FROM got GROUP BY 1, 2, 3) i
FULL JOIN (SELECT n, step, source AS node, sum(occurrences) AS leaves FROM got GROUP BY 1, 2, 3) o USING (n, step, node)
JOIN asked a USING (n)
WHERE node <> '(end)' AND node <> '(start)' AND CASE direction WHEN 'from' THEN step BETWEEN 1 AND steps - 1 ELSE step BETWEEN 1 - steps AND -1 END;

-- Whole paths, and their share
CREATE FUNCTION pg_temp.whole(direction text, anchor text, steps integer, within interval)
RETURNS TABLE (path text[], people bigint, occurrences bigint, share double precision, median_seconds double precision) LANGUAGE sql AS $$
SELECT p.nodes, count(DISTINCT p.person_id), count(*), count(*)::double precision / sum(count(*)) OVER (),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY p.took) FILTER (WHERE p.events > 1)
FROM (SELECT x.person_id, array_agg(CASE WHEN genuine AND node = '(end)' THEN '"(end)"' ELSE node END ORDER BY CASE direction WHEN 'from' THEN k ELSE -k END) AS nodes,
             count(*) FILTER (WHERE genuine) AS events,
             extract(epoch FROM max(at) FILTER (WHERE genuine) - min(at) FILTER (WHERE genuine))::double precision AS took
      FROM pg_temp.paths(direction, anchor, steps, within, true, NULL, 'first', '2011-05-01', '2011-06-01') x GROUP BY x.path, x.person_id) p
GROUP BY p.nodes
$$;
DELETE FROM asked WHERE occurrence = 'every';
CREATE TEMP TABLE got_paths AS
SELECT a.n, p.path, p.people, p.occurrences, round(p.share::numeric, 12) AS share, round(p.median_seconds::numeric, 6) AS median
FROM asked a, cdi_top_paths(a.direction, a.anchor, a.steps, '2011-05-01', '2011-06-01', a.within, top => 1000000) p;
CREATE TEMP TABLE wanted_paths AS
SELECT a.n, p.path, p.people, p.occurrences, round(p.share::numeric, 12) AS share, round(p.median_seconds::numeric, 6) AS median
FROM asked a, pg_temp.whole(a.direction, a.anchor, a.steps, a.within) p;
SELECT count(*) > 100 AS found, (SELECT count(*) FROM (SELECT * FROM wanted_paths EXCEPT ALL SELECT * FROM got_paths) d) AS missing,
       (SELECT count(*) FROM (SELECT * FROM got_paths EXCEPT ALL SELECT * FROM wanted_paths) d) AS surplus
FROM got_paths;
SELECT path, people, occurrences, round(share::numeric, 3) AS share, median_seconds FROM cdi_top_paths('from', 'Beta', 2, '2011-05-01', '2011-06-01', top => 3);

-- The aggregate: the same paths from rows in any order and in a parallel plan.
CREATE TEMP TABLE rows AS SELECT session_id, extract(hour FROM "timestamp")::integer % 2 AS type, node, "timestamp", position FROM may;
CREATE TEMP TABLE by_time AS
SELECT session_id, cdi_flow_path(node, "timestamp", position, 'to', 'Beta', 3, true ORDER BY "timestamp", position) AS path FROM rows GROUP BY 1;
SELECT count(*) FILTER (WHERE path IS NOT NULL) > 100 AS found,
       count(*) FILTER (WHERE path IS DISTINCT FROM (SELECT cdi_flow_path(node, "timestamp", position, 'to', 'Beta', 3, true ORDER BY md5(position::text))
                                                     FROM rows r WHERE r.session_id = b.session_id)) AS differing
FROM by_time b;
SELECT count(*) AS differing FROM (
    (SELECT path, count(*) AS n FROM by_time WHERE path IS NOT NULL GROUP BY 1
     EXCEPT ALL SELECT path, occurrences FROM cdi_top_paths('to', 'Beta', 3, '2011-05-01', '2011-06-01', top => 1000000))
    UNION ALL
    (SELECT path, occurrences FROM cdi_top_paths('to', 'Beta', 3, '2011-05-01', '2011-06-01', top => 1000000)
     EXCEPT ALL SELECT path, count(*) AS n FROM by_time WHERE path IS NOT NULL GROUP BY 1)) d;
CREATE TABLE flow_rows AS SELECT * FROM rows;
ANALYZE flow_rows;
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL max_parallel_workers_per_gather = 3;
EXPLAIN (COSTS OFF) SELECT cdi_flow_path(node, "timestamp", position, 'to', 'Beta', 100, false) FROM flow_rows GROUP BY type;
CREATE TEMP TABLE split AS SELECT type, cdi_flow_path(node, "timestamp", position, 'to', 'Beta', 100, false) AS path FROM flow_rows GROUP BY type;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT type, cardinality(path), path = cdi_flow_path(node, "timestamp", position, 'to', 'Beta', 100, false) AS same FROM split JOIN flow_rows USING (type) GROUP BY type, path ORDER BY type;
COMMIT;
DROP TABLE flow_rows;
SELECT cdi_flow_path(node, at, 1, 'from', NULL, 2, true) AS from_start, cdi_flow_path(node, at, 1, 'to', NULL, 2, true) AS to_end,
       cdi_flow_path(node, at, 1, 'from', 'b', 5, false) AS repeats, cdi_flow_path(node, at, 1, 'from', 'z', 5, true) AS nowhere
FROM (VALUES ('c', timestamptz '2026-01-03'), ('a', '2026-01-01'), ('b', '2026-01-02'), ('b', '2026-01-02 01:00'), (NULL, '2026-01-02')) r (node, at);
SELECT cdi_flow_path(NULL, now(), 1, 'from', NULL, 2, true) IS NULL AS no_rows FROM generate_series(1, 2);

-- A virtual event as the anchor and among the excluded; its name is the node's.
SELECT cdi_create_virtual_event('Alpha or Beta', $$event IN ('Alpha', 'Beta') AND type = 'track'$$);
SELECT sum(occurrences) = (SELECT count(DISTINCT session_id) FROM may WHERE type = 'track' AND event IN ('Alpha', 'Beta')) AS all_sessions
FROM cdi_flows('from', 'Alpha or Beta', 1, '2011-05-01', '2011-06-01') WHERE step = 0 AND source = 'Alpha or Beta';
SELECT count(*) FILTER (WHERE 'Alpha' IN (source, target)) AS alphas, count(*) > 0 AS others
FROM cdi_flows(steps => 3, from_time => '2011-05-01', to_time => '2011-06-01', node => 'event', exclude => '{Alpha or Beta}', top => 100);
SELECT cdi_drop_virtual_event('Alpha or Beta');

-- What ends a session ends a path; touches that are no sessions are in none.
BEGIN;
SELECT cdi_set_sessions(gap => '5 minutes', midnight => 'UTC', cut_events => '{Gamma}');
SELECT cdi_create_touch_type('delta', 'Delta', 'impression', channel => 'display');
SELECT count(*) FILTER (WHERE f.path IS NOT NULL AND v.path IS NOT NULL AND f.n = v.n) > 10 AS found, count(*) FILTER (WHERE f.n IS DISTINCT FROM v.n) AS differing
FROM (SELECT path, occurrences AS n FROM cdi_top_paths('from', NULL, 9, '2011-05-01', '2011-06-01', top => 1000000)) f
FULL JOIN (SELECT path, count(*) AS n FROM (SELECT cdi_flow_path(node, "timestamp", position, 'from', NULL, 9, true) AS path FROM may GROUP BY session_id) p GROUP BY path) v USING (path);
ROLLBACK;

-- Kinds of node
SELECT node, array_agg(DISTINCT target ORDER BY target) FILTER (WHERE target NOT IN ('(end)', '(start)')) AS nodes
FROM (VALUES ('event'), ('page'), ('screen')) k (node), LATERAL cdi_flows(from_time => '2011-05-01', to_time => '2011-06-01', node => k.node) f GROUP BY node ORDER BY node;

-- As a diagram
SELECT cdi_flows_mermaid('from', '(end)', 1, '2011-05-01', '2011-05-02', top => 1, exclude => ARRAY['say "x"']) LIKE E'sankey-beta\n\n"0 ""(end)""",%' AS quoted;
SELECT cdi_flows_mermaid('from', '"', 1, '2011-05-01', '2011-06-01') AS none;

-- Bad input
SELECT * FROM cdi_flows('sideways');
SELECT * FROM cdi_flows(NULL);
SELECT * FROM cdi_flows(steps => 0);
SELECT * FROM cdi_flows(steps => 101);
SELECT * FROM cdi_flows(within => '-1 day');
SELECT * FROM cdi_flows(within => '1 month');
SELECT * FROM cdi_flows(node => 'url');
SELECT * FROM cdi_flows(occurrence => 'last');
SELECT * FROM cdi_flows(top => 0);
SELECT * FROM cdi_flows(from_time => '2011-05-02', to_time => '2011-05-01');
SELECT * FROM cdi_flows('from', 'Alpha', exclude => '{Alpha}');
SELECT * FROM cdi_top_paths('from', 'no such event');
SELECT cdi_flow_path('a', now(), 1, 'from', NULL, 1000, true);
SELECT cdi_flow_path('a', now(), 1, NULL, NULL, 1, true);

-- With the caller's privileges
CREATE ROLE cdi_test_flows;
SET ROLE cdi_test_flows;
SELECT * FROM cdi_flows();
RESET ROLE;
SELECT cdi_grant_reader('cdi_test_flows');
SET ROLE cdi_test_flows;
SELECT count(*) > 0 AS reads FROM cdi_flows(from_time => '2011-05-01', to_time => '2011-06-01');
RESET ROLE;
DROP OWNED BY cdi_test_flows;
DROP ROLE cdi_test_flows;
