/*
 * snowplow.h
 *		What the files of Snowplow's dialect share; private to them.
 *
 *	snowplow.c			requests: paths, cookie, pixel, redirect
 *	snowplow_event.c	one event of the tracker protocol, read
 *	snowplow_call.c		the same as a call
 *
 * Between the first and the others lies the envelope, a JSON object:
 *
 *	form			what an element is, one of the words below
 *	networkUserId	of the cookie, or made for this request
 *	fresh			it was made for this request
 *	anonymous		the tracker asked for no cookie and no address
 *	referer			the header, where an element has no room for the page
 *	query			of the address, where the element is not the query itself
 *	members			further members beside "data" in the body
 */
#ifndef CDI_SNOWPLOW_H
#define CDI_SNOWPLOW_H

#include "collect/dialect.h"

#define CDI_SNOWPLOW_PAYLOAD	"payload"	/* object of the tracker protocol */
#define CDI_SNOWPLOW_QUERY		"query"	/* the same as a query string */
#define CDI_SNOWPLOW_REDIRECT	"redirect"	/* and with the address to go to */
#define CDI_SNOWPLOW_JSON		"self_describing"	/* object: schema, data */
#define CDI_SNOWPLOW_FIELDS		"self_describing_query" /* a query string */

/* Identifies nobody: what anonymous requests have instead of a cookie. */
#define CDI_SNOWPLOW_NOBODY		"00000000-0000-0000-0000-000000000000"

#define CDI_SNOWPLOW_SCHEMA		"iglu:com.snowplowanalytics.snowplow/"
#define CDI_SNOWPLOW_MOBILE		"iglu:com.snowplowanalytics.mobile/"

/* The parameters that are looked at, others are only copied. */
typedef enum CdiSnowplowSlot
{
	SP_AID, SP_CO, SP_CX, SP_DTM, SP_DUID, SP_E, SP_EID, SP_IP, SP_LANG, SP_NUID, SP_P, SP_PAGE,
	SP_PP_MAX, SP_PP_MAY, SP_PP_MIX, SP_PP_MIY, SP_REFR, SP_RES, SP_SCHEMA,
	SP_SE_AC, SP_SE_CA, SP_SE_LA, SP_SE_PR, SP_SE_VA, SP_SID, SP_STM,
	SP_TI_CA, SP_TI_CU, SP_TI_ID, SP_TI_NM, SP_TI_PR, SP_TI_QU, SP_TI_SK, SP_TNUID,
	SP_TR_AF, SP_TR_CI, SP_TR_CO, SP_TR_CU, SP_TR_ID, SP_TR_SH, SP_TR_ST, SP_TR_TT, SP_TR_TX,
	SP_TTM, SP_TV, SP_TZ, SP_U, SP_UA, SP_UE_PR, SP_UE_PX, SP_UID, SP_URL, SP_VP, SP_WRITE_KEY,
	SP_SLOTS,
	SP_NUMBER,					/* copied as a number */
	SP_OTHER						/* copied as it is */
} CdiSnowplowSlot;

/* A parameter: what it means, and the JSON it came as, if it did. */
typedef struct CdiSnowplowField
{
	CdiText		name;
	CdiText		text;			/* data == NULL where it is no string or number */
	CdiText		json;
	bool		number;
	bool		used;			/* has a place in the call already */
} CdiSnowplowField;

/* What the event says of itself */
typedef struct CdiSnowplowEvent
{
	CdiTranslation *translation;
	StringInfo	out;
	CdiSnowplowField *fields;
	int			nfields;
	int			capacity;
	int			slots[SP_SLOTS];	/* index of the field, -1: none */

	CdiText		form;			/* of the envelope */
	CdiText		network_user;
	CdiText		query;
	CdiText		referer;
	CdiText		members;
	bool		fresh;
	bool		anonymous;

	CdiText		contexts;		/* JSON array */
	CdiText		client_user;	/* of a client_session context */
	CdiText		client_session;
	CdiText		link;			/* JSON: url and referrer of the deep link that led here */
	CdiText		install_referrer;	/* of a referrer_details context */
	CdiText		schema;			/* of a self-describing event, with its name */
	CdiText		name;
	CdiText		data;			/* JSON */
} CdiSnowplowEvent;

static inline CdiText
cdi_snowplow_text(const CdiSnowplowEvent *event, CdiSnowplowSlot slot)
{
	return event->slots[slot] < 0 ? CDI_NO_TEXT : event->fields[event->slots[slot]].text;
}

static inline bool
cdi_snowplow_has(const CdiSnowplowEvent *event, CdiSnowplowSlot slot)
{
	return cdi_snowplow_text(event, slot).len > 0;
}

static inline void
cdi_snowplow_mark_used(CdiSnowplowEvent *event, CdiSnowplowSlot slot)
{
	if (event->slots[slot] >= 0)
		event->fields[event->slots[slot]].used = true;
}

/* Whatever is wrong is in the event's translation then, and false returned. */
extern bool cdi_snowplow_fail(CdiSnowplowEvent *event, int sqlstate, const char *parameter,
							  const char *message, const char *detail);

/* snowplow_event.c: the fields, and what the JSON in them says */
extern bool cdi_snowplow_read(CdiSnowplowEvent *event);

/* snowplow_call.c */
extern void cdi_snowplow_translate(CdiTranslation *translation);

#endif							/* CDI_SNOWPLOW_H */
