/*
 * request.c
 *		Rows become items, items become a request.
 *
 * Nothing here sends anything: the push worker, the tests of specifications
 * and whoever wants to see a request before it is sent all come through
 * cdi_request_build().
 */
#include "activate/activate.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/base64.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/errors.h"

#define MAX_HEADERS 64
#define DEFAULT_TIMEOUT 30000

static void
map_item(const CdiTarget *target, const json_t *action, CdiItem *item)
{
	CdiScope	scope = {.target = target,.item = item,.row = &item->row->root};
	json_t	   *map = json_object_get(action, "map");
	json_t	   *require = json_object_get(action, "require");
	json_t	   *group_by = json_object_get(action, "group_by");
	json_t	   *name;
	size_t		i;
	CdiValue	value;
	StringInfoData out;

	json_array_foreach(require, i, name)
	{
		value = cdi_map_evaluate(&scope, json_object_get(map, json_string_value(name)));
		if (cdi_value_empty(&value))
		{
			item->error = psprintf("\"%s\" has no value, and the destination requires it", json_string_value(name));
			return;
		}
	}
	value = cdi_map_evaluate(&scope, map);
	initStringInfo(&out);
	cdi_value_append(&out, &value);
	item->json = out.data;
	item->len = out.len;
	if (group_by != NULL)
	{
		value = cdi_map_evaluate(&scope, group_by);
		item->group = cdi_value_text(&value);
	}
}

void
cdi_item_map(const CdiTarget *target, const json_t *action, CdiItem *item)
{
	MemoryContext context = CurrentMemoryContext;

	item->error = NULL;
	item->json = NULL;
	item->group = NULL;
	/* Nothing below holds a lock, a buffer or a file when it fails. */
	PG_TRY();
	{
		map_item(target, action, item);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
			PG_RE_THROW();
		FlushErrorState();
		item->error = error->message;
	}
	PG_END_TRY();
}

static int64
limit_of(const CdiTarget *target, const json_t *batch, const char *name, int64 otherwise, int64 most)
{
	CdiScope	scope = {.target = target};
	json_t	   *node = json_object_get(batch, name);
	CdiValue	value;
	int64		limit;

	if (node == NULL)
		return otherwise;
	value = cdi_map_evaluate(&scope, node);
	limit = strtoll(cdi_value_text(&value), NULL, 10);
	return limit < 1 ? otherwise : Min(limit, most);
}

CdiBatchLimits
cdi_request_limits(const CdiTarget *target, const json_t *action)
{
	json_t	   *batch = json_object_get(action, "batch");
	CdiBatchLimits limits;

	limits.max_items = (int) limit_of(target, batch, "max_items", 1, 10000);
	limits.max_bytes = limit_of(target, batch, "max_bytes", 4 * 1024 * 1024, 64 * 1024 * 1024);
	return limits;
}

static char *
evaluate_text(const CdiScope *scope, const json_t *node)
{
	CdiValue	value = cdi_map_evaluate(scope, node);

	return cdi_value_text(&value);
}

static void
add_header(CdiRequest *request, const char *name, const char *value)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	if (*name == '\0' || name[strspn(name, token)] != '\0' || strpbrk(value, "\r\n") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("header of the request is not valid"),
				 errdetail("The name must be a token, and the value one line.")));
	/* A later one of the same name takes the place of the former. */
	for (int i = 0; i < request->nheaders; i++)
		if (pg_strcasecmp(request->headers[i].name, name) == 0)
		{
			request->headers[i].value = value;
			return;
		}
	if (request->nheaders == MAX_HEADERS)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("request has more than %d headers", MAX_HEADERS)));
	request->headers[request->nheaders].name = name;
	request->headers[request->nheaders++].value = value;
}

static void
add_headers(CdiRequest *request, const CdiScope *scope, const json_t *node)
{
	CdiValue	value;
	Jsonb	   *object;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	const char *name = NULL;

	if (node == NULL)
		return;
	value = cdi_map_evaluate(scope, node);
	object = cdi_value_jsonb(&value);
	if (!JB_ROOT_IS_OBJECT(object))
		return;
	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(part.val.string.val, part.val.string.len);
		else if (token == WJB_VALUE && name != NULL && part.type != jbvNull)
		{
			CdiValue	text = cdi_value_from_jsonb(&part);

			Assert(name != NULL);	/* a key comes before its value */
			add_header(request, name, cdi_value_text(&text));
		}
	}
}

static char *
base64(const void *data, int len)
{
	int			size = pg_b64_enc_len(len) + 1;
	char	   *out = palloc0(size);

	pg_b64_encode(data, len, out, size);
	return out;
}

/* HMAC over the bytes of the body, as the receiver will see them */
static char *
signature(const json_t *auth, const char *key, const CdiRequest *request)
{
	const char *algorithm = cdi_json_string(auth, "algorithm");
	const char *encoding = cdi_json_string(auth, "encoding");
	bool		sha1 = algorithm && strcmp(algorithm, "sha1") == 0;
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int size = 0;
	char	   *hex;

	if (HMAC(sha1 ? EVP_sha1() : EVP_sha256(), key, strlen(key), (const uint8 *) request->body,
			 request->body_len, digest, &size) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("OpenSSL refuses to compute a signature")));
	if (encoding && strcmp(encoding, "base64") == 0)
		return base64(digest, size);
	hex = palloc0(size * 2 + 1);
	hex_encode((char *) digest, size, hex);
	return hex;
}

