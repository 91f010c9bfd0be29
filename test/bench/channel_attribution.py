"""ChannelAttribution and an exact solution on the same paths, as JSON.

    channel_attribution.py simulate|solve ORDER < paths

Lines of paths: touches joined by " > ", conversions, value and nulls, separated
by tabs.  Seconds are those of the model alone, without reading its input.
"""
import json
import sys
import time

import numpy
import pandas
import scipy.sparse
import scipy.sparse.linalg


def simulate(paths, order):
    """Its defaults but for the order."""
    import ChannelAttribution
    started = time.perf_counter()
    result = ChannelAttribution.markov_model(paths, "path", "conversions", var_value="value", var_null="nulls", order=order,
                                             verbose=False, flg_pro=False)
    return time.perf_counter() - started, dict(zip(result.channel_name, result.total_conversions))


def solve(paths, order):
    """By LU factorisation, one per channel: states with the channel lead to nothing."""
    started = time.perf_counter()
    states, transitions, ends = {"start": 0}, {}, {}
    for path, conversions, nulls in zip(paths.path, paths.conversions, paths.nulls):
        touches = path.split(" > ")
        width = min(order, len(touches))
        before = 0
        for i in range(len(touches) - width + 1):
            state = states.setdefault(tuple(touches[i:i + width]), len(states))
            transitions[before, state] = transitions.get((before, state), 0) + conversions + nulls
            before = state
        end = ends.setdefault(before, [0, 0])
        end[0] += conversions
        end[1] += conversions + nulls
    n = len(states)
    total = numpy.zeros(n)
    converted = numpy.zeros(n)
    for (before, _), count in transitions.items():
        total[before] += count
    for state, (conversions, count) in ends.items():
        total[state] += count
        converted[state] = conversions
    pairs = numpy.array(list(transitions))
    chances = numpy.array(list(transitions.values())) / total[pairs[:, 0]]
    channels = sorted({touch for state in states if state != "start" for touch in state})

    def start_converts(removed=None):
        alive = numpy.array([state == "start" or removed not in state for state in states], dtype=float)
        matrix = scipy.sparse.csc_matrix((chances * alive[pairs[:, 0]], (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        return scipy.sparse.linalg.spsolve(scipy.sparse.identity(n, format="csc") - matrix, converted / total * alive)[0]

    everything = start_converts()
    effects = {channel: 1 - start_converts(channel) / everything for channel in channels}
    credit = {channel: effect / sum(effects.values()) * float(paths.conversions.sum()) for channel, effect in effects.items()}
    return time.perf_counter() - started, credit


def main():
    how, order = sys.argv[1], int(sys.argv[2])
    paths = pandas.read_csv(sys.stdin, sep="\t", names=["path", "conversions", "value", "nulls"])
    seconds, credit = {"simulate": simulate, "solve": solve}[how](paths, order)
    json.dump({"seconds": seconds, "credit": {channel: float(number) for channel, number in credit.items()}}, sys.stdout)


main()
