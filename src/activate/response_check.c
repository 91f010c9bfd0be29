/*
 * response_check.c
 *		Check how a specification reads answers: rules, what a stage takes from
 *		them, and until when it asks.
 */
#include "activate/activate.h"

#include "utils/guc.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

/* A path, or an expression */
static void
check_value(const json_t *node, CdiMapRules rules, const char *where)
{
	if (json_is_string(node))
		cdi_map_check_path(node, rules, where);
	else if (json_is_object(node))
		cdi_map_check(node, rules, where);
	else
		INVALID("%s must be a path or an expression.", where);
}

/* "$.a[*].b[*]": without the stars a path */
static void
check_each(const json_t *each, CdiMapRules rules, const char *where)
{
	json_t	   *one;
	size_t		i;

	if (json_is_array(each))
	{
		json_array_foreach(each, i, one)
			check_each(one, rules, where);
		return;
	}
	if (!json_is_string(each) || *json_string_value(each) != '$')
		INVALID("%s: each must be a path that begins with $, or an array of such.", where);
	{
		char	   *path = pstrdup(json_string_value(each));
		char	   *star;

		while ((star = strstr(path, "[*]")) != NULL)
			memmove(star, star + 3, strlen(star + 3) + 1);
		cdi_map_check_path(cdi_json_own(CurrentMemoryContext, json_string(path)), rules, psprintf("%s.each", where));
	}
}

static void
check_class(const json_t *node, bool of_rows, const char *where)
{
	CdiClass	class;

	if (!json_is_string(node) || !cdi_class_parse(json_string_value(node), &class))
		INVALID("%s: class must be ok, rejected, split, retryable, throttled or auth.", where);
	if (of_rows && (class == CDI_CLASS_SPLIT || class == CDI_CLASS_AUTH))
		INVALID("%s: class of rows must be ok, rejected, retryable or throttled.", where);
}

static void
check_rows(const json_t *rows, CdiMapRules rules, const char *where)
{
	CdiMapRules entry_rules = rules;
	const char *name;
	json_t	   *part;

	if (!json_is_object(rows) || json_object_get(rows, "each") == NULL)
		INVALID("%s: rows must be an object with a path \"each\", or an array of such.", where);
	entry_rules.row = true;
	json_object_foreach((json_t *) rows, name, part)
	{
		if (strcmp(name, "when") == 0)
			cdi_map_check_condition(part, entry_rules, psprintf("%s.when", where));
		else if (strcmp(name, "class") == 0)
			check_class(part, true, where);
		else if (strcmp(name, "each") == 0)
			check_each(part, rules, where);
		else if (strcmp(name, "index") == 0 || strcmp(name, "message") == 0 || strcmp(name, "array") == 0)
			check_value(part, entry_rules, psprintf("%s.%s", where, name));
		else if (strcmp(name, "match") == 0)
		{
			if (!json_is_object(part) || json_object_size(part) != 2)
				INVALID("%s: match must be an object of \"value\" and \"to\".", where);
			check_value(json_object_get(part, "value"), entry_rules, psprintf("%s.match.value", where));
			check_value(json_object_get(part, "to"), entry_rules, psprintf("%s.match.to", where));
		}
		else
			INVALID("%s: unknown member \"%s\" of rows.", where, name);
	}
	if (json_object_get(rows, "match") && (json_object_get(rows, "index") || json_object_get(rows, "array")))
		INVALID("%s: rows are known by \"match\" or by \"index\".", where);
}

static void
check_statuses(const json_t *statuses, const char *where)
{
	json_t	   *status;
	size_t		i;

	if (!json_is_array(statuses))
		INVALID("%s: status must be an array.", where);
	json_array_foreach(statuses, i, status)
	{
		const char *text = json_string_value(status);

		if (json_is_integer(status) && json_integer_value(status) >= 100 && json_integer_value(status) <= 599)
			continue;
		if (text && ((*text >= '1' && *text <= '5' && strcmp(text + 1, "xx") == 0) ||
					 strcmp(text, "network") == 0 || strcmp(text, "timeout") == 0 || strcmp(text, "refused") == 0))
			continue;
		INVALID("%s: a status is 100 to 599, \"1xx\" to \"5xx\", \"network\", \"timeout\" or \"refused\".", where);
	}
}

