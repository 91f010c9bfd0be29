/*
 * attribution.c
 *		cdi_attribution(): who gets the credit for a conversion, touch by touch.
 *
 * Rows come with the caller's privileges: whoever may read cdi.touchpoints and
 * cdi.conversion_events may attribute.
 *
 * The last share of a conversion's value takes the remainder, so that shares
 * sum to the value.  In the same way the last credit is what is missing to 1:
 * summed in order of touch, credits give 1.
 */
#include "attribution/attribution.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "attribution/call.h"
#include "base/errors.h"

enum
{
	OUT_CONVERSION_EVENT, OUT_CONVERSION, OUT_PERSON, OUT_CONVERTED_AT, OUT_VALUE,
	OUT_SESSION, OUT_TOUCHED_AT, OUT_CHANNEL, OUT_SOURCE, OUT_MEDIUM, OUT_CAMPAIGN,
	OUT_TOUCH, OUT_TOUCHES, OUT_CREDIT, OUT_CREDITED_VALUE,
	OUT_TOUCH_TYPE, OUT_DAYS, OUT_WEIGHT, OUT_REASON, OUT_COLUMNS
};

/* Dimensions that every row has; the label of paths may be another. */
static char *const row_dimensions[] = {"channel", "campaign_source", "campaign_medium", "campaign_name"};

typedef struct Rows
{
	CdiAttributionCall *call;
	Tuplestorestate *result;
	TupleDesc	desc;
	CdiTouchLabel *labels;
	CdiDefinition *definitions;
	Datum	   *names;			/* of the definitions, as text */
	Datum	   *types;
	Datum		reasons[1 << CDI_ROLES];
	Datum		unattributed;
	Datum		no_touch;
} Rows;

/* What the caller's own relations do not name */
static const pg_uuid_t no_id;

static void
put_conversion(const Rows *self, const CdiCredit *credit, Datum *values, bool *nulls)
{
	const CdiConversion *conversion = credit->conversion;

	values[OUT_CONVERSION_EVENT] = UUIDPGetDatum(&conversion->event_id);
	nulls[OUT_CONVERSION_EVENT] = memcmp(&conversion->event_id, &no_id, sizeof(pg_uuid_t)) == 0;
	values[OUT_CONVERSION] = self->names[conversion->definition];
	values[OUT_PERSON] = UUIDPGetDatum(&credit->journey->person);
	nulls[OUT_PERSON] = !credit->journey->has_person;
	values[OUT_CONVERTED_AT] = TimestampTzGetDatum(conversion->at);
	values[OUT_VALUE] = conversion->value;
	nulls[OUT_VALUE] = nulls[OUT_CREDITED_VALUE] = conversion->value == (Datum) 0;
	values[OUT_TOUCHES] = Int32GetDatum(credit->n);
}

static void
put_touch(const Rows *self, const CdiCredit *credit, int i, Datum *values, bool *nulls)
{
	const CdiTouch *touch = credit->touches[i];
	const CdiTouchLabel *label = &self->labels[touch->label];
	TimestampTz converted_at = credit->conversion->at;

	values[OUT_SESSION] = UUIDPGetDatum(touch->session_id);
	nulls[OUT_SESSION] = memcmp(touch->session_id, &no_id, sizeof(pg_uuid_t)) == 0;
	values[OUT_TOUCHED_AT] = TimestampTzGetDatum(touch->at);
	for (int d = 0; d < lengthof(row_dimensions); d++)
	{
		values[OUT_CHANNEL + d] = label->values[d];
		nulls[OUT_CHANNEL + d] = label->values[d] == (Datum) 0;
	}
	values[OUT_TOUCH] = Int32GetDatum(i + 1);
	nulls[OUT_TOUCH_TYPE] = touch->type < 0;
	if (touch->type >= 0)
		values[OUT_TOUCH_TYPE] = self->types[touch->type];
	nulls[OUT_DAYS] = TIMESTAMP_NOT_FINITE(touch->at) || TIMESTAMP_NOT_FINITE(converted_at);
	if (!nulls[OUT_DAYS])
		values[OUT_DAYS] = Float8GetDatum((double) cdi_model_age(touch->at, converted_at) / USECS_PER_DAY);
	values[OUT_WEIGHT] = Float8GetDatum(credit->weights[i]);
	values[OUT_REASON] = self->reasons[credit->roles ? credit->roles[i] : 0];
}

static void
put_unattributed(const Rows *self, const CdiCredit *credit, Datum *values, bool *nulls)
{
	for (int column = OUT_SESSION; column <= OUT_TOUCH; column++)
		nulls[column] = true;
	nulls[OUT_TOUCH_TYPE] = nulls[OUT_DAYS] = nulls[OUT_WEIGHT] = true;
	nulls[OUT_CHANNEL] = false;
	values[OUT_CHANNEL] = self->unattributed;
	values[OUT_CREDIT] = Float8GetDatum(1.0);
	values[OUT_CREDITED_VALUE] = credit->conversion->value;
	values[OUT_REASON] = self->no_touch;
	tuplestore_putvalues(self->result, self->desc, values, nulls);
}

