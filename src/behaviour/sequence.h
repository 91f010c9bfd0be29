/*
 * sequence.h
 *		Patterns of events and how they are found; private to src/behaviour.
 */
#ifndef CDI_SEQUENCE_H
#define CDI_SEQUENCE_H

#include "behaviour/behaviour.h"

/* Items of a pattern are bits of a uint64. */
#define CDI_MAX_PATTERN_ITEMS 64

/* What stands between an item and the next: any number of events, if the time
 * from item to item lies within bounds, or nothing at all. */
typedef struct CdiPatternLink
{
	int64		least;			/* microseconds, inclusive */
	int64		most;
} CdiPatternLink;

/*
 * A pattern is items (an event that meets a condition, or any event) with a
 * link after each but the last.  No pointers: it can be copied.
 */
typedef struct CdiPattern
{
	int			items;			/* at least one */
	int			conditions;		/* how many it was checked against */
	uint64		fits[CDI_MAX_CONDITIONS];	/* items that a condition satisfies */
	uint64		fits_any;		/* items that any event satisfies */
	uint64		adjacent;		/* items whose successor is the very next event */
	uint64		gap;			/* items with any events before the successor */
	uint64		timed;			/* items with a link of bounded time */
	uint64		reported;		/* items that are conditions */
	CdiPatternLink links[CDI_MAX_PATTERN_ITEMS];
	int			length;			/* of the text */
	char		text[FLEXIBLE_ARRAY_MEMBER];
} CdiPattern;

/* An event that meets a condition */
typedef struct CdiSequenceEvent
{
	TimestampTz at;
	uint32		conditions;
} CdiSequenceEvent;

/*
 * Order of events: by time; of simultaneous ones first the one that meets the
 * lowest condition of those that only one of the two meets.
 */
static inline int
cdi_sequence_compare(const CdiSequenceEvent *a, const CdiSequenceEvent *b)
{
	uint32		differing;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	differing = a->conditions ^ b->conditions;
	if (differing == 0)
		return 0;
	return a->conditions & differing & -differing ? -1 : 1;
}

/* Parses in the current memory context; raises 42601 with position and hint. */
extern CdiPattern *cdi_pattern_parse(const char *text, int length, int conditions);

/*
 * Which items can begin a match of the rest at each event: bit k of can[i]
 * says that item k fits event i and all later items find events after it.
 */
extern void cdi_pattern_solve(const CdiPattern *pattern, const CdiSequenceEvent *events,
							  int64 count, uint64 *can);

/*
 * Does any event begin a match?  The same without keeping what was found, for
 * patterns without bounded times.
 */
extern bool cdi_pattern_occurs(const CdiPattern *pattern, const CdiSequenceEvent *events, int64 count);

/*
 * The first match from event `from` on: the one whose first item is earliest,
 * of these the one whose second is earliest, and so on.  Fills found[items].
 */
extern bool cdi_pattern_next(const CdiPattern *pattern, const CdiSequenceEvent *events,
							 int64 count, const uint64 *can, int64 from, int64 *found);

#endif							/* CDI_SEQUENCE_H */
