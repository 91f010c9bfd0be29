/*
 * sync_declare.c
 *		Declare a sync, change it, and say whether it may run.
 */
#include "activate/model.h"
#include "activate/stream.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "worker/worker.h"

static const char *const modes[] = {"mirror", "upsert", "insert", "update", "append", "delete", "full"};

char *
cdi_row_text(MemoryContext context, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

int32
cdi_row_int(int column)
{
	bool		isnull;

	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull));
}

void
cdi_sync_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_UNKNOWN_SYNC),
			 errmsg("sync \"%s\" does not exist", name),
			 errhint("SELECT name FROM cdi.syncs lists those that do.")));
}

void
cdi_sync_is_stream(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is a stream of events", name),
			 errdetail("It has no model and no runs: events go as they come."),
			 errhint("cdi_sync_preview() shows what it sends, cdi_alter_event_stream() changes it.")));
}

CdiSyncMode
cdi_sync_mode(const char *name)
{
	for (int i = 0; i < lengthof(modes); i++)
		if (strcmp(modes[i], name) == 0)
			return (CdiSyncMode) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is no mode of a sync", name),
			 errhint("Modes are mirror, upsert, insert, update, append, delete and full.")));
}

static json_t *
parse(const CdiModel *model, const char *what, const char *text)
{
	char	   *error = NULL;
	json_t	   *node = cdi_json_parse(CurrentMemoryContext, text, strlen(text), &error);

	if (!json_is_object(node))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("%s of sync \"%s\" cannot be used", what, model->sync),
				 errdetail("%s.", error ? error : "It must be an object")));
	return node;
}

/* What is wrong with it is said of the sync, not of a specification. */
static json_t *
parse_expression(const CdiModel *model, const char *what, const char *text, CdiMapRules rules)
{
	MemoryContext context = CurrentMemoryContext;
	json_t	   *expression = parse(model, what, text);

	PG_TRY();
	{
		cdi_map_check(expression, rules, what);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode != ERRCODE_CDI_INVALID_SPEC)
			ReThrowError(error);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("%s of sync \"%s\" cannot be used", what, model->sync),
				 errdetail("%s", error->detail)));
	}
	PG_END_TRY();
	return expression;
}

static void
take_columns(CdiModel *model, const CdiColumns *columns)
{
	model->columns = columns->all ? NULL : columns->names ? columns->names : palloc(sizeof(char *));
	model->ncolumns = columns->n;
	model->clock = columns->clock;
}

const json_t *
cdi_sync_mapping(CdiModel *model, const CdiSpec *spec, const json_t *action, const char *mapping, const char *nulls,
				 const char *order_key)
{
	const char *key;
	json_t	   *policy;
	CdiColumns	columns = {0};
	const json_t *order = order_key ? parse_expression(model, "order key", order_key, (CdiMapRules) {.row = true}) : cdi_action_order(action);

	if (json_object_get(action, "when") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("the action of sync \"%s\" is for streams of events", model->sync),
				 errdetail("It has a condition (\"when\"), which says which events it is for."),
				 errhint("Use an action without one, and let the model choose the rows; or send events with cdi_create_event_stream().")));
	if (mapping != NULL)
	{
		model->mapping = parse_expression(model, "mapping", mapping, (CdiMapRules) {.row = true,.sync = true,.columns = &columns});
		take_columns(model, &columns);
	}
	else
	{
		cdi_action_columns(spec, action, order, &columns);
		take_columns(model, &columns);
		/* The action maps when the row is sent: what it does with the time makes no difference. */
		model->clock = false;
	}
	model->nulls = nulls ? parse(model, "null policy", nulls) : NULL;
	json_object_foreach(model->nulls, key, policy)
		if (!json_is_string(policy) ||
			(strcmp(json_string_value(policy), "send") != 0 && strcmp(json_string_value(policy), "omit") != 0))
			ereport(ERROR,
					(errcode(ERRCODE_CDI_INVALID_SYNC),
					 errmsg("null policy of sync \"%s\" cannot be used", model->sync),
					 errdetail("Of \"%s\" it says neither \"send\" nor \"omit\".", key)));
	model->rules = psprintf("%s %s %s", mapping ? mapping : "", nulls ? nulls : "",
							cdi_json_string(action, "nulls") ? cdi_json_string(action, "nulls") : "");
	model->send_nulls = cdi_json_string(action, "nulls") != NULL && strcmp(cdi_json_string(action, "nulls"), "send") == 0;
	return order;
}

