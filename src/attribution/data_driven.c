/*
 * data_driven.c
 *		Results of the aggregates cdi_shapley(), cdi_shapley_ordered() and
 *		cdi_logistic().
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "attribution/attribution.h"
#include "attribution/logistic.h"
#include "attribution/shapley.h"

/* drawn: options for the replicates */
static Datum
credit_result(FunctionCallInfo fcinfo, const CdiPaths *paths, CdiPathModel model, const void *options,
			  const void *drawn, const CdiBootstrap *bootstrap)
{
	CdiPathCredit *credits = cdi_paths_credits(paths->nlabels);

	model(paths, options, credits);
	cdi_paths_bootstrap(paths, model, drawn, bootstrap, paths->nlabels, credits);
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
	return credit_result(fcinfo, paths, cdi_shapley_credit, &options, &options, &bootstrap);
}

PG_FUNCTION_INFO_V1(cdi_logistic_final);
Datum
cdi_logistic_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	CdiLogisticOptions options = CDI_LOGISTIC_DEFAULT;
	CdiLogisticOptions drawn;
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	const CdiPathOption known[] = {
		{"ridge", CDI_OPTION_NUMBER, &options.ridge, 0, 1e15},
		{"counts", CDI_OPTION_BOOLEAN, &options.counts},
		CDI_BOOTSTRAP_OPTIONS(bootstrap)
	};

	cdi_paths_options(paths, known, lengthof(known));
	drawn = options;
	drawn.replicate = true;
	return credit_result(fcinfo, paths, cdi_logistic_credit, &options, &drawn, &bootstrap);
}

#define ORDERED_COLUMNS	8

static Datum
ordered_row(TupleDesc desc, CdiText channel, int position, const CdiPathCredit *credit)
{
	const double numbers[] = {
		credit->conversions, credit->conversions_low, credit->conversions_high,
		credit->value, credit->value_low, credit->value_high
	};
	Datum		values[ORDERED_COLUMNS];
	bool		nulls[ORDERED_COLUMNS];

	values[0] = PointerGetDatum(cstring_to_text_with_len(channel.data, channel.len));
	nulls[0] = false;
	values[1] = Int32GetDatum(position);
	nulls[1] = position == 0;
	for (int i = 0; i < lengthof(numbers); i++)
	{
		values[2 + i] = Float8GetDatum(numbers[i]);
		nulls[2 + i] = isnan(numbers[i]);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* cdi.ordered_credit[] */
PG_FUNCTION_INFO_V1(cdi_shapley_ordered_final);
Datum
cdi_shapley_ordered_final(PG_FUNCTION_ARGS)
{
	const CdiText unattributed = {CDI_CHANNEL_UNATTRIBUTED, strlen(CDI_CHANNEL_UNATTRIBUTED)};
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	Oid			type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	CdiBootstrap bootstrap = CDI_BOOTSTRAP_DEFAULT;
	const CdiPathOption known[] = {CDI_BOOTSTRAP_OPTIONS(bootstrap)};
	CdiShapleyPlace *places;
	int			nplaces;
	CdiPathCredit *credits;
	Datum	   *rows;
	int			nrows = 0;

	if (desc->natts != ORDERED_COLUMNS)
		elog(ERROR, "type %s has %d columns", format_type_be(type), desc->natts);
	cdi_paths_options(paths, known, lengthof(known));
	nplaces = cdi_shapley_ordered(paths, &places);
	credits = cdi_paths_credits(nplaces);
	cdi_shapley_ordered_credit(paths, NULL, credits);
	cdi_paths_bootstrap(paths, cdi_shapley_ordered_credit, NULL, &bootstrap, nplaces, credits);
	rows = palloc_extended(sizeof(Datum) * ((Size) nplaces + 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < nplaces; i++)
		rows[nrows++] = ordered_row(desc, paths->labels[places[i].label], places[i].position, &credits[i]);
	for (int p = 0; p < paths->npaths; p++)
		if (paths->paths[p].length == 0 && (paths->paths[p].conversions != 0 || paths->paths[p].value != 0))
		{
			CdiPathCredit *rest = cdi_paths_credits(1);

			rest->conversions = paths->paths[p].conversions;
			rest->value = paths->paths[p].value;
			rows[nrows++] = ordered_row(desc, unattributed, 0, rest);
		}
	ReleaseTupleDesc(desc);
	return PointerGetDatum(construct_array(rows, nrows, type, -1, false, TYPALIGN_DOUBLE));
}
