/*
 * sums_bootstrap.h
 *		Intervals of sums of credit, by resampling the conversions.
 */
#ifndef CDI_ATTRIBUTION_SUMS_BOOTSTRAP_H
#define CDI_ATTRIBUTION_SUMS_BOOTSTRAP_H

#include "attribution/call.h"

typedef struct CdiSumsBootstrap CdiSumsBootstrap;

typedef struct CdiBounds
{
	double		conversions_low;
	double		conversions_high;
	double		value_low;
	double		value_high;
} CdiBounds;

extern CdiSumsBootstrap *cdi_sums_bootstrap_begin(const CdiAttributionCall *call);

/*
 * Keep what a model gives a conversion.  figures: number of the sum that each
 * touch's credit goes to, or that of the whole where there is no touch.
 */
extern void cdi_sums_bootstrap_add(CdiSumsBootstrap *self, const CdiCredit *credit, const int32 *figures);

/*
 * Bounds of each sum.  Path models are left with the weights of the last
 * replicate: call it when everything is shared out.
 */
extern CdiBounds *cdi_sums_bootstrap_end(CdiSumsBootstrap *self, int nfigures);

#endif							/* CDI_ATTRIBUTION_SUMS_BOOTSTRAP_H */
