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
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
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
 * Keys and links that are asked for in one go: for each row that it finds, a
 * GIN index looks at every key of the question.
 */
#define BLOCK_KEYS		64
#define BLOCK_LINKS		1024

static HTAB *
make_set(const char *name, Size keysize)
{
	HASHCTL		control = {.keysize = keysize,.entrysize = keysize,.hcxt = CurrentMemoryContext};

	return hash_create(name, 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* What links say of identifiers that go */
typedef struct Mentions
{
	int			nlinks;
	Datum	   *links;			/* positions, each once */
	int			n;
	int			capacity;
	Datum	   *positions;		/* per link and identifier */
	Datum	   *identifiers;
	int			nneighbours;	/* identifiers that stay, and are linked with some
								 * that go */
	pg_uuid_t  *neighbours;
} Mentions;

static CdiText
text_at(Datum datum)
{
	text	   *value = DatumGetTextPP(datum);

	return (CdiText) {VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)};
}

static void
add_mention(Mentions *mentions, int64 position, const pg_uuid_t *key)
{
	pg_uuid_t  *copy = palloc(sizeof(pg_uuid_t));

	if (mentions->n == mentions->capacity)
	{
		mentions->capacity *= 2;
		mentions->positions = repalloc_huge(mentions->positions, sizeof(Datum) * mentions->capacity);
		mentions->identifiers = repalloc_huge(mentions->identifiers, sizeof(Datum) * mentions->capacity);
	}
	*copy = *key;
	mentions->positions[mentions->n] = Int64GetDatum(position);
	mentions->identifiers[mentions->n++] = UUIDPGetDatum(copy);
}

/* Elements of an array, by number */
typedef struct Elements
{
	int			n;
	Datum	   *values;
	bool	   *nulls;
} Elements;

static Elements
elements_of(HeapTuple tuple, TupleDesc desc, int column, Oid type)
{
	Elements	elements;
	bool		isnull;
	Datum		array = SPI_getbinval(tuple, desc, column, &isnull);

	deconstruct_array(DatumGetArrayTypeP(array), type, type == UUIDOID ? UUID_LEN : -1, false,
					  type == UUIDOID ? TYPALIGN_CHAR : TYPALIGN_INT,
					  &elements.values, &elements.nulls, &elements.n);
	return elements;
}

/* Which links mention what goes, what it was called, and who is its neighbour */
static void
find_mentions(const pg_uuid_t *keys, int n, CdiErased *erased, Mentions *mentions)
{
	static CdiPlan plan = {
		.query = "SELECT position, identifiers, \"values\" FROM cdi.identity_links WHERE identifiers && $1",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	HTAB	   *links = make_set("cdi links", sizeof(int64));
	HTAB	   *neighbours = make_set("cdi neighbours", UUID_LEN);
	HASH_SEQ_STATUS scan;
	void	   *entry;

	memset(mentions, 0, sizeof(Mentions));
	mentions->capacity = n + 64;
	mentions->positions = palloc_extended(sizeof(Datum) * mentions->capacity, MCXT_ALLOC_HUGE);
	mentions->identifiers = palloc_extended(sizeof(Datum) * mentions->capacity, MCXT_ALLOC_HUGE);
	for (int first = 0; first < n; first += BLOCK_KEYS)
	{
		Datum		block[BLOCK_KEYS];
		int			count = Min(BLOCK_KEYS, n - first);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
			block[i] = UUIDPGetDatum(&keys[first + i]);
		cdi_plan_execute(&plan, (Datum[]) {cdi_uuid_array(block, count)}, NULL);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			bool		found;
			int64		position = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &found));
			Elements	identifiers;
			Elements	values;

			(void) hash_search(links, &position, HASH_ENTER, &found);
			if (found)
				continue;
			identifiers = elements_of(row, SPI_tuptable->tupdesc, 2, UUIDOID);
			values = elements_of(row, SPI_tuptable->tupdesc, 3, TEXTOID);
			for (int k = 0; k < identifiers.n; k++)
			{
				pg_uuid_t  *key = DatumGetUUIDP(identifiers.values[k]);

				if (!cdi_erased_key(erased, key))
					(void) hash_search(neighbours, key, HASH_ENTER, NULL);
				else
				{
					add_mention(mentions, position, key);
					if (k < values.n && !values.nulls[k])
						cdi_erased_add_value(erased, text_at(values.values[k]));
				}
			}
		}
		SPI_freetuptable(SPI_tuptable);
	}

	mentions->links = palloc_extended(sizeof(Datum) * (hash_get_num_entries(links) + 1), MCXT_ALLOC_HUGE);
	hash_seq_init(&scan, links);
	while ((entry = hash_seq_search(&scan)) != NULL)
		mentions->links[mentions->nlinks++] = Int64GetDatum(*(int64 *) entry);
	mentions->neighbours = palloc_extended(sizeof(pg_uuid_t) * (hash_get_num_entries(neighbours) + 1), MCXT_ALLOC_HUGE);
	hash_seq_init(&scan, neighbours);
	while ((entry = hash_seq_search(&scan)) != NULL)
		mentions->neighbours[mentions->nneighbours++] = *(pg_uuid_t *) entry;
	hash_destroy(links);
	hash_destroy(neighbours);
}

