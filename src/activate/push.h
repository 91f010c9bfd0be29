/*
 * push.h
 *		Queues of the push worker; private to push*.c.
 *
 *	destination		one per row of cdi.destinations that has syncs: how it is
 *					doing, and how much it may be sent at a time
 *	  lane			one per sync: its part of the outbox that is in memory, or of
 *					a stream of events its part of cdi.events
 *		row			pending, bound to a request, or ended
 *		request		in flight, or waiting for its time to be sent (again)
 *
 * A row is sent only when no earlier row of its key is left.  Rows that ended
 * stay until that is recorded, and the cursor of a lane is the position before
 * its first row that has not.
 */
#ifndef CDI_PUSH_H
#define CDI_PUSH_H

#include "activate/http_client.h"
#include "activate/stream.h"

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

/*
 * Of a lane in memory: more is read when half of it is left.  Two of the largest
 * requests that the specification allows, and not less; where requests wait for
 * rows, as many rows as the memory takes.
 */
#define CDI_LANE_ROWS 2000
#define CDI_LANE_BYTES (8 * 1024 * 1024)
#define CDI_LANE_ROWS_MOST 20000
#define CDI_LANE_BYTES_MOST (64 * 1024 * 1024)

typedef struct PushDestination
{
	dlist_node	node;
	char	   *name;
	int32		destination_id;
	bool		enabled;
	bool		seen;			/* by the latest reading of the configuration */
	bool		usable;
	bool		token_asked;	/* its request is in flight */
	bool		token_works;	/* something was accepted with it */
	bool		token_unstored; /* the refresh token below is not stored yet */
	bool		warned;
	bool		reason_changed; /* the reason below is not recorded yet */
	char	   *version;		/* of destination and specification */
	MemoryContext context;		/* of what was made from them */
	CdiTarget	target;
	char	   *settings_text;	/* to be compiled after the transaction */
	char	   *spec_text;
	MemoryContext secrets_context;
	TimestampTz secrets_read;

	char	   *token;			/* of OAuth, in context; NULL: none */
	TimestampTz token_until;
	char	   *refresh_token;	/* one that took the place of the setting's, or NULL */
	int64		rate_interval;	/* us between two requests; 0: no limit */
	int64		rate_burst;		/* us by which they may come early */
	TimestampTz rate_next;		/* when the next is due at the limit */

	int			inflight;
	struct CdiInFlight *flight; /* what people see of that; NULL: nothing is */
	int			failures;		/* in a row; nothing else came through */
	TimestampTz resume_at;		/* sent nothing before */
	TimestampTz opened_at;		/* the circuit, and it is not closed again; else 0 */
	char	   *reason;			/* why it pauses; NULL: it does not */
	dlist_head	lanes;
} PushDestination;

typedef struct PushAction
{
	const char *name;
	json_t	   *spec;
	CdiBatchLimits limits;
} PushAction;

/* Events that a stream is past; those that were sent are not in it. */
typedef struct PushPassed
{
	int64		withheld;
	int64		sampled_out;
	int64		skipped;
	int64		matched;
} PushPassed;

/* Of an event stream; memory of the worker, not of the lane */
typedef struct PushStream
{
	char	   *version;		/* of the declaration */
	char	   *name;
	char	   *rules_text;		/* to be compiled after the transaction, or NULL */
	char	   *mapping_text;
	CdiStream  *stream;			/* NULL: cannot be used */
	bool		stale;			/* what was read was judged by former rules */
	bool		replays;		/* there may be dead letters to be sent again */
	int64		window;			/* positions to look through at a time */
	TimestampTz moved_at;		/* when the cursor was last recorded */
	PushPassed	after;			/* events behind the last row */
	int64		ok;				/* attempts that are not recorded */
	int64		rejected;
	int64		retryable;
} PushStream;

/* What of a lane the next transaction writes */
typedef struct PushRecord
{
	MemoryContext context;
	HTAB	   *counts;			/* PushCounts by run_id, or NULL: none */
	dlist_head	deliveries;
	dlist_head	ended;			/* rows */
	int			ndeliveries;
	int			nended;
} PushRecord;

