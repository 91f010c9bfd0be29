/*
 * virtual_predicate.c
 *		Predicates of virtual events: parsed, checked, made canonical.
 *
 * A predicate is written by one role and evaluated by others, as themselves:
 * in views, in reports, and by the writers of events where it has an index.
 * So it must not lead to code that anybody but the installation has written.
 * The expression is parsed with nothing but pg_catalog in the search_path, and
 * after parsing every node must be of a known kind, of a built-in type, and
 * every function behind it (of operators, casts and comparisons as well)
 * immutable and either built in or cdi's own.  Immutable, because an event
 * shall not depend on the settings of who looks: 'timestamp'::date is one day
 * in Berlin and another in New York.
 *
 * What is stored and evaluated later is the text that the checked tree is
 * printed as, never what was written; and it is checked again whenever it is
 * used, so a row changed by hand gains nothing.
 */
#include "behaviour/behaviour.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "base/errors.h"

typedef struct Predicate
{
	const char *text;
	ParseState *pstate;
	Oid			extension;
	char	   *schema;			/* of the extension's functions */
	const char *columns;		/* for a hint */
	bool		total;
} Predicate;

/* Columns beside those of cdi.events. */
static const struct
{
	const char *name;
	const char *expression;
}			derived_columns[] =
{
	{"page_path", "context #>> '{page,path}'"},
	{"page_search", "context #>> '{page,search}'"},
	{"page_title", "context #>> '{page,title}'"},
	{"page_url", "context #>> '{page,url}'"},
};

/*
 * Built-in functions that fail on no input, beside those that are marked
 * leakproof.  In order of their names.
 */
static const char *const total_functions[] =
{
	"array_eq", "array_ne", "btrim", "jsonb_array_element", "jsonb_array_element_text",
	"jsonb_contained", "jsonb_contains", "jsonb_eq", "jsonb_exists", "jsonb_exists_all",
	"jsonb_exists_any", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_ge", "jsonb_gt",
	"jsonb_le", "jsonb_lt", "jsonb_ne", "jsonb_object_field", "jsonb_object_field_text",
	"jsonb_path_exists_opr", "jsonb_path_match_opr", "jsonb_typeof", "left", "length", "lower",
	"ltrim", "numeric_eq", "numeric_ge", "numeric_gt", "numeric_le", "numeric_lt", "numeric_ne",
	"octet_length", "reverse", "right", "rtrim", "starts_with", "strpos", "text_ge", "text_gt",
	"text_le", "text_lt", "texteq", "texticlike", "texticnlike", "texticregexeq", "texticregexne",
	"textlike", "textne", "textnlike", "textregexeq", "textregexne", "upper",
};

static int
compare_names(const void *a, const void *b)
{
	return strcmp((const char *) a, *(const char *const *) b);
}

/*
 * Positions of errors are positions in the predicate, not in the statement
 * that the client sent.
 */
static void
error_in_predicate(void *arg)
{
	Predicate  *self = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(self->text);
	}
	if (geterrcode() == ERRCODE_UNDEFINED_COLUMN)
		errhint("Columns are %s.", self->columns);
}

static void
refuse(Predicate *self, int location, const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_INVALID_PREDICATE),
			 errmsg("%s", message),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 parser_errposition(self->pstate, location)));
}

static char *
column_names(Relation events)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < RelationGetNumberOfAttributes(events); i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(events), i);

		if (!attribute->attisdropped)
			appendStringInfo(&names, "%s, ", quote_identifier(NameStr(attribute->attname)));
	}
	for (int i = 0; i < lengthof(derived_columns); i++)
		appendStringInfo(&names, "%s%s", i ? ", " : "", derived_columns[i].name);
	return names.data;
}

/*
 * What the raw tree must not have, and cdi's own functions, which may be
 * written without their schema.
 */
