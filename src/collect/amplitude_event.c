/*
 * amplitude_event.c
 *		Amplitude's events as calls.
 *
 * What an event says of its person (user_properties) becomes the call's
 * traits, device and place become Segment's context, and what Segment has no
 * name for stays under context.amplitude.
 */
#include "postgres.h"

#include "common/int.h"

#include "base/errors.h"
#include "collect/amplitude.h"
#include "collect/dialect.h"
#include "collect/members.h"

/* Members of an event, and of its event_properties */
enum
{
	EVENT_TYPE, EVENT_USER_ID, EVENT_DEVICE_ID, EVENT_TIME, EVENT_INSERT_ID,
	EVENT_PROPERTIES, EVENT_USER_PROPERTIES, EVENT_GROUPS, EVENT_GROUP_PROPERTIES,
	EVENT_PRICE, EVENT_QUANTITY, EVENT_REVENUE, EVENT_PRODUCT_ID, EVENT_REVENUE_TYPE,
	EVENT_CURRENCY, EVENT_IP, EVENT_USER_AGENT, EVENT_LANGUAGE, EVENT_SESSION_ID,
	EVENT_TIMESTAMP, EVENT_UUID, EVENT_GROUP_VALUE,
	EVENT_LIBRARY, EVENT_APP_VERSION, EVENT_VERSION_NAME, EVENT_OS_NAME, EVENT_OS_VERSION,
	EVENT_MANUFACTURER, EVENT_MODEL, EVENT_ADID, EVENT_IDFA, EVENT_IDFV, EVENT_ANDROID_ID,
	EVENT_CARRIER, EVENT_COUNTRY, EVENT_REGION, EVENT_CITY, EVENT_LATITUDE, EVENT_LONGITUDE,

	OWN_PRICE, OWN_QUANTITY, OWN_REVENUE, OWN_PRODUCT_ID, OWN_REVENUE_TYPE, OWN_CURRENCY,
	OWN_URL, OWN_PATH, OWN_TITLE,
	PAGE_LOCATION, PAGE_URL, PAGE_PATH, PAGE_TITLE, PAGE_REFERRER, SCREEN_NAME,
	UTM_SOURCE, UTM_MEDIUM, UTM_CAMPAIGN, UTM_TERM, UTM_CONTENT,
	DOLLAR_PRICE, DOLLAR_QUANTITY, DOLLAR_REVENUE, DOLLAR_PRODUCT_ID, DOLLAR_REVENUE_TYPE,
	DOLLAR_CURRENCY,

	/* made of the others */
	LIBRARY_OBJECT, GROUP_ID, GROUP_TYPE, DEVICE_TYPE, COUNT
};

