/*
 * call.h
 *		What the SQL functions of attribution do alike.
 */
#ifndef CDI_ATTRIBUTION_CALL_H
#define CDI_ATTRIBUTION_CALL_H

#include "attribution/path_credit.h"

#include "fmgr.h"

typedef struct CdiAttributionCall
{
	CdiCreditModel *models;
	int			nmodels;
	CdiCreditOptions options;
	CdiJourneyRequest request;
	CdiJourneys *journeys;
	CdiCreditRun *run;
	CdiPathCredits *path_credits;
} CdiAttributionCall;

/*
 * Take the arguments conversion, from_time, to_time, lookback and parameters,
 * which begin at number first, check everything, connect to SPI and read.
 * rows: for a result by touch, where a dimension may be missing in the touches.
 */
extern void cdi_attribution_begin(CdiAttributionCall *call, FunctionCallInfo fcinfo,
								  char **models, int nmodels, int first,
								  char **dimensions, int ndimensions, bool rows);
extern void cdi_attribution_share_out(CdiAttributionCall *call, CdiCreditSink sink, void *arg);
extern void cdi_attribution_end(CdiAttributionCall *call);

#endif							/* CDI_ATTRIBUTION_CALL_H */
