/*
 * traits.c
 *		Traits that calls set, per identifier and source, by their policy.
 *
 * A row of cdi.identifier_traits is what its source has said of its identifier
 * so far, reduced by the trait's policy: the newest value, the oldest, the
 * greatest, the smallest, or the set of all.  Each is an operation in which
 * neither order nor repetition counts, so what a fold leaves does not depend
 * on batches, and a policy that changes is applied to the links there are, even
 * to those that a fold will bring again.
 *
 * Statements work on a whole batch, one for each kind of policy that is in
 * use: the one for the newest value is always there, the others only where
 * cdi.trait_policies says so.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "identity/identity.h"
#include "identity/traits.h"

/*
 * A name is part of an index key: longer ones name no trait of a person.  The
 * event and its link have them.
 */
#define MAX_TRAIT_NAME		"512"
/* What a set holds, per identifier and source */
#define MAX_SET_VALUES		"1000"
#define MAX_SET_VALUE		"1000"

/* How a policy reduces what one source says of one identifier */
typedef struct Reduction
{
	const char *policy;
	const char *order;			/* the first of a batch is the one that counts */
	const char *wins;			/* over what is stored */
} Reduction;

#define NEWER	"(excluded.set_at, excluded.position) > (t.set_at, t.position)"
#define OLDER	"(excluded.set_at, excluded.position) < (t.set_at, t.position)"
#define BEST_BY(comparison) \
	"excluded.value " comparison " t.value OR excluded.value = t.value AND " OLDER

typedef enum ReductionNumber
{
	NEWEST,						/* whatever has no other policy */
	OLDEST,
	GREATEST,
	SMALLEST,
	ALL_VALUES,
	REDUCTIONS
} ReductionNumber;

static const Reduction reductions[REDUCTIONS] = {
	[NEWEST] = {"latest", "l.set_at DESC, l.position DESC", NEWER},
	[OLDEST] = {"first", "l.set_at, l.position", OLDER},
	[GREATEST] = {"max", "e.value DESC, l.set_at, l.position", BEST_BY(">")},
	[SMALLEST] = {"min", "e.value, l.set_at, l.position", BEST_BY("<")},
	[ALL_VALUES] = {"union"}
};

/* The links of a fold, and those of traits whose policy has changed */
#define FOLDED_LINKS \
	"unnest($2, $3, $4, $5, $6) AS l (identifier, traits, set_at, position, source_id)"
#define ALL_LINKS \
	"(SELECT l.identifiers[1] AS identifier, l.traits, l.linked_at AS set_at, l.position," \
	" coalesce(l.source_id, 0) AS source_id FROM cdi.identity_links l" \
	" WHERE l.traits OPERATOR(pg_catalog.?|) $1) AS l"

/* source_priority chooses between sources, and of each the newest counts */
static ReductionNumber
reduction_of(const char *policy)
{
	for (int i = 0; i < REDUCTIONS; i++)
		if (strcmp(reductions[i].policy, policy) == 0)
			return i;
	return NEWEST;
}

void
cdi_traits_begin(CdiTraitRows *rows, MemoryContext context)
{
	memset(rows, 0, sizeof(CdiTraitRows));
	rows->context = context;
}

void
cdi_traits_append(CdiTraitRows *rows, const pg_uuid_t *identifier, Datum traits,
				  TimestampTz set_at, int64 position, int32 source_id)
{
	Size		size = toast_raw_datum_size(traits);

	rows->identifiers = accumArrayResult(rows->identifiers, UUIDPGetDatum(identifier),
										 false, UUIDOID, rows->context);
	rows->traits = accumArrayResult(rows->traits, traits, false, JSONBOID, rows->context);
	rows->times = accumArrayResult(rows->times, TimestampTzGetDatum(set_at),
								   false, TIMESTAMPTZOID, rows->context);
	rows->positions = accumArrayResult(rows->positions, Int64GetDatum(position),
									   false, INT8OID, rows->context);
	rows->sources = accumArrayResult(rows->sources, Int32GetDatum(source_id),
									 false, INT4OID, rows->context);
	rows->bytes += size;
	rows->count++;
}

