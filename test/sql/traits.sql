-- Traits that calls set: one value per person and trait, by a policy.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT cdi_resolve() >= 0 AS resolved;
SELECT cdi_create_source('tr-web') IS NOT NULL AND cdi_create_source('tr-crm') IS NOT NULL AND cdi_create_source('tr-old') IS NOT NULL AS created;

-- Traits t_latest, t_first, ... all get the same values: v at a time, from a source.
CREATE FUNCTION pg_temp.set_all(who text, at timestamptz, v jsonb, source text DEFAULT 'tr-web') RETURNS boolean LANGUAGE sql AS $$
    SELECT cdi_identify(who, jsonb_build_object('t_latest', v, 't_first', v, 't_max', v, 't_min', v, 't_union', v, 't_source', v),
                        "timestamp" => at, source => source) IS NOT NULL
$$;
CREATE FUNCTION pg_temp.traits(who text) RETURNS TABLE (trait text, value jsonb, policy text, set_at timestamptz, source text, identifier text) LANGUAGE sql AS $$
    SELECT trait, value, policy, set_at, source, identifier_type || ' ' || identifier_value FROM cdi.person_traits
    WHERE person_id = cdi_person('user_id', who) ORDER BY trait
$$;
SELECT cdi_set_trait_policy('t_first', 'first'), cdi_set_trait_policy('t_max', 'max'), cdi_set_trait_policy('t_min', 'min'),
       cdi_set_trait_policy('t_union', 'union'), cdi_set_trait_policy('t_source', 'source_priority', '{tr-crm,tr-web}');
SELECT trait, policy, cardinality(sources) AS sources FROM cdi.trait_policies ORDER BY trait;

-- Out of order, over two folds.
SELECT pg_temp.set_all('tr-ann', '2026-02-02', '20'), pg_temp.set_all('tr-ann', '2026-02-01', '3', 'tr-crm');
SELECT cdi_resolve();
SELECT pg_temp.set_all('tr-ann', '2026-02-04', '10', 'tr-old'), pg_temp.set_all('tr-ann', '2026-02-03', '20'),
       pg_temp.set_all('tr-ann', '2026-01-31', '4', 'tr-old');
SELECT cdi_resolve();
SELECT * FROM pg_temp.traits('tr-ann');
-- cdi.persons has the same as one object; so has the function, for any key of the person.
SELECT traits, traits = cdi_person_traits(person_id) AS same FROM cdi.persons WHERE person_id = cdi_person('user_id', 'tr-ann');
SELECT cdi_person_traits('00000000-0000-0000-0000-000000000000') AS of_nobody, cdi_person_traits(NULL) IS NULL AS of_null;
-- Every value comes from the event that it says it comes from.
SELECT trait, e.traits -> trait = t.value OR e.traits -> trait <@ t.value AS has_it, e."timestamp" = t.set_at AS at
FROM cdi.person_traits t JOIN cdi.events e USING (event_id)
WHERE t.person_id = cdi_person('user_id', 'tr-ann') ORDER BY trait;

-- Equal times: the later position is later, the earlier is first.
SELECT cdi_identify('tr-tie', '{"t_latest": "a", "t_first": "a"}', "timestamp" => '2026-02-01') IS NOT NULL,
       cdi_identify('tr-tie', '{"t_latest": "b", "t_first": "b"}', "timestamp" => '2026-02-01') IS NOT NULL;
SELECT cdi_resolve();
SELECT cdi_identify('tr-tie', '{"t_latest": "c", "t_first": "c"}', "timestamp" => '2026-02-01') IS NOT NULL;
SELECT cdi_resolve();
SELECT trait, value FROM pg_temp.traits('tr-tie');

-- A JSON null sets nothing, also in a union.  Values of different types compare
-- as jsonb does: true > false > numbers > text; numbers by their size.
SELECT bool_and(pg_temp.set_all('tr-mix', '2026-02-01'::timestamptz + n * interval '1 day', v)) FROM
    (VALUES (1, '"9"'::jsonb), (2, '10'), (3, '9'), (4, 'null'), (5, '"10"'), (6, '[3, 9, null, "x"]'), (7, '9.0'), (8, 'null')) AS v (n, v);
