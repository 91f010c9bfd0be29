/*
 * http.c
 *		The HTTP server of the collector, on libmicrohttpd.
 *
 * The library runs in external epoll mode: its epoll descriptor is one more
 * event in the worker's wait set, and all its work is done inside MHD_run().
 * A request that is complete is suspended and handed over; its answer resumes
 * it.  Everything here is malloc and plain C, because a longjmp through the
 * library's frames would leave it in pieces.
 *
 * Time limits are our own.  The library measures inactivity, which a client
 * that sends a byte per second never shows; here the whole request has to
 * arrive within the limit.  Every open connection that is not waiting for us
 * stands in a list ordered by deadline (all limits are the same length, so
 * appending keeps the order), and the head of the list is the only timer.
 */
#include "collect/http.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <microhttpd.h>

/*
 * Of a body that is too large as many bytes again are read and dropped, up to
 * this factor, so that the client gets to read its answer: an answer before
 * the end of the body reaches few clients.
 */
#define DISCARD_FACTOR		8

/* Short answers without headers of their own are built once. */
#define CACHED_RESPONSES	16
#define CACHED_LENGTH		160

/*
 * Headers have to fit in here; bodies pass through it.  The library clears it
 * after every request, so more than needed costs time.
 */
#define CONNECTION_MEMORY	(16 * 1024)

/* Rounds of MHD_run before the caller gets to see its requests. */
#define MAX_ROUNDS			4

typedef enum ConnectionState
{
	CONNECTION_FRESH,			/* nothing of a request seen yet */
	CONNECTION_IDLE,			/* between two requests */
	CONNECTION_RECEIVING,
	CONNECTION_WAITING,			/* for us: no deadline */
	CONNECTION_SENDING,
	CONNECTION_CLOSING			/* shut down, the library has yet to notice */
} ConnectionState;

typedef struct Request Request;

typedef struct Connection
{
	struct Connection *prev;	/* in the list of deadlines, unless waiting */
	struct Connection *next;
	bool		listed;
	ConnectionState state;
	int64_t		deadline;
	struct MHD_Connection *mhd;
	Request    *request;
} Connection;

struct Request
{
	CdiHttpRequest public;		/* first, so that one is the other */
	Connection *connection;
	size_t		capacity;		/* of public.body */
	bool		started;		/* headers seen */
	bool		overloaded;		/* body is dropped, answer is 503 */
	bool		cut;			/* mid-body: no regular answer is possible */
	bool		cached;			/* response belongs to the server */
	char	   *origin;
	int			status;
	struct MHD_Response *response;
};

typedef struct CachedResponse
{
	int			status;
	int			flags;
	size_t		length;
	char		body[CACHED_LENGTH];
	struct MHD_Response *response;
} CachedResponse;

struct CdiHttpServer
{
	struct MHD_Daemon *daemon;
	CdiHttpOptions options;
	CdiHttpStats stats;
	int			listen_fd;
	int			epoll_fd;
	int			port;
	bool		quiesced;
	bool		again;			/* the library has more to do at once */
	int64_t		now;
	Connection *first;			/* by deadline */
	Connection *last;
	CdiHttpRequest *ready_first;
	CdiHttpRequest *ready_last;
	struct MHD_Response *overload;
	CachedResponse cache[CACHED_RESPONSES];
	int			cached;
};

static const char overload_body[] =
"{\"success\":false,\"code\":\"overloaded\",\"message\":\"too many requests are waiting; send this one again\"}";

static const char too_large_body[] =
"{\"success\":false,\"code\":\"body_too_large\",\"message\":\"request body is larger than cdi.collector_max_body\"}";

static const char timeout_body[] =
"{\"success\":false,\"code\":\"timeout\",\"message\":\"request took longer than cdi.collector_timeout\"}";

/* Headers that SDKs are known to send, where the preflight names none. */
static const char default_allow_headers[] =
"Authorization, Content-Type, Content-Encoding, AnonymousId, SentAt, Rsa-Recovered, X-Retry-Count, X-Write-Key";

static int64_t
clock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * Deadlines
 */
