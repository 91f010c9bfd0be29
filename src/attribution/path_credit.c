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
 * path's labels sum to these totals, as far as the paths allow that.
 *
 * For intervals a corpus is drawn and fitted anew: as many paths as there were,
 * of conversions and of those that led to nothing.
 */
#include "attribution/path_credit.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "attribution/hazard.h"
#include "attribution/logistic.h"
#include "attribution/markov.h"
#include "attribution/shapley.h"

/* A path of additive hazard, whose touches have ages */
typedef struct TimedPath
{
	int32		rank;			/* of the conversion; -1: led to nothing */
	int32		length;
	int32	   *touches;
	double	   *ages;
} TimedPath;

/* Paths of one model and conversion, and whether they led to one; no value decides about credit. */
typedef struct Corpus
{
	CdiPaths   *paths;			/* NULL: there are none.  Of additive hazard: one of each TimedPath */
	double	   *factors;		/* by path label of the journeys */

	/* of additive hazard, by number of the path */
	TimedPath  *timed;
	int			ntimed;
	int			timed_space;
	const double **ages;
	double	  **shares;

	/* by rank of the conversion */
	int32		nconversions;
	int32	   *places;			/* number of its path */

	/* of a replicate */
	CdiPath    *outcomes;
	uint32	   *drawn;			/* by rank */
} Corpus;

struct CdiPathCredits
{
	const CdiCreditModel *models;
	int			nmodels;
	const CdiBootstrap *bootstrap;
	CdiDefinition *definitions;
	CdiTouchLabel *labels;
	int			nlabels;
	int			npath_labels;
	int			ndefinitions;
	Corpus	   *corpora;		/* by model and definition */
	MemoryContext context;
	int32	   *numbers;		/* of a path */
	int			space;
	int		   *counts;			/* by path label: touches in the path that is asked for */
};

static Corpus *
corpus_of(const CdiPathCredits *self, int model, int definition)
{
	return &self->corpora[(int64) model * self->ndefinitions + definition];
}

bool
cdi_path_credits_needs_corpus(const CdiCreditModel *model)
{
	return model->kind == CDI_MODEL_PATHS &&
		(model->path_model != CDI_PATH_SHAPLEY || model->rate) && model->path_model != CDI_PATH_SHAPLEY_ORDERED;
}

/* Days from a touch to the end; known to the second at best */
static double
age_of(const CdiTouch *touch, TimestampTz end)
{
	return Max(cdi_model_age(touch->at, end), 0) / (double) USECS_PER_DAY;
}

static void
add_timed(Corpus *corpus, const CdiCredit *credit, const int32 *numbers)
{
	TimestampTz end = credit->conversion ? credit->conversion->at : credit->seen_until;
	TimedPath  *path;

	if (corpus->timed == NULL)
	{
		corpus->timed_space = 64;
		corpus->timed = palloc(sizeof(TimedPath) * corpus->timed_space);
	}
	if (corpus->ntimed == corpus->timed_space)
	{
		corpus->timed_space *= 2;
		corpus->timed = repalloc_huge(corpus->timed, sizeof(TimedPath) * corpus->timed_space);
	}
	path = &corpus->timed[corpus->ntimed++];
	path->rank = credit->conversion ? credit->conversion->rank : -1;
	path->length = credit->n;
	path->touches = palloc_extended(sizeof(int32) * Max(credit->n, 1), MCXT_ALLOC_HUGE);
	path->ages = palloc_extended(sizeof(double) * Max(credit->n, 1), MCXT_ALLOC_HUGE);
	memcpy(path->touches, numbers, sizeof(int32) * credit->n);
	for (int i = 0; i < credit->n; i++)
		path->ages[i] = age_of(credit->touches[i], end);
}

static void
begin_corpus(CdiPathCredits *self, Corpus *corpus, int definition)
{
	corpus->paths = cdi_paths_create(self->context);
	corpus->nconversions = (int32) self->definitions[definition].nconversions;
	corpus->places = palloc_extended(sizeof(int32) * corpus->nconversions, MCXT_ALLOC_HUGE);
}

