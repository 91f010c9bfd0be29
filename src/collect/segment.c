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

#include "utils/json.h"

#include "base/errors.h"
#include "collect/collect.h"

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

static int
parse(CdiBatch *batch, int32 origin, int32 source_id,
	  const char *body, int len, const CdiRoute *route)
{
	return cdi_parse_body(batch, origin, source_id, body, len, route->type);
}

static void
append_code(StringInfo out, const char *code, const char *message)
{
	appendStringInfoString(out, "\"code\":");
	escape_json(out, code);
	appendStringInfoString(out, ",\"message\":");
	escape_json(out, message);
}

static void
append_counts(StringInfo out, const CdiAnswer *answer)
{
	appendStringInfo(out, "\"received\":%d,\"stored\":%d,\"duplicate\":%d,\"failed\":%d,\"withheld\":%d",
					 answer->received, answer->stored, answer->duplicate,
					 answer->failed, answer->withheld);
}

static int
answer(const CdiAnswer *answer, StringInfo out)
{
	if (answer->whole && answer->ncomplaints > 0)
	{
		const CdiComplaint *complaint = &answer->complaints[0];

		appendStringInfoString(out, "{\"success\":false,");
		append_code(out, cdi_collect_code(complaint->sqlstate), complaint->message);
		appendStringInfoChar(out, ',');
		append_counts(out, answer);
		appendStringInfoChar(out, '}');
		return complaint->sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
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
	return 200;
}

static void
refuse(const char *code, const char *message, StringInfo out)
{
	appendStringInfoString(out, "{\"success\":false,");
	append_code(out, code, message);
	appendStringInfoChar(out, '}');
}

const CdiDialect cdi_segment_dialect = {
	.name = "segment",
	.routes = routes,
	.write_key = cdi_parse_write_key,
	.parse = parse,
	.answer = answer,
	.refuse = refuse
};
