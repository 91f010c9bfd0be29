/*
 * refuse.c
 *		Identifiers that were set aside, and why: cdi.identity_refusals.
 *
 * Only of events that are stored, in the same transaction; what is the same on
 * many events of a batch is one row.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/scan.h"
#include "ingest/refuse.h"
#include "ingest/stages.h"

/* What is kept of a value, or of a type's name that does not exist */
#define MAX_VALUE 64

struct CdiRefusal
{
	CdiRefusal *next;			/* of the event, later ones first */
	CdiText		type;
	CdiText		value;
	bool		has_key;
	pg_uuid_t	key;
	CdiVerdict	reason;
	const char *detail;

	/* once they are written */
	const CdiEvent *event;
	int64		occurrences;
};

/* A copy, cut between characters: the value may be a megabyte. */
static CdiText
clip(CdiText text)
{
	int			len = text.data == NULL ? 0 : pg_mbcliplen(text.data, text.len, MAX_VALUE);

	return (CdiText) {len == 0 ? "" : pnstrdup(text.data, len), len};
}

void
cdi_refuse(CdiBatch *batch, CdiEvent *event, CdiText type, CdiText value,
		   const pg_uuid_t *key, CdiVerdict reason, const char *detail)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	CdiRefusal *refusal = palloc(sizeof(CdiRefusal));

	refusal->type = clip(type);
	refusal->value = clip(value);
	refusal->has_key = key != NULL;
	if (key != NULL)
		refusal->key = *key;
	refusal->reason = reason;
	refusal->detail = detail;
	refusal->next = event->refusals;
	event->refusals = refusal;
	batch->nrefusals++;
	MemoryContextSwitchTo(old);
}

static int
compare_text(CdiText a, CdiText b)
{
	int			order = memcmp(a.data, b.data, Min(a.len, b.len));

	return order != 0 ? order : a.len - b.len;
}

static int
compare(const CdiRefusal *a, const CdiRefusal *b)
{
	int			order = compare_text(a->type, b->type);

	if (order == 0)
		order = compare_text(a->value, b->value);
	return order != 0 ? order : (int) a->reason - (int) b->reason;
}

/* Those that are one row stand together, the first event's first. */
static int
compare_in_order(const void *a, const void *b)
{
	const CdiRefusal *one = *(CdiRefusal *const *) a;
	const CdiRefusal *other = *(CdiRefusal *const *) b;
	int			order = compare(one, other);

	if (order == 0)
		order = one->event->position < other->event->position ? -1 :
			one->event->position > other->event->position;
	return order;
}

/* Refusals of stored events as rows; returns their number. */
static int
gather(CdiBatch *batch, const int *index, int n, CdiRefusal **rows)
{
	int			count = 0;
	int			nrows = 0;

	for (int i = 0; i < n; i++)
	{
		CdiEvent   *event = &batch->events[index[i]];

		if (event->outcome != CDI_STORED)
			continue;
		for (CdiRefusal *refusal = event->refusals; refusal != NULL; refusal = refusal->next)
		{
			refusal->event = event;
			refusal->occurrences = 1;
			rows[count++] = refusal;
		}
	}
	qsort(rows, count, sizeof(CdiRefusal *), compare_in_order);
	for (int i = 0; i < count; i++)
		if (nrows > 0 && compare(rows[nrows - 1], rows[i]) == 0)
			rows[nrows - 1]->occurrences++;
		else
			rows[nrows++] = rows[i];
	return nrows;
}

static Datum
text_datum(CdiText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

static Datum
text_array(Datum *values, bool *nulls, int n)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
key_array(Datum *values, bool *nulls, int n)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

void
cdi_stage_refuse(CdiBatch *batch, int *index, int n)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.identity_refusals (refused_at, event_id, position, occurrences, type, value, identifier, reason, detail)"
		" SELECT r.at, r.event_id, nullif(r.position, 0), r.occurrences, r.type, r.value, r.identifier, r.reason, r.detail"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)"
		" AS r (at, event_id, position, occurrences, type, value, identifier, reason, detail)",
		.nargs = 9,.argtypes = {
			TIMESTAMPTZARRAYOID, UUIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
			TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID
		}
	};
	MemoryContext old;
	CdiRefusal **rows;
	Datum	   *columns[9];
	bool	   *no_key;
	bool	   *no_detail;
	int			nrows;

	/* before cdi_init() has brought the storage up to date there is no place */
	if (batch->nrefusals == 0 || !OidIsValid(cdi_relation_oid("identity_refusals")))
		return;
	old = MemoryContextSwitchTo(batch->context);
	rows = palloc_extended(sizeof(CdiRefusal *) * batch->nrefusals, MCXT_ALLOC_HUGE);
	nrows = gather(batch, index, n, rows);
	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc_extended(sizeof(Datum) * Max(nrows, 1), MCXT_ALLOC_HUGE);
	no_key = palloc_extended(Max(nrows, 1), MCXT_ALLOC_HUGE);
	no_detail = palloc_extended(Max(nrows, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < nrows; i++)
	{
		const CdiRefusal *row = rows[i];

		columns[0][i] = TimestampTzGetDatum(row->event->timestamp);
		columns[1][i] = UUIDPGetDatum(&row->event->event_id);
		columns[2][i] = Int64GetDatum(cdi_event_has_link(row->event) ? row->event->position : 0);
		columns[3][i] = Int64GetDatum(row->occurrences);
		columns[4][i] = text_datum(row->type);
		columns[5][i] = text_datum(row->value);
		no_key[i] = !row->has_key;
		columns[6][i] = UUIDPGetDatum(&row->key);
		columns[7][i] = CStringGetTextDatum(cdi_verdict_name(row->reason));
		no_detail[i] = row->detail == NULL;
		columns[8][i] = row->detail == NULL ? (Datum) 0 : CStringGetTextDatum(row->detail);
	}
	if (nrows > 0)
		cdi_plan_execute(&plan, (Datum[]) {
			cdi_timestamptz_array(columns[0], nrows), cdi_uuid_array(columns[1], nrows),
				cdi_int8_array(columns[2], nrows), cdi_int8_array(columns[3], nrows),
				text_array(columns[4], NULL, nrows), text_array(columns[5], NULL, nrows),
				key_array(columns[6], no_key, nrows), text_array(columns[7], NULL, nrows),
				text_array(columns[8], no_detail, nrows)
		}, NULL);
	MemoryContextSwitchTo(old);
}
