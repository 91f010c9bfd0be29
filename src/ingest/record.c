/*
 * record.c
 *		Accounts: failed events, and the counters of the pipeline.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "ingest/cookieless.h"
#include "ingest/rows.h"
#include "ingest/stages.h"

#define FAILED_COLUMNS 10

static void
set_cstring(const char *string, int column, Datum *values, bool *nulls)
{
	if (string == NULL)
		nulls[column] = true;
	else
		values[column] = CStringGetTextDatum(string);
}

/* The event's bytes as they came, or the call as text. */
static bytea *
payload_of(const CdiEvent *event, CdiText payload)
{
	bytea	   *result;

	if (payload.data == NULL && event->call != NULL)
	{
		payload.data = JsonbToCString(NULL, event->call, event->call_size);
		payload.len = strlen(payload.data);
	}
	result = palloc(VARHDRSZ + payload.len);
	SET_VARSIZE(result, VARHDRSZ + payload.len);
	Assert(payload.data != NULL || payload.len == 0);
	if (payload.len > 0)
		memcpy(VARDATA(result), payload.data, payload.len);
	return result;
}

static bool
form_failure(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	const CdiFailure *failure = event->failure;
	CdiText		payload = event->payload;
	const CdiEnvelope *said = event->envelope;
	Jsonb	   *envelope;

	if (event->outcome != CDI_FAILED)
		return false;
	cdi_cookieless_seal(batch, event, &payload, &said);
	values[0] = TimestampTzGetDatum(event->received_at);
	values[1] = Int32GetDatum(event->source_id);
	values[2] = CStringGetTextDatum(failure->stage);
	values[3] = CStringGetTextDatum(unpack_sql_state(failure->sqlstate));
	values[4] = CStringGetTextDatum(failure->message);
	set_cstring(failure->detail, 5, values, nulls);
	set_cstring(failure->hint, 6, values, nulls);
	values[7] = Int32GetDatum(event->attempts + 1);
	values[8] = PointerGetDatum(payload_of(event, payload));
	envelope = cdi_envelope_to_jsonb(said);
	if (envelope != NULL)
		values[9] = JsonbPGetDatum(envelope);
	else
		nulls[9] = true;
	return true;
}

PG_FUNCTION_INFO_V1(cdi_batch_failures);

Datum
cdi_batch_failures(PG_FUNCTION_ARGS)
{
	cdi_rows_return(fcinfo, form_failure, FAILED_COLUMNS);
	return (Datum) 0;
}

void
cdi_record_failures(CdiBatch *batch)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.failed_events (received_at, source_id, stage, sqlstate,"
		" message, detail, hint, attempts, payload, envelope)"
		" SELECT * FROM cdi._batch_failures()"
	};
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	int		   *index = palloc(sizeof(int) * Max(batch->count, 1));
	int			n = 0;

	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].outcome == CDI_FAILED)
			index[n++] = i;
	if (n > 0)
		cdi_rows_insert(&plan, batch, index, n, form_failure);
	pfree(index);
	MemoryContextSwitchTo(old);
}

typedef struct SourceCounts
{
	int32		source_id;
	int64		counts[CDI_PARKED + 1];
} SourceCounts;

/*
 * One row of changes per source.  received comes from the number that the
 * doors counted when bytes became events; the outcomes are counted here.  An
 * event that was parked counts when it comes again.
 */
void
cdi_record_counts(CdiBatch *batch)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.pipeline_deltas (source_id, hour, received, stored, duplicate, failed, withheld)"
		" VALUES ($1, pg_catalog.date_trunc('hour', $2, 'UTC'), $3, $4, $5, $6, $7)",
		.nargs = 7,
		.argtypes = {INT4OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID}
	};
	SourceCounts *sources = palloc(sizeof(SourceCounts) * Max(batch->nreceived, 1));
	int			nsources = batch->nreceived;

	for (int i = 0; i < nsources; i++)
	{
		memset(&sources[i], 0, sizeof(SourceCounts));
		sources[i].source_id = batch->received[i].source_id;
	}
	for (int i = 0; i < batch->count; i++)
	{
		CdiEvent   *event = &batch->events[i];

		for (int k = 0; k < nsources; k++)
			if (sources[k].source_id == event->source_id)
				sources[k].counts[event->outcome]++;
	}
	for (int i = 0; i < nsources; i++)
	{
		int64	   *counts = sources[i].counts;
		int64		received = batch->received[i].events - counts[CDI_PARKED];
		Datum		values[7] = {
			Int32GetDatum(sources[i].source_id), TimestampTzGetDatum(batch->received_at),
			Int64GetDatum(received), Int64GetDatum(counts[CDI_STORED]),
			Int64GetDatum(counts[CDI_DUPLICATE]), Int64GetDatum(counts[CDI_FAILED]),
			Int64GetDatum(counts[CDI_WITHHELD])
		};

		if (received != 0 || counts[CDI_STORED] != 0)
			cdi_plan_execute(&plan, values, NULL);
	}
	pfree(sources);
}
