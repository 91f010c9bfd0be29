/*
 * logistic.h
 *		Credit by a logistic regression of outcomes on the labels of paths.
 */
#ifndef CDI_ATTRIBUTION_LOGISTIC_H
#define CDI_ATTRIBUTION_LOGISTIC_H

#include "attribution/path_sets.h"

/* The Hessian is dense: this many labels make it 134 MB. */
#define CDI_LOGISTIC_MAX_LABELS	4096

typedef struct CdiLogisticOptions
{
	double		ridge;			/* penalty: half of it times the sum of squared coefficients */
	bool		counts;			/* x is how often the label was touched, not whether */
	bool		replicate;		/* of paths, among which by chance none may have led to nothing:
								 * no label then makes a conversion likelier */
} CdiLogisticOptions;

#define CDI_LOGISTIC_DEFAULT	{1, false, false}

/*
 * A CdiPathModel.  effect is the label's coefficient.  Credits sum to the
 * conversions and values of all paths with a touch.  Raises ZC320 where the
 * likelihood has no maximum.
 */
extern void cdi_logistic_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits);

#endif							/* CDI_ATTRIBUTION_LOGISTIC_H */
