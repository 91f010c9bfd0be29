/*
 * markov_solve.c
 *		Removal effects of a Markov chain, exactly.
 *
 * Let h(s) be what a walk in state s will still earn: the chance of a
 * conversion, or the value to be expected.  Of all that the start earns, the
 * part that passes through a label's states is lost when they are removed:
 *
 *		lost = sum over its states of (chance to enter there first) * h(state)
 *
 * so removal is the same linear system as h itself, with the label's states as
 * ends that pay h.  Both are solved by elimination of states in the manner of
 * Grassmann, Taksar and Heyman (Operations Research 33, 1985): a state's chance
 * of being left is the sum of the ways out of it, never one minus something.
 * There is no subtraction at all, so each result has the relative accuracy of
 * a sum of products of chances however small it is (O'Cinneide, Numerische
 * Mathematik 65, 1993), and no pivot is zero: each state lies on an observed
 * path, and that path ends.
 */
#include "attribution/markov.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

/* Rows of eliminated states: chances to go on to states eliminated later. */
typedef struct Elimination
{
	const CdiMarkovChain *chain;
	int			n;				/* states to eliminate; number n is the start */
	int32	   *states;			/* by number: state of the chain */
	int32	   *numbers;		/* by state of the chain: number, or -1 for an end */
	int64	   *first;			/* by number: where its row begins in to and chance */
	int32	   *to;
	double	   *chance;
	int64		space;
	double	   *ending;			/* by number: chance to go to an end next */
	double	   *earns;			/* by number: CDI_REWARDS figures on leaving it */
	double	   *work;			/* the row at work, by number */
	uint64	   *filled;			/* bits: which elements of work are not zero */
} Elimination;

