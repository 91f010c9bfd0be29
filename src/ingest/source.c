/*
 * source.c
 *		Sources: which write key or name belongs to which, and who may send.
 *
 * The whole of cdi.sources and cdi.source_grants is cached per backend (both
 * are small) and dropped by a relation-cache invalidation, which the SQL
 * functions that change them send.  A key that is not found is looked up again
 * in fresh rows, once per transaction, before it is called unknown.
 *
 * What a lookup returned stays valid until the transaction ends, whatever is
 * read anew meanwhile, and can be found again by its id, even if the source is
 * deleted: rows that were replaced go with the transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "ingest/ingest.h"

typedef struct CachedSource
{
	CdiSource	source;
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
	uint8		previous_hash[PG_SHA256_DIGEST_LENGTH];
	bool		has_key;
	bool		has_previous;
	TimestampTz previous_until;
	int			ngrants;
	char	  **grants;			/* role names */
} CachedSource;

/* A key besides the source's own (cdi.source_keys) */
typedef struct CachedKey
{
	int32		source_id;
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
} CachedKey;

/* What one load() has read, in a context of its own */
typedef struct Generation
{
	MemoryContext context;
	LocalTransactionId loaded_in;
	struct Generation *older;	/* only in the transaction loaded_in */
	int			nsources;
	CachedSource *sources;
	int			nkeys;
	CachedKey  *keys;
} Generation;

static Generation *current = NULL;
static Oid	cached_relation = InvalidOid;
static bool loaded = false;
static bool invalidated = false;	/* since the last load() began */

static void
invalidate(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == cached_relation)
	{
		loaded = false;
		invalidated = true;
	}
}

static bool
get_hash(HeapTuple tuple, TupleDesc desc, int column, uint8 *hash)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);

	if (isnull || VARSIZE_ANY_EXHDR(DatumGetByteaPP(datum)) != PG_SHA256_DIGEST_LENGTH)
		return false;
	memcpy(hash, VARDATA_ANY(DatumGetByteaPP(datum)), PG_SHA256_DIGEST_LENGTH);
	return true;
}

LocalTransactionId
cdi_transaction(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProc->vxid.lxid;
#else
	return MyProc->lxid;
#endif
}

/* Strings of a text array, in the current memory context */
static char **
get_strings(HeapTuple tuple, TupleDesc desc, int column, int *count)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);
	Datum	   *items;
	char	  **result;

	*count = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false, TYPALIGN_INT,
					  &items, NULL, count);
	result = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = TextDatumGetCString(items[i]);
	return result;
}

/* What cdi_alter_source() sets; a null is a limit that there is not. */
static void
get_settings(HeapTuple tuple, TupleDesc desc, int column, CdiSource *source)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);
	char	   *address;
	char	   *cookieless;

	source->rate_limit = isnull ? 0 : DatumGetFloat8(datum);
	datum = SPI_getbinval(tuple, desc, column + 1, &isnull);
	source->rate_burst = isnull ? 0 : DatumGetInt32(datum);
	datum = SPI_getbinval(tuple, desc, column + 2, &isnull);
	source->max_body = isnull ? 0 : DatumGetInt32(datum);
	datum = SPI_getbinval(tuple, desc, column + 3, &isnull);
	source->keep_original = !isnull && DatumGetBool(datum);
	address = SPI_getvalue(tuple, desc, column + 4);
	source->client_address = address == NULL ? CDI_ADDRESS_AUTO :
		strcmp(address, "always") == 0 ? CDI_ADDRESS_ALWAYS :
		strcmp(address, "never") == 0 ? CDI_ADDRESS_NEVER : CDI_ADDRESS_AUTO;
	source->allowed_origins = SPI_getvalue(tuple, desc, column + 5);
	source->person_traits = get_strings(tuple, desc, column + 6, &source->nperson_traits);
	cookieless = SPI_getvalue(tuple, desc, column + 7);
	source->cookieless = cookieless == NULL ? CDI_COOKIELESS_OFF :
		strcmp(cookieless, "missing") == 0 ? CDI_COOKIELESS_MISSING :
		strcmp(cookieless, "always") == 0 ? CDI_COOKIELESS_ALWAYS : CDI_COOKIELESS_OFF;
}

