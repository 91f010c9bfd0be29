/*
 * worker.c
 *		What all per-database workers have in common.
 *
 * A worker connects as the bootstrap superuser, because only inside the
 * database it can learn who owns cdi, and does everything else as that owner:
 * each of its transactions switches to it before any SQL runs.
 *
 * The extension object is locked in each transaction, so DROP EXTENSION waits
 * for one short transaction and the next one finds cdi gone and ends the
 * process with status 0.  DROP EXTENSION takes that lock first, too, and the
 * tables later: no deadlock.  Between transactions a worker holds no lock, no
 * snapshot and no pin.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "collect/limit.h"
#include "worker/slot.h"

typedef struct CdiWorkerState
{
	CdiDatabase *database;
	CdiSlot    *slot;
	int			index;			/* of the slot in its database */
	uint32		checks;			/* of the database, when last looked */
	Oid			extension;
	Oid			schema;
	CdiOwnerScope scope;
	MemoryContext context;		/* to go back to */
} CdiWorkerState;

static CdiWorkerState worker;

uint32
cdi_worker_wait_event(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("CdiWorker");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

WaitEventSet *
cdi_worker_wait_set(pgsocket socket)
{
#if PG_VERSION_NUM >= 170000
	WaitEventSet *set = CreateWaitEventSet(NULL, 3);
#else
	WaitEventSet *set = CreateWaitEventSet(TopMemoryContext, 3);
#endif

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (socket != PGINVALID_SOCKET)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, socket, NULL, NULL);
	return set;
}

/*
 * Lock the extension against being dropped; false where it, or the storage,
 * is not there, or is another one than this process started with.
 */
static bool
lock_extension(void)
{
	if (!OidIsValid(worker.extension))
		return false;
	LockDatabaseObject(ExtensionRelationId, worker.extension, 0, AccessShareLock);
	return get_namespace_oid("cdi", true) == worker.schema &&
		OidIsValid(cdi_relation_oid("storage"));
}

