/*
 * links.c
 *		Read the links that no run has folded yet, in order of position.
 *
 * Two index scans are merged: links above the watermark of the last run, and
 * the positions above it that earlier runs folded already.  Both come sorted,
 * so that nothing is kept in memory but the batch.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/errors.h"
#include "identity/identity.h"

/* Columns of cdi.identity_links */
#define LINK_LINKED_AT		3
#define LINK_RULE			4
#define LINK_IDENTIFIERS	5
#define LINK_TYPES			6
#define LINK_TRAITS			8
#define LINK_SOURCE			9
#define LINK_MEMBER			10

typedef struct PositionScan
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} PositionScan;

struct CdiLinkReader
{
	MemoryContext context;		/* what the scans allocate on their way */
	PositionScan links;
	PositionScan ahead;
	int64		next_ahead;		/* PG_INT64_MAX at the end */
	int			nblocks;		/* of the links of the first batch */
	BlockNumber *blocks;		/* one per link, with those that repeat the one
								 * before left out */
	double		read;
	bool		done;
};

static void
position_scan_open(PositionScan *scan, const char *name, int64 above, Snapshot snapshot)
{
	ScanKeyData key;
	Oid			index;

	scan->table = table_open(cdi_relation_oid(name), AccessShareLock);
	index = RelationGetPrimaryKeyIndex(scan->table);
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"cdi.%s\" has no primary key", name)));
	scan->index = index_open(index, AccessShareLock);
	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(above));
	scan->scan = cdi_index_beginscan(scan->table, scan->index, snapshot, 1);
	index_rescan(scan->scan, &key, 1, NULL, 0);
	scan->slot = table_slot_create(scan->table, NULL);
}

static bool
position_scan_next(PositionScan *scan, int64 *position)
{
	bool		isnull;

	if (!index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
		return false;
	*position = DatumGetInt64(slot_getattr(scan->slot, 1, &isnull));
	return true;
}

static void
position_scan_close(PositionScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	index_endscan(scan->scan);
	index_close(scan->index, NoLock);
	table_close(scan->table, NoLock);
}

static void
next_ahead(CdiLinkReader *reader)
{
	if (!position_scan_next(&reader->ahead, &reader->next_ahead))
		reader->next_ahead = PG_INT64_MAX;
}

CdiLinkReader *
cdi_links_open(int64 watermark, Snapshot snapshot)
{
	CdiLinkReader *reader = palloc0(sizeof(CdiLinkReader));

	reader->context = CurrentMemoryContext;
	position_scan_open(&reader->links, "identity_links", watermark, snapshot);
	position_scan_open(&reader->ahead, "identity_ahead", watermark, snapshot);
	next_ahead(reader);
	return reader;
}

void
cdi_links_close(CdiLinkReader *reader)
{
	position_scan_close(&reader->links);
	position_scan_close(&reader->ahead);
	if (reader->blocks != NULL)
		pfree(reader->blocks);
	pfree(reader);
}

/* Is there one more?  Leaves it in the slot. */
static bool
next_link(CdiLinkReader *reader, int64 *position)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	bool		found = false;

	while (!found && !reader->done)
	{
		if (!position_scan_next(&reader->links, position))
		{
			reader->done = true;
			break;
		}
		while (reader->next_ahead < *position)
			next_ahead(reader);
		found = reader->next_ahead != *position;
	}
	MemoryContextSwitchTo(old);
	return found;
}

bool
cdi_links_pending(CdiLinkReader *reader)
{
	int64		position;

	return next_link(reader, &position);
}

/*
 * Append the elements of a uuid[] to the batch.  Reads the array where it
 * lies: one that fits in a short header is not aligned, and DatumGetArrayTypeP
 * would copy it.
 */
