"""What ``python -m rltune.mig <command>`` runs."""
