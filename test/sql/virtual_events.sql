-- Virtual events: predicates over all of history, their versions, and who may
-- make whom run what.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SELECT cdi_create_source('virtual') IS NOT NULL AS created;
SELECT setseed(0.7);
SELECT stored FROM cdi_ingest((
    SELECT jsonb_agg(jsonb_build_object('type', (ARRAY['page', 'track', 'screen'])[1 + n % 3], 'messageId', 'virtual' || n,
        'userId', 'virtual-u' || n % 40, 'timestamp', timestamptz '2026-02-01' + interval '7 minutes' * n,
        'event', 'Virtual ' || n % 7, 'name', 'Virtual ' || n % 7, 'properties', jsonb_build_object('price', CASE WHEN n % 5 = 0 THEN to_jsonb('12 EUR'::text) ELSE to_jsonb(n) END, 'tags', '["a","b"]'::jsonb),
        'context', jsonb_build_object('page', jsonb_build_object('path', '/p/' || n % 11, 'title', 'Page ' || n % 4, 'search', '?q=' || n))))
    FROM generate_series(1, 2000) n), 'virtual');

-- As PostgreSQL understands the same text after WHERE, for each version
CREATE TEMP TABLE predicates (version serial, predicate text);
INSERT INTO predicates (predicate) VALUES
    ($$event = 'Virtual 3'$$),
    ($$type = 'page' AND page_path LIKE '/p/1%' AND "timestamp" >= '2026-02-03'$$),
    ($$event IN ('Virtual 1', 'Virtual 2') OR page_title = 'Page 3'$$),
    ($$cdi_property_number(properties, 'price') BETWEEN 100 AND 900.5$$),
    ($$(properties -> 'tags') ? 'a' AND NOT type = 'track' AND event ~* '^virtual [0-4]$'$$),
    ($$CASE type WHEN 'page' THEN page_search LIKE '%7' ELSE coalesce(event, '') > 'Virtual 4' END$$),
    ($$("timestamp" AT TIME ZONE 'Europe/Berlin')::time < '08:30' AND event = ANY ('{Virtual 5,Virtual 6}')$$),
    ($$events.event IS DISTINCT FROM 'Virtual 0' AND greatest(length(event), 3) + 1 = 10 AND context @> '{"page": {"path": "/p/4"}}'$$),
    ($$properties['price']::text !~ 'EUR' AND (type, event) = ('screen', 'Virtual 1') -- a comment$$),
    ($$user_id SIMILAR TO 'virtual-u[12]_' AND campaign_source IS NULL AND lower(type) COLLATE "C" < 't'$$);
