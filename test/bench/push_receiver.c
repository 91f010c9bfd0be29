/*
 * push_receiver.c
 *		The other end of a push: reads requests and answers at once.
 *
 * One thread, epoll, keep-alive, so that it takes little from what is
 * measured.  The path says how it behaves:
 *
 *		/slow...	answers after two seconds
 *		/busy...	429 with Retry-After: 1
 *		/mixed...	mostly 200; now and then 500, 429, a row that is refused, half
 *					an answer, none before the connection ends, and none at all
 *		anything	200 with {}
 *
 *		cc -O2 -o build/bench/push_receiver test/bench/push_receiver.c
 *		build/bench/push_receiver
 *
 * Prints the port it listens on, and ends on SIGTERM or SIGINT.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOW_MS 2000

typedef struct Connection
{
	int			fd;
	char	   *data;
	size_t		len;
	size_t		size;
	long long	due;			/* when a slow answer is sent; 0: none waits */
	struct Connection *next;	/* in the queue of slow answers */
} Connection;

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
static const char failed[] = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
static const char throttled[] = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n";
static const char refused[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\r\n"
"{\"errors\": [{\"index\": 0, \"message\": \"no\"}]}";
static const char busy[] = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";

static volatile sig_atomic_t stop = 0;
static Connection *slow_first,
		   *slow_last;

static void
on_signal(int number)
{
	stop = 1;
}

static void
die(const char *what)
{
	fprintf(stderr, "push_receiver: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void
close_connection(Connection *connection)
{
	close(connection->fd);
	connection->fd = -1;
	/* one that waits is freed when its time comes */
	if (connection->due == 0)
	{
		free(connection->data);
		free(connection);
	}
}

/* Small answers: the socket's buffer takes them, or the other end is gone. */
static bool
answer(Connection *connection, const char *text, size_t len)
{
	return send(connection->fd, text, len, MSG_NOSIGNAL) == (ssize_t) len;
}

/* Each in its turn, by numbers that have no divisor in common; false where the connection is over. */
static bool
answer_mixed(Connection *connection)
{
	static long number = 0;

	number++;
	if (number % 50021 == 0)
		return true;			/* the other end gives up */
	if (number % 1009 == 0)
		return false;
	if (number % 907 == 0)
	{
		(void) answer(connection, ok, sizeof(ok) / 2);
		return false;
	}
	if (number % 503 == 0)
		return answer(connection, throttled, sizeof(throttled) - 1);
	if (number % 401 == 0)
		return answer(connection, refused, sizeof(refused) - 1);
	if (number % 307 == 0)
		return answer(connection, failed, sizeof(failed) - 1);
	return answer(connection, ok, sizeof(ok) - 1);
}

static void
answer_later(Connection *connection)
{
	connection->due = now_ms() + SLOW_MS;
	connection->next = NULL;
	if (slow_first)
		slow_last->next = connection;
	else
		slow_first = connection;
	slow_last = connection;
}

/* Answers the requests that are complete; false where the connection is over. */
static bool
take_requests(Connection *connection)
{
	while (connection->due == 0)
	{
		char	   *end = memmem(connection->data, connection->len, "\r\n\r\n", 4);
		char	   *length;
		size_t		head;
		size_t		total;
		bool		is_slow;
		bool		is_busy;
		bool		is_mixed;

		if (end == NULL)
			return true;
		head = end + 4 - connection->data;
		*end = '\0';
		length = strcasestr(connection->data, "\r\ncontent-length:");
		total = head + (length ? strtoul(length + 17, NULL, 10) : 0);
		*end = '\r';
		if (connection->len < total)
			return true;
		is_slow = strstr(connection->data, " /slow") && strstr(connection->data, " /slow") < end;
		is_busy = strstr(connection->data, " /busy") && strstr(connection->data, " /busy") < end;
		is_mixed = strstr(connection->data, " /mixed") && strstr(connection->data, " /mixed") < end;
		memmove(connection->data, connection->data + total, connection->len - total);
		connection->len -= total;
		if (is_slow)
			answer_later(connection);
		else if (!(is_mixed ? answer_mixed(connection) : is_busy ? answer(connection, busy, sizeof(busy) - 1) : answer(connection, ok, sizeof(ok) - 1)))
			return false;
	}
	return true;
}

static void
read_some(Connection *connection)
{
	ssize_t		n;

	if (connection->size - connection->len < 65536)
	{
		connection->size = connection->size * 2 + 65536;
		connection->data = realloc(connection->data, connection->size + 1);
		if (connection->data == NULL)
			die("realloc");
	}
	n = recv(connection->fd, connection->data + connection->len, connection->size - connection->len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
	{
		close_connection(connection);
		return;
	}
	connection->len += n;
	connection->data[connection->len] = '\0';
	if (!take_requests(connection))
		close_connection(connection);
}

static void
answer_slow(void)
{
	while (slow_first && slow_first->due <= now_ms())
	{
		Connection *connection = slow_first;

		slow_first = connection->next;
		connection->due = 0;
		if (connection->fd < 0)
		{
			free(connection->data);
			free(connection);
		}
		else if (!answer(connection, ok, sizeof(ok) - 1) || !take_requests(connection))
			close_connection(connection);
	}
}

int
main(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	address_len = sizeof(address);
	int			listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int			events_fd = epoll_create1(0);
	int			one = 1;
	struct epoll_event events[256];
	struct epoll_event event = {.events = EPOLLIN,.data.ptr = NULL};

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	if (listener < 0 || events_fd < 0 || bind(listener, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(listener, 1024) != 0 || getsockname(listener, (struct sockaddr *) &address, &address_len) != 0 ||
		epoll_ctl(events_fd, EPOLL_CTL_ADD, listener, &event) != 0)
		die("listen");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	while (!stop)
	{
		int			n = epoll_wait(events_fd, events, 256, slow_first ? 10 : -1);

		for (int i = 0; i < n; i++)
		{
			if (events[i].data.ptr != NULL)
				read_some(events[i].data.ptr);
			else
			{
				Connection *connection = calloc(1, sizeof(Connection));

				if (connection == NULL)
					die("calloc");
				connection->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (connection->fd < 0)
				{
					free(connection);
					continue;
				}
				setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				event.data.ptr = connection;
				if (epoll_ctl(events_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
					die("epoll_ctl");
			}
		}
		answer_slow();
	}
	return 0;
}
