-- Sources, their write keys and who may send to them (src/ingest/source.c).

-- Backends keep these tables in memory; whoever changes them, every backend
-- reads them anew after the commit, and after a rollback.
CREATE OR REPLACE FUNCTION cdi._configuration_changed()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_sources_changed';
COMMENT ON FUNCTION cdi._configuration_changed() IS 'Internal: trigger of the tables that backends keep in memory.';

CREATE OR REPLACE FUNCTION cdi._source_deleted()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.source_grants g USING deleted d WHERE g.source_id = d.source_id;
    DELETE FROM cdi.source_keys k USING deleted d WHERE k.source_id = d.source_id;
    DELETE FROM cdi.webhooks w USING deleted d WHERE w.source_id = d.source_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cdi._source_deleted() IS 'Internal: with a source go its grants, keys and webhook.';

CREATE OR REPLACE TRIGGER deleted AFTER DELETE ON cdi.sources REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._source_deleted();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.sources
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._configuration_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.source_keys
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._configuration_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.source_grants
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._configuration_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.identifier_types
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._configuration_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.identity_key
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._configuration_changed();

CREATE OR REPLACE FUNCTION cdi._new_write_key()
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$SELECT 'cdi_' || encode(cdi._random_bytes(20), 'hex')$$;
COMMENT ON FUNCTION cdi._new_write_key() IS 'Internal: a fresh write key of 160 random bits.';

