"""cdi_attribution() against the window functions that a user would write."""
import os

import pq
from measure import HERE, Row, clock, interleave

CDI = ("SELECT channel, sum(credited_value) FROM cdi_attribution(model => 'linear', conversion => 'order')"
       " GROUP BY channel ORDER BY channel")


class Attribution:
    def __init__(self, database, persons):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db("SELECT cdi_ingest(jsonb_agg(call), 'sql')"
                " FROM (SELECT call, n / 1000 AS part FROM cdi_simulate(%d) WITH ORDINALITY c(call, n)) c"
                " GROUP BY part" % persons)
        self.db("SELECT cdi_resolve()")
        for table in ("cdi.events", "cdi.identity_map", "cdi.identity_links"):
            self.db("VACUUM ANALYZE " + table)
        self.db("SET jit = off")
        with open(os.path.join(HERE, "attribution.sql")) as file:
            self.statement = file.read()
        self.answers = {}

    def time(self, name, statement):
        with clock() as took:
            self.answers[name] = self.db(statement)
        return took.seconds

    def cdi(self):
        return self.time("cdi", CDI)

    def hand(self):
        # The planner cannot know how many rows the window functions leave and
        # may join them by a nested loop, ten times slower: it gets help.
        self.db("SET enable_nestloop = off")
        took = self.time("hand", self.statement)
        self.db("RESET enable_nestloop")
        return took

    def floor(self):
        """Reading the events once."""
        return self.time("floor", "SELECT count(subject), max(campaign_source) FROM cdi.events")

    def check(self):
        """Both must give every channel the same credit, up to the rounding of shares."""
        cdi, hand = ({channel: float(credit) for channel, credit in self.answers[name]} for name in ("cdi", "hand"))
        for channel in set(cdi) | set(hand):
            if abs(cdi.get(channel, 0) - hand.get(channel, 0)) > 1e-6:
                raise SystemExit("credit of %s: %s by cdi_attribution(), %s by hand"
                                 % (channel, cdi.get(channel), hand.get(channel)))


def run(database, options):
    attribution = Attribution(database, options.persons)
    events = int(attribution.db.value("SELECT count(*) FROM cdi.events"))
    for warm in (attribution.cdi, attribution.hand, attribution.floor):
        warm()
    got = interleave(options.repetitions, cdi=attribution.cdi, hand=attribution.hand, floor=attribution.floor)
    attribution.check()
    attribution.db.close()
    return [Row("attribution", "cdi_attribution, linear, {:,} events".format(events), "s", got["cdi"],
                ("window functions in SQL", got["hand"]), ("reading the events", got["floor"]))]
