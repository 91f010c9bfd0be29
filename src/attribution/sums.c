/*
 * sums.c
 *		Credit summed by dimension, for several models in one pass.
 *
 * Sums are exact, so that they do not depend on the order of rows: values are
 * decimals, and credits count units of 2^-60 of a conversion, the last touch
 * taking what is missing to one.
 */
#include "attribution/attribution.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "attribution/call.h"
#include "attribution/journeys_private.h"
#include "attribution/sums_bootstrap.h"
#include "base/errors.h"

#define MAX_MODELS		100
#define MAX_DIMENSIONS	32
#define CREDIT_UNIT		(INT64CONST(1) << 60)
#define DAY_DIMENSION	"day"	/* of the conversion, UTC */

enum
{
	OUT_MODEL, OUT_CONVERSION, OUT_DIMENSIONS,
	OUT_CONVERSIONS, OUT_CONVERSIONS_LOW, OUT_CONVERSIONS_HIGH,
	OUT_VALUE, OUT_VALUE_LOW, OUT_VALUE_HIGH, OUT_UNVALUED, OUT_COLUMNS
};

typedef struct Sum
{
	int128		credit;
	int128		unvalued;		/* credit of conversions without a value */
	CdiAmount	value;
	Datum		numeric;		/* what no amount can hold; 0: nothing */
	int32		figure;			/* of the bootstrap, from 1; 0: none yet */
} Sum;

typedef struct CellKey
{
	int32		definition;		/* or 0, where sums are not by conversion */
	int32		group;
	int32		day;
} CellKey;

typedef struct Cell
{
	CellKey		key;
	Sum		   *sums;			/* by model; NULL: not used yet */
	char		status;
} Cell;

#define SH_PREFIX cells
#define SH_ELEMENT_TYPE Cell
#define SH_KEY_TYPE CellKey
#define SH_KEY key
#define SH_HASH_KEY(table, k) murmurhash32((uint32) ((k).definition * 31 + (k).day) ^ murmurhash32((k).group))
#define SH_EQUAL(table, a, b) ((a).definition == (b).definition && (a).group == (b).group && (a).day == (b).day)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Sums
{
	const CdiAttributionCall *call;
	MemoryContext context;
	CdiTouchLabel *labels;
	int			day;			/* number of the dimension, or -1 */
	char	  **dimensions;		/* as asked for */
	int			ndimensions;
	bool		by_conversion;
	int		   *column;			/* by dimension: of the labels' values; -1: day */

	cdi_label_keys_hash *group_index;
	Datum	  **groups;			/* texts by dimension */
	int			ngroups;
	int32	   *group_of_label; /* [-1]: no touch at all */
	Sum		  **direct;			/* without days: by definition and group */
	cells_hash *cells;			/* with days */

	Datum		amount_of;		/* the value that was last made an amount, which all models share out */
	CdiAmount	amount;
	bool		exact;

	CdiSumsBootstrap *bootstrap;	/* or NULL */
	int32		nfigures;
	int32	   *figures;		/* of a path, as long as the longest */
	int			figure_space;
	CdiBounds  *bounds;			/* by figure */
} Sums;

/* A group by its texts, of which there are as many as dimensions */
static int32
intern_group(Sums *self, const Datum *values)
{
	CdiLabelEntry *entry;
	StringInfoData key;
	bool		found;

	initStringInfo(&key);
	for (int d = 0; d < self->ndimensions; d++)
	{
		int			len = -1;

		if (values[d] != (Datum) 0)
			len = VARSIZE_ANY_EXHDR(DatumGetPointer(values[d]));
		appendBinaryStringInfo(&key, (char *) &len, sizeof(len));
		if (len > 0)
			appendBinaryStringInfo(&key, VARDATA_ANY(DatumGetPointer(values[d])), len);
	}
	entry = cdi_label_keys_insert(self->group_index, (CdiText) {key.data, key.len}, &found);
	if (found)
	{
		pfree(key.data);
		return entry->number;
	}
	entry->number = self->ngroups;
	self->groups[self->ngroups] = palloc(sizeof(Datum) * Max(self->ndimensions, 1));
	memcpy(self->groups[self->ngroups], values, sizeof(Datum) * self->ndimensions);
	return self->ngroups++;
}

