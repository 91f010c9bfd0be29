/*
 * wish.c
 *		Which databases want workers, read without connecting to any.
 *
 * A database wants workers where the settings that a worker would load there
 * have cdi.enabled on: the server's own, overridden by those of all databases,
 * of the database, and of the role that workers connect as.
 *
 * pg_database can be opened like any table: the relation cache knows it from
 * the start.  pg_db_role_setting is a shared catalog, too, but its descriptor
 * would have to be read from some database's pg_class, and the launcher has
 * none.  Its place is in the shared relation map and its three columns have
 * never changed, so its pages are read directly, with a snapshot and under the
 * lock that keeps VACUUM FULL away.  What cannot be read in that way, a value
 * moved to the TOAST table, is left to the worker: it starts, sees its
 * settings, and ends where it is not wanted.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_tablespace_d.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/relmapper.h"
#include "utils/snapmgr.h"

#include "worker/slot.h"

/* A row of pg_db_role_setting that a worker will load */
typedef struct Setting
{
	Oid			database;
	int			level;			/* higher ones override */
	bool		unreadable;
	int			count;
	char	  **items;			/* "name=value" */
} Setting;

#define LEVELS	4

/* Level of a row for a worker, -1 where it is not for it */
static int
setting_level(Oid database, Oid role)
{
	if (role != InvalidOid && role != BOOTSTRAP_SUPERUSERID)
		return -1;
	return (OidIsValid(role) ? 2 : 0) + (OidIsValid(database) ? 1 : 0);
}

/* The built-in types lack oid; an integer is stored in the same way. */
static TupleDesc
setting_descriptor(void)
{
	TupleDesc	result = CreateTemplateTupleDesc(3);

	TupleDescInitBuiltinEntry(result, 1, "setdatabase", INT4OID, -1, 0);
	TupleDescInitBuiltinEntry(result, 2, "setrole", INT4OID, -1, 0);
	TupleDescInitBuiltinEntry(result, 3, "setconfig", TEXTARRAYOID, -1, 1);
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(result);
#endif
	return result;
}

static List *
add_setting(List *settings, HeapTuple tuple, TupleDesc descriptor)
{
	Datum		values[3];
	bool		nulls[3];
	Datum	   *items;
	Setting    *setting;
	int			level;

	heap_deform_tuple(tuple, descriptor, values, nulls);
	level = setting_level(DatumGetObjectId(values[0]), DatumGetObjectId(values[1]));
	if (level < 0 || nulls[2])
		return settings;

	setting = palloc0(sizeof(Setting));
	setting->database = DatumGetObjectId(values[0]);
	setting->level = level;
	setting->unreadable = VARATT_IS_EXTERNAL(DatumGetPointer(values[2]));
	if (!setting->unreadable)
	{
		deconstruct_array(DatumGetArrayTypePCopy(values[2]), TEXTOID, -1, false, TYPALIGN_INT,
						  &items, NULL, &setting->count);
		setting->items = palloc(sizeof(char *) * Max(setting->count, 1));
		for (int i = 0; i < setting->count; i++)
			setting->items[i] = TextDatumGetCString(items[i]);
	}
	return lappend(settings, setting);
}

static List *
read_page(List *settings, Buffer buffer, Snapshot snapshot, TupleDesc descriptor)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	for (OffsetNumber offset = FirstOffsetNumber; offset <= last;
		 offset = OffsetNumberNext(offset))
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = DbRoleSettingRelationId;
		ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(buffer), offset);
		if (HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
			settings = add_setting(settings, &tuple, descriptor);
	}
	return settings;
}

static List *
read_settings(void)
{
	TupleDesc	descriptor = setting_descriptor();
	Snapshot	snapshot;
	List	   *result = NIL;
	BlockNumber blocks;
#if PG_VERSION_NUM >= 160000
	RelFileLocator file = {.spcOid = GLOBALTABLESPACE_OID};
#else
	RelFileNode file = {.spcNode = GLOBALTABLESPACE_OID};
#endif

	LockRelationOid(DbRoleSettingRelationId, AccessShareLock);
#if PG_VERSION_NUM >= 160000
	file.relNumber = RelationMapOidToFilenumber(DbRoleSettingRelationId, true);
#else
	file.relNode = RelationMapOidToFilenode(DbRoleSettingRelationId, true);
#endif
#if PG_VERSION_NUM >= 170000
	blocks = smgrnblocks(smgropen(file, INVALID_PROC_NUMBER), MAIN_FORKNUM);
#else
	blocks = smgrnblocks(smgropen(file, InvalidBackendId), MAIN_FORKNUM);
#endif
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (BlockNumber block = 0; block < blocks; block++)
	{
		Buffer		buffer = ReadBufferWithoutRelcache(file, MAIN_FORKNUM, block,
													   RBM_NORMAL, NULL, true);

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		result = read_page(result, buffer, snapshot, descriptor);
		UnlockReleaseBuffer(buffer);
	}
	UnregisterSnapshot(snapshot);
	UnlockRelationOid(DbRoleSettingRelationId, AccessShareLock);
	return result;
}

static void
apply_setting(CdiWish *wish, const Setting *setting)
{
	if (setting->unreadable)
	{
		/* one collector; their number would have to be known before */
		wish->enabled = true;
		wish->port = Max(wish->port, 1);
	}
	for (int i = 0; i < setting->count; i++)
	{
		const char *item = setting->items[i];
		const char *value = strchr(item, '=');

		if (value == NULL || pg_strncasecmp(item, "cdi.", 4) != 0)
			continue;
		value++;
		/* The number of collectors concerns none of them. */
		if (pg_strncasecmp(item, "cdi.collector_workers=", 22) == 0)
		{
			int			workers;

			if (parse_int(value, &workers, 0, NULL) && workers >= 1 && workers <= CDI_MAX_COLLECTORS)
				wish->collectors = workers;
			continue;
		}
		wish->settings = hash_combine(wish->settings,
									  hash_bytes((const unsigned char *) item, strlen(item)));
		/* A value that does not parse is one that the worker will ignore. */
		if (pg_strncasecmp(item, "cdi.enabled=", 12) == 0)
			(void) parse_bool(value, &wish->enabled);
		else if (pg_strncasecmp(item, "cdi.collector_port=", 19) == 0)
			(void) parse_int(value, &wish->port, 0, NULL);
	}
}

static CdiWish
make_wish(Form_pg_database form, List *settings)
{
	CdiWish		wish = {
		.oid = form->oid,
		.name = form->datname,
		.enabled = cdi_enabled,
		.port = cdi_collector_port,
		.collectors = cdi_collector_workers
	};
	ListCell   *cell;

	for (int level = 0; level < LEVELS; level++)
		foreach(cell, settings)
		{
			Setting    *setting = lfirst(cell);

			if (setting->level == level &&
				(setting->database == form->oid || !OidIsValid(setting->database)))
				apply_setting(&wish, setting);
		}
	return wish;
}

List *
cdi_wish_read(List **databases)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	List	   *settings;
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "cdi: look which databases want workers");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	settings = read_settings();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		CdiWish		wish = make_wish(form, settings);
		MemoryContext old;

		old = MemoryContextSwitchTo(caller);
		*databases = lappend_oid(*databases, form->oid);
		MemoryContextSwitchTo(old);

		/* A connection limit below -1 marks a database that DROP left behind. */
		if (!wish.enabled || form->datistemplate || !form->datallowconn || form->datconnlimit < -1)
			continue;
		old = MemoryContextSwitchTo(caller);
		result = lappend(result, memcpy(palloc(sizeof(CdiWish)), &wish, sizeof(CdiWish)));
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return result;
}
