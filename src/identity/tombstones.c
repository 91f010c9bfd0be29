/*
 * tombstones.c
 *		Identifiers that were erased and must not come back.
 *
 * Whether there is any is kept in memory, so that an installation that never
 * erased anybody does not look.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "identity/identity.h"

static Oid	table = InvalidOid;
static bool any = false;
static bool known = false;
static bool invalidated = false;	/* since the last look began */

static void
invalidate(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == table)
	{
		known = false;
		invalidated = true;
	}
}

void
cdi_tombstones_changed(void)
{
	CacheInvalidateRelcacheByRelid(cdi_relation_oid("identity_tombstones"));
}

static void
look(void)
{
	static CdiPlan plan = {.query = "SELECT FROM cdi.identity_tombstones LIMIT 1"};

	cdi_invalidation_register(invalidate);
	table = cdi_relation_oid("identity_tombstones");
	invalidated = any = false;
	if (OidIsValid(table))		/* else before cdi_init() */
	{
		cdi_plan_execute_latest(&plan);
		any = SPI_processed > 0;
	}
	known = !invalidated && OidIsValid(table);
}

/*
 * The lock is kept until the transaction ends: an erasure waits for those who
 * have looked before it (erase.c), and getting it makes us hear of one.
 */
bool
cdi_tombstones_any(void)
{
	Oid			oid = cdi_relation_oid("identity_tombstones");

	if (OidIsValid(oid))
		LockRelationOid(oid, RowExclusiveLock);
	if (!known)
		look();
	return any;
}

/* False where none was. */
bool
cdi_tombstones_find(const pg_uuid_t *keys, int n, bool *erased)
{
	static CdiPlan plan = {
		.query = "SELECT k.n FROM pg_catalog.unnest($1) WITH ORDINALITY AS k (tombstone, n)"
		" WHERE EXISTS (SELECT FROM cdi.identity_tombstones t WHERE t.tombstone = k.tombstone)",
		.nargs = 1,.argtypes = {BYTEAARRAYOID}
	};
	Datum	   *tombstones;
	bool		any_erased;

	tombstones = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		bytea	   *tombstone = palloc(VARHDRSZ + 32);

		SET_VARSIZE(tombstone, VARHDRSZ + 32);
		cdi_identifier_tombstone(&keys[i], (uint8 *) VARDATA(tombstone));
		tombstones[i] = PointerGetDatum(tombstone);
	}
	/* whatever snapshot the caller's transaction works with */
	PushActiveSnapshot(GetLatestSnapshot());
	cdi_plan_read(&plan, (Datum[]) {
		PointerGetDatum(construct_array(tombstones, n, BYTEAOID, -1, false, TYPALIGN_INT))
	});
	PopActiveSnapshot();
	memset(erased, 0, (size_t) n);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int64		number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		erased[number - 1] = true;
	}
	any_erased = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return any_erased;
}
