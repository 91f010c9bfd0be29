/*
 * shapley_sample.c
 *		Shapley values of the rate game from random orders of the labels.
 *
 * The mean of a label's marginal contributions over random orders (Castro,
 * Gomez and Tejada 2009) has no bias, and their spread says how far it is from
 * the value.  An order is taken together with its reverse, whose contributions
 * tend to err the other way (Mitchell, Cooper, Frank and Holmes 2022); the
 * mean of the two is one observation.
 *
 * One order costs one pass over the sets: a set counts from the place of its
 * last member on, in the reversed order from the place of its first.
 */
#include "attribution/shapley.h"

#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"

/* Pairs of orders between two looks at the error: of few, it is too uncertain. */
#define PAIRS_PER_LOOK	64

/* What becomes complete at a place of an order; then sums up to that place. */
typedef struct Worth
{
	double		conversions;
	double		value;
	double		paths;
} Worth;

/* Mean and sum of squared deviations (Welford). */
typedef struct Moments
{
	double		mean;
	double		squares;
} Moments;

static void
observe(Moments *moments, double x, int64 n)
{
	double		delta = x - moments->mean;

	moments->mean += delta / n;
	moments->squares += delta * (x - moments->mean);
}

static double
standard_error(const Moments *moments, int64 n)
{
	return n > 1 ? sqrt(moments->squares / (n - 1) / n) : 0;
}

static void
add_worth(Worth *worth, const CdiPathSet *set)
{
	worth->conversions += set->conversions;
	worth->value += set->value;
	worth->paths += set->conversions + set->nulls;
}

/* Marginal contributions along an order, by place; worth is used up. */
static void
contributions(Worth *worth, int n, CdiShapleySample *result)
{
	double		conversions = 0;
	double		value = 0;

	for (int place = 0; place < n; place++)
	{
		double		rate = 0;
		double		value_rate = 0;

		if (place > 0)
		{
			worth[place].conversions += worth[place - 1].conversions;
			worth[place].value += worth[place - 1].value;
			worth[place].paths += worth[place - 1].paths;
		}
		if (worth[place].paths > 0)
		{
			rate = worth[place].conversions / worth[place].paths;
			value_rate = worth[place].value / worth[place].paths;
		}
		result[place].conversions = rate - conversions;
		result[place].value = value_rate - value;
		conversions = rate;
		value = value_rate;
	}
}

CdiShapleySample *
cdi_shapley_sample(const CdiPathSets *sets, const CdiShapleyOptions *options)
{
	int			n = sets->nlabels;
	int64		most = Max(options->permutations / 2, 2);
	double		paths = sets->conversions + sets->nulls;
	double		enough = paths > 0 ? options->error * sets->conversions / paths : 0;
	int32	   *order = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	int32	   *places = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	Worth	   *forward = palloc(sizeof(Worth) * n);
	Worth	   *backward = palloc(sizeof(Worth) * n);
	CdiShapleySample *ahead = palloc(sizeof(CdiShapleySample) * n);
	CdiShapleySample *behind = palloc(sizeof(CdiShapleySample) * n);
	Moments    *conversions = palloc0(sizeof(Moments) * n);
	Moments    *value = palloc0(sizeof(Moments) * n);
	CdiShapleySample *result = palloc(sizeof(CdiShapleySample) * n);
	pg_prng_state random;
	int64		pairs = 0;
	double		worst = INFINITY;

	pg_prng_seed(&random, options->seed);
	for (int r = 0; r < n; r++)
		order[r] = r;

	while (pairs < most && worst > enough)
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = n - 1; i > 0; i--)
		{
			int			j = (int) pg_prng_uint64_range(&random, 0, i);
			int32		swap = order[i];

			order[i] = order[j];
			order[j] = swap;
		}
		for (int place = 0; place < n; place++)
			places[order[place]] = place;

		memset(forward, 0, sizeof(Worth) * n);
		memset(backward, 0, sizeof(Worth) * n);
		for (int i = 0; i < sets->nsets; i++)
		{
			const CdiPathSet *set = &sets->sets[i];
			int			first = n;
			int			last = -1;

			for (int m = 0; m < set->size; m++)
			{
				int			place = places[set->members[m]];

				first = Min(first, place);
				last = Max(last, place);
			}
			add_worth(&forward[last], set);
			add_worth(&backward[n - 1 - first], set);
		}
		contributions(forward, n, ahead);
		contributions(backward, n, behind);

		pairs++;
		for (int place = 0; place < n; place++)
		{
			const CdiShapleySample *one = &ahead[place];
			const CdiShapleySample *other = &behind[n - 1 - place];

			observe(&conversions[order[place]], (one->conversions + other->conversions) / 2, pairs);
			observe(&value[order[place]], (one->value + other->value) / 2, pairs);
		}
		if (pairs % PAIRS_PER_LOOK == 0)
		{
			worst = 0;
			for (int r = 0; r < n; r++)
				worst = Max(worst, standard_error(&conversions[r], pairs));
		}
	}

	for (int r = 0; r < n; r++)
	{
		result[r].conversions = conversions[r].mean;
		result[r].conversions_error = standard_error(&conversions[r], pairs);
		result[r].value = value[r].mean;
		result[r].value_error = standard_error(&value[r], pairs);
	}
	pfree(order);
	pfree(places);
	pfree(forward);
	pfree(backward);
	pfree(ahead);
	pfree(behind);
	pfree(conversions);
	pfree(value);
	return result;
}
