/*
 * parse.c
 *		Bytes become events.
 *
 * A request body is one call, an array of calls, or an envelope with a member
 * "batch".  The splitter below walks only the outer one or two levels and
 * skips over values, so that a call that is no valid JSON inside costs its
 * neighbours nothing and keeps its bytes; the calls themselves are parsed by
 * the server's own JSON parser.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "ingest/ingest.h"
#include "ingest/stages.h"

typedef struct Scanner
{
	const char *at;
	const char *end;
} Scanner;

static void
skip_space(Scanner *scanner)
{
	while (scanner->at < scanner->end &&
		   (*scanner->at == ' ' || *scanner->at == '\n' ||
			*scanner->at == '\t' || *scanner->at == '\r'))
		scanner->at++;
}

static bool
take(Scanner *scanner, char c)
{
	skip_space(scanner);
	if (scanner->at < scanner->end && *scanner->at == c)
	{
		scanner->at++;
		return true;
	}
	return false;
}

/* Past the closing quote; scanner->at is behind the opening one. */
static bool
skip_string(Scanner *scanner)
{
	while (scanner->at < scanner->end)
	{
		char		c = *scanner->at++;

		if (c == '"')
			return true;
		if (c == '\\')
			scanner->at++;
	}
	return false;
}

/* Step over one value of any kind; false where it does not end. */
static bool
skip_value(Scanner *scanner, CdiText *value)
{
	const char *start;

	skip_space(scanner);
	start = scanner->at;
	if (start >= scanner->end)
		return false;
	if (take(scanner, '"'))
	{
		if (!skip_string(scanner))
			return false;
	}
	else if (*start == '{' || *start == '[')
	{
		int			depth = 0;

		do
		{
			char		c;

			if (scanner->at >= scanner->end)
				return false;
			c = *scanner->at++;
			if (c == '"')
			{
				if (!skip_string(scanner))
					return false;
			}
			else if (c == '{' || c == '[')
				depth++;
			else if (c == '}' || c == ']')
				depth--;
		} while (depth > 0);
	}
	else
	{
		while (scanner->at < scanner->end && strchr(",]} \n\t\r", *scanner->at) == NULL)
			scanner->at++;
		if (scanner->at == start)
			return false;
	}
	if (scanner->at > scanner->end)
		return false;
	value->data = start;
	value->len = scanner->at - start;
	return true;
}

static bool
text_equals(CdiText text, const char *word)
{
	return text.len == (int) strlen(word) && memcmp(text.data, word, text.len) == 0;
}

/* Members of the outermost object, as far as the pipeline cares. */
typedef struct Envelope
{
	CdiText		batch;
	CdiText		sent_at;
	CdiText		context;
	CdiText		write_key;
} Envelope;

/* The content of a JSON string without escapes, else data == NULL. */
static CdiText
plain_string(CdiText value)
{
	CdiText		result = {NULL, 0};

	if (value.data != NULL && value.len >= 2 && value.data[0] == '"' &&
		memchr(value.data, '\\', value.len) == NULL)
	{
		result.data = value.data + 1;
		result.len = value.len - 2;
	}
	return result;
}

/* false where the object's outer level is malformed */
static bool
scan_envelope(const char *body, int len, Envelope *envelope)
{
	Scanner		scanner = {body, body + len};

	memset(envelope, 0, sizeof(*envelope));
	if (!take(&scanner, '{'))
		return false;
	if (!take(&scanner, '}'))
	{
		do
		{
			CdiText		key;
			CdiText		value;

			skip_space(&scanner);
			if (scanner.at >= scanner.end || *scanner.at != '"' ||
				!skip_value(&scanner, &key) || !take(&scanner, ':') ||
				!skip_value(&scanner, &value))
				return false;
			if (text_equals(key, "\"batch\""))
				envelope->batch = value;
			else if (text_equals(key, "\"sentAt\""))
				envelope->sent_at = value;
			else if (text_equals(key, "\"context\""))
				envelope->context = value;
			else if (text_equals(key, "\"writeKey\""))
				envelope->write_key = plain_string(value);
		} while (take(&scanner, ','));
		if (!take(&scanner, '}'))
			return false;
	}
	skip_space(&scanner);
	return scanner.at == scanner.end;
}

/*
 * An element takes far more memory as an event than as "1," in a body.  No call
 * is this short, so that a body with more elements than that is no array of
 * calls; small ones are split all the same, to show what is wrong with each.
 */
#define MIN_CALL_LENGTH		24
#define ALWAYS_SPLIT		1000

/*
 * Calls fn for every element; false where the array's outer level is malformed
 * or its elements are too many to be calls.
 */
static bool
scan_array(CdiText array, void (*fn) (void *arg, CdiText element), void *arg)
{
	int			count = 0;
	Scanner		scanner = {array.data, array.data + array.len};
	CdiText		element;

	if (!take(&scanner, '['))
		return false;
	if (!take(&scanner, ']'))
	{
		do
		{
			if (!skip_value(&scanner, &element))
				return false;
			if (++count > ALWAYS_SPLIT && count > array.len / MIN_CALL_LENGTH)
				return false;
			if (fn)
				fn(arg, element);
		} while (take(&scanner, ','));
		if (!take(&scanner, ']'))
			return false;
	}
	skip_space(&scanner);
	return scanner.at == scanner.end;
}

