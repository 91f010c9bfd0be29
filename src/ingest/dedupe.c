/*
 * dedupe.c
 *		Exactly one event per (source, message id) within the window.
 *
 * Keys live in four generation tables.  All are read, the current one is
 * written, and a rotation empties the oldest and makes it current.  Every
 * writer holds ROW EXCLUSIVE on cdi.message_generations until it ends and a
 * rotation takes EXCLUSIVE, so no two transactions can disagree about which
 * generation is current, and in the others nothing is in progress.
 *
 * A batch that may not wait looks every key up with a dirty snapshot first.
 * A key that another transaction has inserted but not yet committed parks its
 * event.  The insertion uses the index's non-waiting uniqueness check, which
 * also catches a key that came in between.
 *
 * A batch that may wait does so only while it holds nothing but smaller keys:
 * where the fast way meets another transaction's key, the batch starts again
 * and takes its keys one by one in sorted order.  Two batches with the same
 * keys in opposite orders therefore cannot deadlock.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "ingest/filter.h"
#include "ingest/stages.h"

/*
 * Keys that are looked up and inserted at once: few enough for the leaf pages
 * that the look-up has read to be still in the processor's cache.
 */
#define CHUNK 64

typedef struct Generation
{
	Relation	heap;
	bool		filtered;
	CdiFilter	filter;
	Relation	index;			/* NULL until a key is looked up */
	IndexScanDesc scan;
	TupleTableSlot *slot;
} Generation;

typedef struct Keys
{
	SnapshotData dirty;
	Generation	current;
	int			nolder;
	Generation	older[CDI_GENERATIONS - 1];
	TupleDesc	descriptor;		/* slots would pin the relation's own, each for itself */
	IndexInfo  *index_info;
	BulkInsertState bulk;
} Keys;

typedef enum Lookup
{
	KEY_ABSENT,
	KEY_PRESENT,
	KEY_IN_PROGRESS
} Lookup;

/* Current slot, -1 where it must be read; see invalidate(). */
static int	current_slot = -1;
static TimestampTz current_since;
static Oid	generations_oid = InvalidOid;
static bool have_filters;		/* not in storage version 1 */

/* Pages of each filter, and of the keys that it was made of; 0: none */
static struct
{
	BlockNumber pages;
	BlockNumber key_pages;
}			filters[CDI_GENERATIONS];

static void
invalidate(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == generations_oid)
		current_slot = -1;
}

static int32
get_pages(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value;

	if (!have_filters)
		return 0;
	value = slot_getattr(slot, column, &isnull);
	return isnull ? 0 : DatumGetInt32(value);
}

/*
 * Lock the generations in the given mode and learn which is current, which is
 * returned, and which have filters.  Reads with the latest snapshot: a
 * transaction-wide one may be from before a rotation.
 *
 * Under the lock there is no rotation, but whatever is opened next may
 * invalidate current_slot: only for the next time.
 */
static int
lock_generations(LOCKMODE mode)
{
	int			current = -1;
	Relation	relation;
	TableScanDesc scan;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	Oid			oid = cdi_relation_oid("message_generations");

	if (!OidIsValid(oid))
		cdi_require_storage();
	cdi_invalidation_register(invalidate);
	if (oid != generations_oid)
		current_slot = -1;
	generations_oid = oid;
	LockRelationOid(oid, mode); /* processes invalidations */
	if (current_slot >= 0)
		return current_slot;

	relation = table_open(oid, NoLock);
	have_filters = RelationGetNumberOfAttributes(relation) >= 5;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(relation, NULL);
	scan = table_beginscan(relation, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		int			number = DatumGetInt32(slot_getattr(slot, 1, &isnull));

		if (number < 0 || number >= CDI_GENERATIONS)
			continue;
		filters[number].pages = get_pages(slot, 4);
		filters[number].key_pages = get_pages(slot, 5);
		if (DatumGetBool(slot_getattr(slot, 2, &isnull)))
		{
			current = number;
			current_since = DatumGetTimestampTz(slot_getattr(slot, 3, &isnull));
		}
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(relation, NoLock);
	if (current < 0)
		elog(ERROR, "cdi.message_generations has no current generation");
	return current_slot = current;
}

static Relation
open_heap(int slot, LOCKMODE mode)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "message_keys_%d", slot);
	return table_open(cdi_relation_oid(name), mode);
}

