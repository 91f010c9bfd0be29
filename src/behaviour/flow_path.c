/*
 * flow_path.c
 *		The path that a flow takes through a person's or a session's events,
 *		and cdi_flow_path(), the aggregate that returns it.
 *
 * Events are put in order of time and position, and what follows each other
 * with the same node is one event, at the time of the first (collapse).  The
 * path begins at the anchor and takes the events after it (backward: before
 * it), as many as steps says and as long as they lie within the window.  Where
 * none is left before the steps are used up, the path says so by its last
 * node, so that what comes into a node equals what leaves it.
 *
 * The aggregate keeps its rows as they come and sorts them in the end: its
 * input needs no order, and states of parallel workers are just appended.
 */
#include "behaviour/behaviour.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

text *
cdi_flow_label(const CdiLabels *labels, int32 node)
{
	static const char *const special[] = {"(end)", "(start)", "(other)"};
	CdiText		label;

	if (node < 0)
		return cstring_to_text(special[-1 - node]);
	label = labels->labels[node];
	for (int i = 0; i < lengthof(special); i++)
		if (label.len == strlen(special[i]) && memcmp(label.data, special[i], label.len) == 0)
			return cstring_to_text(psprintf("\"%s\"", special[i]));
	return cstring_to_text_with_len(label.data, label.len);
}

bool
cdi_flow_is_backward(const char *direction)
{
	if (strcmp(direction, "from") == 0)
		return false;
	if (strcmp(direction, "to") == 0)
		return true;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("direction \"%s\" does not exist", direction),
			 errhint("It is from (what follows the anchor) or to (what leads to it).")));
}

int
cdi_flow_check_steps(int steps)
{
	if (steps < 1 || steps > CDI_FLOW_MAX_STEPS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("steps must be 1 to %d, not %d", CDI_FLOW_MAX_STEPS, steps)));
	return steps;
}

static int64
collapse(CdiFlowEvent *events, int64 n)
{
	int64		kept = 0;

	for (int64 i = 0; i < n; i++)
		if (kept == 0 || events[i].node != events[kept - 1].node ||
			events[i].anchor != events[kept - 1].anchor)
			events[kept++] = events[i];
	return kept;
}

/* The path from the anchor at event i, or from beside the events. */
static void
follow(const CdiFlowOptions *options, const CdiFlowEvent *events, int64 n, int64 anchor,
	   CdiFlowEmit emit, void *arg)
{
	int32		nodes[CDI_FLOW_MAX_STEPS + 2];
	TimestampTz times[CDI_FLOW_MAX_STEPS + 2];
	int			step = options->backward ? -1 : 1;
	TimestampTz begun = events[anchor].at;
	int			length = 0;
	int64		i = anchor;

	if (!options->has_anchor)
	{
		nodes[length] = options->backward ? CDI_FLOW_END : CDI_FLOW_START;
		times[length++] = begun;
	}
	else
	{
		nodes[length] = events[i].node;
		times[length++] = begun;
		i += step;
	}
	for (; i >= 0 && i < n && length <= options->steps; i += step)
	{
		if (options->within > 0 && llabs(events[i].at - begun) > options->within)
			break;
		nodes[length] = events[i].node;
		times[length++] = events[i].at;
	}
	if (length <= options->steps)
	{
		nodes[length] = options->backward ? CDI_FLOW_START : CDI_FLOW_END;
		times[length] = times[length - 1];
		length++;
	}
	emit(arg, length, nodes, times);
}

void
cdi_flow_paths(const CdiFlowOptions *options, CdiFlowEvent *events, int64 nevents,
			   CdiFlowEmit emit, void *arg)
{
	int64		n = options->collapse ? collapse(events, nevents) : nevents;
	int64		first = 0;
	int64		last = n;

	if (n == 0)
		return;
	if (!options->has_anchor)
	{
		first = options->backward ? n - 1 : 0;
		last = first + 1;
	}
	for (int64 i = first; i < last; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if ((options->has_anchor && !events[i].anchor) ||
			events[i].at < options->from || events[i].at >= options->to)
			continue;
		follow(options, events, n, i, emit, arg);
		if (!options->every)
			break;
	}
}

/* The aggregate */

typedef struct PathRow
{
	TimestampTz at;
	int64		position;
	int32		node;
} PathRow;

typedef struct PathState
{
	MemoryContext context;
	CdiLabels  *labels;
	PathRow    *rows;
	int64		nrows;
	int64		space;
	bool		has_options;
	CdiFlowOptions options;
	char	   *anchor;			/* of the aggregate's context; NULL: none */
} PathState;

enum
{
	ARG_STATE, ARG_NODE, ARG_TIMESTAMP, ARG_POSITION, ARG_DIRECTION, ARG_ANCHOR, ARG_STEPS, ARG_COLLAPSE
};

