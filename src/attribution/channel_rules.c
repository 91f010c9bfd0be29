/*
 * channel_rules.c
 *		Conditions of channel rules, compiled and evaluated.
 *
 * A condition is a JSON object.  Its members are fields with a test, or "all",
 * "any" and "not" with conditions; all of them must hold.
 *
 *		{"source_site": "search", "medium": {"matches": "^(.*cp.*|ppc)$"}}
 *		{"any": [{"source": ["sms", "text"]}, {"medium": "sms"}]}
 *
 * Values are compared in lower case (ASCII) and without spaces around them;
 * what is then empty is absent, and a null in a test asks for that.  Regular
 * expressions are the server's, ignore case and match anywhere unless they
 * have anchors.
 *
 * What a rule looks at is computed once per evaluation, when first asked for,
 * and so is what a regular expression says that several rules share.
 */
#include "attribution/channels.h"

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "base/scan.h"

typedef enum CdiConditionKind
{
	CONDITION_ALL,
	CONDITION_ANY,
	CONDITION_NOT,
	CONDITION_IS,				/* is one of values, of which one may be absent */
	CONDITION_CONTAINS,
	CONDITION_STARTS,
	CONDITION_ENDS,
	CONDITION_MATCHES
} CdiConditionKind;

/* A regular expression over a field; all conditions with the same share it. */
typedef struct CdiPattern
{
	struct CdiPattern *next;
	CdiChannelField field;
	CdiText		text;
	regex_t		regex;
	uint64		evaluation;		/* the one that result is of */
	bool		result;
} CdiPattern;

struct CdiCondition
{
	CdiConditionKind kind;
	CdiChannelField field;
	int			count;
	CdiCondition **parts;
	CdiText    *values;
	CdiPattern *pattern;
};

static const char *const field_names[CDI_CHANNEL_FIELDS] = {
	"source", "medium", "click_id", "referrer", "page", "campaign", "term", "content",
	"source_site", "referrer_site"
};

typedef struct Compiler
{
	CdiChannelRules *rules;
	int			number;			/* of the rule, as its author counts */
	StringInfoData path;		/* where in it we are */
} Compiler;

static CdiCondition *compile(Compiler *compiler, JsonbContainer *object);

static void
complain(Compiler *compiler, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_INVALID_CHANNEL_RULE),
			 errmsg("channel rule %d cannot be used", compiler->number),
			 errdetail("%s: %s", compiler->path.data, problem),
			 hint ? errhint("%s", hint) : 0));
}

/* Go down to a member; the result is what leave() goes back to. */
static int
enter(Compiler *compiler, CdiText member)
{
	int			len = compiler->path.len;

	appendStringInfo(&compiler->path, ".%.*s", member.len, member.data);
	return len;
}

static void
leave(Compiler *compiler, int len)
{
	compiler->path.len = len;
	compiler->path.data[len] = '\0';
}

/* In lower case and without spaces around it; NULL where nothing is left. */
static CdiText
fold(CdiText text)
{
	CdiText		folded = {NULL, 0};
	char	   *copy;

	while (text.len > 0 && text.data[0] == ' ')
		text.data++, text.len--;
	while (text.len > 0 && text.data[text.len - 1] == ' ')
		text.len--;
	if (text.len == 0)
		return folded;
	folded.data = copy = palloc((Size) text.len + 1);
	folded.len = text.len;
	for (int i = 0; i < text.len; i++)
		copy[i] = pg_ascii_tolower((unsigned char) text.data[i]);
	copy[text.len] = '\0';
	return folded;
}

static CdiText
json_text(const JsonbValue *value)
{
	return (CdiText) {value->val.string.val, value->val.string.len};
}

static CdiCondition *
new_condition(CdiConditionKind kind, CdiChannelField field, int space)
{
	CdiCondition *condition = palloc0(sizeof(CdiCondition));

	condition->kind = kind;
	condition->field = field;
	condition->parts = palloc(sizeof(CdiCondition *) * Max(space, 1));
	condition->values = palloc(sizeof(CdiText) * Max(space, 1));
	return condition;
}

static void
add_value(Compiler *compiler, CdiCondition *condition, const JsonbValue *value)
{
	CdiText		text = {NULL, 0};
	bool		is_site = condition->field >= CDI_CHANNEL_ARGUMENTS;

	if (value->type == jbvString)
	{
		text = fold(json_text(value));
		if (text.data == NULL)
			complain(compiler, "an empty text is never found", "null stands for a field that is absent or empty.");
		if (is_site && condition->kind == CONDITION_IS && !cdi_site_kind_exists(&compiler->rules->sites, text))
			complain(compiler, psprintf("there is no kind of site \"%.*s\"", text.len, text.data),
					 "Kinds are those of cdi.channel_sites, and other. cdi_set_channel_site() adds a site of another kind.");
	}
	else if (value->type != jbvNull || condition->kind != CONDITION_IS)
		complain(compiler, condition->kind == CONDITION_IS ?
				 "must be a text, null, or a list of these" : "must be a text or a list of texts", NULL);
	condition->values[condition->count++] = text;
}

