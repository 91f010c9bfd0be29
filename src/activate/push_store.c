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
	return MemoryContextStrdup(context, text);
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
		" concat_ws('/', d.xmin, p.xmin, d.ctid, p.ctid), coalesce(c.position, 0)"
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
		lane->enabled = bool_column(row, desc, 3);
		lane->action_name = keep(push->context, lane->action_name, text_column(row, desc, 2));
		/* ours is where it was, unless somebody set it forward */
		if (cursor > lane->read && lane->inflight == 0)
			push_lane_reset(lane, cursor);
		lane->cursor = Max(lane->cursor, cursor);
	}
}

/* What is no longer there; what is in flight ends first. */
static void
drop_unseen(CdiPushState *push)
{
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
			if (lane->inflight == 0)
				push_lane_drop(lane);
		}
		if (destination->seen || !dlist_is_empty(&destination->lanes))
			continue;
		dlist_delete(&destination->node);
		if (destination->context)
			MemoryContextDelete(destination->context);
		pfree(destination->name);
		pfree(destination->version);
		pfree(destination);
	}
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
	destination->resume_at = 0;
	destination->warned = false;
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
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	pfree(destination->settings_text);
	if (destination->spec_text)
		pfree(destination->spec_text);
	destination->settings_text = destination->spec_text = NULL;
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

			/* what waited for better settings goes at once */
			if (changed)
				dlist_foreach(waiting, &lane->waiting)
					dlist_container(PushRequest, node, waiting.cur)->due = 0;

			lane->action = destination->usable ?
				cdi_spec_action(destination->target.spec, lane->action_name) : NULL;
			if (lane->action)
				lane->limits = cdi_request_limits(&destination->target, lane->action);
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
		plan = SPI_prepare("SELECT position, operation, primary_key, idempotency_key::text, payload, run_id"
						   " FROM cdi.outbox WHERE sync_id = $1 AND position > $2 ORDER BY position LIMIT "
						   CppAsString2(CDI_LANE_ROWS),
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
			push_row_add(lane, lane->read, int_column(row, desc, 6), text_column(row, desc, 2), text_column(row, desc, 3),
						 text_column(row, desc, 4), DatumGetJsonbP(SPI_getbinval(row, desc, 5, &isnull)));
			read++;
		}
		SPI_freetuptable(SPI_tuptable);
		if (lane->nrows >= CDI_LANE_ROWS || lane->bytes >= CDI_LANE_BYTES || read >= CDI_LANE_ROWS)
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
		read_configuration(push);
		push_schedule_read(push);
		dlist_foreach(it, &push->destinations)
		{
			PushDestination *destination = dlist_container(PushDestination, node, it.cur);

			dlist_foreach(inner, &destination->lanes)
			{
				PushLane   *lane = dlist_container(PushLane, node, inner.cur);

				if (lane->seen && lane->enabled && destination->enabled && lane->more &&
					lane->nrows <= CDI_LANE_ROWS / 2 && lane->bytes <= CDI_LANE_BYTES / 2)
					read_rows(lane);
			}
		}
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

/* ---- results ---- */

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
write_deliveries(CdiPushState *push)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.deliveries (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys,"
		" status, class, error, milliseconds, idempotency_key)"
		" SELECT sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys::text[],"
		" status, class, error, milliseconds, key"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
		" AS d (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys, status, class, error, milliseconds, key)",
		.nargs = 12,
		.argtypes = {TIMESTAMPTZARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
		TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID}
	};
	static const Oid types[] = {TIMESTAMPTZOID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID, TEXTOID,
	TEXTOID, FLOAT8OID, TEXTOID};
	Columns    *columns;
	Datum		arrays[lengthof(types)];
	dlist_iter	it;
	int			i = 0;

	if (push->record.ndeliveries == 0)
		return;
	columns = make_columns(lengthof(types), push->record.ndeliveries);
	dlist_foreach(it, &push->record.deliveries)
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
		i++;
	}
	for (int k = 0; k < lengthof(types); k++)
		arrays[k] = column_array(columns, k, types[k]);
	cdi_plan_execute(&plan, arrays, NULL);
}

