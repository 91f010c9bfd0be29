/*
 * normaliser.c
 *		Values of identifiers in the form that is compared.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/varlena.h"

#include "base/scan.h"
#include "identity/identity.h"

const char *
cdi_verdict_name(CdiVerdict verdict)
{
	switch (verdict)
	{
		case CDI_BLOCKED:
			return "blocked";
		case CDI_MALFORMED:
			return "malformed";
		case CDI_TOO_LONG:
			return "too_long";
		case CDI_TOO_MANY:
			return "too_many";
		case CDI_NORMALISER_FAILED:
			return "normaliser_failed";
		case CDI_UNKNOWN_TYPE:
			return "unknown_type";
		case CDI_ERASED:
			return "erased";
		case CDI_USABLE:
		case CDI_ABSENT:
			break;
	}
	return NULL;
}

/* SCHEMA.NAME, quoted as need be; NULL where it is no such thing */
static const char *
qualified_name(const char *name)
{
	char	   *copy = pstrdup(name);
	List	   *parts;

	if (!SplitIdentifierString(copy, '.', &parts) || list_length(parts) != 2)
		return NULL;
	return quote_qualified_identifier(linitial(parts), lsecond(parts));
}

/* Returns NULL, or what is wrong with the specification. */
const char *
cdi_normaliser_parse(const char *spec, const char *role, CdiNormaliser *normaliser)
{
	memset(normaliser, 0, sizeof(CdiNormaliser));
	if (strcmp(spec, "trim") == 0)
		normaliser->kind = CDI_NORMALISE_TRIM;
	else if (strcmp(spec, "lower") == 0)
		normaliser->kind = CDI_NORMALISE_LOWER;
	else if (strcmp(spec, "email") == 0)
		normaliser->kind = CDI_NORMALISE_EMAIL;
	else if (strcmp(spec, "phone") == 0)
		normaliser->kind = CDI_NORMALISE_PHONE;
	else if (strncmp(spec, "phone:", 6) == 0)
	{
		normaliser->kind = CDI_NORMALISE_PHONE;
		normaliser->country = pstrdup(spec + 6);
		if (!cdi_phone_code_assigned(normaliser->country))
			return "There is no such country code.";
	}
	else
	{
		/* Whatever else there is cannot be used; nobody is identified by it. */
		normaliser->kind = CDI_NORMALISE_FUNCTION;
		if (strncmp(spec, "function:", 9) != 0)
			return "There is no such normaliser.";
		normaliser->function = qualified_name(spec + 9);
		normaliser->role = role == NULL ? NULL : pstrdup(role);
		if (normaliser->function == NULL)
			return "A function is written function:SCHEMA.NAME.";
	}
	return NULL;
}

/* White space, and what has no width */
static bool
is_blank(const char *at)
{
	pg_wchar	c = *(const unsigned char *) at;

	if (c < 0x80)
		return isspace((int) c);
	c = utf8_to_unicode((const unsigned char *) at);
	return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200F) ||
		(c >= 0x2028 && c <= 0x202F) || (c >= 0x205F && c <= 0x2064) || c == 0x3000 || c == 0xFEFF;
}

CdiText
cdi_blank_trim(CdiText text)
{
	while (text.len > 0 && is_blank(text.data))
	{
		int			len = pg_utf_mblen((const unsigned char *) text.data);

		text.data += len;
		text.len -= len;
	}
	while (text.len > 0)
	{
		int			last = text.len - 1;

		while (last > 0 && (text.data[last] & 0xC0) == 0x80)
			last--;
		if (!is_blank(text.data + last))
			break;
		text.len = last;
	}
	return text;
}

CdiVerdict
cdi_identifier_screen(const CdiIdentifierType *type, CdiText *value)
{
	if (value->data == NULL)
		return CDI_ABSENT;
	*value = cdi_blank_trim(*value);
	if (value->len == 0)
		return CDI_ABSENT;
	if (value->len > CDI_MAX_IDENTIFIER_LENGTH)
		return CDI_TOO_LONG;
	return cdi_identifier_blocked(type, *value) ? CDI_BLOCKED : CDI_USABLE;
}

/* ICU's root collation; a server without ICU has only the database's own. */
static Oid
unicode_collation(void)
{
	Oid			collation = get_collation_oid(list_make2(makeString("pg_catalog"), makeString("und-x-icu")), true);

	return OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID;
}

/* Letters beyond ASCII: as Unicode says, whatever the database's locale. */
static CdiText
lower_case(CdiText value)
{
	for (int i = 0; i < value.len; i++)
		if (IS_HIGHBIT_SET(value.data[i]))
			return cdi_text(str_tolower(value.data, value.len, unicode_collation()));
	for (int i = 0; i < value.len; i++)
		if (value.data[i] >= 'A' && value.data[i] <= 'Z')
			return (CdiText) {asc_tolower(value.data, value.len), value.len};
	return value;
}

CdiVerdict
cdi_identifier_normalise(const CdiIdentifierType *type, CdiText *value, const char **detail)
{
	const char *at;
	CdiText		before = *value;

	switch (type->normaliser.kind)
	{
		case CDI_NORMALISE_TRIM:
			break;
		case CDI_NORMALISE_EMAIL:
			at = memchr(value->data, '@', value->len);
			if (at == NULL || at == value->data || at == value->data + value->len - 1)
			{
				*detail = "An e-mail address has something on both sides of an \"@\".";
				return CDI_MALFORMED;
			}
			/* fall through */
		case CDI_NORMALISE_LOWER:
			*value = lower_case(*value);
			break;
		case CDI_NORMALISE_PHONE:
			at = cdi_phone_normalise(*value, type->normaliser.country, detail);
			if (at == NULL)
				return CDI_MALFORMED;
			*value = cdi_text(at);
			break;
		case CDI_NORMALISE_FUNCTION:
			Assert(false);
			break;
	}
	return value->data == before.data ? CDI_USABLE : cdi_identifier_screen(type, value);
}

bool
cdi_identifier_key_of(const CdiIdentifierType *type, CdiText value, pg_uuid_t *key)
{
	const char *detail;
	CdiVerdict	verdict = cdi_identifier_screen(type, &value);

	if (verdict == CDI_USABLE && type->normaliser.kind == CDI_NORMALISE_FUNCTION)
	{
		value = cdi_normaliser_call(type, value);
		verdict = cdi_identifier_screen(type, &value);
	}
	else if (verdict == CDI_USABLE)
		verdict = cdi_identifier_normalise(type, &value, &detail);
	if (verdict != CDI_USABLE)
		return false;
	cdi_keys_load();
	cdi_identifier_key(type->name, value, key);
	return true;
}
