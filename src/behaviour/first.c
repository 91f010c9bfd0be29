/*
 * first.c
 *		cdi_first() and cdi_last(): the earliest and latest value of a group.
 *
 * Aggregates of (value, timestamp, position) that need no sorted input: they
 * keep one value, so a group of any size costs one comparison per row and the
 * memory of one value.  Null values count; leave them out with FILTER.  Of
 * equal times the position decides.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

typedef struct CdiFirstState
{
	bool		begun;
	TimestampTz at;
	int64		position;
	bool		isnull;
	Datum		value;			/* in the aggregate's context */
	int16		typlen;
	bool		typbyval;
} CdiFirstState;

/* Is (at, position) before what the state holds? */
static bool
is_before(const CdiFirstState *state, TimestampTz at, int64 position)
{
	return at < state->at || (at == state->at && position < state->position);
}

static bool
is_after(const CdiFirstState *state, TimestampTz at, int64 position)
{
	return at > state->at || (at == state->at && position > state->position);
}

static Datum
transition(FunctionCallInfo fcinfo,
		   bool (*replaces) (const CdiFirstState *, TimestampTz, int64))
{
	MemoryContext context;
	MemoryContext previous;
	CdiFirstState *state;
	TimestampTz at;
	int64		position;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_first or cdi_last called in non-aggregate context");

	if (PG_ARGISNULL(0))
	{
		state = MemoryContextAllocZero(context, sizeof(CdiFirstState));
		get_typlenbyval(get_fn_expr_argtype(fcinfo->flinfo, 1),
						&state->typlen, &state->typbyval);
	}
	else
		state = (CdiFirstState *) PG_GETARG_POINTER(0);

	/* A row without a time or place in the order is no candidate. */
	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_POINTER(state);
	at = PG_GETARG_TIMESTAMPTZ(2);
	position = PG_GETARG_INT64(3);
	if (state->begun && !replaces(state, at, position))
		PG_RETURN_POINTER(state);

	if (state->begun && !state->isnull && !state->typbyval)
		pfree(DatumGetPointer(state->value));
	state->begun = true;
	state->at = at;
	state->position = position;
	state->isnull = PG_ARGISNULL(1);
	state->value = (Datum) 0;
	if (!state->isnull)
	{
		previous = MemoryContextSwitchTo(context);
		if (state->typlen == -1)
			state->value = PointerGetDatum(PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(1)));
		else
			state->value = datumCopy(PG_GETARG_DATUM(1), state->typbyval, state->typlen);
		MemoryContextSwitchTo(previous);
	}
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_first_transition);
Datum
cdi_first_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, is_before);
}

PG_FUNCTION_INFO_V1(cdi_last_transition);
Datum
cdi_last_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, is_after);
}

/* Of both. */
PG_FUNCTION_INFO_V1(cdi_first_final);
Datum
cdi_first_final(PG_FUNCTION_ARGS)
{
	CdiFirstState *state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (CdiFirstState *) PG_GETARG_POINTER(0);
	if (!state->begun || state->isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state->value);
}
