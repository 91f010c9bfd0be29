/*
 * conversion_value.c
 *		Values of conversions that are SQL expressions, and which events count.
 *
 * An expression is somebody's SQL and runs in a cage (base/cage.c), as the role
 * that declared it, over rows that the caller may read: events are fetched with
 * the caller's privileges and handed in by the thousand.
 */
#include "attribution/attribution.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"
#include "windowapi.h"

#include "attribution/journeys.h"
#include "base/cage.h"
#include "base/errors.h"

#define BATCH_ROWS	1000

enum
{
	OUT_EVENT, OUT_SUBJECT, OUT_TIMESTAMP, OUT_POSITION, OUT_SOURCE, OUT_PROPERTIES, OUT_VALUE, OUT_COLUMNS
};

#define FAILED(name, detail) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_VALUE_FAILED), \
			 (name) ? errmsg("the value expression of conversion \"%s\" failed", name) : \
			 errmsg("the value expression cannot be used"), \
			 errdetail("%s", detail), \
			 errhint("It is an expression over the columns of cdi.events, for one event, that gives a number, such as cdi_property_number(properties, 'revenue') * 0.8.")))

/* The expression over rows of events, which are the statement's parameter */
static char *
values_query(const char *expression)
{
	return psprintf("SELECT (%s\n)::pg_catalog.numeric, e.ordinality"
					" FROM pg_catalog.unnest($1) WITH ORDINALITY AS e", expression);
}

/*
 * Run it.  Its text is what somebody wrote into cdi.conversions, by hand as
 * well: the columns that come out need not be those that were asked for.
 */
static void
run_values_query(const char *query, Oid array_type, Datum array)
{
	int			code = SPI_execute_with_args(query, 1, &array_type, &array, NULL, true, 0);

	if (code != SPI_OK_SELECT)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(code));
	if (SPI_tuptable->tupdesc->natts != 2 || SPI_gettypeid(SPI_tuptable->tupdesc, 1) != NUMERICOID ||
		SPI_gettypeid(SPI_tuptable->tupdesc, 2) != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("it must be one expression that gives a number")));
}

/* A window would end where a batch of events does. */
static bool
has_window(Node *node, void *context)
{
	if (node == NULL || IsA(node, SubLink))
		return false;
	if (IsA(node, FuncCall) && ((FuncCall *) node)->over)
		return true;
	return raw_expression_tree_walker(node, has_window, context);
}

/* Is it one expression and nothing beside it? */
static void
require_expression(const char *expression)
{
	List	   *statements = pg_parse_query(psprintf("SELECT (%s\n)", expression));
	SelectStmt *select;

	if (list_length(statements) == 1 && IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
	{
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
		if (list_length(select->targetList) == 1 && select->op == SETOP_NONE && select->fromClause == NIL &&
			select->whereClause == NULL && select->groupClause == NIL && select->havingClause == NULL &&
			select->sortClause == NIL && select->limitCount == NULL && select->limitOffset == NULL &&
			select->lockingClause == NIL && select->intoClause == NULL)
		{
			if (has_window((Node *) select->targetList, NULL))
				FAILED((char *) NULL, "It sees one event, and a window function wants several.");
			return;
		}
	}
	FAILED((char *) NULL, "It must be one expression.");
}

static Oid
events_array_type(void)
{
	Oid			events = cdi_relation_oid("events");

	if (!OidIsValid(events))
		cdi_require_storage();
	return get_array_type(get_rel_type_id(events));
}

/* Where names in an expression are looked up, whoever asks for its values. */
static char *
functions_path(void)
{
	return psprintf("pg_catalog, %s", quote_identifier(cdi_extension_schema()));
}

/*
 * _require_value_expression(expression text)
 *
 * It is planned as the caller, who becomes the role that it runs as.
 */
PG_FUNCTION_INFO_V1(cdi_require_value_expression);
Datum
cdi_require_value_expression(PG_FUNCTION_ARGS)
{
	char	   *expression = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ErrorData  *volatile error = NULL;
	CdiCage		cage;

	require_expression(expression);
	SPI_connect();
	cdi_cage_enter(&cage, GetUserId(), functions_path(), cdi_attribution_value_timeout);
	PG_TRY();
	{
		Oid			type = events_array_type();

		run_values_query(values_query(expression), type,
						 PointerGetDatum(construct_empty_array(get_element_type(type))));
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		error = cdi_cage_leave_failed(&cage);
	}
	PG_END_TRY();
	if (error)
		FAILED((char *) NULL, error->message);
	SPI_finish();
	PG_RETURN_VOID();
}

typedef struct Expression
{
	char	   *name;			/* of the conversion */
	char	   *event;
	char	   *query;
	char	   *search_path;
	Oid			role;
	Oid			array_type;
	Oid			row_type;
} Expression;

static void
load_expression(Expression *expression, Datum name, MemoryContext context)
{
	static CdiPlan plan = {
		.query = "SELECT name, event, value_expression, value_role::text FROM cdi.conversions"
		" WHERE name = $1 AND value_expression IS NOT NULL",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	char	   *columns[4];

	if (cdi_plan_read(&plan, &name) != SPI_OK_SELECT || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_CONVERSION),
				 errmsg("conversion \"%s\" has no value expression", TextDatumGetCString(name))));
	for (int i = 0; i < 4; i++)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);

		columns[i] = value ? MemoryContextStrdup(context, value) : NULL;
	}
	SPI_freetuptable(SPI_tuptable);
	expression->name = columns[0];
	expression->event = columns[1];
	expression->query = values_query(columns[2]);
	expression->search_path = functions_path();
	/* The owner may run anything: without a role nothing is run. */
	expression->role = columns[3] ? get_role_oid(columns[3], true) : InvalidOid;
	if (!OidIsValid(expression->role))
		FAILED(expression->name, "The role that it is to run as does not exist.");
	expression->array_type = events_array_type();
	expression->row_type = get_element_type(expression->array_type);
}

