/*
 * funnel.c
 *		cdi_window_funnel(), cdi_funnel() and cdi_funnel_paths(): aggregates over
 *		the events of one person.
 *
 * The state of a group is one chunk: a header and an entry of 16 bytes for each
 * row that meets a condition (in modes where other events stand in the way, for
 * each row).  Values that are held constant lie in a buffer of their own.
 * Nothing is looked at before the end, so rows may come in any order and from
 * several processes; where they came in order of time, no sort is needed.  The
 * paths are a function of the set of rows alone.
 *
 * Limits: MAX_ENTRIES keeps a state below 1 GB, which is also the most that can
 * travel from a parallel worker.
 */
#include "behaviour/funnel.h"
#include "behaviour/people.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define FIRST_ENTRIES	6		/* the first chunk has 128 bytes */
#define MAX_ENTRIES		(UINT32_C(64) * 1024 * 1024 - 1024)
#define MAX_HOLD_BYTES	(MaxAllocSize - (Size) 1024)

/* The state */

static inline Size
state_size(uint32 space)
{
	return offsetof(CdiFunnelState, entries) + sizeof(CdiFunnelEntry) * (Size) space;
}

static CdiFunnelState *
make_state(MemoryContext context, const CdiFunnelOptions *options, uint32 space)
{
	CdiFunnelState *state = MemoryContextAllocExtended(context, state_size(space), MCXT_ALLOC_HUGE);

	state->options = options;
	state->holds = NULL;
	state->count = 0;
	state->space = space;
	state->sorted = true;
	return state;
}

/* Room for more entries; the state may move. */
static CdiFunnelState *
enlarge_state(CdiFunnelState *state, uint32 more)
{
	Size		size = state_size(state->space);

	if (more > MAX_ENTRIES - state->count)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a funnel can take at most %u events of one group", MAX_ENTRIES),
				 errhint("Leave out a period or the busiest groups, or GROUP BY something finer.")));
	while (state_size(state->count + more) > size)
		size *= 2;
	state = repalloc_huge(state, size);
	state->space = (size - offsetof(CdiFunnelState, entries)) / sizeof(CdiFunnelEntry);
	return state;
}

/* A state without entries that has room for so many; state may be NULL, and may move. */
static CdiFunnelState *
empty_state(CdiFunnelState *state, const CdiFunnelOptions *options, uint32 count)
{
	if (state == NULL)
		state = make_state(CurrentMemoryContext, options, FIRST_ENTRIES);
	state->options = options;
	state->count = 0;
	state->sorted = true;
	return count > state->space ? enlarge_state(state, count) : state;
}

static inline void
add_entry(CdiFunnelState *state, const CdiFunnelEntry *entry)
{
	if (state->sorted && state->count > 0 && cdi_funnel_entry_is_before(entry, &state->entries[state->count - 1]))
		state->sorted = false;
	state->entries[state->count++] = *entry;
}

static void
no_room_for_holds(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("values of the property that a funnel holds constant take more than 1 GB in one group"),
			 errhint("Hold md5() of the value constant instead, or leave out a period.")));
}

static void
reserve_holds(MemoryContext context, CdiFunnelState *state, Size more)
{
	CdiFunnelHolds *holds = state->holds;
	Size		needed = (holds ? holds->used : 0) + more;
	Size		space = holds ? holds->space : 64;

	if (needed > MAX_HOLD_BYTES)
		no_room_for_holds();
	while (space < needed)
		space *= 2;
	space = Min(space, MAX_HOLD_BYTES);
	if (holds == NULL)
	{
		holds = MemoryContextAlloc(context, offsetof(CdiFunnelHolds, data) + space);
		holds->used = 0;
	}
	else if (space > holds->space)
		holds = repalloc(holds, offsetof(CdiFunnelHolds, data) + space);
	holds->space = space;
	state->holds = holds;
}

