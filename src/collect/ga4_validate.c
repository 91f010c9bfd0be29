/*
 * ga4_validate.c
 *		What Google's debug endpoint would say of a request.
 *
 * Its rules are those of Google's documentation of the Measurement Protocol:
 * names, reserved names, and limits.  Nothing of a request to this endpoint is
 * kept, and nothing of these rules holds for real requests.
 */
#include "postgres.h"

#include "collect/dialect.h"
#include "collect/ga4.h"

#define MAX_EVENTS				25
#define MAX_PARAMS				25
#define MAX_PARAM_VALUE			100
#define MAX_NAME				40
#define MAX_USER_PROPERTIES		25
#define MAX_PROPERTY_NAME		24
#define MAX_PROPERTY_VALUE		36
#define MAX_ITEMS				200
#define MAX_BODY				130000

/* More messages than this help nobody. */
#define MAX_MESSAGES			100

static const char *const reserved_events[] = {
	"ad_activeview", "ad_click", "ad_exposure", "ad_query", "ad_reward", "adunit_exposure",
	"app_clear_data", "app_exception", "app_install", "app_remove", "app_store_refund",
	"app_update", "app_upgrade", "dynamic_link_app_open", "dynamic_link_app_update",
	"dynamic_link_first_open", "error", "firebase_campaign",
	"firebase_in_app_message_action", "firebase_in_app_message_dismiss",
	"firebase_in_app_message_impression", "first_open", "first_visit", "in_app_purchase",
	"notification_dismiss", "notification_foreground", "notification_open",
	"notification_receive", "notification_send", "os_update", "session_start",
	"user_engagement", NULL
};

static const char *const reserved_params[] = {"firebase_conversion", NULL};

static const char *const reserved_properties[] = {
	"first_open_time", "first_visit_time", "last_deep_link_referrer", "user_id",
	"first_open_after_install", NULL
};

static const char *const reserved_prefixes[] = {"firebase_", "ga_", "google_", NULL};

/* Values that may be longer than others */
static const struct
{
	const char *name;
	int			limit;
}			long_params[] =
{
	{"page_location", 1000},
	{"page_referrer", 420},
	{"page_title", 300},
};

typedef struct Report
{
	StringInfo	out;
	int			count;
} Report;

static void complain(Report *report, const char *code, const char *path,
					 const char *format,...) pg_attribute_printf(4, 5);

static void
complain(Report *report, const char *code, const char *path, const char *format,...)
{
	char		description[512];
	va_list		args;

	if (++report->count > MAX_MESSAGES)
		return;
	va_start(args, format);
	vsnprintf(description, sizeof(description), format, args);
	va_end(args);
	cdi_write_open(report->out, NULL, '{');
	cdi_write_string(report->out, "fieldPath", path);
	cdi_write_string(report->out, "description", description);
	cdi_write_string(report->out, "validationCode", code);
	cdi_write_close(report->out, '}');
}

static int
characters(CdiText text)
{
	int			count = 0;

	for (int i = 0; i < text.len; i++)
		count += (text.data[i] & 0xc0) != 0x80;
	return count;
}

/* For a message, cut between characters */
static const char *
clip(CdiText text)
{
	int			len = Min(text.len, 64);

	while (len < text.len && len > 0 && (text.data[len] & 0xc0) == 0x80)
		len--;
	return text.data == NULL ? "" : pnstrdup(text.data, len);
}

static bool
is_listed(CdiText name, const char *const *list)
{
	for (; *list != NULL; list++)
		if (cdi_text_is(name, *list))
			return true;
	return false;
}

static bool
has_reserved_prefix(CdiText name)
{
	for (const char *const *prefix = reserved_prefixes; *prefix != NULL; prefix++)
		if (name.len > (int) strlen(*prefix) &&
			memcmp(name.data, *prefix, strlen(*prefix)) == 0)
			return true;
	return false;
}

static bool
is_name(CdiText name)
{
	for (int i = 0; i < name.len; i++)
	{
		char		c = name.data[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  (i > 0 && ((c >= '0' && c <= '9') || c == '_'))))
			return false;
	}
	return name.len > 0;
}

