/*
 * push_queue.c
 *		Rows, lanes and requests of the push worker, in memory.
 */
#include "activate/push.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

typedef struct KeyEntry
{
	uint64		hash;
	dlist_head	rows;
} KeyEntry;

static void
make_empty(PushLane *lane)
{
	HASHCTL		control = {.keysize = sizeof(uint64),.entrysize = sizeof(KeyEntry),.hcxt = lane->context};

	lane->keys = hash_create("cdi keys on their way", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	dlist_init(&lane->rows);
	dlist_init(&lane->replayed);
	dlist_init(&lane->pending);
	dlist_init(&lane->waiting);
	push_batch_init(lane);
	lane->npending = 0;
	lane->pending_bytes = 0;
	lane->nrows = 0;
	lane->bytes = 0;
	lane->hold_until = 0;
	lane->more = true;
}

PushLane *
push_lane_create(CdiPushState *push, PushDestination *destination, int32 sync_id)
{
	PushLane   *lane = MemoryContextAllocZero(push->context, sizeof(PushLane));

	lane->destination = destination;
	lane->sync_id = sync_id;
	lane->context = AllocSetContextCreate(push->context, "cdi lane", ALLOCSET_DEFAULT_SIZES);
	make_empty(lane);
	lane->record.context = AllocSetContextCreate(push->context, "cdi results", ALLOCSET_DEFAULT_SIZES);
	push_record_reset(&lane->record);
	dlist_push_tail(&destination->lanes, &lane->node);
	return lane;
}

bool
push_lane_idle(const PushLane *lane)
{
	return lane->inflight == 0 && lane->record.ndeliveries == 0 && lane->record.nended == 0 && lane->held_since == 0;
}

bool
push_lane_sends(const PushLane *lane)
{
	const PushStream *stream = lane->stream;

	return lane->enabled && lane->nactions > 0 && lane->held_since == 0 &&
		(stream == NULL || (stream->stream != NULL && !stream->stale && stream->rules_text == NULL));
}

/* Start from a cursor that is not the lane's own; it is idle. */
void
push_lane_reset(PushLane *lane, int64 cursor)
{
	Assert(push_lane_idle(lane));
	MemoryContextReset(lane->context);
	make_empty(lane);
	lane->cursor = lane->read = cursor;
	if (lane->stream)
	{
		memset(&lane->stream->after, 0, sizeof(PushPassed));
		lane->stream->stale = false;
		lane->stream->replays = true;
	}
}

void
push_lane_drop(PushLane *lane)
{
	Assert(push_lane_idle(lane));
	dlist_delete(&lane->node);
	MemoryContextDelete(lane->context);
	MemoryContextDelete(lane->record.context);
	if (lane->action_name)
		pfree(lane->action_name);
	if (lane->order_text)
		pfree(lane->order_text);
	if (lane->order_context)
		MemoryContextDelete(lane->order_context);
	if (lane->stream)
		push_stream_free(lane->stream);
	json_decref(lane->stages_of);
	pfree(lane);
}

/* Behind what waits under the same key.  Two keys with one hash only wait for each other. */
static uint64
queue_up(PushLane *lane, const char *key, uint64 seed, dlist_node *node)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, strlen(key), seed);
	bool		found;
	KeyEntry   *entry = hash_search(lane->keys, &hash, HASH_ENTER, &found);

	if (!found)
		dlist_init(&entry->rows);
	dlist_push_tail(&entry->rows, node);
	return hash;
}

static bool
is_first(const PushLane *lane, uint64 hash, const dlist_node *node)
{
	KeyEntry   *entry = hash_search(lane->keys, &hash, HASH_FIND, NULL);

	return dlist_head_node(&entry->rows) == node;
}

/* Returns who is first then, or NULL: nobody is left. */
static dlist_node *
leave(PushLane *lane, uint64 hash, dlist_node *node)
{
	KeyEntry   *entry = hash_search(lane->keys, &hash, HASH_FIND, NULL);

	dlist_delete(node);
	if (!dlist_is_empty(&entry->rows))
		return dlist_head_node(&entry->rows);
	hash_search(lane->keys, &hash, HASH_REMOVE, NULL);
	return NULL;
}

