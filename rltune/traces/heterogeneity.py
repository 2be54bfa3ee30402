"""Measured throughputs by GPU type, from files beside the traces.

Gavel (Narayanan et al., OSDI 2020) and Shockwave (Zheng et al., NSDI 2023) publish one JSON format: steps/s by GPU type
(K80, P100, V100; ``_unconsolidated``: spread over nodes), job type and gang size; ``null`` is the job alone. Their V100s on one
node are up to five times as fast with 8 GPUs as with 4 (another machine), which is kept as published. Sia
(Jayaram Subramanya et al., SOSP 2023) publishes step times of one GPU; of its clusters aws is T4 and dgx A100, quad and
rtx are types no cluster here has, and azure is left out: it is unidentified, and partly a rescaled copy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.throughput import Throughput
from rltune.traces.folder import find, need, traces_folder
from rltune.traces.table import decode, parse_json, read_bytes

GAVEL_TYPES = {"K80": "k80", "P100": "p100", "V100": "v100"}
SIA_TYPES = {"T4": "placements-aws", "A100": "placements-dgx"}
FILES = {
    "gavel": "gpu_heterogeneity/gavel_simulation_throughputs.json.gz",
    "gavel_physical": "gpu_heterogeneity/gavel_physical_cluster_throughputs.json.gz",
    "shockwave": "gpu_heterogeneity/shockwave_tacc_throughputs.json.gz",
    "sia": "gpu_heterogeneity/sia_1gpu_samples_per_s.csv",
}
REMEDY = "get it from its publisher, or use throughput=published (medians of Gavel's table)"


A100_OVER_V100: dict[str, dict[int, float]] = {
    "A3C": {0: 1.05},
    "CycleGAN": {0: 2.2},
    "LM": {5: 1.15, 10: 1.2, 20: 1.3, 40: 1.5, 80: 1.7},
    "Recommendation": {0: 1.1},
    "ResNet-18": {16: 1.1, 32: 1.25, 64: 1.5, 128: 1.8, 256: 2.0},
    "ResNet-50": {16: 1.4, 32: 1.7, 64: 2.1, 128: 2.4},
    "Transformer": {16: 1.2, 32: 1.5, 64: 1.9, 128: 2.3, 256: 2.5},
}
"""How many times as fast as on a V100 jobs run on an A100, by model and batch size (0: any). An assumption: Gavel had no A100;
the range, 1.05 to 2.5, is that of the vendor's figures for training, and small batches gain less."""
CLASS = re.compile(r"([^ ]+)(?: \(batch size (\d+)\))?")


def load_throughput(
    name: str,
    reference: str | None = None,
    missing: str = "refuse",
    draw: int | None = None,
    folder: str | Path | None = None,
) -> Throughput:
    """A table of ``FILES`` by name. ``reference``: type of jobs that name none; default V100, for sia T4.

    ``missing, draw``: see `Throughput`.

    Raises InputError for an unknown name, MissingTrace for an absent file.
    """
    if name not in FILES:
        raise InputError(f"throughput {name!r} is unknown; known are none, published, {', '.join(FILES)}")
    path = need(traces_folder(folder), (FILES[name],), f"throughput {name}", REMEDY)
    types, rates = _sia(path) if name == "sia" else _gavel(path)
    classes = tuple(sorted({job for job, _, _, _ in rates}))
    scales = tuple(sorted({scale for _, scale, _, _ in rates}))
    rate = np.full((len(classes), len(scales), 2, len(types)), np.nan)
    for (job, scale, spread, gpu), value in rates.items():
        rate[classes.index(job), scales.index(scale), spread, types.index(gpu)] = value
    if missing == "assumed":
        types, rate = _with_a100(name, types, classes, rate)
    reference = reference or ("T4" if name == "sia" else "V100")
    return Throughput(name, types, classes, scales, rate, reference, missing, draw)


