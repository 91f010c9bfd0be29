/*
 * armed.c
 *		A copy of a database must not push to what the original pushes to.
 *
 * cdi_arm() records which installation this is: the cluster's system
 * identifier, the database's oid and the identity of the control file.  A
 * restored dump differs in the first, CREATE DATABASE ... TEMPLATE in the
 * second, and a copy of the cluster's files, which shares both, in the third:
 * another file was made there.  The push worker compares them in every
 * transaction in which it takes rows.
 */
#include "activate/activate.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/errors.h"
#include "worker/worker.h"

/* The control file is made once and then written in place. */
static char *
control_file(void)
{
	char	   *path = psprintf("%s/global/pg_control", DataDir);
	struct stat state;

#ifdef STATX_BTIME
	struct statx extended;

	if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_BTIME, &extended) == 0 &&
		(extended.stx_mask & STATX_BTIME) != 0)
		return psprintf(UINT64_FORMAT "." INT64_FORMAT ".%09u", (uint64) extended.stx_ino,
						(int64) extended.stx_btime.tv_sec, extended.stx_btime.tv_nsec);
#endif
	if (stat(path, &state) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	return psprintf(UINT64_FORMAT, (uint64) state.st_ino);
}

CdiArmed
cdi_armed_check(void)
{
	static CdiPlan plan = {
		.query = "SELECT armed, system_identifier, database_oid, control_file FROM cdi.armed"
	};
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;

	cdi_plan_execute(&plan, NULL, NULL);
	if (SPI_processed == 0)
		return CDI_NEVER_ARMED;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	if (DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull)) != (int64) GetSystemIdentifier() ||
		DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull)) != MyDatabaseId)
		return CDI_ARMED_ELSEWHERE;
	if (!cdi_activate_follow_failover &&
		strcmp(SPI_getvalue(row, desc, 4), control_file()) != 0)
		return CDI_ARMED_ELSEWHERE;
	return DatumGetBool(SPI_getbinval(row, desc, 1, &isnull)) ? CDI_ARMED : CDI_DISARMED;
}

static void
record_armed(const char *caller)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.armed (armed, system_identifier, database_oid, control_file, armed_at, armed_by)"
		" VALUES (true, $1, $2, $3, pg_catalog.clock_timestamp(), $4)"
		" ON CONFLICT (only_row) DO UPDATE SET armed = true, system_identifier = excluded.system_identifier,"
		" database_oid = excluded.database_oid, control_file = excluded.control_file,"
		" armed_at = excluded.armed_at, armed_by = excluded.armed_by",
		.nargs = 4,.argtypes = {INT8OID, OIDOID, TEXTOID, NAMEOID}
	};

	cdi_plan_execute(&plan, (Datum[])
					 {
						 Int64GetDatum((int64) GetSystemIdentifier()), ObjectIdGetDatum(MyDatabaseId),
						 CStringGetTextDatum(control_file()),
						 DirectFunctionCall1(namein, CStringGetDatum(caller))
					 }, NULL);
}

/*
 * What was acknowledged is not to be believed: the next runs send everything,
 * and what was queued under the old state is passed over.
 */
static void
forget_acknowledged(void)
{
	static CdiPlan rows = {.query = "DELETE FROM cdi.sync_rows"};
	static CdiPlan failed = {.query = "DELETE FROM cdi.failed_deliveries"};
	static CdiPlan cursor = {
		.query = "INSERT INTO cdi.push_cursor (sync_id, position)"
		" SELECT s.sync_id, CASE s.kind WHEN 'rows' THEN pg_catalog.nextval('cdi.outbox_position')"
		"  ELSE (SELECT w.position FROM cdi.watermark w) END FROM cdi.syncs s"
		" ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position"
	};
	static CdiPlan syncs = {.query = "SELECT sync_id FROM cdi.syncs ORDER BY sync_id"};
	bool		isnull;
	SPITupleTable *table;

	cdi_plan_execute(&syncs, NULL, NULL);
	table = SPI_tuptable;
	for (uint64 i = 0; i < table->numvals; i++)
		cdi_sync_lock(DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull)));
	cdi_plan_execute(&rows, NULL, NULL);
	cdi_plan_execute(&failed, NULL, NULL);
	cdi_plan_execute(&cursor, NULL, NULL);
}

PG_FUNCTION_INFO_V1(cdi_arm);

Datum
cdi_arm(PG_FUNCTION_ARGS)
{
	const char *caller = GetUserNameFromId(GetUserId(), false);
	CdiOwnerScope scope;

	cdi_prevent_in_recovery("cdi_arm");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	if (cdi_armed_check() == CDI_ARMED_ELSEWHERE)
	{
		if (PG_ARGISNULL(0))
			ereport(ERROR,
					(errcode(ERRCODE_CDI_NOT_ARMED),
					 errmsg("this database is a copy of one that was armed"),
					 errdetail("Its record of what destinations have acknowledged comes from the original."),
					 errhint("If the original has ended and this takes its place, SELECT cdi_arm(trust => true). "
							 "If destinations may have got other rows since, SELECT cdi_arm(trust => false): the next runs send every row again.")));
		if (!PG_GETARG_BOOL(0))
			forget_acknowledged();
	}
	record_armed(caller);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_disarm);

Datum
cdi_disarm(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {.query = "UPDATE cdi.armed SET armed = false"};
	CdiOwnerScope scope;

	cdi_prevent_in_recovery("cdi_disarm");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, NULL, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdi_armed);

/* armed, disarmed, never armed, or copy */
Datum
cdi_armed(PG_FUNCTION_ARGS)
{
	CdiOwnerScope scope;
	CdiArmed	state;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	state = cdi_armed_check();
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_TEXT_P(cstring_to_text(state == CDI_ARMED ? "armed" :
									 state == CDI_DISARMED ? "disarmed" :
									 state == CDI_NEVER_ARMED ? "never armed" : "copy"));
}
