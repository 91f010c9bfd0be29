/*
 * push_write.c
 *		Record what became of requests and rows: one short transaction, after
 *		which nothing of it is sent again.
 */
#include "activate/push.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "base/errors.h"
#include "worker/worker.h"

#define MAX_COLUMNS 13

typedef struct Columns
{
	int			n;
	Datum	   *values[MAX_COLUMNS];
	bool	   *nulls[MAX_COLUMNS];
} Columns;

static Columns *
make_columns(int ncolumns, int n)
{
	Columns    *columns = palloc0(sizeof(Columns));

	columns->n = n;
	for (int i = 0; i < ncolumns; i++)
	{
		columns->values[i] = palloc(sizeof(Datum) * n);
		columns->nulls[i] = palloc0(sizeof(bool) * n);
	}
	return columns;
}

static Datum
column_array(const Columns *columns, int column, Oid type)
{
	int			dims[1] = {columns->n};
	int			bounds[1] = {1};
	bool		by_value = type != TEXTOID;
	int			len = type == TEXTOID ? -1 : type == INT4OID ? 4 : 8;
	char		align = len == 8 ? TYPALIGN_DOUBLE : TYPALIGN_INT;

	return PointerGetDatum(construct_md_array(columns->values[column], columns->nulls[column], 1, dims, bounds,
											  type, len, by_value, align));
}

static void
set_text(Columns *columns, int column, int row, const char *text)
{
	if (text == NULL)
		columns->nulls[column][row] = true;
	else
		columns->values[column][row] = CStringGetTextDatum(text);
}

static void
write_deliveries(PushLane **lanes, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.deliveries (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys,"
		" status, class, error, milliseconds, idempotency_key, kind)"
		" SELECT sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys::text[],"
		" status, class, error, milliseconds, key, kind"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
		" AS d (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys, status, class, error, milliseconds, key, kind)",
		.nargs = 13,
		.argtypes = {TIMESTAMPTZARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
		TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
	};
	static const Oid types[] = {TIMESTAMPTZOID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID, TEXTOID,
	TEXTOID, FLOAT8OID, TEXTOID, TEXTOID};
	Columns    *columns;
	Datum		arrays[lengthof(types)];
	dlist_iter	it;
	int			ndeliveries = 0;
	int			i = 0;

	for (int k = 0; k < n; k++)
		ndeliveries += lanes[k]->record.ndeliveries;
	if (ndeliveries == 0)
		return;
	columns = make_columns(lengthof(types), ndeliveries);
	for (int k = 0; k < n; k++)
		dlist_foreach(it, &lanes[k]->record.deliveries)
	{
		PushDelivery *delivery = dlist_container(PushDelivery, node, it.cur);

		columns->values[0][i] = TimestampTzGetDatum(delivery->sent_at);
		columns->values[1][i] = Int32GetDatum(delivery->sync_id);
		columns->values[2][i] = Int32GetDatum(delivery->destination_id);
		columns->values[3][i] = Int32GetDatum(delivery->attempt);
		columns->values[4][i] = Int32GetDatum(delivery->rows);
		columns->values[5][i] = Int32GetDatum(delivery->accepted);
		set_text(columns, 6, i, delivery->primary_keys);
		columns->values[7][i] = Int32GetDatum(delivery->status);
		columns->nulls[7][i] = delivery->status == 0;
		set_text(columns, 8, i, delivery->class);
		set_text(columns, 9, i, delivery->error);
		columns->values[10][i] = Float8GetDatum(delivery->milliseconds);
		set_text(columns, 11, i, delivery->key);
		set_text(columns, 12, i, delivery->record ? "record" : "request");
		i++;
	}
	for (int k = 0; k < lengthof(types); k++)
		arrays[k] = column_array(columns, k, types[k]);
	cdi_plan_execute(&plan, arrays, NULL);
}

/* Rows of the outbox */
static int
count_ended(PushLane **lanes, int n, PushEnd end)
{
	dlist_iter	it;
	int			count = 0;

	for (int k = 0; k < n; k++)
		if (lanes[k]->stream == NULL)
			dlist_foreach(it, &lanes[k]->record.ended)
			count += dlist_container(PushRow, queue, it.cur)->end == end;
	return count;
}

/* Dead letters, before what was accepted: a later row of a key settles them. */
static void
write_failed(PushLane **lanes, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.failed_deliveries AS f (position, failed_at, sync_id, run_id, operation, primary_key, hash,"
		" idempotency_key, payload, class, status, error, attempts, row_hash)"
		" SELECT DISTINCT ON (o.sync_id, o.primary_key) o.position, clock_timestamp(), o.sync_id, o.run_id, o.operation,"
		" o.primary_key, o.hash, o.idempotency_key, o.payload, e.class, e.status, e.error, e.attempts, o.row_hash"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7) AS e (sync_id, position, class, status, error, attempts, queued_at)"
		" JOIN cdi.outbox o ON o.sync_id = e.sync_id AND o.position = e.position AND o.queued_at = e.queued_at"
		" JOIN cdi.syncs s ON s.sync_id = e.sync_id"
		" ORDER BY o.sync_id, o.primary_key, o.position DESC"
		" ON CONFLICT (sync_id, primary_key) DO UPDATE SET position = excluded.position, failed_at = excluded.failed_at,"
		" run_id = excluded.run_id, operation = excluded.operation, hash = excluded.hash,"
		" idempotency_key = excluded.idempotency_key, payload = excluded.payload, class = excluded.class,"
		" status = excluded.status, error = excluded.error, attempts = excluded.attempts, row_hash = excluded.row_hash"
		" WHERE excluded.position >= f.position",
		.nargs = 7,
		.argtypes = {INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID}
	};
	static const Oid types[] = {INT4OID, INT8OID, TEXTOID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID};
	Columns    *columns;
	Datum		arrays[lengthof(types)];
	dlist_iter	it;
	int			nfailed = count_ended(lanes, n, PUSH_FAILED);
	int			i = 0;

	if (nfailed == 0)
		return;
	columns = make_columns(lengthof(types), nfailed);
	for (int k = 0; k < n; k++)
		dlist_foreach(it, &lanes[k]->record.ended)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		if (row->end != PUSH_FAILED || row->lane->stream)
			continue;
		columns->values[0][i] = Int32GetDatum(row->lane->sync_id);
		columns->values[1][i] = Int64GetDatum(row->position);
		set_text(columns, 2, i, row->class);
		columns->values[3][i] = Int32GetDatum(row->status);
		columns->nulls[3][i] = row->status == 0;
		set_text(columns, 4, i, row->error);
		columns->values[5][i] = Int32GetDatum(row->attempts);
		columns->values[6][i] = TimestampTzGetDatum(row->queued_at);
		i++;
	}
	for (int k = 0; k < lengthof(types); k++)
		arrays[k] = column_array(columns, k, types[k]);
	cdi_plan_execute(&plan, arrays, NULL);
}

