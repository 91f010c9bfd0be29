/*
 * posthog.c
 *		The dialect of PostHog's SDKs: requests and answers.
 *
 * A request has one event, an array of them, or an object with a "batch"; as
 * JSON, or, where a browser sends it in passing, as base64 in a form.
 *
 * posthog-js asks for its configuration and for feature flags before and while
 * it sends events.  What it is told turns everything off that needs more than
 * events, so that it loads no further script and asks for nothing else.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/posthog.h"

#define MAX_TIME_LENGTH		64	/* of sent_at */

static const CdiRoute routes[] = {
	{"/e", NULL, CDI_ROUTE_GET},
	{"/batch", "shared", 0},
	{"/i/v0/e", "capture", CDI_ROUTE_GET},
	{"/capture", NULL, CDI_ROUTE_GET},
	{"/track", "shared", 0},
	{"/flags", "flags", CDI_ROUTE_PAGE},
	{"/decide", "flags", CDI_ROUTE_PAGE},
	{"/array/*", "config", CDI_ROUTE_PAGE},
	{"/api/surveys", "surveys", CDI_ROUTE_PAGE},
	{"/api/early_access_features", "features", CDI_ROUTE_PAGE},
	/* what posthog-node asks for, given a personal key, in its older versions */
	{"/api/feature_flag/local_evaluation", "definitions", CDI_ROUTE_PAGE},
	{NULL, NULL, 0}
};

/* Members of the outermost object of a request */
enum
{
	OUTER_KEY, OUTER_TOKEN, OUTER_BATCH, OUTER_EVENT, OUTER_DISTINCT_ID,
	OUTER_PROPERTIES, OUTER_SENT_AT, OUTER_LIB, OUTER_COUNT
};

static const CdiWanted outer_names[] = {
	CDI_WANTED("api_key", OUTER_KEY),
	CDI_WANTED("token", OUTER_TOKEN),
	CDI_WANTED("batch", OUTER_BATCH),
	CDI_WANTED("event", OUTER_EVENT),
	CDI_WANTED("distinct_id", OUTER_DISTINCT_ID),
	CDI_WANTED("$distinct_id", OUTER_DISTINCT_ID),
	CDI_WANTED("properties", OUTER_PROPERTIES),
	CDI_WANTED("sent_at", OUTER_SENT_AT),
	CDI_WANTED("sentAt", OUTER_SENT_AT),	/* Python's before 7 */
	CDI_WANTED("$lib", OUTER_LIB),	/* Java's */
	CDI_WANTED_END
};

/*
 * Unpack
 */
static bool
is_route(const CdiRequest *request, const char *type)
{
	return request->route->type != NULL && strcmp(request->route->type, type) == 0;
}

/* KEY/FILE below /array */
static CdiText
config_key(const CdiRequest *request, CdiText *file)
{
	CdiText		key = request->rest;

	*file = CDI_NO_TEXT;
	for (int i = 0; i < key.len; i++)
		if (key.data[i] == '/')
		{
			file->data = key.data + i + 1;
			file->len = key.len - i - 1;
			key.len = i;		/* ends the loop */
		}
	return key;
}

/* JSON in a form field, in base64, or as it is. */
static CdiText
payload_of(CdiRequest *request)
{
	CdiText		body = cdi_text_trim(request->body);
	CdiText		field;

	if (request->method == CDI_HTTP_GET || body.len == 0)
		body = cdi_form_get(request->query, "data");
	else if (body.len > 5 && memcmp(body.data, "data=", 5) == 0)
	{
		field = cdi_form_get(body, "data");
		/* what only looked like a form: base64 may have a "+" in it */
		body = field.data != NULL ? field : body;
	}
	body = cdi_text_trim(body);
	if (body.len > 0 && body.data[0] != '{' && body.data[0] != '[')
	{
		CdiText		decoded = cdi_base64_decode_utf16(body);

		if (decoded.data != NULL)
			body = cdi_text_trim(decoded);
	}
	return body;
}

static void
add_key_of(CdiRequest *request, const CdiText *outer)
{
	cdi_request_add_key(request, cdi_scan_string(outer[OUTER_KEY]));
	cdi_request_add_key(request, cdi_scan_string(outer[OUTER_TOKEN]));
	if (outer[OUTER_PROPERTIES].data != NULL)
		cdi_request_add_key(request, cdi_scan_string(cdi_scan_get(outer[OUTER_PROPERTIES], "token")));
}

/* Servers say that where an event came from tells nothing; older ones, only
 * what they are. */
