/*
 * journeys.h
 *		People's conversions with the touches that may have led to them.
 */
#ifndef CDI_ATTRIBUTION_JOURNEYS_H
#define CDI_ATTRIBUTION_JOURNEYS_H

#include "attribution/credit.h"

/* What a conversion is to the call that reads it */
typedef enum CdiConversionKind
{
	CDI_COUNTED, CDI_MILESTONE	/* + number of the milestone */
} CdiConversionKind;

/* Touch types that may have a window of their own, per conversion */
#define CDI_MAX_WINDOWS	32

/* A row of cdi.conversions */
typedef struct CdiDefinition
{
	char	   *name;
	Interval	lookback;
	int64		nconversions;	/* counted ones here */
	int			nwindows;		/* of touch types that have their own */
	CdiText    *window_types;
	Interval   *windows;
} CdiDefinition;

typedef struct CdiConversion
{
	int32		person;			/* -1: it has none */
	int32		definition;		/* -1: of a milestone */
	int32		kind;			/* CDI_COUNTED or CDI_MILESTONE + n */
	int32		rank;			/* cdi_journeys_rank() */
	TimestampTz at;
	int64		position;
	pg_uuid_t	event_id;
	Datum		value;			/* numeric; 0: null */
} CdiConversion;

typedef struct CdiTouch
{
	TimestampTz at;
	int64		position;
	int32		person;
	int32		label;
	uint32		next;			/* of its person, from 1; 0: none */
	int32		type;			/* of journeys->types; -1: null */
	pg_uuid_t	session_id[FLEXIBLE_ARRAY_MEMBER];	/* one, where asked for */
} CdiTouch;

/* A combination of what the touches' dimensions say */
typedef struct CdiTouchLabel
{
	Datum	   *values;			/* text, by dimension; 0: null */
	CdiText		channel;
	CdiText		path_label;		/* never null */
	int32		path_number;	/* equal for equal path labels, from 0 */
	bool		direct;
} CdiTouchLabel;

typedef struct CdiJourneyRequest
{
	const CdiCreditOptions *options;
	char	   *conversion;		/* NULL: all */
	TimestampTz from_time;		/* included; DT_NOBEGIN: any */
	TimestampTz to_time;		/* excluded; DT_NOEND: any */
	bool		has_from;
	bool		has_to;
	const Interval *lookback;	/* in place of the conversions' own, or NULL */
	char	  **dimensions;		/* columns of the touches */
	int			ndimensions;
	int			nrequired;		/* the first of them, and the label, must be there */
	char	  **milestones;
	int			nmilestones;
	bool		sessions;		/* ids of the touches are wanted */
	bool		everyone;		/* people without a conversion, too */
} CdiJourneyRequest;

/* One person's: conversions and touches in order of time */
typedef struct CdiJourney
{
	pg_uuid_t	person;
	bool		has_person;
	CdiConversion *conversions;
	int			nconversions;
	CdiTouch  **touches;
	int			ntouches;
} CdiJourney;

typedef struct CdiJourneys CdiJourneys;

/* Reads all with the caller's privileges.  SPI must be connected. */
extern CdiJourneys *cdi_journeys_read(MemoryContext context, const CdiJourneyRequest *request);

/* Calls back for every person; may be called again. */
extern void cdi_journeys_visit(CdiJourneys *journeys, void (*visit) (void *arg, const CdiJourney *journey), void *arg);
extern void cdi_journeys_free(CdiJourneys *journeys);

extern int	cdi_journeys_definitions(const CdiJourneys *journeys, CdiDefinition **definitions);
extern int	cdi_journeys_labels(const CdiJourneys *journeys, CdiTouchLabel **labels);
extern int	cdi_journeys_types(const CdiJourneys *journeys, CdiText **types);

/*
 * Number the counted conversions of each definition from 0, in an order that
 * does not depend on that in which they were read.
 */
extern void cdi_journeys_rank(CdiJourneys *journeys);
/* Is a touch within from_time and to_time? */
extern bool cdi_journeys_in_time(const CdiJourneys *journeys, TimestampTz at);
/* to_time, or the last touch or conversion */
extern TimestampTz cdi_journeys_seen_until(const CdiJourneys *journeys);

/* Start of the window before a conversion; a day has 24 hours, months are UTC's. */
extern TimestampTz cdi_window_start(TimestampTz at, const Interval *lookback);

#endif							/* CDI_ATTRIBUTION_JOURNEYS_H */
