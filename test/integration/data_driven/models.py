"""Generated corpora of paths through the models, compared with reference.py
and with independent implementations.  Prints TAP."""
import collections
import json
import math
import os
import random
import sys

sys.path.insert(0, os.path.join(os.environ["CDI_ROOT"], "test/bench"))
sys.dont_write_bytecode = True
import numpy  # noqa: E402
import pq  # noqa: E402
import reference  # noqa: E402

CASES = int(os.environ.get("MODEL_CASES", "3000"))
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10 ** 6)
rng = random.Random(SEED)
db = pq.Connection()
tests = 0
failed = 0


def check(problems, name):
    """A list of what is wrong, or a boolean."""
    global tests, failed
    if isinstance(problems, bool):
        problems = [] if problems else ["not so"]
    tests += 1
    print("%sok %d - %s" % ("not " if problems else "", tests, name), flush=True)
    if problems:
        failed += 1
        print("# seed %d: %d problems, first %s" % (SEED, len(problems), problems[:3]), flush=True)


def array(items):
    return "{" + ",".join('"%s"' % item for item in items) + "}"


def load(cases, table="cases"):
    """{case: corpus} into a table."""
    db("DROP TABLE IF EXISTS " + table)
    db("CREATE TABLE %s (id int, path text[], conversions double precision, value double precision, nulls double precision)" % table)
    rows = ["%d\t%s\t%r\t%r\t%r\n" % (case, array(path), conversions, value, nulls)
            for case, corpus in cases.items() for path, conversions, value, nulls in corpus]
    rng.shuffle(rows)
    db.copy("COPY %s FROM STDIN" % table, ["".join(rows).encode()])


def credits(model, options=None, table="cases", columns="channel, conversions, value, effect"):
    """{case: {channel: (conversions, value, effect)}}"""
    arguments = "path, conversions, value, nulls" + (", '%s'" % json.dumps(options) if options else "")
    result = collections.defaultdict(dict)
    for row in db("SELECT id, %s FROM (SELECT id, unnest(%s(%s)) AS c FROM %s GROUP BY id) x, LATERAL (SELECT (c).*) y"
                  % (columns, model, arguments, table)):
        result[int(row[0])][row[1]] = tuple(None if x is None else float(x) for x in row[2:])
    return result


def near(got, wanted, scale, tolerance=1e-11):
    return got is not None and math.isfinite(got) and abs(got - float(wanted)) <= tolerance * scale


def scale_of(corpus):
    return 1 + sum(row[1] for row in corpus) + sum(abs(row[2]) for row in corpus)


def a_corpus(most_channels, whole=False, every_path=False):
    """Few channels, so that sets meet; some channels never convert, some paths have no touch."""
    channels = rng.sample("abcdefghij", rng.randint(1, most_channels))
    corpus = []
    for _ in range(rng.randint(1, 2 * 2 ** min(len(channels), 4))):
        path = [rng.choice(channels) for _ in range(rng.choice([1, 1, 2, 2, 3, 5, 9]))]
        if rng.random() < 0.05 and not every_path:
            path = []
        conversions = rng.choice([0, 1, 1, 2, 7])
        nulls = rng.choice([0, 0, 1, 5, 30])
        if not whole and rng.random() < 0.2:
            conversions, nulls = conversions * 0.25, nulls * 0.5
        value = round(conversions * rng.choice([0, 10, 19.99, -3.5, 1e6]), 2) if conversions else 0
        corpus.append((path, conversions, value, nulls))
    return corpus


