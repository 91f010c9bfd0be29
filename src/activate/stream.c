/*
 * stream.c
 *		Which events go to a destination, and as what.
 *
 * Source, type and name are asked for in SQL, where events that nobody wants
 * cost least; the rest is judged here, event by event.
 */
#include "activate/stream.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SYNC), \
			 errmsg("rules of event stream \"%s\" cannot be used", name), \
			 errdetail(__VA_ARGS__)))

static const char *const types[] = {"track", "identify", "page", "screen", "group", "alias"};

/* ---- declaration ---- */

static json_t *
parse(MemoryContext context, const char *name, const char *what, const char *text)
{
	char	   *error = NULL;
	json_t	   *node = cdi_json_parse(context, text, strlen(text), &error);

	if (!json_is_object(node))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("%s of event stream \"%s\" cannot be used", what, name),
				 errdetail("%s.", error ? error : "It must be an object")));
	return node;
}

static json_t *
names_of(const char *name, const json_t *rules, const char *member)
{
	json_t	   *names = json_object_get(rules, member);
	json_t	   *one;
	size_t		i;

	if (names == NULL)
		return NULL;
	if (!json_is_array(names) || json_array_size(names) == 0)
		INVALID("\"%s\" must be an array of names.", member);
	json_array_foreach(names, i, one)
		if (!json_is_string(one) || *json_string_value(one) == '\0')
			INVALID("\"%s\" must be an array of names.", member);
	return names;
}

/* What is wrong with a mapping or condition is said of the stream. */
static void
check_language(const char *name, const char *what, const json_t *node, bool condition)
{
	MemoryContext context = CurrentMemoryContext;

	if (node == NULL)
		return;
	PG_TRY();
	{
		if (condition)
			cdi_map_check_condition(node, (CdiMapRules) {.row = true}, what);
		else
			cdi_map_check(node, (CdiMapRules) {.row = true}, what);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode != ERRCODE_CDI_INVALID_SPEC)
			ReThrowError(error);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SYNC),
				 errmsg("%s of event stream \"%s\" cannot be used", what, name),
				 errdetail("%s", error->detail)));
	}
	PG_END_TRY();
}

static void
check_members(const char *name, const json_t *rules)
{
	static const char *const members[] = {"types", "events", "sources", "consent", "sample", "when", "order"};
	const char *key;
	json_t	   *value;

	json_object_foreach((json_t *) rules, key, value)
	{
		bool		known = false;

		for (int i = 0; i < lengthof(members); i++)
			known |= strcmp(key, members[i]) == 0;
		if (!known)
			INVALID("There is no rule \"%s\"; rules are types, events, sources, consent, sample, when and order.", key);
	}
}

CdiStream *
cdi_stream_load(MemoryContext parent, const char *name, const char *rules, const char *mapping)
{
	MemoryContext context = AllocSetContextCreate(parent, "cdi event stream", ALLOCSET_SMALL_SIZES);
	CdiStream  *stream = MemoryContextAllocZero(context, sizeof(CdiStream));
	json_t	   *part;
	size_t		i;

	stream->context = context;
	stream->rules = parse(context, name, "rules", rules);
	check_members(name, stream->rules);
	json_array_foreach(names_of(name, stream->rules, "types"), i, part)
	{
		bool		known = false;

		for (int k = 0; k < lengthof(types); k++)
			known |= strcmp(json_string_value(part), types[k]) == 0;
		if (!known)
			INVALID("\"%s\" is no type of event; types are track, identify, page, screen, group and alias.", json_string_value(part));
	}
	(void) names_of(name, stream->rules, "events");
	(void) names_of(name, stream->rules, "sources");
	stream->consent = names_of(name, stream->rules, "consent");
	stream->sample = 1;
	if ((part = json_object_get(stream->rules, "sample")) != NULL)
	{
		if (!json_is_number(part) || json_number_value(part) < 0 || json_number_value(part) > 1)
			INVALID("\"sample\" must be a number from 0 to 1.");
		stream->sample = json_number_value(part);
	}
	if ((part = json_object_get(stream->rules, "order")) != NULL)
	{
		if (!json_is_string(part) || strcmp(json_string_value(part), "person") != 0)
			INVALID("\"order\" can only be \"person\".");
		stream->by_person = true;
	}
	stream->when = json_object_get(stream->rules, "when");
	check_language(name, "condition", stream->when, true);
	stream->mapping = mapping ? parse(context, name, "mapping", mapping) : NULL;
	check_language(name, "mapping", stream->mapping, false);
	return stream;
}

/* ---- reading ---- */

