/*
 * path_factors.c
 *		What of each path falls to its labels, so that labels get what a model
 *		says they are worth in total.
 *
 * Shares in proportion to one factor per label, by iterative proportional
 * fitting (Deming and Stephan, The Annals of Mathematical Statistics 11, 1940).
 */
#include "attribution/path_credit.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"

#include "attribution/path_sets.h"

#define MAX_ROUNDS	1000
#define CLOSE_ENOUGH	1e-13	/* of all conversions */

/* What labels get by these factors */
static void
add_up(const CdiPathSets *sets, const double *factors, double *sums)
{
	memset(sums, 0, sizeof(double) * sets->nlabels);
	for (int s = 0; s < sets->nsets; s++)
	{
		const CdiPathSet *set = &sets->sets[s];
		double		sum = 0;

		if (set->conversions <= 0)
			continue;
		for (int i = 0; i < set->size; i++)
			sum += factors[set->members[i]];
		for (int i = 0; i < set->size && sum > 0; i++)
			sums[set->members[i]] += set->conversions * factors[set->members[i]] / sum;
	}
}

double *
cdi_path_factors(const CdiPaths *paths, const CdiPathCredit *credits)
{
	CdiPathSets *sets = cdi_path_sets_create(paths, false);
	double	   *factors = palloc(sizeof(double) * Max(paths->nlabels, 1));
	double	   *sums = palloc(sizeof(double) * Max(paths->nlabels, 1));
	double		total = 0;

	for (int l = 0; l < paths->nlabels; l++)
	{
		factors[l] = credits[l].conversions > 0 ? credits[l].conversions : 0;
		total += factors[l];
	}
	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		double		most = 0;

		CHECK_FOR_INTERRUPTS();
		add_up(sets, factors, sums);
		for (int l = 0; l < paths->nlabels; l++)
		{
			double		wanted = credits[l].conversions > 0 ? credits[l].conversions : 0;

			most = Max(most, fabs(sums[l] - wanted));
			/* kept above what a product of many rounds could underflow to */
			if (sums[l] > 0 && wanted > 0)
				factors[l] = Max(factors[l] * wanted / sums[l], DBL_MIN * 1e6);
		}
		if (most <= CLOSE_ENOUGH * total)
			break;
	}
	pfree(sums);
	cdi_path_sets_free(sets);
	return factors;
}
