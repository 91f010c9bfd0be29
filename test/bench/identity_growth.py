"""cdi_resolve() in batches on a graph that grows, and with a person who has too many identifiers."""
import json
import os
import statistics

import pq
from measure import HERE, Row, at_once, checkpoint, clock, empty_database, figure, remove_database, say, sized_memory

LARGE, SMALL = 20000, 1000
WEEK = 7 * 24 * 3600 * 1000     # in positions
WHALE_EVERY = 100               # one link in so many


class Graph:
    """A database whose links we make, and whose workers leave them to us."""

    def __init__(self, database):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db('ALTER DATABASE "%s" SET cdi.enabled = off' % database)
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
        """Resolve what has been committed; what that took, also in pages and WAL."""
        self.db("SELECT setval('cdi.event_position', %d)" % self.at)
        with clock(self.pid) as took:
            plan = self.db.value("EXPLAIN (ANALYZE, BUFFERS, WAL, FORMAT JSON) SELECT cdi_resolve()")
        plan = json.loads(plan)[0]["Plan"]
        took.pages, took.read, took.wal, took.whole_pages = [
            count / links for count in (plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], plan["Shared Read Blocks"],
                                        plan["WAL Bytes"], plan["WAL FPI"])]
        got, bulk = self.db("SELECT links, bulk FROM cdi.identity_runs ORDER BY run DESC LIMIT 1")[0]
        if int(got) != links or in_place and bulk == "t":
            raise SystemExit("cdi_resolve() took %s links of %d%s" % (got, links, ", in bulk" if bulk == "t" else ""))
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
    """Runs one after the other, from a checkpoint on: small ones, as the keeper
    makes them while links come in, then large ones.

    The first change of each page after a checkpoint logs all of it.  A large
    graph has many pages, so its first runs do little else, and those of a
    small one next to nothing; what a link costs is the mean over a cycle of
    checkpoints, or over the first part of one, where it costs most."""

    def __init__(self, graph, identifiers, batches):
        graph.grow(identifiers)
        self.identifiers = identifiers
        before = self.checkpoints(graph)
        self.small = [self.batch(graph, SMALL) for _ in range(batches * LARGE // SMALL)]
        self.ended = self.checkpoints(graph) - before
        checkpoint(graph.db)
        before = self.checkpoints(graph)
        self.large = [self.batch(graph, LARGE) for _ in range(batches)]
        self.ended += self.checkpoints(graph) - before
        say("%s identifiers: %s" % (figure(identifiers), ";  ".join(
            "%s at a time: %s links/s, %s us of CPU" % (figure(links), figure(1e6 / statistics.mean(each(batches, "us"))),
                                                       figure(statistics.mean(each(batches, "cpu_us"))))
            for links, batches in ((SMALL, self.small), (LARGE, self.large)))))

    @staticmethod
    def checkpoints(graph):
        """How many have begun."""
        return int(graph.other.value("SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter"))

    @staticmethod
    def batch(graph, links):
        graph.make(links)
        took = graph.resolve(links)
        return {"us": took.seconds / links * 1e6, "cpu_us": took.cpu / links * 1e6, "pages": took.pages, "pages_read": took.read,
                "wal_bytes": took.wal, "whole_pages_logged": took.whole_pages}

    def note(self):
        """Of small runs as many as there are large ones, each the mean of some in a row."""
        together = LARGE // SMALL
        small = [{name: statistics.mean(each(self.small[i:i + together], name)) for name in self.small[0]}
                 for i in range(0, len(self.small), together)]
        return {"per_link_%d_at_a_time" % links:
                {name: [float("%.4g" % value) for value in each(batches, name)] for name in batches[0]}
                for links, batches in ((SMALL, small), (LARGE, self.large))} | {"checkpoints_meanwhile": self.ended}


def each(batches, name):
    return [batch[name] for batch in batches]


def cost(batches, links=None):
    return [statistics.mean(each(batches[:links], "us"))]


def growth(graph, options):
    grown = [Growth(graph, identifiers, options.batches) for identifiers in options.identifiers]
    first, rows = grown[0], []
    beside = "with {:,} identifiers".format(first.identifiers)
    for one in grown:
        for links, batches in (SMALL, one.small), (LARGE, one.large):
            what = "new links, {:,} at a time, {:,} identifiers".format(links, one.identifiers)
            key = "%d_%d" % (one.identifiers, links)
            of_first = first.small if links == SMALL else first.large
            rows.append(Row("grow_" + key, what, "links/s", [1e6 / us for us in cost(batches)], enough=20000,
                            note=one.note() if links == LARGE else None))
            if one is not first:
                rows.append(Row("grow_cost_" + key, "  a link's cost over {:,} links from a checkpoint on".format(
                    len(batches) * links), "us", cost(batches), (beside, cost(of_first)), target=1 / 1.3))
                part = max(len(batches) * 2 // 5, 1)
                rows.append(Row("grow_first_" + key, "  over the first {:,} of these".format(part * links), "us",
                                cost(batches, part), (beside, cost(of_first, part))))
                rows.append(Row("grow_pages_" + key, "  pages that it looks at", "pages", [statistics.mean(each(batches, "pages"))],
                                (beside, [statistics.mean(each(of_first, "pages"))]), target=1 / 1.3))
    return rows


class Whale:
    """What a person with very many identifiers costs others: the same batches
    without and with links of that person in between."""

    def __init__(self, graph, options):
        self.graph = graph
        self.limit("NULL", "NULL")
        graph.elder()
        graph.resolve(1)
        graph.grow(options.identifiers[0])
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

    def batches(self, n):
        beside, without = [], []
        for number in range(n):
            for with_whale in (True, False) if number % 2 == 0 else (False, True):
                (beside if with_whale else without).append(self.batch(with_whale))
        return beside, without

    def absorbed(self):
        """One link says that somebody older is the same person: all its rows change."""
        checkpoint(self.graph.db)
        self.graph.elder("whale")
        return self.graph.resolve(1).seconds


def whale(graph, options):
    whale = Whale(graph, options)
    rows = []
    for most in 5, 1000:
        whale.limit(most, "'7 days'")
        beside, without = whale.batches(options.whale_batches)
        say("%s us per link beside a person of %s with a limit of %s, %s us without"
            % (figure(statistics.median(beside)), figure(options.whale), figure(most), figure(statistics.median(without))))
        rows.append(Row("whale_%d" % most, "  a link's cost beside a person of {:,}, limit {:,}".format(options.whale, most),
                        "us", beside, ("without links of that person", without), target=1 / 1.1))
    rows.append(Row("whale_absorbed", "  that person absorbed by an older one", "s", [whale.absorbed()]))
    return rows


def measured(part, database, options):
    graph = Graph(empty_database(database))
    rows = part(graph, options)
    graph.close()
    remove_database(database)
    return rows


def run(database, options):
    rows = []
    if "growth" in options.identity:
        with sized_memory(options.huge_pages) as memory:
            say(memory)
            rows += measured(growth, database, options)
    if "whale" in options.identity:
        rows += measured(whale, database, options)
    return rows
