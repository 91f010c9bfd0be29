"""The HTTP collector against a Node service, cdi_ingest() and bare HTTP."""
import glob
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
from measure import BUILD, HERE, ROOT, Row, checkpoint, interleave, say

REGISTRY_UNREACHABLE = 75
CALLS = os.path.join(BUILD, "bench", "calls")


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
    """Calls for post.lua: each without its message id and opening brace."""
    os.makedirs(os.path.dirname(CALLS), exist_ok=True)
    with open(CALLS, "w") as file:
        for text in simulated(db, persons):
            call = json.loads(text)
            del call["messageId"]
            file.write("%s\t%s\n" % (call["type"], json.dumps(call, separators=(",", ":"), ensure_ascii=False)[1:]))


class Load:
    """A service under load, and whether it kept its word."""
    number = 0

    def __init__(self, port, key, options, events=1, db=None, table=None, empty=None):
        self.port, self.key, self.options, self.events = port, key, options, events
        self.db, self.table, self.empty = db, table, empty
        self.p50, self.p99 = [], []

    def __call__(self):
        if self.db:
            self.db(self.empty)
            checkpoint(self.db)
        Load.number += 1
        out = subprocess.run(["wrk", "-t1", "-c%d" % self.options.connections, "-d%ds" % self.options.seconds,
                              "--timeout", "20s", "-s", os.path.join(HERE, "post.lua"),
                              "http://127.0.0.1:%d" % self.port, "--", CALLS, str(self.events), self.key,
                              "load%d" % Load.number], check=True, text=True, stdout=subprocess.PIPE).stdout
        got = json.loads(out.strip().splitlines()[-1])
        if got["refused"] or got["broken"]:
            raise SystemExit("port %d: %d requests refused, %d broken" % (self.port, got["refused"], got["broken"]))
        acknowledged = got["requests"] * self.events
        # Requests that wrk left unanswered at the end may be stored too.
        if self.db and int(self.db.value("SELECT count(*) FROM " + self.table)) < acknowledged:
            raise SystemExit("port %d: more events acknowledged than stored" % self.port)
        self.p50.append(got["p50_ms"])
        self.p99.append(got["p99_ms"])
        return acknowledged / got["seconds"]


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
    program = os.path.join(BUILD, "bench", "http_floor")
    subprocess.run(["cc", "-O2", "-Isrc", "-o", program, "test/bench/http_floor.c",
                    *glob.glob(os.path.join(ROOT, "src/collect/http*.c")), "src/collect/proxy.c",
                    "src/base/network.c", "-lmicrohttpd"], cwd=ROOT, check=True)
    process = subprocess.Popen([program], text=True, stdout=subprocess.PIPE)
    return process, int(process.stdout.readline())


def run(database, options):
    if not shutil.which("wrk"):
        raise SystemExit("missing: wrk (Debian package wrk)")
    port = free_port()
    settings = pq.Connection("dbname=postgres")
    settings('ALTER DATABASE "%s" SET cdi.collector_port = %d' % (database, port))
    settings.close()
    ingest = Ingest(database, max(options.persons // 2, 300), options.batch)
    key = ingest.db.value("SELECT cdi_create_source('bench')")
    write_calls(ingest.db, 300)
    node = floor = None
    try:
        wait_for("http://127.0.0.1:%d/health" % port)
        node, node_port = start_node(key, database)
        floor, floor_port = start_floor()
        loads = {
            "single": Load(port, key, options, 1, ingest.db, "cdi.events", EMPTY),
            "floor": Load(floor_port, key, options),
            "hundred": Load(port, key, options, 100, ingest.db, "cdi.events", EMPTY),
        }
        if node:
            loads["node"] = Load(node_port, key, options, 1, ingest.db, "hand.events", "TRUNCATE hand.events")
        else:
            say("no Node service to compare with: %s" % node_port)
        got = interleave(max(2, min(3, options.repetitions)), ingest=ingest.cdi, **loads)
    finally:
        for process in (node, floor):
            if process:
                process.terminate()
                process.wait()
        ingest.db.close()
    single = "collector, single events, %d connections" % options.connections
    rate = ("cdi_ingest, batches of %d" % options.batch, got["ingest"])
    bare = ("same HTTP layer, no database", got["floor"])
    service = ("fastify + pg, pool of 16", got.get("node"))
    missing = None if node else node_port
    return [
        Row("collector_ingest", single, "events/s", got["single"], rate, bare, target=0.5),
        Row("collector_node", single, "events/s", got["single"], service, bare, target=2.5, missing=missing),
        Row("collector_p99", "  99th percentile of the same", "ms", loads["single"].p99,
            (service[0], loads["node"].p99 if node else None), (bare[0], loads["floor"].p99), target=1.0,
            missing=missing, note={"p50_ms": {name: load.p50 for name, load in loads.items()}}),
        Row("collector_hundred", "collector, bodies of 100 events", "events/s", got["hundred"], rate, target=0.7),
    ]