/* Room for the numbers of a path. */
static int32 *
number_space(CdiPathCredits *self, int n)
{
	/* never null, which memcpy() may not get */
	if (n >= self->space)
	{
		self->space = Max(n + 1, 1024);
		self->numbers = MemoryContextAllocHuge(self->context, sizeof(int32) * self->space);
	}
	return self->numbers;
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
	int32	   *numbers;
	int32		place = 0;

	if (!cdi_path_credits_needs_corpus(model))
		return;
	previous = MemoryContextSwitchTo(self->context);
	if (corpus->paths == NULL)
		begin_corpus(self, corpus, credit->definition);
	numbers = number_space(self, credit->n);
	for (int i = 0; i < credit->n; i++)
		numbers[i] = cdi_paths_label(corpus->paths, self->labels[credit->touches[i]->label].path_label);
	if (model->path_model == CDI_PATH_HAZARD)
		add_timed(corpus, credit, numbers);
	else
		place = cdi_paths_add(corpus->paths, numbers, credit->n, conversion ? 1 : 0, 0, conversion ? 0 : 1);
	if (conversion)
		corpus->places[conversion->rank] = place;
	MemoryContextSwitchTo(previous);
}

/* Conversions by rank, then the others by labels and ages. */
static int
compare_timed(const void *a, const void *b)
{
	const TimedPath *left = a;
	const TimedPath *right = b;

	if (left->rank >= 0 || right->rank >= 0)
		return (uint32) left->rank < (uint32) right->rank ? -1 : (uint32) left->rank > (uint32) right->rank;
	if (left->length != right->length)
		return left->length < right->length ? -1 : 1;
	for (int i = 0; i < left->length; i++)
		if (left->touches[i] != right->touches[i])
			return left->touches[i] < right->touches[i] ? -1 : 1;
	for (int i = 0; i < left->length; i++)
		if (left->ages[i] != right->ages[i])
			return left->ages[i] < right->ages[i] ? -1 : 1;
	return 0;
}

/* Rows in an order that is theirs; a conversion's number is then its rank. */
static void
sort_timed(CdiPathCredits *self, Corpus *corpus)
{
	int32	   *numbers = cdi_paths_sort_labels(corpus->paths);
	Size		n = corpus->ntimed;
	CdiPath    *paths = MemoryContextAllocHuge(self->context, sizeof(CdiPath) * n);

	corpus->ages = MemoryContextAllocHuge(self->context, sizeof(double *) * n);
	corpus->shares = MemoryContextAllocHuge(self->context, sizeof(double *) * n);
	for (int p = 0; p < corpus->ntimed; p++)
		for (int i = 0; i < corpus->timed[p].length; i++)
			corpus->timed[p].touches[i] = numbers[corpus->timed[p].touches[i]];
	qsort(corpus->timed, n, sizeof(TimedPath), compare_timed);
	for (int p = 0; p < corpus->ntimed; p++)
	{
		const TimedPath *timed = &corpus->timed[p];
		bool		converted = timed->rank >= 0;

		if (converted)
			corpus->places[timed->rank] = p;
		paths[p] = (CdiPath) {.length = timed->length,.touches = timed->touches,
		.conversions = converted,.nulls = !converted};
		corpus->ages[p] = timed->ages;
		corpus->shares[p] = MemoryContextAllocExtended(self->context, sizeof(double) * Max(timed->length, 1), MCXT_ALLOC_HUGE);
	}
	corpus->paths->paths = paths;
	corpus->paths->npaths = corpus->ntimed;
	pfree(numbers);
}

static void
sort_paths(Corpus *corpus)
{
	int32	   *places = palloc_extended(sizeof(int32) * corpus->paths->npaths, MCXT_ALLOC_HUGE);

	cdi_paths_sort(corpus->paths);
	for (int p = 0; p < corpus->paths->npaths; p++)
		places[corpus->paths->paths[p].entry] = p;
	for (int32 rank = 0; rank < corpus->nconversions; rank++)
		corpus->places[rank] = places[corpus->places[rank]];
	pfree(places);
}

