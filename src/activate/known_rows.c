/*
 * known_rows.c
 *		Leave out the rows of a model that are as they were.
 *
 * Most rows of the buckets that differ have not changed themselves.  Those that
 * are expected are in a hash table by primary key, in one piece that every
 * worker gets a copy of: cdi._is_known() says there that a row needs no JSON.
 * The process that receives the rows takes note of which were met: one that was
 * met as it is, and its key only once, is unchanged and needs no comparison.
 */
#include "activate/row_hash.h"

#include "fmgr.h"
#include "utils/memutils.h"

#include "base/base.h"

typedef struct KnownRow
{
	uint64		key;			/* hash of the primary key; 0: free */
	uint64		hash[2];
} KnownRow;

typedef struct KnownRows
{
	int32		vl_len_;
	int32		unused;
	uint8		secret[UUID_LEN];	/* of the hashes of primary keys, which others choose */
	KnownRow	rows[FLEXIBLE_ARRAY_MEMBER];
} KnownRows;

struct CdiKnown
{
	KnownRows  *table;
	uint8	   *met;			/* CdiMet of each row */
	int64		room;			/* for further rows */
};

CdiKnown *
cdi_known_make(int64 n)
{
	CdiKnown   *known = palloc(sizeof(CdiKnown));
	int64		places = Min(cdi_hash_memory(), MaxAllocSize - sizeof(KnownRows)) / (sizeof(KnownRow) + 1);
	Size		size;

	/* a fifth of the places is free */
	known->room = Min(n, places * 4 / 5);
	places = known->room + known->room / 4 + 1;
	size = offsetof(KnownRows, rows) + places * sizeof(KnownRow);
	known->table = palloc0(size);
	known->met = palloc0(places);
	SET_VARSIZE(known->table, size);
	if (!pg_strong_random(known->table->secret, UUID_LEN))
		elog(ERROR, "could not generate a random key");
	return known;
}

bytea *
cdi_known_rows(const CdiKnown *known)
{
	return (bytea *) known->table;
}

/* The row of a key, or the free place for it; any where the table is full, which none of ours is */
static KnownRow *
find(KnownRows *table, const text *primary_key, uint64 *key)
{
	uint64		n = (VARSIZE(table) - offsetof(KnownRows, rows)) / sizeof(KnownRow);
	uint64		hash[2];
	uint64		i;

	cdi_sip_hash(table->secret, VARDATA_ANY(primary_key), VARSIZE_ANY_EXHDR(primary_key), (uint8 *) hash);
	*key = Max(hash[0], 1);
	i = (hash[1] >> 32) * n >> 32;
	for (uint64 steps = 0; steps < n && table->rows[i].key != 0 && table->rows[i].key != *key; steps++)
		i = i + 1 == n ? 0 : i + 1;
	return &table->rows[i];
}

void
cdi_known_add(CdiKnown *known, const text *primary_key, const pg_uuid_t *row_hash)
{
	uint64		key;
	KnownRow   *row = find(known->table, primary_key, &key);

	if (row->key != 0)
		known->met[row - known->table->rows] = CDI_MET_OTHER;
	else if (known->room-- > 0)
	{
		row->key = key;
		memcpy(row->hash, row_hash, UUID_LEN);
	}
}

PG_FUNCTION_INFO_V1(cdi_is_known);

/* (primary_key text, row_hash uuid, rows bytea) */
Datum
cdi_is_known(PG_FUNCTION_ARGS)
{
	KnownRows  *table = (KnownRows *) PG_GETARG_BYTEA_P(2);
	KnownRow   *row;
	uint64		key;

	if (VARSIZE(table) < offsetof(KnownRows, rows) + sizeof(KnownRow))
		PG_RETURN_BOOL(false);
	row = find(table, PG_GETARG_TEXT_PP(0), &key);
	PG_RETURN_BOOL(row->key == key && memcmp(row->hash, PG_GETARG_UUID_P(1), UUID_LEN) == 0);
}

bool
cdi_known_meet(CdiKnown *known, const text *primary_key, bool is_known)
{
	uint64		key;
	KnownRow   *row = find(known->table, primary_key, &key);
	uint8	   *met = &known->met[row - known->table->rows];

	if (row->key == 0)
		return false;
	if (*met == CDI_MET_NOT)
	{
		*met = is_known ? CDI_MET_ONCE : CDI_MET_OTHER;
		return is_known;
	}
	if (*met == CDI_MET_ONCE)
		*met = CDI_MET_AGAIN;
	return false;
}

CdiMet
cdi_known_met(const CdiKnown *known, const text *primary_key, const pg_uuid_t *row_hash)
{
	uint64		key;
	KnownRow   *row = find(known->table, primary_key, &key);

	/* Another key with the same hash may have the place. */
	if (memcmp(row->hash, row_hash, UUID_LEN) != 0)
		return CDI_MET_OTHER;
	return known->met[row - known->table->rows];
}
