/*
 * sites.c
 *		What kind of site a traffic source or a referring host is.
 *
 * Google publishes that its default channel groups compare the source with
 * lists of search, social, shopping and video sites, and names AI assistants;
 * cdi.channel_sites holds ours and what was added to it.  An entry with a dot
 * is a domain and covers its subdomains, the longest match counts.  An entry
 * without one is the name under which campaigns are tagged; where the site
 * exists under many top-level domains (any_tld), it covers those too, and
 * "mail.google" is mail.google.co.uk.
 */
#include "attribution/channels.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/scan.h"

/* Columns of cdi.channel_sites */
enum
{
	SITE_NAME = 1, SITE_KIND, SITE_ANY_TLD
};

/* Second-level labels under which registries sell names: amazon.co.uk. */
static const char *const registry_labels[] = {
	"ac", "co", "com", "edu", "gov", "ne", "net", "or", "org"
};

/* Domains whose subdomains belong to whoever asked for one: a part of the
 * private section of publicsuffix.org, of those that host pages. */
static const char *const hosting_suffixes[] = {
	"azurewebsites.net", "blogspot.com", "carrd.co", "cloudfront.net", "firebaseapp.com", "fly.dev",
	"framer.app", "github.io", "gitlab.io", "herokuapp.com", "my.canva.site", "myshopify.com",
	"netlify.app", "ngrok.io", "ngrok-free.app", "notion.site", "onrender.com", "pages.dev",
	"run.app", "substack.com", "tumblr.com", "vercel.app", "web.app", "webflow.io", "weebly.com",
	"wixsite.com", "wixstudio.com", "wordpress.com", "workers.dev"
};

static int
compare_sites(const void *a, const void *b)
{
	return strcmp(((const CdiSite *) a)->name, ((const CdiSite *) b)->name);
}

void
cdi_sites_load(CdiSites *sites, Snapshot snapshot)
{
	Relation	relation = table_open(cdi_relation_oid("channel_sites"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(relation);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;
	int			space = 128;

	sites->sites = palloc(sizeof(CdiSite) * space);
	sites->count = 0;
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		CdiSite    *site;

		if (sites->count == space)
		{
			space *= 2;
			sites->sites = repalloc(sites->sites, sizeof(CdiSite) * space);
		}
		site = &sites->sites[sites->count++];
		site->name = TextDatumGetCString(heap_getattr(tuple, SITE_NAME, desc, &isnull));
		site->kind = cdi_text(TextDatumGetCString(heap_getattr(tuple, SITE_KIND, desc, &isnull)));
		site->any_tld = DatumGetBool(heap_getattr(tuple, SITE_ANY_TLD, desc, &isnull));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	qsort(sites->sites, sites->count, sizeof(CdiSite), compare_sites);
}

bool
cdi_site_kind_exists(const CdiSites *sites, CdiText kind)
{
	if (cdi_text_is(kind, CDI_SITE_OTHER))
		return true;
	for (int i = 0; i < sites->count; i++)
		if (cdi_text_is(kind, sites->sites[i].kind.data))
			return true;
	return false;
}

static const CdiSite *
find_site(const CdiSites *sites, const char *name, int len)
{
	int			low = 0;
	int			high = sites->count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int			order = strncmp(sites->sites[middle].name, name, len);

		if (order == 0 && sites->sites[middle].name[len] != '\0')
			order = 1;
		if (order == 0)
			return &sites->sites[middle];
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

/*
 * Where the suffix of a host begins under which names are registered: the last
 * label, or the last two of example.co.uk.  name itself where there is no more.
 */
static const char *
public_suffix(const char *name, const char *end)
{
	const char *label = label_start(name, end);
	const char *before;

	if (label == name)
		return name;
	before = label_start(name, label - 1);
	if (before > name && end - label == 2 && is_registry_label(before, label - 1 - before))
		return before;
	return label;
}

CdiText
cdi_site_domain(CdiText host)
{
	const char *end = host.data + host.len;
	const char *suffix = label_start(host.data, end);
	const char *before = suffix > host.data ? label_start(host.data, suffix - 1) : suffix;

	if (suffix < end && isdigit((unsigned char) *suffix))
		return host;			/* an address of numbers */
	/* Registries of countries sell names under co.uk, me.uk, nom.br: a label as
	 * short as these may be one, and its neighbours strangers. */
	if (before > host.data && end - suffix == 2 && suffix - 1 - before <= 3)
		suffix = before;
	for (int i = 0; i < lengthof(hosting_suffixes); i++)
	{
		int			len = strlen(hosting_suffixes[i]);

		if (host.len > len && host.data[host.len - len - 1] == '.' &&
			memcmp(end - len, hosting_suffixes[i], len) == 0)
			suffix = end - len;
	}
	if (suffix > host.data)
		host.data = label_start(host.data, suffix - 1);
	host.len = end - host.data;
	return host;
}

CdiText
cdi_site_kind(const CdiSites *sites, const char *name, int len)
{
	const CdiText other = {CDI_SITE_OTHER, sizeof(CDI_SITE_OTHER) - 1};
	const char *end = name + len;
	const char *suffix;
	const CdiSite *site;

	if (len == 0)
		return other;
	if (memchr(name, '.', len) == NULL)
	{
		site = find_site(sites, name, len);
		return site ? site->kind : other;
	}

	/* The host itself, then each domain above it that has a dot. */
	for (const char *domain = name;;)
	{
		const char *dot = memchr(domain, '.', end - domain);

		if (dot == NULL)
			break;
		site = find_site(sites, domain, end - domain);
		if (site)
			return site->kind;
		domain = dot + 1;
	}

	/* The id of an app, which is written the other way round, has no public
	 * suffix: com.google.Gmail is no search. */
	if (strncmp(name, "com.", 4) == 0)
		return other;

	/* The same without the public suffix: mail.google.co.uk, google.co.uk */
	suffix = public_suffix(name, end);
	for (const char *domain = name; domain < suffix; domain++)
	{
		if (domain > name && domain[-1] != '.')
			continue;
		site = find_site(sites, domain, suffix - 1 - domain);
		if (site && site->any_tld)
			return site->kind;
	}
	return other;
}