int64
cdi_stream_watermark(void)
{
	static CdiPlan plan = {.query = "SELECT position FROM cdi.watermark"};
	bool		isnull;

	cdi_plan_read(&plan, NULL);
	return SPI_processed == 0 ? 0 : DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* "Order *" as a pattern of LIKE */
static Datum
pattern_of(const char *name)
{
	StringInfoData out;

	initStringInfo(&out);
	for (; *name; name++)
	{
		if (*name == '%' || *name == '_' || *name == '\\')
			appendStringInfoChar(&out, '\\');
		appendStringInfoChar(&out, *name == '*' ? '%' : *name);
	}
	return CStringGetTextDatum(out.data);
}

void
cdi_stream_arguments(const CdiStream *stream, Datum *values, char *nulls)
{
	static const char *const members[] = {"sources", "types", "events"};

	for (int k = 0; k < lengthof(members); k++)
	{
		json_t	   *names = json_object_get(stream->rules, members[k]);
		json_t	   *name;
		Datum	   *texts;
		size_t		i;

		nulls[k] = names ? ' ' : 'n';
		values[k] = (Datum) 0;
		if (names == NULL)
			continue;
		texts = palloc(sizeof(Datum) * json_array_size(names));
		json_array_foreach(names, i, name)
			texts[i] = k == 2 ? pattern_of(json_string_value(name)) : CStringGetTextDatum(json_string_value(name));
		values[k] = PointerGetDatum(construct_array(texts, (int) json_array_size(names), TEXTOID, -1, false, TYPALIGN_INT));
	}
}

static JsonbValue *
member_of(JsonbContainer *object, const char *name)
{
	if (object == NULL || !JsonContainerIsObject(object))
		return NULL;
	return getKeyJsonValueFromContainer(object, name, strlen(name), NULL);
}

static JsonbContainer *
object_of(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member_of(object, name);

	return value && value->type == jbvBinary ? value->val.binary.data : NULL;
}

/*
 * Did the person agree to everything that is asked for?  What an event does
 * not say is no agreement.
 */
static bool
consents(const CdiStream *stream, const Jsonb *event)
{
	JsonbContainer *context = object_of((JsonbContainer *) &event->root, "context");
	JsonbContainer *consent = object_of(context, "consent");
	JsonbContainer *categories = object_of(consent, "categoryPreferences");
	JsonbValue *opt_out = member_of(context, "globalPrivacyControl");
	json_t	   *name;
	size_t		i;

	if (stream->consent == NULL)
		return true;
	if (opt_out && opt_out->type == jbvBool && opt_out->val.boolean)
		return false;
	json_array_foreach(stream->consent, i, name)
	{
		JsonbValue *category = member_of(categories, json_string_value(name));
		JsonbValue *signal = member_of(consent, json_string_value(name));

		if (category && category->type == jbvBool && category->val.boolean)
			continue;
		if (category == NULL && signal && signal->type == jbvString && signal->val.string.len == strlen("granted") &&
			memcmp(signal->val.string.val, "granted", signal->val.string.len) == 0)
			continue;
		return false;
	}
	return true;
}

/* 52 bits of a digest, so that the same people are in everywhere */
static bool
is_sampled(const CdiStream *stream, const char *person)
{
	char	   *digest;

	if (stream->sample >= 1)
		return true;
	digest = cdi_hex_digest(CDI_SHA256, person, (int) strlen(person));
	digest[13] = '\0';
	return (double) strtoull(digest, NULL, 16) / (double) (UINT64CONST(1) << 52) < stream->sample;
}

static CdiEventFate
judge(const CdiStream *stream, const CdiTarget *target, const char *person, Jsonb **event)
{
	CdiScope	scope = {.target = target,.row = &(*event)->root};
	CdiValue	mapped;

	if (stream->when && !cdi_map_condition(&scope, stream->when))
		return CDI_EVENT_SKIPPED;
	if (!consents(stream, *event))
		return CDI_EVENT_WITHHELD;
	if (!is_sampled(stream, person))
		return CDI_EVENT_SAMPLED_OUT;
	if (stream->mapping)
	{
		mapped = cdi_map_evaluate(&scope, stream->mapping);
		*event = cdi_value_jsonb(&mapped);
	}
	return CDI_EVENT_MATCHED;
}

CdiEventFate
cdi_stream_judge(const CdiStream *stream, const CdiTarget *target, const char *event_id, const char *person,
				 Jsonb **event, char **error)
{
	MemoryContext context = CurrentMemoryContext;
	volatile CdiEventFate fate = CDI_EVENT_MATCHED;

	*error = NULL;
	/* Nothing below holds a lock, a buffer or a file when it fails. */
	PG_TRY();
	{
		fate = judge(stream, target, person ? person : event_id, event);
	}
	PG_CATCH();
	{
		*error = cdi_row_fault(context);
	}
	PG_END_TRY();
	return fate;
}

const char **
cdi_stream_actions(const CdiSpec *spec, const char *action, int *n)
{
	json_t	   *actions = json_object_get(spec->root, "actions");
	const char **names = palloc(sizeof(char *) * (json_object_size(actions) + 1));
	const char *key;
	json_t	   *one;

	*n = 0;
	if (action != NULL)
	{
		if (cdi_spec_action(spec, action))
			names[(*n)++] = action;
		return names;
	}
	json_object_foreach(actions, key, one)
		if (json_object_get(one, "when"))
			names[(*n)++] = key;
	if (*n == 0 && cdi_spec_default_action(spec))
		names[(*n)++] = cdi_spec_default_action(spec);
	return names;
}

int
cdi_stream_action(const CdiTarget *target, json_t *const *actions, int n, Jsonb *event, char **error)
{
	MemoryContext context = CurrentMemoryContext;
	CdiScope	scope = {.target = target,.row = &event->root};
	volatile int found = -1;

	PG_TRY();
	{
		for (int i = 0; i < n && found < 0; i++)
		{
			json_t	   *when = json_object_get(actions[i], "when");

			if (when == NULL || cdi_map_condition(&scope, when))
				found = i;
		}
	}
	PG_CATCH();
	{
		*error = cdi_row_fault(context);
		found = 0;
	}
	PG_END_TRY();
	return found;
}

void
cdi_stream_key(int32 sync_id, const char *event_id, char *out)
{
	char	   *text = psprintf("%d|%s", sync_id, event_id);
	char	   *digest = cdi_hex_digest(CDI_SHA256, text, (int) strlen(text));

	snprintf(out, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", digest, digest + 8, digest + 12, digest + 16, digest + 20);
	pfree(digest);
	pfree(text);
}