/*
 * The statement of a reduction; $1 are the names of traits that it is for, or
 * of the newest value in a fold, those that it is not for.
 *
 * A JSON null is no value.  A set is an array in the order of jsonb without
 * repetitions, as far as MAX_SET_VALUES and MAX_SET_VALUE go: the smallest
 * values stay, whatever order they came in, and "truncated" says that there
 * were more.
 */
static char *
reduction_query(ReductionNumber number, bool fold)
{
	const Reduction *reduction = &reductions[number];
	char	   *facts = psprintf("FROM %s, LATERAL jsonb_each(CASE jsonb_typeof(l.traits) WHEN 'object' THEN l.traits END) AS e (trait, value)"
								 "%s WHERE e.value <> 'null' AND octet_length(e.trait) <= " MAX_TRAIT_NAME
								 " AND e.trait %s ($1)",
								 fold ? FOLDED_LINKS : ALL_LINKS,
								 number == ALL_VALUES ? ", LATERAL jsonb_array_elements(CASE jsonb_typeof(e.value)"
								 " WHEN 'array' THEN e.value ELSE jsonb_build_array(e.value) END) AS v (value)" : "",
								 fold && number == NEWEST ? "<> ALL" : "= ANY");

	if (number == ALL_VALUES)
		return psprintf("WITH c AS (SELECT l.identifier, e.trait, l.source_id, l.set_at, l.position, v.value %s AND v.value <> 'null'),"
						" newest AS (SELECT DISTINCT ON (identifier, trait, source_id) identifier, trait, source_id, set_at, position"
						" FROM c ORDER BY identifier, trait, source_id, set_at DESC, position DESC),"
						" distinct_values AS (SELECT identifier, trait, source_id, value, octet_length(value::text) <= " MAX_SET_VALUE " AS short"
						" FROM c GROUP BY identifier, trait, source_id, value),"
						" ranked AS (SELECT *, short AND row_number() OVER (PARTITION BY identifier, trait, source_id, short ORDER BY value) <= " MAX_SET_VALUES " AS kept"
						" FROM distinct_values)"
						" INSERT INTO cdi.identifier_traits AS t (identifier, trait, source_id, value, set_at, position, truncated)"
						" SELECT identifier, trait, source_id, coalesce(jsonb_agg(value ORDER BY value) FILTER (WHERE kept), '[]'),"
						" set_at, position, NOT bool_and(kept)"
						" FROM ranked JOIN newest USING (identifier, trait, source_id)"
						" GROUP BY identifier, trait, source_id, set_at, position"
						" ON CONFLICT (identifier, trait, source_id) DO UPDATE"
						" SET (value, truncated) = (SELECT coalesce(jsonb_agg(v ORDER BY v) FILTER (WHERE number <= " MAX_SET_VALUES "), '[]'),"
						" t.truncated OR excluded.truncated OR count(*) > " MAX_SET_VALUES
						" FROM (SELECT v, row_number() OVER (ORDER BY v) AS number"
						" FROM jsonb_array_elements(t.value || excluded.value) AS v GROUP BY v) all_values),"
						" set_at = CASE WHEN " NEWER " THEN excluded.set_at ELSE t.set_at END,"
						" position = CASE WHEN " NEWER " THEN excluded.position ELSE t.position END",
						facts);
	return psprintf("INSERT INTO cdi.identifier_traits AS t (identifier, trait, source_id, value, set_at, position)"
					" SELECT DISTINCT ON (l.identifier, e.trait, l.source_id)"
					" l.identifier, e.trait, l.source_id, e.value, l.set_at, l.position"
					" %s ORDER BY l.identifier, e.trait, l.source_id, %s"
					" ON CONFLICT (identifier, trait, source_id) DO UPDATE"
					" SET value = excluded.value, set_at = excluded.set_at, position = excluded.position"
					" WHERE %s",
					facts, reduction->order, reduction->wins);
}