PushRow *
push_row_add(PushLane *lane, int64 position, TimestampTz queued_at, int64 run_id, const char *operation,
			 const char *primary_key, const char *key, Jsonb *payload)
{
	int			operation_size = strlen(operation) + 1;
	int			key_size = strlen(primary_key) + 1;
	Size		header = MAXALIGN(sizeof(PushRow));
	Size		size = header + MAXALIGN(VARSIZE(payload)) + operation_size + key_size;
	PushRow    *row = MemoryContextAllocZero(lane->context, size);

	/* one piece of memory for all of it */
	row->payload = (Jsonb *) ((char *) row + header);
	memcpy(row->payload, payload, VARSIZE(payload));
	row->operation = (char *) row->payload + MAXALIGN(VARSIZE(payload));
	memcpy(row->operation, operation, operation_size);
	row->primary_key = row->operation + operation_size;
	memcpy(row->primary_key, primary_key, key_size);
	strlcpy(row->key, key, sizeof(row->key));
	row->lane = lane;
	row->position = position;
	row->run_id = run_id;
	row->queued_at = queued_at;
	row->size = size;
	row->key_hash = queue_up(lane, primary_key, 0, &row->by_key);
	dlist_push_tail(&lane->rows, &row->node);
	dlist_push_tail(&lane->pending, &row->queue);
	row->pending = true;
	row->arrival = lane->arrivals++;
	lane->npending++;
	lane->pending_bytes += size;
	lane->nrows++;
	lane->hold_until = 0;
	lane->bytes += size;
	push_batch_look(row);
	return row;
}

void
push_row_place(PushRow *row, const char *order)
{
	row->placed = true;
	row->has_order = order != NULL;
	if (row->has_order)
		row->order_hash = queue_up(row->lane, order, 1, &row->by_order);
}

void
push_row_displace(PushRow *row)
{
	dlist_node *first = row->has_order ? leave(row->lane, row->order_hash, &row->by_order) : NULL;

	if (first != NULL)
		push_batch_look(dlist_container(PushRow, by_order, first));
	row->placed = row->has_order = false;
}

void
push_row_unqueue(PushRow *row)
{
	dlist_delete(&row->queue);
	push_batch_leave(row);
	row->pending = false;
	row->lane->npending--;
	row->lane->pending_bytes -= row->size;
}

bool
push_row_is_next(PushRow *row)
{
	return is_first(row->lane, row->key_hash, &row->by_key) &&
		(!row->has_order || is_first(row->lane, row->order_hash, &row->by_order));
}

/* A later row of the same primary key: the first, or the newest; NULL: there is none */
static PushRow *
later_row(PushRow *row, bool newest)
{
	KeyEntry   *entry = hash_search(row->lane->keys, &row->key_hash, HASH_FIND, NULL);
	PushRow    *found = NULL;
	dlist_iter	it;

	dlist_foreach(it, &entry->rows)
	{
		PushRow    *other = dlist_container(PushRow, by_key, it.cur);

		if (other->position <= row->position || strcmp(other->primary_key, row->primary_key) != 0)
			continue;
		found = other;
		if (!newest)
			break;
	}
	return found;
}

static void
set_operation(PushRow *row, char *operation)
{
	Assert(row->batch == NULL); /* an earlier row is in its way */
	row->operation = operation;
	row->measured = false;
}

/*
 * The row has ended and waits to be recorded.  It must be in no queue: neither
 * pending nor of a request that will be sent again.
 */
void
push_row_end(PushRow *row, PushEnd end, const char *class, int status, int attempts, const char *error)
{
	PushRecord *record = &row->lane->record;
	PushRow    *next = end == PUSH_FAILED && strcmp(row->operation, "insert") == 0 ? later_row(row, false) : NULL;
	dlist_node *first;

	Assert(row->end == PUSH_OPEN && !row->pending);
	/* What was queued as a change of it is the first that the destination sees. */
	if (next != NULL && strcmp(next->operation, "update") == 0)
		set_operation(next, "insert");
	row->lane->hold_until = 0;	/* those behind it may fill a request */
	first = leave(row->lane, row->key_hash, &row->by_key);
	if (first != NULL)
		push_batch_look(dlist_container(PushRow, by_key, first));
	push_row_displace(row);
	row->end = end;
	row->class = class;
	row->status = status;
	row->attempts = attempts;
	row->error = error ? MemoryContextStrdup(record->context, error) : NULL;
	dlist_push_tail(&record->ended, &row->queue);
	record->nended++;
}

