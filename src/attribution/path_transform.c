/*
 * path_transform.c
 *		What of a path a model is to see.
 *
 * Transforms are those of Fractribution by name and meaning (google/fractribution,
 * from which snowplow/dbt-snowplow-fractribution has them).
 */
#include "attribution/paths.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

static const struct
{
	const char *name;
	enum
	{
		NO_ARGUMENT, LABELS, NUMBER
	}			argument;
}			transforms[] = {
	[CDI_TRANSFORM_EXPOSURE] = {"exposure", NO_ARGUMENT},
	[CDI_TRANSFORM_UNIQUE] = {"unique", NO_ARGUMENT},
	[CDI_TRANSFORM_FIRST] = {"first", NO_ARGUMENT},
	[CDI_TRANSFORM_FREQUENCY] = {"frequency", NO_ARGUMENT},
	[CDI_TRANSFORM_REMOVE_IF_NOT_ALL] = {"remove_if_not_all", LABELS},
	[CDI_TRANSFORM_REMOVE_IF_LAST_AND_NOT_ALL] = {"remove_if_last_and_not_all", LABELS},
	[CDI_TRANSFORM_TRIM] = {"trim", NUMBER},
};

static CdiPathTransform
transform_of(const char *name)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(transforms); i++)
	{
		if (strcmp(transforms[i].name, name) == 0)
			return i;
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", transforms[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("path transform \"%s\" does not exist", name),
			 errhint("Transforms are %s.", names.data)));
	return 0;					/* keep compiler quiet */
}

static int32
exposure(int32 *touches, int32 length)
{
	int32		n = 0;

	for (int32 i = 0; i < length; i++)
		if (n == 0 || touches[n - 1] != touches[i])
			touches[n++] = touches[i];
	return n;
}

/* The first touch of each label; counts: by label, how often it was there. */
static int32
first_of_each(int32 *touches, int32 length, int32 *counts)
{
	int32		n = 0;

	for (int32 i = 0; i < length; i++)
		if (counts[touches[i]]++ == 0)
			touches[n++] = touches[i];
	return n;
}

static int32
without(int32 *touches, int32 length, int32 label)
{
	int32		n = 0;

	for (int32 i = 0; i < length; i++)
		if (touches[i] != label)
			touches[n++] = touches[i];
	/* Nothing was overwritten where nothing is left. */
	return n > 0 ? n : length;
}

static int32
without_last(const int32 *touches, int32 length, int32 label)
{
	int32		n = length;

	while (n > 0 && touches[n - 1] == label)
		n--;
	return n > 0 ? n : length;
}

int32
cdi_paths_transform(CdiPaths *paths, CdiPathTransform transform, int32 argument,
					int32 *touches, int32 length)
{
	int32	   *counts;

	switch (transform)
	{
		case CDI_TRANSFORM_UNIQUE:
			return length;
		case CDI_TRANSFORM_EXPOSURE:
			return exposure(touches, length);
		case CDI_TRANSFORM_REMOVE_IF_NOT_ALL:
			return without(touches, length, argument);
		case CDI_TRANSFORM_REMOVE_IF_LAST_AND_NOT_ALL:
			return without_last(touches, length, argument);
		case CDI_TRANSFORM_TRIM:
			if (length <= argument)
				return length;
			memmove(touches, touches + length - argument, sizeof(int32) * argument);
			return argument;
		case CDI_TRANSFORM_FIRST:
		case CDI_TRANSFORM_FREQUENCY:
			break;
	}
	counts = palloc_extended(sizeof(int32) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	length = first_of_each(touches, length, counts);
	if (transform == CDI_TRANSFORM_FREQUENCY)
		for (int32 i = 0; i < length; i++)
		{
			CdiText		label = paths->labels[touches[i]];
			char	   *counted = psprintf("%s(%d)", label.data, counts[touches[i]]);

			touches[i] = cdi_paths_label(paths, (CdiText) {counted, strlen(counted)});
			pfree(counted);
		}
	pfree(counts);
	return length;
}

static int32
number_of(const char *text)
{
	int32		number = pg_strtoint32(text);

	if (number < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a path cannot be trimmed to %d touches", number)));
	return number;
}

/* cdi_path_transform(path text[], transform text, VARIADIC arguments text[]) */
PG_FUNCTION_INFO_V1(cdi_path_transform);
Datum
cdi_path_transform(PG_FUNCTION_ARGS)
{
	CdiPathTransform transform = transform_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	CdiPaths   *paths = cdi_paths_create(CurrentMemoryContext);
	Datum	   *arguments;
	int			narguments;
	int32	   *touches;
	int32		length;
	Datum	   *labels;
	Datum		result;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT, &arguments, NULL, &narguments);
	if ((transforms[transform].argument == NO_ARGUMENT && narguments > 0) ||
		(transforms[transform].argument == LABELS && narguments == 0) ||
		(transforms[transform].argument == NUMBER && narguments != 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path transform \"%s\" takes %s", transforms[transform].name,
						transforms[transform].argument == NO_ARGUMENT ? "no argument" :
						transforms[transform].argument == LABELS ? "one or more channels" : "a number of touches")));

	touches = cdi_paths_touches(paths, PG_GETARG_ARRAYTYPE_P(0), &length);
	for (int i = 0; i < Max(narguments, 1); i++)
	{
		int32		argument = 0;

		CHECK_FOR_INTERRUPTS();
		if (transforms[transform].argument == LABELS)
			argument = cdi_paths_label(paths, (CdiText) {VARDATA_ANY(DatumGetPointer(arguments[i])),
									   VARSIZE_ANY_EXHDR(DatumGetPointer(arguments[i]))});
		else if (transforms[transform].argument == NUMBER)
			argument = number_of(TextDatumGetCString(arguments[i]));
		length = cdi_paths_transform(paths, transform, argument, touches, length);
	}

	labels = palloc_extended(sizeof(Datum) * Max(length, 1), MCXT_ALLOC_HUGE);
	for (int32 i = 0; i < length; i++)
		labels[i] = PointerGetDatum(cstring_to_text_with_len(paths->labels[touches[i]].data, paths->labels[touches[i]].len));
	result = PointerGetDatum(construct_array(labels, length, TEXTOID, -1, false, TYPALIGN_INT));
	MemoryContextDelete(paths->context);
	PG_RETURN_DATUM(result);
}
