"""Venus in September by virtual cluster, for those who have not the published log but its two copies.

One copy has every GPU job but no VC, and run times clamped at 48 h; the other has the 1,867 jobs of two VCs,
complete. So of the other jobs two things must be drawn before they can be simulated by VC. The way was fixed
before any schedule of it had been simulated, and has no parameter to turn:

* A clamped run time is drawn from the published distribution of Venus' run times above 48 h; what is above 48 h is
  then scaled so that the mean run time of the window is the published one (``MEAN_RUN_S``).
* Jobs of one gang size, submitted at most ``BATCH_GAP_S`` apart, are one user's batch and go to one VC ("batches");
  "jobs" draws every job alone instead.
* A batch goes to one of the other VCs that can hold it, so that expected GPU time follows the VCs' sizes ("jobs",
  "batches"), or their sizes times utilisations drawn from those measured in Earth's VCs ("unequal").
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces.calibrated import CLAMP_S, GPUS_PER_NODE, choose_vcs, duration_quantiles
from rltune.traces.folder import need, traces_folder
from rltune.traces.formats import read_trace
from rltune.traces.helios_statistics import VENUS
from rltune.traces.trace import Trace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BEGIN, END = "2020-09-01", "2020-09-26 23:59:00"
"""Window of the published simulations (HeliosArtifact, ``framework/QSSF Service/simulator.py``)."""
MEAN_RUN_S = 64_702 * (1 - 0.818)
"""Mean run time of the window's jobs: mean JCT less mean queueing under FIFO (Hu et al., SC'21, Table 3)."""
BATCH_GAP_S = 60.0
WAYS = ("jobs", "batches", "unequal")
ALL_JOBS = "helios_venus_2020/venus_jobs.csv.gz"
TWO_VCS = "helios_venus_2020/venus_2vc_sept_with_user_vc_state.csv.gz"
EARTH_VCS = "helios_earth_vc_series_2020_05/earth_vc_summary.csv"
REMEDY = "the published log and its copies: traces/README.md"


class Venus(NamedTuple):
    """What the copies say: ``known`` jobs of two VCs, complete; ``other`` jobs, without VC and clamped; Earth's ``spread``."""

    known: JobTable
    other: JobTable
    spread: Floats


def read_venus(folder: str | Path | None = None) -> Venus:
    """The copies; ``spread`` (n_vcs,) holds the mean GPU utilisation of each VC of Earth in May 2020.

    Both tables count seconds from ``BEGIN``. Raises MissingTrace (an InputError) where a file is absent.
    """
    where = traces_folder(folder)
    paths = [need(where, (name,), "helios by VC", REMEDY) for name in (ALL_JOBS, TWO_VCS, EARTH_VCS)]
    known = read_trace(paths[1], name="helios", source="real").jobs
    log = read_trace(paths[0], name="helios", source="real")
    window = log.between(BEGIN, f"{END}.5")  # half open, the published window is closed
    other = window.jobs.take(~np.isin(window.jobs.job_id, known.job_id))
    columns = {str(column): values.to_numpy() for column, values in other.to_frame().items()}
    assert log.origin is not None
    columns |= {"submit_s": other.submit_s - (datetime.fromisoformat(BEGIN) - log.origin).total_seconds()}
    spread = pd.read_csv(paths[2])["util"].to_numpy(np.float64)
    return Venus(known, JobTable.from_columns(columns, source="helios"), spread)


def rebuilt(venus: Venus, way: str, seed: int) -> Trace:
    """All jobs of the window with a VC each: the known ones as they are, the others drawn; see the module's text."""
    if way not in WAYS:
        raise InputError(f"way={way!r} is unknown; known are {', '.join(WAYS)}")
    rng = np.random.default_rng(seed)
    other = venus.other
    total_s = MEAN_RUN_S * (len(venus.known) + len(other)) - float(venus.known.duration_s.sum())
    duration_s, clamped = unclamped(other.duration_s, total_s, rng)
    names = [name for name in VENUS.vc_nodes if name not in venus.known.vc.names]
    gpus = np.array([VENUS.vc_nodes[name] for name in names], dtype=float) * GPUS_PER_NODE
    wanted = gpus * rng.choice(venus.spread, len(gpus), replace=False) if way == "unequal" else gpus
    batch = np.arange(len(other)) if way == "jobs" else batches(other.submit_s, other.num_gpus)
    gpu_seconds: Floats = np.bincount(batch, weights=other.num_gpus * duration_s).astype(np.float64)
    first = np.unique(batch, return_index=True)[1]
    vc = choose_vcs(other.num_gpus[first].astype(np.int64), gpu_seconds, gpus, wanted, rng)[batch]
    drawn = other.to_frame()[["job_id", "submit_s", "num_gpus"]].assign(duration_s=duration_s, vc=np.array(names)[vc])
    frame = pd.concat([venus.known.to_frame()[[*drawn.columns]], drawn])
    return Trace.of(
        JobTable.from_columns({str(c): frame[c].to_numpy() for c in frame}, source="helios by VC"),
        name="helios by VC",
        source="calibrated",
        label=f"Helios Venus, September, VCs drawn ({way}, seed {seed})",
        notes=(
            f"{len(venus.known)} jobs of {len(venus.known.vc.names)} VCs as recorded",
            f"the VC of {len(other)} jobs drawn ({way})",
            f"{clamped} run times of 48 h drawn from the published tail",
        ),
    )


def unclamped(duration_s: Floats, total_s: float, rng: np.random.Generator) -> tuple[Floats, int]:
    """Run times with those at the clamp drawn from the published distribution above it; how many those are.

    ``total_s``: what all of them add up to; the drawn excess over the clamp is scaled accordingly.
    """
    cdf = np.array(VENUS.duration_cdf_pct) / 100
    above = np.interp(np.log2(CLAMP_S), np.arange(len(cdf)), cdf)
    at = np.flatnonzero(duration_s >= CLAMP_S)
    excess = duration_quantiles(VENUS, rng.uniform(above, 1.0, len(at))) - CLAMP_S
    out = duration_s.copy()
    out[at] = np.round(CLAMP_S + excess * max(0.0, total_s - duration_s.sum()) / excess.sum())
    return out, len(at)


def batches(submit_s: Floats, num_gpus: npt.NDArray[np.int32]) -> Ints:
    """(n_jobs,) batch of each job: jobs of one gang size, each at most ``BATCH_GAP_S`` after the one before."""
    order = np.lexsort((submit_s, num_gpus))
    opens = np.ones(len(order), bool)
    opens[1:] = (np.diff(num_gpus[order]) != 0) | (np.diff(submit_s[order]) > BATCH_GAP_S)
    batch = np.empty(len(order), np.int64)
    batch[order] = np.cumsum(opens) - 1
    return batch
