/*
 * path_credit.c
 *		Path models in cdi_attribution().
 *
 * A first visit of everyone's journeys makes the paths, one corpus per model
 * and conversion, with those that led to nothing; the model says what each
 * label is worth over all of them.  A second visit, which is that of every
 * model, asks for the weights of the touches of one conversion.
 *
 * Shapley values of the additive game are a property of each path by itself
 * (its labels share equally) and need no corpus.  Additive hazard says what each
 * touch of each path gets.  Of the others a model gives totals per label; a
 * factor per label is fitted so that shares in proportion to the factors of a
 * path's labels sum to these totals (iterative proportional fitting), as far
 * as the paths allow that.
 */
#include "attribution/path_credit.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "attribution/hazard.h"
#include "attribution/logistic.h"
#include "attribution/markov.h"
#include "attribution/shapley.h"

#define MAX_ROUNDS	1000
#define CLOSE_ENOUGH	1e-13	/* of all conversions */

/* Paths of one model and conversion, and what became of them */
typedef struct Corpus
{
	bool		used;
	CdiPaths   *paths;
	double	   *factors;		/* by path label of the journeys */

	/* of additive hazard: each path by itself, in the order of visits */
	CdiPath    *timed;
	double	  **ages;
	double	  **shares;
	int			ntimed;
	int			timed_space;
	int			next;			/* timed path of the conversion that is asked for next */
} Corpus;

struct CdiPathCredits
{
	const CdiCreditModel *models;
	const CdiJourneyRequest *request;
	CdiTouchLabel *labels;
	int			nlabels;
	int			npath_labels;
	int			ndefinitions;
	Corpus	   *corpora;		/* by model and definition */
	MemoryContext context;
	int32	   *numbers;		/* of a path */
	int			space;
	int		   *counts;			/* by path label: touches in the path that is asked for */
	TimestampTz latest;			/* end of what was seen */
};

static Corpus *
corpus_of(CdiPathCredits *self, int model, int definition)
{
	return &self->corpora[(int64) model * self->ndefinitions + definition];
}

static bool
needs_corpus(const CdiCreditModel *model)
{
	return model->kind == CDI_MODEL_PATHS &&
		(model->path_model != CDI_PATH_SHAPLEY || model->rate) && model->path_model != CDI_PATH_SHAPLEY_ORDERED;
}

static double
value_of(Datum value)
{
	return value == (Datum) 0 ? 0 : DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, value));
}

/* Days from a touch to the end; known to the second at best */
static double
age_of(const CdiTouch *touch, TimestampTz end)
{
	if (TIMESTAMP_NOT_FINITE(touch->at) || TIMESTAMP_NOT_FINITE(end))
		return 0;
	return Max(end - touch->at, 0) / (double) USECS_PER_DAY;
}

/* A path of additive hazard */
static void
add_timed(CdiPathCredits *self, Corpus *corpus, const CdiCredit *credit, TimestampTz end,
		  double conversions, double value, double nulls)
{
	CdiPath    *path;
	double	   *ages;

	if (corpus->ntimed == corpus->timed_space)
	{
		corpus->timed_space = Max(64, 2 * corpus->timed_space);
		if (corpus->timed == NULL)
		{
			corpus->timed = palloc(sizeof(CdiPath) * corpus->timed_space);
			corpus->ages = palloc(sizeof(double *) * corpus->timed_space);
		}
		corpus->timed = repalloc_huge(corpus->timed, sizeof(CdiPath) * corpus->timed_space);
		corpus->ages = repalloc_huge(corpus->ages, sizeof(double *) * corpus->timed_space);
	}
	ages = palloc_extended(sizeof(double) * Max(credit->n, 1), MCXT_ALLOC_HUGE);
	path = &corpus->timed[corpus->ntimed];
	path->length = credit->n;
	path->touches = palloc_extended(sizeof(int32) * Max(credit->n, 1), MCXT_ALLOC_HUGE);
	memcpy(path->touches, self->numbers, sizeof(int32) * credit->n);
	path->conversions = conversions;
	path->value = value;
	path->nulls = nulls;
	for (int i = 0; i < credit->n; i++)
		ages[i] = age_of(credit->touches[i], end);
	corpus->ages[corpus->ntimed++] = ages;
}

/*
 * CdiCreditSink of the first visit: a path of a conversion, or of touches that
 * led to none, whose conversion is NULL.
 */
static void
add_path(void *arg, const CdiCredit *credit)
{
	CdiPathCredits *self = arg;
	const CdiCreditModel *model = &self->models[credit->model];
	Corpus	   *corpus = corpus_of(self, credit->model, credit->definition);
	const CdiConversion *conversion = credit->conversion;
	MemoryContext previous;
	double		value = conversion ? value_of(conversion->value) : 0;

	if (!needs_corpus(model))
		return;
	previous = MemoryContextSwitchTo(self->context);
	corpus->used = true;
	if (corpus->paths == NULL)
		corpus->paths = cdi_paths_create(self->context);
	if (credit->n > self->space)
	{
		self->space = Max(credit->n, 1024);
		self->numbers = palloc_extended(sizeof(int32) * self->space, MCXT_ALLOC_HUGE);
	}
	for (int i = 0; i < credit->n; i++)
		self->numbers[i] = cdi_paths_label(corpus->paths, self->labels[credit->touches[i]->label].path_label);
	if (model->path_model != CDI_PATH_HAZARD)
		cdi_paths_add(corpus->paths, self->numbers, credit->n, conversion ? 1 : 0, value, conversion ? 0 : 1);
	else
		add_timed(self, corpus, credit, conversion ? conversion->at : credit->seen_until,
				  conversion ? 1 : 0, value, conversion ? 0 : 1);
	MemoryContextSwitchTo(previous);
}

