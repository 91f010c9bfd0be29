/*
 * people_part.c
 *		The people of one part of the rows.
 *
 * A part has a few thousand rows, so a hash table of its people and their
 * entries stay in the cache.  Each person's entries are chained while they are
 * read, for each aggregate on their own, and put together when it is that
 * person's turn.
 */
#include "behaviour/people.h"

#include "access/tupmacs.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define NOTHING		PG_UINT32_MAX

typedef struct Entry
{
	TimestampTz at;
	uint32		conditions;
	uint32		before;			/* of the same person and aggregate */
} Entry;

typedef struct Chain
{
	uint32		last;			/* entry */
	uint32		count;
} Chain;

typedef struct Person
{
	union
	{
		uint64		image[CDI_PEOPLE_KEY_IMAGE / sizeof(uint64)];
		struct varlena *value;
	}			key;
	uint32		hash;
	Chain		chains[FLEXIBLE_ARRAY_MEMBER];	/* by aggregate */
} Person;

struct CdiPeople
{
	CdiPeopleKey key;
	uint32		key_size;
	uint32		row_key;		/* where in a row its key is */
	MemoryContext context;
	MemoryContext values;		/* keys of this part whose size varies */
	bool		null_key;

	Entry	   *entries;
	uint32		nentries;
	uint32		entry_space;
	char	   *people;
	Size		person_size;
	uint32		npeople;
	uint32		person_space;	/* half of slots */
	uint32	   *slots;			/* number of a person; NOTHING: free */
	uint32		next;			/* person to be returned */
	const CdiPeopleAggregate *const *aggregates;
	int			naggregates;
	CdiPeopleEntry *events;		/* of one person */
	uint32		event_space;
	void	   *states[CDI_PEOPLE_MAX_AGGREGATES];
};

static inline Person *
person_of(const CdiPeople *people, uint32 number)
{
	return (Person *) (people->people + people->person_size * number);
}

static void
clear_slots(CdiPeople *people)
{
	memset(people->slots, 0xff, sizeof(uint32) * 2 * (Size) people->person_space);
}

static void
make_slots(CdiPeople *people, uint32 space)
{
	people->person_space = space;
	people->slots = MemoryContextAllocHuge(people->context, sizeof(uint32) * 2 * (Size) space);
	clear_slots(people);
}

CdiPeople *
cdi_people_open(MemoryContext context, const CdiPeopleKey *key,
				const CdiPeopleAggregate *const *aggregates, int naggregates)
{
	CdiPeople *people = MemoryContextAllocZero(context, sizeof(CdiPeople));

	people->key = *key;
	people->aggregates = aggregates;
	people->naggregates = naggregates;
	people->key_size = cdi_people_key_size(key);
	people->row_key = CDI_PEOPLE_ENTRY_SIZE * naggregates;
	people->person_size = MAXALIGN(offsetof(Person, chains) + sizeof(Chain) * naggregates);
	people->context = context;
	people->values = AllocSetContextCreate(context, "cdi people keys", ALLOCSET_DEFAULT_SIZES);
	people->event_space = 64;
	people->events = MemoryContextAlloc(context, sizeof(CdiPeopleEntry) * people->event_space);
	people->entry_space = 1024;
	people->entries = MemoryContextAlloc(context, sizeof(Entry) * people->entry_space);
	make_slots(people, 1024);
	people->people = MemoryContextAlloc(context, people->person_size * people->person_space);
	return people;
}

/* Twice as many people; they keep their numbers. */
static void
enlarge_people(CdiPeople *people)
{
	if (people->person_space > PG_UINT32_MAX / 4)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there are too many people for the plan that was chosen"),
				 errhint("SET cdi.enable_people_scan = off.")));
	pfree(people->slots);
	make_slots(people, people->person_space * 2);
	people->people = repalloc_huge(people->people, people->person_size * people->person_space);
	for (uint32 i = 0; i < people->npeople; i++)
	{
		uint32		mask = people->person_space * 2 - 1;
		uint32		slot = person_of(people, i)->hash & mask;

		while (people->slots[slot] != NOTHING)
			slot = (slot + 1) & mask;
		people->slots[slot] = i;
	}
}

static inline bool
is_person(const CdiPeople *people, const Person *person, uint32 hash,
		  const uint64 *image, const char *value, uint32 size)
{
	if (people->key_size > 0)
		return person->key.image[0] == image[0] && person->key.image[1] == image[1];
	return person->hash == hash && VARSIZE(person->key.value) - VARHDRSZ == size &&
		memcmp(VARDATA(person->key.value), value, size) == 0;
}

