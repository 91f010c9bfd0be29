-- Identity: see src/identity.
CREATE OR REPLACE FUNCTION cdi_resolve()
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_resolve() IS
'Folds every link that this transaction can see and that is not folded yet into the identity map; returns how many. Called inside a transaction that wrote events it folds those too, and other resolvers wait until that transaction ends. Costs as much as there are new links; with none it writes nothing. Raises 40001 under REPEATABLE READ when another run has come in between.';

CREATE OR REPLACE FUNCTION cdi_rebuild_identity(current_rules boolean DEFAULT false)
RETURNS bigint
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_rebuild_identity(boolean) IS
'Makes the identity map anew from the recorded links in the recorded order, with the limits of each run''s time and without what was revoked, which gives the same people and the same ids; returns the number of identifiers. Reads every link.
current_rules: let today''s limits and blocked values count for all of history, as if they had always been there (cdi_identity_dry_run() shows beforehand what that changes).';

CREATE OR REPLACE FUNCTION cdi._is_blocked(type text, value text)
RETURNS boolean
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'cdi_is_blocked';
COMMENT ON FUNCTION cdi._is_blocked(text, text) IS 'Internal: whether a normalised value is blocked now.';

CREATE OR REPLACE FUNCTION cdi._blocked_identifiers()
RETURNS SETOF uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT DISTINCT u.identifier
FROM cdi.identity_links l, unnest(l.identifiers, l.types, l."values") AS u (identifier, type, value)
WHERE cdi._is_blocked(u.type, u.value)
$$;
COMMENT ON FUNCTION cdi._blocked_identifiers() IS 'Internal: linked identifiers whose values are blocked now.';

CREATE OR REPLACE FUNCTION cdi_person(identifier_type text, identifier_value text)
RETURNS uuid
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person(text, text) IS
'Canonical person of an identifier, as of the last cdi_resolve(). An identifier never linked to another is its own person. NULL for a value that identifies nobody: blocked, empty or malformed. Raises 42704 for an unknown type. Costs one index probe.';

CREATE OR REPLACE FUNCTION cdi_person_at(identifier_type text, identifier_value text, at timestamptz)
RETURNS uuid
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person_at(text, text, timestamptz) IS
'Person of an identifier as of a time: by the links that had happened and without what had been unmerged by then. Otherwise as cdi_person(). Erased identifiers are gone from all times. Costs by the number of links that hang together with the identifier.';

CREATE OR REPLACE FUNCTION cdi_person_of(subject uuid)
RETURNS uuid
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person_of(uuid) IS
'Canonical person of an identifier''s key, such as an event''s subject, or of a person that a merge has absorbed, as of the last cdi_resolve(). Costs one index probe; to go through many events join cdi.identity_map instead.';

CREATE OR REPLACE FUNCTION cdi_unmerge(
    identifier_type text DEFAULT NULL, identifier_value text DEFAULT NULL,
    link bigint DEFAULT NULL, event uuid DEFAULT NULL, merge bigint DEFAULT NULL, reason text DEFAULT NULL)
RETURNS TABLE (person_id uuid, became uuid, identifiers bigint)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_unmerge(text, text, bigint, uuid, bigint, text) IS
'Takes back what united people, and folds again what hung together by it: an identifier (everything that has linked it so far), a link by its position, all links of an event, or the link that made a merge. The oldest part keeps the person''s id. Returns who became whom, with the number of identifiers that moved; no row where other evidence says the same. What comes later counts again. Recorded in cdi.identity_revocations and cdi.identity_splits. Folds new links first and holds the resolver until the transaction ends. Raises ZC501 for what is not there or unites nothing, ZC502 for what is undone already, 42704 for an unknown type. Costs by the number of links that hang together.';

CREATE OR REPLACE FUNCTION cdi_identifier(identifier_type text, identifier_value text)
RETURNS uuid
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_identifier(text, text) IS
'Key of an identifier, as cdi.events.subject and cdi.identity_map have it. NULL for a value that identifies nobody. Raises 42704 for an unknown type.';

CREATE OR REPLACE FUNCTION cdi_explain_identity(a uuid, b uuid)
RETURNS TABLE (step integer, status text, from_type text, from_value text, to_type text, to_value text,
               link bigint, event_id uuid, rule text, linked_at timestamptz, detail text)
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_explain_identity(uuid, uuid) IS
'Why two identifiers (keys, as in cdi.events.subject; a person''s id is the key of its first identifier) are one person: the shortest chain of links from a to b, one row per step with status linked. Then, without a step, what was kept apart near it: refused by a limit, or unmerged. No linked row: they are not one person. Costs by the number of links that hang together.';

