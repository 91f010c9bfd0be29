/*
 * journeys.c
 *		Read conversions and touches and bring them together by person.
 *
 * Conversions are read first, into memory.  Touches are then read in whatever
 * order their relation has them, by an aggregate (journeys_parallel.c), so that
 * the planner is free to divide them over workers: those that no conversion can
 * be due to are dropped at once, the others are kept in records of fixed size
 * in parts by person (journeys_store.c), and sorted one person at a time.
 * Sorting the rows themselves would take most of the time.
 */
#include "attribution/journeys.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "executor/executor.h"
#include "executor/nodeHash.h"
#include <limits.h>

#include "executor/spi.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "attribution/attribution.h"
#include "attribution/journeys_private.h"
#include "base/errors.h"

/* Log2 of how many people one after the other are in the same part, at most */
#define MAX_RUN_BITS		8

typedef struct ConversionReceiver
{
	DestReceiver pub;
	CdiJourneys *journeys;
	int			kind;
} ConversionReceiver;

#define PERSON_WAITS		(-2)	/* for settle_conversions() */
/* Rows between the fetch of a place in the index and that of the person there */
#define ROWS_AHEAD			16

/*
 * The index of people is small: eight bytes each, twice as many places as
 * people at most half full, so that it stays in the processor's caches as long
 * as possible.
 */
static void
index_person(CdiJourneys *self, uint32 hash, int32 number)
{
	uint32		place = hash & self->person_mask;

	while (self->person_index[place] != 0)
		place = (place + 1) & self->person_mask;
	self->person_index[place] = (uint64) hash << 32 | (uint32) (number + 1);
}

static void
make_index(CdiJourneys *self, Size places)
{
	if (self->person_index)
		pfree(self->person_index);
	self->person_index = MemoryContextAllocExtended(self->context, sizeof(uint64) * places,
													MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	self->person_mask = (uint32) (places - 1);
	for (int32 i = 0; i < self->npersons; i++)
		index_person(self, cdi_person_hash(self->persons[i].id), i);
}

static int32
add_person(CdiJourneys *self, const pg_uuid_t *id, uint32 hash)
{
	CdiPersonSlot *slot;

	if (self->npersons == self->person_space)
	{
		if (self->npersons >= INT_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many people for one attribution"),
					 errhint("Attribute shorter spans of time by from_time and to_time.")));
		self->person_space *= 2;
		self->persons = repalloc_huge(self->persons, sizeof(CdiPersonSlot) * self->person_space);
		self->person_paths = repalloc_huge(self->person_paths, sizeof(CdiPersonPath) * self->person_space);
		make_index(self, 2 * (Size) self->person_space);
	}
	memset(&self->person_paths[self->npersons], 0, sizeof(CdiPersonPath));
	slot = &self->persons[self->npersons];
	slot->id = *id;
	slot->earliest = DT_NOEND;
	slot->latest = DT_NOBEGIN;
	index_person(self, hash, self->npersons);
	return self->npersons++;
}

/* Number of a person, or -1 */
static inline int32
find_person(CdiJourneys *self, const pg_uuid_t *id, uint32 hash, bool add)
{
	for (uint32 place = hash & self->person_mask; self->person_index[place] != 0; place = (place + 1) & self->person_mask)
	{
		int32		number = (int32) (uint32) self->person_index[place] - 1;

		if (self->person_index[place] >> 32 == hash &&
			memcmp(&self->persons[number].id, id, sizeof(pg_uuid_t)) == 0)
			return number;
	}
	return add ? add_person(self, id, hash) : -1;
}

bool
cdi_journeys_converts(const CdiJourneys *self, const pg_uuid_t *person)
{
	return find_person(unconstify(CdiJourneys *, self), person, cdi_person_hash(*person), false) >= 0;
}

static inline CdiTouch *
touch_at(const CdiJourneys *self, uint32 number)
{
	return (CdiTouch *) (self->touches + self->stride * number);
}

/* The person who comes after one in its part, or first (after -1) */
static inline int32
next_in_part(const CdiJourneys *self, int part, int32 person)
{
	int32		run = 1 << self->run_bits;

	if (person < 0)
		return part * run;
	person++;
	return person % run != 0 ? person : person + (CDI_JOURNEY_PARTS - 1) * run;
}

