-- People found against people simulated, by the psql variables persons, seed,
-- start_at, anomalies and recycled of the simulation, and scope: identifiers
-- of one person only ("exclusive"), or "all".  Two identifiers are a pair when
-- there is a person who has both: precision is the share of found pairs that
-- are true, recall the share of true pairs that were found.  Of an identifier
-- that two people have, a pair with either's others is true.
WITH identifier AS (
    SELECT person, identifier_type || ':' || identifier_value AS name, cdi_person(identifier_type, identifier_value) AS found,
           count(*) OVER (PARTITION BY identifier_type, identifier_value) AS owners
    FROM cdi_simulate_people(:persons, :seed, :'start_at', anomalies => :anomalies, recycled => :recycled)
),
scoped AS (SELECT * FROM identifier WHERE owners = 1 OR :'scope' = 'all'),
named AS (SELECT DISTINCT name, found FROM scoped),
truth AS (
    SELECT DISTINCT a.name, b.name, a.found = b.found AS agreed
    FROM scoped a JOIN scoped b ON a.person = b.person AND a.name < b.name
),
pairs AS (
    SELECT (SELECT count(*) FROM truth) AS truth,
           (SELECT sum(n * (n - 1) / 2) FROM (SELECT count(*) AS n FROM named WHERE found IS NOT NULL GROUP BY found) f) AS found,
           (SELECT count(*) FROM truth WHERE agreed) AS agreed
)
SELECT (SELECT count(DISTINCT person) FROM scoped) AS "people simulated",
       (SELECT count(DISTINCT found) FROM named) AS "people found",
       (SELECT count(*) FROM named) AS "identifiers",
       round(agreed::numeric / nullif(found, 0), 6) AS "precision",
       round(agreed::numeric / nullif(truth, 0), 6) AS "recall"
FROM pairs;