def shapley_by_definition():
    cases = {case: a_corpus(5) for case in range(CASES)}
    more = {case: a_corpus(8) for case in range(CASES, CASES + 150)}
    load({**cases, **more})
    for game in "additive", "rate":
        got = credits("cdi_shapley", {"game": game})
        problems = []
        for case, corpus in {**cases, **more}.items():
            small = case in cases
            wanted = reference.shapley(corpus, game, orders=small)
            scale = scale_of(corpus)
            for channel, figures in wanted.items():
                mine = got[case].get(channel)
                if mine is None or not all(
                        near(m, w, scale) if w is not None else m is None for m, w in zip(mine, figures)):
                    # Without paths that count there is no rate.
                    if game == "rate" and sum(r[1] + r[3] for r in corpus if r[0]) == 0:
                        continue
                    problems.append((case, channel, mine, tuple(map(str, figures))))
            if set(got[case]) - {"unattributed"} != set(wanted):
                problems.append((case, sorted(got[case]), sorted(wanted)))
        check(problems, "Shapley values of the %s game are those over all orders and subsets, %d corpora"
              % (game, len(cases) + len(more)))
    got = credits("cdi_shapley")
    problems = []
    for case, corpus in cases.items():
        linear = reference.unique_linear(corpus)
        problems += [(case, channel) for channel, credit in linear.items()
                     if not near(got[case][channel][0], credit, scale_of(corpus))]
    check(problems, "the additive game is unique-channel linear")

    got = collections.defaultdict(dict)
    for case, channel, position, conversions, value in db(
            "SELECT id, c.channel, c.\"position\", c.conversions, c.value FROM (SELECT id, cdi_shapley_ordered(path, conversions, value, nulls) AS r FROM cases GROUP BY id) x, unnest(r) c"):
        got[int(case)][channel, None if position is None else int(position)] = (float(conversions), float(value))
    problems = []
    for case, corpus in {**cases, **more}.items():
        wanted = reference.ordered(corpus)
        idle = [row for row in corpus if not row[0]]
        if any(row[1] or row[2] for row in idle):
            wanted["unattributed", None] = (sum(r[1] for r in idle), sum(r[2] for r in idle))
        if set(wanted) != set(got[case]) or any(
                not near(m, w, scale_of(corpus)) for key in wanted for m, w in zip(got[case][key], wanted[key])):
            problems.append((case, got[case], wanted))
    check(problems, "ordered Shapley values are sums of R(S)/|S| by position")


def sums():
    """Efficiency, for every model and the cases of shapley_by_definition()."""
    totals = {int(case): (float(c), float(v)) for case, c, v in
              db("SELECT id, sum(conversions), sum(value) FROM cases GROUP BY id")}
    for model, options in (("cdi_shapley", None), ("cdi_shapley", {"game": "rate"}), ("cdi_logistic", {"ridge": 0.5}),
                           ("cdi_logistic", {"counts": True})):
        if model == "cdi_logistic":
            db("DELETE FROM cases WHERE id IN (SELECT id FROM cases GROUP BY id HAVING sum(nulls) = 0)")
        got = credits(model, options)
        problems = []
        for case, rows in got.items():
            for column in 0, 1:
                total = math.fsum(figures[column] for figures in rows.values())
                if not near(total, totals[case][column], 1 + abs(totals[case][0]) + sum(abs(f[column]) for f in rows.values())):
                    problems.append((case, column, total, totals[case]))
        check(problems, "credits of %s %s sum to conversions and value, %d corpora" % (model, options or "", len(got)))


