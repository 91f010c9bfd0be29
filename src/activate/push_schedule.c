/*
 * push_schedule.c
 *		When scheduled syncs run: after a time, after another sync, or when
 *		events have come.
 *
 * The push worker knows what is due and starts a process for each run
 * (sync_worker.c), a few at a time: a model may take minutes, and meanwhile
 * rows of others must go out.  Schedules and their last runs are rows of
 * cdi.syncs, so a restart goes on where it was; a run that was missed happens
 * once.  What is due next is known in memory, and nothing is looked at until
 * then.
 */
#include "activate/push.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "activate/sync_worker.h"
#include "worker/slot.h"

/* Runs at the same time */
#define MAX_RUNS 2
/* Between two runs of a sync that follows events */
#define CHANGE_GAP USECS_PER_SEC
/* A thousand years: what is longer would not fit a time */
#define MAX_EVERY (1000.0 * DAYS_PER_YEAR * USECS_PER_DAY)
/* Where the server has no room for another process */
#define NO_SLOT_RETRY (10 * USECS_PER_SEC)

typedef struct Schedule
{
	int32		sync_id;
	int64		every;			/* us; 0: by something else */
	int32		after;			/* sync that goes before; 0: none */
	bool		on_change;
	TimestampTz last;			/* start of its last scheduled run, or 0 */
	TimestampTz tried;			/* when we last started a process for it, or 0 */
	int64		seen;			/* run of the sync before, or watermark, that it followed */
	int64		now;			/* latest of the same */
	bool		ready;			/* nothing of the sync before is on its way */
} Schedule;

typedef struct Run
{
	int32		sync_id;
	BackgroundWorkerHandle *handle; /* NULL: free */
} Run;

static struct
{
	MemoryContext context;
	Schedule   *schedules;
	int			n;
	bool		stale;			/* to be read again */
	TimestampTz not_before;		/* no room for a process until then */
	Run			runs[MAX_RUNS];
} schedule;

/* Runs end with us: a database that is to be dropped has no processes left. */
static void
stop_runs(int code, Datum arg)
{
	for (int i = 0; i < MAX_RUNS; i++)
		if (schedule.runs[i].handle != NULL)
			TerminateBackgroundWorker(schedule.runs[i].handle);
}

void
push_schedule_init(CdiPushState *push)
{
	schedule.context = AllocSetContextCreate(push->context, "cdi schedules", ALLOCSET_SMALL_SIZES);
	schedule.stale = true;
	before_shmem_exit(stop_runs, (Datum) 0);
}

void
push_schedule_delivered(void)
{
	for (int i = 0; i < schedule.n; i++)
	{
		const Schedule *one = &schedule.schedules[i];

		if (one->after != 0 && one->now > one->seen && !one->ready)
			schedule.stale = true;
	}
}

