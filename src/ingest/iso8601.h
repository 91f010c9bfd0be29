/*
 * iso8601.h
 *		Times as SDKs send them.
 */
#ifndef CDI_ISO8601_H
#define CDI_ISO8601_H

#include "base/base.h"

/*
 * YYYY-MM-DD, or that with a "T" or blank and hh:mm[:ss[.fraction]] and an
 * optional Z, +hh, +hhmm or +hh:mm; without a zone it is UTC.  Digits beyond
 * microseconds are cut.  False for anything else and for what timestamptz
 * cannot hold.  Depends on no setting, unlike timestamptz_in().
 */
extern bool cdi_iso8601_parse(CdiText text, TimestampTz *result);

#endif							/* CDI_ISO8601_H */
