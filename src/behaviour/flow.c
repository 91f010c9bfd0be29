/*
 * flow.c
 *		cdi_flows() and cdi_top_paths(): where people go from an event, and
 *		how they got there.
 *
 * One query delivers the events ordered by person and time, with their node
 * and, in sessions, their session; its plan may be parallel.  Its rows are
 * pushed into a receiver that keeps the events of the current unit (session,
 * or person where a window of time is given), takes the paths from it
 * (flow_path.c) and keeps these: four bytes per node and eight per step, in
 * order of person.  So people are counted without a set of them, by whether
 * the last path counted was of the same person, and that also holds for links
 * which the rest ("(other)") is made of.
 *
 * Links are counted in passes over the paths: how often each node occurs at
 * each step, which decides who is the rest; then links; then their times, each
 * link's in one stretch of an array, of which the median is taken.
 */
#include "behaviour/flow.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"

enum
{
	IN_PERSON = 1, IN_AT, IN_NODE, IN_ANCHOR, IN_SESSION
};

/* Arguments that both functions have, in this order */
enum
{
	ARG_DIRECTION, ARG_ANCHOR, ARG_STEPS, ARG_FROM, ARG_TO, ARG_WITHIN, ARG_NODE, ARG_COLLAPSE,
	ARG_EXCLUDE, ARG_OCCURRENCE, ARG_TOP
};

typedef struct Receiver
{
	DestReceiver pub;
	CdiFlowOptions options;
	CdiFlowPaths *paths;
	bool		by_session;

	pg_uuid_t	person;
	pg_uuid_t	session;
	bool		has_person;
	int32		person_number;
	bool		has_path;		/* the person has one: its number is taken */
	CdiFlowEvent *events;		/* of the current unit */
	int64		nevents;
	int64		space;
} Receiver;

/* CdiFlowEmit: keep a path */
static void
keep_path(void *arg, int length, const int32 *nodes, const TimestampTz *times)
{
	Receiver   *self = arg;

	if (!self->has_path)
		self->person_number++;
	self->has_path = true;
	cdi_flow_keep(self->paths, self->person_number, length, nodes, times);
}

static void
end_unit(Receiver *self)
{
	if (self->nevents > 0)
		cdi_flow_paths(&self->options, self->events, self->nevents, keep_path, self);
	self->nevents = 0;
}

/* receiveSlot: one event */
static bool
receive(TupleTableSlot *slot, DestReceiver *receiver)
{
	Receiver   *self = (Receiver *) receiver;
	CdiFlowEvent *event;
	pg_uuid_t  *person;
	pg_uuid_t  *session = NULL;
	Datum		value;
	text	   *node;
	bool		isnull;
	bool		same_person;

	/* belongs to its session and is no node: the session's other events decide */
	value = slot_getattr(slot, IN_NODE, &isnull);
	if (isnull)
		return true;
	node = DatumGetTextPP(value);
	person = DatumGetUUIDP(slot_getattr(slot, IN_PERSON, &isnull));
	same_person = self->has_person && memcmp(&self->person, person, sizeof(pg_uuid_t)) == 0;
	if (self->by_session)
		session = DatumGetUUIDP(slot_getattr(slot, IN_SESSION, &isnull));
	if (!same_person || (session && memcmp(&self->session, session, sizeof(pg_uuid_t)) != 0))
		end_unit(self);
	if (!same_person)
	{
		self->has_person = true;
		self->person = *person;
		self->has_path = false;
	}
	if (session)
		self->session = *session;

	if (self->nevents == self->space)
	{
		self->space *= 2;
		self->events = repalloc_huge(self->events, sizeof(CdiFlowEvent) * self->space);
	}
	event = &self->events[self->nevents++];
	event->at = DatumGetTimestampTz(slot_getattr(slot, IN_AT, &isnull));
	event->node = cdi_labels_number(self->paths->labels, VARDATA_ANY(node), VARSIZE_ANY_EXHDR(node));
	event->anchor = DatumGetBool(slot_getattr(slot, IN_ANCHOR, &isnull)) && !isnull;
	return true;
}

static void
start_receiving(DestReceiver *receiver, int operation, TupleDesc desc)
{
}

static void
stop_receiving(DestReceiver *receiver)
{
}

/* The query */

/* Of a virtual event: the condition under which e is one; else NULL. */
static char *
virtual_condition(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};

	if (SPI_execute_with_args("SELECT v.expression FROM cdi.virtual_events v WHERE v.name = $1"
							  " ORDER BY v.version DESC LIMIT 1", 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdi.virtual_events");
	if (SPI_processed == 0)
		return NULL;
	return cdi_predicate_canonical(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), "e", false);
}

static const char *
node_expression(const char *node)
{
	static const char *const kinds[][2] = {
		{"all", "CASE e.type WHEN 'page' THEN coalesce(e.context #>> '{page,path}', e.event) ELSE e.event END"},
		{"event", "CASE WHEN e.type = 'track' THEN e.event END"},
		{"page", "CASE WHEN e.type = 'page' THEN coalesce(e.context #>> '{page,path}', e.event) END"},
		{"screen", "CASE WHEN e.type = 'screen' THEN e.event END"},
	};

	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i][0], node) == 0)
			return kinds[i][1];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("node \"%s\" does not exist", node),
			 errhint("It is event (names of tracked events), page (paths of pages), screen (names of screens) or all.")));
}

