/*
 * wake.c
 *		How the end of a transaction wakes workers, and how one keeps them away.
 *
 * Wake-ups are sent from a resource release callback, after the transaction's
 * locks are released, and not from a transaction callback, which runs before:
 * the keeper would find the position lock still held, leave the watermark
 * where it is, and nobody would wake it again.  For the same reason the keeper
 * is woken when a transaction aborts, and by COMMIT PREPARED (utility.c).  A
 * transaction that is prepared keeps its locks; its early wake-up is harmless.
 *
 * The callback is registered once, in the postmaster, and inherited.  A
 * wake-up counts in the slot before the latch is set, so a worker that looks
 * at the count cannot miss it, and one that is woken by something else need
 * not do anything.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "worker/slot.h"

#define HOLD_WAIT_MS	30000
#define HOLD_POLL_MS	10
#define MAX_HELD		8		/* a transaction may rename several */

/* What the end of the current transaction has to do. */
static struct
{
	int			kinds;			/* CDI_WAKE_ bits */
	bool		check;			/* cdi may have been dropped here */
	int			nheld;			/* databases kept without workers */
	Oid			held[MAX_HELD];
} at_end;

void
cdi_wake_process(pid_t pid, int procno)
{
	if (pid != 0 && pid != MyProcPid)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

static void
wake_slot(CdiSlot *slot)
{
	if (slot->pid == MyProcPid)
		return;
	pg_atomic_fetch_add_u64(&slot->wakes, 1);
	cdi_wake_process(slot->pid, slot->procno);
}

/* Lock held, in any mode */
static void
wake_kinds(CdiDatabase *database, int kinds)
{
	for (int i = 0; i < database->nslots; i++)
		if (kinds & (1 << cdi_slot_kind(i)))
			wake_slot(&database->slots[i]);
}

/* The launcher reads the catalogs again.  Exclusive lock held. */
static void
wake_launcher(void)
{
	cdi_worker_shared->scan = true;
	cdi_wake_process(cdi_worker_shared->launcher_pid, cdi_worker_shared->launcher_procno);
}

void
cdi_wake_now(int kinds)
{
	CdiDatabase *database;

	if (cdi_worker_shared == NULL)
		return;
	LWLockAcquire(cdi_worker_shared->lock, LW_SHARED);
	database = cdi_slot_database(MyDatabaseId);
	if (database != NULL)
		wake_kinds(database, kinds);
	LWLockRelease(cdi_worker_shared->lock);
}

static void
transaction_end(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	int			kinds = at_end.kinds;
	bool		check = at_end.check && is_commit;
	int			nheld = at_end.nheld;
	CdiDatabase *database;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (kinds == 0 && !at_end.check && nheld == 0)
		return;
	at_end.kinds = 0;
	at_end.check = false;
	at_end.nheld = 0;
	if (!is_commit)
		kinds &= CDI_WAKE_KEEPER;

	LWLockAcquire(cdi_worker_shared->lock,
				  (kinds & CDI_WAKE_LAUNCHER) || check || nheld > 0 ? LW_EXCLUSIVE : LW_SHARED);
	database = OidIsValid(MyDatabaseId) ? cdi_slot_database(MyDatabaseId) : NULL;
	if (database != NULL)
	{
		if (kinds & CDI_WAKE_KEEPER)
		{
			pg_atomic_fetch_add_u64(&database->commits, 1);
			for (int i = CDI_FIRST_COLLECTOR; i < database->nslots; i++)
				if (database->slots[i].parked)
					wake_slot(&database->slots[i]);
		}
		if (check)
		{
			database->checks++;
			kinds |= CDI_WAKE_COLLECTOR | CDI_WAKE_KEEPER | CDI_WAKE_PUSH;
		}
		wake_kinds(database, kinds);
	}
	for (int i = 0; i < nheld; i++)
		if ((database = cdi_slot_database(at_end.held[i])) != NULL)
			database->holds--;
	if (nheld > 0 || (kinds & CDI_WAKE_LAUNCHER))
		wake_launcher();
	LWLockRelease(cdi_worker_shared->lock);
}

void
cdi_wake_init(void)
{
	RegisterResourceReleaseCallback(transaction_end, NULL);
}

void
cdi_worker_wake_at_commit(int kinds)
{
	if (cdi_worker_shared != NULL)
		at_end.kinds |= kinds;
}

void
cdi_wake_check_at_commit(void)
{
	if (cdi_worker_shared != NULL)
		at_end.check = true;
}

void
cdi_wake_hold(Oid oid)
{
	pid_t		pids[CDI_SLOTS] = {0};
	CdiDatabase *database;
	TimestampTz start = GetCurrentTimestamp();
	bool		gone = false;

	if (cdi_worker_shared == NULL)
		return;
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	database = cdi_slot_database(oid);
	if (database != NULL && at_end.nheld < MAX_HELD)
	{
		database->holds++;
		at_end.held[at_end.nheld++] = oid;
		for (int i = 0; i < database->nslots; i++)
		{
			CdiSlot    *slot = &database->slots[i];

			if (slot->pid == 0)
				continue;
			pids[i] = slot->pid;
			slot->state = CDI_SLOT_STOPPING;
			kill(slot->pid, SIGTERM);
		}
	}
	LWLockRelease(cdi_worker_shared->lock);

	/* Gone from the proc array is what CREATE and DROP DATABASE look for. */
	while (!gone && !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), HOLD_WAIT_MS))
	{
		gone = true;
		for (int i = 0; i < CDI_SLOTS; i++)
			if (pids[i] != 0 && BackendPidGetProc(pids[i]) != NULL)
				gone = false;
		if (gone)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 HOLD_POLL_MS, cdi_worker_wait_event());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

PG_FUNCTION_INFO_V1(cdi_workers_wake);

/* For cdi_init() and cdi_drop_data(): settings or storage have changed. */
Datum
cdi_workers_wake(PG_FUNCTION_ARGS)
{
	cdi_worker_wake_at_commit(CDI_WAKE_LAUNCHER | CDI_WAKE_KEEPER | CDI_WAKE_PUSH);
	cdi_wake_check_at_commit();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_workers_stop);

Datum
cdi_workers_stop(PG_FUNCTION_ARGS)
{
	cdi_wake_hold(MyDatabaseId);
	PG_RETURN_VOID();
}
