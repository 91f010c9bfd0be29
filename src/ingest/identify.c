/*
 * identify.c
 *		Identifiers of the events of a batch, by cdi.identifier_types.
 *
 * A walk over traits, context and the other objects finds the members that any
 * type looks for; then every type, in the order of priority, takes the first of
 * its places that has a value, and what context.externalIds has of it.  What is
 * set aside on the way is kept with the event, with the reason (refuse.c).
 *
 * Types whose normaliser is a SQL function need two such passes: one that
 * collects values for the function, and one that takes what it returned, in
 * the same order.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "base/scan.h"
#include "identity/identity.h"
#include "ingest/refuse.h"
#include "ingest/cookieless.h"
#include "ingest/stages.h"

/* A member that the walk found; of the current event where the numbers agree */
typedef struct Found
{
	uint64		event;
	JsonbValue	value;
} Found;

/* An element of context.externalIds */
typedef struct ExternalId
{
	const CdiIdentifierType *type;
	JsonbValue	id;
} ExternalId;

typedef struct Finder
{
	CdiBatch   *batch;
	const CdiIdentifierType *types;
	int			ntypes;
	CdiPathTree tree;			/* a copy: a normaliser may have the types read anew */
	int			external_ids;	/* slot */
	Found	   *found;
	uint64		number;			/* of the event */

	/* of the event */
	CdiEvent   *event;
	bool		is_group;
	int			nidentifiers;
	CdiIdentifier identifiers[CDI_MAX_IDENTIFIERS];
	CdiGraphKind graphs[CDI_MAX_IDENTIFIERS];
	int			nexternal;
	ExternalId	external[CDI_MAX_IDENTIFIERS];

	/* values for SQL functions */
	bool		collecting;
	int			ncalls;
	int			calls_capacity;
	CdiNormaliserCall *calls;
	int			next_call;
} Finder;

/* Both the object's keys and the node's children are sorted in one order. */
static void
walk(Finder *finder, const CdiPathNode *node, JsonbContainer *object)
{
	CdiPathNode **child = node->children;
	CdiPathNode **end = child + node->nchildren;
	int			count = JsonContainerSize(object);
	const JEntry *entries = object->children;
	const char *keys = (const char *) (entries + count * 2);
	uint32		offset = 0;

	for (int i = 0; i < count; i++)
	{
		uint32		field = JBE_OFFLENFLD(entries[i]);
		int			len = JBE_HAS_OFF(entries[i]) ? field - offset : field;
		int			order = -1;

		while (child < end &&
			   ((*child)->key.len < len ||
				((*child)->key.len == len &&
				 (order = memcmp((*child)->key.data, keys + offset, len)) < 0)))
			child++;
		if (child == end)
			return;
		if ((*child)->key.len == len && order == 0)
		{
			JsonbValue	value;

			getKeyJsonValueFromContainer(object, keys + offset, len, &value);
			if ((*child)->slot >= 0)
			{
				finder->found[(*child)->slot].event = finder->number;
				finder->found[(*child)->slot].value = value;
			}
			if ((*child)->nchildren > 0 && value.type == jbvBinary &&
				JsonContainerIsObject(value.val.binary.data))
				walk(finder, *child, value.val.binary.data);
		}
		offset += len;
	}
}

static void
walk_root(Finder *finder, CdiPathRoot root, Jsonb *object)
{
	if (object != NULL && finder->tree.roots[root].nchildren > 0)
		walk(finder, &finder->tree.roots[root], &object->root);
}

static void
find_field(Finder *finder, CdiFieldSlot slot, CdiText field)
{
	Found	   *found = &finder->found[slot];

	if (field.data == NULL)
		return;
	found->event = finder->number;
	found->value.type = jbvString;
	found->value.val.string.val = unconstify(char *, field.data);
	found->value.val.string.len = field.len;
}

static JsonbValue *
value_at(Finder *finder, int slot)
{
	Found	   *found = &finder->found[slot];

	return found->event == finder->number ? &found->value : NULL;
}

/* A string, or a number as the text that came in; false of anything else */
static bool
scalar_text(const JsonbValue *value, CdiText *text)
{
	if (value->type == jbvString)
		*text = (CdiText) {value->val.string.val, value->val.string.len};
	else if (value->type == jbvNumeric)
		*text = cdi_text(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric))));
	else
		return false;
	return true;
}

static bool
conditions_hold(Finder *finder, const CdiTypePath *path)
{
	for (int i = 0; i < path->nconditions; i++)
	{
		const CdiPathCondition *condition = &path->conditions[i];
		const JsonbValue *value = value_at(finder, condition->slot);
		CdiText		text;

		if (value == NULL)
			return false;
		if (value->type == jbvBool)
			text = cdi_text(value->val.boolean ? "true" : "false");
		else if (!scalar_text(value, &text))
			return false;
		if (text.len != condition->value.len ||
			pg_strncasecmp(text.data, condition->value.data, text.len) != 0)
			return false;
	}
	return true;
}

