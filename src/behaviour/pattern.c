/*
 * pattern.c
 *		Patterns of events: the language of ClickHouse's sequenceMatch, and
 *		matching in time that is linear in the events.
 *
 *		(?N)		an event that meets condition N
 *		.			any event
 *		.*			any number of events, also none
 *		(?t op s)	between the events before and after it lie any number of
 *					events and a time of op s seconds
 *
 * A pattern is a row of items and what may lie between two neighbours: nothing,
 * anything, or anything that takes a bounded time.  Whether an item at an event
 * can be completed depends on item and event alone, not on how one got there,
 * so one pass from the last event to the first decides it for all: a bit per
 * item and event.  Nothing is ever tried twice, and there is no backtracking to
 * bound.  For links of bounded time, the first event that is late enough moves
 * towards the front as the pass does, and with it the earliest one there that
 * can go on; whether that one is early enough is one comparison.
 */
#include "behaviour/sequence.h"

#include <ctype.h>

#include "common/int.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#define NO_BOUND	(INT64CONST(1) << 62)

typedef struct Parser
{
	const char *text;
	int			length;
	int			at;
	int			conditions;
	CdiPattern *pattern;
	bool		has_star;		/* since the last item */
	bool		has_time;
	CdiPatternLink time;
} Parser;

static void
syntax_error(const Parser *parser, int at, const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("%s in pattern at character %d", message, pg_mbstrlen_with_len(parser->text, at) + 1),
			 errdetail("The pattern is \"%.*s\".", parser->length, parser->text),
			 errhint("%s", hint)));
}

static bool
skip(Parser *parser, const char *token)
{
	int			length = strlen(token);

	if (parser->length - parser->at < length || memcmp(parser->text + parser->at, token, length) != 0)
		return false;
	parser->at += length;
	return true;
}

static void
skip_space(Parser *parser)
{
	while (parser->at < parser->length && isspace((unsigned char) parser->text[parser->at]))
		parser->at++;
}

/* An item ends the link of the one before it. */
static void
add_item(Parser *parser, int begins, int condition)
{
	CdiPattern *pattern = parser->pattern;
	uint64		bit;

	if (pattern->items == CDI_MAX_PATTERN_ITEMS)
		syntax_error(parser, begins, psprintf("more than %d events", CDI_MAX_PATTERN_ITEMS),
					 "Leave out what need not be checked, or ask with several patterns.");
	if (pattern->items > 0)
	{
		uint64		previous = UINT64CONST(1) << (pattern->items - 1);

		if (parser->has_time)
		{
			pattern->timed |= previous;
			pattern->links[pattern->items - 1] = parser->time;
		}
		else if (parser->has_star)
			pattern->gap |= previous;
		else
			pattern->adjacent |= previous;
	}
	bit = UINT64CONST(1) << pattern->items;
	if (condition < 0)
		pattern->fits_any |= bit;
	else
	{
		pattern->fits[condition] |= bit;
		pattern->reported |= bit;
	}
	pattern->items++;
	parser->has_star = parser->has_time = false;
}

static void
parse_condition(Parser *parser, int begins)
{
	int			number = 0;
	int			digits_at = parser->at;

	while (parser->at < parser->length && isdigit((unsigned char) parser->text[parser->at]))
	{
		number = Min(number * 10 + parser->text[parser->at] - '0', 10000);
		parser->at++;
	}
	if (parser->at == digits_at)
		syntax_error(parser, parser->at, "no number or time after \"(?\"",
					 "(?1) is an event that meets the first condition, (?t<=3600) a time of at most an hour.");
	skip_space(parser);
	if (!skip(parser, ")"))
		syntax_error(parser, parser->at, "missing \")\"", "A condition is written as (?1).");
	if (number < 1 || number > parser->conditions)
		syntax_error(parser, begins, psprintf("there is no condition %d", number),
					 parser->conditions == 1 ? "There is one condition, (?1)."
					 : psprintf("Conditions are numbered from 1 to %d in order of the arguments.", parser->conditions));
	add_item(parser, begins, number - 1);
}

