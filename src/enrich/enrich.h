/*
 * enrich.h
 *		What an address says about where a visit came from.
 */
#ifndef CDI_ENRICH_H
#define CDI_ENRICH_H

#include "base/base.h"

typedef enum CdiCampaignField
{
	CDI_CAMPAIGN_SOURCE,
	CDI_CAMPAIGN_MEDIUM,
	CDI_CAMPAIGN_NAME,
	CDI_CAMPAIGN_TERM,
	CDI_CAMPAIGN_CONTENT,
	CDI_CAMPAIGN_ID,
	CDI_CAMPAIGN_SOURCE_PLATFORM,
	CDI_CAMPAIGN_CREATIVE_FORMAT,
	CDI_CAMPAIGN_MARKETING_TACTIC,
	CDI_CAMPAIGN_FIELDS
} CdiCampaignField;

typedef struct CdiUrlCampaign
{
	CdiText		fields[CDI_CAMPAIGN_FIELDS];
	CdiText		click_id_type;
	CdiText		click_id;
} CdiUrlCampaign;

/*
 * campaign_url.c: what the query of an address says, decoded.  Results are
 * slices of the address or lie in the current memory context; what is missing
 * or empty has data == NULL.  Raises nothing.
 */
extern void cdi_url_campaign(CdiText url, CdiUrlCampaign *campaign);

/* Host, lower case, without port and user; data == NULL where there is none. */
extern CdiText cdi_url_host(CdiText url);

#endif							/* CDI_ENRICH_H */
