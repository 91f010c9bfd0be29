/*
 * paths.c
 *		Distinct paths with their labels, and sums that no order changes.
 *
 * Labels and paths are found by open hashing.  Sums keep what rounding took
 * away (double-double by Knuth's two-sum: 106 bits), so that their rounded
 * value does not depend on the order in which rows came.
 */
#include "attribution/paths.h"

#include <math.h>

#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define MIN_SLOTS	64
#define MAX_ENTRIES	(PG_INT32_MAX / 4)

/* Models multiply and divide sums by each other: this far nothing overflows, nor vanishes. */
#define SUM_DIGITS	100

/* Of entry e, hash and number + 1 stand at some slot from hash on; 0 is free. */
typedef struct Slot
{
	uint32		hash;
	uint32		entry;
} Slot;

typedef struct SlotTable
{
	Slot	   *slots;
	uint32		nslots;			/* power of two */
} SlotTable;

/* What rounding took from a path's sums */
typedef struct Rest
{
	double		conversions;
	double		value;
	double		nulls;
} Rest;

typedef struct CdiPathIndex
{
	SlotTable	labels;
	SlotTable	paths;
	Rest	   *rests;
	int			label_space;
	int			path_space;
	int32	   *touches;		/* work space of cdi_paths_add_array */
	int			touch_space;
} CdiPathIndex;

static void
make_slots(MemoryContext context, SlotTable *table, uint32 nslots)
{
	table->nslots = nslots;
	table->slots = MemoryContextAllocHuge(context, sizeof(Slot) * nslots);
	memset(table->slots, 0, sizeof(Slot) * nslots);
}

static void
put_slot(SlotTable *table, uint32 hash, uint32 entry)
{
	uint32		at = hash & (table->nslots - 1);

	while (table->slots[at].entry != 0)
		at = (at + 1) & (table->nslots - 1);
	table->slots[at].hash = hash;
	table->slots[at].entry = entry + 1;
}

/* Room for one more than n entries, at most half full. */
static void
reserve_slot(MemoryContext context, SlotTable *table, int n)
{
	Slot	   *old = table->slots;
	uint32		nold = table->nslots;

	if (n >= MAX_ENTRIES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d distinct paths", MAX_ENTRIES),
				 errhint("Shorten them with cdi_path_transform(path, 'trim', n), or model fewer rows.")));
	if (2 * (n + 1) <= nold)
		return;
	make_slots(context, table, 2 * nold);
	for (uint32 i = 0; i < nold; i++)
		if (old[i].entry != 0)
			put_slot(table, old[i].hash, old[i].entry - 1);
	pfree(old);
}

CdiPaths *
cdi_paths_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "cdi paths", ALLOCSET_DEFAULT_SIZES);
	CdiPaths   *paths = MemoryContextAllocZero(context, sizeof(CdiPaths));
	CdiPathIndex *index = MemoryContextAllocZero(context, sizeof(CdiPathIndex));

	paths->context = context;
	paths->index = index;
	make_slots(context, &index->labels, MIN_SLOTS);
	make_slots(context, &index->paths, MIN_SLOTS);
	index->label_space = index->path_space = index->touch_space = MIN_SLOTS / 2;
	paths->labels = MemoryContextAlloc(context, sizeof(CdiText) * index->label_space);
	paths->paths = MemoryContextAlloc(context, sizeof(CdiPath) * index->path_space);
	index->rests = MemoryContextAlloc(context, sizeof(Rest) * index->path_space);
	index->touches = MemoryContextAlloc(context, sizeof(int32) * index->touch_space);
	return paths;
}

