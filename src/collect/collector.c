/*
 * collector.c
 *		The collector worker: its loop, what it listens on, and how it ends.
 *
 * One process, no threads.  It waits on its latch, the postmaster and the
 * epoll descriptor of the HTTP server, and has no timer while nothing is
 * going on.  Whatever requests are complete when it wakes become one
 * transaction (group.c); those that arrive while it commits are the next.
 *
 * A database may have several, each with a socket, and groups, of its own.
 * The kernel spreads connections over the sockets, which share the port.  The
 * first collector binds it for itself alone, so that another database or
 * server that has it is noticed; the others join while one of them listens
 * (worker.h: shared memory knows).
 *
 * On SIGTERM it accepts what has already connected and no more, commits and
 * answers what it has for at most two seconds, and ends.  A crash at any point
 * loses nothing that was acknowledged, and whoever got no answer sends again.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "collect/collect.h"
#include "collect/tls.h"
#include "worker/worker.h"

#define DRAIN_MS			2000
#define LISTEN_RETRY_MS		1000
#define DRAIN_LOOK_MS		100

/* Locks are waited for briefly: DDL on the events table stops everyone. */
#define LOCK_TIMEOUT		"3s"

/* Files that the server itself wants to be able to open. */
#define RESERVED_FILES		256
#define MAX_CONNECTIONS		16384

/* Memory for bodies that are being received or wait, at least this. */
#define MIN_BODY_MEMORY		(256 * 1024 * 1024)

CdiCollector cdi_collector;

/* What the server listens on, to notice that a reload changed it. */
static char listening_address[256];
static int	listening_port;
static bool listening_tls;
static TimestampTz tls_tried_at;
static bool tls_complained;		/* the files in use are not the ones wanted */

/*
 * Connections that we may hold open.  The usual soft limit of 1024 files is
 * meant for programs that use select(); we do not.
 */
static unsigned
connection_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 512;
	if (limit.rlim_cur < MAX_CONNECTIONS + RESERVED_FILES)
	{
		struct rlimit wanted = limit;

		wanted.rlim_cur = Min(limit.rlim_max, (rlim_t) (MAX_CONNECTIONS + RESERVED_FILES));
		if (wanted.rlim_cur > limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &wanted) == 0)
			limit = wanted;
	}
	if (limit.rlim_cur <= 2 * RESERVED_FILES)
		return limit.rlim_cur / 2;
	return Min(limit.rlim_cur - RESERVED_FILES, MAX_CONNECTIONS);
}

static void
get_options(CdiHttpOptions *options)
{
	options->address = cdi_collector_address;
	options->port = cdi_collector_port;
	options->trusted_proxies = cdi_collector_trusted_proxies;
	options->timeout_ms = cdi_collector_timeout * 1000;
	options->max_body = (size_t) cdi_collector_max_body * 1024;
	options->max_memory = Max((size_t) MIN_BODY_MEMORY, 8 * options->max_body);
	options->max_pending = cdi_collector_max_pending;
	options->max_connections = connection_limit();
	options->tls_retrieve = listening_tls ? cdi_tls_retrieve() : NULL;
	options->allowed_origins = cdi_collector_allowed_origins;
}

/* For the log: "cdi collector", "cdi collector 2" */
static const char *
own_name(void)
{
	static char name[32] = "cdi collector";

	if (cdi_worker_number() > 1)
		snprintf(name, sizeof(name), "cdi collector %d", cdi_worker_number());
	return name;
}

static bool
want_tls(void)
{
	return (cdi_collector_tls_certificate != NULL && *cdi_collector_tls_certificate != '\0') ||
		(cdi_collector_tls_key != NULL && *cdi_collector_tls_key != '\0');
}

/* Certificate and key as their files are now; true where they can be used. */
static bool
load_tls(void)
{
	char		error[1024];
	char		hint[512];
	bool		changed;

	tls_tried_at = GetCurrentTimestamp();
	if (cdi_tls_load(cdi_collector_tls_certificate ? cdi_collector_tls_certificate : "",
					 cdi_collector_tls_key ? cdi_collector_tls_key : "", &changed,
					 error, sizeof(error), hint, sizeof(hint)))
	{
		if (changed || tls_complained)
			ereport(LOG,
					(errmsg("%s uses certificate \"%s\"", own_name(), cdi_collector_tls_certificate)));
		tls_complained = false;
		return true;
	}
	if (!tls_complained)
		ereport(LOG,
				(errmsg("%s cannot speak TLS: %s", own_name(), error),
				 errdetail("%s", cdi_collector.server != NULL ?
						   "It goes on with the certificate that it has, and keeps trying." :
						   "It does not listen, and keeps trying."),
				 hint[0] != '\0' ? errhint("%s", hint) : 0));
	tls_complained = true;
	return false;
}

