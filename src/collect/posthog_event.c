/*
 * posthog_event.c
 *		An event of PostHog as a call of Segment's specification.
 *
 * PostHog knows one kind of id, distinct_id, and an event says of whom it is
 * in other ways.  It is a user's unless the event shows that it was made up by
 * the SDK:
 *
 *		$is_identified, $user_state, $user_id	posthog-js and the mobile SDKs
 *		$process_person_profile false			no person was ever named
 *		$device_id of posthog-js, no $user_id	no user was named since reset()
 *		distinct_id = $device_id				still the one of the first visit
 *		distinct_id = $<group type>_<group key>	nobody: a group by itself
 *
 * $device_id is no identifier: it outlives reset(), and so would join all who
 * share a browser.  $identify says itself which anonymous id was whose.
 *
 * An alias of PostHog joins any two ids in either direction, so that its
 * distinct_id is taken for both kinds.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/members.h"
#include "collect/posthog.h"

/* Members of an event */
enum
{
	EVENT_NAME, EVENT_DISTINCT_ID, EVENT_PROPERTIES, EVENT_UUID, EVENT_TIMESTAMP,
	EVENT_OFFSET, EVENT_SENT_AT, EVENT_SET, EVENT_SET_ONCE, EVENT_LIB, EVENT_IGNORED, EVENT_COUNT
};

static const CdiWanted event_names[] = {
	CDI_WANTED("event", EVENT_NAME),
	CDI_WANTED("distinct_id", EVENT_DISTINCT_ID),
	CDI_WANTED("$distinct_id", EVENT_DISTINCT_ID),
	CDI_WANTED("properties", EVENT_PROPERTIES),
	CDI_WANTED("uuid", EVENT_UUID),
	CDI_WANTED("timestamp", EVENT_TIMESTAMP),
	CDI_WANTED("offset", EVENT_OFFSET),
	CDI_WANTED("sent_at", EVENT_SENT_AT),
	CDI_WANTED("$set", EVENT_SET),
	CDI_WANTED("$set_once", EVENT_SET_ONCE),
	CDI_WANTED("$lib", EVENT_LIB),
	CDI_WANTED("api_key", EVENT_IGNORED),
	CDI_WANTED("token", EVENT_IGNORED),
	CDI_WANTED("historical_migration", EVENT_IGNORED),
	CDI_WANTED_END
};

/* Properties that say something of person, device or page */
enum
{
	P_DISTINCT_ID, P_ALIAS, P_ANON_DISTINCT_ID, P_DEVICE_ID, P_USER_ID, P_IS_IDENTIFIED,
	P_USER_STATE, P_PROCESS_PROFILE, P_SET, P_SET_ONCE, P_INSERT_ID, P_IGNORE_SENT_AT,
	P_GROUP_TYPE, P_GROUP_KEY, P_GROUP_SET, P_GROUPS, P_SCREEN_NAME,
	P_IP, P_URL, P_PATH, P_TITLE, P_OLD_TITLE, P_REFERRER, P_USER_AGENT, P_OLD_USER_AGENT,
	P_LIB, P_LIB_VERSION, P_OS, P_OS_VERSION, P_BROWSER, P_BROWSER_VERSION,
	P_DEVICE_TYPE, P_DEVICE_NAME, P_DEVICE_MODEL, P_DEVICE_MANUFACTURER,
	P_SCREEN_WIDTH, P_SCREEN_HEIGHT, P_SCREEN_DENSITY,
	P_APP_NAME, P_APP_VERSION, P_APP_BUILD, P_APP_NAMESPACE,
	P_WIFI, P_CELLULAR, P_CARRIER, P_LOCALE, P_LANGUAGE, P_TIMEZONE,
	P_SESSION_ID, P_WINDOW_ID,
	P_UTM_SOURCE, P_UTM_MEDIUM, P_UTM_CAMPAIGN, P_UTM_TERM, P_UTM_CONTENT,
	P_COUNT
};

