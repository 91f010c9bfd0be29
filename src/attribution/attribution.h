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

/*
 * click_id.c: the click id that a parameter of an address is, whatever its
 * case, or data == NULL.  Of several in an address that with the greatest
 * strength counts.
 */
extern CdiText cdi_channel_click_id(CdiText parameter, int *strength);

/*
 * number.c: a JSON number, or a string that is a decimal number, as a palloc'd
 * numeric.  False for anything else.  Raises nothing.
 */
extern bool cdi_number_of(const JsonbValue *value, Datum *number);

#endif							/* CDI_ATTRIBUTION_H */
