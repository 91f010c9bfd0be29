/*
 * push_health.c
 *		When a destination may be sent something: pauses after failures, and the
 *		limit of its rate.
 */
#include "activate/push.h"

#include "common/pg_prng.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errors.h"

TimestampTz
push_later(int64 milliseconds)
{
	return GetCurrentTimestamp() + milliseconds * 1000;
}

/* Doubles with every attempt; between half and all of it, so that nothing beats in time */
int64
push_backoff(int attempt)
{
	double		wait = (double) cdi_activate_retry_delay * (UINT64CONST(1) << Min(Max(attempt - 1, 0), 30));

	wait = Min(wait, (double) cdi_activate_retry_max_delay);
	return (int64) Max(wait * (0.5 + pg_prng_double(&pg_global_prng_state) / 2), 1);
}

void
push_pause(PushDestination *destination, int64 milliseconds)
{
	destination->resume_at = Max(destination->resume_at, push_later(milliseconds));
}

static void
set_reason(PushDestination *destination, const char *reason)
{
	push_clear_reason(destination);
	destination->reason = MemoryContextStrdup(TopMemoryContext, reason);
}

/*
 * It failed once more.  From the fifth time in a row on the circuit is open:
 * one request at a time, later and later, shows when it may be closed.
 */
void
push_note_failure(PushDestination *destination, const char *reason)
{
	if (++destination->failures < PUSH_OPEN_AFTER)
		return;
	if (destination->opened_at == 0)
		destination->opened_at = GetCurrentTimestamp();
	set_reason(destination, reason);
}

void
push_pause_for(PushDestination *destination, int64 milliseconds, int sqlstate, const char *error)
{
	push_pause(destination, milliseconds);
	/* one thing at a time is wrong with it */
	destination->failures = 0;
	destination->opened_at = 0;
	set_reason(destination, error);
	if (destination->warned)
		return;
	destination->warned = true;
	ereport(WARNING,
			(errcode(sqlstate),
			 errmsg("destination \"%s\" pauses", destination->name),
			 errdetail("%s.", error),
			 errhint("It is tried again from time to time, and at once after cdi_alter_destination().")));
}

void
push_pause_for_settings(PushDestination *destination, int sqlstate, const char *error)
{
	push_pause_for(destination, cdi_activate_retry_max_delay, sqlstate, error);
}

void
push_clear_reason(PushDestination *destination)
{
	destination->reason_changed = true;
	if (destination->reason)
		pfree(destination->reason);
	destination->reason = NULL;
}

bool
push_reasons_changed(const CdiPushState *push)
{
	dlist_iter	it;

	dlist_foreach(it, (dlist_head *) &push->destinations)
		if (dlist_container(PushDestination, node, it.cur)->reason_changed)
		return true;
	return false;
}

void
push_note_health(PushDestination *destination, const CdiAnswer *answer, const CdiVerdict *verdict, int64 wait, bool asked)
{
	switch (verdict->class)
	{
		case CDI_CLASS_RETRYABLE:
			push_note_failure(destination, answer->failure ? psprintf("it does not answer: %s", verdict->error) :
							  psprintf("it answers with HTTP status %d", answer->status));
			if (asked)
				push_pause(destination, wait);
			else if (destination->failures >= PUSH_OPEN_AFTER)
				push_pause(destination, push_backoff(destination->failures - PUSH_OPEN_AFTER + 1));
			break;
		case CDI_CLASS_THROTTLED:
			push_pause(destination, wait);
			break;
		case CDI_CLASS_AUTH:
			/* A token may end before its time: another one is asked for first. */
			if (destination->token != NULL)
			{
				bool		worked = destination->token_works;

				push_token_drop(destination);
				if (worked)
					break;
			}
			destination->secrets_read = 0;	/* perhaps it was changed */
			/* not the answer's text: this goes to the server's log */
			if (answer->failure)
				push_pause_for_settings(destination, ERRCODE_CDI_EGRESS_REFUSED, verdict->error);
			else
				push_pause_for_settings(destination, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
								   psprintf("It answered with HTTP status %d", answer->status));
			break;
		default:
			destination->failures = 0;
			destination->opened_at = 0;
			destination->warned = false;
			if (destination->reason)
				push_clear_reason(destination);
			destination->token_works = destination->token != NULL;
	}
}

/* ---- rate ---- */

/*
 * The generic cell rate algorithm: requests are due one interval apart, and
 * may come early by so much that a burst of them goes at once.  Without a word
 * about bursts a twentieth of what is allowed does.
 */
void
push_rate_compile(PushDestination *destination)
{
	json_t	   *rate = json_object_get(json_object_get(destination->target.spec->root, "limits"), "rate");
	json_t	   *burst = json_object_get(rate, "burst");
	int64		requests = json_integer_value(json_object_get(rate, "requests"));
	int			period = 0;

	destination->rate_interval = 0;
	if (rate == NULL)
		return;
	(void) parse_int(cdi_json_string(rate, "per"), &period, GUC_UNIT_MS, NULL);
	destination->rate_interval = Max((int64) period * 1000 / requests, 1);
	destination->rate_burst = destination->rate_interval *
		((burst ? json_integer_value(burst) : Max(requests / 20, 1)) - 1);
}

TimestampTz
push_rate_due(const PushDestination *destination)
{
	return destination->rate_interval == 0 ? 0 : destination->rate_next - destination->rate_burst;
}

void
push_rate_count(PushDestination *destination, TimestampTz now)
{
	if (destination->rate_interval > 0)
		destination->rate_next = Max(destination->rate_next, now) + destination->rate_interval;
}
