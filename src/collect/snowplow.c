/*
 * snowplow.c
 *		The dialect of Snowplow's trackers: their requests.
 *
 * A tracker tries again for ever unless the answer is 200, 400, 401, 403, 410
 * or 422, old ones whatever the error is, and one request that never succeeds
 * then blocks all that queue behind it.  So a request that could be taken
 * apart is answered 200, even where an event of it has failed: that one is in
 * cdi.failed_events, as Snowplow's own collector keeps bad rows.
 *
 * Trackers have no write key.  Their application id (aid) stands for it.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/snowplow.h"

/* Route types: what the elements of a request are */
#define TRACKER			"tracker"
#define REDIRECT		"redirect"
#define SELF_DESCRIBING	"self_describing"
#define ROBOTS			"robots"
#define CROSS_DOMAIN	"crossdomain"

static const CdiRoute routes[] = {
	{"/com.snowplowanalytics.snowplow/tp2", TRACKER, CDI_ROUTE_GET},
	{"/com.snowplowanalytics.snowplow/tp1", TRACKER, CDI_ROUTE_GET},
	{"/com.snowplowanalytics.iglu/v1", SELF_DESCRIBING, CDI_ROUTE_GET},
	{"/i", TRACKER, CDI_ROUTE_GET},
	{"/ice.png", TRACKER, CDI_ROUTE_GET},
	{"/r/tp2", REDIRECT, CDI_ROUTE_GET},
	{"/robots.txt", ROBOTS, CDI_ROUTE_PAGE | CDI_ROUTE_PUBLIC},
	{"/crossdomain.xml", CROSS_DOMAIN, CDI_ROUTE_PAGE | CDI_ROUTE_PUBLIC},
	/* customPostPath of the trackers, "vendor/version", against blockers */
	{"/com.*", TRACKER, CDI_ROUTE_GET},
	{"/snowplow/*", TRACKER, CDI_ROUTE_GET},
	{NULL, NULL, 0}
};

/* One transparent pixel, GIF89a */
static const char pixel[43] =
"GIF89a\x01\x00\x01\x00\xf0\x00\x00\xff\xff\xff\x00\x00\x00"
"\x21\xf9\x04\x01\x00\x00\x00\x00"
"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";

static bool
is_type(const CdiRequest *request, const char *type)
{
	return strcmp(request->route->type, type) == 0;
}

static void
refuse_event(CdiRequest *request, const char *message, const char *detail)
{
	request->refused_status = 400;
	request->refused_code = "invalid_event";
	request->refused_sqlstate = ERRCODE_CDI_INVALID_EVENT;
	request->refused_message = message;
	request->refused_detail = detail;
}

/*
 * Where a redirect leads
 *
 * A collector that redirects anywhere lends its name to whoever wants to look
 * like it.  So the host must be in the setting, and addresses that browsers
 * might read otherwise than this code are none.
 */
static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
}

static bool
same_host(CdiText a, CdiText b)
{
	if (a.len != b.len)
		return false;
	for (int i = 0; i < a.len; i++)
		if (lower(a.data[i]) != lower(b.data[i]))
			return false;
	return true;
}

static bool
is_host_character(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
}

/* The host of an http or https address, which must have no user. */
static CdiText
redirect_host(CdiText address)
{
	CdiText		scheme = {address.data, 0};
	CdiText		host = CDI_NO_TEXT;
	int			at;

	for (at = 0; at < address.len; at++)
		if ((unsigned char) address.data[at] < 0x20 || address.data[at] == 0x7f)
			return host;
	for (at = 0; at < address.len && address.data[at] != ':'; at++)
		scheme.len++;
	if (!same_host(scheme, cdi_text("http")) && !same_host(scheme, cdi_text("https")))
		return host;
	if (at + 3 > address.len || memcmp(address.data + at, "://", 3) != 0)
		return host;
	at += 3;
	host.data = address.data + at;
	while (at < address.len && is_host_character(lower(address.data[at])))
	{
		at++;
		host.len++;
	}
	if (at < address.len && address.data[at] == ':')
		for (at++; at < address.len && address.data[at] >= '0' && address.data[at] <= '9'; at++)
			;
	if (host.len == 0 || (at < address.len && memchr("/?#", address.data[at], 3) == NULL))
		return CDI_NO_TEXT;
	return host;
}

/* Entries are hosts, or "*.example.com" for all below one. */
static bool
redirect_allowed(CdiText address)
{
	CdiText		host = redirect_host(address);
	const char *at = cdi_collector_redirect_domains;

	if (host.data == NULL || at == NULL)
		return false;
	while (*at != '\0')
	{
		CdiText		entry = {at, (int) strcspn(at, ",")};

		at += entry.len;
		if (*at == ',')
			at++;
		entry = cdi_text_trim(entry);
		if (entry.len > 2 && entry.data[0] == '*' && entry.data[1] == '.')
		{
			CdiText		end = host;

			entry.data++;
			entry.len--;
			if (host.len > entry.len)
			{
				end.data += host.len - entry.len;
				end.len = entry.len;
				if (same_host(end, entry))
					return true;
			}
		}
		else if (same_host(host, entry))
			return true;
	}
	return false;
}

