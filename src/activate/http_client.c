/*
 * http_client.c
 *		libcurl, and all there is of it in cdi.
 *
 * The multi interface is driven by events: curl says which sockets and which
 * timeout it waits for, and both go into one epoll descriptor that the worker
 * waits on beside its latch.  curl's callbacks run on curl's stack, so they
 * allocate with malloc only and raise nothing.  A name is resolved in a thread
 * of libcurl's, which must never run a signal handler of the server's: signals
 * are blocked wherever curl may start one.
 */
#include "activate/http_client.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "libpq/pqsignal.h"
#include "utils/memutils.h"

#include "base/errors.h"

/* Of an answer; what is longer is cut, and its status still counts. */
#define MAX_ANSWER (1024 * 1024)
#define MAX_ANSWER_HEADERS (64 * 1024)
#define KEEP_ANSWER (64 * 1024)
#define MAX_EVENTS 64
#define CONNECT_TIMEOUT 10000

typedef struct Buffer
{
	char	   *data;			/* malloc */
	size_t		len;
	size_t		size;
} Buffer;

typedef struct Transfer
{
	dlist_node	node;			/* in running or done */
	CdiHttp    *http;
	CURL	   *easy;
	struct curl_slist *headers;
	void	   *owner;
	Buffer		body;
	Buffer		lines;			/* headers of the answer, and a zero byte */
	bool		refused;		/* by the egress guard */
	bool		cut;
	bool		head;			/* the answer's has come to its end */
	const char *host_refused;	/* why the address is not even looked up, or NULL */
	CURLcode	result;
	char		error[CURL_ERROR_SIZE];
} Transfer;

struct CdiHttp
{
	CURLM	   *multi;
	int			epoll;
	int			timer;
	bool		timer_due;		/* curl asked for a timeout of zero */
	dlist_head	running;
	dlist_head	done;
	dlist_head	idle;			/* handles to use again */
	Transfer   *taken;			/* result that the caller looks at */
	MemoryContextCallback callback;
};

/* ---- curl's callbacks: malloc only, no errors ---- */

static int
watch_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *known)
{
	CdiHttp    *http = arg;
	struct epoll_event event = {0};

	if (what == CURL_POLL_REMOVE)
	{
		(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, socket, NULL);
		curl_multi_assign(http->multi, socket, NULL);
		return 0;
	}
	event.data.fd = socket;
	if (what != CURL_POLL_OUT)
		event.events |= EPOLLIN;
	if (what != CURL_POLL_IN)
		event.events |= EPOLLOUT;
	if (epoll_ctl(http->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) != 0)
		(void) epoll_ctl(http->epoll, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, socket, &event);
	curl_multi_assign(http->multi, socket, http);
	return 0;
}

static int
set_timer(CURLM *multi, long milliseconds, void *arg)
{
	CdiHttp    *http = arg;
	struct itimerspec spec = {0};

	http->timer_due = milliseconds == 0;
	if (milliseconds > 0)
	{
		spec.it_value.tv_sec = milliseconds / 1000;
		spec.it_value.tv_nsec = (milliseconds % 1000) * 1000000;
	}
	else if (milliseconds == 0)
		spec.it_value.tv_nsec = 1;
	(void) timerfd_settime(http->timer, 0, &spec, NULL);
	return 0;
}

static bool
append(Buffer *buffer, const char *data, size_t len)
{
	if (buffer->len + len > buffer->size)
	{
		size_t		wanted = Max(buffer->size * 2, buffer->len + len);
		char	   *larger = realloc(buffer->data, wanted);

		if (larger == NULL)
			return false;
		buffer->data = larger;
		buffer->size = wanted;
	}
	memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	return true;
}

static size_t
take_body(char *data, size_t size, size_t count, void *arg)
{
	Transfer   *transfer = arg;
	size_t		len = size * count;

	if (transfer->body.len + len > MAX_ANSWER)
	{
		transfer->cut = true;
		return 0;				/* ends the transfer */
	}
	return append(&transfer->body, data, len) ? len : 0;
}

