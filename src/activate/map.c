/*
 * map.c
 *		Interpret a mapping: JSON that says how a row becomes what a
 *		destination expects.
 *
 * A mapping has been checked (map_check.c) before it comes here, so the only
 * errors left are those of the data.  Values stay text or pieces of the
 * payload's own jsonb until they are written out; no number passes through a
 * double.  There are no loops but @each over an array of the payload, so every
 * evaluation ends.
 */
#include "activate/activate.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "base/errors.h"

static const CdiValue absent = {.type = CDI_ABSENT};

CdiValue
cdi_value_string(const char *data, int len)
{
	CdiValue	result = {.type = CDI_STRING,.data = data,.len = len};

	return result;
}

CdiValue
cdi_value_from_jsonb(const JsonbValue *value)
{
	CdiValue	result = {.type = CDI_NULL};

	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvBool:
			result.type = CDI_BOOL;
			result.boolean = value->val.boolean;
			break;
		case jbvNumeric:
			result.type = CDI_NUMBER;
			result.data = DatumGetCString(DirectFunctionCall1(numeric_out,
															  NumericGetDatum(value->val.numeric)));
			result.len = strlen(result.data);
			break;
		case jbvString:
			return cdi_value_string(value->val.string.val, value->val.string.len);
		case jbvBinary:
			result.type = CDI_CONTAINER;
			result.container = value->val.binary.data;
			break;
		default:
			elog(ERROR, "unexpected type of jsonb value: %d", (int) value->type);
	}
	return result;
}

CdiValue
cdi_value_from_json(const json_t *node)
{
	CdiValue	result = {.type = CDI_NULL};
	StringInfoData out;

	switch (json_typeof(node))
	{
		case JSON_NULL:
			break;
		case JSON_TRUE:
		case JSON_FALSE:
			result.type = CDI_BOOL;
			result.boolean = json_is_true(node);
			break;
		case JSON_INTEGER:
		case JSON_REAL:
			result.type = CDI_NUMBER;
			result.data = cdi_json_number(node);
			result.len = strlen(result.data);
			break;
		case JSON_STRING:
			return cdi_value_string(json_string_value(node), json_string_length(node));
		default:
			initStringInfo(&out);
			cdi_json_append(&out, node);
			result.type = CDI_JSON;
			result.data = out.data;
			result.len = out.len;
	}
	return result;
}

void
cdi_value_append(StringInfo out, const CdiValue *value)
{
	switch (value->type)
	{
		case CDI_ABSENT:
		case CDI_NULL:
			appendStringInfoString(out, "null");
			break;
		case CDI_BOOL:
			appendStringInfoString(out, value->boolean ? "true" : "false");
			break;
		case CDI_STRING:
			cdi_json_append_string(out, value->data, value->len);
			break;
		case CDI_NUMBER:
		case CDI_JSON:
			appendBinaryStringInfo(out, value->data, value->len);
			break;
		case CDI_CONTAINER:
			(void) JsonbToCString(out, value->container, 128);
			break;
	}
}

char *
cdi_value_text(const CdiValue *value)
{
	StringInfoData out;

	if (value->type == CDI_ABSENT || value->type == CDI_NULL)
		return pstrdup("");
	if (value->type == CDI_STRING || value->type == CDI_NUMBER)
		return pnstrdup(value->data, value->len);
	initStringInfo(&out);
	cdi_value_append(&out, value);
	return out.data;
}

Jsonb *
cdi_value_jsonb(const CdiValue *value)
{
	StringInfoData out;

	initStringInfo(&out);
	cdi_value_append(&out, value);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data)));
}

/* Absent, null, or a string, array or object without content */
bool
cdi_value_empty(const CdiValue *value)
{
	switch (value->type)
	{
		case CDI_ABSENT:
		case CDI_NULL:
			return true;
		case CDI_STRING:
			return value->len == 0;
		case CDI_CONTAINER:
			return JsonContainerSize(value->container) == 0;
		case CDI_JSON:
			return value->len == 2; /* {} or [] as we write them */
		default:
			return false;
	}
}

