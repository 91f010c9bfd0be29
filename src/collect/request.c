/*
 * request.c
 *		What a request asks for, what its body really is, and who sent it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "collect/job.h"
#include "collect/limit.h"

#define COOKIE_SECONDS	(365 * 24 * 60 * 60)

const char *
cdi_request_header(const CdiRequest *request, const char *name)
{
	return cdi_http_header(request->http, name);
}

/* It decides only on the address that the client is told to go on with, so a
 * proxy's word needs no trust. */
bool
cdi_request_secure(const CdiRequest *request)
{
	const char *forwarded = cdi_request_header(request, "X-Forwarded-Proto");

	return cdi_http_secure(request->http) ||
		(forwarded != NULL && pg_strncasecmp(forwarded, "https", 5) == 0);
}

const char *
cdi_request_cookie_header(const char *name, CdiText value)
{
	bool		domain = cdi_collector_cookie_domain != NULL && *cdi_collector_cookie_domain != '\0';

	return psprintf("%s=%.*s; Max-Age=%d; Path=/%s%s; Secure; HttpOnly; SameSite=None",
					name, value.len, value.data, COOKIE_SECONDS,
					domain ? "; Domain=" : "", domain ? cdi_collector_cookie_domain : "");
}

/*
 * Answers
 */
static void
send_reply(const CdiRequest *request, const CdiReply *reply, int flags, int retry_after)
{
	CdiHttpAnswer answer = {
		.status = reply->status,
		.body = reply->body->data,
		.length = reply->body->len,
		.content_type = reply->content_type,
		.flags = flags | (reply->no_store ? CDI_HTTP_NO_STORE : 0),
		.retry_after = retry_after,
		.cookie = reply->cookie,
		.location = reply->location
	};

	if (request->source_id != 0)
		cdi_limit_answered(request->source_id, reply->status, request->http->announced);
	cdi_http_answer(cdi_collector.server, request->http, &answer);
}

static void
begin_reply(CdiReply *reply, int status)
{
	memset(reply, 0, sizeof(*reply));
	reply->status = status;
	reply->body = &cdi_collector.reply;
	resetStringInfo(reply->body);
}

static void
refuse(const CdiRequest *request, int status, const char *code, const char *message,
	   int flags, int retry_after)
{
	CdiReply	reply;

	if (!cdi_http_origin_allowed(cdi_collector_allowed_origins, request->http->origin))
		flags |= CDI_HTTP_NO_CORS;
	begin_reply(&reply, status);
	request->dialect->refuse(request, status, code, message, &reply);
	send_reply(request, &reply, flags, retry_after);
}

void
cdi_request_refuse(const CdiRequest *request, int status, const char *code,
				   const char *message, int flags)
{
	refuse(request, status, code, message, flags, 0);
}

void
cdi_request_refuse_for_now(const CdiRequest *request, const char *code, const char *message)
{
	refuse(request, 503, code, message, 0, 1);
}

void
cdi_request_answer(const CdiRequest *request, const CdiAnswer *counts)
{
	CdiReply	reply;

	begin_reply(&reply, 200);
	request->dialect->answer(request, counts, &reply);
	send_reply(request, &reply, 0, 0);
}

static const struct
{
	const char *code;
	const char *message;
}			denials[] =
{
	{"missing_write_key", "no write key: send it where the SDK puts it, as Basic user or as ?writeKey="},
	{"unknown_write_key", "no source has this write key"},
	{"source_disabled", "the source of this write key is disabled"},
	{"invalid_signature", "the signature is not that of the source's secret over this body"},
	{"origin_not_allowed", "the source takes nothing from pages of this origin"},
	{"secret_unavailable", "the secret of the source cannot be read now; send this again later"},
	{"body_too_large", "the body is larger than cdi.collector_max_body"},
	{"unknown_default_source", "there is no source of the name in cdi.collector_default_source"},
	{"rate_limited", "the source sends more events per second than it may; send this again later"},
};

