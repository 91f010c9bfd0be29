/*
 * credit.h
 *		From touches and conversions to credit: models, amounts, paths.
 */
#ifndef CDI_ATTRIBUTION_CREDIT_H
#define CDI_ATTRIBUTION_CREDIT_H

#include "base/base.h"

#include "utils/jsonb.h"

#include "attribution/paths.h"

#define CDI_CHANNEL_DIRECT	"direct"

/* What a touch is within its path; one may be several at once. */
typedef enum CdiRole
{
	CDI_ROLE_FIRST, CDI_ROLE_LEAD, CDI_ROLE_OPPORTUNITY, CDI_ROLE_LAST, CDI_ROLES
} CdiRole;

typedef enum CdiModelKind
{
	CDI_MODEL_FIRST, CDI_MODEL_LAST, CDI_MODEL_LAST_NON_DIRECT, CDI_MODEL_LINEAR,
	CDI_MODEL_TIME_DECAY, CDI_MODEL_POSITION, CDI_MODEL_PARTICIPATION,
	CDI_MODEL_CUSTOM, CDI_MODEL_PATHS
} CdiModelKind;

typedef enum CdiPathModelKind
{
	CDI_PATH_MARKOV, CDI_PATH_SHAPLEY, CDI_PATH_SHAPLEY_ORDERED, CDI_PATH_LOGISTIC, CDI_PATH_HAZARD
} CdiPathModelKind;

/* Who gets the middle's share where a path has two touches and no middle */
typedef enum CdiTwoTouch
{
	CDI_TWO_TOUCH_RENORMALISE,	/* Mixpanel: both in proportion */
	CDI_TWO_TOUCH_EQUAL,		/* Snowplow: one half each */
	CDI_TWO_TOUCH_SPLIT,		/* MAM: half of the middle's share to each */
	CDI_TWO_TOUCH_GIVEN
} CdiTwoTouch;

typedef struct CdiTransform
{
	CdiPathTransform kind;
	int			number;			/* of trim */
	CdiText		label;			/* of the removals */
} CdiTransform;

/* Which touches of a window make the path */
typedef struct CdiSelection
{
	CdiText    *touch_types;	/* NULL: all */
	int			ntouch_types;
	CdiText    *excluded;		/* channels */
	int			nexcluded;
	CdiTransform *transforms;	/* in this order */
	int			ntransforms;
} CdiSelection;

typedef struct CdiCreditModel
{
	const char *name;			/* as the caller calls it */
	const char *base;			/* as we do */
	CdiModelKind kind;
	CdiSelection selection;
	double		half_life;		/* microseconds */
	double		role[CDI_ROLES];
	double		middle;
	CdiTwoTouch two_touch;
	double		two[2];
	char	   *milestones[2];	/* conversions: lead, opportunity */
	double	   *weights;		/* custom, from the first touch or from the last */
	int			nweights;
	bool		from_last;
	CdiPathModelKind path_model;
	int			order;			/* of markov */
	bool		rate;			/* of shapley: the game of rates */
	double		ridge;			/* of logistic */
	bool		counts;
	char	   *reasons[1 << CDI_ROLES];
} CdiCreditModel;

/* Parameters that are the call's, not a model's */
typedef struct CdiCreditOptions
{
	char	   *label;			/* dimension that paths consist of */
	char	   *touchpoints;	/* relations, as SQL */
	char	   *conversion_events;
	CdiBootstrap bootstrap;
} CdiCreditOptions;

/* A path as a model sees it */
typedef struct CdiModelPath
{
	int			n;				/* at least 1 */
	const int64 *before;		/* microseconds from touch to conversion; of time decay only */
	const int32 *labels;		/* of participation only */
	const bool *direct;			/* of last non-direct only */
	int			milestones[2];	/* touch, or -1 */
} CdiModelPath;

/*
 * model.c.  Weights are not negative and at least one is positive; credit is
 * weight over total.  Returns the total.  roles may be NULL.
 */
extern double cdi_model_weigh(const CdiCreditModel *model, const CdiModelPath *path,
							  double *weights, uint8 *roles);

/* Microseconds from a touch to the conversion; 0 where one is at infinity */
extern int64 cdi_model_age(TimestampTz touched_at, TimestampTz converted_at);

/* Raises ZC301 with the models there are. */
extern void cdi_model_find(CdiCreditModel *model, const char *name, const char *base);

/*
 * parameters.c: models of a call with what the caller set.  Raises 22023 for
 * a parameter that is not there or cannot be.
 */
extern CdiCreditModel *cdi_models_parse(char **names, int n, Jsonb *parameters, CdiCreditOptions *options);
/* Raises 22023 where intervals are asked for: the caller gives no sums. */
extern void cdi_options_refuse_bootstrap(const CdiCreditOptions *options);

/* amount.c: exact decimals.  An amount counts units of 10^-CDI_AMOUNT_SCALE. */
#define CDI_AMOUNT_SCALE	12
typedef int128 CdiAmount;

/* False where it has more digits than an amount can hold exactly. */
extern bool cdi_amount_of(Datum number, CdiAmount *amount);
extern Datum cdi_amount_numeric(CdiAmount amount);
/* value * weight / total, rounded half away from zero; total is positive */
extern CdiAmount cdi_amount_share(CdiAmount value, double weight, double total);
/* The same for a numeric, to scale digits after the point */
extern Datum cdi_numeric_share(Datum value, double weight, double total, int scale);

#endif							/* CDI_ATTRIBUTION_CREDIT_H */
