"""A stretch of a trace through the live service, faster than time, on simulated A100s with MIG, with real processes: `make live`."""
