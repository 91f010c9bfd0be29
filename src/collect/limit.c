/*
 * limit.c
 *		Activity and rate limits of sources, one account for all collectors of
 *		a database together.
 *
 * An entry per source that has had a request lies in a hash table in shared
 * memory; each process remembers where.  An entry is removed only when its
 * database is gone, and no process outlives its database, so what a process
 * remembers stays true.  Counting takes no lock.
 *
 * The limit is the generic cell rate algorithm: all that is kept is the time at
 * which the source will have paid for what it sent.  As long as that is less
 * than its burst away, a request is admitted.  Because the number of events of
 * a request is known only later, a request may run into debt, which lets the
 * next ones wait.
 *
 * Where the table is full, a source that has no entry has one per process: its
 * limit is then one per collector, and its activity is shown nowhere.
 */
#include "postgres.h"

#include <math.h>
#include <time.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "collect/limit.h"

#define MAX_ENTRIES		1024

/* Nanoseconds */
#define SECOND			INT64CONST(1000000000)
#define DEBT_LIMIT		(3600 * SECOND)
#define FAR_AWAY		(INT64CONST(1) << 60)

typedef struct EntryKey
{
	Oid			database;
	int32		source_id;
} EntryKey;

typedef enum Number
{
	REQUESTS,
	BODY_BYTES,
	ACCEPTED,
	REFUSED,
	RATE_LIMITED,
	TOO_LARGE,
	UNAVAILABLE,
	LAST_REQUEST_AT,
	PERIOD,						/* nanoseconds per event that PAID_AT is in */
	PAID_AT,					/* nanoseconds of the monotonic clock */
	NUMBERS
} Number;

typedef struct Entry
{
	EntryKey	key;			/* first */
	TimestampTz since;
	pg_atomic_uint64 numbers[NUMBERS];
} Entry;

typedef struct SharedLimits
{
	LWLock	   *lock;			/* of the table, not of the entries */
	TimestampTz started_at;
} SharedLimits;

static SharedLimits *shared = NULL;
static HTAB *shared_entries = NULL;

/* What this process knows of a source; valid where it is in known_entries. */
typedef struct KnownEntry
{
	int32		source_id;		/* first */
	Entry	   *entry;
} KnownEntry;

static HTAB *known_entries = NULL;

/*
 * Shared memory
 */
Size
cdi_limit_shmem_size(void)
{
	return add_size(MAXALIGN(sizeof(SharedLimits)),
					hash_estimate_size(MAX_ENTRIES, sizeof(Entry)));
}

void
cdi_limit_shmem_create(LWLock *lock)
{
	HASHCTL		control = {.keysize = sizeof(EntryKey),.entrysize = sizeof(Entry)};
	bool		found;

	shared = ShmemInitStruct("cdi limits", sizeof(SharedLimits), &found);
	if (!found)
	{
		shared->lock = lock;
		shared->started_at = GetCurrentTimestamp();
	}
	shared_entries = ShmemInitHash("cdi activity of sources", MAX_ENTRIES, MAX_ENTRIES,
								   &control, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

static void
init_entry(Entry *entry, TimestampTz since)
{
	for (int i = 0; i < NUMBERS; i++)
		pg_atomic_init_u64(&entry->numbers[i], 0);
	entry->since = since;
}

/* The entry that all processes share; NULL where there is no room for it. */
static Entry *
shared_entry(int32 source_id)
{
	EntryKey	key = {MyDatabaseId, source_id};
	Entry	   *entry;
	bool		found;

	if (shared == NULL)
		return NULL;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	entry = hash_search(shared_entries, &key, HASH_FIND, NULL);
	if (entry == NULL && hash_get_num_entries(shared_entries) < MAX_ENTRIES)
	{
		entry = hash_search(shared_entries, &key, HASH_ENTER_NULL, &found);
		if (entry != NULL)
			init_entry(entry, shared->started_at);
	}
	LWLockRelease(shared->lock);
	return entry;
}

static Entry *
find_entry(int32 source_id)
{
	static KnownEntry *last = NULL;
	KnownEntry *known;
	bool		found;

	if (last != NULL && last->source_id == source_id)
		return last->entry;
	if (known_entries == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(KnownEntry),.hcxt = TopMemoryContext};

		known_entries = hash_create("cdi known sources", 64, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	known = hash_search(known_entries, &source_id, HASH_FIND, NULL);
	if (known == NULL)
	{
		Entry	   *entry = shared_entry(source_id);

		if (entry == NULL)
		{
			ereport(LOG,
					(errmsg("no room for the activity of another source"),
					 errdetail("Source %d is counted and limited by each collector alone.", source_id)));
			entry = MemoryContextAllocZero(TopMemoryContext, sizeof(Entry));
			init_entry(entry, GetCurrentTimestamp());
		}
		known = hash_search(known_entries, &source_id, HASH_ENTER, &found);
		known->entry = entry;
	}
	last = known;
	return known->entry;
}

void
cdi_limit_forget_others(const List *databases)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, shared_entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (!list_member_oid(databases, entry->key.database))
			hash_search(shared_entries, &entry->key, HASH_REMOVE, NULL);
	LWLockRelease(shared->lock);
}

void
cdi_limit_reset(Oid database)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, shared_entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.database != database)
			continue;
		for (int i = 0; i < NUMBERS; i++)
			pg_atomic_write_u64(&entry->numbers[i], 0);
		entry->since = GetCurrentTimestamp();
	}
	LWLockRelease(shared->lock);
}

/*
 * Limits
 */
static int64
monotonic_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* Nanoseconds per event */
static int64
period_of(const CdiSource *source)
{
	return Max((int64) (SECOND / source->rate_limit), 1);
}