/* Further keys, into the current memory context */
static CachedKey *
load_keys(int *count)
{
	static CdiPlan plan = {
		.query = "SELECT source_id, key_hash FROM cdi.source_keys"
	};
	CachedKey  *result;
	MemoryContext context = CurrentMemoryContext;

	*count = 0;
	/* Not there until the extension is updated to 0.2.0. */
	if (!OidIsValid(cdi_relation_oid("source_keys")))
		return NULL;
	cdi_plan_execute_latest(&plan);
	MemoryContextSwitchTo(context);
	result = palloc(sizeof(CachedKey) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		CachedKey  *key = &result[*count];
		bool		isnull;

		key->source_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 1, &isnull));
		if (get_hash(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, key->hash))
			(*count)++;
	}
	return result;
}

/*
 * On an error, and where an invalidation arrives meanwhile, the cache is read
 * again the next time.
 */
static void
load(void)
{
#define COLUMNS "SELECT source_id, name, enabled, write_key_hash, previous_key_hash, previous_key_until," \
		" (SELECT pg_catalog.array_agg(role_name::text) FROM cdi.source_grants g WHERE g.source_id OPERATOR(pg_catalog.=) s.source_id)"
	static CdiPlan plan = {
		.query = COLUMNS ", rate_limit, rate_burst, max_body, keep_original, client_address, allowed_origins,"
		" (SELECT pg_catalog.array_agg(t) FROM pg_catalog.jsonb_array_elements_text(person_traits) t), cookieless FROM cdi.sources s"
	};
	/* until the extension is updated to 0.2.0 */
	static CdiPlan plan_0_1 = {
		.query = COLUMNS ", NULL::float8, NULL::int4, NULL::int4, false, 'auto', NULL::text, NULL::text[], 'off' FROM cdi.sources s"
	};
	CdiOwnerScope scope;
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context;
	Generation *read;

	cdi_invalidation_register(invalidate);
	cdi_owner_enter(&scope);
	SPI_connect();
	cached_relation = cdi_relation_oid("sources");
	loaded = invalidated = false;
	cdi_plan_execute_latest(get_attnum(cached_relation, "rate_limit") != InvalidAttrNumber ?
							&plan : &plan_0_1);
	context = AllocSetContextCreate(TopTransactionContext, "cdi sources", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	read = palloc0(sizeof(Generation));
	read->context = context;
	read->loaded_in = cdi_transaction();
	read->nsources = SPI_processed;
	read->sources = palloc0(sizeof(CachedSource) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		CachedSource *cached = &read->sources[i];
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		datum;

		cached->source.source_id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		strlcpy(cached->source.name, TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull)),
				sizeof(cached->source.name));
		cached->source.enabled = DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
		cached->has_key = get_hash(tuple, desc, 4, cached->hash);
		cached->has_previous = get_hash(tuple, desc, 5, cached->previous_hash);
		datum = SPI_getbinval(tuple, desc, 6, &isnull);
		cached->previous_until = isnull ? DT_NOBEGIN : DatumGetTimestampTz(datum);
		cached->grants = get_strings(tuple, desc, 7, &cached->ngrants);
		get_settings(tuple, desc, 8, &cached->source);
	}
	read->keys = load_keys(&read->nkeys);
	read->older = current;
	MemoryContextSetParent(context, CacheMemoryContext);
	if (current != NULL)
		MemoryContextSetParent(current->context, TopTransactionContext);
	current = read;
	loaded = !invalidated;
	MemoryContextSwitchTo(old);
	SPI_finish();
	cdi_owner_leave(&scope);
}

static void
ensure_loaded(void)
{
	/* A transaction must run, so that invalidations are seen. */
	Assert(IsTransactionState());
	AcceptInvalidationMessages();
	if (!loaded)
		load();
}

const CdiSource *
cdi_source_by_name(const char *name)
{
	ensure_loaded();
	for (int i = 0; i < current->nsources; i++)
		if (strcmp(current->sources[i].source.name, name) == 0)
			return &current->sources[i].source;
	return NULL;
}

