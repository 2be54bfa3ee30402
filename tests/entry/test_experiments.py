"""The scripts behind experiments/: what they rest on must still be there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_find_what_they_import(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function moved in the package would leave a published figure without its command."""
    # A script finds those beside it.
    monkeypatch.syspath_prepend(str(script.parent))
    names = runpy.run_path(str(script), run_name="imported")
    assert "main" in names or "__main__" not in script.read_text(), "a script calls a main that is not there"
