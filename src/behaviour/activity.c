/*
 * activity.c
 *		cdi_stickiness_counts() and cdi_lifecycle_counts(): how many people were
 *		active, how often, and how that changed.
 *
 * Both add up people whose events are given as histories, one person at a time.
 * Stickiness follows the number of active days among the last w, which changes
 * only w days after and on an active day: each change is added where it happens,
 * and the sums are made once at the end.  So a person costs the days on which
 * he was active, for any number of days reported and any length of window.
 *
 * All that is counted is one array of numbers, so states of parallel workers
 * are added up number by number.
 */
#include "behaviour/behaviour.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/memutils.h"

#define MAX_WINDOW		400
#define MAX_WINDOWS		8
#define MAX_PERIODS		40000

typedef struct ActivityState
{
	Jsonb	   *options;
	CdiCalendar calendar;
	CdiUnit		unit;
	int64		from;			/* periods, both included */
	int64		to;
	TimestampTz as_of;			/* exclusive */
	int64		as_of_period;

	bool		lifecycle;		/* else stickiness */
	int64	   *counts;			/* what is below points there */
	int64		ncounts;

	/* stickiness: windows in days, and for each the changes of the number of
	 * people with n active days, by n and day */
	int			windows[MAX_WINDOWS];
	int			nwindows;
	int64	   *changes[MAX_WINDOWS];

	/* lifecycle: by period */
	int64	   *fresh;
	int64	   *retained;
	int64	   *resurrected;
	int64	   *dormant;

	/* of the person at hand: periods with an event, ascending */
	int64	   *periods;
	int64		nperiods;
	int64		space;
} ActivityState;

static int64
count_of(const ActivityState *state)
{
	return state->to - state->from + 1;
}

static ActivityState *
make_state(Jsonb *object, CdiOptions *options, bool any_unit, int default_periods)
{
	static const char *const units[] = {"day", "week", "month"};
	ActivityState *state = palloc0(sizeof(ActivityState));
	bool		has_from;
	bool		has_to;
	int32		from;
	int32		to;

	state->options = (Jsonb *) pg_detoast_datum_copy((struct varlena *) object);
	cdi_options_open(options, state->options);
	state->unit = any_unit ? cdi_options_word(options, "period", "week", units, lengthof(units)) : CDI_UNIT_DAY;
	cdi_calendar_open(&state->calendar, cdi_options_text(options, "time_zone", "UTC"));
	has_from = cdi_options_day(options, "from_day", &from);
	has_to = cdi_options_day(options, "to_day", &to);
	state->as_of = cdi_options_as_of(options);
	state->as_of_period = cdi_calendar_period(&state->calendar, state->unit, state->as_of);
	state->to = has_to ? cdi_calendar_period_of_day(state->unit, to) : state->as_of_period;
	state->from = has_from ? cdi_calendar_period_of_day(state->unit, from) : state->to - default_periods;
	if (has_from && has_to ? from > to : state->from > state->to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_day is after to_day")));
	if (count_of(state) > MAX_PERIODS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_day to to_day are more than %d periods", MAX_PERIODS),
				 errhint("Ask for a shorter time, or for longer periods.")));
	state->space = 64;
	state->periods = palloc(state->space * sizeof(int64));
	return state;
}

