/*
 * model.c
 *		Rule models of attribution: how a path shares out a conversion.
 *
 * Weights are small integers where the rule allows it, so that shares of a
 * conversion's value can be computed exactly (attribution.c).
 */
#include "attribution/attribution.h"

#include "lib/stringinfo.h"

#include "base/errors.h"

static void
weigh_first(int touches, double *weights)
{
	memset(weights, 0, sizeof(double) * touches);
	weights[0] = 1.0;
}

static void
weigh_last(int touches, double *weights)
{
	memset(weights, 0, sizeof(double) * touches);
	weights[touches - 1] = 1.0;
}

static void
weigh_linear(int touches, double *weights)
{
	for (int i = 0; i < touches; i++)
		weights[i] = 1.0;
}

static const CdiAttributionModel models[] = {
	{"first_touch", weigh_first},
	{"last_touch", weigh_last},
	{"linear", weigh_linear},
};

const CdiAttributionModel *
cdi_attribution_model(const char *name)
{
	StringInfoData names;

	for (int i = 0; i < lengthof(models); i++)
		if (strcmp(models[i].name, name) == 0)
			return &models[i];

	initStringInfo(&names);
	for (int i = 0; i < lengthof(models); i++)
		appendStringInfo(&names, "%s%s", i ? ", " : "", models[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_CDI_INVALID_MODEL),
			 errmsg("attribution model \"%s\" does not exist", name),
			 errhint("Models are %s.", names.data)));
	return NULL;				/* keep compiler quiet */
}
