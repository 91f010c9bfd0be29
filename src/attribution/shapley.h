/*
 * shapley.h
 *		Shapley values of the labels of paths.
 */
#ifndef CDI_ATTRIBUTION_SHAPLEY_H
#define CDI_ATTRIBUTION_SHAPLEY_H

#include "attribution/path_sets.h"

/* With more labels than this, the rate game is sampled. */
#define CDI_SHAPLEY_MAX_EXACT	20

/*
 * What a set of labels S is worth; v of no label is 0.
 *
 * ADDITIVE: the conversions of paths whose labels are all in S.  RATE: those
 * conversions divided by these paths, with or without a conversion (0 where
 * there are none).  In both the value of a path takes the place of conversions
 * for the credit of value.
 */
typedef enum CdiShapleyGame
{
	CDI_SHAPLEY_ADDITIVE,
	CDI_SHAPLEY_RATE
} CdiShapleyGame;

typedef struct CdiShapleyOptions
{
	CdiShapleyGame game;

	/* Of the rate game with more than CDI_SHAPLEY_MAX_EXACT labels. */
	int			seed;
	int			permutations;	/* at most; taken in pairs */
	double		error;			/* enough, once no label's standard error is
								 * more than this share of all conversions */
} CdiShapleyOptions;

#define CDI_SHAPLEY_DEFAULT	{CDI_SHAPLEY_ADDITIVE, 1, 20000, 0.001}

/*
 * A CdiPathModel.  Credits sum to the conversions and values of all paths with
 * a touch.  effect is the Shapley value of the rate game; low and high are
 * bounds of 95 % for what was sampled.
 */
extern void cdi_shapley_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits);

/* Credit of a label at a place among the labels of its path. */
typedef struct CdiShapleyPlace
{
	int			label;
	int			position;		/* from 1 */
	int			path;			/* the first with it */
	double		conversions;
	double		value;
} CdiShapleyPlace;

/* Ordered Shapley values, in order of labels and positions; returns how many. */
extern int	cdi_shapley_ordered(const CdiPaths *paths, CdiShapleyPlace **places);
/* A CdiPathModel whose credits are by place; places depend on the paths, not on their outcomes. */
extern void cdi_shapley_ordered_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits);

/* shapley_sample.c: values of the rate game, per label */
typedef struct CdiShapleySample
{
	double		conversions;	/* mean over permutations */
	double		value;
	double		conversions_error;	/* standard error of the mean */
	double		value_error;
} CdiShapleySample;

extern CdiShapleySample *cdi_shapley_sample(const CdiPathSets *sets, const CdiShapleyOptions *options);

#endif							/* CDI_ATTRIBUTION_SHAPLEY_H */
