/*
 * load.c
 *		Posts events to a collector over HTTP and says what became of them.
 *
 *		cc -O2 -o build/bench/load test/bench/load.c
 *		load [options] PORT WRITE_KEY CALLS
 *
 * CALLS has one call per line, "type<TAB>members", without its message id and
 * opening brace.  Every event gets a message id of its own, "TAG-" and twelve
 * digits: the bytes of a request are made once per call and only the digits
 * change, so that this program takes little of the processor that it shares
 * with what it measures.  One thread, one epoll descriptor, and per request
 * one send() and one recv().
 *
 * A closed loop posts on each connection as soon as it has its answer.  With
 * --rate, requests are due at fixed times whatever the server does, and their
 * latency counts from then on, waiting for a free connection included.
 *
 * With --retry a request that was refused for now (429, 5xx) or whose
 * connection broke is posted again with the same message ids, until it is
 * acknowledged or refused for good.
 *
 * --idle opens that many more connections first, has one request answered on
 * each, leaves them alone, and at the end has another one answered on each.
 *
 * SIGTERM ends the posting early; what is on its way is then finished.
 * Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ID_DIGITS		12
#define SECOND			INT64_C(1000000000)
#define MILLISECOND		INT64_C(1000000)
#define OPENING_AT_ONCE	256		/* idle connections; fewer than any backlog */
#define NO_REQUEST		UINT64_MAX

