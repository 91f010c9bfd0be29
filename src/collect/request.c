/*
 * request.c
 *		What a request asks for, what its body really is, and who sent it.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/job.h"

static const CdiDialect *const dialects[] = {
	&cdi_segment_dialect,
	NULL
};

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
 * Answers
 */
static void
send_reply(CdiHttpRequest *request, int status, int flags)
{
	cdi_http_answer(cdi_collector.server, request, status,
					cdi_collector.reply.data, cdi_collector.reply.len, flags);
}

void
cdi_request_refuse(CdiHttpRequest *request, const CdiDialect *dialect, int status,
	   const char *code, const char *message, int flags)
{
	resetStringInfo(&cdi_collector.reply);
	dialect->refuse(code, message, &cdi_collector.reply);
	send_reply(request, status, flags);
}

void
cdi_request_refuse_for_now(CdiHttpRequest *request, const CdiDialect *dialect,
			   const char *code, const char *message)
{
	cdi_request_refuse(request, dialect, 503, code, message, CDI_HTTP_RETRY_AFTER);
}

void
cdi_request_answer(CdiHttpRequest *request, const CdiDialect *dialect, const CdiAnswer *counts)
{
	int			status;

	resetStringInfo(&cdi_collector.reply);
	status = dialect->answer(counts, &cdi_collector.reply);
	send_reply(request, status, 0);
}

/*
 * Requests that need no transaction.  Returns false where it does.
 */
static const CdiRoute *
find_route(const char *path, const CdiDialect **dialect)
{
	for (int i = 0; dialects[i] != NULL; i++)
		for (const CdiRoute *route = dialects[i]->routes; route->path != NULL; route++)
			if (strcmp(route->path, path) == 0)
			{
				*dialect = dialects[i];
				return route;
			}
	*dialect = &cdi_segment_dialect;
	return NULL;
}

static bool
serve_page(CdiHttpRequest *request)
{
	StringInfo	reply = &cdi_collector.reply;
	bool		metrics = strcmp(request->path, "/metrics") == 0;

	if (!metrics && strcmp(request->path, "/health") != 0)
		return false;
	if (request->method != CDI_HTTP_GET && request->method != CDI_HTTP_HEAD)
	{
		cdi_request_refuse(request, &cdi_segment_dialect, 405, "method_not_allowed",
			   "use GET here", CDI_HTTP_ALLOW_GET);
		return true;
	}
	resetStringInfo(reply);
	if (metrics)
	{
		cdi_collect_metrics(reply);
		send_reply(request, 200, CDI_HTTP_METRICS);
	}
	else if (cdi_collect_health(reply))
		send_reply(request, 200, 0);
	else
		send_reply(request, 503, CDI_HTTP_RETRY_AFTER);
	return true;
}

/*
 * Into the job goes what the request's body really is.
 */
static void
refuse_body(CdiJob *job, int status, const char *code, int sqlstate,
			const char *message, const char *detail)
{
	job->refused_status = status;
	job->refused_code = code;
	job->refused_sqlstate = sqlstate;
	job->refused_message = message;
	job->refused_detail = detail;
}

static void
refuse_too_large(CdiJob *job, const char *when, uint64 bytes)
{
	refuse_body(job, 413, "body_too_large", ERRCODE_CDI_EVENT_TOO_LARGE,
				"request body is larger than cdi.collector_max_body",
				psprintf("The body has at least " UINT64_FORMAT " bytes %s, the limit is %d kB.",
						 bytes, when, cdi_collector_max_body));
}

static void
decode_body(CdiJob *job)
{
	CdiHttpRequest *request = job->request;
	char	   *inflated;
	size_t		length;
	bool		gzip;

	job->body = request->body ? request->body : "";
	job->length = request->length;
	if (request->flaw == CDI_HTTP_TOO_LARGE)
		refuse_too_large(job, "as sent", request->announced);

	if (request->body == NULL || request->length == 0)
		return;
	gzip = request->length >= 2 &&
		(unsigned char) request->body[0] == 0x1f && (unsigned char) request->body[1] == 0x8b;
	/* A proxy may have inflated the body and left the header. */
	if (!gzip && (!request->compressed ||
				  request->body[0] == '{' || request->body[0] == '['))
		return;
	switch (cdi_collect_inflate(request->body, request->length,
								(size_t) cdi_collector_max_body * 1024, &inflated, &length))
	{
		case CDI_INFLATE_OK:
			break;
		case CDI_INFLATE_CORRUPT:
			if (job->refused_status == 0)
				refuse_body(job, 400, "invalid_compression", ERRCODE_CDI_INVALID_COMPRESSION,
							"request body is not valid gzip or deflate data",
							"The data is corrupt or ends too early.");
			break;
		case CDI_INFLATE_TOO_LARGE:
			if (job->refused_status == 0)
				refuse_too_large(job, "after decompression", (uint64) length + 1);
			break;
	}
	/* Of a refused body this still shows the write key, if it came so far. */
	job->body = inflated;
	job->length = length;
}

/* A request becomes a job, or is answered at once: then false. */
bool
cdi_request_admit(CdiHttpRequest *request, CdiJob *job)
{
	memset(job, 0, sizeof(*job));
	job->request = request;
	job->route = find_route(request->path, &job->dialect);
	if (job->route == NULL)
	{
		if (!serve_page(request))
			cdi_request_refuse(request, job->dialect, 404, "not_found", "there is nothing at this path", 0);
		return false;
	}
	if (request->method != CDI_HTTP_POST)
	{
		cdi_request_refuse(request, job->dialect, 405, "method_not_allowed",
			   "use POST here", CDI_HTTP_ALLOW_POST);
		return false;
	}
	if (request->flaw == CDI_HTTP_NO_LENGTH)
	{
		cdi_request_refuse(request, job->dialect, 411, "length_required",
			   "send Content-Length, or the body in chunks", 0);
		return false;
	}
	decode_body(job);
	return true;
}

void
cdi_request_authenticate(CdiJob *job, CdiKeyMemo *memo)
{
	CdiHttpRequest *request = job->request;
	CdiText		key = {NULL, 0};
	const CdiSource *source;
	int			i;

	if (request->has_user)
	{
		key.data = request->user;
		key.len = strlen(request->user);
	}
	if (key.len == 0)
		key = job->dialect->write_key(job->body, job->length);
	if (key.len == 0)
	{
		key.data = request->query_key;
		key.len = strlen(request->query_key);
	}
	if (key.len == 0)
	{
		job->denied = "missing_write_key";
		return;
	}
	for (i = 0; i < memo->used; i++)
		if (memo->entries[i].key.len == key.len &&
			memcmp(memo->entries[i].key.data, key.data, key.len) == 0)
			break;
	if (i == memo->used)
	{
		source = cdi_source_by_write_key(key.data, key.len);
		if (memo->used < CDI_KEY_MEMO)
			memo->used++;
		else
			i = 0;
		memo->entries[i].key = key;
		memo->entries[i].source_id = source ? source->source_id : 0;
		memo->entries[i].denied = source == NULL ? "unknown_write_key" :
			!source->enabled ? "source_disabled" : NULL;
	}
	job->source_id = memo->entries[i].source_id;
	job->denied = memo->entries[i].denied;
}
