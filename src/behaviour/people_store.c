/*
 * people_store.c
 *		Rows, divided by person while they come.
 *
 * A row goes to the part that the hash of its person says, into the part's open
 * chunk.  Full chunks are chained, in memory as long as that lasts (what a hash
 * table may have: work_mem and hash_mem_multiplier) and then in one temporary
 * file per process.  In a parallel plan each process has chains of its own, in
 * shared memory and a shared set of files; when all have collected, each part
 * is taken by one process, which follows the chains of all.
 *
 * Nobody waits here after it has returned a row: a process whose queue is full
 * would keep the others waiting forever.
 */
#include "behaviour/people.h"

#include <fcntl.h>

#include "access/tupmacs.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/barrier.h"
#include "storage/buffile.h"
#include "storage/sharedfileset.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#define CHUNK_SIZE		BLCKSZ
#define SLAB_CHUNKS		16
#define PART_ROWS		8192	/* what a part should have: it fits the cache */
#define MIN_PARTS		64
#define MAX_PARTS		1024

/*
 * Where a chunk is: its address (a dsa_pointer where it is shared), or the
 * number of its block in the file * 2 + 1.  0: nowhere.
 */
typedef uint64 Link;

#define NOWHERE				((Link) 0)
#define LINK_IS_BLOCK(link)	(((link) & 1) != 0)
#define BLOCK_LINK(block)	((Link) (block) * 2 + 1)

typedef struct Chunk
{
	Link		next;
	Link		slab;			/* first of a slab: the slab before */
	uint32		used;			/* bytes, with this */
} Chunk;

/* What one process leaves for all */
typedef struct Share
{
	dsa_pointer heads;			/* Link[nparts + 1]; 0: it has collected nothing */
	dsa_pointer slabs;			/* Link, of the last */
	uint64		memory;
	uint64		blocks;
} Share;

struct CdiPeopleShared
{
	dsm_handle	segment;
	int			participants;
	uint32		nparts;
	Barrier		barrier;		/* phase 0: rows are collected */
	SharedFileSet files;
	pg_atomic_uint32 next_part;
	slock_t		mutex;
	dsa_pointer settings[CDI_PEOPLE_MAX_AGGREGATES];	/* 0: nobody has any */
	Size		settings_size[CDI_PEOPLE_MAX_AGGREGATES];
	Share		shares[FLEXIBLE_ARRAY_MEMBER];
};

typedef struct Open
{
	Chunk	   *chunk;
	Link		link;
} Open;

struct CdiPeopleStore
{
	CdiPeopleKey key;
	uint32		key_size;
	int			naggregates;
	uint32		row_key;		/* where in a row its key is */
	uint32		row_size;
	uint32		nparts;			/* a power of two; one more for null */
	char	  **places;			/* by part: of the next row */
	char	  **ends;
	Open	   *open;
	Link	   *heads;
	MemoryContext context;
	CdiPeopleShared *shared;
	dsa_area   *area;
	int			participant;

	/* Memory */
	uint64		memory;
	uint64		limit;
	char	   *slab;			/* chunks that are left of it */
	Link		slab_link;
	uint32		slab_left;
	Link		slabs;

	BufFile    *file;
	uint64		blocks;			/* written */
	Chunk	   *long_chunk;		/* goes to the file when its row is written; or NULL */
	uint32		long_part;

	/* Reading */
	uint32		next_part;
	uint32		part;
	int			share;			/* whose chain is read */
	Link		chain;
	BufFile   **files;			/* of the others */
	Chunk	   *buffer;			/* out of a file */
	Size		buffer_size;
};

/* What the processes share */

Size
cdi_people_shared_size(int participants)
{
	return offsetof(CdiPeopleShared, shares) + sizeof(Share) * participants;
}

/* Parts for so many rows, of which the open chunks take half of the memory at most. */
uint32
cdi_people_store_parts(double rows)
{
	Size		most = get_hash_memory_limit() / CHUNK_SIZE / 2;
	uint32		nparts = 1;

	while (nparts < MAX_PARTS && nparts * 2 <= most &&
		   (nparts < MIN_PARTS || (double) nparts * PART_ROWS < rows))
		nparts *= 2;
	return nparts;
}

