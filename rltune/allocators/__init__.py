"""Allocators: what of the ordered queue starts now, and on which nodes.

Nothing is imported here: Pyomo and HiGHS load only with `rltune.allocators.milp`.
"""
