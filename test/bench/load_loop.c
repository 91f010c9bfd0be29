/*
 * load_loop.c
 *		Connections, what is posted on them and the answers (load.h).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define OPENING_AT_ONCE	256		/* idle connections; fewer than any backlog */
#define NO_REQUEST		UINT64_MAX

static const char health[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

typedef struct Connection
{
	int			fd;				/* -1 while it is closed */
	bool		idle;			/* one of those that are only held */
	bool		busy;			/* a request is on its way */
	bool		answered;		/* idle: the present question was answered */
	uint64_t	request;		/* number of the request in hand, or NO_REQUEST */
	int64_t		since;			/* latency counts from here */
	int64_t		sent_at;
	int64_t		resume_at;		/* paused until then */
	char	   *unsent;			/* the rest of a request that did not fit */
	size_t		unsent_length;
	char	   *partial;		/* the beginning of an answer */
	size_t		partial_length;
	struct Connection *next;	/* free or paused */
} Connection;

static int	epoll_fd;
static Connection *connections; /* those that post, and then the idle ones */
static Connection *free_first;	/* open loop: nothing to do */
static Connection *paused_first;	/* all pauses are equally long: a queue */
static Connection *paused_last;
static uint64_t started;		/* requests */
static int	in_flight;			/* connections with a request in hand */
static int64_t begun;
static int64_t deadline;
static size_t latency_capacity;

static void start_next(Connection *connection, int64_t now);

static int64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

static void
write_digits(char *to, uint64_t number)
{
	for (int i = ID_DIGITS - 1; i >= 0; i--)
	{
		to[i] = '0' + number % 10;
		number /= 10;
	}
}

/*
 * Connections
 */
static void
open_connection(Connection *connection)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons(options.port)};
	static const char control[] = "reno";
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,.data.ptr = connection};
	int			one = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connection->fd < 0)
		die("socket");
	setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* Nothing to avoid on a loopback: others pace what is sent by timers. */
	setsockopt(connection->fd, IPPROTO_TCP, TCP_CONGESTION, control, sizeof(control) - 1);
	if (connect(connection->fd, (struct sockaddr *) &address, sizeof(address)) < 0 && errno != EINPROGRESS)
	{
		/* No local port left: the next attempt may find one. */
		if (errno != ECONNREFUSED && errno != EADDRNOTAVAIL && errno != ECONNRESET)
			die("connect");
	}
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0)
		die("epoll_ctl");
}

static void
forget_io(Connection *connection)
{
	free(connection->unsent);
	free(connection->partial);
	connection->unsent = connection->partial = NULL;
	connection->unsent_length = connection->partial_length = 0;
	connection->busy = false;
}

static void
close_connection(Connection *connection)
{
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = -1;
	forget_io(connection);
}

static void
pause_connection(Connection *connection, int64_t now)
{
	connection->resume_at = now + options.pause;
	connection->next = NULL;
	if (paused_last)
		paused_last->next = connection;
	else
		paused_first = connection;
	paused_last = connection;
}

/* The request in hand has ended, one way or the other. */
static void
finish(Connection *connection, int64_t now)
{
	connection->request = NO_REQUEST;
	in_flight--;
	start_next(connection, now);
}

static void
broken(Connection *connection, int64_t now)
{
	bool		asked = connection->busy;

	close_connection(connection);
	if (connection->idle)
	{
		stats.idle_lost++;
		return;
	}
	if (connection->request == NO_REQUEST)
		return;					/* closed between two requests: no loss */
	if (asked)
		stats.resets++;
	if (options.retry)
		stats.retries++;
	else
	{
		stats.unanswered++;
		connection->request = NO_REQUEST;
		in_flight--;
	}
	pause_connection(connection, now);
}

/* Bytes for the server; what it does not take at once is kept. */
static bool
send_bytes(Connection *connection, const char *bytes, size_t length, int64_t now)
{
	ssize_t		sent = send(connection->fd, bytes, length, MSG_NOSIGNAL);

	connection->busy = true;
	connection->sent_at = now;
	if (sent == (ssize_t) length)
		return true;
	if (sent < 0)
	{
		/* ENOTCONN: it is being opened */
		if (errno != EAGAIN && errno != ENOTCONN)
			return false;
		sent = 0;
	}
	connection->unsent_length = length - sent;
	connection->unsent = allocate(connection->unsent_length);
	memcpy(connection->unsent, bytes + sent, connection->unsent_length);
	return true;
}

static void
post(Connection *connection, int64_t now)
{
	Template   *template = &templates[connection->request % ntemplates];

	for (int i = 0; i < options.events; i++)
		write_digits(template->bytes + template->ids[i], connection->request * options.events + i);
	if (connection->fd < 0)
		open_connection(connection);
	stats.sent++;
	if (!send_bytes(connection, template->bytes, template->length, now))
		broken(connection, now);
}

/* What the connection does next, where it has nothing in hand. */
static void
start_next(Connection *connection, int64_t now)
{
	int64_t		due = now;

	if (options.rate > 0)
	{
		due = begun + (int64_t) (started / options.rate * SECOND);
		if (due > now && due < deadline)
		{
			connection->next = free_first;
			free_first = connection;
			return;
		}
	}
	if (due >= deadline)
		return;
	connection->request = started++;
	connection->since = due;
	in_flight++;
	post(connection, now);
}

