"""Orders whose key changes while a job waits: one compiled formula each, used by kernels and Python alike.

WFP3 and UNICEF: Tang, Desai, Buettner, Lan, "Fault-aware, utility-based job
scheduling on Blue Gene/P systems", CLUSTER 2009. Shortest/largest expansion
((wait + run) / GPUs, as RLTune names it): arXiv 2512.10271. Smaller keys go first.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import compiled, inner

STATIC = 0
WFP3 = 1
UNICEF = 2
SEXP = 3
LEXP = 4
CODES = {"wfp3": WFP3, "unicef": UNICEF, "sexp": SEXP, "lexp": LEXP}


@inner
def dynamic_key(order, wait, run, gpus):
    """Key of one job: ``wait`` and ``run`` in seconds; run times below 1 s count as 1 s (no division by zero)."""
    run = max(run, 1.0)
    if order == WFP3:
        return -((wait / run) ** 3) * gpus
    if order == UNICEF:
        # log2(1) = 0 would divide by zero: a single GPU counts as log2(2), as in the deep-batch-scheduler codes.
        return -wait / (np.log2(max(gpus, 2)) * run)
    if order == SEXP:
        return (wait + run) / gpus
    return -(wait + run) / gpus


@compiled
def dynamic_keys(order, wait, run, gpus):
    """(n,) keys for arrays of the same shape."""
    out = np.empty(len(wait))
    for i in range(len(wait)):
        out[i] = dynamic_key(order, wait[i], run[i], gpus[i])
    return out
