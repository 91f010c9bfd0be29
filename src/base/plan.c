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

/*
 * SPI leaves its own context the current one: what a loop allocates after its
 * first statement would then stay until SPI_finish.
 */
static int
run(CdiPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	MemoryContext context = CurrentMemoryContext;
	int			result;

	prepare(plan);
	result = SPI_execute_plan(plan->plan, values, nulls, read_only, 0);
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	return result;
}

int
cdi_plan_execute(CdiPlan *plan, Datum *values, const char *nulls)
{
	return run(plan, values, nulls, false);
}

int
cdi_plan_read(CdiPlan *plan, Datum *values)
{
	return run(plan, values, NULL, true);
}

int
cdi_plan_execute_latest(CdiPlan *plan)
{
	MemoryContext context = CurrentMemoryContext;
	Snapshot	snapshot;
	int			result;

	prepare(plan);
	/* A parallel operation has one snapshot, and nothing it does is newer. */
	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	result = SPI_execute_snapshot(plan->plan, NULL, NULL, snapshot, InvalidSnapshot,
								  IsInParallelMode(), false, 0);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(context);
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

/* And back: the elements of an uuid[] without nulls */
pg_uuid_t *
cdi_uuids(Datum array, int *n)
{
	Datum	   *elements;
	pg_uuid_t  *uuids;

	deconstruct_array(DatumGetArrayTypeP(array), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &elements, NULL, n);
	uuids = palloc_extended(sizeof(pg_uuid_t) * Max(*n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < *n; i++)
		uuids[i] = *DatumGetUUIDP(elements[i]);
	pfree(elements);
	return uuids;
}

Datum
cdi_uuid_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}
