/*
 * index_ahead.c
 *		Bring what look-ups in an index are about to read into the
 *		processor's caches.
 *
 * Keys are digests: in a large map each lies on a leaf page of its own, which
 * is in no cache, and a look-up waits for every step of its search there, one
 * after the other.  Here the pages of some tens of keys are asked for at once,
 * so that these waits overlap: first the leaf pages, then the tuples that a
 * binary search will compare, which evenly spread keys foretell, then the rows
 * of the table.
 *
 * Nothing depends on what is found here: whoever searches or inserts next does
 * so by the rules of the index.  So a page that is split or emptied meanwhile
 * does no harm, and leaf pages are looked at without a lock, pinned.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "identity/map.h"

#define CACHE_LINE	64

/* Where the search between keys that are this far apart ends is left open. */
#define UNSURE		10

/* Where a key belongs: on a page for keys from low to high */
typedef struct Place
{
	Buffer		buffer;
	uint64		low;
	uint64		high;
} Place;

/* No index has more levels. */
#define LEVELS		16

struct CdiAhead
{
	Relation	index;
	Relation	table;			/* NULL: its rows are not asked for */
	uint32		root;			/* level of the root */
	Place		path[LEVELS];	/* from there down to level 1, above leaf pages: what was read last */
};

CdiAhead *
cdi_ahead_open(Relation index, Relation table)
{
	CdiAhead   *ahead;

	/* so many pins, or as many for a while, are to be no burden */
	if (NBuffers < CDI_AHEAD * 64)
		return NULL;
	if (index->rd_rel->relam != BTREE_AM_OID || RelationUsesLocalBuffers(index) ||
		TupleDescAttr(RelationGetDescr(index), 0)->atttypid != UUIDOID ||
		(index->rd_indoption[0] & INDOPTION_DESC) != 0)
		return NULL;
	ahead = palloc0(sizeof(CdiAhead));
	ahead->index = index;
	ahead->table = table;
	return ahead;
}

static inline void
release(Place *place)
{
	if (BufferIsValid(place->buffer))
		ReleaseBuffer(place->buffer);
	place->buffer = InvalidBuffer;
}

void
cdi_ahead_close(CdiAhead *ahead)
{
	if (ahead == NULL)
		return;
	for (uint32 level = 1; level <= ahead->root; level++)
		release(&ahead->path[level]);
	pfree(ahead);
}

/* The first key of an index tuple, by its leading bytes */
static inline uint64
tuple_key(IndexTuple tuple)
{
	return cdi_key_prefix((pg_uuid_t *) ((char *) tuple + sizeof(IndexTupleData)));
}

static inline IndexTuple
tuple_at(Page page, OffsetNumber offset)
{
	return (IndexTuple) PageGetItem(page, PageGetItemId(page, offset));
}

/*
 * The child of a locked page that has a key, with the bounds of what the child
 * has; those of the page itself are in *place.
 */
static BlockNumber
find_child(Page page, uint64 key, Place *place)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);
	OffsetNumber low = P_FIRSTDATAKEY(opaque);
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	OffsetNumber high = last + 1;

	/* the first one has no key, and is less than any */
	while (high - low > 1)
	{
		OffsetNumber mid = low + (high - low) / 2;

		if (tuple_key(tuple_at(page, mid)) < key)
			low = mid;
		else
			high = mid;
	}
	if (low > P_FIRSTDATAKEY(opaque))
		place->low = tuple_key(tuple_at(page, low));
	if (low < last)
		place->high = tuple_key(tuple_at(page, low + 1));
	else if (!P_RIGHTMOST(opaque))
		place->high = tuple_key(tuple_at(page, P_HIKEY));
	return BTreeTupleGetDownLink(tuple_at(page, low));
}

/* Where a key belongs below the page of a level; its buffer is InvalidBuffer where nowhere. */
static Place
find_below(CdiAhead *ahead, uint32 level, uint64 key)
{
	Place		place = ahead->path[level];
	Buffer		buffer = place.buffer;
	Page		page = BufferGetPage(buffer);
	BlockNumber block = P_NONE;

	place.buffer = InvalidBuffer;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	/* where the root has moved, this is one of its former pages; it may have been split since */
	if (!P_IGNORE(BTPageGetOpaque(page)) && BTPageGetOpaque(page)->btpo_level == level &&
		(P_RIGHTMOST(BTPageGetOpaque(page)) || key <= tuple_key(tuple_at(page, P_HIKEY))))
		block = find_child(page, key, &place);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (block != P_NONE)
		place.buffer = ReadBuffer(ahead->index, block);
	else
		release(&ahead->path[level]);
	return place;
}

/* Lets the path begin with the root; false: that is a leaf page. */
static bool
find_root(CdiAhead *ahead)
{
	Buffer		buffer = ReadBuffer(ahead->index, BTREE_METAPAGE);
	BTMetaPageData *meta;
	BlockNumber block;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	meta = BTPageGetMeta(BufferGetPage(buffer));
	block = meta->btm_fastroot;
	ahead->root = meta->btm_fastlevel;
	UnlockReleaseBuffer(buffer);
	if (block == P_NONE || ahead->root == 0 || ahead->root >= LEVELS)
	{
		ahead->root = 0;
		return false;
	}
	ahead->path[ahead->root] = (Place) {ReadBuffer(ahead->index, block), 0, PG_UINT64_MAX};
	return true;
}

