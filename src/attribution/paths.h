/*
 * paths.h
 *		Paths of touches and what they led to: the input of every path model.
 *
 * A path is a sequence of channels (or of any other label of a touch).  Equal
 * paths are kept once and their outcomes summed, so a model's cost goes by the
 * number of distinct paths.  A label is kept once, as a number from 0 in order
 * of first appearance; models return their results in order of the label's
 * bytes, so that they do not depend on the order of rows.
 */
#ifndef CDI_ATTRIBUTION_PATHS_H
#define CDI_ATTRIBUTION_PATHS_H

#include "base/base.h"

typedef struct CdiPath
{
	int32		length;			/* 0: conversions that no touch preceded */
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
	struct CdiPathIndex *index; /* paths.c: look-up of labels and paths */
} CdiPaths;

/* What a model says of one label; fields that it does not give are NaN, which SQL sees as null. */
typedef struct CdiPathCredit
{
	double		conversions;
	double		value;
	double		effect;			/* the model's own figure: removal effect, coefficient, ... */
	double		conversions_low;	/* bounds of an interval, where one was asked for */
	double		conversions_high;
	double		value_low;
	double		value_high;
} CdiPathCredit;

#endif							/* CDI_ATTRIBUTION_PATHS_H */