static const CdiWanted property_names[] = {
	CDI_WANTED("distinct_id", P_DISTINCT_ID),
	CDI_WANTED("alias", P_ALIAS),
	CDI_WANTED("$anon_distinct_id", P_ANON_DISTINCT_ID),
	CDI_WANTED("$device_id", P_DEVICE_ID),
	CDI_WANTED("$user_id", P_USER_ID),
	CDI_WANTED("$is_identified", P_IS_IDENTIFIED),
	CDI_WANTED("$user_state", P_USER_STATE),
	CDI_WANTED("$process_person_profile", P_PROCESS_PROFILE),
	CDI_WANTED("$set", P_SET),
	CDI_WANTED("$set_once", P_SET_ONCE),
	CDI_WANTED("$insert_id", P_INSERT_ID),
	CDI_WANTED("$ignore_sent_at", P_IGNORE_SENT_AT),
	CDI_WANTED("$group_type", P_GROUP_TYPE),
	CDI_WANTED("$group_key", P_GROUP_KEY),
	CDI_WANTED("$group_set", P_GROUP_SET),
	CDI_WANTED("$groups", P_GROUPS),
	CDI_WANTED("$screen_name", P_SCREEN_NAME),
	CDI_WANTED("$ip", P_IP),
	CDI_WANTED("$current_url", P_URL),
	CDI_WANTED("$pathname", P_PATH),
	CDI_WANTED("$title", P_TITLE),
	CDI_WANTED("title", P_OLD_TITLE),
	CDI_WANTED("$referrer", P_REFERRER),
	CDI_WANTED("$raw_user_agent", P_USER_AGENT),
	CDI_WANTED("$useragent", P_OLD_USER_AGENT),
	CDI_WANTED("$lib", P_LIB),
	CDI_WANTED("$lib_version", P_LIB_VERSION),
	CDI_WANTED("$os", P_OS),
	CDI_WANTED("$os_name", P_OS),
	CDI_WANTED("$os_version", P_OS_VERSION),
	CDI_WANTED("$browser", P_BROWSER),
	CDI_WANTED("$browser_version", P_BROWSER_VERSION),
	CDI_WANTED("$device_type", P_DEVICE_TYPE),
	CDI_WANTED("$device_name", P_DEVICE_NAME),
	CDI_WANTED("$device_model", P_DEVICE_MODEL),
	CDI_WANTED("$device_manufacturer", P_DEVICE_MANUFACTURER),
	CDI_WANTED("$screen_width", P_SCREEN_WIDTH),
	CDI_WANTED("$screen_height", P_SCREEN_HEIGHT),
	CDI_WANTED("$screen_density", P_SCREEN_DENSITY),
	CDI_WANTED("$app_name", P_APP_NAME),
	CDI_WANTED("$app_version", P_APP_VERSION),
	CDI_WANTED("$app_build", P_APP_BUILD),
	CDI_WANTED("$app_namespace", P_APP_NAMESPACE),
	CDI_WANTED("$network_wifi", P_WIFI),
	CDI_WANTED("$network_cellular", P_CELLULAR),
	CDI_WANTED("$network_carrier", P_CARRIER),
	CDI_WANTED("$locale", P_LOCALE),
	CDI_WANTED("$browser_language", P_LANGUAGE),
	CDI_WANTED("$timezone", P_TIMEZONE),
	CDI_WANTED("$session_id", P_SESSION_ID),
	CDI_WANTED("$window_id", P_WINDOW_ID),
	CDI_WANTED("utm_source", P_UTM_SOURCE),
	CDI_WANTED("utm_medium", P_UTM_MEDIUM),
	CDI_WANTED("utm_campaign", P_UTM_CAMPAIGN),
	CDI_WANTED("utm_term", P_UTM_TERM),
	CDI_WANTED("utm_content", P_UTM_CONTENT),
	CDI_WANTED_END
};

/* A time as ISO 8601 stays; a number, and digits in a string, are
 * milliseconds. */
static void
write_moment(StringInfo out, const char *name, CdiText value)
{
	int64		microseconds;

	if (!cdi_scan_present(value))
		return;
	if (cdi_scan_epoch(value, CDI_MILLISECONDS, &microseconds))
		cdi_write_time(out, name, microseconds);
	else
		cdi_write_value(out, name, value);
}

static const CdiPart parts[] = {
	{"library", "name", P_LIB},
	{"library", "version", P_LIB_VERSION},
	{"os", "name", P_OS},
	{"os", "version", P_OS_VERSION},
	{"browser", "name", P_BROWSER},
	{"browser", "version", P_BROWSER_VERSION},
	{"device", "id", P_DEVICE_ID},
	{"device", "type", P_DEVICE_TYPE},
	{"device", "name", P_DEVICE_NAME},
	{"device", "model", P_DEVICE_MODEL},
	{"device", "manufacturer", P_DEVICE_MANUFACTURER},
	{"screen", "width", P_SCREEN_WIDTH},
	{"screen", "height", P_SCREEN_HEIGHT},
	{"screen", "density", P_SCREEN_DENSITY},
	{"app", "name", P_APP_NAME},
	{"app", "version", P_APP_VERSION},
	{"app", "build", P_APP_BUILD},
	{"app", "namespace", P_APP_NAMESPACE},
	{"network", "wifi", P_WIFI},
	{"network", "cellular", P_CELLULAR},
	{"network", "carrier", P_CARRIER},
	{"campaign", "source", P_UTM_SOURCE},
	{"campaign", "medium", P_UTM_MEDIUM},
	{"campaign", "name", P_UTM_CAMPAIGN},
	{"campaign", "term", P_UTM_TERM},
	{"campaign", "content", P_UTM_CONTENT},
	{"page", "url", P_URL},
	{"page", "path", P_PATH},
	{"page", "title", P_TITLE},
	{"page", "referrer", P_REFERRER},
	{NULL, NULL, 0}
};