/* Keep a value; returns its place. */
static uint32
add_hold(MemoryContext context, CdiFunnelState *state, const text *value)
{
	uint32		len = VARSIZE_ANY_EXHDR(value);
	uint32		place;

	/* Events of one session or item come together: often it is there. */
	if (state->count > 0 && state->holds)
	{
		const char *last = state->holds->data + state->entries[state->count - 1].hold;
		uint32		last_len;

		memcpy(&last_len, last, sizeof(uint32));
		if (last_len == len && memcmp(last + sizeof(uint32), VARDATA_ANY(value), len) == 0)
			return state->entries[state->count - 1].hold;
	}
	reserve_holds(context, state, sizeof(uint32) + (Size) len);
	place = state->holds->used;
	memcpy(state->holds->data + place, &len, sizeof(uint32));
	memcpy(state->holds->data + place + sizeof(uint32), VARDATA_ANY(value), len);
	state->holds->used += sizeof(uint32) + len;
	return place;
}

static bool
same_options(const CdiFunnelOptions *a, const CdiFunnelOptions *b)
{
	return a == b || (a->size == b->size && memcmp(a, b, a->size) == 0);
}

static void
check_same_options(const CdiFunnelState *state, const CdiFunnelOptions *options)
{
	if (!same_options(state->options, options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window and options of a funnel must be the same for all rows of a group")));
}

/* Arguments */

static int
count_conditions(FunctionCallInfo fcinfo, const CdiFunnelArguments *arguments, bool *array)
{
	*array = get_fn_expr_variadic(fcinfo->flinfo);
	if (*array)
	{
		if (get_base_element_type(get_fn_expr_argtype(fcinfo->flinfo, arguments->conditions)) != BOOLOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("VARIADIC conditions of a funnel must be an array of boolean")));
		if (PG_ARGISNULL(arguments->conditions))
			return 0;
		return ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(arguments->conditions)),
							  ARR_DIMS(PG_GETARG_ARRAYTYPE_P(arguments->conditions)));
	}
	for (int i = arguments->conditions; i < PG_NARGS(); i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i);

		/* An untyped NULL is a condition that nothing meets. */
		if (getBaseType(type) != BOOLOID && !(type == UNKNOWNOID && PG_ARGISNULL(i)))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("condition %d of a funnel is of type %s, not boolean",
							i - arguments->conditions + 1, format_type_be(type))));
	}
	return PG_NARGS() - arguments->conditions;
}

static bool
same_bytes(const struct varlena *a, const struct varlena *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static void
not_null(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (argument > 0 && PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a funnel cannot be null", what)));
}

/*
 * Options of this row, read anew only where the arguments have changed.  What
 * was read before stays: states of other groups point there.
 */
static CdiFunnelCall *
prepare(FunctionCallInfo fcinfo, const CdiFunnelArguments *arguments)
{
	CdiFunnelCall *call = fcinfo->flinfo->fn_extra;
	struct varlena *given = NULL;
	MemoryContext previous;

	not_null(fcinfo, arguments->mode, "the mode");
	not_null(fcinfo, arguments->json, "the options");
	not_null(fcinfo, arguments->window, "the window");
	if (arguments->mode > 0 || arguments->json > 0)
		given = PG_GETARG_VARLENA_PP(arguments->mode + arguments->json);

	if (call && (given == NULL || same_bytes(given, call->text)) &&
		(arguments->window == 0 ||
		 memcmp(&call->window, PG_GETARG_INTERVAL_P(arguments->window), sizeof(Interval)) == 0))
		return call;

	previous = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	if (call == NULL)
	{
		call = palloc0(sizeof(CdiFunnelCall));
		call->nconditions = count_conditions(fcinfo, arguments, &call->array);
	}
	if (arguments->json > 0)
		call->options = cdi_funnel_options_of_json(PG_GETARG_JSONB_P_COPY(arguments->json), call->nconditions);
	else
		call->options = cdi_funnel_options(arguments->mode > 0 ? text_to_cstring((text *) given) : NULL,
										   PG_GETARG_INTERVAL_P(arguments->window), call->nconditions);
	if (arguments->hold > 0 && call->options->dialect == CDI_FUNNEL_CLICKHOUSE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dialect \"clickhouse\" holds no property constant"),
				 errhint("Dialects mixpanel and amplitude do; or GROUP BY the property, too.")));
	if (given)
	{
		if (call->text)
			pfree(call->text);
		call->text = PG_DETOAST_DATUM_COPY(PointerGetDatum(given));
	}
	if (arguments->window > 0)
		call->window = *PG_GETARG_INTERVAL_P(arguments->window);
	fcinfo->flinfo->fn_extra = call;
	MemoryContextSwitchTo(previous);
	return call;
}

