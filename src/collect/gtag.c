/*
 * gtag.c
 *		What gtag.js sends to /g/collect.
 *
 * Everything is a parameter of a URL.  One event is in the address alone; of
 * several the body has a line each, and the address what they share.  Names
 * with a prefix are the site's own: ep. and epn. parameters of the event (text
 * and number), up. and upn. properties of the user, pr1, pr2 ... items of a
 * purchase.  The others are Google's.  What has a place in a call goes there,
 * and the rest is kept under its short name in context.google.
 *
 * An event has no time and no id of its own.
 */
#include "postgres.h"

#include "collect/dialect.h"
#include "collect/ga4.h"

enum
{
	G_EVENT, G_CLIENT, G_USER, G_LOCALE, G_SCREEN, G_SCREEN_NAME, G_IP, G_CURRENCY, G_SESSION, G_GCS, G_GCD,
	G_URL, G_PATH, G_TITLE, G_REFERRER,
	G_SOURCE, G_MEDIUM, G_CAMPAIGN, G_TERM, G_CONTENT, G_CAMPAIGN_ID,
	G_PLATFORM, G_PLATFORM_VERSION, G_MODEL, G_ARCHITECTURE, G_BITNESS, G_MOBILE,
	G_COUNT
};

static const struct
{
	const char *name;
	int			slot;
	bool		kept;			/* in context.google, too */
	const char *object;			/* of the context */
	const char *member;
}			parameters[] =
{
	{"en", G_EVENT},
	{"cid", G_CLIENT},
	{"uid", G_USER},
	{"ul", G_LOCALE},
	{"sr", G_SCREEN},
	{"_uip", G_IP},
	{"cu", G_CURRENCY},
	{"sid", G_SESSION, true},
	{"gcs", G_GCS, true},
	{"gcd", G_GCD, true},
	{"dl", G_URL, false, "page", "url"},
	{"dp", G_PATH, false, "page", "path"},
	{"dt", G_TITLE, false, "page", "title"},
	{"dr", G_REFERRER, false, "page", "referrer"},
	{"cs", G_SOURCE, false, "campaign", "source"},
	{"cm", G_MEDIUM, false, "campaign", "medium"},
	{"cn", G_CAMPAIGN, false, "campaign", "name"},
	{"ck", G_TERM, false, "campaign", "term"},
	{"cc", G_CONTENT, false, "campaign", "content"},
	{"ci", G_CAMPAIGN_ID, false, "campaign", "id"},
	{"uap", G_PLATFORM, false, "userAgentData", "platform"},
	{"uapv", G_PLATFORM_VERSION, false, "userAgentData", "platformVersion"},
	{"uam", G_MODEL, false, "userAgentData", "model"},
	{"uaa", G_ARCHITECTURE, false, "userAgentData", "architecture"},
	{"uab", G_BITNESS, false, "userAgentData", "bitness"},
	{"uamb", G_MOBILE, false, "userAgentData", "mobile"},
};

/* Fields of an item, and their names in GA4's exports */
static const struct
{
	char		code[3];
	bool		number;
	const char *name;
}			item_fields[] =
{
	{"id", false, "item_id"},
	{"nm", false, "item_name"},
	{"br", false, "item_brand"},
	{"ca", false, "item_category"},
	{"c2", false, "item_category2"},
	{"c3", false, "item_category3"},
	{"c4", false, "item_category4"},
	{"c5", false, "item_category5"},
	{"va", false, "item_variant"},
	{"pr", true, "price"},
	{"qt", true, "quantity"},
	{"cp", false, "coupon"},
	{"ds", true, "discount"},
	{"ln", false, "item_list_name"},
	{"li", false, "item_list_id"},
	{"lp", true, "index"},
	{"af", false, "affiliation"},
	{"pi", false, "promotion_id"},
	{"pn", false, "promotion_name"},
	{"cn", false, "creative_name"},
	{"cs", false, "creative_slot"},
	{"lo", false, "location_id"},
};

/* A call in the making */
typedef struct Gtag
{
	CdiText		values[G_COUNT];
	StringInfoData properties;
	StringInfoData items;
	StringInfoData traits;
	StringInfoData google;
} Gtag;

/*
 * Unpack
 */
static void
set_shared(CdiRequest *request, CdiText shared)
{
	StringInfoData envelope;

	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_write_text(&envelope, "gtag", shared);
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text_of(&envelope);
}

void
cdi_gtag_unpack(CdiRequest *request)
{
	CdiText		rest = request->method == CDI_HTTP_POST ? cdi_text_trim(request->body) : CDI_NO_TEXT;

	request->from_device = true;
	cdi_request_add_key(request, cdi_form_get(request->query, "tid"));
	if (rest.len == 0)
	{
		set_shared(request, cdi_text(""));
		cdi_request_add_element(request, request->query);
		return;
	}
	set_shared(request, request->query);
	while (rest.len > 0)
	{
		CdiText		line = cdi_text_trim(cdi_text_split(&rest, '\n'));

		if (line.len == 0)
			continue;
		if (request->nkeys == 0)
			cdi_request_add_key(request, cdi_form_get(line, "tid"));
		cdi_request_add_element(request, line);
	}
}

