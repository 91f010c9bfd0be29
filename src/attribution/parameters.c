/*
 * parameters.c
 *		What a caller says about models: names, parameters, and what they may be.
 *
 * The object of a call has parameters of the call, of the selection of
 * touches and of the models, in any order.  A member that has the name of one
 * of the models is an object of parameters for that one alone; there, "model"
 * names the model where the name is the caller's own: {"slow": {"model":
 * "time_decay", "half_life": "30 days"}}.
 */
#include "attribution/credit.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/varlena.h"

#include "attribution/attribution.h"
#include "attribution/markov.h"
#include "base/errors.h"

#define MAX_WEIGHTS	10000
#define MAX_SHARE	1e100

/* Which models know a parameter */
typedef enum Scope
{
	OF_CALL, OF_SELECTION, OF_TIME_DECAY, OF_POSITION, OF_LEAD, OF_OPPORTUNITY, OF_CUSTOM,
	OF_MARKOV, OF_SHAPLEY, OF_LOGISTIC
} Scope;

typedef struct Parameter
{
	const char *name;
	Scope		scope;
	void		(*set) (CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value);
} Parameter;

static void pg_attribute_noreturn()
invalid(const char *name, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("parameter \"%s\" is not valid", name),
			 errhint("It must be %s.", expected)));
	pg_unreachable();
}

static char *
string_of(const char *name, const JsonbValue *value, const char *expected)
{
	if (value->type != jbvString)
		invalid(name, expected);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* A number that is not negative, nor so large that sums of shares could overflow */
static double
number_of(const char *name, const JsonbValue *value, const char *expected)
{
	double		number;

	if (value->type != jbvNumeric)
		invalid(name, expected);
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
	if (!(number >= 0 && number <= MAX_SHARE))
		invalid(name, expected);
	return number;
}

static double
bounded(const char *name, const JsonbValue *value, double least, double most, bool whole)
{
	char	   *expected = psprintf("a%s number from %.10g to %.10g", whole ? " whole" : "", least, most);
	double		number = number_of(name, value, expected);

	if (number < least || number > most || (whole && number != floor(number)))
		invalid(name, expected);
	return number;
}

/* Elements of an array; a string or number by itself is an array of one. */
static int
elements_of(const JsonbValue *value, JsonbValue **elements)
{
	JsonbIterator *iterator;
	JsonbValue	element;
	JsonbIteratorToken token;
	int			n = 0;

	if (value->type != jbvBinary)
	{
		*elements = palloc(sizeof(JsonbValue));
		**elements = *value;
		return 1;
	}
	if (!JsonContainerIsArray(value->val.binary.data))
		return -1;
	*elements = palloc(sizeof(JsonbValue) * Max(JsonContainerSize(value->val.binary.data), 1));
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			(*elements)[n++] = element;
	return n;
}

static CdiText *
texts_of(const char *name, const JsonbValue *value, int *n)
{
	JsonbValue *elements;
	CdiText    *texts;

	*n = elements_of(value, &elements);
	if (*n < 0)
		invalid(name, "an array of strings");
	texts = palloc(sizeof(CdiText) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		if (elements[i].type != jbvString)
			invalid(name, "an array of strings");
		texts[i].data = pnstrdup(elements[i].val.string.val, elements[i].val.string.len);
		texts[i].len = elements[i].val.string.len;
	}
	return texts;
}

static void
set_label(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->label = string_of(name, value, "the name of a column of the touches");
}

/* A relation by its qualified name, as SQL */
static char *
relation_of(const char *name, const JsonbValue *value)
{
	char	   *text = string_of(name, value, "the name of a table or view with its schema");
	List	   *names = textToQualifiedNameList(cstring_to_text(text));
	RangeVar   *relation = makeRangeVarFromNameList(names);

	if (relation->schemaname == NULL)
		invalid(name, "the name of a table or view with its schema, such as marts.touches");
	return quote_qualified_identifier(relation->schemaname, relation->relname);
}

static void
set_touchpoints(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->touchpoints = relation_of(name, value);
}

static void
set_conversion_events(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->conversion_events = relation_of(name, value);
}

static void
set_touch_types(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	model->selection.touch_types = texts_of(name, value, &model->selection.ntouch_types);
}

static void
set_excluded(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	model->selection.excluded = texts_of(name, value, &model->selection.nexcluded);
}

static const char transform_expected[] =
"exposure, first, unique, {\"trim\": N}, {\"remove_if_not_all\": [LABEL, ...]}, "
"{\"remove_if_last_and_not_all\": [LABEL, ...]}, or an array of them";

static void
add_transform(CdiSelection *selection, CdiTransform transform)
{
	Size		size = sizeof(CdiTransform) * (selection->ntransforms + 1);

	selection->transforms = selection->transforms ? repalloc(selection->transforms, size) : palloc(size);
	selection->transforms[selection->ntransforms++] = transform;
}

/* A name, or an object of a name and its argument; frequency, which makes new labels, is none. */
static void
parse_transform(CdiSelection *selection, const char *name, const JsonbValue *value)
{
	CdiTransform transform = {0};
	CdiTransformArgument argument;
	JsonbValue	member = {.type = jbvNull};
	char	   *kind = NULL;
	CdiText    *labels;
	int			nlabels;

	if (value->type == jbvString)
		kind = string_of(name, value, transform_expected);
	else if (value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) &&
			 JsonContainerSize(value->val.binary.data) == 1)
	{
		JsonbIterator *iterator = JsonbIteratorInit(value->val.binary.data);

		JsonbIteratorNext(&iterator, &member, true);
		JsonbIteratorNext(&iterator, &member, true);
		kind = pnstrdup(member.val.string.val, member.val.string.len);
		JsonbIteratorNext(&iterator, &member, true);
	}
	if (kind == NULL || !cdi_path_transform_find(kind, &transform.kind, &argument) ||
		transform.kind == CDI_TRANSFORM_FREQUENCY || (argument == CDI_TRANSFORM_NO_ARGUMENT) != (value->type == jbvString))
		invalid(name, transform_expected);
	switch (argument)
	{
		case CDI_TRANSFORM_NUMBER:
			transform.number = (int) bounded(kind, &member, 1, INT_MAX, true);
			/* FALLTHROUGH */
		case CDI_TRANSFORM_NO_ARGUMENT:
			add_transform(selection, transform);
			break;
		case CDI_TRANSFORM_LABELS:
			labels = texts_of(kind, &member, &nlabels);
			for (int i = 0; i < nlabels; i++)
			{
				transform.label = labels[i];
				add_transform(selection, transform);
			}
			break;
	}
}

