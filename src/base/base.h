/*
 * base.h
 *		What every layer shares: settings, text slices, running SQL as the
 *		owner of the data.
 */
#ifndef CDI_BASE_H
#define CDI_BASE_H

#include "postgres.h"

#include "utils/inval.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* A slice of text, not NUL-terminated.  data == NULL means SQL NULL. */
typedef struct CdiText
{
	const char *data;
	int			len;
} CdiText;

/* guc.c: settings, alphabetical */
extern int	cdi_activate_concurrency;
extern int	cdi_activate_deliveries_retention;
extern bool cdi_activate_follow_failover;
extern int	cdi_activate_model_timeout;
extern int	cdi_activate_outbox_retention;
extern int	cdi_activate_retry_delay;
extern int	cdi_activate_retry_limit;
extern int	cdi_activate_retry_max_delay;
extern int	cdi_attribution_value_timeout;
extern char *cdi_collector_address;
extern char *cdi_collector_allowed_origins;
extern char *cdi_collector_cookie_domain;
extern char *cdi_collector_default_source;
extern int	cdi_collector_max_body;
extern int	cdi_collector_max_pending;
extern int	cdi_collector_port;
extern char *cdi_collector_redirect_domains;
extern int	cdi_collector_timeout;
extern char *cdi_collector_tls_certificate;
extern char *cdi_collector_tls_key;
extern char *cdi_collector_trusted_proxies;
extern int	cdi_collector_workers;
extern bool cdi_egress_allow_private;
extern bool cdi_enable_people_scan;
extern bool cdi_enabled;
extern int	cdi_identity_bulk_threshold;
extern int	cdi_identity_normaliser_timeout;
extern int	cdi_ingest_dedupe_window;
extern int	cdi_ingest_max_event;
extern char *cdi_secret_directory;
extern char *cdi_secret_key_file;

extern void cdi_guc_define(void);

/*
 * owner.c: run SPI as the owner of the data, security-restricted, with
 * search_path pinned.  The data's owner is the owner of schema cdi.  Use as
 *
 *		CdiOwnerScope scope;
 *
 *		cdi_owner_enter(&scope);
 *		... SPI ...
 *		cdi_owner_leave(&scope);
 *
 * An error between the two needs no cleanup: transaction abort restores user
 * and settings.  Code that catches errors itself runs the part between the
 * two in a subtransaction.
 */
typedef struct CdiOwnerScope
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
} CdiOwnerScope;

extern void cdi_owner_enter(CdiOwnerScope *scope);
extern void cdi_owner_leave(CdiOwnerScope *scope);

/* Raises ZC001 with a hint unless cdi_init() has run in this database. */
extern void cdi_require_storage(void);

/* Oid of relation cdi.<name>, InvalidOid where it does not exist.  Looked up
 * anew on every call (two syscache probes). */
extern Oid	cdi_relation_oid(const char *name);

/* Name of the schema that the extension's functions are in. */
extern char *cdi_extension_schema(void);

/* What called a trigger function, which is that of cdi.<relation>: raises 39P01
 * anywhere else, for who may execute the function can call it, and put it on
 * tables whose columns are not those that it reads.  NULL is any relation. */
extern struct TriggerData *cdi_trigger_of(FunctionCallInfo fcinfo, const char *relation);

/* Raises 25006 on a standby: for everything that writes. */
extern void cdi_prevent_in_recovery(const char *function_name);

/* invalidation.c: has the callback called with each relation that changes, or
 * with InvalidOid for any, whenever the server asks for changes: as any table is
 * opened.  A callback only takes notes; what it clears may be in use.  Once per
 * callback, however often it is said. */
extern void cdi_invalidation_register(RelcacheCallbackFunction callback);

/* plan.c: a prepared statement kept for the life of the backend */
typedef struct CdiPlan
{
	const char *query;
	int			nargs;
	Oid			argtypes[40];
	struct _SPI_plan *plan;
} CdiPlan;

/* Prepares on first use (SPI must be connected), executes, returns the SPI
 * result code; raises when it is negative.  The current memory context stays. */
extern int	cdi_plan_execute(CdiPlan *plan, Datum *values, const char *nulls);

/* The same for a query that changes nothing: reads by the active snapshot. */
extern int	cdi_plan_read(CdiPlan *plan, Datum *values);

/* The same for a query without parameters that fills a cache: it reads what is
 * committed now, whatever snapshot the caller's transaction works with. */
extern int	cdi_plan_execute_latest(CdiPlan *plan);

/* Arrays as parameters of a statement over many rows */
extern Datum cdi_int8_array(Datum *values, int n);
extern Datum cdi_timestamptz_array(Datum *values, int n);
extern Datum cdi_uuid_array(Datum *values, int n);
extern pg_uuid_t *cdi_uuids(Datum array, int *n);

#endif							/* CDI_BASE_H */