/* A text, a list of texts, and for CONDITION_IS null */
static CdiCondition *
compile_values(Compiler *compiler, CdiConditionKind kind, CdiChannelField field, const JsonbValue *value)
{
	CdiCondition *condition;
	JsonbContainer *list;

	if (value->type != jbvBinary)
	{
		condition = new_condition(kind, field, 1);
		add_value(compiler, condition, value);
		return condition;
	}
	list = value->val.binary.data;
	if (!JsonContainerIsArray(list))
		complain(compiler, "must be a text or a list of texts", NULL);
	if (JsonContainerSize(list) == 0)
		complain(compiler, "the list is empty", "A condition that never holds needs no rule.");
	condition = new_condition(kind, field, JsonContainerSize(list));
	for (int i = 0; i < JsonContainerSize(list); i++)
		add_value(compiler, condition, getIthJsonbValueFromContainer(list, i));
	return condition;
}

static void
free_pattern(void *pattern)
{
	pg_regfree(&((CdiPattern *) pattern)->regex);
}

static CdiCondition *
compile_pattern(Compiler *compiler, CdiChannelField field, const JsonbValue *value)
{
	CdiChannelRules *rules = compiler->rules;
	CdiCondition *condition = new_condition(CONDITION_MATCHES, field, 0);
	CdiText		text;
	CdiPattern *pattern;
	MemoryContextCallback *callback;
	pg_wchar   *wide;
	int			len;
	int			code;

	if (value->type != jbvString)
		complain(compiler, "must be a text with a regular expression", NULL);
	text = json_text(value);
	for (pattern = rules->patterns; pattern; pattern = pattern->next)
		if (pattern->field == field && pattern->text.len == text.len &&
			memcmp(pattern->text.data, text.data, text.len) == 0)
			break;
	if (pattern == NULL)
	{
		pattern = palloc0(sizeof(CdiPattern));
		pattern->field = field;
		pattern->text.data = pnstrdup(text.data, text.len);
		pattern->text.len = text.len;
		callback = palloc(sizeof(MemoryContextCallback));
		wide = palloc(sizeof(pg_wchar) * ((Size) text.len + 1));
		len = pg_mb2wchar_with_len(text.data, wide, text.len);
		code = pg_regcomp(&pattern->regex, wide, len, REG_ADVANCED | REG_ICASE | REG_NOSUB, DEFAULT_COLLATION_OID);
		pfree(wide);
		if (code != REG_OKAY)
		{
			char		message[100];

			pg_regerror(code, &pattern->regex, message, sizeof(message));
			complain(compiler, psprintf("invalid regular expression: %s", message), NULL);
		}
		callback->func = free_pattern;
		callback->arg = pattern;
		MemoryContextRegisterResetCallback(rules->context, callback);
		pattern->next = rules->patterns;
		rules->patterns = pattern;
	}
	condition->pattern = pattern;
	return condition;
}

/* One or several conditions of which all must hold */
static CdiCondition *
conjunction(CdiCondition *all)
{
	return all->count == 1 ? all->parts[0] : all;
}

/* An object of tests of one field: {"matches": ..., "contains": ...} */
static CdiCondition *
compile_tests(Compiler *compiler, CdiChannelField field, JsonbContainer *tests)
{
	CdiCondition *all = new_condition(CONDITION_ALL, field, JsonContainerSize(tests));
	JsonbIterator *iterator = JsonbIteratorInit(tests);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	if (JsonContainerSize(tests) == 0)
		complain(compiler, "has no test", NULL);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		CdiText		name = json_text(&key);
		CdiCondition *part;
		int			len;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		len = enter(compiler, name);
		if (cdi_text_is(name, "is"))
			part = compile_values(compiler, CONDITION_IS, field, &value);
		else if (cdi_text_is(name, "contains"))
			part = compile_values(compiler, CONDITION_CONTAINS, field, &value);
		else if (cdi_text_is(name, "starts_with"))
			part = compile_values(compiler, CONDITION_STARTS, field, &value);
		else if (cdi_text_is(name, "ends_with"))
			part = compile_values(compiler, CONDITION_ENDS, field, &value);
		else if (cdi_text_is(name, "matches"))
			part = compile_pattern(compiler, field, &value);
		else
		{
			complain(compiler, "there is no such test", "Tests are is, contains, starts_with, ends_with and matches.");
			continue;			/* not reached */
		}
		all->parts[all->count++] = part;
		leave(compiler, len);
	}
	return conjunction(all);
}

