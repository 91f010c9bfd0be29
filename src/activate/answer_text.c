/*
 * answer_text.c
 *		What a destination answered, as text that can be shown and stored.
 */
#include "activate/activate.h"

#include "mb/pg_wchar.h"

#define MAX_ERROR 500			/* bytes */

/* Text as the database can hold it, whatever it was that came back */
char *
cdi_answer_text(const char *data, size_t len)
{
	char	   *out = palloc(len + 1);
	size_t		n = 0;

	for (size_t i = 0; i < len;)
	{
		int			size = pg_utf_mblen((const unsigned char *) data + i);

		if (data[i] == '\0' || i + size > len || !pg_utf8_islegal((const unsigned char *) data + i, size))
		{
			out[n++] = '?';
			i++;
			continue;
		}
		memcpy(out + n, data + i, size);
		n += size;
		i += size;
	}
	out[n] = '\0';
	return out;
}

/* One line of it for a table */
static char *
clean_text(const char *data, size_t len)
{
	/* A byte stays a byte, and of what is beyond only the rest of a character can matter. */
	char	   *text = cdi_answer_text(data, Min(len, MAX_ERROR + MAX_MULTIBYTE_CHAR_LEN));

	text[pg_encoding_mbcliplen(PG_UTF8, text, strlen(text), MAX_ERROR)] = '\0';
	for (char *at = text; *at != '\0'; at++)
		if ((unsigned char) *at < ' ')
			*at = ' ';
	return text;
}

static char *
replaced(const char *text, const char *secret)
{
	StringInfoData out;
	const char *found;

	initStringInfo(&out);
	for (; (found = strstr(text, secret)) != NULL; text = found + strlen(secret))
	{
		appendBinaryStringInfo(&out, text, found - text);
		appendStringInfoString(&out, "***");
	}
	appendStringInfoString(&out, text);
	return out.data;
}

/*
 * As it stands in base64, such as the pair of name and password that a request
 * has: what the secret alone makes of the text, at each place it can begin.
 */
static char *
without_base64(char *text, const char *secret)
{
	for (int before = 0; before < 3; before++)
	{
		char	   *padded = psprintf("%.*s%s", before, "  ", secret);
		size_t		len = strlen(padded);
		char	   *encoded = cdi_base64(padded, (int) len);

		/* six bits each; those at the ends are shared with what stands beside */
		encoded[len * 8 / 6] = '\0';
		text = replaced(text, encoded + (before * 8 + 5) / 6);
	}
	return text;
}

/* As it is, as it stands in an address, in JSON, and in base64 */
static char *
without_secret(char *text, const char *secret)
{
	CdiValue	value;
	StringInfoData quoted;

	/* short ones would leave nothing of the text */
	if (secret == NULL || strlen(secret) < 6)
		return text;
	value = cdi_value_string(secret, strlen(secret));
	initStringInfo(&quoted);
	cdi_value_append(&quoted, &value);
	quoted.data[quoted.len - 1] = '\0';
	value = cdi_map_function("urlencode", 9)->call(&value, NULL);
	text = replaced(text, secret);
	text = replaced(text, pnstrdup(value.data, value.len));
	text = replaced(text, quoted.data + 1);
	return without_base64(text, secret);
}

/* No secret that was echoed, one valid line */
char *
cdi_answer_presentable(const CdiTarget *target, const char *data, size_t len)
{
	char	   *text = pnstrdup(data, len);
	const char *name;
	const char *inner;
	json_t	   *secret;
	json_t	   *part;

	text = without_secret(text, target->token);
	json_object_foreach(target->secrets, name, secret)
	{
		text = without_secret(text, json_string_value(secret));
		json_object_foreach(secret, inner, part)
			text = without_secret(text, json_string_value(part));
	}
	return clean_text(text, strlen(text));
}
