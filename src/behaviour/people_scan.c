/*
 * people_scan.c
 *		The executor's node for aggregates over the events of each person.
 *
 * Stands where the server would put an aggregate over a hash table of people:
 * that misses the cache several times per row, and its groups cannot be divided
 * over workers without handing them from one to another.  Here rows are divided
 * by person (people_store.c), in a parallel plan by all processes together, and
 * each person is then met once, by one of them.
 *
 * The plan below delivers the key and the arguments of the aggregate.  They are
 * read by the code of its transition function, and its final function makes the
 * result of the same state.
 */
#include "behaviour/people.h"

#include "access/parallel.h"
#include "catalog/pg_collation.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_agg.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

typedef struct PeopleScan
{
	CustomScanState css;
	CdiPeopleKey key;
	const CdiPeopleAggregate *aggregate;
	int			narguments;
	bool		filter;
	FmgrInfo	transition;
	FunctionCallInfo row;		/* arguments of the transition function */
	int			nconditions;	/* -1: an array */
	const text *texts[CDI_MAX_CONDITIONS];	/* what the column must be; NULL: it is the condition */
	FmgrInfo	final;
	FunctionCallInfo result;

	double		rows;			/* that are expected, of all processes */
	MemoryContext context;		/* of store and people */
	CdiPeopleShared *shared;	/* NULL: this process only */
	CdiPeopleStore *store;		/* NULL: nothing is collected yet */
	CdiPeople *people;
	bool		prepared;		/* by the first row */
	bool		unmatched;		/* rows that meet no condition are kept */
	const void *settings;
	Size		settings_size;
	CdiPeopleUsage usage;
} PeopleScan;

