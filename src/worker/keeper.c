/*
 * keeper.c
 *		The worker that keeps house: watermark, identities, partitions,
 *		retention, counters, dedupe generations and their filters.
 *
 * It sleeps on its latch until a transaction that wrote events has ended,
 * whichever way: a transaction that holds the watermark back wakes it when its
 * locks are gone (wake.c).  So nothing is polled.  A wake-up starts a round of
 * steps, each in a transaction of its own; a step that fails, or cannot have a
 * lock soon, is tried again later and later, and only then a timer runs.
 * Rounds leave gaps in which commits collect: under load one round serves many.
 * A run of the resolver that found much to do is followed by a longer pause of
 * that step alone, because a run costs more than its links: the watermark goes
 * on meanwhile.
 *
 * Whatever other sessions hold, a step waits for at most LOCK_TIMEOUT, so that
 * none of them can hold up the watermark for long.  The steps commit without
 * waiting for the disk: after a crash they are simply done again.
 */
#include "postgres.h"

#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "identity/traits.h"
#include "ingest/ingest.h"
#include "worker/slot.h"

#define LOCK_TIMEOUT			"200ms"
#define SAFETY_MS				60000
#define GAP_MIN_MS				10
#define GAP_MAX_MS				200
#define MANY_LINKS				100
#define MANY_LINKS_PAUSE_MS		50
#define RETRY_MIN_MS			100
#define RETRY_MAX_MS			60000
#define ROTATE_EVERY_MS			60000
#define PARTITIONS_EVERY_MS		(24 * 3600 * 1000)
#define EXPIRE_EVERY_MS			(3600 * 1000)
#define COMPACT_AFTER_COMMITS	1000

typedef struct Step
{
	const char *activity;
	bool		(*run) (void);	/* false: could not be done now */
	bool		due;
	int			failures;
	TimestampTz not_before;		/* after a failure or a pause */
	TimestampTz done_at;
} Step;

static bool advance(void);
static bool resolve(void);
static bool make_partitions(void);
static bool expire(void);
static bool compact(void);
static bool rotate(void);
static bool filter(void);

typedef enum StepNumber
{
	ADVANCE,
	RESOLVE,
	PARTITIONS,
	EXPIRE,
	COMPACT,
	ROTATE,
	FILTER,
	STEPS
} StepNumber;

static struct
{
	Step		steps[STEPS];
	int64		watermark;		/* when partitions were last thought of */
	uint64		commits;		/* when counters were last compacted */
	int64		links;			/* of the last run of the resolver */
} keeper = {
	.steps = {
		[ADVANCE] = {"cdi: advance the watermark", advance},
		[RESOLVE] = {"cdi: resolve identities", resolve},
		[PARTITIONS] = {"cdi: make partitions", make_partitions},
		[EXPIRE] = {"cdi: drop what is past its retention", expire},
		[COMPACT] = {"cdi: compact counters", compact},
		[ROTATE] = {"cdi: rotate dedupe generations", rotate},
		[FILTER] = {"cdi: filter dedupe generations", filter}
	}
};

