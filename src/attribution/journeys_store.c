/*
 * journeys_store.c
 *		Touches, in parts by person.
 *
 * A touch goes into its part's open chunk.  Full chunks are chained, in memory
 * as long as that lasts (what a hash join may take: work_mem times
 * hash_mem_multiplier) and then in one temporary file: to make a file for each
 * part takes longer than to fill them.  A parallel worker leaves all of its
 * chunks in a file, which the leader reads as it reads its own.
 */
#include "attribution/journeys_private.h"

#include "executor/nodeHash.h"
#include "miscadmin.h"

#define NO_BLOCK	INT64CONST(-1)

/* As long as a block */
typedef struct Chunk
{
	struct Chunk *before;		/* in memory */
	int64		block_before;	/* in the file */
	uint32		n;
} Chunk;

#define CHUNK_HEAD	MAXALIGN(sizeof(Chunk))

typedef struct Part
{
	Chunk	   *open;
	Chunk	   *last;			/* full one in memory */
	CdiStoredPart stored;
} Part;

struct CdiTouchStore
{
	MemoryContext context;
	Size		stride;			/* of a touch */
	uint32		chunk_touches;
	Size		memory;			/* that may still be taken */
	BufFile    *file;			/* NULL: not needed yet */
	int64		nblocks;
	Part		parts[CDI_JOURNEY_PARTS];
	Chunk	   *buffer;			/* out of the file */

	/* What a worker's numbers of labels and types are to the leader; NULL: the same */
	const int32 *labels;
	const int32 *types;
};

CdiTouchStore *
cdi_touch_store_create(MemoryContext context, Size stride, BufFile *file)
{
	CdiTouchStore *self = MemoryContextAllocZero(context, sizeof(CdiTouchStore));

	self->context = context;
	self->stride = stride;
	self->chunk_touches = (BLCKSZ - CHUNK_HEAD) / stride;
	self->memory = file ? 0 : get_hash_memory_limit();
	self->file = file;
	for (int i = 0; i < CDI_JOURNEY_PARTS; i++)
		self->parts[i].stored.last_block = NO_BLOCK;
	return self;
}

static void
write_chunk(CdiTouchStore *self, Part *part)
{
	if (self->file == NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(self->context);

		self->file = BufFileCreateTemp(false);
		MemoryContextSwitchTo(previous);
	}
	part->open->block_before = part->stored.last_block;
	part->stored.last_block = self->nblocks++;
	BufFileWrite(self->file, part->open, BLCKSZ);
}

static void
open_chunk(CdiTouchStore *self, Part *part)
{
	CHECK_FOR_INTERRUPTS();
	if (part->open && self->memory < BLCKSZ)
		write_chunk(self, part);
	else
	{
		if (part->open)
		{
			part->open->before = part->last;
			part->last = part->open;
		}
		part->open = MemoryContextAllocZero(self->context, BLCKSZ);
		self->memory -= Min(self->memory, BLCKSZ);
	}
	part->open->n = 0;
}

CdiTouch *
cdi_touch_store_add(CdiTouchStore *self, int number)
{
	Part	   *part = &self->parts[number];

	if (part->open == NULL || part->open->n == self->chunk_touches)
		open_chunk(self, part);
	part->stored.ntouches++;
	return (CdiTouch *) ((char *) part->open + CHUNK_HEAD + self->stride * part->open->n++);
}

void
cdi_touch_store_write(CdiTouchStore *self, CdiStoredPart *parts)
{
	for (int i = 0; i < CDI_JOURNEY_PARTS; i++)
	{
		Part	   *part = &self->parts[i];

		if (part->open)
			write_chunk(self, part);
		part->open = NULL;
		parts[i] = part->stored;
	}
}

CdiTouchStore *
cdi_touch_store_open(MemoryContext context, Size stride, BufFile *file, const CdiStoredPart *parts,
					 const int32 *labels, const int32 *types)
{
	CdiTouchStore *self = cdi_touch_store_create(context, stride, file);

	for (int i = 0; i < CDI_JOURNEY_PARTS; i++)
		self->parts[i].stored = parts[i];
	self->labels = labels;
	self->types = types;
	return self;
}

void
cdi_touch_store_close(CdiTouchStore *self)
{
	if (self->file)
		BufFileClose(self->file);
	self->file = NULL;
}

uint64
cdi_touch_store_count(const CdiTouchStore *self, int part)
{
	return self->parts[part].stored.ntouches;
}

static Chunk *
read_chunk(CdiTouchStore *self, int64 block)
{
	if (self->buffer == NULL)
		self->buffer = MemoryContextAlloc(self->context, BLCKSZ);
	if (BufFileSeekBlock(self->file, (long) block) != 0 ||
		BufFileRead(self->file, self->buffer, BLCKSZ) != BLCKSZ)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read block %lld of a temporary file of touches", (long long) block)));
	return self->buffer;
}

/* Copies the touches of a chunk to where they end; returns where they begin. */
static char *
copy_chunk(const CdiTouchStore *self, const Chunk *chunk, char *end)
{
	Size		size = self->stride * chunk->n;
	char	   *start = end - size;

	memcpy(start, (const char *) chunk + CHUNK_HEAD, size);
	for (char *place = start; self->labels && place < end; place += self->stride)
	{
		CdiTouch   *touch = (CdiTouch *) place;

		touch->label = self->labels[touch->label];
		if (touch->type >= 0)
			touch->type = self->types[touch->type];
	}
	return start;
}

/* From the last to the first, so that they stand in the order in which they came. */
void
cdi_touch_store_read(CdiTouchStore *self, int number, char *end)
{
	const Part *part = &self->parts[number];

	if (part->open)
		end = copy_chunk(self, part->open, end);
	for (int64 block = part->stored.last_block; block != NO_BLOCK;)
	{
		const Chunk *chunk = read_chunk(self, block);

		CHECK_FOR_INTERRUPTS();
		end = copy_chunk(self, chunk, end);
		block = chunk->block_before;
	}
	for (const Chunk *chunk = part->last; chunk; chunk = chunk->before)
		end = copy_chunk(self, chunk, end);
}
