-- Kinds of identifier (src/identity/types.c).

CREATE OR REPLACE FUNCTION cdi._identifier_type_check()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_identifier_type_check';
COMMENT ON FUNCTION cdi._identifier_type_check() IS 'Internal: refuses identifier types with paths, patterns or normalisers that could not be used.';

CREATE OR REPLACE TRIGGER checked BEFORE INSERT OR UPDATE ON cdi.identifier_types
    FOR EACH ROW EXECUTE FUNCTION cdi._identifier_type_check();

-- However a row is to go: a rebuild goes by the type, by its limits and by what
-- it identifies, and its number may be another type's once it is gone.
CREATE OR REPLACE FUNCTION cdi._identifier_type_in_use()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    used boolean := false;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'identifier types cannot be truncated'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'cdi_drop_identifier_type() removes one that no event has linked.';
    END IF;
    IF EXISTS (SELECT FROM cdi._builtin_identifier_types() b WHERE b.name = OLD.name) THEN
        RAISE EXCEPTION 'identifier type "%" comes with cdi', OLD.name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT cdi_set_identifier_type(%L, ''{"paths": []}'') takes it out of use.', OLD.name);
    END IF;
    IF to_regclass('cdi.identity_map') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM cdi.identity_map m WHERE m.type_id = $1)
                     OR EXISTS (SELECT FROM cdi.identity_links l WHERE $2 = ANY (l.types)
                                AND l.position > (SELECT coalesce(max(r.watermark), 0) FROM cdi.identity_runs r))'
        INTO used USING OLD.type_id, OLD.name;
    END IF;
    IF used THEN
        RAISE EXCEPTION 'identifier type "%" is in use', OLD.name
            USING ERRCODE = 'object_in_use',
                  HINT = format('SELECT cdi_set_identifier_type(%L, ''{"paths": []}'') takes it out of use.', OLD.name);
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION cdi._identifier_type_in_use() IS 'Internal: refuses to drop identifier types that come with cdi or are in use.';

CREATE OR REPLACE TRIGGER unused BEFORE DELETE ON cdi.identifier_types
    FOR EACH ROW EXECUTE FUNCTION cdi._identifier_type_in_use();
CREATE OR REPLACE TRIGGER unused_all BEFORE TRUNCATE ON cdi.identifier_types
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._identifier_type_in_use();

-- A number that no type has had yet, and when all 255 were taken, the smallest
-- that no type has now: one of a type that was dropped, so that nothing refers
-- to it.
CREATE OR REPLACE FUNCTION cdi._free_type_id()
RETURNS smallint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken CONSTANT regclass := pg_get_serial_sequence('cdi.identifier_types', 'type_id');
    free smallint;
BEGIN
    IF coalesce(pg_sequence_last_value(taken), 0) < 255 THEN
        RETURN nextval(taken);
    END IF;
    SELECT min(n) INTO free FROM generate_series(1, 255) n
    WHERE NOT EXISTS (SELECT FROM cdi.identifier_types t WHERE t.type_id = n);
    IF free IS NULL THEN
        RAISE EXCEPTION 'there are 255 identifier types, and there cannot be more'
            USING ERRCODE = 'program_limit_exceeded', HINT = 'cdi_drop_identifier_type() removes one that no event has linked.';
    END IF;
    RETURN free;
END
$$;
COMMENT ON FUNCTION cdi._free_type_id() IS 'Internal: a number for a new identifier type.';

-- Those that come with cdi.  Where Segment has the type, it is found where
-- Segment finds it.  In other protocols a group's id is one among groups of its
-- kind only, and the kind is told beside it.
CREATE OR REPLACE FUNCTION cdi._builtin_identifier_types()
RETURNS TABLE (name text, priority integer, graph text, paths text[], normaliser text, blocked text[], max_per_person integer, limit_window interval)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT v.name, v.priority, v.graph, v.paths::text[], v.normaliser,
       '{-1,"null",(null),nil,none,nan,undefined,unknown,anonymous,guest,$posthog_cookieless,true,false,"[object object]"}'::text[], v.max, v.span::interval
