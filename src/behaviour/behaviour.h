/*
 * behaviour.h
 *		Virtual events, flows of events, reach.
 */
#ifndef CDI_BEHAVIOUR_H
#define CDI_BEHAVIOUR_H

#include "base/base.h"

/*
 * virtual_predicate.c: parse a predicate over the columns of cdi.events, check
 * it and return it as canonical SQL: names resolved, columns prefixed with the
 * alias, if one is given.  With total, the predicate must not be able to fail
 * on any event.  Raises with the position in the predicate.
 */
extern char *cdi_predicate_canonical(const char *predicate, const char *alias, bool total);

/* Name of the schema that the extension's functions are in. */
extern char *cdi_extension_schema(void);

/* labels.c: texts by number, from 0 in order of first appearance */
typedef struct CdiLabels
{
	MemoryContext context;		/* of all that is below */
	int			n;
	int			space;
	CdiText    *labels;
	struct labels_hash *index;
} CdiLabels;

extern CdiLabels *cdi_labels_create(MemoryContext context, int space);
extern int32 cdi_labels_number(CdiLabels *labels, const char *data, int len);

/* flow_path.c: the path that a flow takes through events in order of time */
#define CDI_FLOW_MAX_STEPS	100

/* Nodes that are no event. */
#define CDI_FLOW_END		(-1)
#define CDI_FLOW_START		(-2)
#define CDI_FLOW_OTHER		(-3)

typedef struct CdiFlowEvent
{
	TimestampTz at;
	int32		node;
	bool		anchor;
} CdiFlowEvent;

typedef struct CdiFlowOptions
{
	bool		backward;		/* to the anchor instead of from it */
	bool		has_anchor;		/* else the anchor is where the events begin (end) */
	bool		every;			/* each occurrence of the anchor, not just the first */
	bool		collapse;		/* of repeats, only the first counts */
	int			steps;			/* nodes beside the anchor, at most */
	int64		within;			/* microseconds from the anchor; 0: any */
	TimestampTz from;			/* the anchor lies in [from, to) */
	TimestampTz to;
} CdiFlowOptions;

/*
 * A path in order from the anchor: times[i] is that of nodes[i], and of the
 * first event where nodes[i] is none.  It ends with CDI_FLOW_END (backward:
 * CDI_FLOW_START) where the events end within the steps.
 */
typedef void (*CdiFlowEmit) (void *arg, int length, const int32 *nodes, const TimestampTz *times);

/* Changes the events: of repeats it keeps the first.  CHECK_FOR_INTERRUPTS inside. */
extern void cdi_flow_paths(const CdiFlowOptions *options, CdiFlowEvent *events, int64 nevents,
						   CdiFlowEmit emit, void *arg);

/* Name of a node.  An event that has the name of one that is none is quoted. */
extern text *cdi_flow_label(const CdiLabels *labels, int32 node);

/* Raise 22023 with the values that there are. */
extern bool cdi_flow_is_backward(const char *direction);
extern int	cdi_flow_check_steps(int steps);

#endif							/* CDI_BEHAVIOUR_H */