static const char health[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/* The bytes of a request; ids are the places of the digits. */
typedef struct Template
{
	char	   *bytes;
	size_t		length;
	size_t	   *ids;
} Template;

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

static struct
{
	int			port;
	const char *key;
	const char *tag;
	int			connections;
	int			idle;
	int			events;
	double		seconds;
	double		rate;			/* 0: closed loop */
	double		timeout;
	double		give_up;		/* after the end, for what is on its way */
	int64_t		pause;			/* before another attempt */
	bool		retry;
	FILE	   *ids;
	int			watch;			/* whose memory to report */
} options = {.tag = "load",.connections = 64,.events = 1,.seconds = 4,
	.timeout = 20,.give_up = 20,.pause = 50 * MILLISECOND};

static struct
{
	uint64_t	sent;
	uint64_t	acknowledged;	/* events */
	uint64_t	requests;		/* that were acknowledged */
	uint64_t	refused;		/* for good, or without --retry */
	uint64_t	unanswered;
	uint64_t	retries;
	uint64_t	resets;
	uint64_t	status[600];
	uint64_t	outcome[5];		/* of events, as the answers say */
	uint64_t	idle_lost;
	uint64_t	idle_answering;
	char		refusal[512];	/* body of the first */
	long		rss_before;		/* kB, of the process watched */
	long		rss_idle;
} stats;

static const char *const outcomes[] = {"received", "stored", "duplicate", "failed", "withheld"};

static int	epoll_fd;
static Template *templates;
static size_t ntemplates;
static Connection *connections;
static Connection *free_first;	/* open loop: nothing to do */
static Connection *paused_first;	/* all pauses are equally long: a queue */
static Connection *paused_last;
static uint64_t started;		/* requests */
static int	in_flight;			/* connections with a request in hand */
static int64_t begun;
static int64_t deadline;
static uint32_t *latencies;		/* microseconds */
static size_t nlatencies;
static size_t latency_capacity;
static volatile sig_atomic_t stop;

static void start_next(Connection *connection, int64_t now);

static void
die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void *
allocate(size_t size)
{
	void	   *result = calloc(1, size);

	if (result == NULL)
		die("memory");
	return result;
}

static int64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/*
 * Requests
 */
static char *
base64(const char *text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t		length = strlen(text);
	char	   *result = allocate(length * 2 + 8);
	size_t		n = 0;

	for (size_t i = 0; i < length; i += 3)
	{
		unsigned char a = text[i];
		unsigned char b = i + 1 < length ? text[i + 1] : 0;
		unsigned char c = i + 2 < length ? text[i + 2] : 0;

		result[n++] = digits[a >> 2];
		result[n++] = digits[(a & 3) << 4 | b >> 4];
		result[n++] = i + 1 < length ? digits[(b & 15) << 2 | c >> 6] : '=';
		result[n++] = i + 2 < length ? digits[c & 63] : '=';
	}
	return result;
}

/* One request with the calls from lines[first] on, and zeros as digits. */
static void
make_template(Template *template, char **lines, size_t nlines, size_t first, const char *authorization)
{
	char	   *type = lines[first];
	char	   *head;
	char	   *body;
	size_t		length = 0;
	size_t		body_length;
	FILE	   *out = open_memstream(&body, &body_length);

	template->ids = allocate(sizeof(size_t) * options.events);
	if (options.events > 1)
		fputs("{\"batch\":[", out);
	for (int i = 0; i < options.events; i++)
	{
		char	   *line = lines[(first + i) % nlines];

		fprintf(out, "%s{\"messageId\":\"%s-", i > 0 ? "," : "", options.tag);
		fflush(out);
		template->ids[i] = body_length;
		fprintf(out, "%0*d\",", ID_DIGITS, 0);
		if (options.events > 1)
			fprintf(out, "\"type\":\"%.*s\",", (int) strcspn(line, "\t"), line);
		fputs(strchr(line, '\t') + 1, out);
	}
	if (options.events > 1)
		fputs("]}", out);
	fclose(out);

	if (asprintf(&head, "POST /v1/%.*s HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: application/json\r\n"
				 "Authorization: Basic %s\r\nContent-Length: %zu\r\n\r\n",
				 options.events > 1 ? 5 : (int) strcspn(type, "\t"), options.events > 1 ? "batch" : type,
				 options.port, authorization, body_length) < 0)
		die("memory");
	length = strlen(head);
	template->length = length + body_length;
	template->bytes = allocate(template->length);
	memcpy(template->bytes, head, length);
	memcpy(template->bytes + length, body, body_length);
	for (int i = 0; i < options.events; i++)
		template->ids[i] += length;
	free(head);
	free(body);
}

static void
read_calls(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char	  **lines = NULL;
	char	   *line = NULL;
	char	   *user;
	char	   *authorization;
	size_t		size = 0;
	size_t		n = 0;
	ssize_t		length;

	if (file == NULL)
		die(path);
	while ((length = getline(&line, &size, file)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if (strchr(line, '\t') == NULL)
			continue;
		lines = realloc(lines, sizeof(char *) * (n + 1));
		lines[n++] = strdup(line);
	}
	fclose(file);
	free(line);
	if (n == 0)
	{
		errno = EINVAL;
		die(path);
	}
	if (asprintf(&user, "%s:", options.key) < 0)
		die("memory");
	authorization = base64(user);
	ntemplates = (n + options.events - 1) / options.events;
	templates = allocate(sizeof(Template) * ntemplates);
	for (size_t i = 0; i < ntemplates; i++)
		make_template(&templates[i], lines, n, i * options.events, authorization);
	for (size_t i = 0; i < n; i++)
		free(lines[i]);
	free(lines);
	free(user);
	free(authorization);
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
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,.data.ptr = connection};
	int			one = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connection->fd < 0)
		die("socket");
	setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
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
	if (nlatencies == latency_capacity)
	{
		latency_capacity = latency_capacity ? latency_capacity * 2 : 65536;
		latencies = realloc(latencies, sizeof(uint32_t) * latency_capacity);
		if (latencies == NULL)
			die("memory");
	}
	latencies[nlatencies++] = ns / 1000 > UINT32_MAX ? UINT32_MAX : ns / 1000;
}

