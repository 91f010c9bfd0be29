/*
 * secret.c
 *		Secrets by reference: file:NAME, env:NAME and secret:NAME.
 *
 * A reference is all that any table, dump or log ever holds, but for
 * cdi.secrets, which has ciphertext (secret_store.c).  The value is read when
 * it is needed and lives as long as that takes.  Whoever may create a
 * destination chooses references and the address that the value is sent to, so
 * what can be read is limited: files below cdi.secret_directory, after all
 * symbolic links are followed, variables whose name begins with CDI_, and what
 * was put into cdi.secrets.
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "base/base.h"
#include "base/errors.h"
#include "base/secret.h"

#define MAX_SECRET (64 * 1024)

bool
cdi_secret_is_reference(const char *value)
{
	return (strncmp(value, "file:", 5) == 0 || strncmp(value, "env:", 4) == 0 ||
			strncmp(value, "secret:", 7) == 0) &&
		strchr(value, ':')[1] != '\0';
}

static void
unavailable(const char *reference, const char *reason, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
			 errmsg("secret \"%s\" is not available", reference),
			 errdetail("%s", reason),
			 hint ? errhint("%s", hint) : 0));
}

static char *
read_file(const char *reference)
{
	const char *name = reference + 5;
	char		directory[PATH_MAX];
	char		path[PATH_MAX];
	char	   *wanted;
	struct stat state;
	char	   *value;
	ssize_t		size;
	int			file;
	size_t		len;

	if (cdi_secret_directory == NULL || *cdi_secret_directory == '\0')
		unavailable(reference, "No directory of secrets is set.",
					"Set cdi.secret_directory to a directory that only the server can read.");
	if (realpath(cdi_secret_directory, directory) == NULL)
		unavailable(reference, "The directory that cdi.secret_directory names cannot be opened.", NULL);
	wanted = *name == '/' ? pstrdup(name) : psprintf("%s/%s", directory, name);
	if (realpath(wanted, path) == NULL)
		unavailable(reference, "The file cannot be opened.", NULL);
	len = strlen(directory);
	if (strncmp(path, directory, len) != 0 || path[len] != '/')
		unavailable(reference, "The file is not below the directory that cdi.secret_directory names.", NULL);
	file = OpenTransientFile(path, O_RDONLY | O_NOFOLLOW);
	if (file < 0)
		unavailable(reference, "The file cannot be opened.", NULL);
	if (fstat(file, &state) != 0 || !S_ISREG(state.st_mode) || state.st_size > MAX_SECRET)
	{
		CloseTransientFile(file);
		unavailable(reference, "It is no file, or one of more than 64 kB.", NULL);
	}
	value = palloc(MAX_SECRET + 1);
	size = read(file, value, MAX_SECRET);
	CloseTransientFile(file);
	if (size < 0)
		unavailable(reference, "The file cannot be read.", NULL);
	/* as editors and echo leave it */
	if (size > 0 && value[size - 1] == '\n')
		size--;
	if (size > 0 && value[size - 1] == '\r')
		size--;
	value[size] = '\0';
	return value;
}

char *
cdi_secret_read(const char *reference)
{
	char	   *value;

	if (strncmp(reference, "file:", 5) == 0)
		value = read_file(reference);
	else if (strncmp(reference, "secret:", 7) == 0)
	{
		value = cdi_secret_fetch(reference + 7);
		if (value == NULL)
			unavailable(reference, "cdi.secrets has nothing of that name.",
						"COPY cdi.secret_entry FROM STDIN puts it there.");
	}
	else
	{
		const char *name = reference + 4;

		if (strncmp(name, "CDI_", 4) != 0)
			unavailable(reference, "Variables whose name does not begin with CDI_ are not read.", NULL);
		value = getenv(name);
		if (value == NULL)
			unavailable(reference, "The server's environment has no such variable.", NULL);
		value = pstrdup(value);
	}
	if (*value == '\0')
		unavailable(reference, "It is empty.", NULL);
	return value;
}
