/*
 * map_check.c
 *		Check a mapping when its specification is installed: every directive,
 *		path, function and argument, so that a row cannot meet a mistake.
 */
#include "activate/activate.h"

#include "miscadmin.h"

#include "base/errors.h"

#define INVALID(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail(__VA_ARGS__)))

#define UNDECLARED(detail, hint) \
	ereport(ERROR, \
			(errcode(ERRCODE_CDI_INVALID_SPEC), \
			 errmsg("destination specification is not valid"), \
			 errdetail("%s", detail), \
			 errhint("%s A text that is no path is written {\"@literal\": \"text\"}.", hint)))

static char *
there_are(const json_t *object)
{
	StringInfoData out;
	const char *name;
	json_t	   *member;

	if (json_object_size(object) == 0)
		return "There are none.";
	initStringInfo(&out);
	json_object_foreach((json_t *) object, name, member)
		appendStringInfo(&out, "%s%s", out.len ? ", " : "There are: ", name);
	appendStringInfoChar(&out, '.');
	return out.data;
}

/*
 * A name that nobody declares would be nothing at all when a request is made,
 * such as a header without its token.
 */
static void
check_name(const CdiNames *names, const char *root, const char *name, const char *where)
{
	const json_t *setting = json_object_get(names->settings, name);
	const json_t *secret = json_object_get(setting, "secret");

	if (strcmp(root, "vars") == 0 && names->vars == NULL)
		INVALID("%s must be a string that uses no other variable.", where);
	if (strcmp(root, "vars") == 0 && json_object_get(names->vars, name) == NULL)
		UNDECLARED(psprintf("%s: there is no variable \"%s\" in vars.", where, name), there_are(names->vars));
	if (strcmp(root, "step") == 0 && json_object_get(names->steps, name) == NULL)
		UNDECLARED(psprintf("%s: there is no step \"%s\" before this.", where, name), there_are(names->steps));
	if (strcmp(root, "settings") == 0 && setting == NULL)
		UNDECLARED(psprintf("%s: there is no setting \"%s\".", where, name), there_are(names->settings));
	if (strcmp(root, "settings") == 0 && json_is_true(secret))
		INVALID("%s: setting \"%s\" is a secret, and read as secret.%s.", where, name, name);
	if (strcmp(root, "secret") == 0 && secret == NULL)
		UNDECLARED(psprintf("%s: there is no setting \"%s\" that is a secret.", where, name),
				   "A setting is one where its property has \"secret\": true.");
}

/* One step of a path: .name, ["name"] or [0].  Its name, or NULL where it is a number; advances *at. */
static char *
check_step(const char **at, const char *path, const char *where)
{
	const char *step = *at + 1;
	size_t		len;
	bool		ok;

	if (**at == '.')
	{
		len = strcspn(step, ".[");
		if (len == 0)
			INVALID("%s: path \"%s\" has an empty name.", where, path);
		*at = step + len;
		return pnstrdup(step, len);
	}
	if (*step == '"' || *step == '\'')
	{
		len = 1 + strcspn(step + 1, *step == '"' ? "\"" : "'");
		ok = step[len] == *step && step[len + 1] == ']';
		len++;
	}
	else
	{
		len = strspn(step, "0123456789");
		ok = len > 0 && len < 9 && step[len] == ']';
	}
	if (!ok)
		INVALID("%s: path \"%s\" has a malformed index.", where, path);
	*at = step + len + 1;
	if (**at != '\0' && **at != '.' && **at != '[')
		INVALID("%s: path \"%s\" is malformed.", where, path);
	return *step == '"' || *step == '\'' ? pnstrdup(step + 1, len - 2) : NULL;
}

static void
add_column(CdiColumns *columns, char *name)
{
	if (name == NULL)
	{
		columns->all = true;
		return;
	}
	for (int i = 0; i < columns->n; i++)
		if (strcmp(columns->names[i], name) == 0)
			return;
	columns->names = columns->names ? repalloc(columns->names, sizeof(char *) * (columns->n + 1)) : palloc(sizeof(char *));
	columns->names[columns->n++] = name;
}

static void check_template(const char *text, CdiMapRules rules, const char *where);