static void
check_retry_after(const json_t *sources, CdiMapRules rules, const char *where)
{
	json_t	   *source;
	size_t		i;

	if (!json_is_array(sources))
		INVALID("%s: retry_after must be an array of paths.", where);
	json_array_foreach(sources, i, source)
	{
		char	   *path = json_is_string(source) ? pstrdup(json_string_value(source)) : "";
		char	   *unit = strchr(path, '|');

		if (unit)
		{
			*unit++ = '\0';
			if (strcmp(unit, "ms") != 0 && strcmp(unit, "epoch") != 0)
				INVALID("%s: a time in retry_after is in seconds, or \"|ms\" or \"|epoch\".", where);
		}
		cdi_map_check_path(cdi_json_own(CurrentMemoryContext, json_string(path)), rules,
						   psprintf("%s.retry_after[%d]", where, (int) i));
	}
}

static void
check_rule(const json_t *rule, CdiMapRules rules, const char *where)
{
	const char *key;
	json_t	   *member;
	json_t	   *one;
	size_t		i;

	if (!json_is_object(rule))
		INVALID("%s must be an object.", where);
	check_class(json_object_get(rule, "class"), false, where);
	json_object_foreach((json_t *) rule, key, member)
	{
		if (strcmp(key, "class") == 0)
			continue;
		if (strcmp(key, "split") == 0)
		{
			if (!json_is_boolean(member))
				INVALID("%s: split must be true or false.", where);
		}
		else if (strcmp(key, "when") == 0)
			cdi_map_check_condition(member, rules, psprintf("%s.when", where));
		else if (strcmp(key, "status") == 0)
			check_statuses(member, where);
		else if (strcmp(key, "message") == 0 || strcmp(key, "failed") == 0 || strcmp(key, "accepted") == 0)
			check_value(member, rules, psprintf("%s.%s", where, key));
		else if (strcmp(key, "retry_after") == 0)
			check_retry_after(member, rules, where);
		else if (strcmp(key, "rows") == 0)
		{
			if (!json_is_array(member))
				check_rows(member, rules, where);
			json_array_foreach(member, i, one)
				check_rows(one, rules, where);
		}
		else
			INVALID("%s: unknown member \"%s\".", where, key);
	}
}

static bool
is_duration(const json_t *node, int unit, int most)
{
	int			value;

	return json_is_string(node) && parse_int(json_string_value(node), &value, unit, NULL) && value >= 1 && value <= most;
}

static void
check_poll(const json_t *poll, CdiMapRules rules, const char *where)
{
	const char *key;
	json_t	   *member;

	if (!json_is_object(poll) || !is_duration(json_object_get(poll, "every"), GUC_UNIT_MS, 3600 * 1000))
		INVALID("%s.every must be a duration such as \"30s\", at most an hour.", where);
	cdi_map_check_condition(json_object_get(poll, "until"), rules, psprintf("%s.until", where));
	json_object_foreach((json_t *) poll, key, member)
	{
		if (strcmp(key, "limit") == 0 ? !is_duration(member, GUC_UNIT_S, 7 * 24 * 3600) :
			strcmp(key, "every") != 0 && strcmp(key, "until") != 0)
			INVALID("%s: \"%s\" is not known, or no duration of at most a week.", where, key);
	}
}

void
cdi_response_check(const json_t *stage, const CdiNames *names, const char *where)
{
	const CdiMapRules rules = {.answer = true,.names = names};
	json_t	   *response = json_object_get(stage, "response");
	json_t	   *list = json_object_get(response, "rules");
	json_t	   *extract = json_object_get(stage, "extract");
	json_t	   *poll = json_object_get(stage, "poll");
	const char *key;
	json_t	   *member;
	json_t	   *rule;
	size_t		i;

	if (response != NULL)
	{
		if (!json_is_object(response) || !json_is_array(list))
			INVALID("%s.response must be an object with an array \"rules\".", where);
		json_object_foreach(response, key, member)
		{
			const char *text = json_string_value(member);

			if (strcmp(key, "rules") != 0 &&
				!(strcmp(key, "format") == 0 && text && (strcmp(text, "json") == 0 || strcmp(text, "csv") == 0)))
				INVALID("%s.response: \"%s\" is not known, or not \"json\" or \"csv\".", where, key);
		}
		json_array_foreach(list, i, rule)
			check_rule(rule, rules, psprintf("%s.response.rules[%d]", where, (int) i));
	}
	if (extract != NULL)
	{
		if (!json_is_object(extract))
			INVALID("%s.extract must be an object of expressions.", where);
		cdi_map_check(extract, rules, psprintf("%s.extract", where));
	}
	if (poll != NULL)
		check_poll(poll, rules, psprintf("%s.poll", where));
}
