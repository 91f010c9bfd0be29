/*
 * session.c
 *		Where a person's sessions begin, and what led to them.
 *
 * Two window functions over a person's events in order of time.
 * cdi_session_id() gives each event the id of its session, which is the id of
 * the session's first event.  A session begins
 *
 *	- with the first event,
 *	- after more than the gap without an event (exactly the gap still belongs
 *	  to the session),
 *	- with an event that carries another campaign than the session has; a
 *	  session that began without one has none,
 *	- where a time zone is given, with an event on another day there than the
 *	  event before it, and
 *	- with an event that the caller says begins one.
 *
 * An event without a campaign never ends a session: pages after the landing
 * page carry none.
 *
 * cdi_session_channel() gives a session's first event the channel that led to
 * the session, and other events null: the channel of the first event that came
 * from anywhere but the site itself, else direct.  It looks ahead from the
 * first event, and only while the events it sees are direct.
 *
 * Both look at each row once and keep the time of the last event and the
 * session's campaign.  In SQL alone, comparing each event with the last
 * campaign before it takes two sorts more, and the channel an aggregate.
 */
#include "postgres.h"

#include "fmgr.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "windowapi.h"

#include "base/base.h"

#define CHANNEL_DIRECT	"direct"

/* Arguments of both functions; behind them one has the channel of an event. */
enum
{
	ARG_EVENT_ID, ARG_TIMESTAMP, ARG_CAMPAIGN, ARG_GAP, ARG_CHANNEL
};

/* What ends a session. */
typedef struct SessionRules
{
	int64		gap;
	pg_tz	   *zone;			/* whose midnight ends sessions, or NULL */
	int			cut_argument;
} SessionRules;

/* The time zone that a call site has used last */
typedef struct ZoneCache
{
	pg_tz	   *zone;
	char		name[TZ_STRLEN_MAX + 1];
} ZoneCache;

/* Zeroed by the executor when a partition begins. */
typedef struct CdiSessionState
{
	bool		begun;
	TimestampTz last_at;
	int			last_day;		/* in the rules' time zone */
	pg_uuid_t	session_id;
	text	   *campaign;		/* in the partition's context; empty: none */
	Size		campaign_space;
} CdiSessionState;

/* What the rules look at in a row. */
typedef struct SessionRow
{
	bool		valid;			/* has an id and a time */
	Datum		event_id;
	TimestampTz at;
	text	   *campaign;		/* NULL: none */
	bool		cut;			/* begins a session by itself */
} SessionRow;

/* Length of the gap in microseconds; days have 24 hours. */
static int64
gap_length(WindowObject winobj)
{
	bool		isnull;
	Interval   *gap = DatumGetIntervalP(WinGetFuncArgCurrent(winobj, ARG_GAP, &isnull));

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the gap between sessions cannot be null")));
	if (gap->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the gap between sessions cannot be given in months"),
				 errhint("Give it in minutes, hours or days, as in interval '30 minutes'.")));
	if (gap->day < 0 || gap->time < 0 || (gap->day == 0 && gap->time == 0) ||
		gap->day > 36500 || gap->time > 36500 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the gap between sessions must be positive and at most 100 years")));
	return gap->day * USECS_PER_DAY + gap->time;
}

/* Time zone in an argument, NULL where that is null. */
static pg_tz *
zone_argument(FunctionCallInfo fcinfo, WindowObject winobj, int argument)
{
	ZoneCache  *cache = fcinfo->flinfo->fn_extra;
	bool		isnull;
	Datum		value = WinGetFuncArgCurrent(winobj, argument, &isnull);
	text	   *name;
	int			len;

	if (isnull)
		return NULL;
	name = DatumGetTextPP(value);
	len = VARSIZE_ANY_EXHDR(name);
	if (cache == NULL)
		cache = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(ZoneCache));
	if (cache->zone == NULL || strlen(cache->name) != len || memcmp(cache->name, VARDATA_ANY(name), len) != 0)
	{
		cache->zone = NULL;
		if (len <= TZ_STRLEN_MAX)
		{
			memcpy(cache->name, VARDATA_ANY(name), len);
			cache->name[len] = '\0';
			cache->zone = len > 0 ? pg_tzset(cache->name) : NULL;
		}
		if (cache->zone == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("time zone \"%s\" not recognized", text_to_cstring(name)),
					 errhint("pg_timezone_names has the names that there are. null: midnight ends no session.")));
	}
	return cache->zone;
}