static const CdiWanted event_members[] = {
	CDI_WANTED("event_type", EVENT_TYPE),
	CDI_WANTED("user_id", EVENT_USER_ID),
	CDI_WANTED("device_id", EVENT_DEVICE_ID),
	CDI_WANTED("time", EVENT_TIME),
	CDI_WANTED("timestamp", EVENT_TIMESTAMP),
	CDI_WANTED("insert_id", EVENT_INSERT_ID),
	CDI_WANTED("uuid", EVENT_UUID),
	CDI_WANTED("event_properties", EVENT_PROPERTIES),
	CDI_WANTED("user_properties", EVENT_USER_PROPERTIES),
	CDI_WANTED("groups", EVENT_GROUPS),
	CDI_WANTED("group_properties", EVENT_GROUP_PROPERTIES),
	CDI_WANTED("group_value", EVENT_GROUP_VALUE),
	CDI_WANTED("price", EVENT_PRICE),
	CDI_WANTED("quantity", EVENT_QUANTITY),
	CDI_WANTED("revenue", EVENT_REVENUE),
	CDI_WANTED("productId", EVENT_PRODUCT_ID),
	CDI_WANTED("revenueType", EVENT_REVENUE_TYPE),
	CDI_WANTED("currency", EVENT_CURRENCY),
	CDI_WANTED("ip", EVENT_IP),
	CDI_WANTED("user_agent", EVENT_USER_AGENT),
	CDI_WANTED("language", EVENT_LANGUAGE),
	CDI_WANTED("session_id", EVENT_SESSION_ID),
	CDI_WANTED("library", EVENT_LIBRARY),
	CDI_WANTED("app_version", EVENT_APP_VERSION),
	CDI_WANTED("version_name", EVENT_VERSION_NAME),
	CDI_WANTED("os_name", EVENT_OS_NAME),
	CDI_WANTED("os_version", EVENT_OS_VERSION),
	CDI_WANTED("device_manufacturer", EVENT_MANUFACTURER),
	CDI_WANTED("device_model", EVENT_MODEL),
	CDI_WANTED("adid", EVENT_ADID),
	CDI_WANTED("idfa", EVENT_IDFA),
	CDI_WANTED("idfv", EVENT_IDFV),
	CDI_WANTED("android_id", EVENT_ANDROID_ID),
	CDI_WANTED("carrier", EVENT_CARRIER),
	CDI_WANTED("country", EVENT_COUNTRY),
	CDI_WANTED("region", EVENT_REGION),
	CDI_WANTED("city", EVENT_CITY),
	CDI_WANTED("location_lat", EVENT_LATITUDE),
	CDI_WANTED("location_lng", EVENT_LONGITUDE),
	CDI_WANTED_END
};

static const CdiWanted property_members[] = {
	CDI_WANTED("price", OWN_PRICE),
	CDI_WANTED("quantity", OWN_QUANTITY),
	CDI_WANTED("revenue", OWN_REVENUE),
	CDI_WANTED("productId", OWN_PRODUCT_ID),
	CDI_WANTED("revenueType", OWN_REVENUE_TYPE),
	CDI_WANTED("currency", OWN_CURRENCY),
	CDI_WANTED("url", OWN_URL),
	CDI_WANTED("path", OWN_PATH),
	CDI_WANTED("title", OWN_TITLE),
	CDI_WANTED("[Amplitude] Page Location", PAGE_LOCATION),
	CDI_WANTED("[Amplitude] Page URL", PAGE_URL),
	CDI_WANTED("[Amplitude] Page Path", PAGE_PATH),
	CDI_WANTED("[Amplitude] Page Title", PAGE_TITLE),
	CDI_WANTED("[Amplitude] Screen Name", SCREEN_NAME),
	CDI_WANTED("referrer", PAGE_REFERRER),
	CDI_WANTED("utm_source", UTM_SOURCE),
	CDI_WANTED("utm_medium", UTM_MEDIUM),
	CDI_WANTED("utm_campaign", UTM_CAMPAIGN),
	CDI_WANTED("utm_term", UTM_TERM),
	CDI_WANTED("utm_content", UTM_CONTENT),
	CDI_WANTED("$price", DOLLAR_PRICE),
	CDI_WANTED("$quantity", DOLLAR_QUANTITY),
	CDI_WANTED("$revenue", DOLLAR_REVENUE),
	CDI_WANTED("$productId", DOLLAR_PRODUCT_ID),
	CDI_WANTED("$revenueType", DOLLAR_REVENUE_TYPE),
	CDI_WANTED("$currency", DOLLAR_CURRENCY),
	CDI_WANTED_END
};

/* What SDKs for browsers say of a visit, among the properties of its person */
static const CdiWanted visit_members[] = {
	CDI_WANTED("referrer", PAGE_REFERRER),
	CDI_WANTED("utm_source", UTM_SOURCE),
	CDI_WANTED("utm_medium", UTM_MEDIUM),
	CDI_WANTED("utm_campaign", UTM_CAMPAIGN),
	CDI_WANTED("utm_term", UTM_TERM),
	CDI_WANTED("utm_content", UTM_CONTENT),
	CDI_WANTED_END
};

