/*
 * metrics.c
 *		/metrics in OpenMetrics text, and /health.
 *
 * The collector's own numbers are of its process and start at zero with it,
 * as counters of this kind may.  The pipeline's come from its accounts in the
 * database and survive everything.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "collect/collect.h"
#include "worker/worker.h"

/* Upper bounds of the histogram of commit times, seconds */
static const double bounds[CDI_COMMIT_BUCKETS] = {
	0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5
};

/* A failed probe is not repeated for this long. */
#define PROBE_INTERVAL_MS	1000

void
cdi_collect_time_commit(double seconds)
{
	int			i = 0;

	while (i < CDI_COMMIT_BUCKETS && seconds > bounds[i])
		i++;
	cdi_collector.commit_buckets[i]++;
	cdi_collector.commit_seconds += seconds;
	cdi_collector.commits++;
}

static void
family(StringInfo out, const char *name, const char *type, const char *help)
{
	appendStringInfo(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void
gauge(StringInfo out, const char *name, const char *help, uint64 value)
{
	family(out, name, "gauge", help);
	appendStringInfo(out, "%s " UINT64_FORMAT "\n", name, value);
}

static void
counter(StringInfo out, const char *name, const char *help, uint64 value)
{
	family(out, name, "counter", help);
	appendStringInfo(out, "%s_total " UINT64_FORMAT "\n", name, value);
}

static void
append_label(StringInfo out, const char *value)
{
	appendStringInfoChar(out, '"');
	for (; *value != '\0'; value++)
	{
		if (*value == '\n')
			appendStringInfoString(out, "\\n");
		else
		{
			if (*value == '"' || *value == '\\')
				appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, *value);
		}
	}
	appendStringInfoChar(out, '"');
}

static void
append_collector(StringInfo out)
{
	CdiCollector *collector = &cdi_collector;
	const CdiHttpStats *http = cdi_http_stats(collector->server);
	uint64		sum = 0;

	family(out, "cdi_collector_answers", "counter", "HTTP answers by class of status.");
	for (int i = 2; i <= 5; i++)
		appendStringInfo(out, "cdi_collector_answers_total{class=\"%dxx\"} " UINT64_FORMAT "\n",
						 i, (uint64) http->answers[i]);
	counter(out, "cdi_collector_body_bytes", "Bytes of request bodies received.", http->body_bytes);
	counter(out, "cdi_collector_connections_accepted", "Connections accepted.", http->accepted);
	gauge(out, "cdi_collector_connections", "Connections open now.", http->connections);
	gauge(out, "cdi_collector_pending_requests", "Requests received and not yet answered.", http->pending);
	gauge(out, "cdi_collector_parked_requests",
		  "Requests that wait for a transaction that holds one of their message ids.", collector->nparked);
	gauge(out, "cdi_collector_body_memory_bytes", "Memory held by request bodies.", http->memory);
	counter(out, "cdi_collector_timeouts", "Requests cut off by cdi.collector_timeout.", http->timeouts);
	counter(out, "cdi_collector_overloads", "Requests answered 503 by cdi.collector_max_pending.", http->overloads);
	counter(out, "cdi_collector_aborts", "Requests whose client went away before the answer.", http->aborts);
	counter(out, "cdi_collector_refused_keys", "Requests answered 401.", collector->refused_keys);
	counter(out, "cdi_collector_parked_events", "Events whose message id another transaction held.", collector->parked_total);
	counter(out, "cdi_collector_events", "Events in committed groups, whatever became of them.", collector->events);
	counter(out, "cdi_collector_commit_failures", "Transactions of the collector that failed.", collector->commit_failures);

	family(out, "cdi_collector_commit_seconds", "histogram",
		   "Time of one group's transaction, from its begin to its commit.");
	for (int i = 0; i < CDI_COMMIT_BUCKETS; i++)
	{
		sum += collector->commit_buckets[i];
		appendStringInfo(out, "cdi_collector_commit_seconds_bucket{le=\"%g\"} " UINT64_FORMAT "\n",
						 bounds[i], sum);
	}
	appendStringInfo(out, "cdi_collector_commit_seconds_bucket{le=\"+Inf\"} " UINT64_FORMAT "\n",
					 collector->commits);
	appendStringInfo(out, "cdi_collector_commit_seconds_count " UINT64_FORMAT "\n", collector->commits);
	appendStringInfo(out, "cdi_collector_commit_seconds_sum %.6f\n", collector->commit_seconds);
}

/* The pipeline's accounts; nothing where the database does not answer. */
static bool
append_pipeline(StringInfo out)
{
	static CdiPlan plan = {
		.query = "SELECT source, received::text, stored::text, duplicate::text, failed::text, withheld::text"
		" FROM cdi.pipeline_counts ORDER BY source"
	};
	static const char *const outcomes[] = {"stored", "duplicate", "failed", "withheld"};
	volatile bool ok = false;
	int			length = out->len;

	PG_TRY();
	{
		cdi_worker_begin("cdi: count events");
		cdi_plan_execute(&plan, NULL, NULL);
		family(out, "cdi_events_received", "counter", "Events received, per source.");
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[row];
			TupleDesc	desc = SPI_tuptable->tupdesc;

			appendStringInfoString(out, "cdi_events_received_total{source=");
			append_label(out, SPI_getvalue(tuple, desc, 1));
			appendStringInfo(out, "} %s\n", SPI_getvalue(tuple, desc, 2));
		}
		family(out, "cdi_events", "counter", "What became of the events received, per source.");
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[row];
			TupleDesc	desc = SPI_tuptable->tupdesc;

			for (int i = 0; i < lengthof(outcomes); i++)
			{
				appendStringInfoString(out, "cdi_events_total{source=");
				append_label(out, SPI_getvalue(tuple, desc, 1));
				appendStringInfo(out, ",outcome=\"%s\"} %s\n", outcomes[i],
								 SPI_getvalue(tuple, desc, 3 + i));
			}
		}
		cdi_worker_commit();
		ok = true;
	}
	PG_CATCH();
	{
		cdi_worker_catch();
		out->len = length;
		out->data[length] = '\0';
	}
	PG_END_TRY();
	return ok;
}

void
cdi_collect_metrics(StringInfo out)
{
	bool		up = append_pipeline(out);

	gauge(out, "cdi_database_up", "Whether the pipeline's accounts could be read just now.", up);
	gauge(out, "cdi_collector_last_commit_ok", "Whether the last transaction of the collector committed.",
		  !cdi_collector.database_known || cdi_collector.database_ok);
	append_collector(out);
	appendStringInfoString(out, "# EOF\n");
}

/*
 * Healthy means that the last transaction committed.  Only where none was
 * tried yet or the last one failed, one is made for the purpose, so that a
 * load balancer that turned away from us hears that we are back.
 */
bool
cdi_collect_health(StringInfo out)
{
	CdiCollector *collector = &cdi_collector;

	if (!collector->database_known || !collector->database_ok)
	{
		TimestampTz now = GetCurrentTimestamp();

		if (TimestampDifferenceExceeds(collector->probed_at, now, PROBE_INTERVAL_MS))
		{
			collector->probed_at = now;
			(void) cdi_collect_probe();
		}
	}
	if (collector->database_ok)
		appendStringInfoString(out, "{\"status\":\"ok\"}");
	else
		appendStringInfoString(out, "{\"status\":\"unavailable\",\"code\":\"database_unavailable\","
							   "\"message\":\"the database cannot be written now\"}");
	return collector->database_ok;
}
