/*
 * campaign_key.c
 *		What tells one campaign from another.
 *
 * Sessions end where the campaign changes (behaviour/session.c), so each event
 * with a campaign needs a key to compare: its campaign fields as in a query
 * string, absent ones left out.  "%" and "&" are escaped, so different fields
 * never give the same key.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

static const char *const field_names[] = {
	"source", "medium", "name", "term", "content", "click"
};

static void
append_escaped(StringInfo key, const char *data, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (data[i] == '%')
			appendStringInfoString(key, "%25");
		else if (data[i] == '&')
			appendStringInfoString(key, "%26");
		else
			appendStringInfoChar(key, data[i]);
	}
}

/*
 * cdi_campaign_key(campaign_source, campaign_medium, campaign_name,
 *					campaign_term, campaign_content, click_id_type)
 *
 * Null where all are null, which is the case for most events.
 */
PG_FUNCTION_INFO_V1(cdi_campaign_key);
Datum
cdi_campaign_key(PG_FUNCTION_ARGS)
{
	StringInfoData key;
	bool		any = false;

	for (int i = 0; i < lengthof(field_names); i++)
	{
		text	   *value;

		if (PG_ARGISNULL(i))
			continue;
		if (!any)
			initStringInfo(&key);
		value = PG_GETARG_TEXT_PP(i);
		appendStringInfo(&key, "%s%s=", any ? "&" : "", field_names[i]);
		append_escaped(&key, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
		any = true;
	}
	if (!any)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(key.data, key.len));
}
