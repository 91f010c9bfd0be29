/*
 * interim.c
 *		Stands in for launcher and wake-ups until src/worker has them.
 */
#include "postgres.h"

#include "fmgr.h"

#include "worker/worker.h"

void
cdi_worker_init(void)
{
}

void
cdi_worker_wake_at_commit(int kinds)
{
}

PG_FUNCTION_INFO_V1(cdi_workers_wake);

Datum
cdi_workers_wake(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}
