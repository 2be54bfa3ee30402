"""Every notebook of the documentation runs, and prints what the site shows beside it."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_print_what_the_site_shows(notebook: Path) -> None:
    """A reader who runs a notebook would see an error, or other figures than the page; NAME.txt holds what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(notebook))
    assert printed.getvalue() == notebook.with_suffix(".txt").read_text()
