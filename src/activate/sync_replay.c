/*
 * sync_replay.c
 *		Dead letters, once more.
 */
#include "activate/model.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "base/errors.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(cdi_replay_delivery);

/*
 * Queue dead letters again.  A row whose key has a newer one on its way stays:
 * an older state must not overtake a newer one, and it leaves by itself when
 * that is delivered.
 */
Datum
cdi_replay_delivery(PG_FUNCTION_ARGS)
{
	static CdiPlan syncs = {
		.query = "SELECT DISTINCT f.sync_id, s.kind = 'events' FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id)"
		" WHERE ($1 IS NULL OR f.position = ANY ($1)) AND ($2 IS NULL OR s.name = $2) ORDER BY 1",
		.nargs = 2,.argtypes = {INT8ARRAYOID, TEXTOID}
	};
	static CdiPlan replay = {
		.query = "WITH chosen AS ("
		"  DELETE FROM cdi.failed_deliveries f"
		"  WHERE f.sync_id = $2 AND ($1 IS NULL OR f.position = ANY ($1))"
		"    AND NOT EXISTS (SELECT FROM cdi.outbox o WHERE o.sync_id = f.sync_id AND o.primary_key = f.primary_key"
		"                    AND o.position > greatest(f.position, coalesce("
		"                        (SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = f.sync_id), 0)))"
		"  RETURNING f.*),"
		" sorted AS (SELECT * FROM chosen ORDER BY position)"
		" INSERT INTO cdi.outbox (position, queued_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload, row_hash)"
		" SELECT nextval('cdi.outbox_position'), clock_timestamp(), sync_id, run_id, operation, primary_key, hash,"
		" idempotency_key, payload, row_hash FROM sorted",
		.nargs = 2,.argtypes = {INT8ARRAYOID, INT4OID}
	};
	/* The push worker takes events from where they are. */
	static CdiPlan again = {
		.query = "UPDATE cdi.failed_deliveries f SET replay = true"
		" WHERE f.sync_id = $2 AND ($1 IS NULL OR f.position = ANY ($1)) AND NOT f.replay",
		.nargs = 2,.argtypes = {INT8ARRAYOID, INT4OID}
	};
	CdiOwnerScope scope;
	Datum		positions = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	char		nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' ', '\0'};
	SPITupleTable *table;
	int64		queued = 0;
	bool		isnull;

	cdi_prevent_in_recovery("cdi_replay_delivery");
	cdi_require_storage();
	cdi_worker_wake_at_commit(CDI_WAKE_PUSH);
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&syncs, (Datum[]) {positions, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)}, nulls);
	table = SPI_tuptable;
	for (uint64 i = 0; i < table->numvals; i++)
	{
		Datum		sync_id = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		cdi_sync_lock(DatumGetInt32(sync_id));
		cdi_plan_execute(DatumGetBool(SPI_getbinval(table->vals[i], table->tupdesc, 2, &isnull)) ? &again : &replay, (Datum[]) {positions, sync_id}, (char[]) {nulls[0], ' ', '\0'});
		queued += SPI_processed;
	}
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(queued);
}
