/*
 * egress.c
 *		Which addresses may be connected to.
 *
 * The address is judged after the name was resolved and before the connection
 * is made: a name, or a number written in octal, can mean anything, and a name
 * can mean something else the second time.
 */
#include "activate/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

typedef struct Network
{
	const char *address;
	int			bits;
} Network;

/* Metadata services of clouds: never, whatever is allowed */
static const Network metadata4[] = {
	{"169.254.169.254", 32}, {"169.254.170.2", 32}, {"169.254.170.23", 32}, {"100.100.100.200", 32},
	{"168.63.129.16", 32}, {"192.0.0.192", 32},
};

static const Network metadata6[] = {
	{"fd00:ec2::254", 128}, {"fd00:ec2::23", 128}, {"fd20:ce::254", 128},
};

/* What means nothing as a destination */
static const Network never4[] = {
	{"0.0.0.0", 8}, {"224.0.0.0", 4}, {"240.0.0.0", 4},
};

static const Network never6[] = {
	{"::", 128}, {"ff00::", 8},
};

/* The database's own surroundings (RFC 6890 and what replaced it) */
static const Network private4[] = {
	{"10.0.0.0", 8}, {"100.64.0.0", 10}, {"127.0.0.0", 8}, {"169.254.0.0", 16}, {"172.16.0.0", 12},
	{"192.0.0.0", 24}, {"192.0.2.0", 24}, {"192.88.99.0", 24}, {"192.168.0.0", 16}, {"198.18.0.0", 15},
	{"198.51.100.0", 24}, {"203.0.113.0", 24},
};

static const Network private6[] = {
	{"::1", 128}, {"fc00::", 7}, {"fe80::", 10}, {"fec0::", 10}, {"64:ff9b:1::", 48}, {"100::", 48},
	{"2001::", 23}, {"2001:db8::", 32}, {"3fff::", 20}, {"5f00::", 16},
};

static bool
inside(const uint8 *address, const Network *networks, int n, int family)
{
	for (int i = 0; i < n; i++)
	{
		uint8		network[16];
		int			bytes = networks[i].bits / 8;
		int			rest = networks[i].bits % 8;

		if (inet_pton(family, networks[i].address, network) != 1)
			continue;
		if (memcmp(address, network, bytes) == 0 &&
			(rest == 0 || ((address[bytes] ^ network[bytes]) >> (8 - rest)) == 0))
			return true;
	}
	return false;
}

#define INSIDE(address, networks, family) inside(address, networks, lengthof(networks), family)

static bool
allowed4(const uint8 *address, bool allow_private)
{
	if (INSIDE(address, metadata4, AF_INET) || INSIDE(address, never4, AF_INET))
		return false;
	return allow_private || !INSIDE(address, private4, AF_INET);
}

bool
cdi_egress_allowed(const void *address, bool allow_private)
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8 compatible[12] = {0};
	static const uint8 nat64[12] = {0, 0x64, 0xff, 0x9b};
	static const uint8 translated[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8 local64[6] = {0, 0x64, 0xff, 0x9b, 0, 1};
	const struct sockaddr *any = address;
	const uint8 *bytes;

	if (any->sa_family == AF_INET)
		return allowed4((const uint8 *) &((const struct sockaddr_in *) address)->sin_addr, allow_private);
	if (any->sa_family != AF_INET6)
		return false;
	bytes = (const uint8 *) &((const struct sockaddr_in6 *) address)->sin6_addr;
	/* IPv4 inside IPv6, in each of the ways there are */
	if (memcmp(bytes, mapped, 12) == 0 || memcmp(bytes, nat64, 12) == 0 || memcmp(bytes, translated, 12) == 0)
		return allowed4(bytes + 12, allow_private);
	if (memcmp(bytes, compatible, 12) == 0 && (bytes[12] | bytes[13] | bytes[14]) != 0)
		return allowed4(bytes + 12, allow_private);
	if (bytes[0] == 0x20 && bytes[1] == 0x02)	/* 6to4 */
		return allowed4(bytes + 2, allow_private);
	/* NAT64 within a network (RFC 8215) leads to metadata services, too. */
	if (memcmp(bytes, local64, 6) == 0 && !allowed4(bytes + 12, allow_private))
		return false;
	if (INSIDE(bytes, metadata6, AF_INET6) || INSIDE(bytes, never6, AF_INET6))
		return false;
	return allow_private || !INSIDE(bytes, private6, AF_INET6);
}
