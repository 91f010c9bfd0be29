"""cdi_resolve() in batches on a graph that grows, and with a person who has too many identifiers."""
import os
import statistics

import pq
from measure import HERE, Row, at_once, checkpoint, clock, empty_database, figure, interleave, remove_database, say

LARGE, SMALL = 20000, 1000
WEEK = 7 * 24 * 3600 * 1000     # in positions
WHALE_EVERY = 100               # one link in so many


class Graph:
    """A database whose links we make, and whose workers leave them to us."""

    def __init__(self, database):
        self.db = pq.Connection("dbname=" + database)
        self.db('ALTER DATABASE "%s" SET cdi.enabled = off' % database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        # Resolving does not look at it; it would make making links slow.
        self.db("DROP INDEX cdi.identity_links_identifiers")
        with open(os.path.join(HERE, "identity_growth.sql")) as file:
            self.db(file.read())
        self.other = pq.Connection("dbname=" + database)
        self.pid = int(self.db.value("SELECT pg_backend_pid()"))
        self.at = 0         # position of the last link
        self.persons = 0    # made in pairs of identifiers

    def close(self):
        self.db.close()
        self.other.close()

    def resolve(self, links, in_place=True):
        """Seconds, and seconds of CPU, to resolve what has been committed."""
        self.db("SELECT setval('cdi.event_position', %d)" % self.at)
        with clock(self.pid) as took:
            got = int(self.db.value("SELECT cdi_resolve()"))
        bulk = self.db.value("SELECT bulk FROM cdi.identity_runs ORDER BY run DESC LIMIT 1") == "t"
        if got != links or in_place and bulk:
            raise SystemExit("cdi_resolve() took %d links of %d%s" % (got, links, ", in bulk" if bulk else ""))
        return took

    def grow(self, identifiers):
        """In bulk, up to so many identifiers."""
        pairs = identifiers // 2 - self.persons
        half = pairs // 2
        at, persons = self.at, self.persons
        at_once(lambda: self.db("CALL hand.link_pairs(%d, %d, %d)" % (at, persons, half)),
                lambda: self.other("CALL hand.link_pairs(%d, %d, %d)" % (at + half, persons + half, pairs - half)))
        self.at += pairs
        self.persons += pairs
        self.resolve(pairs, in_place=False)
        self.db("VACUUM ANALYZE cdi.identity_map")
        self.db("VACUUM ANALYZE cdi.identity_links")
        checkpoint(self.db)

    def make(self, links, step=1):
        self.db("CALL hand.link_new(%d, %d, %d, %d)" % (self.at, step, self.persons, links))
        self.at += links * step

    def whale(self, links):
        self.db("CALL hand.link_whale(%d, 1, %d)" % (self.at, links))
        self.at += links

    def elder(self, *others):
        self.at += 1
        self.db("CALL hand.link_elder(%d, '{%s}')" % (self.at, ",".join(("elder",) + others)))


class Growth:
    """Batches one after the other, as an installation has them: checkpoints
    come when the settings say, and the first batches after one log whole pages."""

    def __init__(self, graph, identifiers, options):
        graph.grow(identifiers)
        self.identifiers = identifiers
        self.wal = []
        self.large, self.cpu = self.batches(graph, LARGE, options.batches)
        self.small, self.small_cpu = self.batches(graph, SMALL, options.batches)
        say("%s identifiers: %s links/s in batches of %s, %s of %s; WAL per link %s bytes"
            % (figure(identifiers), figure(statistics.median(self.large)), figure(LARGE),
               figure(statistics.median(self.small)), figure(SMALL), " ".join(map(figure, self.wal))))

    def batches(self, graph, links, n):
        rates, cpu = [], []
        for _ in range(n):
            graph.make(links)
            lsn = graph.db.value("SELECT pg_current_wal_insert_lsn()")
            took = graph.resolve(links)
            self.wal.append(int(graph.db.value("SELECT pg_current_wal_insert_lsn() - '%s'" % lsn)) // links)
            rates.append(links / took.seconds)
            cpu.append(took.cpu / links * 1e6)
        return rates, cpu

    def us_per_link(self):
        return [1e6 / rate for rate in self.large]


def growth(graph, options):
    grown = [Growth(graph, identifiers, options) for identifiers in sorted(options.identifiers)]
    rows = []
    for one in grown:
        rows.append(Row("grow_%d" % one.identifiers, "new links, {:,} at a time, {:,} identifiers".format(LARGE, one.identifiers),
                        "links/s", one.large, enough=20000,
                        note={"cpu_us_per_link": one.cpu, "links_per_s_of_%d" % SMALL: one.small, "cpu_us_per_link_of_%d" % SMALL: one.small_cpu, "wal_bytes_per_link": one.wal}))
        if one is not grown[0]:
            rows.append(Row("grow_cost_%d" % one.identifiers, "  a link's cost", "us", one.us_per_link(),
                            ("with {:,} identifiers".format(grown[0].identifiers), grown[0].us_per_link()), target=1 / 1.3))
    return rows


class Whale:
    """What a person with very many identifiers costs others: the same batches
    without and with links of that person in between."""

    def __init__(self, graph, options):
        self.graph = graph
        self.limit("NULL", "NULL")
        graph.elder()
        graph.resolve(1)
        graph.grow(min(options.identifiers))
        graph.whale(options.whale)
        graph.resolve(options.whale, in_place=False)
        # Its devices are older than any window: a limit has to look up when.
        graph.at += WEEK
        checkpoint(graph.db)

    def limit(self, most, window):
        self.graph.db("UPDATE cdi.identifier_types SET max_per_person = %s, limit_window = %s WHERE name = 'anonymous_id'"
                      % (most, window))

    def batch(self, with_whale):
        """Microseconds per link of others."""
        graph, at, n = self.graph, self.graph.at, 0
        graph.make(SMALL, 2)
        if with_whale:
            n = SMALL // WHALE_EVERY
            graph.db("CALL hand.link_whale(%d, %d, %d)" % (at - 1, 2 * WHALE_EVERY, n))
        return graph.resolve(SMALL + n).seconds / SMALL * 1e6

    def absorbed(self):
        """One link says that somebody older is the same person: all its rows change."""
        checkpoint(self.graph.db)
        self.graph.elder("whale")
        return self.graph.resolve(1).seconds


def whale(graph, options):
    whale = Whale(graph, options)
    rows = []
    for most, window in ((5, "'7 days'"), (1000, "'7 days'")):
        whale.limit(most, window)
        got = interleave(4 * options.batches, beside=lambda: whale.batch(True), without=lambda: whale.batch(False))
        rows.append(Row("whale_%d" % most, "  a link's cost beside a person of {:,}, limit {:,}".format(options.whale, most),
                        "us", got["beside"], ("without links of that person", got["without"]), target=1 / 1.1))
    rows.append(Row("whale_absorbed", "  that person absorbed by an older one", "s", [whale.absorbed()]))
    return rows


def run(database, options):
    rows = []
    for part in growth, whale:
        graph = Graph(empty_database(database))
        rows += part(graph, options)
        graph.close()
        remove_database(database)
    return rows
