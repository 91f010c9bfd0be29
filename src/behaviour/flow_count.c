/*
 * flow_count.c
 *		Paths that were taken, counted: as links between the nodes of one step
 *		and the next, and as whole paths.
 */
#include "behaviour/flow.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

/* Numbers of nodes fit in a key beside a step and another node. */
#define NODE_BITS	28
#define MAX_LABELS	((1 << NODE_BITS) - 4)

CdiFlowPaths *
cdi_flow_create(MemoryContext context, bool backward)
{
	CdiFlowPaths *paths = MemoryContextAllocZero(context, sizeof(CdiFlowPaths));

	paths->context = context;
	paths->labels = cdi_labels_create(context, 64);
	paths->backward = backward;
	paths->words_space = paths->gaps_space = 1024;
	paths->words = MemoryContextAlloc(context, sizeof(int32) * paths->words_space);
	paths->gaps = MemoryContextAlloc(context, sizeof(int64) * paths->gaps_space);
	return paths;
}

void
cdi_flow_keep(CdiFlowPaths *paths, int32 person, int length, const int32 *nodes, const TimestampTz *times)
{
	int32	   *word;

	if (paths->nwords + length + 2 > paths->words_space)
	{
		paths->words_space *= 2;
		paths->words = repalloc_huge(paths->words, sizeof(int32) * paths->words_space);
	}
	if (paths->ngaps + length > paths->gaps_space)
	{
		paths->gaps_space *= 2;
		paths->gaps = repalloc_huge(paths->gaps, sizeof(int64) * paths->gaps_space);
	}
	word = &paths->words[paths->nwords];
	word[0] = person;
	word[1] = length;
	memcpy(&word[2], nodes, sizeof(int32) * length);
	paths->nwords += length + 2;
	for (int i = 1; i < length; i++)
		paths->gaps[paths->ngaps++] = nodes[i] < 0 || nodes[i - 1] < 0 ? CDI_FLOW_NO_GAP : llabs(times[i] - times[i - 1]);
	paths->npaths++;
}

/* Counts by a 64-bit key */
typedef struct Count
{
	uint64		key;
	int64		occurrences;
	int64		people;
	int64		first_gap;		/* of all gaps, those of this key begin here */
	int64		ngaps;
	int32		last_person;
	bool		kept;
	char		status;
} Count;

#define SH_PREFIX		counts
#define SH_ELEMENT_TYPE	Count
#define SH_KEY_TYPE		uint64
#define SH_KEY			key
#define SH_HASH_KEY(table, key)		murmurhash32((uint32) (key) ^ murmurhash32((uint32) ((key) >> 32)))
#define SH_EQUAL(table, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Whole paths; the key is where the path lies. */
typedef struct PathCount
{
	const int32 *path;			/* its length and nodes */
	int64		occurrences;
	int64		people;
	int64		first_gap;
	int64		ngaps;
	int32		last_person;
	uint32		hash;
	char		status;
} PathCount;

#define SH_PREFIX		path_counts
#define SH_ELEMENT_TYPE	PathCount
#define SH_KEY_TYPE		const int32 *
#define SH_KEY			path
#define SH_HASH_KEY(table, key)		hash_bytes((const unsigned char *) (key), sizeof(int32) * ((key)[0] + 1))
#define SH_EQUAL(table, a, b)		((a)[0] == (b)[0] && memcmp((a), (b), sizeof(int32) * ((a)[0] + 1)) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry)	(entry)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static uint64
node_key(int step, int32 node)
{
	return (uint64) step << (2 * NODE_BITS) | (uint64) (node + 4);
}

static uint64
link_key(int step, int32 source, int32 target)
{
	return node_key(step, source) | (uint64) (target + 4) << NODE_BITS;
}

static int
key_step(uint64 key)
{
	return (int) (key >> (2 * NODE_BITS));
}

static int32
key_source(uint64 key)
{
	return (int32) (key & ((1 << NODE_BITS) - 1)) - 4;
}

static int32
key_target(uint64 key)
{
	return (int32) ((key >> NODE_BITS) & ((1 << NODE_BITS) - 1)) - 4;
}

static int
compare_labels(const CdiLabels *labels, int32 a, int32 b)
{
	CdiText		left;
	CdiText		right;
	int			difference;

	if (a < 0 || b < 0)
		return a < b ? -1 : a > b;
	left = labels->labels[a];
	right = labels->labels[b];
	difference = memcmp(left.data, right.data, Min(left.len, right.len));
	return difference ? difference : left.len - right.len;
}

/* By step, then the most frequent first. */
static int
compare_counts(const void *a, const void *b, void *arg)
{
	const Count *left = *(Count *const *) a;
	const Count *right = *(Count *const *) b;
	int			difference;

	if (key_step(left->key) != key_step(right->key))
		return key_step(left->key) < key_step(right->key) ? -1 : 1;
	if (left->occurrences != right->occurrences)
		return left->occurrences > right->occurrences ? -1 : 1;
	difference = compare_labels(arg, key_source(left->key), key_source(right->key));
	return difference ? difference : compare_labels(arg, key_target(left->key), key_target(right->key));
}

