/*
 * retention.c
 *		cdi_retention_counts(): of the people who began something, how many came
 *		back in which period.
 *
 * A person enters with a start event and has come back in a period when a
 * return event lies in it.  Periods are numbered from 0, the one of the entry.
 * With windows "calendar" they are days, weeks or months of a time zone; with
 * "rolling" they are 24 hours (or 7 times that) counted from the entry, with
 * "hour_floored" from the beginning of the entry's hour.
 *
 * Everything is a comparison of numbers: calendar periods are numbered, rolling
 * ones are times.  Return events are in order, so whether one lies in a window
 * is a search from where the last one ended.
 *
 * A person counts for a bracket, in the denominator and above it, only when
 * the bracket's last period has ended by as_of: before that, "has not come back"
 * means nothing yet.
 */
#include "behaviour/behaviour.h"

#include <ctype.h>

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define MAX_PERIOD		36600
#define MAX_BRACKETS	1000

typedef enum RetentionMode
{
	MODE_ON, MODE_ON_OR_AFTER, MODE_ON_OR_BEFORE, MODE_STREAK
} RetentionMode;

typedef enum Windows
{
	WINDOWS_CALENDAR, WINDOWS_ROLLING, WINDOWS_HOUR_FLOORED
} Windows;

typedef enum Entry
{
	ENTRY_FIRST, ENTRY_FIRST_IN_RANGE, ENTRY_EVERY
} Entry;

typedef struct Bracket
{
	int32		from;			/* numbers of periods, both included */
	int32		to;
} Bracket;

typedef struct Cohort
{
	int64		period;			/* key */
	int64		people;
	int64	   *eligible;		/* by bracket */
	int64	   *retained;
} Cohort;

typedef struct RetentionState
{
	MemoryContext context;
	Jsonb	   *options;
	RetentionMode mode;
	CdiUnit		period;
	Windows		windows;
	Entry		entry;
	CdiUnit		cohort;
	CdiCalendar calendar;
	bool		has_from;
	bool		has_to;
	TimestampTz from;
	TimestampTz to;				/* exclusive, as as_of */
	TimestampTz as_of;
	int64		as_of_period;
	Bracket    *brackets;
	int			nbrackets;
	HTAB	   *cohorts;

	/* of the person at hand */
	TimestampTz *returns;
	int64	   *values;			/* of returns: number of the period, or the time */
	int64		nreturns;
	int64		space;
	bool		ascending;		/* values; not where clocks set back bring a day again */
	int64	   *sorted;			/* for the others */
	int64		sorted_space;
} RetentionState;

static void
bracket_error(const char *text, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("brackets \"%s\" %s", text, problem),
			 errhint("Brackets are numbers of periods or ranges of them, ascending, as in '0, 1-3, 4-7, 8-14'.")));
}

static const char *
parse_number(const char *at, const char *text, int32 *number)
{
	while (isspace((unsigned char) *at))
		at++;
	if (!isdigit((unsigned char) *at))
		bracket_error(text, *at == '\0' || *at == ',' ? "have an empty place" : "are not made of numbers");
	for (*number = 0; isdigit((unsigned char) *at); at++)
	{
		*number = *number * 10 + (*at - '0');
		if (*number > MAX_PERIOD)
			bracket_error(text, psprintf("go beyond %d", MAX_PERIOD));
	}
	while (isspace((unsigned char) *at))
		at++;
	return at;
}

static void
parse_brackets(RetentionState *state, const char *text)
{
	const char *at = text;

	state->brackets = palloc(MAX_BRACKETS * sizeof(Bracket));
	do
	{
		Bracket		bracket;

		if (state->nbrackets == MAX_BRACKETS)
			bracket_error(text, psprintf("are more than %d", MAX_BRACKETS));
		at = parse_number(at, text, &bracket.from);
		bracket.to = bracket.from;
		if (*at == '-')
			at = parse_number(at + 1, text, &bracket.to);
		if (*at != ',' && *at != '\0')
			bracket_error(text, "are not made of numbers");
		if (bracket.from > bracket.to)
			bracket_error(text, psprintf("have a range that ends before it begins, %d-%d", bracket.from, bracket.to));
		if (state->nbrackets > 0 && bracket.from <= state->brackets[state->nbrackets - 1].to)
			bracket_error(text, bracket.to >= state->brackets[state->nbrackets - 1].from ? "overlap" : "are not in ascending order");
		state->brackets[state->nbrackets++] = bracket;
	} while (*at++ == ',');
}