static int64 *
make_counts(ActivityState *state, int64 count)
{
	state->ncounts = count;
	state->counts = palloc_extended(count * sizeof(int64), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	return state->counts;
}

/* The periods with an event, from the history's first on, before as_of. */
static void
collect_periods(ActivityState *state, const CdiHistory *history)
{
	state->nperiods = 0;
	for (int64 i = 0; i < history->count; i++)
	{
		TimestampTz at = CDI_HISTORY_AT(history->keys[i]);
		int64		period;
		int64		place = state->nperiods;

		if (at >= state->as_of)
			break;
		period = cdi_calendar_period(&state->calendar, state->unit, at);
		/* Where clocks are set back, a local day can come again for an hour. */
		while (place > 0 && state->periods[place - 1] > period)
			place--;
		if (place > 0 && state->periods[place - 1] == period)
			continue;
		if (state->nperiods == state->space)
		{
			state->space *= 2;
			state->periods = repalloc_huge(state->periods, state->space * sizeof(int64));
		}
		memmove(&state->periods[place + 1], &state->periods[place], (state->nperiods - place) * sizeof(int64));
		state->periods[place] = period;
		state->nperiods++;
	}
}

/* One transition for both: only what options say and what is counted differs. */
static Datum
transition(FunctionCallInfo fcinfo, ActivityState *(*begin) (Jsonb *), void (*count) (ActivityState *))
{
	MemoryContext context;
	MemoryContext previous;
	ActivityState *state;
	Jsonb	   *options = cdi_options_argument(fcinfo, 2);
	CdiHistory	history;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	if (PG_ARGISNULL(0))
	{
		previous = MemoryContextSwitchTo(context);
		state = begin(options);
		MemoryContextSwitchTo(previous);
	}
	else
	{
		state = (ActivityState *) PG_GETARG_POINTER(0);
		cdi_options_check_same(state->options, options);
	}
	if (!PG_ARGISNULL(1))
	{
		history = cdi_history_read(PG_GETARG_BYTEA_PP(1));
		collect_periods(state, &history);
		count(state);
	}
	PG_RETURN_POINTER(state);
}

static bool
is_complete(const ActivityState *state, int64 period)
{
	return period < state->as_of_period;
}

/* Stickiness */

static void
parse_windows(ActivityState *state, char *text)
{
	char	   *rest = text;

	while (rest)
	{
		char	   *one = strsep(&rest, ",");
		char	   *end;
		long		days = strtol(one, &end, 10);

		while (*end == ' ')
			end++;
		if (end == one || *end != '\0' || days < 1 || days > MAX_WINDOW || state->nwindows == MAX_WINDOWS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("windows must be up to %d numbers of days from 1 to %d", MAX_WINDOWS, MAX_WINDOW),
					 errhint("As in '1, 7, 28'.")));
		for (int i = 0; i < state->nwindows; i++)
			if (state->windows[i] == days)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("windows name %ld days twice", days)));
		state->windows[state->nwindows++] = days;
	}
}

static ActivityState *
begin_stickiness(Jsonb *object)
{
	CdiOptions	options;
	ActivityState *state = make_state(object, &options, false, 28);
	int64		rows = 0;
	int64	   *counts;

	parse_windows(state, cdi_options_text(&options, "windows", "1, 7, 28"));
	cdi_options_close(&options);
	for (int w = 0; w < state->nwindows; w++)
		rows += state->windows[w] + 1;
	counts = make_counts(state, rows * count_of(state));
	for (int w = 0; w < state->nwindows; w++)
	{
		state->changes[w] = counts;
		counts += (state->windows[w] + 1) * count_of(state);
	}
	return state;
}

/*
 * Follow the number of active days in a window that ends on each day.  A day
 * comes in on itself and goes out w days later; both are ascending lists, the
 * same one shifted.  What happens before the first day reported adds up on it.
 */
static void
count_stickiness(ActivityState *state)
{
	int64		days = count_of(state);

	for (int w = 0; w < state->nwindows; w++)
	{
		int			window = state->windows[w];
		int64		in = 0;
		int64		out = 0;

		while (out < state->nperiods)
		{
			int64		before = in - out;
			int64		day = state->periods[out] + window;
			int64		at;

			if (in < state->nperiods && state->periods[in] < day)
				day = state->periods[in];
			if (day > state->to)
				break;
			if (in < state->nperiods && state->periods[in] == day)
				in++;
			if (state->periods[out] + window == day)
				out++;
			at = Max(day, state->from) - state->from;
			state->changes[w][before * days + at]--;
			state->changes[w][(in - out) * days + at]++;
		}
	}
}

/* cdi_stickiness_counts(history, options) */
PG_FUNCTION_INFO_V1(cdi_stickiness_counts_transition);
Datum
cdi_stickiness_counts_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, begin_stickiness, count_stickiness);
}

