/*
 * jitsu_classic.c
 *		Events of Jitsu's SDK before 2023 (@jitsu/sdk-js).
 *
 * One flat object per event: its person, page and device under names of their
 * own, and between them what the caller said of the event.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/ga4.h"
#include "collect/jitsu.h"
#include "collect/members.h"

enum
{
	M_TYPE, M_ID, M_USER, M_TIME, M_URL, M_PATH, M_TITLE, M_SEARCH, M_REFERRER,
	M_UTM, M_USER_AGENT, M_LANGUAGE, M_RESOLUTION, M_SRC,
	M_KEY,						/* not kept */
	M_NESTED,					/* compat_mode has the SDK's own members in there */
	M_OTHER,					/* context.jitsu, by its own name */
	M_COUNT
};

static const CdiWanted members[] = {
	CDI_WANTED("event_type", M_TYPE),
	CDI_WANTED("event_id", M_ID),
	CDI_WANTED("user", M_USER),
	CDI_WANTED("utc_time", M_TIME),
	CDI_WANTED("url", M_URL),
	CDI_WANTED("doc_path", M_PATH),
	CDI_WANTED("page_title", M_TITLE),
	CDI_WANTED("doc_search", M_SEARCH),
	CDI_WANTED("referer", M_REFERRER),
	CDI_WANTED("utm", M_UTM),
	CDI_WANTED("user_agent", M_USER_AGENT),
	CDI_WANTED("user_language", M_LANGUAGE),
	CDI_WANTED("screen_resolution", M_RESOLUTION),
	CDI_WANTED("src", M_SRC),
	CDI_WANTED("api_key", M_KEY),
	CDI_WANTED("eventn_ctx", M_NESTED),
	CDI_WANTED("ids", M_OTHER),
	CDI_WANTED("click_id", M_OTHER),
	CDI_WANTED("local_tz_offset", M_OTHER),
	CDI_WANTED("doc_host", M_OTHER),
	CDI_WANTED("doc_encoding", M_OTHER),
	CDI_WANTED("vp_size", M_OTHER),
	CDI_WANTED_END
};

enum
{
	U_ANONYMOUS_ID, U_ID, U_INTERNAL_ID, U_COUNT
};

static const CdiWanted user_members[] = {
	CDI_WANTED("anonymous_id", U_ANONYMOUS_ID),
	CDI_WANTED("id", U_ID),
	CDI_WANTED("internal_id", U_INTERNAL_ID),
	CDI_WANTED_END
};

static const CdiPart context_parts[] = {
	{"page", "url", M_URL},
	{"page", "path", M_PATH},
	{"page", "title", M_TITLE},
	{"page", "search", M_SEARCH},
	{"page", "referrer", M_REFERRER},
	{"library", "name", M_SRC},
	{NULL, NULL, 0}
};

enum
{
	UTM_SOURCE, UTM_MEDIUM, UTM_CAMPAIGN, UTM_TERM, UTM_CONTENT, UTM_COUNT
};

static const CdiWanted utm_members[] = {
	CDI_WANTED("source", UTM_SOURCE),
	CDI_WANTED("medium", UTM_MEDIUM),
	CDI_WANTED("campaign", UTM_CAMPAIGN),
	CDI_WANTED("term", UTM_TERM),
	CDI_WANTED("content", UTM_CONTENT),
	CDI_WANTED_END
};

static const CdiPart campaign_parts[] = {
	{"campaign", "source", UTM_SOURCE},
	{"campaign", "medium", UTM_MEDIUM},
	{"campaign", "name", UTM_CAMPAIGN},
	{"campaign", "term", UTM_TERM},
	{"campaign", "content", UTM_CONTENT},
	{NULL, NULL, 0}
};

