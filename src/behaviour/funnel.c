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

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/base.h"

#define FIRST_ENTRIES	6		/* the first chunk has 128 bytes */
#define MAX_ENTRIES		(UINT32_C(64) * 1024 * 1024 - 1024)
#define MAX_HOLD_BYTES	(MaxAllocSize - (Size) 1024)

/* Values of the constant property, each a length and bytes. */
typedef struct HoldBytes
{
	uint32		used;
	uint32		space;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} HoldBytes;

typedef struct FunnelState
{
	const CdiFunnelOptions *options;	/* in a context that lives as long */
	HoldBytes  *holds;			/* NULL: nothing is held constant */
	uint32		count;
	uint32		space;
	bool		sorted;			/* by (at, conditions) */
	CdiFunnelEntry entries[FLEXIBLE_ARRAY_MEMBER];
} FunnelState;

/* fn_extra of a transition function: what stays the same from row to row */
typedef struct FunnelCall
{
	CdiFunnelOptions *options;
	int			nconditions;
	bool		array;			/* called with VARIADIC array */
	Interval	window;			/* options are of these */
	struct varlena *text;		/* mode or JSON */
} FunnelCall;

/* Places of the arguments; 0: the function has none */
typedef struct FunnelArguments
{
	int			mode;
	int			json;
	int			window;
	int			timestamp;
	int			hold;
	int			conditions;
} FunnelArguments;

static inline bool
entry_is_before(const CdiFunnelEntry *a, const CdiFunnelEntry *b)
{
	return a->at < b->at || (a->at == b->at && a->conditions < b->conditions);
}

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE CdiFunnelEntry
#define ST_COMPARE(a, b) (entry_is_before(a, b) ? -1 : entry_is_before(b, a) ? 1 : 0)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

void
cdi_funnel_add_path(CdiFunnelPaths *paths, const CdiFunnelPath *path)
{
	if (paths->count == paths->space)
	{
		paths->space = paths->space ? 2 * paths->space : 8;
		paths->paths = paths->paths ?
			repalloc_huge(paths->paths, sizeof(CdiFunnelPath) * paths->space) :
			palloc_extended(sizeof(CdiFunnelPath) * paths->space, MCXT_ALLOC_HUGE);
	}
	paths->paths[paths->count++] = *path;
}

/* The state */

static inline Size
state_size(uint32 space)
{
	return offsetof(FunnelState, entries) + sizeof(CdiFunnelEntry) * (Size) space;
}

static FunnelState *
make_state(MemoryContext context, const CdiFunnelOptions *options, uint32 space)
{
	FunnelState *state = MemoryContextAllocExtended(context, state_size(space), MCXT_ALLOC_HUGE);

	state->options = options;
	state->holds = NULL;
	state->count = 0;
	state->space = space;
	state->sorted = true;
	return state;
}

/* Room for more entries; the state may move. */
static FunnelState *
enlarge_state(FunnelState *state, uint32 more)
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
	state->space = (size - offsetof(FunnelState, entries)) / sizeof(CdiFunnelEntry);
	return state;
}

