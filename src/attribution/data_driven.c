/*
 * data_driven.c
 *		Results of the aggregates cdi_shapley(), cdi_shapley_ordered() and
 *		cdi_logistic().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "attribution/attribution.h"
#include "attribution/logistic.h"
#include "attribution/shapley.h"

static Datum
credit_result(FunctionCallInfo fcinfo, const CdiPaths *paths, CdiPathModel model, const void *options,
			  const CdiBootstrap *bootstrap)
{
	CdiPathCredit *credits = palloc_extended(sizeof(CdiPathCredit) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE);

	cdi_paths_clear_credits(paths, credits);
	model(paths, options, credits);
	cdi_paths_bootstrap(paths, model, options, bootstrap, credits);
	return cdi_paths_result(fcinfo, paths, credits);
}

/* (state) */
PG_FUNCTION_INFO_V1(cdi_shapley_final);
Datum
cdi_shapley_final(PG_FUNCTION_ARGS)
{
	static const char *const games[] = {"additive", "rate", NULL};
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	CdiShapleyOptions options = CDI_SHAPLEY_DEFAULT;
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	int			game = options.game;
	const CdiPathOption known[] = {
		{.name = "game", .kind = CDI_OPTION_NAME, .target = &game, .names = games},
		{"permutations", CDI_OPTION_INTEGER, &options.permutations, 4, PG_INT32_MAX},
		{"error", CDI_OPTION_NUMBER, &options.error, 0, 1},
		CDI_BOOTSTRAP_OPTIONS(bootstrap)
	};

	cdi_paths_options(paths, known, lengthof(known));
	options.game = (CdiShapleyGame) game;
	options.seed = bootstrap.seed;
	return credit_result(fcinfo, paths, cdi_shapley_credit, &options, &bootstrap);
}

PG_FUNCTION_INFO_V1(cdi_logistic_final);
Datum
cdi_logistic_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	CdiLogisticOptions options = CDI_LOGISTIC_DEFAULT;
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	const CdiPathOption known[] = {
		{"ridge", CDI_OPTION_NUMBER, &options.ridge, 0, 1e15},
		{"counts", CDI_OPTION_BOOLEAN, &options.counts},
		CDI_BOOTSTRAP_OPTIONS(bootstrap)
	};

	cdi_paths_options(paths, known, lengthof(known));
	return credit_result(fcinfo, paths, cdi_logistic_credit, &options, &bootstrap);
}

/* cdi.ordered_credit[] */
PG_FUNCTION_INFO_V1(cdi_shapley_ordered_final);
Datum
cdi_shapley_ordered_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	Oid			type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	CdiShapleyPlace *places;
	int			nplaces = cdi_shapley_ordered(paths, &places);
	Datum	   *rows = palloc_extended(sizeof(Datum) * ((Size) nplaces + 1), MCXT_ALLOC_HUGE);
	bool		nulls[4] = {false, false, false, false};
	int			nrows = 0;

	if (desc->natts != lengthof(nulls))
		elog(ERROR, "type %s has %d columns", format_type_be(type), desc->natts);
	for (int i = 0; i < nplaces; i++)
	{
		const CdiText *label = &paths->labels[places[i].label];
		Datum		values[] = {
			PointerGetDatum(cstring_to_text_with_len(label->data, label->len)),
			Int32GetDatum(places[i].position),
			Float8GetDatum(places[i].conversions),
			Float8GetDatum(places[i].value)
		};

		rows[nrows++] = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	}
	for (int p = 0; p < paths->npaths; p++)
		if (paths->paths[p].length == 0 && (paths->paths[p].conversions != 0 || paths->paths[p].value != 0))
		{
			Datum		values[] = {
				CStringGetTextDatum(CDI_CHANNEL_UNATTRIBUTED),
				(Datum) 0,
				Float8GetDatum(paths->paths[p].conversions),
				Float8GetDatum(paths->paths[p].value)
			};

			nulls[1] = true;
			rows[nrows++] = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
		}
	ReleaseTupleDesc(desc);
	return PointerGetDatum(construct_array(rows, nrows, type, -1, false, TYPALIGN_DOUBLE));
}
