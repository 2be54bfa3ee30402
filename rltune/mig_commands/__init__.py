"""Commands of ``python -m rltune.mig``: short mains, from options to a run directory."""