void
cdi_request_deny(const CdiJob *job)
{
	const char *message = job->denied;

	for (int i = 0; i < lengthof(denials); i++)
		if (strcmp(denials[i].code, job->denied) == 0)
			message = denials[i].message;
	if (job->denied_status == 401)
		cdi_collector.refused_keys++;
	refuse(&job->request, job->denied_status, job->denied, message,
		   job->denied_status == 403 ? CDI_HTTP_NO_CORS : 0,
		   job->denied_status == 429 ? cdi_limit_retry_after(job->wait_ms) :
		   job->denied_status == 503 ? 1 : 0);
}

/*
 * Pages of our own
 */
static bool
serve_page(CdiRequest *request)
{
	bool		metrics = strcmp(request->http->path, "/metrics") == 0;
	CdiReply	reply;

	if (!metrics && strcmp(request->http->path, "/health") != 0)
		return false;
	if (request->method != CDI_HTTP_GET && request->method != CDI_HTTP_HEAD)
	{
		cdi_request_refuse(request, 405, "method_not_allowed", "use GET here", CDI_HTTP_ALLOW_GET);
		return true;
	}
	begin_reply(&reply, 200);
	if (metrics)
	{
		cdi_collect_metrics(reply.body);
		reply.content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
	}
	else if (!cdi_collect_health(reply.body))
		reply.status = 503;
	send_reply(request, &reply, 0, reply.status == 503 ? 1 : 0);
	return true;
}

/*
 * Into the request goes what its body really is.
 */
static void
refuse_body(CdiRequest *request, int status, const char *code, int sqlstate,
			const char *message, const char *detail)
{
	if (request->refused_status != 0)
		return;
	request->refused_status = status;
	request->refused_code = code;
	request->refused_sqlstate = sqlstate;
	request->refused_message = message;
	request->refused_detail = detail;
}

static void
refuse_too_large(CdiRequest *request, const char *when, uint64 bytes)
{
	refuse_body(request, 413, "body_too_large", ERRCODE_CDI_EVENT_TOO_LARGE,
				"request body is larger than cdi.collector_max_body",
				psprintf("The body has at least " UINT64_FORMAT " bytes %s, the limit is %d kB.",
						 bytes, when, cdi_collector_max_body));
}

static bool
is_gzip(const char *data, size_t length)
{
	return length >= 2 && (unsigned char) data[0] == 0x1f && (unsigned char) data[1] == 0x8b;
}

/* Encodings that are in use and that nobody here can undo, or several. */
static bool
is_unsupported(const char *encoding)
{
	static const char *const names[] = {"br", "zstd", "compress", "x-compress", "snappy", "lz4"};

	if (encoding == NULL)
		return false;
	for (int i = 0; i < lengthof(names); i++)
		if (pg_strcasecmp(encoding, names[i]) == 0)
			return true;
	return strchr(encoding, ',') != NULL;
}

static void
refuse_encoding(CdiRequest *request)
{
	refuse_body(request, 415, "unsupported_encoding", ERRCODE_CDI_INVALID_COMPRESSION,
				"request body is compressed in a way that is not understood",
				"It may be compressed once, with gzip or deflate.");
}

static void
decode_body(CdiRequest *request)
{
	const CdiHttpRequest *http = request->http;
	char	   *inflated;
	size_t		length;
	bool		gzip;

	request->body.data = http->body ? http->body : "";
	request->body.len = http->length;
	if (http->flaw == CDI_HTTP_TOO_LARGE)
		refuse_too_large(request, "as sent", http->announced);

	if (http->body == NULL || http->length == 0)
		return;
	gzip = is_gzip(http->body, http->length);
	if (!gzip && http->body[0] != '{' && http->body[0] != '[' &&
		is_unsupported(cdi_http_header(http, "Content-Encoding")))
	{
		refuse_encoding(request);
		return;
	}
	/* A proxy may have inflated the body and left the header. */
	if (!gzip && (!http->compressed || http->body[0] == '{' || http->body[0] == '['))
		return;
	switch (cdi_collect_inflate(http->body, http->length,
								(size_t) cdi_collector_max_body * 1024, &inflated, &length))
	{
		case CDI_INFLATE_OK:
			if (is_gzip(inflated, length))
				refuse_encoding(request);
			break;
		case CDI_INFLATE_CORRUPT:
			refuse_body(request, 400, "invalid_compression", ERRCODE_CDI_INVALID_COMPRESSION,
						"request body is not valid gzip or deflate data",
						"The data is corrupt or ends too early.");
			break;
		case CDI_INFLATE_TOO_LARGE:
			refuse_too_large(request, "after decompression", (uint64) length + 1);
			break;
	}
	/* Of a refused body this still shows the write key, if it came so far. */
	request->body.data = inflated;
	request->body.len = length;
}

