/*
 * rows.h
 *		How a stage hands the batch to SQL; private to src/ingest.
 *
 * INSERT INTO ... SELECT * FROM cdi._batch_<what>() reads rows straight from
 * the batch in memory: no arrays, no parameters, one plan per table.
 */
#ifndef CDI_ROWS_H
#define CDI_ROWS_H

#include "fmgr.h"

#include "ingest/ingest.h"

/* Columns of one event's row; false where the event has none. */
typedef bool (*CdiFormRow) (CdiBatch *batch, CdiEvent *event, Datum *values, bool *nulls);

typedef struct CdiRows
{
	CdiBatch   *batch;
	int		   *index;
	int			n;
	CdiFormRow	form;
} CdiRows;

/* Runs the plan, whose query reads from the function that returns form's rows. */
extern void cdi_rows_insert(CdiPlan *plan, CdiBatch *batch, int *index, int n, CdiFormRow form);
/* Body of such a function. */
extern void cdi_rows_return(FunctionCallInfo fcinfo, CdiFormRow form, int ncolumns);

#endif							/* CDI_ROWS_H */
