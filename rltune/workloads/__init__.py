"""Small real tasks to run on GPUs, or on the CPU where there is none: ``python -m rltune.workloads NAME``."""
