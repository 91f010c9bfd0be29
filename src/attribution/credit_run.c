/*
 * credit_run.c
 *		Share out every conversion under every model.
 */
#include "attribution/credit_run.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/memutils.h"

/* What a model needs to know of labels and touch types, by their numbers */
typedef struct ModelView
{
	bool	   *excluded;		/* label; NULL: none is */
	bool	   *type_excluded;	/* type; NULL: none is */
	int32	   *arguments;		/* of the transforms */
} ModelView;

struct CdiCreditRun
{
	const CdiCreditModel *models;
	int			nmodels;
	const CdiJourneys *journeys;
	CdiCreditSink sink;
	void	   *arg;
	CdiCreditWeigher weigher;	/* of path models */
	void	   *weigher_arg;
	MemoryContext row_context;

	CdiTouchLabel *labels;
	int			nlabels;
	CdiDefinition *definitions;
	int			ndefinitions;
	int			ntypes;
	int			npath_labels;
	ModelView  *views;
	int		  **window_of_type; /* by definition and type: number of its window, or -1 */

	/* of one conversion and model, as long as the longest path */
	int			space;
	CdiTouch  **kept;
	double	   *weights;
	uint8	   *roles;
	int64	   *before;
	int32	   *path_labels;
	bool	   *direct;
	int32	   *order;
	int32	   *counts;			/* by path label: 0 */
};

static bool
text_in(CdiText text, const CdiText *texts, int n)
{
	for (int i = 0; i < n; i++)
		if (texts[i].len == text.len && memcmp(texts[i].data, text.data, text.len) == 0)
			return true;
	return false;
}

static void
make_view(CdiCreditRun *self, const CdiSelection *selection, ModelView *view, const CdiText *types)
{
	memset(view, 0, sizeof(*view));
	if (selection->nexcluded > 0)
	{
		view->excluded = palloc(self->nlabels + 1);
		for (int i = 0; i < self->nlabels; i++)
			view->excluded[i] = text_in(self->labels[i].channel, selection->excluded, selection->nexcluded);
	}
	if (selection->touch_types)
	{
		view->type_excluded = palloc(self->ntypes + 1);
		for (int i = 0; i < self->ntypes; i++)
			view->type_excluded[i] = !text_in(types[i], selection->touch_types, selection->ntouch_types);
	}
	view->arguments = palloc(sizeof(int32) * Max(selection->ntransforms, 1));
	for (int t = 0; t < selection->ntransforms; t++)
	{
		const CdiTransform *transform = &selection->transforms[t];

		view->arguments[t] = transform->kind == CDI_TRANSFORM_TRIM ? transform->number : -1;
		for (int i = 0; i < self->nlabels && transform->label.data; i++)
			if (text_in(self->labels[i].path_label, &transform->label, 1))
				view->arguments[t] = self->labels[i].path_number;
	}
}

CdiCreditRun *
cdi_credit_run_create(const CdiCreditModel *models, int nmodels, const CdiJourneys *journeys)
{
	CdiCreditRun *self = palloc0(sizeof(CdiCreditRun));
	CdiText    *types;

	self->models = models;
	self->nmodels = nmodels;
	self->journeys = journeys;
	self->row_context = AllocSetContextCreate(CurrentMemoryContext, "cdi credit row", ALLOCSET_DEFAULT_SIZES);
	self->nlabels = cdi_journeys_labels(journeys, &self->labels);
	self->ndefinitions = cdi_journeys_definitions(journeys, &self->definitions);
	self->ntypes = cdi_journeys_types(journeys, &types);
	self->views = palloc(sizeof(ModelView) * nmodels);
	for (int m = 0; m < nmodels; m++)
		make_view(self, &models[m].selection, &self->views[m], types);
	self->window_of_type = palloc(sizeof(int *) * Max(self->ndefinitions, 1));
	for (int d = 0; d < self->ndefinitions; d++)
	{
		const CdiDefinition *definition = &self->definitions[d];

		self->window_of_type[d] = palloc(sizeof(int) * (self->ntypes + 1));
		for (int t = 0; t < self->ntypes; t++)
		{
			self->window_of_type[d][t] = -1;
			for (int w = 0; w < definition->nwindows; w++)
				if (text_in(types[t], &definition->window_types[w], 1))
					self->window_of_type[d][t] = w;
		}
	}
	for (int i = 0; i < self->nlabels; i++)
		self->npath_labels = Max(self->npath_labels, self->labels[i].path_number + 1);
	self->counts = palloc0(sizeof(int32) * (self->npath_labels + 1));
	self->space = 0;
	return self;
}