static void
make_groups(Sums *self)
{
	int			nlabels = cdi_journeys_labels(self->call->journeys, &self->labels);
	Datum	   *values = palloc0(sizeof(Datum) * Max(self->ndimensions, 1));

	self->group_index = cdi_label_keys_create(CurrentMemoryContext, 64, NULL);
	self->groups = palloc_extended(sizeof(Datum *) * (nlabels + 1), MCXT_ALLOC_HUGE);
	self->group_of_label = (int32 *) palloc_extended(sizeof(int32) * (nlabels + 1), MCXT_ALLOC_HUGE) + 1;
	for (int l = 0; l < nlabels; l++)
	{
		for (int d = 0; d < self->ndimensions; d++)
			values[d] = self->column[d] < 0 ? (Datum) 0 : self->labels[l].values[self->column[d]];
		self->group_of_label[l] = intern_group(self, values);
	}
	for (int d = 0; d < self->ndimensions; d++)
		values[d] = strcmp(self->dimensions[d], "channel") == 0 ? CStringGetTextDatum(CDI_CHANNEL_UNATTRIBUTED) : (Datum) 0;
	self->group_of_label[-1] = intern_group(self, values);
}

static Sum *
new_sums(Sums *self)
{
	return MemoryContextAllocZero(self->context, sizeof(Sum) * self->call->nmodels);
}

static inline Sum *
sums_of(Sums *self, const CdiCredit *credit, int32 label, int32 day)
{
	int32		group = self->group_of_label[label];
	int32		definition = self->by_conversion ? credit->conversion->definition : 0;
	bool		found;
	Cell	   *cell;

	if (self->direct)
	{
		Sum		  **place = &self->direct[(int64) definition * self->ngroups + group];

		if (*place == NULL)
			*place = new_sums(self);
		return *place + credit->model;
	}
	cell = cells_insert(self->cells, (CellKey) {definition, group, day}, &found);
	if (!found)
		cell->sums = new_sums(self);
	return cell->sums + credit->model;
}

static void
add_numeric(Sums *self, Sum *sum, Datum value)
{
	MemoryContext previous = MemoryContextSwitchTo(self->context);

	if (sum->numeric == (Datum) 0)
		sum->numeric = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));
	sum->numeric = DirectFunctionCall2(numeric_add, sum->numeric, value);
	MemoryContextSwitchTo(previous);
}

static inline void
add_amount(Sums *self, Sum *sum, CdiAmount amount)
{
	CdiAmount	result;

	if (likely(!__builtin_add_overflow(sum->value, amount, &result)))
	{
		sum->value = result;
		return;
	}
	add_numeric(self, sum, cdi_amount_numeric(sum->value));
	sum->value = amount;
}

static void
add_unvalued(Sums *self, Sum *sum, const CdiCredit *credit, int64 units)
{
	if (credit->conversion->value == (Datum) 0)
		sum->unvalued += units;
}

/* Everything to one touch, or to none */
static void
add_whole(Sums *self, const CdiCredit *credit, int32 label, int32 day, bool exact, CdiAmount amount)
{
	Sum		   *sum = sums_of(self, credit, label, day);

	sum->credit += CREDIT_UNIT;
	add_unvalued(self, sum, credit, CREDIT_UNIT);
	if (exact)
		add_amount(self, sum, amount);
	else if (credit->conversion->value != (Datum) 0)
		add_numeric(self, sum, credit->conversion->value);
}

/* Day of a conversion in UTC; infinity has a day of its own. */
static int32
day_of(TimestampTz at)
{
	if (TIMESTAMP_IS_NOBEGIN(at))
		return DATEVAL_NOBEGIN;
	if (TIMESTAMP_IS_NOEND(at))
		return DATEVAL_NOEND;
	return (int32) ((at - (at < 0 ? USECS_PER_DAY - 1 : 0)) / USECS_PER_DAY);
}

/* The sum that each touch's credit goes to may get some of it in a replicate. */
static void
keep_for_bootstrap(Sums *self, const CdiCredit *credit, int32 day)
{
	int			n = Max(credit->n, 1);

	if (n > self->figure_space)
	{
		self->figure_space = Max(n, 1024);
		self->figures = MemoryContextAllocHuge(self->context, sizeof(int32) * self->figure_space);
	}
	for (int i = 0; i < n; i++)
	{
		Sum		   *sum = sums_of(self, credit, credit->n > 0 ? credit->touches[i]->label : -1, day);

		if (sum->figure == 0)
			sum->figure = ++self->nfigures;
		self->figures[i] = sum->figure - 1;
	}
	cdi_sums_bootstrap_add(self->bootstrap, credit, self->figures);
}

/* The value of a conversion as an amount, if it can be one */
static bool
value_amount(Sums *self, Datum value, CdiAmount *amount)
{
	if (value == (Datum) 0)
		return false;
	if (value != self->amount_of)
	{
		self->exact = cdi_amount_of(value, &self->amount);
		self->amount_of = value;
	}
	*amount = self->amount;
	return self->exact;
}

