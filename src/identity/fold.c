/*
 * fold.c
 *		Unite what a link names, as far as limits allow.
 *
 * A link names its identifiers: each that no link named before is born as a
 * person of its own, with the fold's number.  It then unites them, in order of
 * priority: the first one's person with that of the second, and so on.  An
 * identifier whose person would bring too many of a type is set aside, that
 * is, left where it is, and the next one is tried.  So births depend on the
 * order of links alone, and neither limits nor unmerges change them.
 *
 * How many identifiers of a type a person has, for a limit of max within a
 * window, are those of the max named last (by fold) whose own link happened
 * after the link at hand less the window.  That is a function of the max
 * newest, so a component of any size can be asked cheaply.  The members of a
 * component lie in a ring.  A small one is walked each time.  A large one has
 * a tally: the newest members of each limited type.  Where a graph holds only
 * the part of the map that a run has asked for, the rest of a component is
 * read when a limit asks for it.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "identity/identity.h"

/* Members up to which a component is walked */
#define SMALL_COMPONENT		64

#define NO_NODE				PG_UINT32_MAX

typedef struct TallyEntry
{
	int64		fold;
	int64		position;
	uint32		named;			/* as CdiNode.named */
} TallyEntry;

/* The newest members of one type, by ascending fold */
typedef struct TallyList
{
	int			count;
	int			capacity;
	TallyEntry *entries;
} TallyList;

typedef struct Tally
{
	uint32		root;			/* hash key */
	TallyList  *lists;			/* one per limit */
} Tally;

typedef struct CdiTallies
{
	MemoryContext context;
	HTAB	   *by_root;
	const CdiLimits *limits;
	Size		memory;			/* of context, as counted in the graph's */
} CdiTallies;

/*
 * Times in seconds since 2000, which windows can afford; 0 means unknown.
 */
static uint32
to_seconds(TimestampTz time)
{
	if (time < USECS_PER_SEC)
		return 1;
	return (uint32) Min(time / USECS_PER_SEC, (int64) PG_UINT32_MAX);
}

static uint32
named_at(CdiGraph *graph, uint32 *named, int64 position)
{
	if (*named == 0)
		*named = to_seconds(cdi_map_linked_at(graph, position));
	return *named;
}

static void
swap_next(CdiGraph *graph, uint32 a, uint32 b)
{
	CdiNode    *one = cdi_graph_node(graph, a);
	CdiNode    *other = cdi_graph_node(graph, b);
	uint32		next = one->next;

	one->next = other->next;
	other->next = next;
}

void
cdi_graph_ring(CdiGraph *graph, uint32 person, uint32 node)
{
	if (person != node)
		swap_next(graph, person, node);
}

/*
 * Tallies
 */
