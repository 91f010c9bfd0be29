/*
 * simulate.c
 *		SQL functions of the simulation, and the order in which calls arrive.
 *
 * People are taken in blocks of BLOCK_PEOPLE.  A block's stories are written,
 * its calls sorted by arrival, and rendered one for each call of the set-
 * returning function; then its memory is reset.  So the memory needed is that
 * of one block, whatever the number of people, and the output is in order of
 * arrival within each block: traffic of a thousand people at once, one
 * thousand after the other.  (The server collects the whole result of a
 * function in FROM in a temporary file; in a select list it streams.)
 *
 * The truth functions walk the same stories and render nothing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "simulate/simulate.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define BLOCK_PEOPLE	1024
#define MAX_DAYS		3660
#define POSTGRES_EPOCH_MS	INT64CONST(946684800000)
/* 9999-12-31: a year of five digits is no RFC 3339 */
#define LAST_MS			INT64CONST(253402214400000)

/* One sending of one call. */
typedef struct Sending
{
	int64		at_ms;
	int32		position;		/* in the block; settles ties */
	int16		story;
	int16		call;
} Sending;

typedef struct Simulation
{
	CdiSimulationPlan plan;
	CdiProduct *catalogue;
	CdiRenderer *renderer;
	CdiStory	story;			/* the one written last */
	int32		done;			/* people whose stories have been written */
	int			at;				/* next row within story or block */

	/* cdi_simulate() only */
	MemoryContext block;
	CdiStory   *stories;
	Sending    *sendings;
	int			nsendings;
} Simulation;

PG_FUNCTION_INFO_V1(cdi_simulate);
PG_FUNCTION_INFO_V1(cdi_simulate_people);
PG_FUNCTION_INFO_V1(cdi_simulate_conversions);
PG_FUNCTION_INFO_V1(cdi_simulate_touchpoints);
PG_FUNCTION_INFO_V1(cdi_simulate_totals);

static void
check_share(const char *name, double value, double limit)
{
	/* written so that NaN fails it */
	if (!(value >= 0 && value <= limit))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be between 0 and %g", name, limit),
				 errdetail("It is %g.", value),
				 errhint("Give a share, such as 0.01 for one per cent.")));
}

/*
 * Check the arguments that all functions of the simulation share.
 */
static void
read_plan(FunctionCallInfo fcinfo, CdiSimulationPlan *plan)
{
	TimestampTz start = PG_GETARG_TIMESTAMPTZ(2);

	plan->persons = PG_GETARG_INT32(0);
	plan->seed = PG_GETARG_INT64(1);
	plan->days = PG_GETARG_INT32(3);
	plan->anomalies = PG_GETARG_FLOAT8(4);
	plan->duplicates = PG_GETARG_FLOAT8(5);
	plan->late = PG_GETARG_FLOAT8(6);
	plan->recycled = PG_GETARG_FLOAT8(7);

	if (plan->persons < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be negative", "persons"),
				 errdetail("It is %d.", plan->persons),
				 errhint("Give the number of people to simulate.")));
	if (plan->days < 1 || plan->days > MAX_DAYS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be between 1 and %d", "days", MAX_DAYS),
				 errdetail("It is %d.", plan->days),
				 errhint("For a longer time, simulate one span after the other with the same seed.")));
	check_share("anomalies", plan->anomalies, 1);
	check_share("duplicates", plan->duplicates, 1);
	check_share("late", plan->late, 1);
	check_share("recycled", plan->recycled, CDI_MAX_RECYCLED);
	if (plan->recycled > 0 && plan->days < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an e-mail address is not recycled within a day"),
				 errhint("Let \"days\" be at least 2, or \"recycled\" 0.")));

	if (TIMESTAMP_NOT_FINITE(start))
		plan->start_ms = -1;
	else
		plan->start_ms = (start - start % 1000) / 1000 + POSTGRES_EPOCH_MS;
	if (plan->start_ms < 0 ||
		plan->start_ms + plan->days * CDI_MS_PER_DAY > LAST_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("simulated time must be between the years 1970 and 9999"),
				 errdetail("It starts at %s and takes %d days.",
						   timestamptz_to_str(start), plan->days),
				 errhint("Choose another \"%s\".", "start_at")));

	plan->identity_key = cdi_simulate_key((uint64) plan->seed, 0, 0);
	plan->journey_key = cdi_simulate_key(plan->identity_key,
										 (uint64) plan->start_ms,
										 (uint64) plan->days);
}