void
cdi_people_shared_init(CdiPeopleShared *shared, int participants, double rows, dsm_segment *seg)
{
	memset(shared, 0, cdi_people_shared_size(participants));
	shared->segment = dsm_segment_handle(seg);
	shared->participants = participants;
	shared->nparts = cdi_people_store_parts(rows);
	BarrierInit(&shared->barrier, 0);
	SharedFileSetInit(&shared->files, seg);
	pg_atomic_init_u32(&shared->next_part, 0);
	SpinLockInit(&shared->mutex);
}

/* In a worker: files stay as long as it is there. */
void
cdi_people_shared_attach(CdiPeopleShared *shared)
{
	SharedFileSetAttach(&shared->files, dsm_find_mapping(shared->segment));
}

/* Everything anew, when the workers of the last time are gone. */
void
cdi_people_shared_reset(CdiPeopleShared *shared, dsa_area *area)
{
	for (int i = 0; i < shared->participants; i++)
	{
		Share	   *share = &shared->shares[i];

		for (Link slab = share->slabs; slab != NOWHERE;)
		{
			Link		before = ((Chunk *) dsa_get_address(area, slab))->slab;

			dsa_free(area, slab);
			slab = before;
		}
		if (DsaPointerIsValid(share->heads))
			dsa_free(area, share->heads);
		memset(share, 0, sizeof(Share));
	}
	SharedFileSetDeleteAll(&shared->files);
	BarrierInit(&shared->barrier, 0);
	pg_atomic_write_u32(&shared->next_part, 0);
	for (int i = 0; i < CDI_PEOPLE_MAX_AGGREGATES; i++)
	{
		if (DsaPointerIsValid(shared->settings[i]))
			dsa_free(area, shared->settings[i]);
		shared->settings[i] = InvalidDsaPointer;
	}
}

/* Chunks */

/* Memory for whole chunks; NULL where the limit forbids it. */
static Chunk *
take_memory(CdiPeopleStore *store, Size size, bool must, Link *link)
{
	Chunk	   *chunk;

	if (!must && store->memory + size > store->limit)
		return NULL;
	if (store->shared)
	{
		*link = dsa_allocate_extended(store->area, size, DSA_ALLOC_HUGE);
		chunk = dsa_get_address(store->area, *link);
	}
	else
	{
		chunk = MemoryContextAllocHuge(store->context, size);
		*link = (Link) (uintptr_t) chunk;
	}
	chunk->slab = store->slabs;
	store->slabs = *link;
	store->memory += size;
	if (store->shared)
		store->shared->shares[store->participant].slabs = store->slabs;
	return chunk;
}

/* A chunk in memory, or NULL where none is left. */
static Chunk *
take_chunk(CdiPeopleStore *store, bool must, Link *link)
{
	Chunk	   *chunk;

	if (store->slab_left == 0)
	{
		chunk = take_memory(store, (Size) SLAB_CHUNKS * CHUNK_SIZE, must, &store->slab_link);
		if (chunk == NULL)
			return NULL;
		store->slab = (char *) chunk;
		store->slab_left = SLAB_CHUNKS;
	}
	chunk = (Chunk *) store->slab;
	*link = store->slab_link;
	store->slab += CHUNK_SIZE;
	store->slab_link += CHUNK_SIZE;
	store->slab_left--;
	return chunk;
}

static void
file_name(char *name, int participant)
{
	snprintf(name, MAXPGPATH, "people.%d", participant);
}

/* Into the file; returns where. */
static Link
write_chunk(CdiPeopleStore *store, Chunk *chunk)
{
	Link		link = BLOCK_LINK(store->blocks);
	Size		size = TYPEALIGN(CHUNK_SIZE, chunk->used);

	if (store->file == NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(store->context);

		if (store->shared)
		{
			char		name[MAXPGPATH];

			file_name(name, store->participant);
			store->file = BufFileCreateFileSet(&store->shared->files.fs, name);
		}
		else
			store->file = BufFileCreateTemp(false);
		MemoryContextSwitchTo(previous);
	}
	BufFileWrite(store->file, chunk, size);
	store->blocks += size / CHUNK_SIZE;
	return link;
}

