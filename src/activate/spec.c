/*
 * spec.c
 *		Load and check the specification of a destination, and the settings of
 *		one destination against it.
 *
 * What is not understood is refused: a member that this version does not know
 * would otherwise be a promise that nobody keeps.
 */
#include "activate/activate.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

#define BAD_SETTING(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), \
			 errmsg("settings do not fit destination specification \"%s\"", spec->name), \
			 errdetail(__VA_ARGS__)))

static void
check_object(const json_t *node, const char *const *known, const char *where)
{
	const char *key;
	json_t	   *member;

	if (!json_is_object(node))
		INVALID("%s must be an object.", where);
	json_object_foreach((json_t *) node, key, member)
	{
		bool		found = false;

		for (int i = 0; known[i] != NULL; i++)
			found |= strcmp(known[i], key) == 0;
		if (!found)
			INVALID("%s: unknown member \"%s\".", where, key);
	}
}

static const char *
required_string(const json_t *node, const char *name, const char *where)
{
	const char *value = cdi_json_string(node, name);

	if (value == NULL || *value == '\0')
		INVALID("%s: member \"%s\" must be a string that is not empty.", where, name);
	return value;
}

static void
check_array_of_strings(const json_t *node, const char *where)
{
	json_t	   *element;
	size_t		i;

	if (node == NULL)
		return;
	if (!json_is_array(node))
		INVALID("%s must be an array of strings.", where);
	json_array_foreach(node, i, element)
		if (!json_is_string(element))
			INVALID("%s must be an array of strings.", where);
}

/* ---- settings ---- */

static const char *const setting_types[] = {"string", "integer", "number", "boolean", "object", NULL};

static bool
has_type(const json_t *value, const char *type)
{
	if (strcmp(type, "string") == 0)
		return json_is_string(value);
	if (strcmp(type, "integer") == 0)
		return json_is_integer(value);
	if (strcmp(type, "number") == 0)
		return json_is_number(value);
	if (strcmp(type, "boolean") == 0)
		return json_is_boolean(value);
	return json_is_object(value);
}

static void
check_settings_schema(const json_t *schema)
{
	static const char *const members[] = {"type", "required", "properties", NULL};
	static const char *const property_members[] = {"type", "enum", "default", "secret", "minimum", "maximum",
	"description", NULL};
	const char *name;
	json_t	   *property;
	json_t	   *element;
	size_t		i;

	check_object(schema, members, "settings");
	if (!json_is_object(json_object_get(schema, "properties")))
		INVALID("settings.properties must be an object.");
	json_object_foreach(json_object_get(schema, "properties"), name, property)
	{
		char	   *where = psprintf("settings.properties.%s", name);
		const char *type;
		json_t	   *secret = json_object_get(property, "secret");
		json_t	   *otherwise = json_object_get(property, "default");
		bool		known = false;

		check_object(property, property_members, where);
		type = required_string(property, "type", where);
		for (i = 0; setting_types[i] != NULL; i++)
			known |= strcmp(setting_types[i], type) == 0;
		if (!known)
			INVALID("%s: type must be string, integer, number, boolean or object.", where);
		if (secret != NULL && !json_is_true(secret) &&
			!(json_is_string(secret) && strcmp(json_string_value(secret), "allowed") == 0))
			INVALID("%s: secret must be true or \"allowed\".", where);
		if (secret != NULL && strcmp(type, "string") != 0 && strcmp(type, "object") != 0)
			INVALID("%s: a secret is a string or an object of strings.", where);
		if (json_is_true(secret) && otherwise != NULL)
			INVALID("%s: a secret has no default.", where);
		if (otherwise != NULL && !has_type(otherwise, type))
			INVALID("%s: the default is not of type %s.", where, type);
		if ((element = json_object_get(property, "enum")) != NULL && !json_is_array(element))
			INVALID("%s: enum must be an array.", where);
		if ((element = json_object_get(property, "minimum")) != NULL && !json_is_number(element))
			INVALID("%s: minimum must be a number.", where);
		if ((element = json_object_get(property, "maximum")) != NULL && !json_is_number(element))
			INVALID("%s: maximum must be a number.", where);
	}
	check_array_of_strings(json_object_get(schema, "required"), "settings.required");
	json_array_foreach(json_object_get(schema, "required"), i, element)
		if (json_object_get(json_object_get(schema, "properties"), json_string_value(element)) == NULL)
			INVALID("settings.required: there is no property \"%s\".", json_string_value(element));
}

