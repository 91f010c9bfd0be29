-- Destinations, syncs, the outbox and who may push (src/activate).

CREATE OR REPLACE FUNCTION cdi_install_destination_spec(spec jsonb)
RETURNS text
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_install_destination_spec(jsonb) IS
'Installs a kind of destination from its specification and returns "name@version". The specification is checked and its tests are run first (ZC403). The same version can be installed again unless it is built in.';

CREATE OR REPLACE FUNCTION cdi_check_destination_spec(spec jsonb)
RETURNS integer
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_check_destination_spec(jsonb) IS
'Checks a specification of a destination and runs its tests without installing it; returns how many tests passed and raises ZC403 where one fails.';

CREATE OR REPLACE FUNCTION cdi_create_destination(name text, spec text DEFAULT 'webhook', settings jsonb DEFAULT '{}')
RETURNS integer
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_create_destination(text, text, jsonb) IS
'Creates a destination and returns its id. spec is the name of a specification (its latest version) or "name@version"; settings are checked against it. Secrets are references: secret:NAME in cdi.secrets, file:NAME below cdi.secret_directory, or env:CDI_NAME.';

CREATE OR REPLACE FUNCTION cdi_alter_destination(name text, settings jsonb, spec text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_alter_destination(text, jsonb, text) IS
'Replaces the settings of a destination and, where spec is given, its specification. Rows that wait are sent with the new ones, at once if the destination had paused.';

CREATE OR REPLACE FUNCTION cdi_enable_destination(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_enable_destination(text) IS 'Sends to a disabled destination again, first what has waited.';

CREATE OR REPLACE FUNCTION cdi_disable_destination(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_disable_destination(text) IS 'Stops sending to a destination. What is queued waits; its syncs do not run.';

CREATE OR REPLACE FUNCTION cdi_drop_destination(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_drop_destination(text) IS 'Drops a destination that has no syncs.';

CREATE OR REPLACE FUNCTION cdi_create_sync(name text, destination text, model text, primary_key text, action text DEFAULT NULL)
RETURNS integer
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_create_sync(text, text, text, text, text) IS
'Declares which rows go to a destination and returns the sync''s id. The model is one SELECT; it runs as the role that calls this function, read-only, with this session''s search_path, in time zone UTC. The primary key is one of its columns. Raises ZC407 where the model cannot be used.';

CREATE OR REPLACE FUNCTION cdi_enable_sync(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_enable_sync(text) IS 'Lets a disabled sync run and send again.';

CREATE OR REPLACE FUNCTION cdi_disable_sync(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_disable_sync(text) IS 'Stops a sync: it cannot be run, and what it has queued waits.';

CREATE OR REPLACE FUNCTION cdi_drop_sync(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_drop_sync(text) IS 'Drops a sync with its acknowledged state and dead letters. Rows that it had queued are not sent any more.';

CREATE OR REPLACE FUNCTION cdi_sync_run(sync text)
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_run(text) IS
'Runs a sync: queries its model, queues what differs from what the destination has acknowledged or will have, and returns the run''s id in cdi.sync_runs. It is part of the caller''s transaction; the push worker sends after commit.';

CREATE OR REPLACE FUNCTION cdi_replay_delivery(positions bigint[] DEFAULT NULL, sync text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_replay_delivery(bigint[], text) IS
'Queues dead letters again, all of them or those chosen by position or sync, and returns how many. One whose key has a newer row on its way stays. The idempotency key stays the same.';

CREATE OR REPLACE FUNCTION cdi_arm(trust boolean DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_arm(boolean) IS
'Lets this database push. In a copy of a database that was armed it asks (ZC404) whether what is recorded as acknowledged can be trusted: true goes on from there, false forgets it, so that the next runs send every row again.';

CREATE OR REPLACE FUNCTION cdi_disarm()
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_disarm() IS 'Stops pushing from this database until cdi_arm(). Requests in flight end.';

CREATE OR REPLACE FUNCTION cdi_armed()
RETURNS text
LANGUAGE C STABLE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_armed() IS 'Whether this database pushes: armed, disarmed, never armed, or copy (of one that was armed).';

CREATE OR REPLACE FUNCTION cdi._map(map jsonb, "row" jsonb, settings jsonb DEFAULT '{}')
RETURNS text
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'cdi_map';
COMMENT ON FUNCTION cdi._map(jsonb, jsonb, jsonb) IS 'Internal: evaluates a mapping of the specification language over one row; null where the result is absent.';