PG_FUNCTION_INFO_V1(cdi_stickiness_counts_final);
Datum
cdi_stickiness_counts_final(PG_FUNCTION_ARGS)
{
	ActivityState *state;
	CdiRows		rows;
	int64		days;
	int64	   *people;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (ActivityState *) PG_GETARG_POINTER(0);
	days = count_of(state);
	people = palloc((MAX_WINDOW + 1) * sizeof(int64));
	cdi_rows_open(&rows, fcinfo);
	for (int w = 0; w < state->nwindows; w++)
	{
		memset(people, 0, (MAX_WINDOW + 1) * sizeof(int64));
		for (int64 day = 0; day < days; day++)
			for (int n = 1; n <= state->windows[w]; n++)
			{
				Datum		values[5];
				bool		nulls[5] = {false};

				people[n] += state->changes[w][n * days + day];
				values[0] = DateADTGetDatum(state->from + day);
				values[1] = Int32GetDatum(state->windows[w]);
				values[2] = Int32GetDatum(n);
				values[3] = Int64GetDatum(people[n]);
				values[4] = BoolGetDatum(is_complete(state, state->from + day));
				cdi_rows_add(&rows, values, nulls);
			}
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_DATUM(cdi_rows_close(&rows));
}

/* Lifecycle */

static ActivityState *
begin_lifecycle(Jsonb *object)
{
	CdiOptions	options;
	ActivityState *state = make_state(object, &options, true, 12);
	int64		periods = count_of(state);

	cdi_options_close(&options);
	state->lifecycle = true;
	state->fresh = make_counts(state, 4 * periods);
	state->retained = state->fresh + periods;
	state->resurrected = state->retained + periods;
	state->dormant = state->resurrected + periods;
	return state;
}

static void
count_one(const ActivityState *state, int64 *counts, int64 period)
{
	if (period >= state->from && period <= state->to)
		counts[period - state->from]++;
}

static void
count_lifecycle(ActivityState *state)
{
	for (int64 i = 0; i < state->nperiods; i++)
	{
		int64		period = state->periods[i];

		if (i == 0)
			count_one(state, state->fresh, period);
		else if (state->periods[i - 1] == period - 1)
			count_one(state, state->retained, period);
		else
			count_one(state, state->resurrected, period);
		if (i + 1 == state->nperiods || state->periods[i + 1] != period + 1)
			count_one(state, state->dormant, period + 1);
	}
}

/* cdi_lifecycle_counts(history, options) */
PG_FUNCTION_INFO_V1(cdi_lifecycle_counts_transition);
Datum
cdi_lifecycle_counts_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, begin_lifecycle, count_lifecycle);
}

PG_FUNCTION_INFO_V1(cdi_lifecycle_counts_final);
Datum
cdi_lifecycle_counts_final(PG_FUNCTION_ARGS)
{
	ActivityState *state;
	CdiRows		rows;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (ActivityState *) PG_GETARG_POINTER(0);
	cdi_rows_open(&rows, fcinfo);
	for (int64 i = 0; i < count_of(state); i++)
	{
		Datum		values[7];
		bool		nulls[7] = {false};

		values[0] = DateADTGetDatum(cdi_calendar_first_day(state->unit, state->from + i));
		values[1] = Int64GetDatum(state->fresh[i] + state->retained[i] + state->resurrected[i]);
		values[2] = Int64GetDatum(state->fresh[i]);
		values[3] = Int64GetDatum(state->retained[i]);
		values[4] = Int64GetDatum(state->resurrected[i]);
		values[5] = Int64GetDatum(state->dormant[i]);
		values[6] = BoolGetDatum(is_complete(state, state->from + i));
		cdi_rows_add(&rows, values, nulls);
	}
	PG_RETURN_DATUM(cdi_rows_close(&rows));
}

/* Of both, between processes: the options, and what was counted */

static ActivityState *
make_same(bool lifecycle, Jsonb *options)
{
	return lifecycle ? begin_lifecycle(options) : begin_stickiness(options);
}

PG_FUNCTION_INFO_V1(cdi_activity_combine);
Datum
cdi_activity_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext previous;
	ActivityState *state;
	ActivityState *other;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (ActivityState *) PG_GETARG_POINTER(1);
	if (PG_ARGISNULL(0))
	{
		previous = MemoryContextSwitchTo(context);
		state = make_same(other->lifecycle, other->options);
		MemoryContextSwitchTo(previous);
	}
	else
	{
		state = (ActivityState *) PG_GETARG_POINTER(0);
		cdi_options_check_same(state->options, other->options);
	}
	for (int64 i = 0; i < state->ncounts; i++)
		state->counts[i] += other->counts[i];
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_activity_serial);
Datum
cdi_activity_serial(PG_FUNCTION_ARGS)
{
	ActivityState *state = (ActivityState *) PG_GETARG_POINTER(0);
	StringInfoData buffer;

	pq_begintypsend(&buffer);
	pq_sendbyte(&buffer, state->lifecycle);
	cdi_options_send(&buffer, state->options);
	pq_sendbytes(&buffer, (char *) state->counts, state->ncounts * sizeof(int64));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

PG_FUNCTION_INFO_V1(cdi_activity_deserial);
Datum
cdi_activity_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	StringInfoData buffer = {.data = VARDATA_ANY(input), .len = VARSIZE_ANY_EXHDR(input)};
	bool		lifecycle = pq_getmsgbyte(&buffer);
	ActivityState *state = make_same(lifecycle, cdi_options_receive(&buffer));

	pq_copymsgbytes(&buffer, (char *) state->counts, state->ncounts * sizeof(int64));
	PG_RETURN_POINTER(state);
}