/* CdiCreditSink */
static void
add_credit(void *arg, const CdiCredit *credit)
{
	Sums	   *self = arg;
	Datum		value = credit->conversion->value;
	int32		day = self->day < 0 ? 0 : day_of(credit->conversion->at);
	CdiAmount	amount = 0;
	CdiAmount	share = 0;
	CdiAmount	rest;
	Datum		numeric_rest = value;
	int64		units = CREDIT_UNIT;
	int64		share_units = 0;
	double		share_weight = -1;
	Datum		numeric_share = (Datum) 0;
	bool		exact = value_amount(self, value, &amount);
	int			scale = CDI_AMOUNT_SCALE;
	int			last = credit->n - 1;

	if (self->bootstrap)
		keep_for_bootstrap(self, credit, day);
	if (credit->n == 0)
	{
		add_whole(self, credit, -1, day, exact, amount);
		return;
	}
	if (value != (Datum) 0 && !exact)
		scale = Max(scale, DatumGetInt32(DirectFunctionCall1(numeric_scale, value)));
	rest = amount;
	while (credit->weights[last] <= 0)
		last--;
	for (int i = 0; i <= last; i++)
	{
		double		weight = credit->weights[i];
		Sum		   *sum;

		if (weight <= 0)
			continue;
		if (credit->whole)
		{
			add_whole(self, credit, credit->touches[i]->label, day, exact, amount);
			continue;
		}
		if (weight != share_weight)
		{
			share_units = (int64) rint(weight / credit->total * (double) CREDIT_UNIT);
			if (exact)
				share = cdi_amount_share(amount, weight, credit->total);
			else if (value != (Datum) 0)
				numeric_share = cdi_numeric_share(value, weight, credit->total, scale);
			share_weight = weight;
		}
		sum = sums_of(self, credit, credit->touches[i]->label, day);
		if (i == last)
		{
			share_units = units;
			share = rest;
			numeric_share = numeric_rest;
		}
		units -= share_units;
		sum->credit += share_units;
		add_unvalued(self, sum, credit, share_units);
		if (exact)
		{
			rest -= share;
			add_amount(self, sum, share);
		}
		else if (value != (Datum) 0)
		{
			if (i < last)
				numeric_rest = DirectFunctionCall2(numeric_sub, numeric_rest, numeric_share);
			add_numeric(self, sum, numeric_share);
		}
	}
}

static Datum
units_datum(int128 units)
{
	return Float8GetDatum((double) ((long double) units / (long double) CREDIT_UNIT));
}

/* Bounds as numeric; of a sum that is no figure there are none. */
static void
put_bounds(const Sums *self, const Sum *sum, Datum *values, bool *nulls)
{
	const CdiBounds *bounds = self->bounds ? &self->bounds[sum->figure - 1] : NULL;

	nulls[OUT_CONVERSIONS_LOW] = nulls[OUT_CONVERSIONS_HIGH] = nulls[OUT_VALUE_LOW] = nulls[OUT_VALUE_HIGH] = bounds == NULL;
	if (bounds == NULL)
		return;
	values[OUT_CONVERSIONS_LOW] = Float8GetDatum(bounds->conversions_low);
	values[OUT_CONVERSIONS_HIGH] = Float8GetDatum(bounds->conversions_high);
	values[OUT_VALUE_LOW] = DirectFunctionCall1(float8_numeric, Float8GetDatum(bounds->value_low));
	values[OUT_VALUE_HIGH] = DirectFunctionCall1(float8_numeric, Float8GetDatum(bounds->value_high));
}

static Datum
sum_value(const Sum *sum)
{
	Datum		value = cdi_amount_numeric(sum->value);

	if (sum->numeric != (Datum) 0)
		value = DirectFunctionCall2(numeric_add, value, sum->numeric);
	/* trim_scale() as far as two digits, as money is written */
	value = DirectFunctionCall1(numeric_trim_scale, value);
	if (DatumGetInt32(DirectFunctionCall1(numeric_scale, value)) < 2)
		value = DirectFunctionCall2(numeric_round, value, Int32GetDatum(2));
	return value;
}

