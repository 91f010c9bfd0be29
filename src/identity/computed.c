/*
 * computed.c
 *		Traits that are computed from events: their declarations, and what one
 *		event adds to one of them.
 *
 * Declarations are cached per backend, dropped by a relation-cache
 * invalidation that the table's trigger sends, and read again as they are
 * committed now, whatever snapshot the transaction works with.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "attribution/attribution.h"
#include "identity/identity.h"
#include "identity/traits.h"
#include "worker/worker.h"

/*
 * Numbers beyond are no amounts, and their sum could become more than numeric
 * can hold, or take kilobytes.
 */
#define MAX_DIGITS		100

/* Values of most_frequent are part of an index key. */
#define MAX_VALUE_SIZE	1000

static const char *const aggregate_names[] = {
	[CDI_COUNT] = "count",
	[CDI_SUM] = "sum",
	[CDI_MIN] = "min",
	[CDI_MAX] = "max",
	[CDI_FIRST] = "first",
	[CDI_LAST] = "last",
	[CDI_MOST_FREQUENT] = "most_frequent"
};

static MemoryContext cache_context = NULL;
static CdiComputedTrait *traits = NULL;
static int	ntraits = 0;
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

static CdiText
copy_text(Datum datum)
{
	text	   *value = DatumGetTextPP(datum);
	CdiText		copy;

	copy.len = VARSIZE_ANY_EXHDR(value);
	copy.data = pnstrdup(VARDATA_ANY(value), copy.len);
	return copy;
}

static CdiAggregate
aggregate_of(const char *name)
{
	for (int i = 0; i < lengthof(aggregate_names); i++)
		if (strcmp(aggregate_names[i], name) == 0)
			return i;
	elog(ERROR, "unknown aggregate \"%s\"", name);
}

static void
read_trait(CdiComputedTrait *trait, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value;

	trait->trait_id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
	trait->aggregate = aggregate_of(SPI_getvalue(tuple, desc, 2));
	trait->type = copy_text(SPI_getbinval(tuple, desc, 3, &isnull));
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	if (!isnull)
		trait->event = copy_text(value);
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	if (!isnull)
	{
		Datum	   *names;

		deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
						  &names, NULL, &trait->npath);
		trait->path = palloc(sizeof(CdiText) * Max(trait->npath, 1));
		for (int i = 0; i < trait->npath; i++)
			trait->path[i] = copy_text(names[i]);
	}
	value = SPI_getbinval(tuple, desc, 6, &isnull);
	if (!isnull)
		trait->filter = DatumGetJsonbPCopy(value);
}

