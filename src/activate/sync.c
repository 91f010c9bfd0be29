/*
 * sync.c
 *		Run a sync: find out what changed and queue it.
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
#include "executor/tstoreReceiver.h"
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

/*
 * Few rows get two buckets for each.  Of many rows some share a bucket: every
 * process makes the sums of all buckets and hands them on, which costs more
 * than to look at those rows once more.
 */
#define FEW_ROWS 65536
#define ROWS_OF_BUCKET 4

void
cdi_sync_lock(int32 sync_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, (uint32) sync_id, SYNC_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

static bool
is_true(int column)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull));
}

CdiSync *
cdi_sync_load(const char *name, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT s.sync_id, s.model, s.primary_key, s.run_as::text, s.search_path, s.action,"
		" d.name, p.spec::text, s.enabled, d.enabled, s.mode, s.mapping::text, s.nulls::text, s.change_column,"
		" s.change_value, s.paused_reason, d.settings::text, s.kind, s.order_key::text, s.hash_key::text,"
		" (SELECT x.extversion FROM pg_catalog.pg_extension x WHERE x.extname = 'cdi')"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE s.name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	CdiSync    *sync = MemoryContextAllocZero(context, sizeof(CdiSync));
	char	   *role;
	char	   *spec;
	char	   *settings;
	char	   *action;
	char	   *mapping;
	char	   *nulls;
	char	   *order_key;
	char	   *hash_key;
	char	   *error = NULL;

	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	if (strcmp(cdi_row_text(context, 18), "events") == 0)
		cdi_sync_is_stream(name);
	cdi_sync_lock(cdi_row_int(1));
	/* A run, a reset or a change that we have waited for is to be seen. */
	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	if (!is_true(9))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sync \"%s\" is paused", name),
				 errdetail("The reason: %s.", cdi_row_text(context, 16)),
				 errhint("SELECT cdi_sync_resume('%s') lets it run again.", name)));
	if (!is_true(10))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("destination \"%s\" of sync \"%s\" is disabled", cdi_row_text(context, 7), name)));
	sync->sync_id = cdi_row_int(1);
	sync->name = name;
	sync->model.sync = name;
	sync->model.query = cdi_row_text(context, 2);
	sync->model.primary_key = cdi_row_text(context, 3);
	sync->model.search_path = cdi_row_text(context, 5);
	role = cdi_row_text(context, 4);
	sync->model.run_as = get_role_oid(role, true);
	if (!OidIsValid(sync->model.run_as))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("sync \"%s\" cannot run", name),
				 errdetail("It was declared by role \"%s\", which does not exist any more.", role),
				 errhint("cdi_alter_sync('%s') makes it run as the role that calls it.", name)));
	spec = cdi_row_text(context, 8);
	if (spec == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", cdi_row_text(context, 7))));
	action = cdi_row_text(context, 6);
	sync->mode = cdi_sync_mode(cdi_row_text(context, 11));
	mapping = cdi_row_text(context, 12);
	nulls = cdi_row_text(context, 13);
	sync->change_column = cdi_row_text(context, 14);
	sync->change_value = cdi_row_text(context, 15);
	settings = cdi_row_text(context, 17);
	order_key = cdi_row_text(context, 19);
	sync->target.spec = cdi_spec_load(context, spec, false);
	sync->target.settings = cdi_settings_check(sync->target.spec, cdi_json_parse(context, settings, strlen(settings), &error),
											   context);
	sync->action = cdi_spec_action(sync->target.spec, action);
	if (sync->action == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("the destination of sync \"%s\" has no action \"%s\" any more", name, action)));
	hash_key = psprintf("%s %s", cdi_row_text(context, 20), cdi_row_text(context, 21));
	sync->order = cdi_sync_mapping(&sync->model, sync->target.spec, sync->action, mapping, nulls, order_key);
	if (!sync->model.clock)
		sync->model.hash_key = hash_key;
	return sync;
}

