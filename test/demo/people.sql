-- People found against people simulated.  Two identifiers are a pair when they
-- are one person's: precision is the share of found pairs that are true,
-- recall the share of true pairs that were found.
WITH identifier AS (
    SELECT person AS truth, cdi_person(identifier_type, identifier_value) AS found
    FROM cdi_simulate_people(:persons, :seed, :'start_at')
),
pairs AS (
    SELECT (SELECT sum(n * (n - 1) / 2) FROM (SELECT count(*) AS n FROM identifier GROUP BY truth) t) AS truth,
           (SELECT sum(n * (n - 1) / 2) FROM (SELECT count(*) AS n FROM identifier GROUP BY found) f) AS found,
           (SELECT sum(n * (n - 1) / 2) FROM (SELECT count(*) AS n FROM identifier GROUP BY truth, found) b) AS agreed
)
SELECT (SELECT count(DISTINCT truth) FROM identifier) AS "people simulated",
       (SELECT count(DISTINCT found) FROM identifier) AS "people found",
       (SELECT count(*) FROM identifier) AS "identifiers",
       round(agreed / nullif(found, 0), 6) AS "precision",
       round(agreed / nullif(truth, 0), 6) AS "recall"
FROM pairs;
