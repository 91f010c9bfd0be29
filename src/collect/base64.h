/*
 * base64.h
 *		One character of base64, also for what knows nothing of PostgreSQL.
 */
#ifndef CDI_BASE64_H
#define CDI_BASE64_H

/* Its six bits, in the standard or URL alphabet; a space is the "+" that a
 * form made of it.  -1 where it has none. */
static inline int
cdi_base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-' || c == ' ')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

#endif							/* CDI_BASE64_H */
