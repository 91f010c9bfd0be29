/*
 * logistic.c
 *		Credit by a logistic regression of outcomes on the labels of paths.
 *
 * The log-odds of a conversion are b0 + sum of b_c x_c, where x_c says whether
 * (or how often) the path touches label c.  The coefficients maximise the
 * likelihood less ridge/2 times the sum of b_c^2; b0 is free.  Newton's method
 * on the distinct sets of labels, with the step halved until the objective
 * does not fall; the objective is concave, so there is one maximum or none.
 *
 * A conversion is shared in proportion to max(0, p - p without c), where p is
 * the fitted probability of its path.
 */
#include "attribution/logistic.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"

#include "base/errors.h"

#define MAX_ITERATIONS	100
#define MAX_HALVINGS	40

/* With a penalty: iterations that gain nothing, after which there is nothing to gain */
#define MAX_IDLE		5

/*
 * Newton converges quadratically: after a step as small as this nothing is left.
 * No more do coefficients as small as this differ from 0.
 */
#define STEP_TOLERANCE	1e-9

/* What elimination leaves of a column that depends on others is rounding. */
#define PIVOT_TOLERANCE	1e-11

typedef struct Model
{
	const CdiPaths *paths;
	CdiPathSets *sets;
	const CdiLogisticOptions *options;
	double		idle_conversions;	/* of paths without touches */
	double		idle_nulls;
	int			n;				/* coefficients: b0, then one per label */
	double	   *coefficients;
	double	   *gradient;
	double	   *hessian;		/* n rows; the upper triangle of the negative Hessian */
} Model;

static double
count_of(const CdiPathSet *set, int member)
{
	return set->counts ? set->counts[member] : 1;
}

static double
log_odds(const CdiPathSet *set, const double *coefficients)
{
	double		sum = coefficients[0];

	for (int m = 0; m < set->size; m++)
		sum += coefficients[1 + set->members[m]] * count_of(set, m);
	return sum;
}

