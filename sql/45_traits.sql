-- Traits: see src/identity/traits.h.

CREATE OR REPLACE FUNCTION cdi._apply_trait_policy(trait text, policy text, sources integer[])
RETURNS boolean
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_apply_trait_policy';
COMMENT ON FUNCTION cdi._apply_trait_policy(text, text, integer[]) IS 'Internal: set or, with a null, take back a trait''s policy and apply it to all links.';

CREATE OR REPLACE FUNCTION cdi_set_trait_policy(trait text, policy text, sources text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policies CONSTANT text[] := '{latest,first,max,min,union,source_priority}';
    ids integer[];
BEGIN
    IF trait IS NULL OR octet_length(trait) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'name of a trait must have 1 to 512 bytes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF policy IS NULL OR policy <> ALL (policies) THEN
        RAISE EXCEPTION 'there is no trait policy "%"', policy
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'There are ' || array_to_string(policies, ', ') || '.';
    END IF;
    IF (policy = 'source_priority') <> (coalesce(cardinality(sources), 0) > 0) THEN
        RAISE EXCEPTION 'sources are to be named for the policy source_priority, and for no other'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'For example cdi_set_trait_policy(''plan'', ''source_priority'', ''{billing,web}'').';
    END IF;
    IF policy = 'source_priority' THEN
        SELECT array_agg(cdi._require_source(s.name) ORDER BY s.rank) INTO ids
        FROM unnest(sources) WITH ORDINALITY AS s (name, rank);
    END IF;
    PERFORM cdi._apply_trait_policy(trait, policy, ids);
END
$$;
COMMENT ON FUNCTION cdi_set_trait_policy(text, text, text[]) IS
'Says which value of a trait is the person''s: latest (as without a policy), first, max, min, union (an array of all values) or source_priority (the latest of the first of the sources that has set it). Applies it to everything that was ever set, which reads every link; folds wait meanwhile. Raises 22023, ZC101.';

CREATE OR REPLACE FUNCTION cdi_drop_trait_policy(trait text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT cdi._apply_trait_policy(trait, NULL, NULL) THEN
        RAISE EXCEPTION 'trait "%" has no policy', trait
            USING ERRCODE = 'undefined_object', HINT = 'SELECT trait FROM cdi.trait_policies lists those that have one.';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_drop_trait_policy(text) IS
'Takes back cdi_set_trait_policy(): the latest value is the person''s again. Costs the same. Raises 42704 where the trait has no policy.';

-- Backends keep the declarations in memory; whoever changes them, every backend
-- reads them anew after the commit, and the keeper counts what is there.
CREATE OR REPLACE FUNCTION cdi._computed_traits_changed()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_computed_traits_changed';
COMMENT ON FUNCTION cdi._computed_traits_changed() IS 'Internal: trigger of cdi.computed_traits.';

CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.computed_traits
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._computed_traits_changed();

CREATE OR REPLACE FUNCTION cdi._computed_contribution(trait_id integer, properties jsonb, OUT counts boolean, OUT number numeric, OUT value jsonb)
RETURNS record
LANGUAGE C STABLE
AS 'MODULE_PATHNAME', 'cdi_computed_contribution_sql';
COMMENT ON FUNCTION cdi._computed_contribution(integer, jsonb) IS 'Internal: what an event of fitting type and name adds to a computed trait.';

CREATE OR REPLACE FUNCTION cdi._batch_computed()
RETURNS TABLE ("position" bigint, trait_id integer, subject uuid, at timestamptz, number numeric, value jsonb)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'cdi_batch_computed';
COMMENT ON FUNCTION cdi._batch_computed() IS 'Internal: rows of cdi.computed_trait_deltas that the running batch stores.';

CREATE OR REPLACE FUNCTION cdi._forget_computed_trait(trait_id integer)
RETURNS void
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'cdi_forget_computed_trait';
COMMENT ON FUNCTION cdi._forget_computed_trait(integer) IS 'Internal: remove the state of a computed trait.';

CREATE OR REPLACE FUNCTION cdi_create_computed_trait(
    name text, aggregate text, event text DEFAULT NULL, property text[] DEFAULT NULL,
    filter jsonb DEFAULT NULL, type text DEFAULT 'track')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem text;
BEGIN
    problem := CASE
        WHEN name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 128 THEN 'name of a computed trait must have 1 to 128 bytes'
        WHEN aggregate IS NULL OR aggregate NOT IN ('count', 'sum', 'min', 'max', 'first', 'last', 'most_frequent')
            THEN 'aggregate must be count, sum, min, max, first, last or most_frequent'
        WHEN type IS NULL OR type NOT IN ('track', 'identify', 'page', 'screen', 'group', 'alias')
            THEN 'type must be track, identify, page, screen, group or alias'
        WHEN event = '' THEN 'event must not be empty'
        WHEN aggregate <> 'count' AND property IS NULL THEN format('aggregate %s needs a property', aggregate)
        WHEN property IS NOT NULL AND (array_ndims(property) IS DISTINCT FROM 1 OR cardinality(property) > 10 OR array_position(property, NULL) IS NOT NULL)
            THEN 'property must be a path of 1 to 10 names, such as {cart,total}'
        WHEN jsonb_typeof(filter) <> 'object' THEN 'filter must be a JSON object'
        WHEN EXISTS (SELECT FROM cdi.trait_policies p WHERE p.trait = name) THEN format('trait "%s" is one that calls set: it has a policy', name)
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION '%', problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass('cdi.computed_trait_deltas') IS NULL THEN
        RAISE EXCEPTION 'cdi has no storage for computed traits in this database yet'
            USING ERRCODE = 'ZC001', HINT = 'Run SELECT cdi_init().';
    END IF;
    INSERT INTO cdi.computed_traits (name, aggregate, type, event, property, filter)
    VALUES (name, aggregate, type, event, property, filter);
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'computed trait "%" exists already', name
            USING ERRCODE = 'duplicate_object',
                  HINT = format('SELECT cdi_drop_computed_trait(%L) removes it.', name);
END
$$;
COMMENT ON FUNCTION cdi_create_computed_trait(text, text, text, text[], jsonb, text) IS
'Declares a trait that is kept from a person''s events: count, sum, min, max (of numbers), first, last (by the time of the event) or most_frequent, of the value at a path into the properties, over the calls of a type, with a name or any, whose properties contain the filter. From the commit on events are counted as they are stored; those of before are counted by the runs of cdi_resolve() that follow, a million positions each, and then the trait has values (cdi.computed_trait_backfills.finished_at). Raises 22023, 42710, ZC001.';

CREATE OR REPLACE FUNCTION cdi_drop_computed_trait(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer;
BEGIN
    DELETE FROM cdi.computed_traits t WHERE t.name = cdi_drop_computed_trait.name RETURNING t.trait_id INTO id;
    IF id IS NULL THEN
        RAISE EXCEPTION 'computed trait "%" does not exist', name
            USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM cdi.computed_traits lists those that do.';
    END IF;
    PERFORM cdi._forget_computed_trait(id);
END
$$;
COMMENT ON FUNCTION cdi_drop_computed_trait(text) IS
'Removes a computed trait and what was counted for it, which reads all state of computed traits; folds wait meanwhile. Raises 42704.';

CREATE OR REPLACE FUNCTION cdi_person_traits(person uuid)
RETURNS jsonb
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person_traits(uuid) IS
'Traits of a person as one object, those that calls set and those that are computed, as of the last cdi_resolve(). Takes the person''s id or the key of any identifier, such as an event''s subject. Of a computed trait and another one of the same name it has the computed one. Costs a few index probes per identifier of the person and, of traits of most_frequent, one per value.';
