/*
 * spec_test.c
 *		Run the tests that a specification carries: rows in, request out;
 *		answer in, verdict out.  No network, no secrets but the test's own.
 */
#include "activate/activate.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "ingest/iso8601.h"

#define FAIL(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("test \"%s\" of destination specification \"%s\" failed", test->name, test->target.spec->name), \
			 errdetail(__VA_ARGS__)))

typedef struct SpecTest
{
	const char *name;
	CdiTarget	target;
	json_t	   *node;
	json_t	   *action;
	const json_t *stage;		/* NULL: the request for a token */
	Jsonb	   *steps;
	json_t	   *expect;
} SpecTest;

static Jsonb *
jsonb_of(const json_t *node)
{
	StringInfoData out;

	initStringInfo(&out);
	cdi_json_append(&out, node);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data)));
}

/* "stage": the name of a step, or "token"; without it what the action is about */
static void
prepare_stage(SpecTest *test)
{
	const char *wanted = cdi_json_string(test->node, "stage");
	const char *now = cdi_json_string(test->node, "now");
	json_t	   *steps = json_object_get(test->node, "steps");

	test->stage = test->action;
	test->target.token = cdi_json_string(test->node, "token");
	/* For signatures that need a private key, which nobody should publish */
	test->target.mask_secrets = json_is_true(json_object_get(test->node, "unsigned"));
	if (steps != NULL)
		test->steps = jsonb_of(steps);
	if (now != NULL)
	{
		CdiText		text = {now, strlen(now)};

		if (!cdi_iso8601_parse(text, &test->target.now))
			FAIL("\"now\" is no time.");
	}
	if (wanted == NULL)
		return;
	test->stage = NULL;
	if (strcmp(wanted, "token") == 0 && cdi_oauth_part(&test->target) != NULL)
		return;
	for (int i = 0; i < cdi_action_stages(test->action); i++)
	{
		const char *name = cdi_json_string(cdi_action_stage(test->action, i), "name");

		if (name != NULL && strcmp(name, wanted) == 0)
			test->stage = cdi_action_stage(test->action, i);
	}
	if (test->stage == NULL)
		FAIL("There is no stage \"%s\".", wanted);
}

static void
prepare(SpecTest *test, const CdiSpec *spec, json_t *node, int number)
{
	static const char *const members[] = {"name", "action", "settings", "secrets", "rows", "answer", "expect", "reference",
	"stage", "steps", "token", "now", "unsigned"};
	const char *action = cdi_json_string(node, "action");
	json_t	   *settings = json_object_get(node, "settings");
	json_t	   *properties = json_object_get(json_object_get(spec->root, "settings"), "properties");
	const char *name;
	json_t	   *member;

	test->target.spec = spec;
	test->name = cdi_json_string(node, "name");
	if (test->name == NULL)
		test->name = psprintf("%d", number);
	test->node = node;
	json_object_foreach(node, name, member)
	{
		bool		known = false;

		for (int i = 0; i < lengthof(members); i++)
			known |= strcmp(members[i], name) == 0;
		if (!known)
			FAIL("Unknown member \"%s\".", name);
	}
	if (action == NULL)
		action = cdi_spec_default_action(spec);
	test->action = action ? cdi_spec_action(spec, action) : NULL;
	if (test->action == NULL)
		FAIL("There is no such action.");
	test->expect = json_object_get(node, "expect");
	if (!json_is_object(test->expect))
		FAIL("It expects nothing.");
	if (settings == NULL)
		settings = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	test->target.settings = cdi_settings_check(spec, settings, CurrentMemoryContext);
	test->target.secrets = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	json_object_foreach(test->target.settings, name, member)
		if (json_object_get(json_object_get(properties, name), "secret") != NULL &&
			json_is_string(member) && !cdi_secret_is_reference(json_string_value(member)))
			json_object_set(test->target.secrets, name, member);
	json_object_foreach(json_object_get(node, "secrets"), name, member)
		json_object_set(test->target.secrets, name, member);
	prepare_stage(test);
}