/*
 * Browsers say so; what they tell of address and agent is the visitor's.
 * Sec-Fetch-Mode says nothing: fetch() of Node.js sends it from servers, too.
 */
static bool
from_browser(const CdiRequest *request)
{
	return request->http->origin != NULL || cdi_request_header(request, "Sec-Fetch-Site") != NULL;
}

/* The methods that a route takes, or false and an answer */
static bool
check_method(CdiRequest *request)
{
	int			flags = request->route->flags;

	if (request->method == CDI_HTTP_POST)
	{
		/* Where an event may stand in the address nothing more need follow. */
		if (request->http->flaw != CDI_HTTP_NO_LENGTH || (flags & CDI_ROUTE_GET))
			return true;
		cdi_request_refuse(request, 411, "length_required",
						   "send Content-Length, or the body in chunks", 0);
		return false;
	}
	if (request->method != CDI_HTTP_OTHER && (flags & (CDI_ROUTE_GET | CDI_ROUTE_PAGE)))
		return true;
	cdi_request_refuse(request, 405, "method_not_allowed", "use POST here", CDI_HTTP_ALLOW_POST);
	return false;
}

/* A request becomes a job, or is answered at once: then false. */
bool
cdi_request_admit(CdiHttpRequest *http, CdiJob *job)
{
	CdiRequest *request = &job->request;
	bool		device = false;

	memset(job, 0, sizeof(*job));
	request->http = http;
	request->method = http->method;
	request->path = cdi_text(http->path);
	request->query = cdi_text(http->query);
	request->user = cdi_text(http->user);
	request->dialect = &cdi_segment_dialect;
	for (int i = 0; cdi_dialects[i] != NULL; i++)
	{
		const char *rest;
		const CdiRoute *route = cdi_dialect_route(cdi_dialects[i], http->path, &rest);

		if (route == NULL)
			continue;
		if (request->route == NULL)
		{
			request->dialect = cdi_dialects[i];
			request->route = route;
			if (!check_method(request))
				return false;
			decode_body(request);
			device = from_browser(request);
		}
		request->dialect = cdi_dialects[i];
		request->route = route;
		request->rest = cdi_text(rest);
		request->not_mine = false;
		request->nkeys = request->nelements = 0;
		request->envelope = request->type = request->anonymous_id = CDI_NO_TEXT;
		request->from_device = device;
		/* A byte order mark is no JSON, but some clients put it there.  What is
		 * signed stays as it came. */
		if (request->dialect->verify == NULL && request->body.len >= 3 &&
			memcmp(request->body.data, "\xef\xbb\xbf", 3) == 0)
		{
			request->body.data += 3;
			request->body.len -= 3;
		}
		request->dialect->unpack(request);
		if (!request->not_mine)
			break;
	}
	/* At the root there is nothing but for those whose body says so. */
	if (request->not_mine && strcmp(http->path, "/") == 0)
	{
		request->dialect = &cdi_segment_dialect;
		request->route = NULL;
	}
	if (request->route == NULL)
	{
		if (!serve_page(request))
			cdi_request_refuse(request, 404, "not_found", "there is nothing at this path", 0);
		return false;
	}
	if (request->not_mine)
		refuse_body(request, 400, "invalid_event", ERRCODE_CDI_INVALID_EVENT,
					"the body is of no kind that is taken at this path", NULL);
	if (cdi_scan_spreads(request->nelements, request->envelope.len))
		refuse_body(request, 413, "event_too_large", ERRCODE_CDI_EVENT_TOO_LARGE,
					"what the request says about all of its events is too large for so many",
					"Send fewer events at a time.");
	if ((request->route->flags & CDI_ROUTE_PAGE) && request->refused_status != 0)
	{
		cdi_request_refuse(request, request->refused_status, request->refused_code,
						   request->refused_message, 0);
		return false;
	}
	if (request->route->flags & CDI_ROUTE_PUBLIC)
	{
		CdiAnswer	nothing = {0};

		cdi_request_answer(request, &nothing);
		return false;
	}
	return true;
}

