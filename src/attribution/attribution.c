/*
 * attribution.c
 *		cdi_attribution(): who gets the credit for a conversion.
 *
 * One query delivers touchpoints and conversions ordered by person and time;
 * its rows are pushed into a receiver (no cursor, so its plan may be parallel)
 * that keeps the touchpoints of the current person and, at each conversion,
 * shares it out over those within the lookback window.  Memory is that of one
 * person's path and of the result, which goes to a tuplestore.
 *
 * Rows come with the caller's privileges: whoever may read cdi.touchpoints and
 * cdi.conversion_events may attribute.
 *
 * Shares of a value are exact decimals: value * weight / total rounded to
 * SHARE_SCALE digits (or the value's own, if it has more), and the last share
 * takes the remainder, so shares sum to the value.  In the same way the last
 * credit is what is missing to 1: summed in order of touch, credits give 1.
 */
#include "attribution/attribution.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "base/errors.h"

#define SHARE_SCALE	12

/*
 * The touchpoints come out of their view in this order; said in both arms, so
 * that the planner merges them instead of sorting everything again.
 * Of rows at the same instant the receiver takes touchpoints first, whatever
 * their positions.  Conversions without a person come last.
 */
static const char touch_and_conversion_query[] =
"(SELECT t.person_id, t.touched_at AS at, t.position, true AS is_touch, t.session_id AS id,"
"       t.channel AS name, t.campaign_source, t.campaign_medium, t.campaign_name,"
"       NULL::numeric AS value"
"  FROM cdi.touchpoints t"
" ORDER BY 1, 2, 3)"
" UNION ALL "
"(SELECT c.person_id, c.converted_at, c.position, false, c.event_id,"
"       c.conversion, NULL::text, NULL::text, NULL::text, c.value"
"  FROM cdi.conversion_events c"
" WHERE ($1 IS NULL OR c.conversion = $1)"
"   AND ($2 IS NULL OR c.converted_at >= $2)"
"   AND ($3 IS NULL OR c.converted_at < $3)"
" ORDER BY 1, 2, 3)"
" ORDER BY 1, 2, 3";

enum
{
	IN_PERSON = 1, IN_AT, IN_POSITION, IN_IS_TOUCH, IN_ID, IN_NAME, IN_SOURCE,
	IN_MEDIUM, IN_CAMPAIGN, IN_VALUE
};

enum
{
	OUT_CONVERSION_EVENT, OUT_CONVERSION, OUT_PERSON, OUT_CONVERTED_AT, OUT_VALUE,
	OUT_SESSION, OUT_TOUCHED_AT, OUT_CHANNEL, OUT_SOURCE, OUT_MEDIUM, OUT_CAMPAIGN,
	OUT_TOUCH, OUT_TOUCHES, OUT_CREDIT, OUT_CREDITED_VALUE, OUT_COLUMNS
};

/* A row of cdi.conversions. */
typedef struct Definition
{
	char	   *name;
	Interval	lookback;
} Definition;

typedef struct Touch
{
	pg_uuid_t	session_id;
	TimestampTz at;
	Datum		channel;
	Datum		campaign[3];	/* source, medium, name; 0: null */
} Touch;

/* A conversion that waits for touchpoints of its own instant. */
typedef struct Conversion
{
	pg_uuid_t	event_id;
	TimestampTz at;
	int64		position;
	const Definition *definition;
	Datum		value;			/* 0: null */
} Conversion;

typedef struct Receiver
{
	DestReceiver pub;
	const CdiAttributionModel *model;
	Interval   *lookback;		/* overrides the definitions', or NULL */
	Definition *definitions;
	int			ndefinitions;
	Tuplestorestate *result;
	TupleDesc	result_desc;
	MemoryContext person_context;	/* path of the current person */
	MemoryContext instant_context;	/* values of the waiting conversions */
	MemoryContext row_context;	/* reset after each conversion */

	bool		has_person;
	pg_uuid_t	person;
	Touch	   *path;
	int			touches;
	int			path_space;
	Conversion *waiting;		/* all of one person and instant */
	int			nwaiting;
	int			waiting_space;
	double	   *weights;
	int			weight_space;
} Receiver;

static void
emit(Receiver *self, Datum *values, bool *nulls)
{
	tuplestore_putvalues(self->result, self->result_desc, values, nulls);
}

static Datum
double_to_numeric(double value)
{
	if (value == (double) (int32) value)
		return DirectFunctionCall1(int4_numeric, Int32GetDatum((int32) value));
	return DirectFunctionCall1(float8_numeric, Float8GetDatum(value));
}

