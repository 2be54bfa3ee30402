"""The size of the house, beside an earlier version: ``python experiments/house.py``. Writes results/house.md.

Lines and modules of the package, functions of more than eight parameters (self not counted), the longest function, loose
modules at the top, and where each idea of the core stands.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from rltune.bench.versions import BASE, ROOT, checkout

OUT = Path(__file__).resolve().parent / "results" / "house.md"
MOST = 8
IDEAS = {
    "EASY: a reservation by expected ends": ("def reserve(", "def reserve_beside("),
    # Where a job's place beside a reservation is decided; what calls another's pass is not counted.
    "EASY: the pass around a reservation": (
        "def pass_around(",
        "def find_around(",
        "def start_easy(sim, rule",
        "def start_easy(fleet, ",
        "def start_around(fleet, ",
        "both = space_of(cluster, np.minimum(",
    ),
    "one pass in order, starting what fits": ("def start_what_fits(", "def start_in_order(sim, stops"),
    "sorting the queue": ("def sort_by_key(", "def sort_queue(sim, order)"),
    "the heap of running jobs": ("def next_in_order(",),
    "a state of the simulation (who holds what)": ("    alloc_len: ",),
    "taking in the events of an instant": (
        "def take_in(sim",
        "def take_in(fleet",
        'def advance(sim):\n    """Go to the next instant with an event',
    ),
}
"""An idea, and how its definitions begin."""


def parameters(function: ast.FunctionDef) -> int:
    """How many, without self or cls."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len(named) - (1 if named and named[0].arg in ("self", "cls") else 0)


def measure(root: Path) -> dict[str, Any]:
    """The figures of one version."""
    files = sorted((root / "rltune").rglob("*.py"))
    texts = {file: file.read_text() for file in files}
    functions = [
        node for text in texts.values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
    ]
    found = {
        "lines": sum(len(text.splitlines()) for text in texts.values()),
        "modules": len(files),
        "functions": len(functions),
        f"functions of more than {MOST} parameters": sum(parameters(f) > MOST for f in functions),
        "longest function, lines": max((f.end_lineno or 0) - f.lineno + 1 for f in functions),
        "loose modules at the top": sum(f.parent == root / "rltune" and f.name != "__init__.py" for f in files),
    }
    for idea, begins in IDEAS.items():
        found[f"places: {idea}"] = sum(text.count(begin) for text in texts.values() for begin in begins)
    return found


def main() -> None:
    with checkout(BASE) as earlier:
        before, now = measure(earlier), measure(ROOT)
    lines = [
        f"# The house beside {BASE}",
        "",
        "`python experiments/house.py`",
        "",
        f"| | {BASE} | now |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {before[name]:,} | {now[name]:,} |" for name in now]
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
