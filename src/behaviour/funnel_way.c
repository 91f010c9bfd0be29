/*
 * funnel_way.c
 *		The way from an entry into a funnel whose window begins there.
 *
 * A way takes for each step the first event that fits and that no path has
 * used: "for every subsequent step, we pick the first instance" (Mixpanel).  An
 * event fills one step of one path.
 *
 * Steps form blocks that are done one after the other.  In order, each step is
 * a block; in any order, those between two anchored steps are one, and within a
 * block events are matched to steps as they come.
 */
#include "behaviour/funnel_way.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#define MIXPANEL_GRACE		(2 * USECS_PER_SEC)
#define INDEX_FROM			64	/* entries that are worth an index */

uint32
cdi_funnel_row_at(const CdiFunnelEvents *events, TimestampTz at)
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

/* Of the rows that meet the condition, the number of the first from there on */
static uint32
first_place(const CdiFunnelEvents *events, int condition, uint32 from)
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
	return low;
}

static uint32
row_of_place(const CdiFunnelEvents *events, int condition, uint32 place)
{
	return place < events->nplaces[condition] ? events->places[condition][place] : CDI_FUNNEL_NOWHERE;
}

uint32
cdi_funnel_next_meeting(const CdiFunnelEvents *events, uint32 conditions, uint32 from)
{
	uint32		first = CDI_FUNNEL_NOWHERE;

	if (events->places[0] == NULL)
	{
		for (uint32 row = from; row < events->count; row++)
			if (events->entries[row].conditions & conditions)
				return row;
		return CDI_FUNNEL_NOWHERE;
	}
	for (int condition = 0; (uint64) conditions >> condition != 0; condition++)
		if (conditions & (UINT32_C(1) << condition))
			first = Min(first, row_of_place(events, condition, first_place(events, condition, from)));
	return first;
}

/*
 * The first place from there on that no path has used.  The places on the way
 * lead there directly the next time, or many paths would walk over the same
 * used rows again and again.
 */
static uint32
free_place(const CdiFunnelEvents *events, int condition, uint32 place)
{
	uint32	   *jumps = events->jumps[condition];
	uint32		found = place;

	while (found < events->nplaces[condition] && events->used[events->places[condition][found]])
		found = jumps[found];
	while (place < found)
	{
		uint32		next = jumps[place];

		jumps[place] = found;
		place = next;
	}
	return found;
}

uint32
cdi_funnel_next_free(const CdiFunnelEvents *events, uint32 conditions, uint32 from)
{
	uint32		first = CDI_FUNNEL_NOWHERE;

	if (events->used == NULL)
		return cdi_funnel_next_meeting(events, conditions, from);
	if (events->places[0] == NULL)
	{
		for (uint32 row = from; row < events->count; row++)
			if ((events->entries[row].conditions & conditions) && !events->used[row])
				return row;
		return CDI_FUNNEL_NOWHERE;
	}
	for (int condition = 0; (uint64) conditions >> condition != 0; condition++)
		if (conditions & (UINT32_C(1) << condition))
			first = Min(first, row_of_place(events, condition, free_place(events, condition, first_place(events, condition, from))));
	return first;
}

void
cdi_funnel_begin_use(CdiFunnelEvents *events)
{
	uint32	   *jumps;
	uint64		total = 0;

	events->used = palloc_extended(events->count, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	if (events->places[0] == NULL)
		return;
	for (int c = 0; c < events->options->nsteps; c++)
		total += events->nplaces[c];
	jumps = palloc_extended(sizeof(uint32) * Max(total, 1), MCXT_ALLOC_HUGE);
	for (int c = 0; c < events->options->nsteps; c++)
	{
		events->jumps[c] = jumps;
		for (uint32 place = 0; place < events->nplaces[c]; place++)
			jumps[place] = place + 1;
		jumps += events->nplaces[c];
	}
}

static void
index_events(CdiFunnelEvents *events)
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

void
cdi_funnel_begin_events(CdiFunnelEvents *events, const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count)
{
	uint32		anchors = options->modes & CDI_FUNNEL_ANY_ORDER ? options->anchors : PG_UINT32_MAX;
	bool		anchored = true;

	events->options = options;
	events->entries = entries;
	events->count = count;
	events->by_second = options->dialect == CDI_FUNNEL_AMPLITUDE;
	events->grace = options->dialect == CDI_FUNNEL_MIXPANEL ? MIXPANEL_GRACE : 0;
	events->used = NULL;
	events->jumps[0] = NULL;
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

void
cdi_funnel_end_events(CdiFunnelEvents *events)
{
	if (events->places[0])
		pfree(events->places[0]);
	if (events->used)
		pfree(events->used);
	if (events->jumps[0])
		pfree(events->jumps[0]);
}

static bool
is_of_way(const CdiFunnelEvents *events, const CdiFunnelWay *way, uint32 row)
{
	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] == row)
			return true;
	return false;
}

