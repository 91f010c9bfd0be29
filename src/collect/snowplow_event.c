/*
 * snowplow_event.c
 *		The dialect of Snowplow's trackers: reading one event.
 *
 * The tracker protocol is a flat list of short names with strings as values,
 * as JSON or as a query string.  Two of them, the contexts and the
 * self-describing event, hold JSON of their own, plain or in base64.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/snowplow.h"

typedef struct Parameter
{
	const char *name;
	CdiSnowplowSlot slot;
} Parameter;

static const Parameter parameters[] = {
	{"aid", SP_AID}, {"cd", SP_NUMBER}, {"co", SP_CO}, {"cx", SP_CX}, {"dtm", SP_DTM},
	{"duid", SP_DUID}, {"e", SP_E}, {"eid", SP_EID}, {"ev_ac", SP_SE_AC}, {"ev_ca", SP_SE_CA},
	{"ev_la", SP_SE_LA}, {"ev_pr", SP_SE_PR}, {"ev_va", SP_SE_VA}, {"ip", SP_IP},
	{"lang", SP_LANG}, {"nuid", SP_NUID}, {"p", SP_P}, {"page", SP_PAGE}, {"pp_max", SP_PP_MAX},
	{"pp_may", SP_PP_MAY}, {"pp_mix", SP_PP_MIX}, {"pp_miy", SP_PP_MIY}, {"refr", SP_REFR},
	{"res", SP_RES}, {"schema", SP_SCHEMA}, {"se_ac", SP_SE_AC}, {"se_ca", SP_SE_CA},
	{"se_la", SP_SE_LA}, {"se_pr", SP_SE_PR}, {"se_va", SP_SE_VA}, {"sid", SP_SID},
	{"stm", SP_STM}, {"ti_ca", SP_TI_CA}, {"ti_cu", SP_TI_CU}, {"ti_id", SP_TI_ID},
	{"ti_na", SP_TI_NM}, {"ti_nm", SP_TI_NM}, {"ti_pr", SP_TI_PR}, {"ti_qu", SP_TI_QU},
	{"ti_sk", SP_TI_SK}, {"tnuid", SP_TNUID}, {"tr_af", SP_TR_AF}, {"tr_ci", SP_TR_CI},
	{"tr_co", SP_TR_CO}, {"tr_cu", SP_TR_CU}, {"tr_id", SP_TR_ID}, {"tr_sh", SP_TR_SH},
	{"tr_st", SP_TR_ST}, {"tr_tt", SP_TR_TT}, {"tr_tx", SP_TR_TX}, {"ttm", SP_TTM}, {"tv", SP_TV},
	{"tz", SP_TZ}, {"u", SP_U}, {"ua", SP_UA}, {"ue_pr", SP_UE_PR}, {"ue_px", SP_UE_PX},
	{"uid", SP_UID}, {"url", SP_URL}, {"vid", SP_NUMBER}, {"vp", SP_VP},
	{"writeKey", SP_WRITE_KEY}
};

bool
cdi_snowplow_fail(CdiSnowplowEvent *event, int sqlstate, const char *parameter,
				  const char *message, const char *detail)
{
	StringInfoData text;

	initStringInfo(&text);
	if (parameter != NULL)
		appendStringInfo(&text, "\"%s\" ", parameter);
	appendStringInfoString(&text, message);
	event->translation->sqlstate = sqlstate;
	event->translation->message = text.data;
	event->translation->detail = detail;
	return false;
}

/*
 * Fields
 */
static CdiSnowplowSlot
find_slot(CdiText name)
{
	for (int i = 0; i < (int) lengthof(parameters); i++)
		if (name.len > 0 && name.data[0] == parameters[i].name[0] && cdi_text_is(name, parameters[i].name))
			return parameters[i].slot;
	return SP_OTHER;
}

