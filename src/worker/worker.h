/*
 * worker.h
 *		Launcher, per-database workers, and how a commit wakes them.
 *
 * The state table of the workers is in README.md beside this file.
 */
#ifndef CDI_WORKER_H
#define CDI_WORKER_H

#include "base/base.h"
#include "storage/latch.h"
#include "port/atomics.h"

/*
 * Kinds of worker.  One of each runs per database where cdi.enabled is on; of
 * collectors cdi.collector_workers, and only where cdi.collector_port is set.
 *
 *	collector	takes events over HTTP (collect/)
 *	keeper		advances the watermark, resolves identities, makes partitions,
 *				compacts counters, rotates dedupe generations, makes their filters
 *	push		sends the outbox to destinations (activate/)
 */
typedef enum CdiWorkerKind
{
	CDI_WORKER_COLLECTOR,
	CDI_WORKER_KEEPER,
	CDI_WORKER_PUSH
} CdiWorkerKind;

#define CDI_WORKER_KINDS	3

/* Most collectors of one database; they are numbered from 1. */
#define CDI_MAX_COLLECTORS	64

/* Bits for cdi_worker_wake_at_commit: */
#define CDI_WAKE_COLLECTOR	(1 << CDI_WORKER_COLLECTOR)
#define CDI_WAKE_KEEPER		(1 << CDI_WORKER_KEEPER)
#define CDI_WAKE_PUSH		(1 << CDI_WORKER_PUSH)
#define CDI_WAKE_LAUNCHER	(1 << CDI_WORKER_KINDS)

/* From _PG_init under shared_preload_libraries: shared memory and launcher. */
extern void cdi_worker_init(void);

/*
 * Wake workers of this database when the current transaction has ended and its
 * locks are released.  After a commit all the named ones; after an abort the
 * keeper (what held the watermark back is gone).  With the keeper go the
 * collectors that have parked events: a message id may be free.  Call it before
 * the transaction takes what others may wait for.  Does nothing where the
 * library was not preloaded, and never wakes the caller itself.
 */
extern void cdi_worker_wake_at_commit(int kinds);

/*
 * A collector says whether it holds events whose message id another
 * transaction has.  To miss no wake-up: set it, try once more, then sleep.
 */
extern void cdi_worker_set_parked(bool parked);

/* Entry points of the background workers. */
extern PGDLLEXPORT void cdi_launcher_main(Datum arg);
extern PGDLLEXPORT void cdi_collector_main(Datum arg);
extern PGDLLEXPORT void cdi_keeper_main(Datum arg);
extern PGDLLEXPORT void cdi_push_main(Datum arg);

/*
 * Common start of a per-database worker: signals, slot, connection.  Returns
 * false where cdi has no storage or is not enabled; the worker then ends with
 * proc_exit(0) and is started again only when settings change or cdi_init()
 * asks for it.  Any other end that nobody asked the launcher for is followed by
 * a restart.
 *
 * SIGTERM is die(); a worker that wants to drain first sets its own handler
 * afterwards.
 */
extern bool cdi_worker_start(CdiWorkerKind kind, Datum arg);

/*
 * To be called outside of transactions whenever the worker woke up: handles
 * interrupts, reloads the configuration (returns true then) and ends the
 * process with status 0 where the extension or its storage has gone.
 */
extern bool cdi_worker_interrupts(void);

/*
 * A short transaction of a worker: with snapshot, SPI connected, as the owner
 * of the data, security-restricted, search_path pinned.  The extension is
 * locked against DROP EXTENSION until the end; where it or the storage has
 * gone, cdi_worker_begin ends the process with status 0.  activity, a literal,
 * is what pg_stat_activity shows.  Commit and abort go back to the memory
 * context that was current at begin.
 *
 * In a PG_CATCH block, cdi_worker_catch() logs the error, aborts and clears it;
 * who wants to handle the error copies it, calls cdi_worker_abort() and then
 * FlushErrorState().
 */
extern void cdi_worker_begin(const char *activity);
extern void cdi_worker_commit(void);
extern void cdi_worker_abort(void);
extern void cdi_worker_catch(void);

/*
 * Numbers that a worker shows to its siblings.  They stay where the worker
 * ends and are the next one's to go on from; what they mean only the worker
 * knows.  They are lost when the server restarts.
 */
#define CDI_WORKER_STATS	48

typedef struct CdiWorkerStats
{
	int			number;			/* of the worker among its siblings */
	bool		running;
	uint64		values[CDI_WORKER_STATS];
} CdiWorkerStats;

/* This worker's own; nobody else writes them. */
extern pg_atomic_uint64 *cdi_worker_stats(void);
/* Those of all workers of its kind that have run; palloc'd, by number. */
extern int	cdi_worker_read_stats(CdiWorkerStats **stats);

/*
 * Between these two a collector begins or stops to listen, and no other one of
 * the server does.  The first tells whether a sibling, a collector of the same
 * database, listens at this address and port; the second notes where this one
 * now does, port 0 for nowhere.  Nothing in between may raise.
 */
extern bool cdi_worker_listen_begin(const char *address, int port);
extern void cdi_worker_listen_end(const char *address, int port);

/*
 * The push worker says whether it wants to be woken when the watermark has
 * passed events; the keeper asks after it has moved it.
 */
extern void cdi_worker_watch_events(bool watch);
extern bool cdi_worker_events_watched(void);

/* 1, or of several workers of a kind the one's own */
extern int	cdi_worker_number(void);

/* For WaitEventSetWait and WaitLatch. */
extern uint32 cdi_worker_wait_event(void);

/* Latch, postmaster and, unless it is PGINVALID_SOCKET, something to read. */
extern WaitEventSet *cdi_worker_wait_set(pgsocket socket);

#endif							/* CDI_WORKER_H */