static void
check_secret_setting(const CdiSpec *spec, const char *name, const json_t *value)
{
	if (!json_is_string(value) || !cdi_secret_is_reference(json_string_value(value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" must refer to a secret", name),
				 errdetail("Secrets are not stored in the database."),
				 errhint("Put it into cdi.secrets and write \"secret:NAME\", into a file below cdi.secret_directory (\"file:NAME\"), or into the server's environment (\"env:CDI_NAME\").")));
}

/* Headers that carry credentials must not stand in plain settings. */
static bool
is_credential_header(const char *name)
{
	static const char *const names[] = {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key",
	"x-auth-token"};

	for (int i = 0; i < lengthof(names); i++)
		if (pg_strcasecmp(names[i], name) == 0)
			return true;
	return false;
}

static char *
allowed_values(const json_t *values)
{
	StringInfoData out;

	initStringInfo(&out);
	cdi_json_append(&out, values);
	return out.data;
}

/* "https://name:password@host/" */
static bool
has_password(const char *address)
{
	const char *authority = strstr(address, "://");

	if (authority == NULL)
		return false;
	authority += 3;
	return memchr(authority, '@', strcspn(authority, "/?#")) != NULL;
}

static void
check_setting(const CdiSpec *spec, const char *name, const json_t *property, const json_t *value)
{
	const char *type = cdi_json_string(property, "type");
	json_t	   *secret = json_object_get(property, "secret");
	json_t	   *limit;
	const char *inner;
	json_t	   *member;

	if (json_is_true(secret) && strcmp(type, "string") == 0)
		check_secret_setting(spec, name, value);
	if (!has_type(value, type))
		BAD_SETTING("Setting \"%s\" must be of type %s.", name, type);
	if (json_is_string(value) && has_password(json_string_value(value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" holds what looks like a credential before the \"@\"", name),
				 errhint("Take it out of the address, and use a setting that takes references to secrets.")));
	if (json_is_object(value))
		json_object_foreach((json_t *) value, inner, member)
		{
			if (json_is_true(secret))
				check_secret_setting(spec, psprintf("%s.%s", name, inner), member);
			if (!json_is_string(member))
				BAD_SETTING("Setting \"%s\" must be an object of strings.", name);
			if (secret == NULL && is_credential_header(inner))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("setting \"%s\" holds what looks like a credential: \"%s\"", name, inner),
						 errhint("Use a setting that takes references to secrets.")));
		}
	if ((limit = json_object_get(property, "enum")) != NULL)
	{
		bool		found = false;
		size_t		i;

		json_array_foreach(limit, i, member)
			found |= json_equal(member, (json_t *) value);
		if (!found)
			BAD_SETTING("Setting \"%s\" must be one of %s.", name, allowed_values(limit));
	}
	if ((limit = json_object_get(property, "minimum")) != NULL &&
		json_number_value(value) < json_number_value(limit))
		BAD_SETTING("Setting \"%s\" must be at least %s.", name, cdi_json_number(limit));
	if ((limit = json_object_get(property, "maximum")) != NULL &&
		json_number_value(value) > json_number_value(limit))
		BAD_SETTING("Setting \"%s\" must be at most %s.", name, cdi_json_number(limit));
}

static char *
setting_names(const json_t *properties)
{
	StringInfoData out;
	const char *name;
	json_t	   *property;

	initStringInfo(&out);
	json_object_foreach((json_t *) properties, name, property)
		appendStringInfo(&out, "%s%s", out.len ? ", " : "", name);
	return out.data;
}

