/*
 * write.c
 *		JSON text, written from slices of other text.
 *
 * The counterpart of scan.c; scan.h describes both.
 */
#include "postgres.h"

#include "base/scan.h"

static void
begin_entry(StringInfo out)
{
	if (out->len > 0 && strchr("{[:,", out->data[out->len - 1]) == NULL)
		appendStringInfoCharMacro(out, ',');
}

static void
append_string(StringInfo out, CdiText text)
{
	static const char hex[] = "0123456789abcdef";

	appendStringInfoCharMacro(out, '"');
	for (int i = 0; i < text.len; i++)
	{
		unsigned char c = (unsigned char) text.data[i];

		if (c == '"' || c == '\\')
		{
			appendStringInfoCharMacro(out, '\\');
			appendStringInfoCharMacro(out, (char) c);
		}
		else if (c < 0x20)
		{
			appendStringInfoString(out, "\\u00");
			appendStringInfoCharMacro(out, hex[c >> 4]);
			appendStringInfoCharMacro(out, hex[c & 15]);
		}
		else
			appendStringInfoCharMacro(out, (char) c);
	}
	appendStringInfoCharMacro(out, '"');
}

void
cdi_write_key(StringInfo out, CdiText key)
{
	begin_entry(out);
	append_string(out, key);
	appendStringInfoCharMacro(out, ':');
}

static void
write_name(StringInfo out, const char *name)
{
	if (name == NULL)
		begin_entry(out);
	else
		cdi_write_key(out, cdi_text(name));
}

void
cdi_write_open(StringInfo out, const char *name, char bracket)
{
	write_name(out, name);
	appendStringInfoCharMacro(out, bracket);
}

void
cdi_write_close(StringInfo out, char bracket)
{
	appendStringInfoCharMacro(out, bracket);
}

void
cdi_write_value(StringInfo out, const char *name, CdiText value)
{
	if (value.data == NULL)
		return;
	write_name(out, name);
	appendBinaryStringInfo(out, value.data, value.len);
}

void
cdi_write_present(StringInfo out, const char *name, CdiText value)
{
	if (cdi_scan_present(value))
		cdi_write_value(out, name, value);
}

void
cdi_write_parts(StringInfo out, const CdiPart *parts, const CdiText *values)
{
	const char *open = NULL;
	const char *last = NULL;

	for (; parts->member != NULL; parts++)
	{
		bool		same = (open == NULL) == (parts->object == NULL) &&
			(open == NULL || strcmp(open, parts->object) == 0);

		if (!cdi_scan_present(values[parts->slot]) ||
			(same && last != NULL && strcmp(last, parts->member) == 0))
			continue;
		if (!same)
		{
			if (open != NULL)
				cdi_write_close(out, '}');
			if (parts->object != NULL)
				cdi_write_open(out, parts->object, '{');
			open = parts->object;
		}
		cdi_write_value(out, parts->member, values[parts->slot]);
		last = parts->member;
	}
	if (open != NULL)
		cdi_write_close(out, '}');
}

void
cdi_write_text(StringInfo out, const char *name, CdiText text)
{
	if (text.data == NULL)
		return;
	write_name(out, name);
	append_string(out, text);
}

void
cdi_write_string(StringInfo out, const char *name, const char *string)
{
	cdi_write_text(out, name, cdi_text(string));
}

void
cdi_write_bool(StringInfo out, const char *name, bool value)
{
	cdi_write_value(out, name, cdi_text(value ? "true" : "false"));
}

void
cdi_write_number(StringInfo out, const char *name, int64 number)
{
	write_name(out, name);
	appendStringInfo(out, INT64_FORMAT, number);
}

void
cdi_write_member(StringInfo out, CdiText key, CdiText value)
{
	if (value.data == NULL)
		return;
	cdi_write_key(out, key);
	appendBinaryStringInfo(out, value.data, value.len);
}

/*
 * Times
 */
#define MIN_MICROSECONDS	INT64CONST(-62135596800000000)	/* 0001-01-01 */
#define END_MICROSECONDS	INT64CONST(253402300800000000)	/* 10000-01-01 */

bool
cdi_scan_epoch(CdiText value, CdiTimeUnit unit, int64 *microseconds)
{
	/* digits behind the point that are worth a microsecond or more */
	int			decimals = unit == CDI_SECONDS ? 6 : unit == CDI_MILLISECONDS ? 3 : 0;
	CdiText		digits = cdi_scan_scalar(value);
	bool		negative = false;
	bool		point = false;
	bool		any = false;
	int64		result = 0;

	if (digits.data == NULL)
		return false;
	if (digits.len > 0 && digits.data[0] == '-')
	{
		negative = true;
		digits.data++;
		digits.len--;
	}
	for (int i = 0; i < digits.len; i++)
	{
		char		c = digits.data[i];

		if (c == '.' && any && !point)
			point = true;
		else if (c < '0' || c > '9')
			return false;
		else
		{
			any = true;
			if (point && decimals-- <= 0)
				continue;
			if (result > END_MICROSECONDS)
				return false;
			result = result * 10 + (c - '0');
		}
	}
	if (!any)
		return false;
	while (decimals-- > 0)
	{
		if (result > END_MICROSECONDS)
			return false;
		result *= 10;
	}
	if (negative)
		result = -result;
	if (result < MIN_MICROSECONDS || result >= END_MICROSECONDS)
		return false;
	*microseconds = result;
	return true;
}

void
cdi_write_time(StringInfo out, const char *name, int64 microseconds)
{
	int64		seconds = microseconds / 1000000;
	int			fraction = (int) (microseconds % 1000000);
	int64		days;
	int			of_day;
	int64		era;
	int			day_of_era;
	int			year_of_era;
	int			day_of_year;
	int			month;
	int			year;
	char		buffer[64];

	if (fraction < 0)
	{
		fraction += 1000000;
		seconds--;
	}
	days = seconds / 86400;
	of_day = (int) (seconds % 86400);
	if (of_day < 0)
	{
		of_day += 86400;
		days--;
	}

	/* Days since 0000-03-01, in eras of 400 years: a year that begins in
	 * March has its leap day at its end. */
	days += 719468;
	era = (days >= 0 ? days : days - 146096) / 146097;
	day_of_era = (int) (days - era * 146097);
	year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	month = (5 * day_of_year + 2) / 153;
	year = (int) (year_of_era + era * 400) + (month >= 10 ? 1 : 0);
	snprintf(buffer, sizeof(buffer), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
			 year, month < 10 ? month + 3 : month - 9,
			 day_of_year - (153 * month + 2) / 5 + 1,
			 of_day / 3600, of_day / 60 % 60, of_day % 60, fraction);
	cdi_write_string(out, name, buffer);
}

void
cdi_write_epoch(StringInfo out, const char *name, CdiText value, CdiTimeUnit unit)
{
	int64		microseconds;

	if (value.data == NULL)
		return;
	if (cdi_scan_epoch(value, unit, &microseconds))
		cdi_write_time(out, name, microseconds);
	else if (cdi_scan_kind(value) == '"')
		cdi_write_value(out, name, value);
	else
		cdi_write_text(out, name, value);
}
