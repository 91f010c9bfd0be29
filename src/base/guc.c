/*
 * guc.c
 *		Every setting of cdi, in alphabetical order.
 *
 * All can be set per database (ALTER DATABASE ... SET), because workers load
 * their database's settings when they connect.
 */
#include "base/base.h"
#include "base/network.h"

#include <ctype.h>
#include <limits.h>

#include "utils/guc.h"

int			cdi_activate_concurrency = 8;
int			cdi_activate_deliveries_retention = 30 * 24 * 60;
bool		cdi_activate_follow_failover = false;
int			cdi_activate_model_timeout = 60 * 60 * 1000;
int			cdi_activate_outbox_retention = 7 * 24 * 60;
int			cdi_activate_retry_delay = 1000;
int			cdi_activate_retry_limit = 8;
int			cdi_activate_retry_max_delay = 5 * 60 * 1000;
int			cdi_attribution_value_timeout = 10 * 1000;
char	   *cdi_collector_address = NULL;
char	   *cdi_collector_allowed_origins = NULL;
char	   *cdi_collector_cookie_domain = NULL;
char	   *cdi_collector_default_source = NULL;
int			cdi_collector_max_body = 4096;
int			cdi_collector_max_pending = 4096;
int			cdi_collector_port = 0;
char	   *cdi_collector_redirect_domains = NULL;
int			cdi_collector_timeout = 30;
char	   *cdi_collector_tls_certificate = NULL;
char	   *cdi_collector_tls_key = NULL;
char	   *cdi_collector_trusted_proxies = NULL;
int			cdi_collector_workers = 1;
bool		cdi_egress_allow_private = false;
bool		cdi_enable_people_scan = true;
bool		cdi_enabled = false;
int			cdi_identity_bulk_threshold = 100000;
int			cdi_identity_normaliser_timeout = 1000;
int			cdi_ingest_dedupe_window = 30 * 24 * 60;
int			cdi_ingest_max_event = 1024;
char	   *cdi_secret_directory = NULL;
char	   *cdi_secret_key_file = NULL;

/* It goes into a header. */
static bool
check_cookie_domain(char **value, void **extra, GucSource source)
{
	for (const char *c = *value; *c != '\0'; c++)
		if (!isalnum((unsigned char) *c) && *c != '.' && *c != '-')
		{
			GUC_check_errdetail("A domain has letters, digits, points and hyphens.");
			return false;
		}
	return true;
}

static bool
check_networks(char **value, void **extra, GucSource source)
{
	CdiNetworks networks;
	char		error[160];

	if (cdi_networks_parse(*value, &networks, error, sizeof(error)))
		return true;
	GUC_check_errdetail("%s", error);
	return false;
}

