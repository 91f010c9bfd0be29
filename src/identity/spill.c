/*
 * spill.c
 *		Fold more identifiers than memory is to hold, through sorts on disk.
 *
 * What a link does depends on the links before it that hang together with it,
 * directly or through others, and on no others.  So the links are sorted by
 * what hangs together, and folded one such group after the other, in a graph
 * of the ordinary kind that needs no room but for a group:
 *
 * 1. What there is to fold is written to a file, piece by piece: a link is a
 *	  piece, and so are the identifiers that a person has already.
 * 2. The identifiers of all pieces are sorted.  Pieces that have one in common
 *	  hang together: they are united, in four bytes per piece.
 * 3. The pieces are sorted by group, within it by number, and folded.  What
 *	  comes out is sorted too: the map by person, the record by position.
 *
 * Limits only keep apart what hangs together, so groups need not know them,
 * and neither do they need to know what is revoked.
 *
 * The sorts share maintenance_work_mem.  What does not keep to it are the four
 * bytes per piece, which half of maintenance_work_mem is set aside for, and
 * the graph of the largest group: where everything hangs together, that is the
 * graph that memory was not to hold.
 */
#include "postgres.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "identity/spill.h"

/* What an identifier takes in a graph at most (graph.c) */
#define BYTES_PER_NODE		64

/* Identifiers of small groups that are folded in one graph */
#define GRAPH_NODES			16384

/* Parts of maintenance_work_mem: while the pieces are being read back, the
 * rows and the record are being filled. */
#define MENTIONS_SHARE		2
#define PIECES_SHARE		2
#define ROWS_SHARE			4
#define RECORD_SHARE		8

/*
 * What is sorted is handed to tuplesort as bytea, whose bytes it compares:
 * each of these structures begins with a varlena header and then its sort key,
 * numbers in network byte order.
 */
typedef struct Piece
{
	int32		vl_len_;
	uint32		group;			/* number of its first piece */
	uint32		number;			/* of several identifiers of a person: the same */
	uint32		named;			/* of an identifier: CdiNode.named */
	int64		fold;
	int64		position;
	TimestampTz linked_at;		/* of a link */
	uint32		rule;			/* of a link: number of its limits */
	bool		is_link;		/* else: an identifier and, unless it is itself, its person */
	bool		unlimited;		/* of a link */
	uint8		flags;			/* of an identifier: CdiNode.flags */
	uint8		nkeys;
	/* keys, then as many types, then as many bytes that say which are apart */
	char		body[CDI_MERGES_PER_FOLD * (UUID_LEN + 2)];
} Piece;

#define piece_keys(piece)	((pg_uuid_t *) (piece)->body)
#define piece_types(piece)	((uint8 *) (piece)->body + (piece)->nkeys * UUID_LEN)
#define piece_apart(piece)	(piece_types(piece) + (piece)->nkeys)

/* An identifier of a piece */
typedef struct Mention
{
	int32		vl_len_;
	pg_uuid_t	identifier;
	uint32		number;
} Mention;

/* A row of the new map */
typedef struct Row
{
	int32		vl_len_;
	pg_uuid_t	person;
	uint8		age[sizeof(int64)];	/* fold */
	pg_uuid_t	identifier;
	uint8		type;
	uint8		flags;			/* CdiNode.flags */
	int64		fold;
	int64		position;
} Row;

/* A merge or a refusal */
typedef struct Outcome
{
	int32		vl_len_;
	uint8		position[sizeof(int64)];
	uint8		which;
	bool		refused;
	union
	{
		CdiMerge	merge;
		CdiLimitRefusal refusal;
	}			u;
} Outcome;

struct CdiSpill
{
	MemoryContext context;
	BufFile    *file;			/* all pieces, by number */
	uint32		count;			/* how many numbers */
	pg_uuid_t	person;			/* of the last piece, where it is an identifier */
	bool		from_map;		/* identifiers are rows as stored */
	int			nrules;
	const CdiLimits **rules;
	Tuplesortstate *pieces;		/* by group */
	CdiGraph   *graph;			/* of the groups at hand */
	const CdiLimits *limits;	/* that the graph has tallies of */
	uint32		checked;		/* nodes of the graph, see cdi_map_check_persons */
	CdiFolded	folded;			/* what the link at hand did; then, a part of all */
	Tuplesortstate *rows;
	Tuplesortstate *record;
	int64		identifiers;
	Size		memory;
};

