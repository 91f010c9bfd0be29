-- Links for cdi_resolve(), and the same as edges for pgRouting.  :size links.
CREATE EXTENSION cdi;
CREATE EXTENSION postgis;
CREATE EXTENSION pgrouting;
SELECT cdi_init();

-- One person per four links, each with a user id, an e-mail address and up to
-- three devices; one link in a hundred comes from somebody else's device.
SELECT setseed(0.42);
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
SELECT setval('cdi.event_position', :size);

-- pgRouting knows bigint only: its keys are the first half of ours, made
-- before the clock starts, and are not turned back.
CREATE FUNCTION key(identifier uuid) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$SELECT ('x' || left(replace(identifier::text, '-', ''), 16))::bit(64)::bigint$$;
CREATE UNLOGGED TABLE edges AS
SELECT position AS id, key(identifiers[1]) AS source, key(identifiers[k]) AS target, 1::float8 AS cost
FROM cdi.identity_links, generate_series(2, cardinality(identifiers)) k;
