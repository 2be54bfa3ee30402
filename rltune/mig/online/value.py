"""Policies that look ahead: a concave value of what a whole fleet can still host.

Features of a state: for each kind its *soft* slots (a placement blocked by b instances counts ``reach ** b``, since
tenants leave one at a time), its *hard* slots (free now), compute slices it wastes, instances it holds. A fleet has their
sum over GPUs; the value is concave in each sum, so the tenth empty GPU is worth less than the first. Placing an instance
changes the sums by little, so its gain is the price of each feature (the derivative) times the change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from rltune.mig.online.policies import Scorer, View
from rltune.mig.online.states import VALUED, Floats, StateTable, Transitions
from rltune.nouns.errors import InputError

N_SLOTS = 2 * len(VALUED)
N_FEATURES = N_SLOTS + 2
TRAINED = Path(__file__).with_name("trained.json")
FORMAT = "rltune-fleet-value-1"
COMPUTE_SHARE = np.array([7, 4, 3, 2, 1, 1]) / 7
"""Compute slices of each of ``VALUED``, as a share of a GPU of seven."""


@cache
def features(table: StateTable, reach: tuple[float, ...]) -> Floats:
    """(n_states, N_FEATURES): soft slots, hard slots, wasted compute slices, instances."""
    soft = np.stack([(r**blocked).sum(1) for r, blocked in zip(reach, table.blocked, strict=True)], axis=1)
    columns = [soft, table.slots, table.wasted[:, None], table.instances[:, None]]
    found = np.concatenate(columns, axis=1).astype(float)
    found.setflags(write=False)
    return found


def per_gpu(view: View, reach: tuple[float, ...]) -> Floats:
    """(N_FEATURES,) sum of features over a fleet, divided by its GPUs."""
    total = np.zeros(N_FEATURES)
    for table, counts in view.counts.items():
        total += counts @ features(table, reach)
    return total / max(view.gpus, 1)


def _priced(prices: Floats, reach: tuple[float, ...]) -> Scorer:
    def score(table: StateTable, rows: Transitions) -> Floats:
        worth = features(table, reach) @ prices
        return np.asarray(worth[rows.target] - worth[rows.source])

    return score


class LookAhead:
    """Values a slot by the chance that the coming requests, of the recent mix, will want it.

    A kind with share m and c slots in the fleet (soft and hard averaged) is worth E[min(D, c)] times the share of a GPU
    it takes, D Poisson with mean ``horizon`` * m per GPU; the price is the derivative, P(D > c).
    Nothing is trained: it follows a change of demand within the demand estimate's half-life. ``horizon`` and ``reach``
    were chosen on generated sequences.
    """

    def __init__(self, horizon: float = 4.0, reach: float = 0.3) -> None:
        self.horizon, self.reach = horizon, (reach,) * len(VALUED)

    def scorer(self, view: View) -> Scorer:
        prices = np.zeros(N_FEATURES)
        slots = per_gpu(view, self.reach)[:N_SLOTS] * view.gpus
        mean = self.horizon * view.gpus * np.maximum(np.tile(view.mix, 2), 1e-9)
        # The incomplete gamma function is P(Poisson(mean) > c), and defined between whole numbers too.
        prices[:N_SLOTS] = special.gammainc(slots + 1.0, mean) * np.tile(COMPUTE_SHARE, 2)
        return _priced(prices, self.reach)

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        pass


@dataclass(frozen=True)
class Weights:
    """A trained value: ``weight`` (N_FEATURES,), ``tau`` (N_SLOTS,) curvature per slot and GPU, ``reach`` of each kind.

    ``trained_on`` says how it came about.
    """

    weight: tuple[float, ...]
    tau: tuple[float, ...]
    reach: tuple[float, ...]
    trained_on: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values with the format's name."""
        slots = {"weight": list(self.weight), "tau": list(self.tau), "reach": list(self.reach)}
        return {"format": FORMAT, "kinds": list(VALUED), **slots, "trained_on": dict(self.trained_on)}

    @staticmethod
    def from_json(read: Any, where: str) -> Weights:
        """What `as_json` gave; InputError, beginning with ``where``, for anything else."""
        try:
            weight, tau, reach = (tuple(map(float, read[name])) for name in ("weight", "tau", "reach"))
            found = Weights(weight, tau, reach, dict(read["trained_on"]))
            legal = read["format"] == FORMAT and tuple(read["kinds"]) == VALUED
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: no placement weights ({error!r}); write them with `Weights.save`") from None
        if not legal or (len(found.weight), len(found.tau), len(found.reach)) != (N_FEATURES, N_SLOTS, len(VALUED)):
            raise InputError(
                f"{where}: weights of another format; wanted are {FORMAT} for the kinds {', '.join(VALUED)}"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(self.as_json(), indent=1) + "\n")

    @staticmethod
    def load(path: str | Path = TRAINED) -> Weights:
        """Read what `save` wrote; InputError otherwise."""
        try:
            return Weights.from_json(json.loads(Path(path).read_text()), str(path))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: cannot be read as placement weights ({error})") from None


class Learned:
    """A value trained on generated sequences (`rltune.mig.online.training`), which may go on learning in service.

    ``learn``: after each creation the weights take a step of semi-gradient TD(0) towards predicting provisioned GPUs,
    discounted by ``discount`` a request; each stays within a factor of four of what was trained.
    """

    def __init__(self, weights: Weights, learn: bool = False, step: float = 0.02, discount: float = 0.99) -> None:
        self.weights, self.learn, self.step, self.discount = weights, learn, step, discount
        self.trained = np.array(weights.weight)
        self.weight = self.trained.copy()
        self.tau = np.array(weights.tau)
        self.offset = 0.0

    def scorer(self, view: View) -> Scorer:
        prices = self.weight.copy()
        prices[:N_SLOTS] *= np.exp(-self.tau * per_gpu(view, self.weights.reach)[:N_SLOTS])
        return _priced(prices, self.weights.reach)

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        if not self.learn:
            return
        was, now = self._availability(before), self._availability(after)
        error = float(provisioned) + self.discount * self._cost(now) - self._cost(was)
        slots = self.weight[:N_SLOTS]
        # A step in the logarithm: weights keep their sign, and their scale does not matter.
        slots *= np.exp(-self.step * error * was)
        np.clip(slots, self.trained[:N_SLOTS] / 4, self.trained[:N_SLOTS] * 4, out=slots)
        self.offset += self.step * error

    def _availability(self, view: View) -> Floats:
        return -np.expm1(-self.tau * per_gpu(view, self.weights.reach)[:N_SLOTS])

    def _cost(self, availability: Floats) -> float:
        """Provisioned GPUs to come, discounted, as the weights predict them."""
        return self.offset - float(self.weight[:N_SLOTS] @ availability) / float(self.trained[:N_SLOTS].sum())

    def snapshot(self) -> Weights:
        """The present weights, to be saved."""
        return replace(self.weights, weight=tuple(self.weight.tolist()))