/*
 * Translate
 */
static bool
starts_with(CdiText text, const char *prefix)
{
	int			len = strlen(prefix);

	return text.len > len && memcmp(text.data, prefix, len) == 0;
}

static CdiText
skip(CdiText text, int n)
{
	return (CdiText) {text.data + n, text.len - n};
}

/* A number as JSON has it */
static bool
is_number(CdiText text)
{
	const char *at = text.data;
	const char *end = at + text.len;
	const char *digits;

	if (at < end && *at == '-')
		at++;
	digits = at;
	while (at < end && isdigit((unsigned char) *at))
		at++;
	if (at == digits || (*digits == '0' && at - digits > 1))
		return false;
	if (at < end && *at == '.')
	{
		digits = ++at;
		while (at < end && isdigit((unsigned char) *at))
			at++;
		if (at == digits)
			return false;
	}
	if (at < end && (*at == 'e' || *at == 'E'))
	{
		at++;
		if (at < end && (*at == '-' || *at == '+'))
			at++;
		digits = at;
		while (at < end && isdigit((unsigned char) *at))
			at++;
		if (at == digits)
			return false;
	}
	return at == end;
}

static void
write_scalar(StringInfo out, CdiText key, CdiText value, bool number)
{
	cdi_write_key(out, key);
	if (number && is_number(value))
		appendBinaryStringInfo(out, value.data, value.len);
	else
		cdi_write_text(out, NULL, value);
}

/* To the next single "~"; a doubled one is a character of the value. */
static CdiText
next_field(CdiText *rest)
{
	CdiText		field = {rest->data, 0};
	char	   *copy;
	int			len = 0;
	bool		doubled = false;

	while (field.len < rest->len)
	{
		bool		tilde = rest->data[field.len] == '~';

		if (tilde && (field.len + 1 == rest->len || rest->data[field.len + 1] != '~'))
			break;
		doubled = doubled || tilde;
		field.len += tilde ? 2 : 1;
	}
	*rest = skip(*rest, Min(field.len + 1, rest->len));
	if (!doubled)
		return field;
	copy = palloc(field.len);
	for (int i = 0; i < field.len; i++)
	{
		copy[len++] = field.data[i];
		if (field.data[i] == '~')
			i++;
	}
	return (CdiText) {copy, len};
}

/* The number of a parameter of the site's own, 0-9 and A-Z; or -1 */
static int
custom_index(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'Z' ? c - 'A' + 10 : -1;
}

/* idSKU1~nmTee~pr9.99~qt1~k0color~v0red */
static void
add_item(StringInfo out, CdiText rest)
{
	CdiText		names[36] = {{0}};

	cdi_write_open(out, NULL, '{');
	while (rest.len > 0)
	{
		CdiText		field = next_field(&rest);
		CdiText		value;
		int			custom;
		int			i;

		if (field.len < 2)
			continue;
		value = skip(field, 2);
		custom = custom_index(field.data[1]);
		if (field.data[0] == 'k' && custom >= 0)
			names[custom] = value;
		else if (field.data[0] == 'v' && custom >= 0 && names[custom].data != NULL)
			write_scalar(out, names[custom], value, false);
		else
		{
			for (i = 0; i < lengthof(item_fields); i++)
				if (memcmp(item_fields[i].code, field.data, 2) == 0)
					break;
			if (i < lengthof(item_fields))
				write_scalar(out, cdi_text(item_fields[i].name), value, item_fields[i].number);
			else
				write_scalar(out, (CdiText) {field.data, 2}, value, false);
		}
	}
	cdi_write_close(out, '}');
}

static bool
is_item(CdiText name)
{
	if (!starts_with(name, "pr"))
		return false;
	for (int i = 2; i < name.len; i++)
		if (!isdigit((unsigned char) name.data[i]))
			return false;
	return true;
}

static void
take_parameter(Gtag *gtag, CdiText name, CdiText value)
{
	if (cdi_text_is(name, "ep.screen_name"))
		gtag->values[G_SCREEN_NAME] = value;
	if (starts_with(name, "ep."))
		write_scalar(&gtag->properties, skip(name, 3), value, false);
	else if (starts_with(name, "epn."))
		write_scalar(&gtag->properties, skip(name, 4), value, true);
	else if (starts_with(name, "up."))
		write_scalar(&gtag->traits, skip(name, 3), value, false);
	else if (starts_with(name, "upn."))
		write_scalar(&gtag->traits, skip(name, 4), value, true);
	else if (is_item(name))
		add_item(&gtag->items, value);
	else
	{
		for (int i = 0; i < lengthof(parameters); i++)
			if (cdi_text_is(name, parameters[i].name))
			{
				gtag->values[parameters[i].slot] = value;
				if (!parameters[i].kept)
					return;
			}
		write_scalar(&gtag->google, name, value, false);
	}
}

