/*
 * link.c
 *		Evidence for the identity graph.
 *
 * A stored event with two or more identifiers appends one link, an identify
 * call with traits appends one even for a single identifier, because it names
 * a person.  Nothing is looked up and nothing is locked: cdi_resolve() folds
 * the links later.
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
		(n >= 2 || (n == 1 && sets_traits(event) && !cdi_cookieless_is(event->identifiers[0].value)));
}

static bool
form_link(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	Datum		keys[CDI_MAX_IDENTIFIERS];
	Datum		types[CDI_MAX_IDENTIFIERS];
	Datum		texts[CDI_MAX_IDENTIFIERS];
	int			n = event->counts[CDI_GRAPH_PERSON];

	if (!cdi_event_has_link(event))
		return false;
	for (int i = 0; i < n; i++)
	{
		CdiIdentifier *identifier = &event->identifiers[i];

		keys[i] = UUIDPGetDatum(&identifier->key);
		types[i] = CStringGetTextDatum(identifier->type);
		texts[i] = PointerGetDatum(cstring_to_text_with_len(identifier->value.data,
															identifier->value.len));
	}
	values[0] = Int64GetDatum(event->position);
	values[1] = UUIDPGetDatum(&event->event_id);
	values[2] = TimestampTzGetDatum(event->timestamp);
	values[3] = PointerGetDatum(cstring_to_text_with_len(event->type.data, event->type.len));
	values[4] = PointerGetDatum(construct_array(keys, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[5] = PointerGetDatum(construct_array(types, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[6] = PointerGetDatum(construct_array(texts, n, TEXTOID, -1, false, TYPALIGN_INT));
	if (sets_traits(event))
		values[7] = JsonbPGetDatum(event->traits);
	else
		nulls[7] = true;
	values[8] = Int32GetDatum(event->source_id);
	nulls[9] = true;			/* member */
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
	MemoryContext old;
	bool		any = false;
	bool		current;

	for (int i = 0; i < n && !any; i++)
		any = cdi_event_has_link(&batch->events[index[i]]);
	if (!any)
		return;
	old = MemoryContextSwitchTo(batch->context);
	current = get_attnum(cdi_relation_oid("identity_links"), "member") != InvalidAttrNumber;
	cdi_rows_insert(current ? &plan : &plan_1, batch, index, n, form_link);
	MemoryContextSwitchTo(old);
}
