/*
 * funnel_path.c
 *		Funnels whose window begins with their first step: Mixpanel, Amplitude.
 *
 * A path begins at an event of the first step, the entry, and takes for each
 * further step the first event that fits and that no path has used: "for every
 * subsequent step, we pick the first instance" (Mixpanel).  An event fills one
 * step of one path.  What the dialects differ in:
 *
 *	Mixpanel	time to the microsecond, and steps may be up to two seconds out of
 *				order; a person's path is that of the first entry, or with
 *				optimized re-entry the first that converts
 *	Amplitude	time to the second, either order within one; a person's path is
 *				the longest, of these the earliest
 *
 * Steps form blocks that are done one after the other.  In order, each step is
 * a block; in any order, those between two anchored steps are one, and within a
 * block events are matched to steps as they come.
 */
#include "behaviour/funnel.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#define MIXPANEL_GRACE		(2 * USECS_PER_SEC)
#define INDEX_FROM			64	/* entries that are worth an index */
#define NOWHERE				PG_UINT32_MAX

/* Events of one person with one value of what is held constant */
typedef struct Events
{
	const CdiFunnelOptions *options;
	const CdiFunnelEntry *entries;
	uint32		count;
	bool		by_second;
	int64		grace;
	uint32		blocks[CDI_FUNNEL_MAX_CONDITIONS];	/* steps of each */
	int			nblocks;
	bool	   *used;			/* by an earlier path; NULL: there is none */
	/* Where a condition is met, in order; NULL: look */
	uint32	   *places[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		nplaces[CDI_FUNNEL_MAX_CONDITIONS];
} Events;

/* A path while it is found */
typedef struct Way
{
	int			level;
	uint32		rows[CDI_FUNNEL_MAX_CONDITIONS];	/* by step, NOWHERE: not reached */
	uint32		excluded_by;	/* NOWHERE: nothing */
	TimestampTz first;			/* time of the entry */
	TimestampTz last;			/* latest time of a step */
	TimestampTz leaves;			/* when the time of an unfinished path is over */
} Way;

static inline TimestampTz
time_of(const Events *events, uint32 row)
{
	TimestampTz at = events->entries[row].at;
	int64		part;

	if (!events->by_second)
		return at;
	part = at % USECS_PER_SEC;
	return at - (part < 0 ? part + USECS_PER_SEC : part);
}

/* The first row at or after a time. */
static uint32
row_at(const Events *events, TimestampTz at)
{
	uint32		low = 0;
	uint32		high = events->count;

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (events->entries[middle].at < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static inline bool
is_used(const Events *events, uint32 row)
{
	return events->used && events->used[row];
}

/* The first row from there on that meets the condition, used or not. */
static uint32
next_place(const Events *events, int condition, uint32 from)
{
	const uint32 *places = events->places[condition];
	uint32		low = 0;
	uint32		high = events->nplaces[condition];

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (places[middle] < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low < events->nplaces[condition] ? places[low] : NOWHERE;
}

/* The first row from there on that meets one of the conditions, or NOWHERE. */
static uint32
next_meeting(const Events *events, uint32 conditions, uint32 from)
{
	uint32		first = NOWHERE;

	if (events->places[0] == NULL)
	{
		for (uint32 row = from; row < events->count; row++)
			if (events->entries[row].conditions & conditions)
				return row;
		return NOWHERE;
	}
	for (int condition = 0; conditions >> condition != 0; condition++)
		if (conditions & (UINT32_C(1) << condition))
			first = Min(first, next_place(events, condition, from));
	return first;
}

static void
index_events(Events *events)
{
	int			nconditions = events->options->nsteps + events->options->nexclusions;
	uint32	   *all;
	uint64		total = 0;

	memset(events->places, 0, sizeof(events->places));
	if (events->count < INDEX_FROM)
		return;
	memset(events->nplaces, 0, sizeof(events->nplaces));
	for (uint32 row = 0; row < events->count; row++)
		for (int c = 0; c < nconditions; c++)
			if (events->entries[row].conditions & (UINT32_C(1) << c))
			{
				events->nplaces[c]++;
				total++;
			}
	all = palloc_extended(sizeof(uint32) * Max(total, 1), MCXT_ALLOC_HUGE);
	for (int c = 0; c < nconditions; c++)
	{
		events->places[c] = all;
		all += events->nplaces[c];
		events->nplaces[c] = 0;
	}
	for (uint32 row = 0; row < events->count; row++)
		for (int c = 0; c < nconditions; c++)
			if (events->entries[row].conditions & (UINT32_C(1) << c))
				events->places[c][events->nplaces[c]++] = row;
}

static void
begin_events(Events *events, const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count)
{
	uint32		anchors = options->modes & CDI_FUNNEL_ANY_ORDER ? options->anchors : PG_UINT32_MAX;
	bool		anchored = true;

	events->options = options;
	events->entries = entries;
	events->count = count;
	events->by_second = options->dialect == CDI_FUNNEL_AMPLITUDE;
	events->grace = options->dialect == CDI_FUNNEL_MIXPANEL ? MIXPANEL_GRACE : 0;
	events->used = NULL;
	events->nblocks = 0;
	for (int step = 0; step < options->nsteps; step++)
	{
		uint32		bit = UINT32_C(1) << step;

		if (anchored || (anchors & bit))
			events->blocks[events->nblocks++] = 0;
		events->blocks[events->nblocks - 1] |= bit;
		anchored = (anchors & bit) != 0;
	}
	index_events(events);
}

static void
end_events(Events *events)
{
	if (events->places[0])
		pfree(events->places[0]);
	if (events->used)
		pfree(events->used);
}

static bool
is_of_way(const Events *events, const Way *way, uint32 row)
{
	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] == row)
			return true;
	return false;
}

/*
 * The event that ends a path of this level between two times, both left out
 * with the grace around them, or NOWHERE.
 */
static uint32
find_exclusion(const Events *events, const Way *way, int level, TimestampTz after, TimestampTz before)
{
	const CdiFunnelOptions *options = events->options;
	const CdiFunnelExclusion *exclusions = cdi_funnel_exclusions(options);
	uint32		conditions = 0;
	uint32		row;

	for (int i = 0; i < options->nexclusions; i++)
		if (exclusions[i].after <= level && level < exclusions[i].before)
			conditions |= UINT32_C(1) << (options->nsteps + i);
	if (conditions == 0)
		return NOWHERE;
	row = row_at(events, after);
	while ((row = next_meeting(events, conditions, row)) != NOWHERE)
	{
		if (time_of(events, row) >= before)
			return NOWHERE;
		if (time_of(events, row) > after && !is_of_way(events, way, row))
			return row;
		row++;
	}
	return NOWHERE;
}

/*
 * Rows of the way's last second may have been given to steps that another row
 * could fill as well.  Give the step one, moving others of that second.
 */
static bool
rearrange_second(const Events *events, Way *way, int step)
{
	uint32		begin = row_at(events, way->last);
	uint32		end = row_at(events, way->last + USECS_PER_SEC);
	uint32		n = end - begin;
	CdiFunnelEntry *rows;
	CdiFunnelMatch match;
	int			from = step;
	bool		found = true;

	if (n < 2 || next_meeting(events, UINT32_C(1) << step, begin) >= end)
		return false;
	while (from > 0 && way->rows[from - 1] >= begin && way->rows[from - 1] < end)
		from--;
	rows = palloc_extended(sizeof(CdiFunnelEntry) * n, MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < n; i++)
	{
		rows[i] = events->entries[begin + i];
		if (is_used(events, begin + i))
			rows[i].conditions = 0;
	}
	cdi_funnel_match_begin(&match, rows, n);
	for (int s = from; s <= step && found; s++)
		found = cdi_funnel_match_step(&match, s);
	if (found)
		for (int s = from; s <= step; s++)
			way->rows[s] = begin + match.row_of[s];
	pfree(rows);
	return found;
}

/* Give a row to one of the steps, moving rows from step to step of the block. */
static bool
place_row(const Events *events, Way *way, uint32 block, uint32 row, uint32 *seen)
{
	uint32		fits = events->entries[row].conditions & block & ~*seen;

	for (int step = 0; fits >> step != 0; step++)
		if ((fits & (UINT32_C(1) << step)) && way->rows[step] == NOWHERE)
		{
			way->rows[step] = row;
			return true;
		}
	for (int step = 0; fits >> step != 0; step++)
	{
		if ((fits & (UINT32_C(1) << step)) == 0 || (*seen & (UINT32_C(1) << step)))
			continue;
		*seen |= UINT32_C(1) << step;
		if (place_row(events, way, block, way->rows[step], seen))
		{
			way->rows[step] = row;
			return true;
		}
	}
	return false;
}

/* Steps of the block that a further row could be given. */
static uint32
open_steps(const Events *events, const Way *way, uint32 block)
{
	uint32		open = 0;
	uint32		before;

	for (int step = 0; block >> step != 0; step++)
		if ((block & (UINT32_C(1) << step)) && way->rows[step] == NOWHERE)
			open |= UINT32_C(1) << step;
	do
	{
		before = open;
		for (int step = 0; block >> step != 0; step++)
			if ((block & (UINT32_C(1) << step)) && way->rows[step] != NOWHERE &&
				(events->entries[way->rows[step]].conditions & open))
				open |= UINT32_C(1) << step;
	} while (open != before);
	return open;
}

/* Begin a way that has not gone anywhere. */
static void
begin_way(const Events *events, Way *way, uint32 entry)
{
	way->level = 0;
	way->excluded_by = NOWHERE;
	for (int step = 0; step < events->options->nsteps; step++)
		way->rows[step] = NOWHERE;
	way->first = way->last = time_of(events, entry);
	way->leaves = way->first + events->options->window;
}

/*
 * The way from an entry: the first event that fits, step by step.  Rows from
 * until on are not taken.
 */
static void
go(const Events *events, uint32 entry, uint32 until, Way *way)
{
	const CdiFunnelOptions *options = events->options;
	TimestampTz window_end;
	int			block = 0;
	uint32		cursor;
	uint32		seen = 0;

	CHECK_FOR_INTERRUPTS();
	begin_way(events, way, entry);
	window_end = way->leaves;
	place_row(events, way, events->blocks[0], entry, &seen);
	way->level = 1;
	cursor = row_at(events, way->first);
	while (way->level < options->nsteps)
	{
		uint32		open = open_steps(events, way, events->blocks[block]);
		uint32		row;
		uint32		exclusion;
		TimestampTz end = window_end;

		if (open == 0)
		{
			block++;
			cursor = row_at(events, way->last - events->grace);
			continue;
		}
		if (options->nstep_windows > 0 && options->step_windows[way->level - 1] > 0)
			end = Min(end, way->last + options->step_windows[way->level - 1]);

		row = next_meeting(events, open, cursor);
		while (row != NOWHERE && (is_used(events, row) || is_of_way(events, way, row)))
			row = next_meeting(events, open, row + 1);
		if (row != NOWHERE && (row >= until || time_of(events, row) > end))
			row = NOWHERE;

		if (events->by_second && (options->modes & CDI_FUNNEL_ANY_ORDER) == 0 &&
			(row == NOWHERE || time_of(events, row) > way->last) &&
			rearrange_second(events, way, way->level))
		{
			way->level++;
			continue;
		}
		exclusion = find_exclusion(events, way, way->level, way->last + events->grace,
								   row == NOWHERE ? end + 1 : time_of(events, row) - events->grace);
		if (exclusion != NOWHERE && exclusion < until)
		{
			way->excluded_by = exclusion;
			return;
		}
		if (row == NOWHERE)
		{
			way->leaves = end;
			return;
		}
		seen = 0;
		if (!place_row(events, way, events->blocks[block], row, &seen))
			elog(ERROR, "event of a funnel fits no open step");
		way->level++;
		way->last = Max(way->last, time_of(events, row));
	}
}

/*
 * The longest way from an entry where a later event for one step may be the
 * better one, because of windows between steps or exclusions: each layer has
 * the rows that a step can be reached with, each with the latest row before.
 */
typedef struct Reached
{
	uint32		row;
	uint32		from;			/* in the layer before */
} Reached;

static bool
is_of_chain(Reached *const *layers, int layer, uint32 place, uint32 row)
{
	for (; layer >= 0; place = layers[layer][place].from, layer--)
		if (layers[layer][place].row == row)
			return true;
	return false;
}

static void
go_longest(const Events *events, uint32 entry, Way *way)
{
	const CdiFunnelOptions *options = events->options;
	Reached    *layers[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		sizes[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		begin;
	uint32		end;
	int			level = 1;
	uint32		place = 0;

	begin_way(events, way, entry);
	begin = row_at(events, way->first);
	end = row_at(events, way->leaves + USECS_PER_SEC);
	layers[0] = palloc(sizeof(Reached));
	layers[0][0].row = entry;
	layers[0][0].from = 0;
	sizes[0] = 1;
	for (; level < options->nsteps; level++)
	{
		const Reached *previous = layers[level - 1];
		int64		longest = options->nstep_windows > 0 ? options->step_windows[level - 1] : 0;
		uint32		room = 16;
		uint32		after = 0;	/* rows of the layer before up to this second */

		layers[level] = palloc(sizeof(Reached) * room);
		sizes[level] = 0;
		for (uint32 row = next_meeting(events, UINT32_C(1) << level, begin); row < end;
			 row = next_meeting(events, UINT32_C(1) << level, row + 1))
		{
			TimestampTz at = time_of(events, row);

			CHECK_FOR_INTERRUPTS();
			while (after < sizes[level - 1] && time_of(events, previous[after].row) <= at)
				after++;
			if (is_used(events, row))
				continue;
			for (uint32 from = after; from > 0; from--)
			{
				TimestampTz before = time_of(events, previous[from - 1].row);

				if ((longest > 0 && at - before > longest) ||
					find_exclusion(events, way, level, before, at) != NOWHERE)
					break;
				if (is_of_chain(layers, level - 1, from - 1, row))
					continue;
				if (sizes[level] == room)
				{
					room *= 2;
					layers[level] = repalloc_huge(layers[level], sizeof(Reached) * room);
				}
				layers[level][sizes[level]].row = row;
				layers[level][sizes[level]].from = from - 1;
				sizes[level]++;
				break;
			}
		}
		if (sizes[level] == 0)
		{
			pfree(layers[level]);
			break;
		}
	}

	/* Back along the first that got this far. */
	way->level = level;
	for (int step = level - 1; step >= 0; step--)
	{
		way->rows[step] = layers[step][place].row;
		place = layers[step][place].from;
	}
	way->last = time_of(events, way->rows[level - 1]);
	for (int step = 0; step < level; step++)
		pfree(layers[step]);
	if (level < options->nsteps)
	{
		if (options->nstep_windows > 0 && options->step_windows[level - 1] > 0)
			way->leaves = Min(way->leaves, way->last + options->step_windows[level - 1]);
		way->excluded_by = find_exclusion(events, way, level, way->last, way->leaves + 1);
	}
}

/*
 * The way from the second of an entry in exact order: nothing else may happen
 * in between.  Rows of one second may stand in either order: in the first some
 * may come before the entry, in the last some after the last step, and of those
 * between each must be a step.
 */
static int
go_exactly_from(const Events *events, uint32 begin, int first_steps, Way *way)
{
	const CdiFunnelOptions *options = events->options;
	int			level = 0;
	uint32		end;

	for (; level < options->nsteps && begin < events->count; begin = end)
	{
		TimestampTz at = time_of(events, begin);
		CdiFunnelMatch match;
		CdiFunnelEntry *rows;
		uint32		n;
		int			from = level;
		int			most;

		CHECK_FOR_INTERRUPTS();
		if (level > 0 && (at > way->leaves ||
						  (options->nstep_windows > 0 && options->step_windows[level - 1] > 0 &&
						   at - way->last > options->step_windows[level - 1])))
			break;
		end = row_at(events, at + USECS_PER_SEC);
		n = end - begin;
		rows = palloc_extended(sizeof(CdiFunnelEntry) * n, MCXT_ALLOC_HUGE);
		for (uint32 i = 0; i < n; i++)
		{
			rows[i] = events->entries[begin + i];
			if (is_used(events, begin + i))
				rows[i].conditions = 0;
		}
		most = level == 0 ? first_steps : options->nsteps;
		cdi_funnel_match_begin(&match, rows, n);
		while (level < most && cdi_funnel_match_step(&match, level))
			level++;
		for (int step = from; step < level; step++)
			way->rows[step] = begin + match.row_of[step];
		pfree(rows);
		if (level > from)
			way->last = at;
		if (from == 0 ? level < first_steps : level - from < n)
			break;
	}
	return level;
}

static void
go_exactly(const Events *events, uint32 entry, Way *way)
{
	uint32		begin = row_at(events, time_of(events, entry));
	Way			best;

	best.level = 0;
	for (int first_steps = events->options->nsteps; first_steps > 0; first_steps--)
	{
		begin_way(events, way, entry);
		way->level = go_exactly_from(events, begin, first_steps, way);
		if (way->level > best.level)
			best = *way;
	}
	*way = best;
}

static void
find_way(const Events *events, uint32 entry, uint32 until, Way *way)
{
	const CdiFunnelOptions *options = events->options;

	if (options->modes & CDI_FUNNEL_EXACT_ORDER)
		go_exactly(events, entry, way);
	else if (options->dialect == CDI_FUNNEL_AMPLITUDE &&
			 (options->modes & CDI_FUNNEL_ANY_ORDER) == 0 &&
			 (options->nstep_windows > 0 || options->nexclusions > 0))
		go_longest(events, entry, way);
	else
		go(events, entry, until, way);
}

/* What the caller gets of a way: its steps in order of time. */
static void
path_of_way(const Events *events, const Way *way, CdiFunnelPath *path)
{
	int			n = 0;

	path->level = way->level;
	path->excluded = way->excluded_by != NOWHERE;
	path->excluded_at = path->excluded ? events->entries[way->excluded_by].at : 0;
	path->hold = way->level > 0 ? events->entries[0].hold : 0;
	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != NOWHERE)
			path->steps[n++] = step;
	if (events->nblocks < events->options->nsteps)
	{
		/* any order: by block, then by row */
		int			from = 0;

		for (int block = 0; block < events->nblocks; block++)
		{
			int			to = from;

			while (to < n && (events->blocks[block] & (UINT32_C(1) << path->steps[to])))
				to++;
			for (int i = from + 1; i < to; i++)
				for (int k = i; k > from && way->rows[path->steps[k]] < way->rows[path->steps[k - 1]]; k--)
				{
					uint8		step = path->steps[k];

					path->steps[k] = path->steps[k - 1];
					path->steps[k - 1] = step;
				}
			from = to;
		}
	}
	for (int i = 0; i < n; i++)
	{
		path->at[i] = events->entries[way->rows[path->steps[i]]].at;
		if (i > 0 && path->at[i] < path->at[i - 1])
			path->at[i] = path->at[i - 1];
	}
}

static uint32
next_entry(const Events *events, uint32 from)
{
	uint32		row = next_meeting(events, events->blocks[0], from);

	while (row != NOWHERE && is_used(events, row))
		row = next_meeting(events, events->blocks[0], row + 1);
	return row;
}

/* The last of the rows that a way took. */
static uint32
last_row(const Events *events, const Way *way)
{
	uint32		last = 0;

	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != NOWHERE)
			last = Max(last, way->rows[step]);
	return last;
}

/*
 * Of all entries from there on the best: the most steps, these reached first,
 * from the latest entry.  NOWHERE: there is no entry.
 */
static uint32
best_entry(const Events *events, uint32 from, Way *best)
{
	uint32		found = NOWHERE;

	for (uint32 entry = next_entry(events, from); entry != NOWHERE; entry = next_entry(events, entry + 1))
	{
		Way			way;

		if (found != NOWHERE && best->level == events->options->nsteps && time_of(events, entry) > best->last)
			break;
		find_way(events, entry, NOWHERE, &way);
		if (found == NOWHERE || way.level > best->level ||
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
longest_way(const Events *events, Way *best)
{
	bool		found = false;

	for (uint32 entry = next_entry(events, 0); entry != NOWHERE; entry = next_entry(events, entry + 1))
	{
		Way			way;

		find_way(events, entry, NOWHERE, &way);
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
		Events		events;
		Way			way;
		bool		found;

		end = end_of_value(entries, count, begin);
		begin_events(&events, options, entries + begin, end - begin);
		if (options->dialect == CDI_FUNNEL_AMPLITUDE)
			found = longest_way(&events, &way);
		else if (options->modes & CDI_FUNNEL_OPTIMIZED_REENTRY)
			found = best_entry(&events, 0, &way) != NOWHERE;
		else
		{
			uint32		entry = next_entry(&events, 0);

			found = entry != NOWHERE;
			if (found)
				find_way(&events, entry, NOWHERE, &way);
		}
		if (found)
		{
			CdiFunnelPath one;

			path_of_way(&events, &way, &one);
			if (is_better(options, &one, path))
				*path = one;
		}
		end_events(&events);
	}
}

/* Totals */

static void
record(Events *events, const Way *way, CdiFunnelPaths *paths)
{
	CdiFunnelPath path;

	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != NOWHERE)
			events->used[way->rows[step]] = true;
	path_of_way(events, way, &path);
	cdi_funnel_add_path(paths, &path);
}

/* Mixpanel: who has left may enter again. */
static void
all_after_leaving(Events *events, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, 0);

	while (entry != NOWHERE)
	{
		uint32		from;
		Way			way;

		find_way(events, entry, NOWHERE, &way);
		record(events, &way, paths);
		if (way.level == events->options->nsteps)
			from = last_row(events, &way) + 1;
		else if (way.excluded_by != NOWHERE)
			from = way.excluded_by + 1;
		else
			from = row_at(events, way.leaves + 1);
		entry = next_entry(events, Max(from, entry + 1));
	}
}

/* Entries between two rows, each ending where the next begins. */
static void
superseded(Events *events, uint32 from, uint32 to, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, from);

	while (entry < to)
	{
		uint32		next = next_entry(events, entry + 1);
		Way			way;

		find_way(events, entry, Min(next, to), &way);
		record(events, &way, paths);
		entry = next_entry(events, entry + 1);
	}
}

/* Mixpanel's optimized re-entry: what converts first, then what is left. */
static void
all_optimized(Events *events, CdiFunnelPaths *paths)
{
	uint32		from = 0;
	Way			way;

	for (;;)
	{
		uint32		entry = best_entry(events, from, &way);

		if (entry == NOWHERE || way.level < events->options->nsteps)
			break;
		for (int step = 0; step < events->options->nsteps; step++)
			events->used[way.rows[step]] = true;
		superseded(events, from, entry, paths);
		record(events, &way, paths);
		from = last_row(events, &way) + 1;
	}
	superseded(events, from, NOWHERE, paths);
}

/* Amplitude: every event of the first step that no path has used enters. */
static void
all_unused(Events *events, CdiFunnelPaths *paths)
{
	uint32		entry = next_entry(events, 0);

	while (entry != NOWHERE)
	{
		Way			way;

		find_way(events, entry, NOWHERE, &way);
		record(events, &way, paths);
		/* Another row of its second may have been taken instead of it. */
		entry = next_entry(events, is_used(events, entry) ? entry + 1 : entry);
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
		Events		events;

		end = end_of_value(entries, count, begin);
		begin_events(&events, options, entries + begin, end - begin);
		events.used = palloc_extended(end - begin, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		if (options->dialect == CDI_FUNNEL_AMPLITUDE)
			all_unused(&events, paths);
		else if (options->modes & CDI_FUNNEL_OPTIMIZED_REENTRY)
			all_optimized(&events, paths);
		else
			all_after_leaving(&events, paths);
		end_events(&events);
	}
	if (several)
		qsort(paths->paths, paths->count, sizeof(CdiFunnelPath), compare_paths);
}
