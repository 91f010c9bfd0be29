/*
 * campaign.c
 *		Where a visit came from: campaign, advertising click id, referrer.
 *
 * What the SDK parsed (context.campaign) wins over the page's address
 * (context.page.url or properties.url).  The channel is not stored: it follows
 * from these fields by cdi_channel(), so that better rules apply to history.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "enrich/enrich.h"
#include "ingest/stages.h"

static void
set_if_absent(CdiText *field, CdiText value)
{
	if (field->data == NULL)
		*field = value;
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
	event->click_id_type = campaign.click_id_type;
	event->page_host = cdi_url_host(url);
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
		read_url(event, url);
	event->referrer_host = cdi_url_host(referrer);
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
