/*
 * oauth.c
 *		Access tokens by OAuth 2.0 (RFC 6749, 7523): the request that asks for
 *		one, and how its answer is read.
 *
 * Three grants: a refresh token that a person's consent has given, the
 * client's own credentials, and an assertion that a service account signs.
 * The worker asks before the first request and when the token ends or is
 * refused; what is kept where is its business (push_token.c).
 */
#include "activate/activate.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

#define TOKEN_TIMEOUT 30000

static bool
wanted(const CdiTarget *target, const json_t *auth)
{
	CdiScope	scope = {.target = target,.secrets = true};
	json_t	   *when = json_object_get(auth, "when");

	return strcmp(cdi_json_string(auth, "type"), "oauth2") == 0 &&
		(when == NULL || cdi_map_condition(&scope, when));
}

const json_t *
cdi_oauth_part(const CdiTarget *target)
{
	json_t	   *auth = json_object_get(target->spec->root, "auth");
	json_t	   *one;
	size_t		i;

	if (json_is_object(auth) && wanted(target, auth))
		return auth;
	json_array_foreach(auth, i, one)
		if (wanted(target, one))
			return one;
	return NULL;
}

static char *
text_of(const CdiScope *scope, const json_t *auth, const char *name)
{
	json_t	   *node = json_object_get(auth, name);
	CdiValue	value;

	if (node == NULL)
		return NULL;
	value = cdi_map_evaluate(scope, node);
	return cdi_value_empty(&value) ? NULL : cdi_value_text(&value);
}

static void
add(json_t *form, const char *name, const char *value)
{
	if (value != NULL)
		json_object_set_new(form, name, json_string(value));
}

CdiRequest *
cdi_oauth_request(const CdiTarget *target)
{
	const json_t *auth = cdi_oauth_part(target);
	const char *grant = cdi_json_string(auth, "grant");
	const char *style = cdi_json_string(auth, "style");
	bool		basic = style && strcmp(style, "basic") == 0;
	CdiScope	scope = {.target = target,.secrets = true};
	CdiRequest *request = palloc0(sizeof(CdiRequest));
	json_t	   *form = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	json_t	   *more = json_object_get(auth, "parameters");
	char	   *id = text_of(&scope, auth, "client_id");
	char	   *secret = text_of(&scope, auth, "client_secret");
	const char *key;
	json_t	   *member;
	json_t	   *body;

	request->headers = palloc(sizeof(CdiHeader) * CDI_MAX_HEADERS);
	request->method = "POST";
	request->url = text_of(&scope, auth, "token_url");
	request->timeout = TOKEN_TIMEOUT;
	request->key = "";
	cdi_request_check_url(request, target);
	if (strcmp(grant, "jwt_bearer") == 0)
	{
		add(form, "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
		add(form, "assertion", cdi_auth_jwt(&scope, auth));
	}
	else
		add(form, "grant_type", grant);
	if (strcmp(grant, "refresh_token") == 0)
		add(form, "refresh_token", text_of(&scope, auth, "refresh_token"));
	if (basic)
	{
		char	   *pair = psprintf("%s:%s", id ? id : "", secret ? secret : "");

		cdi_request_add_header(request, "Authorization", target->mask_secrets ? "Basic ***" :
							   psprintf("Basic %s", cdi_base64(pair, strlen(pair))));
	}
	else
	{
		add(form, "client_id", id);
		add(form, "client_secret", secret);
	}
	add(form, "scope", text_of(&scope, auth, "scope"));
	json_object_foreach(more, key, member)
		add(form, key, text_of(&scope, more, key));
	cdi_request_add_header(request, "Accept", "application/json");
	body = cdi_json_own(CurrentMemoryContext,
						json_pack("{s:s,s:{s:O}}", "format", style && strcmp(style, "json") == 0 ? "json" : "form",
								  "template", "@literal", form));
	cdi_body_build(request, &scope, body);
	return request;
}

static char *
answer_text(const CdiTarget *target, Jsonb *body, const char *path)
{
	CdiScope	scope = {.target = target,.row = &body->root};
	CdiValue	value = cdi_map_path(&scope, path);

	return cdi_value_empty(&value) ? NULL : cdi_value_text(&value);
}

/*
 * "invalid_grant" is the RFC's word for a consent that was taken back or ran
 * out; a client that is not known is a wrong setting, and no less final.  Only
 * the words of the RFC (6749, 5.2) are repeated: anything else that the server
 * says could be what we have sent.
 */
CdiToken *
cdi_oauth_answer(const CdiTarget *target, const CdiAnswer *answer)
{
	static const char *const words[] = {"invalid_grant", "invalid_client", "unauthorized_client",
	"invalid_request", "unsupported_grant_type", "invalid_scope"};
	CdiToken   *token = palloc0(sizeof(CdiToken));
	Jsonb	   *body = cdi_answer_json(answer);
	int			status = answer->status;

	if (body != NULL && JB_ROOT_IS_OBJECT(body))
	{
		char	   *expires = answer_text(target, body, "$.expires_in");
		char	   *code = answer_text(target, body, "$.error");

		token->access_token = status / 100 == 2 ? answer_text(target, body, "$.access_token") : NULL;
		token->refresh_token = answer_text(target, body, "$.refresh_token");
		token->expires_in = expires ? Max(atoi(expires), 0) : 0;
		for (int i = 0; status / 100 == 4 && code != NULL && i < lengthof(words); i++)
			if (strcmp(code, words[i]) == 0)
			{
				token->error = pstrdup(words[i]);
				token->revoked = i < 3;
			}
	}
	token->refused = status / 100 == 3 || (status / 100 == 4 && status != 408 && status != 425 && status != 429);
	if (token->error == NULL)
		token->error = answer->failure ? cdi_answer_text(answer->error, strlen(answer->error)) :
			status / 100 == 2 ? "no token in its answer" : psprintf("HTTP %d", status);
	return token;
}

void
cdi_oauth_check(const json_t *auth, const char *where)
{
	const char *grant = cdi_json_string(auth, "grant");
	const char *needs = strcmp(grant, "refresh_token") == 0 ? "refresh_token client_id" :
		strcmp(grant, "client_credentials") == 0 ? "client_id client_secret" : "key claims";
	char	   *list = pstrdup(needs);
	char	   *save = NULL;

	for (char *need = strtok_r(list, " ", &save); need; need = strtok_r(NULL, " ", &save))
		if (json_object_get(auth, need) == NULL)
			INVALID("%s: grant %s needs member \"%s\".", where, grant, need);
}
