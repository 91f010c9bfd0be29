/*
 * journeys_parallel.c
 *		Touches are read by an aggregate, which workers may share.
 *
 * cdi._journey_touches() has no result but the touches that its processes
 * keep.  In the leader its state is the CdiJourneys that asked for it.  A worker
 * makes one of its own, which sees the people in shared memory, numbers labels
 * for itself and keeps its touches in a file of a shared set; its state as bytes
 * says where they are.
 *
 * Anybody may call the functions that have no argument of type internal.  They
 * get numbers, which must be those of an attribution that runs in this session,
 * and check what else they are given.
 */
#include "attribution/journeys_private.h"

#include "access/parallel.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/sharedfileset.h"
#include "utils/memutils.h"

enum
{
	ARG_STATE, ARG_READING, ARG_COLUMNS
};

/* Readings that run in this process, the last one first; their numbers */
static CdiJourneys *readings = NULL;
static uint32 last_reading = 0;

#define SHARED_MAGIC	UINT64CONST(0x6a6f75726e657973)

/* In shared memory; the people follow, then their index. */
typedef struct SharedPeople
{
	uint64		magic;
	int			leader;			/* its process id */
	SharedFileSet files;
	pg_atomic_uint32 nfiles;
	int32		npersons;
	uint32		person_mask;
	int			run_bits;
	int			ndimensions;
	bool		sessions;
} SharedPeople;

/* What a worker's state is as bytes.  Labels and types follow the touches in the file. */
typedef struct WorkerTouches
{
	uint32		reading;
	uint32		file;
	int			nlabels;
	int			ntypes;
	TimestampTz seen_until;
	CdiStoredPart parts[CDI_JOURNEY_PARTS];
} WorkerTouches;

static CdiPersonSlot *
people_of(SharedPeople *shared)
{
	return (CdiPersonSlot *) ((char *) shared + MAXALIGN(sizeof(SharedPeople)));
}

static uint64 *
index_of(SharedPeople *shared)
{
	return (uint64 *) (people_of(shared) + shared->npersons);
}

static void
see_people(CdiJourneys *self, SharedPeople *shared)
{
	self->npersons = shared->npersons;
	self->persons = people_of(shared);
	self->person_index = index_of(shared);
	self->person_mask = shared->person_mask;
	self->run_bits = shared->run_bits;
}

static void
end_reading(void *arg)
{
	CdiJourneys **link = &readings;

	while (*link != arg)
		link = &(*link)->outer;
	*link = (*link)->outer;
}

Datum
cdi_journeys_start_reading(CdiJourneys *self)
{
	MemoryContextCallback *callback = MemoryContextAllocZero(self->context, sizeof(MemoryContextCallback));

	self->reading = ++last_reading;
	self->outer = readings;
	readings = self;
	callback->func = end_reading;
	callback->arg = self;
	MemoryContextRegisterResetCallback(self->context, callback);
	return Int64GetDatum(self->reading);
}

static void pg_attribute_noreturn()
refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("there is no attribution that reads touches"),
			 errhint("This function is for cdi_attribution() and cdi_attribution_report() alone.")));
}

static CdiJourneys *
find_reading(uint32 number)
{
	for (CdiJourneys *self = readings; self; self = self->outer)
		if (self->reading == number)
			return self;
	refuse();
}

