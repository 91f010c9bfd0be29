/*
 * sync.c
 *		Declare a sync, and run it: find out what changed and queue it.
 *
 * A run compares the rows of the model with what the destination will have
 * once everything queued has arrived: what it has acknowledged
 * (cdi.sync_rows), overlaid with what is on its way (outbox rows above the
 * cursor that are no dead letters).  So nothing is queued twice, and a row that
 * failed is different from what was acknowledged and is queued again.
 *
 * One run of a sync at a time, under a lock that is held until the transaction
 * ends: positions of one sync become visible in their order, so the push
 * worker can read them with a cursor and needs no watermark, and a run that
 * takes long holds back nobody's.
 */
#include "activate/model.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "worker/worker.h"

/* SQL's advisory locks use 1 and 2, positions of events 205 */
#define SYNC_LOCK_CLASS 206

typedef struct Sync
{
	int32		sync_id;
	CdiModel	model;
	bool		serves_insert;
	bool		serves_update;
	bool		serves_delete;
} Sync;

void
cdi_sync_lock(int32 sync_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, (uint32) sync_id, SYNC_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

static char *
copied_value(MemoryContext context, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

static int32
int_value(int column)
{
	bool		isnull;

	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull));
}

PG_FUNCTION_INFO_V1(cdi_create_sync);

Datum
cdi_create_sync(PG_FUNCTION_ARGS)
{
	static CdiPlan find = {
		.query = "SELECT d.destination_id, p.spec::text FROM cdi.destinations d"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE d.name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan insert = {
		.query = "INSERT INTO cdi.syncs (name, destination_id, action, model, primary_key, run_as, search_path)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING RETURNING sync_id",
		.nargs = 7,.argtypes = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, NAMEOID, TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	char	   *destination = cdi_text_argument(fcinfo, 1, "destination");
	const char *action = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	CdiModel	model = {
		.sync = name,
		.query = cdi_text_argument(fcinfo, 2, "model"),
		.primary_key = cdi_text_argument(fcinfo, 3, "primary_key"),
		.run_as = GetUserId(),
		.search_path = pstrdup(GetConfigOption("search_path", false, false))
	};
	CdiOwnerScope scope;
	int32		destination_id;
	int32		sync_id;
	char	   *text;
	CdiSpec    *spec;

	SPI_connect();
	cdi_owner_enter(&scope);
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(destination)}, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("destination \"%s\" does not exist", destination),
				 errhint("SELECT cdi_create_destination('%s', ...) creates it.", destination)));
	destination_id = int_value(1);
	text = copied_value(caller, 2);
	cdi_owner_leave(&scope);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", destination),
				 errhint("Install it with cdi_install_destination_spec().")));
	spec = cdi_spec_load(CurrentMemoryContext, text, false);
	if (action == NULL)
		action = cdi_spec_default_action(spec);
	if (action == NULL || cdi_spec_action(spec, action) == NULL)
	{
		StringInfoData names;
		const char *key;
		json_t	   *member;

		initStringInfo(&names);
		json_object_foreach(json_object_get(spec->root, "actions"), key, member)
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", key);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 action ? errmsg("destination \"%s\" has no action \"%s\"", destination, action) :
				 errmsg("destination \"%s\" has several actions", destination),
				 errdetail("Its actions are: %s.", names.data)));
	}
	cdi_model_check(&model);

	cdi_owner_enter(&scope);
	cdi_plan_execute(&insert, (Datum[])
					 {
						 CStringGetTextDatum(name), Int32GetDatum(destination_id), CStringGetTextDatum(action),
						 CStringGetTextDatum(model.query), CStringGetTextDatum(model.primary_key),
						 DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(model.run_as, false))),
						 CStringGetTextDatum(model.search_path)
					 }, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("sync \"%s\" exists already", name)));
	sync_id = int_value(1);
	cdi_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_INT32(sync_id);
}

static void
unknown_sync(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_UNKNOWN_SYNC),
			 errmsg("sync \"%s\" does not exist", name),
			 errhint("SELECT name FROM cdi.syncs lists those that do.")));
}

PG_FUNCTION_INFO_V1(cdi_drop_sync);

