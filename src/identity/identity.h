/*
 * identity.h
 *		Identifiers, their keys, and the graph that says who is who.
 */
#ifndef CDI_IDENTITY_H
#define CDI_IDENTITY_H

#include "base/base.h"
#include "identity/traits.h"

#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "identity/identifier.h"

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
	int			npatterns;
	struct CdiPattern *patterns;
	CdiNormaliser normaliser;
	int			npaths;
	CdiTypePath *paths;
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

/* HMAC-SHA-256 over the key, under a salt of its own: cdi.identity_tombstones */
extern void cdi_identifier_tombstone(const pg_uuid_t *key, uint8 tombstone[32]);

/*
 * types.c: cached rows of cdi.identifier_types by priority.  What it returns
 * stays valid until the end of the transaction.
 */
extern const CdiIdentifierType *cdi_identifier_types(int *count);
/* Another number after every reading of the table */
extern uint64 cdi_identifier_types_generation(void);
/* Of all types together, and the slot of context.externalIds */
extern const CdiPathTree *cdi_identifier_paths(int *external_ids);
/* Raises 42704 where there is none. */
extern const CdiIdentifierType *cdi_identifier_type(const char *name);
extern bool cdi_identifier_blocked(const CdiIdentifierType *type, CdiText value);
/*
 * Key of a value as a user wrote it; false where it identifies nobody.  SPI is
 * connected and the user the owner.  Raises what a normaliser raises.
 */
extern bool cdi_identifier_key_of(const CdiIdentifierType *type, CdiText value, pg_uuid_t *key);

/*
 * tombstones.c: whether anything was ever erased, which costs nothing to ask,
 * and which of n keys were.  SPI is connected.
 */
extern bool cdi_tombstones_any(void);
extern bool cdi_tombstones_find(const pg_uuid_t *keys, int n, bool *erased);
/* For whoever writes cdi.identity_tombstones, or empties it. */
extern void cdi_tombstones_changed(void);

/*
 * scrub.c: n keys that are erased, with the values that they were known by.
 * The context that is current when these are added has to stay.
 */
typedef struct CdiErased CdiErased;

extern CdiErased *cdi_erased_create(const pg_uuid_t *keys, int n);
extern bool cdi_erased_key(const CdiErased *erased, const pg_uuid_t *key);
extern void cdi_erased_add_value(CdiErased *erased, CdiText value);
/* text[], in lower case, each once */
extern Datum cdi_erased_values(CdiErased *erased);
/* The members of traits that mention nothing erased; NULL where none is left. */
extern Jsonb *cdi_erased_scrub(CdiErased *erased, Jsonb *traits, bool *changed);

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
#define CDI_NODE_WHOLE		0x4 /* of a root: all stored rows are in its ring, or
								 * tallied */
#define CDI_NODE_TALLIED	0x8 /* of a root: has a tally */

#define CDI_NODE_CHUNK		4096	/* nodes per allocation, a power of two */