/* May the role that the model runs as call what compares rows quickly? */
static bool
may_hash(Oid role)
{
	static CdiPlan plan = {
		.query = "SELECT pg_catalog.has_schema_privilege($1, n.oid, 'USAGE') AND bool_and(pg_catalog.has_function_privilege($1, p.oid, 'EXECUTE'))"
		" FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid"
		" WHERE n.nspname = 'cdi' AND p.proname IN ('_row_hash', '_bucket_sums', '_in_buckets', '_is_known') GROUP BY n.oid",
		.nargs = 1,.argtypes = {OIDOID}
	};

	cdi_plan_execute(&plan, (Datum[]) {ObjectIdGetDatum(role)}, NULL);
	return is_true(1);
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
 * Up to where the rows of a sync have ended.  Read before the statements that
 * look at those beyond it: the planner is to know that they are few of many, or
 * it would read all of the outbox.  What ends meanwhile is looked at twice.
 */
static Datum
cursor_of(int32 sync_id)
{
	static CdiPlan plan = {
		.query = "SELECT coalesce((SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = $1), 0)",
		.nargs = 1,.argtypes = {INT4OID}
	};
	bool		isnull;

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(sync_id)}, NULL);
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

/*
 * What is on its way: the newest outbox row of each key above the cursor and
 * above its dead letter (rows of a key end in their order).  A statement of its
 * own, because nobody but the rows themselves knows how many they are: the
 * statistics may be of before they were queued.
 */
static const char *const on_its_way_query =
"SELECT DISTINCT ON (o.primary_key) o.primary_key, o.operation, o.hash, o.payload\n"
"FROM cdi.outbox o\n"
"WHERE o.sync_id = $1 AND o.position > $4\n"
"  AND NOT EXISTS (SELECT FROM cdi.failed_deliveries f\n"
"                  WHERE f.sync_id = o.sync_id AND f.primary_key = o.primary_key AND f.position >= o.position)%s\n"
"ORDER BY o.primary_key, o.position DESC";

/*
 * State of the destination once everything has arrived: hash null where gone.
 * A statement of its own, because one that writes is never parallel.
 */
static const char *const expected_query =
"SELECT coalesce(w.primary_key, r.primary_key) AS primary_key,\n"
"       CASE WHEN w.primary_key IS NULL THEN r.hash WHEN w.operation <> 'delete' OR $2 THEN w.hash END AS hash,\n"
"       w.payload, CASE WHEN w.primary_key IS NULL THEN r.row_hash END AS row_hash, w.primary_key IS NULL AS idle\n"
"FROM (SELECT r.primary_key, r.hash, r.row_hash FROM cdi.sync_rows r WHERE r.sync_id = $1%s) r\n"
"FULL JOIN cdi_on_its_way w ON w.primary_key = r.primary_key";

/*
 * Classify every row and queue what differs.  cdi_model and cdi_expected are
 * tuplestores.
 *
 * classified	one row per key in either; payload only where it is needed
 *
 * queue		deletions first: what has the same order key in the destination,
 *				under another primary key, is to be there afterwards
 *
 * Nothing here joins sync_rows: to the planner a sync that is newer than the
 * statistics has no rows there, and it would compare each with each.
 *
 * A key that the model has twice is invalid, but it is there: not removed.
 * What the action does not serve is not queued and changes the acknowledged
 * state at once: there is nothing to wait for.
 */
