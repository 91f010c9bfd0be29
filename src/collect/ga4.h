/*
 * ga4.h
 *		Between the files of Google Analytics 4's dialect.
 */
#ifndef CDI_GA4_H
#define CDI_GA4_H

#include "collect/dialect.h"

/* What an event of this name is here */
extern const char *cdi_ga4_type(CdiText name);
/* 1920x1080 as {"width": 1920, "height": 1080}; nothing where it is none. */
extern void cdi_ga4_write_screen(StringInfo out, CdiText resolution);

/* gtag.c: what gtag.js sends */
extern void cdi_gtag_unpack(CdiRequest *request);
extern void cdi_gtag_translate(CdiTranslation *translation, CdiText shared);

/* ga4_validate.c: what is wrong with a request of the Measurement Protocol, as
 * the JSON that its debug endpoint answers with. */
extern void cdi_ga4_validate(const CdiRequest *request, StringInfo out);

#endif							/* CDI_GA4_H */