def axioms():
    """Each takes corpora and what is done to them: no reference is needed."""
    plain, renamed, more, merged, nobody = {}, {}, {}, {}, {}
    for case in range(400):
        corpus = a_corpus(6, every_path=True)
        plain[case] = corpus
        names = reference.channels_of(corpus)
        swapped = dict(zip(names, rng.sample(names, len(names))))
        renamed[case] = [([swapped[c] for c in path], *rest) for path, *rest in corpus], swapped
        more[case] = a_corpus(6, every_path=True)
        merged[case] = corpus + more[case]
        # Joins every path as a copy that ends alike: adds to the outcome in no set.
        nobody[case] = corpus + [(path + ["zero"], conversions, value, nulls) for path, conversions, value, nulls in corpus] + [(["zero"], 0, 0, 3)]
    for game in "additive", "rate":
        options = {"game": game}
        load(plain)
        first = credits("cdi_shapley", options)
        load({case: corpus for case, (corpus, _) in renamed.items()})
        second = credits("cdi_shapley", options)
        check([(case, channel) for case, (_, swapped) in renamed.items() for channel in swapped
               if not near(second[case][swapped[channel]][0], first[case][channel][0], scale_of(plain[case]))],
              "%s game: symmetry, credit follows a channel under another name" % game)
    load(more)
    third = credits("cdi_shapley")
    load(plain)
    first = credits("cdi_shapley")
    load(merged)
    both = credits("cdi_shapley")
    check([(case, channel) for case in merged for channel in both[case]
           if not near(both[case][channel][0], first[case].get(channel, [0])[0] + third[case].get(channel, [0])[0],
                       scale_of(merged[case]))],
          "additivity: credit of two corpora together is the sum of both")
    load({case: [(path + ["null"] if path and rng.random() < 0.5 and not conversions else path, conversions, value, nulls)
                 for path, conversions, value, nulls in corpus] for case, corpus in plain.items()})
    check([(case, rows["null"]) for case, rows in credits("cdi_shapley").items() if "null" in rows and rows["null"][0] != 0],
          "null player: a channel without conversions has no credit in the additive game")
    # In the rate game a player is null if paths with it convert as those without.
    cases = {}
    for case in range(200):
        channels = "abc"[:rng.randint(1, 3)]
        cases[case] = []
        for mask in range(1, 2 ** len(channels)):
            path = [c for bit, c in enumerate(channels) if mask >> bit & 1]
            conversions, nulls = rng.randint(0, 6), rng.randint(0, 20)
            cases[case] += [(path, conversions, 0, nulls), (path + ["null"], 2 * conversions, 0, 2 * nulls)]
    load(cases)
    check([(case, rows["null"]) for case, rows in credits("cdi_shapley", {"game": "rate"}).items()
           if "null" not in rows or not near(rows["null"][0], 0, scale_of(cases[case]))],
          "null player: a channel that changes no rate has no credit in the rate game")


def published():
    """The example of towardsdatascience.com/data-driven-marketing-attribution-1a28d2e613a0, as its
    figures stand in github.com/tomgorb/misc, Data Driven Attribution.ipynb."""
    load({0: [(["F"], 0.2, 0, 0), (["O"], 0.1, 0, 0), (["L"], 0.17, 0, 0), (["O", "F"], 0.17, 0, 0),
              (["L", "F"], 0.3, 0, 0), (["O", "L"], 0, 0, 0), (["F", "O", "L"], 0.06, 0, 0)]})
    got = credits("cdi_shapley")[0]
    check([(c, got[c][0]) for c, credit in (("F", 0.455), ("O", 0.205), ("L", 0.34)) if not near(got[c][0], credit, 1)],
          "a published example: 0.455, 0.205, 0.34")

    from shapley_attribution import OrderedShapleyAttribution, SimplifiedShapleyAttribution
    cases = {}
    problems = []
    for case in range(60):
        corpus = [(rng.sample("abcdefg", rng.randint(1, 5)), 1, 0, 0) for _ in range(rng.randint(1, 60))]
        cases[case] = corpus
    load(cases)
    got = credits("cdi_shapley")
    places = collections.defaultdict(dict)
    for case, channel, position, conversions in db(
            "SELECT id, (c).channel, (c).\"position\", (c).conversions FROM (SELECT id, unnest(cdi_shapley_ordered(path, conversions, value, nulls)) AS c FROM cases GROUP BY id) x"):
        places[int(case)][channel, int(position)] = float(conversions)
    for case, corpus in cases.items():
        names = reference.channels_of(corpus)
        journeys = [[names.index(c) for c in path] for path, *_ in corpus]
        other = SimplifiedShapleyAttribution(normalize=False).fit(journeys).get_attribution()
        problems += [(case, c) for c in names if not near(got[case][c][0], other[names.index(c)], len(corpus))]
        other = OrderedShapleyAttribution(normalize=False).fit(journeys)
        for channel, by_position in other.position_attribution_.items():
            for position, credit in enumerate(by_position, 1):
                if not near(places[case].get((names[channel], position), 0), credit, len(corpus)):
                    problems.append((case, channel, position))
    check(problems, "shapley-attribution (PyPI) has the same values, ordered and not")