static const CdiPart context_parts[] = {
	{NULL, "ip", EVENT_IP},
	{NULL, "userAgent", EVENT_USER_AGENT},
	{NULL, "locale", EVENT_LANGUAGE},
	{NULL, "sessionId", EVENT_SESSION_ID},
	{NULL, "groupId", GROUP_ID},
	{NULL, "groupType", GROUP_TYPE},
	{NULL, "library", LIBRARY_OBJECT},
	{"app", "version", EVENT_APP_VERSION},
	{"app", "version", EVENT_VERSION_NAME},
	{"os", "name", EVENT_OS_NAME},
	{"os", "version", EVENT_OS_VERSION},
	{"device", "id", EVENT_IDFV},
	{"device", "id", EVENT_ANDROID_ID},
	{"device", "advertisingId", EVENT_ADID},
	{"device", "advertisingId", EVENT_IDFA},
	{"device", "type", DEVICE_TYPE},
	{"device", "manufacturer", EVENT_MANUFACTURER},
	{"device", "model", EVENT_MODEL},
	{"network", "carrier", EVENT_CARRIER},
	{"location", "country", EVENT_COUNTRY},
	{"location", "region", EVENT_REGION},
	{"location", "city", EVENT_CITY},
	{"location", "latitude", EVENT_LATITUDE},
	{"location", "longitude", EVENT_LONGITUDE},
	{"page", "url", PAGE_LOCATION},
	{"page", "url", PAGE_URL},
	{"page", "path", PAGE_PATH},
	{"page", "title", PAGE_TITLE},
	{"page", "referrer", PAGE_REFERRER},
	{"campaign", "source", UTM_SOURCE},
	{"campaign", "medium", UTM_MEDIUM},
	{"campaign", "name", UTM_CAMPAIGN},
	{"campaign", "term", UTM_TERM},
	{"campaign", "content", UTM_CONTENT},
	{NULL, NULL, 0}
};

/* An operation on properties ("$add") and no property */
static bool
is_operation(CdiText key)
{
	return key.len > 0 && key.data[0] == '$';
}

/*
 * Properties of a person or group, which are plain or behind an operation.
 * What is to be set becomes traits; of several of one name the last counts.
 * Returns whether there is more to it than that.
 */
static bool
write_traits(CdiTranslation *translation, CdiText properties)
{
	StringInfo	out = translation->call;
	bool		more = false;
	int			start;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	if (!cdi_scan_present(properties))
		return false;
	if (cdi_scan_kind(properties) != '{')
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_TYPE,
			 "\"user_properties\" and \"group_properties\" must be JSON objects");
		return false;
	}
	start = cdi_members_open(out, "traits");
	cdi_translation_copy(translation, cdi_scan_get(properties, "$setOnce"), "$setOnce");
	cdi_scan_object(&scan, properties);
	while (cdi_scan_member(&scan, &key, &value))
	{
		if (!is_operation(key))
			cdi_write_member(out, key, value);
		else if (!cdi_text_is(key, "$set"))
			more = true;
	}
	if (scan.malformed)
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
	cdi_translation_copy(translation, cdi_scan_get(properties, "$set"), "$set");
	cdi_members_close(out, "traits", start);
	return more;
}

/* Digits of a JSON number as an integer, and how many of them are decimals */
static bool
read_decimal(CdiText number, int64 *digits, int *scale)
{
	bool		negative = number.len > 0 && number.data[0] == '-';
	bool		point = false;

	*digits = 0;
	*scale = 0;
	for (int i = negative ? 1 : 0; i < number.len; i++)
	{
		char		c = number.data[i];

		if (c == '.' && !point)
			point = true;
		else if (c < '0' || c > '9' || *digits > PG_INT64_MAX / 100)
			return false;
		else
		{
			*digits = *digits * 10 + (c - '0');
			*scale += point ? 1 : 0;
		}
	}
	if (negative)
		*digits = -*digits;
	return true;
}

