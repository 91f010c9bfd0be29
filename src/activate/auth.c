/*
 * auth.c
 *		Who we are: the credentials of a request, in the ways that receivers
 *		ask for them.
 *
 * Where secrets are masked, nothing is signed: a signature made with "***"
 * would only look like one.
 */
#include "activate/activate.h"

#include "utils/guc.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

#define MASK "***"

static char *
member_text(const CdiScope *scope, const json_t *object, const char *name)
{
	json_t	   *node = json_object_get(object, name);
	CdiValue	value;

	if (node == NULL)
		return pstrdup("");
	value = cdi_map_evaluate(scope, node);
	return cdi_value_text(&value);
}

static char *
url_encoded(const char *text)
{
	CdiValue	value = cdi_value_string(text, strlen(text));

	value = cdi_map_function("urlencode", 9)->call(&value, NULL);
	return cdi_value_text(&value);
}

/* Before a fragment, which is not sent */
static void
add_query(CdiRequest *request, const char *name, const char *text)
{
	int			len = strcspn(request->url, "#");

	request->url = psprintf("%.*s%c%s=%s%s", len, request->url, memchr(request->url, '?', len) ? '&' : '?',
							url_encoded(name), url_encoded(text), request->url + len);
}

/* Claims of the specification, with "iat" and "exp" where it says how long */
char *
cdi_auth_jwt(const CdiScope *scope, const json_t *auth)
{
	const char *expires = cdi_json_string(auth, "expires");
	json_t	   *header = json_object_get(auth, "jwt_header");
	CdiValue	claims = cdi_map_evaluate(scope, json_object_get(auth, "claims"));
	char	   *text = cdi_value_text(&claims);
	CdiValue	head = {.type = CDI_ABSENT};
	int			seconds;

	if (scope->target->mask_secrets)
		return pstrdup(MASK);
	if (header != NULL)
		head = cdi_map_evaluate(scope, header);
	if (*text != '{' || (header != NULL && *cdi_value_text(&head) != '{'))
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_SPEC),
				 errmsg("claims and header of the token must be objects")));
	if (expires != NULL && parse_int(expires, &seconds, GUC_UNIT_S, NULL))
	{
		int64		now = (cdi_target_now(scope->target) +
						   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) / USECS_PER_SEC;

		text[strlen(text) - 1] = '\0';
		text = psprintf("%s%s\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT "}", text,
						text[1] ? "," : "", now, now + seconds);
	}
	return cdi_sign_jwt(cdi_json_string(auth, "algorithm") ? cdi_json_string(auth, "algorithm") : "RS256",
						member_text(scope, auth, "key"), header ? cdi_value_text(&head) : NULL, text);
}

static void
sign_hmac(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	json_t	   *over = json_object_get(auth, "over");
	const char *data = request->body ? request->body : "";
	size_t		len = request->body_len;
	char	   *signature = MASK;

	/* "over" is what is signed, with the body in place of "<body>" */
	if (over != NULL)
	{
		CdiValue	text = cdi_map_evaluate(scope, over);
		char	   *before = cdi_value_text(&text);
		char	   *at = strstr(before, "<body>");

		StringInfoData whole;

		/* the body may be compressed, and hold any byte */
		initStringInfo(&whole);
		appendBinaryStringInfo(&whole, before, at ? at - before : strlen(before));
		if (at != NULL)
		{
			appendBinaryStringInfo(&whole, data, len);
			appendStringInfoString(&whole, at + strlen("<body>"));
		}
		data = whole.data;
		len = whole.len;
	}
	if (!scope->target->mask_secrets)
		signature = cdi_sign_hmac(cdi_json_string(auth, "algorithm"), cdi_json_string(auth, "encoding"),
								  member_text(scope, auth, "key"), data, len);
	cdi_request_add_header(request, cdi_json_string(auth, "header"),
						   psprintf("%s%s", member_text(scope, auth, "prefix"), signature));
}

static void
sign_aws(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	if (scope->target->mask_secrets)
		cdi_request_add_header(request, "Authorization", "AWS4-HMAC-SHA256 " MASK);
	else
		cdi_sign_aws(request, member_text(scope, auth, "service"), member_text(scope, auth, "region"),
					 member_text(scope, auth, "access_key"), member_text(scope, auth, "secret_key"),
					 member_text(scope, auth, "session_token"), cdi_target_now(scope->target));
}

static void
add_token(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	const char *header = cdi_json_string(auth, "header");
	const char *token = scope->target->token;

	if (scope->target->mask_secrets)
		token = MASK;
	if (token == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("the destination has no access token yet")));
	cdi_request_add_header(request, header ? header : "Authorization",
						   psprintf("%s%s", json_object_get(auth, "prefix") ? member_text(scope, auth, "prefix") : "Bearer ",
									token));
}

static void
apply_one(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	const char *type = cdi_json_string(auth, "type");
	json_t	   *when = json_object_get(auth, "when");

	if (when != NULL && !cdi_map_condition(scope, when))
		return;
	if (strcmp(type, "header") == 0)
		cdi_request_add_header(request, cdi_json_string(auth, "header"), member_text(scope, auth, "value"));
	else if (strcmp(type, "bearer") == 0)
		cdi_request_add_header(request, "Authorization", psprintf("Bearer %s", member_text(scope, auth, "token")));
	else if (strcmp(type, "basic") == 0)
	{
		char	   *pair = psprintf("%s:%s", member_text(scope, auth, "username"), member_text(scope, auth, "password"));

		cdi_request_add_header(request, "Authorization", scope->target->mask_secrets ? "Basic " MASK :
							   psprintf("Basic %s", cdi_base64(pair, strlen(pair))));
	}
	else if (strcmp(type, "query") == 0)
		add_query(request, cdi_json_string(auth, "name"), member_text(scope, auth, "value"));
	else if (strcmp(type, "hmac") == 0)
		sign_hmac(request, scope, auth);
	else if (strcmp(type, "jwt") == 0)
		cdi_request_add_header(request, "Authorization",
							   psprintf("%s%s", json_object_get(auth, "prefix") ? member_text(scope, auth, "prefix") : "Bearer ",
										cdi_auth_jwt(scope, auth)));
	else if (strcmp(type, "sigv4") == 0)
		sign_aws(request, scope, auth);
	else if (strcmp(type, "oauth2") == 0)
		add_token(request, scope, auth);
}

