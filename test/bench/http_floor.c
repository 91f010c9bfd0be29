/*
 * http_floor.c
 *		The collector's HTTP layer with no database behind it.
 *
 * Answers 200 to every request at once.  What load.c measures against this is
 * the most that the collector could ever acknowledge on the machine.
 *
 *		cc -O2 -Isrc -o build/http_floor test/bench/http_floor.c src/collect/http*.c src/collect/proxy.c src/base/network.c -lmicrohttpd
 *		build/http_floor [port [address]]
 *
 * Prints the port it listens on, and ends on SIGTERM or SIGINT.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collect/http.h"

static volatile sig_atomic_t stop = 0;

static void
on_signal(int number)
{
	stop = 1;
}

int
main(int argc, char **argv)
{
	static const char answer[] =
	"{\"success\":true,\"received\":1,\"stored\":1,\"duplicate\":0,\"failed\":0,\"withheld\":0}";
	CdiHttpOptions options = {
		.address = argc > 2 ? argv[2] : "127.0.0.1",
		.port = argc > 1 ? atoi(argv[1]) : 0,
		.timeout_ms = 30000,
		.max_body = 4 * 1024 * 1024,
		.max_memory = 256 * 1024 * 1024,
		.max_pending = 4096,
		.max_connections = 900
	};
	char		error[256];
	CdiHttpServer *server;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	server = cdi_http_start(&options, error, sizeof(error));
	if (server == NULL)
	{
		fprintf(stderr, "http_floor: %s\n", error);
		return 1;
	}
	printf("%d\n", cdi_http_port(server));
	fflush(stdout);
	while (!stop)
	{
		struct pollfd wait = {.fd = cdi_http_fd(server),.events = POLLIN};
		CdiHttpRequest *request;

		if (poll(&wait, 1, cdi_http_timeout(server)) < 0 && errno != EINTR)
		{
			perror("http_floor: poll");
			return 1;
		}
		cdi_http_run(server);
		while ((request = cdi_http_next(server)) != NULL)
			cdi_http_answer(server, request, &(CdiHttpAnswer) {
				.status = 200,.body = answer,.length = sizeof(answer) - 1
			});
	}
	cdi_http_stop(server);
	return 0;
}
