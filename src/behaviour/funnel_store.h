/*
 * funnel_store.h
 *		Rows of a funnel, divided by person; private to the node of funnels.
 *
 * funnel_plan.c puts the node into plans, funnel_scan.c is the node,
 * funnel_store.c keeps the rows and funnel_people.c tells people apart.
 */
#ifndef CDI_FUNNEL_STORE_H
#define CDI_FUNNEL_STORE_H

#include "behaviour/funnel.h"

#include "nodes/primnodes.h"
#include "storage/dsm.h"
#include "utils/dsa.h"

/* What one may GROUP BY here: values are equal where their bytes are. */
typedef struct CdiFunnelKey
{
	int16		typlen;
	bool		typbyval;
} CdiFunnelKey;

/* Bytes of a key in a row; 0: they vary, and the row says how many. */
static inline uint32
cdi_funnel_key_size(const CdiFunnelKey *key)
{
	return key->typlen > 0 ? key->typlen : 0;
}

/* The most that is kept of a key beside its person */
#define CDI_FUNNEL_KEY_IMAGE	16

/* A row that says no more than that there is the person */
#define CDI_FUNNEL_NO_TIME		DT_NOBEGIN

/*
 * A row as it is kept: unaligned, since a key of four bytes should not cost
 * eight.  The key follows, where its size varies after a uint32 with the size.
 */
#define CDI_FUNNEL_ROW_CONDITIONS	sizeof(TimestampTz)
#define CDI_FUNNEL_ROW_KEY			(CDI_FUNNEL_ROW_CONDITIONS + sizeof(uint32))

static inline uint64
cdi_funnel_hash_image(const uint64 *image)
{
	/* the last steps of MurmurHash3 */
	uint64		hash = image[0] ^ image[1] * UINT64CONST(0x9E3779B97F4A7C15);

	hash = (hash ^ hash >> 33) * UINT64CONST(0xFF51AFD7ED558CCD);
	hash = (hash ^ hash >> 33) * UINT64CONST(0xC4CEB9FE1A85EC53);
	return hash ^ hash >> 33;
}

/* What the processes of a parallel plan share */
typedef struct CdiFunnelShared CdiFunnelShared;

extern Size cdi_funnel_shared_size(int participants);
extern void cdi_funnel_shared_init(CdiFunnelShared *shared, int participants, double rows, dsm_segment *seg);
extern void cdi_funnel_shared_attach(CdiFunnelShared *shared);
extern void cdi_funnel_shared_reset(CdiFunnelShared *shared, dsa_area *area);

/* The share of one process; shared is NULL where it is the only one. */
typedef struct CdiFunnelStore CdiFunnelStore;

extern CdiFunnelStore *cdi_funnel_store_open(MemoryContext context, const CdiFunnelKey *key, double rows,
											 CdiFunnelShared *shared, dsa_area *area, int participant);
extern void cdi_funnel_store_close(CdiFunnelStore *store);

/* In how many parts so many rows are divided */
extern uint32 cdi_funnel_store_parts(double rows);

/* False where the others are done with collecting: there is nothing to add. */
extern bool cdi_funnel_store_begin(CdiFunnelStore *store);
extern void cdi_funnel_store_add(CdiFunnelStore *store, Datum key, bool isnull, const CdiFunnelEntry *entry);

/*
 * All rows are added: waits for the others.  options are those of the rows or
 * NULL where there were none; returns those of anybody's.
 */
extern const CdiFunnelOptions *cdi_funnel_store_finish(CdiFunnelStore *store, const CdiFunnelOptions *options);

/*
 * The next part, which nobody else gets: its rows one chunk after the other.
 * null_key says that it is the part of those whose key is null.
 */
extern bool cdi_funnel_store_next_part(CdiFunnelStore *store, bool *null_key);
extern bool cdi_funnel_store_next_chunk(CdiFunnelStore *store, const char **rows, const char **end);

typedef struct CdiFunnelUsage
{
	uint32		parts;
	uint64		memory;			/* bytes */
	uint64		disk;
} CdiFunnelUsage;

extern void cdi_funnel_store_usage(const CdiFunnelStore *store, CdiFunnelUsage *usage);

/* funnel_people.c: the people of one part after the other */
typedef struct CdiFunnelPeople CdiFunnelPeople;

extern CdiFunnelPeople *cdi_funnel_people_open(MemoryContext context, const CdiFunnelKey *key);

/* The next person and its state, which lives until the next call; false: there is none. */
extern bool cdi_funnel_people_next(CdiFunnelPeople *people, CdiFunnelStore *store, const CdiFunnelOptions *options,
								   Datum *key, bool *isnull, CdiFunnelState **state);

/*
 * funnel_plan.c: where a condition says that a text is one that is known, that
 * one, and the text; the node compares them itself.  Else NULL.
 */
extern Const *cdi_funnel_text_equality(Expr *condition, Expr **value);

/* funnel_scan.c: the node; private data of its plan is a list of these oids */
#define CDI_FUNNEL_SCAN_NAME	"cdi funnel"

enum
{
	CDI_FUNNEL_PLAN_TRANSITION, CDI_FUNNEL_PLAN_FINAL
};

extern const struct CustomScanMethods cdi_funnel_scan_methods;

#endif							/* CDI_FUNNEL_STORE_H */