static Count **
sorted_counts(counts_hash *counts, CdiLabels *labels)
{
	Count	  **sorted = palloc_extended(sizeof(Count *) * Max(counts->members, 1), MCXT_ALLOC_HUGE);
	counts_iterator iterator;
	Count	   *count;
	int64		n = 0;

	counts_start_iterate(counts, &iterator);
	while ((count = counts_iterate(counts, &iterator)) != NULL)
		sorted[n++] = count;
	qsort_arg(sorted, n, sizeof(Count *), compare_counts, labels);
	return sorted;
}

/* Count one occurrence for a person; paths come in order of person. */
#define COUNT_OCCURRENCE(count, found, person) \
	do { \
		if (!(found)) \
		{ \
			(count)->occurrences = (count)->people = (count)->ngaps = 0; \
			(count)->last_person = -1; \
		} \
		(count)->occurrences++; \
		if ((count)->last_person != (person)) \
			(count)->people++; \
		(count)->last_person = (person); \
	} while (0)

/* The nodes that have a name of their own at their step: the most frequent. */
static counts_hash *
frequent_nodes(const CdiFlowPaths *paths, int top)
{
	counts_hash *nodes = counts_create(CurrentMemoryContext, 256, NULL);
	Count	  **sorted;
	int			rank = 0;
	bool		found;

	for (int64 at = 0; at < paths->nwords; at += paths->words[at + 1] + 2)
	{
		const int32 *word = &paths->words[at];

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < word[1]; i++)
		{
			Count	   *count;

			if (word[2 + i] < 0)
				continue;
			count = counts_insert(nodes, node_key(i, word[2 + i]), &found);
			COUNT_OCCURRENCE(count, found, word[0]);
		}
	}
	sorted = sorted_counts(nodes, paths->labels);
	for (int64 i = 0; i < nodes->members; i++)
	{
		rank = i > 0 && key_step(sorted[i]->key) == key_step(sorted[i - 1]->key) ? rank + 1 : 0;
		sorted[i]->kept = rank < top;
	}
	pfree(sorted);
	return nodes;
}

/* The node that stands for another at a step */
static int32
shown_node(counts_hash *frequent, int step, int32 node)
{
	return node < 0 || counts_lookup(frequent, node_key(step, node))->kept ? node : CDI_FLOW_OTHER;
}

