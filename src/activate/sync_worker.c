/*
 * sync_worker.c
 *		A process that runs one scheduled sync and ends.
 *
 * What is wrong with the declaration (a table that is gone, a column that has
 * another type, a mapping that does not fit any more) will not get better by
 * itself: the sync pauses, with the reason in cdi.syncs.  Anything else (a
 * lock, a full disk, a shutdown) is recorded as a run that failed, and the next
 * one comes when it is due.  There are few such processes, so none of them
 * waits for long for a transaction that somebody has left open.
 */
#include "activate/model.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "activate/sync_worker.h"
#include "base/errors.h"
#include "worker/worker.h"

#define LOCK_TIMEOUT "5s"

static CdiOwnerScope scope;

/* As the owner */
static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "cdi: run a scheduled sync");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	cdi_owner_enter(&scope);
}

static void
commit(void)
{
	cdi_owner_leave(&scope);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Its name, and what it had followed before; NULL where the sync, or all of cdi, has gone */
static char *
find_sync(const CdiSyncLaunch *launch, Datum *seen, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT name, coalesce(schedule_seen, 0) FROM cdi.syncs WHERE sync_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	bool		isnull;

	if (!OidIsValid(cdi_relation_oid("syncs")) || !OidIsValid(cdi_relation_oid("sync_runs")))
		return NULL;
	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(launch->sync_id)}, NULL);
	if (SPI_processed == 0)
		return NULL;
	*seen = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	return MemoryContextStrdup(context, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
}

static void
note_start(const CdiSyncLaunch *launch)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs SET scheduled_at = pg_catalog.clock_timestamp(), schedule_seen = $2 WHERE sync_id = $1",
		.nargs = 2,.argtypes = {INT4OID, INT8OID}
	};

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(launch->sync_id), Int64GetDatum(launch->seen)}, NULL);
}

/* Nothing has become of what it was to follow: it is due again. */
static void
note_nothing_seen(const CdiSyncLaunch *launch, Datum seen)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.syncs SET schedule_seen = $2 WHERE sync_id = $1 AND schedule_seen = $3",
		.nargs = 3,.argtypes = {INT4OID, INT8OID, INT8OID}
	};

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(launch->sync_id), seen, Int64GetDatum(launch->seen)}, NULL);
}

/* Is it the declaration, and not the moment? */
static bool
is_declaration(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_INVALID_TRANSACTION_STATE:	/* a model that writes */
			return true;
	}
	return sqlstate == ERRCODE_CDI_INVALID_SYNC || sqlstate == ERRCODE_CDI_INVALID_SPEC ||
		sqlstate == ERRCODE_CDI_UNKNOWN_DESTINATION || sqlstate == ERRCODE_INVALID_PARAMETER_VALUE;
}

static void
record_failure(const CdiSyncLaunch *launch, const char *name, const Datum *seen, const ErrorData *error)
{
	static CdiPlan run = {
		.query = "INSERT INTO cdi.sync_runs (sync_id, started_at, finished_at, error)"
		" VALUES ($1, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), $2)",
		.nargs = 2,.argtypes = {INT4OID, TEXTOID}
	};
	static CdiPlan pause = {
		.query = "UPDATE cdi.syncs SET enabled = false, paused_reason = $2, paused_at = pg_catalog.clock_timestamp()"
		" WHERE sync_id = $1 AND enabled",
		.nargs = 2,.argtypes = {INT4OID, TEXTOID}
	};
	char	   *text = psprintf("%s%s%s", error->message, error->detail ? ": " : "", error->detail ? error->detail : "");
	Datum		values[2] = {Int32GetDatum(launch->sync_id), (Datum) 0};

	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		text = psprintf("another transaction has locked it or what it reads, and is still open (%s)", text);
		if (seen != NULL)
			note_nothing_seen(launch, *seen);
	}
	values[1] = CStringGetTextDatum(text);
	cdi_plan_execute(&run, values, NULL);
	if (!is_declaration(error->sqlerrcode))
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("sync \"%s\" did not run", name),
				 errdetail("%s", text),
				 errhint("It is tried again when it is due next.")));
		return;
	}
	values[1] = CStringGetTextDatum(psprintf("its query or mapping does not work any more (%s)", text));
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_plan_execute(&pause, values, NULL);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("sync \"%s\" pauses", name),
			 errdetail("%s", text),
			 errhint("Repair what it reads, or change it with cdi_alter_sync(); then SELECT cdi_sync_resume('%s').", name)));
}

void
cdi_sync_worker_main(Datum arg)
{
	CdiSyncLaunch launch;
	MemoryContext context;
	char	   *name;
	Datum		seen;
	volatile bool noted = false;
	volatile bool loaded = false;
	ErrorData  *volatile error = NULL;

	memcpy(&launch, MyBgworkerEntry->bgw_extra, sizeof(launch));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(launch.database, InvalidOid, 0);
	pgstat_report_appname("cdi sync");
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	context = AllocSetContextCreate(TopMemoryContext, "cdi sync", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	begin();
	name = find_sync(&launch, &seen, context);
	commit();
	if (name == NULL)
		proc_exit(0);

	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		CdiSync    *sync;

		begin();
		note_start(&launch);
		commit();
		noted = true;
		begin();
		MemoryContextSwitchTo(context);
		cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
		sync = cdi_sync_load(name, context);
		loaded = true;
		cdi_owner_leave(&scope);
		(void) cdi_sync_execute(sync, false, NULL);
		cdi_owner_enter(&scope);
		commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		AbortCurrentTransaction();
		FlushErrorState();
	}
	PG_END_TRY();
	/* what nobody wanted any more is no failure */
	if (error != NULL && (loaded || (error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE &&
									 error->sqlerrcode != ERRCODE_CDI_UNKNOWN_SYNC)))
	{
		begin();
		record_failure(&launch, name, noted ? &seen : NULL, error);
		commit();
	}
	proc_exit(0);
}
