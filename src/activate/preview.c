/*
 * preview.c
 *		What a run of a sync would send, without sending it.
 *
 * The run itself happens, in a subtransaction that is rolled back: what is
 * shown comes from the code that queues rows and builds requests, not from a
 * likeness of it.  Of a stream of events it is the latest ones that its rules
 * let through.
 */
#include "activate/model.h"
#include "activate/stream.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/resowner.h"

#include "base/errors.h"

typedef struct Preview
{
	ReturnSetInfo *rsinfo;
	CdiSync    *sync;
	CdiTarget  *target;
	CdiItem   **items;			/* NULL: went into a request */
	const json_t **actions;		/* of each item; the same for all rows of a sync */
	int			nitems;
	int			requests;
} Preview;

/* References are not followed: what is shown must be safe to show. */
static json_t *
masked_secrets(const CdiTarget *target)
{
	json_t	   *secrets = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	const char *name;
	const char *inner;
	json_t	   *property;
	json_t	   *member;

	json_object_foreach(json_object_get(json_object_get(target->spec->root, "settings"), "properties"), name, property)
	{
		json_t	   *value = json_object_get(target->settings, name);

		if (value == NULL || json_object_get(property, "secret") == NULL)
			continue;
		if (json_is_object(value))
		{
			json_object_set_new(secrets, name, cdi_json_object());
			json_object_foreach(value, inner, member)
				json_object_set_new(json_object_get(secrets, name), inner, json_string("***"));
		}
		else if (cdi_secret_is_reference(json_string_value(value)))
			json_object_set_new(secrets, name, json_string("***"));
		else
			json_object_set(secrets, name, value);
	}
	return secrets;
}

/* Rows that the run has queued, in the caller's memory */
static void
take_queued(Preview *preview, int64 run_id, int limit, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT operation, primary_key, idempotency_key::text, payload FROM cdi.outbox"
		" WHERE sync_id = $3 AND run_id = $1 ORDER BY position LIMIT $2",
		.nargs = 3,.argtypes = {INT8OID, INT4OID, INT4OID}
	};
	CdiOwnerScope scope;
	MemoryContext old;

	cdi_owner_enter(&scope);
	cdi_plan_execute(&plan, (Datum[]) {Int64GetDatum(run_id), Int32GetDatum(limit), Int32GetDatum(preview->sync->sync_id)}, NULL);
	old = MemoryContextSwitchTo(context);
	preview->items = palloc(sizeof(CdiItem *) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		CdiItem    *item = palloc0(sizeof(CdiItem));
		bool		isnull;

		item->operation = SPI_getvalue(row, desc, 1);
		item->primary_key = SPI_getvalue(row, desc, 2);
		item->key = SPI_getvalue(row, desc, 3);
		item->row = DatumGetJsonbPCopy(SPI_getbinval(row, desc, 4, &isnull));
		/* SPI's own memory ends with the subtransaction */
		item->operation = pstrdup(item->operation);
		item->primary_key = pstrdup(item->primary_key);
		item->key = pstrdup(item->key);
		preview->items[preview->nitems++] = item;
	}
	MemoryContextSwitchTo(old);
	cdi_owner_leave(&scope);
}