static void
set_transform(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	JsonbValue *elements;
	int			n = 1;

	if (value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data))
	{
		elements = palloc(sizeof(JsonbValue));
		*elements = *value;
	}
	else
		n = elements_of(value, &elements);
	model->selection.transforms = NULL;
	model->selection.ntransforms = 0;
	for (int i = 0; i < n; i++)
		parse_transform(&model->selection, name, &elements[i]);
}

static void
set_half_life(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	static const char expected[] = "an interval longer than zero, such as \"7 days\"";
	char	   *text = string_of(name, value, expected);
	Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
																 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

	model->half_life = (double) interval->time +
		((double) interval->day + (double) interval->month * DAYS_PER_MONTH) * USECS_PER_DAY;
	if (!(model->half_life > 0))
		invalid(name, expected);
}

static void
set_role(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	double		share = number_of(name, value, "a number from 0 to 1e100");

	if (strcmp(name, "first") == 0)
		model->role[CDI_ROLE_FIRST] = share;
	else if (strcmp(name, "last") == 0)
		model->role[CDI_ROLE_LAST] = share;
	else
		model->middle = share;
}

static void
set_two_touch(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	static const char expected[] = "snowplow, mixpanel, mam, or an array of two numbers from 0 to 1e100 that are not both zero";
	JsonbValue *elements;

	if (value->type == jbvString)
	{
		char	   *text = string_of(name, value, expected);

		if (strcmp(text, "snowplow") == 0)
			model->two_touch = CDI_TWO_TOUCH_EQUAL;
		else if (strcmp(text, "mixpanel") == 0)
			model->two_touch = CDI_TWO_TOUCH_RENORMALISE;
		else if (strcmp(text, "mam") == 0)
			model->two_touch = CDI_TWO_TOUCH_SPLIT;
		else
			invalid(name, expected);
		return;
	}
	if (elements_of(value, &elements) != 2)
		invalid(name, expected);
	for (int i = 0; i < 2; i++)
		model->two[i] = number_of(name, &elements[i], expected);
	if (model->two[0] + model->two[1] <= 0)
		invalid(name, expected);
	model->two_touch = CDI_TWO_TOUCH_GIVEN;
}

