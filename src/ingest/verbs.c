/*
 * verbs.c
 *		The SQL doors of the pipeline: cdi_track and its sisters, cdi_ingest
 *		and cdi_replay.
 *
 * A verb fills in the fields of one event itself, raises what is wrong with
 * it, and is part of the caller's transaction.  cdi_ingest records what fails
 * and returns counts.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/errors.h"
#include "ingest/stages.h"

static const CdiSource *
source_argument(FunctionCallInfo fcinfo, int argument)
{
	cdi_require_storage();
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_SOURCE),
				 errmsg("source must not be null")));
	return cdi_source_for_write(text_to_cstring(PG_GETARG_TEXT_PP(argument)));
}

static CdiText
text_argument(FunctionCallInfo fcinfo, int argument)
{
	CdiText		result = {NULL, 0};

	if (!PG_ARGISNULL(argument))
	{
		text	   *value = PG_GETARG_TEXT_PP(argument);

		/* As from JSON: an empty string is no value. */
		if (VARSIZE_ANY_EXHDR(value) > 0)
		{
			result.data = VARDATA_ANY(value);
			result.len = VARSIZE_ANY_EXHDR(value);
		}
	}
	return result;
}

static Jsonb *
object_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	Jsonb	   *value;

	if (PG_ARGISNULL(argument))
		return NULL;
	value = PG_GETARG_JSONB_P(argument);
	if (!JB_ROOT_IS_OBJECT(value))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_TYPE),
				 errmsg("\"%s\" must be a JSON object", name)));
	return value;
}

/*
 * Arguments that all verbs end with, from the given one on: anonymous_id,
 * context, timestamp, message_id, source.
 */
static CdiEvent *
begin_verb(FunctionCallInfo fcinfo, const char *type, int common, CdiBatch **batch)
{
	const CdiSource *source = source_argument(fcinfo, common + 4);
	CdiEvent   *event;

	*batch = cdi_batch_create(CurrentMemoryContext, GetCurrentTimestamp());
	(*batch)->strict = true;
	(*batch)->may_wait = true;
	event = cdi_batch_add(*batch, 0, source->source_id);
	event->type.data = type;
	event->type.len = strlen(type);
	event->user_id = text_argument(fcinfo, 0);
	event->anonymous_id = text_argument(fcinfo, common);
	event->context = object_argument(fcinfo, common + 1, "context");
	if (!PG_ARGISNULL(common + 2))
	{
		event->original_timestamp = PG_GETARG_TIMESTAMPTZ(common + 2);
		if (TIMESTAMP_NOT_FINITE(event->original_timestamp))
			ereport(ERROR,
					(errcode(ERRCODE_CDI_INVALID_TIMESTAMP),
					 errmsg("\"timestamp\" must be finite")));
	}
	event->message_id = text_argument(fcinfo, common + 3);
	return event;
}

static Datum
finish_verb(CdiBatch *batch)
{
	pg_uuid_t  *event_id = palloc(sizeof(pg_uuid_t));

	cdi_ingest_batch(batch);
	*event_id = batch->events[0].event_id;
	cdi_batch_destroy(batch);
	return UUIDPGetDatum(event_id);
}

PG_FUNCTION_INFO_V1(cdi_track);

Datum
cdi_track(PG_FUNCTION_ARGS)
{
	CdiBatch   *batch;
	CdiEvent   *event = begin_verb(fcinfo, "track", 3, &batch);

	event->event = text_argument(fcinfo, 1);
	event->properties = object_argument(fcinfo, 2, "properties");
	return finish_verb(batch);
}

PG_FUNCTION_INFO_V1(cdi_identify);

Datum
cdi_identify(PG_FUNCTION_ARGS)
{
	CdiBatch   *batch;
	CdiEvent   *event = begin_verb(fcinfo, "identify", 2, &batch);

	event->traits = object_argument(fcinfo, 1, "traits");
	return finish_verb(batch);
}

static Datum
view_verb(FunctionCallInfo fcinfo, const char *type)
{
	CdiBatch   *batch;
	CdiEvent   *event = begin_verb(fcinfo, type, 4, &batch);

	event->event = text_argument(fcinfo, 1);
	event->properties = object_argument(fcinfo, 2, "properties");
	event->category = text_argument(fcinfo, 3);
	return finish_verb(batch);
}

PG_FUNCTION_INFO_V1(cdi_page);

Datum
cdi_page(PG_FUNCTION_ARGS)
{
	return view_verb(fcinfo, "page");
}

PG_FUNCTION_INFO_V1(cdi_screen);

Datum
cdi_screen(PG_FUNCTION_ARGS)
{
	return view_verb(fcinfo, "screen");
}

PG_FUNCTION_INFO_V1(cdi_group);

Datum
cdi_group(PG_FUNCTION_ARGS)
{
	CdiBatch   *batch;
	CdiEvent   *event = begin_verb(fcinfo, "group", 3, &batch);

	event->group_id = text_argument(fcinfo, 1);
	event->traits = object_argument(fcinfo, 2, "traits");
	return finish_verb(batch);
}

