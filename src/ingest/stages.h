/*
 * stages.h
 *		Stages of the pipeline and what they share; private to src/ingest and
 *		src/enrich.
 */
#ifndef CDI_STAGES_H
#define CDI_STAGES_H

#include "ingest/ingest.h"

/* parse.c */
extern void cdi_stage_parse(CdiBatch *batch);

/* normalise.c: members become fields, times are corrected */
extern void cdi_stage_normalise(CdiBatch *batch);

/* identify.c: identifiers are found, normalised and keyed */
extern void cdi_stage_identify(CdiBatch *batch);

/* ../enrich/campaign.c */
extern void cdi_stage_enrich(CdiBatch *batch);

/* ../enrich/person.c: context.person, for sources that ask for it */
extern void cdi_stage_person(CdiBatch *batch);

/*
 * dedupe.c: sets CDI_DUPLICATE and CDI_PARKED among the pending events of
 * index[0..n).  In waiting mode it waits for other transactions, key by key
 * in sorted order; otherwise it never waits.  Returns false where the batch
 * may wait but the fast way met another transaction's key: the caller rolls
 * back its subtransaction and comes again in waiting mode.
 */
extern bool cdi_stage_dedupe(CdiBatch *batch, int *index, int n, bool waiting);

/* store.c: rows of cdi.events for the pending events; makes them CDI_STORED */
extern void cdi_stage_store(CdiBatch *batch, int *index, int n);

/* link.c: rows of cdi.identity_links for the stored events of index[0..n) */
extern void cdi_stage_link(CdiBatch *batch, int *index, int n);
/* Does it link persons' identifiers, or name a person? */
extern bool cdi_event_has_link(const CdiEvent *event);

/* refuse.c: rows of cdi.identity_refusals for the same events */
extern void cdi_stage_refuse(CdiBatch *batch, int *index, int n);

/* computed.c: what the stored events of index[0..n) add to computed traits */
extern void cdi_stage_computed(CdiBatch *batch, int *index, int n);

/* record.c: failed events and counters of the whole batch */
extern void cdi_record_failures(CdiBatch *batch);
extern void cdi_record_counts(CdiBatch *batch);

/* Member of a jsonb object; NULL where absent.  value is the caller's. */
extern JsonbValue *cdi_jsonb_member(JsonbContainer *object, const char *key, JsonbValue *value);
/* A string member as a slice into the object; data == NULL otherwise. */
extern CdiText cdi_jsonb_text(JsonbContainer *object, const char *key);
/* An object member; NULL otherwise. */
extern JsonbContainer *cdi_jsonb_object(JsonbContainer *object, const char *key);

#endif							/* CDI_STAGES_H */