static void
refuse(Finder *finder, const char *type, CdiText value, CdiVerdict reason, const char *detail)
{
	if (!finder->collecting)
		cdi_refuse(finder->batch, finder->event, cdi_text(type), value, NULL, reason, detail);
}

static void
add_identifier(Finder *finder, const CdiIdentifierType *type, CdiText raw, CdiText value)
{
	/* a normaliser may take the mark of such an id away */
	bool		cookieless = cdi_cookieless_is(raw) || cdi_cookieless_is(value);
	CdiIdentifier *identifier;
	pg_uuid_t	key;

	cdi_identifier_key(type->name, value, &key);
	for (int i = 0; i < finder->nidentifiers; i++)
		if (memcmp(&finder->identifiers[i].key, &key, sizeof(pg_uuid_t)) == 0)
		{
			finder->identifiers[i].cookieless |= cookieless;
			return;
		}
	if (finder->nidentifiers == CDI_MAX_IDENTIFIERS)
	{
		if (!finder->collecting)
			cdi_refuse(finder->batch, finder->event, cdi_text(type->name), value, &key, CDI_TOO_MANY, NULL);
		return;
	}
	identifier = &finder->identifiers[finder->nidentifiers];
	identifier->type = type->name;
	identifier->value = value;
	identifier->cookieless = cookieless;
	identifier->key = key;
	finder->graphs[finder->nidentifiers++] = type->graph;
}

/* Where the type's normaliser is a SQL function: in the first pass, a value for
 * it; in the second, what it returned.  False where nothing is to be added. */
static bool
normalise_by_function(Finder *finder, const CdiIdentifierType *type, CdiText *value,
					  CdiVerdict *verdict, const char **detail)
{
	CdiNormaliserCall *call;

	if (finder->collecting)
	{
		if (finder->ncalls == finder->calls_capacity)
		{
			finder->calls_capacity = Max(64, finder->calls_capacity * 2);
			finder->calls = finder->calls == NULL ?
				palloc(sizeof(CdiNormaliserCall) * finder->calls_capacity) :
				repalloc_huge(finder->calls, sizeof(CdiNormaliserCall) * finder->calls_capacity);
		}
		finder->calls[finder->ncalls++] = (CdiNormaliserCall) {type, *value, NULL};
		return false;
	}
	call = &finder->calls[finder->next_call++];
	Assert(call->type == type);
	if (call->error != NULL)
	{
		*verdict = CDI_NORMALISER_FAILED;
		*detail = call->error;
	}
	else
	{
		*value = call->value;
		*verdict = cdi_identifier_screen(type, value);
		if (*verdict == CDI_ABSENT)
		{
			*verdict = CDI_MALFORMED;
			*detail = "The normaliser has nothing for it.";
		}
	}
	return true;
}

/* Two values as one, such as kind and id of a group; NULL where one is missing */
static const JsonbValue *
joined(const CdiIdentifierType *type, const JsonbValue *prefix, const JsonbValue *value, JsonbValue *result)
{
	CdiText		parts[2];

	if (prefix == NULL || !scalar_text(prefix, &parts[0]) || !scalar_text(value, &parts[1]))
		return NULL;
	for (int i = 0; i < 2; i++)
	{
		parts[i] = cdi_blank_trim(parts[i]);
		/* what is longer is refused all the same */
		parts[i].len = Min(parts[i].len, CDI_MAX_IDENTIFIER_LENGTH + 1);
		if (parts[i].len == 0)
			return NULL;
	}
	/* A blocked id is no better for its kind. */
	if (cdi_identifier_blocked(type, parts[1]))
		return value;
	result->type = jbvString;
	result->val.string.val = psprintf("%.*s:%.*s", parts[0].len, parts[0].data, parts[1].len, parts[1].data);
	result->val.string.len = parts[0].len + 1 + parts[1].len;
	return result;
}

/* True where there is a value, whatever becomes of it. */
static bool
offer(Finder *finder, const CdiIdentifierType *type, const JsonbValue *found)
{
	CdiText		raw;
	CdiText		value;
	CdiVerdict	verdict;
	const char *detail = NULL;

	if (found->type == jbvNull)
		return false;
	if (!scalar_text(found, &raw))
	{
		refuse(finder, type->name, CDI_NO_TEXT, CDI_MALFORMED, "It is neither a string nor a number.");
		return true;
	}
	verdict = cdi_identifier_screen(type, &raw);
	if (verdict == CDI_ABSENT)
		return false;
	if (finder->collecting && type->normaliser.kind != CDI_NORMALISE_FUNCTION)
		return true;
	value = raw;
	if (verdict == CDI_USABLE && type->normaliser.kind != CDI_NORMALISE_FUNCTION)
		verdict = cdi_identifier_normalise(type, &value, &detail);
	else if (verdict == CDI_USABLE && !normalise_by_function(finder, type, &value, &verdict, &detail))
		return true;
	if (verdict == CDI_USABLE)
		add_identifier(finder, type, raw, value);
	else
		refuse(finder, type->name, raw, verdict, detail);
	return true;
}