PG_FUNCTION_INFO_V1(cdi_alias);

Datum
cdi_alias(PG_FUNCTION_ARGS)
{
	CdiBatch   *batch;
	CdiEvent   *event = begin_verb(fcinfo, "alias", 2, &batch);

	event->previous_id = text_argument(fcinfo, 1);
	return finish_verb(batch);
}

/* stored, duplicate, failed, withheld */
static Datum
counts_of(FunctionCallInfo fcinfo, const int64 *counts)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(counts[CDI_STORED]);
	values[1] = Int64GetDatum(counts[CDI_DUPLICATE]);
	values[2] = Int64GetDatum(counts[CDI_FAILED]);
	values[3] = Int64GetDatum(counts[CDI_WITHHELD]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

static void
add_outcomes(const CdiBatch *batch, int64 *counts)
{
	for (int i = 0; i < batch->count; i++)
		counts[batch->events[i].outcome]++;
}

PG_FUNCTION_INFO_V1(cdi_ingest);

Datum
cdi_ingest(PG_FUNCTION_ARGS)
{
	int64		counts[CDI_PARKED + 1] = {0};
	const CdiSource *source = source_argument(fcinfo, 1);
	CdiBatch   *batch;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_EVENT),
				 errmsg("events must not be null")));
	batch = cdi_batch_create(CurrentMemoryContext, GetCurrentTimestamp());
	batch->may_wait = true;
	batch->history = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	cdi_parse_jsonb(batch, 0, source->source_id, PG_GETARG_JSONB_P(0));
	cdi_ingest_batch(batch);
	add_outcomes(batch, counts);
	cdi_batch_destroy(batch);
	return counts_of(fcinfo, counts);
}

PG_FUNCTION_INFO_V1(cdi_replay_rows);

#define ENVELOPES 3				/* argument; NULL where a request said nothing */

/*
 * Replay of failed events.  Each row's unit leaves "received" and "failed" and
 * comes in again like a request's body, with its own time of receipt and what
 * its envelope said.  The SQL function around this one has locked and deleted
 * the rows; here they arrive as arrays.
 */
Datum
cdi_replay_rows(PG_FUNCTION_ARGS)
{
	ArrayType  *arrays[5];
	Datum	   *columns[5];
	bool	   *nulls[5];
	static const Oid types[5] = {INT4OID, TIMESTAMPTZOID, BYTEAOID, JSONBOID, INT4OID};
	static const int lengths[5] = {4, 8, -1, -1, 4};
	static const char aligns[5] = {TYPALIGN_INT, TYPALIGN_DOUBLE, TYPALIGN_INT, TYPALIGN_INT, TYPALIGN_INT};
	int64		counts[CDI_PARKED + 1] = {0};
	CdiBatch   *batch = cdi_batch_create(CurrentMemoryContext, GetCurrentTimestamp());
	int			n = 0;

	batch->may_wait = true;
	for (int k = 0; k < 5; k++)
	{
		int			length;

		arrays[k] = PG_GETARG_ARRAYTYPE_P(k);
		deconstruct_array(arrays[k], types[k], lengths[k], lengths[k] > 0, aligns[k],
						  &columns[k], &nulls[k], &length);
		if (k == 0)
			n = length;
		if (length != n || (k != ENVELOPES && array_contains_nulls(arrays[k])))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the arrays must have one length and, but for the envelopes, no nulls")));
	}
	for (int i = 0; i < n; i++)
	{
		bytea	   *payload = DatumGetByteaPP(columns[2][i]);
		int32		source_id = DatumGetInt32(columns[0][i]);
		CdiEnvelope *envelope;
		int			first = batch->count;
		MemoryContext old = MemoryContextSwitchTo(batch->context);

		envelope = nulls[ENVELOPES][i] ? NULL :
			cdi_envelope_from_jsonb(DatumGetJsonbP(columns[ENVELOPES][i]));
		if (envelope != NULL && (envelope->element || envelope->dialect != NULL))
		{
			CdiEvent   *event = cdi_batch_add(batch, i, source_id);

			if (envelope->dialect != NULL)
				cdi_dialect_refresh(envelope, source_id);
			event->payload.data = VARDATA_ANY(payload);
			event->payload.len = VARSIZE_ANY_EXHDR(payload);
			event->envelope = envelope;
		}
		else
			cdi_parse_body(batch, i, source_id, VARDATA_ANY(payload),
						   VARSIZE_ANY_EXHDR(payload), envelope);
		for (int k = first; k < batch->count; k++)
		{
			CdiEvent   *event = &batch->events[k];

			event->received_at = DatumGetTimestampTz(columns[1][i]);
			event->attempts = DatumGetInt32(columns[4][i]);
		}
		MemoryContextSwitchTo(old);
	}
	cdi_ingest_batch(batch);
	add_outcomes(batch, counts);
	cdi_batch_destroy(batch);
	return counts_of(fcinfo, counts);
}