/* Rows that are queued stay in the outbox, where nobody reads them any more. */
Datum
cdi_drop_sync(PG_FUNCTION_ARGS)
{
	static CdiPlan drop = {
		.query = "DELETE FROM cdi.syncs WHERE name = $1 RETURNING sync_id",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan state[] = {
		{.query = "DELETE FROM cdi.sync_rows WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.failed_deliveries WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.push_cursor WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	CdiOwnerScope scope;
	int32		sync_id;

	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&drop, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		unknown_sync(name);
	sync_id = int_value(1);
	for (int i = 0; i < lengthof(state); i++)
		cdi_plan_execute(&state[i], (Datum[]) {Int32GetDatum(sync_id)}, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}

/* SPI connected, as the owner; results in context */
static Sync *
load_sync(const char *name, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT s.sync_id, s.model, s.primary_key, s.run_as::text, s.search_path, s.action,"
		" d.name, p.spec::text, s.enabled, d.enabled"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE s.name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	Sync	   *sync = MemoryContextAllocZero(context, sizeof(Sync));
	char	   *role;
	char	   *text;
	CdiSpec    *spec;
	json_t	   *action;

	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		unknown_sync(name);
	for (int column = 9; column <= 10; column++)
		if (strcmp(copied_value(context, column), "f") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 column == 9 ? errmsg("sync \"%s\" is disabled", name) :
					 errmsg("destination \"%s\" of sync \"%s\" is disabled", copied_value(context, 7), name)));
	sync->sync_id = int_value(1);
	sync->model.sync = name;
	sync->model.query = copied_value(context, 2);
	sync->model.primary_key = copied_value(context, 3);
	sync->model.search_path = copied_value(context, 5);
	role = copied_value(context, 4);
	sync->model.run_as = get_role_oid(role, true);
	if (!OidIsValid(sync->model.run_as))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("sync \"%s\" cannot run", name),
				 errdetail("It was declared by role \"%s\", which does not exist any more.", role),
				 errhint("Drop it and create it again as another role.")));
	text = copied_value(context, 8);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", copied_value(context, 7))));
	spec = cdi_spec_load(context, text, false);
	action = cdi_spec_action(spec, copied_value(context, 6));
	if (action == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("destination \"%s\" has no action \"%s\"", copied_value(context, 7), copied_value(context, 6))));
	sync->serves_insert = cdi_action_serves(action, "insert");
	sync->serves_update = cdi_action_serves(action, "update");
	sync->serves_delete = cdi_action_serves(action, "delete");
	return sync;
}

static int64
begin_run(int32 sync_id)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.sync_runs (sync_id, started_at) VALUES ($1, clock_timestamp()) RETURNING run_id",
		.nargs = 1,.argtypes = {INT4OID}
	};
	bool		isnull;

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(sync_id)}, NULL);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Classify every row and queue what differs.  cdi_model is the tuplestore.
 *
 * on_its_way	newest outbox row of each key above the cursor and above its dead
 *				letter (rows of a key end in their order)
 * expected		state of the destination after all that: hash null where gone
 * classified	one row per key in either; payload only where it is needed
 *
 * A key that the model has twice is invalid, but it is there: not removed.
 * What the action does not serve is not queued and changes the acknowledged
 * state at once: there is nothing to wait for.
 */
