/*
 * identity.h
 *		Identifiers, their keys, and the graph that says who is who.
 */
#ifndef CDI_IDENTITY_H
#define CDI_IDENTITY_H

#include "base/base.h"

/* A row of cdi.identifier_types; the index in the cached array is its rank. */
typedef struct CdiIdentifierType
{
	const char *name;
	int			priority;
	int			nblocked;
	CdiText    *blocked;
} CdiIdentifierType;

/*
 * keys.c: the 128-bit key of an identifier, HMAC-SHA-256 over its type and its
 * normalised value, and that of a message id within a source.  Both need the
 * installation's key, which is read once per backend (SPI must be connected
 * and the user be the owner, see cdi_owner_enter, for cdi_keys_load).
 */
extern void cdi_keys_load(void);
extern void cdi_identifier_key(const char *type, CdiText value, pg_uuid_t *key);
extern void cdi_message_key(int32 source_id, CdiText message_id, pg_uuid_t *key);

/*
 * Normalises in place or into a palloc'd copy (e-mail: trimmed, lower case;
 * others: trimmed).  Returns a slice with data == NULL where the value is
 * empty or malformed (longer than 512 bytes; an e-mail without "@").
 */
extern CdiText cdi_identifier_normalise(const char *type, CdiText value);

/* types.c: cached rows of cdi.identifier_types by priority */
extern const CdiIdentifierType *cdi_identifier_types(int *count);
extern bool cdi_identifier_blocked(const CdiIdentifierType *type, CdiText value);

#endif							/* CDI_IDENTITY_H */
