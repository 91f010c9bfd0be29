/*
 * scan.c
 *		JSON text, walked without being parsed.
 *
 * Only as much of the grammar is looked at as it takes to find the end of a
 * value: strings with their escapes, and balanced brackets.
 */
#include "postgres.h"

#include <stdarg.h>

#include "base/scan.h"

static bool
is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

CdiText
cdi_text_trim(CdiText text)
{
	while (text.len > 0 && is_space(text.data[0]))
	{
		text.data++;
		text.len--;
	}
	while (text.len > 0 && is_space(text.data[text.len - 1]))
		text.len--;
	return text;
}

CdiText
cdi_text_split(CdiText *rest, char separator)
{
	const char *end = memchr(rest->data, separator, rest->len);
	CdiText		piece = {rest->data, end ? (int) (end - rest->data) : rest->len};
	int			past = piece.len + (end ? 1 : 0);

	rest->data += past;
	rest->len -= past;
	return piece;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

CdiText
cdi_text_url_decode(CdiText text)
{
	char	   *out;
	CdiText		result;

	if (text.len == 0 || (memchr(text.data, '%', text.len) == NULL &&
						  memchr(text.data, '+', text.len) == NULL))
		return text;
	result.data = out = palloc((Size) text.len + 1);
	for (int i = 0; i < text.len; i++)
	{
		bool		escape = text.data[i] == '%' && i + 2 < text.len;
		int			high = escape ? hex_digit(text.data[i + 1]) : -1;
		int			low = escape ? hex_digit(text.data[i + 2]) : -1;

		if (high >= 0 && low >= 0)
		{
			*out++ = (char) (high * 16 + low);
			i += 2;
		}
		else
			*out++ = text.data[i] == '+' ? ' ' : text.data[i];
	}
	*out = '\0';
	result.len = out - result.data;
	return result;
}

static void
skip_space(CdiScan *scan)
{
	while (scan->at < scan->end && is_space(*scan->at))
		scan->at++;
}

static bool
take(CdiScan *scan, char c)
{
	skip_space(scan);
	if (scan->at < scan->end && *scan->at == c)
	{
		scan->at++;
		return true;
	}
	return false;
}

/* Past the closing quote; scan->at is behind the opening one. */
static bool
skip_string(CdiScan *scan)
{
	while (scan->at < scan->end)
	{
		char		c = *scan->at++;

		if (c == '"')
			return true;
		if (c == '\\')
		{
			if (scan->at == scan->end)
				return false;
			scan->at++;
		}
	}
	return false;
}

/* Step over one value of any kind; false where it does not end. */
static bool
skip_value(CdiScan *scan, CdiText *value)
{
	const char *start;

	skip_space(scan);
	start = scan->at;
	if (start >= scan->end)
		return false;
	if (take(scan, '"'))
	{
		if (!skip_string(scan))
			return false;
	}
	else if (*start == '{' || *start == '[')
	{
		int			depth = 0;

		do
		{
			char		c;

			if (scan->at >= scan->end)
				return false;
			c = *scan->at++;
			if (c == '"')
			{
				if (!skip_string(scan))
					return false;
			}
			else if (c == '{' || c == '[')
				depth++;
			else if (c == '}' || c == ']')
				depth--;
		} while (depth > 0);
	}
	else
	{
		while (scan->at < scan->end && strchr(",]} \n\t\r", *scan->at) == NULL)
			scan->at++;
		if (scan->at == start)
			return false;
	}
	value->data = start;
	value->len = scan->at - start;
	return true;
}

/* Walks */
static void
begin(CdiScan *scan, CdiText text, char bracket)
{
	scan->at = text.data;
	scan->end = text.data != NULL ? text.data + text.len : NULL;
	scan->first = true;
	scan->open = text.data != NULL && take(scan, bracket);
	scan->malformed = !scan->open;
}

/* The walk is over, well or badly. */
static bool
end(CdiScan *scan, bool malformed)
{
	scan->open = false;
	skip_space(scan);
	scan->malformed = malformed || scan->at != scan->end;
	return false;
}

/* To the next entry; false at the closing bracket. */
static bool
advance(CdiScan *scan, char bracket)
{
	if (!scan->open)
		return false;
	if (take(scan, bracket))
		return end(scan, false);
	if (!scan->first)
	{
		if (!take(scan, ','))
			return end(scan, true);
		skip_space(scan);
		if (scan->at < scan->end && *scan->at == bracket)
			return end(scan, true);
	}
	scan->first = false;
	return true;
}

void
cdi_scan_object(CdiScan *scan, CdiText object)
{
	begin(scan, object, '{');
}

bool
cdi_scan_member(CdiScan *scan, CdiText *key, CdiText *value)
{
	CdiText		name;

	if (!advance(scan, '}'))
		return false;
	skip_space(scan);
	if (scan->at >= scan->end || *scan->at != '"' || !skip_value(scan, &name) ||
		!take(scan, ':') || !skip_value(scan, value))
		return end(scan, true);
	*key = cdi_scan_string(name);
	return true;
}

void
cdi_scan_array(CdiScan *scan, CdiText array)
{
	begin(scan, array, '[');
}

bool
cdi_scan_element(CdiScan *scan, CdiText *value)
{
	if (!advance(scan, ']'))
		return false;
	if (!skip_value(scan, value))
		return end(scan, true);
	return true;
}

int
cdi_scan_count(CdiText array)
{
	CdiScan		scan;
	CdiText		element;
	int			count = 0;

	cdi_scan_array(&scan, array);
	while (cdi_scan_element(&scan, &element))
		count++;
	return scan.malformed ? -1 : count;
}

/*
 * An element takes far more memory as an event than as "1," in a body.  No call
 * is this short, so that a body with more elements than that is no array of
 * calls; small ones are split all the same, to show what is wrong with each.
 */
#define MIN_CALL_LENGTH		24
#define ALWAYS_SPLIT		1000

int
cdi_scan_calls(CdiText array)
{
	int			count = cdi_scan_count(array);

	return cdi_scan_crowded(count, array.len) ? -1 : count;
}

bool
cdi_scan_crowded(int events, int bytes)
{
	return events > ALWAYS_SPLIT && events > bytes / MIN_CALL_LENGTH;
}

/*
 * What a request says once about all of its events becomes part of each.  A
 * small body could say much about many and so fill memory and disk: more than
 * this is said by no SDK.
 */
#define MAX_SPREAD		(16 * 1024 * 1024)

bool
cdi_scan_spreads(int events, int bytes)
{
	return events > 1 && (int64) events * bytes > MAX_SPREAD;
}

CdiText
cdi_scan_get(CdiText object, const char *name)
{
	CdiText		result = CDI_NO_TEXT;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		if (cdi_text_is(key, name))
			result = value;
	return result;
}

CdiText
cdi_scan_path(CdiText object,...)
{
	va_list		names;
	const char *name;

	va_start(names, object);
	while (object.data != NULL && (name = va_arg(names, const char *)) != NULL)
		object = cdi_scan_get(object, name);
	va_end(names);
	return object;
}

const CdiWanted *
cdi_scan_wanted(const CdiWanted *wanted, CdiText key)
{
	for (; wanted->name != NULL; wanted++)
		if (key.len == wanted->len && memcmp(key.data, wanted->name, key.len) == 0)
			return wanted;
	return NULL;
}

bool
cdi_scan_gather(CdiText object, const CdiWanted *wanted, CdiText *values)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
	{
		const CdiWanted *found = cdi_scan_wanted(wanted, key);

		if (found != NULL)
			values[found->slot] = value;
	}
	return !scan.malformed;
}

