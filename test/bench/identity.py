"""The graph of identities: in bulk beside pgRouting, as it grows, how soon, and read."""
import json
import os
import subprocess

import identity_growth
import identity_latency
import pq
from measure import (HERE, ROOT, Row, at_once, build, checkpoint, clock, empty_database, figure, interleave,
                     remove_database, say)

# maintenance_work_mem of bulk runs: more than 64 bytes for each of 12 million
# identifiers, and less
IN_MEMORY, SPILLED = "1GB", "256MB"

# Enough to see that both find the same, and that limits only ever separate
SANITY_LINKS = 200000

# As the map is indexed
INDEXES = ("ALTER TABLE {0} ADD PRIMARY KEY (identifier) WITH (fillfactor = 70);"
           " CREATE INDEX ON {0} (person_id, type_id, fold) WITH (fillfactor = 70)")

STATE = ("cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_rules, cdi.identity_merge_log,"
         " cdi.identity_refusals, cdi.identifier_traits")


class Bulk:
    """cdi_resolve() against pgr_connectedComponents, table to table, on the same links."""

    def __init__(self, database, links):
        self.links = links
        self.persons = links // 8
        self.db = pq.Connection("dbname=" + database)
        if self.db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgrouting'") == "0":
            raise SystemExit("missing: pgRouting (Debian package postgresql-15-pgrouting)")
        # Workers would resolve before the clock starts.
        self.db('ALTER DATABASE "%s" SET cdi.enabled = off' % database)
        with open(os.path.join(HERE, "identity.sql")) as file:
            self.db(file.read())
        # However few links there are in a trial run
        self.db("SET cdi.identity_bulk_threshold = 1")
        # Whoever builds an index or sorts has as much.
        self.db("SET maintenance_work_mem = '%s'" % IN_MEMORY)
        other = pq.Connection("dbname=" + database)
        with clock() as took:
            at_once(lambda: self.db("CALL hand.link(1, %d, %d)" % (links // 2, self.persons)),
                    lambda: other("CALL hand.link(%d, %d, %d)" % (links // 2 + 1, links, self.persons)))
            self.db("SELECT setval('cdi.event_position', %d)" % links)
            self.db("VACUUM ANALYZE cdi.identity_links")
            self.db("CALL hand.make_edges()")
            self.db("VACUUM ANALYZE hand.edges")
        other.close()
        say("%s links made in %d s" % (figure(links), took.seconds))
        self.union_floor = build("union_floor", "test/bench/union_floor.c")
        self.unite, self.memory, self.components, self.scans, self.writes = [], [], [], [], []

    def timed_resolve(self, spilled):
        self.db("TRUNCATE " + STATE)
        checkpoint(self.db)
        with clock() as took:
            self.db("SELECT cdi_resolve()")
        how = self.db("SELECT bulk, spilled FROM cdi.identity_runs")[0]
        if how[0] != "t" or how[1] != spilled:
            raise SystemExit("cdi_resolve() did not write a new map, or not by the way that is meant (bulk %s, spilled %s)" % tuple(how))
        return took

    def resolve_spilled(self):
        """With less memory than the graph takes."""
        self.db("SET maintenance_work_mem = '%s'" % SPILLED)
        took = self.timed_resolve("t")
        self.db("SET maintenance_work_mem = '%s'" % IN_MEMORY)
        return took.seconds

    def resolve(self):
        took = self.timed_resolve("f")
        unite, memory = self.db("SELECT unite_ms / 1000, memory::float8 / identifiers FROM cdi.identity_runs")[0]
        self.unite.append(float(unite))
        self.memory.append(float(memory))
        return took.seconds

    def pgrouting(self):
        """The components into a table, then the indexes.

        A function in FROM is complete before its first row, so the time to
        that row is what finding the components alone takes."""
        self.db("DROP TABLE IF EXISTS hand.pgr_map; CREATE TABLE hand.pgr_map"
                " (identifier bigint, person_id bigint, fold bigint, type_id smallint)")
        checkpoint(self.db)
        with clock() as took:
            self.db("BEGIN")
            plan = self.db.value(
                "EXPLAIN (ANALYZE, FORMAT JSON) INSERT INTO hand.pgr_map SELECT node, component, 0, 0"
                " FROM pgr_connectedComponents('SELECT id, source, target, cost FROM hand.edges')")
            self.db(INDEXES.format("hand.pgr_map"))
            self.db("COMMIT")
        node = json.loads(plan)[0]["Plan"]
        while node["Node Type"] != "Function Scan":
            node = node["Plans"][0]
        self.components.append(node["Actual Startup Time"] / 1000)
        return took.seconds

    def scan_and_write(self):
        """One scan of the columns that are resolved by, one write of the finished map."""
        checkpoint(self.db)
        self.db("SET max_parallel_workers_per_gather = 0")
        with clock() as took:
            self.db("SELECT max(linked_at), count(rule), sum(cardinality(identifiers)), sum(cardinality(types)),"
                    " count(traits) FROM cdi.identity_links")
        self.db("RESET max_parallel_workers_per_gather")
        self.scans.append(took.seconds)
        self.db("DROP TABLE IF EXISTS hand.floor_map; CREATE TABLE hand.floor_map (LIKE cdi.identity_map)")
        checkpoint(self.db)
        with clock() as took:
            self.db("INSERT INTO hand.floor_map SELECT * FROM cdi.identity_map;" + INDEXES.format("hand.floor_map"))
        self.writes.append(took.seconds)
        return self.scans[-1] + self.writes[-1]

    def flat_array(self):
        """Union-find over numbers, in a program of its own."""
        path = os.path.join(self.db.value("SHOW data_directory"), "union_floor.copy")
        self.db("COPY (SELECT * FROM hand.numbered(%d, %d)) TO '%s' WITH (FORMAT binary)" % (self.links, self.persons, path))
        seconds, components = subprocess.run([self.union_floor, path], cwd=ROOT, check=True, text=True,
                                             stdout=subprocess.PIPE).stdout.split()
        os.unlink(path)
        self.flat_components = int(components)
        return float(seconds)

    def counts(self):
        """What was found: as many people without limits as components, with limits at least as many."""
        found = dict(zip(("links", "identifiers", "merges", "refused"),
                         map(int, self.db("SELECT links, identifiers, merges, refused FROM cdi.identity_runs")[0])))
        found["persons"] = int(self.db.value("SELECT count(*) FROM cdi.identity_map WHERE identifier = person_id"))
        found["pgr_components"] = int(self.db.value("SELECT count(DISTINCT person_id) FROM hand.pgr_map"))
        if found["pgr_components"] != self.flat_components or found["persons"] < found["pgr_components"]:
            raise SystemExit("cdi_resolve(), pgRouting and a flat array disagree about how many people there are: %s, %d"
                             % (found, self.flat_components))
        return found

    def check(self):
        """With limits nobody is together whom pgRouting has apart; without them the people are the same."""
        compare = ("SELECT count(*) = (SELECT count(*) FROM hand.pgr_map) AND count(*) = (SELECT count(*) FROM cdi.identity_map)"
                   " AND count(DISTINCT (c.person_id, p.person_id)) = count(DISTINCT c.person_id),"
                   " count(DISTINCT c.person_id), count(DISTINCT p.person_id)"
                   " FROM cdi.identity_map c JOIN hand.pgr_map p ON p.identifier = uuid_hash_extended(c.identifier, 0)")
        self.resolve()
        self.pgrouting()
        within, limited, components = self.db(compare)[0]
        self.db("UPDATE cdi.identifier_types SET max_per_person = NULL")
        self.resolve()
        still_within, persons, _ = self.db(compare)[0]
        if (within, still_within) != ("t", "t") or persons != components or self.flat_array() < 0 or \
                self.flat_components != int(components):
            raise SystemExit("cdi_resolve() and pgRouting disagree about who is one person")
        say("%s links: %s people as pgRouting has them; %s with limits"
            % (figure(self.links), persons, limited))


class Reading:
    """Joining events to people, against a table that is as wide and nothing else."""

    QUERY = "SELECT count(e.payload), count(m.person_id) FROM hand.events e JOIN {} m ON m.identifier = e.subject"

    def __init__(self, db, events):
        self.db = db
        self.db("CREATE UNLOGGED TABLE hand.events AS SELECT identifiers[1] AS subject,"
                " rpad(\"values\"[1], 200, 'payload') AS payload FROM cdi.identity_links LIMIT %d" % events)
        self.events = int(self.db.value("SELECT count(*) FROM hand.events"))
        for table in "hand.events", "hand.floor_map", "cdi.identity_map":
            self.db("VACUUM ANALYZE " + table)
        plans = [self.plan(table) for table in ("cdi.identity_map", "hand.floor_map")]
        if plans[0] != plans[1] or "Hash Join" not in plans[0]:
            raise SystemExit("the joins are not hash joins alike: %s, %s" % tuple(plans))
        # The first joins also write out what was made just before: not counted, of either.
        for table in "cdi.identity_map", "hand.floor_map":
            self.join(table)

    def plan(self, table):
        nodes = [json.loads(self.db.value("EXPLAIN (FORMAT JSON) " + self.QUERY.format(table)))[0]["Plan"]]
        for node in nodes:
            nodes += node.get("Plans", [])
        return [node["Node Type"] for node in nodes]

    def join(self, table):
        checkpoint(self.db)
        with clock() as took:
            payloads, persons = self.db(self.QUERY.format(table))[0]
        if payloads != persons or int(persons) != self.events:
            raise SystemExit("%s of %d events have a person" % (persons, self.events))
        return took.seconds

    def scan(self):
        with clock() as took:
            self.db("SELECT count(payload), count(subject) FROM hand.events")
        return took.seconds


def bulk_and_reading(database, options):
    sanity = Bulk(empty_database(database + "_sanity"), min(SANITY_LINKS, options.links))
    sanity.check()
    sanity.db.close()
    remove_database(database + "_sanity")

    bulk = Bulk(database, options.links)
    spills = options.links >= 12000000      # fewer links have no graph that is larger than SPILLED
    got = interleave(options.resolve_repetitions, **({"spilled": bulk.resolve_spilled} if spills else {}), cdi=bulk.resolve,
                     pgrouting=bulk.pgrouting, floor=bulk.scan_and_write, flat=bulk.flat_array)
    note = dict(bulk.counts(), scan_s=bulk.scans, write_s=bulk.writes,
                limits="in force for cdi_resolve(); pgRouting and the flat array have none")
    bulk.db("DROP TABLE hand.edges, hand.pgr_map")
    reading = Reading(bulk.db, options.joined)
    joins = interleave(3, cdi=lambda: reading.join("cdi.identity_map"),
                       plain=lambda: reading.join("hand.floor_map"), floor=reading.scan)
    bulk.db.close()
    rows = [
        Row("resolve", "cdi_resolve, {:,} links, table to table, maintenance_work_mem {}".format(options.links, IN_MEMORY), "s",
            got["cdi"], ("pgr_connectedComponents, stored, indexed", got["pgrouting"]),
            ("scanning the links, writing the map", got["floor"]), target=1.5, note=note),
        Row("resolve_unite", "  its union phase", "s", bulk.unite,
            ("pgr_connectedComponents alone", bulk.components), ("on a flat array in C", got["flat"]), target=20),
        Row("resolve_memory", "  its memory per identifier", "bytes", bulk.memory, limit=64),
        Row("read_join", "joining {:,} events to people".format(reading.events), "s", joins["cdi"],
            ("a plain table as wide", joins["plain"]), ("reading the events", joins["floor"]), target=1 / 1.1),
    ]
    if spills:
        rows.insert(1, Row("resolve_spilled", "  with {}: it goes through sorts on disk".format(SPILLED), "s", got["spilled"],
                           ("pgr_connectedComponents, stored, indexed, {}".format(IN_MEMORY), got["pgrouting"]),
                           ("scanning the links, writing the map", got["floor"])))
    return rows


def run(database, options):
    rows = []
    if "bulk" in options.identity:
        rows += bulk_and_reading(database, options)
    remove_database(database)
    rows += identity_growth.run(database + "_growth", options)
    if "latency" in options.identity:
        rows += identity_latency.run(empty_database(database + "_latency"), options)
        remove_database(database + "_latency")
    return rows