static inline void
add_entry(FunnelState *state, const CdiFunnelEntry *entry)
{
	if (state->sorted && state->count > 0 && entry_is_before(entry, &state->entries[state->count - 1]))
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
reserve_holds(MemoryContext context, FunnelState *state, Size more)
{
	HoldBytes  *holds = state->holds;
	Size		needed = (holds ? holds->used : 0) + more;
	Size		space = holds ? holds->space : 64;

	if (needed > MAX_HOLD_BYTES)
		no_room_for_holds();
	while (space < needed)
		space *= 2;
	space = Min(space, MAX_HOLD_BYTES);
	if (holds == NULL)
	{
		holds = MemoryContextAlloc(context, offsetof(HoldBytes, data) + space);
		holds->used = 0;
	}
	else if (space > holds->space)
		holds = repalloc(holds, offsetof(HoldBytes, data) + space);
	holds->space = space;
	state->holds = holds;
}

/* Keep a value; returns its place. */
static uint32
add_hold(MemoryContext context, FunnelState *state, const text *value)
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
check_same_options(const FunnelState *state, const CdiFunnelOptions *options)
{
	if (!same_options(state->options, options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window and options of a funnel must be the same for all rows of a group")));
}

/* Arguments */

static int
count_conditions(FunctionCallInfo fcinfo, const FunnelArguments *arguments, bool *array)
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
static FunnelCall *
prepare_call(FunctionCallInfo fcinfo, const FunnelArguments *arguments)
{
	FunnelCall *call = fcinfo->flinfo->fn_extra;
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
		call = palloc0(sizeof(FunnelCall));
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
conditions_of_array(FunctionCallInfo fcinfo, const FunnelCall *call, int argument)
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

static Datum
accumulate(FunctionCallInfo fcinfo, const FunnelArguments *arguments)
{
	FunnelState *state = PG_ARGISNULL(0) ? NULL : (FunnelState *) PG_GETARG_POINTER(0);
	FunnelCall *call = prepare_call(fcinfo, arguments);
	CdiFunnelEntry entry;
	MemoryContext context;

	if (call->array)
		entry.conditions = conditions_of_array(fcinfo, call, arguments->conditions);
	else
	{
		entry.conditions = 0;
		for (int i = 0; i < call->nconditions; i++)
			if (!PG_ARGISNULL(arguments->conditions + i) && PG_GETARG_BOOL(arguments->conditions + i))
				entry.conditions |= UINT32_C(1) << i;
	}
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
	entry.at = PG_GETARG_TIMESTAMPTZ(arguments->timestamp);
	if (TIMESTAMP_NOT_FINITE(entry.at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an event of a funnel cannot happen at %s", TIMESTAMP_IS_NOBEGIN(entry.at) ? "-infinity" : "infinity"),
				 errhint("Leave such events out with FILTER (WHERE isfinite(\"timestamp\")).")));

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

PG_FUNCTION_INFO_V1(cdi_window_funnel_transition);
Datum
cdi_window_funnel_transition(PG_FUNCTION_ARGS)
{
	static const FunnelArguments arguments = {.window = 1, .timestamp = 2, .conditions = 3};

	return accumulate(fcinfo, &arguments);
}

PG_FUNCTION_INFO_V1(cdi_window_funnel_mode_transition);
Datum
cdi_window_funnel_mode_transition(PG_FUNCTION_ARGS)
{
	static const FunnelArguments arguments = {.mode = 1, .window = 2, .timestamp = 3, .conditions = 4};

	return accumulate(fcinfo, &arguments);
}

PG_FUNCTION_INFO_V1(cdi_funnel_transition);
Datum
cdi_funnel_transition(PG_FUNCTION_ARGS)
{
	static const FunnelArguments arguments = {.json = 1, .timestamp = 2, .conditions = 3};

	return accumulate(fcinfo, &arguments);
}

PG_FUNCTION_INFO_V1(cdi_funnel_hold_transition);
Datum
cdi_funnel_hold_transition(PG_FUNCTION_ARGS)
{
	static const FunnelArguments arguments = {.json = 1, .timestamp = 2, .hold = 3, .conditions = 4};

	return accumulate(fcinfo, &arguments);
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
	FunnelState *state = PG_ARGISNULL(0) ? NULL : (FunnelState *) PG_GETARG_POINTER(0);
	FunnelState *other = PG_ARGISNULL(1) ? NULL : (FunnelState *) PG_GETARG_POINTER(1);
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
	if (other->holds)
	{
		held = state->holds ? state->holds->used : 0;
		reserve_holds(context, state, other->holds->used);
		memcpy(state->holds->data + held, other->holds->data, other->holds->used);
		state->holds->used += other->holds->used;
	}
	if (state->sorted)
		state->sorted = other->sorted &&
			(state->count == 0 || other->count == 0 ||
			 !entry_is_before(&other->entries[0], &state->entries[state->count - 1]));
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
	FunnelState *state = (FunnelState *) PG_GETARG_POINTER(0);
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

PG_FUNCTION_INFO_V1(cdi_funnel_deserial);
Datum
cdi_funnel_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	const char *place = VARDATA_ANY(input);
	Message		message;
	FunnelState *state;
	CdiFunnelOptions *options;

	memcpy(&message, place, sizeof(Message));
	place += sizeof(Message);
	options = palloc(message.options_size);
	memcpy(options, place, message.options_size);
	place += message.options_size;
	state = make_state(CurrentMemoryContext, options, Max(message.count, 1));
	state->sorted = message.sorted;
	state->count = message.count;
	memcpy(state->entries, place, sizeof(CdiFunnelEntry) * (Size) message.count);
	place += sizeof(CdiFunnelEntry) * (Size) message.count;
	if (message.held > 0)
	{
		reserve_holds(CurrentMemoryContext, state, message.held);
		memcpy(state->holds->data, place, message.held);
		state->holds->used = message.held;
	}
	PG_RETURN_POINTER(state);
}

/* Results */

/* Values that are held constant, in order of their bytes. */
typedef struct HoldRank
{
	const char *value;
	uint32		len;
	uint32		place;			/* in the buffer */
	uint32		number;
} HoldRank;

static int
compare_holds(const void *a, const void *b)
{
	const HoldRank *left = a;
	const HoldRank *right = b;
	int			order = memcmp(left->value, right->value, Min(left->len, right->len));

	if (order != 0)
		return order;
	return left->len < right->len ? -1 : left->len > right->len;
}

static int
compare_places(const void *a, const void *b)
{
	uint32		left = ((const HoldRank *) a)->place;
	uint32		right = ((const HoldRank *) b)->place;

	return left < right ? -1 : left > right;
}

static int
compare_held_entries(const void *a, const void *b)
{
	const CdiFunnelEntry *left = a;
	const CdiFunnelEntry *right = b;

	CHECK_FOR_INTERRUPTS();
	if (left->hold != right->hold)
		return left->hold < right->hold ? -1 : 1;
	return entry_is_before(left, right) ? -1 : entry_is_before(right, left);
}

/*
 * Entries with the number of their value instead of its place in the buffer:
 * numbers follow the bytes of the values, so that they do not depend on the
 * order in which these came.  *ranks has the values by number.
 */
static CdiFunnelEntry *
rank_holds(const FunnelState *state, HoldRank **ranks)
{
	CdiFunnelEntry *entries = palloc_extended(sizeof(CdiFunnelEntry) * (Size) Max(state->count, 1), MCXT_ALLOC_HUGE);
	HoldRank   *all;
	uint32		n = 0;
	uint32		numbers = 0;

	for (uint32 place = 0; place < state->holds->used; n++)
	{
		uint32		len;

		memcpy(&len, state->holds->data + place, sizeof(uint32));
		place += sizeof(uint32) + len;
	}
	all = palloc_extended(sizeof(HoldRank) * n, MCXT_ALLOC_HUGE);
	*ranks = palloc_extended(sizeof(HoldRank) * n, MCXT_ALLOC_HUGE);
	n = 0;
	for (uint32 place = 0; place < state->holds->used; n++)
	{
		all[n].place = place;
		memcpy(&all[n].len, state->holds->data + place, sizeof(uint32));
		all[n].value = state->holds->data + place + sizeof(uint32);
		place += sizeof(uint32) + all[n].len;
	}
	qsort(all, n, sizeof(HoldRank), compare_holds);
	for (uint32 i = 0; i < n; i++)
	{
		if (i == 0 || compare_holds(&all[i - 1], &all[i]) != 0)
			(*ranks)[numbers++] = all[i];
		all[i].number = numbers - 1;
	}
	qsort(all, n, sizeof(HoldRank), compare_places);
	for (uint32 i = 0; i < state->count; i++)
	{
		HoldRank	key = {.place = state->entries[i].hold};
		HoldRank   *found = bsearch(&key, all, n, sizeof(HoldRank), compare_places);

		entries[i] = state->entries[i];
		entries[i].hold = found->number;
	}
	pfree(all);
	qsort(entries, state->count, sizeof(CdiFunnelEntry), compare_held_entries);
	return entries;
}

/* Entries in the order that paths are found in; *ranks is NULL without values. */
static const CdiFunnelEntry *
entries_in_order(FunnelState *state, HoldRank **ranks)
{
	*ranks = NULL;
	if (state->holds)
		return rank_holds(state, ranks);
	if (!state->sorted)
	{
		sort_entries(state->entries, state->count);
		state->sorted = true;
	}
	return state->entries;
}

static void
find_path(const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count, CdiFunnelPath *path)
{
	if (options->dialect == CDI_FUNNEL_CLICKHOUSE)
		cdi_funnel_clickhouse(options, entries, count, path);
	else
		cdi_funnel_anchored(options, entries, count, path);
}

PG_FUNCTION_INFO_V1(cdi_window_funnel_final);
Datum
cdi_window_funnel_final(PG_FUNCTION_ARGS)
{
	FunnelState *state;
	HoldRank   *ranks;
	CdiFunnelPath path;

	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(0);
	state = (FunnelState *) PG_GETARG_POINTER(0);
	find_path(state->options, entries_in_order(state, &ranks), state->count, &path);
	PG_RETURN_INT32(path.level);
}

enum
{
	OUT_LEVEL, OUT_STEPS, OUT_REACHED_AT, OUT_EXCLUDED_AT, OUT_HOLD, OUT_COLUMNS
};

/* A path as cdi.funnel_path. */
static Datum
path_datum(TupleDesc desc, const CdiFunnelPath *path, const HoldRank *ranks)
{
	Datum		values[OUT_COLUMNS];
	bool		nulls[OUT_COLUMNS] = {false};
	Datum		steps[CDI_FUNNEL_MAX_CONDITIONS];
	Datum		at[CDI_FUNNEL_MAX_CONDITIONS];

	for (int i = 0; i < path->level; i++)
	{
		steps[i] = Int32GetDatum(path->steps[i] + 1);
		at[i] = TimestampTzGetDatum(path->at[i]);
	}
	values[OUT_LEVEL] = Int32GetDatum(path->level);
	values[OUT_STEPS] = PointerGetDatum(construct_array(steps, path->level, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[OUT_REACHED_AT] = cdi_timestamptz_array(at, path->level);
	values[OUT_EXCLUDED_AT] = TimestampTzGetDatum(path->excluded_at);
	nulls[OUT_EXCLUDED_AT] = !path->excluded;
	nulls[OUT_HOLD] = ranks == NULL || path->level == 0;
	values[OUT_HOLD] = nulls[OUT_HOLD] ? (Datum) 0 :
		PointerGetDatum(cstring_to_text_with_len(ranks[path->hold].value, ranks[path->hold].len));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

PG_FUNCTION_INFO_V1(cdi_funnel_final);
Datum
cdi_funnel_final(PG_FUNCTION_ARGS)
{
	FunnelState *state;
	HoldRank   *ranks = NULL;
	CdiFunnelPath path;
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "cdi.funnel_path is not a row type");
	memset(&path, 0, offsetof(CdiFunnelPath, at));
	if (!PG_ARGISNULL(0))
	{
		state = (FunnelState *) PG_GETARG_POINTER(0);
		find_path(state->options, entries_in_order(state, &ranks), state->count, &path);
	}
	PG_RETURN_DATUM(path_datum(desc, &path, ranks));
}

PG_FUNCTION_INFO_V1(cdi_funnel_paths_final);
Datum
cdi_funnel_paths_final(PG_FUNCTION_ARGS)
{
	FunnelState *state;
	HoldRank   *ranks;
	CdiFunnelPaths paths = {0};
	Oid			type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);
	Datum	   *datums;

	if (!PG_ARGISNULL(0))
	{
		const CdiFunnelEntry *entries;

		state = (FunnelState *) PG_GETARG_POINTER(0);
		if (state->options->dialect == CDI_FUNNEL_CLICKHOUSE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("dialect \"clickhouse\" knows no repeated entries"),
					 errhint("Dialects mixpanel and amplitude do; cdi_funnel() gives one path.")));
		entries = entries_in_order(state, &ranks);
		cdi_funnel_anchored_all(state->options, entries, state->count, &paths);
	}
	if (paths.count == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(type));
	datums = palloc_extended(sizeof(Datum) * paths.count, MCXT_ALLOC_HUGE);
	for (int i = 0; i < paths.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		datums[i] = path_datum(desc, &paths.paths[i], ranks);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(datums, paths.count, type, -1, false, TYPALIGN_DOUBLE));
}
