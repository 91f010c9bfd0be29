/*
 * options.c
 *		Options of an aggregate, a jsonb object whose members are the
 *		parameters of the report function, and the rows it returns.
 */
#include "behaviour/behaviour.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

void
cdi_options_open(CdiOptions *options, Jsonb *object)
{
	options->object = object;
	options->nnames = 0;
	if (object && !JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errhint("As in '{\"time_zone\": \"Europe/Berlin\"}'.")));
}

/* NULL where the option is absent or null */
static JsonbValue *
member(CdiOptions *options, const char *name)
{
	JsonbValue *value;

	Assert(options->nnames < lengthof(options->names));
	options->names[options->nnames++] = name;
	if (options->object == NULL)
		return NULL;
	value = getKeyJsonValueFromContainer(&options->object->root, name, strlen(name), NULL);
	return value == NULL || value->type == jbvNull ? NULL : value;
}

static void
wrong_type(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s", name, wanted)));
}

char *
cdi_options_text(CdiOptions *options, const char *name, const char *otherwise)
{
	JsonbValue *value = member(options, name);

	if (value == NULL)
		return otherwise ? pstrdup(otherwise) : NULL;
	if (value->type != jbvString)
		wrong_type(name, "a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

int64
cdi_options_integer(CdiOptions *options, const char *name, int64 otherwise, int64 least, int64 most)
{
	JsonbValue *value = member(options, name);
	Datum		number;
	int64		result;

	if (value == NULL)
		return otherwise;
	if (value->type != jbvNumeric)
		wrong_type(name, "a number");
	number = NumericGetDatum(value->val.numeric);
	/* Compared as a numeric first: the cast rounds, and may overflow. */
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, number, DirectFunctionCall1(int8_numeric, Int64GetDatum(least)))) < 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, number, DirectFunctionCall1(int8_numeric, Int64GetDatum(most)))) > 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, number, DirectFunctionCall2(numeric_trunc, number, Int32GetDatum(0)))) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a whole number from %lld to %lld", name, (long long) least, (long long) most)));
	result = DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
	return result;
}

/* An instant as text, with a time zone or in that of the session */
bool
cdi_options_time(CdiOptions *options, const char *name, TimestampTz *value)
{
	char	   *text = cdi_options_text(options, name, NULL);

	if (text == NULL)
		return false;
	*value = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
													 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return true;
}

/* Until when events are known: option as_of, or now */
TimestampTz
cdi_options_as_of(CdiOptions *options)
{
	TimestampTz as_of;

	if (!cdi_options_time(options, "as_of", &as_of))
		return GetCurrentTransactionStartTimestamp();
	if (TIMESTAMP_NOT_FINITE(as_of))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of must be finite"),
				 errhint("It is the time until which events are known; without it, now.")));
	cdi_behaviour_check_time(as_of);
	return as_of;
}

bool
cdi_options_day(CdiOptions *options, const char *name, int32 *day)
{
	char	   *text = cdi_options_text(options, name, NULL);

	if (text == NULL)
		return false;
	*day = DatumGetDateADT(DirectFunctionCall1(date_in, CStringGetDatum(text)));
	if (DATE_NOT_FINITE(*day))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a finite day", name)));
	return true;
}

int
cdi_options_word(CdiOptions *options, const char *name, const char *otherwise,
				 const char *const *words, int nwords)
{
	char	   *word = cdi_options_text(options, name, otherwise);
	StringInfoData list;

	for (int i = 0; i < nwords; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	initStringInfo(&list);
	for (int i = 0; i < nwords; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", words[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown %s \"%s\"", name, word),
			 errhint("It is one of %s.", list.data)));
	return 0;					/* not reached */
}

Jsonb *
cdi_options_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the options must not be null"),
				 errhint("'{}' takes all defaults.")));
	return PG_GETARG_JSONB_P(argument);
}

void
cdi_options_check_same(const Jsonb *first, const Jsonb *other)
{
	if (VARSIZE(first) != VARSIZE(other) || memcmp(first, other, VARSIZE(first)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the options must be the same for all rows of a group")));
}

void
cdi_options_send(StringInfo buffer, const Jsonb *object)
{
	pq_sendint32(buffer, VARSIZE(object));
	pq_sendbytes(buffer, (const char *) object, VARSIZE(object));
}

Jsonb *
cdi_options_receive(StringInfo buffer)
{
	int			size = pq_getmsgint(buffer, 4);
	Jsonb	   *object = palloc(size);

	pq_copymsgbytes(buffer, (char *) object, size);
	return object;
}

/* Raises for a member that nobody asked for: a typing error must not pass as a default. */
void
cdi_options_close(CdiOptions *options)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (options->object == NULL)
		return;
	iterator = JsonbIteratorInit(&options->object->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool		known = false;
		StringInfoData list;

		if (token != WJB_KEY)
			continue;
		for (int i = 0; i < options->nnames; i++)
			known |= strlen(options->names[i]) == value.val.string.len &&
				memcmp(options->names[i], value.val.string.val, value.val.string.len) == 0;
		if (known)
			continue;
		initStringInfo(&list);
		for (int i = 0; i < options->nnames; i++)
			appendStringInfo(&list, "%s%s", i ? ", " : "", options->names[i]);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown option \"%s\"", pnstrdup(value.val.string.val, value.val.string.len)),
				 errhint("Options are %s.", list.data)));
	}
}

void
cdi_rows_open(CdiRows *rows, FunctionCallInfo fcinfo)
{
	rows->type = get_element_type(get_func_rettype(fcinfo->flinfo->fn_oid));
	rows->desc = lookup_rowtype_tupdesc(rows->type, -1);
	rows->count = 0;
	rows->space = 64;
	rows->rows = palloc(rows->space * sizeof(Datum));
}

void
cdi_rows_add(CdiRows *rows, Datum *values, bool *nulls)
{
	CHECK_FOR_INTERRUPTS();
	if (rows->count == rows->space)
	{
		rows->space *= 2;
		rows->rows = repalloc(rows->rows, rows->space * sizeof(Datum));
	}
	rows->rows[rows->count++] = HeapTupleGetDatum(heap_form_tuple(rows->desc, values, nulls));
}

Datum
cdi_rows_close(CdiRows *rows)
{
	ArrayType  *array = construct_array(rows->rows, rows->count, rows->type, -1, false, TYPALIGN_DOUBLE);

	ReleaseTupleDesc(rows->desc);
	return PointerGetDatum(array);
}