int32
cdi_paths_label(CdiPaths *paths, CdiText label)
{
	CdiPathIndex *index = paths->index;
	uint32		hash = hash_bytes((const unsigned char *) label.data, label.len);
	char	   *copy;

	for (uint32 at = hash & (index->labels.nslots - 1); index->labels.slots[at].entry != 0;
		 at = (at + 1) & (index->labels.nslots - 1))
	{
		const Slot *slot = &index->labels.slots[at];
		const CdiText *known = &paths->labels[slot->entry - 1];

		if (slot->hash == hash && known->len == label.len &&
			memcmp(known->data, label.data, label.len) == 0)
			return slot->entry - 1;
	}

	reserve_slot(paths->context, &index->labels, paths->nlabels);
	if (paths->nlabels == index->label_space)
	{
		index->label_space *= 2;
		paths->labels = repalloc_huge(paths->labels, sizeof(CdiText) * index->label_space);
	}
	copy = MemoryContextAllocHuge(paths->context, label.len + 1);
	memcpy(copy, label.data, label.len);
	copy[label.len] = '\0';
	paths->labels[paths->nlabels].data = copy;
	paths->labels[paths->nlabels].len = label.len;
	put_slot(&index->labels, hash, paths->nlabels);
	return paths->nlabels++;
}

/* *sum + *rest += term, with *sum the rounded sum */
static void
add_exactly(double *sum, double *rest, double term)
{
	double		total = *sum + term;
	double		shift = total - *sum;
	double		lost = (*sum - (total - shift)) + (term - shift);

	lost += *rest;
	*sum = total + lost;
	*rest = lost - (*sum - total);
}

static void
check_outcome(const char *name, double number, bool may_be_negative)
{
	if (isnan(number) || isinf(number) || (number < 0 && !may_be_negative))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of a path must be a finite number%s, not %g", name,
						may_be_negative ? "" : " that is not negative", number),
				 errhint("Leave such rows out with FILTER (WHERE ...).")));
}

void
cdi_paths_check_outcome(double conversions, double value, double nulls)
{
	check_outcome("conversions", conversions, false);
	check_outcome("value", value, true);
	check_outcome("nulls", nulls, false);
}

static void
refuse_sums(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("sum of the paths' conversions, values or nulls is out of range"),
			 errhint("Sums must lie between 1e-%d and 1e%d, or be 0: state them in another unit.", SUM_DIGITS, SUM_DIGITS)));
}

void
cdi_paths_count(CdiPaths *paths, int entry, double conversions, double value, double nulls)
{
	CdiPath    *path = &paths->paths[entry];
	Rest	   *rest = &paths->index->rests[entry];

	add_exactly(&path->conversions, &rest->conversions, conversions);
	add_exactly(&path->value, &rest->value, value);
	add_exactly(&path->nulls, &rest->nulls, nulls);
	if (!isfinite(path->conversions) || !isfinite(path->value) || !isfinite(path->nulls))
		refuse_sums();
}

void
cdi_paths_check_sums(const CdiPaths *paths)
{
	const double most = pow(10, SUM_DIGITS);
	double		sums[3] = {0};

	for (int p = 0; p < paths->npaths; p++)
	{
		sums[0] += paths->paths[p].conversions;
		sums[1] += fabs(paths->paths[p].value);
		sums[2] += paths->paths[p].nulls;
	}
	for (int i = 0; i < lengthof(sums); i++)
		if (!(sums[i] == 0 || (sums[i] >= 1 / most && sums[i] <= most)))
			refuse_sums();
}

int
cdi_paths_entry(CdiPaths *paths, const int32 *touches, int32 length)
{
	static const int32 none = 0;
	CdiPathIndex *index = paths->index;
	size_t		bytes = sizeof(int32) * (size_t) length;
	uint32		hash = hash_bytes((const unsigned char *) touches, bytes);
	CdiPath    *path;

	/* memcmp() and memcpy() take no null pointer, not for no bytes either. */
	if (length == 0)
		touches = &none;
	for (uint32 at = hash & (index->paths.nslots - 1); index->paths.slots[at].entry != 0;
		 at = (at + 1) & (index->paths.nslots - 1))
	{
		const Slot *slot = &index->paths.slots[at];
		const CdiPath *known = &paths->paths[slot->entry - 1];

		if (slot->hash == hash && known->length == length &&
			memcmp(known->touches, touches, bytes) == 0)
			return slot->entry - 1;
	}

	reserve_slot(paths->context, &index->paths, paths->npaths);
	if (paths->npaths == index->path_space)
	{
		index->path_space *= 2;
		paths->paths = repalloc_huge(paths->paths, sizeof(CdiPath) * index->path_space);
		index->rests = repalloc_huge(index->rests, sizeof(Rest) * index->path_space);
	}
	path = &paths->paths[paths->npaths];
	memset(path, 0, sizeof(CdiPath));
	memset(&index->rests[paths->npaths], 0, sizeof(Rest));
	path->length = length;
	path->entry = paths->npaths;
	path->touches = MemoryContextAllocHuge(paths->context, Max(bytes, 1));
	memcpy(path->touches, touches, bytes);
	put_slot(&index->paths, hash, paths->npaths);
	return paths->npaths++;
}

