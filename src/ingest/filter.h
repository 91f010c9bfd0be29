/*
 * filter.h
 *		Bloom filters over generations of message keys; private to src/ingest.
 */
#ifndef CDI_FILTER_H
#define CDI_FILTER_H

#include "storage/buf.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

typedef struct CdiFilter
{
	Relation	relation;
	BlockNumber pages;
	BlockNumber page;			/* pinned, where buffer is valid */
	Buffer		buffer;
	const uint8 *bits;			/* in it; NULL where it is not as we wrote it */
} CdiFilter;

/*
 * Open the filter of a generation for reading.  False where it cannot be had
 * at once, or does not have that many pages.
 */
extern bool cdi_filter_open(CdiFilter *filter, int slot, BlockNumber pages);
extern void cdi_filter_close(CdiFilter *filter);

/*
 * True where the key is certainly not in the generation.  Cheapest where keys
 * come in order.
 */
extern bool cdi_filter_excludes(CdiFilter *filter, const pg_uuid_t *key);

/*
 * Write the filter of a generation that nobody writes to.  Returns its pages,
 * or 0 where somebody reads it.  Needs SPI.
 */
extern BlockNumber cdi_filter_write(int slot, Relation keys);

#endif							/* CDI_FILTER_H */
