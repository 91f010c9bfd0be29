/*
 * conditions.c
 *		Conditions of a row as bits, and the aggregate that needs nothing else:
 *		cdi_retention_conditions().
 *
 * The functions are declared VARIADIC "any": an array would have to be built
 * and taken apart again for every row, which costs more than all the rest.
 */
#include "behaviour/behaviour.h"

#include "catalog/pg_type.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static void
check_count(int count)
{
	if (count > CDI_MAX_CONDITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_ARGUMENTS),
				 errmsg("too many conditions"),
				 errdetail("There are %d; at most %d can be told apart.", count, CDI_MAX_CONDITIONS),
				 errhint("Combine conditions with OR, or ask several times.")));
}

void
cdi_behaviour_check_conditions(FunctionCallInfo fcinfo, int first)
{
	if (get_fn_expr_variadic(fcinfo->flinfo))
		return;
	check_count(PG_NARGS() - first);
	for (int i = first; i < PG_NARGS(); i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i);

		/* A bare NULL has no type. */
		if (type != BOOLOID && type != UNKNOWNOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("condition %d has type %s", i - first + 1, format_type_be(type)),
					 errhint("A condition is a boolean expression, as in event = 'Order Completed'.")));
	}
}

static uint32
array_conditions(ArrayType *array, int *count)
{
	Datum	   *values;
	bool	   *nulls;
	uint32		bits = 0;

	if (ARR_ELEMTYPE(array) != BOOLOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("conditions must be an array of boolean")));
	deconstruct_array(array, BOOLOID, 1, true, TYPALIGN_CHAR, &values, &nulls, count);
	check_count(*count);
	for (int i = 0; i < *count; i++)
		if (!nulls[i] && DatumGetBool(values[i]))
			bits |= UINT32_C(1) << i;
	pfree(values);
	pfree(nulls);
	return bits;
}

uint32
cdi_behaviour_conditions(FunctionCallInfo fcinfo, int first, int *count)
{
	uint32		bits = 0;

	if (get_fn_expr_variadic(fcinfo->flinfo))
	{
		if (PG_ARGISNULL(first))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the array of conditions must not be null")));
		return array_conditions(PG_GETARG_ARRAYTYPE_P(first), count);
	}

	*count = PG_NARGS() - first;
	for (int i = 0; i < *count; i++)
		if (!PG_ARGISNULL(first + i) && PG_GETARG_BOOL(first + i))
			bits |= UINT32_C(1) << i;
	return bits;
}

void
cdi_behaviour_check_time(TimestampTz at)
{
	if (at >= -(INT64CONST(1) << 60) && at < INT64CONST(1) << 60)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 TIMESTAMP_NOT_FINITE(at)
			 ? errmsg("an event at an infinite time has no place among others")
			 : errmsg("the time of an event is too far in the future"),
			 errhint("Leave such rows out: FILTER (WHERE \"timestamp\" < '10000-01-01' AND isfinite(\"timestamp\")).")));
}

/*
 * cdi_retention_conditions(c1, ...): the state is which conditions were met,
 * and in the upper half a bit for each one that there is.  So of arrays of
 * several lengths the longest counts, and a state is good whatever its bits.
 */

PG_FUNCTION_INFO_V1(cdi_retention_conditions_transition);
Datum
cdi_retention_conditions_transition(PG_FUNCTION_ARGS)
{
	int			count;
	uint32		bits;

	if (fcinfo->flinfo->fn_extra == NULL)
	{
		cdi_behaviour_check_conditions(fcinfo, 1);
		fcinfo->flinfo->fn_extra = fcinfo->flinfo;	/* only to say that it is done */
	}
	bits = cdi_behaviour_conditions(fcinfo, 1, &count);
	PG_RETURN_INT64((uint64) PG_GETARG_INT64(0) | ((UINT64CONST(1) << count) - 1) << 32 | bits);
}

PG_FUNCTION_INFO_V1(cdi_retention_conditions_final);
Datum
cdi_retention_conditions_final(PG_FUNCTION_ARGS)
{
	uint64		state = PG_GETARG_INT64(0);
	uint32		there = state >> 32;
	int			count = there == 0 ? 0 : pg_leftmost_one_pos32(there) + 1;
	Datum		values[CDI_MAX_CONDITIONS];

	for (int i = 0; i < count; i++)
		values[i] = BoolGetDatum((state & 1) && (state >> i & 1));
	PG_RETURN_ARRAYTYPE_P(construct_array(values, count, BOOLOID, 1, true, TYPALIGN_CHAR));
}