typedef struct AddState
{
	CdiBatch   *batch;
	int32		origin;
	int32		source_id;
	CdiText		type;
	CdiText		sent_at;
	Jsonb	   *context;
	bool		element;
} AddState;

static void
add_element(void *arg, CdiText element)
{
	AddState   *state = arg;
	CdiEvent   *event = cdi_batch_add(state->batch, state->origin, state->source_id);

	event->payload = element;
	event->element = state->element;
	event->default_type = state->type;
	event->envelope_sent_at = state->sent_at;
	event->envelope_context = state->context;
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

	check_size(slice.len);
	if (!pg_verify_mbstr(PG_UTF8, slice.data, slice.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_ENCODING),
				 errmsg("event is not valid UTF-8")));
	copy = pnstrdup(slice.data, slice.len);
	datum = DirectFunctionCall1(jsonb_in, CStringGetDatum(copy));
	pfree(copy);
	return DatumGetJsonbP(datum);
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
 * Members of the envelope that apply to every call in it.  False where one of
 * them is malformed: without it the calls would mean something else.
 */
static bool
parse_envelope(CdiBatch *batch, const Envelope *envelope, AddState *state)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	volatile bool well_formed = true;

	PG_TRY();
	{
		JsonbValue	value;

		if (envelope->sent_at.data != NULL &&
			JsonbExtractScalar(&slice_to_jsonb(envelope->sent_at)->root, &value) &&
			value.type == jbvString)
		{
			state->sent_at.data = value.val.string.val;
			state->sent_at.len = value.val.string.len;
		}
		if (envelope->context.data != NULL)
		{
			Jsonb	   *context = slice_to_jsonb(envelope->context);

			if (JB_ROOT_IS_OBJECT(context))
				state->context = context;
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
			   const char *body, int len, const char *type)
{
	AddState	state = {.batch = batch,.origin = origin,.source_id = source_id};
	int			before = batch->count;
	CdiText		whole = {body, len};
	Scanner		scanner = {body, body + len};
	bool		well_formed;

	if (type != NULL)
	{
		state.type.data = type;
		state.type.len = strlen(type);
	}
	skip_space(&scanner);
	if (scanner.at < scanner.end && *scanner.at == '[')
	{
		well_formed = scan_array(whole, NULL, NULL);
		if (well_formed)
		{
			state.element = true;
			scan_array(whole, add_element, &state);
		}
	}
	else
	{
		Envelope	envelope;

		well_formed = scan_envelope(body, len, &envelope);
		if (well_formed && envelope.batch.data != NULL &&
			(well_formed = scan_array(envelope.batch, NULL, NULL) &&
			 parse_envelope(batch, &envelope, &state)))
		{
			state.type.data = NULL;
			state.element = true;
			scan_array(envelope.batch, add_element, &state);
		}
		else if (well_formed)
			add_element(&state, whole);
	}
	if (!well_formed)
	{
		CdiEvent   *event = cdi_batch_add(batch, origin, source_id);

		event->payload = whole;
		event->default_type = state.type;
		cdi_event_fail(batch, event, "parse", ERRCODE_CDI_INVALID_JSON,
					   "body is no call, no array of calls and no batch in valid JSON",
					   NULL, "Send one JSON object, an array of them, or {\"batch\": [...]}.");
	}
	return batch->count - before;
}

CdiText
cdi_parse_write_key(const char *body, int len)
{
	Envelope	envelope;

	scan_envelope(body, len, &envelope);
	return envelope.write_key;
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
	CdiText		sent_at = {NULL, 0};
	Jsonb	   *context = NULL;
	MemoryContext old;

	if (JsonContainerIsScalar(calls))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_EVENT),
				 errmsg("events must be a JSON object or an array"),
				 errhint("Pass one call, an array of calls, or {\"batch\": [...]}.")));
	old = MemoryContextSwitchTo(batch->context);
	if (JsonContainerIsObject(calls))
	{
		if (getKeyJsonValueFromContainer(calls, "batch", 5, &member) == NULL ||
			member.type != jbvBinary || !JsonContainerIsArray(member.val.binary.data))
		{
			CdiEvent   *event = cdi_batch_add(batch, origin, source_id);

			set_call(event, body);
			MemoryContextSwitchTo(old);
			return 1;
		}
		calls = member.val.binary.data;
		if (getKeyJsonValueFromContainer(&body->root, "sentAt", 6, &value) != NULL &&
			value.type == jbvString)
		{
			sent_at.data = value.val.string.val;
			sent_at.len = value.val.string.len;
		}
		if (getKeyJsonValueFromContainer(&body->root, "context", 7, &value) != NULL &&
			value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
			context = JsonbValueToJsonb(&value);
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
		event->element = true;
		event->envelope_sent_at = sent_at;
		event->envelope_context = context;
	}
	MemoryContextSwitchTo(old);
	return batch->count - before;
}

void
cdi_stage_parse(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	volatile int i = 0;

	while (i < batch->count)
	{
		/* The loop re-enters only after a failure, see slice_to_jsonb(). */
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
					set_call(event, slice_to_jsonb(event->payload));
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
			i++;
		}
		PG_END_TRY();
	}
	MemoryContextSwitchTo(old);
}
