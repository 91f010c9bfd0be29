/*
 * people.h
 *		Aggregates over the events of each person, without the server's hash
 *		table of people; private to src/behaviour.
 *
 * people_plan.c puts a node into plans and people_scan.c is that node.
 * people_store.c keeps the rows, divided by person, people_part.c tells the
 * people of one part apart, and people_key.c makes one key of several.  What an
 * aggregate makes of a person's events is said by a CdiPeopleAggregate beside
 * its functions.
 */
#ifndef CDI_PEOPLE_STORE_H
#define CDI_PEOPLE_STORE_H

#include "behaviour/behaviour.h"

#include "nodes/primnodes.h"
#include "storage/dsm.h"
#include "utils/dsa.h"

/* What is kept of a row: when, and which conditions it meets. */
typedef struct CdiPeopleEntry
{
	TimestampTz at;
	uint32		conditions;
} CdiPeopleEntry;

/*
 * An aggregate that keeps times and conditions of rows.  Its arguments are
 * settings, a timestamp and conditions, numbered from 1; settings are the same
 * in all rows.
 */
typedef struct CdiPeopleAggregate
{
	int			timestamp;
	int			conditions;		/* the first; 0: none, each row counts as if it met one */

	/*
	 * Settings of the first row, in memory that lives as long as fcinfo, and
	 * without pointers: they travel to processes that have no rows.  Sets
	 * *unmatched where rows that meet no condition are kept.  Raises what the
	 * transition function would.  NULL: there is nothing to prepare.
	 */
	const void *(*prepare) (FunctionCallInfo fcinfo, Size *size, bool *unmatched);

	/* Conditions that are given as an array */
	uint32		(*read_array) (FunctionCallInfo fcinfo);

	/* Raises where a time cannot be that of an event. */
	void		(*check_time) (TimestampTz at);

	/*
	 * The transition state of a person with these events, one or more, in any
	 * order.  state is that of the last person, to be used again, or NULL.
	 */
	void	   *(*make_state) (void *state, const void *settings, const CdiPeopleEntry *entries, uint32 count);
} CdiPeopleAggregate;

/* By transition function and number of its arguments without the state; NULL: none. */
extern const CdiPeopleAggregate *cdi_people_funnel(PGFunction transition);	/* funnel.c */
extern const CdiPeopleAggregate *cdi_people_history(PGFunction transition, int arguments);	/* history.c */
extern const CdiPeopleAggregate *cdi_people_sequence(PGFunction transition);	/* sequence.c */
extern const CdiPeopleAggregate *cdi_people_aggregate(PGFunction transition, int arguments);	/* people_plan.c */

/* The most aggregates of one node, and columns of their GROUP BY */
#define CDI_PEOPLE_MAX_AGGREGATES	16
#define CDI_PEOPLE_MAX_KEYS			16

/* Settings of an aggregate as prepare() made them; data NULL: of no row yet */
typedef struct CdiPeopleSettings
{
	const void *data;
	Size		size;
} CdiPeopleSettings;

/* What one may GROUP BY here: values are equal where their bytes are. */
typedef struct CdiPeopleKey
{
	int16		typlen;
	bool		typbyval;
} CdiPeopleKey;

/*
 * people_key.c: several keys as one of type bytea, which lies in the buffer.
 * Values that are made of it again are in the current context.
 */
extern Datum cdi_people_key_pack(StringInfo buffer, const CdiPeopleKey *keys, int nkeys,
								 const Datum *values, const bool *isnull);
extern void cdi_people_key_unpack(Datum packed, const CdiPeopleKey *keys, int nkeys, Datum *values, bool *isnull);

/* Bytes of a key in a row; 0: they vary, and the row says how many. */
static inline uint32
cdi_people_key_size(const CdiPeopleKey *key)
{
	return key->typlen > 0 ? key->typlen : 0;
}

/* The most that is kept of a key beside its person */
#define CDI_PEOPLE_KEY_IMAGE	16

/* An entry of a row that does not count in this aggregate: it says no more than that there is the person. */
#define CDI_PEOPLE_NO_TIME		DT_NOBEGIN

/*
 * A row as it is kept: unaligned, since a key of four bytes should not cost
 * eight.  Times and conditions, for each aggregate; the key follows, where its
 * size varies after a uint32 with the size.
 */
