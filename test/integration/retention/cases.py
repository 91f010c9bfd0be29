"""Generated cases of retention, sequences, stickiness and lifecycle.

    cases.py N          compare N cases of each kind with what this file computes
                        by trying every possibility, and print TAP
    cases.py N chdb     sequences and retention conditions with ClickHouse

Nothing here knows how the extension does it: a match of a pattern is looked
for among all choices of events, calendars are datetime's and zoneinfo's.
"""
import datetime
import itertools
import json
import random
import subprocess
import sys
from zoneinfo import ZoneInfo

UTC = datetime.timezone.utc
DAY = datetime.timedelta(days=1)
BASE = datetime.datetime(2026, 3, 20, tzinfo=UTC)
SEED = 20260320


def psql(script):
    run = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1"], input=script, text=True, stdout=subprocess.PIPE, check=True)
    return run.stdout.splitlines()


def compare(name, got, wanted, cases):
    wrong = [(case, g, w) for case, g, w in zip(cases, got, wanted) if g != w]
    for case, g, w in wrong[:3]:
        print("# case:     %s\n# got:      %s\n# expected: %s" % (case, g, w))
    complete = len(got) == len(wanted) == len(cases)
    print("%sok - %s: %d cases" % ("" if complete and not wrong else "not ", name, len(cases)), flush=True)
    return complete and not wrong


# Sequences

class Sequence:
    """items: condition number or 0 for any; links: "next", "gap" or a list of (operator, seconds)."""

    def __init__(self, chance, times=True):
        self.items = [chance.randint(0, 3) for _ in range(chance.randint(1, 5))]
        self.links = []
        for _ in self.items[1:]:
            kind = chance.random()
            if kind < 0.35:
                self.links.append("next")
            elif kind < 0.65 or not times:
                self.links.append("gap")
            else:
                self.links.append([(chance.choice(["<=", "<", ">=", ">", "=="]), chance.randint(0, 4))
                                   for _ in range(1 if times == 1 else chance.choice([1, 1, 2]))])
        self.ends = chance.random() < 0.2, chance.random() < 0.2 and times != 1
        count = chance.choice([0, 1, 3, 5, 7, 9])
        self.events = [(chance.randint(0, 12), chance.choice([0, 1, 2, 3, 4, 4, 2, 1, 7])) for _ in range(count)]

    def pattern(self):
        parts = []
        for number, item in enumerate(self.items):
            if number:
                link = self.links[number - 1]
                parts.append({"next": "", "gap": ".*"}.get(link) if isinstance(link, str)
                             else "".join("(?t%s%d)" % check for check in link))
            parts.append("(?%d)" % item if item else ".")
        return ".*" * self.ends[0] + "".join(parts) + ".*" * self.ends[1]

    def ordered(self):
        return sorted((e for e in self.events if e[1]), key=lambda e: (e[0], [not e[1] >> i & 1 for i in range(3)]))

    def answer(self):
        events = self.ordered()
        compared = {"<=": int.__le__, "<": int.__lt__, ">=": int.__ge__, ">": int.__gt__, "==": int.__eq__}

        def fits(choice):
            for item, at in zip(self.items, choice):
                if item and not events[at][1] >> (item - 1) & 1:
                    return False
            for link, (a, b) in zip(self.links, zip(choice, choice[1:])):
                if link == "next" and b != a + 1:
                    return False
                if not isinstance(link, str) and not all(compared[op](events[b][0] - events[a][0], s) for op, s in link):
                    return False
            return True

        # combinations() are in the order that the documentation promises
        matches = [c for c in itertools.combinations(range(len(events)), len(self.items)) if fits(c)]
        count, past = 0, -1
        for choice in matches:
            if choice[0] > past:
                count, past = count + 1, choice[-1]
        times = [events[at][0] for at, item in zip(matches[0], self.items) if item] if matches else []
        return "%s|%d|%s" % ("t" if matches else "f", count, ",".join(map(str, times)))


def sequence_sql(cases):
    script = ["CREATE TEMP TABLE c (id int, pattern text); CREATE TEMP TABLE e (id int, at int, m int); COPY c FROM STDIN;"]
    script += ["%d\t%s" % (n, case.pattern()) for n, case in enumerate(cases)]
    script += ["\\.", "COPY e FROM STDIN;"]
    script += ["%d\t%d\t%d" % (n, at, m) for n, case in enumerate(cases) for at, m in case.events]
    script += ["\\.", """SELECT %s FROM c LEFT JOIN e USING (id) GROUP BY id, pattern ORDER BY id;""" % ", ".join(
        function % "(pattern, to_timestamp(at), m & 1 > 0, m & 2 > 0, m & 4 > 0)" for function in
        ("cdi_sequence_match%s", "cdi_sequence_count%s",
         "array_to_string(ARRAY(SELECT extract(epoch FROM t)::int FROM unnest(cdi_sequence_events%s) t), ',')"))]
    return psql("\n".join(script))