static void
get_rules(FunctionCallInfo fcinfo, WindowObject winobj, int zone_argument_number, SessionRules *rules)
{
	rules->gap = gap_length(winobj);
	rules->zone = zone_argument(fcinfo, winobj, zone_argument_number);
	rules->cut_argument = zone_argument_number + 1;
}

/* Julian day of a finite time in the rules' time zone */
static int
day_of(const SessionRules *rules, TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			offset;

	if (rules->zone == NULL || TIMESTAMP_NOT_FINITE(at))
		return 0;
	if (timestamp2tm(at, &offset, &tm, &fsec, NULL, rules->zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return date2j(tm.tm_year, tm.tm_mon, tm.tm_mday);
}

static text *
campaign_of(Datum value, bool isnull)
{
	text	   *campaign = isnull ? NULL : DatumGetTextPP(value);

	return campaign && VARSIZE_ANY_EXHDR(campaign) > 0 ? campaign : NULL;
}

static void
read_row(WindowObject winobj, SessionRow *row, const SessionRules *rules)
{
	bool		isnull[ARG_CAMPAIGN + 1];
	Datum		value;

	row->event_id = WinGetFuncArgCurrent(winobj, ARG_EVENT_ID, &isnull[ARG_EVENT_ID]);
	row->at = DatumGetTimestampTz(WinGetFuncArgCurrent(winobj, ARG_TIMESTAMP, &isnull[ARG_TIMESTAMP]));
	row->valid = !isnull[ARG_EVENT_ID] && !isnull[ARG_TIMESTAMP];
	value = WinGetFuncArgCurrent(winobj, ARG_CAMPAIGN, &isnull[ARG_CAMPAIGN]);
	row->campaign = campaign_of(value, isnull[ARG_CAMPAIGN]);
	value = WinGetFuncArgCurrent(winobj, rules->cut_argument, &isnull[ARG_CAMPAIGN]);
	row->cut = !isnull[ARG_CAMPAIGN] && DatumGetBool(value);
}

static void
keep_campaign(CdiSessionState *state, text *campaign)
{
	Size		size = VARHDRSZ + (campaign ? VARSIZE_ANY_EXHDR(campaign) : 0);

	if (size > state->campaign_space)
	{
		if (state->campaign)
			pfree(state->campaign);
		state->campaign = MemoryContextAlloc(GetMemoryChunkContext(state), size);
		state->campaign_space = size;
	}
	SET_VARSIZE(state->campaign, size);
	if (campaign)
		memcpy(VARDATA(state->campaign), VARDATA_ANY(campaign), size - VARHDRSZ);
}

static bool
same_campaign(const CdiSessionState *state, text *campaign)
{
	Size		len = VARSIZE_ANY_EXHDR(campaign);

	return VARSIZE(state->campaign) - VARHDRSZ == len &&
		memcmp(VARDATA(state->campaign), VARDATA_ANY(campaign), len) == 0;
}

/* Is there more than the gap between two events that follow each other? */
static bool
is_pause(TimestampTz last_at, TimestampTz at, int64 gap)
{
	if (at < last_at)
		ereport(ERROR,
				(errcode(ERRCODE_WINDOWING_ERROR),
				 errmsg("sessions need their events in order of time"),
				 errhint("Use OVER (PARTITION BY person ORDER BY the timestamp that the function gets).")));
	if (TIMESTAMP_NOT_FINITE(at) || TIMESTAMP_NOT_FINITE(last_at))
		return at != last_at;
	return at - last_at > gap;
}

/*
 * Take the current row into the state; true where it begins a session.  A row
 * without id or time belongs to no session and changes nothing.
 */
static bool
take_row(WindowObject winobj, CdiSessionState *state, SessionRow *row, const SessionRules *rules)
{
	bool		begins;
	int			day;

	read_row(winobj, row, rules);
	/* Rows before this one are not needed any more. */
	WinSetMarkPosition(winobj, WinGetCurrentPosition(winobj));
	if (!row->valid)
		return false;
	day = day_of(rules, row->at);
	begins = !state->begun || is_pause(state->last_at, row->at, rules->gap) ||
		day != state->last_day || row->cut ||
		(row->campaign && !same_campaign(state, row->campaign));
	if (begins)
	{
		state->begun = true;
		memcpy(&state->session_id, DatumGetUUIDP(row->event_id), sizeof(pg_uuid_t));
		keep_campaign(state, row->campaign);
	}
	state->last_at = row->at;
	state->last_day = day;
	return begins;
}

/*
 * cdi_session_id(event_id uuid, "timestamp" timestamptz, campaign text,
 *				  gap interval, midnight text, cut boolean)
 */
PG_FUNCTION_INFO_V1(cdi_session_id);
Datum
cdi_session_id(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	CdiSessionState *state = WinGetPartitionLocalMemory(winobj, sizeof(CdiSessionState));
	SessionRules rules;
	SessionRow	row;

	get_rules(fcinfo, winobj, ARG_GAP + 1, &rules);
	take_row(winobj, state, &row, &rules);
	if (!row.valid)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(&state->session_id);
}

/* An argument at a row ahead of the current one; *isout where there is none. */
static Datum
argument_ahead(WindowObject winobj, int argument, int ahead, bool *isnull, bool *isout)
{
	return WinGetFuncArgInPartition(winobj, argument, ahead, WINDOW_SEEK_CURRENT,
									false, isnull, isout);
}

/*
 * Does the row ahead belong to the session whose event before it was at
 * *last_at, on *last_day?  Fetching from another row costs more than the current one's, so
 * the time comes first: it decides for most.  A row that belongs to no session
 * at all says *skip.
 */
static bool
in_session(WindowObject winobj, const CdiSessionState *state, int ahead,
		   const SessionRules *rules, TimestampTz *last_at, int *last_day, bool *skip)
{
	TimestampTz at;
	int			day;
	text	   *campaign;
	Datum		value;
	bool		isnull;
	bool		isout;

	*skip = false;
	value = argument_ahead(winobj, ARG_TIMESTAMP, ahead, &isnull, &isout);
	if (isout)
		return false;
	at = DatumGetTimestampTz(value);
	if (!isnull && is_pause(*last_at, at, rules->gap))
		return false;
	if (!isnull)
		(void) argument_ahead(winobj, ARG_EVENT_ID, ahead, &isnull, &isout);
	if (isnull)
	{
		*skip = true;
		return true;
	}
	day = day_of(rules, at);
	value = argument_ahead(winobj, rules->cut_argument, ahead, &isnull, &isout);
	if (day != *last_day || (!isnull && DatumGetBool(value)))
		return false;
	value = argument_ahead(winobj, ARG_CAMPAIGN, ahead, &isnull, &isout);
	campaign = campaign_of(value, isnull);
	if (campaign && !same_campaign(state, campaign))
		return false;
	*last_at = at;
	*last_day = day;
	return true;
}

static bool
is_direct(text *channel)
{
	return VARSIZE_ANY_EXHDR(channel) == strlen(CHANNEL_DIRECT) &&
		memcmp(VARDATA_ANY(channel), CHANNEL_DIRECT, strlen(CHANNEL_DIRECT)) == 0;
}

/*
 * cdi_session_channel(event_id uuid, "timestamp" timestamptz, campaign text,
 *					   gap interval, channel text, midnight text, cut boolean)
 *
 * channel is evaluated only for the rows that are looked at.
 */
PG_FUNCTION_INFO_V1(cdi_session_channel);
Datum
cdi_session_channel(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	CdiSessionState *state = WinGetPartitionLocalMemory(winobj, sizeof(CdiSessionState));
	SessionRules rules;
	TimestampTz last_at;
	int			last_day;
	SessionRow	row;
	Datum		channel;
	bool		isnull;
	bool		isout;
	bool		skip;

	get_rules(fcinfo, winobj, ARG_CHANNEL + 1, &rules);
	if (!take_row(winobj, state, &row, &rules))
		PG_RETURN_NULL();

	last_at = row.at;
	last_day = state->last_day;
	channel = WinGetFuncArgCurrent(winobj, ARG_CHANNEL, &isnull);
	for (int ahead = 1; isnull || is_direct(DatumGetTextPP(channel)); ahead++)
	{
		if (!in_session(winobj, state, ahead, &rules, &last_at, &last_day, &skip))
			PG_RETURN_TEXT_P(cstring_to_text(CHANNEL_DIRECT));
		if (skip)
			isnull = true;
		else
			channel = argument_ahead(winobj, ARG_CHANNEL, ahead, &isnull, &isout);
	}
	PG_RETURN_DATUM(channel);
}
