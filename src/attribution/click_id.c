/*
 * click_id.c
 *		Parameters that platforms add to the links to a site.
 *
 * What a click id says about the channel is a matter of the channel rules; the
 * names are here because the pipeline looks for them in every address.
 */
#include "attribution/attribution.h"

/* Where an address has several, the strongest counts. */
typedef enum Strength
{
	UNPAID,						/* on links that nobody paid for, too */
	MARKER,						/* says that a click was paid for, and not which */
	PAID						/* only ever on links that were paid for */
} Strength;

typedef struct ClickId
{
	const char *name;
	Strength	strength;
} ClickId;

static const ClickId click_ids[] = {
	/* Google Ads, Display & Video 360 and Campaign Manager */
	{"gclid", PAID},
	{"gbraid", PAID},
	{"wbraid", PAID},
	{"dclid", PAID},
	{"gclsrc", MARKER},
	{"gad_source", MARKER},
	{"gad_campaignid", MARKER},
	{"msclkid", PAID},			/* Microsoft Advertising */
	{"yclid", PAID},			/* Yandex Direct, Yahoo! Japan */
	{"bd_vid", PAID},			/* Baidu */
	{"ttclid", PAID},			/* TikTok */
	{"twclid", PAID},			/* X */
	{"li_fat_id", PAID},		/* LinkedIn */
	{"rdt_cid", PAID},			/* Reddit */
	{"sccid", PAID},			/* Snap */
	{"epik", PAID},				/* Pinterest */
	{"qclid", PAID},			/* Quora */
	{"ndclid", PAID},			/* Nextdoor */
	{"ctwa_clid", PAID},		/* Meta, click to WhatsApp */
	{"rb_clickid", PAID},		/* VK */
	{"ldtag_cl", PAID},			/* LINE */
	{"tblci", PAID},			/* Taboola */
	{"obclid", PAID},			/* Outbrain */
	{"dicbo", PAID},
	{"vmcid", PAID},			/* Yahoo DSP */
	{"irclickid", PAID},		/* impact.com */
	{"irclid", PAID},
	{"cjevent", PAID},			/* CJ */
	{"awc", PAID},				/* Awin */
	{"sscid", PAID},			/* ShareASale */
	{"ransiteid", PAID},		/* Rakuten Advertising */
	{"tduid", PAID},			/* Tradedoubler */
	{"admitad_uid", PAID},		/* Admitad */
	/* Meta adds these to every outbound link. */
	{"fbclid", UNPAID},
	{"igshid", UNPAID},
	{"igsh", UNPAID},
	{"ysclid", UNPAID},			/* Yandex, search results */
	{"srsltid", UNPAID},			/* Google Merchant Center, free listings */
	{"mc_eid", UNPAID},			/* Mailchimp */
	{"mc_cid", UNPAID},
	{"_hsenc", UNPAID},			/* HubSpot */
	{"_hsmi", UNPAID},
	{"mkt_tok", UNPAID},			/* Marketo */
	{"_kx", UNPAID},				/* Klaviyo */
	{"ml_subscriber", UNPAID},	/* MailerLite */
	{"vero_id", UNPAID},			/* Vero */
	{"bsft_clkid", UNPAID},		/* Blueshift */
	{"elqtrackid", UNPAID},		/* Eloqua */
	{"dm_i", UNPAID},			/* dotdigital */
	{"oly_enc_id", UNPAID},		/* Omeda */
	{"ko_click_id", UNPAID},	/* Kochava */
};

CdiText
cdi_channel_click_id(CdiText parameter, int *strength)
{
	for (int i = 0; i < lengthof(click_ids); i++)
	{
		const char *name = click_ids[i].name;

		if (parameter.len > 0 && (parameter.data[0] | 0x20) == (name[0] | 0x20) &&
			(int) strlen(name) == parameter.len &&
			pg_strncasecmp(name, parameter.data, parameter.len) == 0)
		{
			*strength = click_ids[i].strength;
			return (CdiText) {name, parameter.len};
		}
	}
	return (CdiText) {NULL, 0};
}
