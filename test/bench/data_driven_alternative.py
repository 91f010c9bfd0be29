"""The rate game by numpy and the logistic model by scikit-learn, on rows in memory.

Reads rows (JSON: path, conversions, nulls) from the first line; then for each
further line, "shapley" or "logistic", prints seconds and the figures as JSON.
Runs with the packages of test/integration/data_driven.
"""
import json
import sys
import time

import numpy
from sklearn.linear_model import LogisticRegression


def shapley(rows, channels):
    n = len(channels)
    number = {channel: bit for bit, channel in enumerate(channels)}
    conversions, paths = numpy.zeros(2 ** n), numpy.zeros(2 ** n)
    for path, converted, nulls in rows:
        mask = 0
        for channel in path:
            mask |= 1 << number[channel]
        conversions[mask] += converted
        paths[mask] += converted + nulls
    sizes = numpy.zeros(2 ** n, int)
    for bit in range(n):
        for sums in conversions, paths:
            halves = sums.reshape(-1, 2, 2 ** bit)
            halves[:, 1, :] += halves[:, 0, :]
        sizes.reshape(-1, 2, 2 ** bit)[:, 1, :] += 1
    rate = numpy.divide(conversions, paths, out=numpy.zeros(2 ** n), where=paths > 0)
    weights = numpy.full(n, 1 / n)
    for s in range(1, n):
        weights[s] = weights[s - 1] * s / (n - s)
    values = {}
    for bit, channel in enumerate(channels):
        halves = rate.reshape(-1, 2, 2 ** bit)
        without = sizes.reshape(-1, 2, 2 ** bit)[:, 0, :]
        values[channel] = float((weights[without] * (halves[:, 1, :] - halves[:, 0, :])).sum())
    return values


def logistic(rows, channels):
    number = {channel: column for column, channel in enumerate(channels)}
    x = numpy.zeros((2 * len(rows), len(channels)))
    for row, (path, _, _) in enumerate(rows):
        for channel in path:
            x[2 * row:2 * row + 2, number[channel]] = 1
    weights = numpy.array([weight for _, converted, nulls in rows for weight in (converted, nulls)], float)
    y = numpy.tile([1, 0], len(rows))
    model = LogisticRegression(C=1, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(x, y, sample_weight=weights)
    return dict(zip(channels, map(float, model.coef_[0])))


def main():
    rows = json.loads(sys.stdin.readline())
    channels = sorted({channel for path, *_ in rows for channel in path})
    for line in sys.stdin:
        start = time.perf_counter()
        figures = {"shapley": shapley, "logistic": logistic}[line.strip()](rows, channels)
        print(json.dumps([time.perf_counter() - start, figures]), flush=True)


main()
