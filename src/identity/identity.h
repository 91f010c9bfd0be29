/*
 * identity.h
 *		Identifiers, their keys, and the graph that says who is who.
 */
#ifndef CDI_IDENTITY_H
#define CDI_IDENTITY_H

#include "base/base.h"
#include "identity/traits.h"

#include "utils/relcache.h"
#include "utils/snapshot.h"

/* What an identifier identifies: the graph that its links belong to. */
typedef enum CdiGraphKind
{
	CDI_GRAPH_PERSON,
	CDI_GRAPH_ACCOUNT,
	CDI_GRAPH_HOUSEHOLD
} CdiGraphKind;

/* A row of cdi.identifier_types; the index in the cached array is its rank. */
typedef struct CdiIdentifierType
{
	const char *name;
	uint8		type_id;
	CdiGraphKind graph;
	int			max_per_person; /* 0: any number */
	int64		limit_window;	/* seconds; 0: no window */
	int			nblocked;
	CdiText    *blocked;
} CdiIdentifierType;

/*
 * keys.c: the 128-bit key of an identifier, HMAC-SHA-256 over its type and its
 * normalised value, and that of a message id within a source.  Both need the
 * installation's key, which is read once per backend (SPI must be connected
 * and the user be the owner, see cdi_owner_enter, for cdi_keys_load).
 */
extern void cdi_keys_load(void);
extern void cdi_identifier_key(const char *type, CdiText value, pg_uuid_t *key);
extern void cdi_message_key(int32 source_id, CdiText message_id, pg_uuid_t *key);

/*
 * Normalises in place or into a palloc'd copy (e-mail: trimmed, lower case;
 * others: trimmed).  Returns a slice with data == NULL where the value is
 * empty or malformed (longer than 512 bytes; an e-mail without "@").
 */
extern CdiText cdi_identifier_normalise(const char *type, CdiText value);

/* types.c: cached rows of cdi.identifier_types by priority */
extern const CdiIdentifierType *cdi_identifier_types(int *count);
extern bool cdi_identifier_blocked(const CdiIdentifierType *type, CdiText value);

/*
 * graph.c: union-find over identifiers.
 *
 * A node is an identifier.  The root of a component is the identifier that its
 * person is named after, so a component needs no record of its own, and
 * uniting two components by age is uniting them by root.
 */
typedef struct CdiNode
{
	pg_uuid_t	key;
	int64		fold;			/* fold that first named it; 0: none yet */
	int64		position;		/* link of that fold */
	uint32		parent;			/* itself: a person's own identifier */
	uint32		next;			/* of the same component, in a ring */
	uint32		named;			/* when: seconds since 2000; 0: not known here */
	uint8		type;			/* CdiIdentifierType.type_id; 0: not known */
	uint8		flags;
} CdiNode;

#define CDI_NODE_STORED		0x1 /* has a row in cdi.identity_map */
#define CDI_NODE_PERSON		0x2 /* is person_id of rows in cdi.identity_map */

#define CDI_NODE_CHUNK		4096	/* nodes per allocation, a power of two */

typedef struct CdiGraph
{
	MemoryContext context;
	CdiNode   **chunks;
	uint32		nchunks;
	uint32		count;
	uint32	   *slots;			/* hash of keys, see graph.c */
	int			slot_bits;
	Size		memory;			/* bytes allocated now */
	Size		peak;			/* most bytes ever allocated */
} CdiGraph;

static inline CdiNode *
cdi_graph_node(const CdiGraph *graph, uint32 index)
{
	return &graph->chunks[index / CDI_NODE_CHUNK][index % CDI_NODE_CHUNK];
}

/* Nodes are met in no order that the processor could foresee. */
#if defined(__GNUC__)
#define cdi_prefetch(address)	__builtin_prefetch(address)
#else
#define cdi_prefetch(address)	((void) (address))
#endif
#define CDI_PREFETCH_DISTANCE	16

