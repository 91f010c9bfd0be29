/*
 * channels.h
 *		Channel rules: read from their table, compiled, evaluated.
 */
#ifndef CDI_CHANNELS_H
#define CDI_CHANNELS_H

#include "base/base.h"

#include "utils/jsonb.h"
#include "utils/snapshot.h"

/*
 * What a rule can look at.  The first ones are arguments of cdi_channel(), in
 * their order.
 */
typedef enum CdiChannelField
{
	CDI_FIELD_SOURCE,
	CDI_FIELD_MEDIUM,
	CDI_FIELD_CLICK_ID,
	CDI_FIELD_REFERRER,
	CDI_FIELD_PAGE,
	CDI_FIELD_CAMPAIGN,
	CDI_FIELD_TERM,
	CDI_FIELD_CONTENT,
	CDI_FIELD_SOURCE_SITE,		/* kind of site that the source is */
	CDI_FIELD_REFERRER_SITE,
	CDI_CHANNEL_FIELDS
} CdiChannelField;

#define CDI_CHANNEL_ARGUMENTS	CDI_FIELD_SOURCE_SITE

/* sites.c: sites by name, from cdi.channel_sites */
typedef struct CdiSite
{
	const char *name;
	CdiText		kind;
	bool		any_tld;
} CdiSite;

typedef struct CdiSites
{
	CdiSite    *sites;			/* ordered by name (strcmp) */
	int			count;
} CdiSites;

#define CDI_SITE_OTHER		"other"

/* Into the current memory context */
extern void cdi_sites_load(CdiSites *sites, Snapshot snapshot);

/*
 * Kind of a name ("google") or a host ("l.facebook.com", "www.google.co.uk")
 * in lower case; CDI_SITE_OTHER for one that is in no list.  Raises nothing.
 */
extern CdiText cdi_site_kind(const CdiSites *sites, const char *name, int len);
/* The domain of a host that one owner has, as far as its name shows */
extern CdiText cdi_site_domain(CdiText host);
extern bool cdi_site_kind_exists(const CdiSites *sites, CdiText kind);

/* channel_rules.c */
#define CDI_CHANNEL_UNASSIGNED	"unassigned"

typedef struct CdiCondition CdiCondition;

typedef struct CdiChannelRule
{
	int			number;
	text	   *channel;
	CdiCondition *condition;
} CdiChannelRule;

/* Memory of what cdi_channel() has answered: channel.c */
typedef struct CdiChannelMemo
{
	uint32		hash;
	int			len;
	int			space;
	char	   *key;
	const text *channel;
} CdiChannelMemo;

/* Rules of a version, compiled.  All of it lies in its memory context. */
typedef struct CdiChannelRules
{
	MemoryContext context;
	struct CdiChannelRules *next;
	char	   *group;
	int			wanted;			/* version that was asked for, 0: the current one */
	bool		stale;			/* not to be handed out any more */
	int			pins;
	CdiSites	sites;
	CdiChannelRule *rules;
	int			count;
	text	   *unassigned;		/* what matches no rule */
	uint32		arguments;		/* bits of the arguments that conditions look at */
	uint64		evaluations;
	struct CdiPattern *patterns;
	CdiChannelMemo *memo;
} CdiChannelRules;

/*
 * Compile the condition of a rule into the current memory context, which must
 * be that of the rules.  Raises ZC310 with the place of what cannot be used.
 */
extern CdiCondition *cdi_channel_compile(CdiChannelRules *rules, int number, Jsonb *condition);

/* Channel by the first rule that matches, or unassigned. */
extern const text *cdi_channel_evaluate(CdiChannelRules *rules, const CdiText *arguments);

/*
 * channel_cache.c: compiled rules of a group, pinned.  Version 0 is the
 * current one.  Raises ZC312 where there is no such group or version.
 */
extern CdiChannelRules *cdi_channel_rules_pin(const char *group, int version);
extern void cdi_channel_rules_unpin(CdiChannelRules *rules);

#endif							/* CDI_CHANNELS_H */