void
cdi_journeys_start_touches(CdiJourneys *self, BufFile *file)
{
	self->stride = offsetof(CdiTouch, session_id) + (self->request->sessions ? sizeof(pg_uuid_t) : 0);
	self->waiting = MemoryContextAlloc(self->context, self->stride * CDI_WAITING_ROWS);
	self->nwaiting = 0;
	self->store = cdi_touch_store_create(self->context, self->stride, file);
}

/* Keep a touch of a person who may owe it a conversion. */
static void
add_touch(CdiJourneys *self, const CdiTouch *touch, int32 number)
{
	CdiPersonSlot *person = &self->persons[number];
	CdiTouch   *kept;

	if (!self->request->everyone && (touch->at < person->earliest || touch->at > person->latest))
		return;
	kept = cdi_touch_store_add(self->store, cdi_journeys_part(self, number));
	memcpy(kept, touch, self->stride);
	kept->person = number;
}

/* What is known of the person where its place in the index points */
static inline void
prefetch_person(const CdiJourneys *self, uint32 hash)
{
	uint64		entry = self->person_index[hash & self->person_mask];
	const CdiPersonSlot *person;

	if (entry == 0)
		return;
	person = &self->persons[(uint32) entry - 1];
	__builtin_prefetch(person);
	__builtin_prefetch(&person->latest);
}

/*
 * Let a person wait to be looked up.  Nearly each look-up is a cache miss in
 * the index and one among the people: they are fetched while rows come in.
 */
static inline void
wait_for_person(CdiJourneys *self, const pg_uuid_t *id)
{
	uint32		hash = cdi_person_hash(*id);
	int			n = self->nwaiting++;

	self->waiting_people[n] = *id;
	self->waiting_hashes[n] = hash;
	__builtin_prefetch(&self->person_index[hash & self->person_mask]);
	if (n >= ROWS_AHEAD)
		prefetch_person(self, self->waiting_hashes[n - ROWS_AHEAD]);
}

/* Find the people of the touches that wait. */
void
cdi_journeys_take_rest(CdiJourneys *self)
{
	int32		numbers[CDI_WAITING_ROWS];
	int			n = self->nwaiting;

	for (int i = Max(n - ROWS_AHEAD, 0); i < n; i++)
		prefetch_person(self, self->waiting_hashes[i]);
	for (int i = 0; i < n; i++)
		numbers[i] = find_person(self, &self->waiting_people[i], self->waiting_hashes[i], self->request->everyone);
	for (int i = 0; i < n; i++)
		if (numbers[i] >= 0)
			add_touch(self, (CdiTouch *) (self->waiting + i * self->stride), numbers[i]);
	self->nwaiting = 0;
}

void
cdi_journeys_take_touch(CdiJourneys *self, const NullableDatum *columns)
{
	CdiTouch   *touch = (CdiTouch *) (self->waiting + self->nwaiting * self->stride);
	TimestampTz at = DatumGetTimestampTz(columns[CDI_TOUCH_AT].value);

	if (columns[CDI_TOUCH_PERSON].isnull || columns[CDI_TOUCH_AT].isnull)
		return;
	if (!TIMESTAMP_NOT_FINITE(at))
		self->seen_until = Max(self->seen_until, at);
	wait_for_person(self, DatumGetUUIDP(columns[CDI_TOUCH_PERSON].value));
	touch->at = at;
	touch->position = columns[CDI_TOUCH_POSITION].isnull ? 0 : DatumGetInt64(columns[CDI_TOUCH_POSITION].value);
	touch->type = -1;
	if (!columns[CDI_TOUCH_TYPE].isnull)
		touch->type = cdi_journeys_intern_type(self, cdi_journeys_text(PointerGetDatum(DatumGetTextPP(columns[CDI_TOUCH_TYPE].value))));
	touch->label = cdi_journeys_intern_label(self, columns + CDI_TOUCH_DIMENSIONS);
	if (self->request->sessions)
	{
		if (columns[CDI_TOUCH_SESSION].isnull)
			memset(touch->session_id, 0, sizeof(pg_uuid_t));
		else
			memcpy(touch->session_id, DatumGetUUIDP(columns[CDI_TOUCH_SESSION].value), sizeof(pg_uuid_t));
	}
	if (self->nwaiting == CDI_WAITING_ROWS)
		cdi_journeys_take_rest(self);
}