static void
unlist(CdiHttpServer *server, Connection *connection)
{
	if (!connection->listed)
		return;
	if (connection->prev)
		connection->prev->next = connection->next;
	else
		server->first = connection->next;
	if (connection->next)
		connection->next->prev = connection->prev;
	else
		server->last = connection->prev;
	connection->prev = connection->next = NULL;
	connection->listed = false;
}

static void
set_state(CdiHttpServer *server, Connection *connection, ConnectionState state)
{
	unlist(server, connection);
	connection->state = state;
	if (state == CONNECTION_WAITING || state == CONNECTION_CLOSING)
		return;
	connection->deadline = server->now + server->options.timeout_ms;
	connection->prev = server->last;
	if (server->last)
		server->last->next = connection;
	else
		server->first = connection;
	server->last = connection;
	connection->listed = true;
}

/*
 * Write an answer past the library and shut the connection down.  Only where
 * nothing was sent for the current request yet; the library offers no answer
 * in the middle of a request.
 */
static void
cut_off(CdiHttpServer *server, Connection *connection, int status,
		const char *reason, const char *body)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection->mhd, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (info == NULL)
		return;
	if (body != NULL)
	{
		char		buffer[512];
		int			length;

		length = snprintf(buffer, sizeof(buffer),
						  "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
						  "Content-Length: %zu\r\n\r\n%s",
						  status, reason, strlen(body), body);
		if (send(info->connect_fd, buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL) == length)
			server->stats.answers[status / 100]++;
	}
	shutdown(info->connect_fd, SHUT_RDWR);
	set_state(server, connection, CONNECTION_CLOSING);
}

static void
expire(CdiHttpServer *server)
{
	while (server->first && server->first->deadline <= server->now)
	{
		Connection *connection = server->first;

		if (connection->state == CONNECTION_RECEIVING ||
			connection->state == CONNECTION_FRESH)
		{
			server->stats.timeouts++;
			cut_off(server, connection, 408, "Request Timeout", timeout_body);
		}
		else
			cut_off(server, connection, 0, NULL, NULL);
		/* Whatever became of the socket, it must not come up again here. */
		unlist(server, connection);
		server->again = true;
	}
}

/*
 * Headers
 */
static const char *
header(struct MHD_Connection *mhd, const char *name)
{
	return MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, name);
}

static int
base64_value(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
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
		int			value = base64_value((unsigned char) *encoded);

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

static void
copy_bounded(char *to, size_t size, const char *from)
{
	size_t		length = from ? strlen(from) : 0;

	if (length >= size)
		length = 0;
	memcpy(to, from ? from : "", length);
	to[length] = '\0';
}

static void
read_headers(CdiHttpServer *server, Request *request, const char *url, const char *method)
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

	if ((value = header(mhd, "Origin")) != NULL)
		request->origin = strdup(value);
	if (public->method != CDI_HTTP_POST)
		return;

	value = header(mhd, "Authorization");
	if (value != NULL && strncasecmp(value, "Basic ", 6) == 0)
	{
		public->has_user = true;
		decode_user(value + 6, public->user, sizeof(public->user));
	}
	copy_bounded(public->query_key, sizeof(public->query_key),
				 MHD_lookup_connection_value(mhd, MHD_GET_ARGUMENT_KIND, "writeKey"));
	value = header(mhd, "Content-Encoding");
	public->compressed = value != NULL &&
		(strcasecmp(value, "gzip") == 0 || strcasecmp(value, "x-gzip") == 0 ||
		 strcasecmp(value, "deflate") == 0);
	value = header(mhd, "Content-Length");
	if (value != NULL)
		public->announced = strtoull(value, NULL, 10);
	else if (header(mhd, "Transfer-Encoding") == NULL)
		public->flaw = CDI_HTTP_NO_LENGTH;
	if (public->announced > server->options.max_body)
		public->flaw = CDI_HTTP_TOO_LARGE;
	if (server->stats.pending >= server->options.max_pending)
		request->overloaded = true;
}

/*
 * Bodies
 */
static void
drop_body(CdiHttpServer *server, Request *request)
{
	free(request->public.body);
	server->stats.memory -= request->capacity;
	request->public.body = NULL;
	request->public.length = 0;
	request->capacity = 0;
}

