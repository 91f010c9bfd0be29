/*
 * history.c
 *		cdi_history(): the times of a person's events, in order, in 8 bytes
 *		each, for the reports of retention, stickiness and lifecycle.
 *
 * What an event is (start, return, both) takes the two lowest bits beside its
 * time.  Equal entries are kept once: no report asks how often something
 * happened at one instant.  A state is a list in order of arrival that is
 * sorted when it is full, before it grows, so a person with millions of events
 * at few times stays small.  The value is for the reports of the same
 * statement, not for storage.
 */
#include "behaviour/people.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define FIRST_SPACE	5			/* the first chunk has 64 bytes */

#define ST_SORT sort_keys
#define ST_ELEMENT_TYPE int64
#define ST_COMPARE(a, b) (*(a) < *(b) ? -1 : *(a) > *(b))
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

/* One chunk, since most people have few events */
typedef struct CdiHistoryState
{
	int64		count;
	int64		space;
	bool		ordered;		/* strictly ascending so far */
	int64		keys[FLEXIBLE_ARRAY_MEMBER];
} CdiHistoryState;

static Size
state_size(int64 space)
{
	return offsetof(CdiHistoryState, keys) + space * sizeof(int64);
}

static CdiHistoryState *
make_state(MemoryContext context, int64 space)
{
	CdiHistoryState *state;

	space = Max(space, FIRST_SPACE);
	state = MemoryContextAllocHuge(context, state_size(space));
	state->count = 0;
	state->space = space;
	state->ordered = true;
	return state;
}

/* Put the entries in order and each of them once. */
static void
tidy(CdiHistoryState *state)
{
	int64		kept = 0;

	if (state->ordered)
		return;
	sort_keys(state->keys, state->count);
	for (int64 i = 1; i < state->count; i++)
		if (state->keys[i] != state->keys[kept])
			state->keys[++kept] = state->keys[i];
	state->count = kept + 1;
	state->ordered = true;
}

/* The state may move. */
static CdiHistoryState *
make_room(CdiHistoryState *state, int64 more)
{
	if (state->count + more <= state->space)
		return state;
	tidy(state);
	/* A list that lost less than half would be sorted again too soon. */
	if (state->count + more <= state->space / 2)
		return state;
	/* Twice the bytes: the allocator rounds up to a power of two. */
	state->space = Max((2 * state_size(state->space) - state_size(0)) / sizeof(int64), state->count + more);
	return repalloc_huge(state, state_size(state->space));
}

static CdiHistoryState *
add(CdiHistoryState *state, int64 key)
{
	if (state->count > 0 && state->keys[state->count - 1] == key)
		return state;
	state = make_room(state, 1);
	if (state->count > 0 && state->keys[state->count - 1] >= key)
		state->ordered = false;
	state->keys[state->count++] = key;
	return state;
}

/* cdi_history(timestamp) and cdi_history(timestamp, is_start, is_return) */
PG_FUNCTION_INFO_V1(cdi_history_transition);
Datum
cdi_history_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	CdiHistoryState *state;
	TimestampTz at;
	int			kind = 0;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_history called in non-aggregate context");
	state = PG_ARGISNULL(0) ? NULL : (CdiHistoryState *) PG_GETARG_POINTER(0);

	if (PG_NARGS() == 2)
		kind = CDI_HISTORY_START;
	else
	{
		if (!PG_ARGISNULL(2) && PG_GETARG_BOOL(2))
			kind |= CDI_HISTORY_START;
		if (!PG_ARGISNULL(3) && PG_GETARG_BOOL(3))
			kind |= CDI_HISTORY_RETURN;
	}
	if (!PG_ARGISNULL(1) && kind != 0)
	{
		at = PG_GETARG_TIMESTAMPTZ(1);
		cdi_behaviour_check_time(at);
		if (state == NULL)
			state = make_state(context, 0);
		state = add(state, at * 4 + kind);
	}
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/* In the node of people.h: start and return are conditions 1 and 2, and their bits those of kinds. */
StaticAssertDecl(CDI_HISTORY_START == 1 && CDI_HISTORY_RETURN == 2, "kinds are conditions");