void
push_row_count(const PushRow *row)
{
	PushRecord *record = &row->lane->record;
	HASHCTL		control = {.keysize = sizeof(int64),.entrysize = sizeof(PushCounts),.hcxt = record->context};
	PushStream *stream = row->lane->stream;
	PushCounts *counts;
	bool		found;

	if (stream)
	{
		stream->ok += row->end == PUSH_ACCEPTED;
		stream->rejected += row->end == PUSH_FAILED;
		stream->retryable += row->end == PUSH_OPEN;
		return;
	}
	if (record->counts == NULL)
		record->counts = hash_create("cdi counts of runs", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	counts = hash_search(record->counts, &row->run_id, HASH_ENTER, &found);
	if (!found)
		counts->ok = counts->rejected = counts->retryable = 0;
	if (row->end == PUSH_ACCEPTED)
		counts->ok++;
	else if (row->end == PUSH_FAILED)
		counts->rejected++;
	else
		counts->retryable++;
}

/* The end of the row is recorded. */
void
push_row_forget(PushRow *row)
{
	PushLane   *lane = row->lane;

	/* The cursor is still before it: who follows is counted with it. */
	if (lane->stream && !row->replayed && !row->passed)
	{
		PushPassed *next = dlist_has_next(&lane->rows, &row->node) ?
			&dlist_container(PushRow, node, dlist_next_node(&lane->rows, &row->node))->before : &lane->stream->after;

		next->withheld += row->before.withheld;
		next->sampled_out += row->before.sampled_out;
		next->skipped += row->before.skipped;
		next->matched += row->before.matched + 1;
	}
	dlist_delete(&row->node);
	lane->nrows--;
	lane->bytes -= row->size;
	pfree(row);
}

bool
push_lane_full(const PushLane *lane)
{
	return lane->nrows >= lane->window || lane->bytes >= lane->window_bytes;
}

/* Nothing ends of what waits for more rows. */
static bool
has_room(const PushLane *lane)
{
	if (lane->hold_until != 0)
		return !push_lane_full(lane);
	return lane->nrows <= lane->window / 2 && lane->bytes <= lane->window_bytes / 2;
}

bool
push_lane_wants(const PushLane *lane)
{
	const PushStream *stream = lane->stream;
	bool		more = lane->more;

	/* The specification says what is in order, and what events go to. */
	if (!lane->enabled || !lane->destination->enabled || lane->nactions == 0 || lane->destination->settings_text)
		return false;
	if (stream)
	{
		if (stream->stream == NULL || stream->rules_text)
			return false;
		if (stream->stale)
			return push_lane_idle(lane);
		more |= stream->replays && dlist_is_empty((dlist_head *) &lane->replayed);
	}
	return more && has_room(lane);
}

const json_t *
push_request_action(const PushRequest *request)
{
	return request->lane->actions[request->action].spec;
}

PushRequest *
push_request_create(PushLane *lane, PushRow **rows, int nrows, int attempts, TimestampTz due)
{
	PushRequest *request = MemoryContextAllocZero(lane->context, sizeof(PushRequest) + nrows * sizeof(PushRow *));

	request->lane = lane;
	request->attempts = attempts;
	request->due = due;
	request->nrows = nrows;
	request->rows = (PushRow **) (request + 1);
	memcpy(request->rows, rows, nrows * sizeof(PushRow *));
	request->action = rows[0]->action;
	return request;
}

void
push_request_wait(PushRequest *request, TimestampTz due)
{
	dlist_head *waiting = &request->lane->waiting;
	dlist_iter	it;

	request->due = due;
	dlist_foreach(it, waiting)
	{
		if (dlist_container(PushRequest, node, it.cur)->due > due)
		{
			dlist_insert_before(it.cur, &request->node);
			return;
		}
	}
	dlist_push_tail(waiting, &request->node);
}

void
push_request_forget(PushRequest *request)
{
	if (request->context == NULL)
		return;
	/* We may be in it. */
	if (CurrentMemoryContext == request->context)
		MemoryContextSwitchTo(MemoryContextGetParent(request->context));
	MemoryContextDelete(request->context);
	request->context = NULL;
	request->request = NULL;
	request->items = NULL;
}

void
push_request_free(PushRequest *request)
{
	push_request_forget(request);
	if (request->memory)
		MemoryContextDelete(request->memory);
	pfree(request);
}

static void
append_array_element(StringInfo out, const char *text)
{
	appendStringInfoChar(out, '"');
	for (; *text; text++)
	{
		if (*text == '"' || *text == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, *text);
	}
	appendStringInfoChar(out, '"');
}

static PushDelivery *
new_delivery(PushLane *lane, PushRow *const *rows, int nrows, const CdiAnswer *answer,
			 const char *class, const char *error)
{
	PushDelivery *delivery = palloc0(sizeof(PushDelivery));
	StringInfoData keys;

	initStringInfo(&keys);
	appendStringInfoChar(&keys, '{');
	for (int i = 0; i < nrows; i++)
	{
		if (i > 0)
			appendStringInfoChar(&keys, ',');
		append_array_element(&keys, rows[i]->primary_key);
	}
	appendStringInfoChar(&keys, '}');
	delivery->sync_id = lane->sync_id;
	delivery->destination_id = lane->destination->destination_id;
	delivery->primary_keys = keys.data;
	delivery->status = answer ? answer->status : 0;
	delivery->class = class;
	delivery->error = error ? pstrdup(error) : NULL;
	delivery->milliseconds = answer ? answer->milliseconds : 0;
	dlist_push_tail(&lane->record.deliveries, &delivery->node);
	lane->record.ndeliveries++;
	return delivery;
}

void
push_delivery_add(const PushRequest *request, int accepted, const CdiAnswer *answer, const char *class, const char *error)
{
	MemoryContext old = MemoryContextSwitchTo(request->lane->record.context);
	PushDelivery *delivery = new_delivery(request->lane, request->rows, request->nrows, answer, class, error);

	delivery->sent_at = request->sent_at;
	delivery->attempt = request->attempts;
	delivery->rows = request->nrows;
	delivery->accepted = accepted;
	delivery->key = pstrdup(request->request ? request->request->key : "");
	MemoryContextSwitchTo(old);
}

void
push_delivery_add_record(const PushRow *row, int attempt, const CdiAnswer *answer,
						 const char *class, const char *error)
{
	MemoryContext old = MemoryContextSwitchTo(row->lane->record.context);
	PushDelivery *delivery = new_delivery(row->lane, (PushRow *const *) &row, 1, answer, class, error);

	delivery->record = true;
	delivery->sent_at = GetCurrentTimestamp();
	delivery->attempt = attempt;
	delivery->key = pstrdup(row->key);
	MemoryContextSwitchTo(old);
}

int
push_request_supersede(PushRequest *request)
{
	int			n = 0;

	for (int i = 0; i < request->nrows; i++)
	{
		PushRow    *row = request->rows[i];
		/* what is gone is gone before it is there again */
		bool		stays = !request->lane->latest_only || strcmp(row->operation, "delete") == 0;
		PushRow    *newest = stays ? NULL : later_row(row, true);
		PushRow    *other;

		if (newest == NULL)
		{
			request->rows[n++] = row;
			continue;
		}
		/* Those between were not sent, for the first was in their way. */
		while ((other = later_row(row, false)) != newest)
		{
			push_row_unqueue(other);
			push_row_end(other, PUSH_SUPERSEDED, NULL, 0, 0, NULL);
		}
		/* The destination has it or not as it was when the first was queued. */
		if (strcmp(newest->operation, "delete") != 0)
			set_operation(newest, strcmp(row->operation, "insert") == 0 ? "insert" : "update");
		push_row_end(row, PUSH_SUPERSEDED, NULL, 0, request->attempts, NULL);
	}
	request->nrows = n;
	return n;
}

void
push_record_reset(PushRecord *record)
{
	MemoryContextReset(record->context);
	record->counts = NULL;
	dlist_init(&record->deliveries);
	dlist_init(&record->ended);
	record->ndeliveries = record->nended = 0;
}
