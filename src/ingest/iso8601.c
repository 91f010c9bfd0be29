/*
 * iso8601.c
 *		Times as SDKs send them.
 */
#include "postgres.h"

#include "utils/datetime.h"

#include "ingest/iso8601.h"

/* Exactly n digits at *at; -1 where there are none. */
static int
digits(const char **at, const char *end, int n)
{
	int			value = 0;

	if (end - *at < n)
		return -1;
	for (int i = 0; i < n; i++)
	{
		unsigned char c = (*at)[i];

		if (c < '0' || c > '9')
			return -1;
		value = value * 10 + (c - '0');
	}
	*at += n;
	return value;
}

static bool
take(const char **at, const char *end, char c)
{
	if (*at < end && **at == c)
	{
		(*at)++;
		return true;
	}
	return false;
}

bool
cdi_iso8601_parse(CdiText text, TimestampTz *result)
{
	const char *at = text.data;
	const char *end = text.data + text.len;
	int			year,
				month,
				day;
	int			hour = 0,
				minute = 0,
				second = 0;
	int64		fraction = 0;
	int64		offset = 0;
	TimestampTz value;

	if ((year = digits(&at, end, 4)) < 1 || !take(&at, end, '-') ||
		(month = digits(&at, end, 2)) < 1 || month > 12 || !take(&at, end, '-') ||
		(day = digits(&at, end, 2)) < 1 || day > day_tab[isleap(year)][month - 1])
		return false;
	if (at < end)
	{
		if (!take(&at, end, 'T') && !take(&at, end, 't') && !take(&at, end, ' '))
			return false;
		if ((hour = digits(&at, end, 2)) < 0 || hour > 24 || !take(&at, end, ':') ||
			(minute = digits(&at, end, 2)) < 0 || minute > 59)
			return false;
		if (take(&at, end, ':'))
		{
			if ((second = digits(&at, end, 2)) < 0 || second > 60)
				return false;
			if (take(&at, end, '.') || take(&at, end, ','))
			{
				int64		unit = 100000;

				if (at >= end || *at < '0' || *at > '9')
					return false;
				for (; at < end && *at >= '0' && *at <= '9'; at++, unit /= 10)
					fraction += (*at - '0') * unit;
			}
		}
		if (hour == 24 && (minute != 0 || second != 0 || fraction != 0))
			return false;
		if (at < end && !take(&at, end, 'Z') && !take(&at, end, 'z'))
		{
			int			sign = take(&at, end, '-') ? -1 : take(&at, end, '+') ? 1 : 0;
			int			zone_hour;
			int			zone_minute = 0;

			if (sign == 0 || (zone_hour = digits(&at, end, 2)) < 0 || zone_hour > 15)
				return false;
			if (at < end)
			{
				(void) take(&at, end, ':');
				if ((zone_minute = digits(&at, end, 2)) < 0 || zone_minute > 59)
					return false;
			}
			offset = sign * (zone_hour * 60 + zone_minute) * (int64) SECS_PER_MINUTE;
		}
		if (at < end)
			return false;
	}
	value = ((int64) (date2j(year, month, day) - POSTGRES_EPOCH_JDATE) * SECS_PER_DAY +
			 hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE + second - offset) * USECS_PER_SEC +
		fraction;
	if (!IS_VALID_TIMESTAMP(value))
		return false;
	*result = value;
	return true;
}
