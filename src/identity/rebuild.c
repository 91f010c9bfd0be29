/*
 * rebuild.c
 *		Make the identity map anew from the links, in the order on record.
 *
 * The map is a function of that order: what comes out is the map that is
 * there, unless links have gone since or someone has changed it by hand.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "identity/identity.h"

/*
 * A link was folded by the run that cdi.identity_ahead names, or else by the
 * first run whose watermark reached it.  Links that no run has folded yet are
 * left to cdi_resolve().
 */
static const char *const folded_links =
"WITH marks AS MATERIALIZED ("
" SELECT array_agg(watermark ORDER BY run) AS watermarks, array_agg(run ORDER BY run) AS runs"
" FROM cdi.identity_runs)"
"SELECT l.position, l.linked_at, l.identifiers, r.first_fold"
" FROM marks CROSS JOIN cdi.identity_links l"
" LEFT JOIN cdi.identity_ahead a USING (position)"
" JOIN cdi.identity_runs r"
" ON r.run = coalesce(a.run, marks.runs[width_bucket(l.position - 1, marks.watermarks) + 1])"
" ORDER BY r.run, l.position";

static int64
rebuild(void)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext batch_context = AllocSetContextCreate(context, "cdi links",
														ALLOCSET_DEFAULT_SIZES);
	CdiGraph   *graph = cdi_graph_create(context);
	CdiMerges	merges = {0};
	CdiLinkBatch batch;
	SPIPlanPtr	plan;
	Portal		portal;
	int64		run_fold = 0;
	int64		fold = 0;
	int64		identifiers;

	cdi_links_batch_init(&batch, CDI_LINK_BATCH);
	merges.capacity = 1024;
	merges.merges = palloc(sizeof(CdiMerge) * merges.capacity);

	plan = SPI_prepare(folded_links, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	for (;;)
	{
		uint32	   *nodes;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, CDI_LINK_BATCH);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(batch_context);
		batch.count = 0;
		batch.nkeys = 0;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		isnull;

			cdi_links_append(&batch,
							 DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
							 DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull)),
							 SPI_getbinval(tuple, desc, 3, &isnull));
		}
		nodes = palloc_extended(sizeof(uint32) * Max(batch.nkeys, 1), MCXT_ALLOC_HUGE);
		cdi_graph_add(graph, batch.keys, batch.nkeys, nodes);
		for (int i = 0; i < batch.count; i++)
		{
			bool		isnull;
			int64		first_fold = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
																 SPI_tuptable->tupdesc, 4, &isnull));

			fold = first_fold == run_fold ? fold + 1 : first_fold;
			run_fold = first_fold;
			cdi_graph_fold(graph, &batch.links[i], nodes + batch.links[i].first, fold, &merges);
		}
		/* merges are on record since they happened */
		merges.count = 0;
		MemoryContextSwitchTo(context);
		MemoryContextReset(batch_context);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);

	identifiers = graph->count;
	if (!cdi_map_replace(graph))
	{
		if (SPI_execute("DELETE FROM cdi.identity_map", false, 0) < 0)
			elog(ERROR, "could not empty cdi.identity_map");
		cdi_map_update(graph);
	}
	cdi_graph_destroy(graph);
	MemoryContextDelete(batch_context);
	return identifiers;
}

PG_FUNCTION_INFO_V1(cdi_rebuild_identity);

Datum
cdi_rebuild_identity(PG_FUNCTION_ARGS)
{
	CdiOwnerScope scope;
	int64		identifiers;

	cdi_prevent_in_recovery("cdi_rebuild_identity");
	PreventCommandIfReadOnly("cdi_rebuild_identity()");
	PreventCommandIfParallelMode("cdi_rebuild_identity()");
	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_resolver_lock();
	identifiers = rebuild();
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(identifiers);
}
