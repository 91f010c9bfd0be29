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

#include <math.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/numeric.h"

#include "base/errors.h"

static const char *const class_names[] = {"ok", "rejected", "split", "retryable", "throttled", "auth"};

const char *
cdi_class_name(CdiClass class)
{
	return class_names[class];
}

bool
cdi_class_parse(const char *name, CdiClass *class)
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

Jsonb *
cdi_answer_json(const CdiAnswer *answer)
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

/* ---- rows that fared otherwise ---- */

typedef struct RowValue
{
	char	   *text;
	int			row;
} RowValue;

typedef struct Reading
{
	const json_t *rows;			/* the part of the rule */
	CdiScope	scope;
	CdiItem   **items;
	int			nitems;
	CdiVerdict *verdict;
	int			entries;		/* seen so far */
	Bitmapset  *found;			/* those that are of a row of the request */
	Bitmapset  *lost;			/* failures that are of none */
	RowValue   *values;			/* of "match": what each item has there, sorted */
} Reading;

static void
name_row(Reading *reading, int entry, int row, CdiClass class, const CdiValue *message)
{
	CdiVerdict *verdict = reading->verdict;
	char	   *text;

	if (row < 0 || row >= reading->nitems)
	{
		if (class != CDI_CLASS_OK)
			reading->lost = bms_add_member(reading->lost, entry);
		return;
	}
	reading->found = bms_add_member(reading->found, entry);
	if (verdict->named == NULL)
	{
		verdict->named = palloc0(sizeof(bool) * reading->nitems);
		verdict->row_classes = palloc(sizeof(CdiClass) * reading->nitems);
		verdict->row_errors = palloc0(sizeof(char *) * reading->nitems);
	}
	if (verdict->named[row])
		return;
	text = cdi_value_text(message);
	verdict->named[row] = true;
	verdict->row_classes[row] = class;
	verdict->row_errors[row] = cdi_answer_presentable(reading->scope.target, text, strlen(text));
	verdict->nrows++;
}

/* A path, or an expression */
static CdiValue
evaluate(const CdiScope *scope, const json_t *node)
{
	return json_is_string(node) ? cdi_map_path(scope, json_string_value(node)) : cdi_map_evaluate(scope, node);
}

/* Number of the row that is the index-th of its list, or -1 */
static int
row_of_list(const Reading *reading, const char *list, int index)
{
	for (int i = 0; i < reading->nitems; i++)
		if (reading->items[i]->list != NULL && strcmp(reading->items[i]->list, list) == 0 && index-- == 0)
			return i;
	return -1;
}

static int
compare_values(const void *a, const void *b)
{
	const RowValue *left = a;
	const RowValue *right = b;
	int			order = strcmp(left->text, right->text);

	return order != 0 ? order : left->row - right->row;
}