static void
open_index(Generation *generation, LOCKMODE mode, Snapshot snapshot)
{
	List	   *indexes = RelationGetIndexList(generation->heap);

	if (list_length(indexes) != 1)
		elog(ERROR, "table \"cdi.%s\" must have exactly one index",
			 RelationGetRelationName(generation->heap));
	generation->index = index_open(linitial_oid(indexes), mode);
	list_free(indexes);
	generation->slot = table_slot_create(generation->heap, NULL);
	generation->scan = index_beginscan(generation->heap, generation->index, snapshot, 1, 0);
}

static void
close_generation(Generation *generation)
{
	if (generation->index != NULL)
	{
		index_endscan(generation->scan);
		ExecDropSingleTupleTableSlot(generation->slot);
		index_close(generation->index, NoLock);
	}
	if (generation->filtered)
		cdi_filter_close(&generation->filter);
	table_close(generation->heap, NoLock);
}

/* Is there a filter of just these keys? */
static bool
open_filter(CdiFilter *filter, int slot, BlockNumber key_pages)
{
	return filters[slot].pages > 0 && filters[slot].key_pages == key_pages &&
		cdi_filter_open(filter, slot, filters[slot].pages);
}

static void
open_keys(Keys *keys)
{
	int			current = lock_generations(RowExclusiveLock);

	memset(keys, 0, sizeof(Keys));
	InitDirtySnapshot(keys->dirty);
	keys->current.heap = open_heap(current, RowExclusiveLock);
	open_index(&keys->current, RowExclusiveLock, &keys->dirty);
	keys->descriptor = CreateTupleDescCopy(RelationGetDescr(keys->current.heap));
	keys->index_info = BuildIndexInfo(keys->current.index);
	keys->bulk = GetBulkInsertState();
	for (int slot = 0; slot < CDI_GENERATIONS; slot++)
	{
		Generation *older = &keys->older[keys->nolder];
		BlockNumber pages;

		if (slot == current)
			continue;
		older->heap = open_heap(slot, AccessShareLock);
		pages = RelationGetNumberOfBlocks(older->heap);
		if (pages == 0)
		{
			table_close(older->heap, NoLock);
			continue;
		}
		older->filtered = open_filter(&older->filter, slot, pages);
		keys->nolder++;
	}
}

static void
close_keys(Keys *keys)
{
	FreeBulkInsertState(keys->bulk);
	close_generation(&keys->current);
	for (int i = 0; i < keys->nolder; i++)
		close_generation(&keys->older[i]);
}

static Lookup
look_up(Keys *keys, Generation *generation, const pg_uuid_t *key, TransactionId *holder)
{
	ScanKeyData scankey;
	Lookup		result = KEY_ABSENT;

	if (generation->index == NULL)
		open_index(generation, AccessShareLock, &keys->dirty);
	ScanKeyInit(&scankey, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(key));
	index_rescan(generation->scan, &scankey, 1, NULL, 0);
	while (index_getnext_slot(generation->scan, ForwardScanDirection, generation->slot))
	{
		/* A dirty snapshot says who is inserting what it returns. */
		if (!TransactionIdIsValid(keys->dirty.xmin))
		{
			result = KEY_PRESENT;
			break;
		}
		*holder = keys->dirty.xmin;
		result = KEY_IN_PROGRESS;
	}
	ExecClearTuple(generation->slot);
	return result;
}

/*
 * Bit i of a mask will be set where the key is certainly not in the older
 * generation i.
 */
static void
ask_filters(Keys *keys, const pg_uuid_t **wanted, int n, uint8 *masks)
{
	for (int i = 0; i < keys->nolder; i++)
		if (keys->older[i].filtered)
			cdi_filter_exclude(&keys->older[i].filter, wanted, n, masks, 1 << i);
}

static Lookup
look_up_all(Keys *keys, const pg_uuid_t *key, uint8 mask, TransactionId *holder)
{
	Lookup		result = look_up(keys, &keys->current, key, holder);

	for (int i = 0; i < keys->nolder && result == KEY_ABSENT; i++)
		if ((mask & (1 << i)) == 0)
			result = look_up(keys, &keys->older[i], key, holder);
	return result;
}

/* Heap row of a key, without index entry yet */
static HeapTuple
form_key(Keys *keys, const pg_uuid_t *key)
{
	Datum		value = UUIDPGetDatum(key);
	bool		isnull = false;

	return heap_form_tuple(RelationGetDescr(keys->current.heap), &value, &isnull);
}

/*
 * Index entry of an inserted row.  False where another transaction got there
 * first; the row is taken back then.
 */
