/*
 * pipeline.c
 *		The one pipeline that every event takes.
 *
 * The doors (SQL verbs, HTTP collector, replay) authenticate a source and turn
 * bytes into events (parse.c); from here on all go the same way.  The stages
 * up to enrich work in memory.  The writing stages run in a subtransaction
 * where events can fail one by one: an error of the data (SQLSTATE class 22
 * or 23) halves the batch, at most eight times, and then tries event by event,
 * so that the culprit alone becomes a failed event.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/errors.h"
#include "identity/identity.h"
#include "ingest/import.h"
#include "ingest/stages.h"
#include "worker/worker.h"

#define MAX_BISECTIONS 8

void
cdi_ingest_init(void)
{
	cdi_import_init();
}

static bool
is_data_error(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION;
}

/* The stages that write.  False: come again in waiting mode, see dedupe.c. */
static bool
write_stages(CdiBatch *batch, int *index, int n, bool waiting)
{
	if (!cdi_stage_dedupe(batch, index, n, waiting))
		return false;
	cdi_stage_store(batch, index, n);
	cdi_stage_link(batch, index, n);
	cdi_stage_refuse(batch, index, n);
	cdi_stage_computed(batch, index, n);
	return true;
}

static void
reset_outcomes(CdiBatch *batch, int *index, int n)
{
	for (int i = 0; i < n; i++)
		batch->events[index[i]].outcome = CDI_PENDING;
}

typedef enum WriteResult
{
	WRITE_DONE,
	WRITE_AGAIN,				/* in waiting mode */
	WRITE_DATA_ERROR
} WriteResult;

/* One attempt in a subtransaction; *error is set for WRITE_DATA_ERROR. */
static WriteResult
try_write(CdiBatch *batch, int *index, int n, bool waiting, ErrorData **error)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile WriteResult result = WRITE_DONE;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		if (write_stages(batch, index, n, waiting))
			ReleaseCurrentSubTransaction();
		else
		{
			RollbackAndReleaseCurrentSubTransaction();
			result = WRITE_AGAIN;
		}
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *caught;

		MemoryContextSwitchTo(batch->context);
		caught = CopyErrorData();
		FlushErrorState();

		/*
		 * Whoever handles the error must find the transaction outside of our
		 * subtransaction: the server's own handlers abort one level only.
		 */
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
		if (!is_data_error(caught->sqlerrcode))
			ReThrowError(caught);
		*error = caught;
		result = WRITE_DATA_ERROR;
	}
	PG_END_TRY();
	if (result != WRITE_DONE)
		reset_outcomes(batch, index, n);
	return result;
}

static void
write_range(CdiBatch *batch, int *index, int n, int bisections)
{
	ErrorData  *error = NULL;
	WriteResult result = try_write(batch, index, n, false, &error);

	CHECK_FOR_INTERRUPTS();
	if (result == WRITE_AGAIN)
		result = try_write(batch, index, n, true, &error);
	if (result != WRITE_DATA_ERROR)
		return;
	if (n == 1)
	{
		cdi_event_fail(batch, &batch->events[index[0]], "store", error->sqlerrcode,
					   error->message, error->detail, error->hint);
		FreeErrorData(error);
		return;
	}
	FreeErrorData(error);
	if (bisections < MAX_BISECTIONS)
	{
		write_range(batch, index, n / 2, bisections + 1);
		write_range(batch, index + n / 2, n - n / 2, bisections + 1);
	}
	else
		for (int i = 0; i < n; i++)
			write_range(batch, index + i, 1, bisections);
}

/* A verb has one event and raises what is wrong with it. */
static void
raise_failure(CdiBatch *batch)
{
	for (int i = 0; i < batch->count; i++)
	{
		CdiFailure *failure = batch->events[i].failure;

		if (batch->events[i].outcome == CDI_FAILED)
			ereport(ERROR,
					(errcode(failure->sqlstate),
					 errmsg("%s", failure->message),
					 failure->detail ? errdetail("%s", failure->detail) : 0,
					 failure->hint ? errhint("%s", failure->hint) : 0));
	}
}

#ifdef CDI_FAULT_DROP_EVENT
/* Test build: lose one event on the way; the counters must tell. */
static void
drop_one_event(CdiBatch *batch)
{
	if (batch->count > 1)
		batch->count--;
}
#endif

void
cdi_ingest_batch(CdiBatch *batch)
{
	CdiOwnerScope scope;
	int		   *index;
	int			n = 0;

	cdi_prevent_in_recovery("cdi_ingest");
	cdi_require_storage();
	cdi_owner_enter(&scope);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	cdi_keys_load();

	cdi_stage_parse(batch);
	/* the source was authenticated by the door */
	cdi_stage_normalise(batch);
	cdi_stage_identify(batch);
	/* consent gate */
	/* validate against the tracking plan */
	cdi_stage_enrich(batch);
	cdi_stage_person(batch);
#ifdef CDI_FAULT_DROP_EVENT
	drop_one_event(batch);
#endif

	if (batch->strict)
		raise_failure(batch);
	index = MemoryContextAllocHuge(batch->context, sizeof(int) * Max(batch->count, 1));
	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].outcome == CDI_PENDING)
			index[n++] = i;
	/* Others may wait for what comes now, whichever way it ends. */
	cdi_worker_wake_at_commit(CDI_WAKE_KEEPER);
	if (n > 0)
	{
		/* A verb's single key may be waited for: nothing else is held for it. */
		if (batch->strict)
		{
			if (!write_stages(batch, index, n, false))
				write_stages(batch, index, n, true);
		}
		else
			write_range(batch, index, n, 0);
	}
	cdi_record_failures(batch);
	cdi_record_counts(batch);

	SPI_finish();
	cdi_owner_leave(&scope);
}
