/*
 * sites.c
 *		What kind of site a traffic source or a referring host is.
 *
 * Google publishes that its default channel groups compare the source with
 * lists of search, social, shopping and video sites; the list here is our own
 * and holds the sites that send measurable traffic.  An entry with a dot is a
 * domain and covers its subdomains, the longest match counts.  An entry
 * without one is the name under which campaigns are tagged; where the site
 * exists under many top-level domains (any_tld), it covers those too.
 */
#include "attribution/attribution.h"

typedef struct Site
{
	const char *name;
	CdiSiteKind kind;
	bool		any_tld;
} Site;

/* Ordered by name (strcmp). */
static const Site sites[] = {
	{"alibaba", CDI_SITE_SHOPPING, true},
	{"aliexpress", CDI_SITE_SHOPPING, true},
	{"amazon", CDI_SITE_SHOPPING, true},
	{"aol", CDI_SITE_SEARCH, true},
	{"ask", CDI_SITE_SEARCH, false},
	{"ask.com", CDI_SITE_SEARCH, false},
	{"baidu", CDI_SITE_SEARCH, true},
	{"bing", CDI_SITE_SEARCH, true},
	{"blogger", CDI_SITE_SOCIAL, false},
	{"blogspot.com", CDI_SITE_SOCIAL, false},
	{"bluesky", CDI_SITE_SOCIAL, false},
	{"brave", CDI_SITE_SEARCH, false},
	{"bsky.app", CDI_SITE_SOCIAL, false},
	{"classroom.google.com", CDI_SITE_OTHER, false},
	{"cn.bing.com", CDI_SITE_SEARCH, false},
	{"com.facebook.katana", CDI_SITE_SOCIAL, false},
	{"com.google.android.googlequicksearchbox", CDI_SITE_SEARCH, false},
	{"com.instagram.android", CDI_SITE_SOCIAL, false},
	{"com.linkedin.android", CDI_SITE_SOCIAL, false},
	{"com.reddit.frontpage", CDI_SITE_SOCIAL, false},
	{"com.twitter.android", CDI_SITE_SOCIAL, false},
	{"crunchyroll", CDI_SITE_VIDEO, true},
	{"dailymotion", CDI_SITE_VIDEO, true},
	{"discord", CDI_SITE_SOCIAL, true},
	{"disneyplus", CDI_SITE_VIDEO, true},
	{"docs.google.com", CDI_SITE_OTHER, false},
	{"dogpile", CDI_SITE_SEARCH, true},
	{"drive.google.com", CDI_SITE_OTHER, false},
	{"duckduckgo", CDI_SITE_SEARCH, true},
	{"ebay", CDI_SITE_SHOPPING, true},
	{"ecosia", CDI_SITE_SEARCH, true},
	{"etsy", CDI_SITE_SHOPPING, true},
	{"facebook", CDI_SITE_SOCIAL, true},
	{"fb", CDI_SITE_SOCIAL, false},
	{"fb.com", CDI_SITE_SOCIAL, false},
	{"fb.me", CDI_SITE_SOCIAL, false},
	{"flickr", CDI_SITE_SOCIAL, true},
	{"glassdoor", CDI_SITE_SOCIAL, true},
	{"google", CDI_SITE_SEARCH, true},
	{"groups.google.com", CDI_SITE_SOCIAL, false},
	{"hulu", CDI_SITE_VIDEO, true},
	{"ig", CDI_SITE_SOCIAL, false},
	{"igshopping", CDI_SITE_SHOPPING, false},
	{"instagram", CDI_SITE_SOCIAL, true},
	{"kakao", CDI_SITE_SOCIAL, true},
	{"line.me", CDI_SITE_SOCIAL, false},
	{"linkedin", CDI_SITE_SOCIAL, true},
	{"lnkd.in", CDI_SITE_SOCIAL, false},
	{"mail.aol.com", CDI_SITE_OTHER, false},
	{"mail.google.com", CDI_SITE_OTHER, false},
	{"mail.yahoo.com", CDI_SITE_OTHER, false},
	{"mail.yandex.ru", CDI_SITE_OTHER, false},
	{"mastodon", CDI_SITE_SOCIAL, true},
	{"medium.com", CDI_SITE_SOCIAL, false},
	{"meet.google.com", CDI_SITE_OTHER, false},
	{"mercadolibre", CDI_SITE_SHOPPING, true},
	{"messenger", CDI_SITE_SOCIAL, true},
	{"meta", CDI_SITE_SOCIAL, false},
	{"naver", CDI_SITE_SEARCH, true},
	{"netflix", CDI_SITE_VIDEO, true},
	{"news.ycombinator.com", CDI_SITE_SOCIAL, false},
	{"pinterest", CDI_SITE_SOCIAL, true},
	{"play.google.com", CDI_SITE_OTHER, false},
	{"quora", CDI_SITE_SOCIAL, true},
	{"qwant", CDI_SITE_SEARCH, true},
	{"rakuten", CDI_SITE_SHOPPING, true},
	{"reddit", CDI_SITE_SOCIAL, true},
	{"search.brave.com", CDI_SITE_SEARCH, false},
	{"seznam", CDI_SITE_SEARCH, true},
	{"shop.app", CDI_SITE_SHOPPING, false},
	{"shopify", CDI_SITE_SHOPPING, true},
	{"shopping.google.com", CDI_SITE_SHOPPING, false},
	{"shopzilla", CDI_SITE_SHOPPING, true},
	{"sites.google.com", CDI_SITE_OTHER, false},
	{"slack.com", CDI_SITE_SOCIAL, false},
	{"snapchat", CDI_SITE_SOCIAL, true},
	{"sogou", CDI_SITE_SEARCH, true},
	{"stackoverflow", CDI_SITE_SOCIAL, true},
	{"startpage", CDI_SITE_SEARCH, true},
	{"t.co", CDI_SITE_SOCIAL, false},
	{"t.me", CDI_SITE_SOCIAL, false},
	{"telegram", CDI_SITE_SOCIAL, true},
	{"threads", CDI_SITE_SOCIAL, false},
	{"threads.com", CDI_SITE_SOCIAL, false},
	{"threads.net", CDI_SITE_SOCIAL, false},
	{"tiktok", CDI_SITE_SOCIAL, true},
	{"tumblr", CDI_SITE_SOCIAL, true},
	{"twitch", CDI_SITE_VIDEO, true},
	{"twitter", CDI_SITE_SOCIAL, true},
	{"vimeo", CDI_SITE_VIDEO, true},
	{"vk", CDI_SITE_SOCIAL, false},
	{"vk.com", CDI_SITE_SOCIAL, false},
	{"walmart", CDI_SITE_SHOPPING, true},
	{"weibo", CDI_SITE_SOCIAL, true},
	{"whatsapp", CDI_SITE_SOCIAL, true},
	{"x", CDI_SITE_SOCIAL, false},
	{"x.com", CDI_SITE_SOCIAL, false},
	{"yahoo", CDI_SITE_SEARCH, true},
	{"yandex", CDI_SITE_SEARCH, true},
	{"youtu.be", CDI_SITE_VIDEO, false},
	{"youtube", CDI_SITE_VIDEO, true},
};

