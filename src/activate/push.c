/*
 * push.c
 *		The push worker: sends the outbox to destinations.
 *
 *	wait -> take answers -> send -> write results -> read the outbox -> send -> wait
 *
 * It waits for its latch (a sync has run, something was changed), for curl's
 * sockets, and for the time at which something is due; with nothing queued it
 * waits for the latch alone.  Each destination has its own queues, its own
 * limit of requests in flight and its own pauses, so one that is dead or slow
 * delays no other.  While anything is on the network no transaction is open.
 *
 * A crash loses nothing: the cursor of a sync passes a row only in the
 * transaction that records how it ended.  What was sent and not recorded is
 * sent again, with the same idempotency key: at least once.
 */
#include "activate/push.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/errors.h"
#include "worker/slot.h"
#include "worker/worker.h"

#define SECRETS_FOR (10 * USECS_PER_SEC)
#define WRITE_ATTEMPTS 3

/*
 * Results wait for others to be written with, as long as writing took the last
 * time (a commit waits for a disk, perhaps for a standby), within these bounds,
 * and not at all where no more are to come.
 */
#define WRITE_DELAY_MIN (2 * 1000)
#define WRITE_DELAY_MAX (20 * 1000)
#define WRITE_AT_ONCE (CDI_LANE_ROWS / 2)

static CdiPushState *push;
static TimestampTz results_since;	/* when the first came that is not written; 0: there is none */
static int64 write_took;		/* microseconds */
static TimestampTz tried_at;	/* when what could be sent was last looked for */

/* ---- sending ---- */

static void
refresh_secrets(PushDestination *destination)
{
	if (destination->secrets_read != 0 && GetCurrentTimestamp() - destination->secrets_read < SECRETS_FOR)
		return;
	destination->target.secrets = NULL;
	MemoryContextReset(destination->secrets_context);
	destination->target.secrets = cdi_secrets_resolve(destination->target.spec, destination->target.settings,
													  destination->secrets_context);
	destination->secrets_read = GetCurrentTimestamp();
}

/*
 * A request that cannot be built: is it the same with rows of which nothing is
 * known?  If not it is for what they hold, and not for the settings.
 */
static bool
rows_at_fault(const PushRequest *request, const json_t *stage, const char *error)
{
	MemoryContext context = CurrentMemoryContext;
	CdiItem   **items = palloc(sizeof(CdiItem *) * request->nrows);
	volatile bool same = false;

	for (int i = 0; i < request->nrows; i++)
	{
		items[i] = palloc0(sizeof(CdiItem));
		items[i]->operation = "insert";
		items[i]->primary_key = "1";
		items[i]->key = request->rows[i]->key;
		items[i]->json = "{}";
		items[i]->len = 2;
	}
	PG_TRY();
	{
		(void) cdi_request_build(&request->lane->destination->target, stage, items, request->nrows, request->steps);
	}
	PG_CATCH();
	{
		ErrorData  *other;

		MemoryContextSwitchTo(context);
		other = CopyErrorData();
		FlushErrorState();
		same = strcmp(other->message, error) == 0;
	}
	PG_END_TRY();
	return !same;
}

/* One row of them is bad: alone it is a dead letter, else the halves show which. */
static void
give_up_rows(PushRequest *request, const char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	int			half = request->nrows / 2;

	if (request->nrows == 1)
	{
		push_delivery_add_record(request->rows[0], request->attempts, NULL, "invalid", error);
		push_row_end(request->rows[0], PUSH_FAILED, "invalid", 0, request->attempts, error);
	}
	else
	{
		push_request_wait(push_request_create(request->lane, request->rows, half, request->attempts, now), now);
		push_request_wait(push_request_create(request->lane, request->rows + half, request->nrows - half,
											  request->attempts, now), now);
	}
	push_request_free(request);
}

/*
 * Build the request as it is sent, and send it.  Where it cannot be built for
 * its settings the destination pauses and the request waits.
 */
