"""cdi_markov() against ChannelAttribution, from PyPI, and an exact solution by scipy."""
import json
import os
import subprocess

import pq
from measure import BUILD, HERE, ROOT, Row, clock, interleave

PATHS = 10000
CHANNELS = 12

# Which channels are likely, and how likely they convert, differs.
CREATE = """
SELECT setseed(0.5);
CREATE TABLE paths AS
SELECT path, sum(conversions)::bigint AS conversions, sum(20 * conversions)::bigint AS value, sum(nulls)::bigint AS nulls
FROM (SELECT array_agg('channel' || floor(%d * random() ^ 1.5) ORDER BY i) AS path,
             floor(4 * random() * random())::int AS conversions, 1 + floor(20 * random())::int AS nulls
      FROM generate_series(1, %d) AS n, generate_series(1, 4 + n %% 7) AS i GROUP BY n) p
GROUP BY path
"""
CDI = ("SELECT c.channel, c.conversions FROM (SELECT cdi_markov(path, conversions, value, nulls, '{\"order\": %d}') AS credits FROM paths) p,"
       " unnest(p.credits) c")


class Markov:
    def __init__(self, database):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db(CREATE % (CHANNELS, PATHS + PATHS // 10))
        self.db("DELETE FROM paths WHERE path IN (SELECT path FROM paths ORDER BY path OFFSET %d)" % PATHS)
        self.db("VACUUM ANALYZE paths")
        self.paths = "".join("%s\n" % "\t".join(row) for row in self.db(
            "SELECT array_to_string(path, ' > '), conversions, value, nulls FROM paths"))
        self.credit = {}

    def cdi(self, order):
        with clock() as took:
            rows = self.db(CDI % order)
        self.credit["cdi", order] = {channel: float(conversions) for channel, conversions in rows}
        return took.seconds

    def python(self, how, order):
        out = subprocess.run([os.path.join(BUILD, "python/bench/bin/python"), os.path.join(HERE, "channel_attribution.py"), how, str(order)],
                             input=self.paths, text=True, stdout=subprocess.PIPE, check=True).stdout
        answer = json.loads(out.splitlines()[-1])     # it greets on import
        self.credit[how, order] = answer["credit"]
        return answer["seconds"]

    def error(self, how, order):
        """The largest relative error of a channel's credit, scipy being right."""
        right = self.credit["solve", order]
        got = self.credit[how, order]
        if set(got) != set(right):
            raise SystemExit("channels of %s: %s" % (how, sorted(got)))
        return max(abs(got[channel] / right[channel] - 1) for channel in right)


def run(database, options):
    status = subprocess.run(["test/setup", "python", "bench"], cwd=ROOT).returncode
    if status != 0:
        raise SystemExit("the packages of test/bench/requirements.txt cannot be installed")
    markov = Markov(database)
    paths = int(markov.db.value("SELECT count(*) FROM paths"))
    rows = []
    for order in (1, 3):
        markov.cdi(order)
        got = interleave(options.repetitions, cdi=lambda: markov.cdi(order), simulated=lambda: markov.python("simulate", order),
                         solved=lambda: markov.python("solve", order))
        errors = {how: markov.error(how, order) for how in ("cdi", "simulate")}
        if errors["cdi"] > 1e-9 or errors["cdi"] > errors["simulate"]:
            raise SystemExit("order %d: largest relative error %g, ChannelAttribution's %g" % (order, errors["cdi"], errors["simulate"]))
        what = "cdi_markov, order %d, %d channels, {:,} paths".format(paths) % (order, CHANNELS)
        rows.append(Row("markov", what, "s", got["cdi"], ("ChannelAttribution, error %.1f %%" % (100 * errors["simulate"]), got["simulated"]),
                        ("scipy, sparse LU per channel", got["solved"]), target=10, note={"relative_error": errors["cdi"], "its_error": errors["simulate"]}))
        if order == 3:
            rows.append(Row("markov", "  the same", "s", got["cdi"], limit=1, note={"relative_error": errors["cdi"]}))
    markov.db.close()
    return rows