static char *
member_text(const CdiScope *scope, const json_t *object, const char *name)
{
	json_t	   *node = json_object_get(object, name);

	return node ? evaluate_text(scope, node) : pstrdup("");
}

static void
add_auth(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	const char *type = cdi_json_string(auth, "type");
	json_t	   *when = json_object_get(auth, "when");

	if (when != NULL && !cdi_map_condition(scope, when))
		return;
	if (strcmp(type, "header") == 0)
		add_header(request, cdi_json_string(auth, "header"), member_text(scope, auth, "value"));
	else if (strcmp(type, "bearer") == 0)
		add_header(request, "Authorization", psprintf("Bearer %s", member_text(scope, auth, "token")));
	else if (strcmp(type, "basic") == 0)
	{
		char	   *pair = psprintf("%s:%s", member_text(scope, auth, "username"), member_text(scope, auth, "password"));

		add_header(request, "Authorization", psprintf("Basic %s", base64(pair, strlen(pair))));
	}
	else if (strcmp(type, "query") == 0)
	{
		char	   *text = member_text(scope, auth, "value");
		CdiValue	value = cdi_value_string(text, strlen(text));

		value = cdi_map_function("urlencode", 9)->call(&value, NULL);
		request->url = psprintf("%s%c%s=%.*s", request->url, strchr(request->url, '?') ? '&' : '?',
								cdi_json_string(auth, "name"), value.len, value.data);
	}
	else if (strcmp(type, "hmac") == 0)
		add_header(request, cdi_json_string(auth, "header"),
				   psprintf("%s%s", member_text(scope, auth, "prefix"),
							signature(auth, member_text(scope, auth, "key"), request)));
}

static void
build_body(CdiRequest *request, const CdiScope *scope, const json_t *body)
{
	StringInfoData out;

	initStringInfo(&out);
	if (strcmp(cdi_json_string(body, "format"), "json") == 0)
	{
		CdiValue	value = cdi_map_evaluate(scope, json_object_get(body, "template"));

		cdi_value_append(&out, &value);
		add_header(request, "Content-Type", "application/json");
	}
	else
	{
		for (int i = 0; i < scope->nitems; i++)
		{
			appendBinaryStringInfo(&out, scope->items[i]->json, scope->items[i]->len);
			appendStringInfoChar(&out, '\n');
		}
		add_header(request, "Content-Type", "application/x-ndjson");
	}
	request->body = out.data;
	request->body_len = out.len;
}

/* Of one row its own; of several a digest of theirs, in the order sent */
static const char *
request_key(CdiItem **items, int nitems)
{
	StringInfoData keys;

	if (nitems == 1)
		return items[0]->key;
	initStringInfo(&keys);
	for (int i = 0; i < nitems; i++)
		appendStringInfoString(&keys, items[i]->key);
	return cdi_hex_digest(CDI_SHA256, keys.data, keys.len);
}

CdiRequest *
cdi_request_build(const CdiTarget *target, const json_t *action, CdiItem **items, int nitems)
{
	CdiRequest *request = palloc0(sizeof(CdiRequest));
	json_t	   *spec = json_object_get(action, "request");
	json_t	   *auth = json_object_get(target->spec->root, "auth");
	const char *timeout = cdi_json_string(spec, "timeout");
	const char *header = cdi_json_string(json_object_get(spec, "idempotency"), "header");
	CdiScope	scope = {.target = target,.items = items,.nitems = nitems,.secrets = true};

	request->headers = palloc(sizeof(CdiHeader) * MAX_HEADERS);
	request->key = scope.batch_key = request_key(items, nitems);
	request->method = evaluate_text(&scope, json_object_get(spec, "method"));
	request->url = evaluate_text(&scope, json_object_get(spec, "url"));
	request->timeout = DEFAULT_TIMEOUT;
	if (timeout != NULL)
		(void) parse_int(timeout, &request->timeout, GUC_UNIT_MS, NULL);
	if (request->method[strspn(request->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("method of the request is not valid")));
	if (pg_strncasecmp(request->url, "https://", 8) != 0 && pg_strncasecmp(request->url, "http://", 7) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("address of the destination must begin with https:// or http://")));

	if (json_object_get(spec, "body") != NULL)
		build_body(request, &scope, json_object_get(spec, "body"));
	add_headers(request, &scope, json_object_get(spec, "headers"));
	if (header != NULL)
		add_header(request, header, request->key);
	if (json_is_array(auth))
	{
		json_t	   *one;
		size_t		i;

		json_array_foreach(auth, i, one)
			add_auth(request, &scope, one);
	}
	else if (auth != NULL)
		add_auth(request, &scope, auth);
	return request;
}

/* "*.example.com" is every host below example.com. */
bool
cdi_host_allowed(const CdiSpec *spec, const char *host)
{
	json_t	   *allowed = json_object_get(json_object_get(spec->root, "egress"), "allow_hosts");
	json_t	   *pattern;
	size_t		i;

	if (allowed == NULL)
		return true;
	json_array_foreach(allowed, i, pattern)
	{
		const char *text = json_string_value(pattern);

		if (strncmp(text, "*.", 2) == 0)
		{
			size_t		tail = strlen(text) - 1;
			size_t		len = strlen(host);

			if (len > tail && pg_strcasecmp(host + len - tail, text + 1) == 0)
				return true;
		}
		else if (pg_strcasecmp(host, text) == 0)
			return true;
	}
	return false;
}