SELECT cdi_create_virtual_event('Tested', predicate, 'made by the test') FROM predicates WHERE version = 1;
SELECT cdi_alter_virtual_event('Tested', predicate) AS version FROM predicates WHERE version > 1 ORDER BY version;
SELECT cdi_alter_virtual_event('Tested', (SELECT predicate FROM predicates WHERE version = 10)) AS unchanged;
SELECT count(*) AS versions, bool_and(predicate = p.predicate) AS as_written, bool_and(created_by = current_user) AS by_me, bool_and(description = 'made by the test') AS described
FROM cdi.virtual_events v JOIN predicates p USING (version, predicate) WHERE v.name = 'Tested';
CREATE FUNCTION pg_temp.matching(predicate text) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT event_id FROM (SELECT *, context #>> ''{page,path}'' AS page_path, context #>> ''{page,title}'' AS page_title, '
        'context #>> ''{page,search}'' AS page_search FROM cdi.events) events WHERE ' || predicate;
END
$$;
SELECT p.version, count(*) > 0 AS some, count(*) FILTER (WHERE v.event_id IS NULL OR m IS NULL) AS differing
FROM predicates p,
     LATERAL (SELECT v.event_id, m FROM cdi_virtual_event_rows('Tested', p.version) v FULL JOIN pg_temp.matching(p.predicate) m ON m = v.event_id) v
GROUP BY p.version ORDER BY p.version;
SELECT count(*) FILTER (WHERE version = 10) = count(*) AS current_version, count(*) = (SELECT count(*) FROM cdi_virtual_event_rows('Tested')) AS all_rows
FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Tested';
SELECT count(*) = (SELECT count(*) FROM cdi_virtual_event_rows('Tested', 1) WHERE "timestamp" >= '2026-02-04' AND "timestamp" < '2026-02-06') AS bounded
FROM cdi_virtual_event_rows('Tested', 1, '2026-02-04', '2026-02-06');
SELECT count(DISTINCT person_id) = count(DISTINCT subject) AS people FROM cdi_virtual_event_rows('Tested', 1);
-- The canonical text is understood as itself.
SELECT count(*) AS versions, count(*) FILTER (WHERE cdi._canonical_predicate(expression, 'events', false) <> cdi._canonical_predicate(cdi._canonical_predicate(expression, 'events', false), 'events', false)) AS differing
FROM cdi.virtual_events WHERE name = 'Tested';
-- A condition for other queries; any other name is that of a tracked event.
SELECT cdi_event_predicate('Tested', 'x y', 1) AS virtual, cdi_event_predicate('It''s "this"') AS tracked;
SELECT version, expression FROM cdi.virtual_events WHERE name = 'Tested' AND version IN (2, 7) ORDER BY version;
-- Asking for one does not evaluate the others.
SELECT cdi_create_virtual_event('Fails', $$(properties ->> 'price')::integer > 0$$);
SELECT count(*) > 0 AS unharmed FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Tested';
SELECT count(*) FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Fails';
SELECT cdi_drop_virtual_event('Fails');

-- An index finds rare occurrences, also in partitions that are made later.
SELECT cdi_create_virtual_event('Rare', $$event = 'Virtual 3' AND cdi_property_number(properties, 'price') = 1501$$, indexed => true);
CREATE FUNCTION pg_temp.uses_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
    indexed boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        IF line LIKE '%Seq Scan on events%' THEN RETURN false; END IF;
        indexed := indexed OR line ~ 'Index .*timestamp_idx';
    END LOOP;
    RETURN indexed;
END
$$;
SET enable_seqscan = off;
SELECT pg_temp.uses_index($$SELECT * FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Rare'$$) AS view,
       pg_temp.uses_index('SELECT * FROM cdi.events e WHERE ' || cdi_event_predicate('Rare', 'e')) AS condition,
       pg_temp.uses_index('SELECT * FROM cdi.events e WHERE ' || cdi_event_predicate('Tested', 'e')) AS other;
RESET enable_seqscan;
SELECT count(*) FROM cdi_virtual_event_rows('Rare');
SELECT stored FROM cdi_ingest('{"type": "track", "event": "Virtual 3", "userId": "virtual-u1", "messageId": "virtual-old", "timestamp": "2019-03-04", "properties": {"price": "1501"}}', 'virtual', history => true);
SELECT count(*) AS indexed FROM pg_index WHERE indrelid = 'cdi.events_2019_03'::regclass AND indpred IS NOT NULL;
SELECT "timestamp" FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Rare' ORDER BY 1;
SELECT cdi_alter_virtual_event('Rare', indexed => false) AS version;
SELECT count(*) AS indexed FROM pg_index WHERE indrelid = 'cdi.events_2019_03'::regclass AND indpred IS NOT NULL;
SELECT cdi_alter_virtual_event('Rare', indexed => true) AS version;
SELECT cdi_alter_virtual_event('Rare', $$event = 'Virtual 3' AND page_title IS NULL$$) AS version;
SELECT count(*) AS indexed, bool_and(pg_get_expr(indpred, indrelid) LIKE '%page,title%') AS the_new_one FROM pg_index WHERE indrelid = 'cdi.events_2019_03'::regclass AND indpred IS NOT NULL;
-- What may fail on an event would keep it from being stored.
CREATE FUNCTION pg_temp.refused(predicate text, indexed boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cdi_create_virtual_event('hostile', predicate, indexed => indexed);
    PERFORM cdi_drop_virtual_event('hostile');
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, 'pg_temp_\d+', 'pg_temp');
END
$$;
SELECT predicate, pg_temp.refused(predicate, true) FROM (VALUES
    ($$(properties ->> 'price')::integer > 1$$), ($$(properties -> 'price')::numeric > 1$$), ($$1 / length(event) = 1$$),
    ($$event LIKE page_path$$), ($$event ~ page_path$$), ($$event LIKE ANY (ARRAY['a', page_path])$$), ($$split_part(event, ' ', length(event)) = ''$$),
    ($$event LIKE ANY ('{a%,b%}') AND user_id ~ '^v' AND properties @> '{"a": 1}' AND context #>> '{a,b}' > 'c' AND position > 5 AND received_at > '2020-01-01'$$)) p (predicate);

-- Code of anybody's own, by whichever way
CREATE SCHEMA hostile;
CREATE SEQUENCE hostile.ran;
CREATE FUNCTION hostile.evil(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM nextval('hostile.ran'); RETURN true; END$$;
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)::text$$;
CREATE FUNCTION hostile.cdi_channel(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)$$;
CREATE FUNCTION cdi.evil(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)$$;
CREATE FUNCTION public.cdi_evil(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)$$;
CREATE FUNCTION hostile.same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)$$;
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.same);
CREATE OPERATOR hostile.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.texteq);
CREATE DOMAIN hostile.checked AS text CHECK (hostile.evil(VALUE));
CREATE TYPE hostile.mood AS ENUM ('good', 'bad');
CREATE TYPE hostile.pair AS (a text, b text);
CREATE FUNCTION hostile.mood(text) RETURNS hostile.mood LANGUAGE sql IMMUTABLE AS $$SELECT CASE WHEN hostile.evil($1) THEN 'good'::hostile.mood END$$;
CREATE CAST (text AS hostile.mood) WITH FUNCTION hostile.mood(text) AS IMPLICIT;
CREATE COLLATION hostile.own FROM "C";
CREATE VIEW hostile.trap AS SELECT hostile.evil('x');
CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT hostile.evil($1)::text$$;
BEGIN;
SELECT hostile.evil('x') AS evil_runs, is_called FROM hostile.ran;
ROLLBACK;
ALTER SEQUENCE hostile.ran RESTART;
SET search_path = hostile, pg_temp, pg_catalog, public;
SELECT predicate, pg_temp.refused(predicate) FROM (VALUES
    ($$hostile.evil(event)$$), ($$evil(event)$$), ($$cdi.evil(event)$$), ($$cdi_evil(event)$$), ($$public.cdi_evil(event)$$), ($$hostile.cdi_channel(event)$$), ($$cdi_channel(event)$$),
    ($$event OPERATOR(hostile.=) 'a'$$), ($$event OPERATOR(hostile.===) 'a'$$), ($$event OPERATOR(hostile.=) ANY ('{a}')$$),
    ($$event::hostile.checked = 'a'$$), ($$event::hostile.mood = 'good'$$), ($$event::hostile.mood IS NULL$$), ($$'good'::hostile.mood IS NULL$$), ($$ROW(event, type)::hostile.pair IS NULL$$),
    ($$event::information_schema.sql_identifier = 'a'$$), ($$event COLLATE hostile.own < 'a'$$), ($$pg_temp.lower(event) = 'a'$$),
    ($$ARRAY[event]::hostile.checked[] IS NULL$$), ($$NULLIF(event OPERATOR(hostile.===) 'a', true)$$), ($$(event, type) = ('a', 'b') AND hostile.evil('x')$$),
    ($$CASE WHEN hostile.evil(event) THEN true END$$), ($$coalesce(hostile.evil(event), true)$$), ($$context[hostile.lower(event)] IS NULL$$)) p (predicate);
-- Functions that look or reach elsewhere, or differ from reader to reader
SELECT predicate, pg_temp.refused(predicate) FROM (VALUES
    ($$table_to_xml('hostile.trap', true, true, '') IS NULL$$), ($$query_to_xml('SELECT * FROM hostile.trap', true, true, '') IS NULL$$),
    ($$pg_read_file('/etc/passwd') = ''$$), ($$current_setting('data_directory') = ''$$), ($$set_config('search_path', 'hostile', false) = ''$$),
    ($$pg_sleep(1) IS NULL$$), ($$nextval('cdi.event_position') = 0$$), ($$has_table_privilege('cdi.events', 'SELECT')$$), ($$lo_get(1) IS NULL$$),
    ($$random() < 0.5$$), ($$now() > "timestamp"$$), ($$current_user = 'postgres'$$), ($$current_date > '2020-01-01'$$), ($$localtimestamp > '2020-01-01'$$),
    ($$to_char("timestamp", 'D') = '1'$$), ($$"timestamp"::date = '2026-02-01'$$), ($$date_trunc('day', "timestamp") = '2026-02-01'$$), ($$"timestamp" + interval '1 day' > '2026-02-01'$$),
    ($$concat(event, type) = 'a'$$), ($$event::regclass = 'pg_class'::regclass$$), ($$'hostile.evil(text)'::regprocedure IS NULL$$), ($$event::xml IS DOCUMENT$$), ($$to_regclass(event) IS NULL$$)) p (predicate);
-- What is no condition on one event
SELECT predicate, pg_temp.refused(predicate) FROM (VALUES
    (''), ('   '), ('-- nothing'), ('event'), ('1'), ('*'), ('events.*'), ('events IS NULL'), ('ctid IS NULL'), ($$tableoid = 'cdi.events'::regclass$$), ('xmin IS NULL'),
    ('true, false'), ('true AS name'), ('true FROM pg_class'), ('true WHERE false'), ('true LIMIT 1'), ('true ORDER BY 1'), ('DISTINCT true'), ('true UNION SELECT false'), ('true; DROP TABLE cdi.events'),
    ('EXISTS (SELECT FROM hostile.trap)'), ($$event IN (SELECT 'a')$$), ('(SELECT true)'), ('ARRAY(SELECT 1) IS NULL'), ('count(*) > 1'), ('row_number() OVER () = 1'), ('generate_series(1, 2) = 1'), ('event = $1'), ('event = DEFAULT'),
    ('GROUPING(event) = 1'), ('no_such_column = 1'), ('other.event = 1'), ('no_such_function(event)'), ('event = 5'), ('event ~ ''(a'''), ($$event LIKE 'a\'$$), ($$event LIKE ANY ('{a\\}')$$), ($$"timestamp" > 'yesterweek'$$), ('1/0 = 1')) p (predicate);
SELECT left(pg_temp.refused(repeat('(', 100000) || 'true' || repeat(')', 100000)), 5) AS too_deep, left(pg_temp.refused(repeat('NOT ', 100000) || 'true'), 5) AS also;
SELECT is_called AS evil_ran FROM hostile.ran;
-- The search_path decides nothing.
SELECT cdi_create_virtual_event('Path', $$lower(event) = 'virtual 3'$$);
SELECT count(*) > 0 AS found FROM cdi.virtual_event_occurrences WHERE virtual_event OPERATOR(pg_catalog.=) 'Path';
SELECT count(*) > 0 AS found FROM cdi_virtual_event_rows('Path');
SELECT is_called AS evil_ran FROM hostile.ran;
SELECT cdi_drop_virtual_event('Path');
RESET search_path;
-- A row that was changed by hand is checked like any other.
BEGIN;
UPDATE cdi.virtual_events SET expression = 'hostile.evil(event)' WHERE name = 'Rare';
SAVEPOINT changed;
SELECT * FROM cdi_virtual_event_rows('Rare');
ROLLBACK TO changed;
SELECT cdi_event_predicate('Rare');
ROLLBACK TO changed;
SELECT cdi._create_virtual_event_view();
SELECT count(*) FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Rare';
ROLLBACK;
SELECT is_called AS evil_ran FROM hostile.ran;

-- Errors say where and what to do.
SELECT cdi_create_virtual_event('Wrong', $$type = 'page' AND page_pth = '/'$$);
SELECT cdi_create_virtual_event('Wrong', $$type = 'page' AND (event = 'a'$$);
SELECT cdi_create_virtual_event('Wrong', $$type = 'page' AND$$);
SELECT cdi_create_virtual_event('Wrong', $$type = 'page' AND date_trunc('day', "timestamp") = '2026-01-01'$$);
SELECT cdi_create_virtual_event('Rare', 'true');
SELECT cdi_create_virtual_event(NULL, 'true');
SELECT cdi_create_virtual_event('', 'true');
SELECT cdi_create_virtual_event('Wrong', NULL);
SELECT cdi_alter_virtual_event('Wrong', 'true');
SELECT cdi_drop_virtual_event('Wrong');
SELECT cdi_drop_virtual_event(NULL);
SELECT * FROM cdi_virtual_event_rows('Wrong');
SELECT * FROM cdi_virtual_event_rows('Tested', 11);
SELECT cdi_event_predicate('Tested', 'e', 0);
SELECT cdi_event_predicate(NULL);
SELECT cdi_create_conversion('rare', 'Rare');
SELECT cdi_drop_virtual_event('Rare');
SELECT cdi_drop_conversion('rare');
SELECT cdi_drop_virtual_event('Rare');
SELECT count(*) AS indexes_left FROM pg_index WHERE indrelid = 'cdi.events'::regclass AND indpred IS NOT NULL;

-- Who may do what: nobody, a reader, an administrator.
CREATE ROLE cdi_test_virtual_nobody;
CREATE ROLE cdi_test_virtual_reader;
CREATE ROLE cdi_test_virtual_admin;
SELECT cdi_grant_reader('cdi_test_virtual_reader'), cdi_grant_admin('cdi_test_virtual_admin');
SET ROLE cdi_test_virtual_nobody;
SELECT cdi_create_virtual_event('Mine', 'true');
SELECT cdi_event_predicate('Tested');
SET ROLE cdi_test_virtual_admin;
SELECT cdi_create_virtual_event('Mine', $$event = 'Virtual 1'$$, indexed => true);
UPDATE cdi.virtual_events SET expression = 'true';
SET ROLE cdi_test_virtual_reader;
SELECT name, created_by FROM cdi.virtual_events WHERE name = 'Mine';
SELECT count(*) FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Mine';
SELECT count(*) FROM cdi_virtual_event_rows('Mine', 1);
SELECT cdi_event_predicate('Mine');
SELECT cdi_create_virtual_event('Reader', 'true');
SELECT cdi_drop_virtual_event('Mine');
RESET ROLE;
-- Rows that a policy hides from a reader are hidden here, too.
BEGIN;
ALTER TABLE cdi.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON cdi.events TO cdi_test_virtual_reader USING (user_id = 'virtual-u1');
SET LOCAL ROLE cdi_test_virtual_reader;
SELECT count(*) = count(*) FILTER (WHERE user_id = 'virtual-u1') AND count(*) > 0 AS own FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Mine';
SELECT count(*) = count(*) FILTER (WHERE user_id = 'virtual-u1') AND count(*) > 0 AS own FROM cdi_virtual_event_rows('Mine');
ROLLBACK;

SELECT cdi_drop_virtual_event('Mine'), cdi_drop_virtual_event('Tested');
SELECT count(*) FROM cdi.virtual_event_occurrences;
DROP SCHEMA hostile CASCADE;
DROP FUNCTION public.cdi_evil(text), cdi.evil(text);
DROP OWNED BY cdi_test_virtual_reader, cdi_test_virtual_admin;
DROP ROLE cdi_test_virtual_nobody, cdi_test_virtual_reader, cdi_test_virtual_admin;
