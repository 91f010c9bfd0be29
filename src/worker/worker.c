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

#include "worker/slot.h"

typedef struct CdiWorkerState
{
	CdiDatabase *database;
	CdiSlot    *slot;
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
	Assert(worker.slot == &worker.database->slots[kind]);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(launch.database, InvalidOid, 0);

	snprintf(name, sizeof(name), "cdi %s", cdi_worker_names[kind]);
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

void
cdi_worker_check_storage(void)
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
	cdi_worker_check_storage();
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
