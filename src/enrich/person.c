/*
 * person.c
 *		What is known of an event's person, on the event itself.
 *
 * Events of sources that ask for it (cdi_alter_source, person_traits) get
 * context.person: the id and the named traits of the event's person as of the
 * last fold, without what the event itself adds.  Looked up for all events of
 * a source in the batch together.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "identity/traits.h"
#include "ingest/stages.h"

static int
compare_keys(const void *a, const void *b)
{
	return memcmp(&((const CdiPersonTraits *) a)->key,
				  &((const CdiPersonTraits *) b)->key, UUID_LEN);
}

static bool
is_of(const CdiEvent *event, int32 source_id)
{
	return event->outcome == CDI_PENDING && event->source_id == source_id;
}

/*
 * person is NULL for an event without an identifier.  A member "person" that
 * the sender has set itself goes in either case: readers rely on this one.
 */
static Jsonb *
with_person(Jsonb *context, const CdiPersonTraits *person)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;
	Datum		member;

	if (person == NULL)
		return context == NULL ? NULL :
			DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(context),
											   CStringGetTextDatum("person")));
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	value.type = jbvString;
	value.val.string.val = "person";
	value.val.string.len = strlen("person");
	pushJsonbValue(&state, WJB_KEY, &value);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	value.val.string.val = "person_id";
	value.val.string.len = strlen("person_id");
	pushJsonbValue(&state, WJB_KEY, &value);
	value.val.string.val = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&person->person_id)));
	value.val.string.len = strlen(value.val.string.val);
	pushJsonbValue(&state, WJB_VALUE, &value);
	value.val.string.val = "traits";
	value.val.string.len = strlen("traits");
	pushJsonbValue(&state, WJB_KEY, &value);
	if (person->traits != NULL)
	{
		value.type = jbvBinary;
		value.val.binary.data = &person->traits->root;
		value.val.binary.len = VARSIZE(person->traits) - VARHDRSZ;
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	else
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	member = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
	if (context == NULL)
		return DatumGetJsonbP(member);
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(context), member));
}

static void
add_persons(CdiBatch *batch, const CdiSource *source)
{
	CdiPersonTraits *persons = MemoryContextAllocHuge(batch->context, sizeof(CdiPersonTraits) * batch->count);
	int			n = 0;

	for (int i = 0; i < batch->count; i++)
		if (is_of(&batch->events[i], source->source_id) && batch->events[i].counts[CDI_GRAPH_PERSON] > 0)
			persons[n++].key = batch->events[i].identifiers[0].key;
	if (n > 0)
		cdi_person_traits_lookup(persons, n, source->person_traits, source->nperson_traits, false);
	qsort(persons, n, sizeof(CdiPersonTraits), compare_keys);
	for (int i = 0; i < batch->count; i++)
	{
		CdiEvent   *event = &batch->events[i];
		CdiPersonTraits *person = NULL;

		if (!is_of(event, source->source_id))
			continue;
		if (event->counts[CDI_GRAPH_PERSON] > 0)
		{
			CdiPersonTraits wanted = {.key = event->identifiers[0].key};

			person = bsearch(&wanted, persons, n, sizeof(CdiPersonTraits), compare_keys);
		}
		event->context = with_person(event->context, person);
	}
}

void
cdi_stage_person(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (int i = 0; i < batch->nreceived; i++)
	{
		const CdiSource *source = cdi_source_by_id(batch->received[i].source_id);

		/* the view is missing between ALTER EXTENSION UPDATE and cdi_init() */
		if (source != NULL && source->nperson_traits > 0 &&
			OidIsValid(cdi_relation_oid("person_computed_traits")))
			add_persons(batch, source);
	}
	MemoryContextSwitchTo(old);
}
