/*
 * network.h
 *		Lists of networks in CIDR notation, and what belongs to them.
 *
 * Plain C without the server's headers, so that the HTTP layer can use it.
 */
#ifndef CDI_NETWORK_H
#define CDI_NETWORK_H

#include <stdbool.h>
#include <stddef.h>

/* IPv6; an IPv4 address stands in it as ::ffff:a.b.c.d. */
typedef struct CdiAddress
{
	unsigned char bytes[16];
} CdiAddress;

typedef struct CdiNetwork
{
	CdiAddress	address;
	int			bits;
} CdiNetwork;

#define CDI_MAX_NETWORKS	64
#define CDI_ADDRESS_SIZE	64

typedef struct CdiNetworks
{
	int			count;
	CdiNetwork	networks[CDI_MAX_NETWORKS];
} CdiNetworks;

/*
 * Addresses and networks, separated by commas: "10.0.0.0/8, 2001:db8::/32,
 * 127.0.0.1".  Where the list is not valid, result->count is 0 and error says
 * why.
 */
extern bool cdi_networks_parse(const char *list, CdiNetworks *result,
							   char *error, size_t error_size);
extern bool cdi_networks_have(const CdiNetworks *networks, const CdiAddress *address);

/* An address as text of the given length, without port and brackets. */
extern bool cdi_address_parse(const char *text, size_t length, CdiAddress *address);
/* Buffer of CDI_ADDRESS_SIZE bytes */
extern void cdi_address_print(const CdiAddress *address, char *buffer);

#endif							/* CDI_NETWORK_H */