/* All that are missing at once, and what each of them is */
static void
check_required_settings(const CdiSpec *spec, const json_t *schema, const json_t *settings)
{
	StringInfoData missing;
	json_t	   *value;
	size_t		i;

	initStringInfo(&missing);
	json_array_foreach(json_object_get(schema, "required"), i, value)
	{
		const char *name = json_string_value(value);
		json_t	   *property = json_object_get(json_object_get(schema, "properties"), name);
		const char *description = cdi_json_string(property, "description");

		if (json_object_get(settings, name) != NULL)
			continue;
		appendStringInfo(&missing, "%s\"%s\" (%s%s%s)", missing.len ? ", " : "", name,
						 json_is_true(json_object_get(property, "secret")) ? "a reference to a secret" :
						 cdi_json_string(property, "type"),
						 description ? ": " : "", description ? description : "");
	}
	if (missing.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("settings do not fit destination specification \"%s\"", spec->name),
				 errdetail("Missing: %s.", missing.data),
				 errhint("SELECT jsonb_pretty(spec -> 'settings') FROM cdi.destination_specs WHERE name = '%s' lists all settings; a secret is written \"secret:NAME\", \"file:NAME\" or \"env:CDI_NAME\".", spec->name)));
}

json_t *
cdi_settings_check(const CdiSpec *spec, const json_t *settings, MemoryContext context)
{
	json_t	   *schema = json_object_get(spec->root, "settings");
	json_t	   *properties = json_object_get(schema, "properties");
	json_t	   *result;
	const char *name;
	json_t	   *value;

	if (!json_is_object(settings))
		BAD_SETTING("Settings must be an object.");
	result = cdi_json_own(context, json_deep_copy(settings));
	json_object_foreach((json_t *) settings, name, value)
	{
		json_t	   *property = json_object_get(properties, name);

		if (property == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("settings do not fit destination specification \"%s\"", spec->name),
					 errdetail("There is no setting \"%s\".", name),
					 errhint("There are: %s.", setting_names(properties))));
		check_setting(spec, name, property, value);
	}
	check_required_settings(spec, schema, settings);
	json_object_foreach(properties, name, value)
	{
		json_t	   *otherwise = json_object_get(value, "default");

		if (otherwise != NULL && json_object_get(result, name) == NULL)
			json_object_set(result, name, otherwise);
	}
	return result;
}

/* ---- the rest ---- */

static void
check_request(const json_t *request, const CdiNames *names, const char *where)
{
	const CdiMapRules request_rules = {.secrets = true,.names = names};
	const CdiMapRules body_rules = {.secrets = true,.items = true,.names = names};
	static const char *const members[] = {"method", "url", "headers", "body", "timeout", "idempotency", "when", NULL};
	static const char *const idempotency_members[] = {"header", NULL};
	const char *text;
	json_t	   *part;
	json_t	   *member;

	check_object(request, members, where);
	cdi_map_check(json_object_get(request, "method"), request_rules, psprintf("%s.method", where));
	if (json_object_get(request, "method") == NULL || json_object_get(request, "url") == NULL)
		INVALID("%s: members \"method\" and \"url\" are needed.", where);
	text = cdi_json_string(request, "method");
	if (text && strstr(text, "{{") == NULL && (*text == '\0' || text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] != '\0'))
		INVALID("%s.method must be in upper case, such as \"POST\".", where);
	text = cdi_json_string(request, "url");
	if (text && strncmp(text, "{{", 2) != 0 && pg_strncasecmp(text, "https://", 8) != 0 && pg_strncasecmp(text, "http://", 7) != 0)
		INVALID("%s.url must begin with https:// or http://.", where);
	cdi_map_check(json_object_get(request, "url"), body_rules, psprintf("%s.url", where));
	if ((part = json_object_get(request, "headers")) != NULL)
	{
		cdi_map_check(part, request_rules, psprintf("%s.headers", where));
		json_object_foreach(part, text, member)
			if (*text != '@' && !cdi_header_name(text))
				INVALID("%s.headers: \"%s\" is no name of a header.", where, text);
	}
	if ((part = json_object_get(request, "timeout")) != NULL)
	{
		int			value;

		if (!json_is_string(part) ||
			!parse_int(json_string_value(part), &value, GUC_UNIT_MS, NULL) || value < 1 || value > 600000)
			INVALID("%s.timeout must be a duration such as \"10s\", at most 10min.", where);
	}
	if ((part = json_object_get(request, "idempotency")) != NULL)
	{
		check_object(part, idempotency_members, psprintf("%s.idempotency", where));
		if (!cdi_header_name(required_string(part, "header", psprintf("%s.idempotency", where))))
			INVALID("%s.idempotency: \"%s\" is no name of a header.", where, cdi_json_string(part, "header"));
	}
	if ((part = json_object_get(request, "when")) != NULL)
		cdi_map_check_condition(part, request_rules, psprintf("%s.when", where));
	if ((part = json_object_get(request, "body")) != NULL)
		cdi_body_check(part, body_rules, psprintf("%s.body", where));
}