static bool
check_raw(Node *node, void *context)
{
	Predicate  *self = context;

	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
		refuse(self, ((SubLink *) node)->location, "the predicate of a virtual event cannot contain a subquery",
			   "It is decided for each event from that event alone.", NULL);
	if (IsA(node, ColumnRef) && IsA(llast(((ColumnRef *) node)->fields), A_Star))
		refuse(self, ((ColumnRef *) node)->location, "\"*\" is no column", NULL, NULL);
	if (IsA(node, FuncCall))
	{
		FuncCall   *call = (FuncCall *) node;

		if (list_length(call->funcname) == 1 &&
			strncmp(strVal(linitial(call->funcname)), "cdi_", 4) == 0)
			call->funcname = list_make2(makeString(self->schema), linitial(call->funcname));
	}
	return raw_expression_tree_walker(node, check_raw, context);
}

/* The one expression that the text is. */
static Node *
raw_expression(Predicate *self, const char *text)
{
	List	   *parsed = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	ResTarget  *target;

	if (!IsA(select, SelectStmt) || list_length(select->targetList) != 1 || select->distinctClause ||
		select->intoClause || select->fromClause || select->whereClause || select->groupClause ||
		select->havingClause || select->windowClause || select->valuesLists || select->sortClause ||
		select->limitOffset || select->limitCount || select->lockingClause || select->withClause ||
		select->op != SETOP_NONE)
		refuse(self, -1, "a predicate must be one expression", NULL,
			   "Write what would stand after WHERE, such as event = 'Order Completed' AND page_path LIKE '/shop/%'.");
	target = linitial_node(ResTarget, select->targetList);
	if (target->name || target->indirection)
		refuse(self, target->location,
			   psprintf("the predicate ends before \"%s\"", target->name ? target->name : "."), NULL,
			   "Is something missing behind it?");
	check_raw(target->val, self);
	return target->val;
}

static Node *
derived_column(ParseState *pstate, ColumnRef *reference, Node *column)
{
	const char *name;

	if (column != NULL || list_length(reference->fields) != 1)
		return NULL;
	name = strVal(linitial(reference->fields));
	for (int i = 0; i < lengthof(derived_columns); i++)
		if (strcmp(name, derived_columns[i].name) == 0)
			return transformExpr(pstate, raw_expression(pstate->p_ref_hook_state, derived_columns[i].expression),
								 pstate->p_expr_kind);
	return NULL;
}

static bool
is_builtin(Oid oid)
{
	return OidIsValid(oid) && oid < FirstUnpinnedObjectId;
}

/* Types that hold plain values and name no object of the database. */
static bool
is_plain_type(Oid type)
{
	Oid			element = get_element_type(type);

	if (OidIsValid(element))
		type = element;
	if (!is_builtin(type) || get_typtype(type) == TYPTYPE_DOMAIN || get_typtype(type) == TYPTYPE_COMPOSITE)
		return false;
	switch (type)
	{
		case OIDOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REFCURSOROID:
		case XMLOID:
			return false;
		default:
			return get_typtype(type) != TYPTYPE_PSEUDO;
	}
}

/* Is the function one of cdi's own for queries, cdi_channel() and its like? */
static bool
is_ours(const Predicate *self, Oid function, const char *name)
{
	return getExtensionOfObject(ProcedureRelationId, function) == self->extension &&
		strncmp(name, "cdi_", 4) == 0;
}

typedef struct FunctionCheck
{
	Predicate  *predicate;
	int			location;
} FunctionCheck;