typedef struct PushLane
{
	dlist_node	node;			/* in destination->lanes, next in turn first */
	PushDestination *destination;
	int32		sync_id;
	char	   *action_name;	/* NULL: of an event stream, what fits the event */
	PushAction *actions;		/* in the destination's context */
	int			nactions;		/* 0 until compiled, or where they are unknown */
	json_t	   *stages_of;		/* copy of those that what waits has begun with */
	PushStream *stream;			/* NULL: rows of the outbox */
	char	   *order_text;		/* key that the sync asks to be in order by, as declared; or NULL */
	MemoryContext order_context;
	json_t	   *order;			/* the same, parsed */
	int			inflight;		/* requests */
	int			window;			/* rows that it may have in memory */
	int64		window_bytes;
	TimestampTz hold_until;		/* all that is pending waits for more rows until then; 0: look */
	bool		order_stale;	/* what is in memory is in the order of before */
	bool		enabled;
	bool		latest_only;	/* a newer row of a key takes the place of one that failed */
	bool		seen;
	bool		more;			/* the outbox may have more rows than were read */
	bool		behind;			/* to begin again at another cursor, once nothing is in flight */
	int64		cursor;			/* as recorded */
	int64		read;			/* position up to which rows were read */
	MemoryContext context;
	HTAB	   *keys;			/* rows of each key that have not ended */
	dlist_head	rows;			/* not recorded as ended, by position */
	dlist_head	replayed;		/* events that were dead letters */
	dlist_head	pending;		/* those that no request has */
	int			npending;
	int			nrows;			/* all of the lane */
	int64		pending_bytes;
	int64		arrivals;		/* rows that have come so far */
	HTAB	   *batches;		/* of pending rows that may go, by action and group */
	pairingheap *ready;			/* those of which a request may take now */
	pairingheap *waits;			/* those with room left */
	dlist_head	looks;			/* pending rows that may belong to a batch by now */
	dlist_head	waiting;		/* requests, by the time they are due */
	int64		bytes;
	PushRecord	record;
	dlist_node	held_node;		/* in push->held, next to be tried first */
	TimestampTz held_since;		/* when another transaction was first in the way of what is to be written; else 0 */
	bool		held_told;		/* people were told */
} PushLane;

/* Why a row ended */
typedef enum PushEnd
{
	PUSH_OPEN,
	PUSH_ACCEPTED,
	PUSH_FAILED,
	PUSH_SUPERSEDED				/* a newer row of its key is sent instead */
} PushEnd;

typedef struct PushRow
{
	dlist_node	node;			/* in lane->rows */
	dlist_node	queue;			/* in lane->pending, or in the ended rows */
	dlist_node	by_key;
	dlist_node	by_order;		/* where it has an order */
	dlist_node	by_batch;		/* in its batch, or in lane->looks */
	struct PushBatch *batch;	/* NULL: of none */
	int64		arrival;		/* which of the lane it is */
	TimestampTz due;			/* in a batch: when it, or one behind it, has waited for long enough */
	bool		pending;		/* in lane->pending */
	bool		looks;			/* in lane->looks */
	PushLane   *lane;
	int			action;			/* of the lane's */
	bool		replayed;
	bool		passed;			/* an event that is counted as passed */
	PushPassed	before;			/* events between the row before and this one */
	int64		position;
	TimestampTz queued_at;		/* for one of the outbox, which partition it is in */
	int64		run_id;
	uint64		key_hash;
	uint64		order_hash;
	uint64		group;			/* of its item */
	int			item_len;
	int			item_most;
	bool		measured;		/* the three above are known */
	bool		placed;			/* among those that it is in order with */
	bool		has_order;
	PushEnd		end;
	const char *class;			/* of a failed row */
	int			status;
	int			attempts;
	char	   *error;			/* in the context of what is to be recorded */
	int			size;
	char		key[37];		/* idempotency key */
	char	   *operation;
	char	   *primary_key;
	Jsonb	   *payload;
} PushRow;

typedef struct PushRequest
{
	dlist_node	node;			/* in lane->waiting */
	PushLane   *lane;
	TimestampTz due;
	TimestampTz sent_at;
	int			attempts;
	int			nrows;
	PushRow   **rows;
	int			action;			/* of the lane's */
	MemoryContext context;		/* of the request as it is sent; else NULL */
	CdiRequest *request;
	CdiItem   **items;
	PushDestination *token_for; /* asks for a token: no rows, no lane */

	/* While an action of several stages is under way */
	MemoryContext memory;		/* of what follows, or NULL */
	int			stage;
	Jsonb	   *steps;			/* what stages have found */
	TimestampTz asked_since;	/* of a stage that polls */
	bool	   *named;			/* rows that fared otherwise in a former stage */
	CdiClass   *row_classes;
	const char **row_errors;
} PushRequest;

