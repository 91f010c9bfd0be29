/*
 * map_replace.c
 *		Write a new cdi.identity_map, which takes the place of the old one.
 *
 * That is done as REFRESH MATERIALIZED VIEW does it: the rows are frozen, so
 * that a snapshot taken before sees them too, and indexes are built over sorted
 * rows.  Rows are written in the order of person_id: of the two indexes it is
 * the one with equal keys, whose sort costs more, and the identifiers of a
 * person come to lie together.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_publication.h"
#include "commands/cluster.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "identity/map.h"

/* How long cdi_map_replace_by tries to have the map for itself */
#define LOCK_WAIT_MS	2000
#define LOCK_RETRY_MS	10

#define WRITE_BATCH		1000

/*
 * Lock the map against everyone without ever standing in the queue, where a
 * waiting exclusive lock would hold up every reader that comes after.
 */
static bool
lock_map(Oid map)
{
	for (int waited = 0;; waited += LOCK_RETRY_MS)
	{
		if (ConditionalLockRelationOid(map, AccessExclusiveLock))
			return true;
		if (waited >= LOCK_WAIT_MS)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(LOCK_RETRY_MS * 1000L);
	}
}

/*
 * Only a plain table that this session uses nowhere else, and whose changes
 * nobody subscribes to, can be replaced.
 */
static bool
replaceable(Relation table)
{
	PublicationDesc published;

	if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_refcnt != 1)
		return false;
	RelationBuildPublicationDesc(table, &published);
	return !published.pubactions.pubinsert;
}

/* Returns the number of rows. */
static uint64
write_rows(CdiMapSource next, void *arg, Relation table)
{
	int			options = TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN;
	BulkInsertState state = GetBulkInsertState();
	CommandId	command = GetCurrentCommandId(true);
	TupleTableSlot **slots = palloc(sizeof(TupleTableSlot *) * WRITE_BATCH);
	CdiMapEntry *entries = palloc(sizeof(CdiMapEntry) * WRITE_BATCH);
	MemoryContext batch_context = AllocSetContextCreate(CurrentMemoryContext,
														"cdi identity map rows",
														ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	uint64		count = 0;
	int			n;

	for (int i = 0; i < WRITE_BATCH; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
	do
	{
		CHECK_FOR_INTERRUPTS();
		for (n = 0; n < WRITE_BATCH && next(arg, &entries[n]); n++)
			cdi_map_set_slot(slots[n], &entries[n].identifier, &entries[n].person, entries[n].fold,
							 entries[n].position, entries[n].type);
		MemoryContextSwitchTo(batch_context);
		if (n > 0)
			table_multi_insert(table, slots, n, command, options, state);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch_context);
		count += n;
	} while (n == WRITE_BATCH);
	for (int i = 0; i < WRITE_BATCH; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	FreeBulkInsertState(state);
	table_finish_bulk_insert(table, options);
	MemoryContextDelete(batch_context);
	pfree(entries);
	pfree(slots);
	return count;
}

/*
 * A new map and its indexes were written past shared_buffers.  Links to come
 * would read it page by page, in random order; here that is one pass, as far as
 * three quarters of the buffers go, the indexes first.  Each page is looked at as
 * often as counts: links that were just loaded would drive it out again.
 */
static void
warm(Oid map)
{
	Relation	table = table_open(map, NoLock);
	List	   *relations = lappend_oid(RelationGetIndexList(table), map);
	BlockNumber budget = NBuffers / 4 * 3;
	ListCell   *cell;

	foreach(cell, relations)
	{
		Relation	relation = relation_open(lfirst_oid(cell), AccessShareLock);
		BlockNumber n = Min(RelationGetNumberOfBlocks(relation), budget);

		for (BlockNumber block = 0; block < n; block++)
		{
			CHECK_FOR_INTERRUPTS();
			for (int i = 0; i < BM_MAX_USAGE_COUNT; i++)
				ReleaseBuffer(ReadBuffer(relation, block));
		}
		budget -= n;
		relation_close(relation, NoLock);
	}
	table_close(table, NoLock);
}

bool
cdi_map_replace_by(CdiMapSource next, void *arg)
{
	Oid			map = cdi_relation_oid("identity_map");
	Relation	table;
	Relation	fresh;
	Oid			fresh_oid;
	uint64		count;

	if (!lock_map(map))
		return false;
	table = table_open(map, NoLock);
	if (!replaceable(table))
	{
		table_close(table, NoLock);
		return false;
	}
	Assert(RelationGetDescr(table)->natts == MAP_COLUMNS);

	fresh_oid = make_new_heap(map, table->rd_rel->reltablespace, table->rd_rel->relam,
							  table->rd_rel->relpersistence, AccessExclusiveLock);
	fresh = table_open(fresh_oid, AccessExclusiveLock);
	/* what held the rows is free then: the sorts of the indexes may have it */
	count = write_rows(next, arg, fresh);
	table_close(fresh, NoLock);

	pgstat_count_truncate(table);
	pgstat_count_heap_insert(table, count);
	{
		char		persistence = table->rd_rel->relpersistence;

		table_close(table, NoLock);
		finish_heap_swap(map, fresh_oid, false, false, true, true,
						 RecentXmin, ReadNextMultiXactId(), persistence);
	}
	warm(map);
	return true;
}

typedef struct GraphSource
{
	CdiGraph   *graph;
	uint32	   *order;			/* NULL: not begun */
	uint32		next;
} GraphSource;

static bool
next_node(void *arg, CdiMapEntry *entry)
{
	GraphSource *source = arg;
	CdiGraph   *graph = source->graph;
	CdiNode    *node;

	if (source->order == NULL)
		source->order = cdi_graph_order(graph);
	if (source->next == graph->count)
	{
		cdi_graph_clear(graph);
		return false;
	}
	if (source->next + CDI_PREFETCH_DISTANCE < graph->count)
		cdi_prefetch(cdi_graph_node(graph, source->order[source->next + CDI_PREFETCH_DISTANCE]));
	node = cdi_graph_node(graph, source->order[source->next++]);
	entry->identifier = node->key;
	entry->person = cdi_graph_node(graph, node->parent)->key;
	entry->fold = node->fold;
	entry->position = node->position;
	entry->type = node->type;
	entry->flags = node->flags;
	return true;
}

bool
cdi_map_replace(CdiGraph *graph)
{
	GraphSource source = {.graph = graph};

	return cdi_map_replace_by(next_node, &source);
}
