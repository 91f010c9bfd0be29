/*
 * funnel_match.c
 *		Steps and the rows of one instant that fill them.
 *
 * Where a row may fill one step only and rows of the same instant may stand in
 * either order, several steps at one instant are a matching in a bipartite
 * graph of at most 32 steps.  Steps are added one by one along an augmenting
 * path; a step that finds none leaves the matching as it was.
 */
#include "behaviour/funnel.h"

#include "miscadmin.h"

void
cdi_funnel_match_begin(CdiFunnelMatch *match, const CdiFunnelEntry *rows, uint32 nrows)
{
	match->rows = rows;
	match->nrows = nrows;
	for (int i = 0; i < CDI_FUNNEL_MAX_CONDITIONS; i++)
		match->row_of[i] = -1;
}

/*
 * Give the step a row, moving others.  seen has the steps that were asked to
 * move: a row belongs to one step at most, so these stand for the rows as well.
 */
static bool
augment(CdiFunnelMatch *match, int step, uint32 *seen)
{
	int			owner_of[CDI_FUNNEL_MAX_CONDITIONS];
	int			owners = 0;
	uint32		bit = UINT32_C(1) << step;

	/* A free row first; those that are taken are few. */
	for (uint32 row = 0; row < match->nrows; row++)
	{
		int			owner = -1;

		if ((match->rows[row].conditions & bit) == 0)
			continue;
		for (int i = 0; i < CDI_FUNNEL_MAX_CONDITIONS; i++)
			if (match->row_of[i] == (int) row)
				owner = i;
		if (owner < 0)
		{
			match->row_of[step] = (int) row;
			return true;
		}
		owner_of[owners++] = owner;
	}
	for (int i = 0; i < owners; i++)
	{
		int			owner = owner_of[i];
		int			row = match->row_of[owner];

		if (*seen & (UINT32_C(1) << owner))
			continue;
		*seen |= UINT32_C(1) << owner;
		if (augment(match, owner, seen))
		{
			match->row_of[step] = row;
			return true;
		}
	}
	return false;
}

bool
cdi_funnel_match_step(CdiFunnelMatch *match, int step)
{
	uint32		seen = UINT32_C(1) << step;

	CHECK_FOR_INTERRUPTS();
	return augment(match, step, &seen);
}