SELECT cdi_identify('tr-mix2', '{"t_max": "z", "t_min": "z"}') IS NOT NULL, cdi_identify('tr-mix2', '{"t_max": 12, "t_min": 12}') IS NOT NULL,
       cdi_identify('tr-mix2', '{"t_max": 9, "t_min": 9}') IS NOT NULL, cdi_identify('tr-mix2', '{"t_max": 1e400, "t_min": -1e400}') IS NOT NULL;
SELECT cdi_resolve();
SELECT trait, value FROM pg_temp.traits('tr-mix') WHERE trait <> 't_source';
SELECT trait, left(value::text, 6) AS value, length(value::text) FROM pg_temp.traits('tr-mix2');

-- Several sources of a person's several identifiers: what the first source in
-- the list says counts, however old, on whichever identifier.
SELECT cdi_identify('tr-cat', '{"t_source": "web new"}', "timestamp" => '2026-03-03', source => 'tr-web') IS NOT NULL,
       cdi_identify('tr-cat', '{"t_source": "none newest"}', "timestamp" => '2026-03-09', source => 'tr-old') IS NOT NULL,
       cdi_identify(NULL, '{"t_source": "crm old"}', anonymous_id => 'tr-cat-phone', "timestamp" => '2026-01-01', source => 'tr-crm') IS NOT NULL,
       cdi_identify(NULL, '{"t_source": "crm older"}', anonymous_id => 'tr-cat-phone', "timestamp" => '2025-01-01', source => 'tr-crm') IS NOT NULL;
SELECT cdi_resolve();
SELECT value, source FROM pg_temp.traits('tr-cat');
SELECT cdi_track('tr-cat', 'Logged In', anonymous_id => 'tr-cat-phone') IS NOT NULL;
SELECT cdi_resolve();
SELECT value, source, identifier FROM pg_temp.traits('tr-cat');
-- Another order of sources; sources that are not listed come last, as one.
SELECT cdi_set_trait_policy('t_source', 'source_priority', '{tr-old}');
SELECT value, source FROM pg_temp.traits('tr-cat');
SELECT cdi_set_trait_policy('t_source', 'source_priority', '{sql}');
SELECT value, source FROM pg_temp.traits('tr-cat');

-- A policy that changes applies to all that was ever set, and back.
SELECT cdi_set_trait_policy('t_latest', 'min'), cdi_set_trait_policy('t_first', 'union'), cdi_set_trait_policy('t_max', 'first'),
       cdi_drop_trait_policy('t_min'), cdi_set_trait_policy('t_union', 'max');
SELECT trait, value, policy, set_at FROM pg_temp.traits('tr-ann');
SELECT cdi_drop_trait_policy('t_latest'), cdi_set_trait_policy('t_first', 'first'), cdi_set_trait_policy('t_max', 'max'),
       cdi_set_trait_policy('t_min', 'min'), cdi_set_trait_policy('t_union', 'union');
SELECT trait, value, policy, set_at FROM pg_temp.traits('tr-ann') WHERE trait <> 't_source';
-- In the transaction that folds as well, and not if it is rolled back.
BEGIN;
SELECT cdi_set_trait_policy('t_latest', 'max');
SELECT cdi_identify('tr-ann', '{"t_latest": 11}', "timestamp" => '2026-02-09') IS NOT NULL;
SELECT cdi_resolve();
SELECT value FROM pg_temp.traits('tr-ann') WHERE trait = 't_latest';
ROLLBACK;
SELECT value FROM pg_temp.traits('tr-ann') WHERE trait = 't_latest';

