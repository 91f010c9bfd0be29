/*
 * ga4.c
 *		The dialect of Google Analytics 4: the Measurement Protocol.
 *
 * A request has a list of events and, beside it, what holds for all of them:
 * whose they are, when they happened, consent.  Google's own limits (25 events,
 * 25 parameters, lengths) are told by the debug endpoint and enforced nowhere:
 * what comes is kept.
 *
 * Google answers 204 to anything.  So do we where something was recorded, as
 * events or as a failure; a key that nobody has and trouble of ours, of which
 * nothing would be left, are told.
 *
 * What gtag.js sends has nothing of this but names; it is in gtag.c.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/ga4.h"
#include "collect/members.h"

#define MAX_REPEATED		(16 * 1024 * 1024)	/* bytes */
#define ALWAYS_TAKEN		1000
#define MIN_EVENT_LENGTH	64	/* on average, of more than those */

static const CdiRoute routes[] = {
	{"/mp/collect", "mp", 0},
	{"/debug/mp/collect", "debug", CDI_ROUTE_PAGE | CDI_ROUTE_PUBLIC},
	{"/g/collect", "gtag", CDI_ROUTE_GET},
	{NULL, NULL, 0}
};

/*
 * Members of a request that mean something here; others are kept as they are.
 * Google reads each in either spelling.
 */
enum
{
	M_CLIENT_ID, M_APP_INSTANCE_ID, M_USER_ID, M_TIMESTAMP, M_USER_PROPERTIES, M_CONSENT,
	M_LOCATION, M_DEVICE, M_IP, M_USER_DATA, M_USER_AGENT, M_COUNT
};

static const CdiWanted members[] = {
	CDI_WANTED("client_id", M_CLIENT_ID),
	CDI_WANTED("clientId", M_CLIENT_ID),
	CDI_WANTED("app_instance_id", M_APP_INSTANCE_ID),
	CDI_WANTED("appInstanceId", M_APP_INSTANCE_ID),
	CDI_WANTED("user_id", M_USER_ID),
	CDI_WANTED("userId", M_USER_ID),
	CDI_WANTED("timestamp_micros", M_TIMESTAMP),
	CDI_WANTED("timestampMicros", M_TIMESTAMP),
	CDI_WANTED("user_properties", M_USER_PROPERTIES),
	CDI_WANTED("userProperties", M_USER_PROPERTIES),
	CDI_WANTED("consent", M_CONSENT),
	CDI_WANTED("user_location", M_LOCATION),
	CDI_WANTED("userLocation", M_LOCATION),
	CDI_WANTED("device", M_DEVICE),
	CDI_WANTED("ip_override", M_IP),
	CDI_WANTED("ipOverride", M_IP),
	CDI_WANTED("user_data", M_USER_DATA),
	CDI_WANTED("userData", M_USER_DATA),
	CDI_WANTED("user_agent", M_USER_AGENT),
	CDI_WANTED("userAgent", M_USER_AGENT),
	CDI_WANTED_END
};

/* Members of an event */
enum
{
	E_NAME, E_PARAMS, E_TIMESTAMP, E_COUNT
};

static const CdiWanted event_members[] = {
	CDI_WANTED("name", E_NAME),
	CDI_WANTED("params", E_PARAMS),
	CDI_WANTED("timestamp_micros", E_TIMESTAMP),
	CDI_WANTED("timestampMicros", E_TIMESTAMP),
	CDI_WANTED_END
};

/* Parameters that say something of page, visit or device */
enum
{
	P_URL, P_TITLE, P_REFERRER, P_SESSION_ID, P_LANGUAGE, P_RESOLUTION, P_SCREEN_NAME,
	P_SCREEN, P_SOURCE, P_MEDIUM, P_CAMPAIGN, P_TERM, P_CONTENT, P_CAMPAIGN_ID, P_COUNT
};

static const CdiWanted params[] = {
	CDI_WANTED("page_location", P_URL),
	CDI_WANTED("page_title", P_TITLE),
	CDI_WANTED("page_referrer", P_REFERRER),
	CDI_WANTED("session_id", P_SESSION_ID),
	CDI_WANTED("ga_session_id", P_SESSION_ID),
	CDI_WANTED("language", P_LANGUAGE),
	CDI_WANTED("screen_resolution", P_RESOLUTION),
	CDI_WANTED("screen_name", P_SCREEN_NAME),
	CDI_WANTED("firebase_screen", P_SCREEN),
	CDI_WANTED("source", P_SOURCE),
	CDI_WANTED("medium", P_MEDIUM),
	CDI_WANTED("campaign", P_CAMPAIGN),
	CDI_WANTED("term", P_TERM),
	CDI_WANTED("content", P_CONTENT),
	CDI_WANTED("campaign_id", P_CAMPAIGN_ID),
	CDI_WANTED_END
};

/* Of the request's device */
enum
{
	D_LANGUAGE, D_RESOLUTION, D_OS, D_OS_VERSION, D_COUNT
};

