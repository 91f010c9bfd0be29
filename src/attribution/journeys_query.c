/*
 * journeys_query.c
 *		Declared conversions, and the queries for touches and conversions.
 */
#include "attribution/journeys_private.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "attribution/attribution.h"
#include "base/errors.h"

static const char load_definitions[] =
"SELECT c.name, c.lookback, w.types, w.lookbacks"
" FROM cdi.conversions c LEFT JOIN LATERAL"
"  (SELECT array_agg(t.key) AS types, array_agg(t.value::interval) AS lookbacks"
"   FROM jsonb_each_text(c.touch_lookbacks) t) w ON true"
" ORDER BY c.name";

static CdiDefinition *
add_definition(CdiJourneys *self, const char *name)
{
	CdiDefinition *definition;

	if (self->ndefinitions == self->definition_space)
	{
		self->definition_space *= 2;
		self->definitions = repalloc(self->definitions, sizeof(CdiDefinition) * self->definition_space);
	}
	definition = &self->definitions[self->ndefinitions++];
	memset(definition, 0, sizeof(*definition));
	definition->name = MemoryContextStrdup(self->context, name);
	return definition;
}

/* Windows of touch types: two arrays of equal length */
static void
add_windows(CdiJourneys *self, CdiDefinition *definition, Datum types, Datum lookbacks)
{
	MemoryContext previous = MemoryContextSwitchTo(self->context);
	Datum	   *names;
	Datum	   *intervals;
	int			n;

	deconstruct_array(DatumGetArrayTypePCopy(types), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypePCopy(lookbacks), INTERVALOID, sizeof(Interval), false, TYPALIGN_DOUBLE,
					  &intervals, NULL, &n);
	if (n > CDI_MAX_WINDOWS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("conversion \"%s\" has windows for %d touch types", definition->name, n),
				 errhint("%d are possible.", CDI_MAX_WINDOWS)));
	definition->nwindows = n;
	definition->window_types = palloc(sizeof(CdiText) * n);
	definition->windows = palloc(sizeof(Interval) * n);
	for (int i = 0; i < n; i++)
	{
		definition->window_types[i].data = TextDatumGetCString(names[i]);
		definition->window_types[i].len = strlen(definition->window_types[i].data);
		definition->windows[i] = *DatumGetIntervalP(intervals[i]);
	}
	MemoryContextSwitchTo(previous);
}

static void
require_definition(const CdiJourneys *self, const char *name)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < self->ndefinitions; i++)
	{
		if (strcmp(self->definitions[i].name, name) == 0)
			return;
		appendStringInfo(&names, "%s%s", i ? ", " : "", self->definitions[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_CDI_UNKNOWN_CONVERSION),
			 errmsg("conversion \"%s\" does not exist", name),
			 self->ndefinitions > 0 ?
			 errhint("Conversions are %s. Declare another with cdi_create_conversion().", names.data) :
			 errhint("There are none. Declare one with cdi_create_conversion().")));
}

void
cdi_journeys_load_definitions(CdiJourneys *self)
{
	const CdiJourneyRequest *request = self->request;
	bool		declared = strcmp(request->options->conversion_events, "cdi.conversion_events") == 0;

	self->definition_space = 16;
	self->definitions = MemoryContextAlloc(self->context, sizeof(CdiDefinition) * self->definition_space);
	if (SPI_execute(load_definitions, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdi.conversions");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		CdiDefinition *definition = add_definition(self, SPI_getvalue(row, desc, 1));
		Datum		types;

		definition->lookback = request->lookback ? *request->lookback :
			*DatumGetIntervalP(SPI_getbinval(row, desc, 2, &isnull));
		types = SPI_getbinval(row, desc, 3, &isnull);
		if (!isnull)
			add_windows(self, definition, types, SPI_getbinval(row, desc, 4, &isnull));
	}
	/* In a relation of the caller's own there are what conversions there are. */
	if (declared && request->conversion)
		require_definition(self, request->conversion);
	for (int i = 0; declared && i < request->nmilestones; i++)
		if (request->milestones[i])
			require_definition(self, request->milestones[i]);
}

int
cdi_journeys_find_definition(CdiJourneys *self, Datum name)
{
	text	   *wanted = DatumGetTextPP(name);
	int			len = VARSIZE_ANY_EXHDR(wanted);
	CdiDefinition *definition;

	for (int k = 0; k < self->ndefinitions; k++)
	{
		/* most often it is that of the row before */
		int			i = (self->last_definition + k) % self->ndefinitions;

		if (strncmp(self->definitions[i].name, VARDATA_ANY(wanted), len) == 0 && self->definitions[i].name[len] == '\0')
			return self->last_definition = i;
	}
	if (self->request->lookback == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_CONVERSION),
				 errmsg("conversion \"%s\" is not declared", text_to_cstring(wanted)),
				 errhint("Declare it with cdi_create_conversion(), or give the lookback window.")));
	definition = add_definition(self, text_to_cstring(wanted));
	definition->lookback = *self->request->lookback;
	return self->last_definition = self->ndefinitions - 1;
}

int
cdi_journeys_definitions(const CdiJourneys *self, CdiDefinition **definitions)
{
	*definitions = self->definitions;
	return self->ndefinitions;
}

