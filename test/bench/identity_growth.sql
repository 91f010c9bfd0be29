-- Links that make a graph grow.  Person p has user id 'user p' and, to begin
-- with, device 'device p'.  Time goes by at 1,000 links a second.
CREATE SCHEMA hand;

CREATE FUNCTION hand.link_time(at bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
$$SELECT timestamptz '2026-01-01Z' + at * interval '1 millisecond'$$;

-- One link each for persons first + 1 .. first + pairs
CREATE PROCEDURE hand.link_pairs(at bigint, first bigint, pairs bigint) LANGUAGE sql AS
$$
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT at + n, md5('event ' || at + n)::uuid, hand.link_time(at + n), 'identify',
       ARRAY[md5('user ' || first + n)::uuid, md5('device ' || first + n)::uuid],
       '{user_id,anonymous_id}', ARRAY['user ' || first + n, 'device ' || first + n]
FROM generate_series(1, pairs) n
$$;

-- Seven links in ten bring a new device to one of persons 1 .. persons, the
-- others are of new persons.  At positions at + step, at + 2 * step, ...
CREATE PROCEDURE hand.link_new(at bigint, step bigint, persons bigint, links bigint) LANGUAGE sql AS
$$
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT position, md5('event ' || position)::uuid, hand.link_time(position), 'identify',
       ARRAY[md5(u)::uuid, md5('new device ' || position)::uuid],
       '{user_id,anonymous_id}', ARRAY[u, 'new device ' || position]
FROM (SELECT at + step * n AS position,
             CASE WHEN random() < 0.7 THEN 'user ' || 1 + floor(random() * persons)::bigint ELSE 'new user ' || at + step * n END AS u
      FROM generate_series(1, links) n) drawn
$$;

-- New devices of one person, at as many positions
CREATE PROCEDURE hand.link_whale(at bigint, step bigint, links bigint) LANGUAGE sql AS
$$
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT position, md5('whale ' || position)::uuid, hand.link_time(position), 'identify',
       ARRAY[md5('whale')::uuid, md5('whale device ' || position)::uuid],
       '{user_id,anonymous_id}', ARRAY['whale', 'whale device ' || position]
FROM (SELECT at + step * n AS position FROM generate_series(1, links) n) positions
$$;

-- Somebody whom an e-mail address names, or who shares it with the whale
CREATE PROCEDURE hand.link_elder(at bigint, named text[]) LANGUAGE sql AS
$$
INSERT INTO cdi.identity_links (position, event_id, linked_at, rule, identifiers, types, "values")
SELECT at, md5('elder ' || at)::uuid, hand.link_time(at), 'identify',
       ARRAY(SELECT md5(name)::uuid FROM unnest(named) name), ('{email,user_id}'::text[])[1:cardinality(named)], named
$$;
