/*
 * scan.h
 *		JSON text, walked and written without being parsed.
 *
 * What the pipeline stores is parsed by the server.  Before that, requests are
 * taken apart and calls of other protocols are rewritten; both work on slices
 * of the original text, so that numbers and strings leave as the bytes that
 * came in.  A slice that is no valid JSON inside is found by the parser later.
 *
 * Pure C over memory: palloc and StringInfo, no transaction, nothing raised.
 */
#ifndef CDI_SCAN_H
#define CDI_SCAN_H

#include "base/base.h"
#include "lib/stringinfo.h"

#define CDI_NO_TEXT		((CdiText) {NULL, 0})

typedef struct CdiScan
{
	const char *at;
	const char *end;
	bool		open;			/* inside of an object or array */
	bool		first;
	bool		malformed;
} CdiScan;

static inline CdiText
cdi_text(const char *string)
{
	CdiText		result = {string, string ? (int) strlen(string) : 0};

	return result;
}

static inline bool
cdi_text_is(CdiText text, const char *word)
{
	return text.data != NULL && text.len == (int) strlen(word) &&
		memcmp(text.data, word, text.len) == 0;
}

static inline CdiText
cdi_text_of(const StringInfoData *buffer)
{
	return (CdiText) {buffer->data, buffer->len};
}

/* Without white space around it. */
extern CdiText cdi_text_trim(CdiText text);
/* What stands before a separator, or all; *rest becomes what is behind it. */
extern CdiText cdi_text_split(CdiText *rest, char separator);
/* URL-decoded: "+" is a space, a "%" that is no escape stays.  The text itself
 * where there is nothing to decode. */
extern CdiText cdi_text_url_decode(CdiText text);

/*
 * Members of an object and elements of an array:
 *
 *		cdi_scan_object(&scan, text);
 *		while (cdi_scan_member(&scan, &key, &value))
 *			...
 *		if (scan.malformed)
 *			...
 *
 * Values are slices of the text with their quotes and brackets.  A key is
 * what the string means, decoded where it has escapes.  malformed covers the
 * walked level only, including text behind it and text that is no object (or
 * array) at all.
 */
extern void cdi_scan_object(CdiScan *scan, CdiText object);
extern bool cdi_scan_member(CdiScan *scan, CdiText *key, CdiText *value);
extern void cdi_scan_array(CdiScan *scan, CdiText array);
extern bool cdi_scan_element(CdiScan *scan, CdiText *value);

/* Number of elements, -1 where the array's own level is malformed. */
extern int	cdi_scan_count(CdiText array);
/* The same of an array of events; -1 also where it has too many to be that. */
extern int	cdi_scan_calls(CdiText array);
/* Is this too many events for something of so many bytes to be part of each? */
extern bool cdi_scan_spreads(int events, int bytes);
/* Are these too many events for a text of so many bytes? */
extern bool cdi_scan_crowded(int events, int bytes);

/* A member's value, the last one of that name; data == NULL where absent. */
extern CdiText cdi_scan_get(CdiText object, const char *name);
/* The same along several names, ended by NULL. */
extern CdiText cdi_scan_path(CdiText object,...);

/*
 * Several members of an object, found in one walk: values[slot] becomes the
 * last one of that name, what is absent is left alone.  The list is ended by
 * CDI_WANTED_END.  False where the object's own level is malformed.
 */
typedef struct CdiWanted
{
	const char *name;
	int			len;
	int			slot;
} CdiWanted;

#define CDI_WANTED(name, slot) {name, sizeof(name) - 1, slot}
#define CDI_WANTED_END {NULL, 0, 0}

extern bool cdi_scan_gather(CdiText object, const CdiWanted *wanted, CdiText *values);
/* NULL where the key is none of them */
extern const CdiWanted *cdi_scan_wanted(const CdiWanted *wanted, CdiText key);

/* '{', '[', '"', '0' (number), 't', 'f', 'n' (null); '\0' for anything else
 * and for no value.  Looks at the first byte only. */
extern char cdi_scan_kind(CdiText value);
/* Neither absent nor null. */
extern bool cdi_scan_present(CdiText value);

/* What a JSON string means, in UTF-8; data == NULL where it is no string.
 * Points into the text where it has no escapes.  An escape that means no
 * character becomes U+FFFD: the parser will refuse the call that has it. */
extern CdiText cdi_scan_string(CdiText value);
/* The same, and a number as its own text: ids come as both. */
extern CdiText cdi_scan_scalar(CdiText value);
extern bool cdi_scan_string_is(CdiText value, const char *word);
/* Are these the same id? */
extern bool cdi_scan_same(CdiText a, CdiText b);

/*
 * Writing.  A comma comes before whatever follows something, so members and
 * elements need no care of their own:
 *
 *		cdi_write_open(out, NULL, '{');
 *		cdi_write_value(out, "userId", cdi_scan_get(payload, "user_id"));
 *		cdi_write_open(out, "context", '{');
 *		cdi_write_text(out, "ip", address);
 *		cdi_write_close(out, '}');
 *		cdi_write_close(out, '}');
 *
 * name is a literal, or NULL inside of an array.  A value that is absent
 * (data == NULL) writes nothing.
 */
extern void cdi_write_open(StringInfo out, const char *name, char bracket);
extern void cdi_write_close(StringInfo out, char bracket);
/* JSON text as it is */
extern void cdi_write_value(StringInfo out, const char *name, CdiText value);
/* The same, unless it is null */
extern void cdi_write_present(StringInfo out, const char *name, CdiText value);
/*
 * Members of an open object, and of objects in it: {"ip": ..., "os": {"name":
 * ...}, ...}.  Those of one object stand together in the list, whose end has
 * no member; what has no member that is present is not written.  Of neighbours
 * with the same place the first that is present counts.
 */
typedef struct CdiPart
{
	const char *object;			/* NULL: the one that is open */
	const char *member;
	int			slot;
} CdiPart;

extern void cdi_write_parts(StringInfo out, const CdiPart *parts, const CdiText *values);
/* A string from bytes, quoted and escaped */
extern void cdi_write_text(StringInfo out, const char *name, CdiText text);
extern void cdi_write_string(StringInfo out, const char *name, const char *string);
extern void cdi_write_bool(StringInfo out, const char *name, bool value);
extern void cdi_write_number(StringInfo out, const char *name, int64 number);
/* A key that came in: what cdi_scan_member() returned, or any bytes */
extern void cdi_write_key(StringInfo out, CdiText key);
/* key and JSON text: a member of another object, copied */
extern void cdi_write_member(StringInfo out, CdiText key, CdiText value);

/*
 * A time since 1970 (JSON number, or digits in a string, with or without
 * decimals) as an ISO 8601 string with microseconds in UTC.  Where the value
 * is no such number, or lies outside of the years 1 to 9999, it is written as
 * it came (quoted if need be), for the pipeline to refuse it.
 */
typedef enum CdiTimeUnit
{
	CDI_SECONDS,
	CDI_MILLISECONDS,
	CDI_MICROSECONDS
} CdiTimeUnit;

extern void cdi_write_epoch(StringInfo out, const char *name, CdiText value, CdiTimeUnit unit);
/* Microseconds since 1970 out of such a value; false as above. */
extern bool cdi_scan_epoch(CdiText value, CdiTimeUnit unit, int64 *microseconds);
/* And an ISO 8601 string out of them. */
extern void cdi_write_time(StringInfo out, const char *name, int64 microseconds);

#endif							/* CDI_SCAN_H */