static void
open_server(void)
{
	static bool complained = false;
	CdiHttpOptions options;
	char		error[512];

	if (cdi_collector_port == 0)
		return;
	listening_tls = want_tls();
	if (!listening_tls)
		tls_complained = false;
	else if (!load_tls())
		return;
	get_options(&options);
	strlcpy(listening_address, cdi_collector_address ? cdi_collector_address : "",
			sizeof(listening_address));
	listening_port = cdi_collector_port;
	options.join = cdi_worker_listen_begin(listening_address, listening_port);
	cdi_collector.server = cdi_http_start(&options, error, sizeof(error));
	cdi_worker_listen_end(listening_address, cdi_collector.server ? listening_port : 0);
	if (cdi_collector.server == NULL)
	{
		if (!complained)
			ereport(LOG,
					(errmsg("%s cannot listen: %s", own_name(), error),
					 errhint("Give every database its own cdi.collector_port; the collector keeps trying.")));
		complained = true;
		return;
	}
	complained = false;
	ereport(LOG,
			(errmsg("%s listens on \"%s\", port %d%s",
					own_name(), listening_address, cdi_http_port(cdi_collector.server),
					listening_tls ? ", with TLS" : "")));
}

/* Milliseconds until the loop has to go round without being woken. */
static long
loop_timeout(void)
{
	long		timeout = -1;
	long		parked;

	if (cdi_collector.server == NULL)
		return cdi_collector_port == 0 ? -1 : LISTEN_RETRY_MS;
	timeout = cdi_http_timeout(cdi_collector.server);
	parked = cdi_collect_parked_timeout();
	if (parked >= 0 && (timeout < 0 || parked < timeout))
		timeout = parked;
	if (tls_complained && (timeout < 0 || timeout > LISTEN_RETRY_MS))
		timeout = LISTEN_RETRY_MS;
	return timeout;
}

static WaitEventSet *
make_wait_set(void)
{
	return cdi_worker_wait_set(cdi_collector.server != NULL ?
							   cdi_http_fd(cdi_collector.server) : PGINVALID_SOCKET);
}

/* Returns true where the configuration was read anew. */
static bool
wait(WaitEventSet *set, long timeout)
{
	WaitEvent	events[3];
	int			n;

	n = WaitEventSetWait(set, timeout, events, lengthof(events), cdi_worker_wait_event());
	for (int i = 0; i < n; i++)
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			cdi_collector.woken = true;
		}

	/* pg_cancel_backend() has nothing to cancel between two groups. */
	QueryCancelPending = false;
	return cdi_worker_interrupts();
}

/* Read, commit and answer until nobody has anything for us. */
static void
serve(void)
{
	cdi_http_run(cdi_collector.server);
	while (cdi_collect_group())
	{
		cdi_http_run(cdi_collector.server);
		cdi_collect_publish();
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending || ConfigReloadPending)
			break;
	}
	cdi_collect_publish();
}

static void
drain(WaitEventSet *set)
{
	CdiCollector *collector = &cdi_collector;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DRAIN_MS);

	(void) cdi_worker_listen_begin(listening_address, listening_port);
	cdi_http_quiesce(collector->server);
	cdi_worker_listen_end(listening_address, 0);
	for (;;)
	{
		long		left;
		long		timeout;

		cdi_http_run(collector->server);
		while (cdi_collect_group())
			cdi_http_run(collector->server);
		cdi_collect_publish();
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
		if (left <= 0 || !cdi_http_busy(collector->server))
			break;
		timeout = loop_timeout();
		left = Min(left, DRAIN_LOOK_MS);
		(void) wait(set, timeout < 0 ? left : Min(timeout, left));
	}
	cdi_collect_give_up();
	cdi_http_run(collector->server);
	cdi_collect_publish();
	cdi_http_stop(collector->server);
	collector->server = NULL;
	cdi_collect_publish();
}

/* The configuration was read anew. */
static void
apply_settings(WaitEventSet **set)
{
	if (cdi_collector.server != NULL)
	{
		CdiHttpOptions options;

		if (listening_port == cdi_collector_port && listening_tls == want_tls() &&
			strcmp(listening_address, cdi_collector_address ? cdi_collector_address : "") == 0)
		{
			get_options(&options);
			cdi_http_configure(cdi_collector.server, &options);
			if (listening_tls)
				(void) load_tls();
			return;
		}
		drain(*set);
	}
	open_server();
	FreeWaitEventSet(*set);
	*set = make_wait_set();
}

void
cdi_collector_main(Datum arg)
{
	CdiCollector *collector = &cdi_collector;
	WaitEventSet *set;

	if (!cdi_worker_start(CDI_WORKER_COLLECTOR, arg))
		proc_exit(0);
	/* Not die(): acknowledged or not, what is in hand is finished first. */
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);

	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	collector->started_at = GetCurrentTimestamp();
	collector->group_context = AllocSetContextCreate(TopMemoryContext, "cdi collector group",
													 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(TopMemoryContext);
	initStringInfo(&collector->reply);
	open_server();
	cdi_collect_publish();
	set = make_wait_set();

	while (!ShutdownRequestPending)
	{
		if (wait(set, loop_timeout()))
			apply_settings(&set);
		if (collector->server != NULL)
		{
			if (tls_complained && listening_tls &&
				TimestampDifferenceExceeds(tls_tried_at, GetCurrentTimestamp(), LISTEN_RETRY_MS))
				(void) load_tls();
			serve();
		}
		else if (cdi_collector_port != 0)
		{
			open_server();
			FreeWaitEventSet(set);
			set = make_wait_set();
		}
	}
	if (collector->server != NULL)
		drain(set);
	proc_exit(0);
}
