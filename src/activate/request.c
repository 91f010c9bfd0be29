/*
 * request.c
 *		Rows become items, items become a request.
 *
 * Nothing here sends anything: the push worker, the tests of specifications
 * and whoever wants to see a request before it is sent all come through
 * cdi_request_build().
 */
#include "activate/http_client.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/errors.h"

#define DEFAULT_TIMEOUT 30000

/* Text of an expression of the action, or NULL where it has none */
static char *
expression_text(const CdiScope *scope, const json_t *action, const char *name)
{
	json_t	   *node = json_object_get(action, name);
	CdiValue	value;

	if (node == NULL)
		return NULL;
	value = cdi_map_evaluate(scope, node);
	return cdi_value_text(&value);
}

static void
map_item(const CdiTarget *target, const json_t *action, CdiItem *item)
{
	CdiScope	scope = {.target = target,.item = item,.row = &item->row->root};
	json_t	   *map = json_object_get(action, "map");
	json_t	   *require = json_object_get(action, "require");
	json_t	   *max_items = json_object_get(json_object_get(action, "batch"), "max_items");
	json_t	   *name;
	size_t		i;
	CdiValue	value;
	StringInfoData out;

	json_array_foreach(require, i, name)
	{
		/* a member of the map, or an expression of its own */
		value = cdi_map_evaluate(&scope, json_is_object(name) ? name : json_object_get(map, json_string_value(name)));
		if (cdi_value_empty(&value))
		{
			item->error = json_is_object(name) ? "the value by which the destination knows the row is missing" :
				psprintf("\"%s\" has no value, and the destination requires it", json_string_value(name));
			return;
		}
	}
	value = cdi_map_evaluate(&scope, map);
	initStringInfo(&out);
	cdi_value_append(&out, &value);
	item->json = out.data;
	item->len = out.len;
	item->group = expression_text(&scope, action, "group_by");
	item->list = expression_text(&scope, action, "list");
	item->meta = expression_text(&scope, action, "meta");
	if (json_is_object(max_items))
	{
		value = cdi_map_evaluate(&scope, max_items);
		item->max_items = atoi(cdi_value_text(&value));
	}
}

char *
cdi_row_fault(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
		PG_RE_THROW();
	FlushErrorState();
	return error->message;
}

void
cdi_item_map(const CdiTarget *target, const json_t *action, CdiItem *item)
{
	MemoryContext context = CurrentMemoryContext;

	item->error = NULL;
	item->json = NULL;
	item->group = item->list = item->meta = NULL;
	item->max_items = 0;
	/* Nothing below holds a lock, a buffer or a file when it fails. */
	PG_TRY();
	{
		map_item(target, action, item);
	}
	PG_CATCH();
	{
		item->error = cdi_row_fault(context);
	}
	PG_END_TRY();
}

const json_t *
cdi_action_order(const json_t *action)
{
	return json_object_get(json_object_get(action, "batch"), "order_key");
}

char *
cdi_item_order(const CdiTarget *target, const json_t *expression, const CdiItem *item)
{
	MemoryContext context = CurrentMemoryContext;
	CdiScope	scope = {.target = target,.item = item,.row = &item->row->root};
	char	   *volatile order = NULL;

	if (expression == NULL)
		return NULL;
	PG_TRY();
	{
		CdiValue	value = cdi_map_evaluate(&scope, expression);

		if (!cdi_value_empty(&value))
			order = cdi_value_text(&value);
	}
	PG_CATCH();
	{
		(void) cdi_row_fault(context);	/* it will be said when the row is mapped */
	}
	PG_END_TRY();
	return order;
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

	/* where it goes by the row, rows say it themselves */
	limits.max_items = json_is_object(json_object_get(batch, "max_items")) ? CDI_MAX_ITEMS :
		(int) limit_of(target, batch, "max_items", 1, CDI_MAX_ITEMS);
	limits.max_bytes = limit_of(target, batch, "max_bytes", 4 * 1024 * 1024, CDI_MAX_BYTES);
	limits.max_wait = 0;
	if (cdi_json_string(batch, "max_wait") != NULL)
		(void) parse_int(cdi_json_string(batch, "max_wait"), &limits.max_wait, GUC_UNIT_MS, NULL);
	return limits;
}

