"""What everything else is about: jobs, clusters, GPUs, plans, metrics, and the one error that users see."""