/* Values of a batch of events: numerics, 0 for null */
static void
evaluate(const Expression *expression, Datum *rows, int n, Datum *results, MemoryContext context)
{
	ErrorData  *volatile error = NULL;
	Datum		array = PointerGetDatum(construct_array(rows, n, expression->row_type, -1, false, TYPALIGN_DOUBLE));
	CdiCage		cage;

	cdi_cage_enter(&cage, expression->role, expression->search_path, cdi_attribution_value_timeout);
	PG_TRY();
	{
		run_values_query(expression->query, expression->array_type, array);
		if (SPI_processed != n)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("the expression must give one value per event, not a set")));
		MemoryContextSwitchTo(context);
		for (int i = 0; i < n; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			bool		isnull;
			Datum		number = SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull);
			Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull);

			/* A set may have none for one event and two for another. */
			if (DatumGetInt64(number) != i + 1)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_EXCEPTION),
						 errmsg("the expression must give one value per event, not a set")));
			results[i] = isnull ? (Datum) 0 : datumCopy(value, false, -1);
		}
		SPI_freetuptable(SPI_tuptable);
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		error = cdi_cage_leave_failed(&cage);
	}
	PG_END_TRY();
	if (error == NULL)
		return;
	if (cage.timed_out)
		FAILED(expression->name, "It took longer than cdi.attribution_value_timeout.");
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	FAILED(expression->name, error->message);
}

/* The events of a name, which may be a virtual one's. */
static char *
events_query(const char *event)
{
	char	   *query = psprintf("SELECT %s.cdi_event_predicate($1, 'e')", quote_identifier(cdi_extension_schema()));
	Datum		name = CStringGetTextDatum(event);

	if (SPI_execute_with_args(query, 1, (Oid[]) {TEXTOID}, &name, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the predicate of an event");
	return psprintf("SELECT e.event_id, e.subject, e.\"timestamp\", e.position, e.source_id, e.properties, e"
					" FROM cdi.events e WHERE %s",
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
}

/* _conversion_values(conversion text) */
PG_FUNCTION_INFO_V1(cdi_conversion_values);
Datum
cdi_conversion_values(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(context, "cdi values of conversions", ALLOCSET_DEFAULT_SIZES);
	Expression	expression;
	SPIPlanPtr	prepared;
	Portal		portal;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	load_expression(&expression, PG_GETARG_DATUM(0), context);
	prepared = SPI_prepare(events_query(expression.event), 0, NULL);
	if (prepared == NULL)
		elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, prepared, NULL, NULL, true);
	for (;;)
	{
		Datum		rows[BATCH_ROWS];
		Datum		results[BATCH_ROWS];
		SPITupleTable *table;
		bool		isnull;
		int			n;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, BATCH_ROWS);
		n = (int) SPI_processed;
		table = SPI_tuptable;
		if (n == 0)
			break;
		MemoryContextSwitchTo(batch);
		for (int i = 0; i < n; i++)
			rows[i] = SPI_getbinval(table->vals[i], table->tupdesc, OUT_VALUE + 1, &isnull);
		evaluate(&expression, rows, n, results, batch);
		for (int i = 0; i < n; i++)
		{
			Datum		values[OUT_COLUMNS];
			bool		nulls[OUT_COLUMNS];

			for (int c = 0; c < OUT_VALUE; c++)
				values[c] = SPI_getbinval(table->vals[i], table->tupdesc, c + 1, &nulls[c]);
			values[OUT_VALUE] = results[i];
			nulls[OUT_VALUE] = results[i] == (Datum) 0;
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		SPI_freetuptable(table);
		MemoryContextSwitchTo(context);
		MemoryContextReset(batch);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	MemoryContextDelete(batch);
	return (Datum) 0;
}

typedef struct FirstWithin
{
	bool		any;
	TimestampTz last_at;
} FirstWithin;

/* _first_within("timestamp" timestamptz, within interval) */
PG_FUNCTION_INFO_V1(cdi_first_within);
Datum
cdi_first_within(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	FirstWithin *state = WinGetPartitionLocalMemory(winobj, sizeof(FirstWithin));
	bool		isnull;
	TimestampTz at = DatumGetTimestampTz(WinGetFuncArgCurrent(winobj, 0, &isnull));
	bool		forever;
	Interval   *within = DatumGetIntervalP(WinGetFuncArgCurrent(winobj, 1, &forever));

	WinSetMarkPosition(winobj, WinGetCurrentPosition(winobj));
	if (isnull)
		PG_RETURN_NULL();
	if (state->any && (forever || state->last_at >= cdi_window_start(at, within)))
		PG_RETURN_BOOL(false);
	state->any = true;
	state->last_at = at;
	PG_RETURN_BOOL(true);
}
