/*
 * metrics.c
 *		/metrics in OpenMetrics text, and /health.
 *
 * Every collector writes its numbers into its slot in shared memory, where
 * each of them finds those of all.  A collector that is started again goes on
 * from what its slot holds; they start at zero with the server, as counters
 * of this kind may.  The pipeline's come from its accounts in the database and
 * survive everything.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "collect/collect.h"
#include "collect/limit.h"
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

/*
 * What is counted.  The first ones are the HTTP server's, and start at zero
 * with every socket.
 */
typedef enum Number
{
	ANSWERS_2XX,
	ANSWERS_3XX,
	ANSWERS_4XX,
	ANSWERS_5XX,
	BODY_BYTES,
	ACCEPTED,
	CONNECTIONS,
	PENDING,
	MEMORY,
	TIMEOUTS,
	OVERLOADS,
	ABORTS,
	HTTP_NUMBERS,
	PARKED_REQUESTS = HTTP_NUMBERS,
	REFUSED_KEYS,
	PARKED_EVENTS,
	EVENTS,
	COMMIT_FAILURES,
	LAST_COMMIT_OK,
	NUMBERS,

	/* shown as a histogram */
	BUCKETS = NUMBERS,
	COMMIT_NANOSECONDS = BUCKETS + CDI_COMMIT_BUCKETS + 1,
	ALL_NUMBERS
} Number;

StaticAssertDecl(ALL_NUMBERS <= CDI_WORKER_STATS, "a slot has room for all numbers");

/* Numbers of one family stand together. */
static const struct
{
	const char *family;
	const char *label;
	bool		gauge;
	const char *help;
}			descriptions[NUMBERS] = {
	[ANSWERS_2XX] = {"cdi_collector_answers", "class=\"2xx\",", false, "HTTP answers by class of status."},
	[ANSWERS_3XX] = {"cdi_collector_answers", "class=\"3xx\",", false, NULL},
	[ANSWERS_4XX] = {"cdi_collector_answers", "class=\"4xx\",", false, NULL},
	[ANSWERS_5XX] = {"cdi_collector_answers", "class=\"5xx\",", false, NULL},
	[BODY_BYTES] = {"cdi_collector_body_bytes", "", false, "Bytes of request bodies received."},
	[ACCEPTED] = {"cdi_collector_connections_accepted", "", false, "Connections accepted."},
	[CONNECTIONS] = {"cdi_collector_connections", "", true, "Connections open now."},
	[PENDING] = {"cdi_collector_pending_requests", "", true, "Requests received and not yet answered."},
	[MEMORY] = {"cdi_collector_body_memory_bytes", "", true, "Memory held by request bodies."},
	[TIMEOUTS] = {"cdi_collector_timeouts", "", false, "Requests cut off by cdi.collector_timeout."},
	[OVERLOADS] = {"cdi_collector_overloads", "", false, "Requests answered 503 by cdi.collector_max_pending."},
	[ABORTS] = {"cdi_collector_aborts", "", false, "Requests whose client went away before the answer."},
	[PARKED_REQUESTS] = {"cdi_collector_parked_requests", "", true,
	"Requests that wait for a transaction that holds one of their message ids."},
	[REFUSED_KEYS] = {"cdi_collector_refused_keys", "", false, "Requests answered 401."},
	[PARKED_EVENTS] = {"cdi_collector_parked_events", "", false, "Events whose message id another transaction held."},
	[EVENTS] = {"cdi_collector_events", "", false, "Events in committed groups, whatever became of them."},
	[COMMIT_FAILURES] = {"cdi_collector_commit_failures", "", false, "Transactions of the collector that failed."},
	[LAST_COMMIT_OK] = {"cdi_collector_last_commit_ok", "", true, "Whether the last transaction of the collector committed."}
};

static void
gather(uint64 *values)
{
	CdiCollector *collector = &cdi_collector;

	memset(values, 0, sizeof(uint64) * ALL_NUMBERS);
	if (collector->server != NULL)
	{
		const CdiHttpStats *http = cdi_http_stats(collector->server);

		for (int i = 2; i <= 5; i++)
			values[ANSWERS_2XX + i - 2] = http->answers[i];
		values[BODY_BYTES] = http->body_bytes;
		values[ACCEPTED] = http->accepted;
		values[CONNECTIONS] = http->connections;
		values[PENDING] = http->pending;
		values[MEMORY] = http->memory;
		values[TIMEOUTS] = http->timeouts;
		values[OVERLOADS] = http->overloads;
		values[ABORTS] = http->aborts;
	}
	values[PARKED_REQUESTS] = collector->nparked;
	values[REFUSED_KEYS] = collector->refused_keys;
	values[PARKED_EVENTS] = collector->parked_total;
	values[EVENTS] = collector->events;
	values[COMMIT_FAILURES] = collector->commit_failures;
	values[LAST_COMMIT_OK] = !collector->database_known || collector->database_ok;
	for (int i = 0; i <= CDI_COMMIT_BUCKETS; i++)
		values[BUCKETS + i] = collector->commit_buckets[i];
	values[COMMIT_NANOSECONDS] = (uint64) (collector->commit_seconds * 1e9);
}

