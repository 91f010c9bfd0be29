/*
 * path_credit.h
 *		Path models in cdi_attribution(): what a label is worth, over all paths
 *		of a call, and what of it falls to each touch.
 */
#ifndef CDI_ATTRIBUTION_PATH_CREDIT_H
#define CDI_ATTRIBUTION_PATH_CREDIT_H

#include "attribution/credit_run.h"

typedef struct CdiPathCredits CdiPathCredits;

/* Does what the model gives a path depend on all the others? */
extern bool cdi_path_credits_needs_corpus(const CdiCreditModel *model);

/* Fits every path model of the call to ranked journeys; NULL where there is none. */
extern CdiPathCredits *cdi_path_credits_fit(const CdiCreditModel *models, int nmodels, const CdiBootstrap *bootstrap,
											CdiJourneys *journeys, CdiCreditRun *run);

/* A CdiCreditWeigher, arg being a CdiPathCredits */
extern double cdi_path_credits_weigh(void *arg, const CdiCredit *credit, double *weights);
/* The same for the conversion of that rank, by the labels of the path's touches */
extern double cdi_path_credits_weigh_labels(CdiPathCredits *self, int model, int definition, int32 rank,
											const int32 *labels, int n, double *weights);

/* Draws every corpus anew and fits it: weights are then those of the replicate. */
extern void cdi_path_credits_resample(CdiPathCredits *self, int replicate);
/* By rank of the conversion: how often the replicate has it. */
extern const uint32 *cdi_path_credits_drawn(const CdiPathCredits *self, int model, int definition);

/* path_factors.c: by label, in proportion to which shares sum to what the labels are credited with */
extern double *cdi_path_factors(const CdiPaths *paths, const CdiPathCredit *credits);

#endif							/* CDI_ATTRIBUTION_PATH_CREDIT_H */
