/*
 * normalise.c
 *		The canonical event: members of a call become fields, the clock of the
 *		device is corrected.
 *
 * The member names are those of the Segment specification, to which the other
 * dialects are translated before.
 */
#include "postgres.h"

#include "common/int.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "base/errors.h"
#include "base/scan.h"
#include "identity/identity.h"
#include "ingest/cookieless.h"
#include "ingest/stages.h"
#include "ingest/iso8601.h"

#define MAX_MESSAGE_ID 512

/*
 * How deep the server can parse depends on its stack; what was stored must be
 * restored by any other.
 */
#define MAX_DEPTH 1000

static const char *const event_types[] = {
	"track", "identify", "page", "screen", "group", "alias", NULL
};

JsonbValue *
cdi_jsonb_member(JsonbContainer *object, const char *key, JsonbValue *value)
{
	if (object == NULL || !JsonContainerIsObject(object))
		return NULL;
	return getKeyJsonValueFromContainer(object, key, strlen(key), value);
}

CdiText
cdi_jsonb_text(JsonbContainer *object, const char *key)
{
	CdiText		result = {NULL, 0};
	JsonbValue	value;

	if (cdi_jsonb_member(object, key, &value) != NULL && value.type == jbvString)
	{
		result.data = value.val.string.val;
		result.len = value.val.string.len;
	}
	return result;
}

JsonbContainer *
cdi_jsonb_object(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (cdi_jsonb_member(object, key, &value) != NULL && value.type == jbvBinary &&
		JsonContainerIsObject(value.val.binary.data))
		return value.val.binary.data;
	return NULL;
}

static void
fail(CdiBatch *batch, CdiEvent *event, int sqlstate, const char *message,
	 const char *detail, const char *hint)
{
	if (event->outcome == CDI_PENDING)
		cdi_event_fail(batch, event, "normalise", sqlstate, message, detail, hint);
}

static void
check_depth(CdiBatch *batch, CdiEvent *event, JsonbContainer *container, int size)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;

	/* A level takes eight bytes: the header and its one element's entry. */
	if (container == NULL || size <= 8 * MAX_DEPTH)
		return;
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		else if ((token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT) && ++depth > MAX_DEPTH)
		{
			fail(batch, event, ERRCODE_CDI_INVALID_EVENT, "the call is nested too deeply",
				 psprintf("The limit is %d levels.", MAX_DEPTH), NULL);
			return;
		}
	}
}

/* The start of a value for a message, cut between characters. */
static char *
clip(CdiText text)
{
	return pnstrdup(text.data, pg_mbcliplen(text.data, text.len, 64));
}

/* A string, or a number as the text that came in. */
static void
take_text(CdiBatch *batch, CdiEvent *event, const char *name,
		  const JsonbValue *value, CdiText *field)
{
	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvString:
			if (value->val.string.len > 0)
			{
				field->data = value->val.string.val;
				field->len = value->val.string.len;
			}
			break;
		case jbvNumeric:
			field->data = DatumGetCString(DirectFunctionCall1(numeric_out,
															  NumericGetDatum(value->val.numeric)));
			field->len = strlen(field->data);
			break;
		default:
			fail(batch, event, ERRCODE_CDI_INVALID_TYPE,
				 psprintf("\"%s\" must be a string", name), NULL, NULL);
	}
}

static void
take_object(CdiBatch *batch, CdiEvent *event, const char *name,
			JsonbValue *value, Jsonb **field)
{
	if (value->type == jbvNull)
		return;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		fail(batch, event, ERRCODE_CDI_INVALID_TYPE,
			 psprintf("\"%s\" must be a JSON object", name), NULL, NULL);
	else
		*field = JsonbValueToJsonb(value);
}

static void
take_time(CdiBatch *batch, CdiEvent *event, const char *name,
		  CdiText value, TimestampTz *field)
{
	if (!cdi_iso8601_parse(value, field))
		fail(batch, event, ERRCODE_CDI_INVALID_TIMESTAMP,
			 psprintf("\"%s\" is no ISO 8601 time within the range of timestamptz", name),
			 psprintf("It is \"%s\".", clip(value)),
			 "Send for example 2026-01-31T12:00:00.000Z.");
}

