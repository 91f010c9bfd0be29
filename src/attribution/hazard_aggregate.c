/*
 * hazard_aggregate.c
 *		cdi_hazard(): the aggregate over paths with the ages of their touches.
 *
 * Paths with times are hardly ever equal, so each row is kept as it is: a
 * touch costs 12 bytes.  Rows are sorted before the fit, which makes the result
 * the same whatever their order and the split among parallel workers was.
 */
#include "attribution/hazard.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"

enum
{
	ARG_STATE, ARG_PATH, ARG_AGES, ARG_CONVERSIONS, ARG_VALUE, ARG_NULLS, ARG_OPTIONS
};

/* A row; its touches and ages are in the arrays of the state. */
typedef struct TimedPath
{
	int64		first;
	int32		length;
	double		conversions;
	double		value;
	double		nulls;
} TimedPath;

typedef struct State
{
	CdiPaths   *labels;			/* no paths, but labels and options */
	int64		npaths;
	TimedPath  *paths;
	int64		path_space;
	int64		ntouches;
	int32	   *touches;		/* numbers of labels */
	double	   *ages;			/* days */
	int64		touch_space;
} State;

static State *
create_state(MemoryContext context)
{
	State	   *state = MemoryContextAllocZero(context, sizeof(State));

	state->labels = cdi_paths_create(context);
	state->path_space = state->touch_space = 64;
	state->paths = MemoryContextAlloc(context, sizeof(TimedPath) * state->path_space);
	state->touches = MemoryContextAlloc(context, sizeof(int32) * state->touch_space);
	state->ages = MemoryContextAlloc(context, sizeof(double) * state->touch_space);
	return state;
}

/* A further path, whose touches and ages are for the caller to fill in. */
static TimedPath *
add_path(State *state, int32 length, double conversions, double value, double nulls)
{
	TimedPath  *path;

	if (state->npaths == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a hazard model takes at most %d paths", PG_INT32_MAX),
				 errhint("Model fewer rows, or a sample of the paths without a conversion with its weight as nulls.")));
	if (state->npaths == state->path_space)
	{
		state->path_space *= 2;
		state->paths = repalloc_huge(state->paths, sizeof(TimedPath) * state->path_space);
	}
	if (state->ntouches + length > state->touch_space)
	{
		state->touch_space = Max(2 * state->touch_space, state->ntouches + length);
		state->touches = repalloc_huge(state->touches, sizeof(int32) * state->touch_space);
		state->ages = repalloc_huge(state->ages, sizeof(double) * state->touch_space);
	}
	path = &state->paths[state->npaths++];
	*path = (TimedPath) {state->ntouches, length, conversions, value, nulls};
	state->ntouches += length;
	return path;
}

/* Days of an interval; a month has 30, as extract(epoch) has it. */
static double
days_of(const Interval *age)
{
	double		days = age->month * (double) DAYS_PER_MONTH + age->day + age->time / (double) USECS_PER_DAY;

	if (days < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a touch cannot be younger than 0, as %g days are", days),
				 errdetail("Its age is the time from the touch to the conversion, or to the end of what was seen of the path."),
				 errhint("Leave touches after the conversion out of the path.")));
	return days;
}