static void
send_request(PushRequest *request, CdiItem **items)
{
	PushLane   *lane = request->lane;
	PushDestination *destination = lane->destination;
	const json_t *action = push_request_action(request);
	bool		first = request->stage == 0 && request->asked_since == 0;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		/* A stage that is not wanted for these rows is passed over. */
		for (;; request->stage++)
		{
			request->request = cdi_request_build(&destination->target, cdi_action_stage(action, request->stage),
												 items, request->nrows, request->steps);
			if (request->request != NULL || request->stage >= cdi_action_stages(action) - 1)
				break;
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(request->context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error != NULL && rows_at_fault(request, cdi_action_stage(action, request->stage), error->message))
	{
		give_up_rows(request, error->message);
		return;
	}
	if (error != NULL)
	{
		push_pause_for_settings(destination, error->sqlerrcode, error->message);
		push_request_forget(request);
		push_request_wait(request, destination->resume_at);
		return;
	}
	if (request->request == NULL)
	{
		push_request_done(request);
		return;
	}
	if (first || request->attempts == 0)
		request->attempts++;
	request->sent_at = GetCurrentTimestamp();
	push_flight_start(push, destination, lane, request->nrows);
	request->items = items;
	cdi_client_start(push->http, request->request, &destination->target, request);
}

static MemoryContext
request_context(PushLane *lane)
{
	return AllocSetContextCreate(lane->context, "cdi request", ALLOCSET_DEFAULT_SIZES);
}

/* The same rows again: they are mapped anew, the settings may have changed. */
static void
send_waiting(PushRequest *request)
{
	MemoryContext old;
	CdiItem   **items;
	int			n = 0;

	dlist_delete(&request->node);
	/* What is sent again is what is true now. */
	if (request->stage == 0 && push_request_supersede(request) == 0)
	{
		push_request_free(request);
		return;
	}
	request->context = request_context(request->lane);
	old = MemoryContextSwitchTo(request->context);
	items = palloc(sizeof(CdiItem *) * request->nrows);
	for (int i = 0; i < request->nrows; i++)
	{
		CdiItem    *item = push_row_map(request->rows[i]);

		if (item->error)
		{
			push_delivery_add_record(request->rows[i], request->attempts, NULL, "invalid", item->error);
			push_row_end(request->rows[i], PUSH_FAILED, "invalid", 0, request->attempts, item->error);
		}
		else
		{
			request->rows[n] = request->rows[i];
			items[n++] = item;
		}
	}
	if (n < request->nrows && request->stage > 0)
		push_request_restart(request);	/* what stages said went by the rows */
	request->nrows = n;
	if (n == 0)
		push_request_free(request);
	else
		send_request(request, items);
	MemoryContextSwitchTo(old);
}

/* As many pending rows as go together; false where there is none to send yet. */
static bool
send_pending(PushLane *lane, TimestampTz now)
{
	MemoryContext context = request_context(lane);
	MemoryContext old = MemoryContextSwitchTo(context);
	PushRow   **rows;
	CdiItem   **items;
	int			n = push_batch_take(lane, now, &rows, &items);

	if (n > 0)
	{
		PushRequest *request = push_request_create(lane, rows, n, 0, 0);

		request->context = context;
		send_request(request, items);
	}
	MemoryContextSwitchTo(old);
	if (n == 0)
		MemoryContextDelete(context);
	return n > 0;
}

/* Sends one request of the lane, if it has one that may go. */
static bool
send_from_lane(PushLane *lane, bool careful, TimestampTz now)
{
	bool		waiting = false;

	if (!push_lane_sends(lane))
		return false;
	if (!dlist_is_empty(&lane->waiting))
		waiting = dlist_container(PushRequest, node, dlist_head_node(&lane->waiting))->due <= now;

	/*
	 * A destination that fails is tried with something else first: if that
	 * goes through, it was the request that is bad and not the destination.
	 */
	if ((careful || !waiting) && !dlist_is_empty(&lane->pending) && lane->hold_until <= now && send_pending(lane, now))
		return true;
	if (!waiting)
		return false;
	send_waiting(dlist_container(PushRequest, node, dlist_head_node(&lane->waiting)));
	return true;
}

static int
allowed_inflight(const PushDestination *destination)
{
	json_t	   *limit;

	if (destination->failures >= PUSH_OPEN_AFTER)
		return 1;
	limit = json_object_get(json_object_get(destination->target.spec->root, "limits"), "concurrency");
	return limit ? Min(cdi_activate_concurrency, (int) json_integer_value(limit)) : cdi_activate_concurrency;
}

static bool
may_send(const PushDestination *destination)
{
	return destination->enabled && destination->usable && destination->settings_text == NULL &&
		push->inflight < CDI_PUSH_INFLIGHT && destination->inflight < allowed_inflight(destination);
}

static bool
secrets_available(PushDestination *destination)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool available = true;

	PG_TRY();
	{
		refresh_secrets(destination);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(destination->context);
		error = CopyErrorData();
		FlushErrorState();
		push_pause_for_settings(destination, error->sqlerrcode,
						   psprintf("%s: %s", error->message, error->detail ? error->detail : ""));
		available = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return available;
}

static bool
has_work(PushDestination *destination, TimestampTz now)
{
	dlist_iter	it;

	dlist_foreach(it, &destination->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, it.cur);

		if (push_lane_sends(lane) &&
			((!dlist_is_empty(&lane->pending) && lane->hold_until <= now) || !dlist_is_empty(&lane->waiting)))
			return true;
	}
	return false;
}

