/*
 * phone.c
 *		Phone numbers in the form of E.164: + and digits.
 *
 * What can be decided without knowing every country's numbering plan is
 * decided here: which country codes there are, what a number begins with when
 * it is dialled within a country or out of it, and which signs people put
 * between digits.  Whether a number of that length exists is not.  Whatever is
 * in doubt is refused: a number read wrongly would be a stranger's.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "base/scan.h"
#include "identity/identifier.h"

#define MIN_DIGITS 7
#define MAX_DIGITS 15
#define MAX_DIALLED 24			/* with prefixes that are no part of the number */

/* Country codes that the ITU has assigned.  None is the beginning of another. */
static const char codes[] =
" 1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66"
" 81 82 84 86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232"
" 233 234 235 236 237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258"
" 260 261 262 263 264 265 266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370"
" 371 372 373 374 375 376 377 378 380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506"
" 507 508 509 590 591 592 593 594 595 596 597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683"
" 685 686 687 688 689 690 691 692 800 808 850 852 853 855 856 870 878 880 881 882 883 886 888 960 961 962"
" 963 964 965 966 967 968 970 971 972 973 974 975 976 977 979 992 993 994 995 996 998 ";

/*
 * Countries without a trunk prefix: a zero at the beginning is part of the
 * number, also when it is dialled from abroad (as in Italy), or a mistake.
 */
static const char no_trunk[] =
" 30 34 39 45 47 48 52 56 65 216 220 221 222 223 224 225 226 227 228 229 230 235 236 237 238 239 240 242 244"
" 245 246 247 248 253 257 258 266 267 268 269 290 297 298 299 350 351 352 354 356 357 371 372 376 378 420"
" 500 501 502 503 504 505 506 507 509 592 597 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685"
" 687 688 689 690 691 800 808 852 853 870 878 881 882 883 888 960 965 968 973 974 975 979 992 998 ";

/*
 * What numbers begin with within these countries, where it is not 0, and the
 * number of digits behind it without which it is part of the number.
 */
static const struct
{
	const char *code;
	const char *prefix;
	int			digits;
}			trunks[] =
{
	{"1", "1", 10}, {"692", "1", 7}, {"7", "8", 10}, {"993", "8", 8}, {"36", "06", 0},
	{"370", "0", 8}, {"370", "8", 8}, {"375", "80", 9}, {"375", "8", 9}, {"375", "0", 9},
	{"241", "0", 8}
};

/*
 * What leads out of these countries, where it is not 00.  NULL: it depends on
 * the carrier; only + tells.
 */
static const struct
{
	const char *code;
	const char *prefix;
}			exits[] =
{
	{"1", "011"}, {"692", "011"}, {"7", "810"}, {"375", "810"}, {"992", "810"}, {"993", "810"},
	{"53", "119"}, {"61", "0011"}, {"81", "010"}, {"234", "009"}, {"254", "000"}, {"592", "001"},
	{"976", "001"}, {"55", NULL}, {"57", NULL}, {"62", NULL}, {"65", NULL}, {"66", NULL}, {"82", NULL},
	{"238", NULL}, {"248", NULL}, {"255", NULL}, {"256", NULL}, {"677", NULL}, {"680", NULL},
	{"685", NULL}, {"852", NULL}, {"855", NULL}, {"886", NULL}
};

static bool
is_listed(const char *list, const char *code, int len)
{
	char		word[8];

	if (len < 1 || len > 3)
		return false;
	word[0] = ' ';
	memcpy(word + 1, code, len);
	word[len + 1] = ' ';
	word[len + 2] = '\0';
	return strstr(list, word) != NULL;
}

bool
cdi_phone_code_assigned(const char *code)
{
	return strspn(code, "0123456789") == strlen(code) && is_listed(codes, code, strlen(code));
}

/* Signs between digits, those of libphonenumber, and marks of direction */
static bool
is_separator(pg_wchar c)
{
	if (c < 0x80)
		return c != 0 && strchr(" -./()[]~", (int) c) != NULL;
	return c == 0xA0 || c == 0xAD || (c >= 0x200B && c <= 0x2015) ||
		(c >= 0x202A && c <= 0x202F) || c == 0x2053 || (c >= 0x2060 && c <= 0x2069) ||
		c == 0x2212 || c == 0x223C || c == 0x3000 || c == 0x30FC || c == 0xFF08 ||
		c == 0xFF09 || (c >= 0xFF0D && c <= 0xFF0F) || c == 0xFF3B || c == 0xFF3D || c == 0xFF5E;
}

