-- Destinations, syncs, the outbox and who may push (src/activate).

CREATE OR REPLACE FUNCTION cdi._row_hash(key uuid, VARIADIC "any")
RETURNS uuid
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_row_hash';
COMMENT ON FUNCTION cdi._row_hash(uuid, "any") IS 'Internal: keyed hash over the columns of a row.';

CREATE OR REPLACE FUNCTION cdi._bucket_sums_transition(state internal, buckets integer, primary_key "any", hash uuid)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_bucket_sums_transition';
COMMENT ON FUNCTION cdi._bucket_sums_transition(internal, integer, "any", uuid) IS 'Internal: transition of cdi._bucket_sums().';

CREATE OR REPLACE FUNCTION cdi._bucket_sums_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_bucket_sums_combine';
COMMENT ON FUNCTION cdi._bucket_sums_combine(internal, internal) IS 'Internal: adds the sums of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._bucket_sums_serialise(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_bucket_sums_bytes';
COMMENT ON FUNCTION cdi._bucket_sums_serialise(internal) IS 'Internal: sums as bytes, for the leader of a parallel plan.';

CREATE OR REPLACE FUNCTION cdi._bucket_sums_deserialise(bytes bytea, state internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_bucket_sums_deserialise';
COMMENT ON FUNCTION cdi._bucket_sums_deserialise(bytea, internal) IS 'Internal: sums from the bytes of a parallel worker.';

CREATE OR REPLACE FUNCTION cdi._bucket_sums_final(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_bucket_sums_bytes';
COMMENT ON FUNCTION cdi._bucket_sums_final(internal) IS 'Internal: result of cdi._bucket_sums().';

CREATE OR REPLACE AGGREGATE cdi._bucket_sums(buckets integer, primary_key "any", hash uuid) (
    SFUNC = cdi._bucket_sums_transition,
    STYPE = internal,
    SSPACE = 1000000,
    FINALFUNC = cdi._bucket_sums_final,
    COMBINEFUNC = cdi._bucket_sums_combine,
    SERIALFUNC = cdi._bucket_sums_serialise,
    DESERIALFUNC = cdi._bucket_sums_deserialise,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi._bucket_sums(integer, "any", uuid) IS 'Internal: sums of row hashes by bucket of primary keys.';

CREATE OR REPLACE FUNCTION cdi._in_buckets_support(request internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_in_buckets_support';
COMMENT ON FUNCTION cdi._in_buckets_support(internal) IS 'Internal: tells the planner how many buckets are set.';

CREATE OR REPLACE FUNCTION cdi._in_buckets(primary_key "any", buckets bytea)
RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT cdi._in_buckets_support
AS 'MODULE_PATHNAME', 'cdi_in_buckets';
COMMENT ON FUNCTION cdi._in_buckets("any", bytea) IS 'Internal: is the bit of the bucket of this primary key set?';

CREATE OR REPLACE FUNCTION cdi._is_known(primary_key text, row_hash uuid, rows bytea)
RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_is_known';
COMMENT ON FUNCTION cdi._is_known(text, uuid, bytea) IS 'Internal: is the row of this primary key among the expected rows, with this hash?';

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

CREATE OR REPLACE FUNCTION cdi_create_sync(name text, destination text, model text, primary_key text, action text DEFAULT NULL,
    mode text DEFAULT 'mirror', mapping jsonb DEFAULT NULL, nulls jsonb DEFAULT NULL, change_column text DEFAULT NULL, order_key jsonb DEFAULT NULL)
RETURNS integer
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_create_sync(text, text, text, text, text, text, jsonb, jsonb, text, jsonb) IS
'Declares which rows go to a destination and returns the sync''s id. The model is one SELECT; it runs as the role that calls this function, read-only, with this session''s search_path, in time zone UTC. The primary key is one of its columns. mode: mirror (added, changed and removed rows), upsert (added and changed), insert (added), update (added and changed, as updates), append (added and changed, as insertions), delete (rows that the model returns are deleted there), full (every row in every run).
mapping says what the destination gets of a row, in the specification language; nulls, per member, whether nulls are sent or omitted. With a change column only rows are looked at whose value is at least the highest seen, and none counts as removed. order_key is an expression over the row as it is sent: rows for which it has the same value go one after the other, in the order of the runs that queued them. Raises ZC407 where the model, the mapping or the action cannot be used.';

CREATE OR REPLACE FUNCTION cdi_create_event_stream(name text, destination text, action text DEFAULT NULL, rules jsonb DEFAULT '{}',
    mapping jsonb DEFAULT NULL, start text DEFAULT 'now')
RETURNS integer
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_create_event_stream(text, text, text, jsonb, jsonb, text) IS
'Lets events go to a destination as they come and returns the stream''s id in cdi.syncs. Without an action each event goes to the first action of the destination whose condition holds, or to the default action where none has a condition. rules: types, events (names, * stands for anything), sources, consent (names that the person must have agreed to), sample (0 to 1, by person), when (a condition over the event), order ("person"). mapping says what the action gets of an event. It begins now (at the watermark), at the beginning, or with the first event received at a time. The caller must be allowed to read cdi.events. Raises ZC407 where rules or mapping cannot be used.';

CREATE OR REPLACE FUNCTION cdi_alter_event_stream(name text, action text DEFAULT NULL, rules jsonb DEFAULT NULL, mapping jsonb DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_alter_event_stream(text, text, jsonb, jsonb) IS
'Changes an event stream; what is null stays, an empty action or mapping takes it away. Events that were not sent yet are judged anew.';

CREATE OR REPLACE FUNCTION cdi_alter_sync(name text, model text DEFAULT NULL, primary_key text DEFAULT NULL, action text DEFAULT NULL,
    mode text DEFAULT NULL, mapping jsonb DEFAULT NULL, nulls jsonb DEFAULT NULL, change_column text DEFAULT NULL, order_key jsonb DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_alter_sync(text, text, text, text, text, jsonb, jsonb, text, jsonb) IS
'Changes a sync; what is null stays, an empty mapping, order key or change column takes it away. The model then runs as the role that calls this function, with this session''s search_path. The next run compares with what was acknowledged.';

CREATE OR REPLACE FUNCTION cdi_sync_pause(sync text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_pause(text, text) IS 'Stops a sync: it cannot be run, and what it has queued waits. The reason is in cdi.syncs.';

CREATE OR REPLACE FUNCTION cdi_sync_resume(sync text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_resume(text) IS 'Lets a paused sync run and send again.';

CREATE OR REPLACE FUNCTION cdi_sync_schedule(sync text, every interval DEFAULT NULL, after text DEFAULT NULL, on_change boolean DEFAULT false, cron text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_schedule(text, interval, text, boolean, text) IS
'Says when a sync runs by itself: every so often (at least a second); after another sync, when a run of that one has been delivered; on change, when the watermark has passed events (at most once a second); or by cron, in the syntax of pg_cron, which must be installed. Without any of them it runs only when it is asked to. Scheduled runs need the push worker, and the database armed.';

CREATE OR REPLACE FUNCTION cdi_sync_reset(sync text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_reset(text) IS 'Forgets what a destination has acknowledged and passes over what is queued: the next run sends every row. Nothing is deleted at the destination.';

CREATE OR REPLACE FUNCTION cdi_sync_preview(sync text, "limit" integer DEFAULT 10)
RETURNS TABLE (request integer, stage text, operations text[], primary_keys text[], method text, url text, headers jsonb, body text, error text)
LANGUAGE C VOLATILE ROWS 10
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_preview(text, integer) IS
'The requests that a run would send now for its first rows (at most limit), without sending or queuing anything. Secrets read ***, and nothing is signed. A stage whose request depends on answers to those before it is shown as far as it is known; error says why a row or a request cannot be made.';

CREATE OR REPLACE FUNCTION cdi_sync_test_row(sync text, primary_key text)
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_test_row(text, text) IS
'Queues one row of the model, whether it differs from what was acknowledged or not, and returns the run''s id: cdi.deliveries shows what the destination answered. Raises P0002 where the model has no such row.';

CREATE OR REPLACE FUNCTION cdi_drop_sync(name text)
RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_drop_sync(text) IS 'Drops a sync with its acknowledged state and dead letters. Rows that it had queued are not sent any more.';

CREATE OR REPLACE FUNCTION cdi_sync_run(sync text, everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_sync_run(text, boolean) IS
'Runs a sync: queries its model, queues what differs from what the destination has acknowledged or will have, and returns the run''s id in cdi.sync_runs. It is part of the caller''s transaction; the push worker sends after commit. With everything also unchanged rows are sent, and a change column is not looked at.';

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