/* What a fold did to a person that did not survive it. */
typedef struct CdiMerge
{
	int64		fold;
	int64		position;
	TimestampTz merged_at;
	int			which;			/* number of the identifier in its link */
	pg_uuid_t	identifier;
	pg_uuid_t	survivor;
	pg_uuid_t	absorbed;
} CdiMerge;

/* What a fold's number is multiplied by to number its merges */
#define CDI_MERGES_PER_FOLD 64

typedef struct CdiMerges
{
	int			count;
	int			capacity;
	CdiMerge   *merges;
} CdiMerges;

/* One link as graph.c needs it; its keys are keys[first .. first + count). */
typedef struct CdiLink
{
	int64		position;
	TimestampTz linked_at;
	int			first;
	int			count;
} CdiLink;

extern CdiGraph *cdi_graph_create(MemoryContext parent);
extern void cdi_graph_destroy(CdiGraph *graph);
/* Frees the nodes; the figures stay. */
extern void cdi_graph_clear(CdiGraph *graph);
/* Nodes of n keys, made where they are missing. */
extern void cdi_graph_add(CdiGraph *graph, const pg_uuid_t *keys, int n, uint32 *nodes);
extern uint32 cdi_graph_find(CdiGraph *graph, uint32 node);
/* Fold one link; appends to merges what it united. */
extern void cdi_graph_fold(CdiGraph *graph, const CdiLink *link, const uint32 *nodes,
						   int64 fold, CdiMerges *merges);
/*
 * Numbers of all nodes in the order of their person's key.  Frees the hash
 * first: no key can be added any more.
 */
extern uint32 *cdi_graph_order(CdiGraph *graph);

#if PG_VERSION_NUM >= 180000
#define cdi_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan(table, index, snapshot, NULL, nkeys, 0)
#else
#define cdi_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan(table, index, snapshot, nkeys, 0)
#endif

/*
 * resolve.c: wait for the one resolver that runs at a time, until the
 * transaction ends.  Raises 40001 where the transaction's snapshot is older
 * than the last run.
 */
extern void cdi_resolver_lock(void);

/* Links that are read, folded and recorded together */
#define CDI_LINK_BATCH		16384

/*
 * links.c: links that no run has folded yet, in order of position.
 */
typedef struct CdiLinkBatch
{
	int			count;
	CdiLink    *links;
	int			nkeys;
	int			keys_capacity;
	pg_uuid_t  *keys;
} CdiLinkBatch;

typedef struct CdiLinkReader CdiLinkReader;

extern CdiLinkReader *cdi_links_open(int64 watermark, Snapshot snapshot);
/* Up to max links more; false where there are none. */
extern bool cdi_links_read(CdiLinkReader *reader, CdiLinkBatch *batch, int max,
						   CdiTraitRows *traits);
/* True where there is one; takes it off the reader. */
extern bool cdi_links_pending(CdiLinkReader *reader);
/* How many links there are, guessed from the space of those read so far */
extern double cdi_links_estimate(CdiLinkReader *reader);
extern void cdi_links_batch_init(CdiLinkBatch *batch, int max);
extern CdiLink *cdi_links_append(CdiLinkBatch *batch, int64 position,
								 TimestampTz linked_at, Datum identifiers);
extern void cdi_links_close(CdiLinkReader *reader);

/*
 * map.c: cdi.identity_map, read into a graph and written from one.  Only the
 * holder of the resolver's lock writes.
 */
extern bool cdi_map_probe(const pg_uuid_t *identifier, Snapshot snapshot, pg_uuid_t *person);
extern double cdi_map_estimate(void);
/* Rows of the graph's keys, and of the persons that those belong to */
extern void cdi_map_fetch(CdiGraph *graph, Snapshot snapshot);
/* All rows */
extern void cdi_map_load(CdiGraph *graph, Snapshot snapshot);
/* Insert and update what differs from the rows that were read. */
extern void cdi_map_update(CdiGraph *graph);
/*
 * Write all nodes to a new table that takes the map's place, and clear the
 * graph.  Returns false, having done nothing, where the map is in use.
 */
extern bool cdi_map_replace(CdiGraph *graph);

#endif							/* CDI_IDENTITY_H */