/* What is declared of a sync */
typedef struct Declaration
{
	char	   *name;
	char	   *destination;
	char	   *model;
	char	   *primary_key;
	char	   *action;			/* NULL: the destination's default */
	char	   *mode;
	char	   *mapping;		/* JSON, or NULL */
	char	   *nulls;			/* JSON, or NULL */
	char	   *change_column;
	char	   *order_key;		/* JSON, or NULL */
	int32		destination_id; /* found by check() */
} Declaration;

/* What the order key reads must be there: else it would be the same of all rows, and no order at all. */
static void
check_order(const CdiModel *model, const json_t *order)
{
	CdiModel	alone = *model;
	CdiColumns	columns = {0};
	const char *first = json_object_iter_key(json_object_iter(model->mapping));

	cdi_map_check(order, (CdiMapRules) {.row = true,.columns = &columns}, "order key");
	/* a mapping that is one expression can make any member */
	if (columns.all || (first != NULL && *first == '@'))
		return;
	for (int i = 0; i < columns.n; i++)
	{
		bool		there = json_object_get(model->mapping, columns.names[i]) != NULL;

		if (model->mapping == NULL)
		{
			alone.columns = &columns.names[i];
			alone.ncolumns = 1;
			cdi_model_check(&alone);
			there = alone.ncolumns == 1;	/* it takes away what is not there */
		}
		if (!there)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_INVALID_SYNC),
					 errmsg("order key of sync \"%s\" cannot be used", model->sync),
					 errdetail("The %s has no \"%s\".", model->mapping ? "mapping" : "model", columns.names[i])));
	}
}

/*
 * Is this a sync that can run?  As the caller, who will be the model's role;
 * SPI connected.
 */
static void
check(Declaration *sync, CdiModel *model)
{
	static CdiPlan find = {
		.query = "SELECT d.destination_id, p.spec::text FROM cdi.destinations d"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE d.name = $1 FOR KEY SHARE OF d",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	CdiOwnerScope scope;
	char	   *text;
	CdiSpec    *spec;
	const json_t *order;

	(void) cdi_sync_mode(sync->mode);
	cdi_owner_enter(&scope);
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(sync->destination)}, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("destination \"%s\" does not exist", sync->destination),
				 errhint("SELECT cdi_create_destination('%s', ...) creates it.", sync->destination)));
	sync->destination_id = cdi_row_int(1);
	text = cdi_row_text(caller, 2);
	cdi_owner_leave(&scope);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", sync->destination),
				 errhint("Install it with cdi_install_destination_spec().")));
	spec = cdi_spec_load(CurrentMemoryContext, text, false);
	if (sync->action == NULL && cdi_spec_default_action(spec) != NULL)
		sync->action = pstrdup(cdi_spec_default_action(spec));
	if (sync->action == NULL || cdi_spec_action(spec, sync->action) == NULL)
	{
		StringInfoData names;
		const char *key;
		json_t	   *member;

		initStringInfo(&names);
		json_object_foreach(json_object_get(spec->root, "actions"), key, member)
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", key);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 sync->action ? errmsg("destination \"%s\" has no action \"%s\"", sync->destination, sync->action) :
				 errmsg("destination \"%s\" has several actions", sync->destination),
				 errdetail("Its actions are: %s.", names.data)));
	}
	model->sync = sync->name;
	model->query = sync->model;
	model->primary_key = sync->primary_key;
	order = cdi_sync_mapping(model, spec, cdi_spec_action(spec, sync->action), sync->mapping, sync->nulls, sync->order_key);
	model->change_column = sync->change_column;
	cdi_model_check(model);
	if (sync->order_key != NULL)
		check_order(model, order);
}