/* log(1 + exp(x)), where exp(x) may overflow */
static double
softplus(double x)
{
	return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double
probability(double odds)
{
	return odds >= 0 ? 1 / (1 + exp(-odds)) : exp(odds) / (1 + exp(odds));
}

static double
log_likelihood(double conversions, double nulls, double odds)
{
	return -conversions * softplus(-odds) - nulls * softplus(odds);
}

/* What is maximised: log likelihood less penalty. */
static double
objective(const Model *model, const double *coefficients)
{
	double		result = log_likelihood(model->idle_conversions, model->idle_nulls, coefficients[0]);
	double		squares = 0;

	for (int i = 0; i < model->sets->nsets; i++)
	{
		const CdiPathSet *set = &model->sets->sets[i];

		result += log_likelihood(set->conversions, set->nulls, log_odds(set, coefficients));
	}
	for (int i = 1; i < model->n; i++)
		squares += coefficients[i] * coefficients[i];
	return result - model->options->ridge / 2 * squares;
}

static double *
hessian_at(Model *model, int row)
{
	return model->hessian + (Size) row * model->n;
}

/* Derivatives of the log likelihood by the log-odds; exact also where p is nearly 0 or 1 */
static void
differentiate(double conversions, double nulls, double odds, double *residual, double *weight)
{
	double		p = probability(odds);
	double		q = probability(-odds);

	*residual = conversions * q - nulls * p;
	*weight = (conversions + nulls) * p * q;
}

static void
derive(Model *model)
{
	memset(model->gradient, 0, sizeof(double) * model->n);
	memset(model->hessian, 0, sizeof(double) * model->n * model->n);
	differentiate(model->idle_conversions, model->idle_nulls, model->coefficients[0],
				  &model->gradient[0], &model->hessian[0]);
	for (int i = 0; i < model->sets->nsets; i++)
	{
		const CdiPathSet *set = &model->sets->sets[i];
		double		residual;
		double		weight;

		CHECK_FOR_INTERRUPTS();
		differentiate(set->conversions, set->nulls, log_odds(set, model->coefficients), &residual, &weight);
		model->gradient[0] += residual;
		model->hessian[0] += weight;
		for (int m = 0; m < set->size; m++)
		{
			double		x = count_of(set, m);
			double	   *row = hessian_at(model, 1 + set->members[m]);

			model->gradient[1 + set->members[m]] += residual * x;
			model->hessian[1 + set->members[m]] += weight * x;
			for (int k = m; k < set->size; k++)
				row[1 + set->members[k]] += weight * x * count_of(set, k);
		}
	}
	for (int i = 1; i < model->n; i++)
	{
		model->gradient[i] -= model->options->ridge * model->coefficients[i];
		hessian_at(model, i)[i] += model->options->ridge;
	}
}

/*
 * Solve hessian * step = gradient in place of the gradient by Cholesky's
 * decomposition.  Returns -1, or the number of the coefficient that the ones
 * before it determine.  With a penalty there is none, however small it is
 * beside the rounding: what elimination leaves of it is no less than it was.
 */
static int
solve(Model *model)
{
	int			n = model->n;

	for (int k = 0; k < n; k++)
	{
		double	   *pivot_row = hessian_at(model, k);
		double		before = pivot_row[k];
		double		pivot;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < k; i++)
		{
			double		factor = hessian_at(model, i)[k];

			pivot_row[k] -= factor * factor;
		}
		pivot = pivot_row[k];
		if (k > 0 && model->options->ridge > 0)
			pivot = Max(pivot, model->options->ridge);
		else if (!(pivot > PIVOT_TOLERANCE * before))
			return k;
		pivot = pivot_row[k] = sqrt(pivot);
		for (int i = 0; i < k; i++)
		{
			const double *row = hessian_at(model, i);
			double		factor = row[k];

			if (factor == 0)
				continue;
			for (int j = k + 1; j < n; j++)
				pivot_row[j] -= factor * row[j];
		}
		for (int j = k + 1; j < n; j++)
			pivot_row[j] /= pivot;
	}
	for (int i = 0; i < n; i++)
	{
		const double *row = hessian_at(model, i);

		model->gradient[i] /= row[i];
		for (int j = i + 1; j < n; j++)
			model->gradient[j] -= row[j] * model->gradient[i];
	}
	for (int i = n - 1; i >= 0; i--)
	{
		const double *row = hessian_at(model, i);

		for (int j = i + 1; j < n; j++)
			model->gradient[i] -= row[j] * model->gradient[j];
		model->gradient[i] /= row[i];
	}
	return -1;
}

static char *
label_name(const Model *model, int coefficient)
{
	const CdiText *label = &model->paths->labels[coefficient - 1];

	return pnstrdup(label->data, label->len);
}

static void
refuse_collinear(const Model *model, int coefficient)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_NO_FIT),
			 errmsg("channel \"%s\" cannot be told from others in these paths", label_name(model, coefficient)),
			 errdetail("In all paths its touches follow from those of other channels, so its coefficient is not determined."),
			 errhint("Fit with a penalty (ridge 1), or take such channels together.")));
}

static void
refuse_separated(const Model *model)
{
	int			largest = 1;

	for (int i = 2; i < model->n; i++)
		if (fabs(model->coefficients[i]) > fabs(model->coefficients[largest]))
			largest = i;
	ereport(ERROR,
			(errcode(ERRCODE_CDI_NO_FIT),
			 errmsg("the likelihood of the logistic model has no maximum"),
			 errdetail("The channels separate conversions from the rest: the coefficient of \"%s\" has passed %.0f and still grows.",
					   label_name(model, largest), model->coefficients[largest]),
			 errhint("Fit with a penalty (ridge %g).", Max(1, 1000 * model->options->ridge))));
}

