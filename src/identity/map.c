/*
 * map.c
 *		cdi.identity_map: read into a graph, written from one.
 *
 * A run that folds few links fetches the rows of their identifiers through
 * the indexes and changes them in place.  A run that folds as many links as
 * the map has rows reads it whole and writes a new table (map_replace.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "identity/map.h"

/* Rows of an 8 kB page, for estimates */
#define ROWS_PER_PAGE	107

#define WRITE_BATCH		1000

/* Rows that are inserted together: about as many as a batch of links brings */
#define INSERT_BATCH	(2 * CDI_LINK_BATCH)

typedef struct MapScan
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} MapScan;

static void
scan_open(MapScan *scan, const char *table, Oid (*find_index) (Relation), Snapshot snapshot, int nkeys)
{
	Oid			index;

	scan->table = table_open(cdi_relation_oid(table), AccessShareLock);
	index = find_index(scan->table);
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"cdi.%s\" has no primary key", table)));
	scan->index = index_open(index, AccessShareLock);
	scan->scan = cdi_index_beginscan(scan->table, scan->index, snapshot, nkeys);
	scan->slot = table_slot_create(scan->table, NULL);
}

static void
map_scan_open(MapScan *scan, Snapshot snapshot)
{
	scan_open(scan, "identity_map", RelationGetPrimaryKeyIndex, snapshot, 1);
}

/* The row of an identifier, deformed into the slot; false where it has none. */
static bool
map_scan_find(MapScan *scan, const pg_uuid_t *identifier)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(identifier));
	index_rescan(scan->scan, &key, 1, NULL, 0);
	if (!index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
		return false;
	slot_getallattrs(scan->slot);
	return true;
}

static void
map_scan_close(MapScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	index_endscan(scan->scan);
	index_close(scan->index, AccessShareLock);
	table_close(scan->table, AccessShareLock);
}

bool
cdi_map_probe(const pg_uuid_t *identifier, Snapshot snapshot, pg_uuid_t *person)
{
	MapScan		scan;
	bool		found;

	map_scan_open(&scan, snapshot);
	found = map_scan_find(&scan, identifier);
	if (found)
		*person = *DatumGetUUIDP(scan.slot->tts_values[MAP_PERSON - 1]);
	map_scan_close(&scan);
	return found;
}

/*
 * Reading further while links are folded: rows of a person, and when links
 * happened.
 */
typedef struct CdiMapReader
{
	MemoryContext context;		/* what the scans allocate on their way */
	MapScan		persons;
	CdiAhead   *ahead;			/* of persons */
	MapScan		links;			/* cdi.identity_links by position */
} CdiMapReader;

#define LINK_LINKED_AT		3

static Oid
person_index(Relation table)
{
	List	   *indexes = RelationGetIndexList(table);
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		bool		found = index->rd_rel->relam == BTREE_AM_OID &&
		RelationGetIndexPredicate(index) == NIL &&
		IndexRelationGetNumberOfKeyAttributes(index) == 3 &&
		index->rd_index->indkey.values[0] == MAP_PERSON &&
		index->rd_index->indkey.values[1] == MAP_TYPE &&
		index->rd_index->indkey.values[2] == MAP_FOLD;

		index_close(index, AccessShareLock);
		if (found)
			return lfirst_oid(cell);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"cdi.identity_map\" has no index on (person_id, type_id, fold)"),
			 errhint("CREATE INDEX identity_map_person ON cdi.identity_map (person_id, type_id, fold);")));
	return InvalidOid;
}

void
cdi_map_reader_open(CdiGraph *graph, Snapshot snapshot)
{
	CdiMapReader *reader = MemoryContextAlloc(graph->context, sizeof(CdiMapReader));
	MemoryContext old = MemoryContextSwitchTo(graph->context);

	reader->context = graph->context;
	scan_open(&reader->persons, "identity_map", person_index, snapshot, 2);
	reader->ahead = cdi_ahead_open(reader->persons.index, reader->persons.table);
	scan_open(&reader->links, "identity_links", RelationGetPrimaryKeyIndex, snapshot, 1);
	graph->map = reader;
	MemoryContextSwitchTo(old);
}

