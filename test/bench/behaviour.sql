-- {people} people with ten events each in three sessions of a few minutes, in
-- order of time, as a table that grows has them.  Needs nothing of cdi.
CREATE UNLOGGED TABLE behaviour AS
SELECT person, ts, event
FROM (
    SELECT n / 10 AS person,
           timestamptz '2026-01-01 00:00Z' + interval '1 s' * (
               10 * ((hashint8extended(n / 10 * 3 + n % 10 / 4, 1) & 2147483647) % 259200  -- the session
                     + n % 10 % 4 * ((hashint8extended(n, 2) & 2147483647) % 40))
               + n % 10) AS ts,  -- nothing of a person in the same second
           CASE
               WHEN n % 10 = 0 AND chance < 70 THEN 'Signed Up'
               WHEN n % 10 % 4 = 0 THEN 'App Opened'
               WHEN chance < 40 THEN 'Product Viewed'
               WHEN chance < 60 THEN 'Product Added'
               WHEN chance < 70 THEN 'Order Completed'
               ELSE 'Page Viewed'
           END AS event
    FROM (SELECT n, (hashint8extended(n, 3) & 2147483647) % 100 AS chance FROM generate_series(0, {people} * 10::bigint - 1) n) e
) e
ORDER BY ts;
