/*
 * snowplow_call.c
 *		The dialect of Snowplow's trackers: an event as a call.
 *
 * What Segment's specification has a name for goes there; everything else
 * stays in context.snowplow under the name it came with, so that nothing is
 * lost and a column of Snowplow's can be found by its name in the protocol.
 * docs/snowplow.md has the table.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/snowplow.h"

typedef struct Member
{
	CdiSnowplowSlot slot;
	const char *name;
} Member;

/* A number that JSON and PostgreSQL can both hold. */
static bool
is_number(CdiText text)
{
	const char *at = text.data;
	const char *end;
	const char *digits;

#define DIGITS() for (digits = at; at < end && *at >= '0' && *at <= '9'; at++)
	if (text.len == 0 || text.len > 64)
		return false;
	end = text.data + text.len;
	if (*at == '-')
		at++;
	DIGITS();
	if (at == digits || (*digits == '0' && at - digits > 1))
		return false;
	if (at < end && *at == '.')
	{
		at++;
		DIGITS();
		if (at == digits)
			return false;
	}
	if (at < end && (*at == 'e' || *at == 'E'))
	{
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		DIGITS();
		if (at == digits || at - digits > 3)
			return false;
	}
#undef DIGITS
	return at == end;
}

/* Behind a key; strings of JSON leave as the bytes that came in. */
static void
write_field_value(CdiSnowplowEvent *event, const CdiSnowplowField *field, bool number)
{
	StringInfo	out = event->out;

	if (number && is_number(field->text))
		appendBinaryStringInfo(out, field->text.data, field->text.len);
	else if (field->json.data != NULL)
		appendBinaryStringInfo(out, field->json.data, field->json.len);
	else
		cdi_write_text(out, NULL, field->text);
}

static void
write_slot(CdiSnowplowEvent *event, CdiSnowplowSlot slot, const char *name, bool number)
{
	if (event->slots[slot] < 0)
		return;
	cdi_write_key(event->out, cdi_text(name));
	write_field_value(event, &event->fields[event->slots[slot]], number);
	cdi_snowplow_mark_used(event, slot);
}

static void
write_members(CdiSnowplowEvent *event, const Member *members, bool numbers)
{
	for (; members->name != NULL; members++)
		write_slot(event, members->slot, members->name, numbers);
}

/* "1920x1080" */
static bool
split_size(CdiText text, CdiText *width, CdiText *height)
{
	const char *x = text.len > 0 ? memchr(text.data, 'x', text.len) : NULL;

	if (x == NULL)
		return false;
	width->data = text.data;
	width->len = x - text.data;
	height->data = x + 1;
	height->len = text.len - width->len - 1;
	return width->len < 8 && height->len < 8 && is_number(*width) && is_number(*height);
}

/*
 * derived_tstamp = ttm, else received_at - (stm - dtm), else received_at.  The
 * pipeline subtracts, given both times of the device.  A tracker that sends
 * before it tracks has cut stm to seconds: no time lies between the two.
 */
static bool
write_times(CdiSnowplowEvent *event)
{
	static const struct
	{
		CdiSnowplowSlot slot;
		const char *name;
	}			times[] = {{SP_TTM, "ttm"}, {SP_DTM, "dtm"}, {SP_STM, "stm"}};
	int64		values[3] = {0, 0, 0};

	for (int i = 0; i < 3; i++)
		if (event->slots[times[i].slot] >= 0 &&
			!cdi_scan_epoch(cdi_snowplow_text(event, times[i].slot), CDI_MILLISECONDS, &values[i]))
			return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_TIMESTAMP, times[i].name,
									 "is no time in milliseconds since 1970", NULL);
	if (cdi_snowplow_has(event, SP_TTM))
		cdi_write_time(event->out, "timestamp", values[0]);
	else if (cdi_snowplow_has(event, SP_DTM) && cdi_snowplow_has(event, SP_STM))
	{
		cdi_write_time(event->out, "originalTimestamp", values[1]);
		cdi_write_time(event->out, "sentAt", Max(values[1], values[2]));
	}
	return true;
}

static bool
identifies(CdiText id)
{
	return id.len > 0 && !cdi_text_is(id, CDI_SNOWPLOW_NOBODY);
}