void
cdi_collect_publish(void)
{
	static uint64 last[ALL_NUMBERS];
	pg_atomic_uint64 *shown = cdi_worker_stats();
	uint64		values[ALL_NUMBERS];

	gather(values);
	if (cdi_collector.server == NULL)
		memset(last, 0, sizeof(uint64) * HTTP_NUMBERS);
	for (int i = 0; i < ALL_NUMBERS; i++)
	{
		if (i < NUMBERS && descriptions[i].gauge)
			pg_atomic_write_u64(&shown[i], values[i]);
		else if (values[i] != last[i])
			pg_atomic_write_u64(&shown[i], pg_atomic_read_u64(&shown[i]) + values[i] - last[i]);
		last[i] = values[i];
	}
}

static void
append_histogram(StringInfo out, const CdiWorkerStats *stats)
{
	uint64		sum = 0;

	for (int i = 0; i <= CDI_COMMIT_BUCKETS; i++)
	{
		sum += stats->values[BUCKETS + i];
		appendStringInfo(out, "cdi_collector_commit_seconds_bucket{worker=\"%d\",le=\"", stats->number);
		if (i < CDI_COMMIT_BUCKETS)
			appendStringInfo(out, "%g", bounds[i]);
		else
			appendStringInfoString(out, "+Inf");
		appendStringInfo(out, "\"} " UINT64_FORMAT "\n", sum);
	}
	appendStringInfo(out, "cdi_collector_commit_seconds_count{worker=\"%d\"} " UINT64_FORMAT "\n",
					 stats->number, sum);
	appendStringInfo(out, "cdi_collector_commit_seconds_sum{worker=\"%d\"} %.6f\n",
					 stats->number, stats->values[COMMIT_NANOSECONDS] / 1e9);
}

/* All collectors of the database */
static void
append_collectors(StringInfo out)
{
	CdiWorkerStats *stats;
	int			n;

	cdi_collect_publish();
	n = cdi_worker_read_stats(&stats);
	family(out, "cdi_collector_up", "gauge", "Whether the collector runs.");
	for (int k = 0; k < n; k++)
		appendStringInfo(out, "cdi_collector_up{worker=\"%d\"} %d\n", stats[k].number, stats[k].running);
	for (int i = 0; i < NUMBERS; i++)
	{
		bool		gauge = descriptions[i].gauge;

		if (descriptions[i].help != NULL)
			family(out, descriptions[i].family, gauge ? "gauge" : "counter", descriptions[i].help);
		for (int k = 0; k < n; k++)
			appendStringInfo(out, "%s%s{%sworker=\"%d\"} " UINT64_FORMAT "\n",
							 descriptions[i].family, gauge ? "" : "_total",
							 descriptions[i].label, stats[k].number,
							 gauge && !stats[k].running ? 0 : stats[k].values[i]);
	}
	family(out, "cdi_collector_commit_seconds", "histogram",
		   "Time of one group's transaction, from its begin to its commit.");
	for (int k = 0; k < n; k++)
		append_histogram(out, &stats[k]);
	pfree(stats);
}

/*
 * Requests per source.  SPI's current result has id and name of every source.
 */
static void
append_activity(StringInfo out)
{
	static const char *const outcomes[] = {"accepted", "refused", "rate_limited", "too_large", "unavailable"};
	CdiActivity *activity;
	int			n = cdi_limit_activity(&activity);
	char	  **names = palloc0(sizeof(char *) * Max(n, 1));

	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int32		source_id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));

		for (int i = 0; i < n; i++)
			if (activity[i].source_id == source_id)
				names[i] = SPI_getvalue(tuple, desc, 2);
	}
	for (int metric = 0; metric < 3; metric++)
	{
		static const char *const families[] = {"cdi_source_requests", "cdi_source_body_bytes", "cdi_source_answers"};
		static const char *const helps[] = {
			"Requests that named the source and were answered.",
			"Bytes of the bodies of these requests.",
			"Answers to these requests, by outcome."
		};

		family(out, families[metric], "counter", helps[metric]);
		for (int i = 0; i < n; i++)
		{
			uint64		numbers[] = {activity[i].accepted, activity[i].refused, activity[i].rate_limited,
			activity[i].too_large, activity[i].unavailable};

			if (names[i] == NULL)	/* a source that is gone */
				continue;
			for (int k = 0; k < (metric == 2 ? lengthof(outcomes) : 1); k++)
			{
				appendStringInfo(out, "%s_total{source=", families[metric]);
				append_label(out, names[i]);
				if (metric == 2)
					appendStringInfo(out, ",outcome=\"%s\"} " UINT64_FORMAT "\n", outcomes[k], numbers[k]);
				else
					appendStringInfo(out, "} " UINT64_FORMAT "\n",
									 metric == 0 ? activity[i].requests : activity[i].body_bytes);
			}
		}
	}
}

/* The pipeline's accounts; nothing where the database does not answer. */
static bool
append_pipeline(StringInfo out)
{
	static CdiPlan plan = {
		.query = "SELECT source, received::text, stored::text, duplicate::text, failed::text, withheld::text"
		" FROM cdi.pipeline_counts ORDER BY source"
	};
	static CdiPlan sources = {
		.query = "SELECT source_id, name FROM cdi.sources"
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
		cdi_plan_execute(&sources, NULL, NULL);
		append_activity(out);
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

	family(out, "cdi_database_up", "gauge", "Whether the pipeline's accounts could be read just now.");
	appendStringInfo(out, "cdi_database_up %d\n", up);
	append_collectors(out);
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
