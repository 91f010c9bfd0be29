/*
 * channel.c
 *		The marketing channel that led to an event.
 *
 * The rules are the default channel groups that Google publishes for GA4
 * ("Default channel group", Analytics help, answer 9756891), in their order,
 * as far as the arguments of cdi_channel() allow: groups that are told apart
 * by the campaign's name (cross-network) or by facts that only an ad network
 * knows are not there.  Comparisons ignore the case of ASCII letters, as
 * there.  Where GA4 has facts from its own collection (the ad network of a
 * click, its processing of referrers), we use the click id and the referrer's
 * host; docs/attribution.md lists every rule with its origin.
 *
 * Steps, the first that decides wins:
 *
 *	1. source and medium (UTM), where they name a paid channel
 *	2. the click id of an advertising platform
 *	3. source and medium, where they name any channel at all
 *	4. the click id of a platform that marks unpaid links too
 *	5. source or medium that fit no rule: unassigned
 *	6. the referrer's host
 *	7. direct
 */
#include "attribution/attribution.h"

#include "fmgr.h"
#include "utils/builtins.h"

/* Longest source, medium or host that a rule looks at; DNS names are shorter. */
#define MAX_WORD	255

typedef struct Word
{
	int			len;			/* 0: absent, empty or too long to matter */
	bool		given;			/* not NULL and not empty */
	char		data[MAX_WORD + 1];
} Word;

typedef struct ClickId
{
	const char *name;
	const char *channel;
	bool		advertising;	/* only ever on links that were paid for */
} ClickId;

/*
 * Click ids.  fbclid and igshid are added by Meta to every outbound link and
 * therefore say nothing about payment.
 */
static const ClickId click_ids[] = {
	{"gclid", "paid_search", true}, /* Google Ads */
	{"gbraid", "paid_search", true},
	{"wbraid", "paid_search", true},
	{"gclsrc", "paid_search", true},
	{"gad_source", "paid_search", true},
	{"dclid", "display", true}, /* Google Display & Video 360, Campaign Manager */
	{"msclkid", "paid_search", true},	/* Microsoft Advertising */
	{"yclid", "paid_search", true}, /* Yandex Direct */
	{"ttclid", "paid_social", true},	/* TikTok Ads */
	{"twclid", "paid_social", true},	/* X Ads */
	{"li_fat_id", "paid_social", true}, /* LinkedIn Ads */
	{"rdt_cid", "paid_social", true},	/* Reddit Ads */
	{"sccid", "paid_social", true}, /* Snap Ads */
	{"epik", "paid_social", true},	/* Pinterest Ads */
	{"qclid", "paid_social", true}, /* Quora Ads */
	{"tblci", "display", true}, /* Taboola */
	{"obclid", "display", true},	/* Outbrain */
	{"irclickid", "affiliate", true},	/* impact.com */
	{"cjevent", "affiliate", true}, /* CJ */
	{"awc", "affiliate", true}, /* Awin */
	{"fbclid", "organic_social", false},
	{"igshid", "organic_social", false},
	{"igsh", "organic_social", false},
	{"srsltid", "organic_shopping", false}, /* Google Merchant Center */
	{"mc_eid", "email", false}, /* Mailchimp */
	{"mc_cid", "email", false},
	{"_hsenc", "email", false}, /* HubSpot */
	{"mkt_tok", "email", false},	/* Marketo */
	{"_kx", "email", false},	/* Klaviyo */
};

CdiText
cdi_channel_click_id(CdiText parameter)
{
	CdiText		found = {NULL, 0};

	for (int i = 0; i < lengthof(click_ids) && found.data == NULL; i++)
		if ((int) strlen(click_ids[i].name) == parameter.len &&
			pg_strncasecmp(click_ids[i].name, parameter.data, parameter.len) == 0)
		{
			found.data = click_ids[i].name;
			found.len = parameter.len;
		}
	return found;
}

/* In lower case and without spaces around it. */
static void
fold_word(FunctionCallInfo fcinfo, int argument, Word *word)
{
	text	   *value;
	const char *data;
	int			len;

	word->len = 0;
	word->given = false;
	if (PG_ARGISNULL(argument))
		return;
	value = PG_GETARG_TEXT_PP(argument);
	data = VARDATA_ANY(value);
	len = VARSIZE_ANY_EXHDR(value);
	while (len > 0 && data[0] == ' ')
		data++, len--;
	while (len > 0 && data[len - 1] == ' ')
		len--;
	word->given = len > 0;
	if (len > MAX_WORD)
		return;
	for (int i = 0; i < len; i++)
		word->data[i] = (data[i] >= 'A' && data[i] <= 'Z') ? data[i] + ('a' - 'A') : data[i];
	word->data[len] = '\0';
	word->len = len;
}

static bool
is_one_of(const Word *word, const char *const *list)
{
	if (word->len == 0)
		return false;
	for (; *list; list++)
		if (strcmp(word->data, *list) == 0)
			return true;
	return false;
}

static bool
is_word(const Word *word, const char *text)
{
	return word->len > 0 && strcmp(word->data, text) == 0;
}

static bool
contains(const Word *word, const char *part)
{
	return word->len > 0 && strstr(word->data, part) != NULL;
}

static bool
starts_with(const Word *word, const char *prefix)
{
	return word->len > 0 && strncmp(word->data, prefix, strlen(prefix)) == 0;
}

static bool
ends_with(const Word *word, const char *suffix)
{
	int			len = strlen(suffix);

	return word->len >= len && strcmp(word->data + word->len - len, suffix) == 0;
}