static const CdiWanted device_members[] = {
	CDI_WANTED("language", D_LANGUAGE),
	CDI_WANTED("screen_resolution", D_RESOLUTION),
	CDI_WANTED("operating_system", D_OS),
	CDI_WANTED("operating_system_version", D_OS_VERSION),
	CDI_WANTED_END
};

static const CdiPart os_parts[] = {
	{"os", "name", D_OS},
	{"os", "version", D_OS_VERSION},
	{NULL, NULL, 0}
};

static const CdiPart page_parts[] = {
	{"page", "url", P_URL},
	{"page", "title", P_TITLE},
	{"page", "referrer", P_REFERRER},
	{NULL, NULL, 0}
};

/* Of the event campaign_details only: elsewhere "source" may be anything */
static const CdiPart campaign_parts[] = {
	{"campaign", "source", P_SOURCE},
	{"campaign", "medium", P_MEDIUM},
	{"campaign", "name", P_CAMPAIGN},
	{"campaign", "term", P_TERM},
	{"campaign", "content", P_CONTENT},
	{"campaign", "id", P_CAMPAIGN_ID},
	{NULL, NULL, 0}
};

static bool
is_route(const CdiRequest *request, const char *type)
{
	return strcmp(request->route->type, type) == 0;
}

/*
 * Unpack
 */

/* The body without its events, and the stream that the address names */
static bool
write_envelope(CdiRequest *request, CdiText *events)
{
	StringInfoData envelope;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_scan_object(&scan, request->body);
	while (cdi_scan_member(&scan, &key, &value))
	{
		if (cdi_text_is(key, "events"))
			*events = value;
		else
			cdi_write_member(&envelope, key, value);
	}
	cdi_write_text(&envelope, "measurement_id", cdi_form_get(request->query, "measurement_id"));
	cdi_write_text(&envelope, "firebase_app_id", cdi_form_get(request->query, "firebase_app_id"));
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
	return !scan.malformed;
}

/*
 * Each event takes along what it shares with the others.  Without a limit a
 * small body would be made as large as its halves multiplied, or be a million
 * events of a byte.
 */
static void
check_size(CdiRequest *request)
{
	if ((int64) request->nelements * request->envelope.len <= MAX_REPEATED &&
		(request->nelements <= ALWAYS_TAKEN ||
		 request->nelements <= request->body.len / MIN_EVENT_LENGTH))
		return;
	request->refused_status = 413;
	request->refused_code = "body_too_large";
	request->refused_sqlstate = ERRCODE_CDI_EVENT_TOO_LARGE;
	request->refused_message = "the request has too many events for what they share";
	request->refused_detail = "Send fewer events in a request.";
}

static void
unpack_mp(CdiRequest *request)
{
	CdiText		events = CDI_NO_TEXT;

	cdi_request_add_key(request, cdi_form_get(request->query, "api_secret"));
	cdi_request_add_key(request, cdi_form_get(request->query, "measurement_id"));
	cdi_request_add_key(request, cdi_form_get(request->query, "firebase_app_id"));
	if (!write_envelope(request, &events))
		cdi_request_refuse_json(request, "The Measurement Protocol sends one JSON object.");
	else if (cdi_scan_kind(events) == '{')	/* one library does so */
		cdi_request_add_element(request, events);
	else
		cdi_request_add_array(request, events);
}

static void
unpack(CdiRequest *request)
{
	if (is_route(request, "debug"))
	{
		StringInfo	messages = makeStringInfo();

		cdi_ga4_validate(request, messages);
		request->private_data = messages;
		return;
	}
	if (is_route(request, "gtag"))
		cdi_gtag_unpack(request);
	else
		unpack_mp(request);
	if (request->refused_status == 0)
		check_size(request);
}

/*
 * Translate
 */
const char *
cdi_ga4_type(CdiText name)
{
	if (cdi_text_is(name, "page_view"))
		return "page";
	if (cdi_text_is(name, "screen_view"))
		return "screen";
	return "track";
}

void
cdi_ga4_write_screen(StringInfo out, CdiText resolution)
{
	int			split = 0;

	for (int i = 0; i < resolution.len; i++)
	{
		if (resolution.data[i] == 'x' && split == 0 && i > 0)
			split = i;
		else if (resolution.data[i] < '0' || resolution.data[i] > '9')
			return;
	}
	/* A leading zero would be no number in JSON. */
	if (split == 0 || split == resolution.len - 1 ||
		resolution.data[0] == '0' || resolution.data[split + 1] == '0')
		return;
	cdi_write_open(out, "screen", '{');
	cdi_write_value(out, "width", (CdiText) {resolution.data, split});
	cdi_write_value(out, "height", (CdiText) {resolution.data + split + 1, resolution.len - split - 1});
	cdi_write_close(out, '}');
}

/* {"plan": {"value": "pro"}} as {"plan": "pro"} */
static void
write_traits(StringInfo out, CdiText properties)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;
	int			start = cdi_members_open(out, "traits");

	cdi_scan_object(&scan, properties);
	while (cdi_scan_member(&scan, &key, &value))
	{
		if (cdi_scan_kind(value) == '{')
		{
			CdiText		inner = cdi_scan_get(value, "value");

			cdi_write_member(out, key, inner.data != NULL ? inner : cdi_text("null"));
		}
		else
			cdi_write_member(out, key, value);
	}
	cdi_members_close(out, "traits", start);
}

