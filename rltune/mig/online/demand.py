"""What tenants asked for lately: the decayed mix of kinds, from which policies look ahead."""

from __future__ import annotations

import numpy as np

from rltune.mig.online.states import VALUED, Floats


class Demand:
    """Share of each valued kind among requests, older ones forgotten by half every ``half_life`` requests.

    Begins with ``prior`` requests spread evenly over the kinds a fleet can serve, so that the first answers are no
    accident of the first tenants.
    """

    def __init__(self, kinds: tuple[str, ...], half_life: float, prior: float = 10.0) -> None:
        self.keep = 0.5 ** (1.0 / half_life)
        served = np.array([kind in kinds for kind in VALUED], float)
        self.weight = prior * served / served.sum()

    def asked(self, kind: str) -> None:
        """Count a request; one with the media engines counts as its plain kind."""
        self.weight *= self.keep
        plain = kind.removesuffix("+me")
        if plain in VALUED:
            self.weight[VALUED.index(plain)] += 1.0

    def mix(self) -> Floats:
        """(len(VALUED),) shares that sum to 1."""
        return self.weight / self.weight.sum()