/* The conditions of "all" and "any" */
static CdiCondition *
compile_list(Compiler *compiler, CdiConditionKind kind, const JsonbValue *value)
{
	CdiCondition *list;
	JsonbContainer *array;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		complain(compiler, "must be a list of conditions", NULL);
	array = value->val.binary.data;
	if (JsonContainerSize(array) == 0)
		complain(compiler, "the list is empty", NULL);
	list = new_condition(kind, 0, JsonContainerSize(array));
	for (int i = 0; i < JsonContainerSize(array); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);
		int			len = compiler->path.len;

		appendStringInfo(&compiler->path, "[%d]", i);
		if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
			complain(compiler, "must be an object", NULL);
		list->parts[list->count++] = compile(compiler, element->val.binary.data);
		leave(compiler, len);
	}
	return list;
}

static CdiCondition *
compile_field(Compiler *compiler, CdiText name, const JsonbValue *value)
{
	for (int field = 0; field < CDI_CHANNEL_FIELDS; field++)
		if (cdi_text_is(name, field_names[field]))
		{
			compiler->rules->arguments |= field < CDI_CHANNEL_ARGUMENTS ? 1 << field :
				field == CDI_FIELD_SOURCE_SITE ? 1 << CDI_FIELD_SOURCE : 1 << CDI_FIELD_REFERRER;
			if (field == CDI_FIELD_REFERRER || field == CDI_FIELD_REFERRER_SITE)
				compiler->rules->arguments |= 1 << CDI_FIELD_PAGE;
			if (value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data))
				return compile_tests(compiler, field, value->val.binary.data);
			return compile_values(compiler, CONDITION_IS, field, value);
		}
	complain(compiler, "there is no such field",
			 "Fields are source, medium, campaign, term, content, click_id, referrer, page, source_site and referrer_site; all, any and not combine conditions.");
	return NULL;				/* not reached */
}

static CdiCondition *
compile(Compiler *compiler, JsonbContainer *object)
{
	CdiCondition *all = new_condition(CONDITION_ALL, 0, JsonContainerSize(object));
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	check_stack_depth();
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		CdiText		name = json_text(&key);
		CdiCondition *part;
		int			len;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		len = enter(compiler, name);
		if (cdi_text_is(name, "all"))
			part = compile_list(compiler, CONDITION_ALL, &value);
		else if (cdi_text_is(name, "any"))
			part = compile_list(compiler, CONDITION_ANY, &value);
		else if (cdi_text_is(name, "not"))
		{
			if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
				complain(compiler, "must be an object", NULL);
			part = new_condition(CONDITION_NOT, 0, 1);
			part->parts[part->count++] = compile(compiler, value.val.binary.data);
		}
		else
			part = compile_field(compiler, name, &value);
		all->parts[all->count++] = part;
		leave(compiler, len);
	}
	return conjunction(all);
}

CdiCondition *
cdi_channel_compile(CdiChannelRules *rules, int number, Jsonb *condition)
{
	Compiler	compiler = {.rules = rules, .number = number};

	initStringInfo(&compiler.path);
	appendStringInfoString(&compiler.path, "when");
	if (!JB_ROOT_IS_OBJECT(condition))
		complain(&compiler, "must be an object", NULL);
	return compile(&compiler, &condition->root);
}

/* What is known of one event, as far as a rule has asked. */
typedef struct Facts
{
	CdiChannelRules *rules;
	const CdiText *arguments;
	uint32		known;			/* bits of the fields below */
	CdiText		fields[CDI_CHANNEL_FIELDS];
	pg_wchar   *wide[CDI_CHANNEL_FIELDS];
	size_t		wide_len[CDI_CHANNEL_FIELDS];
} Facts;

static const CdiText *get_field(Facts *facts, CdiChannelField field);

/* Is host the domain itself or below it? */
static bool
is_within(CdiText host, CdiText domain)
{
	return host.len >= domain.len &&
		memcmp(host.data + host.len - domain.len, domain.data, domain.len) == 0 &&
		(host.len == domain.len || host.data[host.len - domain.len - 1] == '.');
}

static bool
same_site(CdiText a, CdiText b)
{
	return is_within(a, b) || is_within(b, a) || is_within(a, cdi_site_domain(b));
}

static CdiText
without_www(CdiText host)
{
	if (host.len > 4 && memcmp(host.data, "www.", 4) == 0)
		host.data += 4, host.len -= 4;
	return host;
}

static CdiText
site_of(Facts *facts, CdiText name)
{
	return name.data == NULL ? name : cdi_site_kind(&facts->rules->sites, name.data, name.len);
}

