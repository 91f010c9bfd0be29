/*
 * touch_credit.c
 *		cdi_touch_credit(): credit of a touch among those of its window, for
 *		paths that a query makes itself.
 *
 * The partition is one conversion's path in order of time.  Its weights are
 * computed with its first row and kept until the partition ends.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "windowapi.h"

#include "attribution/journeys_private.h"
#include "base/errors.h"

enum
{
	ARG_MODEL, ARG_TOUCHED_AT, ARG_CONVERTED_AT, ARG_LABEL, ARG_PARAMETERS
};

typedef struct PathCredit
{
	double	   *credits;
} PathCredit;

/* The same call has the same model: parsed once, kept with the function. */
typedef struct ModelCache
{
	text	   *name;
	Jsonb	   *parameters;
	CdiCreditModel *model;
} ModelCache;

static CdiCreditModel *
model_of(WindowObject winobj, FunctionCallInfo fcinfo)
{
	ModelCache *cache = fcinfo->flinfo->fn_extra;
	bool		no_name;
	bool		no_parameters;
	Datum		word = WinGetFuncArgCurrent(winobj, ARG_MODEL, &no_name);
	Datum		object = WinGetFuncArgCurrent(winobj, ARG_PARAMETERS, &no_parameters);
	MemoryContext previous;
	CdiCreditOptions options;
	text	   *name;
	char	   *text_name;

	if (no_name || no_parameters)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model and parameters of cdi_touch_credit() cannot be null")));
	name = DatumGetTextPP(word);
	if (cache && VARSIZE_ANY_EXHDR(cache->name) == VARSIZE_ANY_EXHDR(name) &&
		memcmp(VARDATA_ANY(cache->name), VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0 &&
		VARSIZE(cache->parameters) == VARSIZE(DatumGetJsonbP(object)) &&
		memcmp(cache->parameters, DatumGetJsonbP(object), VARSIZE(cache->parameters)) == 0)
		return cache->model;

	previous = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	cache = palloc(sizeof(ModelCache));
	cache->name = DatumGetTextPCopy(PointerGetDatum(name));
	cache->parameters = DatumGetJsonbPCopy(object);
	text_name = text_to_cstring(name);
	cache->model = cdi_models_parse(&text_name, 1, cache->parameters, &options);
	MemoryContextSwitchTo(previous);
	fcinfo->flinfo->fn_extra = cache;
	if (cache->model->kind == CDI_MODEL_PATHS)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("model \"%s\" needs all paths, not one", cache->model->name),
				 errhint("Use cdi_attribution(), or an aggregate over paths such as cdi_markov().")));
	cdi_options_refuse_bootstrap(&options);
	if (cache->model->selection.ntransforms > 0 || cache->model->selection.touch_types ||
		cache->model->selection.nexcluded > 0 || cache->model->milestones[0] || cache->model->milestones[1])
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdi_touch_credit() takes the rows of its window as they are"),
				 errhint("Leave rows out in the query itself, or use cdi_attribution() with the parameters touchpoints and conversion_events.")));
	return cache->model;
}

/* Labels of a path as numbers, equal for equal ones */
static void
read_labels(WindowObject winobj, int64 n, int32 *labels, bool *direct)
{
	cdi_label_keys_hash *index = cdi_label_keys_create(CurrentMemoryContext, 64, NULL);
	int32		nlabels = 0;
	bool		given = false;

	for (int64 i = 0; i < n; i++)
	{
		bool		isnull;
		bool		isout;
		bool		found;
		Datum		value = WinGetFuncArgInPartition(winobj, ARG_LABEL, (int) i, WINDOW_SEEK_HEAD, false, &isnull, &isout);
		text	   *label = isnull ? cstring_to_text("") : DatumGetTextPCopy(value);
		CdiText		key = {VARDATA_ANY(label), (int) VARSIZE_ANY_EXHDR(label)};
		CdiLabelEntry *entry = cdi_label_keys_insert(index, key, &found);

		given |= !isnull;
		if (!found)
			entry->number = nlabels++;
		else
			pfree(label);
		labels[i] = entry->number;
		direct[i] = key.len == strlen(CDI_CHANNEL_DIRECT) && memcmp(entry->key.data, CDI_CHANNEL_DIRECT, key.len) == 0;
	}
	if (!given)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the model needs the labels of the touches, and none has one"),
				 errhint("Pass label => the channel of the touch.")));
}

