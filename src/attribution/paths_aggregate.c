/*
 * paths_aggregate.c
 *		What all aggregates over paths share: state, options and result.
 *
 * The state is a CdiPaths.  Workers of a parallel plan send theirs as bytes;
 * combining adds the paths of one to the other.
 */
#include "attribution/paths.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "attribution/attribution.h"

/* Of cdi.path_credit; cdi.hazard_credit has one more. */
#define CREDIT_COLUMNS	8

enum
{
	ARG_STATE, ARG_PATH, ARG_CONVERSIONS, ARG_VALUE, ARG_NULLS, ARG_OPTIONS
};

MemoryContext
cdi_paths_aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate over paths called in non-aggregate context");
	return context;
}

void
cdi_paths_keep_options(CdiPaths *paths, const Jsonb *options)
{
	if (options == NULL)
		return;
	if (paths->options == NULL)
	{
		paths->options = MemoryContextAlloc(paths->context, VARSIZE(options));
		memcpy(paths->options, options, VARSIZE(options));
	}
	else if (VARSIZE(options) != VARSIZE(paths->options) ||
			 memcmp(options, paths->options, VARSIZE(options)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a model must be the same for all paths"),
				 errhint("Write them as a constant.")));
}

double
cdi_paths_number(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? 0.0 : PG_GETARG_FLOAT8(argument);
}

/* (state, path, conversions, value, nulls [, options]) */
PG_FUNCTION_INFO_V1(cdi_paths_transition);
Datum
cdi_paths_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	CdiPaths   *paths = PG_ARGISNULL(ARG_STATE) ? cdi_paths_create(context) :
		(CdiPaths *) PG_GETARG_POINTER(ARG_STATE);
	const int32 *touches;
	int32		length;

	if (PG_NARGS() > ARG_OPTIONS && !PG_ARGISNULL(ARG_OPTIONS))
		cdi_paths_keep_options(paths, PG_GETARG_JSONB_P(ARG_OPTIONS));
	touches = cdi_paths_touches(paths, PG_ARGISNULL(ARG_PATH) ? NULL : PG_GETARG_ARRAYTYPE_P(ARG_PATH), &length);
	cdi_paths_add(paths, touches, length,
				  cdi_paths_number(fcinfo, ARG_CONVERSIONS),
				  cdi_paths_number(fcinfo, ARG_VALUE),
				  cdi_paths_number(fcinfo, ARG_NULLS));
	PG_RETURN_POINTER(paths);
}

PG_FUNCTION_INFO_V1(cdi_paths_combine);
Datum
cdi_paths_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	CdiPaths   *paths = PG_ARGISNULL(0) ? NULL : (CdiPaths *) PG_GETARG_POINTER(0);
	CdiPaths   *other;

	if (PG_ARGISNULL(1))
	{
		if (paths == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(paths);
	}
	other = (CdiPaths *) PG_GETARG_POINTER(1);
	if (paths == NULL)
		paths = cdi_paths_create(context);
	cdi_paths_keep_options(paths, other->options);
	cdi_paths_merge(paths, other);
	PG_RETURN_POINTER(paths);
}

PG_FUNCTION_INFO_V1(cdi_paths_serialise);
Datum
cdi_paths_serialise(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = (CdiPaths *) PG_GETARG_POINTER(0);
	StringInfoData buffer;

	cdi_paths_aggregate_context(fcinfo);
	pq_begintypsend(&buffer);
	cdi_paths_send(paths, &buffer);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

PG_FUNCTION_INFO_V1(cdi_paths_deserialise);
Datum
cdi_paths_deserialise(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	CdiPaths   *paths;
	StringInfoData buffer;

	cdi_paths_aggregate_context(fcinfo);
	buffer.data = VARDATA_ANY(bytes);
	buffer.len = buffer.maxlen = VARSIZE_ANY_EXHDR(bytes);
	buffer.cursor = 0;
	paths = cdi_paths_create(CurrentMemoryContext);
	cdi_paths_receive(paths, &buffer);
	pq_getmsgend(&buffer);
	PG_RETURN_POINTER(paths);
}

CdiPaths *
cdi_paths_of_state(FunctionCallInfo fcinfo)
{
	MemoryContext context = cdi_paths_aggregate_context(fcinfo);
	CdiPaths   *paths = PG_ARGISNULL(0) ? cdi_paths_create(context) : (CdiPaths *) PG_GETARG_POINTER(0);

	cdi_paths_sort(paths);
	cdi_paths_check_sums(paths);
	return paths;
}

static const char *
option_names(const CdiPathOption *options, int noptions)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < noptions; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", options[i].name);
	return names.data;
}

