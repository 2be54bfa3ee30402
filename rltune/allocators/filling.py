"""Filling an empty cluster one job after the other: the protocol of the fragmentation experiments.

Weng et al., USENIX ATC'23, section 6: jobs are placed in the order given, nobody leaves, and what does not fit is
rejected. Reported is what is allocated, and what of the free GPUs is of no use, against what was requested so far.
"""

from __future__ import annotations

from rltune.allocators.sharing import find, take
from rltune.compiled import kernel


@kernel
def fill(cluster, room, demand, cls, ptr, pools, order, draws, rule, work, allocated):
    """Place the jobs ``order`` (n,) in turn; ``allocated`` (n,) gets the thousandths of GPUs held after each.

    ``cls, ptr, pools``: an `rltune.cluster.Eligibility`; ``draws`` (n,) uint64.
    """
    held = 0
    for at in range(len(order)):
        job = order[at]
        c = cls[job]
        m = find(cluster, room, demand, job, pools, ptr[c], ptr[c + 1], rule, draws[at], work)
        if m > 0:
            take(cluster, room, demand, job, work.node, work.grant, 0, m, -1)
            held += demand.gpus[job] * demand.milli[job]
        allocated[at] = held
