/*
 * shim.h
 *		What the server gives to pure C code, for programs without a server.
 */
#ifndef FUZZ_SHIM_H
#define FUZZ_SHIM_H

#include <stdbool.h>
#include <stddef.h>

/* Free whatever was palloc'd since the last call. */
extern void shim_reset(void);

/* Say which promise the code under test broke, and end. */
extern void shim_fail(const char *format,...) __attribute__((noreturn, format(printf, 1, 2)));

/* Is it one JSON text (RFC 8259)?  Bytes of strings are not looked at. */
extern bool shim_is_json(const char *text, size_t length);

#endif							/* FUZZ_SHIM_H */
