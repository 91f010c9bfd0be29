/*
 * funnel_options.c
 *		What a caller wants of a funnel, checked once per query.
 *
 * A mode is words: a dialect (ClickHouse's without one) and what it shall do
 * otherwise than by default.  The JSON form adds what needs values.
 */
#include "behaviour/funnel.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#define DIALECT(dialect)	(1 << (dialect))
#define ANCHORED	(DIALECT(CDI_FUNNEL_MIXPANEL) | DIALECT(CDI_FUNNEL_AMPLITUDE))
#define MAX_WINDOW	(INT64CONST(36500) * USECS_PER_DAY)

static const char *const dialect_names[] = {"clickhouse", "mixpanel", "amplitude"};

static const struct
{
	const char *name;
	uint32		mode;
	int			dialects;
}			mode_names[] =
{
	{"strict_order", CDI_FUNNEL_STRICT_ORDER, DIALECT(CDI_FUNNEL_CLICKHOUSE)},
	{"strict_deduplication", CDI_FUNNEL_STRICT_DEDUPLICATION, DIALECT(CDI_FUNNEL_CLICKHOUSE)},
	{"strict_increase", CDI_FUNNEL_STRICT_INCREASE, DIALECT(CDI_FUNNEL_CLICKHOUSE)},
	{"strict_once", CDI_FUNNEL_STRICT_ONCE, DIALECT(CDI_FUNNEL_CLICKHOUSE)},
	{"allow_reentry", CDI_FUNNEL_ALLOW_REENTRY, DIALECT(CDI_FUNNEL_CLICKHOUSE)},
	{"any_order", CDI_FUNNEL_ANY_ORDER, ANCHORED},
	{"exact_order", CDI_FUNNEL_EXACT_ORDER, DIALECT(CDI_FUNNEL_AMPLITUDE)},
	{"optimized_reentry", CDI_FUNNEL_OPTIMIZED_REENTRY, DIALECT(CDI_FUNNEL_MIXPANEL)},
};

static void
list_modes(StringInfo list, int dialect)
{
	const char *comma = "";

	for (int i = 0; i < lengthof(mode_names); i++)
		if (mode_names[i].dialects & DIALECT(dialect))
		{
			appendStringInfo(list, "%s%s", comma, mode_names[i].name);
			comma = ", ";
		}
}

static void
unknown_word(const char *word, int dialect)
{
	StringInfoData valid;

	initStringInfo(&valid);
	list_modes(&valid, dialect);
	if (strcmp(word, "strict") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"strict\" of a funnel"),
				 errhint("ClickHouse has replaced it with strict_deduplication.")));
	for (int i = 0; i < lengthof(mode_names); i++)
		if (strcmp(word, mode_names[i].name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("dialect \"%s\" has no mode \"%s\"", dialect_names[dialect], word),
					 errhint("Modes of %s: %s.", dialect_names[dialect], valid.data)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown dialect or mode \"%s\" of a funnel", word),
			 errdetail("Modes of %s: %s.", dialect_names[dialect], valid.data),
			 errhint("Name a dialect, one of clickhouse, mixpanel and amplitude, and modes of it, as in 'mixpanel any_order'.")));
}

/* The next word of a list with blanks or commas between, or NULL. */
static char *
next_word(char **rest)
{
	char	   *word = *rest + strspn(*rest, " ,\t\n");
	size_t		len = strcspn(word, " ,\t\n");

	if (len == 0)
		return NULL;
	*rest = word + len;
	return pnstrdup(word, len);
}

static void
read_mode(const char *mode, uint8 *dialect, uint32 *modes)
{
	char	   *rest = pstrdup(mode);
	char	   *word;
	bool		named = false;

	*dialect = CDI_FUNNEL_CLICKHOUSE;
	*modes = 0;
	/* The dialect first, wherever it stands: it says what the others may be. */
	while ((word = next_word(&rest)) != NULL)
		for (int i = 0; i < lengthof(dialect_names); i++)
			if (strcmp(word, dialect_names[i]) == 0)
			{
				if (named && *dialect != i)
					ereport(ERROR,
							(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							 errmsg("a funnel has one dialect, not \"%s\" and \"%s\"",
									dialect_names[*dialect], word)));
				named = true;
				*dialect = i;
			}
	rest = pstrdup(mode);
	while ((word = next_word(&rest)) != NULL)
	{
		bool		known = strcmp(word, dialect_names[*dialect]) == 0;

		for (int i = 0; i < lengthof(mode_names); i++)
			if (strcmp(word, mode_names[i].name) == 0 && (mode_names[i].dialects & DIALECT(*dialect)))
			{
				*modes |= mode_names[i].mode;
				known = true;
			}
		if (!known)
			unknown_word(word, *dialect);
	}
	if ((*modes & CDI_FUNNEL_ALLOW_REENTRY) && !(*modes & CDI_FUNNEL_STRICT_ORDER))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode \"allow_reentry\" needs \"strict_order\""),
				 errhint("Without strict_order nothing stops a funnel that events could enter again.")));
	if ((*modes & CDI_FUNNEL_ANY_ORDER) && (*modes & CDI_FUNNEL_EXACT_ORDER))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a funnel cannot be of any_order and of exact_order")));
}