static void
write_accepted(PushLane **lanes, int n)
{
	static CdiPlan plan = {
		.query = "WITH latest AS ("
		"  SELECT DISTINCT ON (o.sync_id, o.primary_key) o.*,"
		"  o.operation = 'delete' AND s.mode <> 'delete' AS gone"
		"  FROM unnest($1, $2, $3) AS e (sync_id, position, queued_at)"
		"  JOIN cdi.outbox o ON o.sync_id = e.sync_id AND o.position = e.position AND o.queued_at = e.queued_at"
		"  JOIN cdi.syncs s ON s.sync_id = e.sync_id"
		"  ORDER BY o.sync_id, o.primary_key, o.position DESC),"
		" kept AS ("
		"  INSERT INTO cdi.sync_rows (sync_id, primary_key, hash, payload, acknowledged_at, row_hash)"
		"  SELECT sync_id, primary_key, hash, payload, clock_timestamp(), row_hash FROM latest WHERE NOT gone"
		"  ON CONFLICT (sync_id, primary_key) DO UPDATE"
		"  SET hash = excluded.hash, payload = excluded.payload, acknowledged_at = excluded.acknowledged_at, row_hash = excluded.row_hash),"
		" removed AS ("
		"  DELETE FROM cdi.sync_rows r USING latest l"
		"  WHERE l.gone AND r.sync_id = l.sync_id AND r.primary_key = l.primary_key),"
		" settled AS ("
		"  DELETE FROM cdi.failed_deliveries f USING latest l"
		"  WHERE f.sync_id = l.sync_id AND f.primary_key = l.primary_key AND f.position <= l.position)"
		" SELECT count(*) FROM latest",
		.nargs = 3,.argtypes = {INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID}
	};
	Columns    *columns;
	dlist_iter	it;
	int			naccepted = count_ended(lanes, n, PUSH_ACCEPTED);
	int			i = 0;

	if (naccepted == 0)
		return;
	columns = make_columns(3, naccepted);
	for (int k = 0; k < n; k++)
		dlist_foreach(it, &lanes[k]->record.ended)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		if (row->end != PUSH_ACCEPTED || row->lane->stream)
			continue;
		columns->values[0][i] = Int32GetDatum(row->lane->sync_id);
		columns->values[1][i] = Int64GetDatum(row->position);
		columns->values[2][i] = TimestampTzGetDatum(row->queued_at);
		i++;
	}
	cdi_plan_execute(&plan, (Datum[])
					 {
						 column_array(columns, 0, INT4OID), column_array(columns, 1, INT8OID),
						 column_array(columns, 2, TIMESTAMPTZOID)
					 }, NULL);
}

