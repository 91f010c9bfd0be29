/*
 * model.h
 *		The query of a sync, run as the role that declared it; private to
 *		src/activate.
 */
#ifndef CDI_MODEL_H
#define CDI_MODEL_H

#include "activate/activate.h"

#include "utils/tuplestore.h"

typedef struct CdiModel
{
	const char *sync;			/* for messages */
	const char *query;
	const char *primary_key;
	Oid			run_as;
	const char *search_path;
} CdiModel;

/* What a run of the model found */
typedef struct CdiModelRows
{
	TupleDesc	desc;			/* primary_key text, hash uuid, payload jsonb */
	Tuplestorestate *store;
	int64		queried;
	int64		invalid;		/* no usable primary key; not in the store */
} CdiModelRows;

#define CDI_MAX_PRIMARY_KEY 512

/*
 * Raises ZC407 unless the query is one SELECT that the role may run and that
 * has the primary key among uniquely named columns.  SPI connected.
 */
extern void cdi_model_check(const CdiModel *model);

/* The rows live in the current memory context.  SPI connected. */
extern CdiModelRows *cdi_model_run(const CdiModel *model);

#endif							/* CDI_MODEL_H */
