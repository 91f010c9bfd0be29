/*
 * person_traits.c
 *		Traits of persons, read for one or for many.
 *
 * Two statements, however many persons there are: who they are, and what the
 * views cdi.person_traits and cdi.person_computed_traits have of them.  They
 * are planned once, without a look at the parameters, and through indexes: the
 * planner would judge by the size of tables that are about to grow, or plan
 * anew for every event.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "identity/identity.h"
#include "identity/traits.h"

static const char *const persons_query =
"SELECT k.number::integer, coalesce(m.person_id, k.key)"
" FROM unnest($1) WITH ORDINALITY AS k (key, number) LEFT JOIN cdi.identity_map m ON m.identifier = k.key";

/* Where both have a trait of a name, that which is computed comes last and stays. */
static const char *const traits_query =
"SELECT t.person_id, jsonb_object_agg(t.trait, t.value ORDER BY t.computed) FROM ("
" SELECT person_id, trait, value, false AS computed FROM cdi.person_traits"
" WHERE person_id = ANY ($1) AND ($2 IS NULL OR trait = ANY ($2))"
" UNION ALL"
" SELECT person_id, trait, value, true FROM cdi.person_computed_traits"
" WHERE person_id = ANY ($1) AND ($2 IS NULL OR trait = ANY ($2)) AND value IS NOT NULL) t"
" GROUP BY t.person_id";

static void
execute(SPIPlanPtr *plan, const char *query, int nargs, const Oid *types, Datum *values,
		const char *nulls, bool read_only)
{
	int			result;

	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(query, nargs, unconstify(Oid *, types));

		if (prepared == NULL)
			elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(prepared);
		*plan = prepared;
	}
	result = SPI_execute_plan(*plan, values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
}

static int
compare_persons(const void *a, const void *b)
{
	return memcmp(&((const CdiPersonTraits *) a)->person_id,
				  &((const CdiPersonTraits *) b)->person_id, UUID_LEN);
}

/* Sorts persons by person_id. */
void
cdi_person_traits_lookup(CdiPersonTraits *persons, int n,
						 char **names, int nnames, bool read_only)
{
	static const char *const settings[][2] = {
		{"plan_cache_mode", "force_generic_plan"}, {"enable_seqscan", "off"},
		{"enable_hashjoin", "off"}, {"enable_mergejoin", "off"}, {"enable_material", "off"}
	};
	static const Oid types[] = {UUIDARRAYOID, TEXTARRAYOID};
	static SPIPlanPtr persons_plan = NULL;
	static SPIPlanPtr traits_plan = NULL;
	MemoryContext context = CurrentMemoryContext;
	int			nestlevel = NewGUCNestLevel();
	Datum	   *keys = palloc(sizeof(Datum) * Max(n, 1));
	Datum		values[2] = {0};
	bool		isnull;
	int			distinct = 0;

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < n; i++)
		keys[i] = UUIDPGetDatum(&persons[i].key);
	values[0] = cdi_uuid_array(keys, n);
	execute(&persons_plan, persons_query, 1, types, values, NULL, read_only);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int			i = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull)) - 1;

		persons[i].person_id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 2, &isnull));
		persons[i].traits = NULL;
	}
	SPI_freetuptable(SPI_tuptable);

	qsort(persons, n, sizeof(CdiPersonTraits), compare_persons);
	for (int i = 0; i < n; i++)
		if (i == 0 || compare_persons(&persons[i - 1], &persons[i]) != 0)
			keys[distinct++] = UUIDPGetDatum(&persons[i].person_id);
	values[0] = cdi_uuid_array(keys, distinct);
	if (names != NULL)
	{
		Datum	   *texts = palloc(sizeof(Datum) * Max(nnames, 1));

		for (int i = 0; i < nnames; i++)
			texts[i] = CStringGetTextDatum(names[i]);
		values[1] = PointerGetDatum(construct_array(texts, nnames, TEXTOID, -1, false, TYPALIGN_INT));
	}
	execute(&traits_plan, traits_query, 2, types, values, names == NULL ? " n" : NULL, read_only);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		CdiPersonTraits wanted;
		CdiPersonTraits *person;
		MemoryContext old = MemoryContextSwitchTo(context);
		Jsonb	   *traits = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 2, &isnull));

		MemoryContextSwitchTo(old);
		wanted.person_id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &isnull));
		person = bsearch(&wanted, persons, n, sizeof(CdiPersonTraits), compare_persons);
		while (person > persons && compare_persons(person - 1, &wanted) == 0)
			person--;
		for (; person < persons + n && compare_persons(person, &wanted) == 0; person++)
			person->traits = traits;
	}
	SPI_freetuptable(SPI_tuptable);
	AtEOXact_GUC(true, nestlevel);
}

PG_FUNCTION_INFO_V1(cdi_person_traits);

Datum
cdi_person_traits(PG_FUNCTION_ARGS)
{
	CdiPersonTraits person = {.key = *PG_GETARG_UUID_P(0)};
	MemoryContext context = CurrentMemoryContext;
	CdiOwnerScope scope;
	Jsonb	   *result;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	MemoryContextSwitchTo(context);
	cdi_person_traits_lookup(&person, 1, NULL, 0, true);
	result = person.traits;
	SPI_finish();
	cdi_owner_leave(&scope);
	if (result == NULL)
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	PG_RETURN_JSONB_P(result);
}
