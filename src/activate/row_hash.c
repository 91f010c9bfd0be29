/*
 * row_hash.c
 *		Find the rows that may differ without looking at each of them twice.
 *
 * cdi._row_hash() is a keyed 128-bit hash over the columns of a row as they
 * are in memory.  cdi._bucket_sums() adds the hashes of all rows up, in as
 * many sums as there are buckets of primary keys: two sets of rows whose sums
 * of a bucket are the same are the same there.  A sum needs no order, so it is
 * made by parallel workers, and its memory does not go by the number of rows.
 * What is in buckets that differ (cdi._in_buckets()) is then compared exactly,
 * and those that are as expected (cdi._is_known()) need no more than that.
 *
 * The key is a secret of the sync (cdi.syncs.hash_key): nobody can make a row
 * that goes for another, or rows whose hashes add up to nothing.
 */
#include "activate/row_hash.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "activate/model.h"

/*
 * Values of these types with the same bytes have the same JSON; of others that
 * depends on catalogs or settings, and their JSON is hashed itself.
 */
bool
cdi_row_hash_takes(Oid type)
{
	switch (getBaseType(type))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case UUIDOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static inline void
sip_round(uint64 *v)
{
	v[0] += v[1];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[3];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[2] = ROTATE(v[2], 32);
}

/* SipHash-2-4 with 128 bits of output, https://github.com/veorq/SipHash */
void
cdi_sip_hash(const uint8 *key, const char *data, size_t len, uint8 *hash)
{
	uint64		k[2];
	uint64		v[4];
	uint64		word;
	size_t		i;

	memcpy(k, key, sizeof(k));
	v[0] = k[0] ^ UINT64CONST(0x736f6d6570736575);
	v[1] = k[1] ^ UINT64CONST(0x646f72616e646f6d) ^ 0xee;
	v[2] = k[0] ^ UINT64CONST(0x6c7967656e657261);
	v[3] = k[1] ^ UINT64CONST(0x7465646279746573);
	for (i = 0; i + 8 <= len; i += 8)
	{
		memcpy(&word, data + i, 8);
		v[3] ^= word;
		sip_round(v);
		sip_round(v);
		v[0] ^= word;
	}
	word = (uint64) len << 56;
	for (int shift = 0; i < len; i++, shift += 8)
		word |= (uint64) (uint8) data[i] << shift;
	v[3] ^= word;
	sip_round(v);
	sip_round(v);
	v[0] ^= word;
	v[2] ^= 0xee;
	for (int part = 0; part < 2; part++)
	{
		for (int round = 0; round < 4; round++)
			sip_round(v);
		word = v[0] ^ v[1] ^ v[2] ^ v[3];
		memcpy(hash + 8 * part, &word, 8);
		v[1] ^= 0xdd;
	}
}

/* ---- the hash of a row ---- */

typedef struct RowHash
{
	StringInfoData bytes;
	struct
	{
		int16		len;
		bool		by_value;
	}			types[FUNC_MAX_ARGS];
} RowHash;

static RowHash *
begin_hash(FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	RowHash    *row = palloc(sizeof(RowHash));

	initStringInfo(&row->bytes);
	for (int i = 1; i < PG_NARGS(); i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i);

		if (!OidIsValid(type) || !cdi_row_hash_takes(type))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("cdi._row_hash() does not take type %s", format_type_be(type))));
		get_typlenbyval(type, &row->types[i].len, &row->types[i].by_value);
	}
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = row;
	return row;
}

/* appendBinaryStringInfo() without the call and the zero at the end */
static inline void
append(StringInfo bytes, const void *data, int len)
{
	if (len >= bytes->maxlen - bytes->len)
		enlargeStringInfo(bytes, len);
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
}

PG_FUNCTION_INFO_V1(cdi_row_hash);

/* (key uuid, VARIADIC "any") */
Datum
cdi_row_hash(PG_FUNCTION_ARGS)
{
	RowHash    *row = fcinfo->flinfo->fn_extra;
	pg_uuid_t  *hash = palloc(sizeof(pg_uuid_t));

	if (row == NULL)
		row = begin_hash(fcinfo);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	resetStringInfo(&row->bytes);
	for (int i = 1; i < PG_NARGS(); i++)
	{
		bool		is_null = PG_ARGISNULL(i);
		Datum		value = PG_GETARG_DATUM(i);

		append(&row->bytes, &is_null, 1);
		if (is_null)
			continue;
		if (row->types[i].by_value)
			append(&row->bytes, &value, sizeof(Datum));
		else if (row->types[i].len > 0)
			append(&row->bytes, DatumGetPointer(value), row->types[i].len);
		else
		{
			struct varlena *data = PG_DETOAST_DATUM_PACKED(value);
			uint32		len = VARSIZE_ANY_EXHDR(data);

			append(&row->bytes, &len, sizeof(len));
			append(&row->bytes, VARDATA_ANY(data), len);
			if (DatumGetPointer(value) != (Pointer) data)
				pfree(data);
		}
	}
	cdi_sip_hash(PG_GETARG_UUID_P(0)->data, row->bytes.data, row->bytes.len, hash->data);
	PG_RETURN_UUID_P(hash);
}

