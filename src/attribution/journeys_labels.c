/*
 * journeys_labels.c
 *		What touches say of themselves, each combination once.
 *
 * Campaigns and channels repeat: a touch keeps a number.
 */
#include "attribution/journeys_private.h"

#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "attribution/attribution.h"

#define NO_TEXT	(-1)

int
cdi_journeys_dimension(const CdiJourneys *self, const char *name)
{
	for (int i = 0; i < self->request->ndimensions; i++)
		if (strcmp(self->request->dimensions[i], name) == 0)
			return i;
	elog(ERROR, "dimension \"%s\" of touches is not read", name);
	return -1;					/* keep compiler quiet */
}

void
cdi_journeys_start_labels(CdiJourneys *self)
{
	self->label_index = cdi_label_keys_create(self->context, 256, NULL);
	self->recent_labels = palloc0(sizeof(CdiRecentLabel) * CDI_RECENT_LABELS);
	self->path_label_index = cdi_label_keys_create(self->context, 64, NULL);
	self->label_space = self->type_space = 64;
	self->labels = palloc(sizeof(CdiTouchLabel) * self->label_space);
	self->types = palloc(sizeof(CdiText) * self->type_space);
	self->null_label = -1;
	initStringInfo(&self->key);
}

static CdiText
keep_text(CdiJourneys *self, const char *data, int len)
{
	char	   *copy = MemoryContextAlloc(self->context, len + 1);

	memcpy(copy, data, len);
	copy[len] = '\0';
	return (CdiText) {copy, len};
}

CdiText
cdi_journeys_text(Datum value)
{
	text	   *t = (text *) DatumGetPointer(value);

	return value == (Datum) 0 ? (CdiText) {"", 0} : (CdiText) {VARDATA_ANY(t), (int) VARSIZE_ANY_EXHDR(t)};
}

/* Labels of paths are never null: what a touch does not say is "(none)". */
static int32
path_label_number(CdiJourneys *self, CdiText *label)
{
	CdiLabelEntry *entry;
	bool		found;

	entry = cdi_label_keys_insert(self->path_label_index, *label, &found);
	if (!found)
	{
		entry->key = keep_text(self, label->data, label->len);
		entry->number = self->npath_labels++;
	}
	*label = entry->key;
	return entry->number;
}

static void
fill_label(CdiJourneys *self, CdiTouchLabel *label, const NullableDatum *dimensions)
{
	MemoryContext previous = MemoryContextSwitchTo(self->context);

	label->values = palloc0(sizeof(Datum) * self->request->ndimensions);
	for (int i = 0; i < self->request->ndimensions; i++)
		if (!dimensions[i].isnull)
			label->values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(dimensions[i].value));
	MemoryContextSwitchTo(previous);
	label->channel = cdi_journeys_text(label->values[self->channel_dimension]);
	label->direct = label->channel.len == strlen(CDI_CHANNEL_DIRECT) &&
		memcmp(label->channel.data, CDI_CHANNEL_DIRECT, label->channel.len) == 0;
	label->path_label = cdi_journeys_text(label->values[self->path_dimension]);
	if (label->values[self->path_dimension] == (Datum) 0)
		label->path_label = (CdiText) {"(none)", strlen("(none)")};
	label->path_number = path_label_number(self, &label->path_label);
}

static int32
add_label(CdiJourneys *self, const NullableDatum *dimensions)
{
	if (self->nlabels == self->label_space)
	{
		self->label_space *= 2;
		self->labels = repalloc_huge(self->labels, sizeof(CdiTouchLabel) * self->label_space);
	}
	fill_label(self, &self->labels[self->nlabels], dimensions);
	return self->nlabels++;
}

/* Where a key may stand among the recent ones: by its length and its ends */
static inline CdiRecentLabel *
recent_label(const CdiJourneys *self, CdiText key)
{
	uint64		first = 0;
	uint64		last = 0;

	if (key.len >= (int) sizeof(uint64))
	{
		memcpy(&first, key.data, sizeof(uint64));
		memcpy(&last, key.data + key.len - sizeof(uint64), sizeof(uint64));
	}
	else
		for (int i = 0; i < key.len; i++)
			first = first << 8 | (unsigned char) key.data[i];
	first = (first ^ (last << 23 | last >> 41) ^ (uint64) key.len) * UINT64CONST(0x9e3779b97f4a7c15);
	return &self->recent_labels[first >> 32 & (CDI_RECENT_LABELS - 1)];
}

static int32
find_label(CdiJourneys *self, CdiText key, const NullableDatum *dimensions)
{
	bool		found;
	CdiRecentLabel *recent = recent_label(self, key);
	CdiLabelEntry *entry;

	if (recent->data != NULL && recent->len == key.len && memcmp(recent->data, key.data, key.len) == 0)
		return recent->number;
	entry = cdi_label_keys_insert(self->label_index, key, &found);
	if (!found)
	{
		entry->key = keep_text(self, key.data, key.len);
		entry->number = add_label(self, dimensions);
	}
	*recent = (CdiRecentLabel) {entry->key.data, entry->key.len, entry->number};
	return entry->number;
}

int32
cdi_journeys_intern_label(CdiJourneys *self, const NullableDatum *dimensions)
{
	CdiText		key;

	/* most often it is the channel alone: its bytes are the key */
	if (self->request->ndimensions == 1)
	{
		text	   *value;

		if (dimensions[0].isnull)
		{
			if (self->null_label < 0)
				self->null_label = add_label(self, dimensions);
			return self->null_label;
		}
		value = DatumGetTextPP(dimensions[0].value);
		key = (CdiText) {VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value)};
		return find_label(self, key, dimensions);
	}
	resetStringInfo(&self->key);
	for (int i = 0; i < self->request->ndimensions; i++)
	{
		int			len = NO_TEXT;
		text	   *value = NULL;

		if (!dimensions[i].isnull)
		{
			value = DatumGetTextPP(dimensions[i].value);
			len = VARSIZE_ANY_EXHDR(value);
		}
		appendBinaryStringInfo(&self->key, (char *) &len, sizeof(len));
		if (len > 0)
			appendBinaryStringInfo(&self->key, VARDATA_ANY(value), len);
	}
	return find_label(self, (CdiText) {self->key.data, self->key.len}, dimensions);
}

int32
cdi_journeys_intern_type(CdiJourneys *self, CdiText name)
{
	for (int i = 0; i < self->ntypes; i++)
		if (self->types[i].len == name.len && memcmp(self->types[i].data, name.data, name.len) == 0)
			return i;
	if (self->ntypes == self->type_space)
	{
		self->type_space *= 2;
		self->types = repalloc(self->types, sizeof(CdiText) * self->type_space);
	}
	self->types[self->ntypes] = keep_text(self, name.data, name.len);
	return self->ntypes++;
}

int
cdi_journeys_labels(const CdiJourneys *self, CdiTouchLabel **labels)
{
	*labels = self->labels;
	return self->nlabels;
}

int
cdi_journeys_types(const CdiJourneys *self, CdiText **types)
{
	*types = self->types;
	return self->ntypes;
}