static const char *const diff_query =
"WITH duplicates AS MATERIALIZED (\n"
"  SELECT primary_key, count(*) AS n FROM cdi_model GROUP BY primary_key HAVING count(*) > 1),\n"
"classified AS MATERIALIZED (\n"
"  SELECT coalesce(m.primary_key, e.primary_key) AS primary_key, coalesce(m.hash, e.hash) AS hash, class,\n"
"         m.row_hash, e.idle AND e.row_hash IS DISTINCT FROM m.row_hash AS other_row,\n"
"         CASE class WHEN 'added' THEN $6 WHEN 'changed' THEN $7 WHEN 'removed' THEN $8 ELSE $9 END AS operation,\n"
"         CASE class WHEN 'removed' THEN coalesce(e.payload, (SELECT r.payload FROM cdi.sync_rows r\n"
"                                                 WHERE r.sync_id = $1 AND r.primary_key = e.primary_key))\n"
"                    ELSE m.payload END AS payload\n"
"  FROM (SELECT * FROM cdi_model a\n"
"        WHERE NOT EXISTS (SELECT FROM duplicates d WHERE d.primary_key = a.primary_key)) m\n"
"  FULL JOIN cdi_expected e ON e.primary_key = m.primary_key\n"
"  CROSS JOIN LATERAL (SELECT CASE\n"
"      WHEN m.primary_key IS NULL THEN 'removed'\n"
"      WHEN e.hash IS NULL THEN 'added'\n"
"      WHEN e.hash = m.hash OR m.hash IS NULL THEN 'unchanged'\n"
"      ELSE 'changed' END) AS c(class)\n"
"  WHERE m.primary_key IS NOT NULL\n"
"     OR (e.hash IS NOT NULL AND NOT EXISTS (SELECT FROM duplicates d WHERE d.primary_key = e.primary_key))),\n"
"queue AS MATERIALIZED (\n"
"  SELECT nextval('cdi.outbox_position') AS position, c.*\n"
"  FROM (SELECT * FROM classified WHERE operation = 'delete'\n"
"        UNION ALL SELECT * FROM classified WHERE operation <> 'delete') c\n"
"  WHERE c.operation = ANY ($3)),\n"
"queued AS (\n"
"  INSERT INTO cdi.outbox (position, queued_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload, row_hash)\n"
"  SELECT q.position, clock_timestamp(), $1, $2, q.operation, q.primary_key, q.hash,\n"
"         coalesce(f.idempotency_key,\n"
"                  left(encode(sha256(convert_to(concat_ws('|', $1, q.operation, q.hash, q.position, q.primary_key), 'UTF8')), 'hex'), 32)::uuid),\n"
"         q.payload, q.row_hash\n"
"  FROM queue q\n"
"  LEFT JOIN cdi.failed_deliveries f ON f.sync_id = $1 AND f.primary_key = q.primary_key\n"
"                                   AND f.hash = q.hash AND f.operation = q.operation\n"
"  RETURNING 1),\n"
"taken AS (\n"
"  INSERT INTO cdi.sync_rows (sync_id, primary_key, hash, payload, acknowledged_at, row_hash)\n"
"  SELECT $1, c.primary_key, c.hash, c.payload, clock_timestamp(), c.row_hash FROM classified c\n"
"  WHERE c.class IN ('added', 'changed') AND (c.operation = ANY ($3)) IS NOT TRUE\n"
"  ON CONFLICT (sync_id, primary_key) DO UPDATE\n"
"  SET hash = excluded.hash, payload = excluded.payload, acknowledged_at = excluded.acknowledged_at,\n"
"      row_hash = excluded.row_hash),\n"
"seen AS (\n"
"  INSERT INTO cdi.sync_rows AS r (sync_id, primary_key, hash, payload, acknowledged_at, row_hash)\n"
"  SELECT $1, c.primary_key, c.hash, c.payload, clock_timestamp(), c.row_hash FROM classified c\n"
"  WHERE c.class = 'unchanged' AND c.operation IS NULL AND c.other_row\n"
"  ON CONFLICT (sync_id, primary_key) DO UPDATE SET row_hash = excluded.row_hash WHERE r.hash = excluded.hash),\n"
"forgotten AS (\n"
"  DELETE FROM cdi.sync_rows r\n"
"  WHERE r.sync_id = $1 AND r.primary_key = ANY (ARRAY(SELECT c.primary_key FROM classified c\n"
"                                                      WHERE c.class = 'removed' AND (c.operation = ANY ($3)) IS NOT TRUE))),\n"
"counts AS (\n"
"  SELECT count(*) FILTER (WHERE class = 'added') AS added, count(*) FILTER (WHERE class = 'changed') AS changed,\n"
"         count(*) FILTER (WHERE class = 'removed') AS removed, count(*) FILTER (WHERE class = 'unchanged') AS unchanged\n"
"  FROM classified)\n"
"UPDATE cdi.sync_runs r\n"
"SET finished_at = clock_timestamp(), queried = $4 + c.removed, added = c.added, changed = c.changed, removed = c.removed,\n"
"    unchanged = c.unchanged + $10, invalid = $5 + coalesce((SELECT sum(n) FROM duplicates), 0),\n"
"    queued = (SELECT count(*) FROM queued)\n"
"FROM counts c WHERE r.run_id = $2\n"
"RETURNING r.queued";

