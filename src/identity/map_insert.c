/*
 * map_insert.c
 *		Add rows to cdi.identity_map.
 *
 * Keys are digests, so that a new row has a leaf page of its own in every
 * index.  INSERT takes the rows one by one through all indexes, in the order
 * of one of them at best, and logs each row by itself.  Here the table takes a
 * page of rows at once and then the indexes one after the other, each in its
 * own order: what lies above the leaf pages stays in the processor's caches,
 * and neighbours meet on the same leaf.
 *
 * That is for a plain table, as cdi_init() makes it.  Where triggers,
 * constraints or another engine want to see the rows, SQL inserts them.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "identity/map.h"

/* Rows that the table takes at once */
#define TABLE_BATCH		1000

typedef struct NewRow
{
	uint64		order;
	uint32		node;
	uint32		person;
	ItemPointerData tid;
} NewRow;

#define ST_SORT sort_rows
#define ST_ELEMENT_TYPE NewRow
#define ST_COMPARE(a, b) ((a)->order < (b)->order ? -1 : (a)->order > (b)->order)
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE
#include "lib/sort_template.h"

static bool
is_plain(Relation table)
{
	TupleConstr *constraints = RelationGetDescr(table)->constr;

	return table->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetDescr(table)->natts == MAP_COLUMNS &&
		table->trigdesc == NULL && table->rd_rules == NULL && !table->rd_rel->relforcerowsecurity &&
		(constraints == NULL || (constraints->num_check == 0 && !constraints->has_generated_stored));
}

static void
set_slot(TupleTableSlot *slot, CdiGraph *graph, const NewRow *row)
{
	CdiNode    *node = cdi_graph_node(graph, row->node);

	cdi_map_set_slot(slot, &node->key, &cdi_graph_node(graph, row->person)->key, node->fold,
					 node->position, node->type);
}

/* Sets where the rows are. */
static void
insert_into_table(Relation table, CdiGraph *graph, NewRow *rows, int n)
{
	int			nslots = Min(n, TABLE_BATCH);
	TupleTableSlot **slots = palloc(sizeof(TupleTableSlot *) * nslots);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi identity map rows",
												  ALLOCSET_DEFAULT_SIZES);
	CommandId	command = GetCurrentCommandId(true);

	for (int i = 0; i < nslots; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
	for (int start = 0; start < n; start += TABLE_BATCH)
	{
		int			count = Min(TABLE_BATCH, n - start);
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
			set_slot(slots[i], graph, &rows[start + i]);
		old = MemoryContextSwitchTo(context);
		table_multi_insert(table, slots, count, command, 0, NULL);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		for (int i = 0; i < count; i++)
			rows[start + i].tid = slots[i]->tts_tid;
	}
	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	MemoryContextDelete(context);
	pfree(slots);
}

/*
 * Into the one index of target, in the order of its first column where that
 * is a key, else as they come.
 */
static void
insert_into_index(ResultRelInfo *target, EState *estate, TupleTableSlot *slot,
				  CdiGraph *graph, NewRow *rows, int n)
{
	AttrNumber	first = target->ri_IndexRelationInfo[0]->ii_IndexAttrNumbers[0];
	MemoryContext old = CurrentMemoryContext;
	CdiAhead   *ahead = NULL;

	if (first == MAP_IDENTIFIER || first == MAP_PERSON)
	{
		for (int i = 0; i < n; i++)
		{
			uint32		by = first == MAP_PERSON ? rows[i].person : rows[i].node;

			rows[i].order = cdi_key_prefix(&cdi_graph_node(graph, by)->key);
		}
		sort_rows(rows, n);
		ahead = cdi_ahead_open(target->ri_IndexRelationDescs[0], NULL);
	}
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i % CDI_AHEAD == 0)
			cdi_ahead_read(ahead, &rows[i].order, sizeof(NewRow), Min(CDI_AHEAD, n - i));
		set_slot(slot, graph, &rows[i]);
		slot->tts_tid = rows[i].tid;
		MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		(void) ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL
#if PG_VERSION_NUM >= 160000
									 ,false
#endif
			);
		MemoryContextSwitchTo(old);
		ResetPerTupleExprContext(estate);
	}
	cdi_ahead_close(ahead);
}

static void
insert_direct(Relation table, CdiGraph *graph, NewRow *rows, int n)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	ResultRelInfo one;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);

	slot->tts_tableOid = RelationGetRelid(table);
	InitResultRelInfo(target, table, 0, NULL, 0);
	ExecOpenIndices(target, false);
	insert_into_table(table, graph, rows, n);
	one = *target;
	one.ri_NumIndices = 1;
	for (int i = 0; i < target->ri_NumIndices; i++)
	{
		one.ri_IndexRelationDescs = target->ri_IndexRelationDescs + i;
		one.ri_IndexRelationInfo = target->ri_IndexRelationInfo + i;
		insert_into_index(&one, estate, slot, graph, rows, n);
	}
	ExecCloseIndices(target);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	/* what is read next in this transaction is to see them */
	CommandCounterIncrement();
}

static void
insert_by_sql(CdiGraph *graph, const NewRow *rows, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_map (identifier, person_id, fold, position, type_id)"
		" SELECT * FROM unnest($1, $2, $3, $4, $5)",
		.nargs = 5,.argtypes = {UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT2ARRAYOID}
	};
	Datum	   *columns[MAP_COLUMNS];

	for (int c = 0; c < MAP_COLUMNS; c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, rows[i].node);

		columns[0][i] = UUIDPGetDatum(&node->key);
		columns[1][i] = UUIDPGetDatum(&cdi_graph_node(graph, rows[i].person)->key);
		columns[2][i] = Int64GetDatum(node->fold);
		columns[3][i] = Int64GetDatum(node->position);
		columns[4][i] = Int16GetDatum(node->type);
	}
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_uuid_array(columns[0], n), cdi_uuid_array(columns[1], n), cdi_int8_array(columns[2], n),
			cdi_int8_array(columns[3], n),
			PointerGetDatum(construct_array(columns[4], n, INT2OID, sizeof(int16), true, TYPALIGN_SHORT))
	}, NULL);
}

void
cdi_map_insert(CdiGraph *graph, const uint32 *nodes, int n)
{
	MemoryContext context;
	MemoryContext old;
	NewRow	   *rows;
	Relation	table;

	if (n == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "cdi identity map insert",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	rows = palloc(sizeof(NewRow) * n);
	table = table_open(cdi_relation_oid("identity_map"), RowExclusiveLock);
	for (int i = 0; i < n; i++)
	{
		rows[i].node = nodes[i];
		rows[i].person = cdi_graph_find(graph, nodes[i]);
	}
	if (is_plain(table))
		insert_direct(table, graph, rows, n);
	else
		insert_by_sql(graph, rows, n);
	table_close(table, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
