-- What a user would write instead of cdi_attribution(model => 'linear'):
-- sessions and credit by window functions over the stored events.  Channels
-- are those of cdi_channel() on both sides.
WITH browsing AS (
    SELECT coalesce(m.person_id, e.subject) AS person_id, e.event_id, e."timestamp", e.position, e.type, e.event, e.properties,
           cdi_channel(e.campaign_source, e.campaign_medium, e.click_id_type, e.referrer_host, e.page_host) AS channel,
           CASE WHEN coalesce(e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content, e.click_id_type) IS NOT NULL
                THEN ROW(e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content, e.click_id_type)::text END AS campaign
    FROM cdi.events e
    LEFT JOIN cdi.identity_map m ON m.identifier = e.subject
    WHERE e.type IN ('page', 'screen', 'track') AND e.subject IS NOT NULL
), begun AS (
    SELECT *, coalesce("timestamp" - lag("timestamp") OVER w > interval '30 minutes', true) OR campaign IS NOT NULL AS begins
    FROM browsing WINDOW w AS (PARTITION BY person_id ORDER BY "timestamp", position)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY person_id ORDER BY "timestamp", position) AS session
    FROM begun
), touches AS (
    SELECT person_id, session, min("timestamp") AS touched_at,
           coalesce((array_agg(channel ORDER BY "timestamp", position) FILTER (WHERE channel <> 'direct'))[1], 'direct') AS channel
    FROM numbered GROUP BY person_id, session
), conversions AS (
    SELECT person_id, event_id, "timestamp" AS converted_at, (properties->>'revenue')::numeric AS value
    FROM browsing WHERE type = 'track' AND event = 'Order Completed'
)
SELECT coalesce(channel, 'unattributed') AS channel, sum(value / touches) AS credit
FROM (SELECT c.value, t.channel, count(*) OVER (PARTITION BY c.event_id) AS touches
      FROM conversions c
      LEFT JOIN touches t ON t.person_id = c.person_id
            AND t.touched_at BETWEEN c.converted_at - interval '30 days' AND c.converted_at) paths
GROUP BY 1 ORDER BY 1
