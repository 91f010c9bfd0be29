/*
 * utility.c
 *		Commands that workers would be in the way of, or have to know about.
 *
 * DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE ... RENAME and
 * ... SET TABLESPACE fail after five seconds where anybody is connected.  They
 * stop the workers of that database first; the launcher looks again when the
 * transaction has ended, and starts them where the database still exists.
 * Only who could execute the command can stop workers: what the command checks
 * is checked before.
 *
 * The rest is news: ALTER DATABASE or ROLE ... SET for the launcher, DROP
 * EXTENSION for the workers of this database, and the end of a prepared
 * transaction, whose locks no callback of its own releases.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "worker/slot.h"

static ProcessUtility_hook_type previous_hook = NULL;

static bool
owns_database(Oid oid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, oid, GetUserId());
#else
	return pg_database_ownercheck(oid, GetUserId());
#endif
}

static bool
is_template(Oid oid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

static const char *
option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *element = lfirst_node(DefElem, cell);

		if (strcmp(element->defname, name) == 0 && element->arg != NULL)
			return defGetString(element);
	}
	return NULL;
}

/* As have_createdb_privilege(), which minor versions up to 15.18 do not have. */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		result;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return result;
}

/* Database that must be without workers for the command, or InvalidOid. */
static Oid
database_to_empty(Node *command)
{
	const char *name = NULL;
	bool		allowed = false;
	Oid			oid = InvalidOid;

	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			name = IsTransactionBlock() ? NULL : ((DropdbStmt *) command)->dbname;
			break;
		case T_CreatedbStmt:
			name = IsTransactionBlock() ? NULL :
				option(((CreatedbStmt *) command)->options, "template");
			break;
		case T_AlterDatabaseStmt:
			if (option(((AlterDatabaseStmt *) command)->options, "tablespace") != NULL &&
				!IsTransactionBlock())
				name = ((AlterDatabaseStmt *) command)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) command)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) command)->subname;
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	oid = get_database_oid(name, true);
	if (!OidIsValid(oid))
		return InvalidOid;

	if (IsA(command, CreatedbStmt))
		allowed = may_create_databases() && (is_template(oid) || owns_database(oid));
	else if (IsA(command, RenameStmt))
		allowed = may_create_databases() && owns_database(oid);
	else
		allowed = owns_database(oid);
	/* these three fail in the database itself; a copy of it may be made */
	if (oid == MyDatabaseId && !IsA(command, CreatedbStmt))
		allowed = false;
	return allowed ? oid : InvalidOid;
}

/* Tell those whom the command, when it is committed, concerns. */
static void
announce(Node *command)
{
	switch (nodeTag(command))
	{
		case T_AlterDatabaseSetStmt:
		case T_AlterRoleSetStmt:
		case T_AlterDatabaseStmt:
		case T_DropdbStmt:
			cdi_worker_wake_at_commit(CDI_WAKE_LAUNCHER);
			break;
		case T_DropStmt:
			if (((DropStmt *) command)->removeType == OBJECT_EXTENSION ||
				((DropStmt *) command)->removeType == OBJECT_SCHEMA)
				cdi_wake_check_at_commit();
			break;
		case T_DropOwnedStmt:
			cdi_wake_check_at_commit();
			break;
		case T_TransactionStmt:
			if (((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED ||
				((TransactionStmt *) command)->kind == TRANS_STMT_ROLLBACK_PREPARED)
				cdi_wake_now(CDI_WAKE_KEEPER | CDI_WAKE_COLLECTOR | CDI_WAKE_PUSH);
			break;
		default:
			break;
	}
}

static void
process_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *destination,
				QueryCompletion *completion)
{
	/* The tree may be changed, or live in a transaction that ends. */
	Node	   *command = statement->utilityStmt;
	bool		ours = cdi_worker_shared != NULL && IsTransactionState();
	NodeTag		tag = nodeTag(command);
	Node	   *copy = NULL;

	if (ours)
	{
		Oid			database = database_to_empty(command);

		if (OidIsValid(database))
			cdi_wake_hold(database);
		if (tag == T_TransactionStmt)
		{
			TransactionStmt *transaction = palloc(sizeof(TransactionStmt));

			*transaction = *(TransactionStmt *) command;
			copy = (Node *) transaction;
		}
		else
			copy = command;
	}
	if (previous_hook)
		previous_hook(statement, query, read_only_tree, context, params,
					  environment, destination, completion);
	else
		standard_ProcessUtility(statement, query, read_only_tree, context, params,
								environment, destination, completion);
	if (ours && IsTransactionState())
		announce(copy);
}

void
cdi_utility_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
