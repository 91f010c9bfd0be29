"""The data-driven models against numpy and scikit-learn, on the same paths.

The alternative has the rows in memory already and computes no credit of value;
cdi reads them from the table."""
import json
import os
import subprocess

import pq
from measure import BUILD, HERE, ROOT, Row, clock, interleave

MODELS = {"shapley": "cdi_shapley(path, conversions, value, nulls, '{\"game\": \"rate\"}')",
          "logistic": "cdi_logistic(path, conversions, value, nulls)"}


class Models:
    def __init__(self, database, channels, paths):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION IF NOT EXISTS cdi")
        self.db("DROP TABLE IF EXISTS paths")
        self.db("CREATE TABLE paths AS SELECT DISTINCT ON (path) path, (n * 7) %% 5 AS conversions, (n * 13) %% 40 AS nulls, n * 0.25 AS value"
                " FROM (SELECT n, ARRAY(SELECT 'channel ' || abs(hashint8(n * 97 + t)) %% %d FROM generate_series(1, 3 + n %% 6) t) AS path"
                "       FROM generate_series(1, 10 * %d) n) x ORDER BY path, n LIMIT %d" % (channels, paths, paths))
        self.db("ANALYZE paths; SET jit = off")
        subprocess.run([os.path.join(ROOT, "test/setup"), "python", "data_driven"], check=True)
        self.other = subprocess.Popen([os.path.join(BUILD, "python/data_driven/bin/python"), os.path.join(HERE, "data_driven_alternative.py")],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        rows = self.db("SELECT array_to_json(path), conversions, nulls FROM paths")
        print(json.dumps([(json.loads(path), int(c), int(n)) for path, c, n in rows]), file=self.other.stdin, flush=True)

    def cdi(self, model):
        with clock() as took:
            self.mine = self.db("SELECT channel, effect FROM (SELECT %s AS r FROM paths) x, unnest(r)" % MODELS[model])
        return took.seconds

    def alternative(self, model):
        print(model, file=self.other.stdin, flush=True)
        seconds, self.theirs = json.loads(self.other.stdout.readline())
        return seconds

    def check(self):
        for channel, effect in self.mine:
            if abs(float(effect) - self.theirs[channel]) > 1e-6:
                raise SystemExit("%s: %s by cdi, %s by the alternative" % (channel, effect, self.theirs[channel]))

    def close(self):
        self.other.stdin.close()
        self.other.wait()
        self.db.close()


def run(database, options):
    rows = []
    for model, channels, what, other in (
            ("shapley", 20, "cdi_shapley, rate game, 20 channels, 10,000 distinct paths", "numpy, rows in memory"),
            ("logistic", 100, "cdi_logistic, 100 channels, 10,000 distinct paths", "scikit-learn, rows in memory")):
        models = Models(database, channels, 10000)
        for warm in models.cdi, models.alternative:
            warm(model)
        got = interleave(options.repetitions, cdi=lambda: models.cdi(model), other=lambda: models.alternative(model))
        models.check()
        models.close()
        rows.append(Row(model, what, "s", got["cdi"], (other, got["other"])))
    return rows
