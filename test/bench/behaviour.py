"""Retention and sequences over ten million events: cdi's aggregates, the SQL
that a user would write, and columnar engines over the same rows.

DuckDB and ClickHouse (chdb) have the rows in their own storage.  All answers
are compared.  Every contender of PostgreSQL has the same work_mem and at most
two parallel workers, the default; parallel_tuple_cost is low enough that all
of them get parallel plans.
"""
import os
import subprocess
import sys
import time

import pq
from measure import BUILD, HERE, ROOT, Row, clock, interleave, say

AS_OF = "2026-02-05"
PEOPLE = 1000000

RETENTION = """
SELECT r.period_from, r.eligible, r.retained
FROM unnest((SELECT cdi_retention_counts(h, '{"cohort": "day", "periods": 14, "as_of": "%s 00:00Z"}')
             FROM (SELECT cdi_history(ts, event = 'Signed Up', event = 'App Opened') AS h FROM behaviour
                   WHERE event IN ('Signed Up', 'App Opened') GROUP BY person) p)) r
WHERE r.cohort IS NULL ORDER BY 1""" % AS_OF

# The same with a first event, a join and distinct people; {days} is what each
# dialect calls the numbers 0 to 14.
RETENTION_SQL = """
WITH begun AS (SELECT person, min(ts) AS ts FROM behaviour WHERE event = 'Signed Up' GROUP BY person),
returned AS (
    SELECT DISTINCT b.person, b.ts::date AS cohort, e.ts::date - b.ts::date AS day
    FROM begun b JOIN behaviour e ON e.person = b.person
    WHERE e.event = 'App Opened' AND e.ts >= b.ts AND e.ts::date - b.ts::date <= 14),
sizes AS (SELECT ts::date AS cohort, count(*) AS people FROM begun GROUP BY 1),
counts AS (SELECT cohort, day, count(*) AS people FROM returned GROUP BY 1, 2)
SELECT d.day, sum(s.people), coalesce(sum(c.people), 0)
FROM sizes s CROSS JOIN {days} LEFT JOIN counts c ON c.cohort = s.cohort AND c.day = d.day
WHERE s.cohort + CAST(d.day AS integer) < DATE '%s' GROUP BY d.day ORDER BY d.day""" % AS_OF

PATTERN = "(?1)(?t<=3600)(?2).*(?3)"
SEQUENCE = """
SELECT count(*) FILTER (WHERE matched)
FROM (SELECT cdi_sequence_match('%s', ts, event = 'Product Viewed', event = 'Product Added', event = 'Order Completed') AS matched
      FROM behaviour WHERE event IN ('Product Viewed', 'Product Added', 'Order Completed') GROUP BY person) p""" % PATTERN

SEQUENCE_SQL = """
SELECT count(DISTINCT a.person)
FROM behaviour a
JOIN behaviour b ON b.person = a.person AND b.event = 'Product Added' AND b.ts >= a.ts AND b.ts <= a.ts + interval '1 hour'
JOIN behaviour c ON c.person = b.person AND c.event = 'Order Completed' AND c.ts >= b.ts
WHERE a.event = 'Product Viewed'"""

SEQUENCE_CLICKHOUSE = """
SELECT countIf(matched)
FROM (SELECT sequenceMatch('%s')(ts, event = 'Product Viewed', event = 'Product Added', event = 'Order Completed') AS matched
      FROM bench.behaviour WHERE event IN ('Product Viewed', 'Product Added', 'Order Completed') GROUP BY person)""" % PATTERN


