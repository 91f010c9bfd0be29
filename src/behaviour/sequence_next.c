/*
 * sequence_next.c
 *		cdi_sequence_next_node(): what a person did next, after (or before) a
 *		chain of events that follow each other without a gap.
 *
 * ClickHouse's sequenceNextNode: the base is the first or last event, or the
 * first or last that meets the chain's first condition, and must meet the base
 * condition; from there each condition must be met by the very next event.
 * Here every row counts, also one that meets no condition.
 */
#include "behaviour/sequence.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define FIRST_SPACE	4

enum
{
	ARG_STATE, ARG_DIRECTION, ARG_BASE, ARG_TIMESTAMP, ARG_VALUE, ARG_BASE_CONDITION, ARG_CONDITIONS
};

/* As states carry it between processes: not to be reordered. */
typedef enum NextBase
{
	BASE_HEAD, BASE_TAIL, BASE_FIRST_MATCH, BASE_LAST_MATCH
} NextBase;

typedef struct NextChain
{
	bool		backward;
	NextBase	base;
	int			conditions;
} NextChain;

typedef struct NextRow
{
	CdiSequenceEvent event;
	bool		can_be_base;
	int			length;			/* -1: null */
	char	   *value;
} NextRow;

typedef struct NextState
{
	NextChain	chain;
	NextRow    *rows;
	int64		count;
	int64		space;
} NextState;

/* Simultaneous rows that meet the same conditions are told apart by what they
 * are, so the order of arrival never matters. */
static int
compare_rows(const NextRow *a, const NextRow *b)
{
	int			result = cdi_sequence_compare(&a->event, &b->event);

	if (result == 0)
		result = (int) b->can_be_base - (int) a->can_be_base;
	if (result == 0 && (a->length < 0 || b->length < 0))
		return (a->length < 0) - (b->length < 0);	/* null last */
	if (result == 0)
		result = memcmp(a->value, b->value, Min(a->length, b->length));
	return result ? result : a->length - b->length;
}

#define ST_SORT sort_rows
#define ST_ELEMENT_TYPE NextRow
#define ST_COMPARE(a, b) compare_rows(a, b)
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

static int
one_of(FunctionCallInfo fcinfo, int argument, const char *what, const char *const *names, int n)
{
	text	   *given;
	StringInfoData list;

	if (!PG_ARGISNULL(argument))
	{
		given = PG_GETARG_TEXT_PP(argument);
		for (int i = 0; i < n; i++)
			if (VARSIZE_ANY_EXHDR(given) == strlen(names[i]) &&
				memcmp(VARDATA_ANY(given), names[i], strlen(names[i])) == 0)
				return i;
	}
	initStringInfo(&list);
	for (int i = 0; i < n; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", names[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 PG_ARGISNULL(argument) ? errmsg("the %s must not be null", what)
			 : errmsg("unknown %s \"%s\"", what, text_to_cstring(PG_GETARG_TEXT_PP(argument))),
			 errhint("It is one of %s.", list.data)));
	return 0;					/* not reached */
}

static NextChain
chain_of(FunctionCallInfo fcinfo, int conditions)
{
	static const char *const directions[] = {"forward", "backward"};
	static const char *const bases[] = {"head", "tail", "first_match", "last_match"};
	NextChain	chain;

	chain.backward = one_of(fcinfo, ARG_DIRECTION, "direction", directions, lengthof(directions)) == 1;
	chain.base = one_of(fcinfo, ARG_BASE, "base", bases, lengthof(bases));
	chain.conditions = conditions;
	if (chain.base == (chain.backward ? BASE_HEAD : BASE_TAIL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("nothing lies %s the %s", chain.backward ? "before" : "after", bases[chain.base]),
				 errhint("With direction %s the base is %s, first_match or last_match.",
						 directions[chain.backward], chain.backward ? "tail" : "head")));
	return chain;
}

static NextState *
make_state(MemoryContext context, const NextChain *chain)
{
	NextState  *state = MemoryContextAlloc(context, sizeof(NextState));

	state->chain = *chain;
	state->count = 0;
	state->space = FIRST_SPACE;
	state->rows = MemoryContextAllocHuge(context, state->space * sizeof(NextRow));
	return state;
}

/* Keeps a copy of the value in the context. */
static void
add(NextState *state, MemoryContext context, NextRow row)
{
	char	   *copy = NULL;

	if (state->count == state->space)
	{
		state->space *= 2;
		state->rows = repalloc_huge(state->rows, state->space * sizeof(NextRow));
	}
	if (row.length > 0)
	{
		copy = MemoryContextAlloc(context, row.length);
		memcpy(copy, row.value, row.length);
	}
	row.value = copy;
	state->rows[state->count++] = row;
}

static void
check_same(const NextChain *a, const NextChain *b)
{
	if (a->backward != b->backward || a->base != b->base || a->conditions != b->conditions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("direction, base and number of conditions must be the same for all rows of a group")));
}

