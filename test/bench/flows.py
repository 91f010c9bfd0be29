"""cdi_flows() and cdi_reach() against what a user would write in SQL."""
import os

import pq
from measure import HERE, Row, clock, interleave

FLOWS = ("SELECT step, source, target, people, occurrences, median_seconds"
         " FROM cdi_flows('from', 'Event 3', steps => 5, top => 1000000) ORDER BY 1, 2, 3")
REACH = "SELECT u.channels, u.people, u.touches FROM unnest((SELECT cdi_reach(person, channel) FROM touches)) u ORDER BY 1"
REACH_BY_HAND = ("SELECT channels, count(*), sum(touches)::bigint FROM (SELECT person, array_agg(DISTINCT channel ORDER BY channel) AS channels,"
                 " count(*) AS touches FROM touches GROUP BY person) p GROUP BY channels ORDER BY 1")

# Ten events a person in one or two visits; a page in three, with its address.
EVENTS = """
INSERT INTO cdi.events (received_at, "timestamp", position, event_id, subject, source_id, type, event, message_id, properties, context)
SELECT now(), timestamptz '2026-03-01' + interval '1 second' * (person % 2000000 + visit * 90000 + (n % 5) * 47), n,
       ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid, ('10000000-0000-0000-0000-' || lpad(to_hex(person), 12, '0'))::uuid, 1,
       CASE WHEN n %% 3 = 0 THEN 'page' ELSE 'track' END, CASE WHEN n %% 3 > 0 THEN 'Event ' || hash %% 9 END, n::text, '{"price": 12}',
       CASE WHEN n %% 3 = 0 THEN jsonb_build_object('page', jsonb_build_object('path', '/p/' || hash %% 30, 'url', 'https://shop.example/p/' || hash %% 30,
           'title', 'A page of the shop'), 'userAgent', 'Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0') END
FROM (SELECT n, n / 10 AS person, n %% 10 / 5 AS visit, abs(hashint8(n)) AS hash FROM generate_series(0, %d) n) v
""".replace("person % 2000000", "person %% 2000000").replace("(n % 5)", "(n %% 5)")


class Flows:
    def __init__(self, database, events):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        self.db(EVENTS % (events - 1))
        # Skewed: a person's touches follow a power law, channels differ in size.
        self.db("CREATE TABLE touches AS SELECT md5((power(abs(hashint8(n)) / 2147483648.0, 2) * %d)::bigint::text)::uuid AS person,"
                " (ARRAY['tv', 'search', 'social', 'display', 'email', 'radio', 'print', 'affiliate'])[1 + (abs(hashint8(n + 7)) %% 64)::integer / 8] AS channel"
                " FROM generate_series(1, %d) n" % (events // 10, events))
        for table in ("cdi.events", "cdi.identity_map", "touches"):
            self.db("VACUUM ANALYZE " + table)
        self.db("SET jit = off")
        # Memory for the sorts of all alike
        self.db("SET work_mem = '256MB'")
        with open(os.path.join(HERE, "flows.sql")) as file:
            self.by_hand = file.read()
        self.answers = {}

    def time(self, name, statement):
        with clock() as took:
            self.answers[name] = self.db(statement)
        return took.seconds

    def flows(self):
        return self.time("flows", FLOWS)

    def flows_by_hand(self):
        return self.time("flows_by_hand", self.by_hand)

    def reading_events(self):
        return self.time("floor", "SELECT count(subject), max(event) FROM cdi.events")

    def reach(self):
        return self.time("reach", REACH)

    def reach_by_hand(self):
        return self.time("reach_by_hand", REACH_BY_HAND)

    def reading_touches(self):
        return self.time("floor", "SELECT count(person), max(channel) FROM touches")

    def check(self, one, other):
        """Both must say the same."""
        if [list(row) for row in self.answers[one]] != [list(row) for row in self.answers[other]]:
            raise SystemExit("%s and %s differ" % (one, other))


def run(database, options):
    flows = Flows(database, options.flow_events)
    count = "{:,}".format(options.flow_events)
    for warm in (flows.reading_events, flows.reading_touches):
        warm()
    got = interleave(options.repetitions, cdi=flows.flows, hand=flows.flows_by_hand, floor=flows.reading_events)
    flows.check("flows", "flows_by_hand")
    reach = interleave(options.repetitions, cdi=flows.reach, hand=flows.reach_by_hand, floor=flows.reading_touches)
    flows.check("reach", "reach_by_hand")
    flows.db.close()
    return [Row("flows", "cdi_flows, 5 steps, %s events" % count, "s", got["cdi"],
                ("window functions in SQL", got["hand"]), ("reading the events", got["floor"])),
            Row("reach", "cdi_reach, 8 channels, %s touches" % count, "s", reach["cdi"],
                ("array_agg(DISTINCT) in SQL", reach["hand"]), ("reading the touches", reach["floor"]))]