/* From the order of a corpus' labels to the numbers of the journeys */
static void
keep_factors(CdiPathCredits *self, Corpus *corpus, const double *factors)
{
	if (corpus->factors == NULL)
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

/* What the labels or touches of the corpus get, paths having these outcomes. */
static void
fit_corpus(CdiPathCredits *self, const CdiCreditModel *model, Corpus *corpus, const CdiPaths *paths)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdi path model", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(scratch);
	CdiPathCredit *credits = cdi_paths_credits(paths->nlabels);
	CdiMarkovOptions markov = {.order = model->order};
	CdiShapleyOptions shapley = CDI_SHAPLEY_DEFAULT;
	CdiLogisticOptions logistic = CDI_LOGISTIC_DEFAULT;
	CdiHazardOptions hazard = CDI_HAZARD_DEFAULT;

	switch (model->path_model)
	{
		case CDI_PATH_MARKOV:
			cdi_markov_credit(paths, &markov, credits);
			break;
		case CDI_PATH_SHAPLEY:
			shapley.game = CDI_SHAPLEY_RATE;
			shapley.seed = self->bootstrap->seed;
			cdi_shapley_credit(paths, &shapley, credits);
			break;
		case CDI_PATH_LOGISTIC:
			logistic.ridge = model->ridge;
			logistic.counts = model->counts;
			logistic.replicate = paths->paths == corpus->outcomes;
			cdi_logistic_credit(paths, &logistic, credits);
			break;
		case CDI_PATH_HAZARD:
			hazard.ages = corpus->ages;
			hazard.shares = corpus->shares;
			cdi_hazard_credit(paths, &hazard, credits);
			break;
		case CDI_PATH_SHAPLEY_ORDERED:
			break;
	}
	if (model->path_model != CDI_PATH_HAZARD)
		keep_factors(self, corpus, cdi_path_factors(paths, credits));
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
}

CdiPathCredits *
cdi_path_credits_fit(const CdiCreditModel *models, int nmodels, const CdiBootstrap *bootstrap,
					 CdiJourneys *journeys, CdiCreditRun *run)
{
	CdiPathCredits *self;
	bool		any = false;
	bool		corpora = false;

	for (int m = 0; m < nmodels; m++)
	{
		any |= models[m].kind == CDI_MODEL_PATHS;
		corpora |= cdi_path_credits_needs_corpus(&models[m]);
	}
	if (!any)
		return NULL;
	self = palloc0(sizeof(CdiPathCredits));
	self->models = models;
	self->nmodels = nmodels;
	self->bootstrap = bootstrap;
	self->context = AllocSetContextCreate(CurrentMemoryContext, "cdi paths of a call", ALLOCSET_DEFAULT_SIZES);
	self->nlabels = cdi_journeys_labels(journeys, &self->labels);
	for (int l = 0; l < self->nlabels; l++)
		self->npath_labels = Max(self->npath_labels, self->labels[l].path_number + 1);
	self->counts = palloc0(sizeof(int) * Max(self->npath_labels, 1));
	self->ndefinitions = cdi_journeys_definitions(journeys, &self->definitions);
	self->corpora = palloc0(sizeof(Corpus) * Max(nmodels * self->ndefinitions, 1));
	if (!corpora)
		return self;
	cdi_credit_run_paths(run, journeys, add_path, self);
	for (int m = 0; m < nmodels; m++)
		for (int d = 0; d < self->ndefinitions; d++)
		{
			Corpus	   *corpus = corpus_of(self, m, d);

			if (corpus->paths == NULL)
				continue;
			if (models[m].path_model == CDI_PATH_HAZARD)
				sort_timed(self, corpus);
			else
				sort_paths(corpus);
			fit_corpus(self, &models[m], corpus, corpus->paths);
		}
	return self;
}

