/*
 * mixpanel_event.c
 *		Mixpanel's events and updates of profiles as calls.
 *
 * Whose an event is: $user_id, else distinct_id; but a distinct_id that starts
 * with "$device:" or is the $device_id was made up by the SDK, and is the
 * anonymous id.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/members.h"
#include "collect/mixpanel.h"

/* Members of an event */
enum
{
	EVENT_NAME, EVENT_PROPERTIES, EVENT_COUNT
};

static const CdiWanted event_members[] = {
	CDI_WANTED("event", EVENT_NAME),
	CDI_WANTED("properties", EVENT_PROPERTIES),
	CDI_WANTED_END
};

/* Properties of an event, or members of an update of a profile */
enum
{
	P_DISTINCT_ID, P_DEVICE_ID, P_USER_ID, P_TIME, P_INSERT_ID,
	P_IDENTIFIED_ID, P_ANON_ID, P_ANON_DISTINCT_ID, P_ALIAS, P_DISTINCT_IDS,
	P_IP, P_URL, P_REFERRER, P_PATH, P_TITLE, P_SEARCH,
	P_OWN_URL, P_OWN_REFERRER, P_OWN_PATH, P_OWN_TITLE, P_OWN_SEARCH,
	P_LIB, P_LIB_VERSION, P_OS, P_OS_VERSION, P_APP_VERSION, P_APP_VERSION_STRING, P_APP_BUILD,
	P_MANUFACTURER, P_MODEL, P_DEVICE_NAME, P_ADVERTISING_ID, P_CARRIER, P_WIFI,
	P_SCREEN_WIDTH, P_SCREEN_HEIGHT, P_SCREEN_DENSITY, P_CITY, P_REGION, P_COUNTRY,
	P_LATITUDE, P_LONGITUDE, P_TIMEZONE, P_USER_AGENT,
	P_UTM_SOURCE, P_UTM_MEDIUM, P_UTM_CAMPAIGN, P_UTM_TERM, P_UTM_CONTENT,
	P_SET, P_SET_ONCE, P_GROUP_ID, P_TOKEN, P_COUNT
};

static const CdiWanted property_members[] = {
	CDI_WANTED("distinct_id", P_DISTINCT_ID),
	CDI_WANTED("$device_id", P_DEVICE_ID),
	CDI_WANTED("$user_id", P_USER_ID),
	CDI_WANTED("time", P_TIME),
	CDI_WANTED("$insert_id", P_INSERT_ID),
	CDI_WANTED("$identified_id", P_IDENTIFIED_ID),
	CDI_WANTED("$anon_id", P_ANON_ID),
	CDI_WANTED("$anon_distinct_id", P_ANON_DISTINCT_ID),
	CDI_WANTED("alias", P_ALIAS),
	CDI_WANTED("$distinct_ids", P_DISTINCT_IDS),
	CDI_WANTED("ip", P_IP),
	CDI_WANTED("$current_url", P_URL),
	CDI_WANTED("$referrer", P_REFERRER),
	CDI_WANTED("current_url_path", P_PATH),
	CDI_WANTED("current_page_title", P_TITLE),
	CDI_WANTED("current_url_search", P_SEARCH),
	CDI_WANTED("url", P_OWN_URL),
	CDI_WANTED("referrer", P_OWN_REFERRER),
	CDI_WANTED("path", P_OWN_PATH),
	CDI_WANTED("title", P_OWN_TITLE),
	CDI_WANTED("search", P_OWN_SEARCH),
	CDI_WANTED("mp_lib", P_LIB),
	CDI_WANTED("$lib_version", P_LIB_VERSION),
	CDI_WANTED("$os", P_OS),
	CDI_WANTED("$os_version", P_OS_VERSION),
	CDI_WANTED("$app_version", P_APP_VERSION),
	CDI_WANTED("$app_version_string", P_APP_VERSION_STRING),
	CDI_WANTED("$app_build_number", P_APP_BUILD),
	CDI_WANTED("$manufacturer", P_MANUFACTURER),
	CDI_WANTED("$model", P_MODEL),
	CDI_WANTED("$device", P_DEVICE_NAME),
	CDI_WANTED("$ios_ifa", P_ADVERTISING_ID),
	CDI_WANTED("$carrier", P_CARRIER),
	CDI_WANTED("$wifi", P_WIFI),
	CDI_WANTED("$screen_width", P_SCREEN_WIDTH),
	CDI_WANTED("$screen_height", P_SCREEN_HEIGHT),
	CDI_WANTED("$screen_dpi", P_SCREEN_DENSITY),
	CDI_WANTED("$city", P_CITY),
	CDI_WANTED("$region", P_REGION),
	CDI_WANTED("mp_country_code", P_COUNTRY),
	CDI_WANTED("$latitude", P_LATITUDE),
	CDI_WANTED("$longitude", P_LONGITUDE),
	CDI_WANTED("$timezone", P_TIMEZONE),
	CDI_WANTED("$user_agent", P_USER_AGENT),
	CDI_WANTED("utm_source", P_UTM_SOURCE),
	CDI_WANTED("utm_medium", P_UTM_MEDIUM),
	CDI_WANTED("utm_campaign", P_UTM_CAMPAIGN),
	CDI_WANTED("utm_term", P_UTM_TERM),
	CDI_WANTED("utm_content", P_UTM_CONTENT),
	CDI_WANTED_END
};

