/*
 * launcher.c
 *		The one static worker: starts the others where they are wanted.
 *
 * It is connected to shared catalogs only and holds no database back.  Which
 * databases want workers is read (wish.c) at start and whenever it may have
 * changed: a reload, cdi_init(), ALTER DATABASE or ALTER ROLE ... SET, the end
 * of a command that kept workers away.  All else is done from shared memory,
 * so an idle launcher executes no statement; its safety timer reads that, too.
 *
 * Workers are dynamic and never restarted by the postmaster.  The launcher
 * restarts them itself, later after every failure in a row, and forgets all of
 * them when the server restarts after a crash, as the postmaster does.  It
 * holds no lock while it sleeps and leaves nothing behind but its slots.
 */
#include "postgres.h"

#include <signal.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "collect/limit.h"
#include "ingest/cookieless.h"
#include "worker/slot.h"

#define SAFETY_SECONDS			60
#define RESTART_SECONDS			5
#define NO_SLOT_RETRY_SECONDS	60

static struct
{
	BackgroundWorkerHandle **handles;	/* by number of slot */
	bool		short_of_slots; /* said so already */
	bool		short_of_entries;
} launcher;

static void
register_launcher(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "cdi", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cdi_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "cdi launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "cdi launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request_shared_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	cdi_slot_request();
}

static void
create_shared_memory(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	cdi_slot_create();
}

void
cdi_worker_init(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_shared_memory;
	cdi_wake_init();
	cdi_utility_init();
	register_launcher();
}

/*
 * What a reload may change for collectors that are running: where to listen is
 * decided when they start.
 */
static uint32
listen_settings(void)
{
	uint32		hash = hash_bytes_uint32((uint32) cdi_collector_port);

	if (cdi_collector_address != NULL)
		hash = hash_combine(hash, hash_bytes((const unsigned char *) cdi_collector_address,
											 strlen(cdi_collector_address)));
	return hash;
}

static bool
slot_wanted(const CdiWish *wish, int slot)
{
	return cdi_slot_kind(slot) != CDI_WORKER_COLLECTOR ||
		(wish->port > 0 && cdi_slot_number(slot) <= wish->collectors);
}

/* Entry of a database, a new one if need be; NULL where none is free. */
static CdiDatabase *
find_or_add(const CdiWish *wish)
{
	CdiDatabase *database = cdi_slot_database(wish->oid);

	if (database == NULL)
	{
		database = cdi_slot_database(InvalidOid);
		if (database == NULL)
			return NULL;
		database->oid = wish->oid;
		database->holds = 0;
		database->nslots = CDI_FIRST_COLLECTOR;
		for (int i = 0; i < CDI_SLOTS; i++)
		{
			CdiSlot    *slot = &database->slots[i];

			slot->state = CDI_SLOT_OFF;
			slot->failures = 0;
			slot->error.message[0] = '\0';
			slot->has_stats = false;
			for (int k = 0; k < CDI_WORKER_STATS; k++)
				pg_atomic_write_u64(&slot->stats[k], 0);
		}
	}
	database->name = wish->name;
	return database;
}

/* Read what databases want and note it in their slots. */
static void
scan_databases(void)
{
	List	   *databases = NIL;
	List	   *wishes = cdi_wish_read(&databases);
	TimestampTz now = GetCurrentTimestamp();
	uint32		listen = listen_settings();
	bool		complete = true;
	ListCell   *cell;

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdi_worker_shared->ndatabases; i++)
		for (int k = 0; k < CDI_SLOTS; k++)
			cdi_worker_shared->databases[i].slots[k].wanted = false;
	foreach(cell, wishes)
	{
		CdiWish    *wish = lfirst(cell);
		CdiDatabase *database = find_or_add(wish);

		if (database == NULL)
		{
			complete = false;
			continue;
		}
		for (int i = 0; i < CDI_SLOTS; i++)
		{
			CdiSlot    *slot = &database->slots[i];

			slot->wanted = slot_wanted(wish, i);
			slot->settings = wish->settings;
			if (cdi_slot_kind(i) == CDI_WORKER_COLLECTOR)
				slot->settings = hash_combine(slot->settings, listen);
			if (slot->wanted)
				database->nslots = Max(database->nslots, i + 1);
			/* Whatever kept it away may have changed: try at once. */
			if (slot->wanted && (slot->state == CDI_SLOT_OFF || slot->state == CDI_SLOT_WAITING))
			{
				slot->state = CDI_SLOT_WAITING;
				slot->retry_at = now;
			}
		}
	}
	LWLockRelease(cdi_worker_shared->lock);
	cdi_limit_forget_others(databases);
	list_free_deep(wishes);
	list_free(databases);

	if (!complete && !launcher.short_of_entries)
		ereport(LOG,
				(errmsg("more databases want cdi workers than the server can run"),
				 errhint("Increase max_worker_processes; every such database needs two, and cdi.collector_workers more.")));
	launcher.short_of_entries = !complete;
}