/* A row of cdi.deliveries to be */
typedef struct PushDelivery
{
	dlist_node	node;
	bool		record;			/* of one row that was not accepted, not of a request */
	TimestampTz sent_at;
	int32		sync_id;
	int32		destination_id;
	int			attempt;
	int			rows;
	int			accepted;
	char	   *primary_keys;	/* text of an array */
	int			status;
	const char *class;
	const char *error;
	double		milliseconds;
	char	   *key;
} PushDelivery;

/* What became of rows of a run that were sent */
typedef struct PushCounts
{
	int64		run_id;
	int64		ok;
	int64		rejected;
	int64		retryable;
} PushCounts;

typedef struct CdiPushState
{
	MemoryContext context;
	MemoryContext scratch;		/* reset in every round of the loop */
	CdiHttp    *http;
	dlist_head	destinations;
	dlist_head	held;			/* lanes that cannot be recorded: they send nothing until they are */
	TimestampTz held_due;		/* when they are tried again */
	TimestampTz reasons_due;	/* the same of why destinations pause */
	bool		begun;			/* what a former worker said of its waits is gone */
	CdiArmed	armed;
	bool		warned;			/* that this is a copy */
	int			inflight;
} CdiPushState;

/* push_queue.c */
extern PushLane *push_lane_create(CdiPushState *push, PushDestination *destination, int32 sync_id);
extern void push_lane_reset(PushLane *lane, int64 cursor);
extern void push_lane_drop(PushLane *lane);
extern PushRow *push_row_add(PushLane *lane, int64 position, TimestampTz queued_at, int64 run_id, const char *operation,
							 const char *primary_key, const char *key, Jsonb *payload);
/* It goes after the rows of the same order that are there; NULL: of none */
extern void push_row_place(PushRow *row, const char *order);
extern void push_row_displace(PushRow *row);
/* It is pending no more. */
extern void push_row_unqueue(PushRow *row);
/* May more be read? */
extern bool push_lane_wants(const PushLane *lane);
/* Nothing refers to its rows: it may begin anew, or go. */
extern bool push_lane_idle(const PushLane *lane);
/* May what it has be sent? */
extern bool push_lane_sends(const PushLane *lane);
extern bool push_lane_full(const PushLane *lane);
extern const json_t *push_request_action(const PushRequest *request);
/* Is no row left that it has to wait for? */
extern bool push_row_is_next(PushRow *row);
extern void push_row_end(PushRow *row, PushEnd end, const char *class, int status, int attempts, const char *error);
/* The row was sent: it was accepted, has failed for good, or will be sent again. */
extern void push_row_count(const PushRow *row);
extern void push_row_forget(PushRow *row);
extern PushRequest *push_request_create(PushLane *lane, PushRow **rows, int nrows, int attempts, TimestampTz due);
extern void push_request_wait(PushRequest *request, TimestampTz due);
/* The request as it was sent; its rows stay. */
extern void push_request_forget(PushRequest *request);
extern void push_request_free(PushRequest *request);
extern void push_delivery_add(const PushRequest *request, int accepted, const CdiAnswer *answer, const char *class, const char *error);
/* One row of a request that was not accepted; or, answer NULL, that cannot be sent */
extern void push_delivery_add_record(const PushRow *row, int attempt, const CdiAnswer *answer,
									 const char *class, const char *error);
/* Ends rows that a newer one of their key takes the place of; how many are left */
extern int	push_request_supersede(PushRequest *request);
extern void push_record_reset(PushRecord *record);

/* push_batch.c */
extern CdiItem *push_row_map(PushRow *row);
extern void push_batch_init(PushLane *lane);
/* A pending row may be sent now, where nothing else is in its way. */
extern void push_batch_look(PushRow *row);
extern void push_batch_leave(PushRow *row);
/* All that is pending is looked at anew. */
extern void push_batch_reset(PushLane *lane);
/* Rows of the next request, no longer pending, and their items; 0: none goes now */
extern int	push_batch_take(PushLane *lane, TimestampTz now, PushRow ***rows, CdiItem ***items);

