/*
 * push.h
 *		Queues of the push worker; private to push*.c.
 *
 *	destination		one per row of cdi.destinations that has syncs: how it is
 *					doing, and how much it may be sent at a time
 *	  lane			one per sync: its part of the outbox that is in memory
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

#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

/* Of a lane in memory: more is read when half of it is left. */
#define CDI_LANE_ROWS 2000
#define CDI_LANE_BYTES (8 * 1024 * 1024)

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
	int			failures;		/* in a row; nothing else came through */
	TimestampTz resume_at;		/* sent nothing before */
	char	   *reason;			/* why it pauses; NULL: it does not */
	dlist_head	lanes;
} PushDestination;

typedef struct PushLane
{
	dlist_node	node;			/* in destination->lanes, next in turn first */
	PushDestination *destination;
	int32		sync_id;
	char	   *action_name;
	json_t	   *action;			/* NULL until compiled, or unknown */
	CdiBatchLimits limits;
	bool		enabled;
	bool		latest_only;	/* a newer row of a key takes the place of one that failed */
	bool		seen;
	bool		more;			/* the outbox may have more rows than were read */
	int64		cursor;			/* as recorded */
	int64		read;			/* position up to which rows were read */
	MemoryContext context;
	HTAB	   *keys;			/* rows of each key that have not ended */
	dlist_head	rows;			/* not recorded as ended, by position */
	dlist_head	pending;		/* those that no request has */
	dlist_head	waiting;		/* requests, by the time they are due */
	int			nrows;
	int64		bytes;
	int			inflight;
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
	PushLane   *lane;
	int64		position;
	int64		run_id;
	uint64		key_hash;
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

/* What the next transaction writes */
typedef struct PushRecord
{
	MemoryContext context;
	HTAB	   *counts;			/* PushCounts by run_id, or NULL: none */
	dlist_head	deliveries;
	dlist_head	ended;			/* rows */
	int			ndeliveries;
	int			nended;
} PushRecord;

typedef struct CdiPushState
{
	MemoryContext context;
	MemoryContext scratch;		/* reset in every round of the loop */
	CdiHttp    *http;
	dlist_head	destinations;
	PushRecord	record;
	CdiArmed	armed;
	bool		warned;			/* that this is a copy */
	int			inflight;
} CdiPushState;

/* push_queue.c */
extern PushLane *push_lane_create(CdiPushState *push, PushDestination *destination, int32 sync_id);
extern void push_lane_reset(PushLane *lane, int64 cursor);
extern void push_lane_drop(PushLane *lane);
extern PushRow *push_row_add(PushLane *lane, int64 position, int64 run_id, const char *operation,
							 const char *primary_key, const char *key, Jsonb *payload);
extern bool push_row_first_of_key(PushRow *row);
extern void push_row_end(CdiPushState *push, PushRow *row, PushEnd end, const char *class, int status,
						 int attempts, const char *error);
/* The row was sent: it was accepted, has failed for good, or will be sent again. */
extern void push_row_count(CdiPushState *push, const PushRow *row);
extern void push_row_forget(PushRow *row);
extern PushRequest *push_request_create(PushLane *lane, PushRow **rows, int nrows, int attempts, TimestampTz due);
extern void push_request_wait(PushRequest *request, TimestampTz due);
extern void push_request_free(PushRequest *request);
extern void push_delivery_add(CdiPushState *push, const PushRequest *request, int accepted,
							  const CdiAnswer *answer, const char *class, const char *error);
/* One row of a request that was not accepted; or, answer NULL, that cannot be sent */
extern void push_delivery_add_record(CdiPushState *push, const PushRow *row, int attempt, const CdiAnswer *answer,
									 const char *class, const char *error);
/* Ends rows that a newer one of their key takes the place of; how many are left */
extern int	push_request_supersede(CdiPushState *push, PushRequest *request);
extern void push_record_reset(CdiPushState *push);

/* push_health.c: when a destination may be sent something */
extern TimestampTz push_later(int64 milliseconds);
extern int64 push_backoff(int attempt);
extern void push_pause(PushDestination *destination, int64 milliseconds);
/* The destination's settings are at fault: no row is, so none pays for it. */
extern void push_pause_for_settings(PushDestination *destination, int sqlstate, const char *error);
extern void push_clear_reason(PushDestination *destination);
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

extern void push_request_done(CdiPushState *push, PushRequest *request);
extern void push_request_restart(PushRequest *request);

/* push_token.c: true where the destination needs none, or has it */
extern bool push_token_ready(CdiPushState *push, PushDestination *destination);
extern void push_token_take(CdiPushState *push, PushRequest *request, const CdiAnswer *answer);
/* Forget the token: the next request waits for another. */
extern void push_token_drop(PushDestination *destination);

/* push_schedule.c */
extern void push_schedule_init(CdiPushState *push);
extern void push_schedule_stale(void);
/* In a transaction */
extern void push_schedule_read(CdiPushState *push);
/* Starts what is due; true where schedules are to be read first. */
extern bool push_schedule_run(CdiPushState *push);
/* When something is due next; DT_NOEND: not before something happens */
extern TimestampTz push_schedule_due(const CdiPushState *push);

/* push_store.c: each one short transaction */
extern void push_read(CdiPushState *push);
/* Takes over changed destinations, each once nothing of it is in flight. */
extern void push_compile(CdiPushState *push);

/* push_write.c */
extern void push_write(CdiPushState *push);

#endif							/* CDI_PUSH_H */
