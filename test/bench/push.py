"""The push worker against bare libcurl: rates, neighbours, memory, latency."""
import contextlib
import os
import signal
import statistics
import subprocess
import time

import pq
from measure import BUILD, HERE, Row, build, checkpoint, interleave, say

RECEIVER = os.path.join(BUILD, "bench", "push_receiver")
FLOOR = os.path.join(BUILD, "bench", "push_floor")
CONNECTIONS = 8         # cdi.activate_concurrency, unless said
SETTLE = 1              # seconds of a load that are not counted
PAYLOAD = """jsonb_build_object('id', n, 'email', 'person' || n || '@bench.example', 'name', 'Person ' || n,
    'plan', 'pro', 'revenue', n * 0.01, 'last_seen_at', '2026-01-02T03:04:05Z')"""


class Bench:
    def __init__(self, database, options):
        self.db = pq.Connection("dbname=" + database)
        self.seconds = options.seconds
        self.receiver = subprocess.Popen([RECEIVER], stdout=subprocess.PIPE, text=True)
        self.port = int(self.receiver.stdout.readline())
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db('ALTER DATABASE "%s" SET cdi.egress_allow_private = on' % database)
        self.db("ALTER SYSTEM SET cdi.egress_allow_private = on")
        self.db("SELECT pg_reload_conf()")
        self.db("SELECT cdi_arm()")

    def close(self):
        self.db("SELECT cdi_disarm()")
        self.db.close()
        self.receiver.send_signal(signal.SIGTERM)
        self.receiver.wait()

    def url(self, path):
        return "http://127.0.0.1:%d/%s" % (self.port, path)

    def sync(self, name, url, batch, rows):
        """A sync with so many rows in the outbox; it does not send yet."""
        self.db("SELECT cdi_create_destination('%s', settings => '{\"url\": \"%s\", \"batch_size\": %d}')" % (name, url, batch))
        self.db("SELECT cdi_create_sync('%s', '%s', 'SELECT 1 AS id', 'id')" % (name, name))
        self.db("SELECT cdi_disable_destination('%s')" % name)
        self.fill(name, rows)

    def fill(self, name, rows):
        self.db("""INSERT INTO cdi.outbox
            SELECT nextval('cdi.outbox_position'), now(), s.sync_id, 0, 'insert', n::text, md5(n::text)::uuid,
                   md5(n::text || 'key')::uuid, %s
            FROM cdi.syncs s, generate_series(1, %d) n WHERE s.name = '%s'""" % (PAYLOAD, rows, name))

    def accepted(self, name):
        """Requests and rows that are on record, and when, on the server's clock"""
        row = self.db("""SELECT count(*), coalesce(sum(d.accepted), 0), extract(epoch FROM clock_timestamp())
            FROM cdi.deliveries d JOIN cdi.destinations USING (destination_id) WHERE name = '%s'""" % name)[0]
        return tuple(map(float, row))

    def enable(self, name):
        self.db("SELECT cdi_enable_destination('%s')" % name)

    def disable(self, name):
        self.db("SELECT cdi_disable_destination('%s')" % name)

    def drop(self, name):
        self.disable(name)
        time.sleep(0.2)
        self.db("SELECT cdi_drop_sync('%s')" % name)
        self.db("SELECT cdi_drop_destination('%s')" % name)

    def empty(self):
        # One by one: the worker looks into several of them at a time.
        for table in "outbox", "deliveries", "sync_rows", "push_cursor", "failed_deliveries", "sync_runs":
            self.db("TRUNCATE cdi." + table)
        checkpoint(self.db)

    def rate(self, name):
        """Requests and rows per second of a destination that is sent to meanwhile"""
        self.enable(name)
        time.sleep(SETTLE)
        before = self.accepted(name)
        time.sleep(self.seconds)
        after = self.accepted(name)
        self.disable(name)
        span = after[2] - before[2]
        return (after[0] - before[0]) / span, (after[1] - before[1]) / span

    def load(self, batch, rows, held=False):
        """Rate of one destination alone, in rows per second"""
        self.empty()
        self.sync("alone", self.url("ok"), batch, rows)
        checkpoint(self.db)
        with self.snapshot() if held else contextlib.nullcontext():
            rate = self.rate("alone")[1]
        self.drop("alone")
        return rate

    @contextlib.contextmanager
    def snapshot(self):
        holder = pq.Connection("dbname=" + self.db.value("SELECT current_database()"))
        holder("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder("SELECT count(*) FROM cdi.syncs")
        try:
            yield
        finally:
            holder("ROLLBACK")
            holder.close()

    def floor(self, batch):
        """The same bodies by libcurl alone, in rows per second"""
        body = "[" + ", ".join(self.db("""SELECT jsonb_build_object('operation', 'insert', 'primary_key', n::text,
            'idempotency_key', md5(n::text)::uuid, 'row', %s)::text FROM generate_series(1, %d) n""" % (PAYLOAD, batch))[i][0]
            for i in range(batch)) + "]"
        out = subprocess.run([FLOOR, self.url("ok"), str(CONNECTIONS), str(self.seconds)], input=body, text=True,
                             stdout=subprocess.PIPE, check=True).stdout
        return float(out) * batch

    def worker(self):
        return int(self.db.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi push'"
                                 " AND datname = current_database()"))

    def memory(self):
        """Of the worker alone, in kB"""
        with open("/proc/%d/status" % self.worker()) as file:
            return int(next(line for line in file if line.startswith("RssAnon:")).split()[1])

    def neighbours(self, rows):
        """Rate of a destination beside three that are in trouble, to its rate alone"""
        troubled = {"dead": "http://127.0.0.1:1/", "slow": self.url("slow"), "busy": self.url("busy")}
        self.empty()
        for name, url in troubled.items():
            self.sync(name, url, 10, 2000)
        self.sync("well", self.url("ok"), 10, 4 * rows)  # four times, and never empty
        checkpoint(self.db)
        alone, beside = [], []
        for number in range(4):
            for name in troubled:
                (self.enable if number % 2 else self.disable)(name)
            (beside if number % 2 else alone).append(self.rate("well")[1])
        for name in [*troubled, "well"]:
            self.drop(name)
        return alone, beside

    def backlog(self, rows):
        """Memory of the worker at the beginning and the end of a load with so many rows queued, in kB"""
        self.empty()
        self.sync("backlog", self.url("ok"), 100, 0)
        for done in range(0, rows, 1000000):
            self.fill("backlog", min(1000000, rows - done))
        checkpoint(self.db)
        self.enable("backlog")
        time.sleep(SETTLE)
        start = self.memory()
        time.sleep(3 * self.seconds)
        end = self.memory()
        sent = self.accepted("backlog")[1]
        self.drop("backlog")
        return start, end, sent

    def latency(self, runs=200):
        """Milliseconds from before a run commits to its request"""
        self.empty()
        self.db("CREATE TABLE changing (id integer, version integer); INSERT INTO changing VALUES (1, 0)")
        self.db("SELECT cdi_create_destination('prompt', settings => '{\"url\": \"%s\"}')" % self.url("ok"))
        self.db("SELECT cdi_create_sync('prompt', 'prompt', 'SELECT * FROM changing', 'id')")
        # What was in flight when the tables were emptied is of other syncs.
        sent = "cdi.deliveries d JOIN cdi.syncs s ON s.sync_id = d.sync_id AND s.name = 'prompt'"
        for number in range(runs):
            self.db("UPDATE changing SET version = %d" % (number + 1))
            self.db("BEGIN")
            self.db("SELECT cdi_sync_run('prompt')")
            self.db("INSERT INTO committed SELECT extract(epoch FROM clock_timestamp())" if number else
                    "CREATE TABLE committed AS SELECT extract(epoch FROM clock_timestamp()) AS at")
            self.db("COMMIT")
            while int(self.db.value("SELECT count(*) FROM %s" % sent)) <= number:
                time.sleep(0.001)
        times = [1000 * (float(sent) - float(at)) for sent, at in zip(
            [row[0] for row in self.db("SELECT extract(epoch FROM sent_at) FROM %s ORDER BY 1" % sent)],
            [row[0] for row in self.db("SELECT at FROM committed ORDER BY 1")])]
        self.drop("prompt")
        return times


