"""cdi_resolve() against pgr_connectedComponents, table to table, on the same links."""
import json
import os

import pq
from measure import HERE, Row, checkpoint, clock, interleave

INDEXES = "ALTER TABLE {0} ADD PRIMARY KEY (identifier); CREATE INDEX ON {0} (person_id)"


class Identity:
    def __init__(self, database, links):
        self.db = pq.Connection("dbname=" + database)
        if self.db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgrouting'") == "0":
            raise SystemExit("missing: pgRouting (Debian package postgresql-15-pgrouting)")
        with open(os.path.join(HERE, "identity.sql")) as file:
            statements = file.read().replace(":size", str(links))
        # Workers would resolve before the clock starts.  This is one transaction, and they are off at its end.
        self.db(statements + 'ALTER DATABASE "%s" SET cdi.enabled = off;' % database)
        self.db("VACUUM ANALYZE cdi.identity_links")
        self.db("VACUUM ANALYZE edges")
        self.unite, self.components, self.memory = [], [], []

    def resolve(self):
        self.db("TRUNCATE cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_merge_log, cdi.identifier_traits")
        checkpoint(self.db)
        with clock() as took:
            self.db("SELECT cdi_resolve()")
        unite, memory = self.db("SELECT unite_ms / 1000, memory::float8 / identifiers FROM cdi.identity_runs")[0]
        self.unite.append(float(unite))
        self.memory.append(float(memory))
        return took.seconds

    def pgrouting(self):
        """The components into a table, then the indexes.

        A function in FROM is complete before its first row, so the time to
        that row is what finding the components alone takes."""
        self.db("DROP TABLE IF EXISTS pgr_map; CREATE TABLE pgr_map (identifier bigint, person_id bigint)")
        checkpoint(self.db)
        with clock() as took:
            self.db("BEGIN")
            plan = self.db.value(
                "EXPLAIN (ANALYZE, FORMAT JSON) INSERT INTO pgr_map SELECT node, component"
                " FROM pgr_connectedComponents('SELECT id, source, target, cost FROM edges')")
            self.db(INDEXES.format("pgr_map"))
            self.db("COMMIT")
        node = json.loads(plan)[0]["Plan"]
        while node["Node Type"] != "Function Scan":
            node = node["Plans"][0]
        self.components.append(node["Actual Startup Time"] / 1000)
        return took.seconds

    def floor(self):
        """Writing and indexing the finished map."""
        self.db("DROP TABLE IF EXISTS floor_map; CREATE TABLE floor_map (LIKE cdi.identity_map)")
        checkpoint(self.db)
        with clock() as took:
            self.db("INSERT INTO floor_map SELECT * FROM cdi.identity_map;" + INDEXES.format("floor_map"))
        return took.seconds

    def check(self):
        """Both must have found the same people."""
        same = self.db.value(
            "SELECT count(*) = (SELECT count(*) FROM pgr_map) AND count(*) = (SELECT count(*) FROM cdi.identity_map)"
            " AND count(DISTINCT (c.person_id, p.person_id)) = count(DISTINCT c.person_id)"
            " AND count(DISTINCT c.person_id) = count(DISTINCT p.person_id)"
            " FROM cdi.identity_map c JOIN pgr_map p ON p.identifier = key(c.identifier)")
        if same != "t":
            raise SystemExit("cdi_resolve() and pgRouting disagree about who is one person")


def run(database, options):
    identity = Identity(database, options.links)
    got = interleave(options.resolve_repetitions, cdi=identity.resolve, pgrouting=identity.pgrouting, floor=identity.floor)
    identity.check()
    note = dict(zip(("links", "identifiers", "merges"),
                    map(int, identity.db("SELECT links, identifiers, merges FROM cdi.identity_runs")[0])))
    identity.db.close()
    return [
        Row("resolve", "cdi_resolve, {:,} links, table to table".format(options.links), "s", got["cdi"],
            ("pgr_connectedComponents, stored, indexed", got["pgrouting"]),
            ("storing and indexing the map", got["floor"]), target=1.5, note=note),
        Row("resolve_unite", "  its union phase", "s", identity.unite,
            ("pgr_connectedComponents alone", identity.components), target=20),
        Row("resolve_memory", "  its memory per identifier", "bytes", identity.memory, limit=64),
    ]