/*
 * Sums over what is expected, for the model to compare itself with; NULL where
 * every row is to be looked at.  What is on its way has the sum of no row: those
 * buckets are looked at.
 */
static CdiBuckets *
expected_sums(const CdiSync *sync)
{
	static CdiPlan known = {
		.query = "SELECT count(*), (SELECT max(s.queried) FROM (SELECT s.queried FROM cdi.sync_runs s WHERE s.sync_id = $1 AND s.queried > 0"
		"  ORDER BY s.run_id DESC LIMIT 1000) s) FROM (SELECT FROM cdi.sync_rows r WHERE r.sync_id = $1 LIMIT $2) r",
		.nargs = 2,.argtypes = {INT4OID, INT4OID}
	};
	static const Oid types[] = {INT4OID, INT8OID, INT4OID};
	SPIPlanPtr	plan;
	Datum		values[] = {Int32GetDatum(sync->sync_id), cursor_of(sync->sync_id), (Datum) 0};
	int64		n;
	int64		buckets;
	bool		isnull;

	cdi_plan_execute(&known, (Datum[]) {values[0], Int32GetDatum(FEW_ROWS)}, NULL);
	n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (n == 0)
		return NULL;
	buckets = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)) / ROWS_OF_BUCKET;
	values[2] = Int32GetDatum(cdi_bucket_count(Max(2 * n, buckets)));
	plan = SPI_prepare_cursor("SELECT cdi._bucket_sums($3, s.primary_key, s.row_hash) FROM ("
							  "SELECT r.primary_key, r.row_hash FROM cdi.sync_rows r WHERE r.sync_id = $1"
							  " UNION ALL SELECT o.primary_key, NULL FROM cdi.outbox o WHERE o.sync_id = $1 AND o.position > $2) s",
							  lengthof(types), (Oid *) types, CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL || SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not add up the rows of a sync: %s", SPI_result_code_string(SPI_result));
	SPI_freeplan(plan);
	return (CdiBuckets *) DatumGetByteaP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* What each class of rows is sent as; NULL: not at all */
static const char *const operations[][4] = {
	/* added, changed, removed, unchanged */
	[CDI_SYNC_MIRROR] = {"insert", "update", "delete", NULL},
	[CDI_SYNC_UPSERT] = {"insert", "update", NULL, NULL},
	[CDI_SYNC_INSERT] = {"insert", NULL, NULL, NULL},
	[CDI_SYNC_UPDATE] = {"update", "update", NULL, NULL},
	[CDI_SYNC_APPEND] = {"insert", "insert", NULL, NULL},
	[CDI_SYNC_DELETE] = {"delete", NULL, NULL, NULL},
	[CDI_SYNC_FULL] = {"insert", "update", "delete", "update"},
};

/* For statements by SPI, under a name */
static void
register_rows(const char *name, TupleDesc desc, Tuplestorestate *store)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = Max(tuplestore_tuple_count(store), 1);
	relation->reldata = store;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a model");
}

