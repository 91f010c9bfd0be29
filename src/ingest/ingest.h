/*
 * ingest.h
 *		The one pipeline that every event takes.
 *
 *	parse -> authenticate source -> normalise -> identify -> (consent) ->
 *	(plan) -> enrich -> person -> dedupe -> store -> link -> refuse -> compute
 *
 * Stages in brackets have no code yet; their place is in pipeline.c.
 */
#ifndef CDI_INGEST_H
#define CDI_INGEST_H

#include "base/base.h"
#include "identity/identifier.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/* Of one event; what it has beyond is set aside. */
#define CDI_MAX_IDENTIFIERS	32

/* When the address that a request came from is kept (cdi.sources). */
typedef enum CdiClientAddress
{
	CDI_ADDRESS_AUTO,			/* where the protocol does so */
	CDI_ADDRESS_ALWAYS,
	CDI_ADDRESS_NEVER
} CdiClientAddress;

/* Whose events get an id of the day (cdi.sources, cookieless.h). */
typedef enum CdiCookieless
{
	CDI_COOKIELESS_OFF,
	CDI_COOKIELESS_MISSING,		/* of those that have no id */
	CDI_COOKIELESS_ALWAYS		/* in the place of any anonymous id */
} CdiCookieless;

/* cdi.sources as the pipeline sees it (source.c); valid until the next
 * transaction. */
typedef struct CdiSource
{
	int32		source_id;
	char		name[NAMEDATALEN * 2];
	bool		enabled;
	bool		keep_original;	/* store the bytes as they came */
	CdiClientAddress client_address;
	CdiCookieless cookieless;
	double		rate_limit;		/* events per second; 0: none */
	int32		rate_burst;		/* events at once; 0: those of one second */
	int32		max_body;		/* kB; 0: cdi.collector_max_body alone */
	char	   *allowed_origins;	/* patterns, comma-separated; NULL: any */
	char	  **person_traits;	/* that events get of their person */
	int			nperson_traits;
} CdiSource;

/* Where an event ended.  Every event ends in exactly one of the first four. */
typedef enum CdiOutcome
{
	CDI_PENDING,				/* still in the pipeline */
	CDI_STORED,
	CDI_DUPLICATE,
	CDI_FAILED,
	CDI_WITHHELD,
	CDI_PARKED					/* another transaction holds its message id;
								 * only where the batch may not wait */
} CdiOutcome;

/* Why an event failed; strings live in the batch's context. */
typedef struct CdiFailure
{
	const char *stage;
	int			sqlstate;
	const char *message;
	const char *detail;
	const char *hint;
} CdiFailure;

typedef struct CdiIdentifier
{
	const char *type;
	CdiText		value;			/* normalised */
	bool		cookieless;		/* an id of the day, as it came */
	pg_uuid_t	key;
} CdiIdentifier;

/*
 * What a request said about its events, shared by all of them (envelope.c).
 */
typedef struct CdiEnvelope
{
	const char *dialect;		/* whose payloads these are; NULL: they are calls
								 * of Segment's specification */
	CdiText		text;			/* what the dialect needs besides */
	CdiText		type;			/* type of call that the endpoint implies */
	CdiText		sent_at;
	CdiText		anonymous_id;	/* of calls without any id */
	Jsonb	   *context;		/* of calls that have none */
	Jsonb	   *client;			/* members for every call's context: what the
								 * request's own headers and address say */
	CdiText		address;		/* the device's, where the source has cookieless */
	CdiText		agent;			/* ids; in memory only, never written anywhere */
	CdiText		cookieless_id;	/* of a failed event, made when it came */
	bool		element;		/* of an array or batch: a replay takes it as a
								 * call, whatever it looks like */
	bool		history;		/* honour receivedAt */
	int64		import_id;		/* bulk import and its line, else 0 */
	int64		line;
} CdiEnvelope;

typedef struct CdiRefusal CdiRefusal;	/* refuse.c */

typedef struct CdiEvent
{
	/* what came in */
	int32		origin;			/* the caller's number: request, element */
	int32		source_id;
	CdiText		payload;		/* bytes as received; of a replay or SQL call:
								 * the call as text, made when it is needed */
	JsonbContainer *call;		/* the call, once parsed, in the request's own
								 * jsonb; NULL where a SQL verb filled in the
								 * fields below itself */
	int			call_size;
	const CdiEnvelope *envelope;	/* or NULL */
	int32		attempts;		/* tries before this one; replay only */

	/* where it ended */
	CdiOutcome	outcome;
	CdiFailure *failure;

	/* the canonical event */
	CdiText		type;
	CdiText		event;
	CdiText		category;
	CdiText		message_id;
	CdiText		user_id;
	CdiText		anonymous_id;
	CdiText		group_id;
	CdiText		previous_id;
	TimestampTz received_at;
	TimestampTz timestamp;
	TimestampTz original_timestamp; /* DT_NOBEGIN: absent */
	TimestampTz sent_at;		/* DT_NOBEGIN: absent */
	Jsonb	   *properties;
	Jsonb	   *traits;
	Jsonb	   *context;
	Jsonb	   *extra;
	CdiText		campaign_source;
	CdiText		campaign_medium;
	CdiText		campaign_name;
	CdiText		campaign_term;
	CdiText		campaign_content;
	CdiText		click_id_type;
	CdiText		referrer_host;
	CdiText		page_host;

	pg_uuid_t	event_id;
	int64		position;
	/* usable ones: persons', accounts', households', each by priority */
	uint8		counts[CDI_GRAPHS];
	CdiIdentifier *identifiers;
	CdiRefusal *refusals;		/* and those set aside */
	bool		erased;			/* one of them was erased: its traits may say it */
} CdiEvent;

