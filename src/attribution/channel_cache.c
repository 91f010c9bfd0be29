/*
 * channel_cache.c
 *		Channel rules, compiled once per backend and group.
 *
 * The cache is told by relation-cache invalidations, which triggers of the two
 * tables send.  A statement that is under way keeps the rules it has pinned in
 * memory, and asks anew when they are stale.
 */
#include "attribution/channels.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/errors.h"

/* Columns of cdi.channel_rules */
enum
{
	RULE_GROUP = 1, RULE_VERSION, RULE_NUMBER, RULE_CHANNEL, RULE_CONDITION
};

/* Sets of rules that are kept; more than anyone compares at a time. */
#define MAX_CACHED	16

static CdiChannelRules *cached = NULL;
static Oid	rules_relation = InvalidOid;
static Oid	sites_relation = InvalidOid;
static uint64 invalidations = 0;

/* May come while rules are being evaluated: nothing is freed here. */
static void
invalidate(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != rules_relation && relid != sites_relation)
		return;
	invalidations++;
	for (CdiChannelRules *rules = cached; rules; rules = rules->next)
		rules->stale = true;
}

/* Take stale rules out of the cache, and the last ones of too many. */
static void
clean_cache(void)
{
	int			count = 0;

	for (CdiChannelRules **link = &cached; *link;)
	{
		CdiChannelRules *rules = *link;

		if (!rules->stale && ++count <= MAX_CACHED)
		{
			link = &rules->next;
			continue;
		}
		*link = rules->next;
		rules->stale = true;
		if (rules->pins == 0)
			MemoryContextDelete(rules->context);
	}
}

static int
compare_rules(const void *a, const void *b)
{
	return ((const CdiChannelRule *) a)->number - ((const CdiChannelRule *) b)->number;
}

/*
 * Rows of the wanted version into the current context; their conditions in
 * the array beside them.  Returns how many.
 */
static void
read_rules(CdiChannelRules *rules, Snapshot snapshot, int *version)
{
	Relation	relation = table_open(rules_relation, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(relation);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;
	int			space = 32;

	*version = rules->wanted;
	rules->rules = palloc(sizeof(CdiChannelRule) * space);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		CdiChannelRule *rule;
		text	   *group = DatumGetTextPP(heap_getattr(tuple, RULE_GROUP, desc, &isnull));
		int			row_version = DatumGetInt32(heap_getattr(tuple, RULE_VERSION, desc, &isnull));

		if (strlen(rules->group) != VARSIZE_ANY_EXHDR(group) ||
			memcmp(rules->group, VARDATA_ANY(group), VARSIZE_ANY_EXHDR(group)) != 0)
			continue;
		if (rules->wanted == 0 && row_version > *version)
		{
			*version = row_version;
			rules->count = 0;
		}
		if (row_version != *version)
			continue;
		if (rules->count == space)
		{
			space *= 2;
			rules->rules = repalloc(rules->rules, sizeof(CdiChannelRule) * space);
		}
		rule = &rules->rules[rules->count++];
		rule->number = DatumGetInt32(heap_getattr(tuple, RULE_NUMBER, desc, &isnull));
		rule->channel = DatumGetTextPCopy(heap_getattr(tuple, RULE_CHANNEL, desc, &isnull));
		rule->condition = (CdiCondition *) DatumGetJsonbPCopy(heap_getattr(tuple, RULE_CONDITION, desc, &isnull));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	qsort(rules->rules, rules->count, sizeof(CdiChannelRule), compare_rules);
}

static void
complain_unknown(const char *group, int version)
{
	cdi_require_storage();
	if (version == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_UNKNOWN_CHANNEL_GROUP),
				 errmsg("channel group \"%s\" does not exist", group),
				 errhint("cdi.channel_rules has the groups that there are; cdi_set_channel_rules() makes one.")));
	ereport(ERROR,
			(errcode(ERRCODE_CDI_UNKNOWN_CHANNEL_GROUP),
			 errmsg("channel group \"%s\" has no version %d", group, version),
			 errhint("cdi.channel_rules has the versions that there are.")));
}

/* *keep says whether others may have them, too. */
static CdiChannelRules *
load(const char *group, int version, bool *keep)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi channel rules", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiChannelRules *rules = palloc0(sizeof(CdiChannelRules));
	uint64		before;
	int			found_version;
	Snapshot	snapshot;

	rules->context = context;
	rules->group = pstrdup(group);
	rules->wanted = version;
	rules->unassigned = cstring_to_text(CDI_CHANNEL_UNASSIGNED);
	rules_relation = cdi_relation_oid("channel_rules");
	sites_relation = cdi_relation_oid("channel_sites");
	if (!OidIsValid(rules_relation) || !OidIsValid(sites_relation))
		complain_unknown(group, version);

	/* A parallel operation has one snapshot, and nothing it does is newer. */
	before = invalidations;
	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	read_rules(rules, snapshot, &found_version);
	if (rules->count == 0)
		complain_unknown(group, version);
	cdi_sites_load(&rules->sites, snapshot);
	UnregisterSnapshot(snapshot);
	for (int i = 0; i < rules->count; i++)
	{
		Jsonb	   *condition = (Jsonb *) rules->rules[i].condition;

		rules->rules[i].condition = cdi_channel_compile(rules, rules->rules[i].number, condition);
		pfree(condition);
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	/*
	 * Rules that others do not get are not told of changes either: those that
	 * may have changed meanwhile are asked for anew by the next call.  The
	 * snapshot of a parallel operation may be older than what we were told of.
	 */
	rules->stale = before != invalidations;
	*keep = !rules->stale && !IsInParallelMode();
	return rules;
}

CdiChannelRules *
cdi_channel_rules_pin(const char *group, int version)
{
	CdiChannelRules *rules;

	cdi_invalidation_register(invalidate);
	clean_cache();
	for (rules = cached; rules; rules = rules->next)
		if (rules->wanted == version && strcmp(rules->group, group) == 0)
			break;
	if (rules == NULL)
	{
		bool		keep;

		rules = load(group, version, &keep);
		if (keep)
		{
			rules->next = cached;
			cached = rules;
		}
	}
	rules->pins++;
	return rules;
}

void
cdi_channel_rules_unpin(CdiChannelRules *rules)
{
	bool		is_cached = false;

	rules->pins--;
	for (CdiChannelRules *other = cached; other; other = other->next)
		is_cached |= other == rules;
	if (rules->pins == 0 && !is_cached)
		MemoryContextDelete(rules->context);
}

/* Trigger of both tables: every backend reads them anew after commit. */
PG_FUNCTION_INFO_V1(cdi_channels_changed);
Datum
cdi_channels_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcache(cdi_trigger_of(fcinfo, NULL)->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * cdi._check_channel_rule(rule integer, condition jsonb)
 *
 * Raises what is wrong with a condition before it is stored.
 */
PG_FUNCTION_INFO_V1(cdi_check_channel_rule);
Datum
cdi_check_channel_rule(PG_FUNCTION_ARGS)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi channel rule", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiChannelRules rules = {.context = context};

	sites_relation = cdi_relation_oid("channel_sites");
	cdi_sites_load(&rules.sites, GetActiveSnapshot());
	(void) cdi_channel_compile(&rules, PG_GETARG_INT32(0), PG_GETARG_JSONB_P(1));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
