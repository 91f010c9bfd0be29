/*
 * funnel_way.h
 *		Between funnel_way.c, which finds the way from one entry, and
 *		funnel_path.c, which says whose entries count.
 */
#ifndef CDI_FUNNEL_WAY_H
#define CDI_FUNNEL_WAY_H

#include "behaviour/funnel.h"

#define CDI_FUNNEL_NOWHERE				PG_UINT32_MAX

/* CdiFunnelEvents of one person with one value of what is held constant */
typedef struct CdiFunnelEvents
{
	const CdiFunnelOptions *options;
	const CdiFunnelEntry *entries;
	uint32		count;
	bool		by_second;
	int64		grace;
	uint32		blocks[CDI_FUNNEL_MAX_CONDITIONS];	/* steps of each */
	int			nblocks;
	bool	   *used;			/* by an earlier path; NULL: there is none */
	/* By place of a step: where to look on if it is used */
	uint32	   *jumps[CDI_FUNNEL_MAX_CONDITIONS];
	/* Where a condition is met, in order; NULL: look */
	uint32	   *places[CDI_FUNNEL_MAX_CONDITIONS];
	uint32		nplaces[CDI_FUNNEL_MAX_CONDITIONS];
} CdiFunnelEvents;

/* A path while it is found */
typedef struct CdiFunnelWay
{
	int			level;
	uint32		rows[CDI_FUNNEL_MAX_CONDITIONS];	/* by step, CDI_FUNNEL_NOWHERE: not reached */
	uint32		excluded_by;	/* CDI_FUNNEL_NOWHERE: nothing */
	TimestampTz first;			/* time of the entry */
	TimestampTz last;			/* latest time of a step */
	TimestampTz leaves;			/* when the time of an unfinished path is over */
} CdiFunnelWay;

/* All of these raise nothing but for memory, and a cancelled query. */
extern void cdi_funnel_begin_events(CdiFunnelEvents *events, const CdiFunnelOptions *options,
									const CdiFunnelEntry *entries, uint32 count);
extern void cdi_funnel_end_events(CdiFunnelEvents *events);

/* The first row at or after a time. */
extern uint32 cdi_funnel_row_at(const CdiFunnelEvents *events, TimestampTz at);

/* The first row from there on that meets one of the conditions, or CDI_FUNNEL_NOWHERE. */
extern uint32 cdi_funnel_next_meeting(const CdiFunnelEvents *events, uint32 conditions, uint32 from);

/* Remember from now on which rows a path has used; used[] only ever becomes true. */
extern void cdi_funnel_begin_use(CdiFunnelEvents *events);

/* The first row from there on that meets one of the steps and that no path has used, or CDI_FUNNEL_NOWHERE. */
extern uint32 cdi_funnel_next_free(const CdiFunnelEvents *events, uint32 steps, uint32 from);

/* The way from an entry; rows from until on are not taken. */
extern void cdi_funnel_find_way(const CdiFunnelEvents *events, uint32 entry, uint32 until, CdiFunnelWay *way);

/* What the caller gets of a way: its steps in order of time. */
extern void cdi_funnel_path_of_way(const CdiFunnelEvents *events, const CdiFunnelWay *way, CdiFunnelPath *path);

static inline TimestampTz
cdi_funnel_time_of(const CdiFunnelEvents *events, uint32 row)
{
	TimestampTz at = events->entries[row].at;
	int64		part;

	if (!events->by_second)
		return at;
	part = at % USECS_PER_SEC;
	return at - (part < 0 ? part + USECS_PER_SEC : part);
}

static inline bool
cdi_funnel_is_used(const CdiFunnelEvents *events, uint32 row)
{
	return events->used && events->used[row];
}

#endif							/* CDI_FUNNEL_WAY_H */