CREATE OR REPLACE FUNCTION cdi_create_source(name text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    write_key text := cdi._new_write_key();
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 127 THEN
        RAISE EXCEPTION 'name of a source must have 1 to 127 bytes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO cdi.sources (name, write_key_hash)
    VALUES (cdi_create_source.name, sha256(convert_to(write_key, 'UTF8')));
    RETURN write_key;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'source "%" exists already', name
            USING ERRCODE = 'duplicate_object',
                  HINT = format('SELECT cdi_rotate_source(%L) gives it a new write key.', name);
END
$$;
COMMENT ON FUNCTION cdi_create_source(text) IS 'Creates a source of events and returns its write key, which is shown only here; stored is its SHA-256.';

CREATE OR REPLACE FUNCTION cdi._require_source(name text)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer;
BEGIN
    SELECT s.source_id INTO id FROM cdi.sources s WHERE s.name = _require_source.name;
    IF id IS NULL THEN
        RAISE EXCEPTION 'source "%" does not exist', name
            USING ERRCODE = 'ZC101', HINT = 'SELECT name FROM cdi.sources lists those that do.';
    END IF;
    RETURN id;
END
$$;
COMMENT ON FUNCTION cdi._require_source(text) IS 'Internal: id of a source, or an error.';

CREATE OR REPLACE FUNCTION cdi_rotate_source(name text, grace interval DEFAULT '0')
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    write_key text := cdi._new_write_key();
    id integer := cdi._require_source(name);
BEGIN
    UPDATE cdi.sources s
    SET previous_key_hash = s.write_key_hash,
        previous_key_until = clock_timestamp() + grace,
        write_key_hash = sha256(convert_to(write_key, 'UTF8')),
        rotated_at = clock_timestamp()
    WHERE s.source_id = id;
    RETURN write_key;
END
$$;
COMMENT ON FUNCTION cdi_rotate_source(text, interval) IS 'Gives a source a new write key and returns it. The old key works until the grace period ends.';

CREATE OR REPLACE FUNCTION cdi_add_write_key(source text, key text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(source);
    hash bytea := sha256(convert_to(key, 'UTF8'));
BEGIN
    IF key IS NULL OR octet_length(key) NOT BETWEEN 1 AND 127 THEN
        RAISE EXCEPTION 'a write key must have 1 to 127 bytes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM cdi.sources s WHERE hash IN (s.write_key_hash, s.previous_key_hash)) THEN
        RAISE EXCEPTION 'the key is in use already' USING ERRCODE = 'duplicate_object';
    END IF;
    INSERT INTO cdi.source_keys (key_hash, source_id, hint) VALUES (hash, id, left(key, 4) || '...');
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'the key is in use already'
            USING ERRCODE = 'duplicate_object',
                  HINT = 'cdi_remove_write_key(key) takes it away from its source.';
END
$$;
COMMENT ON FUNCTION cdi_add_write_key(text, text) IS 'Gives a source one more write key: the app id, API key or measurement id that its SDKs send already. Stored is its SHA-256.';

CREATE OR REPLACE FUNCTION cdi_remove_write_key(key text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.source_keys k WHERE k.key_hash = sha256(convert_to(key, 'UTF8'));
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION cdi_remove_write_key(text) IS 'Takes away a key that cdi_add_write_key() gave. True if it was there.';

CREATE OR REPLACE FUNCTION cdi_enable_source(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(name);
BEGIN
    UPDATE cdi.sources s SET enabled = true WHERE s.source_id = id;
END
$$;
COMMENT ON FUNCTION cdi_enable_source(text) IS 'Lets a disabled source send events again.';

CREATE OR REPLACE FUNCTION cdi_disable_source(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(name);
BEGIN
    UPDATE cdi.sources s SET enabled = false WHERE s.source_id = id;
END
$$;
COMMENT ON FUNCTION cdi_disable_source(text) IS 'Refuses further events of a source: ZC102 in SQL, 401 over HTTP.';

CREATE OR REPLACE FUNCTION cdi._require_cookieless()
RETURNS void
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_require_cookieless';
COMMENT ON FUNCTION cdi._require_cookieless() IS 'Internal: an error where the server cannot make cookieless ids.';

-- One member of settings per column.  A new one goes into the list of rules, the
-- UPDATE and the table; the CHECK of a column is named in the usual way.
CREATE OR REPLACE FUNCTION cdi_alter_source(name text, settings jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules CONSTANT jsonb := '{
        "rate_limit": ["number", "a number of events per second from 0.001 to 1000000000, or null for no limit"],
        "rate_burst": ["integer", "a number of events from 1, or null for those of one second"],
        "max_body": ["integer", "a number of kB from 1, or null for cdi.collector_max_body alone"],
        "allowed_origins": ["origins", "an array of origins such as https://shop.example or https://*.shop.example, or null for all"],
        "keep_original": ["boolean", "true or false, or null for false"],
        "client_address": ["string", "auto, always or never, or null for auto"],
        "person_traits": ["names", "an array of up to 100 names of traits, or null for none"],
        "cookieless": ["string", "off, missing or always, or null for off; the last two not beside keep_original"]
    }';
    id integer := cdi._require_source(name);
    member text;
    value jsonb;
    valid boolean;
BEGIN
    IF settings IS NULL OR jsonb_typeof(settings) <> 'object' THEN
        RAISE EXCEPTION 'settings of a source must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Its members may be ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(rules) k) || '.';
    END IF;
    FOR member, value IN SELECT e.key, e.value FROM jsonb_each(settings) e LOOP
        IF NOT rules ? member THEN
            RAISE EXCEPTION 'a source has no setting "%"', member
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'There are ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(rules) k) || '.';
        END IF;
        CONTINUE WHEN value = 'null';
        valid := CASE rules -> member ->> 0
            WHEN 'number' THEN jsonb_typeof(value) = 'number' AND abs(value::numeric) < 1e300
            WHEN 'integer' THEN jsonb_typeof(value) = 'number' AND scale(trim_scale(value::numeric)) = 0 AND abs(value::numeric) < 2147483648
            WHEN 'origins' THEN jsonb_typeof(value) = 'array' AND NOT EXISTS (
                SELECT FROM jsonb_array_elements(value) o
                WHERE jsonb_typeof(o) <> 'string' OR o #>> '{}' !~ '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#,*\s]*[*]?[^/?#,*\s]*$')
            WHEN 'names' THEN jsonb_typeof(value) = 'array' AND NOT EXISTS (
                SELECT FROM jsonb_array_elements(value) n WHERE jsonb_typeof(n) <> 'string')
            ELSE jsonb_typeof(value) = rules -> member ->> 0
        END;
        IF NOT valid THEN
            RAISE check_violation USING CONSTRAINT = 'sources_' || member || '_check';
        END IF;
    END LOOP;
    IF settings ->> 'cookieless' IN ('missing', 'always') THEN
        PERFORM cdi._require_cookieless();
    END IF;
    UPDATE cdi.sources s
    SET rate_limit = CASE WHEN settings ? 'rate_limit' THEN (settings ->> 'rate_limit')::float8 ELSE s.rate_limit END,
        rate_burst = CASE WHEN settings ? 'rate_burst' THEN (settings ->> 'rate_burst')::numeric::integer ELSE s.rate_burst END,
        max_body = CASE WHEN settings ? 'max_body' THEN (settings ->> 'max_body')::numeric::integer ELSE s.max_body END,
        allowed_origins = CASE WHEN NOT settings ? 'allowed_origins' THEN s.allowed_origins
                               WHEN settings -> 'allowed_origins' <> 'null'
                               THEN (SELECT coalesce(string_agg(lower(o), ', '), '') FROM jsonb_array_elements_text(settings -> 'allowed_origins') o) END,
        keep_original = CASE WHEN settings ? 'keep_original' THEN coalesce((settings ->> 'keep_original')::boolean, false) ELSE s.keep_original END,
        client_address = CASE WHEN settings ? 'client_address' THEN coalesce(settings ->> 'client_address', 'auto') ELSE s.client_address END,
        person_traits = CASE WHEN NOT settings ? 'person_traits' THEN s.person_traits
                             WHEN settings -> 'person_traits' NOT IN ('null', '[]')
                             THEN (SELECT jsonb_agg(DISTINCT n) FROM jsonb_array_elements(settings -> 'person_traits') n) END,
        cookieless = CASE WHEN settings ? 'cookieless' THEN coalesce(settings ->> 'cookieless', 'off') ELSE s.cookieless END
    WHERE s.source_id = id;
EXCEPTION
    WHEN check_violation THEN
        GET STACKED DIAGNOSTICS member = CONSTRAINT_NAME;
        member := substring(member FROM '^sources_(.*)_check$');
        RAISE EXCEPTION 'setting "%" of a source must be %', member, rules -> member ->> 1
            USING ERRCODE = 'invalid_parameter_value';
END
$$;
COMMENT ON FUNCTION cdi_alter_source(text, jsonb) IS 'Changes settings of a source, the named members only: rate_limit (events per second, over all collectors of the database), rate_burst (events at once), max_body (kB), allowed_origins (of web pages), keep_original (store bytes as they came), client_address (auto, always, never), cookieless (off, missing, always), person_traits (that events get of their person). A null takes one back to its default.';

-- Verbs that a role which sends events needs.
CREATE OR REPLACE FUNCTION cdi._verbs()
RETURNS SETOF regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT p.oid::regprocedure
FROM pg_extension e
JOIN pg_proc p ON p.pronamespace = e.extnamespace
WHERE e.extname = 'cdi'
  AND p.proname IN ('cdi_track', 'cdi_identify', 'cdi_page', 'cdi_screen', 'cdi_group', 'cdi_alias', 'cdi_ingest', 'cdi_import_open')
$$;
COMMENT ON FUNCTION cdi._verbs() IS 'Internal: the functions that send events.';

CREATE OR REPLACE FUNCTION cdi_grant_source(source text, role name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(source);
    verb regprocedure;
BEGIN
    PERFORM quote_ident(role)::regrole;
    INSERT INTO cdi.source_grants (source_id, role_name) VALUES (id, role) ON CONFLICT DO NOTHING;
    FOR verb IN SELECT cdi._verbs() LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', verb, role);
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA cdi TO %I', role);
    EXECUTE format('GRANT INSERT ON cdi.import TO %I', role);
END
$$;
COMMENT ON FUNCTION cdi_grant_source(text, name) IS 'Lets a role send events to a source through the SQL verbs and cdi.import. The role can neither read nor change events by this.';

CREATE OR REPLACE FUNCTION cdi_revoke_source(source text, role name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(source);
    verb regprocedure;
BEGIN
    DELETE FROM cdi.source_grants g WHERE g.source_id = id AND g.role_name = role;
    IF NOT EXISTS (SELECT FROM cdi.source_grants g WHERE g.role_name = role) THEN
        -- a role that was dropped has nothing left to revoke
        FOR verb IN SELECT cdi._verbs() WHERE to_regrole(quote_ident(role)) IS NOT NULL LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM %I', verb, role);
        END LOOP;
        IF to_regrole(quote_ident(role)) IS NOT NULL THEN
            EXECUTE format('REVOKE INSERT ON cdi.import FROM %I', role);
            -- a reader needs the schema still
            IF NOT EXISTS (SELECT FROM pg_class c, aclexplode(c.relacl) a
                           WHERE c.relnamespace = 'cdi'::regnamespace AND a.grantee = quote_ident(role)::regrole) THEN
                EXECUTE format('REVOKE USAGE ON SCHEMA cdi FROM %I', role);
            END IF;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_revoke_source(text, name) IS 'Takes back cdi_grant_source().';