/* "... {{path}} ... {{path|function|function}} ..."; always a string */
CdiValue
cdi_map_template(const CdiScope *scope, const char *text)
{
	StringInfoData out;
	const char *open;

	open = strstr(text, "{{");
	if (open == NULL)
		return cdi_value_string(text, strlen(text));
	initStringInfo(&out);
	while (open != NULL)
	{
		const char *close = strstr(open, "}}");
		char	   *inner;
		char	   *save = NULL;
		char	   *part;
		CdiValue	value;

		appendBinaryStringInfo(&out, text, open - text);
		inner = pnstrdup(open + 2, close - open - 2);
		part = strtok_r(inner, "| ", &save);
		value = cdi_map_path(scope, part);
		while ((part = strtok_r(NULL, "| ", &save)) != NULL)
		{
			const CdiMapFunction *function = cdi_map_function(part, strlen(part));

			if (value.type != CDI_ABSENT && value.type != CDI_NULL)
				value = function->call(&value, NULL);
		}
		appendStringInfoString(&out, cdi_value_text(&value));
		text = close + 2;
		open = strstr(text, "{{");
	}
	appendStringInfoString(&out, text);
	return cdi_value_string(out.data, out.len);
}

static bool
omitted(const json_t *omit, const CdiValue *value)
{
	json_t	   *what;
	size_t		i;

	if (value->type == CDI_ABSENT)
		return true;
	json_array_foreach(omit, i, what)
	{
		if (value->type == CDI_NULL && strcmp(json_string_value(what), "null") == 0)
			return true;
		if (value->type != CDI_NULL && cdi_value_empty(value) &&
			strcmp(json_string_value(what), "empty") == 0)
			return true;
	}
	return false;
}

static CdiValue
build_object(const CdiScope *scope, const json_t *node)
{
	CdiValue	result = {.type = CDI_JSON};
	json_t	   *omit = json_object_get(node, "@omit");
	StringInfoData out;
	const char *key;
	json_t	   *member;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	json_object_foreach((json_t *) node, key, member)
	{
		CdiValue	value;

		if (member == omit)
			continue;
		value = cdi_map_evaluate(scope, member);
		if (omitted(omit, &value))
			continue;
		if (out.len > 1)
			appendStringInfoChar(&out, ',');
		cdi_json_append_string(&out, key, strlen(key));
		appendStringInfoChar(&out, ':');
		cdi_value_append(&out, &value);
	}
	appendStringInfoChar(&out, '}');
	result.data = out.data;
	result.len = out.len;
	return result;
}

static CdiValue
build_array(const CdiScope *scope, const json_t *node)
{
	CdiValue	result = {.type = CDI_JSON};
	StringInfoData out;
	json_t	   *element;
	size_t		i;

	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	json_array_foreach(node, i, element)
	{
		CdiValue	value = cdi_map_evaluate(scope, element);

		if (value.type == CDI_ABSENT)
			continue;
		if (out.len > 1)
			appendStringInfoChar(&out, ',');
		cdi_value_append(&out, &value);
	}
	appendStringInfoChar(&out, ']');
	result.data = out.data;
	result.len = out.len;
	return result;
}

static CdiValue
each(const CdiScope *scope, const json_t *node)
{
	CdiValue	in = cdi_map_path(scope, cdi_json_string(node, "in"));
	json_t	   *map = json_object_get(node, "map");
	CdiValue	result = {.type = CDI_JSON};
	StringInfoData out;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	raw;

	if (in.type != CDI_CONTAINER || !JsonContainerIsArray(in.container))
		return absent;
	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	it = JsonbIteratorInit(in.container);
	while ((token = JsonbIteratorNext(&it, &raw, true)) != WJB_DONE)
	{
		CdiValue	element;
		CdiValue	value;
		CdiScope	inner = *scope;

		if (token != WJB_ELEM)
			continue;
		element = cdi_value_from_jsonb(&raw);
		inner.element = &element;
		value = cdi_map_evaluate(&inner, map);
		if (value.type == CDI_ABSENT)
			continue;
		if (out.len > 1)
			appendStringInfoChar(&out, ',');
		cdi_value_append(&out, &value);
	}
	appendStringInfoChar(&out, ']');
	result.data = out.data;
	result.len = out.len;
	return result;
}