static void
compare_text(const SpecTest *test, const char *what, const char *wanted, const char *got)
{
	if (wanted != NULL && strcmp(wanted, got ? got : "") != 0)
		FAIL("Expected %s \"%s\", got \"%s\".", what, wanted, got ? got : "");
}

/* The rows that can be sent; the others must be expected to be invalid. */
static int
map_rows(SpecTest *test, CdiItem ***result)
{
	json_t	   *rows = json_object_get(test->node, "rows");
	json_t	   *invalid = json_object_get(test->expect, "invalid");
	int			nrows = json_array_size(rows);
	CdiItem   **items = palloc(sizeof(CdiItem *) * Max(nrows, 1));
	int			nitems = 0;
	int			ninvalid = 0;

	for (int i = 0; i < nrows; i++)
	{
		json_t	   *row = json_array_get(rows, i);
		CdiItem    *item = palloc0(sizeof(CdiItem));

		item->operation = cdi_json_string(row, "operation");
		item->primary_key = cdi_json_string(row, "primary_key");
		if (item->operation == NULL || item->primary_key == NULL || !json_is_object(json_object_get(row, "row")))
			FAIL("Row %d needs operation, primary_key and row.", i);
		item->key = psprintf("00000000-0000-0000-0000-%012d", i);
		item->row = jsonb_of(json_object_get(row, "row"));
		cdi_item_map(&test->target, test->action, item);
		if (item->error == NULL)
			items[nitems++] = item;
		else if (!json_is_integer(json_array_get(invalid, ninvalid)) ||
				 json_integer_value(json_array_get(invalid, ninvalid++)) != i)
			FAIL("Row %d is invalid: %s.", i, item->error);
	}
	if (ninvalid != json_array_size(invalid))
		FAIL("Expected %d invalid rows, got %d.", (int) json_array_size(invalid), ninvalid);
	*result = items;
	return nitems;
}

/* An answer that is about no row in particular stands for a request of one. */
static int
rows_of_answer(SpecTest *test, CdiItem ***items)
{
	json_t	   *rows = json_object_get(test->node, "rows");

	if (json_is_object(json_array_get(rows, 0)))
		return map_rows(test, items);
	*items = palloc(sizeof(CdiItem *) * Max(json_array_size(rows), 1));
	for (int i = 0; i < Max(json_array_size(rows), 1); i++)
	{
		(*items)[i] = palloc0(sizeof(CdiItem));
		(*items)[i]->json = "{}";
		(*items)[i]->len = 2;
	}
	return Max((int) json_array_size(rows), 1);
}

static void
test_token(SpecTest *test, const CdiAnswer *answer)
{
	CdiToken   *token = cdi_oauth_answer(&test->target, answer);

	compare_text(test, "token", cdi_json_string(test->expect, "token"), token->access_token);
	compare_text(test, "error", cdi_json_string(test->expect, "error"), token->error);
}

static void
test_request(SpecTest *test)
{
	json_t	   *body = json_object_get(test->expect, "body");
	CdiItem   **items;
	int			nitems = map_rows(test, &items);
	CdiRequest *request;
	const char *name;
	json_t	   *value;

	if (nitems == 0 && test->stage != NULL)
		return;
	request = test->stage ? cdi_request_build(&test->target, test->stage, items, nitems, test->steps) :
		cdi_oauth_request(&test->target);
	if (json_is_false(json_object_get(test->expect, "sent")))
	{
		if (request != NULL)
			FAIL("Expected no request.");
		return;
	}
	if (request == NULL)
		FAIL("There is no request.");
	compare_text(test, "method", cdi_json_string(test->expect, "method"), request->method);
	compare_text(test, "url", cdi_json_string(test->expect, "url"), request->url);
	compare_text(test, "body", cdi_json_string(test->expect, "body_text"), request->body);
	json_object_foreach(json_object_get(test->expect, "headers"), name, value)
	{
		const char *got = NULL;

		for (int i = 0; i < request->nheaders; i++)
			if (pg_strcasecmp(request->headers[i].name, name) == 0)
				got = request->headers[i].value;
		if (json_is_null(value) && got != NULL)
			FAIL("Expected no header \"%s\".", name);
		compare_text(test, psprintf("header %s", name), json_string_value(value), got);
	}
	if (body != NULL)
	{
		Jsonb	   *wanted = jsonb_of(body);
		Jsonb	   *got;

		if (request->body == NULL)
			FAIL("The request has no body.");
		got = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(request->body)));
		if (compareJsonbContainers(&wanted->root, &got->root) != 0)
			FAIL("Expected body %s, got %s.", JsonbToCString(NULL, &wanted->root, 0), request->body);
	}
}