static bool
index_key(Keys *keys, const pg_uuid_t *key, ItemPointer tid)
{
	Datum		value = UUIDPGetDatum(key);
	bool		isnull = false;

	if (index_insert(keys->current.index, &value, &isnull, tid, keys->current.heap,
					 UNIQUE_CHECK_PARTIAL, false, keys->index_info))
		return true;
	CommandCounterIncrement();	/* a command cannot delete its own rows */
	simple_heap_delete(keys->current.heap, tid);
	return false;
}

static int
compare_keys(const void *a, const void *b, void *arg)
{
	CdiBatch   *batch = arg;
	int			left = *(const int *) a;
	int			right = *(const int *) b;
	int			order = memcmp(&batch->events[left].event_id, &batch->events[right].event_id,
							   sizeof(pg_uuid_t));

	/* of equal keys, the one that arrived first comes first and is stored */
	return order != 0 ? order : left - right;
}

/* One key after the other, in order, waiting where it must. */
static void
insert_waiting(CdiBatch *batch, Keys *keys, int *sorted, int n)
{
	for (int i = 0; i < n; i++)
	{
		CdiEvent   *event = &batch->events[sorted[i]];
		const pg_uuid_t *key = &event->event_id;
		uint8		mask = 0;

		ask_filters(keys, &key, 1, &mask);
		for (;;)
		{
			TransactionId holder = InvalidTransactionId;
			Lookup		found = look_up_all(keys, key, mask, &holder);

			CHECK_FOR_INTERRUPTS();
			if (found == KEY_PRESENT)
			{
				event->outcome = CDI_DUPLICATE;
				break;
			}
			if (found == KEY_ABSENT)
			{
				HeapTuple	tuple = form_key(keys, key);

				heap_insert(keys->current.heap, tuple, GetCurrentCommandId(true), 0, NULL);
				if (index_key(keys, key, &tuple->t_self))
					break;
				continue;
			}
			XactLockTableWait(holder, NULL, NULL, XLTW_None);
		}
	}
}

/* Some keys at once, never waiting.  False where a key is in other hands. */
static bool
insert_chunk(CdiBatch *batch, Keys *keys, int *sorted, int n)
{
	TupleTableSlot *slots[CHUNK];
	const pg_uuid_t *wanted[CHUNK];
	uint8		masks[CHUNK] = {0};
	int			kept = 0;

	for (int i = 0; i < n; i++)
		wanted[i] = &batch->events[sorted[i]].event_id;
	ask_filters(keys, wanted, n, masks);
	for (int i = 0; i < n; i++)
	{
		CdiEvent   *event = &batch->events[sorted[i]];
		TransactionId holder = InvalidTransactionId;

		switch (look_up_all(keys, wanted[i], masks[i], &holder))
		{
			case KEY_PRESENT:
				event->outcome = CDI_DUPLICATE;
				break;
			case KEY_IN_PROGRESS:
				if (batch->may_wait)
					return false;
				event->outcome = CDI_PARKED;
				break;
			case KEY_ABSENT:
				sorted[kept++] = sorted[i];
				break;
		}
	}
	if (kept == 0)
		return true;

	for (int i = 0; i < kept; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(keys->descriptor, &TTSOpsHeapTuple);
		ExecStoreHeapTuple(form_key(keys, &batch->events[sorted[i]].event_id), slots[i], true);
	}
	heap_multi_insert(keys->current.heap, slots, kept, GetCurrentCommandId(true), 0, keys->bulk);
	for (int i = 0; i < kept; i++)
	{
		CdiEvent   *event = &batch->events[sorted[i]];

		if (!index_key(keys, &event->event_id, &slots[i]->tts_tid))
		{
			if (batch->may_wait)
				return false;
			event->outcome = CDI_PARKED;
		}
	}
	for (int i = 0; i < kept; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	return true;
}

/* All keys, never waiting.  False where a key is in other hands. */
static bool
insert_without_waiting(CdiBatch *batch, Keys *keys, int *sorted, int n)
{
	for (int i = 0; i < n; i += CHUNK)
		if (!insert_chunk(batch, keys, sorted + i, Min(CHUNK, n - i)))
			return false;
	return true;
}

bool
cdi_stage_dedupe(CdiBatch *batch, int *index, int n, bool waiting)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	int		   *sorted = palloc(sizeof(int) * Max(n, 1));
	int			unique = 0;
	bool		done = true;
	Keys		keys;

	for (int i = 0; i < n; i++)
		if (batch->events[index[i]].outcome == CDI_PENDING)
			sorted[unique++] = index[i];
	qsort_arg(sorted, unique, sizeof(int), compare_keys, batch);
	n = unique;
	unique = 0;
	for (int i = 0; i < n; i++)
	{
		CdiEvent   *event = &batch->events[sorted[i]];

		if (unique > 0 &&
			memcmp(&batch->events[sorted[unique - 1]].event_id, &event->event_id,
				   sizeof(pg_uuid_t)) == 0)
			event->outcome = CDI_DUPLICATE;
		else
			sorted[unique++] = sorted[i];
	}
	if (unique > 0)
	{
		open_keys(&keys);
		if (waiting)
			insert_waiting(batch, &keys, sorted, unique);
		else
			done = insert_without_waiting(batch, &keys, sorted, unique);
		close_keys(&keys);
		CommandCounterIncrement();
	}
	pfree(sorted);
	MemoryContextSwitchTo(old);
	return done;
}