static TimestampTz
timestamp_of_ms(int64 ms)
{
	return (ms - POSTGRES_EPOCH_MS) * 1000;
}

static Simulation *
begin_simulation(FunctionCallInfo fcinfo)
{
	Simulation *simulation = palloc0(sizeof(Simulation));

	read_plan(fcinfo, &simulation->plan);
	simulation->catalogue = cdi_simulate_make_catalogue();
	cdi_simulate_init_story(&simulation->story);
	return simulation;
}

/*
 * Write the next person's story; false after the last one.
 */
static bool
next_story(Simulation *simulation)
{
	if (simulation->done >= simulation->plan.persons)
		return false;
	CHECK_FOR_INTERRUPTS();
	simulation->done++;
	cdi_simulate_write_story(&simulation->plan, simulation->done,
							 &simulation->story);
	simulation->at = 0;
	return true;
}

static int
compare_sendings(const void *a, const void *b)
{
	const Sending *left = a;
	const Sending *right = b;

	if (left->at_ms != right->at_ms)
		return left->at_ms < right->at_ms ? -1 : 1;
	return left->position < right->position ? -1 :
		left->position > right->position ? 1 : 0;
}

static void
add_sending(Simulation *simulation, int story, int call, int64 at_ms)
{
	Sending    *sending = &simulation->sendings[simulation->nsendings];

	sending->at_ms = at_ms;
	sending->position = simulation->nsendings++;
	sending->story = story;
	sending->call = call;
}

/*
 * Fill the block with the next people; false after the last ones.
 */
static bool
next_block(Simulation *simulation)
{
	MemoryContext caller = CurrentMemoryContext;
	int			nstories = 0;
	int			ncalls = 0;

	MemoryContextReset(simulation->block);
	MemoryContextSwitchTo(simulation->block);
	simulation->stories = palloc(sizeof(CdiStory) * BLOCK_PEOPLE);
	while (nstories < BLOCK_PEOPLE && next_story(simulation))
	{
		CdiStory   *story = &simulation->stories[nstories++];

		*story = simulation->story;
		story->sessions = palloc(sizeof(CdiSession) * story->nsessions);
		memcpy(story->sessions, simulation->story.sessions,
			   sizeof(CdiSession) * story->nsessions);
		story->calls = palloc(sizeof(CdiCall) * story->ncalls);
		memcpy(story->calls, simulation->story.calls,
			   sizeof(CdiCall) * story->ncalls);
		ncalls += story->ncalls;
	}

	simulation->nsendings = 0;
	simulation->at = 0;
	simulation->sendings = palloc(sizeof(Sending) * Max(ncalls, 1) * 2);
	for (int i = 0; i < nstories; i++)
	{
		CdiStory   *story = &simulation->stories[i];

		for (int j = 0; j < story->ncalls; j++)
		{
			CdiArrival	arrival;

			cdi_simulate_arrival(&simulation->plan, story, &story->calls[j], &arrival);
			add_sending(simulation, i, j, arrival.at_ms);
			if (arrival.duplicated)
				add_sending(simulation, i, j, arrival.again_ms);
		}
	}
	qsort(simulation->sendings, simulation->nsendings, sizeof(Sending),
		  compare_sendings);
	MemoryContextSwitchTo(caller);
	return simulation->nsendings > 0;
}

/*
 * First call of a truth function: begin, and bless the row type.
 */
static FuncCallContext *
begin_truth(FunctionCallInfo fcinfo)
{
	FuncCallContext *context = SRF_FIRSTCALL_INIT();
	MemoryContext caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	TupleDesc	row_type;

	context->user_fctx = begin_simulation(fcinfo);
	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	context->tuple_desc = BlessTupleDesc(row_type);
	MemoryContextSwitchTo(caller);
	return context;
}

