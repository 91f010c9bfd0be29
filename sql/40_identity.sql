-- Identity: see src/identity.
CREATE OR REPLACE FUNCTION cdi_resolve()
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_resolve() IS
'Folds every link that this transaction can see and that is not folded yet into the identity map; returns how many. Called inside a transaction that wrote events it folds those too, and other resolvers wait until that transaction ends. Costs as much as there are new links; with none it writes nothing. Raises 40001 under REPEATABLE READ when another run has come in between.';

CREATE OR REPLACE FUNCTION cdi_rebuild_identity()
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_rebuild_identity() IS
'Makes the identity map anew from the recorded links in the recorded order, which gives the same people and the same ids; returns the number of identifiers. Reads every link.';

CREATE OR REPLACE FUNCTION cdi_person(identifier_type text, identifier_value text)
RETURNS uuid
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person(text, text) IS
'Canonical person of an identifier, as of the last cdi_resolve(). An identifier never linked to another is its own person. NULL for a value that identifies nobody: blocked, empty or malformed. Raises 42704 for an unknown type. Costs one index probe.';

CREATE OR REPLACE FUNCTION cdi_person_of(subject uuid)
RETURNS uuid
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_person_of(uuid) IS
'Canonical person of an identifier''s key, such as an event''s subject, or of a person that a merge has absorbed, as of the last cdi_resolve(). Costs one index probe; to go through many events join cdi.identity_map instead.';