static void
append_body(CdiHttpServer *server, Request *request, const char *data, size_t size)
{
	CdiHttpRequest *public = &request->public;
	size_t		limit = server->options.max_body;

	server->stats.body_bytes += size;
	if (request->overloaded)
		return;
	if (size > limit - public->length)
	{
		public->flaw = CDI_HTTP_TOO_LARGE;
		size = limit - public->length;
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
			drop_body(server, request);
			return;
		}
		server->stats.memory += capacity - request->capacity;
		public->body = body;
		request->capacity = capacity;
	}
	memcpy(public->body + public->length, data, size);
	public->length += size;
}

/*
 * Answers
 */
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

	drop_body(server, request);
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
static enum MHD_Result
send_response(CdiHttpServer *server, Connection *connection, int status,
			  struct MHD_Response *response)
{
	set_state(server, connection, CONNECTION_SENDING);
	server->stats.answers[status / 100]++;
	return MHD_queue_response(connection->mhd, status, response);
}

/* CORS: whatever the browser asks for, from wherever.  No cookie is involved;
 * the write key is what decides. */
static enum MHD_Result
send_preflight(CdiHttpServer *server, Request *request)
{
	struct MHD_Connection *mhd = request->connection->mhd;
	struct MHD_Response *response;
	const char *headers = header(mhd, "Access-Control-Request-Headers");
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
	result = send_response(server, request->connection, MHD_HTTP_NO_CONTENT, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
send_overload(CdiHttpServer *server, Request *request)
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
		result = send_response(server, request->connection, 503, response);
		MHD_destroy_response(response);
		return result;
	}
	return send_response(server, request->connection, 503, server->overload);
}

/*
 * Callbacks of the library
 */
static void
free_request(CdiHttpServer *server, Request *request)
{
	drop_body(server, request);
	free(request->origin);
	if (request->response != NULL && !request->cached)
		MHD_destroy_response(request->response);
	free(request);
}

static void
on_connection(void *arg, struct MHD_Connection *mhd, void **context,
			  enum MHD_ConnectionNotificationCode code)
{
	CdiHttpServer *server = arg;
	Connection *connection;

	if (code == MHD_CONNECTION_NOTIFY_STARTED)
	{
		connection = calloc(1, sizeof(Connection));
		*context = connection;
		if (connection == NULL)
			return;
		connection->mhd = mhd;
		server->stats.accepted++;
		server->stats.connections++;
		set_state(server, connection, CONNECTION_FRESH);
	}
	else if (*context != NULL)
	{
		connection = *context;
		if (connection->request != NULL)
			free_request(server, connection->request);
		unlist(server, connection);
		server->stats.connections--;
		free(connection);
		*context = NULL;
	}
}

/* The request line has arrived. */
static void *
on_request_line(void *arg, const char *uri, struct MHD_Connection *mhd)
{
	CdiHttpServer *server = arg;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	Connection *connection = info ? info->socket_context : NULL;
	Request    *request;

	if (connection == NULL)
		return NULL;
	request = calloc(1, sizeof(Request));
	if (request == NULL)
		return NULL;
	request->connection = connection;
	connection->request = request;
	set_state(server, connection, CONNECTION_RECEIVING);
	return request;
}

static void
on_completed(void *arg, struct MHD_Connection *mhd, void **context,
			 enum MHD_RequestTerminationCode code)
{
	CdiHttpServer *server = arg;
	Request    *request = *context;
	Connection *connection;

	if (request == NULL)
		return;
	*context = NULL;
	connection = request->connection;
	connection->request = NULL;
	if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK &&
		connection->state != CONNECTION_CLOSING)
		server->stats.aborts++;
	if (connection->state != CONNECTION_CLOSING)
		set_state(server, connection, CONNECTION_IDLE);
	free_request(server, request);
}

static enum MHD_Result
hand_over(CdiHttpServer *server, Request *request)
{
	set_state(server, request->connection, CONNECTION_WAITING);
	request->public.next = NULL;
	if (server->ready_last)
		server->ready_last->next = &request->public;
	else
		server->ready_first = &request->public;
	server->ready_last = &request->public;
	server->stats.pending++;
	MHD_suspend_connection(request->connection->mhd);
	return MHD_YES;
}

