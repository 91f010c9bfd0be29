/*
 * import_stream.c
 *		COPY cdi.import FROM STDIN without the server's reading of CSV.
 *
 * Where the library is loaded when the command comes, which
 * shared_preload_libraries sees to, it takes the client's bytes itself and
 * cuts them at the ends of lines: that is several times faster than finding
 * that there is no quote among them, and a line that is no valid text, or
 * ends in another way than the first, fails alone.  It does so for COPY without
 * options and for the options that make COPY take lines as they are; any other
 * form, a client encoding other than UTF-8, and files of the server go the
 * server's way, into the triggers of the view (import_copy.c).
 */
#include "postgres.h"

/* libpq.h asks for headers that nothing here needs, and that not all have. */
#undef ENABLE_GSS

#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "commands/progress.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/cmdtag.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"

#include "ingest/import.h"

static ProcessUtility_hook_type previous_hook = NULL;

/* Lines in the making, from the client's messages */
typedef struct Lines
{
	CdiImport	import;
	int			limit;			/* longest line that is kept whole */
	StringInfoData partial;		/* beginning of a line without its end yet */
	int64		partial_total;	/* bytes of it, of which partial has the first */
	int64		bytes;
	bool		ended;			/* by a line of \. */
} Lines;

static bool
takes_lines_as_they_are(List *options)
{
	int			seen = 0;
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);
		const char *wanted = strcmp(option->defname, "format") == 0 ? "csv" :
			strcmp(option->defname, "quote") == 0 ? "\x01" :
			strcmp(option->defname, "delimiter") == 0 ? "\x02" : NULL;

		if (wanted == NULL || strcmp(defGetString(option), wanted) != 0)
			return false;
		seen++;
	}
	return seen == 0 || seen == 3;
}

/* The view, if the command is a COPY into it that can be taken over here. */
static Oid
view_of(const CopyStmt *copy)
{
	Oid			view;

	if (!copy->is_from || copy->relation == NULL || copy->filename != NULL || copy->is_program ||
		copy->attlist != NIL || copy->whereClause != NULL ||
		strcmp(copy->relation->relname, "import") != 0 ||
		whereToSendOutput != DestRemote || pg_get_client_encoding() != PG_UTF8 ||
		!takes_lines_as_they_are(copy->options))
		return InvalidOid;
	view = RangeVarGetRelid(copy->relation, NoLock, true);
	if (!OidIsValid(view) || view != cdi_relation_oid("import"))
		return InvalidOid;
	/* The server says what is wrong then. */
	if (pg_class_aclcheck(view, GetUserId(), ACL_INSERT) != ACLCHECK_OK)
		return InvalidOid;
	return view;
}

static void
take_line(Lines *lines, const char *data, int len, int64 total)
{
	if (len == 2 && data[0] == '\\' && data[1] == '.')
		lines->ended = true;
	else if (total > lines->limit)
		cdi_import_long_line(&lines->import, data, Min(len, lines->limit), total, lines->limit);
	else
		cdi_import_line(&lines->import, data, len);
}

static void
finish_partial(Lines *lines)
{
	take_line(lines, lines->partial.data, lines->partial.len, lines->partial_total);
	resetStringInfo(&lines->partial);
	lines->partial_total = 0;
}

static void
add_partial(Lines *lines, const char *data, int len)
{
	int			room = lines->limit - lines->partial.len;

	if (room > 0)
		appendBinaryStringInfo(&lines->partial, data, Min(len, room));
	lines->partial_total += len;
}

static void
take_bytes(Lines *lines, const char *data, int len)
{
	const char *end = data + len;

	lines->bytes += len;
	while (data < end && !lines->ended)
	{
		const char *newline = memchr(data, '\n', end - data);

		if (newline == NULL)
		{
			add_partial(lines, data, end - data);
			return;
		}
		if (lines->partial_total > 0)
		{
			add_partial(lines, data, newline - data);
			finish_partial(lines);
		}
		else
			take_line(lines, data, newline - data, newline - data);
		data = newline + 1;
	}
}

/* The next message with data into it; false at the end.  As COPY does it. */
static bool
read_message(StringInfo message)
{
	for (;;)
	{
		int			type;
		int			limit = PQ_SMALL_MESSAGE_LIMIT;

		HOLD_CANCEL_INTERRUPTS();
		pq_startmsgread();
		type = pq_getbyte();
		if (type == EOF)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("unexpected EOF on client connection with an open transaction")));
		if (type == 'd')
			limit = PQ_LARGE_MESSAGE_LIMIT;
		else if (type != 'c' && type != 'f' && type != 'H' && type != 'S')
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unexpected message type 0x%02X during COPY from stdin", type)));
		if (pq_getmessage(message, limit))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("unexpected EOF on client connection with an open transaction")));
		RESUME_CANCEL_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		if (type == 'd')
			return true;
		if (type == 'c')
			return false;
		if (type == 'f')
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("COPY from stdin failed: %s", pq_getmsgstring(message))));
	}
}

static void
ask_for_data(void)
{
	StringInfoData answer;

	pq_beginmessage(&answer, 'G');
	pq_sendbyte(&answer, 0);	/* text */
	pq_sendint16(&answer, 1);
	pq_sendint16(&answer, 0);
	pq_endmessage(&answer);
	pq_flush();
}

static void
line_context(void *arg)
{
	errcontext("COPY cdi.import, line " INT64_FORMAT, ((Lines *) arg)->import.line);
}

static uint64
copy_lines(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext work = AllocSetContextCreate(context, "cdi import work", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Lines	   *lines = palloc0(sizeof(Lines));
	ErrorContextCallback callback = {.callback = line_context,.arg = lines};
	StringInfoData message;
	uint64		seen;

	initStringInfo(&message);
	initStringInfo(&lines->partial);
	lines->limit = cdi_import_line_limit();
	cdi_import_stream_begin(&lines->import, CDI_IMPORT_COPY);
	ask_for_data();
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	while (read_message(&message))
	{
		MemoryContextSwitchTo(work);
		if (!lines->ended)
			take_bytes(lines, message.data, message.len);
		if (lines->import.reports)
			pgstat_progress_update_param(PROGRESS_COPY_BYTES_PROCESSED, lines->bytes);
		MemoryContextSwitchTo(context);
		MemoryContextReset(work);
	}
	if (lines->partial_total > 0 && !lines->ended)
		finish_partial(lines);
	cdi_import_stream_end(&lines->import);
	error_context_stack = callback.previous;
	seen = lines->import.line - lines->import.first + 1;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return seen;
}

static void
process_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *destination,
				QueryCompletion *completion)
{
	Oid			view = IsA(statement->utilityStmt, CopyStmt) ?
		view_of((CopyStmt *) statement->utilityStmt) : InvalidOid;

	if (OidIsValid(view))
	{
		uint64		seen;

		PreventCommandIfReadOnly("COPY FROM");
		LockRelationOid(view, RowExclusiveLock);
		seen = copy_lines();
		if (completion)
			SetQueryCompletion(completion, CMDTAG_COPY, seen);
	}
	else if (previous_hook)
		previous_hook(statement, query, read_only_tree, context, params,
					  environment, destination, completion);
	else
		standard_ProcessUtility(statement, query, read_only_tree, context, params,
								environment, destination, completion);
}

void
cdi_import_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
