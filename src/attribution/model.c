/*
 * model.c
 *		Rule models of attribution: how a path shares out a conversion.
 *
 * A model gives each touch of a path a weight.  Weights are integers where the
 * rule allows it, so that shares of a conversion's value are exact (amount.c).
 * docs/attribution.md has the formulas with their sources.
 */
#include "attribution/credit.h"

#include <math.h>

#include "common/int.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"

#include "base/errors.h"

typedef struct Preset
{
	const char *name;
	CdiModelKind kind;
	CdiPathModelKind path_model;
	double		role[CDI_ROLES];	/* first, lead, opportunity, last */
	double		middle;
} Preset;

static const Preset presets[] = {
	{"first_touch", CDI_MODEL_FIRST},
	{"last_touch", CDI_MODEL_LAST},
	{"last_non_direct", CDI_MODEL_LAST_NON_DIRECT},
	{"linear", CDI_MODEL_LINEAR},
	{"time_decay", CDI_MODEL_TIME_DECAY},
	{"position_based", CDI_MODEL_POSITION, 0, {40, 0, 0, 40}, 20},
	{"u_shaped", CDI_MODEL_POSITION, 0, {40, 0, 0, 40}, 20},
	{"j_shaped", CDI_MODEL_POSITION, 0, {20, 0, 0, 60}, 20},
	{"inverse_j", CDI_MODEL_POSITION, 0, {60, 0, 0, 20}, 20},
	{"w_shaped", CDI_MODEL_POSITION, 0, {30, 30, 0, 30}, 10},
	{"z_shaped", CDI_MODEL_POSITION, 0, {45, 45, 45, 45}, 20},
	{"full_path", CDI_MODEL_POSITION, 0, {45, 45, 45, 45}, 20},
	{"participation", CDI_MODEL_PARTICIPATION},
	{"custom", CDI_MODEL_CUSTOM},
	{"markov", CDI_MODEL_PATHS,.path_model = CDI_PATH_MARKOV},
	{"shapley", CDI_MODEL_PATHS,.path_model = CDI_PATH_SHAPLEY},
	{"shapley_ordered", CDI_MODEL_PATHS,.path_model = CDI_PATH_SHAPLEY_ORDERED},
	{"logistic", CDI_MODEL_PATHS,.path_model = CDI_PATH_LOGISTIC},
	{"additive_hazard", CDI_MODEL_PATHS,.path_model = CDI_PATH_HAZARD},
};

static const Preset *
find_preset(const char *name)
{
	for (int i = 0; i < lengthof(presets); i++)
		if (strcmp(presets[i].name, name) == 0)
			return &presets[i];
	return NULL;
}

void
cdi_model_find(CdiCreditModel *model, const char *name, const char *base)
{
	const Preset *preset = find_preset(base);

	if (preset == NULL)
	{
		StringInfoData names;

		initStringInfo(&names);
		for (int i = 0; i < lengthof(presets); i++)
			appendStringInfo(&names, "%s%s", i ? ", " : "", presets[i].name);
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_MODEL),
				 errmsg("attribution model \"%s\" does not exist", base),
				 errhint("Models are %s.", names.data)));
	}
	memset(model, 0, sizeof(*model));
	model->name = name;
	model->base = preset->name;
	model->kind = preset->kind;
	memcpy(model->role, preset->role, sizeof(model->role));
	model->middle = preset->middle;
	model->half_life = 7.0 * USECS_PER_DAY;
	model->path_model = preset->path_model;
	model->order = 1;
	model->ridge = 1;
}

static double
weigh_one(int n, int touch, double *weights)
{
	memset(weights, 0, sizeof(double) * n);
	weights[touch] = 1.0;
	return 1.0;
}

static double
weigh_equally(int n, double *weights)
{
	for (int i = 0; i < n; i++)
		weights[i] = 1.0;
	return n;
}

static double
weigh_last_non_direct(const CdiModelPath *path, double *weights)
{
	int			touch = path->n - 1;

	while (touch >= 0 && path->direct[touch])
		touch--;
	return weigh_one(path->n, touch >= 0 ? touch : path->n - 1, weights);
}

int64
cdi_model_age(TimestampTz touched_at, TimestampTz converted_at)
{
	int64		age;

	if (TIMESTAMP_NOT_FINITE(touched_at) || TIMESTAMP_NOT_FINITE(converted_at))
		return 0;
	/* From the year 4713 BC to 294276 AD there are more microseconds than fit. */
	return pg_sub_s64_overflow(converted_at, touched_at, &age) ? PG_INT64_MAX : age;
}

/*
 * 2^(-(T - t) / half-life), relative to the last touch: the factor between the
 * two cancels out, and the last touch's weight cannot vanish.
 */
static double
weigh_by_age(const CdiCreditModel *model, const CdiModelPath *path, double *weights)
{
	int64		last = path->before[path->n - 1];
	double		total = 0;

	for (int i = path->n - 1; i >= 0; i--)
	{
		/* instants at infinity, which have no age, may come before others */
		weights[i] = exp2(-Max((double) path->before[i] - (double) last, 0) / model->half_life);
		total += weights[i];
	}
	return total;
}

