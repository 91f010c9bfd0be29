/*
 * parked.c
 *		Events whose message id another transaction holds.
 *
 * Their request waits for its answer; they alone are copied and tried again in
 * later groups, when a transaction ends (the latch) or a short time has
 * passed.  If the other transaction takes too long the client is told to come
 * again; the events of the request that were stored meanwhile are then
 * duplicates and harmless.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "collect/job.h"
#include "worker/worker.h"

#define PARKED_RETRY_MS		200
#define PARKED_LIMIT_MS		10000

typedef struct ParkedEvent
{
	CdiText		payload;
	const CdiEnvelope *envelope;
	int			index;			/* in the request */
	bool		done;
} ParkedEvent;

struct CdiParked
{
	CdiParked  *next;
	MemoryContext context;
	CdiRequest	request;		/* without its body */
	CdiAnswer	answer;			/* so far */
	int			nevents;
	int			nleft;
	ParkedEvent *events;
	TimestampTz deadline;
};

/*
 * After the commit
 */
void
cdi_parked_park(CdiBatch *batch, const CdiJob *job, int nparked)
{
	CdiCollector *collector = &cdi_collector;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cdi parked request",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiParked  *parked = palloc0(sizeof(CdiParked));
	const CdiEnvelope *shared = NULL;
	const CdiEnvelope *shared_copy = NULL;

	parked->context = context;
	parked->request = job->request;
	parked->request.body = parked->request.envelope = CDI_NO_TEXT;
	parked->request.nkeys = parked->request.nelements = 0;
	parked->request.elements = NULL;
	parked->request.private_data = NULL;
	parked->events = palloc0(sizeof(ParkedEvent) * nparked);
	parked->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PARKED_LIMIT_MS);
	for (int i = 0; i < job->count; i++)
	{
		const CdiEvent *event = &batch->events[job->first + i];
		ParkedEvent *again;

		if (event->outcome != CDI_PARKED)
		{
			cdi_answer_tally(&parked->answer, event, i);
			continue;
		}
		again = &parked->events[parked->nevents++];
		again->index = i;
		again->payload = cdi_text_copy(event->payload);
		if (event->envelope != shared)
		{
			shared = event->envelope;
			shared_copy = cdi_envelope_copy(shared);
		}
		again->envelope = shared_copy;
	}
	parked->nleft = parked->nevents;
	parked->next = collector->parked;
	collector->parked = parked;
	collector->nparked++;
	collector->parked_total += parked->nevents;
	if (collector->nparked == 1)
	{
		cdi_worker_set_parked(true);
		/* once more at once: the other may have ended before we said so */
		collector->woken = true;
		collector->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PARKED_RETRY_MS);
	}
	MemoryContextSwitchTo(old);
}

static void
unpark(CdiParked *parked)
{
	CdiCollector *collector = &cdi_collector;
	CdiParked **link = &collector->parked;

	while (*link != parked)
		link = &(*link)->next;
	*link = parked->next;
	MemoryContextDelete(parked->context);
	if (--collector->nparked == 0)
		cdi_worker_set_parked(false);
}

void
cdi_parked_add(CdiParked *parked, CdiBatch *batch, int32 origin)
{
	for (int i = 0; i < parked->nevents; i++)
	{
		ParkedEvent *again = &parked->events[i];
		CdiEvent   *event;

		if (again->done)
			continue;
		event = cdi_batch_add(batch, origin, parked->request.source_id);
		event->payload = again->payload;
		event->envelope = again->envelope;
	}
}

void
cdi_parked_finish(CdiBatch *batch, const CdiJob *job)
{
	CdiParked  *parked = job->parked;
	MemoryContext old = MemoryContextSwitchTo(parked->context);
	int			at = job->first;

	for (int i = 0; i < parked->nevents; i++)
	{
		ParkedEvent *again = &parked->events[i];
		const CdiEvent *event;

		if (again->done)
			continue;
		event = &batch->events[at++];
		if (event->outcome == CDI_PARKED)
			continue;
		cdi_answer_tally(&parked->answer, event, again->index);
		again->done = true;
		parked->nleft--;
	}
	MemoryContextSwitchTo(old);
	if (parked->nleft == 0)
	{
		cdi_request_answer(&parked->request, &parked->answer);
		unpark(parked);
	}
}

/*
 * The parked
 */
void
cdi_parked_refuse_late(TimestampTz now)
{
	CdiParked  *next;

	for (CdiParked *parked = cdi_collector.parked; parked != NULL; parked = next)
	{
		next = parked->next;
		if (parked->deadline > now)
			continue;
		cdi_request_refuse_for_now(&parked->request, "message_id_busy",
					   "another transaction holds a message id of this request; send it again");
		unpark(parked);
	}
}

CdiParked *
cdi_parked_due(TimestampTz now)
{
	CdiCollector *collector = &cdi_collector;

	if (collector->nparked == 0 || (!collector->woken && collector->retry_at > now))
		return NULL;
	collector->woken = false;
	collector->retry_at = TimestampTzPlusMilliseconds(now, PARKED_RETRY_MS);
	return collector->parked;
}

CdiParked *
cdi_parked_next(CdiParked *parked)
{
	return parked->next;
}

int
cdi_collect_parked_timeout(void)
{
	if (cdi_collector.nparked == 0)
		return -1;
	if (cdi_collector.woken)
		return 0;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), cdi_collector.retry_at);
}
