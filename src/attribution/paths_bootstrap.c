/*
 * paths_bootstrap.c
 *		Intervals of any path model, by resampling the paths.
 *
 * A replicate draws as many observations as there were, with replacement:
 * counts of (path, converted or not) are multinomial (Efron, The Annals of
 * Statistics 7, 1979), drawn one after the other as binomials of what is left.
 * The value of a path follows its conversions, as only their sum is known.
 * Bounds are percentiles of the replicates, interpolated as by numpy and R
 * (type 7 of Hyndman and Fan, The American Statistician 50, 1996).
 */
#include "attribution/paths.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/float.h"
#include "utils/memutils.h"

/* Below this many expected successes, waiting times are drawn one by one. */
#define FEW_SUCCESSES	10.0
/* Beyond it counts are no exact numbers any more. */
#define MAX_COUNT		9007199254740992.0

static double
uniform(pg_prng_state *prng)
{
	double		u;

	do
		u = pg_prng_double(prng);
	while (u == 0.0);
	return u;
}

/* log(k!) - log of Stirling's approximation */
static double
stirling_correction(double k)
{
	return lgamma(k + 1) - ((k + 0.5) * log(k + 1) - (k + 1) + 0.5 * log(2 * M_PI));
}

/*
 * Successes among n trials of probability p <= 1/2: transformed rejection,
 * algorithm BTRS of Hoermann, "The generation of binomial random variates",
 * Journal of Statistical Computation and Simulation 46 (1993).
 */
static double
binomial_by_rejection(pg_prng_state *prng, double n, double p)
{
	double		deviation = sqrt(n * p * (1 - p));
	double		b = 1.15 + 2.53 * deviation;
	double		a = -0.0873 + 0.0248 * b + 0.01 * p;
	double		c = n * p + 0.5;
	double		vr = 0.92 - 4.2 / b;
	double		alpha = (2.83 + 5.1 / b) * deviation;
	double		mode = floor((n + 1) * p);

	for (;;)
	{
		double		u = uniform(prng) - 0.5;
		double		v = uniform(prng);
		double		us = 0.5 - fabs(u);
		double		k = floor((2 * a / us + b) * u + c);
		double		bound;

		if (k < 0 || k > n)
			continue;
		if (us >= 0.07 && v <= vr)
			return k;
		v = log(v * alpha / (a / (us * us) + b));
		bound = (mode + 0.5) * log((mode + 1) / (p / (1 - p) * (n - mode + 1)))
			+ (n + 1) * log((n - mode + 1) / (n - k + 1))
			+ (k + 0.5) * log(p / (1 - p) * (n - k + 1) / (k + 1))
			+ stirling_correction(mode) + stirling_correction(n - mode)
			- stirling_correction(k) - stirling_correction(n - k);
		if (v <= bound)
			return k;
	}
}

double
cdi_bootstrap_binomial(pg_prng_state *prng, double n, double p)
{
	double		successes = 0;
	double		trials = 0;

	if (n <= 0 || p <= 0)
		return 0;
	if (p >= 1)
		return n;
	if (p > 0.5)
		return n - cdi_bootstrap_binomial(prng, n, 1 - p);
	if (n * p >= FEW_SUCCESSES)
		return binomial_by_rejection(prng, n, p);
	/* Trials up to and including the next success are geometric. */
	for (;;)
	{
		trials += floor(log(uniform(prng)) / log1p(-p)) + 1;
		if (trials > n)
			return successes;
		successes++;
	}
}

void
cdi_bootstrap_stream(pg_prng_state *prng, const CdiBootstrap *bootstrap, int replicate, const char *name)
{
	pg_prng_seed(prng, hash_bytes_extended((const unsigned char *) name, strlen(name),
										   (uint64) bootstrap->seed << 32 | (uint32) replicate));
}

void
cdi_bootstrap_draw(pg_prng_state *prng, int64 draws, int32 n, uint32 *counts)
{
	memset(counts, 0, sizeof(uint32) * n);
	for (int64 i = 0; i < draws; i++)
	{
		if (i % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		counts[pg_prng_uint64_range(prng, 0, n - 1)]++;
	}
}

void
cdi_paths_check_count(double count)
{
	if (count != floor(count) || count > MAX_COUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("resampling and order selection need whole numbers of conversions and nulls, not %g", count),
				 errhint("Weights are no observations: pass counts, or leave the option bootstrap out.")));
}

