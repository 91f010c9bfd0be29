"""The HTTP collector against a Node service, cdi_ingest() and bare HTTP."""
import glob
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pq
from ingest import EMPTY, Ingest, simulated
from measure import BUILD, HERE, ROOT, Row, at_once, build, checkpoint, interleave, say

REGISTRY_UNREACHABLE = 75
CALLS = os.path.join(BUILD, "bench", "calls")
LOAD = os.path.join(BUILD, "bench", "load")
IDLE = 5000
numbers = itertools.count(1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, process=None, seconds=20):
    """Until something answers at the address, whatever it says."""
    until = time.time() + seconds
    while time.time() < until and (process is None or process.poll() is None):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("nothing answers at %s" % url)


def write_calls(db, persons):
    """Calls for load.c: each without its message id and opening brace."""
    with open(CALLS, "w") as file:
        for text in simulated(db, persons):
            call = json.loads(text)
            del call["messageId"]
            file.write("%s\t%s\n" % (call["type"], json.dumps(call, separators=(",", ":"), ensure_ascii=False)[1:]))


def post(port, key, *arguments):
    """One run of the load generator; nothing may be refused or lost."""
    out = subprocess.run([LOAD, "--tag", "load%d" % next(numbers), *map(str, arguments), str(port), key, CALLS],
                         text=True, stdout=subprocess.PIPE).stdout
    got = json.loads(out)
    if got["refused"] or got["unanswered"]:
        raise SystemExit("port %d: %d requests refused, %d unanswered" % (port, got["refused"], got["unanswered"]))
    if got.get("idle_answering") != got.get("idle"):
        raise SystemExit("port %d: %d of %d idle connections still answer" % (port, got["idle_answering"], got["idle"]))
    return got


class Load:
    """A service under load, and whether it kept its word."""

    def __init__(self, port, key, options, *arguments, db=None, table=None, empty=None):
        self.port, self.key = port, key
        self.connections = options.connections
        self.arguments = ["--connections", options.connections, "--seconds", options.seconds, *arguments]
        self.db, self.table, self.empty = db, table, empty
        self.p50, self.p99 = [], []

    def post(self):
        return post(self.port, self.key, *self.arguments)

    def __call__(self):
        if self.db:
            self.db(self.empty)
            checkpoint(self.db)
        got = self.post()
        if self.db and int(self.db.value("SELECT count(*) FROM " + self.table)) < got["acknowledged"]:
            raise SystemExit("port %d: more events acknowledged than stored" % self.port)
        self.p50.append(got["p50_ms"])
        self.p99.append(got["p99_ms"])
        return got["acknowledged"] / got["seconds"]


class HalfPeak(Load):
    """At half the rate that the same load reached without a limit; the
    latency counts from when a request was due."""

    def __init__(self, peak, *arguments, **more):
        super().__init__(*arguments, **more)
        self.peak = peak

    def __call__(self):
        full = self.arguments
        self.arguments = full + ["--rate", self.peak.last / 2]
        super().__call__()
        self.arguments = full
        return self.p99[-1]


class Peak(Load):
    last = None

    def __call__(self):
        self.last = super().__call__()
        return self.last


