/*
 * json.h
 *		jansson behind memory contexts, for specifications, settings and
 *		vendors' answers.  Never for payloads: it holds numbers as double.
 */
#ifndef CDI_JSON_H
#define CDI_JSON_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"

/*
 * The server has a function json_object() of its own, and a call from this
 * library would reach that one.  (jansson's own calls are bound inside it.)
 */
#define json_object cdi_jansson_hidden
#include <jansson.h>
#undef json_object

/* What jansson calls json_object() */
#define cdi_json_object() json_pack("{}")

/*
 * Parses text.  The value lives until the context is reset.  NULL where the
 * text is no JSON (or holds a number that jansson cannot); *error then says
 * why, in the context.
 */
extern json_t *cdi_json_parse(MemoryContext context, const char *text, size_t len,
							  char **error);

/* Hands a new reference to the context. */
extern json_t *cdi_json_own(MemoryContext context, json_t *value);

/* String member of an object, or NULL. */
extern const char *cdi_json_string(const json_t *object, const char *name);

/* Text of a number without loss beyond what parsing lost. */
extern char *cdi_json_number(const json_t *number);

/* JSON text of a value, appended */
extern void cdi_json_append(StringInfo out, const json_t *value);

/* A JSON string literal from bytes that need no terminator, appended */
extern void cdi_json_append_string(StringInfo out, const char *data, int len);

#endif							/* CDI_JSON_H */