static void
test_answer(SpecTest *test)
{
	json_t	   *node = json_object_get(test->node, "answer");
	json_t	   *body = json_object_get(node, "body");
	json_t	   *split = json_object_get(test->expect, "split");
	json_t	   *rows = json_object_get(test->expect, "rows");
	json_t	   *row;
	size_t		i;
	json_t	   *headers = json_object_get(node, "headers");
	json_t	   *extract = json_object_get(test->expect, "extract");
	json_t	   *header;
	const char *name;
	CdiItem   **items;
	int			nitems = rows_of_answer(test, &items);
	CdiAnswer	answer = {0};
	StringInfoData lines;
	CdiVerdict *verdict;
	StringInfoData text;

	answer.status = (int) json_integer_value(json_object_get(node, "status"));
	answer.failure = cdi_json_string(node, "failure");
	initStringInfo(&text);
	if (json_is_string(body))
		appendStringInfoString(&text, json_string_value(body));
	else if (body != NULL)
		cdi_json_append(&text, body);
	answer.body = text.data;
	answer.body_len = text.len;
	initStringInfo(&lines);
	json_object_foreach(headers, name, header)
		appendStringInfo(&lines, "%s: %s\r\n", name, json_string_value(header));
	answer.headers = lines.data;
	if (test->stage == NULL)
	{
		test_token(test, &answer);
		return;
	}
	verdict = cdi_response_read(&test->target, test->stage, &answer, items, nitems, test->steps);
	compare_text(test, "class", cdi_json_string(test->expect, "class"), cdi_class_name(verdict->class));
	if (split != NULL && json_is_true(split) != verdict->split)
		FAIL("Expected split to be %s.", verdict->split ? "false" : "true");
	if (rows != NULL && json_array_size(rows) != verdict->nrows)
		FAIL("Expected %d rows of their own, got %d.", (int) json_array_size(rows), verdict->nrows);
	json_array_foreach(rows, i, row)
	{
		int			index = (int) json_integer_value(json_object_get(row, "index"));

		if (index < 0 || index >= nitems || verdict->named == NULL || !verdict->named[index])
			FAIL("Expected row %d to fare otherwise.", index);
		compare_text(test, "class of row", cdi_json_string(row, "class"), cdi_class_name(verdict->row_classes[index]));
		compare_text(test, "message of row", cdi_json_string(row, "message"), verdict->row_errors[index]);
	}
	compare_text(test, "message", cdi_json_string(test->expect, "message"), verdict->error);
	if ((row = json_object_get(test->expect, "retry_after")) != NULL && json_integer_value(row) != verdict->retry_after)
		FAIL("Expected to come again after %d s, got %d.", (int) json_integer_value(row), verdict->retry_after);
	if ((row = json_object_get(test->expect, "unfinished")) != NULL && json_is_true(row) != verdict->unfinished)
		FAIL("Expected the stage to be %s.", verdict->unfinished ? "finished" : "unfinished");
	if (extract != NULL &&
		(verdict->extract == NULL || compareJsonbContainers(&jsonb_of(extract)->root, &verdict->extract->root) != 0))
		FAIL("Expected it to find something else than %s.",
			 verdict->extract ? JsonbToCString(NULL, &verdict->extract->root, 0) : "nothing");
}

void
cdi_spec_run_tests(const CdiSpec *spec)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi tests of a specification",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	json_t	   *node;
	size_t		i;

	json_array_foreach(json_object_get(spec->root, "tests"), i, node)
	{
		SpecTest	test = {0};

		prepare(&test, spec, node, (int) i);
		if (json_object_get(node, "answer") != NULL)
			test_answer(&test);
		else
			test_request(&test);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