/* What a member says; "" where it is no string */
static CdiText
string_of(JsonbContainer *object, const char *key)
{
	CdiText		text = cdi_jsonb_text(object, key);

	return text.data == NULL ? cdi_text("") : text;
}

static const CdiIdentifierType *
type_named(Finder *finder, CdiText name)
{
	for (int i = 0; i < finder->ntypes; i++)
		if (cdi_text_is(name, finder->types[i].name))
			return &finder->types[i];
	return NULL;
}

/* {"id", "type", "collection": users or accounts, "encoding": none} */
static void
read_external_id(Finder *finder, const JsonbValue *element)
{
	JsonbContainer *object = element->val.binary.data;
	ExternalId *external = &finder->external[finder->nexternal];
	const char *problem = NULL;
	CdiText		name;
	CdiText		collection;
	CdiText		encoding;

	if (element->type != jbvBinary || !JsonContainerIsObject(object) ||
		(name = cdi_jsonb_text(object, "type")).data == NULL ||
		cdi_jsonb_member(object, "id", &external->id) == NULL)
	{
		refuse(finder, "", CDI_NO_TEXT, CDI_MALFORMED,
			   "An element of context.externalIds is an object with \"id\" and \"type\".");
		return;
	}
	external->type = type_named(finder, name);
	if (external->type == NULL)
	{
		if (!finder->collecting)
			cdi_refuse(finder->batch, finder->event, name, CDI_NO_TEXT, NULL, CDI_UNKNOWN_TYPE, NULL);
		return;
	}
	collection = string_of(object, "collection");
	encoding = string_of(object, "encoding");
	if (encoding.len > 0 && !cdi_text_is(encoding, "none"))
		problem = "Its encoding is not \"none\".";
	else if (collection.len > 0 &&
			 cdi_text_is(collection, "accounts") != (external->type->graph == CDI_GRAPH_ACCOUNT))
		problem = "Its collection is not that of its type.";
	if (problem != NULL)
	{
		CdiText		id = CDI_NO_TEXT;

		(void) scalar_text(&external->id, &id);
		refuse(finder, external->type->name, id, CDI_MALFORMED, problem);
		return;
	}
	/* Only a group call says who belongs to an account. */
	if (external->type->graph != CDI_GRAPH_ACCOUNT || finder->is_group)
		finder->nexternal++;
}

static void
read_external_ids(Finder *finder)
{
	JsonbValue *array = value_at(finder, finder->external_ids);
	uint32		count;

	finder->nexternal = 0;
	if (array == NULL || array->type == jbvNull)
		return;
	if (array->type != jbvBinary || !JsonContainerIsArray(array->val.binary.data))
	{
		refuse(finder, "", CDI_NO_TEXT, CDI_MALFORMED, "context.externalIds is no array.");
		return;
	}
	count = JsonContainerSize(array->val.binary.data);
	for (uint32 i = 0; i < Min(count, CDI_MAX_IDENTIFIERS); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array->val.binary.data, i);

		read_external_id(finder, element);
		pfree(element);
	}
	if (count > CDI_MAX_IDENTIFIERS)
		refuse(finder, "", CDI_NO_TEXT, CDI_TOO_MANY,
			   psprintf("context.externalIds has %u elements; the first %d were read.", count, CDI_MAX_IDENTIFIERS));
}

static void
find_type(Finder *finder, const CdiIdentifierType *type)
{
	bool		is_account = type->graph == CDI_GRAPH_ACCOUNT;

	if (is_account && !finder->is_group)
		return;
	for (int i = 0; i < type->npaths; i++)
	{
		const CdiTypePath *path = &type->paths[i];
		const JsonbValue *value = value_at(finder, path->slot);
		JsonbValue	both;

		/* A group's traits describe the group. */
		if (value == NULL || (path->in_traits && finder->is_group && !is_account))
			continue;
		if (path->prefix_slot >= 0)
			value = joined(type, value_at(finder, path->prefix_slot), value, &both);
		if (value != NULL && conditions_hold(finder, path) && offer(finder, type, value))
			break;
	}
	for (int i = 0; i < finder->nexternal; i++)
		if (finder->external[i].type == type)
			offer(finder, type, &finder->external[i].id);
}