/* One line of the answer's head; what is beyond the limit is not seen. */
static size_t
take_header(char *data, size_t size, size_t count, void *arg)
{
	Transfer   *transfer = arg;
	size_t		len = size * count;

	if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		transfer->lines.len = 0;	/* that of an interim answer is gone */
		transfer->head = false;
	}
	else if (len <= 2 && data[len - 1] == '\n')
		transfer->head = true;
	else if (transfer->lines.len + len < MAX_ANSWER_HEADERS && !append(&transfer->lines, data, len))
		return 0;
	return len;
}

/* The guard: the address is known, the connection is not made yet. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = arg;

	if (!cdi_egress_allowed(&address->addr, cdi_egress_allow_private))
	{
		transfer->refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* A connection that was kept does not come through open_socket again. */
static int
before_request(void *arg, char *remote, char *local, int remote_port, int local_port)
{
	Transfer   *transfer = arg;
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	bool		allowed = false;

	if (inet_pton(AF_INET, remote, &v4.sin_addr) == 1)
		allowed = cdi_egress_allowed(&v4, cdi_egress_allow_private);
	else if (inet_pton(AF_INET6, remote, &v6.sin6_addr) == 1)
		allowed = cdi_egress_allowed(&v6, cdi_egress_allow_private);
	if (allowed)
		return CURL_PREREQFUNC_OK;
	transfer->refused = true;
	return CURL_PREREQFUNC_ABORT;
}

/* ---- */

/* A thread that curl starts inherits the mask. */
static void
block_signals(sigset_t *old)
{
	sigset_t	all;

	sigfillset(&all);
	(void) sigprocmask(SIG_SETMASK, &all, old);
}

static void
restore_signals(const sigset_t *old)
{
	(void) sigprocmask(SIG_SETMASK, old, NULL);
}

static void
free_transfer(Transfer *transfer)
{
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->headers);
	free(transfer->body.data);
	free(transfer->lines.data);
	free(transfer);
}

static void
release(void *arg)
{
	CdiHttp    *http = arg;
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &http->running)
	{
		Transfer   *transfer = dlist_container(Transfer, node, it.cur);

		curl_multi_remove_handle(http->multi, transfer->easy);
		dlist_delete(it.cur);
		free_transfer(transfer);
	}
	if (http->taken)
		dlist_push_tail(&http->idle, &http->taken->node);
	dlist_foreach_modify(it, &http->done)
		free_transfer(dlist_container(Transfer, node, it.cur));
	dlist_foreach_modify(it, &http->idle)
		free_transfer(dlist_container(Transfer, node, it.cur));
	if (http->multi)
		curl_multi_cleanup(http->multi);
	if (http->timer >= 0)
		close(http->timer);
	if (http->epoll >= 0)
		close(http->epoll);
	free(http);
}

static void
out_of_memory(void)
{
	ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
}

CdiHttp *
cdi_client_create(MemoryContext context)
{
	CdiHttp    *http = calloc(1, sizeof(CdiHttp));
	struct epoll_event event = {.events = EPOLLIN};

	if (http == NULL)
		out_of_memory();
	dlist_init(&http->running);
	dlist_init(&http->done);
	dlist_init(&http->idle);
	http->epoll = http->timer = -1;
	http->callback.func = release;
	http->callback.arg = http;
	MemoryContextRegisterResetCallback(context, &http->callback);

	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || (http->multi = curl_multi_init()) == NULL)
		out_of_memory();
	http->epoll = epoll_create1(EPOLL_CLOEXEC);
	http->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	event.data.fd = http->timer;
	if (http->epoll < 0 || http->timer < 0 || epoll_ctl(http->epoll, EPOLL_CTL_ADD, http->timer, &event) != 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create the event loop for HTTP requests: %m")));
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, 64L);
	return http;
}

int
cdi_client_fd(const CdiHttp *http)
{
	return http->epoll;
}

static Transfer *
new_transfer(CdiHttp *http)
{
	Transfer   *transfer;

	if (!dlist_is_empty(&http->idle))
	{
		transfer = dlist_container(Transfer, node, dlist_pop_head_node(&http->idle));
		curl_easy_reset(transfer->easy);
		return transfer;
	}
	transfer = calloc(1, sizeof(Transfer));
	if (transfer == NULL)
		return NULL;
	transfer->http = http;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
	{
		free(transfer);
		return NULL;
	}
	return transfer;
}