static CdiValue
merge(const CdiScope *scope, const json_t *node)
{
	Datum		merged = 0;
	CdiValue	result = {.type = CDI_CONTAINER};
	json_t	   *part;
	size_t		i;

	json_array_foreach(node, i, part)
	{
		CdiValue	value = cdi_map_evaluate(scope, part);
		Jsonb	   *object;

		if (value.type != CDI_CONTAINER && value.type != CDI_JSON)
			continue;
		object = cdi_value_jsonb(&value);
		if (!JB_ROOT_IS_OBJECT(object))
			continue;
		merged = merged == 0 ? JsonbPGetDatum(object) :
			DirectFunctionCall2(jsonb_concat, merged, JsonbPGetDatum(object));
	}
	if (merged == 0)
		return absent;
	result.container = &DatumGetJsonbP(merged)->root;
	return result;
}

static CdiValue
choose(const CdiScope *scope, const json_t *node)
{
	CdiValue	in = cdi_map_evaluate(scope, json_object_get(node, "in"));
	char	   *text = cdi_value_text(&in);
	json_t	   *found = json_object_get(json_object_get(node, "of"), text);

	if (found == NULL)
		found = json_object_get(node, "else");
	return found ? cdi_map_evaluate(scope, found) : absent;
}

static CdiValue
pipe_through(const CdiScope *scope, const json_t *node)
{
	CdiValue	value = cdi_map_evaluate(scope, json_array_get(node, 0));

	for (size_t i = 1; i < json_array_size(node); i++)
		value = cdi_map_call(&value, json_array_get(node, i));
	return value;
}

/* ["name", value, argument...] is a pipe of one */
static CdiValue
call_function(const CdiScope *scope, const json_t *node)
{
	CdiValue	value = cdi_map_evaluate(scope, json_array_get(node, 1));
	json_t	   *call = json_copy((json_t *) node);

	cdi_json_own(CurrentMemoryContext, call);
	json_array_remove(call, 1);
	return cdi_map_call(&value, call);
}

/* A member whose name is an expression itself */
static CdiValue
named_member(const CdiScope *scope, const json_t *node)
{
	CdiValue	object = cdi_map_evaluate(scope, json_array_get(node, 0));
	CdiValue	name = cdi_map_evaluate(scope, json_array_get(node, 1));
	JsonbContainer *container = object.container;
	char	   *text = cdi_value_text(&name);
	JsonbValue	found;
	JsonbValue *result;

	if (object.type == CDI_JSON)
		container = &cdi_value_jsonb(&object)->root;
	else if (object.type != CDI_CONTAINER)
		return absent;
	if (!JsonContainerIsObject(container))
		return absent;
	result = getKeyJsonValueFromContainer(container, text, strlen(text), &found);
	return result ? cdi_value_from_jsonb(result) : absent;
}

/* Those of one list, or of all: "*" */
static CdiValue
all_items(const CdiScope *scope, const char *list)
{
	CdiValue	result = {.type = CDI_JSON};
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	for (int i = 0; i < scope->nitems; i++)
	{
		const CdiItem *item = scope->items[i];

		if (strcmp(list, "*") != 0 && (item->list == NULL || strcmp(item->list, list) != 0))
			continue;
		if (out.len > 1)
			appendStringInfoChar(&out, ',');
		appendBinaryStringInfo(&out, item->json, item->len);
	}
	appendStringInfoChar(&out, ']');
	result.data = out.data;
	result.len = out.len;
	return result;
}