static void
add_field(CdiSnowplowEvent *event, CdiText name, CdiText text, CdiText json)
{
	CdiSnowplowSlot slot = find_slot(name);
	CdiSnowplowField *field;

	if (text.len == 0 && !cdi_scan_present(json))
		return;
	if (event->nfields == event->capacity)
	{
		event->capacity = event->capacity * 2 + 32;
		event->fields = event->fields == NULL ?
			palloc(event->capacity * sizeof(CdiSnowplowField)) :
			repalloc(event->fields, event->capacity * sizeof(CdiSnowplowField));
	}
	field = &event->fields[event->nfields];
	field->name = name;
	field->text = text;
	field->json = json;
	field->number = slot == SP_NUMBER;
	field->used = slot == SP_WRITE_KEY;	/* a credential is not kept */
	if (slot < SP_SLOTS && event->slots[slot] < 0)
		event->slots[slot] = event->nfields;
	event->nfields++;
}

static void
add_query(CdiSnowplowEvent *event, CdiText query)
{
	CdiText		name;
	CdiText		value;

	while (cdi_form_next(&query, &name, &value))
		add_field(event, name, value, CDI_NO_TEXT);
}

/*
 * Reading
 */

/* Schema and data of a self-describing object */
static bool
read_self_describing(CdiSnowplowEvent *event, const char *parameter, CdiText json,
					 CdiText *schema, CdiText *data)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	*schema = CDI_NO_TEXT;
	*data = CDI_NO_TEXT;
	cdi_scan_object(&scan, json);
	while (cdi_scan_member(&scan, &key, &value))
		if (cdi_text_is(key, "schema"))
			*schema = cdi_scan_string(value);
		else if (cdi_text_is(key, "data"))
			*data = value;
	if (scan.malformed)
		return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_JSON, parameter, "is no JSON object",
								 "The bytes are in cdi.failed_events.payload.");
	if (data->data == NULL)
		return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, parameter, "has no \"data\"",
								 "A self-describing object has \"schema\" and \"data\".");
	return true;
}

/* JSON in a parameter, plain or in base64; data == NULL where there is none. */
static bool
read_json(CdiSnowplowEvent *event, CdiSnowplowSlot plain, CdiSnowplowSlot encoded,
		  const char *encoded_name, CdiText *json)
{
	*json = CDI_NO_TEXT;
	if (event->slots[plain] >= 0)
	{
		CdiSnowplowField *field = &event->fields[event->slots[plain]];

		*json = field->text.data != NULL ? field->text : field->json;
		field->used = true;
	}
	else if (event->slots[encoded] >= 0)
	{
		*json = cdi_base64_decode(cdi_snowplow_text(event, encoded));
		if (json->data == NULL)
			return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, encoded_name,
									 "is no base64", NULL);
		cdi_snowplow_mark_used(event, encoded);
	}
	return true;
}

/* Is it of this schema, whatever its version? */
static bool
is_schema(CdiText schema, const char *prefix)
{
	return schema.len > (int) strlen(prefix) && memcmp(schema.data, prefix, strlen(prefix)) == 0;
}

/* A context that says more than its place in the list */
static void
look_at_context(CdiSnowplowEvent *event, CdiText context)
{
	CdiText		schema;
	CdiText		data;

	if (cdi_scan_kind(context) != '{')
		return;
	schema = cdi_scan_string(cdi_scan_get(context, "schema"));
	data = cdi_scan_get(context, "data");
	if (is_schema(schema, CDI_SNOWPLOW_SCHEMA "client_session/"))
	{
		event->client_user = cdi_scan_string(cdi_scan_get(data, "userId"));
		event->client_session = cdi_scan_string(cdi_scan_get(data, "sessionId"));
	}
	else if (is_schema(schema, CDI_SNOWPLOW_MOBILE "deep_link/"))
		event->link = data;
	else if (is_schema(schema, "iglu:com.android.installreferrer.api/referrer_details/"))
		event->install_referrer = cdi_scan_string(cdi_scan_get(data, "installReferrer"));
}

