/*
 * group.c
 *		Group commit: many requests, one transaction, then the answers.
 *
 * A group is whatever arrived while the last commit ran.  Its requests are
 * decoded, authenticated and parsed, go through the pipeline as one batch,
 * and are answered only after CommitTransactionCommand: 200 means committed.
 *
 * The pipeline settles errors of the data itself.  Another error fails the
 * transaction; where it may be one request's doing (not a full disk, a lock
 * timeout, a shutdown) the group is halved to find it, so that its neighbours
 * are stored.  Who is left is told to come again (503): SDKs drop their data
 * on 4xx, and the database's troubles are no reason to.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "base/errors.h"
#include "collect/job.h"
#include "collect/limit.h"
#include "worker/worker.h"

/* Bounds of one group */
#define MAX_GROUP_REQUESTS	4096
#define MAX_GROUP_BYTES		(32 * 1024 * 1024)

/* Transactions that one group may cost when it fails */
#define MAX_ATTEMPTS		24

/* No group takes longer: nobody is served meanwhile. */
#define STATEMENT_TIMEOUT_MS	15000

/* The same failure is logged once per second. */
#define LOG_INTERVAL_MS		1000

/* What the request said about its events; NULL where nothing. */
static const CdiEnvelope *
make_envelope(CdiBatch *batch, const CdiJob *job)
{
	const CdiRequest *request = &job->request;
	Jsonb	   *client = cdi_request_client(request);
	CdiText		address;
	CdiText		agent;
	CdiEnvelope *envelope;

	cdi_request_device(request, &address, &agent);
	if (client == NULL && address.data == NULL && request->dialect->translate == NULL && request->type.data == NULL &&
		request->anonymous_id.data == NULL)
		return NULL;
	envelope = MemoryContextAllocZero(batch->context, sizeof(CdiEnvelope));
	envelope->client = client;
	envelope->address = address;
	envelope->agent = agent;
	envelope->type = request->type;
	envelope->anonymous_id = request->anonymous_id;
	if (request->dialect->translate != NULL)
	{
		envelope->dialect = request->dialect->name;
		envelope->text = request->envelope;
	}
	return envelope;
}

static void
add_events(CdiBatch *batch, CdiJob *job, int32 origin)
{
	CdiRequest *request = &job->request;
	const CdiEnvelope *envelope;

	if (request->route->flags & CDI_ROUTE_PAGE)
		return;
	if (request->refused_status != 0)
	{
		/* as it came, not as far as it could be decoded */
		CdiEvent   *event = cdi_batch_add(batch, origin, job->request.source_id);

		event->payload.data = request->http->body ? request->http->body : request->query.data;
		event->payload.len = request->http->body ? (int) request->http->length : request->query.len;
		cdi_event_fail(batch, event, "collect", request->refused_sqlstate,
					   request->refused_message, request->refused_detail, NULL);
		return;
	}
	envelope = make_envelope(batch, job);
	if (request->dialect->translate == NULL)
	{
		cdi_parse_body(batch, origin, job->request.source_id, request->body.data, request->body.len,
					   envelope);
		return;
	}
	cdi_batch_reserve(batch, request->nelements);
	for (int i = 0; i < request->nelements; i++)
	{
		CdiEvent   *event = cdi_batch_add(batch, origin, job->request.source_id);

		event->payload = request->elements[i];
		event->envelope = envelope;
	}
}

static void
add_job(CdiBatch *batch, CdiJob *job, int32 origin, CdiKeyMemo *memo)
{
	job->first = batch->count;
	job->denied = NULL;
	if (job->parked != NULL)
		cdi_parked_add(job->parked, batch, origin);
	else
	{
		cdi_request_authenticate(job, memo);
		if (job->denied == NULL)
			add_events(batch, job, origin);
	}
	job->count = batch->count - job->first;
	if (job->denied == NULL && job->parked == NULL && !job->charged)
	{
		cdi_limit_charge(cdi_source_by_id(job->request.source_id), job->count);
		job->charged = true;
	}
}

static void
add_complaint(CdiAnswer *counts, int index, const CdiEvent *event)
{
	const CdiFailure *failure = event->failure;
	CdiComplaint *complaint;

	if (counts->ncomplaints >= CDI_MAX_COMPLAINTS)
		return;
	if (counts->complaints == NULL)
		counts->complaints = palloc(sizeof(CdiComplaint) * CDI_MAX_COMPLAINTS);
	complaint = &counts->complaints[counts->ncomplaints++];
	complaint->index = index;
	complaint->sqlstate = failure->sqlstate;
	complaint->message = pstrdup(failure->message);
	complaint->message_id = event->message_id.data == NULL ? NULL :
		pnstrdup(event->message_id.data, event->message_id.len);
}