/* What has no place of its own, of the request and of the event */
static void
write_rest(StringInfo out, CdiText envelope, CdiText event)
{
	int			start = cdi_members_open(out, "google");

	cdi_members_copy_others(out, envelope, members);
	cdi_members_copy_others(out, event, event_members);
	cdi_members_close(out, "google", start);
}

static void
write_context(CdiTranslation *translation, const CdiText *request, const CdiText *event,
			  const CdiText *param)
{
	StringInfo	out = translation->call;
	CdiText		device[D_COUNT] = {{0}};

	if (cdi_scan_kind(request[M_DEVICE]) == '{')
		(void) cdi_scan_gather(request[M_DEVICE], device_members, device);
	cdi_write_open(out, "context", '{');
	cdi_write_present(out, "ip", request[M_IP]);
	cdi_write_present(out, "userAgent", request[M_USER_AGENT]);
	cdi_write_present(out, "locale", cdi_scan_present(param[P_LANGUAGE]) ?
					  param[P_LANGUAGE] : device[D_LANGUAGE]);
	cdi_write_present(out, "sessionId", param[P_SESSION_ID]);
	cdi_write_present(out, "consent", request[M_CONSENT]);
	cdi_write_present(out, "location", request[M_LOCATION]);
	cdi_write_present(out, "device", request[M_DEVICE]);
	cdi_write_present(out, "user_data", request[M_USER_DATA]);
	cdi_ga4_write_screen(out, cdi_scan_string(cdi_scan_present(param[P_RESOLUTION]) ?
											  param[P_RESOLUTION] : device[D_RESOLUTION]));
	cdi_write_parts(out, os_parts, device);
	cdi_write_parts(out, page_parts, param);
	if (cdi_scan_string_is(event[E_NAME], "campaign_details"))
		cdi_write_parts(out, campaign_parts, param);
	write_rest(out, translation->envelope, translation->payload);
	cdi_write_close(out, '}');
}

static void
translate_mp(CdiTranslation *translation)
{
	StringInfo	out = translation->call;
	CdiText		request[M_COUNT] = {{0}};
	CdiText		event[E_COUNT] = {{0}};
	CdiText		param[P_COUNT] = {{0}};
	const char *type;

	if (cdi_scan_kind(translation->payload) != '{')
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT, "event must be a JSON object");
		return;
	}
	if (!cdi_scan_gather(translation->envelope, members, request) ||
		!cdi_scan_gather(translation->payload, event_members, event) ||
		(cdi_scan_kind(event[E_PARAMS]) == '{' && !cdi_scan_gather(event[E_PARAMS], params, param)))
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
		return;
	}
	type = cdi_ga4_type(cdi_scan_string(event[E_NAME]));
	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	if (strcmp(type, "track") == 0)
		cdi_write_present(out, "event", event[E_NAME]);
	else if (strcmp(type, "screen") == 0)
		cdi_write_present(out, "name", cdi_scan_present(param[P_SCREEN_NAME]) ?
						  param[P_SCREEN_NAME] : param[P_SCREEN]);
	cdi_write_present(out, "userId", request[M_USER_ID]);
	cdi_write_present(out, "anonymousId", cdi_scan_present(request[M_CLIENT_ID]) ?
					  request[M_CLIENT_ID] : request[M_APP_INSTANCE_ID]);
	if (cdi_scan_present(event[E_TIMESTAMP]))
		cdi_write_epoch(out, "timestamp", event[E_TIMESTAMP], CDI_MICROSECONDS);
	else if (cdi_scan_present(request[M_TIMESTAMP]))
		cdi_write_epoch(out, "timestamp", request[M_TIMESTAMP], CDI_MICROSECONDS);
	write_traits(out, request[M_USER_PROPERTIES]);
	write_context(translation, request, event, param);
	cdi_write_present(out, "properties", event[E_PARAMS]);
	cdi_write_close(out, '}');
}

static void
translate(CdiTranslation *translation)
{
	CdiText		shared = cdi_scan_get(translation->envelope, "gtag");

	if (shared.data != NULL)
		cdi_gtag_translate(translation, cdi_scan_string(shared));
	else
		translate_mp(translation);
}

/*
 * Answers
 */
static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	if (is_route(request, "debug"))
	{
		StringInfo	messages = request->private_data;

		appendBinaryStringInfo(reply->body, messages->data, messages->len);
	}
	else
	{
		reply->status = 204;
		reply->no_store = true;	/* the same image may be asked for again */
	}
}

static void
refuse(const CdiRequest *request, int status, const char *code, const char *message, CdiReply *reply)
{
	/* recorded, and as good as it will ever be */
	if (status == 400)
	{
		reply->status = 204;
		return;
	}
	cdi_segment_refuse(request, status, code, message, reply);
}

const CdiDialect cdi_ga4_dialect = {
	.name = "ga4",
	.routes = routes,
	.unpack = unpack,
	.translate = translate,
	.answer = answer,
	.refuse = refuse
};