/* price times quantity, exactly; nothing where that has too many digits */
static void
write_product(StringInfo out, const char *name, CdiText price, CdiText quantity)
{
	int64		factors[2];
	int			scales[2];
	int64		product;
	int			scale;
	uint64		size;
	char		digits[32];
	int			len;

	if (!cdi_scan_present(quantity))
		quantity = cdi_text("1");
	if (cdi_scan_kind(price) != '0' || cdi_scan_kind(quantity) != '0' ||
		!read_decimal(cdi_text_trim(price), &factors[0], &scales[0]) ||
		!read_decimal(cdi_text_trim(quantity), &factors[1], &scales[1]) ||
		pg_mul_s64_overflow(factors[0], factors[1], &product) || product == PG_INT64_MIN)
		return;
	scale = scales[0] + scales[1];
	size = (uint64) (product < 0 ? -product : product);
	/* a digit before the point, whatever the scale */
	len = snprintf(digits, sizeof(digits), "%0*llu", Min(scale + 1, 24), (unsigned long long) size);
	if (scale >= len)
		return;
	cdi_write_value(out, name,
					cdi_text(psprintf("%s%.*s%s%s", product < 0 ? "-" : "", len - scale, digits,
									  scale > 0 ? "." : "", digits + len - scale)));
}

/* A property under its plain name, unless the event has one of that name */
static void
write_own(StringInfo out, const char *name, const CdiText *values, int own, int a, int b)
{
	if (values[own].data != NULL)
		return;
	cdi_write_present(out, name, cdi_scan_present(values[a]) ? values[a] : values[b]);
}

static void
write_properties(CdiTranslation *translation, const char *type, const CdiText *values)
{
	StringInfo	out = translation->call;
	int			price = cdi_scan_present(values[DOLLAR_PRICE]) ? DOLLAR_PRICE : EVENT_PRICE;
	int			quantity = cdi_scan_present(values[DOLLAR_QUANTITY]) ? DOLLAR_QUANTITY : EVENT_QUANTITY;
	int			start = cdi_members_open(out, "properties");

	cdi_translation_copy(translation, values[EVENT_PROPERTIES], "event_properties");
	write_own(out, "price", values, OWN_PRICE, DOLLAR_PRICE, EVENT_PRICE);
	write_own(out, "quantity", values, OWN_QUANTITY, DOLLAR_QUANTITY, EVENT_QUANTITY);
	write_own(out, "revenue", values, OWN_REVENUE, DOLLAR_REVENUE, EVENT_REVENUE);
	if (!cdi_scan_present(values[OWN_REVENUE]) && !cdi_scan_present(values[DOLLAR_REVENUE]) &&
		!cdi_scan_present(values[EVENT_REVENUE]))
		write_product(out, "revenue", values[price], values[quantity]);
	write_own(out, "productId", values, OWN_PRODUCT_ID, DOLLAR_PRODUCT_ID, EVENT_PRODUCT_ID);
	write_own(out, "revenueType", values, OWN_REVENUE_TYPE, DOLLAR_REVENUE_TYPE, EVENT_REVENUE_TYPE);
	write_own(out, "currency", values, OWN_CURRENCY, DOLLAR_CURRENCY, EVENT_CURRENCY);
	if (strcmp(type, "page") == 0)
	{
		write_own(out, "url", values, OWN_URL, PAGE_LOCATION, PAGE_URL);
		write_own(out, "path", values, OWN_PATH, PAGE_PATH, PAGE_PATH);
		write_own(out, "title", values, OWN_TITLE, PAGE_TITLE, PAGE_TITLE);
	}
	cdi_members_close(out, "properties", start);
}

