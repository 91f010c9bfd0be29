/*
 * resolve.c
 *		Names and authorities of the test's own, between a server and libc.
 *
 * Loaded with LD_PRELOAD.  The addresses of hosts below .resolve.test are those
 * in the file $CDI_TEST_HOSTS, lines of "name address", read at every lookup.
 * Whoever opens the system's bundle of certificate authorities gets the file
 * $CDI_TEST_AUTHORITIES.
 *
 *		cc -shared -fPIC -o resolve.so test/lib/resolve.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUNDLE "/etc/ssl/certs/ca-certificates.crt"

static FILE *
real_fopen(const char *path, const char *mode)
{
	static FILE *(*real) (const char *, const char *) = NULL;

	if (real == NULL)
		*(void **) &real = dlsym(RTLD_NEXT, "fopen");
	return real(path, mode);
}

FILE *
fopen(const char *path, const char *mode)
{
	const char *authorities = getenv("CDI_TEST_AUTHORITIES");

	return real_fopen(authorities && strcmp(path, BUNDLE) == 0 ? authorities : path, mode);
}

FILE *
fopen64(const char *path, const char *mode)
{
	return fopen(path, mode);
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	static int	(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
	size_t		len = node ? strlen(node) : 0;
	char		name[256];
	char		address[256];
	FILE	   *hosts;
	int			status = EAI_NONAME;

	if (real == NULL)
		*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (len < 13 || strcmp(node + len - 13, ".resolve.test") != 0)
		return real(node, service, hints, result);
	hosts = real_fopen(getenv("CDI_TEST_HOSTS"), "r");
	if (hosts == NULL)
		return EAI_FAIL;
	while (fscanf(hosts, "%255s %255s", name, address) == 2)
		if (strcmp(name, node) == 0)
		{
			status = real(address, service, hints, result);
			break;
		}
	fclose(hosts);
	return status;
}