bool
cdi_spill_needed(double identifiers)
{
	return identifiers * BYTES_PER_NODE > maintenance_work_mem * 1024.0;
}

/*
 * Sorts
 */
static Tuplesortstate *
sort_begin(int share)
{
	return tuplesort_begin_datum(BYTEAOID, ByteaLessOperator, InvalidOid, false,
								 maintenance_work_mem / share, NULL, TUPLESORT_NONE);
}

static void
sort_put(Tuplesortstate *sort, void *record, Size size)
{
	SET_VARSIZE(record, size);
	tuplesort_putdatum(sort, PointerGetDatum(record), false);
}

/* The next one, palloc'd; NULL after the last one, and then the sort is over. */
static void *
sort_next(Tuplesortstate **sort)
{
	Datum		datum;
	bool		isnull;

	CHECK_FOR_INTERRUPTS();
	if (*sort == NULL)
		return NULL;
#if PG_VERSION_NUM >= 160000
	if (tuplesort_getdatum(*sort, true, true, &datum, &isnull, NULL))
#else
	if (tuplesort_getdatum(*sort, true, &datum, &isnull, NULL))
#endif
		return DatumGetPointer(datum);
	tuplesort_end(*sort);
	*sort = NULL;
	return NULL;
}

/*
 * Pieces
 */
CdiSpill *
cdi_spill_begin(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "cdi identity spill",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CdiSpill   *spill = palloc0(sizeof(CdiSpill));

	spill->context = context;
	spill->file = BufFileCreateTemp(false);
	MemoryContextSwitchTo(old);
	return spill;
}

static void
write_piece(CdiSpill *spill, Piece *piece)
{
	Size		size = offsetof(Piece, body) + piece->nkeys * (UUID_LEN + 2);

	piece->number = pg_hton32(spill->count - 1);
	SET_VARSIZE(piece, size);
	BufFileWrite(spill->file, piece, size);
}

static void
begin_piece(CdiSpill *spill)
{
	if (spill->count == PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many links and persons for one run of the resolver"),
				 errdetail("It folds at most %u.", spill->count)));
	spill->count++;
}

/* Identifiers of a person that come one after the other are one piece. */
static void
put_identifier(CdiSpill *spill, const pg_uuid_t *identifier, const pg_uuid_t *person, int64 fold,
			   int64 position, uint32 named, uint8 type, uint8 flags)
{
	Piece		piece = {0};

	if (spill->count == 0 || memcmp(&spill->person, person, UUID_LEN) != 0)
		begin_piece(spill);
	spill->person = *person;
	piece.fold = fold;
	piece.position = position;
	piece.named = named;
	piece.flags = flags & (CDI_NODE_STORED | CDI_NODE_PERSON);
	piece.nkeys = 2;
	piece_keys(&piece)[0] = *identifier;
	piece_keys(&piece)[1] = *person;
	piece_types(&piece)[0] = type;
	write_piece(spill, &piece);
}

static void
put_row(void *arg, CdiGraph *graph, const pg_uuid_t *identifier, const pg_uuid_t *person,
		int64 fold, int64 position, uint8 type)
{
	put_identifier(arg, identifier, person, fold, position, 0, type, CDI_NODE_STORED);
}

void
cdi_spill_put_map(CdiSpill *spill, Snapshot snapshot)
{
	spill->from_map = true;
	cdi_map_each(NULL, snapshot, put_row, spill);
}

void
cdi_spill_put_graph(CdiSpill *spill, CdiGraph *graph)
{
	uint32	   *order = cdi_graph_order(graph);

	for (uint32 i = 0; i < graph->count; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, order[i]);

		CHECK_FOR_INTERRUPTS();
		put_identifier(spill, &node->key, &cdi_graph_node(graph, node->parent)->key, node->fold,
					   node->position, node->named, node->type, node->flags);
	}
	spill->memory = graph->peak;
	cdi_graph_destroy(graph);
}

