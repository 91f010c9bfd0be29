/*
 * funnel_counts.c
 *		cdi_funnel_counts(): how many people reach each step, in one aggregate.
 *
 * The same as counting the levels of cdi_window_funnel() over a GROUP BY of the
 * person, without the group: a hash table of a million groups costs several
 * cache misses for every row.  Here rows are appended to chunks, and at the end
 * divided by a hash of the person into parts that fit the cache, where people
 * are told apart.  Workers hand over their rows as one value each.
 *
 * Memory is not bounded by work_mem: 32 bytes per row that meets a condition,
 * and twice that while they are divided.
 */
#include "behaviour/funnel.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#define CHUNK_ROWS		(128 * 1024)	/* 4 MB */
#define PART_ROWS		8192
#define MAX_PARTS		4096

typedef struct Row
{
	uint64		person[2];
	CdiFunnelEntry entry;
} Row;

typedef struct Counts
{
	const CdiFunnelOptions *options;
	uint64		count;
	uint32		nchunks;
	uint32		chunk_space;
	Row		  **chunks;			/* all but the last are full */
	const char *raw;			/* instead of chunks: as they came from a worker */
} Counts;

/* As it travels, with the options after it and then the rows */
typedef struct Message
{
	uint64		count;
	uint32		options_size;
} Message;

static Counts *
make_counts(MemoryContext context, const CdiFunnelOptions *options)
{
	Counts	   *counts = MemoryContextAllocZero(context, sizeof(Counts));

	counts->options = options;
	return counts;
}

/* Where the next row goes. */
static Row *
next_row(MemoryContext context, Counts *counts)
{
	uint32		place = counts->count % CHUNK_ROWS;

	if (place == 0)
	{
		if (counts->nchunks == counts->chunk_space)
		{
			counts->chunk_space = counts->chunk_space ? 2 * counts->chunk_space : 64;
			counts->chunks = counts->chunks ?
				repalloc_huge(counts->chunks, sizeof(Row *) * counts->chunk_space) :
				MemoryContextAlloc(context, sizeof(Row *) * counts->chunk_space);
		}
		counts->chunks[counts->nchunks++] = MemoryContextAlloc(context, sizeof(Row) * CHUNK_ROWS);
	}
	if (counts->count == PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cdi_funnel_counts() can take at most %u rows", PG_UINT32_MAX),
				 errhint("Leave out a period, or count cdi_window_funnel() over GROUP BY.")));
	counts->count++;
	return &counts->chunks[counts->nchunks - 1][place];
}