static inline int
cdi_event_identifiers(const CdiEvent *event)
{
	return event->counts[CDI_GRAPH_PERSON] + event->counts[CDI_GRAPH_ACCOUNT] +
		event->counts[CDI_GRAPH_HOUSEHOLD];
}

static inline bool
cdi_event_has_history(const CdiEvent *event)
{
	return event->envelope != NULL && event->envelope->history;
}

/* Events received per source, counted by cdi_batch_add */
typedef struct CdiReceived
{
	int32		source_id;
	int64		events;
} CdiReceived;

typedef struct CdiBatch
{
	MemoryContext context;		/* everything of the batch lives here */
	bool		strict;			/* SQL verb: raise instead of recording */
	bool		may_wait;		/* SQL: wait for another transaction's message
								 * id; the collector parks instead */
	bool		history;		/* for the envelopes that the parser makes */
	int32		asked_source;	/* whose setting is the next (cookieless.c) */
	CdiCookieless asked_cookieless;
	TimestampTz received_at;
	int			count;
	int			capacity;
	CdiEvent   *events;
	int			nreceived;
	int			nrefusals;
	CdiReceived *received;		/* counted where bytes become events, by code
								 * that knows nothing of outcomes */
} CdiBatch;

extern void cdi_ingest_init(void);

/* batch.c */
extern CdiBatch *cdi_batch_create(MemoryContext parent, TimestampTz received_at);
/* Room for so many events more, where their number is known. */
extern void cdi_batch_reserve(CdiBatch *batch, int events);
extern CdiEvent *cdi_batch_add(CdiBatch *batch, int32 origin, int32 source_id);
extern void cdi_batch_destroy(CdiBatch *batch);
extern void cdi_event_fail(CdiBatch *batch, CdiEvent *event, const char *stage,
						   int sqlstate, const char *message,
						   const char *detail, const char *hint);

/*
 * parse.c: bytes or jsonb become events.  A body that is no JSON, or no call,
 * array or {"batch": [...]}, becomes one failed event with those bytes.  Its
 * own members come before those of the envelope, which may be NULL.  Returns
 * the number of events added.
 */
extern int	cdi_parse_body(CdiBatch *batch, int32 origin, int32 source_id,
						   const char *body, int len, const CdiEnvelope *envelope);
extern int	cdi_parse_jsonb(CdiBatch *batch, int32 origin, int32 source_id,
							Jsonb *body);

/*
 * ../collect/dialect.c: an element of a dialect's request as a call, appended.
 * Raises what is wrong with it.
 */
extern void cdi_dialect_translate(const CdiEnvelope *envelope, CdiText payload,
								  TimestampTz received_at, StringInfo call);

/* Of a failed event, before it is tried again; may read the database. */
extern void cdi_dialect_refresh(CdiEnvelope *envelope, int32 source_id);

/* envelope.c; results live in the current context */
extern Jsonb *cdi_envelope_to_jsonb(const CdiEnvelope *envelope);	/* NULL of NULL */
extern CdiEnvelope *cdi_envelope_from_jsonb(Jsonb *jsonb);
extern CdiEnvelope *cdi_envelope_copy(const CdiEnvelope *envelope);
extern CdiText cdi_text_copy(CdiText text); /* with a NUL behind it */

/*
 * pipeline.c: run all stages after parse over the batch.  On return every
 * event has an outcome and everything is written; the caller commits.  Must
 * run inside a transaction, as any user (it switches to the owner itself).
 * Raises only errors that are not the data's (class 22 and 23 become failed
 * events), or any failure where batch->strict.
 */
extern void cdi_ingest_batch(CdiBatch *batch);

/* source.c: NULL where there is none; transaction required. */
extern const CdiSource *cdi_source_by_name(const char *name);
/* Of a source that this transaction has found, never NULL. */
extern const CdiSource *cdi_source_by_id(int32 source_id);
extern const CdiSource *cdi_source_by_write_key(const char *write_key, int len);
/* One that the current user may send to; raises ZC101 where there is none, and
 * else what is in the way. */
extern const CdiSource *cdi_source_for_write(const char *name);

/* source.c: number of the transaction, of this backend's only */
extern LocalTransactionId cdi_transaction(void);

/*
 * position.c: positions of events and outbox rows.  cdi_position_reserve
 * takes the shared lock that keeps cdi_watermark() below the transaction's
 * rows, once per transaction; cdi_position_next hands out one position.
 */
extern void cdi_position_reserve(void);
extern int64 cdi_position_next(void);
/* The last position that was handed out. */
extern int64 cdi_position_last(void);
/* The watermark now, for snapshots taken from now on; stores nothing. */
extern int64 cdi_watermark_compute(void);
/* Advance the stored watermark; returns it.  Writes only when it moved. */
extern int64 cdi_watermark_advance(void);
/* The stored watermark as the current snapshot sees it. */
extern int64 cdi_watermark_read(void);

/* dedupe.c: true where a rotation is due and was made; short locks. */
extern bool cdi_dedupe_rotate(void);
extern bool cdi_dedupe_filter(void);

#endif							/* CDI_INGEST_H */