/* The subject comes first: persons' identifiers, then those of groups. */
static void
keep_identifiers(Finder *finder)
{
	CdiEvent   *event = finder->event;
	CdiIdentifier *next;

	if (finder->nidentifiers == 0)
		return;
	next = event->identifiers = palloc(sizeof(CdiIdentifier) * finder->nidentifiers);
	for (CdiGraphKind graph = 0; graph < CDI_GRAPHS; graph++)
	{
		CdiIdentifier *first = next;

		for (int i = 0; i < finder->nidentifiers; i++)
			if (finder->graphs[i] == graph)
				*next++ = finder->identifiers[i];
		event->counts[graph] = next - first;
	}
}

static void
find_identifiers(Finder *finder, CdiEvent *event)
{
	finder->event = event;
	finder->number++;
	finder->is_group = cdi_text_is(event->type, "group");
	finder->nidentifiers = 0;
	find_field(finder, CDI_SLOT_USER_ID, event->user_id);
	find_field(finder, CDI_SLOT_ANONYMOUS_ID, event->anonymous_id);
	find_field(finder, CDI_SLOT_GROUP_ID, event->group_id);
	find_field(finder, CDI_SLOT_PREVIOUS_ID, event->previous_id);
	walk_root(finder, CDI_ROOT_TRAITS, event->traits);
	walk_root(finder, CDI_ROOT_CONTEXT, event->context);
	walk_root(finder, CDI_ROOT_PROPERTIES, event->properties);
	walk_root(finder, CDI_ROOT_EXTRA, event->extra);
	read_external_ids(finder);
	for (int i = 0; i < finder->ntypes; i++)
		find_type(finder, &finder->types[i]);

	/* An alias does not say whether the previous id was anonymous: it is both. */
	if (cdi_text_is(event->type, "alias"))
		for (int i = 0; i < finder->ntypes; i++)
			if (strcmp(finder->types[i].name, "user_id") == 0 ||
				strcmp(finder->types[i].name, "anonymous_id") == 0)
				offer(finder, &finder->types[i], &finder->found[CDI_SLOT_PREVIOUS_ID].value);
	if (!finder->collecting)
		keep_identifiers(finder);
}

static void
pass(Finder *finder)
{
	for (int i = 0; i < finder->batch->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (finder->batch->events[i].outcome == CDI_PENDING)
			find_identifiers(finder, &finder->batch->events[i]);
	}
}

static bool
any_function(const Finder *finder)
{
	for (int i = 0; i < finder->ntypes; i++)
		if (finder->types[i].normaliser.kind == CDI_NORMALISE_FUNCTION)
			return true;
	return false;
}

/* Set aside what was erased. */
static void
drop_erased(CdiBatch *batch)
{
	int			n = 0;
	pg_uuid_t  *keys;
	bool	   *erased;

	for (int i = 0; i < batch->count; i++)
		n += cdi_event_identifiers(&batch->events[i]);
	keys = palloc_extended(sizeof(pg_uuid_t) * n, MCXT_ALLOC_HUGE);
	erased = palloc_extended(n, MCXT_ALLOC_HUGE);
	n = 0;
	for (int i = 0; i < batch->count; i++)
		for (int k = 0; k < cdi_event_identifiers(&batch->events[i]); k++)
			keys[n++] = batch->events[i].identifiers[k].key;
	if (!cdi_tombstones_find(keys, n, erased))
		return;
	n = 0;
	for (int i = 0; i < batch->count; i++)
	{
		CdiEvent   *event = &batch->events[i];
		CdiIdentifier *from = event->identifiers;
		CdiIdentifier *to = from;

		for (CdiGraphKind graph = 0; graph < CDI_GRAPHS; graph++)
		{
			int			count = event->counts[graph];

			for (int k = 0; k < count; k++, from++)
				if (!erased[n++])
					*to++ = *from;
				else
				{
					cdi_refuse(batch, event, cdi_text(from->type), CDI_NO_TEXT, NULL, CDI_ERASED, NULL);
					event->counts[graph]--;
					event->erased = true;
				}
		}
	}
}

void
cdi_stage_identify(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	Finder	   *finder = palloc0(sizeof(Finder));

	finder->batch = batch;
	finder->types = cdi_identifier_types(&finder->ntypes);
	finder->tree = *cdi_identifier_paths(&finder->external_ids);
	finder->found = palloc0(sizeof(Found) * finder->tree.nslots);
	if (any_function(finder))
	{
		finder->collecting = true;
		pass(finder);
		finder->collecting = false;
		if (finder->ncalls > 0)
			cdi_normaliser_run(finder->calls, finder->ncalls);
	}
	pass(finder);
	for (int i = 0; i < batch->count; i++)
		cdi_cookieless_set_apart(&batch->events[i]);
	if (cdi_tombstones_any())
		drop_erased(batch);
	MemoryContextSwitchTo(old);
}
