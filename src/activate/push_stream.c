/*
 * push_stream.c
 *		Streams of events: the lanes of the push worker that read cdi.events.
 *
 * A stream has no rows of its own.  Its cursor is a position of cdi.events, and
 * its rows are events between that and the watermark which its rules let
 * through.  They are looked for in windows of positions, so that a stream which
 * wants one event of many neither holds a snapshot for long nor keeps others
 * waiting; a window that was quick makes the next one larger.
 *
 * What became of the events that a cursor passes is counted in the transaction
 * that moves it: after a crash both are where they were.
 */
#include "activate/push.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"

#define FETCH_ROWS 200
#define FIRST_WINDOW 10000
#define MIN_WINDOW 1000
#define MAX_WINDOW (INT64CONST(1) << 40)
/* us that a window should take */
#define WINDOW_SHORT 10000
#define WINDOW_LONG 50000
/* Between two records of a cursor that passes only what nobody wants */
#define MOVE_EVERY USECS_PER_SEC

/* ---- declaration ---- */

PushStream *
push_stream_create(CdiPushState *push)
{
	PushStream *stream = MemoryContextAllocZero(push->context, sizeof(PushStream));

	stream->window = FIRST_WINDOW;
	stream->replays = true;
	return stream;
}

static void
free_text(char **text)
{
	if (*text)
		pfree(*text);
	*text = NULL;
}

void
push_stream_free(PushStream *stream)
{
	free_text(&stream->version);
	free_text(&stream->name);
	free_text(&stream->rules_text);
	free_text(&stream->mapping_text);
	if (stream->stream)
		MemoryContextDelete(stream->stream->context);
	pfree(stream);
}

void
push_stream_declare(CdiPushState *push, PushStream *stream, const char *version, const char *name,
					const char *rules, const char *mapping)
{
	if (stream->version && strcmp(stream->version, version) == 0)
		return;
	free_text(&stream->version);
	free_text(&stream->name);
	free_text(&stream->rules_text);
	free_text(&stream->mapping_text);
	stream->version = MemoryContextStrdup(push->context, version);
	stream->name = MemoryContextStrdup(push->context, name);
	stream->rules_text = MemoryContextStrdup(push->context, rules);
	stream->mapping_text = mapping ? MemoryContextStrdup(push->context, mapping) : NULL;
}