static enum MHD_Result
on_request(void *arg, struct MHD_Connection *mhd, const char *url,
		   const char *method, const char *version, const char *upload_data,
		   size_t *upload_data_size, void **context)
{
	CdiHttpServer *server = arg;
	Request    *request = *context;
	size_t		discard_limit = server->options.max_body * DISCARD_FACTOR;

	if (request == NULL)
		return MHD_NO;			/* out of memory */

	/* Answered? */
	if (request->connection->state == CONNECTION_WAITING)
	{
		if (request->cut || request->response == NULL)
		{
			cut_off(server, request->connection, request->status, "Content Too Large",
					request->cut && request->status == 413 ? too_large_body : NULL);
			return MHD_NO;
		}
		return send_response(server, request->connection, request->status,
							 request->response);
	}

	/* First call: the headers alone. */
	if (!request->started)
	{
		const char *expect;

		request->started = true;
		read_headers(server, request, url, method);
		expect = header(mhd, "Expect");

		/* The body has not been sent, or would take too long to skip. */
		if (request->public.flaw == CDI_HTTP_TOO_LARGE && !request->overloaded &&
			(expect != NULL || request->public.announced > discard_limit))
			return hand_over(server, request);
		return MHD_YES;
	}

	if (*upload_data_size > 0)
	{
		CdiHttpRequest *public = &request->public;

		append_body(server, request, upload_data, *upload_data_size);
		if (public->flaw == CDI_HTTP_TOO_LARGE)
		{
			/* Chunked bodies announce nothing: count what is dropped. */
			if (public->announced < public->length)
				public->announced = public->length;
			if (header(mhd, "Content-Length") == NULL)
			{
				public->announced += *upload_data_size;
				if (public->announced > discard_limit)
				{
					request->cut = true;
					*upload_data_size = 0;
					return hand_over(server, request);
				}
			}
		}
		*upload_data_size = 0;
		return MHD_YES;
	}

	/* The request is complete. */
	if (strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0)
		return send_preflight(server, request);
	if (request->overloaded)
		return send_overload(server, request);
	if (request->public.announced < request->public.length)
		request->public.announced = request->public.length;
	return hand_over(server, request);
}

static void
ignore_log(void *arg, const char *format, va_list args)
{
	/* Clients' mistakes; what concerns us comes back as an error. */
}

/*
 * Listening
 */
static int
listen_on(const CdiHttpOptions *options, int *port, char *error, size_t error_size)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM,
	.ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *list;
	struct sockaddr_storage bound;
	socklen_t	bound_size = sizeof(bound);
	const char *host = options->address;
	const char *step = "create";
	char		service[16];
	int			one = 1;
	int			zero = 0;
	int			fd = -1;
	int			result;

	if (host == NULL || host[0] == '\0' || strcmp(host, "*") == 0)
		host = NULL;
	snprintf(service, sizeof(service), "%d", options->port);
	result = getaddrinfo(host, service, &hints, &list);
	if (result != 0)
	{
		snprintf(error, error_size, "could not resolve address \"%s\": %s",
				 options->address, gai_strerror(result));
		return -1;
	}

	/* One socket: a dual-stack one where the host has IPv6 and any will do. */
	for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next)
	{
		if (host == NULL && ai->ai_family != AF_INET6 && ai->ai_next != NULL)
			continue;
		fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;

		/*
		 * Not SO_REUSEPORT: collectors of two databases with one port would
		 * share it, and each would refuse the other's write keys.
		 */
		(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (ai->ai_family == AF_INET6)
			(void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
		/* Accepted sockets inherit it. */
		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		step = "bind";
		if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0)
		{
			step = "listen on";
			if (listen(fd, SOMAXCONN) == 0)
				break;
		}
		result = errno;
		close(fd);
		errno = result;
		fd = -1;
	}
	if (fd < 0)
		snprintf(error, error_size, "could not %s socket for \"%s\", port %d: %s",
				 step, host ? host : "*", options->port, strerror(errno));
	else if (getsockname(fd, (struct sockaddr *) &bound, &bound_size) == 0)
		*port = ntohs(bound.ss_family == AF_INET6 ?
					  ((struct sockaddr_in6 *) &bound)->sin6_port :
					  ((struct sockaddr_in *) &bound)->sin_port);
	freeaddrinfo(list);
	return fd;
}