void
cdi_guc_define(void)
{
	DefineCustomIntVariable("cdi.activate_concurrency",
							"Requests in flight to one destination at a time.",
							NULL, &cdi_activate_concurrency,
							8, 1, 256, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_deliveries_retention",
							"Time that requests and runs of syncs are kept on record; -1 keeps them.",
							NULL, &cdi_activate_deliveries_retention,
							30 * 24 * 60, -1, INT_MAX, PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("cdi.activate_follow_failover",
							 "Lets a promoted standby push without being armed again.",
							 "A copy made by pg_basebackup cannot be told from a standby; with this on it pushes, too.",
							 &cdi_activate_follow_failover,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_model_timeout",
							"Time that the model of a sync may run; 0 sets no limit.",
							NULL, &cdi_activate_model_timeout,
							60 * 60 * 1000, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_outbox_retention",
							"Time that queued rows are kept after they ended; -1 keeps them.",
							NULL, &cdi_activate_outbox_retention,
							7 * 24 * 60, -1, INT_MAX, PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_retry_delay",
							"Wait before a failed request is sent again; it doubles with every attempt.",
							NULL, &cdi_activate_retry_delay,
							1000, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_retry_limit",
							"Attempts after which a row that cannot be delivered becomes a dead letter.",
							NULL, &cdi_activate_retry_limit,
							8, 1, 1000, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.activate_retry_max_delay",
							"Longest wait between two attempts, unless the destination asks for more.",
							NULL, &cdi_activate_retry_max_delay,
							5 * 60 * 1000, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.attribution_value_timeout",
							"Time that a conversion's value expression may take for a thousand events; 0: any.",
							NULL, &cdi_attribution_value_timeout,
							10 * 1000, 0, INT_MAX / 1000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_address",
							   "Address that the HTTP collector listens on.",
							   NULL, &cdi_collector_address,
							   "127.0.0.1", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_allowed_origins",
							   "Origins whose pages may send events, as patterns separated by commas.",
							   "For example https://shop.example, https://*.shop.example. A source can have a list of its own.",
							   &cdi_collector_allowed_origins,
							   "*", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_cookie_domain",
							   "Domain of the cookies that the collector sets.",
							   "Without it a cookie belongs to the collector's own host.",
							   &cdi_collector_cookie_domain,
							   "", PGC_SUSET, 0, check_cookie_domain, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_default_source",
							   "Source of requests in a protocol without write keys that name none that is known.",
							   NULL, &cdi_collector_default_source,
							   "", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.collector_max_body",
							"Largest request body that the collector takes, before and after decompression.",
							NULL, &cdi_collector_max_body,
							4096, 1, 256 * 1024, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.collector_max_pending",
							"Requests that may wait for a commit; further ones are answered 503.",
							NULL, &cdi_collector_max_pending,
							4096, 1, 1000000, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.collector_port",
							"Port of the HTTP collector; 0 turns it off.",
							NULL, &cdi_collector_port,
							0, 0, 65535, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_redirect_domains",
							   "Hosts that the collector redirects to, separated by commas; *.example.com stands for all below example.com.",
							   "Empty: it redirects nowhere.",
							   &cdi_collector_redirect_domains,
							   "", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.collector_timeout",
							"Time after which the collector closes an inactive connection.",
							NULL, &cdi_collector_timeout,
							30, 1, 3600, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_tls_certificate",
							   "File with the certificate that the collector speaks TLS with.",
							   "PEM, with the chain behind it. A relative path is below the data directory. Empty: plain HTTP.",
							   &cdi_collector_tls_certificate,
							   "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_tls_key",
							   "File with the private key of cdi.collector_tls_certificate.",
							   "PEM, not encrypted, and readable by nobody but the server.",
							   &cdi_collector_tls_key,
							   "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.collector_trusted_proxies",
							   "Addresses and networks of proxies whose X-Forwarded-For is believed.",
							   "Separated by commas, for example 10.0.0.0/8, 2001:db8::/32.",
							   &cdi_collector_trusted_proxies,
							   "", PGC_SUSET, 0, check_networks, NULL, NULL);
	DefineCustomIntVariable("cdi.collector_workers",
							"Collectors of a database, which share its port.",
							"Each is a process and needs one of max_worker_processes.",
							&cdi_collector_workers,
							1, 1, 64, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("cdi.egress_allow_private",
							 "Allows requests to loopback, private and link-local addresses.",
							 "Addresses of cloud metadata services stay refused.",
							 &cdi_egress_allow_private,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("cdi.enable_people_scan",
							 "Lets the planner use cdi's own node for aggregates over the events of people.",
							 NULL, &cdi_enable_people_scan,
							 true, PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("cdi.enabled",
							 "Lets the workers of cdi run in a database. Set by cdi_init().",
							 NULL, &cdi_enabled,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.identity_bulk_threshold",
							"New links from which cdi_resolve() writes a new map instead of changing the old one.",
							NULL, &cdi_identity_bulk_threshold,
							100000, 1, INT_MAX, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.identity_normaliser_timeout",
							"Time that a SQL function may take to normalise identifiers of one batch; 0: any.",
							"A value that takes longer identifies nobody.",
							&cdi_identity_normaliser_timeout,
							1000, 0, INT_MAX / 1000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.ingest_dedupe_window",
							"Time for which a message id is remembered, at least.",
							NULL, &cdi_ingest_dedupe_window,
							30 * 24 * 60, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("cdi.ingest_max_event",
							"Largest single event.",
							NULL, &cdi_ingest_max_event,
							1024, 1, 256 * 1024, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.secret_directory",
							   "Directory below which file: references to secrets are read.",
							   NULL, &cdi_secret_directory,
							   "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("cdi.secret_key_file",
							   "File with the 32 bytes of the key that secrets in the database are encrypted with.",
							   NULL, &cdi_secret_key_file,
							   "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	MarkGUCPrefixReserved("cdi");
}
