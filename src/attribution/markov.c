/*
 * markov.c
 *		cdi_markov(): credit by removal effects.
 *
 * The removal effect of a channel is the part of conversions that is lost were
 * each state that contains it a dead end (Anderl, Becker, von Wangenheim and
 * Schumann, International Journal of Research in Marketing 33, 2016).  Credit
 * is removal effect over the sum of all, times conversions.  Value is shared
 * out by what is lost of it; gains and losses each on their own, so that
 * shares are defined whatever the signs.
 */
#include "attribution/markov.h"

#include "utils/float.h"

void
cdi_markov_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits)
{
	const CdiMarkovOptions *markov = options;
	CdiMarkovChain *chain = cdi_markov_chain(paths, markov->order);
	double	   *lost = palloc_extended(sizeof(double) * CDI_REWARDS * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE);
	double		sums[CDI_REWARDS] = {0};
	double		shares[CDI_REWARDS];
	CdiMarkovError *errors = palloc0(sizeof(CdiMarkovError) * Max(paths->nlabels, 1));

	if (chain->nstates == 0)
		memset(lost, 0, sizeof(double) * CDI_REWARDS * paths->nlabels);
	else if (markov->walks > 0)
		cdi_markov_simulate(chain, markov->walks, markov->seed, lost, errors);
	else
		cdi_markov_losses(chain, lost);
	for (int i = 0; i < paths->nlabels; i++)
		for (int r = 0; r < CDI_REWARDS; r++)
			sums[r] += lost[(int64) i * CDI_REWARDS + r];
	for (int i = 0; i < paths->nlabels; i++)
	{
		double	   *of_label = lost + (int64) i * CDI_REWARDS;

		for (int r = 0; r < CDI_REWARDS; r++)
			shares[r] = sums[r] > 0 ? chain->totals[r] * (of_label[r] / sums[r]) : 0;
		credits[i].conversions = shares[CDI_REWARD_CONVERSIONS];
		credits[i].value = shares[CDI_REWARD_GAIN] - shares[CDI_REWARD_LOSS];
		credits[i].effect = chain->totals[CDI_REWARD_CONVERSIONS] > 0 ?
			Min(1.0, of_label[CDI_REWARD_CONVERSIONS] / chain->totals[CDI_REWARD_CONVERSIONS]) : 0;
		if (markov->walks > 0)
		{
			credits[i].conversions_low = credits[i].conversions - CDI_NORMAL_QUANTILE * errors[i].conversions;
			credits[i].conversions_high = credits[i].conversions + CDI_NORMAL_QUANTILE * errors[i].conversions;
			credits[i].value_low = credits[i].value - CDI_NORMAL_QUANTILE * errors[i].value;
			credits[i].value_high = credits[i].value + CDI_NORMAL_QUANTILE * errors[i].value;
		}
	}
	pfree(errors);
	pfree(lost);
}

/* (state [, options of the transition]) */
PG_FUNCTION_INFO_V1(cdi_markov_final);
Datum
cdi_markov_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	CdiMarkovOptions markov = {.order = 1};
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	CdiPathOption options[] = {
		{"order", CDI_OPTION_INTEGER, &markov.order, 1, CDI_MARKOV_MAX_ORDER},
		{"simulate", CDI_OPTION_INTEGER, &markov.walks, 0, PG_INT32_MAX},
		CDI_BOOTSTRAP_OPTIONS(bootstrap)
	};
	CdiPathCredit *credits;

	cdi_paths_options(paths, options, lengthof(options));
	markov.seed = bootstrap.seed;
	credits = cdi_paths_credits(paths->nlabels);
	cdi_markov_credit(paths, &markov, credits);
	cdi_paths_bootstrap(paths, cdi_markov_credit, &markov, &bootstrap, paths->nlabels, credits);
	PG_RETURN_DATUM(cdi_paths_result(fcinfo, paths, credits));
}
