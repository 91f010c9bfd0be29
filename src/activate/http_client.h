/*
 * http_client.h
 *		Many HTTP requests at a time in one process, without waiting for any.
 *
 * Everything that goes out of the database goes through here, and with it the
 * rule about where it may go.  Nothing here raises an error once a request has
 * started: what goes wrong is a result.
 */
#ifndef CDI_HTTP_CLIENT_H
#define CDI_HTTP_CLIENT_H

#include "activate/activate.h"

typedef struct CdiHttp CdiHttp;

/* Released when the context is reset.  Raises where the system refuses. */
extern CdiHttp *cdi_client_create(MemoryContext context);

/* Readable when cdi_client_step() has something to do. */
extern int	cdi_client_fd(const CdiHttp *http);

/*
 * Starts a request.  It and what it points to must live until its result is
 * taken.  Never waits.
 */
extern void cdi_client_start(CdiHttp *http, const CdiRequest *request, const CdiTarget *target, void *owner);

/* Why the address is not even looked up, or NULL: no address, or a host that the specification does not list */
extern const char *cdi_client_refuses(const char *address, const CdiTarget *target);

/* Does what can be done without waiting. */
extern void cdi_client_step(CdiHttp *http);

/*
 * Takes a result; false where there is none.  The answer's texts live until
 * the next call of this function or cdi_client_step().
 */
extern bool cdi_client_result(CdiHttp *http, CdiAnswer *answer, void **owner);

extern bool cdi_client_has_result(const CdiHttp *http);

/* Whether an address (struct sockaddr) may be connected to. */
extern bool cdi_egress_allowed(const void *address, bool allow_private);

#endif							/* CDI_HTTP_CLIENT_H */
