/*
 * graph.c
 *		Union-find over 128-bit keys.
 *
 * Nodes lie in chunks that never move, 48 bytes each.  Keys are found through
 * an open-addressing hash of 32-bit slots, at most three quarters full: a slot
 * holds a node's number plus one in as many bits as the table's size needs,
 * and bits of the key's hash in the rest, so that a probe reads a node only
 * where it is most likely the right one.  While the hash grows, old and new
 * slots are there together: 48 + 16 bytes per key are the peak.
 *
 * Here are the nodes and how they are found and sorted; fold.c unites them.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "identity/identity.h"

#define INITIAL_SLOT_BITS	8
#define MAX_SLOT_BITS		32
#define NO_NODE				PG_UINT32_MAX

/* Keys that are looked up together, see cdi_graph_add */
#define PREFETCH_BLOCK		64

static void *
graph_alloc(CdiGraph *graph, Size size, bool zero)
{
	void	   *memory = MemoryContextAllocExtended(graph->context, size,
												   MCXT_ALLOC_HUGE | (zero ? MCXT_ALLOC_ZERO : 0));

	graph->memory += size;
	graph->peak = Max(graph->peak, graph->memory);
	return memory;
}

static void
graph_free(CdiGraph *graph, void *memory, Size size)
{
	pfree(memory);
	graph->memory -= size;
}

CdiGraph *
cdi_graph_create(MemoryContext parent)
{
	CdiGraph   *graph = MemoryContextAllocZero(parent, sizeof(CdiGraph));

	graph->context = AllocSetContextCreate(parent, "cdi identity graph",
										   ALLOCSET_DEFAULT_SIZES);
	graph->slot_bits = INITIAL_SLOT_BITS;
	graph->slots = graph_alloc(graph, sizeof(uint32) << graph->slot_bits, true);
	return graph;
}

void
cdi_graph_destroy(CdiGraph *graph)
{
	MemoryContextDelete(graph->context);
	pfree(graph);
}

/* Frees everything but the graph itself and its figures. */
void
cdi_graph_clear(CdiGraph *graph)
{
	MemoryContextReset(graph->context);
	graph->tallies = NULL;
}

/*
 * Keys are digests, so that any of their bits would do; the multiplication
 * keeps the table usable for keys that someone made by hand.
 */
static inline uint64
hash_key(const pg_uuid_t *key)
{
	uint64		half[2];

	memcpy(half, key->data, sizeof(half));
	return (half[0] + half[1] * UINT64CONST(0xC2B2AE3D27D4EB4F)) *
		UINT64CONST(0x9E3779B97F4A7C15);
}

/* The slot where the search for a hash starts */
static inline uint64
first_slot(const CdiGraph *graph, uint64 hash)
{
	return hash >> (64 - graph->slot_bits);
}

/* Bits of the hash that lie in a slot above the node's number */
static inline uint32
slot_tag(const CdiGraph *graph, uint64 hash)
{
	return graph->slot_bits == MAX_SLOT_BITS ? 0 : (uint32) hash << graph->slot_bits;
}

static void
grow_slots(CdiGraph *graph)
{
	uint32	   *old = graph->slots;
	Size		old_size = sizeof(uint32) << graph->slot_bits;
	uint64		mask;

	if (graph->slot_bits == MAX_SLOT_BITS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many identifiers for one run of the resolver"),
				 errdetail("It holds at most %u.", graph->count)));
	graph->slots = graph_alloc(graph, sizeof(uint32) << (graph->slot_bits + 1), true);
	graph->slot_bits++;
	mask = (UINT64CONST(1) << graph->slot_bits) - 1;
	for (uint32 i = 0; i < graph->count; i++)
	{
		uint64		hash = hash_key(&cdi_graph_node(graph, i)->key);
		uint64		slot = first_slot(graph, hash);

		while (graph->slots[slot] != 0)
			slot = (slot + 1) & mask;
		graph->slots[slot] = slot_tag(graph, hash) | (i + 1);
	}
	graph_free(graph, old, old_size);
}

static uint32
append_node(CdiGraph *graph, const pg_uuid_t *key)
{
	CdiNode    *node;

	if (graph->count == graph->nchunks * CDI_NODE_CHUNK)
	{
		if ((graph->nchunks & (graph->nchunks - 1)) == 0)
		{
			/* the directory doubles; it takes two bytes per thousand nodes */
			CdiNode   **directory = MemoryContextAllocHuge(graph->context,
														   sizeof(CdiNode *) * Max(graph->nchunks * (Size) 2, 4));

			if (graph->chunks != NULL)
			{
				memcpy(directory, graph->chunks, sizeof(CdiNode *) * graph->nchunks);
				pfree(graph->chunks);
			}
			graph->chunks = directory;
		}
		graph->chunks[graph->nchunks++] = graph_alloc(graph, sizeof(CdiNode) * CDI_NODE_CHUNK, false);
	}
	node = cdi_graph_node(graph, graph->count);
	node->key = *key;
	node->fold = 0;
	node->position = 0;
	node->parent = graph->count;
	node->next = graph->count;
	node->named = 0;
	node->type = 0;
	node->flags = 0;
	return graph->count++;
}

/*
 * The table is larger than any cache and keys are random: a lookup is one
 * miss for the slot and one for the node.  Going through a block of keys three
 * times lets these misses overlap.
 */
