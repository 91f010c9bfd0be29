/*
 * plan.c
 *		Prepared statements that live as long as the backend.
 */
#include "base/base.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/snapmgr.h"

static void
prepare(CdiPlan *plan)
{
	if (plan->plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(plan->query, plan->nargs, plan->argtypes);

		if (prepared == NULL)
			elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(prepared);
		plan->plan = prepared;
	}
}

int
cdi_plan_execute(CdiPlan *plan, Datum *values, const char *nulls)
{
	int			result;

	prepare(plan);
	result = SPI_execute_plan(plan->plan, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	return result;
}

int
cdi_plan_read(CdiPlan *plan, Datum *values)
{
	int			result;

	prepare(plan);
	result = SPI_execute_plan(plan->plan, values, NULL, true, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	return result;
}

int
cdi_plan_execute_latest(CdiPlan *plan)
{
	Snapshot	snapshot;
	int			result;

	prepare(plan);
	/* A parallel operation has one snapshot, and nothing it does is newer. */
	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	result = SPI_execute_snapshot(plan->plan, NULL, NULL, snapshot, InvalidSnapshot,
								  IsInParallelMode(), false, 0);
	UnregisterSnapshot(snapshot);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	return result;
}

/* Arrays as parameters of a statement over many rows */
Datum
cdi_int8_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
}

Datum
cdi_timestamptz_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, TIMESTAMPTZOID, sizeof(int64), true, TYPALIGN_DOUBLE));
}

Datum
cdi_uuid_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}