static CdiTallies *
tallies_of(CdiGraph *graph, const CdiLimits *limits)
{
	if (graph->tallies == NULL)
	{
		CdiTallies *tallies = MemoryContextAllocZero(graph->context, sizeof(CdiTallies));
		HASHCTL		control = {.keysize = sizeof(uint32),.entrysize = sizeof(Tally)};

		tallies->context = AllocSetContextCreate(graph->context, "cdi identity tallies",
												 ALLOCSET_DEFAULT_SIZES);
		control.hcxt = tallies->context;
		tallies->by_root = hash_create("cdi identity tallies", 256, &control,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		tallies->limits = limits;
		graph->tallies = tallies;
	}
	Assert(graph->tallies->limits == limits);
	return graph->tallies;
}

void
cdi_graph_forget_tallies(CdiGraph *graph)
{
	HASH_SEQ_STATUS scan;
	Tally	   *tally;

	if (graph->tallies == NULL)
		return;
	hash_seq_init(&scan, graph->tallies->by_root);
	while ((tally = hash_seq_search(&scan)) != NULL)
		cdi_graph_node(graph, tally->root)->flags &= ~CDI_NODE_TALLIED;
	graph->memory -= graph->tallies->memory;
	MemoryContextDelete(graph->tallies->context);
	pfree(graph->tallies);
	graph->tallies = NULL;
}

/* After something was added to the tallies */
static void
count_memory(CdiGraph *graph)
{
	Size		memory = MemoryContextMemAllocated(graph->tallies->context, true);

	graph->memory += memory - graph->tallies->memory;
	graph->tallies->memory = memory;
	graph->peak = Max(graph->peak, graph->memory);
}

static void
tally_add(CdiTallies *tallies, Tally *tally, uint8 type, int64 fold, int64 position, uint32 named)
{
	int			number = tallies->limits->by_type[type];
	TallyList  *list;
	int			max;
	int			at;

	if (number == 0)
		return;
	list = &tally->lists[number - 1];
	max = tallies->limits->limits[number - 1].max;
	if (list->count == max && fold < list->entries[0].fold)
		return;
	if (list->count == list->capacity && list->capacity < max)
	{
		list->capacity = Min(Max(list->capacity * 2, 4), max);
		if (list->entries == NULL)
			list->entries = MemoryContextAlloc(tallies->context, sizeof(TallyEntry) * list->capacity);
		else
			list->entries = repalloc(list->entries, sizeof(TallyEntry) * list->capacity);
	}
	if (list->count == max)
	{
		memmove(list->entries, list->entries + 1, sizeof(TallyEntry) * (max - 1));
		list->count--;
	}
	for (at = list->count; at > 0 && list->entries[at - 1].fold > fold; at--)
		list->entries[at] = list->entries[at - 1];
	list->entries[at].fold = fold;
	list->entries[at].position = position;
	list->entries[at].named = named;
	list->count++;
}

static void
tally_ring(CdiGraph *graph, CdiTallies *tallies, Tally *tally, uint32 root)
{
	uint32		at = root;

	do
	{
		CdiNode    *node = cdi_graph_node(graph, at);

		tally_add(tallies, tally, node->type, node->fold, node->position, node->named);
		at = node->next;
	} while (at != root);
	count_memory(graph);
}

static Tally *
make_tally(CdiGraph *graph, CdiTallies *tallies, uint32 root)
{
	bool		found;
	Tally	   *tally = hash_search(tallies->by_root, &root, HASH_ENTER, &found);

	Assert(!found);
	tally->lists = MemoryContextAllocZero(tallies->context,
										  sizeof(TallyList) * Max(tallies->limits->n, 1));
	cdi_graph_node(graph, root)->flags |= CDI_NODE_TALLIED;
	return tally;
}

typedef struct TakeState
{
	CdiGraph   *graph;
	uint32		root;
	CdiTallies *tallies;
	Tally	   *tally;
} TakeState;

static void
take_into_ring(void *arg, const pg_uuid_t *identifier, int64 fold, int64 position, uint8 type)
{
	TakeState  *state = arg;
	uint32		number;
	CdiNode    *node;

	cdi_graph_add(state->graph, identifier, 1, &number);
	node = cdi_graph_node(state->graph, number);
	if ((node->flags & CDI_NODE_STORED) != 0)
		return;					/* and in the ring already */
	node->fold = fold;
	node->position = position;
	node->type = type;
	node->parent = state->root;
	node->flags |= CDI_NODE_STORED;
	cdi_graph_ring(state->graph, state->root, number);
}

static void
take_into_tally(void *arg, const pg_uuid_t *identifier, int64 fold, int64 position, uint8 type)
{
	TakeState  *state = arg;

	tally_add(state->tallies, state->tally, type, fold, position, 0);
}

static bool
in_ring(CdiGraph *graph, uint32 root, int max)
{
	uint32		at = root;

	for (int i = 0; i < max; i++)
		if ((at = cdi_graph_node(graph, at)->next) == root)
			return true;
	return false;
}

/*
 * Make sure that all members of a component can be seen: in its ring, or, of a
 * large one, in its tally.  What the stored person has besides is read.
 */
static void
complete(CdiGraph *graph, CdiTallies *tallies, uint32 root)
{
	CdiNode    *node = cdi_graph_node(graph, root);
	TakeState	state = {graph, root, tallies, NULL};

	if ((node->flags & CDI_NODE_WHOLE) != 0)
		return;
	node->flags |= CDI_NODE_WHOLE;
	if (graph->map != NULL && (node->flags & CDI_NODE_PERSON) != 0)
	{
		pg_uuid_t	person = node->key;

		if (cdi_map_person_rows(graph, &person, 0, SMALL_COMPONENT + 1, take_into_ring, &state) > SMALL_COMPONENT)
		{
			/* its ring has some of the stored, and nobody else: nothing is
			 * united with a component that is not complete */
			state.tally = make_tally(graph, tallies, root);
			for (int i = 0; i < tallies->limits->n; i++)
				(void) cdi_map_person_rows(graph, &person, tallies->limits->limits[i].type,
										   tallies->limits->limits[i].max, take_into_tally, &state);
			count_memory(graph);
			return;
		}
	}
	if (!in_ring(graph, root, SMALL_COMPONENT))
		tally_ring(graph, tallies, make_tally(graph, tallies, root), root);
}

typedef struct CompleteState
{
	CdiGraph   *graph;
	CdiTallies *tallies;
} CompleteState;

static void
complete_person(void *arg, uint32 person)
{
	CompleteState *state = arg;

	complete(state->graph, state->tallies, person);
}

void
cdi_graph_complete(CdiGraph *graph, const CdiLimits *limits, const CdiLinkBatch *batch, const uint32 *nodes)
{
	CompleteState state;
	uint32	   *persons;
	uint32		n = 0;

	if (limits->n == 0)
		return;
	state.graph = graph;
	state.tallies = tallies_of(graph, limits);
	persons = palloc_extended(sizeof(uint32) * Max(batch->nkeys, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < batch->count; i++)
	{
		const CdiLink *link = &batch->links[i];
		const uint32 *named = nodes + link->first;
		bool		united = true;

		for (int k = 1; k < link->count && united; k++)
			united = cdi_graph_find(graph, named[k]) == cdi_graph_find(graph, named[0]);
		for (int k = 0; k < link->count && !united; k++)
		{
			uint32		person = cdi_graph_find(graph, named[k]);

			if ((cdi_graph_node(graph, person)->flags & CDI_NODE_PERSON) != 0)
				persons[n++] = person;
		}
	}
	cdi_map_visit_persons(graph, persons, n, complete_person, &state);
	pfree(persons);
}

static Tally *
find_tally(CdiTallies *tallies, uint32 root)
{
	return hash_search(tallies->by_root, &root, HASH_FIND, NULL);
}

/* The component has grown by walking too far: give it a tally. */
static bool
is_tallied(CdiGraph *graph, CdiTallies *tallies, uint32 root)
{
	complete(graph, tallies, root);
	if ((cdi_graph_node(graph, root)->flags & CDI_NODE_TALLIED) != 0)
		return true;
	if (in_ring(graph, root, SMALL_COMPONENT))
		return false;
	tally_ring(graph, tallies, make_tally(graph, tallies, root), root);
	return true;
}

/*
 * How many of a limited type the component has, as defined above.  When they
 * were named may have to be looked up for each: where more than slack of them
 * are too old, nobody wants to know how many there are of the others.
 */
static int
count_tallied(CdiGraph *graph, Tally *tally, int number, uint32 since, int slack)
{
	TallyList  *list = &tally->lists[number];
	int			old = 0;

	if (since == 0)
		return list->count;
	for (int i = 0; i < list->count && old <= slack; i++)
		if (named_at(graph, &list->entries[i].named, list->entries[i].position) <= since)
			old++;
	return list->count - old;
}

static int
count_walked(CdiGraph *graph, uint32 root, const CdiLimit *limit, uint32 since)
{
	CdiNode    *members[SMALL_COMPONENT];
	int			n = 0;
	int			count = 0;
	uint32		at = root;

	do
	{
		CdiNode    *node = cdi_graph_node(graph, at);

		if (node->type == limit->type)
			members[n++] = node;
		at = node->next;
	} while (at != root);
	if (since == 0)
		return Min(n, limit->max);
	for (int i = 0; i < n; i++)
	{
		int			newer = 0;

		/* only the newest count; of those that one link named, any: they are
		 * of the same time */
		if (n > limit->max)
			for (int k = 0; k < n; k++)
				if (members[k]->fold > members[i]->fold ||
					(members[k]->fold == members[i]->fold && k < i))
					newer++;
		if (newer < limit->max &&
			named_at(graph, &members[i]->named, members[i]->position) > since)
			count++;
	}
	return count;
}

/*
 * since: start of the window; 0: whenever they were named.  Where more than
 * slack are older, it may stop at slack + 1 and count the rest as if in it.
 */
static int
count_type(CdiGraph *graph, CdiTallies *tallies, uint32 root, int number, uint32 since, int slack)
{
	const CdiLimit *limit = &tallies->limits->limits[number];

	if (is_tallied(graph, tallies, root))
		return count_tallied(graph, find_tally(tallies, root), number, since, slack);
	return count_walked(graph, root, limit, since);
}

/*
 * Would there be too many?  Counts them into the refusal.  slack: by how many
 * there would be more than too many without a window; once more than these are
 * older than the window, the answer is no.
 */
static bool
exceeds(CdiGraph *graph, CdiTallies *tallies, const uint32 *accepted, int naccepted,
		uint32 candidate, int number, uint32 since, int slack, CdiLimitRefusal *refusal)
{
	refusal->brings = count_type(graph, tallies, candidate, number, since, slack);
	refusal->has = 0;
	for (int k = 0; k < naccepted && refusal->brings > 0; k++)
		refusal->has += count_type(graph, tallies, accepted[k], number, since, slack);
	return refusal->has > 0 && refusal->has + refusal->brings > tallies->limits->limits[number].max;
}

/*
 * Bits of the limited types that a component may have members of; those of
 * the last limits share one.
 */
#define LIMIT_BIT(number)	(UINT64CONST(1) << Min(number, 63))

static uint64
limited_types(CdiGraph *graph, CdiTallies *tallies, uint32 root)
{
	uint64		bits = 0;
	uint32		at = root;

	if (is_tallied(graph, tallies, root))
	{
		Tally	   *tally = find_tally(tallies, root);

		for (int i = 0; i < tallies->limits->n; i++)
			if (tally->lists[i].count > 0)
				bits |= LIMIT_BIT(i);
		return bits;
	}
	do
	{
		CdiNode    *node = cdi_graph_node(graph, at);
		int			number = tallies->limits->by_type[node->type];

		if (number > 0)
			bits |= LIMIT_BIT(number - 1);
		at = node->next;
	} while (at != root);
	return bits;
}

/*
 * May the component of candidate join those that have been accepted?  bits are
 * the accepted ones' limited types, and then those of all.
 */
static bool
is_allowed(CdiGraph *graph, const CdiLimits *limits, const CdiLink *link, const uint32 *accepted,
		   int naccepted, uint32 candidate, uint64 *bits, CdiLimitRefusal *refusal)
{
	CdiTallies *tallies = tallies_of(graph, limits);
	uint32		time = to_seconds(link->linked_at);
	uint64		candidate_bits = limited_types(graph, tallies, candidate);
	uint64		common;

	if (naccepted == 1)
		*bits = limited_types(graph, tallies, accepted[0]);
	common = *bits & candidate_bits;
	for (int i = 0; i < limits->n && common != 0; i++)
	{
		const CdiLimit *limit = &limits->limits[i];

		/* when they were named may have to be looked up: first without */
		if ((common & LIMIT_BIT(i)) == 0 ||
			!exceeds(graph, tallies, accepted, naccepted, candidate, i, 0, 0, refusal))
			continue;
		if (limit->window > 0 && (int64) time > limit->window &&
			!exceeds(graph, tallies, accepted, naccepted, candidate, i, time - limit->window,
					 refusal->has + refusal->brings - limit->max - 1, refusal))
			continue;
		refusal->type = limit->type;
		refusal->max = limit->max;
		return false;
	}
	*bits |= candidate_bits;
	return true;
}

/* The absorbed component's members are the survivor's. */
static void
unite(CdiGraph *graph, const CdiLimits *limits, uint32 survivor, uint32 absorbed)
{
	CdiNode    *old = cdi_graph_node(graph, survivor);
	CdiNode    *young = cdi_graph_node(graph, absorbed);

	young->parent = survivor;
	if (limits->n > 0)
	{
		CdiTallies *tallies = tallies_of(graph, limits);

		complete(graph, tallies, survivor);
		complete(graph, tallies, absorbed);
		if ((old->flags | young->flags) & CDI_NODE_TALLIED)
		{
			Tally	   *tally;

			if ((old->flags & CDI_NODE_TALLIED) == 0)
				tally_ring(graph, tallies, make_tally(graph, tallies, survivor), survivor);
			tally = find_tally(tallies, survivor);
			if ((young->flags & CDI_NODE_TALLIED) == 0)
				tally_ring(graph, tallies, tally, absorbed);
			else
			{
				Tally	   *other = find_tally(tallies, absorbed);

				for (int i = 0; i < limits->n; i++)
					for (int k = 0; k < other->lists[i].count; k++)
					{
						TallyEntry *entry = &other->lists[i].entries[k];

						tally_add(tallies, tally, limits->limits[i].type,
								  entry->fold, entry->position, entry->named);
					}
				hash_search(tallies->by_root, &absorbed, HASH_REMOVE, NULL);
				young->flags &= ~CDI_NODE_TALLIED;
				count_memory(graph);
			}
		}
	}
	swap_next(graph, survivor, absorbed);
}

void
cdi_folded_init(CdiFolded *folded)
{
	folded->of_newborn = false;
	folded->nmerges = folded->nrefusals = 0;
	folded->merges_capacity = folded->refusals_capacity = 256;
	folded->merges = palloc(sizeof(CdiMerge) * folded->merges_capacity);
	folded->refusals = palloc(sizeof(CdiLimitRefusal) * folded->refusals_capacity);
}

static void
append_merge(CdiFolded *folded, const CdiLink *link, int64 fold, int which,
			 const pg_uuid_t *identifier, const CdiNode *survivor, const CdiNode *absorbed)
{
	CdiMerge   *merge;

	if (folded->nmerges == folded->merges_capacity)
	{
		folded->merges_capacity *= 2;
		folded->merges = repalloc_huge(folded->merges, sizeof(CdiMerge) * folded->merges_capacity);
	}
	merge = &folded->merges[folded->nmerges++];
	merge->fold = fold;
	merge->position = link->position;
	merge->merged_at = link->linked_at;
	merge->which = which;
	merge->identifier = *identifier;
	merge->survivor = survivor->key;
	merge->absorbed = absorbed->key;
}

static void
append_refusal(CdiFolded *folded, const CdiLink *link, int which, const CdiLimitRefusal *refusal)
{
	if (folded->nrefusals == folded->refusals_capacity)
	{
		folded->refusals_capacity *= 2;
		folded->refusals = repalloc_huge(folded->refusals,
										 sizeof(CdiLimitRefusal) * folded->refusals_capacity);
	}
	folded->refusals[folded->nrefusals] = *refusal;
	folded->refusals[folded->nrefusals].position = link->position;
	folded->refusals[folded->nrefusals++].which = which;
}

static void
give_birth(CdiGraph *graph, CdiNode *node, const CdiLink *link, uint8 type, int64 fold)
{
	node->fold = fold;
	node->position = link->position;
	node->named = to_seconds(link->linked_at);
	node->type = type;
	node->flags |= CDI_NODE_WHOLE;
}

void
cdi_graph_fold(CdiGraph *graph, const CdiLimits *limits, const CdiLink *link,
			   const uint32 *nodes, const uint8 *types, const uint8 *apart,
			   int64 fold, CdiFolded *folded, uint8 *outcome)
{
	uint32		accepted[CDI_MERGES_PER_FOLD];
	int			which[CDI_MERGES_PER_FOLD];
	int			n = 0;
	uint64		bits = 0;
	uint32		survivor = NO_NODE;

	Assert(link->count <= CDI_MERGES_PER_FOLD);
	for (int i = 0; i < link->count; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, nodes[i]);

		if (node->fold == 0)
			give_birth(graph, node, link, types[i], fold);
	}

	/* Which persons are to be one */
	for (int i = 0; i < link->count; i++)
	{
		uint32		root;
		bool		known = false;
		CdiLimitRefusal	refusal;

		if (outcome != NULL)
			outcome[i] = CDI_OUTCOME_JOINED;
		if (apart != NULL && apart[i])
		{
			if (outcome != NULL)
				outcome[i] = CDI_OUTCOME_APART;
			continue;
		}
		root = cdi_graph_find(graph, nodes[i]);
		for (int k = 0; k < n && !known; k++)
			known = accepted[k] == root;
		if (known)
			continue;
		if (n > 0 && limits->n > 0 && !link->unlimited &&
			!is_allowed(graph, limits, link, accepted, n, root, &bits, &refusal))
		{
			append_refusal(folded, link, i, &refusal);
			if (outcome != NULL)
				outcome[i] = CDI_OUTCOME_REFUSED;
			continue;
		}
		accepted[n] = root;
		which[n++] = i;
		if (survivor == NO_NODE ||
			cdi_graph_node(graph, root)->fold < cdi_graph_node(graph, survivor)->fold)
			survivor = root;
	}

	for (int k = 0; k < n; k++)
	{
		CdiNode    *absorbed = cdi_graph_node(graph, accepted[k]);

		if (accepted[k] == survivor)
			continue;
		/* who was born just now was never a person of its own */
		if (absorbed->fold != fold || folded->of_newborn)
			append_merge(folded, link, fold, which[k], &cdi_graph_node(graph, nodes[which[k]])->key,
						 cdi_graph_node(graph, survivor), absorbed);
		unite(graph, limits, survivor, accepted[k]);
	}
}
