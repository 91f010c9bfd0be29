/*
 * proxy.c
 *		Whose request it is: the client's address.
 */
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "collect/http_private.h"

/* Headers of this name that are looked at: the last ones */
#define MAX_VALUES	16

typedef struct Values
{
	int			count;
	const char *values[MAX_VALUES];
} Values;

/* One entry of X-Forwarded-For: some proxies add the port. */
static bool
parse_entry(const char *text, size_t length, CdiAddress *address)
{
	const char *end;

	while (length > 0 && (*text == ' ' || *text == '\t'))
	{
		text++;
		length--;
	}
	while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
		length--;
	if (length > 0 && *text == '[')
	{
		end = memchr(text, ']', length);
		return end != NULL && cdi_address_parse(text + 1, end - text - 1, address);
	}
	if (cdi_address_parse(text, length, address))
		return true;
	end = memchr(text, ':', length);
	return end != NULL && cdi_address_parse(text, end - text, address);
}

/*
 * Whose request it is, given the peer of the connection and the values of
 * X-Forwarded-For in their order.  Every proxy appends the address that it got
 * the request from, so what a trusted one appended is true and what stands to
 * the left of an untrusted address may be invented.
 */
static CdiAddress
client_address(const CdiNetworks *trusted, CdiAddress peer,
			   const char *const *values, int nvalues)
{
	CdiAddress	client = peer;

	for (int i = nvalues - 1; i >= 0; i--)
	{
		size_t		end = strlen(values[i]);

		for (;;)
		{
			size_t		begin = end;

			if (!cdi_networks_have(trusted, &client))
				return client;
			while (begin > 0 && values[i][begin - 1] != ',')
				begin--;
			/* "unknown" and the like: who reported it is all we know. */
			if (!parse_entry(values[i] + begin, end - begin, &peer))
				return client;
			client = peer;
			if (begin == 0)
				break;
			end = begin - 1;
		}
	}
	return client;
}

static enum MHD_Result
add_value(void *arg, enum MHD_ValueKind kind, const char *key, const char *value)
{
	Values	   *values = arg;

	if (value == NULL || strcasecmp(key, "X-Forwarded-For") != 0)
		return MHD_YES;
	if (values->count == MAX_VALUES)
	{
		memmove(values->values, values->values + 1, sizeof(char *) * (MAX_VALUES - 1));
		values->count--;
	}
	values->values[values->count++] = value;
	return MHD_YES;
}

static bool
peer_address(struct MHD_Connection *mhd, CdiAddress *address)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

	if (info == NULL || info->client_addr == NULL)
		return false;
	if (info->client_addr->sa_family == AF_INET6)
	{
		struct sockaddr_in6 v6;

		memcpy(&v6, info->client_addr, sizeof(v6));
		memcpy(address->bytes, &v6.sin6_addr, 16);
		return true;
	}
	if (info->client_addr->sa_family == AF_INET)
	{
		struct sockaddr_in v4;

		memcpy(&v4, info->client_addr, sizeof(v4));
		memset(address->bytes, 0, 10);
		memset(address->bytes + 10, 0xff, 2);
		memcpy(address->bytes + 12, &v4.sin_addr, 4);
		return true;
	}
	return false;
}

bool
cdi_http_client_address(const CdiHttpRequest *public, char *buffer)
{
	const Connection *connection = ((const Request *) public)->connection;
	const CdiNetworks *trusted = &connection->server->trusted_proxies;
	CdiAddress	address;

	if (!peer_address(connection->mhd, &address))
		return false;
	if (cdi_networks_have(trusted, &address))
	{
		Values		values = {.count = 0};

		(void) MHD_get_connection_values(connection->mhd, MHD_HEADER_KIND, add_value, &values);
		address = client_address(trusted, address, values.values, values.count);
	}
	cdi_address_print(&address, buffer);
	return true;
}
