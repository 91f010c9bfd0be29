/*
 * amplitude.c
 *		The dialect of Amplitude's SDKs and HTTP APIs.
 *
 * A request is {"api_key", "events", "client_upload_time", "options"}; of the
 * SDKs before 2022 and of the older APIs it is a form that has them under other
 * names, and the answer is a word.
 *
 * The SDKs take the status from "code" of the answer's body.  On 400 they drop
 * the events whose indices it lists and send the others again, so all of its
 * lists have to be there.  A request of which only some events are bad is
 * therefore a success: the good ones are stored, and without an insert_id they
 * would be stored twice if they came again.
 */
#include "postgres.h"

#include <sys/time.h>

#include "base/errors.h"
#include "collect/amplitude.h"
#include "collect/dialect.h"
#include "collect/members.h"

static const CdiRoute routes[] = {
	{"/2/httpapi", NULL, 0},
	{"/batch", "shared", 0},	/* with PostHog and Jitsu */
	/* forms */
	{"/", "form", 0},
	{"/httpapi", "form", 0},
	{"/identify", "form identify", 0},
	{"/groupidentify", "form group", 0},
	{NULL, NULL, 0}
};

/* Members of the body */
enum
{
	BODY_KEY, BODY_EVENTS, BODY_EVENT, BODY_UPLOAD_TIME, BODY_COUNT
};

static const CdiWanted body_members[] = {
	CDI_WANTED("api_key", BODY_KEY),
	CDI_WANTED("events", BODY_EVENTS),
	CDI_WANTED("event", BODY_EVENT),
	CDI_WANTED("client_upload_time", BODY_UPLOAD_TIME),
	CDI_WANTED_END
};

/*
 * Unpack
 */
static void
refuse_request(CdiRequest *request, const char *message)
{
	if (request->refused_status != 0)
		return;
	request->refused_status = 400;
	request->refused_code = "invalid_event";
	request->refused_sqlstate = ERRCODE_CDI_INVALID_EVENT;
	request->refused_message = message;
}

/* Does what there is of a body, cut off or broken, have the word? */
static bool
mentions(CdiText body, const char *word)
{
	size_t		length = strlen(word);

	for (const char *at = body.data; at != NULL && at + length <= body.data + body.len; at++)
	{
		at = memchr(at, word[0], body.data + body.len - at);
		if (at == NULL || at + length > body.data + body.len)
			return false;
		if (memcmp(at, word, length) == 0)
			return true;
	}
	return false;
}

static void
add_events(CdiRequest *request, CdiText events)
{
	if (cdi_scan_kind(events) == '{')
		cdi_request_add_element(request, events);
	else
		cdi_request_add_array(request, events);
}

static bool
is_form(const CdiRequest *request)
{
	return request->route != NULL && request->route->type != NULL &&
		strncmp(request->route->type, "form", 4) == 0;
}

