/*
 * campaign.c
 *		Where a visit came from: campaign, advertising click id, referrer.
 *
 * What the SDK parsed (context.campaign) wins over the page's address
 * (context.page.url or properties.url).  Events of an app have no page: where
 * the context says nothing, those that a specification declares to tell where
 * an install or an opening came from are asked themselves.  The channel is not
 * stored: it follows from these fields by cdi_channel(), so that better rules
 * apply to history.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/scan.h"
#include "enrich/enrich.h"
#include "ingest/stages.h"

/*
 * Tracked events whose properties say what led to them, as Segment's mobile
 * specification (RudderStack's and PostHog's SDKs send the same) and the SDKs
 * of Amplitude declare them.  Any other event may have a property "campaign"
 * or "url" that is about something else.
 */
typedef struct CampaignEvent
{
	const char *event;
	const char *url;			/* property with the link that was opened */
	const char *referrer;		/* property with the app or page that had it */
	const char *medium;			/* what the event itself says of the link */
} CampaignEvent;

static const CampaignEvent campaign_events[] = {
	{"Install Attributed", "url", "referrer", NULL},
	{"Push Notification Received", "url", NULL, "push"},
	{"Push Notification Tapped", "url", NULL, "push"},
	{"Push Notification Bounced", "url", NULL, "push"},
	{"Deep Link Opened", "url", "referrer", NULL},
	{"Deep Link Clicked", "url", "referrer", NULL},
	{"Application Opened", "url", "referring_application", NULL},
	{"[Amplitude] Deep Link Opened", "[Amplitude] Link URL", "[Amplitude] Link Referrer", NULL}
};

static bool
is_type(const CdiEvent *event, const char *type)
{
	return cdi_text_is(event->type, type);
}

static const CampaignEvent *
campaign_event(const CdiEvent *event)
{
	if (is_type(event, "track"))
		for (int i = 0; i < lengthof(campaign_events); i++)
			if (cdi_text_is(event->event, campaign_events[i].event))
				return &campaign_events[i];
	return NULL;
}

static void
set_if_absent(CdiText *field, CdiText value)
{
	if (field->data == NULL)
		*field = value;
}

/* An empty string is no value: another place may still have one. */
static CdiText
text_member(JsonbContainer *object, const char *key)
{
	CdiText		text = cdi_jsonb_text(object, key);

	if (text.len == 0)
		text.data = NULL;
	return text;
}

static void
read_campaign(CdiEvent *event, JsonbContainer *campaign)
{
	set_if_absent(&event->campaign_source, text_member(campaign, "source"));
	set_if_absent(&event->campaign_medium, text_member(campaign, "medium"));
	set_if_absent(&event->campaign_name, text_member(campaign, "name"));
	set_if_absent(&event->campaign_term, text_member(campaign, "term"));
	set_if_absent(&event->campaign_content, text_member(campaign, "content"));
}

static void
read_url(CdiEvent *event, CdiText url)
{
	CdiUrlCampaign campaign;

	cdi_url_campaign(url, &campaign);
	set_if_absent(&event->campaign_source, campaign.fields[CDI_CAMPAIGN_SOURCE]);
	set_if_absent(&event->campaign_medium, campaign.fields[CDI_CAMPAIGN_MEDIUM]);
	set_if_absent(&event->campaign_name, campaign.fields[CDI_CAMPAIGN_NAME]);
	set_if_absent(&event->campaign_term, campaign.fields[CDI_CAMPAIGN_TERM]);
	set_if_absent(&event->campaign_content, campaign.fields[CDI_CAMPAIGN_CONTENT]);
	set_if_absent(&event->click_id_type, campaign.click_id_type);
}

static bool
has_campaign(const CdiEvent *event)
{
	return event->campaign_source.data || event->campaign_medium.data || event->campaign_name.data ||
		event->campaign_term.data || event->campaign_content.data || event->click_id_type.data;
}

/* Of a web page; the host of myapp://product/1 is none. */
static bool
is_web(CdiText url)
{
	return url.len > 4 && pg_strncasecmp(url.data, "http", 4) == 0;
}

/*
 * Who referred to an app is an address, or the id of an app as systems name
 * them (com.google.Gmail).  The app itself refers to nothing new.
 */
static CdiText
app_referrer(CdiText referrer, JsonbContainer *context)
{
	CdiText		app = cdi_jsonb_text(cdi_jsonb_object(context, "app"), "namespace");
	CdiText		host = cdi_url_host(referrer);

	if (host.data == NULL && referrer.data != NULL)
		host = cdi_url_host(cdi_text(psprintf("app://%.*s", referrer.len, referrer.data)));
	if (host.len == app.len && pg_strncasecmp(host.data, app.data, app.len) == 0)
		return (CdiText) {NULL, 0};
	return host;
}

/*
 * What an event says beside its context, where that says nothing.  On a web
 * page a link is one that leads away; the page's own address counts there.
 */
static void
read_event(CdiEvent *event, const CampaignEvent *declared, JsonbContainer *properties,
		   JsonbContainer *context)
{
	JsonbContainer *campaign = cdi_jsonb_object(properties, "campaign");
	JsonbContainer *page = cdi_jsonb_object(context, "page");
	CdiText		url = {NULL, 0};

	if (cdi_jsonb_text(page, "url").data == NULL)
		url = text_member(properties, declared->url);

	if (!has_campaign(event))
	{
		if (campaign != NULL)
		{
			read_campaign(event, campaign);
			set_if_absent(&event->campaign_content, text_member(campaign, "ad_creative"));
			set_if_absent(&event->campaign_content, text_member(campaign, "adCreative"));
		}
		if (url.data != NULL)
			read_url(event, url);
	}
	if (declared->medium != NULL)
		set_if_absent(&event->campaign_medium, cdi_text(declared->medium));
	if (is_web(url))
		event->page_host = cdi_url_host(url);
	if (event->referrer_host.data == NULL && declared->referrer != NULL)
	{
		CdiText		referrer = text_member(page, "referrer");

		set_if_absent(&referrer, text_member(properties, declared->referrer));
		event->referrer_host = app_referrer(referrer, context);
	}
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
	CdiText		install = cdi_jsonb_text(context, "installReferrer");	/* a query, from Google Play */
	const CampaignEvent *declared = campaign_event(event);

	if (campaign != NULL)
		read_campaign(event, campaign);
	if (properties != NULL && is_type(event, "page"))
	{
		set_if_absent(&url, cdi_jsonb_text(properties, "url"));
		set_if_absent(&referrer, cdi_jsonb_text(properties, "referrer"));
	}
	if (url.data != NULL)
	{
		read_url(event, url);
		event->page_host = cdi_url_host(url);
	}
	event->referrer_host = cdi_url_host(referrer);
	if (install.data != NULL && !has_campaign(event))
		read_url(event, cdi_text(psprintf("?%.*s", install.len, install.data)));
	if (declared != NULL)
		read_event(event, declared, properties, context);
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