static void
check_executable(Oid function, Oid user)
{
	AclResult	result = pg_proc_aclcheck(function, user, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

static Oid
owner_of(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	PeopleScan *self = (PeopleScan *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;
	Aggref	   *aggregate = castNode(Aggref, ((TargetEntry *) lsecond(plan->custom_scan_tlist))->expr);
	Expr	   *key = ((TargetEntry *) linitial(plan->custom_scan_tlist))->expr;
	Plan	   *child = linitial(plan->custom_plans);
	Oid			transition = list_nth_oid(plan->custom_private, CDI_PEOPLE_PLAN_TRANSITION);
	Oid			final = list_nth_oid(plan->custom_private, CDI_PEOPLE_PLAN_FINAL);
	Oid			types[FUNC_MAX_ARGS];
	Expr	   *expression;
	Oid			owner;

	/* As the server's own aggregation checks it */
	check_executable(aggregate->aggfnoid, GetUserId());
	owner = owner_of(aggregate->aggfnoid);
	check_executable(transition, owner);
	check_executable(final, owner);

	self->narguments = get_aggregate_argtypes(aggregate, types);
	self->filter = aggregate->aggfilter != NULL;
	get_typlenbyval(exprType((Node *) key), &self->key.typlen, &self->key.typbyval);

	build_aggregate_transfn_expr(types, self->narguments, 0, aggregate->aggvariadic, INTERNALOID,
								 aggregate->inputcollid, transition, InvalidOid, &expression, NULL);
	fmgr_info(transition, &self->transition);
	fmgr_info_set_expr((Node *) expression, &self->transition);
	self->aggregate = cdi_people_aggregate(self->transition.fn_addr, self->narguments);
	if (self->aggregate == NULL)
		elog(ERROR, "function %u is no transition function of an aggregate over people", transition);
	self->row = palloc0(SizeForFunctionCallInfo(self->narguments + 1));
	InitFunctionCallInfoData(*self->row, &self->transition, self->narguments + 1, aggregate->inputcollid, NULL, NULL);

	build_aggregate_finalfn_expr(types, 1, INTERNALOID, aggregate->aggtype, aggregate->inputcollid, final, &expression);
	fmgr_info(final, &self->final);
	fmgr_info_set_expr((Node *) expression, &self->final);
	self->result = palloc0(SizeForFunctionCallInfo(1));
	InitFunctionCallInfoData(*self->result, &self->final, 1, aggregate->inputcollid, NULL, NULL);

	if (self->aggregate->conditions > 0)
		self->nconditions = aggregate->aggvariadic ? -1 : self->narguments + 1 - self->aggregate->conditions;
	/* More than there may be is refused when the first row comes. */
	for (int i = 0; i < Min(self->nconditions, CDI_MAX_CONDITIONS); i++)
	{
		TargetEntry *condition = list_nth(aggregate->args, self->aggregate->conditions - 1 + i);
		Expr	   *value;
		Const	   *wanted = cdi_people_text_equality(condition->expr, &value);

		if (wanted)
			self->texts[i] = DatumGetTextPP(wanted->constvalue);
	}

	self->rows = child->plan_rows;
	self->context = AllocSetContextCreate(CurrentMemoryContext, "cdi people", ALLOCSET_DEFAULT_SIZES);
	node->custom_ps = list_make1(ExecInitNode(child, estate, eflags & ~(EXEC_FLAG_REWIND | EXEC_FLAG_BACKWARD | EXEC_FLAG_MARK)));
}

/* What the first row says about all.  Raises what the transition function would. */
static void
prepare(PeopleScan *self, const TupleTableSlot *slot)
{
	/* column 0 is the key, and arguments are numbered from 1 */
	for (int i = 1; i <= self->narguments; i++)
	{
		self->row->args[i].value = slot->tts_values[i];
		self->row->args[i].isnull = slot->tts_isnull[i];
	}
	if (self->aggregate->prepare)
		self->settings = self->aggregate->prepare(self->row, &self->settings_size, &self->unmatched);
	self->prepared = true;
}

/* As texteq() says, which looks its collation up every time. */
static inline bool
is_text(Datum value, const text *wanted)
{
	const text *given = (const text *) DatumGetPointer(value);

	if (VARATT_IS_EXTENDED(given) && !VARATT_IS_SHORT(given))
		return DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, value, PointerGetDatum(wanted)));
	return VARSIZE_ANY_EXHDR(given) == VARSIZE_ANY_EXHDR(wanted) &&
		memcmp(VARDATA_ANY(given), VARDATA_ANY(wanted), VARSIZE_ANY_EXHDR(given)) == 0;
}

static inline uint32
read_conditions(PeopleScan *self, const TupleTableSlot *slot)
{
	int			first = self->aggregate->conditions;
	uint32		conditions = 0;

	if (first == 0)
		return 1;
	if (self->nconditions < 0)
	{
		self->row->args[first].value = slot->tts_values[first];
		self->row->args[first].isnull = slot->tts_isnull[first];
		return self->aggregate->read_array(self->row);
	}
	for (int i = 0; i < self->nconditions; i++)
	{
		Datum		value = slot->tts_values[first + i];

		if (!slot->tts_isnull[first + i] &&
			(self->texts[i] ? is_text(value, self->texts[i]) : DatumGetBool(value)))
			conditions |= UINT32_C(1) << i;
	}
	return conditions;
}

/* False where the row only says that there is the person. */
static inline bool
read_row(PeopleScan *self, const TupleTableSlot *slot, CdiPeopleEntry *entry)
{
	int			filter = self->narguments + 1;
	int			timestamp = self->aggregate->timestamp;

	if (self->filter && (slot->tts_isnull[filter] || !DatumGetBool(slot->tts_values[filter])))
		return false;
	if (!self->prepared)
		prepare(self, slot);
	entry->conditions = read_conditions(self, slot);
	if (slot->tts_isnull[timestamp] || (entry->conditions == 0 && !self->unmatched))
		return false;
	entry->at = DatumGetTimestampTz(slot->tts_values[timestamp]);
	self->aggregate->check_time(entry->at);
	return true;
}

static void
collect(PeopleScan *self)
{
	PlanState  *child = linitial(self->css.custom_ps);
	ExprContext *econtext = self->css.ss.ps.ps_ExprContext;
	MemoryContext previous = CurrentMemoryContext;

	self->prepared = false;
	self->settings = NULL;
	self->store = cdi_people_store_open(self->context, &self->key, self->rows, self->shared,
										self->css.ss.ps.state->es_query_dsa, ParallelWorkerNumber + 1);
	self->people = cdi_people_open(self->context, &self->key, self->aggregate);
	if (cdi_people_store_begin(self->store))
	{
		for (;;)
		{
			TupleTableSlot *slot = ExecProcNode(child);
			CdiPeopleEntry entry;

			if (TupIsNull(slot))
				break;
			slot_getallattrs(slot);
			ResetExprContext(econtext);
			MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
			if (!read_row(self, slot, &entry))
			{
				entry.at = CDI_PEOPLE_NO_TIME;
				entry.conditions = 0;
			}
			cdi_people_store_add(self->store, slot->tts_values[0], slot->tts_isnull[0], &entry);
			MemoryContextSwitchTo(previous);
		}
	}
	self->settings = cdi_people_store_finish(self->store, self->settings, self->settings_size);
}

static TupleTableSlot *
next_person(ScanState *ss)
{
	PeopleScan *self = (PeopleScan *) ss;
	TupleTableSlot *slot = ss->ss_ScanTupleSlot;
	void	   *state;
	MemoryContext previous;

	ExecClearTuple(slot);
	if (self->store == NULL)
		collect(self);
	if (!cdi_people_next(self->people, self->store, self->settings,
								&slot->tts_values[0], &slot->tts_isnull[0], &state))
		return slot;
	self->result->args[0].value = PointerGetDatum(state);
	self->result->args[0].isnull = state == NULL;
	self->result->isnull = false;
	previous = MemoryContextSwitchTo(ss->ps.ps_ExprContext->ecxt_per_tuple_memory);
	slot->tts_values[1] = FunctionCallInvoke(self->result);
	slot->tts_isnull[1] = self->result->isnull;
	MemoryContextSwitchTo(previous);
	return ExecStoreVirtualTuple(slot);
}

static bool
recheck_person(ScanState *ss, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_person, recheck_person);
}

