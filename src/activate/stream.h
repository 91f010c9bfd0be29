/*
 * stream.h
 *		Streams of events: which of them go to a destination, and as what.
 *
 * A stream is a row of cdi.syncs of kind "events".  Its events are read from
 * cdi.events by position; nothing is copied into the outbox.
 */
#ifndef CDI_STREAM_H
#define CDI_STREAM_H

#include "activate/activate.h"

typedef struct CdiStream
{
	MemoryContext context;		/* everything of it lives here */
	json_t	   *rules;
	json_t	   *consent;		/* names, or NULL */
	json_t	   *when;			/* condition, or NULL */
	json_t	   *mapping;		/* NULL: the event as it is */
	bool		by_person;		/* one after the other, per person */
	double		sample;			/* part of all people; 1: everybody */
} CdiStream;

/* Raises ZC407. */
extern CdiStream *cdi_stream_load(MemoryContext parent, const char *name, const char *rules, const char *mapping);

/*
 * Events by position: $1 < position <= $2, of sources $3, types $4, names like
 * $5, where these are not null.
 */
#define CDI_STREAM_ARGS 5
#define CDI_STREAM_TYPES INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID
#define CDI_STREAM_QUERY(order) \
	"SELECT e.position, e.event_id::text, coalesce((SELECT m.person_id FROM cdi.identity_map m WHERE m.identifier = e.subject)," \
	" e.subject)::text, " CDI_STREAM_EVENT ", e.received_at" \
	" FROM cdi.events e WHERE e.position > $1 AND e.position <= $2" \
	" AND ($3 IS NULL OR e.source_id = ANY (ARRAY(SELECT s.source_id FROM cdi.sources s WHERE s.name = ANY ($3))))" \
	" AND ($4 IS NULL OR e.type = ANY ($4))" \
	" AND ($5 IS NULL OR e.event LIKE ANY ($5))" \
	" ORDER BY e.position " order

/* An event as its SDK would send it; nulls stay in what the SDK nested. */
#define CDI_STREAM_TIME(column) "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define CDI_STREAM_PART(column) \
	" || CASE WHEN e." column " IS NULL THEN '{}' ELSE jsonb_build_object('" column "', e." column ") END"
#define CDI_STREAM_EVENT \
	"coalesce(e.extra, '{}') || jsonb_strip_nulls(jsonb_build_object('messageId', e.message_id, 'type', e.type," \
	" CASE WHEN e.type IN ('page', 'screen') THEN 'name' ELSE 'event' END, e.event, 'category', e.category," \
	" 'userId', e.user_id, 'anonymousId', e.anonymous_id, 'groupId', e.group_id, 'previousId', e.previous_id," \
	" 'timestamp', " CDI_STREAM_TIME("e.\"timestamp\"") ", 'originalTimestamp', " CDI_STREAM_TIME("e.original_timestamp") "," \
	" 'receivedAt', " CDI_STREAM_TIME("e.received_at") ", 'sentAt', " CDI_STREAM_TIME("e.sent_at") "," \
	" 'source', (SELECT s.name FROM cdi.sources s WHERE s.source_id = e.source_id)," \
	" 'personId', coalesce((SELECT m.person_id FROM cdi.identity_map m WHERE m.identifier = e.subject), e.subject)))" \
	CDI_STREAM_PART("properties") CDI_STREAM_PART("traits") CDI_STREAM_PART("context")

/* Arguments from the third on, and which are null */
extern void cdi_stream_arguments(const CdiStream *stream, Datum *values, char *nulls);

typedef enum CdiEventFate
{
	CDI_EVENT_MATCHED,
	CDI_EVENT_WITHHELD,			/* by consent */
	CDI_EVENT_SAMPLED_OUT,
	CDI_EVENT_SKIPPED			/* its condition does not hold, or that of no action */
} CdiEventFate;

/*
 * What becomes of an event that the query returns; person may be NULL.
 * Replaces the event by what the mapping makes of it.  No ereport: what goes
 * wrong is in *error, and the event is matched.
 */
extern CdiEventFate cdi_stream_judge(const CdiStream *stream, const CdiTarget *target, const char *event_id,
									 const char *person, Jsonb **event, char **error);

/* The first of n actions whose condition holds, or -1; *error as above */
extern int	cdi_stream_action(const CdiTarget *target, json_t *const *actions, int n, Jsonb *event, char **error);

/* ingest/position.c; its header has another CdiVerdict */
extern int64 cdi_watermark_compute(void);
extern int64 cdi_position_last(void);

/* By the snapshot that is active.  SPI connected, as the owner. */
extern int64 cdi_stream_watermark(void);

/* Raises where the caller may not read events */
extern void cdi_stream_check_reader(void);

/* Names of actions that events of a stream may go to; palloc'd */
extern const char **cdi_stream_actions(const CdiSpec *spec, const char *action, int *n);

/* The same however often the event is sent; out has 37 bytes */
extern void cdi_stream_key(int32 sync_id, const char *event_id, char *out);

#endif							/* CDI_STREAM_H */