static int
append_keys(CdiLinkBatch *batch, Datum datum)
{
	struct varlena *array = PG_DETOAST_DATUM_PACKED(datum);
	char	   *data = VARDATA_ANY(array);
	ArrayType	head;
	int			nelements;
	int			length;

	memcpy((char *) &head + VARHDRSZ, data, sizeof(ArrayType) - VARHDRSZ);
	if (head.ndim == 0)
		return 0;
	memcpy(&nelements, data + sizeof(ArrayType) - VARHDRSZ, sizeof(nelements));
	if (head.ndim != 1 || head.dataoffset != 0 || head.elemtype != UUIDOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("identifiers of a link are not a plain array of uuid")));
	length = nelements * UUID_LEN;
	while (batch->nkeys + nelements > batch->keys_capacity)
	{
		batch->keys_capacity *= 2;
		batch->keys = repalloc_huge(batch->keys, sizeof(pg_uuid_t) * batch->keys_capacity);
		batch->types = repalloc_huge(batch->types, batch->keys_capacity);
	}
	if (nelements > CDI_MERGES_PER_FOLD)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a link has %d identifiers, more than there can be", nelements)));
	memcpy(batch->keys + batch->nkeys, data + ARR_OVERHEAD_NONULLS(1) - VARHDRSZ, length);
	batch->nkeys += nelements;
	if ((Pointer) array != DatumGetPointer(datum))
		pfree(array);
	return nelements;
}

/*
 * Numbers of the types of a link.  Few combinations of types occur, so those
 * of the link before are most likely the same bytes.
 */
static void
append_types(CdiLinkBatch *batch, int nkeys, Datum datum)
{
	static char seen[512];
	static int	seen_len = 0;
	static uint8 numbers[CDI_MERGES_PER_FOLD];
	static uint64 seen_generation;
	struct varlena *array = PG_DETOAST_DATUM_PACKED(datum);
	int			len = VARSIZE_ANY_EXHDR(array);
	int			ntypes;
	const CdiIdentifierType *types = cdi_identifier_types(&ntypes);

	if (len != seen_len || seen_generation != cdi_identifier_types_generation() ||
		memcmp(seen, VARDATA_ANY(array), len) != 0)
	{
		ArrayType  *aligned = DatumGetArrayTypeP(datum);
		Datum	   *names;
		bool	   *nulls;
		int			n;

		seen_len = 0;
		memset(numbers, 0, sizeof(numbers));
		deconstruct_array(aligned, TEXTOID, -1, false, TYPALIGN_INT,
						  &names, &nulls, &n);
		for (int i = 0; i < Min(n, CDI_MERGES_PER_FOLD); i++)
			for (int k = 0; k < ntypes && !nulls[i]; k++)
			{
				text	   *name = DatumGetTextPP(names[i]);
				int			length = strlen(types[k].name);

				if (VARSIZE_ANY_EXHDR(name) == length &&
					memcmp(VARDATA_ANY(name), types[k].name, length) == 0)
					numbers[i] = types[k].type_id;
			}
		pfree(names);
		pfree(nulls);
		if ((Pointer) aligned != DatumGetPointer(datum))
			pfree(aligned);
		if (len <= sizeof(seen))
		{
			memcpy(seen, VARDATA_ANY(array), len);
			seen_len = len;
			seen_generation = cdi_identifier_types_generation();
		}
	}
	memcpy(batch->types + batch->nkeys - nkeys, numbers, nkeys);
	if ((Pointer) array != DatumGetPointer(datum))
		pfree(array);
}

/* In the current context, with room for max links */
void
cdi_links_batch_init(CdiLinkBatch *batch, int max)
{
	batch->count = 0;
	batch->links = palloc(sizeof(CdiLink) * max);
	batch->nkeys = 0;
	batch->keys_capacity = max * 2;
	batch->keys = palloc_extended(sizeof(pg_uuid_t) * batch->keys_capacity, MCXT_ALLOC_HUGE);
	batch->types = palloc_extended(batch->keys_capacity, MCXT_ALLOC_HUGE);
}

/* batch->links has room */
CdiLink *
cdi_links_append(CdiLinkBatch *batch, int64 position, TimestampTz linked_at,
				 Datum rule, Datum identifiers, Datum types)
{
	static const char alias[] = "alias";
	text	   *name = DatumGetTextPP(rule);
	CdiLink    *link = &batch->links[batch->count++];

	link->position = position;
	link->linked_at = linked_at;
	link->first = batch->nkeys;
	link->count = append_keys(batch, identifiers);
	append_types(batch, link->count, types);
	link->unlimited = VARSIZE_ANY_EXHDR(name) == sizeof(alias) - 1 &&
		memcmp(VARDATA_ANY(name), alias, sizeof(alias) - 1) == 0;
	return link;
}