/* In a parallel plan that of all processes, of which this need not be one. */
static void
note_usage(PeopleScan *self)
{
	if (self->shared)
		cdi_people_shared_usage(self->shared, &self->usage);
	else if (self->store)
		cdi_people_store_usage(self->store, &self->usage);
}

static void
close_store(PeopleScan *self)
{
	note_usage(self);
	if (self->store)
		cdi_people_store_close(self->store);
	self->store = NULL;
	self->people = NULL;
	MemoryContextReset(self->context);
}

static void
end_scan(CustomScanState *node)
{
	close_store((PeopleScan *) node);
	ExecEndNode(linitial(node->custom_ps));
}

static void
rescan(CustomScanState *node)
{
	PlanState  *child = linitial(node->custom_ps);

	close_store((PeopleScan *) node);
	if (node->ss.ps.chgParam)
		UpdateChangedParamSet(child, node->ss.ps.chgParam);
	if (child->chgParam == NULL)
		ExecReScan(child);
	ExecScanReScan(&node->ss);
}

/* Parallel plans */

static Size
estimate_dsm(CustomScanState *node, ParallelContext *pcxt)
{
	return cdi_people_shared_size(pcxt->nworkers + 1);
}

static void
initialize_dsm(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
	PeopleScan *self = (PeopleScan *) node;

	/* Without a segment there are no workers. */
	if (pcxt->seg == NULL)
		return;
	self->shared = coordinate;
	cdi_people_shared_init(self->shared, pcxt->nworkers + 1, self->rows * (pcxt->nworkers + 1), pcxt->seg);
}

static void
reinitialize_dsm(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
	PeopleScan *self = (PeopleScan *) node;

	if (pcxt->seg == NULL)
		return;
	self->shared = coordinate;
	cdi_people_shared_reset(self->shared, node->ss.ps.state->es_query_dsa);
}

static void
initialize_worker(CustomScanState *node, shm_toc *toc, void *coordinate)
{
	PeopleScan *self = (PeopleScan *) node;

	self->shared = coordinate;
	cdi_people_shared_attach(self->shared);
}

/* Before shared memory goes.  A cursor comes here after each FETCH, without workers. */
static void
shutdown_scan(CustomScanState *node)
{
	PeopleScan *self = (PeopleScan *) node;

	if (self->shared)
		close_store(self);
	self->shared = NULL;
}

static void
explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	PeopleScan *self = (PeopleScan *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;
	TargetEntry *key = linitial(plan->custom_scan_tlist);
	List	   *context = set_deparse_context_plan(es->deparse_cxt, (Plan *) plan, ancestors);

	ExplainPropertyText("Group Key", deparse_expression((Node *) key->expr, context, es->verbose || list_length(es->rtable) > 1, false), es);
	if (!es->analyze)
		return;
	note_usage(self);
	ExplainPropertyUInteger("Parts", NULL, self->usage.parts, es);
	ExplainPropertyUInteger("Memory Usage", "kB", self->usage.memory / 1024, es);
	if (self->usage.disk > 0)
		ExplainPropertyUInteger("Disk Usage", "kB", self->usage.disk / 1024, es);
}

static const CustomExecMethods exec_methods = {
	.CustomName = CDI_PEOPLE_SCAN_NAME,
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = exec_scan,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
	.EstimateDSMCustomScan = estimate_dsm,
	.InitializeDSMCustomScan = initialize_dsm,
	.ReInitializeDSMCustomScan = reinitialize_dsm,
	.InitializeWorkerCustomScan = initialize_worker,
	.ShutdownCustomScan = shutdown_scan,
	.ExplainCustomScan = explain_scan,
};

static Node *
create_state(CustomScan *plan)
{
	PeopleScan *self = palloc0(sizeof(PeopleScan));

	NodeSetTag(self, T_CustomScanState);
	self->css.methods = &exec_methods;
	return (Node *) self;
}

const CustomScanMethods cdi_people_scan_methods = {
	.CustomName = CDI_PEOPLE_SCAN_NAME,
	.CreateCustomScanState = create_state,
};
