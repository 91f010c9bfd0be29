-- cdi_resolve() against pgRouting, table to table, on the same links.
--
--   psql -v size=3000000 -f test/bench/resolve.sql DATABASE
--
-- DATABASE is an empty one that workers leave alone.  The last row printed is
-- "result" and, as JSON, seconds and figures of each way:
--   resolve      cdi_resolve() over all links: read, unite, write, index
--   unite        the part of it that finds keys and unites components
--   pgr          pgr_connectedComponents over an edge table made before
--   pgr_store    ... storing its result and making the same two indexes
--   floor        writing and indexing the finished map
-- pgRouting knows bigint only: its keys are the first half of ours, made
-- before the clock starts, and are not turned back.
\set ON_ERROR_STOP on
\set QUIET on
\pset tuples_only on
\pset format unaligned
\pset fieldsep ' '
\if :{?size} \else \set size 3000000 \endif
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cdi;
CREATE EXTENSION IF NOT EXISTS postgis;
CREATE EXTENSION IF NOT EXISTS pgrouting;
BEGIN;
SELECT cdi_init() \g /dev/null
SELECT format('ALTER DATABASE %I SET cdi.enabled = off', current_database()) \gexec
COMMIT;

-- One person per four links, each with a user id, an e-mail address and up to
-- three devices; one link in a hundred comes from somebody else's device.
SELECT setseed(0.42) \g /dev/null
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT n, md5('event ' || n)::uuid, timestamptz '2026-01-01' + n * interval '1 second', 'track',
       CASE WHEN kind < 0.60 THEN ARRAY[md5(u)::uuid, md5(d)::uuid]
            WHEN kind < 0.85 THEN ARRAY[md5(u)::uuid, md5(e)::uuid, md5(d)::uuid]
            ELSE ARRAY[md5(e)::uuid, md5(d)::uuid] END,
       CASE WHEN kind < 0.60 THEN '{user_id,anonymous_id}'
            WHEN kind < 0.85 THEN '{user_id,email,anonymous_id}'
            ELSE '{email,anonymous_id}' END::text[],
       CASE WHEN kind < 0.60 THEN ARRAY[u, md5(d)]
            WHEN kind < 0.85 THEN ARRAY[u, e, md5(d)]
            ELSE ARRAY[e, md5(d)] END
FROM (SELECT n, random() AS kind, 'user-' || p AS u, 'person-' || p || '@example.com' AS e,
             'device-' || CASE WHEN random() < 0.01 THEN floor(random() * (:size / 4))::int ELSE p END || '-' || floor(random() * 3)::int AS d
      FROM (SELECT n, floor(random() * (:size / 4))::int AS p FROM generate_series(1, :size) n) drawn) links;
SELECT setval('cdi.event_position', :size) \g /dev/null

CREATE UNLOGGED TABLE edges AS
SELECT position AS id,
       ('x' || left(replace(identifiers[1]::text, '-', ''), 16))::bit(64)::bigint AS source,
       ('x' || left(replace(identifiers[k]::text, '-', ''), 16))::bit(64)::bigint AS target,
       1::float8 AS cost
FROM cdi.identity_links, generate_series(2, cardinality(identifiers)) k;
VACUUM ANALYZE cdi.identity_links, edges;
CHECKPOINT;

CREATE TABLE seconds (way text, seconds float8);
CREATE TABLE pgr_map (identifier bigint, person_id bigint);
CREATE TABLE floor_map (LIKE cdi.identity_map);

SELECT extract(epoch FROM clock_timestamp()) AS start \gset
SELECT cdi_resolve() AS folded \gset
INSERT INTO seconds SELECT 'resolve', extract(epoch FROM clock_timestamp()) - :start;
INSERT INTO seconds SELECT 'unite', unite_ms / 1000 FROM cdi.identity_runs;
CHECKPOINT;

SELECT extract(epoch FROM clock_timestamp()) AS start \gset
SELECT count(*) AS nodes, count(DISTINCT component) AS components
FROM pgr_connectedComponents('SELECT id, source, target, cost FROM edges') \gset
INSERT INTO seconds SELECT 'pgr', extract(epoch FROM clock_timestamp()) - :start;
SELECT extract(epoch FROM clock_timestamp()) AS start \gset
INSERT INTO pgr_map SELECT node, component FROM pgr_connectedComponents('SELECT id, source, target, cost FROM edges');
ALTER TABLE pgr_map ADD PRIMARY KEY (identifier);
CREATE INDEX ON pgr_map (person_id);
INSERT INTO seconds SELECT 'pgr_store', extract(epoch FROM clock_timestamp()) - :start;
CHECKPOINT;

SELECT extract(epoch FROM clock_timestamp()) AS start \gset
INSERT INTO floor_map SELECT * FROM cdi.identity_map;
ALTER TABLE floor_map ADD PRIMARY KEY (identifier);
CREATE INDEX ON floor_map (person_id);
INSERT INTO seconds SELECT 'floor', extract(epoch FROM clock_timestamp()) - :start;

-- Both must have found the same people.
SELECT count(*) = :nodes AND count(DISTINCT person_id) = :components AS same FROM cdi.identity_map \gset
\if :same \else
\warn cdi_resolve() and pgRouting disagree
SELECT 1 / 0;
\endif

SELECT 'result', (SELECT jsonb_object_agg(way, round(seconds::numeric, 3)) FROM seconds)
    || jsonb_build_object('links', links, 'identifiers', identifiers, 'people', :components, 'merges', merges,
                          'bulk', bulk, 'bytes_per_identifier', round(memory::numeric / identifiers, 1))
FROM cdi.identity_runs;
