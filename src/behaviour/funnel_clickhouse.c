/*
 * funnel_clickhouse.c
 *		ClickHouse's windowFunnel().
 *
 * Each step keeps the chain that reached it last: of all that did, its first
 * step is the latest, so it has the most of the window left.  Step 1 always
 * begins anew.  Rows of one instant are taken together, the conditions in order
 * of the steps, which is how ClickHouse sorts them.
 *
 * It differs from ClickHouse (0215c755) where that loses chains or depends on
 * the order in which rows arrive:
 *
 *	- strict_increase: a chain that another of the same instant replaces has
 *	  still happened, so steps look at what was there before the instant.
 *	- strict_once: whether steps of one instant can have rows of their own is a
 *	  matching and not a list of all chains, which would grow exponentially;
 *	  with strict_deduplication, rows of one instant are taken in order of the
 *	  conditions they meet.
 */
#include "behaviour/funnel.h"

#include "miscadmin.h"

typedef struct Chain
{
	bool		reached;
	TimestampTz at[CDI_FUNNEL_MAX_CONDITIONS];	/* of steps up to this one */
} Chain;

typedef struct Walk
{
	const CdiFunnelOptions *options;
	bool		once;
	bool		increase;
	Chain		chains[CDI_FUNNEL_MAX_CONDITIONS];
	/* What was there before the instant, where that differs */
	Chain		before[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		touched;		/* steps of chains[] that this instant changed */
} Walk;

static int
highest(const Walk *walk)
{
	for (int step = walk->options->nsteps; step > 0; step--)
		if (walk->chains[step - 1].reached)
			return step;
	return 0;
}

static int
first_missing(const Walk *walk)
{
	int			step = 0;

	while (step < walk->options->nsteps && walk->chains[step].reached)
		step++;
	return step;
}

/* The chain that reached the step before this instant. */
static const Chain *
chain_before(const Walk *walk, int step)
{
	return walk->touched & (UINT32_C(1) << step) ? &walk->before[step] : &walk->chains[step];
}

/* Let chain, extended by steps from..step at this instant, be the step's. */
static void
set_chain(Walk *walk, int step, const Chain *chain, int from, TimestampTz at)
{
	Chain		extended;

	if (from > 0)
		memcpy(extended.at, chain->at, sizeof(TimestampTz) * from);
	for (int i = from; i <= step; i++)
		extended.at[i] = at;
	if ((walk->once || walk->increase) && (walk->touched & (UINT32_C(1) << step)) == 0)
	{
		walk->before[step].reached = walk->chains[step].reached;
		memcpy(walk->before[step].at, walk->chains[step].at, sizeof(TimestampTz) * (step + 1));
		walk->touched |= UINT32_C(1) << step;
	}
	walk->chains[step].reached = true;
	memcpy(walk->chains[step].at, extended.at, sizeof(TimestampTz) * (step + 1));
}

static bool
in_window(const Walk *walk, const Chain *chain, TimestampTz at)
{
	return at - chain->at[0] <= walk->options->window;
}

/*
 * Step by rows of their own: steps from..step must be filled at this instant,
 * on a chain that reached step from - 1 before it.  The later such a chain
 * began the better; the shortest way back has the latest.
 */
static bool
reach_once(Walk *walk, int step, const CdiFunnelEntry *rows, uint32 nrows, uint32 nrows_of_step)
{
	CdiFunnelMatch match;
	int			found = -1;
	TimestampTz found_first = 0;
	TimestampTz at = rows[0].at;

	/* Only the first rows that meet the step: of the others, hide it. */
	CdiFunnelEntry *visible = NULL;

	if (nrows_of_step > 0)
	{
		uint32		seen = 0;

		visible = palloc_extended(sizeof(CdiFunnelEntry) * nrows, MCXT_ALLOC_HUGE);
		for (uint32 i = 0; i < nrows; i++)
		{
			visible[i] = rows[i];
			if ((rows[i].conditions & (UINT32_C(1) << step)) && ++seen > nrows_of_step)
				visible[i].conditions &= ~(UINT32_C(1) << step);
		}
	}
	cdi_funnel_match_begin(&match, visible ? visible : rows, nrows);
	for (int from = step; from >= 0; from--)
	{
		if (!cdi_funnel_match_step(&match, from))
			break;
		if (from == 0)
		{
			/* a chain that begins now has the whole window */
			found = 0;
		}
		else
		{
			const Chain *chain = chain_before(walk, from - 1);

			if (chain->reached && in_window(walk, chain, at) &&
				(found < 0 || chain->at[0] > found_first))
			{
				found = from;
				found_first = chain->at[0];
			}
		}
	}
	if (visible)
		pfree(visible);
	if (found < 0)
		return false;
	set_chain(walk, step, found > 0 ? chain_before(walk, found - 1) : NULL, found, at);
	return true;
}

static bool
reach(Walk *walk, int step, const CdiFunnelEntry *rows, uint32 nrows)
{
	const Chain *previous;

	if (walk->once && !walk->increase)
		return reach_once(walk, step, rows, nrows, 0);
	previous = walk->increase ? chain_before(walk, step - 1) : &walk->chains[step - 1];
	if (!previous->reached || !in_window(walk, previous, rows[0].at))
		return false;
	set_chain(walk, step, previous, step, rows[0].at);
	return true;
}

/*
 * The rows of one instant.  True where the answer is known: *level.
 */
static bool
take_instant(Walk *walk, const CdiFunnelEntry *rows, uint32 nrows, int *level)
{
	uint32		modes = walk->options->modes;
	int			nsteps = walk->options->nsteps;
	uint32		met = 0;

	walk->touched = 0;
	for (uint32 i = 0; i < nrows; i++)
		met |= rows[i].conditions;

	/* Rows that meet nothing come first. */
	if ((modes & CDI_FUNNEL_STRICT_ORDER) && rows[0].conditions == 0 && walk->chains[0].reached)
	{
		*level = highest(walk);
		return true;
	}
	for (int step = 0; step < nsteps; step++)
	{
		uint32		bit = UINT32_C(1) << step;
		uint32		nrows_of_step = 0;

		if ((met & bit) == 0)
			continue;
		if (step == 0)
		{
			set_chain(walk, 0, NULL, 0, rows[0].at);
			continue;
		}
		if ((modes & CDI_FUNNEL_STRICT_DEDUPLICATION) && walk->chains[step].reached)
		{
			*level = highest(walk);
			return true;
		}
		if ((modes & CDI_FUNNEL_STRICT_ORDER) && walk->chains[0].reached && !walk->chains[step - 1].reached)
		{
			if (modes & CDI_FUNNEL_ALLOW_REENTRY)
				continue;
			*level = first_missing(walk);
			return true;
		}
		if (!reach(walk, step, rows, nrows))
			continue;
		if (step == nsteps - 1)
		{
			*level = nsteps;
			return true;
		}
		if ((modes & CDI_FUNNEL_STRICT_DEDUPLICATION) == 0)
			continue;

		/* Would a row of this instant come after the one that reached it? */
		for (uint32 i = 0; i < nrows; i++)
			nrows_of_step += (rows[i].conditions & bit) != 0;
		if (nrows_of_step > 1 &&
			(!walk->once || walk->increase || reach_once(walk, step, rows, nrows, nrows_of_step - 1)))
		{
			*level = highest(walk);
			return true;
		}
	}
	return false;
}

void
cdi_funnel_clickhouse(const CdiFunnelOptions *options, const CdiFunnelEntry *entries,
					  uint32 count, CdiFunnelPath *path)
{
	Walk		walk;
	uint32		end;
	int			level = -1;
	int			best = 0;

	walk.options = options;
	walk.once = (options->modes & CDI_FUNNEL_STRICT_ONCE) != 0;
	walk.increase = (options->modes & CDI_FUNNEL_STRICT_INCREASE) != 0;
	for (int step = 0; step < options->nsteps; step++)
		walk.chains[step].reached = false;
	path->level = 0;
	path->excluded = false;
	path->hold = 0;

	for (uint32 begin = 0; begin < count && level < 0; begin = end)
	{
		int			now;

		CHECK_FOR_INTERRUPTS();
		for (end = begin + 1; end < count && entries[end].at == entries[begin].at;)
			end++;
		if (!take_instant(&walk, &entries[begin], end - begin, &level))
			level = -1;

		/* The path is that which was the first to get this far. */
		now = highest(&walk);
		if (now > best)
		{
			best = now;
			memcpy(path->at, walk.chains[now - 1].at, sizeof(TimestampTz) * now);
		}
	}
	path->level = level >= 0 ? level : best;
	for (int step = 0; step < path->level; step++)
		path->steps[step] = step;
}
