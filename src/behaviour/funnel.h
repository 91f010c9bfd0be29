/*
 * funnel.h
 *		How far the events of one person get through a funnel.
 *
 * funnel.c collects the events of a group, funnel_options.c reads what the
 * caller wants, funnel_result.c gives the answer, and one file per kind of
 * semantics finds the paths: funnel_clickhouse.c for windowFunnel,
 * funnel_path.c for the dialects whose window begins with the first step
 * (Mixpanel, Amplitude).
 */
#ifndef CDI_FUNNEL_H
#define CDI_FUNNEL_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* Steps and exclusions together: a bit each in a uint32. */
#define CDI_FUNNEL_MAX_CONDITIONS	32

typedef enum CdiFunnelDialect
{
	CDI_FUNNEL_CLICKHOUSE,
	CDI_FUNNEL_MIXPANEL,
	CDI_FUNNEL_AMPLITUDE
} CdiFunnelDialect;

/* Modes, by dialect; see docs/funnels.md. */
#define CDI_FUNNEL_STRICT_ORDER			0x01	/* clickhouse */
#define CDI_FUNNEL_STRICT_DEDUPLICATION 0x02
#define CDI_FUNNEL_STRICT_INCREASE		0x04
#define CDI_FUNNEL_STRICT_ONCE			0x08
#define CDI_FUNNEL_ALLOW_REENTRY		0x10
#define CDI_FUNNEL_ANY_ORDER			0x20	/* mixpanel, amplitude */
#define CDI_FUNNEL_EXACT_ORDER			0x40	/* amplitude */
#define CDI_FUNNEL_OPTIMIZED_REENTRY	0x80	/* mixpanel */

/* An exclusion drops a path that has reached step after, before step before. */
typedef struct CdiFunnelExclusion
{
	uint8		after;			/* from 1 */
	uint8		before;
} CdiFunnelExclusion;

/*
 * Flat, without pointers and padding: it travels with each state between
 * processes and is compared byte by byte.
 */
typedef struct CdiFunnelOptions
{
	uint32		size;			/* of the whole */
	uint32		modes;
	uint32		anchors;		/* steps that keep their place in any order */
	uint8		dialect;
	uint8		nsteps;
	uint8		nexclusions;	/* their conditions follow those of the steps */
	uint8		nstep_windows;	/* 0, or nsteps - 1 */
	int64		window;			/* microseconds */
	int64		step_windows[FLEXIBLE_ARRAY_MEMBER];	/* 0: none */
	/* CdiFunnelExclusion exclusions[nexclusions] follow */
} CdiFunnelOptions;

static inline const CdiFunnelExclusion *
cdi_funnel_exclusions(const CdiFunnelOptions *options)
{
	return (const CdiFunnelExclusion *) &options->step_windows[options->nstep_windows];
}

/* Rows that meet no condition count where they stand in the way. */
static inline bool
cdi_funnel_needs_unmatched(const CdiFunnelOptions *options)
{
	return (options->modes & (CDI_FUNNEL_STRICT_ORDER | CDI_FUNNEL_EXACT_ORDER)) != 0;
}

/* A row: when, and which conditions it meets. */
typedef struct CdiFunnelEntry
{
	TimestampTz at;
	uint32		conditions;
	uint32		hold;			/* number of the value that is held constant */
} CdiFunnelEntry;

static inline bool
cdi_funnel_entry_is_before(const CdiFunnelEntry *a, const CdiFunnelEntry *b)
{
	return a->at < b->at || (a->at == b->at && a->conditions < b->conditions);
}

/* Values of the constant property, each a length and bytes. */
typedef struct CdiFunnelHolds
{
	uint32		used;
	uint32		space;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} CdiFunnelHolds;

typedef struct CdiFunnelState
{
	const CdiFunnelOptions *options;	/* in a context that lives as long */
	CdiFunnelHolds *holds;			/* NULL: nothing is held constant */
	uint32		count;
	uint32		space;
	bool		sorted;			/* by (at, conditions) */
	CdiFunnelEntry entries[FLEXIBLE_ARRAY_MEMBER];
} CdiFunnelState;

/* A way through the funnel. */
typedef struct CdiFunnelPath
{
	int			level;			/* steps reached */
	bool		excluded;
	TimestampTz excluded_at;	/* of the event that ended it */
	uint32		hold;
	uint8		steps[CDI_FUNNEL_MAX_CONDITIONS];	/* from 0, in the order reached */
	TimestampTz at[CDI_FUNNEL_MAX_CONDITIONS];	/* never before the one before */
} CdiFunnelPath;

/* Takes one path of several. */
typedef struct CdiFunnelPaths
{
	CdiFunnelPath *paths;
	int			count;
	int			space;
} CdiFunnelPaths;

/* fn_extra of a transition function: what stays the same from row to row */
typedef struct CdiFunnelCall
{
	CdiFunnelOptions *options;
	int			nconditions;
	bool		array;			/* called with VARIADIC array */
	Interval	window;			/* options are of these */
	struct varlena *text;		/* mode or JSON */
} CdiFunnelCall;

/* Places of the arguments; 0: the function has none */
typedef struct CdiFunnelArguments
{
	int			mode;
	int			json;
	int			window;
	int			timestamp;
	int			hold;
	int			conditions;
} CdiFunnelArguments;

/* funnel_result.c */
extern void cdi_funnel_add_path(CdiFunnelPaths *paths, const CdiFunnelPath *path);

/*
 * funnel_options.c: allocate options in the current context.  mode is words
 * (NULL: ClickHouse's default), conditions how many the call has.
 */
extern CdiFunnelOptions *cdi_funnel_options(const char *mode, const Interval *window, int conditions);
extern CdiFunnelOptions *cdi_funnel_options_of_json(Jsonb *json, int conditions);

/*
 * Entries are in order of (hold, at, conditions), so that nothing depends on
 * the order they came in.  path gets level 0 where there is none.
 */
extern void cdi_funnel_clickhouse(const CdiFunnelOptions *options, const CdiFunnelEntry *entries,
								  uint32 count, CdiFunnelPath *path);
extern void cdi_funnel_anchored(const CdiFunnelOptions *options, const CdiFunnelEntry *entries,
								uint32 count, CdiFunnelPath *path);

/* Every attempt, where persons may enter again. */
extern void cdi_funnel_anchored_all(const CdiFunnelOptions *options, const CdiFunnelEntry *entries,
									uint32 count, CdiFunnelPaths *paths);

/*
 * funnel_match.c: can steps first..last be given to rows of their own, each to
 * one that meets it?  rows are entries of one instant; of[step - first] becomes
 * the row of each.
 */
typedef struct CdiFunnelMatch
{
	const CdiFunnelEntry *rows;
	uint32		nrows;
	int			row_of[CDI_FUNNEL_MAX_CONDITIONS];	/* by step, -1: none */
} CdiFunnelMatch;

extern void cdi_funnel_match_begin(CdiFunnelMatch *match, const CdiFunnelEntry *rows, uint32 nrows);
extern bool cdi_funnel_match_step(CdiFunnelMatch *match, int step);

#endif							/* CDI_FUNNEL_H */
