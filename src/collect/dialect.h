/*
 * dialect.h
 *		The protocol of a family of SDKs, and a request as it sees it.
 *
 * A dialect is one file with one CdiDialect in it, listed in dialect.c.  It
 * knows paths, encodings, member names and answers, and nothing of
 * transactions, tables or sockets: its functions are pure C over text (palloc
 * and StringInfo, base/scan.h, collect/decode.h), raise nothing, and so can be
 * fuzzed outside of the server (test/fuzz/dialect.c).
 *
 * A request goes through it in four steps:
 *
 *	unpack		before any transaction: find the write key, cut the body into
 *				elements, one per event, as slices of what came in; gather what
 *				the request says about all of them (the envelope)
 *	translate	once per element, when the event is parsed, and again when a
 *				failed event is replayed: the element as a call of Segment's
 *				specification, which is what the pipeline takes
 *	answer		after the commit: what the SDK wants to hear
 *	refuse		instead of all that: errors, overload, unknown keys
 *
 * Elements and envelope are what cdi.failed_events keeps, so translate must
 * need nothing else.
 */
#ifndef CDI_DIALECT_H
#define CDI_DIALECT_H

#include "base/scan.h"
#include "collect/decode.h"
#include "collect/http.h"

typedef struct CdiDialect CdiDialect;
typedef struct CdiRequest CdiRequest;

/* Of a route */
#define CDI_ROUTE_GET		(1 << 0)	/* events may come by GET, too */
#define CDI_ROUTE_PAGE		(1 << 1)	/* no events: what the SDK fetches (GET or
										 * POST) */
#define CDI_ROUTE_PUBLIC	(1 << 2)	/* page without a write key */

typedef struct CdiRoute
{
	const char *path;			/* as it is, or a beginning and "*" */
	const char *type;			/* what it says of its events; the dialect's word */
	int			flags;
} CdiRoute;

/* Places where a write key may stand, in order of precedence */
#define CDI_MAX_KEYS	4

struct CdiRequest
{
	const CdiDialect *dialect;
	const CdiRoute *route;
	CdiHttpRequest *http;		/* for cdi_request_header() */
	CdiHttpMethod method;
	CdiText		path;			/* without query and trailing slash */
	CdiText		rest;			/* of the path, what a "*" stands for */
	CdiText		query;			/* as sent, without "?" */
	CdiText		user;			/* of Authorization: Basic */
	CdiText		body;			/* decompressed; not in answer and refuse */
	int32		source_id;		/* 0 until it is known */

	/* From unpack.  The first key that belongs to a source counts; Basic user
	 * and ?writeKey= are added around them. */
	int			nkeys;
	CdiText		keys[CDI_MAX_KEYS];
	const char *source;			/* instead of a key: the source of this name,
								 * which verify then has to make sure of */
	CdiText		envelope;		/* JSON object, or nothing */
	CdiText		type;			/* event type that the endpoint implies; this and
								 * the next only where translate is NULL */
	CdiText		anonymous_id;	/* of calls without any id */
	int			nelements;
	int			capacity;
	CdiText    *elements;
	bool		anonymous;		/* keep address and user agent out of events */
	bool		from_device;	/* sent by a person's device, so that address and
								 * user agent are that person's (unpack sees it
								 * preset for browsers) */
	bool		not_mine;		/* the body is another dialect's: the next one with
								 * this path gets it */
	void	   *private_data;	/* the dialect's own, palloc'd; in answer only where
								 * the route is a page */
	char		memo[64];		/* the dialect's own, kept until answer */

	/* A request that can never succeed: 0, or its status.  It is recorded as
	 * one failed event with the body's bytes. */
	int			refused_status;
	const char *refused_code;	/* word of docs/collect.md */
	int			refused_sqlstate;
	const char *refused_message;
	const char *refused_detail;
};

/* What is wrong with one event of a request. */
typedef struct CdiComplaint
{
	int			index;			/* of the event in the request */
	int			sqlstate;
	const char *message;
	const char *message_id;		/* NULL where it was not read */
} CdiComplaint;

/* More of them than this are counted but not listed in an answer. */
#define CDI_MAX_COMPLAINTS	100

/* What became of a request's events. */
typedef struct CdiAnswer
{
	int			received;
	int			stored;
	int			duplicate;
	int			failed;
	int			withheld;
	bool		whole;			/* the body was one event, and it failed */
	int			ncomplaints;
	CdiComplaint *complaints;
} CdiAnswer;

