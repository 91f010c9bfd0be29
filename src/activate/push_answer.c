/*
 * push_answer.c
 *		What an answer means for the rows of a request: which have ended, which
 *		go again, and what the next stage of their action is.
 *
 * Rows of an action of several stages end with its last one.  A stage that
 * fails ends the request: what may be tried again begins with the first stage.
 */
#include "activate/push.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "base/errors.h"

/* Gives rows [from, to) of a request to a new one that is due at once. */
static void
send_part_again(PushLane *lane, PushRow **rows, int n, int attempts, TimestampTz due)
{
	if (n > 0)
		push_request_wait(push_request_create(lane, rows, n, attempts, due), due);
}

typedef struct Tally
{
	int			accepted;
	int			failed;
	PushRow   **again;			/* rows to be sent again later */
	int			nagain;
	PushRow   **rest;			/* rows to be sent again at once */
	int			nrest;
} Tally;

/* What becomes of one row */
static void
settle_row(PushRequest *request, PushRow *row, CdiClass class, const char *error, int status, Tally *tally)
{
	switch (class)
	{
		case CDI_CLASS_OK:
			push_row_end(row, PUSH_ACCEPTED, NULL, 0, request->attempts, NULL);
			tally->accepted++;
			break;
		case CDI_CLASS_RETRYABLE:
		case CDI_CLASS_THROTTLED:
			if (request->attempts >= cdi_activate_retry_limit)
			{
				push_row_end(row, PUSH_FAILED, cdi_class_name(class), status, request->attempts, error);
				tally->failed++;
			}
			else
				tally->again[tally->nagain++] = row;
			break;
		case CDI_CLASS_AUTH:
			tally->again[tally->nagain++] = row;
			break;
		default:
			push_row_end(row, PUSH_FAILED, "rejected", status, request->attempts, error);
			tally->failed++;
	}
}


/* ---- stages ---- */

static void
keep_memory(PushRequest *request)
{
	if (request->memory == NULL)
		request->memory = AllocSetContextCreate(request->lane->context, "cdi stages of a request", ALLOCSET_SMALL_SIZES);
}

/* What this stage says of single rows holds to the end. */
static void
keep_rows(PushRequest *request, const CdiVerdict *verdict)
{
	if (verdict->nrows == 0)
		return;
	keep_memory(request);
	if (request->named == NULL)
	{
		request->named = MemoryContextAllocZero(request->memory, sizeof(bool) * request->nrows);
		request->row_classes = MemoryContextAllocZero(request->memory, sizeof(CdiClass) * request->nrows);
		request->row_errors = MemoryContextAllocZero(request->memory, sizeof(char *) * request->nrows);
	}
	for (int i = 0; i < request->nrows; i++)
		if (verdict->named[i] && !request->named[i])
		{
			request->named[i] = true;
			request->row_classes[i] = verdict->row_classes[i];
			request->row_errors[i] = MemoryContextStrdup(request->memory, verdict->row_errors[i]);
		}
}

/* What this stage found, under its name */
static void
keep_steps(PushRequest *request, const char *name, Jsonb *extract)
{
	MemoryContext old;
	Datum		found;
	StringInfoData text;

	if (extract == NULL || name == NULL)
		return;
	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	cdi_json_append_string(&text, name, strlen(name));
	appendStringInfo(&text, ":%s}", JsonbToCString(NULL, &extract->root, 0));
	found = DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
	if (request->steps != NULL)
		found = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(request->steps), found);
	keep_memory(request);
	old = MemoryContextSwitchTo(request->memory);
	request->steps = (Jsonb *) PG_DETOAST_DATUM_COPY(found);
	MemoryContextSwitchTo(old);
}

/*
 * The stage has gone well.  True where the action is not done: the request
 * then waits to go on.
 */
static bool
go_on(PushRequest *request, const CdiAnswer *answer, CdiVerdict *verdict)
{
	const json_t *action = push_request_action(request);
	const json_t *stage = cdi_action_stage(action, request->stage);
	const char *name = request->stage == cdi_action_main_stage(action) ? "main" : cdi_json_string(stage, "name");
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due = now;
	int64		limit;
	int			every = cdi_stage_poll(stage, &limit);

	if (cdi_action_stages(action) == 1 && every == 0)
		return false;
	keep_rows(request, verdict);
	if (verdict->unfinished)
	{
		if (request->asked_since == 0)
			request->asked_since = now;
		if (now - request->asked_since > limit)
		{
			verdict->class = CDI_CLASS_RETRYABLE;
			verdict->error = "the destination did not finish in time";
			return false;
		}
		due = push_later(every);
	}
	else
	{
		request->asked_since = 0;
		keep_steps(request, name, verdict->extract);
		if (request->stage == cdi_action_stages(action) - 1)
			return false;
		request->stage++;
	}
	push_delivery_add(request, 0, answer, cdi_class_name(CDI_CLASS_OK), NULL);
	push_request_forget(request);
	push_request_wait(request, due);
	return true;
}

