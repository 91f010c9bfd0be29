/*
 * import_call.c
 *		CALL cdi_import(): a file of the server in transactions of its own.
 *
 * Each transaction takes some thousand lines through the pipeline and writes
 * to cdi.imports how far into the file they reach, so that after a crash, a
 * cancellation or an error the same CALL goes on behind the last of them.  The
 * watermark waits for one such transaction at most.  A session-level lock on
 * the import keeps a second CALL out; the server drops it with the session.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "commands/progress.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/backend_progress.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "ingest/import.h"

static void
require_non_atomic(FunctionCallInfo fcinfo)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("cdi_import() commits as it goes and cannot run inside a transaction block"),
				 errhint("Call it on its own; COPY into cdi.import is part of the transaction around it.")));
}

static void
check_may_read_files(void)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to import from a file"),
				 errdetail("Only roles with privileges of the \"pg_read_server_files\" role may read files of the server."),
				 errhint("psql's \\copy into cdi.import works for anyone with a grant on the source.")));
}

static char *
text_argument(FunctionCallInfo fcinfo, int argument, const char *name, char *otherwise)
{
	if (!PG_ARGISNULL(argument))
		return text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (otherwise == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return otherwise;
}

static void
set_target(CdiImportTarget *target, const char *name, const char *source, bool history)
{
	if (name[0] == '\0' || strlen(name) > CDI_IMPORT_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an import must have 1 to %d bytes", CDI_IMPORT_MAX_NAME)));
	memset(target, 0, sizeof(*target));
	strlcpy(target->name, name, sizeof(target->name));
	strlcpy(target->source, source, sizeof(target->source));
	target->history = history;
	target->file = true;
}

/* The import's row, for others to see its name, and the right to work on it. */
static int64
hold_import(const CdiImportTarget *target)
{
	int64		import_id = cdi_import_open_row(target, cdi_source_for_write(target->source)->source_id).import_id;

	SPI_commit();
	EnsurePortalSnapshotExists();
	if (!cdi_import_lock(import_id, true, false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("import \"%s\" is being run by another session", target->name),
				 errhint("cdi.stat_progress_import shows how far it is.")));
	return import_id;
}

static void
report_file(const CdiImport *import, const CdiImportFile *file)
{
	static const int index[] = {
		PROGRESS_COPY_BYTES_PROCESSED, PROGRESS_COPY_BYTES_TOTAL, PROGRESS_COPY_TUPLES_PROCESSED
	};
	const int64 values[] = {
		cdi_import_file_read(file), cdi_import_file_size(file), import->line - import->first + 1
	};

	if (import->reports)
		pgstat_progress_update_multi_param(lengthof(index), index, values);
}

/* One transaction's lines.  False where they were the last. */
static bool
import_some(CdiImport *import, CdiImportFile *file, int limit, int lines)
{
	CdiImportLine line;
	bool		more = true;

	for (int i = 0; i < lines && more; i++)
	{
		more = cdi_import_file_next(file, &line);
		if (!more)
			break;
		if (line.total > limit)
			cdi_import_long_line(import, line.data, line.len, line.total, limit);
		else
			cdi_import_line(import, line.data, line.len);
		if (import->batch == NULL || import->batch->count == 0)
			report_file(import, file);
	}
	cdi_import_flush(import);
	report_file(import, file);
	return more;
}

static void
go_to_offset(CdiImport *import, CdiImportFile *file, const char *path)
{
	if (!cdi_import_file_skip(file, import->row.file_offset, import->row.file_crc))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_IMPORT_MISMATCH),
				 errmsg("file \"%s\" is not the one that the import began with", path),
				 errdetail("Its first " INT64_FORMAT " bytes, of which " INT64_FORMAT " lines were imported, have changed.",
						   import->row.file_offset, import->row.lines),
				 errhint("Import it under another name.")));
	report_file(import, file);
}

static void
import_file(CdiImport *import, const CdiImportTarget *target, CdiImportFile *file,
			const char *path, int limit, int batch_lines)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(old, "cdi import transaction",
												  ALLOCSET_DEFAULT_SIZES);
	bool		more = true;

	cdi_import_begin(import, target, CDI_IMPORT_CALL, CDI_IMPORT_GO_ON);
	go_to_offset(import, file, path);
	while (more)
	{
		MemoryContextSwitchTo(context);
		more = import_some(import, file, limit, batch_lines);
		import->bytes = cdi_import_file_offset(file) - import->row.file_offset;
		cdi_import_store(import, cdi_import_file_offset(file), cdi_import_file_crc(file), path,
						 !more && cdi_import_file_error(file) == NULL);
		SPI_commit();
		EnsurePortalSnapshotExists();
		/* The grant may be gone by now, or the source disabled. */
		if (more)
			(void) cdi_source_for_write(target->source);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	if (cdi_import_file_error(file) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_COMPRESSION),
				 errmsg("file \"%s\" cannot be read to its end", path),
				 errdetail("%s Imported are the lines before that.", cdi_import_file_error(file)),
				 errhint("With a whole copy of the file the same CALL goes on.")));
}

/* lines, stored, duplicate, failed, withheld of the import since it began */
static Datum
totals(FunctionCallInfo fcinfo, const CdiImport *import)
{
	static const CdiOutcome outcomes[] = {CDI_STORED, CDI_DUPLICATE, CDI_FAILED, CDI_WITHHELD};
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(import->line);
	for (int i = 0; i < lengthof(outcomes); i++)
		values[i + 1] = Int64GetDatum(import->row.counts[outcomes[i]] + import->counts[outcomes[i]]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(cdi_import);

Datum
cdi_import(PG_FUNCTION_ARGS)
{
	char	   *path = text_argument(fcinfo, 0, "file", NULL);
	char	   *name = text_argument(fcinfo, 1, "name", path);
	char	   *source = text_argument(fcinfo, 2, "source", NULL);
	bool		history = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	int			batch_lines = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4);
	int			limit = cdi_import_line_limit();
	CdiImport  *import = palloc0(sizeof(CdiImport));
	CdiImportFile *volatile file = NULL;
	CdiImportTarget target;
	volatile int64 import_id = 0;	/* held by this session */

	require_non_atomic(fcinfo);
	check_may_read_files();
	canonicalize_path(path);
	if (batch_lines < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_lines must be at least 1")));
	set_target(&target, name, source, history);
	cdi_require_storage();

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PG_TRY();
	{
		file = cdi_import_file_open(path, limit);
		import_id = hold_import(&target);
		import_file(import, &target, file, path, limit, batch_lines);
	}
	PG_FINALLY();
	{
		if (file != NULL)
			cdi_import_file_close(file);
		cdi_import_end(import);
		if (import_id != 0)
			cdi_import_unlock(import_id);
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_DATUM(totals(fcinfo, import));
}
