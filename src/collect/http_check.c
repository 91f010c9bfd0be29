/*
 * http_check.c
 *		Requests that two readers could understand differently.
 *
 * Behind a proxy several clients share one connection, and what one of them
 * sends must not become part of the next one's request.  So a request whose
 * end depends on who reads it is refused and its connection closed, where the
 * library would take the first length, skip a transfer coding that it does
 * not know, or join a folded line to the name of the header before it.
 *
 * The library shows headers after it has parsed them.  Up to 0.9.77 it does so
 * in the buffer that they came in, replacing the ends of lines by NUL bytes,
 * so method, target, version, names and values lie there in the order of
 * arrival.  Whatever was between them that is not shown (a bare line feed, a
 * folded line, a NUL byte, a line that it gave up at) is a gap of another size
 * than that of CR LF.  Only a NUL byte or an empty name in the place of CR looks
 * the same, which no proxy lets through.  Later releases refuse these by
 * themselves when told to (MHD_OPTION_STRICT_FOR_CLIENT).  Which one it is
 * shows at run time only: the library may be newer than at compile time.
 *
 * How a chunked body was framed cannot be seen, and the library takes a bare
 * line feed there.  A request with such a body is therefore the last one on
 * its connection: nothing that follows is read.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "collect/http_private.h"

/* Of 0.9 */
#define LAST_LENIENT_RELEASE	77

typedef struct Check
{
	const char *end;			/* of what was seen last; NULL: do not compare */
	const char *wrong;			/* first thing that is */
	int			status;
	int			hosts;
	int			lengths;
	int			codings;
	bool		chunked;
} Check;

static void
refuse(Check *check, int status, const char *wrong)
{
	if (check->wrong == NULL)
	{
		check->wrong = wrong;
		check->status = status;
	}
}

/* Characters of a name, as RFC 9110 has them (token). */
static bool
is_token(const char *name, size_t size)
{
	for (size_t i = 0; i < size; i++)
	{
		unsigned char c = name[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') &&
			!(c >= '0' && c <= '9') && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL))
			return false;
	}
	return size > 0;
}

static bool
is_text(const char *value, size_t size)
{
	for (size_t i = 0; i < size; i++)
	{
		unsigned char c = value[i];

		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static bool
is_digits(const char *value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (value[i] < '0' || value[i] > '9')
			return false;
	return size > 0;
}

static bool
named(const char *key, size_t size, const char *name)
{
	return size == strlen(name) && strncasecmp(key, name, size) == 0;
}

/* Nothing that ends a host in an address: Host becomes one in what SDKs are told. */
static bool
is_host(const char *value, size_t size)
{
	while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
		size--;
	for (size_t i = 0; i < size; i++)
		if (strchr("/?#@\\\"<>^`{|} \t", value[i]) != NULL)
			return false;
	return true;
}

/* Called by the library for each header, in their order. */
static enum MHD_Result
check_header(void *arg, enum MHD_ValueKind kind, const char *key, size_t key_size,
			 const char *value, size_t value_size)
{
	Check	   *check = arg;

	if (value == NULL)
	{
		value = "";
		value_size = 0;
	}
	if (check->end != NULL)
	{
		if (key != check->end + 2 || value <= key)
			refuse(check, 400, "a header line is folded, contains a NUL byte or does not end in CR LF");
		check->end = value + value_size;
	}
	if (!is_token(key, key_size))
		refuse(check, 400, "the name of a header has a character that no name has");
	if (!is_text(value, value_size))
		refuse(check, 400, "the value of a header has a control character");
	if (named(key, key_size, "Host"))
	{
		check->hosts++;
		if (!is_host(value, value_size))
			refuse(check, 400, "Host is not a host and a port");
	}
	else if (named(key, key_size, "Content-Length"))
	{
		check->lengths++;
		if (!is_digits(value, value_size))
			refuse(check, 400, "Content-Length is not a number");
	}
	else if (named(key, key_size, "Transfer-Encoding"))
	{
		check->codings++;
		if (value_size == strlen("chunked") && strncasecmp(value, "chunked", value_size) == 0)
			check->chunked = true;
		else
			refuse(check, 501, "the only transfer coding that is understood is chunked");
	}
	return MHD_YES;
}

/* Does the library show headers where they arrived? */
bool
cdi_http_shows_gaps(void)
{
	const char *version = MHD_get_version();

	return strncmp(version, "0.9.", 4) == 0 && atoi(version + 4) <= LAST_LENIENT_RELEASE;
}

/*
 * The target as it came, before the library decodes it in its place: it is a
 * string that ends at the version, and decoding must not end it earlier.
 */
void
cdi_http_check_target(Request *request, const char *target)
{
	request->target_length = strlen(target);
	for (const char *c = target; *c != '\0'; c++)
		if ((unsigned char) *c <= ' ' || *c == 0x7f || strncmp(c, "%00", 3) == 0)
		{
			request->bad_target = true;
			break;
		}
}

/*
 * Look at the head of a request that has just arrived.  Returns NULL, or what
 * is wrong with it and the status that says so.
 */
const char *
cdi_http_check_head(const CdiHttpServer *server, Request *request,
					const char *method, const char *target, const char *version,
					int *status)
{
	struct MHD_Connection *mhd = request->connection->mhd;
	Check		check = {.end = NULL,.wrong = NULL};
	bool		old = strcmp(version, "HTTP/1.0") == 0;

	if (!old && strcmp(version, "HTTP/1.1") != 0)
		refuse(&check, 505, "the versions that are understood are HTTP/1.0 and HTTP/1.1");
	if (!is_token(method, strlen(method)))
		refuse(&check, 400, "the method has a character that no method has");
	if (request->bad_target)
		refuse(&check, 400, "the request target has a character that must be encoded, or an encoded NUL byte");
	if (server->shows_gaps)
	{
		if (target != method + strlen(method) + 1 ||
			version != target + request->target_length + 1)
			refuse(&check, 400, "the request line has a NUL byte or more than one space between its parts");
		check.end = version + strlen(version);
	}
	(void) MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, check_header, &check);

	/* Behind the last line and the empty one, both with CR LF, it is over. */
	if (server->shows_gaps)
	{
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);

		if (info == NULL || check.end + 4 != method + info->header_size ||
			memcmp(check.end, "\0\0\0\0", 4) != 0)
			refuse(&check, 400, "the headers do not end in an empty line after CR LF");
	}
	if (check.hosts > 1 || (check.hosts == 0 && !old))
		refuse(&check, 400, "there must be one Host header");
	if (check.lengths > 1)
		refuse(&check, 400, "there is more than one Content-Length");
	if (check.codings > 1)
		refuse(&check, 400, "there is more than one Transfer-Encoding");
	if (check.lengths > 0 && check.codings > 0)
		refuse(&check, 400, "there are both Content-Length and Transfer-Encoding");
	if (check.codings > 0 && old)
		refuse(&check, 400, "HTTP/1.0 has no Transfer-Encoding");
	request->last = check.chunked;
	*status = check.status;
	return check.wrong;
}

/* Clients may name the server in the target; what counts is the path. */
const char *
cdi_http_target_path(const char *target)
{
	const char *authority;
	const char *path;

	if (strncasecmp(target, "http://", 7) == 0)
		authority = target + 7;
	else if (strncasecmp(target, "https://", 8) == 0)
		authority = target + 8;
	else
		return target;
	path = strchr(authority, '/');
	return path != NULL ? path : "/";
}
