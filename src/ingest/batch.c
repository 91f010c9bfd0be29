/*
 * batch.c
 *		A batch of events on its way through the pipeline.
 *
 * Everything that belongs to a batch lives in its memory context and goes
 * with it, on the good path and on the bad one.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "utils/memutils.h"

#include "ingest/ingest.h"

/*
 * A batch takes megabytes, which the C library by default returns to the
 * kernel after each and fetches again, zeroed, page by page: a tenth of the
 * time and more.  A backend that takes large batches keeps up to this much instead.
 */
#define KEPT_MEMORY			(32 * 1024 * 1024)
#define LARGE_BATCH			256

static void
keep_memory(void)
{
#ifdef M_TRIM_THRESHOLD
	static bool done = false;

	if (!done)
	{
		(void) mallopt(M_MMAP_THRESHOLD, KEPT_MEMORY);
		(void) mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
	}
	done = true;
#endif
}

CdiBatch *
cdi_batch_create(MemoryContext parent, TimestampTz received_at)
{
	/*
	 * Nothing of a batch is freed before its end, and most of it are slices of
	 * jsonb, which an allocation set would round up to powers of two.
	 */
	MemoryContext context = GenerationContextCreate(parent, "cdi batch",
													ALLOCSET_DEFAULT_SIZES);
	CdiBatch   *batch = MemoryContextAllocZero(context, sizeof(CdiBatch));

	batch->context = context;
	batch->received_at = received_at;
	return batch;
}

static void
count_received(CdiBatch *batch, int32 source_id)
{
	int			i;

	for (i = batch->nreceived - 1; i >= 0; i--)
		if (batch->received[i].source_id == source_id)
			break;
	if (i < 0)
	{
		Size		size = sizeof(CdiReceived) * (batch->nreceived + 1);

		i = batch->nreceived++;
		batch->received = batch->received == NULL ?
			MemoryContextAlloc(batch->context, size) : repalloc(batch->received, size);
		batch->received[i].source_id = source_id;
		batch->received[i].events = 0;
	}
	batch->received[i].events++;
}

void
cdi_batch_reserve(CdiBatch *batch, int events)
{
	int			capacity = batch->count + events;

	if (capacity <= batch->capacity)
		return;
	/* Many small reservations must not each copy what is there. */
	capacity = Max(capacity, 2 * batch->capacity);
	if (capacity >= LARGE_BATCH)
		keep_memory();
	if (batch->events == NULL)
		batch->events = MemoryContextAllocHuge(batch->context,
											   (Size) capacity * sizeof(CdiEvent));
	else
		batch->events = repalloc_huge(batch->events,
									  (Size) capacity * sizeof(CdiEvent));
	batch->capacity = capacity;
}

CdiEvent *
cdi_batch_add(CdiBatch *batch, int32 origin, int32 source_id)
{
	CdiEvent   *event;

	if (batch->count == batch->capacity)
		cdi_batch_reserve(batch, Max(4, batch->count));
	event = &batch->events[batch->count++];
	memset(event, 0, sizeof(CdiEvent));
	event->origin = origin;
	event->source_id = source_id;
	event->received_at = batch->received_at;
	event->original_timestamp = DT_NOBEGIN;
	event->sent_at = DT_NOBEGIN;
	count_received(batch, source_id);
	return event;
}

void
cdi_batch_destroy(CdiBatch *batch)
{
	MemoryContextDelete(batch->context);
}

void
cdi_event_fail(CdiBatch *batch, CdiEvent *event, const char *stage,
			   int sqlstate, const char *message,
			   const char *detail, const char *hint)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	CdiFailure *failure = palloc(sizeof(CdiFailure));

	failure->stage = stage;
	failure->sqlstate = sqlstate;
	failure->message = pstrdup(message);
	failure->detail = detail ? pstrdup(detail) : NULL;
	failure->hint = hint ? pstrdup(hint) : NULL;
	event->failure = failure;
	event->outcome = CDI_FAILED;
	MemoryContextSwitchTo(old);
}