static bool
storage_ready(void)
{
	bool		ready;

	StartTransactionCommand();
	worker.extension = get_extension_oid("cdi", true);
	worker.schema = get_namespace_oid("cdi", true);
	ready = cdi_enabled && lock_extension();
	if (ready)
	{
		/* A restore makes the table first and fills it later. */
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		cdi_owner_enter(&worker.scope);
		ready = SPI_execute("SELECT FROM cdi.storage", true, 1) == SPI_OK_SELECT &&
			SPI_processed == 1;
		cdi_owner_leave(&worker.scope);
		SPI_finish();
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	return ready;
}

CdiDatabase *
cdi_worker_database(void)
{
	return worker.database;
}

CdiSlot *
cdi_worker_slot(void)
{
	return worker.slot;
}

int
cdi_worker_number(void)
{
	return cdi_slot_number(worker.index);
}

static uint32
read_checks(void)
{
	uint32		checks;

	LWLockAcquire(cdi_worker_shared->lock, LW_SHARED);
	checks = worker.database->checks;
	LWLockRelease(cdi_worker_shared->lock);
	return checks;
}

bool
cdi_worker_start(CdiWorkerKind kind, Datum arg)
{
	MemoryContext caller = CurrentMemoryContext;
	CdiLaunch	launch;
	char		name[NAMEDATALEN];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	memcpy(&launch, MyBgworkerEntry->bgw_extra, sizeof(launch));
	if (!cdi_slot_attach(DatumGetInt32(arg), &launch, &worker.database, &worker.slot))
		return false;
	worker.index = worker.slot - worker.database->slots;
	Assert(cdi_slot_kind(worker.index) == kind);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(launch.database, InvalidOid, 0);

	if (cdi_worker_number() == 1)
		snprintf(name, sizeof(name), "cdi %s", cdi_worker_names[kind]);
	else
		snprintf(name, sizeof(name), "cdi %s %d", cdi_worker_names[kind], cdi_worker_number());
	pgstat_report_appname(name);
	worker.checks = read_checks();
	pgstat_report_activity(STATE_RUNNING, "cdi: look for storage");
	if (!storage_ready())
	{
		worker.slot->done = true;
		return false;
	}
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(caller);
	return true;
}

/* Costs a look at shared memory where nobody has dropped anything. */
static void
check_storage(void)
{
	uint32		checks = read_checks();

	if (checks == worker.checks)
		return;
	worker.checks = checks;
	cdi_worker_begin("cdi: look for storage");
	cdi_worker_commit();
}

bool
cdi_worker_interrupts(void)
{
	/* pg_cancel_backend() has nothing to cancel between transactions. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	check_storage();
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

void
cdi_worker_begin(const char *activity)
{
	worker.context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, activity);
	StartTransactionCommand();
	if (!lock_extension())
	{
		CommitTransactionCommand();
		cdi_limit_reset(MyDatabaseId);
		worker.slot->done = true;
		proc_exit(0);
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	cdi_owner_enter(&worker.scope);
}

static void
go_idle(void)
{
	MemoryContextSwitchTo(worker.context);
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
cdi_worker_commit(void)
{
	cdi_owner_leave(&worker.scope);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	go_idle();
}

void
cdi_worker_abort(void)
{
	AbortCurrentTransaction();
	go_idle();
}

void
cdi_worker_catch(void)
{
	HOLD_INTERRUPTS();
	EmitErrorReport();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(worker.context);
	FlushErrorState();
	RESUME_INTERRUPTS();
	go_idle();
}

/*
 * What collectors of one database tell each other
 */
void
cdi_worker_set_parked(bool parked)
{
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	worker.slot->parked = parked;
	LWLockRelease(cdi_worker_shared->lock);
}

pg_atomic_uint64 *
cdi_worker_stats(void)
{
	worker.slot->has_stats = true;
	return worker.slot->stats;
}

int
cdi_worker_read_stats(CdiWorkerStats **stats)
{
	CdiWorkerKind kind = cdi_slot_kind(worker.index);
	int			n = 0;

	*stats = palloc(sizeof(CdiWorkerStats) * worker.database->nslots);
	for (int i = 0; i < worker.database->nslots; i++)
	{
		CdiSlot    *slot = &worker.database->slots[i];
		CdiWorkerStats *one = &(*stats)[n];

		if (cdi_slot_kind(i) != kind || !slot->has_stats)
			continue;
		one->number = cdi_slot_number(i);
		one->running = slot->pid != 0;
		for (int k = 0; k < CDI_WORKER_STATS; k++)
			one->values[k] = pg_atomic_read_u64(&slot->stats[k]);
		n++;
	}
	return n;
}

static uint32
address_hash(const char *address)
{
	return hash_bytes((const unsigned char *) address, strlen(address));
}

bool
cdi_worker_listen_begin(const char *address, int port)
{
	uint32		hash = address_hash(address);
	CdiSlot    *slot = worker.slot;

	LWLockAcquire(cdi_worker_shared->listen_lock, LW_EXCLUSIVE);
	for (int i = CDI_FIRST_COLLECTOR; i < CDI_SLOTS; i++)
	{
		CdiSlot    *sibling = &worker.database->slots[i];

		if (sibling != slot && sibling->listen_port == port && sibling->listen_address == hash)
			return true;
	}
	return false;
}

void
cdi_worker_listen_end(const char *address, int port)
{
	worker.slot->listen_address = address_hash(address);
	worker.slot->listen_port = port;
	LWLockRelease(cdi_worker_shared->listen_lock);
}

void
cdi_worker_watch_events(bool watch)
{
	pg_atomic_write_u32(&worker.database->watch, watch);
}

bool
cdi_worker_events_watched(void)
{
	return pg_atomic_read_u32(&worker.database->watch) != 0;
}
