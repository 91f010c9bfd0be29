/*
 * dialect.c
 *		Requests of one dialect, from text to calls and answers.
 *
 * Compiled once per dialect (-DDIALECT=cdi_segment_dialect).  An input is a
 * request as it was on the wire: request line, headers, an empty line, body
 * (test/fuzz/corpus).  What is promised beside memory being respected:
 *
 *	- a refusal says status, code and message
 *	- an envelope is a JSON object
 *	- translate needs nothing but payload, envelope and time, and makes valid
 *	  JSON of valid JSON, of a bounded size, or says why not
 *	- answers of type application/json are JSON
 */
#include "postgres.h"

#include "collect/collect.h"

#include "shim.h"

#define MAX_HEADERS		64
#define MAX_ELEMENTS	64
#define INFLATE_LIMIT	(256 * 1024)

typedef struct Header
{
	char	   *name;
	char	   *value;
} Header;

static Header headers[MAX_HEADERS];
static int	nheaders;
static volatile unsigned char sum;

extern const CdiDialect DIALECT;
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * What dialects want of the collector
 */
static const char *
find_header(const char *name)
{
	for (int i = 0; i < nheaders; i++)
		if (strcasecmp(headers[i].name, name) == 0)
			return headers[i].value;
	return NULL;
}

const char *
cdi_request_header(const CdiRequest *request, const char *name)
{
	return find_header(name);
}

const char *
cdi_http_header(const CdiHttpRequest *request, const char *name)
{
	return find_header(name);
}

const char *
cdi_request_cookie_header(const char *name, CdiText value)
{
	return psprintf("%s=%.*s; Path=/", name, value.len, value.data);
}

bool
cdi_request_secure(const CdiRequest *request)
{
	const char *value = find_header("X-Forwarded-Proto");

	return value != NULL && strcasecmp(value, "https") == 0;
}

bool
cdi_http_client_address(const CdiHttpRequest *request, char *address)
{
	strcpy(address, "192.0.2.1");
	return true;
}

char	   *cdi_collector_cookie_domain = "";
char	   *cdi_collector_default_source = "";
char	   *cdi_collector_allowed_origins = "*";
char	   *cdi_collector_redirect_domains = "shop.example, *.shop.example";
int			cdi_collector_max_body = 4096;

/*
 * Slices
 */
static void
touch(CdiText text, const char *what)
{
	if (text.len < 0)
		shim_fail("%s has a negative length", what);
	for (int i = 0; i < text.len; i++)
		sum += text.data[i];
}

/* A copy that ends where the sanitizer sees it. */
static CdiText
isolate(CdiText text)
{
	CdiText		copy = {NULL, text.len};

	if (text.data != NULL)
	{
		char	   *data = palloc(text.len);

		memcpy(data, text.data, text.len);
		copy.data = data;
	}
	return copy;
}

static bool
is_json(CdiText text)
{
	return shim_is_json(text.data ? text.data : "", text.len);
}

/*
 * Snowplow's payloads hold JSON in strings, plain or in base64.  What it is
 * like inside is for the pipeline's parser to find out.
 */
static bool
has_json_in_strings(CdiText text)
{
	static const char *const names[] = {"ue_px", "ue_pr", "cx", "co"};

	for (int i = 0; i < lengthof(names); i++)
		if (text.len > 0 && memmem(text.data, text.len, names[i], strlen(names[i])) != NULL)
			return true;
	return false;
}

/* A line without its end; false at the end of the input */
static bool
next_line(CdiText *rest, CdiText *line)
{
	const char *end = memchr(rest->data, '\n', rest->len);

	if (end == NULL)
		return false;
	line->data = rest->data;
	line->len = end - rest->data;
	rest->len -= line->len + 1;
	rest->data = end + 1;
	if (line->len > 0 && line->data[line->len - 1] == '\r')
		line->len--;
	return true;
}

static void
read_headers(CdiText *rest)
{
	CdiText		line;

	nheaders = 0;
	while (next_line(rest, &line) && line.len > 0)
	{
		const char *colon = memchr(line.data, ':', line.len);
		CdiText		value;

		if (colon == NULL || nheaders == MAX_HEADERS)
			continue;
		value.data = colon + 1;
		value.len = line.data + line.len - value.data;
		value = cdi_text_trim(value);
		headers[nheaders].name = pnstrdup(line.data, colon - line.data);
		headers[nheaders++].value = pnstrdup(value.data ? value.data : "", value.len);
	}
}

