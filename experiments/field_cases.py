"""What people meet in the field, before and after: each kind run on this version and on an earlier one.

    git worktree add /tmp/before 282b360
    python experiments/field_cases.py logs --before /tmp/before [--cases ../shared/cases]

A section is run by its name and takes the place of its own rows in field_cases.json, so that sections can be run apart;
field_cases.md is written from that file. A row: what was given to either version, what each made of it (measured, in a
process of its own with a limit on time and memory), the test that holds it, and whether the expected came out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from field_logs import Case, all_cases

HERE = Path(__file__).parents[1]
RESULTS = HERE / "experiments" / "results"
LIMIT_S, LIMIT_BYTES = 120, 12 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="+", choices=[*SECTIONS])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier version")
    parser.add_argument("--cases", type=Path, default=HERE.parent / "shared" / "cases")
    options = parser.parse_args()
    for name in options.sections:
        section = SECTIONS[name]
        merge(section.run(options.before.resolve(), options.cases.resolve()), section.kinds)


def merge(found: Mapping[str, Any], kinds: str) -> None:
    """Put a section's rows in the place of those whose kind matches ``kinds``, and its counts beside the others'."""
    path = RESULTS / "field_cases.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "kills": {}, "journals": {}}
    others = [row for row in kept["rows"] if not re.match(kinds, row["kind"])]
    kept["rows"] = sorted([*others, *found["rows"]], key=lambda row: row["kind"])
    for part in ("kills", "journals"):
        kept[part] |= found.get(part, {})
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(table(kept))


def table(found: Mapping[str, Any]) -> str:
    """The rows as Markdown, and the counts."""
    lines = [
        "# Faults that people in the field meet", "",
        "Made by `experiments/field_cases.py`; before is version 282b360.", "",
        "| kind | before | after | test | as expected |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        words = [row["kind"], row["before"], row["after"], row["test"], "yes" if row["ok"] else "**no**"]
        lines.append("| " + " | ".join(word.replace("|", "\\|").replace("\n", "<br>") for word in words) + " |")
    for part in ("kills", "journals"):
        if found[part]:
            told = [f"{name.replace('_', ' ')} {count:,}" for name, count in found[part].items()]
            lines += ["", f"{part.capitalize()}: {', '.join(told)}."]
    return "\n".join(lines) + "\n"


def outcome(tree: Path, given: list[str], folder: Path) -> str:
    """What a version makes of a command: its output, or the last line of its complaint."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    try:
        done = subprocess.run(
            [sys.executable, *given], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES)), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer in {LIMIT_S} s"
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["nothing"]
    if done.returncode == 0:
        # Of a simulation or comparison only where it lies.
        return "\n".join(lines[-1:] if "rltune.simulate" in given else lines[-8:])[:600]
    refused = done.returncode == 2 or "InputError" in lines[-1]
    return ("refused: " if refused else "fails: ") + lines[-1].rpartition("InputError: ")[2].removeprefix("error: ")[
        :300
    ]


def logs(before: Path, cases: Path) -> dict[str, Any]:
    """Logs read wrongly, and files that hang or kill their reader."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = []
        for case in all_cases(cases, folder):
            told = [outcome(tree, case.given, folder) for tree in (before, HERE)]
            rows.append(row_of(case, told, (str(folder), str(cases))))
            print("ok " if rows[-1]["ok"] else "NOT", case.kind, flush=True)
    return {"rows": rows}


def row_of(case: Case, told: list[str], places: tuple[str, ...]) -> dict[str, Any]:
    """A row without places of this machine."""
    for place in places:
        told = [text.replace(f"{place}/", "") for text in told]
    told = [re.sub(r"-\d{4}-\d{6}\b", "", text) for text in told]
    ok = re.search(case.expected, told[1], re.DOTALL) is not None
    return {"kind": case.kind, "before": told[0], "after": told[1], "test": case.test, "ok": ok}


class Section(NamedTuple):
    """``kinds``: what its rows' kinds begin with; ``run(before, cases)`` gives rows, and counts if it has some."""

    kinds: str
    run: Callable[[Path, Path], dict[str, Any]]


SECTIONS = {"logs": Section(r"A\d |D files: ", logs)}


if __name__ == "__main__":
    main()
