/*
 * bridges.c
 *		Links that alone hold a person together, and who was who before a run.
 *
 * Identifiers and the links that joined them are the two kinds of vertices of
 * a graph.  A link that is a cut vertex of it (Hopcroft and Tarjan, 1973) is a
 * bridge: without it the person would fall apart.  One pass in depth finds
 * them all, with the number of identifiers on each side.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "base/errors.h"
#include "identity/identity.h"

/* Vertices are the graph's nodes, and behind them the links. */
typedef struct Vertex
{
	int			found;			/* order in which it was found; 0: not yet */
	int			low;			/* earliest that it, or what it led to, reaches */
	uint32		parent;
	int			next;			/* edge to look at next */
	int64		identifiers;	/* in the subtree that it leads to */
	int64		cut;			/* of these, identifiers that hang on it alone */
	int64		largest;		/* largest part of the latter */
} Vertex;

typedef struct Search
{
	const CdiHistory *history;
	CdiAdjacency adjacency;
	uint32		nnodes;
	Vertex	   *vertices;
	int64		min_identifiers;
	int			nfound;
	Datum	   *positions;		/* bridges */
	Datum	   *split_off;
} Search;

/* The next neighbour of a vertex, or false */
static bool
next_neighbour(Search *search, uint32 number, uint32 *neighbour)
{
	Vertex	   *vertex = &search->vertices[number];

	if (number < search->nnodes)
	{
		int			at = search->adjacency.first[number] + vertex->next;

		if (at >= search->adjacency.first[number + 1])
			return false;
		*neighbour = search->nnodes + search->adjacency.links[at];
		vertex->next++;
		return true;
	}
	else
	{
		const CdiLink *link = &search->history->batch.links[number - search->nnodes];

		while (vertex->next < link->count)
		{
			int			key = link->first + vertex->next++;

			if (search->history->outcome[key] == CDI_OUTCOME_JOINED)
			{
				*neighbour = search->history->nodes[key];
				return true;
			}
		}
		return false;
	}
}

/* All that a vertex leads to has been seen: tell its parent. */
static void
leave(Search *search, uint32 number)
{
	Vertex	   *vertex = &search->vertices[number];
	Vertex	   *parent = &search->vertices[vertex->parent];

	parent->identifiers += vertex->identifiers;
	parent->low = Min(parent->low, vertex->low);
	if (vertex->low >= parent->found)
	{
		parent->cut += vertex->identifiers;
		parent->largest = Max(parent->largest, vertex->identifiers);
	}
}

static void
walk(Search *search, uint32 start)
{
	uint32		at = start;
	int			clock = 0;

	search->vertices[start].found = search->vertices[start].low = ++clock;
	search->vertices[start].identifiers = 1;
	search->vertices[start].parent = start;
	for (;;)
	{
		uint32		neighbour;

		if (!next_neighbour(search, at, &neighbour))
		{
			if (at == start)
				break;
			leave(search, at);
			at = search->vertices[at].parent;
			continue;
		}
		CHECK_FOR_INTERRUPTS();
		if (search->vertices[neighbour].found == 0)
		{
			Vertex	   *vertex = &search->vertices[neighbour];

			vertex->found = vertex->low = ++clock;
			vertex->parent = at;
			vertex->identifiers = neighbour < search->nnodes ? 1 : 0;
			at = neighbour;
		}
		else if (neighbour != search->vertices[at].parent)
			search->vertices[at].low = Min(search->vertices[at].low, search->vertices[neighbour].found);
	}
}

static void
collect(Search *search, uint32 start)
{
	int64		total = search->vertices[start].identifiers;

	for (int i = 0; i < search->history->batch.count; i++)
	{
		Vertex	   *vertex = &search->vertices[search->nnodes + i];
		int64		split_off;

		if (vertex->found == 0 || vertex->cut == 0)
			continue;
		/* all parts but the largest; the rest above the link is one, too */
		split_off = total - Max(vertex->largest, total - vertex->cut);
		if (split_off < search->min_identifiers)
			continue;
		search->positions[search->nfound] = Int64GetDatum(search->history->batch.links[i].position);
		search->split_off[search->nfound++] = Int64GetDatum(split_off);
	}
}