/* Dead letters, before what was accepted: a later row of a key settles them. */
static void
write_failed(CdiPushState *push, int nfailed)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.failed_deliveries AS f (position, failed_at, sync_id, run_id, operation, primary_key, hash,"
		" idempotency_key, payload, class, status, error, attempts)"
		" SELECT DISTINCT ON (o.sync_id, o.primary_key) o.position, clock_timestamp(), o.sync_id, o.run_id, o.operation,"
		" o.primary_key, o.hash, o.idempotency_key, o.payload, e.class, e.status, e.error, e.attempts"
		" FROM unnest($1, $2, $3, $4, $5, $6) AS e (sync_id, position, class, status, error, attempts)"
		" JOIN cdi.outbox o ON o.sync_id = e.sync_id AND o.position = e.position"
		" JOIN cdi.syncs s ON s.sync_id = e.sync_id"
		" ORDER BY o.sync_id, o.primary_key, o.position DESC"
		" ON CONFLICT (sync_id, primary_key) DO UPDATE SET position = excluded.position, failed_at = excluded.failed_at,"
		" run_id = excluded.run_id, operation = excluded.operation, hash = excluded.hash,"
		" idempotency_key = excluded.idempotency_key, payload = excluded.payload, class = excluded.class,"
		" status = excluded.status, error = excluded.error, attempts = excluded.attempts"
		" WHERE excluded.position >= f.position",
		.nargs = 6,
		.argtypes = {INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID}
	};
	static const Oid types[] = {INT4OID, INT8OID, TEXTOID, INT4OID, TEXTOID, INT4OID};
	Columns    *columns;
	Datum		arrays[lengthof(types)];
	dlist_iter	it;
	int			i = 0;

	if (nfailed == 0)
		return;
	columns = make_columns(lengthof(types), nfailed);
	dlist_foreach(it, &push->record.ended)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		if (row->end != PUSH_FAILED)
			continue;
		columns->values[0][i] = Int32GetDatum(row->lane->sync_id);
		columns->values[1][i] = Int64GetDatum(row->position);
		set_text(columns, 2, i, row->class);
		columns->values[3][i] = Int32GetDatum(row->status);
		columns->nulls[3][i] = row->status == 0;
		set_text(columns, 4, i, row->error);
		columns->values[5][i] = Int32GetDatum(row->attempts);
		i++;
	}
	for (int k = 0; k < lengthof(types); k++)
		arrays[k] = column_array(columns, k, types[k]);
	cdi_plan_execute(&plan, arrays, NULL);
}

static void
write_accepted(CdiPushState *push, int naccepted)
{
	static CdiPlan plan = {
		.query = "WITH latest AS ("
		"  SELECT DISTINCT ON (o.sync_id, o.primary_key) o.*,"
		"  o.operation = 'delete' AND s.mode <> 'delete' AS gone"
		"  FROM unnest($1, $2) AS e (sync_id, position)"
		"  JOIN cdi.outbox o ON o.sync_id = e.sync_id AND o.position = e.position"
		"  JOIN cdi.syncs s ON s.sync_id = e.sync_id"
		"  ORDER BY o.sync_id, o.primary_key, o.position DESC),"
		" kept AS ("
		"  INSERT INTO cdi.sync_rows (sync_id, primary_key, hash, payload, acknowledged_at)"
		"  SELECT sync_id, primary_key, hash, payload, clock_timestamp() FROM latest WHERE NOT gone"
		"  ON CONFLICT (sync_id, primary_key) DO UPDATE"
		"  SET hash = excluded.hash, payload = excluded.payload, acknowledged_at = excluded.acknowledged_at),"
		" removed AS ("
		"  DELETE FROM cdi.sync_rows r USING latest l"
		"  WHERE l.gone AND r.sync_id = l.sync_id AND r.primary_key = l.primary_key),"
		" settled AS ("
		"  DELETE FROM cdi.failed_deliveries f USING latest l"
		"  WHERE f.sync_id = l.sync_id AND f.primary_key = l.primary_key AND f.position <= l.position)"
		" SELECT count(*) FROM latest",
		.nargs = 2,.argtypes = {INT4ARRAYOID, INT8ARRAYOID}
	};
	Columns    *columns;
	dlist_iter	it;
	int			i = 0;

	if (naccepted == 0)
		return;
	columns = make_columns(2, naccepted);
	dlist_foreach(it, &push->record.ended)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		if (row->end != PUSH_ACCEPTED)
			continue;
		columns->values[0][i] = Int32GetDatum(row->lane->sync_id);
		columns->values[1][i] = Int64GetDatum(row->position);
		i++;
	}
	cdi_plan_execute(&plan, (Datum[])
					 {
						 column_array(columns, 0, INT4OID), column_array(columns, 1, INT8OID)
					 }, NULL);
}