def run(database, options):
    build("push_receiver", os.path.join(HERE, "push_receiver.c"))
    build("push_floor", os.path.join(HERE, "push_floor.c"), "-lcurl")
    bench = Bench(database, options)
    # More than are sent in the time
    single, batched = 30000 * (options.seconds + SETTLE), 150000 * (options.seconds + SETTLE)
    rows = []
    for batch, count, what, enough in ((1, single, "single-row requests", 5000), (100, batched, "rows in batches of 100", 30000)):
        got = interleave(options.repetitions, cdi=lambda: bench.load(batch, count),
                         held=lambda: bench.load(batch, count, held=True), floor=lambda: bench.floor(batch))
        rows.append(Row("push_%d" % batch, "push: %s, every attempt recorded" % what, "/s", got["cdi"],
                        floor=("libcurl multi alone", got["floor"]), enough=enough))
        rows.append(Row("push_%d_held" % batch, "  while an old snapshot is held", "/s", got["held"],
                        alternative=("without it", got["cdi"]), enough=enough))
    alone, beside = bench.neighbours(batched)
    rows.append(Row("push_neighbours", "push: beside a dead, a slow and a busy destination", "rows/s", beside,
                    alternative=("alone", alone), target=0.95))
    times = sorted(bench.latency())
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        rows.append(Row("push_latency_%s" % name, "push: from commit of a run to its request, %s" % name, "ms",
                        [times[int(part * (len(times) - 1))]], limit=200))
    start, end, sent = bench.backlog(options.backlog)
    say("backlog of %d rows: %d kB at the start, %d kB after %d rows" % (options.backlog, start, end, sent))
    rows.append(Row("push_memory", "push: growth of the worker's memory, backlog of {:,} rows".format(options.backlog), "kB",
                    [end - start], limit=4096, note={"start_kb": start, "end_kb": end, "rows_sent": sent}))
    bench.close()
    return rows