static int
compare_gaps(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* In seconds; as percentile_cont(0.5) defines it.  Sorts the gaps. */
static double
median(int64 *gaps, int64 n)
{
	int64		upper = n / 2;
	int64		lower = (n - 1) / 2;

	qsort(gaps, n, sizeof(int64), compare_gaps);
	return ((double) gaps[lower] + (double) gaps[upper]) / 2.0 / USECS_PER_SEC;
}

void
cdi_flow_links(CdiFlowPaths *paths, int top, ReturnSetInfo *result)
{
	counts_hash *frequent;
	counts_hash *links = counts_create(CurrentMemoryContext, 256, NULL);
	Count	  **sorted = NULL;
	int64	   *gaps = NULL;
	int64		ngaps = 0;
	int64		gap;
	bool		found;

	if (paths->labels->n > MAX_LABELS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a flow can have at most %d different nodes", MAX_LABELS)));
	frequent = frequent_nodes(paths, top);
	for (int pass = 0; pass < 2; pass++)
	{
		/* first count; then, as each link's number is known, put its gaps in their place */
		if (pass == 1)
		{
			sorted = sorted_counts(links, paths->labels);
			for (int64 i = 0; i < links->members; i++)
			{
				sorted[i]->first_gap = ngaps;
				ngaps += sorted[i]->ngaps;
				sorted[i]->ngaps = 0;
			}
			gaps = palloc_extended(sizeof(int64) * Max(ngaps, 1), MCXT_ALLOC_HUGE);
		}
		gap = 0;
		for (int64 at = 0; at < paths->nwords; at += paths->words[at + 1] + 2)
		{
			const int32 *word = &paths->words[at];

			CHECK_FOR_INTERRUPTS();
			for (int i = 0; i + 1 < word[1]; i++, gap++)
			{
				uint64		key = link_key(i, shown_node(frequent, i, word[2 + i]),
										   shown_node(frequent, i + 1, word[3 + i]));
				Count	   *link;

				if (pass == 0)
				{
					link = counts_insert(links, key, &found);
					COUNT_OCCURRENCE(link, found, word[0]);
					link->ngaps += paths->gaps[gap] != CDI_FLOW_NO_GAP;
				}
				else if (paths->gaps[gap] != CDI_FLOW_NO_GAP)
				{
					link = counts_lookup(links, key);
					gaps[link->first_gap + link->ngaps++] = paths->gaps[gap];
				}
			}
		}
	}

	for (int64 i = 0; i < links->members; i++)
	{
		Count	   *link = sorted[i];
		int			step = key_step(link->key);
		int32		source = key_source(link->key);
		int32		target = key_target(link->key);
		Datum		values[6];
		bool		nulls[6] = {false};

		CHECK_FOR_INTERRUPTS();
		/* a path to the anchor goes the other way */
		values[0] = Int32GetDatum(paths->backward ? -step - 1 : step);
		values[1] = PointerGetDatum(cdi_flow_label(paths->labels, paths->backward ? target : source));
		values[2] = PointerGetDatum(cdi_flow_label(paths->labels, paths->backward ? source : target));
		values[3] = Int64GetDatum(link->people);
		values[4] = Int64GetDatum(link->occurrences);
		nulls[5] = link->ngaps == 0;
		values[5] = Float8GetDatum(nulls[5] ? 0 : median(&gaps[link->first_gap], link->ngaps));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

static int
compare_paths(const void *a, const void *b, void *arg)
{
	const PathCount *left = *(PathCount *const *) a;
	const PathCount *right = *(PathCount *const *) b;

	if (left->occurrences != right->occurrences)
		return left->occurrences > right->occurrences ? -1 : 1;
	if (left->people != right->people)
		return left->people > right->people ? -1 : 1;
	for (int i = 1; i <= Min(left->path[0], right->path[0]); i++)
	{
		int			difference = compare_labels(arg, left->path[i], right->path[i]);

		if (difference)
			return difference;
	}
	return left->path[0] - right->path[0];
}

static Datum
path_array(const CdiFlowPaths *paths, const int32 *path)
{
	Datum		values[CDI_FLOW_MAX_STEPS + 2];

	for (int i = 0; i < path[0]; i++)
		values[i] = PointerGetDatum(cdi_flow_label(paths->labels, path[paths->backward ? path[0] - i : i + 1]));
	return PointerGetDatum(construct_array(values, path[0], TEXTOID, -1, false, TYPALIGN_INT));
}

/* Time from the first to the last event of a path, CDI_FLOW_NO_GAP where it has one or none. */
static int64
path_time(const int64 *gaps, int n)
{
	int64		time = CDI_FLOW_NO_GAP;

	for (int i = 0; i < n; i++)
		if (gaps[i] != CDI_FLOW_NO_GAP)
			time = Max(time, 0) + gaps[i];
	return time;
}

void
cdi_flow_top_paths(CdiFlowPaths *paths, int top, ReturnSetInfo *result)
{
	path_counts_hash *counts = path_counts_create(CurrentMemoryContext, 256, NULL);
	path_counts_iterator iterator;
	PathCount **sorted;
	PathCount  *count;
	int64	   *gaps;
	int64		ngaps = 0;
	int64		gap = 0;
	int64		n = 0;
	int64		time;
	bool		found;

	for (int64 at = 0; at < paths->nwords; at += paths->words[at + 1] + 2)
	{
		const int32 *word = &paths->words[at];

		CHECK_FOR_INTERRUPTS();
		count = path_counts_insert(counts, &word[1], &found);
		COUNT_OCCURRENCE(count, found, word[0]);
		count->ngaps += path_time(&paths->gaps[gap], word[1] - 1) != CDI_FLOW_NO_GAP;
		gap += word[1] - 1;
	}

	sorted = palloc_extended(sizeof(PathCount *) * Max(counts->members, 1), MCXT_ALLOC_HUGE);
	path_counts_start_iterate(counts, &iterator);
	while ((count = path_counts_iterate(counts, &iterator)) != NULL)
	{
		count->first_gap = -1;
		sorted[n++] = count;
	}
	qsort_arg(sorted, n, sizeof(PathCount *), compare_paths, paths->labels);
	n = Min(n, top);
	for (int64 i = 0; i < n; i++)
	{
		sorted[i]->first_gap = ngaps;
		ngaps += sorted[i]->ngaps;
		sorted[i]->ngaps = 0;
	}
	gaps = palloc_extended(sizeof(int64) * Max(ngaps, 1), MCXT_ALLOC_HUGE);
	gap = 0;
	for (int64 at = 0; at < paths->nwords; at += paths->words[at + 1] + 2)
	{
		const int32 *word = &paths->words[at];

		CHECK_FOR_INTERRUPTS();
		count = path_counts_lookup(counts, &word[1]);
		time = path_time(&paths->gaps[gap], word[1] - 1);
		if (count->first_gap >= 0 && time != CDI_FLOW_NO_GAP)
			gaps[count->first_gap + count->ngaps++] = time;
		gap += word[1] - 1;
	}

	for (int64 i = 0; i < n; i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		CHECK_FOR_INTERRUPTS();
		values[0] = path_array(paths, sorted[i]->path);
		values[1] = Int64GetDatum(sorted[i]->people);
		values[2] = Int64GetDatum(sorted[i]->occurrences);
		values[3] = Float8GetDatum((double) sorted[i]->occurrences / paths->npaths);
		nulls[4] = sorted[i]->ngaps == 0;
		values[4] = Float8GetDatum(nulls[4] ? 0 : median(&gaps[sorted[i]->first_gap], sorted[i]->ngaps));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}
