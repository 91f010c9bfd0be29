/*
 * rudderstack.c
 *		What RudderStack's SDKs ask for beside Segment's paths: the source's
 *		configuration, and events as images.
 *
 * Their calls are Segment's: /v1/track and its like are in segment.c, and that
 * traits may lie in the context is normalise.c's knowledge.
 */
#include "postgres.h"

#include "collect/dialect.h"

static const CdiRoute routes[] = {
	{"/sourceConfig", NULL, CDI_ROUTE_PAGE},
	{"/pixel/v1/track", "track", CDI_ROUTE_GET},
	{"/pixel/v1/page", "page", CDI_ROUTE_GET},
	{NULL, NULL}
};

static void
unpack(CdiRequest *request)
{
	StringInfoData envelope;

	if (request->route->flags & CDI_ROUTE_PAGE)
	{
		cdi_request_add_key(request, cdi_form_get(request->query, "writeKey"));
		return;
	}
	request->from_device = true;
	cdi_request_add_element(request, request->query);
	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_write_string(&envelope, "type", request->route->type);
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

/* Fields of the query whose name begins so, as members */
static void
write_fields(StringInfo call, const char *object, CdiText query, const char *beginning)
{
	size_t		length = strlen(beginning);
	CdiText		field;
	CdiText		value;
	int			n = 0;

	while (cdi_form_next(&query, &field, &value))
	{
		if (field.len <= (int) length || memcmp(field.data, beginning, length) != 0)
			continue;
		field.data += length;
		field.len -= (int) length;
		/* deeper ones have an object of their own */
		if (memchr(field.data, '.', field.len) != NULL)
			continue;
		if (n++ == 0 && object != NULL)
			cdi_write_open(call, object, '{');
		cdi_write_key(call, field);
		cdi_write_text(call, NULL, value);
	}
	if (n > 0 && object != NULL)
		cdi_write_close(call, '}');
}

/* ?event=Seen&userId=u1&properties.price=5&context.page.url=... */
static void
translate(CdiTranslation *translation)
{
	StringInfo	call = translation->call;
	CdiText		query = translation->payload;
	CdiText		field;
	CdiText		value;

	cdi_write_open(call, NULL, '{');
	while (cdi_form_next(&query, &field, &value))
		if (field.len > 0 && memchr(field.data, '.', field.len) == NULL &&
			!cdi_text_is(field, "writeKey") && !cdi_text_is(field, "type") &&
			!cdi_text_is(field, "context") && !cdi_text_is(field, "properties"))
		{
			cdi_write_key(call, field);
			cdi_write_text(call, NULL, value);
		}
	cdi_write_value(call, "type", cdi_scan_get(translation->envelope, "type"));
	write_fields(call, "properties", translation->payload, "properties.");
	cdi_write_open(call, "context", '{');
	write_fields(call, NULL, translation->payload, "context.");
	write_fields(call, "page", translation->payload, "context.page.");
	write_fields(call, "campaign", translation->payload, "context.campaign.");
	write_fields(call, "traits", translation->payload, "context.traits.");
	cdi_write_close(call, '}');
	cdi_write_close(call, '}');
}

/* The smallest answer that the SDK goes on with: no destinations of its own. */
static void
answer_config(const CdiRequest *request, CdiReply *reply)
{
	StringInfo	out = reply->body;
	CdiText		key = request->user.len > 0 || request->nkeys == 0 ? request->user : request->keys[0];

	cdi_write_open(out, NULL, '{');
	cdi_write_open(out, "source", '{');
	cdi_write_string(out, "id", psprintf("cdi-%d", request->source_id));
	cdi_write_string(out, "name", "cdi");
	cdi_write_text(out, "writeKey", key);
	cdi_write_bool(out, "enabled", true);
	cdi_write_string(out, "workspaceId", "cdi");
	cdi_write_value(out, "config", cdi_text("{\"statsCollection\":{\"errors\":{\"enabled\":false},\"metrics\":{\"enabled\":false}}}"));
	cdi_write_value(out, "destinations", cdi_text("[]"));
	cdi_write_close(out, '}');
	cdi_write_close(out, '}');
	reply->no_store = true;
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	if (request->route->flags & CDI_ROUTE_PAGE)
		answer_config(request, reply);
	else
		cdi_reply_image(reply);
}

const CdiDialect cdi_rudderstack_dialect = {
	.name = "rudderstack",
	.routes = routes,
	.unpack = unpack,
	.translate = translate,
	.answer = answer,
	.refuse = cdi_segment_refuse
};
