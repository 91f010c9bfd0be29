/*
 * webhook_verify.c
 *		Is a webhook signed with the source's secret?
 *
 * What the vendors do differs in few things, which are settings of the source
 * (cdi.webhooks, with presets in sql/26_webhook.sql):
 *
 *	header		where the signature stands, after prefix, in hex or base64; or
 *				several of them with spaces between
 *	pairs		the header is "t=TIME,v1=SIGNATURE,..." (Stripe)
 *	timestamp_header	where the time stands otherwise; tolerance in seconds
 *	signed		what is signed: text with {timestamp}, {body} and {header:NAME}
 *	algorithm	sha256, sha1 or sha512
 *	secret_encoding	base64 where the secret is that of a key's bytes
 *
 * Any of the source's secrets will do, so that one can be replaced by another.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "base/errors.h"
#include "base/secret.h"
#include "collect/webhook.h"

typedef struct Webhook
{
	CdiText		settings;
	CdiText		mapping;
	int			nsecrets;
	char	  **secrets;		/* references */
} Webhook;

static CdiText
get_text(int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? CDI_NO_TEXT : cdi_text(TextDatumGetCString(datum));
}

static bool
load(int32 source_id, Webhook *webhook)
{
	static CdiPlan plan = {
		.query = "SELECT settings::text, mapping::text, secrets FROM cdi.webhooks WHERE source_id = $1",
		.nargs = 1,.argtypes = {INT4OID}
	};
	Datum	   *items;
	bool		isnull;
	MemoryContext caller = CurrentMemoryContext;

	cdi_plan_execute(&plan, (Datum[]) {Int32GetDatum(source_id)}, NULL);
	MemoryContextSwitchTo(caller);	/* not SPI's, which ends with the transaction */
	if (SPI_processed != 1)
		return false;
	webhook->settings = get_text(1);
	webhook->mapping = get_text(2);
	deconstruct_array(DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull)),
					  TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &webhook->nsecrets);
	webhook->secrets = palloc(sizeof(char *) * Max(webhook->nsecrets, 1));
	for (int i = 0; i < webhook->nsecrets; i++)
		webhook->secrets[i] = TextDatumGetCString(items[i]);
	return true;
}

static char *
setting(const Webhook *webhook, const char *name)
{
	CdiText		value = cdi_scan_scalar(cdi_scan_get(webhook->settings, name));

	return value.data == NULL ? NULL : pnstrdup(value.data, value.len);
}

/* Bytes of a signature in hex or base64; data == NULL where it is neither. */
static CdiText
decode_signature(CdiText text, bool base64)
{
	char	   *out;
	CdiText		result;

	if (base64)
		return cdi_base64_decode(text);
	if (text.len % 2 != 0 || text.len == 0)
		return CDI_NO_TEXT;
	result.data = out = palloc(text.len / 2);
	result.len = text.len / 2;
	for (int i = 0; i < text.len; i++)
	{
		char		c = pg_tolower((unsigned char) text.data[i]);
		int			digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (digit < 0)
			return CDI_NO_TEXT;
		out[i / 2] = (char) (i % 2 == 0 ? digit << 4 : out[i / 2] | digit);
	}
	return result;
}

/* What is signed, with time, body and headers in it */
static CdiText
signed_text(const CdiRequest *request, const char *template, CdiText timestamp, CdiText body)
{
	StringInfoData out;
	const char *end;

	initStringInfo(&out);
	while (*template != '\0')
	{
		if (strncmp(template, "{timestamp}", 11) == 0)
		{
			appendBinaryStringInfo(&out, timestamp.data ? timestamp.data : "", timestamp.len);
			template += 11;
		}
		else if (strncmp(template, "{body}", 6) == 0)
		{
			appendBinaryStringInfo(&out, body.data, body.len);
			template += 6;
		}
		else if (strncmp(template, "{header:", 8) == 0 && (end = strchr(template, '}')) != NULL)
		{
			const char *value = cdi_request_header(request, pnstrdup(template + 8, end - template - 8));

			appendStringInfoString(&out, value ? value : "");
			template = end + 1;
		}
		else
			appendStringInfoChar(&out, *template++);
	}
	return cdi_text_of(&out);
}

