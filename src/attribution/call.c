/*
 * call.c
 *		What the SQL functions of attribution do alike.
 */
#include "attribution/call.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "base/errors.h"

static const Interval *
lookback_argument(FunctionCallInfo fcinfo, int number)
{
	Interval	zero = {0};
	Interval   *lookback;

	if (PG_ARGISNULL(number))
		return NULL;
	lookback = PG_GETARG_INTERVAL_P(number);
	if (!DatumGetBool(DirectFunctionCall2(interval_gt, IntervalPGetDatum(lookback), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the lookback window must be longer than zero")));
	return lookback;
}

static int
add_dimension(char **dimensions, int n, char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(dimensions[i], name) == 0)
			return n;
	dimensions[n] = name;
	return n + 1;
}

void
cdi_attribution_begin(CdiAttributionCall *call, FunctionCallInfo fcinfo, char **models, int nmodels, int first,
					  char **dimensions, int ndimensions, bool rows)
{
	CdiJourneyRequest *request = &call->request;
	MemoryContext context = CurrentMemoryContext;

	memset(call, 0, sizeof(*call));
	call->nmodels = nmodels;
	if (PG_ARGISNULL(first + 4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("parameters of attribution cannot be null"),
				 errhint("Leave them out for none.")));
	call->models = cdi_models_parse(models, nmodels, PG_GETARG_JSONB_P(first + 4), &call->options);
	request->options = &call->options;
	if (!PG_ARGISNULL(first))
		request->conversion = text_to_cstring(PG_GETARG_TEXT_PP(first));
	request->has_from = !PG_ARGISNULL(first + 1);
	request->has_to = !PG_ARGISNULL(first + 2);
	request->from_time = request->has_from ? PG_GETARG_TIMESTAMPTZ(first + 1) : DT_NOBEGIN;
	request->to_time = request->has_to ? PG_GETARG_TIMESTAMPTZ(first + 2) : DT_NOEND;
	request->lookback = lookback_argument(fcinfo, first + 3);
	request->sessions = rows;
	for (int m = 0; m < nmodels; m++)
		request->everyone |= call->models[m].kind == CDI_MODEL_PATHS;

	/* rows show a campaign where there is one; what sums are by must be there */
	request->nrequired = rows ? 0 : ndimensions;
	request->dimensions = palloc(sizeof(char *) * (ndimensions + 2));
	for (int i = 0; i < ndimensions; i++)
		request->dimensions[i] = dimensions[i];
	request->ndimensions = ndimensions;
	request->ndimensions = add_dimension(request->dimensions, request->ndimensions, "channel");
	request->ndimensions = add_dimension(request->dimensions, request->ndimensions, call->options.label);

	request->nmilestones = 2 * nmodels;
	request->milestones = palloc(sizeof(char *) * request->nmilestones);
	for (int m = 0; m < nmodels; m++)
		for (int k = 0; k < 2; k++)
			request->milestones[2 * m + k] = call->models[m].milestones[k];
	cdi_require_storage();

	SPI_connect();
	call->journeys = cdi_journeys_read(context, request);
	MemoryContextSwitchTo(context);
	if (request->everyone || call->options.bootstrap.replicates > 0)
		cdi_journeys_rank(call->journeys);
	call->run = cdi_credit_run_create(call->models, nmodels, call->journeys);
	call->path_credits = cdi_path_credits_fit(call->models, nmodels, &call->options.bootstrap, call->journeys, call->run);
}

void
cdi_attribution_share_out(CdiAttributionCall *call, CdiCreditSink sink, void *arg)
{
	cdi_credit_run(call->run, call->journeys, sink, arg, cdi_path_credits_weigh, call->path_credits);
}

void
cdi_attribution_end(CdiAttributionCall *call)
{
	cdi_journeys_free(call->journeys);
	SPI_finish();
}
