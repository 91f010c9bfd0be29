/*
 * computed_fold.c
 *		Fold what events have added to computed traits into their state, and
 *		count the history of traits that are new.
 *
 * A stored event leaves one row in cdi.computed_trait_deltas per trait that it
 * counts for, in its own transaction.  A fold deletes all that it sees and adds
 * them to the state; both commit or neither.  It looks above a cursor, the
 * watermark of an earlier fold, below which nothing can still appear: rows that
 * are dead but not yet vacuumed lie behind it and cost nothing.
 *
 * A trait counts every event once, also those that were stored before it was
 * declared and while it was, without a lock that a writer of events could
 * meet.  A batch gives its events positions and then reads the declarations.
 * When the declaration's transaction has ended completely, the last position
 * handed out, U, is recorded: a batch that did not know of the trait has no
 * position above.  Events above U leave a row if they count; those up to U are
 * counted from cdi.events, some positions at a time, once the watermark has
 * reached U and everything up to there is final.  Rows of up to U, and all rows
 * while there is no U yet, are deleted without being added.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "identity/identity.h"
#include "identity/traits.h"
#include "ingest/ingest.h"
#include "worker/worker.h"

/* Positions of history that are counted in one run */
#define HISTORY_BATCH		1000000

/* One round of this backend has left history to be counted by the next. */
static bool more_history = false;

/*
 * Adds contributions d (subject, trait_id, aggregate, position, at, number,
 * value) to the state.  Of a group of first or last the row that counts comes
 * first; the other aggregates take any.
 */
#define ADD \
	", v AS (INSERT INTO cdi.computed_trait_values AS v" \
	" (subject, trait_id, aggregate, events, skipped, number, value, at, position)" \
	" SELECT DISTINCT ON (subject, trait_id) subject, trait_id, aggregate," \
	" count(coalesce(value, to_jsonb(number))) OVER w," \
	" count(*) OVER w - count(coalesce(value, to_jsonb(number))) OVER w," \
	" CASE aggregate WHEN 'sum' THEN sum(number) OVER w WHEN 'min' THEN min(number) OVER w" \
	" WHEN 'max' THEN max(number) OVER w END," \
	" value, CASE WHEN aggregate IN ('first', 'last') THEN at END," \
	" CASE WHEN aggregate IN ('first', 'last') THEN position END" \
	" FROM d WHERE aggregate <> 'most_frequent'" \
	" WINDOW w AS (PARTITION BY subject, trait_id)" \
	" ORDER BY subject, trait_id, CASE aggregate WHEN 'first' THEN at END," \
	" CASE aggregate WHEN 'first' THEN position END, at DESC, position DESC" \
	" ON CONFLICT (subject, trait_id) DO UPDATE SET" \
	" events = v.events + excluded.events, skipped = v.skipped + excluded.skipped," \
	" number = CASE v.aggregate WHEN 'sum' THEN coalesce(v.number + excluded.number, v.number, excluded.number)" \
	" WHEN 'min' THEN least(v.number, excluded.number) WHEN 'max' THEN greatest(v.number, excluded.number) END," \
	" value = CASE WHEN " EXCLUDED_COUNTS " THEN excluded.value ELSE v.value END," \
	" at = CASE WHEN " EXCLUDED_COUNTS " THEN excluded.at ELSE v.at END," \
	" position = CASE WHEN " EXCLUDED_COUNTS " THEN excluded.position ELSE v.position END)" \
	", c AS (INSERT INTO cdi.computed_trait_counts AS c (subject, trait_id, value, events, at, position)" \
	" SELECT subject, trait_id, coalesce(value, 'null'), count(*), max(at), max(position)" \
	" FROM d WHERE aggregate = 'most_frequent' GROUP BY subject, trait_id, coalesce(value, 'null')" \
	" ON CONFLICT (subject, trait_id, value) DO UPDATE SET events = c.events + excluded.events," \
	" at = greatest(c.at, excluded.at), position = greatest(c.position, excluded.position))" \
	" SELECT count(*) FROM d"
#define EXCLUDED_COUNTS \
	"CASE v.aggregate WHEN 'first' THEN (excluded.at, excluded.position) < (v.at, v.position)" \
	" WHEN 'last' THEN (excluded.at, excluded.position) > (v.at, v.position) END"

static int64
first_int8(int column, bool *isnull)
{
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);

	return *isnull ? 0 : DatumGetInt64(value);
}

static int64
read_cursor(void)
{
	static CdiPlan plan = {.query = "SELECT position FROM cdi.computed_trait_cursor"};
	bool		isnull;

	cdi_plan_execute(&plan, NULL, NULL);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"cdi.computed_trait_cursor\" must have one row")));
	return first_int8(1, &isnull);
}