PG_FUNCTION_INFO_V1(cdi_funnel_counts_transition);
Datum
cdi_funnel_counts_transition(PG_FUNCTION_ARGS)
{
	static const CdiFunnelArguments arguments = {.mode = 1, .window = 2, .timestamp = 4, .conditions = 5};
	Counts	   *counts = PG_ARGISNULL(0) ? NULL : (Counts *) PG_GETARG_POINTER(0);
	bool		first = fcinfo->flinfo->fn_extra == NULL;
	CdiFunnelCall *call = cdi_funnel_prepare(fcinfo, &arguments);
	uint32		conditions = cdi_funnel_conditions(fcinfo, call, arguments.conditions);
	MemoryContext context;
	Oid			type;
	Row		   *row;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_funnel_counts called in non-aggregate context");
	if (first)
	{
		type = getBaseType(get_fn_expr_argtype(fcinfo->flinfo, 3));
		if (type != UUIDOID && type != INT8OID && type != INT4OID && type != INT2OID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("a person of cdi_funnel_counts() must be of type uuid, bigint, integer or smallint, not %s",
							format_type_be(type)),
					 errhint("Count cdi_window_funnel() over GROUP BY for other types.")));
		call->by_reference = type == UUIDOID;
	}
	if (counts == NULL)
		counts = make_counts(context, call->options);
	else if (counts->options != call->options && !cdi_funnel_same_options(counts->options, call->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window and options of a funnel must be the same for all rows of a group")));
	if (PG_ARGISNULL(3) || PG_ARGISNULL(4) ||
		(conditions == 0 && !cdi_funnel_needs_unmatched(call->options)))
		PG_RETURN_POINTER(counts);

	row = next_row(context, counts);
	if (call->by_reference)
		memcpy(row->person, PG_GETARG_UUID_P(3), UUID_LEN);
	else
	{
		row->person[0] = (uint64) PG_GETARG_DATUM(3);
		row->person[1] = 0;
	}
	row->entry.at = cdi_funnel_time(PG_GETARG_TIMESTAMPTZ(4));
	row->entry.conditions = conditions;
	row->entry.hold = 0;
	PG_RETURN_POINTER(counts);
}

PG_FUNCTION_INFO_V1(cdi_funnel_counts_combine);
Datum
cdi_funnel_counts_combine(PG_FUNCTION_ARGS)
{
	Counts	   *counts = PG_ARGISNULL(0) ? NULL : (Counts *) PG_GETARG_POINTER(0);
	Counts	   *other = PG_ARGISNULL(1) ? NULL : (Counts *) PG_GETARG_POINTER(1);
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "cdi_funnel_counts_combine called in non-aggregate context");
	if (other == NULL)
	{
		if (counts == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(counts);
	}
	if (counts == NULL)
		counts = make_counts(context, cdi_funnel_shared_options(fcinfo, other->options));
	for (uint64 i = 0; i < other->count;)
	{
		Row		   *row = next_row(context, counts);
		uint64		place = (counts->count - 1) % CHUNK_ROWS;
		uint64		n = Min(other->count - i, CHUNK_ROWS - place);

		CHECK_FOR_INTERRUPTS();
		/* from chunk to chunk, or out of what came from a worker */
		if (other->raw)
			memcpy(row, other->raw + sizeof(Row) * i, sizeof(Row) * n);
		else
		{
			n = Min(n, CHUNK_ROWS - i % CHUNK_ROWS);
			memcpy(row, &other->chunks[i / CHUNK_ROWS][i % CHUNK_ROWS], sizeof(Row) * n);
		}
		counts->count += n - 1;
		i += n;
	}
	PG_RETURN_POINTER(counts);
}

PG_FUNCTION_INFO_V1(cdi_funnel_counts_serial);
Datum
cdi_funnel_counts_serial(PG_FUNCTION_ARGS)
{
	Counts	   *counts = (Counts *) PG_GETARG_POINTER(0);
	Message		message;
	Size		size;
	bytea	   *result;
	char	   *place;

	memset(&message, 0, sizeof(message));
	message.count = counts->count;
	message.options_size = MAXALIGN(counts->options->size);
	size = VARHDRSZ + sizeof(Message) + message.options_size + sizeof(Row) * counts->count;
	if (size > MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rows of cdi_funnel_counts() are more than 1 GB, which a parallel worker cannot hand over"),
				 errhint("SET max_parallel_workers_per_gather = 0, or count cdi_window_funnel() over GROUP BY.")));
	result = palloc(size);
	SET_VARSIZE(result, size);
	place = VARDATA(result);
	memcpy(place, &message, sizeof(Message));
	memcpy(place + sizeof(Message), counts->options, counts->options->size);
	place += sizeof(Message) + message.options_size;
	for (uint32 chunk = 0; chunk < counts->nchunks; chunk++)
	{
		Size		rows = Min(counts->count - (uint64) chunk * CHUNK_ROWS, CHUNK_ROWS);

		memcpy(place, counts->chunks[chunk], sizeof(Row) * rows);
		place += sizeof(Row) * rows;
	}
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(cdi_funnel_counts_deserial);
Datum
cdi_funnel_counts_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	const char *place = VARDATA_ANY(input);
	Message		message;
	CdiFunnelOptions *options;
	Counts	   *counts;

	memcpy(&message, place, sizeof(Message));
	options = palloc(message.options_size);
	memcpy(options, place + sizeof(Message), message.options_size);
	counts = make_counts(CurrentMemoryContext, options);
	counts->count = message.count;
	counts->raw = place + sizeof(Message) + message.options_size;
	PG_RETURN_POINTER(counts);
}

static inline uint64
hash_person(const Row *row)
{
	/* the last steps of MurmurHash3 */
	uint64		hash = row->person[0] ^ row->person[1] * UINT64CONST(0x9E3779B97F4A7C15);

	hash = (hash ^ hash >> 33) * UINT64CONST(0xFF51AFD7ED558CCD);
	hash = (hash ^ hash >> 33) * UINT64CONST(0xC4CEB9FE1A85EC53);
	return hash ^ hash >> 33;
}

/* Tell people apart in one part, and count how far each gets. */
typedef struct Slots
{
	uint32		space;			/* a power of two */
	uint32	   *row_of;			/* of the first row of a person, + 1; 0: free */
	uint32	   *person_of;
} Slots;

