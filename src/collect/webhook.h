/*
 * webhook.h
 *		Signed webhooks; private to webhook*.c.
 */
#ifndef CDI_WEBHOOK_H
#define CDI_WEBHOOK_H

#include "collect/dialect.h"

/*
 * webhook_map.c: the mapping from a payload to a call.  headers is a JSON
 * object.  Pure C over text.
 */

/* The first rule that is for the payload; data == NULL where none is. */
extern CdiText cdi_webhook_rule(CdiText mapping, CdiText payload, CdiText headers);
/* The call that a rule makes of it, appended. */
extern void cdi_webhook_map(CdiText rule, CdiText payload, CdiText headers, StringInfo call);
/* Calls fn with the name of every header that the mapping refers to. */
extern void cdi_webhook_headers(CdiText mapping, void (*fn) (void *arg, CdiText name), void *arg);

/* webhook_verify.c */
extern const char *cdi_webhook_verify(CdiRequest *request);
extern CdiText cdi_webhook_refresh(CdiText envelope, int32 source_id);

#endif							/* CDI_WEBHOOK_H */
