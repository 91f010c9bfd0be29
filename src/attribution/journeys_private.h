/*
 * journeys_private.h
 *		What journeys.c and journeys_labels.c share.
 */
#ifndef CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H
#define CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H

#include "attribution/journeys.h"

#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "tcop/dest.h"
#include "utils/logtape.h"

#define CDI_JOURNEY_TAPES	128
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
	uint32		head;			/* of the chain of touches, from 1 */
} CdiPersonPath;

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
	char	  **blocks;
	int64		nblocks;
	int64		block_space;
	uint32		ntouches;
	uint32		max_touches;	/* in memory */
	LogicalTapeSet *tape_set;	/* where there are more: one temporary file */
	LogicalTape *tapes[CDI_JOURNEY_TAPES];	/* NULL: nothing there */
	int			run_bits;		/* people go to tapes by runs of this many (log2) */
	CdiTouch   *spare;
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

typedef struct CdiJourneyReceiver
{
	DestReceiver pub;
	CdiJourneys *journeys;
	int			kind;			/* of conversions */
} CdiJourneyReceiver;

/* journeys_labels.c */
extern void cdi_journeys_start_labels(CdiJourneys *self);
/* Of a text that is not compressed; a null (0) is empty. */
extern CdiText cdi_journeys_text(Datum value);
extern int32 cdi_journeys_intern_label(CdiJourneys *self, TupleTableSlot *slot);
extern int32 cdi_journeys_intern_type(CdiJourneys *self, Datum type);

/* journeys_query.c */
extern void cdi_journeys_load_definitions(CdiJourneys *self);
extern int	cdi_journeys_find_definition(CdiJourneys *self, Datum name);
extern char *cdi_journeys_touch_query(CdiJourneys *self);
extern char *cdi_journeys_conversion_query(CdiJourneys *self);
/* Pushes the rows of a query into a receiver; its plan may be parallel. */
extern void cdi_journeys_stream(CdiJourneys *self, const char *query, int nargs, Oid *types, Datum *values, const bool *nulls,
								bool (*receive) (TupleTableSlot *, DestReceiver *), int kind);

#endif							/* CDI_ATTRIBUTION_JOURNEYS_PRIVATE_H */