static bool
anything_pending(int64 cursor)
{
	static CdiPlan plan = {
		.query = "SELECT EXISTS (SELECT FROM cdi.computed_trait_deltas WHERE position > $1)"
		" OR EXISTS (SELECT FROM cdi.computed_traits t WHERE NOT EXISTS"
		" (SELECT FROM cdi.computed_trait_backfills b WHERE b.trait_id = t.trait_id AND b.finished_at IS NOT NULL))",
		.nargs = 1,.argtypes = {INT8OID}
	};
	bool		isnull;

	cdi_plan_execute(&plan, (Datum[]) {Int64GetDatum(cursor)}, NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static void
fold_deltas(void)
{
	static CdiPlan add = {
		.query = "WITH gone AS (DELETE FROM cdi.computed_trait_deltas WHERE position > $1 RETURNING *)"
		", d AS (SELECT g.*, t.aggregate FROM gone g JOIN cdi.computed_traits t USING (trait_id)"
		" JOIN cdi.computed_trait_backfills b ON b.trait_id = g.trait_id AND g.position > b.until)"
		ADD,
		.nargs = 1,.argtypes = {INT8OID}
	};
	static CdiPlan move = {
		.query = "UPDATE cdi.computed_trait_cursor SET position = $1 WHERE position < $1",
		.nargs = 1,.argtypes = {INT8OID}
	};
	/* before the snapshot that reads, as in resolve.c */
	int64		watermark = IsolationUsesXactSnapshot() ?
	cdi_watermark_read() : cdi_watermark_compute();

	cdi_plan_execute(&add, (Datum[]) {Int64GetDatum(read_cursor())}, NULL);
	cdi_plan_execute(&move, (Datum[]) {Int64GetDatum(watermark)}, NULL);
}

/* A trait whose history is not counted yet */
typedef struct History
{
	int32		trait_id;
	TransactionId declared_by;
	bool		bounded;
	int64		until;
	int64		counted;
} History;

static int
read_histories(History **histories)
{
	static CdiPlan plan = {
		.query = "SELECT t.trait_id, t.xmin, b.until, coalesce(b.counted, 0)"
		" FROM cdi.computed_traits t LEFT JOIN cdi.computed_trait_backfills b USING (trait_id)"
		" WHERE b.finished_at IS NULL ORDER BY t.trait_id"
	};
	int			n;

	cdi_plan_execute(&plan, NULL, NULL);
	n = SPI_processed;
	*histories = palloc(sizeof(History) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		History    *history = &(*histories)[i];
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		history->trait_id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		history->declared_by = DatumGetTransactionId(SPI_getbinval(tuple, desc, 2, &isnull));
		history->counted = DatumGetInt64(SPI_getbinval(tuple, desc, 4, &isnull));
		history->until = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));
		history->bounded = !isnull;
	}
	SPI_freetuptable(SPI_tuptable);
	return n;
}

/*
 * Where history ends.  A transaction becomes visible a moment before it tells
 * others to read the declarations anew; its own lock is held for longer than
 * that.
 */
static void
bound(History *history)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.computed_trait_backfills (trait_id, until) VALUES ($1, $2)",
		.nargs = 2,.argtypes = {INT4OID, INT8OID}
	};

	if (TransactionIdIsNormal(history->declared_by))
	{
		if (TransactionIdIsCurrentTransactionId(history->declared_by))
			return;
		XactLockTableWait(history->declared_by, NULL, NULL, XLTW_None);
	}
	history->until = cdi_position_last();
	history->bounded = true;
	cdi_plan_execute(&plan, (Datum[]) {
		Int32GetDatum(history->trait_id), Int64GetDatum(history->until)
	}, NULL);
}

/* Subjects that are looked up together */
#define SUBJECT_BATCH		32768

/*
 * Subjects of history, as an array, that were erased.  Their events stay, but
 * count for nobody (erase.c).  None is erased while this transaction has the
 * resolver's lock.  In memory are these and a batch of subjects.
 */
static Datum
erased_subjects(int32 trait_id, int64 after, int64 until)
{
	static const char *const query =
	"SELECT DISTINCT e.subject FROM cdi.computed_traits t"
	" JOIN cdi.events e ON e.type = t.type AND (t.event IS NULL OR e.event = t.event)"
	" WHERE t.trait_id = $1 AND e.position > $2 AND e.position <= $3 AND e.subject IS NOT NULL";
	ArrayBuildState *found = initArrayResult(UUIDOID, CurrentMemoryContext, true);
	MemoryContext batch_context;
	MemoryContext old;
	Portal		portal;

	if (!cdi_tombstones_any())
		return makeArrayResult(found, CurrentMemoryContext);
	cdi_keys_load();
	batch_context = AllocSetContextCreate(CurrentMemoryContext, "cdi subjects", ALLOCSET_DEFAULT_SIZES);
	portal = SPI_cursor_open_with_args(NULL, query, 3, (Oid[]) {INT4OID, INT8OID, INT8OID}, (Datum[]) {
		Int32GetDatum(trait_id), Int64GetDatum(after), Int64GetDatum(until)
	}, NULL, false, 0);
	old = MemoryContextSwitchTo(batch_context);
	for (;;)
	{
		int			n;
		pg_uuid_t  *subjects;
		bool	   *erased;

		MemoryContextReset(batch_context);
		SPI_cursor_fetch(portal, true, SUBJECT_BATCH);
		MemoryContextSwitchTo(batch_context);
		n = SPI_processed;
		if (n == 0)
			break;
		subjects = palloc(sizeof(pg_uuid_t) * n);
		erased = palloc(n);
		for (int i = 0; i < n; i++)
		{
			bool		isnull;

			subjects[i] = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		}
		SPI_freetuptable(SPI_tuptable);
		if (!cdi_tombstones_find(subjects, n, erased))
			continue;
		for (int i = 0; i < n; i++)
			if (erased[i])
				accumArrayResult(found, UUIDPGetDatum(&subjects[i]), false, UUIDOID, old);
	}
	SPI_cursor_close(portal);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(batch_context);
	return makeArrayResult(found, CurrentMemoryContext);
}

