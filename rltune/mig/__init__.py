"""MIG planning: geometry of a GPU, batches of tasks on few GPUs, tenants on a fleet."""