static bool
sent_by_server(const CdiText *event)
{
	static const char *const servers[] = {
		"posthog-node", "posthog-python", "posthog-php", "posthog-ruby", "posthog-go",
		"posthog-java", "posthog-dotnet", "posthog-elixir", "posthog-rs", "posthog-edge", "posthog-server",
	};
	CdiText		properties = event[OUTER_PROPERTIES];
	CdiText		lib = cdi_scan_string(cdi_scan_get(properties, "$lib"));

	if (lib.data == NULL)
		lib = cdi_scan_string(event[OUTER_LIB]);
	for (int i = 0; i < lengthof(servers); i++)
		if (cdi_text_is(lib, servers[i]))
			return true;
	return cdi_scan_kind(cdi_scan_get(properties, "$geoip_disable")) == 't' ||
		cdi_scan_kind(cdi_scan_get(properties, "$is_server")) == 't';
}

/* Amplitude and Jitsu have a /batch, Mixpanel has a /track: none of them has a
 * key beside the event or the batch. */
static bool
is_posthog(const CdiText *outer)
{
	return (outer[OUTER_KEY].data != NULL || outer[OUTER_TOKEN].data != NULL) &&
		(outer[OUTER_BATCH].data != NULL ||
		 (outer[OUTER_EVENT].data != NULL &&
		  (outer[OUTER_DISTINCT_ID].data != NULL || outer[OUTER_PROPERTIES].data != NULL)));
}

static CdiText
first_element(CdiText array)
{
	CdiScan		scan;
	CdiText		element;

	cdi_scan_array(&scan, array);
	return cdi_scan_element(&scan, &element) ? element : CDI_NO_TEXT;
}

