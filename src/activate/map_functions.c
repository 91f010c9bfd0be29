/*
 * map_functions.c
 *		The functions that a mapping may call: on text, and the table of all.
 *
 * Each takes one value and constants, depends on no setting and no table, and
 * ends.  Absent and null pass through all but "default".  Text is UTF-8 (cdi
 * runs in no other encoding); where nothing is left of a value the result is
 * absent, so that an empty string is neither sent nor hashed.
 */
#include "activate/activate.h"

#include <locale.h>
#include <openssl/evp.h>
#include <wctype.h>

#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "base/errors.h"

static const CdiValue absent = {.type = CDI_ABSENT};

/* Bytes of the white space (Unicode's, and the byte order mark) that text begins with */
static int
space_at(const char *text, int len)
{
	int			size = len > 0 ? pg_utf_mblen((const unsigned char *) text) : 0;
	pg_wchar	c;

	if (size == 0 || size > len)
		return 0;
	c = utf8_to_unicode((const unsigned char *) text);
	if (c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85 || c == 0xa0 || c == 0x1680 ||
		(c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
		c == 0x3000 || c == 0xfeff)
		return size;
	return 0;
}

static CdiValue
text_or_absent(const char *data, int len)
{
	return len == 0 ? absent : cdi_value_string(data, len);
}

/* Text of the value; every function on strings starts with it. */
static const char *
text_of(const CdiValue *value, int *len)
{
	if (value->type == CDI_STRING || value->type == CDI_NUMBER)
	{
		*len = value->len;
		return value->data;
	}
	else
	{
		char	   *text = cdi_value_text(value);

		*len = strlen(text);
		return text;
	}
}

static int
int_argument(const json_t *call, int i, int otherwise)
{
	json_t	   *argument = json_array_get(call, i);

	return argument ? (int) json_integer_value(argument) : otherwise;
}

static const char *
string_argument(const json_t *call, int i)
{
	return json_string_value(json_array_get(call, i));
}

/* ---- strings ---- */

CdiValue
cdi_map_trim(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);

	int			size;
	int			end = 0;

	while ((size = space_at(text, len)) > 0)
		text += size, len -= size;
	/* up to the last character that is none */
	for (int i = 0; i < len;)
	{
		size = space_at(text + i, len - i);
		i += size > 0 ? size : pg_utf_mblen((const unsigned char *) text + i);
		if (size == 0)
			end = Min(i, len);
	}
	return text_or_absent(text, end);
}

/*
 * Case by Unicode's simple mapping, whatever the database's locale is: what
 * is hashed must not depend on where it is hashed.
 */
static CdiValue
change_case(const CdiValue *value, wint_t (*change) (wint_t, locale_t))
{
	static locale_t unicode = (locale_t) 0;
	int			len;
	const char *text = text_of(value, &len);
	char	   *out = palloc(len * 2 + MAX_MULTIBYTE_CHAR_LEN);
	int			n = 0;

	if (unicode == (locale_t) 0)
	{
		unicode = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t) 0);
		if (unicode == (locale_t) 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("the system has no locale \"C.UTF-8\"")));
	}
	for (int i = 0; i < len;)
	{
		int			size = Min(pg_utf_mblen((const unsigned char *) text + i), len - i);

		if (size == 1)
			out[n++] = (char) change((unsigned char) text[i], unicode);
		else
		{
			pg_wchar	c = change(utf8_to_unicode((const unsigned char *) text + i), unicode);

			unicode_to_utf8(c, (unsigned char *) out + n);
			n += pg_utf_mblen((unsigned char *) out + n);
		}
		i += size;
	}
	return text_or_absent(out, n);
}

static CdiValue
fn_lower(const CdiValue *value, const json_t *call)
{
	return change_case(value, towlower_l);
}

static CdiValue
fn_upper(const CdiValue *value, const json_t *call)
{
	return change_case(value, towupper_l);
}

/* The bytes that a test keeps */
static CdiValue
filter(const CdiValue *value, bool (*keep) (unsigned char))
{
	int			len;
	const char *text = text_of(value, &len);
	char	   *out = palloc(len + 1);
	int			n = 0;

	for (int i = 0; i < len; i++)
		if (keep(text[i]))
			out[n++] = text[i];
	return text_or_absent(out, n);
}

static bool
keep_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

static bool
keep_alnum(unsigned char c)
{
	return keep_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
}

static bool
keep_nonpunctuation(unsigned char c)
{
	return keep_alnum(c) || c <= ' ';
}