/* Who the network knows: of the tracker's settings, else of the cookie */
static CdiText
network_user(const CdiSnowplowEvent *event)
{
	if (identifies(cdi_snowplow_text(event, SP_TNUID)))
		return cdi_snowplow_text(event, SP_TNUID);
	if (identifies(cdi_snowplow_text(event, SP_NUID)))
		return cdi_snowplow_text(event, SP_NUID);
	return event->network_user;
}

/*
 * An event needs someone to belong to.  An id that was made for this request
 * counts only where there is no better one: a server that keeps no cookie
 * would give each of its users one more identifier with every request.  And
 * where the tracker wants nobody to be recognised, it is nobody's.
 */
static void
write_person(CdiSnowplowEvent *event)
{
	bool		known = identifies(cdi_snowplow_text(event, SP_UID));
	CdiText		network = network_user(event);

	write_slot(event, SP_UID, "userId", false);
	if (identifies(cdi_snowplow_text(event, SP_DUID)))
		write_slot(event, SP_DUID, "anonymousId", false);
	else if (identifies(event->client_user))
		cdi_write_text(event->out, "anonymousId", event->client_user);
	else if (identifies(network) && !(event->fresh && network.data == event->network_user.data))
		cdi_write_text(event->out, "anonymousId", network);
	else if (identifies(cdi_snowplow_text(event, SP_SID)))
		cdi_write_text(event->out, "anonymousId", cdi_snowplow_text(event, SP_SID));
	else if (!known)
		cdi_write_text(event->out, "anonymousId",
					   identifies(network) ? network : cdi_text(CDI_SNOWPLOW_NOBODY));
}

/* Path and search of an address, as Segment's libraries send them */
static void
write_address_parts(CdiSnowplowEvent *event, CdiText address)
{
	const char *at = address.len > 0 ? memchr(address.data, ':', address.len) : NULL;
	const char *end;
	CdiText		path;
	CdiText		search;

	if (at == NULL)
		return;
	end = address.data + address.len;
	if (end - at < 3 || memcmp(at, "://", 3) != 0)
		return;
	for (at += 3; at < end && *at != '/' && *at != '?' && *at != '#'; at++)
		;
	path.data = at;
	while (at < end && *at != '?' && *at != '#')
		at++;
	path.len = at - path.data;
	search.data = at;
	while (at < end && *at != '#')
		at++;
	search.len = at - search.data;
	cdi_write_text(event->out, "path", path.len > 0 ? path : cdi_text("/"));
	if (search.len > 0)
		cdi_write_text(event->out, "search", search);
}

/* Trackers of apps give the deep link that led here as url and refr, too. */
static void
write_page(CdiSnowplowEvent *event)
{
	CdiText		link = cdi_scan_string(cdi_scan_get(event->link, "url"));

	if (cdi_snowplow_has(event, SP_URL))
	{
		write_slot(event, SP_URL, "url", false);
		write_address_parts(event, cdi_snowplow_text(event, SP_URL));
	}
	else if (link.len > 0 || event->referer.len > 0)
	{
		CdiText		url = link.len > 0 ? link : event->referer;

		cdi_write_text(event->out, "url", url);
		write_address_parts(event, url);
	}
	write_slot(event, SP_PAGE, "title", false);
	if (cdi_snowplow_has(event, SP_REFR))
		write_slot(event, SP_REFR, "referrer", false);
	else
		cdi_write_text(event->out, "referrer", cdi_scan_string(cdi_scan_get(event->link, "referrer")));
}

static void
write_track(CdiSnowplowEvent *event, CdiText name)
{
	cdi_write_string(event->out, "type", "track");
	cdi_write_text(event->out, "event", name);
	cdi_write_open(event->out, "properties", '{');
}

static void
write_page_view(CdiSnowplowEvent *event)
{
	cdi_write_string(event->out, "type", "page");
	cdi_write_open(event->out, "properties", '{');
	write_page(event);
}

static void
write_page_ping(CdiSnowplowEvent *event)
{
	static const Member offsets[] = {
		{SP_PP_MIX, "pp_xoffset_min"}, {SP_PP_MAX, "pp_xoffset_max"},
		{SP_PP_MIY, "pp_yoffset_min"}, {SP_PP_MAY, "pp_yoffset_max"}, {0, NULL}
	};

	write_track(event, cdi_text("page_ping"));
	write_page(event);
	write_members(event, offsets, true);
}