CdiHttpServer *
cdi_http_start(const CdiHttpOptions *options, char *error, size_t error_size)
{
	CdiHttpServer *server = calloc(1, sizeof(CdiHttpServer));
	const union MHD_DaemonInfo *info;

	if (server == NULL)
	{
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	server->options = *options;
	server->now = clock_ms();
	server->listen_fd = listen_on(options, &server->port, error, error_size);
	if (server->listen_fd < 0)
	{
		free(server);
		return NULL;
	}
	server->overload = make_response(overload_body, sizeof(overload_body) - 1,
									 CDI_HTTP_RETRY_AFTER);
	server->daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
						 0, NULL, NULL, on_request, server,
						 MHD_OPTION_EXTERNAL_LOGGER, ignore_log, NULL,
						 MHD_OPTION_LISTEN_SOCKET, server->listen_fd,
						 MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
						 MHD_OPTION_URI_LOG_CALLBACK, on_request_line, server,
						 MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
						 MHD_OPTION_CONNECTION_LIMIT, options->max_connections,
						 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) 0,
						 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
						 MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
						 MHD_OPTION_END);
	if (server->daemon == NULL || server->overload == NULL)
	{
		snprintf(error, error_size, "could not start the HTTP server");
		if (server->daemon != NULL)
			MHD_stop_daemon(server->daemon);
		else
			close(server->listen_fd);
		free(server);
		return NULL;
	}
	info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	server->epoll_fd = info->epoll_fd;
	return server;
}

void
cdi_http_configure(CdiHttpServer *server, const CdiHttpOptions *options)
{
	server->options = *options;
}

int
cdi_http_fd(CdiHttpServer *server)
{
	return server->epoll_fd;
}

int
cdi_http_port(CdiHttpServer *server)
{
	return server->port;
}

int
cdi_http_timeout(CdiHttpServer *server)
{
	int64_t		wait;

	if (server->again)
		return 0;
	if (server->first == NULL)
		return -1;
	wait = server->first->deadline - clock_ms();
	if (wait < 0)
		return 0;
	return wait > INT_MAX ? INT_MAX : (int) wait + 1;
}

void
cdi_http_run(CdiHttpServer *server)
{
	int			rounds = 0;

	server->now = clock_ms();
	server->again = false;
	for (;;)
	{
		MHD_UNSIGNED_LONG_LONG timeout;

		(void) MHD_run(server->daemon);
		if (MHD_get_timeout(server->daemon, &timeout) != MHD_YES || timeout > 0)
			break;
		if (++rounds == MAX_ROUNDS)
		{
			server->again = true;
			break;
		}
	}
	expire(server);
}

CdiHttpRequest *
cdi_http_next(CdiHttpServer *server)
{
	CdiHttpRequest *request = server->ready_first;

	if (request != NULL)
	{
		server->ready_first = request->next;
		if (server->ready_first == NULL)
			server->ready_last = NULL;
		request->next = NULL;
	}
	return request;
}

const CdiHttpStats *
cdi_http_stats(CdiHttpServer *server)
{
	return &server->stats;
}

void
cdi_http_quiesce(CdiHttpServer *server)
{
	if (server->quiesced)
		return;
	server->quiesced = true;
	if (MHD_quiesce_daemon(server->daemon) != MHD_INVALID_SOCKET)
		close(server->listen_fd);
}

bool
cdi_http_busy(CdiHttpServer *server)
{
	if (server->stats.pending > 0)
		return true;
	for (Connection *connection = server->first; connection; connection = connection->next)
		if (connection->state == CONNECTION_RECEIVING ||
			connection->state == CONNECTION_SENDING)
			return true;
	return false;
}

void
cdi_http_stop(CdiHttpServer *server)
{
	MHD_stop_daemon(server->daemon);
	for (int i = 0; i < server->cached; i++)
		MHD_destroy_response(server->cache[i].response);
	MHD_destroy_response(server->overload);
	free(server);
}
