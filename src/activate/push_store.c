/*
 * push_store.c
 *		The push worker's two transactions: read what there is to send, write
 *		what became of it.
 *
 * Both are short, and neither is open while anything is on the network.
 */
#include "activate/push.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "worker/worker.h"

#define FETCH_ROWS 200

static char *
text_column(HeapTuple row, TupleDesc desc, int column)
{
	return SPI_getvalue(row, desc, column);
}

static int64
int_column(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);

	return SPI_gettypeid(desc, column) == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

static bool
bool_column(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(row, desc, column, &isnull));
}

static char *
keep(MemoryContext context, char *old, const char *text)
{
	if (old)
		pfree(old);
	return text ? MemoryContextStrdup(context, text) : NULL;
}

/* ---- configuration ---- */

/* Texts of a destination that is new or was changed */
static void
read_texts(CdiPushState *push, PushDestination *destination)
{
	static CdiPlan plan = {
		.query = "SELECT d.settings::text, p.spec::text FROM cdi.destinations d"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" WHERE d.destination_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	HeapTuple	row;
	char	   *spec;

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(destination->destination_id)}, NULL);
	if (SPI_processed == 0)
		return;
	row = SPI_tuptable->vals[0];
	if (destination->settings_text)
		pfree(destination->settings_text);
	if (destination->spec_text)
		pfree(destination->spec_text);
	destination->settings_text = MemoryContextStrdup(push->context, text_column(row, SPI_tuptable->tupdesc, 1));
	spec = text_column(row, SPI_tuptable->tupdesc, 2);
	destination->spec_text = spec ? MemoryContextStrdup(push->context, spec) : NULL;
}

static PushDestination *
find_destination(CdiPushState *push, int32 destination_id)
{
	PushDestination *destination;
	dlist_iter	it;

	dlist_foreach(it, &push->destinations)
	{
		destination = dlist_container(PushDestination, node, it.cur);
		if (destination->destination_id == destination_id)
			return destination;
	}
	destination = MemoryContextAllocZero(push->context, sizeof(PushDestination));
	destination->destination_id = destination_id;
	dlist_init(&destination->lanes);
	dlist_push_tail(&push->destinations, &destination->node);
	return destination;
}

static PushLane *
find_lane(CdiPushState *push, PushDestination *destination, int32 sync_id)
{
	dlist_iter	it;

	dlist_foreach(it, &destination->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, it.cur);

		if (lane->sync_id == sync_id)
			return lane;
	}
	return push_lane_create(push, destination, sync_id);
}

static void
read_configuration(CdiPushState *push)
{
	static CdiPlan plan = {
		.query = "SELECT s.sync_id, s.action, s.enabled, d.destination_id, d.name, d.enabled,"
		" concat_ws('/', d.xmin, p.xmin, d.ctid, p.ctid), coalesce(c.position, 0), s.mode NOT IN ('append', 'delete'),"
		" CASE WHEN s.kind = 'events' THEN concat_ws('/', s.xmin, s.ctid) END, s.name, s.rules::text, s.mapping::text,"
		" s.order_key::text"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" LEFT JOIN cdi.destination_specs p ON (p.name, p.version) = (d.spec_name, d.spec_version)"
		" LEFT JOIN cdi.push_cursor c USING (sync_id)"
	};
	SPITupleTable *table;
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);

		destination->seen = false;
		dlist_foreach(inner, &destination->lanes)
			dlist_container(PushLane, node, inner.cur)->seen = false;
	}
	cdi_plan_execute(&plan, NULL, NULL);
	table = SPI_tuptable;
	for (uint64 i = 0; i < table->numvals; i++)
	{
		HeapTuple	row = table->vals[i];
		TupleDesc	desc = table->tupdesc;
		PushDestination *destination = find_destination(push, (int32) int_column(row, desc, 4));
		PushLane   *lane = find_lane(push, destination, (int32) int_column(row, desc, 1));
		char	   *version = text_column(row, desc, 7);
		int64		cursor = int_column(row, desc, 8);
		char	   *order = text_column(row, desc, 14);

		if (!destination->seen)
		{
			destination->seen = true;
			destination->name = keep(push->context, destination->name, text_column(row, desc, 5));
			destination->enabled = bool_column(row, desc, 6);
			if (destination->version == NULL || strcmp(destination->version, version) != 0)
			{
				destination->version = keep(push->context, destination->version, version);
				read_texts(push, destination);
			}
		}
		lane->seen = true;
		if (text_column(row, desc, 10) != NULL)
		{
			if (lane->stream == NULL)
				lane->stream = push_stream_create(push);
			push_stream_declare(push, lane->stream, text_column(row, desc, 10), text_column(row, desc, 11),
								text_column(row, desc, 12), text_column(row, desc, 13));
		}
		lane->enabled = bool_column(row, desc, 3);
		lane->latest_only = bool_column(row, desc, 9);
		lane->behind = false;
		lane->action_name = keep(push->context, lane->action_name, text_column(row, desc, 2));
		if (strcmp(lane->order_text ? lane->order_text : "", order ? order : "") != 0)
		{
			lane->order_text = keep(push->context, lane->order_text, order);
			lane->order_stale = true;
		}
		/* ours is where it was, unless somebody set it forward */
		if (lane->stream)
			lane->stream->stale |= cursor > lane->cursor;
		else if (cursor > lane->read && !push_lane_idle(lane))
		{
			lane->behind = true;
			lane->enabled = false;	/* what is in flight ends, and is written, first */
		}
		else if (cursor > lane->read)
			push_lane_reset(lane, cursor);
		lane->cursor = Max(lane->cursor, cursor);
	}
}

