/*
 * http_answer.c
 *		Answers: made when they are known, sent when the library asks again.
 */
#include <stdlib.h>
#include <string.h>

#include "collect/http_private.h"

static const char overload_body[] =
"{\"success\":false,\"code\":\"overloaded\",\"message\":\"too many requests are waiting; send this one again\"}";

/* Headers that SDKs are known to send, where the preflight names none. */
static const char default_allow_headers[] =
"Authorization, Content-Type, Content-Encoding, AnonymousId, SentAt, Rsa-Recovered, X-Retry-Count, X-Write-Key";

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
make_response(const char *body, size_t length, int flags)
{
	struct MHD_Response *response;

	response = MHD_create_response_from_buffer(length, (void *) body, MHD_RESPMEM_MUST_COPY);
	if (response == NULL)
		return NULL;
	add_header(response, "Content-Type",
			   (flags & CDI_HTTP_METRICS) ?
			   "application/openmetrics-text; version=1.0.0; charset=utf-8" :
			   "application/json");
	if (flags & CDI_HTTP_RETRY_AFTER)
		add_header(response, "Retry-After", "1");
	if (flags & CDI_HTTP_ALLOW_POST)
		add_header(response, "Allow", "POST, OPTIONS");
	if (flags & CDI_HTTP_ALLOW_GET)
		add_header(response, "Allow", "GET, HEAD, OPTIONS");
	return response;
}

static struct MHD_Response *
cached_response(CdiHttpServer *server, int status, const char *body, size_t length, int flags)
{
	CachedResponse *entry;

	for (int i = 0; i < server->cached; i++)
	{
		entry = &server->cache[i];
		if (entry->status == status && entry->flags == flags && entry->length == length &&
			memcmp(entry->body, body, length) == 0)
			return entry->response;
	}
	if (length > CACHED_LENGTH || server->cached == CACHED_RESPONSES)
		return NULL;
	entry = &server->cache[server->cached];
	entry->response = make_response(body, length, flags);
	if (entry->response == NULL)
		return NULL;
	entry->status = status;
	entry->flags = flags;
	entry->length = length;
	memcpy(entry->body, body, length);
	server->cached++;
	return entry->response;
}

void
cdi_http_answer(CdiHttpServer *server, CdiHttpRequest *public,
				int status, const char *body, size_t length, int flags)
{
	Request    *request = (Request *) public;

	cdi_http_drop_body(server, request);
	request->status = status;
	if (request->origin == NULL && !server->quiesced)
	{
		request->response = cached_response(server, status, body, length, flags);
		request->cached = request->response != NULL;
	}
	if (request->response == NULL)
	{
		request->response = make_response(body, length, flags);
		if (request->response != NULL && request->origin != NULL)
			add_cors(request->response, request->origin);
		if (request->response != NULL && server->quiesced)
			add_header(request->response, "Connection", "close");
	}
	server->stats.pending--;
	server->again = true;
	/* Out of memory: the handler sees no response and closes the connection. */
	MHD_resume_connection(request->connection->mhd);
}

/* Hand a response to the library. */
enum MHD_Result
cdi_http_send(CdiHttpServer *server, Connection *connection, int status,
			  struct MHD_Response *response)
{
	cdi_http_set_state(server, connection, CONNECTION_SENDING);
	server->stats.answers[status / 100]++;
	return MHD_queue_response(connection->mhd, status, response);
}

/* CORS: whatever the browser asks for, from wherever.  No cookie is involved;
 * the write key is what decides. */
enum MHD_Result
cdi_http_send_preflight(CdiHttpServer *server, Request *request)
{
	struct MHD_Connection *mhd = request->connection->mhd;
	struct MHD_Response *response;
	const char *headers =
		MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Access-Control-Request-Headers");
	enum MHD_Result result;

	response = MHD_create_response_from_buffer(0, (void *) "", MHD_RESPMEM_PERSISTENT);
	if (response == NULL)
		return MHD_NO;
	add_header(response, "Allow", "GET, HEAD, POST, OPTIONS");
	if (request->origin != NULL)
	{
		add_cors(response, request->origin);
		add_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
		add_header(response, "Access-Control-Allow-Headers",
				   headers ? headers : default_allow_headers);
		add_header(response, "Access-Control-Max-Age", "7200");
	}
	result = cdi_http_send(server, request->connection, MHD_HTTP_NO_CONTENT, response);
	MHD_destroy_response(response);
	return result;
}

enum MHD_Result
cdi_http_send_overload(CdiHttpServer *server, Request *request)
{
	server->stats.overloads++;
	if (request->origin != NULL)
	{
		struct MHD_Response *response;
		enum MHD_Result result;

		response = make_response(overload_body, sizeof(overload_body) - 1,
								 CDI_HTTP_RETRY_AFTER);
		if (response == NULL)
			return MHD_NO;
		add_cors(response, request->origin);
		result = cdi_http_send(server, request->connection, 503, response);
		MHD_destroy_response(response);
		return result;
	}
	return cdi_http_send(server, request->connection, 503, server->overload);
}

bool
cdi_http_make_responses(CdiHttpServer *server)
{
	server->overload = make_response(overload_body, sizeof(overload_body) - 1,
									 CDI_HTTP_RETRY_AFTER);
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