/* Every row that has the value which the answer names */
static void
match_rows(Reading *reading, int entry, const CdiScope *scope, CdiClass class, const CdiValue *message)
{
	json_t	   *match = json_object_get(reading->rows, "match");
	CdiValue	wanted = evaluate(scope, json_object_get(match, "value"));
	char	   *text = cdi_value_text(&wanted);
	int			low = 0;
	int			high = reading->nitems;

	if (reading->values == NULL)
	{
		reading->values = palloc(sizeof(RowValue) * reading->nitems);
		for (int i = 0; i < reading->nitems; i++)
		{
			CdiScope	inner = *scope;
			CdiValue	value;

			inner.item = reading->items[i];
			value = evaluate(&inner, json_object_get(match, "to"));
			reading->values[i] = (RowValue) {cdi_value_text(&value), i};
		}
		qsort(reading->values, reading->nitems, sizeof(RowValue), compare_values);
	}
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (strcmp(reading->values[middle].text, text) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (*text == '\0' || low == reading->nitems || strcmp(reading->values[low].text, text) != 0)
		name_row(reading, entry, -1, class, message);
	else
		for (int i = low; i < reading->nitems && strcmp(reading->values[i].text, text) == 0; i++)
			name_row(reading, entry, reading->values[i].row, class, message);
}

/* One entry of what the answer lists */
static void
read_entry(Reading *reading, const CdiValue *element, const char *key)
{
	const json_t *rows = reading->rows;
	json_t	   *when = json_object_get(rows, "when");
	json_t	   *index = json_object_get(rows, "index");
	json_t	   *list = json_object_get(rows, "array");
	json_t	   *message_node = json_object_get(rows, "message");
	CdiClass	class = CDI_CLASS_REJECTED;
	CdiScope	scope = reading->scope;
	CdiValue	message = *element;
	int			entry = reading->entries++;
	int			row = entry;

	scope.element = element;
	scope.element_key = key;
	if (when != NULL && !cdi_map_condition(&scope, when))
		return;
	(void) cdi_class_parse(cdi_json_string(rows, "class"), &class);
	if (message_node != NULL)
		message = evaluate(&scope, message_node);
	if (json_object_get(rows, "match") != NULL)
	{
		match_rows(reading, entry, &scope, class, &message);
		return;
	}
	if (index != NULL)
	{
		CdiValue	value = evaluate(&scope, index);
		char	   *text = cdi_value_text(&value);
		char	   *end;
		double		number = strtod(text, &end);

		row = end > text && *end == '\0' && number >= 0 && number < reading->nitems && number == (int) number ?
			(int) number : -1;
	}
	if (list != NULL)
	{
		CdiValue	value = evaluate(&scope, list);

		row = row < 0 ? -1 : row_of_list(reading, cdi_value_text(&value), row);
	}
	name_row(reading, entry, row, class, &message);
}

/*
 * What a path of "each" leads to: with "[*]" in it every element there, else
 * the elements of the array at its end.  Of an object, its members.
 */
static void
walk_each(Reading *reading, CdiValue value, const char *key, const char *path)
{
	const char *star = path ? strstr(path, "[*]") : NULL;
	CdiScope	scope = reading->scope;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	char	   *name = NULL;

	if (path != NULL && star != path)
	{
		/* up to the first star, or to the end: then its elements are meant */
		char	   *first = psprintf("@%.*s", (int) (star ? star - path : strlen(path)), path);

		scope.element = &value;
		walk_each(reading, cdi_map_path(&scope, first), key, star ? star : "[*]");
		return;
	}
	if (path == NULL)
	{
		read_entry(reading, &value, key);
		return;
	}
	path += strlen("[*]");
	if (*path == '\0')
		path = NULL;
	if (value.type != CDI_CONTAINER)
		return;
	it = JsonbIteratorInit(value.container);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(part.val.string.val, part.val.string.len);
		else if (token == WJB_VALUE || token == WJB_ELEM)
			walk_each(reading, cdi_value_from_jsonb(&part), token == WJB_VALUE ? name : key, path);
	}
}

static void
read_part(Reading *reading)
{
	json_t	   *each = json_object_get(reading->rows, "each");
	int			n = json_is_array(each) ? (int) json_array_size(each) : 1;

	for (int i = 0; i < n; i++)
	{
		const char *path = json_string_value(json_is_array(each) ? json_array_get(each, i) : each);
		CdiValue	body = {.type = CDI_CONTAINER,.container = reading->scope.row};

		walk_each(reading, body, NULL, path + 1);
	}
}

/*
 * True where a failure is listed that is of no row of the request.  Parts that
 * read one list, such as by an address and by a number, know its entries
 * together.
 */
static bool
read_rows(const json_t *rows, const CdiScope *scope, CdiVerdict *verdict, CdiItem **items, int nitems)
{
	int			n = json_is_array(rows) ? (int) json_array_size(rows) : 1;
	Reading    *parts = palloc0(sizeof(Reading) * n);
	bool		unknown = false;

	if (rows == NULL || scope->row == NULL)
		return false;
	for (int i = 0; i < n; i++)
	{
		parts[i] = (Reading)
		{
			.rows = json_is_array(rows) ? json_array_get(rows, i) : rows,.scope = *scope,
				.items = items,.nitems = nitems,.verdict = verdict
		};
		read_part(&parts[i]);
	}
	for (int i = 0; i < n; i++)
	{
		Bitmapset  *found = NULL;

		for (int k = 0; k < n; k++)
			if (json_equal(json_object_get(parts[k].rows, "each"), json_object_get(parts[i].rows, "each")))
				found = bms_add_members(found, parts[k].found);
		unknown |= !bms_is_subset(parts[i].lost, found);
	}
	return unknown;
}

/* ---- when to come again ---- */