/* Draws the counts of one replicate. */
static void
resample(pg_prng_state *prng, const CdiPaths *paths, double total, CdiPaths *replicate)
{
	double		left = total;	/* observations to draw */
	double		mass = total;	/* counts of the paths that are not drawn yet */

	for (int p = 0; p < paths->npaths; p++)
	{
		const CdiPath *path = &paths->paths[p];
		CdiPath    *drawn = &replicate->paths[p];

		drawn->conversions = mass > 0 ? cdi_bootstrap_binomial(prng, left, path->conversions / mass) : 0;
		left -= drawn->conversions;
		mass -= path->conversions;
		drawn->nulls = mass > 0 ? cdi_bootstrap_binomial(prng, left, path->nulls / mass) : 0;
		left -= drawn->nulls;
		mass -= path->nulls;
		/* a value of no conversion is no observation, and stays */
		if (path->conversions > 0)
			drawn->value = path->value * (drawn->conversions / path->conversions);
	}
}

static int
compare_doubles(const void *a, const void *b)
{
	return float8_cmp_internal(*(const double *) a, *(const double *) b);
}

static double
percentile(const double *sorted, int n, double fraction)
{
	double		at = fraction * (n - 1);
	int			below = (int) at;

	if (below + 1 >= n)
		return sorted[n - 1];
	return sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]);
}

void
cdi_bootstrap_bounds(double *figures, int n, double confidence, double *low, double *high)
{
	qsort(figures, n, sizeof(double), compare_doubles);
	/* NaN sorts last: a model that gives no such figure gives no bounds. */
	if (isnan(figures[n - 1]))
		return;
	*low = percentile(figures, n, (1 - confidence) / 2);
	*high = percentile(figures, n, (1 + confidence) / 2);
}

static void
clear_credits(int n, CdiPathCredit *credits)
{
	const double nan = get_float8_nan();

	for (int i = 0; i < n; i++)
		credits[i] = (CdiPathCredit) {nan, nan, nan, nan, nan, nan, nan, nan};
}

CdiPathCredit *
cdi_paths_credits(int n)
{
	CdiPathCredit *credits = palloc_extended(sizeof(CdiPathCredit) * Max((size_t) n, 1), MCXT_ALLOC_HUGE);

	clear_credits(n, credits);
	return credits;
}

void
cdi_paths_bootstrap(const CdiPaths *paths, CdiPathModel model, const void *options,
					const CdiBootstrap *bootstrap, int ncredits, CdiPathCredit *credits)
{
	int			n = bootstrap->replicates;
	double		total = 0;
	CdiPaths	replicate = *paths;
	CdiPathCredit *drawn;
	double	   *conversions;
	double	   *values;
	MemoryContext run;
	MemoryContext previous;
	pg_prng_state prng;

	if (n == 0 || ncredits == 0)
		return;
	for (int p = 0; p < paths->npaths; p++)
	{
		cdi_paths_check_count(paths->paths[p].conversions);
		cdi_paths_check_count(paths->paths[p].nulls);
		total += paths->paths[p].conversions + paths->paths[p].nulls;
	}
	cdi_paths_check_count(total);

	replicate.paths = palloc_extended(sizeof(CdiPath) * (size_t) paths->npaths, MCXT_ALLOC_HUGE);
	memcpy(replicate.paths, paths->paths, sizeof(CdiPath) * (size_t) paths->npaths);
	drawn = cdi_paths_credits(ncredits);
	conversions = palloc_extended(sizeof(double) * (size_t) ncredits * n, MCXT_ALLOC_HUGE);
	values = palloc_extended(sizeof(double) * (size_t) ncredits * n, MCXT_ALLOC_HUGE);
	run = AllocSetContextCreate(CurrentMemoryContext, "cdi bootstrap", ALLOCSET_DEFAULT_SIZES);
	pg_prng_seed(&prng, bootstrap->seed);

	previous = MemoryContextSwitchTo(run);
	for (int r = 0; r < n; r++)
	{
		CHECK_FOR_INTERRUPTS();
		resample(&prng, paths, total, &replicate);
		clear_credits(ncredits, drawn);
		model(&replicate, options, drawn);
		for (int i = 0; i < ncredits; i++)
		{
			conversions[(size_t) i * n + r] = drawn[i].conversions;
			values[(size_t) i * n + r] = drawn[i].value;
		}
		MemoryContextReset(run);
	}
	MemoryContextSwitchTo(previous);

	for (int i = 0; i < ncredits; i++)
	{
		cdi_bootstrap_bounds(conversions + (size_t) i * n, n, bootstrap->confidence,
							 &credits[i].conversions_low, &credits[i].conversions_high);
		cdi_bootstrap_bounds(values + (size_t) i * n, n, bootstrap->confidence,
							 &credits[i].value_low, &credits[i].value_high);
	}
	MemoryContextDelete(run);
	pfree(values);
	pfree(conversions);
	pfree(drawn);
	pfree(replicate.paths);
}
