/*
 * resolve.c
 *		Fold new links into the identity map.
 *
 * One resolver runs per database at a time: it holds an advisory lock until
 * its transaction ends.  It takes every link that its snapshot shows and that
 * no run has folded, in order of position, and numbers them on from the last
 * run.  That order is on record: a run folds what lies above the watermark of
 * the run before, except what cdi.identity_ahead says was folded earlier.
 * Folding depends on that order only and never on where one run ends and the
 * next begins.  A crash before commit leaves the links unfolded.
 *
 * Below the watermark nothing can still appear, so the next run starts
 * reading there.  A link that commits late lies above the watermark of every
 * run that could not see it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "identity/spill.h"
#include "ingest/ingest.h"

/* Fourth field of the lock tag, as POSITION_LOCK_CLASS in ingest/position.c */
#define RESOLVER_LOCK_CLASS	206

/*
 * A new map is written where it gets at least this fraction of its rows from
 * the run's links, so to speak: below, changing the old one is cheaper.
 */
#define BULK_FRACTION		0.25

/* Columns of cdi.identity_runs */
#define RUN_RUN				1
#define RUN_FIRST_FOLD		2
#define RUN_LINKS			3
#define RUN_WATERMARK		4

/* The last run on record; zeros where there was none. */
typedef struct LastRun
{
	int64		run;
	int64		next_fold;
	int64		watermark;
} LastRun;

/* What goes into cdi.identity_runs */
typedef struct Run
{
	int64		run;
	int64		first_fold;
	int64		links;
	int64		watermark;
	int64		identifiers;
	int64		merges;
	int64		refused;
	bool		bulk;
	bool		spilled;
	Size		memory;
	instr_time	started;
	instr_time	uniting;
} Run;

static LastRun
last_run(Snapshot snapshot)
{
	Relation	table = table_open(cdi_relation_oid("identity_runs"), AccessShareLock);
	Relation	index = index_open(RelationGetPrimaryKeyIndex(table), AccessShareLock);
	IndexScanDesc scan = cdi_index_beginscan(table, index, snapshot, 0);
	TupleTableSlot *slot = table_slot_create(table, NULL);
	LastRun		last = {0, 1, 0};

	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		slot_getsomeattrs(slot, RUN_WATERMARK);
		last.run = DatumGetInt64(slot->tts_values[RUN_RUN - 1]);
		last.next_fold = DatumGetInt64(slot->tts_values[RUN_FIRST_FOLD - 1]) +
			DatumGetInt64(slot->tts_values[RUN_LINKS - 1]);
		last.watermark = DatumGetInt64(slot->tts_values[RUN_WATERMARK - 1]);
	}
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return last;
}

/*
 * Push a snapshot that sees what this transaction has written so far, and,
 * under READ COMMITTED, what others have committed until now.
 */
Snapshot
cdi_push_snapshot(void)
{
	PushCopiedSnapshot(GetTransactionSnapshot());
	UpdateActiveSnapshotCommandId();
	return GetActiveSnapshot();
}

static bool
anything_pending(void)
{
	Snapshot	snapshot = cdi_push_snapshot();
	LastRun		last = last_run(snapshot);
	CdiLinkReader *reader = cdi_links_open(last.watermark, snapshot);
	bool		pending = cdi_links_pending(reader);

	cdi_links_close(reader);
	PopActiveSnapshot();
	return pending;
}

/*
 * Under REPEATABLE READ the snapshot may be older than the last run.  It would
 * fold links that are folded already, into a map that it cannot see.
 */
static void
check_snapshot_current(void)
{
	LastRun		ours = last_run(cdi_push_snapshot());
	LastRun		latest;

	PushActiveSnapshot(GetLatestSnapshot());
	latest = last_run(GetActiveSnapshot());
	PopActiveSnapshot();
	PopActiveSnapshot();
	if (latest.run > ours.run)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access because people have been resolved or changed meanwhile"),
				 errhint("The transaction might succeed if retried.")));
}

static bool
lock_resolver(bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, RESOLVER_LOCK_CLASS);
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	if (IsolationUsesXactSnapshot())
		check_snapshot_current();
	return true;
}

void
cdi_resolver_lock(void)
{
	(void) lock_resolver(true);
}

bool
cdi_resolver_try_lock(void)
{
	return lock_resolver(false);
}

/*
 * The watermark of this run, from before the snapshot that reads links: all
 * that lies below is visible to it.  A snapshot of an earlier time may rely on
 * the watermark that it sees stored only.  It is not stored from here: that
 * would hold its row locked until a caller's transaction ends.
 */
static int64
run_watermark(int64 previous)
{
	int64		watermark = IsolationUsesXactSnapshot() ?
	cdi_watermark_read() : cdi_watermark_compute();

	return Max(watermark, previous);
}