static void
check_stages(const json_t *stages, CdiNames *names, const char *where)
{
	static const char *const members[] = {"name", "description", "request", "response", "extract", "poll", NULL};
	json_t	   *stage;
	const char *name;
	size_t		i;

	if (!json_is_array(stages))
		INVALID("%s must be an array.", where);
	json_array_foreach(stages, i, stage)
	{
		char	   *here = psprintf("%s[%d]", where, (int) i);

		check_object(stage, members, here);
		name = required_string(stage, "name", here);
		if (strcmp(name, "main") == 0 || json_object_get(names->steps, name) != NULL)
			INVALID("%s: there is another step \"%s\".", here, name);
		check_request(json_object_get(stage, "request"), names, psprintf("%s.request", here));
		cdi_response_check(stage, names, here);
		json_object_set_new(names->steps, name, json_true());
	}
}

static void
check_batch(const json_t *batch, const CdiNames *names, const char *where)
{
	const CdiMapRules row_rules = {.row = true,.names = names};
	static const char *const members[] = {"max_items", "max_bytes", "max_wait", "order_key", NULL};
	const char *key;
	json_t	   *value;

	check_object(batch, members, where);
	json_object_foreach((json_t *) batch, key, value)
	{
		bool		by_row = json_is_object(value) && strcmp(key, "max_items") == 0;

		if (strcmp(key, "order_key") == 0)
		{
			cdi_map_check(value, row_rules, psprintf("%s.%s", where, key));
			continue;
		}
		if (strcmp(key, "max_wait") == 0)
		{
			int			wait;

			if (!json_is_string(value) || !parse_int(json_string_value(value), &wait, GUC_UNIT_MS, NULL) ||
				wait < 1 || wait > 24 * 60 * 60 * 1000)
				INVALID("%s.max_wait must be a duration such as \"5s\", at most a day.", where);
			continue;
		}
		if (!json_is_string(value) && !by_row && !(json_is_integer(value) && json_integer_value(value) > 0))
			INVALID("%s.%s must be a positive integer or a template.", where, key);
		if (json_is_integer(value) && json_integer_value(value) > (strcmp(key, "max_items") == 0 ? CDI_MAX_ITEMS : CDI_MAX_BYTES))
			INVALID("%s.%s must be at most %d.", where, key, strcmp(key, "max_items") == 0 ? CDI_MAX_ITEMS : CDI_MAX_BYTES);
		cdi_map_check(value, by_row ? row_rules : (CdiMapRules) {.names = names}, psprintf("%s.%s", where, key));
	}
}

static void
check_rate(const json_t *rate)
{
	static const char *const members[] = {"requests", "per", "burst", NULL};
	json_t	   *requests = json_object_get(rate, "requests");
	json_t	   *burst = json_object_get(rate, "burst");
	const char *per = cdi_json_string(rate, "per");
	int			value;

	if (rate == NULL)
		return;
	check_object(rate, members, "limits.rate");
	if (!json_is_integer(requests) || json_integer_value(requests) < 1 || json_integer_value(requests) > 1000000000)
		INVALID("limits.rate.requests must be a positive integer.");
	if (per == NULL || !parse_int(per, &value, GUC_UNIT_MS, NULL) || value < 1)
		INVALID("limits.rate.per must be a duration such as \"1min\".");
	if (burst && (!json_is_integer(burst) || json_integer_value(burst) < 1))
		INVALID("limits.rate.burst must be a positive integer.");
}

