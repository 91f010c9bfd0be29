-- 10 million events of 1 million people in sessions of five: most look, few buy.
CREATE TABLE visits AS
SELECT (s % :people)::integer AS person,
       timestamptz '2026-01-01' + start + k * (0.5 + random()) * interval '40 seconds' AS "timestamp",
       CASE WHEN r < 0.60 THEN 'Product Viewed' WHEN r < 0.72 THEN 'Product Added' WHEN r < 0.78 THEN 'Checkout Started'
            WHEN r < 0.82 THEN 'Order Completed' WHEN r < 0.92 THEN 'Products Searched' ELSE 'Signed In' END AS event
FROM (SELECT s, random() * interval '30 days' AS start FROM generate_series(1, :people * 2) s) x,
     generate_series(0, 4) k, LATERAL (SELECT random() + 0 * (s + k) AS r) r
ORDER BY 2;
