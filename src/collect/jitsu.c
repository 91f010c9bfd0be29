/*
 * jitsu.c
 *		The dialect of Jitsu's SDKs.
 *
 * A call is one of Segment's, with three differences: the key is a header or
 * Basic user "id:secret" of which the id is ours, the copy of it in the body is
 * masked, and the type may be any word.  Events of the SDK before that are in
 * jitsu_classic.c.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/jitsu.h"
#include "collect/members.h"

static const CdiRoute routes[] = {
	{"/api/s/*", NULL},
	{"/api/px/*", NULL, CDI_ROUTE_GET},
	{"/v1/pixel/*", NULL, CDI_ROUTE_GET},	/* Segment's, the same in all */
	{"/batch", NULL},
	{"/api/v1/event", "classic"},
	{"/api/v1/s2s/event", "classic server"},
	{NULL, NULL}
};

static const char *const call_types[] = {
	"track", "identify", "page", "screen", "group", "alias", NULL
};

static bool
is_call_type(CdiText type)
{
	for (int i = 0; call_types[i] != NULL; i++)
		if (cdi_text_is(type, call_types[i]))
			return true;
	return false;
}

/* "id:secret": all of it, and the id */
static void
add_key(CdiRequest *request, CdiText key)
{
	const char *colon = key.len > 0 ? memchr(key.data, ':', key.len) : NULL;
	CdiText		id = {key.data, colon ? (int) (colon - key.data) : 0};

	cdi_request_add_key(request, key);
	cdi_request_add_key(request, id);
}

/* What a request says of its events: the type of its path, when it was sent */
static void
make_envelope(CdiRequest *request, CdiText type, CdiText outer)
{
	StringInfoData envelope;

	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	if (type.len > 0)
		cdi_write_text(&envelope, "type", type);
	cdi_write_value(&envelope, "sentAt", cdi_scan_get(outer, "sentAt"));
	cdi_write_value(&envelope, "context", cdi_scan_get(outer, "context"));
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

/* The last part of /api/s/s2s/track and of /api/s/track */
static CdiText
path_type(CdiText rest)
{
	const char *slash = memchr(rest.data, '/', rest.len);

	if (slash != NULL && slash - rest.data == 3 && memcmp(rest.data, "s2s", 3) == 0)
	{
		rest.data += 4;
		rest.len -= 4;
	}
	return rest;
}

static void
unpack(CdiRequest *request)
{
	CdiText		body = request->body;
	CdiText		type = path_type(request->rest);
	CdiText		batch;

	if (request->route->type != NULL)
	{
		cdi_jitsu_classic_unpack(request);
		return;
	}
	if (request->route->flags & CDI_ROUTE_GET)
	{
		request->from_device = true;
		body = cdi_base64_decode(cdi_form_get(request->query, "data"));
	}
	if (cdi_scan_kind(body) != '{')
	{
		cdi_request_refuse_json(request, "It is one call, or {\"batch\": [...]}.");
		return;
	}
	batch = cdi_scan_get(body, "batch");
	if (strcmp(request->route->path, "/batch") == 0 &&
		(batch.data == NULL || cdi_scan_get(body, "api_key").data != NULL ||
		 cdi_scan_get(body, "token").data != NULL))
	{
		request->not_mine = true;
		return;
	}
	add_key(request, cdi_text(cdi_request_header(request, "X-Write-Key")));
	if (request->nkeys == 0)
		add_key(request, cdi_scan_string(cdi_scan_get(body, "writeKey")));

	/* "batch" is a path of events of all types, "event" one that names it inside. */
	if (cdi_text_is(type, "batch") || cdi_text_is(type, "event"))
		type = CDI_NO_TEXT;
	if (batch.data != NULL)
	{
		make_envelope(request, CDI_NO_TEXT, body);
		cdi_request_add_array(request, batch);
	}
	else
	{
		make_envelope(request, type, CDI_NO_TEXT);
		cdi_request_add_element(request, body);
	}
}

static void
translate(CdiTranslation *translation)
{
	StringInfo	call = translation->call;
	CdiText		type = cdi_scan_string(cdi_scan_get(translation->payload, "type"));
	bool		named = cdi_scan_present(cdi_scan_get(translation->payload, "event"));
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	if (cdi_scan_get(translation->envelope, "classic").data != NULL)
	{
		cdi_jitsu_classic_translate(translation);
		return;
	}
	if (type.len == 0)
		type = cdi_scan_string(cdi_scan_get(translation->envelope, "type"));
	cdi_write_open(call, NULL, '{');
	if (type.len > 0 && !is_call_type(type))
	{
		cdi_write_string(call, "type", "track");
		if (!named)
			cdi_write_text(call, "event", type);
	}
	else
		cdi_write_text(call, "type", type);

	/* What the call says itself comes later, and the last one counts. */
	cdi_scan_object(&scan, translation->envelope);
	while (cdi_scan_member(&scan, &key, &value))
		if (!cdi_text_is(key, "type"))
			cdi_write_member(call, key, value);
	cdi_scan_object(&scan, translation->payload);
	while (cdi_scan_member(&scan, &key, &value))
		if (!cdi_text_is(key, "type") && !cdi_text_is(key, "writeKey"))
			cdi_write_member(call, key, value);
	cdi_write_close(call, '}');
	if (scan.malformed)
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "the event is no JSON object");
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	if (request->method != CDI_HTTP_POST && !answer->whole)
		cdi_reply_image(reply);
	else
		cdi_segment_answer(request, answer, reply);
}

const CdiDialect cdi_jitsu_dialect = {
	.name = "jitsu",
	.routes = routes,
	.unpack = unpack,
	.translate = translate,
	.answer = answer,
	.refuse = cdi_segment_refuse
};