FROM (VALUES
    ('user_id', 1, 'person', '{userId}', 'trim', 1, NULL),
    ('email', 2, 'person', '{traits.email,context.traits.email}', 'email', 5, '1 year'),
    ('phone', 3, 'person', '{traits.phone,context.traits.phone}', 'phone', 5, '1 year'),
    ('android.id', 4, 'person', '{context.device.id?context.device.type=android}', 'trim', 5, '1 year'),
    ('ios.id', 4, 'person', '{context.device.id?context.device.type=ios}', 'trim', 5, '1 year'),
    ('android.idfa', 5, 'person', '{context.device.advertisingId?context.device.type=android&context.device.adTrackingEnabled=true}', 'lower', 5, '1 year'),
    ('ios.idfa', 5, 'person', '{context.device.advertisingId?context.device.type=ios&context.device.adTrackingEnabled=true}', 'lower', 5, '1 year'),
    ('android.push_token', 6, 'person', '{context.device.token?context.device.type=android}', 'trim', 5, '30 days'),
    ('ios.push_token', 6, 'person', '{context.device.token?context.device.type=ios}', 'trim', 5, '30 days'),
    ('cross_domain_id', 7, 'person', '{context.traits.crossDomainId,traits.crossDomainId}', 'trim', 5, '7 days'),
    ('ga_client_id', 8, 'person', '{context.integrations.Google Analytics.clientId,integrations.Google Analytics.clientId}', 'trim', 5, '7 days'),
    ('anonymous_id', 10, 'person', '{anonymousId}', 'trim', 5, '7 days'),
    ('group_id', 1, 'account', '{context.groupType+groupId,properties.$group_type+groupId,context.mixpanel.$group_key+groupId,context.amplitude.group_type+groupId,groupId}', 'trim', 1, NULL),
    ('household_id', 1, 'household', '{traits.householdId,traits.household_id,context.traits.householdId,context.traits.household_id}', 'trim', 1, NULL)
) AS v (name, priority, graph, paths, normaliser, max, span)
$$;
COMMENT ON FUNCTION cdi._builtin_identifier_types() IS 'Internal: identifier types that come with cdi, as they come.';

CREATE OR REPLACE FUNCTION cdi._add_identifier_types()
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO cdi.identifier_types (type_id, name, priority, graph, paths, normaliser, blocked, max_per_person, limit_window, builtin)
SELECT cdi._free_type_id(), b.name, b.priority, b.graph, b.paths, b.normaliser, b.blocked, b.max_per_person, b.limit_window, true
FROM cdi._builtin_identifier_types() b
WHERE NOT EXISTS (SELECT FROM cdi.identifier_types t WHERE t.name = b.name)
ON CONFLICT (name) DO NOTHING
$$;
COMMENT ON FUNCTION cdi._add_identifier_types() IS 'Internal: adds the identifier types that come with cdi, where they are missing.';

