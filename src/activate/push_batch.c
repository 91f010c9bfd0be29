/*
 * push_batch.c
 *		Which pending rows of a lane go together in a request, and when.
 *
 * Rows of one action and one group are a batch, in the order they came; what a
 * request takes is the beginning of one.  Where its action has max_wait and it
 * has room left, it waits for more rows, and nothing else waits for it: neither
 * the other groups nor the other actions of the lane.
 *
 * Batches are kept from row to row, so that what is sent next is known without
 * a look at all that is pending: those that may go by their first row, the
 * others by the time that they have to.  A row is in a batch while nothing is
 * left that it has to wait for; when that may have changed, it is looked at
 * again (push_batch_look).
 */
#include "activate/push.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

typedef struct PushBatch
{
	uint64		key[2];			/* action and group */
	dlist_head	rows;			/* in the order they came */
	int			nrows;
	bool		ready;			/* it may go now */
	/* What a request of it would have so far, unless it is ready */
	int			n;
	int64		bytes;
	int			most;
	pairingheap *heap;			/* of the lane's, or NULL */
	pairingheap_node place;
} PushBatch;

static PushRow *
first_row(const pairingheap_node *place)
{
	PushBatch  *batch = pairingheap_container(PushBatch, place, (pairingheap_node *) place);

	return dlist_head_element(PushRow, by_batch, &batch->rows);
}

static int
came_first(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	return first_row(a)->arrival < first_row(b)->arrival ? 1 : -1;
}

static int
due_first(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz left = first_row(a)->due;
	TimestampTz right = first_row(b)->due;

	return left != right ? (left < right ? 1 : -1) : came_first(a, b, arg);
}

void
push_batch_init(PushLane *lane)
{
	HASHCTL		control = {.keysize = sizeof(uint64) * 2,.entrysize = sizeof(PushBatch),.hcxt = lane->context};
	MemoryContext old = MemoryContextSwitchTo(lane->context);

	lane->batches = hash_create("cdi batches", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	lane->ready = pairingheap_allocate(came_first, NULL);
	lane->waits = pairingheap_allocate(due_first, NULL);
	dlist_init(&lane->looks);
	MemoryContextSwitchTo(old);
}

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
	push_row_unqueue(row);
	push_delivery_add_record(row, 0, NULL, "invalid", error);
	push_row_end(row, PUSH_FAILED, "invalid", 0, 0, error);
}

/* False where it cannot be sent */
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
	MemoryContextReset(scratch);	/* the item is in there */
	return row->measured;
}

/* ---- batches ---- */

/* Before it changes; put_down() after that */
static void
lift(PushBatch *batch)
{
	if (batch->heap)
		pairingheap_remove(batch->heap, &batch->place);
	batch->heap = NULL;
}

static void
put_down(PushLane *lane, PushBatch *batch)
{
	if (dlist_is_empty(&batch->rows))
	{
		(void) hash_search(lane->batches, batch->key, HASH_REMOVE, NULL);
		return;
	}
	batch->heap = batch->ready ? lane->ready : lane->waits;
	pairingheap_add(batch->heap, &batch->place);
}

/* Has a request no room left, once it has this row as well? */
static bool
fills(PushBatch *batch, const PushRow *row, const CdiBatchLimits *limits)
{
	if (row->item_most > 0 && batch->n >= row->item_most)
		return false;			/* is for one to come */
	if (batch->n > 0 && batch->bytes + row->item_len + 1 > limits->max_bytes)
		return true;
	batch->bytes += row->item_len + 1;
	if (row->item_most > 0)
		batch->most = Min(batch->most, row->item_most);
	return ++batch->n >= batch->most;
}

/* Rows went from its beginning, or came before others: as many as fill a request are looked at. */
static void
count_anew(PushLane *lane, PushBatch *batch)
{
	const CdiBatchLimits *limits = &lane->actions[batch->key[0]].limits;
	dlist_iter	it;

	batch->n = 0;
	batch->bytes = 0;
	batch->most = limits->max_items;
	batch->ready = limits->max_wait == 0;
	dlist_foreach(it, &batch->rows)
	{
		if (batch->ready)
			return;
		batch->ready = fills(batch, dlist_container(PushRow, by_batch, it.cur), limits);
	}
}

static void
detach(PushBatch *batch, PushRow *row)
{
	dlist_delete(&row->by_batch);
	row->batch = NULL;
	batch->nrows--;
}

static void
enter(PushLane *lane, PushRow *row)
{
	const CdiBatchLimits *limits = &lane->actions[row->action].limits;
	uint64		key[2] = {row->action, row->group};
	bool		found;
	PushBatch  *batch = hash_search(lane->batches, key, HASH_ENTER, &found);
	dlist_node *before;

	if (!found)
	{
		dlist_init(&batch->rows);
		batch->nrows = 0;
		batch->heap = NULL;
		count_anew(lane, batch);
	}
	lift(batch);
	before = batch->rows.head.prev;
	while (before != &batch->rows.head && dlist_container(PushRow, by_batch, before)->arrival > row->arrival)
		before = before->prev;
	dlist_insert_after(before, &row->by_batch);
	row->batch = batch;
	batch->nrows++;
	/* What has waited for less long than a later row does not make that wait. */
	row->due = TimestampTzPlusMilliseconds(row->queued_at, limits->max_wait);
	if (dlist_has_next(&batch->rows, &row->by_batch))
	{
		row->due = Min(row->due, dlist_container(PushRow, by_batch, dlist_next_node(&batch->rows, &row->by_batch))->due);
		count_anew(lane, batch);
	}
	else if (!batch->ready)
		batch->ready = fills(batch, row, limits);
	for (; before != &batch->rows.head && dlist_container(PushRow, by_batch, before)->due > row->due; before = before->prev)
		dlist_container(PushRow, by_batch, before)->due = row->due;
	put_down(lane, batch);
}

