/*
 * refuse.h
 *		Identifiers that were set aside; private to src/ingest.
 */
#ifndef CDI_REFUSE_H
#define CDI_REFUSE_H

#include "identity/identifier.h"
#include "ingest/ingest.h"

/* Remembered with the event, and written once it is stored. */
extern void cdi_refuse(CdiBatch *batch, CdiEvent *event, CdiText type, CdiText value,
					   CdiVerdict reason, const char *detail);

#endif							/* CDI_REFUSE_H */
