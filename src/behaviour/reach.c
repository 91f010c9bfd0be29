/*
 * reach.c
 *		cdi_reach() and cdi_frequency(): how many people, through which
 *		channels, and how often.
 *
 * Both keep one entry per person: the channels that reached it as bits, and
 * how many touches there were.  That is exact, takes 40 bytes a person in a
 * table between 45 and 90 percent full, and needs no order; the states of
 * parallel workers are united person by person.  Channels get their bits in
 * order of appearance, so a united state renumbers the other's; results are in
 * an order of their own.
 */
#include "behaviour/behaviour.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#define MAX_CHANNELS	64
#define MAX_BUCKETS		10000

/* Of a person in a serialised state */
#define PERSON_SIZE		(UUID_LEN + 2 * sizeof(int64))

typedef struct ReachedPerson
{
	pg_uuid_t	person;
	uint64		channels;
	int64		touches;
	char		status;
} ReachedPerson;

/* Keys of people are random bits; others' uuids need not be. */
static inline uint32
hash_person(pg_uuid_t person)
{
	return hash_bytes(person.data, UUID_LEN);
}

#define SH_PREFIX		reached
#define SH_ELEMENT_TYPE	ReachedPerson
#define SH_KEY_TYPE		pg_uuid_t
#define SH_KEY			person
#define SH_HASH_KEY(table, key)		hash_person(key)
#define SH_EQUAL(table, a, b)		(memcmp((a).data, (b).data, UUID_LEN) == 0)
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct ReachState
{
	reached_hash *people;
	CdiLabels  *channels;
	int			buckets;		/* of cdi_frequency(); 0 until the first row */
} ReachState;

static ReachState *
create_state(MemoryContext context, uint32 people)
{
	ReachState *state = MemoryContextAllocZero(context, sizeof(ReachState));

	state->people = reached_create(context, people, NULL);
	state->channels = cdi_labels_create(context, 4);
	return state;
}

static ReachState *
state_of(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_reach or cdi_frequency called in non-aggregate context");
	return PG_ARGISNULL(0) ? create_state(context, 16) : (ReachState *) PG_GETARG_POINTER(0);
}

static void
add_touches(ReachState *state, pg_uuid_t person, uint64 channels, int64 touches)
{
	ReachedPerson *entry;
	bool		found;

	entry = reached_insert(state->people, person, &found);
	if (!found)
		entry->channels = entry->touches = 0;
	entry->channels |= channels;
	if (pg_add_s64_overflow(entry->touches, touches, &entry->touches))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("a person's touches are out of range")));
}

/*
 * A table that is walked yields its entries in order of their hashes, and
 * entered into a smaller one they would pile up: make that large enough first.
 */
static void
make_room(ReachState *state, uint64 people)
{
	uint64		needed = (state->people->members + people) * 10 / 9 + 1;

	if (needed > state->people->size)
		reached_grow(state->people, pg_nextpower2_64(needed));
}

static uint64
channel_bit(ReachState *state, const char *data, int len)
{
	int32		number = cdi_labels_number(state->channels, data, len);

	if (number >= MAX_CHANNELS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cdi_reach() takes at most %d channels", MAX_CHANNELS),
				 errhint("Make one of those that are rare, or count each with cdi_frequency() in a query with GROUP BY.")));
	return UINT64CONST(1) << number;
}

/*
 * cdi._reach_transition(state internal, person uuid, channel text)
 */
PG_FUNCTION_INFO_V1(cdi_reach_transition);
Datum
cdi_reach_transition(PG_FUNCTION_ARGS)
{
	ReachState *state = state_of(fcinfo);
	text	   *channel;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_POINTER(state);
	channel = PG_GETARG_TEXT_PP(2);
	add_touches(state, *PG_GETARG_UUID_P(1),
				channel_bit(state, VARDATA_ANY(channel), VARSIZE_ANY_EXHDR(channel)), 1);
	PG_RETURN_POINTER(state);
}

/*
 * cdi._frequency_transition(state internal, person uuid, touches bigint,
 *							 buckets integer)
 */