/* One request; lanes take turns. */
static bool
send_to(PushDestination *destination, TimestampTz now)
{
	dlist_mutable_iter it;

	if (!may_send(destination) || destination->resume_at > now || push_rate_due(destination) > now ||
		!has_work(destination, now) || !secrets_available(destination) || !push_token_ready(push, destination))
		return false;
	dlist_foreach_modify(it, &destination->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, it.cur);

		if (send_from_lane(lane, destination->failures >= PUSH_OPEN_AFTER, now))
		{
			dlist_delete(&lane->node);
			dlist_push_tail(&destination->lanes, &lane->node);
			push_rate_count(destination, now);
			return true;
		}
	}
	return false;
}

/* Round and round, one request each, until nobody may send any more */
static void
send_all(void)
{
	bool		sent = true;
	dlist_iter	it;

	while (sent)
	{
		TimestampTz now = tried_at = GetCurrentTimestamp();

		sent = false;
		dlist_foreach(it, &push->destinations)
			if (send_to(dlist_container(PushDestination, node, it.cur), now))
			sent = true;
	}
}

/* ---- the loop ---- */

static void
take_answers(void)
{
	CdiAnswer	answer;
	void	   *owner;

	cdi_client_step(push->http);
	while (cdi_client_result(push->http, &answer, &owner))
	{
		PushRequest *request = owner;

		if (request->token_for)
			push_token_take(push, request, &answer);
		else
			push_take_answer(push, request, &answer);
	}
}

/*
 * The database may be out of space or the connection be interrupted: try
 * again for a while.  What cannot be recorded is sent again after a restart.
 */
static void
write_results(void)
{
	TimestampTz start = GetCurrentTimestamp();

	for (volatile int attempt = 1;; attempt++)
	{
		MemoryContext old = CurrentMemoryContext;
		volatile bool done = false;

		PG_TRY();
		{
			push_write(push);
			done = true;
		}
		PG_CATCH();
		{
			if (attempt == WRITE_ATTEMPTS)
				PG_RE_THROW();
			cdi_worker_catch();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(old);
		if (done)
		{
			results_since = 0;
			write_took = GetCurrentTimestamp() - start;
			return;
		}
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, cdi_worker_wait_event());
	}
}

/* Of all lanes that could be recorded */
static int
rows_ended(void)
{
	int			n = 0;
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		n += lane->held_since == 0 ? lane->record.nended : 0;
	}
	return n;
}

/* When what has come is to be written; DT_NOEND: nothing has */
static TimestampTz
write_due(void)
{
	TimestampTz again = push_write_again(push);

	if (!push_write_wanted(push))
		return again;
	if (results_since == 0)
		results_since = GetCurrentTimestamp();
	if (push->inflight == 0 || rows_ended() >= WRITE_AT_ONCE)
		return results_since;
	return Min(again, results_since + Min(Max(write_took, WRITE_DELAY_MIN), WRITE_DELAY_MAX));
}

/* Lanes that may have more than is in memory, or are to go */
static bool
want_rows(void)
{
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		if (((lane->behind || !lane->seen) && push_lane_idle(lane)) || push_lane_wants(lane))
			return true;
	}
	return false;
}

/* A change waits until nothing is in flight that was sent under the old one. */
static bool
want_compile(void)
{
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);

		if (destination->settings_text != NULL && destination->inflight == 0)
			return true;
		dlist_foreach(inner, &destination->lanes)
		{
			PushLane   *lane = dlist_container(PushLane, node, inner.cur);

			if (lane->stream && lane->stream->rules_text && lane->inflight == 0)
				return true;
		}
	}
	return false;
}

static void
look_everywhere(void)
{
	dlist_iter	it;
	dlist_iter	inner;

	dlist_foreach(it, &push->destinations)
		dlist_foreach(inner, &dlist_container(PushDestination, node, it.cur)->lanes)
	{
		PushLane   *lane = dlist_container(PushLane, node, inner.cur);

		lane->more = true;
		if (lane->stream)
			lane->stream->replays = true;
	}
}