static void
write_structured(CdiSnowplowEvent *event)
{
	static const Member members[] = {
		{SP_SE_CA, "category"}, {SP_SE_AC, "action"}, {SP_SE_LA, "label"}, {SP_SE_PR, "property"},
		{0, NULL}
	};

	write_track(event, cdi_snowplow_has(event, SP_SE_AC) ? cdi_snowplow_text(event, SP_SE_AC) : cdi_text("event"));
	write_members(event, members, false);
	write_slot(event, SP_SE_VA, "value", true);
}

static void
write_transaction(CdiSnowplowEvent *event)
{
	static const Member members[] = {
		{SP_TR_ID, "order_id"}, {SP_TR_AF, "affiliation"}, {SP_TR_CI, "city"}, {SP_TR_ST, "state"},
		{SP_TR_CO, "country"}, {SP_TR_CU, "currency"}, {0, NULL}
	};
	static const Member numbers[] = {
		{SP_TR_TT, "total"}, {SP_TR_TX, "tax"}, {SP_TR_SH, "shipping"}, {0, NULL}
	};

	write_track(event, cdi_text("transaction"));
	write_members(event, members, false);
	write_members(event, numbers, true);
}

static void
write_transaction_item(CdiSnowplowEvent *event)
{
	static const Member members[] = {
		{SP_TI_ID, "order_id"}, {SP_TI_SK, "sku"}, {SP_TI_NM, "name"}, {SP_TI_CA, "category"},
		{SP_TI_CU, "currency"}, {0, NULL}
	};
	static const Member numbers[] = {{SP_TI_PR, "price"}, {SP_TI_QU, "quantity"}, {0, NULL}};

	write_track(event, cdi_text("transaction_item"));
	write_members(event, members, false);
	write_members(event, numbers, true);
}

/* An object's members are the properties; anything else is one. */
static void
write_self_describing(CdiSnowplowEvent *event)
{
	StringInfo	out = event->out;

	if (cdi_text_is(event->name, "screen_view"))
	{
		cdi_write_string(out, "type", "screen");
		if (cdi_scan_kind(event->data) == '{')
			cdi_write_text(out, "name", cdi_scan_string(cdi_scan_get(event->data, "name")));
	}
	else
	{
		cdi_write_string(out, "type", "track");
		cdi_write_text(out, "event", event->name);
	}
	if (cdi_scan_kind(event->data) == '{')
		cdi_write_value(out, "properties", event->data);
	else
	{
		cdi_write_open(out, "properties", '{');
		cdi_write_value(out, "data", event->data);
		cdi_write_close(out, '}');
	}
}

static void
write_kind(CdiSnowplowEvent *event)
{
	static const struct
	{
		const char *e;
		void		(*write) (CdiSnowplowEvent *event);
	}			kinds[] = {
		{"pv", write_page_view}, {"pp", write_page_ping}, {"se", write_structured},
		{"ev", write_structured}, {"tr", write_transaction}, {"ti", write_transaction_item}
	};
	CdiText		e = cdi_snowplow_text(event, SP_E);

	if (event->schema.data != NULL)
	{
		write_self_describing(event);
		cdi_snowplow_mark_used(event, SP_E);
		return;
	}
	for (int i = 0; i < (int) lengthof(kinds); i++)
		if (cdi_text_is(e, kinds[i].e))
		{
			kinds[i].write(event);
			cdi_write_close(event->out, '}');
			cdi_snowplow_mark_used(event, SP_E);
			return;
		}
	/* One that came after this was written: better kept than refused. */
	write_track(event, e);
	cdi_write_close(event->out, '}');
	cdi_snowplow_mark_used(event, SP_E);
}

static void
write_contexts(CdiSnowplowEvent *event)
{
	StringInfo	out = event->out;
	bool		redirect = cdi_text_is(event->form, CDI_SNOWPLOW_REDIRECT) &&
		event->slots[SP_U] >= 0 && !event->fields[event->slots[SP_U]].used;
	CdiScan		scan;
	CdiText		context;

	if (event->contexts.data == NULL && !redirect)
		return;
	cdi_write_open(out, "contexts", '[');
	if (event->contexts.data != NULL)
	{
		cdi_scan_array(&scan, event->contexts);
		while (cdi_scan_element(&scan, &context))
			cdi_write_value(out, NULL, context);
	}
	if (redirect)
	{
		cdi_write_open(out, NULL, '{');
		cdi_write_string(out, "schema", CDI_SNOWPLOW_SCHEMA "uri_redirect/jsonschema/1-0-0");
		cdi_write_open(out, "data", '{');
		write_slot(event, SP_U, "uri", false);
		cdi_write_close(out, '}');
		cdi_write_close(out, '}');
	}
	cdi_write_close(out, ']');
}