/* Distinct labels of every path that has conversions */
typedef struct LabelSet
{
	int			n;
	int32	   *labels;
	double		conversions;
} LabelSet;

static LabelSet *
label_sets(const CdiPaths *paths, int *nsets)
{
	LabelSet   *sets = palloc_extended(sizeof(LabelSet) * Max(paths->npaths, 1), MCXT_ALLOC_HUGE);
	int		   *seen = palloc0(sizeof(int) * Max(paths->nlabels, 1));

	*nsets = 0;
	for (int p = 0; p < paths->npaths; p++)
	{
		const CdiPath *path = &paths->paths[p];
		LabelSet   *set = &sets[*nsets];

		if (path->length == 0 || path->conversions <= 0)
			continue;
		set->n = 0;
		set->labels = palloc_extended(sizeof(int32) * path->length, MCXT_ALLOC_HUGE);
		set->conversions = path->conversions;
		for (int i = 0; i < path->length; i++)
			if (seen[path->touches[i]] != p + 1)
			{
				seen[path->touches[i]] = p + 1;
				set->labels[set->n++] = path->touches[i];
			}
		(*nsets)++;
	}
	return sets;
}

/*
 * Factors so that the labels' shares sum to what the model credits them with.
 * Where that cannot be (a path of one label has no choice), the rounds end at
 * the closest that they come to.
 */
static double *
fit_factors(const CdiPaths *paths, const CdiPathCredit *credits)
{
	double	   *factors = palloc(sizeof(double) * Max(paths->nlabels, 1));
	double	   *sums = palloc(sizeof(double) * Max(paths->nlabels, 1));
	double		total = 0;
	int			nsets;
	LabelSet   *sets = label_sets(paths, &nsets);

	for (int l = 0; l < paths->nlabels; l++)
	{
		factors[l] = credits[l].conversions > 0 ? credits[l].conversions : 0;
		total += factors[l];
	}
	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		double		most = 0;

		CHECK_FOR_INTERRUPTS();
		memset(sums, 0, sizeof(double) * paths->nlabels);
		for (int s = 0; s < nsets; s++)
		{
			double		sum = 0;

			for (int i = 0; i < sets[s].n; i++)
				sum += factors[sets[s].labels[i]];
			for (int i = 0; i < sets[s].n && sum > 0; i++)
				sums[sets[s].labels[i]] += sets[s].conversions * factors[sets[s].labels[i]] / sum;
		}
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
	return factors;
}

/* From the order of a corpus' labels to the numbers of the journeys */
static void
keep_factors(CdiPathCredits *self, Corpus *corpus, const double *factors)
{
	corpus->factors = MemoryContextAllocZero(self->context, sizeof(double) * Max(self->npath_labels, 1));
	for (int l = 0; l < self->nlabels; l++)
	{
		CdiText		wanted = self->labels[l].path_label;
		int			low = 0;
		int			high = corpus->paths->nlabels - 1;

		while (low <= high)
		{
			int			middle = (low + high) / 2;
			CdiText		label = corpus->paths->labels[middle];
			int			order = memcmp(label.data, wanted.data, Min(label.len, wanted.len));

			if (order == 0)
				order = label.len - wanted.len;
			if (order == 0)
			{
				corpus->factors[self->labels[l].path_number] = factors[middle];
				break;
			}
			if (order < 0)
				low = middle + 1;
			else
				high = middle - 1;
		}
	}
}