/* value * weight / total, rounded to scale digits after the point */
static Datum
share_of(Datum value, double weight, double total, int scale)
{
	Datum		product = DirectFunctionCall2(numeric_mul, value, double_to_numeric(weight));
	Datum		quotient = DirectFunctionCall2(numeric_div, product, double_to_numeric(total));

	return DirectFunctionCall2(numeric_round, quotient, Int32GetDatum(scale));
}

/* First touch of the path that is not before the start of the window. */
static int
first_touch_since(const Receiver *self, TimestampTz start)
{
	int			low = 0;
	int			high = self->touches;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (self->path[middle].at < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Start of the window before a conversion.  Calendar arithmetic is in UTC, so
 * that a day has 24 hours whatever the session's time zone.
 */
static TimestampTz
window_start(const Receiver *self, const Conversion *conversion)
{
	const Interval *lookback = self->lookback ? self->lookback : &conversion->definition->lookback;

	if (TIMESTAMP_NOT_FINITE(conversion->at))
		return conversion->at;
	return DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval,
												 TimestampGetDatum(conversion->at),
												 IntervalPGetDatum(lookback)));
}

static void
attribute_conversion(Receiver *self, const Conversion *conversion)
{
	Datum		values[OUT_COLUMNS];
	bool		nulls[OUT_COLUMNS];
	bool		has_value = conversion->value != (Datum) 0;
	int			first;
	int			last = 0;
	int			n;
	int			scale = SHARE_SCALE;
	double		total = 0;
	double		credited = 0;
	Datum		remaining = conversion->value;
	Datum		share = (Datum) 0;
	double		share_weight = -1;

	memset(nulls, 0, sizeof(nulls));
	values[OUT_CONVERSION_EVENT] = UUIDPGetDatum(&conversion->event_id);
	values[OUT_CONVERSION] = CStringGetTextDatum(conversion->definition->name);
	values[OUT_PERSON] = UUIDPGetDatum(&self->person);
	nulls[OUT_PERSON] = !self->has_person;
	values[OUT_CONVERTED_AT] = TimestampTzGetDatum(conversion->at);
	values[OUT_VALUE] = conversion->value;
	nulls[OUT_VALUE] = nulls[OUT_CREDITED_VALUE] = !has_value;

	first = self->touches == 0 ? 0 : first_touch_since(self, window_start(self, conversion));
	n = self->touches - first;
	values[OUT_TOUCHES] = Int32GetDatum(n);
	if (n == 0)
	{
		nulls[OUT_SESSION] = nulls[OUT_TOUCHED_AT] = nulls[OUT_TOUCH] = true;
		nulls[OUT_SOURCE] = nulls[OUT_MEDIUM] = nulls[OUT_CAMPAIGN] = true;
		values[OUT_CHANNEL] = CStringGetTextDatum(CDI_CHANNEL_UNATTRIBUTED);
		values[OUT_CREDIT] = Float8GetDatum(1.0);
		values[OUT_CREDITED_VALUE] = conversion->value;
		emit(self, values, nulls);
		return;
	}

	if (n > self->weight_space)
	{
		self->weight_space = Max(n, 2 * self->weight_space);
		self->weights = repalloc_huge(self->weights, sizeof(double) * self->weight_space);
	}
	self->model->weigh(n, self->weights);
	for (int i = 0; i < n; i++)
	{
		total += self->weights[i];
		if (self->weights[i] > 0)
			last = i;
	}
	Assert(total > 0);
	if (has_value)
		scale = Max(scale, DatumGetInt32(DirectFunctionCall1(numeric_scale, conversion->value)));

	for (int i = 0; i <= last; i++)
	{
		const Touch *touch = &self->path[first + i];
		double		weight = self->weights[i];
		double		credit;

		CHECK_FOR_INTERRUPTS();
		if (weight <= 0)
			continue;
		credit = i == last ? 1.0 - credited : weight / total;
		credited += credit;
		values[OUT_CREDITED_VALUE] = remaining;
		if (has_value && i < last)
		{
			if (weight != share_weight)
				share = share_of(conversion->value, weight, total, scale);
			share_weight = weight;
			remaining = DirectFunctionCall2(numeric_sub, remaining, share);
			values[OUT_CREDITED_VALUE] = share;
		}
		values[OUT_SESSION] = UUIDPGetDatum(&touch->session_id);
		values[OUT_TOUCHED_AT] = TimestampTzGetDatum(touch->at);
		values[OUT_CHANNEL] = touch->channel;
		for (int c = 0; c < 3; c++)
		{
			values[OUT_SOURCE + c] = touch->campaign[c];
			nulls[OUT_SOURCE + c] = touch->campaign[c] == (Datum) 0;
		}
		values[OUT_TOUCH] = Int32GetDatum(i + 1);
		values[OUT_CREDIT] = Float8GetDatum(credit);
		emit(self, values, nulls);
	}
}