/* The bytes of a key that is written as whsec_ and base64, or base64 alone;
 * data == NULL where there are none. */
static CdiText
decoded_key(const char *secret)
{
	CdiText		key = cdi_base64_decode(cdi_text(strncmp(secret, "whsec_", 6) == 0 ? secret + 6 : secret));

	return key.len > 0 ? key : CDI_NO_TEXT;
}

/* What each of the secrets makes of the text.  Once per request: the text may
 * be as large as a body, and the sender may try any number of signatures. */
typedef struct Digests
{
	int			n;
	unsigned int size;
	unsigned char (*bytes)[EVP_MAX_MD_SIZE];
} Digests;

static void
compute_digests(const Webhook *webhook, const EVP_MD *algorithm, CdiText text, Digests *digests)
{
	char	   *encoding = setting(webhook, "secret_encoding");
	bool		base64 = encoding != NULL && strcmp(encoding, "base64") == 0;

	digests->n = 0;
	digests->bytes = palloc(EVP_MAX_MD_SIZE * Max(webhook->nsecrets, 1));
	for (int i = 0; i < webhook->nsecrets; i++)
	{
		char	   *secret = cdi_secret_read(webhook->secrets[i]);
		CdiText		key = base64 ? decoded_key(secret) : cdi_text(secret);

		if (key.data == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
					 errmsg("secret \"%s\" is not in base64", webhook->secrets[i]),
					 errhint("Enter it as its vendor shows it, such as whsec_..., or set \"secret_encoding\" of the webhook to text.")));
		if (HMAC(algorithm, key.data, key.len, (const unsigned char *) text.data, text.len,
				 digests->bytes[digests->n], &digests->size) != NULL)
			digests->n++;
		OPENSSL_cleanse((char *) key.data, key.len);
		OPENSSL_cleanse(secret, strlen(secret));
		pfree(secret);
	}
}

static bool
signature_fits(const Digests *digests, CdiText signature)
{
	bool		fits = false;

	for (int i = 0; i < digests->n; i++)
		if (signature.data != NULL && signature.len == (int) digests->size &&
			CRYPTO_memcmp(digests->bytes[i], signature.data, digests->size) == 0)
			fits = true;
	return fits;
}

