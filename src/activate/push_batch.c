/*
 * push_batch.c
 *		Which pending rows of a lane go together in a request, and when.
 *
 * Rows of one action and one group share a request.  Where its action has
 * max_wait and it has room left, it waits for more rows, and nothing else waits
 * for it: neither the other groups nor the other actions of the lane.
 */
#include "activate/push.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* What a request that may wait would have so far */
typedef struct OpenBatch
{
	uint64		key[2];			/* action and group */
	PushRow    *first;
	int			n;
	int64		bytes;
	int			most;
} OpenBatch;

CdiItem *
push_row_map(PushRow *row)
{
	CdiItem    *item = palloc0(sizeof(CdiItem));

	item->operation = row->operation;
	item->primary_key = row->primary_key;
	item->key = row->key;
	item->row = row->payload;
	cdi_item_map(&row->lane->destination->target, row->lane->actions[row->action].spec, item);
	row->measured = item->error == NULL;
	row->item_len = item->len;
	row->item_most = item->max_items;
	row->group = item->group ? hash_bytes_extended((const unsigned char *) item->group, strlen(item->group), 0) : 0;
	return item;
}

/* A pending row that cannot be sent */
static void
refuse(PushRow *row, const char *error)
{
	dlist_delete(&row->queue);
	push_delivery_add_record(row, 0, NULL, "invalid", error);
	push_row_end(row, PUSH_FAILED, "invalid", 0, 0, error);
}

static bool
measure(PushRow *row, MemoryContext scratch)
{
	MemoryContext old;
	CdiItem    *item;

	if (row->measured)
		return true;
	old = MemoryContextSwitchTo(scratch);
	item = push_row_map(row);
	if (item->error)
		refuse(row, item->error);
	MemoryContextSwitchTo(old);
	MemoryContextReset(scratch);
	return row->measured;
}

/* Has the batch of this row no room left, once it has the row? */
static bool
fills(HTAB *batches, PushRow *row, const CdiBatchLimits *limits, PushRow **first)
{
	uint64		key[2] = {row->action, row->group};
	bool		found;
	OpenBatch  *batch = hash_search(batches, key, HASH_ENTER, &found);

	if (!found)
	{
		batch->first = row;
		batch->n = 0;
		batch->bytes = 0;
		batch->most = limits->max_items;
	}
	*first = batch->first;
	if (row->item_most > 0 && batch->n >= row->item_most)
		return false;			/* is for one to come */
	if (batch->n > 0 && batch->bytes + row->item_len + 1 > limits->max_bytes)
		return true;
	batch->bytes += row->item_len + 1;
	if (row->item_most > 0)
		batch->most = Min(batch->most, row->item_most);
	return ++batch->n >= batch->most;
}

/*
 * The first row of a request that may go now, or NULL.  One with room left goes
 * when its oldest row has waited long enough, and where those that wait have
 * taken the room that there is in memory.
 */
static PushRow *
first_to_send(PushLane *lane, TimestampTz now)
{
	HASHCTL		control = {.keysize = sizeof(uint64) * 2,.entrysize = sizeof(OpenBatch),.hcxt = CurrentMemoryContext};
	HTAB	   *batches = NULL;
	MemoryContext scratch = NULL;
	PushRow    *oldest = NULL;
	TimestampTz until = DT_NOEND;
	int			npending = 0;
	int64		bytes = 0;
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &lane->pending)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);
		PushRow    *first;
		const CdiBatchLimits *limits = &lane->actions[row->action].limits;
		TimestampTz due;

		npending++;
		bytes += row->size;
		if (!push_row_is_next(row))
			continue;
		if (limits->max_wait == 0)
			return row;
		if (batches == NULL)
		{
			batches = hash_create("cdi requests that wait", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
			scratch = AllocSetContextCreate(CurrentMemoryContext, "cdi row", ALLOCSET_DEFAULT_SIZES);
		}
		if (!measure(row, scratch))
			continue;
		due = TimestampTzPlusMilliseconds(row->queued_at, limits->max_wait);
		if (fills(batches, row, limits, &first) || due <= now)
			return first;
		until = Min(until, due);
		if (oldest == NULL)
			oldest = row;
	}
	if (push_lane_full(lane) && (npending > lane->window / 2 || bytes > lane->window_bytes / 2))
		return oldest;
	lane->hold_until = oldest ? until : 0;
	return NULL;
}

int
push_batch_take(PushLane *lane, TimestampTz now, PushRow ***rows_taken, CdiItem ***items_taken)
{
	PushRow    *first = first_to_send(lane, now);
	dlist_node *next = first ? &first->queue : NULL;
	PushRow   **rows = palloc(sizeof(PushRow *) * lane->nrows);
	CdiItem   **items = palloc(sizeof(CdiItem *) * lane->nrows);
	const CdiBatchLimits *limits = NULL;	/* of the first row's action */
	int			most = PG_INT32_MAX;	/* as items ask for themselves */
	int64		bytes = 0;
	int			n = 0;

	while (next != NULL && (n == 0 || n < Min(most, limits->max_items)))
	{
		PushRow    *row = dlist_container(PushRow, queue, next);
		CdiItem    *item;

		next = dlist_has_next(&lane->pending, next) ? dlist_next_node(&lane->pending, next) : NULL;
		if (!push_row_is_next(row) ||
			(n > 0 && (row->action != rows[0]->action || (row->measured && row->group != rows[0]->group))))
			continue;
		item = push_row_map(row);
		if (item->error)
		{
			refuse(row, item->error);
			continue;
		}
		if (n == 0)
			limits = &lane->actions[row->action].limits;
		if (cdi_batch_full(limits, n, bytes, item))
			break;
		if (!cdi_batch_takes(limits, n > 0 ? items[0] : NULL, n, bytes, item))
			continue;
		dlist_delete(&row->queue);
		bytes += item->len + 1;
		rows[n] = row;
		items[n++] = item;
		if (item->max_items > 0)
			most = Min(most, item->max_items);
	}
	*rows_taken = rows;
	*items_taken = items;
	return n;
}
