/*
 * attribution.h
 *		Channels, conversions and the credit that touchpoints get for them.
 */
#ifndef CDI_ATTRIBUTION_H
#define CDI_ATTRIBUTION_H

#include "base/base.h"

#include "utils/jsonb.h"

/* Channel of a conversion that no touchpoint preceded within its lookback. */
#define CDI_CHANNEL_UNATTRIBUTED	"unattributed"

/* sites.c: what a traffic source or a referring host is, by its name */
typedef enum CdiSiteKind
{
	CDI_SITE_OTHER,
	CDI_SITE_SEARCH,
	CDI_SITE_SOCIAL,
	CDI_SITE_SHOPPING,
	CDI_SITE_VIDEO
} CdiSiteKind;

/*
 * Takes a name ("google") or a host ("l.facebook.com", "www.google.co.uk") in
 * lower case.  Raises nothing.
 */
extern CdiSiteKind cdi_site_kind(const char *name, int len);

/*
 * channel.c: the click id that a parameter of an address is, whatever its
 * case, or data == NULL.
 */
extern CdiText cdi_channel_click_id(CdiText parameter);

/*
 * number.c: a JSON number, or a string that is a decimal number, as a palloc'd
 * numeric.  False for anything else.  Raises nothing.
 */
extern bool cdi_number_of(const JsonbValue *value, Datum *number);

#endif							/* CDI_ATTRIBUTION_H */