static void
check_name(Report *report, CdiText name, const char *what, const char *path,
		   int limit, const char *const *reserved)
{
	if (!is_name(name))
		complain(report, "NAME_INVALID", path,
				 "%s has invalid name [%s]: a letter first, then letters, digits and underscores.",
				 what, clip(name));
	else if (is_listed(name, reserved) || has_reserved_prefix(name))
		complain(report, "NAME_RESERVED", path, "%s has the reserved name [%s].", what, clip(name));
	if (characters(name) > limit)
		complain(report, "NAME_INVALID", path, "%s has a name longer than %d characters [%s].",
				 what, limit, clip(name));
}

/* The same name again, behind this member? */
static bool
stands_again(CdiScan rest, CdiText name)
{
	CdiText		key;
	CdiText		value;

	while (cdi_scan_member(&rest, &key, &value))
		if (key.len == name.len && memcmp(key.data, name.data, key.len) == 0)
			return true;
	return false;
}

static void
check_length(Report *report, CdiText value, int limit, const char *what, CdiText name, const char *path)
{
	CdiText		text = cdi_scan_scalar(value);

	if (text.data != NULL && characters(text) > limit)
		complain(report, "VALUE_OUT_OF_BOUNDS", path,
				 "%s: the value of [%s] is longer than %d characters.", what, clip(name), limit);
}

static int
value_limit(CdiText name)
{
	for (int i = 0; i < lengthof(long_params); i++)
		if (cdi_text_is(name, long_params[i].name))
			return long_params[i].limit;
	return MAX_PARAM_VALUE;
}

static void
check_params(Report *report, CdiText params, const char *event)
{
	CdiScan		scan;
	CdiText		name;
	CdiText		value;
	int			count = 0;

	if (!cdi_scan_present(params))
		return;
	cdi_scan_object(&scan, params);
	while (cdi_scan_member(&scan, &name, &value))
	{
		if (cdi_text_is(name, "items"))
		{
			int			items = cdi_scan_count(value);

			if (items < 0)
				complain(report, "VALUE_INVALID", "events.params.items", "%s: items must be an array.", event);
			else if (items > MAX_ITEMS)
				complain(report, "EXCEEDED_MAX_ENTITIES", "events.params.items",
						 "%s has more than %d items.", event, MAX_ITEMS);
			continue;
		}
		/* One more than the limit shows that it is passed. */
		if (++count > MAX_PARAMS)
			continue;
		check_name(report, name, event, "events.params", MAX_NAME, reserved_params);
		check_length(report, value, value_limit(name), event, name, "events.params");
		if (cdi_text_is(name, "value") && cdi_scan_kind(value) != '0')
			complain(report, "VALUE_INVALID", "events.params.value", "%s: value must be a number.", event);
		if (cdi_text_is(name, "currency") && cdi_scan_string(value).len != 3)
			complain(report, "VALUE_INVALID", "events.params.currency",
					 "%s: currency must be a code of three letters.", event);
		if (stands_again(scan, name))
			complain(report, "NAME_DUPLICATED", "events.params", "%s has the parameter [%s] more than once.",
					 event, clip(name));
	}
	if (scan.malformed)
		complain(report, "VALUE_INVALID", "events.params", "%s: params must be an object.", event);
	if (count > MAX_PARAMS)
		complain(report, "EXCEEDED_MAX_ENTITIES", "events.params", "%s has more than %d parameters.",
				 event, MAX_PARAMS);
}

static void
check_events(Report *report, CdiText events)
{
	CdiScan		scan;
	CdiText		event;
	int			count = cdi_scan_count(events);
	int			index = 0;

	if (!cdi_scan_present(events))
	{
		complain(report, "VALUE_REQUIRED", "events", "The request has no events.");
		return;
	}
	if (count < 0)
	{
		complain(report, "VALUE_INVALID", "events", "events must be an array.");
		return;
	}
	if (count > MAX_EVENTS)
		complain(report, "EXCEEDED_MAX_ENTITIES", "events", "The request has %d events, more than %d.",
				 count, MAX_EVENTS);
	cdi_scan_array(&scan, events);
	while (index < MAX_EVENTS && cdi_scan_element(&scan, &event))
	{
		const char *what = psprintf("Event at index: [%d]", index++);
		CdiText		name = cdi_scan_get(event, "name");

		if (cdi_scan_kind(event) != '{')
		{
			complain(report, "VALUE_INVALID", "events", "%s is no object.", what);
			continue;
		}
		if (!cdi_scan_present(name))
			complain(report, "VALUE_REQUIRED", "events.name", "%s has no name.", what);
		else if (cdi_scan_kind(name) != '"')
			complain(report, "VALUE_INVALID", "events.name", "%s: name must be a string.", what);
		else
			check_name(report, cdi_scan_string(name), what, "events", MAX_NAME, reserved_events);
		check_params(report, cdi_scan_get(event, "params"), what);
	}
}

