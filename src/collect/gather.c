/*
 * gather.c
 *		Several members of an object, found in one walk.
 *
 * Calls of other protocols have fifty members and more of which a dialect
 * reads half; looking for each of them alone would walk the object as often.
 */
#include "postgres.h"

#include "collect/gather.h"

const CdiWanted *
cdi_wanted_find(const CdiWanted *wanted, CdiText key)
{
	for (; wanted->name != NULL; wanted++)
		if (key.len == wanted->len && memcmp(key.data, wanted->name, key.len) == 0)
			return wanted;
	return NULL;
}

bool
cdi_gather(CdiText object, const CdiWanted *wanted, CdiText *values)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, object);
	while (cdi_scan_member(&scan, &key, &value))
	{
		const CdiWanted *found = cdi_wanted_find(wanted, key);

		if (found != NULL)
			values[found->slot] = value;
	}
	return !scan.malformed;
}

void
cdi_write_present(StringInfo out, const char *name, CdiText value)
{
	if (cdi_scan_present(value))
		cdi_write_value(out, name, value);
}

void
cdi_write_parts(StringInfo out, const CdiPart *parts, const CdiText *values)
{
	const char *open = NULL;

	for (; parts->object != NULL; parts++)
	{
		if (!cdi_scan_present(values[parts->slot]))
			continue;
		if (open == NULL || strcmp(open, parts->object) != 0)
		{
			if (open != NULL)
				cdi_write_close(out, '}');
			cdi_write_open(out, parts->object, '{');
			open = parts->object;
		}
		cdi_write_value(out, parts->member, values[parts->slot]);
	}
	if (open != NULL)
		cdi_write_close(out, '}');
}