static void
record_ahead(const CdiLinkBatch *batch, const Run *run)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_ahead (position, run) SELECT unnest($1), $2",
		.nargs = 2,.argtypes = {INT8ARRAYOID, INT8OID}
	};
	Datum	   *positions;
	int			n = 0;

	/* sorted: either the last one is above the watermark or none is */
	if (batch->links[batch->count - 1].position <= run->watermark)
		return;
	positions = palloc(sizeof(Datum) * batch->count);
	for (int i = 0; i < batch->count; i++)
		if (batch->links[i].position > run->watermark)
			positions[n++] = Int64GetDatum(batch->links[i].position);
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_int8_array(positions, n),
			Int64GetDatum(run->run)
	}, NULL);
}

static void
record_merges(const CdiFolded *folded)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_merge_log (merge_id, fold, survivor, absorbed, position, identifier, merged_at)"
		" SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)",
		.nargs = 7,.argtypes = {
			INT8ARRAYOID, INT8ARRAYOID, UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID
		}
	};
	int			n = folded->nmerges;
	Datum	   *columns[7];

	if (n == 0)
		return;
	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		CdiMerge   *merge = &folded->merges[i];

		columns[0][i] = Int64GetDatum(merge->fold * CDI_MERGES_PER_FOLD + merge->which);
		columns[1][i] = Int64GetDatum(merge->fold);
		columns[2][i] = UUIDPGetDatum(&merge->survivor);
		columns[3][i] = UUIDPGetDatum(&merge->absorbed);
		columns[4][i] = Int64GetDatum(merge->position);
		columns[5][i] = UUIDPGetDatum(&merge->identifier);
		columns[6][i] = TimestampTzGetDatum(merge->merged_at);
	}
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_int8_array(columns[0], n), cdi_int8_array(columns[1], n), cdi_uuid_array(columns[2], n),
			cdi_uuid_array(columns[3], n), cdi_int8_array(columns[4], n), cdi_uuid_array(columns[5], n),
			cdi_timestamptz_array(columns[6], n)
	}, NULL);
}

static void
record_run(const Run *run)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_runs (run, first_fold, links, watermark, resolved_at,"
		" bulk, identifiers, merges, memory, unite_ms, total_ms, refused, spilled)"
		" VALUES ($1, $2, $3, $4, clock_timestamp(), $5, $6, $7, $8, $9, $10, $11, $12)",
		.nargs = 12,.argtypes = {
			INT8OID, INT8OID, INT8OID, INT8OID, BOOLOID, INT8OID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, INT8OID, BOOLOID
		}
	};
	instr_time	total;

	INSTR_TIME_SET_CURRENT(total);
	INSTR_TIME_SUBTRACT(total, run->started);
	cdi_plan_execute(&plan, (Datum[]) {
		Int64GetDatum(run->run),
			Int64GetDatum(run->first_fold),
			Int64GetDatum(run->links),
			Int64GetDatum(run->watermark),
			BoolGetDatum(run->bulk),
			Int64GetDatum(run->identifiers),
			Int64GetDatum(run->merges),
			Int64GetDatum((int64) run->memory),
			Float8GetDatum(INSTR_TIME_GET_MILLISEC(run->uniting)),
			Float8GetDatum(INSTR_TIME_GET_MILLISEC(total)),
			Int64GetDatum(run->refused),
			BoolGetDatum(run->spilled)
	}, NULL);
}

void
cdi_resolver_mark(void)
{
	LastRun		last = last_run(cdi_push_snapshot());
	Run			run = {.run = last.run + 1,.first_fold = last.next_fold,.watermark = last.watermark};

	PopActiveSnapshot();
	INSTR_TIME_SET_CURRENT(run.started);
	record_run(&run);
}

/*
 * The limits that runs go by from this one on, where they are others than
 * those on record.
 */
static void
record_rules(const CdiLimits *limits, int64 run)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_rules (first_run, limits) SELECT $1, $2"
		" WHERE $2 IS DISTINCT FROM"
		" (SELECT limits FROM cdi.identity_rules ORDER BY first_run DESC LIMIT 1)",
		.nargs = 2,.argtypes = {INT8OID, JSONBOID}
	};

	cdi_plan_execute(&plan, (Datum[]) {
		Int64GetDatum(run), JsonbPGetDatum(cdi_limits_to_jsonb(limits))
	}, NULL);
}

