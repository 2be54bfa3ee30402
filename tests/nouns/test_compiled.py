"""Machine code on disk must not outlive the sources it was compiled from."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

from rltune.compiled import PACKAGE

BOUNDED_SLOWDOWN = """
from rltune.rl.kernels import BSLD, job_cost
print(job_cost(BSLD, 99.0, 1.0), sum(job_cost.stats.cache_hits.values()))
"""


def test_a_changed_constant_of_another_module_is_compiled_in(tmp_path: Path) -> None:
    """After an update old machine code would run with the new one, and write past the ends of changed arrays."""
    copy = tmp_path / "rltune"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").symlink_to(PACKAGE.parent / "conf")

    def run() -> list[str]:
        command = [sys.executable, "-c", BOUNDED_SLOWDOWN]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run() == ["10.0", "0"]
    assert run() == ["10.0", "1"]  # from disk
    metrics = copy / "metrics.py"
    text = metrics.read_text()
    assert text.count("BOUND_S = 10.0") == 1
    metrics.write_text(text.replace("BOUND_S = 10.0", "BOUND_S = 20.0"))
    assert run() == ["5.0", "0"]


def decorators(function: ast.FunctionDef) -> set[str]:
    return {name.id for name in function.decorator_list if isinstance(name, ast.Name)}


def python_names(tree: ast.AST) -> set[str]:
    """Names that a module uses outside compiled functions and imports."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef) and decorators(child) & {"kernel", "inner", "compiled"}:
            continue
        if isinstance(child, ast.Name):
            found.add(child.id)
        elif isinstance(child, ast.Attribute):
            found.add(child.attr)
        found |= python_names(child)
    return found


def known_names(tree: ast.Module, module: str) -> dict[str, tuple[str, str]]:
    """Name in a module -> (module, name) of the function of ours that it stands for."""
    names = {f.name: (module, f.name) for f in tree.body if isinstance(f, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names


def test_inner_kernels_are_called_by_kernels_only() -> None:
    """A kernel without its wrapper for Python, called from Python, would crash the interpreter without a word."""
    root = PACKAGE.parent
    paths = [path for folder in ("rltune", "tests", "experiments") for path in (root / folder).rglob("*.py")]
    modules = {".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text()) for path in paths}
    inner = {
        (name, f.name)
        for name, tree in modules.items()
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and "inner" in decorators(f)
    }
    assert len(inner) > 50
    wrong = [
        (name, used)
        for name, tree in modules.items()
        for used in python_names(tree)
        if known_names(tree, name).get(used) in inner
    ]
    assert wrong == []