class ManyClients(Load):
    """Connections enough for two collectors, from a load generator per
    processor: one alone waits for the processor it is on while another has
    nothing to do.  Collectors that have just started fill their caches first."""

    def clients(self, *arguments):
        clients = os.cpu_count()
        return at_once(*[lambda: post(self.port, self.key, *self.arguments, "--connections",
                                      2 * self.connections // clients, *arguments) for _ in range(clients)])

    def post(self):
        self.clients("--seconds", 1)
        got = self.clients()
        return {"acknowledged": sum(one["acknowledged"] for one in got), "seconds": max(one["seconds"] for one in got),
                "p50_ms": max(one["p50_ms"] for one in got), "p99_ms": max(one["p99_ms"] for one in got)}


class TwoCollectors(ManyClients):
    """The same load with two collectors on the port."""

    def __call__(self):
        set_collectors(self.db, 2)
        try:
            return super().__call__()
        finally:
            set_collectors(self.db, 1)


def collectors(db):
    return [int(pid) for pid, in db("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%'"
                                    " AND datname = current_database()")]


def set_collectors(db, number):
    old = collectors(db)
    db("DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET cdi.collector_workers = %d', current_database()); END $$" % number)
    for _ in range(200):
        now = collectors(db)
        if len(now) == number and (number == len(old) or now != old):
            break
        time.sleep(0.1)
    else:
        raise SystemExit("%d collectors did not start" % number)
    time.sleep(0.5)


def start_node(key, database):
    """The Node service; (process, port), or (None, why not)."""
    if not shutil.which("node") or not shutil.which("npm"):
        return None, "Node.js and npm are not installed"
    status = subprocess.run(["test/setup", "node", "bench"], cwd=ROOT).returncode
    if status:
        return None, ("npm's registry cannot be reached" if status == REGISTRY_UNREACHABLE
                      else "npm packages could not be installed")
    port = free_port()
    process = subprocess.Popen(["node", os.path.join(HERE, "server.cjs"), str(port), key], cwd=BUILD,
                               stdout=subprocess.DEVNULL,
                               env=dict(os.environ, PGDATABASE=database, NODE_ENV="production",
                                        NODE_PATH=os.path.join(BUILD, "node/bench/node_modules")))
    wait_for("http://127.0.0.1:%d/" % port, process)
    return process, port


def start_floor():
    """The collector's HTTP layer with nothing behind it."""
    program = build("http_floor", "test/bench/http_floor.c",
                    *glob.glob(os.path.join(ROOT, "src/collect/http*.c")),
                    os.path.join(ROOT, "src/collect/proxy.c"), os.path.join(ROOT, "src/base/network.c"), "-lmicrohttpd")
    process = subprocess.Popen([program], text=True, stdout=subprocess.PIPE)
    return process, int(process.stdout.readline())


def memory_per_connection(port, key, pid):
    """Of a collector that has just started, so that nothing freed is reused."""
    got = post(port, key, "--seconds", 0, "--idle", IDLE, "--watch", pid)
    return (got["rss_idle_kb"] - got["rss_before_kb"]) / IDLE


def run(database, options):
    os.makedirs(os.path.dirname(CALLS), exist_ok=True)
    build("load", "test/bench/load.c", "test/bench/load_loop.c")
    port = free_port()
    settings = pq.Connection("dbname=postgres")
    settings('ALTER DATABASE "%s" SET cdi.collector_port = %d' % (database, port))
    settings.close()
    ingest = Ingest(database, max(options.persons // 2, 300), options.batch)
    db = ingest.db
    key = db.value("SELECT cdi_create_source('bench')")
    write_calls(db, 300)
    node = floor = None
    try:
        wait_for("http://127.0.0.1:%d/health" % port)
        memory = memory_per_connection(port, key, collectors(db)[0])
        node, node_port = start_node(key, database)
        floor, floor_port = start_floor()
        stored = {"db": db, "table": "cdi.events", "empty": EMPTY}
        single = Peak(port, key, options, **stored)
        loads = {
            "single": single,
            "half": HalfPeak(single, port, key, options, **stored),
            "held": Load(port, key, options, "--idle", IDLE, **stored),
            "floor": Load(floor_port, key, options),
            "hundred": Load(port, key, options, "--events", 100, **stored),
            "wide": ManyClients(port, key, options, **stored),
            "two": TwoCollectors(port, key, options, **stored),
        }
        if node:
            loads["node"] = Load(node_port, key, options, db=db, table="hand.events", empty="TRUNCATE hand.events")
        else:
            say("no Node service to compare with: %s" % node_port)
        got = interleave(max(2, min(3, options.repetitions)), ingest=ingest.cdi, **loads)
    finally:
        for process in (node, floor):
            if process:
                process.terminate()
                process.wait()
        db.close()
    what = "collector, single events, %d connections" % options.connections
    rate = ("cdi_ingest, batches of %d" % options.batch, got["ingest"])
    bare = ("same HTTP layer, no database", got["floor"])
    service = ("fastify + pg, pool of 16", got.get("node"))
    missing = None if node else node_port
    return [
        Row("collector_ingest", what, "events/s", got["single"], rate, bare, target=0.6, enough=10000),
        Row("collector_node", what, "events/s", got["single"], service, bare, target=2.5, missing=missing),
        Row("collector_p99", "  99th percentile of the same", "ms", single.p99,
            (service[0], loads["node"].p99 if node else None), (bare[0], loads["floor"].p99), target=1.0,
            missing=missing, note={"p50_ms": {name: load.p50 for name, load in loads.items()}}),
        Row("collector_half", "  99th percentile at half the rate", "ms", got["half"], limit=50),
        Row("collector_hundred", "collector, bodies of 100 events", "events/s", got["hundred"], rate, target=0.7),
        Row("collector_two", "two collectors, single events, %d connections" % (2 * options.connections), "events/s", got["two"],
            ("one collector, as many connections", got["wide"]), target=1.3),
        Row("collector_held", "collector with %d idle connections" % IDLE, "events/s", got["held"],
            ("without them", got["single"])),
        Row("collector_memory", "memory per open connection", "KiB", [memory], limit=32),
    ]
