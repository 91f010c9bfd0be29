/*
 * webhook_map.c
 *		From a webhook's payload to a call, as the source's mapping declares it.
 *
 * A mapping is an object with the members of the call, or an array of such
 * rules of which the first counts whose "when" holds.  What stands for a
 * member's value:
 *
 *		"$.a.b[0]"				the payload's value there, as it is ("$": all)
 *		"header:NAME"			a header of the request
 *		{"any": [...]}			the first of these that is there
 *		{"concat": [...]}		texts, one after the other; nothing where one lacks
 *		{"epoch": "seconds", "of": ...}		a time since 1970 (or "milliseconds")
 *		{...}, [...]			an object or array of these
 *		anything else			itself
 *
 * "when" is an object of such expressions with the text, or a list of texts,
 * that each must have.
 */
#include "postgres.h"

#include "collect/webhook.h"

#define MAX_LEVELS	32

typedef struct Source
{
	CdiText		payload;
	CdiText		headers;
} Source;

static CdiText evaluate(const Source *source, CdiText expression, int level);

/* The value at the path behind "$" */
static CdiText
follow(CdiText value, CdiText path)
{
	const char *at = path.data;
	const char *end = path.data + path.len;

	while (at < end && value.data != NULL)
	{
		if (*at == '.')
		{
			CdiText		name = {at + 1, 0};

			while (name.data + name.len < end && strchr(".[", name.data[name.len]) == NULL)
				name.len++;
			at = name.data + name.len;
			value = cdi_scan_get(value, pnstrdup(name.data, name.len));
		}
		else if (*at == '[')
		{
			CdiScan		scan;
			CdiText		element = CDI_NO_TEXT;
			int			index = 0;

			for (at++; at < end && *at >= '0' && *at <= '9' && index < 1000000; at++)
				index = index * 10 + (*at - '0');
			if (at >= end || *at++ != ']')
				return CDI_NO_TEXT;
			cdi_scan_array(&scan, value);
			while (index >= 0 && cdi_scan_element(&scan, &element))
				index--;
			value = index < 0 ? element : CDI_NO_TEXT;
		}
		else
			return CDI_NO_TEXT;
	}
	return cdi_scan_present(value) ? value : CDI_NO_TEXT;
}

static bool
begins_with(CdiText text, const char *beginning)
{
	int			length = strlen(beginning);

	return text.data != NULL && text.len >= length && memcmp(text.data, beginning, length) == 0;
}

static CdiText
first_of(const Source *source, CdiText list, int level)
{
	CdiScan		scan;
	CdiText		element;

	cdi_scan_array(&scan, list);
	while (cdi_scan_element(&scan, &element))
	{
		CdiText		value = evaluate(source, element, level);

		if (cdi_scan_present(value))
			return value;
	}
	return CDI_NO_TEXT;
}

static CdiText
to_text(StringInfo out)
{
	CdiText		result = {out->data, out->len};

	return result;
}

static CdiText
join(const Source *source, CdiText list, int level)
{
	StringInfoData text;
	StringInfoData out;
	CdiScan		scan;
	CdiText		element;

	initStringInfo(&text);
	cdi_scan_array(&scan, list);
	while (cdi_scan_element(&scan, &element))
	{
		CdiText		part = cdi_scan_scalar(evaluate(source, element, level));

		if (part.data == NULL)
			return CDI_NO_TEXT;
		appendBinaryStringInfo(&text, part.data, part.len);
	}
	initStringInfo(&out);
	cdi_write_text(&out, NULL, to_text(&text));
	return to_text(&out);
}

static CdiText
to_time(const Source *source, CdiText unit, CdiText expression, int level)
{
	CdiText		value = evaluate(source, expression, level);
	StringInfoData out;

	if (!cdi_scan_present(value))
		return CDI_NO_TEXT;
	initStringInfo(&out);
	cdi_write_epoch(&out, NULL, value,
					cdi_scan_string_is(unit, "milliseconds") ? CDI_MILLISECONDS : CDI_SECONDS);
	return to_text(&out);
}

static CdiText
build(const Source *source, CdiText template, int level)
{
	bool		object = cdi_scan_kind(template) == '{';
	StringInfoData out;
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	initStringInfo(&out);
	cdi_write_open(&out, NULL, object ? '{' : '[');
	if (object)
	{
		cdi_scan_object(&scan, template);
		while (cdi_scan_member(&scan, &key, &value))
			cdi_write_member(&out, key, evaluate(source, value, level));
	}
	else
	{
		cdi_scan_array(&scan, template);
		while (cdi_scan_element(&scan, &value))
			cdi_write_value(&out, NULL, evaluate(source, value, level));
	}
	cdi_write_close(&out, object ? '}' : ']');
	return to_text(&out);
}

