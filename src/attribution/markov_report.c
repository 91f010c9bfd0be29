/*
 * markov_report.c
 *		What a Markov chain looks like: its transitions, and which order fits.
 */
#include "attribution/markov.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* An array of rows as the result of an aggregate. */
typedef struct RowArray
{
	Oid			type;
	TupleDesc	desc;
	Datum	   *rows;
	int			nrows;
	int			space;
} RowArray;

static RowArray
begin_rows(FunctionCallInfo fcinfo)
{
	RowArray	array = {0};

	array.type = get_element_type(get_fn_expr_rettype(fcinfo->flinfo));
	array.desc = lookup_rowtype_tupdesc(array.type, -1);
	array.space = 64;
	array.rows = palloc(sizeof(Datum) * array.space);
	return array;
}

static void
add_row(RowArray *array, Datum *values, const bool *nulls)
{
	if (array->nrows == array->space)
	{
		array->space *= 2;
		array->rows = repalloc_huge(array->rows, sizeof(Datum) * array->space);
	}
	array->rows[array->nrows++] = HeapTupleGetDatum(heap_form_tuple(array->desc, values, (bool *) nulls));
}

static Datum
end_rows(RowArray *array)
{
	ReleaseTupleDesc(array->desc);
	return PointerGetDatum(construct_array(array->rows, array->nrows, array->type, -1, false, TYPALIGN_DOUBLE));
}

static Datum
state_name(const CdiMarkovChain *chain, int32 state)
{
	StringInfoData name;

	if (state == chain->nstates)
		return CStringGetTextDatum("(start)");
	initStringInfo(&name);
	for (int i = 0; i < chain->states[state].length; i++)
	{
		const CdiText *label = &chain->paths->labels[chain->states[state].touches[i]];

		if (i > 0)
			appendStringInfoString(&name, " > ");
		appendBinaryStringInfo(&name, label->data, label->len);
	}
	return PointerGetDatum(cstring_to_text_with_len(name.data, name.len));
}

static void
add_transition(RowArray *array, Datum from, Datum to, double count, double total)
{
	Datum		values[] = {from, to, Float8GetDatum(count), Float8GetDatum(count / total)};
	const bool	nulls[lengthof(values)] = {false};

	if (count > 0)
		add_row(array, values, nulls);
}

/* Where walks go from a state, ends last; stays are transitions like others. */
static void
add_transitions(RowArray *array, const CdiMarkovChain *chain, int32 state)
{
	double		total = chain->visits[state] + chain->stays[state];
	Datum		from = state_name(chain, state);
	bool		stayed = false;
	double		converted = state < chain->nstates ? chain->rewards[CDI_REWARD_CONVERSIONS][state] : 0;

	for (int64 t = chain->first[state]; t < chain->first[state + 1]; t++)
	{
		const CdiTransition *transition = &chain->transitions[t];

		if (!stayed && transition->to > state)
		{
			add_transition(array, from, from, chain->stays[state], total);
			stayed = true;
		}
		add_transition(array, from, state_name(chain, transition->to), transition->count, total);
	}
	if (!stayed)
		add_transition(array, from, from, chain->stays[state], total);
	add_transition(array, from, CStringGetTextDatum("(conversion)"), converted, total);
	add_transition(array, from, CStringGetTextDatum("(null)"), chain->ends[state] - converted, total);
}

PG_FUNCTION_INFO_V1(cdi_markov_transitions_final);
Datum
cdi_markov_transitions_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	int			order = 1;
	CdiPathOption options[] = {{"order", CDI_OPTION_INTEGER, &order, 1, CDI_MARKOV_MAX_ORDER}};
	CdiMarkovChain *chain;
	RowArray	array = begin_rows(fcinfo);

	cdi_paths_options(paths, options, lengthof(options));
	chain = cdi_markov_chain(paths, order);
	if (chain->nstates > 0)
		add_transitions(&array, chain, chain->nstates);
	for (int32 state = 0; state < chain->nstates; state++)
	{
		CHECK_FOR_INTERRUPTS();
		add_transitions(&array, chain, state);
	}
	PG_RETURN_DATUM(end_rows(&array));
}

/* How well a chain foretells the paths that it was made from. */
typedef struct Fit
{
	double		parameters;		/* free chances: of each state's ways out, all but one */
	double		steps;
	double		log_likelihood; /* of all paths with their ends */
	double		auc;			/* of conversion, by the state that a path ends in */
	double		left_out;		/* mean log-likelihood of an end, foretold from the other paths */
} Fit;

/* count * log(chance) of one way out of a state */
static void
add_way(Fit *fit, double count, double total, int *ways)
{
	if (count <= 0)
		return;
	(*ways)++;
	fit->steps += count;
	fit->log_likelihood += count * log(count / total);
}

typedef struct End
{
	double		conversions;
	double		nulls;
} End;

