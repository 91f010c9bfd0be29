/*
 * import_file.c
 *		Lines of a file of the server, plain or gzip, in bounded memory.
 *
 * The file stays open over the caller's commits, so it is a virtual file
 * descriptor, which only cdi_import_file_close() closes.  A CRC of everything
 * read so far tells whether a file that is read on is still the same.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#include "base/zlib.h"
#include "ingest/import.h"

#define CHUNK			(256 * 1024)
#define DETECT_GZIP		(15 + 16)	/* windowBits of zlib */

struct CdiImportFile
{
	File		fd;
	int64		size;
	int64		at;				/* next byte of the file itself */
	int			limit;			/* longest line that is kept whole */
	bool		gzip;
	bool		ended;			/* nothing more can be had */
	const char *error;
	z_stream	stream;
	int			members;		/* of the gzip file that are behind */
	unsigned char *input;		/* compressed bytes */
	char	   *buffer;			/* limit + CHUNK bytes */
	int			used;
	int			next;			/* first byte of buffer that is not consumed */
	int64		offset;			/* of it in the content */
	pg_crc32c	crc;			/* of the content before it */
	char		last;			/* byte before it */
};

static int
read_raw(CdiImportFile *file, void *data, int len)
{
	int			got = FileRead(file->fd, data, len, file->at, WAIT_EVENT_COPY_FILE_READ);

	if (got < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", FilePathName(file->fd))));
	file->at += got;
	return got;
}

CdiImportFile *
cdi_import_file_open(const char *path, int limit)
{
	CdiImportFile *file = palloc0(sizeof(CdiImportFile));
	struct stat st;
	unsigned char magic[2];

	if (stat(path, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\" for reading: %m", path),
				 errhint("cdi_import() reads a file of the server. psql's \\copy into cdi.import sends one of the client.")));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is no regular file", path)));
	file->fd = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (file->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\" for reading: %m", path)));
	file->size = st.st_size;
	file->limit = limit;
	file->buffer = MemoryContextAllocHuge(CurrentMemoryContext, (Size) limit + CHUNK);
	INIT_CRC32C(file->crc);
	if (read_raw(file, magic, 2) == 2 && magic[0] == 0x1f && magic[1] == 0x8b)
	{
		file->gzip = true;
		file->input = palloc(CHUNK);
		cdi_zlib_prepare(&file->stream);
		if (inflateInit2(&file->stream, DETECT_GZIP) != Z_OK)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("could not initialise decompression")));
	}
	file->at = 0;
	return file;
}

/* The memory goes with its context. */
void
cdi_import_file_close(CdiImportFile *file)
{
	FileClose(file->fd);
}

/*
 * Decompressed bytes; 0 at the end.  A damaged file gives what it holds before
 * the damage and leaves the error behind.
 */
static int
read_gzip(CdiImportFile *file, char *data, int len)
{
	z_stream   *stream = &file->stream;

	stream->next_out = (Bytef *) data;
	stream->avail_out = len;
	while (stream->avail_out == (uInt) len && !file->ended)
	{
		int			result;

		CHECK_FOR_INTERRUPTS();
		if (stream->avail_in == 0)
		{
			stream->next_in = file->input;
			stream->avail_in = read_raw(file, file->input, CHUNK);
			if (stream->avail_in == 0)
			{
				/* Between two members a file may end. */
				if (stream->total_in != 0)
					file->error = "The compressed data end too early.";
				file->ended = true;
				break;
			}
		}
		/* Padding behind the last member is no member. */
		if (file->members > 0 && stream->total_in == 0 && *stream->next_in == 0)
		{
			file->ended = true;
			break;
		}
		result = inflate(stream, Z_NO_FLUSH);
		if (result == Z_STREAM_END)
		{
			file->members++;
			result = inflateReset(stream);
		}
		if (result != Z_OK && result != Z_BUF_ERROR)
		{
			file->error = "The compressed data are damaged.";
			file->ended = true;
		}
	}
	return len - stream->avail_out;
}

