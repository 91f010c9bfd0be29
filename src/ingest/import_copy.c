/*
 * import_copy.c
 *		INSERT INTO cdi.import, and COPY as far as import_stream.c leaves it.
 *
 * cdi.import is a view with triggers: one before the statement, one instead of
 * each row, one after the statement.  The rows of a statement gather in a
 * frame, which lives in the statement's (sub)transaction and is gone with it
 * where that fails.  A function in INSERT ... SELECT may itself insert, so
 * frames are a stack; the first one reports progress.
 *
 * cdi_import_open() says for the session what the lines that follow belong to.
 * The session remembers how many it has sent since; a rollback takes that back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/errors.h"
#include "ingest/import.h"

/* What the session said, and how far its stream has come. */
typedef struct Stream
{
	CdiImportTarget target;
	int64		line;			/* number of the last line sent */
} Stream;

static Stream stream = {.target = {.source = "sql"}};

/* The stream as it was before a transaction or subtransaction changed it */
typedef struct SavedStream
{
	SubTransactionId subid;
	Stream		stream;
	struct SavedStream *outer;
} SavedStream;

static SavedStream *saved = NULL;	/* in TopTransactionContext */

typedef struct Frame
{
	MemoryContext context;
	bool		begun;			/* import is filled in */
	HeapTuple	accepted;		/* what the trigger returns, see take_row() */
	CdiImport	import;
	struct Frame *outer;
} Frame;

static Frame *frames = NULL;

static void
subtransaction_end(SubXactEvent event, SubTransactionId id,
				   SubTransactionId parent, void *arg)
{
	while (saved != NULL && saved->subid == id)
	{
		if (event == SUBXACT_EVENT_ABORT_SUB)
			stream = saved->stream;
		else if (event != SUBXACT_EVENT_COMMIT_SUB)
			return;
		else if (saved->outer == NULL || saved->outer->subid != parent)
		{
			saved->subid = parent;
			return;
		}
		saved = saved->outer;
	}
}

static void
transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		for (; saved != NULL; saved = saved->outer)
			stream = saved->stream;
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		saved = NULL;
}

/* Before each change of the stream. */
static void
save_stream(void)
{
	static bool registered = false;
	SavedStream *save;

	if (!registered)
	{
		RegisterSubXactCallback(subtransaction_end, NULL);
		RegisterXactCallback(transaction_end, NULL);
		registered = true;
	}
	if (saved != NULL && saved->subid == GetCurrentSubTransactionId())
		return;
	save = MemoryContextAlloc(TopTransactionContext, sizeof(SavedStream));
	save->subid = GetCurrentSubTransactionId();
	save->stream = stream;
	save->outer = saved;
	saved = save;
}

PG_FUNCTION_INFO_V1(cdi_import_open);

Datum
cdi_import_open(PG_FUNCTION_ARGS)
{
	Stream		opened;
	char	   *name;
	char	   *source;
	int64		first_line;
	CdiImportRow row;

	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of cdi_import_open() must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	source = text_to_cstring(PG_GETARG_TEXT_PP(1));
	first_line = PG_GETARG_INT64(3);
	if (name[0] == '\0' || strlen(name) > CDI_IMPORT_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an import must have 1 to %d bytes", CDI_IMPORT_MAX_NAME)));
	if (first_line < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("first_line must be at least 1")));
	cdi_require_storage();
	memset(&opened, 0, sizeof(opened));
	strlcpy(opened.target.name, name, sizeof(opened.target.name));
	strlcpy(opened.target.source, source, sizeof(opened.target.source));
	opened.target.history = PG_GETARG_BOOL(2);
	opened.line = first_line - 1;
	row = cdi_import_open_row(&opened.target, cdi_source_for_write(source)->source_id);
	save_stream();
	stream = opened;
	PG_RETURN_INT64(row.lines);
}

static void
pop_frame(void *arg)
{
	Frame	  **at = &frames;

	while (*at != NULL && *at != arg)
		at = &(*at)->outer;
	if (*at != NULL)
		*at = (*at)->outer;
}

