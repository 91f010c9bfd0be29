/*
 * job.h
 *		A request on its way through one group; private to src/collect.
 */
#ifndef CDI_JOB_H
#define CDI_JOB_H

#include "collect/collect.h"

/* Lives in the group's context. */
typedef struct CdiJob
{
	CdiRequest	request;
	CdiParked  *parked;			/* comes again; has no body of its own here */

	/* Result of an attempt; counts only after its commit. */
	const char *denied;			/* code of a refusal, of denied_status */
	int			denied_status;
	bool		checked;		/* against the source's rate, once */
	bool		charged;
	int64		wait_ms;		/* until that lets it in */
	int			first;			/* events of the batch */
	int			count;
} CdiJob;

/* Keys of one group are few and come again and again. */
#define CDI_KEY_MEMO	8

typedef struct CdiKeyMemo
{
	int			used;
	struct
	{
		CdiText		key;
		int32		source_id;	/* 0: nobody's */
		bool		enabled;
	}			entries[CDI_KEY_MEMO];
} CdiKeyMemo;

/*
 * request.c.  A request becomes a job, or is answered at once: then admit
 * returns false.  authenticate needs a transaction; it sets source_id, or
 * denied.
 */
extern bool cdi_request_admit(CdiHttpRequest *http, CdiJob *job);
extern void cdi_request_authenticate(CdiJob *job, CdiKeyMemo *memo);
/* What the request itself says about its sender; NULL where nothing. */
extern Jsonb *cdi_request_client(const CdiRequest *request);
/* For cookieless ids: whose device sent it; nothing where that is not known. */
extern void cdi_request_device(const CdiRequest *request, CdiText *address, CdiText *agent);
extern void cdi_request_deny(const CdiJob *job);
extern void cdi_request_refuse(const CdiRequest *request, int status, const char *code,
							   const char *message, int flags);
extern void cdi_request_refuse_for_now(const CdiRequest *request, const char *code,
									   const char *message);
extern void cdi_request_answer(const CdiRequest *request, const CdiAnswer *counts);

/* group.c: count one event that has ended; allocates in the current context */
extern void cdi_answer_tally(CdiAnswer *counts, const CdiEvent *event, int index);

/* original.c: in the transaction of the group; jobs whose source wants it */
extern void cdi_original_store(CdiBatch *batch, const CdiJob *jobs, int n);

/* parked.c */
extern void cdi_parked_add(CdiParked *parked, CdiBatch *batch, int32 origin);
extern void cdi_parked_park(CdiBatch *batch, const CdiJob *job, int nparked);
extern void cdi_parked_finish(CdiBatch *batch, const CdiJob *job);
extern void cdi_parked_refuse_late(TimestampTz now);
/* The parked requests, where it is time to try again; else NULL. */
extern CdiParked *cdi_parked_due(TimestampTz now);
extern CdiParked *cdi_parked_next(CdiParked *parked);

#endif							/* CDI_JOB_H */