-- A function that normalises, as the trigger does not ask it: a restore may
-- bring it later.
CREATE OR REPLACE FUNCTION cdi._require_normaliser(normaliser text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f regprocedure;
BEGIN
    IF normaliser IS NULL OR normaliser NOT LIKE 'function:%' THEN
        RETURN;
    END IF;
    f := to_regprocedure(substr(normaliser, 10) || '(text)');
    IF f IS NULL THEN
        RAISE EXCEPTION 'function %(text) does not exist', substr(normaliser, 10)
            USING ERRCODE = 'undefined_function', HINT = 'Write function:SCHEMA.NAME, of a function from text to text.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = f AND p.prokind = 'f' AND NOT p.proretset
                   AND p.prorettype = 'text'::regtype AND p.provolatile <> 'v') THEN
        RAISE EXCEPTION 'function % cannot normalise identifiers', f
            USING ERRCODE = 'invalid_function_definition', DETAIL = 'It must be IMMUTABLE or STABLE and return one text.';
    END IF;
    IF NOT has_function_privilege(f, 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for function %', f USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi._require_normaliser(text) IS 'Internal: raises where a normaliser is a function that the caller cannot use.';

-- One member of settings per column, as in cdi_alter_source().
CREATE OR REPLACE FUNCTION cdi_set_identifier_type(name text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules CONSTANT jsonb := '{
        "priority": ["integer", "a number, 1 for the highest"],
        "graph": ["graph", "person, account or household"],
        "paths": ["texts", "an array of paths such as userId or traits.email"],
        "normaliser": ["string", "trim, lower, email, phone, phone:NN or function:SCHEMA.NAME"],
        "blocked": ["texts", "an array of values"],
        "blocked_patterns": ["texts", "an array of regular expressions"],
        "max_per_person": ["any", "a number from 1 to 1000, or \"any\""],
        "limit_window": ["ever", "an interval such as \"7 days\", or \"ever\""]
    }';
    defaults jsonb := '{"priority": 9, "graph": "person", "paths": [], "normaliser": "trim", "blocked_patterns": [], "max_per_person": 5, "limit_window": "1 year"}';
    wanted jsonb;
    old cdi.identifier_types;
    member text;
    value jsonb;
    kind text;
    valid boolean;
    row record;
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 63 THEN
        RAISE EXCEPTION 'name of an identifier type must have 1 to 63 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF settings IS NULL OR jsonb_typeof(settings) <> 'object' THEN
        RAISE EXCEPTION 'settings of an identifier type must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Its members may be ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(rules) k) || '.';
    END IF;
    SELECT defaults || jsonb_build_object('blocked', b.blocked) INTO defaults
    FROM cdi._builtin_identifier_types() b LIMIT 1;
    SELECT defaults || jsonb_build_object('priority', b.priority, 'graph', b.graph, 'paths', b.paths, 'normaliser', b.normaliser,
               'max_per_person', coalesce(to_jsonb(b.max_per_person), '"any"'), 'limit_window', coalesce(to_jsonb(b.limit_window), '"ever"'))
    INTO wanted
    FROM cdi._builtin_identifier_types() b WHERE b.name = cdi_set_identifier_type.name;
    defaults := coalesce(wanted, defaults);
    SELECT t.* INTO old FROM cdi.identifier_types t WHERE t.name = cdi_set_identifier_type.name;
    wanted := CASE WHEN old.name IS NULL THEN defaults ELSE '{}' END;
    FOR member, value IN SELECT e.key, e.value FROM jsonb_each(settings) e LOOP
        IF NOT rules ? member THEN
            RAISE EXCEPTION 'an identifier type has no setting "%"', member
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'There are ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(rules) k) || '.';
        END IF;
        wanted := wanted || jsonb_build_object(member, CASE value WHEN 'null' THEN defaults -> member ELSE value END);
    END LOOP;

    FOR member, value IN SELECT e.key, e.value FROM jsonb_each(wanted) e LOOP
        kind := rules -> member ->> 0;
        BEGIN
            valid := CASE
                WHEN kind = 'integer' OR kind = 'any' AND value <> '"any"' THEN
                    jsonb_typeof(value) = 'number' AND scale(trim_scale(value::numeric)) = 0 AND
                    value::numeric BETWEEN 1 AND CASE kind WHEN 'any' THEN 1000 ELSE 1000000 END
                WHEN kind = 'texts' THEN
                    jsonb_typeof(value) = 'array' AND NOT EXISTS (SELECT FROM jsonb_array_elements(value) e WHERE jsonb_typeof(e) <> 'string')
                WHEN kind = 'graph' THEN value IN ('"person"', '"account"', '"household"')
                WHEN kind = 'ever' AND value <> '"ever"' THEN
                    jsonb_typeof(value) = 'string' AND (value #>> '{}')::interval > interval '0'
                ELSE jsonb_typeof(value) = 'string'
            END;
        EXCEPTION
            WHEN data_exception THEN
                valid := false;
        END;
        IF NOT valid THEN
            RAISE EXCEPTION 'setting "%" of an identifier type must be %', member, rules -> member ->> 1
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    PERFORM cdi._require_normaliser(wanted ->> 'normaliser');

    SELECT CASE WHEN wanted ? 'priority' THEN (wanted ->> 'priority')::numeric::integer ELSE old.priority END AS priority,
           coalesce(wanted ->> 'graph', old.graph) AS graph,
           CASE WHEN wanted ? 'paths' THEN ARRAY (SELECT jsonb_array_elements_text(wanted -> 'paths')) ELSE old.paths END AS paths,
           coalesce(wanted ->> 'normaliser', old.normaliser) AS normaliser,
           CASE WHEN NOT wanted ? 'normaliser' THEN old.normaliser_role END AS normaliser_role /* null: the caller, says the trigger */,
           CASE WHEN wanted ? 'blocked' THEN ARRAY (SELECT jsonb_array_elements_text(wanted -> 'blocked')) ELSE old.blocked END AS blocked,
           CASE WHEN wanted ? 'blocked_patterns' THEN ARRAY (SELECT jsonb_array_elements_text(wanted -> 'blocked_patterns')) ELSE old.blocked_patterns END AS blocked_patterns,
           CASE WHEN wanted ? 'max_per_person' THEN nullif(wanted ->> 'max_per_person', 'any')::numeric::integer ELSE old.max_per_person END AS max_per_person,
           CASE WHEN wanted ? 'limit_window' THEN nullif(wanted ->> 'limit_window', 'ever')::interval ELSE old.limit_window END AS limit_window
    INTO row;
    IF old.name IS NULL THEN
        INSERT INTO cdi.identifier_types (type_id, name, priority, graph, paths, normaliser, blocked, blocked_patterns, max_per_person, limit_window)
        VALUES (cdi._free_type_id(), cdi_set_identifier_type.name, row.priority, row.graph, row.paths, row.normaliser, row.blocked, row.blocked_patterns,
                row.max_per_person, row.limit_window);
    ELSE
        UPDATE cdi.identifier_types t
        SET priority = row.priority, graph = row.graph, paths = row.paths, normaliser = row.normaliser,
            normaliser_role = row.normaliser_role, blocked = row.blocked, blocked_patterns = row.blocked_patterns,
            max_per_person = row.max_per_person, limit_window = row.limit_window
        WHERE t.name = old.name;
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_set_identifier_type(text, jsonb) IS
'Adds a kind of identifier, or changes the named settings of one: priority (1 is the highest), graph (person, account or household; of a new one), paths (where a call has it), normaliser (trim, lower, email, phone, phone:NN or function:SCHEMA.NAME, which runs as the caller), blocked (values that never identify anyone), blocked_patterns (regular expressions of such values), max_per_person (or any), limit_window (or ever). A null takes one back to its default. Counts for events from the commit on.';

CREATE OR REPLACE FUNCTION cdi_drop_identifier_type(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.identifier_types t WHERE t.name = cdi_drop_identifier_type.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'identifier type "%" does not exist', name
            USING ERRCODE = 'undefined_object', HINT = 'cdi.identifier_types lists the types that there are.';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_drop_identifier_type(text) IS
'Removes a kind of identifier that no event has linked yet. Raises 55000 for one that comes with cdi and 55006 for one that is in use: take away its paths instead. Reads the whole identity map.';
