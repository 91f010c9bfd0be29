/*
 * destination.c
 *		SQL functions that install specifications and create destinations.
 *
 * The tables are written as the owner of the data and by these functions
 * only, after the checks: a row of cdi.syncs says which SQL runs as which role.
 */
#include "activate/activate.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/errors.h"
#include "worker/worker.h"

static char *
text_of_jsonb(Jsonb *jsonb)
{
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* Rows that the plan changed, run as the owner */
static uint64
run_as_owner(CdiPlan *plan, Datum *values)
{
	CdiOwnerScope scope;
	uint64		processed;

	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(plan, values, NULL);
	processed = SPI_processed;
	SPI_finish();
	cdi_owner_leave(&scope);
	return processed;
}

static void
unknown(int sqlstate, const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s \"%s\" does not exist", what, name),
			 errhint("SELECT name FROM cdi.%ss lists those that do.", what)));
}

/* Arguments that must not be null in functions that are not strict */
char *
cdi_text_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

char *
cdi_optional_text(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

char *
cdi_optional_json(FunctionCallInfo fcinfo, int argument)
{
	Jsonb	   *value;

	if (PG_ARGISNULL(argument))
		return NULL;
	value = PG_GETARG_JSONB_P(argument);
	return JsonbToCString(NULL, &value->root, VARSIZE(value));
}

static Jsonb *
jsonb_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_JSONB_P(argument);
}

PG_FUNCTION_INFO_V1(cdi_install_destination_spec);

Datum
cdi_install_destination_spec(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.destination_specs (name, version, spec) VALUES ($1, $2, $3)"
		" ON CONFLICT (name, version) DO UPDATE SET spec = excluded.spec"
		" WHERE NOT cdi.destination_specs.builtin",
		.nargs = 3,.argtypes = {TEXTOID, TEXTOID, JSONBOID}
	};
	Jsonb	   *text = jsonb_argument(fcinfo, 0, "spec");
	CdiSpec    *spec;

	cdi_prevent_in_recovery("cdi_install_destination_spec");
	spec = cdi_spec_load(CurrentMemoryContext, text_of_jsonb(text), true);
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	if (run_as_owner(&plan, (Datum[])
					 {
						 CStringGetTextDatum(spec->name), CStringGetTextDatum(spec->version), JsonbPGetDatum(text)
					 }) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("destination specification \"%s\" version \"%s\" is built in", spec->name, spec->version),
				 errhint("Give the specification another version.")));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s@%s", spec->name, spec->version)));
}

PG_FUNCTION_INFO_V1(cdi_check_destination_spec);

/* The checks alone; returns how many tests passed. */
Datum
cdi_check_destination_spec(PG_FUNCTION_ARGS)
{
	CdiSpec    *spec = cdi_spec_load(CurrentMemoryContext, text_of_jsonb(PG_GETARG_JSONB_P(0)), true);

	PG_RETURN_INT32(json_array_size(json_object_get(spec->root, "tests")));
}

/*
 * The latest version of a specification, or the one named "name@version".
 */
static CdiSpec *
load_spec(const char *name)
{
	static CdiPlan plan = {
		.query = "SELECT spec::pg_catalog.text FROM cdi.destination_specs"
		" WHERE (name OPERATOR(pg_catalog.=) $1 AND $2 IS NULL) OR (name OPERATOR(pg_catalog.=) $3 AND version OPERATOR(pg_catalog.=) $2)"
		" ORDER BY created_at DESC, version DESC LIMIT 1",
		.nargs = 3,.argtypes = {TEXTOID, TEXTOID, TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	const char *at = strrchr(name, '@');
	CdiOwnerScope scope;
	char	   *text = NULL;

	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, (Datum[])
					 {
						 CStringGetTextDatum(name),
						 at ? CStringGetTextDatum(at + 1) : (Datum) 0,
						 at ? CStringGetTextDatum(pnstrdup(name, at - name)) : (Datum) 0
					 }, at ? "   " : " nn");
	if (SPI_processed > 0)
		text = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	cdi_owner_leave(&scope);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("destination specification \"%s\" does not exist", name),
				 errhint("SELECT name, version FROM cdi.destination_specs lists those that do.")));
	return cdi_spec_load(caller, text, false);
}

static void
check_settings(const CdiSpec *spec, Jsonb *settings)
{
	char	   *error = NULL;
	char	   *text = text_of_jsonb(settings);
	json_t	   *parsed = cdi_json_parse(CurrentMemoryContext, text, strlen(text), &error);

	if (parsed == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("settings cannot be used"),
				 errdetail("%s.", error),
				 errhint("Write large numbers as strings.")));
	(void) cdi_settings_check(spec, parsed, CurrentMemoryContext);
}

PG_FUNCTION_INFO_V1(cdi_create_destination);

Datum
cdi_create_destination(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.destinations (name, spec_name, spec_version, settings) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (name) DO NOTHING RETURNING destination_id",
		.nargs = 4,.argtypes = {TEXTOID, TEXTOID, TEXTOID, JSONBOID}
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	char	   *spec_name = cdi_text_argument(fcinfo, 1, "spec");
	CdiSpec    *spec;
	Jsonb	   *settings = jsonb_argument(fcinfo, 2, "settings");
	CdiOwnerScope scope;
	int32		id = 0;
	bool		isnull;

	cdi_prevent_in_recovery("cdi_create_destination");
	spec = load_spec(spec_name);
	check_settings(spec, settings);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, (Datum[])
					 {
						 CStringGetTextDatum(name), CStringGetTextDatum(spec->name),
						 CStringGetTextDatum(spec->version), JsonbPGetDatum(settings)
					 }, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("destination \"%s\" exists already", name),
				 errhint("cdi_alter_destination() changes its settings.")));
	id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT32(id);
}

