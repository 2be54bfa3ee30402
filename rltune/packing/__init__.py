"""Filling a cluster that no job leaves: one by one, in batches, and what no order can beat."""
