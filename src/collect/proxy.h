/*
 * proxy.h
 *		The client's address behind proxies.  Plain C without the server.
 */
#ifndef CDI_PROXY_H
#define CDI_PROXY_H

#include "base/network.h"

/*
 * Whose request it is, given the peer of the connection and the values of
 * X-Forwarded-For in their order.  Every proxy appends the address that it got
 * the request from, so what a trusted one appended is true and what stands to
 * the left of an untrusted address may be invented.
 */
extern CdiAddress cdi_proxy_client(const CdiNetworks *trusted, CdiAddress peer,
								   const char *const *values, int nvalues);

#endif							/* CDI_PROXY_H */