void
push_stream_compile(CdiPushState *push, PushLane *lane)
{
	PushStream *stream = lane->stream;
	MemoryContext old = CurrentMemoryContext;

	if (stream->rules_text == NULL || lane->inflight > 0)
		return;
	stream->stale |= stream->stream != NULL;
	if (stream->stream)
		MemoryContextDelete(stream->stream->context);
	stream->stream = NULL;
	PG_TRY();
	{
		stream->stream = cdi_stream_load(push->context, stream->name, stream->rules_text, stream->mapping_text);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("event stream \"%s\" sends nothing", stream->name),
				 errdetail("%s: %s", error->message, error->detail ? error->detail : "")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	free_text(&stream->rules_text);
	free_text(&stream->mapping_text);
}

/* ---- reading ---- */

/* An event that the rules may let through; false where it is not sent */
static bool
take_event(PushLane *lane, HeapTuple tuple, TupleDesc desc)
{
	PushStream *stream = lane->stream;
	const CdiTarget *target = &lane->destination->target;
	char	   *event_id = SPI_getvalue(tuple, desc, 2);
	char	   *person = SPI_getvalue(tuple, desc, 3);
	json_t	   *specs[64];
	bool		isnull;
	Jsonb	   *event = DatumGetJsonbP(SPI_getbinval(tuple, desc, 4, &isnull));
	char	   *error;
	CdiEventFate fate = cdi_stream_judge(stream->stream, target, event_id, person, &event, &error);
	int			action = 0;
	PushRow    *row;
	char		key[37];

	if (fate == CDI_EVENT_MATCHED && error == NULL)
	{
		for (int i = 0; i < Min(lane->nactions, lengthof(specs)); i++)
			specs[i] = lane->actions[i].spec;
		action = cdi_stream_action(target, specs, Min(lane->nactions, lengthof(specs)), event, &error);
		if (action < 0)
			fate = CDI_EVENT_SKIPPED;
	}
	stream->after.withheld += fate == CDI_EVENT_WITHHELD;
	stream->after.sampled_out += fate == CDI_EVENT_SAMPLED_OUT;
	stream->after.skipped += fate == CDI_EVENT_SKIPPED;
	if (fate != CDI_EVENT_MATCHED)
		return false;
	cdi_stream_key(lane->sync_id, event_id, key);
	row = push_row_add(lane, lane->read, Min(DatumGetTimestampTz(SPI_getbinval(tuple, desc, 5, &isnull)), GetCurrentTimestamp()),
					   0, "insert", event_id, key, event);
	row->action = action;
	if (stream->stream->by_person)
		push_row_place(row, person);
	row->before = stream->after;
	memset(&stream->after, 0, sizeof(PushPassed));
	if (error)
	{
		push_row_unqueue(row);
		push_delivery_add_record(row, 0, NULL, "invalid", error);
		push_row_end(row, PUSH_FAILED, "invalid", 0, 0, error);
	}
	return true;
}

/* Dead letters that are to be sent again */
static void
read_replays(PushLane *lane)
{
	static CdiPlan plan = {
		.query = "SELECT position, primary_key, idempotency_key::text, payload FROM cdi.failed_deliveries"
		" WHERE sync_id = $1 AND replay ORDER BY position LIMIT " CppAsString2(CDI_LANE_ROWS),
		.nargs = 1,.argtypes = {INT4OID}
	};
	SPITupleTable *table;

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(lane->sync_id)}, NULL);
	table = SPI_tuptable;
	for (uint64 i = 0; i < table->numvals; i++)
	{
		HeapTuple	tuple = table->vals[i];
		bool		isnull;
		int64		position = DatumGetInt64(SPI_getbinval(tuple, table->tupdesc, 1, &isnull));
		Jsonb	   *event = DatumGetJsonbP(SPI_getbinval(tuple, table->tupdesc, 4, &isnull));
		json_t	   *specs[64];
		char	   *error = NULL;
		PushRow    *row;

		for (int k = 0; k < Min(lane->nactions, lengthof(specs)); k++)
			specs[k] = lane->actions[k].spec;
		row = push_row_add(lane, position, GetCurrentTimestamp(), 0, "insert", SPI_getvalue(tuple, table->tupdesc, 2),
						   SPI_getvalue(tuple, table->tupdesc, 3), event);
		push_row_place(row, NULL);	/* takes no part in any order */
		row->action = Max(cdi_stream_action(&lane->destination->target, specs, Min(lane->nactions, lengthof(specs)), event, &error), 0);
		row->replayed = true;
		dlist_delete(&row->node);
		dlist_push_tail(&lane->replayed, &row->node);
	}
	/* once these have ended, there may be more */
	lane->stream->replays = table->numvals > 0;
}

/*
 * Positions at which there is nothing may be many: what retention has removed,
 * or what was never used.
 */
static int64
next_position(PushLane *lane, int64 from, int64 watermark)
{
	static CdiPlan plan = {
		.query = "SELECT position FROM cdi.events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT 1",
		.nargs = 2,.argtypes = {INT8OID, INT8OID}
	};
	int64		next = watermark;
	bool		isnull;

	cdi_plan_read(&plan, (Datum[]) {Int64GetDatum(from), Int64GetDatum(watermark)});
	if (SPI_processed > 0)
		next = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) - 1;
	if (next - from > FIRST_WINDOW)
		ereport(LOG,
				(errmsg("event stream \"%s\" passes over positions " INT64_FORMAT " to " INT64_FORMAT, lane->stream->name, from + 1, next),
				 errdetail("There is no event: they were removed, or the positions were never used.")));
	return next;
}

