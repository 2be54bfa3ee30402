"""One state machine for simulation, training and decisions: jobs arrive, wait, run and end on GPUs.

Two builds of the same source, chosen when kernels are compiled by the type of `rltune.core.state.Sim`'s parts:
*lean* (counts of whole GPUs, uninterrupted runs, one speed, no failures) and *full* (GPUs by node, shares, MIG
slices, CPU and memory, suspension, failures, unlike speeds, quotas, capacity over time).
"""
