/*
 * filter.h
 *		Bloom filters over generations of message keys; private to src/ingest.
 */
#ifndef CDI_FILTER_H
#define CDI_FILTER_H

#include "storage/block.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#define CDI_GENERATIONS 4

typedef struct CdiFilter
{
	Relation	relation;
	BlockNumber pages;
	int			slot;
} CdiFilter;

/*
 * Open the filter of a generation for reading.  False where it cannot be had
 * at once, or does not have that many pages.
 */
extern bool cdi_filter_open(CdiFilter *filter, int slot, BlockNumber pages);
extern void cdi_filter_close(CdiFilter *filter);

/*
 * Set a bit in the mask of each key that is certainly not in the generation.
 * Cheapest where keys are many and come in order.
 */
extern void cdi_filter_exclude(CdiFilter *filter, const pg_uuid_t **keys, int n,
							   uint8 *masks, uint8 bit);

/*
 * Write the filter of a generation that nobody writes to.  Returns its pages,
 * or 0 where somebody has a lock on it.  Needs SPI.
 */
extern BlockNumber cdi_filter_write(int slot, Relation keys, BlockNumber key_pages);

#endif							/* CDI_FILTER_H */
