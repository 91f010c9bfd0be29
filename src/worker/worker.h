/*
 * worker.h
 *		Launcher, per-database workers, and how a commit wakes them.
 *
 * The state table of the workers is in README.md beside this file.
 */
#ifndef CDI_WORKER_H
#define CDI_WORKER_H

#include "base/base.h"

/*
 * Kinds of worker.  One of each runs per database where cdi.enabled is on.
 *
 *	collector	takes events over HTTP (collect/)
 *	keeper		advances the watermark, resolves identities, makes partitions,
 *				compacts counters, rotates dedupe generations
 *	push		sends the outbox to destinations (activate/)
 */
typedef enum CdiWorkerKind
{
	CDI_WORKER_COLLECTOR,
	CDI_WORKER_KEEPER,
	CDI_WORKER_PUSH
} CdiWorkerKind;

#define CDI_WORKER_KINDS	3

/* Bits for cdi_worker_wake_at_commit: */
#define CDI_WAKE_COLLECTOR	(1 << CDI_WORKER_COLLECTOR)
#define CDI_WAKE_KEEPER		(1 << CDI_WORKER_KEEPER)
#define CDI_WAKE_PUSH		(1 << CDI_WORKER_PUSH)
#define CDI_WAKE_LAUNCHER	(1 << CDI_WORKER_KINDS)

/* From _PG_init under shared_preload_libraries: shared memory and launcher. */
extern void cdi_worker_init(void);

/*
 * Wake workers of this database when the current transaction commits (for
 * CDI_WAKE_COLLECTOR also when it aborts: a parked message id may be free).
 * Does nothing where the library was not preloaded.
 */
extern void cdi_worker_wake_at_commit(int kinds);

/* Entry points of the background workers. */
extern PGDLLEXPORT void cdi_launcher_main(Datum arg);
extern PGDLLEXPORT void cdi_collector_main(Datum arg);
extern PGDLLEXPORT void cdi_keeper_main(Datum arg);
extern PGDLLEXPORT void cdi_push_main(Datum arg);

/*
 * Common start of a per-database worker: signals, slot, connection as the
 * owner of the data.  Returns false where cdi is not installed or not enabled
 * there; the worker then ends with proc_exit(0).
 */
extern bool cdi_worker_start(CdiWorkerKind kind, Datum arg);

/* A short transaction of a worker, with snapshot, SPI and statistics. */
extern void cdi_worker_begin(const char *activity);
extern void cdi_worker_commit(void);
extern void cdi_worker_abort(void);

#endif							/* CDI_WORKER_H */