/* Milliseconds until something is due that no answer announces; -1: never */
static long
time_to_wait(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	dlist_iter	it;
	dlist_iter	inner;

	next = write_due();
	if (push->armed == CDI_ARMED)
		next = Min(next, Min(push_schedule_due(push), push_stream_due(push)));
	dlist_foreach(it, &push->destinations)
	{
		PushDestination *destination = dlist_container(PushDestination, node, it.cur);

		TimestampTz resume_at = Max(destination->resume_at, push_rate_due(destination));

		/* An answer that carries a token will go on by itself. */
		if (push->armed != CDI_ARMED || !may_send(destination) || destination->token_asked)
			continue;
		dlist_foreach(inner, &destination->lanes)
		{
			PushLane   *lane = dlist_container(PushLane, node, inner.cur);

			if (!push_lane_sends(lane))
				continue;
			if (!dlist_is_empty(&lane->waiting))
				next = Min(next, Max(resume_at,
									 dlist_container(PushRequest, node, dlist_head_node(&lane->waiting))->due));
			/* What was due when it was last tried waits for something else. */
			if (!dlist_is_empty(&lane->pending) && Max(resume_at, lane->hold_until) > tried_at)
				next = Min(next, Max(resume_at, lane->hold_until));
		}
	}
	if (next == DT_NOEND)
		return -1;
	return next <= now ? 0 : (long) Min((next - now) / 1000 + 1, 24 * 60 * 60 * 1000);
}

static void
initialise(void)
{
	/*
	 * Every statement of this process follows an index, from a few keys to a
	 * few rows.  A plan that was made while the outbox was small must not read
	 * all of it once it has grown.  What has no index, such as a table of one
	 * row, then looks so dear that it would be compiled each time.
	 */
	static const char *const settings[][2] = {
		{"enable_seqscan", "off"}, {"enable_hashjoin", "off"}, {"enable_mergejoin", "off"},
		{"enable_bitmapscan", "off"}, {"plan_cache_mode", "force_generic_plan"}, {"jit", "off"},
	};
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cdi push worker", ALLOCSET_DEFAULT_SIZES);

	push = MemoryContextAllocZero(context, sizeof(CdiPushState));
	push->scratch = AllocSetContextCreate(context, "cdi push worker, one round", ALLOCSET_DEFAULT_SIZES);
	push->context = context;
	dlist_init(&push->destinations);
	dlist_init(&push->held);
	push->http = cdi_client_create(context);
	push_schedule_init(push);
	push_flight_init();
	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_OVERRIDE);
}

void
cdi_push_main(Datum arg)
{
	WaitEventSet *events;
	WaitEvent	event[3];
	CdiSlot    *slot;
	uint64		served = 0;		/* wake-ups that we have looked after */
	bool		look = true;

	if (!cdi_worker_start(CDI_WORKER_PUSH, arg))
		proc_exit(0);
	initialise();
	slot = cdi_worker_slot();
	events = cdi_worker_wait_set(cdi_client_fd(push->http));

	for (;;)
	{
		int			n;

		MemoryContextReset(push->scratch);
		MemoryContextSwitchTo(push->scratch);
		if (cdi_worker_interrupts())
			look = true;
		if (pg_atomic_read_u64(&slot->wakes) != served)
		{
			served = pg_atomic_read_u64(&slot->wakes);
			look = true;
		}
		take_answers();
		if (want_compile())
			push_compile(push);
		/* The network is busy while the database is. */
		if (push->armed == CDI_ARMED && !look)
			send_all();
		if (Min(write_due(), push_stream_due(push)) <= GetCurrentTimestamp())
			write_results();
		if (look)
			look_everywhere();
		look |= push_schedule_run(push);
		if (look || (push->armed == CDI_ARMED && want_rows()))
			push_read(push);
		look = push_schedule_run(push) && push->armed == CDI_ARMED;
		if (push->armed == CDI_ARMED)
			send_all();
		/*
		 * A refused host answers at once.  And a transaction that has waited, for
		 * a lock or a standby, has reset the latch that somebody set meanwhile.
		 */
		if (cdi_client_has_result(push->http) || look || pg_atomic_read_u64(&slot->wakes) != served)
			continue;

		n = WaitEventSetWait(events, push->armed == CDI_ARMED && want_rows() ? 0 : time_to_wait(), event, lengthof(event), cdi_worker_wait_event());
		for (int i = 0; i < n; i++)
			if (event[i].events & WL_LATCH_SET)
			{
				ResetLatch(MyLatch);
				look = true;
			}
	}
}
