/*
 * computed.c
 *		What stored events add to computed traits.
 *
 * One row of cdi.computed_trait_deltas per event and trait that it counts for,
 * in one statement per batch; nothing is looked up and nothing is updated.
 * cdi_resolve() folds them (identity/computed_fold.c, which also says why this
 * stage comes after the events have their positions).
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/scan.h"
#include "identity/traits.h"
#include "ingest/rows.h"
#include "ingest/stages.h"

#define DELTA_COLUMNS 6

typedef struct Match
{
	int			event;
	int32		trait_id;
	CdiContribution contribution;
} Match;

/* Of the running batch; form_delta() takes one after the other. */
static struct
{
	Match	   *matches;
	int			count;
	int			capacity;
	int			next;
} deltas;

static bool
same_text(CdiText a, CdiText b)
{
	return a.len == b.len && a.data != NULL && memcmp(a.data, b.data, a.len) == 0;
}

static void
match_event(CdiBatch *batch, int number, const CdiComputedTrait *traits, int ntraits)
{
	CdiEvent   *event = &batch->events[number];

	/* without an identifier it is nobody's */
	if (event->outcome != CDI_STORED || event->counts[CDI_GRAPH_PERSON] == 0)
		return;
	for (int i = 0; i < ntraits; i++)
	{
		const CdiComputedTrait *trait = &traits[i];
		Match	   *match;

		if (!same_text(event->type, trait->type) ||
			(trait->event.data != NULL && !same_text(event->event, trait->event)))
			continue;
		if (deltas.count == deltas.capacity)
		{
			deltas.capacity *= 2;
			deltas.matches = repalloc_huge(deltas.matches, sizeof(Match) * deltas.capacity);
		}
		match = &deltas.matches[deltas.count];
		if (!cdi_computed_contribution(trait, event->properties, &match->contribution))
			continue;
		match->event = number;
		match->trait_id = trait->trait_id;
		deltas.count++;
	}
}

static bool
form_delta(CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls)
{
	Match	   *match = &deltas.matches[deltas.next++];

	Assert(event == &batch->events[match->event]);
	values[0] = Int64GetDatum(event->position);
	values[1] = Int32GetDatum(match->trait_id);
	values[2] = UUIDPGetDatum(&event->identifiers[0].key);
	values[3] = TimestampTzGetDatum(event->timestamp);
	values[4] = match->contribution.number;
	nulls[4] = !match->contribution.has_number;
	values[5] = JsonbPGetDatum(match->contribution.value);
	nulls[5] = match->contribution.value == NULL;
	return true;
}

PG_FUNCTION_INFO_V1(cdi_batch_computed);

Datum
cdi_batch_computed(PG_FUNCTION_ARGS)
{
	cdi_rows_return(fcinfo, form_delta, DELTA_COLUMNS);
	return (Datum) 0;
}

void
cdi_stage_computed(CdiBatch *batch, int *index, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.computed_trait_deltas (position, trait_id, subject, at, number, value)"
		" SELECT position, trait_id, subject, at, number, value FROM cdi._batch_computed()"
	};
	const CdiComputedTrait *traits;
	MemoryContext old;
	int			ntraits;
	int		   *events;

	traits = cdi_computed_traits(&ntraits);
	if (ntraits == 0)
		return;
	old = MemoryContextSwitchTo(batch->context);
	deltas.count = deltas.next = 0;
	deltas.capacity = Max(n, 8);
	deltas.matches = MemoryContextAllocHuge(batch->context, sizeof(Match) * deltas.capacity);
	for (int i = 0; i < n; i++)
		match_event(batch, index[i], traits, ntraits);
	if (deltas.count > 0)
	{
		events = MemoryContextAllocHuge(batch->context, sizeof(int) * deltas.count);
		for (int i = 0; i < deltas.count; i++)
			events[i] = deltas.matches[i].event;
		cdi_rows_insert(&plan, batch, events, deltas.count, form_delta);
	}
	MemoryContextSwitchTo(old);
}
