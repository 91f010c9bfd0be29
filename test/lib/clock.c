/*
 * clock.c
 *		A clock that a test can set.
 *
 *		cc -shared -fPIC -o clock.so test/lib/clock.c -ldl
 *		LD_PRELOAD=clock.so CLOCK=FILE pg_ctl start
 *
 * What time of day it is for the server, is that of the system plus the
 * seconds in FILE, at any moment.  Pauses and timeouts take as long as ever.
 * (libfaketime does the same, but not in processes that the postmaster starts
 * from a signal handler while it waits, as PostgreSQL 15 does with workers.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

int
gettimeofday(struct timeval *tv, void *zone)
{
	static int	(*next) (struct timeval *, void *);
	static const char *file;
	char		seconds[32] = "";
	int			result;
	int			saved;
	int			fd;

	if (next == NULL)
		next = (int (*) (struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
	result = next(tv, zone);
	saved = errno;
	if (file == NULL && getenv("CLOCK") != NULL)
		file = strdup(getenv("CLOCK"));
	fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0)
	{
		if (read(fd, seconds, sizeof(seconds) - 1) > 0)
			tv->tv_sec += atol(seconds);
		close(fd);
	}
	errno = saved;
	return result;
}