static RetentionState *
make_state(MemoryContext context, Jsonb *object)
{
	static const char *const modes[] = {"on", "on_or_after", "on_or_before", "streak"};
	static const char *const units[] = {"day", "week", "month", "all"};
	static const char *const windows[] = {"calendar", "rolling", "hour_floored"};
	static const char *const entries[] = {"first", "first_in_range", "every"};
	MemoryContext previous = MemoryContextSwitchTo(context);
	RetentionState *state = palloc0(sizeof(RetentionState));
	CdiOptions	options;
	HASHCTL		control;
	char	   *brackets;
	int			periods;

	state->context = context;
	state->options = (Jsonb *) pg_detoast_datum_copy((struct varlena *) object);
	cdi_options_open(&options, state->options);
	state->mode = cdi_options_word(&options, "mode", "on", modes, lengthof(modes));
	state->period = cdi_options_word(&options, "period", "day", units, lengthof(units) - 1);
	state->windows = cdi_options_word(&options, "windows", "calendar", windows, lengthof(windows));
	state->entry = cdi_options_word(&options, "entry", "first", entries, lengthof(entries));
	state->cohort = cdi_options_word(&options, "cohort", "day", units, lengthof(units));
	periods = cdi_options_integer(&options, "periods", 14, 0, MAX_BRACKETS - 1);
	brackets = cdi_options_text(&options, "brackets", NULL);
	cdi_calendar_open(&state->calendar, cdi_options_text(&options, "time_zone", "UTC"));
	state->has_from = cdi_options_time(&options, "from_time", &state->from);
	state->has_to = cdi_options_time(&options, "to_time", &state->to);
	state->as_of = cdi_options_as_of(&options);
	cdi_options_close(&options);

	if (state->windows != WINDOWS_CALENDAR && state->period == CDI_UNIT_MONTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a month is no window of fixed length"),
				 errhint("Use windows \"calendar\", or brackets of days such as '0-29, 30-59'.")));
	if (state->has_from && state->has_to && state->from > state->to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_time is after to_time")));
	state->as_of_period = cdi_calendar_period(&state->calendar, state->period, state->as_of);

	if (brackets)
		parse_brackets(state, brackets);
	else
	{
		state->brackets = palloc((periods + 1) * sizeof(Bracket));
		for (state->nbrackets = 0; state->nbrackets <= periods; state->nbrackets++)
			state->brackets[state->nbrackets].from = state->brackets[state->nbrackets].to = state->nbrackets;
	}

	control.keysize = sizeof(int64);
	control.entrysize = sizeof(Cohort);
	control.hcxt = context;
	state->cohorts = hash_create("retention cohorts", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	state->space = 64;
	state->returns = palloc(state->space * sizeof(TimestampTz));
	state->values = palloc(state->space * sizeof(int64));
	MemoryContextSwitchTo(previous);
	return state;
}

static Cohort *
cohort_of(RetentionState *state, int64 period)
{
	bool		found;
	Cohort	   *cohort = hash_search(state->cohorts, &period, HASH_ENTER, &found);

	if (!found)
	{
		cohort->people = 0;
		cohort->eligible = MemoryContextAllocZero(state->context, 2 * state->nbrackets * sizeof(int64));
		cohort->retained = cohort->eligible + state->nbrackets;
	}
	return cohort;
}

/* First index from `from` on whose value is at least `value`; doubling steps, then halving. */
static int64
search(const int64 *values, int64 count, int64 from, int64 value)
{
	int64		step = 1;
	int64		low = from;
	int64		high = from;

	while (high < count && values[high] < value)
	{
		low = high + 1;
		high += step;
		step *= 2;
	}
	high = Min(high, count);
	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (values[middle] < value)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The return events of a history, before as_of. */
static void
collect_returns(RetentionState *state, const CdiHistory *history)
{
	state->nreturns = 0;
	state->ascending = true;
	if (history->count > state->space)
	{
		state->space = history->count;
		state->returns = repalloc_huge(state->returns, state->space * sizeof(TimestampTz));
		state->values = repalloc_huge(state->values, state->space * sizeof(int64));
	}
	for (int64 i = 0; i < history->count; i++)
	{
		TimestampTz at = CDI_HISTORY_AT(history->keys[i]);

		if (at >= state->as_of)
			break;
		if (!(CDI_HISTORY_KIND(history->keys[i]) & CDI_HISTORY_RETURN))
			continue;
		state->returns[state->nreturns] = at;
		state->values[state->nreturns] = state->windows == WINDOWS_CALENDAR ?
			cdi_calendar_period(&state->calendar, state->period, at) : at;
		if (state->nreturns > 0 && state->values[state->nreturns] < state->values[state->nreturns - 1])
			state->ascending = false;
		state->nreturns++;
	}
}

static int
compare_numbers(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Values of the returns from one on, in order */
static const int64 *
sorted_values(RetentionState *state, int64 first)
{
	int64		count = state->nreturns - first;

	if (state->ascending)
		return state->values + first;
	if (state->sorted_space < count)
	{
		if (state->sorted)
			pfree(state->sorted);
		state->sorted = MemoryContextAllocHuge(state->context, count * sizeof(int64));
		state->sorted_space = count;
	}
	memcpy(state->sorted, state->values + first, count * sizeof(int64));
	qsort(state->sorted, count, sizeof(int64), compare_numbers);
	return state->sorted;
}

/*
 * Count one entry.  A return at the instant of the entry counts where it is an
 * event of its own: one that is no start event as well.
 */
static void
count_entry(RetentionState *state, const CdiHistory *history, int64 entry)
{
	TimestampTz start = CDI_HISTORY_AT(history->keys[entry]);
	Cohort	   *cohort = cohort_of(state, cdi_calendar_period(&state->calendar, state->cohort, start));
	int64		length = state->period == CDI_UNIT_WEEK ? 7 * USECS_PER_DAY : USECS_PER_DAY;
	int64		base = start;
	int64		at;
	const int64 *values;		/* of the returns that count */
	int64		nvalues;
	bool		unbroken = true;

	at = search(state->returns, state->nreturns, 0, start);
	if (at < state->nreturns && state->returns[at] == start)
	{
		/* Entries of one instant are start, return, both, in this order. */
		bool		own = (entry + 1 < history->count && history->keys[entry + 1] == start * 4 + CDI_HISTORY_RETURN) ||
			(entry > 0 && history->keys[entry - 1] == start * 4 + CDI_HISTORY_RETURN);

		if (!own)
			at = search(state->returns, state->nreturns, at, start + 1);
	}
	values = sorted_values(state, at);
	nvalues = state->nreturns - at;
	at = 0;

	cohort->people++;
	if (state->windows == WINDOWS_CALENDAR)
		base = cdi_calendar_period(&state->calendar, state->period, start);
	else if (state->windows == WINDOWS_HOUR_FLOORED)
	{
		int64		past_hour = cdi_calendar_local(&state->calendar, start) % USECS_PER_HOUR;

		base = start - (past_hour < 0 ? past_hour + USECS_PER_HOUR : past_hour);
	}

	for (int i = 0; i < state->nbrackets; i++)
	{
		const Bracket *bracket = &state->brackets[i];
		int64		low = base + bracket->from;
		int64		high = base + bracket->to;
		bool		retained = false;

		if (state->windows != WINDOWS_CALENDAR)
		{
			low = base + bracket->from * length;
			high = base + (bracket->to + 1) * length - 1;
		}
		/* Brackets ascend: the windows of the later ones end later. */
		if (high >= (state->windows == WINDOWS_CALENDAR ? state->as_of_period : state->as_of))
			break;
		cohort->eligible[i]++;
		switch (state->mode)
		{
			case MODE_ON:
			case MODE_STREAK:
				at = search(values, nvalues, at, low);
				retained = at < nvalues && values[at] <= high;
				if (state->mode == MODE_STREAK)
					retained = unbroken = unbroken && (retained || bracket->from == 0);
				break;
			case MODE_ON_OR_AFTER:
				retained = nvalues > 0 && values[nvalues - 1] >= low;
				break;
			case MODE_ON_OR_BEFORE:
				retained = nvalues > 0 && values[0] <= high;
				break;
		}
		cohort->retained[i] += retained;
	}
}

static void
count_person(RetentionState *state, const CdiHistory *history)
{
	int64		last_cohort = 0;
	bool		entered = false;

	collect_returns(state, history);
	for (int64 i = 0; i < history->count; i++)
	{
		TimestampTz at = CDI_HISTORY_AT(history->keys[i]);
		int64		cohort;

		if (!(CDI_HISTORY_KIND(history->keys[i]) & CDI_HISTORY_START))
			continue;
		if (at >= state->as_of || (state->has_to && at >= state->to))
			break;
		if (state->has_from && at < state->from)
		{
			if (state->entry == ENTRY_FIRST)
				break;
			continue;
		}
		if (state->entry != ENTRY_EVERY)
		{
			count_entry(state, history, i);
			break;
		}
		cohort = cdi_calendar_period(&state->calendar, state->cohort, at);
		if (entered && cohort == last_cohort)
			continue;
		entered = true;
		last_cohort = cohort;
		count_entry(state, history, i);
		CHECK_FOR_INTERRUPTS();
	}
}

/* cdi_retention_counts(history, options) */
PG_FUNCTION_INFO_V1(cdi_retention_counts_transition);
Datum
cdi_retention_counts_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	RetentionState *state;
	Jsonb	   *options = cdi_options_argument(fcinfo, 2);
	CdiHistory	history;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_retention_counts called in non-aggregate context");
	if (PG_ARGISNULL(0))
		state = make_state(context, options);
	else
	{
		state = (RetentionState *) PG_GETARG_POINTER(0);
		cdi_options_check_same(state->options, options);
	}
	if (!PG_ARGISNULL(1))
	{
		history = cdi_history_read(PG_GETARG_BYTEA_PP(1));
		count_person(state, &history);
	}
	PG_RETURN_POINTER(state);
}

static void
add_counts(const RetentionState *state, Cohort *cohort, const Cohort *other)
{
	cohort->people += other->people;
	for (int i = 0; i < state->nbrackets; i++)
	{
		cohort->eligible[i] += other->eligible[i];
		cohort->retained[i] += other->retained[i];
	}
}

PG_FUNCTION_INFO_V1(cdi_retention_counts_combine);
Datum
cdi_retention_counts_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	RetentionState *state;
	RetentionState *other;
	HASH_SEQ_STATUS sequence;
	Cohort	   *cohort;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_retention_counts called in non-aggregate context");
	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (RetentionState *) PG_GETARG_POINTER(1);
	if (PG_ARGISNULL(0))
		state = make_state(context, other->options);
	else
	{
		state = (RetentionState *) PG_GETARG_POINTER(0);
		cdi_options_check_same(state->options, other->options);
	}
	hash_seq_init(&sequence, other->cohorts);
	while ((cohort = hash_seq_search(&sequence)) != NULL)
		add_counts(state, cohort_of(state, cohort->period), cohort);
	PG_RETURN_POINTER(state);
}

/* The options, and the cohorts until the end: period, people, eligible and retained */
PG_FUNCTION_INFO_V1(cdi_retention_counts_serial);
Datum
cdi_retention_counts_serial(PG_FUNCTION_ARGS)
{
	RetentionState *state = (RetentionState *) PG_GETARG_POINTER(0);
	HASH_SEQ_STATUS sequence;
	Cohort	   *cohort;
	StringInfoData buffer;

	pq_begintypsend(&buffer);
	cdi_options_send(&buffer, state->options);
	hash_seq_init(&sequence, state->cohorts);
	while ((cohort = hash_seq_search(&sequence)) != NULL)
	{
		pq_sendint64(&buffer, cohort->period);
		pq_sendint64(&buffer, cohort->people);
		pq_sendbytes(&buffer, (char *) cohort->eligible, 2 * state->nbrackets * sizeof(int64));
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

PG_FUNCTION_INFO_V1(cdi_retention_counts_deserial);
Datum
cdi_retention_counts_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	StringInfoData buffer = {.data = VARDATA_ANY(input), .len = VARSIZE_ANY_EXHDR(input)};
	RetentionState *state = make_state(CurrentMemoryContext, cdi_options_receive(&buffer));

	while (buffer.cursor < buffer.len)
	{
		Cohort	   *cohort = cohort_of(state, pq_getmsgint64(&buffer));

		cohort->people = pq_getmsgint64(&buffer);
		pq_copymsgbytes(&buffer, (char *) cohort->eligible, 2 * state->nbrackets * sizeof(int64));
	}
	PG_RETURN_POINTER(state);
}

static int
compare_cohorts(const void *a, const void *b)
{
	const Cohort *left = *(const Cohort *const *) a;
	const Cohort *right = *(const Cohort *const *) b;

	return left->period < right->period ? -1 : left->period > right->period;
}

static void
add_rows(CdiRows *rows, const RetentionState *state, const Cohort *cohort, bool total)
{
	for (int i = 0; i < state->nbrackets; i++)
	{
		Datum		values[7];
		bool		nulls[7] = {false};

		values[0] = Int32GetDatum(cdi_calendar_first_day(state->cohort, cohort->period));
		nulls[0] = total;
		values[1] = Int64GetDatum(cohort->people);
		values[2] = Int32GetDatum(state->brackets[i].from);
		values[3] = Int32GetDatum(state->brackets[i].to);
		values[4] = Int64GetDatum(cohort->eligible[i]);
		values[5] = Int64GetDatum(cohort->retained[i]);
		values[6] = Float8GetDatum(cohort->eligible[i] ? (double) cohort->retained[i] / cohort->eligible[i] : 0);
		nulls[5] = nulls[6] = cohort->eligible[i] == 0;
		cdi_rows_add(rows, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(cdi_retention_counts_final);
Datum
cdi_retention_counts_final(PG_FUNCTION_ARGS)
{
	RetentionState *state;
	HASH_SEQ_STATUS sequence;
	Cohort	  **cohorts;
	Cohort	   *cohort;
	Cohort		total = {0};
	CdiRows		rows;
	int			n = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (RetentionState *) PG_GETARG_POINTER(0);
	cohorts = palloc((hash_get_num_entries(state->cohorts) + 1) * sizeof(Cohort *));
	total.eligible = palloc0(2 * state->nbrackets * sizeof(int64));
	total.retained = total.eligible + state->nbrackets;
	hash_seq_init(&sequence, state->cohorts);
	while ((cohort = hash_seq_search(&sequence)) != NULL)
	{
		cohorts[n++] = cohort;
		add_counts(state, &total, cohort);
	}
	qsort(cohorts, n, sizeof(Cohort *), compare_cohorts);

	cdi_rows_open(&rows, fcinfo);
	if (state->cohort != CDI_UNIT_ALL)
		for (int i = 0; i < n; i++)
			add_rows(&rows, state, cohorts[i], false);
	add_rows(&rows, state, &total, true);
	PG_RETURN_DATUM(cdi_rows_close(&rows));
}
