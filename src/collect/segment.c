/*
 * segment.c
 *		The dialect of Segment's HTTP API and of the SDKs that speak it.
 *
 * The SDKs look at little of an answer: analytics-python wants exactly 200
 * and, for everything else, JSON with "code" and "message"; all of them drop
 * their data on 400 and try again on 429, 503 and the like.  So 400 is kept
 * for bodies that can never succeed, and a batch of which some events are bad
 * is a success that names them: the others are stored, and the bad ones are
 * in cdi.failed_events.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"

static const CdiRoute routes[] = {
	{"/v1/batch", NULL},
	{"/v1/track", "track"},
	{"/v1/identify", "identify"},
	{"/v1/page", "page"},
	{"/v1/screen", "screen"},
	{"/v1/group", "group"},
	{"/v1/alias", "alias"},
	{"/v1/import", NULL},
	/* as browsers send them */
	{"/v1/t", "track"},
	{"/v1/i", "identify"},
	{"/v1/p", "page"},
	{"/v1/s", "screen"},
	{"/v1/g", "group"},
	{"/v1/a", "alias"},
	{"/v1/b", NULL},
	/* RudderStack's SDK, when a page is left */
	{"/beacon/v1/batch", NULL},
	/* what analytics-next measures of itself; nobody's events */
	{"/v1/m", NULL, CDI_ROUTE_PAGE | CDI_ROUTE_PUBLIC},
	{"/v1/projects/*", NULL, CDI_ROUTE_PAGE},
	{NULL, NULL}
};

/* "KEY/settings": the key, or a page that there is not */
static void
unpack_settings(CdiRequest *request)
{
	static const char end[] = "/settings";
	CdiText		key = request->rest;
	int			tail = sizeof(end) - 1;

	if (key.len > tail && memcmp(key.data + key.len - tail, end, tail) == 0)
	{
		key.len -= tail;
		cdi_request_add_key(request, key);
		return;
	}
	request->refused_status = 404;
	request->refused_code = "not_found";
	request->refused_message = "there is nothing at this path";
}

/*
 * The body is what the pipeline takes; only its key is looked for.  The header
 * is of RudderStack's SDK in the browser.
 */
static void
unpack(CdiRequest *request)
{
	const char *anonymous_id = cdi_request_header(request, "AnonymousId");

	if (request->route->flags & CDI_ROUTE_PAGE)
	{
		if (request->rest.len > 0)
			unpack_settings(request);
		return;
	}
	if (request->user.len == 0 && cdi_scan_kind(request->body) == '{')
		cdi_request_add_key(request, cdi_scan_string(cdi_scan_get(request->body, "writeKey")));
	if (request->route->type != NULL)
		request->type = cdi_text(request->route->type);
	if (anonymous_id != NULL)
	{
		request->anonymous_id = cdi_base64_decode(cdi_text(anonymous_id));
		if (request->anonymous_id.len == 0)
			request->anonymous_id = CDI_NO_TEXT;
	}
}

/*
 * What analytics-next fetches before it does anything: where to send, and that
 * no event is held back.
 */
static void
answer_settings(const CdiRequest *request, CdiReply *reply)
{
	/* what Segment's SDK calls the integration that sends, and Customer.io's,
	 * which is made of it */
	static const char *const senders[] = {"Segment.io", "Customer.io Data Pipelines"};
	const char *host = cdi_request_header(request, "Host");
	StringInfo	out = reply->body;

	cdi_write_open(out, NULL, '{');
	cdi_write_open(out, "integrations", '{');
	for (int i = 0; i < lengthof(senders); i++)
	{
		cdi_write_open(out, senders[i], '{');
		cdi_write_text(out, "apiKey", request->nkeys > 0 ? request->keys[0] : CDI_NO_TEXT);
		if (host != NULL)
		{
			cdi_write_string(out, "apiHost", psprintf("%s/v1", host));
			cdi_write_string(out, "protocol", cdi_request_secure(request) ? "https" : "http");
		}
		cdi_write_close(out, '}');
	}
	cdi_write_close(out, '}');
	cdi_write_value(out, "plan", cdi_text("{\"track\":{\"__default\":{\"enabled\":true,\"integrations\":{}}}}"));
	cdi_write_value(out, "metrics", cdi_text("{\"sampleRate\":0}"));
	cdi_write_close(out, '}');
	reply->no_store = true;
}

static void
append_code(StringInfo out, const char *code, const char *message)
{
	cdi_write_string(out, "code", code);
	cdi_write_string(out, "message", message);
}

static void
append_counts(StringInfo out, const CdiAnswer *answer)
{
	appendStringInfo(out, "\"received\":%d,\"stored\":%d,\"duplicate\":%d,\"failed\":%d,\"withheld\":%d",
					 answer->received, answer->stored, answer->duplicate,
					 answer->failed, answer->withheld);
}

void
cdi_segment_answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	StringInfo	out = reply->body;

	if ((request->route->flags & CDI_ROUTE_PAGE) && request->dialect == &cdi_segment_dialect)
	{
		if (request->rest.len > 0)
			answer_settings(request, reply);
		else
			appendStringInfoString(out, "{\"success\":true}");
		return;
	}
	if (answer->whole && answer->ncomplaints > 0)
	{
		const CdiComplaint *complaint = &answer->complaints[0];

		appendStringInfoString(out, "{\"success\":false,");
		append_code(out, cdi_collect_code(complaint->sqlstate), complaint->message);
		appendStringInfoChar(out, ',');
		append_counts(out, answer);
		appendStringInfoChar(out, '}');
		reply->status = complaint->sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
		return;
	}
	appendStringInfoString(out, "{\"success\":true,");
	append_counts(out, answer);
	if (answer->ncomplaints > 0)
	{
		appendStringInfoString(out, ",\"errors\":[");
		for (int i = 0; i < answer->ncomplaints; i++)
		{
			const CdiComplaint *complaint = &answer->complaints[i];

			appendStringInfo(out, "%s{\"index\":%d,", i > 0 ? "," : "", complaint->index);
			append_code(out, cdi_collect_code(complaint->sqlstate), complaint->message);
			appendStringInfoChar(out, '}');
		}
		appendStringInfoChar(out, ']');
	}
	appendStringInfoChar(out, '}');
}

void
cdi_segment_refuse(const CdiRequest *request, int status, const char *code,
				   const char *message, CdiReply *reply)
{
	StringInfo	out = reply->body;

	appendStringInfoString(out, "{\"success\":false,");
	append_code(out, code, message);
	appendStringInfoChar(out, '}');
}

const CdiDialect cdi_segment_dialect = {
	.name = "segment",
	.routes = routes,
	.unpack = unpack,
	.answer = cdi_segment_answer,
	.refuse = cdi_segment_refuse
};
