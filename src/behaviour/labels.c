/*
 * labels.c
 *		Texts by number.
 *
 * What is counted per event name or page is counted by a number; the text is
 * kept once.
 */
#include "behaviour/behaviour.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

typedef struct LabelEntry
{
	CdiText		text;
	uint32		hash;
	int32		number;
	char		status;
} LabelEntry;

static inline bool
same_text(CdiText a, CdiText b)
{
	return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

#define SH_PREFIX		labels
#define SH_ELEMENT_TYPE	LabelEntry
#define SH_KEY_TYPE		CdiText
#define SH_KEY			text
#define SH_HASH_KEY(table, key)		hash_bytes((const unsigned char *) (key).data, (key).len)
#define SH_EQUAL(table, a, b)		same_text(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry)	(entry)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

CdiLabels *
cdi_labels_create(MemoryContext context, int space)
{
	CdiLabels  *labels = MemoryContextAllocZero(context, sizeof(CdiLabels));

	labels->context = context;
	labels->space = space;
	labels->labels = MemoryContextAlloc(context, sizeof(CdiText) * labels->space);
	labels->index = labels_create(context, labels->space, NULL);
	return labels;
}

int32
cdi_labels_number(CdiLabels *labels, const char *data, int len)
{
	CdiText		text = {data, len};
	LabelEntry *entry;
	char	   *copy;
	bool		found;

	entry = labels_insert(labels->index, text, &found);
	if (found)
		return entry->number;
	if (labels->n == labels->space)
	{
		labels->space *= 2;
		labels->labels = repalloc_huge(labels->labels, sizeof(CdiText) * labels->space);
	}
	copy = MemoryContextAlloc(labels->context, Max(len, 1));
	memcpy(copy, data, len);
	entry->text.data = copy;
	entry->number = labels->n;
	labels->labels[labels->n] = entry->text;
	return labels->n++;
}
