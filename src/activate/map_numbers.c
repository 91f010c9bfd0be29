/*
 * map_numbers.c
 *		The functions that a mapping may call: on numbers and times.
 *
 * Numbers are text or numeric, never a double; times depend on no setting.
 */
#include "activate/activate.h"

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "ingest/iso8601.h"

static const CdiValue absent = {.type = CDI_ABSENT};

/* ---- numbers ---- */

/* By the grammar of RFC 8259: what a JSON document can hold as it stands */
static bool
is_number(const char *text, int len)
{
	const char *end = text + len;

#define SOME_DIGITS \
	do { \
		if (text >= end || *text < '0' || *text > '9') \
			return false; \
		while (text < end && *text >= '0' && *text <= '9') \
			text++; \
	} while (0)

	if (text < end && *text == '-')
		text++;
	if (text < end && *text == '0')
		text++;
	else
		SOME_DIGITS;
	if (text < end && *text == '.')
	{
		text++;
		SOME_DIGITS;
	}
	if (text < end && (*text == 'e' || *text == 'E'))
	{
		text++;
		if (text < end && (*text == '+' || *text == '-'))
			text++;
		SOME_DIGITS;
	}
	return text == end;
}

static CdiValue
number_value(const char *text)
{
	CdiValue	result = {.type = CDI_NUMBER,.data = text,.len = strlen(text)};

	return result;
}

static CdiValue
fn_tonumber(const CdiValue *value, const json_t *call)
{
	CdiValue	text;

	if (value->type == CDI_NUMBER)
		return *value;
	if (value->type == CDI_BOOL)
		return number_value(value->boolean ? "1" : "0");
	text = cdi_map_trim(value, NULL);
	if (text.type == CDI_ABSENT || !is_number(text.data, text.len))
		return absent;
	text.type = CDI_NUMBER;
	return text;
}

/* The value as numeric; false where it is no number, or none that fits */
static bool
numeric_of(const CdiValue *value, Numeric *result)
{
	CdiValue	number = fn_tonumber(value, NULL);
	char	   *text;
	const char *exponent;

	if (number.type != CDI_NUMBER)
		return false;
	text = pnstrdup(number.data, number.len);
	exponent = strpbrk(text, "eE");
	if (exponent && labs(strtol(exponent + 1, NULL, 10)) > 10000)
		return false;
	*result = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
												  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return true;
}

static CdiValue
numeric_text(Datum number)
{
	return number_value(DatumGetCString(DirectFunctionCall1(numeric_out, number)));
}

static CdiValue
fn_int(const CdiValue *value, const json_t *call)
{
	Numeric		number;

	if (!numeric_of(value, &number))
		return absent;
	return numeric_text(DirectFunctionCall2(numeric_trunc, NumericGetDatum(number), Int32GetDatum(0)));
}

static CdiValue
fn_round(const CdiValue *value, const json_t *call)
{
	int			digits = (int) json_integer_value(json_array_get(call, 1));
	Numeric		number;

	if (!numeric_of(value, &number))
		return absent;
	return numeric_text(DirectFunctionCall2(numeric_round, NumericGetDatum(number),
											Int32GetDatum(digits)));
}

/* Smallest units of a currency with two decimals: times 100, rounded */
static CdiValue
fn_cents(const CdiValue *value, const json_t *call)
{
	Numeric		number;

	if (!numeric_of(value, &number))
		return absent;
	return numeric_text(DirectFunctionCall2(numeric_round,
											DirectFunctionCall2(numeric_mul, NumericGetDatum(number),
																NumericGetDatum(int64_to_numeric(100))),
											Int32GetDatum(0)));
}

/* ---- times ---- */

/*
 * ISO 8601 as events carry it; a number is seconds since 1970, from 1e11 on
 * milliseconds (1e11 seconds are the year 5138).
 */
static bool
time_of(const CdiValue *value, TimestampTz *result)
{
	Numeric		number;
	int64		microseconds;
	CdiText		text;

	if (value->type == CDI_STRING)
	{
		CdiValue	trimmed = cdi_map_trim(value, NULL);

		if (trimmed.type == CDI_ABSENT)
			return false;
		text.data = trimmed.data;
		text.len = trimmed.len;
		if (cdi_iso8601_parse(text, result))
			return true;
	}
	if (!numeric_of(value, &number))
		return false;
	{
		Datum		seconds = NumericGetDatum(number);
		Datum		limit = NumericGetDatum(int64_to_numeric(INT64CONST(100000000000)));
		Datum		size = DirectFunctionCall1(numeric_abs, seconds);
		bool		in_milliseconds = DatumGetBool(DirectFunctionCall2(numeric_ge, size, limit));

		if (DatumGetBool(DirectFunctionCall2(numeric_ge, size,
											 NumericGetDatum(int64_to_numeric(INT64CONST(200000000000000))))))
			return false;
		microseconds = DatumGetInt64(DirectFunctionCall1(numeric_int8,
														 DirectFunctionCall2(numeric_mul, seconds,
																			 NumericGetDatum(int64_to_numeric(in_milliseconds ? 1000 : USECS_PER_SEC)))));
	}
	*result = microseconds - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	return IS_VALID_TIMESTAMP(*result);
}