def sampling():
    """A game of 20 channels is exact; a channel in no set makes it 21, sampled, and changes nothing else."""
    names = ["c%02d" % n for n in range(20)]
    corpus = []
    for _ in range(1500):
        path = rng.sample(names, rng.choice([1, 1, 2, 3, 4, 6, 10]))
        corpus.append((path, rng.choice([0, 1, 3]), round(rng.uniform(-2, 30), 2), rng.choice([1, 5, 20])))
    load({0: corpus, 1: corpus + [(["nobody"], 0, 0, 0)]})
    exact = credits("cdi_shapley", {"game": "rate"})[0]
    columns = "channel, conversions, conversions_low, conversions_high, value, value_low, value_high"
    covered = {"conversions": 0, "value": 0}
    drawn = 0
    unequal = set()
    for seed in range(60):
        got = credits("cdi_shapley", {"game": "rate", "seed": seed, "permutations": 600, "error": 0}, columns=columns)[1]
        for channel in names:
            conversions, low, high, value, value_low, value_high = got[channel]
            covered["conversions"] += low <= exact[channel][0] <= high
            covered["value"] += value_low <= exact[channel][1] <= value_high
            unequal.add(conversions)
            drawn += 1
        if not near(math.fsum(figures[0] for figures in got.values()), sum(row[1] for row in corpus), scale_of(corpus)):
            unequal.clear()
    rates = {column: count / drawn for column, count in covered.items()}
    # 1200 intervals of 95 %, those of one seed not independent: 0.95 +- 5 standard deviations of about 0.01
    check([rates] if any(abs(rate - 0.95) > 0.03 for rate in rates.values()) or len(unequal) < 1000 else [],
          "error bars of sampled values cover the exact ones in %.1f %% and %.1f %% of %d cases, 95 %% nominal"
          % (100 * rates["conversions"], 100 * rates["value"], drawn))
    one, other = (credits("cdi_shapley", {"game": "rate", "seed": 7, "permutations": 100}, columns=columns) for _ in range(2))
    check(one == other, "the same seed draws the same permutations")
    total = sum(row[1] for row in corpus)
    got = credits("cdi_shapley", {"game": "rate", "permutations": 2000000, "error": 0.002}, columns=columns)[1]
    errors = [(got[c][2] - got[c][1]) / 2 / 1.96 / total for c in names]
    check(0.001 < max(errors) <= 0.0020001, "sampling stops at the error that is asked for")


def logistic():
    import statsmodels.api
    from sklearn.linear_model import LogisticRegression
    cases = {}
    while len(cases) < 60:
        corpus = [(path, conversions, value, nulls + 1) for path, conversions, value, nulls in a_corpus(6, whole=True)] + [(["a"], 3, 0, 4)]
        # Every set of channels converts and does not: no separation without a penalty.
        corpus += [(path, 1, 5, 1) for path, *_ in corpus]
        cases[len(cases)] = corpus
    load(cases)
    for counts in False, True:
        name = "counts" if counts else "presence"
        for ridge in 0.01, 1, 30:
            got = credits("cdi_logistic", {"ridge": ridge, "counts": counts})
            problems, credit_problems = [], []
            for case, corpus in cases.items():
                x, y, weights = reference.design(corpus, counts)
                model = LogisticRegression(C=1 / ridge, tol=1e-12, max_iter=100000, solver="newton-cholesky")
                model.fit(x, y, sample_weight=weights)
                wanted = dict(zip(reference.channels_of(corpus), model.coef_[0]))
                problems += [(case, c, got[case][c][2], wanted[c]) for c in wanted
                             if not near(got[case][c][2], wanted[c], 1, 1e-6)]
                shares = reference.logistic_credit(corpus, model.intercept_[0], wanted, counts)
                credit_problems += [(case, c, got[case][c], shares[c]) for c in wanted for i in (0, 1)
                                    if not near(got[case][c][i], shares[c][i], scale_of(corpus), 1e-6)]
            check(problems, "logistic, %s, ridge %s: coefficients are scikit-learn's" % (name, ridge))
            check(credit_problems, "logistic, %s, ridge %s: credit is in proportion to max(0, p - p without)" % (name, ridge))
    problems, compared = [], 0
    for case, corpus in cases.items():
        x, y, weights = reference.design(corpus, False)
        full = statsmodels.api.add_constant(x, has_constant="add")
        load({case: corpus}, "one")
        try:
            got = credits("cdi_logistic", {"ridge": 0}, "one")[case]
        except pq.Error as error:
            if numpy.linalg.matrix_rank(full) == full.shape[1]:
                problems.append((case, str(error)))
            continue
        fitted = statsmodels.api.GLM(y, full, family=statsmodels.api.families.Binomial(), freq_weights=weights).fit(tol=1e-13, maxiter=200)
        compared += 1
        problems += [(case, c, got[c][2], wanted) for c, wanted in zip(reference.channels_of(corpus), fitted.params[1:])
                     if not near(got[c][2], wanted, 1, 1e-6)]
    check(problems or [] if compared > 20 else ["%d compared" % compared],
          "logistic without a penalty: coefficients are statsmodels' (%d corpora), or the design is singular" % compared)