static void
check_path(const char *path, size_t len, CdiMapRules rules, const char *where)
{
	static const struct
	{
		const char *name;
		char		where;		/* e element, q request, a answer, * anywhere */
		int			steps;		/* names that follow; -1: any number of names and indexes */
		const char *members;	/* names that there are, or NULL */
	}			roots[] = {
		{"$", '*', -1}, {"@", 'e', -1}, {"settings", '*', -1}, {"vars", '*', 1}, {"secret", '*', -1},
		{"item", '*', 1, "operation primary_key key"}, {"batch", '*', 1, "key size group"}, {"now", '*', 0},
		{"status", '*', 0}, {"mapped", 'q', -1}, {"meta", 'q', -1}, {"step", 'q', -1},
		{"header", 'a', 1}, {"text", 'a', 0}, {"key", 'a', 0},
	};
	char	   *text = pnstrdup(path, len);
	size_t		root_len = strcspn(text, ".[");
	char	   *root = pnstrdup(text, root_len);
	const char *at = text + root_len;
	char	   *first = NULL;
	int			nsteps = 0;
	int			found = -1;

	for (int i = 0; i < lengthof(roots); i++)
		if (strcmp(roots[i].name, root) == 0)
			found = i;
	if (found < 0)
		INVALID("%s: path \"%s\" must begin with $, @, settings, vars, secret, item, mapped, meta, step, batch, now, status, header, text or key.", where, text);
	if (rules.sync && strcmp(root, "$") != 0 && strcmp(root, "@") != 0 && strcmp(root, "now") != 0 &&
		strcmp(text, "item.primary_key") != 0)
		INVALID("%s: path \"%s\" is not known yet where a sync maps a row: $, @, now and item.primary_key are.", where, text);
	if (strcmp(root, "secret") == 0 && !rules.secrets)
		INVALID("%s: secrets can be used in \"auth\" and \"request\" only.", where);
	if (roots[found].where == 'e' && !rules.row && !rules.element)
		INVALID("%s: path \"%s\" needs a row, and a request has many.", where, text);
	if (roots[found].where == 'q' && rules.row && !rules.answer)
		INVALID("%s: path \"%s\" can be used where a request is made or its answer read.", where, text);
	if (roots[found].where == 'a' && !rules.answer)
		INVALID("%s: path \"%s\" can be used where an answer is read only.", where, text);
	for (; *at != '\0'; nsteps++)
	{
		char	   *name = check_step(&at, text, where);

		if (nsteps == 0)
			first = name;
	}
	if (roots[found].steps == 0 && nsteps > 0)
		INVALID("%s: path \"%s\" goes on, and there is nothing below %s.", where, text, root);
	if (roots[found].steps == 1 && (nsteps != 1 || first == NULL))
		INVALID("%s: path \"%s\" must be %s and one name.", where, text, root);
	if (roots[found].members &&
		(strchr(first, ' ') || !strstr(psprintf(" %s ", roots[found].members), psprintf(" %s ", first))))
		UNDECLARED(psprintf("%s: path \"%s\" is not known.", where, text),
				   psprintf("Below %s there are: %s.", root, roots[found].members));
	if (rules.names && first)
		check_name(rules.names, root, first, where);
	if (rules.columns && strcmp(root, "now") == 0)
		rules.columns->clock = true;
	if (rules.columns && strcmp(root, "$") == 0 && !rules.answer)
		add_column(rules.columns, first);
	if (rules.columns && strcmp(root, "vars") == 0)
	{
		const char *template = json_string_value(json_object_get(rules.columns->vars, first));

		if (template != NULL)
			check_template(template, (CdiMapRules) {.columns = rules.columns}, where);
	}
}

void
cdi_map_check_path(const json_t *path, CdiMapRules rules, const char *where)
{
	if (!json_is_string(path))
		INVALID("%s must be a path.", where);
	check_path(json_string_value(path), json_string_length(path), rules, where);
}

static void
check_template(const char *text, CdiMapRules rules, const char *where)
{
	const char *open;

	while ((open = strstr(text, "{{")) != NULL)
	{
		const char *close = strstr(open, "}}");
		char	   *inner;
		char	   *save = NULL;
		char	   *part;

		if (close == NULL)
			INVALID("%s: \"{{\" without \"}}\".", where);
		inner = pnstrdup(open + 2, close - open - 2);
		part = strtok_r(inner, "| ", &save);
		if (part == NULL)
			INVALID("%s: empty \"{{}}\".", where);
		check_path(part, strlen(part), rules, where);
		while ((part = strtok_r(NULL, "| ", &save)) != NULL)
		{
			const CdiMapFunction *function = cdi_map_function(part, strlen(part));

			if (function == NULL)
				INVALID("%s: there is no function \"%s\".", where, part);
			if (function->min_args > 0)
				INVALID("%s: function \"%s\" needs arguments; use @pipe.", where, part);
		}
		text = close + 2;
	}
}