bool
cdi_journeys_share(CdiJourneys *self, Datum *reading)
{
	Size		places = (Size) self->person_mask + 1;
	SharedPeople *shared;

	Assert(!self->request->everyone);
	self->shared = dsm_create(MAXALIGN(sizeof(SharedPeople)) + sizeof(CdiPersonSlot) * self->npersons +
							  sizeof(uint64) * places, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (self->shared == NULL)
		return false;
	shared = dsm_segment_address(self->shared);
	shared->magic = SHARED_MAGIC;
	shared->leader = MyProcPid;
	SharedFileSetInit(&shared->files, self->shared);
	pg_atomic_init_u32(&shared->nfiles, 0);
	shared->npersons = self->npersons;
	shared->person_mask = self->person_mask;
	shared->run_bits = self->run_bits;
	shared->ndimensions = self->request->ndimensions;
	shared->sessions = self->request->sessions;
	memcpy(people_of(shared), self->persons, sizeof(CdiPersonSlot) * self->npersons);
	memcpy(index_of(shared), self->person_index, sizeof(uint64) * places);
	pfree(self->persons);
	pfree(self->person_index);
	see_people(self, shared);
	*reading = Int64GetDatum((int64) ((uint64) dsm_segment_handle(self->shared) << 32 | self->reading));
	return true;
}

static void
file_name(char *name, uint32 number)
{
	snprintf(name, MAXPGPATH, "touches.%u", number);
}

/*
 * What a worker sees: the people, and what of a touch is kept.  A plan may come
 * here several times, as for partitions, or for the touches and their people.
 */
static CdiJourneys *
attach(MemoryContext context, int64 reading)
{
	dsm_handle	handle = (dsm_handle) ((uint64) reading >> 32);
	CdiJourneys *self = MemoryContextAllocZero(context, sizeof(CdiJourneys));
	CdiJourneyRequest *request = MemoryContextAllocZero(context, sizeof(CdiJourneyRequest));
	SharedPeople *shared;
	bool		attached = false;

	self->shared = dsm_find_mapping(handle);
	if (self->shared == NULL)
	{
		self->shared = dsm_attach(handle);
		attached = true;
	}
	shared = self->shared ? dsm_segment_address(self->shared) : NULL;
	/* It might be anybody's segment, or one that this worker has of its plan. */
	if (shared == NULL || dsm_segment_map_length(self->shared) < sizeof(SharedPeople) ||
		shared->magic != SHARED_MAGIC || shared->leader != MyProc->lockGroupLeader->pid)
		refuse();
	if (attached)
	{
		/* as long as the worker is there */
		dsm_pin_mapping(self->shared);
		SharedFileSetAttach(&shared->files, self->shared);
	}
	self->context = context;
	self->request = request;
	request->ndimensions = shared->ndimensions;
	request->sessions = shared->sessions;
	see_people(self, shared);
	return self;
}

/* The state of a worker */
static CdiJourneys *
begin_worker(MemoryContext parent, int64 reading)
{
	MemoryContext context = AllocSetContextCreate(parent, "cdi touches", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	CdiJourneys *self = attach(context, reading);
	SharedPeople *shared = dsm_segment_address(self->shared);
	char		name[MAXPGPATH];

	self->reading = (uint32) reading;
	self->seen_until = MIN_TIMESTAMP;
	self->file_number = pg_atomic_fetch_add_u32(&shared->nfiles, 1);
	file_name(name, self->file_number);
	self->file = BufFileCreateFileSet(&shared->files.fs, name);
	cdi_journeys_start_labels(self);
	cdi_journeys_start_touches(self, self->file);
	MemoryContextSwitchTo(previous);
	return self;
}

/* Columns must be as many as are read, and the dimensions text. */
static void
check_columns(FunctionCallInfo fcinfo, const CdiJourneys *self)
{
	bool		fit = PG_NARGS() == ARG_COLUMNS + CDI_TOUCH_DIMENSIONS + self->request->ndimensions;

	for (int i = ARG_COLUMNS + CDI_TOUCH_DIMENSIONS; fit && i < PG_NARGS(); i++)
		fit = get_fn_expr_argtype(fcinfo->flinfo, i) == TEXTOID;
	if (!fit)
		refuse();
}

/*
 * _journey_touches_add(state internal, reading bigint,
 *						person_id uuid, touched_at timestamptz, "position" bigint,
 *						touch_type text, session_id uuid, VARIADIC dimensions "any")
 */
PG_FUNCTION_INFO_V1(cdi_journey_touches_add);
Datum
cdi_journey_touches_add(PG_FUNCTION_ARGS)
{
	CdiJourneys *self = PG_ARGISNULL(ARG_STATE) ? NULL : (CdiJourneys *) PG_GETARG_POINTER(ARG_STATE);

	if (unlikely(self == NULL))
	{
		int64		reading = PG_ARGISNULL(ARG_READING) ? 0 : PG_GETARG_INT64(ARG_READING);
		MemoryContext context;

		if (!AggCheckCallContext(fcinfo, &context))
			elog(ERROR, "aggregate function called in non-aggregate context");
		self = IsParallelWorker() ? begin_worker(context, reading) : find_reading((uint32) reading);
		check_columns(fcinfo, self);
	}
	cdi_journeys_take_touch(self, fcinfo->args + ARG_COLUMNS);
	PG_RETURN_POINTER(self);
}

/*
 * _journey_converts(reading bigint, person_id uuid)
 *
 * In a view that computes touches, the planner lets this decide as early as
 * the view allows it: there is no need to compute those of people who do not.
 */
PG_FUNCTION_INFO_V1(cdi_journey_converts);
Datum
cdi_journey_converts(PG_FUNCTION_ARGS)
{
	int64		reading = PG_GETARG_INT64(0);
	const CdiJourneys *self = fcinfo->flinfo->fn_extra;

	if (!IsParallelWorker())
		self = find_reading((uint32) reading);
	else if (self == NULL)
		self = fcinfo->flinfo->fn_extra = attach(fcinfo->flinfo->fn_mcxt, reading);
	PG_RETURN_BOOL(cdi_journeys_converts(self, PG_GETARG_UUID_P(1)));
}

/* A length of -1 says null. */
static void
write_text(BufFile *file, CdiText text)
{
	BufFileWrite(file, &text.len, sizeof(int));
	if (text.len > 0)
		BufFileWrite(file, unconstify(char *, text.data), text.len);
}

static void
read_bytes(BufFile *file, void *bytes, Size size)
{
	if (BufFileRead(file, bytes, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read a temporary file of touches")));
}

/* A text value, in memory of its own; 0: null */
static Datum
read_text(BufFile *file)
{
	int			len;
	text	   *value;

	read_bytes(file, &len, sizeof(int));
	if (len < 0)
		return (Datum) 0;
	value = palloc(VARHDRSZ + len);
	SET_VARSIZE(value, VARHDRSZ + len);
	read_bytes(file, VARDATA(value), len);
	return PointerGetDatum(value);
}

/* _journey_touches_serialise(state internal) */
PG_FUNCTION_INFO_V1(cdi_journey_touches_serialise);
Datum
cdi_journey_touches_serialise(PG_FUNCTION_ARGS)
{
	CdiJourneys *self = (CdiJourneys *) PG_GETARG_POINTER(0);
	bytea	   *bytes = palloc0(VARHDRSZ + sizeof(WorkerTouches));
	WorkerTouches touches = {.reading = self->reading};

	if (IsParallelWorker())
	{
		cdi_journeys_take_rest(self);
		touches.file = self->file_number;
		touches.nlabels = self->nlabels;
		touches.ntypes = self->ntypes;
		touches.seen_until = self->seen_until;
		cdi_touch_store_write(self->store, touches.parts);
		for (int l = 0; l < self->nlabels; l++)
			for (int d = 0; d < self->request->ndimensions; d++)
			{
				Datum		value = self->labels[l].values[d];

				write_text(self->file, value == (Datum) 0 ? (CdiText) {"", -1} : cdi_journeys_text(value));
			}
		for (int t = 0; t < self->ntypes; t++)
			write_text(self->file, self->types[t]);
		BufFileExportFileSet(self->file);
		cdi_touch_store_close(self->store);
	}
	SET_VARSIZE(bytes, VARHDRSZ + sizeof(WorkerTouches));
	memcpy(VARDATA(bytes), &touches, sizeof(WorkerTouches));
	PG_RETURN_BYTEA_P(bytes);
}

/* Takes what a worker has left. */
static void
take_worker(CdiJourneys *self, const WorkerTouches *touches)
{
	MemoryContext previous = MemoryContextSwitchTo(self->context);
	SharedPeople *shared = dsm_segment_address(self->shared);
	int			ndimensions = self->request->ndimensions;
	NullableDatum *dimensions = palloc(sizeof(NullableDatum) * ndimensions);
	int32	   *labels = palloc_extended(sizeof(int32) * Max(touches->nlabels, 1), MCXT_ALLOC_HUGE);
	int32	   *types = palloc_extended(sizeof(int32) * Max(touches->ntypes, 1), MCXT_ALLOC_HUGE);
	int64		nblocks = 0;
	BufFile    *file;
	char		name[MAXPGPATH];

	file_name(name, touches->file);
	file = BufFileOpenFileSet(&shared->files.fs, name, O_RDONLY, false);
	for (int i = 0; i < CDI_JOURNEY_PARTS; i++)
		nblocks = Max(nblocks, touches->parts[i].last_block + 1);
	if (BufFileSeekBlock(file, (long) nblocks) != 0)
		elog(ERROR, "could not seek in a temporary file of touches");
	for (int l = 0; l < touches->nlabels; l++)
	{
		for (int d = 0; d < ndimensions; d++)
		{
			dimensions[d].value = read_text(file);
			dimensions[d].isnull = dimensions[d].value == (Datum) 0;
		}
		labels[l] = cdi_journeys_intern_label(self, dimensions);
		for (int d = 0; d < ndimensions; d++)
			if (!dimensions[d].isnull)
				pfree(DatumGetPointer(dimensions[d].value));
	}
	for (int t = 0; t < touches->ntypes; t++)
		types[t] = cdi_journeys_intern_type(self, cdi_journeys_text(read_text(file)));
	self->others = lappend(self->others, cdi_touch_store_open(self->context, self->stride, file, touches->parts, labels, types));
	self->seen_until = Max(self->seen_until, touches->seen_until);
	MemoryContextSwitchTo(previous);
}

/* _journey_touches_deserialise(bytes bytea, state internal) */
PG_FUNCTION_INFO_V1(cdi_journey_touches_deserialise);
Datum
cdi_journey_touches_deserialise(PG_FUNCTION_ARGS)
{
	WorkerTouches touches;
	CdiJourneys *self;

	memcpy(&touches, VARDATA_ANY(PG_GETARG_BYTEA_PP(0)), sizeof(WorkerTouches));
	self = find_reading(touches.reading);
	if (touches.nlabels > 0)
		take_worker(self, &touches);
	PG_RETURN_POINTER(self);
}

/* _journey_touches_combine(state internal, other internal): both are the leader's */
PG_FUNCTION_INFO_V1(cdi_journey_touches_combine);
Datum
cdi_journey_touches_combine(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) && PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_POINTER(PG_GETARG_POINTER(PG_ARGISNULL(0) ? 1 : 0));
}

/* _journey_touches_end(state internal) */
PG_FUNCTION_INFO_V1(cdi_journey_touches_end);
Datum
cdi_journey_touches_end(PG_FUNCTION_ARGS)
{
	if (IsParallelWorker())
		elog(ERROR, "touches were read by a worker alone");
	PG_RETURN_BOOL(!PG_ARGISNULL(0));
}
