/*
 * posthog.h
 *		Between the two files of PostHog's dialect.
 */
#ifndef CDI_POSTHOG_H
#define CDI_POSTHOG_H

#include "collect/dialect.h"

/* posthog_event.c */
extern void cdi_posthog_translate(CdiTranslation *translation);

#endif							/* CDI_POSTHOG_H */
