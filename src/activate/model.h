/*
 * model.h
 *		The query of a sync, run as the role that declared it; private to
 *		src/activate.
 */
#ifndef CDI_MODEL_H
#define CDI_MODEL_H

#include "activate/activate.h"

#include "utils/tuplestore.h"

#include "activate/row_hash.h"

typedef struct CdiModel
{
	const char *sync;			/* for messages */
	const char *query;
	const char *primary_key;
	Oid			run_as;
	const char *search_path;
	const char *condition;		/* SQL over the row "model", or NULL */
	const char *change_column;	/* column to find the highest value of, or NULL */
	char	  **columns;		/* those that anything is made of; NULL: all */
	int			ncolumns;
	bool		clock;			/* the mapping reads the time */
	json_t	   *mapping;		/* what the destination gets of a row; NULL: the row */
	json_t	   *nulls;			/* per member "send" or "omit", "*" for the others */
	bool		send_nulls;		/* of members that nulls says nothing of */
	const char *hash_key;		/* secret of hashes over rows as they are; NULL: none are made */
	const char *rules;			/* all that what becomes of a row depends on, as text */
	const CdiBuckets *expected; /* sums over the rows that are expected; NULL: look at all */
	int			spent;			/* ms that it has run for */
} CdiModel;

/* What a run of the model found */
typedef struct CdiModelRows
{
	MemoryContext context;		/* of what is here */
	TupleDesc	desc;			/* primary_key text, hash uuid, payload jsonb, row_hash uuid */
	Tuplestorestate *store;
	int64		stored;
	int64		invalid;		/* no usable primary key; not in the store */
	int64		summed;			/* rows that were added up */
	int64		same;			/* as expected; not in the store */
	bytea	   *differ;			/* buckets that are not as expected, or NULL: the store has all */
	bool		as_expected;	/* no bucket differs */
	CdiKnown   *known;			/* rows that are expected in them, or NULL */
	char	   *change_value;	/* highest value of the change column; NULL: none */
} CdiModelRows;

#define CDI_MAX_PRIMARY_KEY 512

/*
 * Raises ZC407 unless the query is one SELECT that the role may run and that
 * has the primary key among uniquely named columns.  SPI connected.
 */
extern void cdi_model_check(CdiModel *model);

/*
 * The rows live in the current memory context.  SPI connected.  Where buckets
 * differ their rows are still to be read: once more, in the same snapshot.
 */
extern CdiModelRows *cdi_model_run(CdiModel *model);
extern void cdi_model_read(CdiModel *model, CdiModelRows *rows);

/* sync.c: what a run of a sync needs */
typedef enum CdiSyncMode
{
	CDI_SYNC_MIRROR,
	CDI_SYNC_UPSERT,
	CDI_SYNC_INSERT,
	CDI_SYNC_UPDATE,
	CDI_SYNC_APPEND,
	CDI_SYNC_DELETE,
	CDI_SYNC_FULL
} CdiSyncMode;

typedef struct CdiSync
{
	int32		sync_id;
	const char *name;
	CdiModel	model;
	CdiSyncMode mode;
	const char *change_column;	/* rows that it has left behind are not looked at; NULL: all */
	const char *change_value;	/* up to here they were looked at; NULL: never yet */
	CdiTarget	target;
	const json_t *action;
	const json_t *order;		/* expression by which rows go one after the other; NULL: none */
} CdiSync;

/* sync_declare.c: columns of the first row that SPI has returned; the text is copied. */
extern char *cdi_row_text(MemoryContext context, int column);
extern int32 cdi_row_int(int column);
/* Raises 22023 where there is no such mode */
extern CdiSyncMode cdi_sync_mode(const char *name);
/* What the model of a sync has to bring; texts may be NULL.  Returns its order, or NULL; raises ZC407. */
extern const json_t *cdi_sync_mapping(CdiModel *model, const CdiSpec *spec, const json_t *action, const char *mapping, const char *nulls,
									  const char *order_key);
extern void cdi_sync_unknown(const char *name) pg_attribute_noreturn();
/* What is wanted is for syncs of rows. */
extern void cdi_sync_is_stream(const char *name) pg_attribute_noreturn();
/* SPI connected, as the owner; what it says lives in context. */
extern CdiSync *cdi_sync_load(const char *name, MemoryContext context);
/* One run; SPI connected, as the caller.  Returns its id. */
extern int64 cdi_sync_execute(CdiSync *sync, bool everything, const char *only_key);

#endif							/* CDI_MODEL_H */