static void
set_option(const CdiPathOption *option, const JsonbValue *value)
{
	double		number;

	if (option->kind == CDI_OPTION_BOOLEAN)
	{
		if (value->type != jbvBool)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must be true or false", option->name)));
		*(bool *) option->target = value->val.boolean;
		return;
	}
	if (option->kind == CDI_OPTION_NAME)
	{
		StringInfoData names;

		initStringInfo(&names);
		for (int i = 0; option->names[i] != NULL; i++)
		{
			appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", option->names[i]);
			if (value->type == jbvString && value->val.string.len == strlen(option->names[i]) &&
				memcmp(value->val.string.val, option->names[i], value->val.string.len) == 0)
			{
				*(int *) option->target = i;
				return;
			}
		}
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be one of %s", option->name, names.data)));
	}
	number = value->type != jbvNumeric ? get_float8_nan() :
		DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
	if (!(number >= option->min && number <= option->max) ||
		(option->kind == CDI_OPTION_INTEGER && number != floor(number)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a%s number from %.10g to %.10g", option->name,
						option->kind == CDI_OPTION_INTEGER ? " whole" : "", option->min, option->max)));
	if (option->kind == CDI_OPTION_INTEGER)
		*(int *) option->target = (int) number;
	else
		*(double *) option->target = number;
}

void
cdi_paths_options(const CdiPaths *paths, const CdiPathOption *options, int noptions)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (paths->options == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(paths->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a model must be a JSON object"),
				 errhint("Options are %s.", option_names(options, noptions))));
	iterator = JsonbIteratorInit(&paths->options->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		int			i;

		if (token != WJB_KEY)
			continue;
		for (i = 0; i < noptions; i++)
			if (strlen(options[i].name) == value.val.string.len &&
				memcmp(options[i].name, value.val.string.val, value.val.string.len) == 0)
				break;
		if (i == noptions)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" does not exist", pnstrdup(value.val.string.val, value.val.string.len)),
					 errhint("Options are %s.", option_names(options, noptions))));
		JsonbIteratorNext(&iterator, &value, true);
		set_option(&options[i], &value);
	}
}

static Datum
credit_row(TupleDesc desc, CdiText channel, const CdiPathCredit *credit)
{
	const double numbers[] = {
		credit->conversions, credit->conversions_low, credit->conversions_high,
		credit->value, credit->value_low, credit->value_high, credit->effect
	};
	Datum		values[CREDIT_COLUMNS + 1];
	bool		nulls[CREDIT_COLUMNS + 1];

	if (!isfinite(credit->conversions) || !isfinite(credit->value))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("credit of \"%s\" is out of range", pnstrdup(channel.data, channel.len)),
				 errhint("The paths' conversions or values are too large to be added up; state values in a larger unit.")));
	values[0] = PointerGetDatum(cstring_to_text_with_len(channel.data, channel.len));
	nulls[0] = false;
	for (int i = 0; i < lengthof(numbers); i++)
	{
		values[1 + i] = Float8GetDatum(numbers[i] + 0.0);	/* no negative zero */
		nulls[1 + i] = isnan(numbers[i]);
	}
	if (desc->natts > CREDIT_COLUMNS)
	{
		nulls[CREDIT_COLUMNS] = isnan(credit->lag);
		if (!isnan(credit->lag))
		{
			Interval   *lag = palloc0(sizeof(Interval));

			lag->day = (int32) Min(floor(credit->lag), PG_INT32_MAX);
			lag->time = (TimeOffset) rint((credit->lag - floor(credit->lag)) * USECS_PER_DAY);
			values[CREDIT_COLUMNS] = IntervalPGetDatum(lag);
		}
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

Datum
cdi_paths_result(FunctionCallInfo fcinfo, const CdiPaths *paths, const CdiPathCredit *credits)
{
	const CdiText unattributed = {CDI_CHANNEL_UNATTRIBUTED, strlen(CDI_CHANNEL_UNATTRIBUTED)};
	const double nan = get_float8_nan();
	CdiPathCredit rest = {0, 0, nan, nan, nan, nan, nan, nan};
	Oid			type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	Datum	   *rows = palloc_extended(sizeof(Datum) * (paths->nlabels + 1), MCXT_ALLOC_HUGE);
	int			nrows = 0;

	if (desc->natts != CREDIT_COLUMNS && desc->natts != CREDIT_COLUMNS + 1)
		elog(ERROR, "type %s has %d columns", format_type_be(type), desc->natts);
	for (int p = 0; p < paths->npaths; p++)
		if (paths->paths[p].length == 0)
		{
			rest.conversions += paths->paths[p].conversions;
			rest.value += paths->paths[p].value;
		}
	for (int i = 0; i < paths->nlabels; i++)
	{
		CdiPathCredit credit = credits[i];

		CHECK_FOR_INTERRUPTS();
		/* A channel that is called so keeps its row: names are unique. */
		if (paths->labels[i].len == unattributed.len &&
			memcmp(paths->labels[i].data, unattributed.data, unattributed.len) == 0)
		{
			credit.conversions += rest.conversions;
			credit.value += rest.value;
			/* the bounds are those of the channel alone */
			if (rest.conversions != 0 || rest.value != 0)
				credit.conversions_low = credit.conversions_high = credit.value_low = credit.value_high = nan;
			rest.conversions = rest.value = 0;
		}
		rows[nrows++] = credit_row(desc, paths->labels[i], &credit);
	}
	if (rest.conversions != 0 || rest.value != 0)
		rows[nrows++] = credit_row(desc, unattributed, &rest);
	ReleaseTupleDesc(desc);
	return PointerGetDatum(construct_array(rows, nrows, type, -1, false, TYPALIGN_DOUBLE));
}
