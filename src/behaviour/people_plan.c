/*
 * people_plan.c
 *		Plans with the node of people_scan.c.
 *
 * Where all aggregates of a query are over the events of people
 * (cdi_people_aggregate() says which), the planner gets two more paths beside
 * those of the server's own aggregation, and takes what costs least.  Everything
 * else is the server's as before: other aggregates beside them, settings that
 * come from a column, keys that can be equal with different bytes.
 */
#include "behaviour/people.h"

#include "access/nbtree.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planner.h"
#include "optimizer/tlist.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/typcache.h"

#include "base/base.h"
#include "behaviour/behaviour.h"

static create_upper_paths_hook_type previous_hook = NULL;

/*
 * A query that the node can do.  As the server does it, aggregates that differ
 * in their final functions alone have a transition in common.
 */
typedef struct Match
{
	List	   *keys;			/* of Expr */
	List	   *sortgrouprefs;
	List	   *aggregates;		/* of Aggref, each once */
	List	   *finals;			/* by aggregate */
	List	   *transition_of;	/* by aggregate */
	List	   *transitions;	/* oids */
	List	   *calls;			/* by transition: an Aggref that has it */
} Match;

const CdiPeopleAggregate *
cdi_people_aggregate(PGFunction transition, int arguments)
{
	const CdiPeopleAggregate *aggregate = cdi_people_funnel(transition);

	if (aggregate == NULL)
		aggregate = cdi_people_sequence(transition);
	if (aggregate == NULL)
		aggregate = cdi_people_history(transition, arguments);
	return aggregate;
}

/*
 * Equal values must have equal bytes: the type's B-tree says so, though not
 * truly of character, whose values may have less spaces at the end than are
 * compared.
 */