/* Every event takes it along, so that it must be short. */
static void
write_envelope(CdiRequest *request, CdiText outer_sent_at)
{
	StringInfoData envelope;
	CdiText		sent_at = cdi_scan_scalar(outer_sent_at);
	int64		moment;

	if (sent_at.data == NULL)
		sent_at = cdi_form_get(request->query, "sent_at");
	/* of posthog-js; in other addresses it is anything that defeats caches */
	if (sent_at.data == NULL && cdi_scan_epoch(cdi_form_get(request->query, "_"), CDI_MILLISECONDS, &moment))
		sent_at = cdi_form_get(request->query, "_");
	sent_at.len = Min(sent_at.len, MAX_TIME_LENGTH);
	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_write_text(&envelope, "sent_at", sent_at);
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

static void
unpack(CdiRequest *request)
{
	CdiText		outer[OUTER_COUNT] = {{0}};
	CdiText		first[OUTER_COUNT] = {{0}};
	CdiText		body;
	bool		shared = is_route(request, "shared");
	bool		page = (request->route->flags & CDI_ROUTE_PAGE) != 0;
	bool		well_formed = true;

	if (is_route(request, "config"))
	{
		CdiText		file;

		cdi_request_add_key(request, config_key(request, &file));
		return;
	}
	body = payload_of(request);
	if (cdi_scan_kind(body) == '[')
	{
		(void) cdi_scan_gather(first_element(body), outer_names, first);
		add_key_of(request, first);
		if (shared && !is_posthog(first))
			request->not_mine = true;
	}
	else
	{
		well_formed = cdi_scan_gather(body, outer_names, outer);
		if (shared && !is_posthog(outer))
			request->not_mine = true;
		add_key_of(request, outer);
		if (outer[OUTER_BATCH].data != NULL)
			(void) cdi_scan_gather(first_element(outer[OUTER_BATCH]), outer_names, first);
		else
			memcpy(first, outer, sizeof(first));
		if (request->nkeys == 0)
			add_key_of(request, first);
	}
	cdi_request_add_key(request, cdi_form_get(request->query, "token"));
	cdi_request_add_key(request, cdi_form_get(request->query, "api_key"));
	if (page || request->not_mine)
		return;
	request->from_device = !sent_by_server(first);
	write_envelope(request, outer[OUTER_SENT_AT]);
	if (!well_formed)
		cdi_request_refuse_json(request, "PostHog's SDKs send one event, an array of events, or {\"api_key\": ..., \"batch\": [...]}.");
	else if (cdi_scan_kind(body) == '[')
		cdi_request_add_array(request, body);
	else if (outer[OUTER_BATCH].data != NULL)
		cdi_request_add_array(request, outer[OUTER_BATCH]);
	else
		cdi_request_add_element(request, body);
}

/*
 * Answers
 */
static void
answer_flags(StringInfo out)
{
	char		uuid[37];

	cdi_write_open(out, NULL, '{');
	cdi_write_value(out, "flags", cdi_text("{}"));
	cdi_write_bool(out, "errorsWhileComputingFlags", false);
	if (cdi_request_uuid(uuid))
		cdi_write_string(out, "requestId", uuid);
	/* as older SDKs ask for them */
	cdi_write_value(out, "featureFlags", cdi_text("{}"));
	cdi_write_value(out, "featureFlagPayloads", cdi_text("{}"));
	cdi_write_value(out, "supportedCompression", cdi_text("[\"gzip\",\"gzip-js\"]"));
	cdi_write_bool(out, "sessionRecording", false);
	cdi_write_close(out, '}');
}

/* What posthog-js may do.  Of "surveys" not even false: it would load their
 * script to be told. */
static void
write_config(StringInfo out, const char *name, CdiText key)
{
	static const char *const off[] = {
		"sessionRecording", "heatmaps", "captureDeadClicks", "autocaptureExceptions",
		"productTours", "conversations", "hasFeatureFlags", "isAuthenticated", "autocapture_opt_out",
	};

	cdi_write_open(out, name, '{');
	cdi_write_text(out, "token", key);
	cdi_write_value(out, "supportedCompression", cdi_text("[\"gzip\",\"gzip-js\"]"));
	for (int i = 0; i < lengthof(off); i++)
		cdi_write_bool(out, off[i], false);
	cdi_write_value(out, "capturePerformance", cdi_text("{\"network_timing\":false,\"web_vitals\":false}"));
	cdi_write_bool(out, "elementsChainAsString", true);
	cdi_write_bool(out, "defaultIdentifiedOnly", true);
	cdi_write_value(out, "analytics", cdi_text("{\"endpoint\":\"/i/v0/e/\"}"));
	cdi_write_value(out, "toolbarParams", cdi_text("{}"));
	cdi_write_value(out, "siteApps", cdi_text("[]"));
	cdi_write_close(out, '}');
}

static void
write_error(CdiReply *reply, int status, const char *code, const char *message)
{
	reply->status = status;
	cdi_write_open(reply->body, NULL, '{');
	cdi_write_string(reply->body, "type", status == 401 ? "authentication_error" :
					 status >= 500 || status == 429 ? "server_error" : "validation_error");
	cdi_write_string(reply->body, "code", code);
	cdi_write_string(reply->body, "detail", message);
	cdi_write_value(reply->body, "attr", cdi_text("null"));
	cdi_write_close(reply->body, '}');
}

static void
answer_config(const CdiRequest *request, CdiReply *reply)
{
	StringInfo	out = reply->body;
	CdiText		file;
	CdiText		key = config_key(request, &file);

	if (cdi_text_is(file, "config"))
		write_config(out, NULL, key);
	else if (cdi_text_is(file, "config.js"))
	{
		reply->content_type = "application/javascript";
		appendStringInfoString(out, "(window._POSTHOG_REMOTE_CONFIG=window._POSTHOG_REMOTE_CONFIG||{})[");
		cdi_write_text(out, NULL, key);
		appendStringInfoString(out, "]={");
		write_config(out, "config", key);
		cdi_write_value(out, "siteApps", cdi_text("[]"));
		appendStringInfoString(out, "};");
	}
	else
		write_error(reply, 404, "not_found", "the collector serves the configuration, no scripts");
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	StringInfo	out = reply->body;

	if (is_route(request, "flags"))
		answer_flags(out);
	else if (is_route(request, "config"))
		answer_config(request, reply);
	else if (is_route(request, "surveys"))
		appendStringInfoString(out, "{\"surveys\":[],\"survey_config\":null}");
	else if (is_route(request, "features"))
		appendStringInfoString(out, "{\"earlyAccessFeatures\":[]}");
	else if (is_route(request, "definitions"))
		appendStringInfoString(out, "{\"flags\":[],\"group_type_mapping\":{},\"cohorts\":{}}");
	else if (answer->whole && answer->ncomplaints > 0)
	{
		const CdiComplaint *complaint = &answer->complaints[0];

		write_error(reply, complaint->sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400,
					cdi_collect_code(complaint->sqlstate), complaint->message);
	}
	else
	{
		cdi_write_open(out, NULL, '{');
		cdi_write_value(out, "status",
						cdi_text(is_route(request, "capture") ? "\"Ok\"" : "1"));
		if (answer->ncomplaints > 0)
		{
			cdi_write_open(out, "errors", '[');
			for (int i = 0; i < answer->ncomplaints; i++)
			{
				const CdiComplaint *complaint = &answer->complaints[i];

				cdi_write_open(out, NULL, '{');
				cdi_write_value(out, "index", cdi_text(psprintf("%d", complaint->index)));
				cdi_write_string(out, "code", cdi_collect_code(complaint->sqlstate));
				cdi_write_string(out, "detail", complaint->message);
				cdi_write_close(out, '}');
			}
			cdi_write_close(out, ']');
		}
		cdi_write_close(out, '}');
	}
}

static void
refuse(const CdiRequest *request, int status, const char *code, const char *message, CdiReply *reply)
{
	write_error(reply, status, code, message);
}

const CdiDialect cdi_posthog_dialect = {
	.name = "posthog",
	.routes = routes,
	.unpack = unpack,
	.translate = cdi_posthog_translate,
	.answer = answer,
	.refuse = refuse
};