static void
count_part(const CdiFunnelOptions *options, const Row *rows, uint32 n, int64 *levels)
{
	Slots		slots;
	uint32	   *person;
	uint32	   *ends;
	uint32		people = 0;
	CdiFunnelEntry *entries;

	slots.space = 16;
	while (slots.space < 2 * (uint64) n)
		slots.space *= 2;
	slots.row_of = palloc_extended(sizeof(uint32) * slots.space, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	slots.person_of = palloc_extended(sizeof(uint32) * slots.space, MCXT_ALLOC_HUGE);
	person = palloc_extended(sizeof(uint32) * n, MCXT_ALLOC_HUGE);
	ends = palloc_extended(sizeof(uint32) * ((Size) n + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	entries = palloc_extended(sizeof(CdiFunnelEntry) * n, MCXT_ALLOC_HUGE);

	for (uint32 i = 0; i < n; i++)
	{
		/* The low bits chose the part. */
		uint32		slot = (uint32) (hash_person(&rows[i]) >> 32) & (slots.space - 1);

		while (slots.row_of[slot] != 0 &&
			   memcmp(rows[slots.row_of[slot] - 1].person, rows[i].person, sizeof(rows[i].person)) != 0)
			slot = (slot + 1) & (slots.space - 1);
		if (slots.row_of[slot] == 0)
		{
			slots.row_of[slot] = i + 1;
			slots.person_of[slot] = people++;
		}
		person[i] = slots.person_of[slot];
		ends[person[i] + 1]++;
	}
	for (uint32 i = 0; i < people; i++)
		ends[i + 1] += ends[i];
	/* ends[i] is where person i begins, and in the end where it ends. */
	for (uint32 i = 0; i < n; i++)
		entries[ends[person[i]]++] = rows[i].entry;
	for (uint32 i = 0; i < people; i++)
	{
		uint32		begin = i > 0 ? ends[i - 1] : 0;
		uint32		count = ends[i] - begin;
		CdiFunnelPath path;

		CHECK_FOR_INTERRUPTS();
		for (uint32 k = begin + 1; k < ends[i]; k++)
			if (cdi_funnel_entry_is_before(&entries[k], &entries[k - 1]))
			{
				cdi_funnel_sort(&entries[begin], count);
				break;
			}
		cdi_funnel_find_path(options, &entries[begin], count, &path);
		levels[path.level]++;
	}
	pfree(slots.row_of);
	pfree(slots.person_of);
	pfree(person);
	pfree(ends);
	pfree(entries);
}

PG_FUNCTION_INFO_V1(cdi_funnel_counts_final);
Datum
cdi_funnel_counts_final(PG_FUNCTION_ARGS)
{
	Counts	   *counts;
	uint32		nparts = 1;
	uint64	   *ends;
	uint64		end = 0;
	Row		   *rows;
	int64		levels[CDI_FUNNEL_MAX_CONDITIONS + 1] = {0};
	Datum		reached[CDI_FUNNEL_MAX_CONDITIONS];

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	counts = (Counts *) PG_GETARG_POINTER(0);
	while (nparts < MAX_PARTS && (uint64) nparts * PART_ROWS < counts->count)
		nparts *= 2;
	rows = palloc_extended(sizeof(Row) * Max(counts->count, 1), MCXT_ALLOC_HUGE);
	ends = palloc0(sizeof(uint64) * (nparts + 1));
	for (int pass = 0; pass < 2; pass++)
	{
		for (uint32 chunk = 0; chunk < counts->nchunks; chunk++)
		{
			const Row  *from = counts->chunks[chunk];
			uint32		n = Min(counts->count - (uint64) chunk * CHUNK_ROWS, CHUNK_ROWS);

			CHECK_FOR_INTERRUPTS();
			for (uint32 i = 0; i < n; i++)
			{
				uint32		part = hash_person(&from[i]) & (nparts - 1);

				if (pass == 0)
					ends[part + 1]++;
				else
					rows[ends[part]++] = from[i];
			}
		}
		if (pass == 0)
			for (uint32 part = 0; part < nparts; part++)
				ends[part + 1] += ends[part];
	}
	for (uint32 part = 0; part < nparts; end = ends[part++])
		count_part(counts->options, &rows[end], ends[part] - end, levels);
	pfree(rows);
	pfree(ends);

	for (int step = counts->options->nsteps; step > 0; step--)
	{
		reached[step - 1] = Int64GetDatum(levels[step]);
		levels[step - 1] += levels[step];
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(reached, counts->options->nsteps, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
}
