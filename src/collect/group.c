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
 *
 * Events whose message id another transaction holds are parked: their request
 * waits for its answer, they alone are copied and tried again in later groups,
 * when a transaction ends (the latch) or a short time has passed.  If the other
 * transaction takes too long the client is told to come again; the events of
 * the request that were stored meanwhile are then duplicates and harmless.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "base/errors.h"
#include "collect/collect.h"
#include "worker/worker.h"

/* Bounds of one group */
#define MAX_GROUP_REQUESTS	4096
#define MAX_GROUP_BYTES		(32 * 1024 * 1024)

/* Transactions that one group may cost when it fails */
#define MAX_ATTEMPTS		24

/* No group takes longer: nobody is served meanwhile. */
#define STATEMENT_TIMEOUT_MS	15000

#define PARKED_RETRY_MS		200
#define PARKED_LIMIT_MS		10000

/* The same failure is logged once per second. */
#define LOG_INTERVAL_MS		1000

typedef struct ParkedEvent
{
	CdiText		payload;
	CdiText		sent_at;
	CdiText		type;
	Jsonb	   *context;
	int			index;			/* in the request */
	bool		done;
} ParkedEvent;

struct CdiParked
{
	CdiParked  *next;
	MemoryContext context;
	CdiHttpRequest *request;
	const CdiDialect *dialect;
	int32		source_id;
	CdiAnswer	answer;			/* so far */
	int			nevents;
	int			nleft;
	ParkedEvent *events;
	TimestampTz deadline;
};

/* A request on its way through one group; lives in the group's context. */
typedef struct Job
{
	CdiHttpRequest *request;
	const CdiDialect *dialect;
	const CdiRoute *route;
	CdiParked  *parked;			/* comes again; has no body of its own here */

	const char *body;			/* decoded */
	int			length;

	/* A body that cannot be parsed is refused so, and recorded. */
	int			refused_status;
	const char *refused_code;
	int			refused_sqlstate;
	const char *refused_message;
	const char *refused_detail;

	/* Result of an attempt; counts only after its commit. */
	const char *denied;			/* code of a 401 */
	int32		source_id;
	int			first;			/* events of the batch */
	int			count;
} Job;

static const CdiDialect *const dialects[] = {
	&cdi_segment_dialect,
	NULL
};

const char *
cdi_collect_code(int sqlstate)
{
	static char code[6];

	switch (sqlstate)
	{
		case ERRCODE_CDI_INVALID_JSON:
			return "invalid_json";
		case ERRCODE_CDI_INVALID_EVENT:
			return "invalid_event";
		case ERRCODE_CDI_INVALID_TYPE:
			return "invalid_type";
		case ERRCODE_CDI_NO_IDENTIFIER:
			return "no_identifier";
		case ERRCODE_CDI_INVALID_TIMESTAMP:
			return "invalid_timestamp";
		case ERRCODE_CDI_EVENT_TOO_LARGE:
			return "event_too_large";
		case ERRCODE_CDI_INVALID_ENCODING:
			return "invalid_encoding";
		case ERRCODE_CDI_INVALID_COMPRESSION:
			return "invalid_compression";
		case ERRCODE_UNTRANSLATABLE_CHARACTER:
			return "invalid_character";
		case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
			return "number_out_of_range";
	}
	strlcpy(code, unpack_sql_state(sqlstate), sizeof(code));
	return code;
}

/*
 * Answers
 */
static void
send_reply(CdiHttpRequest *request, int status, int flags)
{
	cdi_http_answer(cdi_collector.server, request, status,
					cdi_collector.reply.data, cdi_collector.reply.len, flags);
}

static void
refuse(CdiHttpRequest *request, const CdiDialect *dialect, int status,
	   const char *code, const char *message, int flags)
{
	resetStringInfo(&cdi_collector.reply);
	dialect->refuse(code, message, &cdi_collector.reply);
	send_reply(request, status, flags);
}

static void
refuse_for_now(CdiHttpRequest *request, const CdiDialect *dialect,
			   const char *code, const char *message)
{
	refuse(request, dialect, 503, code, message, CDI_HTTP_RETRY_AFTER);
}

