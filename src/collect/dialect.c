/*
 * dialect.c
 *		The dialects, and what their files share.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"

/* Where two have a path in common, the first one looks at the body first. */
const CdiDialect *const cdi_dialects[] = {
	&cdi_segment_dialect,
	&cdi_rudderstack_dialect,
	&cdi_snowplow_dialect,
	&cdi_amplitude_dialect,
	&cdi_mixpanel_dialect,
	&cdi_ga4_dialect,
	&cdi_jitsu_dialect,
	&cdi_posthog_dialect,
	&cdi_webhook_dialect,
	NULL
};

const CdiDialect *
cdi_dialect_find(const char *name)
{
	for (int i = 0; cdi_dialects[i] != NULL; i++)
		if (strcmp(cdi_dialects[i]->name, name) == 0)
			return cdi_dialects[i];
	return NULL;
}

const CdiRoute *
cdi_dialect_route(const CdiDialect *dialect, const char *path, const char **rest)
{
	for (const CdiRoute *route = dialect->routes; route->path != NULL; route++)
	{
		size_t		length = strlen(route->path);

		if (length > 0 && route->path[length - 1] == '*')
		{
			if (strncmp(route->path, path, length - 1) == 0)
			{
				*rest = path + length - 1;
				return route;
			}
		}
		else if (strcmp(route->path, path) == 0)
		{
			*rest = path + length;
			return route;
		}
	}
	return NULL;
}

const char *
cdi_collect_code(int sqlstate)
{
	static char code[6];

	switch (sqlstate)
	{
		case ERRCODE_CDI_INVALID_JSON:
			return "invalid_json";
		case ERRCODE_CDI_INVALID_EVENT:
			return "invalid_event";
		case ERRCODE_CDI_INVALID_TYPE:
			return "invalid_type";
		case ERRCODE_CDI_NO_IDENTIFIER:
			return "no_identifier";
		case ERRCODE_CDI_INVALID_TIMESTAMP:
			return "invalid_timestamp";
		case ERRCODE_CDI_EVENT_TOO_LARGE:
			return "event_too_large";
		case ERRCODE_CDI_INVALID_ENCODING:
			return "invalid_encoding";
		case ERRCODE_CDI_INVALID_COMPRESSION:
			return "invalid_compression";
		case ERRCODE_UNTRANSLATABLE_CHARACTER:
			return "invalid_character";
		case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
			return "number_out_of_range";
	}
	strlcpy(code, unpack_sql_state(sqlstate), sizeof(code));
	return code;
}

/*
 * For unpack
 */
void
cdi_request_add_key(CdiRequest *request, CdiText key)
{
	if (key.data != NULL && key.len > 0 && request->nkeys < CDI_MAX_KEYS)
		request->keys[request->nkeys++] = key;
}

void
cdi_request_add_element(CdiRequest *request, CdiText element)
{
	if (request->nelements == request->capacity)
	{
		request->capacity = Max(8, request->capacity * 2);
		request->elements = request->elements == NULL ?
			palloc(sizeof(CdiText) * request->capacity) :
			repalloc(request->elements, sizeof(CdiText) * request->capacity);
	}
	request->elements[request->nelements++] = element;
}

void
cdi_request_refuse_json(CdiRequest *request, const char *detail)
{
	if (request->refused_status != 0)
		return;
	request->refused_status = 400;
	request->refused_code = "invalid_json";
	request->refused_sqlstate = ERRCODE_CDI_INVALID_JSON;
	request->refused_message = "the body is not what this path takes in valid JSON";
	request->refused_detail = detail;
}

void
cdi_request_add_array(CdiRequest *request, CdiText array)
{
	CdiScan		scan;
	CdiText		element;

	if (cdi_scan_calls(array) < 0)
	{
		cdi_request_refuse_json(request, "Its events are no array.");
		return;
	}
	cdi_scan_array(&scan, array);
	while (cdi_scan_element(&scan, &element))
		cdi_request_add_element(request, element);
}

void
cdi_reply_image(CdiReply *reply)
{
	static const char image[43] =
		"GIF89a\1\0\1\0\200\0\0\0\0\0\377\377\377!\371\4\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;";

	appendBinaryStringInfo(reply->body, image, sizeof(image));
	reply->content_type = "image/gif";
	reply->no_store = true;
}

CdiText
cdi_request_cookie(const CdiRequest *request, const char *name)
{
	CdiText		rest = cdi_text(cdi_request_header(request, "Cookie"));
	size_t		length = strlen(name);

	while (rest.len > 0)
	{
		CdiText		pair = cdi_text_trim(cdi_text_split(&rest, ';'));

		if (pair.len > (int) length && memcmp(pair.data, name, length) == 0 &&
			pair.data[length] == '=')
		{
			pair.data += length + 1;
			pair.len -= length + 1;
			return pair;
		}
	}
	return CDI_NO_TEXT;
}

bool
cdi_request_uuid(char *buffer)
{
	unsigned char random[16];

	if (!pg_strong_random(random, sizeof(random)))
		return false;
	random[6] = (random[6] & 0x0f) | 0x40;
	random[8] = (random[8] & 0x3f) | 0x80;
	for (int i = 0; i < 16; i++)
		buffer += sprintf(buffer, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", random[i]);
	return true;
}
