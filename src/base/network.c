/*
 * network.c
 *		Lists of networks in CIDR notation, and what belongs to them.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/network.h"

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool
is_mapped(const CdiAddress *address)
{
	return memcmp(address->bytes, mapped, sizeof(mapped)) == 0;
}

bool
cdi_address_parse(const char *text, size_t length, CdiAddress *address)
{
	char		copy[CDI_ADDRESS_SIZE];

	if (length == 0 || length >= sizeof(copy) || memchr(text, '\0', length) != NULL)
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	memcpy(address->bytes, mapped, sizeof(mapped));
	return inet_pton(AF_INET, copy, address->bytes + sizeof(mapped)) == 1 ||
		inet_pton(AF_INET6, copy, address->bytes) == 1;
}

void
cdi_address_print(const CdiAddress *address, char *buffer)
{
	if (is_mapped(address))
		(void) inet_ntop(AF_INET, address->bytes + sizeof(mapped), buffer, CDI_ADDRESS_SIZE);
	else
		(void) inet_ntop(AF_INET6, address->bytes, buffer, CDI_ADDRESS_SIZE);
}

/* Number of leading bits, or -1 */
static int
parse_bits(const char *text, size_t length)
{
	int			bits = 0;

	if (length == 0 || length > 3)
		return -1;
	for (size_t i = 0; i < length; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return -1;
		bits = bits * 10 + (text[i] - '0');
	}
	return bits;
}

static bool
parse_network(const char *text, size_t length, CdiNetwork *network)
{
	const char *slash = memchr(text, '/', length);
	size_t		address_length = slash ? (size_t) (slash - text) : length;
	int			width;

	if (!cdi_address_parse(text, address_length, &network->address))
		return false;
	/* What it was written as counts: ::ffff:0:0/96 is IPv6. */
	width = memchr(text, ':', address_length) != NULL ? 128 : 32;
	network->bits = slash ? parse_bits(slash + 1, length - address_length - 1) : width;
	if (network->bits < 0 || network->bits > width)
		return false;
	network->bits += 128 - width;
	return true;
}

bool
cdi_networks_parse(const char *list, CdiNetworks *result, char *error, size_t error_size)
{
	result->count = 0;
	for (;;)
	{
		size_t		length;

		list += strspn(list, ", \t\n");
		length = strcspn(list, ", \t\n");
		if (length == 0)
			return true;
		if (result->count == CDI_MAX_NETWORKS)
		{
			snprintf(error, error_size, "There are more than %d networks.", CDI_MAX_NETWORKS);
			break;
		}
		if (!parse_network(list, length, &result->networks[result->count]))
		{
			snprintf(error, error_size, "\"%.*s\" is neither an address nor a network.",
					 (int) (length < 100 ? length : 100), list);
			break;
		}
		result->count++;
		list += length;
	}
	result->count = 0;
	return false;
}

bool
cdi_networks_have(const CdiNetworks *networks, const CdiAddress *address)
{
	for (int i = 0; i < networks->count; i++)
	{
		const CdiNetwork *network = &networks->networks[i];
		int			bytes = network->bits / 8;
		int			rest = network->bits % 8;

		if (memcmp(network->address.bytes, address->bytes, bytes) != 0)
			continue;
		if (rest == 0 ||
			((network->address.bytes[bytes] ^ address->bytes[bytes]) >> (8 - rest)) == 0)
			return true;
	}
	return false;
}