def sequences(count):
    chance = random.Random(SEED)
    cases = [Sequence(chance, 2) for _ in range(count)]
    return compare("sequences, against every choice of events", sequence_sql(cases), [case.answer() for case in cases],
                   [(case.pattern(), case.ordered()) for case in cases])


# Histories: a person is a list of (time, is_start, is_return)

def history(chance, zone):
    def moment():
        # a grid of half hours in local time, so that boundaries are hit, and now and then a microsecond
        at = BASE + chance.randint(0, 19) * DAY + chance.choice([0, 0, 1, 45, 46, 47]) * datetime.timedelta(minutes=30)
        at -= at.astimezone(zone).utcoffset()
        return at + chance.choice([0, 0, 0, 1, -1]) * datetime.timedelta(microseconds=1)
    return [(moment(),) + chance.choice([(True, False), (False, True), (False, True), (True, True), (False, False)])
            for _ in range(chance.choice([0, 1, 2, 4, 8]))]


def local_day(at, zone):
    return at.astimezone(zone).date()


def period_of(day, unit):
    return {"day": day.toordinal(), "week": (day.toordinal() - 1) // 7, "month": day.year * 12 + day.month - 1, "all": 0}[unit]


def first_day(day, unit):
    return {"day": day, "week": day - datetime.timedelta(days=day.weekday()), "month": day.replace(day=1), "all": None}[unit]


class Retention:
    def __init__(self, chance):
        self.zone = chance.choice(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
        windows = chance.choice(["calendar", "calendar", "rolling", "hour_floored"])
        self.options = {
            "mode": chance.choice(["on", "on_or_after", "on_or_before", "streak"]), "windows": windows,
            "period": chance.choice(["day", "day", "week"] + ["month"] * (windows == "calendar")),
            "entry": chance.choice(["first", "first_in_range", "every"]), "cohort": chance.choice(["day", "week", "month", "all"]),
            "time_zone": self.zone, "as_of": (BASE + chance.randint(0, 80) * datetime.timedelta(hours=12)).isoformat()}
        if chance.random() < 0.4:
            self.options["from_time"] = (BASE + chance.randint(0, 6) * DAY).isoformat()
            if chance.random() < 0.5:
                self.options["to_time"] = (BASE + chance.randint(7, 15) * DAY).isoformat()
        if chance.random() < 0.5:
            numbers = sorted(chance.sample(range(16), chance.choice([1, 2, 4, 6])))
            self.brackets = []
            while numbers:
                taken = numbers[:chance.choice([1, 2])]
                self.brackets.append((taken[0], taken[-1]))
                numbers = numbers[len(taken):]
            self.options["brackets"] = ", ".join("%d" % a if a == b else "%d-%d" % (a, b) for a, b in self.brackets)
        else:
            periods = chance.randint(0, 6)
            self.options["periods"] = periods
            self.brackets = [(n, n) for n in range(periods + 1)]
        self.people = [history(chance, ZoneInfo(self.zone)) for _ in range(chance.choice([0, 1, 3]))]

    def time(self, name):
        return datetime.datetime.fromisoformat(self.options[name]) if name in self.options else None

    def entries(self, person, zone):
        starts = sorted(at for at, is_start, _ in person if is_start)
        low, high, as_of = self.time("from_time"), self.time("to_time"), self.time("as_of")

        def enters(at):
            return at < as_of and (low is None or at >= low) and (high is None or at < high)
        if self.options["entry"] == "first":
            return [at for at in starts[:1] if enters(at)]
        starts = [at for at in starts if enters(at)]
        if self.options["entry"] == "first_in_range":
            return starts[:1]
        return [min(group) for _, group in itertools.groupby(starts, lambda at: first_day(local_day(at, zone), self.options["cohort"]))]

    def retained(self, person, start, zone):
        """One of True, False, None (not eligible) per bracket."""
        as_of, unit = self.time("as_of"), self.options["period"]
        length = DAY * (7 if unit == "week" else 1)
        base = start
        if self.options["windows"] == "hour_floored":
            past = start.astimezone(zone)
            base = start - datetime.timedelta(minutes=past.minute, seconds=past.second, microseconds=past.microsecond)

        def number(at):
            if self.options["windows"] == "calendar":
                return period_of(local_day(at, zone), unit) - period_of(local_day(start, zone), unit)
            return (at - base) // length
        came = {number(at) for at, is_start, is_return in person
                if is_return and at < as_of and (at > start or (at == start and not is_start))}
        answers, unbroken = [], True
        for low, high in self.brackets:
            # the bracket is over when as_of is in a later period
            if number(as_of) <= high:
                answers.append(None)
                continue
            here = any(low <= n <= high for n in came)
            unbroken = unbroken and (here or low == 0)
            answers.append({"on": here, "on_or_after": any(n >= low for n in came),
                            "on_or_before": any(n <= high for n in came), "streak": unbroken}[self.options["mode"]])
        return answers

    def answer(self):
        zone = ZoneInfo(self.zone)
        cohorts = {}
        for person in self.people:
            for start in self.entries(person, zone):
                cohorts.setdefault(first_day(local_day(start, zone), self.options["cohort"]), []).append(self.retained(person, start, zone))
        rows = []
        everybody = [one for people in cohorts.values() for one in people]
        named = sorted(cohorts.items()) if self.options["cohort"] != "all" else []
        for cohort, people in named + [(None, everybody)]:
            for number, (low, high) in enumerate(self.brackets):
                eligible = [one[number] for one in people if one[number] is not None]
                rows.append([cohort and cohort.isoformat(), len(people), low, high, len(eligible), sum(eligible) if eligible else None,
                             sum(eligible) / len(eligible) if eligible else None])
        return rows if self.people and any(kind[1] or kind[2] for person in self.people for kind in person) else None


def people_sql(aggregate, people, options, columns):
    rows = ", ".join("(%d, '%s'::timestamptz, %s, %s)" % (number, at.isoformat(), is_start, is_return)
                     for number, person in enumerate(people) for at, is_start, is_return in person)
    rows = rows and "VALUES " + rows or "SELECT 0, now(), true, true WHERE false"
    return ("SELECT coalesce(jsonb_agg(jsonb_build_array(%s)), 'null') FROM unnest((SELECT %s(h, '%s') FROM"
            " (SELECT %s AS h FROM (%s) v (p, at, s, r) GROUP BY p) p WHERE h IS NOT NULL)) r;"
            % (", ".join("r." + column for column in columns.split()), aggregate, json.dumps(options),
               "cdi_history(at, s, r)" if aggregate == "cdi_retention_counts" else "cdi_history(at)", rows))


def retention(count):
    chance = random.Random(SEED + 1)
    cases = [Retention(chance) for _ in range(count)]
    got = psql("\n".join(people_sql("cdi_retention_counts", case.people, case.options,
                                    "cohort people period_from period_to eligible retained retention") for case in cases))
    return compare("retention, against datetime and zoneinfo", [json.loads(line) for line in got], [case.answer() for case in cases],
                   [(case.options, case.people) for case in cases])


class Activity:
    def __init__(self, chance):
        self.zone = chance.choice(["UTC", "Europe/Berlin", "Asia/Kolkata"])
        self.people = [history(chance, ZoneInfo(self.zone)) for _ in range(chance.choice([1, 2, 4]))]
        self.first = BASE.date() + datetime.timedelta(days=chance.randint(-3, 15))
        self.last = self.first + datetime.timedelta(days=chance.randint(0, 20))
        self.as_of = BASE + chance.randint(10, 50) * datetime.timedelta(hours=12)
        self.windows = chance.sample([1, 2, 3, 7, 10], 2)
        self.unit = chance.choice(["day", "week", "month"])

    def options(self, **more):
        return dict({"from_day": self.first.isoformat(), "to_day": self.last.isoformat(), "time_zone": self.zone,
                     "as_of": self.as_of.isoformat()}, **more)

    def active(self):
        zone = ZoneInfo(self.zone)
        return [{local_day(at, zone) for at, _, _ in person if at < self.as_of} for person in self.people if person]

    def today(self):
        return local_day(self.as_of, ZoneInfo(self.zone))

    def stickiness(self):
        if not any(self.people):
            return None
        rows = []
        for window in self.windows:
            for day in range((self.last - self.first).days + 1):
                day = self.first + datetime.timedelta(days=day)
                counts = [sum(day - datetime.timedelta(days=window) < active <= day for active in person) for person in self.active()]
                rows += [[day.isoformat(), window, n, counts.count(n), day < self.today()] for n in range(1, window + 1)]
        return rows

    def lifecycle(self):
        if not any(self.people):
            return None
        rows, people = [], [{period_of(day, self.unit) for day in person} for person in self.active()]
        days = [self.first + datetime.timedelta(days=n) for n in range((self.last - self.first).days + 1)]
        for first in sorted({first_day(day, self.unit) for day in days}):
            t = period_of(first, self.unit)
            now, before = {n for n, p in enumerate(people) if t in p}, {n for n, p in enumerate(people) if t - 1 in p}
            earlier = {n for n, p in enumerate(people) if any(q < t for q in p)}
            rows.append([first.isoformat(), len(now), len(now - earlier), len(now & before), len((now & earlier) - before),
                         len(before - now), t < period_of(self.today(), self.unit)])
        return rows


def activity(count):
    chance = random.Random(SEED + 2)
    cases = [Activity(chance) for _ in range(count)]
    got = psql("\n".join(people_sql("cdi_stickiness_counts", case.people, case.options(windows=", ".join(map(str, case.windows))),
                                    "day window_days active_days people complete") for case in cases))
    good = compare("stickiness, against sets of days", [json.loads(line) for line in got], [case.stickiness() for case in cases],
                   [(case.options(), case.windows, case.people) for case in cases])
    got = psql("\n".join(people_sql("cdi_lifecycle_counts", case.people, case.options(period=case.unit),
                                    "period active new retained resurrected dormant complete") for case in cases))
    lifecycle = [case.lifecycle() for case in cases]
    good &= compare("lifecycle, against sets of periods", [json.loads(line) for line in got], lifecycle,
                    [(case.options(), case.unit, case.people) for case in cases])
    return good


# ClickHouse

def chdb_sequences(count):
    """Without what it gets wrong or leaves open: a trailing .*, simultaneous events, two times in a row."""
    from chdb import session
    clickhouse = session.Session()
    chance = random.Random(SEED + 3)
    cases = []
    while len(cases) < count:
        case = Sequence(chance, 1)
        times = [at for at, _ in case.events]
        if len(set(times)) == len(times):
            cases.append(case)
    clickhouse.query("CREATE DATABASE cases; CREATE TABLE cases.e (id UInt32, at UInt32, m UInt8) ENGINE = Memory")
    clickhouse.query("INSERT INTO cases.e VALUES " + ", ".join("(%d, %d, %d)" % (n, at, m) for n, case in enumerate(cases) for at, m in case.events))
    theirs = []
    for n, case in enumerate(cases):
        arguments = "('%s')(at, bitTest(m, 0), bitTest(m, 1), bitTest(m, 2))" % case.pattern()
        theirs.append(str(clickhouse.query("SELECT sequenceMatch%s, sequenceCount%s FROM cases.e WHERE id = %d" % (arguments, arguments, n), "CSV")).strip())
    ours = [line.rsplit("|", 1)[0] for line in sequence_sql(cases)]
    theirs = ["%s|%s" % ("t" if one.split(",")[0] == "1" else "f", one.split(",")[1]) for one in theirs]
    return compare("sequences, against ClickHouse", ours, theirs, [(case.pattern(), case.ordered()) for case in cases])


def chdb_retention(count):
    import chdb
    chance = random.Random(SEED + 4)
    rows = [(n, chance.randint(0, 31)) for n in range(count) for _ in range(chance.randint(1, 5))]
    conditions = ", ".join("m & %d > 0" % (1 << i) for i in range(5))
    values = ", ".join("(%d, %d)" % row for row in rows)
    theirs = str(chdb.query("SELECT retention(%s) FROM VALUES('id UInt32, m UInt8', %s) GROUP BY id ORDER BY id"
                            % (", ".join("bitTest(m, %d)" % i for i in range(5)), values), "TSV")).split()
    ours = psql("SELECT to_json(cdi_retention_conditions(%s)::int[]) FROM (VALUES %s) v (id, m) GROUP BY id ORDER BY id;" % (conditions, values))
    return compare("retention conditions, against ClickHouse", ours, theirs, list(range(count)))


def main():
    count = int(sys.argv[1])
    if sys.argv[2:] == ["chdb"]:
        checks = [chdb_sequences, chdb_retention]
    else:
        checks = [sequences, retention, activity]
    sys.exit(0 if all([check(count) for check in checks]) else 1)


main()
