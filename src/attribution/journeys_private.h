/*
 * journeys_private.h
 *		What journeys.c, which brings people and their touches together, shares
 *		with the files beside it.
 */
#ifndef CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H
#define CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H

#include "attribution/journeys.h"

#include "common/hashfn.h"
#include "executor/execdesc.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "storage/buffile.h"
#include "storage/dsm.h"
#include "tcop/dest.h"

#define CDI_JOURNEY_PARTS	128		/* of the people */
#define CDI_WAITING_ROWS	64
#define CDI_RECENT_LABELS	1024	/* a power of two */

/* Columns of the queries, from 0 */
enum
{
	CDI_CONVERSION_PERSON, CDI_CONVERSION_AT, CDI_CONVERSION_POSITION,
	CDI_CONVERSION_EVENT, CDI_CONVERSION_NAME, CDI_CONVERSION_VALUE
};

enum
{
	CDI_TOUCH_PERSON, CDI_TOUCH_AT, CDI_TOUCH_POSITION, CDI_TOUCH_TYPE,
	CDI_TOUCH_SESSION, CDI_TOUCH_DIMENSIONS
};

/* Ids are keys already, as far as they are ours. */
static inline uint32
cdi_person_hash(pg_uuid_t id)
{
	uint64		halves[2];

	memcpy(halves, id.data, sizeof(halves));
	return (uint32) (murmurhash32((uint32) (halves[0] ^ (halves[0] >> 32))) ^
					 murmurhash32((uint32) (halves[1] ^ (halves[1] >> 32)) + 0x9e3779b9));
}

/* What every touch is compared with: half a cache line */
typedef struct CdiPersonSlot
{
	pg_uuid_t	id;
	TimestampTz earliest;		/* of touches that may count */
	TimestampTz latest;
} CdiPersonSlot;

/* What a person has */
typedef struct CdiPersonPath
{
	int64		first_conversion;
	int32		nconversions;
	uint32		head;			/* of the chain of touches of the part at hand, from 1 */
} CdiPersonPath;

/* What a store of touches has of one part */
typedef struct CdiStoredPart
{
	uint64		ntouches;
	int64		last_block;		/* in its file; -1: none */
} CdiStoredPart;

typedef struct CdiTouchStore CdiTouchStore;

/* A label that was found not long ago; its key is the index's. */
typedef struct CdiRecentLabel
{
	const char *data;			/* NULL: none */
	int			len;
	int32		number;
} CdiRecentLabel;

/* A combination of texts, by its bytes */
typedef struct CdiLabelEntry
{
	CdiText		key;
	uint32		hash;
	int32		number;
	char		status;
} CdiLabelEntry;

#define SH_PREFIX cdi_label_keys
#define SH_ELEMENT_TYPE CdiLabelEntry
#define SH_KEY_TYPE CdiText
#define SH_KEY key
#define SH_HASH_KEY(table, text) hash_bytes((const unsigned char *) (text).data, (text).len)
#define SH_EQUAL(table, a, b) ((a).len == (b).len && memcmp((a).data, (b).data, (a).len) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct CdiJourneys
{
	MemoryContext context;
	MemoryContext value_context;
	const CdiJourneyRequest *request;

	CdiDefinition *definitions;
	int			ndefinitions;
	int			definition_space;
	int			last_definition;	/* that was found */

	uint64	   *person_index;	/* open addressing: hash and number + 1, or 0 */
	uint32		person_mask;
	CdiPersonSlot *persons;
	CdiPersonPath *person_paths;
	int32		npersons;
	int32		person_space;
	CdiConversion *conversions; /* in order of person and time, nobody's first */
	int64		nconversions;
	int64		conversion_space;
	int64		nsettled;		/* whose people are known */
	TimestampTz earliest;		/* of touches that may count */
	TimestampTz latest;
	TimestampTz seen_until;		/* the last finite instant */

	Size		stride;			/* of a touch */
	int			run_bits;		/* people go to parts by runs of this many (log2) */
	CdiTouchStore *store;		/* NULL: nothing is read */
	List	   *others;			/* CdiTouchStore, of workers */
	char	   *touches;		/* of the part at hand */
	Size		touch_space;
	dsm_segment *shared;		/* people as workers see them, and their files; or NULL */

	uint32		reading;		/* its number, the same in leader and workers */
	CdiJourneys *outer;			/* the reading in which this one came about */

	/* of a worker */
	BufFile    *file;
	uint32		file_number;

	pg_uuid_t	waiting_people[CDI_WAITING_ROWS];
	uint32		waiting_hashes[CDI_WAITING_ROWS];
	char	   *waiting;		/* touches of theirs; conversions wait in their place */
	int			nwaiting;
	CdiTouch  **path;
	int			path_space;

	cdi_label_keys_hash *label_index;
	CdiRecentLabel *recent_labels;
	CdiTouchLabel *labels;
	int			nlabels;
	int			label_space;
	int			path_dimension; /* of the dimensions: what paths consist of */
	int			channel_dimension;
	cdi_label_keys_hash *path_label_index;
	int			npath_labels;
	int32		null_label;		/* of a single dimension; -1: not seen yet */
	StringInfoData key;

	CdiText    *types;
	int			ntypes;
	int			type_space;
};

