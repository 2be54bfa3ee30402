"""The scripts behind experiments/: what they rest on must still be there."""

from __future__ import annotations

import ast
import builtins
import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


def called_at_the_end(script: Path) -> set[str]:
    """Names that ``if __name__ == "__main__":`` reads and does not bind itself."""
    names = [
        name
        for part in ast.parse(script.read_text()).body
        if isinstance(part, ast.If) and "__main__" in ast.unparse(part.test)
        for name in ast.walk(part)
        if isinstance(name, ast.Name)
    ]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - bound - set(dir(builtins)) - {"__name__"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_find_what_they_import(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function moved in the package would leave a published figure without its command."""
    # A script finds those beside it.
    monkeypatch.syspath_prepend(str(script.parent))
    names = runpy.run_path(str(script), run_name="imported")
    missing = called_at_the_end(script) - set(names)
    assert not missing, f"the script calls {sorted(missing)}, which is not there"
