/*
 * json.c
 *		jansson behind memory contexts.
 *
 * jansson allocates with malloc; a reset callback of the context that owns a
 * tree releases it, so that an error frees it as the good path does.
 */
#include "base/json.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

static void
release(void *value)
{
	json_decref(value);
}

json_t *
cdi_json_own(MemoryContext context, json_t *value)
{
	MemoryContextCallback *callback;

	if (value == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	/* On failure here the tree leaks, once, together with the memory. */
	callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));
	callback->func = release;
	callback->arg = value;
	MemoryContextRegisterResetCallback(context, callback);
	return value;
}

json_t *
cdi_json_parse(MemoryContext context, const char *text, size_t len, char **error)
{
	json_error_t reason;
	json_t	   *value = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &reason);

	if (value == NULL)
	{
		if (error != NULL)
			*error = MemoryContextStrdup(context, reason.text);
		return NULL;
	}
	return cdi_json_own(context, value);
}

const char *
cdi_json_string(const json_t *object, const char *name)
{
	return json_string_value(json_object_get(object, name));
}

char *
cdi_json_number(const json_t *number)
{
	if (json_is_integer(number))
		return psprintf(INT64_FORMAT, (int64) json_integer_value(number));
	return DatumGetCString(DirectFunctionCall1(float8out,
											   Float8GetDatum(json_real_value(number))));
}

void
cdi_json_append_string(StringInfo out, const char *data, int len)
{
	int			plain = 0;

	appendStringInfoCharMacro(out, '"');
	for (int i = 0; i < len; i++)
	{
		unsigned char c = data[i];

		if (c >= ' ' && c != '"' && c != '\\')
			continue;
		appendBinaryStringInfo(out, data + plain, i - plain);
		plain = i + 1;
		switch (c)
		{
			case '"':
				appendStringInfoString(out, "\\\"");
				break;
			case '\\':
				appendStringInfoString(out, "\\\\");
				break;
			case '\n':
				appendStringInfoString(out, "\\n");
				break;
			case '\r':
				appendStringInfoString(out, "\\r");
				break;
			case '\t':
				appendStringInfoString(out, "\\t");
				break;
			default:
				appendStringInfo(out, "\\u%04x", c);
		}
	}
	appendBinaryStringInfo(out, data + plain, len - plain);
	appendStringInfoCharMacro(out, '"');
}

void
cdi_json_append(StringInfo out, const json_t *value)
{
	const char *key;
	json_t	   *member;
	size_t		i;
	bool		first = true;

	check_stack_depth();
	switch (json_typeof(value))
	{
		case JSON_OBJECT:
			appendStringInfoChar(out, '{');
			json_object_foreach((json_t *) value, key, member)
			{
				if (!first)
					appendStringInfoChar(out, ',');
				first = false;
				cdi_json_append_string(out, key, strlen(key));
				appendStringInfoChar(out, ':');
				cdi_json_append(out, member);
			}
			appendStringInfoChar(out, '}');
			break;
		case JSON_ARRAY:
			appendStringInfoChar(out, '[');
			json_array_foreach(value, i, member)
			{
				if (i > 0)
					appendStringInfoChar(out, ',');
				cdi_json_append(out, member);
			}
			appendStringInfoChar(out, ']');
			break;
		case JSON_STRING:
			cdi_json_append_string(out, json_string_value(value), json_string_length(value));
			break;
		case JSON_INTEGER:
		case JSON_REAL:
			appendStringInfoString(out, cdi_json_number(value));
			break;
		case JSON_TRUE:
			appendStringInfoString(out, "true");
			break;
		case JSON_FALSE:
			appendStringInfoString(out, "false");
			break;
		case JSON_NULL:
			appendStringInfoString(out, "null");
			break;
	}
}
