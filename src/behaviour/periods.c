/*
 * periods.c
 *		Days, ISO weeks and months of a time zone, numbered.
 *
 * Days count from 2000-01-01, weeks begin on Monday (ISO 8601) and count from
 * the one of 2000-01-03, months are 12 * year + month - 1.
 */
#include "behaviour/behaviour.h"

#include "utils/datetime.h"

#define UNIX_TO_PG_EPOCH	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)
#define FIRST_MONDAY		2	/* 2000-01-03 as days since 2000-01-01 */

static int64
floor_divide(int64 value, int64 by)
{
	int64		quotient = value / by;

	return value % by < 0 ? quotient - 1 : quotient;
}

void
cdi_calendar_open(CdiCalendar *calendar, const char *zone)
{
	memset(calendar, 0, sizeof(*calendar));
	calendar->zone = pg_tzset(zone);
	/* A zone with leap seconds would give other days than timestamptz has. */
	if (calendar->zone == NULL || !pg_tz_acceptable(calendar->zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" does not exist", zone),
				 errhint("SELECT name FROM pg_timezone_names lists those that do, as Europe/Berlin.")));
}

int64
cdi_calendar_local(CdiCalendar *calendar, TimestampTz at)
{
	pg_time_t	unix_seconds = floor_divide(at, USECS_PER_SEC) + UNIX_TO_PG_EPOCH;

	if (unix_seconds < calendar->valid_from || unix_seconds >= calendar->valid_until)
	{
		long		before;
		long		after;
		int			before_dst;
		int			after_dst;
		pg_time_t	boundary;
		int			found = pg_next_dst_boundary(&unix_seconds, &before, &before_dst, &boundary,
												 &after, &after_dst, calendar->zone);

		if (found < 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("the time zone says nothing of such a time")));
		/* The boundary itself is the first second of the new offset. */
		if (found == 0)
			boundary = PG_INT64_MAX;
		calendar->valid_from = unix_seconds;
		calendar->valid_until = boundary;
		calendar->offset = before;
	}
	return at + calendar->offset * USECS_PER_SEC;
}

int64
cdi_calendar_period_of_day(CdiUnit unit, int32 day)
{
	int			year;
	int			month;
	int			day_of_month;

	switch (unit)
	{
		case CDI_UNIT_DAY:
			return day;
		case CDI_UNIT_WEEK:
			return floor_divide((int64) day - FIRST_MONDAY, 7);
		case CDI_UNIT_MONTH:
			j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &day_of_month);
			return (int64) year * 12 + month - 1;
		case CDI_UNIT_ALL:
			break;
	}
	return 0;
}

int64
cdi_calendar_period(CdiCalendar *calendar, CdiUnit unit, TimestampTz at)
{
	if (unit == CDI_UNIT_ALL)
		return 0;
	return cdi_calendar_period_of_day(unit, floor_divide(cdi_calendar_local(calendar, at), USECS_PER_DAY));
}

int32
cdi_calendar_first_day(CdiUnit unit, int64 period)
{
	switch (unit)
	{
		case CDI_UNIT_WEEK:
			return period * 7 + FIRST_MONDAY;
		case CDI_UNIT_MONTH:
			return date2j(floor_divide(period, 12), period - floor_divide(period, 12) * 12 + 1, 1) -
				POSTGRES_EPOCH_JDATE;
		default:
			return period;
	}
}
