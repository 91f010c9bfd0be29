#!/usr/bin/env python3
"""Funnels of generated people, compared.

Each dialect and mode runs over all people in one query of PostgreSQL: with rows
in random order, and split over parallel workers.  Against it: ClickHouse's own
windowFunnel (chdb), and reference.py.  FUNNEL_CASES is the number of people of
each kind, FUNNEL_SEED repeats a run.
"""
import json
import os
import random
import sys

import chdb

ROOT = os.environ.get("CDI_ROOT") or os.path.abspath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../.."))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "test/bench"))
import pq  # noqa: E402
import reference  # noqa: E402

CASES = int(os.environ.get("FUNNEL_CASES", "1500"))
SEED = int(os.environ.get("FUNNEL_SEED", random.randrange(10 ** 6)))
SECOND = 10 ** 6
LEVELS = "ARRAY(SELECT level FROM unnest(funnel))"
rng = random.Random(SEED)
results = [0, 0]


def check(ok, name, detail=""):
    results[not ok] += 1
    print("%sok - %s" % ("" if ok else "not ", name), flush=True)
    if not ok:
        print("# seed %d: %s" % (SEED, detail), flush=True)


def generate(cases, span, unit, conditions, several, unmatched=0.15, length=8):
    """{person: [(time, conditions, hold)]}: few instants, so that many fall together."""
    people = {}
    for person in range(cases):
        events = []
        for _ in range(rng.randrange(1, length)):
            mask = 0 if rng.random() < unmatched else 1 << rng.randrange(conditions)
            while mask and several and rng.random() < 0.25:
                mask |= 1 << rng.randrange(conditions)
            events.append((rng.randrange(span) * unit, mask, rng.choice(["x", "y", "", None])))
        people[person] = events
    return people


