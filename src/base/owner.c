/*
 * owner.c
 *		Who runs what, and whether it can run at all.
 */
#include "base/base.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/errors.h"

static Oid
schema_owner(void)
{
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum("cdi"));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NOT_INITIALISED),
				 errmsg("extension \"cdi\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION cdi, then SELECT cdi_init().")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
cdi_owner_enter(CdiOwnerScope *scope)
{
	GetUserIdAndSecContext(&scope->save_userid, &scope->save_sec_context);
	SetUserIdAndSecContext(schema_owner(),
						   scope->save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	scope->save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

void
cdi_owner_leave(CdiOwnerScope *scope)
{
	AtEOXact_GUC(true, scope->save_nestlevel);
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
}

Oid
cdi_relation_oid(const char *name)
{
	Oid			schema = get_namespace_oid("cdi", true);

	if (!OidIsValid(schema))
		return InvalidOid;
	return get_relname_relid(name, schema);
}

char *
cdi_extension_schema(void)
{
	Oid			extension = get_extension_oid("cdi", false);
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *schema = NULL;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(relation, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = get_namespace_name(((Form_pg_extension) GETSTRUCT(tuple))->extnamespace);
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	if (schema == NULL)
		elog(ERROR, "extension cdi has no schema");
	return schema;
}

TriggerData *
cdi_trigger_of(FunctionCallInfo fcinfo, const char *relation)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		(relation != NULL && RelationGetRelid(trigger->tg_relation) != cdi_relation_oid(relation)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 relation ? errmsg("this function is the trigger of cdi.%s", relation) :
				 errmsg("this function is a trigger of tables of cdi")));
	return trigger;
}

void
cdi_require_storage(void)
{
	if (!OidIsValid(cdi_relation_oid("storage")))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NOT_INITIALISED),
				 errmsg("cdi has no storage in this database yet"),
				 errhint("Run SELECT cdi_init() once, as a superuser.")));
}

void
cdi_prevent_in_recovery(const char *function_name)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s() during recovery", function_name),
				 errhint("Call it on the primary.")));
}