/*
 * The host of an address as curl will understand it; curl_free() it.  Where it
 * is missing, curl would take what comes next.
 */
static char *
host_of(const char *address)
{
	CURLU	   *url = curl_url();
	const char *rest = strstr(address, "://");
	char	   *host = NULL;

	if (url == NULL || (rest != NULL && rest[3] == '/') ||
		curl_url_set(url, CURLUPART_URL, address, 0) != CURLUE_OK ||
		curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK)
		host = NULL;
	curl_url_cleanup(url);
	return host;
}

/*
 * A host of the specification's list, or that of the setting by which an
 * administrator has sent the destination elsewhere.
 */
const char *
cdi_client_refuses(const char *address, const CdiTarget *target)
{
	const char *elsewhere = cdi_egress_setting(target);
	char	   *host = host_of(address);
	char	   *other = elsewhere ? host_of(elsewhere) : NULL;
	const char *refusal = NULL;

	if (host == NULL)
		refusal = "the address of the request is none that can be used";
	else if (!cdi_host_allowed(target->spec, host) && (other == NULL || pg_strcasecmp(host, other) != 0))
		refusal = "the destination's specification does not allow this host";
	curl_free(host);
	curl_free(other);
	return refusal;
}

static bool
add_headers(Transfer *transfer, const CdiRequest *request)
{
	/* no "Expect: 100-continue": a round trip for nothing */
	struct curl_slist *list = curl_slist_append(NULL, "Expect:");

	/* Servers want to be told that nothing follows (411). */
	if (list != NULL && request->body == NULL &&
		(strcmp(request->method, "POST") == 0 || strcmp(request->method, "PUT") == 0 || strcmp(request->method, "PATCH") == 0))
	{
		struct curl_slist *longer = curl_slist_append(list, "Content-Length: 0");

		if (longer == NULL)
			curl_slist_free_all(list);
		list = longer;
	}

	for (int i = 0; i < request->nheaders && list != NULL; i++)
	{
		const char *value = request->headers[i].value;
		/* "Name;" is how curl writes a header without a value */
		char	   *line = *value ? psprintf("%s: %s", request->headers[i].name, value) :
			psprintf("%s;", request->headers[i].name);
		struct curl_slist *longer = curl_slist_append(list, line);

		if (longer == NULL)
			curl_slist_free_all(list);
		list = longer;
		pfree(line);
	}
	transfer->headers = list;
	return list != NULL;
}

static void
set_options(Transfer *transfer, const CdiRequest *request)
{
	CURL	   *easy = transfer->easy;

	curl_easy_setopt(easy, CURLOPT_URL, request->url);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "cdi");
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
	/* Whether a connection can be shared is known once TLS is agreed on; without, only after an answer. */
	curl_easy_setopt(easy, CURLOPT_PIPEWAIT, (long) (pg_strncasecmp(request->url, "https:", 6) == 0));
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) request->timeout);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) Min(request->timeout, CONNECT_TIMEOUT));
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_request);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
	if (request->body != NULL)
	{
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	}
}

void
cdi_client_start(CdiHttp *http, const CdiRequest *request, const CdiTarget *target, void *owner)
{
	Transfer   *transfer = new_transfer(http);
	sigset_t	old;

	if (transfer == NULL)
		out_of_memory();
	transfer->owner = owner;
	transfer->body.len = transfer->lines.len = 0;
	transfer->refused = transfer->cut = transfer->head = false;
	transfer->error[0] = '\0';
	transfer->result = CURLE_OK;
	transfer->host_refused = cdi_client_refuses(request->url, target);
	if (transfer->host_refused)
	{
		dlist_push_tail(&http->done, &transfer->node);
		return;
	}
	if (!add_headers(transfer, request))
	{
		transfer->result = CURLE_OUT_OF_MEMORY;
		dlist_push_tail(&http->done, &transfer->node);
		return;
	}
	set_options(transfer, request);
	block_signals(&old);
	if (curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK)
		dlist_push_tail(&http->running, &transfer->node);
	else
	{
		transfer->result = CURLE_FAILED_INIT;
		dlist_push_tail(&http->done, &transfer->node);
	}
	restore_signals(&old);
}

