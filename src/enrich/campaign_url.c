/*
 * campaign_url.c
 *		Campaign parameters and click ids of an address.
 *
 * Addresses come as browsers, mail programs and people wrote them: names in
 * any case, "&amp;" for "&", parameters twice.  Of a parameter that comes
 * twice the first that has a value counts.  The fragment is no part of the
 * query; the query within the fragment of an application that keeps its pages
 * there (https://shop.example/#/landing?utm_source=...) is read where the other
 * names no campaign: platforms put their click ids before the fragment.
 */
#include "postgres.h"

#include <ctype.h>

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "attribution/attribution.h"
#include "base/scan.h"
#include "enrich/enrich.h"

/* Longest name of the domain name system */
#define MAX_HOST	253

static const char *const parameters[CDI_CAMPAIGN_FIELDS] = {
	"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id",
	"utm_source_platform", "utm_creative_format", "utm_marketing_tactic"
};

/* URL-decoded; the raw text where that would not be valid UTF-8. */
static CdiText
url_decode(CdiText text)
{
	CdiText		decoded = cdi_text_url_decode(text);

	if (decoded.data == text.data || pg_verify_mbstr(PG_UTF8, decoded.data, decoded.len, true))
		return decoded;
	return text;
}

static bool
is_name(CdiText text, const char *name)
{
	return text.len == (int) strlen(name) && pg_strncasecmp(text.data, name, text.len) == 0;
}

static void
take_parameter(CdiUrlCampaign *campaign, CdiText name, CdiText value, int *strength)
{
	CdiText		click_id;
	int			new_strength;

	if (memchr(name.data, '%', name.len))
		name = cdi_text_url_decode(name);
	if (name.len > 4 && pg_strncasecmp(name.data, "amp;", 4) == 0)
		name.data += 4, name.len -= 4;
	if (name.len > 4 && pg_strncasecmp(name.data, "utm_", 4) == 0)
	{
		for (int i = 0; i < CDI_CAMPAIGN_FIELDS; i++)
			if (campaign->fields[i].data == NULL && is_name(name, parameters[i]))
				campaign->fields[i] = url_decode(value);
		return;
	}
	click_id = cdi_channel_click_id(name, &new_strength);
	if (click_id.data != NULL && new_strength > *strength)
	{
		*strength = new_strength;
		campaign->click_id_type = click_id;
		campaign->click_id = url_decode(value);
	}
}

static void
take_query(CdiUrlCampaign *campaign, CdiText query, int *strength)
{
	while (query.len > 0)
	{
		CdiText		value = cdi_text_split(&query, '&');
		CdiText		name = cdi_text_split(&value, '=');

		if (value.len > 0)
			take_parameter(campaign, name, value, strength);
	}
}

static bool
names_campaign(const CdiUrlCampaign *campaign)
{
	for (int i = 0; i < CDI_CAMPAIGN_FIELDS; i++)
		if (campaign->fields[i].data != NULL)
			return true;
	return false;
}

void
cdi_url_campaign(CdiText url, CdiUrlCampaign *campaign)
{
	CdiText		fragment = cdi_text_trim(url);
	CdiText		query = cdi_text_split(&fragment, '#');
	int			strength = -1;

	memset(campaign, 0, sizeof(CdiUrlCampaign));
	(void) cdi_text_split(&query, '?');
	take_query(campaign, query, &strength);
	if (names_campaign(campaign))
		return;
	(void) cdi_text_split(&fragment, '?');
	take_query(campaign, cdi_text_split(&fragment, '#'), &strength);
}

CdiText
cdi_url_host(CdiText url)
{
	CdiText		host = {NULL, 0};
	const char *end;
	const char *at;
	const char *stop;
	char	   *copy;

	if (url.data == NULL)
		return host;
	url = cdi_text_trim(url);
	end = url.data + url.len;
	for (at = url.data; at < end && (isalnum((unsigned char) *at) || strchr("+-.", *at)); at++)
		 /* the scheme */ ;
	if (at < end && at > url.data && *at == ':')
		at++;
	else
		at = url.data;			/* //host/path takes the scheme of its page */
	if (end - at < 3 || memcmp(at, "//", 2) != 0)
		return host;
	at += 2;
	for (stop = at; stop < end && !strchr("/\\?#", *stop); stop++)	/* browsers take \ as / */
		if (*stop == '@')
			at = stop + 1;
	for (const char *p = at; p < stop; p++)
		if (*at == '[' ? *p == ']' : *p == ':')
		{
			stop = *p == ']' ? p + 1 : p;
			break;
		}
	if (stop > at && stop[-1] == '.')
		stop--;					/* of the root: the same host */
	if (stop <= at || stop - at > MAX_HOST)
		return host;
	copy = palloc(stop - at);
	for (const char *p = at; p < stop; p++)
		copy[p - at] = pg_ascii_tolower((unsigned char) *p);
	host.data = copy;
	host.len = stop - at;
	return host;
}

static void
set_column(CdiText text, int column, Datum *values, bool *nulls)
{
	nulls[column] = text.data == NULL;
	if (text.data != NULL)
		values[column] = PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

/*
 * cdi_campaign(url text)
 *
 * One row, with the fields in their order, type and value of the click id, and
 * the host.
 */
PG_FUNCTION_INFO_V1(cdi_campaign);
Datum
cdi_campaign(PG_FUNCTION_ARGS)
{
	text	   *argument = PG_GETARG_TEXT_PP(0);
	CdiText		url = {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)};
	Datum		values[CDI_CAMPAIGN_FIELDS + 3];
	bool		nulls[CDI_CAMPAIGN_FIELDS + 3];
	CdiUrlCampaign campaign;
	TupleDesc	desc;
	int			column = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	cdi_url_campaign(url, &campaign);
	for (int i = 0; i < CDI_CAMPAIGN_FIELDS; i++)
		set_column(campaign.fields[i], column++, values, nulls);
	set_column(campaign.click_id_type, column++, values, nulls);
	set_column(campaign.click_id, column++, values, nulls);
	set_column(cdi_url_host(url), column++, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
