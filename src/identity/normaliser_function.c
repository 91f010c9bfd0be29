/*
 * normaliser_function.c
 *		Values for SQL functions that normalise.
 *
 * A function is somebody's SQL and runs in a cage (base/cage.c), as the role
 * that declared it.  All values of a batch go through one statement; where it
 * fails, halves of them are tried until the value is found that the function
 * cannot take.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/cage.h"
#include "base/errors.h"
#include "identity/identity.h"

/*
 * A batch may take this many times cdi.identity_normaliser_timeout: one value
 * that hangs is found, a function that always does does not hold events up.
 */
#define MAX_TIMEOUTS 16

/* What is kept of a function's error: it is logged with every refusal. */
#define MAX_MESSAGE 200

/* Where a call's value goes while the others may still fail */
static void
collect(CdiText *returned, int n)
{
	if (SPI_processed != n)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the function must return one value, not a set")));
	for (int i = 0; i < n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		int64		number = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
		text	   *result;

		if (isnull)
			continue;
		result = DatumGetTextPP(value);
		returned[number - 1].len = VARSIZE_ANY_EXHDR(result);
		returned[number - 1].data = pnstrdup(VARDATA_ANY(result), returned[number - 1].len);
	}
}

/*
 * Run the function over all the calls, which are of one type.  Returns NULL,
 * or the error with which it failed; *timed_out says that our limit was it.
 */
static ErrorData *
try_function(CdiNormaliserCall *const *calls, int n, bool *timed_out)
{
	const CdiNormaliser *normaliser = &calls[0]->type->normaliser;
	MemoryContext context = CurrentMemoryContext;
	Datum	   *values = palloc(sizeof(Datum) * n);
	CdiText    *returned = palloc0(sizeof(CdiText) * n);
	char	   *query = psprintf("SELECT %s(v.value)::pg_catalog.text, v.n"
								 " FROM pg_catalog.unnest($1) WITH ORDINALITY AS v (value, n)",
								 normaliser->function);
	ErrorData  *volatile error = NULL;
	CdiCage		cage;

	for (int i = 0; i < n; i++)
		values[i] = PointerGetDatum(cstring_to_text_with_len(calls[i]->value.data, calls[i]->value.len));
	values[0] = PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT));
	cdi_cage_enter(&cage, get_role_oid(normaliser->role, false), "pg_catalog",
				   cdi_identity_normaliser_timeout);
	PG_TRY();
	{
		int			code = SPI_execute_with_args(query, 1, (Oid[]) {TEXTARRAYOID}, values, NULL, true, 0);

		if (code < 0)
			elog(ERROR, "could not call a normaliser: %s", SPI_result_code_string(code));
		MemoryContextSwitchTo(context);
		collect(returned, n);
		SPI_freetuptable(SPI_tuptable);
		cdi_cage_leave(&cage);
	}
	PG_CATCH();
	{
		error = cdi_cage_leave_failed(&cage);
	}
	PG_END_TRY();
	*timed_out = error != NULL && cage.timed_out;
	if (error == NULL)
		for (int i = 0; i < n; i++)
			calls[i]->value = returned[i];
	return error;
}

/* Is it the function that is at fault, and not the transaction or the server? */
static bool
is_own_fault(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category != ERRCODE_TRANSACTION_ROLLBACK && category != ERRCODE_INSUFFICIENT_RESOURCES &&
		category != ERRCODE_OPERATOR_INTERVENTION;
}

static void
fail(CdiNormaliserCall *const *calls, int n, const char *error)
{
	for (int i = 0; i < n; i++)
		calls[i]->error = error;
}

static void
run_range(CdiNormaliserCall *const *calls, int n, TimestampTz deadline)
{
	ErrorData  *error;
	bool		timed_out;

	CHECK_FOR_INTERRUPTS();
	if (cdi_identity_normaliser_timeout > 0 && GetCurrentTimestamp() > deadline)
	{
		fail(calls, n, "The function has taken too long for other values.");
		return;
	}
	error = try_function(calls, n, &timed_out);
	if (error == NULL)
		return;
	if (!timed_out && !is_own_fault(error))
		ReThrowError(error);
	if (n == 1)
		fail(calls, 1, timed_out ? "It took longer than cdi.identity_normaliser_timeout." :
			 pnstrdup(error->message, pg_mbcliplen(error->message, strlen(error->message), MAX_MESSAGE)));
	FreeErrorData(error);
	if (n > 1)
	{
		run_range(calls, n / 2, deadline);
		run_range(calls + n / 2, n - n / 2, deadline);
	}
}

static void
run_type(CdiNormaliserCall *const *calls, int n)
{
	const CdiNormaliser *normaliser = &calls[0]->type->normaliser;

	/* The owner may run anything: without a role nothing is run. */
	if (normaliser->function == NULL)
		fail(calls, n, "There is no such normaliser.");
	else if (normaliser->role == NULL || !OidIsValid(get_role_oid(normaliser->role, true)))
		fail(calls, n, "The role that the function is to run as does not exist.");
	else
		run_range(calls, n, GetCurrentTimestamp() + MAX_TIMEOUTS * 1000 * (int64) cdi_identity_normaliser_timeout);
}

/* A statement needs a snapshot, which a worker does not have by itself. */
static bool
push_snapshot(void)
{
	if (ActiveSnapshotSet())
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	return true;
}

void
cdi_normaliser_run(CdiNormaliserCall *calls, int n)
{
	CdiNormaliserCall **same = palloc_extended(sizeof(CdiNormaliserCall *) * n, MCXT_ALLOC_HUGE);
	bool	   *done = palloc_extended(n, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	bool		pushed = push_snapshot();

	for (int i = 0; i < n; i++)
	{
		int			nsame = 0;

		if (done[i])
			continue;
		for (int k = i; k < n; k++)
			if (calls[k].type == calls[i].type)
			{
				same[nsame++] = &calls[k];
				done[k] = true;
			}
		run_type(same, nsame);
	}
	if (pushed)
		PopActiveSnapshot();
}

CdiText
cdi_normaliser_call(const CdiIdentifierType *type, CdiText value)
{
	CdiNormaliserCall call = {.type = type,.value = value};

	cdi_normaliser_run(&call, 1);
	if (call.error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NORMALISER_FAILED),
				 errmsg("the normaliser of identifier type \"%s\" failed", type->name),
				 errdetail("%s", call.error)));
	return call.value;
}