/* "cdi keeper (shop)", "cdi collector 2 (shop)" */
static void
name_worker(BackgroundWorker *worker, const CdiDatabase *database, int index)
{
	char		number[16] = "";

	if (cdi_slot_number(index) > 1)
		snprintf(number, sizeof(number), " %d", cdi_slot_number(index));
	snprintf(worker->bgw_name, BGW_MAXLEN, "cdi %s%s (%s)",
			 cdi_worker_names[cdi_slot_kind(index)], number, NameStr(database->name));
}

/* The worker of slot number index, whose id over all databases is id */
static void
launch(CdiDatabase *database, int index, int id)
{
	CdiSlot    *slot = &database->slots[index];
	const char *kind = cdi_worker_names[cdi_slot_kind(index)];
	BackgroundWorker worker = {0};
	CdiLaunch	extra;

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	if (slot->state != CDI_SLOT_WAITING || !slot->wanted || database->holds > 0)
	{
		LWLockRelease(cdi_worker_shared->lock);
		return;
	}
	slot->state = CDI_SLOT_STARTING;
	slot->started_at = GetCurrentTimestamp();
	slot->launched_settings = slot->settings;
	extra.launch = ++slot->launch;
	extra.database = database->oid;
	name_worker(&worker, database, index);
	LWLockRelease(cdi_worker_shared->lock);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
#ifdef BGWORKER_INTERRUPTIBLE
	worker.bgw_flags |= BGWORKER_INTERRUPTIBLE;
#endif
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "cdi", BGW_MAXLEN);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "cdi_%s_main", kind);
	snprintf(worker.bgw_type, BGW_MAXLEN, "cdi %s", kind);
	worker.bgw_main_arg = Int32GetDatum(id);
	memcpy(worker.bgw_extra, &extra, sizeof(extra));
	worker.bgw_notify_pid = MyProcPid;

	if (RegisterDynamicBackgroundWorker(&worker, &launcher.handles[id]))
	{
		launcher.short_of_slots = false;
		return;
	}
	launcher.handles[id] = NULL;
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	slot->state = CDI_SLOT_WAITING;
	slot->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 NO_SLOT_RETRY_SECONDS * 1000);
	LWLockRelease(cdi_worker_shared->lock);
	if (!launcher.short_of_slots)
		ereport(LOG,
				(errmsg("out of background worker slots: could not start \"%s\"", worker.bgw_name),
				 errhint("Increase max_worker_processes; every database with cdi needs two, and cdi.collector_workers more.")));
	launcher.short_of_slots = true;
}

/*
 * The postmaster has done away with a worker, or it never came to life.  What
 * it says about its own end is in the slot already, unless it never attached.
 */
static void
worker_gone(CdiSlot *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	if (slot->state == CDI_SLOT_STARTING)
	{
		SpinLockAcquire(&slot->error.mutex);
		strlcpy(slot->error.message, "the process ended before it had started; see the server's log",
				CDI_ERROR_LEN);
		SpinLockRelease(&slot->error.mutex);
		slot->retry_at = TimestampTzPlusMilliseconds(now, 1000 * (1 << Min(slot->failures, 8)));
		slot->failures++;
		slot->state = CDI_SLOT_WAITING;
	}
	else if (slot->state == CDI_SLOT_STOPPING && slot->pid == 0)
	{
		slot->state = slot->wanted ? CDI_SLOT_WAITING : CDI_SLOT_OFF;
		slot->retry_at = now;
	}
	LWLockRelease(cdi_worker_shared->lock);
}

