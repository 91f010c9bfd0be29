/*
 * import.c
 *		Bulk import: lines of JSON become batches of the pipeline.
 *
 * A line is what the body of a request is: one call, an array of calls or
 * {"batch": [...]}.  Lines gather in a batch of bounded size, and a batch is
 * gone from memory before the next begins.  What fails carries the import and
 * the number of its line.
 *
 * An import with a name can be resumed: cdi.imports says how many lines are
 * done, in the transaction that did them, and lines up to there are skipped
 * when they come again.  An advisory lock keeps a second session from the same
 * import, because both would count from the same line.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lock.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "ingest/import.h"

#define BATCH_LINES		1000
#define BATCH_BYTES		(4 * 1024 * 1024)

/* Fourth field of the lock tag; 205 are positions (position.c). */
#define IMPORT_LOCK_CLASS 206

/*
 * Progress parameters behind those of COPY; cdi.stat_progress_import counts
 * them from 1.
 */
#define PARAM_IMPORT	10
#define PARAM_SOURCE	11
#define PARAM_COMMAND	12
#define PARAM_LINES		13
#define PARAM_SKIPPED	14
#define PARAM_STORED	15
#define PARAM_DUPLICATE	16
#define PARAM_FAILED	17
#define PARAM_WITHHELD	18

static void
import_tag(LOCKTAG *tag, int64 import_id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (import_id >> 32), (uint32) import_id,
						 IMPORT_LOCK_CLASS);
}

bool
cdi_import_lock(int64 import_id, bool session, bool wait)
{
	LOCKTAG		tag;

	import_tag(&tag, import_id);
	return LockAcquire(&tag, ExclusiveLock, session, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
cdi_import_unlock(int64 import_id)
{
	LOCKTAG		tag;

	import_tag(&tag, import_id);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

static int64
get_int64(int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(datum);
}

static bool
get_bool(int column)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull));
}

static void
mismatch(const CdiImportTarget *target, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_IMPORT_MISMATCH),
			 errmsg("import \"%s\" began in another way", target->name),
			 errdetail("%s", detail),
			 errhint("Take another name, or see cdi.imports for what was said when it began.")));
}

static bool
find_row(const CdiImportTarget *target, int32 source_id, CdiImportRow *row)
{
	static CdiPlan find = {
		.query = "SELECT import_id, lines, file_offset, file_crc, stored, duplicate, failed, withheld,"
		" is_file, history, source_id::bigint FROM cdi.imports WHERE name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};

	cdi_plan_execute(&find, (Datum[]) {CStringGetTextDatum(target->name)}, NULL);
	if (SPI_processed == 0)
		return false;
	row->import_id = get_int64(1);
	row->lines = get_int64(2);
	row->file_offset = get_int64(3);
	row->file_crc = (uint32) get_int64(4);
	row->counts[CDI_STORED] = get_int64(5);
	row->counts[CDI_DUPLICATE] = get_int64(6);
	row->counts[CDI_FAILED] = get_int64(7);
	row->counts[CDI_WITHHELD] = get_int64(8);
	if (get_bool(9) != target->file)
		mismatch(target, get_bool(9) ? "It reads a file by cdi_import()."
				 : "Its lines come through cdi.import.");
	if (get_bool(10) != target->history)
		mismatch(target, get_bool(10) ? "It began with history." : "It began without history.");
	if (get_int64(11) != source_id)
		mismatch(target, "It began with another source.");
	return true;
}

CdiImportRow
cdi_import_open_row(const CdiImportTarget *target, int32 source_id)
{
	static CdiPlan insert = {
		.query = "INSERT INTO cdi.imports (name, source_id, history, is_file)"
		" VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING RETURNING import_id",
		.nargs = 4,.argtypes = {TEXTOID, INT4OID, BOOLOID, BOOLOID}
	};
	CdiOwnerScope scope;
	CdiImportRow row = {0};
	bool		named = target->name[0] != '\0';
	Datum		values[4] = {
		named ? CStringGetTextDatum(target->name) : (Datum) 0,
		Int32GetDatum(source_id), BoolGetDatum(target->history), BoolGetDatum(target->file)
	};
	const char	nulls[5] = {named ? ' ' : 'n', ' ', ' ', ' ', '\0'};

	cdi_prevent_in_recovery("cdi_import");
	if (!OidIsValid(cdi_relation_oid("imports")))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NOT_INITIALISED),
				 errmsg("the storage of cdi in this database is older than bulk import"),
				 errhint("Run SELECT cdi_init() once more, as a superuser.")));
	cdi_owner_enter(&scope);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (!named || !find_row(target, source_id, &row))
	{
		cdi_plan_execute(&insert, values, nulls);
		if (SPI_processed == 1)
			row.import_id = get_int64(1);
		else if (!find_row(target, source_id, &row))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("import \"%s\" was made by a concurrent transaction", target->name)));
	}
	SPI_finish();
	cdi_owner_leave(&scope);
	return row;
}

