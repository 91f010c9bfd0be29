/*
 * number.c
 *		The numeric value of an event's property.
 *
 * SDKs send amounts as JSON numbers or, as often, as strings.  Both are read
 * exactly.  What is no decimal number ("12 EUR", "NaN", true) has no value:
 * an amount that is guessed would be summed without anyone noticing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "attribution/attribution.h"

/* More digits than any amount has; keeps numeric_in() from refusing. */
#define MAX_NUMBER_LENGTH	1000

/* Decimal number with optional sign, fraction and exponent of up to 3 digits. */
static bool
is_decimal(const char *text)
{
	int			digits = 0;

	if (*text == '+' || *text == '-')
		text++;
	for (; *text >= '0' && *text <= '9'; text++)
		digits++;
	if (*text == '.')
		for (text++; *text >= '0' && *text <= '9'; text++)
			digits++;
	if (digits == 0)
		return false;
	if (*text == 'e' || *text == 'E')
	{
		text++;
		if (*text == '+' || *text == '-')
			text++;
		for (digits = 0; *text >= '0' && *text <= '9'; text++)
			digits++;
		if (digits < 1 || digits > 3)
			return false;
	}
	return *text == '\0';
}

bool
cdi_number_of(const JsonbValue *value, Datum *number)
{
	const char *start;
	const char *end;
	char	   *text;

	if (value->type == jbvNumeric)
	{
		*number = datumCopy(NumericGetDatum(value->val.numeric), false, -1);
		return true;
	}
	if (value->type != jbvString || value->val.string.len > MAX_NUMBER_LENGTH)
		return false;

	start = value->val.string.val;
	end = start + value->val.string.len;
	while (start < end && *start == ' ')
		start++;
	while (start < end && end[-1] == ' ')
		end--;
	text = pnstrdup(start, end - start);
	if (strlen(text) != end - start || !is_decimal(text))
		return false;
	*number = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
								  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return true;
}

/* cdi_property_number(properties jsonb, property text) */
PG_FUNCTION_INFO_V1(cdi_property_number);
Datum
cdi_property_number(PG_FUNCTION_ARGS)
{
	Jsonb	   *properties = PG_GETARG_JSONB_P(0);
	text	   *property = PG_GETARG_TEXT_PP(1);
	JsonbValue	buffer;
	JsonbValue *value;
	Datum		number;

	if (!JB_ROOT_IS_OBJECT(properties))
		PG_RETURN_NULL();
	value = getKeyJsonValueFromContainer(&properties->root, VARDATA_ANY(property),
										 VARSIZE_ANY_EXHDR(property), &buffer);
	if (value == NULL || !cdi_number_of(value, &number))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(number);
}