/* In a transaction of push_read() */
bool
push_schedule_read(CdiPushState *push)
{
	static CdiPlan plan = {
		.query = "SELECT s.sync_id, extract(epoch FROM s.schedule_every)::float8, coalesce(s.schedule_after, 0), s.schedule_on_change,"
		" s.scheduled_at, s.schedule_seen,"
		" CASE WHEN s.schedule_on_change THEN (SELECT w.position FROM cdi.watermark w)"
		"      ELSE coalesce((SELECT max(r.run_id) FROM cdi.sync_runs r WHERE r.sync_id = s.schedule_after AND r.error IS NULL), 0) END,"
		" s.schedule_after IS NULL OR NOT EXISTS (SELECT FROM cdi.outbox o WHERE o.sync_id = s.schedule_after"
		"  AND o.position > coalesce((SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = s.schedule_after), 0))"
		" FROM cdi.syncs s JOIN cdi.destinations d USING (destination_id)"
		" WHERE s.enabled AND d.enabled"
		"   AND (s.schedule_every IS NOT NULL OR s.schedule_after IS NOT NULL OR s.schedule_on_change)"
	};
	MemoryContext before = schedule.context;
	const Schedule *known = schedule.schedules;
	int			nknown = schedule.n;
	MemoryContext old;
	bool		watch = false;

	schedule.stale = false;
	cdi_plan_execute(&plan, NULL, NULL);
	schedule.context = AllocSetContextCreate(push->context, "cdi schedules", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(schedule.context);
	schedule.n = (int) SPI_processed;
	schedule.schedules = palloc0(sizeof(Schedule) * Max(schedule.n, 1));
	for (int i = 0; i < schedule.n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Schedule   *one = &schedule.schedules[i];
		bool		isnull;
		Datum		value;

		one->sync_id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		value = SPI_getbinval(row, desc, 2, &isnull);
		one->every = isnull ? 0 : (int64) Min(Max(DatumGetFloat8(value) * USECS_PER_SEC, 1), MAX_EVERY);
		one->after = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
		one->on_change = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
		value = SPI_getbinval(row, desc, 5, &isnull);
		one->last = isnull ? 0 : DatumGetTimestampTz(value);
		value = SPI_getbinval(row, desc, 6, &isnull);
		one->seen = isnull ? 0 : DatumGetInt64(value);
		value = SPI_getbinval(row, desc, 7, &isnull);
		one->now = isnull ? 0 : DatumGetInt64(value);
		one->ready = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
		for (int k = 0; k < nknown; k++)
			if (known[k].sync_id == one->sync_id)
				one->tried = known[k].tried;
		watch |= one->on_change;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(before);
	return watch;
}

/* When the sync is due: a time, DT_NOEND for not before something happens */
static TimestampTz
due(const Schedule *one)
{
	TimestampTz at;

	if (one->every > 0)
		at = one->last == 0 ? 0 : one->last + one->every;
	else if (one->now <= one->seen || !one->ready)
		return DT_NOEND;
	else
		at = one->on_change ? one->last + CHANGE_GAP : 0;
	/* A process that ends before it has noted its start must not come at once again. */
	if (one->tried > 0)
		at = Max(at, one->tried + CHANGE_GAP);
	return at;
}

static bool
is_running(int32 sync_id)
{
	for (int i = 0; i < MAX_RUNS; i++)
		if (schedule.runs[i].handle != NULL && schedule.runs[i].sync_id == sync_id)
			return true;
	return false;
}

static bool
start(Run *run, const Schedule *one)
{
	BackgroundWorker worker = {0};
	CdiSyncLaunch launch = {.database = MyDatabaseId,.sync_id = one->sync_id,.seen = one->now};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "cdi", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cdi_sync_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "cdi sync", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "cdi sync", BGW_MAXLEN);
	memcpy(worker.bgw_extra, &launch, sizeof(launch));
	started = RegisterDynamicBackgroundWorker(&worker, &run->handle);
	MemoryContextSwitchTo(old);
	if (!started)
	{
		run->handle = NULL;
		schedule.not_before = GetCurrentTimestamp() + NO_SLOT_RETRY;
		return false;
	}
	run->sync_id = one->sync_id;
	return true;
}

/* Runs that have ended; what they did is to be read. */
static void
reap(void)
{
	for (int i = 0; i < MAX_RUNS; i++)
	{
		Run		   *run = &schedule.runs[i];
		pid_t		pid;

		if (run->handle == NULL || GetBackgroundWorkerPid(run->handle, &pid) != BGWH_STOPPED)
			continue;
		pfree(run->handle);
		run->handle = NULL;
		schedule.stale = true;
	}
}

bool
push_schedule_run(CdiPushState *push)
{
	TimestampTz now = GetCurrentTimestamp();

	reap();
	if (schedule.stale)
		return true;
	if (push->armed != CDI_ARMED || schedule.not_before > now)
		return false;
	for (int i = 0; i < MAX_RUNS; i++)
	{
		Schedule   *next = NULL;

		if (schedule.runs[i].handle != NULL)
			continue;
		for (int k = 0; k < schedule.n; k++)
		{
			Schedule   *one = &schedule.schedules[k];

			if (due(one) <= now && !is_running(one->sync_id) &&
				(next == NULL || Max(one->last, one->tried) < Max(next->last, next->tried)))
				next = one;
		}
		if (next == NULL || !start(&schedule.runs[i], next))
			break;
		next->tried = now;
		next->seen = next->now;
	}
	return false;
}

TimestampTz
push_schedule_due(const CdiPushState *push)
{
	TimestampTz first = DT_NOEND;
	bool		room = false;

	if (push->armed != CDI_ARMED)
		return DT_NOEND;
	for (int i = 0; i < MAX_RUNS; i++)
		room |= schedule.runs[i].handle == NULL;
	for (int k = 0; room && k < schedule.n; k++)
		if (!is_running(schedule.schedules[k].sync_id))
			first = Min(first, due(&schedule.schedules[k]));
	return first == DT_NOEND ? first : Max(first, schedule.not_before);
}