static uint32
conditions_of_array(FunctionCallInfo fcinfo, const CdiFunnelCall *call, int argument)
{
	ArrayType  *array;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	uint32		conditions = 0;

	if (PG_ARGISNULL(argument))
		return 0;
	array = PG_GETARG_ARRAYTYPE_P(argument);
	deconstruct_array(array, BOOLOID, 1, true, TYPALIGN_CHAR, &values, &nulls, &n);
	if (n != call->nconditions)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("a funnel must have the same number of conditions in every row"),
				 errdetail("There were %d, and now there are %d.", call->nconditions, n)));
	for (int i = 0; i < n; i++)
		if (!nulls[i] && DatumGetBool(values[i]))
			conditions |= UINT32_C(1) << i;
	pfree(values);
	pfree(nulls);
	return conditions;
}

static uint32
conditions_of(FunctionCallInfo fcinfo, const CdiFunnelCall *call, int argument)
{
	uint32		conditions = 0;

	if (call->array)
		return conditions_of_array(fcinfo, call, argument);
	for (int i = 0; i < call->nconditions; i++)
		if (!PG_ARGISNULL(argument + i) && PG_GETARG_BOOL(argument + i))
			conditions |= UINT32_C(1) << i;
	return conditions;
}

static TimestampTz
finite_time(TimestampTz at)
{
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an event of a funnel cannot happen at %s", TIMESTAMP_IS_NOBEGIN(at) ? "-infinity" : "infinity"),
				 errhint("Leave such events out with FILTER (WHERE isfinite(\"timestamp\")).")));
	return at;
}

static Datum
accumulate(FunctionCallInfo fcinfo, const CdiFunnelArguments *arguments)
{
	CdiFunnelState *state = PG_ARGISNULL(0) ? NULL : (CdiFunnelState *) PG_GETARG_POINTER(0);
	CdiFunnelCall *call = prepare(fcinfo, arguments);
	CdiFunnelEntry entry;
	MemoryContext context;

	entry.conditions = conditions_of(fcinfo, call, arguments->conditions);
	if (state && state->options != call->options)
		check_same_options(state, call->options);
	/* What has no time, or no value of what is held constant, is in no path. */
	if (PG_ARGISNULL(arguments->timestamp) ||
		(arguments->hold > 0 && PG_ARGISNULL(arguments->hold)) ||
		(entry.conditions == 0 && !cdi_funnel_needs_unmatched(call->options)))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	entry.at = finite_time(PG_GETARG_TIMESTAMPTZ(arguments->timestamp));

	if (state == NULL || state->count == state->space || arguments->hold > 0)
		if (!AggCheckCallContext(fcinfo, &context))
			elog(ERROR, "cdi_window_funnel or cdi_funnel called in non-aggregate context");
	if (state == NULL)
		state = make_state(context, call->options, FIRST_ENTRIES);
	else if (state->count == state->space)
		state = enlarge_state(state, 1);

	entry.hold = arguments->hold > 0 ?
		add_hold(context, state, PG_GETARG_TEXT_PP(arguments->hold)) : 0;
	add_entry(state, &entry);
	PG_RETURN_POINTER(state);
}

static const CdiFunnelArguments window_arguments = {.window = 1, .timestamp = 2, .conditions = 3};
static const CdiFunnelArguments mode_arguments = {.mode = 1, .window = 2, .timestamp = 3, .conditions = 4};
static const CdiFunnelArguments json_arguments = {.json = 1, .timestamp = 2, .conditions = 3};
static const CdiFunnelArguments hold_arguments = {.json = 1, .timestamp = 2, .hold = 3, .conditions = 4};

PG_FUNCTION_INFO_V1(cdi_window_funnel_transition);
Datum
cdi_window_funnel_transition(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, &window_arguments);
}