void
cdi_spill_put_link(CdiSpill *spill, const CdiLimits *limits, const CdiLink *link,
				   const pg_uuid_t *keys, const uint8 *types, const uint8 *apart, int64 fold)
{
	Piece		piece;

	if (link->count == 0)
		return;
	if (spill->nrules == 0 || spill->rules[spill->nrules - 1] != limits)
	{
		Size		size = sizeof(CdiLimits *) * (spill->nrules + 1);

		spill->rules = spill->rules == NULL ? MemoryContextAlloc(spill->context, size) :
			repalloc(spill->rules, size);
		spill->rules[spill->nrules++] = limits;
	}
	begin_piece(spill);
	memset(&piece, 0, offsetof(Piece, body));
	piece.fold = fold;
	piece.position = link->position;
	piece.linked_at = link->linked_at;
	piece.rule = spill->nrules - 1;
	piece.is_link = true;
	piece.unlimited = link->unlimited;
	piece.nkeys = link->count;
	memcpy(piece_keys(&piece), keys, UUID_LEN * link->count);
	memcpy(piece_types(&piece), types, link->count);
	if (apart != NULL)
		memcpy(piece_apart(&piece), apart, link->count);
	else
		memset(piece_apart(&piece), CDI_OUTCOME_JOINED, link->count);
	write_piece(spill, &piece);
}

