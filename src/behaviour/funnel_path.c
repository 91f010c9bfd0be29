/*
 * funnel_path.c
 *		Whose paths count where a window begins with the first step: Mixpanel,
 *		Amplitude.
 *
 *	Mixpanel	time to the microsecond, and steps may be up to two seconds out of
 *				order; a person's path is that of the first entry, or with
 *				optimized re-entry the first that converts
 *	Amplitude	time to the second, either order within one; a person's path is
 *				the longest, of these the earliest
 *
 * With a property held constant the events of each value are a funnel of their
 * own.
 */
#include "behaviour/funnel_way.h"

#include "utils/memutils.h"

static uint32
next_entry(const CdiFunnelEvents *events, uint32 from)
{
	return cdi_funnel_next_free(events, events->blocks[0], from);
}

/* The last of the rows that a way took. */
static uint32
last_row(const CdiFunnelEvents *events, const CdiFunnelWay *way)
{
	uint32		last = 0;

	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != CDI_FUNNEL_NOWHERE)
			last = Max(last, way->rows[step]);
	return last;
}

/*
 * Of all entries from there on the best: the most steps, these reached first,
 * from the latest entry.  CDI_FUNNEL_NOWHERE: there is no entry.
 */
static uint32
best_entry(const CdiFunnelEvents *events, uint32 from, CdiFunnelWay *best)
{
	uint32		found = CDI_FUNNEL_NOWHERE;

	for (uint32 entry = next_entry(events, from); entry != CDI_FUNNEL_NOWHERE; entry = next_entry(events, entry + 1))
	{
		CdiFunnelWay			way;

		if (found != CDI_FUNNEL_NOWHERE && best->level == events->options->nsteps && cdi_funnel_time_of(events, entry) > best->last)
			break;
		cdi_funnel_find_way(events, entry, CDI_FUNNEL_NOWHERE, &way);
		if (found == CDI_FUNNEL_NOWHERE || way.level > best->level ||
			(way.level == best->level &&
			 (way.last < best->last || (way.last == best->last && way.first > best->first))))
		{
			*best = way;
			found = entry;
		}
	}
	return found;
}

/* The longest way, of these the earliest. */
static bool
longest_way(const CdiFunnelEvents *events, CdiFunnelWay *best)
{
	bool		found = false;

	for (uint32 entry = next_entry(events, 0); entry != CDI_FUNNEL_NOWHERE; entry = next_entry(events, entry + 1))
	{
		CdiFunnelWay			way;

		cdi_funnel_find_way(events, entry, CDI_FUNNEL_NOWHERE, &way);
		if (!found || way.level > best->level ||
			(way.level == best->level && way.first == best->first && way.last < best->last))
			*best = way;
		found = true;
		if (best->level == events->options->nsteps && way.first > best->first)
			break;
	}
	return found;
}

/* Rows of the next value that is held constant. */
static uint32
end_of_value(const CdiFunnelEntry *entries, uint32 count, uint32 begin)
{
	uint32		low = begin;
	uint32		high = count;

	if (entries[count - 1].hold == entries[begin].hold)
		return count;
	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (entries[middle].hold == entries[begin].hold)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Does a path, of another value, count rather than the one there is? */
static bool
is_better(const CdiFunnelOptions *options, const CdiFunnelPath *path, const CdiFunnelPath *best)
{
	if (path->level == 0 || best->level == 0)
		return path->level > 0;
	/* the value of the first entry */
	if (options->dialect == CDI_FUNNEL_MIXPANEL && !(options->modes & CDI_FUNNEL_OPTIMIZED_REENTRY))
		return path->at[0] < best->at[0];
	if (path->level != best->level)
		return path->level > best->level;
	if (options->dialect == CDI_FUNNEL_MIXPANEL && path->at[path->level - 1] != best->at[path->level - 1])
		return path->at[path->level - 1] < best->at[path->level - 1];
	if (options->dialect == CDI_FUNNEL_MIXPANEL)
		return path->at[0] > best->at[0];
	return path->at[0] < best->at[0];
}

void
cdi_funnel_anchored(const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count,
					CdiFunnelPath *path)
{
	uint32		end;

	memset(path, 0, offsetof(CdiFunnelPath, at));
	for (uint32 begin = 0; begin < count; begin = end)
	{
		CdiFunnelEvents		events;
		CdiFunnelWay			way;
		bool		found;

		end = end_of_value(entries, count, begin);
		cdi_funnel_begin_events(&events, options, entries + begin, end - begin);
		if (options->dialect == CDI_FUNNEL_AMPLITUDE)
			found = longest_way(&events, &way);
		else if (options->modes & CDI_FUNNEL_OPTIMIZED_REENTRY)
			found = best_entry(&events, 0, &way) != CDI_FUNNEL_NOWHERE;
		else
		{
			uint32		entry = next_entry(&events, 0);

			found = entry != CDI_FUNNEL_NOWHERE;
			if (found)
				cdi_funnel_find_way(&events, entry, CDI_FUNNEL_NOWHERE, &way);
		}
		if (found)
		{
			CdiFunnelPath one;

			cdi_funnel_path_of_way(&events, &way, &one);
			if (is_better(options, &one, path))
				*path = one;
		}
		cdi_funnel_end_events(&events);
	}
}

/* Totals */

static void
record(CdiFunnelEvents *events, const CdiFunnelWay *way, CdiFunnelPaths *paths)
{
	CdiFunnelPath path;

	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != CDI_FUNNEL_NOWHERE)
			events->used[way->rows[step]] = true;
	cdi_funnel_path_of_way(events, way, &path);
	cdi_funnel_add_path(paths, &path);
}

