"""GPUs as their driver sees them: inventory, MIG instances as transactions, tasks run on them.

`driver` is the one interface; `nvml` (the only NVML import) and `simulated` implement it.
"""