static void
check_uuid(const char *text, const char *where)
{
	int			digits = 0;

	for (const char *c = text; *c; c++)
		digits += *c != '-';
	if (digits != 32 || strlen(text) != 36 || text[strspn(text, "0123456789abcdefABCDEF-")] != '\0' ||
		text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-')
		INVALID("%s: the name space of uuid5 must be a UUID.", where);
}

static void
check_format(const char *text, const char *where)
{
	for (const char *at = text; (at = strchr(at, '%')) != NULL; at += 2)
		if (at[1] == '\0' || strchr("YmdHMS%", at[1]) == NULL)
			INVALID("%s: format_time knows %%Y, %%m, %%d, %%H, %%M, %%S and %%%%.", where);
}

/* name with arguments from the given index of call on */
static void
check_call(const json_t *name, const json_t *call, int first, const char *where)
{
	const CdiMapFunction *function;
	int			nargs = call ? (int) json_array_size(call) - first : 0;

	if (!json_is_string(name))
		INVALID("%s: a function is called by its name, or by an array of name and arguments.", where);
	function = cdi_map_function(json_string_value(name), json_string_length(name));
	if (function == NULL)
		INVALID("%s: there is no function \"%s\".", where, json_string_value(name));
	if (nargs < function->min_args || nargs > function->max_args)
		INVALID("%s: function \"%s\" takes %d to %d arguments, not %d.", where, function->name,
				function->min_args, function->max_args, nargs);
	for (int i = 0; i < nargs; i++)
	{
		json_t	   *argument = json_array_get(call, first + i);

		if (function->kinds[0] == '*' ? !json_is_string(argument) :
			function->kinds[i] == 's' ? !json_is_string(argument) : !json_is_integer(argument))
			INVALID("%s: argument %d of function \"%s\" must be %s.", where, i + 1, function->name,
					function->kinds[0] == '*' || function->kinds[i] == 's' ? "a string" : "an integer");
		if (i == 0 && strcmp(function->name, "extract") == 0)
			cdi_map_check_regex(json_string_value(argument), where);
		if (i == 0 && strcmp(function->name, "uuid5") == 0)
			check_uuid(json_string_value(argument), where);
		if (i == 0 && strcmp(function->name, "format_time") == 0)
			check_format(json_string_value(argument), where);
		if (i == 0 && strcmp(function->name, "e164") == 0)
		{
			const char *code = json_string_value(argument);

			if (strlen(code) < 1 || strlen(code) > 3 || code[strspn(code, "0123456789")] != '\0' || *code == '0')
				INVALID("%s: the country of e164 must be a calling code such as \"49\".", where);
		}
		if (strncmp(function->name, "truncate", 8) == 0 && json_integer_value(argument) < 0)
			INVALID("%s: argument 1 of function \"%s\" must not be negative.", where, function->name);
		if (json_is_integer(argument) && llabs(json_integer_value(argument)) > 1000000)
			INVALID("%s: argument %d of function \"%s\" is out of range.", where, i + 1, function->name);
	}
}

static void
check_members(const json_t *node, const char *const *names, int required, const char *where)
{
	const char *key;
	json_t	   *member;

	if (!json_is_object(node))
		INVALID("%s must be an object.", where);
	json_object_foreach((json_t *) node, key, member)
	{
		bool		known = false;

		for (int i = 0; names[i] != NULL; i++)
			known |= strcmp(names[i], key) == 0;
		if (!known)
			INVALID("%s: unknown member \"%s\".", where, key);
	}
	for (int i = 0; i < required; i++)
		if (json_object_get(node, names[i]) == NULL)
			INVALID("%s: member \"%s\" is missing.", where, names[i]);
}

static void
check_directive(const char *name, const json_t *argument, CdiMapRules rules, const char *where)
{
	json_t	   *part;
	size_t		i;
	const char *key;

	if (strcmp(name, "@path") == 0 || strcmp(name, "@template") == 0)
	{
		if (!json_is_string(argument))
			INVALID("%s must be a string.", where);
		if (name[1] == 'p')
			cdi_map_check_path(argument, rules, where);
		else
			check_template(json_string_value(argument), rules, where);
	}
	else if (strcmp(name, "@literal") == 0)
		return;
	else if (strcmp(name, "@first") == 0 || strcmp(name, "@merge") == 0)
	{
		if (!json_is_array(argument) || json_array_size(argument) == 0)
			INVALID("%s must be an array.", where);
		cdi_map_check(argument, rules, where);
	}
	else if (strcmp(name, "@pipe") == 0)
	{
		if (!json_is_array(argument) || json_array_size(argument) < 2)
			INVALID("%s must be an array of a value and functions.", where);
		cdi_map_check(json_array_get(argument, 0), rules, psprintf("%s[0]", where));
		for (i = 1; i < json_array_size(argument); i++)
		{
			part = json_array_get(argument, i);
			if (json_is_array(part))
				check_call(json_array_get(part, 0), part, 1, where);
			else
				check_call(part, NULL, 0, where);
		}
	}
	else if (strcmp(name, "@fn") == 0)
	{
		if (!json_is_array(argument) || json_array_size(argument) < 2)
			INVALID("%s must be an array of a function, a value and arguments.", where);
		check_call(json_array_get(argument, 0), argument, 2, where);
		cdi_map_check(json_array_get(argument, 1), rules, psprintf("%s[1]", where));
	}
	else if (strcmp(name, "@case") == 0)
	{
		static const char *const members[] = {"in", "of", "else", NULL};

		check_members(argument, members, 2, where);
		cdi_map_check(json_object_get(argument, "in"), rules, psprintf("%s.in", where));
		if (!json_is_object(json_object_get(argument, "of")))
			INVALID("%s: \"of\" must be an object.", where);
		json_object_foreach(json_object_get(argument, "of"), key, part)
			cdi_map_check(part, rules, psprintf("%s.of.%s", where, key));
		if ((part = json_object_get(argument, "else")) != NULL)
			cdi_map_check(part, rules, psprintf("%s.else", where));
	}
	else if (strcmp(name, "@if") == 0)
	{
		static const char *const members[] = {"condition", "then", "else", NULL};

		check_members(argument, members, 2, where);
		cdi_map_check_condition(json_object_get(argument, "condition"), rules, psprintf("%s.condition", where));
		cdi_map_check(json_object_get(argument, "then"), rules, psprintf("%s.then", where));
		if ((part = json_object_get(argument, "else")) != NULL)
			cdi_map_check(part, rules, psprintf("%s.else", where));
	}
	else if (strcmp(name, "@each") == 0)
	{
		static const char *const members[] = {"in", "map", NULL};

		check_members(argument, members, 2, where);
		cdi_map_check_path(json_object_get(argument, "in"), rules, psprintf("%s.in", where));
		rules.element = true;
		cdi_map_check(json_object_get(argument, "map"), rules, psprintf("%s.map", where));
	}
	else if (strcmp(name, "@member") == 0)
	{
		if (!json_is_array(argument) || json_array_size(argument) != 2)
			INVALID("%s must be an array of an object and the name of its member.", where);
		cdi_map_check(argument, rules, where);
	}
	else if (strcmp(name, "@items") == 0 || strcmp(name, "@item") == 0 || strcmp(name, "@column") == 0)
	{
		if (!rules.items)
			INVALID("%s can be used in the address and the body of a request only.", where);
		if (strcmp(name, "@item") == 0 ? !json_is_true(argument) : !json_is_string(argument))
			INVALID("%s must be %s.", where, strcmp(name, "@item") == 0 ? "true" : "a name");
		if (strcmp(name, "@items") == 0 && strcmp(json_string_value(argument), "*") != 0 &&
			rules.names && !rules.names->lists)
			INVALID("%s: no item goes to list \"%s\", as the action has no member \"list\".", where,
					json_string_value(argument));
	}
	else if (strcmp(name, "@rows") == 0)
	{
		if (!rules.items)
			INVALID("%s can be used in the body of a request only.", where);
		if (!json_is_array(argument) || json_array_size(argument) == 0)
			INVALID("%s must be an array of names.", where);
		json_array_foreach(argument, i, part)
			if (!json_is_string(part))
				INVALID("%s must be an array of names.", where);
	}
	else
		INVALID("%s: unknown directive \"%s\".", where, name);
}

void
cdi_map_check(const json_t *node, CdiMapRules rules, const char *where)
{
	const char *key;
	json_t	   *member;
	size_t		i;

	check_stack_depth();
	if (json_is_string(node))
		check_template(json_string_value(node), rules, where);
	json_array_foreach(node, i, member)
		cdi_map_check(member, rules, psprintf("%s[%d]", where, (int) i));
	json_object_foreach((json_t *) node, key, member)
	{
		char	   *inner = psprintf("%s.%s", where, key);

		if (strcmp(key, "@omit") == 0)
		{
			json_t	   *what;

			if (!json_is_array(member))
				INVALID("%s must be an array of \"null\" and \"empty\".", inner);
			json_array_foreach(member, i, what)
				if (!json_is_string(what) ||
					(strcmp(json_string_value(what), "null") != 0 && strcmp(json_string_value(what), "empty") != 0))
					INVALID("%s must be an array of \"null\" and \"empty\".", inner);
		}
		else if (*key == '@')
		{
			if (json_object_size(node) > 1)
				INVALID("%s: a directive stands alone in its object.", inner);
			check_directive(key, member, rules, inner);
		}
		else
			cdi_map_check(member, rules, inner);
	}
}

static void
check_operand(const json_t *node, CdiMapRules rules, const char *where)
{
	if (json_is_string(node) && cdi_map_names_root(json_string_value(node)))
		cdi_map_check_path(node, rules, where);
	else
		cdi_map_check(node, rules, where);
}

void
cdi_map_check_condition(const json_t *condition, CdiMapRules rules, const char *where)
{
	const char *name = json_object_iter_key(json_object_iter((json_t *) condition));
	json_t	   *value = name ? json_object_get(condition, name) : NULL;
	char	   *inner = psprintf("%s.%s", where, name ? name : "");
	json_t	   *part;
	size_t		i;

	check_stack_depth();
	if (name == NULL || json_object_size(condition) != 1)
		INVALID("%s: a condition is an object of one member: all, any, not, exists, empty, eq, ne, lt, gt, in or matches.", where);
	if (strcmp(name, "all") == 0 || strcmp(name, "any") == 0)
	{
		if (!json_is_array(value))
			INVALID("%s: \"%s\" must be an array of conditions.", where, name);
		json_array_foreach(value, i, part)
			cdi_map_check_condition(part, rules, psprintf("%s[%d]", inner, (int) i));
	}
	else if (strcmp(name, "not") == 0)
		cdi_map_check_condition(value, rules, inner);
	else if (strcmp(name, "exists") == 0 || strcmp(name, "empty") == 0)
		cdi_map_check_path(value, rules, inner);
	else if (strcmp(name, "in") == 0)
	{
		if (!json_is_array(value) || json_array_size(value) != 2 || !json_is_array(json_array_get(value, 1)))
			INVALID("%s: \"in\" must be an array of a value and an array of values.", where);
		check_operand(json_array_get(value, 0), rules, psprintf("%s[0]", inner));
		cdi_map_check(json_array_get(value, 1), rules, psprintf("%s[1]", inner));
	}
	else if (strcmp(name, "matches") == 0)
	{
		if (!json_is_array(value) || json_array_size(value) != 2 || !json_is_string(json_array_get(value, 1)))
			INVALID("%s: \"matches\" must be an array of a value and a regular expression.", where);
		check_operand(json_array_get(value, 0), rules, psprintf("%s[0]", inner));
		cdi_map_check_regex(json_string_value(json_array_get(value, 1)), psprintf("%s[1]", inner));
	}
	else if (strcmp(name, "eq") == 0 || strcmp(name, "ne") == 0 || strcmp(name, "lt") == 0 || strcmp(name, "gt") == 0)
	{
		if (!json_is_array(value) || json_array_size(value) != 2)
			INVALID("%s: \"%s\" must be an array of two values.", where, name);
		json_array_foreach(value, i, part)
			check_operand(part, rules, psprintf("%s[%d]", inner, (int) i));
	}
	else
		INVALID("%s: unknown condition \"%s\".", where, name);
}
