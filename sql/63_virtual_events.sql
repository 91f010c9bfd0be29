-- Virtual events: named predicates over all of history (src/behaviour/virtual_*.c).

CREATE OR REPLACE FUNCTION cdi._canonical_predicate(predicate text, alias text, indexed boolean)
RETURNS text
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'cdi_canonical_predicate';
COMMENT ON FUNCTION cdi._canonical_predicate(text, text, boolean) IS 'Internal: check a predicate over the columns of cdi.events and print it with an alias.';

CREATE OR REPLACE FUNCTION cdi._unknown_virtual_event(name text, version integer)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    names text := (SELECT string_agg(DISTINCT v.name, ', ') FROM cdi.virtual_events v);
    versions integer := (SELECT max(v.version) FROM cdi.virtual_events v WHERE v.name = $1);
BEGIN
    IF versions IS NOT NULL THEN
        RAISE EXCEPTION 'virtual event "%" has no version %', $1, $2
            USING ERRCODE = 'ZC360', HINT = format('Versions are 1 to %s.', versions);
    END IF;
    RAISE EXCEPTION 'virtual event "%" does not exist', $1
        USING ERRCODE = 'ZC360',
              HINT = coalesce('Virtual events are ' || names || '.', 'There are none. Declare one with cdi_create_virtual_event().');
END
$$;
COMMENT ON FUNCTION cdi._unknown_virtual_event(text, integer) IS 'Internal: raises ZC360.';