/* Widen what the person's touches may be by a conversion's windows. */
static void
widen(CdiJourneys *self, CdiConversion *conversion)
{
	CdiPersonSlot *person = &self->persons[conversion->person];
	const CdiDefinition *definition = &self->definitions[conversion->definition];
	TimestampTz start = cdi_window_start(conversion->at, &definition->lookback);

	for (int i = 0; i < definition->nwindows; i++)
		start = Min(start, cdi_window_start(conversion->at, &definition->windows[i]));
	person->earliest = Min(person->earliest, start);
	person->latest = Max(person->latest, conversion->at);
	self->earliest = Min(self->earliest, start);
	self->latest = Max(self->latest, conversion->at);
}

/* Find the people of the conversions that wait. */
static void
settle_conversions(CdiJourneys *self)
{
	int64		kept = self->nsettled;
	int			waiting = 0;

	for (int64 i = self->nsettled; i < self->nconversions; i++)
	{
		CdiConversion *conversion = &self->conversions[i];
		bool		milestone = conversion->kind != CDI_COUNTED;

		if (conversion->person == PERSON_WAITS)
		{
			conversion->person = find_person(self, &self->waiting_people[waiting], self->waiting_hashes[waiting], !milestone);
			waiting++;
			if (conversion->person < 0)
				continue;
			if (!milestone)
				widen(self, conversion);
		}
		if (kept < i)
			self->conversions[kept] = *conversion;
		kept++;
	}
	self->nconversions = self->nsettled = kept;
	self->nwaiting = 0;
}

/* What a conversion has and a milestone has not */
static void
describe_conversion(CdiJourneys *self, CdiConversion *conversion, TupleTableSlot *slot)
{
	conversion->definition = cdi_journeys_find_definition(self, slot->tts_values[CDI_CONVERSION_NAME]);
	self->definitions[conversion->definition].nconversions++;
	if (!TIMESTAMP_NOT_FINITE(conversion->at))
		self->seen_until = Max(self->seen_until, conversion->at);
	if (!slot->tts_isnull[CDI_CONVERSION_VALUE])
	{
		MemoryContext previous = MemoryContextSwitchTo(self->value_context);

		conversion->value = datumCopy(slot->tts_values[CDI_CONVERSION_VALUE], false, -1);
		MemoryContextSwitchTo(previous);
	}
}

/* receiveSlot: a conversion, or a milestone on the way to one */
static bool
receive_conversion(TupleTableSlot *slot, DestReceiver *receiver)
{
	ConversionReceiver *context = (ConversionReceiver *) receiver;
	CdiJourneys *self = context->journeys;
	CdiConversion *conversion;
	bool		milestone = context->kind != CDI_COUNTED;

	slot_getallattrs(slot);
	if (slot->tts_isnull[CDI_CONVERSION_AT] || slot->tts_isnull[CDI_CONVERSION_NAME])
		return true;
	if (milestone && slot->tts_isnull[CDI_CONVERSION_PERSON])
		return true;
	if (self->nconversions == self->conversion_space)
	{
		self->conversion_space *= 2;
		self->conversions = repalloc_huge(self->conversions, sizeof(CdiConversion) * self->conversion_space);
	}
	conversion = &self->conversions[self->nconversions];
	memset(conversion, 0, sizeof(*conversion));
	conversion->person = -1;
	conversion->definition = -1;
	conversion->kind = context->kind;
	conversion->at = DatumGetTimestampTz(slot->tts_values[CDI_CONVERSION_AT]);
	if (!slot->tts_isnull[CDI_CONVERSION_POSITION])
		conversion->position = DatumGetInt64(slot->tts_values[CDI_CONVERSION_POSITION]);
	if (!slot->tts_isnull[CDI_CONVERSION_EVENT])
		conversion->event_id = *DatumGetUUIDP(slot->tts_values[CDI_CONVERSION_EVENT]);
	self->nconversions++;
	if (!slot->tts_isnull[CDI_CONVERSION_PERSON])
	{
		conversion->person = PERSON_WAITS;
		wait_for_person(self, DatumGetUUIDP(slot->tts_values[CDI_CONVERSION_PERSON]));
	}
	if (!milestone)
		describe_conversion(self, conversion, slot);
	if (self->nwaiting == CDI_WAITING_ROWS)
		settle_conversions(self);
	return true;
}

