/*
 * erase.c
 *		Forget identifiers.
 *
 * An erased identifier leaves the links that mention it, and with it its value
 * and the traits that it named; what else hung together is folded again.  A
 * tombstone, a keyed hash that says nothing about the value, stays: events
 * that bring the identifier again identify nobody by it.
 *
 * Writers of events hold ROW EXCLUSIVE on cdi.identity_tombstones from before
 * they look there until they end.  An erasure takes SHARE ROW EXCLUSIVE, so
 * that it sees the links of all that did not see its tombstones; it never
 * stands in the lock's queue, where every writer that comes after would wait.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "identity/identity.h"
#include "identity/traits.h"

/* How long an erasure tries to find no writer and no resolver at work */
#define LOCK_WAIT_MS	10000
#define LOCK_RETRY_MS	5

/*
 * Whoever has the resolver's lock may go on to write events, and whoever has
 * written some may go on to resolve: neither lock is held while the other one
 * is waited for.
 */
static void
lock_out_others(void)
{
	Oid			table = cdi_relation_oid("identity_tombstones");

	for (int waited = 0;; waited += LOCK_RETRY_MS)
	{
		bool		no_writers = ConditionalLockRelationOid(table, ShareRowExclusiveLock);

		if (no_writers && cdi_resolver_try_lock())
			return;
		if (waited >= LOCK_WAIT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 no_writers ? errmsg("people are being resolved by a transaction that does not end") :
					 errmsg("events are being written by a transaction that does not end"),
					 errhint("Look for a long transaction that called %s or the like, then erase again.",
							 no_writers ? "cdi_resolve()" : "cdi_track()")));
		if (no_writers)
			UnlockRelationOid(table, ShareRowExclusiveLock);
		CHECK_FOR_INTERRUPTS();
		pg_usleep(LOCK_RETRY_MS * 1000L);
	}
}

static void
leave_tombstones(const pg_uuid_t *keys, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_tombstones (tombstone) SELECT unnest($1) ON CONFLICT DO NOTHING",
		.nargs = 1,.argtypes = {BYTEAARRAYOID}
	};
	Datum	   *tombstones = palloc_extended(sizeof(Datum) * Max(n, 1), MCXT_ALLOC_HUGE);

	cdi_keys_load();
	for (int i = 0; i < n; i++)
	{
		bytea	   *tombstone = palloc(VARHDRSZ + 32);

		SET_VARSIZE(tombstone, VARHDRSZ + 32);
		cdi_identifier_tombstone(&keys[i], (uint8 *) VARDATA(tombstone));
		tombstones[i] = PointerGetDatum(tombstone);
	}
	cdi_plan_execute(&plan, (Datum[]) {
		PointerGetDatum(construct_array(tombstones, n, BYTEAOID, -1, false, TYPALIGN_INT))
	}, NULL);
	cdi_tombstones_changed();
}

/*
 * What hangs on the identifiers in $1; their values, folded, are in $2: a trait
 * of another identifier may repeat one.
 */
static void
delete_rows(Datum keys, Datum values)
{
	static CdiPlan plans[] = {
		{.query = "UPDATE cdi.identity_links l SET (identifiers, types, \"values\") ="
			" (SELECT coalesce(array_agg(u.identifier ORDER BY u.n), '{}'),"
			" coalesce(array_agg(u.type ORDER BY u.n), '{}'), coalesce(array_agg(u.value ORDER BY u.n), '{}')"
			" FROM unnest(l.identifiers, l.types, l.\"values\") WITH ORDINALITY AS u (identifier, type, value, n)"
			" WHERE u.identifier <> ALL ($1)),"
			" traits = CASE WHEN l.identifiers[1] <> ALL ($1) THEN cdi._without_identifiers(l.traits, $1, $2) END"
			" WHERE l.identifiers && $1",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "UPDATE cdi.identity_links SET member = NULL WHERE member = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identity_map WHERE identifier = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identifier_traits WHERE identifier = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.computed_trait_deltas WHERE subject = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.computed_trait_values WHERE subject = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.computed_trait_counts WHERE subject = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.group_members WHERE group_identifier = ANY ($1) OR member = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identity_refusals WHERE identifier = ANY ($1) OR lower(value) = ANY ($2)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identity_merge_log WHERE absorbed = ANY ($1) OR survivor = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identity_splits WHERE person_id = ANY ($1) OR became = ANY ($1)",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}},
		{.query = "DELETE FROM cdi.identity_revocations WHERE identifier = ANY ($1) AND position IS NULL",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTARRAYOID}}
	};

	for (int i = 0; i < lengthof(plans); i++)
		cdi_plan_execute(&plans[i], (Datum[]) {keys, values}, NULL);
}

