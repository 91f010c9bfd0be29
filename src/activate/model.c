/*
 * model.c
 *		The query of a sync, run as the role that declared it.
 *
 * The query is somebody's SQL and runs in a cage (base/cage.c), as its declarer
 * and with the search_path it was declared under.  Only then do rows reach code
 * that runs as the owner of the data: as text and jsonb in a tuplestore.
 */
#include "activate/model.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

#include "base/cage.h"
#include "base/errors.h"

#define FETCH_ROWS 1000

#define INVALID_SYNC(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SYNC), \
			 errmsg("model of sync \"%s\" cannot be used", model->sync), \
			 errdetail(__VA_ARGS__)))

static void
enter(CdiCage *cage, const CdiModel *model)
{
	cdi_cage_enter(cage, model->run_as, model->search_path, cdi_activate_model_timeout);
}

/* A syntax error points into the model, not into the caller's statement. */
static void
point_into_model(void *query)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(query);
	}
}

/*
 * The query without what stands before and after its one statement, checked
 * to be a SELECT.
 */
static char *
single_select(const CdiModel *model)
{
	ErrorContextCallback callback = {.callback = point_into_model,.arg = (void *) model->query};
	List	   *statements;
	RawStmt    *statement;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = pg_parse_query(model->query);
	error_context_stack = callback.previous;
	if (list_length(statements) != 1)
		INVALID_SYNC("It must be one statement, not %d.", list_length(statements));
	statement = linitial_node(RawStmt, statements);
	if (!IsA(statement->stmt, SelectStmt) || ((SelectStmt *) statement->stmt)->intoClause != NULL)
		INVALID_SYNC("It must be a SELECT.");
	if (((SelectStmt *) statement->stmt)->lockingClause != NIL)
		INVALID_SYNC("It must not lock rows (FOR UPDATE, FOR SHARE).");
	if (statement->stmt_len == 0)
		return pstrdup(model->query + statement->stmt_location);
	return pnstrdup(model->query + statement->stmt_location, statement->stmt_len);
}

static SPIPlanPtr
prepare(const CdiModel *model, const char *query)
{
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);

	if (plan == NULL)
		INVALID_SYNC("%s", SPI_result_code_string(SPI_result));
	return plan;
}

/* Forgets columns that an action may use and this model has not. */
static void
check_columns(CdiModel *model, const char *query)
{
	SPIPlanPtr	plan = prepare(model, query);
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	TupleDesc	desc = source->resultDesc;
	bool		found = false;
	bool		found_change = model->change_column == NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		for (int k = 0; k < i; k++)
			if (strcmp(name, NameStr(TupleDescAttr(desc, k)->attname)) == 0)
				INVALID_SYNC("Column \"%s\" is there twice.", name);
		found |= strcmp(name, model->primary_key) == 0;
		found_change |= model->change_column != NULL && strcmp(name, model->change_column) == 0;
	}
	if (!found_change)
		INVALID_SYNC("It has no column \"%s\", which is to be the change column.", model->change_column);
	if (!found)
		INVALID_SYNC("It has no column \"%s\", which is to be the primary key.", model->primary_key);
	for (int k = 0; model->columns != NULL && k < model->ncolumns;)
	{
		found = false;
		for (int i = 0; i < desc->natts; i++)
			found |= strcmp(model->columns[k], NameStr(TupleDescAttr(desc, i)->attname)) == 0;
		if (found)
			k++;
		else if (model->mapping != NULL)
			INVALID_SYNC("It has no column \"%s\", which the mapping uses.", model->columns[k]);
		else
			model->columns[k] = model->columns[--model->ncolumns];
	}
	SPI_freeplan(plan);
}

/* ---- the columns that count ---- */

typedef struct Columns
{
	char	  **names;
	int			n;
	bool		all;
} Columns;

static void
add_column(Columns *columns, const char *name, int len)
{
	for (int i = 0; i < columns->n; i++)
		if (strlen(columns->names[i]) == len && memcmp(columns->names[i], name, len) == 0)
			return;
	columns->names = columns->names ? repalloc(columns->names, sizeof(char *) * (columns->n + 1)) : palloc(sizeof(char *));
	columns->names[columns->n++] = pnstrdup(name, len);
}