void
cdi_map_reader_close(CdiGraph *graph)
{
	cdi_ahead_close(graph->map->ahead);
	map_scan_close(&graph->map->persons);
	map_scan_close(&graph->map->links);
	pfree(graph->map);
	graph->map = NULL;
}

int
cdi_map_person_rows(CdiGraph *graph, const pg_uuid_t *person, uint8 type, int max,
					void (*take) (void *arg, const pg_uuid_t *identifier, int64 fold,
								  int64 position, uint8 type), void *arg)
{
	MapScan    *scan = &graph->map->persons;
	MemoryContext old = MemoryContextSwitchTo(graph->map->context);
	ScanKeyData keys[2];
	int			n = 0;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(person));
	ScanKeyInit(&keys[1], 2, type == 0 ? BTGreaterEqualStrategyNumber : BTEqualStrategyNumber,
				type == 0 ? F_INT2GE : F_INT2EQ, Int16GetDatum(type));
	index_rescan(scan->scan, keys, 2, NULL, 0);
	while (n < max && index_getnext_slot(scan->scan, BackwardScanDirection, scan->slot))
	{
		slot_getallattrs(scan->slot);
		take(arg, DatumGetUUIDP(scan->slot->tts_values[MAP_IDENTIFIER - 1]),
			 DatumGetInt64(scan->slot->tts_values[MAP_FOLD - 1]),
			 DatumGetInt64(scan->slot->tts_values[MAP_POSITION - 1]),
			 DatumGetInt16(scan->slot->tts_values[MAP_TYPE - 1]));
		n++;
	}
	MemoryContextSwitchTo(old);
	return n;
}

TimestampTz
cdi_map_linked_at(CdiGraph *graph, int64 position)
{
	MapScan    *scan = &graph->map->links;
	MemoryContext old = MemoryContextSwitchTo(graph->map->context);
	TimestampTz linked_at = 0;
	ScanKeyData key;
	bool		isnull;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
	index_rescan(scan->scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
		linked_at = DatumGetTimestampTz(slot_getattr(scan->slot, LINK_LINKED_AT, &isnull));
	MemoryContextSwitchTo(old);
	return linked_at;
}

double
cdi_map_estimate(void)
{
	Relation	table = table_open(cdi_relation_oid("identity_map"), AccessShareLock);
	double		rows = (double) RelationGetNumberOfBlocks(table) * ROWS_PER_PAGE;

	table_close(table, AccessShareLock);
	return rows;
}

void
cdi_map_check_persons(CdiGraph *graph, uint32 first)
{
	for (uint32 i = first; i < graph->count; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, i);

		if ((node->flags & CDI_NODE_PERSON) != 0 &&
			((node->flags & CDI_NODE_STORED) == 0 || node->parent != i))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a person in \"cdi.identity_map\" has no row of its own"),
					 errdetail("Its id is %s.",
							   DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&node->key)))),
					 errhint("SELECT cdi_rebuild_identity() makes the map anew.")));
	}
}

static void
set_stored(CdiGraph *graph, uint32 number, uint32 person, TupleTableSlot *slot)
{
	CdiNode    *node = cdi_graph_node(graph, number);

	node->parent = person;
	node->fold = DatumGetInt64(slot->tts_values[MAP_FOLD - 1]);
	node->position = DatumGetInt64(slot->tts_values[MAP_POSITION - 1]);
	node->type = DatumGetInt16(slot->tts_values[MAP_TYPE - 1]);
	node->flags |= CDI_NODE_STORED;
	cdi_graph_node(graph, person)->flags |= CDI_NODE_PERSON;
	cdi_graph_ring(graph, person, number);
}

typedef struct KeyedNode
{
	uint64		key;
	uint32		node;
} KeyedNode;