static void
write_context(StringInfo out, CdiText *values, CdiText event)
{
	int			rest;

	if (!cdi_scan_present(values[P_TITLE]) && cdi_scan_present(values[P_URL]))
		values[P_TITLE] = values[P_OLD_TITLE];
	/* what posthog-js says where there is none */
	if (cdi_scan_string_is(values[P_REFERRER], "$direct"))
		values[P_REFERRER] = CDI_NO_TEXT;
	if (!cdi_scan_present(values[P_USER_AGENT]))
		values[P_USER_AGENT] = values[P_OLD_USER_AGENT];
	if (!cdi_scan_present(values[P_LOCALE]))
		values[P_LOCALE] = values[P_LANGUAGE];

	cdi_write_open(out, "context", '{');
	cdi_write_present(out, "ip", values[P_IP]);
	cdi_write_present(out, "userAgent", values[P_USER_AGENT]);
	cdi_write_present(out, "locale", values[P_LOCALE]);
	cdi_write_present(out, "timezone", values[P_TIMEZONE]);
	cdi_write_present(out, "sessionId", values[P_SESSION_ID]);
	cdi_write_present(out, "windowId", values[P_WINDOW_ID]);
	cdi_write_present(out, "groups", values[P_GROUPS]);
	cdi_write_parts(out, parts, values);

	/* What an SDK says beside the properties and has no other place here */
	rest = cdi_members_open(out, "posthog");
	cdi_members_copy_others(out, event, event_names);
	cdi_members_close(out, "posthog", rest);
	cdi_write_close(out, '}');
}

/* All of them as they came, without the key of the project */
static void
write_properties(StringInfo out, CdiText properties)
{
	static const CdiWanted token[] = {CDI_WANTED("token", 0), CDI_WANTED_END};

	cdi_write_open(out, "properties", '{');
	cdi_members_copy_others(out, properties, token);
	cdi_write_close(out, '}');
}

/* The members of an object that are not null */
static void
copy_present(StringInfo out, CdiText object)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		if (cdi_scan_present(value))
			cdi_write_member(out, key, value);
}

/* The last of a name wins: $set over $set_once, and the properties over what
 * stands beside them.  posthog-js fills $set_once with nulls for all that it
 * did not see. */
static void
write_traits(StringInfo out, const char *type, const CdiText *event, const CdiText *values)
{
	int			start = cdi_members_open(out, "traits");

	if (strcmp(type, "group") == 0)
		(void) cdi_members_copy(out, values[P_GROUP_SET]);
	else
	{
		copy_present(out, event[EVENT_SET_ONCE]);
		copy_present(out, values[P_SET_ONCE]);
		(void) cdi_members_copy(out, event[EVENT_SET]);
		(void) cdi_members_copy(out, values[P_SET]);
	}
	cdi_members_close(out, "traits", start);
}

/* $company_acme for group acme of type company */
static bool
is_group_id(CdiText id, const CdiText *values)
{
	CdiText		type = cdi_scan_scalar(values[P_GROUP_TYPE]);
	CdiText		key = cdi_scan_scalar(values[P_GROUP_KEY]);

	id = cdi_scan_string(id);
	return id.data != NULL && type.data != NULL && key.data != NULL &&
		id.len == type.len + key.len + 2 && id.data[0] == '$' && id.data[type.len + 1] == '_' &&
		memcmp(id.data + 1, type.data, type.len) == 0 &&
		memcmp(id.data + type.len + 2, key.data, key.len) == 0;
}

static bool
is_anonymous(CdiText id, const CdiText *values)
{
	char		identified = cdi_scan_kind(values[P_IS_IDENTIFIED]);

	if (identified == 't' || identified == 'f')
		return identified == 'f';
	if (cdi_scan_string_is(values[P_USER_STATE], "anonymous"))
		return true;
	if (cdi_scan_string_is(values[P_USER_STATE], "identified") || cdi_scan_same(id, values[P_USER_ID]))
		return false;
	/* All that older versions of posthog-js say: with identify() comes $user_id
	 * and stays in all events until reset(), which keeps $device_id. */
	if (cdi_scan_string_is(values[P_LIB], "web") && cdi_scan_present(values[P_DEVICE_ID]) &&
		!cdi_scan_present(values[P_USER_ID]))
		return true;
	return cdi_scan_kind(values[P_PROCESS_PROFILE]) == 'f' ||
		cdi_scan_same(id, values[P_DEVICE_ID]) || is_group_id(id, values);
}