PG_FUNCTION_INFO_V1(cdi_sequence_next_transition);
Datum
cdi_sequence_next_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	NextState  *state = PG_ARGISNULL(ARG_STATE) ? NULL : (NextState *) PG_GETARG_POINTER(ARG_STATE);
	NextChain	chain;
	NextRow		row;
	int			conditions;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_sequence_next_node called in non-aggregate context");
	if (fcinfo->flinfo->fn_extra == NULL)
	{
		cdi_behaviour_check_conditions(fcinfo, ARG_CONDITIONS);
		fcinfo->flinfo->fn_extra = fcinfo->flinfo;	/* only to say that it is done */
	}
	memset(&row, 0, sizeof(row));
	row.event.conditions = cdi_behaviour_conditions(fcinfo, ARG_CONDITIONS, &conditions);
	chain = chain_of(fcinfo, conditions);
	if (state == NULL)
		state = make_state(context, &chain);
	else
		check_same(&state->chain, &chain);
	if (PG_ARGISNULL(ARG_TIMESTAMP))
		PG_RETURN_POINTER(state);

	row.event.at = PG_GETARG_TIMESTAMPTZ(ARG_TIMESTAMP);
	cdi_behaviour_check_time(row.event.at);
	row.can_be_base = !PG_ARGISNULL(ARG_BASE_CONDITION) && PG_GETARG_BOOL(ARG_BASE_CONDITION);
	row.length = -1;
	if (!PG_ARGISNULL(ARG_VALUE))
	{
		text	   *value = PG_GETARG_TEXT_PP(ARG_VALUE);

		row.length = VARSIZE_ANY_EXHDR(value);
		row.value = VARDATA_ANY(value);
	}
	add(state, context, row);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_sequence_next_combine);
Datum
cdi_sequence_next_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	NextState  *state;
	NextState  *other;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_sequence_next_node called in non-aggregate context");
	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (NextState *) PG_GETARG_POINTER(1);
	state = PG_ARGISNULL(0) ? make_state(context, &other->chain) : (NextState *) PG_GETARG_POINTER(0);
	check_same(&state->chain, &other->chain);
	for (int64 i = 0; i < other->count; i++)
		add(state, context, other->rows[i]);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_sequence_next_serial);
Datum
cdi_sequence_next_serial(PG_FUNCTION_ARGS)
{
	NextState  *state = (NextState *) PG_GETARG_POINTER(0);
	StringInfoData out;

	pq_begintypsend(&out);
	pq_sendbytes(&out, (char *) &state->chain, sizeof(NextChain));
	for (int64 i = 0; i < state->count; i++)
	{
		const NextRow *row = &state->rows[i];

		pq_sendint64(&out, row->event.at);
		pq_sendint32(&out, row->event.conditions);
		pq_sendint8(&out, row->can_be_base);
		pq_sendint32(&out, row->length);
		if (row->length > 0)
			pq_sendbytes(&out, row->value, row->length);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&out));
}

PG_FUNCTION_INFO_V1(cdi_sequence_next_deserial);
Datum
cdi_sequence_next_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *serialised = PG_GETARG_BYTEA_PP(0);
	StringInfoData in;
	NextChain	chain;
	NextState  *state;

	in.data = VARDATA_ANY(serialised);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(serialised);
	in.cursor = 0;
	memcpy(&chain, pq_getmsgbytes(&in, sizeof(NextChain)), sizeof(NextChain));
	state = make_state(CurrentMemoryContext, &chain);
	while (in.cursor < in.len)
	{
		NextRow		row;

		row.event.at = pq_getmsgint64(&in);
		row.event.conditions = pq_getmsgint(&in, 4);
		row.can_be_base = pq_getmsgbyte(&in);
		row.length = (int32) pq_getmsgint(&in, 4);
		row.value = row.length > 0 ? unconstify(char *, pq_getmsgbytes(&in, row.length)) : NULL;
		add(state, CurrentMemoryContext, row);
	}
	PG_RETURN_POINTER(state);
}

/* Where the chain starts; -1: nowhere */
static int64
find_base(const NextState *state)
{
	const NextRow *rows = state->rows;

	switch (state->chain.base)
	{
		case BASE_HEAD:
			return rows[0].can_be_base ? 0 : -1;
		case BASE_TAIL:
			return rows[state->count - 1].can_be_base ? state->count - 1 : -1;
		case BASE_FIRST_MATCH:
			for (int64 i = 0; i < state->count; i++)
				if (rows[i].can_be_base && (rows[i].event.conditions & 1))
					return i;
			break;
		case BASE_LAST_MATCH:
			for (int64 i = state->count - 1; i >= 0; i--)
				if (rows[i].can_be_base && (rows[i].event.conditions & 1))
					return i;
			break;
	}
	return -1;
}

PG_FUNCTION_INFO_V1(cdi_sequence_next_final);
Datum
cdi_sequence_next_final(PG_FUNCTION_ARGS)
{
	NextState  *state;
	int64		at;
	int			step;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (NextState *) PG_GETARG_POINTER(0);
	if (state->count <= state->chain.conditions)
		PG_RETURN_NULL();
	sort_rows(state->rows, state->count);
	at = find_base(state);
	if (at < 0)
		PG_RETURN_NULL();
	step = state->chain.backward ? -1 : 1;
	for (int i = 0; i < state->chain.conditions; i++, at += step)
		if (at < 0 || at >= state->count || !(state->rows[at].event.conditions >> i & 1))
			PG_RETURN_NULL();
	if (at < 0 || at >= state->count || state->rows[at].length < 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(state->rows[at].value, state->rows[at].length));
}
