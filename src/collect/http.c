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

#include "collect/http_private.h"

/*
 * Of a body that is too large as many bytes again are read and dropped, up to
 * this factor, so that the client gets to read its answer: an answer before
 * the end of the body reaches few clients.
 */
#define DISCARD_FACTOR		8

/*
 * Headers have to fit in here; bodies pass through it.  The library clears it
 * after every request, so more than needed costs time.
 */
#define CONNECTION_MEMORY	(16 * 1024)

/* TLS 1.2 and 1.3, with forward secrecy. */
static const char tls_priorities[] =
"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA";

/* Rounds of MHD_run before the caller gets to see its requests. */
#define MAX_ROUNDS			4

/* Rounds of accepting what waits, before no more is accepted. */
#define MAX_LAST_ROUNDS		1000

/* How long who has just connected may take to send, once we end. */
#define PATIENCE_MS			300

static const char too_large_body[] =
"{\"success\":false,\"code\":\"body_too_large\",\"message\":\"request body is larger than cdi.collector_max_body\"}";

static const char timeout_body[] =
"{\"success\":false,\"code\":\"timeout\",\"message\":\"request took longer than cdi.collector_timeout\"}";

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

void
cdi_http_set_state(CdiHttpServer *server, Connection *connection, ConnectionState state)
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
	/* Under TLS nothing can be written past the library. */
	if (body != NULL && !server->tls)
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
	cdi_http_set_state(server, connection, CONNECTION_CLOSING);
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
 * Callbacks of the library
 */
static void
free_request(CdiHttpServer *server, Request *request)
{
	cdi_http_drop_body(server, request);
	free(request->query);
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
		connection->server = server;
		connection->mhd = mhd;
		server->stats.accepted++;
		server->stats.connections++;
		cdi_http_set_state(server, connection, CONNECTION_FRESH);
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
	request->query = strchr(uri, '?') ? strdup(strchr(uri, '?') + 1) : NULL;
	request->public.query = request->query ? request->query : "";
	request->connection = connection;
	cdi_http_check_target(request, uri);
	connection->request = request;
	cdi_http_set_state(server, connection, CONNECTION_RECEIVING);
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
		cdi_http_set_state(server, connection, CONNECTION_IDLE);
	free_request(server, request);
}

