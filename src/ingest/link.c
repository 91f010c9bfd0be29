/*
 * link.c
 *		Evidence for the identity graph.
 *
 * A stored event with two or more identifiers of a person appends one link; one
 * that has traits of its person does so even with a single identifier, because
 * it names the person.  Identifiers of an account or household make a link of
 * their own, with a position of its own and the event's subject as member.
 * Nothing is looked up and nothing is locked: cdi_resolve() folds the links
 * later.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/scan.h"
#include "ingest/cookieless.h"
#include "ingest/rows.h"
#include "ingest/stages.h"

#define LINK_COLUMNS 10

/* A group's traits describe the group; those of any other call its person. */
static bool
sets_traits(const CdiEvent *event)
{
	return event->traits != NULL && !event->erased && !cdi_text_is(event->type, "group") &&
		JB_ROOT_COUNT(event->traits) > 0;
}

bool
cdi_event_has_link(const CdiEvent *event)
{
	int			n = event->counts[CDI_GRAPH_PERSON];

	return event->outcome == CDI_STORED &&
		(n >= 2 || (n == 1 && sets_traits(event) && !event->identifiers[0].cookieless));
}

/* The graph that the running statement writes links of */
static CdiGraphKind linking;

/* Whose traits are they that the link carries? */
static bool
link_has_traits(const CdiEvent *event)
{
	switch (linking)
	{
		case CDI_GRAPH_PERSON:
			return sets_traits(event);
		case CDI_GRAPH_ACCOUNT:
			return event->traits != NULL && !event->erased && JB_ROOT_COUNT(event->traits) > 0;
		case CDI_GRAPH_HOUSEHOLD:
			break;
	}
	return false;
}

static bool
has_link(const CdiEvent *event)
{
	return linking == CDI_GRAPH_PERSON ? cdi_event_has_link(event) :
		event->outcome == CDI_STORED && event->counts[linking] > 0;
}

static bool
form_link(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	Datum		keys[CDI_MAX_IDENTIFIERS];
	Datum		types[CDI_MAX_IDENTIFIERS];
	Datum		texts[CDI_MAX_IDENTIFIERS];
	CdiIdentifier *first = event->identifiers;
	bool		of_person = linking == CDI_GRAPH_PERSON;
	int			n = event->counts[linking];

	if (!has_link(event))
		return false;
	for (CdiGraphKind graph = 0; graph < linking; graph++)
		first += event->counts[graph];
	for (int i = 0; i < n; i++)
	{
		keys[i] = UUIDPGetDatum(&first[i].key);
		types[i] = CStringGetTextDatum(first[i].type);
		texts[i] = PointerGetDatum(cstring_to_text_with_len(first[i].value.data, first[i].value.len));
	}
	values[0] = Int64GetDatum(of_person ? event->position : cdi_position_next());
	values[1] = UUIDPGetDatum(&event->event_id);
	values[2] = TimestampTzGetDatum(event->timestamp);
	values[3] = PointerGetDatum(cstring_to_text_with_len(event->type.data, event->type.len));
	values[4] = PointerGetDatum(construct_array(keys, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[5] = PointerGetDatum(construct_array(types, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[6] = PointerGetDatum(construct_array(texts, n, TEXTOID, -1, false, TYPALIGN_INT));
	nulls[7] = !link_has_traits(event);
	if (!nulls[7])
		values[7] = JsonbPGetDatum(event->traits);
	values[8] = Int32GetDatum(event->source_id);
	nulls[9] = of_person || event->counts[CDI_GRAPH_PERSON] == 0 ||
		event->identifiers[0].cookieless;
	if (!nulls[9])
		values[9] = UUIDPGetDatum(&event->identifiers[0].key);
	return true;
}

PG_FUNCTION_INFO_V1(cdi_batch_links);

Datum
cdi_batch_links(PG_FUNCTION_ARGS)
{
	cdi_rows_return(fcinfo, form_link, LINK_COLUMNS);
	return (Datum) 0;
}

/* Columns of storage version 1, see EVENT_COLUMNS_1 in store.c */
#define LINK_COLUMNS_1 \
	"position, event_id, linked_at, rule, identifiers, types, \"values\", traits"

void
cdi_stage_link(CdiBatch *batch, int *index, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_links (" LINK_COLUMNS_1 ", source_id, member)"
		" SELECT " LINK_COLUMNS_1 ", source_id, member FROM cdi._batch_links()"
	};
	static CdiPlan plan_1 = {
		.query = "INSERT INTO cdi.identity_links (" LINK_COLUMNS_1 ")"
		" SELECT " LINK_COLUMNS_1 " FROM cdi._batch_links()"
	};
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		any[CDI_GRAPHS] = {false};
	bool		current = true;

	for (int i = 0; i < n; i++)
		for (linking = 0; linking < CDI_GRAPHS; linking++)
			any[linking] |= has_link(&batch->events[index[i]]);
	if (any[CDI_GRAPH_PERSON] || any[CDI_GRAPH_ACCOUNT] || any[CDI_GRAPH_HOUSEHOLD])
		current = get_attnum(cdi_relation_oid("identity_links"), "member") != InvalidAttrNumber;
	for (linking = 0; linking < CDI_GRAPHS; linking++)
		if (any[linking] && (current || linking == CDI_GRAPH_PERSON))
			cdi_rows_insert(current ? &plan : &plan_1, batch, index, n, form_link);
	MemoryContextSwitchTo(old);
}
