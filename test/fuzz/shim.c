/*
 * shim.c
 *		What the server gives to pure C code, for programs without a server.
 *
 * Every palloc is a malloc of its own, so that the sanitizer sees its ends.
 * Nothing here can raise: whoever calls ereport() ends the program, and so
 * does whoever calls anything of the server that is not here, because the
 * programs are linked with unresolved symbols left at zero.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "shim.h"

/* The server's headers give these other names. */
#undef vsnprintf
#undef snprintf
#undef sprintf
#undef vfprintf
#undef fprintf
#undef printf

typedef struct Chunk
{
	struct Chunk *prev;
	struct Chunk *next;
	size_t		size;
	size_t		magic;			/* keeps what follows aligned */
} Chunk;

static Chunk chunks = {&chunks, &chunks, 0, 0};

MemoryContext CurrentMemoryContext = NULL;

void
shim_fail(const char *format,...)
{
	va_list		args;

	fputs("broken promise: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

void
shim_reset(void)
{
	while (chunks.next != &chunks)
		pfree(chunks.next + 1);
}

void *
palloc(Size size)
{
	Chunk	   *chunk;

	if (size > MaxAllocSize)
		shim_fail("palloc of %zu bytes", (size_t) size);
	chunk = malloc(sizeof(Chunk) + size);
	chunk->size = size;
	chunk->prev = &chunks;
	chunk->next = chunks.next;
	chunks.next->prev = chunk;
	chunks.next = chunk;
	return chunk + 1;
}

void
pfree(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	chunk->prev->next = chunk->next;
	chunk->next->prev = chunk->prev;
	free(chunk);
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	return (flags & MCXT_ALLOC_ZERO) ? palloc0(size) : palloc(size);
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;
	void	   *result = palloc(size);

	memcpy(result, pointer, Min(chunk->size, size));
	pfree(pointer);
	return result;
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return palloc_extended(size, flags);
}

char *
pnstrdup(const char *string, Size length)
{
	size_t		n = strnlen(string, length);
	char	   *result = palloc(n + 1);

	memcpy(result, string, n);
	result[n] = '\0';
	return result;
}

char *
pstrdup(const char *string)
{
	return pnstrdup(string, strlen(string));
}

/*
 * Formatting
 */
char *
psprintf(const char *format,...)
{
	va_list		args;
	int			size;
	char	   *result;

	va_start(args, format);
	size = vsnprintf(NULL, 0, format, args);
	va_end(args);
	result = palloc(size + 1);
	va_start(args, format);
	(void) vsnprintf(result, size + 1, format, args);
	va_end(args);
	return result;
}

void
initStringInfo(StringInfo string)
{
	string->maxlen = 16;
	string->data = palloc(string->maxlen);
	resetStringInfo(string);
}

StringInfo
makeStringInfo(void)
{
	StringInfo	string = palloc(sizeof(StringInfoData));

	initStringInfo(string);
	return string;
}

void
resetStringInfo(StringInfo string)
{
	string->data[0] = '\0';
	string->len = 0;
	string->cursor = 0;
}

void
enlargeStringInfo(StringInfo string, int needed)
{
	if (needed < 0 || (Size) needed >= MaxAllocSize - string->len)
		shim_fail("a string of %d bytes grows by %d", string->len, needed);
	if (string->len + needed + 1 <= string->maxlen)
		return;
	string->maxlen = Max(string->maxlen * 2, string->len + needed + 1);
	string->data = repalloc(string->data, string->maxlen);
}

void
appendBinaryStringInfo(StringInfo string, const
#if PG_VERSION_NUM >= 160000
					   void *data,
#else
					   char *data,
#endif
					   int length)
{
	enlargeStringInfo(string, length);
	memcpy(string->data + string->len, data, length);
	string->len += length;
	string->data[string->len] = '\0';
}

void
appendStringInfoString(StringInfo string, const char *text)
{
	appendBinaryStringInfo(string, text, strlen(text));
}

#undef appendStringInfoChar
void
appendStringInfoChar(StringInfo string, char c)
{
	appendBinaryStringInfo(string, &c, 1);
}

void
appendStringInfo(StringInfo string, const char *format,...)
{
	va_list		args;
	int			size;

	va_start(args, format);
	size = vsnprintf(NULL, 0, format, args);
	va_end(args);
	enlargeStringInfo(string, size);
	va_start(args, format);
	(void) vsnprintf(string->data + string->len, size + 1, format, args);
	va_end(args);
	string->len += size;
}

/*
 * The rest
 */
char *
unpack_sql_state(int sqlstate)
{
	static char code[6];

	for (int i = 0; i < 5; i++)
	{
		code[i] = PGUNSIXBIT(sqlstate);
		sqlstate >>= 6;
	}
	return code;
}

/* Chance is the same in every run. */
bool
pg_strong_random(void *buffer, size_t length)
{
	memset(buffer, 0x5a, length);
	return true;
}

TimestampTz
GetCurrentTimestamp(void)
{
	return 0;
}

#if PG_VERSION_NUM >= 130000
bool
errstart(int level, const char *domain)
{
	shim_fail("something was raised");
}

bool
errstart_cold(int level, const char *domain)
{
	shim_fail("something was raised");
}
#endif

/*
 * JSON
 */
static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

static const char *
skip_string(const char *at, const char *end)
{
	if (at == end || *at++ != '"')
		return NULL;
	while (at < end && *at != '"')
	{
		if ((unsigned char) *at < ' ')
			return NULL;
		if (*at == '\\')
		{
			if (++at == end || strchr("\"\\/bfnrtu", *at) == NULL || *at == '\0')
				return NULL;
			if (*at == 'u')
			{
				if (end - at < 5)
					return NULL;
				for (int i = 0; i < 4; i++)
					if (!isxdigit((unsigned char) *++at))
						return NULL;
			}
		}
		at++;
	}
	return at < end ? at + 1 : NULL;
}

static const char *
skip_digits(const char *at, const char *end)
{
	const char *start = at;

	while (at < end && *at >= '0' && *at <= '9')
		at++;
	return at > start ? at : NULL;
}

static const char *
skip_scalar(const char *at, const char *end)
{
	static const char *const words[] = {"true", "false", "null"};

	if (*at == '"')
		return skip_string(at, end);
	for (int i = 0; i < 3; i++)
		if ((size_t) (end - at) >= strlen(words[i]) && memcmp(at, words[i], strlen(words[i])) == 0)
			return at + strlen(words[i]);
	if (*at == '-')
		at++;
	if (at < end && *at == '0')
		at++;
	else if ((at = skip_digits(at, end)) == NULL)
		return NULL;
	if (at < end && *at == '.' && (at = skip_digits(at + 1, end)) == NULL)
		return NULL;
	if (at < end && (*at == 'e' || *at == 'E'))
	{
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		at = skip_digits(at, end);
	}
	return at;
}

bool
shim_is_json(const char *at, size_t length)
{
	const char *end = at + length;
	char	   *stack = malloc(length + 1);	/* of what is open */
	size_t		depth = 0;
	bool		value = true;	/* is one due? */
	bool		result = false;

	for (;;)
	{
		at = skip_space(at, end);
		if (value)
		{
			if (at == end)
				break;
			if (*at == '{' || *at == '[')
			{
				stack[depth++] = *at == '{' ? '}' : ']';
				at = skip_space(at + 1, end);
				if (at < end && *at == stack[depth - 1])
					value = false;
				else if (stack[depth - 1] == '}')
					goto member;
				continue;
			}
			if ((at = skip_scalar(at, end)) == NULL)
				break;
			value = false;
			continue;
		}
		if (depth == 0)
		{
			result = at == end;
			break;
		}
		if (at == end)
			break;
		if (*at == stack[depth - 1])
		{
			at++;
			depth--;
			continue;
		}
		if (*at != ',')
			break;
		at = skip_space(at + 1, end);
		value = true;
		if (stack[depth - 1] != '}')
			continue;
member:
		at = skip_string(at, end);
		if (at == NULL)
			break;
		at = skip_space(at, end);
		if (at == end || *at != ':')
			break;
		at++;
	}
	free(stack);
	return result;
}