static CdiValue
fn_nospace(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);
	char	   *out = palloc(len + 1);
	int			n = 0;

	for (int i = 0; i < len;)
	{
		int			size = space_at(text + i, len - i);

		if (size == 0)
			out[n++] = text[i++];
		else
			i += size;
	}
	return text_or_absent(out, n);
}

static CdiValue
fn_digits(const CdiValue *value, const json_t *call)
{
	return filter(value, keep_digit);
}

static CdiValue
fn_alnum(const CdiValue *value, const json_t *call)
{
	return filter(value, keep_alnum);
}

static CdiValue
fn_nopunct(const CdiValue *value, const json_t *call)
{
	return filter(value, keep_nonpunctuation);
}

static CdiValue
fn_digits_nolead0(const CdiValue *value, const json_t *call)
{
	CdiValue	result = filter(value, keep_digit);

	if (result.type == CDI_ABSENT)
		return result;
	while (result.len > 0 && *result.data == '0')
		result.data++, result.len--;
	return text_or_absent(result.data, result.len);
}

/* Country codes whose numbers keep their leading zero: it is no prefix there. */
static bool
keeps_zero(const char *country, int len)
{
	static const char *const codes[] = {"39", "225", "229", "241", "242", "378"};

	for (int i = 0; i < lengthof(codes); i++)
		if (len >= strlen(codes[i]) && memcmp(country, codes[i], strlen(codes[i])) == 0)
			return true;
	return false;
}

/*
 * What is dialled before a number within its country: zeros, but where the
 * numbering plan has something else.  As in libphonenumber's metadata.
 */
static void
drop_prefix(const char **digits, const char *country)
{
	static const struct
	{
		const char *country;
		const char *prefix;
		int			least;		/* digits that remain */
		int			most;
	}			plans[] = {
		{"1", "1", 10, 10}, {"7", "8", 10, 10}, {"7", "7", 10, 10}, {"36", "06", 8, 9},
		{"375", "80", 9, 9}, {"375", "8", 9, 10}, {"993", "8", 8, 8},
	};

	for (int i = 0; i < lengthof(plans); i++)
	{
		int			prefix = strlen(plans[i].prefix);
		int			rest = (int) strlen(*digits) - prefix;

		if (strcmp(plans[i].country, country) == 0 && rest >= plans[i].least && rest <= plans[i].most &&
			strncmp(*digits, plans[i].prefix, prefix) == 0)
		{
			*digits += prefix;
			return;
		}
	}
	if (!keeps_zero(country, strlen(country)))
		*digits += strspn(*digits, "0");
}

/*
 * Argentina dials mobile numbers with 15 behind the area, and has 9 before it
 * in their international form.
 */
static const char *
argentine(const char *digits)
{
	int			area = strncmp(digits, "11", 2) == 0 ? 2 : strlen(digits) == 12 && strncmp(digits + 3, "15", 2) == 0 ? 3 : 4;

	if (strlen(digits) != 12 || strncmp(digits + area, "15", 2) != 0)
		return digits;
	return psprintf("9%.*s%s", area, digits, digits + area + 2);
}

/*
 * E.164: "+" and 8 to 15 digits.  A number that starts with "+" or "00" has
 * its country code; another gets the one given in place of what is dialled
 * before it in the country.  A "(0)" after a country code is not dialled, and
 * what follows a letter, "#", "," or ";" is an extension.
 */
static CdiValue
fn_e164(const CdiValue *value, const json_t *call)
{
	char	   *text = pstrdup(cdi_value_text(value));
	char	   *at = text + strcspn(text, "+0123456789");
	bool		international = *at == '+';
	const char *country = string_argument(call, 1);
	char	   *zero;
	char	   *out;
	const char *digits;
	int			n = 0;

	at[strcspn(at, "#,;ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")] = '\0';
	zero = strstr(at, "(0)");
	out = palloc(strlen(at) + 1);
	for (int i = 0; at[i] != '\0'; i++)
	{
		bool		code_before = n > 0 && (international || (n > 2 && strncmp(out, "00", 2) == 0));

		if (at + i == zero && code_before && !keeps_zero(international ? out : out + 2, international ? n : n - 2))
			i += 2;
		else if (keep_digit(at[i]))
			out[n++] = at[i];
	}
	out[n] = '\0';
	digits = out;
	if (!international && strncmp(digits, "00", 2) == 0)
	{
		international = true;
		digits += 2;
	}
	if (!international && country != NULL)
	{
		drop_prefix(&digits, country);
		if (strcmp(country, "54") == 0)
			digits = argentine(digits);
		digits = psprintf("%s%s", country, digits);
	}
	else if (!international)
		return absent;
	n = strlen(digits);
	if (n < 8 || n > 15 || *digits == '0')
		return absent;
	return cdi_value_string(psprintf("+%s", digits), n + 1);
}

