/*
 * map_condition.c
 *		Conditions of mappings, credentials and rules: {"eq": ["$.a", 1]}.
 */
#include "activate/activate.h"

#include "miscadmin.h"

/* Same type and same content; numbers by value */
static bool
same_value(const CdiValue *a, const CdiValue *b)
{
	if (a->type == CDI_ABSENT || b->type == CDI_ABSENT)
		return a->type == b->type;
	return compareJsonbContainers(&cdi_value_jsonb(a)->root, &cdi_value_jsonb(b)->root) == 0;
}

/* In conditions a string that names a root is a path. */
static CdiValue
operand(const CdiScope *scope, const json_t *node)
{
	if (json_is_string(node) && cdi_map_names_root(json_string_value(node)))
		return cdi_map_path(scope, json_string_value(node));
	return cdi_map_evaluate(scope, node);
}

bool
cdi_map_condition(const CdiScope *scope, const json_t *condition)
{
	const char *name = json_object_iter_key(json_object_iter((json_t *) condition));
	const json_t *value = json_object_get(condition, name);
	json_t	   *part;
	size_t		i;

	check_stack_depth();
	if (strcmp(name, "all") == 0)
	{
		json_array_foreach(value, i, part)
			if (!cdi_map_condition(scope, part))
				return false;
		return true;
	}
	if (strcmp(name, "any") == 0)
	{
		json_array_foreach(value, i, part)
			if (cdi_map_condition(scope, part))
				return true;
		return false;
	}
	if (strcmp(name, "not") == 0)
		return !cdi_map_condition(scope, value);
	if (strcmp(name, "exists") == 0 || strcmp(name, "empty") == 0)
	{
		CdiValue	found = cdi_map_path(scope, json_string_value(value));

		return *name == 'e' && name[1] == 'x' ?
			found.type != CDI_ABSENT && found.type != CDI_NULL : cdi_value_empty(&found);
	}
	else if (strcmp(name, "in") == 0)
	{
		CdiValue	a = operand(scope, json_array_get(value, 0));

		json_array_foreach(json_array_get(value, 1), i, part)
		{
			CdiValue	b = cdi_map_evaluate(scope, part);

			if (same_value(&a, &b))
				return true;
		}
		return false;
	}
	else if (strcmp(name, "matches") == 0)
	{
		CdiValue	a = operand(scope, json_array_get(value, 0));

		return a.type != CDI_ABSENT && a.type != CDI_NULL &&
			cdi_map_regex(&a, json_string_value(json_array_get(value, 1))).type != CDI_ABSENT;
	}
	else
	{
		/* eq, ne, lt, gt */
		CdiValue	a = operand(scope, json_array_get(value, 0));
		CdiValue	b = operand(scope, json_array_get(value, 1));

		if (*name == 'l' || *name == 'g')
			return a.type == CDI_NUMBER && b.type == CDI_NUMBER &&
				compareJsonbContainers(&cdi_value_jsonb(&a)->root, &cdi_value_jsonb(&b)->root) * (*name == 'l' ? -1 : 1) > 0;
		return same_value(&a, &b) == (strcmp(name, "eq") == 0);
	}
}