#define ST_SORT sort_keyed_nodes
#define ST_ELEMENT_TYPE KeyedNode
#define ST_COMPARE(a, b) ((a)->key < (b)->key ? -1 : (a)->key > (b)->key)
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * n nodes, where they are NULL those from number first on, in the order of
 * their own keys: that of the indexes, where neighbours share pages.
 */
static KeyedNode *
key_order(CdiGraph *graph, const uint32 *nodes, uint32 first, uint32 n)
{
	KeyedNode  *order = MemoryContextAllocHuge(graph->context, sizeof(KeyedNode) * Max(n, 1));

	for (uint32 i = 0; i < n; i++)
	{
		order[i].node = nodes == NULL ? first + i : nodes[i];
		order[i].key = cdi_key_prefix(&cdi_graph_node(graph, order[i].node)->key);
	}
	sort_keyed_nodes(order, n);
	return order;
}

/* Before the one at i is looked up: every now and then, look ahead. */
static inline void
look_ahead(CdiAhead *ahead, const KeyedNode *order, uint32 i, uint32 n)
{
	if (i % CDI_AHEAD == 0)
		cdi_ahead_read(ahead, &order[i].key, sizeof(KeyedNode), Min(CDI_AHEAD, n - i));
}

void
cdi_map_visit_persons(CdiGraph *graph, const uint32 *persons, uint32 n,
					  void (*visit) (void *arg, uint32 person), void *arg)
{
	KeyedNode  *order = key_order(graph, persons, 0, n);

	for (uint32 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		look_ahead(graph->map->ahead, order, i, n);
		visit(arg, order[i].node);
	}
	pfree(order);
}

void
cdi_map_fetch(CdiGraph *graph, Snapshot snapshot)
{
	MapScan		scan;
	CdiAhead   *ahead;
	uint32		done = 0;

	map_scan_open(&scan, snapshot);
	ahead = cdi_ahead_open(scan.index, scan.table);
	/* the second round is for the persons that the first one met */
	while (done < graph->count)
	{
		uint32		count = graph->count - done;
		KeyedNode  *order = key_order(graph, NULL, done, count);

		done += count;
		for (uint32 i = 0; i < count; i++)
		{
			uint32		person;

			CHECK_FOR_INTERRUPTS();
			look_ahead(ahead, order, i, count);
			if (!map_scan_find(&scan, &cdi_graph_node(graph, order[i].node)->key))
				continue;
			cdi_graph_add(graph, DatumGetUUIDP(scan.slot->tts_values[MAP_PERSON - 1]), 1, &person);
			set_stored(graph, order[i].node, person, scan.slot);
		}
		pfree(order);
	}
	cdi_ahead_close(ahead);
	map_scan_close(&scan);
	cdi_map_check_persons(graph, 0);
}

/* A callback's row; slot has all of it. */
typedef void (*TakeRow) (CdiGraph *graph, TupleTableSlot *slot, void *arg);

