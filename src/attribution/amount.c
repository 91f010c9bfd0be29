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
#define UNITS			INT64CONST(1000000000000)	/* 10^CDI_AMOUNT_SCALE */

/*
 * Products of amounts below 10^30 and integers up to this fit into 127 bits.
 */
#define MAX_INTEGER_WEIGHT	(1 << 26)

/* Of a value, before and after the point */
#define USABLE_DIGITS		100

/*
 * A numeric as it is stored, which src/backend/utils/adt/numeric.c describes:
 * a header of one or two words, then digits to the base 10000 without leading
 * zeros.  Writing it as text and reading that takes ten times as long.
 */
#define BASE				10000
#define BASE_DIGITS			4
#define SHORT_HEADER		0x8000
#define SPECIAL				0xC000	/* both bits: NaN or infinity */
#define LONG_NEGATIVE		0x4000
#define LONG_SCALE			0x3FFF
#define SHORT_NEGATIVE		0x2000
#define SHORT_SCALE(header)	(((header) >> 7) & 0x3F)
#define SHORT_WEIGHT(header) ((int) ((header) & 0x3F) - (int) ((header) & 0x40))

typedef struct Decimal
{
	bool		negative;
	int			scale;			/* digits after the point */
	int			weight;			/* of the first digit: BASE to the power of this */
	int			ndigits;		/* 0: zero */
	const char *digits;			/* int16, unaligned */
} Decimal;

/* False for NaN and infinities.  The bytes are those of number, which is not compressed. */
static bool
read_decimal(const struct varlena *number, Decimal *decimal)
{
	const char *data = VARDATA_ANY(number);
	uint16		header;
	int16		weight;
	int			size = sizeof(header);

	memcpy(&header, data, sizeof(header));
	if ((header & SPECIAL) == SPECIAL)
		return false;
	if (header & SHORT_HEADER)
	{
		decimal->negative = (header & SHORT_NEGATIVE) != 0;
		decimal->scale = SHORT_SCALE(header);
		decimal->weight = SHORT_WEIGHT(header);
	}
	else
	{
		memcpy(&weight, data + size, sizeof(weight));
		size += sizeof(weight);
		decimal->negative = (header & LONG_NEGATIVE) != 0;
		decimal->scale = header & LONG_SCALE;
		decimal->weight = weight;
	}
	decimal->digits = data + size;
	decimal->ndigits = ((int) VARSIZE_ANY_EXHDR(number) - size) / (int) sizeof(int16);
	return true;
}

bool
cdi_amount_of(Datum number, CdiAmount *amount)
{
	const CdiAmount limit = (CdiAmount) 1000000 * UNITS * UNITS;	/* 10^INTEGER_DIGITS units */
	CdiAmount	result = 0;
	Decimal		decimal;

	if (!read_decimal(PG_DETOAST_DATUM_PACKED(number), &decimal) || decimal.scale > CDI_AMOUNT_SCALE ||
		(decimal.ndigits > 0 && (decimal.weight > INTEGER_DIGITS / BASE_DIGITS ||
								 decimal.weight - decimal.ndigits + 1 < -CDI_AMOUNT_SCALE / BASE_DIGITS)))
		return false;
	for (int i = 0; i < decimal.ndigits; i++)
	{
		int16		digit;

		memcpy(&digit, decimal.digits + i * sizeof(digit), sizeof(digit));
		result = result * BASE + digit;
	}
	if (decimal.ndigits > 0)
		for (int power = decimal.weight - decimal.ndigits + 1; power > -CDI_AMOUNT_SCALE / BASE_DIGITS; power--)
			result *= BASE;
	if (result >= limit)
		return false;
	*amount = decimal.negative ? -result : result;
	return true;
}

/* _usable_value(value numeric) */
PG_FUNCTION_INFO_V1(cdi_usable_value);
Datum
cdi_usable_value(PG_FUNCTION_ARGS)
{
	struct varlena *number = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(0));
	Decimal		decimal;

	if (!read_decimal(number, &decimal) ||
		(decimal.ndigits > 0 && decimal.weight >= USABLE_DIGITS / BASE_DIGITS))
		PG_RETURN_NULL();
	if (decimal.scale > USABLE_DIGITS)
		return DirectFunctionCall2(numeric_round, PG_GETARG_DATUM(0), Int32GetDatum(USABLE_DIGITS));
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
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