PG_FUNCTION_INFO_V1(cdi_alter_destination);

Datum
cdi_alter_destination(PG_FUNCTION_ARGS)
{
	static CdiPlan find = {
		.query = "SELECT spec_name || '@' || spec_version FROM cdi.destinations WHERE name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan plan = {
		.query = "UPDATE cdi.destinations SET settings = $2, spec_name = $3, spec_version = $4 WHERE name = $1",
		.nargs = 4,.argtypes = {TEXTOID, JSONBOID, TEXTOID, TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	Jsonb	   *settings = jsonb_argument(fcinfo, 1, "settings");
	char	   *spec_name = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	CdiOwnerScope scope;
	CdiSpec    *spec;

	cdi_prevent_in_recovery("cdi_alter_destination");
	if (spec_name == NULL)
	{
		cdi_owner_enter(&scope);
		SPI_connect();
		cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(name)}, NULL);
		if (SPI_processed == 0)
			unknown(ERRCODE_CDI_UNKNOWN_DESTINATION, "destination", name);
		spec_name = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
		SPI_finish();
		cdi_owner_leave(&scope);
	}
	spec = load_spec(spec_name);
	check_settings(spec, settings);
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	if (run_as_owner(&plan, (Datum[])
					 {
						 CStringGetTextDatum(name), JsonbPGetDatum(settings),
						 CStringGetTextDatum(spec->name), CStringGetTextDatum(spec->version)
					 }) == 0)
		unknown(ERRCODE_CDI_UNKNOWN_DESTINATION, "destination", name);
	PG_RETURN_VOID();
}

static Datum
set_enabled(FunctionCallInfo fcinfo, bool enabled, const char *function)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.destinations SET enabled = $2 WHERE name = $1",
		.nargs = 2,.argtypes = {TEXTOID, BOOLOID}
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");

	cdi_prevent_in_recovery(function);
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	if (run_as_owner(&plan, (Datum[]) {CStringGetTextDatum(name), BoolGetDatum(enabled)}) == 0)
		unknown(ERRCODE_CDI_UNKNOWN_DESTINATION, "destination", name);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_enable_destination);

Datum
cdi_enable_destination(PG_FUNCTION_ARGS)
{
	return set_enabled(fcinfo, true, "cdi_enable_destination");
}

PG_FUNCTION_INFO_V1(cdi_disable_destination);

Datum
cdi_disable_destination(PG_FUNCTION_ARGS)
{
	return set_enabled(fcinfo, false, "cdi_disable_destination");
}

PG_FUNCTION_INFO_V1(cdi_drop_destination);

Datum
cdi_drop_destination(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "DELETE FROM cdi.destinations WHERE name = $1 RETURNING destination_id",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan syncs = {
		.query = "SELECT name FROM cdi.syncs WHERE destination_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	static CdiPlan pause = {
		.query = "DELETE FROM cdi.destination_pauses WHERE destination_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	CdiOwnerScope scope;
	bool		isnull;
	Datum		destination_id;

	cdi_prevent_in_recovery("cdi_drop_destination");
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		unknown(ERRCODE_CDI_UNKNOWN_DESTINATION, "destination", name);
	/* Only now, when whoever declares a sync for it has ended or waits for us */
	destination_id = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	cdi_plan_execute(&syncs, &destination_id, NULL);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("destination \"%s\" has syncs", name),
				 errhint("Drop them first with cdi_drop_sync(), or turn the destination off with cdi_disable_destination().")));
	if (OidIsValid(cdi_relation_oid("destination_pauses")))
		cdi_plan_execute(&pause, &destination_id, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_map);

/* Evaluates a mapping over one row; what the tests of the language call. */
Datum
cdi_map(PG_FUNCTION_ARGS)
{
	static const char *const frame =
		"{\"$schema\": \"cdi-dest-1\", \"name\": \"map\", \"version\": \"1\", \"actions\": {\"map\": {\"ops\": [\"insert\"],"
		" \"map\": null, \"request\": {\"method\": \"POST\", \"url\": \"https://localhost/\"}}}}";
	char	   *map = text_of_jsonb(PG_GETARG_JSONB_P(0));
	char	   *settings = text_of_jsonb(PG_GETARG_JSONB_P(2));
	char	   *error = NULL;
	CdiTarget	target = {0};
	CdiItem		item = {.operation = "insert",.primary_key = "1",.key = "00000000-0000-0000-0000-000000000001"};
	CdiScope	scope = {.target = &target,.item = &item};
	json_t	   *node = cdi_json_parse(CurrentMemoryContext, map, strlen(map), &error);
	CdiValue	value;
	StringInfoData out;

	if (node == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("mapping cannot be used"),
				 errdetail("%s.", error)));
	cdi_map_check(node, (CdiMapRules) {.row = true}, "map");
	target.spec = cdi_spec_load(CurrentMemoryContext, frame, false);
	target.settings = cdi_json_parse(CurrentMemoryContext, settings, strlen(settings), &error);
	item.row = PG_GETARG_JSONB_P(1);
	scope.row = &item.row->root;
	value = cdi_map_evaluate(&scope, node);
	if (value.type == CDI_ABSENT)
		PG_RETURN_NULL();
	initStringInfo(&out);
	cdi_value_append(&out, &value);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
