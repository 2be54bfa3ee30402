"""The detailed simulation: shares, CPU and memory, unlike speeds, suspension, time slicing, failures, changing clusters.

`rltune.simulator.disciplines` runs whole GPUs without interruptions, ten times faster; where both apply, a property
test holds them to the same schedules.
"""
