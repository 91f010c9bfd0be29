/*
 * answer_csv.c
 *		An answer that is a table in CSV (RFC 4180), as JSON for the rules.
 */
#include "activate/activate.h"

#include "base/errors.h"

/* Of a table as JSON, where every line repeats the names of the columns */
#define MAX_TABLE (64 * 1024 * 1024)

/* One cell from *at on, unquoted, appended as a JSON string; *at is then behind it. */
static void
take_cell(const char **at, const char *end, StringInfo out)
{
	StringInfoData cell;
	bool		quoted = *at < end && **at == '"';

	initStringInfo(&cell);
	if (quoted)
		(*at)++;
	while (*at < end)
	{
		if (quoted && **at == '"')
		{
			if (*at + 1 < end && (*at)[1] == '"')
				(*at)++;
			else
			{
				(*at)++;
				quoted = false;
				continue;
			}
		}
		else if (!quoted && (**at == ',' || **at == '\n' || **at == '\r'))
			break;
		appendStringInfoChar(&cell, *(*at)++);
	}
	cdi_json_append_string(out, cell.data, cell.len);
	pfree(cell.data);
}

Jsonb *
cdi_answer_csv(const CdiAnswer *answer)
{
	const char *at = answer->body ? answer->body : "";
	const char *end = at + answer->body_len;
	char	   *names[256];
	int			nnames = 0;
	bool		first = true;
	StringInfoData out;
	CdiAnswer	converted = *answer;

	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	while (at < end)
	{
		int			column = 0;

		if (!first)
			appendStringInfoString(&out, out.len > 1 ? ",{" : "{");
		for (;; column++)
		{
			StringInfoData cell;

			initStringInfo(&cell);
			take_cell(&at, end, &cell);
			if (first && nnames < lengthof(names))
			{
				names[nnames++] = cell.data;
				cell.data = NULL;
			}
			else if (!first && column < nnames)
				appendStringInfo(&out, "%s%s:%s", column ? "," : "", names[column], cell.data);
			if (cell.data)
				pfree(cell.data);
			if (at >= end || *at != ',')
				break;
			at++;
		}
		if (!first)
			appendStringInfoChar(&out, '}');
		if (out.len > MAX_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the table is too large")));
		first = false;
		at += at < end && *at == '\r';
		at += at < end && *at == '\n';
	}
	appendStringInfoChar(&out, ']');
	converted.body = out.data;
	converted.body_len = out.len;
	return cdi_answer_json(&converted);
}