/* Nanoseconds of events that may come at once */
static int64
burst_of(const CdiSource *source, int64 period)
{
	double		events = source->rate_burst > 0 ? source->rate_burst : ceil(source->rate_limit);
	double		burst = Max(events, 1) * period;

	return (int64) Min(burst, (double) FAR_AWAY);
}

int64
cdi_limit_check(const CdiSource *source)
{
	Entry	   *entry;
	int64		period;
	int64		burst;
	int64		now;
	uint64		paid_at;

	if (source->rate_limit <= 0)
		return 0;
	entry = find_entry(source->source_id);
	period = period_of(source);
	burst = burst_of(source, period);
	now = monotonic_now();

	/* Another limit than before: begin with nothing owed. */
	if (pg_atomic_read_u64(&entry->numbers[PERIOD]) != period)
	{
		pg_atomic_write_u64(&entry->numbers[PAID_AT], 0);
		pg_atomic_write_u64(&entry->numbers[PERIOD], period);
	}
	paid_at = pg_atomic_read_u64(&entry->numbers[PAID_AT]);
	for (;;)
	{
		int64		next = Max((int64) paid_at, now) + period;

		if (next > now + burst)
			return (next - now - burst + SECOND / 1000 - 1) / (SECOND / 1000);
		if (pg_atomic_compare_exchange_u64(&entry->numbers[PAID_AT], &paid_at, next))
			return 0;
	}
}

void
cdi_limit_charge(const CdiSource *source, int events)
{
	Entry	   *entry;
	int64		period;
	int64		now;
	int64		limit;
	int64		next;
	double		cost;
	uint64		paid_at;

	if (source->rate_limit <= 0 || events <= 1)
		return;
	entry = find_entry(source->source_id);
	period = period_of(source);
	now = monotonic_now();
	limit = now + burst_of(source, period) + DEBT_LIMIT;
	cost = Min((double) (events - 1) * period, (double) FAR_AWAY);
	paid_at = pg_atomic_read_u64(&entry->numbers[PAID_AT]);
	do
		next = Min(Max((int64) paid_at, now) + (int64) cost, limit);
	while (!pg_atomic_compare_exchange_u64(&entry->numbers[PAID_AT], &paid_at, next));
}

int
cdi_limit_retry_after(int64 milliseconds)
{
	return (int) Max((milliseconds + 999) / 1000, 1);
}

/*
 * Activity
 */
void
cdi_limit_answered(int32 source_id, int status, uint64 body_bytes)
{
	Entry	   *entry = find_entry(source_id);
	Number		outcome;

	if (status < 400)
		outcome = ACCEPTED;
	else if (status == 429)
		outcome = RATE_LIMITED;
	else if (status == 413)
		outcome = TOO_LARGE;
	else if (status < 500)
		outcome = REFUSED;
	else
		outcome = UNAVAILABLE;
	pg_atomic_fetch_add_u64(&entry->numbers[REQUESTS], 1);
	pg_atomic_fetch_add_u64(&entry->numbers[BODY_BYTES], body_bytes);
	pg_atomic_fetch_add_u64(&entry->numbers[outcome], 1);
	pg_atomic_write_u64(&entry->numbers[LAST_REQUEST_AT], GetCurrentTimestamp());
}

int
cdi_limit_activity(CdiActivity **activity)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;
	int			n = 0;

	*activity = NULL;
	if (shared == NULL)
		return 0;
	*activity = palloc(sizeof(CdiActivity) * MAX_ENTRIES);
	LWLockAcquire(shared->lock, LW_SHARED);
	hash_seq_init(&scan, shared_entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		CdiActivity *one = &(*activity)[n];

		if (entry->key.database != MyDatabaseId)
			continue;
		n++;
		one->source_id = entry->key.source_id;
		one->requests = pg_atomic_read_u64(&entry->numbers[REQUESTS]);
		one->body_bytes = pg_atomic_read_u64(&entry->numbers[BODY_BYTES]);
		one->accepted = pg_atomic_read_u64(&entry->numbers[ACCEPTED]);
		one->refused = pg_atomic_read_u64(&entry->numbers[REFUSED]);
		one->rate_limited = pg_atomic_read_u64(&entry->numbers[RATE_LIMITED]);
		one->too_large = pg_atomic_read_u64(&entry->numbers[TOO_LARGE]);
		one->unavailable = pg_atomic_read_u64(&entry->numbers[UNAVAILABLE]);
		one->last_request_at = pg_atomic_read_u64(&entry->numbers[LAST_REQUEST_AT]);
		one->since = entry->since;
	}
	LWLockRelease(shared->lock);
	return n;
}

PG_FUNCTION_INFO_V1(cdi_source_activity);

/* Activity of the sources of this database */
Datum
cdi_source_activity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiActivity *activity;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	n = cdi_limit_activity(&activity);
	for (int i = 0; i < n; i++)
	{
		CdiActivity *one = &activity[i];
		Datum		values[10];
		bool		nulls[10] = {false};

		values[0] = Int32GetDatum(one->source_id);
		values[1] = Int64GetDatum(one->requests);
		values[2] = Int64GetDatum(one->body_bytes);
		values[3] = Int64GetDatum(one->accepted);
		values[4] = Int64GetDatum(one->refused);
		values[5] = Int64GetDatum(one->rate_limited);
		values[6] = Int64GetDatum(one->too_large);
		values[7] = Int64GetDatum(one->unavailable);
		values[8] = TimestampTzGetDatum(one->last_request_at);
		values[9] = TimestampTzGetDatum(one->since);
		nulls[8] = one->requests == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