static void
set_milestone(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	model->milestones[strcmp(name, "lead") == 0 ? 0 : 1] = string_of(name, value, "the name of a conversion");
}

static void
set_weights(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	static const char expected[] = "an array of numbers from 0 to 1e100 that are not all zero, at most 10000 of them";
	JsonbValue *elements;
	int			n = elements_of(value, &elements);
	double		total = 0;

	if (n < 1 || n > MAX_WEIGHTS)
		invalid(name, expected);
	model->weights = palloc(sizeof(double) * n);
	model->nweights = n;
	for (int i = 0; i < n; i++)
		total += model->weights[i] = number_of(name, &elements[i], expected);
	if (!(total > 0))
		invalid(name, expected);
}

static void
set_from(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	char	   *text = string_of(name, value, "first or last");

	model->from_last = strcmp(text, "last") == 0;
	if (!model->from_last && strcmp(text, "first") != 0)
		invalid(name, "first or last");
}

static void
set_order(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	model->order = (int) bounded(name, value, 1, CDI_MARKOV_MAX_ORDER, true);
}

static void
set_game(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	char	   *text = string_of(name, value, "additive or rate");

	model->rate = strcmp(text, "rate") == 0;
	if (!model->rate && strcmp(text, "additive") != 0)
		invalid(name, "additive or rate");
}

static void
set_ridge(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	model->ridge = number_of(name, value, "a number that is not negative");
}

static void
set_counts(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	if (value->type != jbvBool)
		invalid(name, "true or false");
	model->counts = value->val.boolean;
}

static void
set_bootstrap(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->bootstrap.replicates = (int) bounded(name, value, 0, CDI_BOOTSTRAP_MOST, true);
}

static void
set_confidence(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->bootstrap.confidence = bounded(name, value, CDI_CONFIDENCE_LEAST, CDI_CONFIDENCE_MOST, false);
}

static void
set_seed(CdiCreditModel *model, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	options->bootstrap.seed = (int) bounded(name, value, 0, PG_INT32_MAX, true);
}

static const Parameter parameters[] = {
	{"bootstrap", OF_CALL, set_bootstrap},
	{"confidence", OF_CALL, set_confidence},
	{"conversion_events", OF_CALL, set_conversion_events},
	{"label", OF_CALL, set_label},
	{"seed", OF_CALL, set_seed},
	{"touchpoints", OF_CALL, set_touchpoints},
	{"exclude_channels", OF_SELECTION, set_excluded},
	{"touch_types", OF_SELECTION, set_touch_types},
	{"transform", OF_SELECTION, set_transform},
	{"half_life", OF_TIME_DECAY, set_half_life},
	{"first", OF_POSITION, set_role},
	{"last", OF_POSITION, set_role},
	{"middle", OF_POSITION, set_role},
	{"two_touch", OF_POSITION, set_two_touch},
	{"lead", OF_LEAD, set_milestone},
	{"opportunity", OF_OPPORTUNITY, set_milestone},
	{"weights", OF_CUSTOM, set_weights},
	{"from", OF_CUSTOM, set_from},
	{"order", OF_MARKOV, set_order},
	{"game", OF_SHAPLEY, set_game},
	{"ridge", OF_LOGISTIC, set_ridge},
	{"counts", OF_LOGISTIC, set_counts},
};

