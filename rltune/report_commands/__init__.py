"""The command behind ``python -m rltune.report``: scenes that are run, or run directories that are there, as one page."""
