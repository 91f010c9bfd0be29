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
 *	  to the session), and
 *	- with an event that carries another campaign than the session has; a
 *	  session that began without one has none.
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
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "windowapi.h"

#include "base/base.h"

#define CHANNEL_DIRECT	"direct"

/* Arguments of both functions; the channel is an argument of one. */
enum
{
	ARG_EVENT_ID, ARG_TIMESTAMP, ARG_CAMPAIGN, ARG_GAP, ARG_CHANNEL
};

/* Zeroed by the executor when a partition begins. */
typedef struct CdiSessionState
{
	bool		begun;
	TimestampTz last_at;
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

static text *
campaign_of(Datum value, bool isnull)
{
	text	   *campaign = isnull ? NULL : DatumGetTextPP(value);

	return campaign && VARSIZE_ANY_EXHDR(campaign) > 0 ? campaign : NULL;
}

static void
read_row(WindowObject winobj, SessionRow *row)
{
	bool		isnull[ARG_CAMPAIGN + 1];
	Datum		value;

	row->event_id = WinGetFuncArgCurrent(winobj, ARG_EVENT_ID, &isnull[ARG_EVENT_ID]);
	row->at = DatumGetTimestampTz(WinGetFuncArgCurrent(winobj, ARG_TIMESTAMP, &isnull[ARG_TIMESTAMP]));
	row->valid = !isnull[ARG_EVENT_ID] && !isnull[ARG_TIMESTAMP];
	value = WinGetFuncArgCurrent(winobj, ARG_CAMPAIGN, &isnull[ARG_CAMPAIGN]);
	row->campaign = campaign_of(value, isnull[ARG_CAMPAIGN]);
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
take_row(WindowObject winobj, CdiSessionState *state, SessionRow *row, int64 gap)
{
	bool		begins;

	read_row(winobj, row);
	/* Rows before this one are not needed any more. */
	WinSetMarkPosition(winobj, WinGetCurrentPosition(winobj));
	if (!row->valid)
		return false;
	begins = !state->begun || is_pause(state->last_at, row->at, gap) ||
		(row->campaign && !same_campaign(state, row->campaign));
	if (begins)
	{
		state->begun = true;
		memcpy(&state->session_id, DatumGetUUIDP(row->event_id), sizeof(pg_uuid_t));
		keep_campaign(state, row->campaign);
	}
	state->last_at = row->at;
	return begins;
}

/*
 * cdi_session_id(event_id uuid, "timestamp" timestamptz, campaign text,
 *				  gap interval)
 */
PG_FUNCTION_INFO_V1(cdi_session_id);
Datum
cdi_session_id(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	CdiSessionState *state = WinGetPartitionLocalMemory(winobj, sizeof(CdiSessionState));
	SessionRow	row;

	take_row(winobj, state, &row, gap_length(winobj));
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
 * *last_at?  Fetching from another row costs more than the current one's, so
 * the time comes first: it decides for most.  A row that belongs to no session
 * at all says *skip.
 */
static bool
in_session(WindowObject winobj, const CdiSessionState *state, int ahead,
		   int64 gap, TimestampTz *last_at, bool *skip)
{
	TimestampTz at;
	text	   *campaign;
	Datum		value;
	bool		isnull;
	bool		isout;

	*skip = false;
	value = argument_ahead(winobj, ARG_TIMESTAMP, ahead, &isnull, &isout);
	if (isout)
		return false;
	at = DatumGetTimestampTz(value);
	if (!isnull && is_pause(*last_at, at, gap))
		return false;
	if (!isnull)
		(void) argument_ahead(winobj, ARG_EVENT_ID, ahead, &isnull, &isout);
	if (isnull)
	{
		*skip = true;
		return true;
	}
	value = argument_ahead(winobj, ARG_CAMPAIGN, ahead, &isnull, &isout);
	campaign = campaign_of(value, isnull);
	if (campaign && !same_campaign(state, campaign))
		return false;
	*last_at = at;
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
 *					   gap interval, channel text)
 *
 * channel is evaluated only for the rows that are looked at.
 */
PG_FUNCTION_INFO_V1(cdi_session_channel);
Datum
cdi_session_channel(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	CdiSessionState *state = WinGetPartitionLocalMemory(winobj, sizeof(CdiSessionState));
	int64		gap = gap_length(winobj);
	TimestampTz last_at;
	SessionRow	row;
	Datum		channel;
	bool		isnull;
	bool		isout;
	bool		skip;

	if (!take_row(winobj, state, &row, gap))
		PG_RETURN_NULL();

	last_at = row.at;
	channel = WinGetFuncArgCurrent(winobj, ARG_CHANNEL, &isnull);
	for (int ahead = 1; isnull || is_direct(DatumGetTextPP(channel)); ahead++)
	{
		if (!in_session(winobj, state, ahead, gap, &last_at, &skip))
			PG_RETURN_TEXT_P(cstring_to_text(CHANNEL_DIRECT));
		if (skip)
			isnull = true;
		else
			channel = argument_ahead(winobj, ARG_CHANNEL, ahead, &isnull, &isout);
	}
	PG_RETURN_DATUM(channel);
}
