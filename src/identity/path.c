/*
 * path.c
 *		Where a call has an identifier: paths, compiled into a tree.
 *
 * The members of a jsonb object are sorted by length and then by bytes.  The
 * children of a node are in the same order, so that one pass over both finds
 * every member that any identifier type looks for (ingest/identify.c).
 */
#include "postgres.h"

#include "base/scan.h"
#include "identity/identifier.h"

static const char *const fields[CDI_FIELD_SLOTS] = {
	"userId", "anonymousId", "groupId", "previousId"
};

static const char *const roots[CDI_PATH_ROOTS] = {
	"traits", "context", "properties", NULL
};

/* Members that are fields of the event and identify nobody */
static const char *const taken[] = {
	"type", "event", "name", "category", "messageId", "timestamp", "originalTimestamp",
	"sentAt", "receivedAt", "writeKey", NULL
};

void
cdi_path_tree_init(CdiPathTree *tree)
{
	memset(tree, 0, sizeof(CdiPathTree));
	for (int i = 0; i < CDI_PATH_ROOTS; i++)
		tree->roots[i].slot = -1;
	tree->nslots = CDI_FIELD_SLOTS;
}

static int
compare_keys(CdiText a, CdiText b)
{
	return a.len != b.len ? a.len - b.len : memcmp(a.data, b.data, a.len);
}

static CdiPathNode *
child_of(CdiPathNode *node, CdiText key)
{
	CdiPathNode *child;
	int			at = 0;

	while (at < node->nchildren && compare_keys(node->children[at]->key, key) < 0)
		at++;
	if (at < node->nchildren && compare_keys(node->children[at]->key, key) == 0)
		return node->children[at];

	child = palloc0(sizeof(CdiPathNode));
	child->key.data = pnstrdup(key.data, key.len);
	child->key.len = key.len;
	child->slot = -1;
	node->children = node->children == NULL ? palloc(sizeof(CdiPathNode *)) :
		repalloc(node->children, sizeof(CdiPathNode *) * (node->nchildren + 1));
	memmove(node->children + at + 1, node->children + at,
			sizeof(CdiPathNode *) * (node->nchildren - at));
	node->children[at] = child;
	node->nchildren++;
	return child;
}

/* Slot of a path without conditions. */
static const char *
add_plain(CdiPathTree *tree, CdiText path, int *slot, bool *in_traits)
{
	CdiPathNode *node = NULL;
	CdiText		rest = path;
	bool		more = true;

	*in_traits = false;
	while (more)
	{
		CdiText		key;

		more = memchr(rest.data, '.', rest.len) != NULL;
		key = cdi_text_split(&rest, '.');
		if (key.len == 0)
			return "A member's name is empty.";
		if (node == NULL)
		{
			for (int i = 0; i < CDI_FIELD_SLOTS; i++)
				if (cdi_text_is(key, fields[i]))
				{
					*slot = i;
					return more ? psprintf("\"%s\" has no members.", fields[i]) : NULL;
				}
			for (int i = 0; taken[i] != NULL; i++)
				if (cdi_text_is(key, taken[i]))
					return psprintf("\"%s\" identifies nobody.", taken[i]);
			node = &tree->roots[CDI_ROOT_EXTRA];
			for (int i = 0; roots[i] != NULL; i++)
				if (cdi_text_is(key, roots[i]))
				{
					if (!more)
						return psprintf("\"%s\" is an object; name a member of it.", roots[i]);
					*in_traits = i == CDI_ROOT_TRAITS;
					node = &tree->roots[i];
				}
			if (node != &tree->roots[CDI_ROOT_EXTRA])
				continue;
		}
		node = child_of(node, key);
	}
	if (node->slot < 0)
		node->slot = tree->nslots++;
	*slot = node->slot;
	return NULL;
}

const char *
cdi_path_add(CdiPathTree *tree, const char *path, CdiTypePath *compiled)
{
	CdiText		conditions = cdi_text(path);
	CdiText		place = cdi_text_split(&conditions, '?');
	bool		conditional = place.len < strlen(path);
	const char *problem = NULL;
	bool		in_traits = false;
	bool		ignored;

	memset(compiled, 0, sizeof(CdiTypePath));
	compiled->prefix_slot = -1;
	if (memchr(place.data, '+', place.len) != NULL)
		problem = add_plain(tree, cdi_text_split(&place, '+'), &compiled->prefix_slot, &in_traits);
	if (problem == NULL)
		problem = add_plain(tree, place, &compiled->slot, &compiled->in_traits);
	compiled->in_traits |= in_traits;
	if (problem != NULL || !conditional)
		return problem;

	while (problem == NULL && conditions.len > 0)
	{
		CdiText		value = cdi_text_split(&conditions, '&');
		CdiText		where = cdi_text_split(&value, '=');
		CdiPathCondition *condition;
		Size		size = sizeof(CdiPathCondition) * (compiled->nconditions + 1);

		compiled->conditions = compiled->conditions == NULL ? palloc(size) :
			repalloc(compiled->conditions, size);
		condition = &compiled->conditions[compiled->nconditions++];
		if (value.data == NULL || value.len == 0)
			return "A condition is written PATH=VALUE.";
		condition->value.data = pnstrdup(value.data, value.len);
		condition->value.len = value.len;
		problem = add_plain(tree, where, &condition->slot, &ignored);
	}
	if (compiled->nconditions == 0)
		return "A condition is written PATH=VALUE.";
	return problem;
}
