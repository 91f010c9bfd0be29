/*
 * markov_solve.c
 *		Removal effects of a Markov chain, exactly.
 *
 * Let h(s) be what a walk in state s will still earn: the chance of a
 * conversion, or the value to be expected.  Of all that the start earns, the
 * part that passes through a label's states is lost when they are removed:
 *
 *		lost = sum over its states of (chance to enter there first) * h(state)
 *
 * so removal is the same linear system as h itself, with the label's states as
 * ends that pay h.  Both are solved by Gauss-Seidel sweeps from zero.  No term
 * is negative, so sweeps only ever raise a figure, in floating point as well,
 * and where a sweep changes no figure by more than a rounding, that is the
 * solution.  Sweeps go against the walks' direction, which makes them few: of
 * a chain without cycles one is enough.
 *
 * Walks that go round for long need many sweeps.  What MAX_SWEEPS do not solve
 * is eliminated instead (markov_eliminate.c), which takes its time however
 * long the walks are.  So is what many labels share: with a thousand channels
 * at order 1 sweeps go over all transitions for each of them, an elimination
 * over all states once.
 */
#include "attribution/markov.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#define MAX_SWEEPS		500
#define FORECAST_SWEEP	16

/*
 * Steps of an elimination of n states for all labels, at most: n^3 / 3 for one
 * half of the labels, and a quarter of that for each further halving.  It takes
 * neighbours together, a sweep jumps, so that its steps take three times as long.
 */
#define ELIMINATION_COST(n)	((double) (n) * (n) * (n) / 8)

/* The chain in the order of sweeps: position 0 is swept first. */
typedef struct Sweep
{
	int			n;
	int32	   *states;			/* by position */
	int32	   *positions;		/* by state */
	int64	   *first;			/* by position, and one beyond */
	int32	   *to;				/* positions */
	double	   *chance;
	double	   *figures;		/* by position: the solution so far */
	bool	   *fixed;			/* by position: not swept */
	int64		nsweeps;		/* of all solutions */
} Sweep;

/*
 * States after those to which they lead, as far as there is no cycle: the order
 * in which a depth-first search from the start leaves them.
 */
static void
order_states(const CdiMarkovChain *chain, Sweep *self)
{
	int64	   *next = palloc_extended(sizeof(int64) * (chain->nstates + 1), MCXT_ALLOC_HUGE);
	int32	   *stack = palloc_extended(sizeof(int32) * (chain->nstates + 1), MCXT_ALLOC_HUGE);
	int			depth = 0;

	memcpy(next, chain->first, sizeof(int64) * (chain->nstates + 1));
	for (int s = 0; s <= chain->nstates; s++)
		self->positions[s] = -1;
	self->n = 0;
	stack[depth++] = chain->nstates;
	while (depth > 0)
	{
		int32		state = stack[depth - 1];

		if (next[state] < chain->first[state + 1])
		{
			int32		to = chain->transitions[next[state]++].to;

			if (self->positions[to] == -1)
			{
				self->positions[to] = -2;
				stack[depth++] = to;
			}
			continue;
		}
		depth--;
		if (state < chain->nstates)
		{
			self->positions[state] = self->n;
			self->states[self->n++] = state;
		}
	}
	Assert(self->n == chain->nstates);
	pfree(next);
	pfree(stack);
}

