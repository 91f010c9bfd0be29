/*
 * union_floor.c
 *		The union-find of cdi_resolve() with nothing around it.
 *
 * Reads the output of COPY (FORMAT binary), rows of two or three int4 of which
 * the third may be null, then unites the numbers of each row: a flat array of
 * parents, the smaller number survives, paths are halved.  Prints how long the
 * uniting took, and how many components there are among the numbers read.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COPY_HEADER		19		/* signature, flags, no extension */
#define NONE			UINT32_MAX

static uint32_t *parents;

static uint32_t
find(uint32_t node)
{
	while (parents[node] != node)
	{
		parents[node] = parents[parents[node]];
		node = parents[node];
	}
	return node;
}

static void
unite(uint32_t a, uint32_t b)
{
	a = find(a);
	b = find(b);
	if (a < b)
		parents[b] = a;
	else
		parents[a] = b;
}

static void
need(int fine, const char *what)
{
	if (fine)
		return;
	fprintf(stderr, "union_floor: %s\n", what);
	exit(1);
}

static uint32_t
read_number(FILE *file)
{
	uint32_t	word;

	need(fread(&word, sizeof(word), 1, file) == 1, "the input ends too early");
	return ntohl(word);
}

int
main(int argc, char **argv)
{
	FILE	   *file;
	char		header[COPY_HEADER];
	uint16_t	fields;
	uint32_t  (*rows)[3] = NULL;
	size_t		n = 0;
	size_t		capacity = 0;
	uint32_t	largest = 0;
	uint32_t	components = 0;
	char	   *named;
	struct timespec start;
	struct timespec end;

	need(argc == 2, "usage: union_floor FILE");
	file = fopen(argv[1], "rb");
	need(file != NULL, "cannot open the file");
	need(fread(header, sizeof(header), 1, file) == 1 && memcmp(header, "PGCOPY\n", 7) == 0,
		 "not the output of COPY (FORMAT binary)");
	while (fread(&fields, sizeof(fields), 1, file) == 1 && (fields = ntohs(fields)) != UINT16_MAX)
	{
		need(fields == 3, "rows have three columns");
		if (n == capacity)
		{
			capacity = capacity * 2 + 1024;
			rows = realloc(rows, sizeof(*rows) * capacity);
			need(rows != NULL, "out of memory");
		}
		for (int i = 0; i < 3; i++)
		{
			uint32_t	length = read_number(file);

			need(length == sizeof(uint32_t) || length == NONE, "columns are int4");
			rows[n][i] = length == NONE ? NONE : read_number(file);
			if (rows[n][i] != NONE && rows[n][i] > largest)
				largest = rows[n][i];
		}
		n++;
	}
	parents = malloc(sizeof(uint32_t) * ((size_t) largest + 1));
	named = calloc((size_t) largest + 1, 1);
	need(parents != NULL && named != NULL, "out of memory");
	for (size_t i = 0; i <= largest; i++)
		parents[i] = (uint32_t) i;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (size_t i = 0; i < n; i++)
	{
		unite(rows[i][0], rows[i][1]);
		if (rows[i][2] != NONE)
			unite(rows[i][0], rows[i][2]);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);

	for (size_t i = 0; i < n; i++)
		for (int k = 0; k < 3; k++)
			if (rows[i][k] != NONE)
				named[rows[i][k]] = 1;
	for (size_t i = 0; i <= largest; i++)
		if (named[i] && parents[i] == i)
			components++;
	printf("%.6f %u\n", (double) (end.tv_sec - start.tv_sec) + (double) (end.tv_nsec - start.tv_nsec) / 1e9,
		   components);
	return 0;
}
