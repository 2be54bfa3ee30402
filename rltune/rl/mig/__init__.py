"""A learned planner for batches of moldable tasks on one MIG GPU: environment, network, PPO, play."""
