/*
 * store.c
 *		Rows of cdi.events.
 *
 * Rows are written by SQL, because only SQL reaches partitions, row security
 * and a distributed engine alike: one INSERT ... SELECT per batch from a
 * set-returning function that hands out the batch in memory.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "base/errors.h"
#include "ingest/rows.h"
#include "ingest/stages.h"
#include "worker/worker.h"

/* An import of history may bring the months of many years in any order. */
#define KNOWN_MONTHS 512

/* Months whose partition is known to exist, the last one used first */
static struct
{
	TimestampTz start;
	TimestampTz end;
}			known_months[KNOWN_MONTHS];
static int	nknown_months = 0;
static bool month_missing = false;	/* some of them could not be made yet */
static Oid	events_oid = InvalidOid;

/* The batch that cdi._batch_...() returns rows of, while its plan runs */
static const CdiRows *cdi_rows = NULL;

void
cdi_rows_return(FunctionCallInfo fcinfo, CdiFormRow form, int ncolumns)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext row_context;
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;

	if (cdi_rows == NULL || cdi_rows->form != form)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this function is internal to the pipeline of cdi")));
	InitMaterializedSRF(fcinfo, 0);
	values = palloc(sizeof(Datum) * ncolumns);
	nulls = palloc(sizeof(bool) * ncolumns);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "cdi row", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(row_context);
	for (int i = 0; i < cdi_rows->n; i++)
	{
		memset(nulls, false, sizeof(bool) * ncolumns);
		if (form(cdi_rows->batch, &cdi_rows->batch->events[cdi_rows->index[i]], values, nulls))
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(row_context);
}

void
cdi_rows_insert(CdiPlan *plan, CdiBatch *batch, int *index, int n, CdiFormRow form)
{
	CdiRows		rows = {batch, index, n, form};

	cdi_rows = &rows;
	PG_TRY();
	{
		cdi_plan_execute(plan, NULL, NULL);
	}
	PG_FINALLY();
	{
		cdi_rows = NULL;
	}
	PG_END_TRY();
}

static void
set_text(CdiText text, int column, Datum *values, bool *nulls)
{
	if (text.data == NULL)
		nulls[column] = true;
	else
		values[column] = PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

static void
set_jsonb(Jsonb *jsonb, int column, Datum *values, bool *nulls)
{
	if (jsonb == NULL)
		nulls[column] = true;
	else
		values[column] = JsonbPGetDatum(jsonb);
}

static void
set_time(TimestampTz time, int column, Datum *values, bool *nulls)
{
	if (time == DT_NOBEGIN)
		nulls[column] = true;
	else
		values[column] = TimestampTzGetDatum(time);
}

#define EVENT_COLUMNS 28

/*
 * Columns of storage version 1.  Events go on being stored between the
 * installation of a new package and ALTER EXTENSION UPDATE and cdi_init(): the
 * library writes into what it finds.
 */
#define EVENT_COLUMNS_1 \
	"received_at, \"timestamp\", original_timestamp, sent_at, position, event_id," \
	" subject, source_id, type, event, category, message_id," \
	" user_id, anonymous_id, group_id, previous_id, campaign_source," \
	" campaign_medium, campaign_name, campaign_term, campaign_content," \
	" click_id_type, referrer_host, properties, traits, context, extra"

static bool
form_event(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	int			column = 0;

	if (event->outcome != CDI_PENDING)
		return false;
	values[column++] = TimestampTzGetDatum(event->received_at);
	values[column++] = TimestampTzGetDatum(event->timestamp);
	set_time(event->original_timestamp, column++, values, nulls);
	set_time(event->sent_at, column++, values, nulls);
	values[column++] = Int64GetDatum(event->position);
	values[column++] = UUIDPGetDatum(&event->event_id);
	if (event->counts[CDI_GRAPH_PERSON] > 0)
		values[column] = UUIDPGetDatum(&event->identifiers[0].key);
	else
		nulls[column] = true;
	column++;
	values[column++] = Int32GetDatum(event->source_id);
	set_text(event->type, column++, values, nulls);
	set_text(event->event, column++, values, nulls);
	set_text(event->category, column++, values, nulls);
	set_text(event->message_id, column++, values, nulls);
	set_text(event->user_id, column++, values, nulls);
	set_text(event->anonymous_id, column++, values, nulls);
	set_text(event->group_id, column++, values, nulls);
	set_text(event->previous_id, column++, values, nulls);
	set_text(event->campaign_source, column++, values, nulls);
	set_text(event->campaign_medium, column++, values, nulls);
	set_text(event->campaign_name, column++, values, nulls);
	set_text(event->campaign_term, column++, values, nulls);
	set_text(event->campaign_content, column++, values, nulls);
	set_text(event->click_id_type, column++, values, nulls);
	set_text(event->referrer_host, column++, values, nulls);
	set_jsonb(event->properties, column++, values, nulls);
	set_jsonb(event->traits, column++, values, nulls);
	set_jsonb(event->context, column++, values, nulls);
	set_jsonb(event->extra, column++, values, nulls);
	set_text(event->page_host, column++, values, nulls);	/* storage version 2 */
	Assert(column == EVENT_COLUMNS);
	return true;
}

PG_FUNCTION_INFO_V1(cdi_batch_events);

Datum
cdi_batch_events(PG_FUNCTION_ARGS)
{
	cdi_rows_return(fcinfo, form_event, EVENT_COLUMNS);
	return (Datum) 0;
}

static void
forget_months(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == events_oid)
		nknown_months = 0;
}

