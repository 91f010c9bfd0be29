/*
 * parse.c
 *		Bytes become events.
 *
 * A request body is one call, an array of calls, or an envelope with a member
 * "batch".  The splitter walks only the outer one or two levels (base/scan.h)
 * and skips over values, so that a call that is no valid JSON inside costs its
 * neighbours nothing and keeps its bytes; the calls themselves are parsed by
 * the server's own JSON parser.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "base/scan.h"
#include "ingest/ingest.h"
#include "ingest/stages.h"

/* Members of the outermost object, as far as the pipeline cares. */
typedef struct Outer
{
	CdiText		batch;
	CdiText		sent_at;
	CdiText		context;
} Outer;

/* false where the object's outer level is malformed */
static bool
scan_outer(CdiText body, Outer *outer)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	memset(outer, 0, sizeof(*outer));
	cdi_scan_object(&scan, body);
	while (cdi_scan_member(&scan, &key, &value))
	{
		if (cdi_text_is(key, "batch"))
			outer->batch = value;
		else if (cdi_text_is(key, "sentAt"))
			outer->sent_at = value;
		else if (cdi_text_is(key, "context"))
			outer->context = value;
	}
	return !scan.malformed;
}

static void
add_call(CdiBatch *batch, int32 origin, int32 source_id, CdiText call, const CdiEnvelope *envelope)
{
	CdiEvent   *event = cdi_batch_add(batch, origin, source_id);

	event->payload = call;
	event->envelope = envelope;
}

static void
add_calls(CdiBatch *batch, int32 origin, int32 source_id, CdiText array, const CdiEnvelope *envelope)
{
	CdiScan		scan;
	CdiText		call;

	cdi_scan_array(&scan, array);
	while (cdi_scan_element(&scan, &call))
		add_call(batch, origin, source_id, call, envelope);
}

static void
check_size(int size)
{
	if (size > (int64) cdi_ingest_max_event * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_EVENT_TOO_LARGE),
				 errmsg("event is larger than cdi.ingest_max_event"),
				 errdetail("The event has %d bytes, the limit is %d kB.",
						   size, cdi_ingest_max_event)));
}

/* The number of a \uXXXX at this place, or -1 */
static int
escaped_unit(const char *at, const char *end)
{
	int			unit = 0;

	if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
		return -1;
	for (int i = 2; i < 6; i++)
	{
		if (!isxdigit((unsigned char) at[i]))
			return -1;
		unit = unit * 16 + (isdigit((unsigned char) at[i]) ? at[i] - '0' : (at[i] | 0x20) - 'a' + 10);
	}
	return unit;
}

/*
 * Half a character is what SDKs in JavaScript leave of an emoji where they cut
 * a text off.  No parser of ours takes it, and the whole event is not lost for
 * it: it becomes U+FFFD, as Unicode recommends, in the same six bytes.
 */
static void
mend_surrogates(char *text, int length)
{
	char	   *end = text + length;
	char	   *at = text;

	while ((at = memchr(at, '\\', end - at)) != NULL)
	{
		int			unit = escaped_unit(at, end);
		int			next = unit >= 0xd800 && unit < 0xdc00 ? escaped_unit(at + 6, end) : -1;

		if (unit < 0)
			at = Min(at + 2, end);
		else if (unit < 0xd800 || unit > 0xdfff)
			at += 6;
		else if (next >= 0xdc00 && next <= 0xdfff)
			at += 12;
		else
		{
			memcpy(at, "\\ufffd", 6);
			at += 6;
		}
	}
}

/*
 * The server's parser on one slice; the result lives in the current context.
 * Raises what is wrong with it.  Touches only memory, so that an error can be
 * caught without a subtransaction.
 */
static Jsonb *
slice_to_jsonb(CdiText slice)
{
	char	   *copy;
	Datum		datum;

	if (!pg_verify_mbstr(PG_UTF8, slice.data, slice.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_ENCODING),
				 errmsg("event is not valid UTF-8")));
	copy = pnstrdup(slice.data, slice.len);
	mend_surrogates(copy, slice.len);
	datum = DirectFunctionCall1(jsonb_in, CStringGetDatum(copy));
	pfree(copy);
	return DatumGetJsonbP(datum);
}

/* The event's payload as a call, in whatever dialect it came.  Translation
 * and the parser take several kilobytes, however small the event: scratch is for
 * those. */
