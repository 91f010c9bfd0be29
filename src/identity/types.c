/*
 * types.c
 *		Kinds of identifier, cached from cdi.identifier_types.
 *
 * The cache is dropped by a relation-cache invalidation, which a trigger of
 * the table sends.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "identity/identity.h"

/* One that also fits into a refusal's row whole */
#define CDI_MAX_TYPE_NAME 63

typedef struct CdiPattern
{
	regex_t		regex;
} CdiPattern;

static MemoryContext cache_context = NULL;
static CdiIdentifierType *types = NULL;
static int	ntypes = 0;
static CdiPathTree paths;
static int	external_ids_slot;
static Oid	cached_relation = InvalidOid;
static uint64 generation = 0;
static bool loaded = false;
static bool invalidated = false;	/* since the last load() began */

static void
invalidate(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == cached_relation)
	{
		loaded = false;
		invalidated = true;
	}
}

static CdiText
copy_text(Datum datum)
{
	text	   *value = DatumGetTextPP(datum);
	CdiText		copy;

	copy.len = VARSIZE_ANY_EXHDR(value);
	copy.data = pnstrdup(VARDATA_ANY(value), copy.len);
	return copy;
}

static CdiGraphKind
graph_kind(const char *name)
{
	return strcmp(name, "account") == 0 ? CDI_GRAPH_ACCOUNT :
		strcmp(name, "household") == 0 ? CDI_GRAPH_HOUSEHOLD : CDI_GRAPH_PERSON;
}

/* Elements of a text[] column, in the current context */
static CdiText *
text_elements(HeapTuple tuple, TupleDesc desc, int column, int *count)
{
	bool		isnull;
	Datum		array = SPI_getbinval(tuple, desc, column, &isnull);
	Datum	   *elements;
	CdiText    *texts;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, count);
	texts = palloc(sizeof(CdiText) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		texts[i] = copy_text(elements[i]);
	return texts;
}

/*
 * The server's regular expressions.  Version 15 keeps them in memory of its
 * own, which is freed with the cache.
 */
static void
free_pattern(void *pattern)
{
	pg_regfree(&((CdiPattern *) pattern)->regex);
}

/* Returns NULL, or what is wrong with the expression. */
static const char *
compile_pattern(CdiText text, CdiPattern *pattern)
{
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (text.len + 1));
	int			len = pg_mb2wchar_with_len(text.data, wide, text.len);
	int			code = pg_regcomp(&pattern->regex, wide, len, REG_ADVANCED | REG_NOSUB, DEFAULT_COLLATION_OID);
	char		message[100];

	pfree(wide);
	if (code == REG_OKAY)
		return NULL;
	pg_regerror(code, &pattern->regex, message, sizeof(message));
	return pstrdup(message);
}

static bool
matches(CdiPattern *pattern, CdiText value)
{
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (value.len + 1));
	int			len = pg_mb2wchar_with_len(value.data, wide, value.len);
	int			code = pg_regexec(&pattern->regex, wide, len, 0, NULL, 0, NULL, 0);

	pfree(wide);
	/* version 15 gives up where the statement is to be cancelled */
	CHECK_FOR_INTERRUPTS();
	if (code != REG_OKAY && code != REG_NOMATCH)
	{
		char		message[100];

		pg_regerror(code, &pattern->regex, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("regular expression failed: %s", message)));
	}
	return code == REG_OKAY;
}

/*
 * What the trigger of the table should have refused does not keep events from
 * being stored.
 */
static void
warn(const char *type, const char *what, CdiText value, const char *problem)
{
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s \"%.*s\" of identifier type \"%s\" cannot be used", what, value.len, value.data, type),
			 errdetail("%s", problem)));
}

static void
load_type(CdiIdentifierType *type, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value;
	CdiText    *texts;
	CdiText		spec;
	const char *problem;
	int			n;

	type->name = TextDatumGetCString(SPI_getbinval(tuple, desc, 1, &isnull));
	type->type_id = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull));
	type->graph = graph_kind(SPI_getvalue(tuple, desc, 4));
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	type->max_per_person = isnull ? 0 : DatumGetInt32(value);
	value = SPI_getbinval(tuple, desc, 6, &isnull);
	type->limit_window = isnull ? 0 : DatumGetInt64(value);
	type->blocked = text_elements(tuple, desc, 2, &type->nblocked);

	texts = text_elements(tuple, desc, 7, &n);
	type->paths = palloc(sizeof(CdiTypePath) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		problem = cdi_path_add(&paths, texts[i].data, &type->paths[type->npaths]);
		if (problem != NULL)
			warn(type->name, "path", texts[i], problem);
		else
			type->npaths++;
	}

	spec = copy_text(SPI_getbinval(tuple, desc, 8, &isnull));
	problem = cdi_normaliser_parse(spec.data, SPI_getvalue(tuple, desc, 9), &type->normaliser);
	if (problem != NULL)
		warn(type->name, "normaliser", spec, problem);

	texts = text_elements(tuple, desc, 10, &n);
	type->patterns = palloc(sizeof(CdiPattern) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		CdiPattern *pattern = &type->patterns[type->npatterns];

		problem = compile_pattern(texts[i], pattern);
		if (problem == NULL)
		{
			MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

			callback->func = free_pattern;
			callback->arg = pattern;
			MemoryContextRegisterResetCallback(cache_context, callback);
			type->npatterns++;
		}
		else
			warn(type->name, "blocked pattern", texts[i], problem);
	}
}

