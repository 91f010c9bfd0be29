/*
 * filter.c
 *		What a generation of message keys certainly does not have.
 *
 * Nearly every key that is looked up is new.  Its descents through the B-trees
 * of the older generations cost the more the larger these are; a Bloom filter
 * answers with one cache line.  A filter belongs to a generation that nobody
 * writes to any more.  It is never the last word: a key that it does not
 * exclude is looked up.  dedupe.c knows which generation has one.
 *
 * The bits of a key all lie in one block of 64 bytes.  Keys are keyed hashes,
 * so their bits are as random as any hash of them: the first 32 choose the
 * block, the last 64 the bits.  Blocks are in the order of keys, and a batch
 * that asks in this order goes through the filter from front to back.
 *
 * A page is one row (page, bits) of cdi.message_filter_N that fills it, and is
 * read by its number, as an index would be, without a snapshot: whoever knows
 * from cdi.message_generations that there is a filter knows that the
 * transaction which wrote it has committed.  As a table it has WAL, checksums
 * and a place in dumps.  Bytes are the same on every machine.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ingest/filter.h"
#include "ingest/ingest.h"

/* One of 150 new keys is then looked up. */
#define BITS_PER_KEY	12
#define BITS_SET		6

#define BLOCK_BYTES		64
#define BLOCK_BITS		(BLOCK_BYTES * 8)

/* Keys that are looked for at once, each perhaps in a page of its own */
#define AHEAD			8

/* A row is its header, page, the header of bits, bits. */
#define ROW_OVERHEAD	(MAXALIGN(SizeofHeapTupleHeader) + sizeof(int32) + VARHDRSZ)
#define PAGE_BLOCKS		((MaxHeapTupleSize - ROW_OVERHEAD) / BLOCK_BYTES)
#define PAGE_BYTES		(PAGE_BLOCKS * BLOCK_BYTES)

/* Rows of a key that a page of its table can have */
#define KEYS_PER_PAGE \
	((BLCKSZ - SizeOfPageHeaderData) / \
	 (MAXALIGN(MAXALIGN(SizeofHeapTupleHeader) + UUID_LEN) + sizeof(ItemIdData)))

#if PG_VERSION_NUM >= 160000
#define RELATION_LOCATOR(relation) ((relation)->rd_locator)
#else
#define RELATION_LOCATOR(relation) ((relation)->rd_node)
#endif

/* Where each page of a filter was last found */
static struct Found
{
	BlockNumber pages;
	Buffer	   *buffers;
}			found_at[CDI_GENERATIONS];

static BlockNumber
pages_for(BlockNumber key_pages)
{
	uint64		bits = (uint64) key_pages * KEYS_PER_PAGE * BITS_PER_KEY;

	return bits / (PAGE_BYTES * 8) + 1;
}

/* The key's block, counted from the beginning of the filter */
static inline uint64
block_of(const pg_uuid_t *key, BlockNumber pages)
{
	uint32		head;

	memcpy(&head, key->data, sizeof(head));
	return ((uint64) pg_ntoh32(head) * ((uint64) pages * PAGE_BLOCKS)) >> 32;
}

static inline uint64
bits_of(const pg_uuid_t *key)
{
	uint64		tail;

	memcpy(&tail, key->data + UUID_LEN - sizeof(tail), sizeof(tail));
	return pg_ntoh64(tail);
}

static Oid
filter_oid(int slot)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "message_filter_%d", slot);
	return cdi_relation_oid(name);
}

bool
cdi_filter_open(CdiFilter *filter, int slot, BlockNumber pages)
{
	Oid			oid = filter_oid(slot);

	if (!OidIsValid(oid) || !ConditionalLockRelationOid(oid, AccessShareLock))
		return false;
	filter->relation = table_open(oid, NoLock);
	filter->pages = pages;
	filter->slot = slot;
	/* PostgreSQL 16 and later add several pages at once, the last perhaps empty. */
	if (RelationGetNumberOfBlocks(filter->relation) >= pages)
		return true;
	cdi_filter_close(filter);
	return false;
}

void
cdi_filter_close(CdiFilter *filter)
{
	table_close(filter->relation, NoLock);
}

/*
 * Pin a page.  Where this backend has found it before, it most likely still
 * is: that spares the look-up in the server's table of buffers, which costs
 * more than all the rest.
 */
static Buffer
read_page(CdiFilter *filter, BlockNumber number)
{
	struct Found *found = &found_at[filter->slot];

	if (found->pages != filter->pages)
	{
		if (found->buffers != NULL)
			pfree(found->buffers);
		found->pages = 0;
		found->buffers = MemoryContextAllocZero(TopMemoryContext, sizeof(Buffer) * filter->pages);
		found->pages = filter->pages;
	}
	if (BufferIsInvalid(found->buffers[number]) ||
		!ReadRecentBuffer(RELATION_LOCATOR(filter->relation), MAIN_FORKNUM, number,
						  found->buffers[number]))
		found->buffers[number] = ReadBuffer(filter->relation, number);
	return found->buffers[number];
}