/* Mixpanel: who has left may enter again. */
static void
all_after_leaving(CdiFunnelEvents *events, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, 0);

	while (entry != CDI_FUNNEL_NOWHERE)
	{
		uint32		from;
		CdiFunnelWay			way;

		cdi_funnel_find_way(events, entry, CDI_FUNNEL_NOWHERE, &way);
		record(events, &way, paths);
		if (way.level == events->options->nsteps)
			from = last_row(events, &way) + 1;
		else if (way.excluded_by != CDI_FUNNEL_NOWHERE)
			from = way.excluded_by + 1;
		else
			from = cdi_funnel_row_at(events, way.leaves + 1);
		entry = next_entry(events, Max(from, entry + 1));
	}
}

/* Entries between two rows, each ending where the next begins. */
static void
superseded(CdiFunnelEvents *events, uint32 from, uint32 to, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, from);

	while (entry < to)
	{
		uint32		next = next_entry(events, entry + 1);
		CdiFunnelWay			way;

		cdi_funnel_find_way(events, entry, Min(next, to), &way);
		record(events, &way, paths);
		entry = next_entry(events, entry + 1);
	}
}

/* Mixpanel's optimized re-entry: what converts first, then what is left. */
static void
all_optimized(CdiFunnelEvents *events, CdiFunnelPaths *paths)
{
	uint32		from = 0;
	CdiFunnelWay			way;

	for (;;)
	{
		uint32		entry = best_entry(events, from, &way);

		if (entry == CDI_FUNNEL_NOWHERE || way.level < events->options->nsteps)
			break;
		for (int step = 0; step < events->options->nsteps; step++)
			events->used[way.rows[step]] = true;
		superseded(events, from, entry, paths);
		record(events, &way, paths);
		from = last_row(events, &way) + 1;
	}
	superseded(events, from, CDI_FUNNEL_NOWHERE, paths);
}

/* Amplitude: every event of the first step that no path has used enters. */
static void
all_unused(CdiFunnelEvents *events, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, 0);

	while (entry != CDI_FUNNEL_NOWHERE)
	{
		CdiFunnelWay			way;

		cdi_funnel_find_way(events, entry, CDI_FUNNEL_NOWHERE, &way);
		record(events, &way, paths);
		/* Another row of its second may have been taken instead of it. */
		entry = next_entry(events, cdi_funnel_is_used(events, entry) ? entry + 1 : entry);
	}
}

static int
compare_paths(const void *a, const void *b)
{
	const CdiFunnelPath *left = a;
	const CdiFunnelPath *right = b;

	if (left->at[0] != right->at[0])
		return left->at[0] < right->at[0] ? -1 : 1;
	if (left->hold != right->hold)
		return left->hold < right->hold ? -1 : 1;
	return 0;
}

void
cdi_funnel_anchored_all(const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count,
						CdiFunnelPaths *paths)
{
	uint32		end;
	bool		several = count > 0 && entries[0].hold != entries[count - 1].hold;

	for (uint32 begin = 0; begin < count; begin = end)
	{
		CdiFunnelEvents		events;

		end = end_of_value(entries, count, begin);
		cdi_funnel_begin_events(&events, options, entries + begin, end - begin);
		cdi_funnel_begin_use(&events);
		if (options->dialect == CDI_FUNNEL_AMPLITUDE)
			all_unused(&events, paths);
		else if (options->modes & CDI_FUNNEL_OPTIMIZED_REENTRY)
			all_optimized(&events, paths);
		else
			all_after_leaving(&events, paths);
		cdi_funnel_end_events(&events);
	}
	if (several)
		qsort(paths->paths, paths->count, sizeof(CdiFunnelPath), compare_paths);
}
