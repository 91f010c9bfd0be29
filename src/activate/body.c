/*
 * body.c
 *		The body of a request, in the format that a destination reads.
 */
#include "activate/activate.h"

#include "base/errors.h"
#include "base/zlib.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

static void
write_lines(StringInfo out, const CdiScope *scope)
{
	for (int i = 0; i < scope->nitems; i++)
	{
		appendBinaryStringInfo(out, scope->items[i]->json, scope->items[i]->len);
		appendStringInfoChar(out, '\n');
	}
}

static void
append_urlencoded(StringInfo out, const CdiValue *value)
{
	CdiValue	encoded = cdi_map_function("urlencode", 9)->call(value, NULL);

	appendBinaryStringInfo(out, encoded.data, encoded.len);
}

/* application/x-www-form-urlencoded; an array repeats its name. */
static void
append_field(StringInfo out, const CdiValue *name, const CdiValue *value)
{
	if (value->type == CDI_NULL || value->type == CDI_ABSENT)
		return;
	if (value->type == CDI_CONTAINER && JsonContainerIsArray(value->container))
	{
		JsonbIterator *it = JsonbIteratorInit(value->container);
		JsonbIteratorToken token;
		JsonbValue	part;

		while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
			if (token == WJB_ELEM)
			{
				CdiValue	element = cdi_value_from_jsonb(&part);

				if (element.type == CDI_CONTAINER)
				{
					char	   *text = cdi_value_text(&element);

					element = cdi_value_string(text, strlen(text));
				}
				append_field(out, name, &element);
			}
		return;
	}
	if (out->len > 0)
		appendStringInfoChar(out, '&');
	append_urlencoded(out, name);
	appendStringInfoChar(out, '=');
	append_urlencoded(out, value);
}

static void
write_form(StringInfo out, const CdiValue *object)
{
	Jsonb	   *fields = cdi_value_jsonb(object);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	CdiValue	name = {.type = CDI_ABSENT};

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("a form is made from an object")));
	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = cdi_value_string(part.val.string.val, part.val.string.len);
		else if (token == WJB_VALUE)
		{
			CdiValue	value = cdi_value_from_jsonb(&part);

			append_field(out, &name, &value);
		}
	}
}

/* RFC 4180, with line feeds: quoted where it must be, null as nothing */
static void
append_cell(StringInfo out, const char *text, int len)
{
	bool		quote = false;

	for (int i = 0; i < len; i++)
		quote |= text[i] == '"' || text[i] == ',' || text[i] == '\n' || text[i] == '\r';
	if (!quote)
	{
		appendBinaryStringInfo(out, text, len);
		return;
	}
	appendStringInfoChar(out, '"');
	for (int i = 0; i < len; i++)
	{
		if (text[i] == '"')
			appendStringInfoChar(out, '"');
		appendStringInfoChar(out, text[i]);
	}
	appendStringInfoChar(out, '"');
}

/* "*": every member that some item has */
static json_t *
csv_columns(const CdiScope *scope, const json_t *body)
{
	json_t	   *columns = json_object_get(body, "columns");
	json_t	   *seen;

	if (json_is_array(columns))
		return columns;
	columns = cdi_json_own(CurrentMemoryContext, json_array());
	seen = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	for (int i = 0; i < scope->nitems; i++)
	{
		CdiValue	item = {.type = CDI_JSON,.data = scope->items[i]->json,.len = scope->items[i]->len};
		Jsonb	   *object = cdi_value_jsonb(&item);
		JsonbIterator *it = JsonbIteratorInit(&object->root);
		JsonbIteratorToken token;
		JsonbValue	part;

		while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
			if (token == WJB_KEY && json_object_getn(seen, part.val.string.val, part.val.string.len) == NULL)
			{
				json_object_setn_new(seen, part.val.string.val, part.val.string.len, json_true());
				json_array_append_new(columns, json_stringn(part.val.string.val, part.val.string.len));
			}
	}
	return columns;
}

static void
write_csv(StringInfo out, const CdiScope *scope, const json_t *body)
{
	json_t	   *columns = csv_columns(scope, body);
	const char *null = cdi_json_string(body, "null");
	json_t	   *column;
	size_t		k;

	if (!json_is_false(json_object_get(body, "header")))
	{
		json_array_foreach(columns, k, column)
		{
			if (k > 0)
				appendStringInfoChar(out, ',');
			append_cell(out, json_string_value(column), json_string_length(column));
		}
		appendStringInfoChar(out, '\n');
	}
	for (int i = 0; i < scope->nitems; i++)
	{
		CdiValue	item = {.type = CDI_JSON,.data = scope->items[i]->json,.len = scope->items[i]->len};
		Jsonb	   *object = cdi_value_jsonb(&item);

		json_array_foreach(columns, k, column)
		{
			JsonbValue	found;
			JsonbValue *cell = JB_ROOT_IS_OBJECT(object) ?
				getKeyJsonValueFromContainer(&object->root, json_string_value(column), json_string_length(column), &found) : NULL;
			CdiValue	value = {.type = CDI_ABSENT};
			const char *text;

			if (cell != NULL)
				value = cdi_value_from_jsonb(cell);
			text = value.type == CDI_NULL && null ? null : cdi_value_text(&value);

			if (k > 0)
				appendStringInfoChar(out, ',');
			append_cell(out, text, strlen(text));
		}
		appendStringInfoChar(out, '\n');
	}
}

