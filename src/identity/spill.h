/*
 * spill.h
 *		Folding more identifiers than memory is to hold.
 */
#ifndef CDI_SPILL_H
#define CDI_SPILL_H

#include "identity/identity.h"

typedef struct CdiSpill CdiSpill;

/* Would a graph of so many take more than maintenance_work_mem? */
extern bool cdi_spill_needed(double identifiers);

extern CdiSpill *cdi_spill_begin(MemoryContext parent);

/*
 * What there is to fold: first the stored map or what a graph holds, then
 * links in their order.
 */
extern void cdi_spill_put_map(CdiSpill *spill, Snapshot snapshot);
/* Destroys the graph. */
extern void cdi_spill_put_graph(CdiSpill *spill, CdiGraph *graph);
/* limits must stay until all is folded; apart as for cdi_graph_fold */
extern void cdi_spill_put_link(CdiSpill *spill, const CdiLimits *limits, const CdiLink *link,
							   const pg_uuid_t *keys, const uint8 *types, const uint8 *apart,
							   int64 fold);

/* history.c: some more links of the whole history; false where there are none.
 * The history stays open until all is folded: it has the limits. */
extern bool cdi_history_spill(CdiHistory *history, CdiSpill *spill);

/* snapshot: for what limits ask of stored links; NULL where nothing is stored */
extern void cdi_spill_fold(CdiSpill *spill, Snapshot snapshot);
/* Some more of what folding leaves for the record, by position; NULL at the end */
extern const CdiFolded *cdi_spill_folded(CdiSpill *spill);
/* Write a new map; false, having done nothing, where the map is in use. */
extern bool cdi_spill_replace(CdiSpill *spill);
/* Insert and update what differs from the rows that were put in. */
extern void cdi_spill_update(CdiSpill *spill);
extern int64 cdi_spill_identifiers(const CdiSpill *spill);
/* Most bytes taken besides those of the sorts */
extern Size cdi_spill_memory(const CdiSpill *spill);
extern void cdi_spill_end(CdiSpill *spill);

#endif							/* CDI_SPILL_H */