static const CdiWanted profile_members[] = {
	CDI_WANTED("$token", P_TOKEN),
	CDI_WANTED("$distinct_id", P_DISTINCT_ID),
	CDI_WANTED("$device_id", P_DEVICE_ID),
	CDI_WANTED("$user_id", P_USER_ID),
	CDI_WANTED("$time", P_TIME),
	CDI_WANTED("$insert_id", P_INSERT_ID),
	CDI_WANTED("$ip", P_IP),
	CDI_WANTED("$latitude", P_LATITUDE),
	CDI_WANTED("$longitude", P_LONGITUDE),
	CDI_WANTED("$set", P_SET),
	CDI_WANTED("$set_once", P_SET_ONCE),
	CDI_WANTED("$group_id", P_GROUP_ID),
	CDI_WANTED_END
};

/* All properties stay properties; these are also where Segment has them. */
static const CdiPart context_parts[] = {
	{NULL, "ip", P_IP},
	{NULL, "userAgent", P_USER_AGENT},
	{NULL, "timezone", P_TIMEZONE},
	{"library", "name", P_LIB},
	{"library", "version", P_LIB_VERSION},
	{"page", "url", P_URL},
	{"page", "path", P_PATH},
	{"page", "title", P_TITLE},
	{"page", "search", P_SEARCH},
	{"page", "referrer", P_REFERRER},
	{"os", "name", P_OS},
	{"os", "version", P_OS_VERSION},
	{"app", "version", P_APP_VERSION_STRING},
	{"app", "version", P_APP_VERSION},
	{"app", "build", P_APP_BUILD},
	{"device", "manufacturer", P_MANUFACTURER},
	{"device", "model", P_MODEL},
	{"device", "name", P_DEVICE_NAME},
	{"device", "advertisingId", P_ADVERTISING_ID},
	{"network", "carrier", P_CARRIER},
	{"network", "wifi", P_WIFI},
	{"screen", "width", P_SCREEN_WIDTH},
	{"screen", "height", P_SCREEN_HEIGHT},
	{"screen", "density", P_SCREEN_DENSITY},
	{"location", "city", P_CITY},
	{"location", "region", P_REGION},
	{"location", "country", P_COUNTRY},
	{"location", "latitude", P_LATITUDE},
	{"location", "longitude", P_LONGITUDE},
	{"campaign", "source", P_UTM_SOURCE},
	{"campaign", "medium", P_UTM_MEDIUM},
	{"campaign", "name", P_UTM_CAMPAIGN},
	{"campaign", "term", P_UTM_TERM},
	{"campaign", "content", P_UTM_CONTENT},
	{NULL, NULL, 0}
};

/* Traits with a meaning of their own, and what Segment calls them */
static const CdiWanted trait_members[] = {
	CDI_WANTED("$email", 0),
	CDI_WANTED("$first_name", 1),
	CDI_WANTED("$last_name", 2),
	CDI_WANTED("$name", 3),
	CDI_WANTED("$phone", 4),
	CDI_WANTED("$avatar", 5),
	CDI_WANTED("$created", 6),
	CDI_WANTED_END
};

static const CdiPart trait_parts[] = {
	{NULL, "email", 0},
	{NULL, "firstName", 1},
	{NULL, "lastName", 2},
	{NULL, "name", 3},
	{NULL, "phone", 4},
	{NULL, "avatar", 5},
	{NULL, "createdAt", 6},
	{NULL, NULL, 0}
};

/* Seconds, or milliseconds: as seconds those would be the year 5138 and later. */
static void
write_moment(StringInfo out, const char *name, CdiText value)
{
	int64		microseconds;

	if (!cdi_scan_present(value))
		return;
	if (cdi_scan_epoch(value, CDI_SECONDS, &microseconds) &&
		microseconds < INT64CONST(100000000000) * 1000000)
		cdi_write_time(out, name, microseconds);
	else
		cdi_write_epoch(out, name, value, CDI_MILLISECONDS);
}

