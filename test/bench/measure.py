"""Measuring: interleaved repetitions, and rows of the table of ratios."""
import concurrent.futures
import contextlib
import gc
import os
import statistics
import subprocess
import time

import pq

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, "build")

# The default configuration but for the memory, and autovacuum, which would
# start at times of its own.  Commits are durable.
SETTINGS = ["fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=512MB", "max_wal_size=4GB",
            "maintenance_work_mem=256MB", "autovacuum=off"]

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process so far."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK


class Took:
    seconds = cpu = None


@contextlib.contextmanager
def clock(pid=None):
    """Wall clock of a block, and the CPU time that the process spent in it.

    The garbage collector of the client stays out of it."""
    took = Took()
    gc.collect()
    gc.disable()
    cpu = cpu_seconds(pid) if pid else 0
    start = time.perf_counter()
    try:
        yield took
    finally:
        took.seconds = time.perf_counter() - start
        took.cpu = cpu_seconds(pid) - cpu if pid else None
        gc.enable()


def build(program, *sources_and_libraries):
    """A C program of ours, with the headers of cdi."""
    path = os.path.join(BUILD, "bench", program)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    subprocess.run(["cc", "-O2", "-Isrc", "-o", path, *sources_and_libraries], cwd=ROOT, check=True)
    return path


def empty_database(name):
    """Nobody is connected to it yet."""
    remove_database(name)
    db = pq.Connection("dbname=postgres")
    db('CREATE DATABASE "%s"' % name)
    db.close()
    return name


def start_cluster(settings):
    subprocess.run(["test/cluster", "stop", "bench"], cwd=ROOT, check=True)
    subprocess.run(["test/cluster", "start", "bench"] + settings, cwd=ROOT, check=True)


def kernel(setting, value):
    with open("/proc/sys/vm/" + setting, "w") as file:
        file.write("%d" % value)


def huge_pages_set_aside():
    with open("/proc/sys/vm/nr_hugepages") as file:
        return int(file.read())


@contextlib.contextmanager
def huge_pages(megabytes):
    """So many megabytes of memory set aside for the server's shared memory, in pages of 2 MB; needs root."""
    before = huge_pages_set_aside()
    wanted = before + megabytes // 2 + megabytes // 20      # shared_buffers and what goes with it
    try:
        # Files that were read are in the way.
        os.sync()
        kernel("drop_caches", 3)
        kernel("compact_memory", 1)
        kernel("nr_hugepages", wanted)
        if huge_pages_set_aside() < wanted:
            raise SystemExit("the machine has no %d huge pages left" % wanted)
        yield
    finally:
        kernel("nr_hugepages", before)


