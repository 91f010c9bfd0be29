/*
 * load.c
 *		Posts events to a collector over HTTP and says what became of them.
 *
 *		cc -O2 -o build/bench/load test/bench/load.c test/bench/load_loop.c
 *		load [options] PORT WRITE_KEY CALLS
 *
 * CALLS has one call per line, "type<TAB>members", without its message id and
 * opening brace.  Every event gets a message id of its own, "TAG-" and twelve
 * digits: the bytes of a request are made once per call and only the digits
 * change, so that this program takes little of the processor that it shares
 * with what it measures.  One thread, one epoll descriptor, and per request
 * one send() and one recv().
 *
 * A closed loop posts on each connection as soon as it has its answer.  With
 * --rate, requests are due at fixed times whatever the server does, and their
 * latency counts from then on, waiting for a free connection included.
 *
 * With --retry a request that was refused for now (429, 5xx) or whose
 * connection broke is posted again with the same message ids, until it is
 * acknowledged or refused for good.
 *
 * --idle opens that many more connections first, has one request answered on
 * each, leaves them alone, and at the end has another one answered on each.
 *
 * SIGTERM ends the posting early; what is on its way is then finished.
 * Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "load.h"

Options		options = {.tag = "load",.connections = 64,.events = 1,.seconds = 4,
	.timeout = 20,.give_up = 20,.pause = 50 * MILLISECOND};

Stats		stats;

const char *const outcomes[OUTCOMES] = {"received", "stored", "duplicate", "failed", "withheld"};

Template   *templates;
size_t		ntemplates;
volatile sig_atomic_t stop;

void
die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(2);
}

void *
allocate(size_t size)
{
	void	   *result = calloc(1, size);

	if (result == NULL)
		die("memory");
	return result;
}

/*
 * Requests
 */
static char *
base64(const char *text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t		length = strlen(text);
	char	   *result = allocate(length * 2 + 8);
	size_t		n = 0;

	for (size_t i = 0; i < length; i += 3)
	{
		unsigned char a = text[i];
		unsigned char b = i + 1 < length ? text[i + 1] : 0;
		unsigned char c = i + 2 < length ? text[i + 2] : 0;

		result[n++] = digits[a >> 2];
		result[n++] = digits[(a & 3) << 4 | b >> 4];
		result[n++] = i + 1 < length ? digits[(b & 15) << 2 | c >> 6] : '=';
		result[n++] = i + 2 < length ? digits[c & 63] : '=';
	}
	return result;
}

/* One request with the calls from lines[first] on, and zeros as digits. */
static void
make_template(Template *template, char **lines, size_t nlines, size_t first, const char *authorization)
{
	char	   *type = lines[first];
	char	   *head;
	char	   *body;
	size_t		length = 0;
	size_t		body_length;
	FILE	   *out = open_memstream(&body, &body_length);

	template->ids = allocate(sizeof(size_t) * options.events);
	if (options.events > 1)
		fputs("{\"batch\":[", out);
	for (int i = 0; i < options.events; i++)
	{
		char	   *line = lines[(first + i) % nlines];

		fprintf(out, "%s{\"messageId\":\"%s-", i > 0 ? "," : "", options.tag);
		fflush(out);
		template->ids[i] = body_length;
		fprintf(out, "%0*d\",", ID_DIGITS, 0);
		if (options.events > 1)
			fprintf(out, "\"type\":\"%.*s\",", (int) strcspn(line, "\t"), line);
		fputs(strchr(line, '\t') + 1, out);
	}
	if (options.events > 1)
		fputs("]}", out);
	fclose(out);

	if (asprintf(&head, "POST /v1/%.*s HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: application/json\r\n"
				 "Authorization: Basic %s\r\nContent-Length: %zu\r\n\r\n",
				 options.events > 1 ? 5 : (int) strcspn(type, "\t"), options.events > 1 ? "batch" : type,
				 options.port, authorization, body_length) < 0)
		die("memory");
	length = strlen(head);
	template->length = length + body_length;
	template->bytes = allocate(template->length);
	memcpy(template->bytes, head, length);
	memcpy(template->bytes + length, body, body_length);
	for (int i = 0; i < options.events; i++)
		template->ids[i] += length;
	free(head);
	free(body);
}

static void
read_calls(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char	  **lines = NULL;
	char	   *line = NULL;
	char	   *user;
	char	   *authorization;
	size_t		size = 0;
	size_t		n = 0;
	ssize_t		length;

	if (file == NULL)
		die(path);
	while ((length = getline(&line, &size, file)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if (strchr(line, '\t') == NULL)
			continue;
		lines = realloc(lines, sizeof(char *) * (n + 1));
		lines[n++] = strdup(line);
	}
	fclose(file);
	free(line);
	if (n == 0)
	{
		errno = EINVAL;
		die(path);
	}
	if (asprintf(&user, "%s:", options.key) < 0)
		die("memory");
	authorization = base64(user);
	ntemplates = (n + options.events - 1) / options.events;
	templates = allocate(sizeof(Template) * ntemplates);
	for (size_t i = 0; i < ntemplates; i++)
		make_template(&templates[i], lines, n, i * options.events, authorization);
	for (size_t i = 0; i < n; i++)
		free(lines[i]);
	free(lines);
	free(user);
	free(authorization);
}

static long
memory_of(int pid)
{
	char		path[64];
	char		line[256];
	long		kilobytes = 0;
	FILE	   *file;

	if (pid == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if ((file = fopen(path, "r")) == NULL)
		die(path);
	while (fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "VmRSS: %ld", &kilobytes) == 1)
			break;
	fclose(file);
	return kilobytes;
}

static void
on_signal(int number)
{
	(void) number;
	stop = 1;
}

static int
compare_latencies(const void *a, const void *b)
{
	uint32_t	left = *(const uint32_t *) a;
	uint32_t	right = *(const uint32_t *) b;

	return (left > right) - (left < right);
}

static double
percentile(double part)
{
	if (stats.nlatencies == 0)
		return 0;
	return stats.latencies[(size_t) ((stats.nlatencies - 1) * part)] / 1000.0;
}

static void
print_string(const char *text)
{
	putchar('"');
	for (; *text != '\0'; text++)
	{
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char) *text >= ' ' && (unsigned char) *text < 127)
			putchar(*text);
	}
	putchar('"');
}

