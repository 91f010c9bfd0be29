/*
 * slot.c
 *		Who runs where: the shared memory of launcher and workers.
 *
 * The launcher decides which slots are wanted and launches workers for them; a
 * worker attaches to its slot before it connects and detaches in
 * before_shmem_exit, after its transaction has ended.  Whatever way it ends
 * short of a crash, its slot says so; after a crash the postmaster makes
 * shared memory anew and the launcher, which it restarts, starts from nothing.
 *
 * A launch has a number.  A worker that was launched by a launcher that has
 * since been replaced, or that comes late, finds another number in its slot
 * and leaves, so no slot ever has two workers.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "collect/limit.h"
#include "ingest/cookieless.h"
#include "worker/slot.h"

/* Running for this long ends a row of failures. */
#define STABLE_SECONDS		60
#define RETRY_LIMIT_SECONDS	300

CdiWorkerShared *cdi_worker_shared = NULL;

const char *const cdi_worker_names[CDI_WORKER_KINDS] = {"collector", "keeper", "push"};

static CdiLastError *recorded_error = NULL;
static emit_log_hook_type previous_log_hook = NULL;

/* One entry per database with workers; more cannot run in any case. */
static int
max_databases(void)
{
	return Max(max_worker_processes, 1);
}

static Size
shared_size(void)
{
	return add_size(offsetof(CdiWorkerShared, databases),
					mul_size(max_databases(), sizeof(CdiDatabase)));
}

static void
init_slot(CdiSlot *slot)
{
	pg_atomic_init_u64(&slot->wakes, 0);
	SpinLockInit(&slot->error.mutex);
	for (int i = 0; i < CDI_WORKER_STATS; i++)
		pg_atomic_init_u64(&slot->stats[i], 0);
}

void
cdi_slot_request(void)
{
	RequestAddinShmemSpace(add_size(shared_size(), add_size(cdi_limit_shmem_size(),
															cdi_cookieless_shmem_size())));
	RequestNamedLWLockTranche("cdi", CDI_LOCKS);
}

void
cdi_slot_create(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche("cdi");
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cdi_worker_shared = ShmemInitStruct("cdi workers", shared_size(), &found);
	if (!found)
	{
		memset(cdi_worker_shared, 0, shared_size());
		cdi_worker_shared->lock = &locks[CDI_LOCK_WORKERS].lock;
		cdi_worker_shared->listen_lock = &locks[CDI_LOCK_LISTEN].lock;
		cdi_worker_shared->ndatabases = max_databases();
		SpinLockInit(&cdi_worker_shared->launcher_error.mutex);
		for (int i = 0; i < cdi_worker_shared->ndatabases; i++)
		{
			CdiDatabase *database = &cdi_worker_shared->databases[i];

			pg_atomic_init_u64(&database->commits, 0);
			pg_atomic_init_u32(&database->watch, 0);
			for (int k = 0; k < CDI_SLOTS; k++)
				init_slot(&database->slots[k]);
			for (int k = 0; k < CDI_PUSH_INFLIGHT; k++)
			{
				pg_atomic_init_u32(&database->in_flight[k].destination_id, 0);
				pg_atomic_init_u64(&database->in_flight[k].counts, 0);
			}
		}
	}
	cdi_limit_shmem_create(&locks[CDI_LOCK_LIMIT].lock);
	cdi_cookieless_shmem_create(&locks[CDI_LOCK_COOKIELESS].lock);
	LWLockRelease(AddinShmemInitLock);
}

CdiDatabase *
cdi_slot_database(Oid oid)
{
	for (int i = 0; i < cdi_worker_shared->ndatabases; i++)
		if (cdi_worker_shared->databases[i].oid == oid)
			return &cdi_worker_shared->databases[i];
	return NULL;
}

static int
my_procno(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

static void
record_error(ErrorData *error)
{
	if (error->elevel >= ERROR && error->message != NULL)
	{
		int			len = pg_mbcliplen(error->message, strlen(error->message), CDI_ERROR_LEN - 1);
		TimestampTz now = GetCurrentTimestamp();

		SpinLockAcquire(&recorded_error->mutex);
		memcpy(recorded_error->message, error->message, len);
		recorded_error->message[len] = '\0';
		recorded_error->at = now;
		SpinLockRelease(&recorded_error->mutex);
	}
	if (previous_log_hook)
		previous_log_hook(error);
}

/* From now on, keep this process's last logged error where others see it. */
static void
keep_errors(CdiLastError *error)
{
	recorded_error = error;
	previous_log_hook = emit_log_hook;
	emit_log_hook = record_error;
}

static void
detach(int code, Datum arg)
{
	CdiSlot    *slot = (CdiSlot *) DatumGetPointer(arg);
	TimestampTz now = GetCurrentTimestamp();

	/* Its socket, if there is one, is closed by the end of the process. */
	LWLockAcquire(cdi_worker_shared->listen_lock, LW_EXCLUSIVE);
	slot->listen_port = 0;
	LWLockRelease(cdi_worker_shared->listen_lock);

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	slot->pid = 0;
	slot->parked = false;
	if (slot->state == CDI_SLOT_STOPPING)
	{
		slot->state = slot->wanted ? CDI_SLOT_WAITING : CDI_SLOT_OFF;
		slot->retry_at = now;
	}
	else if (slot->done)
	{
		slot->state = CDI_SLOT_OFF;
		slot->failures = 0;
	}
	else
	{
		/* Whatever the exit status: somebody may have asked it to drain. */
		if (TimestampDifferenceExceeds(slot->started_at, now, STABLE_SECONDS * 1000))
			slot->failures = 0;
		slot->state = CDI_SLOT_WAITING;
		slot->retry_at = TimestampTzPlusMilliseconds(now, 1000 *
													 Min(1 << Min(slot->failures, 16), RETRY_LIMIT_SECONDS));
		slot->failures++;
	}
	cdi_wake_process(cdi_worker_shared->launcher_pid, cdi_worker_shared->launcher_procno);
	LWLockRelease(cdi_worker_shared->lock);
}

/*
 * Take the slot that the launcher has prepared; false where it has changed its
 * mind.
 */
bool
cdi_slot_attach(int id, const CdiLaunch *launch, CdiDatabase **database, CdiSlot **slot)
{
	bool		taken = false;

	if (cdi_worker_shared == NULL || id < 0 ||
		id >= CDI_SLOT_ID(cdi_worker_shared->ndatabases, 0))
		return false;
	*database = &cdi_worker_shared->databases[id / CDI_SLOTS];
	*slot = &(*database)->slots[id % CDI_SLOTS];

	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	if ((*database)->oid == launch->database && (*slot)->launch == launch->launch &&
		(*slot)->state == CDI_SLOT_STARTING && (*database)->holds == 0)
	{
		(*slot)->state = CDI_SLOT_RUNNING;
		(*slot)->done = false;
		(*slot)->pid = MyProcPid;
		(*slot)->procno = my_procno();
		(*slot)->started_at = GetCurrentTimestamp();
		taken = true;
	}
	LWLockRelease(cdi_worker_shared->lock);
	if (taken)
	{
		before_shmem_exit(detach, PointerGetDatum(*slot));
		keep_errors(&(*slot)->error);
	}
	return taken;
}

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	cdi_worker_shared->launcher_pid = 0;
	LWLockRelease(cdi_worker_shared->lock);
}

