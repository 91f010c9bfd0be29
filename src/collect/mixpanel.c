/*
 * mixpanel.c
 *		The dialect of Mixpanel's SDKs: /track, /engage, /groups and /import.
 *
 * Events and updates of profiles come as JSON, or as data= of a form or query
 * in base64.  The token of the project is in each of them.
 *
 * The older endpoints answer "1" or "0", with verbose=1 an object; /import
 * answers an object that lists what was wrong.  The Node SDK sends forms to
 * /import as well, and wants to hear "1" there.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/members.h"
#include "collect/mixpanel.h"

static const CdiRoute routes[] = {
	{"/track", "track", CDI_ROUTE_GET},		/* with PostHog */
	{"/engage", "engage", CDI_ROUTE_GET},
	{"/groups", "groups", CDI_ROUTE_GET},
	{"/import", "import", CDI_ROUTE_GET},
	{"/settings", "settings", CDI_ROUTE_PAGE},
	{"/flags", "flags", CDI_ROUTE_PAGE},	/* with PostHog */
	{"/flags/definitions", "definitions", CDI_ROUTE_PAGE},	/* with PostHog */
	{NULL, NULL, 0}
};

/* What the sender wants to hear, in the request's memo: 'y' or not */
enum
{
	MEMO_VERBOSE, MEMO_IMAGE, MEMO_LENIENT, MEMO_FORM
};

static bool
is_type(const CdiRequest *request, const char *type)
{
	return request->route != NULL && request->route->type != NULL &&
		strcmp(request->route->type, type) == 0;
}

/*
 * Unpack
 */
static bool
is_json(CdiText text)
{
	char		kind = cdi_scan_kind(text);

	return kind == '{' || kind == '[';
}

/* What the sender said of the request, in the query or beside data= */
static void
take_parameters(CdiRequest *request, CdiText form)
{
	CdiText		name;
	CdiText		value;

	while (cdi_form_next(&form, &name, &value))
	{
		bool		yes = cdi_text_is(value, "1");

		if (cdi_text_is(name, "verbose"))
			request->memo[MEMO_VERBOSE] = yes ? 'y' : 'n';
		else if (cdi_text_is(name, "img"))
			request->memo[MEMO_IMAGE] = yes ? 'y' : 'n';
		else if (cdi_text_is(name, "strict"))
			request->memo[MEMO_LENIENT] = cdi_text_is(value, "0") ? 'y' : 'n';
		else if (cdi_text_is(name, "ip"))
			request->from_device = yes;
	}
}

static CdiText
payload_of(CdiRequest *request)
{
	CdiText		body = cdi_text_trim(request->body);
	CdiText		data = CDI_NO_TEXT;
	CdiText		decoded;

	take_parameters(request, request->query);
	if (request->method == CDI_HTTP_POST && is_json(body))
		return body;
	request->memo[MEMO_FORM] = 'y';
	if (request->method == CDI_HTTP_POST)
	{
		take_parameters(request, body);
		data = cdi_form_get(body, "data");
	}
	if (data.data == NULL)
		data = cdi_form_get(request->query, "data");
	if (is_json(data))
		return cdi_text_trim(data);
	decoded = cdi_base64_decode_utf16(data);
	return cdi_text_trim(decoded);
}

/* The first event, of a body that may be cut off behind it */
static CdiText
first_of(CdiText payload)
{
	CdiScan		scan;
	CdiText		element;

	if (cdi_scan_kind(payload) != '[')
		return payload;
	cdi_scan_array(&scan, payload);
	return cdi_scan_element(&scan, &element) ? element : CDI_NO_TEXT;
}

/* Objects one behind the other, each on a line of its own */
static void
add_lines(CdiRequest *request, CdiText text)
{
	int			length = text.len;

	while (text.len > 0)
	{
		CdiText		line = cdi_text_trim(cdi_text_split(&text, '\n'));

		if (line.len > 0)
			cdi_request_add_element(request, line);
		if (cdi_scan_crowded(request->nelements, length))
		{
			cdi_request_refuse_json(request, "Its lines are too short to be events.");
			return;
		}
	}
}

static bool
well_formed(CdiText object)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		 /* to its end */ ;
	return !scan.malformed;
}

static void
add_elements(CdiRequest *request, CdiText payload)
{
	if (cdi_scan_kind(payload) == '[')
		cdi_request_add_array(request, payload);
	else if (cdi_scan_kind(payload) != '{')
		cdi_request_refuse_json(request, "Mixpanel's SDKs send an object or an array, as it is or as data= in base64.");
	else if (well_formed(payload))
		cdi_request_add_element(request, payload);
	else if (is_type(request, "import"))
		add_lines(request, payload);
	else
		cdi_request_refuse_json(request, NULL);
}