static void
chain(CdiPeopleStore *store, uint32 part, Chunk *chunk, Link link, bool in_memory)
{
	chunk->next = store->heads[part];
	store->heads[part] = in_memory ? link : write_chunk(store, chunk);
}

/* A row that is longer than a chunk has one of its own, in the file of several blocks. */
static char *
add_long_row(CdiPeopleStore *store, uint32 part, Size row_size)
{
	Size		size = sizeof(Chunk) + row_size;
	Link		link;
	Chunk	   *chunk = take_memory(store, size, false, &link);

	if (chunk)
		chain(store, part, chunk, link, true);
	else
	{
		chunk = MemoryContextAllocHuge(store->context, TYPEALIGN(CHUNK_SIZE, size));
		store->long_chunk = chunk;
		store->long_part = part;
	}
	chunk->used = size;
	return (char *) chunk + sizeof(Chunk);
}

/* Where a row goes whose part's open chunk has no room for it. */
static char *
add_chunk(CdiPeopleStore *store, uint32 part, Size row_size)
{
	Open	   *open = &store->open[part];
	Link		link;
	Chunk	   *chunk;
	char	   *place;

	CHECK_FOR_INTERRUPTS();
	if (sizeof(Chunk) + row_size > CHUNK_SIZE)
		return add_long_row(store, part, row_size);

	chunk = take_chunk(store, open->chunk == NULL, &link);
	if (open->chunk)
	{
		open->chunk->used = store->places[part] - (char *) open->chunk;
		chain(store, part, open->chunk, open->link, chunk != NULL);
	}
	if (chunk)
	{
		open->chunk = chunk;
		open->link = link;
	}
	place = (char *) open->chunk + sizeof(Chunk);
	store->places[part] = place + row_size;
	store->ends[part] = (char *) open->chunk + CHUNK_SIZE;
	return place;
}

static inline char *
add_row(CdiPeopleStore *store, uint32 part, Size row_size)
{
	char	   *place = store->places[part];

	/* Where there is no chunk yet, both are NULL. */
	if (row_size > (Size) (store->ends[part] - place))
		return add_chunk(store, part, row_size);
	store->places[part] = place + row_size;
	return place;
}

CdiPeopleStore *
cdi_people_store_open(MemoryContext context, const CdiPeopleKey *key, int naggregates, double rows,
					  CdiPeopleShared *shared, dsa_area *area, int participant)
{
	CdiPeopleStore *store = MemoryContextAllocZero(context, sizeof(CdiPeopleStore));

	store->key = *key;
	store->key_size = cdi_people_key_size(key);
	store->naggregates = naggregates;
	store->row_key = CDI_PEOPLE_ENTRY_SIZE * naggregates;
	store->row_size = TYPEALIGN(sizeof(uint32), store->row_key + store->key_size);
	store->context = context;
	store->shared = shared;
	store->area = area;
	store->participant = participant;
	store->limit = get_hash_memory_limit();
	store->nparts = shared ? shared->nparts : cdi_people_store_parts(rows);
	store->heads = MemoryContextAllocZero(context, sizeof(Link) * (store->nparts + 1));
	store->buffer_size = CHUNK_SIZE;
	store->buffer = MemoryContextAlloc(context, store->buffer_size);
	if (shared)
		store->files = MemoryContextAllocZero(context, sizeof(BufFile *) * shared->participants);
	return store;
}

void
cdi_people_store_close(CdiPeopleStore *store)
{
	if (store->file)
		BufFileClose(store->file);
	store->file = NULL;
	for (int i = 0; store->shared && i < store->shared->participants; i++)
	{
		if (store->files[i])
			BufFileClose(store->files[i]);
		store->files[i] = NULL;
	}
}

bool
cdi_people_store_begin(CdiPeopleStore *store)
{
	uint32		nparts = store->nparts + 1;

	if (store->shared && BarrierAttach(&store->shared->barrier) > 0)
	{
		BarrierDetach(&store->shared->barrier);
		return false;
	}
	store->places = MemoryContextAllocZero(store->context, sizeof(char *) * nparts);
	store->ends = MemoryContextAllocZero(store->context, sizeof(char *) * nparts);
	store->open = MemoryContextAllocZero(store->context, sizeof(Open) * nparts);
	return true;
}