/* One event or an array of them, with the key in ?token= or in each event */
void
cdi_jitsu_classic_unpack(CdiRequest *request)
{
	CdiScan		scan;
	CdiText		first = request->body;

	cdi_request_add_key(request, cdi_text(cdi_request_header(request, "X-Auth-Token")));
	cdi_request_add_key(request, cdi_form_get(request->query, "token"));
	if (cdi_scan_kind(request->body) == '[')
	{
		cdi_request_add_array(request, request->body);
		cdi_scan_array(&scan, request->body);
		if (!cdi_scan_element(&scan, &first))
			first = CDI_NO_TEXT;
	}
	else if (cdi_scan_kind(request->body) == '{')
		cdi_request_add_element(request, request->body);
	else
		cdi_request_refuse_json(request, "It is one event, or an array of them.");
	cdi_request_add_key(request, cdi_scan_string(cdi_scan_get(first, "api_key")));
	request->from_device = strcmp(request->route->type, "classic") == 0;
	request->envelope = cdi_text("{\"classic\":true}");
}

static const char *
type_of(CdiText name)
{
	if (cdi_text_is(name, "page_view") || cdi_text_is(name, "pageview") || cdi_text_is(name, "page"))
		return "page";
	if (cdi_text_is(name, "user_identify") || cdi_text_is(name, "identify"))
		return "identify";
	return "track";
}

/* What an event has beside its own names: said by its caller, or not */
static void
write_others(StringInfo out, CdiText event, bool known)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, event);
	while (cdi_scan_member(&scan, &key, &value))
	{
		const CdiWanted *member = cdi_scan_wanted(members, key);

		if (known ? member != NULL && member->slot == M_OTHER : member == NULL)
			cdi_write_member(out, key, value);
	}
}

static void
write_user(StringInfo out, CdiText user)
{
	int			start = cdi_members_open(out, "traits");

	if (cdi_scan_kind(user) == '{')
		cdi_members_copy_others(out, user, user_members);
	cdi_members_close(out, "traits", start);
}

void
cdi_jitsu_classic_translate(CdiTranslation *translation)
{
	StringInfo	out = translation->call;
	CdiText		event[M_COUNT] = {{0}};
	CdiText		user[U_COUNT] = {{0}};
	CdiText		utm[UTM_COUNT] = {{0}};
	CdiText		nested = cdi_scan_get(translation->payload, "eventn_ctx");
	const char *type;
	int			context;
	int			start;

	if (cdi_scan_kind(nested) == '{')
		(void) cdi_scan_gather(nested, members, event);
	if (cdi_scan_kind(translation->payload) != '{' ||
		!cdi_scan_gather(translation->payload, members, event))
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT, "event must be a JSON object");
		return;
	}
	if (cdi_scan_kind(event[M_USER]) == '{')
		(void) cdi_scan_gather(event[M_USER], user_members, user);
	if (cdi_scan_kind(event[M_UTM]) == '{')
		(void) cdi_scan_gather(event[M_UTM], utm_members, utm);
	type = type_of(cdi_scan_string(event[M_TYPE]));
	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	if (strcmp(type, "track") == 0)
		cdi_write_present(out, "event", event[M_TYPE]);
	cdi_write_present(out, "userId", cdi_scan_present(user[U_ID]) ? user[U_ID] : user[U_INTERNAL_ID]);
	cdi_write_present(out, "anonymousId", user[U_ANONYMOUS_ID]);
	/* some versions send an empty one */
	if (cdi_scan_scalar(event[M_ID]).len > 0)
		cdi_write_value(out, "messageId", event[M_ID]);
	cdi_write_present(out, "timestamp", event[M_TIME]);
	if (strcmp(type, "identify") == 0)
		write_user(out, event[M_USER]);
	context = cdi_members_open(out, "context");
	cdi_write_present(out, "userAgent", event[M_USER_AGENT]);
	cdi_write_present(out, "locale", event[M_LANGUAGE]);
	cdi_ga4_write_screen(out, cdi_scan_string(event[M_RESOLUTION]));
	cdi_write_parts(out, context_parts, event);
	cdi_write_parts(out, campaign_parts, utm);
	if (strcmp(type, "identify") != 0)
		write_user(out, event[M_USER]);
	start = cdi_members_open(out, "jitsu");
	write_others(out, nested, true);
	write_others(out, translation->payload, true);
	cdi_members_close(out, "jitsu", start);
	cdi_members_close(out, "context", context);
	start = cdi_members_open(out, "properties");
	write_others(out, nested, false);
	write_others(out, translation->payload, false);
	cdi_members_close(out, "properties", start);
	cdi_write_close(out, '}');
}
