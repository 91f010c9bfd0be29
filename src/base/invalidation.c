/*
 * invalidation.c
 *		Caches that are told when relations change.
 *
 * A server process has room for ten callbacks of this kind, its own and those
 * of all extensions, and ends where there is one more.  So all caches of cdi
 * share one.
 */
#include "base/base.h"

static RelcacheCallbackFunction callbacks[16];
static int	ncallbacks = 0;

static void
invalidate(Datum arg, Oid relid)
{
	for (int i = 0; i < ncallbacks; i++)
		callbacks[i] (arg, relid);
}

void
cdi_invalidation_register(RelcacheCallbackFunction callback)
{
	for (int i = 0; i < ncallbacks; i++)
		if (callbacks[i] == callback)
			return;
	if (ncallbacks == lengthof(callbacks))
		elog(ERROR, "too many caches");
	if (ncallbacks == 0)
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	callbacks[ncallbacks++] = callback;
}
