/*
 * secret.h
 *		Secrets by reference.
 */
#ifndef CDI_SECRET_H
#define CDI_SECRET_H

/* Does the text begin like a reference, and name something? */
extern bool cdi_secret_is_reference(const char *value);

/* The value, in the current memory context.  Raises ZC406, without the value
 * or what is in the file. */
extern char *cdi_secret_read(const char *reference);

/* secret_store.c: once, when the library is loaded */
extern void cdi_secret_init(void);

/* The value of a name in cdi.secrets, NULL where there is
 * none.  In the caller's transaction, or one of its own. */
extern char *cdi_secret_fetch(const char *name);

/* Encrypts a value and keeps it under a name in cdi.secrets, in the caller's
 * transaction. */
extern void cdi_secret_enter(const char *name, const char *value);

#endif							/* CDI_SECRET_H */
