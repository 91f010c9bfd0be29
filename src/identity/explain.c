/*
 * explain.c
 *		Why two identifiers are one person, or are not.
 *
 * What hangs together with the two is folded again from its links, as it was
 * (history.c).  A link joins the identifiers that it united; the shortest
 * chain of links from one to the other is the explanation.  Around it lie the
 * identifiers that a limit or an unmerge has kept apart.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "base/errors.h"
#include "identity/identity.h"

#define NOT_REACHED		(-1)
#define START			(-2)

/* Rows of the answer, before they get words */
typedef struct Steps
{
	int			n;
	int			capacity;
	Datum	   *step;			/* 0: beside the chain */
	Datum	   *status;
	Datum	   *from;
	Datum	   *to;
	Datum	   *position;
	Datum	   *detail;
} Steps;

static void
append_step(Steps *steps, int step, const char *status, const pg_uuid_t *from,
			const pg_uuid_t *to, int64 position, const char *detail)
{
	if (steps->n == steps->capacity)
	{
		steps->capacity = Max(steps->capacity * 2, 64);
#define GROW(column) \
		steps->column = steps->column == NULL ? palloc(sizeof(Datum) * steps->capacity) : \
			repalloc_huge(steps->column, sizeof(Datum) * steps->capacity)
		GROW(step);
		GROW(status);
		GROW(from);
		GROW(to);
		GROW(position);
		GROW(detail);
#undef GROW
	}
	steps->step[steps->n] = Int32GetDatum(step);
	steps->status[steps->n] = CStringGetTextDatum(status);
	steps->from[steps->n] = UUIDPGetDatum(from);
	steps->to[steps->n] = UUIDPGetDatum(to);
	steps->position[steps->n] = Int64GetDatum(position);
	steps->detail[steps->n++] = CStringGetTextDatum(detail);
}

CdiAdjacency
cdi_history_adjacency(const CdiHistory *history, uint32 nnodes)
{
	const CdiLinkBatch *batch = &history->batch;
	CdiAdjacency adjacency;
	int		   *filled;

	adjacency.first = palloc0(sizeof(int) * (nnodes + 2));
	adjacency.links = palloc_extended(sizeof(int) * Max(batch->nkeys, 1), MCXT_ALLOC_HUGE);
	for (int k = 0; k < batch->nkeys; k++)
		if (history->outcome[k] == CDI_OUTCOME_JOINED)
			adjacency.first[history->nodes[k] + 1]++;
	for (uint32 i = 0; i < nnodes; i++)
		adjacency.first[i + 1] += adjacency.first[i];
	filled = palloc(sizeof(int) * (nnodes + 1));
	memcpy(filled, adjacency.first, sizeof(int) * (nnodes + 1));
	for (int i = 0; i < batch->count; i++)
		for (int k = batch->links[i].first; k < batch->links[i].first + batch->links[i].count; k++)
			if (history->outcome[k] == CDI_OUTCOME_JOINED)
				adjacency.links[filled[history->nodes[k]]++] = i;
	return adjacency;
}

/*
 * Breadth first from node a.  via has, per node reached, the link that led
 * there, and before the node that it came from.
 */
static void
search(const CdiHistory *history, const CdiAdjacency *adjacency, uint32 nnodes, uint32 a, uint32 b,
	   int *via, uint32 *before)
{
	uint32	   *queue = palloc_extended(sizeof(uint32) * Max(nnodes, 1), MCXT_ALLOC_HUGE);
	bool	   *link_done = palloc0(Max(history->batch.count, 1));
	uint32		head = 0;
	uint32		tail = 0;

	for (uint32 i = 0; i < nnodes; i++)
		via[i] = NOT_REACHED;
	via[a] = START;
	queue[tail++] = a;
	while (head < tail && via[b] == NOT_REACHED)
	{
		uint32		node = queue[head++];

		for (int s = adjacency->first[node]; s < adjacency->first[node + 1]; s++)
		{
			int			number = adjacency->links[s];
			const CdiLink *link = &history->batch.links[number];

			if (link_done[number])
				continue;
			link_done[number] = true;
			for (int k = link->first; k < link->first + link->count; k++)
			{
				uint32		other = history->nodes[k];

				if (history->outcome[k] != CDI_OUTCOME_JOINED || via[other] != NOT_REACHED)
					continue;
				via[other] = number;
				before[other] = node;
				queue[tail++] = other;
			}
		}
	}
}