/* (state, path, ages, conversions, value, nulls [, options]) */
PG_FUNCTION_INFO_V1(cdi_hazard_transition);
Datum
cdi_hazard_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	State	   *state = PG_ARGISNULL(ARG_STATE) ? create_state(context) : (State *) PG_GETARG_POINTER(ARG_STATE);
	double		conversions = cdi_paths_number(fcinfo, ARG_CONVERSIONS);
	double		value = cdi_paths_number(fcinfo, ARG_VALUE);
	double		nulls = cdi_paths_number(fcinfo, ARG_NULLS);
	const int32 *touches;
	Datum	   *ages = NULL;
	bool	   *unknown = NULL;
	int32		length;
	int			nages = 0;
	TimedPath  *path;

	if (PG_NARGS() > ARG_OPTIONS && !PG_ARGISNULL(ARG_OPTIONS))
		cdi_paths_keep_options(state->labels, PG_GETARG_JSONB_P(ARG_OPTIONS));
	touches = cdi_paths_touches(state->labels, PG_ARGISNULL(ARG_PATH) ? NULL : PG_GETARG_ARRAYTYPE_P(ARG_PATH), &length);
	if (!PG_ARGISNULL(ARG_AGES))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_AGES), INTERVALOID, sizeof(Interval), false, TYPALIGN_DOUBLE,
						  &ages, &unknown, &nages);
	if (length != nages)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("a path of %d touches has %d ages", length, nages)));
	cdi_paths_check_outcome(conversions, value, nulls);

	path = add_path(state, length, conversions, value, nulls);
	memcpy(&state->touches[path->first], touches, sizeof(int32) * length);
	for (int i = 0; i < length; i++)
	{
		if (unknown[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a touch has no age"),
					 errhint("Leave such touches out of both path and ages.")));
		state->ages[path->first + i] = days_of(DatumGetIntervalP(ages[i]));
	}
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_hazard_combine);
Datum
cdi_hazard_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	State	   *state = PG_ARGISNULL(0) ? NULL : (State *) PG_GETARG_POINTER(0);
	State	   *other;
	int32	   *numbers;

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	other = (State *) PG_GETARG_POINTER(1);
	if (state == NULL)
		state = create_state(context);
	cdi_paths_keep_options(state->labels, other->labels->options);
	numbers = palloc_extended(sizeof(int32) * Max(other->labels->nlabels, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < other->labels->nlabels; i++)
		numbers[i] = cdi_paths_label(state->labels, other->labels->labels[i]);
	for (int64 p = 0; p < other->npaths; p++)
	{
		const TimedPath *from = &other->paths[p];
		TimedPath  *path = add_path(state, from->length, from->conversions, from->value, from->nulls);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < from->length; i++)
			state->touches[path->first + i] = numbers[other->touches[from->first + i]];
		memcpy(&state->ages[path->first], &other->ages[from->first], sizeof(double) * from->length);
	}
	pfree(numbers);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_hazard_serialise);
