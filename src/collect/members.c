/*
 * members.c
 *		Members of other protocols' objects, found and written by tables.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "collect/members.h"

static const CdiMember *
find(CdiText key, const CdiMember *table)
{
	for (const CdiMember *member = table; member->name != NULL; member++)
		if (cdi_text_is(key, member->name))
			return member;
	return NULL;
}

bool
cdi_members_gather(CdiText object, const CdiMember *table, CdiText *values)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;
	const CdiMember *member;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		if ((member = find(key, table)) != NULL)
			values[member->slot] = value;
	return !scan.malformed;
}

void
cdi_members_write(StringInfo out, const char *name, CdiText value)
{
	if (cdi_scan_present(value))
		cdi_write_value(out, name, value);
}

void
cdi_members_place(StringInfo out, const CdiPlace *places, const CdiText *values)
{
	const char *open = NULL;
	const char *last = NULL;

	for (const CdiPlace *place = places; place->member != NULL; place++)
	{
		bool		same = (open == NULL) == (place->object == NULL) &&
			(open == NULL || strcmp(open, place->object) == 0);

		if (!cdi_scan_present(values[place->slot]) ||
			(same && last != NULL && strcmp(last, place->member) == 0))
			continue;
		if (!same)
		{
			if (open != NULL)
				cdi_write_close(out, '}');
			if (place->object != NULL)
				cdi_write_open(out, place->object, '{');
			open = place->object;
		}
		cdi_write_value(out, place->member, values[place->slot]);
		last = place->member;
	}
	if (open != NULL)
		cdi_write_close(out, '}');
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
cdi_members_copy_others(StringInfo out, CdiText object, const CdiMember *table)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
		if (find(key, table) == NULL)
			cdi_write_member(out, key, value);
}

void
cdi_members_write_number(StringInfo out, const char *name, int64 number)
{
	cdi_write_value(out, name, cdi_text(psprintf(INT64_FORMAT, number)));
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
