/*
 * markov.h
 *		Markov chains over paths: who led to conversions, by removal effects.
 */
#ifndef CDI_ATTRIBUTION_MARKOV_H
#define CDI_ATTRIBUTION_MARKOV_H

#include "attribution/paths.h"

#define CDI_MARKOV_MAX_ORDER	32

typedef struct CdiMarkovOptions
{
	int			order;			/* 1 .. CDI_MARKOV_MAX_ORDER: touches that a state remembers */
	int			walks;			/* 0: exact; or simulated by so many */
	int			seed;			/* of the simulation */
} CdiMarkovOptions;

/* Standard errors of what a simulation credits a label with */
typedef struct CdiMarkovError
{
	double		conversions;
	double		value;
} CdiMarkovError;

/* What the chain is asked for: all of it is linear in the ends of paths. */
typedef enum CdiReward
{
	CDI_REWARD_CONVERSIONS,
	CDI_REWARD_GAIN,			/* value of paths whose value is positive */
	CDI_REWARD_LOSS				/* of the others, as a positive number */
} CdiReward;
#define CDI_REWARDS	3

typedef struct CdiTransition
{
	int32		from;			/* state, or nstates: start */
	int32		to;
	double		count;
} CdiTransition;

/*
 * States are numbered from 0; number nstates is the start, from which each
 * path goes to its first state.  A transition from a state to itself is kept
 * apart: how long a walk stays in a state changes nothing of where it goes.
 */
typedef struct CdiMarkovChain
{
	const CdiPaths *paths;
	int			nstates;
	CdiPath    *states;			/* touches of each; outcomes are not used */
	double	   *rewards[CDI_REWARDS];	/* by state, of the paths that end there */
	double		totals[CDI_REWARDS];
	double	   *ends;			/* by state and start: paths that end there */
	double	   *visits;			/* by state and start: times it was left for an end or another state */
	double	   *stays;			/* by state: transitions to itself */
	int64	   *first;			/* by state and start (and one beyond): its first transition */
	CdiTransition *transitions; /* by from and to */
	int		   *first_member;	/* by label (and one beyond): its first member state */
	int32	   *members;		/* states that contain the label, ascending */
} CdiMarkovChain;

/* markov_chain.c: of sorted paths, in the current memory context */
extern CdiMarkovChain *cdi_markov_chain(const CdiPaths *paths, int order);

/*
 * markov_solve.c: for each label what would be lost of the totals were every
 * state that contains it a dead end.  lost[label * CDI_REWARDS + reward]
 */
extern void cdi_markov_losses(const CdiMarkovChain *chain, double *lost);

/*
 * markov_eliminate.c: the same for chains that walks leave slowly.
 * earnings, by reward and state: what a walk that is there will still earn.
 */
extern void cdi_markov_eliminate_earnings(const CdiMarkovChain *chain, double *const *earnings);
extern void cdi_markov_eliminate_labels(const CdiMarkovChain *chain, double *const *earnings,
										const int32 *labels, int nlabels, double *lost);

/*
 * markov_simulate.c: the same by random walks.  Raises 22023 where none of them
 * came to a conversion.
 */
extern void cdi_markov_simulate(const CdiMarkovChain *chain, int walks, int seed, double *lost, CdiMarkovError *errors);

/* markov.c: a CdiPathModel, options being a CdiMarkovOptions */
extern void cdi_markov_credit(const CdiPaths *paths, const void *options, CdiPathCredit *credits);

#endif							/* CDI_ATTRIBUTION_MARKOV_H */