static void
write_screen(CdiSnowplowEvent *event)
{
	static const struct
	{
		CdiSnowplowSlot slot;
		const char *width;
		const char *height;
	}			sizes[] = {{SP_RES, "width", "height"}, {SP_VP, "innerWidth", "innerHeight"}};
	bool		open = false;
	CdiText		width;
	CdiText		height;

	for (int i = 0; i < 2; i++)
		if (split_size(cdi_snowplow_text(event, sizes[i].slot), &width, &height))
		{
			if (!open)
				cdi_write_open(event->out, "screen", '{');
			open = true;
			cdi_write_value(event->out, sizes[i].width, width);
			cdi_write_value(event->out, sizes[i].height, height);
			cdi_snowplow_mark_used(event, sizes[i].slot);
		}
	if (open)
		cdi_write_close(event->out, '}');
}

/* What has no other place, under its own name */
static void
write_rest(CdiSnowplowEvent *event)
{
	StringInfo	out = event->out;
	CdiText		network = network_user(event);

	cdi_write_open(out, "snowplow", '{');
	if (event->schema.data != NULL)
		cdi_write_text(out, "schema", event->schema);
	if (identifies(network))
		cdi_write_text(out, "network_userid", network);
	if (event->anonymous)
		cdi_write_bool(out, "anonymous", true);
	if (cdi_text_is(event->form, CDI_SNOWPLOW_REDIRECT) && !cdi_snowplow_has(event, SP_P))
		cdi_write_string(out, "p", "web");
	cdi_write_value(out, "envelope", event->members);
	for (int i = 0; i < event->nfields; i++)
	{
		CdiSnowplowField *field = &event->fields[i];

		if (field->used)
			continue;
		cdi_write_key(out, field->name);
		write_field_value(event, field, field->number);
	}
	cdi_write_close(out, '}');
}

static void
write_context(CdiSnowplowEvent *event)
{
	static const Member members[] = {
		{SP_IP, "ip"}, {SP_UA, "userAgent"}, {SP_LANG, "locale"}, {SP_TZ, "timezone"}, {0, NULL}
	};
	StringInfo	out = event->out;

	cdi_write_open(out, "context", '{');
	write_members(event, members, false);
	if (cdi_snowplow_has(event, SP_AID))
	{
		cdi_write_open(out, "app", '{');
		write_slot(event, SP_AID, "name", false);
		cdi_write_close(out, '}');
	}
	cdi_write_open(out, "library", '{');
	if (cdi_text_is(event->form, CDI_SNOWPLOW_REDIRECT))
		cdi_write_string(out, "name", "r-tp2");
	else if (cdi_snowplow_has(event, SP_TV))
		write_slot(event, SP_TV, "name", false);
	else
		cdi_write_string(out, "name", "snowplow");
	cdi_write_close(out, '}');
	if (cdi_snowplow_has(event, SP_URL) || cdi_snowplow_has(event, SP_PAGE) || cdi_snowplow_has(event, SP_REFR) ||
		event->referer.len > 0 || event->link.data != NULL)
	{
		cdi_write_open(out, "page", '{');
		write_page(event);
		cdi_write_close(out, '}');
	}
	if (event->install_referrer.len > 0)
		cdi_write_text(out, "installReferrer", event->install_referrer);
	write_screen(event);
	if (cdi_snowplow_has(event, SP_SID))
		write_slot(event, SP_SID, "sessionId", false);
	else if (event->client_session.len > 0)
		cdi_write_text(out, "sessionId", event->client_session);
	write_contexts(event);
	write_rest(event);
	cdi_write_close(out, '}');
}

void
cdi_snowplow_translate(CdiTranslation *translation)
{
	CdiSnowplowEvent event;
	StringInfo	out = translation->call;

	memset(&event, 0, sizeof(event));
	memset(event.slots, -1, sizeof(event.slots));
	event.translation = translation;
	event.out = out;
	if (!cdi_snowplow_read(&event))
		return;
	cdi_write_open(out, NULL, '{');
	write_kind(&event);
	write_slot(&event, SP_EID, "messageId", false);
	write_person(&event);
	if (!write_times(&event))
		return;
	write_context(&event);
	cdi_write_close(out, '}');
}