static PathState *
create_state(MemoryContext context)
{
	PathState  *state = MemoryContextAllocZero(context, sizeof(PathState));

	state->context = context;
	state->space = 8;
	state->rows = MemoryContextAlloc(context, sizeof(PathRow) * state->space);
	state->labels = cdi_labels_create(context, 4);
	return state;
}

static void
add_row(PathState *state, TimestampTz at, int64 position, const char *node, int len)
{
	PathRow    *row;

	if (state->nrows == state->space)
	{
		state->space *= 2;
		state->rows = repalloc_huge(state->rows, sizeof(PathRow) * state->space);
	}
	row = &state->rows[state->nrows++];
	row->at = at;
	row->position = position;
	row->node = cdi_labels_number(state->labels, node, len);
}

static void
refuse_null(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s of a flow cannot be null", what)));
}

/* The options are those of the group's first row, and may not change. */
static void
take_options(PathState *state, FunctionCallInfo fcinfo)
{
	char	   *direction;

	if (PG_ARGISNULL(ARG_DIRECTION))
		refuse_null("the direction");
	if (PG_ARGISNULL(ARG_STEPS))
		refuse_null("the number of steps");
	if (PG_ARGISNULL(ARG_COLLAPSE))
		refuse_null("collapse");
	direction = text_to_cstring(PG_GETARG_TEXT_PP(ARG_DIRECTION));
	state->options.backward = cdi_flow_is_backward(direction);
	pfree(direction);
	state->options.steps = cdi_flow_check_steps(PG_GETARG_INT32(ARG_STEPS));
	state->options.collapse = PG_GETARG_BOOL(ARG_COLLAPSE);
	state->options.from = DT_NOBEGIN;
	state->options.to = DT_NOEND;
	state->options.has_anchor = !PG_ARGISNULL(ARG_ANCHOR);
	if (state->options.has_anchor)
	{
		char	   *anchor = text_to_cstring(PG_GETARG_TEXT_PP(ARG_ANCHOR));

		state->anchor = MemoryContextStrdup(state->context, anchor);
		pfree(anchor);
	}
	state->has_options = true;
}

/*
 * cdi._flow_path_transition(state internal, node text, "timestamp" timestamptz,
 *							 "position" bigint, direction text, anchor text,
 *							 steps integer, collapse boolean)
 */
PG_FUNCTION_INFO_V1(cdi_flow_path_transition);
Datum
cdi_flow_path_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	PathState  *state;
	text	   *node;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_flow_path called in non-aggregate context");
	state = PG_ARGISNULL(ARG_STATE) ? create_state(context) : (PathState *) PG_GETARG_POINTER(ARG_STATE);
	if (!state->has_options)
		take_options(state, fcinfo);
	if (PG_ARGISNULL(ARG_NODE) || PG_ARGISNULL(ARG_TIMESTAMP) || PG_ARGISNULL(ARG_POSITION))
		PG_RETURN_POINTER(state);
	node = PG_GETARG_TEXT_PP(ARG_NODE);
	add_row(state, PG_GETARG_TIMESTAMPTZ(ARG_TIMESTAMP), PG_GETARG_INT64(ARG_POSITION),
			VARDATA_ANY(node), VARSIZE_ANY_EXHDR(node));
	PG_RETURN_POINTER(state);
}

/*
 * cdi._flow_path_combine(internal, internal)
 */
PG_FUNCTION_INFO_V1(cdi_flow_path_combine);
Datum
cdi_flow_path_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	PathState  *state;
	PathState  *other;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_flow_path called in non-aggregate context");
	state = PG_ARGISNULL(0) ? create_state(context) : (PathState *) PG_GETARG_POINTER(0);
	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	other = (PathState *) PG_GETARG_POINTER(1);
	if (!state->has_options && other->has_options)
	{
		state->options = other->options;
		state->has_options = true;
		state->anchor = other->anchor ? MemoryContextStrdup(context, other->anchor) : NULL;
	}
	for (int64 i = 0; i < other->nrows; i++)
	{
		CdiText		node = other->labels->labels[other->rows[i].node];

		add_row(state, other->rows[i].at, other->rows[i].position, node.data, node.len);
	}
	PG_RETURN_POINTER(state);
}

/*
 * cdi._flow_path_serial(internal)
 */