/* Ask a worker to end that is not wanted, or not with these settings. */
static void
stop_unwanted(CdiSlot *slot, int id)
{
	bool		never_attached = false;

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	if ((slot->state == CDI_SLOT_RUNNING || slot->state == CDI_SLOT_STARTING) &&
		(!slot->wanted || slot->settings != slot->launched_settings))
	{
		slot->state = CDI_SLOT_STOPPING;
		if (slot->pid != 0)
			kill(slot->pid, SIGTERM);
		else
			never_attached = true;
	}
	LWLockRelease(cdi_worker_shared->lock);
	if (never_attached && launcher.handles[id] != NULL)
		TerminateBackgroundWorker(launcher.handles[id]);
}

/*
 * Bring slots and processes together, from shared memory alone.  Returns the
 * time in milliseconds until a slot wants to be looked at again.
 */
static long
reconcile(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now, SAFETY_SECONDS * 1000);

	for (int i = 0; i < cdi_worker_shared->ndatabases; i++)
	{
		CdiDatabase *database = &cdi_worker_shared->databases[i];
		bool		used = false;

		/* Only this process gives out and takes back entries. */
		if (!OidIsValid(database->oid))
			continue;
		for (int k = 0; k < database->nslots; k++)
		{
			CdiSlot    *slot = &database->slots[k];
			int			id = CDI_SLOT_ID(i, k);
			pid_t		pid;

			if (launcher.handles[id] != NULL &&
				GetBackgroundWorkerPid(launcher.handles[id], &pid) == BGWH_STOPPED)
			{
				pfree(launcher.handles[id]);
				launcher.handles[id] = NULL;
				worker_gone(slot);
			}
			stop_unwanted(slot, id);
			if (slot->state == CDI_SLOT_WAITING && slot->wanted && database->holds == 0 &&
				launcher.handles[id] == NULL)
			{
				if (slot->retry_at <= now)
					launch(database, k, id);
				if (slot->state == CDI_SLOT_WAITING)
					next = Min(next, Max(slot->retry_at, now));
			}
			if (slot->wanted || slot->pid != 0 || launcher.handles[id] != NULL)
				used = true;
		}
		if (!used)
		{
			LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
			if (database->holds == 0)
				database->oid = InvalidOid;
			LWLockRelease(cdi_worker_shared->lock);
		}
	}
	return TimestampDifferenceMilliseconds(now, next);
}

/* Launches of an earlier launcher that have not attached shall not do so. */
static void
disown_launches(void)
{
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdi_worker_shared->ndatabases; i++)
		for (int k = 0; k < CDI_SLOTS; k++)
		{
			CdiSlot    *slot = &cdi_worker_shared->databases[i].slots[k];

			if (slot->pid == 0 && slot->state != CDI_SLOT_OFF)
			{
				slot->launch++;
				slot->state = CDI_SLOT_WAITING;
				slot->retry_at = GetCurrentTimestamp();
			}
		}
	LWLockRelease(cdi_worker_shared->lock);
}

void
cdi_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	cdi_slot_attach_launcher();
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("cdi launcher");

	launcher.handles = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(BackgroundWorkerHandle *) *
											  CDI_SLOT_ID(cdi_worker_shared->ndatabases, 0));
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "cdi launcher",
												ALLOCSET_DEFAULT_SIZES));
	disown_launches();

	for (;;)
	{
		bool		scan;
		long		timeout;

		LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
		scan = cdi_worker_shared->scan;
		cdi_worker_shared->scan = false;
		LWLockRelease(cdi_worker_shared->lock);
		if (scan)
			scan_databases();
		timeout = reconcile();
		cdi_cookieless_end_day();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, cdi_worker_wait_event());
		ResetLatch(MyLatch);
		QueryCancelPending = false; /* there is nothing to cancel */
		CHECK_FOR_INTERRUPTS();
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
			cdi_worker_shared->scan = true;
			LWLockRelease(cdi_worker_shared->lock);
		}
	}
}