void
push_batch_look(PushRow *row)
{
	if (!row->pending || row->looks || row->batch != NULL)
		return;
	row->looks = true;
	dlist_push_tail(&row->lane->looks, &row->by_batch);
}

void
push_batch_leave(PushRow *row)
{
	PushBatch  *batch = row->batch;

	if (row->looks)
		dlist_delete(&row->by_batch);
	row->looks = false;
	if (batch == NULL)
		return;
	lift(batch);
	detach(batch, row);
	count_anew(row->lane, batch);
	put_down(row->lane, batch);
}

void
push_batch_reset(PushLane *lane)
{
	dlist_iter	it;

	hash_destroy(lane->batches);
	pairingheap_free(lane->ready);
	pairingheap_free(lane->waits);
	push_batch_init(lane);
	lane->hold_until = 0;
	dlist_foreach(it, &lane->pending)
	{
		PushRow    *row = dlist_container(PushRow, queue, it.cur);

		row->measured = row->looks = false;
		row->batch = NULL;
		push_batch_look(row);
	}
}

/* ---- what goes next ---- */

/* Rows that have come, and those whose turn it is now */
static void
look_at_rows(PushLane *lane)
{
	MemoryContext scratch = NULL;

	while (!dlist_is_empty(&lane->looks))
	{
		PushRow    *row = dlist_head_element(PushRow, by_batch, &lane->looks);
		const PushAction *action = &lane->actions[row->action];

		dlist_delete(&row->by_batch);
		row->looks = false;
		if (!push_row_is_next(row))
			continue;
		if (action->limits.max_wait > 0 || json_object_get(action->spec, "group_by") != NULL)
		{
			if (scratch == NULL)
				scratch = AllocSetContextCreate(CurrentMemoryContext, "cdi row", ALLOCSET_DEFAULT_SIZES);
			if (!measure(row, scratch))
				continue;
		}
		enter(lane, row);
	}
	if (scratch != NULL)
		MemoryContextDelete(scratch);
}

/*
 * The batch that a request may take of now, or NULL.  One with room left goes
 * when its oldest row has waited long enough, and where those that wait have
 * taken the room that there is in memory.
 */
static PushBatch *
next_batch(PushLane *lane, TimestampTz now)
{
	PushBatch  *batch;

	look_at_rows(lane);
	while (!pairingheap_is_empty(lane->waits) && first_row(pairingheap_first(lane->waits))->due <= now)
	{
		batch = pairingheap_container(PushBatch, place, pairingheap_first(lane->waits));
		lift(batch);
		batch->ready = true;
		put_down(lane, batch);
	}
	if (!pairingheap_is_empty(lane->ready))
		return pairingheap_container(PushBatch, place, pairingheap_first(lane->ready));
	lane->hold_until = 0;
	if (pairingheap_is_empty(lane->waits))
		return NULL;
	batch = pairingheap_container(PushBatch, place, pairingheap_first(lane->waits));
	if (push_lane_full(lane) && (lane->npending > lane->window / 2 || lane->pending_bytes > lane->window_bytes / 2))
		return batch;
	lane->hold_until = first_row(&batch->place)->due;
	return NULL;
}

int
push_batch_take(PushLane *lane, TimestampTz now, PushRow ***rows_taken, CdiItem ***items_taken)
{
	PushBatch  *batch = next_batch(lane, now);
	const CdiBatchLimits *limits;
	int			most;			/* as items ask for themselves */
	int64		bytes = 0;
	int			n = 0;
	dlist_mutable_iter it;

	if (batch == NULL)
		return 0;
	lift(batch);
	limits = &lane->actions[batch->key[0]].limits;
	most = Min(limits->max_items, batch->nrows);
	*rows_taken = palloc(sizeof(PushRow *) * most);
	*items_taken = palloc(sizeof(CdiItem *) * most);
	dlist_foreach_modify(it, &batch->rows)
	{
		PushRow    *row = dlist_container(PushRow, by_batch, it.cur);
		CdiItem    *item;

		if (n > 0 && n >= most)
			break;
		item = push_row_map(row);
		if (item->error)
		{
			detach(batch, row);
			refuse(row, item->error);
			continue;
		}
		if (cdi_batch_full(limits, n, bytes, item))
			break;
		if (!cdi_batch_takes(limits, n > 0 ? (*items_taken)[0] : NULL, n, bytes, item))
			continue;
		detach(batch, row);
		push_row_unqueue(row);
		bytes += item->len + 1;
		(*rows_taken)[n] = row;
		(*items_taken)[n++] = item;
		if (item->max_items > 0)
			most = Min(most, item->max_items);
	}
	count_anew(lane, batch);
	put_down(lane, batch);
	return n;
}