static void *
make_person_state(void *last, const void *settings, const CdiPeopleEntry *entries, uint32 count)
{
	CdiHistoryState *state = last ? last : make_state(CurrentMemoryContext, count);

	state->count = 0;
	state->ordered = true;
	for (uint32 i = 0; i < count; i++)
		state = add(state, entries[i].at * 4 + entries[i].conditions);
	return state;
}

const CdiPeopleAggregate *
cdi_people_history(PGFunction transition, int arguments)
{
	static const CdiPeopleAggregate times = {1, 0, NULL, NULL, cdi_behaviour_check_time, make_person_state};
	static const CdiPeopleAggregate kinds = {1, 2, NULL, NULL, cdi_behaviour_check_time, make_person_state};

	if (transition != cdi_history_transition)
		return NULL;
	return arguments == 1 ? &times : &kinds;
}

PG_FUNCTION_INFO_V1(cdi_history_combine);
Datum
cdi_history_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	CdiHistoryState *state;
	CdiHistoryState *other;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_history called in non-aggregate context");
	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (CdiHistoryState *) PG_GETARG_POINTER(1);
	if (PG_ARGISNULL(0))
		state = make_state(context, other->count);
	else
		state = (CdiHistoryState *) PG_GETARG_POINTER(0);

	state = make_room(state, other->count);
	if (other->count > 0 && state->count > 0)
		state->ordered = false;
	else
		state->ordered = other->ordered;
	memcpy(state->keys + state->count, other->keys, other->count * sizeof(int64));
	state->count += other->count;
	PG_RETURN_POINTER(state);
}

static bytea *
to_bytea(CdiHistoryState *state)
{
	Size		size = VARHDRSZ + state->count * sizeof(int64);
	bytea	   *result;

	if (!AllocSizeIsValid(size))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("one person has too many events for a history"),
				 errdetail("There are %lld events at different times; %lld fit.", (long long) state->count,
						   (long long) (MaxAllocSize / sizeof(int64))),
				 errhint("Leave out what is no person (robots, monitoring), or truncate times to seconds: date_trunc('second', \"timestamp\").")));
	result = palloc(size);
	SET_VARSIZE(result, size);
	memcpy(VARDATA(result), state->keys, state->count * sizeof(int64));
	return result;
}

PG_FUNCTION_INFO_V1(cdi_history_serial);
Datum
cdi_history_serial(PG_FUNCTION_ARGS)
{
	CdiHistoryState *state = (CdiHistoryState *) PG_GETARG_POINTER(0);

	tidy(state);
	PG_RETURN_BYTEA_P(to_bytea(state));
}

PG_FUNCTION_INFO_V1(cdi_history_deserial);
Datum
cdi_history_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *serialised = PG_GETARG_BYTEA_PP(0);
	int64		count = VARSIZE_ANY_EXHDR(serialised) / sizeof(int64);
	CdiHistoryState *state = make_state(CurrentMemoryContext, count);

	memcpy(state->keys, VARDATA_ANY(serialised), count * sizeof(int64));
	state->count = count;
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_history_final);
Datum
cdi_history_final(PG_FUNCTION_ARGS)
{
	CdiHistoryState *state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (CdiHistoryState *) PG_GETARG_POINTER(0);
	tidy(state);
	PG_RETURN_BYTEA_P(to_bytea(state));
}

CdiHistory
cdi_history_read(bytea *value)
{
	CdiHistory	history;
	Size		size = VARSIZE_ANY_EXHDR(value);
	int64	   *keys;
	bool		valid = size % sizeof(int64) == 0;

	/* A short header would leave the entries unaligned. */
	keys = palloc_extended(Max(size, 1), MCXT_ALLOC_HUGE);
	memcpy(keys, VARDATA_ANY(value), size);
	history.keys = keys;
	history.count = size / sizeof(int64);
	for (int64 i = 0; valid && i < history.count; i++)
		valid = CDI_HISTORY_KIND(keys[i]) != 0 && (i == 0 || keys[i - 1] < keys[i]) &&
			keys[i] >= -(INT64CONST(1) << 62) && keys[i] < INT64CONST(1) << 62;
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the value is no history of cdi_history()"),
				 errhint("Make it in the same statement: cdi_history(\"timestamp\") ... GROUP BY person.")));
	return history;
}