static bool
fits_key(const Expr *key, Oid equality)
{
	Oid			type = exprType((Node *) key);
	TypeCacheEntry *cache = lookup_type_cache(type, TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);
	Oid			equal_image;
	int16		typlen;
	bool		typbyval;

	if (cache->eq_opr != equality || !OidIsValid(cache->btree_opf) || cache->btree_opintype == BPCHAROID)
		return false;
	get_typlenbyval(type, &typlen, &typbyval);
	if (typlen != -1 && (typlen <= 0 || typlen > CDI_PEOPLE_KEY_IMAGE))
		return false;
	equal_image = get_opfamily_proc(cache->btree_opf, cache->btree_opintype, cache->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(equal_image) &&
		DatumGetBool(OidFunctionCall1Coll(equal_image, exprCollation((Node *) key), ObjectIdGetDatum(cache->btree_opintype)));
}

/* The same for all rows, without being computed for each. */
static bool
is_settled(Node *node)
{
	return IsA(node, Const) || (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN);
}

/* An array of the same length in all rows */
static bool
has_settled_length(Node *array)
{
	return is_settled(array) || (IsA(array, ArrayExpr) && !((ArrayExpr *) array)->multidims);
}

/* One of equal calls */
static Aggref *
call_of(const AggInfo *info)
{
#if PG_VERSION_NUM >= 160000
	return linitial_node(Aggref, info->aggrefs);
#else
	return info->representative_aggref;
#endif
}

static bool
fits_aggregate(const AggInfo *info, const AggTransInfo *transition)
{
	Aggref	   *aggregate = call_of(info);
	const CdiPeopleAggregate *kind;
	FmgrInfo	function;
	char	   *name;

	if (aggregate->agglevelsup > 0 || aggregate->aggdistinct || aggregate->aggorder ||
		aggregate->aggdirectargs || transition->aggtranstype != INTERNALOID)
		return false;
	/* Ask nobody else's library. */
	name = get_func_name(aggregate->aggfnoid);
	if (name == NULL || strncmp(name, "cdi_", 4) != 0)
		return false;
	fmgr_info(transition->transfn_oid, &function);
	kind = cdi_people_aggregate(function.fn_addr, list_length(aggregate->args));
	if (kind == NULL)
		return false;
	for (int i = 1; i < kind->timestamp; i++)
		if (!is_settled((Node *) ((TargetEntry *) list_nth(aggregate->args, i - 1))->expr))
			return false;
	if (aggregate->aggvariadic &&
		!has_settled_length((Node *) ((TargetEntry *) llast(aggregate->args))->expr))
		return false;
	/* It may be computed more than once per row. */
	return !contain_volatile_functions((Node *) aggregate->aggfilter);
}

static bool
fits_aggregates(PlannerInfo *root, Match *match)
{
	ListCell   *cell;

	/* Those whose results nobody reads are gone: there may be none left. */
	if (root->aggtransinfos == NIL || list_length(root->aggtransinfos) > CDI_PEOPLE_MAX_AGGREGATES)
		return false;
	foreach(cell, root->agginfos)
	{
		AggInfo    *info = lfirst(cell);
		AggTransInfo *transition = list_nth(root->aggtransinfos, info->transno);

		if (!fits_aggregate(info, transition))
			return false;
		match->aggregates = lappend(match->aggregates, call_of(info));
		match->finals = lappend_oid(match->finals, info->finalfn_oid);
		match->transition_of = lappend_int(match->transition_of, info->transno);
	}
	for (int i = 0; i < list_length(root->aggtransinfos); i++)
	{
		AggTransInfo *transition = list_nth(root->aggtransinfos, i);
		ListCell   *number;

		match->transitions = lappend_oid(match->transitions, transition->transfn_oid);

		forboth(cell, match->aggregates, number, match->transition_of)
		{
			if (lfirst_int(number) != i)
				continue;
			match->calls = lappend(match->calls, lfirst(cell));
			break;
		}
	}
	return true;
}

/* Does the expression need anything but the keys and the aggregates? */
static bool
needs_more(Node *node, Match *match)
{
	if (node == NULL || list_member(match->keys, node))
		return false;
	if (IsA(node, Aggref))
		return !list_member(match->aggregates, node);
	if (IsA(node, Var) || IsA(node, PlaceHolderVar) || IsA(node, GroupingFunc))
		return true;
	return expression_tree_walker(node, needs_more, match);
}

static bool
fits(PlannerInfo *root, RelOptInfo *grouped, Match *match)
{
	Query	   *query = root->parse;
	ListCell   *cell;

	memset(match, 0, sizeof(Match));
	if (query->groupingSets || query->groupClause == NIL || list_length(query->groupClause) > CDI_PEOPLE_MAX_KEYS ||
		IS_OTHER_REL(grouped) || !fits_aggregates(root, match))
		return false;
	foreach(cell, query->groupClause)
	{
		SortGroupClause *group = lfirst(cell);
		Expr	   *key = get_sortgroupclause_tle(group, root->processed_tlist)->expr;

		if (!fits_key(key, group->eqop))
			return false;
		match->keys = lappend(match->keys, key);
		match->sortgrouprefs = lappend_int(match->sortgrouprefs, group->tleSortGroupRef);
	}
	return !needs_more((Node *) grouped->reltarget->exprs, match) &&
		!needs_more(query->havingQual, match);
}

Const *
cdi_people_text_equality(Expr *condition, Expr **value)
{
	OpExpr	   *equality = (OpExpr *) condition;
	Expr	   *right;

	if (!IsA(condition, OpExpr) || equality->opno != TextEqualOperator ||
		!OidIsValid(equality->inputcollid) || !get_collation_isdeterministic(equality->inputcollid))
		return NULL;
	*value = linitial(equality->args);
	right = lsecond(equality->args);
	if (!IsA(right, Const) || ((Const *) right)->constisnull)
		return NULL;
	return (Const *) right;
}

/*
 * An argument is only to be computed for rows that pass the filter, which may
 * be there because it raises for others.
 */
static Expr *
guarded(Expr *argument, Expr *filter)
{
	const Expr *bare = argument;
	CaseExpr   *guard;
	CaseWhen   *when;

	while (IsA(bare, RelabelType))
		bare = ((const RelabelType *) bare)->arg;
	if (filter == NULL || IsA(bare, Var) || IsA(bare, Const) || IsA(bare, Param))
		return argument;
	when = makeNode(CaseWhen);
	when->expr = filter;
	when->result = argument;
	when->location = -1;
	guard = makeNode(CaseExpr);
	guard->casetype = exprType((Node *) argument);
	guard->casecollid = exprCollation((Node *) argument);
	guard->args = list_make1(when);
	guard->defresult = (Expr *) makeNullConst(guard->casetype, exprTypmod((Node *) argument), guard->casecollid);
	guard->location = -1;
	return (Expr *) guard;
}

/*
 * What the plan below delivers: the keys and what the aggregates take, of
 * conditions that are text equalities the text.
 */
static PathTarget *
target_below(PlannerInfo *root, const Match *match)
{
	PathTarget *target = create_empty_pathtarget();
	ListCell   *cell;
	ListCell   *other;

	forboth(cell, match->keys, other, match->sortgrouprefs)
		add_column_to_pathtarget(target, lfirst(cell), lfirst_int(other));
	foreach(cell, match->calls)
	{
		const Aggref *call = lfirst(cell);

		foreach(other, call->args)
		{
			Expr	   *argument = ((TargetEntry *) lfirst(other))->expr;
			Expr	   *value;

			if (cdi_people_text_equality(argument, &value))
				argument = value;
			add_column_to_pathtarget(target, guarded(argument, call->aggfilter), 0);
		}
		if (call->aggfilter)
			add_column_to_pathtarget(target, call->aggfilter, 0);
	}
	return set_pathtarget_cost_width(root, target);
}

static Plan *
plan_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses, List *plans)
{
	CustomScan *scan = makeNode(CustomScan);
	Match	   *match = linitial(path->custom_private);
	ListCell   *cell;

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = (List *) root->parse->havingQual;
	scan->flags = path->flags;
	scan->custom_plans = plans;
	scan->custom_private = list_make3(match->transitions, match->finals, match->transition_of);
	foreach(cell, list_concat_copy(match->keys, match->aggregates))
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry(lfirst(cell), foreach_current_index(cell) + 1, NULL, false));
	scan->methods = &cdi_people_scan_methods;
	return &scan->scan.plan;
}