/* JSON text, or data == NULL */
static CdiText
evaluate(const Source *source, CdiText expression, int level)
{
	char		kind = cdi_scan_kind(expression);
	CdiText		text;

	if (level > MAX_LEVELS)
		return CDI_NO_TEXT;
	if (kind == '"')
	{
		text = cdi_scan_string(expression);
		if (begins_with(text, "header:"))
			return cdi_scan_get(source->headers, pnstrdup(text.data + 7, text.len - 7));
		if (begins_with(text, "$"))
		{
			text.data++;
			text.len--;
			return follow(source->payload, text);
		}
		return expression;
	}
	if (kind == '{')
	{
		text = cdi_scan_get(expression, "any");
		if (text.data != NULL)
			return first_of(source, text, level + 1);
		text = cdi_scan_get(expression, "concat");
		if (text.data != NULL)
			return join(source, text, level + 1);
		text = cdi_scan_get(expression, "epoch");
		if (text.data != NULL)
			return to_time(source, text, cdi_scan_get(expression, "of"), level + 1);
	}
	if (kind == '{' || kind == '[')
		return build(source, expression, level + 1);
	return expression;
}

static bool
is_text(CdiText value, CdiText wanted)
{
	CdiText		a = cdi_scan_scalar(value);
	CdiText		b = cdi_scan_scalar(wanted);

	return a.data != NULL && b.data != NULL && a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static bool
holds(const Source *source, CdiText when)
{
	CdiScan		scan;
	CdiText		expression;
	CdiText		wanted;

	cdi_scan_object(&scan, when);
	while (cdi_scan_member(&scan, &expression, &wanted))
	{
		StringInfoData quoted;
		CdiText		value;
		bool		found = false;

		initStringInfo(&quoted);
		cdi_write_text(&quoted, NULL, expression);
		value = evaluate(source, to_text(&quoted), 0);
		if (cdi_scan_kind(wanted) == '[')
		{
			CdiScan		list;
			CdiText		one;

			cdi_scan_array(&list, wanted);
			while (cdi_scan_element(&list, &one))
				found = found || is_text(value, one);
		}
		else
			found = is_text(value, wanted);
		if (!found)
			return false;
	}
	return true;
}

CdiText
cdi_webhook_rule(CdiText mapping, CdiText payload, CdiText headers)
{
	Source		source = {payload, headers};
	CdiScan		scan;
	CdiText		rule;

	if (cdi_scan_kind(mapping) == '{')
		return holds(&source, cdi_scan_get(mapping, "when")) ? mapping : CDI_NO_TEXT;
	cdi_scan_array(&scan, mapping);
	while (cdi_scan_element(&scan, &rule))
		if (holds(&source, cdi_scan_get(rule, "when")))
			return rule;
	return CDI_NO_TEXT;
}

void
cdi_webhook_map(CdiText rule, CdiText payload, CdiText headers, StringInfo call)
{
	Source		source = {payload, headers};
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_write_open(call, NULL, '{');
	cdi_scan_object(&scan, rule);
	while (cdi_scan_member(&scan, &key, &value))
		if (!cdi_text_is(key, "when"))
			cdi_write_member(call, key, evaluate(&source, value, 0));
	cdi_write_close(call, '}');
}

static void
find_headers(CdiText template, void (*fn) (void *arg, CdiText name), void *arg, int level)
{
	char		kind = cdi_scan_kind(template);
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	if (level > MAX_LEVELS)
		return;
	if (kind == '"')
	{
		value = cdi_scan_string(template);
		if (begins_with(value, "header:"))
		{
			value.data += 7;
			value.len -= 7;
			fn(arg, value);
		}
	}
	else if (kind == '[')
	{
		cdi_scan_array(&scan, template);
		while (cdi_scan_element(&scan, &value))
			find_headers(value, fn, arg, level + 1);
	}
	else if (kind == '{')
	{
		cdi_scan_object(&scan, template);
		while (cdi_scan_member(&scan, &key, &value))
		{
			if (begins_with(key, "header:"))
			{
				key.data += 7;
				key.len -= 7;
				fn(arg, key);
			}
			find_headers(value, fn, arg, level + 1);
		}
	}
}

void
cdi_webhook_headers(CdiText mapping, void (*fn) (void *arg, CdiText name), void *arg)
{
	find_headers(mapping, fn, arg, 0);
}