static void
check_action(const char *name, const json_t *action, CdiNames names)
{
	const CdiMapRules row_rules = {.row = true,.names = &names};
	static const char *const members[] = {"description", "reference", "unverified", "when", "ops", "map", "require",
		"nulls", "group_by", "list", "meta", "batch", "steps", "request", "response", "extract", "poll", "then", NULL};
	static const char *const expressions[] = {"group_by", "list", "meta"};
	char	   *where = psprintf("actions.%s", name);
	json_t	   *part;
	size_t		i;

	check_object(action, members, where);
	names.lists = json_object_get(action, "list") != NULL;
	names.steps = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	check_array_of_strings(json_object_get(action, "ops"), psprintf("%s.ops", where));
	if (json_array_size(json_object_get(action, "ops")) == 0)
		INVALID("%s: member \"ops\" must list some of insert, update and delete.", where);
	json_array_foreach(json_object_get(action, "ops"), i, part)
		if (strcmp(json_string_value(part), "insert") != 0 && strcmp(json_string_value(part), "update") != 0 &&
			strcmp(json_string_value(part), "delete") != 0)
			INVALID("%s.ops: unknown operation \"%s\".", where, json_string_value(part));
	if (json_object_get(action, "map") == NULL || json_object_get(action, "request") == NULL)
		INVALID("%s: members \"map\" and \"request\" are needed.", where);
	cdi_map_check(json_object_get(action, "map"), row_rules, psprintf("%s.map", where));
	if ((part = json_object_get(action, "require")) != NULL && !json_is_array(part))
		INVALID("%s.require must be an array of names and expressions.", where);
	json_array_foreach(json_object_get(action, "require"), i, part)
		if (json_is_object(part))
			cdi_map_check(part, row_rules, psprintf("%s.require[%d]", where, (int) i));
		else if (!json_is_string(part))
			INVALID("%s.require must be an array of names and expressions.", where);
		else if (json_object_get(json_object_get(action, "map"), json_string_value(part)) == NULL)
			INVALID("%s.require: the map has no member \"%s\".", where, json_string_value(part));
	for (int k = 0; k < lengthof(expressions); k++)
		if ((part = json_object_get(action, expressions[k])) != NULL)
			cdi_map_check(part, row_rules, psprintf("%s.%s", where, expressions[k]));
	if ((part = json_object_get(action, "nulls")) != NULL &&
		(!json_is_string(part) || (strcmp(json_string_value(part), "send") != 0 && strcmp(json_string_value(part), "omit") != 0)))
		INVALID("%s.nulls must be \"send\" or \"omit\".", where);
	if ((part = json_object_get(action, "when")) != NULL)
		cdi_map_check_condition(part, row_rules, psprintf("%s.when", where));
	if ((part = json_object_get(action, "batch")) != NULL)
		check_batch(part, &names, psprintf("%s.batch", where));
	if ((part = json_object_get(action, "steps")) != NULL)
		check_stages(part, &names, psprintf("%s.steps", where));
	check_request(json_object_get(action, "request"), &names, psprintf("%s.request", where));
	cdi_response_check(action, &names, where);
	json_object_set_new(names.steps, "main", json_true());
	if ((part = json_object_get(action, "then")) != NULL)
		check_stages(part, &names, psprintf("%s.then", where));
}

/* Variables and credentials are for every stage of every action. */
static json_t *
all_steps(const json_t *actions)
{
	json_t	   *steps = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	const char *name;
	json_t	   *action;

	json_object_foreach((json_t *) actions, name, action)
		for (int i = 0; i < cdi_action_stages(action); i++)
		{
			const char *stage = i == cdi_action_main_stage(action) ? "main" :
				cdi_json_string(cdi_action_stage(action, i), "name");

			if (stage != NULL)
				json_object_set_new(steps, stage, json_true());
		}
	return steps;
}