static void
make_room(CdiCreditRun *self, int n)
{
	if (n <= self->space)
		return;
	if (self->space > 0)
	{
		pfree(self->kept);
		pfree(self->weights);
		pfree(self->roles);
		pfree(self->before);
		pfree(self->path_labels);
		pfree(self->order);
		pfree(self->direct);
	}
	self->space = Max(n, self->space <= INT_MAX / 2 ? Max(64, 2 * self->space) : n);
	self->kept = palloc_extended(sizeof(CdiTouch *) * self->space, MCXT_ALLOC_HUGE);
	self->weights = palloc_extended(sizeof(double) * self->space, MCXT_ALLOC_HUGE);
	self->roles = palloc_extended(self->space, MCXT_ALLOC_HUGE);
	self->before = palloc_extended(sizeof(int64) * self->space, MCXT_ALLOC_HUGE);
	self->path_labels = palloc_extended(sizeof(int32) * self->space, MCXT_ALLOC_HUGE);
	self->order = palloc_extended(sizeof(int32) * self->space, MCXT_ALLOC_HUGE);
	self->direct = palloc_extended(self->space, MCXT_ALLOC_HUGE);
}

/* First touch of the person that is not before the start of the window. */
static int
first_touch_since(const CdiJourney *journey, TimestampTz start)
{
	int			low = 0;
	int			high = journey->ntouches;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (journey->touches[middle]->at < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Past the last touch of the person that is not after the conversion. */
static int
touches_until(const CdiJourney *journey, int from, TimestampTz at)
{
	int			low = from;
	int			high = journey->ntouches;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (journey->touches[middle]->at <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The kept touches as the model is to see them; returns how many are left. */
static int
transform_kept(CdiCreditRun *self, int m, int n)
{
	const CdiSelection *selection = &self->models[m].selection;

	for (int t = 0; t < selection->ntransforms; t++)
	{
		for (int i = 0; i < n; i++)
			self->path_labels[i] = self->labels[self->kept[i]->label].path_number;
		n = cdi_path_transform_keep(selection->transforms[t].kind, self->views[m].arguments[t],
									self->path_labels, n, self->counts, self->order);
		for (int i = 0; i < n; i++)
			self->kept[i] = self->kept[self->order[i]];
	}
	return n;
}

/*
 * The path of a conversion under a model: touches within the window, of the
 * types and channels that count, transformed.
 */
static int
select_path(CdiCreditRun *self, int m, const CdiJourney *journey, const CdiConversion *conversion, CdiTouch ***path)
{
	const CdiDefinition *definition = &self->definitions[conversion->definition];
	const CdiSelection *selection = &self->models[m].selection;
	const ModelView *view = &self->views[m];
	TimestampTz start = cdi_window_start(conversion->at, &definition->lookback);
	TimestampTz earliest = start;
	TimestampTz starts[CDI_MAX_WINDOWS];
	int			first;
	int			end;
	int			n = 0;

	for (int w = 0; w < definition->nwindows; w++)
	{
		starts[w] = cdi_window_start(conversion->at, &definition->windows[w]);
		earliest = Min(earliest, starts[w]);
	}
	first = first_touch_since(journey, earliest);
	end = touches_until(journey, first, conversion->at);
	if (definition->nwindows == 0 && !view->excluded && !view->type_excluded && selection->ntransforms == 0)
	{
		*path = journey->touches + first;
		return end - first;
	}
	for (int i = first; i < end; i++)
	{
		CdiTouch   *touch = journey->touches[i];
		int			window = touch->type < 0 ? -1 : self->window_of_type[conversion->definition][touch->type];

		if (touch->at < (window < 0 ? start : starts[window]) ||
			(view->excluded && view->excluded[touch->label]) ||
			(view->type_excluded && (touch->type < 0 || view->type_excluded[touch->type])))
			continue;
		self->kept[n++] = touch;
	}
	*path = self->kept;
	return transform_kept(self, m, n);
}

/*
 * The touch of a milestone: the last one of the path at or before the first
 * time that the milestone was reached within the window.  -1: none.
 */
static int
milestone_touch(const CdiCreditRun *self, const CdiJourney *journey, const CdiConversion *conversion,
				const char *const name, int number, CdiTouch **path, int n)
{
	TimestampTz start = cdi_window_start(conversion->at, &self->definitions[conversion->definition].lookback);
	int			touch = -1;

	for (int i = 0; i < journey->nconversions; i++)
	{
		const CdiConversion *milestone = &journey->conversions[i];

		if (milestone->at > conversion->at)
			break;
		if (milestone->kind != CDI_MILESTONE + number || milestone->at < start)
			continue;
		while (touch + 1 < n && path[touch + 1]->at <= milestone->at)
			touch++;
		break;
	}
	return touch;
}

static void
credit_under(CdiCreditRun *self, int m, const CdiJourney *journey, const CdiConversion *conversion)
{
	const CdiCreditModel *model = &self->models[m];
	CdiCredit	credit = {.model = m,.conversion = conversion,.definition = conversion->definition,.journey = journey};
	CdiModelPath path = {.milestones = {-1, -1}};

	credit.n = select_path(self, m, journey, conversion, &credit.touches);
	if (credit.n > 0)
	{
		credit.weights = self->weights;
		path.n = credit.n;
		if (model->kind == CDI_MODEL_TIME_DECAY)
		{
			for (int i = 0; i < credit.n; i++)
				self->before[i] = cdi_model_age(credit.touches[i]->at, conversion->at);
			path.before = self->before;
		}
		if (model->kind == CDI_MODEL_PARTICIPATION)
		{
			for (int i = 0; i < credit.n; i++)
				self->path_labels[i] = self->labels[credit.touches[i]->label].path_number;
			path.labels = self->path_labels;
		}
		if (model->kind == CDI_MODEL_LAST_NON_DIRECT)
		{
			for (int i = 0; i < credit.n; i++)
				self->direct[i] = self->labels[credit.touches[i]->label].direct;
			path.direct = self->direct;
		}
		if (model->kind == CDI_MODEL_POSITION)
		{
			credit.roles = self->roles;
			for (int k = 0; k < 2; k++)
				if (model->milestones[k])
					path.milestones[k] = milestone_touch(self, journey, conversion, model->milestones[k],
														 2 * m + k, credit.touches, credit.n);
		}
		if (model->kind == CDI_MODEL_PATHS)
			credit.total = self->weigher(self->weigher_arg, &credit, self->weights);
		else
			credit.total = cdi_model_weigh(model, &path, self->weights, credit.roles);
		credit.whole = model->kind == CDI_MODEL_PARTICIPATION;
	}
	self->sink(self->arg, &credit);
}

static void
visit(void *arg, const CdiJourney *journey)
{
	CdiCreditRun *self = arg;
	MemoryContext previous;

	make_room(self, journey->ntouches);
	previous = MemoryContextSwitchTo(self->row_context);
	for (int i = 0; i < journey->nconversions; i++)
	{
		if (journey->conversions[i].kind != CDI_COUNTED)
			continue;
		CHECK_FOR_INTERRUPTS();
		for (int m = 0; m < self->nmodels; m++)
			credit_under(self, m, journey, &journey->conversions[i]);
		MemoryContextReset(self->row_context);
	}
	MemoryContextSwitchTo(previous);
}

void
cdi_credit_run(CdiCreditRun *self, CdiJourneys *journeys, CdiCreditSink sink, void *arg,
			   CdiCreditWeigher weigher, void *weigher_arg)
{
	self->sink = sink;
	self->arg = arg;
	self->weigher = weigher;
	self->weigher_arg = weigher_arg;
	cdi_journeys_visit(journeys, visit, self);
}

/* Is the touch in the window of a conversion of the definition? */
static bool
leads_to_conversion(const CdiCreditRun *self, const CdiJourney *journey, int d, const CdiTouch *touch, int *next)
{
	const CdiDefinition *definition = &self->definitions[d];
	int			window = touch->type < 0 ? -1 : self->window_of_type[d][touch->type];
	const Interval *lookback = window < 0 ? &definition->lookback : &definition->windows[window];

	/* the first conversion that is not before it decides; touches come in order of time */
	while (*next < journey->nconversions &&
		   (journey->conversions[*next].kind != CDI_COUNTED || journey->conversions[*next].definition != d ||
			journey->conversions[*next].at < touch->at))
		(*next)++;
	return *next < journey->nconversions &&
		cdi_window_start(journey->conversions[*next].at, lookback) <= touch->at;
}

static bool
counts_for_model(const ModelView *view, const CdiTouch *touch)
{
	return !(view->excluded && view->excluded[touch->label]) &&
		!(view->type_excluded && (touch->type < 0 || view->type_excluded[touch->type]));
}

/* The run of n kept touches that led to nothing, transformed */
static void
end_null_path(CdiCreditRun *self, int m, int d, const CdiJourney *journey, int n)
{
	CdiCredit	credit = {.model = m,.definition = d,.journey = journey,.touches = self->kept};
	TimestampTz last;

	if (n == 0)
		return;
	last = self->kept[n - 1]->at;
	credit.n = n = transform_kept(self, m, n);
	/* none came within the window of the last touch, or until the end of what was seen */
	credit.seen_until = cdi_journeys_seen_until(self->journeys);
	if (!TIMESTAMP_NOT_FINITE(last) && cdi_window_start(credit.seen_until, &self->definitions[d].lookback) > last)
		credit.seen_until = last + (credit.seen_until - cdi_window_start(credit.seen_until, &self->definitions[d].lookback));
	if (n > 0)
		self->sink(self->arg, &credit);
}

static void
null_paths(CdiCreditRun *self, int m, int d, const CdiJourney *journey)
{
	int			n = 0;
	int			next = 0;

	for (int i = 0; i < journey->ntouches; i++)
	{
		CdiTouch   *touch = journey->touches[i];

		if (leads_to_conversion(self, journey, d, touch, &next) || !cdi_journeys_in_time(self->journeys, touch->at))
		{
			end_null_path(self, m, d, journey, n);
			n = 0;
			continue;
		}
		if (!counts_for_model(&self->views[m], touch))
			continue;
		if (n > 0 && cdi_window_start(touch->at, &self->definitions[d].lookback) > self->kept[n - 1]->at)
		{
			end_null_path(self, m, d, journey, n);
			n = 0;
		}
		self->kept[n++] = touch;
	}
	end_null_path(self, m, d, journey, n);
}

static void
visit_paths(void *arg, const CdiJourney *journey)
{
	CdiCreditRun *self = arg;

	make_room(self, journey->ntouches);
	for (int m = 0; m < self->nmodels; m++)
	{
		if (self->models[m].kind != CDI_MODEL_PATHS)
			continue;
		for (int i = 0; i < journey->nconversions; i++)
		{
			const CdiConversion *conversion = &journey->conversions[i];
			CdiCredit	credit = {.model = m,.conversion = conversion,.definition = conversion->definition,.journey = journey};

			if (conversion->kind != CDI_COUNTED)
				continue;
			CHECK_FOR_INTERRUPTS();
			credit.n = select_path(self, m, journey, conversion, &credit.touches);
			self->sink(self->arg, &credit);
		}
		for (int d = 0; d < self->ndefinitions && journey->has_person; d++)
			if (self->definitions[d].nconversions > 0)
				null_paths(self, m, d, journey);
	}
}

void
cdi_credit_run_paths(CdiCreditRun *self, CdiJourneys *journeys, CdiCreditSink sink, void *arg)
{
	self->sink = sink;
	self->arg = arg;
	cdi_journeys_visit(journeys, visit_paths, self);
}