/* What a request says of its events: when it was sent, and what they are */
static void
write_envelope(CdiRequest *request, CdiText upload_time, const char *event_type)
{
	StringInfoData envelope;

	if (upload_time.len == 0 && event_type == NULL)
		return;
	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	if (upload_time.len > 0)
		cdi_write_text(&envelope, "client_upload_time", upload_time);
	if (event_type != NULL)
		cdi_write_string(&envelope, "event_type", event_type);
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

/*
 * client=KEY&e=[events]&upload_time=... of the older SDKs, whose path is "/";
 * api_key=KEY&event=[events] and api_key=KEY&identification=[...] of APIs.
 */
static void
unpack_form(CdiRequest *request)
{
	const char *type = strchr(request->route->type, ' ');
	CdiText		rest = request->body;
	CdiText		events = CDI_NO_TEXT;
	CdiText		upload_time = CDI_NO_TEXT;
	CdiText		name;
	CdiText		value;

	while (cdi_form_next(&rest, &name, &value))
	{
		if (cdi_text_is(name, "client") || cdi_text_is(name, "api_key"))
			cdi_request_add_key(request, value);
		else if (cdi_text_is(name, "upload_time"))
			upload_time = value;
		else if (cdi_text_is(name, "e") || cdi_text_is(name, "event") ||
				 cdi_text_is(name, "identification"))
			events = value;
	}
	if (events.data == NULL)
	{
		request->not_mine = true;
		return;
	}
	add_events(request, cdi_text_trim(events));
	/* without "ip" an event has the address that it came from */
	if (strcmp(request->route->path, "/") == 0)
		request->from_device = true;
	write_envelope(request, upload_time, type == NULL ? NULL :
				   strcmp(type, " identify") == 0 ? "$identify" : "$groupidentify");
}

static void
unpack(CdiRequest *request)
{
	CdiText		values[BODY_COUNT] = {{0}};
	CdiText		events;
	bool		well_formed;

	/* /httpapi takes JSON, too */
	if (is_form(request) && (strcmp(request->route->path, "/") == 0 ||
							 cdi_scan_kind(cdi_text_trim(request->body)) != '{'))
	{
		unpack_form(request);
		return;
	}
	well_formed = cdi_scan_gather(request->body, body_members, values);
	events = cdi_scan_present(values[BODY_EVENTS]) ? values[BODY_EVENTS] : values[BODY_EVENT];
	if (!is_form(request) && request->route->type != NULL && values[BODY_EVENTS].data == NULL &&
		(well_formed || !mentions(request->body, "\"events\"")))
	{
		request->not_mine = true;
		return;
	}
	cdi_request_add_key(request, cdi_scan_string(values[BODY_KEY]));
	snprintf(request->memo, sizeof(request->memo), "%d", request->body.len);
	if (!well_formed)
	{
		cdi_request_refuse_json(request, "Amplitude's SDKs send {\"api_key\": ..., \"events\": [...]}.");
		return;
	}
	if (!cdi_scan_present(events))
	{
		strlcpy(request->memo, "events", sizeof(request->memo));
		refuse_request(request, "the body has no \"events\"");
		return;
	}
	add_events(request, events);
	/* "the address that this comes from": all events of an SDK say the same */
	if (request->nelements > 0 &&
		cdi_scan_string_is(cdi_scan_get(request->elements[0], "ip"), "$remote"))
		request->from_device = true;
	write_envelope(request, cdi_scan_scalar(values[BODY_UPLOAD_TIME]), NULL);
}

/*
 * Answers
 */
/* The lists of a 400; which of them an event goes to */
enum
{
	LIST_INVALID_EVENT, LIST_INVALID_TIME, LIST_MISSING_TYPE, LIST_MISSING_USER
};

static int
list_of(const CdiComplaint *complaint)
{
	switch (complaint->sqlstate)
	{
		case ERRCODE_CDI_NO_IDENTIFIER:
			return LIST_MISSING_USER;
		case ERRCODE_CDI_INVALID_TIMESTAMP:
			return LIST_INVALID_TIME;
		default:
			if (strcmp(complaint->message, "a call of type \"track\" needs \"event\"") == 0)
				return LIST_MISSING_TYPE;
			return LIST_INVALID_EVENT;
	}
}

/* "name": [indices of the events in that list] */
static void
write_list(StringInfo out, const char *name, const char *lists, int n, int list)
{
	if (lists == NULL || memchr(lists, list, n) == NULL)
		return;
	cdi_write_open(out, name, '[');
	for (int i = 0; i < n; i++)
		if (lists[i] == list)
			cdi_write_number(out, NULL, i);
	cdi_write_close(out, ']');
}

/* lists has the list of each of n events, or is NULL. */
static void
write_refusal(StringInfo out, int code, const char *error, const char *missing,
			  const char *lists, int n)
{
	cdi_write_open(out, NULL, '{');
	cdi_write_number(out, "code", code);
	cdi_write_string(out, "error", error);
	if (missing != NULL)
		cdi_write_string(out, "missing_field", missing);
	else
		cdi_write_value(out, "missing_field", cdi_text("null"));
	cdi_write_open(out, "events_with_invalid_fields", '{');
	write_list(out, "event", lists, n, LIST_INVALID_EVENT);
	write_list(out, "time", lists, n, LIST_INVALID_TIME);
	cdi_write_close(out, '}');
	cdi_write_open(out, "events_with_missing_fields", '{');
	write_list(out, "event_type", lists, n, LIST_MISSING_TYPE);
	write_list(out, "user_id", lists, n, LIST_MISSING_USER);
	cdi_write_close(out, '}');
	appendStringInfoString(out, ",\"events_with_invalid_id_lengths\":{},\"silenced_devices\":[]"
						   ",\"silenced_events\":[]}");
}

static void
answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply)
{
	StringInfo	out = reply->body;
	struct timeval now;

	/* SDKs that send forms compare with this word. */
	if (is_form(request))
	{
		bool		good = answer->failed == 0 || answer->failed < answer->received;

		reply->content_type = "text/plain";
		reply->status = good ? 200 : answer->received == 1 && answer->ncomplaints == 1 &&
			answer->complaints[0].sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
		appendStringInfoString(out, good ? "success" :
							   answer->ncomplaints > 0 ? answer->complaints[0].message : "invalid event");
		return;
	}
	if (answer->failed > 0 && answer->failed == answer->received && answer->ncomplaints > 0)
	{
		const CdiComplaint *first = &answer->complaints[0];
		char	   *lists = palloc0(answer->received);

		reply->status = answer->received == 1 &&
			first->sqlstate == ERRCODE_CDI_EVENT_TOO_LARGE ? 413 : 400;
		for (int i = 0; i < answer->ncomplaints; i++)
			if (answer->complaints[i].index >= 0 && answer->complaints[i].index < answer->received)
				lists[answer->complaints[i].index] = (char) list_of(&answer->complaints[i]);
		write_refusal(out, reply->status, first->message, NULL, lists, answer->received);
		return;
	}
	gettimeofday(&now, NULL);
	cdi_write_open(out, NULL, '{');
	cdi_write_number(out, "code", 200);
	cdi_write_number(out, "events_ingested", answer->received - answer->failed);
	cdi_write_number(out, "payload_size_bytes", atoi(request->memo));
	cdi_write_number(out, "server_upload_time", (int64) now.tv_sec * 1000 + now.tv_usec / 1000);
	cdi_write_close(out, '}');
}