/*
 * A part of its positions.  Planned with the numbers at hand: the
 * share of the table that they take decides how it is read.
 */
static void
count_history(History *history)
{
	static const char *const count =
	"WITH d AS (SELECT e.subject, t.trait_id, t.aggregate, e.position, e.\"timestamp\" AS at, n.number, n.value"
	" FROM cdi.computed_traits t JOIN cdi.events e ON e.type = t.type AND (t.event IS NULL OR e.event = t.event),"
	" LATERAL cdi._computed_contribution(t.trait_id, e.properties) n"
	" WHERE t.trait_id = $1 AND e.position > $2 AND e.position <= $3"
	" AND e.subject IS NOT NULL AND e.subject <> ALL ($4) AND n.counts)"
	ADD;
	static CdiPlan record = {
		.query = "UPDATE cdi.computed_trait_backfills SET counted = $2,"
		" finished_at = CASE WHEN $2 = until THEN clock_timestamp() END WHERE trait_id = $1",
		.nargs = 2,.argtypes = {INT4OID, INT8OID}
	};
	int64		end = Min(history->counted + HISTORY_BATCH, history->until);
	Datum		erased;
	int			ntraits;
	int			result;

	if (cdi_watermark_compute() < history->until)
		return;
	erased = erased_subjects(history->trait_id, history->counted, end);
	/* cdi._computed_contribution() goes by what this reads */
	(void) cdi_computed_traits(&ntraits);
	result = SPI_execute_with_args(count, 4, (Oid[]) {INT4OID, INT8OID, INT8OID, UUIDARRAYOID}, (Datum[]) {
		Int32GetDatum(history->trait_id), Int64GetDatum(history->counted), Int64GetDatum(end), erased
	}, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	cdi_plan_execute(&record, (Datum[]) {
		Int32GetDatum(history->trait_id), Int64GetDatum(end)
	}, NULL);
	more_history |= end < history->until;
}

static void
go_on_with_history(void)
{
	History    *histories;
	int			n;

	/* Its snapshot is older than what would have to be seen. */
	if (IsolationUsesXactSnapshot())
		return;
	n = read_histories(&histories);
	for (int i = 0; i < n; i++)
	{
		if (!histories[i].bounded)
			bound(&histories[i]);
		if (histories[i].bounded)
			count_history(&histories[i]);
	}
	pfree(histories);
	if (more_history)
		cdi_worker_wake_at_commit(CDI_WAKE_KEEPER);
}

void
cdi_computed_fold(void)
{
	int			count;
	int			nestlevel;

	more_history = false;
	(void) cdi_computed_traits(&count);
	if (count == 0)
		return;
	nestlevel = NewGUCNestLevel();
	/* Whatever the planner believes of a table that is mostly empty */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (anything_pending(read_cursor()))
	{
		cdi_resolver_lock();
		fold_deltas();
		AtEOXact_GUC(true, nestlevel);
		nestlevel = NewGUCNestLevel();
		go_on_with_history();
	}
	AtEOXact_GUC(true, nestlevel);
}

bool
cdi_computed_more_history(void)
{
	return more_history;
}

PG_FUNCTION_INFO_V1(cdi_forget_computed_trait);

/* cdi._forget_computed_trait(trait_id): the declaration is gone already. */
Datum
cdi_forget_computed_trait(PG_FUNCTION_ARGS)
{
	static const char *const tables[] = {
		"computed_trait_values", "computed_trait_counts", "computed_trait_backfills"
	};
	CdiOwnerScope scope;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_resolver_lock();
	for (int i = 0; i < lengthof(tables); i++)
	{
		char	   *query = psprintf("DELETE FROM cdi.%s WHERE trait_id = $1", tables[i]);
		Datum		trait_id = PG_GETARG_DATUM(0);

		if (SPI_execute_with_args(query, 1, (Oid[]) {INT4OID}, &trait_id, NULL, false, 0) < 0)
			elog(ERROR, "could not empty cdi.%s", tables[i]);
	}
	SPI_finish();
	cdi_owner_leave(&scope);
	PG_RETURN_VOID();
}