/* Draws what became of the paths: conversions among themselves, the others by the number of each path. */
static void
draw_outcomes(CdiPathCredits *self, Corpus *corpus, pg_prng_state *prng)
{
	const CdiPaths *paths = corpus->paths;
	double		nulls = 0;
	double		converted;
	double		left;

	if (corpus->outcomes == NULL)
	{
		corpus->outcomes = MemoryContextAllocHuge(self->context, sizeof(CdiPath) * paths->npaths);
		corpus->drawn = MemoryContextAllocHuge(self->context, sizeof(uint32) * corpus->nconversions);
	}
	for (int p = 0; p < paths->npaths; p++)
		nulls += paths->paths[p].nulls;
	left = corpus->nconversions + nulls;
	converted = cdi_bootstrap_binomial(prng, left, corpus->nconversions / left);
	cdi_bootstrap_draw(prng, (int64) converted, corpus->nconversions, corpus->drawn);
	left -= converted;
	for (int p = 0; p < paths->npaths; p++)
	{
		CdiPath    *outcome = &corpus->outcomes[p];

		*outcome = paths->paths[p];
		outcome->conversions = 0;
		if (outcome->nulls == 0)
			continue;
		outcome->nulls = cdi_bootstrap_binomial(prng, left, outcome->nulls / nulls);
		left -= outcome->nulls;
		nulls -= paths->paths[p].nulls;
	}
	for (int32 rank = 0; rank < corpus->nconversions; rank++)
		corpus->outcomes[corpus->places[rank]].conversions += corpus->drawn[rank];
}

void
cdi_path_credits_resample(CdiPathCredits *self, int replicate)
{
	for (int m = 0; m < self->nmodels; m++)
		for (int d = 0; d < self->ndefinitions; d++)
		{
			Corpus	   *corpus = corpus_of(self, m, d);
			CdiPaths	paths;
			pg_prng_state prng;

			if (corpus->paths == NULL)
				continue;
			cdi_bootstrap_stream(&prng, self->bootstrap, replicate, self->definitions[d].name);
			draw_outcomes(self, corpus, &prng);
			paths = *corpus->paths;
			paths.paths = corpus->outcomes;
			fit_corpus(self, &self->models[m], corpus, &paths);
		}
}

const uint32 *
cdi_path_credits_drawn(const CdiPathCredits *self, int model, int definition)
{
	return corpus_of(self, model, definition)->drawn;
}

/* Weights by the factors of the touches' labels, or equal ones where there are none */
static void
weigh_labels(CdiPathCredits *self, const CdiCreditModel *model, const double *factors,
			 const int32 *labels, int n, double *weights)
{
	for (int i = 0; i < n; i++)
		self->counts[self->labels[labels[i]].path_number]++;
	for (int i = n - 1; i >= 0; i--)
	{
		int32		label = self->labels[labels[i]].path_number;

		weights[i] = factors ? factors[label] : 1.0;
		if (model->path_model != CDI_PATH_SHAPLEY_ORDERED)
			weights[i] /= self->counts[label];
	}
	for (int i = 0; i < n; i++)
	{
		int32		label = self->labels[labels[i]].path_number;

		/* the first touch of a label is where it stands in the order */
		if (model->path_model == CDI_PATH_SHAPLEY_ORDERED && self->counts[label] == 0)
			weights[i] = 0;
		self->counts[label] = 0;
	}
}

double
cdi_path_credits_weigh_labels(CdiPathCredits *self, int model, int definition, int32 rank,
							  const int32 *labels, int n, double *weights)
{
	const Corpus *corpus = corpus_of(self, model, definition);
	double		total = 0;

	if (corpus->shares)
		memcpy(weights, corpus->shares[corpus->places[rank]], sizeof(double) * n);
	else
		weigh_labels(self, &self->models[model], corpus->factors, labels, n, weights);
	for (int i = 0; i < n; i++)
		total += weights[i];
	if (total > 0 && !isinf(total))
		return total;
	for (int i = 0; i < n; i++)
		weights[i] = 1.0;
	return n;
}

double
cdi_path_credits_weigh(void *arg, const CdiCredit *credit, double *weights)
{
	CdiPathCredits *self = arg;
	int32	   *labels = number_space(self, credit->n);

	for (int i = 0; i < credit->n; i++)
		labels[i] = credit->touches[i]->label;
	return cdi_path_credits_weigh_labels(self, credit->model, credit->definition, credit->conversion->rank,
										 labels, credit->n, weights);
}
