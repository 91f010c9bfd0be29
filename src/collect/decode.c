/*
 * decode.c
 *		Encodings around payloads: URL forms and base64.
 */
#include "postgres.h"

#include "base/scan.h"
#include "collect/base64.h"
#include "collect/decode.h"

bool
cdi_form_next(CdiText *rest, CdiText *name, CdiText *value)
{
	while (rest->data != NULL && rest->len > 0)
	{
		CdiText		field = cdi_text_split(rest, '&');
		const char *equals;

		if (field.len == 0)
			continue;
		equals = memchr(field.data, '=', field.len);
		name->data = field.data;
		name->len = equals ? (int) (equals - field.data) : field.len;
		value->data = equals ? equals + 1 : field.data + field.len;
		value->len = field.len - name->len - (equals ? 1 : 0);
		*name = cdi_text_url_decode(*name);
		*value = cdi_text_url_decode(*value);
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
		int			value = cdi_base64_digit(text.data[i]);

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

/* Half a pair in three bytes: a high one from 0xd800, a low one from 0xdc00 on;
 * -1 where there is none. */
static int
surrogate_at(const char *at, const char *end, int first)
{
	const unsigned char *byte = (const unsigned char *) at;
	int			unit;

	if (end - at < 3 || byte[0] != 0xed || (byte[1] & 0xc0) != 0x80 || (byte[2] & 0xc0) != 0x80)
		return -1;
	unit = 0xd000 | (byte[1] & 0x3f) << 6 | (byte[2] & 0x3f);
	return unit >= first && unit < first + 0x400 ? unit : -1;
}

CdiText
cdi_base64_decode_utf16(CdiText text)
{
	CdiText		result = cdi_base64_decode(text);
	char	   *out = (char *) result.data;
	const char *at = result.data;
	const char *end;

	if (at == NULL || memchr(at, 0xed, result.len) == NULL)
		return result;
	end = at + result.len;
	while (at < end)
	{
		int			high = surrogate_at(at, end, 0xd800);
		int			low = high >= 0 ? surrogate_at(at + 3, end, 0xdc00) : -1;

		if (low >= 0)
		{
			int			point = 0x10000 + ((high & 0x3ff) << 10 | (low & 0x3ff));

			*out++ = (char) (0xf0 | point >> 18);
			*out++ = (char) (0x80 | (point >> 12 & 0x3f));
			*out++ = (char) (0x80 | (point >> 6 & 0x3f));
			*out++ = (char) (0x80 | (point & 0x3f));
			at += 6;
		}
		else if (high >= 0 || surrogate_at(at, end, 0xdc00) >= 0)
		{
			memcpy(out, "\xef\xbf\xbd", 3);
			out += 3;
			at += 3;
		}
		else
			*out++ = *at++;
	}
	*out = '\0';
	result.len = out - result.data;
	return result;
}
