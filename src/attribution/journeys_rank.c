/*
 * journeys_rank.c
 *		An order of conversions that is theirs, whatever plan read them.
 *
 * People are numbered as they come.  What has to be the same for any order of
 * rows (a resampling, a sum of rounded numbers) goes by rank instead.
 * Conversions that compare as equal are of one person and time, so they have
 * the same path and value: either may be the first.
 */
#include "attribution/journeys_private.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

static int
compare_values(Datum left, Datum right)
{
	if (left == (Datum) 0 || right == (Datum) 0)
		return (left != (Datum) 0) - (right != (Datum) 0);
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, left, right));
}

static int
compare_ranks(const void *a, const void *b, void *arg)
{
	const CdiConversion *left = *(CdiConversion *const *) a;
	const CdiConversion *right = *(CdiConversion *const *) b;
	const CdiJourneys *self = arg;
	int			order = 0;

	if (left->definition != right->definition)
		return left->definition < right->definition ? -1 : 1;
	if (left->person < 0 || right->person < 0)
		order = (left->person >= 0) - (right->person >= 0);
	else if (left->person != right->person)
		order = memcmp(&self->persons[left->person].id, &self->persons[right->person].id, sizeof(pg_uuid_t));
	if (order != 0)
		return order;
	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	if (left->position != right->position)
		return left->position < right->position ? -1 : 1;
	order = memcmp(&left->event_id, &right->event_id, sizeof(pg_uuid_t));
	return order != 0 ? order : compare_values(left->value, right->value);
}

void
cdi_journeys_rank(CdiJourneys *self)
{
	CdiConversion **sorted = palloc_extended(sizeof(CdiConversion *) * Max(self->nconversions, 1), MCXT_ALLOC_HUGE);
	int64		n = 0;
	int64		first = 0;

	if (self->nconversions > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many conversions for a model of all paths, or for intervals"),
				 errhint("Attribute shorter spans of time by from_time and to_time.")));
	for (int64 i = 0; i < self->nconversions; i++)
		if (self->conversions[i].kind == CDI_COUNTED)
			sorted[n++] = &self->conversions[i];
	qsort_arg(sorted, n, sizeof(CdiConversion *), compare_ranks, self);
	for (int64 i = 0; i < n; i++)
	{
		if (sorted[i]->definition != sorted[first]->definition)
			first = i;
		sorted[i]->rank = (int32) (i - first);
	}
	pfree(sorted);
}