static void
put_cell(Sums *self, ReturnSetInfo *rsinfo, const CellKey *key, const Sum *sums)
{
	CdiDefinition *definitions;
	Datum	   *texts = palloc0(sizeof(Datum) * Max(self->ndimensions, 1));
	bool	   *text_nulls = palloc0(Max(self->ndimensions, 1));
	int			dims = self->ndimensions;
	int			lower = 1;

	cdi_journeys_definitions(self->call->journeys, &definitions);
	for (int d = 0; d < self->ndimensions; d++)
	{
		texts[d] = self->groups[key->group][d];
		if (d == self->day)
		{
			char		buffer[MAXDATELEN + 1];

			if (DATE_NOT_FINITE(key->day))
				EncodeSpecialDate(key->day, buffer);
			else
			{
				struct pg_tm tm;

				j2date(key->day + POSTGRES_EPOCH_JDATE, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
				EncodeDateOnly(&tm, USE_ISO_DATES, buffer);
			}
			texts[d] = CStringGetTextDatum(buffer);
		}
		text_nulls[d] = texts[d] == (Datum) 0;
	}
	for (int m = 0; m < self->call->nmodels; m++)
	{
		Datum		values[OUT_COLUMNS];
		bool		nulls[OUT_COLUMNS] = {false};

		/* a model that credits nobody here; the sum may still be of refunds */
		if (sums[m].credit == 0)
			continue;
		values[OUT_MODEL] = CStringGetTextDatum(self->call->models[m].name);
		nulls[OUT_CONVERSION] = !self->by_conversion;
		if (self->by_conversion)
			values[OUT_CONVERSION] = CStringGetTextDatum(definitions[key->definition].name);
		values[OUT_DIMENSIONS] = PointerGetDatum(dims == 0 ? construct_empty_array(TEXTOID) :
												 construct_md_array(texts, text_nulls, 1, &dims, &lower,
																	TEXTOID, -1, false, TYPALIGN_INT));
		values[OUT_CONVERSIONS] = units_datum(sums[m].credit);
		values[OUT_VALUE] = sum_value(&sums[m]);
		values[OUT_UNVALUED] = units_datum(sums[m].unvalued);
		put_bounds(self, &sums[m], values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

static char **
text_array(FunctionCallInfo fcinfo, int argument, int max, const char *what, int *n)
{
	Datum	   *values;
	bool	   *nulls;
	char	  **texts;

	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the %s must not be null", what)));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, n);
	if (*n > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%d %s are too many", *n, what),
				 errhint("%d are possible in one call.", max)));
	texts = palloc(sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("none of the %s may be null", what)));
		texts[i] = TextDatumGetCString(values[i]);
	}
	return texts;
}

/*
 * _attribution_sums(models text[], dimensions text[], conversion text,
 *					 from_time timestamptz, to_time timestamptz,
 *					 lookback interval, parameters jsonb, by_conversion boolean)
 */
PG_FUNCTION_INFO_V1(cdi_attribution_sums);
Datum
cdi_attribution_sums(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiAttributionCall call;
	Sums		self;
	char	  **models;
	char	  **columns;
	CdiDefinition *definitions;
	int			nmodels;
	int			ncolumns = 0;
	int			ndefinitions;

	memset(&self, 0, sizeof(self));
	self.by_conversion = PG_GETARG_BOOL(7);
	models = text_array(fcinfo, 0, MAX_MODELS, "models", &nmodels);
	if (nmodels == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a report needs at least one model")));
	self.dimensions = text_array(fcinfo, 1, MAX_DIMENSIONS, "dimensions", &self.ndimensions);
	self.column = palloc(sizeof(int) * Max(self.ndimensions, 1));
	columns = palloc(sizeof(char *) * Max(self.ndimensions, 1));
	self.day = -1;
	for (int d = 0; d < self.ndimensions; d++)
	{
		for (int k = 0; k < d; k++)
			if (strcmp(self.dimensions[k], self.dimensions[d]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("dimension \"%s\" is there twice", self.dimensions[d])));
		self.column[d] = -1;
		if (strcmp(self.dimensions[d], DAY_DIMENSION) == 0)
			self.day = d;
		else
		{
			columns[ncolumns] = self.dimensions[d];
			self.column[d] = ncolumns++;
		}
	}
	cdi_attribution_begin(&call, fcinfo, models, nmodels, 2, columns, ncolumns, false);
	InitMaterializedSRF(fcinfo, 0);
	self.call = &call;
	self.context = AllocSetContextCreate(CurrentMemoryContext, "cdi sums of credit", ALLOCSET_DEFAULT_SIZES);
	make_groups(&self);
	ndefinitions = cdi_journeys_definitions(call.journeys, &definitions);
	if (call.options.bootstrap.replicates > 0)
		self.bootstrap = cdi_sums_bootstrap_begin(&call);
	if (self.day < 0)
		self.direct = palloc_extended(sizeof(Sum *) * Max(ndefinitions, 1) * self.ngroups, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	else
		self.cells = cells_create(self.context, 1024, NULL);
	cdi_attribution_share_out(&call, add_credit, &self);
	if (self.bootstrap)
		self.bounds = cdi_sums_bootstrap_end(self.bootstrap, self.nfigures);

	if (self.direct)
	{
		for (int d = 0; d < ndefinitions; d++)
			for (int g = 0; g < self.ngroups; g++)
				if (self.direct[(int64) d * self.ngroups + g])
					put_cell(&self, rsinfo, &(CellKey) {d, g, 0}, self.direct[(int64) d * self.ngroups + g]);
	}
	else
	{
		cells_iterator iterator;
		Cell	   *cell;

		cells_start_iterate(self.cells, &iterator);
		while ((cell = cells_iterate(self.cells, &iterator)) != NULL)
			put_cell(&self, rsinfo, &cell->key, cell->sums);
	}
	cdi_attribution_end(&call);
	return (Datum) 0;
}
