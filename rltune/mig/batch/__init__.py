"""Batches of moldable tasks on one or a few MIG GPUs: who runs on which instance, and when instances come and go."""
