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
	CdiTransformArgument argument;
}			transforms[] = {
	[CDI_TRANSFORM_EXPOSURE] = {"exposure", CDI_TRANSFORM_NO_ARGUMENT},
	[CDI_TRANSFORM_UNIQUE] = {"unique", CDI_TRANSFORM_NO_ARGUMENT},
	[CDI_TRANSFORM_FIRST] = {"first", CDI_TRANSFORM_NO_ARGUMENT},
	[CDI_TRANSFORM_FREQUENCY] = {"frequency", CDI_TRANSFORM_NO_ARGUMENT},
	[CDI_TRANSFORM_REMOVE_IF_NOT_ALL] = {"remove_if_not_all", CDI_TRANSFORM_LABELS},
	[CDI_TRANSFORM_REMOVE_IF_LAST_AND_NOT_ALL] = {"remove_if_last_and_not_all", CDI_TRANSFORM_LABELS},
	[CDI_TRANSFORM_TRIM] = {"trim", CDI_TRANSFORM_NUMBER},
};

bool
cdi_path_transform_find(const char *name, CdiPathTransform *transform, CdiTransformArgument *argument)
{
	for (int i = 0; i < lengthof(transforms); i++)
		if (strcmp(transforms[i].name, name) == 0)
		{
			*transform = i;
			*argument = transforms[i].argument;
			return true;
		}
	return false;
}

static int32
keep_all(int32 length, int32 *kept)
{
	for (int32 i = 0; i < length; i++)
		kept[i] = i;
	return length;
}

int32
cdi_path_transform_keep(CdiPathTransform transform, int32 argument, const int32 *labels, int32 length,
						int32 *counts, int32 *kept)
{
	int32		n = 0;

	switch (transform)
	{
		case CDI_TRANSFORM_UNIQUE:
			break;
		case CDI_TRANSFORM_EXPOSURE:
			for (int32 i = 0; i < length; i++)
				if (i == 0 || labels[i] != labels[i - 1])
					kept[n++] = i;
			return n;
		case CDI_TRANSFORM_FIRST:
		case CDI_TRANSFORM_FREQUENCY:
			for (int32 i = 0; i < length; i++)
				if (counts[labels[i]]++ == 0)
					kept[n++] = i;
			for (int32 i = 0; i < n && transform == CDI_TRANSFORM_FIRST; i++)
				counts[labels[kept[i]]] = 0;
			return n;
		case CDI_TRANSFORM_REMOVE_IF_NOT_ALL:
			for (int32 i = 0; i < length; i++)
				if (labels[i] != argument)
					kept[n++] = i;
			if (n > 0)
				return n;
			break;
		case CDI_TRANSFORM_REMOVE_IF_LAST_AND_NOT_ALL:
			n = length;
			while (n > 0 && labels[n - 1] == argument)
				n--;
			if (n > 0)
				return keep_all(n, kept);
			break;
		case CDI_TRANSFORM_TRIM:
			for (int32 i = Max(length - argument, 0); i < length; i++)
				kept[n++] = i;
			return n;
	}
	return keep_all(length, kept);
}

/* Changes touches in place and returns their new number; frequency adds labels. */
static int32
transform_labels(CdiPaths *paths, CdiPathTransform transform, int32 argument, int32 *touches, int32 length)
{
	int32	   *counts = palloc_extended(sizeof(int32) * Max(paths->nlabels, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	int32	   *kept = palloc_extended(sizeof(int32) * Max(length, 1), MCXT_ALLOC_HUGE);

	length = cdi_path_transform_keep(transform, argument, touches, length, counts, kept);
	for (int32 i = 0; i < length; i++)
		touches[i] = touches[kept[i]];
	if (transform == CDI_TRANSFORM_FREQUENCY)
		for (int32 i = 0; i < length; i++)
		{
			CdiText		label = paths->labels[touches[i]];
			char	   *counted = psprintf("%s(%d)", label.data, counts[touches[i]]);

			touches[i] = cdi_paths_label(paths, (CdiText) {counted, strlen(counted)});
			pfree(counted);
		}
	pfree(kept);
	pfree(counts);
	return length;
}

static void pg_attribute_noreturn()
refuse_transform(const char *name)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(transforms); i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", transforms[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("path transform \"%s\" does not exist", name),
			 errhint("Transforms are %s.", names.data)));
	pg_unreachable();
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
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	CdiPathTransform transform;
	CdiTransformArgument kind;
	CdiPaths   *paths = cdi_paths_create(CurrentMemoryContext);
	Datum	   *arguments;
	int			narguments;
	int32	   *touches;
	int32		length;
	Datum	   *labels;
	Datum		result;

	if (!cdi_path_transform_find(name, &transform, &kind))
		refuse_transform(name);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT, &arguments, NULL, &narguments);
	if ((kind == CDI_TRANSFORM_NO_ARGUMENT && narguments > 0) ||
		(kind == CDI_TRANSFORM_LABELS && narguments == 0) ||
		(kind == CDI_TRANSFORM_NUMBER && narguments != 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path transform \"%s\" takes %s", name,
						kind == CDI_TRANSFORM_NO_ARGUMENT ? "no argument" :
						kind == CDI_TRANSFORM_LABELS ? "one or more channels" : "a number of touches")));

	touches = cdi_paths_touches(paths, PG_GETARG_ARRAYTYPE_P(0), &length);
	for (int i = 0; i < Max(narguments, 1); i++)
	{
		int32		argument = 0;

		CHECK_FOR_INTERRUPTS();
		if (kind == CDI_TRANSFORM_LABELS)
			argument = cdi_paths_label(paths, (CdiText) {VARDATA_ANY(DatumGetPointer(arguments[i])),
									   VARSIZE_ANY_EXHDR(DatumGetPointer(arguments[i]))});
		else if (kind == CDI_TRANSFORM_NUMBER)
			argument = number_of(TextDatumGetCString(arguments[i]));
		length = transform_labels(paths, transform, argument, touches, length);
	}

	labels = palloc_extended(sizeof(Datum) * Max(length, 1), MCXT_ALLOC_HUGE);
	for (int32 i = 0; i < length; i++)
		labels[i] = PointerGetDatum(cstring_to_text_with_len(paths->labels[touches[i]].data, paths->labels[touches[i]].len));
	result = PointerGetDatum(construct_array(labels, length, TEXTOID, -1, false, TYPALIGN_INT));
	MemoryContextDelete(paths->context);
	PG_RETURN_DATUM(result);
}
