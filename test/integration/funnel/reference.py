"""What a funnel is, by looking at every way through it.

An event is (time in microseconds, conditions it meets as a bit mask, value held
constant).  The functions say what a dialect means and care for no cost: they
are for a handful of events.
"""
import itertools

SECOND = 10 ** 6
GRACE = 2 * SECOND


# ClickHouse: there is a chain of rows, one after the other or at the same time

def clickhouse(events, steps, window, increase=False, once=False):
    events = sorted(events, key=lambda event: event[:2])

    def longest(chain):
        step = len(chain)
        best = step
        if step == steps:
            return best
        for number, (at, conditions, _) in enumerate(events):
            if not conditions >> step & 1:
                continue
            if chain:
                before = events[chain[-1]][0]
                if at < before or (increase and at == before) or at > events[chain[0]][0] + window:
                    continue
                if once and number in chain:
                    continue
            best = max(best, longest(chain + [number]))
        return best
    return longest([])


# Amplitude: rows of their own for each step, to the second, in any order within one

def seconds(at):
    return at // SECOND


def amplitude(events, steps, window, step_windows=None, exclusions=()):
    """Longest path, and the second in which the earliest of these begins."""
    best = (0, None)

    def excluded(reached, chain, before, after):
        return any(after_step <= reached < before_step and any(
            conditions >> (steps + i) & 1 and before < seconds(at) < after
            for number, (at, conditions, _) in enumerate(events) if number not in chain)
            for i, (after_step, before_step) in enumerate(exclusions))

    def search(chain):
        nonlocal best
        if chain:
            found = (len(chain), seconds(events[chain[0]][0]))
            if found[0] > best[0] or (found[0] == best[0] and found[1] < best[1]):
                best = found
        if len(chain) == steps:
            return
        for number, (at, conditions, _) in enumerate(events):
            if number in chain or not conditions >> len(chain) & 1:
                continue
            if chain:
                first, last = seconds(events[chain[0]][0]), seconds(events[chain[-1]][0])
                if seconds(at) < last or seconds(at) * SECOND > first * SECOND + window:
                    continue
                longest = step_windows and step_windows[len(chain) - 1]
                if longest and (seconds(at) - last) * SECOND > longest:
                    continue
                if excluded(len(chain), chain + [number], last, seconds(at)):
                    continue
            search(chain + [number])
    search([])
    return best


def amplitude_exact(events, steps, window):
    """Rows of one second may stand in either order; nothing else in between."""
    best = (0, None)
    for size in range(1, steps + 1):
        for chain in itertools.permutations(range(len(events)), size):
            if any(not events[number][1] >> step & 1 for step, number in enumerate(chain)):
                continue
            times = [seconds(events[number][0]) for number in chain]
            if times != sorted(times) or (times[-1] - times[0]) * SECOND > window:
                continue
            if any(times[0] < seconds(at) < times[-1] and number not in chain
                   for number, (at, _, _) in enumerate(events)):
                continue
            if size > best[0] or (size == best[0] and times[0] < best[1]):
                best = (size, times[0])
    return best


# Any order: steps between two anchored ones may be done in any order

def blocks_of(steps, anchors):
    blocks = []
    for step in range(steps):
        if not blocks or step + 1 in anchors or step in anchors:
            blocks.append([])
        blocks[-1].append(step)
    return blocks


