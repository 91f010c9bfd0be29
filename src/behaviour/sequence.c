/*
 * sequence.c
 *		cdi_sequence_match(), cdi_sequence_count() and cdi_sequence_events():
 *		does a person's history contain a pattern of events, how often, when.
 *
 * All three keep the events that meet a condition, in order of arrival, and
 * put them in order at the end.  Events that meet none are no part of the
 * sequence, as in ClickHouse.  pattern.c does the matching.
 */
#include "behaviour/people.h"
#include "behaviour/sequence.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define FIRST_SPACE	6			/* the first chunk has 128 bytes */

enum
{
	ARG_STATE, ARG_PATTERN, ARG_TIMESTAMP, ARG_CONDITIONS
};

#define ST_SORT sort_events
#define ST_ELEMENT_TYPE CdiSequenceEvent
#define ST_COMPARE(a, b) cdi_sequence_compare(a, b)
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

/* One chunk, since most people have few events */
typedef struct CdiSequenceState
{
	const CdiPattern *pattern;	/* kept by the call site for all groups */
	int64		count;
	int64		space;
	bool		ordered;
	CdiSequenceEvent events[FLEXIBLE_ARRAY_MEMBER];
} CdiSequenceState;

static Size
state_size(int64 space)
{
	return offsetof(CdiSequenceState, events) + space * sizeof(CdiSequenceEvent);
}

static CdiSequenceState *
make_state(MemoryContext context, const CdiPattern *pattern, int64 space)
{
	CdiSequenceState *state;

	space = Max(space, FIRST_SPACE);
	state = MemoryContextAllocHuge(context, state_size(space));
	state->pattern = pattern;
	state->count = 0;
	state->space = space;
	state->ordered = true;
	return state;
}

/* The state may move. */
static CdiSequenceState *
make_room(CdiSequenceState *state, int64 more)
{
	if (state->count + more <= state->space)
		return state;
	state->space = Max(state->space * 2, state->count + more);
	return repalloc_huge(state, state_size(state->space));
}

static void
put_in_order(CdiSequenceState *state)
{
	if (!state->ordered)
		sort_events(state->events, state->count);
	state->ordered = true;
}

static bool
is_pattern(const CdiPattern *pattern, const char *text, int length, int conditions)
{
	return pattern->conditions == conditions && pattern->length == length &&
		memcmp(pattern->text, text, length) == 0;
}

/* The parsed pattern; parsed once per call site unless groups have different ones. */
static const CdiPattern *
pattern_of(FmgrInfo *flinfo, const char *text, int length, int conditions)
{
	CdiPattern *pattern = flinfo->fn_extra;
	MemoryContext previous;

	if (pattern && is_pattern(pattern, text, length, conditions))
		return pattern;
	previous = MemoryContextSwitchTo(flinfo->fn_mcxt);
	pattern = cdi_pattern_parse(text, length, conditions);
	MemoryContextSwitchTo(previous);
	flinfo->fn_extra = pattern;
	return pattern;
}

static void
check_same(const CdiPattern *pattern, const char *text, int length, int conditions)
{
	if (!is_pattern(pattern, text, length, conditions))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the pattern must be the same for all rows of a group")));
}

static void
no_pattern(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("the pattern must not be null")));
}

/* There must be room. */
static inline void
add_event(CdiSequenceState *state, const CdiSequenceEvent *event)
{
	if (state->count > 0 && cdi_sequence_compare(&state->events[state->count - 1], event) > 0)
		state->ordered = false;
	state->events[state->count++] = *event;
}