static void
write_counts(PushLane **lanes, int n)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.sync_runs r SET attempted = r.attempted + c.ok + c.rejected + c.retryable, ok = r.ok + c.ok,"
		" rejected = r.rejected + c.rejected, retryable = r.retryable + c.retryable"
		" FROM unnest($1, $2, $3, $4) AS c (run_id, ok, rejected, retryable) WHERE r.run_id = c.run_id",
		.nargs = 4,.argtypes = {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	HASH_SEQ_STATUS scan;
	PushCounts *counts;
	Columns    *columns;
	int			ncounts = 0;
	int			i = 0;

	for (int k = 0; k < n; k++)
		ncounts += lanes[k]->record.counts ? (int) hash_get_num_entries(lanes[k]->record.counts) : 0;
	if (ncounts == 0)
		return;
	columns = make_columns(4, ncounts);
	for (int k = 0; k < n; k++)
	{
		if (lanes[k]->record.counts == NULL)
			continue;
		hash_seq_init(&scan, lanes[k]->record.counts);
		while ((counts = hash_seq_search(&scan)) != NULL)
		{
			columns->values[0][i] = Int64GetDatum(counts->run_id);
			columns->values[1][i] = Int64GetDatum(counts->ok);
			columns->values[2][i] = Int64GetDatum(counts->rejected);
			columns->values[3][i++] = Int64GetDatum(counts->retryable);
		}
	}
	cdi_plan_execute(&plan, (Datum[])
					 {
						 column_array(columns, 0, INT8OID), column_array(columns, 1, INT8OID),
						 column_array(columns, 2, INT8OID), column_array(columns, 3, INT8OID)
					 }, NULL);
}

/* Position before the first row that has not ended */
int64
push_lane_cursor(PushLane *lane)
{
	dlist_iter	it;

	dlist_foreach(it, &lane->rows)
	{
		PushRow    *row = dlist_container(PushRow, node, it.cur);

		if (row->end == PUSH_OPEN)
			return row->position - 1;
	}
	return lane->read;
}

static int
write_cursors(PushLane **lanes, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.push_cursor AS c (sync_id, position)"
		" SELECT e.sync_id, e.position FROM unnest($1, $2) AS e (sync_id, position) JOIN cdi.syncs s USING (sync_id)"
		" ORDER BY 1"
		" ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position WHERE c.position < excluded.position",
		.nargs = 2,.argtypes = {INT4ARRAYOID, INT8ARRAYOID}
	};
	Columns    *columns = make_columns(2, n);

	columns->n = 0;
	for (int k = 0; k < n; k++)
	{
		int64		cursor = push_lane_cursor(lanes[k]);

		if (cursor <= lanes[k]->cursor)
			continue;
		columns->values[0][columns->n] = Int32GetDatum(lanes[k]->sync_id);
		columns->values[1][columns->n++] = Int64GetDatum(cursor);
	}
	if (columns->n > 0)
		cdi_plan_execute(&plan, (Datum[])
						 {
							 column_array(columns, 0, INT4OID), column_array(columns, 1, INT8OID)
						 }, NULL);
	return columns->n;
}

