/*
 * markov_chain.c
 *		The chain that paths describe: states, transitions and ends.
 *
 * A state of order k is the last k touches.  A path of n > k touches goes
 * through the n - k + 1 windows of k touches; a shorter one is a state of its
 * own (so does ChannelAttribution, whose removal effects are the same).
 */
#include "attribution/markov.h"

#include <math.h>

#include "miscadmin.h"

/* Windows and transitions are counted as if they were paths. */
typedef struct Counting
{
	CdiPaths   *states;
	CdiPaths   *transitions;	/* of pairs of states, start being -1 */
} Counting;

/* Returns the state in which the path ends. */
static int32
count_path(const Counting *counting, const CdiPath *path, int order)
{
	double		weight = path->conversions + path->nulls;
	int			width = Min(order, path->length);
	int32		pair[2] = {-1, -1};

	for (int i = 0; i + width <= path->length; i++)
	{
		CHECK_FOR_INTERRUPTS();
		pair[1] = cdi_paths_entry(counting->states, path->touches + i, width);
		cdi_paths_count(counting->transitions, cdi_paths_entry(counting->transitions, pair, 2), weight, 0, 0);
		pair[0] = pair[1];
	}
	return pair[1];
}

static int
compare_transitions(const void *a, const void *b)
{
	const CdiTransition *left = a;
	const CdiTransition *right = b;

	if (left->from != right->from)
		return left->from < right->from ? -1 : 1;
	return left->to < right->to ? -1 : left->to > right->to;
}

static void
take_transitions(CdiMarkovChain *chain, const CdiPaths *counted)
{
	int			n = 0;

	chain->visits = palloc_extended(sizeof(double) * (chain->nstates + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	chain->stays = palloc_extended(sizeof(double) * (chain->nstates + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	chain->first = palloc_extended(sizeof(int64) * (chain->nstates + 2), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	chain->transitions = palloc_extended(sizeof(CdiTransition) * Max(counted->npaths, 1), MCXT_ALLOC_HUGE);
	for (int t = 0; t < counted->npaths; t++)
	{
		const CdiPath *pair = &counted->paths[t];
		CdiTransition *transition = &chain->transitions[n];

		transition->from = pair->touches[0] < 0 ? chain->nstates : pair->touches[0];
		transition->to = pair->touches[1];
		transition->count = pair->conversions;
		if (transition->from == transition->to)
			chain->stays[transition->from] = transition->count;
		else
			n++;
	}
	qsort(chain->transitions, n, sizeof(CdiTransition), compare_transitions);
	for (int t = 0; t < n; t++)
	{
		chain->first[chain->transitions[t].from + 1]++;
		chain->visits[chain->transitions[t].from] += chain->transitions[t].count;
	}
	for (int s = 0; s <= chain->nstates; s++)
		chain->first[s + 1] += chain->first[s];
}

/* last: by path, the state it ends in, or -1 */
static void
take_ends(CdiMarkovChain *chain, const int32 *last)
{
	chain->ends = palloc_extended(sizeof(double) * (chain->nstates + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int r = 0; r < CDI_REWARDS; r++)
		chain->rewards[r] = palloc_extended(sizeof(double) * Max(chain->nstates, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int p = 0; p < chain->paths->npaths; p++)
	{
		const CdiPath *path = &chain->paths->paths[p];
		CdiReward	sign = path->value > 0 ? CDI_REWARD_GAIN : CDI_REWARD_LOSS;

		if (last[p] < 0)
			continue;
		chain->ends[last[p]] += path->conversions + path->nulls;
		chain->rewards[CDI_REWARD_CONVERSIONS][last[p]] += path->conversions;
		chain->rewards[sign][last[p]] += fabs(path->value);
		chain->totals[CDI_REWARD_CONVERSIONS] += path->conversions;
		chain->totals[sign] += fabs(path->value);
	}
	for (int s = 0; s < chain->nstates; s++)
		chain->visits[s] += chain->ends[s];
}

/* States by the labels that they contain, each once. */
static void
take_members(CdiMarkovChain *chain)
{
	int			nlabels = chain->paths->nlabels;
	int		   *seen = palloc_extended(sizeof(int) * Max(nlabels, 1), MCXT_ALLOC_HUGE);
	int		   *next;

	chain->first_member = palloc_extended(sizeof(int) * (nlabels + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	next = palloc_extended(sizeof(int) * Max(nlabels, 1), MCXT_ALLOC_HUGE);
	for (int pass = 0; pass < 2; pass++)
	{
		for (int i = 0; i < nlabels; i++)
			seen[i] = -1;
		for (int s = 0; s < chain->nstates; s++)
			for (int i = 0; i < chain->states[s].length; i++)
			{
				int32		label = chain->states[s].touches[i];

				if (seen[label] == s)
					continue;
				seen[label] = s;
				if (pass == 0)
					chain->first_member[label + 1]++;
				else
					chain->members[next[label]++] = s;
			}
		if (pass == 1)
			break;
		for (int i = 0; i < nlabels; i++)
		{
			chain->first_member[i + 1] += chain->first_member[i];
			next[i] = chain->first_member[i];
		}
		chain->members = palloc_extended(sizeof(int32) * Max(chain->first_member[nlabels], 1), MCXT_ALLOC_HUGE);
	}
}

CdiMarkovChain *
cdi_markov_chain(const CdiPaths *paths, int order)
{
	CdiMarkovChain *chain = palloc0(sizeof(CdiMarkovChain));
	Counting	counting = {cdi_paths_create(CurrentMemoryContext), cdi_paths_create(CurrentMemoryContext)};
	int32	   *last = palloc_extended(sizeof(int32) * Max(paths->npaths, 1), MCXT_ALLOC_HUGE);

	for (int p = 0; p < paths->npaths; p++)
	{
		const CdiPath *path = &paths->paths[p];

		if (path->value != 0 && path->conversions == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a path has a value of %g without a conversion", path->value),
					 errhint("Give the row the conversions that the value is of, or leave it out with FILTER (WHERE conversions > 0).")));
		last[p] = path->length > 0 && path->conversions + path->nulls > 0 ?
			count_path(&counting, path, order) : -1;
	}

	chain->paths = paths;
	chain->nstates = counting.states->npaths;
	chain->states = counting.states->paths;
	take_transitions(chain, counting.transitions);
	take_ends(chain, last);
	take_members(chain);
	pfree(last);
	return chain;
}
