/*
 * limit.h
 *		Activity and rate limits of sources, one account for all collectors of
 *		a database together.
 *
 * Everything here is in shared memory (limit.c) and costs a few atomic
 * instructions; nothing raises or needs a transaction.  Counts are lost when
 * the server restarts, as those of pg_stat views after a crash; "since" says
 * when they began.
 */
#ifndef CDI_LIMIT_H
#define CDI_LIMIT_H

#include "base/base.h"
#include "ingest/ingest.h"
#include "nodes/pg_list.h"
#include "storage/lwlock.h"

/*
 * May a request of this source come in now?  Returns 0, or the milliseconds
 * after which it should come again (answer 429 with Retry-After).  An
 * admission takes the place of one event.  Once per request: not again when
 * its transaction is tried again, nor for what was parked.
 *
 * A request that is admitted is taken whole, however many events it has;
 * cdi_limit_charge() then puts the source in debt, and it is admitted again
 * when that is paid.
 */
extern int64 cdi_limit_check(const CdiSource *source);

/* The number of events of an admitted request is known.  Once per request. */
extern void cdi_limit_charge(const CdiSource *source, int events);

/*
 * A request whose source is known gets its answer: count it, its status and
 * the bytes of its body as sent.
 */
extern void cdi_limit_answered(int32 source_id, int status, uint64 body_bytes);

/* Retry-After in whole seconds, at least 1, of what cdi_limit_check returned */
extern int	cdi_limit_retry_after(int64 milliseconds);

/* What is counted of one source */
typedef struct CdiActivity
{
	int32		source_id;
	uint64		requests;
	uint64		body_bytes;
	uint64		accepted;		/* answers 2xx and 3xx */
	uint64		refused;		/* other 4xx */
	uint64		rate_limited;	/* 429 */
	uint64		too_large;		/* 413 */
	uint64		unavailable;	/* 5xx */
	TimestampTz last_request_at;
	TimestampTz since;
} CdiActivity;

/* All sources of this database that have had a request; palloc'd. */
extern int	cdi_limit_activity(CdiActivity **activity);

/* Shared memory, called by worker/ */
extern Size cdi_limit_shmem_size(void);
extern void cdi_limit_shmem_create(LWLock *lock);
/* Free what is kept of databases that are not in the list of oids. */
extern void cdi_limit_forget_others(const List *databases);
/* Begin again for this database: its sources have gone. */
extern void cdi_limit_reset(Oid database);

#endif							/* CDI_LIMIT_H */
