/*
 * scrub.c
 *		What was erased, and taking it out of traits.
 *
 * A trait may repeat an identifier in another form ("+49 (170) 123" for
 * +49170123) or deep inside.  So each string is taken for an identifier of
 * every type in turn, normalised, and its key compared with those that were
 * erased.  A normaliser that is a function is not called for what may be no
 * identifier at all: of its type the values themselves are compared.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "base/scan.h"
#include "identity/identity.h"

struct CdiErased
{
	int			nkeys;
	pg_uuid_t  *keys;			/* sorted */
	int			nvalues;
	int			values_capacity;
	CdiText    *values;			/* in lower case; sorted once there are all */
	bool		sorted;
	int			ntypes;
	const CdiIdentifierType *types;
};

static int
compare_keys(const void *a, const void *b)
{
	return memcmp(a, b, UUID_LEN);
}

static int
compare_values(const void *a, const void *b)
{
	const CdiText *one = a;
	const CdiText *other = b;

	if (one->len != other->len)
		return one->len < other->len ? -1 : 1;
	return memcmp(one->data, other->data, one->len);
}

static CdiText
lower_case(CdiText value)
{
	CdiText		trimmed = cdi_blank_trim(value);
	CdiText		lower;

	lower.data = str_tolower(trimmed.data, trimmed.len, DEFAULT_COLLATION_OID);
	lower.len = strlen(lower.data);
	return lower;
}

CdiErased *
cdi_erased_create(const pg_uuid_t *keys, int n)
{
	CdiErased  *erased = palloc0(sizeof(CdiErased));

	erased->nkeys = n;
	erased->keys = palloc_extended(sizeof(pg_uuid_t) * n, MCXT_ALLOC_HUGE);
	memcpy(erased->keys, keys, sizeof(pg_uuid_t) * n);
	qsort(erased->keys, n, sizeof(pg_uuid_t), compare_keys);
	erased->values_capacity = 64;
	erased->values = palloc(sizeof(CdiText) * erased->values_capacity);
	erased->types = cdi_identifier_types(&erased->ntypes);
	return erased;
}

bool
cdi_erased_key(const CdiErased *erased, const pg_uuid_t *key)
{
	return bsearch(key, erased->keys, erased->nkeys, sizeof(pg_uuid_t), compare_keys) != NULL;
}

void
cdi_erased_add_value(CdiErased *erased, CdiText value)
{
	if (erased->nvalues == erased->values_capacity)
	{
		erased->values_capacity *= 2;
		erased->values = repalloc_huge(erased->values, sizeof(CdiText) * erased->values_capacity);
	}
	value = lower_case(value);
	if (value.len == 0)
		return;					/* nobody's */
	erased->values[erased->nvalues++] = value;
	erased->sorted = false;
}

static void
sort_values(CdiErased *erased)
{
	int			n = 0;

	if (erased->sorted)
		return;
	qsort(erased->values, erased->nvalues, sizeof(CdiText), compare_values);
	for (int i = 0; i < erased->nvalues; i++)
		if (n == 0 || compare_values(&erased->values[n - 1], &erased->values[i]) != 0)
			erased->values[n++] = erased->values[i];
	erased->nvalues = n;
	erased->sorted = true;
}

Datum
cdi_erased_values(CdiErased *erased)
{
	Datum	   *elements;

	sort_values(erased);
	elements = palloc_extended(sizeof(Datum) * Max(erased->nvalues, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < erased->nvalues; i++)
		elements[i] = PointerGetDatum(cstring_to_text_with_len(erased->values[i].data, erased->values[i].len));
	return PointerGetDatum(construct_array(elements, erased->nvalues, TEXTOID, -1, false, TYPALIGN_INT));
}

static bool
is_erased(const CdiErased *erased, CdiText string)
{
	CdiText		trimmed = cdi_blank_trim(string);
	CdiText		lower;

	if (trimmed.len == 0 || trimmed.len > CDI_MAX_IDENTIFIER_LENGTH)
		return false;
	for (int i = 0; i < erased->ntypes; i++)
	{
		const CdiIdentifierType *type = &erased->types[i];
		CdiText		value = string;
		const char *detail = NULL;
		pg_uuid_t	key;

		if (type->normaliser.kind == CDI_NORMALISE_FUNCTION ||
			cdi_identifier_screen(type, &value) != CDI_USABLE ||
			cdi_identifier_normalise(type, &value, &detail) != CDI_USABLE)
			continue;
		cdi_identifier_key(type->name, value, &key);
		if (cdi_erased_key(erased, &key))
			return true;
	}
	lower = lower_case(trimmed);
	return bsearch(&lower, erased->values, erased->nvalues, sizeof(CdiText), compare_values) != NULL;
}

static bool
mentions(const CdiErased *erased, const JsonbValue *value)
{
	CdiText		string;

	switch (value->type)
	{
		case jbvString:
			string.data = value->val.string.val;
			string.len = value->val.string.len;
			return is_erased(erased, string);
		case jbvNumeric:
			string.data = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			string.len = strlen(string.data);
			return is_erased(erased, string);
		case jbvBinary:
			{
				JsonbIterator *iterator = JsonbIteratorInit(value->val.binary.data);
				JsonbIteratorToken token;
				JsonbValue	inner;

				while ((token = JsonbIteratorNext(&iterator, &inner, false)) != WJB_DONE)
					if ((token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM) &&
						mentions(erased, &inner))
						return true;
				return false;
			}
		default:
			return false;
	}
}

Jsonb *
cdi_erased_scrub(CdiErased *erased, Jsonb *traits, bool *changed)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbParseState *state = NULL;
	JsonbValue	key;
	JsonbValue	value;
	int			left = 0;

	*changed = false;
	if (!JB_ROOT_IS_OBJECT(traits))
	{
		*changed = true;
		return NULL;
	}
	sort_values(erased);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	iterator = JsonbIteratorInit(&traits->root);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (mentions(erased, &key) || mentions(erased, &value))
		{
			*changed = true;
			continue;
		}
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
		left++;
	}
	if (!*changed)
		return traits;
	return left == 0 ? NULL : JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