/* Those elements that belong to an identifier that stays */
static Datum
left_over(const Elements *elements, const bool *goes, int n, Oid type)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(elements->n, 1));
	bool	   *nulls = palloc(Max(elements->n, 1));
	int			count = 0;
	int			lower_bound = 1;

	for (int k = 0; k < elements->n; k++)
		if (k >= n || !goes[k])
		{
			values[count] = elements->values[k];
			nulls[count++] = elements->nulls != NULL && elements->nulls[k];
		}
	if (count == 0)
		return PointerGetDatum(construct_empty_array(type));
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower_bound, type,
											  type == UUIDOID ? UUID_LEN : -1, false,
											  type == UUIDOID ? TYPALIGN_CHAR : TYPALIGN_INT));
}

static Datum
scrubbed(CdiErased *erased, Datum traits, bool *isnull, bool *changed)
{
	Jsonb	   *left = cdi_erased_scrub(erased, DatumGetJsonbP(traits), changed);

	*isnull = left == NULL;
	return JsonbPGetDatum(left);
}

/* Take what goes out of a link: with its first identifier go all its traits. */
static void
rewrite_link(HeapTuple row, TupleDesc desc, CdiErased *erased)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.identity_links SET identifiers = $2, types = $3, \"values\" = $4, traits = $5 WHERE position = $1",
		.nargs = 5,.argtypes = {INT8OID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBOID}
	};
	Elements	identifiers = elements_of(row, desc, 2, UUIDOID);
	Elements	types = elements_of(row, desc, 3, TEXTOID);
	Elements	values = elements_of(row, desc, 4, TEXTOID);
	bool	   *goes = palloc(Max(identifiers.n, 1));
	bool		isnull;
	bool		no_traits;
	bool		changed;
	Datum		traits = SPI_getbinval(row, desc, 5, &no_traits);

	for (int k = 0; k < identifiers.n; k++)
		goes[k] = cdi_erased_key(erased, DatumGetUUIDP(identifiers.values[k]));
	if (identifiers.n == 0 || goes[0])
		no_traits = true;
	else if (!no_traits)
		traits = scrubbed(erased, traits, &no_traits, &changed);
	cdi_plan_execute(&plan, (Datum[]) {
		SPI_getbinval(row, desc, 1, &isnull),
			left_over(&identifiers, goes, identifiers.n, UUIDOID),
			left_over(&types, goes, identifiers.n, TEXTOID),
			left_over(&values, goes, identifiers.n, TEXTOID), traits
	}, no_traits ? "    n" : NULL);
}