static void
write_counts(CdiPushState *push)
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
	int			i = 0;

	if (push->record.counts == NULL)
		return;
	columns = make_columns(4, (int) hash_get_num_entries(push->record.counts));
	hash_seq_init(&scan, push->record.counts);
	while ((counts = hash_seq_search(&scan)) != NULL)
	{
		columns->values[0][i] = Int64GetDatum(counts->run_id);
		columns->values[1][i] = Int64GetDatum(counts->ok);
		columns->values[2][i] = Int64GetDatum(counts->rejected);
		columns->values[3][i++] = Int64GetDatum(counts->retryable);
	}
	cdi_plan_execute(&plan, (Datum[])
					 {
						 column_array(columns, 0, INT8OID), column_array(columns, 1, INT8OID),
						 column_array(columns, 2, INT8OID), column_array(columns, 3, INT8OID)
					 }, NULL);
}

/* Position before the first row that has not ended */
static int64
cursor_of(PushLane *lane)
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
write_cursors(CdiPushState *push)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.push_cursor AS c (sync_id, position)"
		" SELECT e.sync_id, e.position FROM unnest($1, $2) AS e (sync_id, position) JOIN cdi.syncs s USING (sync_id)"
		" ORDER BY 1"
		" ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position WHERE c.position < excluded.position",
		.nargs = 2,.argtypes = {INT4ARRAYOID, INT8ARRAYOID}
	};
	Columns    *columns;
	dlist_iter	it;
	dlist_iter	inner;
	int			n = 0;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
		n++;
	columns = make_columns(2, Max(n, 1));
	columns->n = 0;
	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);
		int64		cursor = cursor_of(lane);

		if (cursor <= lane->cursor)
			continue;
		columns->values[0][columns->n] = Int32GetDatum(lane->sync_id);
		columns->values[1][columns->n++] = Int64GetDatum(cursor);
	}
	if (columns->n > 0)
		cdi_plan_execute(&plan, (Datum[])
						 {
							 column_array(columns, 0, INT4OID), column_array(columns, 1, INT8OID)
						 }, NULL);
	return columns->n;
}

void
push_write(CdiPushState *push)
{
	dlist_iter	it;
	dlist_iter	inner;
	dlist_mutable_iter row;
	int			nfailed = 0;

	dlist_foreach(it, &push->record.ended)
		if (dlist_container(PushRow, queue, it.cur)->end == PUSH_FAILED)
		nfailed++;
	cdi_worker_begin("cdi: record deliveries");
	write_deliveries(push);
	write_failed(push, nfailed);
	write_accepted(push, push->record.nended - nfailed);
	write_counts(push);
	(void) write_cursors(push);
	cdi_worker_commit();

	/* From here on it is done; nothing below can fail. */
	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		lane->cursor = Max(lane->cursor, cursor_of(lane));
	}
	dlist_foreach_modify(row, &push->record.ended)
		push_row_forget(dlist_container(PushRow, queue, row.cur));
	push_record_reset(push);
}
