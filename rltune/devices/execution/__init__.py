"""Real tasks on the instances of a plan: the list of tasks, their processes, the way through a plan, measuring."""