/* The links have the identifiers' values: in bulk nobody else keeps them. */
static void
record_refusals(const CdiFolded *folded)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_refusals"
		" (refused_at, position, event_id, type, value, identifier, reason, detail)"
		" SELECT l.linked_at, l.position, l.event_id, coalesce(l.types[r.which], ''),"
		" coalesce(left(l.\"values\"[r.which], 64), ''), l.identifiers[r.which], 'limit',"
		" format('It would bring %s %s to a person who has %s; the limit is %s.',"
		" r.brings, coalesce(t.name, 'identifier(s)'), r.has, r.max)"
		" FROM unnest($1, $2, $3, $4, $5, $6) AS r (position, which, type_id, has, brings, max)"
		" JOIN cdi.identity_links l USING (position)"
		" LEFT JOIN cdi.identifier_types t ON t.type_id = r.type_id",
		.nargs = 6,.argtypes = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID}
	};
	int			n = folded->nrefusals;
	Datum	   *columns[6];
	Datum		arrays[6];

	if (n == 0)
		return;
	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		CdiLimitRefusal *refusal = &folded->refusals[i];

		columns[0][i] = Int64GetDatum(refusal->position);
		columns[1][i] = Int32GetDatum(refusal->which + 1);
		columns[2][i] = Int32GetDatum(refusal->type);
		columns[3][i] = Int32GetDatum(refusal->has);
		columns[4][i] = Int32GetDatum(refusal->brings);
		columns[5][i] = Int32GetDatum(refusal->max);
	}
	arrays[0] = cdi_int8_array(columns[0], n);
	for (int c = 1; c < lengthof(columns); c++)
		arrays[c] = PointerGetDatum(construct_array(columns[c], n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	cdi_plan_execute(&plan, arrays, NULL);
}

/* Whether to write a new map, known once the first batch is read. */
static bool
bulk_pays(CdiLinkReader *reader)
{
	double		links = cdi_links_estimate(reader);

	return links >= cdi_identity_bulk_threshold &&
		links >= BULK_FRACTION * cdi_map_estimate();
}

/*
 * Links that are looked up and folded together: few enough for their nodes to
 * be in the processor's cache still when they are folded.
 */
#define FOLD_BLOCK			256

/*
 * Look up the keys of a batch, where the graph does not have them yet, and
 * fold it.
 */
static void
fold_batch(CdiGraph *graph, const CdiLimits *limits, const CdiLinkBatch *batch, uint32 *nodes,
		   bool known, int64 first_fold, CdiFolded *folded)
{
	for (int start = 0; start < batch->count; start += FOLD_BLOCK)
	{
		int			end = Min(start + FOLD_BLOCK, batch->count);
		int			first_key = batch->links[start].first;

		if (!known)
			cdi_graph_add(graph, batch->keys + first_key,
						  batch->links[end - 1].first + batch->links[end - 1].count - first_key,
						  nodes + first_key);
		for (int i = start; i < end; i++)
		{
			const CdiLink *link = &batch->links[i];

			cdi_graph_fold(graph, limits, link, nodes + link->first, batch->types + link->first,
						   NULL, first_fold + i, folded, NULL);
		}
	}
}

static void
record_folded(Run *run, const CdiFolded *folded)
{
	record_merges(folded);
	record_refusals(folded);
	run->merges += folded->nmerges;
	run->refused += folded->nrefusals;
}

static void
spill_batch(CdiSpill *spill, const CdiLimits *limits, const CdiLinkBatch *batch, int64 first_fold)
{
	for (int i = 0; i < batch->count; i++)
	{
		const CdiLink *link = &batch->links[i];

		cdi_spill_put_link(spill, limits, link, batch->keys + link->first,
						   batch->types + link->first, NULL, first_fold + i);
	}
}

static void
fold_spilled(CdiSpill *spill, Snapshot snapshot, Run *run)
{
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	cdi_spill_fold(spill, snapshot);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_ACCUM_DIFF(run->uniting, end, start);
}

static void
write_spilled(CdiSpill *spill, MemoryContext batch_context, Run *run)
{
	MemoryContext old = MemoryContextSwitchTo(batch_context);
	const CdiFolded *folded;

	while ((folded = cdi_spill_folded(spill)) != NULL)
	{
		record_folded(run, folded);
		MemoryContextReset(batch_context);
	}
	MemoryContextSwitchTo(old);
	run->bulk = cdi_spill_replace(spill);
	if (!run->bulk)
		cdi_spill_update(spill);
	run->spilled = true;
	run->identifiers = cdi_spill_identifiers(spill);
	run->memory = cdi_spill_memory(spill);
	cdi_spill_end(spill);
}

/*
 * Returns the number of links folded.  SPI is connected, the user the owner
 * and the resolver's lock held.
 */
int64
cdi_resolve_links(void)
{
	MemoryContext batch_context = AllocSetContextCreate(CurrentMemoryContext,
														"cdi links", ALLOCSET_DEFAULT_SIZES);
	MemoryContext run_context = CurrentMemoryContext;
	CdiLinkBatch batch;
	CdiFolded	folded;
	CdiLimits  *limits = cdi_limits_now();
	CdiTraitRows traits;
	CdiGraph   *whole = NULL;	/* the map, of a bulk run */
	CdiSpill   *spill = NULL;	/* the same, where memory is not to hold it */
	CdiLinkReader *reader;
	Snapshot	snapshot;
	LastRun		last;
	Run			run = {0};
	bool		bulk = false;

	INSTR_TIME_SET_CURRENT(run.started);
	/* no other run can come between: the lock is held */
	last = last_run(cdi_push_snapshot());
	PopActiveSnapshot();
	run.run = last.run + 1;
	run.first_fold = last.next_fold;
	run.watermark = run_watermark(last.watermark);
	snapshot = cdi_push_snapshot();

	cdi_links_batch_init(&batch, CDI_LINK_BATCH);
	cdi_folded_init(&folded);

	reader = cdi_links_open(last.watermark, snapshot);
	for (;;)
	{
		instr_time	start;
		instr_time	end;
		CdiGraph   *graph;
		uint32	   *nodes;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(batch_context);
		MemoryContextReset(batch_context);
		cdi_traits_begin(&traits, batch_context);
		folded.nmerges = folded.nrefusals = 0;
		if (!cdi_links_read(reader, &batch, CDI_LINK_BATCH, &traits))
			break;

		nodes = palloc_extended(sizeof(uint32) * Max(batch.nkeys, 1), MCXT_ALLOC_HUGE);
		if (run.links == 0 && bulk_pays(reader))
		{
			bulk = true;
			if (cdi_spill_needed(cdi_map_estimate()))
			{
				spill = cdi_spill_begin(run_context);
				cdi_spill_put_map(spill, snapshot);
			}
			else
			{
				whole = cdi_graph_create(run_context);
				cdi_map_load(whole, snapshot);
				cdi_map_reader_open(whole, snapshot);
			}
		}
		graph = whole;
		if (!bulk)
		{
			graph = cdi_graph_create(batch_context);
			cdi_graph_add(graph, batch.keys, batch.nkeys, nodes);
			(void) cdi_push_snapshot();
			cdi_map_fetch(graph, GetActiveSnapshot());
			cdi_map_reader_open(graph, GetActiveSnapshot());
			cdi_graph_complete(graph, limits, &batch, nodes);
		}
		INSTR_TIME_SET_CURRENT(start);
		if (spill != NULL)
			spill_batch(spill, limits, &batch, run.first_fold + run.links);
		else
			fold_batch(graph, limits, &batch, nodes, !bulk, run.first_fold + run.links, &folded);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_ACCUM_DIFF(run.uniting, end, start);
		if (!bulk)
		{
			cdi_map_reader_close(graph);
			PopActiveSnapshot();
		}

		record_ahead(&batch, &run);
		record_folded(&run, &folded);
		cdi_traits_record(&traits);
		cdi_members_record(&batch);
		run.links += batch.count;
		if (!bulk)
		{
			run.identifiers += graph->count;
			run.memory = Max(run.memory, graph->peak);
			cdi_map_update(graph);
		}
		else if (whole != NULL && cdi_spill_needed(whole->count))
		{
			cdi_map_reader_close(whole);
			spill = cdi_spill_begin(run_context);
			cdi_spill_put_graph(spill, whole);
			whole = NULL;
		}
	}
	MemoryContextSwitchTo(run_context);
	cdi_links_close(reader);
	if (whole != NULL)
		cdi_map_reader_close(whole);
	if (spill != NULL)
		fold_spilled(spill, snapshot, &run);
	PopActiveSnapshot();

	if (spill != NULL)
		write_spilled(spill, batch_context, &run);
	if (whole != NULL)
	{
		run.identifiers = whole->count;
		run.bulk = cdi_map_replace(whole);
		if (!run.bulk)
			cdi_map_update(whole);
		run.memory = whole->peak;
		cdi_graph_destroy(whole);
	}
	if (run.links > 0)
	{
		record_rules(limits, run.run);
		record_run(&run);
	}
	MemoryContextDelete(batch_context);
	return run.links;
}

PG_FUNCTION_INFO_V1(cdi_resolve);

Datum
cdi_resolve(PG_FUNCTION_ARGS)
{
	CdiOwnerScope scope;
	int64		folded = 0;

	cdi_prevent_in_recovery("cdi_resolve");
	PreventCommandIfReadOnly("cdi_resolve()");
	PreventCommandIfParallelMode("cdi_resolve()");
	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	if (anything_pending())
	{
		cdi_resolver_lock();
		folded = cdi_resolve_links();
	}
	cdi_computed_fold();
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_INT64(folded);
}