-- The views over the current versions, and their indexes.  A declaration that
-- this server does not understand any more must not keep cdi_init() from its
-- work, nor others from being declared; the one that changed now must succeed.
-- Conversions have a view of their own, so that a reader's times reach the
-- events and a virtual event that no conversion is declared for is not looked at.
CREATE OR REPLACE FUNCTION cdi._create_virtual_event_view(changed text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    columns text := 'e.event_id, e."timestamp", e.position, e.received_at, e.source_id, e.type, e.event, e.subject, e.user_id, e.anonymous_id, e.group_id, '
        'e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content, e.click_id_type, e.referrer_host, e.page_host, '
        'e.properties, e.traits, e.context';
    conversion_columns text := 'e.event_id, c.name AS conversion, e.subject, e."timestamp", e.properties, c.value_property, c.currency, c.currency_property, '
        'c.reporting_currency, c.unique_property, c.unique_scope, c.unique_within, e.position, e.source_id';
    branches text[] := '{}';
    conversion_branches text[] := '{}';
    source text;
    declared record;
    condition text;
    index_name text;
BEGIN
    FOR declared IN
        SELECT DISTINCT ON (v.name) v.* FROM cdi.virtual_events v ORDER BY v.name, v.version DESC
    LOOP
        source := format('@extschema@.cdi_virtual_event_rows(%L) e WHERE true', declared.name);   -- says what is wrong
        BEGIN
            condition := cdi._canonical_predicate(declared.expression, 'e', declared.indexed);
            index_name := format('virtual_event_%s', declared.version_id);
            IF declared.indexed AND to_regclass('cdi.' || index_name) IS NULL THEN
                EXECUTE format('CREATE INDEX %I ON cdi.events ("timestamp") WHERE %s', index_name,
                               cdi._canonical_predicate(declared.expression, 'events', true));
            END IF;
            branches := branches || format(
                'SELECT %L::text AS virtual_event, %s::integer AS version, coalesce(m.person_id, e.subject) AS person_id, %s'
                ' FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject WHERE %s',
                declared.name, declared.version, columns, condition);
            source := format('cdi.events e WHERE (%s)', condition);
        EXCEPTION
            WHEN query_canceled OR lock_not_available OR deadlock_detected THEN
                RAISE;
            WHEN OTHERS THEN
                IF declared.name = changed THEN
                    RAISE;
                END IF;
                RAISE WARNING 'virtual event "%" is left out: %', declared.name, SQLERRM
                    USING HINT = 'Declare it anew with cdi_alter_virtual_event().';
        END;
        conversion_branches := conversion_branches || format(
            'SELECT %s FROM cdi.conversions c CROSS JOIN %s AND c.event = %L AND c.value_expression IS NULL',
            conversion_columns, source, declared.name);
    END LOOP;
    IF branches = '{}' THEN
        branches := ARRAY[format('SELECT NULL::text AS virtual_event, NULL::integer AS version, NULL::uuid AS person_id, %s FROM cdi.events e WHERE false', columns)];
    END IF;
    IF conversion_branches = '{}' THEN
        conversion_branches := ARRAY[format('SELECT %s FROM cdi.conversions c CROSS JOIN cdi.events e WHERE false', conversion_columns)];
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW cdi.virtual_event_conversions WITH (security_invoker = true) AS ' || array_to_string(conversion_branches, ' UNION ALL ');
    COMMENT ON VIEW cdi.virtual_event_conversions IS 'Occurrences of virtual events, by their current versions, once for each conversion without a value expression that is declared on them: what cdi.conversion_candidates reads of them.';
    EXECUTE 'CREATE OR REPLACE VIEW cdi.virtual_event_occurrences WITH (security_invoker = true) AS ' || array_to_string(branches, ' UNION ALL ');
    COMMENT ON VIEW cdi.virtual_event_occurrences IS 'Events that are occurrences of a virtual event, by its current version. Ask for one with WHERE virtual_event = ''NAME'': the others are then not evaluated.';
    COMMENT ON COLUMN cdi.virtual_event_occurrences.virtual_event IS 'Name of the virtual event. An event may be an occurrence of several.';
    COMMENT ON COLUMN cdi.virtual_event_occurrences.event IS 'Name that the event was tracked by.';
END
$$;
COMMENT ON FUNCTION cdi._create_virtual_event_view(text) IS 'Internal: make cdi.virtual_event_occurrences and cdi.virtual_event_conversions, and indexes that are missing.';

-- After the view, which readers lock before the events.
CREATE OR REPLACE FUNCTION cdi._drop_virtual_event_index(version_id integer)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
SET client_min_messages = warning   -- of an index that went with an older version
AS $$
BEGIN
    EXECUTE format('DROP INDEX IF EXISTS cdi.virtual_event_%s', version_id);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'the index of a virtual event cannot be removed while events are read or written'
        USING ERRCODE = 'lock_not_available', DETAIL = 'All others would have to wait as well, so it was given up after 2 seconds.',
              HINT = 'Try again when long queries have ended.';
END
$$;
COMMENT ON FUNCTION cdi._drop_virtual_event_index(integer) IS 'Internal: remove the index of a version, if it has one.';

CREATE OR REPLACE FUNCTION cdi._create_virtual_event(
    name text, predicate text, expression text, description text, indexed boolean, role name)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'name of a virtual event must have 1 to 200 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF predicate IS NULL THEN
        RAISE EXCEPTION 'a virtual event needs a predicate'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'SELECT cdi_create_virtual_event(''Pricing Viewed'', ''page_path = ''''/pricing'''''');';
    END IF;
    IF EXISTS (SELECT FROM cdi.virtual_events v WHERE v.name = $1) THEN
        RAISE EXCEPTION 'virtual event "%" exists already', name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'cdi_alter_virtual_event() makes a new version of it.';
    END IF;
    INSERT INTO cdi.virtual_events (name, version, predicate, expression, description, indexed, created_by)
    VALUES ($1, 1, $2, $3, $4, coalesce($5, false), $6);
    PERFORM cdi._create_virtual_event_view(name);
    RETURN 1;
END
$$;
COMMENT ON FUNCTION cdi._create_virtual_event(text, text, text, text, boolean, name) IS 'Internal: what cdi_create_virtual_event() writes.';

CREATE OR REPLACE FUNCTION cdi._alter_virtual_event(
    name text, predicate text, expression text, description text, indexed boolean, role name)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old cdi.virtual_events;
BEGIN
    SELECT * INTO old FROM cdi.virtual_events v WHERE v.name = $1 ORDER BY v.version DESC LIMIT 1;
    IF old.name IS NULL THEN
        PERFORM cdi._unknown_virtual_event(name, NULL);
    END IF;
    IF coalesce(indexed, old.indexed) THEN
        -- raises where it could fail on an event
        PERFORM cdi._canonical_predicate(coalesce(expression, old.expression), 'e', true);
    END IF;
    IF expression IS DISTINCT FROM old.expression AND expression IS NOT NULL THEN
        INSERT INTO cdi.virtual_events (name, version, predicate, expression, description, indexed, created_by)
        VALUES ($1, old.version + 1, $2, $3, coalesce($4, old.description), coalesce($5, old.indexed), $6);
    ELSE
        UPDATE cdi.virtual_events v
        SET description = coalesce($4, v.description), indexed = coalesce($5, v.indexed)
        WHERE v.version_id = old.version_id;
    END IF;
    PERFORM cdi._create_virtual_event_view(name);
    -- null, where something is left as it is, is not true
    IF old.indexed AND (expression <> old.expression OR NOT indexed) THEN
        PERFORM cdi._drop_virtual_event_index(old.version_id);
    END IF;
    RETURN (SELECT max(v.version) FROM cdi.virtual_events v WHERE v.name = $1);
END
$$;
COMMENT ON FUNCTION cdi._alter_virtual_event(text, text, text, text, boolean, name) IS 'Internal: what cdi_alter_virtual_event() writes.';

CREATE OR REPLACE FUNCTION cdi._drop_virtual_event(name text)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    users text := (SELECT string_agg(c.name, ', ' ORDER BY c.name) FROM cdi.conversions c WHERE c.event = $1);
    indexes integer[] := ARRAY(SELECT v.version_id FROM cdi.virtual_events v WHERE v.name = $1 AND v.indexed);
BEGIN
    IF NOT EXISTS (SELECT FROM cdi.virtual_events v WHERE v.name = $1) THEN
        PERFORM cdi._unknown_virtual_event(name, NULL);
    END IF;
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'cannot drop virtual event "%" because conversions use it', name
            USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('Conversions: %s.', users),
                  HINT = 'Drop them first with cdi_drop_conversion().';
    END IF;
    DELETE FROM cdi.virtual_events v WHERE v.name = $1;
    PERFORM cdi._create_virtual_event_view();
    PERFORM cdi._drop_virtual_event_index(i.version_id) FROM unnest(indexes) i (version_id);
    RETURN 0;
END
$$;
COMMENT ON FUNCTION cdi._drop_virtual_event(text) IS 'Internal: what cdi_drop_virtual_event() writes.';

CREATE OR REPLACE FUNCTION cdi_create_virtual_event(
    name text, predicate text, description text DEFAULT NULL, indexed boolean DEFAULT false)
RETURNS void
LANGUAGE C
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_create_virtual_event(text, text, text, boolean) IS
'Declares a virtual event: a name for the events, of all times, for which a predicate over the columns of cdi.events holds. Beside these columns there are page_path, page_search, page_title and page_url. The predicate is what would stand after WHERE, without subqueries and aggregates, of built-in types and immutable functions that are built in or cdi''s own, because every reader evaluates it as itself; literal times without a zone are UTC.
indexed makes a partial index on every partition, present and future, so that rare occurrences are found without a scan: it reads all events once, while writers wait, and costs every event that is stored one evaluation; such a predicate must not be able to fail. Raises ZC361 (predicate), 42601, 42703 (with the columns), 42883 and their like with the position in the predicate, 42710 where the name is taken.';

CREATE OR REPLACE FUNCTION cdi_alter_virtual_event(
    name text, predicate text DEFAULT NULL, description text DEFAULT NULL, indexed boolean DEFAULT NULL)
RETURNS integer
LANGUAGE C
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_alter_virtual_event(text, text, text, boolean) IS
'Changes a virtual event and returns the number of its current version. Another predicate makes a new version, which is the current one from then on; description and indexed change the current version; null leaves as it is. Raises ZC360, and as cdi_create_virtual_event().';

CREATE OR REPLACE FUNCTION cdi_drop_virtual_event(name text)
RETURNS void
LANGUAGE C
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_drop_virtual_event(text) IS
'Removes a virtual event with all of its versions; events are not touched. Raises ZC360, and 2BP01 while conversions use it.';

CREATE OR REPLACE FUNCTION cdi_event_predicate(name text, alias text DEFAULT 'e', version integer DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_expression text;
BEGIN
    IF $1 IS NULL OR $2 IS NULL THEN
        RAISE EXCEPTION 'the name of an event and the alias cannot be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT v.expression INTO found_expression
    FROM cdi.virtual_events v
    WHERE v.name = $1 AND ($3 IS NULL OR v.version = $3)
    ORDER BY v.version DESC LIMIT 1;
    IF found_expression IS NOT NULL THEN
        RETURN '(' || cdi._canonical_predicate(found_expression, $2, false) || ')';
    ELSIF $3 IS NOT NULL THEN
        PERFORM cdi._unknown_virtual_event($1, $3);
    END IF;
    RETURN format('(%1$I.type = ''track''::text AND %1$I.event = %2$L::text)', $2, $1);
END
$$;
COMMENT ON FUNCTION cdi_event_predicate(text, text, integer) IS
'The condition under which a row of cdi.events (or of a view with its columns), named by the alias, is an event of that name: the predicate of the virtual event, by its current or the given version, else type track and the name. For queries that are put together as text; it runs no code but built-in functions and cdi''s own. Raises ZC360 for a version that does not exist.';

CREATE OR REPLACE FUNCTION cdi._virtual_event_rows(name text, version integer, from_time timestamptz, to_time timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version_read integer := (SELECT max(v.version) FROM cdi.virtual_events v WHERE v.name = $1 AND ($2 IS NULL OR v.version = $2));
BEGIN
    IF version_read IS NULL THEN
        PERFORM cdi._unknown_virtual_event($1, $2);
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT $1, coalesce(m.person_id, e.subject), e.event_id, e."timestamp", e.position, e.received_at, e.source_id,'
        ' e.type, e.event, e.subject, e.user_id, e.anonymous_id, e.group_id,'
        ' e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content,'
        ' e.click_id_type, e.referrer_host, e.page_host, e.properties, e.traits, e.context'
        ' FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject'
        ' WHERE %s%s%s',
        @extschema@.cdi_event_predicate($1, 'e', version_read),
        CASE WHEN from_time IS NOT NULL THEN ' AND e."timestamp" >= $2' END,
        CASE WHEN to_time IS NOT NULL THEN ' AND e."timestamp" < $3' END)
    USING $1, from_time, to_time;
END
$$;
COMMENT ON FUNCTION cdi._virtual_event_rows(text, integer, timestamptz, timestamptz) IS 'Internal: rows of cdi_virtual_event_rows().';

CREATE OR REPLACE FUNCTION cdi_virtual_event_rows(
    name text, version integer DEFAULT NULL, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (
    virtual_event text, person_id uuid,
    event_id uuid, "timestamp" timestamptz, "position" bigint, received_at timestamptz, source_id integer,
    type text, event text, subject uuid, user_id text, anonymous_id text, group_id text,
    campaign_source text, campaign_medium text, campaign_name text, campaign_term text, campaign_content text,
    click_id_type text, referrer_host text, page_host text, properties jsonb, traits jsonb, context jsonb)
LANGUAGE sql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
SELECT * FROM cdi._virtual_event_rows($1, $2, $3, $4) AS r (
    virtual_event text, person_id uuid,
    event_id uuid, "timestamp" timestamptz, "position" bigint, received_at timestamptz, source_id integer,
    type text, event text, subject uuid, user_id text, anonymous_id text, group_id text,
    campaign_source text, campaign_medium text, campaign_name text, campaign_term text, campaign_content text,
    click_id_type text, referrer_host text, page_host text, properties jsonb, traits jsonb, context jsonb)
$$;
COMMENT ON FUNCTION cdi_virtual_event_rows(text, integer, timestamptz, timestamptz) IS
'Occurrences of a virtual event by any of its versions, null being the current one, from from_time to before to_time: the columns of cdi.virtual_event_occurrences but the version. With the caller''s privileges. Reads cdi.events, through the index where the version has one. Raises ZC360.';
