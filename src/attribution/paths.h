/*
 * paths.h
 *		Paths of touches and what they led to: the input of every path model.
 *
 * A path is a sequence of channels (or of any other label of a touch).  Equal
 * paths are kept once and their outcomes summed, so a model's cost goes by the
 * number of distinct paths.  A label is kept once, as a number from 0.
 *
 * Paths are built up by cdi_paths_add(), then cdi_paths_sort() makes them the
 * same whatever the order of rows and the split among parallel workers was:
 * labels are numbered in order of their bytes, paths stand in order of their
 * labels, sums are rounded once.  Models take sorted paths only.
 */
#ifndef CDI_ATTRIBUTION_PATHS_H
#define CDI_ATTRIBUTION_PATHS_H

#include "base/base.h"

#include "common/pg_prng.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/jsonb.h"

typedef struct CdiPath
{
	int32		length;			/* 0: conversions that no touch preceded */
	int32		entry;			/* as cdi_paths_entry() numbers it */
	int32	   *touches;		/* numbers of labels, in order of time */
	double		conversions;
	double		value;
	double		nulls;			/* how often it led to nothing */
} CdiPath;

typedef struct CdiPaths
{
	MemoryContext context;		/* of all that is below */
	int			nlabels;
	CdiText    *labels;
	int			npaths;			/* distinct ones */
	CdiPath    *paths;
	Jsonb	   *options;		/* of the aggregate, or NULL */
	struct CdiPathIndex *index; /* paths.c: look-up of labels and paths */
} CdiPaths;

/* Bounds of 95 % of what is sampled lie this many standard errors away. */
#define CDI_NORMAL_QUANTILE	1.959963984540054

/* What a model says of one label (ordered Shapley: of one place); fields that it does not give are NaN, which SQL sees as null. */
typedef struct CdiPathCredit
{
	double		conversions;
	double		value;
	double		effect;			/* the model's own figure: removal effect, coefficient, ... */
	double		conversions_low;	/* bounds of an interval, where one was asked for */
	double		conversions_high;
	double		value_low;
	double		value_high;
	double		lag;			/* mean days from touch to conversion, of cdi_hazard() */
} CdiPathCredit;

/*
 * Gives each label its credit; credits has nlabels elements, all fields NaN.
 * Paths of length 0 belong to nobody: cdi_paths_result() reports them.  A path
 * may have neither conversions nor nulls.
 */
typedef void (*CdiPathModel) (const CdiPaths *paths, const void *options, CdiPathCredit *credits);

/* paths.c */
extern CdiPaths *cdi_paths_create(MemoryContext parent);
/* Number of a label, which is copied where it is new. */
extern int32 cdi_paths_label(CdiPaths *paths, CdiText label);
/* Number of a path, which is added without outcome where it is new. */
extern int	cdi_paths_entry(CdiPaths *paths, const int32 *touches, int32 length);
/* Both at once.  Raises 22023, 22003 for counts or values that no path can have. */
extern int	cdi_paths_add(CdiPaths *paths, const int32 *touches, int32 length,
						 double conversions, double value, double nulls);
/* Adds to the outcome of a path without looking at it.  Raises 22003. */
extern void cdi_paths_count(CdiPaths *paths, int entry, double conversions, double value, double nulls);
/*
 * The touches of a text[], NULL being a path of length 0; the caller may change
 * them.  Good until the next call.  Raises 22004, 2202E.
 */
extern int32 *cdi_paths_touches(CdiPaths *paths, ArrayType *path, int32 *length);
/* Adds all of another's, with what rounding took from its sums. */
extern void cdi_paths_merge(CdiPaths *paths, const CdiPaths *other);
/* With options, for the leader of a parallel plan */
extern void cdi_paths_send(const CdiPaths *paths, StringInfo buffer);
extern void cdi_paths_receive(CdiPaths *paths, StringInfo buffer);
extern void cdi_paths_sort(CdiPaths *paths);
/* The first half of it, for paths that are kept elsewhere: the new number of each label. */
extern int32 *cdi_paths_sort_labels(CdiPaths *paths);
extern void cdi_paths_check_outcome(double conversions, double value, double nulls);
/* Raises 22003 where there are more of all paths together than a number can say. */
extern void cdi_paths_check_sums(const CdiPaths *paths);

/*
 * paths_aggregate.c: aggregates over (path text[], conversions, value, nulls)
 * with or without options jsonb share transition, combine, serialise and
 * deserialise; only the final function is a model's own.
 */

/* The sorted paths of an aggregate's state; empty ones where there was no row. */
extern CdiPaths *cdi_paths_of_state(FunctionCallInfo fcinfo);

/* What every such function asks of its call: it is within an aggregate; a number, null being 0. */
extern MemoryContext cdi_paths_aggregate_context(FunctionCallInfo fcinfo);
extern double cdi_paths_number(FunctionCallInfo fcinfo, int argument);