PG_FUNCTION_INFO_V1(cdi_sequence_transition);
Datum
cdi_sequence_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	CdiSequenceState *state = PG_ARGISNULL(ARG_STATE) ? NULL : (CdiSequenceState *) PG_GETARG_POINTER(ARG_STATE);
	text	   *given;
	int			count;
	uint32		conditions;
	CdiSequenceEvent event;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_sequence_match called in non-aggregate context");
	if (PG_ARGISNULL(ARG_PATTERN))
		no_pattern();
	if (fcinfo->flinfo->fn_extra == NULL)
		cdi_behaviour_check_conditions(fcinfo, ARG_CONDITIONS);
	conditions = cdi_behaviour_conditions(fcinfo, ARG_CONDITIONS, &count);
	given = PG_GETARG_TEXT_PP(ARG_PATTERN);

	if (state == NULL)
		state = make_state(context, pattern_of(fcinfo->flinfo, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), count), 0);
	else
		check_same(state->pattern, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), count);
	if (conditions == 0 || PG_ARGISNULL(ARG_TIMESTAMP))
		PG_RETURN_POINTER(state);

	event.at = PG_GETARG_TIMESTAMPTZ(ARG_TIMESTAMP);
	event.conditions = conditions;
	cdi_behaviour_check_time(event.at);
	state = make_room(state, 1);
	add_event(state, &event);
	PG_RETURN_POINTER(state);
}

/* In the node of people.h */

static const void *
prepare_people(FunctionCallInfo fcinfo, Size *size, bool *unmatched)
{
	const CdiPattern *pattern;
	text	   *given;
	int			count;

	if (PG_ARGISNULL(ARG_PATTERN))
		no_pattern();
	cdi_behaviour_check_conditions(fcinfo, ARG_CONDITIONS);
	cdi_behaviour_conditions(fcinfo, ARG_CONDITIONS, &count);
	given = PG_GETARG_TEXT_PP(ARG_PATTERN);
	pattern = pattern_of(fcinfo->flinfo, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), count);
	*size = offsetof(CdiPattern, text) + pattern->length;
	*unmatched = false;
	return pattern;
}

static uint32
read_array(FunctionCallInfo fcinfo)
{
	int			count;

	return cdi_behaviour_conditions(fcinfo, ARG_CONDITIONS, &count);
}

static void *
make_person_state(void *last, const void *settings, const CdiPeopleEntry *entries, uint32 count)
{
	CdiSequenceState *state = last ? last : make_state(CurrentMemoryContext, settings, count);

	state->count = 0;
	state->ordered = true;
	state->pattern = settings;
	state = make_room(state, count);
	for (uint32 i = 0; i < count; i++)
	{
		CdiSequenceEvent event = {.at = entries[i].at, .conditions = entries[i].conditions};

		add_event(state, &event);
	}
	return state;
}

const CdiPeopleAggregate *
cdi_people_sequence(PGFunction transition)
{
	static const CdiPeopleAggregate sequence = {ARG_TIMESTAMP, ARG_CONDITIONS, prepare_people, read_array,
	cdi_behaviour_check_time, make_person_state};

	return transition == cdi_sequence_transition ? &sequence : NULL;
}

PG_FUNCTION_INFO_V1(cdi_sequence_combine);
Datum
cdi_sequence_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	CdiSequenceState *state;
	CdiSequenceState *other;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_sequence_match called in non-aggregate context");
	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (CdiSequenceState *) PG_GETARG_POINTER(1);
	state = PG_ARGISNULL(0) ? make_state(context, other->pattern, other->count) :
		(CdiSequenceState *) PG_GETARG_POINTER(0);
	check_same(state->pattern, other->pattern->text, other->pattern->length, other->pattern->conditions);
	state = make_room(state, other->count);
	state->ordered = state->count == 0 && other->ordered;
	memcpy(state->events + state->count, other->events, other->count * sizeof(CdiSequenceEvent));
	state->count += other->count;
	PG_RETURN_POINTER(state);
}

/* number of conditions, length and text of the pattern, then time and conditions of each event */
PG_FUNCTION_INFO_V1(cdi_sequence_serial);
Datum
cdi_sequence_serial(PG_FUNCTION_ARGS)
{
	CdiSequenceState *state = (CdiSequenceState *) PG_GETARG_POINTER(0);
	const CdiPattern *pattern = state->pattern;
	const int64 entry = sizeof(int64) + sizeof(uint32);
	StringInfoData out;

	if (state->count > (MaxAllocSize - pattern->length - 64) / entry)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("one person has too many events for a parallel plan"),
				 errhint("Leave out what is no person (robots, monitoring), or SET max_parallel_workers_per_gather = 0.")));
	pq_begintypsend(&out);
	enlargeStringInfo(&out, 2 * sizeof(uint32) + pattern->length + state->count * entry);
	pq_sendint32(&out, pattern->conditions);
	pq_sendint32(&out, pattern->length);
	pq_sendbytes(&out, pattern->text, pattern->length);
	for (int64 i = 0; i < state->count; i++)
	{
		pq_sendint64(&out, state->events[i].at);
		pq_sendint32(&out, state->events[i].conditions);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&out));
}

