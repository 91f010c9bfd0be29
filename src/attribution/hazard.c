/*
 * hazard.c
 *		Credit by an additive hazard of conversion, which every touch adds to.
 *
 * After Zhang, Wei and Ren (2014), Multi-touch attribution in online
 * advertising with survival theory.  A touch of channel c at time t adds
 * strength_c * rate_c * exp(-rate_c * (T - t)) to the hazard of a conversion at
 * T.  The log likelihood of a path seen until T is the logarithm of its hazard
 * at T (if it led to a conversion then) less the hazard summed up to T, that is
 * less the sum of strength_c * (1 - exp(-rate_c * (T - t))).
 *
 * An iteration computes the touches' shares p of the hazard at conversions,
 * then
 *
 *		strength = sum of p / sum of (1 - exp(-rate * age))
 *		rate     = sum of p / sum of (p * age + strength * age * exp(-rate * age))
 *
 * where the second sums are over all touches of the channel and the rate on the
 * right is the old one.  The first line is the maximum of EM's expected log
 * likelihood; the second that of a lower bound of it (exp(-rate * age) is
 * convex in the rate, its tangent lies below), so neither lets the likelihood
 * fall.  Since EM is slow, every second iteration extrapolates (Varadhan and
 * Roland 2008, SQUAREM) and is taken back where the likelihood would fall.
 */
#include "attribution/hazard.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"

typedef struct Fit
{
	const CdiPaths *paths;
	const CdiHazardOptions *options;
	double		least_rate;
	int			n;				/* labels; parameters are n strengths, then n rates */
	double	   *hazards;		/* of the touches of a path, as long as the longest */
	double	   *share;			/* sums by label: of p, ... */
	double	   *share_age;		/* ... of p * age, */
	double	   *seen;			/* ... of 1 - exp(-rate * age), */
	double	   *decayed;		/* ... of age * exp(-rate * age) */
} Fit;

static double
age_of(const Fit *fit, int path, int touch)
{
	return Max(fit->options->ages[path][touch], CDI_HAZARD_MIN_AGE);
}

/*
 * Shares of a path's touches in its hazard at T, into fit->hazards; returns the
 * hazard's logarithm.  In logarithms, as all terms may underflow.  Without a
 * hazard, shares are of no use.
 */
static double
share_path(Fit *fit, int number, const double *parameters)
{
	const CdiPath *path = &fit->paths->paths[number];
	double	   *shares = fit->hazards;
	double		largest = -INFINITY;
	double		total = 0;

	for (int t = 0; t < path->length; t++)
	{
		double		strength = parameters[path->touches[t]];
		double		rate = parameters[fit->n + path->touches[t]];

		shares[t] = log(strength) + log(rate) - rate * age_of(fit, number, t);
		largest = Max(largest, shares[t]);
	}
	if (isinf(largest))
		return largest;
	for (int t = 0; t < path->length; t++)
	{
		shares[t] = exp(shares[t] - largest);
		total += shares[t];
	}
	for (int t = 0; t < path->length; t++)
		shares[t] /= total;
	return largest + log(total);
}

/* One iteration; returns the log likelihood of old. */
static double
iterate(Fit *fit, const double *old, double *new)
{
	int			n = fit->n;
	double		likelihood = 0;

	memset(fit->share, 0, sizeof(double) * n);
	memset(fit->share_age, 0, sizeof(double) * n);
	memset(fit->seen, 0, sizeof(double) * n);
	memset(fit->decayed, 0, sizeof(double) * n);
	for (int p = 0; p < fit->paths->npaths; p++)
	{
		const CdiPath *path = &fit->paths->paths[p];
		double		weight = path->conversions + path->nulls;

		CHECK_FOR_INTERRUPTS();
		if (path->length == 0 || weight == 0)
			continue;
		if (path->conversions > 0)
			likelihood += path->conversions * share_path(fit, p, old);
		for (int t = 0; t < path->length; t++)
		{
			int32		label = path->touches[t];
			double		age = age_of(fit, p, t);
			double		gone = expm1(-old[n + label] * age);

			fit->seen[label] -= weight * gone;
			fit->decayed[label] += weight * age * (1 + gone);
			if (path->conversions > 0)
			{
				fit->share[label] += path->conversions * fit->hazards[t];
				fit->share_age[label] += path->conversions * fit->hazards[t] * age;
			}
		}
	}

	for (int c = 0; c < n; c++)
	{
		likelihood -= old[c] * fit->seen[c];
		new[c] = 0;
		new[n + c] = old[n + c];
		if (fit->share[c] > 0)
		{
			new[c] = fit->share[c] / fit->seen[c];
			new[n + c] = Max(fit->least_rate,
							 fit->share[c] / (fit->share_age[c] + new[c] * fit->decayed[c]));
		}
	}
	return likelihood;
}

/*
 * From the first of three successive iterates beyond the third, in logarithms
 * of the parameters: step and bend are their first and second differences.
 */
