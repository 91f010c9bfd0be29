/*
 * funnel_result.c
 *		Results of cdi_window_funnel(), cdi_funnel() and cdi_funnel_paths().
 *
 * Entries are put in an order that depends on what they are and not on how they
 * came.  A state may be asked several times, as a window function does: sorting
 * it in place changes nothing that anybody sees.
 */
#include "behaviour/funnel.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/base.h"

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE CdiFunnelEntry
#define ST_COMPARE(a, b) (cdi_funnel_entry_is_before(a, b) ? -1 : cdi_funnel_entry_is_before(b, a) ? 1 : 0)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

void
cdi_funnel_add_path(CdiFunnelPaths *paths, const CdiFunnelPath *path)
{
	if (paths->count == paths->space)
	{
		paths->space = paths->space ? 2 * paths->space : 8;
		paths->paths = paths->paths ?
			repalloc_huge(paths->paths, sizeof(CdiFunnelPath) * paths->space) :
			palloc_extended(sizeof(CdiFunnelPath) * paths->space, MCXT_ALLOC_HUGE);
	}
	paths->paths[paths->count++] = *path;
}

/* Values that are held constant, in order of their bytes. */
typedef struct HoldRank
{
	const char *value;
	uint32		len;
	uint32		place;			/* in the buffer */
	uint32		number;
} HoldRank;

static int
compare_holds(const void *a, const void *b)
{
	const HoldRank *left = a;
	const HoldRank *right = b;
	int			order = memcmp(left->value, right->value, Min(left->len, right->len));

	if (order != 0)
		return order;
	return left->len < right->len ? -1 : left->len > right->len;
}

static int
compare_places(const void *a, const void *b)
{
	uint32		left = ((const HoldRank *) a)->place;
	uint32		right = ((const HoldRank *) b)->place;

	return left < right ? -1 : left > right;
}

static int
compare_held_entries(const void *a, const void *b)
{
	const CdiFunnelEntry *left = a;
	const CdiFunnelEntry *right = b;

	CHECK_FOR_INTERRUPTS();
	if (left->hold != right->hold)
		return left->hold < right->hold ? -1 : 1;
	return cdi_funnel_entry_is_before(left, right) ? -1 : cdi_funnel_entry_is_before(right, left);
}

/*
 * Entries with the number of their value instead of its place in the buffer:
 * numbers follow the bytes of the values, so that they do not depend on the
 * order in which these came.  *ranks has the values by number.
 */
static CdiFunnelEntry *
rank_holds(const CdiFunnelState *state, HoldRank **ranks)
{
	CdiFunnelEntry *entries = palloc_extended(sizeof(CdiFunnelEntry) * (Size) Max(state->count, 1), MCXT_ALLOC_HUGE);
	HoldRank   *all;
	uint32		n = 0;
	uint32		numbers = 0;

	for (uint32 place = 0; place < state->holds->used; n++)
	{
		uint32		len;

		memcpy(&len, state->holds->data + place, sizeof(uint32));
		place += sizeof(uint32) + len;
	}
	all = palloc_extended(sizeof(HoldRank) * n, MCXT_ALLOC_HUGE);
	*ranks = palloc_extended(sizeof(HoldRank) * n, MCXT_ALLOC_HUGE);
	n = 0;
	for (uint32 place = 0; place < state->holds->used; n++)
	{
		all[n].place = place;
		memcpy(&all[n].len, state->holds->data + place, sizeof(uint32));
		all[n].value = state->holds->data + place + sizeof(uint32);
		place += sizeof(uint32) + all[n].len;
	}
	qsort(all, n, sizeof(HoldRank), compare_holds);
	for (uint32 i = 0; i < n; i++)
	{
		if (i == 0 || compare_holds(&all[i - 1], &all[i]) != 0)
			(*ranks)[numbers++] = all[i];
		all[i].number = numbers - 1;
	}
	qsort(all, n, sizeof(HoldRank), compare_places);
	for (uint32 i = 0; i < state->count; i++)
	{
		HoldRank	key = {.place = state->entries[i].hold};
		HoldRank   *found = bsearch(&key, all, n, sizeof(HoldRank), compare_places);

		entries[i] = state->entries[i];
		entries[i].hold = found->number;
	}
	pfree(all);
	qsort(entries, state->count, sizeof(CdiFunnelEntry), compare_held_entries);
	return entries;
}