/* The leaf page of a key; its buffer is InvalidBuffer where there is none. */
static Place
find_leaf(CdiAhead *ahead, uint64 key)
{
	Place	   *path = ahead->path;
	Place		leaf = {InvalidBuffer};
	uint32		level = 1;

	/* up to where the key before this one has the same way */
	while (level <= ahead->root && !(BufferIsValid(path[level].buffer) && key > path[level].low && key <= path[level].high))
		release(&path[level++]);
	if (level > ahead->root)
	{
		if (!find_root(ahead))
			return leaf;
		level = ahead->root;
	}
	for (; level > 1; level--)
	{
		path[level - 1] = find_below(ahead, level, key);
		if (!BufferIsValid(path[level - 1].buffer))
			return leaf;
	}
	return find_below(ahead, 1, key);
}

/* Header and line pointers of a leaf page, and what lies at its end */
static void
ask_for_page(Page page)
{
	for (int i = 0; i < SizeOfPageHeaderData + MaxIndexTuplesPerPage * 3 / 4 * sizeof(ItemIdData); i += CACHE_LINE)
		cdi_prefetch((char *) page + i);
	cdi_prefetch((char *) page + BLCKSZ - 1);
}

static inline void
ask_for_tuple(Page page, OffsetNumber offset)
{
	cdi_prefetch((char *) page + ItemIdGetOffset(PageGetItemId(page, offset)));
}

/* What a binary search for a key is going to compare */
static void
ask_for_tuples(Page page, const Place *place, uint64 key)
{
	int			last = Min(PageGetMaxOffsetNumber(page), MaxIndexTuplesPerPage);
	int			low = P_FIRSTDATAKEY(BTPageGetOpaque(page));
	int			high = last + 1;
	int			guess;

	if (last < low)
		return;
	guess = low + Min((key - place->low) / Max((place->high - place->low) / (high - low), 1), high - low);
	ask_for_tuple(page, P_HIKEY);
	while (high - low > UNSURE)
	{
		int			mid = low + (high - low) / 2;

		ask_for_tuple(page, mid);
		if (mid < guess)
			low = mid + 1;
		else
			high = mid;
	}
	for (int i = Max(guess - UNSURE, P_HIKEY); i <= Min(guess + UNSURE, last); i += 2)
		ask_for_tuple(page, i);
}

/* Where a row of the key lies; false where its leaf page has none. */
static bool
find_row(const Place *place, uint64 key, ItemPointer row)
{
	Page		page = BufferGetPage(place->buffer);
	BTPageOpaque opaque = BTPageGetOpaque(page);
	bool		found = false;

	LockBuffer(place->buffer, BUFFER_LOCK_SHARE);
	if (P_ISLEAF(opaque) && !P_IGNORE(opaque))
	{
		OffsetNumber low = P_FIRSTDATAKEY(opaque);
		OffsetNumber last = PageGetMaxOffsetNumber(page);
		OffsetNumber high = last + 1;

		while (low < high)
		{
			OffsetNumber mid = low + (high - low) / 2;

			if (tuple_key(tuple_at(page, mid)) < key)
				low = mid + 1;
			else
				high = mid;
		}
		found = low <= last && tuple_key(tuple_at(page, low)) == key;
		if (found)
			*row = *BTreeTupleGetHeapTID(tuple_at(page, low));
	}
	LockBuffer(place->buffer, BUFFER_LOCK_UNLOCK);
	return found;
}

/* One row of each key: those of a person mostly lie together. */
static void
ask_for_rows(CdiAhead *ahead, const Place *places, const uint64 *keys, int n)
{
	ItemPointerData rows[CDI_AHEAD];
	Buffer		buffers[CDI_AHEAD];
	int			nrows = 0;

	for (int i = 0; i < n; i++)
		if (BufferIsValid(places[i].buffer) && find_row(&places[i], keys[i], &rows[nrows]))
			nrows++;
	for (int i = 0; i < nrows; i++)
	{
		Page		page;

		buffers[i] = ReadBuffer(ahead->table, ItemPointerGetBlockNumber(&rows[i]));
		page = BufferGetPage(buffers[i]);
		cdi_prefetch(page);
		cdi_prefetch(PageGetItemId(page, ItemPointerGetOffsetNumber(&rows[i])));
	}
	for (int i = 0; i < nrows; i++)
	{
		Page		page = BufferGetPage(buffers[i]);
		char	   *tuple = (char *) page + ItemIdGetOffset(PageGetItemId(page, ItemPointerGetOffsetNumber(&rows[i])));

		cdi_prefetch(tuple);
		cdi_prefetch(tuple + CACHE_LINE);
		ReleaseBuffer(buffers[i]);
	}
}

void
cdi_ahead_read(CdiAhead *ahead, const uint64 *first, Size stride, int n)
{
	Place		places[CDI_AHEAD];
	uint64		keys[CDI_AHEAD];

	if (ahead == NULL)
		return;
	Assert(n <= CDI_AHEAD);
	for (int i = 0; i < n; i++)
	{
		keys[i] = *(const uint64 *) ((const char *) first + i * stride);
		places[i] = find_leaf(ahead, keys[i]);
		if (BufferIsValid(places[i].buffer))
			ask_for_page(BufferGetPage(places[i].buffer));
	}
	for (int i = 0; i < n; i++)
		if (BufferIsValid(places[i].buffer))
			ask_for_tuples(BufferGetPage(places[i].buffer), &places[i], keys[i]);
	if (ahead->table != NULL)
		ask_for_rows(ahead, places, keys, n);
	for (int i = 0; i < n; i++)
		if (BufferIsValid(places[i].buffer))
			ReleaseBuffer(places[i].buffer);
}