def _with_a100(
    name: str, types: tuple[str, ...], classes: tuple[str, ...], rate: npt.NDArray[np.float64]
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """The table with a column for A100s, as assumed."""
    if "V100" not in types or "A100" in types:
        raise InputError(f"throughput {name}: missing=assumed goes with tables of V100s without A100s, such as gavel")
    times = []
    for each in classes:
        found = CLASS.fullmatch(each)
        of_model = A100_OVER_V100.get(found[1], {}) if found else {}
        size = int(found[2] or 0) if found else 0
        if not of_model:
            raise InputError(f"throughput {name}: nothing is assumed of class {each!r}; use missing=flops")
        times.append(of_model.get(size, of_model[min(of_model, key=lambda x: abs(x - size))]))
    more = rate[..., types.index("V100")] * np.array(times)[:, None, None]
    return (*types, "A100"), np.concatenate([rate, more[..., None]], axis=-1)


MADE_UP, MADE_UP_SEED = 26, 20200901
"""How many classes are made up where Gavel's table is absent, and the seed of their speeds."""
SPREAD = {"K80": (0.1, 0.45), "P100": (0.55, 1.1), "V100": (1.0, 1.0), "A100": (1.05, 2.5)}
"""Least and most speed of a made-up class over that on a V100: the middle four fifths, nearly, of Gavel's classes, and what is assumed
of A100s."""


def job_classes(draw: int | None = 0, folder: str | Path | None = None) -> Throughput:
    """Classes for jobs that name none, drawn by a seed: Gavel's where its table lies beside the traces, else made-up ones.

    The name of the table says which. A100s are as assumed in both.
    """
    if find(traces_folder(folder), (FILES["gavel"],)) is not None:
        return load_throughput("gavel", missing="assumed", draw=draw, folder=folder)
    rng = np.random.default_rng(MADE_UP_SEED)
    rate = np.full((MADE_UP, 1, 2, len(SPREAD)), np.nan)
    for k, (low, high) in enumerate(SPREAD.values()):
        rate[:, 0, 0, k] = rng.uniform(low, high, MADE_UP)
    names = tuple(f"made-up class {k}" for k in range(MADE_UP))
    return Throughput("made-up classes", tuple(SPREAD), names, (1,), rate, draw=draw)


def throughput_of(node: Mapping[str, Any]) -> Throughput | None:
    """Speeds by GPU type from the options of a table: ``name`` (none: equal speeds), ``reference``, ``missing``."""
    if node["name"] == "none":
        return None
    if node["name"] == "classes":
        return job_classes(node.get("draw", 0))
    if node["name"] == "published" and node.get("draw") is not None:
        raise InputError(
            "throughput published is one class: throughput.draw goes with a table of several, such as gavel"
        )
    if node["name"] != "published":
        return load_throughput(**node)
    return Throughput.published(**{key: value for key, value in node.items() if key != "name" and value is not None})


Rates = dict[tuple[str, int, int, str], float]
"""(class, GPUs, 1 if spread over nodes, GPU type) -> throughput."""


def _gavel(path: Path) -> tuple[tuple[str, ...], Rates]:
    """Steps/s; 0 or no number means that the job did not run there, which is no measurement."""
    rates: Rates = {}
    try:
        tables = parse_json(decode(read_bytes(path), path.name), path.name)
        for gpu, column in GAVEL_TYPES.items():
            for spread, suffix in enumerate(("", "_unconsolidated")):
                for key, row in tables[column + suffix].items():
                    job, scale = ast.literal_eval(key)
                    if row["null"]:
                        rates[str(job), int(scale), spread, gpu] = float(row["null"])
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(f"{path.name}: no table of throughputs as Gavel publishes them ({error!r})") from None
    return tuple(GAVEL_TYPES), rates


def _sia(path: Path) -> tuple[tuple[str, ...], Rates]:
    """Samples/s of one GPU by application and batch size."""
    table = pd.read_csv(path)
    if missing := {"app", "local_bsz", *SIA_TYPES.values()} - set(table):
        raise InputError(f"{path.name}: column {', '.join(sorted(missing))} is missing")
    rates: Rates = {}
    for gpu, column in SIA_TYPES.items():
        values: npt.NDArray[np.float64] = table[column].to_numpy(np.float64)
        for app, size, value in zip(table["app"], table["local_bsz"], values, strict=True):
            if value > 0:
                rates[f"{app} (batch size {size:.0f})", 1, 0, gpu] = float(value)
    return tuple(SIA_TYPES), rates