static void
load(void)
{
	static CdiPlan plan = {
		.query = "SELECT name, blocked, type_id::integer, graph, max_per_person,"
		" extract(epoch FROM limit_window)::bigint, paths, normaliser, normaliser_role::text, blocked_patterns"
		" FROM cdi.identifier_types ORDER BY priority, name COLLATE \"C\""
	};
	/* before ALTER EXTENSION UPDATE: events go on being stored */
	static CdiPlan plan_1 = {
		.query = "SELECT name, blocked, 0, 'person', NULL::integer, NULL::bigint,"
		" CASE name WHEN 'user_id' THEN '{userId}' WHEN 'anonymous_id' THEN '{anonymousId}'"
		" WHEN 'email' THEN '{traits.email,context.traits.email}' ELSE '{}' END::text[],"
		" CASE name WHEN 'email' THEN 'email' ELSE 'trim' END, NULL::text, '{}'::text[]"
		" FROM cdi.identifier_types ORDER BY priority"
	};
	CdiTypePath external_ids;
	MemoryContext old;

	cdi_invalidation_register(invalidate);
	if (cache_context != NULL)
		/* what it holds may be in use, by a function that a normaliser calls */
		MemoryContextSetParent(cache_context, TopTransactionContext);
	cache_context = AllocSetContextCreate(CacheMemoryContext, "cdi identifier types",
										  ALLOCSET_SMALL_SIZES);
	types = NULL;
	ntypes = 0;
	cached_relation = cdi_relation_oid("identifier_types");
	loaded = invalidated = false;
	/* a level of its own: the caller may be going through rows that it has read */
	SPI_connect();
	cdi_plan_execute_latest(get_attnum(cached_relation, "type_id") != InvalidAttrNumber ? &plan : &plan_1);
	old = MemoryContextSwitchTo(cache_context);
	cdi_path_tree_init(&paths);
	(void) cdi_path_add(&paths, "context.externalIds", &external_ids);
	external_ids_slot = external_ids.slot;
	types = palloc0(sizeof(CdiIdentifierType) * Max(SPI_processed, 1));
	for (int i = 0; i < SPI_processed; i++)
		load_type(&types[i], SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	ntypes = SPI_processed;
	MemoryContextSwitchTo(old);
	SPI_finish();
	generation++;
	loaded = !invalidated;
}

const CdiIdentifierType *
cdi_identifier_types(int *count)
{
	if (!loaded)
		load();
	*count = ntypes;
	return types;
}

uint64
cdi_identifier_types_generation(void)
{
	return generation;
}

const CdiPathTree *
cdi_identifier_paths(int *external_ids)
{
	*external_ids = external_ids_slot;
	return &paths;
}

const CdiIdentifierType *
cdi_identifier_type(const char *name)
{
	int			count;
	const CdiIdentifierType *all = cdi_identifier_types(&count);

	for (int i = 0; i < count; i++)
		if (strcmp(all[i].name, name) == 0)
			return &all[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("identifier type \"%s\" does not exist", name),
			 errhint("cdi.identifier_types lists the types that there are.")));
	return NULL;				/* keep the compiler quiet */
}

bool
cdi_identifier_blocked(const CdiIdentifierType *type, CdiText value)
{
	int			i;

	/* nothing but zeros and dashes, as in a zeroed advertising id */
	for (i = 0; i < value.len && (value.data[i] == '0' || value.data[i] == '-'); i++)
		 /* keep looking */ ;
	if (i == value.len)
		return true;
	for (i = 0; i < type->nblocked; i++)
		if (type->blocked[i].len == value.len &&
			pg_strncasecmp(type->blocked[i].data, value.data, value.len) == 0)
			return true;
	for (i = 0; i < type->npatterns; i++)
		if (matches(&type->patterns[i], value))
			return true;
	return false;
}

PG_FUNCTION_INFO_V1(cdi_is_blocked);

