/*
 * spec_names.c
 *		Names that a specification uses and nobody declares: settings, variables,
 *		secrets, steps and lists.  Each of them would be nothing at all when a
 *		request is made, such as a header without its token.
 */
#include "activate/activate.h"

#include "miscadmin.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

typedef struct Names
{
	const json_t *settings;		/* properties */
	const json_t *vars;
	json_t	   *steps;			/* object: those that came before; NULL: not known here */
	bool		lists;			/* does the action say which list an item goes to? */
} Names;

/* First name of a path below root, or NULL where the path has another root */
static char *
name_below(const char *path, const char *root)
{
	size_t		len = strlen(root);
	const char *name;

	if (strncmp(path, root, len) != 0)
		return NULL;
	if (path[len] == '.')
		return pnstrdup(path + len + 1, strcspn(path + len + 1, ".[|} "));
	if (path[len] != '[' || (path[len + 1] != '"' && path[len + 1] != '\''))
		return NULL;
	name = path + len + 2;
	return pnstrdup(name, strcspn(name, "\"'"));
}

static void
check_name(const Names *names, const char *path, const char *where)
{
	char	   *name;

	if ((name = name_below(path, "vars")) != NULL && json_object_get(names->vars, name) == NULL)
		INVALID("%s: there is no variable \"%s\" in vars.", where, name);
	if ((name = name_below(path, "step")) != NULL && names->steps && json_object_get(names->steps, name) == NULL)
		INVALID("%s: there is no step \"%s\" before this.", where, name);
	if ((name = name_below(path, "settings")) != NULL)
	{
		json_t	   *property = json_object_get(names->settings, name);

		if (property == NULL)
			INVALID("%s: there is no setting \"%s\".", where, name);
		if (json_is_true(json_object_get(property, "secret")))
			INVALID("%s: setting \"%s\" is a secret, and read as secret.%s.", where, name, name);
	}
	if ((name = name_below(path, "secret")) != NULL &&
		json_object_get(json_object_get(names->settings, name), "secret") == NULL)
		INVALID("%s: there is no setting \"%s\" that is a secret.", where, name);
}

/* Members whose strings are paths and not templates */
static bool
holds_paths(const char *key)
{
	static const char *const keys[] = {"@path", "in", "exists", "empty", "eq", "ne", "lt", "gt", "matches", "each",
	"index", "array", "message", "value", "to", "failed", "accepted", "retry_after"};

	for (int i = 0; i < lengthof(keys); i++)
		if (strcmp(keys[i], key) == 0)
			return true;
	return false;
}

static void
check_node(const Names *names, const json_t *node, const char *key, const char *where)
{
	const char *name;
	const char *at;
	json_t	   *member;
	size_t		i;

	check_stack_depth();
	if (json_is_string(node))
	{
		if (holds_paths(key))
			check_name(names, json_string_value(node), where);
		for (at = json_string_value(node); (at = strstr(at, "{{")) != NULL;)
		{
			at += 2;
			at += strspn(at, " ");
			check_name(names, at, where);
		}
		if (strcmp(key, "@items") == 0 && strcmp(json_string_value(node), "*") != 0 && !names->lists)
			INVALID("%s: no item goes to list \"%s\", as the action has no member \"list\".", where,
					json_string_value(node));
	}
	json_array_foreach(node, i, member)
		check_node(names, member, key, psprintf("%s[%d]", where, (int) i));
	json_object_foreach((json_t *) node, name, member)
		if (strcmp(name, "@literal") != 0)
			check_node(names, member, name, psprintf("%s.%s", where, name));
}

static void
check_stage_names(Names *names, const json_t *stages, const char *where)
{
	json_t	   *stage;
	size_t		i;

	json_array_foreach(stages, i, stage)
	{
		const char *name = cdi_json_string(stage, "name");
		char	   *here = psprintf("%s[%d]", where, (int) i);

		if (strcmp(name, "main") == 0 || json_object_get(names->steps, name) != NULL)
			INVALID("%s: there is another step \"%s\".", here, name);
		check_node(names, stage, "", here);
		json_object_set_new(names->steps, name, json_true());
	}
}

void
cdi_spec_check_names(const CdiSpec *spec)
{
	const json_t *root = spec->root;
	Names		names = {
		.settings = json_object_get(json_object_get(root, "settings"), "properties"),
		.vars = json_object_get(root, "vars"),
	};
	const char *name;
	json_t	   *action;

	check_node(&names, names.vars, "", "vars");
	check_node(&names, json_object_get(root, "auth"), "", "auth");
	json_object_foreach(json_object_get(root, "actions"), name, action)
	{
		char	   *where = psprintf("actions.%s", name);
		json_t	   *main_stage = cdi_json_own(CurrentMemoryContext, json_copy(action));

		names.lists = json_object_get(action, "list") != NULL;
		names.steps = cdi_json_own(CurrentMemoryContext, cdi_json_object());
		check_stage_names(&names, json_object_get(action, "steps"), psprintf("%s.steps", where));
		json_object_del(main_stage, "steps");
		json_object_del(main_stage, "then");
		check_node(&names, main_stage, "", where);
		json_object_set_new(names.steps, "main", json_true());
		check_stage_names(&names, json_object_get(action, "then"), psprintf("%s.then", where));
	}
}