static Jsonb *
payload_to_jsonb(CdiEvent *event, MemoryContext scratch)
{
	MemoryContext old;
	StringInfoData call;
	CdiText		text;
	Jsonb	   *parsed;
	Jsonb	   *result;

	check_size(event->payload.len);
	old = MemoryContextSwitchTo(scratch);
	text = event->payload;
	if (event->envelope != NULL && event->envelope->dialect != NULL)
	{
		initStringInfo(&call);
		cdi_dialect_translate(event->envelope, event->payload, event->received_at, &call);
		text.data = call.data;
		text.len = call.len;
	}
	parsed = slice_to_jsonb(text);
	result = MemoryContextAlloc(old, VARSIZE(parsed));
	memcpy(result, parsed, VARSIZE(parsed));
	MemoryContextSwitchTo(old);
	MemoryContextReset(scratch);
	return result;
}

/* A cancelled statement or a lack of memory says nothing about the event. */
static bool
is_fault_of_event(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category != ERRCODE_OPERATOR_INTERVENTION &&
		category != ERRCODE_INSUFFICIENT_RESOURCES &&
		category != ERRCODE_SYSTEM_ERROR;
}

/*
 * Members of the outer object that apply to every call in it.  False where one
 * of them is malformed: without it the calls would mean something else.
 */
static bool
parse_outer(CdiBatch *batch, const Outer *outer, CdiEnvelope *envelope)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	volatile bool well_formed = true;

	PG_TRY();
	{
		JsonbValue	value;

		if (outer->sent_at.data != NULL)
		{
			check_size(outer->sent_at.len);
			if (JsonbExtractScalar(&slice_to_jsonb(outer->sent_at)->root, &value) &&
				value.type == jbvString)
			{
				envelope->sent_at.data = value.val.string.val;
				envelope->sent_at.len = value.val.string.len;
			}
		}
		if (outer->context.data != NULL)
		{
			Jsonb	   *context;

			check_size(outer->context.len);
			context = slice_to_jsonb(outer->context);
			if (JB_ROOT_IS_OBJECT(context))
				envelope->context = context;
			else
				well_formed = JB_ROOT_IS_SCALAR(context) &&
					JsonbExtractScalar(&context->root, &value) && value.type == jbvNull;
		}
	}
	PG_CATCH();
	{
		if (!is_fault_of_event(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(batch->context);
		FlushErrorState();
		well_formed = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return well_formed;
}

int
cdi_parse_body(CdiBatch *batch, int32 origin, int32 source_id,
			   const char *body, int len, const CdiEnvelope *envelope)
{
	int			before = batch->count;
	CdiText		whole = {body, len};
	bool		array = cdi_scan_kind(whole) == '[';
	Outer		outer = {.batch = {NULL, 0}};
	bool		well_formed = array ? cdi_scan_calls(whole) >= 0 : scan_outer(whole, &outer);
	bool		spreads = false;

	if (well_formed && (array || outer.batch.data != NULL))
	{
		CdiEnvelope *own = MemoryContextAllocZero(batch->context, sizeof(CdiEnvelope));

		if (envelope != NULL)
			*own = *envelope;
		own->element = true;
		if (!array)
		{
			int			calls = cdi_scan_calls(outer.batch);

			own->type.data = NULL;
			spreads = cdi_scan_spreads(calls, outer.context.len);
			well_formed = calls >= 0 && (spreads || parse_outer(batch, &outer, own));
		}
		if (well_formed && !spreads)
			add_calls(batch, origin, source_id, array ? whole : outer.batch, own);
	}
	else if (well_formed)
		add_call(batch, origin, source_id, whole, envelope);
	if (!well_formed || spreads)
	{
		CdiEvent   *event = cdi_batch_add(batch, origin, source_id);

		event->payload = whole;
		event->envelope = envelope;
		if (spreads)
			cdi_event_fail(batch, event, "parse", ERRCODE_CDI_EVENT_TOO_LARGE,
						   "context of the batch is too large for so many calls",
						   NULL, "Send fewer calls at a time.");
		else
			cdi_event_fail(batch, event, "parse", ERRCODE_CDI_INVALID_JSON,
						   "body is no call, no array of calls and no batch in valid JSON",
						   NULL, "Send one JSON object, an array of them, or {\"batch\": [...]}.");
	}
	return batch->count - before;
}

static void
set_call(CdiEvent *event, Jsonb *json)
{
	event->call = &json->root;
	event->call_size = VARSIZE(json) - VARHDRSZ;
}

int
cdi_parse_jsonb(CdiBatch *batch, int32 origin, int32 source_id, Jsonb *body)
{
	JsonbContainer *calls = &body->root;
	JsonbValue	member;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			before = batch->count;
	CdiEnvelope *envelope;
	MemoryContext old;

	if (JsonContainerIsScalar(calls))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_EVENT),
				 errmsg("events must be a JSON object or an array"),
				 errhint("Pass one call, an array of calls, or {\"batch\": [...]}.")));
	old = MemoryContextSwitchTo(batch->context);
	envelope = palloc0(sizeof(CdiEnvelope));
	envelope->element = true;
	envelope->history = batch->history;
	if (JsonContainerIsObject(calls))
	{
		if (getKeyJsonValueFromContainer(calls, "batch", 5, &member) == NULL ||
			member.type != jbvBinary || !JsonContainerIsArray(member.val.binary.data))
		{
			CdiEvent   *event = cdi_batch_add(batch, origin, source_id);

			set_call(event, body);
			if (batch->history)
			{
				envelope->element = false;
				event->envelope = envelope;
			}
			MemoryContextSwitchTo(old);
			return 1;
		}
		calls = member.val.binary.data;
		if (getKeyJsonValueFromContainer(&body->root, "sentAt", 6, &value) != NULL &&
			value.type == jbvString)
		{
			envelope->sent_at.data = value.val.string.val;
			envelope->sent_at.len = value.val.string.len;
		}
		if (getKeyJsonValueFromContainer(&body->root, "context", 7, &value) != NULL &&
			value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
			envelope->context = JsonbValueToJsonb(&value);
	}
	cdi_batch_reserve(batch, JsonContainerSize(calls));
	iterator = JsonbIteratorInit(calls);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CdiEvent   *event;

		if (token != WJB_ELEM)
			continue;
		event = cdi_batch_add(batch, origin++, source_id);
		if (value.type == jbvBinary)
		{
			event->call = value.val.binary.data;
			event->call_size = value.val.binary.len;
		}
		else
			set_call(event, JsonbValueToJsonb(&value));
		event->envelope = envelope;
	}
	MemoryContextSwitchTo(old);
	return batch->count - before;
}