/* Who belongs to the account or household that the link is of */
static void
append_member(CdiLinkBatch *batch, const CdiLink *link, Datum member)
{
	CdiMembership *membership;

	if (batch->nmembers == batch->members_capacity)
	{
		batch->members_capacity = Max(64, batch->members_capacity * 2);
		batch->members = batch->members == NULL ?
			palloc(sizeof(CdiMembership) * batch->members_capacity) :
			repalloc_huge(batch->members, sizeof(CdiMembership) * batch->members_capacity);
	}
	membership = &batch->members[batch->nmembers++];
	membership->group = batch->keys[link->first];
	membership->member = *DatumGetUUIDP(member);
	membership->at = link->linked_at;
}

/*
 * A batch also ends early, after 8 MB of traits, so that traits of any size
 * are held in memory a little at a time only.
 */
#define MAX_TRAIT_BYTES (8 * 1024 * 1024)

bool
cdi_links_read(CdiLinkReader *reader, CdiLinkBatch *batch, int max, CdiTraitRows *traits)
{
	bool		first_batch = reader->blocks == NULL;
	int64		position;

	batch->count = 0;
	batch->nkeys = 0;
	batch->nmembers = 0;
	batch->members_capacity = 0;
	batch->members = NULL;		/* in the context of this call */
	if (first_batch)
		reader->blocks = MemoryContextAlloc(reader->context, sizeof(BlockNumber) * max);
	while (batch->count < max && traits->bytes < MAX_TRAIT_BYTES &&
		   next_link(reader, &position))
	{
		TupleTableSlot *slot = reader->links.slot;
		BlockNumber block = ItemPointerGetBlockNumber(&slot->tts_tid);
		CdiLink    *link;

		slot_getsomeattrs(slot, LINK_MEMBER);
		link = cdi_links_append(batch, position,
								DatumGetTimestampTz(slot->tts_values[LINK_LINKED_AT - 1]),
								slot->tts_values[LINK_RULE - 1],
								slot->tts_values[LINK_IDENTIFIERS - 1],
								slot->tts_values[LINK_TYPES - 1]);
		if (link->count > 0 && !slot->tts_isnull[LINK_TRAITS - 1])
			cdi_traits_append(traits, &batch->keys[link->first], slot->tts_values[LINK_TRAITS - 1],
							  link->linked_at, position,
							  slot->tts_isnull[LINK_SOURCE - 1] ? 0 : DatumGetInt32(slot->tts_values[LINK_SOURCE - 1]));
		if (link->count > 0 && !slot->tts_isnull[LINK_MEMBER - 1])
			append_member(batch, link, slot->tts_values[LINK_MEMBER - 1]);

		if (first_batch && (reader->nblocks == 0 || reader->blocks[reader->nblocks - 1] != block))
			reader->blocks[reader->nblocks++] = block;
		reader->read++;
	}
	return batch->count > 0;
}

static int
compare_blocks(const void *a, const void *b)
{
	BlockNumber one = *(const BlockNumber *) a;
	BlockNumber other = *(const BlockNumber *) b;

	return one < other ? -1 : one > other;
}

/*
 * As many per page as in those read so far, from the first of these on.  They
 * need not be neighbours: several writers fill pages at once.
 */
double
cdi_links_estimate(CdiLinkReader *reader)
{
	int			n = 0;

	if (reader->done)
		return reader->read;
	qsort(reader->blocks, reader->nblocks, sizeof(BlockNumber), compare_blocks);
	for (int i = 0; i < reader->nblocks; i++)
		if (n == 0 || reader->blocks[i] != reader->blocks[n - 1])
			reader->blocks[n++] = reader->blocks[i];
	reader->nblocks = n;
	return reader->read * (RelationGetNumberOfBlocks(reader->links.table) - reader->blocks[0]) / n;
}
