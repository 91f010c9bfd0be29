/*
 * row_hash.h
 *		Find the rows that may differ; private to src/activate.
 */
#ifndef CDI_ROW_HASH_H
#define CDI_ROW_HASH_H

#include "postgres.h"

#include "utils/uuid.h"

typedef struct CdiBucketSum
{
	uint64		low;
	uint64		high;
} CdiBucketSum;

/* What cdi._bucket_sums() returns, as a bytea */
typedef struct CdiBuckets
{
	int32		vl_len_;
	int32		n;
	int64		rows;
	int64		invalid;		/* without a usable primary key; in no sum */
	CdiBucketSum sums[FLEXIBLE_ARRAY_MEMBER];
} CdiBuckets;

/* SipHash-2-4 with a key and a result of 16 bytes */
extern void cdi_sip_hash(const uint8 *key, const char *data, size_t len, uint8 *hash);
/* What each process of a run may take of maintenance_work_mem */
extern int64 cdi_hash_memory(void);

/* May cdi._row_hash() have values of this type, or only their JSON? */
extern bool cdi_row_hash_takes(Oid type);
/* May cdi._bucket_sums() and cdi._in_buckets() have keys of this type, or only their text? */
extern bool cdi_key_takes(Oid type);
/* As many as are wanted, as far as the memory reaches */
extern int	cdi_bucket_count(int64 wanted);
/* A bit for each bucket, for cdi._in_buckets() */
extern bytea *cdi_buckets_that_differ(const CdiBuckets *a, const CdiBuckets *b);

/* known_rows.c: rows that are expected, and which of them a model has */
typedef struct CdiKnown CdiKnown;

typedef enum CdiMet
{
	CDI_MET_NOT,
	CDI_MET_ONCE,				/* as it is: unchanged */
	CDI_MET_AGAIN,				/* as it is, and then its key came again */
	CDI_MET_OTHER				/* as another row, or another key has the same hash */
} CdiMet;

/* For n rows, or as many as the memory reaches for: further ones do not become known. */
extern CdiKnown *cdi_known_make(int64 n);
extern void cdi_known_add(CdiKnown *known, const text *primary_key, const pg_uuid_t *row_hash);
/* For cdi._is_known() */
extern bytea *cdi_known_rows(const CdiKnown *known);
/* Takes note of a row of the model.  True: it is unchanged, unless its key comes again. */
extern bool cdi_known_meet(CdiKnown *known, const text *primary_key, bool is_known);
/* After all rows of the model, what became of one that was added */
extern CdiMet cdi_known_met(const CdiKnown *known, const text *primary_key, const pg_uuid_t *row_hash);

#endif							/* CDI_ROW_HASH_H */
