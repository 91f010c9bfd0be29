/*
 * decode.h
 *		Encodings around payloads: URL forms and base64.
 *
 * Pure C over memory: palloc, nothing raised.
 */
#ifndef CDI_DECODE_H
#define CDI_DECODE_H

#include "base/base.h"

/*
 * Fields of a query string or a form body, in order:
 *
 *		CdiText		rest = request->query;
 *
 *		while (cdi_form_next(&rest, &name, &value))
 *			...
 *
 * Both are decoded ("+" is a space, a "%" that is no escape stays); they point
 * into the form where there was nothing to decode.  A field without "=" has an
 * empty value.
 */
extern bool cdi_form_next(CdiText *rest, CdiText *name, CdiText *value);
/* The first field of a name; data == NULL where there is none. */
extern CdiText cdi_form_get(CdiText form, const char *name);

/*
 * Standard or URL alphabet, padded or not; white space is skipped and a space
 * counts as the "+" that a form made of it.  data == NULL where the text is no
 * base64.  The result has a NUL behind it.
 */
extern CdiText cdi_base64_decode(CdiText text);
/*
 * The same for SDKs in JavaScript that encode the halves of a surrogate pair
 * as if each were a character (CESU-8): an emoji comes in six bytes and leaves
 * in the four of UTF-8, half of one leaves as U+FFFD.
 */
extern CdiText cdi_base64_decode_utf16(CdiText text);

#endif							/* CDI_DECODE_H */
