"""The commands of `python -m rltune.devices`, one file each; `main` hands over."""
