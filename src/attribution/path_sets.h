/*
 * path_sets.h
 *		Paths without their order: the sets of labels that a model sees.
 *
 * Sets stand in order of their members, which are numbered in order of the
 * labels' bytes, so that sums over them come out the same to the last bit
 * whatever order the rows came in.  Paths without touches are left out: no
 * label can have credit for what happened without one.
 */
#ifndef CDI_ATTRIBUTION_PATH_SETS_H
#define CDI_ATTRIBUTION_PATH_SETS_H

#include "attribution/paths.h"

typedef struct CdiPathSet
{
	int			size;			/* at least 1 */
	int32	   *members;		/* labels, ascending */
	int32	   *counts;			/* how often each stands in the path; NULL unless asked for */
	int			path;			/* the first that has this set */
	double		conversions;
	double		value;
	double		nulls;
} CdiPathSet;

typedef struct CdiPathSets
{
	MemoryContext context;		/* of all that is below */
	int			nlabels;
	int			nsets;			/* distinct ones */
	CdiPathSet *sets;
	double		conversions;	/* totals over the sets */
	double		value;
	double		nulls;
} CdiPathSets;

/* Of sorted paths.  With counts, sets differ where their counts do. */
extern CdiPathSets *cdi_path_sets_create(const CdiPaths *paths, bool counts);
extern void cdi_path_sets_free(CdiPathSets *sets);

#endif							/* CDI_ATTRIBUTION_PATH_SETS_H */