static void
extrapolate(const Fit *fit, const double *first, const double *second, const double *third, double *result)
{
	double		steps = 0;
	double		bends = 0;
	double		length;

	for (int i = 0; i < 2 * fit->n; i++)
	{
		result[i] = third[i];
		if (third[i % fit->n] > 0)
		{
			double		step = log(second[i] / first[i]);
			double		bend = log(third[i] / second[i]) - step;

			steps += step * step;
			bends += bend * bend;
		}
	}
	length = bends > 0 ? Max(1, sqrt(steps / bends)) : 1;
	for (int i = 0; i < 2 * fit->n; i++)
		if (third[i % fit->n] > 0)
		{
			double		step = log(second[i] / first[i]);
			double		bend = log(third[i] / second[i]) - step;

			result[i] = Max(first[i] * exp(2 * length * step + length * length * bend),
							i < fit->n ? DBL_MIN : fit->least_rate);
		}
}

/* Where the iterations begin; also sets the least rate. */
static void
begin(Fit *fit, double *parameters)
{
	int			n = fit->n;
	double		longest = CDI_HAZARD_MIN_AGE;

	/* Here the sums are of converted touches, their ages, and all touches. */
	for (int p = 0; p < fit->paths->npaths; p++)
	{
		const CdiPath *path = &fit->paths->paths[p];

		for (int t = 0; t < path->length; t++)
		{
			int32		label = path->touches[t];
			double		age = age_of(fit, p, t);

			fit->share[label] += path->conversions;
			fit->share_age[label] += path->conversions * age;
			fit->seen[label] += path->conversions + path->nulls;
			longest = Max(longest, age);
		}
	}
	fit->least_rate = 1 / (CDI_HAZARD_MAX_LAG * longest);
	for (int c = 0; c < n; c++)
	{
		parameters[c] = fit->share[c] > 0 ? fit->share[c] / fit->seen[c] : 0;
		parameters[n + c] = fit->share[c] > 0 ? fit->share[c] / fit->share_age[c] : fit->least_rate;
	}
}

/* Parameters of the greatest likelihood found, into best. */
static void
maximise(Fit *fit, double *best)
{
	const CdiHazardOptions *options = fit->options;
	Size		size = sizeof(double) * 2 * fit->n;
	double	   *first = palloc(size);
	double	   *second = palloc(size);
	double	   *third = palloc(size);
	double	   *far = palloc(size);
	double		reached;

	begin(fit, best);
	memcpy(first, best, size);
	for (int iteration = 1;; iteration += 3)
	{
		double		gained;

		reached = iterate(fit, first, second);
		memcpy(best, first, size);
		if (iteration >= options->iterations)
			break;
		gained = iterate(fit, second, third);
		memcpy(best, second, size);
		if (gained - reached <= options->tolerance * (1 + fabs(gained)))
			break;
		if (iteration + 1 >= options->iterations)
			break;
		extrapolate(fit, first, second, third, far);
		memcpy(first, third, size);
		if (iterate(fit, far, third) >= gained)
		{
			memcpy(best, far, size);
			memcpy(first, third, size);
		}
		if (iteration + 2 >= options->iterations)
			break;
	}
	pfree(first);
	pfree(second);
	pfree(third);
	pfree(far);
}

void
cdi_hazard_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits)
{
	int			n = paths->nlabels;
	Fit			fit = {.paths = paths, .options = options, .n = n};
	double	   *parameters = palloc0(sizeof(double) * (2 * n + 1));
	int			longest = 1;
	double		conversions = 0;

	for (int p = 0; p < paths->npaths; p++)
	{
		longest = Max(longest, paths->paths[p].length);
		if (paths->paths[p].length > 0)
			conversions += paths->paths[p].conversions;
	}
	fit.hazards = palloc_extended(sizeof(double) * longest, MCXT_ALLOC_HUGE);
	fit.share = palloc0(sizeof(double) * (n + 1));
	fit.share_age = palloc0(sizeof(double) * (n + 1));
	fit.seen = palloc0(sizeof(double) * (n + 1));
	fit.decayed = palloc0(sizeof(double) * (n + 1));
	if (conversions > 0)
		maximise(&fit, parameters);

	for (int c = 0; c < n; c++)
	{
		credits[c].conversions = credits[c].value = 0;
		if (conversions > 0)
			credits[c].effect = parameters[c];
		if (parameters[c] > 0)
			credits[c].lag = 1 / parameters[n + c];
	}
	for (int p = 0; p < paths->npaths; p++)
	{
		const CdiPath *path = &paths->paths[p];

		/* A path of channels that never led to a conversion has a value at most. */
		if (isinf(share_path(&fit, p, parameters)))
			for (int t = 0; t < path->length; t++)
				fit.hazards[t] = 1.0 / path->length;
		for (int t = 0; t < path->length; t++)
		{
			credits[path->touches[t]].conversions += path->conversions * fit.hazards[t];
			credits[path->touches[t]].value += path->value * fit.hazards[t];
		}
		if (fit.options->shares)
			memcpy(fit.options->shares[p], fit.hazards, sizeof(double) * path->length);
	}
	pfree(parameters);
	pfree(fit.hazards);
	pfree(fit.share);
	pfree(fit.share_age);
	pfree(fit.seen);
	pfree(fit.decayed);
}
