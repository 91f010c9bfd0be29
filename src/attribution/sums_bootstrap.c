/*
 * sums_bootstrap.c
 *		Intervals of sums of credit, by resampling the conversions.
 *
 * A replicate draws as many observations of a conversion's name as there were,
 * with replacement (Efron, The Annals of Statistics 7, 1979), and credit is
 * shared out and summed again; bounds are percentiles of the sums.  To a rule
 * an observation is a conversion with its path.  To a model of all paths it is
 * a path, be it of a conversion or of none, and the model is fitted anew.
 *
 * What a rule gives to a touch does not depend on what was drawn, so it is
 * kept from the first time; a replicate then is a pass over numbers.  They
 * stand by rank of their conversions: no plan and no order of rows changes a
 * bit of a bound.
 */
#include "attribution/sums_bootstrap.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/* How a model shares out a conversion */
typedef struct Observation
{
	int32		model;
	int32		definition;
	int32		rank;
	int32		n;				/* touches; 0: one figure gets all */
	int64		first;			/* figure of its first touch */
	double		value;
} Observation;

struct CdiSumsBootstrap
{
	const CdiAttributionCall *call;
	CdiDefinition *definitions;
	int			ndefinitions;
	bool		corpora;		/* some model is fitted to all paths */
	MemoryContext context;

	Observation *observations;
	int64		nobservations;
	int64		observation_space;
	int64		ntouches;
	int64		touch_space;
	int32	   *figures;		/* by touch */
	int32	   *labels;			/* the same, for models that are fitted anew */
	double	   *shares;			/* the same, for the others */
	int			longest;
};

CdiSumsBootstrap *
cdi_sums_bootstrap_begin(const CdiAttributionCall *call)
{
	CdiSumsBootstrap *self = palloc0(sizeof(CdiSumsBootstrap));

	self->call = call;
	self->ndefinitions = cdi_journeys_definitions(call->journeys, &self->definitions);
	for (int m = 0; m < call->nmodels; m++)
		self->corpora |= cdi_path_credits_needs_corpus(&call->models[m]);
	self->context = AllocSetContextCreate(CurrentMemoryContext, "cdi bootstrap of sums", ALLOCSET_DEFAULT_SIZES);
	self->observation_space = self->touch_space = 1024;
	self->observations = MemoryContextAlloc(self->context, sizeof(Observation) * self->observation_space);
	self->figures = MemoryContextAlloc(self->context, sizeof(int32) * self->touch_space);
	self->labels = MemoryContextAlloc(self->context, sizeof(int32) * self->touch_space);
	self->shares = MemoryContextAlloc(self->context, sizeof(double) * self->touch_space);
	return self;
}

static void
make_room(CdiSumsBootstrap *self, int n)
{
	if (self->nobservations == self->observation_space)
	{
		self->observation_space *= 2;
		self->observations = repalloc_huge(self->observations, sizeof(Observation) * self->observation_space);
	}
	if (self->ntouches + n <= self->touch_space)
		return;
	self->touch_space = Max(2 * self->touch_space, self->ntouches + n);
	self->figures = repalloc_huge(self->figures, sizeof(int32) * self->touch_space);
	self->labels = repalloc_huge(self->labels, sizeof(int32) * self->touch_space);
	self->shares = repalloc_huge(self->shares, sizeof(double) * self->touch_space);
}

void
cdi_sums_bootstrap_add(CdiSumsBootstrap *self, const CdiCredit *credit, const int32 *figures)
{
	const CdiConversion *conversion = credit->conversion;
	Observation *observation;
	int			n = Max(credit->n, 1);

	make_room(self, n);
	observation = &self->observations[self->nobservations++];
	*observation = (Observation) {credit->model, credit->definition, conversion->rank, credit->n, self->ntouches, 0};
	if (conversion->value != (Datum) 0)
		observation->value = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, conversion->value));
	memcpy(self->figures + self->ntouches, figures, sizeof(int32) * n);
	for (int i = 0; i < credit->n; i++)
	{
		self->labels[self->ntouches + i] = credit->touches[i]->label;
		self->shares[self->ntouches + i] = credit->weights[i] / (credit->whole ? 1 : credit->total);
	}
	if (credit->n == 0)
		self->shares[self->ntouches] = 1;
	self->longest = Max(self->longest, n);
	self->ntouches += n;
}

