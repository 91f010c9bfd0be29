"""From the commit of an event to its person, with workers; and what reading a person takes."""
import json
import statistics
import threading
import time

import pq
from measure import Row, checkpoint, say

EVENTS_PER_COMMIT = 10
COMMITS_PER_SECOND = 100
KNOWN = 50000
PATIENCE = 10


def call(number):
    """A known user on a device that is new."""
    user, device = "user-%d" % (number % KNOWN), "device-%d" % number
    return {"type": "track", "event": "Viewed", "messageId": "message-%d" % number, "userId": user, "anonymousId": device,
            "properties": {"page": "/pricing", "plan": "team", "position": number}}


def body(first, n):
    return json.dumps([call(number) for number in range(first, first + n)]).encode()


class Latency:
    def __init__(self, database):
        self.sender = pq.Connection("dbname=" + database)
        self.sender("CREATE EXTENSION cdi")
        self.sender("SELECT cdi_init()")
        self.sender.prepare("ingest", "SELECT * FROM cdi_ingest($1::jsonb, 'sql')")
        self.watcher = pq.Connection("dbname=" + database)
        self.watcher.prepare("resolved", "SELECT cdi_person('anonymous_id', $1) = cdi_person('user_id', $2)")
        for first in range(0, KNOWN, 1000):
            self.sender.execute("ingest", body(first, 1000))
        self.number = KNOWN
        self.committed = []
        self.seconds = []
        self.wait_for(KNOWN - 1)
        self.sender("VACUUM ANALYZE")

    def is_resolved(self, number):
        return self.watcher.execute("resolved", b"device-%d" % number, b"user-%d" % (number % KNOWN)) == [("t",)]

    def wait_for(self, number):
        until = time.perf_counter() + PATIENCE
        while not self.is_resolved(number):
            if time.perf_counter() > until:
                raise SystemExit("an event's person was not known after %d s" % PATIENCE)
            time.sleep(0.001)
        return time.perf_counter()

    def send(self, commits):
        """At a steady rate; late where a commit takes longer than its share of time."""
        start = time.perf_counter()
        for k in range(commits):
            time.sleep(max(0, start + k / COMMITS_PER_SECOND - time.perf_counter()))
            last = self.number + (k + 1) * EVENTS_PER_COMMIT - 1
            self.sender.execute("ingest", self.bodies[k])
            self.committed.append((time.perf_counter(), last))
        self.took = time.perf_counter() - start

    def run(self, seconds):
        """Latency of every commit, in milliseconds.  One run folds commits in
        their order, so the watcher goes from one to the next."""
        commits = seconds * COMMITS_PER_SECOND
        self.bodies = [body(self.number + k * EVENTS_PER_COMMIT, EVENTS_PER_COMMIT) for k in range(commits)]
        checkpoint(self.sender)
        sender = threading.Thread(target=self.send, args=(commits,))
        sender.start()
        latencies = []
        while len(latencies) < commits:
            if len(latencies) < len(self.committed):
                at, number = self.committed[len(latencies)]
                latencies.append(max(0.0, self.wait_for(number) - at) * 1000)
            elif not sender.is_alive() and len(latencies) == len(self.committed):
                raise SystemExit("the sender of events stopped")
            else:
                time.sleep(0.0005)
        sender.join()
        return sorted(latencies)

    def probes(self):
        """Index scans and pages of one cdi_person(), once the session has its key."""
        scans = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_xact_all_tables WHERE schemaname = 'cdi'"
        person = "SELECT cdi_person('anonymous_id', 'device-1')"
        self.watcher("BEGIN")
        before = int(self.watcher.value(scans))
        self.watcher(person)
        after = int(self.watcher.value(scans))
        plan = json.loads(self.watcher.value("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + person))[0]["Plan"]
        self.watcher("COMMIT")
        return after - before, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def run(database, options):
    latency = Latency(database)
    got = latency.run(options.latency_seconds)
    probes, pages = latency.probes()
    runs, links = latency.sender("SELECT count(*), round(avg(links)) FROM cdi.identity_runs WHERE links < %d" % KNOWN)[0]
    rate = len(got) * EVENTS_PER_COMMIT / latency.took
    p50, p99 = statistics.median(got), got[len(got) * 99 // 100]
    say("latency at %d links/s: median %.1f ms, p99 %.1f ms, most %.1f ms" % (rate, p50, p99, got[-1]))
    latency.sender.close()
    latency.watcher.close()
    note = {"links_per_s": round(rate), "commits": len(got), "p50_ms": p50, "max_ms": got[-1], "runs": int(runs),
            "links_per_run": int(links)}
    return [
        Row("latency_p50", "commit to person, 1,000 links/s, median", "ms", [p50], limit=100, note=note),
        Row("latency_p99", "  99th percentile", "ms", [p99], limit=100, note=note),
        Row("read_probes", "cdi_person, index probes", "", [probes], limit=2, note={"pages": pages}),
    ]