/* Why destinations pause, for people to see */
static void
write_reasons(CdiPushState *push)
{
	static CdiPlan set = {
		.query = "INSERT INTO cdi.destination_pauses AS p (destination_id, since, reason, failures, next_try_at)"
		" SELECT d.destination_id, coalesce($5, clock_timestamp()), $2, $3, $4 FROM cdi.destinations d WHERE d.destination_id = $1"
		" ON CONFLICT (destination_id) DO UPDATE SET reason = excluded.reason, failures = excluded.failures,"
		" next_try_at = excluded.next_try_at,"
		" since = CASE WHEN (p.failures = 0) = (excluded.failures = 0) THEN p.since ELSE excluded.since END",
		.nargs = 5,.argtypes = {INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	static CdiPlan clear = {
		.query = "DELETE FROM cdi.destination_pauses WHERE destination_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	dlist_iter	it;

	dlist_foreach(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);
		Datum		values[5] = {Int32GetDatum(destination->destination_id)};
		char		nulls[] = "     ";

		if (!destination->reason_changed)
			continue;
		if (destination->reason == NULL)
		{
			cdi_plan_execute(&clear, values, NULL);
			continue;
		}
		values[1] = CStringGetTextDatum(destination->reason);
		values[2] = Int32GetDatum(destination->failures);
		values[3] = TimestampTzGetDatum(destination->resume_at);
		values[4] = TimestampTzGetDatum(destination->opened_at);
		if (destination->opened_at == 0)
			nulls[4] = 'n';
		cdi_plan_execute(&set, values, nulls);
	}
}

/* ---- transactions ---- */

/*
 * A user's transaction may have changed what is to be written, and stay open:
 * one that dropped a sync, or forgot what was acknowledged.  Nothing here waits
 * for it.  Its sync alone is held up, and tried again from time to time.
 */
#define LOCK_TIMEOUT "100ms"
#define HELD_LOCK_TIMEOUT "10ms"
#define HELD_RETRY (200 * 1000)
/* Of syncs that are held up, tried in a row without success */
#define HELD_FAILURES 3
/* A transaction that takes longer is worth a word. */
#define HELD_TELL_AFTER USECS_PER_SEC

void
push_begin(const char *activity, const char *lock_timeout)
{
	cdi_worker_begin(activity);
	(void) set_config_option("lock_timeout", lock_timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

bool
push_no_lock(MemoryContext context)
{
	if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE && geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED)
		PG_RE_THROW();
	cdi_worker_abort();
	MemoryContextSwitchTo(context);
	FlushErrorState();
	return false;
}

static bool
has_results(PushLane *lane)
{
	return lane->record.ndeliveries > 0 || lane->record.nended > 0;
}

/* What became of the rows of these lanes; false where a lock was not to be had */
static bool
write_lanes(PushLane **lanes, int n, const char *lock_timeout)
{
	MemoryContext context = CurrentMemoryContext;
	dlist_mutable_iter row;
	volatile int moved = 0;
	volatile bool done = true;

	PG_TRY();
	{
		push_begin("cdi: record deliveries", lock_timeout);
		write_deliveries(lanes, n);
		write_failed(lanes, n);
		write_accepted(lanes, n);
		write_counts(lanes, n);
		for (int k = 0; k < n; k++)
			if (lanes[k]->stream)
				push_stream_write(lanes[k]);
		moved = write_cursors(lanes, n);
		cdi_worker_commit();
	}
	PG_CATCH();
	{
		done = push_no_lock(context);
	}
	PG_END_TRY();
	if (!done)
		return false;

	/* From here on it is done; nothing below can fail. */
	for (int k = 0; k < n; k++)
	{
		PushLane   *lane = lanes[k];

		if (lane->stream)
			push_stream_written(lane);
		lane->cursor = Max(lane->cursor, push_lane_cursor(lane));
		dlist_foreach_modify(row, &lane->record.ended)
			push_row_forget(dlist_container(PushRow, queue, row.cur));
		push_record_reset(&lane->record);
	}
	if (moved > 0)
		push_schedule_delivered();
	return true;
}

/* ---- what is held up ---- */

static void
hold(CdiPushState *push, PushLane *lane)
{
	lane->held_since = GetCurrentTimestamp();
	dlist_push_tail(&push->held, &lane->held_node);
	push->held_due = 0;
}

static void
release(PushLane *lane)
{
	static CdiPlan plan = {
		.query = "DELETE FROM cdi.push_waits WHERE sync_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};

	if (lane->held_told)
	{
		cdi_worker_begin("cdi: a sync goes on");
		cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(lane->sync_id)}, NULL);
		cdi_worker_commit();
	}
	dlist_delete(&lane->held_node);
	lane->held_since = 0;
	lane->held_told = false;
}

/*
 * Who else has written there, and not ended?  One of them it is for whom we
 * wait.  A prepared transaction has no process.
 */
static void
tell(PushLane *lane)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.push_waits AS w (sync_id, since, reason)"
		" SELECT s.sync_id, $2, 'another transaction has changed rows of it and is still open: ' || coalesce(("
		"  SELECT string_agg(DISTINCT coalesce('process ' || l.pid, 'a prepared transaction'), ', ') FROM pg_catalog.pg_locks l"
		"  WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()"
		"  AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
		"  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())"
		"  AND l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		"   WHERE n.nspname = 'cdi' AND c.relname IN ('push_cursor', 'sync_rows', 'failed_deliveries', 'sync_runs',"
		"    'event_stream_counts', 'deliveries'))), 'it has ended by now')"
		" FROM cdi.syncs s WHERE s.sync_id = $1"
		" ON CONFLICT (sync_id) DO UPDATE SET since = excluded.since, reason = excluded.reason"
		" RETURNING (SELECT s.name FROM cdi.syncs s WHERE s.sync_id = w.sync_id), w.reason",
		.nargs = 2,.argtypes = {INT4OID, TIMESTAMPTZOID}
	};
	char	   *name;

	cdi_worker_begin("cdi: a sync waits");
	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(lane->sync_id), TimestampTzGetDatum(lane->held_since)}, NULL);
	name = SPI_processed > 0 ? SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1) : NULL;
	if (name)
		ereport(WARNING,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("sync \"%s\" waits", name),
				 errdetail("What its destination answered cannot be recorded: %s.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2)),
				 errhint("It goes on by itself when that transaction has ended. Other syncs do not wait.")));
	cdi_worker_commit();
	lane->held_told = true;
}