static Datum
make_row(FuncCallContext *context, Datum *values, bool *nulls)
{
	return HeapTupleGetDatum(heap_form_tuple(context->tuple_desc, values, nulls));
}

/*
 * cdi_simulate(persons, seed, start_at, days, anomalies, duplicates, late, recycled)
 *		The calls, one jsonb each.
 */
Datum
cdi_simulate(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Simulation *simulation;
	Sending    *sending;
	CdiStory   *story;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		simulation = begin_simulation(fcinfo);
		simulation->renderer = cdi_simulate_make_renderer(&simulation->plan,
														  simulation->catalogue);
		simulation->block = AllocSetContextCreate(CurrentMemoryContext,
												  "cdi_simulate block",
												  ALLOCSET_DEFAULT_SIZES);
		context->user_fctx = simulation;
		MemoryContextSwitchTo(caller);
	}
	context = SRF_PERCALL_SETUP();
	simulation = context->user_fctx;

	CHECK_FOR_INTERRUPTS();
	if (simulation->at >= simulation->nsendings && !next_block(simulation))
		SRF_RETURN_DONE(context);
	sending = &simulation->sendings[simulation->at++];
	story = &simulation->stories[sending->story];
	SRF_RETURN_NEXT(context,
					JsonbPGetDatum(cdi_simulate_render(simulation->renderer, story,
													   &story->calls[sending->call])));
}

/*
 * The identifier number at of a story: user id, e-mail addresses, devices.
 */
static bool
get_identifier(const CdiStory *story, int at, const char **type,
			   const char **value)
{
	const CdiProfile *profile = &story->profile;

	if (profile->member)
	{
		if (at-- == 0)
		{
			*type = "user_id";
			*value = profile->user_id;
			return true;
		}
		if (at-- == 0)
		{
			*type = "email";
			*value = profile->email;
			return true;
		}
		/* somebody else's address stays that person's, and only that one's */
		if (profile->anomaly == CDI_ANOMALY_MISTYPED_EMAIL && at-- == 0)
		{
			*type = "email";
			*value = profile->wrong_email;
			return true;
		}
	}
	if (at >= profile->ndevices)
		return false;
	*type = "anonymous_id";
	*value = profile->devices[at].anonymous_id;
	return true;
}

/*
 * cdi_simulate_people(...)
 *		What identifies whom.
 */
Datum
cdi_simulate_people(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Simulation *simulation;
	const char *type;
	const char *value;
	CdiRecycling recycling;
	Datum		values[5];
	bool		nulls[5] = {false};

	if (SRF_IS_FIRSTCALL())
		begin_truth(fcinfo);
	context = SRF_PERCALL_SETUP();
	simulation = context->user_fctx;

	while (simulation->done == 0 ||
		   !get_identifier(&simulation->story, simulation->at, &type, &value))
	{
		if (!next_story(simulation))
			SRF_RETURN_DONE(context);
	}
	simulation->at++;
	values[0] = Int32GetDatum(simulation->story.profile.number);
	values[1] = CStringGetTextDatum(type);
	values[2] = CStringGetTextDatum(value);
	recycling = value == simulation->story.profile.email ?
		simulation->story.profile.recycling : CDI_RECYCLING_NONE;
	values[3] = values[4] = TimestampTzGetDatum(timestamp_of_ms(simulation->plan.start_ms +
																simulation->plan.days * CDI_MS_PER_DAY / 2));
	nulls[3] = recycling != CDI_RECYCLING_TAKER;
	nulls[4] = recycling != CDI_RECYCLING_GIVER;
	SRF_RETURN_NEXT(context, make_row(context, values, nulls));
}

/*
 * cdi_simulate_conversions(...)
 *		The orders.
 */