/* Bits of a pinned page; NULL where it is not as we wrote it */
static const uint8 *
find_bits(CdiFilter *filter, Buffer buffer, BlockNumber number)
{
	TupleDesc	descriptor = RelationGetDescr(filter->relation);
	const uint8 *result = NULL;
	HeapTupleData tuple;
	Page		page;
	ItemId		item;

	/* Who has the pin may go on reading: no row moves then. */
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (PageGetMaxOffsetNumber(page) >= FirstOffsetNumber &&
		ItemIdIsNormal(item = PageGetItemId(page, FirstOffsetNumber)))
	{
		bool		isnull;
		struct varlena *bits;

		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		if (DatumGetInt32(heap_getattr(&tuple, 1, descriptor, &isnull)) == (int32) number && !isnull)
		{
			bits = (struct varlena *) DatumGetPointer(heap_getattr(&tuple, 2, descriptor, &isnull));
			if (!isnull && VARATT_IS_4B_U(bits) && VARSIZE_4B(bits) == PAGE_BYTES + VARHDRSZ)
				result = (const uint8 *) VARDATA_4B(bits);
		}
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return result;
}

static bool
has_bits(const uint8 *block, const pg_uuid_t *key)
{
	uint64		bits = bits_of(key);

	for (int i = 0; i < BITS_SET; i++, bits /= BLOCK_BITS)
		if ((block[bits % BLOCK_BITS / 8] & (1 << bits % 8)) == 0)
			return false;
	return true;
}

void
cdi_filter_exclude(CdiFilter *filter, const pg_uuid_t **keys, int n, uint8 *masks, uint8 bit)
{
	for (int first = 0; first < n; first += AHEAD)
	{
		int			end = Min(n, first + AHEAD);
		const uint8 *blocks[AHEAD];
		Buffer		pinned[AHEAD];
		int			npinned = 0;
		BlockNumber page = InvalidBlockNumber;
		const uint8 *bits = NULL;

		/* All blocks are on their way before the first is needed. */
		for (int i = first; i < end; i++)
		{
			uint64		block = block_of(keys[i], filter->pages);

			if (page != block / PAGE_BLOCKS)
			{
				page = block / PAGE_BLOCKS;
				pinned[npinned] = read_page(filter, page);
				bits = find_bits(filter, pinned[npinned++], page);
			}
			blocks[i - first] = bits == NULL ? NULL : bits + block % PAGE_BLOCKS * BLOCK_BYTES;
			if (bits != NULL)
				__builtin_prefetch(blocks[i - first]);
		}
		for (int i = first; i < end; i++)
			if (blocks[i - first] != NULL && !has_bits(blocks[i - first], keys[i]))
				masks[i] |= bit;
		while (npinned > 0)
			ReleaseBuffer(pinned[--npinned]);
	}
}

/*
 * Set the bits of all keys whose block lies in n pages from first on.  Every
 * row counts, whatever became of its transaction: too much is never wrong.
 */
static void
set_bits(Relation keys, BlockNumber pages, BlockNumber first, BlockNumber n, uint8 *bytes)
{
	TupleTableSlot *slot = table_slot_create(keys, NULL);
	TableScanDesc scan = table_beginscan(keys, SnapshotAny, 0, NULL);
	uint64		first_block = (uint64) first * PAGE_BLOCKS;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		const pg_uuid_t *key = DatumGetUUIDP(slot_getattr(slot, 1, &isnull));
		uint64		block = block_of(key, pages);
		uint64		bits = bits_of(key);

		CHECK_FOR_INTERRUPTS();
		if (block < first_block || block >= first_block + (uint64) n * PAGE_BLOCKS)
			continue;
		for (int i = 0; i < BITS_SET; i++, bits /= BLOCK_BITS)
			bytes[(block - first_block) * BLOCK_BYTES + bits % BLOCK_BITS / 8] |= 1 << bits % 8;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

static void
append_page(Relation relation, BlockNumber number, const uint8 *bytes, struct varlena *bits,
			BulkInsertState bulk)
{
	Datum		values[2] = {Int32GetDatum((int32) number), PointerGetDatum(bits)};
	bool		nulls[2] = {false, false};
	HeapTuple	tuple;

	memcpy(VARDATA(bits), bytes, PAGE_BYTES);
	tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
	heap_insert(relation, tuple, GetCurrentCommandId(true), HEAP_INSERT_SKIP_FSM, bulk);
	if (ItemPointerGetBlockNumber(&tuple->t_self) != number ||
		ItemPointerGetOffsetNumber(&tuple->t_self) != FirstOffsetNumber)
		elog(ERROR, "page %u of \"%s\" went to another place", number, RelationGetRelationName(relation));
	heap_freetuple(tuple);
}

BlockNumber
cdi_filter_write(int slot, Relation keys, BlockNumber key_pages)
{
	BlockNumber pages = pages_for(key_pages);
	BlockNumber at_once = Max(1, (Size) maintenance_work_mem * 1024 / PAGE_BYTES);
	Oid			oid = filter_oid(slot);
	struct varlena *bits = palloc(PAGE_BYTES + VARHDRSZ);
	BulkInsertState bulk;
	Relation	relation;
	uint8	   *bytes;

	/* Nobody uses it, but it may be being dumped. */
	if (!ConditionalLockRelationOid(oid, AccessExclusiveLock))
		return 0;
	if (SPI_execute(psprintf("TRUNCATE cdi.message_filter_%d", slot), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not empty a filter of message keys");
	relation = table_open(oid, NoLock);
	bulk = GetBulkInsertState();
	SET_VARSIZE(bits, PAGE_BYTES + VARHDRSZ);
	at_once = Min(at_once, pages);
	bytes = MemoryContextAllocHuge(CurrentMemoryContext, (Size) at_once * PAGE_BYTES);
	for (BlockNumber first = 0; first < pages; first += at_once)
	{
		BlockNumber n = Min(at_once, pages - first);

		memset(bytes, 0, (Size) n * PAGE_BYTES);
		set_bits(keys, pages, first, n, bytes);
		for (BlockNumber i = 0; i < n; i++)
			append_page(relation, first + i, bytes + (Size) i * PAGE_BYTES, bits, bulk);
	}
	pfree(bytes);
	pfree(bits);
	FreeBulkInsertState(bulk);
	table_close(relation, NoLock);
	return pages;
}
