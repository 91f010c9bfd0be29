/*
 * webhook.c
 *		Signed webhooks at /hook/SOURCE.
 *
 * Senders of webhooks have no SDK and no write key: a signature over the body's
 * bytes says who they are, and the source's mapping what their payload means.
 * The body is one event; an array is one event per element.
 */
#include "postgres.h"

#include "base/errors.h"
#include "collect/members.h"
#include "collect/webhook.h"

static const CdiRoute routes[] = {
	{"/hook/*", NULL},
	{NULL, NULL}
};

static void
unpack(CdiRequest *request)
{
	CdiText		body = cdi_text_trim(request->body);

	request->source = pnstrdup(request->rest.data, request->rest.len);
	/* GitHub's unless it is told otherwise; what is signed is the form */
	if (body.len > 8 && memcmp(body.data, "payload=", 8) == 0)
		body = cdi_text_trim(cdi_form_get(body, "payload"));
	if (cdi_scan_kind(body) == '[')
		cdi_request_add_array(request, body);
	else if (cdi_scan_kind(body) == '{')
		cdi_request_add_element(request, body);
	else
		cdi_request_refuse_json(request, "A webhook's payload is a JSON object, or an array of them.");
}

static void
translate(CdiTranslation *translation)
{
	CdiText		headers = cdi_scan_get(translation->envelope, "headers");
	CdiText		rule = cdi_webhook_rule(cdi_scan_get(translation->envelope, "mapping"),
										translation->payload, headers);

	if (rule.data == NULL)
		cdi_translation_fail(translation, ERRCODE_CDI_INVALID_EVENT,
							 "no rule of the source's mapping is for this payload");
	else
		cdi_webhook_map(rule, translation->payload, headers, translation->call);
}

const CdiDialect cdi_webhook_dialect = {
	.name = "webhook",
	.routes = routes,
	.unpack = unpack,
	.translate = translate,
	.verify = cdi_webhook_verify,
	.refresh = cdi_webhook_refresh,
	.answer = cdi_segment_answer,
	.refuse = cdi_segment_refuse
};