void
cdi_auth_apply(CdiRequest *request, const CdiScope *scope, const json_t *auth)
{
	json_t	   *one;
	size_t		i;

	if (json_is_object(auth))
		apply_one(request, scope, auth);
	json_array_foreach(auth, i, one)
		apply_one(request, scope, one);
}

/* ---- checks ---- */

static void
check_choice(const json_t *auth, const char *name, const char *const *choices, const char *where)
{
	const char *value = cdi_json_string(auth, name);

	if (value == NULL)
		return;
	for (int i = 0; choices[i] != NULL; i++)
		if (strcmp(choices[i], value) == 0)
			return;
	INVALID("%s: \"%s\" is no %s that is known.", where, value, name);
}

static void
check_one(const json_t *auth, CdiMapRules rules, const char *where)
{
	static const char *const hashes[] = {"sha256", "sha1", "sha512", NULL};
	static const char *const encodings[] = {"hex", "base64", NULL};
	static const char *const keys[] = {"RS256", "HS256", NULL};
	static const char *const grants[] = {"refresh_token", "client_credentials", "jwt_bearer", NULL};
	static const char *const styles[] = {"form", "basic", "json", NULL};
	static const struct
	{
		const char *type;
		const char *needs;
		const char *takes;
	}			types[] = {
		{"none", "", ""},
		{"header", "header value", ""},
		{"bearer", "token", ""},
		{"basic", "username", "password"},
		{"query", "name value", ""},
		{"hmac", "header key", "algorithm encoding prefix over"},
		{"jwt", "key claims", "algorithm expires jwt_header prefix"},
		{"sigv4", "service region access_key secret_key", "session_token"},
		{"oauth2", "grant token_url",
		"client_id client_secret refresh_token scope parameters style header prefix key claims algorithm expires jwt_header"},
	};
	static const char plain[] = " type algorithm encoding expires header name grant style ";	/* not evaluated */
	const char *type = cdi_json_string(auth, "type");
	const char *key;
	json_t	   *member;
	int			found = -1;

	if (!json_is_object(auth) || type == NULL)
		INVALID("%s must be an object with a \"type\".", where);
	for (int i = 0; i < lengthof(types); i++)
		if (strcmp(types[i].type, type) == 0)
			found = i;
	if (found < 0)
		INVALID("%s: type \"%s\" is not known; there are none, header, bearer, basic, query, hmac, jwt, sigv4 and oauth2.",
				where, type);
	{
		char	   *needs = pstrdup(types[found].needs);
		char	   *save = NULL;

		for (char *need = strtok_r(needs, " ", &save); need; need = strtok_r(NULL, " ", &save))
			if (json_object_get(auth, need) == NULL)
				INVALID("%s: member \"%s\" is missing.", where, need);
	}
	json_object_foreach((json_t *) auth, key, member)
	{
		char	   *known = psprintf(" type when %s %s ", types[found].needs, types[found].takes);
		char	   *here = psprintf("%s.%s", where, key);

		if (strstr(known, psprintf(" %s ", key)) == NULL)
			INVALID("%s: unknown member \"%s\".", where, key);
		if (strcmp(key, "when") == 0)
			cdi_map_check_condition(member, rules, here);
		else if (strcmp(key, "claims") == 0 || strcmp(key, "jwt_header") == 0 || strcmp(key, "parameters") == 0)
		{
			if (!json_is_object(member))
				INVALID("%s must be an object.", here);
			cdi_map_check(member, rules, here);
		}
		else if (!json_is_string(member))
			INVALID("%s must be a string.", here);
		else if (strstr(plain, psprintf(" %s ", key)) == NULL)
			cdi_map_check(member, rules, here);
		else if (strcmp(key, "header") == 0 && !cdi_header_name(json_string_value(member)))
			INVALID("%s: \"%s\" is no name of a header.", here, json_string_value(member));
	}
	if (strcmp(type, "hmac") == 0)
		check_choice(auth, "algorithm", hashes, where);
	else
		check_choice(auth, "algorithm", keys, where);
	check_choice(auth, "encoding", encodings, where);
	check_choice(auth, "grant", grants, where);
	check_choice(auth, "style", styles, where);
	if ((key = cdi_json_string(auth, "expires")) != NULL)
	{
		int			seconds;

		if (!parse_int(key, &seconds, GUC_UNIT_S, NULL) || seconds < 1)
			INVALID("%s.expires must be a duration such as \"1h\".", where);
	}
	if (strcmp(type, "oauth2") == 0)
		cdi_oauth_check(auth, where);
}

void
cdi_auth_check(const json_t *auth, CdiMapRules rules, const char *where)
{
	json_t	   *one;
	size_t		i;
	int			tokens = 0;

	if (!json_is_array(auth))
	{
		check_one(auth, rules, where);
		return;
	}
	json_array_foreach(auth, i, one)
	{
		check_one(one, rules, psprintf("%s[%d]", where, (int) i));
		tokens += strcmp(cdi_json_string(one, "type"), "oauth2") == 0;
	}
	if (tokens > 1)
		INVALID("%s: a destination has one kind of access token.", where);
}