/*
 * Sessions are those of cdi.session_events, which has the same arguments of
 * cdi_session_id() and leaves out the same events; here nodes are computed below
 * the sort, so that it moves text and not contexts.
 * $1, $2: bounds of the time at which events are read; null: all.
 */
static char *
flow_query(FunctionCallInfo fcinfo, const char *anchor, bool by_session)
{
	const char *schema = quote_identifier(cdi_extension_schema());
	const char *node = node_expression(text_to_cstring(PG_GETARG_TEXT_PP(ARG_NODE)));
	const char *is_anchor = "false";
	StringInfoData excluded;
	StringInfoData query;

	initStringInfo(&excluded);
	if (!PG_ARGISNULL(ARG_EXCLUDE))
	{
		Datum	   *names;
		bool	   *nulls;
		int			n;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_EXCLUDE), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
		for (int i = 0; i < n; i++)
		{
			char	   *name;
			char	   *condition;

			if (nulls[i])
				continue;
			name = TextDatumGetCString(names[i]);
			if (anchor && strcmp(name, anchor) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("the anchor \"%s\" is among the excluded events", name)));
			condition = virtual_condition(name);
			appendStringInfoString(&excluded, excluded.len ? " OR " : " WHEN ");
			if (condition)
				appendStringInfo(&excluded, "(%s)", condition);
			else
				appendStringInfo(&excluded, "%s = %s", node, quote_literal_cstr(name));
		}
		if (excluded.len)
			appendStringInfoString(&excluded, " THEN NULL");
	}
	if (anchor)
	{
		char	   *condition = virtual_condition(anchor);

		if (condition)
		{
			/* the event's own name gives way to that of the virtual one */
			is_anchor = psprintf("(%s)", condition);
			node = psprintf("CASE WHEN %s THEN %s%s ELSE %s END", is_anchor, quote_literal_cstr(anchor),
							excluded.data, node);
		}
		else
		{
			is_anchor = psprintf("(%s = %s)", node, quote_literal_cstr(anchor));
			if (excluded.len)
				node = psprintf("CASE%s ELSE %s END", excluded.data, node);
		}
	}
	else if (excluded.len)
		node = psprintf("CASE%s ELSE %s END", excluded.data, node);

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT s.person_id, s.\"timestamp\", s.node, s.anchor");
	if (by_session)
		appendStringInfo(&query, ", %s.cdi_session_id(s.event_id, s.\"timestamp\", s.campaign,"
						 " (SELECT g.gap FROM cdi.session_settings g), (SELECT g.midnight FROM cdi.session_settings g), s.cuts)"
						 " OVER (PARTITION BY s.person_id ORDER BY s.\"timestamp\", s.position)", schema);
	appendStringInfo(&query,
					 " FROM (SELECT coalesce(m.person_id, e.subject) AS person_id, e.event_id, e.\"timestamp\", e.position,"
					 " %s.cdi_campaign_key(e.campaign_source, e.campaign_medium, e.campaign_name,"
					 " e.campaign_term, e.campaign_content, e.click_id_type) AS campaign,"
					 " e.event = ANY ((SELECT g.cut_events FROM cdi.session_settings g)::text[]) AS cuts,"
					 " (%s)::text AS node, %s AS anchor"
					 " FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject"
					 " WHERE e.type IN ('page', 'screen', 'track') AND e.subject IS NOT NULL"
					 " AND (e.type = 'track' AND e.event = ANY ((SELECT array_agg(k.event)"
					 " || '{Push Notification Received,Push Notification Bounced}' FROM cdi.touch_types k)::text[])) IS NOT TRUE"
					 " AND ($1 IS NULL OR e.\"timestamp\" >= $1) AND ($2 IS NULL OR e.\"timestamp\" < $2)"
					 " OFFSET 0) s%s ORDER BY s.person_id, s.\"timestamp\", s.position",
					 schema, node, is_anchor, by_session ? "" : " WHERE s.node IS NOT NULL");
	return query.data;
}

static void
refuse_nulls(FunctionCallInfo fcinfo)
{
	static const struct
	{
		int			argument;
		const char *name;
	}			required[] = {
		{ARG_DIRECTION, "direction"}, {ARG_STEPS, "steps"}, {ARG_NODE, "node"},
		{ARG_COLLAPSE, "collapse"}, {ARG_OCCURRENCE, "occurrence"}, {ARG_TOP, "top"},
	};

	for (int i = 0; i < lengthof(required); i++)
		if (PG_ARGISNULL(required[i].argument))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s of a flow cannot be null", required[i].name)));
}