/* The person of a row; *size is what the row takes. */
static inline Person *
find_person(CdiPeople *people, const char *row, uint32 *size)
{
	uint64		image[CDI_PEOPLE_KEY_IMAGE / sizeof(uint64)] = {0};
	const char *value = row + people->row_key;
	uint32		value_size = people->key_size;
	uint32		mask;
	uint32		hash;
	uint32		slot;
	Person	   *person;

	*size = TYPEALIGN(sizeof(uint32), people->row_key + people->key_size);
	if (people->null_key)
		hash = 0;
	else if (people->key_size > 0)
	{
		memcpy(image, value, people->key_size);
		/* The low bits chose the part. */
		hash = cdi_people_hash_image(image) >> 32;
	}
	else
	{
		memcpy(&value_size, value, sizeof(uint32));
		value += sizeof(uint32);
		*size = TYPEALIGN(sizeof(uint32), people->row_key + sizeof(uint32) + value_size);
		hash = hash_bytes_extended((const unsigned char *) value, value_size, 0) >> 32;
	}

	mask = people->person_space * 2 - 1;
	for (slot = hash & mask; people->slots[slot] != NOTHING; slot = (slot + 1) & mask)
	{
		person = person_of(people, people->slots[slot]);
		if (people->null_key || is_person(people, person, hash, image, value, value_size))
			return person;
	}
	if (people->npeople == people->person_space)
	{
		enlarge_people(people);
		return find_person(people, row, size);
	}
	people->slots[slot] = people->npeople;
	person = person_of(people, people->npeople++);
	if (people->key_size > 0)
		memcpy(person->key.image, image, sizeof(image));
	else if (!people->null_key)
	{
		person->key.value = MemoryContextAllocHuge(people->values, VARHDRSZ + (Size) value_size);
		SET_VARSIZE(person->key.value, VARHDRSZ + value_size);
		memcpy(VARDATA(person->key.value), value, value_size);
	}
	person->hash = hash;
	for (int i = 0; i < people->naggregates; i++)
		person->chains[i] = (Chain) {NOTHING, 0};
	return person;
}

static void
add_entry(CdiPeople *people, Chain *chain, TimestampTz at, const char *conditions)
{
	Entry	   *entry;

	if (people->nentries == people->entry_space)
	{
		if (people->entry_space > PG_UINT32_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("there are too many events for the plan that was chosen"),
					 errhint("SET cdi.enable_people_scan = off.")));
		people->entry_space *= 2;
		people->entries = repalloc_huge(people->entries, sizeof(Entry) * (Size) people->entry_space);
	}
	entry = &people->entries[people->nentries];
	entry->at = at;
	memcpy(&entry->conditions, conditions, sizeof(uint32));
	entry->before = chain->last;
	chain->last = people->nentries++;
	chain->count++;
}

/* Reads the next part that has people. */
static bool
read_part(CdiPeople *people, CdiPeopleStore *store)
{
	const char *row;
	const char *end;

	people->next = 0;
	people->npeople = 0;
	while (people->npeople == 0)
	{
		if (!cdi_people_store_next_part(store, &people->null_key))
			return false;
		people->nentries = 0;
		clear_slots(people);
		MemoryContextReset(people->values);
		while (cdi_people_store_next_chunk(store, &row, &end))
		{
			while (row < end)
			{
				uint32		size;
				Person	   *person = find_person(people, row, &size);
				const char *entry = row;

				for (int i = 0; i < people->naggregates; i++, entry += CDI_PEOPLE_ENTRY_SIZE)
				{
					TimestampTz at;

					memcpy(&at, entry, sizeof(TimestampTz));
					if (at != CDI_PEOPLE_NO_TIME)
						add_entry(people, &person->chains[i], at, entry + CDI_PEOPLE_ENTRY_CONDITIONS);
				}
				row += size;
			}
		}
	}
	return true;
}

/* A person's events in one piece, the first to come first. */
static const CdiPeopleEntry *
events_of(CdiPeople *people, const Chain *chain)
{
	if (chain->count > people->event_space)
	{
		people->event_space = Max(chain->count, Min(people->event_space, PG_UINT32_MAX / 2) * 2);
		people->events = repalloc_huge(people->events, sizeof(CdiPeopleEntry) * (Size) people->event_space);
	}
	for (uint32 i = chain->count, from = chain->last; i-- > 0; from = people->entries[from].before)
	{
		people->events[i].at = people->entries[from].at;
		people->events[i].conditions = people->entries[from].conditions;
	}
	return people->events;
}

bool
cdi_people_next(CdiPeople *people, CdiPeopleStore *store, const CdiPeopleSettings *settings,
				Datum *key, bool *isnull, void **states)
{
	Person	   *person;
	MemoryContext previous;

	if (people->next == people->npeople && !read_part(people, store))
		return false;
	person = person_of(people, people->next++);

	*isnull = people->null_key;
	if (people->null_key)
		*key = (Datum) 0;
	else if (people->key_size == 0)
		*key = PointerGetDatum(person->key.value);
	else if (people->key.typbyval)
		*key = fetch_att(person->key.image, true, people->key.typlen);
	else
		*key = PointerGetDatum(person->key.image);

	previous = MemoryContextSwitchTo(people->context);
	for (int i = 0; i < people->naggregates; i++)
	{
		const Chain *chain = &person->chains[i];

		states[i] = NULL;
		if (chain->count == 0)
			continue;
		people->states[i] = people->aggregates[i]->make_state(people->states[i], settings[i].data,
															  events_of(people, chain), chain->count);
		states[i] = people->states[i];
	}
	MemoryContextSwitchTo(previous);
	return true;
}
