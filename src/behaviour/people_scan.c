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
 * The plan below delivers the keys and the arguments of the aggregates.  They are
 * read by the code of their transition functions, and their final functions make
 * the results of the same states.
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

/* An aggregate's transition */
typedef struct Call
{
	const CdiPeopleAggregate *aggregate;
	int			column;			/* of what comes from below: before its first argument */
	int			narguments;
	bool		filter;			/* in the column after the arguments */
	FmgrInfo	transition;
	FunctionCallInfo row;		/* arguments of the transition function */
	int			nconditions;	/* -1: an array */
	const text *texts[CDI_MAX_CONDITIONS];	/* what the column must be; NULL: it is the condition */
	bool		prepared;		/* by the first row */
	bool		unmatched;		/* rows that meet no condition are kept */
} Call;

/* An aggregate's result */
typedef struct Output
{
	int			call;
	FmgrInfo	final;
	FunctionCallInfo state;		/* argument of the final function */
} Output;

typedef struct PeopleScan
{
	CustomScanState css;
	int			nkeys;
	CdiPeopleKey keys[CDI_PEOPLE_MAX_KEYS];
	StringInfoData packed;		/* of several keys */
	int			ncalls;
	Call	   *calls;
	const CdiPeopleAggregate *aggregates[CDI_PEOPLE_MAX_AGGREGATES];	/* by call */
	int			nresults;
	Output	   *results;

	double		rows;			/* that are expected, of all processes */
	MemoryContext context;		/* of store and people */
	CdiPeopleShared *shared;	/* NULL: this process only */
	CdiPeopleStore *store;		/* NULL: nothing is collected yet */
	CdiPeople *people;
	CdiPeopleSettings settings[CDI_PEOPLE_MAX_AGGREGATES];
	CdiPeopleUsage usage;
} PeopleScan;

