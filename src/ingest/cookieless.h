/*
 * cookieless.h
 *		Ids of a day, for visitors on whose devices nothing is stored.
 */
#ifndef CDI_COOKIELESS_H
#define CDI_COOKIELESS_H

#include "ingest/ingest.h"
#include "storage/lwlock.h"

/*
 * Gives the event an id where its source asks for that and the event has no
 * user id, and takes away what such a source must not store.  Before check()
 * of normalise.c, which wants to know why there is none: returns that, or NULL.
 * Raises 55000 without shared memory, and 40001 where the day has just ended.
 */
extern const char *cdi_cookieless_apply(CdiBatch *batch, CdiEvent *event);

/*
 * No evidence of the identity graph and no row of cdi.events has such an id
 * beside an identifier of another kind: it would live as long as that one.
 */
extern void cdi_cookieless_set_apart(CdiEvent *event);

/* Is it one of these, of whatever day and source? */
extern bool cdi_cookieless_is(CdiText id);

/*
 * What is kept of a failed event of such a source: the call without the
 * address, and the id that it would have had.  Otherwise changes neither.
 * Raises as cdi_cookieless_apply.
 */
extern void cdi_cookieless_seal(CdiBatch *batch, const CdiEvent *event,
								CdiText *payload, const CdiEnvelope **envelope);

/* Shared memory, called by worker/ */
extern Size cdi_cookieless_shmem_size(void);
extern void cdi_cookieless_shmem_create(LWLock *lock);
/* Overwrite the salt if its day is over. */
extern void cdi_cookieless_end_day(void);

#endif							/* CDI_COOKIELESS_H */