void
cdi_graph_add(CdiGraph *graph, const pg_uuid_t *keys, int n, uint32 *nodes)
{
	uint64		hashes[PREFETCH_BLOCK];

	for (int start = 0; start < n; start += PREFETCH_BLOCK)
	{
		int			end = Min(start + PREFETCH_BLOCK, n);
		uint64		mask;
		uint32		number_mask;

		while (graph->count + (uint64) PREFETCH_BLOCK >
			   (UINT64CONST(3) << graph->slot_bits) / 4)
			grow_slots(graph);
		mask = (UINT64CONST(1) << graph->slot_bits) - 1;
		number_mask = (uint32) mask;

		for (int i = start; i < end; i++)
		{
			hashes[i - start] = hash_key(&keys[i]);
			cdi_prefetch(&graph->slots[first_slot(graph, hashes[i - start])]);
		}
		for (int i = start; i < end; i++)
		{
			uint32		value = graph->slots[first_slot(graph, hashes[i - start])];

			if (value != 0)
				cdi_prefetch(cdi_graph_node(graph, (value & number_mask) - 1));
		}
		for (int i = start; i < end; i++)
		{
			uint64		slot = first_slot(graph, hashes[i - start]);
			uint32		tag = slot_tag(graph, hashes[i - start]);
			uint32		value;

			nodes[i] = NO_NODE;
			while ((value = graph->slots[slot]) != 0)
			{
				uint32		number = (value & number_mask) - 1;

				if ((value & ~number_mask) == tag)
				{
					CdiNode    *node = cdi_graph_node(graph, number);

					if (memcmp(&node->key, &keys[i], UUID_LEN) == 0)
					{
						/* what will be folded next asks for the root */
						cdi_prefetch(cdi_graph_node(graph, node->parent));
						nodes[i] = number;
						break;
					}
				}
				slot = (slot + 1) & mask;
			}
			if (nodes[i] == NO_NODE)
			{
				nodes[i] = append_node(graph, &keys[i]);
				graph->slots[slot] = tag | (nodes[i] + 1);
			}
		}
	}
}

/* Root of a node; halves the path on its way. */
uint32
cdi_graph_find(CdiGraph *graph, uint32 node)
{
	CdiNode    *here = cdi_graph_node(graph, node);

	while (here->parent != node)
	{
		CdiNode    *above = cdi_graph_node(graph, here->parent);

		if (above->parent == here->parent)
			return here->parent;
		here->parent = above->parent;
		node = above->parent;
		here = cdi_graph_node(graph, node);
	}
	return node;
}

static inline CdiNode *
parent_node(CdiGraph *graph, uint32 node)
{
	return cdi_graph_node(graph, cdi_graph_node(graph, node)->parent);
}

/*
 * Order of one bucket: by the person's key, of one person by age.  Buckets
 * are small, because keys are evenly distributed.
 */
typedef struct OrderEntry
{
	pg_uuid_t	person;
	uint32		node;
} OrderEntry;

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE OrderEntry
#define ST_COMPARE(a, b) compare_entries(a, b)
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE

static inline int
compare_entries(const OrderEntry *a, const OrderEntry *b)
{
	int			result = memcmp(&a->person, &b->person, UUID_LEN);

	if (result == 0)
		result = a->node < b->node ? -1 : a->node > b->node;
	return result;
}

#include "lib/sort_template.h"

uint32 *
cdi_graph_order(CdiGraph *graph)
{
	uint32		n = graph->count;
	int			bits = n < 64 ? 0 : pg_leftmost_one_pos32(n) - 5;
	Size		nbuckets = (Size) 1 << bits;
	uint32	   *order;
	uint32	   *ends;
	uint32		largest = 0;
	uint32		start = 0;
	OrderEntry *entries;

	if (graph->slots != NULL)
	{
		graph_free(graph, graph->slots, sizeof(uint32) << graph->slot_bits);
		graph->slots = NULL;
	}
	order = graph_alloc(graph, sizeof(uint32) * Max(n, 1), false);
	ends = graph_alloc(graph, sizeof(uint32) * nbuckets, true);

#define BUCKET(key) \
	(bits == 0 ? 0 : (((uint32) (key).data[0] << 24 | (uint32) (key).data[1] << 16 | \
					   (uint32) (key).data[2] << 8 | (key).data[3]) >> (32 - bits)))

	/* counting sort by the leading bits; parents become roots on the way */
	for (uint32 i = 0; i < n; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, i);

		if (i + CDI_PREFETCH_DISTANCE < n)
			cdi_prefetch(parent_node(graph, i + CDI_PREFETCH_DISTANCE));
		node->parent = cdi_graph_find(graph, i);
		ends[BUCKET(cdi_graph_node(graph, node->parent)->key)]++;
	}
	for (Size b = 0; b < nbuckets; b++)
	{
		uint32		size = ends[b];

		largest = Max(largest, size);
		ends[b] = start;
		start += size;
	}
	for (uint32 i = 0; i < n; i++)
	{
		if (i + CDI_PREFETCH_DISTANCE < n)
			cdi_prefetch(parent_node(graph, i + CDI_PREFETCH_DISTANCE));
		order[ends[BUCKET(parent_node(graph, i)->key)]++] = i;
	}

	entries = graph_alloc(graph, sizeof(OrderEntry) * Max(largest, 1), false);
	start = 0;
	for (Size b = 0; b < nbuckets; b++)
	{
		uint32		size = ends[b] - start;

		for (uint32 i = 0; i < size; i++)
		{
			if (start + i + CDI_PREFETCH_DISTANCE < n)
				cdi_prefetch(cdi_graph_node(graph, order[start + i + CDI_PREFETCH_DISTANCE]));
			entries[i].node = order[start + i];
			entries[i].person = parent_node(graph, entries[i].node)->key;
		}
		if (size > 1)
			sort_entries(entries, size);
		for (uint32 i = 0; i < size; i++)
			order[start + i] = entries[i].node;
		start = ends[b];
		if (b % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	graph_free(graph, entries, sizeof(OrderEntry) * Max(largest, 1));
	graph_free(graph, ends, sizeof(uint32) * nbuckets);
	return order;
}
