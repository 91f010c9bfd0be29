/*
 * scrub.c
 *		Take erased identifiers out of traits.
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

typedef struct Scrub
{
	int			nkeys;
	pg_uuid_t  *keys;			/* sorted */
	int			nvalues;
	Datum	   *values;			/* of text, in lower case */
	int			ntypes;
	const CdiIdentifierType *types;
} Scrub;

static int
compare_keys(const void *a, const void *b)
{
	return memcmp(a, b, UUID_LEN);
}

static bool
is_erased(const Scrub *scrub, CdiText string)
{
	CdiText		trimmed = cdi_blank_trim(string);
	char	   *lower;
	int			length;

	if (trimmed.len == 0 || trimmed.len > CDI_MAX_IDENTIFIER_LENGTH)
		return false;
	for (int i = 0; i < scrub->ntypes; i++)
	{
		const CdiIdentifierType *type = &scrub->types[i];
		CdiText		value = string;
		const char *detail = NULL;
		pg_uuid_t	key;

		if (type->normaliser.kind == CDI_NORMALISE_FUNCTION ||
			cdi_identifier_screen(type, &value) != CDI_USABLE ||
			cdi_identifier_normalise(type, &value, &detail) != CDI_USABLE)
			continue;
		cdi_identifier_key(type->name, value, &key);
		if (bsearch(&key, scrub->keys, scrub->nkeys, sizeof(pg_uuid_t), compare_keys) != NULL)
			return true;
	}
	lower = str_tolower(trimmed.data, trimmed.len, DEFAULT_COLLATION_OID);
	length = strlen(lower);
	for (int i = 0; i < scrub->nvalues; i++)
	{
		text	   *value = DatumGetTextPP(scrub->values[i]);

		if (VARSIZE_ANY_EXHDR(value) == length && memcmp(VARDATA_ANY(value), lower, length) == 0)
			return true;
	}
	return false;
}

static bool
mentions(const Scrub *scrub, const JsonbValue *value)
{
	CdiText		string;

	switch (value->type)
	{
		case jbvString:
			string.data = value->val.string.val;
			string.len = value->val.string.len;
			return is_erased(scrub, string);
		case jbvNumeric:
			string.data = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			string.len = strlen(string.data);
			return is_erased(scrub, string);
		case jbvBinary:
			{
				JsonbIterator *iterator = JsonbIteratorInit(value->val.binary.data);
				JsonbIteratorToken token;
				JsonbValue	inner;

				while ((token = JsonbIteratorNext(&iterator, &inner, false)) != WJB_DONE)
					if ((token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM) &&
						mentions(scrub, &inner))
						return true;
				return false;
			}
		default:
			return false;
	}
}

PG_FUNCTION_INFO_V1(cdi_without_identifiers);

/*
 * cdi._without_identifiers(traits, keys, values): the members of an object that
 * mention none of them; NULL where none is left.
 */
Datum
cdi_without_identifiers(PG_FUNCTION_ARGS)
{
	Jsonb	   *traits = PG_GETARG_JSONB_P(0);
	Scrub		scrub;
	Datum	   *keys;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbParseState *state = NULL;
	JsonbValue	key;
	JsonbValue	value;
	int			left = 0;

	if (!JB_ROOT_IS_OBJECT(traits))
		PG_RETURN_NULL();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &keys, NULL, &scrub.nkeys);
	scrub.keys = palloc_extended(sizeof(pg_uuid_t) * Max(scrub.nkeys, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < scrub.nkeys; i++)
		scrub.keys[i] = *DatumGetUUIDP(keys[i]);
	qsort(scrub.keys, scrub.nkeys, sizeof(pg_uuid_t), compare_keys);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT,
					  &scrub.values, NULL, &scrub.nvalues);
	scrub.types = cdi_identifier_types(&scrub.ntypes);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	iterator = JsonbIteratorInit(&traits->root);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (mentions(&scrub, &key) || mentions(&scrub, &value))
			continue;
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
		left++;
	}
	if (left == 0)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