static const CdiText *
get_field(Facts *facts, CdiChannelField field)
{
	CdiText    *value = &facts->fields[field];

	if (facts->known & (1 << field))
		return value;
	facts->known |= 1 << field;
	switch (field)
	{
		case CDI_FIELD_SOURCE_SITE:
			*value = site_of(facts, *get_field(facts, CDI_FIELD_SOURCE));
			break;
		case CDI_FIELD_REFERRER_SITE:
			*value = site_of(facts, *get_field(facts, CDI_FIELD_REFERRER));
			break;
		case CDI_FIELD_PAGE:
			*value = without_www(fold(facts->arguments[field]));
			break;
		case CDI_FIELD_REFERRER:
			*value = without_www(fold(facts->arguments[field]));
			if (value->data != NULL)
			{
				const CdiText *page = get_field(facts, CDI_FIELD_PAGE);

				/* A step within the site, its subdomains included */
				if (page->data != NULL && same_site(*value, *page))
					value->data = NULL;
			}
			break;
		default:
			*value = fold(facts->arguments[field]);
			break;
	}
	return value;
}

static bool
contains(CdiText text, CdiText part)
{
	for (const char *at = text.data, *last = text.data + text.len - part.len; at <= last; at++)
	{
		at = memchr(at, part.data[0], last - at + 1);
		if (at == NULL)
			return false;
		if (memcmp(at, part.data, part.len) == 0)
			return true;
	}
	return false;
}

static bool
matches(Facts *facts, CdiPattern *pattern, CdiText text)
{
	CdiChannelField field = pattern->field;
	int			code;

	if (pattern->evaluation == facts->rules->evaluations)
		return pattern->result;
	if (facts->wide[field] == NULL)
	{
		facts->wide[field] = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(pg_wchar) * ((Size) text.len + 1));
		facts->wide_len[field] = pg_mb2wchar_with_len(text.data, facts->wide[field], text.len);
	}
	code = pg_regexec(&pattern->regex, facts->wide[field], facts->wide_len[field], 0, NULL, 0, NULL, 0);
	/* version 15 gives up where the statement is to be cancelled */
	CHECK_FOR_INTERRUPTS();
	if (code != REG_OKAY && code != REG_NOMATCH)
	{
		char		message[100];

		pg_regerror(code, &pattern->regex, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("regular expression of a channel rule failed: %s", message),
				 errdetail("The expression is \"%s\".", pattern->text.data)));
	}
	pattern->evaluation = facts->rules->evaluations;
	pattern->result = code == REG_OKAY;
	return pattern->result;
}

static bool
has_value(const CdiCondition *condition, CdiText text)
{
	for (int i = 0; i < condition->count; i++)
	{
		CdiText		value = condition->values[i];

		if (value.data == NULL)
			continue;			/* asks for an absent field */
		if (condition->kind == CONDITION_CONTAINS)
		{
			if (contains(text, value))
				return true;
		}
		else if (condition->kind == CONDITION_IS ? text.len == value.len : text.len >= value.len)
		{
			const char *at = condition->kind == CONDITION_ENDS ? text.data + text.len - value.len : text.data;

			if (memcmp(at, value.data, value.len) == 0)
				return true;
		}
	}
	return false;
}

static bool
holds(Facts *facts, const CdiCondition *condition)
{
	const CdiText *text;

	switch (condition->kind)
	{
		case CONDITION_ALL:
			for (int i = 0; i < condition->count; i++)
				if (!holds(facts, condition->parts[i]))
					return false;
			return true;
		case CONDITION_ANY:
			for (int i = 0; i < condition->count; i++)
				if (holds(facts, condition->parts[i]))
					return true;
			return false;
		case CONDITION_NOT:
			return !holds(facts, condition->parts[0]);
		case CONDITION_IS:
		case CONDITION_CONTAINS:
		case CONDITION_STARTS:
		case CONDITION_ENDS:
		case CONDITION_MATCHES:
			break;
	}
	text = get_field(facts, condition->field);
	if (text->data != NULL)
		return condition->kind == CONDITION_MATCHES ? matches(facts, condition->pattern, *text) :
			has_value(condition, *text);
	if (condition->kind == CONDITION_IS)
		for (int i = 0; i < condition->count; i++)
			if (condition->values[i].data == NULL)
				return true;
	return false;
}

const text *
cdi_channel_evaluate(CdiChannelRules *rules, const CdiText *arguments)
{
	Facts		facts = {.rules = rules, .arguments = arguments};

	rules->evaluations++;
	for (int i = 0; i < rules->count; i++)
		if (holds(&facts, rules->rules[i].condition))
			return rules->rules[i].channel;
	return rules->unassigned;
}
