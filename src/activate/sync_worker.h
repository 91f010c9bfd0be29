/*
 * sync_worker.h
 *		What the push worker tells a process that runs a scheduled sync.
 */
#ifndef CDI_SYNC_WORKER_H
#define CDI_SYNC_WORKER_H

#include "postgres.h"

typedef struct CdiSyncLaunch
{
	Oid			database;
	int32		sync_id;
	int64		seen;			/* what the run follows: a run, or a watermark */
} CdiSyncLaunch;

extern PGDLLEXPORT void cdi_sync_worker_main(Datum arg);

#endif							/* CDI_SYNC_WORKER_H */