/* One member of every item: an array as long as the items are many */
static CdiValue
column_of_items(const CdiScope *scope, const char *name)
{
	CdiValue	result = {.type = CDI_JSON};
	char	   *path = psprintf("mapped.%s", name);
	CdiScope	inner = *scope;
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < scope->nitems; i++)
	{
		CdiValue	value;

		inner.item = scope->items[i];
		value = cdi_map_path(&inner, path);

		appendStringInfoChar(&out, i == 0 ? '[' : ',');
		cdi_value_append(&out, &value);
	}
	appendStringInfoChar(&out, ']');
	result.data = out.data;
	result.len = out.len;
	return result;
}

/* Members of every item in order: an array per item, with "" for what it lacks */
static CdiValue
rows_of_items(const CdiScope *scope, const json_t *names)
{
	CdiValue	result = {.type = CDI_JSON};
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < scope->nitems; i++)
	{
		CdiScope	inner = *scope;
		json_t	   *name;
		size_t		k;

		inner.item = scope->items[i];
		appendStringInfoChar(&out, i == 0 ? '[' : ',');
		json_array_foreach(names, k, name)
		{
			CdiValue	value = cdi_map_path(&inner, psprintf("mapped.%s", json_string_value(name)));

			if (cdi_value_empty(&value))
				value = cdi_value_string("", 0);
			appendStringInfoChar(&out, k == 0 ? '[' : ',');
			cdi_value_append(&out, &value);
		}
		appendStringInfoChar(&out, ']');
	}
	appendStringInfoChar(&out, ']');
	result.data = out.data;
	result.len = out.len;
	return result;
}

static CdiValue
directive(const CdiScope *scope, const char *name, const json_t *node, const json_t *argument)
{
	if (strcmp(name, "@path") == 0)
		return cdi_map_path(scope, json_string_value(argument));
	if (strcmp(name, "@template") == 0)
		return cdi_map_template(scope, json_string_value(argument));
	if (strcmp(name, "@literal") == 0)
		return cdi_value_from_json(argument);
	if (strcmp(name, "@pipe") == 0)
		return pipe_through(scope, argument);
	if (strcmp(name, "@fn") == 0)
		return call_function(scope, argument);
	if (strcmp(name, "@first") == 0)
	{
		json_t	   *part;
		size_t		i;

		json_array_foreach(argument, i, part)
		{
			CdiValue	value = cdi_map_evaluate(scope, part);

			if (!cdi_value_empty(&value))
				return value;
		}
		return absent;
	}
	if (strcmp(name, "@case") == 0)
		return choose(scope, argument);
	if (strcmp(name, "@if") == 0)
	{
		json_t	   *chosen = json_object_get(argument, cdi_map_condition(scope, json_object_get(argument, "condition")) ?
											 "then" : "else");

		return chosen ? cdi_map_evaluate(scope, chosen) : absent;
	}
	if (strcmp(name, "@each") == 0)
		return each(scope, argument);
	if (strcmp(name, "@merge") == 0)
		return merge(scope, argument);
	if (strcmp(name, "@member") == 0)
		return named_member(scope, argument);
	if (strcmp(name, "@items") == 0)
		return all_items(scope, json_string_value(argument));
	if (strcmp(name, "@rows") == 0)
		return rows_of_items(scope, argument);
	if (strcmp(name, "@column") == 0)
		return column_of_items(scope, json_string_value(argument));
	if (strcmp(name, "@item") == 0)
	{
		CdiValue	result = {.type = CDI_JSON};

		result.data = scope->items[0]->json;
		result.len = scope->items[0]->len;
		return result;
	}
	elog(ERROR, "unchecked directive \"%s\"", name);
}

CdiValue
cdi_map_evaluate(const CdiScope *scope, const json_t *node)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (json_is_string(node))
		return cdi_map_template(scope, json_string_value(node));
	if (json_is_array(node))
		return build_array(scope, node);
	if (json_is_object(node))
	{
		const char *key;
		json_t	   *member;

		json_object_foreach((json_t *) node, key, member)
			if (*key == '@' && strcmp(key, "@omit") != 0)
				return directive(scope, key, node, member);
		return build_object(scope, node);
	}
	return cdi_value_from_json(node);
}