static void
compress_body(CdiRequest *request)
{
	z_stream	stream;
	uLong		size = compressBound(request->body_len) + 32;
	char	   *out = MemoryContextAllocHuge(CurrentMemoryContext, size + 1);

	cdi_zlib_prepare(&stream);
	/* 15 bits of window, and 16 for the form of gzip */
	if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	stream.next_in = (Bytef *) request->body;
	stream.avail_in = request->body_len;
	stream.next_out = (Bytef *) out;
	stream.avail_out = size;
	if (deflate(&stream, Z_FINISH) != Z_STREAM_END)
		elog(ERROR, "could not compress the body of a request");
	request->body = out;
	request->body_len = stream.total_out;
	out[request->body_len] = '\0';
	(void) deflateEnd(&stream);
}

void
cdi_body_build(CdiRequest *request, const CdiScope *scope, const json_t *body)
{
	const char *format = cdi_json_string(body, "format");
	json_t	   *template = json_object_get(body, "template");
	json_t	   *gzip = json_object_get(body, "gzip");
	CdiValue	value = {.type = CDI_ABSENT};
	const char *type;
	StringInfoData out;

	initStringInfo(&out);
	if (template != NULL)
		value = cdi_map_evaluate(scope, template);
	if (strcmp(format, "json") == 0)
	{
		type = "application/json";
		cdi_value_append(&out, &value);
	}
	else if (strcmp(format, "form") == 0)
	{
		type = "application/x-www-form-urlencoded";
		write_form(&out, &value);
	}
	else if (strcmp(format, "csv") == 0)
	{
		type = "text/csv";
		write_csv(&out, scope, body);
	}
	else if (strcmp(format, "text") == 0)
	{
		type = "text/plain; charset=utf-8";
		appendStringInfoString(&out, cdi_value_text(&value));
	}
	else
	{
		type = "application/x-ndjson";
		write_lines(&out, scope);
	}
	cdi_request_add_header(request, "Content-Type", type);
	request->body = out.data;
	request->body_len = out.len;
	if (gzip != NULL && (json_is_true(gzip) || (json_is_object(gzip) && cdi_map_condition(scope, gzip))))
	{
		/* People see what was compressed. */
		if (!scope->target->mask_secrets)
			compress_body(request);
		cdi_request_add_header(request, "Content-Encoding", "gzip");
	}
}

void
cdi_body_check(const json_t *body, CdiMapRules rules, const char *where)
{
	static const struct
	{
		const char *name;
		const char *takes;
		const char *needs;
	}			formats[] = {
		{"json", " format gzip template ", "template"},
		{"ndjson", " format gzip ", NULL},
		{"form", " format gzip template ", "template"},
		{"csv", " format gzip columns header null ", "columns"},
		{"text", " format gzip template ", "template"},
	};
	const char *format = cdi_json_string(body, "format");
	const char *key;
	json_t	   *member;
	size_t		k;
	int			found = -1;

	if (!json_is_object(body))
		INVALID("%s must be an object.", where);
	for (int i = 0; format != NULL && i < lengthof(formats); i++)
		if (strcmp(formats[i].name, format) == 0)
			found = i;
	if (found < 0)
		INVALID("%s: format must be json, ndjson, form, csv or text.", where);
	json_object_foreach((json_t *) body, key, member)
	{
		if (strstr(formats[found].takes, psprintf(" %s ", key)) == NULL)
			INVALID("%s: unknown member \"%s\" of format %s.", where, key, format);
		if (strcmp(key, "null") == 0 && !json_is_string(member))
			INVALID("%s.null must be a string.", where);
		if (strcmp(key, "gzip") == 0 && json_is_object(member))
			cdi_map_check_condition(member, rules, psprintf("%s.gzip", where));
		else if ((strcmp(key, "gzip") == 0 || strcmp(key, "header") == 0) && !json_is_boolean(member))
			INVALID("%s.%s must be true or false.", where, key);
	}
	if (formats[found].needs && json_object_get(body, formats[found].needs) == NULL)
		INVALID("%s: member \"%s\" is missing.", where, formats[found].needs);
	if ((member = json_object_get(body, "template")) != NULL)
		cdi_map_check(member, rules, psprintf("%s.template", where));
	if ((member = json_object_get(body, "columns")) != NULL)
	{
		json_t	   *column;
		bool		all = json_is_string(member) && strcmp(json_string_value(member), "*") == 0;

		if (!all && (!json_is_array(member) || json_array_size(member) == 0))
			INVALID("%s.columns must be an array of names, or \"*\".", where);
		json_array_foreach(member, k, column)
			if (!json_is_string(column))
				INVALID("%s.columns must be an array of names.", where);
	}
}
