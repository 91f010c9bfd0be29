/*
 * unmerge.c
 *		Take evidence back, and fold again what hung together by it.
 *
 * Evidence is revoked, not deleted: a link as a whole, or an identifier in
 * every link that has been folded so far.  The identifiers stay named with the
 * folds they were born in, but are united by it no more.  Then the part of the
 * graph that hangs together with them, the refused identifiers included, is
 * folded again from its own links (history.c), which gives just what a rebuild
 * from all links would give.  A person's id is the key of its first
 * identifier, so it stays with the part that has that one: the oldest.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/errors.h"
#include "identity/identity.h"

/*
 * Persons that were absorbed, of those whose own identifiers are in $1, by
 * merges that came about by folding again.  The link that made one is known, but
 * not the number of its fold, which only a pass over its run would tell.  So
 * such merges are numbered downwards from -1.
 */
static void
record_merges(const CdiFolded *folded, Datum absorbed)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_merge_log (merge_id, survivor, absorbed, position, identifier, merged_at)"
		" SELECT least((SELECT min(merge_id) FROM cdi.identity_merge_log), 0) - row_number() OVER (ORDER BY m.position, m.absorbed),"
		" m.survivor, m.absorbed, m.position, m.identifier, m.merged_at"
		" FROM unnest($1, $2, $3, $4, $5) AS m (survivor, absorbed, position, identifier, merged_at)"
		" WHERE m.absorbed IN (SELECT unnest($6))",
		.nargs = 6,.argtypes = {
			UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID
		}
	};
	int			n = folded->nmerges;
	Datum	   *columns[5];

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc_extended(sizeof(Datum) * Max(n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		CdiMerge   *merge = &folded->merges[i];

		columns[0][i] = UUIDPGetDatum(&merge->survivor);
		columns[1][i] = UUIDPGetDatum(&merge->absorbed);
		columns[2][i] = Int64GetDatum(merge->position);
		columns[3][i] = UUIDPGetDatum(&merge->identifier);
		columns[4][i] = TimestampTzGetDatum(merge->merged_at);
	}
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_uuid_array(columns[0], n), cdi_uuid_array(columns[1], n), cdi_int8_array(columns[2], n),
			cdi_uuid_array(columns[3], n), cdi_timestamptz_array(columns[4], n), absorbed
	}, NULL);
}

/* Write persons that differ from the map's, and say who became whom. */
static void
write_changes(CdiGraph *graph, const CdiFolded *folded, int64 revocation, Tuplestorestate *result, TupleDesc desc)
{
	static CdiPlan differing = {
		.query = "SELECT c.identifier, m.person_id, c.person_id"
		" FROM unnest($1, $2) AS c (identifier, person_id) JOIN cdi.identity_map m USING (identifier)"
		" WHERE m.person_id <> c.person_id",
		.nargs = 2,.argtypes = {UUIDARRAYOID, UUIDARRAYOID}
	};
	static CdiPlan update = {
		.query = "UPDATE cdi.identity_map m SET person_id = c.person_id"
		" FROM unnest($1, $2) AS c (identifier, person_id) WHERE m.identifier = c.identifier",
		.nargs = 2,.argtypes = {UUIDARRAYOID, UUIDARRAYOID}
	};
	static CdiPlan record = {
		.query = "INSERT INTO cdi.identity_splits (revocation_id, person_id, became, identifiers)"
		" SELECT nullif($1, 0), s.person_id, s.became, count(*) FROM unnest($2, $3) AS s (person_id, became)"
		" GROUP BY s.person_id, s.became ORDER BY count(*) DESC, s.became"
		" RETURNING person_id, became, identifiers",
		.nargs = 3,.argtypes = {INT8OID, UUIDARRAYOID, UUIDARRAYOID}
	};
	Datum	   *identifiers = palloc_extended(sizeof(Datum) * Max(graph->count, 1), MCXT_ALLOC_HUGE);
	Datum	   *persons = palloc_extended(sizeof(Datum) * Max(graph->count, 1), MCXT_ALLOC_HUGE);
	Datum	   *old;
	Datum	   *absorbed;
	int			n;
	int			nabsorbed = 0;
	int			nestlevel = cdi_force_index_plans();

	for (uint32 i = 0; i < graph->count; i++)
	{
		identifiers[i] = UUIDPGetDatum(&cdi_graph_node(graph, i)->key);
		persons[i] = UUIDPGetDatum(&cdi_graph_node(graph, cdi_graph_find(graph, i))->key);
	}
	cdi_plan_execute(&differing, (Datum[]) {
		cdi_uuid_array(identifiers, graph->count), cdi_uuid_array(persons, graph->count)
	}, NULL);
	n = SPI_processed;
	if (n == 0)
	{
		AtEOXact_GUC(true, nestlevel);
		return;
	}
	old = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	absorbed = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		identifiers[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		old[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);
		persons[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &isnull);
		/* of those who were a person, their own identifier */
		if (memcmp(DatumGetUUIDP(old[i]), DatumGetUUIDP(identifiers[i]), UUID_LEN) == 0)
			absorbed[nabsorbed++] = identifiers[i];
	}
	cdi_plan_execute(&update, (Datum[]) {
		cdi_uuid_array(identifiers, n), cdi_uuid_array(persons, n)
	}, NULL);
	AtEOXact_GUC(true, nestlevel);
	if (nabsorbed > 0)
		record_merges(folded, cdi_uuid_array(absorbed, nabsorbed));
	cdi_plan_execute(&record, (Datum[]) {
		Int64GetDatum(revocation), cdi_uuid_array(old, n), cdi_uuid_array(persons, n)
	}, NULL);
	for (uint64 i = 0; i < SPI_processed && result != NULL; i++)
	{
		Datum		values[3];
		bool		nulls[3];

		for (int c = 0; c < 3; c++)
			values[c] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		tuplestore_putvalues(result, desc, values, nulls);
	}
}

