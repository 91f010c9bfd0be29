/*
 * channel.c
 *		The marketing channel that led to an event.
 *
 * Rules are rows (cdi.channel_rules); channel_rules.c evaluates them.  Traffic
 * repeats itself: most events have a source, medium, click id, referrer and
 * page that others had before.  So the answers to the latest different
 * arguments are kept beside the compiled rules, and an event costs a hash and
 * a comparison, whatever the rules cost.
 */
#include "attribution/channels.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Power of two */
#define MEMO_ENTRIES	2048

/* Arguments that are longer together are not remembered. */
#define MEMO_KEY		512

/* Arguments of cdi_channel() behind its fields */
enum
{
	ARG_GROUP = CDI_CHANNEL_ARGUMENTS, ARG_VERSION
};

/* Rules that a call site uses. */
typedef struct CallState
{
	CdiChannelRules *rules;
	char	   *group;
	int			group_len;
	int			version;
} CallState;

static void
unpin(void *arg)
{
	CallState  *state = arg;

	if (state->rules)
		cdi_channel_rules_unpin(state->rules);
	state->rules = NULL;
}

static CdiChannelRules *
get_rules(FunctionCallInfo fcinfo)
{
	CallState  *state = fcinfo->flinfo->fn_extra;
	text	   *group;
	int			version = 0;

	if (PG_ARGISNULL(ARG_GROUP))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the channel group cannot be null")));
	group = PG_GETARG_TEXT_PP(ARG_GROUP);
	if (!PG_ARGISNULL(ARG_VERSION))
	{
		version = PG_GETARG_INT32(ARG_VERSION);
		if (version < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("versions of channel rules begin with 1"),
					 errhint("null stands for the current one.")));
	}
	if (state == NULL)
	{
		MemoryContextCallback *callback = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(MemoryContextCallback));

		state = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CallState));
		callback->func = unpin;
		callback->arg = state;
		MemoryContextRegisterResetCallback(fcinfo->flinfo->fn_mcxt, callback);
		fcinfo->flinfo->fn_extra = state;
	}
	if (state->rules == NULL || state->rules->stale || state->version != version ||
		state->group_len != VARSIZE_ANY_EXHDR(group) ||
		memcmp(state->group, VARDATA_ANY(group), state->group_len) != 0)
	{
		unpin(state);
		if (state->group)
			pfree(state->group);
		state->group_len = VARSIZE_ANY_EXHDR(group);
		state->group = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, state->group_len + 1);
		memcpy(state->group, VARDATA_ANY(group), state->group_len);
		state->group[state->group_len] = '\0';
		state->version = version;
		state->rules = cdi_channel_rules_pin(state->group, version);
	}
	return state->rules;
}

/* Arguments as one string of bytes; its length, or -1 where it is too long. */
static int
memo_key(CdiChannelRules *rules, const CdiText *arguments, char *key)
{
	int			len = 0;

	for (int i = 0; i < CDI_CHANNEL_ARGUMENTS; i++)
	{
		int16		size = arguments[i].data ? arguments[i].len : -1;

		if ((rules->arguments & (1 << i)) == 0)
			continue;
		if (arguments[i].len > MEMO_KEY - len - (int) sizeof(size))
			return -1;
		memcpy(key + len, &size, sizeof(size));
		len += sizeof(size);
		if (size > 0)
			memcpy(key + len, arguments[i].data, size);
		len += Max(size, 0);
	}
	return len;
}

static const text *
evaluate(CdiChannelRules *rules, const CdiText *arguments)
{
	char		key[MEMO_KEY];
	int			len = memo_key(rules, arguments, key);
	uint32		hash;
	CdiChannelMemo *memo;

	if (len < 0)
		return cdi_channel_evaluate(rules, arguments);
	if (rules->memo == NULL)
		rules->memo = MemoryContextAllocZero(rules->context, sizeof(CdiChannelMemo) * MEMO_ENTRIES);
	hash = hash_bytes((const unsigned char *) key, len);
	memo = &rules->memo[hash & (MEMO_ENTRIES - 1)];
	if (memo->channel == NULL || memo->hash != hash || memo->len != len ||
		memcmp(memo->key, key, len) != 0)
	{
		const text *channel = cdi_channel_evaluate(rules, arguments);

		memo->channel = NULL;
		if (len > memo->space)
		{
			if (memo->key)
				pfree(memo->key);
			memo->space = 0;
			memo->key = MemoryContextAlloc(rules->context, len);
			memo->space = len;
		}
		memcpy(memo->key, key, len);
		memo->len = len;
		memo->hash = hash;
		memo->channel = channel;
	}
	return memo->channel;
}

/*
 * cdi_channel(campaign_source, campaign_medium, click_id_type, referrer_host,
 *			   page_host, campaign_name, campaign_term, campaign_content,
 *			   channel_group, version)
 */
PG_FUNCTION_INFO_V1(cdi_channel);
Datum
cdi_channel(PG_FUNCTION_ARGS)
{
	CdiChannelRules *rules = get_rules(fcinfo);
	CdiText		arguments[CDI_CHANNEL_ARGUMENTS];
	const text *channel;
	text	   *result;

	for (int i = 0; i < CDI_CHANNEL_ARGUMENTS; i++)
	{
		arguments[i] = (CdiText) {NULL, 0};
		if ((rules->arguments & (1 << i)) && !PG_ARGISNULL(i))
		{
			text	   *value = PG_GETARG_TEXT_PP(i);

			arguments[i].data = VARDATA_ANY(value);
			arguments[i].len = VARSIZE_ANY_EXHDR(value);
		}
	}
	channel = evaluate(rules, arguments);
	result = palloc(VARSIZE(channel));
	memcpy(result, channel, VARSIZE(channel));
	PG_RETURN_TEXT_P(result);
}
