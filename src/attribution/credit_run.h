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
	const CdiConversion *conversion;	/* NULL: touches that led to none */
	int			definition;
	TimestampTz seen_until;		/* without a conversion: how long none came */
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
extern void cdi_credit_run(CdiCreditRun *self, CdiJourneys *journeys, CdiCreditSink sink, void *arg,
						   CdiCreditWeigher weigher, void *weigher_arg);

/*
 * Every path of the path models: those of conversions, and for each conversion
 * those that led to none.  The touches of a person that are in the window of no
 * conversion make one path as long as none that is in one comes between, nor a
 * pause longer than the lookback window.
 */
extern void cdi_credit_run_paths(CdiCreditRun *self, CdiJourneys *journeys, CdiCreditSink sink, void *arg);

#endif							/* CDI_ATTRIBUTION_CREDIT_RUN_H */
