/*
 * members.c
 *		Who belongs to which account or household: cdi.group_members.
 *
 * Kept per identifier, as traits are, so that neither a merge of people nor
 * one of accounts changes it; views go through the map.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "identity/identity.h"

void
cdi_members_record(const CdiLinkBatch *batch)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.group_members AS g (group_identifier, member, first_at, last_at)"
		" SELECT l.group_identifier, l.member, min(l.at), max(l.at)"
		" FROM unnest($1, $2, $3) AS l (group_identifier, member, at) GROUP BY 1, 2"
		" ON CONFLICT (group_identifier, member) DO UPDATE"
		" SET first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at)"
		" WHERE excluded.first_at < g.first_at OR excluded.last_at > g.last_at",
		.nargs = 3,.argtypes = {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID}
	};
	int			n = batch->nmembers;
	Datum	   *columns[3];

	if (n == 0)
		return;
	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = UUIDPGetDatum(&batch->members[i].group);
		columns[1][i] = UUIDPGetDatum(&batch->members[i].member);
		columns[2][i] = TimestampTzGetDatum(batch->members[i].at);
	}
	cdi_plan_execute(&plan, (Datum[]) {
		cdi_uuid_array(columns[0], n), cdi_uuid_array(columns[1], n), cdi_timestamptz_array(columns[2], n)
	}, NULL);
}
