-- Whatever breaks the promise of the pipeline, one row each; none is the aim.
-- Every event received ended in exactly one place, and what is called stored
-- or failed is there.
SELECT 'source ' || source || ': received ' || received || ', accounted for '
       || stored + duplicate + failed + withheld AS broken
FROM cdi.pipeline_counts
WHERE received <> stored + duplicate + failed + withheld
UNION ALL
SELECT 'source ' || c.source || ': ' || c.stored || ' stored by the counters, ' || e.rows || ' rows in cdi.events'
FROM cdi.pipeline_counts c
JOIN cdi.sources s ON s.name = c.source
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM cdi.events v WHERE v.source_id = s.source_id) e
WHERE c.stored <> e.rows
UNION ALL
SELECT 'source ' || c.source || ': ' || c.failed || ' failed by the counters, ' || f.rows || ' rows in cdi.failed_events'
FROM cdi.pipeline_counts c
JOIN cdi.sources s ON s.name = c.source
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM cdi.failed_events v WHERE v.source_id = s.source_id) f
WHERE c.failed <> f.rows
UNION ALL
SELECT 'event ' || event_id || ' is stored ' || count(*) || ' times'
FROM cdi.events GROUP BY event_id HAVING count(*) > 1;
