"""Trains the value of `Learned` by evolution on generated streams, no gradient needed.

    python -m rltune.mig.online.training out.json [--seconds 600] [--seed 1000] [--start weights.json]

What is minimised is what counts: the peak of provisioned GPUs over the lower bound, mean over fresh streams of both
published kinds (a random walk, and about 60 live). CMA-ES (Hansen 2016, the library `cma`) walks the
logarithms of the weights; candidates of one generation see the same streams.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import cma
import numpy as np

from rltune.compiled import kernel
from rltune.mig.geometry import geometry
from rltune.mig.online.bounds import dual_weights
from rltune.mig.online.events import KINDS
from rltune.mig.online.states import VALUED, Floats, Ints, state_table
from rltune.mig.online.value import N_SLOTS, Weights, features

MODEL = "A100-80GB"
LENGTH = 2000
"""Events of a stream, as in the published workloads."""
LIVE = (0.0, 60.0)
"""The two kinds of stream: a random walk, and one kept about 60 live."""
MOST_GPUS = 512
STEP = 0.4
"""First standard deviation of the logarithms."""
SLOTS = tuple(i + j * len(VALUED) for j in range(2) for i, kind in enumerate(VALUED) if kind in KINDS)
"""Features that move in training: soft and hard slots of the plain kinds."""


class Tables(NamedTuple):
    """``after`` (n_states, n_kinds, most) target of each creation, -1: no more; ``start`` its slice;
    ``before`` (n_states, n_kinds, slices) the state without an instance of a kind at a slice."""

    after: Ints
    start: Ints
    before: Ints


class Value(NamedTuple):
    """The value policy: ``phi`` (n_states, n_features), ``weight`` and ``tau`` (n_features,)."""

    phi: Floats
    weight: Floats
    tau: Floats


class Scratch(NamedTuple):
    """``state`` (MOST_GPUS,), ``seen`` (n_states,), ``where`` (3, n) GPU, kind and slice of each tenant, ``total`` and
    ``price`` (n_features,)."""

    state: Ints
    seen: Ints
    where: Ints
    total: Floats
    price: Floats


def tables() -> Tables:
    """The transitions of the plain kinds as dense arrays."""
    table = state_table(geometry(MODEL), KINDS)
    n = len(table.states)
    after, start = np.full((n, len(KINDS), 9), -1, np.int64), np.zeros((n, len(KINDS), 9), np.int64)
    before = np.full((n, len(KINDS), 8), -1, np.int64)
    for k, kind in enumerate(KINDS):
        creations = table.transitions[table.geometry.profile(kind)]
        filled = np.zeros(n, np.int64)
        for source, target, at in zip(creations.source, creations.target, creations.start, strict=True):
            after[source, k, filled[source]], start[source, k, filled[source]] = target, at
            before[target, k, at] = source
            filled[source] += 1
    return Tables(after, start, before)


@kernel
def draw_stream(uniform, live, kind, tenant, alive):
    """Fill ``kind`` (n,; -1: release) and ``tenant`` (n,) from uniform draws (n, 2); ``alive`` (n,) is scratch."""
    here, number = 0, 0
    for i in range(len(kind)):
        chance = 0.5 if live <= 0 else 1.0 - here / (2.0 * live)
        if here == 0 or uniform[i, 0] < chance:
            kind[i], tenant[i], alive[here] = int(uniform[i, 1] * 5), number, number
            here, number = here + 1, number + 1
        else:
            at = int(uniform[i, 1] * here)
            kind[i], tenant[i] = -1, alive[at]
            here -= 1
            alive[at] = alive[here]


@kernel
def bound_of(kind, tenant, dual, kind_of, live):
    """The lower bound of a stream; ``dual`` (n_weights, 5); ``kind_of`` (n,) and ``live`` (5,) are scratch."""
    live[:] = 0
    best = 0.0
    for i in range(len(kind)):
        if kind[i] >= 0:
            kind_of[tenant[i]] = kind[i]
            live[kind[i]] += 1
        else:
            live[kind_of[tenant[i]]] -= 1
        for w in range(len(dual)):
            needed = 0.0
            for k in range(5):
                needed += dual[w, k] * live[k]
            best = max(best, np.ceil(needed - 1e-6))
    return best


@kernel
def peak_of(kind, tenant, tables, value, scratch):
    """GPUs that the value policy provisions on a stream (`draw_stream`), as `Fleet` would."""
    phi, weight, tau = value
    state, seen, where, total, price = scratch
    gpus = 0
    total[:] = 0
    seen[:] = -1
    for i in range(len(kind)):
        k, u = kind[i], tenant[i]
        if k < 0:
            g = where[0, u]
            old = state[g]
            new = tables.before[old, where[1, u], where[2, u]]
            state[g] = new
            for f in range(len(total)):
                total[f] += phi[new, f] - phi[old, f]
            continue
        for f in range(len(total)):
            price[f] = weight[f] * np.exp(-tau[f] * total[f] / max(gpus, 1))
        best, best_gpu, best_at = -np.inf, -1, -1
        for g in range(gpus + 1):
            if g == gpus:
                if best_gpu >= 0 or gpus == MOST_GPUS:
                    break
                gpus += 1
                state[g] = 0
                for f in range(len(total)):
                    total[f] += phi[0, f]
            s = state[g]
            if seen[s] == i or tables.after[s, k, 0] < 0:
                continue
            seen[s] = i
            was = 0.0
            for f in range(len(total)):
                was += price[f] * phi[s, f]
            at = 0
            while tables.after[s, k, at] >= 0:
                t = tables.after[s, k, at]
                gain = -was
                for f in range(len(total)):
                    gain += price[f] * phi[t, f]
                if gain > best + 1e-9:
                    best, best_gpu, best_at = gain, g, at
                at += 1
        old = state[best_gpu]
        new = tables.after[old, k, best_at]
        for f in range(len(total)):
            total[f] += phi[new, f] - phi[old, f]
        state[best_gpu] = new
        where[0, u], where[1, u], where[2, u] = best_gpu, k, tables.start[old, k, best_at]
    return gpus


class Problem:
    """Mean peak over bound of weights on a set of streams."""

    def __init__(self) -> None:
        self.tables = tables()
        self.states = state_table(geometry(MODEL), KINDS)
        self.dual = np.ascontiguousarray(
            dual_weights((self.states.geometry,))[:, [VALUED.index(kind) for kind in KINDS]]
        )
        n = len(self.states.states)
        self.scratch = Scratch(
            np.zeros(MOST_GPUS, np.int64),
            np.zeros(n, np.int64),
            np.zeros((3, LENGTH), np.int64),
            np.zeros(N_SLOTS + 2),
            np.zeros(N_SLOTS + 2),
        )

    def streams(self, seed: int, count: int) -> list[tuple[Ints, Ints, float]]:
        """``count`` streams of alternating kinds, each with its bound."""
        found = []
        for number in range(count):
            uniform = np.random.default_rng(seed + number).random((LENGTH, 2))
            kind, tenant, spare = (np.zeros(LENGTH, np.int64) for _ in range(3))
            draw_stream(uniform, LIVE[number % 2], kind, tenant, spare)
            found.append((kind, tenant, bound_of(kind, tenant, self.dual, spare, np.zeros(5))))
        return found

    def cost(self, weights: Weights, streams: list[tuple[Ints, Ints, float]]) -> Floats:
        """(2,) sum of peaks over sum of bounds for each kind of stream."""
        phi = np.ascontiguousarray(features(self.states, weights.reach))
        value = Value(phi, np.array(weights.weight), np.array([*weights.tau, 0.0, 0.0]))
        peaks = [peak_of(k, t, self.tables, value, self.scratch) for k, t, _ in streams]
        bounds = [bound for _, _, bound in streams]
        return np.array([sum(peaks[i::2]) / sum(bounds[i::2]) for i in range(2)])


def as_weights(x: Floats, trained_on: dict[str, object]) -> Weights:
    """A point of the search: logarithms of slots' weights, of the waste's, the instances' weight, logits of the plain
    kinds' reach, logarithms of tau."""
    n, m = len(SLOTS), len(KINDS)
    weight, tau, reach = np.full(N_SLOTS + 2, 0.0), np.zeros(N_SLOTS), np.zeros(len(VALUED))
    weight[list(SLOTS)] = np.exp(x[:n])
    weight[N_SLOTS:] = -np.exp(x[n]), x[n + 1]
    reach[list(SLOTS[:m])] = 1 / (1 + np.exp(-x[n + 2 : n + 2 + m]))
    tau[list(SLOTS)] = np.exp(x[n + 2 + m :])
    rounded = [tuple(np.round(part, 6).tolist()) for part in (weight, tau, reach)]
    return Weights(rounded[0], rounded[1], rounded[2], trained_on)


