/*
 * credit_run.h
 *		Share out every conversion under every model.
 */
#ifndef CDI_ATTRIBUTION_CREDIT_RUN_H
#define CDI_ATTRIBUTION_CREDIT_RUN_H

#include "attribution/journeys.h"

/* How one model shares out one conversion */
typedef struct CdiCredit
{
	int			model;
	const CdiJourney *journey;
	const CdiConversion *conversion;
	int			n;				/* touches of the path; 0: nothing gets credit */
	CdiTouch  **touches;
	const double *weights;
	double		total;
	uint8	   *roles;			/* or NULL */
	bool		whole;			/* a touch with a weight gets everything */
} CdiCredit;

typedef void (*CdiCreditSink) (void *arg, const CdiCredit *credit);
typedef double (*CdiCreditWeigher) (void *arg, const CdiCredit *credit, double *weights);

typedef struct CdiCreditRun CdiCreditRun;

extern CdiCreditRun *cdi_credit_run_create(const CdiCreditModel *models, int nmodels, const CdiJourneys *journeys);
/* sink is called in a memory context that is reset for each conversion */
extern void cdi_credit_run(CdiCreditRun *self, CdiJourneys *journeys, CdiCreditSink sink,
						   CdiCreditWeigher weigher, void *arg);

#endif							/* CDI_ATTRIBUTION_CREDIT_RUN_H */