/* ---- sums by bucket ---- */

#define MIN_BUCKETS 64
#define MAX_BUCKETS (1 << 25)

/*
 * A run is a bulk job as building an index is, and shares its memory in the
 * same way among the processes that take part.
 */
int64
cdi_hash_memory(void)
{
	return (int64) maintenance_work_mem * 1024 / (max_parallel_workers_per_gather + 1);
}

int
cdi_bucket_count(int64 wanted)
{
	int64		n = cdi_hash_memory() / sizeof(CdiBucketSum);

	n = Max(Min(Min(n, wanted), MAX_BUCKETS), MIN_BUCKETS);
	return (int) (n - n % BITS_PER_BYTE);
}

/* Primary keys go by their text.  That of an integer is made here, without a value of its own for each row. */
bool
cdi_key_takes(Oid type)
{
	return type == TEXTOID || type == INT2OID || type == INT4OID || type == INT8OID;
}

typedef struct Key
{
	const char *data;
	int			len;
	char		number[MAXINT8LEN + 1];
} Key;

static inline void
get_key(FunctionCallInfo fcinfo, int argument, Key *key)
{
	Oid		   *type = fcinfo->flinfo->fn_extra;
	Datum		value = PG_GETARG_DATUM(argument);

	if (type == NULL)
	{
		type = fcinfo->flinfo->fn_extra = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(Oid));
		*type = get_fn_expr_argtype(fcinfo->flinfo, argument);
	}
	key->data = key->number;
	switch (*type)
	{
		case TEXTOID:
			{
				const text *primary_key = DatumGetTextPP(value);

				key->data = VARDATA_ANY(primary_key);
				key->len = VARSIZE_ANY_EXHDR(primary_key);
				break;
			}
		case INT2OID:
			key->len = pg_lltoa(DatumGetInt16(value), key->number);
			break;
		case INT4OID:
			key->len = pg_lltoa(DatumGetInt32(value), key->number);
			break;
		case INT8OID:
			key->len = pg_lltoa(DatumGetInt64(value), key->number);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("a primary key of type %s must be text here", format_type_be(*type))));
	}
}

static inline uint32
bucket_of(const Key *key, uint32 n)
{
	return (uint64) hash_bytes((const unsigned char *) key->data, key->len) * n >> 32;
}

static inline void
add(CdiBucketSum *sum, uint64 low, uint64 high)
{
	sum->low += low;
	sum->high += high + (sum->low < low);
}

/*
 * Each row goes to another place of an array that no cache holds: the places
 * are asked for ahead, and added to together.
 */
#define PENDING 64

typedef struct SumState
{
	CdiBuckets *buckets;
	int			npending;
	struct
	{
		CdiBucketSum *sum;
		uint64		low;
		uint64		high;
	}			pending[PENDING];
} SumState;

static SumState *
make_state(MemoryContext context, CdiBuckets *buckets)
{
	SumState   *state = MemoryContextAlloc(context, sizeof(SumState));

	state->buckets = buckets;
	state->npending = 0;
	return state;
}

static CdiBuckets *
make_buckets(MemoryContext context, int n)
{
	Size		size = offsetof(CdiBuckets, sums) + sizeof(CdiBucketSum) * n;
	CdiBuckets *buckets = MemoryContextAllocZero(context, size);

	SET_VARSIZE(buckets, size);
	buckets->n = n;
	return buckets;
}

static void
flush(SumState *state)
{
	for (int i = 0; i < state->npending; i++)
		add(state->pending[i].sum, state->pending[i].low, state->pending[i].high);
	state->npending = 0;
}

static void
defer(SumState *state, CdiBucketSum *sum, const uint64 *hash)
{
	if (state->npending == PENDING)
		flush(state);
	__builtin_prefetch(sum, 1);
	state->pending[state->npending].sum = sum;
	state->pending[state->npending].low = hash[0];
	state->pending[state->npending++].high = hash[1];
}

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "called outside of an aggregate");
	return context;
}

PG_FUNCTION_INFO_V1(cdi_bucket_sums_transition);