PG_FUNCTION_INFO_V1(cdi_window_funnel_mode_transition);
Datum
cdi_window_funnel_mode_transition(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, &mode_arguments);
}

PG_FUNCTION_INFO_V1(cdi_funnel_transition);
Datum
cdi_funnel_transition(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, &json_arguments);
}

PG_FUNCTION_INFO_V1(cdi_funnel_hold_transition);
Datum
cdi_funnel_hold_transition(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, &hold_arguments);
}

/* In the node of people.h */

static const void *
prepare_people(FunctionCallInfo fcinfo, const CdiFunnelArguments *arguments, Size *size, bool *unmatched)
{
	const CdiFunnelOptions *options = prepare(fcinfo, arguments)->options;

	*size = options->size;
	*unmatched = cdi_funnel_needs_unmatched(options);
	return options;
}

static const void *
prepare_window(FunctionCallInfo fcinfo, Size *size, bool *unmatched)
{
	return prepare_people(fcinfo, &window_arguments, size, unmatched);
}

static const void *
prepare_mode(FunctionCallInfo fcinfo, Size *size, bool *unmatched)
{
	return prepare_people(fcinfo, &mode_arguments, size, unmatched);
}

static const void *
prepare_json(FunctionCallInfo fcinfo, Size *size, bool *unmatched)
{
	return prepare_people(fcinfo, &json_arguments, size, unmatched);
}

/* The array is the last argument. */
static uint32
read_array(FunctionCallInfo fcinfo)
{
	return conditions_of(fcinfo, fcinfo->flinfo->fn_extra, PG_NARGS() - 1);
}

static void *
make_person_state(void *last, const void *settings, const CdiPeopleEntry *entries, uint32 count)
{
	CdiFunnelState *state = empty_state(last, settings, count);

	for (uint32 i = 0; i < count; i++)
	{
		CdiFunnelEntry entry = {.at = entries[i].at, .conditions = entries[i].conditions};

		add_entry(state, &entry);
	}
	return state;
}

static void
check_time(TimestampTz at)
{
	(void) finite_time(at);
}

const CdiPeopleAggregate *
cdi_people_funnel(PGFunction transition)
{
	static const CdiPeopleAggregate window = {2, 3, prepare_window, read_array, check_time, make_person_state};
	static const CdiPeopleAggregate mode = {3, 4, prepare_mode, read_array, check_time, make_person_state};
	static const CdiPeopleAggregate json = {2, 3, prepare_json, read_array, check_time, make_person_state};

	if (transition == cdi_window_funnel_transition)
		return &window;
	if (transition == cdi_window_funnel_mode_transition)
		return &mode;
	if (transition == cdi_funnel_transition)
		return &json;
	return NULL;
}

/* Between processes: options, values held constant, entries */

/* The same options are kept once per query. */
static const CdiFunnelOptions *
shared_options(FunctionCallInfo fcinfo, const CdiFunnelOptions *options)
{
	CdiFunnelOptions *kept = fcinfo->flinfo->fn_extra;

	if (kept == NULL || !same_options(kept, options))
	{
		kept = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, options->size);
		memcpy(kept, options, options->size);
		fcinfo->flinfo->fn_extra = kept;
	}
	return kept;
}

PG_FUNCTION_INFO_V1(cdi_funnel_combine);
Datum
cdi_funnel_combine(PG_FUNCTION_ARGS)
{
	CdiFunnelState *state = PG_ARGISNULL(0) ? NULL : (CdiFunnelState *) PG_GETARG_POINTER(0);
	CdiFunnelState *other = PG_ARGISNULL(1) ? NULL : (CdiFunnelState *) PG_GETARG_POINTER(1);
	uint32		held = 0;
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_funnel_combine called in non-aggregate context");
	if (other == NULL)
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	if (state == NULL)
		state = make_state(context, shared_options(fcinfo, other->options), Max(other->count, FIRST_ENTRIES));
	else
		check_same_options(state, other->options);

	if (state->count + (uint64) other->count > state->space)
		state = enlarge_state(state, other->count);
	if (other->holds && other->holds->used > 0)
	{
		held = state->holds ? state->holds->used : 0;
		reserve_holds(context, state, other->holds->used);
		memcpy(state->holds->data + held, other->holds->data, other->holds->used);
		state->holds->used += other->holds->used;
	}
	if (state->sorted)
		state->sorted = other->sorted &&
			(state->count == 0 || other->count == 0 ||
			 !cdi_funnel_entry_is_before(&other->entries[0], &state->entries[state->count - 1]));
	memcpy(&state->entries[state->count], other->entries, sizeof(CdiFunnelEntry) * other->count);
	if (held > 0)
		for (uint32 i = state->count; i < state->count + other->count; i++)
			state->entries[i].hold += held;
	state->count += other->count;
	PG_RETURN_POINTER(state);
}

