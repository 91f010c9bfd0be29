"""What an installation does while nobody does anything."""
import time

import pq
from measure import Row, checkpoint, say

# The background writer logs a snapshot up to 15 seconds after the last real
# change, with or without cdi.
SETTLE = 17


def run(database, options):
    db = pq.Connection("dbname=" + database)
    db("CREATE EXTENSION cdi")
    db("SELECT cdi_init()")
    for _ in range(100):
        if int(db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND backend_type LIKE 'cdi%'")) >= 2:
            break
        time.sleep(0.1)
    db("SELECT cdi_ingest(jsonb_agg(call), 'sql') FROM cdi_simulate(100) call")
    time.sleep(2)
    workers = [kind for kind, in db("SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'cdi%'"
                                    " AND coalesce(datname, current_database()) = current_database() ORDER BY 1")]
    checkpoint(db)
    db.close()
    time.sleep(SETTLE)
    # Watched from another database, so that the watching is not counted.
    observer = pq.Connection("dbname=postgres")
    # The launcher, which is in no database, counts as database 0.
    look = ("SELECT sum(xact_commit + xact_rollback), pg_current_wal_insert_lsn() - '0/0' FROM pg_stat_database"
            " WHERE datname = '%s' OR datid = 0" % database)
    before = [float(value) for value in observer(look)[0]]
    time.sleep(options.idle_seconds)
    after = [float(value) for value in observer(look)[0]]
    observer.close()
    say("%d s with %s" % (options.idle_seconds, ", ".join(workers) or "no workers"))
    transactions, wal = [b - a for a, b in zip(before, after)]
    note = {"seconds": options.idle_seconds, "workers": workers}
    return [
        Row("idle_statements", "idle installation, transactions", "per s", [transactions / options.idle_seconds], limit=0,
            note=note),
        Row("idle_wal", "idle installation, WAL", "bytes", [wal], limit=0, note=note),
    ]
