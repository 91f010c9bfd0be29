/*
 * proxy.c
 *		Whose request it is: the client's address.
 */
#include <netdb.h>
#include <sys/socket.h>

#include "collect/http_private.h"

bool
cdi_http_client_address(const CdiHttpRequest *request, char *address)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(((const Request *) request)->connection->mhd,
								MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	socklen_t	size;

	if (info == NULL || info->client_addr == NULL)
		return false;
	size = info->client_addr->sa_family == AF_INET6 ?
		sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	return getnameinfo(info->client_addr, size, address, CDI_HTTP_ADDRESS_SIZE,
					   NULL, 0, NI_NUMERICHOST) == 0;
}
