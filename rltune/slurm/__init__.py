"""Beside a running Slurm: its queue is read, a policy and an allocator decide, and as much is done as was allowed."""