@contextlib.contextmanager
def sized_memory(huge):
    """shared_buffers of a quarter of the machine's memory, as PostgreSQL's
    manual has it for a server of its own, in huge pages or not; says what it is."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 1024 // 1024
    settings = [setting for setting in SETTINGS if not setting.startswith("shared_buffers=")] + [
        "shared_buffers=%dMB" % size, "huge_pages=" + ("on" if huge else "off")]
    try:
        with huge_pages(size) if huge else contextlib.nullcontext():
            start_cluster(settings)
            yield "shared_buffers = %dMB, in %s pages" % (size, "huge" if huge else "small")
    finally:
        # No huge pages are set aside any more: it would take them.
        start_cluster(SETTINGS)


def remove_database(name):
    db = pq.Connection("dbname=postgres")
    db('DROP DATABASE IF EXISTS "%s" WITH (FORCE)' % name)
    db.close()


def at_once(*actions):
    """What all return, each run in a thread of its own; raises what one of them raised."""
    with concurrent.futures.ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def checkpoint(db):
    """Each measurement starts without dirty pages or old WAL of another."""
    db("CHECKPOINT")


def say(text):
    print("   " + text, flush=True)


# When a part has used up its time: it then starts no further round.
deadline = float("inf")


def interleave(repetitions, **contenders):
    """A B C, A B C, ...: what else the machine does meets all alike.

    Every other round goes backwards, so that none always follows the same.
    Returns the results of each, one per round."""
    results = {name: [] for name in contenders}
    for number in range(repetitions):
        if number > 0 and time.time() > deadline:
            say("no time for more rounds")
            break
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            results[name].append(contenders[name]())
        say("round %d of %d: %s" % (number + 1, repetitions, "  ".join(
            "%s %s" % (name, figure(results[name][-1])) for name in contenders)))
    return results


def figure(value):
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return "{:,.0f}".format(value)
    return "%.3g" % value


def spread(values):
    return values and {"median": statistics.median(values), "min": min(values), "max": max(values),
                       "rounds": [float("%.5g" % value) for value in values]}


class Row:
    """A row of the table: cdi, the alternative and the floor, one value per round.

    A ratio is that of two values of the same round, and more is better for
    cdi: a unit that ends in /s is a rate, any other a cost, whose ratio is
    turned over.  target is the least ratio to the alternative, enough a value
    of cdi's own that will do whatever the ratio (without a target: the least
    that it may be), limit the most that it may be.  Where the alternative could
    not be measured, missing says why."""

    def __init__(self, name, what, unit, cdi, alternative=None, floor=None, target=None, limit=None,
                 enough=None, missing=None, note=None):
        self.name, self.what, self.unit = name, what, unit
        self.cdi, self.target, self.limit, self.missing, self.note = cdi, target, limit, missing, note
        self.enough = enough
        self.alternative_what, self.alternative = alternative or (None, None)
        self.floor_what, self.floor = floor or (None, None)

    def ratios(self, other):
        if not other or not self.cdi:
            return None
        pairs = zip(self.cdi, other) if self.unit.endswith("/s") else zip(other, self.cdi)
        return [a / b for a, b in pairs]

    def met(self):
        if self.limit is not None:
            return statistics.median(self.cdi) <= self.limit
        if self.enough is not None and self.cdi:
            if statistics.median(self.cdi) >= self.enough:
                return True
            if self.target is None:
                return False
        if self.target is None or not self.alternative or not self.cdi:
            return None
        return statistics.median(self.ratios(self.alternative)) >= self.target

    def json(self):
        return {"name": self.name, "what": self.what, "unit": self.unit, "cdi": spread(self.cdi),
                "alternative": self.alternative_what and dict(spread(self.alternative) or {}, what=self.alternative_what),
                "floor": self.floor_what and dict(spread(self.floor) or {}, what=self.floor_what),
                "ratio": spread(self.ratios(self.alternative)), "ratio_to_floor": spread(self.ratios(self.floor)),
                "target": self.target, "enough": self.enough, "limit": self.limit, "met": self.met(), "missing": self.missing,
                "note": self.note}

    def cells(self):
        def value(values):
            return figure(statistics.median(values)) if values else "-"

        def ratio(values):
            return "%.2f (%.2f-%.2f)" % (statistics.median(values), min(values), max(values)) if values else "-"
        wanted = "-"
        if self.limit is not None:
            wanted = "at most %s" % figure(self.limit)
        elif self.target is None and self.enough is not None:
            wanted = "at least %s" % figure(self.enough)
        elif self.target is not None:
            wanted = "%.2f" % self.target
            if self.enough is not None:
                wanted += " or %s" % figure(self.enough)
        met = {True: "yes", False: "NO", None: "-"}[self.met()]
        return (self.what, self.unit, value(self.cdi), self.missing or self.alternative_what or "-",
                value(self.alternative), ratio(self.ratios(self.alternative)), wanted, met,
                self.floor_what or "-", value(self.floor), ratio(self.ratios(self.floor)))


HEADINGS = ("what", "unit", "cdi", "alternative", "its value", "ratio (min-max)", "target", "met",
            "floor", "its value", "ratio (min-max)")
RIGHT = (2, 4, 5, 6, 9, 10)


def table(rows, markdown=False):
    cells = [HEADINGS] + [row.cells() for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [[text.rjust(width) if column in RIGHT else text.ljust(width)
              for column, (text, width) in enumerate(zip(line, widths))] for line in cells]
    rule = ["-" * (width - 1) + ":" if markdown and column in RIGHT else "-" * width
            for column, width in enumerate(widths)]
    lines.insert(1, rule)
    if markdown:
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in lines)
