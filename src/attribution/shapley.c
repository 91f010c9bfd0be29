/*
 * shapley.c
 *		Shapley values of the labels of paths, exactly.
 *
 * The additive game needs no subsets: v is a sum of R(T) over T within S, so
 * R(T) is the Harsanyi dividend of T, and a dividend is shared equally by its
 * members (Harsanyi 1959; for attribution: Zhao, Mahboobi and Bagheri 2018,
 * arXiv:1804.05327).  The rate game has no such form.  Up to
 * CDI_SHAPLEY_MAX_EXACT labels v is computed for every subset by a zeta
 * transform, n 2^n additions, and with it every marginal contribution.
 */
#include "attribution/shapley.h"

#include <math.h>

#include "miscadmin.h"

#define PART	1024			/* terms that are summed before they are added to others */

/* Add to each subset what its own subsets hold: sums over T within S. */
static void
zeta_transform(double *sums, int n)
{
	uint32		subsets = UINT32_C(1) << n;

	for (uint32 bit = 1; bit < subsets; bit <<= 1)
	{
		CHECK_FOR_INTERRUPTS();
		for (uint32 base = bit; base < subsets; base += 2 * bit)
			for (uint32 low = 0; low < bit; low++)
				sums[base + low] += sums[base + low - bit];
	}
}

/* Shapley values of the game v over the subsets of n players. */
static void
shapley_values(const double *v, int n, const uint8 *sizes, double *values)
{
	uint32		subsets = UINT32_C(1) << n;
	double		weights[CDI_SHAPLEY_MAX_EXACT];

	/* s! (n - s - 1)! / n! */
	weights[0] = 1.0 / n;
	for (int s = 1; s < n; s++)
		weights[s] = weights[s - 1] * s / (n - s);

	for (int player = 0; player < n; player++)
	{
		uint32		bit = UINT32_C(1) << player;
		double		total = 0;

		CHECK_FOR_INTERRUPTS();
		/* in parts, so that half a million terms do not add up their rounding */
		for (uint32 i = 0; i < subsets / 2;)
		{
			uint32		end = Min(i + PART, subsets / 2);
			double		part = 0;

			for (; i < end; i++)
			{
				uint32		without = i + (i & ~(bit - 1));

				part += weights[sizes[without]] * (v[without + bit] - v[without]);
			}
			total += part;
		}
		values[player] = total;
	}
}

static void
rate_exact(const CdiPathSets *sets, CdiShapleySample *result)
{
	int			n = sets->nlabels;
	uint32		subsets = UINT32_C(1) << n;
	double	   *conversions = palloc0(sizeof(double) * subsets);
	double	   *value = palloc0(sizeof(double) * subsets);
	double	   *paths = palloc0(sizeof(double) * subsets);
	uint8	   *sizes = palloc0(subsets);
	double		values[CDI_SHAPLEY_MAX_EXACT];

	for (int i = 0; i < sets->nsets; i++)
	{
		const CdiPathSet *set = &sets->sets[i];
		uint32		mask = 0;

		for (int m = 0; m < set->size; m++)
			mask |= UINT32_C(1) << set->members[m];
		conversions[mask] = set->conversions;
		value[mask] = set->value;
		paths[mask] = set->conversions + set->nulls;
	}
	zeta_transform(conversions, n);
	zeta_transform(value, n);
	zeta_transform(paths, n);
	for (uint32 s = 1; s < subsets; s++)
	{
		sizes[s] = sizes[s & (s - 1)] + 1;
		conversions[s] = paths[s] > 0 ? conversions[s] / paths[s] : 0;
		value[s] = paths[s] > 0 ? value[s] / paths[s] : 0;
	}

	shapley_values(conversions, n, sizes, values);
	for (int r = 0; r < n; r++)
		result[r].conversions = values[r];
	shapley_values(value, n, sizes, values);
	for (int r = 0; r < n; r++)
		result[r].value = values[r];
	pfree(conversions);
	pfree(value);
	pfree(paths);
	pfree(sizes);
}

