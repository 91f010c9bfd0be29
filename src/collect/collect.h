/*
 * collect.h
 *		The HTTP collector: requests become events, a commit becomes answers.
 *
 *	http.h		the HTTP server; knows nothing of PostgreSQL
 *	collector.c	the worker: its loop, what it listens on, how it ends
 *	group.c		group commit: many requests, one transaction, then the answers
 *	parked.c	events that wait for the transaction of another
 *	request.c	what a request asks for, and who sent it
 *	inflate.c	compressed bodies, with a limit on what they become
 *	limit.c		what each source sends, and how much it may
 *	original.c	requests as they came, where a source wants them kept
 *	dialect.h	the protocols of the SDKs; translate.c is where the pipeline
 *				meets them
 *	metrics.c	/metrics and /health
 */
#ifndef CDI_COLLECT_H
#define CDI_COLLECT_H

#include "base/base.h"
#include "lib/stringinfo.h"

#include "collect/dialect.h"
#include "collect/http.h"
#include "ingest/ingest.h"

/* Events whose message id another transaction holds, and their request. */
typedef struct CdiParked CdiParked;

#define CDI_COMMIT_BUCKETS	10

/* All of the worker's state. */
typedef struct CdiCollector
{
	CdiHttpServer *server;		/* NULL while there is no socket */
	MemoryContext group_context;	/* reset before every group */
	StringInfoData reply;

	/* group.c */
	CdiParked  *parked;			/* list */
	int			nparked;
	bool		woken;			/* a transaction that may have held one ended */
	TimestampTz retry_at;		/* of the parked events, without being woken */
	bool		database_known; /* a transaction has been tried */
	bool		database_ok;	/* the last one committed */
	TimestampTz probed_at;
	int			logged_sqlstate;
	TimestampTz logged_at;

	/* metrics.c */
	TimestampTz started_at;
	uint64		commits;
	uint64		commit_failures;
	uint64		events;			/* in committed groups */
	uint64		parked_total;
	uint64		refused_keys;
	uint64		commit_buckets[CDI_COMMIT_BUCKETS + 1];
	double		commit_seconds;
} CdiCollector;

extern CdiCollector cdi_collector;

/* group.c: takes the complete requests and the parked events that are due,
 * commits them and answers.  Returns false where there was nothing to do. */
extern bool cdi_collect_group(void);
/* Milliseconds until parked events are due; -1 where there are none. */
extern int	cdi_collect_parked_timeout(void);
/* Answer 503 to whatever is still parked or waiting. */
extern void cdi_collect_give_up(void);
/* A transaction that writes and does nothing else. */
extern bool cdi_collect_probe(void);

/* inflate.c */
typedef enum CdiInflateResult
{
	CDI_INFLATE_OK,
	CDI_INFLATE_CORRUPT,
	CDI_INFLATE_TOO_LARGE
} CdiInflateResult;

/*
 * Inflate gzip, zlib or raw deflate data into the current memory context, at
 * most limit bytes.  Whatever the result, *out and *out_len are what came out
 * until then.
 */
extern CdiInflateResult cdi_collect_inflate(const char *data, size_t len, size_t limit,
											char **out, size_t *out_len);

/* metrics.c */
extern void cdi_collect_metrics(StringInfo out);
extern bool cdi_collect_health(StringInfo out);
extern void cdi_collect_time_commit(double seconds);
/* Show the numbers of this collector to its siblings.  Whenever they may have
 * changed, and once before its HTTP server is stopped. */
extern void cdi_collect_publish(void);

#endif							/* CDI_COLLECT_H */