/*
 * cdi_drop_sync() could not see what we were writing meanwhile.  Nobody writes
 * of these any more.
 */
static void
forget_dropped(List *sync_ids)
{
	static CdiPlan plans[] = {
		{.query = "DELETE FROM cdi.sync_rows r WHERE sync_id = $1 AND NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = $1)",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.failed_deliveries f WHERE sync_id = $1 AND NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = $1)",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.push_cursor c WHERE sync_id = $1 AND NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = $1)",.nargs = 1,.argtypes = {INT4OID}},
		{.query = "DELETE FROM cdi.event_stream_counts c WHERE sync_id = $1 AND NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = $1)",.nargs = 1,.argtypes = {INT4OID}},
	};
	ListCell   *cell;

	if (sync_ids == NIL)
		return;
	cdi_worker_begin("cdi: forget dropped syncs");
	foreach(cell, sync_ids)
		for (int i = 0; i < lengthof(plans); i++)
			cdi_plan_execute(&plans[i], (Datum[]) {Int32GetDatum(lfirst_int(cell))}, NULL);
	cdi_worker_commit();
}

/* What is no longer there; what is in flight ends, and is written, first. */
static void
drop_unseen(CdiPushState *push)
{
	List	   *dropped = NIL;
	dlist_mutable_iter it;
	dlist_mutable_iter inner;

	dlist_foreach_modify(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);

		dlist_foreach_modify(inner, &destination->lanes)
		{
			PushLane   *lane = dlist_container(PushLane, node, inner.cur);

			if (lane->seen)
				continue;
			lane->enabled = false;
			if (!push_lane_idle(lane))
				continue;
			dropped = lappend_int(dropped, lane->sync_id);
			push_lane_drop(lane);
		}
		/* a request for a token is of no lane */
		if (destination->seen || !dlist_is_empty(&destination->lanes) || destination->inflight > 0)
			continue;
		dlist_delete(&destination->node);
		if (destination->context)
			MemoryContextDelete(destination->context);
		if (destination->reason)
			pfree(destination->reason);
		if (destination->settings_text)
			pfree(destination->settings_text);
		if (destination->spec_text)
			pfree(destination->spec_text);
		pfree(destination->name);
		pfree(destination->version);
		pfree(destination);
	}
	forget_dropped(dropped);
}

/*
 * Make target and actions from the texts.  Outside of the transaction: the
 * errors are caught here, and belong to the destination alone.
 */
static void
compile(CdiPushState *push, PushDestination *destination)
{
	MemoryContext old = CurrentMemoryContext;

	if (destination->context)
		MemoryContextDelete(destination->context);
	destination->context = AllocSetContextCreate(push->context, "cdi destination", ALLOCSET_SMALL_SIZES);
	destination->secrets_context = AllocSetContextCreate(destination->context, "cdi secrets", ALLOCSET_SMALL_SIZES);
	destination->secrets_read = 0;
	memset(&destination->target, 0, sizeof(CdiTarget));
	destination->usable = false;
	destination->failures = 0;
	destination->resume_at = destination->opened_at = 0;
	destination->warned = false;
	push_clear_reason(destination);
	destination->token = destination->refresh_token = NULL;
	destination->token_works = false;
	destination->rate_next = 0;
	MemoryContextSwitchTo(destination->context);
	PG_TRY();
	{
		char	   *error = NULL;
		json_t	   *settings;

		if (destination->spec_text == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_UNKNOWN_DESTINATION),
					 errmsg("the specification of destination \"%s\" is gone", destination->name)));
		destination->target.spec = cdi_spec_load(destination->context, destination->spec_text, false);
		settings = cdi_json_parse(destination->context, destination->settings_text,
								  strlen(destination->settings_text), &error);
		destination->target.settings = cdi_settings_check(destination->target.spec, settings, destination->context);
		push_rate_compile(destination);
		destination->usable = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(destination->context);
		error = CopyErrorData();
		FlushErrorState();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("destination \"%s\" cannot be used", destination->name),
				 errdetail("%s%s%s", error->message, error->detail ? ": " : "", error->detail ? error->detail : "")));
		destination->reason = MemoryContextStrdup(TopMemoryContext,
												  psprintf("%s%s%s", error->message, error->detail ? ": " : "",
														   error->detail ? error->detail : ""));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	pfree(destination->settings_text);
	if (destination->spec_text)
		pfree(destination->spec_text);
	destination->settings_text = destination->spec_text = NULL;
}