class Behaviour:
    def __init__(self, database, people):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        for setting in ("work_mem = '256MB'", "parallel_tuple_cost = 0.01", "TimeZone = 'UTC'", "jit = off"):
            self.db("SET " + setting)
        with open(os.path.join(HERE, "behaviour.sql")) as file:
            self.db(file.read().replace("{people}", str(people)))
        self.db("VACUUM ANALYZE behaviour")
        self.answers = {}
        self.load(database)

    def load(self, database):
        """The rows, into the other engines' own tables."""
        import chdb.session
        import duckdb
        path = os.path.join(BUILD, "bench", "behaviour.csv")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            subprocess.run(["psql", "-Xq", "-d", database, "-c",
                            "COPY (SELECT person, extract(epoch FROM ts)::bigint, event FROM behaviour) TO STDOUT (FORMAT csv)"],
                           stdout=file, check=True)
        self.duckdb = duckdb.connect()
        self.duckdb.execute("SET threads = 2")
        self.duckdb.execute("CREATE TABLE behaviour AS SELECT person, make_timestamp(ts * 1000000) AS ts, event"
                            " FROM read_csv('%s', header = false, columns = {'person': 'INTEGER', 'ts': 'BIGINT', 'event': 'VARCHAR'})" % path)
        self.chdb = chdb.session.Session()
        self.chdb.query("CREATE DATABASE bench")
        self.chdb.query("CREATE TABLE bench.behaviour (person UInt32, ts DateTime('UTC'), event LowCardinality(String))"
                        " ENGINE = MergeTree ORDER BY ts")
        self.chdb.query("INSERT INTO bench.behaviour SELECT * FROM file('%s', 'CSV', 'person UInt32, ts DateTime(\\'UTC\\'), event String')" % path)
        self.chdb.query("SET max_threads = 2")
        os.unlink(path)

    def close(self):
        self.db.close()
        self.duckdb.close()
        self.chdb.close()

    def timed(self, name, action):
        with clock() as took:
            rows = action()
        self.answers[name] = [tuple(int(value) for value in row) for row in rows]
        return took.seconds

    def retention(self):
        return self.timed("retention", lambda: self.db(RETENTION))

    def retention_sql(self):
        return self.timed("retention sql", lambda: self.db(RETENTION_SQL.format(days="generate_series(0, 14) AS d (day)")))

    def retention_duckdb(self):
        return self.timed("retention duckdb", lambda: self.duckdb.execute(RETENTION_SQL.format(days="range(0, 15) AS d (day)")).fetchall())

    def sequence(self):
        return self.timed("sequence", lambda: self.db(SEQUENCE))

    def sequence_sql(self):
        return self.timed("sequence sql", lambda: self.db(SEQUENCE_SQL))

    def sequence_duckdb(self):
        return self.timed("sequence duckdb", lambda: self.duckdb.execute(SEQUENCE_SQL).fetchall())

    def sequence_chdb(self):
        return self.timed("sequence chdb", lambda: [str(self.chdb.query(SEQUENCE_CLICKHOUSE, "CSV")).split(",")])

    def floor(self):
        with clock() as took:
            self.db("SELECT count(*), max(person), max(ts), max(event) FROM behaviour")
        return took.seconds

    def check(self):
        for name, answer in self.answers.items():
            if answer != self.answers[name.split()[0]]:
                raise SystemExit("%s: %s, cdi: %s" % (name, answer, self.answers[name.split()[0]]))


def run(database, options):
    subprocess.run([os.path.join(ROOT, "test/setup"), "python", "bench"], check=True)
    sys.path[:0] = [os.path.join(BUILD, "python/bench/lib/python%d.%d/site-packages" % sys.version_info[:2])]
    begun = time.time()
    one = Behaviour(database, PEOPLE)
    events = int(one.db.value("SELECT count(*) FROM behaviour"))
    say("%d events in three engines after %d s" % (events, time.time() - begun))
    contenders = {name: getattr(one, name) for name in ("retention", "retention_sql", "retention_duckdb", "sequence", "sequence_sql",
                                                        "sequence_duckdb", "sequence_chdb", "floor")}
    for warm in contenders.values():
        warm()
    one.check()
    got = interleave(min(options.repetitions, 3), **contenders)
    one.close()
    floor = ("reading the events", got["floor"])
    what = "cdi_history, cdi_retention_counts: 15 days, {:,} events".format(events)
    matched = "cdi_sequence_match %s, {:,} events".format(events) % PATTERN
    return [Row("behaviour", what, "s", got["retention"], ("first event, join, distinct", got["retention_sql"]), floor),
            Row("behaviour", what, "s", got["retention"], ("the same SQL in DuckDB", got["retention_duckdb"]), None),
            Row("behaviour", matched, "s", got["sequence"], ("self-join", got["sequence_sql"]), floor),
            Row("behaviour", matched, "s", got["sequence"], ("self-join in DuckDB", got["sequence_duckdb"]), None),
            Row("behaviour", matched, "s", got["sequence"], ("sequenceMatch in ClickHouse (chdb)", got["sequence_chdb"]), None)]