static void
answer(CdiHttpRequest *request, const CdiDialect *dialect, const CdiAnswer *counts)
{
	int			status;

	resetStringInfo(&cdi_collector.reply);
	status = dialect->answer(counts, &cdi_collector.reply);
	send_reply(request, status, 0);
}

/*
 * Requests that need no transaction.  Returns false where it does.
 */
static const CdiRoute *
find_route(const char *path, const CdiDialect **dialect)
{
	for (int i = 0; dialects[i] != NULL; i++)
		for (const CdiRoute *route = dialects[i]->routes; route->path != NULL; route++)
			if (strcmp(route->path, path) == 0)
			{
				*dialect = dialects[i];
				return route;
			}
	*dialect = &cdi_segment_dialect;
	return NULL;
}

static bool
serve_page(CdiHttpRequest *request)
{
	StringInfo	reply = &cdi_collector.reply;
	bool		metrics = strcmp(request->path, "/metrics") == 0;

	if (!metrics && strcmp(request->path, "/health") != 0)
		return false;
	if (request->method != CDI_HTTP_GET && request->method != CDI_HTTP_HEAD)
	{
		refuse(request, &cdi_segment_dialect, 405, "method_not_allowed",
			   "use GET here", CDI_HTTP_ALLOW_GET);
		return true;
	}
	resetStringInfo(reply);
	if (metrics)
	{
		cdi_collect_metrics(reply);
		send_reply(request, 200, CDI_HTTP_METRICS);
	}
	else if (cdi_collect_health(reply))
		send_reply(request, 200, 0);
	else
		send_reply(request, 503, CDI_HTTP_RETRY_AFTER);
	return true;
}

/*
 * Into the job goes what the request's body really is.
 */
static void
refuse_body(Job *job, int status, const char *code, int sqlstate,
			const char *message, const char *detail)
{
	job->refused_status = status;
	job->refused_code = code;
	job->refused_sqlstate = sqlstate;
	job->refused_message = message;
	job->refused_detail = detail;
}

static void
refuse_too_large(Job *job, const char *when, uint64 bytes)
{
	refuse_body(job, 413, "body_too_large", ERRCODE_CDI_EVENT_TOO_LARGE,
				"request body is larger than cdi.collector_max_body",
				psprintf("The body has at least " UINT64_FORMAT " bytes %s, the limit is %d kB.",
						 bytes, when, cdi_collector_max_body));
}

static void
decode_body(Job *job)
{
	CdiHttpRequest *request = job->request;
	char	   *inflated;
	size_t		length;
	bool		gzip;

	job->body = request->body ? request->body : "";
	job->length = request->length;
	if (request->flaw == CDI_HTTP_TOO_LARGE)
		refuse_too_large(job, "as sent", request->announced);

	gzip = request->length >= 2 &&
		(unsigned char) request->body[0] == 0x1f && (unsigned char) request->body[1] == 0x8b;
	/* A proxy may have inflated the body and left the header. */
	if (!gzip && (!request->compressed || request->length == 0 ||
				  request->body[0] == '{' || request->body[0] == '['))
		return;
	switch (cdi_collect_inflate(request->body, request->length,
								(size_t) cdi_collector_max_body * 1024, &inflated, &length))
	{
		case CDI_INFLATE_OK:
			break;
		case CDI_INFLATE_CORRUPT:
			if (job->refused_status == 0)
				refuse_body(job, 400, "invalid_compression", ERRCODE_CDI_INVALID_COMPRESSION,
							"request body is not valid gzip or deflate data",
							"The data is corrupt or ends too early.");
			break;
		case CDI_INFLATE_TOO_LARGE:
			if (job->refused_status == 0)
				refuse_too_large(job, "after decompression", (uint64) length + 1);
			break;
	}
	/* Of a refused body this still shows the write key, if it came so far. */
	job->body = inflated;
	job->length = length;
}