/* Shares of one value, in order of touch; the last takes what is left. */
typedef struct Shares
{
	Datum		value;
	bool		exact;			/* as amounts */
	CdiAmount	amount;
	CdiAmount	rest;
	Datum		numeric_rest;
	int			scale;
	double		weight;			/* of the share computed last */
	CdiAmount	share;
	Datum		numeric;
} Shares;

static void
start_shares(Shares *shares, Datum value)
{
	memset(shares, 0, sizeof(*shares));
	shares->value = shares->numeric_rest = value;
	shares->weight = -1;
	if (value == (Datum) 0)
		return;
	shares->exact = cdi_amount_of(value, &shares->amount);
	shares->rest = shares->amount;
	if (!shares->exact)
		shares->scale = Max(CDI_AMOUNT_SCALE, DatumGetInt32(DirectFunctionCall1(numeric_scale, value)));
}

static Datum
next_share(Shares *shares, double weight, double total)
{
	if (weight != shares->weight)
	{
		if (shares->exact)
		{
			shares->share = cdi_amount_share(shares->amount, weight, total);
			shares->numeric = cdi_amount_numeric(shares->share);
		}
		else
			shares->numeric = cdi_numeric_share(shares->value, weight, total, shares->scale);
		shares->weight = weight;
	}
	if (shares->exact)
		shares->rest -= shares->share;
	else
		shares->numeric_rest = DirectFunctionCall2(numeric_sub, shares->numeric_rest, shares->numeric);
	return shares->numeric;
}

static Datum
last_share(const Shares *shares)
{
	if (shares->exact && shares->rest != shares->amount)
		return cdi_amount_numeric(shares->rest);
	return shares->numeric_rest;
}

/* CdiCreditSink: a row per touch with credit */
static void
emit(void *arg, const CdiCredit *credit)
{
	Rows	   *self = arg;
	Datum		values[OUT_COLUMNS] = {0};
	bool		nulls[OUT_COLUMNS] = {false};
	bool		has_value = credit->conversion->value != (Datum) 0;
	Shares		shares;
	double		credited = 0;
	int			last;

	put_conversion(self, credit, values, nulls);
	if (credit->n == 0)
	{
		put_unattributed(self, credit, values, nulls);
		return;
	}
	last = credit->n - 1;
	while (credit->weights[last] <= 0)
		last--;
	start_shares(&shares, credit->whole ? (Datum) 0 : credit->conversion->value);
	for (int i = 0; i <= last; i++)
	{
		double		share = 1.0;

		if (credit->weights[i] <= 0)
			continue;
		CHECK_FOR_INTERRUPTS();
		values[OUT_CREDITED_VALUE] = credit->conversion->value;
		if (!credit->whole)
		{
			share = i == last ? 1.0 - credited : credit->weights[i] / credit->total;
			if (has_value)
				values[OUT_CREDITED_VALUE] = i == last ? last_share(&shares) :
					next_share(&shares, credit->weights[i], credit->total);
		}
		credited += share;
		put_touch(self, credit, i, values, nulls);
		values[OUT_CREDIT] = Float8GetDatum(share);
		tuplestore_putvalues(self->result, self->desc, values, nulls);
	}
}

/*
 * cdi_attribution(model text, conversion text, from_time timestamptz,
 *				   to_time timestamptz, lookback interval, parameters jsonb)
 */
PG_FUNCTION_INFO_V1(cdi_attribution);
Datum
cdi_attribution(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiAttributionCall call;
	Rows		self;
	CdiText    *types;
	int			n;
	char	   *name;

	memset(&self, 0, sizeof(self));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the attribution model cannot be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	cdi_attribution_begin(&call, fcinfo, &name, 1, 1, (char **) row_dimensions, lengthof(row_dimensions), true);
	cdi_options_refuse_bootstrap(&call.options);
	InitMaterializedSRF(fcinfo, 0);
	self.call = &call;
	self.result = rsinfo->setResult;
	self.desc = rsinfo->setDesc;
	cdi_journeys_labels(call.journeys, &self.labels);
	n = cdi_journeys_definitions(call.journeys, &self.definitions);
	self.names = palloc(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
		self.names[i] = CStringGetTextDatum(self.definitions[i].name);
	n = cdi_journeys_types(call.journeys, &types);
	self.types = palloc(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
		self.types[i] = PointerGetDatum(cstring_to_text_with_len(types[i].data, types[i].len));
	for (int i = 0; i < lengthof(self.reasons); i++)
		self.reasons[i] = CStringGetTextDatum(call.models[0].reasons[i]);
	self.unattributed = CStringGetTextDatum(CDI_CHANNEL_UNATTRIBUTED);
	self.no_touch = CStringGetTextDatum("no touch in the window");
	cdi_attribution_share_out(&call, emit, &self);
	cdi_attribution_end(&call);
	return (Datum) 0;
}