/* ASCII, full-width, Arabic-Indic and Persian digits; -1: none */
static int
digit_of(pg_wchar c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 0xFF10 && c <= 0xFF19)
		return c - 0xFF10;
	if (c >= 0x0660 && c <= 0x0669)
		return c - 0x0660;
	if (c >= 0x06F0 && c <= 0x06F9)
		return c - 0x06F0;
	return -1;
}

static const char *
read_digits(CdiText number, char *digits, bool *plus)
{
	const unsigned char *at = (const unsigned char *) number.data;
	const unsigned char *end = at + number.len;
	int			n = 0;

	*plus = false;
	while (at < end)
	{
		pg_wchar	c = utf8_to_unicode(at);
		int			digit = digit_of(c);

		at += pg_utf_mblen(at);
		if (digit >= 0)
		{
			if (n == MAX_DIALLED)
				return "It has too many digits.";
			digits[n++] = '0' + digit;
		}
		else if ((c == '+' || c == 0xFF0B) && n == 0 && !*plus)
			*plus = true;
		else if (!is_separator(c))
			return "Something in it is neither a digit nor a separator; extensions are not supported.";
	}
	digits[n] = '\0';
	return NULL;
}

static bool
begins_with(const char *digits, const char *prefix)
{
	if (prefix == NULL)
		return false;
	while (*prefix != '\0' && *prefix == *digits)
	{
		prefix++;
		digits++;
	}
	return *prefix == '\0';
}

/*
 * Without what is dialled before the number within the country.  Behind the
 * country's code only a zero is that, for people write +49 (0)30; other digits
 * are in the wrong place.
 */
static const char *
without_trunk(const char *national, const char *code, bool international)
{
	bool		usual = !is_listed(no_trunk, code, strlen(code));

	for (int i = 0; i < lengthof(trunks); i++)
	{
		if (strcmp(trunks[i].code, code) != 0)
			continue;
		usual = false;
		if (international && *trunks[i].prefix != '0')
			continue;
		if (begins_with(national, trunks[i].prefix) &&
			(trunks[i].digits == 0 || strlen(national) == strlen(trunks[i].prefix) + trunks[i].digits))
			return national + strlen(trunks[i].prefix);
	}
	return usual && *national == '0' ? national + 1 : national;
}

const char *
cdi_phone_normalise(CdiText number, const char *country, const char **problem)
{
	char		digits[MAX_DIALLED + 1];
	char		code[4];
	const char *national = digits;
	const char *leads_out = "00";
	bool		international;
	int			length;

	*problem = read_digits(number, digits, &international);
	if (*problem != NULL)
		return NULL;
	if (country != NULL)
		for (int i = 0; i < lengthof(exits); i++)
			if (strcmp(exits[i].code, country) == 0)
				leads_out = exits[i].prefix;
	if (!international && begins_with(digits, leads_out))
	{
		international = true;
		national += strlen(leads_out);
	}
	else if (!international && country == NULL)
		*problem = "It has no country code; normaliser phone:NN adds one.";
	else if (!international && begins_with(digits, "00"))
		*problem = "It may lead out of the country, or not; only + tells.";
	if (*problem != NULL)
		return NULL;

	if (international)
	{
		int			len = 1;

		while (len <= 3 && national[len - 1] != '\0' && !is_listed(codes, national, len))
			len++;
		if (len > 3 || national[len - 1] == '\0')
		{
			*problem = "Its country code is not assigned.";
			return NULL;
		}
		strlcpy(code, national, len + 1);
		national += len;
	}
	else
		strlcpy(code, country, sizeof(code));

	national = without_trunk(national, code, international);
	length = strlen(code) + strlen(national);
	if (length < MIN_DIGITS || length > MAX_DIGITS)
		*problem = "It has fewer than 7 or more than 15 digits.";
	/* North America and Russia have one length, and each its first digits. */
	else if ((*code == '1' || *code == '7') &&
			 (length != 11 || (*code == '1' && *national < '2')))
		*problem = "It is no number of its country.";
	else
		return psprintf("+%s%s", code, national);
	return NULL;
}