/* A request becomes a job, or is answered at once: then false. */
static bool
admit(CdiHttpRequest *request, Job *job)
{
	memset(job, 0, sizeof(*job));
	job->request = request;
	job->route = find_route(request->path, &job->dialect);
	if (job->route == NULL)
	{
		if (!serve_page(request))
			refuse(request, job->dialect, 404, "not_found", "there is nothing at this path", 0);
		return false;
	}
	if (request->method != CDI_HTTP_POST)
	{
		refuse(request, job->dialect, 405, "method_not_allowed",
			   "use POST here", CDI_HTTP_ALLOW_POST);
		return false;
	}
	if (request->flaw == CDI_HTTP_NO_LENGTH)
	{
		refuse(request, job->dialect, 411, "length_required",
			   "send Content-Length, or the body in chunks", 0);
		return false;
	}
	decode_body(job);
	return true;
}

/*
 * Inside the transaction
 */

/* Keys of one group are few and come again and again. */
#define KEY_MEMO	8

typedef struct KeyMemo
{
	int			used;
	struct
	{
		CdiText		key;
		int32		source_id;
		const char *denied;
	}			entries[KEY_MEMO];
} KeyMemo;

static void
authenticate(Job *job, KeyMemo *memo)
{
	CdiHttpRequest *request = job->request;
	CdiText		key = {NULL, 0};
	const CdiSource *source;
	int			i;

	if (request->has_user)
	{
		key.data = request->user;
		key.len = strlen(request->user);
	}
	if (key.len == 0)
		key = job->dialect->write_key(job->body, job->length);
	if (key.len == 0)
	{
		key.data = request->query_key;
		key.len = strlen(request->query_key);
	}
	if (key.len == 0)
	{
		job->denied = "missing_write_key";
		return;
	}
	for (i = 0; i < memo->used; i++)
		if (memo->entries[i].key.len == key.len &&
			memcmp(memo->entries[i].key.data, key.data, key.len) == 0)
			break;
	if (i == memo->used)
	{
		source = cdi_source_by_write_key(key.data, key.len);
		if (memo->used < KEY_MEMO)
			memo->used++;
		else
			i = 0;
		memo->entries[i].key = key;
		memo->entries[i].source_id = source ? source->source_id : 0;
		memo->entries[i].denied = source == NULL ? "unknown_write_key" :
			!source->enabled ? "source_disabled" : NULL;
	}
	job->source_id = memo->entries[i].source_id;
	job->denied = memo->entries[i].denied;
}

static void
add_job(CdiBatch *batch, Job *job, int32 origin, KeyMemo *memo)
{
	CdiEvent   *event;

	job->first = batch->count;
	job->denied = NULL;
	if (job->parked != NULL)
	{
		CdiParked  *parked = job->parked;

		for (int i = 0; i < parked->nevents; i++)
		{
			ParkedEvent *again = &parked->events[i];

			if (again->done)
				continue;
			event = cdi_batch_add(batch, origin, parked->source_id);
			event->payload = again->payload;
			event->default_type = again->type;
			event->envelope_sent_at = again->sent_at;
			event->envelope_context = again->context;
		}
	}
	else
	{
		authenticate(job, memo);
		if (job->denied != NULL)
			;
		else if (job->refused_status != 0)
		{
			/* as it came, not as far as it could be decoded */
			event = cdi_batch_add(batch, origin, job->source_id);
			event->payload.data = job->request->body ? job->request->body : "";
			event->payload.len = job->request->length;
			cdi_event_fail(batch, event, "collect", job->refused_sqlstate,
						   job->refused_message, job->refused_detail, NULL);
		}
		else
			job->dialect->parse(batch, origin, job->source_id,
								job->body, job->length, job->route);
	}
	job->count = batch->count - job->first;
}

/*
 * After the commit
 */
static CdiText
copy_text(CdiText text)
{
	CdiText		copy = {NULL, text.len};

	if (text.data != NULL)
	{
		char	   *data = MemoryContextAllocHuge(CurrentMemoryContext, text.len + 1);

		memcpy(data, text.data, text.len);
		data[text.len] = '\0';
		copy.data = data;
	}
	return copy;
}