PG_FUNCTION_INFO_V1(cdi_sequence_deserial);
Datum
cdi_sequence_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *serialised = PG_GETARG_BYTEA_PP(0);
	StringInfoData in;
	CdiSequenceState *state;
	int			conditions;
	int			length;
	int64		count;

	in.data = VARDATA_ANY(serialised);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(serialised);
	in.cursor = 0;
	conditions = pq_getmsgint(&in, 4);
	length = pq_getmsgint(&in, 4);
	state = make_state(CurrentMemoryContext,
					   pattern_of(fcinfo->flinfo, pq_getmsgbytes(&in, length), length, conditions),
					   (in.len - in.cursor) / (sizeof(int64) + sizeof(uint32)));
	for (count = 0; in.cursor < in.len; count++)
	{
		state->events[count].at = pq_getmsgint64(&in);
		state->events[count].conditions = pq_getmsgint(&in, 4);
	}
	state->count = count;
	state->ordered = false;
	PG_RETURN_POINTER(state);
}

static uint64 *
solve(const CdiSequenceState *state)
{
	uint64	   *can = palloc_extended(Max(state->count, 1) * sizeof(uint64), MCXT_ALLOC_HUGE);

	cdi_pattern_solve(state->pattern, state->events, state->count, can);
	return can;
}

PG_FUNCTION_INFO_V1(cdi_sequence_match_final);
Datum
cdi_sequence_match_final(PG_FUNCTION_ARGS)
{
	CdiSequenceState *state;
	uint64	   *can;
	bool		found = false;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	state = (CdiSequenceState *) PG_GETARG_POINTER(0);
	if (state->count < state->pattern->items)
		PG_RETURN_BOOL(false);
	put_in_order(state);
	if (state->pattern->timed == 0)
		PG_RETURN_BOOL(cdi_pattern_occurs(state->pattern, state->events, state->count));
	can = solve(state);
	for (int64 i = 0; i < state->count && !found; i++)
		found = can[i] & 1;
	pfree(can);
	PG_RETURN_BOOL(found);
}

PG_FUNCTION_INFO_V1(cdi_sequence_count_final);
Datum
cdi_sequence_count_final(PG_FUNCTION_ARGS)
{
	CdiSequenceState *state;
	int64		found[CDI_MAX_PATTERN_ITEMS];
	uint64	   *can;
	int64		from = 0;
	int64		matches = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_INT64(0);
	state = (CdiSequenceState *) PG_GETARG_POINTER(0);
	if (state->count < state->pattern->items)
		PG_RETURN_INT64(0);
	put_in_order(state);
	can = solve(state);
	while (cdi_pattern_next(state->pattern, state->events, state->count, can, from, found))
	{
		matches++;
		from = found[state->pattern->items - 1] + 1;
	}
	pfree(can);
	PG_RETURN_INT64(matches);
}

/* The times of the first match's conditions, in order; an empty array where there is no match */
PG_FUNCTION_INFO_V1(cdi_sequence_events_final);
Datum
cdi_sequence_events_final(PG_FUNCTION_ARGS)
{
	CdiSequenceState *state;
	int64		found[CDI_MAX_PATTERN_ITEMS];
	Datum		times[CDI_MAX_PATTERN_ITEMS];
	uint64	   *can;
	int			n = 0;

	if (!PG_ARGISNULL(0))
	{
		state = (CdiSequenceState *) PG_GETARG_POINTER(0);
		put_in_order(state);
		can = solve(state);
		if (cdi_pattern_next(state->pattern, state->events, state->count, can, 0, found))
			for (int item = 0; item < state->pattern->items; item++)
				if (state->pattern->reported >> item & 1)
					times[n++] = TimestampTzGetDatum(state->events[found[item]].at);
		pfree(can);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(times, n, TIMESTAMPTZOID, sizeof(TimestampTz),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
