/*
 * person.c
 *		Person of an identifier, as the map has it.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "identity/identity.h"

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
	usable = cdi_identifier_key_of(cdi_identifier_type(type), value, &key);
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
	usable = cdi_identifier_key_of(cdi_identifier_type(type), value, &key);
	if (usable)
	{
		CdiGraph   *graph = cdi_graph_create(CurrentMemoryContext);
		CdiHistory *history = cdi_history_open_closure(&key, 1, at, PG_INT64_MAX);

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
