/*
 * zlib.h
 *		zlib in memory contexts.
 */
#ifndef CDI_ZLIB_H
#define CDI_ZLIB_H

#include <zlib.h>

/* A stream whose memory is of the current context: an error leaves nothing
 * behind. */
extern void cdi_zlib_prepare(z_stream *stream);

#endif							/* CDI_ZLIB_H */
