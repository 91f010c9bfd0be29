/*
 * http.h
 *		HTTP requests and answers, without a thread and without PostgreSQL.
 *
 * libmicrohttpd is known only to http*.c and proxy.c.  The server is driven from outside:
 * wait until cdi_http_fd() is readable or cdi_http_timeout() has passed, call
 * cdi_http_run(), take the requests that are complete with cdi_http_next()
 * and answer each of them, at any later time, with cdi_http_answer().
 *
 * Nothing here raises, pallocs or blocks.  This header and those files include
 * no header of the server, so that the floor of the benchmark (test/bench) is
 * the same code without a database behind it.
 */
#ifndef CDI_HTTP_H
#define CDI_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct CdiHttpServer CdiHttpServer;

typedef struct CdiHttpOptions
{
	const char *address;		/* "*" or "" listens everywhere */
	int			port;			/* 0 lets the kernel choose */
	bool		join;			/* share the port with a process of ours that
								 * listens there; else nobody may */
	int			timeout_ms;		/* for receiving one request, and between two */
	size_t		max_body;		/* bytes kept of a body; more is TOO_LARGE */
	size_t		max_memory;		/* bytes kept of all bodies together */
	unsigned	max_pending;	/* requests handed over and not yet answered */
	unsigned	max_connections;
	void	   *tls_retrieve;	/* speak TLS with what this callback of GnuTLS gives
								 * (tls.h); NULL: plain HTTP.  Only at the start */
	const char *trusted_proxies;	/* networks, comma-separated (base/network.h) */
	const char *allowed_origins;	/* of preflights: patterns, comma-separated */
} CdiHttpOptions;

typedef enum CdiHttpMethod
{
	CDI_HTTP_GET,
	CDI_HTTP_HEAD,
	CDI_HTTP_POST,
	CDI_HTTP_OTHER				/* OPTIONS is answered by http.c itself */
} CdiHttpMethod;

/* What kept a request from being received as it was sent. */
typedef enum CdiHttpFlaw
{
	CDI_HTTP_WHOLE,				/* nothing */
	CDI_HTTP_NO_LENGTH,			/* POST that announces no body at all */
	CDI_HTTP_TOO_LARGE			/* body holds the bytes up to max_body */
} CdiHttpFlaw;

/*
 * One request, from cdi_http_next() until cdi_http_answer().
 */
typedef struct CdiHttpRequest
{
	CdiHttpMethod method;
	CdiHttpFlaw flaw;
	bool		has_length;		/* Content-Length was there */
	bool		compressed;		/* Content-Encoding names gzip or deflate */
	bool		has_user;		/* Authorization: Basic was there */
	char		path[256];		/* without query and trailing slash; an empty
								 * string where it is longer */
	char		user[128];		/* its user name; empty where malformed */
	const char *query;			/* as sent, without "?"; may be empty */
	const char *origin;			/* NULL where absent */
	char	   *body;			/* not NUL-terminated; NULL where empty */
	size_t		length;
	uint64_t	announced;		/* bytes sent or announced by the client */
	struct CdiHttpRequest *next;	/* free for the holder's use */
} CdiHttpRequest;

/* Flags of an answer */
#define CDI_HTTP_ALLOW_POST		(1 << 0)	/* Allow: POST, OPTIONS */
#define CDI_HTTP_ALLOW_GET		(1 << 1)	/* Allow: GET, HEAD, OPTIONS */
#define CDI_HTTP_NO_STORE		(1 << 2)	/* Cache-Control: no-store */
#define CDI_HTTP_NO_CORS		(1 << 3)	/* the origin may not read it */

typedef struct CdiHttpAnswer
{
	int			status;
	const char *body;			/* copied */
	size_t		length;
	const char *content_type;	/* a literal; NULL: application/json */
	int			flags;
	int			retry_after;	/* seconds; 0: no such header */
	const char *cookie;			/* Set-Cookie, or NULL */
	const char *location;		/* or NULL */
} CdiHttpAnswer;

typedef struct CdiHttpStats
{
	uint64_t	connections;	/* open now */
	uint64_t	pending;		/* requests not yet answered */
	uint64_t	memory;			/* bytes held for bodies */
	uint64_t	accepted;		/* connections since the start */
	uint64_t	body_bytes;
	uint64_t	timeouts;		/* requests cut off because they took too long */
	uint64_t	overloads;		/* 503 because of max_pending or max_memory */
	uint64_t	aborts;			/* requests whose client went away */
	uint64_t	answers[6];		/* by class of status: [2] is 2xx */
} CdiHttpStats;

/*
 * Start listening.  Returns NULL and a message in error where that fails.
 */
extern CdiHttpServer *cdi_http_start(const CdiHttpOptions *options,
									 char *error, size_t error_size);
/* New limits for the requests to come; address and port stay. */
extern void cdi_http_configure(CdiHttpServer *server, const CdiHttpOptions *options);
extern int	cdi_http_fd(CdiHttpServer *server);
extern int	cdi_http_port(CdiHttpServer *server);

/* Milliseconds until cdi_http_run() has something to do even without input;
 * -1 where there is nothing. */
extern int	cdi_http_timeout(CdiHttpServer *server);

/* Accept, read, write: whatever can be done without waiting. */
extern void cdi_http_run(CdiHttpServer *server);

extern CdiHttpRequest *cdi_http_next(CdiHttpServer *server);

/* A header of a request not yet answered; NULL where absent. */
extern const char *cdi_http_header(const CdiHttpRequest *request, const char *name);

/* Address of the client, as text; false where it is not known.  Behind trusted
 * proxies it is the one that they name (proxy.c). */
#define CDI_HTTP_ADDRESS_SIZE	64
extern bool cdi_http_client_address(const CdiHttpRequest *request, char *address);

/* Did it come over TLS? */
extern bool cdi_http_secure(const CdiHttpRequest *request);

/* Is the origin in a comma-separated list of patterns, each with at most one
 * asterisk?  True of none: it is no page's request. */
extern bool cdi_http_origin_allowed(const char *patterns, const char *origin);

/* The request is gone afterwards. */
extern void cdi_http_answer(CdiHttpServer *server, CdiHttpRequest *request,
							const CdiHttpAnswer *answer);

extern const CdiHttpStats *cdi_http_stats(CdiHttpServer *server);

/* Accept what has connected so far and no more, and close the open
 * connections after their answer. */
extern void cdi_http_quiesce(CdiHttpServer *server);
/* Requests that are being received, answered or sent, or that new connections
 * may be about to send. */
extern bool cdi_http_busy(CdiHttpServer *server);
/* Close everything.  Every request must have been answered. */
extern void cdi_http_stop(CdiHttpServer *server);

#endif							/* CDI_HTTP_H */