static void
push_frame(void)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext, "cdi import",
												  ALLOCSET_DEFAULT_SIZES);
	Frame	   *frame = MemoryContextAllocZero(context, sizeof(Frame));
	MemoryContextCallback *callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));

	frame->context = context;
	callback->func = pop_frame;
	callback->arg = frame;
	MemoryContextRegisterResetCallback(context, callback);
	frame->outer = frames;
	frames = frame;
}

/* The COPY that the row comes from; NULL where it is an INSERT. */
static CopyFromState
running_copy(Relation relation)
{
	for (ErrorContextCallback *callback = error_context_stack; callback != NULL; callback = callback->previous)
		if (callback->callback == CopyFromErrorCallback)
		{
			CopyFromState state = callback->arg;

			/* An INSERT by a function that another table's COPY calls is none. */
			return RelationGetRelid(state->rel) == RelationGetRelid(relation) ? state : NULL;
		}
	return NULL;
}

void
cdi_import_stream_begin(CdiImport *import, CdiImportCommand command)
{
	save_stream();
	cdi_import_begin(import, &stream.target, command,
					 stream.target.name[0] != '\0' ? stream.line : 0);
}

void
cdi_import_stream_end(CdiImport *import)
{
	cdi_import_flush(import);
	cdi_import_store(import, 0, 0, NULL, false);
	cdi_import_end(import);
	if (stream.target.name[0] != '\0')
		stream.line = import->line;
}

static void
begin_frame(Frame *frame, Relation relation)
{
	CopyFromState copy = running_copy(relation);
	MemoryContext old;

	/* What is in the line would not be what was in the file. */
	if (copy != NULL && !copy->opts.csv_mode && !copy->opts.binary)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_IMPORT_FORMAT),
				 errmsg("COPY into cdi.import does not take the text format"),
				 errdetail("That format has a meaning of its own for backslashes, which JSON is full of."),
				 errhint("COPY cdi.import FROM ... WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')")));
	old = MemoryContextSwitchTo(frame->context);
	cdi_import_stream_begin(&frame->import, copy ? CDI_IMPORT_COPY : CDI_IMPORT_INSERT);
	frame->accepted = heap_form_tuple(RelationGetDescr(relation), (Datum[]) {(Datum) 0}, (bool[]) {true});
	frame->begun = true;
	MemoryContextSwitchTo(old);
}

/*
 * Returns a row other than the one that came: the executor frees its copy of
 * the latter only then, and a stream of any length must fit into memory.
 */
static HeapTuple
take_row(TriggerData *trigger)
{
	Frame	   *frame = frames;
	bool		isnull;
	Datum		datum;

	if (frame == NULL)
		elog(ERROR, "trigger on cdi.import for each statement is missing");
	if (!frame->begun)
		begin_frame(frame, trigger->tg_relation);
	datum = heap_getattr(trigger->tg_trigtuple, 1, RelationGetDescr(trigger->tg_relation), &isnull);
	if (isnull)
		cdi_import_line(&frame->import, "", 0);
	else
	{
		text	   *line = DatumGetTextPP(datum);

		cdi_import_line(&frame->import, VARDATA_ANY(line), VARSIZE_ANY_EXHDR(line));
	}
	return frame->accepted;
}

static void
finish_frame(void)
{
	Frame	   *frame = frames;

	if (frame == NULL)
		elog(ERROR, "trigger on cdi.import for each statement is missing");
	if (frame->begun)
		cdi_import_stream_end(&frame->import);
	MemoryContextDelete(frame->context);
}

PG_FUNCTION_INFO_V1(cdi_import_lines);

Datum
cdi_import_lines(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = cdi_trigger_of(fcinfo, "import");

	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		return PointerGetDatum(take_row(trigger));
	if (TRIGGER_FIRED_BEFORE(trigger->tg_event))
		push_frame();
	else
		finish_frame();
	return PointerGetDatum(NULL);
}