/* Microseconds; a day has 24 hours. */
static int64
read_window(const Interval *window, const char *what)
{
	if (window->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of a funnel cannot be given in months", what),
				 errhint("Give it in hours or days, as in interval '30 days'.")));
	/* A day and its hours may be of different signs: the sum counts. */
	if (window->day > 36500 || window->day < -36500 ||
		window->time > MAX_WINDOW || window->time < -MAX_WINDOW ||
		window->day * USECS_PER_DAY + window->time <= 0 ||
		window->day * USECS_PER_DAY + window->time > MAX_WINDOW)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of a funnel must be longer than zero and at most 100 years", what)));
	return window->day * USECS_PER_DAY + window->time;
}

static CdiFunnelOptions *
make_options(int nsteps, int nexclusions, int nstep_windows)
{
	Size		size = offsetof(CdiFunnelOptions, step_windows) + sizeof(int64) * nstep_windows +
		sizeof(CdiFunnelExclusion) * nexclusions;
	CdiFunnelOptions *options = palloc0(MAXALIGN(size));

	options->size = size;
	options->nsteps = nsteps;
	options->nexclusions = nexclusions;
	options->nstep_windows = nstep_windows;
	return options;
}

static void
check_conditions(int conditions)
{
	if (conditions < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a funnel needs at least one condition"),
				 errhint("Each step is a condition, as in cdi_window_funnel(interval '1 day', \"timestamp\", event = 'view', event = 'buy').")));
	if (conditions > CDI_FUNNEL_MAX_CONDITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a funnel has at most %d conditions, not %d", CDI_FUNNEL_MAX_CONDITIONS, conditions)));
}

CdiFunnelOptions *
cdi_funnel_options(const char *mode, const Interval *window, int conditions)
{
	CdiFunnelOptions *options;

	check_conditions(conditions);
	options = make_options(conditions, 0, 0);
	if (mode)
		read_mode(mode, &options->dialect, &options->modes);
	options->window = read_window(window, "the window");
	return options;
}

/* The JSON form */

static void
bad_member(const char *member, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" of a funnel must be %s", member, wanted)));
}

static JsonbValue *
member_of(Jsonb *json, const char *name)
{
	JsonbValue	key;
	JsonbValue *value;

	key.type = jbvString;
	key.val.string.val = (char *) name;
	key.val.string.len = strlen(name);
	value = findJsonbValueFromContainer(&json->root, JB_FOBJECT, &key);
	return value && value->type == jbvNull ? NULL : value;
}

static void
check_names(JsonbContainer *object, const char *const *names, int n, const char *what)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool		known = false;
		StringInfoData valid;

		if (token != WJB_KEY)
			continue;
		initStringInfo(&valid);
		for (int i = 0; i < n; i++)
		{
			appendStringInfo(&valid, "%s%s", i ? ", " : "", names[i]);
			if (strlen(names[i]) == value.val.string.len &&
				memcmp(names[i], value.val.string.val, value.val.string.len) == 0)
				known = true;
		}
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s has no member \"%.*s\"", what, value.val.string.len, value.val.string.val),
					 errhint("Its members: %s.", valid.data)));
	}
}

static int64
window_of(const JsonbValue *value, const char *member)
{
	char	   *text;

	if (value->type != jbvString)
		bad_member(member, "text like \"7 days\"");
	text = pnstrdup(value->val.string.val, value->val.string.len);
	return read_window(DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
															 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1))),
					   member);
}

/* A step's number from 1, where there are nsteps. */
static int
step_of(const JsonbValue *value, int nsteps, const char *member)
{
	int64		step = 0;

	if (value->type == jbvNumeric &&
		DatumGetBool(DirectFunctionCall2(numeric_eq,
										 NumericGetDatum(value->val.numeric),
										 DirectFunctionCall1(numeric_floor, NumericGetDatum(value->val.numeric)))) &&
		DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric))) <= CDI_FUNNEL_MAX_CONDITIONS &&
		DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric))) >= 0)
		step = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
	if (step < 1 || step > nsteps)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of a funnel must be a step from 1 to %d", member, nsteps)));
	return (int) step;
}

static JsonbContainer *
array_of(JsonbValue *value, const char *member)
{
	if (value == NULL)
		return NULL;
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		bad_member(member, "an array");
	return value->val.binary.data;
}