/* Count one event that has ended.  Allocates in the current context. */
void
cdi_answer_tally(CdiAnswer *counts, const CdiEvent *event, int index)
{
	counts->received++;
	switch (event->outcome)
	{
		case CDI_STORED:
			counts->stored++;
			break;
		case CDI_DUPLICATE:
			counts->duplicate++;
			break;
		case CDI_WITHHELD:
			counts->withheld++;
			break;
		case CDI_FAILED:
			counts->failed++;
			add_complaint(counts, index, event);
			break;
		case CDI_PENDING:
		case CDI_PARKED:
			Assert(false);
			break;
	}
}

/* Is the event all there is in the body, but for white space? */
static bool
is_whole_body(const CdiJob *job, const CdiEvent *event)
{
	const char *start = job->request.body.data;
	const char *end = start + job->request.body.len;

	if (job->count != 1)
		return false;
	if (job->request.dialect->translate != NULL)
		return true;
	while (start < end && strchr(" \t\r\n", *start) != NULL)
		start++;
	return event->payload.data == NULL || event->payload.data <= start;
}

static void
finish_job(CdiCollector *collector, CdiBatch *batch, CdiJob *job)
{
	int			nparked = 0;

	if (job->parked != NULL)
	{
		cdi_parked_finish(batch, job);
		return;
	}
	if (job->denied != NULL)
	{
		cdi_request_deny(job);
		return;
	}
	if (job->request.refused_status != 0)
	{
		cdi_request_refuse(&job->request, job->request.refused_status,
						   job->request.refused_code, job->request.refused_message, 0);
		return;
	}
	for (int i = 0; i < job->count; i++)
		if (batch->events[job->first + i].outcome == CDI_PARKED)
			nparked++;
	if (nparked > 0)
		cdi_parked_park(batch, job, nparked);
	else
	{
		CdiAnswer	counts = {0};

		for (int i = 0; i < job->count; i++)
			cdi_answer_tally(&counts, &batch->events[job->first + i], i);
		counts.whole = counts.failed == 1 &&
			is_whole_body(job, &batch->events[job->first]);
		cdi_request_answer(&job->request, &counts);
	}
}

/*
 * Transactions
 */
static void
note_failure(CdiCollector *collector)
{
	TimestampTz now = GetCurrentTimestamp();
	int			sqlstate = geterrcode();

	collector->database_known = true;
	collector->database_ok = false;
	collector->commit_failures++;
	if (sqlstate != collector->logged_sqlstate ||
		TimestampDifferenceExceeds(collector->logged_at, now, LOG_INTERVAL_MS))
	{
		collector->logged_sqlstate = sqlstate;
		collector->logged_at = now;
		EmitErrorReport();
	}
}

/* After an error: end the transaction, so that the next one can begin. */
static void
abandon(CdiCollector *collector)
{
	MemoryContextSwitchTo(collector->group_context);
	HOLD_INTERRUPTS();
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	note_failure(collector);
	cdi_worker_abort();
	MemoryContextSwitchTo(collector->group_context);
	FlushErrorState();
	RESUME_INTERRUPTS();
}

static void
begin(const char *activity)
{
	cdi_worker_begin(activity);
	enable_timeout_after(STATEMENT_TIMEOUT, STATEMENT_TIMEOUT_MS);
}

static void
commit(CdiCollector *collector)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	cdi_worker_commit();
	collector->database_known = true;
	collector->database_ok = true;
}

/* Nothing may be acknowledged that the pipeline did not settle. */
static void
check_outcomes(CdiBatch *batch, CdiJob *jobs, int n)
{
	for (int i = 0; i < n; i++)
		for (int k = jobs[i].first; k < jobs[i].first + jobs[i].count; k++)
			if (k >= batch->count || batch->events[k].outcome == CDI_PENDING)
				elog(ERROR, "event %d of %d left the pipeline without an outcome",
					 k, batch->count);
}

/* One transaction for n jobs; answers them where it commits.  Otherwise
 * returns false and the SQLSTATE. */