static void
run_and_undo(Preview *preview, const char *name, int limit)
{
	CdiOwnerScope scope;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		/* In here, so that no run waits for the end of the caller's transaction */
		cdi_owner_enter(&scope);
		preview->sync = cdi_sync_load(name, context);
		cdi_owner_leave(&scope);
		take_queued(preview, cdi_sync_execute(preview->sync, false, NULL), limit, context);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

static Datum
text_array(CdiItem **items, int nitems, bool keys)
{
	Datum	   *values = palloc(sizeof(Datum) * nitems);

	for (int i = 0; i < nitems; i++)
		values[i] = CStringGetTextDatum(keys ? items[i]->primary_key : items[i]->operation);
	return PointerGetDatum(construct_array(values, nitems, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
headers_of(const CdiRequest *request)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	for (int i = 0; i < request->nheaders; i++)
	{
		if (i > 0)
			appendStringInfoChar(&out, ',');
		cdi_json_append_string(&out, request->headers[i].name, strlen(request->headers[i].name));
		appendStringInfoChar(&out, ':');
		cdi_json_append_string(&out, request->headers[i].value, strlen(request->headers[i].value));
	}
	appendStringInfoChar(&out, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}

enum
{
	OUT_REQUEST, OUT_STAGE, OUT_OPERATIONS, OUT_KEYS, OUT_METHOD, OUT_URL, OUT_HEADERS, OUT_BODY, OUT_ERROR, OUT_COLUMNS
};

static void
show(Preview *preview, const char *stage, CdiItem **items, int nitems, const CdiRequest *request, const char *error)
{
	Datum		values[OUT_COLUMNS] = {0};
	bool		nulls[OUT_COLUMNS] = {false};

	values[OUT_REQUEST] = Int32GetDatum(preview->requests);
	nulls[OUT_REQUEST] = error != NULL && stage == NULL;
	nulls[OUT_STAGE] = stage == NULL;
	if (stage)
		values[OUT_STAGE] = CStringGetTextDatum(stage);
	values[OUT_OPERATIONS] = text_array(items, nitems, false);
	values[OUT_KEYS] = text_array(items, nitems, true);
	for (int i = OUT_METHOD; i <= OUT_BODY; i++)
		nulls[i] = request == NULL;
	if (request)
	{
		values[OUT_METHOD] = CStringGetTextDatum(request->method);
		values[OUT_URL] = CStringGetTextDatum(request->url);
		values[OUT_HEADERS] = headers_of(request);
		nulls[OUT_BODY] = request->body == NULL;
		if (request->body)
			values[OUT_BODY] = PointerGetDatum(cstring_to_text_with_len(request->body, request->body_len));
	}
	nulls[OUT_ERROR] = error == NULL;
	if (error)
		values[OUT_ERROR] = CStringGetTextDatum(error);
	tuplestore_putvalues(preview->rsinfo->setResult, preview->rsinfo->setDesc, values, nulls);
}

static void
show_stage(Preview *preview, const json_t *stage, const char *name, CdiItem **items, int nitems)
{
	MemoryContext context = CurrentMemoryContext;
	CdiRequest *volatile request = NULL;
	char	   *volatile failure = NULL;

	PG_TRY();
	{
		request = cdi_request_build(preview->target, stage, items, nitems, NULL);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		failure = error->message;
	}
	PG_END_TRY();
	if (request != NULL || failure != NULL)
		show(preview, name, items, nitems, request, failure);
}

static bool
has_order(CdiItem **items, int nitems, const char *order)
{
	for (int i = 0; order != NULL && i < nitems; i++)
		if (items[i]->order != NULL && strcmp(items[i]->order, order) == 0)
			return true;
	return false;
}

/* Rows that share a request, as the push worker puts them together */
static void
show_batch(Preview *preview, const json_t *action)
{
	CdiBatchLimits limits = cdi_request_limits(preview->target, action);
	CdiItem   **items = palloc(sizeof(CdiItem *) * preview->nitems);
	int64		bytes = 0;
	int			n = 0;

	for (int i = 0; i < preview->nitems; i++)
	{
		CdiItem    *item = preview->items[i];

		if (item == NULL || preview->actions[i] != action || has_order(items, n, item->order))
			continue;
		if (!cdi_batch_takes(&limits, n > 0 ? items[0] : NULL, n, bytes, item))
		{
			if (cdi_batch_full(&limits, n, bytes, item))
				break;
			continue;
		}
		items[n++] = item;
		bytes += item->len + 1;
		preview->items[i] = NULL;
	}
	preview->requests++;
	for (int i = 0; i < cdi_action_stages(action); i++)
	{
		const json_t *stage = cdi_action_stage(action, i);

		show_stage(preview, stage, stage == action ? "main" : cdi_json_string(stage, "name"), items, n);
	}
}

/* ---- streams of events ---- */

/* Events are looked at from the latest on, this many positions at most. */
#define LOOK_BACK 1000000

typedef struct StreamPreview
{
	CdiStream  *stream;
	CdiTarget  *target;
	int32		sync_id;
	json_t	  **actions;
	int			nactions;
} StreamPreview;

/* False where it is no stream.  SPI connected, as the owner. */
static bool
load_stream(const char *name, StreamPreview *of, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT s.sync_id, s.action, s.rules::text, s.mapping::text, d.settings::text, p.spec::text, d.name"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE s.name = $1 AND s.kind = 'events'",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	MemoryContext old;
	HeapTuple	row;
	TupleDesc	desc;
	const char **names;
	char	   *settings;
	char	   *error = NULL;
	bool		isnull;

	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 0)
		return false;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	old = MemoryContextSwitchTo(context);
	if (SPI_getvalue(row, desc, 6) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
				 errmsg("the specification of destination \"%s\" is gone", SPI_getvalue(row, desc, 7))));
	of->sync_id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
	of->stream = cdi_stream_load(context, name, SPI_getvalue(row, desc, 3), SPI_getvalue(row, desc, 4));
	of->target = palloc0(sizeof(CdiTarget));
	of->target->spec = cdi_spec_load(context, SPI_getvalue(row, desc, 6), false);
	settings = SPI_getvalue(row, desc, 5);
	of->target->settings = cdi_settings_check(of->target->spec, cdi_json_parse(context, settings, strlen(settings), &error), context);
	names = cdi_stream_actions(of->target->spec, SPI_getvalue(row, desc, 2), &of->nactions);
	of->actions = palloc(sizeof(json_t *) * Max(of->nactions, 1));
	for (int i = 0; i < of->nactions; i++)
		of->actions[i] = cdi_spec_action(of->target->spec, names[i]);
	MemoryContextSwitchTo(old);
	return true;
}

static void
take_events(Preview *preview, StreamPreview *of, int limit, MemoryContext context)
{
	static const Oid types[] = {CDI_STREAM_TYPES};
	SPIPlanPtr	plan = SPI_prepare(CDI_STREAM_QUERY("DESC"), lengthof(types), (Oid *) types);
	Datum		values[CDI_STREAM_ARGS];
	char		nulls[CDI_STREAM_ARGS + 1] = "     ";
	CdiOwnerScope scope;
	Portal		portal;

	cdi_owner_enter(&scope);
	values[0] = Int64GetDatum(Max(cdi_position_last() - LOOK_BACK, 0));
	values[1] = Int64GetDatum(PG_INT64_MAX);
	cdi_stream_arguments(of->stream, values + 2, nulls + 2);
	portal = SPI_cursor_open(NULL, plan, values, nulls, true);
	preview->items = MemoryContextAllocZero(context, sizeof(CdiItem *) * limit);
	preview->actions = MemoryContextAllocZero(context, sizeof(json_t *) * limit);
	while (preview->nitems < limit)
	{
		MemoryContext old;
		CdiItem    *item;
		char	   *error;
		bool		isnull;
		int			action = 0;
		Jsonb	   *event;
		HeapTuple	row;
		TupleDesc	desc;

		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		row = SPI_tuptable->vals[0];
		desc = SPI_tuptable->tupdesc;
		old = MemoryContextSwitchTo(context);
		event = DatumGetJsonbPCopy(SPI_getbinval(row, desc, 4, &isnull));
		item = palloc0(sizeof(CdiItem));
		item->operation = "insert";
		item->primary_key = SPI_getvalue(row, desc, 2);
		item->key = palloc(37);
		cdi_stream_key(of->sync_id, item->primary_key, (char *) item->key);
		if (cdi_stream_judge(of->stream, of->target, item->primary_key, SPI_getvalue(row, desc, 3), &event, &error) == CDI_EVENT_MATCHED &&
			(error || (action = cdi_stream_action(of->target, of->actions, of->nactions, event, &error)) >= 0))
		{
			item->row = event;
			item->error = error;
			item->order = of->stream->by_person ? SPI_getvalue(row, desc, 3) :
				cdi_item_order(of->target, cdi_action_order(of->actions[action]), item);
			preview->actions[preview->nitems] = of->actions[action];
			preview->items[preview->nitems++] = item;
		}
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	cdi_owner_leave(&scope);
	/* as they came */
	for (int i = 0; i < preview->nitems / 2; i++)
	{
		int			k = preview->nitems - 1 - i;
		CdiItem    *item = preview->items[i];
		const json_t *action = preview->actions[i];

		preview->items[i] = preview->items[k];
		preview->items[k] = item;
		preview->actions[i] = preview->actions[k];
		preview->actions[k] = action;
	}
}

PG_FUNCTION_INFO_V1(cdi_sync_preview);

Datum
cdi_sync_preview(PG_FUNCTION_ARGS)
{
	Preview		preview = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name = cdi_text_argument(fcinfo, 0, "sync");
	int			limit = PG_ARGISNULL(1) ? 10 : PG_GETARG_INT32(1);
	CdiOwnerScope scope;
	StreamPreview of = {0};
	bool		is_stream;

	cdi_prevent_in_recovery("cdi_sync_preview");
	cdi_require_storage();
	if (limit < 1 || limit > 10000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a preview is of 1 to 10000 rows")));
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	cdi_owner_enter(&scope);
	is_stream = load_stream(name, &of, caller);
	cdi_owner_leave(&scope);
	MemoryContextSwitchTo(caller);
	if (!is_stream)
	{
		run_and_undo(&preview, name, limit);
		preview.actions = palloc(sizeof(json_t *) * Max(preview.nitems, 1));
		for (int i = 0; i < preview.nitems; i++)
		{
			preview.actions[i] = preview.sync->action;
			preview.items[i]->order = cdi_item_order(&preview.sync->target, preview.sync->order, preview.items[i]);
		}
	}
	preview.target = is_stream ? of.target : &preview.sync->target;
	preview.target->secrets = masked_secrets(preview.target);
	preview.target->mask_secrets = true;
	if (is_stream)
	{
		cdi_stream_check_reader();
		take_events(&preview, &of, limit, caller);
	}
	for (int i = 0; i < preview.nitems; i++)
	{
		CdiItem    *item = preview.items[i];

		if (item->error == NULL)
			cdi_item_map(preview.target, preview.actions[i], item);
		if (item->error != NULL)
		{
			show(&preview, NULL, &item, 1, NULL, item->error);
			preview.items[i] = NULL;
		}
	}
	for (int i = 0; i < preview.nitems; i++)
		if (preview.items[i] != NULL)
			show_batch(&preview, preview.actions[i]);
	SPI_finish();
	return (Datum) 0;
}