/* A path that begins with "$", and the characters that end a name in it */
static void
add_path(Columns *columns, const char *path, const char *end)
{
	if (path[1] == '.')
		add_column(columns, path + 2, strcspn(path + 2, end));
	else if (path[1] == '[' && (path[2] == '"' || path[2] == '\''))
		add_column(columns, path + 3, strcspn(path + 3, path[2] == '"' ? "\"" : "'"));
	else
		columns->all = true;
}

static void
add_node(Columns *columns, const json_t *node)
{
	const char *key;
	json_t	   *member;
	size_t		i;

	if (json_is_string(node))
	{
		const char *text = json_string_value(node);

		if (*text == '$' && (text[1] == '.' || text[1] == '[' || text[1] == '\0'))
			add_path(columns, text, ".[");
		while ((text = strstr(text, "{{")) != NULL)
		{
			text += 2 + strspn(text + 2, " ");
			if (*text == '$')
				add_path(columns, text, ".[|} ");
		}
	}
	json_array_foreach(node, i, member)
		add_node(columns, member);
	json_object_foreach((json_t *) node, key, member)
		if (strcmp(key, "@literal") != 0)
			add_node(columns, member);
}

char **
cdi_model_columns(const json_t *mapping, int *n)
{
	Columns		columns = {0};

	add_node(&columns, mapping);
	*n = columns.n;
	if (columns.all)
		return NULL;
	return columns.names ? columns.names : palloc(sizeof(char *));
}

/* A subquery: data-modifying WITH is refused there by the parser. */
static char *
wrapped(const CdiModel *model, const char *query)
{
	StringInfoData payload;

	initStringInfo(&payload);
	if (model->columns == NULL)
		appendStringInfoString(&payload, "pg_catalog.to_jsonb(model)");
	else
	{
		appendStringInfoString(&payload, "(SELECT pg_catalog.to_jsonb(c) FROM (SELECT ");
		for (int i = 0; i < model->ncolumns; i++)
			appendStringInfo(&payload, "%smodel.%s", i ? ", " : "", quote_identifier(model->columns[i]));
		appendStringInfoString(&payload, ") AS c)");
	}
	return psprintf("SELECT model.%s::pg_catalog.text, %s FROM (%s\n) AS model%s%s",
					quote_identifier(model->primary_key), payload.data, query,
					model->condition ? " WHERE " : "", model->condition ? model->condition : "");
}

/* Without the members that are null and are not to be sent */
static Jsonb *
without_nulls(const CdiModel *model, Jsonb *row)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	JsonbValue	key = {.type = jbvNull};
	JsonbParseState *state = NULL;
	JsonbValue *result;

	if (!JB_ROOT_IS_OBJECT(row))
		return row;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(&row->root);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = part;
		else if (token == WJB_VALUE)
		{
			const char *policy = NULL;

			if (part.type == jbvNull)
			{
				policy = cdi_json_string(model->nulls, pnstrdup(key.val.string.val, key.val.string.len));
				if (policy == NULL)
					policy = cdi_json_string(model->nulls, "*");
				if (policy == NULL ? !model->send_nulls : strcmp(policy, "omit") == 0)
					continue;
			}
			(void) pushJsonbValue(&state, WJB_KEY, &key);
			(void) pushJsonbValue(&state, WJB_VALUE, &part);
		}
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(result);
}

/* What the destination is to have of a row */
static Jsonb *
wanted(const CdiModel *model, const char *primary_key, Jsonb *row)
{
	CdiSpec		spec = {0};
	CdiTarget	target = {.spec = &spec};
	CdiItem		item = {.operation = "",.primary_key = primary_key,.key = "",.row = row};
	CdiScope	scope = {.target = &target,.item = &item,.row = &row->root};

	if (model->mapping != NULL)
	{
		CdiValue	value = cdi_map_evaluate(&scope, model->mapping);

		row = cdi_value_jsonb(&value);
	}
	return without_nulls(model, row);
}