void
cdi_people_store_add(CdiPeopleStore *store, Datum key, bool isnull, const CdiPeopleEntry *entries)
{
	uint32		mask = store->nparts - 1;
	char	   *place;

	if (isnull)
	{
		place = add_row(store, store->nparts, store->row_size);
		memset(place, 0, store->row_size);
	}
	else if (store->key_size > 0)
	{
		uint64		image[CDI_PEOPLE_KEY_IMAGE / sizeof(uint64)] = {0};

		if (store->key.typbyval)
			store_att_byval(image, key, store->key.typlen);
		else
			memcpy(image, DatumGetPointer(key), store->key_size);
		place = add_row(store, cdi_people_hash_image(image) & mask, store->row_size);
		memcpy(place + store->row_key, image, store->key_size);
	}
	else
	{
		struct varlena *value = PG_DETOAST_DATUM_PACKED(key);
		uint32		size = VARSIZE_ANY_EXHDR(value);
		uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(value), size, 0);

		place = add_row(store, hash & mask, TYPEALIGN(sizeof(uint32), store->row_key + sizeof(uint32) + (Size) size));
		memcpy(place + store->row_key, &size, sizeof(uint32));
		memcpy(place + store->row_key + sizeof(uint32), VARDATA_ANY(value), size);
		if ((Pointer) value != DatumGetPointer(key))
			pfree(value);
	}
	for (int i = 0; i < store->naggregates; i++, place += CDI_PEOPLE_ENTRY_SIZE)
	{
		memcpy(place, &entries[i].at, sizeof(TimestampTz));
		memcpy(place + CDI_PEOPLE_ENTRY_CONDITIONS, &entries[i].conditions, sizeof(uint32));
	}
	if (unlikely(store->long_chunk))
	{
		chain(store, store->long_part, store->long_chunk, NOWHERE, false);
		pfree(store->long_chunk);
		store->long_chunk = NULL;
	}
}

/* Settings of an aggregate, where nobody has published any. */
static void
publish_settings(CdiPeopleStore *store, int i, const CdiPeopleSettings *settings)
{
	CdiPeopleShared *shared = store->shared;
	dsa_pointer copy = dsa_allocate(store->area, settings->size);

	memcpy(dsa_get_address(store->area, copy), settings->data, settings->size);
	SpinLockAcquire(&shared->mutex);
	if (!DsaPointerIsValid(shared->settings[i]))
	{
		shared->settings[i] = copy;
		shared->settings_size[i] = settings->size;
		copy = InvalidDsaPointer;
	}
	SpinLockRelease(&shared->mutex);
	if (DsaPointerIsValid(copy))
		dsa_free(store->area, copy);
}

/* What was collected, for everybody. */
static void
publish(CdiPeopleStore *store, const CdiPeopleSettings *settings)
{
	CdiPeopleShared *shared = store->shared;
	Share	   *share = &shared->shares[store->participant];
	Size		size = sizeof(Link) * (store->nparts + 1);

	share->memory = store->memory;
	share->blocks = store->blocks;
	if (store->file)
		BufFileExportFileSet(store->file);
	share->heads = dsa_allocate(store->area, size);
	memcpy(dsa_get_address(store->area, share->heads), store->heads, size);
	for (int i = 0; i < store->naggregates; i++)
		if (settings[i].data)
			publish_settings(store, i, &settings[i]);
}

void
cdi_people_store_finish(CdiPeopleStore *store, CdiPeopleSettings *settings)
{
	CdiPeopleShared *shared = store->shared;

	if (store->open)
	{
		/* What is open stays in memory. */
		for (uint32 part = 0; part <= store->nparts; part++)
		{
			Open	   *open = &store->open[part];

			if (open->chunk == NULL)
				continue;
			open->chunk->used = store->places[part] - (char *) open->chunk;
			chain(store, part, open->chunk, open->link, true);
		}
		if (shared)
		{
			publish(store, settings);
			BarrierArriveAndWait(&shared->barrier, PG_WAIT_EXTENSION);
			BarrierDetach(&shared->barrier);
		}
	}
	for (int i = 0; shared && i < store->naggregates; i++)
	{
		void	   *copy;

		if (settings[i].data || !DsaPointerIsValid(shared->settings[i]))
			continue;
		settings[i].size = shared->settings_size[i];
		copy = MemoryContextAlloc(store->context, settings[i].size);
		memcpy(copy, dsa_get_address(store->area, shared->settings[i]), settings[i].size);
		settings[i].data = copy;
	}
}

