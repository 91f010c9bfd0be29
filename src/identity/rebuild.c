/*
 * rebuild.c
 *		Make the identity map anew from the links, in the order on record.
 *
 * The map is a function of the history (history.c): what comes out is the map
 * that is there, unless links have gone since or someone has changed it by
 * hand, or today's rules are to count for all of history.  Then today's limits
 * go on record for every run, and identifiers that are blocked now are revoked
 * in all that has been folded, so that what comes later agrees with it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "identity/spill.h"

static void
execute(const char *query)
{
	if (SPI_execute(query, false, 0) < 0)
		elog(ERROR, "could not execute statement: %s", query);
}

static void
rewrite_rules(void)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_rules (first_run, limits) VALUES (0, $1)",
		.nargs = 1,.argtypes = {JSONBOID}
	};

	execute("DELETE FROM cdi.identity_rules");
	cdi_plan_execute(&plan, (Datum[]) {JsonbPGetDatum(cdi_limits_to_jsonb(cdi_limits_now()))}, NULL);
	execute("INSERT INTO cdi.identity_revocations (kind, identifier, until_run, revoked_by, reason)"
			" SELECT 'blocked', b.identifier, r.run, session_user, 'its value is blocked'"
			" FROM cdi._blocked_identifiers() AS b (identifier), (SELECT max(run) AS run FROM cdi.identity_runs) r"
			" WHERE r.run IS NOT NULL AND NOT EXISTS (SELECT FROM cdi.identity_revocations v"
			" WHERE v.identifier = b.identifier AND v.position IS NULL AND v.until_run >= r.run)");
}

static int64
rebuild(void)
{
	CdiGraph   *graph = cdi_graph_create(CurrentMemoryContext);
	CdiSpill   *spill = NULL;
	CdiHistory *history;
	int64		identifiers;

	(void) cdi_push_snapshot();
	history = cdi_history_open();
	/* merges are on record since they happened */
	while (spill == NULL ? cdi_history_fold(history, graph) : cdi_history_spill(history, spill))
		if (spill == NULL && cdi_spill_needed(graph->count))
		{
			spill = cdi_spill_begin(CurrentMemoryContext);
			cdi_spill_put_graph(spill, graph);
		}
	if (spill != NULL)
		cdi_spill_fold(spill, NULL);
	cdi_history_close(history);
	PopActiveSnapshot();

	identifiers = spill != NULL ? cdi_spill_identifiers(spill) : graph->count;
	if (!(spill != NULL ? cdi_spill_replace(spill) : cdi_map_replace(graph)))
	{
		execute("DELETE FROM cdi.identity_map");
		if (spill != NULL)
			cdi_spill_update(spill);
		else
			cdi_map_update(graph);
	}
	if (spill != NULL)
		cdi_spill_end(spill);
	else
		cdi_graph_destroy(graph);
	return identifiers;
}

PG_FUNCTION_INFO_V1(cdi_rebuild_identity);

Datum
cdi_rebuild_identity(PG_FUNCTION_ARGS)
{
	bool		current_rules = PG_GETARG_BOOL(0);
	CdiOwnerScope scope;
	int64		identifiers;

	cdi_prevent_in_recovery("cdi_rebuild_identity");
	PreventCommandIfReadOnly("cdi_rebuild_identity()");
	PreventCommandIfParallelMode("cdi_rebuild_identity()");
	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_resolver_lock();
	if (current_rules)
		rewrite_rules();
	identifiers = rebuild();
	cdi_resolver_mark();
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(identifiers);
}