def hazard_cases(number):
    """Paths as the model makes them: each touch may lead to a conversion at an exponential time."""
    for case in range(number):
        channels = "abcd"[:rng.randint(1, 4)]
        strength = {c: rng.uniform(0.02, 0.8) for c in channels}
        rate = {c: 10 ** rng.uniform(-1, 0.7) for c in channels}
        timed = []
        for _ in range(rng.choice([40, 200])):
            horizon = rng.uniform(1, 30)
            path = [(rng.uniform(0, horizon), rng.choice(channels)) for _ in range(rng.choice([1, 1, 2, 3, 6]))]
            times = [t - math.log(rng.random()) / rate[c] for t, c in path if rng.random() < 1 - math.exp(-strength[c])]
            end = min(times + [horizon])
            seen = sorted((t, c) for t, c in path if t <= end)
            ages = [round((end - t) * 86400) for t, _ in seen]
            timed.append(([c for _, c in seen], [age / 86400 for age in ages], int(end < horizon),
                          round(rng.uniform(1, 90), 2) if end < horizon else 0, int(end >= horizon)))
        yield case, timed


def load_timed(cases):
    db("DROP TABLE IF EXISTS timed")
    db("CREATE TABLE timed (id int, path text[], ages interval[], conversions double precision, value double precision, nulls double precision)")
    rows = ["%d\t%s\t%s\t%r\t%r\t%r\n" % (case, array(path), array("%d s" % round(age * 86400) for age in ages), *rest)
            for case, timed in cases.items() for path, ages, *rest in timed]
    rng.shuffle(rows)
    db.copy("COPY timed FROM STDIN", ["".join(rows).encode()])


def hazards(options=None):
    """{case: {channel: (conversions, value, strength, lag in days)}}"""
    result = collections.defaultdict(dict)
    for row in db("SELECT id, c.channel, c.conversions, c.value, c.effect, extract(epoch FROM c.lag) / 86400"
                  " FROM (SELECT id, cdi_hazard(path, ages, conversions, value, nulls%s) AS r FROM timed GROUP BY id) x, unnest(r) c"
                  % (", '%s'" % json.dumps(options) if options else "")):
        result[int(row[0])][row[1]] = tuple(None if x is None else float(x) for x in row[2:])
    return result