static bool
knows(const CdiCreditModel *model, Scope scope, bool of_call)
{
	switch (scope)
	{
		case OF_CALL:
			return of_call;
		case OF_SELECTION:
			return true;
		case OF_TIME_DECAY:
			return model->kind == CDI_MODEL_TIME_DECAY;
		case OF_POSITION:
			return model->kind == CDI_MODEL_POSITION && model->role[CDI_ROLE_LEAD] == 0;
		case OF_LEAD:
			return model->role[CDI_ROLE_LEAD] > 0;
		case OF_OPPORTUNITY:
			return model->role[CDI_ROLE_OPPORTUNITY] > 0;
		case OF_CUSTOM:
			return model->kind == CDI_MODEL_CUSTOM;
		case OF_MARKOV:
			return model->kind == CDI_MODEL_PATHS && model->path_model == CDI_PATH_MARKOV;
		case OF_SHAPLEY:
			return model->kind == CDI_MODEL_PATHS && model->path_model == CDI_PATH_SHAPLEY;
		case OF_LOGISTIC:
			return model->kind == CDI_MODEL_PATHS && model->path_model == CDI_PATH_LOGISTIC;
	}
	return false;
}

static void pg_attribute_noreturn()
unknown(const char *name, const CdiCreditModel *models, int n, bool of_call)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(parameters); i++)
		for (int m = 0; m < n; m++)
			if (knows(&models[m], parameters[i].scope, of_call))
			{
				appendStringInfo(&names, "%s%s", names.len ? ", " : "", parameters[i].name);
				break;
			}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 n == 1 ? errmsg("model \"%s\" has no parameter \"%s\"", models[0].name, name) :
			 errmsg("none of the models has a parameter \"%s\"", name),
			 errhint("Parameters are %s%s.", names.data,
					 n == 1 ? "" : ", and an object of its own for each model, by the model's name")));
	pg_unreachable();
}

/* One member for all of these models that know it; options is NULL in a model's own object. */
static void
set_member(CdiCreditModel *models, int n, CdiCreditOptions *options, const char *name, const JsonbValue *value)
{
	bool		of_call = options != NULL;
	bool		known = false;

	for (int i = 0; i < lengthof(parameters); i++)
		if (strcmp(parameters[i].name, name) == 0)
			for (int m = 0; m < n; m++)
				if (knows(&models[m], parameters[i].scope, of_call))
				{
					parameters[i].set(&models[m], options, name, value);
					known = true;
				}
	if (!known)
		unknown(name, models, n, of_call);
}

/* Every member of an object, but for those that are a model's own. */
static void
set_members(CdiCreditModel *models, int n, CdiCreditOptions *options, JsonbContainer *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbValue	value;
	JsonbIteratorToken token;
	const char *name = "";

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool		is_model = false;

		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE || (options == NULL && strcmp(name, "model") == 0))
			continue;
		for (int m = 0; m < n && options; m++)
			is_model |= strcmp(name, models[m].name) == 0;
		if (!is_model)
			set_member(models, n, options, name, &value);
	}
}

static JsonbContainer *
own_object(Jsonb *object, const char *name)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&object->root, name, strlen(name), &buffer);

	if (value == NULL)
		return NULL;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		invalid(name, "an object of the model's parameters");
	return value->val.binary.data;
}

static void
check_model(CdiCreditModel *model)
{
	if (model->kind == CDI_MODEL_CUSTOM && model->weights == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model \"%s\" needs parameter \"weights\"", model->name),
				 errhint("As in {\"weights\": [0.5, 0.3, 0.2], \"from\": \"last\"}.")));
	if (model->kind == CDI_MODEL_POSITION &&
		!(model->role[CDI_ROLE_FIRST] + model->role[CDI_ROLE_LAST] + model->middle > 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the shares of model \"%s\" are all zero", model->name),
				 errhint("Give a positive \"first\", \"last\" or \"middle\".")));
	for (int i = 0; i < 2; i++)
		if (model->role[CDI_ROLE_LEAD + i] > 0 && model->milestones[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("model \"%s\" needs parameter \"%s\"", model->name, i == 0 ? "lead" : "opportunity"),
					 errhint("It names the conversion that marks it, as in {\"%s\": \"signup\"}.",
							 i == 0 ? "lead" : "opportunity")));
}