/* The counts of an acknowledgement; others than cdi give none. */
static void
note_outcomes(const char *body, size_t length)
{
	const char *at = body;

	for (int i = 0; i < 5; i++)
	{
		size_t		name = strlen(outcomes[i]);

		at = memmem(at, length - (at - body), outcomes[i], name);
		if (at == NULL)
			return;
		at += name;
		if (at + 2 < body + length && at[0] == '"' && at[1] == ':')
			stats.outcome[i] += strtoull(at + 2, NULL, 10);
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
answered(Connection *connection, int status, bool closes, const char *body, int64_t now)
{
	if (status >= 400 && status < 500 && status != 429 && stats.refusal[0] == '\0')
		snprintf(stats.refusal, sizeof(stats.refusal), "%s", body);
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

static void
receive(Connection *connection, int64_t now)
{
	static char buffer[65536];
	char	   *data = buffer;
	ssize_t		length;
	size_t		whole;
	int			status = 0;
	bool		closes = false;

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
	whole = parse_answer(data, length, &status, &closes);
	if (whole == 0)
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
	if (status == 200 && !connection->idle)
		note_outcomes(data, length);
	answered(connection, status, closes, strstr(data, "\r\n\r\n") + 4, now);
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

static void
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
}

/* One request on every idle connection, opened for it or not, and its answer. */
static void
ask_idle(Connection *idle, bool opening)
{
	int64_t		end = clock_ns() + 30 * SECOND;
	int			waiting = 0;
	int			asked = 0;
	int			first = 0;

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
}

static long
memory_of(int pid)
{
	char		path[64];
	char		line[256];
	long		kilobytes = 0;
	FILE	   *file;

	if (pid == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if ((file = fopen(path, "r")) == NULL)
		die(path);
	while (fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "VmRSS: %ld", &kilobytes) == 1)
			break;
	fclose(file);
	return kilobytes;
}

static void
on_signal(int number)
{
	(void) number;
	stop = 1;
}

static int
compare_latencies(const void *a, const void *b)
{
	uint32_t	left = *(const uint32_t *) a;
	uint32_t	right = *(const uint32_t *) b;

	return (left > right) - (left < right);
}

static double
percentile(double part)
{
	if (nlatencies == 0)
		return 0;
	return latencies[(size_t) ((nlatencies - 1) * part)] / 1000.0;
}

static void
print_string(const char *text)
{
	putchar('"');
	for (; *text != '\0'; text++)
	{
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char) *text >= ' ' && (unsigned char) *text < 127)
			putchar(*text);
	}
	putchar('"');
}

static void
report(double seconds, double cpu)
{
	const char *comma = "";

	qsort(latencies, nlatencies, sizeof(uint32_t), compare_latencies);
	printf("{\"acknowledged\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
		   "\"p999_ms\": %.3f, \"max_ms\": %.3f, \"statuses\": {", stats.acknowledged, stats.requests, seconds,
		   percentile(0.5), percentile(0.99), percentile(0.999), percentile(1));
	for (int i = 0; i < 600; i++)
		if (stats.status[i] > 0)
		{
			printf("%s\"%d\": %" PRIu64, comma, i, stats.status[i]);
			comma = ", ";
		}
	printf("}, \"refused\": %" PRIu64 ", \"unanswered\": %" PRIu64 ", \"resets\": %" PRIu64 ", \"retries\": %" PRIu64,
		   stats.refused, stats.unanswered, stats.resets, stats.retries);
	for (int i = 0; i < 5; i++)
		printf(", \"%s\": %" PRIu64, outcomes[i], stats.outcome[i]);
	if (stats.refusal[0] != '\0')
	{
		printf(", \"first_refusal\": ");
		print_string(stats.refusal);
	}
	if (options.idle > 0)
		printf(", \"idle\": %d, \"idle_answering\": %" PRIu64, options.idle, stats.idle_answering);
	if (options.watch)
		printf(", \"rss_before_kb\": %ld, \"rss_idle_kb\": %ld", stats.rss_before, stats.rss_idle);
	printf(", \"cpu_seconds\": %.3f}\n", cpu);
}

static void
usage(void)
{
	fprintf(stderr,
			"usage: load [options] PORT WRITE_KEY CALLS\n"
			"  --connections N  keep-alive connections that post (64)\n"
			"  --seconds S      how long (4)\n"
			"  --rate R         requests per second, whatever the server does (as fast as it answers)\n"
			"  --events N       per body (1)\n"
			"  --tag TAG        of the message ids (load)\n"
			"  --idle N         connections more that are held open (0)\n"
			"  --watch PID      report the memory of that process before and with them\n"
			"  --retry          post again what was not acknowledged\n"
			"  --pause MS       before that (50)\n"
			"  --timeout S      wait for one answer (20)\n"
			"  --give-up S      wait for the last answers after the end (20)\n"
			"  --ids FILE       write the message ids that were acknowledged\n");
	exit(2);
}

static void
read_options(int argc, char **argv)
{
	static const struct option names[] = {
		{"connections", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'}, {"rate", 1, NULL, 'r'}, {"events", 1, NULL, 'e'},
		{"tag", 1, NULL, 't'}, {"idle", 1, NULL, 'i'}, {"watch", 1, NULL, 'w'}, {"retry", 0, NULL, 'R'},
		{"pause", 1, NULL, 'p'}, {"timeout", 1, NULL, 'T'}, {"give-up", 1, NULL, 'g'}, {"ids", 1, NULL, 'o'},
		{NULL, 0, NULL, 0}
	};
	int			option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
		switch (option)
		{
			case 'c': options.connections = atoi(optarg); break;
			case 's': options.seconds = atof(optarg); break;
			case 'r': options.rate = atof(optarg); break;
			case 'e': options.events = atoi(optarg); break;
			case 't': options.tag = optarg; break;
			case 'i': options.idle = atoi(optarg); break;
			case 'w': options.watch = atoi(optarg); break;
			case 'R': options.retry = true; break;
			case 'p': options.pause = atoi(optarg) * MILLISECOND; break;
			case 'T': options.timeout = atof(optarg); break;
			case 'g': options.give_up = atof(optarg); break;
			case 'o':
				if ((options.ids = fopen(optarg, "w")) == NULL)
					die(optarg);
				break;
			default: usage();
		}
	if (argc - optind != 3 || options.connections < 1 || options.events < 1 || options.idle < 0)
		usage();
	options.port = atoi(argv[optind]);
	options.key = argv[optind + 1];
	read_calls(argv[optind + 2]);
}

int
main(int argc, char **argv)
{
	struct rlimit files;
	struct rusage before;
	struct rusage after;
	double		seconds;
	Connection *idle;

	read_options(argc, argv);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
	{
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		die("epoll_create1");
	connections = allocate(sizeof(Connection) * (options.connections + options.idle));
	idle = connections + options.connections;
	for (int i = 0; i < options.connections + options.idle; i++)
	{
		connections[i].fd = -1;
		connections[i].request = NO_REQUEST;
		connections[i].idle = i >= options.connections;
	}

	stats.rss_before = memory_of(options.watch);
	ask_idle(idle, true);
	stats.rss_idle = memory_of(options.watch);

	getrusage(RUSAGE_SELF, &before);
	if (options.seconds > 0)
		post_events();
	seconds = (clock_ns() - begun) / 1e9;
	getrusage(RUSAGE_SELF, &after);

	ask_idle(idle, false);
	for (int i = 0; i < options.idle; i++)
		stats.idle_answering += idle[i].answered;
	if (options.ids != NULL && fclose(options.ids) != 0)
		die("acknowledged message ids");
	report(options.seconds > 0 ? seconds : 0,
		   after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec +
		   (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6);
	return stats.refused + stats.unanswered > 0 || stats.idle_answering < (uint64_t) options.idle;
}