static inline int
cdi_journeys_part(const CdiJourneys *self, int32 person)
{
	return (person >> self->run_bits) % CDI_JOURNEY_PARTS;
}

/* journeys.c */
/* Room for touches that are read, into a store of this process. */
extern void cdi_journeys_start_touches(CdiJourneys *self, BufFile *file);
/* A touch, columns as in CDI_TOUCH_PERSON and those that follow */
extern void cdi_journeys_take_touch(CdiJourneys *self, const NullableDatum *columns);
/* Does the person have a conversion?  All are read. */
extern bool cdi_journeys_converts(const CdiJourneys *self, const pg_uuid_t *person);
/* The last touches that wait for their people: before what was taken is looked at. */
extern void cdi_journeys_take_rest(CdiJourneys *self);

/* journeys_store.c: touches, in parts by person.  With a file all goes there. */
extern CdiTouchStore *cdi_touch_store_create(MemoryContext context, Size stride, BufFile *file);
/* Room for one more touch of a part */
extern CdiTouch *cdi_touch_store_add(CdiTouchStore *store, int part);
/* Write what there is to the file; another process opens it then. */
extern void cdi_touch_store_write(CdiTouchStore *store, CdiStoredPart *parts);
extern CdiTouchStore *cdi_touch_store_open(MemoryContext context, Size stride, BufFile *file, const CdiStoredPart *parts,
										   const int32 *labels, const int32 *types);
extern void cdi_touch_store_close(CdiTouchStore *store);
extern uint64 cdi_touch_store_count(const CdiTouchStore *store, int part);
/* The touches of a part, in the order in which they came, so that they end there */
extern void cdi_touch_store_read(CdiTouchStore *store, int part, char *end);

/* journeys_parallel.c */
/* The number by which the query for the touches calls what it is for */
extern Datum cdi_journeys_start_reading(CdiJourneys *self);
/* Let workers see the people, by another number; false: there is no shared memory to be had. */
extern bool cdi_journeys_share(CdiJourneys *self, Datum *reading);

/* journeys_labels.c */
/* Number of a column that is read of the touches */
extern int	cdi_journeys_dimension(const CdiJourneys *self, const char *name);
extern void cdi_journeys_start_labels(CdiJourneys *self);
/* Of a text that is not compressed; a null (0) is empty. */
extern CdiText cdi_journeys_text(Datum value);
/* Of a text for each dimension */
extern int32 cdi_journeys_intern_label(CdiJourneys *self, const NullableDatum *dimensions);
extern int32 cdi_journeys_intern_type(CdiJourneys *self, CdiText type);

/* journeys_query.c */
extern void cdi_journeys_load_definitions(CdiJourneys *self);
extern int	cdi_journeys_find_definition(CdiJourneys *self, Datum name);
extern char *cdi_journeys_touch_query(CdiJourneys *self);
extern char *cdi_journeys_conversion_query(CdiJourneys *self);

/* A query with the caller's privileges */
extern QueryDesc *cdi_journeys_plan(const char *query, ParamListInfo params, bool parallel, DestReceiver *receiver);
extern void cdi_journeys_run(QueryDesc *query, bool workers);

#endif							/* CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H */