/*
 * Traits of every reduction but NEWEST, and in that place all of these.  They
 * are read as they are committed now: a policy changes under the resolver's
 * lock, and a snapshot may be older.
 */
static void
read_policies(ArrayBuildState **traits)
{
	static CdiPlan plan = {
		.query = "SELECT trait, policy FROM cdi.trait_policies WHERE policy NOT IN ('latest', 'source_priority')"
	};

	for (int i = 0; i < REDUCTIONS; i++)
		traits[i] = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	cdi_plan_execute_latest(&plan);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		Datum		trait = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull);
		ReductionNumber number = reduction_of(SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 2));

		accumArrayResult(traits[number], trait, false, TEXTOID, CurrentMemoryContext);
		accumArrayResult(traits[NEWEST], trait, false, TEXTOID, CurrentMemoryContext);
	}
}

void
cdi_traits_record(CdiTraitRows *rows)
{
	static CdiPlan plans[REDUCTIONS];
	ArrayBuildState *traits[REDUCTIONS];
	Datum		values[6];

	if (rows->count == 0)
		return;
	read_policies(traits);
	values[1] = makeArrayResult(rows->identifiers, CurrentMemoryContext);
	values[2] = makeArrayResult(rows->traits, CurrentMemoryContext);
	values[3] = makeArrayResult(rows->times, CurrentMemoryContext);
	values[4] = makeArrayResult(rows->positions, CurrentMemoryContext);
	values[5] = makeArrayResult(rows->sources, CurrentMemoryContext);
	for (int i = 0; i < REDUCTIONS; i++)
	{
		CdiPlan    *plan = &plans[i];

		if (i != NEWEST && traits[i]->nelems == 0)
			continue;
		if (plan->query == NULL)
		{
			static const Oid types[] = {
				TEXTARRAYOID, UUIDARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, INT4ARRAYOID
			};

			plan->nargs = lengthof(types);
			memcpy(plan->argtypes, types, sizeof(types));
			plan->query = MemoryContextStrdup(TopMemoryContext, reduction_query(i, true));
		}
		values[0] = makeArrayResult(traits[i], CurrentMemoryContext);
		cdi_plan_execute(plan, values, NULL);
	}
}

static void
execute(const char *query, int nargs, const Oid *types, Datum *values, const char *nulls)
{
	int			result = SPI_execute_with_args(query, nargs, unconstify(Oid *, types), values, nulls, false, 0);

	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
}

PG_FUNCTION_INFO_V1(cdi_apply_trait_policy);

/*
 * cdi._apply_trait_policy(trait, policy, sources): set the policy of a trait,
 * or with a null none, and apply it to what is there.  Returns whether there
 * was one.
 */
Datum
cdi_apply_trait_policy(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {TEXTOID, TEXTOID, INT4ARRAYOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	char		nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' ', PG_ARGISNULL(2) ? 'n' : ' '};
	ReductionNumber number = NEWEST;
	CdiOwnerScope scope;
	Datum		trait;
	bool		existed;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_resolver_lock();
	execute("DELETE FROM cdi.trait_policies WHERE trait = $1", 1, types, values, NULL);
	existed = SPI_processed > 0;
	if (!PG_ARGISNULL(1))
	{
		number = reduction_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
		execute("INSERT INTO cdi.trait_policies (trait, policy, sources) VALUES ($1, $2, $3)",
				3, types, values, nulls);
	}
	trait = PointerGetDatum(construct_array(values, 1, TEXTOID, -1, false, TYPALIGN_INT));
	execute("DELETE FROM cdi.identifier_traits WHERE trait = $1", 1, types, values, NULL);
	execute(reduction_query(number, false), 1, (Oid[]) {TEXTARRAYOID}, &trait, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_BOOL(existed);
}
