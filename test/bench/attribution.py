"""Rule models against the window functions that a user would write.

Both sides start from the same: from events as they are stored, and from touches
and conversions that exist as tables."""
import functools
import os

import pq
from measure import HERE, Row, clock, interleave, say

MODELS = ("first_touch", "last_touch", "last_non_direct", "linear", "time_decay", "u_shaped", "j_shaped", "inverse_j")
EVENTS = ("SELECT dimension[1], value FROM cdi_attribution_report('{linear}', 'order') ORDER BY 1")
TABLES = ("SELECT dimension[1], model, value FROM cdi_attribution_report('{%s}', 'order',"
          " parameters => '{\"touchpoints\": \"bench.touches\", \"conversion_events\": \"bench.conversions\"}')")

# One model alone, as a user would write it: columns of the paths, and what is summed of them
PATHS = """
SELECT coalesce(channel, 'unattributed'), sum(%s)
FROM (SELECT t.channel, c.value, %s
      FROM bench.conversions c
      LEFT JOIN bench.touches t ON t.person_id = c.person_id AND t.touched_at BETWEEN c.converted_at - interval '30 days' AND c.converted_at
      WHERE c.conversion = 'order') path
%s GROUP BY 1"""
NUMBER = "row_number() OVER (PARTITION BY c.event_id%s) AS i"
COUNT = "count(*) OVER (PARTITION BY c.event_id) AS n"
DECAY = "2 ^ (-extract(epoch FROM c.converted_at - t.touched_at)::double precision / 604800)"
ALONE = {
    "first_touch": ("value", NUMBER % " ORDER BY t.touched_at, t.position", "WHERE i = 1"),
    "last_touch": ("value", NUMBER % " ORDER BY t.touched_at DESC, t.position DESC", "WHERE i = 1"),
    "last_non_direct": ("value", NUMBER % " ORDER BY t.channel = 'direct', t.touched_at DESC, t.position DESC", "WHERE i = 1"),
    "linear": ("value / n", COUNT, ""),
    "time_decay": ("value * coalesce(decay / total, 1)::numeric",
                   "%s AS decay, sum(%s) OVER (PARTITION BY c.event_id) AS total" % (DECAY, DECAY), ""),
    "position_based": ("value * CASE WHEN n <= 2 THEN 1.0 / n WHEN i IN (1, n) THEN 0.4 ELSE 0.2 / (n - 2) END",
                       NUMBER % " ORDER BY t.touched_at, t.position" + ", " + COUNT, ""),
    "participation": ("value", "row_number() OVER (PARTITION BY c.event_id, t.channel) AS i", "WHERE i = 1"),
}


def read(name):
    with open(os.path.join(HERE, name)) as file:
        return file.read()


class Attribution:
    def __init__(self, database, persons, touches):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db("SELECT cdi_ingest(jsonb_agg(call), 'sql')"
                " FROM (SELECT call, n / 1000 AS part FROM cdi_simulate(%d) WITH ORDINALITY c(call, n)) c"
                " GROUP BY part" % persons)
        self.db("SELECT cdi_resolve()")
        for statement in read("attribution_touches.sql").replace(":touches", str(touches)).split(";"):
            if statement.strip():
                self.db(statement)
        for table in ("cdi.events", "cdi.identity_map", "cdi.identity_links", "bench.touches", "bench.conversions"):
            self.db("VACUUM ANALYZE " + table)
        self.db("SET jit = off")
        self.answers = {}

    def time(self, name, statement):
        with clock() as took:
            self.answers[name] = self.db(statement)
        return took.seconds

    def events(self):
        return self.time("events", EVENTS)

    def events_by_hand(self):
        # The planner cannot know how many rows the window functions leave and
        # may join them by a nested loop, ten times slower: it gets help.
        self.db("SET enable_nestloop = off")
        took = self.time("events_by_hand", read("attribution.sql"))
        self.db("RESET enable_nestloop")
        return took

    def events_read(self):
        return self.time("events_read", "SELECT count(subject), max(campaign_source) FROM cdi.events")

    def models(self):
        return self.time("models", TABLES % ",".join(MODELS))

    def models_by_hand(self):
        return self.time("models_by_hand", read("attribution_models.sql"))

    def alone(self, model):
        return self.time(model, TABLES % model)

    def alone_by_hand(self, model):
        return self.time(model + "_by_hand", PATHS % ALONE[model])

    def tables_read(self):
        return self.time("tables_read", "SELECT count(person_id), max(channel) FROM bench.touches")

    def check(self):
        """Both must give every channel the same credit under every model, to 1e-9 of it."""
        self.compare({(channel, "linear"): value for channel, value in self.answers["events"]},
                     {(channel, "linear"): value for channel, value in self.answers["events_by_hand"]})
        self.compare({(channel, model): value for channel, model, value in self.answers["models"]},
                     {(row[0], model): value for row in self.answers["models_by_hand"] for model, value in zip(MODELS, row[1:])})
        for name in ALONE:
            self.compare({(channel, model): value for channel, model, value in self.answers[name]},
                         {(channel, name): value for channel, value in self.answers[name + "_by_hand"]})

    def compare(self, cdi, hand):
        for key in set(cdi) | set(hand):
            a, b = float(cdi.get(key) or 0), float(hand.get(key) or 0)
            if abs(a - b) > 1e-9 * max(1, abs(b)):
                raise SystemExit("credit of %s under %s: %.12f by cdi_attribution_report(), %.12f by hand" % (*key, a, b))


def run(database, options):
    attribution = Attribution(database, options.persons, options.touches)
    events = int(attribution.db.value("SELECT count(*) FROM cdi.events"))
    for warm in (attribution.events, attribution.events_by_hand, attribution.events_read, attribution.tables_read):
        warm()
    got = interleave(options.repetitions, events=attribution.events, events_by_hand=attribution.events_by_hand,
                     events_read=attribution.events_read)
    say("{:,} touches".format(options.touches))
    alone = {name: functools.partial(attribution.alone, name) for name in ALONE}
    alone.update({name + "_by_hand": functools.partial(attribution.alone_by_hand, name) for name in ALONE})
    got.update(interleave(options.repetitions, models=attribution.models, models_by_hand=attribution.models_by_hand,
                          tables_read=attribution.tables_read, **dict(sorted(alone.items()))))
    attribution.check()
    attribution.db.close()
    touches = "{:,} touches".format(options.touches)
    read = ("reading the touches", got["tables_read"])
    return [Row("attribution_models", "attribution, eight rule models, " + touches, "s", got["models"],
                ("window functions in SQL", got["models_by_hand"]), read, target=3)] + [
            Row("attribution_" + name, "attribution, %s, %s" % (name.replace("_", " "), touches), "s", got[name],
                ("window functions in SQL", got[name + "_by_hand"]), read, target=3) for name in ALONE] + [
            Row("attribution_events", "attribution, linear, {:,} events".format(events), "s", got["events"],
                ("window functions in SQL", got["events_by_hand"]), ("reading the events", got["events_read"]))]