/*
 * The event that ends a path of this level between two times, both left out
 * with the grace around them, or CDI_FUNNEL_NOWHERE.
 */
static uint32
find_exclusion(const CdiFunnelEvents *events, const CdiFunnelWay *way, int level, TimestampTz after, TimestampTz before)
{
	const CdiFunnelOptions *options = events->options;
	const CdiFunnelExclusion *exclusions = cdi_funnel_exclusions(options);
	uint32		conditions = 0;
	uint32		row;

	for (int i = 0; i < options->nexclusions; i++)
		if (exclusions[i].after <= level && level < exclusions[i].before)
			conditions |= UINT32_C(1) << (options->nsteps + i);
	if (conditions == 0)
		return CDI_FUNNEL_NOWHERE;
	row = cdi_funnel_row_at(events, after);
	while ((row = cdi_funnel_next_meeting(events, conditions, row)) != CDI_FUNNEL_NOWHERE)
	{
		if (cdi_funnel_time_of(events, row) >= before)
			return CDI_FUNNEL_NOWHERE;
		if (cdi_funnel_time_of(events, row) > after && !is_of_way(events, way, row))
			return row;
		row++;
	}
	return CDI_FUNNEL_NOWHERE;
}

/*
 * Rows of the way's last second may have been given to steps that another row
 * could fill as well.  Give the step one, moving others of that second.
 */