Datum
cdi_hazard_serialise(PG_FUNCTION_ARGS)
{
	State	   *state = (State *) PG_GETARG_POINTER(0);
	StringInfoData buffer;

	cdi_paths_aggregate_context(fcinfo);
	pq_begintypsend(&buffer);
	cdi_paths_send(state->labels, &buffer);
	pq_sendint64(&buffer, state->npaths);
	for (int64 p = 0; p < state->npaths; p++)
	{
		const TimedPath *path = &state->paths[p];

		CHECK_FOR_INTERRUPTS();
		pq_sendbytes(&buffer, (const char *) path, sizeof(TimedPath));
		pq_sendbytes(&buffer, (const char *) &state->touches[path->first], sizeof(int32) * path->length);
		pq_sendbytes(&buffer, (const char *) &state->ages[path->first], sizeof(double) * path->length);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

PG_FUNCTION_INFO_V1(cdi_hazard_deserialise);
Datum
cdi_hazard_deserialise(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	State	   *state;
	StringInfoData buffer;
	int64		npaths;

	cdi_paths_aggregate_context(fcinfo);
	buffer.data = VARDATA_ANY(bytes);
	buffer.len = buffer.maxlen = VARSIZE_ANY_EXHDR(bytes);
	buffer.cursor = 0;
	state = create_state(CurrentMemoryContext);
	cdi_paths_receive(state->labels, &buffer);
	npaths = pq_getmsgint64(&buffer);
	for (int64 p = 0; p < npaths; p++)
	{
		TimedPath	sent;
		TimedPath  *path;

		CHECK_FOR_INTERRUPTS();
		pq_copymsgbytes(&buffer, (char *) &sent, sizeof(TimedPath));
		path = add_path(state, sent.length, sent.conversions, sent.value, sent.nulls);
		pq_copymsgbytes(&buffer, (char *) &state->touches[path->first], sizeof(int32) * path->length);
		pq_copymsgbytes(&buffer, (char *) &state->ages[path->first], sizeof(double) * path->length);
	}
	pq_getmsgend(&buffer);
	PG_RETURN_POINTER(state);
}

/* By touches, then ages, then outcome. */
static int
compare_paths(const void *a, const void *b, void *arg)
{
	const State *state = arg;
	const TimedPath *left = a;
	const TimedPath *right = b;
	const double outcomes[][2] = {
		{left->conversions, right->conversions}, {left->value, right->value}, {left->nulls, right->nulls}
	};

	if (left->length != right->length)
		return left->length < right->length ? -1 : 1;
	for (int i = 0; i < left->length; i++)
		if (state->touches[left->first + i] != state->touches[right->first + i])
			return state->touches[left->first + i] - state->touches[right->first + i];
	for (int i = 0; i < left->length; i++)
		if (state->ages[left->first + i] != state->ages[right->first + i])
			return state->ages[left->first + i] < state->ages[right->first + i] ? -1 : 1;
	for (int i = 0; i < lengthof(outcomes); i++)
		if (outcomes[i][0] != outcomes[i][1])
			return outcomes[i][0] < outcomes[i][1] ? -1 : 1;
	return 0;
}

/* Rows and labels in an order that is theirs; no row can be added afterwards. */
static void
sort_state(State *state)
{
	int32	   *numbers;

	if (state->labels->index == NULL)
		return;
	numbers = cdi_paths_sort_labels(state->labels);
	for (int64 i = 0; i < state->ntouches; i++)
		state->touches[i] = numbers[state->touches[i]];
	pfree(numbers);
	qsort_arg(state->paths, state->npaths, sizeof(TimedPath), compare_paths, state);
}

PG_FUNCTION_INFO_V1(cdi_hazard_final);
Datum
cdi_hazard_final(PG_FUNCTION_ARGS)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	State	   *state = PG_ARGISNULL(0) ? create_state(context) : (State *) PG_GETARG_POINTER(0);
	CdiHazardOptions options = CDI_HAZARD_DEFAULT;
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	const CdiPathOption known[] = {
		{"iterations", CDI_OPTION_INTEGER, &options.iterations, 1, PG_INT32_MAX},
		{"tolerance", CDI_OPTION_NUMBER, &options.tolerance, 1e-15, 0.1},
		CDI_BOOTSTRAP_OPTIONS(bootstrap)
	};
	CdiPaths	paths;
	const double **ages;
	CdiPathCredit *credits;

	cdi_paths_options(state->labels, known, lengthof(known));
	sort_state(state);
	paths = *state->labels;
	paths.npaths = (int) state->npaths;
	paths.paths = palloc_extended(sizeof(CdiPath) * Max(state->npaths, 1), MCXT_ALLOC_HUGE);
	ages = palloc_extended(sizeof(double *) * Max(state->npaths, 1), MCXT_ALLOC_HUGE);
	for (int64 p = 0; p < state->npaths; p++)
	{
		const TimedPath *path = &state->paths[p];

		paths.paths[p] = (CdiPath) {.length = path->length,.touches = &state->touches[path->first],
		.conversions = path->conversions,.value = path->value,.nulls = path->nulls};
		ages[p] = &state->ages[path->first];
	}
	cdi_paths_check_sums(&paths);
	options.ages = ages;

	credits = cdi_paths_credits(paths.nlabels);
	cdi_hazard_credit(&paths, &options, credits);
	cdi_paths_bootstrap(&paths, cdi_hazard_credit, &options, &bootstrap, paths.nlabels, credits);
	return cdi_paths_result(fcinfo, &paths, credits);
}