/* Method, path and query of the request line; false where there are none */
static bool
read_request_line(CdiText line, CdiHttpRequest *http)
{
	const char *end = line.data + line.len;
	const char *target = memchr(line.data, ' ', line.len);
	const char *query;
	size_t		length;

	if (target == NULL)
		return false;
	length = target - line.data;
	http->method = length == 4 && memcmp(line.data, "POST", 4) == 0 ? CDI_HTTP_POST :
		length == 3 && memcmp(line.data, "GET", 3) == 0 ? CDI_HTTP_GET :
		length == 4 && memcmp(line.data, "HEAD", 4) == 0 ? CDI_HTTP_HEAD : CDI_HTTP_OTHER;
	target++;
	if (memchr(target, ' ', end - target) != NULL)
		end = memchr(target, ' ', end - target);
	if (memchr(target, '\0', end - target) != NULL)
		return false;
	query = memchr(target, '?', end - target);
	http->query = query ? pnstrdup(query + 1, end - query - 1) : "";
	length = (query ? query : end) - target;
	while (length > 1 && target[length - 1] == '/')
		length--;
	if (length >= sizeof(http->path))
		return false;
	memcpy(http->path, target, length);
	http->path[length] = '\0';
	return true;
}

static void
read_user(CdiHttpRequest *http)
{
	const char *value = find_header("Authorization");
	CdiText		user;

	if (value == NULL || strncasecmp(value, "Basic ", 6) != 0)
		return;
	http->has_user = true;
	user = cdi_base64_decode(cdi_text(value + 6));
	if (user.data != NULL && memchr(user.data, ':', user.len) != NULL)
		user.len = (const char *) memchr(user.data, ':', user.len) - user.data;
	if (user.data != NULL && user.len < (int) sizeof(http->user) &&
		memchr(user.data, '\0', user.len) == NULL)
	{
		memcpy(http->user, user.data, user.len);
		http->user[user.len] = '\0';
	}
}

/*
 * Promises
 */
static void
translate(const CdiRequest *request, int index)
{
	CdiTranslation translation = {
		.payload = isolate(request->elements[index]),
		.envelope = isolate(request->envelope),
		.received_at = INT64CONST(1764000000000000),
		.call = makeStringInfo()
	};
	int64		given = (int64) translation.payload.len + translation.envelope.len;

	DIALECT.translate(&translation);
	if (translation.sqlstate != 0)
	{
		if (translation.message == NULL)
			shim_fail("a call is refused without a message");
		return;
	}
	if (translation.call->len > 8 * given + 8192)
		shim_fail("a call of %d bytes comes from " INT64_FORMAT, translation.call->len, given);
	if (!has_json_in_strings(translation.payload) && is_json(translation.payload) &&
		(translation.envelope.len == 0 || is_json(translation.envelope)) &&
		!shim_is_json(translation.call->data, translation.call->len))
	{
		for (int i = 0; i < translation.call->len; i++)
			if ((unsigned char) translation.call->data[i] < ' ')
				translation.call->data[i] = '?';
		shim_fail("valid JSON became this: %s", translation.call->data);
	}
}

static void
check_reply(const CdiReply *reply)
{
	if (reply->status < 200 || reply->status > 599)
		shim_fail("an answer has status %d", reply->status);
	if (reply->body->len > 0 &&
		(reply->content_type == NULL || strncmp(reply->content_type, "application/json", 16) == 0) &&
		!shim_is_json(reply->body->data, reply->body->len))
		shim_fail("an answer is no JSON: %s", reply->body->data);
	if (reply->cookie != NULL && strpbrk(reply->cookie, "\r\n") != NULL)
		shim_fail("a cookie has a line end");
	if (reply->location != NULL && strpbrk(reply->location, "\r\n") != NULL)
		shim_fail("a location has a line end");
}

static void
begin_reply(CdiReply *reply, int status)
{
	memset(reply, 0, sizeof(*reply));
	reply->status = status;
	reply->body = makeStringInfo();
}

static void
answer(const CdiRequest *request, int n)
{
	CdiComplaint complaints[] = {
		{0, ERRCODE_INVALID_TEXT_REPRESENTATION, "a \"message\"", NULL},
		{n - 1, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "another", "id-1"}
	};
	CdiAnswer	answers[] = {
		{0},
		{.received = n,.stored = n},
		{.received = n,.failed = 1,.whole = true,.ncomplaints = 1,.complaints = complaints},
		{.received = n,.stored = n - 2,.failed = 2,.ncomplaints = 2,.complaints = complaints}
	};
	CdiReply	reply;

	for (int i = 0; i < lengthof(answers); i++)
	{
		if (i == 0 ? n > 0 : n < 1 || (i == 2 && n != 1) || (i == 3 && n < 2))
			continue;
		begin_reply(&reply, 200);
		DIALECT.answer(request, &answers[i], &reply);
		check_reply(&reply);
	}
}