static const char *const diff_query =
"WITH duplicates AS MATERIALIZED (\n"
"  SELECT primary_key, count(*) AS n FROM cdi_model GROUP BY primary_key HAVING count(*) > 1),\n"
"on_its_way AS MATERIALIZED (\n"
"  SELECT DISTINCT ON (o.primary_key) o.primary_key, o.operation, o.hash, o.payload\n"
"  FROM cdi.outbox o\n"
"  WHERE o.sync_id = $1\n"
"    AND o.position > coalesce((SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = $1), 0)\n"
"    AND NOT EXISTS (SELECT FROM cdi.failed_deliveries f\n"
"                    WHERE f.sync_id = o.sync_id AND f.primary_key = o.primary_key AND f.position >= o.position)\n"
"  ORDER BY o.primary_key, o.position DESC),\n"
"expected AS (\n"
"  SELECT coalesce(w.primary_key, r.primary_key) AS primary_key,\n"
"         CASE WHEN w.primary_key IS NULL THEN r.hash WHEN w.operation <> 'delete' THEN w.hash END AS hash,\n"
"         w.payload\n"
"  FROM (SELECT primary_key, hash FROM cdi.sync_rows WHERE sync_id = $1) r\n"
"  FULL JOIN on_its_way w ON w.primary_key = r.primary_key),\n"
"classified AS MATERIALIZED (\n"
"  SELECT coalesce(m.primary_key, e.primary_key) AS primary_key, coalesce(m.hash, e.hash) AS hash, class,\n"
"         CASE class WHEN 'added' THEN 'insert' WHEN 'changed' THEN 'update' ELSE 'delete' END AS operation,\n"
"         CASE class WHEN 'unchanged' THEN NULL\n"
"                    WHEN 'removed' THEN coalesce(e.payload, (SELECT r.payload FROM cdi.sync_rows r\n"
"                                                 WHERE r.sync_id = $1 AND r.primary_key = e.primary_key))\n"
"                    ELSE m.payload END AS payload\n"
"  FROM (SELECT * FROM cdi_model a\n"
"        WHERE NOT EXISTS (SELECT FROM duplicates d WHERE d.primary_key = a.primary_key)) m\n"
"  FULL JOIN expected e ON e.primary_key = m.primary_key\n"
"  CROSS JOIN LATERAL (SELECT CASE\n"
"      WHEN m.primary_key IS NULL THEN 'removed'\n"
"      WHEN e.hash IS NULL THEN 'added'\n"
"      WHEN e.hash = m.hash THEN 'unchanged'\n"
"      ELSE 'changed' END) AS c(class)\n"
"  WHERE m.primary_key IS NOT NULL\n"
"     OR (e.hash IS NOT NULL AND NOT EXISTS (SELECT FROM duplicates d WHERE d.primary_key = e.primary_key))),\n"
"queue AS MATERIALIZED (\n"
"  SELECT nextval('cdi.outbox_position') AS position, c.*\n"
"  FROM classified c\n"
"  WHERE c.class <> 'unchanged' AND c.operation = ANY ($3)),\n"
"queued AS (\n"
"  INSERT INTO cdi.outbox (position, queued_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload)\n"
"  SELECT q.position, clock_timestamp(), $1, $2, q.operation, q.primary_key, q.hash,\n"
"         coalesce(f.idempotency_key,\n"
"                  left(encode(sha256(convert_to(concat_ws('|', $1, q.operation, q.hash, q.position, q.primary_key), 'UTF8')), 'hex'), 32)::uuid),\n"
"         q.payload\n"
"  FROM queue q\n"
"  LEFT JOIN cdi.failed_deliveries f ON f.sync_id = $1 AND f.primary_key = q.primary_key\n"
"                                   AND f.hash = q.hash AND f.operation = q.operation\n"
"  RETURNING 1),\n"
"taken AS (\n"
"  INSERT INTO cdi.sync_rows (sync_id, primary_key, hash, payload, acknowledged_at)\n"
"  SELECT $1, c.primary_key, c.hash, c.payload, clock_timestamp() FROM classified c\n"
"  WHERE c.class IN ('added', 'changed') AND c.operation <> ALL ($3)\n"
"  ON CONFLICT (sync_id, primary_key) DO UPDATE\n"
"  SET hash = excluded.hash, payload = excluded.payload, acknowledged_at = excluded.acknowledged_at),\n"
"forgotten AS (\n"
"  DELETE FROM cdi.sync_rows r USING classified c\n"
"  WHERE c.class = 'removed' AND c.operation <> ALL ($3) AND r.sync_id = $1 AND r.primary_key = c.primary_key),\n"
"counts AS (\n"
"  SELECT count(*) FILTER (WHERE class = 'added') AS added, count(*) FILTER (WHERE class = 'changed') AS changed,\n"
"         count(*) FILTER (WHERE class = 'removed') AS removed, count(*) FILTER (WHERE class = 'unchanged') AS unchanged\n"
"  FROM classified)\n"
"UPDATE cdi.sync_runs r\n"
"SET finished_at = clock_timestamp(), queried = $4, added = c.added, changed = c.changed, removed = c.removed,\n"
"    unchanged = c.unchanged, invalid = $5 + coalesce((SELECT sum(n) FROM duplicates), 0),\n"
"    queued = (SELECT count(*) FROM queued)\n"
"FROM counts c WHERE r.run_id = $2\n"
"RETURNING r.queued";

