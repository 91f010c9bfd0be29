/*
 * original.c
 *		Requests as they came, for the sources that want them kept.
 *
 * One row per request, in the transaction that stores its events.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "collect/job.h"

static Datum
text_or_null(const char *string, bool *null)
{
	*null = string == NULL || *string == '\0' ||
		!pg_verifymbstr(string, strlen(string), true);
	return *null ? (Datum) 0 : CStringGetTextDatum(string);
}

/* Ids of the events that have one */
static Datum
event_ids(const CdiBatch *batch, const CdiJob *job)
{
	Datum	   *ids = palloc(sizeof(Datum) * Max(job->count, 1));
	int			n = 0;

	for (int i = 0; i < job->count; i++)
		if (batch->events[job->first + i].outcome != CDI_FAILED &&
			batch->events[job->first + i].outcome != CDI_WITHHELD)
			ids[n++] = UUIDPGetDatum(&batch->events[job->first + i].event_id);
	return PointerGetDatum(construct_array(ids, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

static const char *
method_name(CdiHttpMethod method)
{
	return method == CDI_HTTP_POST ? "POST" : method == CDI_HTTP_HEAD ? "HEAD" : "GET";
}

static void
store(const CdiBatch *batch, const CdiJob *job)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.original_requests (received_at, source_id, method, path, query,"
		" content_type, content_encoding, body, event_ids) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		.nargs = 9,
		.argtypes = {TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, BYTEAOID, UUIDARRAYOID}
	};
	const CdiRequest *request = &job->request;
	size_t		length = request->http->body ? request->http->length : 0;
	bytea	   *body = palloc(VARHDRSZ + length);
	Datum		values[9];
	char		nulls[9];
	bool		null[9] = {false};

	SET_VARSIZE(body, VARHDRSZ + length);
	if (length > 0)
		memcpy(VARDATA(body), request->http->body, length);
	values[0] = TimestampTzGetDatum(batch->received_at);
	values[1] = Int32GetDatum(request->source_id);
	values[2] = CStringGetTextDatum(method_name(request->method));
	values[3] = text_or_null(request->http->path, &null[3]);
	values[4] = text_or_null(request->http->query, &null[4]);
	values[5] = text_or_null(cdi_request_header(request, "Content-Type"), &null[5]);
	values[6] = text_or_null(cdi_request_header(request, "Content-Encoding"), &null[6]);
	values[7] = PointerGetDatum(body);
	values[8] = event_ids(batch, job);
	if (null[3])
		values[3] = CStringGetTextDatum("");
	for (int i = 0; i < 9; i++)
		nulls[i] = null[i] && i != 3 ? 'n' : ' ';
	cdi_plan_execute(&plan, values, nulls);
	pfree(body);
}

void
cdi_original_store(CdiBatch *batch, const CdiJob *jobs, int n)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (int i = 0; i < n; i++)
	{
		const CdiJob *job = &jobs[i];

		/* What was refused has its bytes in cdi.failed_events. */
		if (job->parked == NULL && job->denied == NULL && job->request.refused_status == 0 &&
			job->count > 0 && cdi_source_by_id(job->request.source_id)->keep_original)
			store(batch, job);
	}
	MemoryContextSwitchTo(old);
}