/*
 * Who sent it
 */

/* Is there a source for the key?  Puts it into the job then. */
static bool
try_key(CdiJob *job, CdiKeyMemo *memo, CdiText key)
{
	const CdiSource *source;
	int			i;

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
		memo->entries[i].enabled = source && source->enabled;
	}
	if (memo->entries[i].source_id == 0)
		return false;
	job->request.source_id = memo->entries[i].source_id;
	job->denied = memo->entries[i].enabled ? NULL : "source_disabled";
	return true;
}

static void
take_source(CdiJob *job, const char *name)
{
	const CdiSource *source = cdi_source_by_name(name);

	if (source == NULL)
		job->denied = "unknown_write_key";
	else
	{
		job->request.source_id = source->source_id;
		job->denied = source->enabled ? NULL : "source_disabled";
	}
}

/* The places of a key, in order of precedence: the first that fits counts. */
static void
find_source(CdiJob *job, CdiKeyMemo *memo)
{
	CdiRequest *request = &job->request;
	CdiText		key = request->user;
	bool		any = false;

	job->denied = NULL;
	if (request->source != NULL)
	{
		take_source(job, request->source);
		return;
	}
	if (key.len > 0 && try_key(job, memo, key))
		return;
	any = key.len > 0;
	for (int i = 0; i < request->nkeys; i++)
	{
		if (try_key(job, memo, request->keys[i]))
			return;
		any = true;
	}
	if (request->query.len > 0)
	{
		key = cdi_form_get(request->query, "writeKey");
		if (key.len > 0 && try_key(job, memo, key))
			return;
		any = any || key.len > 0;
	}
	if (cdi_collector_default_source != NULL && *cdi_collector_default_source != '\0' &&
		request->dialect->keyless)
	{
		take_source(job, cdi_collector_default_source);
		/* Our mistake, not the client's: it shall keep its events. */
		if (request->source_id == 0)
		{
			job->denied = "unknown_default_source";
			job->denied_status = 503;
		}
	}
	else
		job->denied = any ? "unknown_write_key" : "missing_write_key";
}

static bool
origin_allowed(const CdiRequest *request, const CdiSource *source)
{
	const char *origin = request->http->origin;

	return cdi_http_origin_allowed(cdi_collector_allowed_origins, origin) &&
		(source->allowed_origins == NULL || cdi_http_origin_allowed(source->allowed_origins, origin));
}

static void
deny(CdiJob *job, int status, const char *code)
{
	job->denied_status = status;
	job->denied = code;
}

/* A secret that cannot be read is said once per second. */
static void
log_error(void)
{
	static TimestampTz logged_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(logged_at, now, 1000))
	{
		logged_at = now;
		EmitErrorReport();
	}
}

/*
 * Is it signed by the source's sender?  Until then it is nobody's: it is
 * neither recorded nor does it count against the source's limits.  Anyone can
 * send such requests to a source whose secret is not there; that must not fail
 * the transaction, and so the requests beside it.
 */
static bool
is_verified(CdiJob *job)
{
	CdiRequest *request = &job->request;
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (request->http->flaw == CDI_HTTP_TOO_LARGE)
	{
		deny(job, 413, "body_too_large");	/* what is signed is not all here */
		return false;
	}
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		job->denied = request->dialect->verify(request);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		bool		secret = geterrcode() == ERRCODE_CDI_SECRET_UNAVAILABLE;
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		if (secret)
			log_error();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
		if (!secret)
			ReThrowError(error);
		FreeErrorData(error);
		deny(job, 503, "secret_unavailable");
	}
	PG_END_TRY();
	return job->denied == NULL;
}

