/*
 * markov_simulate.c
 *		Removal effects by random walks: a check of the exact ones.
 *
 * Walks go through the chain until they end.  What is lost without a label is
 * what those earn that pass through one of its states, so one set of walks
 * serves all labels.  An end pays its mean, not what a further draw would say.
 *
 * Errors are those of a ratio of two means (Cochran, Sampling Techniques, 1977,
 * chapter 6): of share = label / sum of labels the variance over n walks is
 * that of (label - share * sum) / mean of sum, over n.
 */
#include "attribution/markov.h"

#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"

/* Products of what a walk earns, by which the errors go; the last is that of gain and loss. */
#define PRODUCTS	4
static const CdiReward factors[PRODUCTS][2] = {
	{CDI_REWARD_CONVERSIONS, CDI_REWARD_CONVERSIONS},
	{CDI_REWARD_GAIN, CDI_REWARD_GAIN},
	{CDI_REWARD_LOSS, CDI_REWARD_LOSS},
	{CDI_REWARD_GAIN, CDI_REWARD_LOSS}
};

/* Over walks that pass through a label; of all walks, with a walk's number of labels as weight */
typedef struct Sums
{
	double		earned[CDI_REWARDS];
	double		products[PRODUCTS];
	double		weighted[PRODUCTS]; /* products times the walk's number of labels */
} Sums;

typedef struct Walker
{
	const CdiMarkovChain *chain;
	double	   *reach;			/* by transition: counts of its state up to it */
	pg_prng_state prng;
	Sums	   *sums;			/* by label */
	int64	   *seen;			/* by label: the last walk that passed */
	int32	   *labels;			/* of the walk */
	int			nlabels;
} Walker;

static void
see_labels(Walker *self, int32 state, int64 walk)
{
	const CdiPath *touches = &self->chain->states[state];

	for (int i = 0; i < touches->length; i++)
		if (self->seen[touches->touches[i]] != walk)
		{
			self->seen[touches->touches[i]] = walk;
			self->labels[self->nlabels++] = touches->touches[i];
		}
}

/* Returns the state in which a walk ends. */
static int32
walk_once(Walker *self, int64 walk)
{
	const CdiMarkovChain *chain = self->chain;
	int32		state = chain->nstates;

	self->nlabels = 0;
	for (int64 step = 0;; step++)
	{
		double		at = pg_prng_double(&self->prng) * chain->visits[state];
		int64		low = chain->first[state];
		int64		high = chain->first[state + 1];

		if (step % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		/* the first transition whose counts reach beyond; past the last one the walk ends */
		while (low < high)
		{
			int64		middle = low + (high - low) / 2;

			if (self->reach[middle] <= at)
				low = middle + 1;
			else
				high = middle;
		}
		if (low == chain->first[state + 1])
		{
			/* rounding only: a state that no path ends in goes on */
			if (state < chain->nstates && chain->ends[state] > 0)
				return state;
			low--;
		}
		state = chain->transitions[low].to;
		see_labels(self, state, walk);
	}
}

static void
add_walk(Walker *self, int32 end, Sums *all)
{
	double		earned[CDI_REWARDS];

	for (int r = 0; r < CDI_REWARDS; r++)
	{
		earned[r] = self->chain->rewards[r][end] / self->chain->ends[end];
		all->earned[r] += earned[r];
	}
	for (int p = 0; p < PRODUCTS; p++)
		all->weighted[p] += earned[factors[p][0]] * earned[factors[p][1]] * self->nlabels * (double) self->nlabels;
	for (int i = 0; i < self->nlabels; i++)
	{
		Sums	   *sums = &self->sums[self->labels[i]];

		for (int r = 0; r < CDI_REWARDS; r++)
			sums->earned[r] += earned[r];
		for (int p = 0; p < PRODUCTS; p++)
		{
			double		product = earned[factors[p][0]] * earned[factors[p][1]];

			sums->products[p] += product;
			sums->weighted[p] += product * self->nlabels;
		}
	}
}

/* Variances of a label's credits, in conversions and value */
static void
find_errors(const CdiMarkovChain *chain, const Sums *label, const Sums *all, const double *total,
			CdiMarkovError *error)
{
	double		variances[PRODUCTS];

	for (int p = 0; p < PRODUCTS; p++)
	{
		CdiReward	a = factors[p][0];
		CdiReward	b = factors[p][1];
		double		share_a = total[a] > 0 ? label->earned[a] / total[a] : 0;
		double		share_b = total[b] > 0 ? label->earned[b] / total[b] : 0;

		variances[p] = total[a] > 0 && total[b] > 0 ?
			(label->products[p] - (share_a + share_b) * label->weighted[p] + share_a * share_b * all->weighted[p]) *
			(chain->totals[a] / total[a]) * (chain->totals[b] / total[b]) : 0;
	}
	error->conversions = sqrt(Max(variances[0], 0));
	error->value = sqrt(Max(variances[1] + variances[2] - 2 * variances[3], 0));
}

void
cdi_markov_simulate(const CdiMarkovChain *chain, int walks, int seed, double *lost, CdiMarkovError *errors)
{
	int			nlabels = chain->paths->nlabels;
	Walker		self = {.chain = chain};
	Sums		all = {0};
	double		total[CDI_REWARDS] = {0};

	self.reach = palloc_extended(sizeof(double) * (chain->first[chain->nstates + 1] + 1), MCXT_ALLOC_HUGE);
	self.sums = palloc_extended(sizeof(Sums) * nlabels, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	self.seen = palloc_extended(sizeof(int64) * nlabels, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	self.labels = palloc_extended(sizeof(int32) * nlabels, MCXT_ALLOC_HUGE);
	for (int s = 0; s <= chain->nstates; s++)
	{
		double		reach = 0;

		for (int64 t = chain->first[s]; t < chain->first[s + 1]; t++)
			self.reach[t] = reach += chain->transitions[t].count;
	}
	pg_prng_seed(&self.prng, seed);
	for (int64 walk = 1; walk <= walks; walk++)
		add_walk(&self, walk_once(&self, walk), &all);

	for (int r = 0; r < CDI_REWARDS; r++)
		if (chain->totals[r] > 0 && all.earned[r] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("none of %d simulated walks led to a conversion", walks),
					 errhint("Simulate more walks, or leave the option simulate out for the exact result.")));
	for (int i = 0; i < nlabels; i++)
		for (int r = 0; r < CDI_REWARDS; r++)
			total[r] += self.sums[i].earned[r];
	for (int i = 0; i < nlabels; i++)
	{
		for (int r = 0; r < CDI_REWARDS; r++)
			lost[(int64) i * CDI_REWARDS + r] = chain->totals[r] > 0 ?
				chain->totals[r] * (self.sums[i].earned[r] / all.earned[r]) : 0;
		find_errors(chain, &self.sums[i], &all, total, &errors[i]);
	}
	pfree(self.reach);
	pfree(self.sums);
	pfree(self.seen);
	pfree(self.labels);
}
