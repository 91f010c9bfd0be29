/*
 * map.h
 *		What the files that read and write cdi.identity_map share.
 */
#ifndef CDI_MAP_H
#define CDI_MAP_H

#include "executor/tuptable.h"
#include "port/pg_bswap.h"

#include "identity/identity.h"

/* Columns of cdi.identity_map */
#define MAP_IDENTIFIER	1
#define MAP_PERSON		2
#define MAP_FOLD		3
#define MAP_POSITION	4
#define MAP_TYPE		5
#define MAP_COLUMNS		5

/* The leading bytes of a key, in the order that keys have */
static inline uint64
cdi_key_prefix(const pg_uuid_t *key)
{
	uint64		prefix;

	memcpy(&prefix, key->data, sizeof(prefix));
	return pg_ntoh64(prefix);
}

static inline void
cdi_map_set_slot(TupleTableSlot *slot, const pg_uuid_t *identifier, const pg_uuid_t *person,
				 int64 fold, int64 position, uint8 type)
{
	ExecClearTuple(slot);
	slot->tts_values[MAP_IDENTIFIER - 1] = UUIDPGetDatum(identifier);
	slot->tts_values[MAP_PERSON - 1] = UUIDPGetDatum(person);
	slot->tts_values[MAP_FOLD - 1] = Int64GetDatum(fold);
	slot->tts_values[MAP_POSITION - 1] = Int64GetDatum(position);
	slot->tts_values[MAP_TYPE - 1] = Int16GetDatum(type);
	memset(slot->tts_isnull, false, MAP_COLUMNS);
	ExecStoreVirtualTuple(slot);
}

/*
 * index_ahead.c: bring what look-ups of n keys are going to read into the
 * processor's caches, of the index and, where it is not NULL, of its table.
 * Keys by their prefixes, best in their order.  NULL, and nothing, for an index
 * that does not begin with keys.
 */
#define CDI_AHEAD		64		/* keys at a time */

typedef struct CdiAhead CdiAhead;

extern CdiAhead *cdi_ahead_open(Relation index, Relation table);
/* n keys, the first one here and the others stride bytes apart each */
extern void cdi_ahead_read(CdiAhead *ahead, const uint64 *first, Size stride, int n);
extern void cdi_ahead_close(CdiAhead *ahead);

/* map_insert.c: rows for n nodes that have none */
extern void cdi_map_insert(CdiGraph *graph, const uint32 *nodes, int n);

#endif							/* CDI_MAP_H */