/* A time; false where it is null and may be */
static bool
time_argument(WindowObject winobj, int argument, int64 row, bool needed, const char *name, TimestampTz *time)
{
	bool		isnull;
	bool		isout;
	Datum		value = WinGetFuncArgInPartition(winobj, argument, (int) row, WINDOW_SEEK_HEAD, false, &isnull, &isout);

	if (isnull && needed)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a touch cannot be null", name),
				 errhint("Leave touches without a time out of the query.")));
	if (!isnull)
		*time = DatumGetTimestampTz(value);
	return !isnull;
}

/* Ages of the touches; raises where they are not in order of time, or after the conversion */
static void
read_ages(WindowObject winobj, int64 n, bool needed, int64 *before)
{
	TimestampTz last = DT_NOBEGIN;

	for (int64 i = 0; i < n; i++)
	{
		TimestampTz at = 0;
		TimestampTz converted_at = 0;

		time_argument(winobj, ARG_TOUCHED_AT, i, true, "touched_at", &at);
		if (at < last)
			ereport(ERROR,
					(errcode(ERRCODE_WINDOWING_ERROR),
					 errmsg("credit needs the touches of a conversion in order of time"),
					 errhint("Use OVER (PARTITION BY conversion ORDER BY the time that the function gets).")));
		last = at;
		before[i] = 0;
		if (time_argument(winobj, ARG_CONVERTED_AT, i, needed, "converted_at", &converted_at))
		{
			if (at > converted_at)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("a touch at %s cannot have led to a conversion at %s",
								pstrdup(timestamptz_to_str(at)), pstrdup(timestamptz_to_str(converted_at))),
						 errhint("Leave touches after the conversion out of the query.")));
			before[i] = cdi_model_age(at, converted_at);
		}
	}
}

/* Credits of the partition, in its own context */
static double *
compute(WindowObject winobj, FunctionCallInfo fcinfo, MemoryContext context)
{
	const CdiCreditModel *model = model_of(winobj, fcinfo);
	int64		n = WinGetPartitionRowCount(winobj);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdi touch credit", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(scratch);
	int64	   *before = palloc_extended(sizeof(int64) * n, MCXT_ALLOC_HUGE);
	CdiModelPath path = {.n = (int) n,.before = before,.milestones = {-1, -1}};
	double	   *weights;
	double		total;
	double		credited = 0;
	int64		last = n - 1;

	if (n > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a path has too many touches")));
	read_ages(winobj, n, model->kind == CDI_MODEL_TIME_DECAY, before);
	if (model->kind == CDI_MODEL_PARTICIPATION || model->kind == CDI_MODEL_LAST_NON_DIRECT)
	{
		int32	   *labels = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
		bool	   *direct = palloc_extended(n, MCXT_ALLOC_HUGE);

		read_labels(winobj, n, labels, direct);
		path.labels = labels;
		path.direct = direct;
	}
	weights = MemoryContextAllocHuge(context, sizeof(double) * n);
	total = cdi_model_weigh(model, &path, weights, NULL);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
	if (model->kind == CDI_MODEL_PARTICIPATION)
		return weights;
	while (weights[last] <= 0)
		last--;
	/* as in cdi_attribution(): in order of touch they sum to exactly 1 */
	for (int64 i = 0; i <= last; i++)
	{
		weights[i] = i == last ? 1.0 - credited : weights[i] / total;
		credited += weights[i];
	}
	return weights;
}

/*
 * cdi_touch_credit(model text, touched_at timestamptz, converted_at timestamptz,
 *					label text, parameters jsonb)
 */
PG_FUNCTION_INFO_V1(cdi_touch_credit);
Datum
cdi_touch_credit(PG_FUNCTION_ARGS)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	PathCredit *path = WinGetPartitionLocalMemory(winobj, sizeof(PathCredit));

	if (path->credits == NULL)
		path->credits = compute(winobj, fcinfo, GetMemoryChunkContext(path));
	PG_RETURN_FLOAT8(path->credits[WinGetCurrentPosition(winobj)]);
}