void
cdi_model_check(CdiModel *model)
{
	char	   *query = single_select(model);
	CdiCage		cage;

	enter(&cage, model);
	PG_TRY();
	{
		Portal		portal;
		SPIPlanPtr	plan;

		check_columns(model, query);
		plan = prepare(model, wrapped(model, query));
		/* Opening checks privileges; nothing is fetched. */
		portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
		SPI_cursor_close(portal);
		SPI_freeplan(plan);
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		ReThrowError(cdi_cage_leave_failed(&cage));
	}
	PG_END_TRY();
}

static void
hash_payload(Jsonb *payload, StringInfo text, pg_uuid_t *hash)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	/* the text, not the bytes of jsonb: those may differ by version */
	resetStringInfo(text);
	(void) JsonbToCString(text, &payload->root, VARSIZE(payload));
	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) text->data, text->len) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(context);
	memcpy(hash->data, digest, UUID_LEN);
}

static void
stream(const CdiModel *model, const char *query, CdiModelRows *rows)
{
	SPIPlanPtr	plan = prepare(model, wrapped(model, query));
	Portal		portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "cdi rows of a model",
												ALLOCSET_DEFAULT_SIZES);
	StringInfoData buffer;

	initStringInfo(&buffer);
	for (;;)
	{
		MemoryContext old;
		uint64		n;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		n = SPI_processed;
		if (n == 0)
			break;
		old = MemoryContextSwitchTo(batch);
		for (uint64 i = 0; i < n; i++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[i];
			bool		nulls[3] = {false};
			Datum		values[3];
			pg_uuid_t	hash;

			rows->queried++;
			values[0] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &nulls[0]);
			if (nulls[0] || VARSIZE_ANY_EXHDR(DatumGetTextPP(values[0])) > CDI_MAX_PRIMARY_KEY)
			{
				rows->invalid++;
				continue;
			}
			values[2] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &nulls[2]);
			values[2] = JsonbPGetDatum(wanted(model, TextDatumGetCString(values[0]), DatumGetJsonbP(values[2])));
			hash_payload(DatumGetJsonbP(values[2]), &buffer, &hash);
			values[1] = UUIDPGetDatum(&hash);
			tuplestore_putvalues(rows->store, rows->desc, values, nulls);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	MemoryContextDelete(batch);
	pfree(buffer.data);
}

/* In the snapshot of the rows themselves */
static char *
highest_value(const CdiModel *model, const char *query, MemoryContext context)
{
	char	   *statement = psprintf("SELECT pg_catalog.max(model.%s)::pg_catalog.text FROM (%s\n) AS model%s%s",
									 quote_identifier(model->change_column), query,
									 model->condition ? " WHERE " : "", model->condition ? model->condition : "");
	SPIPlanPtr	plan = prepare(model, statement);
	char	   *value;

	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not find the highest value of a model's change column");
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	SPI_freeplan(plan);
	return value ? MemoryContextStrdup(context, value) : NULL;
}

CdiModelRows *
cdi_model_run(CdiModel *model)
{
	MemoryContext caller = CurrentMemoryContext;
	CdiModelRows *rows = palloc0(sizeof(CdiModelRows));
	char	   *query = single_select(model);
	CdiCage		cage;

	rows->desc = CreateTemplateTupleDesc(3);
	TupleDescInitEntry(rows->desc, 1, "primary_key", TEXTOID, -1, 0);
	TupleDescInitEntry(rows->desc, 2, "hash", UUIDOID, -1, 0);
	TupleDescInitEntry(rows->desc, 3, "payload", JSONBOID, -1, 0);
	/* Made out here, its files outlive the subtransaction. */
	rows->store = tuplestore_begin_heap(true, false, work_mem);
	enter(&cage, model);
	PG_TRY();
	{
		check_columns(model, query);
		if (model->change_column != NULL)
			rows->change_value = highest_value(model, query, caller);
		stream(model, query, rows);
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		ReThrowError(cdi_cage_leave_failed(&cage));
	}
	PG_END_TRY();
	return rows;
}
