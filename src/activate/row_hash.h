/*
 * row_hash.h
 *		Find the rows that may differ; private to src/activate.
 */
#ifndef CDI_ROW_HASH_H
#define CDI_ROW_HASH_H

#include "postgres.h"

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

/* May cdi._row_hash() have values of this type, or only their JSON? */
extern bool cdi_row_hash_takes(Oid type);
/* As many as are wanted, as far as the memory reaches */
extern int	cdi_bucket_count(int64 wanted);
/* A bit for each bucket, for cdi._in_buckets() */
extern bytea *cdi_buckets_that_differ(const CdiBuckets *a, const CdiBuckets *b);

#endif							/* CDI_ROW_HASH_H */
