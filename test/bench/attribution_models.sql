-- What a user would write instead of a report of eight rule models.
WITH path AS (
    SELECT t.channel, c.value, row_number() OVER w AS i, count(*) OVER conversion AS n,
           2 ^ (-extract(epoch FROM c.converted_at - t.touched_at)::double precision / 604800) AS decay,
           sum(2 ^ (-extract(epoch FROM c.converted_at - t.touched_at)::double precision / 604800)) OVER conversion AS total,
           max(CASE WHEN t.channel <> 'direct' THEN t.touched_at END) OVER conversion AS foreign_at, t.touched_at
    FROM bench.conversions c
    LEFT JOIN bench.touches t ON t.person_id = c.person_id AND t.touched_at BETWEEN c.converted_at - interval '30 days' AND c.converted_at
    WHERE c.conversion = 'order'
    WINDOW w AS (PARTITION BY c.event_id ORDER BY t.touched_at, t.position), conversion AS (PARTITION BY c.event_id)
)
SELECT coalesce(channel, 'unattributed') AS channel,
       sum(value) FILTER (WHERE i = 1) AS first_touch,
       sum(value) FILTER (WHERE i = n) AS last_touch,
       sum(value) FILTER (WHERE touched_at = foreign_at OR foreign_at IS NULL AND i = n) AS last_non_direct,
       sum(value / n) AS linear,
       sum(value * coalesce(decay / total, 1)::numeric) AS time_decay,
       sum(value * CASE WHEN n <= 2 THEN 1.0 / n WHEN i IN (1, n) THEN 0.4 ELSE 0.2 / (n - 2) END) AS u_shaped,
       sum(value * CASE WHEN n = 1 THEN 1 WHEN n = 2 THEN CASE i WHEN 1 THEN 0.25 ELSE 0.75 END
                        ELSE CASE i WHEN 1 THEN 0.2 WHEN n THEN 0.6 ELSE 0.2 / (n - 2) END END) AS j_shaped,
       sum(value * CASE WHEN n = 1 THEN 1 WHEN n = 2 THEN CASE i WHEN 1 THEN 0.75 ELSE 0.25 END
                        ELSE CASE i WHEN 1 THEN 0.6 WHEN n THEN 0.2 ELSE 0.2 / (n - 2) END END) AS inverse_j
FROM path GROUP BY 1 ORDER BY 1
