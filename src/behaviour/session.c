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

/*
 * The row that lies ahead rows after the current one; false where the
 * partition ends before it.
 */
static bool
read_row(WindowObject winobj, int ahead, SessionRow *row)
{
	Datum		values[ARG_CAMPAIGN + 1];
	bool		isnull[ARG_CAMPAIGN + 1];
	bool		isout;

	for (int i = 0; i <= ARG_CAMPAIGN; i++)
	{
		if (ahead == 0)
		{
			values[i] = WinGetFuncArgCurrent(winobj, i, &isnull[i]);
			continue;
		}
		values[i] = WinGetFuncArgInPartition(winobj, i, ahead, WINDOW_SEEK_CURRENT,
											 false, &isnull[i], &isout);
		if (isout)
			return false;
	}
	row->valid = !isnull[ARG_EVENT_ID] && !isnull[ARG_TIMESTAMP];
	row->event_id = values[ARG_EVENT_ID];
	row->at = DatumGetTimestampTz(values[ARG_TIMESTAMP]);
	row->campaign = isnull[ARG_CAMPAIGN] ? NULL : DatumGetTextPP(values[ARG_CAMPAIGN]);
	if (row->campaign && VARSIZE_ANY_EXHDR(row->campaign) == 0)
		row->campaign = NULL;
	return true;
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

/* Does the row begin a session, after one whose last event was at last_at? */
static bool
begins_session(const CdiSessionState *state, TimestampTz last_at,
			   const SessionRow *row, int64 gap)
{
	if (!state->begun)
		return true;
	if (row->at < last_at)
		ereport(ERROR,
				(errcode(ERRCODE_WINDOWING_ERROR),
				 errmsg("sessions need their events in order of time"),
				 errhint("Use OVER (PARTITION BY person ORDER BY the timestamp that the function gets).")));
	if (TIMESTAMP_NOT_FINITE(row->at) || TIMESTAMP_NOT_FINITE(last_at))
	{
		if (row->at != last_at)
			return true;
	}
	else if (row->at - last_at > gap)
		return true;
	return row->campaign && !same_campaign(state, row->campaign);
}

/*
 * Take the current row into the state; true where it begins a session.  A row
 * without id or time belongs to no session and changes nothing.
 */
static bool
take_row(WindowObject winobj, CdiSessionState *state, SessionRow *row, int64 gap)
{
	bool		begins;

	read_row(winobj, 0, row);
	/* Rows before this one are not needed any more. */
	WinSetMarkPosition(winobj, WinGetCurrentPosition(winobj));
	if (!row->valid)
		return false;
	begins = begins_session(state, state->last_at, row, gap);
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

	if (!take_row(winobj, state, &row, gap))
		PG_RETURN_NULL();

	last_at = row.at;
	for (int ahead = 0;;)
	{
		bool		isnull;
		bool		isout;
		Datum		value = ahead == 0 ?
			WinGetFuncArgCurrent(winobj, ARG_CHANNEL, &isnull) :
			WinGetFuncArgInPartition(winobj, ARG_CHANNEL, ahead, WINDOW_SEEK_CURRENT,
									 false, &isnull, &isout);

		if (!isnull)
		{
			text	   *channel = DatumGetTextPP(value);

			if (VARSIZE_ANY_EXHDR(channel) != strlen(CHANNEL_DIRECT) ||
				memcmp(VARDATA_ANY(channel), CHANNEL_DIRECT, strlen(CHANNEL_DIRECT)) != 0)
				PG_RETURN_TEXT_P(channel);
		}
		do
		{
			if (!read_row(winobj, ++ahead, &row))
				PG_RETURN_TEXT_P(cstring_to_text(CHANNEL_DIRECT));
		} while (!row.valid);
		if (begins_session(state, last_at, &row, gap))
			PG_RETURN_TEXT_P(cstring_to_text(CHANNEL_DIRECT));
		last_at = row.at;
	}
}
