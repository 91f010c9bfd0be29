/*
 * compare.c
 *		The map as it is beside the map as it would be.
 *
 * All links are folded again in memory, and nothing is written.  By the rules
 * on record that must give the map that is there (cdi_identity_check); by
 * other rules it shows what they would change (cdi_identity_dry_run).
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/errors.h"
#include "identity/identity.h"

/* Identifiers that would move from one person to another */
typedef struct Move
{
	pg_uuid_t	old;
	pg_uuid_t	new;
	int64		identifiers;	/* not of the key */
} Move;

#define MOVE_KEY_SIZE	offsetof(Move, identifiers)

/* Parts that a person would fall into, or persons that would become one */
typedef struct Parts
{
	pg_uuid_t	person;
	int			parts;
	int64		identifiers;
} Parts;

typedef struct Comparison
{
	HTAB	   *moves;
	int64		rows;
	int64		missing;		/* in the map and not among the links */
	int64		other_row;		/* fold, position or type differ */
} Comparison;

static HTAB *
make_table(const char *name, Size keysize, Size entrysize)
{
	HASHCTL		control = {.keysize = keysize,.entrysize = entrysize,.hcxt = CurrentMemoryContext};

	return hash_create(name, 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
compare_row(void *arg, CdiGraph *graph, const pg_uuid_t *identifier, const pg_uuid_t *person,
			int64 fold, int64 position, uint8 type)
{
	Comparison *comparison = arg;
	uint32		before = graph->count;
	uint32		number;
	CdiNode    *node;
	pg_uuid_t	root;

	comparison->rows++;
	cdi_graph_add(graph, identifier, 1, &number);
	node = cdi_graph_node(graph, number);
	if (number == before)
	{
		comparison->missing++;
		return;
	}
	node->flags |= CDI_NODE_STORED;
	if (memcmp(identifier, person, UUID_LEN) == 0)
		node->flags |= CDI_NODE_PERSON;
	if (node->fold != fold || node->position != position || node->type != type)
		comparison->other_row++;
	root = cdi_graph_node(graph, cdi_graph_find(graph, number))->key;
	if (memcmp(&root, person, UUID_LEN) != 0)
	{
		Move		key;
		Move	   *move;
		bool		found;

		memset(&key, 0, sizeof(key));
		key.old = *person;
		key.new = root;
		move = hash_search(comparison->moves, &key, HASH_ENTER, &found);
		move->identifiers = found ? move->identifiers + 1 : 1;
	}
}

/*
 * Push a snapshot of now, whatever the caller's is, for which the map stays as
 * it is: a bulk run that came after it would put a map in its place whose rows
 * every snapshot sees.
 */
static void
push_snapshot_of_map(void)
{
	LockRelationOid(cdi_relation_oid("identity_map"), AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
}

/* Fold everything and compare it with the map. */
static CdiGraph *
compare(CdiHistory *history, Comparison *comparison)
{
	CdiGraph   *graph = cdi_graph_create(CurrentMemoryContext);

	memset(comparison, 0, sizeof(Comparison));
	comparison->moves = make_table("cdi moves", MOVE_KEY_SIZE, sizeof(Move));
	while (cdi_history_fold(history, graph))
		 /* all of them */ ;
	cdi_map_each(graph, GetActiveSnapshot(), compare_row, comparison);
	return graph;
}

static void
add_part(HTAB *table, const pg_uuid_t *person, int64 identifiers)
{
	bool		found;
	Parts	   *parts = hash_search(table, person, HASH_ENTER, &found);

	if (!found)
	{
		parts->parts = 0;
		parts->identifiers = 0;
	}
	parts->parts++;
	parts->identifiers += identifiers;
}

/*
 * What the person itself keeps counts as a part: of one who falls apart, where
 * its own identifier leads to itself by the new rules; of one who takes others
 * in, where it does so now.
 */
static void
put_parts(ReturnSetInfo *result, bool split, HTAB *table, CdiGraph *graph)
{
	HASH_SEQ_STATUS scan;
	Parts	   *parts;

	hash_seq_init(&scan, table);
	while ((parts = hash_seq_search(&scan)) != NULL)
	{
		Datum		values[4];
		bool		nulls[4] = {0};
		uint32		number;
		bool		itself;

		cdi_graph_add(graph, &parts->person, 1, &number);
		if (split)
			itself = cdi_graph_find(graph, number) == number;
		else
			itself = (cdi_graph_node(graph, number)->flags & CDI_NODE_PERSON) != 0;
		if (itself)
			parts->parts++;
		if (parts->parts < 2)
			continue;
		values[0] = CStringGetTextDatum(split ? "split" : "merge");
		values[1] = UUIDPGetDatum(&parts->person);
		values[2] = Int32GetDatum(parts->parts);
		values[3] = Int64GetDatum(parts->identifiers);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * A person of whom identifiers would go elsewhere falls apart where its own
 * identifier stays, or the others go different ways.  A person whom
 * identifiers would come to takes others in where it is one now, or they come
 * from several; what splits off one person alone is no merge.
 */
static void
put_changes(ReturnSetInfo *result, const Comparison *comparison, CdiGraph *graph)
{
	HTAB	   *splits = make_table("cdi splits", UUID_LEN, sizeof(Parts));
	HTAB	   *merges = make_table("cdi merges", UUID_LEN, sizeof(Parts));
	HASH_SEQ_STATUS scan;
	Move	   *move;

	hash_seq_init(&scan, comparison->moves);
	while ((move = hash_seq_search(&scan)) != NULL)
	{
		add_part(splits, &move->old, move->identifiers);
		add_part(merges, &move->new, move->identifiers);
	}
	put_parts(result, true, splits, graph);
	put_parts(result, false, merges, graph);
}

/*
 * Rules that are tried are those of the table, changed in a subtransaction
 * that is rolled back: they go through the checks that a real change goes
 * through.
 */
static void
apply_rules(Datum rules)
{
	static CdiPlan plan = {
		.query = "SELECT cdi._apply_identifier_rules($1)",
		.nargs = 1,.argtypes = {JSONBOID}
	};

	cdi_plan_execute(&plan, &rules, NULL);
}

static HTAB *
blocked_identifiers(void)
{
	static CdiPlan plan = {.query = "SELECT b FROM cdi._blocked_identifiers() b"};
	HTAB	   *blocked = make_table("cdi blocked identifiers", UUID_LEN, UUID_LEN);

	cdi_plan_execute(&plan, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		(void) hash_search(blocked, DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
																1, &isnull)), HASH_ENTER, NULL);
	}
	return hash_get_num_entries(blocked) > 0 ? blocked : NULL;
}

/* What the rules say, once applied: limits, and linked identifiers they block */
static void
try_rules(Datum rules, CdiLimits **limits, HTAB **blocked)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		apply_rules(rules);
		*limits = cdi_limits_now();
		*blocked = blocked_identifiers();
	}
	PG_CATCH();
	{
		/* whoever handles the error aborts one level only */
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		PG_RE_THROW();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

PG_FUNCTION_INFO_V1(cdi_identity_dry_run);

Datum
cdi_identity_dry_run(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiOwnerScope scope;
	CdiHistory *history;
	CdiGraph   *graph;
	Comparison	comparison;
	CdiLimits  *limits;
	HTAB	   *blocked;

	cdi_prevent_in_recovery("cdi_identity_dry_run");
	PreventCommandIfReadOnly("cdi_identity_dry_run()");
	PreventCommandIfParallelMode("cdi_identity_dry_run()");
	cdi_require_storage();
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	SPI_connect();
	try_rules(PG_GETARG_DATUM(0), &limits, &blocked);
	push_snapshot_of_map();
	history = cdi_history_open();
	history->limits = limits;
	history->set_aside = blocked;
	graph = compare(history, &comparison);
	put_changes(result, &comparison, graph);
	cdi_history_close(history);
	cdi_graph_destroy(graph);
	PopActiveSnapshot();
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}

static void
put_problem(ReturnSetInfo *result, const char *problem, int64 count)
{
	Datum		values[2] = {CStringGetTextDatum(problem), Int64GetDatum(count)};
	bool		nulls[2] = {0};

	if (count > 0)
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(cdi_identity_check);

Datum
cdi_identity_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiOwnerScope scope;
	CdiHistory *history;
	CdiGraph   *graph;
	Comparison	comparison;
	HASH_SEQ_STATUS scan;
	Move	   *move;
	int64		other_person = 0;
	int64		not_stored = 0;

	cdi_require_storage();
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	SPI_connect();
	push_snapshot_of_map();
	history = cdi_history_open();
	graph = compare(history, &comparison);
	hash_seq_init(&scan, comparison.moves);
	while ((move = hash_seq_search(&scan)) != NULL)
		other_person += move->identifiers;
	for (uint32 i = 0; i < graph->count; i++)
		if ((cdi_graph_node(graph, i)->flags & CDI_NODE_STORED) == 0 && cdi_graph_node(graph, i)->fold != 0)
			not_stored++;
	put_problem(result, "identifiers in cdi.identity_map belong to another person than their links say", other_person);
	put_problem(result, "identifiers in cdi.identity_map are in no folded link", comparison.missing);
	put_problem(result, "identifiers of folded links are not in cdi.identity_map", not_stored);
	put_problem(result, "rows of cdi.identity_map have another fold, position or type than their links say",
				comparison.other_row);
	cdi_history_close(history);
	cdi_graph_destroy(graph);
	PopActiveSnapshot();
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}