/* An address as a header may hold it: queries have theirs decoded. */
static char *
escape_address(CdiText address, bool bytes_only)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < address.len; i++)
	{
		unsigned char c = (unsigned char) address.data[i];

		if (c >= 0x7f || (!bytes_only && (c <= 0x20 || strchr("\"<>\\^`{|}", c) != NULL)))
			appendStringInfo(&out, "%%%02X", c);
		else
			appendStringInfoCharMacro(&out, (char) c);
	}
	return out.data;
}

/*
 * The cookie sp.  Its value is kept as it is, so that the visitors of a site
 * that moves here stay who they are.
 */
static bool
is_visitor(CdiText cookie)
{
	if (cookie.data == NULL || cookie.len < 8 ||
		cookie.len >= (int) sizeof(((CdiRequest *) NULL)->memo) ||
		cdi_text_is(cookie, CDI_SNOWPLOW_NOBODY))
		return false;
	for (int i = 0; i < cookie.len; i++)
	{
		char		c = lower(cookie.data[i]);

		if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' && c != '.')
			return false;
	}
	return true;
}

static void
write_visitor(CdiRequest *request, StringInfo envelope)
{
	CdiText		cookie = cdi_request_cookie(request, "sp");

	request->anonymous = cdi_request_header(request, "SP-Anonymous") != NULL;
	if (request->anonymous)
	{
		cdi_write_bool(envelope, "anonymous", true);
		return;
	}
	if (is_visitor(cookie))
	{
		memcpy(request->memo, cookie.data, cookie.len);
		request->memo[cookie.len] = '\0';
	}
	else if (cdi_request_uuid(request->memo))
		cdi_write_bool(envelope, "fresh", true);
	else
		return;
	cdi_write_string(envelope, "networkUserId", request->memo);
}

/* The source has cookieless ids: the envelope without the cookie's, or the id
 * that was made to be one. */
static void
forget_visitor(CdiRequest *request)
{
	StringInfoData envelope;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	request->memo[0] = '\0';
	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_scan_object(&scan, request->envelope);
	while (cdi_scan_member(&scan, &key, &value))
		if (!cdi_text_is(key, "networkUserId") && !cdi_text_is(key, "fresh"))
			cdi_write_member(&envelope, key, value);
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

/* An address, in whatever bytes, means the same in ASCII. */
static void
write_address(StringInfo envelope, const char *name, CdiText address)
{
	if (address.len > 0)
		cdi_write_string(envelope, name, escape_address(address, true));
}

/* Platforms that are, or are not, the device of a person */
static void
note_platform(CdiRequest *request, CdiText platform)
{
	static const char *const devices[] = {"web", "mob", "tv", "cnsl", "headset", NULL};

	for (int i = 0; devices[i] != NULL; i++)
		if (cdi_text_is(platform, devices[i]))
			request->from_device = true;
	if (cdi_text_is(platform, "srv"))
		request->from_device = false;
}

static void
add_application(CdiRequest *request, CdiText aid)
{
	if (aid.data != NULL && aid.len > 0)
		cdi_request_add_key(request, aid);
}

/*
 * Bodies
 */

/* The events of a body all go to the source of the first. */
static void
add_payloads(CdiRequest *request, CdiText data)
{
	CdiScan		scan;
	CdiText		first;

	cdi_scan_array(&scan, data);
	if (cdi_scan_element(&scan, &first) && cdi_scan_kind(first) == '{')
	{
		add_application(request, cdi_scan_string(cdi_scan_get(first, "aid")));
		note_platform(request, cdi_scan_string(cdi_scan_get(first, "p")));
	}
	else if (!scan.malformed && !scan.open)
	{
		refuse_event(request, "the body has no events", "Its member \"data\" is an empty array.");
		return;
	}
	cdi_request_add_array(request, data);
}

static void
unpack_tracker_body(CdiRequest *request, StringInfo envelope)
{
	CdiText		data = CDI_NO_TEXT;
	bool		others = false;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, request->body);
	while (cdi_scan_member(&scan, &key, &value))
		if (cdi_text_is(key, "data"))
			data = value;
		else if (!cdi_text_is(key, "schema"))
			others = true;
	if (scan.malformed)
	{
		cdi_request_refuse_json(request, "A body of the tracker protocol is an object with \"schema\" and \"data\".");
		return;
	}
	if (others)
	{
		cdi_write_open(envelope, "members", '{');
		cdi_scan_object(&scan, request->body);
		while (cdi_scan_member(&scan, &key, &value))
			if (!cdi_text_is(key, "data") && !cdi_text_is(key, "schema"))
				cdi_write_member(envelope, key, value);
		cdi_write_close(envelope, '}');
	}
	write_address(envelope, "query", request->query);
	if (cdi_scan_kind(data) == '[')
		add_payloads(request, data);
	else
		refuse_event(request, "the body has no events", "It has no array \"data\".");
}