static void
check_user_properties(Report *report, CdiText properties)
{
	CdiScan		scan;
	CdiText		name;
	CdiText		value;
	int			count = 0;

	if (!cdi_scan_present(properties))
		return;
	cdi_scan_object(&scan, properties);
	while (cdi_scan_member(&scan, &name, &value))
	{
		CdiText		inner = cdi_scan_get(value, "value");

		if (++count > MAX_USER_PROPERTIES)
			continue;
		check_name(report, name, "User property", "user_properties", MAX_PROPERTY_NAME, reserved_properties);
		if (inner.data == NULL)
			complain(report, "VALUE_REQUIRED", "user_properties", "User property [%s] has no value.", clip(name));
		check_length(report, inner, MAX_PROPERTY_VALUE, "User property", name, "user_properties");
	}
	if (scan.malformed)
		complain(report, "VALUE_INVALID", "user_properties", "user_properties must be an object.");
	if (count > MAX_USER_PROPERTIES)
		complain(report, "EXCEEDED_MAX_ENTITIES", "user_properties",
				 "The request has more than %d user properties.", MAX_USER_PROPERTIES);
}

/* client_id, or clientId: Google reads either */
static CdiText
member_of(const CdiRequest *request, const char *name)
{
	CdiText		value = cdi_scan_get(request->body, name);
	char		other[32];
	int			length = 0;

	if (value.data != NULL)
		return value;
	for (const char *c = name; *c != '\0' && length < (int) sizeof(other) - 1; c++)
		if (*c == '_' && c[1] != '\0')
			other[length++] = *++c - 'a' + 'A';
		else
			other[length++] = *c;
	other[length] = '\0';
	return cdi_scan_get(request->body, other);
}

static void
check_required(Report *report, const CdiRequest *request, const char *name)
{
	CdiText		value = member_of(request, name);

	if (!cdi_scan_present(value))
		complain(report, "VALUE_REQUIRED", name, "The request has no %s.", name);
	else if (cdi_scan_scalar(value).len == 0)
		complain(report, "VALUE_INVALID", name, "%s must be a string with something in it.", name);
}

static void
check_request(Report *report, const CdiRequest *request)
{
	CdiText		time = member_of(request, "timestamp_micros");
	int64		microseconds;

	if (cdi_form_get(request->query, "firebase_app_id").len > 0)
		check_required(report, request, "app_instance_id");
	else
	{
		if (cdi_form_get(request->query, "measurement_id").len == 0)
			complain(report, "VALUE_REQUIRED", "measurement_id",
					 "The address has neither measurement_id nor firebase_app_id.");
		check_required(report, request, "client_id");
	}
	if (cdi_scan_present(time) && !cdi_scan_epoch(time, CDI_MICROSECONDS, &microseconds))
		complain(report, "VALUE_INVALID", "timestamp_micros", "timestamp_micros must be a number of microseconds.");
	check_events(report, cdi_scan_get(request->body, "events"));
	check_user_properties(report, member_of(request, "user_properties"));
}

void
cdi_ga4_validate(const CdiRequest *request, StringInfo out)
{
	Report		report = {out, 0};
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_write_open(out, NULL, '{');
	cdi_write_open(out, "validationMessages", '[');
	cdi_scan_object(&scan, request->body);
	while (cdi_scan_member(&scan, &key, &value))
		 /* only to its end */ ;
	if (scan.malformed)
		complain(&report, "VALUE_INVALID", "", "The body is no JSON object.");
	else if (request->body.len > MAX_BODY)
		complain(&report, "VALUE_OUT_OF_BOUNDS", "", "The body is larger than %d bytes.", MAX_BODY);
	else
		check_request(&report, request);
	cdi_write_close(out, ']');
	cdi_write_close(out, '}');
}