static void
append_chain(Steps *steps, const CdiHistory *history, CdiGraph *graph, uint32 a, uint32 b,
			 const int *via, const uint32 *before, bool *near_nodes)
{
	uint32	   *path;
	int			length = 0;

	for (uint32 node = b; node != a; node = before[node])
		length++;
	path = palloc(sizeof(uint32) * (length + 1));
	for (uint32 node = b, i = length;; node = before[node], i--)
	{
		path[i] = node;
		near_nodes[node] = true;
		if (node == a)
			break;
	}
	for (int i = 1; i <= length; i++)
		append_step(steps, i, "linked", &cdi_graph_node(graph, path[i - 1])->key,
					&cdi_graph_node(graph, path[i])->key,
					history->batch.links[via[path[i]]].position, "");
}

/* What was kept apart from, or at, an identifier of the chain, or, where there
 * is none, of either person */
static void
append_refused(Steps *steps, const CdiHistory *history, const bool *near_nodes)
{
	const CdiLinkBatch *batch = &history->batch;
	const CdiLimitRefusal *next = history->folded.refusals; /* in the order of the links */

	for (int i = 0; i < batch->count; i++)
	{
		const CdiLink *link = &batch->links[i];
		const CdiLimitRefusal *refusals = next;
		const pg_uuid_t *joined = NULL;
		bool		is_near = false;

		for (int k = link->first; k < link->first + link->count; k++)
		{
			is_near |= near_nodes[history->nodes[k]];
			next += history->outcome[k] == CDI_OUTCOME_REFUSED;
			if (joined == NULL && history->outcome[k] == CDI_OUTCOME_JOINED)
				joined = &batch->keys[k];
		}
		if (!is_near)
			continue;
		for (int k = link->first; k < link->first + link->count; k++)
		{
			const CdiLimitRefusal *refusal = history->outcome[k] == CDI_OUTCOME_REFUSED ? refusals++ : NULL;
			const pg_uuid_t *from = joined != NULL ? joined : &batch->keys[link->first];

			if (history->outcome[k] == CDI_OUTCOME_JOINED || from == &batch->keys[k])
				continue;
			append_step(steps, 0, refusal != NULL ? "refused" : "unmerged", from, &batch->keys[k], link->position,
						refusal == NULL ? "" :
						psprintf("limit of %d: the person has %d, and %d would come", refusal->max,
								 refusal->has, refusal->brings));
		}
	}
}

