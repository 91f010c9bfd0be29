/*
 * stream_declare.c
 *		Declare a stream of events, or change it.
 */
#include "activate/model.h"
#include "activate/stream.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "worker/worker.h"

void
cdi_stream_check_reader(void)
{
	AclResult	result = pg_class_aclcheck(cdi_relation_oid("events"), GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "events");
}

/* The destination's id; raises where events cannot go there like this.  SPI connected. */
static int32
check(const char *name, const char *destination, const char *action, const char *rules, const char *mapping)
{
	static CdiPlan find = {
		.query = "SELECT d.destination_id, p.spec::text FROM cdi.destinations d"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE d.name = $1 FOR KEY SHARE OF d",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	CdiOwnerScope scope;
	CdiSpec    *spec;
	const char **names;
	char	   *text;
	int32		destination_id;
	bool		isnull;
	int			n;

	cdi_owner_enter(&scope);
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(destination)}, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("destination \"%s\" does not exist", destination),
				 errhint("SELECT cdi_create_destination('%s', ...) creates it.", destination)));
	destination_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	cdi_owner_leave(&scope);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", destination),
				 errhint("Install it with cdi_install_destination_spec().")));
	spec = cdi_spec_load(CurrentMemoryContext, text, false);
	names = cdi_stream_actions(spec, action, &n);
	for (int i = 0; i < n; i++)
		if (!cdi_action_serves(cdi_spec_action(spec, names[i]), "insert"))
			ereport(ERROR,
					(errcode(ERRCODE_CDI_INVALID_SYNC),
					 errmsg("action \"%s\" of destination \"%s\" takes no insertions, which events are", names[i], destination)));
	if (n == 0)
	{
		StringInfoData known;
		const char *key;
		json_t	   *member;

		initStringInfo(&known);
		json_object_foreach(json_object_get(spec->root, "actions"), key, member)
			appendStringInfo(&known, "%s%s", known.len ? ", " : "", key);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 action ? errmsg("destination \"%s\" has no action \"%s\"", destination, action) :
				 errmsg("destination \"%s\" has several actions, and none says which events it is for", destination),
				 errdetail("Its actions are: %s.", known.data)));
	}
	(void) cdi_stream_load(CurrentMemoryContext, name, rules, mapping);
	return destination_id;
}

/* Position behind which the stream begins */
static int64
start_position(const char *start)
{
	static CdiPlan from = {
		.query = "SELECT coalesce((SELECT min(e.position) - 1 FROM cdi.events e WHERE e.received_at >= $1), $2)",
		.nargs = 2,.argtypes = {TIMESTAMPTZOID, INT8OID}
	};
	bool		isnull;

	if (strcmp(start, "beginning") == 0)
		return 0;
	if (strcmp(start, "now") == 0)
		return cdi_watermark_compute();
	cdi_plan_execute(&from, (Datum[])
					 {
						 DirectFunctionCall3(timestamptz_in, CStringGetDatum(start), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)),
						 Int64GetDatum(cdi_watermark_compute())
					 }, NULL);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

PG_FUNCTION_INFO_V1(cdi_create_event_stream);

Datum
cdi_create_event_stream(PG_FUNCTION_ARGS)
{
	static CdiPlan insert = {
		.query = "INSERT INTO cdi.syncs (name, destination_id, action, kind, rules, mapping, mode, run_as, search_path)"
		" VALUES ($1, $2, $3, 'events', $4::jsonb, $5::jsonb, 'append', $6, '')"
		" ON CONFLICT (name) DO NOTHING RETURNING sync_id",
		.nargs = 6,.argtypes = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, NAMEOID}
	};
	static CdiPlan cursor = {
		.query = "INSERT INTO cdi.push_cursor (sync_id, position) VALUES ($1, $2)",
		.nargs = 2,.argtypes = {INT4OID, INT8OID}
	};
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	char	   *destination = cdi_text_argument(fcinfo, 1, "destination");
	char	   *action = cdi_optional_text(fcinfo, 2);
	char	   *rules = PG_ARGISNULL(3) ? "{}" : cdi_optional_json(fcinfo, 3);
	char	   *mapping = cdi_optional_json(fcinfo, 4);
	char	   *start = cdi_text_argument(fcinfo, 5, "start");
	Datum		caller = DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(GetUserId(), false)));
	CdiOwnerScope scope;
	int32		destination_id;
	int32		sync_id;
	bool		isnull;

	cdi_prevent_in_recovery("cdi_create_event_stream");
	cdi_require_storage();
	cdi_stream_check_reader();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	SPI_connect();
	destination_id = check(name, destination, action, rules, mapping);
	cdi_owner_enter(&scope);
	cdi_plan_execute(&insert, (Datum[])
					 {
						 CStringGetTextDatum(name), Int32GetDatum(destination_id), action ? CStringGetTextDatum(action) : (Datum) 0,
						 CStringGetTextDatum(rules), mapping ? CStringGetTextDatum(mapping) : (Datum) 0, caller
					 }, (char[]) {' ', ' ', action ? ' ' : 'n', ' ', mapping ? ' ' : 'n', ' ', '\0'});
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("sync \"%s\" exists already", name),
				 errhint("cdi_alter_event_stream() changes a stream of events.")));
	sync_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cdi_plan_execute(&cursor, (Datum[]) {Int32GetDatum(sync_id), Int64GetDatum(start_position(start))}, NULL);
	cdi_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_INT32(sync_id);
}

PG_FUNCTION_INFO_V1(cdi_alter_event_stream);

Datum
cdi_alter_event_stream(PG_FUNCTION_ARGS)
{
	static CdiPlan find = {
		.query = "SELECT d.name, s.action, s.rules::text, s.mapping::text FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" WHERE s.name = $1 AND s.kind = 'events' FOR UPDATE OF s",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	static CdiPlan update = {
		.query = "UPDATE cdi.syncs SET action = $2, rules = $3::jsonb, mapping = $4::jsonb WHERE name = $1",
		.nargs = 4,.argtypes = {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name = cdi_text_argument(fcinfo, 0, "name");
	char	   *destination;
	char	   *action;
	char	   *rules;
	char	   *mapping;
	CdiOwnerScope scope;

	cdi_prevent_in_recovery("cdi_alter_event_stream");
	cdi_require_storage();
	cdi_stream_check_reader();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	SPI_connect();
	cdi_owner_enter(&scope);
	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		cdi_sync_unknown(name);
	destination = cdi_row_text(caller, 1);
	action = PG_ARGISNULL(1) ? cdi_row_text(caller, 2) : cdi_optional_text(fcinfo, 1);
	rules = PG_ARGISNULL(2) ? cdi_row_text(caller, 3) : cdi_optional_json(fcinfo, 2);
	mapping = PG_ARGISNULL(3) ? cdi_row_text(caller, 4) : cdi_optional_json(fcinfo, 3);
	cdi_owner_leave(&scope);
	if (action && *action == '\0')
		action = NULL;
	if (mapping && strcmp(mapping, "{}") == 0)
		mapping = NULL;
	(void) check(name, destination, action, rules, mapping);
	cdi_owner_enter(&scope);
	cdi_plan_execute(&update, (Datum[])
					 {
						 CStringGetTextDatum(name), action ? CStringGetTextDatum(action) : (Datum) 0,
						 CStringGetTextDatum(rules), mapping ? CStringGetTextDatum(mapping) : (Datum) 0
					 }, (char[]) {' ', action ? ' ' : 'n', ' ', mapping ? ' ' : 'n', '\0'});
	cdi_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}
