/*
 * http_private.h
 *		What the files of the HTTP server share.  The only header that knows
 *		libmicrohttpd.
 */
#ifndef CDI_HTTP_PRIVATE_H
#define CDI_HTTP_PRIVATE_H

#include <microhttpd.h>

#include "base/network.h"
#include "collect/http.h"

/* Short answers without headers of their own are built once. */
#define CACHED_RESPONSES	16
#define CACHED_LENGTH		160

typedef enum ConnectionState
{
	CONNECTION_FRESH,			/* nothing of a request seen yet */
	CONNECTION_IDLE,			/* between two requests */
	CONNECTION_RECEIVING,
	CONNECTION_WAITING,			/* for us: no deadline */
	CONNECTION_SENDING,
	CONNECTION_CLOSING			/* shut down, the library has yet to notice */
} ConnectionState;

typedef struct Request Request;

typedef struct Connection
{
	struct Connection *prev;	/* in the list of deadlines, unless waiting */
	struct Connection *next;
	bool		listed;
	ConnectionState state;
	int64_t		deadline;
	struct CdiHttpServer *server;
	struct MHD_Connection *mhd;
	Request    *request;
} Connection;

struct Request
{
	CdiHttpRequest public;		/* first, so that one is the other */
	Connection *connection;
	size_t		capacity;		/* of public.body */
	bool		started;		/* headers seen */
	bool		overloaded;		/* body is dropped, answer is 503 */
	bool		cut;			/* mid-body: no regular answer is possible */
	bool		cached;			/* response belongs to the server */
	bool		last;			/* no further request on its connection */
	bool		bad_target;
	size_t		target_length;	/* as it came */
	char	   *query;
	int			status;
	struct MHD_Response *response;
};

typedef struct CachedResponse
{
	int			status;
	int			flags;
	int			retry_after;
	const char *content_type;
	size_t		length;
	char		body[CACHED_LENGTH];
	struct MHD_Response *response;
} CachedResponse;

struct CdiHttpServer
{
	struct MHD_Daemon *daemon;
	CdiHttpOptions options;
	CdiNetworks trusted_proxies;
	CdiHttpStats stats;
	int			listen_fd;
	int			epoll_fd;
	int			port;
	bool		tls;
	bool		quiesced;
	int64_t		patience;		/* once quiesced: how long new connections are
								 * given to send a request */
	bool		shows_gaps;		/* see http_check.c */
	bool		again;			/* the library has more to do at once */
	int64_t		now;
	Connection *first;			/* by deadline */
	Connection *last;
	CdiHttpRequest *ready_first;
	CdiHttpRequest *ready_last;
	struct MHD_Response *overload;
	CachedResponse cache[CACHED_RESPONSES];
	int			cached;
};

/* http.c */
extern void cdi_http_set_state(CdiHttpServer *server, Connection *connection,
							   ConnectionState state);

/* http_check.c */
extern bool cdi_http_shows_gaps(void);
extern void cdi_http_check_target(Request *request, const char *target);
extern const char *cdi_http_check_head(const CdiHttpServer *server, Request *request,
									   const char *method, const char *target,
									   const char *version, int *status);
extern const char *cdi_http_target_path(const char *target);

/* http_request.c */
extern void cdi_http_read_headers(CdiHttpServer *server, Request *request,
								  const char *url, const char *method);
extern void cdi_http_append_body(CdiHttpServer *server, Request *request,
								 const char *data, size_t size);
extern void cdi_http_drop_body(CdiHttpServer *server, Request *request);

/* http_answer.c: hand an answer to the library, from its handler */
extern enum MHD_Result cdi_http_send(CdiHttpServer *server, Connection *connection,
									 int status, struct MHD_Response *response);
extern enum MHD_Result cdi_http_send_preflight(CdiHttpServer *server, Request *request);
extern enum MHD_Result cdi_http_send_overload(CdiHttpServer *server, Request *request);
extern enum MHD_Result cdi_http_send_malformed(CdiHttpServer *server, Request *request,
											   int status, const char *wrong);
extern bool cdi_http_make_responses(CdiHttpServer *server);
extern void cdi_http_free_responses(CdiHttpServer *server);

#endif							/* CDI_HTTP_PRIVATE_H */