static void
refuse(const CdiRequest *request)
{
	CdiReply	reply;
	static const struct
	{
		int			status;
		const char *code;
	}			cases[] = {{401, "unknown_write_key"}, {413, "body_too_large"}, {503, "overloaded"}};

	for (int i = 0; i < lengthof(cases); i++)
	{
		begin_reply(&reply, cases[i].status);
		DIALECT.refuse(request, cases[i].status, cases[i].code, "a \"message\"", &reply);
		check_reply(&reply);
	}
}

static int
run(CdiText input)
{
	CdiHttpRequest http;
	CdiRequest	request;
	CdiText		line;
	CdiText		body;
	const char *rest;
	char	   *copy;
	char	   *inflated;
	size_t		length;
	bool		page;
	int			n;

	memset(&http, 0, sizeof(http));
	memset(&request, 0, sizeof(request));
	if (!next_line(&input, &line) || !read_request_line(line, &http))
		return -1;
	read_headers(&input);
	read_user(&http);
	http.origin = find_header("Origin");
	request.route = cdi_dialect_route(&DIALECT, http.path, &rest);
	if (request.route == NULL)
		return -1;
	page = (request.route->flags & CDI_ROUTE_PAGE) != 0;
	if (http.method != CDI_HTTP_POST &&
		(http.method == CDI_HTTP_OTHER || (!page && (request.route->flags & CDI_ROUTE_GET) == 0)))
		return -1;
	body = input;
	if (body.len >= 2 && (unsigned char) body.data[0] == 0x1f && (unsigned char) body.data[1] == 0x8b)
	{
		if (cdi_collect_inflate(body.data, body.len, INFLATE_LIMIT, &inflated, &length) != CDI_INFLATE_OK)
			return -1;
		body.data = inflated;
		body.len = length;
	}
	/* It is gone when most answers are written. */
	copy = malloc(body.len > 0 ? body.len : 1);
	if (body.len > 0)
		memcpy(copy, body.data, body.len);

	request.dialect = &DIALECT;
	request.http = &http;
	request.method = http.method;
	request.path = cdi_text(http.path);
	request.rest = cdi_text(rest);
	request.query = cdi_text(http.query);
	request.user = cdi_text(http.user);
	request.body.data = copy;
	request.body.len = body.len;
	request.from_device = http.origin != NULL;
	DIALECT.unpack(&request);

	if (request.nkeys < 0 || request.nkeys > CDI_MAX_KEYS)
		shim_fail("there are %d keys", request.nkeys);
	for (int i = 0; i < request.nkeys; i++)
		touch(request.keys[i], "a key");
	for (int i = 0; i < request.nelements; i++)
		touch(request.elements[i], "an element");
	touch(request.envelope, "the envelope");
	touch(request.type, "the type");
	if (request.envelope.len > 0 && request.refused_status == 0 && !request.not_mine &&
		(cdi_scan_kind(request.envelope) != '{' ||
		 (shim_is_json(copy, body.len) && !shim_is_json(request.envelope.data, request.envelope.len))))
		shim_fail("the envelope is no JSON object: %.*s", request.envelope.len, request.envelope.data);
	if (request.refused_status != 0 &&
		(request.refused_status < 400 || request.refused_status > 499 ||
		 request.refused_code == NULL || request.refused_message == NULL ||
		 (request.refused_sqlstate == 0 && !page)))
		shim_fail("a refusal lacks its status, code, message or SQLSTATE");
	n = request.nelements;
	if (request.refused_status == 0 && !request.not_mine)
	{
		if (DIALECT.translate != NULL)
			for (int i = 0; i < n && i < MAX_ELEMENTS; i++)
				translate(&request, i);
		else if (n == 0 && !page)
			n = 1;
		if (page)
			answer(&request, 0);
	}
	free(copy);
	request.body = CDI_NO_TEXT;
	request.nkeys = request.nelements = 0;
	request.elements = NULL;
	if (!page)
	{
		request.private_data = NULL;
		if (request.refused_status == 0 && !request.not_mine)
			answer(&request, n);
	}
	refuse(&request);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CdiText		input = {(const char *) data, (int) size};
	int			result = run(input);

	shim_reset();
	return result;
}