static void
unpack_self_describing_body(CdiRequest *request, StringInfo envelope)
{
	write_address(envelope, "query", request->query);
	if (cdi_scan_kind(request->body) == '[')
		cdi_request_add_array(request, request->body);
	else if (cdi_scan_kind(request->body) == '{')
		cdi_request_add_element(request, request->body);
	else
		cdi_request_refuse_json(request, "A self-describing event is an object with \"schema\" and \"data\".");
}

static void
unpack_query(CdiRequest *request)
{
	if (request->query.len == 0)
		refuse_event(request, "the request has no event", "Its address has no query string.");
	else
		cdi_request_add_element(request, request->query);
}

static void
unpack(CdiRequest *request)
{
	bool		body = request->method == CDI_HTTP_POST && !is_type(request, REDIRECT);
	const char *referer = cdi_request_header(request, "Referer");
	StringInfoData envelope;
	const char *form;

	if (request->route->flags & CDI_ROUTE_PAGE)
		return;
	request->body = cdi_text_trim(request->body);
	if (is_type(request, REDIRECT))
		form = CDI_SNOWPLOW_REDIRECT;
	else if (is_type(request, SELF_DESCRIBING))
		form = body ? CDI_SNOWPLOW_JSON : CDI_SNOWPLOW_FIELDS;
	else
		form = body ? CDI_SNOWPLOW_PAYLOAD : CDI_SNOWPLOW_QUERY;

	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_write_string(&envelope, "form", form);
	write_visitor(request, &envelope);
	if (!body)
	{
		request->from_device = true;
		if (referer != NULL && !is_type(request, REDIRECT))
			write_address(&envelope, "referer", cdi_text(referer));
	}
	if (strcmp(form, CDI_SNOWPLOW_PAYLOAD) == 0)
		unpack_tracker_body(request, &envelope);
	else if (strcmp(form, CDI_SNOWPLOW_JSON) == 0)
		unpack_self_describing_body(request, &envelope);
	else
	{
		note_platform(request, cdi_form_get(request->query, "p"));
		unpack_query(request);
	}
	add_application(request, cdi_form_get(request->query, "aid"));
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);

	if (is_type(request, REDIRECT) && request->refused_status == 0 &&
		!redirect_allowed(cdi_form_get(request->query, "u")))
		refuse_event(request, "the address of the redirect is missing or not allowed",
					 "The parameter \"u\" must be an http or https address whose host is in cdi.collector_redirect_domains.");
}

/*
 * Answers
 */
static void
answer_page(const CdiRequest *request, CdiReply *reply)
{
	if (is_type(request, ROBOTS))
	{
		reply->content_type = "text/plain";
		appendStringInfoString(reply->body, "User-agent: *\nDisallow: /\n");
	}
	else
	{
		/* Flash is gone; who still asks may do nothing. */
		reply->content_type = "text/xml";
		appendStringInfoString(reply->body,
							   "<?xml version=\"1.0\"?>\n"
							   "<cross-domain-policy>\n"
							   "  <site-control permitted-cross-domain-policies=\"none\"/>\n"
							   "</cross-domain-policy>\n");
	}
}

static void
answer_redirect(const CdiRequest *request, CdiReply *reply)
{
	reply->status = 302;
	reply->content_type = "text/plain";
	reply->location = escape_address(cdi_form_get(request->query, "u"), false);
	reply->no_store = true;
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	if (request->route->flags & CDI_ROUTE_PAGE)
	{
		answer_page(request, reply);
		return;
	}
	if (request->memo[0] != '\0')
		reply->cookie = cdi_request_cookie_header("sp", cdi_text(request->memo));
	reply->no_store = true;
	if (is_type(request, REDIRECT))
		answer_redirect(request, reply);
	else if (request->method == CDI_HTTP_POST)
	{
		reply->content_type = "text/plain";
		appendStringInfoString(reply->body, "ok");
	}
	else
	{
		reply->content_type = "image/gif";
		appendBinaryStringInfo(reply->body, pixel, sizeof(pixel));
	}
}

/*
 * Nobody sends a click again.  Who clicked on a link of the owner's gets to
 * where it leads, even where the click cannot be kept.
 */
static void
refuse(const CdiRequest *request, int status, const char *code,
	   const char *message, CdiReply *reply)
{
	if (is_type(request, REDIRECT) && redirect_allowed(cdi_form_get(request->query, "u")))
		answer_redirect(request, reply);
	else
		cdi_segment_refuse(request, status, code, message, reply);
	/* 413 is tried again for ever, and would be recorded each time. */
	if (reply->status == 413)
		reply->status = 422;
}

const CdiDialect cdi_snowplow_dialect = {
	.name = "snowplow",
	.routes = routes,
	.keyless = true,
	.unpack = unpack,
	.translate = cdi_snowplow_translate,
	.forget_visitor = forget_visitor,
	.answer = answer,
	.refuse = refuse
};