/* What former stages said of rows is part of what the last one says. */
static void
recall_rows(const PushRequest *request, CdiVerdict *verdict)
{
	if (request->named == NULL)
		return;
	if (verdict->named == NULL)
	{
		verdict->named = palloc0(sizeof(bool) * request->nrows);
		verdict->row_classes = palloc(sizeof(CdiClass) * request->nrows);
		verdict->row_errors = palloc0(sizeof(char *) * request->nrows);
	}
	for (int i = 0; i < request->nrows; i++)
		if (request->named[i])
		{
			verdict->nrows += !verdict->named[i];
			verdict->named[i] = true;
			verdict->row_classes[i] = request->row_classes[i];
			verdict->row_errors[i] = request->row_errors[i];
		}
}

void
push_take_answer(CdiPushState *push, PushRequest *request, const CdiAnswer *answer)
{
	PushLane   *lane = request->lane;
	PushDestination *destination = lane->destination;
	MemoryContext old = MemoryContextSwitchTo(request->context);
	CdiVerdict *verdict = cdi_response_read(&destination->target, cdi_action_stage(push_request_action(request), request->stage),
										answer, request->items, request->nrows, request->steps);
	int			named_wait = verdict->retry_after ? verdict->retry_after : answer->retry_after;
	int64		wait = Max(push_backoff(request->attempts), (int64) named_wait * 1000);
	const char *some_error = NULL;
	bool		halve;
	Tally		tally = {0};

	push_flight_end(push, destination, lane, request->nrows);
	push_note_health(destination, answer, verdict, wait, named_wait > 0);
	if (verdict->class == CDI_CLASS_OK && go_on(request, answer, verdict))
	{
		MemoryContextSwitchTo(old);
		return;
	}
	if (verdict->class == CDI_CLASS_OK)
		recall_rows(request, verdict);
	halve = request->nrows > 1 && verdict->nrows == 0 &&
		(verdict->class == CDI_CLASS_SPLIT || (verdict->class == CDI_CLASS_REJECTED && verdict->split));
	tally.again = palloc(sizeof(PushRow *) * request->nrows);
	tally.rest = palloc(sizeof(PushRow *) * request->nrows);

	if (halve)
	{
		int			half = request->nrows / 2;
		TimestampTz now = GetCurrentTimestamp();

		push_delivery_add(request, 0, answer, "split", verdict->error);
		for (int i = 0; i < request->nrows; i++)
			push_row_count(request->rows[i]);
		send_part_again(lane, request->rows, half, 0, now);
		send_part_again(lane, request->rows + half, request->nrows - half, 0, now);
	}
	else
	{
		for (int i = 0; i < request->nrows; i++)
		{
			CdiClass	class = verdict->class;
			const char *error = verdict->error;
			bool		named = verdict->named != NULL && verdict->named[i];

			if (named)
			{
				class = verdict->row_classes[i];
				some_error = error = verdict->row_errors[i];
			}
			/* A refusal that names rows is about those: the others go again. */
			if ((verdict->class == CDI_CLASS_REJECTED || verdict->class == CDI_CLASS_SPLIT) && verdict->nrows > 0 && !named)
				tally.rest[tally.nrest++] = request->rows[i];
			else
				settle_row(request, request->rows[i], class, error, answer->status, &tally);
			if (class != CDI_CLASS_OK && (named || request->rows[i]->end == PUSH_FAILED))
				push_delivery_add_record(request->rows[i], request->attempts, answer, cdi_class_name(class), error);
			push_row_count(request->rows[i]);
		}
		push_delivery_add(request, tally.accepted, answer, cdi_class_name(verdict->class),
						  verdict->error ? verdict->error : some_error);
		send_part_again(lane, tally.again, tally.nagain,
						verdict->class == CDI_CLASS_AUTH ? request->attempts - 1 : request->attempts, push_later(wait));
		send_part_again(lane, tally.rest, tally.nrest, 0, GetCurrentTimestamp());
	}
	MemoryContextSwitchTo(old);
	push_request_free(request);
}


/* No stage that is left is wanted for these rows: they are done. */
void
push_request_done(PushRequest *request)
{
	for (int i = 0; i < request->nrows; i++)
		if (request->named != NULL && request->named[i] && request->row_classes[i] != CDI_CLASS_OK)
			push_row_end(request->rows[i], PUSH_FAILED, "rejected", 0, request->attempts, request->row_errors[i]);
		else
			push_row_end(request->rows[i], PUSH_ACCEPTED, NULL, 0, request->attempts, NULL);
	push_request_free(request);
}

/* Begin with the first stage, knowing nothing. */
void
push_request_restart(PushRequest *request)
{
	if (request->memory)
		MemoryContextDelete(request->memory);
	request->memory = NULL;
	request->stage = 0;
	request->steps = NULL;
	request->asked_since = 0;
	request->named = NULL;
}
