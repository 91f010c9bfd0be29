/*
 * tls.c
 *		Certificate and key of the collector.
 *
 * GnuTLS asks for them at every handshake, so a file that was renewed is used
 * from the next reload on and no connection is closed for it.  What was in use
 * before is freed when no handshake can have it any more.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>

#include "collect/tls.h"

#define MAX_CHAIN		16

/* No handshake takes as long: cdi.collector_timeout is an hour at most. */
#define RETIRE_SECONDS	(2 * 3600)

typedef struct Identity
{
	struct Identity *next;
	time_t		retired_at;
	gnutls_datum_t certificate_file;
	gnutls_datum_t key_file;
	unsigned	length;
	gnutls_pcert_st chain[MAX_CHAIN];
	gnutls_privkey_t key;
} Identity;

/* GnuTLS gives its callback no argument, and a process has one collector. */
static struct
{
	Identity   *current;
	Identity   *retired;
}			state;

static time_t
seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static void
free_identity(Identity *identity)
{
	for (unsigned i = 0; i < identity->length; i++)
		gnutls_pcert_deinit(&identity->chain[i]);
	if (identity->key != NULL)
		gnutls_privkey_deinit(identity->key);
	if (identity->key_file.data != NULL)
		gnutls_memset(identity->key_file.data, 0, identity->key_file.size);
	gnutls_free(identity->certificate_file.data);
	gnutls_free(identity->key_file.data);
	free(identity);
}

static int
retrieve(gnutls_session_t session, const gnutls_datum_t *authorities, int nauthorities,
		 const gnutls_pk_algorithm_t *algorithms, int nalgorithms,
		 gnutls_pcert_st **chain, unsigned int *length, gnutls_privkey_t *key)
{
	if (state.current == NULL)
		return -1;
	*chain = state.current->chain;
	*length = state.current->length;
	*key = state.current->key;
	return 0;
}

void *
cdi_tls_retrieve(void)
{
	gnutls_certificate_retrieve_function2 *function = retrieve;

	return (void *) function;
}

/* The rules that the server has for its own key */
static bool
check_key_file(const char *path, char *error, size_t error_size, char *hint, size_t hint_size)
{
	struct stat file;

	if (stat(path, &file) != 0)
	{
		snprintf(error, error_size, "could not access private key file \"%s\": %s", path, strerror(errno));
		return false;
	}
	if (!S_ISREG(file.st_mode))
	{
		snprintf(error, error_size, "private key file \"%s\" is not a regular file", path);
		return false;
	}
	if (file.st_uid != geteuid() && file.st_uid != 0)
	{
		snprintf(error, error_size, "private key file \"%s\" must be owned by the server's user or root", path);
		return false;
	}
	if ((file.st_uid == geteuid() && (file.st_mode & (S_IRWXG | S_IRWXO)) != 0) ||
		(file.st_uid != geteuid() && (file.st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0))
	{
		snprintf(error, error_size, "private key file \"%s\" has group or world access", path);
		snprintf(hint, hint_size, "File must have permissions u=rw (0600) or less if owned by the server's user, or permissions u=rw,g=r (0640) or less if owned by root.");
		return false;
	}
	return true;
}

static bool
read_file(const char *what, const char *path, gnutls_datum_t *content, char *error, size_t error_size)
{
	int			result;

	errno = 0;
	result = gnutls_load_file(path, content);
	if (result < 0)
		snprintf(error, error_size, "could not read %s file \"%s\": %s", what, path,
				 errno != 0 ? strerror(errno) : gnutls_strerror(result));
	return result >= 0;
}

/* Do certificate and key belong together? */
static int
check_pair(const Identity *identity)
{
	gnutls_certificate_credentials_t credentials;
	int			result = gnutls_certificate_allocate_credentials(&credentials);

	if (result < 0)
		return result;
	result = gnutls_certificate_set_x509_key_mem(credentials, &identity->certificate_file,
												 &identity->key_file, GNUTLS_X509_FMT_PEM);
	gnutls_certificate_free_credentials(credentials);
	return result;
}

static bool
load(Identity *identity, const char *certificate, const char *key,
	 char *error, size_t error_size, char *hint, size_t hint_size)
{
	unsigned	length = MAX_CHAIN;
	int			result;

	if (!read_file("certificate", certificate, &identity->certificate_file, error, error_size) ||
		!check_key_file(key, error, error_size, hint, hint_size) ||
		!read_file("private key", key, &identity->key_file, error, error_size))
		return false;
	result = gnutls_pcert_list_import_x509_raw(identity->chain, &length, &identity->certificate_file,
											   GNUTLS_X509_FMT_PEM, 0);
	if (result < 0)
	{
		snprintf(error, error_size, "certificate file \"%s\" cannot be used: %s", certificate, gnutls_strerror(result));
		snprintf(hint, hint_size, "It has the certificate and the chain behind it, at most %d, in PEM.", MAX_CHAIN);
		return false;
	}
	identity->length = length;
	result = gnutls_privkey_init(&identity->key);
	if (result >= 0)
		result = gnutls_privkey_import_x509_raw(identity->key, &identity->key_file,
												GNUTLS_X509_FMT_PEM, NULL, 0);
	if (result < 0)
	{
		snprintf(error, error_size, "private key file \"%s\" cannot be used: %s", key, gnutls_strerror(result));
		snprintf(hint, hint_size, "It has a key in PEM that is not encrypted.");
		return false;
	}
	result = check_pair(identity);
	if (result < 0)
	{
		snprintf(error, error_size, "certificate \"%s\" and private key \"%s\" cannot be used together: %s",
				 certificate, key, gnutls_strerror(result));
		snprintf(hint, hint_size, "The first certificate of the file is the one of the key.");
		return false;
	}
	return true;
}

static bool
same(const gnutls_datum_t *a, const gnutls_datum_t *b)
{
	return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

bool
cdi_tls_load(const char *certificate, const char *key, bool *changed,
			 char *error, size_t error_size, char *hint, size_t hint_size)
{
	Identity   *identity = calloc(1, sizeof(Identity));
	Identity  **link;

	*changed = false;
	hint[0] = '\0';
	if (identity == NULL)
	{
		snprintf(error, error_size, "out of memory");
		return false;
	}
	if (!load(identity, certificate, key, error, error_size, hint, hint_size))
	{
		free_identity(identity);
		return false;
	}
	if (state.current != NULL &&
		same(&state.current->certificate_file, &identity->certificate_file) &&
		same(&state.current->key_file, &identity->key_file))
	{
		free_identity(identity);
		return true;
	}
	*changed = true;
	if (state.current != NULL)
	{
		state.current->retired_at = seconds();
		state.current->next = state.retired;
		state.retired = state.current;
	}
	state.current = identity;
	for (link = &state.retired; *link != NULL;)
	{
		Identity   *old = *link;

		if (seconds() - old->retired_at > RETIRE_SECONDS)
		{
			*link = old->next;
			free_identity(old);
		}
		else
			link = &old->next;
	}
	return true;
}
