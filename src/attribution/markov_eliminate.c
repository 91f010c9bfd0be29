/*
 * markov_eliminate.c
 *		Elimination of states from a Markov chain, without a subtraction.
 *
 * To eliminate a state is to send each walk that would go there on to where it
 * goes from there.  The manner is that of Grassmann, Taksar and Heyman
 * (Operations Research 33, 1985): the chance of leaving a state for good is the
 * sum of the ways out of it, never one minus something.  So each result has
 * the relative accuracy of a sum of products of chances, however small it is
 * (O'Cinneide, Numerische Mathematik 65, 1993), and no pivot is zero: each
 * state lies on an observed path, and that path ends.
 *
 * What is lost without a label needs a chain of which only the label's states
 * are left: the start's row then says where walks enter them first.  Labels
 * share the work: states with none of them are eliminated for all at once, and
 * then for one half of the labels and for the other.
 */
#include "attribution/markov.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

/* A chain of some of the states; number n is the start. */
typedef struct Rows
{
	int			n;
	int32	   *states;			/* by number: state of the whole chain */
	int64	   *first;			/* by number, and one beyond */
	int32	   *to;				/* numbers, none to itself */
	double	   *weight;
	double	   *ending;			/* by number: weight of ends */
} Rows;

/* An elimination at work: states that go are numbered before those that stay. */
typedef struct Elimination
{
	int			n;
	int			ngoing;
	int32	   *numbers;		/* by number of the chain that comes in */
	int32	   *order;			/* and back */
	Rows		rows;
	int64		space;
	double	   *earns[CDI_REWARDS];	/* by number, where rewards are asked for */
	double	   *work;			/* the row at work, by number */
	uint64	   *filled;			/* bits: which elements of work are not zero */
} Elimination;

