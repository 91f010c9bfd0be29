/*
 * step.c
 *		cdi_event_matches(): is an event one that a step names?
 *
 * A step is data, not SQL: whoever may call a report may name one, and nothing
 * is executed.  It is compiled once per call site.
 *
 *		{"event": "Order Completed", "filter": {"currency": ["EUR", "CHF"], "revenue": {">=": 100}}}
 *
 * "event" is a name or an array of names, "type" a type of call or an array of
 * them (track where an event is named, else page, screen and track).  All
 * members of "filter" must hold: a value must be equal to the property, of an
 * array one must be, and an object has comparisons.  Values of different JSON
 * types are never equal, and neither greater nor smaller.  "name" is what a
 * report calls the step.  A string alone is the name of an event.
 */
#include "behaviour/behaviour.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

typedef enum Operator
{
	OP_EQUAL, OP_NOT_EQUAL, OP_LESS, OP_AT_MOST, OP_GREATER, OP_AT_LEAST, OP_EXISTS
} Operator;

static const char *const operator_names[] = {"=", "!=", "<", "<=", ">", ">=", "exists"};

typedef struct Check
{
	CdiText		property;
	Operator	operator;
	int			nvalues;
	JsonbValue *values;			/* of OP_EQUAL and OP_NOT_EQUAL: one of them */
} Check;

typedef struct Names
{
	int			count;
	CdiText    *names;
} Names;

typedef struct Step
{
	Jsonb	   *source;			/* all that is below points into it */
	Names		events;			/* none: any */
	Names		types;
	int			nchecks;
	Check	   *checks;
} Step;

static void
step_error(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errhint("%s", hint)));
}

#define STEP_EXAMPLE "As in {\"event\": \"Order Completed\", \"filter\": {\"revenue\": {\">=\": 100}}}."

static void
add_name(Names *names, const JsonbValue *value, const char *member)
{
	if (value->type != jbvString)
		step_error(psprintf("\"%s\" of a step must be a string or an array of strings", member), STEP_EXAMPLE);
	names->names = names->names ? repalloc(names->names, (names->count + 1) * sizeof(CdiText)) : palloc(sizeof(CdiText));
	names->names[names->count].data = value->val.string.val;
	names->names[names->count++].len = value->val.string.len;
}

static void
read_names(Names *names, const JsonbValue *value, const char *member)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
	{
		add_name(names, value, member);
		return;
	}
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			add_name(names, &element, member);
	if (names->count == 0)
		step_error(psprintf("\"%s\" of a step is an empty array", member), "Leave it out for any, or name one.");
}

/* Scalars are compared, and nothing else. */
static void
read_values(Check *check, const JsonbValue *value)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;

	if (value->type != jbvBinary)
	{
		check->values = palloc(sizeof(JsonbValue));
		check->values[0] = *value;
		check->nvalues = 1;
		return;
	}
	if (!JsonContainerIsArray(value->val.binary.data) || check->operator > OP_NOT_EQUAL)
		step_error(psprintf("property \"%.*s\" of a step is compared with what is no single value",
							check->property.len, check->property.data), STEP_EXAMPLE);
	check->values = palloc(Max(JsonContainerSize(value->val.binary.data), 1) * sizeof(JsonbValue));
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (element.type == jbvBinary)
			step_error(psprintf("property \"%.*s\" of a step is compared with an array of what is no single value",
								check->property.len, check->property.data), STEP_EXAMPLE);
		check->values[check->nvalues++] = element;
	}
}

static Check *
add_check(Step *step, const JsonbValue *property, Operator operator, const JsonbValue *value)
{
	Check	   *check;

	step->checks = step->checks ? repalloc(step->checks, (step->nchecks + 1) * sizeof(Check)) : palloc(sizeof(Check));
	check = &step->checks[step->nchecks++];
	check->property.data = property->val.string.val;
	check->property.len = property->val.string.len;
	check->operator = operator;
	check->nvalues = 0;
	check->values = NULL;
	read_values(check, value);
	if (operator == OP_EXISTS && value->type != jbvBool)
		step_error("\"exists\" of a step must be true or false", "As in {\"coupon\": {\"exists\": true}}.");
	return check;
}

static void
read_comparisons(Step *step, const JsonbValue *property, JsonbContainer *comparisons)
{
	JsonbIterator *iterator = JsonbIteratorInit(comparisons);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		int			operator = 0;

		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&iterator, &value, true);
		while (operator < lengthof(operator_names) &&
			   (strlen(operator_names[operator]) != name.val.string.len ||
				memcmp(operator_names[operator], name.val.string.val, name.val.string.len) != 0))
			operator++;
		if (operator == lengthof(operator_names))
			step_error(psprintf("unknown comparison \"%.*s\" in a step", name.val.string.len, name.val.string.val),
					   "Comparisons are =, !=, <, <=, >, >= and exists.");
		add_check(step, property, operator, &value);
	}
}

static void
read_filter(Step *step, const JsonbValue *filter)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	property;
	JsonbValue	value;

	if (filter->type != jbvBinary || !JsonContainerIsObject(filter->val.binary.data))
		step_error("\"filter\" of a step must be an object", STEP_EXAMPLE);
	iterator = JsonbIteratorInit(filter->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &property, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&iterator, &value, true);
		if (value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
			read_comparisons(step, &property, value.val.binary.data);
		else
			add_check(step, &property, OP_EQUAL, &value);
	}
}