void
cdi_stage_parse(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	MemoryContext scratch = AllocSetContextCreate(batch->context, "cdi translation",
												  ALLOCSET_DEFAULT_SIZES);
	volatile int i = 0;

	while (i < batch->count)
	{
		/* The loop re-enters only after a failure, see slice_to_jsonb. */
		PG_TRY();
		{
			for (; i < batch->count; i++)
			{
				CdiEvent   *event = &batch->events[i];

				CHECK_FOR_INTERRUPTS();
				if (event->outcome != CDI_PENDING)
					continue;
				if (event->call != NULL)
					check_size(event->call_size);
				else if (event->payload.data != NULL)
					set_call(event, payload_to_jsonb(event, scratch));
				if (event->call != NULL &&
					(!JsonContainerIsObject(event->call) || JsonContainerIsScalar(event->call)))
					ereport(ERROR,
							(errcode(ERRCODE_CDI_INVALID_EVENT),
							 errmsg("event must be a JSON object")));
			}
		}
		PG_CATCH();
		{
			ErrorData  *error;
			int			sqlstate;

			MemoryContextSwitchTo(batch->context);
			error = CopyErrorData();
			if (!is_fault_of_event(error->sqlerrcode))
				PG_RE_THROW();
			FlushErrorState();
			sqlstate = error->sqlerrcode;
			if (sqlstate == ERRCODE_INVALID_TEXT_REPRESENTATION ||
				sqlstate == ERRCODE_STATEMENT_TOO_COMPLEX)
				sqlstate = ERRCODE_CDI_INVALID_JSON;

			/* The server's detail may quote the payload; it is kept anyway. */
			cdi_event_fail(batch, &batch->events[i], "parse", sqlstate,
						   error->message, error->detail,
						   sqlstate == ERRCODE_CDI_INVALID_JSON ?
						   "The bytes are in cdi.failed_events.payload." : NULL);
			FreeErrorData(error);
			MemoryContextReset(scratch);
			i++;
		}
		PG_END_TRY();
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}
