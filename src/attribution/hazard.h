/*
 * hazard.h
 *		Credit by an additive hazard of conversion, which every touch adds to.
 */
#ifndef CDI_ATTRIBUTION_HAZARD_H
#define CDI_ATTRIBUTION_HAZARD_H

#include "attribution/paths.h"

/* Ages are in days.  Times are known to the second: no touch is closer than that. */
#define CDI_HAZARD_MIN_AGE	(1.0 / 86400)

/* The mean lag of a channel stays below this many times the longest age. */
#define CDI_HAZARD_MAX_LAG	10

typedef struct CdiHazardOptions
{
	const double *const *ages;	/* of each path: days from each touch to the
								 * conversion or the end of what was seen; from 0 */
	double	  **shares;			/* NULL, or for each path room for what each touch
								 * gets of a conversion */
	int			iterations;		/* at most, 1 or more */
	double		tolerance;		/* converged, once the log likelihood gains less than
								 * this share in an iteration */
} CdiHazardOptions;

#define CDI_HAZARD_DEFAULT	{NULL, NULL, 1000, 1e-10}

/*
 * A CdiPathModel.  Paths need not differ: each has ages of its own.  effect is
 * the number of conversions that a touch leads to in the end, lag the mean time
 * until then.  Credits sum to the conversions and values of all paths with a
 * touch.
 */
extern void cdi_hazard_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits);

#endif							/* CDI_ATTRIBUTION_HAZARD_H */
