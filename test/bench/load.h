/*
 * load.h
 *		The parts of the load generator: load.c makes the requests and says what
 *		became of them, load_loop.c posts them.
 */
#ifndef LOAD_H
#define LOAD_H

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

#define ID_DIGITS		12
#define SECOND			INT64_C(1000000000)
#define MILLISECOND		INT64_C(1000000)
#define OUTCOMES		5

/* The bytes of a request; ids are the places of the digits. */
typedef struct Template
{
	char	   *bytes;
	size_t		length;
	size_t	   *ids;
} Template;

typedef struct Options
{
	int			port;
	const char *key;
	const char *tag;
	int			connections;
	int			idle;
	int			events;
	double		seconds;
	double		rate;			/* 0: closed loop */
	double		timeout;
	double		give_up;		/* after the end, for what is on its way */
	int64_t		pause;			/* before another attempt */
	bool		retry;
	FILE	   *ids;
	int			watch;			/* whose memory to report */
} Options;

typedef struct Stats
{
	uint64_t	sent;
	uint64_t	acknowledged;	/* events */
	uint64_t	requests;		/* that were acknowledged */
	uint64_t	refused;		/* for good, or without --retry */
	uint64_t	unanswered;
	uint64_t	retries;
	uint64_t	resets;
	uint64_t	status[600];
	uint64_t	outcome[OUTCOMES];	/* of events, as the answers say */
	uint64_t	idle_lost;
	char		refusal[512];	/* body of the first */
	uint32_t   *latencies;		/* microseconds */
	size_t		nlatencies;
	double		seconds;		/* of posting */
} Stats;

/* load.c */
extern Options options;
extern Stats stats;
extern const char *const outcomes[OUTCOMES];
extern Template *templates;
extern size_t ntemplates;
extern volatile sig_atomic_t stop;

extern void die(const char *what) __attribute__((noreturn));
extern void *allocate(size_t size);

/* load_loop.c */
extern void open_connections(void);
extern void post_events(void);
/* One request on every idle connection, opened for it or not, and its answer;
 * returns how many were answered. */
extern int	ask_idle(bool opening);

#endif							/* LOAD_H */