static void
fit_timed(CdiPathCredits *self, Corpus *corpus, CdiPathCredit **credits)
{
	CdiHazardOptions options = CDI_HAZARD_DEFAULT;
	int32	   *numbers = cdi_paths_sort_labels(corpus->paths);

	corpus->shares = MemoryContextAllocHuge(self->context, sizeof(double *) * Max(corpus->ntimed, 1));
	for (int p = 0; p < corpus->ntimed; p++)
	{
		for (int i = 0; i < corpus->timed[p].length; i++)
			corpus->timed[p].touches[i] = numbers[corpus->timed[p].touches[i]];
		corpus->shares[p] = MemoryContextAllocExtended(self->context, sizeof(double) * Max(corpus->timed[p].length, 1),
													   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	}
	corpus->paths->paths = corpus->timed;
	corpus->paths->npaths = corpus->ntimed;
	options.ages = (const double *const *) corpus->ages;
	options.shares = corpus->shares;
	*credits = palloc(sizeof(CdiPathCredit) * Max(corpus->paths->nlabels, 1));
	cdi_paths_clear_credits(corpus->paths, *credits);
	cdi_hazard_credit(corpus->paths, &options, *credits);
}

static void
fit_corpus(CdiPathCredits *self, const CdiCreditModel *model, Corpus *corpus)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdi path model", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(scratch);
	CdiPathCredit *credits;

	if (model->path_model == CDI_PATH_HAZARD)
		fit_timed(self, corpus, &credits);
	else
	{
		CdiMarkovOptions markov = {.order = model->order};
		CdiShapleyOptions shapley = CDI_SHAPLEY_DEFAULT;
		CdiLogisticOptions logistic = CDI_LOGISTIC_DEFAULT;

		cdi_paths_sort(corpus->paths);
		credits = palloc(sizeof(CdiPathCredit) * Max(corpus->paths->nlabels, 1));
		cdi_paths_clear_credits(corpus->paths, credits);
		shapley.game = CDI_SHAPLEY_RATE;
		if (model->ridge >= 0)
			logistic.ridge = model->ridge;
		logistic.counts = model->counts;
		switch (model->path_model)
		{
			case CDI_PATH_MARKOV:
				cdi_markov_credit(corpus->paths, &markov, credits);
				break;
			case CDI_PATH_SHAPLEY:
				cdi_shapley_credit(corpus->paths, &shapley, credits);
				break;
			case CDI_PATH_LOGISTIC:
				cdi_logistic_credit(corpus->paths, &logistic, credits);
				break;
			case CDI_PATH_SHAPLEY_ORDERED:
			case CDI_PATH_HAZARD:
				break;
		}
		keep_factors(self, corpus, fit_factors(corpus->paths, credits));
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
}

CdiPathCredits *
cdi_path_credits_fit(const CdiCreditModel *models, int nmodels, const CdiJourneyRequest *request,
					 CdiJourneys *journeys, CdiCreditRun *run)
{
	CdiPathCredits *self;
	CdiDefinition *definitions;
	bool		any = false;
	bool		corpora = false;

	for (int m = 0; m < nmodels; m++)
	{
		any |= models[m].kind == CDI_MODEL_PATHS;
		corpora |= needs_corpus(&models[m]);
	}
	if (!any)
		return NULL;
	self = palloc0(sizeof(CdiPathCredits));
	self->models = models;
	self->request = request;
	self->context = AllocSetContextCreate(CurrentMemoryContext, "cdi paths of a call", ALLOCSET_DEFAULT_SIZES);
	self->nlabels = cdi_journeys_labels(journeys, &self->labels);
	for (int l = 0; l < self->nlabels; l++)
		self->npath_labels = Max(self->npath_labels, self->labels[l].path_number + 1);
	self->counts = palloc0(sizeof(int) * Max(self->npath_labels, 1));
	self->ndefinitions = cdi_journeys_definitions(journeys, &definitions);
	self->corpora = palloc0(sizeof(Corpus) * Max(nmodels * self->ndefinitions, 1));
	if (!corpora)
		return self;
	cdi_credit_run_paths(run, journeys, add_path, self);
	for (int m = 0; m < nmodels; m++)
		for (int d = 0; d < self->ndefinitions; d++)
			if (corpus_of(self, m, d)->used)
				fit_corpus(self, &models[m], corpus_of(self, m, d));
	return self;
}

double
cdi_path_credits_weigh(void *arg, const CdiCredit *credit, double *weights)
{
	CdiPathCredits *self = arg;
	const CdiCreditModel *model = &self->models[credit->model];
	Corpus	   *corpus = corpus_of(self, credit->model, credit->definition);
	double		total = 0;

	if (model->path_model == CDI_PATH_HAZARD)
	{
		/* visits are the same as those that added the paths */
		while (corpus->timed[corpus->next].conversions <= 0 || corpus->timed[corpus->next].length == 0)
			corpus->next++;
		Assert(corpus->timed[corpus->next].length == credit->n);
		memcpy(weights, corpus->shares[corpus->next++], sizeof(double) * credit->n);
		for (int i = 0; i < credit->n; i++)
			total += weights[i];
	}
	else
	{
		for (int i = 0; i < credit->n; i++)
			self->counts[self->labels[credit->touches[i]->label].path_number]++;
		for (int i = credit->n - 1; i >= 0; i--)
		{
			int32		label = self->labels[credit->touches[i]->label].path_number;
			int			count = self->counts[label];

			weights[i] = corpus->factors ? corpus->factors[label] : 1.0;
			if (model->path_model != CDI_PATH_SHAPLEY_ORDERED)
				weights[i] /= count;
		}
		for (int i = 0; i < credit->n; i++)
		{
			int32		label = self->labels[credit->touches[i]->label].path_number;

			/* the first touch of a label is where it stands in the order */
			if (model->path_model == CDI_PATH_SHAPLEY_ORDERED && self->counts[label] == 0)
				weights[i] = 0;
			self->counts[label] = 0;
			total += weights[i];
		}
	}
	if (total > 0 && !isinf(total))
		return total;
	for (int i = 0; i < credit->n; i++)
		weights[i] = 1.0;
	return credit->n;
}