static int
compare_observations(const void *a, const void *b, void *arg)
{
	const Observation *left = a;
	const Observation *right = b;
	const CdiSumsBootstrap *self = arg;

	if (left->model != right->model)
		return left->model < right->model ? -1 : 1;
	if (left->definition != right->definition)
		return strcmp(self->definitions[left->definition].name, self->definitions[right->definition].name);
	return left->rank < right->rank ? -1 : left->rank > right->rank;
}

/* What a replicate draws for the rules: by definition and rank */
static void
draw_conversions(const CdiSumsBootstrap *self, int replicate, uint32 **drawn)
{
	for (int d = 0; d < self->ndefinitions; d++)
	{
		int64		n = self->definitions[d].nconversions;
		pg_prng_state prng;

		if (n == 0)
			continue;
		cdi_bootstrap_stream(&prng, &self->call->options.bootstrap, replicate, self->definitions[d].name);
		cdi_bootstrap_draw(&prng, n, (int32) n, drawn[d]);
	}
}

/* Sums of a replicate, by figure */
static void
sum_up(CdiSumsBootstrap *self, uint32 *const *drawn, double *scratch, double *conversions, double *values)
{
	for (int64 o = 0; o < self->nobservations; o++)
	{
		const Observation *observation = &self->observations[o];
		const int32 *figures = self->figures + observation->first;
		const double *shares = self->shares + observation->first;
		bool		fitted = cdi_path_credits_needs_corpus(&self->call->models[observation->model]);
		double		times = fitted ?
			cdi_path_credits_drawn(self->call->path_credits, observation->model, observation->definition)[observation->rank] :
			drawn[observation->definition][observation->rank];

		if (o % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		if (times == 0)
			continue;
		if (fitted && observation->n > 0)
		{
			double		total = cdi_path_credits_weigh_labels(self->call->path_credits, observation->model,
															  observation->definition, observation->rank,
															  self->labels + observation->first, observation->n, scratch);

			for (int i = 0; i < observation->n; i++)
				scratch[i] /= total;
			shares = scratch;
		}
		for (int i = 0; i < Max(observation->n, 1); i++)
		{
			conversions[figures[i]] += times * shares[i];
			values[figures[i]] += times * shares[i] * observation->value;
		}
	}
}

CdiBounds *
cdi_sums_bootstrap_end(CdiSumsBootstrap *self, int nfigures)
{
	const CdiBootstrap *bootstrap = &self->call->options.bootstrap;
	int			n = bootstrap->replicates;
	CdiBounds  *bounds = palloc_extended(sizeof(CdiBounds) * Max(nfigures, 1), MCXT_ALLOC_HUGE);
	MemoryContext previous = MemoryContextSwitchTo(self->context);
	Size		size = sizeof(double) * nfigures;
	double	   *conversions = palloc_extended(size + 1, MCXT_ALLOC_HUGE);
	double	   *values = palloc_extended(size + 1, MCXT_ALLOC_HUGE);
	double	   *all_conversions = palloc_extended(size * n + 1, MCXT_ALLOC_HUGE);
	double	   *all_values = palloc_extended(size * n + 1, MCXT_ALLOC_HUGE);
	double	   *scratch = palloc_extended(sizeof(double) * (self->longest + 1), MCXT_ALLOC_HUGE);
	uint32	  **drawn = palloc(sizeof(uint32 *) * Max(self->ndefinitions, 1));

	for (int d = 0; d < self->ndefinitions; d++)
		drawn[d] = palloc_extended(sizeof(uint32) * (self->definitions[d].nconversions + 1), MCXT_ALLOC_HUGE);
	qsort_arg(self->observations, self->nobservations, sizeof(Observation), compare_observations, self);
	for (int r = 0; r < n; r++)
	{
		draw_conversions(self, r, drawn);
		if (self->corpora)
			cdi_path_credits_resample(self->call->path_credits, r);
		memset(conversions, 0, size);
		memset(values, 0, size);
		sum_up(self, drawn, scratch, conversions, values);
		for (int f = 0; f < nfigures; f++)
		{
			all_conversions[(Size) f * n + r] = conversions[f];
			all_values[(Size) f * n + r] = values[f];
		}
	}
	for (int f = 0; f < nfigures; f++)
	{
		cdi_bootstrap_bounds(all_conversions + (Size) f * n, n, bootstrap->confidence,
							 &bounds[f].conversions_low, &bounds[f].conversions_high);
		cdi_bootstrap_bounds(all_values + (Size) f * n, n, bootstrap->confidence,
							 &bounds[f].value_low, &bounds[f].value_high);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(self->context);
	return bounds;
}