/* push_flight.c: requests on the network */
extern void push_flight_init(void);
extern void push_flight_start(CdiPushState *push, PushDestination *destination, PushLane *lane, int rows);
extern void push_flight_end(CdiPushState *push, PushDestination *destination, PushLane *lane, int rows);

/* push_health.c: when a destination may be sent something */
extern TimestampTz push_later(int64 milliseconds);
extern int64 push_backoff(int attempt);
extern void push_pause(PushDestination *destination, int64 milliseconds);
/* The destination's settings are at fault, or what they refer to: no row is, so none pays for it. */
extern void push_pause_for(PushDestination *destination, int64 milliseconds, int sqlstate, const char *error);
extern void push_pause_for_settings(PushDestination *destination, int sqlstate, const char *error);
extern void push_clear_reason(PushDestination *destination);
/* It did not answer, or not well: why, should this be the one that opens the circuit */
extern void push_note_failure(PushDestination *destination, const char *reason);
extern bool push_reasons_changed(const CdiPushState *push);
/* asked: the receiver said how long */
extern void push_note_health(PushDestination *destination, const CdiAnswer *answer,
							 const CdiVerdict *verdict, int64 wait, bool asked);
/* Failures in a row after which a destination gets one request at a time */
#define PUSH_OPEN_AFTER 5
extern void push_rate_compile(PushDestination *destination);
/* When the limit of the rate lets the next request go */
extern TimestampTz push_rate_due(const PushDestination *destination);
extern void push_rate_count(PushDestination *destination, TimestampTz now);

/* push_answer.c */
extern void push_take_answer(CdiPushState *push, PushRequest *request, const CdiAnswer *answer);

extern void push_request_done(PushRequest *request);
extern void push_request_restart(PushRequest *request);

/* push_token.c: true where the destination needs none, or has it */
extern bool push_token_ready(CdiPushState *push, PushDestination *destination);
extern void push_token_take(CdiPushState *push, PushRequest *request, const CdiAnswer *answer);
/* Forget the token: the next request waits for another. */
extern void push_token_drop(PushDestination *destination);

/* push_schedule.c */
extern void push_schedule_init(CdiPushState *push);
/* Cursors have moved: a sync may wait for that. */
extern void push_schedule_delivered(void);
/* In a transaction; true where one follows events */
extern bool push_schedule_read(CdiPushState *push);
/* Starts what is due; true where schedules are to be read first. */
extern bool push_schedule_run(CdiPushState *push);
/* When something is due next; DT_NOEND: not before something happens */
extern TimestampTz push_schedule_due(const CdiPushState *push);

/* push_stream.c: lanes that read cdi.events */
extern PushStream *push_stream_create(CdiPushState *push);
extern void push_stream_free(PushStream *stream);
/* The declaration, as it is now */
extern void push_stream_declare(CdiPushState *push, PushStream *stream, const char *version, const char *name,
								const char *rules, const char *mapping);
/* Outside of transactions: what has been declared since */
extern void push_stream_compile(CdiPushState *push, PushLane *lane);
/* In a transaction whose snapshot the watermark was read by */
extern void push_stream_read(PushLane *lane, int64 watermark);
/* In the transaction that moves the cursors, and when that is done */
extern void push_stream_write(PushLane *lane);
extern void push_stream_written(PushLane *lane);
/* When a cursor that only passes events is to be recorded; DT_NOEND: none is */
extern TimestampTz push_stream_due(CdiPushState *push);
extern int64 push_lane_cursor(PushLane *lane);

/* push_store.c: each one short transaction */
extern void push_read(CdiPushState *push);
/* Takes over changed destinations, each once nothing of it is in flight. */
extern void push_compile(CdiPushState *push);

/*
 * push_write.c: a transaction that waits for nobody's locks; in PG_CATCH:
 * aborts it and is false where one was not to be had, else raises the error.
 */
extern void push_begin(const char *activity, const char *lock_timeout);
extern bool push_no_lock(MemoryContext context);
/* In the first transaction in which anything may be sent */
extern void push_write_begin(CdiPushState *push);
extern void push_write(CdiPushState *push);
/* Is there anything that push_write() would write now? */
extern bool push_write_wanted(const CdiPushState *push);
/* When what is held up is tried again; DT_NOEND: nothing is */
extern TimestampTz push_write_again(const CdiPushState *push);

#endif							/* CDI_PUSH_H */