/*
 * The batch's subtransactions end a backend's progress report where they are
 * rolled back, COPY's own included: put it back then.
 */
static void
ingest_keeping_progress(CdiBatch *batch)
{
	PgBackendStatus *entry = MyBEEntry;
	ProgressCommandType command;
	Oid			target;
	int64		params[PGSTAT_NUM_PROGRESS_PARAM];

	if (entry == NULL || entry->st_progress_command == PROGRESS_COMMAND_INVALID)
	{
		cdi_ingest_batch(batch);
		return;
	}
	command = entry->st_progress_command;
	target = entry->st_progress_command_target;
	memcpy(params, (const void *) entry->st_progress_param, sizeof(params));
	cdi_ingest_batch(batch);
	if (entry->st_progress_command == PROGRESS_COMMAND_INVALID)
	{
		int			index[PGSTAT_NUM_PROGRESS_PARAM];

		for (int i = 0; i < PGSTAT_NUM_PROGRESS_PARAM; i++)
			index[i] = i;
		pgstat_progress_start_command(command, target);
		pgstat_progress_update_multi_param(PGSTAT_NUM_PROGRESS_PARAM, index, params);
	}
}

/* Progress as pg_stat_progress_copy and cdi.stat_progress_import show it */
static void
report(const CdiImport *import)
{
	static const int index[] = {
		PARAM_IMPORT, PARAM_SOURCE, PARAM_COMMAND, PARAM_LINES, PARAM_SKIPPED,
		PARAM_STORED, PARAM_DUPLICATE, PARAM_FAILED, PARAM_WITHHELD
	};
	const int64 values[] = {
		import->row.import_id, import->source_id, import->command,
		import->line - import->first + 1 - import->skipped, import->skipped,
		import->counts[CDI_STORED], import->counts[CDI_DUPLICATE],
		import->counts[CDI_FAILED], import->counts[CDI_WITHHELD]
	};

	if (import->reports)
		pgstat_progress_update_multi_param(lengthof(index), index, values);
	if (import->owns_progress && import->command != CDI_IMPORT_CALL)
		pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, import->line - import->first + 1);
}

static void
begin_progress(CdiImport *import)
{
	if (MyBEEntry == NULL)
		return;
	import->reports = true;
	if (MyBEEntry->st_progress_command == PROGRESS_COMMAND_INVALID)
	{
		static const int index[] = {PROGRESS_COPY_COMMAND, PROGRESS_COPY_TYPE};
		const int64 values[] = {
			PROGRESS_COPY_COMMAND_FROM,
			import->command == CDI_IMPORT_CALL ? PROGRESS_COPY_TYPE_FILE :
			import->command == CDI_IMPORT_COPY ? PROGRESS_COPY_TYPE_PIPE : PROGRESS_COPY_TYPE_CALLBACK
		};

		pgstat_progress_start_command(PROGRESS_COMMAND_COPY, cdi_relation_oid("import"));
		pgstat_progress_update_multi_param(lengthof(index), index, values);
		import->owns_progress = true;
	}
	else if (MyBEEntry->st_progress_command != PROGRESS_COMMAND_COPY ||
			 MyBEEntry->st_progress_param[PARAM_IMPORT] != 0)
		import->reports = false;	/* somebody else's, or an outer statement */
	report(import);
}

