/*
 * envelope.c
 *		What a request said about its events.
 *
 * It goes with an event wherever that waits: into cdi.failed_events, from
 * where cdi_replay() takes it up again, and into the collector's memory.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "ingest/stages.h"

static void
push_key(JsonbParseState **state, const char *name)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
}

static void
push_text(JsonbParseState **state, const char *name, CdiText text)
{
	JsonbValue	value;

	if (text.data == NULL)
		return;
	push_key(state, name);
	value.type = jbvString;
	value.val.string.val = unconstify(char *, text.data);
	value.val.string.len = text.len;
	if (!pg_verify_mbstr(PG_UTF8, text.data, text.len, true))
	{
		/* No event with this envelope can be stored; keep what is readable. */
		value.val.string.val = pnstrdup(text.data, text.len);
		for (int i = 0; i < text.len; i++)
			if (value.val.string.val[i] == '\0' || IS_HIGHBIT_SET(value.val.string.val[i]))
				value.val.string.val[i] = '?';
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_object(JsonbParseState **state, const char *name, Jsonb *object)
{
	JsonbValue	value;

	if (object == NULL)
		return;
	push_key(state, name);
	value.type = jbvBinary;
	value.val.binary.data = &object->root;
	value.val.binary.len = VARSIZE(object) - VARHDRSZ;
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_true(JsonbParseState **state, const char *name)
{
	JsonbValue	value = {.type = jbvBool,.val.boolean = true};

	push_key(state, name);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_number(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value = {.type = jbvNumeric,.val.numeric = int64_to_numeric(number)};

	push_key(state, name);
	pushJsonbValue(state, WJB_VALUE, &value);
}

Jsonb *
cdi_envelope_to_jsonb(const CdiEnvelope *envelope)
{
	JsonbParseState *state = NULL;

	if (envelope == NULL)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (envelope->dialect != NULL)
	{
		CdiText		dialect = {envelope->dialect, strlen(envelope->dialect)};

		push_text(&state, "dialect", dialect);
	}
	push_text(&state, "envelope", envelope->text);
	push_text(&state, "type", envelope->type);
	push_text(&state, "sentAt", envelope->sent_at);
	push_text(&state, "anonymousId", envelope->anonymous_id);
	push_text(&state, "cookielessId", envelope->cookieless_id);
	if (envelope->element)
		push_true(&state, "element");
	if (envelope->history)
		push_true(&state, "history");
	if (envelope->import_id != 0)
	{
		push_number(&state, "import", envelope->import_id);
		push_number(&state, "line", envelope->line);
	}
	push_object(&state, "context", envelope->context);
	push_object(&state, "client", envelope->client);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* The slice lives in the jsonb; with a NUL behind it. */
static CdiText
take_text(Jsonb *jsonb, const char *name)
{
	CdiText		text = cdi_jsonb_text(&jsonb->root, name);

	if (text.data != NULL)
		text.data = pnstrdup(text.data, text.len);
	return text;
}

static Jsonb *
take_object(Jsonb *jsonb, const char *name)
{
	JsonbValue	value;

	if (cdi_jsonb_member(&jsonb->root, name, &value) == NULL ||
		value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
		return NULL;
	return JsonbValueToJsonb(&value);
}

static int64
take_number(Jsonb *jsonb, const char *name)
{
	JsonbValue	value;

	if (cdi_jsonb_member(&jsonb->root, name, &value) == NULL || value.type != jbvNumeric)
		return 0;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value.val.numeric)));
}

CdiEnvelope *
cdi_envelope_from_jsonb(Jsonb *jsonb)
{
	CdiEnvelope *envelope = palloc0(sizeof(CdiEnvelope));
	JsonbValue	value;

	envelope->dialect = take_text(jsonb, "dialect").data;
	envelope->text = take_text(jsonb, "envelope");
	envelope->type = take_text(jsonb, "type");
	envelope->sent_at = take_text(jsonb, "sentAt");
	envelope->anonymous_id = take_text(jsonb, "anonymousId");
	envelope->cookieless_id = take_text(jsonb, "cookielessId");
	envelope->element = cdi_jsonb_member(&jsonb->root, "element", &value) != NULL;
	envelope->history = cdi_jsonb_member(&jsonb->root, "history", &value) != NULL;
	envelope->import_id = take_number(jsonb, "import");
	envelope->line = take_number(jsonb, "line");
	envelope->context = take_object(jsonb, "context");
	envelope->client = take_object(jsonb, "client");
	return envelope;
}

CdiText
cdi_text_copy(CdiText text)
{
	CdiText		copy = {NULL, text.len};

	if (text.data != NULL)
	{
		char	   *data = MemoryContextAllocHuge(CurrentMemoryContext, (Size) text.len + 1);

		memcpy(data, text.data, text.len);
		data[text.len] = '\0';
		copy.data = data;
	}
	return copy;
}

static Jsonb *
copy_jsonb(Jsonb *jsonb)
{
	Jsonb	   *copy;

	if (jsonb == NULL)
		return NULL;
	copy = palloc(VARSIZE(jsonb));
	memcpy(copy, jsonb, VARSIZE(jsonb));
	return copy;
}

CdiEnvelope *
cdi_envelope_copy(const CdiEnvelope *envelope)
{
	CdiEnvelope *copy;

	if (envelope == NULL)
		return NULL;
	copy = palloc(sizeof(CdiEnvelope));
	*copy = *envelope;
	if (envelope->dialect != NULL)
		copy->dialect = pstrdup(envelope->dialect);
	copy->text = cdi_text_copy(envelope->text);
	copy->type = cdi_text_copy(envelope->type);
	copy->sent_at = cdi_text_copy(envelope->sent_at);
	copy->anonymous_id = cdi_text_copy(envelope->anonymous_id);
	copy->address = cdi_text_copy(envelope->address);
	copy->agent = cdi_text_copy(envelope->agent);
	copy->cookieless_id = cdi_text_copy(envelope->cookieless_id);
	copy->context = copy_jsonb(envelope->context);
	copy->client = copy_jsonb(envelope->client);
	return copy;
}
