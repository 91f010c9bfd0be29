/*
 * path_credit.h
 *		Path models in cdi_attribution(): what a label is worth, over all paths
 *		of a call, and what of it falls to each touch.
 */
#ifndef CDI_ATTRIBUTION_PATH_CREDIT_H
#define CDI_ATTRIBUTION_PATH_CREDIT_H

#include "attribution/credit_run.h"

typedef struct CdiPathCredits CdiPathCredits;

/* Fits every path model of the call; NULL where there is none. */
extern CdiPathCredits *cdi_path_credits_fit(const CdiCreditModel *models, int nmodels,
											const CdiJourneyRequest *request, CdiJourneys *journeys,
											CdiCreditRun *run);

/* A CdiCreditWeigher, arg being a CdiPathCredits */
extern double cdi_path_credits_weigh(void *arg, const CdiCredit *credit, double *weights);

#endif							/* CDI_ATTRIBUTION_PATH_CREDIT_H */
