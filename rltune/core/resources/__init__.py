"""What is free on a cluster, and the verbs that find, take and give back: counts of whole GPUs, or GPUs by node."""
