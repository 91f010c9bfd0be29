/*
 * behaviour.h
 *		What the parts of behaviour share: conditions as bits, times in order,
 *		periods of a calendar; virtual events and flows.
 */
#ifndef CDI_BEHAVIOUR_H
#define CDI_BEHAVIOUR_H

#include "base/base.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "pgtime.h"
#include "utils/jsonb.h"

/*
 * virtual_predicate.c: parse a predicate over the columns of cdi.events, check
 * it and return it as canonical SQL: names resolved, columns prefixed with the
 * alias, if one is given.  With total, the predicate must not be able to fail
 * on any event.  Raises with the position in the predicate.
 */
extern char *cdi_predicate_canonical(const char *predicate, const char *alias, bool total);

/* people_plan.c: the node of funnels, for the planner; from _PG_init */
extern void cdi_people_plan_init(void);

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

/* conditions.c */

/* Conditions of one row, one bit each: cond1 is bit 0.  ClickHouse has the
 * same limit. */
#define CDI_MAX_CONDITIONS 32

/* Once per call site, before the next: raises 54023 above the limit, 42804 for
 * arguments of other types. */
extern void cdi_behaviour_check_conditions(FunctionCallInfo fcinfo, int first);

/* The boolean arguments from number `first` on, null as false.  Sets *count to
 * how many there are. */
extern uint32 cdi_behaviour_conditions(FunctionCallInfo fcinfo, int first, int *count);

/*
 * Raises 22008 for infinite times and those after the year 38000: they have
 * no place in a sequence, or no room for the bits that are kept beside them.
 */
extern void cdi_behaviour_check_time(TimestampTz at);

/* periods.c */

typedef enum CdiUnit
{
	CDI_UNIT_DAY, CDI_UNIT_WEEK, CDI_UNIT_MONTH, CDI_UNIT_ALL
} CdiUnit;

/*
 * A calendar: turns instants into numbers of days, ISO weeks and months of a
 * time zone.  Remembers the last offset from UTC and how long it holds, so
 * that times close to each other cost an addition.
 */
typedef struct CdiCalendar
{
	pg_tz	   *zone;
	pg_time_t	valid_from;		/* Unix seconds */
	pg_time_t	valid_until;	/* exclusive */
	long		offset;			/* seconds east of UTC */
} CdiCalendar;

/* Raises 22023 where there is no such zone. */
extern void cdi_calendar_open(CdiCalendar *calendar, const char *zone);

/* Local time as microseconds since local 2000-01-01 00:00 */
extern int64 cdi_calendar_local(CdiCalendar *calendar, TimestampTz at);

/* Number of the unit's period; consecutive periods have consecutive numbers. */
extern int64 cdi_calendar_period(CdiCalendar *calendar, CdiUnit unit, TimestampTz at);

/* Days since 2000-01-01 of a period's first day: a DateADT */
extern int32 cdi_calendar_first_day(CdiUnit unit, int64 period);

/* The period of a date */
extern int64 cdi_calendar_period_of_day(CdiUnit unit, int32 day);

/* history.c */

#define CDI_HISTORY_START	1
#define CDI_HISTORY_RETURN	2

/* The entry of an event: its time and what it is, ordered by time */
#define CDI_HISTORY_AT(key)		((TimestampTz) ((key) >> 2))
#define CDI_HISTORY_KIND(key)	((int) ((key) & 3))

/* A person's events as cdi_history() made them: checked, in order, distinct.
 * The memory is that of the (detoasted) value. */
typedef struct CdiHistory
{
	const int64 *keys;
	int64		count;
} CdiHistory;

extern CdiHistory cdi_history_read(bytea *value);

/* options.c: options of an aggregate, a jsonb object.  Each takes what the
 * report functions take as parameters; a name that nobody asked for is an
 * error (22023). */
typedef struct CdiOptions
{
	Jsonb	   *object;			/* NULL: none given */
	const char *names[12];		/* of those that were asked for */
	int			nnames;
} CdiOptions;

extern void cdi_options_open(CdiOptions *options, Jsonb *object);
extern char *cdi_options_text(CdiOptions *options, const char *name, const char *otherwise);
extern int64 cdi_options_integer(CdiOptions *options, const char *name, int64 otherwise, int64 least, int64 most);
extern bool cdi_options_time(CdiOptions *options, const char *name, TimestampTz *value);
extern TimestampTz cdi_options_as_of(CdiOptions *options);
extern bool cdi_options_day(CdiOptions *options, const char *name, int32 *day);
extern void cdi_options_close(CdiOptions *options);

/* Where one of a few words is wanted: its number; raises 22023 with the list. */
extern int	cdi_options_word(CdiOptions *options, const char *name, const char *otherwise,
							 const char *const *words, int nwords);

/* The options that a row comes with; raises 22004 for null. */
extern Jsonb *cdi_options_argument(FunctionCallInfo fcinfo, int argument);

/* The same options for all rows of a group, or 22023. */
extern void cdi_options_check_same(const Jsonb *first, const Jsonb *other);

/* In a state that goes to another process */
extern void cdi_options_send(StringInfo buffer, const Jsonb *object);
extern Jsonb *cdi_options_receive(StringInfo buffer);

/* An array of rows of the element type that the calling function returns */
typedef struct CdiRows
{
	Oid			type;
	TupleDesc	desc;
	Datum	   *rows;
	int			count;
	int			space;
} CdiRows;

extern void cdi_rows_open(CdiRows *rows, FunctionCallInfo fcinfo);
extern void cdi_rows_add(CdiRows *rows, Datum *values, bool *nulls);
extern Datum cdi_rows_close(CdiRows *rows);

#endif							/* CDI_BEHAVIOUR_H */