static void
write_person(StringInfo out, const char *type, CdiText id, const CdiText *values)
{
	bool		named = strcmp(type, "identify") == 0 &&
		cdi_scan_present(values[P_ANON_DISTINCT_ID]);

	if (strcmp(type, "alias") == 0)
	{
		cdi_write_present(out, "userId", id);
		cdi_write_present(out, "anonymousId", id);
		cdi_write_present(out, "previousId", values[P_ALIAS]);
	}
	else if (!named && is_anonymous(id, values))
		cdi_write_present(out, "anonymousId", id);
	else
	{
		cdi_write_present(out, "userId", id);
		if (named && !cdi_scan_same(id, values[P_ANON_DISTINCT_ID]))
			cdi_write_value(out, "anonymousId", values[P_ANON_DISTINCT_ID]);
	}
}

static const char *const call_types[][2] = {
	{"$pageview", "page"},
	{"$screen", "screen"},
	{"$identify", "identify"},
	{"$set", "identify"},
	{"$set_once", "identify"},
	{"$create_alias", "alias"},
	{"$merge_dangerously", "alias"},
	{"$groupidentify", "group"},
	{NULL, NULL}
};

static void
write_times(CdiTranslation *translation, const CdiText *event, const CdiText *values)
{
	StringInfo	out = translation->call;
	CdiText		sent_at = event[EVENT_SENT_AT];
	int64		offset;

	if (cdi_scan_present(event[EVENT_TIMESTAMP]))
	{
		write_moment(out, "timestamp", event[EVENT_TIMESTAMP]);
		if (!cdi_scan_present(sent_at))
			sent_at = cdi_scan_get(translation->envelope, "sent_at");
		if (cdi_scan_kind(values[P_IGNORE_SENT_AT]) != 't')
			write_moment(out, "sentAt", sent_at);
	}
	else if (cdi_scan_present(event[EVENT_OFFSET]))
	{
		/* milliseconds before the request: nothing to do with a clock */
		if (cdi_scan_epoch(event[EVENT_OFFSET], CDI_MILLISECONDS, &offset))
			cdi_write_time(out, "timestamp", translation->received_at - offset);
		else
		{
			cdi_translation_fail(translation, ERRCODE_CDI_INVALID_TIMESTAMP,
								 "\"offset\" must be a number of milliseconds");
		}
	}
}

void
cdi_posthog_translate(CdiTranslation *translation)
{
	StringInfo	out = translation->call;
	CdiText		event[EVENT_COUNT] = {{0}};
	CdiText		values[P_COUNT] = {{0}};
	CdiText		id;
	const char *type;

	if (cdi_scan_kind(translation->payload) != '{')
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT, "event must be a JSON object");
		return;
	}
	if (!cdi_scan_gather(translation->payload, event_names, event) ||
		(cdi_scan_kind(event[EVENT_PROPERTIES]) == '{' &&
		 !cdi_scan_gather(event[EVENT_PROPERTIES], property_names, values)))
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
		return;
	}
	if (!cdi_scan_present(values[P_LIB]))
		values[P_LIB] = event[EVENT_LIB];
	type = cdi_members_type(event[EVENT_NAME], call_types);
	id = cdi_scan_present(event[EVENT_DISTINCT_ID]) ? event[EVENT_DISTINCT_ID] : values[P_DISTINCT_ID];

	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	if (strcmp(type, "track") == 0)
		cdi_write_present(out, "event", event[EVENT_NAME]);
	else if (strcmp(type, "screen") == 0)
		cdi_write_present(out, "name", values[P_SCREEN_NAME]);
	else if (strcmp(type, "group") == 0)
		cdi_write_present(out, "groupId", values[P_GROUP_KEY]);
	cdi_write_present(out, "messageId",
				  cdi_scan_present(event[EVENT_UUID]) ? event[EVENT_UUID] : values[P_INSERT_ID]);
	write_person(out, type, id, values);
	write_times(translation, event, values);
	write_traits(out, type, event, values);
	write_context(out, values, translation->payload);
	if (cdi_scan_kind(event[EVENT_PROPERTIES]) == '{')
		write_properties(out, event[EVENT_PROPERTIES]);
	else
		cdi_write_present(out, "properties", event[EVENT_PROPERTIES]);
	cdi_write_close(out, '}');
}
