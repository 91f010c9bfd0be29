/*
 * position.c
 *		Positions of events and outbox rows, and the watermark below which no
 *		row can still appear.
 *
 * A writer reads the sequence's last value L, takes a shared transaction-level
 * advisory lock on L and only then advances the sequence: all its positions
 * are above L.  The advance step reads the sequence (S) and then the locks: a
 * transaction with positions at or below S either holds a lock on some L below
 * them, or has ended, and then its rows are visible to every later snapshot.
 * So min(S, L...) is safe, whatever order transactions commit in.  The locks
 * survive PREPARE TRANSACTION and nothing of this is kept in memory only.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "ingest/ingest.h"

/*
 * Fourth field of the lock tag; SQL's advisory locks use 1 and 2, so that no
 * user's lock can be mistaken for ours.  Views name it as objsubid.
 */
#define POSITION_LOCK_CLASS 205

/* Transaction that holds its lock already */
static LocalTransactionId reserved_by = InvalidLocalTransactionId;

static Oid
sequence_oid(void)
{
	Oid			oid = cdi_relation_oid("event_position");

	if (!OidIsValid(oid))
		cdi_require_storage();
	return oid;
}

static int64
last_position(void)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		value;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(sequence_oid());
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(value);
}

/* A lock taken in a subtransaction goes with it; take it again then. */
static void
subtransaction_end(SubXactEvent event, SubTransactionId id,
				   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		reserved_by = InvalidLocalTransactionId;
}

void
cdi_position_reserve(void)
{
	static bool registered = false;
	LOCKTAG		tag;
	int64		last;

	if (reserved_by == cdi_transaction() && LocalTransactionIdIsValid(reserved_by))
		return;
	if (!registered)
	{
		RegisterSubXactCallback(subtransaction_end, NULL);
		registered = true;
	}
	last = last_position();
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (last >> 32), (uint32) last,
						 POSITION_LOCK_CLASS);
	(void) LockAcquire(&tag, ShareLock, false, false);
	reserved_by = cdi_transaction();
}

int64
cdi_position_next(void)
{
	Assert(reserved_by == cdi_transaction());
	/* Looked up anew: storage may have been dropped and made in between. */
	return nextval_internal(sequence_oid(), false);
}

int64
cdi_position_last(void)
{
	return last_position();
}

/* Smallest locked value, or PG_INT64_MAX */
static int64
oldest_reservation(void)
{
	LockData   *locks = GetLockStatusData();
	int64		oldest = PG_INT64_MAX;

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (lock->locktag.locktag_type == LOCKTAG_ADVISORY &&
			lock->locktag.locktag_field4 == POSITION_LOCK_CLASS &&
			lock->locktag.locktag_field1 == MyDatabaseId &&
			lock->holdMask != 0)
		{
			int64		value = ((int64) lock->locktag.locktag_field2 << 32) |
				lock->locktag.locktag_field3;

			oldest = Min(oldest, value);
		}
	}
	return oldest;
}

int64
cdi_watermark_read(void)
{
	static CdiPlan plan = {.query = "SELECT position FROM cdi.watermark"};
	bool		isnull;

	cdi_plan_execute(&plan, NULL, NULL);
	if (SPI_processed != 1)
		cdi_require_storage();
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

int64
cdi_watermark_compute(void)
{
	int64		last = last_position();
	int64		oldest = oldest_reservation();	/* after the sequence */

	return Min(last, oldest);
}

int64
cdi_watermark_advance(void)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.watermark SET position = $1, advanced_at = clock_timestamp() WHERE position < $1",
		.nargs = 1,.argtypes = {INT8OID}
	};
	int64		stored = cdi_watermark_read();
	int64		safe = cdi_watermark_compute();

	if (safe <= stored)
		return stored;
	cdi_plan_execute(&plan, (Datum[]) {Int64GetDatum(safe)}, NULL);
	return safe;
}

PG_FUNCTION_INFO_V1(cdi_watermark);

Datum
cdi_watermark(PG_FUNCTION_ARGS)
{
	/* Read-only execution uses the caller's snapshot, as it must. */
	static SPIPlanPtr plan = NULL;
	CdiOwnerScope scope;
	int64		result;
	bool		isnull;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT position FROM cdi.watermark", 0, NULL);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read cdi.watermark");
	result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(result);
}

PG_FUNCTION_INFO_V1(cdi_advance_watermark);

Datum
cdi_advance_watermark(PG_FUNCTION_ARGS)
{
	CdiOwnerScope scope;
	int64		result;

	cdi_prevent_in_recovery("cdi_advance_watermark");
	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	result = cdi_watermark_advance();
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(result);
}
