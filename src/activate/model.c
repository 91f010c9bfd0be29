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
#include "port/pg_bitutils.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/timestamp.h"

#include "base/cage.h"
#include "base/errors.h"

#define BATCH_ROWS 1000

#define INVALID_SYNC(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SYNC), \
			 errmsg("model of sync \"%s\" cannot be used", model->sync), \
			 errdetail(__VA_ARGS__)))

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
prepare(const CdiModel *model, const char *query, int nargs)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(query, nargs, (Oid[]) {UUIDOID, BYTEAOID, BYTEAOID}, CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		INVALID_SYNC("%s", SPI_result_code_string(SPI_result));
	return plan;
}

/* SHA-256, cut to 128 bits; the context can be used again */
static void
digest_text(pg_cryptohash_ctx *context, const StringInfo text, pg_uuid_t *hash)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) text->data, text->len) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256");
	memcpy(hash->data, digest, UUID_LEN);
}

/*
 * The hash of a row as it is, its primary key among it.  Its key changes with
 * anything else that the payload depends on.  A function takes at most 100
 * arguments: those beyond are hashed first.
 */
#define HASH_ARGUMENTS 64

typedef struct RowHash
{
	char	   *sql;			/* $1 is the key */
	pg_uuid_t	key;
	char	   *primary_key;	/* SQL of what buckets go by */
} RowHash;

static char *
row_hash(const CdiModel *model, TupleDesc desc, pg_uuid_t *key)
{
	StringInfoData rules;
	StringInfoData sql;
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	int			n = 0;
	int			depth = 1;

	initStringInfo(&rules);
	initStringInfo(&sql);
	appendStringInfo(&rules, "%s %s %s", model->hash_key, PG_MAJORVERSION, model->rules);
	appendStringInfoString(&sql, "cdi._row_hash($1");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(column->attname));
		bool		takes = cdi_row_hash_takes(column->atttypid);
		bool		used = model->columns == NULL || strcmp(NameStr(column->attname), model->primary_key) == 0;

		for (int k = 0; !used && k < model->ncolumns; k++)
			used = strcmp(NameStr(column->attname), model->columns[k]) == 0;
		if (!used)
			continue;
		appendStringInfo(&rules, " %s %u", name, takes ? column->atttypid : InvalidOid);
		if (++n % HASH_ARGUMENTS == 0)
		{
			appendStringInfoString(&sql, ", cdi._row_hash($1");
			depth++;
		}
		appendStringInfo(&sql, takes ? ", model.%s" : ", pg_catalog.to_jsonb(model.%s)", name);
	}
	while (depth-- > 0)
		appendStringInfoChar(&sql, ')');
	digest_text(context, &rules, key);
	pg_cryptohash_free(context);
	return sql.data;
}

/* Forgets columns that an action may use and this model has not. */
static void
check_columns(CdiModel *model, const char *query, RowHash *hash)
{
	SPIPlanPtr	plan = prepare(model, query, 0);
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
		if (strcmp(name, model->primary_key) == 0)
		{
			found = true;
			hash->primary_key = psprintf(cdi_key_takes(TupleDescAttr(desc, i)->atttypid) ? "model.%s" : "model.%s::pg_catalog.text",
										 quote_identifier(name));
		}
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
	hash->sql = model->hash_key ? row_hash(model, desc, &hash->key) : "NULL::pg_catalog.uuid";
	SPI_freeplan(plan);
}

/* A subquery: data-modifying WITH is refused there by the parser. */
static char *
wrapped(const CdiModel *model, const char *query, const char *columns)
{
	return psprintf("SELECT %s FROM (%s\n) AS model%s%s", columns, query,
					model->condition ? " WHERE " : "", model->condition ? model->condition : "");
}