void
cdi_refold(const pg_uuid_t *seeds, int n, int64 revocation, Tuplestorestate *result, TupleDesc desc)
{
	CdiGraph   *graph = cdi_graph_create(CurrentMemoryContext);
	CdiHistory *history;

	(void) cdi_push_snapshot();
	history = cdi_history_open_closure(seeds, n, DT_NOEND, PG_INT64_MAX);
	while (cdi_history_fold(history, graph))
		 /* all of them */ ;
	PopActiveSnapshot();
	write_changes(graph, &history->folded, revocation, result, desc);
	cdi_history_close(history);
	cdi_graph_destroy(graph);
}

/*
 * cdi_unmerge
 */
typedef enum Argument
{
	ARG_TYPE,
	ARG_VALUE,
	ARG_LINK,
	ARG_EVENT,
	ARG_MERGE,
	ARG_REASON
} Argument;

static void
unknown_evidence(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
			 errmsg("there is no such %s", what),
			 errhint("%s", hint)));
}

static void
already_undone(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_ALREADY_UNDONE),
			 errmsg("the %s is undone already", what),
			 errhint("cdi.identity_revocations has when and by whom.")));
}

/* Revoke a link; returns the revocation. */
static int64
revoke_link(const char *kind, int64 position, const char *user, Datum reason, bool no_reason)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_revocations (kind, position, revoked_by, reason)"
		" SELECT $1, $2, $3, $4"
		" WHERE NOT EXISTS (SELECT FROM cdi.identity_revocations WHERE position = $2)"
		" RETURNING revocation_id",
		.nargs = 4,.argtypes = {TEXTOID, INT8OID, NAMEOID, TEXTOID}
	};
	bool		isnull;

	cdi_plan_execute(&plan, (Datum[]) {
		CStringGetTextDatum(kind), Int64GetDatum(position),
			DirectFunctionCall1(namein, CStringGetDatum(user)), reason
	}, no_reason ? "   n" : NULL);
	return SPI_processed == 0 ? 0 :
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Links that are meant: of a position, an event or a merge */
static uint64
find_links(Argument by, Datum value)
{
	static CdiPlan by_link = {
		.query = "SELECT position, identifiers FROM cdi.identity_links WHERE position = $1",
		.nargs = 1,.argtypes = {INT8OID}
	};
	static CdiPlan by_event = {
		.query = "SELECT position, identifiers FROM cdi.identity_links WHERE event_id = $1 AND cardinality(identifiers) > 1",
		.nargs = 1,.argtypes = {UUIDOID}
	};
	static CdiPlan by_merge = {
		.query = "SELECT l.position, l.identifiers FROM cdi.identity_merge_log m"
		" JOIN cdi.identity_links l USING (position) WHERE m.merge_id = $1",
		.nargs = 1,.argtypes = {INT8OID}
	};

	cdi_plan_execute(by == ARG_LINK ? &by_link : by == ARG_EVENT ? &by_event : &by_merge, &value, NULL);
	return SPI_processed;
}

static void
unmerge_links(Argument by, Datum value, const char *user, Datum reason, bool no_reason, ReturnSetInfo *result)
{
	static const char *const names[] = {[ARG_LINK] = "link",[ARG_EVENT] = "event",[ARG_MERGE] = "merge"};
	uint64		n = find_links(by, value);
	SPITupleTable *links = SPI_tuptable;
	int64		revocation = 0;

	if (n == 0)
		unknown_evidence(by == ARG_EVENT ? "event that links identifiers" : names[by],
						 by == ARG_MERGE ? "cdi.identity_merges.merge_id numbers the merges." :
						 "cdi_explain_identity() shows the links between two identifiers.");
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		int64		position = DatumGetInt64(SPI_getbinval(links->vals[i], links->tupdesc, 1, &isnull));
		int64		revoked;
		int			nkeys;
		pg_uuid_t  *keys = cdi_uuids(SPI_getbinval(links->vals[i], links->tupdesc, 2, &isnull), &nkeys);

		if (nkeys < 2)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
					 errmsg("the %s unites nothing", names[by]),
					 errdetail("It names %d identifier(s).", nkeys)));
		revoked = revoke_link(names[by], position, user, reason, no_reason);
		if (revoked == 0)
			continue;
		revocation = revoked;
		cdi_refold(keys, nkeys, revocation, result->setResult, result->setDesc);
	}
	if (revocation == 0)
		already_undone(names[by]);
}