PG_FUNCTION_INFO_V1(cdi_frequency_transition);
Datum
cdi_frequency_transition(PG_FUNCTION_ARGS)
{
	ReachState *state = state_of(fcinfo);

	if (state->buckets == 0)
	{
		if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1 || PG_GETARG_INT32(3) > MAX_BUCKETS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the number of frequencies must be 1 to %d", MAX_BUCKETS)));
		state->buckets = PG_GETARG_INT32(3);
	}
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_POINTER(state);
	if (PG_GETARG_INT64(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of touches cannot be negative")));
	if (PG_GETARG_INT64(2) > 0)
		add_touches(state, *PG_GETARG_UUID_P(1), 0, PG_GETARG_INT64(2));
	PG_RETURN_POINTER(state);
}

/*
 * cdi._reach_combine(internal, internal)
 */
PG_FUNCTION_INFO_V1(cdi_reach_combine);
Datum
cdi_reach_combine(PG_FUNCTION_ARGS)
{
	ReachState *state = state_of(fcinfo);
	ReachState *other;
	reached_iterator iterator;
	ReachedPerson *entry;
	uint64		bits[MAX_CHANNELS];

	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	other = (ReachState *) PG_GETARG_POINTER(1);
	if (state->buckets == 0)
		state->buckets = other->buckets;
	for (int i = 0; i < other->channels->n; i++)
		bits[i] = channel_bit(state, other->channels->labels[i].data, other->channels->labels[i].len);
	make_room(state, other->people->members);
	reached_start_iterate(other->people, &iterator);
	while ((entry = reached_iterate(other->people, &iterator)) != NULL)
	{
		uint64		channels = 0;

		for (int i = 0; i < other->channels->n; i++)
			if (entry->channels & UINT64CONST(1) << i)
				channels |= bits[i];
		add_touches(state, entry->person, channels, entry->touches);
	}
	PG_RETURN_POINTER(state);
}

/*
 * cdi._reach_serial(internal)
 */
PG_FUNCTION_INFO_V1(cdi_reach_serial);
Datum
cdi_reach_serial(PG_FUNCTION_ARGS)
{
	ReachState *state = (ReachState *) PG_GETARG_POINTER(0);
	reached_iterator iterator;
	ReachedPerson *entry;
	StringInfoData buffer;

	if (state->people->members > (MaxAllocSize - 1024 * 1024) / PERSON_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a parallel worker counts too many people to pass them on"),
				 errhint("SET max_parallel_workers_per_gather = 0 for this query.")));
	pq_begintypsend(&buffer);
	pq_sendint32(&buffer, state->buckets);
	pq_sendint32(&buffer, state->channels->n);
	for (int i = 0; i < state->channels->n; i++)
	{
		pq_sendint32(&buffer, state->channels->labels[i].len);
		pq_sendbytes(&buffer, state->channels->labels[i].data, state->channels->labels[i].len);
	}
	reached_start_iterate(state->people, &iterator);
	while ((entry = reached_iterate(state->people, &iterator)) != NULL)
	{
		pq_sendbytes(&buffer, (char *) entry->person.data, UUID_LEN);
		pq_sendint64(&buffer, entry->channels);
		pq_sendint64(&buffer, entry->touches);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

/*
 * cdi._reach_deserial(bytea, internal)
 */
PG_FUNCTION_INFO_V1(cdi_reach_deserial);
Datum
cdi_reach_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(0);
	ReachState *state;
	StringInfoData buffer;
	int			channels;

	state = create_state(CurrentMemoryContext, Max(VARSIZE_ANY_EXHDR(data) / PERSON_SIZE, 16));
	buffer.data = VARDATA_ANY(data);
	buffer.len = buffer.maxlen = VARSIZE_ANY_EXHDR(data);
	buffer.cursor = 0;
	state->buckets = pq_getmsgint(&buffer, 4);
	channels = pq_getmsgint(&buffer, 4);
	for (int i = 0; i < channels; i++)
	{
		int			len = pq_getmsgint(&buffer, 4);

		(void) cdi_labels_number(state->channels, pq_getmsgbytes(&buffer, len), len);
	}
	while (buffer.cursor < buffer.len)
	{
		pg_uuid_t	person;
		uint64		bits;

		memcpy(person.data, pq_getmsgbytes(&buffer, UUID_LEN), UUID_LEN);
		bits = pq_getmsgint64(&buffer);
		add_touches(state, person, bits, pq_getmsgint64(&buffer));
	}
	PG_RETURN_POINTER(state);
}

/*
 * cdi._frequency_final(internal)
 */
PG_FUNCTION_INFO_V1(cdi_frequency_final);
Datum
cdi_frequency_final(PG_FUNCTION_ARGS)
{
	ReachState *state = PG_ARGISNULL(0) ? NULL : (ReachState *) PG_GETARG_POINTER(0);
	reached_iterator iterator;
	ReachedPerson *entry;
	Datum	   *counts;

	if (state == NULL || state->buckets == 0)
		PG_RETURN_NULL();
	counts = palloc0(sizeof(Datum) * state->buckets);
	reached_start_iterate(state->people, &iterator);
	while ((entry = reached_iterate(state->people, &iterator)) != NULL)
	{
		int			bucket = (int) Min(entry->touches, state->buckets) - 1;

		counts[bucket] = Int64GetDatum(DatumGetInt64(counts[bucket]) + 1);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(counts, state->buckets, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* People by the set of channels that reached them */
typedef struct Combination
{
	uint64		channels;
	int64		people;
	int64		touches;
	char		status;
} Combination;

#define SH_PREFIX		combinations
#define SH_ELEMENT_TYPE	Combination
#define SH_KEY_TYPE		uint64
#define SH_KEY			channels
#define SH_HASH_KEY(table, key)		murmurhash32((uint32) (key) ^ murmurhash32((uint32) ((key) >> 32)))
#define SH_EQUAL(table, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Channels by their names' bytes: order[i] is the bit of the i-th. */
static int
compare_channels(const void *a, const void *b, void *arg)
{
	const CdiLabels *channels = arg;
	CdiText		left = channels->labels[*(const int *) a];
	CdiText		right = channels->labels[*(const int *) b];
	int			difference = memcmp(left.data, right.data, Min(left.len, right.len));

	return difference ? difference : left.len - right.len;
}

/* The bits in order of the channels' names, the first as the highest. */
static uint64
ranked_bits(uint64 channels, const int *order, int n)
{
	uint64		ranked = 0;

	for (int i = 0; i < n; i++)
		if (channels & UINT64CONST(1) << order[i])
			ranked |= UINT64CONST(1) << (MAX_CHANNELS - 1 - i);
	return ranked;
}

/* Those that reached most people first, then by name. */
static int
compare_combinations(const void *a, const void *b)
{
	const Combination *left = a;
	const Combination *right = b;

	if (left->people != right->people)
		return left->people > right->people ? -1 : 1;
	return left->channels > right->channels ? -1 : left->channels < right->channels;
}

static Datum
channel_array(const CdiLabels *channels, uint64 ranked, const int *order)
{
	Datum		names[MAX_CHANNELS];
	int			n = 0;

	for (int i = 0; i < channels->n; i++)
		if (ranked & UINT64CONST(1) << (MAX_CHANNELS - 1 - i))
			names[n++] = PointerGetDatum(cstring_to_text_with_len(channels->labels[order[i]].data,
																 channels->labels[order[i]].len));
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * cdi._reach_final(internal): cdi.reach_combination[]
 */
PG_FUNCTION_INFO_V1(cdi_reach_final);
Datum
cdi_reach_final(PG_FUNCTION_ARGS)
{
	ReachState *state = PG_ARGISNULL(0) ? NULL : (ReachState *) PG_GETARG_POINTER(0);
	combinations_hash *combinations = combinations_create(CurrentMemoryContext, 64, NULL);
	combinations_iterator next;
	reached_iterator iterator;
	ReachedPerson *entry;
	Combination *combination;
	Combination *sorted;
	Datum	   *rows;
	TupleDesc	desc;
	Oid			type;
	int			order[MAX_CHANNELS];
	int64		n = 0;
	bool		found;

	if (state == NULL || state->people->members == 0)
		PG_RETURN_NULL();
	for (int i = 0; i < state->channels->n; i++)
		order[i] = i;
	qsort_arg(order, state->channels->n, sizeof(int), compare_channels, state->channels);

	reached_start_iterate(state->people, &iterator);
	while ((entry = reached_iterate(state->people, &iterator)) != NULL)
	{
		combination = combinations_insert(combinations, entry->channels, &found);
		if (!found)
			combination->people = combination->touches = 0;
		combination->people++;
		combination->touches += entry->touches;
	}

	sorted = palloc_extended(sizeof(Combination) * combinations->members, MCXT_ALLOC_HUGE);
	combinations_start_iterate(combinations, &next);
	while ((combination = combinations_iterate(combinations, &next)) != NULL)
	{
		sorted[n] = *combination;
		sorted[n++].channels = ranked_bits(combination->channels, order, state->channels->n);
	}
	qsort(sorted, n, sizeof(Combination), compare_combinations);

	type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	desc = lookup_rowtype_tupdesc(type, -1);
	rows = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int64 i = 0; i < n; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		CHECK_FOR_INTERRUPTS();
		values[0] = channel_array(state->channels, sorted[i].channels, order);
		values[1] = Int64GetDatum(sorted[i].people);
		values[2] = Int64GetDatum(sorted[i].touches);
		rows[i] = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	}
	ReleaseTupleDesc(desc);
	if (n > MaxAllocSize / sizeof(Datum))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("people were reached by too many combinations of channels")));
	PG_RETURN_ARRAYTYPE_P(construct_array(rows, (int) n, type, -1, false, TYPALIGN_DOUBLE));
}