-- A merge takes the traits of both by the policy; taking it apart by hand gives
-- each its own back, because state is kept per identifier.
SELECT pg_temp.set_all('tr-left', '2026-02-01', '["l", 1]'), pg_temp.set_all('tr-right', '2026-01-01', '["r", 1, 2]');
SELECT cdi_identify('tr-left', '{"only": "left"}', anonymous_id => 'tr-hand-l') IS NOT NULL, cdi_identify('tr-right', '{"only2": "right"}') IS NOT NULL;
SELECT cdi_resolve();
CREATE TEMP TABLE apart AS SELECT * FROM pg_temp.traits('tr-left') UNION ALL SELECT * FROM pg_temp.traits('tr-right');
CREATE TEMP TABLE map AS SELECT * FROM cdi.identity_map;
SELECT cdi_alias('tr-left', 'tr-right') IS NOT NULL;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'tr-left') = cdi_person('user_id', 'tr-right') AS merged;
SELECT trait, value FROM pg_temp.traits('tr-right') WHERE trait <> 't_source';
BEGIN;
UPDATE cdi.identity_map m SET person_id = o.person_id FROM map o WHERE o.identifier = m.identifier AND o.person_id <> m.person_id;
SELECT count(*) AS differences FROM (
    (TABLE apart EXCEPT ALL (SELECT * FROM pg_temp.traits('tr-left') UNION ALL SELECT * FROM pg_temp.traits('tr-right')))
    UNION ALL
    ((SELECT * FROM pg_temp.traits('tr-left') UNION ALL SELECT * FROM pg_temp.traits('tr-right')) EXCEPT ALL TABLE apart)) d;
ROLLBACK;

-- A union keeps 1,000 values of at most 1,000 bytes per identifier and source,
-- the smallest, whatever order they come in, and says so.
SELECT cdi_identify('tr-many', jsonb_build_object('t_union', (SELECT jsonb_agg(n) FROM generate_series(2000, 500, -1) n))) IS NOT NULL;
SELECT cdi_resolve();
SELECT cdi_identify('tr-many', jsonb_build_object('t_union', (SELECT jsonb_agg(n) FROM generate_series(1, 600) n))) IS NOT NULL;
SELECT cdi_identify('tr-long', jsonb_build_object('t_union', jsonb_build_array('short', repeat('x', 999)))) IS NOT NULL;
SELECT cdi_resolve();
SELECT jsonb_array_length(value), value -> 0 AS first, value -> -1 AS last, truncated FROM cdi.person_traits WHERE person_id = cdi_person('user_id', 'tr-many');
SELECT value, truncated FROM cdi.person_traits WHERE person_id = cdi_person('user_id', 'tr-long');
SELECT jsonb_agg(DISTINCT truncated) FROM cdi.person_traits WHERE person_id = cdi_person('user_id', 'tr-ann');

-- A name that no index could hold is no trait of a person and stops no fold.
SELECT cdi_identify('tr-name', jsonb_build_object((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n), 1, repeat('n', 513), 2, repeat('n', 512), 3)) IS NOT NULL;
SELECT cdi_resolve();
SELECT length(trait), value FROM pg_temp.traits('tr-name');

-- Thousands of values in batches: the same as from the links in one go, by
-- other means.
CREATE FUNCTION pg_temp.draw(seed text, sides int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % sides $$;
DO $$
BEGIN
    FOR batch IN 1..20 LOOP
        PERFORM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'identify', 'userId', 'tr-r' || pg_temp.draw('u' || n, 40),
            'timestamp', '2026-01-01'::timestamptz + pg_temp.draw('t' || n, 50) * interval '1 hour',
            'traits', jsonb_build_object('t_latest', n, 't_first', n, 't_max', pg_temp.draw('v' || n, 30), 't_min', pg_temp.draw('v' || n, 30),
                                         't_union', pg_temp.draw('v' || n, 30), 't_source', n)))
            FROM generate_series(batch * 100, batch * 100 + pg_temp.draw('size' || batch, 100)) n),
            CASE pg_temp.draw('s' || batch, 3) WHEN 0 THEN 'tr-web' WHEN 1 THEN 'tr-crm' ELSE 'tr-old' END);
        IF batch % 3 = 0 THEN
            PERFORM cdi_resolve();
        END IF;
    END LOOP;