typedef struct CdiGraph
{
	MemoryContext context;
	CdiNode   **chunks;
	uint32		nchunks;
	uint32		count;
	uint32	   *slots;			/* hash of keys, see graph.c */
	int			slot_bits;
	struct CdiTallies *tallies; /* of large components, see fold.c */
	struct CdiMapReader *map;	/* where components may not be here as a whole:
								 * what reads the rest of them (map.c) */
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

/* One link as it is folded; its identifiers are keys and types[first .. first + count). */
typedef struct CdiLink
{
	int64		position;
	TimestampTz linked_at;
	int			first;
	int			count;
	bool		unlimited;		/* an alias: says itself that the two are one */
} CdiLink;

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

/* An identifier that a limit set aside */
typedef struct CdiLimitRefusal
{
	int64		position;
	int			which;			/* number of the identifier in its link */
	uint8		type;			/* of which there would be too many */
	int			has;			/* so many has the person */
	int			brings;			/* and so many come with the identifier */
	int			max;
} CdiLimitRefusal;

/* What folding leaves for the record; fold.c appends. */
typedef struct CdiFolded
{
	int			nmerges;
	int			merges_capacity;
	CdiMerge   *merges;
	int			nrefusals;
	int			refusals_capacity;
	CdiLimitRefusal *refusals;
	bool		of_newborn;		/* merges of whom their own link gave birth to, too:
								 * they may have been persons before */
} CdiFolded;

/*
 * limits.c: how many identifiers of a type one person may have.
 */
typedef struct CdiLimit
{
	uint8		type;
	int			max;
	int64		window;			/* seconds; 0: for ever */
} CdiLimit;

typedef struct CdiLimits
{
	int			n;
	uint8		by_type[256];	/* number in limits plus one; 0: no limit */
	CdiLimit	limits[FLEXIBLE_ARRAY_MEMBER];
} CdiLimits;

/* Results are in the current context */
extern CdiLimits *cdi_limits_now(void);	/* those of cdi.identifier_types */
extern CdiLimits *cdi_limits_from_jsonb(Jsonb *jsonb);	/* of cdi.identity_rules */
extern Jsonb *cdi_limits_to_jsonb(const CdiLimits *limits);

extern CdiGraph *cdi_graph_create(MemoryContext parent);
extern void cdi_graph_destroy(CdiGraph *graph);
/* Frees the nodes; the figures stay. */
extern void cdi_graph_clear(CdiGraph *graph);
/* Nodes of n keys, made where they are missing. */
extern void cdi_graph_add(CdiGraph *graph, const pg_uuid_t *keys, int n, uint32 *nodes);
extern uint32 cdi_graph_find(CdiGraph *graph, uint32 node);
/*
 * fold.c: unite what a link names, in its order, as far as limits allow.
 */
#define CDI_OUTCOME_JOINED	0
#define CDI_OUTCOME_APART	1	/* as the caller wanted */
#define CDI_OUTCOME_REFUSED 2	/* by a limit */

extern void cdi_folded_init(CdiFolded *folded);
/* nodes, types: those of the link.  apart: identifiers that are named and not
 * united, or NULL.  outcome: one per identifier, or NULL. */
extern void cdi_graph_fold(CdiGraph *graph, const CdiLimits *limits, const CdiLink *link,
						   const uint32 *nodes, const uint8 *types, const uint8 *apart,
						   int64 fold, CdiFolded *folded, uint8 *outcome);
/* Before limits change; and part of clearing a graph. */
extern void cdi_graph_forget_tallies(CdiGraph *graph);
/* Put a stored identifier into the ring of its person. */
extern void cdi_graph_ring(CdiGraph *graph, uint32 person, uint32 node);

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
/* The same without waiting; false where another has it. */
extern bool cdi_resolver_try_lock(void);
/*
 * Record a run of no links, for whoever changes the map otherwise: older
 * snapshots must not go on from what they see of it.
 */
extern void cdi_resolver_mark(void);
/*
 * Fold what is not folded yet; returns the number of links.  SPI is connected,
 * the user the owner and the resolver's lock held.
 */
extern int64 cdi_resolve_links(void);
/* Push a snapshot that sees what this transaction has written so far, and,
 * under READ COMMITTED, what others have committed until now. */
extern Snapshot cdi_push_snapshot(void);

/* Links that are read, folded and recorded together */
#define CDI_LINK_BATCH		32768

/*
 * links.c: links that no run has folded yet, in order of position.
 */
typedef struct CdiMembership
{
	pg_uuid_t	group;			/* first identifier of the account or household */
	pg_uuid_t	member;
	TimestampTz at;
} CdiMembership;

typedef struct CdiLinkBatch
{
	int			count;
	CdiLink    *links;
	int			nkeys;
	int			keys_capacity;
	pg_uuid_t  *keys;
	uint8	   *types;			/* of the keys: CdiIdentifierType.type_id */
	int			nmembers;
	int			members_capacity;
	CdiMembership *members;
} CdiLinkBatch;

typedef struct CdiLinkReader CdiLinkReader;

extern CdiLinkReader *cdi_links_open(int64 watermark, Snapshot snapshot);
/* Up to max links more; false where there are none. */
extern bool cdi_links_read(CdiLinkReader *reader, CdiLinkBatch *batch, int max,
						   CdiTraitRows *traits);
/* True where there is one; takes it off the reader. */
extern bool cdi_links_pending(CdiLinkReader *reader);
/* How many links there are, guessed from the space of the first batch, which
 * has just been read */
extern double cdi_links_estimate(CdiLinkReader *reader);
extern void cdi_links_batch_init(CdiLinkBatch *batch, int max);
extern CdiLink *cdi_links_append(CdiLinkBatch *batch, int64 position, TimestampTz linked_at,
								 Datum rule, Datum identifiers, Datum types);
extern void cdi_links_close(CdiLinkReader *reader);

/* fold.c: read, in good order, the rows of persons that limits will ask for when
 * the links of a batch are folded; nodes are those of its keys. */
extern void cdi_graph_complete(CdiGraph *graph, const CdiLimits *limits,
							   const CdiLinkBatch *batch, const uint32 *nodes);

/* members.c: who belongs to which account or household, from a batch of links */
extern void cdi_members_record(const CdiLinkBatch *batch);

/*
 * map.c: cdi.identity_map, read into a graph and written from one.  Only the
 * holder of the resolver's lock writes.
 */
extern bool cdi_map_probe(const pg_uuid_t *identifier, Snapshot snapshot, pg_uuid_t *person);
extern double cdi_map_estimate(void);
/* Rows of the graph's keys, and of the persons that those belong to */
extern void cdi_map_fetch(CdiGraph *graph, Snapshot snapshot);
/* Until when graph->map serves to read more: after cdi_map_fetch */
extern void cdi_map_reader_open(CdiGraph *graph, Snapshot snapshot);
extern void cdi_map_reader_close(CdiGraph *graph);
/*
 * Up to max of a person's rows, those folded last first, of one type or (0) of
 * any.  Calls take() for each; returns how many there were.
 */
extern int	cdi_map_person_rows(CdiGraph *graph, const pg_uuid_t *person, uint8 type, int max,
								void (*take) (void *arg, const pg_uuid_t *identifier, int64 fold,
											  int64 position, uint8 type), void *arg);
/* In an order in which the rows of persons are quickly read */
extern void cdi_map_visit_persons(CdiGraph *graph, const uint32 *persons, uint32 n,
								  void (*visit) (void *arg, uint32 person), void *arg);
/* linked_at of a link, 0 where there is none */
extern TimestampTz cdi_map_linked_at(CdiGraph *graph, int64 position);
/* All rows */
extern void cdi_map_load(CdiGraph *graph, Snapshot snapshot);
/* All rows, for a look at each */
typedef void (*CdiMapRow) (void *arg, CdiGraph *graph, const pg_uuid_t *identifier,
						   const pg_uuid_t *person, int64 fold, int64 position, uint8 type);
extern void cdi_map_each(CdiGraph *graph, Snapshot snapshot, CdiMapRow take, void *arg);
/*
 * Let plans go by indexes, whatever the planner believes: its statistics may
 * be those of empty tables.  Until AtEOXact_GUC(true, what it returns).
 */
extern int	cdi_force_index_plans(void);
/* Insert and update what differs from the rows that were read. */
extern void cdi_map_update(CdiGraph *graph);
/* Raises XX001 where a person that was read, of the nodes from number first on,
 * has no row of its own; before they are folded. */
extern void cdi_map_check_persons(CdiGraph *graph, uint32 first);

/*
 * map_replace.c: write all nodes to a new table that takes the map's place, and
 * clear the graph.  Returns false, having done nothing, where the map is in use.
 */
extern bool cdi_map_replace(CdiGraph *graph);

/* A row of the map */
typedef struct CdiMapEntry
{
	pg_uuid_t	identifier;
	pg_uuid_t	person;
	int64		fold;
	int64		position;
	uint8		type;
	uint8		flags;			/* CdiNode.flags; not stored */
} CdiMapEntry;

/* Sets the next row, by person; frees what it took when there is none. */
typedef bool (*CdiMapSource) (void *arg, CdiMapEntry *entry);
/* The same with rows from elsewhere */
extern bool cdi_map_replace_by(CdiMapSource next, void *arg);

/*
 * history.c: links that have been folded, in the order on record, with the
 * limits of their time and without what was revoked.  All of them, or those
 * that hang together with some identifiers.  SPI is connected, the user the
 * owner; reads by the active snapshot.
 */
typedef struct CdiHistory
{
	CdiLinkBatch batch;			/* the links at hand */
	int64	   *runs;			/* their runs */
	uint8	   *apart;			/* per key: CDI_OUTCOME_APART where it was revoked */
	uint32	   *nodes;			/* per key, once folded */
	uint8	   *outcome;		/* per key, once folded */
	const CdiLimits *limits;	/* to be used instead of those on record, or NULL */
	struct HTAB *set_aside;		/* keys of identifiers to leave out besides, or NULL */
	CdiFolded	folded;			/* of the links at hand */
	struct CdiHistoryState *state;
} CdiHistory;

extern CdiHistory *cdi_history_open(void);
/* until: links that happened and revocations that were made by then; before_run:
 * links that earlier runs folded, PG_INT64_MAX: any run */
extern CdiHistory *cdi_history_open_closure(const pg_uuid_t *seeds, int n, TimestampTz until, int64 before_run);
/* Fold some more links; false where there are none. */
extern bool cdi_history_fold(CdiHistory *history, CdiGraph *graph);
extern void cdi_history_close(CdiHistory *history);

/* explain.c: links that joined each node, of a closure that was folded: those
 * of node i are links[first[i] .. first[i + 1]). */
typedef struct CdiAdjacency
{
	int		   *first;
	int		   *links;
} CdiAdjacency;

extern CdiAdjacency cdi_history_adjacency(const CdiHistory *history, uint32 nnodes);

/*
 * unmerge.c: fold again what hangs together with the seeds and write what
 * comes out differently; who became whom goes on record, and into result where
 * it is not NULL.  The resolver's lock is held.
 */
extern void cdi_refold(const pg_uuid_t *seeds, int n, int64 revocation,
					   Tuplestorestate *result, TupleDesc desc);

#endif							/* CDI_IDENTITY_H */
