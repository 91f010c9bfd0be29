/*
 * inflate.c
 *		Compressed bodies: what comes out never exceeds the limit.
 */
#include "postgres.h"

#include "collect/collect.h"

#include "shim.h"

#define LIMIT	65536

static volatile unsigned char sum;

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *out = NULL;
	size_t		length = 0;
	CdiInflateResult result;

	result = cdi_collect_inflate((const char *) data, size, LIMIT, &out, &length);
	if (length > LIMIT)
		shim_fail("%zu bytes came out", length);
	if (out == NULL)
		shim_fail("nothing came out, not even an empty text");
	if (result != CDI_INFLATE_OK && result != CDI_INFLATE_CORRUPT && result != CDI_INFLATE_TOO_LARGE)
		shim_fail("the result is %d", result);
	for (size_t i = 0; i < length; i++)
		sum += out[i];
	shim_reset();
	return 0;
}