static void
each_row(CdiGraph *graph, Snapshot snapshot, TakeRow take, void *arg)
{
	Relation	table = table_open(cdi_relation_oid("identity_map"), AccessShareLock);
	TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(table, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		take(graph, slot, arg);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(table, AccessShareLock);
}

static void
load_row(CdiGraph *graph, TupleTableSlot *slot, void *arg)
{
	uint32		nodes[2];
	pg_uuid_t	keys[2];

	keys[0] = *DatumGetUUIDP(slot->tts_values[MAP_IDENTIFIER - 1]);
	keys[1] = *DatumGetUUIDP(slot->tts_values[MAP_PERSON - 1]);
	cdi_graph_add(graph, keys, 2, nodes);
	set_stored(graph, nodes[0], nodes[1], slot);
	cdi_graph_node(graph, nodes[1])->flags |= CDI_NODE_WHOLE;
}

void
cdi_map_load(CdiGraph *graph, Snapshot snapshot)
{
	each_row(graph, snapshot, load_row, NULL);
	cdi_map_check_persons(graph, 0);
}

typedef struct EachState
{
	CdiMapRow	take;
	void	   *arg;
} EachState;

static void
pass_row(CdiGraph *graph, TupleTableSlot *slot, void *arg)
{
	EachState  *state = arg;

	state->take(state->arg, graph, DatumGetUUIDP(slot->tts_values[MAP_IDENTIFIER - 1]),
				DatumGetUUIDP(slot->tts_values[MAP_PERSON - 1]),
				DatumGetInt64(slot->tts_values[MAP_FOLD - 1]),
				DatumGetInt64(slot->tts_values[MAP_POSITION - 1]),
				DatumGetInt16(slot->tts_values[MAP_TYPE - 1]));
}

void
cdi_map_each(CdiGraph *graph, Snapshot snapshot, CdiMapRow take, void *arg)
{
	EachState	state = {take, arg};

	each_row(graph, snapshot, pass_row, &state);
}

/* Persons that others have absorbed */
typedef struct AbsorbedBuffer
{
	int			count;
	Datum		absorbed[WRITE_BATCH];
	Datum		survivor[WRITE_BATCH];
} AbsorbedBuffer;

/*
 * OFFSET 0 keeps the planner to one look-up per person.  Where one person has
 * most of the map, it believes that all have, and would rather read the map
 * and compare each row with each person.
 */
static void
flush_absorbed(AbsorbedBuffer *rows)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.identity_map m SET person_id = c.survivor"
		" FROM unnest($1, $2) AS c (absorbed, survivor),"
		" LATERAL (SELECT i.ctid FROM cdi.identity_map i WHERE i.person_id = c.absorbed OFFSET 0) AS r"
		" WHERE m.ctid = r.ctid",
		.nargs = 2,.argtypes = {UUIDARRAYOID, UUIDARRAYOID}
	};

	if (rows->count == 0)
		return;
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_uuid_array(rows->absorbed, rows->count),
			cdi_uuid_array(rows->survivor, rows->count)
	}, NULL);
	rows->count = 0;
}

int
cdi_force_index_plans(void)
{
	static const char *const settings[] = {
		"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material", "jit"
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

void
cdi_map_update(CdiGraph *graph)
{
	AbsorbedBuffer *absorbed = palloc(sizeof(AbsorbedBuffer));
	MemoryContext batch_context = AllocSetContextCreate(CurrentMemoryContext,
														"cdi identity map rows",
														ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(batch_context);
	int			nestlevel = cdi_force_index_plans();
	uint32		count = graph->count;
	KeyedNode  *order = key_order(graph, NULL, 0, count);
	uint32	   *fresh = MemoryContextAlloc(graph->context, sizeof(uint32) * Min(Max(count, 1), INSERT_BATCH));
	int			nfresh = 0;

	absorbed->count = 0;
	for (uint32 i = 0; i < count; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, order[i].node);
		CdiNode    *person = cdi_graph_node(graph, cdi_graph_find(graph, order[i].node));

		if ((node->flags & CDI_NODE_STORED) == 0 && node->fold != 0)
			fresh[nfresh++] = order[i].node;
		if ((node->flags & CDI_NODE_PERSON) != 0 && person != node)
		{
			int			n = absorbed->count++;

			absorbed->absorbed[n] = UUIDPGetDatum(&node->key);
			absorbed->survivor[n] = UUIDPGetDatum(&person->key);
		}
		if (nfresh == INSERT_BATCH)
		{
			cdi_map_insert(graph, fresh, nfresh);
			nfresh = 0;
		}
		if (absorbed->count == WRITE_BATCH)
		{
			CHECK_FOR_INTERRUPTS();
			flush_absorbed(absorbed);
			MemoryContextReset(batch_context);
		}
	}
	cdi_map_insert(graph, fresh, nfresh);
	flush_absorbed(absorbed);

	AtEOXact_GUC(true, nestlevel);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(batch_context);
	pfree(fresh);
	pfree(order);
	pfree(absorbed);
}
