/*
 * http_answer.c
 *		Answers: made when they are known, sent when the library asks again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "collect/http_private.h"

static const char overload_body[] =
"{\"success\":false,\"code\":\"overloaded\",\"message\":\"too many requests are waiting; send this one again\"}";

/* Headers that SDKs are known to send, where the preflight names none. */
static const char default_allow_headers[] =
"Authorization, Content-Type, Content-Encoding, AnonymousId, SentAt, Rsa-Recovered, X-Retry-Count, X-Write-Key, SP-Anonymous";

static void
add_header(struct MHD_Response *response, const char *name, const char *value)
{
	(void) MHD_add_response_header(response, name, value);
}

static void
add_cors(struct MHD_Response *response, const char *origin)
{
	add_header(response, "Access-Control-Allow-Origin", origin);
	add_header(response, "Access-Control-Allow-Credentials", "true");
	add_header(response, "Access-Control-Expose-Headers", "Retry-After");
	add_header(response, "Vary", "Origin");
}

static struct MHD_Response *
make_response(const CdiHttpAnswer *answer)
{
	struct MHD_Response *response;

	response = MHD_create_response_from_buffer(answer->length, (void *) answer->body,
											   MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return NULL;
	if (answer->status != MHD_HTTP_NO_CONTENT)
		add_header(response, "Content-Type",
				   answer->content_type ? answer->content_type : "application/json");
	if (answer->retry_after > 0)
	{
		char		seconds[16];

		snprintf(seconds, sizeof(seconds), "%d", answer->retry_after);
		add_header(response, "Retry-After", seconds);
	}
	if (answer->flags & CDI_HTTP_ALLOW_POST)
		add_header(response, "Allow", "POST, OPTIONS");
	if (answer->flags & CDI_HTTP_ALLOW_GET)
		add_header(response, "Allow", "GET, HEAD, OPTIONS");
	if (answer->flags & CDI_HTTP_NO_STORE)
		add_header(response, "Cache-Control", "no-store, no-cache, must-revalidate");
	if (answer->cookie != NULL)
		add_header(response, "Set-Cookie", answer->cookie);
	if (answer->location != NULL)
		add_header(response, "Location", answer->location);
	return response;
}

static struct MHD_Response *
cached_response(CdiHttpServer *server, const CdiHttpAnswer *answer)
{
	CachedResponse *entry;

	for (int i = 0; i < server->cached; i++)
	{
		entry = &server->cache[i];
		if (entry->status == answer->status && entry->flags == answer->flags &&
			entry->retry_after == answer->retry_after &&
			entry->content_type == answer->content_type && entry->length == answer->length &&
			memcmp(entry->body, answer->body, answer->length) == 0)
			return entry->response;
	}
	if (answer->length > CACHED_LENGTH || server->cached == CACHED_RESPONSES)
		return NULL;
	entry = &server->cache[server->cached];
	entry->response = make_response(answer);
	if (entry->response == NULL)
		return NULL;
	entry->status = answer->status;
	entry->flags = answer->flags;
	entry->retry_after = answer->retry_after;
	entry->content_type = answer->content_type;
	entry->length = answer->length;
	memcpy(entry->body, answer->body, answer->length);
	server->cached++;
	return entry->response;
}

void
cdi_http_answer(CdiHttpServer *server, CdiHttpRequest *public, const CdiHttpAnswer *answer)
{
	Request    *request = (Request *) public;

	cdi_http_drop_body(server, request);
	request->status = answer->status;
	if (public->origin == NULL && answer->cookie == NULL && answer->location == NULL &&
		!request->last && !server->quiesced)
	{
		request->response = cached_response(server, answer);
		request->cached = request->response != NULL;
	}
	if (request->response == NULL)
	{
		request->response = make_response(answer);
		if (request->response != NULL && public->origin != NULL &&
			(answer->flags & CDI_HTTP_NO_CORS) == 0)
			add_cors(request->response, public->origin);
		if (request->response != NULL && (server->quiesced || request->last))
			add_header(request->response, "Connection", "close");
	}
	server->stats.pending--;
	server->again = true;
	/* Out of memory: the handler sees no response and closes the connection. */
	MHD_resume_connection(request->connection->mhd);
}

/* Does the pattern, with at most one "*", match all of the text? */
static bool
matches(const char *pattern, size_t length, const char *text)
{
	const char *star = memchr(pattern, '*', length);
	size_t		before = star ? (size_t) (star - pattern) : length;
	size_t		after = star ? length - before - 1 : 0;
	size_t		size = strlen(text);

	if (star == NULL)
		return size == length && strncasecmp(text, pattern, length) == 0;
	return size >= before + after && strncasecmp(text, pattern, before) == 0 &&
		strncasecmp(text + size - after, star + 1, after) == 0;
}

bool
cdi_http_origin_allowed(const char *patterns, const char *origin)
{
	if (origin == NULL)
		return true;
	while (patterns != NULL && *patterns != '\0')
	{
		size_t		length;

		patterns += strspn(patterns, ", ");
		length = strcspn(patterns, ", ");
		if (length > 0 && matches(patterns, length, origin))
			return true;
		patterns += length;
	}
	return false;
}

/* Hand a response to the library. */
enum MHD_Result
cdi_http_send(CdiHttpServer *server, Connection *connection, int status,
			  struct MHD_Response *response)
{
	if (connection->state == CONNECTION_WAITING)
		(void) MHD_set_connection_option(connection->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 0U);
	cdi_http_set_state(server, connection, CONNECTION_SENDING);
	server->stats.answers[status / 100]++;
	return MHD_queue_response(connection->mhd, status, response);
}

/* CORS: whatever headers the browser asks for, for the origins allowed.  The
 * write key is what decides in the end. */
enum MHD_Result
cdi_http_send_preflight(CdiHttpServer *server, Request *request)
{
	struct MHD_Connection *mhd = request->connection->mhd;
	const char *origin = request->public.origin;
	struct MHD_Response *response;
	const char *headers =
		MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Access-Control-Request-Headers");
	enum MHD_Result result;

	response = MHD_create_response_from_buffer(0, (void *) "", MHD_RESPMEM_PERSISTENT);
	if (response == NULL)
		return MHD_NO;
	add_header(response, "Allow", "GET, HEAD, POST, OPTIONS");
	if (origin != NULL && cdi_http_origin_allowed(server->options.allowed_origins, origin))
	{
		add_cors(response, origin);
		add_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
		add_header(response, "Access-Control-Allow-Headers",
				   headers ? headers : default_allow_headers);
		/* a collector in the house, a page that is public */
		if (MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Access-Control-Request-Private-Network") != NULL)
			add_header(response, "Access-Control-Allow-Private-Network", "true");
		add_header(response, "Access-Control-Max-Age", "3600");
	}
	if (request->last)
		add_header(response, "Connection", "close");
	result = cdi_http_send(server, request->connection, MHD_HTTP_NO_CONTENT, response);
	MHD_destroy_response(response);
	return result;
}

static const CdiHttpAnswer overload = {
	.status = 503,
	.body = overload_body,
	.length = sizeof(overload_body) - 1,
	.retry_after = 1
};

enum MHD_Result
cdi_http_send_overload(CdiHttpServer *server, Request *request)
{
	server->stats.overloads++;
	if (request->public.origin != NULL || request->last)
	{
		struct MHD_Response *response = make_response(&overload);
		enum MHD_Result result;

		if (response == NULL)
			return MHD_NO;
		if (request->public.origin != NULL)
			add_cors(response, request->public.origin);
		if (request->last)
			add_header(response, "Connection", "close");
		result = cdi_http_send(server, request->connection, 503, response);
		MHD_destroy_response(response);
		return result;
	}
	return cdi_http_send(server, request->connection, 503, server->overload);
}

/* Before the body: the library reads no more from the connection. */
enum MHD_Result
cdi_http_send_malformed(CdiHttpServer *server, Request *request, int status, const char *wrong)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	char		body[256];
	int			length;

	length = snprintf(body, sizeof(body), "{\"success\":false,\"code\":\"%s\",\"message\":\"%s\"}",
					  status == 501 ? "unsupported_transfer_coding" :
					  status == 505 ? "unsupported_version" : "malformed_request", wrong);
	response = MHD_create_response_from_buffer(length, body, MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return MHD_NO;
	add_header(response, "Content-Type", "application/json");
	add_header(response, "Connection", "close");
	result = cdi_http_send(server, request->connection, status, response);
	MHD_destroy_response(response);
	return result;
}

bool
cdi_http_make_responses(CdiHttpServer *server)
{
	server->overload = make_response(&overload);
	return server->overload != NULL;
}

void
cdi_http_free_responses(CdiHttpServer *server)
{
	for (int i = 0; i < server->cached; i++)
		MHD_destroy_response(server->cache[i].response);
	if (server->overload != NULL)
		MHD_destroy_response(server->overload);
}
