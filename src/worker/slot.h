/*
 * slot.h
 *		Shared memory of the workers, between the files of this folder.
 *
 * Everything here is under CdiWorkerShared.lock unless said otherwise.  There
 * are no pointers in it: latches are found by process number, and a number is
 * valid only beside a pid that is not 0, which its owner clears before it
 * leaves.
 */
#ifndef CDI_WORKER_SLOT_H
#define CDI_WORKER_SLOT_H

#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "worker/worker.h"

#define CDI_ERROR_LEN	256

/* Slots of a database: keeper, push, then the collectors in order. */
#define CDI_FIRST_COLLECTOR	2
#define CDI_SLOTS			(CDI_FIRST_COLLECTOR + CDI_MAX_COLLECTORS)

/* Of the process's worker in all of shared memory: bgw_main_arg */
#define CDI_SLOT_ID(database, slot)	((database) * CDI_SLOTS + (slot))

/* LWLocks of the tranche "cdi" */
typedef enum CdiLock
{
	CDI_LOCK_WORKERS,
	CDI_LOCK_LISTEN,
	CDI_LOCK_LIMIT,
	CDI_LOCK_COOKIELESS,
	CDI_LOCKS
} CdiLock;

/* Where a worker stands; README.md has the transitions. */
typedef enum CdiSlotState
{
	CDI_SLOT_OFF,				/* not wanted, or found nothing to do */
	CDI_SLOT_WAITING,			/* is to be launched at retry_at */
	CDI_SLOT_STARTING,			/* launched, not attached yet */
	CDI_SLOT_RUNNING,
	CDI_SLOT_STOPPING			/* was asked to end */
} CdiSlotState;

/* The last error of a process; written in the middle of error reporting,
 * where no LWLock may be taken, hence the spinlock. */
typedef struct CdiLastError
{
	slock_t		mutex;
	TimestampTz at;
	char		message[CDI_ERROR_LEN];
} CdiLastError;

typedef struct CdiSlot
{
	CdiSlotState state;
	bool		wanted;
	bool		done;			/* it found nothing to do here */
	bool		parked;			/* a collector that has parked events */
	pid_t		pid;			/* 0: not attached */
	int			procno;
	uint32		launch;			/* number of the launch that may attach */
	uint32		settings;		/* hash of the settings that are in force */
	uint32		launched_settings;	/* and of those it was launched with */
	int			failures;		/* in a row */
	TimestampTz started_at;
	TimestampTz retry_at;
	pg_atomic_uint64 wakes;		/* no lock */
	CdiLastError error;

	/* Where a collector listens, 0 for nowhere; under listen_lock */
	int			listen_port;
	uint32		listen_address; /* hash */

	/* no lock; only the worker writes */
	bool		has_stats;		/* a worker has run here */
	pg_atomic_uint64 stats[CDI_WORKER_STATS];
} CdiSlot;

/* Requests that a push worker has on the network at a time, to all destinations together */
#define CDI_PUSH_INFLIGHT 512

/* Of one destination; no lock, only the push worker writes */
typedef struct CdiInFlight
{
	pg_atomic_uint32 destination_id;	/* 0: free */
	pg_atomic_uint64 counts;	/* requests, and rows in the lower half */
} CdiInFlight;

typedef struct CdiDatabase
{
	Oid			oid;			/* InvalidOid: free */
	NameData	name;
	int			holds;			/* transactions that want no worker here */
	int			nslots;			/* slots that have ever been wanted */
	uint32		checks;			/* grows when workers must look whether the
								 * extension is still there */
	pg_atomic_uint64 commits;	/* that woke the keeper; no lock */
	pg_atomic_uint32 watch;		/* push waits for events; no lock */
	CdiSlot		slots[CDI_SLOTS];
	CdiInFlight in_flight[CDI_PUSH_INFLIGHT];	/* destinations that have some */
} CdiDatabase;

typedef struct CdiWorkerShared
{
	LWLock	   *lock;
	LWLock	   *listen_lock;	/* taken before lock, where both are */
	pid_t		launcher_pid;
	int			launcher_procno;
	TimestampTz launcher_started_at;
	CdiLastError launcher_error;
	bool		scan;			/* the launcher must read the catalogs */
	int			ndatabases;
	CdiDatabase databases[FLEXIBLE_ARRAY_MEMBER];
} CdiWorkerShared;

/* What the launcher tells a worker beside its slot (bgw_extra). */
typedef struct CdiLaunch
{
	Oid			database;
	uint32		launch;
} CdiLaunch;

/* A database that wants workers */
typedef struct CdiWish
{
	Oid			oid;
	NameData	name;
	bool		enabled;
	int			port;			/* of the collectors, 0: none */
	int			collectors;		/* their number */
	uint32		settings;		/* hash of all its other cdi.* settings */
} CdiWish;

/*
 * wish.c; list of CdiWish in the caller's memory context, and into databases
 * the oids of all that exist.
 */
extern List *cdi_wish_read(List **databases);

/* slot.c; NULL where the library was not preloaded */
extern CdiWorkerShared *cdi_worker_shared;

extern const char *const cdi_worker_names[CDI_WORKER_KINDS];

static inline CdiWorkerKind
cdi_slot_kind(int slot)
{
	return slot == 0 ? CDI_WORKER_KEEPER : slot == 1 ? CDI_WORKER_PUSH : CDI_WORKER_COLLECTOR;
}

/* Number among the slots of its kind, from 1 */
static inline int
cdi_slot_number(int slot)
{
	return slot < CDI_FIRST_COLLECTOR ? 1 : slot - CDI_FIRST_COLLECTOR + 1;
}

extern void cdi_slot_request(void);
extern void cdi_slot_create(void);
extern CdiDatabase *cdi_slot_database(Oid oid); /* lock held; may be NULL */
extern bool cdi_slot_attach(int id, const CdiLaunch *launch,
							CdiDatabase **database, CdiSlot **slot);
extern void cdi_slot_attach_launcher(void);

/* worker.c; where this process is a worker */
extern CdiDatabase *cdi_worker_database(void);
extern CdiSlot *cdi_worker_slot(void);

/* wake.c; with the lock held, in any mode */
extern void cdi_wake_process(pid_t pid, int procno);

extern void cdi_wake_init(void);
/* Let workers of this database look, at commit, whether cdi is still there. */
extern void cdi_wake_check_at_commit(void);
/* Wake all that may have waited for a prepared transaction; at once. */
extern void cdi_wake_now(int kinds);
/*
 * Stop the workers of a database and keep them stopped until the current
 * transaction ends.  Returns when they are gone, or after half a minute.
 * The caller has checked that the user may do this.
 */
extern void cdi_wake_hold(Oid database);

/* utility.c */
extern void cdi_utility_init(void);

#endif							/* CDI_WORKER_SLOT_H */