/* What the rows of a lane may go to; they name it by its place. */
static void
find_actions(PushLane *lane, bool changed)
{
	PushDestination *destination = lane->destination;
	const CdiTarget *target = &destination->target;
	MemoryContext old;
	const char **names;
	bool		same = !changed && lane->nactions > 0;
	int			n;

	if (!destination->usable)
	{
		/* What comes after may have others, and rows name theirs by its place. */
		if (lane->stream && lane->nactions > 0)
			lane->stream->stale = true;
		lane->nactions = 0;
		return;
	}
	names = cdi_stream_actions(target->spec, lane->action_name, &n);
	same = same && n == lane->nactions;
	for (int i = 0; same && i < n; i++)
		same = strcmp(names[i], lane->actions[i].name) == 0;
	if (same)
		return;
	/* Events were given to actions when they were read. */
	if (lane->stream && lane->nactions > 0)
	{
		lane->stream->stale = true;
		if (lane->inflight > 0)
			return;
	}
	lane->order_stale = true;
	old = MemoryContextSwitchTo(destination->context);
	lane->actions = palloc0(sizeof(PushAction) * Max(n, 1));
	lane->nactions = n;
	lane->window = CDI_LANE_ROWS;
	lane->window_bytes = CDI_LANE_BYTES;
	for (int i = 0; i < n; i++)
	{
		lane->actions[i].name = pstrdup(names[i]);
		lane->actions[i].spec = cdi_spec_action(target->spec, names[i]);
		lane->actions[i].limits = cdi_request_limits(target, lane->actions[i].spec);
		lane->window = Max(lane->window, lane->actions[i].limits.max_wait > 0 ? CDI_LANE_ROWS_MOST : 2 * lane->actions[i].limits.max_items);
		lane->window_bytes = Max(lane->window_bytes, Min(2 * lane->actions[i].limits.max_bytes, CDI_LANE_BYTES_MOST));
	}
	MemoryContextSwitchTo(old);
	push_batch_reset(lane);		/* what their items were is no more */
}

/*
 * Rows that are to be sent one after the other.  Outside of the transaction
 * they were read in, and again where it is said otherwise meanwhile.
 */
static void
put_in_order(CdiPushState *push, PushLane *lane)
{
	const CdiTarget *target = &lane->destination->target;
	char	   *error = NULL;
	bool		asked = lane->order_text != NULL;
	bool		anew = lane->order_stale;
	dlist_iter	it;

	/* A stream that is stale is read again, and one by person says so itself. */
	if (lane->stream && (lane->stream->stale || lane->stream->stream == NULL || lane->stream->stream->by_person))
		return;

	if (anew)
	{
		if (lane->order_context)
			MemoryContextDelete(lane->order_context);
		lane->order_context = AllocSetContextCreate(push->context, "cdi order of a sync", ALLOCSET_SMALL_SIZES);
		lane->order = asked ? cdi_json_parse(lane->order_context, lane->order_text, strlen(lane->order_text), &error) : NULL;
	}
	lane->order_stale = false;
	for (int i = 0; i < lane->nactions; i++)
		asked |= cdi_action_order(lane->actions[i].spec) != NULL;
	if (!asked && !anew)
		return;
	dlist_foreach(it, &lane->rows)
	{
		PushRow    *row = dlist_container(PushRow, node, it.cur);
		const json_t *action = lane->actions[row->action].spec;
		CdiItem		item = {.operation = row->operation,.primary_key = row->primary_key,.key = row->key,.row = row->payload};

		if (row->end != PUSH_OPEN || (row->placed && !anew))
			continue;
		push_row_displace(row);
		push_row_place(row, cdi_item_order(target, lane->order ? lane->order : cdi_action_order(action), &item));
	}
	if (anew)
		push_batch_reset(lane); /* others are in the way of a row than were */
}