static int
compare_conversions(const void *a, const void *b, void *arg)
{
	const CdiConversion *left = a;
	const CdiConversion *right = b;
	const CdiJourneys *self = arg;

	if (left->person != right->person)
		return left->person < right->person ? -1 : 1;
	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	if (left->position != right->position)
		return left->position < right->position ? -1 : 1;
	if (left->definition != right->definition && left->definition >= 0 && right->definition >= 0)
		return strcmp(self->definitions[left->definition].name, self->definitions[right->definition].name);
	return left->kind - right->kind;
}

static int
compare_texts(CdiText left, CdiText right)
{
	int			order = memcmp(left.data, right.data, Min(left.len, right.len));

	return order != 0 ? order : left.len - right.len;
}

/* By what two touches say, the channel first */
static int
compare_labels(const CdiJourneys *self, const CdiTouchLabel *left, const CdiTouchLabel *right)
{
	int			order = compare_texts(left->channel, right->channel);

	if (order == 0)
		order = compare_texts(left->path_label, right->path_label);
	for (int i = 0; order == 0 && i < self->request->ndimensions; i++)
		order = compare_texts(cdi_journeys_text(left->values[i]), cdi_journeys_text(right->values[i]));
	return order;
}

static int
compare_touches(const void *a, const void *b, void *arg)
{
	const CdiJourneys *self = arg;
	const CdiTouch *left = *(CdiTouch *const *) a;
	const CdiTouch *right = *(CdiTouch *const *) b;
	int			order = 0;

	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	if (left->position != right->position)
		return left->position < right->position ? -1 : 1;
	/* A relation of the caller's own need not have a position, and its rows come in any order. */
	if (left->label != right->label)
		order = compare_labels(self, &self->labels[left->label], &self->labels[right->label]);
	if (order == 0 && left->type != right->type)
		order = left->type < 0 || right->type < 0 ? left->type - right->type :
			compare_texts(self->types[left->type], self->types[right->type]);
	if (order == 0 && self->request->sessions)
		order = memcmp(left->session_id, right->session_id, sizeof(pg_uuid_t));
	return order;
}

static void
collect_touches(CdiJourneys *self, uint32 head, CdiJourney *journey)
{
	bool		sorted = true;
	int			n = 0;

	for (uint32 number = head; number > 0; n++)
	{
		if (n == self->path_space)
		{
			self->path_space *= 2;
			self->path = repalloc_huge(self->path, sizeof(CdiTouch *) * self->path_space);
		}
		self->path[n] = touch_at(self, number - 1);
		number = self->path[n]->next;
	}
	/* The chain has the last first. */
	for (int i = 0; i < n / 2; i++)
	{
		CdiTouch   *touch = self->path[i];

		self->path[i] = self->path[n - 1 - i];
		self->path[n - 1 - i] = touch;
	}
	for (int i = 1; i < n && sorted; i++)
		sorted = compare_touches(&self->path[i - 1], &self->path[i], self) <= 0;
	if (!sorted)
		qsort_arg(self->path, n, sizeof(CdiTouch *), compare_touches, self);
	journey->touches = self->path;
	journey->ntouches = n;
}

static void
visit_person(CdiJourneys *self, int32 number, void (*visit) (void *arg, const CdiJourney *journey), void *arg)
{
	const CdiPersonPath *person = &self->person_paths[number];
	CdiJourney	journey = {.person = self->persons[number].id,.has_person = true};

	CHECK_FOR_INTERRUPTS();
	journey.conversions = self->conversions + person->first_conversion;
	journey.nconversions = person->nconversions;
	collect_touches(self, person->head, &journey);
	visit(arg, &journey);
}