static void
check_executable(Oid function, Oid user)
{
#if PG_VERSION_NUM >= 160000
	AclResult	result = object_aclcheck(ProcedureRelationId, function, user, ACL_EXECUTE);
#else
	AclResult	result = pg_proc_aclcheck(function, user, ACL_EXECUTE);
#endif

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

static Aggref *
result_of(const CustomScan *plan, int result)
{
	const List *finals = list_nth(plan->custom_private, CDI_PEOPLE_PLAN_FINALS);
	int			nkeys = list_length(plan->custom_scan_tlist) - list_length(finals);

	return castNode(Aggref, ((TargetEntry *) list_nth(plan->custom_scan_tlist, nkeys + result))->expr);
}

static void
open_call(Call *call, const Aggref *aggregate, Oid transition, int column)
{
	Oid			types[FUNC_MAX_ARGS];
	Expr	   *expression;

	call->column = column;
	call->narguments = get_aggregate_argtypes((Aggref *) aggregate, types);
	call->filter = aggregate->aggfilter != NULL;
	build_aggregate_transfn_expr(types, call->narguments, 0, aggregate->aggvariadic, INTERNALOID,
								 aggregate->inputcollid, transition, InvalidOid, &expression, NULL);
	fmgr_info(transition, &call->transition);
	fmgr_info_set_expr((Node *) expression, &call->transition);
	call->aggregate = cdi_people_aggregate(call->transition.fn_addr, call->narguments);
	if (call->aggregate == NULL)
		elog(ERROR, "function %u is no transition function of an aggregate over people", transition);
	call->row = palloc0(SizeForFunctionCallInfo(call->narguments + 1));
	InitFunctionCallInfoData(*call->row, &call->transition, call->narguments + 1, aggregate->inputcollid, NULL, NULL);

	if (call->aggregate->conditions > 0)
		call->nconditions = aggregate->aggvariadic ? -1 : call->narguments + 1 - call->aggregate->conditions;
	/* More than there may be is refused when the first row comes. */
	for (int i = 0; i < Min(call->nconditions, CDI_MAX_CONDITIONS); i++)
	{
		TargetEntry *condition = list_nth(aggregate->args, call->aggregate->conditions - 1 + i);
		Expr	   *value;
		Const	   *wanted = cdi_people_text_equality(condition->expr, &value);

		if (wanted)
			call->texts[i] = DatumGetTextPP(wanted->constvalue);
	}
}

static void
open_result(Output *result, const Aggref *aggregate, Oid final, int call)
{
	Oid			types[FUNC_MAX_ARGS];
	Expr	   *expression;

	get_aggregate_argtypes((Aggref *) aggregate, types);
	build_aggregate_finalfn_expr(types, 1, INTERNALOID, aggregate->aggtype, aggregate->inputcollid, final, &expression);
	fmgr_info(final, &result->final);
	fmgr_info_set_expr((Node *) expression, &result->final);
	result->state = palloc0(SizeForFunctionCallInfo(1));
	InitFunctionCallInfoData(*result->state, &result->final, 1, aggregate->inputcollid, NULL, NULL);
	result->call = call;
}

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	PeopleScan *self = (PeopleScan *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;
	const List *transitions = list_nth(plan->custom_private, CDI_PEOPLE_PLAN_TRANSITIONS);
	const List *finals = list_nth(plan->custom_private, CDI_PEOPLE_PLAN_FINALS);
	const List *transition_of = list_nth(plan->custom_private, CDI_PEOPLE_PLAN_TRANSITION_OF);
	Plan	   *child = linitial(plan->custom_plans);
	int			column;

	self->nresults = list_length(finals);
	self->nkeys = list_length(plan->custom_scan_tlist) - self->nresults;
	for (int i = 0; i < self->nkeys; i++)
	{
		TargetEntry *key = list_nth(plan->custom_scan_tlist, i);

		get_typlenbyval(exprType((Node *) key->expr), &self->keys[i].typlen, &self->keys[i].typbyval);
	}
	initStringInfo(&self->packed);

	self->ncalls = list_length(transitions);
	self->calls = palloc0(sizeof(Call) * self->ncalls);
	self->results = palloc0(sizeof(Output) * self->nresults);
	column = self->nkeys - 1;
	for (int i = 0; i < self->ncalls; i++)
	{
		Call	   *call = &self->calls[i];
		Oid			transition = list_nth_oid(transitions, i);

		for (int r = 0; r < self->nresults; r++)
		{
			const Aggref *aggregate = result_of(plan, r);
			Oid			owner;

			if (list_nth_int(transition_of, r) != i)
				continue;
			/* As the server's own aggregation checks it */
			check_executable(aggregate->aggfnoid, GetUserId());
			owner = owner_of(aggregate->aggfnoid);
			check_executable(transition, owner);
			check_executable(list_nth_oid(finals, r), owner);
			if (call->aggregate == NULL)
				open_call(call, aggregate, transition, column);
			open_result(&self->results[r], aggregate, list_nth_oid(finals, r), i);
		}
		self->aggregates[i] = call->aggregate;
		column += call->narguments + call->filter;
	}

	self->rows = child->plan_rows;
	self->context = AllocSetContextCreate(CurrentMemoryContext, "cdi people", ALLOCSET_DEFAULT_SIZES);
	node->custom_ps = list_make1(ExecInitNode(child, estate, eflags & ~(EXEC_FLAG_REWIND | EXEC_FLAG_BACKWARD | EXEC_FLAG_MARK)));
}

/* What the first row says about all.  Raises what the transition function would. */
static void
prepare(Call *call, const TupleTableSlot *slot, CdiPeopleSettings *settings)
{
	/* arguments are numbered from 1 */
	for (int i = 1; i <= call->narguments; i++)
	{
		call->row->args[i].value = slot->tts_values[call->column + i];
		call->row->args[i].isnull = slot->tts_isnull[call->column + i];
	}
	if (call->aggregate->prepare)
		settings->data = call->aggregate->prepare(call->row, &settings->size, &call->unmatched);
	call->prepared = true;
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
read_conditions(Call *call, const TupleTableSlot *slot)
{
	int			first = call->aggregate->conditions;
	const Datum *values = &slot->tts_values[call->column + first];
	const bool *isnull = &slot->tts_isnull[call->column + first];
	uint32		conditions = 0;

	if (first == 0)
		return 1;
	if (call->nconditions < 0)
	{
		call->row->args[first].value = values[0];
		call->row->args[first].isnull = isnull[0];
		return call->aggregate->read_array(call->row);
	}
	for (int i = 0; i < call->nconditions; i++)
	{
		if (!isnull[i] &&
			(call->texts[i] ? is_text(values[i], call->texts[i]) : DatumGetBool(values[i])))
			conditions |= UINT32_C(1) << i;
	}
	return conditions;
}

/* False where the row only says that there is the person. */
static inline bool
read_row(Call *call, const TupleTableSlot *slot, CdiPeopleSettings *settings, CdiPeopleEntry *entry)
{
	int			filter = call->column + call->narguments + 1;
	int			timestamp = call->column + call->aggregate->timestamp;

	if (call->filter && (slot->tts_isnull[filter] || !DatumGetBool(slot->tts_values[filter])))
		return false;
	if (!call->prepared)
		prepare(call, slot, settings);
	entry->conditions = read_conditions(call, slot);
	if (slot->tts_isnull[timestamp] || (entry->conditions == 0 && !call->unmatched))
		return false;
	entry->at = DatumGetTimestampTz(slot->tts_values[timestamp]);
	call->aggregate->check_time(entry->at);
	return true;
}

static inline void
add_row(PeopleScan *self, const TupleTableSlot *slot)
{
	CdiPeopleEntry entries[CDI_PEOPLE_MAX_AGGREGATES];

	for (int i = 0; i < self->ncalls; i++)
	{
		if (read_row(&self->calls[i], slot, &self->settings[i], &entries[i]))
			continue;
		entries[i].at = CDI_PEOPLE_NO_TIME;
		entries[i].conditions = 0;
	}
	if (self->nkeys == 1)
		cdi_people_store_add(self->store, slot->tts_values[0], slot->tts_isnull[0], entries);
	else
		cdi_people_store_add(self->store, cdi_people_key_pack(&self->packed, self->keys, self->nkeys,
															  slot->tts_values, slot->tts_isnull), false, entries);
}

static void
collect(PeopleScan *self)
{
	static const CdiPeopleKey packed = {.typlen = -1};
	const CdiPeopleKey *key = self->nkeys == 1 ? self->keys : &packed;
	PlanState  *child = linitial(self->css.custom_ps);
	ExprContext *econtext = self->css.ss.ps.ps_ExprContext;
	MemoryContext previous = CurrentMemoryContext;

	for (int i = 0; i < self->ncalls; i++)
		self->calls[i].prepared = false;
	memset(self->settings, 0, sizeof(self->settings));
	self->store = cdi_people_store_open(self->context, key, self->ncalls, self->rows, self->shared,
										self->css.ss.ps.state->es_query_dsa, ParallelWorkerNumber + 1);
	self->people = cdi_people_open(self->context, key, self->aggregates, self->ncalls);
	if (cdi_people_store_begin(self->store))
	{
		for (;;)
		{
			TupleTableSlot *slot = ExecProcNode(child);

			if (TupIsNull(slot))
				break;
			slot_getallattrs(slot);
			ResetExprContext(econtext);
			MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
			add_row(self, slot);
			MemoryContextSwitchTo(previous);
		}
	}
	cdi_people_store_finish(self->store, self->settings);
}

static TupleTableSlot *
next_person(ScanState *ss)
{
	PeopleScan *self = (PeopleScan *) ss;
	TupleTableSlot *slot = ss->ss_ScanTupleSlot;
	void	   *states[CDI_PEOPLE_MAX_AGGREGATES];
	MemoryContext previous;

	ExecClearTuple(slot);
	if (self->store == NULL)
		collect(self);
	if (!cdi_people_next(self->people, self->store, self->settings,
						 &slot->tts_values[0], &slot->tts_isnull[0], states))
		return slot;
	previous = MemoryContextSwitchTo(ss->ps.ps_ExprContext->ecxt_per_tuple_memory);
	if (self->nkeys > 1)
		cdi_people_key_unpack(slot->tts_values[0], self->keys, self->nkeys, slot->tts_values, slot->tts_isnull);
	for (int i = 0; i < self->nresults; i++)
	{
		FunctionCallInfo final = self->results[i].state;

		final->args[0].value = PointerGetDatum(states[self->results[i].call]);
		final->args[0].isnull = states[self->results[i].call] == NULL;
		final->isnull = false;
		slot->tts_values[self->nkeys + i] = FunctionCallInvoke(final);
		slot->tts_isnull[self->nkeys + i] = final->isnull;
	}
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
	List	   *context = set_deparse_context_plan(es->deparse_cxt, (Plan *) plan, ancestors);
	List	   *keys = NIL;

	for (int i = 0; i < self->nkeys; i++)
	{
		TargetEntry *key = list_nth(plan->custom_scan_tlist, i);

		keys = lappend(keys, deparse_expression((Node *) key->expr, context, es->verbose || list_length(es->rtable) > 1, false));
	}
	ExplainPropertyList("Group Key", keys, es);
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