/* The row of cdi.syncs; false where it is not there (to change) or is (to create). */
static bool
save(const Declaration *sync, const CdiModel *model, bool create)
{
	static CdiPlan insert = {
		.query = "INSERT INTO cdi.syncs (name, destination_id, action, model, primary_key, run_as, search_path, mode,"
		" mapping, nulls, change_column, order_key)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, coalesce($10::jsonb, '{}'), $11, $12::jsonb)"
		" ON CONFLICT (name) DO NOTHING RETURNING sync_id",
		.nargs = 12,
		.argtypes = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID}
	};
	static CdiPlan update = {
		.query = "UPDATE cdi.syncs SET destination_id = $2, action = $3, model = $4, primary_key = $5, run_as = $6,"
		" search_path = $7, mode = $8, mapping = $9::jsonb, nulls = coalesce($10::jsonb, '{}'), change_column = $11,"
		" order_key = $12::jsonb"
		" WHERE name = $1 RETURNING sync_id",
		.nargs = 12,
		.argtypes = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID}
	};
	char		nulls[] = "            ";
	const char *optional[] = {sync->mapping, sync->nulls, sync->change_column, sync->order_key};
	Datum		values[12];
	CdiOwnerScope scope;

	values[0] = CStringGetTextDatum(sync->name);
	values[1] = Int32GetDatum(sync->destination_id);
	values[2] = CStringGetTextDatum(sync->action);
	values[3] = CStringGetTextDatum(model->query);
	values[4] = CStringGetTextDatum(model->primary_key);
	values[5] = DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(model->run_as, false)));
	values[6] = CStringGetTextDatum(model->search_path);
	values[7] = CStringGetTextDatum(sync->mode);
	for (int i = 0; i < lengthof(optional); i++)
	{
		values[8 + i] = optional[i] ? CStringGetTextDatum(optional[i]) : (Datum) 0;
		nulls[8 + i] = optional[i] ? ' ' : 'n';
	}
	cdi_owner_enter(&scope);
	cdi_plan_execute(create ? &insert : &update, values, nulls);
	cdi_owner_leave(&scope);
	return SPI_processed == 1;
}

static CdiModel
model_of_caller(void)
{
	CdiModel	model = {
		.run_as = GetUserId(),
		.search_path = pstrdup(GetConfigOption("search_path", false, false))
	};

	return model;
}

PG_FUNCTION_INFO_V1(cdi_create_sync);

Datum
cdi_create_sync(PG_FUNCTION_ARGS)
{
	Declaration sync = {
		.name = cdi_text_argument(fcinfo, 0, "name"),
		.destination = cdi_text_argument(fcinfo, 1, "destination"),
		.model = cdi_text_argument(fcinfo, 2, "model"),
		.primary_key = cdi_text_argument(fcinfo, 3, "primary_key"),
		.action = cdi_optional_text(fcinfo, 4),
		.mode = cdi_text_argument(fcinfo, 5, "mode"),
		.mapping = cdi_optional_json(fcinfo, 6),
		.nulls = cdi_optional_json(fcinfo, 7),
		.change_column = cdi_optional_text(fcinfo, 8),
		.order_key = cdi_optional_json(fcinfo, 9)
	};
	CdiModel	model = model_of_caller();
	int32		sync_id;

	cdi_prevent_in_recovery("cdi_create_sync");
	SPI_connect();
	check(&sync, &model);
	if (!save(&sync, &model, true))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("sync \"%s\" exists already", sync.name),
				 errhint("cdi_alter_sync() changes it.")));
	sync_id = cdi_row_int(1);
	SPI_finish();
	PG_RETURN_INT32(sync_id);
}

PG_FUNCTION_INFO_V1(cdi_alter_sync);

/*
 * What is not given stays.  The model then runs as who changed it: it is checked
 * as that role, which may not be who declared it.
 */
