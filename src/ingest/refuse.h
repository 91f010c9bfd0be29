/*
 * refuse.h
 *		Identifiers that were set aside; private to src/ingest.
 */
#ifndef CDI_REFUSE_H
#define CDI_REFUSE_H

#include "identity/identifier.h"
#include "ingest/ingest.h"

/*
 * Remembered with the event, and written once it is stored.  key is that of a
 * usable identifier, or NULL: an erasure finds by it what the value, of which
 * the beginning is kept, may not say.
 */
extern void cdi_refuse(CdiBatch *batch, CdiEvent *event, CdiText type, CdiText value,
					   const pg_uuid_t *key, CdiVerdict reason, const char *detail);

#endif							/* CDI_REFUSE_H */