/* GA4: medium matches ^(.*cp.*|ppc|retargeting|paid.*)$ */
static bool
is_paid_medium(const Word *medium)
{
	return contains(medium, "cp") || is_word(medium, "ppc") ||
		is_word(medium, "retargeting") || starts_with(medium, "paid");
}

/*
 * Channel by source and medium alone, NULL where they are not given or no rule
 * fits.  *paid says whether the channel is one that is paid for.
 */
static const char *
campaign_channel(const Word *source, const Word *medium, bool *paid)
{
	static const char *const no_medium[] = {"(not set)", "(none)", NULL};
	static const char *const display[] = {"display", "banner", "expandable", "interstitial", "cpm", NULL};
	static const char *const social[] = {"social", "social-network", "social-media", "sm", "social network", "social media", NULL};
	static const char *const referral[] = {"referral", "app", "link", NULL};
	static const char *const email[] = {"email", "e-mail", "e_mail", "e mail", NULL};
	static const char *const affiliate[] = {"affiliate", "affiliates", NULL};
	CdiSiteKind kind;

	*paid = false;
	if (!source->given && !medium->given)
		return NULL;
	if (is_word(source, "(direct)") && (!medium->given || is_one_of(medium, no_medium)))
		return "direct";

	kind = cdi_site_kind(source->data, source->len);
	*paid = true;
	if (is_paid_medium(medium))
	{
		switch (kind)
		{
			case CDI_SITE_SHOPPING:
				return "paid_shopping";
			case CDI_SITE_SEARCH:
				return "paid_search";
			case CDI_SITE_SOCIAL:
				return "paid_social";
			case CDI_SITE_VIDEO:
				return "paid_video";
			case CDI_SITE_OTHER:
				break;
		}
	}
	if (is_one_of(medium, display))
		return "display";
	if (is_paid_medium(medium))
		return "paid_other";
	*paid = false;

	if (kind == CDI_SITE_SHOPPING)
		return "organic_shopping";
	if (kind == CDI_SITE_SOCIAL || is_one_of(medium, social))
		return "organic_social";
	if (kind == CDI_SITE_VIDEO || contains(medium, "video"))
		return "organic_video";
	if (kind == CDI_SITE_SEARCH || is_word(medium, "organic"))
		return "organic_search";
	if (is_one_of(medium, referral))
		return "referral";
	if (is_one_of(source, email) || is_one_of(medium, email))
		return "email";
	if (is_one_of(medium, affiliate))
		return "affiliate";
	if (is_word(medium, "audio"))
		return "audio";
	if (is_word(source, "sms") || is_word(medium, "sms"))
		return "sms";
	if (ends_with(medium, "push") || contains(medium, "mobile") ||
		contains(medium, "notification") || is_word(source, "firebase"))
		return "push";
	return NULL;
}

static const ClickId *
find_click_id(const Word *type)
{
	if (type->len > 0)
		for (int i = 0; i < lengthof(click_ids); i++)
			if (strcmp(click_ids[i].name, type->data) == 0)
				return &click_ids[i];
	return NULL;
}

static void
strip_www(Word *host)
{
	if (starts_with(host, "www."))
	{
		host->len -= 4;
		memmove(host->data, host->data + 4, host->len + 1);
	}
}

/* Is host the domain itself or below it? */
static bool
is_within(const Word *host, const Word *domain)
{
	return ends_with(host, domain->data) &&
		(host->len == domain->len || host->data[host->len - domain->len - 1] == '.');
}

static const char *
referrer_channel(Word *referrer, Word *page)
{
	if (!referrer->given)
		return "direct";
	strip_www(referrer);
	strip_www(page);

	/* A step within the site, its subdomains included. */
	if (page->len > 0 && referrer->len > 0 &&
		(is_within(referrer, page) || is_within(page, referrer)))
		return "direct";

	switch (cdi_site_kind(referrer->data, referrer->len))
	{
		case CDI_SITE_SHOPPING:
			return "organic_shopping";
		case CDI_SITE_SOCIAL:
			return "organic_social";
		case CDI_SITE_VIDEO:
			return "organic_video";
		case CDI_SITE_SEARCH:
			return "organic_search";
		case CDI_SITE_OTHER:
			break;
	}
	return "referral";
}

/*
 * cdi_channel(campaign_source, campaign_medium, click_id_type, referrer_host,
 *			   page_host)
 */
PG_FUNCTION_INFO_V1(cdi_channel);
Datum
cdi_channel(PG_FUNCTION_ARGS)
{
	Word		source;
	Word		medium;
	Word		click;
	Word		referrer;
	Word		page;
	const ClickId *click_id;
	const char *channel;
	bool		paid;

	fold_word(fcinfo, 0, &source);
	fold_word(fcinfo, 1, &medium);
	fold_word(fcinfo, 2, &click);

	channel = campaign_channel(&source, &medium, &paid);
	if (channel == NULL || !paid)
	{
		click_id = find_click_id(&click);
		if (click_id && (click_id->advertising || channel == NULL))
			channel = click_id->channel;
	}
	if (channel == NULL && (source.given || medium.given))
		channel = "unassigned";
	if (channel == NULL)
	{
		fold_word(fcinfo, 3, &referrer);
		fold_word(fcinfo, 4, &page);
		channel = referrer_channel(&referrer, &page);
	}
	PG_RETURN_TEXT_P(cstring_to_text(channel));
}