void
cdi_import_begin(CdiImport *import, const CdiImportTarget *target,
				 CdiImportCommand command, int64 before)
{
	memset(import, 0, sizeof(*import));
	cdi_require_storage();
	import->context = CurrentMemoryContext;
	import->command = command;
	import->history = target->history;
	import->source_id = cdi_source_for_write(target->source)->source_id;
	import->row = cdi_import_open_row(target, import->source_id);
	if (command != CDI_IMPORT_CALL && target->name[0] != '\0')
	{
		/* What another session did meanwhile counts. */
		cdi_import_lock(import->row.import_id, false, true);
		import->row = cdi_import_open_row(target, import->source_id);
	}
	if (before == CDI_IMPORT_GO_ON)
		before = import->row.lines;
	import->line = before;
	import->first = before + 1;
	if (before > import->row.lines)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_IMPORT_MISMATCH),
				 errmsg("import \"%s\" lacks lines before line " INT64_FORMAT, target->name, before + 1),
				 errdetail("Done are " INT64_FORMAT " lines.", import->row.lines),
				 errhint("Send the lines from line " INT64_FORMAT " on.", import->row.lines + 1)));
	begin_progress(import);
}

int
cdi_import_line_limit(void)
{
	return Min((int64) Max(cdi_ingest_max_event, cdi_collector_max_body) * 1024, MaxAllocSize / 2);
}

/* The next line counts; false where there is nothing to do for it. */
static bool
next_line(CdiImport *import, int64 total)
{
	if (++import->line <= import->row.lines)
	{
		if (++import->skipped % BATCH_LINES == 0)
			report(import);
		return false;
	}
	import->bytes += total;
	return true;
}

static CdiBatch *
batch_with_room(CdiImport *import, int len)
{
	if (import->batch != NULL &&
		(import->batch->count >= BATCH_LINES || import->batch_bytes > BATCH_BYTES - len))
		cdi_import_flush(import);
	if (import->batch == NULL)
	{
		import->batch = cdi_batch_create(import->context, GetCurrentTimestamp());
		import->batch->may_wait = true;
		import->batch_bytes = 0;
		cdi_batch_reserve(import->batch, BATCH_LINES);
	}
	import->batch_bytes += len;
	return import->batch;
}

/* What a failed event of the current line takes along. */
static CdiEnvelope *
line_envelope(const CdiImport *import, CdiBatch *batch)
{
	CdiEnvelope *envelope = MemoryContextAllocZero(batch->context, sizeof(CdiEnvelope));

	envelope->history = import->history;
	envelope->import_id = import->row.import_id;
	envelope->line = import->line;
	return envelope;
}

static const char *
keep(CdiBatch *batch, const char *data, int len)
{
	return memcpy(MemoryContextAllocHuge(batch->context, Max(len, 1)), data, len);
}

void
cdi_import_line(CdiImport *import, const char *data, int len)
{
	CdiBatch   *batch;
	CdiEnvelope *envelope;

	if (!next_line(import, (int64) len + 1))
		return;
	/* Byte order mark of UTF-8 */
	if (import->line == 1 && len >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0)
	{
		data += 3;
		len -= 3;
	}
	while (len > 0 && (data[len - 1] == '\r' || data[len - 1] == ' ' || data[len - 1] == '\t'))
		len--;
	while (len > 0 && (*data == ' ' || *data == '\t'))
	{
		data++;
		len--;
	}
	if (len == 0)
		return;
	batch = batch_with_room(import, len);
	envelope = line_envelope(import, batch);
	data = keep(batch, data, len);
	/* One call, unless it may be an envelope: no need to walk over it first. */
	if (*data == '{' && memmem(data, len, "\"batch\"", 7) == NULL)
	{
		CdiEvent   *event = cdi_batch_add(batch, 0, import->source_id);

		event->payload.data = data;
		event->payload.len = len;
		event->envelope = envelope;
	}
	else
		cdi_parse_body(batch, 0, import->source_id, data, len, envelope);
}