const CdiSource *
cdi_source_by_id(int32 source_id)
{
	ensure_loaded();
	for (Generation *read = current; read != NULL;
		 read = read->loaded_in == cdi_transaction() ? read->older : NULL)
		for (int i = 0; i < read->nsources; i++)
			if (read->sources[i].source.source_id == source_id)
				return &read->sources[i].source;
	return NULL;
}

static void
sha256(const char *data, int len, uint8 *digest)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, len) < 0 ||
		pg_cryptohash_final(context, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(context);
}

/* Compares in constant time: the hash hides the key, the timing hides the hash. */
static bool
same_hash(const uint8 *a, const uint8 *b)
{
	uint8		difference = 0;

	for (int i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

static const CdiSource *
find_key(const uint8 *digest)
{
	for (int i = 0; i < current->nsources; i++)
	{
		CachedSource *cached = &current->sources[i];

		if (cached->has_key && same_hash(cached->hash, digest))
			return &cached->source;
		if (cached->has_previous && same_hash(cached->previous_hash, digest) &&
			cached->previous_until > GetCurrentTimestamp())
			return &cached->source;
	}
	for (int i = 0; i < current->nkeys; i++)
		if (same_hash(current->keys[i].hash, digest))
			return cdi_source_by_id(current->keys[i].source_id);
	return NULL;
}

const CdiSource *
cdi_source_by_write_key(const char *write_key, int len)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	const CdiSource *found;

	sha256(write_key, len, digest);
	ensure_loaded();
	found = find_key(digest);
	if (found == NULL && current->loaded_in != cdi_transaction())
	{
		load();
		found = find_key(digest);
	}
	return found;
}

static bool
owns_relation(Oid relation, Oid user)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relation, user);
#else
	return pg_class_ownercheck(relation, user);
#endif
}

static void
check_grant(const CdiSource *source)
{
	const CachedSource *cached = (const CachedSource *) source;
	Oid			user = GetUserId();
	Oid			relation = cdi_relation_oid("sources");

	if (!source->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_SOURCE_DISABLED),
				 errmsg("source \"%s\" is disabled", source->name),
				 errhint("SELECT cdi_enable_source('%s') turns it on again.", source->name)));
	if (owns_relation(relation, user))
		return;
	for (int i = 0; i < cached->ngrants; i++)
	{
		Oid			role = get_role_oid(cached->grants[i], true);

		if (OidIsValid(role) && has_privs_of_role(user, role))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_CDI_SOURCE_NOT_GRANTED),
			 errmsg("role \"%s\" may not send events to source \"%s\"",
					GetUserNameFromId(user, false), source->name),
			 errhint("An administrator can run SELECT cdi_grant_source('%s', '%s').",
					 source->name, GetUserNameFromId(user, false))));
}

PG_FUNCTION_INFO_V1(cdi_sources_changed);

/* Every backend reads sources, identifier types and identity key anew after commit. */
Datum
cdi_sources_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(cdi_relation_oid("sources"));
	CacheInvalidateRelcacheByRelid(cdi_relation_oid("identifier_types"));
	CacheInvalidateRelcacheByRelid(cdi_relation_oid("identity_key"));

	/* version 0.1.0 calls it as a function of its own */
	if (!CALLED_AS_TRIGGER(fcinfo))
		PG_RETURN_VOID();
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(cdi_random_bytes);

Datum
cdi_random_bytes(PG_FUNCTION_ARGS)
{
	int32		length = PG_GETARG_INT32(0);
	bytea	   *result;

	if (length < 1 || length > 1024)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("length must be between 1 and 1024")));
	result = palloc(VARHDRSZ + length);
	SET_VARSIZE(result, VARHDRSZ + length);
	if (!pg_strong_random(VARDATA(result), length))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
	PG_RETURN_BYTEA_P(result);
}

const CdiSource *
cdi_source_for_write(const char *name)
{
	const CdiSource *source = cdi_source_by_name(name);

	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_SOURCE),
				 errmsg("source \"%s\" does not exist", name),
				 errhint("SELECT cdi_create_source('%s') creates it.", name)));
	check_grant(source);
	return source;
}