/* Seconds, with up to six digits after the point, as microseconds */
static int64
parse_seconds(Parser *parser)
{
	int64		value = 0;
	int64		unit = USECS_PER_SEC;
	int			digits = 0;
	bool		point = false;

	for (; parser->at < parser->length; parser->at++)
	{
		char		c = parser->text[parser->at];

		if (c == '.' && !point)
			point = true;
		else if (isdigit((unsigned char) c))
		{
			digits++;
			if (point && (unit /= 10) == 0)
				syntax_error(parser, parser->at, "a time finer than a microsecond",
							 "Seconds have at most six digits after the point.");
			if (pg_mul_s64_overflow(value, point ? 1 : 10, &value) ||
				pg_add_s64_overflow(value, (c - '0') * unit, &value) || value > NO_BOUND)
				value = NO_BOUND;	/* longer than any time between two events */
		}
		else
			break;
	}
	if (digits == 0)
		syntax_error(parser, parser->at, "no number of seconds",
					 "A time is written as (?t<=3600), in seconds.");
	return value;
}

static void
parse_time(Parser *parser, int begins)
{
	static const struct
	{
		const char *name;
		int			low;		/* the bounds are seconds + these, in microseconds; */
		int			high;
		bool		has_low;	/* or none */
		bool		has_high;
	}			operators[] = {
		{"<=", 0, 0, false, true},
		{"<", 0, -1, false, true},
		{">=", 0, 0, true, false},
		{">", 1, 0, true, false},
		{"==", 0, 0, true, true},
		{"=", 0, 0, true, true},
	};
	int			which = 0;
	int64		seconds;

	skip_space(parser);
	while (which < lengthof(operators) && !skip(parser, operators[which].name))
		which++;
	if (which == lengthof(operators))
		syntax_error(parser, parser->at, "unknown comparison", "A time is compared with <=, <, >=, > or ==.");
	skip_space(parser);
	seconds = parse_seconds(parser);
	skip_space(parser);
	if (!skip(parser, ")"))
		syntax_error(parser, parser->at, "missing \")\"", "A time is written as (?t<=3600), in seconds.");
	if (parser->pattern->items == 0)
		syntax_error(parser, begins, "a time without an event before it",
					 "It is measured from event to event, as in (?1)(?t<=3600)(?2).");
	if (parser->has_star)
		syntax_error(parser, begins, "a time after \".*\"",
					 "Other events may lie within a time in any case: write (?1)(?t<=3600)(?2).");
	if (!parser->has_time)
	{
		parser->time.least = 0;
		parser->time.most = NO_BOUND;
	}
	/* Several times in a row must all hold. */
	parser->has_time = true;
	if (operators[which].has_low)
		parser->time.least = Max(parser->time.least, seconds + operators[which].low);
	if (operators[which].has_high)
		parser->time.most = Min(parser->time.most, seconds + operators[which].high);
}

CdiPattern *
cdi_pattern_parse(const char *text, int length, int conditions)
{
	Parser		parser = {.text = text, .length = length, .conditions = conditions};
	CdiPattern *pattern = palloc0(offsetof(CdiPattern, text) + length);

	parser.pattern = pattern;
	pattern->conditions = conditions;
	pattern->length = length;
	memcpy(pattern->text, text, length);

	for (skip_space(&parser); parser.at < length; skip_space(&parser))
	{
		int			begins = parser.at;

		if (skip(&parser, "(?t"))
			parse_time(&parser, begins);
		else if (skip(&parser, "(?"))
			parse_condition(&parser, begins);
		else if (skip(&parser, ".*"))
		{
			if (parser.has_time)
				syntax_error(&parser, begins, "\".*\" after a time",
							 "Other events may lie within a time in any case: write (?1)(?t<=3600)(?2).");
			parser.has_star = true;
		}
		else if (skip(&parser, "."))
			add_item(&parser, begins, -1);
		else
			syntax_error(&parser, begins, "unexpected character",
						 "A pattern is made of (?1) for conditions, . for any event, .* for any number of events and (?t<=3600) for times.");
	}
	if (parser.has_time)
		syntax_error(&parser, length, "a time without an event after it",
					 "It is measured from event to event; write . after it for any event.");
	/* Leading and trailing .* say nothing: a match begins and ends anywhere.
	 * Nothing else in the pattern: any event is a match. */
	if (pattern->items == 0)
		add_item(&parser, length, -1);
	return pattern;
}