/*
 * Answers
 */
static void
note_latency(int64_t ns)
{
	if (stats.nlatencies == latency_capacity)
	{
		latency_capacity = latency_capacity ? latency_capacity * 2 : 65536;
		stats.latencies = realloc(stats.latencies, sizeof(uint32_t) * latency_capacity);
		if (stats.latencies == NULL)
			die("memory");
	}
	stats.latencies[stats.nlatencies++] = ns / 1000 > UINT32_MAX ? UINT32_MAX : ns / 1000;
}

/* The counts of an acknowledgement; others than cdi give none. */
static void
parse_outcomes(const char *body, size_t length, uint64_t *outcome)
{
	const char *at = body;

	memset(outcome, 0, sizeof(uint64_t) * OUTCOMES);
	for (int i = 0; i < OUTCOMES; i++)
	{
		size_t		name = strlen(outcomes[i]);

		at = memmem(at, length - (at - body), outcomes[i], name);
		if (at == NULL)
			return;
		at += name;
		if (at + 2 < body + length && at[0] == '"' && at[1] == ':')
			outcome[i] = strtoull(at + 2, NULL, 10);
	}
}

static void
acknowledged(Connection *connection, int64_t now)
{
	stats.requests++;
	stats.acknowledged += options.events;
	note_latency(now - connection->since);
	if (options.ids != NULL)
		for (int i = 0; i < options.events; i++)
			fprintf(options.ids, "%s-%0*" PRIu64 "\n", options.tag, ID_DIGITS,
					connection->request * options.events + i);
}

static void
answered(Connection *connection, int status, bool closes, const char *data, int64_t now)
{
	if (status >= 400 && status < 500 && status != 429 && stats.refusal[0] == '\0')
		snprintf(stats.refusal, sizeof(stats.refusal), "%s", strstr(data, "\r\n\r\n") + 4);
	forget_io(connection);
	if (closes)
		close_connection(connection);
	if (connection->idle)
	{
		connection->answered = status == 200;
		if (status != 200 || closes)
			stats.idle_lost++;
		return;
	}
	stats.status[status]++;
	if (status >= 200 && status < 300)
		acknowledged(connection, now);
	else if (options.retry && (status == 429 || status == 408 || status >= 500))
	{
		stats.retries++;
		pause_connection(connection, now);
		return;
	}
	else
		stats.refused++;
	finish(connection, now);
}

/*
 * The last answer and what it says.  Most are the same, byte for byte, so that
 * few have to be read.
 */
typedef struct Answer
{
	char		bytes[1024];
	size_t		length;			/* 0: longer than that */
	int			status;
	bool		closes;
	uint64_t	outcome[OUTCOMES];
} Answer;

/* Length of the whole answer where it is all there, else 0. */
static size_t
parse_answer(char *data, size_t length, int *status, bool *closes)
{
	char	   *end;
	char	   *field;
	size_t		head;
	size_t		body = 0;

	if (length < 12 || (end = memmem(data, length, "\r\n\r\n", 4)) == NULL)
		return 0;
	head = end + 4 - data;
	*status = atoi(data + 9);
	if (*status < 100 || *status > 599)
		*status = 599;
	*end = '\0';
	*closes = false;
	for (field = strchr(data, '\n'); field != NULL; field = strchr(field + 1, '\n'))
	{
		if (strncasecmp(field + 1, "Content-Length:", 15) == 0)
			body = strtoull(field + 16, NULL, 10);
		else if (strncasecmp(field + 1, "Connection: close", 17) == 0)
			*closes = true;
	}
	*end = '\r';
	return length >= head + body ? head + body : 0;
}

/* What an answer says; false where it is not all there. */
static bool
read_answer(char *data, size_t length, Answer *answer)
{
	int			status;
	bool		closes;

	if (parse_answer(data, length, &status, &closes) == 0)
		return false;
	answer->status = status;
	answer->closes = closes;
	parse_outcomes(data, length, answer->outcome);
	answer->length = length <= sizeof(answer->bytes) ? length : 0;
	memcpy(answer->bytes, data, answer->length);
	return true;
}

static void
receive(Connection *connection, int64_t now)
{
	static char buffer[65536];
	static Answer answer;
	char	   *data = buffer;
	ssize_t		length;

	length = recv(connection->fd, buffer, sizeof(buffer) - 1, 0);
	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0 || !connection->busy)
	{
		broken(connection, now);
		return;
	}
	if (connection->partial != NULL)
	{
		data = connection->partial = realloc(connection->partial, connection->partial_length + length + 1);
		if (data == NULL)
			die("memory");
		memcpy(data + connection->partial_length, buffer, length);
		length += connection->partial_length;
	}
	data[length] = '\0';
	if (((size_t) length != answer.length || memcmp(data, answer.bytes, length) != 0) &&
		!read_answer(data, length, &answer))
	{
		if (connection->partial == NULL)
		{
			connection->partial = allocate(length + 1);
			memcpy(connection->partial, buffer, length);
		}
		connection->partial_length = length;
		/* Edge-triggered: there may be more already. */
		receive(connection, now);
		return;
	}
	if (answer.status == 200 && !connection->idle)
		for (int i = 0; i < OUTCOMES; i++)
			stats.outcome[i] += answer.outcome[i];
	answered(connection, answer.status, answer.closes, data, now);
}

