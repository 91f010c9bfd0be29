/*
 * map_objects.c
 *		The functions that a mapping may call: on objects and arrays, with
 *		regular expressions, and what vendors ask of personal data.
 */
#include "activate/activate.h"

#include <openssl/evp.h>

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "base/errors.h"

static const CdiValue absent = {.type = CDI_ABSENT};

static CdiValue
json_value(StringInfo out)
{
	CdiValue	result = {.type = CDI_JSON,.data = out->data,.len = out->len};

	return result;
}

/* ---- regular expressions ---- */

/*
 * The server's own, whatever the locale.  It keeps compiled ones, so a pattern
 * costs its compilation once.
 */
static regex_t *
compile(const char *pattern)
{
	return RE_compile_and_cache(cstring_to_text(pattern), REG_ADVANCED, C_COLLATION_OID);
}

void
cdi_map_check_regex(const char *pattern, const char *where)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		(void) compile(pattern);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("destination specification is not valid"),
				 errdetail("%s: %s.", where, error->message)));
	}
	PG_END_TRY();
}

CdiValue
cdi_map_regex(const CdiValue *value, const char *pattern)
{
	char	   *text = cdi_value_text(value);
	int			len = strlen(text);
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (len + 1));
	regmatch_t	match[2];
	regmatch_t *found;
	char	   *out;
	int			n = pg_mb2wchar_with_len(text, wide, len);

	if (pg_regexec(compile(pattern), wide, n, 0, NULL, lengthof(match), match, 0) != REG_OKAY)
		return absent;
	found = &match[match[1].rm_so >= 0 ? 1 : 0];
	n = found->rm_eo - found->rm_so;
	out = palloc(n * MAX_MULTIBYTE_CHAR_LEN + 1);
	return cdi_value_string(out, pg_wchar2mb_with_len(wide + found->rm_so, out, n));
}

static CdiValue
fn_extract(const CdiValue *value, const json_t *call)
{
	CdiValue	found = cdi_map_regex(value, json_string_value(json_array_get(call, 1)));

	return found.len == 0 ? absent : found;
}

/* ---- objects ---- */

static bool
is_named(const json_t *call, const char *name, int len)
{
	for (size_t i = 1; i < json_array_size(call); i++)
	{
		json_t	   *one = json_array_get(call, i);

		if (json_string_length(one) == len && memcmp(json_string_value(one), name, len) == 0)
			return true;
	}
	return false;
}

/* The object's members for which keep says so, or the value as it is */
static CdiValue
members(const CdiValue *value, const json_t *call, bool listed)
{
	Jsonb	   *object;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	StringInfoData out;
	bool		keep = false;

	if (value->type != CDI_CONTAINER && value->type != CDI_JSON)
		return *value;
	object = cdi_value_jsonb(value);
	if (!JB_ROOT_IS_OBJECT(object))
		return *value;
	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			keep = is_named(call, part.val.string.val, part.val.string.len) == listed;
			if (!keep)
				continue;
			if (out.len > 1)
				appendStringInfoChar(&out, ',');
			cdi_json_append_string(&out, part.val.string.val, part.val.string.len);
			appendStringInfoChar(&out, ':');
		}
		else if (token == WJB_VALUE && keep)
		{
			CdiValue	member = cdi_value_from_jsonb(&part);

			cdi_value_append(&out, &member);
		}
	}
	appendStringInfoChar(&out, '}');
	return json_value(&out);
}

static CdiValue
fn_only(const CdiValue *value, const json_t *call)
{
	return members(value, call, true);
}

static CdiValue
fn_except(const CdiValue *value, const json_t *call)
{
	return members(value, call, false);
}

/* {"a": 1} as [{"name": "a", "value": 1}], under names of the caller's */
static CdiValue
fn_entries(const CdiValue *value, const json_t *call)
{
	const char *name = json_string_value(json_array_get(call, 1));
	const char *content = json_string_value(json_array_get(call, 2));
	Jsonb	   *object;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	StringInfoData out;

	if (value->type != CDI_CONTAINER && value->type != CDI_JSON)
		return absent;
	object = cdi_value_jsonb(value);
	if (!JB_ROOT_IS_OBJECT(object))
		return absent;
	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		CdiValue	member;

		if (token == WJB_KEY)
		{
			appendStringInfoString(&out, out.len > 1 ? ",{" : "{");
			cdi_json_append_string(&out, name, strlen(name));
			appendStringInfoChar(&out, ':');
			cdi_json_append_string(&out, part.val.string.val, part.val.string.len);
		}
		else if (token == WJB_VALUE)
		{
			member = cdi_value_from_jsonb(&part);
			appendStringInfoChar(&out, ',');
			cdi_json_append_string(&out, content, strlen(content));
			appendStringInfoChar(&out, ':');
			cdi_value_append(&out, &member);
			appendStringInfoChar(&out, '}');
		}
	}
	appendStringInfoChar(&out, ']');
	return json_value(&out);
}

