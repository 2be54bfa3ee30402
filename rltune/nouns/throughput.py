"""How fast a job runs on which GPU type, from measured throughputs.

A job's recorded run time belongs to the GPU type that it names; where it names none or several, to ``reference``. On a
pool of another type it runs ``duration_s / speed``, speed being the ratio of the two throughputs of its class: the
class that bears the job's name, else the median over the classes of its family, else over all classes. All three, and
whatever else had to be assumed, are counted in the notes.

Throughputs differ by gang size, and by whether a gang stands on one node; both are looked up as the pool would have it,
for both types alike, or as near to it as was measured. So a speed compares GPU types; what spreading over nodes costs
on one type is not in it. But a measurement of a spread gang is one of its network too: Gavel's V100s, fastest on one
node, are slower than its P100s over several.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import gpu_type
from rltune.nouns.jobs import NONE, JobTable

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MISSING = ("refuse", "flops", "one", "assumed")
"""What to do with a type without measurement: refuse it, scale by peak FLOPS, take it as equally fast, or as assumed by
class of job (`rltune.traces.heterogeneity.A100_OVER_V100`)."""
PEAK_TFLOPS = {
    "K80": 4.37, "M40": 6.84, "P100": 9.3, "T4": 8.1, "V100": 15.7, "A30": 10.3, "A100": 19.5, "H100": 66.9, "H200": 66.9,
}  # fmt: skip
"""Peak FP32 (no tensor cores) of one GPU at boost clock, vendor's data sheets: 2 x CUDA cores x clock.
K80: one of the board's two. P100: PCIe; V100, H100: SXM."""
SAME_CHIP = {
    "V100-32GB": "V100", "A100-40GB": "A100", "A100-80GB": "A100", "H100-80GB": "H100", "H200-141GB": "H200",
}  # fmt: skip
"""Types that differ in memory alone are equally fast."""
FAMILIES = {
    "recommendation": r"recommend|recsys|\bncf\b|recoder",
    "reinforcement learning": r"\ba3c\b|reinforce|\bdqn\b|\bppo\b",
    "transformer": r"transformer|bert|\bgpt|translation",
    "language model": r"\blm\b|lstm|\brnn\b|language.?model",
    "image translation": r"gan\b",
    "speech": r"speech",
    "detection": r"yolo|detection|rcnn",
    "image classification": r"resnet|vgg|inception|densenet|mobilenet|efficientnet|imagenet|cifar",
}
"""Family -> pattern of names, jobs' and classes' alike; the first that matches."""
PUBLISHED = {"K80": 1.0, "P100": 3.32, "V100": 4.05}
"""Medians over the 26 job types of Gavel (Narayanan et al., OSDI 2020) on one GPU, in units of a K80."""


Kind = tuple[tuple[str, IntArray], ...]
"""Where to look a job up: (how, rows of classes), most exact first."""