static void
collect(CdiHttp *http)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		Transfer   *transfer = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
		transfer->result = message->data.result;
		curl_multi_remove_handle(http->multi, transfer->easy);
		dlist_delete(&transfer->node);
		dlist_push_tail(&http->done, &transfer->node);
	}
}

void
cdi_client_step(CdiHttp *http)
{
	struct epoll_event events[MAX_EVENTS];
	sigset_t	old;
	int			running;
	int			n;

	block_signals(&old);
	if (http->timer_due)
	{
		http->timer_due = false;
		curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	n = epoll_wait(http->epoll, events, MAX_EVENTS, 0);
	for (int i = 0; i < n; i++)
	{
		int			flags = 0;

		if (events[i].data.fd == http->timer)
		{
			uint64		count;

			/* may have been set anew by an event before this one */
			if (read(http->timer, &count, sizeof(count)) == sizeof(count))
				curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
			continue;
		}
		if (events[i].events & (EPOLLIN | EPOLLHUP))
			flags |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			flags |= CURL_CSELECT_OUT;
		if (events[i].events & EPOLLERR)
			flags |= CURL_CSELECT_ERR;
		curl_multi_socket_action(http->multi, events[i].data.fd, flags, &running);
	}
	collect(http);
	restore_signals(&old);
}

/* What an answer means that did not come */
static void
explain_failure(Transfer *transfer, CdiAnswer *answer)
{
	if (transfer->host_refused)
	{
		answer->failure = "refused";
		answer->error = transfer->host_refused;
		return;
	}
	if (transfer->refused)
	{
		answer->failure = "refused";
		answer->error = "the address is private, loopback, link-local or a metadata service (cdi.egress_allow_private)";
		return;
	}
	/* No attempt makes up for a certificate: it is for people to see to. */
	if (transfer->result == CURLE_PEER_FAILED_VERIFICATION)
		answer->failure = "refused";
	else
		answer->failure = transfer->result == CURLE_OPERATION_TIMEDOUT ? "timeout" : "network";
	answer->error = transfer->error[0] ? transfer->error : curl_easy_strerror(transfer->result);
}

bool
cdi_client_has_result(const CdiHttp *http)
{
	return !dlist_is_empty((dlist_head *) &http->done);
}

bool
cdi_client_result(CdiHttp *http, CdiAnswer *answer, void **owner)
{
	Transfer   *transfer;
	long		status = 0;
	curl_off_t	value = 0;

	if (http->taken)
	{
		curl_slist_free_all(http->taken->headers);
		http->taken->headers = NULL;
		/* A long answer is no reason to keep that much for each request in flight. */
		if (http->taken->body.size > KEEP_ANSWER)
		{
			free(http->taken->body.data);
			memset(&http->taken->body, 0, sizeof(Buffer));
		}
		dlist_push_head(&http->idle, &http->taken->node);
		http->taken = NULL;
	}
	if (dlist_is_empty(&http->done))
		return false;
	transfer = dlist_container(Transfer, node, dlist_pop_head_node(&http->done));
	http->taken = transfer;
	memset(answer, 0, sizeof(CdiAnswer));
	*owner = transfer->owner;
	if (transfer->host_refused)
	{
		explain_failure(transfer, answer);
		return true;
	}
	curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &value);
	answer->milliseconds = value / 1000.0;
	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	/* To curl a head that breaks off is an answer without a body. */
	if (transfer->result == CURLE_OK && !transfer->head)
	{
		transfer->result = CURLE_RECV_ERROR;
		strlcpy(transfer->error, "the connection ended within the head of the answer", sizeof(transfer->error));
	}
	if (transfer->result != CURLE_OK && !(transfer->cut && status != 0))
	{
		explain_failure(transfer, answer);
		return true;
	}
	answer->status = (int) status;
	answer->body = transfer->body.data;
	answer->body_len = transfer->body.len;
	answer->cut = transfer->cut;
	if (append(&transfer->lines, "", 1))
		answer->headers = transfer->lines.data;
	value = 0;
	curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &value);
	answer->retry_after = (int) Min(Max(value, 0), 24 * 60 * 60);
	return true;
}