static void
read_exactly(BufFile *file, void *data, Size size)
{
	Size		got = BufFileRead(file, data, size);

	if (got != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from temporary file: read only %zu of %zu bytes", got, size)));
}

static void
rewind_file(CdiSpill *spill)
{
	if (BufFileSeek(spill->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind temporary file")));
}

static bool
read_piece(CdiSpill *spill, Piece *piece)
{
	Size		got = BufFileRead(spill->file, piece, sizeof(piece->vl_len_));

	CHECK_FOR_INTERRUPTS();
	if (got == 0)
		return false;
	read_exactly(spill->file, (char *) piece + sizeof(piece->vl_len_),
				 VARSIZE(piece) - sizeof(piece->vl_len_));
	return true;
}

/*
 * Groups
 */
static Tuplesortstate *
sort_mentions(CdiSpill *spill)
{
	Tuplesortstate *sort = sort_begin(MENTIONS_SHARE);
	Mention		mention;
	Piece		piece;
	bool		first = true;

	rewind_file(spill);
	while (read_piece(spill, &piece))
	{
		bool		again = !first && !piece.is_link && piece.number == mention.number;
		pg_uuid_t  *keys = piece_keys(&piece);

		first = false;
		mention.number = piece.number;
		for (int i = 0; i < piece.nkeys; i++)
		{
			/* a person is mentioned once by all its identifiers */
			if (!piece.is_link &&
				(i == 0 ? memcmp(&keys[0], &keys[1], UUID_LEN) == 0 : again))
				continue;
			mention.identifier = keys[i];
			sort_put(sort, &mention, sizeof(Mention));
		}
	}
	tuplesort_performsort(sort);
	return sort;
}

static uint32
find(uint32 *groups, uint32 number)
{
	while (groups[number] != number)
	{
		groups[number] = groups[groups[number]];
		number = groups[number];
	}
	return number;
}

/* The first piece of every piece's group, on the way at least */
static uint32 *
make_groups(CdiSpill *spill)
{
	Tuplesortstate *mentions = sort_mentions(spill);
	uint32	   *groups = palloc_extended(sizeof(uint32) * Max(spill->count, 1), MCXT_ALLOC_HUGE);
	Mention    *before = NULL;
	Mention    *mention;

	for (uint32 i = 0; i < spill->count; i++)
		groups[i] = i;
	while ((mention = sort_next(&mentions)) != NULL)
	{
		if (before != NULL)
		{
			if (memcmp(&before->identifier, &mention->identifier, UUID_LEN) == 0)
			{
				uint32		one = find(groups, pg_ntoh32(before->number));
				uint32		other = find(groups, pg_ntoh32(mention->number));

				groups[Max(one, other)] = Min(one, other);
			}
			pfree(before);
		}
		before = mention;
	}
	return groups;
}

static void
sort_pieces(CdiSpill *spill)
{
	uint32	   *groups = make_groups(spill);
	Piece		piece;

	spill->memory = Max(spill->memory, sizeof(uint32) * (Size) spill->count);
	spill->pieces = sort_begin(PIECES_SHARE);
	rewind_file(spill);
	while (read_piece(spill, &piece))
	{
		piece.group = pg_hton32(find(groups, pg_ntoh32(piece.number)));
		sort_put(spill->pieces, &piece, VARSIZE(&piece));
	}
	pfree(groups);
	BufFileClose(spill->file);
	tuplesort_performsort(spill->pieces);
}

/*
 * Folding
 */
static void
begin_graph(CdiSpill *spill, Snapshot snapshot)
{
	spill->graph = cdi_graph_create(spill->context);
	if (snapshot != NULL)
		cdi_map_reader_open(spill->graph, snapshot);
	spill->limits = NULL;
	spill->checked = 0;
}

/* Before persons that were taken from the map are folded */
static void
check_persons(CdiSpill *spill)
{
	if (spill->from_map)
		cdi_map_check_persons(spill->graph, spill->checked);
	spill->checked = spill->graph->count;
}

static void
end_graph(CdiSpill *spill)
{
	CdiGraph   *graph = spill->graph;
	Row			row;

	check_persons(spill);
	memset(&row, 0, sizeof(row));
	for (uint32 i = 0; i < graph->count; i++)
	{
		CdiNode    *node = cdi_graph_node(graph, i);
		uint64		age = pg_hton64((uint64) node->fold);

		row.person = cdi_graph_node(graph, cdi_graph_find(graph, i))->key;
		memcpy(row.age, &age, sizeof(row.age));
		row.identifier = node->key;
		row.type = node->type;
		row.flags = node->flags;
		row.fold = node->fold;
		row.position = node->position;
		sort_put(spill->rows, &row, sizeof(Row));
	}
	spill->identifiers += graph->count;
	spill->memory = Max(spill->memory, graph->peak);
	if (graph->map != NULL)
		cdi_map_reader_close(graph);
	cdi_graph_destroy(graph);
}

static void
take_identifier(CdiSpill *spill, Piece *piece)
{
	CdiGraph   *graph = spill->graph;
	uint32		nodes[2];
	CdiNode    *node;
	CdiNode    *person;

	cdi_graph_add(graph, piece_keys(piece), 2, nodes);
	node = cdi_graph_node(graph, nodes[0]);
	person = cdi_graph_node(graph, nodes[1]);
	node->parent = nodes[1];
	node->fold = piece->fold;
	node->position = piece->position;
	node->named = piece->named;
	node->type = piece_types(piece)[0];
	node->flags |= piece->flags;
	person->flags |= CDI_NODE_WHOLE | (spill->from_map ? CDI_NODE_PERSON : 0);
	cdi_graph_ring(graph, nodes[1], nodes[0]);
}

static void
put_outcome(CdiSpill *spill, int64 position, int which, const CdiMerge *merge,
			const CdiLimitRefusal *refusal)
{
	Outcome		outcome;
	uint64		key = pg_hton64((uint64) position);

	memset(&outcome, 0, sizeof(outcome));
	memcpy(outcome.position, &key, sizeof(outcome.position));
	outcome.which = which;
	outcome.refused = refusal != NULL;
	if (outcome.refused)
		outcome.u.refusal = *refusal;
	else
		outcome.u.merge = *merge;
	sort_put(spill->record, &outcome, sizeof(Outcome));
}

static void
take_link(CdiSpill *spill, Piece *piece)
{
	const CdiLimits *limits = spill->rules[piece->rule];
	CdiFolded  *folded = &spill->folded;
	uint32		nodes[CDI_MERGES_PER_FOLD];
	CdiLink		link = {
		.position = piece->position,.linked_at = piece->linked_at,
		.count = piece->nkeys,.unlimited = piece->unlimited
	};

	check_persons(spill);
	if (spill->limits != limits)
		cdi_graph_forget_tallies(spill->graph);
	spill->limits = limits;
	cdi_graph_add(spill->graph, piece_keys(piece), piece->nkeys, nodes);
	folded->nmerges = folded->nrefusals = 0;
	cdi_graph_fold(spill->graph, limits, &link, nodes, piece_types(piece), piece_apart(piece),
				   piece->fold, folded, NULL);
	for (int i = 0; i < folded->nmerges; i++)
		put_outcome(spill, link.position, folded->merges[i].which, &folded->merges[i], NULL);
	for (int i = 0; i < folded->nrefusals; i++)
		put_outcome(spill, link.position, folded->refusals[i].which, NULL, &folded->refusals[i]);
}

void
cdi_spill_fold(CdiSpill *spill, Snapshot snapshot)
{
	MemoryContext old = MemoryContextSwitchTo(spill->context);
	uint32		group = 0;
	Piece	   *piece;

	sort_pieces(spill);
	spill->rows = sort_begin(ROWS_SHARE);
	spill->record = sort_begin(RECORD_SHARE);
	/* room for what cdi_spill_folded returns */
	spill->folded.merges_capacity = spill->folded.refusals_capacity = CDI_LINK_BATCH;
	spill->folded.merges = palloc(sizeof(CdiMerge) * CDI_LINK_BATCH);
	spill->folded.refusals = palloc(sizeof(CdiLimitRefusal) * CDI_LINK_BATCH);
	begin_graph(spill, snapshot);
	while ((piece = sort_next(&spill->pieces)) != NULL)
	{
		if (piece->group != group && spill->graph->count >= GRAPH_NODES)
		{
			end_graph(spill);
			begin_graph(spill, snapshot);
		}
		group = piece->group;
		if (piece->is_link)
			take_link(spill, piece);
		else
			take_identifier(spill, piece);
		pfree(piece);
	}
	end_graph(spill);
	tuplesort_performsort(spill->rows);
	tuplesort_performsort(spill->record);
	MemoryContextSwitchTo(old);
}

/*
 * Results
 */
const CdiFolded *
cdi_spill_folded(CdiSpill *spill)
{
	MemoryContext old = MemoryContextSwitchTo(spill->context);
	CdiFolded  *folded = &spill->folded;
	Outcome    *outcome;

	folded->nmerges = folded->nrefusals = 0;
	while (folded->nmerges + folded->nrefusals < CDI_LINK_BATCH &&
		   (outcome = sort_next(&spill->record)) != NULL)
	{
		if (outcome->refused)
			folded->refusals[folded->nrefusals++] = outcome->u.refusal;
		else
			folded->merges[folded->nmerges++] = outcome->u.merge;
		pfree(outcome);
	}
	MemoryContextSwitchTo(old);
	return folded->nmerges + folded->nrefusals > 0 ? folded : NULL;
}

static bool
next_row(void *arg, CdiMapEntry *entry)
{
	CdiSpill   *spill = arg;
	Row		   *row = sort_next(&spill->rows);

	if (row == NULL)
		return false;
	entry->identifier = row->identifier;
	entry->person = row->person;
	entry->fold = row->fold;
	entry->position = row->position;
	entry->type = row->type;
	entry->flags = row->flags;
	pfree(row);
	return true;
}

bool
cdi_spill_replace(CdiSpill *spill)
{
	MemoryContext old = MemoryContextSwitchTo(spill->context);
	bool		replaced = cdi_map_replace_by(next_row, spill);

	MemoryContextSwitchTo(old);
	return replaced;
}

/* A part of the rows at a time */
void
cdi_spill_update(CdiSpill *spill)
{
	MemoryContext old = MemoryContextSwitchTo(spill->context);
	CdiMapEntry entry;
	bool		more = true;

	while (more)
	{
		CdiGraph   *graph = cdi_graph_create(spill->context);

		while (graph->count < GRAPH_NODES && (more = next_row(spill, &entry)))
		{
			uint32		nodes[2];
			CdiNode    *node;

			cdi_graph_add(graph, (pg_uuid_t[]) {entry.identifier, entry.person}, 2, nodes);
			node = cdi_graph_node(graph, nodes[0]);
			node->parent = nodes[1];
			node->fold = entry.fold;
			node->position = entry.position;
			node->type = entry.type;
			node->flags = entry.flags;
		}
		cdi_map_update(graph);
		cdi_graph_destroy(graph);
	}
	MemoryContextSwitchTo(old);
}

int64
cdi_spill_identifiers(const CdiSpill *spill)
{
	return spill->identifiers;
}

Size
cdi_spill_memory(const CdiSpill *spill)
{
	return spill->memory;
}

void
cdi_spill_end(CdiSpill *spill)
{
	/* what was not read to the end */
	if (spill->rows != NULL)
		tuplesort_end(spill->rows);
	if (spill->record != NULL)
		tuplesort_end(spill->record);
	MemoryContextDelete(spill->context);
}