def hazard():
    from scipy.optimize import minimize
    cases = dict(hazard_cases(40))
    load_timed(cases)

    def parameters(rows):
        used = {c: figures for c, figures in rows.items() if figures[3] is not None}
        return ({c: figures[2] or 0 for c, figures in rows.items()},
                {c: 1 / used[c][3] if c in used else 1 for c in rows})

    got = hazards({"iterations": 100000, "tolerance": 1e-13})
    lower, credit_problems, sum_problems = [], [], []
    for case, timed in cases.items():
        strength, rate = parameters(got[case])
        if not any(row[2] for row in timed):
            continue
        mine = reference.hazard_likelihood(timed, strength, rate)
        names = sorted({c for path, _, conversions, _, _ in timed if conversions for c in path})
        longest = max(age for _, ages, *_ in timed for age in ages)
        bounds = [(-30, 12)] * len(names) + [(math.log(1 / (10 * longest)), 12)] * len(names)

        def cost(x):
            others = {c: 0 for c in strength}
            one = {**others, **{c: math.exp(x[i]) for i, c in enumerate(names)}}
            two = {**{c: 1 for c in rate}, **{c: math.exp(x[len(names) + i]) for i, c in enumerate(names)}}
            return -reference.hazard_likelihood(timed, one, two)

        def start(perturbed):
            x = [math.log(max(strength[c], 1e-12)) for c in names] + [math.log(rate[c]) for c in names]
            x = [v + (rng.gauss(0, 1) if perturbed else 0) for v in x]
            return numpy.clip(x, [b[0] for b in bounds], [b[1] for b in bounds])
        # From the same point: is it a maximum?
        best = -minimize(cost, start(False), method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-14}).fun
        if best - mine > 1e-6 * (1 + abs(mine)):
            lower.append((case, mine, best, got[case]))
        shares = reference.hazard_credit(timed, strength, rate)
        credit_problems += [(case, c, got[case][c], shares[c]) for c in shares for i in (0, 1)
                            if not near(got[case][c][i], shares[c][i], 1 + sum(abs(r[3]) for r in timed), 1e-6)]
        for column, part in ((0, 2), (1, 3)):
            if not near(math.fsum(f[column] for f in got[case].values()), math.fsum(row[part] for row in timed),
                        1 + sum(abs(row[3]) for row in timed), 1e-12):
                sum_problems.append((case, column))
    check(lower, "hazard: the fit is a maximum of the likelihood by scipy's L-BFGS-B, 40 corpora")
    check(credit_problems, "hazard: credit is each touch's part of the hazard")
    check(sum_problems, "hazard: credits sum to conversions and value")

    falls, previous = [], {}
    for iterations in list(range(1, 25)) + [40, 80, 160]:
        for case, rows in hazards({"iterations": iterations}).items():
            if any(row[2] for row in cases[case]):
                likelihood = reference.hazard_likelihood(cases[case], *parameters(rows))
                if case in previous and likelihood < previous[case] - 1e-7 * (1 + abs(likelihood)):
                    falls.append((case, iterations, previous[case], likelihood))
                previous[case] = likelihood
    check(falls, "hazard: the likelihood does not fall from one iteration to the next")

    # Closed form: one touch of one channel per path, all seen long enough that decay is over.
    ages = [rng.randrange(1, 5 * 86400) / 86400 for _ in range(200)]
    load_timed({0: [(["a"], [age], 1, 2, 0) for age in ages] + [(["a"], [3000.0], 0, 0, 300)]})
    got = hazards({"tolerance": 1e-15, "iterations": 10000})[0]["a"]
    # 1 - exp(-rate * age) is not 1 for the converted: the equations of the maximum
    strength, rate = got[2], 1 / got[3]
    seen = sum(-math.expm1(-rate * age) for age in ages) + 300
    slope = 200 / rate - sum(ages) - strength * sum(age * math.exp(-rate * age) for age in ages)
    check([] if abs(strength - 200 / seen) < 1e-9 and abs(slope) < 1e-3 else [(strength, 200 / seen, slope)],
          "hazard: one channel, one touch, the equations of the maximum hold")