/* As it travels: the parts one after the other. */
typedef struct Message
{
	uint32		count;
	uint32		held;
	uint32		options_size;
	bool		sorted;
} Message;

PG_FUNCTION_INFO_V1(cdi_funnel_serial);
Datum
cdi_funnel_serial(PG_FUNCTION_ARGS)
{
	CdiFunnelState *state = (CdiFunnelState *) PG_GETARG_POINTER(0);
	Message		message;
	Size		size;
	bytea	   *result;
	char	   *place;

	memset(&message, 0, sizeof(message));
	message.count = state->count;
	message.held = state->holds ? state->holds->used : 0;
	message.options_size = MAXALIGN(state->options->size);
	message.sorted = state->sorted;
	size = VARHDRSZ + sizeof(Message) + message.options_size +
		sizeof(CdiFunnelEntry) * (Size) message.count + message.held;
	if (size > MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("events of one group are more than 1 GB, which a parallel worker cannot hand over"),
				 errhint("SET max_parallel_workers_per_gather = 0, or leave out a period or the busiest groups.")));
	result = palloc(size);
	SET_VARSIZE(result, size);
	place = VARDATA(result);
	memcpy(place, &message, sizeof(Message));
	place += sizeof(Message);
	memcpy(place, state->options, state->options->size);
	place += message.options_size;
	memcpy(place, state->entries, sizeof(CdiFunnelEntry) * (Size) message.count);
	place += sizeof(CdiFunnelEntry) * (Size) message.count;
	if (message.held > 0)
		memcpy(place, state->holds->data, message.held);
	PG_RETURN_BYTEA_P(result);
}

/*
 * What a state is read into is kept: nobody needs it longer than until the next
 * is combined, and most differ in their entries only.
 */
typedef struct Reader
{
	CdiFunnelState *state;
	CdiFunnelOptions *options;
} Reader;

PG_FUNCTION_INFO_V1(cdi_funnel_deserial);
Datum
cdi_funnel_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	const char *place = VARDATA_ANY(input);
	MemoryContext context = fcinfo->flinfo->fn_mcxt;
	Reader	   *reader = fcinfo->flinfo->fn_extra;
	Message		message;
	CdiFunnelState *state;

	if (reader == NULL)
		reader = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(context, sizeof(Reader));
	memcpy(&message, place, sizeof(Message));
	place += sizeof(Message);
	if (reader->options == NULL || memcmp(reader->options, place, Min(reader->options->size, message.options_size)) != 0)
	{
		reader->options = MemoryContextAlloc(context, message.options_size);
		memcpy(reader->options, place, message.options_size);
	}
	place += message.options_size;
	if (reader->state == NULL)
		reader->state = make_state(context, reader->options, FIRST_ENTRIES);
	state = reader->state = empty_state(reader->state, reader->options, message.count);
	state->sorted = message.sorted;
	state->count = message.count;
	memcpy(state->entries, place, sizeof(CdiFunnelEntry) * (Size) message.count);
	place += sizeof(CdiFunnelEntry) * (Size) message.count;
	if (state->holds)
		state->holds->used = 0;
	if (message.held > 0)
	{
		reserve_holds(context, state, message.held);
		memcpy(state->holds->data, place, message.held);
		state->holds->used = message.held;
	}
	PG_RETURN_POINTER(state);
}