static int64
queue_differences(const Sync *sync, int64 run_id, CdiModelRows *rows)
{
	static const Oid types[] = {INT4OID, INT8OID, TEXTARRAYOID, INT8OID, INT8OID};
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	Datum		served[3];
	int			nserved = 0;
	Datum		values[5];
	bool		isnull;
	int			result;

	relation->md.name = pstrdup("cdi_model");
	relation->md.tupdesc = rows->desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = Max(rows->queried, 1);
	relation->reldata = rows->store;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a model");

	if (sync->serves_insert)
		served[nserved++] = CStringGetTextDatum("insert");
	if (sync->serves_update)
		served[nserved++] = CStringGetTextDatum("update");
	if (sync->serves_delete)
		served[nserved++] = CStringGetTextDatum("delete");
	values[0] = Int32GetDatum(sync->sync_id);
	values[1] = Int64GetDatum(run_id);
	values[2] = PointerGetDatum(construct_array(served, nserved, TEXTOID, -1, false, TYPALIGN_INT));
	values[3] = Int64GetDatum(rows->queried);
	values[4] = Int64GetDatum(rows->invalid);
	result = SPI_execute_with_args(diff_query, lengthof(types), (Oid *) types, values, NULL, false, 0);
	if (result != SPI_OK_UPDATE_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not queue the differences of a sync: %s", SPI_result_code_string(result));
	SPI_unregister_relation("cdi_model");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

PG_FUNCTION_INFO_V1(cdi_sync_run);

Datum
cdi_sync_run(PG_FUNCTION_ARGS)
{
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	MemoryContext caller = CurrentMemoryContext;
	CdiOwnerScope scope;
	Sync	   *sync;
	CdiModelRows *rows;
	int64		run_id;

	cdi_prevent_in_recovery("cdi_sync_run");
	cdi_require_storage();
	/* An older snapshot would not see what the run before queued. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cdi_sync_run() needs isolation level read committed")));
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	SPI_connect();
	cdi_owner_enter(&scope);
	sync = load_sync(name, caller);
	cdi_sync_lock(sync->sync_id);
	run_id = begin_run(sync->sync_id);
	cdi_owner_leave(&scope);

	/* What the model reads must not be older than the lock. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	rows = cdi_model_run(&sync->model);
	PopActiveSnapshot();

	cdi_owner_enter(&scope);
	(void) queue_differences(sync, run_id, rows);
	cdi_owner_leave(&scope);
	tuplestore_end(rows->store);
	SPI_finish();
	PG_RETURN_INT64(run_id);
}

PG_FUNCTION_INFO_V1(cdi_replay_delivery);

/*
 * Queue dead letters again.  A row whose key has a newer one on its way stays:
 * an older state must not overtake a newer one, and it leaves by itself when
 * that is delivered.
 */
Datum
cdi_replay_delivery(PG_FUNCTION_ARGS)
{
	static CdiPlan syncs = {
		.query = "SELECT DISTINCT f.sync_id FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id)"
		" WHERE ($1 IS NULL OR f.position = ANY ($1)) AND ($2 IS NULL OR s.name = $2) ORDER BY 1",
		.nargs = 2,.argtypes = {INT8ARRAYOID, TEXTOID}
	};
	static CdiPlan replay = {
		.query = "WITH chosen AS ("
		"  DELETE FROM cdi.failed_deliveries f"
		"  WHERE f.sync_id = $2 AND ($1 IS NULL OR f.position = ANY ($1))"
		"    AND NOT EXISTS (SELECT FROM cdi.outbox o WHERE o.sync_id = f.sync_id AND o.primary_key = f.primary_key"
		"                    AND o.position > greatest(f.position, coalesce("
		"                        (SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = f.sync_id), 0)))"
		"  RETURNING f.*),"
		" sorted AS (SELECT * FROM chosen ORDER BY position)"
		" INSERT INTO cdi.outbox (position, queued_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload)"
		" SELECT nextval('cdi.outbox_position'), clock_timestamp(), sync_id, run_id, operation, primary_key, hash,"
		" idempotency_key, payload FROM sorted",
		.nargs = 2,.argtypes = {INT8ARRAYOID, INT4OID}
	};
	CdiOwnerScope scope;
	Datum		positions = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	char		nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' ', '\0'};
	SPITupleTable *table;
	int64		queued = 0;
	bool		isnull;

	cdi_prevent_in_recovery("cdi_replay_delivery");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&syncs, (Datum[]) {positions, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)}, nulls);
	table = SPI_tuptable;
	for (uint64 i = 0; i < table->numvals; i++)
	{
		Datum		sync_id = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		cdi_sync_lock(DatumGetInt32(sync_id));
		cdi_plan_execute(&replay, (Datum[]) {positions, sync_id}, (char[]) {nulls[0], ' ', '\0'});
		queued += SPI_processed;
	}
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(queued);
}