END $$;
SELECT cdi_resolve() > 0 AS resolved;
SELECT cdi_set_trait_policy('t_source', 'source_priority', '{tr-crm,tr-web}');
CREATE TEMP TABLE said AS SELECT user_id, e.traits, "timestamp", position, s.name AS source FROM cdi.events e JOIN cdi.sources s USING (source_id) WHERE user_id LIKE 'tr-r%';
CREATE TEMP TABLE wanted AS
SELECT user_id, 't_latest' AS trait, (array_agg(traits -> 't_latest' ORDER BY "timestamp" DESC, position DESC))[1] AS value FROM said WHERE traits ? 't_latest' GROUP BY user_id
UNION ALL SELECT user_id, 't_first', (array_agg(traits -> 't_first' ORDER BY "timestamp", position))[1] FROM said WHERE traits ? 't_first' GROUP BY user_id
UNION ALL SELECT user_id, 't_max', to_jsonb(max((traits ->> 't_max')::numeric)) FROM said WHERE user_id ~ 'r[0-9]+$' GROUP BY user_id
UNION ALL SELECT user_id, 't_min', to_jsonb(min((traits ->> 't_min')::numeric)) FROM said WHERE user_id ~ 'r[0-9]+$' GROUP BY user_id
UNION ALL SELECT user_id, 't_union', to_jsonb(array_agg(DISTINCT (traits ->> 't_union')::int)) FROM said WHERE user_id ~ 'r[0-9]+$' GROUP BY user_id
UNION ALL SELECT user_id, 't_source', (array_agg(traits -> 't_source' ORDER BY source = 'tr-crm' DESC, source = 'tr-web' DESC, "timestamp" DESC, position DESC))[1] FROM said WHERE user_id ~ 'r[0-9]+$' GROUP BY user_id;
DELETE FROM wanted WHERE user_id !~ 'r[0-9]+$';
SELECT count(*) > 200 AS enough, count(*) FILTER (WHERE t.value IS DISTINCT FROM w.value) AS different
FROM wanted w LEFT JOIN cdi.person_traits t ON t.person_id = cdi_person('user_id', w.user_id) AND t.trait = w.trait;
-- Setting a policy anew recomputes it from the links: nothing changes.
CREATE TEMP TABLE kept AS SELECT * FROM cdi.identifier_traits;
SELECT cdi_set_trait_policy('t_first', 'first'), cdi_set_trait_policy('t_max', 'max'), cdi_set_trait_policy('t_min', 'min'),
       cdi_set_trait_policy('t_union', 'union'), cdi_set_trait_policy('t_source', 'source_priority', '{tr-crm,tr-web}');
SELECT count(*) AS differences FROM ((TABLE kept EXCEPT TABLE cdi.identifier_traits) UNION ALL (TABLE cdi.identifier_traits EXCEPT TABLE kept)) d;

-- What is refused.
\set SHOW_CONTEXT never
SELECT cdi_set_trait_policy('x', 'average');
SELECT cdi_set_trait_policy('', 'max');
SELECT cdi_set_trait_policy(NULL, 'max');
SELECT cdi_set_trait_policy('x', 'source_priority');
SELECT cdi_set_trait_policy('x', 'max', '{sql}');
SELECT cdi_set_trait_policy('x', 'source_priority', '{nobody}');
SELECT cdi_drop_trait_policy('x');
BEGIN READ ONLY;
SELECT cdi_set_trait_policy('x', 'max');
ROLLBACK;
CREATE ROLE cdi_test_traits;
SET ROLE cdi_test_traits;
SELECT cdi_set_trait_policy('x', 'max');
SELECT cdi._apply_trait_policy('x', 'max', NULL);
SELECT cdi_person_traits('00000000-0000-0000-0000-000000000000');
SELECT * FROM cdi.person_traits;
RESET ROLE;
-- A reader reads, an administrator sets.
SELECT cdi_grant_reader('cdi_test_traits');
SET ROLE cdi_test_traits;
SELECT cdi_person_traits(cdi_person('user_id', 'tr-tie')), (SELECT count(*) FROM cdi.person_traits WHERE person_id = cdi_person('user_id', 'tr-tie'));
SELECT cdi_set_trait_policy('x', 'max');
RESET ROLE;
SELECT cdi_grant_admin('cdi_test_traits');
SET ROLE cdi_test_traits;
SELECT cdi_set_trait_policy('x', 'max'), cdi_drop_trait_policy('x');
RESET ROLE;
DROP OWNED BY cdi_test_traits;
DROP ROLE cdi_test_traits;
DO $$ DECLARE t text; BEGIN FOR t IN SELECT trait FROM cdi.trait_policies LOOP PERFORM cdi_drop_trait_policy(t); END LOOP; END $$;
SELECT count(*) AS policies FROM cdi.trait_policies;