static bool
attempt(CdiCollector *collector, CdiJob *jobs, int n, int *sqlstate)
{
	CdiBatch   *volatile batch = NULL;
	volatile bool committed = false;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	PG_TRY();
	{
		CdiKeyMemo		memo = {0};

		begin("cdi: store events");
		batch = cdi_batch_create(collector->group_context, GetCurrentTimestamp());
		for (int i = 0; i < n; i++)
		{
			/* What a job and its events hold is needed after the commit, too,
			 * or by the next attempt. */
			MemoryContextSwitchTo(collector->group_context);
			add_job(batch, &jobs[i], i, &memo);
		}
		if (batch->count > 0)
			cdi_ingest_batch(batch);
		check_outcomes(batch, jobs, n);
		cdi_original_store(batch, jobs, n);
		commit(collector);
		committed = true;
	}
	PG_CATCH();
	{
		*sqlstate = geterrcode();
		abandon(collector);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(collector->group_context);
	if (committed)
	{
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		cdi_collect_time_commit(INSTR_TIME_GET_DOUBLE(end));
		collector->events += batch->count;
		for (int i = 0; i < n; i++)
			finish_job(collector, batch, &jobs[i]);
	}
	if (batch != NULL)
		cdi_batch_destroy(batch);
	return committed;
}

/* May one request of many be the reason, so that the others would pass? */
static bool
may_be_one_request(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
			return sqlstate != ERRCODE_DISK_FULL && sqlstate != ERRCODE_TOO_MANY_CONNECTIONS;
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:	/* lock timeout */
		case ERRCODE_OPERATOR_INTERVENTION: /* cancelled, shutting down */
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INVALID_TRANSACTION_STATE: /* read-only */
		case ERRCODE_CONNECTION_EXCEPTION:
		case MAKE_SQLSTATE('Z', 'C', '0', '0', '0'):	/* no storage */
			return false;
	}
	return true;
}

static void
commit_jobs(CdiCollector *collector, CdiJob *jobs, int n, int *attempts)
{
	int			sqlstate = 0;

	if (*attempts > 0)
	{
		(*attempts)--;
		if (attempt(collector, jobs, n, &sqlstate))
			return;
		/* A deadlock or a serialisation failure is gone the next time. */
		if (ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TRANSACTION_ROLLBACK && *attempts > 0)
		{
			(*attempts)--;
			if (attempt(collector, jobs, n, &sqlstate))
				return;
		}
		if (!may_be_one_request(sqlstate))
			*attempts = 0;
		else if (n > 1)
		{
			commit_jobs(collector, jobs, n / 2, attempts);
			commit_jobs(collector, jobs + n / 2, n - n / 2, attempts);
			return;
		}
	}
	for (int i = 0; i < n; i++)
		if (jobs[i].parked == NULL)
			cdi_request_refuse_for_now(&jobs[i].request, "database_unavailable",
									   "the database cannot store events now; send them again");
}

bool
cdi_collect_group(void)
{
	CdiCollector *collector = &cdi_collector;
	CdiHttpRequest *request;
	CdiJob		   *jobs;
	int			njobs = 0;
	int			capacity = 128;
	size_t		bytes = 0;
	bool		any = false;
	int			attempts = MAX_ATTEMPTS;

	MemoryContextReset(collector->group_context);
	MemoryContextSwitchTo(collector->group_context);
	jobs = palloc(sizeof(CdiJob) * capacity);

	if (collector->nparked > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		cdi_parked_refuse_late(now);
		for (CdiParked *parked = cdi_parked_due(now); parked != NULL;
			 parked = cdi_parked_next(parked))
		{
			if (njobs == capacity)
				jobs = repalloc(jobs, sizeof(CdiJob) * (capacity *= 2));
			memset(&jobs[njobs], 0, sizeof(CdiJob));
			jobs[njobs++].parked = parked;
		}
	}

	while (njobs < MAX_GROUP_REQUESTS && bytes < MAX_GROUP_BYTES &&
		   (request = cdi_http_next(collector->server)) != NULL)
	{
		any = true;
		if (njobs == capacity)
			jobs = repalloc(jobs, sizeof(CdiJob) * (capacity *= 2));
		if (cdi_request_admit(request, &jobs[njobs]))
			bytes += jobs[njobs++].request.body.len;
	}
	if (njobs > 0)
		commit_jobs(collector, jobs, njobs, &attempts);
	return any || njobs > 0;
}

void
cdi_collect_give_up(void)
{
	CdiRequest	request = {.dialect = &cdi_segment_dialect};

	cdi_parked_refuse_late(DT_NOEND);
	while ((request.http = cdi_http_next(cdi_collector.server)) != NULL)
		cdi_request_refuse_for_now(&request, "shutting_down",
								   "the collector is shutting down; send the request again");
}

bool
cdi_collect_probe(void)
{
	CdiCollector *collector = &cdi_collector;
	volatile bool ok = false;

	PG_TRY();
	{
		begin("cdi: check whether the database can be written");
		cdi_prevent_in_recovery("collector");
		cdi_require_storage();
		(void) GetTopTransactionId();	/* makes the commit write and flush WAL */
		commit(collector);
		ok = true;
	}
	PG_CATCH();
	{
		abandon(collector);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(collector->group_context);
	return ok;
}