class Cases:
    """People in a table of PostgreSQL, and of chdb."""

    def __init__(self, db, name, people, conditions):
        self.db, self.name, self.people, self.conditions = db, name, people, conditions
        rows = [(person, at, mask, hold) for person, events in people.items() for at, mask, hold in events]
        rng.shuffle(rows)
        db('CREATE TABLE %s (person integer, at timestamptz, mask integer, hold text)' % name)
        for begin in range(0, len(rows), 5000):
            db("INSERT INTO %s VALUES %s" % (name, ",".join(
                "(%d, timestamptz '2026-01-01 UTC' + %d * interval '1 microsecond', %d, %s)" % (
                    person, at, mask, "NULL" if hold is None else "'%s'" % hold) for person, at, mask, hold in rows[begin:begin + 5000])))
        db("ANALYZE %s" % name)
        self.rows = rows

    def steps(self, first=0, n=None):
        return ", ".join("mask >> %d & 1 = 1" % step for step in range(first, first + (n or self.conditions)))

    def postgres(self, call, shown="funnel"):
        """By person, four times: aggregated and in cdi's own node, in one process and split over workers."""
        query = "SELECT person, %s FROM (SELECT person, %s AS funnel FROM %s GROUP BY person) f" % (shown, call, self.name)
        self.db("RESET ALL")
        self.db("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
        serial = None
        for node, workers, shown_in_plan in ((False, 0, ""), (False, 3, "Partial"), (True, 0, "Custom Scan (cdi people)"), (True, 3, "Parallel Custom Scan (cdi people)")):
            if node and "at, hold" in call:
                continue
            self.db("SET cdi.enable_people_scan = %s; SET max_parallel_workers_per_gather = %d; SET parallel_leader_participation = %s; SET work_mem = '%s'" % (
                node, workers, rng.choice(["on", "off"]), rng.choice(["64kB", "4MB"]) if node else "4MB"))
            plan = "\n".join(row[0] for row in self.db("EXPLAIN " + query))
            got = dict(self.db(query))
            serial = serial or got
            if shown_in_plan not in plan or got != serial:
                check(False, "%s: %d workers, same result" % (call, workers), plan if shown_in_plan not in plan else [
                    (person, self.people[int(person)], serial[person], got[person]) for person in serial if serial[person] != got[person]][:3])
        return {int(person): value for person, value in serial.items()}

    def clickhouse(self, modes, window):
        values = ",".join("(%d,%d,%d)" % (person, at, mask) for person, at, mask, _ in self.rows)
        out = chdb.query("SELECT person, windowFunnel(%s)(at, %s) FROM values('person UInt32, at UInt64, mask UInt32', %s) GROUP BY person" % (
            ", ".join([str(window)] + ["'%s'" % mode for mode in modes]),
            ", ".join("toUInt8(bitAnd(bitShiftRight(mask, %d), 1))" % step for step in range(self.conditions)), values), "CSV")
        return {int(line.split(",")[0]): int(line.split(",")[1]) for line in str(out).splitlines()}

    def compare(self, name, got, expected, excused=lambda events: False):
        different = [person for person in expected if got.get(person) != expected[person] and not excused(self.people[person])]
        check(not different and len(got) == len(self.people), "%s: %d people" % (name, len(expected)),
              "%d differ: %s" % (len(different), [(sorted(self.people[p], key=lambda e: e[:2]), got.get(p), expected[p]) for p in different[:3]]))


def interval(microseconds):
    return "interval '%d microseconds'" % microseconds


def compare_clickhouse(db):
    people = generate(CASES, 8, 1, 4, several=True)
    cases = Cases(db, "plain", people, 4)
    single = Cases(db, "single", generate(CASES, 8, 1, 4, several=False), 4)
    for window in (1, 3, 6):
        def level(which, modes):
            got = which.postgres("cdi_window_funnel('%s', %s, at, %s)" % (" ".join(modes), interval(window), which.steps()))
            return {person: int(value) for person, value in got.items()}

        def at_once(events):
            """Several conditions are met at one instant."""
            met = [at for at, mask, _ in events for bit in range(4) if mask >> bit & 1]
            return len(set(met)) < len(met)
        for modes, options in (((), {}), (("strict_increase",), {"increase": True}), (("strict_once",), {"once": True}),
                               (("strict_increase", "strict_once"), {"increase": True, "once": True})):
            got = level(cases, modes)
            name = "clickhouse %s window %d" % (" ".join(modes), window)
            cases.compare(name + ", every chain", got,
                          {person: reference.clickhouse(events, 4, window, **options) for person, events in people.items()})
            # ClickHouse loses chains of strict_increase where another of the same instant replaces them
            cases.compare(name + ", ClickHouse", got, cases.clickhouse(modes, window),
                          at_once if "strict_increase" in modes else lambda events: False)
        for modes in (("strict_order",), ("strict_deduplication",), ("strict_order", "allow_reentry"),
                      ("strict_order", "strict_deduplication"), ("strict_order", "strict_once"),
                      ("strict_order", "strict_increase"), ("strict_deduplication", "strict_increase"),
                      ("strict_deduplication", "strict_once"), ("strict_order", "strict_once", "allow_reentry"),
                      ("strict_order", "strict_deduplication", "strict_once"),
                      ("strict_order", "strict_deduplication", "strict_increase", "strict_once", "allow_reentry")):
            # with strict_once, which row of an instant is the repetition depends on their order
            loose = "strict_increase" in modes or {"strict_deduplication", "strict_once"} <= set(modes)
            for which in (cases, single):
                which.compare("clickhouse %s window %d, ClickHouse, %s" % (" ".join(modes), window, which.name),
                              level(which, modes), which.clickhouse(modes, window), at_once if loose else lambda events: False)


def compare_amplitude(db):
    # quarters of a second: four instants in each
    people = generate(CASES, 32, SECOND // 4, 3, several=True, length=7)
    cases = Cases(db, "amplitude", people, 3)
    for window in (2 * SECOND, 5 * SECOND):
        call = "cdi_window_funnel('amplitude%s', " + interval(window) + ", at, " + cases.steps() + ")"
        cases.compare("amplitude this order, every path, window %d" % window,
                      {p: int(v) for p, v in cases.postgres(call % "").items()},
                      {p: reference.amplitude(e, 3, window)[0] for p, e in people.items()})
        cases.compare("amplitude exact order, every path, window %d" % window,
                      {p: int(v) for p, v in cases.postgres(call % " exact_order").items()},
                      {p: reference.amplitude_exact(e, 3, window)[0] for p, e in people.items()})
        cases.compare("amplitude any order, every path, window %d" % window,
                      {p: int(v) for p, v in cases.postgres(call % " any_order").items()},
                      {p: reference.any_order(e, 3, window, [], 0, SECOND) for p, e in people.items()})
        cases.compare("amplitude, entry of the earliest longest path, window %d" % window,
                      {p: int(v) if v else None for p, v in cases.postgres(
                          "(floor(extract(epoch FROM ((cdi_funnel('{\"mode\": \"amplitude\", \"window\": \"%d microseconds\"}', at, %s)).reached_at)[1]))"
                          " - extract(epoch FROM timestamptz '2026-01-01 UTC'))::bigint" % (window, cases.steps())).items()},
                      {p: reference.amplitude(e, 3, window)[1] for p, e in people.items()})
        got = cases.postgres("cdi_funnel_paths('{\"mode\": \"amplitude\", \"window\": \"%d microseconds\"}', at, %s)"
                             % (window, cases.steps()), LEVELS)
        plain = {p: e for p, e in people.items() if all(m & (m - 1) == 0 for _, m, _ in e)}
        cases.compare("amplitude totals, window %d" % window, got,
                      {p: "{%s}" % ",".join(map(str, reference.amplitude_totals(e, 3, window))) for p, e in plain.items()})
    people = generate(CASES, 40, SECOND // 2, 5, several=False, length=8)
    cases = Cases(db, "amplitude_more", people, 5)
    for exclusions, windows in (([], [3, None]), ([{"after": 2}, {"before": 2}], None), ([{}, {"after": 1, "before": 2}], [4, 2])):
        options = {"mode": "amplitude", "window": "9 seconds", "exclusions": exclusions}
        if windows:
            options["step_windows"] = [w and "%d seconds" % w for w in windows]
        pairs = [(x.get("after", 1), x.get("before", 3)) for x in exclusions]
        got = cases.postgres("(cdi_funnel('%s', at, %s)).level" % (json.dumps(options), cases.steps(0, 3 + len(exclusions))))
        cases.compare("amplitude %s, every path" % json.dumps(options), {p: int(v) for p, v in got.items()},
                      {p: reference.amplitude(e, 3, 9 * SECOND, windows and [w and w * SECOND for w in windows], pairs)[0]
                       for p, e in people.items()})


def compare_mixpanel(db):
    people = generate(CASES, 40, SECOND // 2, 5, several=True, length=9)
    cases = Cases(db, "mixpanel", people, 5)
    for optimized in (False, True):
        for window, exclusions, windows in ((6, [], None), (12, [], [5, 3]), (12, [{"after": 2}, {"before": 2}], None),
                                            (15, [{}, {"after": 1, "before": 2}], [None, 4])):
            options = {"mode": "mixpanel" + (" optimized_reentry" if optimized else ""), "window": "%d seconds" % window,
                       "exclusions": exclusions}
            if windows:
                options["step_windows"] = [w and "%d seconds" % w for w in windows]
            arguments = dict(steps=3, window=window * SECOND, step_windows=windows and [w and w * SECOND for w in windows],
                             exclusions=[(x.get("after", 1), x.get("before", 3)) for x in exclusions], optimized=optimized)
            call = "('%s', at, %s)" % (json.dumps(options), cases.steps(0, 3 + len(exclusions)))
            held = "('%s', at, hold, %s)" % (json.dumps(options), cases.steps(0, 3 + len(exclusions)))
            name = json.dumps(options)
            cases.compare("%s uniques" % name, {p: int(v) for p, v in cases.postgres("(cdi_funnel%s).level" % call).items()},
                          {p: reference.Mixpanel(e, **arguments).unique() for p, e in people.items()})
            cases.compare("%s totals" % name,
                          {p: sorted(json.loads(v.replace("{", "[").replace("}", "]"))) for p, v in cases.postgres(
                              "cdi_funnel_paths" + call, LEVELS).items()},
                          {p: sorted(reference.Mixpanel(e, **arguments).totals()) for p, e in people.items()})
            cases.compare("%s uniques, a property held constant" % name,
                          {p: int(v) for p, v in cases.postgres("(cdi_funnel%s).level" % held).items()},
                          {p: reference.mixpanel_held(e, **arguments) for p, e in people.items()})
            cases.compare("%s totals, a property held constant" % name,
                          {p: sorted(json.loads(v.replace("{", "[").replace("}", "]"))) for p, v in cases.postgres(
                              "cdi_funnel_paths" + held, LEVELS).items()},
                          {p: sorted(level for value in ("", "x", "y") for level in
                                     reference.Mixpanel([x for x in e if x[2] == value], **arguments).totals())
                           for p, e in people.items()})
    people = generate(CASES, 24, SECOND // 2, 4, several=False, length=8)
    cases = Cases(db, "mixpanel_any", people, 4)
    for anchors in ([], [1], [4], [1, 4], [2], [1, 2], [1, 2, 3, 4]):
        options = {"mode": "mixpanel any_order", "window": "8 seconds", "anchors": anchors}
        got = cases.postgres("(cdi_funnel('%s', at, %s)).level" % (json.dumps(options), cases.steps()))
        cases.compare("%s, every path" % json.dumps(options), {p: int(v) for p, v in got.items()},
                      {p: reference.any_order(e, 4, 8 * SECOND, anchors, 2 * SECOND, 1, only_first=True) for p, e in people.items()})


def main():
    db = pq.Connection()
    print("# seed %d, %d people each" % (SEED, CASES), flush=True)
    compare_clickhouse(db)
    compare_amplitude(db)
    compare_mixpanel(db)
    print("1..%d" % sum(results))
    sys.exit(1 if results[1] else 0)


main()