static void
on_event(Connection *connection, uint32_t events, int64_t now)
{
	if (connection->fd < 0)
		return;					/* closed by an earlier event of this round */
	if ((events & EPOLLOUT) && connection->unsent != NULL)
	{
		ssize_t		sent = send(connection->fd, connection->unsent, connection->unsent_length, MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
		{
			broken(connection, now);
			return;
		}
		if (sent > 0)
		{
			connection->unsent_length -= sent;
			memmove(connection->unsent, connection->unsent + sent, connection->unsent_length);
		}
		if (connection->unsent_length == 0)
		{
			free(connection->unsent);
			connection->unsent = NULL;
		}
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		receive(connection, now);
}

/*
 * The loop
 */
static void
wait_for_events(int64_t until)
{
	struct epoll_event events[512];
	int64_t		now = clock_ns();
	int64_t		left = until > now ? until - now : 0;
	struct timespec timeout = {.tv_sec = left / SECOND,.tv_nsec = left % SECOND};
	int			n = epoll_pwait2(epoll_fd, events, 512, &timeout, NULL);

	if (n < 0 && errno != EINTR)
		die("epoll_pwait2");
	now = clock_ns();
	for (int i = 0; i < n; i++)
		on_event(events[i].data.ptr, events[i].events, now);
}

static void
run_timers(int64_t now)
{
	static int64_t looked_at = 0;

	while (paused_first != NULL && paused_first->resume_at <= now)
	{
		Connection *connection = paused_first;

		paused_first = connection->next;
		if (paused_first == NULL)
			paused_last = NULL;
		if (connection->request != NO_REQUEST)
			post(connection, now);
		else
			start_next(connection, now);
	}
	while (options.rate > 0 && free_first != NULL && now < deadline &&
		   begun + (int64_t) (started / options.rate * SECOND) <= now)
	{
		Connection *connection = free_first;

		free_first = connection->next;
		start_next(connection, now);
	}
	if (now - looked_at < SECOND)
		return;
	looked_at = now;
	for (int i = 0; i < options.connections; i++)
		if (connections[i].busy && now - connections[i].sent_at > options.timeout * SECOND)
			broken(&connections[i], now);
}

void
post_events(void)
{
	int64_t		now = begun = clock_ns();

	deadline = begun + (int64_t) (options.seconds * SECOND);
	for (int i = 0; i < options.connections; i++)
		start_next(&connections[i], now);
	for (;;)
	{
		int64_t		until;

		now = clock_ns();
		if (stop && deadline > now)
			deadline = now;
		run_timers(now);
		if (now >= deadline &&
			(in_flight == 0 || now > deadline + (int64_t) (options.give_up * SECOND)))
			break;
		until = now + SECOND / 4;
		if (now < deadline && deadline < until)
			until = deadline;
		if (paused_first != NULL && paused_first->resume_at < until)
			until = paused_first->resume_at;
		if (options.rate > 0 && free_first != NULL && now < deadline)
		{
			int64_t		due = begun + (int64_t) (started / options.rate * SECOND);

			if (due < until)
				until = due;
		}
		wait_for_events(until);
	}
	stats.unanswered += in_flight;
	stats.seconds = (clock_ns() - begun) / 1e9;
}

int
ask_idle(bool opening)
{
	Connection *idle = connections + options.connections;
	int64_t		end = clock_ns() + 30 * SECOND;
	int			waiting = 0;
	int			asked = 0;
	int			first = 0;
	int			answering = 0;

	for (int i = 0; i < options.idle; i++)
		idle[i].answered = false;
	while ((asked < options.idle || waiting > 0) && clock_ns() < end)
	{
		while (asked < options.idle && waiting < OPENING_AT_ONCE)
		{
			Connection *connection = &idle[asked++];

			waiting++;
			if (opening)
				open_connection(connection);
			if (connection->fd >= 0 &&
				!send_bytes(connection, health, sizeof(health) - 1, clock_ns()))
				broken(connection, clock_ns());
		}
		wait_for_events(clock_ns() + SECOND / 10);
		while (first < asked && !idle[first].busy)
			first++;
		waiting = 0;
		for (int i = first; i < asked; i++)
			waiting += idle[i].busy;
	}
	for (int i = 0; i < options.idle; i++)
		answering += idle[i].answered;
	return answering;
}

void
open_connections(void)
{
	if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		die("epoll_create1");
	connections = allocate(sizeof(Connection) * (options.connections + options.idle));
	for (int i = 0; i < options.connections + options.idle; i++)
	{
		connections[i].fd = -1;
		connections[i].request = NO_REQUEST;
		connections[i].idle = i >= options.connections;
	}
}
