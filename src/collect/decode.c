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
