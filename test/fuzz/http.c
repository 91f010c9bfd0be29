/*
 * http.c
 *		Bytes from the network against the collector's HTTP layer.
 *
 * Besides the sanitizers, one property is checked: a request that the layer
 * hands over is one that a strict reader of RFC 9112 finds at the same place
 * of the stream, with the same body.  The reader below knows one way to read a
 * message and calls everything else invalid, so a request whose end another
 * program could see elsewhere, and everything behind it, must not be handed
 * over.  Only the framing of a chunked body may be looser, because nothing is
 * read behind it.
 *
 *		test/fuzz/run			builds and runs it
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "collect/http_private.h"

#define MAX_BODY		4096
#define MAX_REQUESTS	256

typedef struct Expected
{
	bool		known;			/* body is what must have come */
	size_t		length;
	char	   *body;
} Expected;

static CdiHttpServer *server;

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
fail(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

/*
 * The strict reader
 */
typedef struct Reader
{
	const char *at;
	const char *end;
} Reader;

/*
 * What the layer cannot tell from CR LF and an empty line
 * (src/collect/http_check.c): as many bytes, each of which it has made NUL or
 * found so.
 */
static bool
loose_end(const char *at, const char *end, int length)
{
	if (end - at < length || at[length - 1] != '\n')
		return false;
	for (int i = 0; i < length; i++)
		if (memchr(":\r\n", at[i], 4) == NULL)
			return false;
	return true;
}

/*
 * A line up to CR LF, without bare CR, bare LF and NUL.  NUL LF counts as
 * CR LF: the layer cannot tell them apart, and proxies pass on no NUL.
 */
static bool
read_line(Reader *reader, const char **line, size_t *length)
{
	const char *c;

	for (c = reader->at; c < reader->end; c++)
	{
		if ((*c == '\r' || *c == '\0') && c + 1 < reader->end && c[1] == '\n')
		{
			*line = reader->at;
			*length = c - reader->at;
			reader->at = c + 2;
			return true;
		}
		if (*c != ':' && loose_end(c, reader->end, 4))
		{
			*line = reader->at;
			*length = c - reader->at;
			reader->at = c + 2;
			return true;
		}
		if (*c == '\r' || *c == '\n' || *c == '\0')
			return false;
	}
	return false;
}

static bool
token(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (text[i] <= ' ' || text[i] == 0x7f || strchr("\"(),/:;<=>?@[\\]{}", text[i]) != NULL)
			return false;
	return length > 0;
}

static bool
read_chunks(Reader *reader, Expected *request)
{
	const char *line;
	size_t		length;

	request->body = malloc(reader->end - reader->at + 1);
	for (;;)
	{
		size_t		size = 0;
		size_t		digits = 0;

		if (!read_line(reader, &line, &length))
			return false;
		for (; digits < length && strchr("0123456789abcdefABCDEF", line[digits]); digits++)
		{
			if (size > 0xfffffff)
				return false;
			size = size * 16 + strtoul((char[]) {line[digits], '\0'}, NULL, 16);
		}
		if (digits == 0 || (digits < length && line[digits] != ';'))
			return false;
		if (size == 0)
			break;
		if ((size_t) (reader->end - reader->at) < size + 2 ||
			reader->at[size] != '\r' || reader->at[size + 1] != '\n')
			return false;
		memcpy(request->body + request->length, reader->at, size);
		request->length += size;
		reader->at += size + 2;
	}
	do
	{
		if (!read_line(reader, &line, &length))
			return false;
	} while (length > 0);
	return true;
}

/*
 * One request; returns false where there is none or it is not valid.  Sets
 * *last where nothing behind it may be read, and *other for OPTIONS, which
 * the layer answers itself.
 */
static bool
read_request(Reader *reader, Expected *request, bool *last, bool *other)
{
	const char *line;
	const char *version;
	const char *space;
	size_t		length;
	int			lengths = 0;
	int			codings = 0;
	int			hosts = 0;
	bool		old;

	memset(request, 0, sizeof(*request));
	/* Lines that are empty, or begin with NUL, come before any request. */
	while (reader->at < reader->end && memchr("\r\n", *reader->at, 3) != NULL)
	{
		if (*reader->at == '\0')
		{
			reader->at = memchr(reader->at, '\n', reader->end - reader->at);
			if (reader->at == NULL)
			{
				reader->at = reader->end;
				return false;
			}
		}
		reader->at++;
	}
	if (!read_line(reader, &line, &length))
		return false;
	space = memchr(line, ' ', length);
	if (space == NULL || !token(line, space - line))
		return false;
	*other = space - line == 7 && memcmp(line, "OPTIONS", 7) == 0;
	version = memchr(space + 1, ' ', line + length - space - 1);
	if (version == NULL || version == space + 1 || line + length - version != 9)
		return false;
	old = memcmp(version, " HTTP/1.0", 9) == 0;
	if (!old && memcmp(version, " HTTP/1.1", 9) != 0)
		return false;
	for (;;)
	{
		const char *colon;
		const char *value;
		const char *end;

		if (loose_end(reader->at, reader->end, 2))
		{
			reader->at += 2;
			break;
		}
		if (!read_line(reader, &line, &length))
			return false;
		if (length == 0)
			break;
		colon = memchr(line, ':', length);
		if (colon == NULL || !token(line, colon - line))
			return false;
		end = line + length;
		for (value = colon + 1; value < end && (*value == ' ' || *value == '\t'); value++)
			;
		while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
			end--;
		if (colon - line == 4 && strncasecmp(line, "Host", 4) == 0)
			hosts++;
		if (colon - line == 17 && strncasecmp(line, "Transfer-Encoding", 17) == 0)
		{
			codings++;
			if (end - value != 7 || strncasecmp(value, "chunked", 7) != 0)
				return false;
		}
		if (colon - line == 14 && strncasecmp(line, "Content-Length", 14) == 0)
		{
			lengths++;
			if (value == end)
				return false;
			for (; value < end; value++)
			{
				if (*value < '0' || *value > '9')
					return false;
				if (request->length < SIZE_MAX / 100)
					request->length = request->length * 10 + (*value - '0');
			}
		}
	}
	if (lengths + codings > 1 || hosts > 1 || (hosts == 0 && !old) || (codings > 0 && old))
		return false;
	request->known = true;
	*last = codings > 0;
	if (codings > 0)
		request->known = read_chunks(reader, request);
	else if (request->length <= (size_t) (reader->end - reader->at))
	{
		request->body = malloc(request->length + 1);
		memcpy(request->body, reader->at, request->length);
		reader->at += request->length;
	}
	else
	{
		/* It ends too early: refused as too large, or not handed over. */
		request->known = false;
		*last = true;
	}
	return true;
}

/*
 * The layer
 */
static int	nexpected;
static int	nseen;
static Expected expected[MAX_REQUESTS];

static void
take_requests(void)
{
	static const char body[] = "{\"success\":true}";
	CdiHttpAnswer answer = {.status = 200,.body = body,.length = sizeof(body) - 1};
	CdiHttpRequest *request;

	while ((request = cdi_http_next(server)) != NULL)
	{
		char		address[CDI_HTTP_ADDRESS_SIZE];
		const Expected *should;

		/* OPTIONS, too, is refused where it announces too much. */
		if (request->method == CDI_HTTP_OTHER && request->flaw == CDI_HTTP_TOO_LARGE)
		{
			cdi_http_answer(server, request, &answer);
			continue;
		}
		if (nseen == nexpected)
			fail("a request was handed over that a strict reader does not find");
		should = &expected[nseen++];
		if (request->flaw == CDI_HTTP_WHOLE && should->known && request->length > 0 &&
			(request->length != should->length ||
			 memcmp(request->body, should->body, request->length) != 0))
			fail("a request has another body than a strict reader finds");
		if (request->flaw == CDI_HTTP_WHOLE && request->method == CDI_HTTP_POST &&
			should->known && request->length != should->length)
			fail("a request has a body of another length than a strict reader finds");
		if (request->length > MAX_BODY)
			fail("a body is larger than its limit");
		if (!cdi_http_client_address(request, address))
			fail("a request has no address");
		(void) cdi_http_header(request, "Cookie");
		cdi_http_answer(server, request, &answer);
	}
}

/* Every answer has a status line and is as long as it says. */
static void
check_answers(const char *at, const char *end)
{
	while (at < end)
	{
		char	   *stop;
		const char *head = memmem(at, end - at, "\r\n\r\n", 4);
		const char *header;
		size_t		length = 0;

		if (end - at < 13 || memcmp(at, "HTTP/1.", 7) != 0)
			fail("an answer does not begin with a status line");
		if (head == NULL)
			return;				/* the connection was cut */
		header = memmem(at, head - at, "\r\nContent-Length: ", 18);
		if (header != NULL)
			length = strtoul(header + 18, &stop, 10);
		at = head + 4;
		if (length > (size_t) (end - at))
			length = end - at;	/* HEAD, or cut */
		if (length > 0 && memcmp(at, "HTTP/1.", length < 7 ? length : 7) == 0)
			continue;			/* HEAD */
		at += length;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char answers[65536];
	struct sockaddr_in client = {.sin_family = AF_INET};
	Reader		reader = {(const char *) data, (const char *) data + size};
	size_t		length = 0;
	size_t		split;
	int			pair[2];
	bool		last = false;
	bool		closed = false;

	if (server == NULL)
	{
		CdiHttpOptions options = {
			.address = "127.0.0.1",
			.timeout_ms = 3600000,
			.max_body = MAX_BODY,
			.max_memory = 1024 * 1024,
			.max_pending = MAX_REQUESTS,
			.max_connections = 100,
			.trusted_proxies = "127.0.0.0/8, ::1/128",
			.allowed_origins = "https://*.shop.example"
		};
		char		error[256];

		server = cdi_http_start(&options, error, sizeof(error));
		if (server == NULL)
			fail(error);
	}
	if (size == 0)
		return 0;
	nexpected = nseen = 0;
	while (!last && nexpected < MAX_REQUESTS)
	{
		Expected   *request = &expected[nexpected];
		bool		other;

		if (!read_request(&reader, request, &last, &other))
		{
			free(request->body);
			break;
		}
		if (other)
			free(request->body);
		else
			nexpected++;
	}

	client.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
		fail("no sockets");
	if (MHD_add_connection(server->daemon, pair[1], (struct sockaddr *) &client, sizeof(client)) != MHD_YES)
		fail("no connection");

	/* In two pieces, of sizes that the input decides. */
	split = size * data[size - 1] / 256;
	for (int round = 0; round < 2 * MAX_REQUESTS && !closed; round++)
	{
		ssize_t		n;

		if (round == 0 && split > 0 && send(pair[0], data, split, MSG_NOSIGNAL) < 0)
			break;
		if (round == 1)
		{
			if (send(pair[0], data + split, size - split, MSG_NOSIGNAL) < 0)
				break;
			(void) shutdown(pair[0], SHUT_WR);
		}
		cdi_http_run(server);
		take_requests();
		while (length < sizeof(answers) &&
			   (n = recv(pair[0], answers + length, sizeof(answers) - length, 0)) >= 0)
		{
			if (n == 0)
			{
				closed = true;
				break;
			}
			length += n;
		}
		if (round > 1 && cdi_http_timeout(server) != 0)
			break;
	}
	check_answers(answers, answers + length);
	close(pair[0]);
	for (int round = 0; round < 100 && cdi_http_stats(server)->connections > 0; round++)
	{
		cdi_http_run(server);
		take_requests();
	}
	if (cdi_http_stats(server)->connections > 0)
		fail("a connection stays open after its client has gone");
	if (cdi_http_stats(server)->memory > 0 || cdi_http_stats(server)->pending > 0)
		fail("a request is left behind");
	for (int i = 0; i < nexpected; i++)
		free(expected[i].body);
	return 0;
}
