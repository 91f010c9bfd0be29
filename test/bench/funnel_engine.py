"""The funnel in chdb or DuckDB, in its own storage: load CSV, or time the query.

    funnel_engine.py chdb|duckdb load PLACE FILE
    funnel_engine.py chdb|duckdb time PLACE

Prints the seconds of the second of two runs, and how many people reach each step.
"""
import sys
import time

STEPS = ["Product Viewed", "Product Added", "Checkout Started", "Order Completed"]
CHDB = "SELECT level, count() FROM (SELECT person, windowFunnel(604800)(timestamp, %s) AS level FROM visits GROUP BY person) GROUP BY level" % (
    ", ".join("event = '%s'" % step for step in STEPS))


def chdb(action, place, *file):
    from chdb import session
    engine = session.Session(place)
    if action == "load":
        engine.query("CREATE DATABASE IF NOT EXISTS bench")
        engine.query("CREATE TABLE bench.visits (person UInt32, timestamp DateTime, event LowCardinality(String)) ENGINE = MergeTree ORDER BY timestamp")
        engine.query("INSERT INTO bench.visits SELECT * FROM file('%s', 'CSV', 'person UInt32, timestamp DateTime, event String')" % file[0])
        return None
    engine.query("USE bench")
    return lambda: [tuple(map(int, line.split(","))) for line in str(engine.query(CHDB, "CSV")).splitlines()]


def duckdb(action, place, *file):
    import duckdb
    engine = duckdb.connect(place + ".duckdb")
    if action == "load":
        engine.execute("CREATE TABLE visits (person INTEGER, timestamp TIMESTAMP, event VARCHAR)")
        engine.execute("COPY visits FROM '%s' (HEADER false)" % file[0])
        return None
    with open(place + ".sql") as statement:
        text = statement.read()
    return lambda: engine.execute(text).fetchall()


def main():
    run = {"chdb": chdb, "duckdb": duckdb}[sys.argv[1]](*sys.argv[2:])
    if run is None:
        return
    run()
    begun = time.perf_counter()
    levels = dict(run())
    took = time.perf_counter() - begun
    print(took, *[sum(n for level, n in levels.items() if level >= step) for step in range(1, 5)])


main()