/*
 * One after the other, beginning with who was not tried for longest; a lock
 * that is not to be had costs us time that the others need.
 */
static void
write_held(CdiPushState *push)
{
	int			failures = 0;
	PushLane   *last;

	if (dlist_is_empty(&push->held) || push->held_due > GetCurrentTimestamp())
		return;
	last = dlist_tail_element(PushLane, held_node, &push->held);
	for (;;)
	{
		PushLane   *lane = dlist_head_element(PushLane, held_node, &push->held);
		bool		at_end = lane == last;

		if (write_lanes(&lane, 1, HELD_LOCK_TIMEOUT))
			release(lane);
		else
		{
			dlist_delete(&lane->held_node);
			dlist_push_tail(&push->held, &lane->held_node);
			failures++;
			if (!lane->held_told && GetCurrentTimestamp() - lane->held_since > HELD_TELL_AFTER)
				tell(lane);
		}
		if (at_end || failures == HELD_FAILURES)
			break;
	}
	push->held_due = GetCurrentTimestamp() + HELD_RETRY;
}

void
push_write_begin(CdiPushState *push)
{
	static CdiPlan plan = {.query = "DELETE FROM cdi.push_waits"};

	if (!push->begun)
		cdi_plan_execute(&plan, NULL, NULL);
	push->begun = true;
}

TimestampTz
push_write_again(const CdiPushState *push)
{
	TimestampTz due = dlist_is_empty((dlist_head *) &push->held) ? DT_NOEND : push->held_due;

	return push_reasons_changed(push) && push->reasons_due > 0 ? Min(due, push->reasons_due) : due;
}

bool
push_write_wanted(const CdiPushState *push)
{
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, (dlist_head *) &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		if (lane->held_since == 0 && has_results(lane))
			return true;
	}
	return push_reasons_changed(push) && push->reasons_due == 0;
}

/* Of their own: who drops a destination holds up no more than these. */
static void
write_pauses(CdiPushState *push)
{
	MemoryContext context = CurrentMemoryContext;
	dlist_iter	it;
	volatile bool done = true;

	if (!push_reasons_changed(push) || push->reasons_due > GetCurrentTimestamp())
		return;
	PG_TRY();
	{
		push_begin("cdi: record pauses", push->reasons_due > 0 ? HELD_LOCK_TIMEOUT : LOCK_TIMEOUT);
		write_reasons(push);
		cdi_worker_commit();
	}
	PG_CATCH();
	{
		done = push_no_lock(context);
	}
	PG_END_TRY();
	push->reasons_due = done ? 0 : GetCurrentTimestamp() + HELD_RETRY;
	if (done)
		dlist_foreach(it, &push->destinations)
			dlist_container(PushDestination, node, it.cur)->reason_changed = false;
}

void
push_write(CdiPushState *push)
{
	PushLane  **lanes;
	dlist_iter	it;
	dlist_iter	inner;
	int			n = 0;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
		n++;
	lanes = palloc(sizeof(PushLane *) * Max(n, 1));
	n = 0;
	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		if (lane->held_since == 0 && (has_results(lane) || push_lane_cursor(lane) > lane->cursor))
			lanes[n++] = lane;
	}
	if (n > 0 && !write_lanes(lanes, n, LOCK_TIMEOUT))
		for (int k = 0; k < n; k++)
			hold(push, lanes[k]);
	write_held(push);
	write_pauses(push);
}