CREATE OR REPLACE FUNCTION cdi_explain_identity(type_a text, value_a text, type_b text, value_b text)
RETURNS TABLE (step integer, status text, from_type text, from_value text, to_type text, to_value text,
               link bigint, event_id uuid, rule text, linked_at timestamptz, detail text)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
SELECT * FROM @extschema@.cdi_explain_identity(@extschema@.cdi_identifier(type_a, value_a), @extschema@.cdi_identifier(type_b, value_b))
$$;
COMMENT ON FUNCTION cdi_explain_identity(text, text, text, text) IS
'cdi_explain_identity() of two identifiers by type and value.';

CREATE OR REPLACE FUNCTION cdi._apply_identifier_rules(rules jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type text;
    settings jsonb;
BEGIN
    IF jsonb_typeof(rules) <> 'object' THEN
        RAISE EXCEPTION 'rules to try must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Its members are identifier types with settings as of cdi_set_identifier_type(); {} tries the rules of now.';
    END IF;
    FOR type, settings IN SELECT r.key, r.value FROM jsonb_each(rules) r LOOP
        -- A new one would say nothing about history, and use up a number.
        IF NOT EXISTS (SELECT FROM cdi.identifier_types t WHERE t.name = type) THEN
            RAISE EXCEPTION 'identifier type "%" does not exist', type
                USING ERRCODE = 'undefined_object', HINT = 'cdi.identifier_types lists the types that there are.';
        END IF;
        PERFORM @extschema@.cdi_set_identifier_type(type, settings);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdi._apply_identifier_rules(jsonb) IS 'Internal: set identifier types to the rules that a dry run tries.';

CREATE OR REPLACE FUNCTION cdi_identity_dry_run(rules jsonb)
RETURNS TABLE (change text, person_id uuid, parts integer, identifiers bigint)
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_identity_dry_run(jsonb) IS
'What other rules would change if they counted for all of history: one row per person that would fall into several parts (split) or take in others (merge), with the number of parts or persons and of the identifiers that would move. rules: {"type": {settings as of cdi_set_identifier_type()}}; {} tries the rules of now. Raises 42704 for an unknown type, 22023 for what is no object or no setting. Nothing is written; cdi_rebuild_identity(true) does it, once the rules are set. Reads every link.';

CREATE OR REPLACE FUNCTION cdi_identity_check()
RETURNS TABLE (problem text, rows bigint)
LANGUAGE C STABLE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_identity_check() IS
'Folds every link again in memory and compares the outcome with the identity map: no row if they agree. Otherwise what differs, and in how many rows; cdi_rebuild_identity() mends it. Reads every link.';

CREATE OR REPLACE FUNCTION cdi_identity_bridges(person uuid, min_identifiers integer DEFAULT 2)
RETURNS TABLE (link bigint, event_id uuid, rule text, linked_at timestamptz, identifiers text[], splits_off bigint)
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_identity_bridges(uuid, integer) IS
'Links that alone hold a person together: without one of them (cdi_unmerge(link => ...)) the person would fall into parts, of which all but the largest have splits_off identifiers together, at least min_identifiers. Largest first. Costs by the number of links that hang together.';

CREATE OR REPLACE FUNCTION cdi._people_before(keys uuid[], run bigint)
RETURNS TABLE (person_id uuid, identifiers bigint)
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'cdi_people_before';
COMMENT ON FUNCTION cdi._people_before(uuid[], bigint) IS 'Internal: people that identifiers, and what hung together with these, were before a run, by the links and the revocations of now, and how many identifiers they had.';

CREATE OR REPLACE FUNCTION cdi_erase_identifier(identifier_type text, identifier_value text)
RETURNS bigint
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_erase_identifier(text, text) IS
'Forgets an identifier: its value leaves all links, the traits it named and those that repeat it go, and what was linked by it is folded again. A salted hash stays as a tombstone, so that no later event or replay identifies anybody by it. Events are not changed. Returns 1. Raises ZC501 for a value that identifies nobody, 42704 for an unknown type, 55P03 where a transaction that writes events or resolves does not end within ten seconds, 0A000 under another isolation level than READ COMMITTED.';

CREATE OR REPLACE FUNCTION cdi_erase_person(person uuid)
RETURNS bigint
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_erase_person(uuid) IS
'Forgets all identifiers of a person (its id, or the key of any of its identifiers) as cdi_erase_identifier() does; returns how many. Events are not changed. Raises ZC501 where neither the identity graph nor an event knows the id, otherwise as cdi_erase_identifier(). Reads all events where the id is of an identifier that was never linked.';