static Sweep *
make_sweep(const CdiMarkovChain *chain)
{
	Sweep	   *self = palloc0(sizeof(Sweep));
	int			n = chain->nstates + 1;
	int64		at = 0;

	self->states = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	self->positions = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	self->first = palloc_extended(sizeof(int64) * (n + 1), MCXT_ALLOC_HUGE);
	self->to = palloc_extended(sizeof(int32) * chain->first[n], MCXT_ALLOC_HUGE);
	self->chance = palloc_extended(sizeof(double) * chain->first[n], MCXT_ALLOC_HUGE);
	self->figures = palloc_extended(sizeof(double) * n, MCXT_ALLOC_HUGE);
	self->fixed = palloc_extended(sizeof(bool) * n, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	order_states(chain, self);
	self->states[self->n] = chain->nstates;
	for (int p = 0; p <= self->n; p++)
	{
		int32		state = self->states[p];

		self->first[p] = at;
		for (int64 t = chain->first[state]; t < chain->first[state + 1]; t++)
		{
			self->to[at] = self->positions[chain->transitions[t].to];
			self->chance[at++] = chain->transitions[t].count / chain->visits[state];
		}
	}
	self->first[self->n + 1] = at;
	return self;
}

static double
figure(const Sweep *self, int position)
{
	double		sum = 0;

	for (int64 t = self->first[position]; t < self->first[position + 1]; t++)
		sum += self->chance[t] * self->figures[self->to[t]];
	return sum;
}

/* One sweep; returns by how much figures rose, and false in *settled where that is more than rounding. */
static double
sweep_once(Sweep *self, const double *own, bool *settled)
{
	double		rise = 0;

	*settled = true;
	for (int p = 0; p < self->n; p++)
	{
		double		sum;

		if (self->fixed[p])
			continue;
		sum = figure(self, p) + (own == NULL ? 0 : own[p]);
		if (sum > self->figures[p] * (1 + 2 * DBL_EPSILON))
			*settled = false;
		rise += sum - self->figures[p];
		self->figures[p] = sum;
	}
	return rise;
}

/*
 * Solves figures = own + chances * figures where they are not fixed; own may be
 * NULL.  False where that would take too many sweeps, which shows early: each
 * raises the figures by a constant part of what the one before did.
 */
static bool
solve(Sweep *self, const double *own)
{
	double		first_rise = 0;
	double		last_rise = 0;

	for (int sweep = 1; sweep <= MAX_SWEEPS; sweep++)
	{
		bool		settled;
		double		rise = sweep_once(self, own, &settled);

		self->nsweeps++;
		CHECK_FOR_INTERRUPTS();
		if (settled)
			return true;
		if (sweep == 1)
			first_rise = rise;
		if (sweep >= FORECAST_SWEEP &&
			log(rise / (first_rise * DBL_EPSILON)) > log(last_rise / rise) * (MAX_SWEEPS - sweep))
			return false;
		last_rise = rise;
	}
	return false;
}

/* What a walk still earns in each state. */
static void
find_earnings(const CdiMarkovChain *chain, Sweep *sweep, double *const *earnings)
{
	double	   *own = palloc_extended(sizeof(double) * (sweep->n + 1), MCXT_ALLOC_HUGE);

	for (int r = 0; r < CDI_REWARDS; r++)
	{
		for (int p = 0; p < sweep->n; p++)
		{
			own[p] = chain->rewards[r][sweep->states[p]] / chain->visits[sweep->states[p]];
			sweep->figures[p] = 0;
		}
		if (!solve(sweep, own))
		{
			cdi_markov_eliminate_earnings(chain, earnings);
			break;
		}
		for (int p = 0; p < sweep->n; p++)
			earnings[r][sweep->states[p]] = sweep->figures[p];
	}
	pfree(own);
}

/* What is lost without a label, or false. */
static bool
lose_label(const CdiMarkovChain *chain, Sweep *sweep, double *const *earnings, int label, double *lost)
{
	const int32 *members = chain->members + chain->first_member[label];
	int			nmembers = chain->first_member[label + 1] - chain->first_member[label];
	bool		solved = true;

	double		reach = 0;		/* of an only state: how many walks get there */

	for (int m = 0; m < nmembers; m++)
		sweep->fixed[sweep->positions[members[m]]] = true;
	for (int r = 0; r < CDI_REWARDS && solved; r++)
	{
		lost[r] = 0;
		if (chain->totals[r] == 0)
			continue;
		if (nmembers != 1 || reach == 0)
		{
			memset(sweep->figures, 0, sizeof(double) * sweep->n);
			for (int m = 0; m < nmembers; m++)
				sweep->figures[sweep->positions[members[m]]] = nmembers != 1 ? earnings[r][members[m]] : 1;
			solved = solve(sweep, NULL);
			reach = chain->visits[chain->nstates] * figure(sweep, sweep->n);
		}
		lost[r] = nmembers != 1 ? reach : reach * earnings[r][members[0]];
	}
	for (int m = 0; m < nmembers; m++)
		sweep->fixed[sweep->positions[members[m]]] = false;
	return solved;
}

void
cdi_markov_losses(const CdiMarkovChain *chain, double *lost)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi markov", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	Sweep	   *sweep = make_sweep(chain);
	double	   *earnings[CDI_REWARDS];
	int32	   *unsolved = palloc_extended(sizeof(int32) * Max(chain->paths->nlabels, 1), MCXT_ALLOC_HUGE);
	int			nlabels = chain->paths->nlabels;
	int64		ntransitions = chain->first[chain->nstates + 1];
	int			nunsolved = 0;

	for (int r = 0; r < CDI_REWARDS; r++)
		earnings[r] = palloc_extended(sizeof(double) * chain->nstates, MCXT_ALLOC_HUGE);
	find_earnings(chain, sweep, earnings);
	sweep->nsweeps = 0;
	for (int label = 0; label < nlabels; label++)
		if (nlabels * ((double) sweep->nsweeps / Max(label - nunsolved, 1)) * ntransitions > ELIMINATION_COST(chain->nstates) ||
			!lose_label(chain, sweep, earnings, label, lost + (int64) label * CDI_REWARDS))
			unsolved[nunsolved++] = label;
	cdi_markov_eliminate_labels(chain, earnings, unsolved, nunsolved, lost);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}