/* Is the time near enough to now?  Without a tolerance any is. */
static bool
is_recent(const Webhook *webhook, CdiText timestamp)
{
	char	   *tolerance = setting(webhook, "tolerance");
	int64		microseconds;
	int64		apart;
	int64		now = GetCurrentTimestamp() +
		((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);

	if (tolerance == NULL || atoi(tolerance) <= 0)
		return true;
	apart = (int64) atoi(tolerance) * USECS_PER_SEC;
	return cdi_scan_epoch(timestamp, CDI_SECONDS, &microseconds) &&
		microseconds >= now - apart && microseconds <= now + apart;
}

static bool
is_signed(const CdiRequest *request, const Webhook *webhook)
{
	char	   *name = setting(webhook, "header");
	char	   *prefix = setting(webhook, "prefix");
	char	   *encoding = setting(webhook, "encoding");
	char	   *algorithm_name = setting(webhook, "algorithm");
	char	   *template = setting(webhook, "signed");
	char	   *timestamp_header = setting(webhook, "timestamp_header");
	bool		pairs = cdi_scan_kind(cdi_scan_get(webhook->settings, "pairs")) == 't';
	bool		base64 = encoding != NULL && strcmp(encoding, "base64") == 0;
	CdiText		header = cdi_text(name ? cdi_request_header(request, name) : NULL);
	CdiText		timestamp = cdi_text(timestamp_header ? cdi_request_header(request, timestamp_header) : NULL);
	CdiText		body = {request->http->body ? request->http->body : "", request->http->length};
	const EVP_MD *algorithm = EVP_get_digestbyname(algorithm_name ? algorithm_name : "sha256");
	Digests		digests = {0};

	if (header.data == NULL || algorithm == NULL)
		return false;
	if (!pairs)
	{
		int			length = prefix ? strlen(prefix) : 0;

		if (!is_recent(webhook, timestamp))
			return false;
		compute_digests(webhook, algorithm,
						signed_text(request, template ? template : "{body}", timestamp, body), &digests);
		while (header.len > 0)
		{
			CdiText		part = cdi_text_split(&header, ' ');
			CdiText		signature = {part.data + length, part.len - length};

			if (part.len > length && (length == 0 || memcmp(part.data, prefix, length) == 0) &&
				signature_fits(&digests, decode_signature(signature, base64)))
				return true;
		}
		return false;
	}

	/* The time first, then every signature of version 1 */
	for (int round = 0; round < 2; round++)
	{
		CdiText		rest = header;

		while (rest.len > 0)
		{
			CdiText		part = cdi_text_trim(cdi_text_split(&rest, ','));

			if (round == 0 && part.len > 2 && memcmp(part.data, "t=", 2) == 0)
			{
				timestamp.data = part.data + 2;
				timestamp.len = part.len - 2;
			}
			else if (round == 1 && part.len > 3 && memcmp(part.data, "v1=", 3) == 0)
			{
				CdiText		signature = {part.data + 3, part.len - 3};

				if (signature_fits(&digests, decode_signature(signature, base64)))
					return true;
			}
		}
		if (round > 0 || timestamp.data == NULL || !is_recent(webhook, timestamp))
			return false;
		compute_digests(webhook, algorithm,
						signed_text(request, template ? template : "{timestamp}.{body}", timestamp, body), &digests);
	}
	return false;
}

typedef struct HeaderList
{
	const CdiRequest *request;
	StringInfo	out;
} HeaderList;

static void
write_header(void *arg, CdiText name)
{
	HeaderList *list = arg;
	const char *value = cdi_request_header(list->request, pnstrdup(name.data, name.len));

	if (value != NULL)
	{
		cdi_write_key(list->out, name);
		cdi_write_string(list->out, NULL, value);
	}
}

/*
 * Makes sure of the sender; then the mapping and the headers that it asks for
 * become the envelope, and payloads that no rule is for are left out.
 */
const char *
cdi_webhook_verify(CdiRequest *request)
{
	Webhook		webhook = {.nsecrets = 0};
	StringInfoData envelope;
	HeaderList	list = {request, &envelope};
	CdiText		headers;
	int			n = 0;

	if (!load(request->source_id, &webhook))
		return "unknown_write_key";
	if (!is_signed(request, &webhook))
		return "invalid_signature";
	initStringInfo(&envelope);
	cdi_write_open(&envelope, NULL, '{');
	cdi_write_value(&envelope, "mapping", webhook.mapping);
	cdi_write_open(&envelope, "headers", '{');
	cdi_webhook_headers(webhook.mapping, write_header, &list);
	cdi_write_close(&envelope, '}');
	cdi_write_close(&envelope, '}');
	request->envelope = cdi_text(envelope.data);
	headers = cdi_scan_get(request->envelope, "headers");
	for (int i = 0; i < request->nelements; i++)
		if (cdi_webhook_rule(webhook.mapping, request->elements[i], headers).data != NULL)
			request->elements[n++] = request->elements[i];
	request->nelements = n;
	return NULL;
}

/* A replay goes by the mapping of today: the old one may be why it failed. */
CdiText
cdi_webhook_refresh(CdiText envelope, int32 source_id)
{
	Webhook		webhook = {.nsecrets = 0};
	StringInfoData fresh;

	if (!load(source_id, &webhook))
		return envelope;
	initStringInfo(&fresh);
	cdi_write_open(&fresh, NULL, '{');
	cdi_write_value(&fresh, "mapping", webhook.mapping);
	cdi_write_value(&fresh, "headers", cdi_scan_get(envelope, "headers"));
	cdi_write_close(&fresh, '}');
	return cdi_text(fresh.data);
}