Datum
cdi_alter_sync(PG_FUNCTION_ARGS)
{
	static CdiPlan find = {
		.query = "SELECT d.name, s.model, s.primary_key, s.action, s.mode, s.mapping::text, s.nulls::text, s.change_column,"
		" s.kind = 'events', s.order_key::text"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id) WHERE s.name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Declaration sync = {.name = cdi_text_argument(fcinfo, 0, "name")};
	CdiModel	model = model_of_caller();
	CdiOwnerScope scope;
	bool		same_sql = PG_ARGISNULL(1);

	cdi_prevent_in_recovery("cdi_alter_sync");
	SPI_connect();
	cdi_owner_enter(&scope);
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(sync.name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(sync.name);
	if (strcmp(cdi_row_text(caller, 9), "t") == 0)
		cdi_sync_is_stream(sync.name);
	sync.destination = cdi_row_text(caller, 1);
	sync.model = same_sql ? cdi_row_text(caller, 2) : cdi_optional_text(fcinfo, 1);
	sync.primary_key = PG_ARGISNULL(2) ? cdi_row_text(caller, 3) : cdi_optional_text(fcinfo, 2);
	sync.action = PG_ARGISNULL(3) ? cdi_row_text(caller, 4) : cdi_optional_text(fcinfo, 3);
	sync.mode = PG_ARGISNULL(4) ? cdi_row_text(caller, 5) : cdi_optional_text(fcinfo, 4);
	sync.mapping = PG_ARGISNULL(5) ? cdi_row_text(caller, 6) : cdi_optional_json(fcinfo, 5);
	sync.nulls = PG_ARGISNULL(6) ? cdi_row_text(caller, 7) : cdi_optional_json(fcinfo, 6);
	sync.change_column = PG_ARGISNULL(7) ? cdi_row_text(caller, 8) : cdi_optional_text(fcinfo, 7);
	sync.order_key = PG_ARGISNULL(8) ? cdi_row_text(caller, 10) : cdi_optional_json(fcinfo, 8);
	cdi_owner_leave(&scope);
	/* "{}" and the empty text take a mapping, an order and a change column away. */
	if (sync.mapping != NULL && strcmp(sync.mapping, "{}") == 0)
		sync.mapping = NULL;
	if (sync.order_key != NULL && strcmp(sync.order_key, "{}") == 0)
		sync.order_key = NULL;
	if (sync.change_column != NULL && *sync.change_column == '\0')
		sync.change_column = NULL;
	check(&sync, &model);
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	if (!save(&sync, &model, false))
		cdi_sync_unknown(sync.name);
	SPI_finish();
	PG_RETURN_VOID();
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
	static CdiPlan followers = {
		.query = "SELECT string_agg(f.name, ', ' ORDER BY f.name) FROM cdi.syncs f JOIN cdi.syncs s ON f.schedule_after = s.sync_id"
		" WHERE s.name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan state[] = {
		{.query = "DELETE FROM cdi.sync_rows WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.failed_deliveries WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.push_cursor WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.event_stream_counts WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	CdiOwnerScope scope;
	int32		sync_id;

	cdi_prevent_in_recovery("cdi_drop_sync");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&followers, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("other syncs run after sync \"%s\"", name),
				 errdetail("They are: %s.", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errhint("Give them another schedule with cdi_sync_schedule() first.")));
	cdi_plan_execute(&drop, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	sync_id = cdi_row_int(1);
	for (int i = 0; i < lengthof(state); i++)
		cdi_plan_execute(&state[i], (Datum[]) {Int32GetDatum(sync_id)}, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}


/* ---- whether it may run ---- */

/* A statement on cdi.syncs whose first argument is the name, the second a reason */
static void
change(CdiPlan *plan, char *name, const char *reason)
{
	CdiOwnerScope scope;

	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(plan, (Datum[])
					 {
						 CStringGetTextDatum(name), reason ? CStringGetTextDatum(reason) : (Datum) 0
					 }, reason ? "  " : " n");
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	SPI_finish();
	cdi_owner_leave(&scope);
}

PG_FUNCTION_INFO_V1(cdi_sync_pause);

Datum
cdi_sync_pause(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs SET enabled = false, paused_reason = coalesce($2, 'paused by ' || session_user),"
		" paused_at = pg_catalog.clock_timestamp() WHERE name = $1",
		.nargs = 2,.argtypes = {TEXTOID, TEXTOID}
	};

	cdi_prevent_in_recovery("cdi_sync_pause");
	change(&plan, cdi_text_argument(fcinfo, 0, "sync"), cdi_optional_text(fcinfo, 1));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_sync_resume);

Datum
cdi_sync_resume(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs SET enabled = true, paused_reason = NULL, paused_at = NULL WHERE name = $1",
		.nargs = 2,.argtypes = {TEXTOID, TEXTOID}
	};

	cdi_prevent_in_recovery("cdi_sync_resume");
	change(&plan, cdi_text_argument(fcinfo, 0, "sync"), NULL);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_sync_reset);

/*
 * What was acknowledged is forgotten and what is queued is passed over: the
 * next run sends every row.  A stream of events goes on with those to come.
 */
Datum
cdi_sync_reset(PG_FUNCTION_ARGS)
{
	static CdiPlan find = {
		.query = "SELECT sync_id FROM cdi.syncs WHERE name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan forget[] = {
		{.query = "DELETE FROM cdi.sync_rows WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.failed_deliveries WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "UPDATE cdi.syncs SET change_value = NULL WHERE sync_id = $1",.nargs = 1,.argtypes = {INT4OID}},
		{
			.query = "INSERT INTO cdi.push_cursor (sync_id, position) SELECT s.sync_id, CASE s.kind"
			" WHEN 'rows' THEN pg_catalog.nextval('cdi.outbox_position') ELSE $2 END"
			" FROM cdi.syncs s WHERE s.sync_id = $1"
			" ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position",
			.nargs = 2,.argtypes = {INT4OID, INT8OID}
		},
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "sync");
	CdiOwnerScope scope;
	int32		sync_id;

	cdi_prevent_in_recovery("cdi_sync_reset");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	sync_id = cdi_row_int(1);
	cdi_sync_lock(sync_id);
	for (int i = 0; i < lengthof(forget); i++)
		cdi_plan_execute(&forget[i], (Datum[]) {Int32GetDatum(sync_id), Int64GetDatum(cdi_watermark_compute())}, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}

/* ---- when it runs by itself ---- */

/* A job of pg_cron's under a name that is the sync's; a NULL line ends it. */
static void
set_cron(const char *name, const char *line, Oid schema)
{
	char	   *job = psprintf("cdi sync %s", name);
	char	   *command;
	Datum		values[3] = {CStringGetTextDatum(job), (Datum) 0, (Datum) 0};
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	/* a schema "cron" could be anybody's, and this runs as the caller */
	bool		installed = OidIsValid(get_extension_oid("pg_cron", true));

	if (!installed && line == NULL)
		return;
	if (!installed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cron is not installed in this database"),
				 errhint("CREATE EXTENSION pg_cron, or give an interval: cdi_sync_schedule('%s', every => '5 minutes').", name)));
	(void) SPI_execute_with_args("SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname OPERATOR(pg_catalog.=) $1", 1, types, values, NULL, false, 0);
	if (line == NULL)
		return;
	command = psprintf("SELECT %s.cdi_sync_run(%s)",
					   quote_identifier(get_namespace_name(schema)),
					   quote_literal_cstr(name));
	values[1] = CStringGetTextDatum(line);
	values[2] = CStringGetTextDatum(command);
	(void) SPI_execute_with_args("SELECT cron.schedule($1, $2, $3)", 3, types, values, NULL, false, 0);
}

/* Syncs that run one after another, up to the one that was given another place */
static void
check_circle(int32 before, int32 sync_id, const char *name)
{
	static CdiPlan plan = {
		.query = "SELECT coalesce(schedule_after, 0) FROM cdi.syncs WHERE sync_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};

	while (before != 0)
	{
		if (before == sync_id)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("sync \"%s\" cannot run after one that runs after it", name)));
		cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(before)}, NULL);
		before = SPI_processed == 1 ? cdi_row_int(1) : 0;
	}
}

