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

#include "base/scan.h"
#include "ingest/cookieless.h"
#include "ingest/rows.h"
#include "ingest/stages.h"

#define LINK_COLUMNS 8

/* A group's traits describe the group; those of any other call its person. */
static bool
sets_traits(const CdiEvent *event)
{
	return event->traits != NULL && !cdi_text_is(event->type, "group") &&
		JB_ROOT_COUNT(event->traits) > 0;
}

static bool
has_link(const CdiEvent *event)
{
	return event->outcome == CDI_STORED &&
		(event->nidentifiers >= 2 ||
		 (event->nidentifiers == 1 && sets_traits(event) &&
		  !cdi_cookieless_is(event->identifiers[0].value)));
}

static bool
form_link(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	Datum		keys[CDI_MAX_IDENTIFIERS];
	Datum		types[CDI_MAX_IDENTIFIERS];
	Datum		texts[CDI_MAX_IDENTIFIERS];
	int			n = event->nidentifiers;

	if (!has_link(event))
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
	return true;
}

PG_FUNCTION_INFO_V1(cdi_batch_links);

Datum
cdi_batch_links(PG_FUNCTION_ARGS)
{
	cdi_rows_return(fcinfo, form_link, LINK_COLUMNS);
	return (Datum) 0;
}

void
cdi_stage_link(CdiBatch *batch, int *index, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_links (position, event_id, linked_at, rule,"
		" identifiers, types, \"values\", traits) SELECT * FROM cdi._batch_links()"
	};
	MemoryContext old;
	bool		any = false;

	for (int i = 0; i < n && !any; i++)
		any = has_link(&batch->events[index[i]]);
	if (!any)
		return;
	old = MemoryContextSwitchTo(batch->context);
	cdi_rows_insert(&plan, batch, index, n, form_link);
	MemoryContextSwitchTo(old);
}