static void
add_complaint(CdiAnswer *counts, int index, const CdiFailure *failure)
{
	CdiComplaint *complaint;

	if (counts->ncomplaints >= CDI_MAX_COMPLAINTS)
		return;
	if (counts->complaints == NULL)
		counts->complaints = palloc(sizeof(CdiComplaint) * CDI_MAX_COMPLAINTS);
	complaint = &counts->complaints[counts->ncomplaints++];
	complaint->index = index;
	complaint->sqlstate = failure->sqlstate;
	complaint->message = pstrdup(failure->message);
}

/* Count one event that has ended.  Allocates in the current context. */
static void
tally(CdiAnswer *counts, const CdiEvent *event, int index)
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
			add_complaint(counts, index, event->failure);
			break;
		case CDI_PENDING:
		case CDI_PARKED:
			Assert(false);
			break;
	}
}

/* Is the event all there is in the body, but for white space? */
static bool
is_whole_body(const Job *job, const CdiEvent *event)
{
	const char *start = job->body;
	const char *end = job->body + job->length;

	if (job->count != 1)
		return false;
	while (start < end && strchr(" \t\r\n", *start) != NULL)
		start++;
	return event->payload.data == NULL || event->payload.data <= start;
}

static void
park(CdiCollector *collector, CdiBatch *batch, Job *job, int nparked)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cdi parked request",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiParked  *parked = palloc0(sizeof(CdiParked));
	Jsonb	   *shared = NULL;
	Jsonb	   *shared_copy = NULL;

	parked->context = context;
	parked->request = job->request;
	parked->dialect = job->dialect;
	parked->source_id = job->source_id;
	parked->events = palloc0(sizeof(ParkedEvent) * nparked);
	parked->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PARKED_LIMIT_MS);
	for (int i = 0; i < job->count; i++)
	{
		const CdiEvent *event = &batch->events[job->first + i];
		ParkedEvent *again;

		if (event->outcome != CDI_PARKED)
		{
			tally(&parked->answer, event, i);
			continue;
		}
		again = &parked->events[parked->nevents++];
		again->index = i;
		again->payload = copy_text(event->payload);
		again->sent_at = copy_text(event->envelope_sent_at);
		again->type = copy_text(event->default_type);
		if (event->envelope_context != NULL && event->envelope_context != shared)
		{
			Size		size = VARSIZE(event->envelope_context);

			shared = event->envelope_context;
			shared_copy = palloc(size);
			memcpy(shared_copy, shared, size);
		}
		if (event->envelope_context != NULL)
			again->context = shared_copy;
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
unpark(CdiCollector *collector, CdiParked *parked)
{
	CdiParked **link = &collector->parked;

	while (*link != parked)
		link = &(*link)->next;
	*link = parked->next;
	MemoryContextDelete(parked->context);
	if (--collector->nparked == 0)
		cdi_worker_set_parked(false);
}

static void
finish_parked(CdiCollector *collector, CdiBatch *batch, Job *job)
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
		tally(&parked->answer, event, again->index);
		again->done = true;
		parked->nleft--;
	}
	MemoryContextSwitchTo(old);
	if (parked->nleft == 0)
	{
		answer(parked->request, parked->dialect, &parked->answer);
		unpark(collector, parked);
	}
}