static bool
rearrange_second(const CdiFunnelEvents *events, CdiFunnelWay *way, int step)
{
	uint32		begin = cdi_funnel_row_at(events, way->last);
	uint32		end = cdi_funnel_row_at(events, way->last + USECS_PER_SEC);
	uint32		n = end - begin;
	CdiFunnelEntry *rows;
	CdiFunnelMatch match;
	int			from = step;
	bool		found = true;

	if (n < 2 || cdi_funnel_next_meeting(events, UINT32_C(1) << step, begin) >= end)
		return false;
	while (from > 0 && way->rows[from - 1] >= begin && way->rows[from - 1] < end)
		from--;
	rows = palloc_extended(sizeof(CdiFunnelEntry) * n, MCXT_ALLOC_HUGE);
	for (uint32 i = 0; i < n; i++)
	{
		rows[i] = events->entries[begin + i];
		if (cdi_funnel_is_used(events, begin + i))
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
place_row(const CdiFunnelEvents *events, CdiFunnelWay *way, uint32 block, uint32 row, uint32 *seen)
{
	uint32		fits = events->entries[row].conditions & block & ~*seen;

	for (int step = 0; (uint64) fits >> step != 0; step++)
		if ((fits & (UINT32_C(1) << step)) && way->rows[step] == CDI_FUNNEL_NOWHERE)
		{
			way->rows[step] = row;
			return true;
		}
	for (int step = 0; (uint64) fits >> step != 0; step++)
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
open_steps(const CdiFunnelEvents *events, const CdiFunnelWay *way, uint32 block)
{
	uint32		open = 0;
	uint32		before;

	for (int step = 0; (uint64) block >> step != 0; step++)
		if ((block & (UINT32_C(1) << step)) && way->rows[step] == CDI_FUNNEL_NOWHERE)
			open |= UINT32_C(1) << step;
	do
	{
		before = open;
		for (int step = 0; (uint64) block >> step != 0; step++)
			if ((block & (UINT32_C(1) << step)) && way->rows[step] != CDI_FUNNEL_NOWHERE &&
				(events->entries[way->rows[step]].conditions & open))
				open |= UINT32_C(1) << step;
	} while (open != before);
	return open;
}

/* The end of a window, unless time ends before it. */
static TimestampTz
window_end_of(TimestampTz begun, int64 window)
{
	return begun > END_TIMESTAMP - window ? END_TIMESTAMP : begun + window;
}

/* Begin a way that has not gone anywhere. */
static void
begin_way(const CdiFunnelEvents *events, CdiFunnelWay *way, uint32 entry)
{
	way->level = 0;
	way->excluded_by = CDI_FUNNEL_NOWHERE;
	for (int step = 0; step < events->options->nsteps; step++)
		way->rows[step] = CDI_FUNNEL_NOWHERE;
	way->first = way->last = cdi_funnel_time_of(events, entry);
	way->leaves = window_end_of(way->first, events->options->window);
}

/*
 * The way from an entry: the first event that fits, step by step.  Rows from
 * until on are not taken.
 */
static void
go(const CdiFunnelEvents *events, uint32 entry, uint32 until, CdiFunnelWay *way)
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
	cursor = cdi_funnel_row_at(events, way->first);
	while (way->level < options->nsteps)
	{
		uint32		open = open_steps(events, way, events->blocks[block]);
		uint32		row;
		uint32		exclusion;
		TimestampTz end = window_end;

		if (open == 0)
		{
			block++;
			cursor = cdi_funnel_row_at(events, way->last - events->grace);
			continue;
		}
		if (options->nstep_windows > 0 && options->step_windows[way->level - 1] > 0)
			end = Min(end, window_end_of(way->last, options->step_windows[way->level - 1]));

		row = cdi_funnel_next_free(events, open, cursor);
		while (row != CDI_FUNNEL_NOWHERE && is_of_way(events, way, row))
			row = cdi_funnel_next_free(events, open, row + 1);
		if (row != CDI_FUNNEL_NOWHERE && (row >= until || cdi_funnel_time_of(events, row) > end))
			row = CDI_FUNNEL_NOWHERE;

		if (events->by_second && (options->modes & CDI_FUNNEL_ANY_ORDER) == 0 &&
			(row == CDI_FUNNEL_NOWHERE || cdi_funnel_time_of(events, row) > way->last) &&
			rearrange_second(events, way, way->level))
		{
			way->level++;
			continue;
		}
		exclusion = find_exclusion(events, way, way->level, way->last + events->grace,
								   row == CDI_FUNNEL_NOWHERE ? end + 1 : cdi_funnel_time_of(events, row) - events->grace);
		if (exclusion != CDI_FUNNEL_NOWHERE && exclusion < until)
		{
			way->excluded_by = exclusion;
			return;
		}
		if (row == CDI_FUNNEL_NOWHERE)
		{
			way->leaves = end;
			return;
		}
		seen = 0;
		if (!place_row(events, way, events->blocks[block], row, &seen))
			elog(ERROR, "event of a funnel fits no open step");
		way->level++;
		way->last = Max(way->last, cdi_funnel_time_of(events, row));
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
go_longest(const CdiFunnelEvents *events, uint32 entry, CdiFunnelWay *way)
{
	const CdiFunnelOptions *options = events->options;
	Reached    *layers[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		sizes[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		begin;
	uint32		end;
	int			level = 1;
	uint32		place = 0;

	begin_way(events, way, entry);
	begin = cdi_funnel_row_at(events, way->first);
	end = cdi_funnel_row_at(events, way->leaves + USECS_PER_SEC);
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
		for (uint32 row = cdi_funnel_next_meeting(events, UINT32_C(1) << level, begin); row < end;
			 row = cdi_funnel_next_meeting(events, UINT32_C(1) << level, row + 1))
		{
			TimestampTz at = cdi_funnel_time_of(events, row);

			CHECK_FOR_INTERRUPTS();
			while (after < sizes[level - 1] && cdi_funnel_time_of(events, previous[after].row) <= at)
				after++;
			if (cdi_funnel_is_used(events, row))
				continue;
			for (uint32 from = after; from > 0; from--)
			{
				TimestampTz before = cdi_funnel_time_of(events, previous[from - 1].row);

				if ((longest > 0 && at - before > longest) ||
					find_exclusion(events, way, level, before, at) != CDI_FUNNEL_NOWHERE)
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
	way->last = cdi_funnel_time_of(events, way->rows[level - 1]);
	for (int step = 0; step < level; step++)
		pfree(layers[step]);
	if (level < options->nsteps)
	{
		if (options->nstep_windows > 0 && options->step_windows[level - 1] > 0)
			way->leaves = Min(way->leaves, window_end_of(way->last, options->step_windows[level - 1]));
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
go_exactly_from(const CdiFunnelEvents *events, uint32 begin, int first_steps, CdiFunnelWay *way)
{
	const CdiFunnelOptions *options = events->options;
	int			level = 0;
	uint32		end;

	for (; level < options->nsteps && begin < events->count; begin = end)
	{
		TimestampTz at = cdi_funnel_time_of(events, begin);
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
		end = cdi_funnel_row_at(events, at + USECS_PER_SEC);
		n = end - begin;
		rows = palloc_extended(sizeof(CdiFunnelEntry) * n, MCXT_ALLOC_HUGE);
		for (uint32 i = 0; i < n; i++)
		{
			rows[i] = events->entries[begin + i];
			if (cdi_funnel_is_used(events, begin + i))
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
go_exactly(const CdiFunnelEvents *events, uint32 entry, CdiFunnelWay *way)
{
	uint32		begin = cdi_funnel_row_at(events, cdi_funnel_time_of(events, entry));
	CdiFunnelWay			best;

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

void
cdi_funnel_find_way(const CdiFunnelEvents *events, uint32 entry, uint32 until, CdiFunnelWay *way)
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

void
cdi_funnel_path_of_way(const CdiFunnelEvents *events, const CdiFunnelWay *way, CdiFunnelPath *path)
{
	int			n = 0;

	path->level = way->level;
	path->excluded = way->excluded_by != CDI_FUNNEL_NOWHERE;
	path->excluded_at = path->excluded ? events->entries[way->excluded_by].at : 0;
	path->hold = way->level > 0 ? events->entries[0].hold : 0;
	for (int step = 0; step < events->options->nsteps; step++)
		if (way->rows[step] != CDI_FUNNEL_NOWHERE)
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
