/*
 * map_path.c
 *		Paths of mappings: where a value comes from.
 */
#include "activate/activate.h"

static const CdiValue absent = {.type = CDI_ABSENT};

/*
 * One step of a path: a name, .name, [n] or ["name"].  Advances *at; *index is
 * -1 for a name.
 */
static bool
next_step(const char **at, const char **name, int *len, int *index)
{
	const char *start;

	*index = -1;
	if (**at == '.')
		(*at)++;
	if (**at == '\0')
		return false;
	if (**at != '[')
	{
		*name = *at;
		*len = strcspn(*at, ".[");
		*at += *len;
		return true;
	}
	start = ++(*at);
	if (*start == '"' || *start == '\'')
	{
		*name = start + 1;
		*len = strcspn(start + 1, *start == '"' ? "\"" : "'");
		*at = start + 1 + *len;
		if (**at != '\0')
			(*at)++;
	}
	else
	{
		*index = atoi(start);
		*at += strcspn(start, "]");
	}
	if (**at == ']')
		(*at)++;
	return true;
}

static CdiValue
walk_jsonb(CdiValue value, const char *rest)
{
	const char *name = NULL;
	int			len = 0;
	int			index;

	while (next_step(&rest, &name, &len, &index))
	{
		JsonbValue	found;
		JsonbValue *result;

		if (value.type == CDI_JSON)
		{
			Jsonb	   *built = cdi_value_jsonb(&value);

			value.type = CDI_CONTAINER;
			value.container = &built->root;
		}
		if (value.type != CDI_CONTAINER)
			return absent;
		if (index >= 0)
			result = JsonContainerIsArray(value.container) ?
				getIthJsonbValueFromContainer(value.container, index) : NULL;
		else
			result = JsonContainerIsObject(value.container) ?
				getKeyJsonValueFromContainer(value.container, name, len, &found) : NULL;
		if (result == NULL)
			return absent;
		value = cdi_value_from_jsonb(result);
	}
	return value;
}

static CdiValue
walk_json(const json_t *node, const char *rest)
{
	const char *name = NULL;
	int			len = 0;
	int			index;

	while (node != NULL && next_step(&rest, &name, &len, &index))
		node = index >= 0 ? json_array_get(node, index) : json_object_getn(node, name, len);
	return node == NULL ? absent : cdi_value_from_json(node);
}

/* What follows the root's name, or NULL where path has another root */
static const char *
after(const char *path, const char *root)
{
	int			len = strlen(root);

	if (strncmp(path, root, len) != 0)
		return NULL;
	path += len;
	return *path == '\0' || *path == '.' || *path == '[' ? path : NULL;
}

static CdiValue
text_value(const char *text)
{
	return text ? cdi_value_string(text, strlen(text)) : absent;
}

/* The name that follows a root below which there is nothing deeper; "" where there is none */
static char *
only_name(const char *rest)
{
	const char *name = "";
	int			len = 0;
	int			index;

	(void) next_step(&rest, &name, &len, &index);
	return pnstrdup(name, len);
}

static CdiValue
item_path(const CdiItem *item, const char *name)
{
	if (item == NULL)
		return absent;
	if (strcmp(name, "operation") == 0)
		return text_value(item->operation);
	if (strcmp(name, "primary_key") == 0)
		return text_value(item->primary_key);
	if (strcmp(name, "key") == 0)
		return text_value(item->key);
	return absent;
}

/* JSON text that was built, or absent */
static CdiValue
built_path(const char *json, int len, const char *rest)
{
	CdiValue	value = {.type = CDI_JSON,.data = json,.len = len};

	return json ? walk_jsonb(value, rest) : absent;
}

/* A header of the answer, whatever the case of its name */
static CdiValue
header_path(const CdiAnswer *answer, const char *name)
{
	const char *line = answer ? answer->headers : NULL;
	size_t		len = strlen(name);

	while (line != NULL && *line != '\0' && len > 0)
	{
		size_t		end = strcspn(line, "\r\n");

		if (end > len && line[len] == ':' && pg_strncasecmp(line, name, len) == 0)
		{
			CdiValue	value = text_value(cdi_answer_text(line + len + 1, end - len - 1));

			return cdi_map_trim(&value, NULL);
		}
		line += end;
		line += strspn(line, "\r\n");
	}
	return absent;
}

