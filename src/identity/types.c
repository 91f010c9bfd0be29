/*
 * types.c
 *		Kinds of identifier, cached from cdi.identifier_types.
 *
 * The cache is dropped by a relation-cache invalidation, which the functions
 * that change the table send.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "identity/identity.h"

static MemoryContext cache_context = NULL;
static CdiIdentifierType *types = NULL;
static int	ntypes = 0;
static Oid	cached_relation = InvalidOid;
static uint64 generation = 0;
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

static CdiText
copy_text(Datum datum)
{
	text	   *value = DatumGetTextPP(datum);
	CdiText		copy;

	copy.len = VARSIZE_ANY_EXHDR(value);
	copy.data = pnstrdup(VARDATA_ANY(value), copy.len);
	return copy;
}

static CdiGraphKind
graph_kind(const char *name)
{
	return strcmp(name, "account") == 0 ? CDI_GRAPH_ACCOUNT :
		strcmp(name, "household") == 0 ? CDI_GRAPH_HOUSEHOLD : CDI_GRAPH_PERSON;
}

static void
load(void)
{
	static CdiPlan plan = {
		.query = "SELECT name, blocked, type_id::integer, graph, max_per_person,"
		" extract(epoch FROM limit_window)::bigint"
		" FROM cdi.identifier_types ORDER BY priority, name"
	};
	/* before ALTER EXTENSION UPDATE: events go on being stored */
	static CdiPlan plan_1 = {
		.query = "SELECT name, blocked, 0, 'person', NULL::integer, NULL::bigint"
		" FROM cdi.identifier_types ORDER BY priority"
	};
	MemoryContext old;

	if (cache_context == NULL)
	{
		cache_context = AllocSetContextCreate(CacheMemoryContext, "cdi identifier types",
											  ALLOCSET_SMALL_SIZES);
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	}
	cached_relation = cdi_relation_oid("identifier_types");
	loaded = invalidated = false;
	cdi_plan_execute_latest(get_attnum(cached_relation, "type_id") != InvalidAttrNumber ? &plan : &plan_1);
	MemoryContextReset(cache_context);
	types = NULL;
	old = MemoryContextSwitchTo(cache_context);
	ntypes = SPI_processed;
	types = palloc0(sizeof(CdiIdentifierType) * Max(ntypes, 1));
	for (int i = 0; i < ntypes; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		value;
		Datum	   *blocked;

		types[i].name = TextDatumGetCString(SPI_getbinval(tuple, desc, 1, &isnull));
		types[i].type_id = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull));
		types[i].graph = graph_kind(SPI_getvalue(tuple, desc, 4));
		value = SPI_getbinval(tuple, desc, 5, &isnull);
		types[i].max_per_person = isnull ? 0 : DatumGetInt32(value);
		value = SPI_getbinval(tuple, desc, 6, &isnull);
		types[i].limit_window = isnull ? 0 : DatumGetInt64(value);
		deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 2, &isnull)),
						  TEXTOID, -1, false, TYPALIGN_INT, &blocked, NULL, &types[i].nblocked);
		types[i].blocked = palloc(sizeof(CdiText) * Max(types[i].nblocked, 1));
		for (int k = 0; k < types[i].nblocked; k++)
			types[i].blocked[k] = copy_text(blocked[k]);
	}
	MemoryContextSwitchTo(old);
	generation++;
	loaded = !invalidated;
}

const CdiIdentifierType *
cdi_identifier_types(int *count)
{
	if (!loaded)
		load();
	*count = ntypes;
	return types;
}

uint64
cdi_identifier_types_generation(void)
{
	return generation;
}

bool
cdi_identifier_blocked(const CdiIdentifierType *type, CdiText value)
{
	int			i;

	/* nothing but zeros and dashes, as in a zeroed advertising id */
	for (i = 0; i < value.len && (value.data[i] == '0' || value.data[i] == '-'); i++)
		 /* keep looking */ ;
	if (i == value.len)
		return true;
	for (i = 0; i < type->nblocked; i++)
		if (type->blocked[i].len == value.len &&
			pg_strncasecmp(type->blocked[i].data, value.data, value.len) == 0)
			return true;
	return false;
}

PG_FUNCTION_INFO_V1(cdi_is_blocked);

/* False for a type that is no more. */
Datum
cdi_is_blocked(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiText		value = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};

	if (!loaded)
	{
		SPI_connect();
		load();
		SPI_finish();
	}
	for (int i = 0; i < ntypes; i++)
		if (strlen(types[i].name) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(types[i].name, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0)
			PG_RETURN_BOOL(cdi_identifier_blocked(&types[i], value));
	PG_RETURN_BOOL(false);
}