static void
finish_job(CdiCollector *collector, CdiBatch *batch, Job *job)
{
	int			nparked = 0;

	if (job->parked != NULL)
	{
		finish_parked(collector, batch, job);
		return;
	}
	if (job->denied != NULL)
	{
		collector->refused_keys++;
		refuse(job->request, job->dialect, 401, job->denied,
			   strcmp(job->denied, "missing_write_key") == 0 ?
			   "no write key: send it as Basic user, as writeKey in the body or as ?writeKey=" :
			   strcmp(job->denied, "source_disabled") == 0 ?
			   "the source of this write key is disabled" :
			   "no source has this write key", 0);
		return;
	}
	if (job->refused_status != 0)
	{
		refuse(job->request, job->dialect, job->refused_status,
			   job->refused_code, job->refused_message, 0);
		return;
	}
	for (int i = 0; i < job->count; i++)
		if (batch->events[job->first + i].outcome == CDI_PARKED)
			nparked++;
	if (nparked > 0)
		park(collector, batch, job, nparked);
	else
	{
		CdiAnswer	counts = {0};

		for (int i = 0; i < job->count; i++)
			tally(&counts, &batch->events[job->first + i], i);
		counts.whole = counts.failed == 1 &&
			is_whole_body(job, &batch->events[job->first]);
		answer(job->request, job->dialect, &counts);
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
check_outcomes(CdiBatch *batch, Job *jobs, int n)
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
attempt(CdiCollector *collector, Job *jobs, int n, int *sqlstate)
{
	CdiBatch   *volatile batch = NULL;
	volatile bool committed = false;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	PG_TRY();
	{
		KeyMemo		memo = {0};

		begin("storing events");
		batch = cdi_batch_create(collector->group_context, GetCurrentTimestamp());
		for (int i = 0; i < n; i++)
			add_job(batch, &jobs[i], i, &memo);
		if (batch->count > 0)
			cdi_ingest_batch(batch);
		check_outcomes(batch, jobs, n);
		commit(collector);
		committed = true;
	}
	PG_CATCH();
	{
		*sqlstate = geterrcode();
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
commit_jobs(CdiCollector *collector, Job *jobs, int n, int *attempts)
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
			refuse_for_now(jobs[i].request, jobs[i].dialect, "database_unavailable",
						   "the database cannot store events now; send them again");
}

/*
 * The parked
 */
static void
refuse_late(CdiCollector *collector, TimestampTz now)
{
	CdiParked  *next;

	for (CdiParked *parked = collector->parked; parked != NULL; parked = next)
	{
		next = parked->next;
		if (parked->deadline > now)
			continue;
		refuse_for_now(parked->request, parked->dialect, "message_id_busy",
					   "another transaction holds a message id of this request; send it again");
		unpark(collector, parked);
	}
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

bool
cdi_collect_group(void)
{
	CdiCollector *collector = &cdi_collector;
	CdiHttpRequest *request;
	Job		   *jobs;
	int			njobs = 0;
	int			capacity = 128;
	size_t		bytes = 0;
	bool		any = false;
	int			attempts = MAX_ATTEMPTS;

	MemoryContextReset(collector->group_context);
	MemoryContextSwitchTo(collector->group_context);
	jobs = palloc(sizeof(Job) * capacity);

	if (collector->nparked > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		refuse_late(collector, now);
		if (collector->woken || collector->retry_at <= now)
		{
			collector->retry_at = TimestampTzPlusMilliseconds(now, PARKED_RETRY_MS);
			for (CdiParked *parked = collector->parked; parked != NULL; parked = parked->next)
			{
				if (njobs == capacity)
					jobs = repalloc(jobs, sizeof(Job) * (capacity *= 2));
				memset(&jobs[njobs], 0, sizeof(Job));
				jobs[njobs].parked = parked;
				jobs[njobs++].dialect = parked->dialect;
			}
		}
	}
	collector->woken = false;

	while (njobs < MAX_GROUP_REQUESTS && bytes < MAX_GROUP_BYTES &&
		   (request = cdi_http_next(collector->server)) != NULL)
	{
		any = true;
		if (njobs == capacity)
			jobs = repalloc(jobs, sizeof(Job) * (capacity *= 2));
		if (admit(request, &jobs[njobs]))
			bytes += jobs[njobs++].length;
	}
	if (njobs > 0)
		commit_jobs(collector, jobs, njobs, &attempts);
	return any || njobs > 0;
}

void
cdi_collect_give_up(void)
{
	CdiHttpRequest *request;

	refuse_late(&cdi_collector, DT_NOEND);
	while ((request = cdi_http_next(cdi_collector.server)) != NULL)
		refuse_for_now(request, &cdi_segment_dialect, "shutting_down",
					   "the collector is shutting down; send the request again");
}

bool
cdi_collect_probe(void)
{
	CdiCollector *collector = &cdi_collector;
	volatile bool ok = false;

	PG_TRY();
	{
		begin("checking whether the database can be written");
		cdi_prevent_in_recovery("collector");
		cdi_require_storage();
		(void) GetTopTransactionId();	/* makes the commit write and flush WAL */
		commit(collector);
		ok = true;
	}
	PG_CATCH();
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
	PG_END_TRY();
	MemoryContextSwitchTo(collector->group_context);
	return ok;
}
