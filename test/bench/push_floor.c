/*
 * push_floor.c
 *		The most that libcurl's multi interface sends with nothing around it.
 *
 * Sends one body again and again over a few connections for so many seconds.
 * Nothing is read from a database, nothing is recorded.
 *
 *		cc -O2 -o build/bench/push_floor test/bench/push_floor.c -lcurl
 *		build/bench/push_floor URL CONNECTIONS SECONDS < BODY
 *
 * Prints requests per second.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_BODY (16 * 1024 * 1024)

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static size_t
ignore(char *data, size_t size, size_t count, void *arg)
{
	return size * count;
}

int
main(int argc, char **argv)
{
	char	   *body = malloc(MAX_BODY);
	size_t		len = fread(body, 1, MAX_BODY, stdin);
	int			connections = atoi(argv[2]);
	double		begin = now();
	double		until = begin + atof(argv[3]);
	CURLM	   *multi = curl_multi_init();
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	long		done = 0;
	int			running = 1;

	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, "Idempotency-Key: 0123456789abcdef0123456789abcdef");
	for (int i = 0; i < connections; i++)
	{
		CURL	   *easy = curl_easy_init();

		curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) len);
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
		curl_multi_add_handle(multi, easy);
	}
	while (running > 0)
	{
		CURLMsg    *message;
		int			left;

		curl_multi_perform(multi, &running);
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
		{
			CURL	   *easy = message->easy_handle;
			long		status = 0;

			curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
			if (message->data.result != CURLE_OK || status != 200)
			{
				fprintf(stderr, "push_floor: %s, status %ld\n", curl_easy_strerror(message->data.result), status);
				return 1;
			}
			done++;
			curl_multi_remove_handle(multi, easy);
			if (now() < until)
			{
				curl_multi_add_handle(multi, easy);
				running++;
			}
		}
		if (running > 0)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	printf("%.1f\n", done / (now() - begin));
	return 0;
}
