/*
 * decode.c
 *		Encodings around payloads: URL forms and base64.
 */
#include "postgres.h"

#include "base/scan.h"
#include "collect/decode.h"

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static CdiText
decode_field(CdiText text)
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
		int			high = escape ? hex_value(text.data[i + 1]) : -1;
		int			low = escape ? hex_value(text.data[i + 2]) : -1;

		if (high >= 0 && low >= 0)
		{
			*out++ = (char) (high << 4 | low);
			i += 2;
		}
		else
			*out++ = text.data[i] == '+' ? ' ' : text.data[i];
	}
	*out = '\0';
	result.len = out - result.data;
	return result;
}

bool
cdi_form_next(CdiText *rest, CdiText *name, CdiText *value)
{
	while (rest->data != NULL && rest->len > 0)
	{
		const char *end = memchr(rest->data, '&', rest->len);
		const char *equals;
		CdiText		field = {rest->data, end ? (int) (end - rest->data) : rest->len};

		rest->len -= field.len + (end ? 1 : 0);
		rest->data += field.len + (end ? 1 : 0);
		if (field.len == 0)
			continue;
		equals = memchr(field.data, '=', field.len);
		name->data = field.data;
		name->len = equals ? (int) (equals - field.data) : field.len;
		value->data = equals ? equals + 1 : field.data + field.len;
		value->len = field.len - name->len - (equals ? 1 : 0);
		*name = decode_field(*name);
		*value = decode_field(*value);
		return true;
	}
	return false;
}

CdiText
cdi_form_get(CdiText form, const char *name)
{
	CdiText		key;
	CdiText		value;

	while (cdi_form_next(&form, &key, &value))
		if (cdi_text_is(key, name))
			return value;
	return CDI_NO_TEXT;
}

static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-' || c == ' ')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

CdiText
cdi_base64_decode(CdiText text)
{
	CdiText		result;
	char	   *out;
	uint32		bits = 0;
	int			nbits = 0;
	int			i;

	if (text.data == NULL)
		return CDI_NO_TEXT;
	result.data = out = palloc((Size) text.len / 4 * 3 + 4);
	for (i = 0; i < text.len && text.data[i] != '='; i++)
	{
		int			value = base64_value(text.data[i]);

		if (value < 0)
		{
			if (text.data[i] == '\n' || text.data[i] == '\r' || text.data[i] == '\t')
				continue;
			return CDI_NO_TEXT;
		}
		bits = bits << 6 | (uint32) value;
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			*out++ = (char) (bits >> nbits & 0xff);
		}
	}
	for (; i < text.len; i++)
		if (strchr("=\n\r\t ", text.data[i]) == NULL || text.data[i] == '\0')
			return CDI_NO_TEXT;
	/* one character alone holds no byte */
	if (nbits == 6)
		return CDI_NO_TEXT;
	*out = '\0';
	result.len = out - result.data;
	return result;
}