static bool
is_name(const JsonbValue *key, const char *name)
{
	return key->val.string.len == strlen(name) && memcmp(key->val.string.val, name, key->val.string.len) == 0;
}

/* Which step is wrong: a report has several. */
static void
name_step(void *arg)
{
	Jsonb	   *source = arg;

	errcontext("step %s", JsonbToCString(NULL, &source->root, VARSIZE(source)));
}

static Step *
compile(Jsonb *source)
{
	Step	   *step = palloc0(sizeof(Step));
	ErrorContextCallback context = {error_context_stack, name_step, source};
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	error_context_stack = &context;
	step->source = (Jsonb *) pg_detoast_datum_copy((struct varlena *) source);
	if (JB_ROOT_IS_SCALAR(step->source) && JsonbExtractScalar(&step->source->root, &value) && value.type == jbvString)
		add_name(&step->events, &value, "event");
	else if (!JB_ROOT_IS_OBJECT(step->source))
		step_error("a step must be the name of an event or a JSON object", STEP_EXAMPLE);
	iterator = JsonbIteratorInit(&step->source->root);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&iterator, &value, true);
		if (is_name(&key, "event"))
			read_names(&step->events, &value, "event");
		else if (is_name(&key, "type"))
			read_names(&step->types, &value, "type");
		else if (is_name(&key, "filter"))
			read_filter(step, &value);
		else if (!is_name(&key, "name"))
			step_error(psprintf("unknown member \"%.*s\" of a step", key.val.string.len, key.val.string.val),
					   "Members are event, type, filter and name.");
	}
	if (step->types.count == 0)
	{
		static const char *const browsing[] = {"track", "page", "screen"};

		step->types.count = step->events.count ? 1 : 3;
		step->types.names = palloc(3 * sizeof(CdiText));
		for (int i = 0; i < 3; i++)
		{
			step->types.names[i].data = browsing[i];
			step->types.names[i].len = strlen(browsing[i]);
		}
	}
	error_context_stack = context.previous;
	return step;
}

static bool
is_one_of(const Names *names, text *value)
{
	int			length = VARSIZE_ANY_EXHDR(value);

	for (int i = 0; i < names->count; i++)
		if (names->names[i].len == length && memcmp(names->names[i].data, VARDATA_ANY(value), length) == 0)
			return true;
	return false;
}

/* Sets *order to <0, 0, >0; false where the two cannot be compared. */
static bool
compare(const JsonbValue *a, const JsonbValue *b, int *order)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			*order = 0;
			return true;
		case jbvBool:
			*order = (int) a->val.boolean - (int) b->val.boolean;
			return true;
		case jbvNumeric:
			*order = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a->val.numeric),
													   NumericGetDatum(b->val.numeric)));
			return true;
		case jbvString:
			*order = memcmp(a->val.string.val, b->val.string.val, Min(a->val.string.len, b->val.string.len));
			if (*order == 0)
				*order = a->val.string.len - b->val.string.len;
			return true;
		default:
			return false;
	}
}

static bool
holds(const Check *check, Jsonb *properties)
{
	JsonbValue	found;
	JsonbValue *value = NULL;
	bool		equal = false;
	int			order;

	if (properties && JB_ROOT_IS_OBJECT(properties))
		value = getKeyJsonValueFromContainer(&properties->root, check->property.data, check->property.len, &found);
	if (check->operator == OP_EXISTS)
		return (value != NULL && value->type != jbvNull) == check->values[0].val.boolean;
	if (value == NULL)
		return check->operator == OP_NOT_EQUAL;
	if (check->operator <= OP_NOT_EQUAL)
	{
		for (int i = 0; i < check->nvalues && !equal; i++)
			equal = compare(value, &check->values[i], &order) && order == 0;
		return equal == (check->operator == OP_EQUAL);
	}
	if (!compare(value, &check->values[0], &order))
		return false;
	switch (check->operator)
	{
		case OP_LESS:
			return order < 0;
		case OP_AT_MOST:
			return order <= 0;
		case OP_GREATER:
			return order > 0;
		default:
			return order >= 0;
	}
}

/* cdi_event_matches(step, type, event, properties) */
PG_FUNCTION_INFO_V1(cdi_event_matches);
Datum
cdi_event_matches(PG_FUNCTION_ARGS)
{
	Step	   *step = fcinfo->flinfo->fn_extra;
	Jsonb	   *source;
	Jsonb	   *properties = NULL;
	MemoryContext previous;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	source = PG_GETARG_JSONB_P(0);
	if (step == NULL || VARSIZE(step->source) != VARSIZE(source) ||
		memcmp(step->source, source, VARSIZE(source)) != 0)
	{
		previous = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		step = compile(source);
		MemoryContextSwitchTo(previous);
		fcinfo->flinfo->fn_extra = step;
	}

	if (PG_ARGISNULL(1) || !is_one_of(&step->types, PG_GETARG_TEXT_PP(1)))
		PG_RETURN_BOOL(false);
	if (step->events.count > 0 && (PG_ARGISNULL(2) || !is_one_of(&step->events, PG_GETARG_TEXT_PP(2))))
		PG_RETURN_BOOL(false);
	if (step->nchecks > 0 && !PG_ARGISNULL(3))
		properties = PG_GETARG_JSONB_P(3);
	for (int i = 0; i < step->nchecks; i++)
		if (!holds(&step->checks[i], properties))
			PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(true);
}