static void *
allocate(size_t size, int64 n)
{
	return palloc_extended(size * (n + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

static inline void
fill(Elimination *self, int32 number, double weight)
{
	self->work[number] += weight;
	self->filled[number / 64] |= UINT64CONST(1) << (number % 64);
}

static inline double
take(Elimination *self, int32 number)
{
	double		weight = self->work[number];

	self->work[number] = 0;
	self->filled[number / 64] &= ~(UINT64CONST(1) << (number % 64));
	return weight;
}

/* The first filled element from number on, or n. */
static inline int32
next_filled(const Elimination *self, int32 number)
{
	int			w = number / 64;
	uint64		bits;

	if (number >= self->n)
		return self->n;
	bits = self->filled[w] & (~UINT64CONST(0) << (number % 64));
	while (bits == 0)
	{
		if (++w > (self->n - 1) / 64)
			return self->n;
		bits = self->filled[w];
	}
	return w * 64 + pg_rightmost_one_pos64(bits);
}

/* Instead of going to an eliminated state, go where that leads. */
static void
go_on(Elimination *self, int32 eliminated, double weight)
{
	int64		begin = self->rows.first[eliminated];
	int64		n = self->rows.first[eliminated + 1] - begin;
	const int32 *to = self->rows.to + begin;
	const double *chance = self->rows.weight + begin;

	if (n > 0 && to[n - 1] - to[0] + 1 == n)
	{
		/* A full row, as most of the last ones are: let the compiler vectorise. */
		double	   *work = self->work + to[0];

		for (int64 i = 0; i < n; i++)
			work[i] += weight * chance[i];
		for (int32 w = to[0] / 64; w <= to[n - 1] / 64; w++)
		{
			uint64		bits = ~UINT64CONST(0);

			if (w == to[0] / 64)
				bits <<= to[0] % 64;
			if (w == to[n - 1] / 64)
				bits &= ~UINT64CONST(0) >> (63 - to[n - 1] % 64);
			self->filled[w] |= bits;
		}
		return;
	}
	for (int64 i = 0; i < n; i++)
		fill(self, to[i], weight * chance[i]);
}

static void
append(Elimination *self, int64 at, int32 to, double weight)
{
	if (at == self->space)
	{
		self->space *= 2;
		self->rows.to = repalloc_huge(self->rows.to, sizeof(int32) * self->space);
		self->rows.weight = repalloc_huge(self->rows.weight, sizeof(double) * self->space);
	}
	self->rows.to[at] = to;
	self->rows.weight[at] = weight;
}

/* Makes the row of a number from that of the chain that comes in. */
static void
make_row(Elimination *self, const Rows *in, int32 number)
{
	int32		source = self->order[number];
	double		ending = in->ending[source];
	double		left;
	int64		at = self->rows.first[number];
	int32		to;

	for (int64 t = in->first[source]; t < in->first[source + 1]; t++)
		fill(self, self->numbers[in->to[t]], in->weight[t]);
	for (to = next_filled(self, 0); to < Min(number, self->ngoing); to = next_filled(self, to + 1))
	{
		double		weight = take(self, to);

		go_on(self, to, weight);
		ending += weight * self->rows.ending[to];
		for (int r = 0; r < CDI_REWARDS && self->earns[r] != NULL; r++)
			self->earns[r][number] += weight * self->earns[r][to];
	}
	left = ending;
	for (; to < self->n; to = next_filled(self, to + 1))
	{
		double		weight = take(self, to);

		if (to == number)
			continue;
		append(self, at++, to, weight);
		left += weight;
	}
	self->rows.ending[number] = ending;
	self->rows.first[number + 1] = at;
	if (number >= self->ngoing)
		return;
	for (int64 i = self->rows.first[number]; i < at; i++)
		self->rows.weight[i] /= left;
	self->rows.ending[number] /= left;
	for (int r = 0; r < CDI_REWARDS && self->earns[r] != NULL; r++)
		self->earns[r][number] /= left;
}

typedef struct Degree
{
	int64		transitions;
	int32		number;
} Degree;

static int
compare_degrees(const void *a, const void *b)
{
	const Degree *left = a;
	const Degree *right = b;

	if (left->transitions != right->transitions)
		return left->transitions < right->transitions ? -1 : 1;
	return left->number < right->number ? -1 : left->number > right->number;
}

/* Numbers the states that go by their degree, which keeps rows short. */
static void
number_states(Elimination *self, const Rows *in, const bool *stays)
{
	Degree	   *degrees = allocate(sizeof(Degree), in->n);
	int			number;

	for (int i = 0; i < in->n; i++)
		degrees[i] = (Degree) {stays[in->states[i]] ? PG_INT64_MAX : in->first[i + 1] - in->first[i], i};
	for (int64 t = 0; t < in->first[in->n]; t++)
		if (!stays[in->states[in->to[t]]])
			degrees[in->to[t]].transitions++;
	qsort(degrees, in->n, sizeof(Degree), compare_degrees);
	for (number = 0; number < in->n; number++)
	{
		self->order[number] = degrees[number].number;
		self->numbers[degrees[number].number] = number;
		if (degrees[number].transitions < PG_INT64_MAX)
			self->ngoing = number + 1;
	}
	self->order[in->n] = in->n;
	pfree(degrees);
}

static Elimination *
begin_elimination(const Rows *in, const bool *stays)
{
	Elimination *self = palloc0(sizeof(Elimination));

	self->n = in->n;
	self->numbers = allocate(sizeof(int32), in->n);
	self->order = allocate(sizeof(int32), in->n);
	self->rows.first = allocate(sizeof(int64), in->n + 1);
	self->rows.ending = allocate(sizeof(double), in->n);
	self->space = in->first[in->n + 1] + 1;
	self->rows.to = allocate(sizeof(int32), self->space);
	self->rows.weight = allocate(sizeof(double), self->space);
	self->work = allocate(sizeof(double), in->n);
	self->filled = allocate(sizeof(uint64), in->n / 64);
	number_states(self, in, stays);
	return self;
}

/*
 * The chain without the states that do not stay.  With start_only just the
 * start's row is made.
 */
static Rows *
eliminate(const Rows *in, const bool *stays, bool start_only)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi elimination", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	Elimination *self = begin_elimination(in, stays);
	Rows	   *out;
	int64		begin;

	for (int32 number = 0; number <= self->n; number++)
	{
		CHECK_FOR_INTERRUPTS();
		if (start_only && number >= self->ngoing && number < self->n)
			self->rows.first[number + 1] = self->rows.first[number];
		else
			make_row(self, in, number);
	}

	MemoryContextSwitchTo(previous);
	begin = self->rows.first[self->ngoing];
	out = palloc0(sizeof(Rows));
	out->n = self->n - self->ngoing;
	out->states = allocate(sizeof(int32), out->n);
	out->first = allocate(sizeof(int64), out->n + 1);
	out->ending = allocate(sizeof(double), out->n);
	out->to = allocate(sizeof(int32), self->rows.first[self->n + 1] - begin);
	out->weight = allocate(sizeof(double), self->rows.first[self->n + 1] - begin);
	for (int i = 0; i <= out->n; i++)
	{
		out->first[i + 1] = self->rows.first[self->ngoing + i + 1] - begin;
		out->ending[i] = self->rows.ending[self->ngoing + i];
		if (i < out->n)
			out->states[i] = in->states[self->order[self->ngoing + i]];
	}
	for (int64 t = 0; t < out->first[out->n + 1]; t++)
	{
		out->to[t] = self->rows.to[begin + t] - self->ngoing;
		out->weight[t] = self->rows.weight[begin + t];
	}
	MemoryContextDelete(context);
	return out;
}

/* A chain's own rows, sharing its memory where it can. */
static Rows *
chain_rows(const CdiMarkovChain *chain)
{
	Rows	   *rows = palloc0(sizeof(Rows));
	int64		n = chain->first[chain->nstates + 1];

	rows->n = chain->nstates;
	rows->states = allocate(sizeof(int32), chain->nstates);
	for (int s = 0; s < chain->nstates; s++)
		rows->states[s] = s;
	rows->first = chain->first;
	rows->ending = chain->ends;
	rows->to = allocate(sizeof(int32), n);
	rows->weight = allocate(sizeof(double), n);
	for (int64 t = 0; t < n; t++)
	{
		rows->to[t] = chain->transitions[t].to;
		rows->weight[t] = chain->transitions[t].count;
	}
	return rows;
}

void
cdi_markov_eliminate_earnings(const CdiMarkovChain *chain, double *const *earnings)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi elimination", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	Rows	   *in = chain_rows(chain);
	Elimination *self = begin_elimination(in, allocate(sizeof(bool), in->n));

	for (int r = 0; r < CDI_REWARDS; r++)
	{
		self->earns[r] = allocate(sizeof(double), in->n);
		for (int32 number = 0; number < in->n; number++)
			self->earns[r][number] = chain->rewards[r][self->order[number]];
	}
	for (int32 number = 0; number < self->n; number++)
	{
		CHECK_FOR_INTERRUPTS();
		make_row(self, in, number);
	}
	/* Back from the last one: what leads on to others earns what they earn. */
	for (int32 number = self->n - 1; number >= 0; number--)
		for (int r = 0; r < CDI_REWARDS; r++)
		{
			for (int64 t = self->rows.first[number]; t < self->rows.first[number + 1]; t++)
				self->earns[r][number] += self->rows.weight[t] * self->earns[r][self->rows.to[t]];
			earnings[r][self->order[number]] = self->earns[r][number];
		}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

static void
lose_labels(const CdiMarkovChain *chain, const Rows *in, double *const *earnings,
			const int32 *labels, int nlabels, double *lost)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi elimination", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	bool	   *stays = allocate(sizeof(bool), chain->nstates);
	Rows	   *rows;

	for (int i = 0; i < nlabels; i++)
		for (int m = chain->first_member[labels[i]]; m < chain->first_member[labels[i] + 1]; m++)
			stays[chain->members[m]] = true;
	rows = eliminate(in, stays, nlabels == 1);
	if (nlabels == 1)
		for (int r = 0; r < CDI_REWARDS; r++)
		{
			double		sum = 0;

			for (int64 t = rows->first[rows->n]; t < rows->first[rows->n + 1]; t++)
				sum += rows->weight[t] * earnings[r][rows->states[rows->to[t]]];
			lost[(int64) labels[0] * CDI_REWARDS + r] = sum;
		}
	else
	{
		check_stack_depth();
		lose_labels(chain, rows, earnings, labels, nlabels / 2, lost);
		lose_labels(chain, rows, earnings, labels + nlabels / 2, nlabels - nlabels / 2, lost);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

void
cdi_markov_eliminate_labels(const CdiMarkovChain *chain, double *const *earnings,
							const int32 *labels, int nlabels, double *lost)
{
	Rows	   *rows = chain_rows(chain);

	if (nlabels > 0)
		lose_labels(chain, rows, earnings, labels, nlabels, lost);
}