/* There, and no empty string */
static bool
given(CdiText id)
{
	return cdi_scan_present(id) && !cdi_scan_string_is(id, "");
}

/* The SDK's own id of the device in a distinct_id; data == NULL where it is none. */
static CdiText
device_of(CdiText id)
{
	static const char prefix[] = "$device:";
	CdiText		text = cdi_scan_string(id);

	if (text.data == NULL || text.len < sizeof(prefix) ||
		memcmp(text.data, prefix, sizeof(prefix) - 1) != 0)
		return CDI_NO_TEXT;
	text.data += sizeof(prefix) - 1;
	text.len -= sizeof(prefix) - 1;
	return text;
}

/* An id without that prefix */
static void
write_id(StringInfo out, const char *name, CdiText id)
{
	CdiText		device = device_of(id);

	if (device.data != NULL)
		cdi_write_text(out, name, device);
	else if (given(id))
		cdi_write_value(out, name, id);
}

static void
write_person(StringInfo out, const CdiText *values)
{
	CdiText		id = values[P_DISTINCT_ID];
	bool		anonymous = device_of(id).data != NULL;

	if (given(values[P_USER_ID]))
		write_id(out, "userId", values[P_USER_ID]);
	else if (!anonymous && !cdi_scan_same(id, values[P_DEVICE_ID]))
		write_id(out, "userId", id);
	if (given(values[P_DEVICE_ID]))
		write_id(out, "anonymousId", values[P_DEVICE_ID]);
	else if (anonymous)
		write_id(out, "anonymousId", id);
}

/* Two ids of one person: the one that the SDK made up is the previous one. */
static void
write_merge(StringInfo out, CdiText ids)
{
	CdiText		pair[2] = {{0}};
	CdiScan		scan;
	int			first;

	cdi_scan_array(&scan, ids);
	if (cdi_scan_element(&scan, &pair[0]))
		(void) cdi_scan_element(&scan, &pair[1]);
	first = device_of(pair[0]).data != NULL ? 1 : 0;
	write_id(out, "userId", pair[first]);
	write_id(out, "previousId", pair[1 - first]);
}

static void
write_identified(StringInfo out, const CdiText *values)
{
	CdiText		user = values[P_IDENTIFIED_ID];
	CdiText		device = values[P_ANON_ID];

	if (!given(user))
		user = given(values[P_USER_ID]) ? values[P_USER_ID] : values[P_DISTINCT_ID];
	if (!given(device))
		device = given(values[P_ANON_DISTINCT_ID]) ? values[P_ANON_DISTINCT_ID] : values[P_DEVICE_ID];
	write_id(out, "userId", user);
	if (!cdi_scan_same(user, device))
		write_id(out, "anonymousId", device);
}

static const char *const call_types[][2] = {
	{"$mp_web_page_view", "page"},
	{"$identify", "identify"},
	{"$create_alias", "alias"},
	{"$merge", "alias"},
	{NULL, NULL}
};

/* All that came, but for the key of the project */
static void
write_properties(CdiTranslation *translation, const char *type, CdiText properties,
				 const CdiText *values)
{
	static const struct
	{
		const char *name;
		int			own;
		int			theirs;
	}			page[] =
	{
		{"url", P_OWN_URL, P_URL},
		{"path", P_OWN_PATH, P_PATH},
		{"title", P_OWN_TITLE, P_TITLE},
		{"search", P_OWN_SEARCH, P_SEARCH},
		{"referrer", P_OWN_REFERRER, P_REFERRER},
	};
	static const CdiWanted token[] = {CDI_WANTED("token", 0), CDI_WANTED_END};
	/* $merge has it under the name of the older API */
	static const CdiWanted keys[] = {CDI_WANTED("token", 0), CDI_WANTED("api_key", 0), CDI_WANTED_END};
	StringInfo	out = translation->call;

	cdi_write_open(out, "properties", '{');
	cdi_members_copy_others(out, properties, strcmp(type, "alias") == 0 ? keys : token);
	if (strcmp(type, "page") == 0)
		for (int i = 0; i < lengthof(page); i++)
			if (values[page[i].own].data == NULL)
				cdi_write_present(out, page[i].name, values[page[i].theirs]);
	cdi_write_close(out, '}');
}