bool
cdi_batch_full(const CdiBatchLimits *limits, int n, int64 bytes, const CdiItem *item)
{
	return n == limits->max_items || (n > 0 && bytes + item->len + 1 > limits->max_bytes);
}

bool
cdi_batch_takes(const CdiBatchLimits *limits, const CdiItem *first, int n, int64 bytes, const CdiItem *item)
{
	return !cdi_batch_full(limits, n, bytes, item) && (item->max_items == 0 || n < item->max_items) &&
		(first == NULL || item->group == NULL || strcmp(item->group, first->group) == 0);
}

static char *
evaluate_text(const CdiScope *scope, const json_t *node)
{
	CdiValue	value = cdi_map_evaluate(scope, node);

	return cdi_value_text(&value);
}

bool
cdi_header_name(const char *name)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	return *name != '\0' && name[strspn(name, token)] == '\0';
}

void
cdi_request_add_header(CdiRequest *request, const char *name, const char *value)
{
	if (!cdi_header_name(name) || strpbrk(value, "\r\n") != NULL)
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
	if (request->nheaders == CDI_MAX_HEADERS)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("request has more than %d headers", CDI_MAX_HEADERS)));
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
			cdi_request_add_header(request, name, cdi_value_text(&text));
		}
	}
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

/* ---- stages ---- */

int
cdi_action_stages(const json_t *action)
{
	return (int) (json_array_size(json_object_get(action, "steps")) + 1 + json_array_size(json_object_get(action, "then")));
}

int
cdi_action_main_stage(const json_t *action)
{
	return (int) json_array_size(json_object_get(action, "steps"));
}

const json_t *
cdi_action_stage(const json_t *action, int number)
{
	int			main_stage = cdi_action_main_stage(action);

	if (number < main_stage)
		return json_array_get(json_object_get(action, "steps"), number);
	/* What the action is about has its request and response in the action. */
	return number == main_stage ? action : json_array_get(json_object_get(action, "then"), number - main_stage - 1);
}

void
cdi_action_columns(const CdiSpec *spec, const json_t *action, const json_t *order, CdiColumns *columns)
{
	const CdiMapRules row_rules = {.row = true,.columns = columns};
	const CdiMapRules request_rules = {.secrets = true,.items = true,.columns = columns};
	static const char *const of_row[] = {"map", "meta", "list", "group_by", "require"};
	static const char *const of_request[] = {"method", "url", "headers"};
	json_t	   *most = json_object_get(json_object_get(action, "batch"), "max_items");
	json_t	   *auth = json_object_get(spec->root, "auth");

	columns->vars = json_object_get(spec->root, "vars");
	for (int i = 0; i < lengthof(of_row); i++)
		cdi_map_check(json_object_get(action, of_row[i]), row_rules, of_row[i]);
	cdi_map_check(order, row_rules, "order key");
	if (json_is_object(most))
		cdi_map_check(most, row_rules, "max_items");
	for (int stage = 0; stage < cdi_action_stages(action); stage++)
	{
		const json_t *request = json_object_get(cdi_action_stage(action, stage), "request");
		json_t	   *when = json_object_get(request, "when");
		json_t	   *body = json_object_get(request, "body");

		for (int i = 0; i < lengthof(of_request); i++)
			cdi_map_check(json_object_get(request, of_request[i]), request_rules, of_request[i]);
		if (when != NULL)
			cdi_map_check_condition(when, request_rules, "when");
		if (body != NULL)
			cdi_body_check(body, request_rules, "body");
	}
	if (auth != NULL)
		cdi_auth_check(auth, (CdiMapRules) {.secrets = true,.columns = columns}, "auth");
}

TimestampTz
cdi_target_now(const CdiTarget *target)
{
	return target->now != 0 ? target->now : GetCurrentTimestamp();
}