/* The function behind a node; see the top of the file.  Raises, or false. */
static bool
check_function(Oid function, void *context)
{
	FunctionCheck *check = context;
	Predicate  *self = check->predicate;
	char	   *name = get_func_name(function);
	char		volatility;
	bool		ours;

	if (name == NULL)
		elog(ERROR, "cache lookup failed for function %u", function);
	ours = is_ours(self, function, name);
	if (!is_builtin(function) && !ours)
		refuse(self, check->location,
			   psprintf("function %s is not built in", format_procedure(function)),
			   "A predicate is evaluated by every reader, as that reader: it may call functions of PostgreSQL and of cdi only.",
			   NULL);
	volatility = func_volatile(function);
	if (volatility != PROVOLATILE_IMMUTABLE)
		refuse(self, check->location,
			   psprintf("function %s is %s", format_procedure(function),
						volatility == PROVOLATILE_VOLATILE ? "volatile" : "stable, not immutable"),
			   volatility == PROVOLATILE_VOLATILE ? "It may change something, or give another result each time." :
			   "Its result depends on settings such as the time zone, so a virtual event would differ from reader to reader.",
			   volatility == PROVOLATILE_VOLATILE ? NULL :
			   "Of times: \"timestamp\" AT TIME ZONE 'Europe/Berlin' is a local time, which the immutable functions take. Of text: || instead of concat().");
	if (self->total && !get_func_leakproof(function) &&
		!(is_builtin(function) &&
		  bsearch(name, total_functions, lengthof(total_functions), sizeof(char *), compare_names)) &&
		!(ours && (strcmp(name, "cdi_property_number") == 0 || strcmp(name, "cdi_campaign_key") == 0)))
		refuse(self, check->location,
			   psprintf("function %s may fail, which a predicate with an index must not", format_procedure(function)),
			   "The predicate is evaluated for every event that is stored, and an event on which it fails could not be stored.",
			   "Of numbers: cdi_property_number(properties, 'price') > 10. Or declare it without an index.");
	return false;
}

/* LIKE and regular expressions with a pattern that is known: is it valid? */
static void
check_pattern(Predicate *self, Oid function, Oid collation, List *args, int location)
{
	Const	   *pattern;
	text	   *value;
	const char *data;
	int			len;

	switch (function)
	{
		case F_TEXTLIKE:
		case F_TEXTNLIKE:
		case F_TEXTICLIKE:
		case F_TEXTICNLIKE:
		case F_TEXTREGEXEQ:
		case F_TEXTREGEXNE:
		case F_TEXTICREGEXEQ:
		case F_TEXTICREGEXNE:
			break;
		default:
			return;
	}
	pattern = lsecond(args);
	if (!IsA(pattern, Const))
	{
		if (self->total)
			refuse(self, location, "the pattern is no constant, so it may be invalid",
				   "A predicate with an index must not be able to fail.", NULL);
		return;
	}
	if (pattern->constisnull)
		return;
	value = DatumGetTextPP(pattern->constvalue);
	if (function == F_TEXTREGEXEQ || function == F_TEXTREGEXNE ||
		function == F_TEXTICREGEXEQ || function == F_TEXTICREGEXNE)
	{
		/* raises where it cannot be compiled */
		(void) OidFunctionCall2Coll(function, collation, CStringGetTextDatum(""), PointerGetDatum(value));
		return;
	}
	data = VARDATA_ANY(value);
	len = VARSIZE_ANY_EXHDR(value);
	for (int i = 0; i < len; i++)
		if (data[i] == '\\' && ++i == len)
			refuse(self, location, "LIKE pattern ends with the escape character",
				   NULL, "A backslash stands for itself where it is doubled.");
}

static bool
check_operator(Predicate *self, Oid operator, int location)
{
	if (!is_builtin(operator))
		refuse(self, location, psprintf("operator %s is not built in", format_operator(operator)), NULL,
			   "Use the operators of pg_catalog.");
	return false;
}

static bool
check_node(Node *node, void *context)
{
	Predicate  *self = context;
	FunctionCheck check;
	int			location;

	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, check_node, context);
	location = exprLocation(node);
	switch (nodeTag(node))
	{
		case T_Var:
			if (((Var *) node)->varattno <= 0)
				refuse(self, location, "a predicate cannot use whole rows or system columns", NULL,
					   psprintf("Columns are %s.", self->columns));
			break;
		case T_Const:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_CaseWhen:
		case T_ArrayExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_SubscriptingRef:
			break;
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			check_operator(self, ((OpExpr *) node)->opno, location);
			break;
		case T_ScalarArrayOpExpr:
			check_operator(self, ((ScalarArrayOpExpr *) node)->opno, location);
			break;
		case T_CollateExpr:
			/* those of the system were imported by initdb */
			if (((CollateExpr *) node)->collOid >= FirstNormalObjectId)
				refuse(self, location, "a predicate cannot use a collation that is not built in", NULL, NULL);
			break;
		default:
			refuse(self, location, "a predicate cannot contain this kind of expression",
				   IsA(node, SQLValueFunction) ? "Current time, date, user and schema differ from reader to reader." : NULL,
				   "Columns, constants, operators, functions, CASE, COALESCE and casts between built-in types are allowed.");
	}
	if (!IsA(node, CaseWhen) && !is_plain_type(exprType(node)))
		refuse(self, location, psprintf("a predicate cannot use type %s", format_type_be(exprType(node))),
			   "Types must be built in and hold plain values.", NULL);
	check.predicate = self;
	check.location = location;
	(void) check_functions_in_node(node, check_function, &check);
	return expression_tree_walker(node, check_node, context);
}