/* What a statement returns.  Its plan may be parallel. */
static Tuplestorestate *
collect(const char *query, ParamListInfo params)
{
	static const Oid types[] = {INT4OID, BOOLOID, BYTEAOID, INT8OID};
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	SPIExecuteOptions options = {.params = params,.dest = CreateDestReceiver(DestTuplestore)};
	SPIPlanPtr	plan = SPI_prepare_cursor(query, lengthof(types), (Oid *) types, CURSOR_OPT_PARALLEL_OK);

	SetTuplestoreDestReceiverParams(options.dest, store, CurrentMemoryContext, false, NULL, NULL);
	if (plan == NULL || SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rows of a sync: %s", SPI_result_code_string(SPI_result));
	SPI_freeplan(plan);
	return store;
}

/* Of expected_query */
static TupleDesc
expected_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(5);

	TupleDescInitEntry(desc, 1, "primary_key", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 2, "hash", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, 3, "payload", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, 4, "row_hash", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, 5, "idle", BOOLOID, -1, 0);
	return desc;
}

#define PRIMARY_KEY 0
#define ROW_HASH 3

/* What is expected: of a part the rows of cdi_model, else those of the buckets that differ, or all. */
static Tuplestorestate *
collect_expected(const CdiSync *sync, bytea *differ, bool part)
{
	const char *of_rows = "";
	const char *of_queue = "";
	TupleDesc	on_its_way = CreateTemplateTupleDesc(4);
	Tuplestorestate *waiting;
	Tuplestorestate *store;
	ParamListInfo params = makeParamList(4);
	int			guc_level = NewGUCNestLevel();

	TupleDescInitEntry(on_its_way, 1, "primary_key", TEXTOID, -1, 0);
	TupleDescInitEntry(on_its_way, 2, "operation", TEXTOID, -1, 0);
	TupleDescInitEntry(on_its_way, 3, "hash", UUIDOID, -1, 0);
	TupleDescInitEntry(on_its_way, 4, "payload", JSONBOID, -1, 0);
	/* Of a part only those keys are looked at: the others are not removed. */
	if (part)
	{
		of_rows = " AND r.primary_key IN (SELECT m.primary_key FROM cdi_model m)";
		of_queue = "\n  AND o.primary_key IN (SELECT m.primary_key FROM cdi_model m)";
	}
	else if (differ)
		of_rows = " AND cdi._in_buckets(r.primary_key, $3)";
	params->params[0] = (ParamExternData) {Int32GetDatum(sync->sync_id), false, PARAM_FLAG_CONST, INT4OID};
	params->params[1] = (ParamExternData) {BoolGetDatum(sync->mode == CDI_SYNC_DELETE), false, PARAM_FLAG_CONST, BOOLOID};
	params->params[2] = (ParamExternData) {PointerGetDatum(differ), differ == NULL, 0, BYTEAOID};
	params->params[3] = (ParamExternData) {cursor_of(sync->sync_id), false, PARAM_FLAG_CONST, INT8OID};
	/* few rows by the statistics may be many */
	(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	waiting = collect(psprintf(on_its_way_query, of_queue), params);
	AtEOXact_GUC(true, guc_level);
	register_rows("cdi_on_its_way", on_its_way, waiting);
	store = collect(psprintf(expected_query, of_rows), params);
	SPI_unregister_relation("cdi_on_its_way");
	tuplestore_end(waiting);
	return store;
}

/* The next row, in a slot for it */
static bool
next_expected(Tuplestorestate *store, TupleTableSlot *slot)
{
	CHECK_FOR_INTERRUPTS();
	if (!tuplestore_gettupleslot(store, true, false, slot))
		return false;
	slot_getallattrs(slot);
	return true;
}

/* For the model to leave out what is as expected.  What is on its way has no row hash. */
static CdiKnown *
known_rows(Tuplestorestate *expected)
{
	CdiKnown   *known = cdi_known_make(tuplestore_tuple_count(expected));
	TupleTableSlot *slot = MakeSingleTupleTableSlot(expected_desc(), &TTSOpsMinimalTuple);

	while (next_expected(expected, slot))
		if (!slot->tts_isnull[ROW_HASH])
			cdi_known_add(known, DatumGetTextPP(slot->tts_values[PRIMARY_KEY]), DatumGetUUIDP(slot->tts_values[ROW_HASH]));
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_rescan(expected);
	return known;
}

/* What is to be compared: not a row that the model has as it is, unless its key came again. */
static Tuplestorestate *
without_unchanged(Tuplestorestate *expected, CdiModelRows *rows)
{
	Tuplestorestate *rest = tuplestore_begin_heap(false, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(expected_desc(), &TTSOpsMinimalTuple);

	while (next_expected(expected, slot))
	{
		Datum		primary_key = slot->tts_values[PRIMARY_KEY];
		Datum		row_hash = slot->tts_values[ROW_HASH];
		CdiMet		met = CDI_MET_NOT;

		if (!slot->tts_isnull[ROW_HASH])
			met = cdi_known_met(rows->known, DatumGetTextPP(primary_key), DatumGetUUIDP(row_hash));
		if (met == CDI_MET_ONCE)
			continue;
		tuplestore_puttupleslot(rest, slot);
		if (met == CDI_MET_AGAIN)
		{
			/* the first of them, which was taken for the only one */
			tuplestore_putvalues(rows->store, rows->desc, (Datum[]) {primary_key, 0, 0, row_hash},
								 (bool[]) {false, true, true, false});
			rows->stored++;
			rows->same--;
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(expected);
	return rest;
}

static void
queue_differences(const CdiSync *sync, int64 run_id, CdiModelRows *rows, Tuplestorestate *expected, bool part, bool everything)
{
	static const Oid types[] = {INT4OID, INT8OID, TEXTARRAYOID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	INT8OID};
	static const char *const all[] = {"insert", "update", "delete"};
	Datum		served[lengthof(all)];
	int			nserved = 0;
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = "          ";
	int			result;

	register_rows("cdi_model", rows->desc, rows->store);
	if (expected == NULL)
		expected = collect_expected(sync, NULL, part);
	register_rows("cdi_expected", expected_desc(), expected);
	for (int i = 0; i < lengthof(all); i++)
		if (cdi_action_serves(sync->action, all[i]))
			served[nserved++] = CStringGetTextDatum(all[i]);
	values[0] = Int32GetDatum(sync->sync_id);
	values[1] = Int64GetDatum(run_id);
	values[2] = PointerGetDatum(construct_array(served, nserved, TEXTOID, -1, false, TYPALIGN_INT));
	values[3] = Int64GetDatum(rows->stored + rows->same + rows->invalid);
	values[4] = Int64GetDatum(rows->invalid);
	for (int i = 0; i < 4; i++)
	{
		const char *operation = operations[sync->mode][i];

		if (i == 3 && everything && operation == NULL)
			operation = operations[sync->mode][1] ? operations[sync->mode][1] : operations[sync->mode][0];
		values[5 + i] = operation ? CStringGetTextDatum(operation) : (Datum) 0;
		nulls[5 + i] = operation ? ' ' : 'n';
	}
	values[9] = Int64GetDatum(rows->same);
	result = SPI_execute_with_args(diff_query, lengthof(types), (Oid *) types, values, nulls, false, 0);
	if (result != SPI_OK_UPDATE_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not queue the differences of a sync: %s", SPI_result_code_string(result));
	SPI_unregister_relation("cdi_expected");
	tuplestore_end(expected);
	SPI_unregister_relation("cdi_model");
}

/* Where the rows that were looked at end */
static void
keep_change_value(const CdiSync *sync, const char *value)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs SET change_value = $2 WHERE sync_id = $1",
		.nargs = 2,.argtypes = {INT4OID, TEXTOID}
	};

	if (value != NULL)
		cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(sync->sync_id), CStringGetTextDatum(value)}, NULL);
}

int64
cdi_sync_execute(CdiSync *sync, bool everything, const char *only_key)
{
	CdiModelRows *rows;
	Tuplestorestate *expected = NULL;
	CdiOwnerScope scope;
	int64		run_id;
	bool		part = only_key != NULL || (sync->change_column != NULL && sync->change_value != NULL && !everything);

	if (only_key != NULL)
		sync->model.condition = psprintf("model.%s::pg_catalog.text OPERATOR(pg_catalog.=) %s",
										 quote_identifier(sync->model.primary_key), quote_literal_cstr(only_key));
	else if (sync->change_column != NULL)
	{
		sync->model.change_column = sync->change_column;
		/* Those at the value itself again: others may have come to it since. */
		if (part)
			sync->model.condition = psprintf("model.%s >= %s", quote_identifier(sync->change_column),
											 quote_literal_cstr(sync->change_value));
	}
	cdi_owner_enter(&scope);
	run_id = begin_run(sync->sync_id);
	if (sync->model.hash_key != NULL && !may_hash(sync->model.run_as))
		sync->model.hash_key = NULL;
	if (sync->model.hash_key != NULL && !part && !everything && sync->mode != CDI_SYNC_FULL)
		sync->model.expected = expected_sums(sync);
	cdi_owner_leave(&scope);

	/* What the model reads must not be older than the lock. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	rows = cdi_model_run(&sync->model);
	if (rows->as_expected)
	{
		expected = tuplestore_begin_heap(false, false, work_mem);
		rows->same = rows->summed;
	}
	else if (rows->differ != NULL)
	{
		cdi_owner_enter(&scope);
		expected = collect_expected(sync, rows->differ, false);
		rows->known = known_rows(expected);
		cdi_owner_leave(&scope);
		cdi_model_read(&sync->model, rows);
		expected = without_unchanged(expected, rows);
	}
	PopActiveSnapshot();
	/* It would take everything away. */
	if (!part && rows->invalid > 0 && rows->stored + rows->same == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("model of sync \"%s\" cannot be used", sync->name),
				 errdetail("None of its " INT64_FORMAT " rows has a primary key: \"%s\" is null, or longer than %d bytes.",
						   rows->invalid, sync->model.primary_key, CDI_MAX_PRIMARY_KEY)));
	if (only_key != NULL && rows->stored + rows->invalid == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("the model of sync \"%s\" returns no row with this primary key", sync->name)));

	cdi_owner_enter(&scope);
	queue_differences(sync, run_id, rows, expected, part, everything || only_key != NULL);
	if (only_key == NULL)
		keep_change_value(sync, rows->change_value);
	cdi_owner_leave(&scope);
	tuplestore_end(rows->store);
	return run_id;
}

