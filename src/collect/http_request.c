/*
 * http_request.c
 *		Requests as they arrive: their headers and bodies.
 *
 * A body is kept up to the limit and the rest dropped, so that what was
 * refused can be shown.  Memory is taken as bytes come, not as they are
 * announced, and no more for all bodies together than max_memory.
 */
#include <stdlib.h>
#include <string.h>

#include "collect/base64.h"
#include "collect/http_private.h"

static const char *
header(struct MHD_Connection *mhd, const char *name)
{
	return MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, name);
}

const char *
cdi_http_header(const CdiHttpRequest *request, const char *name)
{
	return header(((const Request *) request)->connection->mhd, name);
}

bool
cdi_http_secure(const CdiHttpRequest *request)
{
	return MHD_get_connection_info(((const Request *) request)->connection->mhd,
								   MHD_CONNECTION_INFO_GNUTLS_SESSION) != NULL;
}

/* User name of Basic credentials: up to the first colon, or all of it. */
static void
decode_user(const char *encoded, char *user, size_t size)
{
	uint32_t	bits = 0;
	int			nbits = 0;
	size_t		length = 0;

	while (*encoded == ' ')
		encoded++;
	for (; *encoded != '\0' && *encoded != '=' && *encoded != ' '; encoded++)
	{
		int			value = cdi_base64_digit(*encoded);

		if (value < 0)
		{
			user[0] = '\0';
			return;
		}
		bits = (bits << 6) | (uint32_t) value;
		nbits += 6;
		if (nbits >= 8)
		{
			char		c = (char) ((bits >> (nbits - 8)) & 0xff);

			nbits -= 8;
			if (c == ':')
				break;
			if (c == '\0' || length + 1 >= size)
			{
				user[0] = '\0';
				return;
			}
			user[length++] = c;
		}
	}
	user[length] = '\0';
}

void
cdi_http_read_headers(CdiHttpServer *server, Request *request, const char *url, const char *method)
{
	struct MHD_Connection *mhd = request->connection->mhd;
	CdiHttpRequest *public = &request->public;
	const char *value;
	size_t		length = strlen(url);

	if (strcmp(method, MHD_HTTP_METHOD_POST) == 0)
		public->method = CDI_HTTP_POST;
	else if (strcmp(method, MHD_HTTP_METHOD_GET) == 0)
		public->method = CDI_HTTP_GET;
	else if (strcmp(method, MHD_HTTP_METHOD_HEAD) == 0)
		public->method = CDI_HTTP_HEAD;
	else
		public->method = CDI_HTTP_OTHER;

	while (length > 1 && url[length - 1] == '/')
		length--;
	if (length < sizeof(public->path))
	{
		memcpy(public->path, url, length);
		public->path[length] = '\0';
	}

	public->origin = header(mhd, "Origin");
	value = header(mhd, "Authorization");
	if (value != NULL && strncasecmp(value, "Basic ", 6) == 0)
	{
		public->has_user = true;
		decode_user(value + 6, public->user, sizeof(public->user));
	}
	value = header(mhd, "Content-Encoding");
	public->compressed = value != NULL &&
		(strcasecmp(value, "gzip") == 0 || strcasecmp(value, "x-gzip") == 0 ||
		 strcasecmp(value, "deflate") == 0);
	value = header(mhd, "Content-Length");
	public->has_length = value != NULL;
	if (value != NULL)
		public->announced = strtoull(value, NULL, 10);
	else if (public->method == CDI_HTTP_POST && header(mhd, "Transfer-Encoding") == NULL)
		public->flaw = CDI_HTTP_NO_LENGTH;
	if (public->announced > server->options.max_body)
		public->flaw = CDI_HTTP_TOO_LARGE;
	/* Who watches us is answered all the more when we are busy. */
	if (server->stats.pending >= server->options.max_pending &&
		strcmp(public->path, "/health") != 0 && strcmp(public->path, "/metrics") != 0)
		request->overloaded = true;
}

void
cdi_http_drop_body(CdiHttpServer *server, Request *request)
{
	free(request->public.body);
	server->stats.memory -= request->capacity;
	request->public.body = NULL;
	request->public.length = 0;
	request->capacity = 0;
}

void
cdi_http_append_body(CdiHttpServer *server, Request *request, const char *data, size_t size)
{
	CdiHttpRequest *public = &request->public;
	size_t		limit = server->options.max_body;
	size_t		room;

	server->stats.body_bytes += size;
	if (request->overloaded)
		return;
	/* A reload may have lowered the limit below what is here already. */
	room = public->length < limit ? limit - public->length : 0;
	if (size > room)
	{
		public->flaw = CDI_HTTP_TOO_LARGE;
		size = room;
	}
	if (public->length + size > request->capacity)
	{
		size_t		capacity = request->capacity * 2;
		char	   *body;

		/* Trust an announced length only as far as it costs little. */
		if (capacity == 0)
			capacity = public->announced < 65536 ? (size_t) public->announced : 65536;
		if (capacity < public->length + size)
			capacity = public->length + size;
		if (capacity > limit)
			capacity = limit;
		body = NULL;
		if (server->stats.memory + capacity - request->capacity <= server->options.max_memory)
			body = realloc(public->body, capacity);
		if (body == NULL)
		{
			request->overloaded = true;
			cdi_http_drop_body(server, request);
			return;
		}
		server->stats.memory += capacity - request->capacity;
		public->body = body;
		request->capacity = capacity;
	}
	if (size > 0)
		memcpy(public->body + public->length, data, size);
	public->length += size;
}