Datum
cdi_simulate_conversions(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Simulation *simulation;
	CdiStory   *story;
	CdiCall    *call;
	char		message_id[CDI_MESSAGE_ID_LEN];
	int			len;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (SRF_IS_FIRSTCALL())
		begin_truth(fcinfo);
	context = SRF_PERCALL_SETUP();
	simulation = context->user_fctx;
	story = &simulation->story;

	for (;;)
	{
		while (simulation->at >= story->ncalls)
		{
			if (!next_story(simulation))
				SRF_RETURN_DONE(context);
		}
		call = &story->calls[simulation->at++];
		if (call->kind == CDI_CALL_ORDER_COMPLETED)
			break;
	}
	len = cdi_simulate_message_id(&simulation->plan, story, call, message_id);
	values[0] = Int32GetDatum(story->profile.number);
	values[1] = PointerGetDatum(cstring_to_text_with_len(message_id, len));
	values[2] = TimestampTzGetDatum(timestamp_of_ms(call->at_ms));
	values[3] = NumericGetDatum(int64_div_fast_to_numeric(
														  cdi_simulate_revenue(&story->sessions[call->session],
																			   simulation->catalogue), 2));
	SRF_RETURN_NEXT(context, make_row(context, values, nulls));
}

/*
 * cdi_simulate_touchpoints(...)
 *		The sessions, each with the channel that led to it.
 */
Datum
cdi_simulate_touchpoints(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Simulation *simulation;
	CdiSession *session;
	const CdiChannelSpec *spec;
	Datum		values[6];
	bool		nulls[6] = {false};

	if (SRF_IS_FIRSTCALL())
		begin_truth(fcinfo);
	context = SRF_PERCALL_SETUP();
	simulation = context->user_fctx;

	while (simulation->at >= simulation->story.nsessions)
	{
		if (!next_story(simulation))
			SRF_RETURN_DONE(context);
	}
	session = &simulation->story.sessions[simulation->at++];
	spec = &cdi_simulate_channels[session->channel];
	values[0] = Int32GetDatum(simulation->story.profile.number);
	values[1] = TimestampTzGetDatum(timestamp_of_ms(session->started_ms));
	values[2] = CStringGetTextDatum(spec->name);
	if (session->channel == CDI_CHANNEL_DIRECT)
		nulls[3] = nulls[4] = true;
	else
	{
		values[3] = CStringGetTextDatum(spec->sources[session->variant]);
		values[4] = CStringGetTextDatum(spec->medium);
	}
	if (spec->tagged)
		values[5] = CStringGetTextDatum(spec->campaigns[session->variant].name);
	else
		nulls[5] = true;
	SRF_RETURN_NEXT(context, make_row(context, values, nulls));
}

/*
 * cdi_simulate_totals(...)
 *		One row of sums over all stories.
 */
Datum
cdi_simulate_totals(PG_FUNCTION_ARGS)
{
	TupleDesc	row_type;
	Simulation *simulation;
	int64		calls = 0;
	int64		duplicates = 0;
	int64		late = 0;
	int64		anonymous = 0;
	int64		conversions = 0;
	int64		revenue = 0;
	int64		touchpoints = 0;
	Datum		values[9];
	bool		nulls[9] = {false};

	if (get_call_result_type(fcinfo, NULL, &row_type) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	row_type = BlessTupleDesc(row_type);
	simulation = begin_simulation(fcinfo);
	while (next_story(simulation))
	{
		CdiStory   *story = &simulation->story;

		anonymous += !story->profile.member;
		touchpoints += story->nsessions;
		calls += story->ncalls;
		for (int i = 0; i < story->ncalls; i++)
		{
			CdiCall    *call = &story->calls[i];
			CdiArrival	arrival;

			cdi_simulate_arrival(&simulation->plan, story, call, &arrival);
			duplicates += arrival.duplicated;
			late += arrival.late;
			if (call->kind == CDI_CALL_ORDER_COMPLETED)
			{
				conversions++;
				revenue += cdi_simulate_revenue(&story->sessions[call->session],
												simulation->catalogue);
			}
		}
	}
	values[0] = Int64GetDatum(calls + duplicates);
	values[1] = Int64GetDatum(calls);
	values[2] = Int64GetDatum(duplicates);
	values[3] = Int64GetDatum(late);
	values[4] = Int64GetDatum(simulation->plan.persons);
	values[5] = Int64GetDatum(anonymous);
	values[6] = Int64GetDatum(conversions);
	values[7] = NumericGetDatum(int64_div_fast_to_numeric(revenue, 2));
	values[8] = Int64GetDatum(touchpoints);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(row_type, values, nulls)));
}