/* Entries in the order that paths are found in; *ranks is NULL without values. */
static const CdiFunnelEntry *
entries_in_order(CdiFunnelState *state, HoldRank **ranks)
{
	*ranks = NULL;
	if (state->holds)
		return rank_holds(state, ranks);
	if (!state->sorted)
	{
		sort_entries(state->entries, state->count);
		state->sorted = true;
	}
	return state->entries;
}

static void
find_path(const CdiFunnelOptions *options, const CdiFunnelEntry *entries, uint32 count, CdiFunnelPath *path)
{
	if (options->dialect == CDI_FUNNEL_CLICKHOUSE)
		cdi_funnel_clickhouse(options, entries, count, path);
	else
		cdi_funnel_anchored(options, entries, count, path);
}

PG_FUNCTION_INFO_V1(cdi_window_funnel_final);
Datum
cdi_window_funnel_final(PG_FUNCTION_ARGS)
{
	CdiFunnelState *state;
	HoldRank   *ranks;
	CdiFunnelPath path;

	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(0);
	state = (CdiFunnelState *) PG_GETARG_POINTER(0);
	find_path(state->options, entries_in_order(state, &ranks), state->count, &path);
	PG_RETURN_INT32(path.level);
}

enum
{
	OUT_LEVEL, OUT_STEPS, OUT_REACHED_AT, OUT_EXCLUDED_AT, OUT_HOLD, OUT_COLUMNS
};

/* A path as cdi.funnel_path. */
static Datum
path_datum(TupleDesc desc, const CdiFunnelPath *path, const HoldRank *ranks)
{
	Datum		values[OUT_COLUMNS];
	bool		nulls[OUT_COLUMNS] = {false};
	Datum		steps[CDI_FUNNEL_MAX_CONDITIONS];
	Datum		at[CDI_FUNNEL_MAX_CONDITIONS];

	for (int i = 0; i < path->level; i++)
	{
		steps[i] = Int32GetDatum(path->steps[i] + 1);
		at[i] = TimestampTzGetDatum(path->at[i]);
	}
	values[OUT_LEVEL] = Int32GetDatum(path->level);
	values[OUT_STEPS] = PointerGetDatum(construct_array(steps, path->level, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[OUT_REACHED_AT] = cdi_timestamptz_array(at, path->level);
	values[OUT_EXCLUDED_AT] = TimestampTzGetDatum(path->excluded_at);
	nulls[OUT_EXCLUDED_AT] = !path->excluded;
	nulls[OUT_HOLD] = ranks == NULL || path->level == 0;
	values[OUT_HOLD] = nulls[OUT_HOLD] ? (Datum) 0 :
		PointerGetDatum(cstring_to_text_with_len(ranks[path->hold].value, ranks[path->hold].len));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

PG_FUNCTION_INFO_V1(cdi_funnel_final);
Datum
cdi_funnel_final(PG_FUNCTION_ARGS)
{
	CdiFunnelState *state;
	HoldRank   *ranks = NULL;
	CdiFunnelPath path;
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "cdi.funnel_path is not a row type");
	memset(&path, 0, offsetof(CdiFunnelPath, at));
	if (!PG_ARGISNULL(0))
	{
		state = (CdiFunnelState *) PG_GETARG_POINTER(0);
		find_path(state->options, entries_in_order(state, &ranks), state->count, &path);
	}
	PG_RETURN_DATUM(path_datum(desc, &path, ranks));
}

PG_FUNCTION_INFO_V1(cdi_funnel_paths_final);
Datum
cdi_funnel_paths_final(PG_FUNCTION_ARGS)
{
	CdiFunnelState *state;
	HoldRank   *ranks;
	CdiFunnelPaths paths = {0};
	Oid			type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);
	Datum	   *datums;

	if (!PG_ARGISNULL(0))
	{
		const CdiFunnelEntry *entries;

		state = (CdiFunnelState *) PG_GETARG_POINTER(0);
		if (state->options->dialect == CDI_FUNNEL_CLICKHOUSE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("dialect \"clickhouse\" knows no repeated entries"),
					 errhint("Dialects mixpanel and amplitude do; cdi_funnel() gives one path.")));
		entries = entries_in_order(state, &ranks);
		cdi_funnel_anchored_all(state->options, entries, state->count, &paths);
	}
	if (paths.count == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(type));
	datums = palloc_extended(sizeof(Datum) * paths.count, MCXT_ALLOC_HUGE);
	for (int i = 0; i < paths.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		datums[i] = path_datum(desc, &paths.paths[i], ranks);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(datums, paths.count, type, -1, false, TYPALIGN_DOUBLE));
}