/*
 * Does the path of an address have "." or ".." for a part?  It would be another
 * path by the time that it arrives.
 */
static bool
has_dot_segment(const char *url)
{
	const char *path = strstr(url, "://") + 3;

	path += strcspn(path, "/?#");
	while (*path == '/')
	{
		int			dots = 0;

		path++;
		while (*path == '.' || pg_strncasecmp(path, "%2e", 3) == 0)
		{
			path += *path == '.' ? 1 : 3;
			dots++;
		}
		if ((dots == 1 || dots == 2) && (*path == '\0' || strchr("/?#", *path) != NULL))
			return true;
		path += strcspn(path, "/?#");
	}
	return false;
}

/* The path of an address in ASCII, as it is going to be sent and signed */
static char *
encoded_address(const char *url)
{
	const char *path = strstr(url, "://");
	StringInfoData out;

	path = path ? path + 3 + strcspn(path + 3, "/?#") : url;
	initStringInfo(&out);
	appendBinaryStringInfo(&out, url, path - url);
	for (; *path != '\0'; path++)
	{
		if (IS_HIGHBIT_SET(*path))
			appendStringInfo(&out, "%%%02X", (unsigned char) *path);
		else
			appendStringInfoChar(&out, *path);
	}
	return out.data;
}

/* Where it may not go to, it is refused before there is a connection, too. */
void
cdi_request_check_url(const CdiRequest *request, const CdiTarget *target)
{
	const char *refusal;

	if (pg_strncasecmp(request->url, "https://", 8) != 0 && pg_strncasecmp(request->url, "http://", 7) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("address of the destination must begin with https:// or http://")));
	if (has_dot_segment(request->url))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_EGRESS_REFUSED),
				 errmsg("a part of the address would be \".\" or \"..\"")));
	refusal = cdi_client_refuses(request->url, target);
	if (refusal != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_EGRESS_REFUSED),
				 errmsg("%s", refusal)));
}

CdiRequest *
cdi_request_build(const CdiTarget *target, const json_t *stage, CdiItem **items, int nitems, Jsonb *steps)
{
	CdiRequest *request = palloc0(sizeof(CdiRequest));
	json_t	   *spec = json_object_get(stage, "request");
	json_t	   *when = json_object_get(spec, "when");
	const char *timeout = cdi_json_string(spec, "timeout");
	const char *header = cdi_json_string(json_object_get(spec, "idempotency"), "header");
	CdiScope	scope = {.target = target,.items = items,.nitems = nitems,.steps = steps,.secrets = true};

	if (nitems > 0 && items[0]->row != NULL)
		scope.row = &items[0]->row->root;
	request->headers = palloc(sizeof(CdiHeader) * CDI_MAX_HEADERS);
	request->key = scope.batch_key = request_key(items, nitems);
	if (when != NULL && !cdi_map_condition(&scope, when))
		return NULL;
	request->method = evaluate_text(&scope, json_object_get(spec, "method"));
	request->url = encoded_address(evaluate_text(&scope, json_object_get(spec, "url")));
	request->timeout = DEFAULT_TIMEOUT;
	if (timeout != NULL)
		(void) parse_int(timeout, &request->timeout, GUC_UNIT_MS, NULL);
	if (request->method[strspn(request->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("method of the request is not valid")));
	if (!target->mask_secrets)
		cdi_request_check_url(request, target);
	if (json_object_get(spec, "body") != NULL)
		cdi_body_build(request, &scope, json_object_get(spec, "body"));
	add_headers(request, &scope, json_object_get(spec, "headers"));
	if (header != NULL)
		cdi_request_add_header(request, header, request->key);
	cdi_auth_apply(request, &scope, json_object_get(target->spec->root, "auth"));
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

/* Where a setting says that the requests go, or NULL */
const char *
cdi_egress_setting(const CdiTarget *target)
{
	const char *name = cdi_json_string(json_object_get(target->spec->root, "egress"), "setting");

	return name ? cdi_json_string(target->settings, name) : NULL;
}