static const char *
gcd_state(char letter)
{
	if (strchr("pqum", letter) != NULL)
		return "denied";
	return strchr("rtvn", letter) != NULL ? "granted" : NULL;
}

/*
 * gcs is G1 and a digit each for advertising and analytics; gcd has a letter
 * each for four purposes, between digits.
 */
static void
write_consent(StringInfo out, CdiText gcs, CdiText gcd)
{
	static const char *const purposes[] = {
		"ad_storage", "analytics_storage", "ad_user_data", "ad_personalization"
	};
	bool		any = false;

	for (int i = 0; i < lengthof(purposes); i++)
	{
		const char *state = NULL;

		if (i < 2 && gcs.len == 4 && gcs.data[0] == 'G')
			state = gcs.data[2 + i] == '1' ? "granted" : gcs.data[2 + i] == '0' ? "denied" : NULL;
		if (state == NULL && gcd.len >= 10 && gcd.data[2 + 2 * i] != '\0')
			state = gcd_state(gcd.data[2 + 2 * i]);
		if (state == NULL)
			continue;
		if (!any)
			cdi_write_open(out, "consent", '{');
		any = true;
		cdi_write_string(out, purposes[i], state);
	}
	if (any)
		cdi_write_close(out, '}');
}

/* Members that were written apart, as an object; nothing where there are none */
static void
write_object(StringInfo out, const char *name, const StringInfoData *members)
{
	if (members->len == 0)
		return;
	cdi_write_open(out, name, '{');
	appendBinaryStringInfo(out, members->data, members->len);
	cdi_write_close(out, '}');
}

static void
write_text(StringInfo out, const char *name, CdiText value)
{
	if (value.len > 0)
		cdi_write_text(out, name, value);
}

static void
write_context(StringInfo out, Gtag *gtag)
{
	const CdiText *values = gtag->values;
	const char *open = NULL;

	cdi_write_open(out, "context", '{');
	write_text(out, "ip", values[G_IP]);
	write_text(out, "locale", values[G_LOCALE]);
	write_text(out, "sessionId", values[G_SESSION]);
	cdi_ga4_write_screen(out, values[G_SCREEN]);
	write_consent(out, values[G_GCS], values[G_GCD]);
	for (int i = 0; i < lengthof(parameters); i++)
	{
		CdiText		value = values[parameters[i].slot];

		if (parameters[i].object == NULL || value.len == 0)
			continue;
		if (open == NULL || strcmp(open, parameters[i].object) != 0)
		{
			if (open != NULL)
				cdi_write_close(out, '}');
			open = parameters[i].object;
			cdi_write_open(out, open, '{');
		}
		if (parameters[i].slot == G_MOBILE)
			cdi_write_bool(out, parameters[i].member, cdi_text_is(value, "1"));
		else
			cdi_write_text(out, parameters[i].member, value);
	}
	if (open != NULL)
		cdi_write_close(out, '}');
	write_object(out, "google", &gtag->google);
	cdi_write_close(out, '}');
}

void
cdi_gtag_translate(CdiTranslation *translation, CdiText shared)
{
	StringInfo	out = translation->call;
	CdiText		forms[2] = {shared, translation->payload};
	CdiText		name;
	CdiText		value;
	Gtag		gtag;
	const char *type;

	memset(&gtag, 0, sizeof(gtag));
	initStringInfo(&gtag.properties);
	initStringInfo(&gtag.items);
	initStringInfo(&gtag.traits);
	initStringInfo(&gtag.google);
	for (int i = 0; i < 2; i++)
		while (cdi_form_next(&forms[i], &name, &value))
			take_parameter(&gtag, name, value);

	type = cdi_ga4_type(gtag.values[G_EVENT]);
	cdi_write_open(out, NULL, '{');
	cdi_write_string(out, "type", type);
	if (strcmp(type, "track") == 0)
		write_text(out, "event", gtag.values[G_EVENT]);
	else if (strcmp(type, "screen") == 0)
		write_text(out, "name", gtag.values[G_SCREEN_NAME]);
	write_text(out, "userId", gtag.values[G_USER]);
	write_text(out, "anonymousId", gtag.values[G_CLIENT]);
	write_object(out, "traits", &gtag.traits);
	write_context(out, &gtag);
	if (gtag.values[G_CURRENCY].len > 0)
		write_scalar(&gtag.properties, cdi_text("currency"), gtag.values[G_CURRENCY], false);
	if (gtag.items.len > 0)
	{
		cdi_write_open(&gtag.properties, "items", '[');
		appendBinaryStringInfo(&gtag.properties, gtag.items.data, gtag.items.len);
		cdi_write_close(&gtag.properties, ']');
	}
	write_object(out, "properties", &gtag.properties);
	cdi_write_close(out, '}');
}