static void
read_exclusions(CdiFunnelOptions *options, JsonbContainer *array)
{
	static const char *const names[] = {"after", "before"};
	CdiFunnelExclusion *exclusions = (CdiFunnelExclusion *) cdi_funnel_exclusions(options);

	for (int i = 0; i < options->nexclusions; i++)
	{
		JsonbValue *one = getIthJsonbValueFromContainer(array, i);
		JsonbValue *bound[2];

		if (one->type != jbvBinary || !JsonContainerIsObject(one->val.binary.data))
			bad_member("exclusions", "an array of objects like {\"after\": 1, \"before\": 2}");
		check_names(one->val.binary.data, names, lengthof(names), "an exclusion of a funnel");
		for (int b = 0; b < 2; b++)
		{
			JsonbValue	key;

			key.type = jbvString;
			key.val.string.val = (char *) names[b];
			key.val.string.len = strlen(names[b]);
			bound[b] = findJsonbValueFromContainer(one->val.binary.data, JB_FOBJECT, &key);
		}
		exclusions[i].after = bound[0] ? step_of(bound[0], options->nsteps, "after") : 1;
		exclusions[i].before = bound[1] ? step_of(bound[1], options->nsteps, "before") : options->nsteps;
		if (exclusions[i].after >= exclusions[i].before)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an exclusion must lie between two steps of the funnel"),
					 errdetail("It is after step %d and before step %d of %d.",
							   exclusions[i].after, exclusions[i].before, options->nsteps)));
	}
}

static void
not_of_dialect(const CdiFunnelOptions *options, const char *member)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("dialect \"%s\" has no \"%s\"", dialect_names[options->dialect], member),
			 errhint("Dialects mixpanel and amplitude have it.")));
}

CdiFunnelOptions *
cdi_funnel_options_of_json(Jsonb *json, int conditions)
{
	static const char *const names[] = {"mode", "window", "step_windows", "exclusions", "anchors"};
	CdiFunnelOptions *options;
	JsonbValue *mode;
	JsonbValue *window;
	JsonbContainer *windows;
	JsonbContainer *exclusions;
	JsonbContainer *anchors;
	int			nexclusions;

	check_conditions(conditions);
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a funnel must be a JSON object"),
				 errhint("For example '{\"mode\": \"mixpanel\", \"window\": \"7 days\"}'.")));
	check_names(&json->root, names, lengthof(names), "a funnel");
	mode = member_of(json, "mode");
	window = member_of(json, "window");
	windows = array_of(member_of(json, "step_windows"), "step_windows");
	exclusions = array_of(member_of(json, "exclusions"), "exclusions");
	anchors = array_of(member_of(json, "anchors"), "anchors");

	nexclusions = exclusions ? JsonContainerSize(exclusions) : 0;
	if (nexclusions > 0 && conditions - nexclusions < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a funnel with %d exclusions needs at least %d conditions, not %d",
						nexclusions, nexclusions + 2, conditions),
				 errhint("The conditions of the exclusions come after those of the steps, in the same order.")));
	options = make_options(conditions - nexclusions, nexclusions,
						   windows ? conditions - nexclusions - 1 : 0);
	if (mode)
	{
		if (mode->type != jbvString)
			bad_member("mode", "text like \"mixpanel any_order\"");
		read_mode(pnstrdup(mode->val.string.val, mode->val.string.len), &options->dialect, &options->modes);
	}
	if (window == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a funnel needs a window"),
				 errhint("For example '{\"mode\": \"mixpanel\", \"window\": \"7 days\"}'.")));
	options->window = window_of(window, "window");

	if (options->dialect == CDI_FUNNEL_CLICKHOUSE)
	{
		if (windows)
			not_of_dialect(options, "step_windows");
		if (exclusions)
			not_of_dialect(options, "exclusions");
	}
	if (windows)
	{
		if (JsonContainerSize(windows) != options->nsteps - 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"step_windows\" of a funnel of %d steps must have %d elements, not %d",
							options->nsteps, options->nsteps - 1, (int) JsonContainerSize(windows)),
					 errdetail("Each is the longest time from a step to the next, or null.")));
		if (options->modes & CDI_FUNNEL_ANY_ORDER)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a funnel of any_order cannot have \"step_windows\""),
					 errhint("They say how long the way from one step to the next may take, which needs an order.")));
		for (int i = 0; i < options->nstep_windows; i++)
		{
			JsonbValue *one = getIthJsonbValueFromContainer(windows, i);

			if (one->type != jbvNull)
				options->step_windows[i] = window_of(one, "step_windows");
		}
	}
	if (exclusions)
	{
		if (options->modes & CDI_FUNNEL_EXACT_ORDER)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a funnel of exact_order cannot have \"exclusions\""),
					 errhint("In exact order every other event ends the path.")));
		read_exclusions(options, exclusions);
	}
	if (anchors)
	{
		if ((options->modes & CDI_FUNNEL_ANY_ORDER) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"anchors\" are for a funnel of any_order"),
					 errhint("In other orders every step has its place.")));
		for (int i = 0; i < (int) JsonContainerSize(anchors); i++)
			options->anchors |= UINT32_C(1) <<
				(step_of(getIthJsonbValueFromContainer(anchors, i), options->nsteps, "anchors") - 1);
	}
	return options;
}
