"""The speed figures: `python -m rltune.bench`, and the cases that it measures."""
