-- Flows from an event as a user would write them: five steps of each session.
WITH e AS (
    SELECT s.person_id, s.session_id, s."timestamp", s.position,
           CASE s.type WHEN 'page' THEN coalesce(s.context #>> '{page,path}', s.event) ELSE s.event END AS node
    FROM cdi.session_events s),
c AS (
    SELECT e.*, lag(e.node) OVER (PARTITION BY e.person_id, e.session_id ORDER BY e."timestamp", e.position) AS before
    FROM e WHERE e.node IS NOT NULL),
n AS (
    SELECT c.person_id, c.session_id, c.node, c."timestamp",
           row_number() OVER (PARTITION BY c.person_id, c.session_id ORDER BY c."timestamp", c.position) AS rn
    FROM c WHERE c.before IS DISTINCT FROM c.node),
a AS (
    SELECT n.*, min(n.rn) FILTER (WHERE n.node = 'Event 3') OVER (PARTITION BY n.person_id, n.session_id) AS anchor,
           lead(n.node) OVER w AS next_node, lead(n."timestamp") OVER w AS next_at
    FROM n WINDOW w AS (PARTITION BY n.person_id, n.session_id ORDER BY n.rn))
SELECT (a.rn - a.anchor)::integer AS step, a.node, coalesce(a.next_node, '(end)'), count(DISTINCT a.person_id), count(*),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM a.next_at - a."timestamp")::double precision)
FROM a WHERE a.rn BETWEEN a.anchor AND a.anchor + 4
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
