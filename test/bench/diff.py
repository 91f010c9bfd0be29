"""A run of a sync of which 1 % has changed, against what is written by hand."""
import pq
from measure import Row, clock, interleave

BARE = "SELECT count(*), count(m.id), count(r.primary_key) FROM model m FULL JOIN cdi.sync_rows r ON r.primary_key = m.id::text"
HAND = "SELECT count(*) FROM model FULL JOIN sent USING (id) WHERE md5(model::text) IS DISTINCT FROM md5(sent::text)"


class Diff:
    def __init__(self, database, rows):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db("SET jit = off")
        self.db("CREATE TABLE model AS SELECT g AS id, 'user' || g || '@example.com' AS email, 'Customer ' || g %% 100003 AS name,"
                " g * 7919 %% 1000000 / 100.0 AS revenue, g %% 500 AS visits, timestamptz '2026-01-01' + g * interval '1 second' AS seen_at"
                " FROM generate_series(1, %d::bigint) g" % rows)
        self.db("CREATE TABLE sent AS TABLE model")
        for table in ("model", "sent"):
            self.db("ALTER TABLE %s ADD PRIMARY KEY (id)" % table)
        self.db("SELECT cdi_create_destination('diff', settings => '{\"url\": \"https://diff.example/rows\"}')")
        self.db("SELECT cdi_create_sync('diff', 'diff', 'SELECT * FROM model', 'id')")
        self.db("SELECT cdi_sync_run('diff')")
        # as if all of it had been accepted
        self.db("INSERT INTO cdi.sync_rows SELECT sync_id, primary_key, hash, payload, now(), row_hash FROM cdi.outbox")
        self.db("INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM cdi.outbox GROUP BY 1")
        self.db("UPDATE model SET revenue = revenue + 1 WHERE id % 100 = 7")
        for table in ("model", "sent", "cdi.sync_rows", "cdi.outbox"):
            self.db("VACUUM ANALYZE " + table)
        self.changed = int(self.db.value("SELECT count(*) FROM model WHERE id % 100 = 7"))

    def cdi(self):
        """With the rows that it queues, and undone for the next round."""
        self.db("BEGIN")
        with clock() as took:
            self.db("SELECT cdi_sync_run('diff')")
        found = int(self.db.value("SELECT changed FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1"))
        self.db("ROLLBACK")
        if found != self.changed:
            raise SystemExit("%d rows differ, not %d" % (found, self.changed))
        return took.seconds

    def time(self, statement):
        with clock() as took:
            self.db(statement)
        return took.seconds

    def hand(self):
        return self.time(HAND)

    def floor(self):
        return self.time(BARE)


def run(database, options):
    diff = Diff(database, options.rows)
    diff.floor()
    got = interleave(options.repetitions, cdi=diff.cdi, hand=diff.hand, floor=diff.floor)
    diff.db.close()
    return [Row("diff", "cdi_sync_run, 1 % of {:,} rows changed".format(options.rows), "s", got["cdi"],
                ("full join and md5(row)", got["hand"]), ("full join by key", got["floor"]),
                target=2.2)]