static void
rate_credit(const CdiPathSets *sets, const CdiShapleyOptions *options, CdiPathCredit *credits)
{
	bool		sampled = sets->nlabels > CDI_SHAPLEY_MAX_EXACT;
	double		paths = sets->conversions + sets->nulls;
	CdiShapleySample *values;

	if (sampled)
		values = cdi_shapley_sample(sets, options);
	else
	{
		values = palloc0(sizeof(CdiShapleySample) * sets->nlabels);
		rate_exact(sets, values);
	}
	for (int r = 0; r < sets->nlabels; r++)
	{
		CdiPathCredit *credit = &credits[r];

		credit->effect = values[r].conversions;
		credit->conversions = values[r].conversions * paths;
		credit->value = values[r].value * paths;
		if (sampled)
		{
			double		half = CDI_NORMAL_QUANTILE * values[r].conversions_error * paths;

			credit->conversions_low = credit->conversions - half;
			credit->conversions_high = credit->conversions + half;
			half = CDI_NORMAL_QUANTILE * values[r].value_error * paths;
			credit->value_low = credit->value - half;
			credit->value_high = credit->value + half;
		}
	}
	pfree(values);
}

static void
additive_credit(const CdiPathSets *sets, CdiPathCredit *credits)
{
	for (int i = 0; i < sets->nsets; i++)
	{
		const CdiPathSet *set = &sets->sets[i];

		for (int m = 0; m < set->size; m++)
		{
			CdiPathCredit *credit = &credits[set->members[m]];

			credit->conversions += set->conversions / set->size;
			credit->value += set->value / set->size;
		}
	}
}

void
cdi_shapley_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits)
{
	const CdiShapleyOptions *chosen = options;
	CdiPathSets *sets = cdi_path_sets_create(paths, false);

	for (int i = 0; i < paths->nlabels; i++)
		credits[i].conversions = credits[i].value = 0;

	/* Where no path counts, there is no rate that could decide about their values. */
	if (chosen->game == CDI_SHAPLEY_ADDITIVE || sets->conversions + sets->nulls <= 0)
		additive_credit(sets, credits);
	else
		rate_credit(sets, chosen, credits);
	cdi_path_sets_free(sets);
}

static int
compare_places(const void *a, const void *b)
{
	const CdiShapleyPlace *left = a;
	const CdiShapleyPlace *right = b;

	if (left->label != right->label)
		return left->label - right->label;
	if (left->position != right->position)
		return left->position - right->position;
	return left->path - right->path;
}

/* Take equal neighbours together; returns how many are left. */
static int
merge_places(CdiShapleyPlace *places, int64 n)
{
	int			merged = 0;

	for (int64 p = 0; p < n; p++)
	{
		CdiShapleyPlace *last = merged > 0 ? &places[merged - 1] : NULL;

		if (last && last->label == places[p].label && last->position == places[p].position)
		{
			last->conversions += places[p].conversions;
			last->value += places[p].value;
		}
		else
			places[merged++] = places[p];
	}
	return merged;
}

/*
 * A path's share for a label goes to the place of the label among the labels
 * of the path, in order of their first touches.
 */
int
cdi_shapley_ordered(const CdiPaths *paths, CdiShapleyPlace **places)
{
	int		   *seen = palloc_extended(sizeof(int) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE);
	Size		space = 64;
	CdiShapleyPlace *result = palloc(sizeof(CdiShapleyPlace) * space);
	int64		n = 0;

	for (int i = 0; i < paths->nlabels; i++)
		seen[i] = -1;
	for (int i = 0; i < paths->npaths; i++)
	{
		const CdiPath *path = &paths->paths[i];
		int64		first = n;

		CHECK_FOR_INTERRUPTS();
		for (int t = 0; t < path->length; t++)
		{
			if (seen[path->touches[t]] == i)
				continue;
			seen[path->touches[t]] = i;
			if (n == space)
			{
				space *= 2;
				result = repalloc_huge(result, sizeof(CdiShapleyPlace) * space);
			}
			result[n].label = path->touches[t];
			result[n].position = (int) (n - first) + 1;
			result[n].path = i;
			n++;
		}
		for (int64 p = first; p < n; p++)
		{
			result[p].conversions = path->conversions / (n - first);
			result[p].value = path->value / (n - first);
		}
	}
	qsort(result, n, sizeof(CdiShapleyPlace), compare_places);
	pfree(seen);
	*places = result;
	return merge_places(result, n);
}

void
cdi_shapley_ordered_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits)
{
	CdiShapleyPlace *places;
	int			nplaces = cdi_shapley_ordered(paths, &places);

	for (int i = 0; i < nplaces; i++)
	{
		credits[i].conversions = places[i].conversions;
		credits[i].value = places[i].value;
	}
	pfree(places);
}