/* Length of the window in microseconds; days have 24 hours. */
static int64
window_length(const Interval *within)
{
	if (within->month != 0 || within->day < 0 || within->time < 0 || within->day > 36500 ||
		within->time > 36500 * USECS_PER_DAY || (within->day == 0 && within->time == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window of a flow must be positive and at most 100 years, in days or less"),
				 errhint("For example interval '7 days'. Null takes the rest of the session.")));
	return within->day * USECS_PER_DAY + within->time;
}

static void
take_options(FunctionCallInfo fcinfo, CdiFlowOptions *options, const char *anchor)
{
	char	   *occurrence;

	refuse_nulls(fcinfo);
	options->backward = cdi_flow_is_backward(text_to_cstring(PG_GETARG_TEXT_PP(ARG_DIRECTION)));
	options->has_anchor = anchor != NULL;
	options->steps = cdi_flow_check_steps(PG_GETARG_INT32(ARG_STEPS));
	options->collapse = PG_GETARG_BOOL(ARG_COLLAPSE);
	options->from = PG_ARGISNULL(ARG_FROM) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(ARG_FROM);
	options->to = PG_ARGISNULL(ARG_TO) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(ARG_TO);
	if (options->from >= options->to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_time must be before to_time")));
	options->within = PG_ARGISNULL(ARG_WITHIN) ? 0 : window_length(PG_GETARG_INTERVAL_P(ARG_WITHIN));
	occurrence = text_to_cstring(PG_GETARG_TEXT_PP(ARG_OCCURRENCE));
	options->every = strcmp(occurrence, "every") == 0;
	if (!options->every && strcmp(occurrence, "first") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("occurrence \"%s\" does not exist", occurrence),
				 errhint("It is first (of the session or person) or every.")));
	if (PG_GETARG_INT32(ARG_TOP) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("top must be at least 1")));
}

static Datum
bound(TimestampTz anchor_bound, int64 margin, bool *isnull)
{
	int64		result;

	*isnull = TIMESTAMP_NOT_FINITE(anchor_bound) ||
		pg_add_s64_overflow(anchor_bound, margin, &result) || !IS_VALID_TIMESTAMP(result);
	return *isnull ? (Datum) 0 : TimestampTzGetDatum(result);
}

/* Read the paths that the arguments ask for. */
static CdiFlowPaths *
read_paths(FunctionCallInfo fcinfo)
{
	char	   *anchor = PG_ARGISNULL(ARG_ANCHOR) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(ARG_ANCHOR));
	Oid			types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	SPIExecuteOptions execute = {0};
	ParamListInfo params;
	SPIPlanPtr	plan;
	Receiver	self;
	int			result;

	memset(&self, 0, sizeof(self));
	take_options(fcinfo, &self.options, anchor);
	cdi_require_storage();
	self.by_session = self.options.within == 0;
	self.paths = cdi_flow_create(CurrentMemoryContext, self.options.backward);
	self.space = 256;
	self.events = palloc(sizeof(CdiFlowEvent) * self.space);
	self.pub.receiveSlot = receive;
	self.pub.rStartup = start_receiving;
	self.pub.rShutdown = stop_receiving;
	self.pub.rDestroy = stop_receiving;
	self.pub.mydest = DestNone;

	SPI_connect();
	/* A session begins where all events before it say; of a window the rest is cut off. */
	params = makeParamList(2);
	for (int i = 0; i < 2; i++)
	{
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = TIMESTAMPTZOID;
		params->params[i].isnull = true;
	}
	if (!self.by_session)
	{
		params->params[0].value = bound(self.options.from, self.options.backward ? -self.options.within : 0,
										&params->params[0].isnull);
		params->params[1].value = bound(self.options.to, self.options.backward ? 0 : self.options.within,
										&params->params[1].isnull);
	}
	plan = SPI_prepare_cursor(flow_query(fcinfo, anchor, self.by_session), 2, types, CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
	execute.params = params;
	execute.read_only = true;
	execute.dest = &self.pub;
	result = SPI_execute_plan_extended(plan, &execute);
	if (result < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(result));
	end_unit(&self);
	SPI_finish();
	pfree(self.events);
	return self.paths;
}

/*
 * cdi_flows(direction text, anchor text, steps integer, from_time timestamptz,
 *			 to_time timestamptz, within interval, node text, collapse boolean,
 *			 exclude text[], occurrence text, top integer)
 */
PG_FUNCTION_INFO_V1(cdi_flows);
Datum
cdi_flows(PG_FUNCTION_ARGS)
{
	CdiFlowPaths *paths = read_paths(fcinfo);

	InitMaterializedSRF(fcinfo, 0);
	cdi_flow_links(paths, PG_GETARG_INT32(ARG_TOP), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * cdi_top_paths(the same)
 */
PG_FUNCTION_INFO_V1(cdi_top_paths);
Datum
cdi_top_paths(PG_FUNCTION_ARGS)
{
	CdiFlowPaths *paths = read_paths(fcinfo);

	InitMaterializedSRF(fcinfo, 0);
	cdi_flow_top_paths(paths, PG_GETARG_INT32(ARG_TOP), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
