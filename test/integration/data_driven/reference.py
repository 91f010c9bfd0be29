"""The definitions of the models, computed the long way.

A corpus is a list of (path, conversions, value, nulls); Shapley values are
fractions, over all orders of the channels or over all subsets.
"""
import collections
import itertools
import math
from fractions import Fraction

import numpy

MIN_AGE = 1 / 86400


def channels_of(corpus):
    return sorted({channel for path, *_ in corpus for channel in path})


def worth(corpus, game, column, subset):
    """v(S): column is 1 for conversions, 2 for value."""
    inside = [row for row in corpus if row[0] and set(row[0]) <= subset]
    total = sum((Fraction(row[column]) for row in inside), Fraction(0))
    if game == "additive":
        return total
    paths = sum((Fraction(row[1]) + Fraction(row[3]) for row in inside), Fraction(0))
    return total / paths if paths else Fraction(0)


class Game:
    def __init__(self, corpus, game, column):
        self.channels = channels_of(corpus)
        self.v = {frozenset(subset): worth(corpus, game, column, set(subset))
                  for size in range(len(self.channels) + 1)
                  for subset in itertools.combinations(self.channels, size)}
        self.v[frozenset()] = Fraction(0)

    def by_orders(self):
        credit = collections.defaultdict(Fraction)
        orders = list(itertools.permutations(self.channels))
        for order in orders:
            for place, channel in enumerate(order):
                credit[channel] += self.v[frozenset(order[:place + 1])] - self.v[frozenset(order[:place])]
        return {channel: credit[channel] / len(orders) for channel in self.channels}

    def by_subsets(self):
        n = len(self.channels)
        credit = {}
        for channel in self.channels:
            credit[channel] = sum((
                Fraction(math.factorial(len(s)) * math.factorial(n - len(s) - 1), math.factorial(n))
                * (self.v[s | {channel}] - self.v[s]) for s in self.v if channel not in s), Fraction(0))
        return credit


def shapley(corpus, game, orders):
    """{channel: (conversions, value, effect)}"""
    paths = sum(Fraction(row[1]) + Fraction(row[3]) for row in corpus if row[0])
    parts = [Game(corpus, game, column) for column in (1, 2)]
    conversions, value = (part.by_orders() if orders else part.by_subsets() for part in parts)
    if game == "additive":
        return {c: (conversions[c], value[c], None) for c in conversions}
    return {c: (conversions[c] * paths, value[c] * paths, conversions[c]) for c in conversions}


def ordered(corpus):
    """{(channel, position): (conversions, value)}"""
    credit = collections.defaultdict(lambda: [Fraction(0), Fraction(0)])
    for path, conversions, value, _ in corpus:
        unique = list(dict.fromkeys(path))
        for position, channel in enumerate(unique, 1):
            credit[channel, position][0] += Fraction(conversions) / len(unique)
            credit[channel, position][1] += Fraction(value) / len(unique)
    return {key: tuple(sums) for key, sums in credit.items()}


def unique_linear(corpus):
    """Each path's conversions shared equally by its channels."""
    credit = collections.defaultdict(Fraction)
    for path, conversions, *_ in corpus:
        for channel in set(path):
            credit[channel] += Fraction(conversions) / len(set(path))
    return credit


def design(corpus, counts):
    """Rows of a regression, one per path and outcome: x, whether converted, weight."""
    channels = channels_of(corpus)
    x, y, weights = [], [], []
    for path, conversions, _, nulls in corpus:
        row = [path.count(channel) if counts else int(channel in path) for channel in channels]
        for outcome, weight in ((1, conversions), (0, nulls)):
            if weight:
                x.append(row)
                y.append(outcome)
                weights.append(weight)
    return numpy.array(x, float), numpy.array(y), numpy.array(weights, float)


def logistic_credit(corpus, intercept, coefficients, counts):
    """{channel: (conversions, value)} for a fitted model; a coefficient that is 0 but for rounding is 0."""
    coefficients = {c: b if abs(b) > 1e-9 else 0 for c, b in coefficients.items()}
    channels = channels_of(corpus)
    credit = {channel: [0.0, 0.0] for channel in channels}

    def p(path):
        odds = intercept + sum(coefficients[c] * (path.count(c) if counts else c in path) for c in channels)
        return 1 / (1 + math.exp(-odds))
    for path, conversions, value, _ in corpus:
        if not path:
            continue
        loss = {c: max(0.0, p(path) - p([x for x in path if x != c])) for c in set(path)}
        total = sum(loss.values())
        for c in loss:
            share = loss[c] / total if total else 1 / len(loss)
            credit[c][0] += share * conversions
            credit[c][1] += share * value
    return {c: tuple(sums) for c, sums in credit.items()}


def hazard_likelihood(timed, strength, rate):
    """timed: (path, ages, conversions, value, nulls)"""
    result = 0.0
    for path, ages, conversions, _, nulls in timed:
        ages = [max(age, MIN_AGE) for age in ages]
        if conversions:
            result += conversions * math.log(sum(
                strength[c] * rate[c] * math.exp(-rate[c] * age) for c, age in zip(path, ages)))
        result -= (conversions + nulls) * sum(
            strength[c] * -math.expm1(-rate[c] * age) for c, age in zip(path, ages))
    return result


def hazard_credit(timed, strength, rate):
    credit = collections.defaultdict(lambda: [0.0, 0.0])
    for path, ages, conversions, value, _ in timed:
        if not conversions:
            continue
        parts = [strength[c] * rate[c] * math.exp(-rate[c] * max(age, MIN_AGE)) for c, age in zip(path, ages)]
        for c, part in zip(path, parts):
            credit[c][0] += conversions * part / sum(parts)
            credit[c][1] += value * part / sum(parts)
    return credit
