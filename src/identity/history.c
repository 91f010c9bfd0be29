/*
 * history.c
 *		Links that have been folded, in the order on record.
 *
 * A run folded, in order of position, what lay above the watermark of the run
 * before, except what cdi.identity_ahead says was folded earlier.  That order,
 * the limits of each run (cdi.identity_rules) and what has been revoked since
 * (cdi.identity_revocations) determine the map.  So the map can be made anew
 * from all links, and the part of it that hangs together with some
 * identifiers from their links alone: no link outside names any of them.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "identity/spill.h"

/* A link was folded by the run that cdi.identity_ahead names, or else by the
 * first run whose watermark reached it.  Links that no run has folded yet are
 * left to cdi_resolve(). */
static const char *const all_links =
"WITH marks AS MATERIALIZED ("
" SELECT array_agg(watermark ORDER BY run) AS watermarks, array_agg(run ORDER BY run) AS runs"
" FROM cdi.identity_runs)"
"SELECT l.position, l.linked_at, l.rule, l.identifiers, l.types, r.run, r.first_fold"
" FROM marks CROSS JOIN cdi.identity_links l"
" LEFT JOIN cdi.identity_ahead a USING (position)"
" JOIN cdi.identity_runs r"
" ON r.run = coalesce(a.run, marks.runs[width_bucket(l.position - 1, marks.watermarks) + 1])"
" ORDER BY r.run, l.position";

static CdiPlan closure_links = {
	.query = "SELECT l.position, l.linked_at, l.rule, l.identifiers, l.types, coalesce(a.run, r.run)"
	" FROM cdi.identity_links l"
	" LEFT JOIN cdi.identity_ahead a USING (position)"
	" LEFT JOIN LATERAL (SELECT run FROM cdi.identity_runs WHERE watermark >= l.position"
	" ORDER BY watermark, run LIMIT 1) r ON true"
	" WHERE l.identifiers && $1 AND l.linked_at <= $2 AND coalesce(a.run, r.run) < $3",
	.nargs = 3,.argtypes = {UUIDARRAYOID, TIMESTAMPTZOID, INT8OID}
};

/* Links that are folded in one go */
#define HISTORY_BATCH	16384

typedef struct Rules
{
	int64		first_run;
	CdiLimits  *limits;
} Rules;

typedef struct RevokedIdentifier
{
	pg_uuid_t	identifier;
	int64		until_run;
} RevokedIdentifier;

typedef struct CdiHistoryState
{
	MemoryContext context;
	MemoryContext batch_context;
	Portal		portal;			/* NULL: a closure, which is there as a whole */
	bool		done;
	HTAB	   *revoked_links;	/* by position */
	HTAB	   *revoked_identifiers;
	HTAB	   *folds;			/* of a closure's identifiers, as stored */
	bool		past;			/* a closure of links that had happened by then */
	int			nrules;
	int			rule;
	Rules	   *rules;
	int64	   *first_folds;	/* of the batch's links; whole history only */
	int64		run;			/* that fold belongs to */
	int64		fold;
} CdiHistoryState;

typedef struct StoredFold
{
	pg_uuid_t	identifier;
	int64		fold;
} StoredFold;

static HTAB *
make_table(const char *name, Size keysize, Size entrysize, MemoryContext context)
{
	HASHCTL		control = {.keysize = keysize,.entrysize = entrysize,.hcxt = context};

	return hash_create(name, 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static int64
bigint_column(int row, int column, bool *isnull)
{
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull));
}

static pg_uuid_t *
uuid_column(int row, int column, bool *isnull)
{
	return DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull));
}