static void
check_spec(CdiSpec *spec)
{
	static const char *const members[] = {"$schema", "name", "version", "title", "description", "reference", "unverified",
		"settings", "vars", "egress", "auth", "limits", "default_action", "actions", "tests", NULL};
	static const char *const egress_members[] = {"allow_hosts", "setting", NULL};
	static const char *const limit_members[] = {"concurrency", "rate", NULL};
	json_t	   *root = spec->root;
	CdiNames	names = {0};
	const char *name;
	json_t	   *part;
	json_t	   *member;
	size_t		i;

	check_object(root, members, "specification");
	if (strcmp(required_string(root, "$schema", "specification"), "cdi-dest-1") != 0)
		INVALID("$schema must be \"cdi-dest-1\".");
	spec->name = required_string(root, "name", "specification");
	spec->version = required_string(root, "version", "specification");
	if ((part = json_object_get(root, "settings")) != NULL)
	{
		check_settings_schema(part);
		json_object_foreach(json_object_get(part, "properties"), name, member)
			if (json_object_get(member, "default") != NULL)
				check_setting(spec, name, member, json_object_get(member, "default"));
	}
	names.settings = json_object_get(json_object_get(root, "settings"), "properties");
	names.steps = all_steps(json_object_get(root, "actions"));
	if ((part = json_object_get(root, "vars")) != NULL)
	{
		if (!json_is_object(part))
			INVALID("vars must be an object of strings.");
		json_object_foreach(part, name, member)
		{
			if (!json_is_string(member))
				INVALID("vars.%s must be a string that uses no other variable.", name);
			cdi_map_check(member, (CdiMapRules) {.names = &names}, psprintf("vars.%s", name));
		}
	}
	else
		part = cdi_json_own(CurrentMemoryContext, cdi_json_object());
	names.vars = part;
	if ((part = json_object_get(root, "egress")) != NULL)
	{
		check_object(part, egress_members, "egress");
		check_array_of_strings(json_object_get(part, "allow_hosts"), "egress.allow_hosts");
		json_array_foreach(json_object_get(part, "allow_hosts"), i, member)
		{
			const char *host = json_string_value(member);

			if (strncmp(host, "*.", 2) == 0)
				host += 2;
			if (*host == '\0' || strpbrk(host, "*/@?# ") != NULL)
				INVALID("egress.allow_hosts: \"%s\" is no name of a host, nor \"*.\" before one.", json_string_value(member));
		}
		if ((member = json_object_get(part, "setting")) != NULL)
		{
			json_t	   *property = json_object_get(json_object_get(json_object_get(root, "settings"), "properties"),
												   required_string(part, "setting", "egress"));
			const char *type = cdi_json_string(property, "type");

			if (type == NULL || strcmp(type, "string") != 0 || json_object_get(property, "secret") != NULL)
				INVALID("egress.setting must name a setting that is a string and no secret.");
		}
	}
	if ((part = json_object_get(root, "limits")) != NULL)
	{
		check_object(part, limit_members, "limits");
		member = json_object_get(part, "concurrency");
		if (member && (!json_is_integer(member) || json_integer_value(member) < 1 || json_integer_value(member) > 256))
			INVALID("limits.concurrency must be an integer from 1 to 256.");
		check_rate(json_object_get(part, "rate"));
	}
	if ((part = json_object_get(root, "auth")) != NULL)
		cdi_auth_check(part, (CdiMapRules) {.secrets = true,.names = &names}, "auth");
	part = json_object_get(root, "actions");
	if (!json_is_object(part) || json_object_size(part) == 0)
		INVALID("actions must be an object with at least one action.");
	json_object_foreach(part, name, member)
		check_action(name, member, names);
	if ((member = json_object_get(root, "default_action")) != NULL &&
		(!json_is_string(member) || json_object_get(part, json_string_value(member)) == NULL))
		INVALID("default_action must name an action.");
	if ((part = json_object_get(root, "tests")) != NULL && !json_is_array(part))
		INVALID("tests must be an array.");
}

CdiSpec *
cdi_spec_load(MemoryContext parent, const char *text, bool tests)
{
	MemoryContext context = AllocSetContextCreate(parent, "cdi destination specification",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiSpec    *spec = palloc0(sizeof(CdiSpec));
	char	   *error = NULL;

	spec->context = context;
	spec->root = cdi_json_parse(context, text, strlen(text), &error);
	if (spec->root == NULL)
		INVALID("It is no JSON that can be used: %s.", error);
	check_spec(spec);
	MemoryContextSwitchTo(old);
	if (tests)
		cdi_spec_run_tests(spec);
	return spec;
}

json_t *
cdi_spec_action(const CdiSpec *spec, const char *action)
{
	return json_object_get(json_object_get(spec->root, "actions"), action);
}

const char *
cdi_spec_default_action(const CdiSpec *spec)
{
	const char *name = cdi_json_string(spec->root, "default_action");
	json_t	   *actions = json_object_get(spec->root, "actions");

	if (name == NULL && json_object_size(actions) == 1)
		name = json_object_iter_key(json_object_iter(actions));
	return name;
}

bool
cdi_action_serves(const json_t *action, const char *operation)
{
	json_t	   *served;
	size_t		i;

	json_array_foreach(json_object_get(action, "ops"), i, served)
		if (strcmp(json_string_value(served), operation) == 0)
			return true;
	return false;
}