void
push_compile(CdiPushState *push)
{
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);

		/* Answers to what is in flight are read by the old one. */
		bool		changed = destination->settings_text != NULL && destination->inflight == 0;

		if (changed)
			compile(push, destination);
		dlist_foreach(inner, &destination->lanes)
		{
			PushLane   *lane = dlist_container(PushLane, node, inner.cur);
			dlist_iter	waiting;
			json_t	   *now;

			/* what waited for better settings goes at once */
			if (changed)
				dlist_foreach(waiting, &lane->waiting)
					dlist_container(PushRequest, node, waiting.cur)->due = 0;

			if (lane->stream)
				push_stream_compile(push, lane);
			find_actions(lane, changed);
			if (lane->nactions == 0)
				continue;
			/* Stages of another action are not to be gone on with. */
			now = lane->action_name ? cdi_spec_action(destination->target.spec, lane->action_name) :
				json_object_get(destination->target.spec->root, "actions");
			if (lane->stages_of == NULL || !json_equal(lane->stages_of, now))
			{
				dlist_foreach(waiting, &lane->waiting)
					push_request_restart(dlist_container(PushRequest, node, waiting.cur));
				json_decref(lane->stages_of);
				lane->stages_of = json_deep_copy(now);
			}
			put_in_order(push, lane);
		}
	}
}

/* ---- rows ---- */

static void
read_rows(PushLane *lane)
{
	static SPIPlanPtr plan = NULL;
	Portal		portal;
	int			read = 0;

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT position, operation, primary_key, idempotency_key::text, payload, run_id, queued_at"
						   " FROM cdi.outbox WHERE sync_id = $1 AND position > $2 ORDER BY position LIMIT "
						   CppAsString2(CDI_LANE_ROWS_MOST),
						   2, (Oid[]) {INT4OID, INT8OID});
		SPI_keepplan(plan);
	}
	portal = SPI_cursor_open(NULL, plan, (Datum[]) {Int32GetDatum(lane->sync_id), Int64GetDatum(lane->read)},
							 NULL, true);
	lane->more = false;
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		isnull;

			lane->read = int_column(row, desc, 1);
			push_row_add(lane, lane->read, int_column(row, desc, 7), int_column(row, desc, 6), text_column(row, desc, 2),
						 text_column(row, desc, 3), text_column(row, desc, 4),
						 DatumGetJsonbP(SPI_getbinval(row, desc, 5, &isnull)));
			read++;
		}
		SPI_freetuptable(SPI_tuptable);
		if (lane->nrows >= lane->window || lane->bytes >= lane->window_bytes || read >= CDI_LANE_ROWS_MOST)
		{
			lane->more = true;
			break;
		}
	}
	SPI_cursor_close(portal);
}

void
push_read(CdiPushState *push)
{
	dlist_iter	it;
	dlist_iter	inner;

	cdi_worker_begin("cdi: read the outbox");
	push->armed = OidIsValid(cdi_relation_oid("armed")) ? cdi_armed_check() : CDI_NEVER_ARMED;
	if (push->armed == CDI_ARMED)
	{
		int64		watermark = cdi_stream_watermark();
		bool		watch;

		push_write_begin(push);
		read_configuration(push);
		watch = push_schedule_read(push);
		dlist_foreach(it, &push->destinations)
			dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
		{
			PushLane   *lane = dlist_container(PushLane, node, inner.cur);

			watch |= lane->seen && lane->stream && lane->enabled && lane->destination->enabled;
			if (!lane->seen || !push_lane_wants(lane))
				continue;
			if (lane->stream)
				push_stream_read(lane, watermark);
			else
				read_rows(lane);
		}
		/* What the watermark passed before is not announced any more. */
		if (watch && !cdi_worker_events_watched())
			dlist_foreach(it, &push->destinations)
				dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
				dlist_container(PushLane, node, inner.cur)->more = true;
		cdi_worker_watch_events(watch);
	}
	cdi_worker_commit();
	if (push->armed == CDI_ARMED)
	{
		drop_unseen(push);
		push_compile(push);
		push->warned = false;
	}
	else if (push->armed == CDI_ARMED_ELSEWHERE && !push->warned)
	{
		push->warned = true;
		ereport(WARNING,
				(errcode(ERRCODE_CDI_NOT_ARMED),
				 errmsg("this database is a copy of one that was armed, and does not push"),
				 errhint("See the documentation of cdi_arm().")));
	}
}