static void
check_transaction(const char *function)
{
	cdi_prevent_in_recovery(function);
	cdi_require_storage();
	/* An older snapshot would not see what the run before queued. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() needs isolation level read committed", function)));
}

static int64
run(const char *name, bool everything, const char *only_key)
{
	MemoryContext caller = CurrentMemoryContext;
	CdiOwnerScope scope;
	CdiSync    *sync;
	int64		run_id;

	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	SPI_connect();
	cdi_owner_enter(&scope);
	sync = cdi_sync_load(name, caller);
	cdi_owner_leave(&scope);
	run_id = cdi_sync_execute(sync, everything, only_key);
	SPI_finish();
	return run_id;
}

PG_FUNCTION_INFO_V1(cdi_sync_run);

Datum
cdi_sync_run(PG_FUNCTION_ARGS)
{
	check_transaction("cdi_sync_run");
	PG_RETURN_INT64(run(cdi_text_argument(fcinfo, 0, "sync"), !PG_ARGISNULL(1) && PG_GETARG_BOOL(1), NULL));
}

PG_FUNCTION_INFO_V1(cdi_sync_test_row);

/* One row, whether it differs or not */
Datum
cdi_sync_test_row(PG_FUNCTION_ARGS)
{
	check_transaction("cdi_sync_test_row");
	PG_RETURN_INT64(run(cdi_text_argument(fcinfo, 0, "sync"), false, cdi_text_argument(fcinfo, 1, "primary_key")));
}
