/*
 * import.h
 *		Bulk import of lines of JSON; private to src/ingest.
 *
 * Two doors, COPY into the view cdi.import (import_stream.c, import_copy.c) and
 * the procedure cdi_import() (import_call.c), push lines into one CdiImport (import.c).
 */
#ifndef CDI_IMPORT_H
#define CDI_IMPORT_H

#include "ingest/ingest.h"

#define CDI_IMPORT_MAX_NAME 255
#define CDI_IMPORT_GO_ON	(-1)

typedef enum CdiImportCommand
{
	CDI_IMPORT_COPY = 1,		/* values of the progress parameter */
	CDI_IMPORT_INSERT,
	CDI_IMPORT_CALL
} CdiImportCommand;

/* What identifies an import; name is empty for one that cannot be resumed. */
typedef struct CdiImportTarget
{
	char		name[CDI_IMPORT_MAX_NAME + 1];
	char		source[NAMEDATALEN * 2];
	bool		history;
	bool		file;			/* read by cdi_import(), which knows the offset */
} CdiImportTarget;

/* Row of cdi.imports as it was found. */
typedef struct CdiImportRow
{
	int64		import_id;
	int64		lines;
	int64		file_offset;
	uint32		file_crc;
	int64		counts[CDI_PARKED + 1];
} CdiImportRow;

typedef struct CdiImport
{
	MemoryContext context;		/* of the caller; batches live below it */
	CdiImportCommand command;
	int32		source_id;
	bool		history;
	bool		reports;		/* fills the progress parameters */
	bool		owns_progress;	/* and started them */
	CdiImportRow row;			/* as found; lines are done already */
	int64		line;			/* number of the last line seen */
	int64		skipped;		/* lines seen that were done already */
	int64		first;			/* of the lines seen */
	int64		bytes;			/* of the lines not skipped */
	int64		counts[CDI_PARKED + 1];
	int64		written[CDI_PARKED + 1];	/* part of these in cdi.imports */
	int64		bytes_written;
	CdiBatch   *batch;
	int			batch_bytes;
} CdiImport;

/*
 * import.c.  cdi_import_begin finds or makes the row of cdi.imports, checks
 * that it is the same import and that the user may send to its source, and
 * keeps others from it until the transaction ends (not where the caller holds
 * the import for its session).  before is the number of the line before the
 * first that will come, or CDI_IMPORT_GO_ON.  All need a transaction.
 */
extern void cdi_import_begin(CdiImport *import, const CdiImportTarget *target,
							 CdiImportCommand command, int64 before);
/* One line without its end.  It is copied. */
extern void cdi_import_line(CdiImport *import, const char *data, int len);
/* A line of total bytes of which only the first len are at hand. */
extern void cdi_import_long_line(CdiImport *import, const char *data, int len,
								 int64 total, int limit);
/* Everything so far through the pipeline. */
extern void cdi_import_flush(CdiImport *import);
/* Write to cdi.imports what was done since the row was found or stored last. */
extern void cdi_import_store(CdiImport *import, int64 file_offset, uint32 file_crc,
							 const char *file, bool finished);
extern void cdi_import_end(CdiImport *import);
/* Row of an import; made where there is none.  Raises where it is another. */
extern CdiImportRow cdi_import_open_row(const CdiImportTarget *target, int32 source_id);
/* One session at a time works on an import. */
extern bool cdi_import_lock(int64 import_id, bool session, bool wait);
extern void cdi_import_unlock(int64 import_id);

/* The longest line that is taken whole; a longer one fails. */
extern int	cdi_import_line_limit(void);

/* import_copy.c: lines of the session's stream, see cdi_import_open() */
extern void cdi_import_stream_begin(CdiImport *import, CdiImportCommand command);
extern void cdi_import_stream_end(CdiImport *import);

/* import_stream.c */
extern void cdi_import_init(void);

/* import_file.c: lines of a file of the server, plain or gzip */
typedef struct CdiImportFile CdiImportFile;

typedef struct CdiImportLine
{
	const char *data;			/* valid until the next line is read */
	int			len;			/* at most the limit */
	int64		total;			/* length of the whole line */
} CdiImportLine;

extern CdiImportFile *cdi_import_file_open(const char *path, int limit);
extern void cdi_import_file_close(CdiImportFile *file);
/* Read up to the offset; false where the file ends before or differs. */
extern bool cdi_import_file_skip(CdiImportFile *file, int64 offset, uint32 crc);
extern bool cdi_import_file_next(CdiImportFile *file, CdiImportLine *line);
/* Behind the last line, in the file's content as it is after decompression. */
extern int64 cdi_import_file_offset(const CdiImportFile *file);
extern uint32 cdi_import_file_crc(const CdiImportFile *file);
/* Bytes read of the file itself, and its size. */
extern int64 cdi_import_file_read(const CdiImportFile *file);
extern int64 cdi_import_file_size(const CdiImportFile *file);
/* What ended the lines before the end of the file; NULL where nothing did. */
extern const char *cdi_import_file_error(const CdiImportFile *file);

#endif							/* CDI_IMPORT_H */
