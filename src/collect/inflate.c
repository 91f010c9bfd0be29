/*
 * inflate.c
 *		Compressed request bodies, with a limit on what they become.
 *
 * A kilobyte of gzip can stand for a megabyte of zeros, so the output grows
 * as it comes and never beyond the limit, whatever the stream claims.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/zlib.h"
#include "collect/collect.h"

/* windowBits of zlib */
#define DETECT_GZIP_OR_ZLIB	(15 + 32)
#define RAW_DEFLATE			(-15)

static CdiInflateResult
inflate_as(int window_bits, const char *data, size_t len, size_t limit,
		   char **out, size_t *out_len)
{
	z_stream	stream;
	size_t		capacity;
	size_t		length = 0;
	char	   *buffer;
	CdiInflateResult result = CDI_INFLATE_CORRUPT;

	cdi_zlib_prepare(&stream);
	stream.next_in = (Bytef *) data;
	stream.avail_in = len;

	capacity = Min(Max(len * 4, 4096), limit);
	buffer = MemoryContextAllocHuge(CurrentMemoryContext, capacity);
	if (inflateInit2(&stream, window_bits) != Z_OK)
	{
		*out = buffer;
		*out_len = 0;
		return CDI_INFLATE_CORRUPT;
	}
	for (;;)
	{
		int			status;

		stream.next_out = (Bytef *) buffer + length;
		stream.avail_out = Min(capacity - length, 1024 * 1024 * 1024);
		status = inflate(&stream, Z_NO_FLUSH);
		length = (char *) stream.next_out - buffer;
		if (status == Z_STREAM_END)
		{
			if (stream.avail_in == 0)
			{
				result = CDI_INFLATE_OK;
				break;
			}
			/* gzip files can be concatenated; anything else behind is not ours */
			if (window_bits != DETECT_GZIP_OR_ZLIB || inflateReset(&stream) != Z_OK)
				break;
		}
		else if (status != Z_OK && status != Z_BUF_ERROR)
			break;
		if (stream.avail_out == 0 && length == capacity)
		{
			if (capacity >= limit)
			{
				/* Exactly the limit is allowed: is there a byte more? */
				Bytef		probe;

				stream.next_out = &probe;
				stream.avail_out = 1;
				status = inflate(&stream, Z_NO_FLUSH);
				if (stream.avail_out == 0)
					result = CDI_INFLATE_TOO_LARGE;
				else if (status == Z_STREAM_END && stream.avail_in == 0)
					result = CDI_INFLATE_OK;
				break;
			}
			capacity = Min(capacity * 2, limit);
			buffer = repalloc_huge(buffer, capacity);
		}
		else if (stream.avail_in == 0)
			break;				/* truncated */
	}
	inflateEnd(&stream);
	*out = buffer;
	*out_len = length;
	return result;
}

CdiInflateResult
cdi_collect_inflate(const char *data, size_t len, size_t limit,
					char **out, size_t *out_len)
{
	CdiInflateResult result;

	result = inflate_as(DETECT_GZIP_OR_ZLIB, data, len, limit, out, out_len);

	/* "deflate" means zlib, and to some clients the bare stream. */
	if (result == CDI_INFLATE_CORRUPT && *out_len == 0)
	{
		pfree(*out);
		result = inflate_as(RAW_DEFLATE, data, len, limit, out, out_len);
	}
	return result;
}