static void
write_context(CdiTranslation *translation, CdiText *values, const CdiWanted *known, CdiText set_once)
{
	StringInfo	out = translation->call;
	CdiText		address = cdi_scan_string(values[P_IP]);
	int			outer;
	int			rest;

	/* "0" says that the address tells nothing. */
	if (address.data == NULL || (memchr(address.data, '.', address.len) == NULL &&
								 memchr(address.data, ':', address.len) == NULL))
		values[P_IP] = CDI_NO_TEXT;
	if (cdi_scan_string_is(values[P_REFERRER], "$direct"))
		values[P_REFERRER] = CDI_NO_TEXT;
	outer = cdi_members_open(out, "context");
	cdi_write_parts(out, context_parts, values);
	rest = cdi_members_open(out, "mixpanel");
	cdi_members_copy_others(out, translation->payload, known);
	cdi_write_present(out, "$set_once", set_once);
	cdi_members_close(out, "mixpanel", rest);
	cdi_members_close(out, "context", outer);
}

static void
translate_event(CdiTranslation *translation)
{
	StringInfo	out = translation->call;
	CdiText		event[EVENT_COUNT] = {{0}};
	CdiText		values[P_COUNT] = {{0}};
	const char *type;

	if (!cdi_scan_gather(translation->payload, event_members, event))
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
	else if (cdi_scan_kind(event[EVENT_PROPERTIES]) != '{')
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_TYPE, "\"properties\" must be a JSON object");
	else if (!cdi_scan_gather(event[EVENT_PROPERTIES], property_members, values))
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
	if (translation->sqlstate != 0)
		return;
	type = cdi_members_type(event[EVENT_NAME], call_types);

	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	if (strcmp(type, "track") == 0)
		cdi_write_present(out, "event", event[EVENT_NAME]);
	else if (strcmp(type, "page") == 0)
		cdi_write_present(out, "name", values[P_TITLE]);
	if (strcmp(type, "identify") == 0)
		write_identified(out, values);
	else if (strcmp(type, "alias") != 0)
		write_person(out, values);
	else if (cdi_scan_present(values[P_DISTINCT_IDS]))
		write_merge(out, values[P_DISTINCT_IDS]);
	else
	{
		write_id(out, "userId", values[P_ALIAS]);
		write_id(out, "previousId", values[P_DISTINCT_ID]);
	}
	cdi_write_present(out, "messageId", values[P_INSERT_ID]);
	write_moment(out, "timestamp", values[P_TIME]);
	write_properties(translation, type, event[EVENT_PROPERTIES], values);
	write_context(translation, values, event_members, CDI_NO_TEXT);
	cdi_write_close(out, '}');
}

/* What an update sets, also under Segment's names, which lose against traits
 * that have them; other operations stay in the context. */
static void
write_traits(CdiTranslation *translation, const CdiText *values)
{
	StringInfo	out = translation->call;
	CdiText		meanings[lengthof(trait_members)] = {{0}};
	int			start;

	if (!cdi_scan_present(values[P_SET]) && !cdi_scan_present(values[P_SET_ONCE]))
		return;
	(void) cdi_scan_gather(values[P_SET_ONCE], trait_members, meanings);
	(void) cdi_scan_gather(values[P_SET], trait_members, meanings);
	start = cdi_members_open(out, "traits");
	cdi_write_parts(out, trait_parts, meanings);
	cdi_translation_copy(translation, values[P_SET_ONCE], "$set_once");
	cdi_translation_copy(translation, values[P_SET], "$set");
	cdi_members_close(out, "traits", start);
}

static void
translate_profile(CdiTranslation *translation, bool group)
{
	StringInfo	out = translation->call;
	CdiText		values[P_COUNT] = {{0}};

	if (!cdi_scan_gather(translation->payload, profile_members, values))
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
		return;
	}
	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", group ? "group" : "identify");
	if (group)
		cdi_write_present(out, "groupId", values[P_GROUP_ID]);
	write_person(out, values);
	cdi_write_present(out, "messageId", values[P_INSERT_ID]);
	write_moment(out, "timestamp", values[P_TIME]);
	write_traits(translation, values);
	write_context(translation, values, profile_members, values[P_SET_ONCE]);
	cdi_write_close(out, '}');
}

void
cdi_mixpanel_translate(CdiTranslation *translation)
{
	CdiText		endpoint = cdi_scan_get(translation->envelope, "endpoint");

	if (cdi_scan_kind(translation->payload) != '{')
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT, "event must be a JSON object");
	else if (cdi_scan_string_is(endpoint, "engage"))
		translate_profile(translation, false);
	else if (cdi_scan_string_is(endpoint, "groups"))
		translate_profile(translation, true);
	else
		translate_event(translation);
}