bool
cdi_journeys_in_time(const CdiJourneys *self, TimestampTz at)
{
	return (!self->request->has_from || at >= self->request->from_time) &&
		(!self->request->has_to || at < self->request->to_time);
}

TimestampTz
cdi_journeys_seen_until(const CdiJourneys *self)
{
	return self->request->has_to ? self->request->to_time : self->seen_until;
}

static Oid
relation_oid(const char *relation)
{
	return RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(relation))), NoLock, false);
}

/* A column of the relation r as SQL; where it is missing, null or an error. */
static char *
column(Oid relid, const char *relation, const char *name, Oid type, bool required)
{
	AttrNumber	number = get_attnum(relid, name);
	Oid			found = number > 0 ? get_atttype(relid, number) : InvalidOid;

	if (number <= 0 && required)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of %s does not exist", name, relation),
				 errhint("Attribution reads it from there; a view can give a column this name.")));
	if (number <= 0)
		return psprintf("NULL::%s", format_type_be(type));
	if (found == type || (type == TEXTOID && found != JSONBOID))
		return psprintf(found == type ? "r.%s" : "r.%s::pg_catalog.text", quote_identifier(name));
	if ((type == NUMERICOID && (found == INT4OID || found == INT8OID || found == FLOAT8OID)) ||
		(type == INT8OID && found == INT4OID))
		return psprintf("r.%s::%s", quote_identifier(name), format_type_be(type));
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of %s is of type %s", name, relation, format_type_be(found)),
			 errhint("It must be %s; a view can cast it.", format_type_be(type))));
	return NULL;				/* keep compiler quiet */
}

char *
cdi_journeys_touch_query(CdiJourneys *self)
{
	const CdiJourneyRequest *request = self->request;
	const char *relation = request->options->touchpoints;
	Oid			relid = relation_oid(relation);
	StringInfoData query;

	initStringInfo(&query);
	/* Workers may do a part of it, but no worker all (force_parallel_mode), so something above is for the leader alone. */
	appendStringInfo(&query, "SELECT t.found, pg_catalog.pg_backend_pid() FROM (SELECT cdi._journey_touches($3, %s, %s, %s, %s, %s",
					 column(relid, relation, "person_id", UUIDOID, true),
					 column(relid, relation, "touched_at", TIMESTAMPTZOID, true),
					 column(relid, relation, "position", INT8OID, false),
					 column(relid, relation, "touch_type", TEXTOID, false),
					 request->sessions ? column(relid, relation, "session_id", UUIDOID, false) : "NULL::uuid");
	for (int i = 0; i < request->ndimensions; i++)
		appendStringInfo(&query, ", %s", column(relid, relation, request->dimensions[i], TEXTOID,
												i == self->path_dimension || i < request->nrequired));
	appendStringInfo(&query, ") AS found FROM %s r WHERE ($1 IS NULL OR r.touched_at >= $1) AND ($2 IS NULL OR r.touched_at <= $2)", relation);
	/* Of a table they are there, and those of others cost less to drop where they are taken. */
	if (!request->everyone && get_rel_relkind(relid) == RELKIND_VIEW)
		appendStringInfoString(&query, " AND cdi._journey_converts($3, r.person_id)");
	appendStringInfoString(&query, ") t");
	return query.data;
}

char *
cdi_journeys_conversion_query(CdiJourneys *self)
{
	const char *relation = self->request->options->conversion_events;
	Oid			relid = relation_oid(relation);

	return psprintf("SELECT %s, %s, %s, %s, %s, cdi._usable_value(%s) FROM %s r"
					" WHERE ($1 IS NULL OR r.conversion = $1)"
					" AND ($2 IS NULL OR r.converted_at >= $2) AND ($3 IS NULL OR r.converted_at < $3)",
					column(relid, relation, "person_id", UUIDOID, true),
					column(relid, relation, "converted_at", TIMESTAMPTZOID, true),
					column(relid, relation, "position", INT8OID, false),
					column(relid, relation, "event_id", UUIDOID, false),
					column(relid, relation, "conversion", TEXTOID, true),
					column(relid, relation, "value", NUMERICOID, false),
					relation);
}

QueryDesc *
cdi_journeys_plan(const char *query, ParamListInfo params, bool parallel, DestReceiver *receiver)
{
	Oid		   *types = palloc(sizeof(Oid) * params->numParams);
	List	   *trees;
	PlannedStmt *plan;

	for (int i = 0; i < params->numParams; i++)
		types[i] = params->params[i].ptype;
	trees = pg_analyze_and_rewrite_fixedparams(linitial(pg_parse_query(query)), query, types, params->numParams, NULL);
	plan = pg_plan_query(linitial_node(Query, trees), query, parallel ? CURSOR_OPT_PARALLEL_OK : 0, params);
	return CreateQueryDesc(plan, query, GetActiveSnapshot(), InvalidSnapshot, receiver, params, NULL, 0);
}

void
cdi_journeys_run(QueryDesc *query, bool workers)
{
	ExecutorStart(query, 0);
	/* what may be run again is run by one process */
	ExecutorRun(query, ForwardScanDirection, 0, workers);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
}
