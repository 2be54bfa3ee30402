"""Beside Kubernetes: which pods start next and on which nodes, as a Kueue admission check and by scheduling gates."""