def as_point(weights: Weights) -> Floats:
    """The inverse of `as_weights`."""
    n, m, slots = len(SLOTS), len(KINDS), list(SLOTS)
    weight, tau, reach = np.array(weights.weight), np.array(weights.tau), np.array(weights.reach)[slots[:m]]
    reach = np.clip(reach, 1e-4, 1 - 1e-4)
    parts = [np.log(np.maximum(weight[slots], 1e-6)), [np.log(max(-weight[N_SLOTS], 1e-6)), weight[N_SLOTS + 1]]]
    return np.concatenate([*parts, np.log(reach / (1 - reach)), np.log(np.maximum(tau[slots], 1e-6))])[: 2 * n + 2 + m]


def first_guess() -> Weights:
    """Slots worth the compute slices they take; little curvature."""
    share = np.array([7, 4, 3, 2, 0, 1] * 2) / 20
    return Weights((*share, -0.1, 0.0), tuple([2.0] * N_SLOTS), (0.3,) * len(VALUED), {})


def train(seconds: float, seed: int, start: Weights, population: int = 22, streams: int = 400) -> Weights:
    """The mean of the search after a time; every generation has new streams, from ``seed`` upwards."""
    problem, begin = Problem(), time.monotonic()
    # The library takes seed 0 for the clock; nothing but the time ends a noisy search.
    options = {"popsize": population, "seed": seed + 1, "verbose": -9}
    search = cma.CMAEvolutionStrategy(as_point(start), STEP, options)
    while time.monotonic() - begin < seconds:
        fresh = problem.streams(seed + search.countiter * streams, streams)
        points = search.ask()
        search.tell(points, [problem.cost(as_weights(point, {}), fresh).sum() for point in points])
    trained_on = {
        "gpu": MODEL,
        "streams": f"generated, even mix of {', '.join(KINDS)}; random walk and about 60 live in turn",
        "seeds": [seed, seed + search.countiter * streams],
        "generations": search.countiter,
        "population": population,
    }
    return as_weights(search.mean, trained_on)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--start")
    options = parser.parse_args()
    start = Weights.load(options.start) if options.start else first_guess()
    train(options.seconds, options.seed, start).save(options.out)


if __name__ == "__main__":
    main()
