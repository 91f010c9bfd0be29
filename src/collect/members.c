/*
 * members.c
 *		Members of other protocols' objects, copied into ours.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/members.h"

const char *
cdi_members_type(CdiText name, const char *const (*types)[2])
{
	name = cdi_scan_string(name);
	for (; (*types)[0] != NULL; types++)
		if (cdi_text_is(name, (*types)[0]))
			return (*types)[1];
	return "track";
}

int
cdi_members_open(StringInfo out, const char *name)
{
	cdi_write_open(out, name, '{');
	return out->len;
}

void
cdi_members_close(StringInfo out, const char *name, int opened)
{
	if (out->len != opened)
	{
		cdi_write_close(out, '}');
		return;
	}
	/* "name":{ and the comma before it */
	out->len -= strlen(name) + 4;
	if (out->len > 0 && out->data[out->len - 1] == ',')
		out->len--;
	out->data[out->len] = '\0';
}

bool
cdi_members_copy(StringInfo out, CdiText object)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		cdi_write_member(out, key, value);
	return !scan.malformed;
}

void
cdi_members_copy_others(StringInfo out, CdiText object, const CdiWanted *but)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		if (cdi_scan_wanted(but, key) == NULL)
			cdi_write_member(out, key, value);
}

void
cdi_translation_fail(CdiTranslation *translation, int sqlstate, const char *message)
{
	if (translation->sqlstate != 0)
		return;
	translation->sqlstate = sqlstate;
	translation->message = message;
}

void
cdi_translation_copy(CdiTranslation *translation, CdiText object, const char *name)
{
	if (!cdi_scan_present(object))
		return;
	if (cdi_scan_kind(object) != '{')
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_TYPE,
							 psprintf("\"%s\" must be a JSON object", name));
	else if (!cdi_members_copy(translation->call, object))
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_JSON, "invalid JSON");
}