static bool
first_bool(int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

/*
 * What lies between the old and the new watermark is now final: what the
 * default partition caught is for a partition of its own.
 */
static bool
advance(void)
{
	static CdiPlan plan = {
		.query = "SELECT EXISTS (SELECT FROM cdi.events_default)"
	};
	int64		watermark = cdi_watermark_advance();

	if (watermark > keeper.watermark)
	{
		cdi_plan_execute(&plan, NULL, NULL);
		if (first_bool(1))
			keeper.steps[PARTITIONS].due = true;
		if (cdi_worker_events_watched())
			cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
		keeper.watermark = watermark;
	}
	return true;
}

/*
 * cdi_resolve() lives in whatever schema the extension was created in.  Storage
 * or SQL of an older version may lack it: the library is updated first.
 */
static bool
resolve(void)
{
	static CdiPlan find = {
		.query = "SELECT p.oid::regproc::text FROM pg_extension e"
		" JOIN pg_proc p ON p.pronamespace = e.extnamespace"
		" WHERE e.extname = 'cdi' AND p.proname = 'cdi_resolve' AND p.pronargs = 0"
	};
	static CdiPlan plan;
	bool		isnull;

	keeper.links = 0;
	if (!OidIsValid(cdi_relation_oid("identity_runs")))
		return true;
	if (plan.query == NULL)
	{
		cdi_plan_execute(&find, NULL, NULL);
		if (SPI_processed == 0)
			return true;
		plan.query = MemoryContextStrdup(TopMemoryContext,
										 psprintf("SELECT %s()",
												  SPI_getvalue(SPI_tuptable->vals[0],
															   SPI_tuptable->tupdesc, 1)));
	}
	cdi_plan_execute(&plan, NULL, NULL);
	keeper.links = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return true;
}

static bool
make_partitions(void)
{
	static CdiPlan plan = {.query = "SELECT cdi._ensure_partitions()"};

	cdi_plan_execute(&plan, NULL, NULL);
	return first_bool(1);
}

/* SQL of an older version lacks it: the library is updated first. */
static bool
expire(void)
{
	static CdiPlan find = {.query = "SELECT to_regprocedure('cdi._drop_expired()') IS NOT NULL"};
	static CdiPlan plan = {.query = "SELECT cdi._drop_expired()"};

	cdi_plan_execute(&find, NULL, NULL);
	if (!first_bool(1) || !OidIsValid(cdi_relation_oid("sync_runs")))
		return true;
	cdi_plan_execute(&plan, NULL, NULL);
	return first_bool(1);
}

/*
 * Replace the counters' changes of an hour by their sum.  Rows that committed
 * later stay as they are; every snapshot sees the changes or the sum.
 */
static bool
compact(void)
{
	static CdiPlan plan = {
		.query = "WITH hours AS (SELECT source_id, hour FROM cdi.pipeline_deltas"
		" GROUP BY source_id, hour HAVING count(*) > 1),"
		" changes AS (DELETE FROM cdi.pipeline_deltas d USING hours h"
		" WHERE d.source_id = h.source_id AND d.hour = h.hour RETURNING d.*)"
		" INSERT INTO cdi.pipeline_deltas (source_id, hour, received, stored, duplicate, failed, withheld)"
		" SELECT source_id, hour, sum(received), sum(stored), sum(duplicate), sum(failed), sum(withheld)"
		" FROM changes GROUP BY source_id, hour"
	};

	cdi_plan_execute(&plan, NULL, NULL);
	return true;
}

static bool
rotate(void)
{
	return cdi_dedupe_rotate();
}

static bool
filter(void)
{
	return cdi_dedupe_filter();
}

static void
run_step(Step *step)
{
	MemoryContext context = CurrentMemoryContext;
	int64		watermark = keeper.watermark;
	volatile bool done = false;

	PG_TRY();
	{
		cdi_worker_begin(step->activity);
		(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		done = step->run();
		cdi_worker_commit();
	}
	PG_CATCH();
	{
		done = false;
		keeper.watermark = watermark;
		/* Somebody else has a lock: nothing to write home about. */
		if (geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
		{
			cdi_worker_abort();
			FlushErrorState();
		}
		else
			cdi_worker_catch();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);

	step->done_at = GetCurrentTimestamp();
	step->due = !done;
	step->not_before = step->done_at;
	if (done)
	{
		step->failures = 0;
		/* Who passes events on soon wants to say whose they are. */
		if (step == &keeper.steps[RESOLVE] && keeper.links >= MANY_LINKS && !cdi_worker_events_watched())
			step->not_before = TimestampTzPlusMilliseconds(step->done_at, MANY_LINKS_PAUSE_MS);
	}
	else
	{
		step->not_before = TimestampTzPlusMilliseconds(step->done_at,
													   Min(RETRY_MIN_MS << Min(step->failures, 16),
														   RETRY_MAX_MS));
		step->failures++;
	}
}

/* Run what is due and need not wait; true where anything ran. */
static bool
run_due_steps(void)
{
	bool		ran = false;

	for (int i = 0; i < STEPS; i++)
	{
		Step	   *step = &keeper.steps[i];

		if (step->due && step->not_before <= GetCurrentTimestamp())
		{
			run_step(step);
			ran = true;
			(void) cdi_worker_interrupts();
		}
	}
	return ran;
}

static long
milliseconds_to_step(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		result = SAFETY_MS;

	for (int i = 0; i < STEPS; i++)
		if (keeper.steps[i].due)
			result = Min(result, TimestampDifferenceMilliseconds(now, keeper.steps[i].not_before));
	return result;
}

static bool
older_than(const Step *step, TimestampTz now, int64 milliseconds)
{
	return now - step->done_at >= milliseconds * 1000;
}

void
cdi_keeper_main(Datum arg)
{
	CdiDatabase *database;
	CdiSlot    *slot;
	uint64		served;

	if (!cdi_worker_start(CDI_WORKER_KEEPER, arg))
		proc_exit(0);
	database = cdi_worker_database();
	slot = cdi_worker_slot();
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "cdi keeper",
												ALLOCSET_DEFAULT_SIZES));

	for (int i = 0; i < STEPS; i++)
		keeper.steps[i].due = true;
	for (;;)
	{
		TimestampTz start = GetCurrentTimestamp();
		uint64		commits;

		/* What is asked for from here on is for the next round. */
		served = pg_atomic_read_u64(&slot->wakes);
		commits = pg_atomic_read_u64(&database->commits);
		if (commits - keeper.commits >= COMPACT_AFTER_COMMITS || keeper.steps[COMPACT].done_at == 0)
		{
			keeper.steps[COMPACT].due = true;
			keeper.commits = commits;
		}
		if (run_due_steps())
		{
			long		gap = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

			pgstat_report_stat(true);
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Min(Max(gap, GAP_MIN_MS), GAP_MAX_MS), cdi_worker_wait_event());
			(void) cdi_worker_interrupts();
		}
		if (cdi_computed_more_history())
			keeper.steps[ADVANCE].due = keeper.steps[RESOLVE].due = true;

		while (pg_atomic_read_u64(&slot->wakes) == served)
		{
			TimestampTz now;
			long		timeout = milliseconds_to_step();

			if (timeout <= 0)
				break;
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout, cdi_worker_wait_event());
			ResetLatch(MyLatch);
			(void) cdi_worker_interrupts();
			now = GetCurrentTimestamp();
			if (older_than(&keeper.steps[PARTITIONS], now, PARTITIONS_EVERY_MS) &&
				keeper.steps[PARTITIONS].failures == 0)
				keeper.steps[PARTITIONS].due = true;
			if (older_than(&keeper.steps[EXPIRE], now, EXPIRE_EVERY_MS) && keeper.steps[EXPIRE].failures == 0)
				keeper.steps[EXPIRE].due = true;
			if (keeper.steps[PARTITIONS].due || keeper.steps[EXPIRE].due)
				break;
		}
		if (pg_atomic_read_u64(&slot->wakes) != served)
		{
			keeper.steps[ADVANCE].due = true;
			keeper.steps[RESOLVE].due = true;
			if (older_than(&keeper.steps[ROTATE], GetCurrentTimestamp(), ROTATE_EVERY_MS))
				keeper.steps[ROTATE].due = keeper.steps[FILTER].due = true;
		}
	}
}