/*
 * Make the oldest generation the current one where the current one is a third
 * of the window old.  With four generations the youngest key of the one that
 * is emptied is then at least a window old.  Returns false where a rotation
 * is due but locks could not be had at once.
 */
bool
cdi_dedupe_rotate(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			oid = cdi_relation_oid("message_generations");
	char		query[256];
	int			next;

	if (!OidIsValid(oid))
		return true;
	(void) lock_generations(AccessShareLock);
	if (now - current_since < (int64) cdi_ingest_dedupe_window * 60 * USECS_PER_SEC / (CDI_GENERATIONS - 1))
		return true;
	if (!ConditionalLockRelationOid(oid, ExclusiveLock))
		return false;
	current_slot = -1;
	next = (lock_generations(ExclusiveLock) + 1) % CDI_GENERATIONS;
	snprintf(query, sizeof(query), "cdi.message_keys_%d", next);
	if (!ConditionalLockRelationOid(cdi_relation_oid(query + 4), AccessExclusiveLock))
		return false;
	snprintf(query, sizeof(query), "TRUNCATE cdi.message_keys_%d", next);
	if (SPI_execute(query, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not empty the oldest generation of message keys");
	if (SPI_execute("UPDATE cdi.message_generations SET current = false WHERE current", false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not end the current generation of message keys");
	snprintf(query, sizeof(query),
			 "UPDATE cdi.message_generations SET current = true, since = clock_timestamp()%s WHERE slot = %d",
			 have_filters ? ", filter_pages = NULL, key_pages = NULL" : "", next);
	if (SPI_execute(query, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not start a generation of message keys");
	CacheInvalidateRelcacheByRelid(oid);
	return true;
}

/*
 * Give every older generation that has no filter of its keys one.  Nobody
 * writes to it, and the lock keeps it from becoming the current one; writers
 * go on meanwhile.  Returns false where locks could not be had at once.
 */
bool
cdi_dedupe_filter(void)
{
	Oid			oid = cdi_relation_oid("message_generations");
	bool		done = true;
	int			current;

	if (!OidIsValid(oid))
		return true;
	if (!ConditionalLockRelationOid(oid, ShareUpdateExclusiveLock))
		return false;
	current_slot = -1;
	current = lock_generations(ShareUpdateExclusiveLock);
	for (int slot = 0; slot < CDI_GENERATIONS && have_filters; slot++)
	{
		Relation	keys;
		CdiFilter	filter;
		BlockNumber key_pages;
		BlockNumber pages = 0;

		if (slot == current)
			continue;
		keys = open_heap(slot, AccessShareLock);
		key_pages = RelationGetNumberOfBlocks(keys);
		if (key_pages > 0 && open_filter(&filter, slot, key_pages))
			cdi_filter_close(&filter);
		else if (key_pages > 0)
		{
			/* A restore may be filling it: then its size says nothing yet. */
			if (ConditionalLockRelation(keys, ShareLock))
			{
				key_pages = RelationGetNumberOfBlocks(keys);
				pages = cdi_filter_write(slot, keys, key_pages);
			}
			if (pages == 0)
				done = false;
		}
		table_close(keys, NoLock);
		if (pages == 0)
			continue;
		if (SPI_execute(psprintf("UPDATE cdi.message_generations SET filter_pages = %u, key_pages = %u"
								 " WHERE slot = %d AND NOT current", pages, key_pages, slot), false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not record a filter of message keys");
		CacheInvalidateRelcacheByRelid(oid);
	}
	return done;
}
