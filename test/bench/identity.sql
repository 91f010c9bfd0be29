-- Links for cdi_resolve(), and the same as edges for pgRouting.
CREATE EXTENSION cdi;
CREATE EXTENSION postgis;
CREATE EXTENSION pgrouting;
SELECT cdi_init();
-- It serves explanations, unmerge and erasure, and resolving does not look at
-- it.  It would take longer to make than all that is timed here.
DROP INDEX cdi.identity_links_identifiers;

CREATE SCHEMA hand;

-- Each person has a user id, an e-mail address and up to three devices; one
-- link in a hundred comes from somebody else's device.  A link is a function of
-- its number, so that several connections can make them.
CREATE FUNCTION hand.drawn(first bigint, last bigint, persons bigint)
RETURNS TABLE (n bigint, kind bigint, person bigint, owner bigint, device bigint) LANGUAGE sql STABLE AS
$$
SELECT n, abs(hashint8extended(n, 1) % 100), person,
       CASE WHEN hashint8extended(n, 2) % 100 = 0 THEN abs(hashint8extended(n, 3) % persons) ELSE person END,
       abs(hashint8extended(n, 4) % 3)
FROM (SELECT n, abs(hashint8extended(n, 5) % persons) AS person FROM generate_series(first, last) n) numbers
$$;

CREATE PROCEDURE hand.link(first bigint, last bigint, persons bigint) LANGUAGE sql AS
$$
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT n, md5('event ' || n)::uuid, timestamptz '2026-01-01' + n * interval '1 second', 'track',
       CASE WHEN kind < 60 THEN ARRAY[md5(u)::uuid, d::uuid]
            WHEN kind < 85 THEN ARRAY[md5(u)::uuid, md5(e)::uuid, d::uuid]
            ELSE ARRAY[md5(e)::uuid, d::uuid] END,
       CASE WHEN kind < 60 THEN '{user_id,anonymous_id}'
            WHEN kind < 85 THEN '{user_id,email,anonymous_id}'
            ELSE '{email,anonymous_id}' END::text[],
       CASE WHEN kind < 60 THEN ARRAY[u, d]
            WHEN kind < 85 THEN ARRAY[u, e, d]
            ELSE ARRAY[e, d] END
FROM (SELECT n, kind, 'user-' || person AS u, 'person-' || person || '@example.com' AS e,
             md5('device-' || owner || '-' || device) AS d
      FROM hand.drawn(first, last, persons)) named
$$;

-- The same links as numbers without gaps worth mentioning, for union_floor.c.
CREATE FUNCTION hand.numbered(links bigint, persons bigint)
RETURNS TABLE (a integer, b integer, c integer) LANGUAGE sql STABLE AS
$$
SELECT (CASE WHEN kind < 85 THEN person ELSE persons + person END)::integer,
       (2 * persons + 3 * owner + device)::integer,
       CASE WHEN kind BETWEEN 60 AND 84 THEN (persons + person)::integer END
FROM hand.drawn(1, links, persons)
$$;

-- pgRouting knows bigint only: its keys are hashes of ours, made before the
-- clock starts, and are not turned back.
CREATE PROCEDURE hand.make_edges() LANGUAGE sql AS
$$
CREATE UNLOGGED TABLE hand.edges AS
SELECT position AS id, uuid_hash_extended(identifiers[1], 0) AS source,
       uuid_hash_extended(identifiers[k], 0) AS target, 1::float8 AS cost
FROM cdi.identity_links, generate_series(2, cardinality(identifiers)) k
$$;
