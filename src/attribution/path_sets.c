/*
 * path_sets.c
 *		Distinct sets of labels of a corpus of paths.
 */
#include "attribution/path_sets.h"

#include "miscadmin.h"
#include "utils/memutils.h"

static int
compare_labels(const void *a, const void *b)
{
	return *(const int32 *) a - *(const int32 *) b;
}

static int
compare_members(const CdiPathSet *a, const CdiPathSet *b)
{
	if (a->size != b->size)
		return a->size - b->size;
	for (int i = 0; i < a->size; i++)
		if (a->members[i] != b->members[i])
			return a->members[i] - b->members[i];
	for (int i = 0; a->counts && i < a->size; i++)
		if (a->counts[i] != b->counts[i])
			return a->counts[i] - b->counts[i];
	return 0;
}

/* Equal sets stand, and are added up, in the order of their paths. */
static int
compare_sets(const void *a, const void *b)
{
	int			order = compare_members(a, b);

	return order != 0 ? order : ((const CdiPathSet *) a)->path - ((const CdiPathSet *) b)->path;
}

/* The set of a path; occurrences is all 0 and is so again afterwards. */
static void
make_set(CdiPathSet *set, const CdiPath *path, int32 *occurrences, int32 *scratch, bool counts)
{
	set->size = 0;
	for (int i = 0; i < path->length; i++)
		if (occurrences[path->touches[i]]++ == 0)
			scratch[set->size++] = path->touches[i];
	qsort(scratch, set->size, sizeof(int32), compare_labels);
	set->members = palloc(sizeof(int32) * set->size);
	memcpy(set->members, scratch, sizeof(int32) * set->size);
	set->counts = counts ? palloc(sizeof(int32) * set->size) : NULL;
	for (int i = 0; i < set->size; i++)
	{
		if (counts)
			set->counts[i] = occurrences[set->members[i]];
		occurrences[set->members[i]] = 0;
	}
	set->conversions = path->conversions;
	set->value = path->value;
	set->nulls = path->nulls;
}

/* Take equal neighbours together and add up the totals. */
static void
merge_sets(CdiPathSets *sets, int n)
{
	for (int i = 0; i < n; i++)
	{
		CdiPathSet *set = &sets->sets[i];
		CdiPathSet *last = sets->nsets > 0 ? &sets->sets[sets->nsets - 1] : NULL;

		sets->conversions += set->conversions;
		sets->value += set->value;
		sets->nulls += set->nulls;
		if (last && compare_members(last, set) == 0)
		{
			last->conversions += set->conversions;
			last->value += set->value;
			last->nulls += set->nulls;
		}
		else
			sets->sets[sets->nsets++] = *set;
	}
}

CdiPathSets *
cdi_path_sets_create(const CdiPaths *paths, bool counts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi path sets", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	CdiPathSets *sets = palloc0(sizeof(CdiPathSets));
	Size		labels = sizeof(int32) * Max(paths->nlabels, 1);
	int32	   *occurrences = palloc_extended(labels, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	int32	   *scratch = palloc_extended(labels, MCXT_ALLOC_HUGE);
	int			n = 0;

	sets->context = context;
	sets->nlabels = paths->nlabels;
	sets->sets = palloc_extended(sizeof(CdiPathSet) * Max((Size) paths->npaths, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < paths->npaths; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (paths->paths[i].length == 0)
			continue;
		sets->sets[n].path = i;
		make_set(&sets->sets[n++], &paths->paths[i], occurrences, scratch, counts);
	}
	qsort(sets->sets, n, sizeof(CdiPathSet), compare_sets);
	merge_sets(sets, n);
	pfree(occurrences);
	pfree(scratch);
	MemoryContextSwitchTo(previous);
	return sets;
}

void
cdi_path_sets_free(CdiPathSets *sets)
{
	MemoryContextDelete(sets->context);
}
