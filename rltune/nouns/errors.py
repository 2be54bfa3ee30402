"""The one error a user can cause: bad input, reported in one line."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message names the place (file, row, option) and the remedy in one line.

    Entry points print it to standard error and exit with status 2; a notebook
    sees an ordinary ``ValueError``.
    """
