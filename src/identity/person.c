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
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiText		value = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};
	pg_uuid_t	key;
	pg_uuid_t  *person = palloc(sizeof(pg_uuid_t));
	CdiOwnerScope scope;
	bool		usable;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	usable = cdi_identifier_key_of(cdi_identifier_type(name), value, &key);
	SPI_finish();
	cdi_owner_leave(&scope);

	if (!usable)
		PG_RETURN_NULL();
	if (!cdi_map_probe(&key, GetActiveSnapshot(), person))
		*person = key;
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