static const CustomPathMethods path_methods = {
	.CustomName = CDI_PEOPLE_SCAN_NAME,
	.PlanCustomPath = plan_path,
};

/*
 * As much as hash aggregation for its groups and results, and for each row one
 * operation per aggregate: no hash table is asked while they come.  Rows beyond what a hash
 * table may take are written and read once.
 */
static void
cost_path(PlannerInfo *root, Path *path, const Path *input, double groups, const Match *match)
{
	Size		memory = get_hash_memory_limit();
	int			ncalls = list_length(match->calls);
	double		row_bytes = CDI_PEOPLE_ENTRY_SIZE * ncalls;
	double		bytes;
	QualCost	having;
	ListCell   *cell;

	foreach(cell, match->keys)
		row_bytes += Max(get_typavgwidth(exprType(lfirst(cell)), -1), 4);
	bytes = input->rows * row_bytes;
	path->startup_cost = input->total_cost + input->rows * cpu_operator_cost * ncalls + cdi_people_store_parts(input->rows) * cpu_tuple_cost;
	if (bytes > memory)
		path->startup_cost += (bytes - memory) / BLCKSZ * (random_page_cost + seq_page_cost);
	path->total_cost = path->startup_cost + groups * (cpu_operator_cost * list_length(match->aggregates) + cpu_tuple_cost);
	path->rows = groups;
	if (root->parse->havingQual)
	{
		cost_qual_eval(&having, (List *) root->parse->havingQual, root);
		path->startup_cost += having.startup;
		path->total_cost += having.startup + groups * having.per_tuple;
		path->rows = clamp_row_est(groups * clauselist_selectivity(root, (List *) root->parse->havingQual, 0, JOIN_INNER, NULL));
	}
	path->startup_cost += path->pathtarget->cost.startup;
	path->total_cost += path->pathtarget->cost.startup + path->rows * path->pathtarget->cost.per_tuple;
}

static Path *
make_path(PlannerInfo *root, RelOptInfo *grouped, RelOptInfo *input_rel, Path *input, const Match *match, double groups)
{
	CustomPath *path = makeNode(CustomPath);
	Path	   *below = (Path *) create_projection_path(root, input_rel, input, target_below(root, match));
	Match	   *kept = palloc(sizeof(Match));

	*kept = *match;
	path->path.pathtype = T_CustomScan;
	path->path.parent = grouped;
	path->path.pathtarget = grouped->reltarget;
	path->path.parallel_aware = input->parallel_workers > 0;
	path->path.parallel_safe = grouped->consider_parallel && input->parallel_safe;
	path->path.parallel_workers = input->parallel_workers;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_paths = list_make1(below);
	path->custom_private = list_make1(kept);
	path->methods = &path_methods;
	cost_path(root, &path->path, below, groups, match);
	return &path->path;
}

static void
add_people_paths(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input_rel, RelOptInfo *output_rel, void *extra)
{
	Match		match;
	double		groups;

	if (previous_hook)
		previous_hook(root, stage, input_rel, output_rel, extra);
	if (stage != UPPERREL_GROUP_AGG || !cdi_enable_people_scan || !root->parse->hasAggs ||
		!fits(root, output_rel, &match))
		return;

	groups = estimate_num_groups(root, match.keys, input_rel->cheapest_total_path->rows, NULL, NULL);
	add_path(output_rel, make_path(root, output_rel, input_rel, input_rel->cheapest_total_path, &match, groups));
	if (output_rel->consider_parallel && input_rel->partial_pathlist)
	{
		Path	   *input = linitial(input_rel->partial_pathlist);
		Path	   *partial;
		double		participants = Max(input_rel->cheapest_total_path->rows / Max(input->rows, 1), 1);
		double		rows;

		partial = make_path(root, output_rel, input_rel, input, &match, clamp_row_est(groups / participants));
		rows = partial->rows * participants;
		/*
		 * add_partial_path() frees the path that loses.  What gathers
		 * aggregates of partitions refers to those that are here already, and
		 * the Gather below to ours.
		 */
		if (output_rel->partial_pathlist == NIL)
			add_partial_path(output_rel, partial);
		add_path(output_rel, (Path *) create_gather_path(root, output_rel, partial, output_rel->reltarget, NULL, &rows));
	}
}

void
cdi_people_plan_init(void)
{
	RegisterCustomScanMethods(&cdi_people_scan_methods);
	previous_hook = create_upper_paths_hook;
	create_upper_paths_hook = add_people_paths;
}