int
cdi_paths_add(CdiPaths *paths, const int32 *touches, int32 length,
			  double conversions, double value, double nulls)
{
	int			entry;

	cdi_paths_check_outcome(conversions, value, nulls);
	entry = cdi_paths_entry(paths, touches, length);
	cdi_paths_count(paths, entry, conversions, value, nulls);
	return entry;
}

static int32 *
touch_space(CdiPaths *paths, int length)
{
	CdiPathIndex *index = paths->index;

	if (length > index->touch_space)
	{
		index->touch_space = Max(length, 2 * Min(index->touch_space, PG_INT32_MAX / 2));
		index->touches = repalloc_huge(index->touches, sizeof(int32) * (size_t) index->touch_space);
	}
	return index->touches;
}

int32 *
cdi_paths_touches(CdiPaths *paths, ArrayType *path, int32 *length)
{
	int32	   *touches;
	char	   *element;

	*length = 0;
	if (path == NULL)
		return NULL;
	if (ARR_NDIM(path) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("a path must have one dimension, not %d", ARR_NDIM(path))));
	if (array_contains_nulls(path))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a path has a touch without a label"),
				 errhint("Leave such touches out with array_remove(path, NULL), or name them with array_replace(path, NULL, 'unknown').")));
	Assert(ARR_ELEMTYPE(path) == TEXTOID);
	*length = ArrayGetNItems(ARR_NDIM(path), ARR_DIMS(path));
	touches = touch_space(paths, *length);
	element = ARR_DATA_PTR(path);
	for (int i = 0; i < *length; i++)
	{
		touches[i] = cdi_paths_label(paths, (CdiText) {VARDATA_ANY(element), VARSIZE_ANY_EXHDR(element)});
		element = att_addlength_pointer(element, -1, element);
		element = (char *) att_align_nominal(element, TYPALIGN_INT);
	}
	return touches;
}

/* An outcome with its rest is two outcomes of one path. */
static void
add_sums(CdiPaths *paths, const int32 *touches, const CdiPath *path, const Rest *rest)
{
	int			entry = cdi_paths_entry(paths, touches, path->length);

	cdi_paths_count(paths, entry, path->conversions, path->value, path->nulls);
	cdi_paths_count(paths, entry, rest->conversions, rest->value, rest->nulls);
}

void
cdi_paths_merge(CdiPaths *paths, const CdiPaths *other)
{
	int32	   *numbers = palloc_extended(sizeof(int32) * Max(other->nlabels, 1), MCXT_ALLOC_HUGE);

	for (int i = 0; i < other->nlabels; i++)
		numbers[i] = cdi_paths_label(paths, other->labels[i]);
	for (int p = 0; p < other->npaths; p++)
	{
		const CdiPath *path = &other->paths[p];
		int32	   *touches = touch_space(paths, path->length);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < path->length; i++)
			touches[i] = numbers[path->touches[i]];
		add_sums(paths, touches, path, &other->index->rests[p]);
	}
	pfree(numbers);
}