void
cdi_import_long_line(CdiImport *import, const char *data, int len, int64 total, int limit)
{
	CdiBatch   *batch;
	CdiEvent   *event;

	if (!next_line(import, total + 1))
		return;
	batch = batch_with_room(import, len);
	event = cdi_batch_add(batch, 0, import->source_id);
	event->payload.data = keep(batch, data, len);
	event->payload.len = len;
	event->envelope = line_envelope(import, batch);
	cdi_event_fail(batch, event, "parse", ERRCODE_CDI_EVENT_TOO_LARGE, "line is too long",
				   psprintf("The line has " INT64_FORMAT " bytes, the limit is %d. Kept are the first %d.",
							total, limit, len),
				   "The limit is the larger of cdi.ingest_max_event and cdi.collector_max_body.");
}

void
cdi_import_flush(CdiImport *import)
{
	CdiBatch   *batch = import->batch;

	if (batch != NULL)
	{
		import->batch = NULL;
		ingest_keeping_progress(batch);
		for (int i = 0; i < batch->count; i++)
			import->counts[batch->events[i].outcome]++;
		cdi_batch_destroy(batch);
	}
	report(import);
}

void
cdi_import_store(CdiImport *import, int64 file_offset, uint32 file_crc,
				 const char *file, bool finished)
{
	static CdiPlan plan = {
		.query = "UPDATE cdi.imports SET lines = $2, bytes = bytes + $3, stored = stored + $4,"
		" duplicate = duplicate + $5, failed = failed + $6, withheld = withheld + $7,"
		" file_offset = $8, file_crc = $9, file = coalesce($10, file),"
		" updated_at = clock_timestamp(),"
		" finished_at = CASE WHEN NOT $11 THEN NULL"
		" WHEN lines = $2 THEN coalesce(finished_at, clock_timestamp()) ELSE clock_timestamp() END WHERE import_id = $1",
		.nargs = 11,
		.argtypes = {INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, INT8OID, TEXTOID, BOOLOID}
	};
	const int64 *counts = import->counts;
	const int64 *written = import->written;
	CdiOwnerScope scope;
	const char	nulls[12] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', file ? ' ' : 'n', ' ', '\0'};

	cdi_owner_enter(&scope);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	cdi_plan_execute(&plan, (Datum[]) {
		Int64GetDatum(import->row.import_id),
		Int64GetDatum(Max(import->line, import->row.lines)),
		Int64GetDatum(import->bytes - import->bytes_written),
		Int64GetDatum(counts[CDI_STORED] - written[CDI_STORED]),
		Int64GetDatum(counts[CDI_DUPLICATE] - written[CDI_DUPLICATE]),
		Int64GetDatum(counts[CDI_FAILED] - written[CDI_FAILED]),
		Int64GetDatum(counts[CDI_WITHHELD] - written[CDI_WITHHELD]),
		Int64GetDatum(file_offset),
		Int64GetDatum((int64) file_crc),
		file ? CStringGetTextDatum(file) : (Datum) 0,
		BoolGetDatum(finished)
	}, nulls);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_IMPORT_MISMATCH),
				 errmsg("the row of the running import is gone from cdi.imports")));
	SPI_finish();
	cdi_owner_leave(&scope);
	memcpy(import->written, import->counts, sizeof(import->written));
	import->bytes_written = import->bytes;
}

void
cdi_import_end(CdiImport *import)
{
	if (import->owns_progress)
		pgstat_progress_end_command();
	else if (import->reports)
		pgstat_progress_update_param(PARAM_IMPORT, 0);
	import->reports = import->owns_progress = false;
}

PG_FUNCTION_INFO_V1(cdi_payload_text);

/* bytea to text where it is valid text, else NULL */
Datum
cdi_payload_text(PG_FUNCTION_ARGS)
{
	bytea	   *payload = PG_GETARG_BYTEA_PP(0);

	if (!pg_verify_mbstr(GetDatabaseEncoding(), VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), true))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload)));
}