static int
compare_conversions(const void *a, const void *b)
{
	const Conversion *left = a;
	const Conversion *right = b;

	if (left->position != right->position)
		return left->position < right->position ? -1 : 1;
	return strcmp(left->definition->name, right->definition->name);
}

/* Share out the waiting conversions: no touchpoint of their instant is left. */
static void
attribute_waiting(Receiver *self)
{
	MemoryContext previous;

	if (self->nwaiting > 1)
		qsort(self->waiting, self->nwaiting, sizeof(Conversion), compare_conversions);
	previous = MemoryContextSwitchTo(self->row_context);
	for (int i = 0; i < self->nwaiting; i++)
	{
		attribute_conversion(self, &self->waiting[i]);
		MemoryContextReset(self->row_context);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(self->instant_context);
	self->nwaiting = 0;
}

static void
add_conversion(Receiver *self, TupleTableSlot *slot)
{
	Conversion *conversion;
	Datum		value;
	text	   *name;
	bool		isnull;

	if (self->nwaiting == self->waiting_space)
	{
		self->waiting_space *= 2;
		self->waiting = repalloc_huge(self->waiting, sizeof(Conversion) * self->waiting_space);
	}
	conversion = &self->waiting[self->nwaiting];
	memcpy(&conversion->event_id, DatumGetUUIDP(slot_getattr(slot, IN_ID, &isnull)), sizeof(pg_uuid_t));
	conversion->at = DatumGetTimestampTz(slot_getattr(slot, IN_AT, &isnull));
	conversion->position = DatumGetInt64(slot_getattr(slot, IN_POSITION, &isnull));
	conversion->definition = NULL;
	name = DatumGetTextPP(slot_getattr(slot, IN_NAME, &isnull));
	for (int i = 0; i < self->ndefinitions; i++)
		if (strlen(self->definitions[i].name) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(self->definitions[i].name, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0)
			conversion->definition = &self->definitions[i];
	if (conversion->definition == NULL)
		elog(ERROR, "conversion \"%s\" has no definition", text_to_cstring(name));
	value = slot_getattr(slot, IN_VALUE, &isnull);
	conversion->value = isnull ? (Datum) 0 : datumCopy(value, false, -1);
	self->nwaiting++;
}

static void
add_touch(Receiver *self, TupleTableSlot *slot)
{
	Touch	   *touch;
	Datum		value;
	bool		isnull;

	if (self->touches == self->path_space)
	{
		self->path_space *= 2;
		self->path = repalloc_huge(self->path, sizeof(Touch) * self->path_space);
	}
	touch = &self->path[self->touches];
	memcpy(&touch->session_id, DatumGetUUIDP(slot_getattr(slot, IN_ID, &isnull)), sizeof(pg_uuid_t));
	touch->at = DatumGetTimestampTz(slot_getattr(slot, IN_AT, &isnull));
	touch->channel = datumCopy(slot_getattr(slot, IN_NAME, &isnull), false, -1);
	for (int c = 0; c < 3; c++)
	{
		value = slot_getattr(slot, IN_SOURCE + c, &isnull);
		touch->campaign[c] = isnull ? (Datum) 0 : datumCopy(value, false, -1);
	}
	self->touches++;
}

/* receiveSlot: one touchpoint or conversion */
static bool
receive(TupleTableSlot *slot, DestReceiver *receiver)
{
	Receiver   *self = (Receiver *) receiver;
	MemoryContext previous = CurrentMemoryContext;
	Datum		person;
	TimestampTz at;
	bool		isnull;
	bool		same_person;

	person = slot_getattr(slot, IN_PERSON, &isnull);
	same_person = isnull ? !self->has_person :
		self->has_person && memcmp(&self->person, DatumGetUUIDP(person), sizeof(pg_uuid_t)) == 0;
	at = DatumGetTimestampTz(slot_getattr(slot, IN_AT, &isnull));
	if (self->nwaiting > 0 && (!same_person || self->waiting[0].at != at))
		attribute_waiting(self);
	if (!same_person)
	{
		MemoryContextReset(self->person_context);
		self->touches = 0;
		person = slot_getattr(slot, IN_PERSON, &isnull);
		self->has_person = !isnull;
		if (!isnull)
			memcpy(&self->person, DatumGetUUIDP(person), sizeof(pg_uuid_t));
	}

	if (DatumGetBool(slot_getattr(slot, IN_IS_TOUCH, &isnull)))
	{
		MemoryContextSwitchTo(self->person_context);
		add_touch(self, slot);
	}
	else
	{
		MemoryContextSwitchTo(self->instant_context);
		add_conversion(self, slot);
	}
	MemoryContextSwitchTo(previous);
	return true;
}

static void
start_receiving(DestReceiver *receiver, int operation, TupleDesc desc)
{
}

static void
stop_receiving(DestReceiver *receiver)
{
}

/*
 * Read cdi.conversions into the current context.  Raises ZC302 where name is
 * given and is none of them.
 */
static void
load_definitions(Receiver *self, MemoryContext context, const char *name)
{
	StringInfoData names;
	bool		found = false;

	if (SPI_execute("SELECT name, lookback FROM cdi.conversions ORDER BY name", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdi.conversions");
	self->ndefinitions = (int) SPI_processed;
	self->definitions = MemoryContextAlloc(context, sizeof(Definition) * Max(self->ndefinitions, 1));
	initStringInfo(&names);
	for (int i = 0; i < self->ndefinitions; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		char	   *value = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);

		self->definitions[i].name = MemoryContextStrdup(context, value);
		self->definitions[i].lookback =
			*DatumGetIntervalP(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		appendStringInfo(&names, "%s%s", i ? ", " : "", value);
		if (name && strcmp(name, value) == 0)
			found = true;
	}
	if (name && !found)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_CONVERSION),
				 errmsg("conversion \"%s\" does not exist", name),
				 self->ndefinitions > 0 ?
				 errhint("Conversions are %s. Declare another with cdi_create_conversion().", names.data) :
				 errhint("There are none. Declare one with cdi_create_conversion().")));
}

/*
 * cdi_attribution(model text, conversion text, from_time timestamptz,
 *				   to_time timestamptz, lookback interval)
 */
PG_FUNCTION_INFO_V1(cdi_attribution);
Datum
cdi_attribution(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller = CurrentMemoryContext;
	Receiver	self;
	SPIExecuteOptions options;
	ParamListInfo params;
	SPIPlanPtr	plan;
	Oid			types[3] = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	char	   *conversion = NULL;
	int			result;

	memset(&self, 0, sizeof(self));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the attribution model cannot be null")));
	self.model = cdi_attribution_model(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (!PG_ARGISNULL(1))
		conversion = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(4))
	{
		Interval	zero = {0};

		self.lookback = PG_GETARG_INTERVAL_P(4);
		if (!DatumGetBool(DirectFunctionCall2(interval_gt, IntervalPGetDatum(self.lookback),
											  IntervalPGetDatum(&zero))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the lookback window must be longer than zero")));
	}
	cdi_require_storage();

	InitMaterializedSRF(fcinfo, 0);
	self.result = rsinfo->setResult;
	self.result_desc = rsinfo->setDesc;
	self.pub.receiveSlot = receive;
	self.pub.rStartup = start_receiving;
	self.pub.rShutdown = stop_receiving;
	self.pub.rDestroy = stop_receiving;
	self.pub.mydest = DestNone;
	self.person_context = AllocSetContextCreate(caller, "cdi attribution path", ALLOCSET_DEFAULT_SIZES);
	self.instant_context = AllocSetContextCreate(caller, "cdi attribution instant", ALLOCSET_SMALL_SIZES);
	self.row_context = AllocSetContextCreate(caller, "cdi attribution row", ALLOCSET_DEFAULT_SIZES);
	self.path_space = self.weight_space = self.waiting_space = 64;
	self.path = palloc(sizeof(Touch) * self.path_space);
	self.waiting = palloc(sizeof(Conversion) * self.waiting_space);
	self.weights = palloc(sizeof(double) * self.weight_space);

	SPI_connect();
	load_definitions(&self, caller, conversion);

	params = makeParamList(3);
	for (int i = 0; i < 3; i++)
	{
		params->params[i].value = PG_ARGISNULL(i + 1) ? (Datum) 0 : PG_GETARG_DATUM(i + 1);
		params->params[i].isnull = PG_ARGISNULL(i + 1);
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = types[i];
	}
	plan = SPI_prepare_cursor(touch_and_conversion_query, 3, types, CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
	memset(&options, 0, sizeof(options));
	options.params = params;
	options.read_only = true;
	options.dest = &self.pub;
	result = SPI_execute_plan_extended(plan, &options);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	attribute_waiting(&self);
	SPI_finish();

	MemoryContextDelete(self.person_context);
	MemoryContextDelete(self.instant_context);
	MemoryContextDelete(self.row_context);
	return (Datum) 0;
}