static void
unpack(CdiRequest *request)
{
	CdiText		payload;
	CdiText		first;

	cdi_request_add_key(request, cdi_form_get(request->query, "token"));
	cdi_request_add_key(request, cdi_form_get(request->query, "api_key"));
	if (request->route->flags & CDI_ROUTE_PAGE)
	{
		request->not_mine = is_type(request, "flags") &&
			cdi_form_get(request->query, "mp_lib").data == NULL;
		return;
	}
	payload = payload_of(request);
	first = first_of(payload);
	/* PostHog's events have their key beside them. */
	if (is_type(request, "track") && (cdi_scan_get(first, "api_key").data != NULL ||
									  cdi_scan_get(first, "token").data != NULL))
	{
		memset(request->memo, 0, sizeof(request->memo));
		request->not_mine = true;
		return;
	}
	add_elements(request, payload);
	cdi_request_add_key(request, cdi_scan_string(cdi_scan_get(first, "$token")));
	cdi_request_add_key(request, cdi_scan_string(cdi_scan_path(first, "properties", "token", NULL)));
	request->envelope = cdi_text(psprintf("{\"endpoint\":\"%s\"}", request->route->type));
}

/*
 * Answers
 */

/* A transparent image of one pixel */
static const char pixel[] =
"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
"!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02" "D\x01\x00;";

static bool
wants(const CdiRequest *request, int what, const char *name)
{
	return request->memo[what] != '\0' ? request->memo[what] == 'y' :
		cdi_text_is(cdi_form_get(request->query, name), "1");
}

static bool
wants_import_answer(const CdiRequest *request)
{
	return is_type(request, "import") && request->memo[MEMO_FORM] != 'y';
}

static void
write_status(const CdiRequest *request, bool good, const char *error, CdiReply *reply)
{
	StringInfo	out = reply->body;

	if (wants(request, MEMO_IMAGE, "img") && good)
	{
		appendBinaryStringInfo(out, pixel, sizeof(pixel) - 1);
		reply->content_type = "image/gif";
		reply->no_store = true;
	}
	else if (wants(request, MEMO_VERBOSE, "verbose"))
	{
		cdi_write_open(out, NULL, '{');
		cdi_write_number(out, "status", good ? 1 : 0);
		if (error != NULL)
			cdi_write_string(out, "error", error);
		else
			cdi_write_value(out, "error", cdi_text("null"));
		cdi_write_close(out, '}');
	}
	else
		appendStringInfoChar(out, good ? '1' : '0');
}

static const char *
field_of(const CdiComplaint *complaint)
{
	switch (complaint->sqlstate)
	{
		case ERRCODE_CDI_NO_IDENTIFIER:
			return "properties.distinct_id";
		case ERRCODE_CDI_INVALID_TIMESTAMP:
			return "properties.time";
		default:
			return "event";
	}
}

static void
answer_import(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	StringInfo	out = reply->body;
	bool		lenient = request->memo[MEMO_LENIENT] == 'y';

	if (answer->failed > 0 && !lenient)
		reply->status = answer->received == 1 && answer->ncomplaints == 1 &&
			answer->complaints[0].sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
	cdi_write_open(out, NULL, '{');
	cdi_write_number(out, "code", reply->status);
	if (reply->status != 200)
		cdi_write_string(out, "error", "some data points in the request failed validation");
	cdi_write_number(out, "num_records_imported", answer->received - answer->failed);
	cdi_write_string(out, "status", reply->status == 200 ? "OK" : "Bad Request");
	if (reply->status != 200)
	{
		cdi_write_open(out, "failed_records", '[');
		for (int i = 0; i < answer->ncomplaints; i++)
		{
			const CdiComplaint *complaint = &answer->complaints[i];

			cdi_write_open(out, NULL, '{');
			cdi_write_number(out, "index", complaint->index);
			cdi_write_string(out, "insert_id", complaint->message_id ? complaint->message_id : "");
			cdi_write_string(out, "field", field_of(complaint));
			cdi_write_string(out, "message", complaint->message);
			cdi_write_close(out, '}');
		}
		cdi_write_close(out, ']');
	}
	cdi_write_close(out, '}');
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	bool		good = answer->failed == 0 || answer->failed < answer->received;
	const char *error = answer->ncomplaints > 0 ? answer->complaints[0].message : NULL;

	if (is_type(request, "settings"))
		appendStringInfoString(reply->body, "{\"sdk_config\":{}}");
	else if (is_type(request, "flags"))
		appendStringInfoString(reply->body, "{\"flags\":{}}");
	else if (is_type(request, "definitions"))
		/* Mixpanel's servers want the first of these, PostHog's all three. */
		appendStringInfoString(reply->body, "{\"flags\":[],\"group_type_mapping\":{},\"cohorts\":{}}");
	else if (wants_import_answer(request))
		answer_import(request, answer, reply);
	else
	{
		if (!good)
			reply->status = answer->received == 1 && answer->ncomplaints == 1 &&
				answer->complaints[0].sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
		write_status(request, good, error, reply);
	}
}

static void
refuse(const CdiRequest *request, int status, const char *code, const char *message,
	   CdiReply *reply)
{
	reply->status = status;
	if (!wants_import_answer(request) &&
		(request->route == NULL || !(request->route->flags & CDI_ROUTE_PAGE)))
	{
		write_status(request, false, message, reply);
		return;
	}
	cdi_write_open(reply->body, NULL, '{');
	cdi_write_number(reply->body, "code", status);
	cdi_write_string(reply->body, "error", message);
	cdi_write_string(reply->body, "status", code);
	cdi_write_close(reply->body, '}');
}

const CdiDialect cdi_mixpanel_dialect = {
	.name = "mixpanel",
	.routes = routes,
	.unpack = unpack,
	.translate = cdi_mixpanel_translate,
	.answer = answer,
	.refuse = refuse
};
