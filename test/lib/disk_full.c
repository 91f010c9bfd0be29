/*
 * disk_full.c
 *		A disk that is full whenever a test wants it to be.
 *
 *		cc -shared -fPIC -o disk_full.so test/lib/disk_full.c -ldl
 *		LD_PRELOAD=disk_full.so DISK_FULL=FILE pg_ctl start
 *
 * While FILE exists, no file whose path has FILE's first line in it can grow:
 * a write beyond its end fails with ENOSPC, as it does on a disk that has no
 * block left.  What was written before can be read and written over.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Would the file grow, and must it not? */
static int
refuse(int fd, off_t end)
{
	static const char *flag;
	char		pattern[256] = "";
	char		link[64];
	char		path[4096];
	struct stat st;
	ssize_t		length;
	int			saved = errno;
	int			flag_fd;

	if (flag == NULL && (flag = getenv("DISK_FULL")) == NULL)
		return 0;
	flag_fd = open(flag, O_RDONLY | O_CLOEXEC);
	errno = saved;
	if (flag_fd < 0)
		return 0;
	if (read(flag_fd, pattern, sizeof(pattern) - 1) < 0)
		pattern[0] = '\0';
	close(flag_fd);
	pattern[strcspn(pattern, "\n")] = '\0';
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (pattern[0] == '\0' || length < 0)
		return 0;
	path[length] = '\0';
	if (strstr(path, pattern) == NULL || fstat(fd, &st) != 0 || end <= st.st_size)
		return 0;
	errno = ENOSPC;
	return 1;
}

static size_t
total(const struct iovec *iov, int n)
{
	size_t		sum = 0;

	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	return sum;
}

#define NEXT(name) \
	static __typeof__(&name) next; \
	if (next == NULL) \
		next = (__typeof__(&name)) dlsym(RTLD_NEXT, #name)

ssize_t
pwrite(int fd, const void *data, size_t n, off_t offset)
{
	NEXT(pwrite);
	return refuse(fd, offset + n) ? -1 : next(fd, data, n, offset);
}

ssize_t
pwrite64(int fd, const void *data, size_t n, off64_t offset)
{
	NEXT(pwrite64);
	return refuse(fd, offset + n) ? -1 : next(fd, data, n, offset);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	NEXT(pwritev);
	return refuse(fd, offset + total(iov, n)) ? -1 : next(fd, iov, n, offset);
}

ssize_t
pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
	NEXT(pwritev64);
	return refuse(fd, offset + total(iov, n)) ? -1 : next(fd, iov, n, offset);
}

int
posix_fallocate(int fd, off_t offset, off_t n)
{
	NEXT(posix_fallocate);
	return refuse(fd, offset + n) ? ENOSPC : next(fd, offset, n);
}

int
posix_fallocate64(int fd, off64_t offset, off64_t n)
{
	NEXT(posix_fallocate64);
	return refuse(fd, offset + n) ? ENOSPC : next(fd, offset, n);
}