/* Values */
char
cdi_scan_kind(CdiText value)
{
	char		c;

	value = cdi_text_trim(value);
	if (value.data == NULL || value.len == 0)
		return '\0';
	c = value.data[0];
	if (c == '-' || (c >= '0' && c <= '9'))
		return '0';
	return strchr("{[\"tfn", c) != NULL ? c : '\0';
}

bool
cdi_scan_present(CdiText value)
{
	char		kind = cdi_scan_kind(value);

	return kind != '\0' && kind != 'n';
}

static int
hex_digits(const char *at, const char *end)
{
	int			value = 0;

	if (end - at < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		int			digit = hex_digit(at[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

static char *
put_utf8(char *out, uint32 c)
{
	if (c < 0x80)
		*out++ = (char) c;
	else if (c < 0x800)
	{
		*out++ = (char) (0xc0 | (c >> 6));
		*out++ = (char) (0x80 | (c & 0x3f));
	}
	else if (c < 0x10000)
	{
		*out++ = (char) (0xe0 | (c >> 12));
		*out++ = (char) (0x80 | ((c >> 6) & 0x3f));
		*out++ = (char) (0x80 | (c & 0x3f));
	}
	else
	{
		*out++ = (char) (0xf0 | (c >> 18));
		*out++ = (char) (0x80 | ((c >> 12) & 0x3f));
		*out++ = (char) (0x80 | ((c >> 6) & 0x3f));
		*out++ = (char) (0x80 | (c & 0x3f));
	}
	return out;
}

/* What follows a backslash; returns where it ends. */
static const char *
unescape(const char *at, const char *end, char **out)
{
	static const char letters[] = "bfnrt";
	static const char meanings[] = "\b\f\n\r\t";
	uint32		c = 0xfffd;
	const char *letter;
	int			high;
	int			low;

	if (at == end)
		return at;
	if (*at != 'u')
	{
		letter = strchr(letters, *at);
		*(*out)++ = letter != NULL && *letter != '\0' ? meanings[letter - letters] : *at;
		return at + 1;
	}
	at++;
	high = hex_digits(at, end);
	if (high >= 0)
	{
		at += 4;
		if (high >= 0xd800 && high < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
			(low = hex_digits(at + 2, end)) >= 0xdc00 && low < 0xe000)
		{
			c = 0x10000 + ((uint32) (high - 0xd800) << 10) + (uint32) (low - 0xdc00);
			at += 6;
		}
		else if (high != 0 && (high < 0xd800 || high >= 0xe000))
			c = (uint32) high;
	}
	*out = put_utf8(*out, c);
	return at;
}

CdiText
cdi_scan_string(CdiText value)
{
	CdiText		result = CDI_NO_TEXT;
	const char *at;
	const char *end;
	char	   *out;

	value = cdi_text_trim(value);
	if (value.data == NULL || value.len < 2 || value.data[0] != '"' ||
		value.data[value.len - 1] != '"')
		return result;
	result.data = value.data + 1;
	result.len = value.len - 2;
	if (memchr(result.data, '\\', result.len) == NULL)
		return result;

	/* No escape means more bytes than it has, but for a broken "\u": three. */
	at = result.data;
	end = at + result.len;
	result.data = out = palloc((Size) result.len * 2 + 1);
	while (at < end)
	{
		if (*at != '\\')
			*out++ = *at++;
		else
			at = unescape(at + 1, end, &out);
	}
	*out = '\0';
	result.len = out - result.data;
	return result;
}

CdiText
cdi_scan_scalar(CdiText value)
{
	return cdi_scan_kind(value) == '0' ? cdi_text_trim(value) : cdi_scan_string(value);
}

bool
cdi_scan_string_is(CdiText value, const char *word)
{
	return cdi_text_is(cdi_scan_string(value), word);
}

bool
cdi_scan_same(CdiText a, CdiText b)
{
	a = cdi_scan_scalar(a);
	b = cdi_scan_scalar(b);
	return a.data != NULL && b.data != NULL && a.len == b.len &&
		memcmp(a.data, b.data, a.len) == 0;
}