static void
load(void)
{
	static CdiPlan plan = {
		.query = "SELECT trait_id, aggregate, type, event, property, filter FROM cdi.computed_traits ORDER BY trait_id"
	};
	MemoryContext old;

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(CacheMemoryContext, "cdi computed traits",
											  ALLOCSET_SMALL_SIZES);
	cdi_invalidation_register(invalidate);
	loaded = invalidated = false;
	cached_relation = cdi_relation_oid("computed_traits");
	ntraits = 0;
	if (OidIsValid(cached_relation))
	{
		cdi_plan_execute_latest(&plan);
		MemoryContextReset(cache_context);
		old = MemoryContextSwitchTo(cache_context);
		traits = palloc0(sizeof(CdiComputedTrait) * Max(SPI_processed, 1));
		for (uint64 i = 0; i < SPI_processed; i++)
			read_trait(&traits[i], SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		ntraits = SPI_processed;
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
		loaded = !invalidated;
	}
	/* else not yet updated to 0.2.0: look again next time */
}

const CdiComputedTrait *
cdi_computed_traits(int *count)
{
	AcceptInvalidationMessages();
	if (!loaded)
		load();
	*count = ntraits;
	return traits;
}

PG_FUNCTION_INFO_V1(cdi_computed_traits_changed);

Datum
cdi_computed_traits_changed(PG_FUNCTION_ARGS)
{
	(void) cdi_trigger_of(fcinfo, "computed_traits");
	CacheInvalidateRelcacheByRelid(cdi_relation_oid("computed_traits"));
	/* it counts what is there already */
	cdi_worker_wake_at_commit(CDI_WAKE_KEEPER);
	return PointerGetDatum(NULL);
}

/* What stands at the path, or NULL; an array's elements are numbered from 0. */
static JsonbValue *
follow(const CdiComputedTrait *trait, Jsonb *properties, JsonbValue *buffer)
{
	JsonbContainer *container = &properties->root;
	JsonbValue *value = NULL;

	for (int i = 0; i < trait->npath; i++)
	{
		CdiText		name = trait->path[i];

		if (i > 0 && value->type != jbvBinary)
			return NULL;
		if (i > 0)
			container = value->val.binary.data;
		if (JsonContainerIsObject(container))
			value = getKeyJsonValueFromContainer(container, name.data, name.len, buffer);
		else if (JsonContainerIsArray(container) && !JsonContainerIsScalar(container) &&
				 name.len <= 9 && strspn(name.data, "0123456789") == name.len)
			value = getIthJsonbValueFromContainer(container, atoi(name.data));
		else
			return NULL;
		if (value == NULL)
			return NULL;
	}
	return value == NULL || value->type == jbvNull ? NULL : value;
}

/* Does an amount look like this? */
static bool
is_amount(Datum number)
{
	static Numeric limit = NULL;
	Datum		size = DirectFunctionCall1(numeric_abs, number);

	if (limit == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		limit = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum("1e" CppAsString2(MAX_DIGITS)),
													ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		MemoryContextSwitchTo(old);
	}
	return DatumGetBool(DirectFunctionCall2(numeric_lt, size, NumericGetDatum(limit))) &&
		DatumGetInt32(DirectFunctionCall1(numeric_scale, number)) <= MAX_DIGITS;
}

static bool
contains(Jsonb *properties, Jsonb *filter)
{
	JsonbIterator *value;
	JsonbIterator *wanted;

	if (!JB_ROOT_IS_OBJECT(properties))
		return false;
	value = JsonbIteratorInit(&properties->root);
	wanted = JsonbIteratorInit(&filter->root);
	return JsonbDeepContains(&value, &wanted);
}

bool
cdi_computed_contribution(const CdiComputedTrait *trait, Jsonb *properties,
						  CdiContribution *contribution)
{
	JsonbValue	buffer;
	JsonbValue *value = NULL;

	memset(contribution, 0, sizeof(CdiContribution));
	if (trait->filter != NULL && (properties == NULL || !contains(properties, trait->filter)))
		return false;
	if (properties != NULL)
		value = follow(trait, properties, &buffer);
	/* only a count needs no value */
	if (value == NULL && (trait->npath > 0 || trait->aggregate != CDI_COUNT))
		return false;
	switch (trait->aggregate)
	{
		case CDI_COUNT:
			contribution->has_number = true;
			contribution->number = DirectFunctionCall1(int4_numeric, Int32GetDatum(1));
			break;
		case CDI_SUM:
		case CDI_MIN:
		case CDI_MAX:
			contribution->has_number = cdi_number_of(value, &contribution->number) &&
				is_amount(contribution->number);
			break;
		case CDI_MOST_FREQUENT:
			if (value->type == jbvBinary)
				break;
			/* fall through */
		case CDI_FIRST:
		case CDI_LAST:
			contribution->value = JsonbValueToJsonb(value);
			if (trait->aggregate == CDI_MOST_FREQUENT && VARSIZE(contribution->value) > MAX_VALUE_SIZE)
				contribution->value = NULL;
			break;
	}
	return true;
}

PG_FUNCTION_INFO_V1(cdi_computed_contribution_sql);

/* cdi._computed_contribution(trait_id, properties), for events of the past */
Datum
cdi_computed_contribution_sql(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[3] = {BoolGetDatum(false)};
	bool		nulls[3] = {false, true, true};
	CdiContribution contribution;

	int			i;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (i = 0; i < ntraits && !PG_ARGISNULL(0); i++)
		if (traits[i].trait_id == PG_GETARG_INT32(0))
			break;
	/* To say that nothing counts would be taken for an answer. */
	if (PG_ARGISNULL(0) || i == ntraits)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this function is internal to the folds of cdi")));
	if (cdi_computed_contribution(&traits[i], PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1),
								  &contribution))
	{
		values[0] = BoolGetDatum(true);
		values[1] = contribution.number;
		nulls[1] = !contribution.has_number;
		values[2] = JsonbPGetDatum(contribution.value);
		nulls[2] = contribution.value == NULL;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