/* Second-level labels under which registries sell names: amazon.co.uk. */
static const char *const registry_labels[] = {
	"ac", "co", "com", "edu", "gov", "ne", "net", "or", "org"
};

static const Site *
find_site(const char *name, int len)
{
	int			low = 0;
	int			high = lengthof(sites) - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int			order = strncmp(sites[middle].name, name, len);

		if (order == 0 && sites[middle].name[len] != '\0')
			order = 1;
		if (order == 0)
			return &sites[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

/* Start of the label that ends before end. */
static const char *
label_start(const char *name, const char *end)
{
	while (end > name && end[-1] != '.')
		end--;
	return end;
}

static bool
is_registry_label(const char *label, int len)
{
	for (int i = 0; i < lengthof(registry_labels); i++)
		if (strlen(registry_labels[i]) == len &&
			memcmp(registry_labels[i], label, len) == 0)
			return true;
	return false;
}

CdiSiteKind
cdi_site_kind(const char *name, int len)
{
	const char *end = name + len;
	const char *label;
	const char *label_end;
	const Site *site;

	if (len == 0)
		return CDI_SITE_OTHER;
	if (memchr(name, '.', len) == NULL)
	{
		site = find_site(name, len);
		return site ? site->kind : CDI_SITE_OTHER;
	}

	/* The host itself, then each domain above it that has a dot. */
	for (const char *domain = name;;)
	{
		const char *dot = memchr(domain, '.', end - domain);

		if (dot == NULL)
			break;
		site = find_site(domain, end - domain);
		if (site)
			return site->kind;
		domain = dot + 1;
	}

	/* The label before the public suffix. */
	label = label_start(name, end);
	if (label == name)
		return CDI_SITE_OTHER;
	label_end = label - 1;
	label = label_start(name, label_end);
	if (label > name && is_registry_label(label, label_end - label))
	{
		label_end = label - 1;
		label = label_start(name, label_end);
	}
	if (label == label_end)
		return CDI_SITE_OTHER;
	site = find_site(label, label_end - label);
	return site && site->any_tld ? site->kind : CDI_SITE_OTHER;
}