static CdiValue
fn_truncate(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);

	return text_or_absent(text, pg_mbcharcliplen(text, len, int_argument(call, 1, 0)));
}

static CdiValue
fn_truncate_bytes(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);

	return text_or_absent(text, pg_mbcliplen(text, len, int_argument(call, 1, 0)));
}

static CdiValue
fn_replace(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);
	const char *from = string_argument(call, 1);
	const char *to = string_argument(call, 2);
	int			from_len = strlen(from);
	StringInfoData out;

	if (from_len == 0)
		return cdi_value_string(text, len);
	initStringInfo(&out);
	for (int i = 0; i < len;)
	{
		if (len - i >= from_len && memcmp(text + i, from, from_len) == 0)
		{
			appendStringInfoString(&out, to);
			i += from_len;
		}
		else
			appendStringInfoChar(&out, text[i++]);
	}
	return text_or_absent(out.data, out.len);
}

/* Part number n (from 0; negative from the end) between separators */
static CdiValue
fn_split(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);
	const char *separator = string_argument(call, 1);
	int			wanted = int_argument(call, 2, 0);
	int			separator_len = strlen(separator);
	int			parts = 1;
	int			start = 0;

	if (separator_len == 0)
		return absent;
	for (int i = 0; i + separator_len <= len; i++)
		if (memcmp(text + i, separator, separator_len) == 0)
		{
			parts++;
			i += separator_len - 1;
		}
	if (wanted < 0)
		wanted += parts;
	if (wanted < 0 || wanted >= parts)
		return absent;
	for (int i = 0;; i++)
	{
		bool		at_end = i + separator_len > len;

		if (at_end || memcmp(text + i, separator, separator_len) == 0)
		{
			if (wanted-- == 0)
				return text_or_absent(text + start, (at_end ? len : i) - start);
			i += separator_len - 1;
			start = i + 1;
		}
	}
}

static CdiValue
fn_join(const CdiValue *value, const json_t *call)
{
	const char *separator = string_argument(call, 1);
	Jsonb	   *array;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	element;
	StringInfoData out;

	if (value->type != CDI_CONTAINER && value->type != CDI_JSON)
		return *value;
	array = cdi_value_jsonb(value);
	initStringInfo(&out);
	it = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		CdiValue	part;

		if (token != WJB_ELEM || element.type == jbvNull)
			continue;
		part = cdi_value_from_jsonb(&element);
		if (out.len > 0)
			appendStringInfoString(&out, separator);
		appendStringInfoString(&out, cdi_value_text(&part));
	}
	return text_or_absent(out.data, out.len);
}

static CdiValue
fn_prefix(const CdiValue *value, const json_t *call)
{
	char	   *text = psprintf("%s%s", string_argument(call, 1), cdi_value_text(value));

	return cdi_value_string(text, strlen(text));
}

static CdiValue
fn_urlencode(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		/* unreserved characters of RFC 3986 */
		if ((keep_alnum(c) && c < 0x80) || c == '-' || c == '.' || c == '_' || c == '~')
			appendStringInfoChar(&out, c);
		else
			appendStringInfo(&out, "%%%02X", c);
	}
	return cdi_value_string(out.data, out.len);
}

static CdiValue
fn_base64(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);
	int			size = pg_b64_enc_len(len) + 1;
	char	   *out = palloc(size);

	return cdi_value_string(out, pg_b64_encode(text, len, out, size));
}

/* ---- hashes ---- */

/*
 * OpenSSL's own interface: the server's registers contexts with a resource
 * owner, and there is none outside of transactions.
 */
char *
cdi_hex_digest(CdiDigest type, const char *data, int len)
{
	const EVP_MD *algorithm = type == CDI_MD5 ? EVP_md5() : type == CDI_SHA1 ? EVP_sha1() : EVP_sha256();
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int size = 0;
	char	   *hex;

	if (EVP_Digest(data, len, digest, &size, algorithm, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("OpenSSL refuses to compute a digest")));
	hex = palloc(size * 2 + 1);
	hex_encode((char *) digest, size, hex);
	hex[size * 2] = '\0';
	return hex;
}

static CdiValue
digest(const CdiValue *value, CdiDigest type)
{
	int			len;
	const char *text = text_of(value, &len);
	char	   *hex;

	if (len == 0)
		return absent;
	hex = cdi_hex_digest(type, text, len);
	return cdi_value_string(hex, strlen(hex));
}

