"""Experiments on held-back jobs: a checked configuration becomes stretches, clusters and rules; evaluation; where policies come from."""