/* The touches of the people of one part */
static void
load_part(CdiJourneys *self, int part)
{
	ListCell   *cell;
	uint64		n = cdi_touch_store_count(self->store, part);
	char	   *end;

	foreach(cell, self->others)
		n += cdi_touch_store_count(lfirst(cell), part);
	if (n >= PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many touches for one attribution"),
				 errhint("Attribute shorter spans of time by from_time and to_time.")));
	if (self->stride * n > self->touch_space)
	{
		if (self->touches)
			pfree(self->touches);
		self->touch_space = self->stride * n;
		self->touches = MemoryContextAllocHuge(self->context, self->touch_space);
	}
	end = self->touches + self->stride * cdi_touch_store_count(self->store, part);
	cdi_touch_store_read(self->store, part, end);
	foreach(cell, self->others)
	{
		end += self->stride * cdi_touch_store_count(lfirst(cell), part);
		cdi_touch_store_read(lfirst(cell), part, end);
	}

	for (int32 i = next_in_part(self, part, -1); i < self->npersons; i = next_in_part(self, part, i))
		self->person_paths[i].head = 0;
	for (uint32 i = 0; i < n; i++)
	{
		CdiTouch   *touch = touch_at(self, i);
		CdiPersonPath *person = &self->person_paths[touch->person];

		touch->next = person->head;
		person->head = i + 1;
	}
}

void
cdi_journeys_visit(CdiJourneys *self, void (*visit) (void *arg, const CdiJourney *journey), void *arg)
{
	/* Conversions of nobody lead, each by itself. */
	for (int64 i = 0; i < self->nconversions && self->conversions[i].person < 0; i++)
	{
		CdiJourney	journey = {.conversions = &self->conversions[i],.nconversions = 1};

		CHECK_FOR_INTERRUPTS();
		visit(arg, &journey);
	}
	for (int part = 0; part < CDI_JOURNEY_PARTS && self->npersons > 0; part++)
	{
		load_part(self, part);
		for (int32 i = next_in_part(self, part, -1); i < self->npersons; i = next_in_part(self, part, i))
			visit_person(self, i, visit, arg);
	}
}

static ParamListInfo
make_params(int n, const Oid *types, const Datum *values, const bool *nulls)
{
	ParamListInfo params = makeParamList(n);

	for (int i = 0; i < n; i++)
		params->params[i] = (ParamExternData) {values[i], nulls[i], PARAM_FLAG_CONST, types[i]};
	return params;
}

static void
start_receiving(DestReceiver *receiver, int operation, TupleDesc desc)
{
}

static void
stop_receiving(DestReceiver *receiver)
{
}

/* Of one name, or (NULL) all */
static void
read_conversions_of(CdiJourneys *self, const char *name, CdiConversionKind kind)
{
	const CdiJourneyRequest *request = self->request;
	const Oid	types[] = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	const Datum values[] = {name ? CStringGetTextDatum(name) : (Datum) 0,
		TimestampTzGetDatum(request->from_time), TimestampTzGetDatum(request->to_time)};
	const bool	nulls[] = {name == NULL, kind != CDI_COUNTED || !request->has_from, kind != CDI_COUNTED || !request->has_to};
	ConversionReceiver receiver = {
		.pub = {receive_conversion, start_receiving, stop_receiving, stop_receiving, DestNone},
		.journeys = self,.kind = kind
	};

	cdi_journeys_run(cdi_journeys_plan(cdi_journeys_conversion_query(self),
									   make_params(lengthof(types), types, values, nulls), true, &receiver.pub), true);
	settle_conversions(self);
}

static void
read_conversions(CdiJourneys *self)
{
	const CdiJourneyRequest *request = self->request;

	read_conversions_of(self, request->conversion, CDI_COUNTED);
	for (int i = 0; i < request->nmilestones; i++)
		if (request->milestones[i])
			read_conversions_of(self, request->milestones[i], CDI_MILESTONE + i);
	qsort_arg(self->conversions, self->nconversions, sizeof(CdiConversion), compare_conversions, self);
	for (int64 i = 0; i < self->nconversions; i++)
	{
		CdiPersonPath *person;

		if (self->conversions[i].person < 0)
			continue;
		person = &self->person_paths[self->conversions[i].person];
		if (person->nconversions++ == 0)
			person->first_conversion = i;
	}
}