static void
put_words(const Search *search, ReturnSetInfo *result)
{
	static CdiPlan plan = {
		.query = "SELECT l.position, l.event_id, l.rule, l.linked_at,"
		" (SELECT array_agg(u.type || ':' || u.value ORDER BY u.n) FROM unnest(l.types, l.\"values\")"
		" WITH ORDINALITY AS u (type, value, n)), b.split_off"
		" FROM unnest($1, $2) AS b (position, split_off) JOIN cdi.identity_links l USING (position)"
		" ORDER BY b.split_off DESC, l.position",
		.nargs = 2,.argtypes = {INT8ARRAYOID, INT8ARRAYOID}
	};

	cdi_plan_read(&plan, (Datum[]) {
		cdi_int8_array(search->positions, search->nfound), cdi_int8_array(search->split_off, search->nfound)
	});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		values[6];
		bool		nulls[6];

		for (int c = 0; c < lengthof(values); c++)
			values[c] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(cdi_identity_bridges);

Datum
cdi_identity_bridges(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	pg_uuid_t	person = *PG_GETARG_UUID_P(0);
	CdiOwnerScope scope;
	CdiGraph   *graph;
	Search		search = {.min_identifiers = PG_GETARG_INT32(1)};
	CdiHistory *history;

	cdi_require_storage();
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	SPI_connect();
	graph = cdi_graph_create(CurrentMemoryContext);
	history = cdi_history_open_closure(&person, 1, DT_NOEND, PG_INT64_MAX);
	if (cdi_history_fold(history, graph))
	{
		uint32		start;
		int			nlinks = history->batch.count;

		cdi_graph_add(graph, &person, 1, &start);
		search.history = history;
		search.nnodes = graph->count;
		search.adjacency = cdi_history_adjacency(history, graph->count);
		search.vertices = palloc_extended(sizeof(Vertex) * (graph->count + (Size) nlinks),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		search.positions = palloc_extended(sizeof(Datum) * nlinks, MCXT_ALLOC_HUGE);
		search.split_off = palloc_extended(sizeof(Datum) * nlinks, MCXT_ALLOC_HUGE);
		walk(&search, start);
		collect(&search, start);
		if (search.nfound > 0)
			put_words(&search, result);
	}
	cdi_history_close(history);
	cdi_graph_destroy(graph);
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdi_people_before);

/*
 * cdi._people_before(keys, run): whose the identifiers were before the run, by
 * what counts now.
 */
Datum
cdi_people_before(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		run = PG_GETARG_INT64(1);
	CdiOwnerScope scope;
	CdiGraph   *graph;
	CdiHistory *history;
	pg_uuid_t  *seeds;
	int			n;

	cdi_require_storage();
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	SPI_connect();
	seeds = cdi_uuids(PG_GETARG_DATUM(0), &n);
	graph = cdi_graph_create(CurrentMemoryContext);
	history = cdi_history_open_closure(seeds, n, DT_NOEND, run);
	if (cdi_history_fold(history, graph))
	{
		int64	   *sizes = palloc_extended(sizeof(int64) * graph->count, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

		for (uint32 i = 0; i < graph->count; i++)
			sizes[cdi_graph_find(graph, i)]++;
		for (uint32 i = 0; i < graph->count; i++)
			if (sizes[i] > 0)
			{
				Datum		values[2] = {UUIDPGetDatum(&cdi_graph_node(graph, i)->key), Int64GetDatum(sizes[i])};
				bool		nulls[2] = {0};

				tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
			}
	}
	cdi_history_close(history);
	cdi_graph_destroy(graph);
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}