static void
unmerge_identifier(const char *type, CdiText value, const char *user, Datum reason, bool no_reason,
				   ReturnSetInfo *result)
{
	static CdiPlan mentions = {
		.query = "SELECT count(*) FROM cdi.identity_links l"
		" LEFT JOIN cdi.identity_ahead a USING (position)"
		" LEFT JOIN LATERAL (SELECT run FROM cdi.identity_runs WHERE watermark >= l.position"
		" ORDER BY watermark, run LIMIT 1) r ON true"
		" WHERE l.identifiers && ARRAY[$1] AND cardinality(l.identifiers) > 1"
		" AND coalesce(a.run, r.run) > coalesce((SELECT max(until_run) FROM cdi.identity_revocations"
		" WHERE identifier = $1 AND position IS NULL), $2)",
		.nargs = 2,.argtypes = {UUIDOID, INT8OID}
	};
	static CdiPlan revoke = {
		.query = "INSERT INTO cdi.identity_revocations (kind, identifier, until_run, revoked_by, reason)"
		" SELECT 'identifier', $1, max(run), $2, $3 FROM cdi.identity_runs RETURNING revocation_id",
		.nargs = 3,.argtypes = {UUIDOID, NAMEOID, TEXTOID}
	};
	pg_uuid_t	key;
	bool		isnull;

	if (!cdi_identifier_key_of(cdi_identifier_type(type), value, &key))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
				 errmsg("the value identifies nobody"),
				 errdetail("It is blocked, empty or malformed for type \"%s\".", type)));
	cdi_plan_execute(&mentions, (Datum[]) {UUIDPGetDatum(&key), Int64GetDatum(-1)}, NULL);
	if (DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) == 0)
	{
		static CdiPlan any = {
			.query = "SELECT FROM cdi.identity_revocations WHERE identifier = $1 AND position IS NULL",
			.nargs = 1,.argtypes = {UUIDOID}
		};

		cdi_plan_execute(&any, (Datum[]) {UUIDPGetDatum(&key)}, NULL);
		if (SPI_processed > 0)
			already_undone("linking of the identifier");
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_EVIDENCE),
				 errmsg("no link unites the identifier with another")));
	}
	cdi_plan_execute(&revoke, (Datum[]) {
		UUIDPGetDatum(&key), DirectFunctionCall1(namein, CStringGetDatum(user)), reason
	}, no_reason ? "  n" : NULL);
	cdi_refold(&key, 1, DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)),
			   result->setResult, result->setDesc);
}

PG_FUNCTION_INFO_V1(cdi_unmerge);

Datum
cdi_unmerge(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		by_identifier = !PG_ARGISNULL(ARG_TYPE) || !PG_ARGISNULL(ARG_VALUE);
	int			ways = by_identifier + !PG_ARGISNULL(ARG_LINK) + !PG_ARGISNULL(ARG_EVENT) + !PG_ARGISNULL(ARG_MERGE);
	Datum		reason = PG_ARGISNULL(ARG_REASON) ? (Datum) 0 : PG_GETARG_DATUM(ARG_REASON);
	CdiOwnerScope scope;
	char	   *user;
	int			nestlevel;

	cdi_prevent_in_recovery("cdi_unmerge");
	PreventCommandIfReadOnly("cdi_unmerge()");
	PreventCommandIfParallelMode("cdi_unmerge()");
	cdi_require_storage();
	if (ways != 1 || (by_identifier && (PG_ARGISNULL(ARG_TYPE) || PG_ARGISNULL(ARG_VALUE))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cdi_unmerge() needs to know one thing that is to be undone"),
				 errhint("Give an identifier's type and value, or link => position, or event => event id, or merge => merge id.")));
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	user = GetUserNameFromId(scope.save_userid, false);
	SPI_connect();
	cdi_resolver_lock();
	(void) cdi_resolve_links();
	cdi_resolver_mark();
	nestlevel = cdi_force_index_plans();
	if (by_identifier)
	{
		text	   *value = PG_GETARG_TEXT_PP(ARG_VALUE);

		unmerge_identifier(text_to_cstring(PG_GETARG_TEXT_PP(ARG_TYPE)),
						   (CdiText) {VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)},
						   user, reason, PG_ARGISNULL(ARG_REASON), result);
	}
	else
	{
		Argument	by = !PG_ARGISNULL(ARG_LINK) ? ARG_LINK : !PG_ARGISNULL(ARG_EVENT) ? ARG_EVENT : ARG_MERGE;

		unmerge_links(by, PG_GETARG_DATUM(by), user, reason, PG_ARGISNULL(ARG_REASON), result);
	}
	AtEOXact_GUC(true, nestlevel);
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}