static void
fit(Model *model)
{
	double	   *next = palloc(sizeof(double) * model->n);
	double		conversions = model->sets->conversions + model->idle_conversions;
	double		nulls = model->sets->nulls + model->idle_nulls;
	double		reached;
	int			idle = 0;

	model->gradient = palloc(sizeof(double) * model->n);
	model->hessian = palloc(sizeof(double) * model->n * model->n);
	model->coefficients[0] = log(conversions / nulls);
	reached = objective(model, model->coefficients);
	for (int iteration = 0; iteration < MAX_ITERATIONS; iteration++)
	{
		double		factor = 1;
		double		largest = 0;
		double		got = 0;
		int			dependent;

		derive(model);
		dependent = solve(model);
		if (dependent > 0 && iteration == 0)
			refuse_collinear(model, dependent);
		if (dependent >= 0)
			break;
		for (int halving = 0; halving < MAX_HALVINGS; halving++)
		{
			for (int i = 0; i < model->n; i++)
				next[i] = model->coefficients[i] + factor * model->gradient[i];
			got = objective(model, next);
			if (got >= reached - 1e-12 * fabs(reached))
				break;
			factor /= 2;
		}
		for (int i = 0; i < model->n; i++)
			largest = Max(largest, fabs(next[i] - model->coefficients[i]) / (1 + fabs(next[i])));
		memcpy(model->coefficients, next, sizeof(double) * model->n);
		idle = got > reached + DBL_EPSILON * fabs(reached) ? 0 : idle + 1;
		reached = got;
		if (largest <= STEP_TOLERANCE || (model->options->ridge > 0 && idle == MAX_IDLE))
		{
			pfree(next);
			pfree(model->gradient);
			pfree(model->hessian);
			return;
		}
	}
	refuse_separated(model);
}

/*
 * Share one set's outcomes.  p - p without c is a common factor times
 * p/(exp(odds without c)) * (1 - exp(-b_c x_c)); in logarithms, since both may
 * underflow where p is near 1.
 */
static void
share_set(const Model *model, const CdiPathSet *set, double *shares, CdiPathCredit *credits)
{
	double		odds = log_odds(set, model->coefficients);
	double		largest = -INFINITY;
	double		total = 0;

	for (int m = 0; m < set->size; m++)
	{
		double		part = model->coefficients[1 + set->members[m]] * count_of(set, m);

		shares[m] = part > STEP_TOLERANCE ? log(-expm1(-part)) - softplus(odds - part) : -INFINITY;
		largest = Max(largest, shares[m]);
	}
	for (int m = 0; m < set->size; m++)
	{
		/* No label of the path makes a conversion likelier: equal shares. */
		shares[m] = isinf(largest) ? 1 : exp(shares[m] - largest);
		total += shares[m];
	}
	for (int m = 0; m < set->size; m++)
	{
		CdiPathCredit *credit = &credits[set->members[m]];

		credit->conversions += set->conversions * (shares[m] / total);
		credit->value += set->value * (shares[m] / total);
	}
}

void
cdi_logistic_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits)
{
	Model		model = {.paths = paths, .options = options};
	double	   *shares;
	double		nulls;

	for (int i = 0; i < paths->nlabels; i++)
		credits[i].conversions = credits[i].value = 0;
	model.sets = cdi_path_sets_create(paths, model.options->counts);
	for (int i = 0; i < paths->npaths; i++)
		if (paths->paths[i].length == 0)
		{
			model.idle_conversions += paths->paths[i].conversions;
			model.idle_nulls += paths->paths[i].nulls;
		}
	nulls = model.sets->nulls + model.idle_nulls;
	if (model.sets->conversions > 0 && nulls == 0 && !model.options->replicate)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NO_FIT),
				 errmsg("a logistic model needs paths that led to nothing"),
				 errdetail("All %g paths led to a conversion.", model.sets->conversions),
				 errhint("Add the paths of people who did not convert, with their number as nulls.")));
	if (paths->nlabels > CDI_LOGISTIC_MAX_LABELS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a logistic model takes at most %d channels, not %d", CDI_LOGISTIC_MAX_LABELS, paths->nlabels),
				 errhint("Take rare channels together, or use cdi_shapley().")));

	/* Without conversions the coefficients stay 0, and so does all credit but that of value. */
	model.n = 1 + paths->nlabels;
	model.coefficients = palloc0(sizeof(double) * model.n);
	if (model.sets->conversions > 0 && nulls > 0)
	{
		fit(&model);
		for (int i = 0; i < paths->nlabels; i++)
			credits[i].effect = model.coefficients[1 + i];
	}
	shares = palloc(sizeof(double) * model.n);
	for (int i = 0; i < model.sets->nsets; i++)
		share_set(&model, &model.sets->sets[i], shares, credits);
	pfree(shares);
	pfree(model.coefficients);
	cdi_path_sets_free(model.sets);
}