static CdiValue
number_value(int number)
{
	CdiValue	value = {.type = CDI_NUMBER};

	value.data = psprintf("%d", number);
	value.len = strlen(value.data);
	return value;
}

static CdiValue
secret_path(const CdiScope *scope, const char *rest)
{
	CdiValue	value = absent;

	if (scope->secrets && scope->target->secrets != NULL)
		value = walk_json(scope->target->secrets, rest);
	return value;
}

/*
 * Is a string in a condition a path?  A word that names a root which is nothing
 * by itself is a constant.
 */
bool
cdi_map_names_root(const char *text)
{
	static const struct
	{
		const char *name;
		bool		alone;
	}			roots[] = {
		{"$", true}, {"@", true}, {"settings", true}, {"secret", false}, {"item", false}, {"status", true},
		{"mapped", true}, {"meta", true}, {"step", true}, {"header", false}, {"text", true}, {"key", true},
		{"vars", false}, {"batch", false},
	};
	size_t		root = strcspn(text, ".[");

	for (int i = 0; i < lengthof(roots); i++)
		if (strlen(roots[i].name) == root && memcmp(roots[i].name, text, root) == 0)
			return roots[i].alone || text[root] != '\0';
	return false;
}

CdiValue
cdi_map_path(const CdiScope *scope, const char *path)
{
	const char *rest;
	const CdiItem *item = scope->item ? scope->item : scope->nitems > 0 ? scope->items[0] : NULL;
	CdiValue	value = absent;

	if ((rest = after(path, "$")) != NULL)
	{
		if (scope->row == NULL)
			return absent;
		value.type = CDI_CONTAINER;
		value.container = scope->row;
		if (JsonContainerIsScalar(scope->row))
			value = cdi_value_from_jsonb(getIthJsonbValueFromContainer(scope->row, 0));
		return walk_jsonb(value, rest);
	}
	if ((rest = after(path, "@")) != NULL)
		return scope->element ? walk_jsonb(*scope->element, rest) : absent;
	if ((rest = after(path, "settings")) != NULL)
		return walk_json(scope->target->settings, rest);
	if ((rest = after(path, "secret")) != NULL)
		return secret_path(scope, rest);
	if ((rest = after(path, "item")) != NULL)
		return item_path(item, only_name(rest));
	if ((rest = after(path, "vars")) != NULL)
	{
		json_t	   *vars = json_object_get(scope->target->spec->root, "vars");
		json_t	   *template = json_object_get(vars, only_name(rest));

		return template ? cdi_map_template(scope, json_string_value(template)) : absent;
	}
	if ((rest = after(path, "batch")) != NULL)
	{
		char	   *name = only_name(rest);

		if (strcmp(name, "key") == 0)
			return text_value(scope->batch_key);
		if (strcmp(name, "group") == 0 && scope->nitems > 0)
			return text_value(scope->items[0]->group);
		return strcmp(name, "size") == 0 ? number_value(scope->nitems) : absent;
	}
	if ((rest = after(path, "step")) != NULL)
	{
		if (scope->steps == NULL)
			return absent;
		value.type = CDI_CONTAINER;
		value.container = &scope->steps->root;
		return walk_jsonb(value, rest);
	}
	if (after(path, "now") != NULL)
		return cdi_map_time(cdi_target_now(scope->target));
	if (after(path, "status") != NULL)
		return number_value(scope->answer ? scope->answer->status : 0);
	if (after(path, "key") != NULL)
		return text_value(scope->element_key);
	if (after(path, "text") != NULL)
		return scope->answer && scope->answer->body_len > 0 ?
			text_value(cdi_answer_text(scope->answer->body, scope->answer->body_len)) : absent;
	if ((rest = after(path, "header")) != NULL)
		return header_path(scope->answer, only_name(rest));
	if (item != NULL && (rest = after(path, "mapped")) != NULL)
		return built_path(item->json, item->len, rest);
	if (item != NULL && (rest = after(path, "meta")) != NULL)
		return built_path(item->meta, item->meta ? strlen(item->meta) : 0, rest);
	return absent;
}