/* A wait that the answer names: "header.NAME" or "$.path", as seconds, |ms or |epoch */
static int
retry_after(const json_t *sources, const CdiScope *scope)
{
	json_t	   *source;
	size_t		i;

	json_array_foreach(sources, i, source)
	{
		char	   *path = pstrdup(json_string_value(source));
		char	   *unit = strchr(path, '|');
		CdiValue	value;
		char	   *text;
		char	   *end;
		double		seconds;

		if (unit)
			*unit++ = '\0';
		value = cdi_map_path(scope, path);
		if (cdi_value_empty(&value))
			continue;
		text = cdi_value_text(&value);
		seconds = strtod(text, &end);
		if (end == text || *end != '\0' || isnan(seconds))
			continue;
		if (unit && strcmp(unit, "ms") == 0)
			seconds /= 1000;
		else if (unit)
			seconds -= (double) cdi_target_now(scope->target) / USECS_PER_SEC +
				(double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
		if (seconds > 0)
			return (int) Min(ceil(seconds), CDI_MAX_RETRY_AFTER);
	}
	return 0;
}

int
cdi_stage_poll(const json_t *stage, int64 *limit)
{
	json_t	   *poll = json_object_get(stage, "poll");
	const char *most = cdi_json_string(poll, "limit");
	int			every = 0;
	int			seconds = 24 * 60 * 60;

	if (poll == NULL)
		return 0;
	(void) parse_int(cdi_json_string(poll, "every"), &every, GUC_UNIT_MS, NULL);
	if (most != NULL)
		(void) parse_int(most, &seconds, GUC_UNIT_S, NULL);
	*limit = (int64) seconds * USECS_PER_SEC;
	return every;
}

/*
 * How many rows failed, or were accepted, as the answer says.  Where it names
 * fewer than failed, or does not count and lists a failure that may be of a row
 * which it does not name, nobody knows which: the request is halved.
 */
static void
check_named(const json_t *rule, const CdiScope *scope, CdiVerdict *verdict, bool unknown, int nitems)
{
	json_t	   *failed = json_object_get(rule, "failed");
	json_t	   *accepted = json_object_get(rule, "accepted");
	int64		nfailed = unknown && verdict->nrows < nitems && verdict->class == CDI_CLASS_OK ? nitems : 0;
	int			nnamed = 0;

	if (failed != NULL || accepted != NULL)
	{
		CdiValue	value = evaluate(scope, failed ? failed : accepted);

		nfailed = strtoll(cdi_value_text(&value), NULL, 10);
		if (failed == NULL)
			nfailed = nitems - nfailed;
	}
	for (int i = 0; verdict->named != NULL && i < nitems; i++)
		nnamed += verdict->named[i] && verdict->row_classes[i] != CDI_CLASS_OK;
	if (nnamed >= nfailed)
		return;
	verdict->class = CDI_CLASS_REJECTED;
	verdict->split = true;
	verdict->named = NULL;
	verdict->nrows = 0;
}

static void
apply_rule(const json_t *rule, const CdiScope *scope, CdiVerdict *verdict, CdiItem **items, int nitems)
{
	json_t	   *rows = json_object_get(rule, "rows");
	json_t	   *message = json_object_get(rule, "message");
	bool		unknown;

	(void) cdi_class_parse(cdi_json_string(rule, "class"), &verdict->class);
	verdict->split = json_is_true(json_object_get(rule, "split"));
	verdict->retry_after = retry_after(json_object_get(rule, "retry_after"), scope);
	unknown = read_rows(rows, scope, verdict, items, nitems);
	check_named(rule, scope, verdict, unknown, nitems);
	if (message != NULL && verdict->class != CDI_CLASS_OK)
	{
		CdiValue	value = evaluate(scope, message);
		char	   *text = cdi_value_text(&value);

		if (*text)
			verdict->error = cdi_answer_presentable(scope->target, text, strlen(text));
	}
}

static bool
reads_table(const json_t *response)
{
	const char *format = cdi_json_string(response, "format");

	return format != NULL && strcmp(format, "csv") == 0;
}

static Jsonb *
answer_body(const json_t *response, const CdiAnswer *answer)
{
	return reads_table(response) ? cdi_answer_csv(answer) : cdi_answer_json(answer);
}

static bool
begins_json(const CdiAnswer *answer)
{
	size_t		i = 0;

	while (i < answer->body_len && strchr(" \t\r\n", answer->body[i]) != NULL)
		i++;
	return i < answer->body_len && (answer->body[i] == '{' || answer->body[i] == '[');
}

static CdiVerdict *
read_answer(const CdiTarget *target, const json_t *stage, const CdiAnswer *answer, CdiItem **items, int nitems, Jsonb *steps)
{
	CdiVerdict *verdict = palloc0(sizeof(CdiVerdict));
	json_t	   *response = json_object_get(stage, "response");
	json_t	   *rules = json_object_get(response, "rules");
	json_t	   *extract = json_object_get(stage, "extract");
	json_t	   *until = json_object_get(json_object_get(stage, "poll"), "until");
	CdiScope	scope = {.target = target,.answer = answer,.items = items,.nitems = nitems,.steps = steps};
	bool		reads_body = extract != NULL || until != NULL;
	bool		reads_rows = false;
	json_t	   *rule;
	size_t		i;

	default_verdict(answer, verdict);
	if (rules != NULL || extract != NULL || until != NULL)
	{
		Jsonb	   *body = answer_body(response, answer);

		scope.row = body ? &body->root : NULL;
	}
	json_array_foreach(rules, i, rule)
	{
		json_t	   *statuses = json_object_get(rule, "status");
		json_t	   *when = json_object_get(rule, "when");
		bool		matches = statuses == NULL;
		json_t	   *status;
		size_t		k;

		json_array_foreach(statuses, k, status)
			matches |= status_matches(status, answer);
		if (!matches)
			continue;
		reads_body |= when != NULL;
		if (when != NULL && !cdi_map_condition(&scope, when))
			continue;
		if (json_object_get(rule, "rows") || json_object_get(rule, "failed") || json_object_get(rule, "accepted"))
			reads_body = reads_rows = true;
		apply_rule(rule, &scope, verdict, items, nitems);
		break;
	}
	/* What it says of rows may be in the part that nobody has read. */
	if (verdict->class == CDI_CLASS_OK && answer->cut && reads_body &&
		(reads_table(response) || begins_json(answer)))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("it is longer than 1 MB")));
	/* Such as the page of a proxy in between: it does not say that all rows are well. */
	if (verdict->class == CDI_CLASS_OK && reads_rows && scope.row == NULL && answer->body_len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("it is no %s", reads_table(response) ? "table" : "JSON")));
	if (verdict->class == CDI_CLASS_OK)
	{
		verdict->unfinished = until != NULL && !cdi_map_condition(&scope, until);
		if (extract != NULL && !verdict->unfinished)
		{
			CdiValue	found = cdi_map_evaluate(&scope, extract);

			verdict->extract = cdi_value_jsonb(&found);
		}
		return verdict;
	}
	if (verdict->error != NULL)
		return verdict;
	if (answer->failure != NULL)
		verdict->error = answer->error ?
			cdi_answer_presentable(target, answer->error, strlen(answer->error)) : answer->failure;
	else
	{
		char	   *body = answer->body_len > 0 ? cdi_answer_presentable(target, answer->body, answer->body_len) : "";

		verdict->error = *body ? psprintf("HTTP %d: %s", answer->status, body) : psprintf("HTTP %d", answer->status);
	}
	return verdict;
}

/*
 * What comes from outside may be anything.  An answer that cannot be read,
 * because it is too large once it is read or what a function takes is not
 * there, is as good as none: it is no reason to take a row for accepted, and
 * none to end.
 */
CdiVerdict *
cdi_response_read(const CdiTarget *target, const json_t *stage, const CdiAnswer *answer, CdiItem **items, int nitems, Jsonb *steps)
{
	MemoryContext context = CurrentMemoryContext;
	CdiVerdict *volatile verdict = NULL;

	/* Nothing in there holds a lock, a buffer or a file when it fails. */
	PG_TRY();
	{
		verdict = read_answer(target, stage, answer, items, nitems, steps);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		verdict = palloc0(sizeof(CdiVerdict));
		verdict->class = CDI_CLASS_RETRYABLE;
		verdict->error = cdi_answer_presentable(target, error->message, strlen(error->message));
		verdict->error = psprintf("the answer cannot be read: %s", verdict->error);
	}
	PG_END_TRY();
	return verdict;
}