/* Items that an event satisfies */
static inline uint64
items_of(const CdiPattern *pattern, uint32 conditions)
{
	uint64		items = pattern->fits_any;

	while (conditions)
	{
		items |= pattern->fits[pg_rightmost_one_pos32(conditions)];
		conditions &= conditions - 1;
	}
	return items;
}

static inline uint64
last_item(const CdiPattern *pattern)
{
	return UINT64CONST(1) << (pattern->items - 1);
}

bool
cdi_pattern_occurs(const CdiPattern *pattern, const CdiSequenceEvent *events, int64 count)
{
	uint64		last = last_item(pattern);
	uint64		next = 0;
	uint64		later = 0;

	Assert(pattern->timed == 0);
	for (int64 i = count - 1; i >= 0; i--)
	{
		next = items_of(pattern, events[i].conditions) &
			(last | (next >> 1 & pattern->adjacent) | (later >> 1 & pattern->gap));
		if (next & 1)
			return true;
		later |= next;
		if ((i & 0xFFFFF) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return false;
}

void
cdi_pattern_solve(const CdiPattern *pattern, const CdiSequenceEvent *events, int64 count, uint64 *can)
{
	uint64		last = last_item(pattern);
	uint64		next = 0;
	uint64		later = 0;
	int			ntimed = 0;
	int			timed[CDI_MAX_PATTERN_ITEMS];
	int64		reached[CDI_MAX_PATTERN_ITEMS]; /* events from here on are late enough */
	int64		earliest[CDI_MAX_PATTERN_ITEMS];	/* and this one goes on; count: none */

	for (int item = 0; item < pattern->items - 1; item++)
		if (pattern->timed >> item & 1)
		{
			timed[ntimed] = item;
			reached[ntimed] = earliest[ntimed] = count;
			ntimed++;
		}

	for (int64 i = count - 1; i >= 0; i--)
	{
		uint64		possible = last | (next >> 1 & pattern->adjacent) | (later >> 1 & pattern->gap);

		for (int t = 0; t < ntimed; t++)
		{
			const CdiPatternLink *link = &pattern->links[timed[t]];

			while (reached[t] - 1 > i && events[reached[t] - 1].at - events[i].at >= link->least)
			{
				reached[t]--;
				if (can[reached[t]] >> (timed[t] + 1) & 1)
					earliest[t] = reached[t];
			}
			if (earliest[t] < count && events[earliest[t]].at - events[i].at <= link->most)
				possible |= UINT64CONST(1) << timed[t];
		}
		next = can[i] = items_of(pattern, events[i].conditions) & possible;
		later |= next;
		if ((i & 0xFFFFF) == 0)
			CHECK_FOR_INTERRUPTS();
	}
}

bool
cdi_pattern_next(const CdiPattern *pattern, const CdiSequenceEvent *events, int64 count,
				 const uint64 *can, int64 from, int64 *found)
{
	int64		at = from;

	while (at < count && !(can[at] & 1))
		at++;
	if (at == count)
		return false;
	found[0] = at;
	for (int item = 1; item < pattern->items; item++)
	{
		int64		least = pattern->timed >> (item - 1) & 1 ? pattern->links[item - 1].least : 0;

		/* can[] says that there is one, next to this event where it must be. */
		do
			at++;
		while (!(can[at] >> item & 1) || events[at].at - events[found[item - 1]].at < least);
		found[item] = at;
	}
	return true;
}