static bool
partition_exists(TimestampTz time)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	return OidIsValid(cdi_relation_oid(psprintf("events_%04d_%02d", tm.tm_year, tm.tm_mon)));
}

static bool
is_known_month(TimestampTz time)
{
	for (int i = 0; i < nknown_months; i++)
		if (time >= known_months[i].start && time < known_months[i].end)
		{
			TimestampTz start = known_months[i].start;
			TimestampTz end = known_months[i].end;

			known_months[i] = known_months[0];
			known_months[0].start = start;
			known_months[0].end = end;
			return true;
		}
	return false;
}

static void
remember_month(TimestampTz time)
{
	static const Interval one_month = {.month = 1};
	Datum		start = DirectFunctionCall2(timestamp_trunc, CStringGetTextDatum("month"),
											TimestampTzGetDatum(time));

	if (nknown_months == KNOWN_MONTHS)
		nknown_months = 0;
	known_months[nknown_months].start = DatumGetTimestampTz(start);
	known_months[nknown_months++].end =
		DatumGetTimestampTz(DirectFunctionCall2(timestamp_pl_interval, start,
												IntervalPGetDatum(&one_month)));
}

/*
 * Partition of a time, looked up once per backend and month.  Where it cannot
 * be made now the row goes to the default partition, and the keeper moves it.
 *
 * A business transaction makes none: it would keep every reader, and every
 * writer of that month, waiting until it ends.  An import does, in whatever
 * transaction, for it brings the months with it.
 */
static void
ensure_partition(TimestampTz time, bool history)
{
	static CdiPlan plan = {
		.query = "SELECT cdi._ensure_partition('events', $1)",
		.nargs = 1,.argtypes = {TIMESTAMPTZOID}
	};
	bool		exists;
	bool		isnull;

	if (is_known_month(time))
		return;
	cdi_invalidation_register(forget_months);
	events_oid = cdi_relation_oid("events");
	if (month_missing || (!history && IsTransactionBlock()))
		exists = partition_exists(time);
	else
	{
		cdi_plan_execute(&plan, (Datum[]) {TimestampTzGetDatum(time)}, NULL);
		exists = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	if (!exists)
	{
		/* Once per batch: each try for a month waits for the same lock. */
		cdi_worker_wake_at_commit(CDI_WAKE_KEEPER);
		month_missing = true;
	}
	remember_month(time);
}

void
cdi_stage_store(CdiBatch *batch, int *index, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.events (" EVENT_COLUMNS_1 ", page_host)"
		" SELECT " EVENT_COLUMNS_1 ", page_host FROM cdi._batch_events()"
	};
	static CdiPlan plan_1 = {
		.query = "INSERT INTO cdi.events (" EVENT_COLUMNS_1 ")"
		" SELECT " EVENT_COLUMNS_1 " FROM cdi._batch_events()"
	};
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	TimestampTz last_received = DT_NOBEGIN;
	int64		pending = 0;
	int64		inserted;

	for (int i = 0; i < n; i++)
	{
		CdiEvent   *event = &batch->events[index[i]];

		if (event->outcome != CDI_PENDING)
			continue;
		if (event->received_at != last_received)
		{
			last_received = event->received_at;
			ensure_partition(last_received, cdi_event_has_history(event));
		}
		if (pending++ == 0)
			cdi_position_reserve();
		event->position = cdi_position_next();
	}
	if (month_missing)
		nknown_months = 0;
	month_missing = false;
	if (pending > 0)
	{
		bool		current = get_attnum(cdi_relation_oid("events"), "page_host") != InvalidAttrNumber;

		cdi_rows_insert(current ? &plan : &plan_1, batch, index, n, form_event);
		inserted = SPI_processed;

		/* "stored" is what the table took, not what it was given */
		if (inserted != pending)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("table \"cdi.events\" took " INT64_FORMAT " of " INT64_FORMAT " events",
							inserted, pending),
					 errhint("A trigger or rule on cdi.events must not drop rows.")));
		for (int i = 0; i < n; i++)
			if (batch->events[index[i]].outcome == CDI_PENDING)
				batch->events[index[i]].outcome = CDI_STORED;
	}
	MemoryContextSwitchTo(old);
}
