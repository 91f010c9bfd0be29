/*
 * tls.h
 *		Certificate and key of the collector.  Plain C on GnuTLS, which
 *		libmicrohttpd speaks TLS with.
 */
#ifndef CDI_TLS_H
#define CDI_TLS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Read both files (PEM; the certificate may be followed by the chain) and let
 * handshakes from now on use them; those that run keep what they began with.
 * Returns false and says why where the files cannot be used: then nothing has
 * changed.  *changed is false where they are the ones in use.  hint is empty
 * or says what to do.
 */
extern bool cdi_tls_load(const char *certificate, const char *key, bool *changed,
						 char *error, size_t error_size, char *hint, size_t hint_size);

/* For CdiHttpOptions: the callback that gives GnuTLS what was loaded. */
extern void *cdi_tls_retrieve(void);

#endif							/* CDI_TLS_H */
