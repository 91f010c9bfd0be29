/*
 * limits.c
 *		How many identifiers of each type one person may have.
 *
 * A run of the resolver goes by the limits of its time, and puts them on
 * record where they differ from those of the run before: a rebuild goes by
 * what is on record.  There they are an object with a member per limited
 * type: {"type_id": [max, seconds or null]}.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "identity/identity.h"

static CdiLimits *
limits_create(int max)
{
	return palloc0(offsetof(CdiLimits, limits) + sizeof(CdiLimit) * max);
}

static void
limits_add(CdiLimits *limits, uint8 type, int max, int64 window)
{
	CdiLimit   *limit = &limits->limits[limits->n++];

	limit->type = type;
	limit->max = max;
	limit->window = window;
	limits->by_type[type] = limits->n;
}

CdiLimits *
cdi_limits_now(void)
{
	int			ntypes;
	const CdiIdentifierType *types = cdi_identifier_types(&ntypes);
	CdiLimits  *limits = limits_create(ntypes);

	/* in the order of type_id, which does not change */
	for (int id = 1; id <= PG_UINT8_MAX; id++)
		for (int i = 0; i < ntypes; i++)
			if (types[i].type_id == id && types[i].max_per_person > 0)
				limits_add(limits, id, types[i].max_per_person, types[i].limit_window);
	return limits;
}

static void
push_number(JsonbParseState **state, int64 number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	pushJsonbValue(state, WJB_ELEM, &value);
}

Jsonb *
cdi_limits_to_jsonb(const CdiLimits *limits)
{
	JsonbParseState *state = NULL;
	JsonbValue	null = {.type = jbvNull};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < limits->n; i++)
	{
		JsonbValue	key = {.type = jbvString};

		key.val.string.val = psprintf("%d", limits->limits[i].type);
		key.val.string.len = strlen(key.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		push_number(&state, limits->limits[i].max);
		if (limits->limits[i].window > 0)
			push_number(&state, limits->limits[i].window);
		else
			pushJsonbValue(&state, WJB_ELEM, &null);
		pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static int64
element(JsonbContainer *array, int number)
{
	JsonbValue *value = getIthJsonbValueFromContainer(array, number);

	if (value == NULL || value->type != jbvNumeric)
		return 0;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}

CdiLimits *
cdi_limits_from_jsonb(Jsonb *jsonb)
{
	CdiLimits  *limits = limits_create(JB_ROOT_COUNT(jsonb));

	for (int id = 1; id <= PG_UINT8_MAX; id++)
	{
		char		name[8];
		JsonbValue	value;

		snprintf(name, sizeof(name), "%d", id);
		if (getKeyJsonValueFromContainer(&jsonb->root, name, strlen(name), &value) != NULL &&
			value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data))
			limits_add(limits, id, element(value.val.binary.data, 0), element(value.val.binary.data, 1));
	}
	return limits;
}