/* Why a touch got what it got, by its roles */
static void
make_reasons(CdiCreditModel *model)
{
	static const char *const role_names[CDI_ROLES] = {"first", "lead", "opportunity", "last"};

	for (int roles = 0; roles < 1 << CDI_ROLES; roles++)
	{
		StringInfoData reason;

		initStringInfo(&reason);
		switch (model->kind)
		{
			case CDI_MODEL_FIRST:
				appendStringInfoString(&reason, "first touch");
				break;
			case CDI_MODEL_LAST:
				appendStringInfoString(&reason, "last touch");
				break;
			case CDI_MODEL_LAST_NON_DIRECT:
				appendStringInfoString(&reason, "last touch that is not direct, or last of all");
				break;
			case CDI_MODEL_LINEAR:
				appendStringInfoString(&reason, "equal share");
				break;
			case CDI_MODEL_TIME_DECAY:
				appendStringInfo(&reason, "halves every %g days", model->half_life / USECS_PER_DAY);
				break;
			case CDI_MODEL_PARTICIPATION:
				appendStringInfoString(&reason, "first touch of its label");
				break;
			case CDI_MODEL_CUSTOM:
				appendStringInfo(&reason, "weight by number from the %s touch", model->from_last ? "last" : "first");
				break;
			case CDI_MODEL_PATHS:
				appendStringInfo(&reason, "effect of its label under %s", model->base);
				break;
			case CDI_MODEL_POSITION:
				for (int r = 0; r < CDI_ROLES; r++)
					if (roles & (1 << r))
						appendStringInfo(&reason, "%s%s", reason.len ? " and " : "", role_names[r]);
				appendStringInfoString(&reason, reason.len ? " touch" : "middle touch");
				break;
		}
		model->reasons[roles] = reason.data;
	}
}

CdiCreditModel *
cdi_models_parse(char **names, int n, Jsonb *object, CdiCreditOptions *options)
{
	CdiCreditModel *models = palloc0(sizeof(CdiCreditModel) * n);
	JsonbContainer **own = palloc0(sizeof(JsonbContainer *) * n);

	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameters of attribution must be a JSON object")));
	memset(options, 0, sizeof(*options));
	options->bootstrap = (CdiBootstrap) CDI_BOOTSTRAP_DEFAULT;
	for (int m = 0; m < n; m++)
	{
		JsonbValue	buffer;
		JsonbValue *base = NULL;

		for (int i = 0; i < m; i++)
			if (strcmp(names[i], names[m]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("model \"%s\" is there twice", names[m]),
						 errhint("With other parameters give it another name: {\"slow\": {\"model\": \"time_decay\", \"half_life\": \"30 days\"}}.")));
		own[m] = own_object(object, names[m]);
		if (own[m])
			base = getKeyJsonValueFromContainer(own[m], "model", strlen("model"), &buffer);
		cdi_model_find(&models[m], names[m],
					   base ? string_of("model", base, "the name of a model") : names[m]);
	}
	set_members(models, n, options, &object->root);
	for (int m = 0; m < n; m++)
	{
		if (own[m])
			set_members(&models[m], 1, NULL, own[m]);
		check_model(&models[m]);
		make_reasons(&models[m]);
	}
	if (options->label == NULL)
		options->label = pstrdup("channel");
	if (options->touchpoints == NULL)
		options->touchpoints = pstrdup("cdi.touchpoints");
	if (options->conversion_events == NULL)
		options->conversion_events = pstrdup("cdi.conversion_events");
	return models;
}

void
cdi_options_refuse_bootstrap(const CdiCreditOptions *options)
{
	if (options->bootstrap.replicates > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("credit of a single touch has no interval"),
				 errhint("Leave the parameter bootstrap out, or ask cdi_attribution_report() for the intervals of sums.")));
}