static int64
floor_div(int64 value, int64 by)
{
	int64		result = value / by;

	return value % by < 0 ? result - 1 : result;
}

static CdiValue
epoch(const CdiValue *value, int64 unit)
{
	TimestampTz time;

	if (!time_of(value, &time))
		return absent;
	time += (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	return number_value(psprintf(INT64_FORMAT, floor_div(time, unit)));
}

static CdiValue
fn_epoch_s(const CdiValue *value, const json_t *call)
{
	return epoch(value, USECS_PER_SEC);
}

static CdiValue
fn_epoch_ms(const CdiValue *value, const json_t *call)
{
	return epoch(value, 1000);
}

static CdiValue
fn_epoch_us(const CdiValue *value, const json_t *call)
{
	return epoch(value, 1);
}

typedef enum
{
	DATE_ONLY, SECONDS, MILLISECONDS
} TimeForm;

static CdiValue
format_time(const CdiValue *value, TimeForm form)
{
	TimestampTz time;
	struct pg_tm tm;
	fsec_t		fraction;
	char	   *text;

	if (!time_of(value, &time) || timestamp2tm(time, NULL, &tm, &fraction, NULL, NULL) != 0 ||
		tm.tm_year < 1 || tm.tm_year > 9999)
		return absent;
	text = psprintf("%04d-%02d-%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
	if (form != DATE_ONLY)
		text = psprintf("%sT%02d:%02d:%02d", text, tm.tm_hour, tm.tm_min, tm.tm_sec);
	if (form == MILLISECONDS)
		text = psprintf("%s.%03d", text, (int) (fraction / 1000));
	if (form != DATE_ONLY)
		text = psprintf("%sZ", text);
	return cdi_value_string(text, strlen(text));
}

static CdiValue
fn_iso8601(const CdiValue *value, const json_t *call)
{
	return format_time(value, SECONDS);
}

static CdiValue
fn_iso_ms(const CdiValue *value, const json_t *call)
{
	return format_time(value, MILLISECONDS);
}

static CdiValue
fn_date(const CdiValue *value, const json_t *call)
{
	return format_time(value, DATE_ONLY);
}

CdiValue
cdi_map_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fraction;
	char	   *text;

	if (timestamp2tm(at, NULL, &tm, &fraction, NULL, NULL) != 0)
		return absent;
	text = psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fraction);
	return cdi_value_string(text, strlen(text));
}

/* %Y %m %d %H %M %S, in UTC, and %% for itself */
static CdiValue
fn_format_time(const CdiValue *value, const json_t *call)
{
	const char *format = json_string_value(json_array_get(call, 1));
	TimestampTz time;
	struct pg_tm tm;
	fsec_t		fraction;
	StringInfoData out;

	if (!time_of(value, &time) || timestamp2tm(time, NULL, &tm, &fraction, NULL, NULL) != 0 ||
		tm.tm_year < 1 || tm.tm_year > 9999)
		return absent;
	initStringInfo(&out);
	for (; *format != '\0'; format++)
	{
		static const char letters[] = "YmdHMS";
		const int	parts[] = {tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec};
		const char *letter = *format == '%' && format[1] != '\0' ? strchr(letters, format[1]) : NULL;

		if (letter == NULL)
		{
			format += *format == '%' && format[1] == '%';
			appendStringInfoChar(&out, *format);
		}
		else
		{
			format++;
			appendStringInfo(&out, "%0*d", *letter == 'Y' ? 4 : 2, parts[letter - letters]);
		}
	}
	return cdi_value_string(out.data, out.len);
}

const CdiMapFunction cdi_map_number_functions[] = {
	{"cents", 0, 0, "", fn_cents},
	{"date", 0, 0, "", fn_date},
	{"epoch_ms", 0, 0, "", fn_epoch_ms},
	{"epoch_s", 0, 0, "", fn_epoch_s},
	{"epoch_us", 0, 0, "", fn_epoch_us},
	{"format_time", 1, 1, "s", fn_format_time},
	{"int", 0, 0, "", fn_int},
	{"iso8601", 0, 0, "", fn_iso8601},
	{"iso_ms", 0, 0, "", fn_iso_ms},
	{"round", 0, 1, "i", fn_round},
	{"tonumber", 0, 0, "", fn_tonumber},
};

const int	cdi_map_number_function_count = lengthof(cdi_map_number_functions);