/* Keeps the options of the first row; raises 22023 where another row has others. */
extern void cdi_paths_keep_options(CdiPaths *paths, const Jsonb *options);

typedef struct CdiPathOption
{
	const char *name;
	enum
	{
		CDI_OPTION_INTEGER,		/* int * */
		CDI_OPTION_NUMBER,		/* double * */
		CDI_OPTION_BOOLEAN,		/* bool * */
		CDI_OPTION_NAME			/* int *, the place among names */
	}			kind;
	void	   *target;			/* holds the default */
	double		min;
	double		max;
	const char *const *names;	/* NULL ends them */
} CdiPathOption;

/* Raises 22023 for what is no option of this model, or out of its bounds. */
extern void cdi_paths_options(const CdiPaths *paths, const CdiPathOption *options, int noptions);

/*
 * cdi.path_credit[] as the result of an aggregate: one element per label, then
 * CDI_CHANNEL_UNATTRIBUTED where paths of length 0 have conversions.  Of
 * cdi.hazard_credit[] as well, which has a column lag besides.
 */
extern Datum cdi_paths_result(FunctionCallInfo fcinfo, const CdiPaths *paths, const CdiPathCredit *credits);

/* path_transform.c */
typedef enum CdiPathTransform
{
	CDI_TRANSFORM_EXPOSURE,
	CDI_TRANSFORM_UNIQUE,
	CDI_TRANSFORM_FIRST,
	CDI_TRANSFORM_FREQUENCY,
	CDI_TRANSFORM_REMOVE_IF_NOT_ALL,
	CDI_TRANSFORM_REMOVE_IF_LAST_AND_NOT_ALL,
	CDI_TRANSFORM_TRIM
} CdiPathTransform;

typedef enum CdiTransformArgument
{
	CDI_TRANSFORM_NO_ARGUMENT,
	CDI_TRANSFORM_LABELS,		/* number of a label, or -1; of several one after the other */
	CDI_TRANSFORM_NUMBER		/* how many touches to keep, at least 1 */
} CdiTransformArgument;

/* False where there is none of that name. */
extern bool cdi_path_transform_find(const char *name, CdiPathTransform *transform, CdiTransformArgument *argument);

/*
 * Which of a path's touches a transform keeps, by their labels: numbers in kept,
 * ascending; returns how many.  counts, by label, is all 0 before and after,
 * but for frequency: how often each label was there.
 */
extern int32 cdi_path_transform_keep(CdiPathTransform transform, int32 argument, const int32 *labels, int32 length,
									 int32 *counts, int32 *kept);

/* paths_bootstrap.c */
/* Raises 22023 for a count that is no number of observations. */
extern void cdi_paths_check_count(double count);
/* n credits, all fields NaN */
extern CdiPathCredit *cdi_paths_credits(int n);

typedef struct CdiBootstrap
{
	int			replicates;		/* 0: no intervals */
	double		confidence;		/* 0.95 */
	int			seed;
} CdiBootstrap;

#define CDI_BOOTSTRAP_DEFAULT	{0, 0.95, 1}
#define CDI_BOOTSTRAP_MOST		100000
#define CDI_CONFIDENCE_LEAST	0.5
#define CDI_CONFIDENCE_MOST		0.9999
/* Lines for an array of CdiPathOption */
#define CDI_BOOTSTRAP_OPTIONS(b) \
	{"bootstrap", CDI_OPTION_INTEGER, &(b).replicates, 0, CDI_BOOTSTRAP_MOST}, \
	{"confidence", CDI_OPTION_NUMBER, &(b).confidence, CDI_CONFIDENCE_LEAST, CDI_CONFIDENCE_MOST}, \
	{"seed", CDI_OPTION_INTEGER, &(b).seed, 0, PG_INT32_MAX}

/*
 * Sets the bounds in credits, as many as the model gives, from resampled paths:
 * percentiles, the same for the same seed.  Raises 22023 where counts are no
 * whole numbers.
 */
extern void cdi_paths_bootstrap(const CdiPaths *paths, CdiPathModel model, const void *options,
								const CdiBootstrap *bootstrap, int ncredits, CdiPathCredit *credits);

/* A replicate's stream of draws among the observations of a name. */
extern void cdi_bootstrap_stream(pg_prng_state *prng, const CdiBootstrap *bootstrap, int replicate, const char *name);
/* What every bootstrap draws with: successes among n trials of probability p; */
extern double cdi_bootstrap_binomial(pg_prng_state *prng, double n, double p);
/* draws from n > 0 observations, with replacement: how often each was drawn. */
extern void cdi_bootstrap_draw(pg_prng_state *prng, int64 draws, int32 n, uint32 *counts);
/* What it ends with: bounds of n figures, which get sorted; none where a figure is NaN. */
extern void cdi_bootstrap_bounds(double *figures, int n, double confidence, double *low, double *high);

#endif							/* CDI_ATTRIBUTION_PATHS_H */
