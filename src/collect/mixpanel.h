/*
 * mixpanel.h
 *		What the files of Mixpanel's dialect share.
 */
#ifndef CDI_MIXPANEL_H
#define CDI_MIXPANEL_H

#include "collect/dialect.h"

/* mixpanel_event.c; the envelope is {"endpoint": "track" | "engage" | "groups" | "import"} */
extern void cdi_mixpanel_translate(CdiTranslation *translation);

#endif							/* CDI_MIXPANEL_H */