/* After constants are folded, which check_node() has made safe. */
static bool
check_patterns(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, OpExpr))
		check_pattern(context, ((OpExpr *) node)->opfuncid, ((OpExpr *) node)->inputcollid,
					  ((OpExpr *) node)->args, exprLocation(node));
	else if (IsA(node, FuncExpr))
		check_pattern(context, ((FuncExpr *) node)->funcid, ((FuncExpr *) node)->inputcollid,
					  ((FuncExpr *) node)->args, exprLocation(node));
	else if (IsA(node, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *any = (ScalarArrayOpExpr *) node;
		List	   *patterns = list_make1(lsecond(any->args));

		if (IsA(lsecond(any->args), ArrayExpr))
			patterns = ((ArrayExpr *) lsecond(any->args))->elements;
		else if (IsA(lsecond(any->args), Const) && !((Const *) lsecond(any->args))->constisnull)
		{
			Datum	   *values;
			bool	   *nulls;
			int			n;

			Const	   *constant = lsecond(any->args);
			Oid			type = get_element_type(constant->consttype);
			int16		typlen;
			bool		typbyval;
			char		typalign;

			get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
			deconstruct_array(DatumGetArrayTypeP(constant->constvalue), type, typlen, typbyval, typalign,
							  &values, &nulls, &n);
			patterns = NIL;
			for (int i = 0; i < n; i++)
				patterns = lappend(patterns, makeConst(type, -1, any->inputcollid, typlen, values[i], nulls[i], typbyval));
		}
		for (int i = 0; i < list_length(patterns); i++)
			check_pattern(context, any->opfuncid, any->inputcollid,
						  list_make2(linitial(any->args), list_nth(patterns, i)), exprLocation(node));
	}
	return expression_tree_walker(node, check_patterns, context);
}

/* Settings under which an expression means the same to everyone. */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

char *
cdi_predicate_canonical(const char *text, const char *alias, bool total)
{
	Predicate	self = {.text = text, .total = total};
	ErrorContextCallback callback;
	ParseNamespaceItem *item;
	Relation	events;
	Node	   *expression;
	char	   *canonical;
	int			nestlevel;

	cdi_require_storage();
	self.extension = get_extension_oid("cdi", false);
	self.schema = cdi_extension_schema();
	events = table_open(cdi_relation_oid("events"), AccessShareLock);
	self.columns = column_names(events);
	nestlevel = NewGUCNestLevel();
	pin_settings();

	self.pstate = make_parsestate(NULL);
	self.pstate->p_sourcetext = text;
	self.pstate->p_post_columnref_hook = derived_column;
	self.pstate->p_ref_hook_state = &self;
	item = addRangeTableEntryForRelation(self.pstate, events, AccessShareLock, NULL, true, false);
	addNSItemToQuery(self.pstate, item, true, true, true);

	callback.callback = error_in_predicate;
	callback.arg = &self;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	expression = transformExpr(self.pstate, raw_expression(&self, text), EXPR_KIND_WHERE);
	expression = coerce_to_boolean(self.pstate, expression, "the predicate");
	assign_expr_collations(self.pstate, expression);
	check_node(expression, &self);
	check_patterns(eval_const_expressions(NULL, copyObject(expression)), &self);

	error_context_stack = callback.previous;

	canonical = deparse_expression(expression,
								   deparse_context_for(alias ? alias : "events", RelationGetRelid(events)),
								   alias != NULL, false);
	AtEOXact_GUC(true, nestlevel);
	free_parsestate(self.pstate);
	table_close(events, NoLock);
	return canonical;
}
