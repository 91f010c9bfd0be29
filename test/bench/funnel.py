"""Funnels against what a user would write, and against ClickHouse and DuckDB."""
import os
import subprocess

import pq
from measure import BUILD, HERE, ROOT, Row, clock, interleave

STEPS = ["Product Viewed", "Product Added", "Checkout Started", "Order Completed"]
CONDITIONS = ", ".join("event = '%s'" % step for step in STEPS)
WITHIN = "BETWEEN %s AND a.at + interval '7 days'"
LEVELS = "SELECT level, count(*) FROM (%s) f GROUP BY level"
GROUPED = LEVELS % ("SELECT person, cdi_window_funnel(interval '7 days', \"timestamp\", %s) AS level FROM visits GROUP BY person" % CONDITIONS)
SELF_JOIN = LEVELS % (
    "SELECT a.person, max(CASE WHEN d.person IS NOT NULL THEN 4 WHEN c.person IS NOT NULL THEN 3 WHEN b.person IS NOT NULL THEN 2 ELSE 1 END) AS level FROM "
    + " LEFT JOIN ".join(
        "(SELECT person, \"timestamp\" AS at FROM visits WHERE event = '%s') %s%s" % (
            step, name, "" if name == "a" else " ON %s.person = %s.person AND %s.at %s" % (name, before, name, WITHIN % (before + ".at")))
        for step, name, before in zip(STEPS, "abcd", " abc"))
    + " GROUP BY a.person")


def exists(n):
    return "EXISTS (SELECT FROM %s WHERE %s)" % (
        ", ".join("unnest(%s) AS %s(at)" % (name, name) for name in "abcd"[:n]),
        " AND ".join("%s.at %s" % (name, WITHIN % (before + ".at")) for name, before in list(zip("abcd", " abc"))[1:n]))


ARRAYS = LEVELS % (
    "SELECT person, CASE WHEN %s THEN 4 WHEN %s THEN 3 WHEN %s THEN 2 WHEN a IS NOT NULL THEN 1 ELSE 0 END AS level FROM (SELECT person, %s FROM visits GROUP BY person) x" % (
        exists(4), exists(3), exists(2), ", ".join(
            "array_agg(\"timestamp\" ORDER BY \"timestamp\") FILTER (WHERE event = '%s') AS %s" % pair for pair in zip(STEPS, "abcd"))))


class Funnel:
    def __init__(self, database, people):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SET work_mem = '512MB'; SET jit = off; SET timezone = 'UTC'")
        with open(os.path.join(HERE, "funnel.sql")) as file:
            self.db(file.read().replace(":people", str(people)))
        self.db("VACUUM (FREEZE, ANALYZE) visits")
        self.answers = {}
        self.place = os.path.join(BUILD, "bench", "funnel")

    def time(self, name, statement):
        with clock() as took:
            rows = self.db(statement)
        levels = {int(level): int(n) for level, n in rows}
        self.answers[name] = [sum(n for level, n in levels.items() if level >= step) for step in range(1, 5)]
        return took.seconds

    def load_engines(self):
        """Both get the same rows; their files are left in build/bench until the next run."""
        subprocess.run(["rm", "-rf", self.place, self.place + ".duckdb", self.place + ".csv"], check=True)
        os.makedirs(os.path.dirname(self.place), exist_ok=True)
        with open(self.place + ".sql", "w") as file:
            file.write(SELF_JOIN)
        subprocess.run(["test/setup", "python", "funnel"], cwd=ROOT, check=True)
        database = self.db.value("SELECT current_database()")
        with open(self.place + ".csv", "w") as file:
            subprocess.run([os.path.join(os.environ.get("CDI_PG", os.path.join(BUILD, "pg")), "usr/lib/postgresql/15/bin/psql"),
                            "-XqAt", "-d", database, "-c", "COPY (SELECT person, to_char(\"timestamp\", 'YYYY-MM-DD HH24:MI:SS'), event FROM visits) TO STDOUT (FORMAT csv)"],
                           stdout=file, check=True, env=dict(os.environ, PGTZ="UTC"))
        for engine in ("chdb", "duckdb"):
            self.engine(engine, "load", self.place + ".csv")

    def engine(self, name, *arguments):
        done = subprocess.run([os.path.join(BUILD, "python/funnel/bin/python"), os.path.join(HERE, "funnel_engine.py"), name, arguments[0], self.place,
                               *arguments[1:]], check=True, text=True, stdout=subprocess.PIPE)
        return done.stdout.split()

    def time_engine(self, name):
        seconds, *self.answers[name] = self.engine(name, "time")
        return float(seconds)

    def check(self):
        """All give the same numbers; of ClickHouse and DuckDB, whose times are to the second, nearly."""
        wanted = self.answers["grouped"]
        for name, got in self.answers.items():
            got = [int(n) for n in got]
            apart = max(abs(a - b) / max(b, 1) for a, b in zip(got, wanted))
            if apart > (0.02 if name in ("chdb", "duckdb") else 0):
                raise SystemExit("%s says %s, cdi_window_funnel %s" % (name, got, wanted))


def run(database, options):
    funnel = Funnel(database, options.people)
    funnel.load_engines()
    contenders = {"grouped": lambda: funnel.time("grouped", GROUPED),
                  "join": lambda: funnel.time("join", SELF_JOIN), "arrays": lambda: funnel.time("arrays", ARRAYS),
                  "chdb": lambda: funnel.time_engine("chdb"), "duckdb": lambda: funnel.time_engine("duckdb")}
    funnel.time("grouped", GROUPED)
    got = interleave(options.repetitions, **contenders)
    funnel.check()
    what = "cdi_window_funnel, GROUP BY person, {:,} events of {:,} people".format(options.people * 10, options.people)
    funnel.db.close()
    return [Row("funnel_join", what, "s", got["grouped"], ("self-join", got["join"]), target=5),
            Row("funnel_arrays", what, "s", got["grouped"], ("ordered array_agg", got["arrays"]), target=5),
            Row("funnel_chdb", what, "s", got["grouped"], ("windowFunnel in chdb", got["chdb"]), target=0.2),
            Row("funnel_duckdb", what, "s", got["grouped"], ("self-join in DuckDB", got["duckdb"]), target=0.2)]