static CdiValue
fn_sha256(const CdiValue *value, const json_t *call)
{
	return digest(value, CDI_SHA256);
}

static CdiValue
fn_sha1(const CdiValue *value, const json_t *call)
{
	return digest(value, CDI_SHA1);
}

static CdiValue
fn_md5(const CdiValue *value, const json_t *call)
{
	return digest(value, CDI_MD5);
}

/* 64 hexadecimal digits are a hash already and pass in lower case. */
static CdiValue
fn_sha256_unless_hashed(const CdiValue *value, const json_t *call)
{
	int			len;
	const char *text = text_of(value, &len);

	if (len == 64 && strspn(pnstrdup(text, len), "0123456789abcdefABCDEF") == 64)
		return fn_lower(value, NULL);
	return digest(value, CDI_SHA256);
}

/* ---- types ---- */

static CdiValue
fn_tostring(const CdiValue *value, const json_t *call)
{
	char	   *text = cdi_value_text(value);

	return cdi_value_string(text, strlen(text));
}

static CdiValue
fn_tobool(const CdiValue *value, const json_t *call)
{
	CdiValue	result = {.type = CDI_BOOL};
	char	   *text = cdi_value_text(value);

	if (value->type == CDI_BOOL)
		return *value;
	result.boolean = pg_strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0;
	if (!result.boolean && pg_strcasecmp(text, "false") != 0 && strcmp(text, "0") != 0)
		return absent;
	return result;
}

/* The value as a string that holds its JSON text */
static CdiValue
fn_json(const CdiValue *value, const json_t *call)
{
	StringInfoData out;

	initStringInfo(&out);
	cdi_value_append(&out, value);
	return cdi_value_string(out.data, out.len);
}

static CdiValue
fn_default(const CdiValue *value, const json_t *call)
{
	const char *text;

	if (!cdi_value_empty(value))
		return *value;
	text = string_argument(call, 1);
	return cdi_value_string(text, strlen(text));
}

static const CdiMapFunction functions[] = {
	{"alnum", 0, 0, "", fn_alnum},
	{"base64", 0, 0, "", fn_base64},
	{"default", 1, 1, "s", fn_default},
	{"digits", 0, 0, "", fn_digits},
	{"digits_nolead0", 0, 0, "", fn_digits_nolead0},
	{"e164", 0, 1, "s", fn_e164},
	{"join", 1, 1, "s", fn_join},
	{"json", 0, 0, "", fn_json},
	{"lower", 0, 0, "", fn_lower},
	{"md5", 0, 0, "", fn_md5},
	{"nopunct", 0, 0, "", fn_nopunct},
	{"nospace", 0, 0, "", fn_nospace},
	{"prefix", 1, 1, "s", fn_prefix},
	{"replace", 2, 2, "ss", fn_replace},
	{"sha1", 0, 0, "", fn_sha1},
	{"sha256", 0, 0, "", fn_sha256},
	{"sha256_unless_hashed", 0, 0, "", fn_sha256_unless_hashed},
	{"split", 2, 2, "si", fn_split},
	{"tobool", 0, 0, "", fn_tobool},
	{"tostring", 0, 0, "", fn_tostring},
	{"trim", 0, 0, "", cdi_map_trim},
	{"truncate", 1, 1, "i", fn_truncate},
	{"truncate_bytes", 1, 1, "i", fn_truncate_bytes},
	{"upper", 0, 0, "", fn_upper},
	{"urlencode", 0, 0, "", fn_urlencode},
};

static const CdiMapFunction *
find(const CdiMapFunction *table, int n, const char *name, size_t len)
{
	for (int i = 0; i < n; i++)
		if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
			return &table[i];
	return NULL;
}

const CdiMapFunction *
cdi_map_function(const char *name, size_t len)
{
	const CdiMapFunction *found = find(functions, lengthof(functions), name, len);

	if (found == NULL)
		found = find(cdi_map_number_functions, cdi_map_number_function_count, name, len);
	return found ? found : find(cdi_map_object_functions, cdi_map_object_function_count, name, len);
}

CdiValue
cdi_map_call(const CdiValue *value, const json_t *step)
{
	const json_t *call = json_is_array(step) ? step : NULL;
	const char *name = json_string_value(call ? json_array_get(call, 0) : step);
	const CdiMapFunction *function = cdi_map_function(name, strlen(name));

	Assert(function != NULL);	/* checked when the specification was */
	if ((value->type == CDI_ABSENT || value->type == CDI_NULL) && function->call != fn_default)
		return *value;
	return function->call(value, call);
}