static void
flatten_into(StringInfo out, const char *prefix, const char *separator, JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	part;
	char	   *name = "";

	check_stack_depth();
	while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = psprintf("%s%.*s", prefix, part.val.string.len, part.val.string.val);
		else if (token == WJB_VALUE && part.type == jbvBinary && JsonContainerIsObject(part.val.binary.data))
			flatten_into(out, psprintf("%s%s", name, separator), separator, part.val.binary.data);
		else if (token == WJB_VALUE)
		{
			CdiValue	member = cdi_value_from_jsonb(&part);

			if (out->len > 1)
				appendStringInfoChar(out, ',');
			cdi_json_append_string(out, name, strlen(name));
			appendStringInfoChar(out, ':');
			cdi_value_append(out, &member);
		}
	}
}

/* {"a": {"b": 1}} as {"a.b": 1}; arrays stay */
static CdiValue
fn_flatten(const CdiValue *value, const json_t *call)
{
	Jsonb	   *object;
	StringInfoData out;

	if (value->type != CDI_CONTAINER && value->type != CDI_JSON)
		return *value;
	object = cdi_value_jsonb(value);
	if (!JB_ROOT_IS_OBJECT(object))
		return *value;
	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	flatten_into(&out, "", json_string_value(json_array_get(call, 1)), &object->root);
	appendStringInfoChar(&out, '}');
	return json_value(&out);
}

/* Elements of an array, members of an object */
static CdiValue
fn_count(const CdiValue *value, const json_t *call)
{
	CdiValue	result = {.type = CDI_NUMBER};

	if (value->type != CDI_CONTAINER && value->type != CDI_JSON)
		return absent;
	result.data = psprintf("%d", (int) JsonContainerSize(&cdi_value_jsonb(value)->root));
	result.len = strlen(result.data);
	return result;
}

/* ---- identifiers and personal data ---- */

/* Version 5 of RFC 9562: the same text gives the same id. */
static CdiValue
fn_uuid5(const CdiValue *value, const json_t *call)
{
	pg_uuid_t  *space = DatumGetUUIDP(DirectFunctionCall1(uuid_in,
														  CStringGetDatum(json_string_value(json_array_get(call, 1)))));
	char	   *text = cdi_value_text(value);
	StringInfoData in;
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int size = 0;

	initStringInfo(&in);
	appendBinaryStringInfo(&in, (char *) space->data, UUID_LEN);
	appendStringInfoString(&in, text);
	if (EVP_Digest(in.data, in.len, digest, &size, EVP_sha1(), NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("OpenSSL refuses to compute a digest")));
	digest[6] = (digest[6] & 0x0f) | 0x50;
	digest[8] = (digest[8] & 0x3f) | 0x80;
	text = DatumGetCString(DirectFunctionCall1(uuid_out, PointerGetDatum(digest)));
	return cdi_value_string(text, strlen(text));
}

/*
 * Lower case and trimmed; before gmail.com and googlemail.com Google also
 * drops dots, and what follows a plus sign.
 */
static CdiValue
fn_email_google(const CdiValue *value, const json_t *call)
{
	CdiValue	trimmed = cdi_map_trim(value, NULL);
	char	   *text;
	char	   *at;
	char	   *out;
	int			n = 0;

	if (trimmed.type == CDI_ABSENT)
		return absent;
	trimmed = cdi_map_function("lower", 5)->call(&trimmed, NULL);
	text = cdi_value_text(&trimmed);
	at = strrchr(text, '@');
	if (at == NULL || (strcmp(at, "@gmail.com") != 0 && strcmp(at, "@googlemail.com") != 0))
		return trimmed;
	out = palloc(strlen(text) + 1);
	for (char *c = text; c < at && *c != '+'; c++)
		if (*c != '.')
			out[n++] = *c;
	if (n == 0)
		return absent;
	strcpy(out + n, at);
	return cdi_value_string(out, strlen(out));
}

/* "m" or "f" by the first letter; anything else is not said */
static CdiValue
fn_gender(const CdiValue *value, const json_t *call)
{
	CdiValue	trimmed = cdi_map_trim(value, NULL);
	char		first = trimmed.type == CDI_ABSENT ? '\0' : pg_tolower((unsigned char) *trimmed.data);

	return first == 'm' ? cdi_value_string("m", 1) : first == 'f' || first == 'w' ? cdi_value_string("f", 1) : absent;
}

const CdiMapFunction cdi_map_object_functions[] = {
	{"count", 0, 0, "", fn_count},
	{"email_google", 0, 0, "", fn_email_google},
	{"entries", 2, 2, "ss", fn_entries},
	{"except", 1, 64, "*", fn_except},
	{"extract", 1, 1, "s", fn_extract},
	{"flatten", 1, 1, "s", fn_flatten},
	{"gender", 0, 0, "", fn_gender},
	{"only", 1, 64, "*", fn_only},
	{"uuid5", 1, 1, "s", fn_uuid5},
};

const int	cdi_map_object_function_count = lengthof(cdi_map_object_functions);
