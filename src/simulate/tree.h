/*
 * tree.h
 *		A jsonb value built as a tree over scratch arrays.
 *
 * This is about three times as fast as having the server parse the same text.
 * A jsonb object keeps its keys ordered by length and then by bytes, and
 * JsonbValueToJsonb() trusts the tree: end_object() sorts, so members that
 * are put in that order cost one comparison each.  Keys of one object must
 * differ.
 *
 * An object that is open has its members at the end of the scratch array,
 * therefore children are made before the object that holds them is begun.
 */
#ifndef CDI_SIMULATE_TREE_H
#define CDI_SIMULATE_TREE_H

#include "utils/builtins.h"
#include "utils/jsonb.h"

#define MAX_PAIRS		192
#define MAX_TEXT		8192

typedef struct CdiTree
{
	int			npairs;
	int			begun;			/* first pair of the object being filled */
	int			ntext;
	int			text_begun;
	JsonbPair	pairs[MAX_PAIRS];
	char		text[MAX_TEXT];
} CdiTree;

static inline void
clear_tree(CdiTree *tree)
{
	tree->npairs = 0;
	tree->ntext = 0;
}

/*
 * Scratch text: begin_text, any number of add_*, end_text.
 */
static inline void
begin_text(CdiTree *tree)
{
	tree->text_begun = tree->ntext;
}

static inline void
add_text(CdiTree *tree, const char *string)
{
	int			len = strlen(string);

	if (tree->ntext + len > MAX_TEXT)
		elog(ERROR, "simulated call outgrew its scratch memory");
	memcpy(tree->text + tree->ntext, string, len);
	tree->ntext += len;
}

static inline void
add_number(CdiTree *tree, uint64 value, int width)
{
	char		digits[MAXINT8LEN + 1];
	int			len = pg_ulltoa_n(value, digits);

	digits[len] = '\0';
	for (; width > len; width--)
		add_text(tree, "0");
	add_text(tree, digits);
}

static inline void
add_hex(CdiTree *tree, uint64 value)
{
	char		digits[17];

	for (int i = 0; i < 16; i++)
		digits[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15];
	digits[16] = '\0';
	add_text(tree, digits);
}

static inline JsonbValue
end_text(CdiTree *tree)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = tree->text + tree->text_begun;
	value.val.string.len = tree->ntext - tree->text_begun;
	return value;
}

/* The string is not copied: it must live as long as the call is written. */
static inline JsonbValue
text_value(const char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	return value;
}

static inline JsonbValue
copied_text_value(CdiTree *tree, const char *string)
{
	begin_text(tree);
	add_text(tree, string);
	return end_text(tree);
}

static inline JsonbValue
numeric_value(Numeric number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = number;
	return value;
}

static inline JsonbValue
integer_value(int number)
{
	return numeric_value(int64_to_numeric(number));
}

static inline JsonbValue
boolean_value(bool boolean)
{
	JsonbValue	value;

	value.type = jbvBool;
	value.val.boolean = boolean;
	return value;
}

/*
 * Objects: begin_object, put for each member, end_object.
 */
static inline void
begin_object(CdiTree *tree)
{
	tree->begun = tree->npairs;
}

static inline void
put(CdiTree *tree, const char *key, JsonbValue value)
{
	JsonbPair  *pair = &tree->pairs[tree->npairs];

	if (tree->npairs >= MAX_PAIRS)
		elog(ERROR, "simulated call outgrew its scratch memory");
	pair->key = text_value(key);
	pair->value = value;
	pair->order = tree->npairs++;
}

static inline void
put_text(CdiTree *tree, const char *key, const char *string)
{
	put(tree, key, text_value(string));
}

static inline int
compare_keys(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len < b->val.string.len ? -1 : 1;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
}

static inline JsonbValue
end_object(CdiTree *tree)
{
	JsonbPair  *pairs = tree->pairs + tree->begun;
	int			npairs = tree->npairs - tree->begun;
	JsonbValue	value;

	for (int i = 1; i < npairs; i++)
	{
		JsonbPair	moved = pairs[i];
		int			at = i;

		while (at > 0 && compare_keys(&pairs[at - 1].key, &moved.key) > 0)
		{
			pairs[at] = pairs[at - 1];
			at--;
		}
		if (at != i)
			pairs[at] = moved;
	}
	value.type = jbvObject;
	value.val.object.nPairs = npairs;
	value.val.object.pairs = pairs;
	return value;
}

#endif							/* CDI_SIMULATE_TREE_H */