PG_FUNCTION_INFO_V1(cdi_sync_schedule);

Datum
cdi_sync_schedule(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs s SET schedule_every = $2, schedule_on_change = $4, schedule_seen ="
		" CASE WHEN $4 THEN (SELECT w.position FROM cdi.watermark w) ELSE (SELECT max(r.run_id) FROM cdi.sync_runs r"
		"  JOIN cdi.syncs o USING (sync_id) WHERE o.name = $3) END,"
		" schedule_after = (SELECT o.sync_id FROM cdi.syncs o WHERE o.name = $3), scheduled_at = NULL"
		" WHERE s.name = $1 RETURNING s.schedule_after, s.sync_id, s.kind = 'events'",
		.nargs = 4,.argtypes = {TEXTOID, INTERVALOID, TEXTOID, BOOLOID}
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "sync");
	char	   *after = cdi_optional_text(fcinfo, 2);
	char	   *cron = cdi_optional_text(fcinfo, 4);
	bool		on_change = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	Interval	second = {.time = USECS_PER_SEC};
	CdiOwnerScope scope;
	bool		isnull;
	char		nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' ', after ? ' ' : 'n', ' ', '\0'};

	cdi_prevent_in_recovery("cdi_sync_schedule");
	cdi_require_storage();
	if (!PG_ARGISNULL(1) + (after != NULL) + on_change + (cron != NULL) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a sync has one kind of schedule")));
	if (!PG_ARGISNULL(1) && DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(1), IntervalPGetDatum(&second))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a sync runs at most once a second")));
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	SPI_connect();
	cdi_owner_enter(&scope);
	cdi_plan_execute(&plan, (Datum[])
					 {
						 CStringGetTextDatum(name), PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
						 after ? CStringGetTextDatum(after) : (Datum) 0, BoolGetDatum(on_change)
					 }, nulls);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull)))
		cdi_sync_is_stream(name);
	if (after != NULL)
	{
		Datum		found = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		if (isnull)
			cdi_sync_unknown(after);
		check_circle(DatumGetInt32(found), cdi_row_int(2), name);
	}
	cdi_owner_leave(&scope);
	set_cron(name, cron, get_func_namespace(fcinfo->flinfo->fn_oid));
	SPI_finish();
	PG_RETURN_VOID();
}