PG_FUNCTION_INFO_V1(cdi_flow_path_serial);
Datum
cdi_flow_path_serial(PG_FUNCTION_ARGS)
{
	PathState  *state = (PathState *) PG_GETARG_POINTER(0);
	StringInfoData buffer;

	pq_begintypsend(&buffer);
	pq_sendbyte(&buffer, state->options.backward);
	pq_sendbyte(&buffer, state->options.collapse);
	pq_sendbyte(&buffer, state->options.has_anchor);
	pq_sendint32(&buffer, state->options.steps);
	pq_sendint32(&buffer, state->anchor ? strlen(state->anchor) : 0);
	if (state->anchor)
		pq_sendbytes(&buffer, state->anchor, strlen(state->anchor));
	pq_sendint64(&buffer, state->nrows);
	for (int64 i = 0; i < state->nrows; i++)
	{
		CdiText		node = state->labels->labels[state->rows[i].node];

		pq_sendint64(&buffer, state->rows[i].at);
		pq_sendint64(&buffer, state->rows[i].position);
		pq_sendint32(&buffer, node.len);
		pq_sendbytes(&buffer, node.data, node.len);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

/*
 * cdi._flow_path_deserial(bytea, internal)
 */
PG_FUNCTION_INFO_V1(cdi_flow_path_deserial);
Datum
cdi_flow_path_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(0);
	PathState  *state = create_state(CurrentMemoryContext);
	StringInfoData buffer;
	int64		nrows;
	int			len;

	initStringInfo(&buffer);
	appendBinaryStringInfo(&buffer, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data));
	state->has_options = true;
	state->options.backward = pq_getmsgbyte(&buffer);
	state->options.collapse = pq_getmsgbyte(&buffer);
	state->options.has_anchor = pq_getmsgbyte(&buffer);
	state->options.from = DT_NOBEGIN;
	state->options.to = DT_NOEND;
	state->options.steps = pq_getmsgint(&buffer, 4);
	len = pq_getmsgint(&buffer, 4);
	if (state->options.has_anchor)
		state->anchor = pnstrdup(pq_getmsgbytes(&buffer, len), len);
	nrows = pq_getmsgint64(&buffer);
	for (int64 i = 0; i < nrows; i++)
	{
		TimestampTz at = pq_getmsgint64(&buffer);
		int64		position = pq_getmsgint64(&buffer);

		len = pq_getmsgint(&buffer, 4);
		add_row(state, at, position, pq_getmsgbytes(&buffer, len), len);
	}
	PG_RETURN_POINTER(state);
}

/* Rows that are equal in time and position are ordered by their node's bytes. */
static int
compare_rows(const void *a, const void *b, void *arg)
{
	const PathRow *left = a;
	const PathRow *right = b;
	const CdiLabels *labels = arg;
	CdiText		l;
	CdiText		r;
	int			difference;

	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	if (left->position != right->position)
		return left->position < right->position ? -1 : 1;
	l = labels->labels[left->node];
	r = labels->labels[right->node];
	difference = memcmp(l.data, r.data, Min(l.len, r.len));
	return difference ? difference : l.len - r.len;
}

typedef struct PathResult
{
	const CdiLabels *labels;
	bool		backward;
	ArrayType  *array;
} PathResult;

/* CdiFlowEmit: the path as an array, in order of time */
static void
emit_array(void *arg, int length, const int32 *nodes, const TimestampTz *times)
{
	PathResult *result = arg;
	Datum		values[CDI_FLOW_MAX_STEPS + 2];

	for (int i = 0; i < length; i++)
	{
		int32		node = nodes[result->backward ? length - 1 - i : i];

		values[i] = PointerGetDatum(cdi_flow_label(result->labels, node));
	}
	result->array = construct_array(values, length, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * cdi._flow_path_final(internal)
 */
PG_FUNCTION_INFO_V1(cdi_flow_path_final);
Datum
cdi_flow_path_final(PG_FUNCTION_ARGS)
{
	PathState  *state = PG_ARGISNULL(0) ? NULL : (PathState *) PG_GETARG_POINTER(0);
	PathResult	result = {0};
	CdiFlowEvent *events;

	if (state == NULL || state->nrows == 0)
		PG_RETURN_NULL();
	/* the state may be used again, as in a moving window: a sort does no harm */
	qsort_arg(state->rows, state->nrows, sizeof(PathRow), compare_rows, state->labels);
	events = palloc_extended(sizeof(CdiFlowEvent) * state->nrows, MCXT_ALLOC_HUGE);
	for (int64 i = 0; i < state->nrows; i++)
	{
		CdiText		node = state->labels->labels[state->rows[i].node];

		events[i].at = state->rows[i].at;
		events[i].node = state->rows[i].node;
		events[i].anchor = state->anchor && strlen(state->anchor) == node.len &&
			memcmp(state->anchor, node.data, node.len) == 0;
	}
	result.labels = state->labels;
	result.backward = state->options.backward;
	cdi_flow_paths(&state->options, events, state->nrows, emit_array, &result);
	pfree(events);
	if (result.array == NULL)
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(result.array);
}
