/*
 * module.c
 *		Entry point of the library.
 *
 * Loaded through shared_preload_libraries it registers the launcher and its
 * shared memory; loaded by the first call of a function it only defines the
 * settings, and every SQL function works without workers.
 */
#include "base/base.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/secret.h"
#include "behaviour/behaviour.h"
#include "ingest/ingest.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	cdi_guc_define();
	cdi_secret_init();
	cdi_ingest_init();
	cdi_people_plan_init();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		cdi_worker_init();
}