/* Identifiers that stay, and are linked with some that go */
static pg_uuid_t *
find_neighbours(Datum keys, int *n)
{
	static CdiPlan plan = {
		.query = "SELECT DISTINCT u.identifier FROM cdi.identity_links l, unnest(l.identifiers) AS u (identifier)"
		" WHERE l.identifiers && $1 AND u.identifier <> ALL ($1)",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	pg_uuid_t  *neighbours;

	cdi_plan_execute(&plan, &keys, NULL);
	*n = SPI_processed;
	neighbours = palloc_extended(sizeof(pg_uuid_t) * Max(*n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < *n; i++)
	{
		bool		isnull;

		neighbours[i] = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	return neighbours;
}

/* Keys that are asked for in one go: see EXPAND_KEYS in history.c */
#define RENEW_KEYS		64

/*
 * Other links of identifiers that were linked with erased ones may repeat
 * these in their traits; what is known of the identifiers is what is left.
 */
static void
renew_traits(const pg_uuid_t *identifiers, int n, Datum erased, Datum values)
{
	static CdiPlan scrub = {
		.query = "UPDATE cdi.identity_links l SET traits = s.traits FROM"
		" (SELECT position, cdi._without_identifiers(traits, $2, $3) AS traits FROM cdi.identity_links"
		" WHERE identifiers && $1 AND identifiers[1] = ANY ($1) AND traits IS NOT NULL) s"
		" WHERE l.position = s.position AND l.traits IS DISTINCT FROM s.traits",
		.nargs = 3,.argtypes = {UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID}
	};
	static CdiPlan clear = {
		.query = "DELETE FROM cdi.identifier_traits WHERE identifier = ANY ($1)",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	static CdiPlan plan = {
		.query = "SELECT identifiers[1], traits, linked_at, position, coalesce(source_id, 0) FROM cdi.identity_links"
		" WHERE identifiers && $1 AND identifiers[1] = ANY ($1) AND traits IS NOT NULL",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi renewed traits",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int first = 0; first < n; first += RENEW_KEYS)
	{
		Datum		keys;
		Datum		elements[RENEW_KEYS];
		int			count = Min(RENEW_KEYS, n - first);
		CdiTraitRows rows;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
			elements[i] = UUIDPGetDatum(&identifiers[first + i]);
		keys = cdi_uuid_array(elements, count);
		cdi_plan_execute(&scrub, (Datum[]) {keys, erased, values}, NULL);
		cdi_plan_execute(&clear, &keys, NULL);
		cdi_plan_execute(&plan, &keys, NULL);
		cdi_traits_begin(&rows, context);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Datum		row[5];
			bool		isnull;

			for (int c = 0; c < lengthof(row); c++)
				row[c] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1, &isnull);
			cdi_traits_append(&rows, DatumGetUUIDP(row[0]), row[1], DatumGetTimestampTz(row[2]),
							  DatumGetInt64(row[3]), DatumGetInt32(row[4]));
		}
		SPI_freetuptable(SPI_tuptable);
		cdi_traits_record(&rows);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static Datum
find_values(Datum keys, text *value)
{
	static CdiPlan plan = {
		.query = "SELECT coalesce(array_agg(DISTINCT lower(u.value)), '{}') || lower(btrim($2)) FROM cdi.identity_links l,"
		" unnest(l.identifiers, l.\"values\") AS u (identifier, value)"
		" WHERE l.identifiers && $1 AND u.identifier = ANY ($1) AND u.value IS NOT NULL",
		.nargs = 2,.argtypes = {UUIDARRAYOID, TEXTOID}
	};
	bool		isnull;

	/* an empty one is nobody's */
	cdi_plan_execute(&plan, (Datum[]) {
		keys, PointerGetDatum(value ? value : cstring_to_text(""))
	}, NULL);
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

/* value: what the caller called it, or NULL */
static void
erase(const pg_uuid_t *keys, int n, text *value)
{
	Datum	   *elements = palloc_extended(sizeof(Datum) * Max(n, 1), MCXT_ALLOC_HUGE);
	Datum		array;
	Datum		values;
	pg_uuid_t  *neighbours;
	int			nneighbours;

	for (int i = 0; i < n; i++)
		elements[i] = UUIDPGetDatum(&keys[i]);
	array = cdi_uuid_array(elements, n);
	leave_tombstones(keys, n);
	neighbours = find_neighbours(array, &nneighbours);
	values = find_values(array, value);
	delete_rows(array, values);
	if (nneighbours > 0)
	{
		renew_traits(neighbours, nneighbours, array, values);
		cdi_refold(neighbours, nneighbours, 0, NULL, NULL);
	}
}

static void
begin(const char *function, CdiOwnerScope *scope)
{
	cdi_prevent_in_recovery(function);
	PreventCommandIfReadOnly(psprintf("%s()", function));
	PreventCommandIfParallelMode(psprintf("%s()", function));
	cdi_require_storage();
	/* Links that its snapshot does not show would stay, and no tombstone keeps
	 * those out that are there already. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s() works under READ COMMITTED only", function),
				 errhint("SET TRANSACTION ISOLATION LEVEL READ COMMITTED at the start of the transaction.")));
	cdi_owner_enter(scope);
	SPI_connect();
	lock_out_others();
	(void) cdi_resolve_links();
	cdi_resolver_mark();
}

PG_FUNCTION_INFO_V1(cdi_erase_identifier);

Datum
cdi_erase_identifier(PG_FUNCTION_ARGS)
{
	char	   *type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiOwnerScope scope;
	pg_uuid_t	key;

	begin("cdi_erase_identifier", &scope);
	if (!cdi_identifier_key_of(cdi_identifier_type(type), (CdiText) {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)}, &key))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
				 errmsg("the value identifies nobody"),
				 errdetail("It is blocked, empty or malformed for type \"%s\".", type)));
	erase(&key, 1, argument);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(1);
}

PG_FUNCTION_INFO_V1(cdi_erase_person);

Datum
cdi_erase_person(PG_FUNCTION_ARGS)
{
	static CdiPlan plan = {
		.query = "SELECT identifier FROM cdi.identity_map WHERE person_id ="
		" coalesce((SELECT person_id FROM cdi.identity_map WHERE identifier = $1), $1)",
		.nargs = 1,.argtypes = {UUIDOID}
	};
	CdiOwnerScope scope;
	pg_uuid_t  *keys;
	int64		n;

	begin("cdi_erase_person", &scope);
	cdi_plan_execute(&plan, (Datum[]) {PG_GETARG_DATUM(0)}, NULL);
	n = SPI_processed;
	keys = palloc_extended(sizeof(pg_uuid_t) * (n + 1), MCXT_ALLOC_HUGE);
	for (int64 i = 0; i < n; i++)
	{
		bool		isnull;

		keys[i] = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	/* one that was never linked is its own person */
	if (n == 0)
		keys[n++] = *PG_GETARG_UUID_P(0);
	erase(keys, n, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(n);
}
