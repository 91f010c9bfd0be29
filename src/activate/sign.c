/*
 * sign.c
 *		Signatures of requests: HMAC, JSON Web Tokens (RFC 7519) and AWS
 *		Signature Version 4.
 *
 * OpenSSL's objects are freed before anything can raise.
 */
#include "activate/activate.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "base/errors.h"

static void
refused(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("OpenSSL refuses to compute a signature")));
}

static char *
hex(const uint8 *data, int len)
{
	char	   *out = palloc0(len * 2 + 1);

	hex_encode((const char *) data, len, out);
	return out;
}

char *
cdi_base64(const void *data, int len)
{
	int			size = pg_b64_enc_len(len) + 1;
	char	   *out = palloc0(size);

	pg_b64_encode(data, len, out, size);
	return out;
}

static unsigned int
hmac(const EVP_MD *algorithm, const void *key, int key_len, const void *data, size_t len, uint8 *digest)
{
	unsigned int size = 0;

	if (HMAC(algorithm, key, key_len, data, len, digest, &size) == NULL)
		refused();
	return size;
}

char *
cdi_sign_hmac(const char *algorithm, const char *encoding, const char *key, const char *data, size_t len)
{
	const EVP_MD *type = algorithm && strcmp(algorithm, "sha1") == 0 ? EVP_sha1() :
		algorithm && strcmp(algorithm, "sha512") == 0 ? EVP_sha512() : EVP_sha256();
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int size = hmac(type, key, strlen(key), data, len, digest);

	return encoding && strcmp(encoding, "base64") == 0 ? cdi_base64(digest, size) : hex(digest, size);
}

/* ---- JSON Web Tokens ---- */

static char *
base64url(const void *data, int len)
{
	char	   *out = cdi_base64(data, len);

	out[strcspn(out, "=")] = '\0';
	for (char *c = out; *c; c++)
		*c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
	return out;
}

/* RSASSA-PKCS1-v1_5 with SHA-256; NULL where the key is none */
static char *
sign_rsa(const char *pem, const char *data)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *) "") : NULL;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	uint8		signature[1024];
	size_t		len = sizeof(signature);
	bool		ok = key && context && EVP_PKEY_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_size(key) <= sizeof(signature) &&
		EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestSign(context, signature, &len, (const uint8 *) data, strlen(data)) == 1;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok ? base64url(signature, len) : NULL;
}

/*
 * header holds members beside "alg" and "typ", or is NULL.  A key that came
 * through a file or a variable may have "\n" for its line ends.
 */
char *
cdi_sign_jwt(const char *algorithm, const char *key, const char *header, const char *claims)
{
	bool		rsa = strcmp(algorithm, "RS256") == 0;
	bool		more = header != NULL && strlen(header) > 2;
	char	   *head = psprintf("{\"alg\":\"%s\",\"typ\":\"JWT\"%s%s", algorithm, more ? "," : "}", more ? header + 1 : "");
	char	   *data = psprintf("%s.%s", base64url(head, strlen(head)), base64url(claims, strlen(claims)));
	char	   *signature;

	if (rsa)
	{
		CdiValue	pem = cdi_value_string(key, strlen(key));
		json_t	   *call = cdi_json_own(CurrentMemoryContext, json_pack("[s,s,s]", "replace", "\\n", "\n"));

		pem = cdi_map_call(&pem, call);
		signature = sign_rsa(cdi_value_text(&pem), data);
		if (signature == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
					 errmsg("the private key of the destination is no RSA key in PEM format")));
	}
	else
	{
		uint8		digest[EVP_MAX_MD_SIZE];

		signature = base64url(digest, hmac(EVP_sha256(), key, strlen(key), data, strlen(data), digest));
	}
	return psprintf("%s.%s", data, signature);
}

/* ---- AWS ---- */

static char *
text_of_instant(TimestampTz now)
{
	CdiValue	value = cdi_map_time(now);
	json_t	   *call = cdi_json_own(CurrentMemoryContext, json_pack("[s,s]", "format_time", "%Y%m%dT%H%M%SZ"));

	value = cdi_map_call(&value, call);
	return cdi_value_text(&value);
}

/* "name=value" or "name:value": by name, then by value */
static int
compare_texts(const void *a, const void *b)
{
	const char *one = *(char *const *) a;
	const char *other = *(char *const *) b;
	size_t		one_name = strcspn(one, "=:");
	size_t		other_name = strcspn(other, "=:");
	int			order = memcmp(one, other, Min(one_name, other_name));

	if (order == 0 && one_name != other_name)
		return one_name < other_name ? -1 : 1;
	return order ? order : strcmp(one, other);
}

static char *
urlencoded(const char *text, size_t len)
{
	CdiValue	value = cdi_value_string(text, len);

	value = cdi_map_function("urlencode", 9)->call(&value, NULL);
	return pnstrdup(value.data, value.len);
}

/*
 * Between a name and its value while they are sorted, below everything that
 * can be part of a name: "a" comes before "a-b", whatever stands behind it.
 */
#define SEPARATOR '\001'

static void
sort_pairs(char **pairs, int n, char between)
{
	qsort(pairs, n, sizeof(char *), compare_texts);
	for (int i = 0; i < n; i++)
		*strchr(pairs[i], SEPARATOR) = between;
}

/* Within a header's value one space stands for several. */
static char *
single_spaced(char *text)
{
	char	   *out = text;

	for (const char *at = text; *at != '\0'; at++)
		if (*at != ' ' || at[1] != ' ')
			*out++ = *at;
	*out = '\0';
	return text;
}