/* "amplitude-ts/2.11.1", or the object of older SDKs */
static CdiText
library_object(CdiText library)
{
	StringInfoData object;
	CdiText		name = cdi_scan_string(library);
	CdiText		version = CDI_NO_TEXT;

	if (name.data == NULL)
		return library;
	for (int i = name.len - 1; i > 0; i--)
		if (name.data[i] == '/')
		{
			version.data = name.data + i + 1;
			version.len = name.len - i - 1;
			name.len = i;
			break;
		}
	initStringInfo(&object);
	cdi_write_open(&object, NULL, '{');
	cdi_write_text(&object, "name", name);
	cdi_write_text(&object, "version", version);
	cdi_write_close(&object, '}');
	return cdi_text_of(&object);
}

/* The first group of {"org": "acme"} or {"org": ["acme", "initech"]} */
static CdiText
first_group(CdiText groups, CdiText *type)
{
	StringInfoData quoted;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;
	CdiText		element;

	cdi_scan_object(&scan, groups);
	if (!cdi_scan_member(&scan, &key, &value))
		return CDI_NO_TEXT;
	initStringInfo(&quoted);
	cdi_write_text(&quoted, NULL, key);
	*type = cdi_text_of(&quoted);
	if (cdi_scan_kind(value) != '[')
		return value;
	cdi_scan_array(&scan, value);
	return cdi_scan_element(&scan, &element) ? element : CDI_NO_TEXT;
}

static bool
says(CdiText text, const char *word)
{
	return text.len == (int) strlen(word) && pg_strncasecmp(text.data, word, text.len) == 0;
}

/*
 * Segment's word for the device, which tells whose the ids in context.device
 * are: the SDK's platform says so, or else the id does.
 */
static CdiText
device_type(CdiText payload, const CdiText *values)
{
	CdiText		platform = cdi_scan_string(cdi_scan_get(payload, "platform"));

	if (says(platform, "ios"))
		return cdi_text("\"ios\"");
	if (says(platform, "android"))
		return cdi_text("\"android\"");
	if (platform.len > 0)
		return CDI_NO_TEXT;		/* a browser, or something else */
	if (cdi_scan_present(values[EVENT_IDFV]))
		return cdi_text("\"ios\"");
	return cdi_scan_present(values[EVENT_ANDROID_ID]) ? cdi_text("\"android\"") : CDI_NO_TEXT;
}

static void
write_context(CdiTranslation *translation, CdiText *values, bool more_traits)
{
	StringInfo	out = translation->call;
	bool		outside = cdi_text_is(cdi_text_trim(values[EVENT_SESSION_ID]), "-1");
	CdiText		session = values[EVENT_SESSION_ID];
	int			outer;
	int			rest;

	if (cdi_scan_string_is(values[EVENT_IP], "$remote"))
		values[EVENT_IP] = CDI_NO_TEXT;
	if (outside)
		values[EVENT_SESSION_ID] = CDI_NO_TEXT;
	values[DEVICE_TYPE] = device_type(translation->payload, values);
	values[LIBRARY_OBJECT] = library_object(values[EVENT_LIBRARY]);
	outer = cdi_members_open(out, "context");
	cdi_write_parts(out, context_parts, values);

	/* What has no name of its own there, and what was not translated whole */
	rest = cdi_members_open(out, "amplitude");
	cdi_members_copy_others(out, translation->payload, event_members);
	cdi_write_present(out, "timestamp", values[EVENT_TIMESTAMP]);
	cdi_write_present(out, "groups", values[EVENT_GROUPS]);
	if (more_traits && cdi_scan_present(values[EVENT_USER_PROPERTIES]))
		cdi_write_value(out, "user_properties", values[EVENT_USER_PROPERTIES]);
	if (cdi_scan_present(values[EVENT_GROUP_PROPERTIES]))
		cdi_write_value(out, "group_properties", values[EVENT_GROUP_PROPERTIES]);
	if (outside)
		cdi_write_value(out, "session_id", session);
	cdi_members_close(out, "amplitude", rest);
	cdi_members_close(out, "context", outer);
}