void
push_stream_read(PushLane *lane, int64 watermark)
{
	static SPIPlanPtr plan = NULL;
	PushStream *stream = lane->stream;
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext row_context;
	MemoryContext old;
	Datum		values[CDI_STREAM_ARGS];
	char		nulls[CDI_STREAM_ARGS + 1] = "     ";
	int64		upper;
	int64		took;
	Portal		portal;
	bool		full = false;
	bool		any = false;

	if (stream->stale)
		push_lane_reset(lane, lane->cursor);
	if (stream->replays && dlist_is_empty(&lane->replayed))
		read_replays(lane);
	lane->more = false;
	if (lane->read >= watermark)
		return;
	if (plan == NULL)
	{
		plan = SPI_prepare(CDI_STREAM_QUERY("LIMIT " CppAsString2(CDI_LANE_ROWS_MOST)), CDI_STREAM_ARGS, (Oid[]) {CDI_STREAM_TYPES});
		if (plan == NULL)
			elog(ERROR, "could not prepare the query of event streams: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
	}
	upper = watermark - lane->read > stream->window ? lane->read + stream->window : watermark;
	values[0] = Int64GetDatum(lane->read);
	values[1] = Int64GetDatum(upper);
	cdi_stream_arguments(stream->stream, values + 2, nulls + 2);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "cdi events", ALLOCSET_DEFAULT_SIZES);
	portal = SPI_cursor_open(NULL, plan, values, nulls, true);
	while (!full)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		any = true;
		for (uint64 i = 0; i < SPI_processed && !full; i++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[i];
			bool		isnull;

			lane->read = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
			old = MemoryContextSwitchTo(row_context);
			(void) take_event(lane, tuple, SPI_tuptable->tupdesc);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_context);
			full = lane->nrows >= lane->window || lane->bytes >= lane->window_bytes;
		}
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	/* The limit of the query may have ended it, and not the window. */
	full |= SPI_processed == 0 && portal->portalPos >= CDI_LANE_ROWS_MOST;
	SPI_cursor_close(portal);
	MemoryContextDelete(row_context);
	if (!full)
		lane->read = upper;
	if (!any && upper < watermark)
		lane->read = next_position(lane, upper, watermark);
	lane->more = lane->read < watermark;
	took = GetCurrentTimestamp() - start;
	if (took < WINDOW_SHORT)
		stream->window = Min(stream->window * 2, MAX_WINDOW);
	else if (took > WINDOW_LONG)
		stream->window = Max(stream->window / 2, MIN_WINDOW);
}

/* ---- writing ---- */

TimestampTz
push_stream_due(CdiPushState *push)
{
	TimestampTz due = DT_NOEND;
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		if (lane->stream && lane->held_since == 0 && push_lane_cursor(lane) > lane->cursor)
			due = Min(due, lane->stream->moved_at + MOVE_EVERY);
	}
	return due;
}

/* Events that are behind the cursor to be, and not yet counted */
static PushPassed
passed_by(PushLane *lane, bool settle)
{
	PushPassed	sum = {0};
	bool		open = false;
	dlist_iter	it;

#define ADD_PASSED(part) \
	do { \
		sum.withheld += (part).withheld; \
		sum.sampled_out += (part).sampled_out; \
		sum.skipped += (part).skipped; \
		sum.matched += (part).matched; \
		if (settle) \
			memset(&(part), 0, sizeof(PushPassed)); \
	} while (0)

	dlist_foreach(it, &lane->rows)
	{
		PushRow    *row = dlist_container(PushRow, node, it.cur);

		ADD_PASSED(row->before);
		open = row->end == PUSH_OPEN;
		if (open)
			break;
		sum.matched++;
		if (settle)
			row->passed = true;
	}
	if (!open)
		ADD_PASSED(lane->stream->after);
	return sum;
}