/* Who sent it, and may it come in?  What a page is fetched for is no event. */
void
cdi_request_authenticate(CdiJob *job, CdiKeyMemo *memo)
{
	CdiRequest *request = &job->request;
	const CdiSource *source;

	job->denied_status = 401;
	find_source(job, memo);
	if (job->denied != NULL)
		return;
	source = cdi_source_by_id(request->source_id);
	if (!origin_allowed(request, source))
	{
		deny(job, 403, "origin_not_allowed");
		return;
	}
	if (request->dialect->verify != NULL && !is_verified(job))
		return;
	source = cdi_source_by_id(request->source_id);
	if (request->route->flags & CDI_ROUTE_PAGE)
		return;
	if (source->cookieless != CDI_COOKIELESS_OFF && request->dialect->forget_visitor != NULL)
		request->dialect->forget_visitor(request);
	if (!job->checked)
		job->wait_ms = cdi_limit_check(source);
	job->checked = true;
	if (job->wait_ms > 0)
	{
		deny(job, 429, "rate_limited");
		return;
	}
	if (source->max_body > 0 &&
		Max(request->http->announced, (uint64) request->body.len) > (uint64) source->max_body * 1024)
		refuse_body(request, 413, "body_too_large", ERRCODE_CDI_EVENT_TOO_LARGE,
					"request body is larger than the source may send",
					psprintf("The limit of source \"%s\" is %d kB.", source->name, source->max_body));
}

/*
 * What the request itself says about its sender
 */
static bool
says_yes(const CdiRequest *request, const char *header)
{
	const char *value = cdi_request_header(request, header);

	return value != NULL && strcmp(value, "1") == 0;
}

Jsonb *
cdi_request_client(const CdiRequest *request)
{
	const CdiSource *source = cdi_source_by_id(request->source_id);
	bool		gpc = says_yes(request, "Sec-GPC");
	bool		dnt = says_yes(request, "DNT");
	bool		device = !request->anonymous &&
		(source->client_address == CDI_ADDRESS_ALWAYS ||
		 (source->client_address == CDI_ADDRESS_AUTO && request->from_device));
	StringInfoData json;
	Jsonb	   *result;

	if (!gpc && !dnt && !device)
		return NULL;
	initStringInfo(&json);
	cdi_write_open(&json, NULL, '{');
	if (device)
	{
		const char *agent = cdi_request_header(request, "User-Agent");
		char		address[CDI_HTTP_ADDRESS_SIZE];

		if (source->cookieless == CDI_COOKIELESS_OFF &&
			cdi_http_client_address(request->http, address))
			cdi_write_string(&json, "ip", address);
		if (agent != NULL && pg_verify_mbstr(PG_UTF8, agent, strlen(agent), true))
			cdi_write_string(&json, "userAgent", agent);
	}
	if (gpc)
		cdi_write_bool(&json, "globalPrivacyControl", true);
	if (dnt)
		cdi_write_bool(&json, "doNotTrack", true);
	cdi_write_close(&json, '}');
	result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
	pfree(json.data);
	return result;
}

/* Also where neither is to be kept. */
void
cdi_request_device(const CdiRequest *request, CdiText *address, CdiText *agent)
{
	const CdiSource *source = cdi_source_by_id(request->source_id);
	char		buffer[CDI_HTTP_ADDRESS_SIZE];

	*address = *agent = CDI_NO_TEXT;
	if (source->cookieless == CDI_COOKIELESS_OFF || request->anonymous ||
		!(request->from_device || source->client_address == CDI_ADDRESS_ALWAYS) ||
		!cdi_http_client_address(request->http, buffer))
		return;
	*address = cdi_text(pstrdup(buffer));
	*agent = cdi_text(cdi_request_header(request, "User-Agent"));
}