#define CDI_PEOPLE_ENTRY_CONDITIONS	sizeof(TimestampTz)
#define CDI_PEOPLE_ENTRY_SIZE		(CDI_PEOPLE_ENTRY_CONDITIONS + sizeof(uint32))

static inline uint64
cdi_people_hash_image(const uint64 *image)
{
	/* the last steps of MurmurHash3 */
	uint64		hash = image[0] ^ image[1] * UINT64CONST(0x9E3779B97F4A7C15);

	hash = (hash ^ hash >> 33) * UINT64CONST(0xFF51AFD7ED558CCD);
	hash = (hash ^ hash >> 33) * UINT64CONST(0xC4CEB9FE1A85EC53);
	return hash ^ hash >> 33;
}

/* What the processes of a parallel plan share */
typedef struct CdiPeopleShared CdiPeopleShared;

extern Size cdi_people_shared_size(int participants);
extern void cdi_people_shared_init(CdiPeopleShared *shared, int participants, double rows, dsm_segment *seg);
extern void cdi_people_shared_attach(CdiPeopleShared *shared);
extern void cdi_people_shared_reset(CdiPeopleShared *shared, dsa_area *area);

/* The share of one process; shared is NULL where it is the only one. */
typedef struct CdiPeopleStore CdiPeopleStore;

extern CdiPeopleStore *cdi_people_store_open(MemoryContext context, const CdiPeopleKey *key, int naggregates, double rows,
											 CdiPeopleShared *shared, dsa_area *area, int participant);
extern void cdi_people_store_close(CdiPeopleStore *store);

/* In how many parts so many rows are divided */
extern uint32 cdi_people_store_parts(double rows);

/* False where the others are done with collecting: there is nothing to add. */
extern bool cdi_people_store_begin(CdiPeopleStore *store);

/* One entry for each aggregate */
extern void cdi_people_store_add(CdiPeopleStore *store, Datum key, bool isnull, const CdiPeopleEntry *entries);

/*
 * All rows are added: waits for the others.  Settings that no row of this
 * process had become those of anybody's.
 */
extern void cdi_people_store_finish(CdiPeopleStore *store, CdiPeopleSettings *settings);

/*
 * The next part, which nobody else gets: its rows one chunk after the other.
 * null_key says that it is the part of those whose key is null.
 */
extern bool cdi_people_store_next_part(CdiPeopleStore *store, bool *null_key);
extern bool cdi_people_store_next_chunk(CdiPeopleStore *store, const char **rows, const char **end);

typedef struct CdiPeopleUsage
{
	uint32		parts;
	uint64		memory;			/* bytes */
	uint64		disk;
} CdiPeopleUsage;

extern void cdi_people_store_usage(const CdiPeopleStore *store, CdiPeopleUsage *usage);
extern void cdi_people_shared_usage(const CdiPeopleShared *shared, CdiPeopleUsage *usage);

/* people_part.c: the people of one part after the other */
typedef struct CdiPeople CdiPeople;

extern CdiPeople *cdi_people_open(MemoryContext context, const CdiPeopleKey *key,
								  const CdiPeopleAggregate *const *aggregates, int naggregates);

/*
 * The next person; false: there is none.  The states, one for each aggregate,
 * live until the next call and are NULL where no event of the person counts.
 */
extern bool cdi_people_next(CdiPeople *people, CdiPeopleStore *store, const CdiPeopleSettings *settings,
							Datum *key, bool *isnull, void **states);

/*
 * people_plan.c: where a condition says that a text is one that is known, that
 * one, and the text; the node compares them itself.  Else NULL.
 */
extern Const *cdi_people_text_equality(Expr *condition, Expr **value);

/*
 * people_scan.c: the node.  Its rows are the keys and the results of aggregates.
 * Private data of its plan are three lists: oids of transition functions, oids
 * of the final functions of its results, and which transition they are of.
 */
#define CDI_PEOPLE_SCAN_NAME	"cdi people"

enum
{
	CDI_PEOPLE_PLAN_TRANSITIONS, CDI_PEOPLE_PLAN_FINALS, CDI_PEOPLE_PLAN_TRANSITION_OF
};

extern const struct CustomScanMethods cdi_people_scan_methods;

#endif							/* CDI_PEOPLE_STORE_H */
