/*
 * virtual_event.c
 *		Declaring virtual events.
 *
 * The predicate is checked as the caller, who needs no privilege for that;
 * then the declaration is written, and the view over all virtual events and
 * the index are made, as the owner of the data.
 */
#include "behaviour/behaviour.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

#include "base/errors.h"

enum
{
	ARG_NAME, ARG_PREDICATE, ARG_DESCRIPTION, ARG_INDEXED, DECLARE_ARGS,
	PARAM_CANONICAL = DECLARE_ARGS, PARAM_ROLE, DECLARE_PARAMS
};

/*
 * cdi._canonical_predicate(predicate text, alias text, indexed boolean)
 */
PG_FUNCTION_INFO_V1(cdi_canonical_predicate);
Datum
cdi_canonical_predicate(PG_FUNCTION_ARGS)
{
	char	   *predicate = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *alias = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_TEXT_P(cstring_to_text(cdi_predicate_canonical(predicate, alias, PG_GETARG_BOOL(2))));
}

/*
 * One declaration at a time; before cdi.events is opened, since one that drops
 * an index waits for whoever has.
 */
static void
begin_declaration(const char *function)
{
	cdi_prevent_in_recovery(function);
	cdi_require_storage();
	LockRelationOid(cdi_relation_oid("virtual_events"), ShareRowExclusiveLock);
}

/* Call an internal function that writes declarations, as the owner of the data. */
static int32
write_as_owner(const char *statement, int nparams, Oid *types, Datum *values, const char *nulls)
{
	CdiOwnerScope scope;
	bool		isnull;
	int32		result;

	SPI_connect();
	cdi_owner_enter(&scope);
	if (SPI_execute_with_args(statement, nparams, types, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not write the declaration of a virtual event");
	result = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cdi_owner_leave(&scope);
	SPI_finish();
	return result;
}

static Datum
declare(FunctionCallInfo fcinfo, const char *statement)
{
	Oid			types[DECLARE_PARAMS] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID, NAMEOID};
	Datum		values[DECLARE_PARAMS];
	char		nulls[DECLARE_PARAMS];
	NameData	role;

	begin_declaration("cdi_create_virtual_event");
	memset(nulls, ' ', sizeof(nulls));
	for (int i = 0; i < DECLARE_ARGS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	nulls[PARAM_CANONICAL] = nulls[ARG_PREDICATE];
	values[PARAM_CANONICAL] = (Datum) 0;
	if (!PG_ARGISNULL(ARG_PREDICATE))
		values[PARAM_CANONICAL] =
			CStringGetTextDatum(cdi_predicate_canonical(text_to_cstring(PG_GETARG_TEXT_PP(ARG_PREDICATE)), NULL,
														!PG_ARGISNULL(ARG_INDEXED) && PG_GETARG_BOOL(ARG_INDEXED)));
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));
	values[PARAM_ROLE] = NameGetDatum(&role);
	return Int32GetDatum(write_as_owner(statement, DECLARE_PARAMS, types, values, nulls));
}

/*
 * cdi_create_virtual_event(name text, predicate text, description text,
 *							indexed boolean)
 */
PG_FUNCTION_INFO_V1(cdi_create_virtual_event);
Datum
cdi_create_virtual_event(PG_FUNCTION_ARGS)
{
	(void) declare(fcinfo, "SELECT cdi._create_virtual_event($1, $2, $5, $3, $4, $6)");
	PG_RETURN_VOID();
}

/*
 * cdi_alter_virtual_event(name text, predicate text, description text,
 *						   indexed boolean)
 */
PG_FUNCTION_INFO_V1(cdi_alter_virtual_event);
Datum
cdi_alter_virtual_event(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(declare(fcinfo, "SELECT cdi._alter_virtual_event($1, $2, $5, $3, $4, $6)"));
}

/*
 * cdi_drop_virtual_event(name text)
 */
PG_FUNCTION_INFO_V1(cdi_drop_virtual_event);
Datum
cdi_drop_virtual_event(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {PG_GETARG_DATUM(0)};
	char		nulls[1] = {PG_ARGISNULL(0) ? 'n' : ' '};

	begin_declaration("cdi_drop_virtual_event");
	(void) write_as_owner("SELECT cdi._drop_virtual_event($1)", 1, types, values, nulls);
	PG_RETURN_VOID();
}