static Elimination *
make_elimination(const CdiMarkovChain *chain)
{
	Elimination *self = palloc0(sizeof(Elimination));
	int			n = chain->nstates + 1;

	self->chain = chain;
	self->states = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	self->numbers = palloc_extended(sizeof(int32) * n, MCXT_ALLOC_HUGE);
	self->first = palloc_extended(sizeof(int64) * (n + 1), MCXT_ALLOC_HUGE);
	self->space = chain->first[n] + n;
	self->to = palloc_extended(sizeof(int32) * self->space, MCXT_ALLOC_HUGE);
	self->chance = palloc_extended(sizeof(double) * self->space, MCXT_ALLOC_HUGE);
	self->ending = palloc_extended(sizeof(double) * n, MCXT_ALLOC_HUGE);
	self->earns = palloc_extended(sizeof(double) * n * CDI_REWARDS, MCXT_ALLOC_HUGE);
	self->work = palloc_extended(sizeof(double) * (n + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	self->filled = palloc_extended(sizeof(uint64) * (n / 64 + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	return self;
}

static inline void
fill(Elimination *self, int32 number, double count)
{
	self->work[number] += count;
	self->filled[number / 64] |= UINT64CONST(1) << (number % 64);
}

/* The first filled element from number on, or -1. */
static inline int32
next_filled(const Elimination *self, int32 number)
{
	int			words = self->n / 64 + 1;
	int			w = number / 64;
	uint64		bits;

	if (w >= words)
		return -1;
	bits = self->filled[w] & (~UINT64CONST(0) << (number % 64));
	while (bits == 0)
	{
		if (++w >= words)
			return -1;
		bits = self->filled[w];
	}
	return w * 64 + pg_rightmost_one_pos64(bits);
}

/* Instead of going to an eliminated state, go where that leads. */
static void
replace(Elimination *self, int32 eliminated, double count)
{
	int64		begin = self->first[eliminated];
	int64		n = self->first[eliminated + 1] - begin;
	const int32 *to = self->to + begin;
	const double *chance = self->chance + begin;

	if (n > 0 && to[n - 1] - to[0] + 1 == n)
	{
		/* A full row, as most of the last ones are: let the compiler vectorise. */
		double	   *work = self->work + to[0];

		for (int64 i = 0; i < n; i++)
			work[i] += count * chance[i];
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
		fill(self, to[i], count * chance[i]);
}

/*
 * The row of a number.  worth: by reward and state, what entering a state that
 * is an end pays; NULL where no state is an end and paths are paid for where
 * they end.
 */
static void
eliminate(Elimination *self, int32 number, double *const *worth)
{
	const CdiMarkovChain *chain = self->chain;
	int32		state = number < self->n ? self->states[number] : chain->nstates;
	double	   *earns = self->earns + (int64) number * CDI_REWARDS;
	double		ending = chain->ends[state];
	double		left;
	int64		at = self->first[number];
	int32		to;

	for (int r = 0; r < CDI_REWARDS; r++)
		earns[r] = worth == NULL && number < self->n ? chain->rewards[r][state] : 0;
	for (int64 t = chain->first[state]; t < chain->first[state + 1]; t++)
	{
		const CdiTransition *transition = &chain->transitions[t];

		to = self->numbers[transition->to];
		if (to >= 0)
			fill(self, to, transition->count);
		else
		{
			ending += transition->count;
			for (int r = 0; r < CDI_REWARDS; r++)
				earns[r] += transition->count * worth[r][transition->to];
		}
	}

	for (to = next_filled(self, 0); to >= 0 && to < number; to = next_filled(self, to + 1))
	{
		double		count = self->work[to];

		self->work[to] = 0;
		self->filled[to / 64] &= ~(UINT64CONST(1) << (to % 64));
		replace(self, to, count);
		ending += count * self->ending[to];
		for (int r = 0; r < CDI_REWARDS; r++)
			earns[r] += count * self->earns[(int64) to * CDI_REWARDS + r];
	}

	left = ending;
	for (; to >= 0; to = next_filled(self, to + 1))
	{
		if (to != number)
		{
			if (at == self->space)
			{
				self->space *= 2;
				self->to = repalloc_huge(self->to, sizeof(int32) * self->space);
				self->chance = repalloc_huge(self->chance, sizeof(double) * self->space);
			}
			self->to[at] = to;
			self->chance[at++] = self->work[to];
			left += self->work[to];
		}
		self->work[to] = 0;
		self->filled[to / 64] &= ~(UINT64CONST(1) << (to % 64));
	}
	for (int64 i = self->first[number]; i < at; i++)
		self->chance[i] /= left;
	self->ending[number] = ending / left;
	for (int r = 0; r < CDI_REWARDS; r++)
		earns[r] /= left;
	self->first[number + 1] = at;
}

/* Eliminates all states but the ends; what the start earns comes last. */
static const double *
eliminate_all(Elimination *self, double *const *worth)
{
	self->first[0] = 0;
	for (int32 number = 0; number <= self->n; number++)
	{
		CHECK_FOR_INTERRUPTS();
		eliminate(self, number, worth);
	}
	return self->earns + (int64) self->n * CDI_REWARDS;
}

typedef struct Degree
{
	int64		transitions;
	int32		state;
} Degree;

static int
compare_degrees(const void *a, const void *b)
{
	const Degree *left = a;
	const Degree *right = b;

	if (left->transitions != right->transitions)
		return left->transitions < right->transitions ? -1 : 1;
	return left->state < right->state ? -1 : left->state > right->state;
}

/* States in an order in which elimination keeps rows short. */
static int32 *
elimination_order(const CdiMarkovChain *chain)
{
	Degree	   *degrees = palloc_extended(sizeof(Degree) * Max(chain->nstates, 1), MCXT_ALLOC_HUGE);
	int32	   *order = palloc_extended(sizeof(int32) * Max(chain->nstates, 1), MCXT_ALLOC_HUGE);

	for (int s = 0; s < chain->nstates; s++)
		degrees[s] = (Degree) {chain->first[s + 1] - chain->first[s], s};
	for (int64 t = 0; t < chain->first[chain->nstates]; t++)
		degrees[chain->transitions[t].to].transitions++;
	qsort(degrees, chain->nstates, sizeof(Degree), compare_degrees);
	for (int s = 0; s < chain->nstates; s++)
		order[s] = degrees[s].state;
	pfree(degrees);
	return order;
}

/* Numbers all states but those of a label, or all with label -1. */
static void
number_states(Elimination *self, const int32 *order, int label)
{
	const CdiMarkovChain *chain = self->chain;

	memset(self->numbers, 0, sizeof(int32) * chain->nstates);
	if (label >= 0)
		for (int m = chain->first_member[label]; m < chain->first_member[label + 1]; m++)
			self->numbers[chain->members[m]] = -1;
	self->n = 0;
	for (int i = 0; i < chain->nstates; i++)
		if (self->numbers[order[i]] == 0)
		{
			self->numbers[order[i]] = self->n;
			self->states[self->n++] = order[i];
		}
}

/* What each state earns: back from the last one that was eliminated. */
static void
earnings(const Elimination *self, double *const *h)
{
	for (int32 number = self->n - 1; number >= 0; number--)
		for (int r = 0; r < CDI_REWARDS; r++)
		{
			double		sum = self->earns[(int64) number * CDI_REWARDS + r];

			for (int64 i = self->first[number]; i < self->first[number + 1]; i++)
				sum += self->chance[i] * h[r][self->states[self->to[i]]];
			h[r][self->states[number]] = sum;
		}
}

void
cdi_markov_losses(const CdiMarkovChain *chain, double *lost)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdi markov", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	Elimination *self = make_elimination(chain);
	int32	   *order = elimination_order(chain);
	double	   *h[CDI_REWARDS];
	double		starts = chain->visits[chain->nstates];

	for (int r = 0; r < CDI_REWARDS; r++)
		h[r] = palloc_extended(sizeof(double) * Max(chain->nstates, 1), MCXT_ALLOC_HUGE);
	number_states(self, order, -1);
	eliminate_all(self, NULL);
	earnings(self, h);
	for (int label = 0; label < chain->paths->nlabels; label++)
	{
		const double *of_start;

		number_states(self, order, label);
		of_start = eliminate_all(self, h);
		for (int r = 0; r < CDI_REWARDS; r++)
			lost[(int64) label * CDI_REWARDS + r] = starts * of_start[r];
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}