static void
rewrite_links(const Mentions *mentions, CdiErased *erased)
{
	static CdiPlan plan = {
		.query = "SELECT l.position, l.identifiers, l.types, l.\"values\", l.traits"
		" FROM unnest($1) AS p (position) JOIN cdi.identity_links l USING (position)",
		.nargs = 1,.argtypes = {INT8ARRAYOID}
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi erased links",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int first = 0; first < mentions->nlinks; first += BLOCK_LINKS)
	{
		SPITupleTable *rows;
		uint64		count;

		CHECK_FOR_INTERRUPTS();
		cdi_plan_execute(&plan, (Datum[]) {
			cdi_int8_array(mentions->links + first, Min(BLOCK_LINKS, mentions->nlinks - first))
		}, NULL);
		rows = SPI_tuptable;
		count = SPI_processed;
		for (uint64 i = 0; i < count; i++)
			rewrite_link(rows->vals[i], rows->tupdesc, erased);
		SPI_freetuptable(rows);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * What else hangs on the identifiers: keys ($1), values in lower case ($2),
 * which links mentioned which of them ($3, $4).  Each goes through an index,
 * as often as there are elements, which OFFSET 0 keeps the planner to: of a
 * column that mostly has one value it would rather compare each row with each
 * element.
 */
#define ROWS_BY(table, elements, condition) \
	elements " AS e (key), LATERAL (SELECT r.ctid FROM cdi." table " r WHERE " condition " = e.key OFFSET 0) AS o" \
	" WHERE x.ctid = o.ctid"
#define DELETE_BY(table, column) \
	{.query = "DELETE FROM cdi." table " x USING " ROWS_BY(table, "unnest($1)", "r." column), \
	.nargs = 4,.argtypes = {UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}}

static void
delete_rows(Datum keys, Datum values, const Mentions *mentions)
{
	static CdiPlan plans[] = {
		{.query = "UPDATE cdi.identity_links x SET member = NULL FROM " ROWS_BY("identity_links", "unnest($1)", "r.member"),
		.nargs = 4,.argtypes = {UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}},
		DELETE_BY("identity_map", "identifier"),
		DELETE_BY("identifier_traits", "identifier"),
		DELETE_BY("computed_trait_values", "subject"),
		DELETE_BY("computed_trait_counts", "subject"),
		DELETE_BY("group_members", "group_identifier"),
		DELETE_BY("group_members", "member"),
		DELETE_BY("identity_refusals", "identifier"),
		{.query = "DELETE FROM cdi.identity_refusals x USING " ROWS_BY("identity_refusals", "unnest($2)", "lower(r.value)"),
		.nargs = 4,.argtypes = {UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}},
		DELETE_BY("identity_merge_log", "absorbed"),
		DELETE_BY("identity_merge_log", "survivor"),
		/* others that it joined */
		{.query = "UPDATE cdi.identity_merge_log m SET identifier = NULL"
			" FROM unnest($3, $4) AS e (position, identifier)"
			" WHERE m.position = e.position AND m.identifier = e.identifier",
		.nargs = 4,.argtypes = {UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}},
		DELETE_BY("identity_splits", "person_id"),
		DELETE_BY("identity_splits", "became"),
		{.query = "DELETE FROM cdi.identity_revocations x USING " ROWS_BY("identity_revocations", "unnest($1)", "r.position IS NULL AND r.identifier"),
		.nargs = 4,.argtypes = {UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}}
	};
	/* a queue, which a run empties: it has no such index, and is read once */
	static CdiPlan deltas = {
		.query = "DELETE FROM cdi.computed_trait_deltas WHERE subject IN (SELECT unnest($1))",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	Datum		arguments[4] = {
		keys, values, cdi_int8_array(mentions->positions, mentions->n),
		cdi_uuid_array(mentions->identifiers, mentions->n)
	};
	int			nestlevel;

	cdi_plan_execute(&deltas, &keys, NULL);
	nestlevel = cdi_force_index_plans();
	for (int i = 0; i < lengthof(plans); i++)
	{
		CHECK_FOR_INTERRUPTS();
		cdi_plan_execute(&plans[i], arguments, NULL);
	}
	AtEOXact_GUC(true, nestlevel);
}

/*
 * Other links of identifiers that were linked with erased ones may repeat
 * these in their traits; what is known of the identifiers is what is left.
 */
static void
renew_traits(const pg_uuid_t *identifiers, int n, CdiErased *erased)
{
	static CdiPlan plan = {
		.query = "SELECT position, traits, identifiers[1], linked_at, coalesce(source_id, 0) FROM cdi.identity_links"
		" WHERE identifiers && $1 AND identifiers[1] = ANY ($1) AND traits IS NOT NULL",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	static CdiPlan update = {
		.query = "UPDATE cdi.identity_links SET traits = $2 WHERE position = $1",
		.nargs = 2,.argtypes = {INT8OID, JSONBOID}
	};
	static CdiPlan clear = {
		.query = "DELETE FROM cdi.identifier_traits WHERE identifier = ANY ($1)",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi renewed traits",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int first = 0; first < n; first += BLOCK_KEYS)
	{
		Datum		keys;
		Datum		elements[BLOCK_KEYS];
		int			count = Min(BLOCK_KEYS, n - first);
		CdiTraitRows rows;
		SPITupleTable *links;
		uint64		nlinks;
		int			nestlevel;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
			elements[i] = UUIDPGetDatum(&identifiers[first + i]);
		keys = cdi_uuid_array(elements, count);
		nestlevel = cdi_force_index_plans();
		cdi_plan_execute(&clear, &keys, NULL);
		cdi_plan_execute(&plan, &keys, NULL);
		links = SPI_tuptable;
		nlinks = SPI_processed;
		cdi_traits_begin(&rows, context);
		for (uint64 i = 0; i < nlinks; i++)
		{
			Datum		row[5];
			bool		isnull;
			bool		changed;

			for (int c = 0; c < lengthof(row); c++)
				row[c] = SPI_getbinval(links->vals[i], links->tupdesc, c + 1, &isnull);
			row[1] = scrubbed(erased, row[1], &isnull, &changed);
			if (changed)
				cdi_plan_execute(&update, row, isnull ? " n" : NULL);
			if (!isnull)
				cdi_traits_append(&rows, DatumGetUUIDP(row[2]), row[1], DatumGetTimestampTz(row[3]),
								  DatumGetInt64(row[0]), DatumGetInt32(row[4]));
		}
		SPI_freetuptable(links);
		AtEOXact_GUC(true, nestlevel);
		cdi_traits_record(&rows);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* value: what the caller called it, or NULL */
static void
erase(const pg_uuid_t *keys, int n, text *value)
{
	Datum	   *elements = palloc_extended(sizeof(Datum) * Max(n, 1), MCXT_ALLOC_HUGE);
	CdiErased  *erased = cdi_erased_create(keys, n);
	Mentions	mentions;
	int			nestlevel;

	for (int i = 0; i < n; i++)
		elements[i] = UUIDPGetDatum(&keys[i]);
	leave_tombstones(keys, n);
	if (value != NULL)
		cdi_erased_add_value(erased, text_at(PointerGetDatum(value)));
	nestlevel = cdi_force_index_plans();
	find_mentions(keys, n, erased, &mentions);
	rewrite_links(&mentions, erased);
	AtEOXact_GUC(true, nestlevel);
	delete_rows(cdi_uuid_array(elements, n), cdi_erased_values(erased), &mentions);
	if (mentions.nneighbours > 0)
	{
		renew_traits(mentions.neighbours, mentions.nneighbours, erased);
		cdi_refold(mentions.neighbours, mentions.nneighbours, 0, NULL, NULL);
	}
}

/*
 * A person's id is a key, which says nothing by itself: it must occur.  That of
 * an identifier that was never linked is in events alone, which are read
 * whole, so before anybody is kept out.
 */
static void
require_person(const pg_uuid_t *person)
{
	static CdiPlan graph = {
		.query = "SELECT 1 FROM cdi.identity_map WHERE identifier = $1"
		" UNION ALL SELECT 1 FROM cdi.identity_links WHERE identifiers && ARRAY[$1]"
		" UNION ALL SELECT 1 FROM cdi.identity_refusals WHERE identifier = $1"
		" UNION ALL SELECT 1 FROM cdi.group_members WHERE member = $1"
		" UNION ALL SELECT 1 FROM cdi.computed_trait_values WHERE subject = $1 LIMIT 1",
		.nargs = 1,.argtypes = {UUIDOID}
	};
	static CdiPlan events = {
		.query = "SELECT FROM cdi.events WHERE subject = $1 LIMIT 1",
		.nargs = 1,.argtypes = {UUIDOID}
	};
	Datum		key = UUIDPGetDatum(person);
	int			nestlevel = cdi_force_index_plans();

	cdi_plan_execute(&graph, &key, NULL);
	AtEOXact_GUC(true, nestlevel);
	if (SPI_processed == 0)
		cdi_plan_execute(&events, &key, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
				 errmsg("there is no such person"),
				 errdetail("%s is neither a person's id nor the key of an identifier, nor the subject of an event.",
						   DatumGetCString(DirectFunctionCall1(uuid_out, key))),
				 errhint("cdi_erase_identifier() also keeps out an identifier that has not come yet.")));
}

/* person: what is to be erased, where it is a person */
static void
begin(const char *function, const pg_uuid_t *person, CdiOwnerScope *scope)
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
	if (person != NULL)
		require_person(person);
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

	begin("cdi_erase_identifier", NULL, &scope);
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
	int			nestlevel;

	begin("cdi_erase_person", PG_GETARG_UUID_P(0), &scope);
	nestlevel = cdi_force_index_plans();
	cdi_plan_execute(&plan, (Datum[]) {PG_GETARG_DATUM(0)}, NULL);
	AtEOXact_GUC(true, nestlevel);
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
