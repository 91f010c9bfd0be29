/*
 * cage.h
 *		Where SQL that a user supplied runs.
 */
#ifndef CDI_CAGE_H
#define CDI_CAGE_H

#include "base/base.h"

#include "utils/resowner.h"

typedef struct CdiCage
{
	MemoryContext context;
	ResourceOwner owner;
	Oid			user;
	int			sec_context;
	int			guc_level;
	bool		timeout;
	bool		timed_out;		/* after cdi_cage_leave_failed() */
	bool		subtransaction;
} CdiCage;

/*
 * Enter as the given role, with a time limit in ms (0: none).  Between the two calls the code stands in a
 * PG_TRY, whose PG_CATCH calls cdi_cage_leave_failed().
 */
extern void cdi_cage_enter(CdiCage *cage, Oid role, const char *search_path, int timeout);
extern void cdi_cage_leave(CdiCage *cage);
/*
 * The subtransaction ends here, whatever a caller does next with the error.
 * Raises it again in a parallel operation, where there is none.
 */
extern ErrorData *cdi_cage_leave_failed(CdiCage *cage);

#endif							/* CDI_CAGE_H */
