/*
 * response.c
 *		Read what a destination answered: what became of the request, and of
 *		each of its rows.
 *
 * The rules of an action are tried in order and the first that matches
 * decides; the rules of HTTP follow.  An answer is never trusted to be what it
 * should: a body that is no JSON matches no condition and names no rows.
 */
#include "activate/activate.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "base/errors.h"

#define MAX_ERROR 500

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

static const char *const class_names[] = {"ok", "rejected", "split", "retryable", "throttled", "auth"};

const char *
cdi_class_name(CdiClass class)
{
	return class_names[class];
}

static bool
class_parse(const char *name, CdiClass *class)
{
	for (int i = 0; i < lengthof(class_names); i++)
		if (name != NULL && strcmp(class_names[i], name) == 0)
		{
			*class = (CdiClass) i;
			return true;
		}
	return false;
}

/* 200, "2xx", "network", "timeout" or "refused" */
static bool
status_matches(const json_t *wanted, const CdiAnswer *answer)
{
	const char *text = json_string_value(wanted);

	if (json_is_integer(wanted))
		return answer->status != 0 && json_integer_value(wanted) == answer->status;
	if (strcmp(text + 1, "xx") == 0)
		return answer->status / 100 == *text - '0';
	return answer->failure != NULL && strcmp(answer->failure, text) == 0;
}

