/*
 * flow.h
 *		Paths that were taken, and what is counted of them.
 */
#ifndef CDI_FLOW_H
#define CDI_FLOW_H

#include "behaviour/behaviour.h"

#include "fmgr.h"
#include "nodes/execnodes.h"

/*
 * All paths, those of a person one after the other.  A path is three or more
 * words: its person, its length, its nodes; and length - 1 gaps between them,
 * in microseconds, or CDI_FLOW_NO_GAP beside a node that is no event.
 */
typedef struct CdiFlowPaths
{
	MemoryContext context;
	CdiLabels  *labels;
	bool		backward;
	int64		npaths;
	int32	   *words;
	int64		nwords;
	int64		words_space;
	int64	   *gaps;
	int64		ngaps;
	int64		gaps_space;
} CdiFlowPaths;

#define CDI_FLOW_NO_GAP		(-1)

/* flow_count.c */
extern CdiFlowPaths *cdi_flow_create(MemoryContext context, bool backward);
extern void cdi_flow_keep(CdiFlowPaths *paths, int32 person, int length,
						  const int32 *nodes, const TimestampTz *times);
extern void cdi_flow_links(CdiFlowPaths *paths, int top, ReturnSetInfo *result);
extern void cdi_flow_top_paths(CdiFlowPaths *paths, int top, ReturnSetInfo *result);

#endif							/* CDI_FLOW_H */