/* False for a type that is no more. */
Datum
cdi_is_blocked(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiText		value = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};

	if (!loaded)
		load();
	for (int i = 0; i < ntypes; i++)
		if (strlen(types[i].name) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(types[i].name, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0)
			PG_RETURN_BOOL(cdi_identifier_blocked(&types[i], value));
	PG_RETURN_BOOL(false);
}

/*
 * Trigger of cdi.identifier_types: what could not be used is not written.
 *
 * Whether a role or a function exists is not asked: a restore may bring them
 * later.  Who names a role must be a member of it, for what he names runs as
 * that role.
 */

/* Column of the new row, or of the old one; NULL of a null */
static char *
column_of(TriggerData *trigger, HeapTuple row, const char *name)
{
	return SPI_getvalue(row, trigger->tg_relation->rd_att,
						SPI_fnumber(trigger->tg_relation->rd_att, name));
}

static void
refuse(const char *type, const char *what, const char *value, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s \"%s\" of identifier type \"%s\" cannot be used", what, value, type),
			 problem ? errdetail("%s", problem) : 0));
}

static void
check_elements(TriggerData *trigger, HeapTuple row, const char *type, const char *column)
{
	TupleDesc	desc = trigger->tg_relation->rd_att;
	bool		is_path = strcmp(column, "paths") == 0;
	CdiPathTree tree;
	CdiText    *texts;
	int			n;

	cdi_path_tree_init(&tree);
	texts = text_elements(row, desc, SPI_fnumber(desc, column), &n);
	for (int i = 0; i < n; i++)
	{
		CdiTypePath path;
		CdiPattern	pattern;
		const char *problem = is_path ? cdi_path_add(&tree, texts[i].data, &path) :
			compile_pattern(texts[i], &pattern);

		if (problem != NULL)
			refuse(type, is_path ? "path" : "blocked pattern", texts[i].data, problem);
		if (!is_path)
			pg_regfree(&pattern.regex);
	}
}

static bool
same(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void
check_role(const char *type, const char *role)
{
	Oid			oid = get_role_oid(role, true);

	if (!superuser() && (!OidIsValid(oid) || !is_member_of_role(GetUserId(), oid)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\"", role),
				 errdetail("The normaliser of identifier type \"%s\" would run as that role.", type)));
}

PG_FUNCTION_INFO_V1(cdi_identifier_type_check);

Datum
cdi_identifier_type_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = cdi_trigger_of(fcinfo, "identifier_types");
	bool		update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	old = trigger->tg_trigtuple;
	HeapTuple	row = update ? trigger->tg_newtuple : old;
	char	   *name = column_of(trigger, row, "name");
	char	   *spec = column_of(trigger, row, "normaliser");
	char	   *role = column_of(trigger, row, "normaliser_role");
	CdiNormaliser normaliser;
	const char *problem;

	/* Constraints come after triggers: what they refuse is left to them. */
	if (name == NULL || spec == NULL || column_of(trigger, row, "paths") == NULL ||
		column_of(trigger, row, "blocked_patterns") == NULL)
		return PointerGetDatum(row);
	if (update)
		for (const char *const *fixed = (const char *const[]) {"name", "type_id", "graph", NULL}; *fixed; fixed++)
			if (!same(column_of(trigger, old, *fixed), column_of(trigger, row, *fixed)))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("%s of identifier type \"%s\" cannot be changed", *fixed,
								column_of(trigger, old, "name")),
						 errdetail("Keys of identifiers rest on it."),
						 errhint("Make another type.")));
	if (strlen(name) == 0 || strlen(name) > CDI_MAX_TYPE_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an identifier type must have 1 to %d bytes", CDI_MAX_TYPE_NAME)));
	check_elements(trigger, row, name, "paths");
	check_elements(trigger, row, name, "blocked_patterns");
	problem = cdi_normaliser_parse(spec, role, &normaliser);
	if (problem != NULL)
		refuse(name, "normaliser", spec, problem);

	if (normaliser.kind != CDI_NORMALISE_FUNCTION || role == NULL)
	{
		/* The role is that of a function, and by default the one who names it. */
		const char *default_role = normaliser.kind == CDI_NORMALISE_FUNCTION ?
			GetUserNameFromId(GetUserId(), false) : NULL;
		int			column = SPI_fnumber(trigger->tg_relation->rd_att, "normaliser_role");
		Datum		value = default_role == NULL ? (Datum) 0 :
			DirectFunctionCall1(namein, CStringGetDatum(default_role));
		bool		isnull = default_role == NULL;

		if (!same(role, default_role))
			row = heap_modify_tuple_by_cols(row, trigger->tg_relation->rd_att, 1, &column, &value, &isnull);
	}
	else if (!update || !same(role, column_of(trigger, old, "normaliser_role")) ||
			 !same(spec, column_of(trigger, old, "normaliser")))
		check_role(name, role);
	return PointerGetDatum(row);
}