static void
report(int idle_answering, long rss_before, long rss_idle, double cpu)
{
	const char *comma = "";

	qsort(stats.latencies, stats.nlatencies, sizeof(uint32_t), compare_latencies);
	printf("{\"acknowledged\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
		   "\"p999_ms\": %.3f, \"max_ms\": %.3f, \"statuses\": {", stats.acknowledged, stats.requests, stats.seconds,
		   percentile(0.5), percentile(0.99), percentile(0.999), percentile(1));
	for (int i = 0; i < 600; i++)
		if (stats.status[i] > 0)
		{
			printf("%s\"%d\": %" PRIu64, comma, i, stats.status[i]);
			comma = ", ";
		}
	printf("}, \"refused\": %" PRIu64 ", \"unanswered\": %" PRIu64 ", \"resets\": %" PRIu64 ", \"retries\": %" PRIu64,
		   stats.refused, stats.unanswered, stats.resets, stats.retries);
	for (int i = 0; i < OUTCOMES; i++)
		printf(", \"%s\": %" PRIu64, outcomes[i], stats.outcome[i]);
	if (stats.refusal[0] != '\0')
	{
		printf(", \"first_refusal\": ");
		print_string(stats.refusal);
	}
	if (options.idle > 0)
		printf(", \"idle\": %d, \"idle_answering\": %d", options.idle, idle_answering);
	if (options.watch)
		printf(", \"rss_before_kb\": %ld, \"rss_idle_kb\": %ld", rss_before, rss_idle);
	printf(", \"cpu_seconds\": %.3f}\n", cpu);
}

static void
usage(void)
{
	fprintf(stderr,
			"usage: load [options] PORT WRITE_KEY CALLS\n"
			"  --connections N  keep-alive connections that post (64)\n"
			"  --seconds S      how long (4)\n"
			"  --rate R         requests per second, whatever the server does (as fast as it answers)\n"
			"  --events N       per body (1)\n"
			"  --tag TAG        of the message ids (load)\n"
			"  --idle N         connections more that are held open (0)\n"
			"  --watch PID      report the memory of that process before and with them\n"
			"  --retry          post again what was not acknowledged\n"
			"  --pause MS       before that (50)\n"
			"  --timeout S      wait for one answer (20)\n"
			"  --give-up S      wait for the last answers after the end (20)\n"
			"  --ids FILE       write the message ids that were acknowledged\n");
	exit(2);
}

static void
read_options(int argc, char **argv)
{
	static const struct option names[] = {
		{"connections", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'}, {"rate", 1, NULL, 'r'}, {"events", 1, NULL, 'e'},
		{"tag", 1, NULL, 't'}, {"idle", 1, NULL, 'i'}, {"watch", 1, NULL, 'w'}, {"retry", 0, NULL, 'R'},
		{"pause", 1, NULL, 'p'}, {"timeout", 1, NULL, 'T'}, {"give-up", 1, NULL, 'g'}, {"ids", 1, NULL, 'o'},
		{NULL, 0, NULL, 0}
	};
	int			option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
		switch (option)
		{
			case 'c': options.connections = atoi(optarg); break;
			case 's': options.seconds = atof(optarg); break;
			case 'r': options.rate = atof(optarg); break;
			case 'e': options.events = atoi(optarg); break;
			case 't': options.tag = optarg; break;
			case 'i': options.idle = atoi(optarg); break;
			case 'w': options.watch = atoi(optarg); break;
			case 'R': options.retry = true; break;
			case 'p': options.pause = atoi(optarg) * MILLISECOND; break;
			case 'T': options.timeout = atof(optarg); break;
			case 'g': options.give_up = atof(optarg); break;
			case 'o':
				if ((options.ids = fopen(optarg, "w")) == NULL)
					die(optarg);
				break;
			default: usage();
		}
	if (argc - optind != 3 || options.connections < 1 || options.events < 1 || options.idle < 0)
		usage();
	options.port = atoi(argv[optind]);
	options.key = argv[optind + 1];
	read_calls(argv[optind + 2]);
}

int
main(int argc, char **argv)
{
	struct rlimit files;
	struct rusage before;
	struct rusage after;
	long		rss_before;
	long		rss_idle;
	int			answering;

	read_options(argc, argv);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
	{
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	open_connections();

	rss_before = memory_of(options.watch);
	ask_idle(true);
	rss_idle = memory_of(options.watch);

	getrusage(RUSAGE_SELF, &before);
	if (options.seconds > 0)
		post_events();
	getrusage(RUSAGE_SELF, &after);

	answering = ask_idle(false);
	if (options.ids != NULL && fclose(options.ids) != 0)
		die("acknowledged message ids");
	report(answering, rss_before, rss_idle,
		   after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec +
		   (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6);
	return stats.refused + stats.unanswered > 0 || answering < options.idle;
}