static enum MHD_Result
hand_over(CdiHttpServer *server, Request *request)
{
	cdi_http_set_state(server, request->connection, CONNECTION_WAITING);
	request->public.next = NULL;
	if (server->ready_last)
		server->ready_last->next = &request->public;
	else
		server->ready_first = &request->public;
	server->ready_last = &request->public;
	server->stats.pending++;

	/*
	 * A time limit of its own puts the connection on the list that the library
	 * works through before it reads again.  Otherwise it would first see that
	 * the client has shut down its side, and drop the answer.  The answer
	 * takes the limit back, so the list is short.
	 */
	(void) MHD_set_connection_option(request->connection->mhd,
									 MHD_CONNECTION_OPTION_TIMEOUT, UINT_MAX / 2000);
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
		if (request->status == 0)
			return MHD_YES;		/* not yet */
		if (request->cut || request->response == NULL)
		{
			cut_off(server, request->connection, request->status, "Content Too Large",
					request->cut && request->status == 413 ? too_large_body : NULL);
			return MHD_NO;
		}
		return cdi_http_send(server, request->connection, request->status,
							 request->response);
	}

	/* First call: the headers alone. */
	if (!request->started)
	{
		const char *expect;
		const char *wrong;
		int			status;

		request->started = true;
		wrong = cdi_http_check_head(server, request, method, url, version, &status);
		if (wrong != NULL)
			return cdi_http_send_malformed(server, request, status, wrong);
		cdi_http_read_headers(server, request, cdi_http_target_path(url), method);
		expect = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Expect");

		/* The body has not been sent, or would take too long to skip. */
		if (request->public.flaw == CDI_HTTP_TOO_LARGE && !request->overloaded &&
			(expect != NULL || request->public.announced > discard_limit))
			return hand_over(server, request);
		return MHD_YES;
	}

	if (*upload_data_size > 0)
	{
		CdiHttpRequest *public = &request->public;

		cdi_http_append_body(server, request, upload_data, *upload_data_size);
		if (public->flaw == CDI_HTTP_TOO_LARGE)
		{
			/* Chunked bodies announce nothing: count what is dropped. */
			if (public->announced < public->length)
				public->announced = public->length;
			if (!public->has_length)
			{
				public->announced += *upload_data_size;
				if (public->announced > discard_limit)
				{
					/*
					 * The data is left as not consumed: otherwise the library
					 * would go on with the next piece, suspended or not.
					 */
					request->cut = true;
					return hand_over(server, request);
				}
			}
		}
		*upload_data_size = 0;
		return MHD_YES;
	}

	/* The request is complete. */
	if (strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0)
		return cdi_http_send_preflight(server, request);
	if (request->overloaded)
		return cdi_http_send_overload(server, request);
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
	union
	{
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	}			bound;
	socklen_t	bound_size = sizeof(bound);
	const char *host = options->address;
	const char *step = "create";
	char		service[16];
	int			one = 1;
	int			zero = 0;
	int			fd = -1;
	int			result;

	memset(&bound, 0, sizeof(bound));
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

		(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (options->join)
			(void) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (ai->ai_family == AF_INET6)
			(void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
		/* Accepted sockets inherit it. */
		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		step = "bind";
		if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0)
		{
			/*
			 * Only from here on others may join.  A socket that is bound with
			 * SO_REUSEPORT would join whoever of this user is there: the
			 * collector of another database, which knows none of our keys.
			 */
			(void) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
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
	else if (getsockname(fd, &bound.any, &bound_size) == 0)
		*port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
	freeaddrinfo(list);
	return fd;
}

CdiHttpServer *
cdi_http_start(const CdiHttpOptions *options, char *error, size_t error_size)
{
	CdiHttpServer *server = calloc(1, sizeof(CdiHttpServer));
	const union MHD_DaemonInfo *info;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_CERT_CALLBACK, 0, options->tls_retrieve},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *) tls_priorities},
		{MHD_OPTION_END, 0, NULL}
	};

	if (server == NULL)
	{
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	cdi_http_configure(server, options);
	server->now = clock_ms();
	server->tls = options->tls_retrieve != NULL;
	server->shows_gaps = cdi_http_shows_gaps();
	server->listen_fd = listen_on(options, &server->port, error, error_size);
	if (server->listen_fd < 0)
	{
		free(server);
		return NULL;
	}
	if (cdi_http_make_responses(server))
		server->daemon =
			MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
							 (server->tls ? MHD_USE_TLS : 0),
							 0, NULL, NULL, on_request, server,
							 MHD_OPTION_EXTERNAL_LOGGER, ignore_log, NULL,
							 MHD_OPTION_LISTEN_SOCKET, server->listen_fd,
							 MHD_OPTION_ARRAY, server->tls ? tls : &tls[2],
							 MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
							 MHD_OPTION_URI_LOG_CALLBACK, on_request_line, server,
							 MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
							 MHD_OPTION_CONNECTION_LIMIT, options->max_connections,
							 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) 0,
							 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
							 MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
							 MHD_OPTION_STRICT_FOR_CLIENT, server->shows_gaps ? 0 : 1,
							 MHD_OPTION_END);
	if (server->daemon == NULL)
	{
		snprintf(error, error_size, "could not start the HTTP server");
		cdi_http_free_responses(server);
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
	char		error[128];

	server->options = *options;
	/* Who sets it has checked it; of a list that is wrong nobody is trusted. */
	(void) cdi_networks_parse(options->trusted_proxies ? options->trusted_proxies : "",
							  &server->trusted_proxies, error, sizeof(error));
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
	uint64_t	accepted;

	if (server->quiesced)
		return;

	/*
	 * What the kernel has accepted for this socket and we have not would be
	 * reset.  What connects between the last look and close() still is.
	 */
	for (int round = 0; round < MAX_LAST_ROUNDS; round++)
	{
		accepted = server->stats.accepted;
		(void) MHD_run(server->daemon);
		if (server->stats.accepted == accepted)
			break;
	}
	server->quiesced = true;
	server->patience = clock_ms() + PATIENCE_MS;
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
			connection->state == CONNECTION_SENDING ||
			(connection->state == CONNECTION_FRESH && clock_ms() < server->patience))
			return true;
	return false;
}

void
cdi_http_stop(CdiHttpServer *server)
{
	MHD_stop_daemon(server->daemon);
	cdi_http_free_responses(server);
	free(server);
}
