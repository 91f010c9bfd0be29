/*
 * person.c
 *		Person of an identifier, as the map has it.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "identity/identity.h"

const CdiIdentifierType *
cdi_identifier_type(const char *name)
{
	int			count;
	const CdiIdentifierType *types = cdi_identifier_types(&count);

	for (int i = 0; i < count; i++)
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("identifier type \"%s\" does not exist", name),
			 errhint("cdi.identifier_types lists the types that there are.")));
	return NULL;				/* keep the compiler quiet */
}

bool
cdi_identifier_lookup(const char *name, CdiText value, pg_uuid_t *key)
{
	const CdiIdentifierType *type = cdi_identifier_type(name);

	value = cdi_identifier_normalise(type->name, value);
	if (value.data == NULL || cdi_identifier_blocked(type, value))
		return false;
	cdi_keys_load();
	cdi_identifier_key(type->name, value, key);
	return true;
}

PG_FUNCTION_INFO_V1(cdi_person);

Datum
cdi_person(PG_FUNCTION_ARGS)
{
	char	   *type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiText		value = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};
	pg_uuid_t	key;
	pg_uuid_t  *person = palloc(sizeof(pg_uuid_t));
	CdiOwnerScope scope;
	bool		usable;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	usable = cdi_identifier_lookup(type, value, &key);
	SPI_finish();
	cdi_owner_leave(&scope);

	if (!usable)
		PG_RETURN_NULL();
	if (!cdi_map_probe(&key, GetActiveSnapshot(), person))
		*person = key;
	PG_RETURN_UUID_P(person);
}

/* Key of the identifier in the cdi_history that was folded; its person then */
static void
person_in(CdiGraph *graph, const pg_uuid_t *key, pg_uuid_t *person)
{
	uint32		node;

	cdi_graph_add(graph, key, 1, &node);
	*person = cdi_graph_node(graph, cdi_graph_find(graph, node))->key;
}

PG_FUNCTION_INFO_V1(cdi_person_at);

/*
 * The part of the graph that hangs together with the identifier is folded
 * again, with the links that had happened and what had been revoked by then.
 */
Datum
cdi_person_at(PG_FUNCTION_ARGS)
{
	char	   *type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *argument = PG_GETARG_TEXT_PP(1);
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(2);
	CdiText		value = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};
	pg_uuid_t	key;
	pg_uuid_t  *person = palloc(sizeof(pg_uuid_t));
	CdiOwnerScope scope;
	bool		usable;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	usable = cdi_identifier_lookup(type, value, &key);
	if (usable)
	{
		CdiGraph   *graph = cdi_graph_create(CurrentMemoryContext);
		CdiHistory *history = cdi_history_open_closure(&key, 1, at);

		while (cdi_history_fold(history, graph))
			 /* all there is */ ;
		person_in(graph, &key, person);
		cdi_history_close(history);
		cdi_graph_destroy(graph);
	}
	SPI_finish();
	cdi_owner_leave(&scope);

	if (!usable)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(person);
}

PG_FUNCTION_INFO_V1(cdi_person_of);

Datum
cdi_person_of(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *key = PG_GETARG_UUID_P(0);
	pg_uuid_t  *person = palloc(sizeof(pg_uuid_t));

	cdi_require_storage();
	if (!cdi_map_probe(key, GetActiveSnapshot(), person))
		*person = *key;
	PG_RETURN_UUID_P(person);
}