/* More bytes behind those in the buffer; false at the end. */
static bool
fill(CdiImportFile *file)
{
	int			got;

	if (file->ended)
		return false;
	if (file->next > 0)
	{
		memmove(file->buffer, file->buffer + file->next, file->used - file->next);
		file->used -= file->next;
		file->next = 0;
	}
	Assert(file->used < file->limit + CHUNK);
	got = file->gzip ? read_gzip(file, file->buffer + file->used, file->limit + CHUNK - file->used) :
		read_raw(file, file->buffer + file->used, Min(CHUNK, file->limit + CHUNK - file->used));
	file->used += got;
	if (got == 0)
		file->ended = true;
	return got > 0;
}

static void
consume(CdiImportFile *file, int len)
{
	COMP_CRC32C(file->crc, file->buffer + file->next, len);
	file->next += len;
	file->offset += len;
	if (len > 0)
		file->last = file->buffer[file->next - 1];
}

bool
cdi_import_file_skip(CdiImportFile *file, int64 offset, uint32 crc)
{
	while (file->offset < offset)
	{
		CHECK_FOR_INTERRUPTS();
		if (file->next == file->used && !fill(file))
			return false;
		consume(file, Min(offset - file->offset, file->used - file->next));
	}
	if (cdi_import_file_crc(file) != crc)
		return false;

	/* The line that was the last may have got its end since. */
	if (offset > 0 && file->last != '\n' &&
		(file->next < file->used || fill(file)) && file->buffer[file->next] == '\n')
		consume(file, 1);
	return true;
}

bool
cdi_import_file_next(CdiImportFile *file, CdiImportLine *line)
{
	int			seen = 0;		/* bytes behind next without a line's end */
	char	   *end;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		end = file->used - file->next > seen ?
			memchr(file->buffer + file->next + seen, '\n', file->used - file->next - seen) : NULL;
		if (end != NULL)
			break;
		seen = file->used - file->next;
		if (seen > file->limit || !fill(file))
			break;
	}
	line->data = file->buffer + file->next;
	if (end != NULL)
	{
		line->total = line->len = end - line->data;
		consume(file, line->len + 1);
	}
	else if (seen <= file->limit)
	{
		/* The last line may lack its end; one that damage cut off is none. */
		line->total = line->len = seen;
		if (seen == 0 || file->error != NULL)
			return false;
		consume(file, seen);
	}
	else
	{
		/* Keep the beginning, go over the rest in the buffer's other part. */
		line->len = line->total = file->limit;
		consume(file, file->limit);
		for (;;)
		{
			int			left = file->used - file->next;

			end = memchr(file->buffer + file->next, '\n', left);
			line->total += end != NULL ? end - (file->buffer + file->next) : left;
			consume(file, end != NULL ? end - (file->buffer + file->next) + 1 : left);
			if (end != NULL)
				break;
			CHECK_FOR_INTERRUPTS();

			/* What was kept is at the buffer's beginning and stays there. */
			if (line->data != file->buffer)
				line->data = memmove(file->buffer, line->data, file->limit);
			file->next = file->used = file->limit;
			left = file->gzip ? read_gzip(file, file->buffer + file->limit, CHUNK) :
				read_raw(file, file->buffer + file->limit, CHUNK);
			if (left == 0)
			{
				file->ended = true;
				if (file->error != NULL)
					return false;
				break;
			}
			file->used += left;
		}
	}
	if (line->len > file->limit)
		line->len = file->limit;
	return true;
}

int64
cdi_import_file_offset(const CdiImportFile *file)
{
	return file->offset;
}

uint32
cdi_import_file_crc(const CdiImportFile *file)
{
	pg_crc32c	crc = file->crc;

	FIN_CRC32C(crc);
	return crc;
}

int64
cdi_import_file_read(const CdiImportFile *file)
{
	return file->gzip ? file->at : file->offset;
}

int64
cdi_import_file_size(const CdiImportFile *file)
{
	return file->size;
}

const char *
cdi_import_file_error(const CdiImportFile *file)
{
	return file->error;
}