static bool
read_contexts(CdiSnowplowEvent *event)
{
	const char *parameter = event->slots[SP_CO] >= 0 ? "co" : "cx";
	CdiText		json;
	CdiText		schema;
	CdiText		context;
	CdiScan		scan;

	if (!read_json(event, SP_CO, SP_CX, "cx", &json))
		return false;
	if (json.data == NULL)
		return true;
	if (!read_self_describing(event, parameter, json, &schema, &event->contexts))
		return false;
	cdi_scan_array(&scan, event->contexts);
	while (cdi_scan_element(&scan, &context))
		look_at_context(event, context);
	if (scan.malformed)
		return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, parameter,
								 "has no array of contexts in its \"data\"", NULL);
	return true;
}

/* iglu:vendor/name/format/version */
static bool
read_schema_name(CdiSnowplowEvent *event, CdiText schema)
{
	const char *at;

	if (schema.len > 5 && memcmp(schema.data, "iglu:", 5) == 0 &&
		(at = memchr(schema.data, '/', schema.len)) != NULL)
	{
		const char *end = schema.data + schema.len;
		const char *slash = memchr(at + 1, '/', end - at - 1);

		if (slash != NULL && slash > at + 1)
		{
			event->schema = schema;
			event->name.data = at + 1;
			event->name.len = slash - at - 1;
			return true;
		}
	}
	return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, NULL,
							 "the self-describing event has no schema",
							 "Its \"schema\" must be like iglu:com.acme/add_to_cart/jsonschema/1-0-0.");
}

static bool
read_self_describing_event(CdiSnowplowEvent *event)
{
	const char *parameter = event->slots[SP_UE_PR] >= 0 ? "ue_pr" : "ue_px";
	CdiText		json;
	CdiText		outer;
	CdiText		inner;
	CdiText		schema;

	if (!read_json(event, SP_UE_PR, SP_UE_PX, "ue_px", &json))
		return false;
	if (json.data == NULL)
		return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, NULL,
								 "the self-describing event has neither \"ue_pr\" nor \"ue_px\"",
								 NULL);
	if (!read_self_describing(event, parameter, json, &outer, &inner) ||
		!read_self_describing(event, parameter, inner, &schema, &event->data) ||
		!read_schema_name(event, schema))
		return false;
	if (is_schema(schema, CDI_SNOWPLOW_MOBILE "deep_link_received/"))
		event->link = event->data;
	return true;
}

/* POST to /com.snowplowanalytics.iglu/v1 */
static bool
read_self_describing_body(CdiSnowplowEvent *event)
{
	CdiText		body = event->translation->payload;
	CdiText		schema = cdi_snowplow_text(event, SP_SCHEMA);

	if (schema.len > 0)
	{
		/* An element of an array is one value, a body may be more. */
		if (cdi_scan_kind(body) == '{')
		{
			CdiScan		scan;
			CdiText		ignored;

			cdi_scan_object(&scan, body);
			while (cdi_scan_member(&scan, &ignored, &ignored))
				;
			if (scan.malformed)
				return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_JSON, "body",
										 "is no JSON object", NULL);
		}
		event->data = body;
		cdi_snowplow_mark_used(event, SP_SCHEMA);
	}
	else if (!read_self_describing(event, "body", body, &schema, &event->data))
		return false;
	return read_schema_name(event, schema);
}