/* Reading */

bool
cdi_people_store_next_part(CdiPeopleStore *store, bool *null_key)
{
	store->part = store->shared ?
		pg_atomic_fetch_add_u32(&store->shared->next_part, 1) : store->next_part++;
	if (store->part > store->nparts)
	{
		/* The counter must not run over. */
		if (store->shared)
			pg_atomic_write_u32(&store->shared->next_part, store->nparts + 1);
		else
			store->next_part = store->nparts + 1;
		return false;
	}
	*null_key = store->part == store->nparts;
	store->share = -1;
	store->chain = NOWHERE;
	return true;
}

/* The chain of the next process that has one of this part. */
static bool
next_chain(CdiPeopleStore *store)
{
	if (store->shared == NULL)
	{
		if (store->share >= 0)
			return false;
		store->share = 0;
		store->chain = store->heads[store->part];
		return store->chain != NOWHERE;
	}
	while (++store->share < store->shared->participants)
	{
		dsa_pointer heads = store->shared->shares[store->share].heads;

		if (!DsaPointerIsValid(heads))
			continue;
		store->chain = ((Link *) dsa_get_address(store->area, heads))[store->part];
		if (store->chain != NOWHERE)
			return true;
	}
	return false;
}

static void
no_block(uint64 block)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not read block %llu of a temporary file of people", (unsigned long long) block)));
}

static void
read_blocks(BufFile *file, uint64 block, void *buffer, Size size)
{
	if (BufFileRead(file, buffer, size) != size)
		no_block(block);
}

/* A chunk from the file of whose chain is read. */
static Chunk *
read_chunk(CdiPeopleStore *store, uint64 block)
{
	BufFile    *file = store->file;
	Size		size;

	if (store->shared && store->share != store->participant)
	{
		if (store->files[store->share] == NULL)
		{
			MemoryContext previous = MemoryContextSwitchTo(store->context);
			char		name[MAXPGPATH];

			file_name(name, store->share);
			store->files[store->share] = BufFileOpenFileSet(&store->shared->files.fs, name, O_RDONLY, false);
			MemoryContextSwitchTo(previous);
		}
		file = store->files[store->share];
	}
	if (BufFileSeekBlock(file, (long) block) != 0)
		no_block(block);
	read_blocks(file, block, store->buffer, CHUNK_SIZE);
	size = TYPEALIGN(CHUNK_SIZE, store->buffer->used);
	if (size > store->buffer_size)
	{
		store->buffer = repalloc_huge(store->buffer, size);
		store->buffer_size = size;
	}
	if (size > CHUNK_SIZE)
		read_blocks(file, block, (char *) store->buffer + CHUNK_SIZE, size - CHUNK_SIZE);
	return store->buffer;
}

bool
cdi_people_store_next_chunk(CdiPeopleStore *store, const char **rows, const char **end)
{
	Chunk	   *chunk;

	if (store->chain == NOWHERE && !next_chain(store))
		return false;
	CHECK_FOR_INTERRUPTS();
	if (LINK_IS_BLOCK(store->chain))
		chunk = read_chunk(store, store->chain / 2);
	else if (store->shared)
		chunk = dsa_get_address(store->area, store->chain);
	else
		chunk = (Chunk *) (uintptr_t) store->chain;
	store->chain = chunk->next;
	*rows = (char *) chunk + sizeof(Chunk);
	*end = (char *) chunk + chunk->used;
	return true;
}

void
cdi_people_store_usage(const CdiPeopleStore *store, CdiPeopleUsage *usage)
{
	usage->parts = store->nparts;
	usage->memory = store->memory;
	usage->disk = store->blocks * CHUNK_SIZE;
}

void
cdi_people_shared_usage(const CdiPeopleShared *shared, CdiPeopleUsage *usage)
{
	usage->parts = shared->nparts;
	usage->memory = usage->disk = 0;
	for (int i = 0; i < shared->participants; i++)
	{
		usage->memory += shared->shares[i].memory;
		usage->disk += shared->shares[i].blocks * CHUNK_SIZE;
	}
}