typedef struct CdiReply
{
	int			status;
	StringInfo	body;
	const char *content_type;	/* NULL: application/json */
	const char *cookie;			/* Set-Cookie, or NULL */
	const char *location;		/* for redirects, or NULL */
	bool		no_store;		/* Cache-Control: no-store */
} CdiReply;

/* One element on its way to be a call */
typedef struct CdiTranslation
{
	CdiText		payload;
	CdiText		envelope;
	int64		received_at;	/* microseconds since 1970 */
	StringInfo	call;			/* JSON object of Segment's specification */

	/* Where it cannot be one: set both; call is then not looked at. */
	int			sqlstate;
	const char *message;
	const char *detail;
} CdiTranslation;

struct CdiDialect
{
	const char *name;			/* stored with failed events: never renamed */
	const CdiRoute *routes;		/* the last one has no path */
	bool		keyless;		/* its SDKs need no key: cdi.collector_default_source
								 * takes what has none that is known */

	/* Keys, elements and envelope of a request; or refused_*. */
	void		(*unpack) (CdiRequest *request);

	/* NULL where elements are calls already. */
	void		(*translate) (CdiTranslation *translation);

	/* NULL, or: may raise and use the database; the source is known and a
	 * transaction runs.  Returns the code of a refusal (401), or NULL. */
	const char *(*verify) (CdiRequest *request);

	/* NULL, or: the source has cookieless ids.  Read no cookie, and set none. */
	void		(*forget_visitor) (CdiRequest *request);

	/* NULL, or: the envelope of a failed event as it would be today; the same
	 * may be done as in verify. */
	CdiText		(*refresh) (CdiText envelope, int32 source_id);

	/* body is empty and status 200 when they are called.  A page's answer has
	 * no events. */
	void		(*answer) (const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply);
	void		(*refuse) (const CdiRequest *request, int status, const char *code,
						   const char *message, CdiReply *reply);
};

/*
 * For dialects
 */

/* A header's value, valid until the answer; NULL where absent. */
extern const char *cdi_request_header(const CdiRequest *request, const char *name);
/* A cookie's value; data == NULL where absent. */
extern CdiText cdi_request_cookie(const CdiRequest *request, const char *name);

extern void cdi_request_add_key(CdiRequest *request, CdiText key);
extern void cdi_request_add_element(CdiRequest *request, CdiText element);
/* The elements of a JSON array; or the request is refused. */
extern void cdi_request_add_array(CdiRequest *request, CdiText array);
/* 400, invalid_json */
extern void cdi_request_refuse_json(CdiRequest *request, const char *detail);

/* Does the client see https (by TLS here, or at a proxy that says so)? */
extern bool cdi_request_secure(const CdiRequest *request);

/* A transparent image of one pixel, 43 bytes */
extern void cdi_reply_image(CdiReply *reply);

/* Set-Cookie for a first-party identifier, as the settings want it: palloc'd */
extern const char *cdi_request_cookie_header(const char *name, CdiText value);

/* A random UUID into a buffer of 37 bytes; false where there is no randomness. */
extern bool cdi_request_uuid(char *buffer);

/* {"success": ...} as Segment's API answers; what a dialect without wishes of
 * its own uses. */
extern void cdi_segment_answer(const CdiRequest *request, const CdiAnswer *answer, CdiReply *reply);
extern void cdi_segment_refuse(const CdiRequest *request, int status, const char *code,
							   const char *message, CdiReply *reply);

/* The documented word for what is wrong (docs/collect.md). */
extern const char *cdi_collect_code(int sqlstate);

/* dialect.c */
extern const CdiDialect *const cdi_dialects[];	/* ended by NULL */
extern const CdiDialect *cdi_dialect_find(const char *name);
/* The dialect's route for a path, or NULL; *rest is what a "*" stands for. */
extern const CdiRoute *cdi_dialect_route(const CdiDialect *dialect, const char *path,
										 const char **rest);

/* one file each */
extern const CdiDialect cdi_amplitude_dialect;
extern const CdiDialect cdi_ga4_dialect;
extern const CdiDialect cdi_jitsu_dialect;
extern const CdiDialect cdi_mixpanel_dialect;
extern const CdiDialect cdi_posthog_dialect;
extern const CdiDialect cdi_rudderstack_dialect;
extern const CdiDialect cdi_segment_dialect;
extern const CdiDialect cdi_snowplow_dialect;
extern const CdiDialect cdi_webhook_dialect;

#endif							/* CDI_DIALECT_H */