static void
read_touches(CdiJourneys *self)
{
	bool		everyone = self->request->everyone;
	const Oid	types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID};
	const Datum values[] = {TimestampTzGetDatum(self->earliest), TimestampTzGetDatum(self->latest),
		cdi_journeys_start_reading(self)};
	const bool	nulls[] = {everyone, everyone, false};
	ParamListInfo params = make_params(lengthof(types), types, values, nulls);
	QueryDesc  *query;

	/* Whether people have to be shared is only known when there is a plan. */
	params->params[2].pflags = 0;

	/*
	 * Columns that are missing are to be told in any case.  Workers cannot add
	 * people, so those who have no conversion are read by one process.
	 */
	query = cdi_journeys_plan(cdi_journeys_touch_query(self), params, !everyone, None_Receiver);
	if (self->npersons == 0 && !everyone)
	{
		FreeQueryDesc(query);
		return;
	}
	/* Neighbours share cache lines; a part has so many runs that parts are about even. */
	while (self->run_bits < MAX_RUN_BITS && self->npersons >> self->run_bits >= 32 * CDI_JOURNEY_PARTS)
		self->run_bits++;
	cdi_journeys_start_touches(self, NULL);
	cdi_journeys_run(query, query->plannedstmt->parallelModeNeeded && cdi_journeys_share(self, &params->params[2].value));
	cdi_journeys_take_rest(self);
}

CdiJourneys *
cdi_journeys_read(MemoryContext context, const CdiJourneyRequest *request)
{
	CdiJourneys *self;
	MemoryContext own = AllocSetContextCreate(context, "cdi journeys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(own);

	self = palloc0(sizeof(CdiJourneys));
	self->context = own;
	self->request = request;
	self->value_context = GenerationContextCreate(own, "cdi values of conversions", 0, 1024 * 1024, 1024 * 1024);
	self->earliest = DT_NOEND;
	self->latest = DT_NOBEGIN;
	self->seen_until = MIN_TIMESTAMP;
	self->person_space = self->conversion_space = self->path_space = 1024;
	self->persons = palloc(sizeof(CdiPersonSlot) * self->person_space);
	self->person_paths = palloc(sizeof(CdiPersonPath) * self->person_space);
	self->conversions = palloc(sizeof(CdiConversion) * self->conversion_space);
	self->path = palloc(sizeof(CdiTouch *) * self->path_space);
	make_index(self, 2 * (Size) self->person_space);
	self->path_dimension = cdi_journeys_dimension(self, request->options->label);
	self->channel_dimension = cdi_journeys_dimension(self, "channel");
	cdi_journeys_start_labels(self);
	MemoryContextSwitchTo(previous);

	cdi_journeys_load_definitions(self);
	read_conversions(self);
	read_touches(self);
	return self;
}

void
cdi_journeys_free(CdiJourneys *self)
{
	dsm_segment *shared = self->shared;
	ListCell   *cell;

	if (self->store)
		cdi_touch_store_close(self->store);
	foreach(cell, self->others)
		cdi_touch_store_close(lfirst(cell));
	MemoryContextDelete(self->context);
	if (shared)
		dsm_detach(shared);
}

TimestampTz
cdi_window_start(TimestampTz at, const Interval *lookback)
{
	int64		days;
	TimestampTz start;

	if (TIMESTAMP_NOT_FINITE(at))
		return at;
	if (lookback->month != 0)
	{
		/* As far back as time goes */
		if (at / USECS_PER_DAY - (int64) lookback->month * 31 < MIN_TIMESTAMP / USECS_PER_DAY)
			return MIN_TIMESTAMP;
		at = DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval, TimestampGetDatum(at),
												   IntervalPGetDatum((&(Interval) {.month = lookback->month}))));
	}
	if (pg_mul_s64_overflow(lookback->day, USECS_PER_DAY, &days) ||
		pg_sub_s64_overflow(at, days, &start) || pg_sub_s64_overflow(start, lookback->time, &start) ||
		start < MIN_TIMESTAMP)
		return MIN_TIMESTAMP;
	return start;
}