class Speeds(NamedTuple):
    """``speed`` (n_jobs, n_pools): NaN where the job may not use the pool; ``notes``: what was used how often."""

    speed: FloatArray
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Throughput:
    """A table of measured throughputs.

    Attributes:
        name: of the table, for messages.
        types, classes, scales: GPU types (chips, see ``SAME_CHIP``), job classes, gang sizes in GPUs.
        rate: (n_classes, n_scales, 2, n_types) throughput in any unit that one class shares, [..., 0, :] on one node,
            [..., 1, :] spread over nodes; NaN where not measured.
        reference: type of jobs that name none.
        missing: one of ``MISSING``.
        draw: seed by which jobs whose name tells no class are each given one: one in two that of their user. None: they get
            the median of all classes.
    """

    name: str
    types: tuple[str, ...]
    classes: tuple[str, ...]
    scales: tuple[int, ...]
    rate: FloatArray
    reference: str = "V100"
    missing: str = "refuse"
    draw: int | None = None

    def __post_init__(self) -> None:
        rate = np.array(self.rate, np.float64)
        shape = (len(self.classes), len(self.scales), 2, len(self.types))
        if rate.shape != shape:
            raise InputError(
                f"throughput {self.name}: rates have shape {rate.shape}; classes, scales, 2, types: {shape}"
            )
        if (rate <= 0).any() or np.isinf(rate).any():
            raise InputError(
                f"throughput {self.name}: a rate is not a positive number; give NaN where none is measured"
            )
        if self.missing not in MISSING:
            raise InputError(f"throughput {self.name}: missing={self.missing!r}; known are {', '.join(MISSING)}")
        gpu_type(self.reference)
        rate.setflags(write=False)
        object.__setattr__(self, "rate", rate)

    @classmethod
    def uniform(cls, reference: str = "V100") -> Throughput:
        """Every GPU type equally fast."""
        return cls("none", (), (), (), np.zeros((0, 0, 2, 0)), reference, "one")

    @classmethod
    def published(cls, reference: str = "V100", missing: str = "refuse") -> Throughput:
        """One class for all jobs, with the ratios of ``PUBLISHED``."""
        return cls.of_ratios(PUBLISHED, name="published", reference=reference, missing=missing)

    @classmethod
    def of_ratios(cls, ratios: Mapping[str, float], name: str = "ratios", **options: Any) -> Throughput:
        """One class for all jobs; ``ratios``: GPU type -> speed in any unit."""
        rate = np.full((1, 1, 2, len(ratios)), np.nan)
        rate[0, 0, 0] = list(ratios.values())
        return cls(name, tuple(ratios), ("any job",), (1,), rate, **options)

    def relative(self, scale: int = 1, spread: bool = False) -> FloatArray:
        """(n_classes, n_types) throughput over that of the reference type, for one measured gang size; NaN: unmeasured."""
        if chip(self.reference) not in self.types or scale not in self.scales:
            raise InputError(
                f"throughput {self.name}: {self.reference} on {scale} GPUs is not measured; "
                f"measured are {', '.join(self.types)} on {', '.join(map(str, self.scales))}"
            )
        rate = self.rate[:, self.scales.index(scale), int(spread)]
        return rate / rate[:, [self.types.index(chip(self.reference))]]

    def speed(self, jobs: JobTable, cluster: Cluster) -> FloatArray:
        """(n_jobs, n_pools) speed against the recorded run: `speeds` without its notes."""
        return self.speeds(jobs, cluster).speed

    def speeds(self, jobs: JobTable, cluster: Cluster, may_use: npt.NDArray[np.bool_] | None = None) -> Speeds:
        """Speed of every job on every pool that it may use, or of ``may_use`` (n_jobs, n_pools).

        Jobs without a GPU, and pools without a GPU type, have speed 1. Raises InputError naming the types that are
        not measured under ``missing="refuse"``, or whose FLOPS are unknown under "flops".
        """
        named = [recorded(name, self.reference) for name in jobs.gpu_type.names]
        # Code -1, absent, takes the last entry.
        own = [chip(name) for name in (*named, self.reference)]
        # The names of jobs, if classes are drawn those of all classes, and last, where code -1 leads, none.
        kinds, kind = self._kinds((*jobs.name.names, *(self.classes if self.draw is not None else ()), ""))
        rows = np.stack(
            [self._drawn(jobs, kinds, kind[jobs.name.codes]), jobs.gpu_type.codes, jobs.num_gpus, jobs.gpu_milli == 0],
            axis=1,
        )
        unique, inverse = np.unique(rows, axis=0, return_inverse=True)
        may_use = usable(jobs, cluster) if may_use is None else may_use
        counts, absent = Counter[str](), set[str]()
        speed = np.full((len(jobs), len(cluster.pools)), np.nan)
        of_row = np.argsort(inverse.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(inverse.reshape(-1), minlength=len(unique)))
        for (k, recorded_type, gpus, without), mine in zip(unique, np.split(of_row, ends[:-1]), strict=True):
            for p, pool in enumerate(cluster.pools):
                users = mine[may_use[mine, p]]
                if not len(users):
                    continue
                value, how = 1.0, "on no GPU"
                if not without:
                    spread = int(gpus) > pool.gpus_per_node
                    value, how = self._ratio(kinds[k], int(gpus), spread, own[recorded_type], pool.gpu_type)
                if np.isnan(value):
                    absent |= self._unknown(own[recorded_type], chip(pool.gpu_type))
                speed[users, p] = value
                counts[how] += len(users)
        if absent:
            raise InputError(self._remedy(absent))
        several = [code for code, name in enumerate(jobs.gpu_type.names) if "|" in name]
        untyped = int(np.isin(jobs.gpu_type.codes, [NONE, *several]).sum())
        notes = [
            f"throughput {self.name}: {count} pairs of job and pool {how}" for how, count in sorted(counts.items())
        ]
        if untyped:
            notes.append(
                f"throughput {self.name}: {untyped} jobs that name no single GPU type taken as {self.reference}"
            )
        return Speeds(speed, tuple(notes))

    def _kinds(self, names: Sequence[str]) -> tuple[list[Kind], IntArray]:
        """The kinds of these names, and (n_names,) which of them each name is."""
        of_class = {name.casefold(): c for c, name in enumerate(self.classes)}
        families = np.array([family(name) or "" for name in self.classes], dtype=object)
        every = np.arange(len(self.classes))
        found: dict[tuple[int, str], int] = {}
        kinds: list[Kind] = []
        codes = np.empty(len(names), np.int64)
        for i, name in enumerate(names):
            key = (of_class.get(name.strip().casefold(), -1), family(name) or "")
            if key not in found:
                found[key] = len(kinds)
                akin = every[(families == key[1]) & (key[1] != "")]
                last = ("by the median of all classes", every)
                kinds.append((("by class", every[every == key[0]]), (f"by family ({key[1]})", akin), last))
            codes[i] = found[key]
        return kinds, codes

    def _drawn(self, jobs: JobTable, kinds: list[Kind], kind: IntArray) -> IntArray:
        """(n_jobs,) the kind of each job, where those that tell none are given one if that is asked for."""
        if self.draw is None:
            return kind
        rng, n = np.random.default_rng(self.draw), len(jobs)
        own_class, of_user = rng.integers(len(self.classes), size=n), rng.random(n) < 0.5
        users = rng.integers(len(self.classes), size=len(jobs.user.names) + 1)[jobs.user.codes]
        row_of = {int(rows[0]): k for k, each in enumerate(kinds) for how, rows in each[:1] if len(rows) == 1}
        named = np.array([len(each[0][1]) or len(each[1][1]) for each in kinds]) > 0
        given = np.array([row_of[c] for c in range(len(self.classes))])[np.where(of_user, users, own_class)]
        return np.where(named[kind], kind, given)

    def _ratio(self, kind: Kind, gpus: int, spread: bool, own: str, pool_type: str) -> tuple[float, str]:
        """Speed on ``pool_type`` against ``own``, and how it was found; NaN where it must be refused."""
        other = chip(pool_type)
        if pool_type == "any":
            return 1.0, "on pools without a GPU type"
        if other == own:
            return 1.0, "on the recorded type"
        if other in self.types and own in self.types:
            a, b = self.types.index(other), self.types.index(own)
            for how, rows in kind:
                for s in self._nearest(gpus):
                    for side in (int(spread), 1 - int(spread)):
                        ratios = self.rate[rows, s, side, a] / self.rate[rows, s, side, b]
                        if np.isfinite(ratios).any():
                            return float(np.nanmedian(ratios)), how
        if self.missing == "one":
            return 1.0, "without measurement: equally fast"
        if self.missing == "flops" and other in PEAK_TFLOPS and own in PEAK_TFLOPS:
            return PEAK_TFLOPS[other] / PEAK_TFLOPS[own], "without measurement: by peak FLOPS"
        return float("nan"), "refused"

    def _nearest(self, gpus: int) -> list[int]:
        """Positions in ``scales``: the largest that is not above ``gpus``, then smaller ones, then larger ones."""
        return sorted(range(len(self.scales)), key=lambda s: (self.scales[s] > gpus, abs(self.scales[s] - gpus)))

    def _unknown(self, own: str, other: str) -> set[str]:
        """Which of two types is to blame; both, if only the pair is not measured."""
        known = self.types if self.missing == "refuse" else tuple(PEAK_TFLOPS)
        return {gpu for gpu in (own, other) if gpu not in known} or {f"{own} beside {other}"}

    def _remedy(self, absent: set[str]) -> str:
        types = ", ".join(sorted(absent))
        if self.missing == "flops":
            return f"throughput {self.name}: neither throughput nor peak FLOPS of {types} are known; use missing=one"
        return (
            f"throughput {self.name}: no measurement of {types}; measured are {', '.join(self.types)}; "
            "use missing=flops to scale by peak FLOPS, or missing=one to take them as equally fast"
        )


def chip(gpu: str) -> str:
    """The type as far as speed goes."""
    return SAME_CHIP.get(gpu, gpu)


def recorded(gpu: str, reference: str) -> str:
    """The type a job ran on: the one it names, or ``reference`` where it accepts several."""
    return reference if "|" in gpu else gpu


def family(name: str) -> str | None:
    """The family whose pattern is in a job's or a class's name; None without one."""
    return next((group for group, pattern in FAMILIES.items() if re.search(pattern, name, re.IGNORECASE)), None)


def usable(jobs: JobTable, cluster: Cluster) -> npt.NDArray[np.bool_]:
    """(n_jobs, n_pools) whether the job may use the pool."""
    classes = eligibility(jobs, cluster)
    mask = np.zeros((len(classes.ptr) - 1, len(cluster.pools)), bool)
    for c in range(len(mask)):
        mask[c, classes.pools[classes.ptr[c] : classes.ptr[c + 1]]] = True
    out: npt.NDArray[np.bool_] = mask[classes.cls]
    return out