static void
take_time_member(CdiBatch *batch, CdiEvent *event, const char *name,
				 const JsonbValue *value, TimestampTz *field)
{
	CdiText		text;

	if (value->type == jbvNull)
		return;
	if (value->type != jbvString)
	{
		fail(batch, event, ERRCODE_CDI_INVALID_TIMESTAMP,
			 psprintf("\"%s\" must be a string with an ISO 8601 time", name), NULL,
			 "Send for example 2026-01-31T12:00:00.000Z.");
		return;
	}
	text.data = value->val.string.val;
	text.len = value->val.string.len;
	take_time(batch, event, name, text, field);
}

static void
check_depth_of(CdiBatch *batch, CdiEvent *event, Jsonb *json)
{
	if (json != NULL)
		check_depth(batch, event, &json->root, VARSIZE(json) - VARHDRSZ);
}

/* Of members that say what the browser asked for, the header's word counts. */
static bool
is_signal(const JsonbValue *key)
{
	CdiText		name = {key->val.string.val, key->val.string.len};

	return cdi_text_is(name, "globalPrivacyControl") || cdi_text_is(name, "doNotTrack");
}

/* The context, with the members of another one that it lacks; headers says
 * that the other one is what the request's headers say. */
static Jsonb *
add_context(Jsonb *context, Jsonb *more, bool headers)
{
	JsonbParseState *state = NULL;
	JsonbContainer *parts[2] = {context ? &context->root : NULL, &more->root};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < 2; i++)
	{
		JsonbIterator *iterator;
		JsonbIteratorToken token;
		JsonbValue	key;
		JsonbValue	value;
		JsonbValue	other;

		if (parts[i] == NULL)
			continue;
		iterator = JsonbIteratorInit(parts[i]);
		while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
		{
			bool		elsewhere;

			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&iterator, &value, true);
			elsewhere = parts[1 - i] != NULL &&
				getKeyJsonValueFromContainer(parts[1 - i], key.val.string.val,
											 key.val.string.len, &other) != NULL;
			if (elsewhere && (headers && is_signal(&key)) == (i == 0))
				continue;
			pushJsonbValue(&state, WJB_KEY, &key);
			pushJsonbValue(&state, WJB_VALUE, &value);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* What the request said besides. */
static void
apply_envelope(CdiBatch *batch, CdiEvent *event)
{
	const CdiEnvelope *envelope = event->envelope;

	if (envelope->type.data != NULL)
		event->type = envelope->type;
	if (event->sent_at == DT_NOBEGIN && envelope->sent_at.data != NULL)
		take_time(batch, event, "sentAt", envelope->sent_at, &event->sent_at);
	if (event->user_id.data == NULL && event->anonymous_id.data == NULL &&
		envelope->anonymous_id.data != NULL)
	{
		/* out of a header, where nobody has looked at its bytes */
		if (pg_verify_mbstr(PG_UTF8, envelope->anonymous_id.data, envelope->anonymous_id.len, true))
			event->anonymous_id = envelope->anonymous_id;
		else
			fail(batch, event, ERRCODE_CDI_INVALID_ENCODING,
				 "the anonymous id of the request is not valid UTF-8", NULL, NULL);
	}
	if (event->context == NULL)
		event->context = envelope->context;
	else if (envelope->context != NULL)
		event->context = add_context(event->context, envelope->context, false);
	if (envelope->client != NULL)
		event->context = add_context(event->context, envelope->client, true);
}

/* Members of the call become fields of the event; the rest goes to extra. */
static void
extract(CdiBatch *batch, CdiEvent *event)
{
	JsonbIterator *iterator = JsonbIteratorInit(event->call);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;
	JsonbParseState *extra = NULL;
	TimestampTz timestamp = DT_NOBEGIN;
	TimestampTz received_at = DT_NOBEGIN;

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		const char *name;
		int			len;

		if (token != WJB_KEY)
			continue;
		token = JsonbIteratorNext(&iterator, &value, true);
		name = key.val.string.val;
		len = key.val.string.len;

#define IS(word) (len == sizeof(word) - 1 && memcmp(name, word, sizeof(word) - 1) == 0)
		if (IS("type"))
			take_text(batch, event, "type", &value, &event->type);
		else if (IS("messageId"))
			take_text(batch, event, "messageId", &value, &event->message_id);
		else if (IS("userId"))
			take_text(batch, event, "userId", &value, &event->user_id);
		else if (IS("anonymousId"))
			take_text(batch, event, "anonymousId", &value, &event->anonymous_id);
		else if (IS("event") || IS("name"))
			take_text(batch, event, "event", &value, &event->event);
		else if (IS("category"))
			take_text(batch, event, "category", &value, &event->category);
		else if (IS("properties"))
			take_object(batch, event, "properties", &value, &event->properties);
		else if (IS("traits"))
			take_object(batch, event, "traits", &value, &event->traits);
		else if (IS("context"))
			take_object(batch, event, "context", &value, &event->context);
		else if (IS("groupId"))
			take_text(batch, event, "groupId", &value, &event->group_id);
		else if (IS("previousId"))
			take_text(batch, event, "previousId", &value, &event->previous_id);
		else if (IS("timestamp"))
			take_time_member(batch, event, "timestamp", &value, &timestamp);
		else if (IS("originalTimestamp"))
			take_time_member(batch, event, "originalTimestamp", &value, &event->original_timestamp);
		else if (IS("sentAt"))
			take_time_member(batch, event, "sentAt", &value, &event->sent_at);
		else if (IS("receivedAt") && cdi_event_has_history(event))
			take_time_member(batch, event, "receivedAt", &value, &received_at);
		else if (IS("writeKey"))
			 /* a credential: it has done its work and is not kept */ ;
		else
		{
			if (extra == NULL)
				pushJsonbValue(&extra, WJB_BEGIN_OBJECT, NULL);
			pushJsonbValue(&extra, WJB_KEY, &key);
			pushJsonbValue(&extra, WJB_VALUE, &value);
		}
#undef IS
	}
	if (extra != NULL)
		event->extra = JsonbValueToJsonb(pushJsonbValue(&extra, WJB_END_OBJECT, NULL));

	if (event->original_timestamp == DT_NOBEGIN)
		event->original_timestamp = timestamp;
	if (event->envelope != NULL)
		apply_envelope(batch, event);
	/* RudderStack's SDKs put what Segment's call traits there. */
	if (event->traits == NULL && cdi_text_is(event->type, "identify") && event->context != NULL &&
		cdi_jsonb_member(&event->context->root, "traits", &value) != NULL &&
		value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
		event->traits = JsonbValueToJsonb(&value);
	if (cdi_event_has_history(event))
	{
		if (received_at != DT_NOBEGIN)
			event->received_at = received_at;
		else if (event->original_timestamp != DT_NOBEGIN)
			event->received_at = event->original_timestamp;
		/* What lies ahead was not received: no partitions for it. */
		event->received_at = Min(event->received_at, batch->received_at);
	}
}

static void
require(CdiBatch *batch, CdiEvent *event, CdiText field, const char *name)
{
	if (field.data == NULL)
		fail(batch, event, ERRCODE_CDI_INVALID_EVENT,
			 psprintf("a call of type \"%s\" needs \"%s\"",
					  pnstrdup(event->type.data, event->type.len), name),
			 NULL, NULL);
}

/* why_no_id: why an id could not be made, or NULL where none was to be made */
static void
check(CdiBatch *batch, CdiEvent *event, const char *why_no_id)
{
	const char *const *known = event_types;

	if (event->type.data == NULL)
	{
		fail(batch, event, ERRCODE_CDI_INVALID_EVENT, "the call has no \"type\"", NULL,
			 "Use track, identify, page, screen, group or alias.");
		return;
	}
	while (*known != NULL && !cdi_text_is(event->type, *known))
		known++;
	if (*known == NULL)
	{
		fail(batch, event, ERRCODE_CDI_INVALID_TYPE, "unknown type of call",
			 psprintf("The type is \"%s\".", clip(event->type)),
			 "Use track, identify, page, screen, group or alias.");
		return;
	}
	/* In other protocols what is known of a group need not come from anyone. */
	if (event->user_id.data == NULL && event->anonymous_id.data == NULL &&
		!(event->envelope != NULL && event->envelope->dialect != NULL &&
		  cdi_text_is(event->type, "group") && event->group_id.data != NULL))
		fail(batch, event, ERRCODE_CDI_NO_IDENTIFIER,
			 "the call has neither a user id nor an anonymous id", why_no_id,
			 why_no_id == NULL ? "Send \"userId\" or \"anonymousId\"." :
			 "Send \"userId\", or on the same day \"ip\" and \"userAgent\" in its \"context\".");
	if (strcmp(*known, "track") == 0)
		require(batch, event, event->event, "event");
	else if (strcmp(*known, "group") == 0)
		require(batch, event, event->group_id, "groupId");
	else if (strcmp(*known, "alias") == 0)
	{
		require(batch, event, event->user_id, "userId");
		require(batch, event, event->previous_id, "previousId");
	}
	if (event->message_id.len > MAX_MESSAGE_ID)
		fail(batch, event, ERRCODE_CDI_INVALID_EVENT, "\"messageId\" is too long",
			 psprintf("It has %d bytes, the limit is %d.", event->message_id.len, MAX_MESSAGE_ID),
			 NULL);
}

/* timestamp = received_at - (sent_at - original_timestamp), as Segment defines */
static void
correct_clock(CdiBatch *batch, CdiEvent *event)
{
	int64		delay;
	int64		corrected;

	if (event->original_timestamp == DT_NOBEGIN)
		event->timestamp = event->received_at;
	else if (event->sent_at == DT_NOBEGIN)
		event->timestamp = event->original_timestamp;
	else if (pg_sub_s64_overflow(event->sent_at, event->original_timestamp, &delay) ||
			 pg_sub_s64_overflow(event->received_at, delay, &corrected) ||
			 !IS_VALID_TIMESTAMP(corrected))
		fail(batch, event, ERRCODE_CDI_INVALID_TIMESTAMP,
			 "the corrected time is out of range", NULL,
			 "Check \"timestamp\" and \"sentAt\".");
	else
		event->timestamp = corrected;
}

static void
make_message_id(CdiEvent *event)
{
	unsigned char random[16];
	char	   *id = palloc(40);
	char	   *at = id;

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes for a message id")));
	at += sprintf(at, "cdi-");
	for (int i = 0; i < 16; i++)
		at += sprintf(at, "%02x", random[i]);
	event->message_id.data = id;
	event->message_id.len = at - id;
}

void
cdi_stage_normalise(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (int i = 0; i < batch->count; i++)
	{
		CdiEvent   *event = &batch->events[i];

		CHECK_FOR_INTERRUPTS();
		if (event->outcome != CDI_PENDING)
			continue;
		check_depth(batch, event, event->call, event->call_size);
		if (event->call != NULL && event->outcome == CDI_PENDING)
			extract(batch, event);
		else
		{
			check_depth_of(batch, event, event->properties);
			check_depth_of(batch, event, event->traits);
		}
		check_depth_of(batch, event, event->context);	/* may be the envelope's */
		if (event->outcome == CDI_PENDING)
			check(batch, event, cdi_cookieless_apply(batch, event));
		if (event->outcome == CDI_PENDING)
			correct_clock(batch, event);
		if (event->outcome != CDI_PENDING)
			continue;
		if (event->message_id.data == NULL)
			make_message_id(event);
		cdi_message_key(event->source_id, event->message_id, &event->event_id);
	}
	MemoryContextSwitchTo(old);
}