void
cdi_paths_send(const CdiPaths *paths, StringInfo buffer)
{
	pq_sendint32(buffer, paths->options == NULL ? 0 : VARSIZE(paths->options));
	if (paths->options != NULL)
		pq_sendbytes(buffer, (const char *) paths->options, VARSIZE(paths->options));
	pq_sendint32(buffer, paths->nlabels);
	for (int i = 0; i < paths->nlabels; i++)
	{
		pq_sendint32(buffer, paths->labels[i].len);
		pq_sendbytes(buffer, paths->labels[i].data, paths->labels[i].len);
	}
	pq_sendint32(buffer, paths->npaths);
	for (int p = 0; p < paths->npaths; p++)
	{
		const CdiPath *path = &paths->paths[p];

		CHECK_FOR_INTERRUPTS();
		pq_sendint32(buffer, path->length);
		pq_sendbytes(buffer, (const char *) path->touches, sizeof(int32) * path->length);
		pq_sendbytes(buffer, (const char *) &path->conversions, 3 * sizeof(double));
		pq_sendbytes(buffer, (const char *) &paths->index->rests[p], sizeof(Rest));
	}
}

/* What cdi_paths_send() wrote on the same machine, into empty paths. */
void
cdi_paths_receive(CdiPaths *paths, StringInfo buffer)
{
	int			n = pq_getmsgint(buffer, 4);

	if (n > 0)
	{
		paths->options = MemoryContextAlloc(paths->context, n);
		pq_copymsgbytes(buffer, (char *) paths->options, n);
	}
	n = pq_getmsgint(buffer, 4);
	for (int i = 0; i < n; i++)
	{
		CdiText		label;

		label.len = pq_getmsgint(buffer, 4);
		label.data = pq_getmsgbytes(buffer, label.len);
		cdi_paths_label(paths, label);
	}
	n = pq_getmsgint(buffer, 4);
	for (int p = 0; p < n; p++)
	{
		CdiPath		path;
		Rest		rest;

		CHECK_FOR_INTERRUPTS();
		path.length = pq_getmsgint(buffer, 4);
		path.touches = touch_space(paths, path.length);
		pq_copymsgbytes(buffer, (char *) path.touches, sizeof(int32) * path.length);
		pq_copymsgbytes(buffer, (char *) &path.conversions, 3 * sizeof(double));
		pq_copymsgbytes(buffer, (char *) &rest, sizeof(Rest));
		add_sums(paths, path.touches, &path, &rest);
	}
}

static int
compare_labels(const void *a, const void *b, void *arg)
{
	const CdiText *left = &((const CdiText *) arg)[*(const int32 *) a];
	const CdiText *right = &((const CdiText *) arg)[*(const int32 *) b];
	int			order = memcmp(left->data, right->data, Min(left->len, right->len));

	return order != 0 ? order : left->len - right->len;
}

static int
compare_paths(const void *a, const void *b)
{
	const CdiPath *left = a;
	const CdiPath *right = b;
	int			shared = Min(left->length, right->length);

	for (int i = 0; i < shared; i++)
		if (left->touches[i] != right->touches[i])
			return left->touches[i] < right->touches[i] ? -1 : 1;
	return left->length < right->length ? -1 : left->length > right->length;
}

/*
 * The index goes: neither labels nor paths can be added afterwards.
 */
int32 *
cdi_paths_sort_labels(CdiPaths *paths)
{
	CdiText    *labels = MemoryContextAllocHuge(paths->context, sizeof(CdiText) * Max(paths->nlabels, 1));
	int32	   *old_numbers = palloc_extended(sizeof(int32) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE);
	int32	   *new_numbers = palloc_extended(sizeof(int32) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE);

	for (int i = 0; i < paths->nlabels; i++)
		old_numbers[i] = i;
	qsort_arg(old_numbers, paths->nlabels, sizeof(int32), compare_labels, paths->labels);
	for (int i = 0; i < paths->nlabels; i++)
	{
		labels[i] = paths->labels[old_numbers[i]];
		new_numbers[old_numbers[i]] = i;
	}
	pfree(paths->labels);
	paths->labels = labels;
	paths->index = NULL;
	pfree(old_numbers);
	return new_numbers;
}

void
cdi_paths_sort(CdiPaths *paths)
{
	int32	   *numbers;

	if (paths->index == NULL)
		return;
	numbers = cdi_paths_sort_labels(paths);
	for (int p = 0; p < paths->npaths; p++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < paths->paths[p].length; i++)
			paths->paths[p].touches[i] = numbers[paths->paths[p].touches[i]];
	}
	pfree(numbers);
	qsort(paths->paths, paths->npaths, sizeof(CdiPath), compare_paths);
}