def order_and_plans():
    """The same to the last bit for any order of rows and any split among workers."""
    db("DROP TABLE IF EXISTS big")
    db("CREATE TABLE big (path text[], ages interval[], conversions double precision, value double precision, nulls double precision)")
    rows = []
    for _ in range(20000):
        path = [rng.choice("abcdefghijklmnopqrstuvwxyz"[:18]) for _ in range(rng.randint(0, 6))]
        ages = array("%d s" % rng.randrange(0, 9 * 86400) for _ in path)
        rows.append("%s\t%s\t%d\t%r\t%d\n" % (array(path), ages, rng.random() < 0.3, round(rng.uniform(0, 100), 2), rng.randint(0, 3)))
    for table, order in (("big", rows), ("big_shuffled", rng.sample(rows, len(rows)))):
        db("CREATE TABLE IF NOT EXISTS %s (LIKE big)" % table)
        db("TRUNCATE " + table)
        db.copy("COPY %s FROM STDIN" % table, ["".join(order).encode()])
        db("ANALYZE " + table)
    for call in ("cdi_shapley(path, conversions, value, nulls)",
                 "cdi_shapley(path, conversions, value, nulls, '{\"game\": \"rate\"}')",
                 "cdi_shapley_ordered(path, conversions, value, nulls)",
                 "cdi_logistic(path, conversions, value, nulls)",
                 "cdi_hazard(path, ages, conversions, value, nulls, '{\"iterations\": 20}')",
                 "cdi_shapley(path, conversions, value, nulls, '{\"bootstrap\": 20}')",
                 "cdi_shapley_ordered(path, conversions, value, nulls, '{\"bootstrap\": 20}')"):
        db("SET max_parallel_workers_per_gather = 0; SET extra_float_digits = 3")
        first = db("SELECT %s FROM big" % call)
        second = db("SELECT %s FROM big_shuffled" % call)
        db("SET max_parallel_workers_per_gather = 3; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
        plan = "\n".join(line for line, in db("EXPLAIN SELECT %s FROM big_shuffled" % call))
        third = db("SELECT %s FROM big_shuffled" % call)
        check([call] if first != second or first != third or "Partial Aggregate" not in plan else [],
              "neither order of rows nor a parallel plan changes a bit of %s" % call.split("(")[0])
    db("RESET ALL")


def markov_by_removal(paths):
    """[(path, conversions, nulls)] -> what each channel is credited with by a chain of order 1, solved by numpy."""
    names = sorted({touch for path, _, _ in paths for touch in path})
    number = {name: i + 1 for i, name in enumerate(names)}      # 0 is the start
    chances = numpy.zeros((len(names) + 1, len(names) + 1))
    paid, total, conversions = numpy.zeros(len(names) + 1), numpy.zeros(len(names) + 1), 0
    for path, converted, null in paths:
        at = 0
        for touch in path:
            chances[at, number[touch]] += converted + null
            total[at] += converted + null
            at = number[touch]
        total[at] += converted + null
        paid[at] += converted
        conversions += converted
    total[total == 0] = 1
    chances, paid = chances / total[:, None], paid / total

    def earned(removed):
        keep = [i for i in range(len(names) + 1) if i != removed]
        return numpy.linalg.solve(numpy.eye(len(keep)) - chances[numpy.ix_(keep, keep)], paid[keep])[0]
    effects = {name: 1 - earned(i) / earned(None) for name, i in number.items()}
    return {name: conversions * effect / sum(effects.values()) for name, effect in effects.items()}


def many_channels():
    """So many that removals share an elimination; among them one in a thousand touches, and one that never converts."""
    names = ["c%d" % i for i in range(250)]
    paths = [([rng.choice(names) for _ in range(rng.randint(1, 6))], rng.choice([0, 0, 0, 1, 3]), rng.choice([0, 1, 8])) for _ in range(6000)]
    paths += [(["rare", rng.choice(names)], 1, 0), (["idle"], 0, 3), (["unused"], 0, 0)]
    load({0: [(path, conversions, -2 * conversions, nulls) for path, conversions, nulls in paths]})
    wanted = markov_by_removal(paths)
    got = credits("cdi_markov")[0]
    problems = [(c, got.get(c), wanted[c]) for c in wanted if c not in got or abs(got[c][0] - wanted[c]) > 1e-9 * wanted[c] + 1e-11
                or abs(got[c][1] + 2 * wanted[c]) > 2e-9 * wanted[c] + 1e-11]
    check(problems, "removal effects of %d channels are those of numpy's solution without each, to 1e-9" % len(wanted))


def intervals():
    """Bounds of the report and of ordered Shapley values against numpy's own resampling and percentiles."""
    people, touches, conversions = 400, [], []
    journeys = []       # per person: path, ages in days, value or None
    for person in range(people):
        path = rng.sample("abcd", rng.choice([2, 2, 3])) if rng.random() < 0.9 else [rng.choice("abcd")]
        value = rng.choice([5, 10, 40]) if rng.random() < (0.7 if "a" in path else 0.4) else None
        journeys.append((path, value))
        for i, channel in enumerate(path):
            touches.append("%032x\t2026-01-%02d\t%s\n" % (person, 1 + i, channel))
        if value is not None:
            conversions.append("%032x\tsale\t2026-01-08\t%d\n" % (person, value))
    db("DROP SCHEMA IF EXISTS boot CASCADE; CREATE SCHEMA boot; CREATE TABLE boot.touches (person_id uuid, touched_at timestamptz, channel text);"
       " CREATE TABLE boot.conversions (person_id uuid, conversion text, converted_at timestamptz, value numeric)")
    db.copy("COPY boot.touches FROM STDIN", ["".join(touches).encode()])
    db.copy("COPY boot.conversions FROM STDIN", ["".join(conversions).encode()])
    replicates = 3000
    got = {}
    for model, dimension, *bounds in db(
            "SELECT model, dimension[1], conversions_low, conversions_high, value_low, value_high FROM cdi_attribution_report('{linear,time_decay,markov}', lookback => '30 days',"
            " parameters => '{\"touchpoints\": \"boot.touches\", \"conversion_events\": \"boot.conversions\", \"bootstrap\": %d, \"confidence\": 0.9, \"seed\": %d}')" % (replicates, SEED)):
        got[model, dimension] = [float(bound) for bound in bounds]
    draws = numpy.random.default_rng(SEED)

    def far(name, mine, figures, step=0):
        """Percentiles of the two samples differ by their own error, in units of the figures' spread, and by the step between figures."""
        spread = numpy.std(figures) + 1e-9
        wanted = numpy.percentile(figures, [5, 95])
        return [(name, mine, list(wanted))] if max(abs(mine - wanted)) > 0.25 * spread + step else []

    converted = [(path, value) for path, value in journeys if value is not None]
    problems = []
    for model, weight in (("linear", lambda age: 1), ("time_decay", lambda age: 2 ** (-age / 7))):
        shares = numpy.zeros((len(converted), 4))
        for row, (path, _) in enumerate(converted):
            weights = [weight(7 - i) for i in range(len(path))]
            for channel, part in zip(path, weights):
                shares[row]["abcd".index(channel)] += part / sum(weights)
        counts = draws.multinomial(len(converted), [1 / len(converted)] * len(converted), replicates)
        values = numpy.array([value for _, value in converted])
        for i, channel in enumerate("abcd"):
            problems += far((model, channel, "conversions"), got[model, channel][:2], counts @ shares[:, i])
            problems += far((model, channel, "value"), got[model, channel][2:], counts @ (shares[:, i] * values))
    check(problems, "intervals of rules are those of conversions drawn by numpy")

    kinds = collections.Counter((tuple(path), value is not None) for path, value in journeys)
    keys = list(kinds)
    figures = {channel: [] for channel in "abcd"}
    for counts in draws.multinomial(people, [kinds[key] / people for key in keys], replicates):
        credit = markov_by_removal([(path, int(n) if led else 0, 0 if led else int(n)) for (path, led), n in zip(keys, counts)])
        for channel in "abcd":
            figures[channel].append(credit[channel])
    problems = [p for channel in "abcd" for p in far(("markov", channel), got["markov", channel][:2], figures[channel])]
    check(problems, "intervals of removal effects are those of paths drawn by numpy and solved by it")

    load({0: [(list(path), n, 0, 0) for (path, led), n in kinds.items() if led]})
    got = {(channel, int(position)): (float(low), float(high)) for channel, position, low, high in db(
        "SELECT channel, \"position\", conversions_low, conversions_high FROM unnest((SELECT cdi_shapley_ordered(path, conversions, value, nulls,"
        " '{\"bootstrap\": %d, \"confidence\": 0.9}') FROM cases))" % replicates)}
    paths = [(path, n) for (path, led), n in kinds.items() if led]
    figures = collections.defaultdict(lambda: numpy.zeros(replicates))
    counts = draws.multinomial(len(converted), [n / len(converted) for _, n in paths], replicates)
    for column, (path, _) in enumerate(paths):
        for i, channel in enumerate(path):
            figures[channel, i + 1] += counts[:, column] / len(path)
    problems = [p for place, drawn in figures.items() for p in far(place, got[place], drawn, 1 / place[1] if place[1] > 1 else 0.5)] + sorted(set(got) ^ set(figures))
    check(problems, "intervals of ordered Shapley values are those of paths drawn by numpy")


for part in (shapley_by_definition, sums, axioms, published, sampling, logistic, hazard, many_channels, intervals, order_and_plans):
    part()
print("1..%d" % tests)
sys.exit(1 if failed else 0)