/* The same by GET: what is not the tracker's is the event's. */
static bool
read_self_describing_query(CdiSnowplowEvent *event)
{
	static const CdiSnowplowSlot reserved[] = {
		SP_AID, SP_P, SP_EID, SP_TTM, SP_URL, SP_UID, SP_DUID, SP_NUID, SP_TNUID, SP_SCHEMA
	};
	StringInfoData data;

	for (int i = 0; i < (int) lengthof(reserved); i++)
		cdi_snowplow_mark_used(event, reserved[i]);
	initStringInfo(&data);
	cdi_write_open(&data, NULL, '{');
	for (int i = 0; i < event->nfields; i++)
		if (!event->fields[i].used)
		{
			cdi_write_key(&data, event->fields[i].name);
			cdi_write_text(&data, NULL, event->fields[i].text);
			event->fields[i].used = true;
		}
	cdi_write_close(&data, '}');
	for (int i = 0; i < (int) lengthof(reserved); i++)
		if (event->slots[reserved[i]] >= 0)
			event->fields[event->slots[reserved[i]]].used = reserved[i] == SP_SCHEMA;
	event->data = cdi_text_of(&data);
	return read_schema_name(event, cdi_snowplow_text(event, SP_SCHEMA));
}

/* A redirect without an event of its own is one. */
static bool
read_redirect(CdiSnowplowEvent *event)
{
	StringInfoData data;

	initStringInfo(&data);
	cdi_write_open(&data, NULL, '{');
	cdi_write_text(&data, "uri", cdi_snowplow_text(event, SP_U));
	cdi_write_close(&data, '}');
	cdi_snowplow_mark_used(event, SP_U);
	event->data = cdi_text_of(&data);
	event->schema = cdi_text(CDI_SNOWPLOW_SCHEMA "uri_redirect/jsonschema/1-0-0");
	event->name = cdi_text("uri_redirect");
	return true;
}

static void
read_envelope(CdiSnowplowEvent *event)
{
	CdiScan		scan;
	CdiText		key;
	CdiText		value;

	cdi_scan_object(&scan, event->translation->envelope);
	while (cdi_scan_member(&scan, &key, &value))
	{
		if (cdi_text_is(key, "form"))
			event->form = cdi_scan_string(value);
		else if (cdi_text_is(key, "networkUserId"))
			event->network_user = cdi_scan_string(value);
		else if (cdi_text_is(key, "query"))
			event->query = cdi_scan_string(value);
		else if (cdi_text_is(key, "referer"))
			event->referer = cdi_scan_string(value);
		else if (cdi_text_is(key, "members"))
			event->members = value;
		else if (cdi_text_is(key, "fresh"))
			event->fresh = true;
		else if (cdi_text_is(key, "anonymous"))
			event->anonymous = true;
	}
}

bool
cdi_snowplow_read(CdiSnowplowEvent *event)
{
	CdiText		payload = event->translation->payload;

	read_envelope(event);
	/* The address goes before the body, as in Snowplow's collector. */
	add_query(event, event->query);
	if (cdi_text_is(event->form, CDI_SNOWPLOW_JSON))
		return read_self_describing_body(event);
	if (cdi_text_is(event->form, CDI_SNOWPLOW_PAYLOAD))
	{
		CdiScan		scan;
		CdiText		key;
		CdiText		value;

		cdi_scan_object(&scan, payload);
		while (cdi_scan_member(&scan, &key, &value))
			add_field(event, key, cdi_scan_scalar(value), value);
		if (scan.malformed)
			return cdi_scan_kind(payload) == '{' ?
				cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_JSON, NULL,
								  "the event is no valid JSON",
								  "The bytes are in cdi.failed_events.payload.") :
				cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, NULL,
								  "event must be a JSON object", NULL);
	}
	else
		add_query(event, payload);
	if (cdi_text_is(event->form, CDI_SNOWPLOW_FIELDS))
		return read_self_describing_query(event);
	if (!read_contexts(event))
		return false;
	if (cdi_text_is(cdi_snowplow_text(event, SP_E), "ue"))
		return read_self_describing_event(event);
	if (cdi_snowplow_has(event, SP_E))
		return true;
	if (cdi_text_is(event->form, CDI_SNOWPLOW_REDIRECT))
		return read_redirect(event);
	return cdi_snowplow_fail(event, ERRCODE_CDI_INVALID_EVENT, NULL, "the event has no \"e\"",
							 "The parameter e says what kind of event it is.");
}