static void
refuse(const CdiRequest *request, int status, const char *code, const char *message,
	   CdiReply *reply)
{
	StringInfo	out = reply->body;

	reply->status = status;
	if (is_form(request))
	{
		reply->content_type = "text/plain";
		appendStringInfoString(out, status == 401 ? "invalid_api_key" : message);
	}
	else if (status == 401)
		/* the words that tell an SDK to give these events up */
		write_refusal(out, status, psprintf("Invalid API key: %s", message), NULL, NULL, 0);
	else if (status == 429)
	{
		cdi_write_open(out, NULL, '{');
		cdi_write_number(out, "code", status);
		cdi_write_string(out, "error", message);
		appendStringInfoString(out, ",\"eps_threshold\":0,\"throttled_devices\":{},\"throttled_users\":{}"
							   ",\"exceeded_daily_quota_devices\":{},\"exceeded_daily_quota_users\":{}"
							   ",\"throttled_events\":[]}");
	}
	else if (status == 400)
		write_refusal(out, status, message,
					  strcmp(request->memo, "events") == 0 ? "events" : NULL, NULL, 0);
	else
	{
		cdi_write_open(out, NULL, '{');
		cdi_write_number(out, "code", status);
		cdi_write_string(out, "error", message);
		cdi_write_close(out, '}');
	}
}

const CdiDialect cdi_amplitude_dialect = {
	.name = "amplitude",
	.routes = routes,
	.unpack = unpack,
	.translate = cdi_amplitude_translate,
	.answer = answer,
	.refuse = refuse
};
