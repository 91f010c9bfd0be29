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
	{NULL, NULL}
};

/* The body is what the pipeline takes; only its key is looked for. */
static void
unpack(CdiRequest *request)
{
	if (request->user.len == 0 && cdi_scan_kind(request->body) == '{')
		cdi_request_add_key(request, cdi_scan_string(cdi_scan_get(request->body, "writeKey")));
	if (request->route->type != NULL)
		request->type = cdi_text(request->route->type);
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