static char *
rows_query(const CdiModel *model, const char *query, const RowHash *hash, const CdiModelRows *rows)
{
	const char *key = quote_identifier(model->primary_key);
	StringInfoData columns;
	char	   *statement;

	initStringInfo(&columns);
	appendStringInfo(&columns, "model.%s::pg_catalog.text, %s, ", key, hash->sql);
	if (rows->known != NULL)
		appendStringInfo(&columns, "CASE WHEN NOT cdi._is_known(model.%s::pg_catalog.text, %s, $3) THEN ", key, hash->sql);
	if (model->columns == NULL)
		appendStringInfoString(&columns, "pg_catalog.to_jsonb(model)");
	else
	{
		appendStringInfoString(&columns, "(SELECT pg_catalog.to_jsonb(c) FROM (SELECT ");
		for (int i = 0; i < model->ncolumns; i++)
			appendStringInfo(&columns, "%smodel.%s", i ? ", " : "", quote_identifier(model->columns[i]));
		appendStringInfoString(&columns, ") AS c)");
	}
	if (rows->known != NULL)
		appendStringInfoString(&columns, " END");
	statement = wrapped(model, query, columns.data);
	if (rows->differ != NULL)
		statement = psprintf("%s%s cdi._in_buckets(%s, $2)", statement, model->condition ? " AND" : " WHERE",
							 hash->primary_key);
	return statement;
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

	if (!JB_ROOT_IS_OBJECT(row) || (model->nulls == NULL && model->send_nulls))
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

typedef void (*Step) (const CdiModel *model, const char *query, const RowHash *hash, CdiModelRows *rows);

/* All steps of a model share its time. */
static void
take_step(CdiModel *model, Step step, CdiModelRows *rows)
{
	char	   *query = single_select(model);
	TimestampTz start = GetCurrentTimestamp();
	CdiCage		cage;

	cdi_cage_enter(&cage, model->run_as, model->search_path,
				   cdi_activate_model_timeout > 0 ? Max(cdi_activate_model_timeout - model->spent, 1) : 0);
	PG_TRY();
	{
		RowHash		hash;

		check_columns(model, query, &hash);
		step(model, query, &hash, rows);
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		ReThrowError(cdi_cage_leave_failed(&cage));
	}
	PG_END_TRY();
	model->spent += TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
}

static void
try_open(const CdiModel *model, const char *query, const RowHash *hash, CdiModelRows *rows)
{
	SPIPlanPtr	plan = prepare(model, rows_query(model, query, hash, rows), 0);

	/* Opening checks privileges; nothing is fetched. */
	SPI_cursor_close(SPI_cursor_open(NULL, plan, NULL, NULL, true));
	SPI_freeplan(plan);
}

void
cdi_model_check(CdiModel *model)
{
	CdiModelRows none = {0};

	take_step(model, try_open, &none);
}

typedef struct ModelReceiver
{
	DestReceiver pub;
	const CdiModel *model;
	CdiModelRows *rows;
	MemoryContext batch;
	StringInfoData text;
	pg_cryptohash_ctx *digest;
	int			n;
} ModelReceiver;

static bool
receive_row(TupleTableSlot *slot, DestReceiver *receiver)
{
	ModelReceiver *self = (ModelReceiver *) receiver;
	CdiModelRows *rows = self->rows;
	MemoryContext old = MemoryContextSwitchTo(self->batch);
	text	   *primary_key;
	bool		is_known;
	pg_uuid_t	hash;
	Jsonb	   *payload = NULL;

	slot_getallattrs(slot);
	primary_key = slot->tts_isnull[0] ? NULL : DatumGetTextPP(slot->tts_values[0]);
	is_known = slot->tts_isnull[2];
	if (primary_key == NULL || VARSIZE_ANY_EXHDR(primary_key) > CDI_MAX_PRIMARY_KEY)
		rows->invalid++;
	else if (rows->known != NULL && cdi_known_meet(rows->known, primary_key, is_known))
		rows->same++;
	else
	{
		if (!is_known)
		{
			payload = wanted(self->model, text_to_cstring(primary_key), DatumGetJsonbP(slot->tts_values[2]));
			/* the text, not the bytes of jsonb: those may differ by version */
			resetStringInfo(&self->text);
			(void) JsonbToCString(&self->text, &payload->root, VARSIZE(payload));
			digest_text(self->digest, &self->text, &hash);
		}
		tuplestore_putvalues(rows->store, rows->desc,
							 (Datum[]) {PointerGetDatum(primary_key), UUIDPGetDatum(&hash), JsonbPGetDatum(payload), slot->tts_values[1]},
							 (bool[]) {false, is_known, is_known, slot->tts_isnull[1]});
		rows->stored++;
	}
	MemoryContextSwitchTo(old);
	if (++self->n % BATCH_ROWS == 0)
		MemoryContextReset(self->batch);
	return true;
}

static void
start_receiving(DestReceiver *receiver, int operation, TupleDesc desc)
{
}

static void
stop_receiving(DestReceiver *receiver)
{
}

/* Its plan may be parallel.  What is large is no constant of it: it would be written out for each worker. */
static void
execute(const CdiModel *model, const char *query, const RowHash *hash, const CdiModelRows *rows, DestReceiver *receiver)
{
	bytea	   *known = rows->known ? cdi_known_rows(rows->known) : NULL;
	ParamListInfo params = makeParamList(3);
	SPIExecuteOptions options = {.params = params,.read_only = true,.dest = receiver};
	SPIPlanPtr	plan = prepare(model, query, params->numParams);
	int			result;

	params->params[0] = (ParamExternData) {UUIDPGetDatum(&hash->key), false, PARAM_FLAG_CONST, UUIDOID};
	params->params[1] = (ParamExternData) {PointerGetDatum(rows->differ), rows->differ == NULL, 0, BYTEAOID};
	params->params[2] = (ParamExternData) {PointerGetDatum(known), known == NULL, 0, BYTEAOID};
	result = SPI_execute_plan_extended(plan, &options);
	if (result < 0)
		elog(ERROR, "could not run a model: %s", SPI_result_code_string(result));
	SPI_freeplan(plan);
}

/* Counts the rows and finds out which buckets are not as they are expected to be. */
static void
compare_buckets(const CdiModel *model, const char *query, const RowHash *hash, CdiModelRows *rows)
{
	char	   *columns = psprintf("cdi._bucket_sums(%d, %s, %s)", model->expected->n, hash->primary_key, hash->sql);
	bool		isnull;
	Datum		sums;

	execute(model, wrapped(model, query, columns), hash, rows, NULL);
	sums = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
	{
		CdiBuckets *found = (CdiBuckets *) DatumGetByteaP(sums);
		MemoryContext old = MemoryContextSwitchTo(rows->context);

		rows->differ = cdi_buckets_that_differ(found, model->expected);
		MemoryContextSwitchTo(old);
		rows->as_expected = pg_popcount(VARDATA(rows->differ), VARSIZE(rows->differ) - VARHDRSZ) == 0;
		rows->summed = found->rows;
		rows->invalid = found->invalid;
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
stream(const CdiModel *model, const char *query, const RowHash *hash, CdiModelRows *rows)
{
	ModelReceiver receiver = {
		.pub = {.receiveSlot = receive_row,.rStartup = start_receiving,.rShutdown = stop_receiving,
			.rDestroy = stop_receiving,.mydest = DestNone},
		.model = model,.rows = rows
	};

	receiver.batch = AllocSetContextCreate(CurrentMemoryContext, "cdi rows of a model", ALLOCSET_DEFAULT_SIZES);
	receiver.digest = pg_cryptohash_create(PG_SHA256);
	initStringInfo(&receiver.text);
	execute(model, rows_query(model, query, hash, rows), hash, rows, &receiver.pub);
	MemoryContextDelete(receiver.batch);
	pg_cryptohash_free(receiver.digest);
	pfree(receiver.text.data);
}

/* In the snapshot of the rows themselves */
static char *
highest_value(const CdiModel *model, const char *query, const CdiModelRows *rows)
{
	SPIPlanPtr	plan = prepare(model, wrapped(model, query, psprintf("pg_catalog.max(model.%s)::pg_catalog.text",
																 quote_identifier(model->change_column))), 0);
	char	   *value;

	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not find the highest value of a model's change column");
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	SPI_freeplan(plan);
	return value ? MemoryContextStrdup(rows->context, value) : NULL;
}

static void
look(const CdiModel *model, const char *query, const RowHash *hash, CdiModelRows *rows)
{
	if (model->change_column != NULL)
		rows->change_value = highest_value(model, query, rows);
	if (model->expected != NULL)
		compare_buckets(model, query, hash, rows);
	if (rows->differ == NULL)
		stream(model, query, hash, rows);
}

CdiModelRows *
cdi_model_run(CdiModel *model)
{
	CdiModelRows *rows = palloc0(sizeof(CdiModelRows));

	rows->context = CurrentMemoryContext;
	rows->desc = CreateTemplateTupleDesc(4);
	TupleDescInitEntry(rows->desc, 1, "primary_key", TEXTOID, -1, 0);
	TupleDescInitEntry(rows->desc, 2, "hash", UUIDOID, -1, 0);
	TupleDescInitEntry(rows->desc, 3, "payload", JSONBOID, -1, 0);
	TupleDescInitEntry(rows->desc, 4, "row_hash", UUIDOID, -1, 0);
	/* Made out here, its files outlive the subtransaction. */
	rows->store = tuplestore_begin_heap(true, false, work_mem);
	take_step(model, look, rows);
	return rows;
}

void
cdi_model_read(CdiModel *model, CdiModelRows *rows)
{
	take_step(model, stream, rows);
	/* of all rows so far; another answer the second time is the query's own */
	rows->same += Max(rows->summed - rows->stored - rows->same, 0);
}