void
cdi_slot_attach_launcher(void)
{
	LWLockAcquire(cdi_worker_shared->lock, LW_EXCLUSIVE);
	cdi_worker_shared->launcher_pid = MyProcPid;
	cdi_worker_shared->launcher_procno = my_procno();
	cdi_worker_shared->launcher_started_at = GetCurrentTimestamp();
	cdi_worker_shared->scan = true;
	LWLockRelease(cdi_worker_shared->lock);
	before_shmem_exit(detach_launcher, (Datum) 0);
	keep_errors(&cdi_worker_shared->launcher_error);
}

static Datum
error_text(CdiLastError *error, bool *null)
{
	char		message[CDI_ERROR_LEN];

	SpinLockAcquire(&error->mutex);
	memcpy(message, error->message, CDI_ERROR_LEN);
	SpinLockRelease(&error->mutex);

	/* The launcher's messages may be in another database's encoding. */
	*null = message[0] == '\0' || !pg_verifymbstr(message, strlen(message), true);
	return *null ? (Datum) 0 : CStringGetTextDatum(message);
}

PG_FUNCTION_INFO_V1(cdi_workers);

/* The launcher and the workers of this database */
Datum
cdi_workers(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"off", "waiting", "starting", "running", "stopping"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiDatabase *database = palloc(sizeof(CdiDatabase));
	Datum		values[9] = {0};
	bool		nulls[9];
	pid_t		launcher;
	TimestampTz launcher_started_at;
	bool		found;

	InitMaterializedSRF(fcinfo, 0);
	if (cdi_worker_shared == NULL)
		return (Datum) 0;

	LWLockAcquire(cdi_worker_shared->lock, LW_SHARED);
	launcher = cdi_worker_shared->launcher_pid;
	launcher_started_at = cdi_worker_shared->launcher_started_at;
	found = cdi_slot_database(MyDatabaseId) != NULL;
	if (found)
		memcpy(database, cdi_slot_database(MyDatabaseId), sizeof(CdiDatabase));
	LWLockRelease(cdi_worker_shared->lock);

	memset(nulls, true, sizeof(nulls));
	values[0] = CStringGetTextDatum("launcher");
	values[2] = CStringGetTextDatum(launcher != 0 ? "running" : "waiting");
	values[3] = Int32GetDatum(launcher);
	values[5] = TimestampTzGetDatum(launcher_started_at);
	nulls[0] = nulls[2] = false;
	nulls[3] = nulls[5] = launcher == 0;
	values[8] = error_text(&cdi_worker_shared->launcher_error, &nulls[8]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);

	for (int i = 0; found && i < Max(database->nslots, CDI_FIRST_COLLECTOR + 1); i++)
	{
		CdiSlot    *slot = &database->slots[i];

		/* One collector is always shown, further ones where they are about. */
		if (i > CDI_FIRST_COLLECTOR && slot->state == CDI_SLOT_OFF)
			continue;
		values[0] = CStringGetTextDatum(cdi_worker_names[cdi_slot_kind(i)]);
		values[1] = Int32GetDatum(cdi_slot_number(i));
		values[2] = CStringGetTextDatum(states[slot->state]);
		values[3] = Int32GetDatum(slot->pid);
		values[4] = NameGetDatum(&database->name);
		values[5] = TimestampTzGetDatum(slot->started_at);
		values[6] = Int32GetDatum(slot->failures);
		values[7] = TimestampTzGetDatum(slot->retry_at);
		memset(nulls, false, sizeof(nulls));
		nulls[1] = cdi_slot_kind(i) != CDI_WORKER_COLLECTOR;
		nulls[3] = nulls[5] = slot->pid == 0;
		nulls[7] = slot->state != CDI_SLOT_WAITING;
		SpinLockInit(&slot->error.mutex);	/* of the copy */
		values[8] = error_text(&slot->error, &nulls[8]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
