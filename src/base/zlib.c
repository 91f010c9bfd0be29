/*
 * zlib.c
 *		zlib in memory contexts.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/zlib.h"

static voidpf
zlib_alloc(voidpf opaque, uInt items, uInt size)
{
	return MemoryContextAllocExtended((MemoryContext) opaque, (Size) items * size,
									  MCXT_ALLOC_NO_OOM);
}

static void
zlib_free(voidpf opaque, voidpf address)
{
	pfree(address);
}

void
cdi_zlib_prepare(z_stream *stream)
{
	memset(stream, 0, sizeof(*stream));
	stream->zalloc = zlib_alloc;
	stream->zfree = zlib_free;
	stream->opaque = (voidpf) CurrentMemoryContext;
}
