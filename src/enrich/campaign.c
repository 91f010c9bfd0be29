/*
 * campaign.c
 *		Where a visit came from: campaign, advertising click id, referrer.
 *
 * What the SDK parsed (context.campaign) wins over the page's address
 * (context.page.url or properties.url).  The channel is not stored: it follows
 * from these fields by cdi_channel(), so that better rules apply to history.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "attribution/attribution.h"
#include "base/scan.h"
#include "ingest/stages.h"

/* URL-decoded; the raw text where that would not be valid UTF-8. */
static CdiText
url_decode(CdiText text)
{
	CdiText		decoded = cdi_text_url_decode(text);

	if (decoded.data == text.data || pg_verify_mbstr(PG_UTF8, decoded.data, decoded.len, true))
		return decoded;
	return text;
}

/* Host of an address, lower case, without port and user; NULL where there is none. */
static CdiText
host_of(CdiText url)
{
	CdiText		host = {NULL, 0};
	const char *end = url.data + url.len;
	const char *at;
	const char *stop;
	char	   *copy;

	if (url.data == NULL)
		return host;
	for (at = url.data; at + 2 < end && memcmp(at, "://", 3) != 0; at++)
		 /* the scheme */ ;
	if (at + 3 >= end)
		return host;
	at += 3;
	for (stop = at; stop < end && *stop != '/' && *stop != '?' && *stop != '#'; stop++)
		if (*stop == '@')
			at = stop + 1;
	for (const char *p = at; p < stop; p++)
		if (*p == ':' && *at != '[')
		{
			stop = p;
			break;
		}
	if (stop <= at || stop - at > 253)
		return host;
	copy = palloc(stop - at);
	for (const char *p = at; p < stop; p++)
		copy[p - at] = pg_ascii_tolower((unsigned char) *p);
	host.data = copy;
	host.len = stop - at;
	return host;
}

static bool
text_is(CdiText text, const char *word)
{
	return text.len == (int) strlen(word) && memcmp(text.data, word, text.len) == 0;
}

static void
set_if_absent(CdiText *field, CdiText value)
{
	if (field->data == NULL && value.len > 0)
		*field = url_decode(value);
}

static void
read_query(CdiEvent *event, CdiText url)
{
	const char *end = url.data + url.len;
	const char *at = memchr(url.data, '?', url.len);
	const char *hash;

	if (at == NULL)
		return;
	hash = memchr(at, '#', end - at);
	if (hash != NULL)
		end = hash;
	while (at < end)
	{
		const char *start = ++at;
		const char *equals;
		CdiText		name;
		CdiText		value = {"", 0};

		while (at < end && *at != '&')
			at++;
		name.data = start;
		name.len = at - start;
		equals = memchr(start, '=', at - start);
		if (equals == NULL)
			continue;
		name.len = equals - start;
		value.data = equals + 1;
		value.len = at - value.data;
		if (value.len == 0)
			continue;
		if (name.len > 4 && memcmp(name.data, "utm_", 4) == 0)
		{
			if (text_is(name, "utm_source"))
				set_if_absent(&event->campaign_source, value);
			else if (text_is(name, "utm_medium"))
				set_if_absent(&event->campaign_medium, value);
			else if (text_is(name, "utm_campaign"))
				set_if_absent(&event->campaign_name, value);
			else if (text_is(name, "utm_term"))
				set_if_absent(&event->campaign_term, value);
			else if (text_is(name, "utm_content"))
				set_if_absent(&event->campaign_content, value);
		}
		else if (event->click_id_type.data == NULL)
			event->click_id_type = cdi_channel_click_id(name);
	}
}

/* An empty string is no value: the page's address may still have one. */
static CdiText
campaign_text(JsonbContainer *campaign, const char *key)
{
	CdiText		text = cdi_jsonb_text(campaign, key);

	if (text.len == 0)
		text.data = NULL;
	return text;
}

static void
enrich(CdiEvent *event)
{
	JsonbContainer *context = event->context ? &event->context->root : NULL;
	JsonbContainer *properties = event->properties ? &event->properties->root : NULL;
	JsonbContainer *campaign = cdi_jsonb_object(context, "campaign");
	JsonbContainer *page = cdi_jsonb_object(context, "page");
	CdiText		url = cdi_jsonb_text(page, "url");
	CdiText		referrer = cdi_jsonb_text(page, "referrer");

	if (campaign != NULL)
	{
		event->campaign_source = campaign_text(campaign, "source");
		event->campaign_medium = campaign_text(campaign, "medium");
		event->campaign_name = campaign_text(campaign, "name");
		event->campaign_term = campaign_text(campaign, "term");
		event->campaign_content = campaign_text(campaign, "content");
	}
	if (properties != NULL && event->type.len == 4 && memcmp(event->type.data, "page", 4) == 0)
	{
		if (url.data == NULL)
			url = cdi_jsonb_text(properties, "url");
		if (referrer.data == NULL)
			referrer = cdi_jsonb_text(properties, "referrer");
	}
	if (url.data != NULL)
	{
		read_query(event, url);
		event->page_host = host_of(url);
	}
	event->referrer_host = host_of(referrer);
}

void
cdi_stage_enrich(CdiBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (int i = 0; i < batch->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (batch->events[i].outcome == CDI_PENDING)
			enrich(&batch->events[i]);
	}
	MemoryContextSwitchTo(old);
}