def any_order(events, steps, window, anchors, grace, resolution, only_first=False):
    """The most steps from one entry, over all entries or from the first."""
    blocks = blocks_of(steps, anchors)
    best = 0
    entries = sorted((at // resolution, number) for number, (at, conditions, _) in enumerate(events)
                     if any(conditions >> step & 1 for step in blocks[0]))
    if only_first:
        entries = entries[:1]
    for first, entry in entries:
        def search(filled, block):
            nonlocal best
            best = max(best, len(filled))
            while block < len(blocks) and all(step in filled for step in blocks[block]):
                block += 1
            if block == len(blocks):
                return
            done = [events[row][0] // resolution for step, row in filled.items() if step not in blocks[block]]
            since = max(done) - grace if done else first
            for step in blocks[block]:
                for number, (at, conditions, _) in enumerate(events):
                    if step in filled or number in filled.values() or not conditions >> step & 1:
                        continue
                    if since <= at // resolution and (at // resolution - first) * resolution <= window:
                        search({**filled, step: number}, block)
        for step in blocks[0]:
            if events[entry][1] >> step & 1:
                search({step: entry}, 0)
    return best


# Mixpanel, step by step as its documentation tells it

class Mixpanel:
    def __init__(self, events, steps, window, step_windows=None, exclusions=(), optimized=False):
        self.events = sorted(events, key=lambda event: event[:2])
        self.steps, self.window, self.exclusions = steps, window, exclusions
        self.step_windows = step_windows or [None] * (steps - 1)
        self.optimized = optimized
        self.used = set()

    def entries(self, begin=0):
        return [number for number, event in enumerate(self.events)
                if number >= begin and event[1] & 1 and number not in self.used]

    def follow(self, entry, until=None):
        """(rows, row that excluded, time of leaving) from an entry on."""
        rows = [entry]
        first = last = self.events[entry][0]
        end = first + self.window
        while len(rows) < self.steps:
            end = first + self.window
            if self.step_windows[len(rows) - 1]:
                end = min(end, last + self.step_windows[len(rows) - 1])
            fitting = [number for number, (at, conditions, _) in enumerate(self.events)
                       if conditions >> len(rows) & 1 and number not in self.used and number not in rows
                       and last - GRACE <= at <= end and (until is None or number < until)]
            if fitting:
                clear_until = self.events[fitting[0]][0] - GRACE - 1
            else:
                clear_until = end
            excluding = [number for number, (at, conditions, _) in enumerate(self.events)
                         if number not in rows and last + GRACE < at <= clear_until and (until is None or number < until)
                         and any(conditions >> (self.steps + i) & 1 and after <= len(rows) < before
                                 for i, (after, before) in enumerate(self.exclusions))]
            if excluding:
                return rows, excluding[0], None
            if not fitting:
                return rows, None, end
            rows.append(fitting[0])
            last = max(last, self.events[fitting[0]][0])
        return rows, None, None

    def reached(self, rows):
        return max(self.events[number][0] for number in rows)

    def best(self, begin=0):
        """Optimized re-entry: most steps, done first, entered last."""
        ways = [(self.follow(entry)[0], entry) for entry in self.entries(begin)]
        return min(ways, key=lambda way: (-len(way[0]), self.reached(way[0]), -self.events[way[1]][0]), default=None)

    def unique(self):
        if not self.entries():
            return 0
        if self.optimized:
            return len(self.best()[0])
        return len(self.follow(self.entries()[0])[0])

    def totals(self):
        levels = []
        begin = 0
        if self.optimized:
            while True:
                way = self.best(begin)
                if way is None or len(way[0]) < self.steps:
                    break
                self.used.update(way[0])
                levels += self.superseded(begin, way[1])
                levels.append(self.steps)
                begin = max(way[0]) + 1
            return levels + self.superseded(begin, len(self.events))
        while self.entries(begin):
            entry = self.entries(begin)[0]
            rows, excluding, leaving = self.follow(entry)
            self.used.update(rows)
            levels.append(len(rows))
            if len(rows) == self.steps:
                begin = max(rows) + 1
            elif excluding is not None:
                begin = excluding + 1
            else:
                begin = next((n for n, event in enumerate(self.events) if event[0] > leaving), len(self.events))
            begin = max(begin, entry + 1)
        return levels

    def superseded(self, begin, end):
        levels = []
        entry = -1
        while True:
            coming = [number for number in self.entries(begin) if entry < number < end]
            if not coming:
                return levels
            entry = coming[0]
            rows = self.follow(entry, coming[1] if len(coming) > 1 else end)[0]
            self.used.update(rows)
            levels.append(len(rows))


def mixpanel_held(events, **options):
    """One property held constant: the value of the first step 1."""
    entries = [event for event in sorted(events, key=lambda e: (e[0], e[2] or "")) if event[1] & 1 and event[2] is not None]
    if not entries:
        return 0
    if options.get("optimized"):
        return max(Mixpanel([e for e in events if e[2] == value], **options).unique()
                   for value in {e[2] for e in entries})
    first = min(entry[0] for entry in entries)
    value = min(entry[2] for entry in entries if entry[0] == first)
    return Mixpanel([e for e in events if e[2] == value], **options).unique()


def amplitude_totals(events, steps, window):
    """Every event is in one path; events of step 1 enter in order of time."""
    events = sorted(events, key=lambda event: event[:2])
    used, levels = set(), []
    for entry, (entered, conditions, _) in enumerate(events):
        if not conditions & 1 or entry in used:
            continue
        rows, last = [entry], seconds(entered)
        while len(rows) < steps:
            fitting = [n for n, (at, c, _) in enumerate(events) if c >> len(rows) & 1 and n not in used and n not in rows
                       and seconds(at) >= last and (seconds(at) - seconds(entered)) * SECOND <= window]
            if not fitting:
                break
            rows.append(fitting[0])
            last = seconds(events[fitting[0]][0])
        used.update(rows)
        levels.append(len(rows))
    return levels
