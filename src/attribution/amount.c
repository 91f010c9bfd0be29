/*
 * amount.c
 *		Exact decimals in 128 bits, for shares of a conversion's value.
 *
 * A numeric multiplication and division per touch would cost more than all
 * the rest of attribution.  Amounts below 10^18 with up to 12 digits after the
 * point, which are all that occur, are integers here; others stay numeric.
 */
#include "attribution/credit.h"

#include <math.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#define INTEGER_DIGITS	18
#define UNITS			INT64CONST(1000000000000)

/*
 * Products of amounts below 10^30 and integers up to this fit into 127 bits.
 */
#define MAX_INTEGER_WEIGHT	(1 << 26)

bool
cdi_amount_of(Datum number, CdiAmount *amount)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, number));
	const char *c = text;
	bool		negative = *c == '-';
	CdiAmount	result = 0;
	int			digits = 0;
	int			scale = 0;
	bool		ok;

	if (negative)
		c++;
	for (; *c >= '0' && *c <= '9' && digits <= INTEGER_DIGITS; c++, digits++)
		result = result * 10 + (*c - '0');
	if (*c == '.')
		for (c++; *c >= '0' && *c <= '9' && scale < CDI_AMOUNT_SCALE; c++, scale++)
			result = result * 10 + (*c - '0');
	ok = *c == '\0' && digits >= 1 && digits <= INTEGER_DIGITS;
	for (; scale < CDI_AMOUNT_SCALE; scale++)
		result *= 10;
	*amount = negative ? -result : result;
	pfree(text);
	return ok;
}

Datum
cdi_amount_numeric(CdiAmount amount)
{
	char		buffer[48];
	char	   *c = buffer + sizeof(buffer);
	unsigned __int128 rest = amount < 0 ? -(unsigned __int128) amount : (unsigned __int128) amount;
	int			digits = 0;

	if (amount >= PG_INT64_MIN && amount <= PG_INT64_MAX)
		return NumericGetDatum(int64_div_fast_to_numeric((int64) amount, CDI_AMOUNT_SCALE));
	*--c = '\0';
	while (rest > 0 || digits <= CDI_AMOUNT_SCALE)
	{
		if (digits == CDI_AMOUNT_SCALE)
			*--c = '.';
		*--c = '0' + (char) (rest % 10);
		rest /= 10;
		digits++;
	}
	if (amount < 0)
		*--c = '-';
	return DirectFunctionCall3(numeric_in, CStringGetDatum(c), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

CdiAmount
cdi_amount_share(CdiAmount value, double weight, double total)
{
	if (total <= MAX_INTEGER_WEIGHT && total == (int32) total && weight == (int32) weight)
	{
		CdiAmount	product = value * (int32) weight;
		int32		divisor = (int32) total;
		CdiAmount	quotient = product / divisor;
		int32		rest = (int32) (product - quotient * divisor);

		if (2 * (int64) abs(rest) >= divisor)
			quotient += value < 0 ? -1 : 1;
		return quotient;
	}
	return (CdiAmount) roundl((long double) value * ((long double) weight / (long double) total));
}

/* All digits that a double has, which float8_numeric() cuts to 15 */
static Datum
double_to_numeric(double value)
{
	if (value == (double) (int32) value)
		return DirectFunctionCall1(int4_numeric, Int32GetDatum((int32) value));
	return DirectFunctionCall3(numeric_in, CStringGetDatum(psprintf("%.17g", value)),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

Datum
cdi_numeric_share(Datum value, double weight, double total, int scale)
{
	Datum		product = DirectFunctionCall2(numeric_mul, value, double_to_numeric(weight));
	Datum		quotient = DirectFunctionCall2(numeric_div, product, double_to_numeric(total));

	return DirectFunctionCall2(numeric_round, quotient, Int32GetDatum(scale));
}