static const char *
type_of(CdiText name)
{
	name = cdi_scan_string(name);
	if (cdi_text_is(name, "$identify"))
		return "identify";
	if (cdi_text_is(name, "$groupidentify"))
		return "group";
	if (cdi_text_is(name, "[Amplitude] Page Viewed"))
		return "page";
	if (cdi_text_is(name, "[Amplitude] Screen Viewed"))
		return "screen";
	return "track";
}

void
cdi_amplitude_translate(CdiTranslation *translation)
{
	StringInfo	out = translation->call;
	CdiText		values[COUNT] = {{0}};
	CdiText		group;
	const char *type;
	bool		more;

	if (cdi_scan_kind(translation->payload) != '{')
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT, "event must be a JSON object");
		return;
	}
	if (!cdi_scan_gather(translation->payload, event_members, values))
	{
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
		return;
	}
	(void) cdi_scan_gather(values[EVENT_PROPERTIES], property_members, values);
	if (!cdi_scan_present(values[EVENT_TYPE]))
		values[EVENT_TYPE] = cdi_scan_get(translation->envelope, "event_type");
	type = type_of(values[EVENT_TYPE]);
	if (strcmp(type, "identify") == 0)
		(void) cdi_scan_gather(cdi_scan_get(values[EVENT_USER_PROPERTIES], "$set"), visit_members, values);
	group = cdi_scan_present(values[EVENT_GROUP_VALUE]) ? values[EVENT_GROUP_VALUE] :
		first_group(values[EVENT_GROUPS], &values[GROUP_TYPE]);
	/* as the older SDKs call them */
	if (!cdi_scan_present(values[EVENT_TIME]) && cdi_scan_kind(values[EVENT_TIMESTAMP]) == '0')
	{
		values[EVENT_TIME] = values[EVENT_TIMESTAMP];
		values[EVENT_TIMESTAMP] = CDI_NO_TEXT;
	}
	if (!cdi_scan_present(values[EVENT_INSERT_ID]))
		values[EVENT_INSERT_ID] = values[EVENT_UUID];

	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	cdi_write_present(out, "userId", values[EVENT_USER_ID]);
	cdi_write_present(out, "anonymousId", values[EVENT_DEVICE_ID]);
	cdi_write_present(out, "messageId", values[EVENT_INSERT_ID]);
	if (strcmp(type, "track") == 0)
		cdi_write_present(out, "event", values[EVENT_TYPE]);
	else if (strcmp(type, "page") == 0)
		cdi_write_present(out, "name", cdi_scan_present(values[PAGE_TITLE]) ?
						  values[PAGE_TITLE] : values[PAGE_PATH]);
	else if (strcmp(type, "screen") == 0)
		cdi_write_present(out, "name", values[SCREEN_NAME]);
	else if (strcmp(type, "group") == 0)
		cdi_write_present(out, "groupId", group);
	if (strcmp(type, "group") != 0)
	{
		values[GROUP_ID] = group;
		values[GROUP_TYPE] = CDI_NO_TEXT;
	}

	/* Without a time of its own an event happened when it came. */
	if (cdi_scan_present(values[EVENT_TIME]))
	{
		CdiText		upload = cdi_scan_get(translation->envelope, "client_upload_time");

		cdi_write_epoch(out, "timestamp", values[EVENT_TIME], CDI_MILLISECONDS);
		cdi_write_epoch(out, "sentAt", upload, CDI_MILLISECONDS);
	}
	write_properties(translation, type, values);
	if (strcmp(type, "group") == 0)
	{
		/* the group's, and what the event says of its person besides */
		more = cdi_scan_present(values[EVENT_USER_PROPERTIES]);
		if (!write_traits(translation, values[EVENT_GROUP_PROPERTIES]))
			values[EVENT_GROUP_PROPERTIES] = CDI_NO_TEXT;
	}
	else
		more = write_traits(translation, values[EVENT_USER_PROPERTIES]);
	write_context(translation, values, more);
	cdi_write_close(out, '}');
}
