/*
 * push_flight.c
 *		What is on the network, for people to see.
 *
 * An account in shared memory per destination that has a request in flight.
 * There are as many accounts as requests, so one is always free.  Nothing is
 * locked: the worker alone writes, and who reads looks twice whose it was.
 */
#include "activate/push.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"

#include "worker/slot.h"

static CdiInFlight *accounts;

static void
clear(int code, Datum arg)
{
	for (int i = 0; i < CDI_PUSH_INFLIGHT; i++)
		pg_atomic_write_u32(&accounts[i].destination_id, 0);
}

void
push_flight_init(void)
{
	accounts = cdi_worker_database()->in_flight;
	clear(0, (Datum) 0);
	before_shmem_exit(clear, (Datum) 0);
}

static void
account(PushDestination *destination, int requests, int rows)
{
	uint64		counts = 0;

	if (destination->flight == NULL)
	{
		for (int i = 0; destination->flight == NULL; i++)
		{
			Assert(i < CDI_PUSH_INFLIGHT);
			if (pg_atomic_read_u32(&accounts[i].destination_id) == 0)
				destination->flight = &accounts[i];
		}
		pg_atomic_write_u64(&destination->flight->counts, 0);
		pg_write_barrier();
		pg_atomic_write_u32(&destination->flight->destination_id, destination->destination_id);
	}
	else
		counts = pg_atomic_read_u64(&destination->flight->counts);
	pg_atomic_write_u64(&destination->flight->counts, counts + (((uint64) requests) << 32) + rows);
	if (destination->inflight == 0)
	{
		pg_atomic_write_u32(&destination->flight->destination_id, 0);
		destination->flight = NULL;
	}
}

/* lane and rows: none where it asks for a token */
void
push_flight_start(CdiPushState *push, PushDestination *destination, PushLane *lane, int rows)
{
	push->inflight++;
	destination->inflight++;
	if (lane)
		lane->inflight++;
	account(destination, 1, rows);
}

void
push_flight_end(CdiPushState *push, PushDestination *destination, PushLane *lane, int rows)
{
	push->inflight--;
	destination->inflight--;
	if (lane)
		lane->inflight--;
	account(destination, -1, -rows);
}

PG_FUNCTION_INFO_V1(cdi_push_in_flight);

/* Destinations of this database that have requests in flight */
Datum
cdi_push_in_flight(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdiDatabase *database = NULL;

	InitMaterializedSRF(fcinfo, 0);
	if (cdi_worker_shared == NULL)
		return (Datum) 0;
	LWLockAcquire(cdi_worker_shared->lock, LW_SHARED);
	database = cdi_slot_database(MyDatabaseId);
	LWLockRelease(cdi_worker_shared->lock);
	for (int i = 0; database != NULL && i < CDI_PUSH_INFLIGHT; i++)
	{
		CdiInFlight *one = &database->in_flight[i];
		uint32		destination_id = pg_atomic_read_u32(&one->destination_id);
		uint64		counts;
		Datum		values[3];
		bool		nulls[3] = {false};

		if (destination_id == 0)
			continue;
		pg_read_barrier();
		counts = pg_atomic_read_u64(&one->counts);
		pg_read_barrier();
		if (pg_atomic_read_u32(&one->destination_id) != destination_id || counts == 0)
			continue;
		values[0] = Int32GetDatum((int32) destination_id);
		values[1] = Int64GetDatum((int64) (counts >> 32));
		values[2] = Int64GetDatum((int64) (counts & PG_UINT32_MAX));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
