/*
 * cage.c
 *		Where SQL that a user supplied runs: as the role that declared it, in a
 *		security-restricted context, read-only (so that no function in it
 *		writes, either), with the search_path it was declared under, settings
 *		that make its text the same wherever it runs, and a time limit.
 */
#include "base/cage.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

/* A timer of our own: the statement's may run already, with another time. */
static TimeoutId timer = MAX_TIMEOUTS;
static volatile sig_atomic_t timed_out = false;

static void
cancel(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static void
set_option(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
cdi_cage_enter(CdiCage *cage, Oid role, const char *search_path, int timeout)
{
	cage->context = CurrentMemoryContext;
	cage->owner = CurrentResourceOwner;
	/* A parallel operation allows no subtransaction, and nothing that writes. */
	cage->subtransaction = !IsInParallelMode();
	if (cage->subtransaction)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(cage->context);
		/* the subtransaction's end gives the outer value back */
		XactReadOnly = true;
	}
	GetUserIdAndSecContext(&cage->user, &cage->sec_context);
	SetUserIdAndSecContext(role, cage->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	cage->guc_level = NewGUCNestLevel();
	/* pg_temp last: otherwise it comes first */
	set_option("search_path", psprintf("%s%spg_temp", search_path, *search_path ? ", " : ""));
	set_option("TimeZone", "UTC");
	set_option("DateStyle", "ISO, MDY");
	set_option("IntervalStyle", "iso_8601");
	set_option("extra_float_digits", "1");
	set_option("bytea_output", "hex");
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, cancel);
	/* A cage within another shares its time. */
	cage->timeout = timeout > 0 && !get_timeout_active(timer);
	cage->timed_out = false;
	if (cage->timeout)
	{
		timed_out = false;
		enable_timeout_after(timer, timeout);
	}
}

static void
end_timeout(CdiCage *cage)
{
	if (!cage->timeout)
		return;
	disable_timeout(timer, false);
	/* It may have come when all was done. */
	if (timed_out)
		QueryCancelPending = false;
	cage->timed_out = timed_out;
}

void
cdi_cage_leave(CdiCage *cage)
{
	end_timeout(cage);
	AtEOXact_GUC(true, cage->guc_level);
	SetUserIdAndSecContext(cage->user, cage->sec_context);
	if (!cage->subtransaction)
		return;
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cage->context);
	CurrentResourceOwner = cage->owner;
}

ErrorData *
cdi_cage_leave_failed(CdiCage *cage)
{
	ErrorData  *error;

	end_timeout(cage);
	if (!cage->subtransaction)
		PG_RE_THROW();
	MemoryContextSwitchTo(cage->context);
	error = CopyErrorData();
	FlushErrorState();
	cage->timed_out = cage->timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED;
	if (cage->timed_out)
		error->message = pstrdup("canceling statement due to statement timeout");
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cage->context);
	CurrentResourceOwner = cage->owner;
	return error;
}
