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
        self.db("CREATE INDEX ON model (seen_at)")
        self.db("UPDATE model SET revenue = revenue + 1, seen_at = seen_at + interval '10 years' WHERE id % 100 = 7")
        for table in ("model", "sent", "cdi.sync_rows", "cdi.outbox"):
            self.db("VACUUM ANALYZE " + table)
        self.changed = int(self.db.value("SELECT count(*) FROM model WHERE id % 100 = 7"))

        self.tenth = self.changed // 10

    def cdi(self, latest=None):
        """With the rows that it queues, and undone for the next round.

        latest: only so many rows are beyond what a run before has seen of the
        change column."""
        self.db("BEGIN")
        if latest:
            self.db("UPDATE cdi.syncs SET change_column = 'seen_at', change_value ="
                    " (SELECT seen_at::text FROM model ORDER BY seen_at DESC OFFSET %d LIMIT 1)" % (latest - 1))
        with clock() as took:
            self.db("SELECT cdi_sync_run('diff')")
        found = int(self.db.value("SELECT changed FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1"))
        self.db("ROLLBACK")
        if found != (latest or self.changed):
            raise SystemExit("%d rows differ, not %d" % (found, latest or self.changed))
        return took.seconds

    def latest(self):
        return self.cdi(self.changed)

    def latest_tenth(self):
        return self.cdi(self.tenth)

    def one(self):
        return self.cdi(1)

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
    got = interleave(options.repetitions, cdi=diff.cdi, latest=diff.latest, tenth=diff.latest_tenth,
                     one=diff.one, hand=diff.hand, floor=diff.floor)
    diff.db.close()
    floor = ("full join by key", got["floor"])
    return [Row("diff", "cdi_sync_run, 1 % of {:,} rows changed".format(options.rows), "s", got["cdi"],
                ("full join and md5(row)", got["hand"]), floor, target=2.2),
            Row("diff_floor", "  the same", "s", got["cdi"], floor, target=1 / 1.2),
            Row("diff_latest", "  with a change column", "s", got["latest"],
                ("without a change column", got["cdi"]), floor),
            Row("diff_tenth", "  with a change column, 0.1 %", "s", got["tenth"],
                ("the same, 1 %", got["latest"]), target=5),
            Row("diff_one", "  with a change column, one row", "s", got["one"], limit=0.05)]
