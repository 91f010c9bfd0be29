/*
 * first.c
 *		cdi_first() and cdi_last(): the earliest and latest value of a group.
 *
 * Aggregates of (value, timestamp, position) that need no sorted input: they
 * keep one value, so a group of any size costs one comparison per row and the
 * memory of one value.  Null values count; leave them out with FILTER.  Of
 * equal times the position decides, of equal positions the value itself, so
 * that neither the order of rows nor how they are divided over workers matters.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

typedef struct CdiFirstState
{
	bool		begun;
	bool		isnull;
	bool		typbyval;
	int16		typlen;
	TimestampTz at;
	int64		position;
	Datum		value;
} CdiFirstState;

/* By their bytes; numbers that are passed by value as integers are ordered. */
static int
compare_values(const CdiFirstState *a, const CdiFirstState *b)
{
	const struct varlena *left;
	const struct varlena *right;
	Size		left_size;
	Size		right_size;
	int			order;

	if (a->typbyval)
		return DatumGetInt64(a->value) < DatumGetInt64(b->value) ? -1 : DatumGetInt64(a->value) > DatumGetInt64(b->value);
	if (a->typlen == -2)
		return strcmp(DatumGetCString(a->value), DatumGetCString(b->value));
	if (a->typlen > 0)
		return memcmp(DatumGetPointer(a->value), DatumGetPointer(b->value), a->typlen);
	left = PG_DETOAST_DATUM_PACKED(a->value);
	right = PG_DETOAST_DATUM_PACKED(b->value);
	left_size = VARSIZE_ANY_EXHDR(left);
	right_size = VARSIZE_ANY_EXHDR(right);
	order = memcmp(VARDATA_ANY(left), VARDATA_ANY(right), Min(left_size, right_size));
	return order != 0 ? order : left_size < right_size ? -1 : left_size > right_size;
}

/* Does the candidate replace what the state holds?  sign is 1 for the first, -1 for the last. */
static bool
replaces(const CdiFirstState *state, const CdiFirstState *candidate, int sign)
{
	int			order;

	if (!candidate->begun || !state->begun)
		return candidate->begun;
	if (candidate->at != state->at)
		order = candidate->at < state->at ? -1 : 1;
	else if (candidate->position != state->position)
		order = candidate->position < state->position ? -1 : 1;
	else if (candidate->isnull || state->isnull)
		return state->isnull && !candidate->isnull;
	else
		order = compare_values(candidate, state);
	return order * sign < 0;
}

/* The candidate's value is copied into the context. */
static void
keep(CdiFirstState *state, const CdiFirstState *candidate, MemoryContext context)
{
	MemoryContext previous;

	if (state->begun && !state->isnull && !state->typbyval)
		pfree(DatumGetPointer(state->value));
	*state = *candidate;
	if (state->isnull)
		return;
	previous = MemoryContextSwitchTo(context);
	if (state->typlen == -1)
		state->value = PointerGetDatum(PG_DETOAST_DATUM_COPY(candidate->value));
	else
		state->value = datumCopy(candidate->value, state->typbyval, state->typlen);
	MemoryContextSwitchTo(previous);
}

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_first or cdi_last called in non-aggregate context");
	return context;
}

static Datum
transition(FunctionCallInfo fcinfo, int sign)
{
	MemoryContext context = aggregate_context(fcinfo);
	CdiFirstState *state;
	CdiFirstState candidate;

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
	candidate = *state;
	candidate.begun = true;
	candidate.at = PG_GETARG_TIMESTAMPTZ(2);
	candidate.position = PG_GETARG_INT64(3);
	candidate.isnull = PG_ARGISNULL(1);
	candidate.value = candidate.isnull ? (Datum) 0 : PG_GETARG_DATUM(1);
	if (replaces(state, &candidate, sign))
		keep(state, &candidate, context);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_first_transition);
Datum
cdi_first_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, 1);
}

PG_FUNCTION_INFO_V1(cdi_last_transition);
Datum
cdi_last_transition(PG_FUNCTION_ARGS)
{
	return transition(fcinfo, -1);
}

static Datum
combine(FunctionCallInfo fcinfo, int sign)
{
	MemoryContext context = aggregate_context(fcinfo);
	CdiFirstState *state;
	CdiFirstState *other;

	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (CdiFirstState *) PG_GETARG_POINTER(1);
	if (PG_ARGISNULL(0))
		state = MemoryContextAllocZero(context, sizeof(CdiFirstState));
	else
		state = (CdiFirstState *) PG_GETARG_POINTER(0);
	if (replaces(state, other, sign))
		keep(state, other, context);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_first_combine);
Datum
cdi_first_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, 1);
}

PG_FUNCTION_INFO_V1(cdi_last_combine);
Datum
cdi_last_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, -1);
}

/* Of both, like what follows: the state, and the value as datumSerialize() writes it. */
PG_FUNCTION_INFO_V1(cdi_first_serial);
Datum
cdi_first_serial(PG_FUNCTION_ARGS)
{
	CdiFirstState *state = (CdiFirstState *) PG_GETARG_POINTER(0);
	bool		isnull = state->isnull || !state->begun;
	Size		size = VARHDRSZ + sizeof(CdiFirstState) +
		datumEstimateSpace(state->value, isnull, state->typbyval, state->typlen);
	bytea	   *result = palloc(size);
	char	   *place = VARDATA(result);

	SET_VARSIZE(result, size);
	memcpy(place, state, sizeof(CdiFirstState));
	place += sizeof(CdiFirstState);
	datumSerialize(state->value, isnull, state->typbyval, state->typlen, &place);
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(cdi_first_deserial);
Datum
cdi_first_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	CdiFirstState *state = palloc(sizeof(CdiFirstState));
	char	   *place = VARDATA_ANY(input);
	bool		isnull;

	memcpy(state, place, sizeof(CdiFirstState));
	place += sizeof(CdiFirstState);
	state->value = datumRestore(&place, &isnull);
	PG_RETURN_POINTER(state);
}

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