static void
put_words(const Steps *steps, ReturnSetInfo *result)
{
	static CdiPlan plan = {
		.query = "SELECT nullif(s.step, 0), s.status, f.type, f.value, t.type, t.value,"
		" l.position, l.event_id, l.rule, l.linked_at,"
		" coalesce(nullif(s.detail, ''), CASE WHEN s.status = 'unmerged' THEN"
		" (SELECT concat_ws(': ', format('undone by %s at %s', v.revoked_by, v.revoked_at), v.reason)"
		" FROM cdi.identity_revocations v WHERE v.position = s.position"
		" OR v.position IS NULL AND v.identifier = ANY (l.identifiers)"
		" ORDER BY v.revocation_id DESC LIMIT 1) END)"
		" FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY AS"
		" s (step, status, from_identifier, to_identifier, position, detail, n)"
		" JOIN cdi.identity_links l USING (position)"
		" LEFT JOIN LATERAL (SELECT u.type, u.value FROM unnest(l.identifiers, l.types, l.\"values\")"
		" AS u (identifier, type, value) WHERE u.identifier = s.from_identifier LIMIT 1) f ON true"
		" LEFT JOIN LATERAL (SELECT u.type, u.value FROM unnest(l.identifiers, l.types, l.\"values\")"
		" AS u (identifier, type, value) WHERE u.identifier = s.to_identifier LIMIT 1) t ON true"
		" ORDER BY s.n",
		.nargs = 6,.argtypes = {INT4ARRAYOID, TEXTARRAYOID, UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, TEXTARRAYOID}
	};

	cdi_plan_read(&plan, (Datum[]) {
		PointerGetDatum(construct_array(steps->step, steps->n, INT4OID, sizeof(int32), true, TYPALIGN_INT)),
			PointerGetDatum(construct_array(steps->status, steps->n, TEXTOID, -1, false, TYPALIGN_INT)),
			cdi_uuid_array(steps->from, steps->n),
			cdi_uuid_array(steps->to, steps->n),
			cdi_int8_array(steps->position, steps->n),
			PointerGetDatum(construct_array(steps->detail, steps->n, TEXTOID, -1, false, TYPALIGN_INT))
	});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		values[11];
		bool		nulls[11];

		for (int c = 0; c < lengthof(values); c++)
			values[c] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(cdi_explain_identity);

Datum
cdi_explain_identity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	pg_uuid_t	ends[2] = {*PG_GETARG_UUID_P(0), *PG_GETARG_UUID_P(1)};
	CdiOwnerScope scope;
	CdiGraph   *graph;
	CdiHistory *history;
	Steps		steps = {0};
	uint32		nodes[2];

	cdi_require_storage();
	InitMaterializedSRF(fcinfo, 0);
	cdi_owner_enter(&scope);
	SPI_connect();
	graph = cdi_graph_create(CurrentMemoryContext);
	history = cdi_history_open_closure(ends, 2, DT_NOEND, PG_INT64_MAX);
	if (cdi_history_fold(history, graph))
	{
		CdiAdjacency adjacency;
		int		   *via;
		uint32	   *before;
		bool	   *near_nodes;

		cdi_graph_add(graph, ends, 2, nodes);
		via = palloc_extended(sizeof(int) * graph->count, MCXT_ALLOC_HUGE);
		before = palloc_extended(sizeof(uint32) * graph->count, MCXT_ALLOC_HUGE);
		near_nodes = palloc_extended(graph->count, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		adjacency = cdi_history_adjacency(history, graph->count);
		search(history, &adjacency, graph->count, nodes[0], nodes[1], via, before);
		if (via[nodes[1]] != NOT_REACHED)
			append_chain(&steps, history, graph, nodes[0], nodes[1], via, before, near_nodes);
		else
			for (uint32 i = 0; i < graph->count; i++)
			{
				uint32		root = cdi_graph_find(graph, i);

				near_nodes[i] = root == cdi_graph_find(graph, nodes[0]) ||
					root == cdi_graph_find(graph, nodes[1]);
			}
		append_refused(&steps, history, near_nodes);
		if (steps.n > 0)
			put_words(&steps, result);
	}
	cdi_history_close(history);
	cdi_graph_destroy(graph);
	SPI_finish();
	cdi_owner_leave(&scope);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdi_identifier);

/* Key of an identifier, as cdi.events.subject has it */
Datum
cdi_identifier(PG_FUNCTION_ARGS)
{
	char	   *type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *argument = PG_GETARG_TEXT_PP(1);
	CdiOwnerScope scope;
	pg_uuid_t  *key = palloc(sizeof(pg_uuid_t));
	bool		usable;

	cdi_require_storage();
	cdi_owner_enter(&scope);
	SPI_connect();
	usable = cdi_identifier_key_of(cdi_identifier_type(type), (CdiText) {VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument)}, key);
	SPI_finish();
	cdi_owner_leave(&scope);
	if (!usable)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(key);
}