static void
load_revocations(CdiHistoryState *state, TimestampTz until)
{
	static CdiPlan plan = {
		.query = "SELECT position, identifier, until_run FROM cdi.identity_revocations"
		" WHERE revoked_at <= $1",
		.nargs = 1,.argtypes = {TIMESTAMPTZOID}
	};

	state->revoked_links = make_table("cdi revoked links", sizeof(int64), sizeof(int64), state->context);
	state->revoked_identifiers = make_table("cdi revoked identifiers", UUID_LEN,
											sizeof(RevokedIdentifier), state->context);
	cdi_plan_read(&plan, (Datum[]) {TimestampTzGetDatum(until)});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int64		position = bigint_column(i, 1, &isnull);

		if (!isnull)
			(void) hash_search(state->revoked_links, &position, HASH_ENTER, NULL);
		else
		{
			bool		found;
			RevokedIdentifier *revoked = hash_search(state->revoked_identifiers, uuid_column(i, 2, &isnull),
													 HASH_ENTER, &found);
			int64		until_run = bigint_column(i, 3, &isnull);

			revoked->until_run = found ? Max(revoked->until_run, until_run) : until_run;
		}
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
load_rules(CdiHistoryState *state)
{
	static CdiPlan plan = {
		.query = "SELECT first_run, limits FROM cdi.identity_rules ORDER BY first_run"
	};
	MemoryContext old;

	cdi_plan_read(&plan, NULL);
	old = MemoryContextSwitchTo(state->context);
	state->nrules = SPI_processed;
	state->rules = palloc(sizeof(Rules) * (state->nrules + 1));
	state->rules[0].first_run = 0;
	state->rules[0].limits = palloc0(sizeof(CdiLimits));
	for (int i = 0; i < state->nrules; i++)
	{
		bool		isnull;

		state->rules[i + 1].first_run = bigint_column(i, 1, &isnull);
		state->rules[i + 1].limits =
			cdi_limits_from_jsonb(DatumGetJsonbP(SPI_getbinval(SPI_tuptable->vals[i],
															   SPI_tuptable->tupdesc, 2, &isnull)));
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

static CdiHistory *
create(TimestampTz until)
{
	CdiHistory *history = palloc0(sizeof(CdiHistory));
	CdiHistoryState *state = palloc0(sizeof(CdiHistoryState));

	state->context = AllocSetContextCreate(CurrentMemoryContext, "cdi identity history",
										   ALLOCSET_DEFAULT_SIZES);
	state->batch_context = AllocSetContextCreate(state->context, "cdi links", ALLOCSET_DEFAULT_SIZES);
	history->state = state;
	load_revocations(state, until);
	load_rules(state);
	return history;
}

CdiHistory *
cdi_history_open(void)
{
	CdiHistory *history = create(DT_NOEND);
	MemoryContext old = MemoryContextSwitchTo(history->state->context);
	SPIPlanPtr	plan;

	cdi_links_batch_init(&history->batch, HISTORY_BATCH);
	history->runs = palloc(sizeof(int64) * HISTORY_BATCH);
	history->state->first_folds = palloc(sizeof(int64) * HISTORY_BATCH);
	cdi_folded_init(&history->folded);
	plan = SPI_prepare(all_links, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
	history->state->portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	MemoryContextSwitchTo(old);
	return history;
}

static void
take_row(CdiHistory *history, int row)
{
	HeapTuple	tuple = SPI_tuptable->vals[row];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int			number = history->batch.count;
	bool		isnull;

	cdi_links_append(&history->batch, bigint_column(row, 1, &isnull),
					 DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull)),
					 SPI_getbinval(tuple, desc, 3, &isnull),
					 SPI_getbinval(tuple, desc, 4, &isnull),
					 SPI_getbinval(tuple, desc, 5, &isnull));
	history->runs[number] = bigint_column(row, 6, &isnull);
	if (history->state->first_folds != NULL)
		history->state->first_folds[number] = bigint_column(row, 7, &isnull);
}

/* The next links of all; false at the end */
static bool
fetch(CdiHistory *history)
{
	SPI_cursor_fetch(history->state->portal, true, HISTORY_BATCH);
	history->batch.count = 0;
	history->batch.nkeys = 0;
	for (uint64 i = 0; i < SPI_processed; i++)
		take_row(history, i);
	SPI_freetuptable(SPI_tuptable);
	return history->batch.count > 0;
}

/*
 * Closures
 */
static void
reserve_links(CdiHistory *history, int more, int *capacity)
{
	if (history->batch.count + more <= *capacity)
		return;
	*capacity = Max(*capacity * 2, history->batch.count + more);
	history->batch.links = repalloc_huge(history->batch.links, sizeof(CdiLink) * *capacity);
	history->runs = repalloc_huge(history->runs, sizeof(int64) * *capacity);
}

static int
compare_runs(const void *a, const void *b, void *arg)
{
	CdiHistory *history = arg;
	int			one = *(const int *) a;
	int			other = *(const int *) b;
	int64		run = history->runs[one];
	int64		other_run = history->runs[other];

	if (run != other_run)
		return run < other_run ? -1 : 1;
	if (history->batch.links[one].position != history->batch.links[other].position)
		return history->batch.links[one].position < history->batch.links[other].position ? -1 : 1;
	return 0;
}

static void
sort_links(CdiHistory *history)
{
	int			n = history->batch.count;
	int		   *order = palloc_extended(sizeof(int) * Max(n, 1), MCXT_ALLOC_HUGE);
	CdiLink    *links = palloc_extended(sizeof(CdiLink) * Max(n, 1), MCXT_ALLOC_HUGE);
	int64	   *runs = palloc_extended(sizeof(int64) * Max(n, 1), MCXT_ALLOC_HUGE);

	for (int i = 0; i < n; i++)
		order[i] = i;
	qsort_arg(order, n, sizeof(int), compare_runs, history);
	for (int i = 0; i < n; i++)
	{
		links[i] = history->batch.links[order[i]];
		runs[i] = history->runs[order[i]];
	}
	history->batch.links = links;
	history->runs = runs;
}

/* Folds that gave birth to the identifiers of the closure */
static void
load_folds(CdiHistoryState *state, Datum *keys, int n)
{
	static CdiPlan plan = {
		.query = "SELECT identifier, fold FROM cdi.identity_map WHERE identifier = ANY ($1)",
		.nargs = 1,.argtypes = {UUIDARRAYOID}
	};

	cdi_plan_read(&plan, (Datum[]) {cdi_uuid_array(keys, n)});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		StoredFold *stored = hash_search(state->folds, uuid_column(i, 1, &isnull), HASH_ENTER, NULL);

		stored->fold = bigint_column(i, 2, &isnull);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Keys whose links are asked for in one go: for each row that it finds, a GIN
 * index looks at every key of the question.
 */
#define EXPAND_KEYS		64

/*
 * A question that goes to a GIN index reads, besides, all that waits in the
 * index's list of late, and compares it with every key.  Where there are as
 * many keys as this, it pays to sort that in first, as the next VACUUM would.
 */
#define SORT_IN_KEYS	(32 * EXPAND_KEYS)

static void
sort_in_pending(void)
{
	Oid			index = cdi_relation_oid("identity_links_identifiers");

	if (OidIsValid(index) && !RecoveryInProgress())
		(void) DirectFunctionCall1(gin_clean_pending_list, ObjectIdGetDatum(index));
}

/*
 * All links that mention one of n keys from number first on; what they mention
 * besides is appended to the keys.
 */
static void
expand(CdiHistory *history, TimestampTz until, int64 before_run, HTAB *links, Datum **keys, int *nkeys,
	   int *capacity, int first, int n, int *link_capacity)
{
	CdiHistoryState *state = history->state;

	cdi_plan_read(&closure_links, (Datum[]) {
		cdi_uuid_array(*keys + first, n), TimestampTzGetDatum(until), Int64GetDatum(before_run)
	});
	reserve_links(history, SPI_processed, link_capacity);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		found;
		bool		isnull;
		int64		position = bigint_column(i, 1, &isnull);
		CdiLink    *link;

		CHECK_FOR_INTERRUPTS();
		(void) hash_search(links, &position, HASH_ENTER, &found);
		if (found)
			continue;
		take_row(history, i);
		link = &history->batch.links[history->batch.count - 1];
		for (int k = link->first; k < link->first + link->count; k++)
		{
			StoredFold *stored = hash_search(state->folds, &history->batch.keys[k], HASH_ENTER, &found);

			if (found)
				continue;
			stored->fold = 0;
			if (*nkeys == *capacity)
				*keys = repalloc_huge(*keys, sizeof(Datum) * (*capacity *= 2));
			(*keys)[(*nkeys)++] = UUIDPGetDatum(&stored->identifier);
		}
	}
	SPI_freetuptable(SPI_tuptable);
}

CdiHistory *
cdi_history_open_closure(const pg_uuid_t *seeds, int n, TimestampTz until, int64 before_run)
{
	CdiHistory *history = create(until);
	CdiHistoryState *state = history->state;
	MemoryContext old = MemoryContextSwitchTo(state->context);
	HTAB	   *links = make_table("cdi links", sizeof(int64), sizeof(int64), state->context);
	int			link_capacity = 64;
	int			capacity = Max(n, 64);
	int			nkeys = 0;
	int			nestlevel;
	bool		sorted_in = false;
	Datum	   *keys = palloc(sizeof(Datum) * capacity);

	cdi_links_batch_init(&history->batch, link_capacity);
	history->runs = palloc(sizeof(int64) * link_capacity);
	cdi_folded_init(&history->folded);
	history->folded.of_newborn = true;
	state->folds = make_table("cdi identifiers", UUID_LEN, sizeof(StoredFold), state->context);
	for (int i = 0; i < n; i++)
	{
		bool		found;
		StoredFold *stored = hash_search(state->folds, &seeds[i], HASH_ENTER, &found);

		if (found)
			continue;
		stored->fold = 0;
		keys[nkeys++] = UUIDPGetDatum(&stored->identifier);
	}
	nestlevel = cdi_force_index_plans();
	for (int done = 0; done < nkeys;)
	{
		int			first = done;

		if (nkeys >= SORT_IN_KEYS && !sorted_in)
		{
			sort_in_pending();
			sorted_in = true;
		}
		done = Min(first + EXPAND_KEYS, nkeys);
		expand(history, until, before_run, links, &keys, &nkeys, &capacity, first, done - first, &link_capacity);
	}
	state->past = until != DT_NOEND;
	if (!state->past)
		load_folds(state, keys, nkeys);
	AtEOXact_GUC(true, nestlevel);
	sort_links(history);
	MemoryContextSwitchTo(old);
	return history;
}

/*
 * Folding
 */
static void
mark_revoked(CdiHistory *history)
{
	CdiHistoryState *state = history->state;
	bool		any = hash_get_num_entries(state->revoked_links) > 0 ||
	hash_get_num_entries(state->revoked_identifiers) > 0 || history->set_aside != NULL;

	memset(history->apart, CDI_OUTCOME_JOINED, history->batch.nkeys);
	for (int i = 0; i < history->batch.count && any; i++)
	{
		CdiLink    *link = &history->batch.links[i];
		bool		whole = hash_search(state->revoked_links, &link->position, HASH_FIND, NULL) != NULL;

		for (int k = link->first; k < link->first + link->count; k++)
		{
			pg_uuid_t  *key = &history->batch.keys[k];
			RevokedIdentifier *revoked = hash_search(state->revoked_identifiers, key, HASH_FIND, NULL);

			if (whole || (revoked != NULL && history->runs[i] <= revoked->until_run) ||
				(history->set_aside != NULL &&
				 hash_search(history->set_aside, key, HASH_FIND, NULL) != NULL))
				history->apart[k] = CDI_OUTCOME_APART;
		}
	}
}

/* Limits of a run; runs come in their order. */
static const CdiLimits *
limits_of(CdiHistory *history, CdiGraph *graph, int64 run)
{
	CdiHistoryState *state = history->state;
	int			before = state->rule;

	if (history->limits != NULL)
		return history->limits;
	while (state->rule < state->nrules && state->rules[state->rule + 1].first_run <= run)
		state->rule++;
	if (state->rule != before && graph != NULL)
		cdi_graph_forget_tallies(graph);
	return state->rules[state->rule].limits;
}

/* The number of a link's fold, where all links come one after the other */
static int64
next_fold(CdiHistory *history, int number)
{
	CdiHistoryState *state = history->state;

	state->fold = history->runs[number] == state->run ? state->fold + 1 : state->first_folds[number];
	state->run = history->runs[number];
	return state->fold;
}

/*
 * In a closure the number is known of those links alone that gave birth; with
 * -1 for the others nobody can have been born just then.  Where a link that
 * gave birth had not happened yet, a later one did, so the past has numbers of
 * its own, in the same order.
 */
static int64
birth_fold(CdiHistory *history, CdiGraph *graph, int number)
{
	CdiHistoryState *state = history->state;
	CdiLink    *link = &history->batch.links[number];

	if (state->past)
		return number + 1;
	for (int k = link->first; k < link->first + link->count; k++)
		if (cdi_graph_node(graph, history->nodes[k])->fold == 0)
		{
			StoredFold *stored = hash_search(state->folds, &history->batch.keys[k], HASH_FIND, NULL);

			if (stored == NULL || stored->fold == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("an identifier of a folded link is not in \"cdi.identity_map\""),
						 errdetail("The link's position is " INT64_FORMAT ".", link->position),
						 errhint("SELECT cdi_rebuild_identity() makes the map anew.")));
			return stored->fold;
		}
	return -1;
}

/* The next links, without what was revoked; false at the end */
static bool
next_batch(CdiHistory *history)
{
	CdiHistoryState *state = history->state;
	CdiLinkBatch *batch = &history->batch;
	MemoryContext old;

	CHECK_FOR_INTERRUPTS();
	if (state->done)
		return false;
	history->folded.nmerges = history->folded.nrefusals = 0;
	MemoryContextReset(state->batch_context);
	if (state->portal != NULL ? !fetch(history) : batch->count == 0)
	{
		state->done = true;
		return false;
	}
	state->done = state->portal == NULL;

	old = MemoryContextSwitchTo(state->batch_context);
	history->nodes = palloc_extended(sizeof(uint32) * Max(batch->nkeys, 1), MCXT_ALLOC_HUGE);
	history->apart = palloc_extended(Max(batch->nkeys, 1), MCXT_ALLOC_HUGE);
	history->outcome = palloc_extended(Max(batch->nkeys, 1), MCXT_ALLOC_HUGE);
	mark_revoked(history);
	MemoryContextSwitchTo(old);
	return true;
}

bool
cdi_history_fold(CdiHistory *history, CdiGraph *graph)
{
	CdiLinkBatch *batch = &history->batch;
	MemoryContext old;

	if (!next_batch(history))
		return false;
	old = MemoryContextSwitchTo(history->state->batch_context);
	cdi_graph_add(graph, batch->keys, batch->nkeys, history->nodes);
	for (int i = 0; i < batch->count; i++)
	{
		CdiLink    *link = &batch->links[i];
		int64		fold = history->state->first_folds != NULL ?
		next_fold(history, i) : birth_fold(history, graph, i);

		cdi_graph_fold(graph, limits_of(history, graph, history->runs[i]), link,
					   history->nodes + link->first, batch->types + link->first,
					   history->apart + link->first, fold, &history->folded,
					   history->outcome + link->first);
	}
	MemoryContextSwitchTo(old);
	return true;
}

bool
cdi_history_spill(CdiHistory *history, CdiSpill *spill)
{
	if (!next_batch(history))
		return false;
	for (int i = 0; i < history->batch.count; i++)
	{
		CdiLink    *link = &history->batch.links[i];

		cdi_spill_put_link(spill, limits_of(history, NULL, history->runs[i]), link,
						   history->batch.keys + link->first, history->batch.types + link->first,
						   history->apart + link->first, next_fold(history, i));
	}
	return true;
}

void
cdi_history_close(CdiHistory *history)
{
	if (history->state->portal != NULL)
		SPI_cursor_close(history->state->portal);
	MemoryContextDelete(history->state->context);
	pfree(history);
}