/* (state, buckets integer, primary_key "any", hash uuid) */
Datum
cdi_bucket_sums_transition(PG_FUNCTION_ARGS)
{
	SumState   *state = PG_ARGISNULL(0) ? NULL : (SumState *) PG_GETARG_POINTER(0);
	Key			key;
	uint64		hash[2] = {1, 0};	/* not known: as good as no row's */

	if (state == NULL)
	{
		MemoryContext context = aggregate_context(fcinfo);
		int			n = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);

		if (n < 1 || n > MAX_BUCKETS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the number of buckets must be 1 to %d", MAX_BUCKETS)));
		state = make_state(context, make_buckets(context, n));
	}
	if (!PG_ARGISNULL(2))
		get_key(fcinfo, 2, &key);
	if (PG_ARGISNULL(2) || key.len > CDI_MAX_PRIMARY_KEY)
		state->buckets->invalid++;
	else
	{
		if (!PG_ARGISNULL(3))
			memcpy(hash, PG_GETARG_UUID_P(3)->data, sizeof(hash));
		state->buckets->rows++;
		defer(state, &state->buckets->sums[bucket_of(&key, state->buckets->n)], hash);
	}
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_bucket_sums_combine);

Datum
cdi_bucket_sums_combine(PG_FUNCTION_ARGS)
{
	SumState   *state = PG_ARGISNULL(0) ? NULL : (SumState *) PG_GETARG_POINTER(0);
	SumState   *other = PG_ARGISNULL(1) ? NULL : (SumState *) PG_GETARG_POINTER(1);

	if (other == NULL)
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	flush(other);
	if (state == NULL)
	{
		MemoryContext context = aggregate_context(fcinfo);

		state = make_state(context, make_buckets(context, other->buckets->n));
	}
	if (state->buckets->n != other->buckets->n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of buckets must be the same for all rows")));
	state->buckets->rows += other->buckets->rows;
	state->buckets->invalid += other->buckets->invalid;
	for (int i = 0; i < state->buckets->n; i++)
		add(&state->buckets->sums[i], other->buckets->sums[i].low, other->buckets->sums[i].high);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(cdi_bucket_sums_bytes);

/* The sums are a bytea as they stand: serialised, and as the result. */
Datum
cdi_bucket_sums_bytes(PG_FUNCTION_ARGS)
{
	SumState   *state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (SumState *) PG_GETARG_POINTER(0);
	flush(state);
	PG_RETURN_BYTEA_P((bytea *) state->buckets);
}

PG_FUNCTION_INFO_V1(cdi_bucket_sums_deserialise);

Datum
cdi_bucket_sums_deserialise(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_P(0);

	/* As they came, to be added up at once: these are many bytes. */
	if ((Pointer) bytes != (Pointer) MAXALIGN(bytes))
		bytes = PG_GETARG_BYTEA_P_COPY(0);
	PG_RETURN_POINTER(make_state(CurrentMemoryContext, (CdiBuckets *) bytes));
}

bytea *
cdi_buckets_that_differ(const CdiBuckets *a, const CdiBuckets *b)
{
	bytea	   *map;

	Assert(a->n == b->n && a->n % BITS_PER_BYTE == 0);
	map = palloc0(VARHDRSZ + a->n / BITS_PER_BYTE);
	SET_VARSIZE(map, VARHDRSZ + a->n / BITS_PER_BYTE);
	for (int i = 0; i < a->n; i++)
		if (a->sums[i].low != b->sums[i].low || a->sums[i].high != b->sums[i].high)
			VARDATA(map)[i / BITS_PER_BYTE] |= 1 << i % BITS_PER_BYTE;
	return map;
}

PG_FUNCTION_INFO_V1(cdi_in_buckets);

/* (primary_key "any", buckets bytea) */
Datum
cdi_in_buckets(PG_FUNCTION_ARGS)
{
	bytea	   *map = PG_GETARG_BYTEA_PP(1);
	Key			key;
	uint32		bucket;

	get_key(fcinfo, 0, &key);
	if (key.len > CDI_MAX_PRIMARY_KEY || VARSIZE_ANY_EXHDR(map) == 0)
		PG_RETURN_BOOL(false);
	bucket = bucket_of(&key, VARSIZE_ANY_EXHDR(map) * BITS_PER_BYTE);
	PG_RETURN_BOOL(((uint8) VARDATA_ANY(map)[bucket / BITS_PER_BYTE] >> bucket % BITS_PER_BYTE) & 1);
}

PG_FUNCTION_INFO_V1(cdi_in_buckets_support);

/* The planner's usual guess, a third of all rows, leaves no parallel plan. */
Datum
cdi_in_buckets_support(PG_FUNCTION_ARGS)
{
	SupportRequestSelectivity *request = (SupportRequestSelectivity *) PG_GETARG_POINTER(0);
	Const	   *map;

	if (!IsA(request, SupportRequestSelectivity) || request->is_join)
		PG_RETURN_POINTER(NULL);
	map = (Const *) estimate_expression_value(request->root, lsecond(request->args));
	if (!IsA(map, Const) || map->constisnull)
		PG_RETURN_POINTER(NULL);
	else
	{
		bytea	   *bits = DatumGetByteaPP(map->constvalue);
		int			len = VARSIZE_ANY_EXHDR(bits);

		request->selectivity = len > 0 ? (double) pg_popcount(VARDATA_ANY(bits), len) / len / BITS_PER_BYTE : 0;
	}
	PG_RETURN_POINTER(request);
}