/* NULL where the body is no JSON */
static Jsonb *
parse_body(const CdiAnswer *answer)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	if (answer->body_len == 0)
		return NULL;
	/* A parse error leaves nothing behind but memory. */
	PG_TRY();
	{
		char	   *text = pnstrdup(answer->body, answer->body_len);

		pg_verifymbstr(text, strlen(text), false);
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/* One line of valid text for a table: whatever it was that came back */
static char *
clean_text(const char *data, size_t len)
{
	StringInfoData out;

	initStringInfo(&out);
	for (size_t i = 0; i < len && out.len < MAX_ERROR;)
	{
		int			size = pg_utf_mblen((const unsigned char *) data + i);

		if (i + size > len || !pg_utf8_islegal((const unsigned char *) data + i, size))
		{
			appendStringInfoChar(&out, '?');
			size = 1;
		}
		else if ((unsigned char) data[i] < ' ')
			appendStringInfoChar(&out, ' ');
		else
			appendBinaryStringInfo(&out, data + i, size);
		i += size;
	}
	return out.data;
}

static char *
without_secret(char *text, const char *secret)
{
	char	   *found;

	/* short ones would leave nothing of the text */
	if (strlen(secret) < 6)
		return text;
	while ((found = strstr(text, secret)) != NULL)
	{
		*found = '\0';
		text = psprintf("%s***%s", text, found + strlen(secret));
	}
	return text;
}

/* What goes into a table: no secret that was echoed, one valid line */
static char *
presentable(const CdiTarget *target, const char *data, size_t len)
{
	char	   *text = pnstrdup(data, Min(len, 16 * 1024));
	const char *name;
	const char *inner;
	json_t	   *secret;
	json_t	   *part;

	json_object_foreach(target->secrets, name, secret)
	{
		if (json_is_string(secret))
			text = without_secret(text, json_string_value(secret));
		json_object_foreach(secret, inner, part)
			text = without_secret(text, json_string_value(part));
	}
	return clean_text(text, strlen(text));
}

static void
default_verdict(const CdiAnswer *answer, CdiVerdict *verdict)
{
	int			status = answer->status;

	if (answer->failure != NULL)
		verdict->class = strcmp(answer->failure, "refused") == 0 ? CDI_CLASS_AUTH : CDI_CLASS_RETRYABLE;
	else if (status / 100 == 2)
		verdict->class = CDI_CLASS_OK;
	else if (status == 413)
		verdict->class = CDI_CLASS_SPLIT;
	else if (status == 429)
		verdict->class = CDI_CLASS_THROTTLED;
	else if (status == 408 || status == 425 || status / 100 == 5)
		verdict->class = CDI_CLASS_RETRYABLE;
	else if (status == 401 || status == 403 || status == 407 || status / 100 == 3)
		verdict->class = CDI_CLASS_AUTH;	/* the destination's settings are wrong */
	else
	{
		verdict->class = CDI_CLASS_REJECTED;
		verdict->split = true;
	}
}

/*
 * Rows that the body names: {"each": path, "index": path, "class": ...,
 * "message": path}.  Without "index" the entries stand in the order of the
 * rows, and "when" says which of them count.
 */
static void
read_rows(const json_t *rows, const CdiScope *scope, CdiVerdict *verdict, int nitems)
{
	CdiValue	list = cdi_map_path(scope, cdi_json_string(rows, "each"));
	json_t	   *when = json_object_get(rows, "when");
	const char *index_path = cdi_json_string(rows, "index");
	const char *message_path = cdi_json_string(rows, "message");
	CdiClass	class = CDI_CLASS_REJECTED;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	raw;
	int			entry = -1;

	(void) class_parse(cdi_json_string(rows, "class"), &class);
	if (list.type != CDI_CONTAINER || !JsonContainerIsArray(list.container))
		return;
	verdict->rows = palloc(sizeof(int) * nitems);
	verdict->row_classes = palloc(sizeof(CdiClass) * nitems);
	verdict->row_errors = palloc(sizeof(char *) * nitems);
	it = JsonbIteratorInit(list.container);
	while ((token = JsonbIteratorNext(&it, &raw, true)) != WJB_DONE)
	{
		CdiScope	inner = *scope;
		CdiValue	element;
		CdiValue	message = {.type = CDI_ABSENT};
		int			row;
		bool		known = false;

		if (token != WJB_ELEM)
			continue;
		row = ++entry;
		element = cdi_value_from_jsonb(&raw);
		inner.element = &element;
		if (when != NULL && !cdi_map_condition(&inner, when))
			continue;
		if (index_path != NULL)
		{
			CdiValue	index = cdi_map_path(&inner, index_path);
			char	   *end;
			char	   *text = cdi_value_text(&index);

			row = strtol(text, &end, 10);
			if (*text == '\0' || *end != '\0')
				continue;
		}
		for (int i = 0; i < verdict->nrows; i++)
			known |= verdict->rows[i] == row;
		if (row < 0 || row >= nitems || known)
			continue;
		if (message_path != NULL)
			message = cdi_map_path(&inner, message_path);
		else
			message = element;
		verdict->rows[verdict->nrows] = row;
		verdict->row_classes[verdict->nrows] = class;
		{
			char	   *text = cdi_value_text(&message);

			verdict->row_errors[verdict->nrows++] = presentable(scope->target, text, strlen(text));
		}
	}
}

CdiVerdict *
cdi_response_read(const CdiTarget *target, const json_t *action, const CdiAnswer *answer, int nitems)
{
	CdiVerdict *verdict = palloc0(sizeof(CdiVerdict));
	json_t	   *rules = json_object_get(json_object_get(action, "response"), "rules");
	CdiScope	scope = {.target = target,.status = answer->status};
	bool		parsed = false;
	json_t	   *rule;
	size_t		i;

	default_verdict(answer, verdict);
	json_array_foreach(rules, i, rule)
	{
		json_t	   *statuses = json_object_get(rule, "status");
		json_t	   *when = json_object_get(rule, "when");
		json_t	   *rows = json_object_get(rule, "rows");
		bool		matches = statuses == NULL;
		json_t	   *status;
		size_t		k;

		json_array_foreach(statuses, k, status)
			matches |= status_matches(status, answer);
		if (!matches)
			continue;
		if ((when != NULL || rows != NULL) && !parsed)
		{
			Jsonb	   *body = parse_body(answer);

			parsed = true;
			scope.row = body ? &body->root : NULL;
		}
		if (when != NULL && (scope.row == NULL || !cdi_map_condition(&scope, when)))
			continue;
		(void) class_parse(cdi_json_string(rule, "class"), &verdict->class);
		verdict->split = json_is_true(json_object_get(rule, "split"));
		if (rows != NULL)
			read_rows(rows, &scope, verdict, nitems);
		break;
	}
	if (verdict->class == CDI_CLASS_OK)
		return verdict;
	if (answer->failure != NULL)
		verdict->error = answer->error ?
			presentable(target, answer->error, strlen(answer->error)) : answer->failure;
	else
	{
		char	   *body = answer->body_len > 0 ? presentable(target, answer->body, answer->body_len) : "";

		verdict->error = *body ? psprintf("HTTP %d: %s", answer->status, body) : psprintf("HTTP %d", answer->status);
	}
	return verdict;
}

void
cdi_response_check(const json_t *response, const char *where)
{
	json_t	   *rules = json_object_get(response, "rules");
	json_t	   *rule;
	size_t		i;
	CdiClass	class;
	const CdiMapRules body_rules = {0};
	const CdiMapRules element_rules = {.row = true};

	if (!json_is_object(response) || json_object_size(response) != 1 || !json_is_array(rules))
		INVALID("%s must be an object with an array \"rules\".", where);
	json_array_foreach(rules, i, rule)
	{
		char	   *here = psprintf("%s.rules[%d]", where, (int) i);
		const char *key;
		json_t	   *member;
		size_t		k;

		if (!json_is_object(rule) || !class_parse(cdi_json_string(rule, "class"), &class))
			INVALID("%s: class must be ok, rejected, split, retryable, throttled or auth.", here);
		json_object_foreach(rule, key, member)
		{
			if (strcmp(key, "class") == 0)
				continue;
			if (strcmp(key, "split") == 0)
			{
				if (!json_is_boolean(member))
					INVALID("%s: split must be true or false.", here);
			}
			else if (strcmp(key, "when") == 0)
				cdi_map_check_condition(member, body_rules, here);
			else if (strcmp(key, "status") == 0)
			{
				json_t	   *status;

				if (!json_is_array(member))
					INVALID("%s: status must be an array.", here);
				json_array_foreach(member, k, status)
				{
					const char *text = json_string_value(status);

					if (json_is_integer(status) && json_integer_value(status) >= 100 && json_integer_value(status) <= 599)
						continue;
					if (text && ((*text >= '1' && *text <= '5' && strcmp(text + 1, "xx") == 0) ||
								 strcmp(text, "network") == 0 || strcmp(text, "timeout") == 0 ||
								 strcmp(text, "refused") == 0))
						continue;
					INVALID("%s: a status is 100 to 599, \"1xx\" to \"5xx\", \"network\", \"timeout\" or \"refused\".", here);
				}
			}
			else if (strcmp(key, "rows") == 0)
			{
				const char *name;
				json_t	   *part;

				if (!json_is_object(member) || cdi_json_string(member, "each") == NULL)
					INVALID("%s: rows must be an object with a path \"each\".", here);
				json_object_foreach(member, name, part)
				{
					if (strcmp(name, "when") == 0)
						cdi_map_check_condition(part, element_rules, here);
					else if (strcmp(name, "class") == 0)
					{
						if (!class_parse(json_string_value(part), &class) ||
							class == CDI_CLASS_SPLIT || class == CDI_CLASS_AUTH)
							INVALID("%s: class of rows must be ok, rejected, retryable or throttled.", here);
					}
					else if (strcmp(name, "each") == 0 || strcmp(name, "index") == 0 || strcmp(name, "message") == 0)
					{
						json_t	   *path;

						if (!json_is_string(part))
							INVALID("%s: %s must be a path.", here, name);
						path = cdi_json_own(CurrentMemoryContext, json_pack("{s:s}", "@path", json_string_value(part)));
						cdi_map_check(path, element_rules, here);
					}
					else
						INVALID("%s: unknown member \"%s\" of rows.", here, name);
				}
			}
			else
				INVALID("%s: unknown member \"%s\".", here, key);
		}
	}
}