/* "a=1&b" sorted and encoded as the signature wants it */
static char *
canonical_query(const char *query)
{
	char	  **parts = palloc(sizeof(char *) * (query ? strlen(query) + 1 : 1));
	int			n = 0;
	StringInfoData out;

	initStringInfo(&out);
	while (query && *query)
	{
		size_t		end = strcspn(query, "&");
		size_t		name = Min(strcspn(query, "="), end);
		const char *value = name < end ? query + name + 1 : query + end;
		int			size = (int) (query + end - value);
		char	   *plain_name;
		char	   *plain_value;
		int			name_len = 0;
		int			value_len = 0;

		/* what is encoded already must not be encoded twice */
		plain_name = curl_easy_unescape(NULL, query, (int) name, &name_len);
		plain_value = curl_easy_unescape(NULL, value, size, &value_len);
		if (plain_name != NULL && plain_value != NULL)
			parts[n++] = psprintf("%s%c%s", urlencoded(plain_name, name_len), SEPARATOR,
								  urlencoded(plain_value, value_len));
		curl_free(plain_name);
		curl_free(plain_value);
		query += end + (query[end] == '&');
	}
	sort_pairs(parts, n, '=');
	for (int i = 0; i < n; i++)
		appendStringInfo(&out, "%s%s", i ? "&" : "", parts[i]);
	return out.data;
}

/*
 * https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 * Signed are all headers that the request has.  Every service but S3 wants the
 * path encoded twice, and takes several slashes for one.
 */
void
cdi_sign_aws(CdiRequest *request, const char *service, const char *region, const char *access_key,
			 const char *secret_key, const char *session_token, TimestampTz now)
{
	const char *host = strstr(request->url, "://") + 3;
	size_t		host_len = strcspn(host, "/?#");
	const char *path = host + host_len;
	size_t		path_len = strcspn(path, "?#");
	const char *query = path[path_len] == '?' ? pnstrdup(path + path_len + 1, strcspn(path + path_len + 1, "#")) : NULL;
	char	   *stamp = text_of_instant(now);
	char	   *scope = psprintf("%.8s/%s/%s/aws4_request", stamp, region, service);
	char	   *payload = cdi_hex_digest(CDI_SHA256, request->body ? request->body : "", request->body_len);
	char	  **names;
	StringInfoData headers;
	StringInfoData signed_names;
	StringInfoData encoded;
	char	   *canonical;
	char	   *to_sign;
	char	   *key = psprintf("AWS4%s", secret_key);
	uint8		digest[EVP_MAX_MD_SIZE];
	const char *steps[4];
	unsigned int size = 0;

	cdi_request_add_header(request, "Host", pnstrdup(host, host_len));
	cdi_request_add_header(request, "X-Amz-Date", stamp);
	if (*session_token)
		cdi_request_add_header(request, "X-Amz-Security-Token", session_token);
	if (strcmp(service, "s3") == 0)
		cdi_request_add_header(request, "X-Amz-Content-Sha256", payload);

	names = palloc(sizeof(char *) * request->nheaders);
	for (int i = 0; i < request->nheaders; i++)
	{
		CdiValue	value = cdi_value_string(request->headers[i].value, strlen(request->headers[i].value));
		char	   *name = asc_tolower(request->headers[i].name, strlen(request->headers[i].name));

		value = cdi_map_trim(&value, NULL);
		names[i] = psprintf("%s%c%s", name, SEPARATOR, single_spaced(cdi_value_text(&value)));
	}
	sort_pairs(names, request->nheaders, ':');
	initStringInfo(&headers);
	initStringInfo(&signed_names);
	for (int i = 0; i < request->nheaders; i++)
	{
		appendStringInfo(&headers, "%s\n", names[i]);
		appendStringInfo(&signed_names, "%s%.*s", i ? ";" : "", (int) strcspn(names[i], ":"), names[i]);
	}

	initStringInfo(&encoded);
	for (size_t i = 0; i < path_len; i++)
	{
		if (strcmp(service, "s3") == 0)
			appendStringInfoChar(&encoded, path[i]);
		else if (path[i] == '/')
		{
			if (encoded.len == 0 || encoded.data[encoded.len - 1] != '/')
				appendStringInfoChar(&encoded, '/');
		}
		else
			appendStringInfoString(&encoded, urlencoded(path + i, 1));
	}
	canonical = psprintf("%s\n%s\n%s\n%s\n%s\n%s", request->method, encoded.len ? encoded.data : "/",
						 canonical_query(query), headers.data, signed_names.data, payload);
	to_sign = psprintf("AWS4-HMAC-SHA256\n%s\n%s\n%s", stamp, scope,
					   cdi_hex_digest(CDI_SHA256, canonical, strlen(canonical)));

	steps[0] = pnstrdup(stamp, 8);
	steps[1] = region;
	steps[2] = service;
	steps[3] = "aws4_request";
	size = hmac(EVP_sha256(), key, strlen(key), steps[0], strlen(steps[0]), digest);
	for (int i = 1; i < lengthof(steps); i++)
	{
		uint8		former[EVP_MAX_MD_SIZE];

		memcpy(former, digest, size);
		size = hmac(EVP_sha256(), former, size, steps[i], strlen(steps[i]), digest);
	}
	{
		uint8		last[EVP_MAX_MD_SIZE];

		memcpy(last, digest, size);
		size = hmac(EVP_sha256(), last, size, to_sign, strlen(to_sign), digest);
	}
	cdi_request_add_header(request, "Authorization",
						   psprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
									access_key, scope, signed_names.data, hex(digest, size)));
}