static void
write_counts(PushLane *lane)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.event_stream_counts AS c (sync_id, matched, withheld, sampled_out, skipped, ok, rejected, retryable)"
		" SELECT s.sync_id, $2, $3, $4, $5, $6, $7, $8 FROM cdi.syncs s WHERE s.sync_id = $1"
		" ON CONFLICT (sync_id) DO UPDATE SET matched = c.matched + excluded.matched, withheld = c.withheld + excluded.withheld,"
		" sampled_out = c.sampled_out + excluded.sampled_out, skipped = c.skipped + excluded.skipped,"
		" ok = c.ok + excluded.ok, rejected = c.rejected + excluded.rejected, retryable = c.retryable + excluded.retryable",
		.nargs = 8,.argtypes = {INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID}
	};
	const PushStream *stream = lane->stream;
	PushPassed	sum = passed_by(lane, false);

	if (sum.matched + sum.withheld + sum.sampled_out + sum.skipped + stream->ok + stream->rejected + stream->retryable == 0)
		return;
	cdi_plan_execute(&plan, (Datum[])
					 {
						 Int32GetDatum(lane->sync_id), Int64GetDatum(sum.matched), Int64GetDatum(sum.withheld),
						 Int64GetDatum(sum.sampled_out), Int64GetDatum(sum.skipped), Int64GetDatum(stream->ok),
						 Int64GetDatum(stream->rejected), Int64GetDatum(stream->retryable)
					 }, NULL);
}

/* A dead letter, with the event as its action was to have it */
static void
write_failed(const PushRow *row)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.failed_deliveries AS f (position, failed_at, sync_id, run_id, operation, primary_key, hash,"
		" idempotency_key, payload, class, status, error, attempts)"
		" SELECT $2, clock_timestamp(), s.sync_id, 0, $3, $4, $5::uuid, $5::uuid, $6, $7, $8, $9, $10"
		" FROM cdi.syncs s WHERE s.sync_id = $1"
		" ON CONFLICT (sync_id, primary_key) DO UPDATE SET failed_at = excluded.failed_at, payload = excluded.payload,"
		" class = excluded.class, status = excluded.status, error = excluded.error, attempts = excluded.attempts, replay = false",
		.nargs = 10,
		.argtypes = {INT4OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, INT4OID, TEXTOID, INT4OID}
	};
	char		nulls[] = "          ";

	nulls[7] = row->status == 0 ? 'n' : ' ';
	nulls[8] = row->error == NULL ? 'n' : ' ';
	cdi_plan_execute(&plan, (Datum[])
					 {
						 Int32GetDatum(row->lane->sync_id), Int64GetDatum(row->position), CStringGetTextDatum(row->operation),
						 CStringGetTextDatum(row->primary_key), CStringGetTextDatum(row->key), JsonbPGetDatum(row->payload),
						 CStringGetTextDatum(row->class), Int32GetDatum(row->status),
						 row->error ? CStringGetTextDatum(row->error) : (Datum) 0, Int32GetDatum(row->attempts)
					 }, nulls);
}

static void
write_accepted(const PushRow *row)
{
	static CdiPlan plan = {
		.query = "DELETE FROM cdi.failed_deliveries WHERE sync_id = $1 AND primary_key = $2",
		.nargs = 2,.argtypes = {INT4OID, TEXTOID}
	};

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(row->lane->sync_id), CStringGetTextDatum(row->primary_key)}, NULL);
}

void
push_stream_write(PushLane *lane)
{
	dlist_iter	it;

	dlist_foreach(it, &lane->record.ended)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		if (row->end == PUSH_FAILED)
			write_failed(row);
		else if (row->replayed)
			write_accepted(row);
	}
	write_counts(lane);
}

void
push_stream_written(PushLane *lane)
{
	PushStream *stream = lane->stream;

	(void) passed_by(lane, true);
	stream->ok = stream->rejected = stream->retryable = 0;
	stream->moved_at = GetCurrentTimestamp();
}