static double
weigh_two(const CdiCreditModel *model, double *weights)
{
	double		first = model->role[CDI_ROLE_FIRST];
	double		last = model->role[CDI_ROLE_LAST];

	switch (model->two_touch)
	{
		case CDI_TWO_TOUCH_RENORMALISE:
			break;
		case CDI_TWO_TOUCH_EQUAL:
			first = last = 1;
			break;
		case CDI_TWO_TOUCH_SPLIT:
			first += model->middle / 2;
			last += model->middle / 2;
			break;
		case CDI_TWO_TOUCH_GIVEN:
			first = model->two[0];
			last = model->two[1];
			break;
	}
	weights[0] = first;
	weights[1] = last;
	return first + last;
}

/*
 * Shares of roles add up on a touch that has several; those without a role
 * divide the middle's.  A share that nobody can have is divided in proportion.
 */
static double
weigh_by_role(const CdiCreditModel *model, const CdiModelPath *path, double *weights, uint8 *roles)
{
	int			n = path->n;
	int			touch[CDI_ROLES] = {0, path->milestones[0], path->milestones[1], n - 1};
	uint8		has[CDI_ROLES] = {0};
	int			distinct = 0;
	double		scale = 1;
	double		total = 0;

	if (roles)
		memset(roles, 0, n);
	for (int r = 0; r < CDI_ROLES; r++)
		if (touch[r] >= 0 && (model->role[r] > 0 || r == CDI_ROLE_FIRST || r == CDI_ROLE_LAST))
		{
			bool		is_new = true;

			has[r] = 1;
			for (int s = 0; s < r; s++)
				if (has[s] && touch[s] == touch[r])
					is_new = false;
			distinct += is_new;
			if (roles)
				roles[touch[r]] |= 1 << r;
		}
	if (n == 2 && model->milestones[0] == NULL && model->milestones[1] == NULL)
		total = weigh_two(model, weights);
	else
	{
		/* all times the number of middle touches: integers stay integers */
		if (n > distinct && model->middle > 0)
			scale = n - distinct;
		for (int i = 0; i < n; i++)
			weights[i] = model->middle;
		for (int r = 0; r < CDI_ROLES; r++)
			if (has[r])
				weights[touch[r]] = 0;
		for (int r = 0; r < CDI_ROLES; r++)
			if (has[r])
				weights[touch[r]] += model->role[r] * scale;
		total = n > distinct ? model->middle * (n - distinct) : 0;
		for (int r = 0; r < CDI_ROLES; r++)
			if (has[r])
				total += model->role[r] * scale;
	}
	return total > 0 ? total : weigh_equally(n, weights);
}

/* The first touch of each label; n is the number of labels then. */
static double
weigh_participation(const CdiModelPath *path, double *weights)
{
	int32		most = 0;
	Bitmapset  *seen = NULL;
	double		total = 0;

	for (int i = 0; i < path->n; i++)
		most = Max(most, path->labels[i]);
	seen = bms_make_singleton(most + 1);
	for (int i = 0; i < path->n; i++)
	{
		weights[i] = bms_is_member(path->labels[i], seen) ? 0 : 1;
		total += weights[i];
		seen = bms_add_member(seen, path->labels[i]);
	}
	bms_free(seen);
	return total;
}

/* One weight per touch from the first or from the last; none beyond them. */
static double
weigh_custom(const CdiCreditModel *model, const CdiModelPath *path, double *weights)
{
	double		total = 0;

	for (int i = 0; i < path->n; i++)
	{
		int			number = model->from_last ? path->n - 1 - i : i;

		weights[i] = number < model->nweights ? model->weights[number] : 0;
		total += weights[i];
	}
	return total > 0 ? total : weigh_equally(path->n, weights);
}

double
cdi_model_weigh(const CdiCreditModel *model, const CdiModelPath *path, double *weights, uint8 *roles)
{
	switch (model->kind)
	{
		case CDI_MODEL_FIRST:
			return weigh_one(path->n, 0, weights);
		case CDI_MODEL_LAST:
			return weigh_one(path->n, path->n - 1, weights);
		case CDI_MODEL_LAST_NON_DIRECT:
			return weigh_last_non_direct(path, weights);
		case CDI_MODEL_LINEAR:
			return weigh_equally(path->n, weights);
		case CDI_MODEL_TIME_DECAY:
			return weigh_by_age(model, path, weights);
		case CDI_MODEL_POSITION:
			return weigh_by_role(model, path, weights, roles);
		case CDI_MODEL_PARTICIPATION:
			return weigh_participation(path, weights);
		case CDI_MODEL_CUSTOM:
			return weigh_custom(model, path, weights);
		case CDI_MODEL_PATHS:
			break;
	}
	elog(ERROR, "model \"%s\" does not weigh touches", model->name);
	return 0;					/* keep compiler quiet */
}