/* By the chance of a conversion; c1 / (c1 + n1) < c2 / (c2 + n2) without a division. */
static int
compare_ends(const void *a, const void *b)
{
	const End  *left = a;
	const End  *right = b;
	double		l = left->conversions * right->nulls;
	double		r = right->conversions * left->nulls;

	return l < r ? -1 : l > r;
}

/*
 * Chance that a path that converted ends in a state of a higher chance than one
 * that did not, equal chances counting half (Mann and Whitney).
 */
static double
area_under_curve(End *ends, int n, double conversions, double nulls)
{
	double		below = 0;		/* nulls of lower chances */
	double		pairs = 0;

	if (conversions == 0 || nulls == 0)
		return get_float8_nan();
	qsort(ends, n, sizeof(End), compare_ends);
	for (int i = 0; i < n;)
	{
		End			tied = {0, 0};
		int			begin = i;

		for (; i < n && compare_ends(&ends[begin], &ends[i]) == 0; i++)
		{
			tied.conversions += ends[i].conversions;
			tied.nulls += ends[i].nulls;
		}
		pairs += tied.conversions * (below + tied.nulls / 2);
		below += tied.nulls;
	}
	return pairs / conversions / nulls;
}

/* One path left out, its state's chance is drawn to that of all by the weight of one path. */
static double
left_out(double count, double others, double all, double all_others)
{
	double		overall = (all - 1) / (all + all_others - 1);

	if (count <= 0)
		return 0;
	return count * log((count - 1 + overall) / (count + others));
}

static Fit
fit_of(const CdiMarkovChain *chain)
{
	Fit			fit = {0};
	const double *converted = chain->rewards[CDI_REWARD_CONVERSIONS];
	End		   *ends = palloc_extended(sizeof(End) * Max(chain->nstates, 1), MCXT_ALLOC_HUGE);
	End			all = {0, 0};
	int			n = 0;

	for (int32 state = 0; state <= chain->nstates; state++)
	{
		double		total = chain->visits[state] + chain->stays[state];
		int			ways = 0;

		CHECK_FOR_INTERRUPTS();
		for (int64 t = chain->first[state]; t < chain->first[state + 1]; t++)
			add_way(&fit, chain->transitions[t].count, total, &ways);
		add_way(&fit, chain->stays[state], total, &ways);
		if (state < chain->nstates)
		{
			add_way(&fit, converted[state], total, &ways);
			add_way(&fit, chain->ends[state] - converted[state], total, &ways);
			all.conversions += converted[state];
			all.nulls += chain->ends[state] - converted[state];
			if (chain->ends[state] > 0)
				ends[n++] = (End) {converted[state], chain->ends[state] - converted[state]};
		}
		fit.parameters += ways - 1;
	}
	for (int i = 0; i < n; i++)
		fit.left_out += left_out(ends[i].conversions, ends[i].nulls, all.conversions, all.nulls) +
			left_out(ends[i].nulls, ends[i].conversions, all.nulls, all.conversions);
	fit.left_out /= all.conversions + all.nulls;
	if (isinf(fit.left_out))
		fit.left_out = get_float8_nan();
	fit.auc = area_under_curve(ends, n, all.conversions, all.nulls);
	pfree(ends);
	return fit;
}

PG_FUNCTION_INFO_V1(cdi_markov_order_final);
Datum
cdi_markov_order_final(PG_FUNCTION_ARGS)
{
	CdiPaths   *paths = cdi_paths_of_state(fcinfo);
	int			max_order = 5;
	CdiPathOption options[] = {{"max_order", CDI_OPTION_INTEGER, &max_order, 1, CDI_MARKOV_MAX_ORDER}};
	RowArray	array = begin_rows(fcinfo);

	cdi_paths_options(paths, options, lengthof(options));
	for (int p = 0; p < paths->npaths; p++)
	{
		cdi_paths_check_count(paths->paths[p].conversions);
		cdi_paths_check_count(paths->paths[p].nulls);
	}
	for (int order = 1; order <= max_order; order++)
	{
		CdiMarkovChain *chain = cdi_markov_chain(paths, order);
		Fit			fit;

		if (chain->nstates == 0)
			break;
		fit = fit_of(chain);
		{
			Datum		values[] = {
				Int32GetDatum(order), Int32GetDatum(chain->nstates), Float8GetDatum(fit.parameters),
				Float8GetDatum(fit.log_likelihood),
				Float8GetDatum(2 * fit.parameters - 2 * fit.log_likelihood),
				Float8GetDatum(fit.parameters * log(fit.steps) - 2 * fit.log_likelihood),
				Float8GetDatum(fit.auc), Float8GetDatum(fit.left_out)
			};
			const bool	nulls[] = {false, false, false, false, false, false, isnan(fit.auc), isnan(fit.left_out)};

			add_row(&array, values, nulls);
		}
	}
	PG_RETURN_DATUM(end_rows(&array));
}
